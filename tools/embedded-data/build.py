#!/usr/bin/env python3
"""Writes the Fashion-MNIST subset that `oncefit-data` embeds.

Run from the root of the repository, with the Debian package `dataset-fashion-mnist` installed:

    python3 tools/embedded-data/build.py [SOURCE_FOLDER [TARGET_FOLDER]]

The first 800 training and the first 200 test images of each class, in file order, as gzip IDX
files of level 9 without time or name. Needs Python's standard library only. The compressed bytes
may differ between versions of zlib; the tests of `oncefit-data` compare the decompressed ones.
"""

import gzip
import struct
import sys
from pathlib import Path

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).resolve().parents[2] / "crates/oncefit-data/embedded"
PER_CLASS = {"train": 800, "t10k": 200}


def read_idx(path, dimensions):
    """The extents and the bytes of a gzip IDX file."""
    content = gzip.decompress(path.read_bytes())
    header = 4 + 4 * dimensions
    magic, *extents = struct.unpack(f">{1 + dimensions}I", content[:header])
    if magic != 0x800 | dimensions:
        sys.exit(f"{path}: expected the magic number {0x800 | dimensions:#x}, found {magic:#x}")
    return extents, content[header:]


def write_idx(path, extents, content):
    """Writes a gzip IDX file."""
    header = struct.pack(f">{1 + len(extents)}I", 0x800 | len(extents), *extents)
    path.write_bytes(gzip.compress(header + content, compresslevel=9, mtime=0))
    print(f"{path.name}: {'x'.join(map(str, extents))}, {path.stat().st_size:,} bytes")


def first_per_class(labels, count):
    """Indices of the first `count` images of each class, in file order."""
    seen = [0] * 256
    indices = []
    for index, label in enumerate(labels):
        if seen[label] < count:
            seen[label] += 1
            indices.append(index)
    return indices


def main(source, target):
    target.mkdir(parents=True, exist_ok=True)
    for part, count in PER_CLASS.items():
        images_name = f"{part}-images-idx3-ubyte.gz"
        labels_name = f"{part}-labels-idx1-ubyte.gz"
        (_, height, width), images = read_idx(source / images_name, 3)
        _, labels = read_idx(source / labels_name, 1)
        size = height * width
        indices = first_per_class(labels, count)
        chosen = b"".join(images[index * size : (index + 1) * size] for index in indices)
        write_idx(target / images_name, [len(indices), height, width], chosen)
        write_idx(target / labels_name, [len(indices)], bytes(labels[index] for index in indices))


if __name__ == "__main__":
    folders = [Path(argument) for argument in sys.argv[1:3]]
    main(*folders, *[SOURCE, TARGET][len(folders) :])

"""Oncefit beside PyTorch (training) and beside onnxruntime and tract (inference), interleaved.

    pip install -r bench/peers/requirements.txt
    cargo build --release -p oncefit --example peer
    python bench/peers/run.py --json peers.json --markdown peers.md
    python bench/peers/run.py [--rounds 7] [--only training|inference|memory] [--cases bench-mb:64 …]

Every round asks each contender in turn for a few repetitions, so that what else the machine does
falls on all alike. Printed are medians over all rounds and the ratio of each peer to Oncefit (above 1:
Oncefit is faster or smaller), with the lowest and highest ratio of single rounds. `--json FILE` keeps
the raw times, of several calls on one machine if it exists already (a case that is run again is
replaced); `--markdown FILE` writes the tables of all that is kept.
"""

import argparse
import datetime
import importlib.metadata
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
PEER = HERE.parent.parent / "target/release/examples/peer"
TRAINING = [
    ("bench-mb", 64), ("bench-mb", 128), ("bench-mb", 4), ("bench-mb", 16),
    ("sandwich", 32), ("ofa-mobilenet-v3", 8), ("ofa-resnet50d", 8), ("resnet18", 32),
    ("quickstart", 64),
]
INFERENCE = [
    (name, batch)
    for name in ("bench-mb", "sandwich", "ofa-mobilenet-v3", "ofa-resnet50d", "resnet18")
    for batch in (1, 32)
]
MODES = ("nchw", "channels_last", "compile")
# Networks that torch.compile is given: the others have 32 networks, or take minutes to compile.
COMPILED = ("bench-mb", "resnet18")
TITLES = {
    "bench-mb": "Bench-MB",
    "sandwich": "sandwich of deps-cifar-mobilenet-v3",
    "quickstart": "sandwich of fm-nano",
    "ofa-mobilenet-v3": "OFA-MobileNetV3 at 224",
    "ofa-resnet50d": "OFA-ResNet50D at 128",
    "resnet18": "ResNet-18 of width 20 at 32",
}
# What is asked of the ratio to channels_last.
BARS = {
    ("bench-mb", 64): 2.3, ("bench-mb", 128): 2.3, ("bench-mb", 4): 1.8, ("bench-mb", 16): 2.3,
    ("sandwich", 32): 2.3, ("ofa-mobilenet-v3", 8): 1.5, ("ofa-resnet50d", 8): 0.9, ("resnet18", 32): 1.2,
}


class Contender:
    def __init__(self, words, threads):
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), RAYON_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"{words}: {answer['error']}")
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def networks_file(name, folder):
    file = pathlib.Path(folder) / f"{name}.json"
    if not file.exists():
        ours = Contender([PEER], 1)
        file.write_text(json.dumps(ours.ask("networks", name)))
        ours.close()
    return file


def repetitions(milliseconds):
    """As many as take about half a second, from 1 to 40."""
    return int(min(40, max(1, 500 // milliseconds)))


def compare(kind, name, batch, contenders, rounds):
    """contenders: name -> function(repetitions) -> milliseconds; the first is ours."""
    counts, broken = {}, {}
    for contender, run in list(contenders.items()):
        try:
            run(2)
            counts[contender] = repetitions(statistics.median(run(3)))
        except RuntimeError as error:
            broken[contender] = str(error)
    times = {contender: [] for contender in counts}
    for _ in range(rounds):
        for contender, count in counts.items():
            times[contender].append(contenders[contender](count))
    ours = next(iter(contenders))
    row = {"kind": kind, "name": name, "batch": batch, "broken": broken, "times": times}
    row |= {"ratios": {}, "medians": {}}
    for contender, parts in times.items():
        row["medians"][contender] = statistics.median(time for part in parts for time in part)
    for contender in times:
        if contender != ours:
            each = [
                statistics.median(theirs) / statistics.median(own)
                for theirs, own in zip(times[contender], times[ours])
            ]
            ratio = row["medians"][contender] / row["medians"][ours]
            row["ratios"][contender] = (ratio, min(each), max(each))
    show(row, ours)
    return row


def show(row, ours):
    case = f"{row['kind']} {row['name']}, batch {row['batch']}"
    text = f"{case:36} {ours} {row['medians'][ours]:9.2f}"
    for name, (ratio, low, high) in row["ratios"].items():
        text += f" | {name} {row['medians'][name]:9.2f} = {ratio:.2f}x ({low:.2f}-{high:.2f})"
    for name, error in row["broken"].items():
        text += f" | {name}: {error}"
    print(text, flush=True)


def training(cases, rounds, threads, modes, folder):
    ours = Contender([PEER], threads)
    torch = {mode: Contender([sys.executable, HERE / "torch_peer.py", mode], threads) for mode in modes}
    for name, batch in cases:
        file = networks_file(name, folder)
        for mode in modes:
            torch[mode].ask("networks", name, file)
        contenders = {
            "oncefit": lambda count: ours.ask("train", name, batch, count),
            "oncefit recomputing": lambda count: ours.ask("recompute", name, batch, count),
        }
        for mode in modes:
            if mode == "compile" and name not in COMPILED:
                continue
            contenders[f"torch {mode}"] = (
                lambda count, mode=mode: torch[mode].ask("train", name, batch, count)
            )
        yield compare("training", name, batch, contenders, rounds)
    for contender in [ours, *torch.values()]:
        contender.close()


def inference(cases, rounds, threads, folder):
    ours = Contender([PEER], threads)
    runtime = Contender([sys.executable, HERE / "onnxruntime_peer.py", threads], threads)
    for name, batch in cases:
        file = pathlib.Path(folder) / f"{name}.onnx"
        if not file.exists():
            ours.ask("export", name, file)
        contenders = {
            "oncefit": lambda count: ours.ask("infer", "oncefit", name, batch, count),
            "oncefit int8": lambda count: ours.ask("infer", "int8", name, batch, count),
            "onnxruntime": lambda count: runtime.ask("infer", name, file, batch, count),
            "tract": lambda count: ours.ask("infer", "tract", name, batch, count),
        }
        yield compare("inference", name, batch, contenders, rounds)
    ours.close()
    runtime.close()


def memory(cases, threads, folder):
    """Most memory of a process that only trains one case, without what importing takes."""
    for name, batch in cases:
        file = networks_file(name, folder)
        found = {}
        idle = Contender([PEER], threads)
        start = idle.ask("memory")
        idle.close()
        for title, request in (("oncefit", "train"), ("oncefit recomputing", "recompute")):
            ours = Contender([PEER], threads)
            ours.ask(request, name, batch, 3)
            found[title] = ours.ask("memory") - start
            ours.close()
        for mode in ("nchw", "channels_last"):
            torch = Contender([sys.executable, HERE / "torch_peer.py", mode], threads)
            torch.ask("networks", name, file)
            torch.ask("train", name, batch, 3)
            found[f"torch {mode}"] = torch.ask("memory")
            torch.close()
        least = min(kib for title, kib in found.items() if title.startswith("torch"))
        print(f"memory {name}, batch {batch}: " + ", ".join(
            f"{title} {kib / 1024:.0f} MiB ({kib / least:.2f})" for title, kib in found.items()
        ), flush=True)
        yield {"kind": "memory", "name": name, "batch": batch, "kib": found}


def about(threads):
    """The machine and the versions of everything, as a row of words each."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info).group(1)
    flags = re.search(r"flags\s*: (.*)", info).group(1).split()
    vectors = next((word for word in ("avx512f", "avx2") if word in flags), "no avx2")
    lock = (HERE.parent.parent / "Cargo.lock").read_text()
    tract = re.search(r'name = "tract-onnx"\nversion = "(.*)"', lock).group(1)
    say = lambda *words: subprocess.run(words, capture_output=True, text=True, cwd=HERE).stdout.strip()
    return {
        "machine": f"{model} ({vectors}), {os.cpu_count()} cores, {threads} threads",
        "versions": f"Oncefit {say('git', 'rev-parse', '--short', 'HEAD')}, {say('rustc', '--version')}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnxruntime"))
        + f", tract {tract}",
    }


def keep(kept, row, found):
    """Puts a row among those that are kept, in place of an older one of its case."""
    key = lambda row: (row["kind"], row["name"], row["batch"])
    rows = [other for other in kept["rows"] if key(other) != key(row)]
    rows.append(row | {"date": datetime.date.today().isoformat(), "versions": found["versions"]})
    cases = {"training": TRAINING, "inference": INFERENCE, "memory": TRAINING}
    order = [(kind, *case) for kind in cases for case in cases[kind]]
    place = {key: at for at, key in enumerate(order)}
    kept["rows"] = sorted(rows, key=lambda row: place.get(key(row), len(order)))


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(row, name):
    if name not in row["ratios"]:
        return "–"
    middle, low, high = row["ratios"][name]
    return f"{middle:.2f}× ({low:.2f} to {high:.2f})"


def table(head, lines):
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines]) + "\n"


def markdown(kept):
    """The tables of all rows."""
    of = lambda kind: [row for row in kept["rows"] if row["kind"] == kind]
    title = lambda row: f"{TITLES.get(row['name'], row['name'])}, batch {row['batch']}"
    dates = sorted({row["date"] for row in kept["rows"]})
    versions = sorted({row["versions"] for row in kept["rows"]})
    text = f"{kept['machine']}; {' and '.join(dates)}; {'; '.join(versions)}. Milliseconds, medians.\n\n"
    if of("training"):
        lines = []
        for row in of("training"):
            time = lambda name: number(row["medians"][name]) if name in row["medians"] else "–"
            best = min(
                (name for name in row["medians"] if name.startswith("torch")), key=row["medians"].get
            )
            bar = BARS.get((row["name"], row["batch"]))
            lines.append([
                title(row), time("oncefit"), time("oncefit recomputing"), time("torch nchw"),
                time("torch channels_last"), time("torch compile"), ratio(row, "torch channels_last"),
                f"{row['ratios'][best][0]:.2f}×", f"{bar}×" if bar else "–",
            ])
        text += table([
            "training step", "Oncefit", "recomputing", "PyTorch NCHW", "channels_last", "torch.compile",
            "channels_last / Oncefit", "best / Oncefit", "bar",
        ], lines) + "\n"
    if of("inference"):
        lines = []
        for row in of("inference"):
            time = lambda name: number(row["medians"][name]) if name in row["medians"] else "–"
            lines.append([
                title(row), time("oncefit"), time("onnxruntime"), ratio(row, "onnxruntime"), time("tract"),
                ratio(row, "tract"), time("oncefit int8"),
                f"{row['medians']['oncefit'] / row['medians']['oncefit int8']:.2f}×",
            ])
        text += table([
            "inference", "f32", "onnxruntime", "onnxruntime / f32", "tract", "tract / f32", "int8", "f32 / int8",
        ], lines) + "\n"
    if of("memory"):
        lines = []
        for row in of("memory"):
            found = row["kib"]
            least = min(kib for name, kib in found.items() if name.startswith("torch"))
            lines.append([
                title(row), *(f"{kib / 1024:.0f} MiB" for kib in found.values()),
                f"{found['oncefit'] / least:.2f}", f"{found['oncefit recomputing'] / least:.2f}",
            ])
        text += table([
            "peak memory of training, without imports", "Oncefit", "recomputing", "PyTorch NCHW",
            "channels_last", "share of the smaller", "recomputing",
        ], lines)
    return text


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--only", choices=["training", "inference", "memory"])
    arguments.add_argument("--cases", nargs="*", help="name:batch")
    arguments.add_argument("--modes", nargs="*", choices=MODES, default=MODES)
    arguments.add_argument("--json", type=pathlib.Path)
    arguments.add_argument("--markdown", type=pathlib.Path)
    given = arguments.parse_args()
    cases = [(name, int(batch)) for name, batch in (case.split(":") for case in given.cases or [])]
    found = about(given.threads)
    kept = {"machine": found["machine"], "rows": []}
    if given.json and given.json.exists():
        kept = json.loads(given.json.read_text())
        if kept["machine"] != found["machine"]:
            sys.exit(f"{given.json} is of another machine: {kept['machine']}")
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        if given.only in (None, "training"):
            rows.append(training(cases or TRAINING, given.rounds, given.threads, given.modes, folder))
        if given.only in (None, "inference"):
            rows.append(inference(cases or INFERENCE, given.rounds, given.threads, folder))
        if given.only in (None, "memory"):
            rows.append(memory(cases or TRAINING, given.threads, folder))
        for row in itertools.chain.from_iterable(rows):
            keep(kept, row, found)
            if given.json:
                given.json.write_text(json.dumps(kept, indent=1))
            if given.markdown:
                given.markdown.write_text(markdown(kept))


main()

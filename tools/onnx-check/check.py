"""Checks exported files with the onnx package and runs them in onnxruntime.

    pip install -r requirements.txt
    ONCEFIT_ONNX_SAMPLES=/tmp/samples cargo test --release -p oncefit-export
    python check.py /tmp/samples/*.onnx quickstart-out/*.onnx

Beside `model.onnx`, a file `model.json` with "input", "shape" and "logits" holds what Oncefit
computed; the logits must then agree to 1e-4 of the largest. Exit code 1 if anything fails.
"""

import json
import pathlib
import sys

import numpy
import onnx
import onnxruntime


def check(path: pathlib.Path) -> None:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    (logits,) = session.get_outputs()
    _, channels, height, width = image.shape
    generator = numpy.random.default_rng(0)
    for batch in (1, 4):
        values = generator.standard_normal((batch, channels, height, width), dtype=numpy.float32)
        found = session.run([logits.name], {image.name: values})[0]
        if found.shape[0] != batch or not numpy.isfinite(found).all():
            raise ValueError(f"batch {batch}: logits of shape {found.shape}, finite: {numpy.isfinite(found).all()}")
    line = f"{path.name}: opset {model.opset_import[0].version}, {image.shape} -> {logits.shape}"
    sidecar = path.with_suffix(".json")
    if sidecar.exists():
        expected = json.loads(sidecar.read_text())
        values = numpy.array(expected["input"], dtype=numpy.float32).reshape(expected["shape"])
        found = session.run([logits.name], {image.name: values})[0].ravel()
        wanted = numpy.array(expected["logits"], dtype=numpy.float32)
        difference = float(numpy.abs(found - wanted).max() / numpy.abs(wanted).max())
        line += f", differs by {difference:.1e} of the largest logit from Oncefit"
        if not difference <= 1e-4:
            raise ValueError(line)
    print(line)


def main() -> int:
    paths = [pathlib.Path(argument) for argument in sys.argv[1:]]
    if not paths:
        print(__doc__)
        return 2
    failures = 0
    for path in paths:
        try:
            check(path)
        except Exception as error:  # every file is tried, whatever is wrong with one
            print(f"{path}: FAILED: {error}")
            failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

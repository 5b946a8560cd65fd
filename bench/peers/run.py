"""Oncefit beside PyTorch (training) and beside onnxruntime and tract (inference), interleaved.

    pip install -r bench/peers/requirements.txt
    cargo build --release -p oncefit --example peer
    python bench/peers/run.py [--rounds 7] [--only training|inference|memory] [--cases bench-mb:64 …]

Every round asks each contender in turn for a few repetitions, so that what else the machine does
falls on all alike. Printed are medians over all rounds and the ratio of each peer to Oncefit (above 1:
Oncefit is faster or smaller), with the lowest and highest ratio of single rounds. `--json FILE` keeps
the raw times.
"""

import argparse
import json
import os
import pathlib
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


def compare(title, contenders, rounds):
    """contenders: name -> function(repetitions) -> milliseconds; the first is ours."""
    counts, broken = {}, {}
    for name, run in list(contenders.items()):
        try:
            run(2)
            counts[name] = repetitions(statistics.median(run(3)))
        except RuntimeError as error:
            broken[name] = str(error)
    times = {name: [] for name in counts}
    for _ in range(rounds):
        for name, count in counts.items():
            times[name].append(contenders[name](count))
    ours = next(iter(contenders))
    row = {"case": title, "broken": broken, "times": times, "ratios": {}, "medians": {}}
    for name, parts in times.items():
        row["medians"][name] = statistics.median(time for part in parts for time in part)
    for name in times:
        if name != ours:
            each = [
                statistics.median(theirs) / statistics.median(own)
                for theirs, own in zip(times[name], times[ours])
            ]
            ratio = row["medians"][name] / row["medians"][ours]
            row["ratios"][name] = (ratio, min(each), max(each))
    show(row, ours)
    return row


def show(row, ours):
    text = f"{row['case']:32} {ours} {row['medians'][ours]:9.2f}"
    for name, (ratio, low, high) in row["ratios"].items():
        text += f" | {name} {row['medians'][name]:9.2f} = {ratio:.2f}x ({low:.2f}-{high:.2f})"
    for name, error in row["broken"].items():
        text += f" | {name}: {error}"
    print(text, flush=True)


def training(cases, rounds, threads, modes, folder):
    rows = []
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
            if mode == "compile" and name in ("sandwich", "quickstart"):
                continue  # 32 networks to compile
            contenders[f"torch {mode}"] = (
                lambda count, mode=mode: torch[mode].ask("train", name, batch, count)
            )
        rows.append(compare(f"train {name}, batch {batch}", contenders, rounds))
    for contender in [ours, *torch.values()]:
        contender.close()
    return rows


def inference(cases, rounds, threads, folder):
    rows = []
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
        rows.append(compare(f"infer {name}, batch {batch}", contenders, rounds))
    ours.close()
    runtime.close()
    return rows


def memory(cases, threads, folder):
    """Most memory of a process that only trains one case, without what importing takes."""
    rows = []
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
        rows.append({"case": f"memory {name}, batch {batch}", "kib": found})
    return rows


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--only", choices=["training", "inference", "memory"])
    arguments.add_argument("--cases", nargs="*", help="name:batch")
    arguments.add_argument("--modes", nargs="*", choices=MODES, default=MODES)
    arguments.add_argument("--json", type=pathlib.Path)
    given = arguments.parse_args()
    cases = [(name, int(batch)) for name, batch in (case.split(":") for case in given.cases or [])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if given.only in (None, "training"):
            rows += training(cases or TRAINING, given.rounds, given.threads, given.modes, folder)
        if given.only in (None, "inference"):
            rows += inference(cases or INFERENCE, given.rounds, given.threads, folder)
        if given.only in (None, "memory"):
            rows += memory(cases or TRAINING, given.threads, folder)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


main()

"""Oncefit beside avalanche on Split-Fashion-MNIST: accuracy, wall time and images a second.

    python3 -m venv ../avalanche-venv && ../avalanche-venv/bin/pip install avalanche-lib
    cargo build --release -p oncefit
    ../avalanche-venv/bin/python bench/avalanche/compare.py [--seeds 5] [--methods naive replay …]

For each method and seed the two sides run one after the other, so that what else the machine does
falls on both. Avalanche's time is that of its `train` calls; ours is that of the whole of
`oncefit learn`, with reading, evaluations and report. The table at the end has means with standard
deviations, the difference of the means in standard errors, and the ratio of the times, the median
with the least and the largest of the seeds.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch

import split_fashion

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
# avalanche's strategy, our recipe: the same definitions, as far as README.md says.
PAIRS = {
    "naive": ROOT / "recipes/continual/fine-tune.toml",
    "replay": ROOT / "recipes/continual/er-avalanche.toml",
    "der": HERE / "der.toml",
    "ewc": HERE / "ewc.toml",
    "si": ROOT / "recipes/continual/si.toml",
    "lwf": ROOT / "recipes/continual/lwf.toml",
    "scr": HERE / "scr.toml",
}


def ours(binary, recipe, seed, threads):
    """Final accuracy and seconds of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            binary, "--threads", str(threads), "learn", recipe,
            "--seed", str(seed), "--out", f"{folder}/run",
        ]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            raise SystemExit(f"{recipe}: {done.stderr}")
        results = json.loads(pathlib.Path(f"{folder}/run/results.json").read_text())
    return results["class_incremental"]["final_average_accuracy"], seconds


def deviation(values):
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(PAIRS)[:-1], choices=list(PAIRS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--oncefit", default=ROOT / "target/release/oncefit", help="the binary")
    parser.add_argument("--json", type=pathlib.Path, help="keeps the values of every run")
    split_fashion.add_settings(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train = split_fashion.load(arguments.folder, "train")
    test = split_fashion.load(arguments.folder, "t10k")
    images = len(train[1])
    kept, lines = {}, []
    for method in arguments.methods:
        runs = kept.setdefault(method, {"avalanche": [], "oncefit": []})
        for seed in range(arguments.seeds):
            accuracies, seconds = split_fashion.run(method, seed, arguments, train, test)
            theirs = (statistics.mean(accuracies), sum(seconds))
            runs["avalanche"].append(theirs)
            runs["oncefit"].append(ours(arguments.oncefit, PAIRS[method], seed, arguments.threads))
            for side, found in runs.items():
                accuracy, seconds = found[-1]
                print(
                    f"{method} seed {seed}, {side}: {100 * accuracy:.2f} %, {seconds:.2f} s, "
                    f"{images / seconds:.0f} new images/s",
                    flush=True,
                )
        sides = []
        for side in ("avalanche", "oncefit"):
            accuracy = [100 * found[0] for found in runs[side]]
            seconds = statistics.median(found[1] for found in runs[side])
            sides.append((statistics.mean(accuracy), deviation(accuracy), seconds))
        (their, their_sd, their_s), (our, our_sd, our_s) = sides
        error = ((their_sd**2 + our_sd**2) / arguments.seeds) ** 0.5
        pairs = zip(runs["avalanche"], runs["oncefit"])
        ratios = sorted(theirs[1] / ours[1] for theirs, ours in pairs)
        lines.append(
            f"| {method} / `{PAIRS[method].stem}` | {their:.2f} ({their_sd:.2f}) | {our:.2f} "
            f"({our_sd:.2f}) | {our - their:+.2f}, {abs(our - their) / error if error else 0:.1f} | "
            f"{their_s:.2f}, {images / their_s:.0f} | {our_s:.2f}, {images / our_s:.0f} | "
            f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}, {ratios[-1]:.1f}) |"
        )
    print(f"\n{arguments.seeds} seeds, {arguments.threads} thread(s)\n")
    print(
        "| method / recipe | avalanche, % | Oncefit, % | difference, standard errors | "
        "avalanche: s, images/s | Oncefit: s, images/s | times faster |\n|---|---|---|---|---|---|---|"
    )
    print("\n".join(lines))
    if arguments.json:
        arguments.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()

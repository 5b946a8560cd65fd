"""Oncefit's searchers beside Optuna's TPE and random search: same table, seeds and budget.

    pip install -r bench/optuna/requirements.txt
    cargo build --release -p oncefit-search --example table_study
    python bench/optuna/run.py NAS-BENCH-MACRO.json [SEEDS [EVALUATIONS]]

Where the table comes from: docs/studies.md, "Beside Optuna".

The searcher sees one of the three noisy accuracies of a network; what counts is the mean accuracy of the
network that looked best. Overhead is the time of everything but the look-up, for each trial.
"""

import json
import pathlib
import random
import statistics
import subprocess
import sys
import time

import optuna

HERE = pathlib.Path(__file__).parent
OURS = HERE.parent.parent / "target/release/examples/table_study"


def search(table, make_sampler, seed, evaluations):
    study = optuna.create_study(direction="maximize", sampler=make_sampler(seed))
    noise = random.Random(seed)
    seen, best = float("-inf"), 0.0
    start = time.perf_counter()
    for _ in range(evaluations):
        trial = study.ask()
        key = "".join(trial.suggest_categorical(f"layer{i}", ["0", "1", "2"]) for i in range(8))
        row = table[key]
        score = row["test_acc"][noise.randrange(3)]
        study.tell(trial, score)
        if score > seen:
            seen, best = score, row["mean_acc"]
    return best, time.perf_counter() - start


def main():
    path = sys.argv[1]
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    evaluations = int(sys.argv[3]) if len(sys.argv) > 3 else 64
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = json.loads(pathlib.Path(path).read_text())
    print(f"optuna {optuna.__version__}, {seeds} seeds, {evaluations} evaluations")
    samplers = {
        "optuna random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
        "optuna TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
        "optuna TPE, multivariate": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    }
    for name, make_sampler in samplers.items():
        found = [search(table, make_sampler, seed, evaluations) for seed in range(seeds)]
        accuracies = [accuracy for accuracy, _ in found]
        each = statistics.median(seconds for _, seconds in found) / evaluations * 1e6
        print(
            f"{name:26} incumbent {statistics.mean(accuracies):.3f} ± {statistics.stdev(accuracies):.3f}"
            f"   {each:9.1f} us for each trial"
        )
    print(subprocess.run([OURS, path, str(seeds), str(evaluations)], check=True, text=True, capture_output=True).stdout)


main()

"""Split-Fashion-MNIST with avalanche: wall time, images a second and final accuracy over seeds."""

import argparse
import gzip
import struct
import time

import numpy
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import DER, EWC, LwF, Naive, SynapticIntelligence


def read_idx(path):
    with gzip.open(path, "rb") as file:
        data = file.read()
    rank = data[3]
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    return numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * rank).reshape(shape)


def load(folder, part):
    images = read_idx(f"{folder}/{part}-images-idx3-ubyte.gz").astype(numpy.float32) / 255.0
    labels = read_idx(f"{folder}/{part}-labels-idx1-ubyte.gz").astype(numpy.int64)
    return images, labels


class Flat(torch.utils.data.Dataset):
    """Images as vectors in memory; avalanche reads `targets`."""

    def __init__(self, images, targets):
        self.images, self.targets = images, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


def strategy(name, arguments, network, optimiser, evaluator):
    common = dict(
        model=network,
        optimizer=optimiser,
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=10,
        train_epochs=1,
        eval_mb_size=500,
        device="cpu",
        evaluator=evaluator,
    )
    memory = dict(mem_size=arguments.memory)
    if name == "naive":
        return Naive(**common)
    if name == "replay":
        # `Replay` has no argument for the replay batch.
        plugin = ReplayPlugin(mem_size=arguments.memory, batch_size=10, batch_size_mem=10)
        return Naive(plugins=[plugin], **common)
    if name == "der":
        return DER(batch_size_mem=arguments.replay, alpha=0.2, beta=1.0, **memory, **common)
    if name == "ewc":
        return EWC(ewc_lambda=90.0, **common)
    if name == "si":
        return SynapticIntelligence(si_lambda=1.0, eps=0.9, **common)
    return LwF(alpha=1.0, temperature=2.0, **common)


def run(name, seed, arguments, train, test):
    torch.manual_seed(seed)
    mean, deviation = train[0].mean(), train[0].std()

    def dataset(part):
        images = torch.from_numpy((part[0] - mean) / deviation).reshape(-1, 784)
        return Flat(images, part[1].tolist())

    stream = nc_benchmark(
        dataset(train), dataset(test), 5, False, fixed_class_order=list(range(10)), seed=seed
    )
    network = torch.nn.Sequential(
        torch.nn.Linear(784, 100),
        torch.nn.ReLU(),
        torch.nn.Linear(100, 100),
        torch.nn.ReLU(),
        torch.nn.Linear(100, 10),
    )
    optimiser = torch.optim.SGD(network.parameters(), lr=arguments.rate)
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True), loggers=[])
    learner = strategy(name, arguments, network, optimiser, evaluator)
    seconds = []
    for experience in stream.train_stream:
        started = time.perf_counter()
        learner.train(experience, num_workers=0)
        seconds.append(time.perf_counter() - started)
    network.eval()
    accuracies = []
    with torch.no_grad():
        for first in range(0, 10, 2):
            chosen = (test[1] == first) | (test[1] == first + 1)
            images = torch.from_numpy((test[0][chosen] - mean) / deviation).reshape(-1, 784)
            found = network(images).argmax(1).numpy()
            accuracies.append(float((found == test[1][chosen]).mean()))
    return accuracies, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="naive", choices="naive replay der ewc si lwf".split())
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=200)
    parser.add_argument("--replay", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default="/usr/share/datasets/fashion-mnist")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train, test = load(arguments.folder, "train"), load(arguments.folder, "t10k")
    finals = []
    for seed in range(arguments.seeds):
        accuracies, seconds = run(arguments.method, seed, arguments, train, test)
        finals.append(sum(accuracies) / len(accuracies))
        tasks = " ".join(f"{value:.2f}" for value in seconds)
        images = len(train[1]) / sum(seconds)
        last = " ".join(f"{value:.3f}" for value in accuracies)
        print(
            f"{arguments.method} seed {seed}: {finals[-1]:.4f} ({last}); "
            f"{sum(seconds):.2f} s ({tasks}), {images:.0f} new images/s",
            flush=True,
        )
    deviation = numpy.std(finals, ddof=1) if len(finals) > 1 else 0.0
    print(f"{arguments.method}: {numpy.mean(finals):.4f} (sd {deviation:.4f}, {len(finals)} seeds)")


if __name__ == "__main__":
    main()

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
from avalanche.models import SCRModel
from avalanche.training.supervised import DER, EWC, SCR, LwF, Naive, SynapticIntelligence

METHODS = "naive replay der ewc si lwf scr".split()


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


class Unit(torch.nn.Module):
    """Rows of unit length."""

    def forward(self, rows):
        return torch.nn.functional.normalize(rows, dim=1)


class Normalise(torch.nn.Module):
    """Images of 28 x 28 from vectors of pixels from 0 to 1, normalised."""

    def __init__(self, mean, deviation):
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, pixels):
        return ((pixels - self.mean) / self.deviation).reshape(-1, 1, 28, 28)


class Contrasted(SCRModel):
    """SCR's network as its authors have it: features go into the projection as they are."""

    def forward(self, images):
        features = self.feature_extractor(images)
        if self.training:
            return self.train_classifier(features)
        return self.eval_classifier(torch.nn.functional.normalize(features, dim=1))


def small_cnn(mean, deviation, width=16):
    """Oncefit's `small-cnn`, and the projection of its `scr`."""
    layers, before = [Normalise(mean, deviation)], 1
    for channels in (width, 2 * width, 4 * width):
        layers += [torch.nn.Conv2d(before, channels, 3, 2, 1), torch.nn.ReLU()]
        before = channels
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    projection = [torch.nn.Linear(before, before), torch.nn.ReLU(), torch.nn.Linear(before, 128)]
    return Contrasted(torch.nn.Sequential(*layers), torch.nn.Sequential(*projection, Unit()))


def views(pixels):
    """Each image cropped to 0.2 to 1 of its area and enlarged, mirrored, brighter or darker, with
    more or less contrast, each drawn by itself: the changes of `scr.toml`."""
    images = pixels.reshape(-1, 1, 28, 28)
    count = len(images)
    area = torch.empty(count).uniform_(0.2, 1.0)
    aspect = torch.empty(count).uniform_(numpy.log(3 / 4), numpy.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)
    turn = torch.zeros(count, 2, 3)
    turn[:, 0, 0] = width * torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    turn[:, 1, 1] = height
    turn[:, 0, 2] = torch.empty(count).uniform_(-1.0, 1.0) * (1.0 - width)
    turn[:, 1, 2] = torch.empty(count).uniform_(-1.0, 1.0) * (1.0 - height)
    grid = torch.nn.functional.affine_grid(turn, list(images.shape), align_corners=False)
    found = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    factor = lambda: torch.empty(count, 1, 1, 1).uniform_(0.6, 1.4)
    found = (found * factor()).clamp(0.0, 1.0)
    mean = found.mean(dim=(1, 2, 3), keepdim=True)
    return ((found - mean) * factor() + mean).clamp(0.0, 1.0).reshape(pixels.shape)


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
    if name == "scr":
        del common["criterion"]
        return SCR(
            augmentations=views, temperature=0.07, batch_size_mem=100, **memory, **common
        )
    if name == "si":
        return SynapticIntelligence(si_lambda=1.0, eps=0.9, **common)
    return LwF(alpha=1.0, temperature=2.0, **common)


def run(name, seed, arguments, train, test):
    torch.manual_seed(seed)
    mean, deviation = float(train[0].mean()), float(train[0].std())
    # SCR changes pixels before they are normalised.
    shift, scale = (0.0, 1.0) if name == "scr" else (mean, deviation)

    def vectors(images):
        return torch.from_numpy((images - shift) / numpy.float32(scale)).float().reshape(-1, 784)

    def dataset(part):
        return Flat(vectors(part[0]), part[1].tolist())

    stream = nc_benchmark(
        dataset(train), dataset(test), 5, False, fixed_class_order=list(range(10)), seed=seed
    )
    if name == "scr":
        network, rate = small_cnn(mean, deviation), 0.1
    else:
        rate = arguments.rate
        network = torch.nn.Sequential(
            torch.nn.Linear(784, 100),
            torch.nn.ReLU(),
            torch.nn.Linear(100, 100),
            torch.nn.ReLU(),
            torch.nn.Linear(100, 10),
        )
    optimiser = torch.optim.SGD(network.parameters(), lr=rate)
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
            found = network(vectors(test[0][chosen])).argmax(1).numpy()
            accuracies.append(float((found == test[1][chosen]).mean()))
    return accuracies, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="naive", choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    add_settings(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train, test = load(arguments.folder, "train"), load(arguments.folder, "t10k")
    finals, times = [], []
    for seed in range(arguments.seeds):
        accuracies, seconds = run(arguments.method, seed, arguments, train, test)
        finals.append(sum(accuracies) / len(accuracies))
        times.append(sum(seconds))
        tasks = " ".join(f"{value:.2f}" for value in seconds)
        last = " ".join(f"{value:.3f}" for value in accuracies)
        print(
            f"{arguments.method} seed {seed}: {finals[-1]:.4f} ({last}); {times[-1]:.2f} s "
            f"({tasks}), {len(train[1]) / times[-1]:.0f} new images/s",
            flush=True,
        )
    deviation = numpy.std(finals, ddof=1) if len(finals) > 1 else 0.0
    seconds = numpy.mean(times)
    print(
        f"{arguments.method}: {numpy.mean(finals):.4f} (sd {deviation:.4f}, {len(finals)} seeds); "
        f"{seconds:.2f} s, {len(train[1]) / seconds:.0f} new images/s"
    )


def add_settings(parser):
    parser.add_argument("--memory", type=int, default=200)
    parser.add_argument("--replay", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", default="/usr/share/datasets/fashion-mnist")


if __name__ == "__main__":
    main()

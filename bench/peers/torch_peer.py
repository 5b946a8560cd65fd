"""PyTorch's side of run.py: the same networks, built from the same graphs, one request on a line.

    torch_peer.py nchw | channels_last | compile

Requests and answers are those of crates/oncefit/examples/peer.rs: `train CASE BATCH REPETITIONS`,
`memory`. A supernet's weights are full-size; a subnet runs on slices of them, as dynamic
layers of Once-for-All's code do.
"""

import json
import resource
import sys
import time

import torch
import torch.nn.functional as F


def parameters_of(graph):
    """Full-size parameters, by name; batch-norms have no running statistics."""
    found = {}
    for node in graph["nodes"]:
        op, path = node["op"], node["path"]
        kind = op if isinstance(op, str) else next(iter(op))
        sizes = {} if isinstance(op, str) else op[kind]
        if kind in ("convolution", "depthwise", "linear", "batch_norm"):
            inputs = graph["nodes"][node["inputs"][0]]["shape"]["channels"]
        if kind == "convolution":
            k, out = sizes["kernel"], sizes["out_channels"]
            weight = torch.randn(out, inputs, k, k) * (2.0 / (k * k * out)) ** 0.5
            found[path + ".weight"] = weight
            if sizes["bias"]:
                found[path + ".bias"] = torch.zeros(out)
        elif kind == "depthwise":
            k = sizes["kernel"]
            found[path + ".weight"] = torch.randn(inputs, 1, k, k) * (2.0 / (k * k)) ** 0.5
        elif kind == "batch_norm":
            found[path + ".weight"] = torch.ones(inputs)
            found[path + ".bias"] = torch.zeros(inputs)
        elif kind == "linear":
            out = sizes["out_features"]
            found[path + ".weight"] = torch.empty(out, inputs).uniform_(-1, 1) * inputs**-0.5
            if sizes["bias"]:
                found[path + ".bias"] = torch.zeros(out)
    return found


ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
}


class Network(torch.nn.Module):
    """A graph over shared parameters; slices where the graph is smaller than they are."""

    def __init__(self, graph, shared):
        super().__init__()
        self.graph = graph
        self.shared = shared
        self.steps = []
        nodes = graph["nodes"]
        for node in nodes[1:]:
            op = node["op"]
            kind = op if isinstance(op, str) else next(iter(op))
            sizes = None if isinstance(op, str) else op[kind]
            inputs = nodes[node["inputs"][0]]["shape"]["channels"]
            self.steps.append((kind, sizes, node["path"], node["inputs"], inputs))

    def weight(self, name, *slices):
        stored = self.shared[name.replace(".", "/")]
        whole = all(s is None or s == stored.shape[i] for i, s in enumerate(slices))
        return stored if whole else stored[tuple(slice(s) for s in slices)]

    def forward(self, image):
        values = [image]
        for kind, sizes, path, inputs, channels in self.steps:
            x = values[inputs[0]]
            if kind == "convolution":
                k, out = sizes["kernel"], sizes["out_channels"]
                bias = self.weight(path + ".bias", out) if sizes["bias"] else None
                w = self.weight(path + ".weight", out, channels)
                y = F.conv2d(x, w, bias, sizes["stride"], k // 2)
            elif kind == "depthwise":
                k = sizes["kernel"]
                w = self.weight(path + ".weight", channels)
                if w.shape[-1] != k:
                    start = (w.shape[-1] - k) // 2
                    w = w[:, :, start : start + k, start : start + k]
                y = F.conv2d(x, w, None, sizes["stride"], k // 2, groups=channels)
            elif kind == "batch_norm":
                w = self.weight(path + ".weight", channels)
                b = self.weight(path + ".bias", channels)
                y = F.batch_norm(x, None, None, w, b, True, 0.1, sizes["epsilon"])
            elif kind == "activation":
                y = ACTIVATIONS[sizes](x)
            elif kind == "global_average_pool":
                y = x.mean((2, 3), keepdim=True)
            elif kind == "average_pool":
                y = F.avg_pool2d(
                    x, sizes["kernel"], sizes["stride"], sizes["padding"], sizes["ceil"], False
                )
            elif kind == "max_pool":
                y = F.max_pool2d(x, sizes["kernel"], sizes["stride"], sizes["padding"])
            elif kind == "add":
                y = x + values[inputs[1]]
            elif kind == "multiply":
                y = x * values[inputs[1]]
            elif kind == "dropout":
                y = x
            elif kind == "linear":
                out = sizes["out_features"]
                bias = self.weight(path + ".bias", out) if sizes["bias"] else None
                y = F.linear(x.flatten(1), self.weight(path + ".weight", out, channels), bias)
            else:
                raise ValueError(kind)
            values.append(y)
        return values[-1]


class Training:
    def __init__(self, case, mode):
        largest, steps = case["largest"], case["steps"]
        self.mode = mode
        parameters = parameters_of(largest)
        layout = torch.channels_last if mode == "channels_last" else torch.contiguous_format
        shared = torch.nn.ParameterDict()
        for name, value in parameters.items():
            if value.dim() == 4:
                value = value.contiguous(memory_format=layout)
            shared[name.replace(".", "/")] = torch.nn.Parameter(value)
        self.layout = layout
        networks = [[Network(graph, shared) for graph in step] for step in steps]
        if mode == "compile":
            networks = [[torch.compile(network) for network in step] for step in networks]
        self.networks = networks
        self.optimiser = torch.optim.SGD(shared.parameters(), lr=1e-3, momentum=0.9, weight_decay=3e-5)
        self.shape = largest["nodes"][0]["shape"]
        self.classes = largest["nodes"][-1]["shape"]["channels"]
        self.done = 0

    def run(self, batch, repetitions):
        shape = self.shape
        image = torch.randn(batch, shape["channels"], shape["height"], shape["width"])
        image = image.contiguous(memory_format=self.layout)
        labels = torch.arange(batch) % self.classes
        times = []
        for _ in range(repetitions):
            start = time.perf_counter()
            self.optimiser.zero_grad(set_to_none=True)
            for network in self.networks[self.done % len(self.networks)]:
                loss = F.cross_entropy(network(image), labels, label_smoothing=0.1)
                loss.backward()
            self.optimiser.step()
            times.append((time.perf_counter() - start) * 1e3)
            self.done += 1
        return times


def main():
    mode = sys.argv[1]
    torch.manual_seed(0)
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainings = {}
    for line in sys.stdin:
        request, *words = line.split()
        try:
            if request == "networks":
                name, file = words
                with open(file) as opened:
                    trainings[name] = Training(json.load(opened), mode)
                answer = "loaded"
            elif request == "train":
                name, batch, repetitions = words
                answer = trainings[name].run(int(batch), int(repetitions))
            elif request == "memory":
                # Without what importing the library takes.
                answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - imported
            else:
                answer = {"error": f"{line!r} is no request"}
        except Exception as error:  # the other side shows it
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(answer), flush=True)


main()

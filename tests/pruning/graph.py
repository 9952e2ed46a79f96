"""Networks as graphs of pixels, in which the paths of kept weights are searched for."""

import itertools
import math

import numpy as np

from lottery_jax.pruning import masks


class Graph:
    """A network as edges between pixels; each edge knows its kernel and weight.

    Layers are added from the input on; their inputs and outputs are arrays of node numbers.
    """

    def __init__(self, mask):
        self.kernels = {name: np.asarray(kernel) for name, kernel in masks.kernels(mask).items()}
        self.nodes = 0
        self.edges = []  # (from, to, layer, index of the weight in its kernel)

    def new(self, *shape):
        first, self.nodes = self.nodes, self.nodes + math.prod(shape)
        return np.arange(first, self.nodes).reshape(shape)

    def dense(self, x, name):
        kernel = self.kernels[name]
        y = self.new(kernel.shape[1])
        self.edges += [(x[i], y[o], name, (i, o)) for i, o in np.argwhere(kernel)]
        return y

    def conv(self, x, name, stride=1):
        kernel = self.kernels[name]
        padding = (len(kernel) - 1) // 2
        y = self.new(-(-len(x) // stride), -(-len(x) // stride), kernel.shape[3])
        taps = [tuple(index) for index in np.argwhere(kernel)]
        for r, c in np.ndindex(y.shape[:2]):
            for a, b, i, o in taps:
                row, column = stride * r + a - padding, stride * c + b - padding
                if 0 <= row < len(x) and 0 <= column < len(x):
                    self.edges.append((x[row, column, i], y[r, c, o], name, (a, b, i, o)))
        return y

    def pool(self, x, size=2, stride=2, padding=0):
        side = (len(x) + 2 * padding - size) // stride + 1
        y = self.new(side, side, x.shape[2])
        for r, c, a, b in itertools.product(range(side), range(side), range(size), range(size)):
            row, column = stride * r + a - padding, stride * c + b - padding
            if 0 <= row < len(x) and 0 <= column < len(x):
                self.join(x[row, column], y[r, c])
        return y

    def join(self, x, y):
        """Add edges without a weight from each node of `x` to the same node of `y`."""
        self.edges += [(i, j, None, None) for i, j in zip(x.ravel(), y.ravel(), strict=True)]

    def effective(self, inputs, outputs):
        """Return the weights with an edge that is reached from an input and leads to an output."""
        reached, leading = np.zeros(self.nodes, bool), np.zeros(self.nodes, bool)
        reached[inputs.ravel()] = leading[outputs.ravel()] = True
        # Edges were added from the input on, so that one pass each way is enough.
        for i, j, _, _ in self.edges:
            reached[j] |= reached[i]
        for i, j, _, _ in reversed(self.edges):
            leading[i] |= leading[j]
        found = {name: np.zeros(kernel.shape, bool) for name, kernel in self.kernels.items()}
        for i, j, name, index in self.edges:
            if name and reached[i] and leading[j]:
                found[name][index] = True
        return found


def lenet(mask, side):
    """Effective weights of LeNet-300-100 and of Conv-2."""
    graph = Graph(mask)
    x = inputs = graph.new(side, side, 1)
    if "conv1" in graph.kernels:
        x = graph.pool(graph.conv(graph.conv(x, "conv1"), "conv2"))
    x = graph.dense(x.ravel(), "dense1")
    return graph.effective(inputs, graph.dense(graph.dense(x, "dense2"), "head"))


def resnet18(mask, side):
    """Effective weights of ResNet18 with the ImageNet stem."""
    graph = Graph(mask)
    inputs = graph.new(side, side, 1)
    x = graph.pool(graph.conv(inputs, "stem", 2), size=3, stride=2, padding=1)
    for stage, block in itertools.product((1, 2, 3, 4), (1, 2)):
        name, stride = f"block{stage}_{block}", 2 if stage > 1 and block == 1 else 1
        y = graph.conv(graph.conv(x, f"{name}/conv1", stride), f"{name}/conv2")
        if f"{name}/shortcut" in graph.kernels:
            x = graph.conv(x, f"{name}/shortcut", stride)
        joined = graph.new(*y.shape)
        graph.join(x, joined)
        graph.join(y, joined)
        x = joined
    mean = graph.new(x.shape[2])
    for pixel in np.ndindex(x.shape[:2]):
        graph.join(x[pixel], mean)
    return graph.effective(inputs, graph.dense(mean, "head"))

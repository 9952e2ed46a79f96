"""A network of explicit widths as a PyTorch module: a file of Python that needs nothing but torch.

The names of layers are those here, with points for slashes. Inputs are `[batch, channels, height,
width]`, as PyTorch has them. A flat image has its pixels before its channels, as here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lottery_jax.errors import ConfigError
from lottery_jax.leaves import by_path
from lottery_jax.models.alexnet import AlexNet
from lottery_jax.models.lenet import LeNet
from lottery_jax.models.resnet import ResNet
from lottery_jax.models.vgg import VGG
from lottery_jax.models.vit import ViT
from lottery_jax.system.files import atomic_write
from lottery_jax.tickets.checkpoints import import_torch
from lottery_jax.tickets.layouts import LEAVES
from lottery_jax.tickets.ticket import Ticket, model_of

_HEAD = '''"""A network written by lottery_jax. Load it with

    model = Network()
    model.load_state_dict(torch.load("{weights}", weights_only=True))
    model.eval()

Inputs: float32 [batch, {channels}, {height}, {width}], pixels / 255 less {mean}, divided by {std}.
"""

import torch
import torch.nn.functional as F
from torch import nn


'''

_SEQUENCE = """class Network(nn.Module):
    def __init__(self):
        super().__init__()
{layers}

    def forward(self, x):
{calls}
        return self.head(x)
"""

_RESNET = """class Block(nn.Module):
    def __init__(self, read, layers, strided, stride, projects):
        super().__init__()
        self.layers, first = len(layers), read
        for i, (size, width) in enumerate(layers):
            step = stride if i == strided else 1
            conv = nn.Conv2d(read, width, size, step, size // 2, bias=False)
            setattr(self, f"conv{{i + 1}}", conv)
            setattr(self, f"bn{{i + 1}}", nn.BatchNorm2d(width))
            read = width
        self.projects = projects
        if projects:
            self.shortcut = nn.Conv2d(first, read, 1, stride, bias=False)
            self.bn_shortcut = nn.BatchNorm2d(read)

    def forward(self, x):
        y = x
        for i in range(1, self.layers + 1):
            y = getattr(self, f"bn{{i}}")(getattr(self, f"conv{{i}}")(y))
            y = F.relu(y) if i < self.layers else y
        if self.projects:
            x = self.bn_shortcut(self.shortcut(x))
        return F.relu(x + y)


# Each block: its name, the channels that it reads, (kernel size, channels) of its convolutions, which
# of them has the stride, the stride, and whether its shortcut is a convolution.
BLOCKS = [
{blocks}
]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d({channels}, {stem}, {size}, {stride}, {size} // 2, bias=False)
        self.bn_stem = nn.BatchNorm2d({stem})
        for name, *block in BLOCKS:
            setattr(self, name, Block(*block))
        self.head = nn.Linear({last}, {classes})

    def forward(self, x):
        x = F.relu(self.bn_stem(self.stem(x)))
{pool}        for name, *_ in BLOCKS:
            x = getattr(self, name)(x)
        return self.head(x.mean((2, 3)))
"""

_VIT = """class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear({size}, 3 * {size}), nn.Linear({size}, {size})

    def forward(self, x):
        batch, tokens, size = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, {heads}, size // {heads})
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-2, -1) * (size // {heads}) ** -0.5, -1)
        return self.proj((weights @ v).transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm({size}, eps=1e-6) for _ in range(2))
        self.attn = Attention()
        self.fc1, self.fc2 = nn.Linear({size}, hidden), nn.Linear(hidden, {size})

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d({channels}, {size}, {patch}, {patch})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, {size}))
        self.pos_embed = nn.Parameter(torch.zeros(1, {tokens}, {size}))
        for i, hidden in enumerate({hidden}, 1):
            setattr(self, f"block{{i}}", Block(hidden))
        self.norm = nn.LayerNorm({size}, eps=1e-6)
        self.head = nn.Linear({size}, {classes})

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for i in range(1, {depth} + 1):
            x = getattr(self, f"block{{i}}")(x)
        return self.head(self.norm(x)[:, 0])
"""


def export_torch_module(path: str | os.PathLike[str], ticket: Ticket) -> None:
    """Write `path`, a module `Network`, and beside it, with `.pth`, its trained weights.

    Raises:
        ConfigError: no such module can be written for the network.
        TicketError: PyTorch is not installed.
    """
    file = Path(path)
    torch = import_torch(file)
    weights = file.with_suffix(".pth")
    height, width, channels = ticket.metadata["input_shape"]
    about = {key: ticket.metadata[key] for key in ("mean", "std")}
    text = _HEAD.format(
        weights=weights.name, channels=channels, height=height, width=width, **about
    ) + _source(ticket)
    state = {key: torch.from_numpy(np.array(value)) for key, value in _state(ticket).items()}
    with atomic_write(weights) as temporary:
        torch.save(state, temporary)
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _state(ticket: Ticket) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in (ticket.trained, ticket.trained_batch_stats):
        for path, leaf in by_path(part).items():
            array, (module, _, name) = np.asarray(leaf), path.rpartition("/")
            if name == "kernel":
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            key = f"{module}/{LEAVES.get(name, name)}" if module else name
            found[key.replace("/", ".")] = np.ascontiguousarray(array)
            if name == "var":
                found[f"{module}/num_batches_tracked".replace("/", ".")] = np.zeros((), np.int64)
    return found


def _source(ticket: Ticket) -> str:
    module, (*_, channels) = model_of(ticket.metadata)
    shapes = {path: leaf.shape for path, leaf in by_path(ticket.trained).items()}
    if isinstance(module, ResNet):
        return _resnet(module, shapes)
    if isinstance(module, ViT):
        hidden = [shapes[f"block{i}/fc1/bias"][0] for i in range(1, module.depth + 1)]
        return _VIT.format(
            size=module.size, heads=module.heads, depth=module.depth, patch=module.patch,
            channels=channels, classes=module.num_classes, hidden=hidden,
            tokens=shapes["pos_embed"][1],
        )  # fmt: skip
    if not isinstance(module, LeNet | AlexNet | VGG):
        raise ConfigError(f"no PyTorch module is known for {type(module).__name__}")
    return _sequence(module, shapes)


def _resnet(module: ResNet, shapes: dict[str, tuple[int, ...]]) -> str:
    size, _, channels, stem = shapes["stem/kernel"]
    imagenet = module.stem == "imagenet"
    blocks, read = [], stem
    for i, stage in enumerate(module.stages, 1):
        for j, layers in enumerate(stage, 1):
            projects = f"block{i}_{j}/shortcut/kernel" in shapes
            stride = 2 if i > 1 and j == 1 else 1
            row = (f"block{i}_{j}", read, layers, module.strided, stride, projects)
            blocks.append(f"    {row},")
            read = layers[-1][1]
    pool = "        x = F.max_pool2d(x, 3, 2, 1)\n" if imagenet else ""
    return _RESNET.format(
        blocks="\n".join(blocks), channels=channels, stem=stem, size=size, pool=pool,
        stride=2 if imagenet else 1, last=read, classes=module.num_classes,
    )  # fmt: skip


def _sequence(module: LeNet | AlexNet | VGG, shapes: dict[str, tuple[int, ...]]) -> str:
    """Return a module of convolutions, poolings and dense layers, one after the other."""
    layers, calls = [], []
    pool, flat = "x = F.max_pool2d(x, 2)", "x = x.permute(0, 2, 3, 1).flatten(1)"

    def conv(name: str, stride: int = 1) -> None:
        size, _, read, has = shapes[f"{name}/kernel"]
        layers.append(f"self.{name} = nn.Conv2d({read}, {has}, {size}, {stride}, {size // 2})")
        inner = f"self.{name}(x)"
        if (norm := name.replace("conv", "bn")) and f"{norm}/scale" in shapes:
            layers.append(f"self.{norm} = nn.BatchNorm2d({has})")
            inner = f"self.{norm}({inner})"
        calls.append(f"x = F.relu({inner})")

    def dense(name: str) -> None:
        layers.append(f"self.{name} = nn.Linear({', '.join(map(str, shapes[f'{name}/kernel']))})")

    if isinstance(module, VGG):
        for i, stage in enumerate(module.widths, 1):
            calls.extend([pool] if i > 1 else [])
            for j in range(1, len(stage) + 1):
                conv(f"conv{i}_{j}")
        calls.append("x = x.mean((2, 3))")
    else:
        is_alexnet = isinstance(module, AlexNet)
        for i in range(1, len(module.conv_widths) + 1):
            conv(f"conv{i}", 2 if is_alexnet and i == 1 else 1)
            if (i in (1, 2, 5)) if is_alexnet else i % 2 == 0:
                calls.append(pool)
        calls.append(flat)
        for i in range(1, len(module.dense_widths) + 1):
            dense(f"dense{i}")
            calls.append(f"x = F.relu(self.dense{i}(x))")
    dense("head")
    indent = "\n        ".join
    return _SEQUENCE.format(layers="        " + indent(layers), calls="        " + indent(calls))

"""The PyTorch side of the benchmarks: the same networks and the same masked training.

The code follows the descriptions of the architectures in PyTorch's usual style: eager, NCHW, a
DataLoader, and masks that are multiplied into the weights after each optimizer step, as in the
PyTorch replication of Morcos et al. The benchmarks compare sizes with `lottery_jax.models` before
they time anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

Masks = dict[str, torch.Tensor]


class LeNet(nn.Sequential):
    """LeNet-300-100, or Conv-2 with `conv`, which has two convolutions first."""

    def __init__(self, shape: tuple[int, int, int], classes: int, *, conv: bool) -> None:
        height, width, channels = shape
        layers: list[nn.Module] = []
        hidden: tuple[int, ...] = (300, 100)
        if conv:
            for before, after in ((channels, 64), (64, 64)):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            height, width, channels, hidden = height // 2, width // 2, 64, (256, 256)
        layers.append(nn.Flatten())
        sizes = (height * width * channels, *hidden)
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], classes))


class VGG19(nn.Sequential):
    """VGG19 with BatchNorm, global average pooling and one linear layer."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        layers: list[nn.Module] = []
        before = shape[-1]
        for i, (width, depth) in enumerate(((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))):
            if i:
                layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width)]
                layers.append(nn.ReLU(inplace=True))
                before = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class Block(nn.Module):
    """Convolutions with a shortcut around them, which is a projection where shapes change."""

    def __init__(
        self, before: int, layers: tuple[tuple[int, int], ...], strided: int, stride: int
    ) -> None:
        super().__init__()
        body: list[nn.Module] = []
        inside = before
        for i, (size, after) in enumerate(layers):
            step = stride if i == strided else 1
            body.append(nn.Conv2d(inside, after, size, step, size // 2, bias=False))
            body.append(nn.BatchNorm2d(after))
            if i < len(layers) - 1:
                body.append(nn.ReLU(inplace=True))
            inside = after
        self.body = nn.Sequential(*body)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != inside:
            projection = nn.Conv2d(before, inside, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(inside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output for an input `[batch, channels, height, width]`."""
        return functional.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Sequential):
    """ResNet-20 with the CIFAR stem, or ResNet-50 with the ImageNet stem."""

    def __init__(self, shape: tuple[int, int, int], classes: int, *, bottleneck: bool) -> None:
        stem = 64 if bottleneck else 16
        size, stride = (7, 2) if bottleneck else (3, 1)
        layers: list[nn.Module] = [nn.Conv2d(shape[-1], stem, size, stride, size // 2, bias=False)]
        layers += [nn.BatchNorm2d(stem), nn.ReLU(inplace=True)]
        if bottleneck:
            layers.append(nn.MaxPool2d(3, 2, 1))
        depths = (3, 4, 6, 3) if bottleneck else (3, 3, 3)
        before = stem
        for i, depth in enumerate(depths):
            n = stem * 2**i
            convs = ((1, n), (3, n), (1, 4 * n)) if bottleneck else ((3, n), (3, n))
            for j in range(depth):
                layers.append(Block(before, convs, int(bottleneck), 2 if i and not j else 1))
                before = convs[-1][1]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


class AlexNet(nn.Sequential):
    """AlexNet for 32x32: a 3x3 stride-2 first layer, 2x2 pooling, 1024-4096-4096 classifier."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        layers: list[nn.Module] = []
        before = shape[-1]
        for i, width in enumerate((64, 192, 384, 256, 256)):
            layers += [nn.Conv2d(before, width, 3, 1 if i else 2, 1), nn.ReLU(inplace=True)]
            if i in (0, 1, 4):
                layers.append(nn.MaxPool2d(2))
            before = width
        layers.append(nn.Flatten())
        for size in (before * 4, 4096):
            layers += [nn.Dropout(0.5), nn.Linear(size, 4096), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Linear(4096, classes))


def build(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build the network of that name for images of shape `(height, width, channels)`."""
    match name:
        case "lenet_300_100" | "conv2":
            return LeNet(shape, classes, conv=name == "conv2")
        case "vgg19":
            return VGG19(shape, classes)
        case "resnet20" | "resnet50":
            return ResNet(shape, classes, bottleneck=name == "resnet50")
        case "alexnet":
            return AlexNet(shape, classes)
    raise ValueError(f"no network named {name!r}")


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of convolutions and linear layers by name."""
    kinds = (nn.Conv2d, nn.Linear)
    return {name: m.weight for name, m in model.named_modules() if isinstance(m, kinds)}


def dense_masks(model: nn.Module) -> Masks:
    """Return masks that keep everything, as floats because they are multiplied with weights."""
    return {name: torch.ones_like(w) for name, w in prunable(model).items()}


def percentile_masks(model: nn.Module, masks: Masks, fraction: float) -> Masks:
    """Prune by global magnitude with NumPy's percentile, as the PyTorch replication does."""
    weights = {name: w.detach().cpu().numpy() for name, w in prunable(model).items()}
    alive = np.concatenate([np.abs(w[w != 0]) for w in weights.values()])
    threshold = np.percentile(alive, 100 * fraction)
    return {
        name: masks[name]
        * torch.from_numpy((np.abs(w) >= threshold).astype(np.float32)).to(masks[name].device)
        for name, w in weights.items()
    }


def apply_masks(model: nn.Module, masks: Masks, *, at_once: bool = False) -> None:
    """Multiply the masks into the weights, in one call for all layers if `at_once`."""
    with torch.no_grad():
        if at_once:
            torch._foreach_mul_(list(prunable(model).values()), list(masks.values()))
            return
        for name, weight in prunable(model).items():
            weight.mul_(masks[name])


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    masks: Masks,
    images: torch.Tensor,
    labels: torch.Tensor,
    dtype: torch.dtype,
    *,
    at_once: bool = False,
) -> torch.Tensor:
    """Do one masked training step and return the loss, still on its device."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        loss = functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    apply_masks(model, masks, at_once=at_once)
    return loss.detach()


class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A data set that takes the steps of torchvision's FashionMNIST, ToTensor and Normalize.

    `lean` leaves out the detour through Pillow.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        lean: bool,
    ) -> None:
        self.images, self.labels, self.lean = images, labels, lean
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        if not self.lean:
            image = np.array(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image))
            image = image.reshape(self.images.shape[1:])
        tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean = torch.as_tensor(self.mean).view(-1, 1, 1)
        std = torch.as_tensor(self.std).view(-1, 1, 1)
        return tensor.sub_(mean).div_(std), int(self.labels[index])


def loader(data: Images, batch_size: int, *, shuffle: bool) -> torch.utils.data.DataLoader:
    """Return a DataLoader with PyTorch's defaults."""
    return torch.utils.data.DataLoader(data, batch_size, shuffle=shuffle, drop_last=shuffle)


def accuracy(model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the share of right answers."""
    model.eval()
    right = total = 0
    with torch.no_grad():
        device = next(model.parameters()).device
        for images, labels in batches:
            right += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
            total += len(labels)
    model.train()
    return right / total

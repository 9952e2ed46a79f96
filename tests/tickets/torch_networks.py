"""The zoo's networks in PyTorch, as torchvision, timm and the CIFAR repositories write them.

`n` is the width of the first layers. The names of modules are those of public checkpoints.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

SHAPE = (32, 32, 3)
VGG_STAGES = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2,) * 5, "vgg16": (2, 2, 3, 3, 3),
              "vgg19": (2, 2, 4, 4, 4)}  # fmt: skip
RESNET_BLOCKS = {"resnet20": (3,) * 3, "resnet32": (5,) * 3, "resnet56": (9,) * 3,
                 "resnet18": (2,) * 4, "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}  # fmt: skip


class LeNet(nn.Module):
    """Pairs of convolutions, then three linear layers, in the names of tutorials."""

    def __init__(self, convs, hidden, shape=(32, 32, 3), classes=10):
        super().__init__()
        height, width, before = shape
        self.convs = len(convs)
        for i, after in enumerate(convs, 1):
            setattr(self, f"conv{i}", nn.Conv2d(before, after, 3, padding=1))
            before = after
        inputs = before * (height >> self.convs // 2) * (width >> self.convs // 2)
        self.fc1 = nn.Linear(inputs, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], classes)

    def forward(self, x):
        for i in range(1, self.convs + 1):
            x = getattr(self, f"conv{i}")(x).relu()
            x = nn.functional.max_pool2d(x, 2) if i % 2 == 0 else x
        return self.fc3(self.fc2(self.fc1(x.flatten(1)).relu()).relu())


class VGG(nn.Module):
    """torchvision's vgg*_bn with a mean over the image and one linear layer at its end."""

    def __init__(self, name, n=64, classes=10):
        super().__init__()
        layers, before = [], 3
        for i, depth in enumerate(VGG_STAGES[name]):
            layers += [nn.MaxPool2d(2)] if i else []
            for _ in range(depth):
                width = n * min(2**i, 8)
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Zeros(nn.Module):
    """A shortcut without weights: every second pixel, and zeros around the channels."""

    def forward(self, x):
        channels = x.shape[1] // 2
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, channels, channels))


class Block(nn.Module):
    """Two or three convolutions, of which the first 3x3 one has the stride, and a shortcut."""

    def __init__(self, before, layers, stride, shortcut):
        super().__init__()
        inside = before
        for i, (size, after) in enumerate(layers, 1):
            step = stride if i == len(layers) - 1 else 1
            conv = nn.Conv2d(inside, after, size, step, size // 2, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(after))
            inside = after
        self.layers, self.shortcut_name = len(layers), shortcut
        if stride > 1 or before != inside:
            projection = nn.Conv2d(before, inside, 1, stride, bias=False)
            way = nn.Sequential(projection, nn.BatchNorm2d(inside))
            setattr(self, shortcut, Zeros() if shortcut == "zeros" else way)

    def forward(self, x):
        y = x
        for i in range(1, self.layers + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.layers else y
        shortcut = getattr(self, self.shortcut_name, None)
        return (y + (x if shortcut is None else shortcut(x))).relu()


class ResNet(nn.Module):
    """torchvision's ResNets and those of CIFAR.

    `head` and `shortcut` are `fc` and `downsample` at torchvision, `linear` and `shortcut` in
    repositories for CIFAR, where a shortcut may also be `zeros`, which has no weights.
    """

    def __init__(self, name, n=None, classes=10, stem="cifar", head="fc", shortcut="downsample"):
        super().__init__()
        blocks, is_deep = RESNET_BLOCKS[name], name == "resnet50"
        n = n or (16 if len(blocks) == 3 else 64)
        size, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(3, n, size, stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(n)
        self.stem, self.stages, self.head, before = stem, len(blocks), head, n
        for i, depth in enumerate(blocks):
            width, stage = n * 2**i, []
            layers = [(1, width), (3, width), (1, 4 * width)] if is_deep else [(3, width)] * 2
            for j in range(depth):
                stage.append(Block(before, layers, 2 if i and j == 0 else 1, shortcut))
                before = layers[-1][1]
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        setattr(self, head, nn.Linear(before, classes))

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        if self.stem == "imagenet":
            x = nn.functional.max_pool2d(x, 3, 2, 1)
        for i in range(1, self.stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class AlexNet(nn.Module):
    """torchvision's alexnet with the layer sizes of the experiments on 32x32 images."""

    def __init__(self, n=64, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, n, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(n, 3 * n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(3 * n, 6 * n, 3, padding=1), nn.ReLU(),
            nn.Conv2d(6 * n, 4 * n, 3, padding=1), nn.ReLU(),
            nn.Conv2d(4 * n, 4 * n, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(16 * n, 64 * n), nn.ReLU(),
            nn.Dropout(), nn.Linear(64 * n, 64 * n), nn.ReLU(), nn.Linear(64 * n, classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Attention(nn.Module):
    """timm's attention: queries, keys and values are one linear layer."""

    def __init__(self, size, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size)
        self.proj = nn.Linear(size, size)

    def forward(self, x):
        batch, tokens, size = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, size))


class Mlp(nn.Module):
    """timm's two linear layers with a GELU between them."""

    def __init__(self, size):
        super().__init__()
        self.fc1 = nn.Linear(size, 4 * size)
        self.fc2 = nn.Linear(4 * size, size)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Encoder(nn.Module):
    """timm's block."""

    def __init__(self, size, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(size, 1e-6)
        self.attn = Attention(size, heads)
        self.norm2 = nn.LayerNorm(size, 1e-6)
        self.mlp = Mlp(size)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """timm's vision transformer with patches of 4 pixels."""

    def __init__(self, n=192, heads=3, depth=12, classes=10, image=32):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, n))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image // 4) ** 2, n))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, n, 4, 4)
        self.blocks = nn.Sequential(*[Encoder(n, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(n, 1e-6)
        self.head = nn.Linear(n, classes)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


LENETS = {"lenet_300_100": ((), (300, 100)), "conv2": ((64, 64), (256, 256)),
          "conv4": ((64, 64, 128, 128), (256, 256)),
          "conv6": ((64, 64, 128, 128, 256, 256), (256, 256))}  # fmt: skip


def build(name, width=1.0, classes=10, **options):
    """Return a network of the zoo by its name here, with layers of `width` times their size."""
    if name in LENETS:
        convs, hidden = (tuple(round(n * width) for n in sizes) for sizes in LENETS[name])
        return LeNet(convs, hidden, classes=classes)
    if name in VGG_STAGES:
        return VGG(name, round(64 * width), classes)
    if name in RESNET_BLOCKS:
        n = round((16 if len(RESNET_BLOCKS[name]) == 3 else 64) * width)
        return ResNet(name, n, classes, **options)
    if name == "alexnet":
        return AlexNet(round(64 * width), classes)
    return ViT(3 * round(64 * width), classes=classes)


def randomise(module, gain):
    """Keep a random third of each kernel, and draw statistics unlike those of a new BatchNorm."""
    generator = torch.Generator().manual_seed(0)

    def uniform(like, low, high):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "." not in name:  # the tokens and positions of a transformer
                parameter.copy_(uniform(parameter, -1, 1))
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                bound = (gain / part.weight[0].numel()) ** 0.5
                kept = uniform(part.weight, 0, 1) < 1 / 3
                # A product, as masks are applied there: it leaves zeros of both signs.
                part.weight.copy_(uniform(part.weight, -bound, bound) * kept)
                if part.bias is not None:
                    part.bias.copy_(uniform(part.bias, -0.5, 0.5))
            if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm):
                part.weight.copy_(uniform(part.weight, 0.5, 1.5))
                part.bias.copy_(uniform(part.bias, -0.5, 0.5))
            if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
                part.running_mean.copy_(uniform(part.running_mean, -0.5, 0.5))
                part.running_var.copy_(uniform(part.running_var, 0.5, 1.5))
                part.num_batches_tracked.fill_(77)
    return module.eval()


def images(shape=SHAPE):
    return np.random.default_rng(0).standard_normal((2, *shape), np.float32)


def logits_there(module, shape=SHAPE):
    with torch.no_grad():
        return module(torch.from_numpy(images(shape).transpose(0, 3, 1, 2).copy())).numpy()


def assert_close(a, b):
    """Assert that logits agree to 1e-5 of the largest, and depend on the image."""
    a, b = np.asarray(a), np.asarray(b)
    assert np.abs(b).max() > 0.05 and np.abs(b[0] - b[1]).max() > 0.01
    assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()

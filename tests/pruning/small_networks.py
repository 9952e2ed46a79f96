"""Networks of the package made small, and one of one's own with a wiring."""

import flax.linen as nn

from lottery_jax.models import MODELS, resnet, vgg, vit

# Built by name, with the shape of images; the deep ones are compiled before releases.
QUICK = {"lenet_300_100": (0.05, (6, 6, 1)), "conv2": (0.1, (8, 8, 2))}
DEEP = {
    name: (0.03 if name.startswith(("vgg", "alexnet")) else 0.05, (32, 32, 3))
    for name in MODELS
    if name not in QUICK
}
_PLAIN, _NECK = (((3, 5), (3, 5)), ((3, 8), (3, 8))), (((1, 4), (3, 4), (1, 8)),)
# Few layers of each deep family: the network, the shape of images, the number of groups. In the first
# ResNet two blocks share a stream and one projects it; the other has bottlenecks after a pooled stem.
SHALLOW = {
    "vgg": (vgg.VGG(10, ((6,), (8, 10))), (8, 8, 3), 3),
    "resnet": (resnet.ResNet(10, "cifar", 5, ((_PLAIN[0],) * 2, _PLAIN[1:]), 0), (8, 8, 3), 2 + 3),
    "bottleneck": (resnet.ResNet(10, "imagenet", 4, (_NECK * 2,), 1), (16, 16, 3), 2 + 4),
    "vit": (vit.ViT(10, 12, 3, 1), (8, 8, 3), 1 + 1),
}


class Residual(nn.Module):
    """A shortcut between layers of one width: no chain, though it looks like one."""

    outputs: int = 10

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8, name="first")(x.reshape(len(x), -1)))
        x = x + nn.relu(nn.Dense(8, name="second")(x))
        return nn.Dense(self.outputs, name="last")(x)

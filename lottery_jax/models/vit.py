"""A small vision transformer (Dosovitskiy et al., ICLR 2021) for 32x32 images: patches of 4 pixels.

The layers and their names are those of DeiT-Tiny (Touvron et al., ICML 2021) but for the patches: 12
blocks of 192 numbers with 3 heads, a class token, learned positions, normalisation before each part.
LayerNorm takes no statistics of a batch. SynFlow sees little through it: LayerNorm gives the same
output whatever the scale of its input, so the flow through a block's weights nearly cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lottery_jax.models.layers import Conv
from lottery_jax.models.scaling import with_widths
from lottery_jax.models.wiring import Wiring

_INIT = nn.initializers.truncated_normal(0.02)
_EPSILON = 1e-6


class Attention(nn.Module):
    """Self-attention of all tokens with each other; queries, keys and values are one layer.

    Attributes:
        heads: number of heads, a divisor of the size of a token.
        dtype: in which the layer computes.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[batch, tokens, size]` to the same shape."""
        batch, tokens, size = x.shape
        qkv = nn.Dense(3 * size, kernel_init=_INIT, dtype=self.dtype, name="qkv")(x)
        shape = (batch, tokens, 3, self.heads, size // self.heads)
        q, k, v = jnp.moveaxis(qkv.reshape(shape), 2, 0)
        weights = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (size // self.heads) ** -0.5
        weights = jax.nn.softmax(weights.astype(jnp.float32)).astype(self.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
        return nn.Dense(size, kernel_init=_INIT, dtype=self.dtype, name="proj")(y)


class Block(nn.Module):
    """Attention, then two dense layers for each token; both are added to their input.

    Attributes:
        heads: as in `Attention`.
        dtype: in which the block computes.
        hidden: units of the first dense layer; 0: four times the size of a token.
    """

    heads: int
    dtype: Any = jnp.float32
    hidden: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[batch, tokens, size]` to the same shape."""
        size = x.shape[-1]
        norm = partial(nn.LayerNorm, epsilon=_EPSILON, dtype=self.dtype)
        dense = partial(nn.Dense, kernel_init=_INIT, dtype=self.dtype)
        x = x + Attention(self.heads, self.dtype, name="attn")(norm(name="norm1")(x))
        y = nn.gelu(
            dense(self.hidden or 4 * size, name="fc1")(norm(name="norm2")(x)), approximate=False
        )
        return x + dense(size, name="fc2")(y)


class ViT(nn.Module):
    """A vision transformer.

    Attributes:
        num_classes: number of outputs.
        size: numbers of a token.
        heads: heads of each block.
        depth: number of blocks.
        patch: height and width of a patch, in pixels.
        dtype: in which the network computes.
        hidden: for each block, `hidden` as in `Block`; empty: 0 for all.
    """

    num_classes: int
    size: int
    heads: int
    depth: int
    patch: int = 4
    dtype: Any = jnp.float32
    hidden: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Return logits of images `[batch, height, width, channels]`; `train` has no effect here.

        Raises:
            ValueError: patches do not fill the image.
        """
        batch, height, width, _ = x.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"height and width must be multiples of {self.patch}")
        embed = Conv(
            self.size, self.patch, self.patch, 0, kernel_init=_INIT, dtype=self.dtype,
            name="patch_embed",
        )  # fmt: skip
        x = embed(x).reshape(batch, -1, self.size)
        token = self.param("cls_token", _INIT, (1, 1, self.size), jnp.float32)
        token = jnp.broadcast_to(token.astype(self.dtype), (batch, 1, self.size))
        x = jnp.concatenate([token, x], axis=1)
        position = self.param("pos_embed", _INIT, (1, *x.shape[1:]), jnp.float32)
        x = x + position.astype(self.dtype)
        for i, hidden in enumerate(self.hidden or (0,) * self.depth, 1):
            x = Block(self.heads, self.dtype, hidden, name=f"block{i}")(x)
        x = nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm")(x)[:, 0]
        return nn.Dense(self.num_classes, kernel_init=_INIT, dtype=self.dtype, name="head")(x)

    @nn.nowrap
    def wiring(self) -> Wiring:
        """Return which units each layer reads and has.

        The numbers of a token are one group in all blocks. Heads stay where they are: what is
        within one is free up to any invertible matrix, so its numbers have no counterparts.
        """
        wires = dict.fromkeys(("patch_embed", "cls_token", "pos_embed", "norm"), ("", "token"))
        for i in range(1, self.depth + 1):
            block = f"block{i}/"
            wires |= {f"{block}{name}": ("", "token") for name in ("norm1", "norm2")}
            wires |= {f"{block}attn/qkv": ("token", ""), f"{block}attn/proj": ("", "token")}
            wires |= {f"{block}fc1": ("token", f"{block}fc1")}
            wires |= {f"{block}fc2": (f"{block}fc1", "token")}
        return wires | {"head": ("token", "")}


def _build(
    size: int,
    heads: int,
    depth: int,
    *,
    num_classes: int,
    width: float,
    dtype: Any,
    widths: Mapping[str, int] | None = None,
) -> ViT:
    per_head = max(1, round(size // heads * width))  # the same number of heads at any width
    size = heads * per_head
    standard = {f"block{i}/fc1": 4 * size for i in range(1, depth + 1)}
    counts = with_widths(standard, widths)
    hidden = tuple(counts.values()) if counts != standard else ()
    return ViT(num_classes, size, heads, depth, hidden=hidden, dtype=dtype)


MODELS: dict[str, Callable[..., nn.Module]] = {"vit_tiny": partial(_build, 192, 3, 12)}

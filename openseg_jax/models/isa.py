"""Interlaced sparse self-attention (Huang et al., 2019; OCNet, IJCV 2021).

A dense attention over all pixels becomes two sparse ones: among pixels at equal positions of
all windows (long range), then among the pixels of each window (short range). Original modules:
`isa_block.py`, `nets/isanet.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from openseg_jax.models.blocks import pointwise
from openseg_jax.models.fcn import ConvClassifier
from openseg_jax.models.layers import Conv, ConvNormAct, Rng, attend_in_groups, dropout2d


def long_range_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, window: tuple[int, int]
) -> jax.Array:
    """softmax(Q K^T / sqrt(d)) V among the pixels at equal positions of their windows.

    Pixel (y, x) attends to all (y', x') with y' = y modulo dh and x' = x modulo dw.

    Args:
        query, key: (n, h, w, d).
        value: (n, h, w, v).
        window: (dh, dw), which divide h and w.

    Returns:
        (n, h, w, v). The softmax is in at least float32.
    """
    return _attend_in_groups(query, key, value, window, (0, 2, 4, 1, 3, 5))


def short_range_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, window: tuple[int, int]
) -> jax.Array:
    """softmax(Q K^T / sqrt(d)) V among the pixels of each dh x dw window.

    Pixel (y, x) attends to all (y', x') with y' // dh = y // dh and x' // dw = x // dw.
    Arguments and result are those of `long_range_attention`.
    """
    return _attend_in_groups(query, key, value, window, (0, 1, 3, 2, 4, 5))


def _attend_in_groups(query, key, value, window, order):
    """Attention within groups of pixels.

    Args:
        order: of the axes (n, windows down, dh, windows across, dw, channels): the second and
            third are to number the groups, the fourth and fifth the pixels of a group.
    """
    (down, across), size = window, value.shape[:3]
    tiles = (size[0], size[1] // down, down, size[2] // across, across)

    def divide(x: jax.Array) -> jax.Array:
        x = x.reshape(*tiles, -1).transpose(order)
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3] * x.shape[4], -1)

    context = attend_in_groups(divide(query), divide(key), divide(value))
    context = context.reshape(*(tiles[axis] for axis in order[:-1]), -1)
    return context.transpose(np.argsort(order)).reshape(value.shape)


class SparseAttention(nnx.Module):
    """One of the two attentions with its transforms: `(n, h, w, c)` -> `(n, h, w, out)`."""

    def __init__(
        self,
        attend,
        channels: int,
        key_channels: int,
        out_features: int,
        *,
        norm: str,
        rng: Rng,
    ):
        def transform(*widths: int):
            return pointwise(*widths, bias=False, norm=norm, rng=rng)

        self.attend = attend
        self.query = transform(channels, key_channels, key_channels)
        self.key = transform(channels, key_channels, key_channels)
        self.value = Conv(channels, out_features, rng=rng)
        self.output = transform(out_features, out_features)

    def __call__(self, x: jax.Array, window: tuple[int, int]) -> jax.Array:
        query, key = self.query(x), self.key(x)
        (output,) = self.output

        def attend(value: jax.Array) -> jax.Array:
            return self.attend(query, key, value, window)

        return output.of_average(attend, x, self.value)


class InterlacedAttention(nnx.Module):
    """Long-range, then short-range attention: `(n, h, w, c)` -> context `(n, h, w, out)`.

    A map that windows do not tile is padded with zeros, half of them (rounded down) before.
    As in the original, these pixels attend, are attended to and count in the batch norms.

    Args:
        window: (dh, dw), the `factors` of the paper.
    """

    def __init__(
        self,
        channels: int,
        key_channels: int,
        out_features: int,
        window: tuple[int, int],
        *,
        norm: str,
        rng: Rng,
    ):
        self.long_range = SparseAttention(
            long_range_attention, channels, key_channels, out_features, norm=norm, rng=rng
        )
        self.short_range = SparseAttention(
            short_range_attention, out_features, key_channels, out_features, norm=norm, rng=rng
        )
        self.window = tuple(window)

    def __call__(self, x: jax.Array) -> jax.Array:
        h, w = x.shape[1:3]
        padding = [-size % step for size, step in zip((h, w), self.window, strict=True)]
        top, left = (pad // 2 for pad in padding)
        x = jnp.pad(x, ((0, 0), (top, padding[0] - top), (left, padding[1] - left), (0, 0)))
        x = self.short_range(self.long_range(x, self.window), self.window)
        return x[:, top : top + h, left : left + w]


class ISAModule(nnx.Module):
    """The pixels beside their context, fused: `(n, h, w, c)` -> `(n, h, w, out)`.

    Several windows make as many contexts of the same pixels, which a 1x1 convolution then
    widens accordingly.
    """

    def __init__(
        self,
        channels: int,
        key_channels: int,
        out_features: int,
        factors: tuple[tuple[int, int], ...],
        *,
        dropout: float,
        norm: str,
        rng: Rng,
    ):
        self.stages = nnx.List(
            InterlacedAttention(channels, key_channels, out_features, window, norm=norm, rng=rng)
            for window in factors
        )
        width = len(factors) * out_features
        several = len(factors) > 1
        self.widen = (
            ConvNormAct(channels, width, bias=False, norm=norm, rng=rng) if several else None
        )
        fused = 2 * width if several else channels + width
        self.fuse = ConvNormAct(fused, out_features, bias=False, norm=norm, rng=rng)
        self.dropout = dropout2d(dropout)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        contexts = [stage(x) for stage in self.stages]
        pixels = x if self.widen is None else self.widen(x)
        return self.dropout(self.fuse(pixels, *contexts), rngs=rngs)


class ISAHead(nnx.Module):
    """Feature maps -> (auxiliary, main) logits `(n, h, w, num_classes)` at feature resolution.

    The auxiliary block reads the last feature map but one, the rest the last.

    Args:
        factors: the windows (dh, dw) of one attention or several.
        bias, classifier_bias: of the 3x3 convolutions and of the main classifier.
        auxiliary: without it there is one output.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        num_classes: int,
        *,
        channels: int = 512,
        key_channels: int = 256,
        aux_channels: int | None = 512,
        factors: tuple[tuple[int, int], ...] = ((8, 8),),
        dropout: float = 0.05,
        bias: bool = False,
        classifier_bias: bool = True,
        auxiliary: bool = True,
        norm: str = "bn",
        rng: Rng,
    ):
        self.auxiliary = (
            ConvClassifier(
                widths[-2],
                aux_channels,
                num_classes,
                bias=bias,
                dropout=dropout,
                norm=norm,
                rng=rng,
            )
            if auxiliary
            else None
        )
        self.pixels = ConvNormAct(widths[-1], channels, 3, bias=bias, norm=norm, rng=rng)
        self.attention = ISAModule(
            channels, key_channels, channels, factors, dropout=dropout, norm=norm, rng=rng
        )
        self.classifier = Conv(channels, num_classes, bias=classifier_bias, rng=rng)

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, ...]:
        main = self.classifier(self.attention(self.pixels(features[-1]), rngs))
        if self.auxiliary is None:
            return (main,)
        return self.auxiliary(features[-2], rngs), main

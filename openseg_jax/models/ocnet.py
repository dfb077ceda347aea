"""Object context by self-attention: OCNet (Yuan et al., 2018; IJCV 2021).

Each pixel attends to every other (base-OC); in ASP-OC that context stands beside dilated
convolutions. Original modules: `base_oc_block.py`, `asp_oc_block.py`, `nets/ocnet.py`.
"""

from __future__ import annotations

import jax
from flax import nnx

from openseg_jax.models.blocks import AtrousPyramid, pointwise
from openseg_jax.models.fcn import ConvClassifier
from openseg_jax.models.layers import (
    Conv,
    ConvNormAct,
    NormAct,
    Rng,
    dropout2d,
    max_pool,
    resize_bilinear,
    self_attention,
    zeros,
)


class SelfAttention(nnx.Module):
    """The self-attention block of OCNet: `(n, h, w, c)` -> context `(n, h, w, c)`.

    Zero at the start of training, for its last convolution is.

    Args:
        key_channels: of queries, keys and values.
        scale: with more than 1, the map is max-pooled by that before and the context is
            resized after.
        chunk: as in `self_attention`.
    """

    def __init__(
        self,
        channels: int,
        key_channels: int,
        *,
        scale: int = 1,
        chunk: int | None = None,
        norm: str,
        rng: Rng,
    ):
        self.query = pointwise(channels, key_channels, key_channels, norm=norm, rng=rng)
        self.key = pointwise(channels, key_channels, key_channels, norm=norm, rng=rng)
        self.value = Conv(channels, key_channels, bias=True, rng=rng)
        self.output = Conv(key_channels, channels, bias=True, initializer=zeros, rng=rng)
        self.scale, self.chunk = scale, chunk

    def __call__(self, x: jax.Array) -> jax.Array:
        size = x.shape[1:3]
        x = max_pool(x, self.scale, self.scale) if self.scale > 1 else x
        query, key, value = self.query(x), self.key(x), self.value(x)
        n, h, w, _ = x.shape
        tokens = (y.reshape(n, h * w, -1) for y in (query, key, value))
        context = self_attention(*tokens, chunk=self.chunk).reshape(value.shape)
        return resize_bilinear(self.output(context), size)


class OCNetHead(nnx.Module):
    """Base-OC. Feature maps -> (auxiliary, main) logits `(n, h, w, num_classes)`.

    The auxiliary block reads the last feature map but one, the rest the last.

    Args:
        key_channels: of queries, keys and values.
        attention_chunk: queries at once, as `chunk` in `self_attention`.
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
        dropout: float = 0.05,
        auxiliary: bool = True,
        attention_chunk: int | None = None,
        norm: str = "bn",
        rng: Rng,
    ):
        self.auxiliary = (
            ConvClassifier(widths[-2], aux_channels, num_classes, norm=norm, rng=rng)
            if auxiliary
            else None
        )
        self.pixels = ConvNormAct(widths[-1], channels, 3, norm=norm, rng=rng)
        self.attention = SelfAttention(
            channels, key_channels, chunk=attention_chunk, norm=norm, rng=rng
        )
        self.fuse = ConvNormAct(2 * channels, channels, norm=norm, rng=rng)
        self.dropout = dropout2d(dropout)
        self.classifier = Conv(channels, num_classes, bias=True, rng=rng)

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, ...]:
        pixels = self.pixels(features[-1])
        fused = self.fuse(self.attention(pixels), pixels)
        main = self.classifier(self.dropout(fused, rngs=rngs))
        if self.auxiliary is None:
            return (main,)
        return self.auxiliary(features[-2], rngs), main


class PooledContext(nnx.Module):
    """The context branch of ASP-OC: 3x3 convolution, self-attention at half size, norm.

    `(n, h, w, in_features)` -> `(n, h, w, channels)`.
    """

    def __init__(
        self,
        in_features: int,
        channels: int,
        key_channels: int,
        *,
        chunk: int | None,
        norm: str,
        rng: Rng,
    ):
        self.reduce = ConvNormAct(in_features, channels, 3, norm=norm, rng=rng)
        self.attention = SelfAttention(
            channels, key_channels, scale=2, chunk=chunk, norm=norm, rng=rng
        )
        self.norm_act = NormAct(channels, norm=norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm_act(self.attention(self.reduce(x)))


class ASPOCNetHead(nnx.Module):
    """ASP-OC. Feature maps -> (auxiliary, main) logits `(n, h, w, num_classes)`.

    The auxiliary block reads the last feature map but one, the rest the last.

    Args:
        branch_channels: of the context and of each convolution beside it.
        key_channels: of queries, keys and values.
        dilations: of the 3x3 convolutions beside the context.
        attention_chunk: queries at once, as `chunk` in `self_attention`.
        auxiliary: without it there is one output.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        num_classes: int,
        *,
        channels: int = 512,
        branch_channels: int = 256,
        key_channels: int = 128,
        aux_channels: int | None = 512,
        dilations: tuple[int, ...] = (12, 24, 36),
        dropout: float = 0.1,
        auxiliary: bool = True,
        attention_chunk: int | None = None,
        norm: str = "bn",
        rng: Rng,
    ):
        self.auxiliary = (
            ConvClassifier(widths[-2], aux_channels, num_classes, norm=norm, rng=rng)
            if auxiliary
            else None
        )
        self.pixels = ConvNormAct(widths[-1], channels, 3, norm=norm, rng=rng)
        self.context = PooledContext(
            channels, branch_channels, key_channels, chunk=attention_chunk, norm=norm, rng=rng
        )
        self.pyramid = AtrousPyramid(
            channels,
            branch_channels,
            channels,
            dilations=dilations,
            bias=False,
            dropout=dropout,
            norm=norm,
            rng=rng,
        )
        self.classifier = Conv(channels, num_classes, bias=True, rng=rng)

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, ...]:
        pixels = self.pixels(features[-1])
        main = self.classifier(self.pyramid(pixels, self.context(pixels), rngs))
        if self.auxiliary is None:
            return (main,)
        return self.auxiliary(features[-2], rngs), main

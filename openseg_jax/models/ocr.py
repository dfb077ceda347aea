"""Object-contextual representations (Yuan, Chen and Wang, ECCV 2020).

Soft object regions (the auxiliary segmentation) gather pixels into one representation a class
(equation 4); each pixel then attends to those (equations 5 to 8) and is fused with what it
found (equation 9). Original modules: `spatial_ocr_block.py`, `nets/ocrnet.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from openseg_jax.models.layers import Conv, ConvNormAct, Sequential, dropout2d


def gather_objects(region_logits: jax.Array, pixels: jax.Array) -> jax.Array:
    """Object region representations: pixels averaged by how much they belong to each class.

    Args:
        region_logits: (n, h, w, k), the auxiliary segmentation before upsampling.
        pixels: (n, h, w, c).

    Returns:
        (n, k, 1, c), a column of pixels, so that 1x1 convolutions apply.
    """
    n, h, w, k = region_logits.shape
    wide = region_logits.astype(jnp.promote_types(region_logits.dtype, jnp.float32))
    weights = jax.nn.softmax(wide.reshape(n, h * w, k), axis=1).astype(pixels.dtype)
    objects = jnp.einsum("npk,npc->nkc", weights, pixels.reshape(n, h * w, -1))
    return objects[:, :, None, :]


class ObjectAttention(nnx.Module):
    """Each pixel attends to the object representations: `(n, h, w, c)` context."""

    def __init__(self, channels: int, key_channels: int, *, norm: str, rng: np.random.Generator):
        def transform(*widths: int) -> Sequential:
            pairs = zip(widths, widths[1:], strict=False)
            return Sequential([ConvNormAct(a, b, norm=norm, rng=rng) for a, b in pairs])

        self.query = transform(channels, key_channels, key_channels)
        self.key = transform(channels, key_channels, key_channels)
        self.value = transform(channels, key_channels)
        self.output = transform(key_channels, channels)

    def __call__(self, pixels: jax.Array, objects: jax.Array) -> jax.Array:
        query = self.query(pixels)
        key, value = self.key(objects)[:, :, 0], self.value(objects)[:, :, 0]
        scores = jnp.einsum("nhwd,nkd->nhwk", query, key) * query.shape[-1] ** -0.5
        wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        weights = jax.nn.softmax(wide, axis=-1).astype(value.dtype)
        return self.output(jnp.einsum("nhwk,nkd->nhwd", weights, value))


class AuxiliaryHead(nnx.Module):
    """3x3 convolution, norm, activation, dropout, classifier: the soft object regions."""

    def __init__(
        self,
        in_features: int,
        channels: int,
        num_classes: int,
        *,
        dropout: float,
        norm: str,
        rng: np.random.Generator,
    ):
        self.block = ConvNormAct(in_features, channels, 3, norm=norm, rng=rng)
        self.dropout = dropout2d(dropout)
        self.classifier = Conv(channels, num_classes, bias=True, rng=rng)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.classifier(self.dropout(self.block(x), rngs=rngs))


class OCRHead(nnx.Module):
    """Feature maps -> (auxiliary, main) logits `(n, h, w, num_classes)` at feature resolution.

    The auxiliary head reads the last feature map but one, the rest reads the last.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        num_classes: int,
        *,
        channels: int = 512,
        key_channels: int = 256,
        aux_channels: int = 512,
        dropout: float = 0.05,
        norm: str = "bn",
        rng: np.random.Generator,
    ):
        self.auxiliary = AuxiliaryHead(
            widths[-2], aux_channels, num_classes, dropout=dropout, norm=norm, rng=rng
        )
        self.pixels = ConvNormAct(widths[-1], channels, 3, norm=norm, rng=rng)
        self.attention = ObjectAttention(channels, key_channels, norm=norm, rng=rng)
        self.fuse = ConvNormAct(2 * channels, channels, norm=norm, rng=rng)
        self.dropout = dropout2d(dropout)
        self.classifier = Conv(channels, num_classes, bias=True, rng=rng)

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        regions = self.auxiliary(features[-2], rngs)
        pixels = self.pixels(features[-1])
        context = self.attention(pixels, gather_objects(regions, pixels))
        fused = self.fuse(jnp.concatenate([context, pixels], axis=-1))
        return regions, self.classifier(self.dropout(fused, rngs=rngs))

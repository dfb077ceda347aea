"""Object-contextual representations (Yuan, Chen and Wang, ECCV 2020).

Soft object regions (the auxiliary segmentation) gather pixels into one representation a class
(equation 4); each pixel then attends to those (equations 5 to 8) and is fused with what it
found (equation 9). Original modules: `spatial_ocr_block.py`, `nets/ocrnet.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from openseg_jax.models.blocks import pointwise
from openseg_jax.models.fcn import ConvClassifier
from openseg_jax.models.layers import (
    Conv,
    ConvNormAct,
    Rng,
    Sequential,
    at_least_float32,
    dropout2d,
    resize_bilinear,
)


def gather_objects(region_logits: jax.Array, pixels: jax.Array) -> jax.Array:
    """Object region representations: pixels averaged by how much they belong to each class.

    f_k = sum_p softmax_p(region_logits)_pk x_p: equation 4.

    Args:
        region_logits: (n, h', w', k), the auxiliary segmentation before upsampling; resized to
            the pixels where a backbone's last two maps differ in size.
        pixels: (n, h, w, c).

    Returns:
        (n, k, 1, c) in at least float32: a column of pixels, so that 1x1 convolutions apply.
    """
    wide = at_least_float32(pixels.dtype)
    logits = resize_bilinear(region_logits.astype(wide), pixels.shape[1:3])
    weights = jax.nn.softmax(logits, axis=(1, 2))
    return average_pixels(weights, pixels)


def average_pixels(weights: jax.Array, pixels: jax.Array) -> jax.Array:
    """`weights: (n, h, w, k)`, `pixels: (n, h, w, c)` -> weighted sums `(n, k, 1, c)`.

    As precise as the dtype of the weights: batch norm will tell apart sums that are nearly equal.
    """
    pixels = pixels.astype(weights.dtype)
    return jnp.einsum("nhwk,nhwc->nkc", weights, pixels, precision="highest")[:, :, None]


def attend_to_objects(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """sum_k softmax_k(q_p . k_k / sqrt(d)) v_k: equations 5 and 6 without the transforms.

    Args:
        query: (n, h, w, d), of the pixels.
        key: (n, k, 1, d), of the objects.
        value: (n, k, 1, v), of the objects.

    Returns:
        (n, h, w, v) in the dtype of the query; the softmax is in at least float32.
    """
    wide = at_least_float32(query.dtype)
    key = key[:, :, 0].astype(query.dtype)
    scores = jnp.einsum("nhwd,nkd->nhwk", query, key, preferred_element_type=wide)
    return distribute(jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1), value, query.dtype)


def distribute(weights: jax.Array, value: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`weights: (n, h, w, k)`, `value: (n, k, 1, v)` -> `(n, h, w, v)` in `dtype`."""
    return jnp.einsum("nhwk,nkv->nhwv", weights.astype(dtype), value[:, :, 0].astype(dtype))


def transform_objects(layers: Sequential, objects: jax.Array) -> jax.Array:
    """`layers(objects)`, better conditioned: `(n, k, 1, c)` -> `(n, k, 1, c')`.

    Early in training all objects are nearly equal, and the batch norm over so few of them blows
    up the rounding errors of what they share. So that part goes past the first convolution, and
    into the norm as a constant.
    """
    first, *rest = layers
    if first.norm_act.bn.use_running_average:
        return layers(objects)
    shared = jax.lax.stop_gradient(objects.mean((0, 1, 2)))
    constant = shared @ first.conv.kernel[...][0, 0].astype(shared.dtype)
    constant += 0 if first.conv.bias is None else first.conv.bias[...]
    x = first.norm_act(first.conv.without_bias(objects - shared), constant, centred=True)
    for layer in rest:
        x = layer(x)
    return x


class ObjectGather(nnx.Module):
    """`gather_objects` as a module without parameters."""

    def __call__(self, region_logits: jax.Array, pixels: jax.Array) -> jax.Array:
        return gather_objects(region_logits, pixels)


class ObjectAttention(nnx.Module):
    """Each pixel attends to the object representations.

    `pixels: (n, h, w, c)`, `objects: (n, k, 1, c)` -> context `(n, h, w, c)`.
    """

    def __init__(self, channels: int, key_channels: int, *, norm: str, rng: Rng):
        self.query = pointwise(channels, key_channels, key_channels, norm=norm, rng=rng)
        self.key = pointwise(channels, key_channels, key_channels, norm=norm, rng=rng)
        self.value = pointwise(channels, key_channels, norm=norm, rng=rng)
        self.output = pointwise(key_channels, channels, norm=norm, rng=rng)

    def __call__(self, pixels: jax.Array, objects: jax.Array) -> jax.Array:
        key, value = transform_objects(self.key, objects), transform_objects(self.value, objects)
        query = self.query(pixels)
        return self.write(lambda value: attend_to_objects(query, key, value), value)

    def write(self, average: Callable[[jax.Array], jax.Array], value: jax.Array) -> jax.Array:
        """What an `average` of the objects' values `(n, k, 1, v)` adds to each pixel."""
        (output,) = self.output
        return output.of_average(average, value)


class OCRHead(nnx.Module):
    """Feature maps -> (auxiliary, main) logits `(n, h, w, num_classes)` at feature resolution.

    The auxiliary block reads the last feature map but one, the rest the last.

    Args:
        channels, key_channels: of pixels and objects, and of the attention between them.
        aux_channels: of the auxiliary block; None: as many as its feature map has.
        aux_dropout: of the auxiliary block; None: as `dropout`.
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
        aux_dropout: float | None = None,
        norm: str = "bn",
        rng: Rng,
    ):
        self.auxiliary = ConvClassifier(
            widths[-2],
            aux_channels,
            num_classes,
            dropout=dropout if aux_dropout is None else aux_dropout,
            norm=norm,
            rng=rng,
        )
        self.pixels = ConvNormAct(widths[-1], channels, 3, norm=norm, rng=rng)
        self.gather = ObjectGather()
        self.attention = ObjectAttention(channels, key_channels, norm=norm, rng=rng)
        self.fuse = ConvNormAct(2 * channels, channels, norm=norm, rng=rng)
        self.dropout = dropout2d(dropout)
        self.classifier = Conv(channels, num_classes, bias=True, rng=rng)

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        regions = self.auxiliary(features[-2], rngs)
        pixels = self.pixels(features[-1])
        context = self.attention(pixels, self.gather(regions, pixels))
        fused = self.fuse(context, pixels)
        return regions, self.classifier(self.dropout(fused, rngs=rngs))

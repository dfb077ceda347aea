"""ResNeSt (Zhang et al., 2020) of radix 2 and cardinality 1, at output stride 8, 16 or 32.

Attributes keep the names of the published PyTorch files: `conv1.0`, `layer3.0.conv2.fc1`.
Original modules: `backbones/resnet/resnest_models.py` (without its ImageNet classifier).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from openseg_jax.models.layers import (
    BatchNorm,
    Rng,
    Sequential,
    average_pool,
    call,
    max_pool,
    relu,
    residual_relu,
)
from openseg_jax.models.resnet import PLANES, blocks_of, fan_out_conv, stage_strides

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 200: (3, 24, 36, 3), 269: (3, 30, 48, 8)}
RADIX = 2


class SplitAttention(nnx.Module):
    """`(n, h, w, c)` -> `(n, h, w, c)`: two 3x3 convolutions, mixed channel by channel.

    Global averages of their sum decide, through a bottleneck and a softmax over the two, how
    much of each goes into the result (section 3.1, equations 1 to 3).
    """

    def __init__(self, features: int, *, dilation: int, norm: str, rng: Rng):
        hidden = max(features * RADIX // 4, 32)
        self.conv = fan_out_conv(
            features, RADIX * features, 3, dilation=dilation, groups=RADIX, rng=rng
        )
        self.bn0 = BatchNorm(RADIX * features, norm=norm)
        self.fc1 = fan_out_conv(features, hidden, bias=True, rng=rng)
        self.bn1 = BatchNorm(hidden, norm=norm)
        self.fc2 = fan_out_conv(hidden, RADIX * features, bias=True, rng=rng)

    def __call__(self, x: jax.Array) -> jax.Array:
        splits = jnp.split(relu(self.bn0(self.conv(x))), RADIX, axis=-1)
        context = sum(splits).mean((1, 2), keepdims=True)
        scores = self.fc2(relu(self.bn1(self.fc1(context))))
        scores = scores.astype(jnp.promote_types(x.dtype, jnp.float32))
        weights = jax.nn.softmax(jnp.stack(jnp.split(scores, RADIX, axis=-1)), axis=0)
        return sum(
            split * weight for split, weight in zip(splits, weights.astype(x.dtype), strict=True)
        )


class Bottleneck(nnx.Module):
    """1x1 convolution, split attention, 1x1 convolution, and a shortcut.

    Strides are average pools: `pool` puts one after the split attention (even of stride 1), and
    a shortcut of another shape pools before its 1x1 convolution (section 3.2).
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        stride: int,
        dilation: int,
        *,
        pool: bool,
        norm: str,
        rng: Rng,
    ):
        out_features = 4 * width
        self.conv1 = fan_out_conv(in_features, width, rng=rng)
        self.bn1 = BatchNorm(width, norm=norm)
        self.conv2 = SplitAttention(width, dilation=dilation, norm=norm, rng=rng)
        self.conv3 = fan_out_conv(width, out_features, rng=rng)
        self.bn3 = BatchNorm(out_features, norm=norm)
        self.pool, self.stride = pool, stride
        self.downsample = _shortcut(in_features, out_features, stride, norm=norm, rng=rng)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = relu(self.bn1(self.conv1(x)))
        y = self.conv2(y)
        if self.pool:
            y = average_pool(y, 3, self.stride, 1)
        y = self.bn3(self.conv3(y))
        return residual_relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(in_features: int, out_features: int, stride: int, *, norm: str, rng: Rng):
    """What brings the input of a block to the shape of its output; None where it has it."""
    if stride == 1 and in_features == out_features:
        return None
    pool = partial(average_pool, size=stride, stride=stride, ceil_mode=True, count_padding=False)
    conv = fan_out_conv(in_features, out_features, rng=rng)
    return Sequential([pool, conv, BatchNorm(out_features, norm=norm)])


class ResNeSt(nnx.Module):
    """`(n, h, w, 3)` -> six feature maps: stem, max-pool, layer1 to layer4, `widths` wide.

    Args:
        depth: 50, 101, 200 or 269.
        output_stride: 8 (the original), 16 or 32; what is not strided is dilated.
        remat: compute the inside of the stages again in the backward pass, to save memory.
    """

    high_resolution = False

    def __init__(
        self,
        *,
        depth: int = 101,
        output_stride: int = 8,
        norm: str = "bn",
        remat: bool = False,
        rng: Rng,
    ):
        blocks = blocks_of(BLOCKS, depth)
        stem = 32 if depth == 50 else 64
        self.conv1 = Sequential(
            [
                fan_out_conv(3, stem, 3, 2, padding=1, rng=rng),
                BatchNorm(stem, norm=norm),
                relu,
                fan_out_conv(stem, stem, 3, rng=rng),
                BatchNorm(stem, norm=norm),
                relu,
                fan_out_conv(stem, 2 * stem, 3, rng=rng),
            ]
        )
        self.bn1 = BatchNorm(2 * stem, norm=norm)
        self.widths = (2 * stem,) * 2 + tuple(4 * planes for planes in PLANES)
        self.remat = remat

        def stage(index: int) -> Sequential:
            stride, first_dilation, dilation = stage_strides(output_stride)[index]
            common = dict(norm=norm, rng=rng)
            first = Bottleneck(
                self.widths[index + 1],
                PLANES[index],
                stride,
                first_dilation,
                pool=index > 0,
                **common,
            )
            others = (
                Bottleneck(self.widths[index + 2], PLANES[index], 1, dilation, pool=False, **common)
                for _ in range(blocks[index] - 1)
            )
            return Sequential([first, *others])

        self.layer1, self.layer2, self.layer3, self.layer4 = map(stage, range(4))

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        features = [relu(self.bn1(self.conv1(x)))]
        features.append(max_pool(features[-1], 3, 2, 1, ceil_mode=True))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features.append(call(layer, features[-1], remat=self.remat))
        return features

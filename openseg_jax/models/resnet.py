"""ResNet (He et al., 2016) and ResNeXt (Xie et al., 2017) at output stride 8, 16 or 32.

Attributes keep the names of the published PyTorch files: `resinit.conv1`, `layer3.0.bn2`.
Original modules: `backbones/resnet/resnet_models.py`, `resnet_backbone.py`, `resnext_models.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
from flax import nnx

from openseg_jax.errors import UserError
from openseg_jax.models.layers import (
    BatchNorm,
    Conv,
    Rng,
    Sequential,
    call,
    max_pool,
    normal_fan_out,
    relu,
    residual_relu,
)

BLOCKS = {  # a stage, by depth (table 1 of the paper)
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
PLANES = (64, 128, 256, 512)  # base widths of the four stages

fan_out_conv = partial(Conv, initializer=normal_fan_out)


def stage_strides(output_stride: int) -> list[tuple[int, int, int]]:
    """For layer1 to layer4: stride, dilation of the strided convolution, dilation of all others.

    Past the wanted output stride a convolution that would have strided keeps stride 1 and the
    dilation so far; those after it use twice that.
    """
    if output_stride not in (8, 16, 32):
        raise UserError(f"output_stride is {output_stride!r}: use 8, 16 or 32.")
    strides, current, dilation = [], 4, 1
    for stride in (1, 2, 2, 2):
        first_dilation = dilation
        if current * stride > output_stride:
            stride, dilation = 1, 2 * dilation
        current *= stride
        strides.append((stride, first_dilation, dilation))
    return strides


def blocks_of(depths: dict[int, tuple[int, ...]], depth: int) -> tuple[int, ...]:
    """Numbers of blocks of the four stages; UserError for a depth that is not in the table."""
    if depth not in depths:
        known = ", ".join(map(str, depths))
        raise UserError(f"depth is {depth!r}: there are networks of depth {known}.")
    return depths[depth]


class Stem(nnx.Module):
    """`(n, h, w, 3)` -> `(n, h/2, w/2, width)`: one 7x7 convolution, or three 3x3 (`deep`)."""

    def __init__(self, deep: bool, *, norm: str, rng: Rng):
        self.width = 128 if deep else 64
        self.conv1 = fan_out_conv(3, 64, 3 if deep else 7, 2, padding=1 if deep else 3, rng=rng)
        self.bn1 = BatchNorm(64, norm=norm)
        self.deep = deep
        if deep:
            self.conv2 = fan_out_conv(64, 64, 3, rng=rng)
            self.bn2 = BatchNorm(64, norm=norm)
            self.conv3 = fan_out_conv(64, 128, 3, rng=rng)
            self.bn3 = BatchNorm(128, norm=norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = relu(self.bn1(self.conv1(x)))
        if self.deep:
            x = relu(self.bn2(self.conv2(x)))
            x = relu(self.bn3(self.conv3(x)))
        return x


def _shortcut(in_features: int, out_features: int, stride: int, *, norm: str, rng: Rng):
    """What brings the input of a block to the shape of its output; None where it has it."""
    if stride == 1 and in_features == out_features:
        return None
    conv = fan_out_conv(in_features, out_features, stride=stride, rng=rng)
    return Sequential([conv, BatchNorm(out_features, norm=norm)])


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left); `dilations` has one for each."""

    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int,
        stride: int,
        dilations: tuple[int, int],
        *,
        groups: int = 1,
        norm: str,
        rng: Rng,
    ):
        self.conv1 = fan_out_conv(
            in_features, width, 3, stride, dilation=dilations[0], groups=groups, rng=rng
        )
        self.bn1 = BatchNorm(width, norm=norm)
        self.conv2 = fan_out_conv(
            width, out_features, 3, dilation=dilations[1], groups=groups, rng=rng
        )
        self.bn2 = BatchNorm(out_features, norm=norm)
        self.downsample = _shortcut(in_features, out_features, stride, norm=norm, rng=rng)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return residual_relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut (figure 5, right).

    The 3x3 convolution carries the stride, the groups and the first of `dilations`.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int,
        stride: int,
        dilations: tuple[int, int],
        *,
        groups: int = 1,
        norm: str,
        rng: Rng,
    ):
        self.conv1 = fan_out_conv(in_features, width, rng=rng)
        self.bn1 = BatchNorm(width, norm=norm)
        self.conv2 = fan_out_conv(
            width, width, 3, stride, dilation=dilations[0], groups=groups, rng=rng
        )
        self.bn2 = BatchNorm(width, norm=norm)
        self.conv3 = fan_out_conv(width, out_features, rng=rng)
        self.bn3 = BatchNorm(out_features, norm=norm)
        self.downsample = _shortcut(in_features, out_features, stride, norm=norm, rng=rng)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return residual_relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nnx.Module):
    """`(n, h, w, 3)` -> six feature maps: stem, max-pool, layer1 to layer4, `widths` wide.

    Args:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        deep_stem: three 3x3 convolutions instead of one 7x7; the original's "deepbase".
        output_stride: 8, 16 or 32; what is not strided is dilated.
        multi_grid: a dilation factor for each block of layer4, where that is dilated. Blocks
            beyond its end have factor 1; what is beyond the blocks is not used.
        groups, group_width: of the 3x3 convolutions, the width being that of layer1.
        ceil_mode: of the max-pool; the published ResNeXts go without.
        remat: compute the inside of the stages again in the backward pass, to save memory.
    """

    high_resolution = False

    def __init__(
        self,
        *,
        depth: int = 101,
        deep_stem: bool = True,
        output_stride: int = 8,
        multi_grid: Sequence[int] | None = None,
        groups: int = 1,
        group_width: int = 64,
        ceil_mode: bool = True,
        norm: str = "bn",
        remat: bool = False,
        rng: Rng,
    ):
        blocks = blocks_of(BLOCKS, depth)
        block, expansion = (BasicBlock, 1) if depth < 50 else (Bottleneck, 4)
        self.resinit = Stem(deep_stem, norm=norm, rng=rng)
        self.widths = (self.resinit.width,) * 2 + tuple(expansion * planes for planes in PLANES)
        self.ceil_mode, self.remat = ceil_mode, remat

        def stage(index: int) -> Sequential:
            stride, first_dilation, dilation = stage_strides(output_stride)[index]
            factors = _grid(multi_grid if index == 3 and dilation > 1 else None, blocks[index])
            out_features = self.widths[index + 2]
            width = PLANES[index] * group_width // 64 * groups
            layers = []
            for number, factor in enumerate(factors):
                first = number == 0
                dilations = (factor * (first_dilation if first else dilation), factor * dilation)
                layers.append(
                    block(
                        self.widths[index + 1] if first else out_features,
                        width,
                        out_features,
                        stride if first else 1,
                        dilations,
                        groups=groups,
                        norm=norm,
                        rng=rng,
                    )
                )
            return Sequential(layers)

        self.layer1, self.layer2, self.layer3, self.layer4 = map(stage, range(4))

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        features = [self.resinit(x)]
        features.append(max_pool(features[-1], 3, 2, 1, ceil_mode=self.ceil_mode))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features.append(call(layer, features[-1], remat=self.remat))
        return features


def _grid(multi_grid: Sequence[int] | None, blocks: int) -> list[int]:
    """A dilation factor for each of `blocks` blocks."""
    factors = list(multi_grid or ())
    if not all(isinstance(factor, int) and factor > 0 for factor in factors):
        raise UserError(f"multi_grid is {multi_grid!r}: give positive integers, as in (1, 2, 4).")
    return (factors + [1] * blocks)[:blocks]


# ResNeXt is a ResNet of 32 groups; with `group_width` 8, 16, 32 or 48.
RESNEXT = dict(depth=101, deep_stem=False, groups=32, ceil_mode=False)

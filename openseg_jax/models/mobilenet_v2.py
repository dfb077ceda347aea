"""MobileNetV2 (Sandler et al., 2018) at output stride 8, 16 or 32.

Attributes keep the names of the published PyTorch files: `features.N.conv.M`.
"""

from __future__ import annotations

import jax
from flax import nnx

from openseg_jax.models.layers import BatchNorm, Conv, Rng, Sequential, call, normal_fan_out, relu6

# Table 2 of the paper: (expansion, width, blocks, stride).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
OUTPUTS = (1, 3, 6, 13, 16, 17)  # the blocks whose results the heads may use


class InvertedResidual(nnx.Module):
    """Expand 1x1, depthwise 3x3, project 1x1; a shortcut where the shape is kept (figure 4d)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        stride: int,
        expansion: int,
        dilation: int,
        *,
        norm: str,
        rng: Rng,
    ):
        hidden = in_features * expansion
        self.shortcut = stride == 1 and in_features == out_features
        layers = []
        if expansion != 1:
            layers += _conv_norm(in_features, hidden, norm=norm, rng=rng) + [relu6]
        layers += _conv_norm(
            hidden, hidden, 3, stride, dilation=dilation, groups=hidden, norm=norm, rng=rng
        )
        layers += [relu6] + _conv_norm(hidden, out_features, norm=norm, rng=rng)
        self.conv = Sequential(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def _conv_norm(in_features, out_features, kernel=1, stride=1, *, norm, rng, **kwargs) -> list:
    conv = Conv(
        in_features, out_features, kernel, stride, initializer=normal_fan_out, rng=rng, **kwargs
    )
    return [conv, BatchNorm(out_features, norm=norm)]


class MobileNetV2(nnx.Module):
    """`(n, h, w, 3)` -> the six feature maps named by `OUTPUTS`.

    Past the wanted output stride a layer that would have strided keeps stride 1 and the
    dilation so far; the layers after it use twice that dilation.
    """

    high_resolution = False
    depthwise = True
    widths = (16, 24, 32, 96, 160, 320)

    def __init__(self, *, output_stride: int = 8, norm: str = "bn", remat: bool = False, rng: Rng):
        blocks: list = [Sequential(_conv_norm(3, 32, 3, 2, norm=norm, rng=rng) + [relu6])]
        width, current_stride, dilation = 32, 2, 1
        for expansion, out_width, count, stage_stride in STAGES:
            for index in range(count):
                stride, block_dilation = (stage_stride if index == 0 else 1), dilation
                if stride == 2 and current_stride >= output_stride:
                    stride, dilation = 1, 2 * dilation
                current_stride *= stride
                blocks.append(
                    InvertedResidual(
                        width, out_width, stride, expansion, block_dilation, norm=norm, rng=rng
                    )
                )
                width = out_width
        self.features = nnx.List(blocks)
        self.remat = remat

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        outputs = []
        for index, block in enumerate(self.features):
            x = call(block, x, remat=self.remat)
            if index in OUTPUTS:
                outputs.append(x)
        return outputs

"""Wide ResNet A2 (Wu, Shen and van den Hengel, 2016; Rota Bulo et al., 2018), pre-activated.

Attributes keep the names of the published PyTorch files: `mod4.block1.convs.conv2`.
Original module: `backbones/wide_resnet_models.py`.
"""

from __future__ import annotations

import jax
from flax import nnx

from openseg_jax.errors import UserError
from openseg_jax.models.layers import Conv, NormAct, Rng, call, max_pool
from openseg_jax.models.resnet import blocks_of

BLOCKS = {16: (1, 1, 1, 1, 1, 1), 20: (1, 1, 1, 3, 1, 1), 38: (3, 3, 6, 3, 1, 1)}
# Widths of the convolutions of a block in mod2 to mod7: two of 3x3, or 1x1, 3x3 and 1x1.
WIDTHS = (
    (128, 128),
    (256, 256),
    (512, 512),
    (512, 1024),
    (512, 1024, 2048),
    (1024, 2048, 4096),
)
STRIDES = (1, 1, 2, 2, 2, 1)  # max-pools before mod2 and mod3 stride by 2 each


class Convolutions(nnx.Module):
    """The residual branch after its first normalisation: convolutions with `NormAct` between."""

    def __init__(
        self,
        in_features: int,
        widths: tuple[int, ...],
        stride: int,
        dilation: int,
        *,
        norm: str,
        rng: Rng,
    ):
        self.bottleneck = len(widths) == 3
        size, outer = (1, 1) if self.bottleneck else (3, dilation)
        self.conv1 = Conv(in_features, widths[0], size, stride, dilation=outer, rng=rng)
        self.bn2 = NormAct(widths[0], norm=norm)
        self.conv2 = Conv(widths[0], widths[1], 3, dilation=dilation, rng=rng)
        if self.bottleneck:
            self.bn3 = NormAct(widths[1], norm=norm)
            self.conv3 = Conv(widths[1], widths[2], rng=rng)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv2(self.bn2(self.conv1(x)))
        return self.conv3(self.bn3(x)) if self.bottleneck else x


class Block(nnx.Module):
    """`(n, h, w, c)` -> the activated input and the output, which is a plain sum."""

    def __init__(
        self,
        in_features: int,
        widths: tuple[int, ...],
        stride: int,
        dilation: int,
        *,
        norm: str,
        rng: Rng,
    ):
        self.bn1 = NormAct(in_features, norm=norm)
        self.convs = Convolutions(in_features, widths, stride, dilation, norm=norm, rng=rng)
        fits = stride == 1 and in_features == widths[-1]
        self.proj_conv = None if fits else Conv(in_features, widths[-1], stride=stride, rng=rng)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        activated = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(activated)
        return activated, self.convs(activated) + shortcut


class Stage(nnx.Module):
    """The blocks `block1`, `block2`, … one after the other; returns as a block does."""

    def __init__(
        self,
        blocks: int,
        in_features: int,
        widths: tuple[int, ...],
        stride: int,
        dilation: int,
        *,
        norm: str,
        rng: Rng,
    ):
        self.names = tuple(f"block{number + 1}" for number in range(blocks))
        for name in self.names:
            setattr(self, name, Block(in_features, widths, stride, dilation, norm=norm, rng=rng))
            in_features, stride = widths[-1], 1

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        activated, x = self.block1(x)
        for name in self.names[1:]:
            _, x = getattr(self, name)(x)
        return activated, x


class WideResNet(nnx.Module):
    """`(n, h, w, 3)` -> four feature maps: mod4, mod5, mod6, and mod7 after `bn_out`.

    With `norm="inplace_abn"` the first three are not the sums but what the first normalisation
    of the next stage makes of them: the original computes it in place, and the published heads
    were trained on that.

    Args:
        depth: 16, 20 or 38.
        output_stride: 8 (the original), 16 or 32; what is not strided is dilated.
        remat: compute the inside of the stages again in the backward pass, to save memory.
    """

    high_resolution = False
    widths = tuple(widths[-1] for widths in WIDTHS[2:])

    def __init__(
        self,
        *,
        depth: int = 38,
        output_stride: int = 8,
        norm: str = "bn",
        remat: bool = False,
        rng: Rng,
    ):
        if output_stride not in (8, 16, 32):
            raise UserError(f"output_stride is {output_stride!r}: use 8, 16 or 32.")
        blocks = blocks_of(BLOCKS, depth)
        self.mod1 = nnx.Dict(conv1=Conv(3, 64, 3, rng=rng))
        in_features, current, dilation = 64, 4, 1
        for index, (widths, wanted) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
            # Past the output stride, a stage dilates by what it would have strided.
            stride = wanted if current * wanted <= output_stride else 1
            current, dilation = current * stride, dilation * wanted // stride
            stage = Stage(blocks[index], in_features, widths, stride, dilation, norm=norm, rng=rng)
            setattr(self, f"mod{index + 2}", stage)
            in_features = widths[-1]
        self.bn_out = NormAct(in_features, norm=norm)
        self.features_in_place, self.remat = norm == "inplace_abn", remat

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        x = max_pool(self.mod1.conv1(x), 3, 2, 1, ceil_mode=True)
        _, x = call(self.mod2, x, remat=self.remat)
        x = max_pool(x, 3, 2, 1, ceil_mode=True)
        _, x = call(self.mod3, x, remat=self.remat)
        _, x = call(self.mod4, x, remat=self.remat)
        features = []
        for stage in (self.mod5, self.mod6, self.mod7):
            activated, output = call(stage, x, remat=self.remat)
            features.append(activated if self.features_in_place else x)
            x = output
        return [*features, self.bn_out(x)]

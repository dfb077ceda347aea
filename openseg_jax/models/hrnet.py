"""High-resolution networks: HRNetV2 (Wang et al., TPAMI 2020) and the HRNet2x20 of SegFix.

Branches of several resolutions run in parallel (section 3.1 of the paper) and exchange what
they found after every module (section 3.2). Attributes keep the names of the published PyTorch
files.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from flax import nnx

from openseg_jax.models.layers import (
    BatchNorm,
    Conv,
    Rng,
    Sequential,
    call,
    relu,
    residual_relu,
    resize_bilinear,
)

BLOCKS = 4  # residual blocks of each branch of a module, and of HRNetV2's `layer1`


def merge_resolutions(features: Sequence[jax.Array]) -> jax.Array:
    """HRNetV2's representation (section 3.3): all maps at the first one's resolution, concatenated.

    Args:
        features: maps `(n, h, w, c)`, the highest resolution first.

    Returns:
        `(n, h, w, sum of c)`; lower resolutions are enlarged bilinearly (align_corners).
    """
    size = features[0].shape[1:3]
    return jnp.concatenate([resize_bilinear(x, size) for x in features], axis=-1)


def _conv_norm(in_features, out_features, kernel=3, stride=1, *, norm, rng) -> list:
    conv = Conv(in_features, out_features, kernel, stride, rng=rng)
    return [conv, BatchNorm(out_features, norm=norm)]


def _identity(x):
    return x


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut: `(n, h, w, features)`, shape kept."""

    def __init__(self, features: int, *, norm: str, rng: Rng):
        self.conv1, self.bn1 = _conv_norm(features, features, norm=norm, rng=rng)
        self.conv2, self.bn2 = _conv_norm(features, features, norm=norm, rng=rng)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(y)) + x)


class Bottleneck(nnx.Module):
    """1x1 to a quarter of the width, 3x3, 1x1 back: `(n, h, w, in)` -> `(n, h, w, features)`.

    The shortcut is a 1x1 convolution where the width changes.
    """

    def __init__(self, features: int, in_features: int | None = None, *, norm: str, rng: Rng):
        in_features = in_features or features
        hidden = features // 4
        self.conv1, self.bn1 = _conv_norm(in_features, hidden, 1, norm=norm, rng=rng)
        self.conv2, self.bn2 = _conv_norm(hidden, hidden, norm=norm, rng=rng)
        self.conv3, self.bn3 = _conv_norm(hidden, features, 1, norm=norm, rng=rng)
        self.downsample = Sequential()
        if in_features != features:
            self.downsample.extend(_conv_norm(in_features, features, 1, norm=norm, rng=rng))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        return relu(self.bn3(self.conv3(y)) + self.downsample(x))


class HighResolutionModule(nnx.Module):
    """Residual branches, one a resolution, and the exchange between them.

    Maps `(n, h, w, c)` in, maps of the same shapes out. Each output is the sum of all branches
    brought to its resolution, in the order of the branches, then ReLU.
    """

    def __init__(
        self,
        widths: Sequence[int],
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        *,
        norm: str,
        rng: Rng,
    ):
        self.branches = nnx.List(
            Sequential(block(width, norm=norm, rng=rng) for _ in range(BLOCKS)) for width in widths
        )
        self.fuse_layers = nnx.List(
            nnx.List(
                _exchange(widths, source, target, norm=norm, rng=rng)
                for source in range(len(widths))
            )
            for target in range(len(widths))
        )

    def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for layers, like in zip(self.fuse_layers, maps, strict=True):
            size = like.shape[1:3]  # only the maps of lower resolutions still differ from it
            terms = [resize_bilinear(layer(x), size) for layer, x in zip(layers, maps, strict=True)]
            fused.append(residual_relu(reduce(operator.add, terms)))
        return fused


def _exchange(widths: Sequence[int], source: int, target: int, *, norm: str, rng: Rng):
    """What brings the map of branch `source` to the width of `target`, and down to its size."""
    if source == target:
        return _identity
    if source > target:  # enlarged afterwards
        return Sequential(_conv_norm(widths[source], widths[target], 1, norm=norm, rng=rng))
    halvings: list = []
    for _ in range(target - source - 1):
        layers = _conv_norm(widths[source], widths[source], stride=2, norm=norm, rng=rng)
        halvings.append(Sequential([*layers, relu]))
    layers = _conv_norm(widths[source], widths[target], stride=2, norm=norm, rng=rng)
    return Sequential([*halvings, Sequential(layers)])


class Transition(nnx.List):
    """From the maps of one stage to those of the next, which has branches of lower resolution.

    A new branch reads the last map at stride 2; a map that keeps its width passes through.
    """

    def __init__(self, widths: Sequence[int], next_widths: Sequence[int], *, norm: str, rng: Rng):
        super().__init__()
        for index, width in enumerate(next_widths):
            if index >= len(widths):
                layers = _conv_norm(widths[-1], width, stride=2, norm=norm, rng=rng)
                self.append(Sequential([Sequential([*layers, relu])]))
            elif width != widths[index]:
                layers = _conv_norm(widths[index], width, norm=norm, rng=rng)
                self.append(Sequential([*layers, relu]))
            else:
                self.append(_identity)

    def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
        last = len(maps) - 1
        return [layer(maps[min(index, last)]) for index, layer in enumerate(self)]


def _stage(widths, modules: int, block=BasicBlock, *, norm, rng) -> nnx.List:
    return nnx.List(HighResolutionModule(widths, block, norm=norm, rng=rng) for _ in range(modules))


def run_stage(stage: nnx.List, maps: list[jax.Array], remat: bool) -> list[jax.Array]:
    """The maps after all modules of a stage; with `remat` the backward pass redoes each module."""
    for module in stage:
        maps = call(module, maps, remat=remat)
    return maps


class HRNetV2(nnx.Module):
    """`(n, h, w, 3)` -> four maps at strides 4, 8, 16 and 32, of `width` x 1, 2, 4 and 8.

    Args:
        width: channels of the highest resolution; 18, 32, 48 and 64 are published.
        norm: "bn", or "inplace_abn" as in the published segmentation checkpoints.
        remat: computes each module again in the backward pass instead of keeping its maps.
    """

    high_resolution = True

    def __init__(self, width: int, *, norm: str = "bn", remat: bool = False, rng: Rng):
        self.widths = (width, 2 * width, 4 * width, 8 * width)
        self.remat = remat
        options = {"norm": norm, "rng": rng}
        self.conv1, self.bn1 = _conv_norm(3, 64, stride=2, **options)
        self.conv2, self.bn2 = _conv_norm(64, 64, stride=2, **options)
        self.layer1 = Sequential(
            Bottleneck(256, 256 if index else 64, **options) for index in range(BLOCKS)
        )
        self.transition1 = Transition((256,), self.widths[:2], **options)
        self.stage2 = _stage(self.widths[:2], 1, **options)
        self.transition2 = Transition(self.widths[:2], self.widths[:3], **options)
        self.stage3 = _stage(self.widths[:3], 4, **options)
        self.transition3 = Transition(self.widths[:3], self.widths, **options)
        self.stage4 = _stage(self.widths, 3, **options)

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        maps = self.transition1([call(self.layer1, x, remat=self.remat)])
        maps = self.transition2(run_stage(self.stage2, maps, self.remat))
        maps = self.transition3(run_stage(self.stage3, maps, self.remat))
        return run_stage(self.stage4, maps, self.remat)


class HRNet2x20(nnx.Module):
    """`(n, h, w, 3)` -> five maps at strides 2, 4, 8, 16 and 32.

    SegFix's backbone (Yuan et al., ECCV 2020): twice the resolution of HRNetV2, width 20.

    Args:
        norm: "bn", or "inplace_abn" as in the published segmentation checkpoints.
        remat: computes each module again in the backward pass instead of keeping its maps.
    """

    high_resolution = True
    widths = (20, 40, 80, 160, 320)

    def __init__(self, *, norm: str = "bn", remat: bool = False, rng: Rng):
        self.remat = remat
        options = {"norm": norm, "rng": rng}
        wide = (128, 256)
        self.conv1, self.bn1 = _conv_norm(3, 64, stride=2, **options)
        self.transition0 = Transition((64,), wide, **options)
        self.stage1 = _stage(wide, 1, Bottleneck, **options)
        self.transition1 = Transition(wide, self.widths[:3], **options)
        self.stage2 = _stage(self.widths[:3], 1, **options)
        self.transition2 = Transition(self.widths[:3], self.widths[:4], **options)
        self.stage3 = _stage(self.widths[:4], 4, **options)
        self.transition3 = Transition(self.widths[:4], self.widths, **options)
        self.stage4 = _stage(self.widths, 3, **options)

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        maps = self.transition0([relu(self.bn1(self.conv1(x)))])
        maps = self.transition1(run_stage(self.stage1, maps, self.remat))
        maps = self.transition2(run_stage(self.stage2, maps, self.remat))
        maps = self.transition3(run_stage(self.stage3, maps, self.remat))
        return run_stage(self.stage4, maps, self.remat)

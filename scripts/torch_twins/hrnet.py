"""HRNetV2, with the original's keys: `stage3.0.branches.1.2.conv1`, `stage4.2.fuse_layers.0.3`."""

from __future__ import annotations

import operator
from functools import reduce

import torch
from torch import Tensor, nn

from torch_twins.layers import resize
from torch_twins.resnet import BasicBlock, Bottleneck

BLOCKS = 4


def merge(features: list[Tensor]) -> Tensor:
    """All maps at the resolution of the first, concatenated."""
    size = features[0].shape[2:]
    return torch.cat([features[0], *(resize(x, size) for x in features[1:])], 1)


def conv_norm(in_channels: int, channels: int, kernel=3, stride=1, relu=False) -> nn.Sequential:
    """A convolution without bias, its norm and optionally a ReLU."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    layers = [conv, nn.BatchNorm2d(channels)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Module(nn.Module):
    """Branches of residual blocks, then each map receives the sum of all."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(BLOCKS))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(exchange(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for target, layers in enumerate(self.fuse_layers):
            size, terms = maps[target].shape[2:], []
            for source, (layer, x) in enumerate(zip(layers, maps, strict=True)):
                term = layer(x)
                terms.append(resize(term, size) if source > target else term)
            fused.append(self.relu(reduce(operator.add, terms)))
        return fused


def exchange(widths: list[int], source: int, target: int) -> nn.Module:
    """What brings branch `source` to the width of `target`, and down to its size."""
    if source == target:
        return nn.Identity()
    if source > target:
        return conv_norm(widths[source], widths[target], 1)
    width = widths[source]
    halvings = [conv_norm(width, width, 3, 2, relu=True) for _ in range(target - source - 1)]
    return nn.Sequential(*halvings, conv_norm(width, widths[target], 3, 2))


def transition(widths: list[int], following: list[int]) -> nn.ModuleList:
    """One entry a branch of the next stage; a new branch reads the last map at stride 2."""
    layers = nn.ModuleList()
    for index, width in enumerate(following):
        if index >= len(widths):
            layers.append(nn.Sequential(conv_norm(widths[-1], width, 3, 2, relu=True)))
        elif width != widths[index]:
            layers.append(conv_norm(widths[index], width, relu=True))
        else:
            layers.append(nn.Identity())
    return layers


def enter(layers: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """The maps with which the next stage begins."""
    return [layer(maps[min(index, len(maps) - 1)]) for index, layer in enumerate(layers)]


class Stage(nn.Sequential):
    """Modules one after the other."""

    def __init__(self, widths: list[int], modules: int):
        super().__init__(*(Module(widths) for _ in range(modules)))


class HRNetV2(nn.Module):
    """`(n, 3, h, w)` -> maps at strides 4, 8, 16 and 32."""

    high_resolution = True

    def __init__(self, width: int):
        super().__init__()
        self.widths = [width, 2 * width, 4 * width, 8 * width]
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        blocks = [Bottleneck(64 if index == 0 else 256, 64) for index in range(BLOCKS)]
        self.layer1 = nn.Sequential(*blocks)
        self.transition1 = transition([256], self.widths[:2])
        self.stage2 = Stage(self.widths[:2], 1)
        self.transition2 = transition(self.widths[:2], self.widths[:3])
        self.stage3 = Stage(self.widths[:3], 4)
        self.transition3 = transition(self.widths[:3], self.widths)
        self.stage4 = Stage(self.widths, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        maps = self.stage2(enter(self.transition1, [self.layer1(x)]))
        maps = self.stage3(enter(self.transition2, maps))
        return self.stage4(enter(self.transition3, maps))

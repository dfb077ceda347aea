"""ResNet at output stride 8, 16 or 32; the original's keys: `resinit.conv1`, `layer3.0.bn2`."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
PLANES = (64, 128, 256, 512)


def conv3x3(in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Without bias, padded to keep the size at stride 1."""
    return nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)


def shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """1x1 convolution and norm where a block changes the shape."""
    if stride == 1 and in_channels == channels:
        return None
    conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; `dilations` has one for each."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: int = 1, dilations=(1, 1)):
        super().__init__()
        self.conv1 = conv3x3(in_channels, planes, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, dilation=dilations[1])
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride and the first of `dilations`) and 1x1 convolution."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: int = 1, dilations=(1, 1)):
        super().__init__()
        channels = planes * self.expansion
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride, dilations[0])
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def stem(deep: bool) -> nn.Sequential:
    """Three 3x3 convolutions (the original's "deepbase"), or one 7x7; stride 2."""
    if not deep:
        convs = [nn.Conv2d(3, 64, 7, 2, 3, bias=False)]
    else:
        convs = [conv3x3(3, 64, 2), conv3x3(64, 64), conv3x3(64, 128)]
    layers = OrderedDict()
    for number, conv in enumerate(convs, 1):
        layers[f"conv{number}"] = conv
        layers[f"bn{number}"] = nn.BatchNorm2d(conv.out_channels)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


class ResNet(nn.Module):
    """`(n, 3, h, w)` -> stem, max-pool, layer1 to layer4.

    Past `output_stride` a convolution that would have strided keeps the dilation so far, those
    after it use twice that. `multi_grid` are factors of the dilations of layer4's blocks.
    """

    high_resolution = False

    def __init__(self, depth: int, *, deep_stem=True, output_stride=None, multi_grid=None):
        super().__init__()
        block = BasicBlock if depth < 50 else Bottleneck
        self.resinit = stem(deep_stem)
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        width = 128 if deep_stem else 64
        self.widths = [width, width]
        total, dilation = 4, 1
        for index, (planes, count) in enumerate(zip(PLANES, BLOCKS[depth], strict=True)):
            stride, first = (1 if index == 0 else 2), dilation
            if total * stride > (output_stride or 8):
                stride, dilation = 1, 2 * dilation
            total *= stride
            grid = multi_grid if index == 3 and dilation > 1 and multi_grid else [1] * count
            blocks = []
            for number, factor in enumerate(grid[:count]):
                own = first if number == 0 else dilation
                dilations = (factor * own, factor * dilation)
                blocks.append(block(width, planes, stride if number == 0 else 1, dilations))
                width = planes * block.expansion
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
            self.widths.append(width)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.resinit(x)]
        for layer in (self.maxpool, self.layer1, self.layer2, self.layer3, self.layer4):
            features.append(layer(features[-1]))
        return features

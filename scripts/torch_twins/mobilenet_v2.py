"""MobileNetV2 at output stride 8, 16 or 32, with the published keys: `features.3.conv.1`."""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, width, blocks, stride.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
OUTPUTS = (1, 3, 6, 13, 16, 17)


def conv_norm(in_channels: int, channels: int, kernel=1, stride=1, dilation=1, groups=1) -> list:
    """A convolution without bias and its norm."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(
        in_channels, channels, kernel, stride, padding, dilation, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm2d(channels)]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int, dilation: int):
        super().__init__()
        hidden = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == channels
        layers = []
        if expansion != 1:
            layers += [*conv_norm(in_channels, hidden), nn.ReLU6(inplace=True)]
        layers += [*conv_norm(hidden, hidden, 3, stride, dilation, hidden), nn.ReLU6(inplace=True)]
        self.conv = nn.Sequential(*layers, *conv_norm(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """`(n, 3, h, w)` -> the results of the blocks `OUTPUTS`; dilated past `output_stride`."""

    high_resolution = False
    widths = (16, 24, 32, 96, 160, 320)

    def __init__(self, output_stride: int | None = None):
        super().__init__()
        blocks = [nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6(inplace=True))]
        width, total, dilation = 32, 2, 1
        for expansion, channels, count, stage_stride in STAGES:
            for number in range(count):
                stride, own = (stage_stride if number == 0 else 1), dilation
                if stride == 2 and total >= (output_stride or 8):
                    stride, dilation = 1, 2 * dilation
                total *= stride
                blocks.append(InvertedResidual(width, channels, stride, expansion, own))
                width = channels
        self.features = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in OUTPUTS:
                outputs.append(x)
        return outputs

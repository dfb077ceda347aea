"""Wide-ResNet A2 at output stride 8, with the original's keys: `mod4.block1.convs.conv2`."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from torch_twins.layers import bn_relu

BLOCKS = {16: (1, 1, 1, 1, 1, 1), 20: (1, 1, 1, 3, 1, 1), 38: (3, 3, 6, 3, 1, 1)}
# Of mod2 to mod7: widths of the convolutions of a block, stride of its first block, dilation.
STAGES = (
    ((128, 128), 1, 1),
    ((256, 256), 1, 1),
    ((512, 512), 2, 1),
    ((512, 1024), 1, 2),
    ((512, 1024, 2048), 1, 4),
    ((1024, 2048, 4096), 1, 4),
)


def convolutions(in_channels: int, widths, stride: int, dilation: int) -> nn.Sequential:
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1, with "BNReLU" between."""
    sizes = (3, 3) if len(widths) == 2 else (1, 3, 1)
    layers = OrderedDict()
    for number, (width, size) in enumerate(zip(widths, sizes, strict=True), 1):
        if number > 1:
            layers[f"bn{number}"] = bn_relu(in_channels)
        reach = dilation if size == 3 else 1
        layers[f"conv{number}"] = nn.Conv2d(
            in_channels,
            width,
            size,
            stride if number == 1 else 1,
            padding=reach * (size // 2),
            dilation=reach,
            bias=False,
        )
        in_channels = width
    return nn.Sequential(layers)


class Block(nn.Module):
    """Norm and activation first; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, widths, stride: int, dilation: int):
        super().__init__()
        self.bn1 = bn_relu(in_channels)
        self.convs = convolutions(in_channels, widths, stride, dilation)
        self.proj_conv = None
        if stride != 1 or in_channels != widths[-1]:
            self.proj_conv = nn.Conv2d(in_channels, widths[-1], 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(activated)
        return self.convs(activated) + shortcut


class WideResNet(nn.Module):
    """`(n, 3, h, w)` -> mod4, mod5, mod6, and mod7 after its norm."""

    high_resolution = False

    def __init__(self, depth: int):
        super().__init__()
        self.mod1 = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 64, 3, padding=1, bias=False)))
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        width = 64
        for index, (widths, stride, dilation) in enumerate(STAGES):
            blocks = OrderedDict()
            for number in range(BLOCKS[depth][index]):
                first_stride = stride if number == 0 else 1
                blocks[f"block{number + 1}"] = Block(width, widths, first_stride, dilation)
                width = widths[-1]
            setattr(self, f"mod{index + 2}", nn.Sequential(blocks))
        self.bn_out = bn_relu(width)
        self.widths = [widths[-1] for widths, _, _ in STAGES[2:]]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.mod3(self.pool(self.mod2(self.pool(self.mod1(x)))))
        features = []
        for stage in (self.mod4, self.mod5, self.mod6, self.mod7):
            x = stage(x)
            features.append(x)
        return [*features[:-1], self.bn_out(x)]

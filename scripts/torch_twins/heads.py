"""FCN, base-OC (OCNet), ISA and OCR, with the original's keys.

A network is its backbone under `backbone.` and the head's parts beside it. All map normalised
images `(n, 3, h, w)` to logits `(n, k, h, w)`, auxiliary first and main last, resized to the
images as float32 (so also under autocast). `network(images, auxiliary=False)` gives the main
logits alone and computes nothing else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_twins.hrnet import merge
from torch_twins.layers import attend, classifier, conv_bn_relu, resize


def fuse(in_channels: int, channels: int, dropout: float, bias: bool = True) -> nn.Sequential:
    """1x1 convolution, "BNReLU", dropout."""
    return nn.Sequential(*conv_bn_relu(in_channels, channels, bias=bias), nn.Dropout2d(dropout))


def transform(in_channels: int, channels: int, bias: bool = True) -> nn.Sequential:
    """Two 1x1 convolutions with "BNReLU": queries and keys."""
    first = conv_bn_relu(in_channels, channels, bias=bias)
    return nn.Sequential(*first, *conv_bn_relu(channels, channels, bias=bias))


def tokens(x: Tensor) -> Tensor:
    """`(n, c, h, w)` -> `(n, h * w, c)`."""
    return x.flatten(2).mT


class Network(nn.Module):
    """A backbone and what all heads do with its features and logits."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        merged = sum(backbone.widths)
        on_hrnet = backbone.high_resolution
        self.widths = (merged, merged) if on_hrnet else tuple(backbone.widths[-2:])

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the auxiliary and the main head read."""
        features = self.backbone(images)
        if self.backbone.high_resolution:
            merged = merge(features)
            return merged, merged
        return features[-2], features[-1]

    @staticmethod
    def outputs(images: Tensor, *logits: Tensor) -> tuple[Tensor, ...]:
        """Logits at the size of the images."""
        return tuple(resize(each.float(), images.shape[2:]) for each in logits)


class FCN(Network):
    """`fcnet`."""

    def __init__(self, backbone, classes, *, channels=512, aux_channels=512, dropout=0.1):
        super().__init__(backbone)
        options = dict(last_bias=False, dropout=dropout)
        self.dsn_head = classifier(self.widths[0], aux_channels, classes, **options)
        self.cls_head = classifier(self.widths[1], channels, classes, **options)

    def forward(self, images: Tensor, auxiliary: bool = True) -> tuple[Tensor, ...]:
        side, last = self.features(images)
        main = self.cls_head(last)
        return self.outputs(images, *([self.dsn_head(side)] if auxiliary else []), main)


class SelfAttention(nn.Module):
    """Every pixel attends to every other: `(n, c, h, w)`, shape kept."""

    def __init__(self, channels: int, key_channels: int, fused: bool):
        super().__init__()
        self.f_key = transform(channels, key_channels)
        self.f_query = transform(channels, key_channels)
        self.f_value = nn.Conv2d(channels, key_channels, 1)
        self.W = nn.Conv2d(key_channels, channels, 1)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.f_query(x), self.f_key(x), self.f_value(x)
        context = attend(tokens(query), tokens(key), tokens(value), self.fused)
        return self.W(context.mT.reshape(value.shape))


class BaseOC(nn.Module):
    """The context beside the pixels, fused."""

    def __init__(self, channels: int, key_channels: int, dropout: float, fused: bool):
        super().__init__()
        self.stages = nn.ModuleList([SelfAttention(channels, key_channels, fused)])
        self.conv_bn_dropout = fuse(2 * channels, channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_bn_dropout(torch.cat([self.stages[0](x), x], 1))


class OCNet(Network):
    """`base_ocnet`."""

    def __init__(
        self,
        backbone,
        classes,
        *,
        channels=512,
        key_channels=256,
        aux_channels=512,
        dropout=0.05,
        fused=True,
    ):
        super().__init__(backbone)
        self.oc_module_pre = nn.Sequential(*conv_bn_relu(self.widths[1], channels, 3))
        self.oc_module = BaseOC(channels, key_channels, dropout, fused)
        self.cls = nn.Conv2d(channels, classes, 1)
        self.dsn = classifier(self.widths[0], aux_channels, classes)

    def forward(self, images: Tensor, auxiliary: bool = True) -> tuple[Tensor, ...]:
        side, last = self.features(images)
        main = self.cls(self.oc_module(self.oc_module_pre(last)))
        return self.outputs(images, *([self.dsn(side)] if auxiliary else []), main)


class SparseAttention(nn.Module):
    """Pixels attend within groups: at equal positions of their windows, or in one window."""

    # Orders of the axes (n, oh, dh, ow, dw, c) in which the first three are a group.
    LONG, SHORT = (0, 2, 4, 1, 3, 5), (0, 1, 3, 2, 4, 5)

    def __init__(self, order, channels: int, key_channels: int, fused: bool):
        super().__init__()
        self.f_key = transform(channels, key_channels, bias=False)
        self.f_query = transform(channels, key_channels, bias=False)
        self.f_value = nn.Conv2d(channels, channels, 1, bias=False)
        self.W = nn.Sequential(*conv_bn_relu(channels, channels, bias=False))
        self.order, self.fused = order, fused

    def forward(self, x: Tensor, window: tuple[int, int]) -> Tensor:
        n, _, h, w = x.shape
        (dh, dw), (oh, ow) = window, (h // window[0], w // window[1])

        def split(y: Tensor) -> Tensor:
            y = y.permute(0, 2, 3, 1).reshape(n, oh, dh, ow, dw, -1).permute(self.order)
            return y.flatten(3, 4).flatten(0, 2)

        query, key, value = self.f_query(x), self.f_key(x), self.f_value(x)
        context = attend(split(query), split(key), split(value), self.fused)
        axes = [(n, oh, dh, ow, dw, -1)[axis] for axis in self.order]
        inverse = [self.order.index(axis) for axis in range(6)]
        context = context.reshape(axes).permute(inverse).reshape(n, h, w, -1)
        return self.W(context.permute(0, 3, 1, 2))


class InterlacedAttention(nn.Module):
    """Long range, then short range; a map that windows do not tile is padded with zeros."""

    def __init__(self, channels: int, key_channels: int, window: tuple[int, int], fused: bool):
        super().__init__()
        options = (channels, key_channels, fused)
        self.long_range_sa = SparseAttention(SparseAttention.LONG, *options)
        self.short_range_sa = SparseAttention(SparseAttention.SHORT, *options)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        down, across = (-size % step for size, step in zip((h, w), self.window, strict=True))
        top, left = down // 2, across // 2
        x = F.pad(x, (left, across - left, top, down - top))
        x = self.short_range_sa(self.long_range_sa(x, self.window), self.window)
        return x[:, :, top : top + h, left : left + w]


class ISAModule(nn.Module):
    """The pixels beside their context, fused."""

    def __init__(self, channels: int, key_channels: int, window, dropout: float, fused: bool):
        super().__init__()
        self.stages = nn.ModuleList([InterlacedAttention(channels, key_channels, window, fused)])
        self.conv_bn = fuse(2 * channels, channels, dropout, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_bn(torch.cat([x, self.stages[0](x)], 1))


class ISANet(Network):
    """`isanet` with one window."""

    def __init__(
        self,
        backbone,
        classes,
        *,
        channels=512,
        key_channels=256,
        aux_channels=512,
        factors=((8, 8),),
        dropout=0.05,
        fused=True,
    ):
        super().__init__(backbone)
        (window,) = factors
        self.isa_head = nn.Sequential(
            *conv_bn_relu(self.widths[1], channels, 3, bias=False),
            ISAModule(channels, key_channels, window, dropout, fused),
        )
        self.cls_head = nn.Conv2d(channels, classes, 1)
        options = dict(bias=False, dropout=dropout)
        self.dsn_head = classifier(self.widths[0], aux_channels, classes, **options)

    def forward(self, images: Tensor, auxiliary: bool = True) -> tuple[Tensor, ...]:
        side, last = self.features(images)
        main = self.cls_head(self.isa_head(last))
        return self.outputs(images, *([self.dsn_head(side)] if auxiliary else []), main)


def gather_objects(regions: Tensor, pixels: Tensor) -> Tensor:
    """Logits `(n, k, h, w)`, pixels `(n, c, h, w)` -> a representation a class `(n, c, k, 1)`."""
    weights = regions.flatten(2).softmax(-1)
    return (weights @ tokens(pixels)).mT[..., None]


class ObjectAttention(nn.Module):
    """Each pixel attends to the representations of the classes: `(n, c, h, w)`, shape kept."""

    def __init__(self, channels: int, key_channels: int):
        super().__init__()
        self.f_pixel = transform(channels, key_channels)
        self.f_object = transform(channels, key_channels)
        self.f_down = nn.Sequential(*conv_bn_relu(channels, key_channels))
        self.f_up = nn.Sequential(*conv_bn_relu(key_channels, channels))

    def forward(self, pixels: Tensor, objects: Tensor) -> Tensor:
        query, key, value = self.f_pixel(pixels), self.f_object(objects), self.f_down(objects)
        context = attend(tokens(query), tokens(key), tokens(value), fused=False)
        return self.f_up(context.mT.reshape(query.shape))


class SpatialOCR(nn.Module):
    """The object context beside the pixels, fused."""

    def __init__(self, channels: int, key_channels: int, dropout: float):
        super().__init__()
        self.object_context_block = ObjectAttention(channels, key_channels)
        self.conv_bn_dropout = fuse(2 * channels, channels, dropout)

    def forward(self, pixels: Tensor, objects: Tensor) -> Tensor:
        context = self.object_context_block(pixels, objects)
        return self.conv_bn_dropout(torch.cat([context, pixels], 1))


class OCR(Network):
    """`spatial_ocrnet`, and on HRNet `hrnet_w48_ocr`, which calls the same parts otherwise."""

    ON_HRNET = ("aux_head", "conv3x3", "ocr_distri_head", "cls_head")
    ELSEWHERE = ("dsn_head", "conv_3x3", "spatial_ocr_head", "head")

    def __init__(
        self,
        backbone,
        classes,
        *,
        channels=512,
        key_channels=256,
        aux_channels=None,
        dropout=0.05,
    ):
        super().__init__(backbone)
        if backbone.high_resolution:
            self.names, aux_dropout = self.ON_HRNET, None
            aux_channels = aux_channels or self.widths[0]
        else:
            self.names, aux_dropout = self.ELSEWHERE, dropout
            aux_channels = aux_channels or 512
        parts = (
            classifier(self.widths[0], aux_channels, classes, dropout=aux_dropout),
            nn.Sequential(*conv_bn_relu(self.widths[1], channels, 3)),
            SpatialOCR(channels, key_channels, dropout),
            nn.Conv2d(channels, classes, 1),
        )
        for name, part in zip(self.names, parts, strict=True):
            setattr(self, name, part)

    def forward(self, images: Tensor, auxiliary: bool = True) -> tuple[Tensor, ...]:
        regions_of, pixels_of, context_of, classify = (getattr(self, name) for name in self.names)
        side, last = self.features(images)
        regions, pixels = regions_of(side), pixels_of(last)
        main = classify(context_of(pixels, gather_objects(regions, pixels)))
        return self.outputs(images, *([regions] if auxiliary else []), main)

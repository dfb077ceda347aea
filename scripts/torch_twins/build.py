"""The twin of a network, from the same `config.model`."""

from __future__ import annotations

import re
from functools import partial

from torch import nn

from torch_twins.heads import FCN, OCR, ISANet, OCNet
from torch_twins.hrnet import HRNetV2
from torch_twins.mobilenet_v2 import MobileNetV2
from torch_twins.resnet import ResNet
from torch_twins.wide_resnet import WideResNet

METHODS = {"fcn": FCN, "ocnet": OCNet, "isa": ISANet, "ocr": OCR}
DEPTHS = "18|34|50|101|152"
BACKBONES = {  # by the pattern of our names: the class of the number in them, its options
    rf"resnet({DEPTHS})": (ResNet, ("output_stride", "multi_grid")),
    rf"resnet({DEPTHS})_7x7": (partial(ResNet, deep_stem=False), ("output_stride", "multi_grid")),
    r"wide_resnet(16|20|38)": (WideResNet, ()),
    r"hrnet_w(18|32|48|64)": (HRNetV2, ()),
    r"mobilenet_v2": (MobileNetV2, ("output_stride",)),
}
HEAD_OPTIONS = ("channels", "key_channels", "aux_channels", "dropout", "factors")


def build(model, fused_attention: bool = True) -> nn.Module:
    """A PyTorch network with random weights, in training mode.

    Args:
        model: `config.model`, with norm="bn".
        fused_attention: PyTorch's own attention kernels in OCNet and ISA, instead of matrix
            products as in the original.

    Raises:
        ValueError: there is no twin of this network.
    """
    on_hrnet = model.backbone.startswith("hrnet")
    if model.norm != "bn" or model.method not in (("ocr",) if on_hrnet else METHODS):
        raise ValueError(
            f"there is no PyTorch twin of {model.method} on {model.backbone} with norm={model.norm}"
        )
    options = {name: model[name] for name in HEAD_OPTIONS if model[name] is not None}
    if model.method in ("ocnet", "isa"):
        options["fused"] = fused_attention
    return METHODS[model.method](_backbone(model), model.num_classes, **options)


def _backbone(model) -> nn.Module:
    for pattern, (constructor, known) in BACKBONES.items():
        if found := re.fullmatch(pattern, model.backbone):
            options = {name: model[name] for name in known if model[name] is not None}
            return constructor(*map(int, found.groups()), **options)
    raise ValueError(f"there is no PyTorch twin of the backbone {model.backbone}")

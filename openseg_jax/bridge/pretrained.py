"""Backbone weights from any of the layouts that PyTorch files have them in."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
from flax import nnx

from openseg_jax.bridge.names import WORLDS, backbone_variables, to_ours
from openseg_jax.bridge.state_dict import COUNTER, Report, fill

ABN_EPSILON = 1e-5  # the activated batch norm scales by |weight| + this


def _same(key: str) -> str:
    return key


def _without_first_component(key: str) -> str:
    """`backbone.x`, `module.x`, `model.x`, `encoder.x`: whatever wrapped the backbone."""
    return key.partition(".")[2]


def _with_stem_prefix(key: str) -> str:
    """ImageNet ResNets keep the stem beside the layers, the original in `resinit`."""
    return f"resinit.{key}" if re.match(r"(conv|bn)\d\.", key) else key


def _torchvision_mobilenet(key: str) -> str:
    """torchvision wraps each convolution, norm and ReLU6 in a block of their own.

    `features.3.conv.1.0.weight` (block 1: convolution 0) is `features.3.conv.3.weight`, as each
    of its blocks counts three layers here; the projection after the blocks is not wrapped.
    """
    found = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.([01])\.(\w+)", key)
    if found:
        block, wrapper, layer, leaf = found.groups()
        return f"features.{block}.conv.{3 * int(wrapper) + int(layer)}.{leaf}"
    found = re.fullmatch(r"features\.(\d+)\.conv\.([1-3])\.(\w+)", key)
    if found:  # the projection (1 or 2) and its norm, after one wrapped block or two
        block, layer, leaf = found.groups()
        wrapped = 1 if block == "1" else 2
        return f"features.{block}.conv.{int(layer) + 2 * wrapped}.{leaf}"
    return key


def _timm_mobilenet(key: str) -> str:
    """timm calls the stem `conv_stem`, and the layers of a block by what they do."""
    key = re.sub(r"^conv_stem\.", "features.0.0.", key)
    key = re.sub(r"^bn1\.", "features.0.1.", key)
    found = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", key)
    if not found:
        return key
    stage, index, layer, leaf = found.groups()
    first = (1, 2, 4, 7, 11, 14, 17)[int(stage)]
    if stage == "0":
        places = {"conv_dw": 0, "bn1": 1, "conv_pw": 3, "bn2": 4}
    else:
        places = {"conv_pw": 0, "bn1": 1, "conv_dw": 3, "bn2": 4, "conv_pwl": 6, "bn3": 7}
    return f"features.{first + int(index)}.conv.{places.get(layer, layer)}.{leaf}"


LAYOUTS: tuple[Callable[[str], str], ...] = (
    _same,
    _without_first_component,
    _with_stem_prefix,
    lambda key: _with_stem_prefix(_without_first_component(key)),
    _torchvision_mobilenet,
    _timm_mobilenet,
)


def fill_backbone(backbone: nnx.Module, state: dict[str, np.ndarray], norm: str = "bn") -> Report:
    """Fills a backbone in place from the tensors of a PyTorch file, of it or of a whole model.

    Of the known layouts (the original's ImageNet files, whole segmentation models, torchvision's
    and timm's names) the one is taken that knows the most keys. A file of the other kind of
    batch norm is converted: the activated one's scale is |weight| + 1e-5 of its weight.

    Args:
        norm: the network's own batch norm.
    """
    targets = {world: backbone_variables(backbone, world) for world in WORLDS}

    def matches(candidate: tuple[Callable[[str], str], str]) -> int:
        layout, world = candidate
        return sum(layout(key) in targets[world] for key in state)

    layout, world = max(((f, w) for w in WORLDS for f in LAYOUTS), key=matches)
    if matches((layout, "bn")) == matches((layout, "inplace_abn")):
        # Whole models of the activated batch norm lack the counters; so do old ImageNet files.
        whole = len({key.startswith("backbone.") for key in state}) == 2  # backbone and head
        counted = any(key.endswith(COUNTER) for key in state)
        world = "inplace_abn" if whole and not counted else norm
    renamed = {
        layout(key): to_ours(array) for key, array in state.items() if not key.endswith(COUNTER)
    }
    if world == "inplace_abn" and norm == "bn":
        scales = {key for key in renamed if key.endswith(".weight") and renamed[key].ndim == 1}
        renamed |= {key: np.abs(renamed[key]) + ABN_EPSILON for key in scales}
    report = fill(targets[world], renamed)
    return dataclasses.replace(report, world=world)

"""How our parameters are called in PyTorch's files, and how their axes lie there.

Backbones carry PyTorch's own names, heads are renamed by the tables of `heads.py`. Where the
original has a "BNReLU", the two builds of it call the same weights differently: `X.0.weight`
where batch norm and ReLU are two modules (norm="bn"), `X.weight` where they are one
(norm="inplace_abn").
"""

from __future__ import annotations

import numpy as np
from flax import nnx

from openseg_jax.bridge.heads import HEAD_NAMES
from openseg_jax.models.segmenter import Segmenter

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
WORLDS = ("bn", "inplace_abn")


def network_variables(network: Segmenter, world: str) -> dict[str, nnx.Variable]:
    """Every parameter and statistic by its key in the original's state dict, in our order.

    Args:
        world: "bn" or "inplace_abn", the build whose keys are wanted.
    """
    head = HEAD_NAMES[original_model_name(network)]
    found = {}
    for path, variable in _flat_variables(network):
        if path[0] == "backbone":
            found["backbone." + _module_key(path[1:], world)] = variable
        else:
            found[_head_key(path[1:], head, world)] = variable
    return found


def backbone_variables(backbone: nnx.Module, world: str) -> dict[str, nnx.Variable]:
    """The same for a backbone alone, without the prefix `backbone.`."""
    return {_module_key(path, world): variable for path, variable in _flat_variables(backbone)}


def _flat_variables(module: nnx.Module) -> list[tuple[tuple, nnx.Variable]]:
    return nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))


def _module_key(path: tuple, world: str) -> str:
    """The key of a path whose components are PyTorch's names already."""
    *modules, leaf = path
    if modules and modules[-1] == "bn":  # inside a NormAct
        modules = modules[:-1] + (["0"] if world == "bn" else [])
    return ".".join([*map(str, modules), LEAVES[leaf]])


def _head_key(path: tuple, names: dict[str, str], world: str) -> str:
    """The key of a path in a head: its longest named prefix is replaced."""
    for length in range(len(path) - 1, 0, -1):
        name = names.get(".".join(map(str, path[:length])))
        if name is not None:
            break
    else:
        raise KeyError(f"the head's table names no prefix of {path}")
    rest = path[length:]
    if rest[0] == "conv":  # of a ConvNormAct, named by its convolution's place in a Sequential
        rest = rest[1:]
    elif rest[0] == "norm_act":
        sequential, index = name.rsplit(".", 1)
        name, rest = f"{sequential}.{int(index) + 1}", rest[1:]
    return f"{name}.{_module_key(rest, world)}"


ON_RESNET = {
    "fcn": "fcnet",
    "ocnet": "base_ocnet",
    "asp_ocnet": "asp_ocnet",
    "isa": "isanet",
    "ocr": "spatial_ocrnet",
    "asp_ocr": "spatial_asp_ocrnet",
    "ideal_ocr": "ideal_spatial_ocrnet",
    "ideal_ocr_b": "ideal_spatial_ocrnet_b",
    "ideal_ocr_c": "ideal_spatial_ocrnet_c",
    "ideal_gather_ocr": "ideal_gather_ocrnet",
    "ideal_distribute_ocr": "ideal_distribute_ocrnet",
    "ce2p": "ce2p_asp_ocrnet",
    "segfix": "segfix_hrnet",
}
ON_HRNET = {
    "fcn": "hrnet_w48",
    "ocr": "hrnet_w48_ocr",
    "asp_ocr": "hrnet_w48_asp_ocr",
    "isa": "hrnet_w48_isa",
}


def original_model_name(network: Segmenter) -> str:
    """The original's name of the network's head, or of the one most like it."""
    if network.backbone.high_resolution and network.method in ON_HRNET:
        return ON_HRNET[network.method]
    return ON_RESNET[network.method]


def to_ours(array: np.ndarray) -> np.ndarray:
    """A view with PyTorch's axes turned to ours: OIHW to HWIO."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def to_torch(array: np.ndarray) -> np.ndarray:
    """The inverse of `to_ours`, contiguous."""
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1)) if array.ndim == 4 else array

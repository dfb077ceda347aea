"""How our parameters are called in PyTorch's files, and how their axes lie there."""

from __future__ import annotations

import numpy as np
from flax import nnx

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Every parameter and statistic by PyTorch's name, where attributes carry torch's names."""
    found = {}
    for path, variable in nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat))):
        found[".".join([*map(str, path[:-1]), LEAVES[path[-1]]])] = variable
    return found


def to_ours(array: np.ndarray) -> np.ndarray:
    """PyTorch's axes to ours: OIHW to HWIO, OI to IO."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array

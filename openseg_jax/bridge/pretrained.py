"""Backbone weights from a PyTorch file, and the report of what went where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from flax import nnx

from openseg_jax.bridge.names import to_ours, variables
from openseg_jax.bridge.torch_files import read_checkpoint


@dataclasses.dataclass(frozen=True)
class Report:
    """Which keys of a file went where."""

    mapped: tuple[str, ...]
    missing: tuple[str, ...]  # in the module, not in the file
    unused: tuple[str, ...]  # in the file, not in the module
    clashes: tuple[str, ...]  # "key: shape in the file, shape in the module"

    @property
    def complete(self) -> bool:
        """Whether every weight of the module was filled."""
        return bool(self.mapped) and not self.missing and not self.clashes

    def __str__(self) -> str:
        parts = [f"{len(self.mapped)} arrays loaded"]
        for kind in ("missing", "unused", "clashes"):
            names = getattr(self, kind)
            if names:
                more = ", …" if len(names) > 4 else ""
                parts.append(f"{len(names)} {kind} ({', '.join(names[:4])}{more})")
        return "; ".join(parts)


def fill_backbone(backbone: nnx.Module, path: Path) -> Report:
    """Fills a backbone in place from a PyTorch file, of the backbone alone or of a whole model."""
    return fill(variables(backbone), _backbone_arrays(read_checkpoint(path)))


def _backbone_arrays(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The backbone's tensors of a PyTorch file, without its prefix, in our axes."""
    prefix = "backbone." if any(key.startswith("backbone.") for key in tensors) else ""
    return {
        key.removeprefix(prefix): to_ours(array)
        for key, array in tensors.items()
        if key.startswith(prefix) and not key.endswith("num_batches_tracked")
    }


def fill(targets: dict[str, nnx.Variable], arrays: dict[str, np.ndarray]) -> Report:
    """Copies arrays into the variables of the same names, where the shapes agree."""
    mapped, clashes = [], []
    for name, variable in targets.items():
        if name not in arrays:
            continue
        wanted = variable.get_value()
        if arrays[name].shape == wanted.shape:
            variable.set_value(np.array(arrays[name], wanted.dtype))
            mapped.append(name)
        else:
            clashes.append(f"{name}: {arrays[name].shape}, the model's is {wanted.shape}")
    return Report(
        tuple(mapped),
        tuple(name for name in targets if name not in arrays),
        tuple(name for name in arrays if name not in targets),
        tuple(clashes),
    )

"""`config.init_from`: a network's first weights from a PyTorch file or one of our checkpoints."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
from flax import nnx

from openseg_jax.bridge.names import to_ours, variables
from openseg_jax.bridge.torch_files import read_checkpoint
from openseg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Report:
    """Which keys of a file went where."""

    mapped: tuple[str, ...]
    missing: tuple[str, ...]  # in the module, not in the file
    unused: tuple[str, ...]  # in the file, not in the module
    clashes: tuple[str, ...]  # "key: shape in the file, shape in the module"

    def __str__(self) -> str:
        parts = [f"{len(self.mapped)} arrays loaded"]
        for kind in ("missing", "unused", "clashes"):
            names = getattr(self, kind)
            if names:
                more = ", …" if len(names) > 4 else ""
                parts.append(f"{len(names)} {kind} ({', '.join(names[:4])}{more})")
        return "; ".join(parts)


def initialize_from(path: str, network: nnx.Module) -> Report:
    """Fills `network` in place from `path`; a UserError where that would leave holes.

    A PyTorch file fills the backbone, and every backbone weight must be in it; a folder is one
    of our checkpoints (or a workdir: its best) and fills everything.
    """
    source = Path(path).expanduser()
    if not source.exists():
        raise UserError(
            f"config.init_from: {source} does not exist. Give the path of a PyTorch file (.pth, "
            ".pt, .safetensors) or of one of our checkpoints, or leave it empty to start from "
            "random weights."
        )
    if source.is_dir():
        report = _fill_from_checkpoint(source, network)
    else:
        report = fill(variables(network.backbone), backbone_arrays(read_checkpoint(source)))
    if not report.mapped or report.missing or report.clashes:
        raise UserError(
            f"config.init_from: {source} does not fit this network: {report}. Choose the "
            "config.model the file was made for, or another file."
        )
    logging.getLogger(__name__).info("init_from %s: %s", source, report)
    return report


def backbone_arrays(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
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


def _fill_from_checkpoint(folder: Path, network: nnx.Module) -> Report:
    from openseg_jax.training import checkpoint

    arrays, _ = checkpoint.load(checkpoint.find(folder))
    targets = {
        ".".join(map(str, path)): variable
        for path, variable in nnx.to_flat_state(nnx.state(network, (nnx.Param, nnx.BatchStat)))
    }
    return fill(targets, {name.split(".", 1)[1]: array for name, array in arrays.items()})

"""`config.init_from`: a network's first weights from a PyTorch file or one of our checkpoints."""

from __future__ import annotations

from pathlib import Path

from flax import nnx

from openseg_jax.bridge.pretrained import fill_backbone
from openseg_jax.bridge.state_dict import Report, fill
from openseg_jax.errors import UserError
from openseg_jax.models.segmenter import Segmenter
from openseg_jax.training import checkpoint


def initialize_from(path: str, network: Segmenter) -> Report:
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
        report = _fill_from_checkpoint(network, source)
    else:
        report = fill_backbone(network.backbone, source, network.norm)
    if not report.complete:
        raise UserError(
            f"config.init_from: {source} does not fit this network: {report}. Choose the "
            "config.model the file was made for, or another file."
        )
    return report


def _fill_from_checkpoint(network: Segmenter, folder: Path) -> Report:
    arrays, _ = checkpoint.load(checkpoint.find(folder))
    targets = {
        ".".join(map(str, path)): variable
        for path, variable in nnx.to_flat_state(nnx.state(network, (nnx.Param, nnx.BatchStat)))
    }
    return fill(targets, {name.split(".", 1)[1]: array for name, array in arrays.items()})

"""`config.init_from`: a network's first weights from a PyTorch file or one of our checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from flax import nnx

from openseg_jax.bridge.names import network_variables
from openseg_jax.bridge.pretrained import fill_backbone
from openseg_jax.bridge.state_dict import Report, detect_world, fill, load_state_dict
from openseg_jax.bridge.torch_files import read_file
from openseg_jax.errors import UserError
from openseg_jax.models.segmenter import Segmenter
from openseg_jax.training import checkpoint


def initialize_from(path: str, network: Segmenter, strict: bool = True) -> Report:
    """Fills `network` in place from `path`; a UserError where that would leave holes.

    A PyTorch file of a whole model of this method fills the network, any other PyTorch file its
    backbone; a folder is one of our checkpoints (or a workdir: its best) and fills everything.

    Args:
        strict: False lets what has another shape in the file (a classifier of other classes)
            or is not in it keep its random start.
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
        file = read_file(source)
        try:
            report = _fill_from_torch(network, file.tensors, strict)
        except UserError as error:
            raise UserError(f"config.init_from: {source}: {error}") from None
        report = dataclasses.replace(report, sha256=file.sha256)
    if not report.mapped or (strict and not report.complete):
        raise UserError(
            f"config.init_from: {source} does not fit this network: {report}. Choose the "
            "config.model the file was made for, or another file; for other classes, set "
            "config.init_strict=False, which lets what does not fit start from random weights."
        )
    return report


def _fill_from_torch(network: Segmenter, state: dict[str, np.ndarray], strict: bool) -> Report:
    world = detect_world(network, state)
    keys = network_variables(network, world).keys()
    lacking = [key for key in keys if key not in state]
    of_head = any(key in state and not key.startswith("backbone.") for key in keys)
    if of_head and strict and len(lacking) > len(keys) / 2:
        raise UserError(
            f"It is of another network: {len(lacking)} of {len(keys)} weights are not in it, such "
            f"as {lacking[0]}. Choose the config.model it was made for, or another file."
        )
    if of_head and (strict or world == network.norm):
        return load_state_dict(network, state, strict=False)
    return fill_backbone(network.backbone, state, network.norm)


def _fill_from_checkpoint(network: Segmenter, folder: Path) -> Report:
    arrays, _ = checkpoint.load(checkpoint.find(folder))
    targets = {
        ".".join(map(str, path)): variable
        for path, variable in nnx.to_flat_state(nnx.state(network, (nnx.Param, nnx.BatchStat)))
    }
    return fill(targets, {name.split(".", 1)[1]: array for name, array in arrays.items()})

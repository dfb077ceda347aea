"""The start of every recipe, and the argument of its config file."""

from __future__ import annotations

from ml_collections import ConfigDict

from openseg_jax.config import default_config
from openseg_jax.data import catalog
from openseg_jax.errors import UserError, did_you_mean
from openseg_jax.recipes.backbones import BACKBONES, head_widths

# Of `config.model`: what the original calls OCR_B.
NARROW_OCR = {"channels": 256, "key_channels": 128, "aux_channels": 256}


def parse(argument: str, *flags: str) -> tuple:
    """`BACKBONE[,FLAG…]` -> the backbone, and for each of `flags` whether it is there.

    Raises:
        UserError: for an unknown backbone or flag, with the near names.
    """
    backbone, *given = (part.strip() for part in argument.split(","))
    form = f"The config's argument is {argument!r}, and should be BACKBONE"
    form += "".join(f"[,{flag}]" for flag in flags) + ": "
    if backbone not in BACKBONES:
        raise UserError(
            f"{form}there is no backbone {backbone!r}. {did_you_mean(backbone, BACKBONES)}"
        )
    for flag in given:
        if flag not in flags:
            raise UserError(
                f"{form}{flag!r} has no meaning here. {did_you_mean(flag, flags) if flags else ''}"
            )
    return backbone, *(flag in given for flag in flags)


def start(dataset: str, method: str, backbone: str) -> ConfigDict:
    """The default config with data set, network and input, and the loss of the original's 4 GPUs.

    There class weights are normalised, and hard pixels are mined, on each GPU alone. The batch norm
    is that of the newer branch; `inplace_abn` is what all JSONs of the older one have.
    """
    config = default_config()
    config.data.name = dataset
    config.data.update(BACKBONES[backbone].inputs)
    config.model.update(
        method=method,
        backbone=backbone,
        norm="bn",
        num_classes=catalog.get(dataset).num_classes,
        **head_widths(method, backbone),
    )
    config.loss.update(name="ce", aux_weight=0.4, shards=4)
    config.augment.update(scale=(0.5, 2.0), aspect=(0.9, 1.1))
    return config


def at_side(config: ConfigDict, side: int) -> None:
    """Brings the short side of all images to `side` pixels first; crops are side x side."""
    config.augment.update(
        steps=("flip", "resize", "random_resize", "crop", "brightness"),
        resize_min_side=side,
        crop=(side, side),
    )
    config.eval.shorter_side = side


def newer_branch(config: ConfigDict) -> None:
    """What all recipes of the original's newer branch have: 8 GPUs and mixed precision."""
    config.dtype = "bfloat16"
    config.loss.shards = 8

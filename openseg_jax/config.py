"""The schema of a configuration: every key, its default, its meaning, and its checks.

A config file defines `get_config(arg)`, starts from `default_config()` and changes what differs.
The config is locked: a misspelt key is an error, not a silent no-op. Sizes are (height, width).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ml_collections import ConfigDict

from openseg_jax.data import catalog
from openseg_jax.errors import UserError

RGB_IMAGENET = dict(
    channel_order="rgb", scale=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def default_config() -> ConfigDict:
    """A fresh config with every key at its default, locked."""
    config = ConfigDict()
    config.seed = 0
    config.dtype = "auto"  # of activations: bfloat16 on accelerators, float32 on CPU
    config.init_from = ""  # a PyTorch file or one of our checkpoints; empty: random weights

    config.model = ConfigDict(
        dict(
            method="ocr",
            backbone="mobilenet_v2",
            norm="bn",  # or inplace_abn, as in the published checkpoints
            num_classes=0,  # of the data set
            output_stride=8,
            channels=512,  # width of the head
            key_channels=256,  # width of queries and keys
            aux_channels=512,  # width of the auxiliary head
            dropout=0.05,
        )
    )
    config.data = ConfigDict(
        dict(
            name="",
            dir="",  # empty: $OPENSEG_DATA, or ~/openseg_data
            train_split="train",
            eval_split="val",
            workers=0,  # processes that prepare batches; 0: threads of this process
            **RGB_IMAGENET,  # network input = (image / scale - mean) / std, in channel_order
        )
    )
    config.augment = ConfigDict(
        dict(
            scale=(0.5, 2.0),  # random resize
            aspect=(1.0, 1.0),  # random change of width / height
            crop=(512, 1024),
            flip=0.5,  # probability of a mirror image
            brightness=10,  # up to this many grey levels brighter or darker
        )
    )
    config.loss = ConfigDict(
        dict(
            aux_weight=0.4,
            class_weights=(),  # one number a class; empty: all equal
            shards=1,  # normalise the loss over this many parts of the batch, each on its own
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="sgd",  # or adamw
            learning_rate=0.01,
            head_lr_multiplier=1.0,  # for everything that is not the backbone
            momentum=0.9,
            weight_decay=5e-4,
            schedule="poly",  # or constant
            poly_power=0.9,
            warmup_steps=0,  # linear, from 0
        )
    )
    config.train = ConfigDict(
        dict(
            steps=40_000,
            batch_size=8,  # over all devices
            log_every=10,
            eval_every=1000,
            checkpoint_every=1000,
            keep_checkpoints=2,  # newest ones; the best is kept besides
        )
    )
    config.eval = ConfigDict(
        dict(
            batch_size=4,  # per host
            pictures=6,  # overlays written at each evaluation
        )
    )
    config.mesh = ConfigDict(dict(data=-1, height=1))  # -1: all devices
    return config.lock()


def data_dir(configured: str) -> Path:
    """The folder of built data sets: `config.data.dir`, $OPENSEG_DATA or ~/openseg_data."""
    return Path(configured or os.environ.get("OPENSEG_DATA") or "~/openseg_data").expanduser()


def validate(config: ConfigDict) -> None:
    """Raises UserError with the key, its value and the mend where a value cannot work."""

    def require(holds: bool, key: str, mend: str) -> None:
        if not holds:
            value = config
            for part in key.split("."):
                value = value[part]
            raise UserError(f"config.{key} is {value!r}: {mend}")

    require(bool(config.data.name), "data.name", "name a data set, for example toy_street.")
    require(config.model.norm in ("bn", "inplace_abn"), "model.norm", "use bn or inplace_abn.")
    dtypes = ("auto", "float32", "bfloat16", "float64")
    require(config.dtype in dtypes, "dtype", f"use one of {', '.join(dtypes)}.")
    classes = catalog.get(config.data.name).num_classes
    require(
        config.model.num_classes == classes,
        "model.num_classes",
        f"the data set {config.data.name} has {classes} classes.",
    )
    for key in ("train.steps", "train.batch_size", "train.log_every", "train.eval_every"):
        require(config[key.split(".")[0]][key.split(".")[1]] > 0, key, "it must be positive.")
    require(config.train.checkpoint_every > 0, "train.checkpoint_every", "it must be positive.")
    weights = config.loss.class_weights
    require(
        len(weights) in (0, config.model.num_classes),
        "loss.class_weights",
        f"give {config.model.num_classes} numbers, one a class, or none.",
    )
    require(
        config.loss.shards > 0 and config.train.batch_size % config.loss.shards == 0,
        "loss.shards",
        f"it must divide train.batch_size, which is {config.train.batch_size}.",
    )
    for key in ("scale", "aspect"):
        low, high = config.augment[key]
        require(0 < low <= high, f"augment.{key}", "give (low, high) with 0 < low <= high.")
    require(min(config.augment.crop) > 0, "augment.crop", "give a positive (height, width).")
    require(config.augment.brightness >= 0, "augment.brightness", "it may not be negative.")
    require(config.eval.batch_size > 0, "eval.batch_size", "it must be positive.")
    require(config.data.workers >= 0, "data.workers", "it may not be negative.")
    require(config.train.keep_checkpoints > 0, "train.keep_checkpoints", "it must be positive.")
    require(config.mesh.height > 0, "mesh.height", "it must be positive.")
    require(config.model.output_stride in (8, 16, 32), "model.output_stride", "use 8, 16 or 32.")
    require(config.optimizer.name in ("sgd", "adamw"), "optimizer.name", "use sgd or adamw.")
    schedules = ("poly", "constant")
    require(config.optimizer.schedule in schedules, "optimizer.schedule", "use poly or constant.")
    require(config.data.channel_order in ("rgb", "bgr"), "data.channel_order", "use rgb or bgr.")


# What may differ between a run and its continuation, besides the total number of steps.
MAY_CHANGE = (
    "data.dir",
    "data.workers",
    "init_from",  # only read by a fresh run
    "mesh.data",
    "mesh.height",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "eval.batch_size",
    "eval.pictures",
)


def to_dict(config: ConfigDict) -> dict:
    """Plain nested dicts, lists and scalars, as JSON holds them."""
    return json.loads(config.to_json_best_effort())


def from_dict(values: dict) -> ConfigDict:
    """The config saved by `to_dict`; keys this version does not know are a UserError."""
    config = default_config()
    try:
        with config.unlocked():
            _update(config, values, "")
    except KeyError as error:
        raise UserError(
            f"The saved config has the key {error.args[0]!r}, which this version of openseg_jax "
            "does not know. Use the version that wrote it, or remove the key."
        ) from None
    return config


def _update(config: ConfigDict, values: dict, prefix: str) -> None:
    for key, value in values.items():
        if key not in config:
            raise KeyError(prefix + key)
        if isinstance(value, dict):
            _update(config[key], value, f"{prefix}{key}.")
        else:
            config[key] = tuple(value) if isinstance(value, list) else value


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every key that differs, dotted, in order."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines


def check_same_network(trained_with: dict, wanted: dict) -> None:
    """Refuses to evaluate a checkpoint as another network, or with another normalisation."""
    inputs = ("data.channel_order", "data.scale", "data.mean", "data.std", "data.name")
    refused = [
        line
        for line in differences(trained_with, wanted)
        if line.startswith("model.") or line.split(":")[0] in inputs
    ]
    if refused:
        raise UserError(
            "The checkpoint was trained with another config. Differing keys:\n  "
            + "\n  ".join(refused)
        )


def check_resumable(old: dict, new: dict, extend: bool = False) -> None:
    """Refuses to continue a run under a config that would make it another experiment."""
    refused = [
        line
        for line in differences(old, new)
        if line.split(":")[0] not in MAY_CHANGE + ("train.steps",)
    ]
    steps = old["train"]["steps"], new["train"]["steps"]
    if steps[0] != steps[1] and not extend:
        refused.append(
            f"train.steps: {steps[0]} -> {steps[1]} (it stretches the learning-rate schedule; "
            "pass --extend to do so all the same)"
        )
    if refused:
        raise UserError(
            "This workdir was trained with another config. Differing keys:\n  "
            + "\n  ".join(refused)
            + "\nGo on with the old values, or choose another --workdir."
        )

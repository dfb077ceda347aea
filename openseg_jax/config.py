"""The schema of a configuration: every key, its default, its meaning, and its checks.

A config file defines `get_config(arg)`, starts from `default_config()` and changes what differs.
The config is locked: a misspelt key is an error, not a silent no-op. Sizes are (height, width).
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

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
    config.init_strict = True  # False: what does not fit the network keeps its random start

    config.model = ConfigDict(
        dict(
            method="ocr",
            backbone="mobilenet_v2",
            norm="bn",  # or inplace_abn, as in the published checkpoints
            num_classes=0,  # of the data set
            remat=False,  # compute each stage again in the backward pass: less memory, more time
            # None stands for the original's choice for this method and backbone.
            output_stride=placeholder(int),  # 8, 16 or 32
            multi_grid=placeholder(tuple),  # dilation factors of a ResNet's last blocks
            channels=placeholder(int),  # width of the head
            key_channels=placeholder(int),  # width of queries and keys
            aux_channels=placeholder(int),  # width of the auxiliary head
            dropout=placeholder(float),
            dilations=placeholder(tuple),  # of ASP-OC's and ASP-OCR's branches
            factors=placeholder(tuple),  # ISA: (along the height, along the width) of each stage
            attention_chunk=placeholder(int),  # OCNet: rows of the attention matrix at a time
        )
    )
    config.data = ConfigDict(
        dict(
            name="",
            # Of a user's own data set; `data.folder.configure` fills them in.
            classes=(),
            palette=(),  # an RGB colour a class
            label_map=(),  # pairs: value in the stored masks, train id (255: ignored)
            flip_pairs=(),  # pairs of train ids that swap in a mirror image
            dir="",  # empty: $OPENSEG_DATA, or ~/openseg_data
            train_split="train",
            eval_split="val",
            workers=0,  # processes that prepare batches; 0: threads of this process
            boundaries="",  # classes or instances: batches also have the maps SegFix learns
            **RGB_IMAGENET,  # network input = (image / scale - mean) / std, in channel_order
        )
    )
    config.augment = ConfigDict(
        dict(
            # What happens, in this order; also: resize, contrast, saturation, hue,
            # permute_channels, rotate, pad. Brightness is last among the colours.
            steps=("random_resize", "crop", "flip", "brightness"),
            resize=(),  # step resize: to this size, or else
            resize_min_side=0,  # to this length of the short side, or else
            resize_max_side=0,  # of the long side
            scale=(0.5, 2.0),  # step random_resize
            aspect=(1.0, 1.0),  # random change of width / height
            bound=(),  # instead of a random scale: longest (short side, long side)
            max_side=0,  # longest side after either resize; 0: no limit
            whole_resize=False,  # resize all of an image, not only the crop: equal but for rounding
            crop=(512, 1024),  # size of the examples
            crop_method="random",  # or center, grid
            crop_grid=(2, 2),  # crop positions (rows, columns) of the method grid
            flip=0.5,  # probability of a mirror image
            brightness=10,  # up to this many grey levels brighter or darker
            probability=1.0,  # of each of the next steps, where they are named
            contrast=(0.5, 1.5),  # factor
            saturation=(0.5, 1.5),  # factor
            hue=18.0,  # up to this many degrees either way
            rotate=10.0,  # up to this many degrees either way
            padding=(0, 0, 0, 0),  # step pad: left, up, right, down
            align="pad",  # of examples smaller than the crop; or scale, scale_and_pad
            pad="random",  # where padding goes: random, center, right_down, left_up, border
        )
    )
    config.loss = ConfigDict(
        dict(
            # Of the main output: ce (cross entropy), ohem (of hard pixels only), rmi (region mutual
            # information); ce2p and segfix are for the outputs of those networks.
            name="ce",
            aux_weight=0.4,  # of the cross entropy of each auxiliary output
            class_weights=(),  # one number a class; empty: all equal
            label_smoothing=0.0,  # share of the target that is spread over all classes
            ohem_threshold=0.7,  # pixels count whose class has a probability below this,
            ohem_min_kept=100_000,  # and if they are fewer, so many of each shard
            rmi_balance=0.5,  # share of the binary cross entropy in rmi
            edge_weight=1.0,  # of the edge output in ce2p
            segfix_max_distance=5,  # pixels so near to a boundary belong to it
            dice_weight=0.0,  # adds so much of the Dice loss of the main output
            lovasz_weight=0.0,  # adds so much of its Lovász-softmax loss
            # The batch is split into so many parts, each with a loss of its own, and these are
            # averaged. The original has one part a GPU.
            shards=1,
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="sgd",  # or adamw
            learning_rate=0.01,
            head_lr_multiplier=1.0,  # for everything that is not the backbone
            momentum=0.9,  # of sgd
            weight_decay=5e-4,
            decay_norm_and_bias=True,  # as the original; False: only weights of layers decay
            clip_norm=0.0,  # larger gradients are scaled down to this global norm; 0: never
            # Batches whose mean gradient makes one update. With loss.shards=1 it is that of one
            # large batch with so many shards, but for batch norm, which sees each batch alone.
            accumulate_steps=1,
            # constant, poly, cosine, step, multistep, plateau; swa_poly, swa_cosine: over three
            # quarters of the run, then five short cycles from half the rate. Evaluation and
            # prediction use the mean of the weights at the end of each part (stochastic weight
            # averaging), with batch norm's statistics taken anew at the end, over one pass through
            # the data.
            schedule="poly",
            poly_power=0.9,  # (1 - progress)^power
            step_size=10_000,  # step: multiplies by gamma every so many steps
            milestones=(),  # multistep: multiplies by gamma at each of these
            # plateau: multiplies by gamma when the mean loss of step_size steps has not fallen for
            # so many such means.
            patience=10,
            gamma=0.1,
            warmup_steps=0,
            # From 0, linear or quartic (by the fourth power: gentle, as rounding alone drives a
            # deep network at its random start apart); backbone_quartic: only the backbone;
            # backbone_frozen: only the backbone, which rests.
            warmup="linear",
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
            # Evaluate and predict with the moving average of weights, such as 0.999; 0: do not.
            ema_decay=0.0,
            freeze_norm=False,  # batch norm keeps the statistics it starts with
            # Parts whose parameters do not train, by the start of their names: "backbone.layer1".
            frozen=(),
            # Steps in a row whose loss or gradient is not finite that are skipped, leaving all
            # weights as they are, before one more stops the run.
            skip_nonfinite=0,
        )
    )
    config.eval = ConfigDict(
        dict(
            batch_size=0,  # images at once per host; 0: one a device on CPU, else 4 or more
            pictures=6,  # panels at each evaluation: of the worst images and of the best
            name="",  # results go to eval/<step>_<name>.json; empty: eval/<step>.json
            # The size of the network's input: as stored, unless one of these says otherwise.
            size=(),  # all images are resized to this (height, width)
            shorter_side=0,  # the shorter side is resized to this
            max_pixels=0,  # larger images are reduced to so many pixels; 0: never
            fit_stride=1,  # padded, right and below, to a multiple of this
            scales=(1.0,),  # the logits at these scales are summed
            scale_weights=(),  # factors of each; empty: all 1
            flip=False,  # the logits of the mirror image are added
            combine="logits",  # what is summed: logits, as in the original, or probabilities
            window=(),  # (height, width) of sliding windows; empty: the whole image at once
            stride=(),  # from window to window; empty: the window, so that they do not overlap
            smooth=False,  # windows count less towards their edges
            boundary=False,  # also Boundary IoU, trimap curve and boundary F-score
            bootstrap=400,  # replicates behind confidence intervals and comparisons; 0: none
        )
    )
    config.mesh = ConfigDict(dict(data=-1, height=1))  # -1: all devices
    return config.lock()


def data_dir(configured: str) -> Path:
    """The folder of built data sets: `config.data.dir`, $OPENSEG_DATA or ~/openseg_data."""
    return Path(configured or os.environ.get("OPENSEG_DATA") or "~/openseg_data").expanduser()


def read_config(argument: str) -> ConfigDict:
    """The config of `FILE.py[:ARGUMENT]`, as `openseg_jax.main --config` reads it."""
    path, _, rest = argument.partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config {path}: no such file.")
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(*([rest] if rest else []))
    except UserError:
        raise
    except Exception as error:  # whatever is wrong in a user's file
        raise UserError(f"--config {path}: {type(error).__name__}: {error}") from error


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


def completed(values: dict) -> dict:
    """The config saved by `to_dict`, with the defaults of keys that this version added."""
    return to_dict(from_dict(values))


def _update(config: ConfigDict, values: dict, prefix: str) -> None:
    for key, value in values.items():
        if key not in config:
            raise KeyError(prefix + key)
        if isinstance(value, dict):
            _update(config[key], value, f"{prefix}{key}.")
        else:
            config[key] = _as_tuples(value)


def _as_tuples(value):
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value

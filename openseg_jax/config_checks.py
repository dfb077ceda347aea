"""What a configuration may not be: impossible values, another network, another experiment."""

from __future__ import annotations

import math

from ml_collections import ConfigDict

from openseg_jax.config import completed
from openseg_jax.data import catalog
from openseg_jax.errors import UserError


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
    classes = len(config.data.classes) or catalog.get(config.data.name).num_classes
    require(
        config.model.num_classes == classes,
        "model.num_classes",
        f"the data set {config.data.name} has {classes} classes.",
    )
    for key in ("train.steps", "train.batch_size", "train.log_every", "train.eval_every"):
        require(config[key.split(".")[0]][key.split(".")[1]] > 0, key, "it must be positive.")
    require(config.train.checkpoint_every > 0, "train.checkpoint_every", "it must be positive.")
    _validate_model(config.model, require)
    for key in ("mean", "std"):
        require(len(config.data[key]) == 3, f"data.{key}", "give three numbers, one a channel.")
    _validate_loss(config, require)
    _validate_optimizer(config, require)
    boundaries = ("", "classes", "instances")
    require(config.data.boundaries in boundaries, "data.boundaries", "use classes or instances.")
    require(
        len(config.data.palette) == len(config.data.classes),
        "data.palette",
        f"give a colour for each of the {len(config.data.classes)} data.classes.",
    )
    require(
        all(train_id < classes or train_id == 255 for _, train_id in config.data.label_map),
        "data.label_map",
        f"train ids are 0 to {classes - 1}, or 255 for what is ignored.",
    )
    _validate_augment(config.augment, require)
    _validate_eval(config.eval, require)
    require(config.data.workers >= 0, "data.workers", "it may not be negative.")
    require(config.train.keep_checkpoints > 0, "train.keep_checkpoints", "it must be positive.")
    require(0 <= config.train.ema_decay < 1, "train.ema_decay", "use 0, or a number below 1.")
    require(
        not (config.train.ema_decay and config.optimizer.schedule.startswith("swa_")),
        "train.ema_decay",
        f"use 0, as the schedule {config.optimizer.schedule} averages the weights in its own way.",
    )
    require(config.train.skip_nonfinite >= 0, "train.skip_nonfinite", "it may not be negative.")
    require(config.mesh.height > 0, "mesh.height", "it must be positive.")
    strides = (None, 8, 16, 32)
    require(config.model.output_stride in strides, "model.output_stride", "use 8, 16 or 32.")
    require(config.data.channel_order in ("rgb", "bgr"), "data.channel_order", "use rgb or bgr.")
    own = len(config.data.classes) > 0
    largest = _longest_side(config.augment, () if own else catalog.get(config.data.name).size)
    require(
        config.augment.align != "pad" or max(config.augment.crop) <= largest,
        "augment.crop",
        f"no image is longer than {largest:.0f} pixels after the resizing of config.augment, so "
        "all examples would be padded. Use a smaller crop, or larger images.",
    )


def _validate_model(model: ConfigDict, require) -> None:
    for key in ("channels", "key_channels", "aux_channels"):
        width = model[key]
        require(width is None or width > 0, f"model.{key}", "it must be positive, or None.")
    rate, chunk = model.dropout, model.attention_chunk
    require(rate is None or 0 <= rate < 1, "model.dropout", "use 0 <= dropout < 1, or None.")
    require(chunk is None or chunk >= 0, "model.attention_chunk", "it may not be negative.")
    dilations = model.dilations or ()
    require(min(dilations, default=1) > 0, "model.dilations", "they must be positive.")
    require(
        all(_is_pair(window) and min(window) > 0 for window in model.factors or ()),
        "model.factors",
        "give pairs of positive numbers, as in ((8, 8),).",
    )


def _is_pair(value) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _validate_loss(config: ConfigDict, require) -> None:
    loss = config.loss
    names = ("ce", "ohem", "rmi", "ce2p", "segfix")
    require(loss.name in names, "loss.name", f"use one of {', '.join(names)}.")
    require(
        loss.name != "segfix" or bool(config.data.boundaries),
        "data.boundaries",
        "loss.name='segfix' learns from them; use classes (or instances).",
    )
    for name in ("ce2p", "segfix"):
        require(
            loss.name != name or config.model.method == name,
            "loss.name",
            f"it is that of config.model.method={name!r}, not of {config.model.method!r}.",
        )
    require(
        loss.name != "rmi" or min(config.augment.crop) >= 7,
        "augment.crop",
        "loss.name='rmi' compares regions; use at least 7 x 7 pixels.",
    )
    weights = loss.class_weights
    require(
        len(weights) in (0, config.model.num_classes),
        "loss.class_weights",
        f"give {config.model.num_classes} numbers, one a class, or none.",
    )
    finite = all(0 <= weight < math.inf for weight in weights)
    require(finite, "loss.class_weights", "they may not be negative, or infinite.")
    require(not weights or max(weights) > 0, "loss.class_weights", "one must be positive.")
    for key in ("aux_weight", "edge_weight", "segfix_max_distance", "dice_weight", "lovasz_weight"):
        require(loss[key] >= 0, f"loss.{key}", "it may not be negative.")
    for key in ("ohem_threshold", "rmi_balance"):
        require(0 <= loss[key] <= 1, f"loss.{key}", "give a number from 0 to 1.")
    require(0 <= loss.label_smoothing < 1, "loss.label_smoothing", "use 0 <= smoothing < 1.")
    require(loss.ohem_min_kept > 0, "loss.ohem_min_kept", "it must be positive.")
    require(
        loss.shards > 0 and config.train.batch_size % loss.shards == 0,
        "loss.shards",
        f"it must divide train.batch_size, which is {config.train.batch_size}.",
    )


def _validate_optimizer(config: ConfigDict, require) -> None:
    optimizer = config.optimizer
    choices = dict(
        name=("sgd", "adamw"),
        schedule=(
            *("constant", "poly", "cosine", "step", "multistep", "plateau"),
            *("swa_poly", "swa_cosine"),
        ),
        warmup=("linear", "quartic", "backbone_quartic", "backbone_frozen"),
    )
    for key, known in choices.items():
        require(optimizer[key] in known, f"optimizer.{key}", f"use one of {', '.join(known)}.")
    for key in ("learning_rate", "step_size", "patience", "gamma", "poly_power"):
        works = 0 < optimizer[key] < math.inf
        require(works, f"optimizer.{key}", "it must be positive, and finite.")
    for key in ("head_lr_multiplier", "weight_decay", "clip_norm", "warmup_steps"):
        require(optimizer[key] >= 0, f"optimizer.{key}", "it may not be negative.")
    require(0 <= optimizer.momentum < 1, "optimizer.momentum", "use 0 <= momentum < 1.")
    require(
        optimizer.schedule != "multistep" or len(optimizer.milestones) > 0,
        "optimizer.milestones",
        "the schedule multistep needs the steps at which the learning rate falls.",
    )
    require(
        optimizer.accumulate_steps > 0 and config.train.steps % optimizer.accumulate_steps == 0,
        "optimizer.accumulate_steps",
        f"it must divide train.steps, which is {config.train.steps}.",
    )


def _validate_augment(augment: ConfigDict, require) -> None:
    from openseg_jax.data.augment import COLORS, SIZES, STEPS
    from openseg_jax.data.collate import ALIGN, PAD

    unknown = [step for step in augment.steps if step not in STEPS]
    require(not unknown, "augment.steps", f"the steps are {', '.join(STEPS)}.")
    colors = [step for step in augment.steps if step in ("brightness", *COLORS)]
    require(
        "brightness" not in colors[:-1],
        "augment.steps",
        "brightness is added on the device, so it must come after the other colour steps.",
    )
    for key in ("scale", "aspect", "contrast", "saturation"):
        require(_is_pair(augment[key]), f"augment.{key}", "give (low, high).")
    for key in ("scale", "aspect"):
        low, high = augment[key]
        require(0 < low <= high, f"augment.{key}", "give (low, high) with 0 < low <= high.")
    for key in ("contrast", "saturation"):
        low, high = augment[key]
        require(0 <= low <= high, f"augment.{key}", "give (low, high) with 0 <= low <= high.")
    sides = augment.resize_min_side, augment.resize_max_side, len(augment.resize)
    require(
        "resize" not in augment.steps or any(sides),
        "augment.steps",
        "the step resize needs augment.resize, resize_min_side or resize_max_side.",
    )
    sizes = [step for step in augment.steps if step in ("rotate", *SIZES)]
    require(
        augment.align != "pad" or sizes[-1:] == ["crop"],
        "augment.steps",
        "crop must come after everything that changes the size, as all examples of a batch have "
        "one; or set augment.align to scale.",
    )
    for key in ("resize", "bound"):
        value = augment[key]
        require(
            len(value) in (0, 2) and min(value, default=1) > 0,
            f"augment.{key}",
            "give two positive numbers, or ().",
        )
    for key in ("crop", "crop_grid"):
        value = augment[key]
        require(len(value) == 2 and min(value) > 0, f"augment.{key}", "give (height, width).")
    for key in ("brightness", "hue", "rotate", "max_side", "resize_min_side", "resize_max_side"):
        require(augment[key] >= 0, f"augment.{key}", "it may not be negative.")
    for key in ("flip", "probability"):
        require(0 <= augment[key] <= 1, f"augment.{key}", "give a probability, 0 to 1.")
    methods = ("random", "center", "grid")
    for key, known in (("crop_method", methods), ("align", ALIGN), ("pad", PAD)):
        require(augment[key] in known, f"augment.{key}", f"use one of {', '.join(known)}.")


def _longest_side(augment: ConfigDict, size: tuple[int, ...]) -> float:
    """Of any image after the steps of `augment`; infinite where that depends on the images.

    Args:
        size: (height, width) of all images, or () where they differ.
    """
    if "pad" in augment.steps:
        return math.inf
    longest = max(size, default=math.inf)
    if "resize" in augment.steps:
        if augment.resize:
            longest = max(augment.resize)
        elif augment.resize_min_side and size:
            longest *= augment.resize_min_side / min(size)
        elif augment.resize_max_side and not augment.resize_min_side:
            longest = augment.resize_max_side
    if "random_resize" in augment.steps:
        stretch = math.sqrt(max(augment.aspect[1], 1 / augment.aspect[0]))
        longest = (max(augment.bound) if augment.bound else longest * augment.scale[1]) * stretch
    bounded = "random_resize" in augment.steps or ("resize" in augment.steps and not augment.resize)
    return min(longest, augment.max_side or math.inf) if bounded else longest


def _validate_eval(settings: ConfigDict, require) -> None:
    for key in ("batch_size", "pictures", "shorter_side", "max_pixels", "bootstrap"):
        require(settings[key] >= 0, f"eval.{key}", "it may not be negative.")
    require(settings.fit_stride > 0, "eval.fit_stride", "it must be positive.")
    for key in ("size", "window", "stride"):
        pair = settings[key]
        works = len(pair) in (0, 2) and all(isinstance(n, int) and n > 0 for n in pair)
        require(works, f"eval.{key}", "give a positive (height, width), or ().")
    require(not settings.stride or settings.window, "eval.stride", "set eval.window, too.")
    steps = zip(settings.stride, settings.window, strict=False)
    require(all(s <= w for s, w in steps), "eval.stride", "windows would leave gaps.")
    require(
        len(settings.scales) > 0 and min(settings.scales) > 0, "eval.scales", "give positive ones."
    )
    require(
        len(settings.scale_weights) in (0, len(settings.scales)),
        "eval.scale_weights",
        f"give {len(settings.scales)} numbers, one a scale, or none.",
    )
    require(
        settings.combine in ("logits", "probabilities"),
        "eval.combine",
        "use logits or probabilities.",
    )


# What may differ between a run and its continuation, besides the total number of steps.
MAY_CHANGE = (
    "data.dir",
    "data.workers",
    "init_from",  # only read by a fresh run
    "init_strict",
    "mesh.data",
    "mesh.height",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.skip_nonfinite",
    "eval.batch_size",
    "eval.pictures",
    "eval.name",
    "eval.boundary",
    "eval.bootstrap",
)


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
        for line in differences(completed(trained_with), wanted)
        if line.startswith("model.") or line.split(":")[0] in inputs
    ]
    if refused:
        raise UserError(
            "The checkpoint was trained with another config. Differing keys:\n  "
            + "\n  ".join(refused)
            + "\nEvaluate it with the config, and the --config flags, of its training."
        )


def check_resumable(old: dict, new: dict, extend: bool = False) -> None:
    """Refuses to continue a run under a config that would make it another experiment."""
    old = completed(old)
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

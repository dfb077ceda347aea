"""Learning rates of the backbone and of the rest: `misc/schedules.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from goldens import Result, Worst, read_json
from openseg_jax.config import default_config
from openseg_jax.training.optimizer import learning_rates


def results(root: Path, tolerance: dict, wanted: str) -> Iterator[Result]:
    """One Result a policy; warm-ups are the other lists of rows (iteration, rate, rate)."""
    golden = read_json(root / "misc" / "schedules.json")
    allowed = tolerance["misc"]["schedules"]
    for policy, rates in golden["policies"].items():
        if wanted in policy:
            rows = [(step, *pair) for step, pair in zip(golden["iters"], rates, strict=True)]
            limits = allowed["rel"], allowed["or_abs_over_group_base_lr"]
            yield check(policy, settings_of(policy, golden), golden, rows, *limits)
    for name, part in golden.items():
        if name.startswith("warmup_") and wanted in name:
            settings = settings_of(f"lambda_{name.removeprefix('warmup_')}", golden)
            if settings is not None:
                frozen = part["freeze_backbone"]
                settings.warmup = "backbone_frozen" if frozen else "backbone_quartic"
                settings.warmup_steps = part["warm_iters"]
            rows = part["rows_it_lr0_lr1"]
            yield check(name, settings, golden, rows, allowed["warmup_rel"], 0.0)


def settings_of(policy: str, golden: dict):
    """`config.optimizer` for a policy of the original; None for one that is not known."""
    settings = default_config().optimizer
    settings.learning_rate = golden["base_lr"]
    settings.head_lr_multiplier = golden["nbb_mult"]
    found = re.fullmatch(r"(swa_)?lambda_(poly|cosine)(?:_power([\d.]+))?", policy)
    if found:
        settings.schedule = (found[1] or "") + found[2]
        settings.poly_power = float(found[3] or 0.9)
    elif policy == "step":
        settings.update(schedule="step", **golden["step_params"])
    elif policy == "multistep":
        params = golden["multistep_params"]
        settings.update(
            schedule="multistep", milestones=tuple(params["stepvalue"]), gamma=params["gamma"]
        )
    else:
        return None
    return settings


def check(name, settings, golden, rows, relative: float, absolute: float) -> Result:
    """Compares rows; each number may differ by `relative`, or `absolute` times its base rate."""
    if settings is None:
        return Result(name, float("nan"), "a policy that is not known")
    worst = Worst(name)
    bases = golden["base_lr"], golden["base_lr"] * golden["nbb_mult"]
    for step, *expected in rows:
        rates = learning_rates(settings, golden["max_iters"], jnp.int32(step))
        for group, rate, base, reference in zip(
            ("backbone", "rest"), rates, bases, expected, strict=True
        ):
            limit = max(relative * abs(reference), absolute * base)
            worst.close(f"{group} at {step}", np.asarray(rate), reference, limit)
    return worst.result()

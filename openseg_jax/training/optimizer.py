"""The optimiser: optax transformations that act as PyTorch's SGD and AdamW, and schedules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from openseg_jax.errors import UserError


def direction(optimizer) -> optax.GradientTransformation:
    """What to subtract from the parameters, before the learning rate.

    SGD couples weight decay as PyTorch does (it enters the momentum); AdamW decouples it. With
    `accumulate_steps = k`, k batches in a row give their mean gradient; only the last of them
    moves the parameters, the others get a direction of zero.

    Args:
        optimizer: `config.optimizer`.
    """
    mask = None if optimizer.decay_norm_and_bias else _is_layer_weight
    parts = [optax.add_decayed_weights(optimizer.weight_decay, mask)]
    if optimizer.name == "sgd":
        parts.append(optax.trace(optimizer.momentum))
    else:
        parts.insert(0, optax.scale_by_adam())
    if optimizer.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(optimizer.clip_norm))
    transform = optax.chain(*parts)
    if optimizer.accumulate_steps > 1:
        return optax.MultiSteps(transform, optimizer.accumulate_steps).gradient_transformation()
    return transform


def _is_layer_weight(params: dict) -> dict:
    """Kernels have several axes; scales of batch norm and biases have one."""
    return jax.tree.map(lambda param: param.ndim > 1, params)


def learning_rates(optimizer, steps: int, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rates of the backbone and of all else for the batch `step` (0 is the first).

    Batches whose gradients accumulate have the rate of the first of them, which is that of one
    large batch in a run with as many fewer steps.

    Args:
        optimizer: `config.optimizer`.
        steps: length of the run, in batches.
    """
    together = optimizer.accumulate_steps
    step = step - step % together
    rate = optimizer.learning_rate * _schedule(optimizer, steps, step)
    backbone, rest = rate, rate * optimizer.head_lr_multiplier
    if optimizer.warmup_steps:
        progress = jnp.clip((step + together) / optimizer.warmup_steps, 0, 1)
        if optimizer.warmup in ("linear", "quartic"):
            progress = progress if optimizer.warmup == "linear" else progress**4
            backbone, rest = backbone * progress, rest * progress
        elif optimizer.warmup == "backbone_quartic":
            backbone = backbone * progress**4
        else:
            backbone = jnp.where(step < optimizer.warmup_steps, 0, backbone)
    return backbone, rest


def _schedule(optimizer, steps: int, step: jax.Array) -> jax.Array:
    """The factor of the learning rate; names and formulas are those of the original's policies."""
    name = optimizer.schedule
    if name == "step":
        return optimizer.gamma ** (step // optimizer.step_size)
    if name == "multistep":
        return optimizer.gamma ** sum(step >= milestone for milestone in optimizer.milestones)
    if name in ("poly", "cosine"):
        return _decay(optimizer, name, step, steps)
    if name in ("swa_poly", "swa_cosine"):
        first, cycle = _cycles(steps)
        shape = name.removeprefix("swa_")
        later = 0.5 * _decay(optimizer, shape, (step - first) % cycle, cycle)
        return jnp.where(step < first, _decay(optimizer, shape, step, first), later)
    return jnp.ones_like(step / steps)


def plateau(optimizer) -> optax.GradientTransformationExtraArgs:
    """What lowers the rates of the schedule plateau, updated with the `value` of the loss."""
    return optax.contrib.reduce_on_plateau(
        factor=optimizer.gamma,
        patience=optimizer.patience,
        accumulation_size=optimizer.step_size,
    )


def _cycles(steps: int) -> tuple[int, int]:
    """Of the schedules swa_poly and swa_cosine: the steps before the first cycle, and of each."""
    first = int(0.75 * steps)
    return first, (steps - first) // 5 + 1


def _decay(optimizer, shape: str, step: jax.Array, steps: int) -> jax.Array:
    """From 1 at step 0 to 0 at `steps`."""
    remaining = jnp.clip((steps - step) / steps, 0, 1)  # exact near the end, unlike 1 - progress
    if shape == "poly":
        return remaining**optimizer.poly_power
    return 0.5 - 0.5 * jnp.cos(jnp.pi * remaining)


def descend(params: dict, updates: dict, rates: tuple[jax.Array, jax.Array]) -> dict:
    """One step downhill with the `learning_rates` of what is under "backbone" and of the rest."""

    def step(path, param, update):
        rate = rates[0] if path[0].key == "backbone" else rates[1]
        return param - rate.astype(param.dtype) * update

    return jax.tree_util.tree_map_with_path(step, params, updates)


def averages_cycles(config) -> bool:
    """Whether the run ends in the cycles of stochastic weight averaging."""
    return config.optimizer.schedule in ("swa_poly", "swa_cosine")


def keeps_average(config) -> bool:
    """Whether the state of a run has an `average` of its weights, to evaluate and predict with."""
    return bool(config.train.ema_decay) or averages_cycles(config)


def update_average(config, average: dict, new: dict, step: jax.Array) -> dict:
    """The average after update `step` (0 is the first), of the kind that the run keeps."""
    if averages_cycles(config):
        return cycle_average(average, new, config.train.steps, step)
    return moving_average(average, new, config.train.ema_decay, step)


def cycle_average(average: dict, new: dict, steps: int, step: jax.Array) -> dict:
    """Mean of the weights at the ends of the main part of a run and of each cycle after it.

    (Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI
    2018, at the moments of the original's policies swa_lambda_….) Before them it is the weights
    themselves.

    Args:
        average, new, step: as in `moving_average`.
        steps: length of the run.
    """
    first, cycle = _cycles(steps)
    done = step + 1 - first  # since the main part
    averaged = (done + cycle - 1) // cycle  # ends before this one
    at_end = (done % cycle == 0) | (step + 1 == steps)

    def mean(a, b):
        return jnp.where(done <= 0, b, jnp.where(at_end, a + (b - a) / (averaged + 1), a))

    return jax.tree.map(mean, average, new)


def moving_average(average: dict, new: dict, decay: float, step: jax.Array) -> dict:
    """Exponential moving average of weights after update `step` (0 is the first).

    The average of the first updates is a short one, (1 + step) / (10 + step), lest the initial
    weights linger in it.

    Args:
        average, new: trees of equal structure, as parameters and statistics of batch norm.
    """
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, b: a + (1 - decay).astype(a.dtype) * (b - a), average, new)


def freeze(updates: dict, frozen: tuple[str, ...]) -> dict:
    """Zero updates for the parameters whose dotted names start with one of `frozen`."""

    def keep(path, update):
        return jnp.zeros_like(update) if _name(path).startswith(tuple(frozen)) else update

    return jax.tree_util.tree_map_with_path(keep, updates) if frozen else updates


def check_frozen(params: dict, frozen: tuple[str, ...]) -> None:
    """Raises UserError for an entry of `config.train.frozen` that no parameter starts with."""
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for prefix in frozen:
        if not any(name.startswith(prefix) for name in names):
            parts = sorted({".".join(name.split(".")[:2]) for name in names})
            raise UserError(
                f"config.train.frozen: no parameter's name starts with {prefix!r}. Parts of this "
                f"network: {', '.join(parts)}."
            )


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")

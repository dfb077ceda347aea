"""The optimiser: optax transformations that act as PyTorch's SGD and AdamW, and schedules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def direction(optimizer) -> optax.GradientTransformation:
    """What to subtract from the parameters, before the learning rate.

    SGD couples weight decay as PyTorch does (it enters the momentum); AdamW decouples it.
    Every parameter decays, batch norm and biases included, as in the original.

    Args:
        optimizer: `config.optimizer`.
    """
    decay = optax.add_decayed_weights(optimizer.weight_decay)
    if optimizer.name == "sgd":
        return optax.chain(decay, optax.trace(optimizer.momentum))
    return optax.chain(optax.scale_by_adam(), decay)


def learning_rate(optimizer, steps: int, step: jax.Array) -> jax.Array:
    """The backbone's learning rate at `step` (0 at the first), of a run of `steps`."""
    progress = jnp.clip(step / steps, 0, 1)
    rate = optimizer.learning_rate * jnp.ones_like(progress)
    if optimizer.schedule == "poly":
        rate = rate * (1 - progress) ** optimizer.poly_power
    if optimizer.warmup_steps:
        rate = rate * jnp.clip((step + 1) / optimizer.warmup_steps, 0, 1)
    return rate


def descend(params: dict, updates: dict, rate: jax.Array, head_lr_multiplier: float) -> dict:
    """One step downhill; whatever is not under "backbone" takes a multiplied rate."""

    def step(path, param, update):
        multiplier = 1.0 if path[0].key == "backbone" else head_lr_multiplier
        return param - (rate * multiplier).astype(param.dtype) * update

    return jax.tree_util.tree_map_with_path(step, params, updates)

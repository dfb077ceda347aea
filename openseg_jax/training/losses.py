"""Losses: logits `(n, h, w, k)` float32 and labels `(n, h, w)` in, one number out.

Source: `lib/loss/loss_modules/ce_loss.py` of the original.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from openseg_jax.data.dataset import IGNORE


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    class_weights: tuple[float, ...] = (),
    shards: int = 1,
) -> jax.Array:
    """Weighted mean of the cross entropy over the pixels that are not IGNORE.

    Args:
        logits: (n, h, w, k), at least float32.
        labels: (n, h, w) integers, 0..k-1 or IGNORE.
        class_weights: k numbers; they weigh each pixel and the mean's denominator.
        shards: the batch is split into this many consecutive parts, each normalised on its
            own, and the parts are averaged: what the original does on that many GPUs.

    Returns:
        A scalar; a shard without any valid pixel contributes zero, with zero gradient.
    """
    pixel_loss, pixel_weight = _pixel_cross_entropy(logits, labels, class_weights)
    total = pixel_loss.reshape(shards, -1).sum(-1)
    weight = pixel_weight.reshape(shards, -1).sum(-1)
    return jnp.mean(total / jnp.where(weight > 0, weight, 1))


def _pixel_cross_entropy(logits, labels, class_weights):
    """Weighted loss and weight of each pixel, zero where ignored: two `(n, h, w)`.

    Comparing with every class instead of indexing keeps the gradient free of scatters, and
    IGNORE, equal to no class, drops out by itself.
    """
    classes = logits.shape[-1]
    weights = jnp.asarray(class_weights or (1.0,) * classes, logits.dtype)
    target = labels[..., None] == jnp.arange(classes, dtype=labels.dtype)
    log_probability = jnp.where(target, jax.nn.log_softmax(logits), 0).sum(-1)
    weight = jnp.where(target, weights, 0).sum(-1)
    return -log_probability * weight, weight


def segmentation_loss(outputs: tuple[jax.Array, ...], labels: jax.Array, loss) -> jax.Array:
    """The training loss of a network's outputs (auxiliary ones first, the main one last).

    Args:
        loss: `config.loss`.
    """
    assert IGNORE not in range(outputs[-1].shape[-1]), "a class may not have the id of IGNORE"
    *auxiliary, main = (
        cross_entropy(logits, labels, tuple(loss.class_weights), loss.shards) for logits in outputs
    )
    return main + sum(loss.aux_weight * term for term in auxiliary)

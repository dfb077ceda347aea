"""Losses that stand for the overlap of regions: Dice, and Lovász-softmax for the mean IoU.

Both take logits `(n, h, w, k)`, at least float32, and labels `(n, h, w)`, 0..k-1 or IGNORE, and
average over the classes that occur in the labels; without any they are zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from openseg_jax.data.dataset import IGNORE
from openseg_jax.training.cross_entropy import divide_or_zero


def dice_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 - 2 |P and Y| / (|P| + |Y|) of probabilities P and labels Y over all pixels together.

    (Milletari, Navab, Ahmadi, "V-Net", 2016, without squares in the denominator.)
    """
    classes = jnp.arange(logits.shape[-1])
    target = labels[..., None] == classes
    probability = jnp.where((labels != IGNORE)[..., None], jax.nn.softmax(logits), 0)
    both = jnp.where(target, probability, 0).sum((0, 1, 2))
    pixels = target.sum((0, 1, 2)).astype(logits.dtype)
    loss = 1 - 2 * divide_or_zero(both, probability.sum((0, 1, 2)) + pixels)
    return _mean_over_present(loss, pixels)


def lovasz_softmax(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The Lovász extension of 1 - IoU, at errors 1 - p of the true class and p of the others.

    (Berman, Triki, Blaschko, CVPR 2018, equations 8, 9 and 11; over all images together.) It
    sorts all pixels once for each class: costly for large crops and many classes.
    """
    classes = jnp.arange(logits.shape[-1])
    valid = labels != IGNORE
    probability = jax.nn.softmax(logits)
    target = labels[..., None] == classes
    errors = jnp.where(valid[..., None], jnp.abs(target - probability), 0)
    fixed = lax.stop_gradient(errors)

    def slopes(index):  # one class at a time, as sorting takes memory
        return _lovasz_slopes(fixed[..., index], labels == classes[index], valid)

    weights = jnp.moveaxis(lax.map(slopes, jnp.arange(len(classes))), 0, -1)
    loss = (errors * lax.stop_gradient(weights)).sum((0, 1, 2))
    return _mean_over_present(loss, target.sum((0, 1, 2)).astype(loss.dtype))


def _lovasz_slopes(errors: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """By how much 1 - IoU grows as pixels join the wrong ones, the largest error first.

    This is the gradient of the Lovász extension (piecewise linear, so the extension is its
    product with the errors), in the order of the pixels: `(n, h, w)` like all arguments.
    """
    order = jnp.argsort(jnp.where(valid, -errors, 1).ravel())
    hit = target.ravel()[order]
    missed = (valid & ~target).ravel()[order]
    # While the wrong pixels join, the intersection shrinks by true ones, the union grows by others.
    intersection = (target.sum() - jnp.cumsum(hit)).astype(errors.dtype)
    union = jnp.maximum(target.sum() + jnp.cumsum(missed), 1).astype(errors.dtype)
    # Both steps of (1 - intersection / union), written without a difference of near numbers.
    slopes = jnp.where(hit, 1 / union, intersection / (union * jnp.maximum(union - 1, 1)))
    slopes = jnp.where(hit | missed, slopes, 0)
    return slopes[jnp.argsort(order)].reshape(errors.shape)


def _mean_over_present(loss: jax.Array, pixels: jax.Array) -> jax.Array:
    present = pixels > 0
    return divide_or_zero(jnp.where(present, loss, 0).sum(), present.sum().astype(loss.dtype))

"""OHEM: cross entropy over hard pixels only (Shrivastava et al., "Training Region-based Object
Detectors with Online Hard Example Mining", CVPR 2016), as the original does it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from openseg_jax.data.dataset import IGNORE
from openseg_jax.training.cross_entropy import divide_or_zero, pixel_cross_entropy


def ohem_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    threshold: float,
    min_kept: int,
    class_weights: jax.typing.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> jax.Array:
    """Mean cross entropy of the pixels whose true class has a small probability.

    A pixel is kept if the probability of its class is below `threshold`, or below that of the
    pixel of rank `min_kept` (from 0, or the last valid one), whichever is larger. Source:
    `FSOhemCELoss`, of which two habits are kept, because they are in its numbers: the very
    first pixel takes part even if ignored, with the probability of class 0 and no loss; and
    class weights multiply the losses but do not enter the mean's denominator.

    Args:
        logits: (n, h, w, k), at least float32.
        labels: (n, h, w) integers, 0..k-1 or IGNORE.
        class_weights, label_smoothing, reduction: as in `cross_entropy`.

    Returns:
        A scalar; zero, with zero gradient, where nothing is kept (the original: NaN).
    """
    loss, _ = pixel_cross_entropy(logits, labels, class_weights, label_smoothing)
    ignored = labels == IGNORE
    negative_log, _ = pixel_cross_entropy(logits, jnp.where(ignored, 0, labels))
    probability = lax.stop_gradient(jnp.exp(-negative_log))
    valid = ~ignored | _is_first(labels.shape)
    rank = jnp.minimum(min_kept, valid.sum() - 1)
    limit = jnp.maximum(order_statistic(probability, valid, rank), threshold)
    kept = valid & (probability < limit)
    total = jnp.where(kept, loss, 0).sum()
    return total if reduction == "sum" else divide_or_zero(total, kept.sum().astype(total.dtype))


def order_statistic(values: jax.Array, valid: jax.Array, rank: jax.Array) -> jax.Array:
    """The value of `rank` (0: the smallest) among the valid ones of `values` >= 0, exactly.

    The bits of non-negative floating-point numbers, read as integers, are in the same order.
    So the answer is found bit by bit, the highest first, counting once for each what is smaller.
    That is 30 times faster than sorting (a million pixels on CPU: 10 ms), and over several
    devices each counts its own pixels, where sorting would bring them all together.
    """
    integer = jnp.dtype(f"int{8 * values.dtype.itemsize}")
    largest = jnp.iinfo(integer).max
    keys = jnp.where(valid, lax.bitcast_convert_type(values, integer), largest)
    bits = jnp.iinfo(integer).bits - 1  # without the sign

    def decide(i, found):
        candidate = found | (jnp.ones((), integer) << (bits - 1 - i))
        return jnp.where((keys < candidate).sum() <= rank, candidate, found)

    found = lax.fori_loop(0, bits, decide, jnp.zeros((), integer))
    return lax.bitcast_convert_type(found, values.dtype)


def _is_first(shape: tuple[int, ...]) -> jax.Array:
    """True at index (0, 0, …) of an array of this shape, without a scatter."""
    position = sum(lax.broadcasted_iota(jnp.int32, shape, axis) for axis in range(len(shape)))
    return position == 0

"""Cross entropy: logits `(n, h, w, k)`, at least float32, and labels `(n, h, w)`, 0..k-1 or IGNORE.

Comparing labels with every class, instead of indexing by them, keeps gradients free of scatters;
IGNORE, equal to no class, drops out by itself. The comparison fuses into the sum around it, so
that no one-hot labels are ever in memory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.data.dataset import IGNORE


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    class_weights: jax.typing.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> jax.Array:
    """Cross entropy of the pixels that are not IGNORE; `FSCELoss` of the original.

    Args:
        logits: (n, h, w, k), at least float32.
        labels: (n, h, w) integers; taken at the nearest pixels where logits have another size.
        class_weights: (k,), of each pixel by its class, and in the mean's denominator.
        label_smoothing: the share of the target that is spread evenly over all classes.
        reduction: mean, or sum.

    Returns:
        A scalar; zero, with zero gradient, where no pixel has any weight.
    """
    labels = resize_labels(labels, logits.shape[1:3])
    loss, weight = pixel_cross_entropy(logits, labels, class_weights, label_smoothing)
    return loss.sum() if reduction == "sum" else divide_or_zero(loss.sum(), weight.sum())


def balanced_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross entropy weighted by 1 - the frequency of each class among these very labels.

    Shapes as in `cross_entropy`. For two classes each half of the loss then weighs the same.
    """
    classes = jnp.arange(logits.shape[-1])
    counts = (labels[..., None] == classes).sum((0, 1, 2)).astype(logits.dtype)
    return cross_entropy(logits, labels, 1 - counts / jnp.maximum(counts.sum(), 1))


def pixel_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    class_weights: jax.typing.ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """The weighted loss and the weight of each pixel, zero where ignored: two `(n, h, w)`."""
    classes = logits.shape[-1]
    weights = jnp.asarray(np.ones(classes) if class_weights is None else class_weights)
    weights = weights.astype(logits.dtype)
    target = labels[..., None] == jnp.arange(classes)
    log_probability = jax.nn.log_softmax(logits)
    weight = jnp.where(target, weights, 0).sum(-1)
    loss = -weight * jnp.where(target, log_probability, 0).sum(-1)
    if label_smoothing:
        spread = jnp.where(labels == IGNORE, 0, -(weights * log_probability).mean(-1))
        loss = (1 - label_smoothing) * loss + label_smoothing * spread
    return loss, weight


def divide_or_zero(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient; zero where the denominator is, with zero gradient if the numerator's is."""
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)


def resize_labels(labels: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`labels: (n, h, w)` at the nearest pixels of an image of `size`, as torch's `nearest`.

    The positions are rounded as its float32 arithmetic does; exact fractions give others for
    about one pair of sizes in fifty.
    """
    for axis, length in enumerate(size, start=1):
        source = labels.shape[axis]
        if source != length:
            step = np.float32(source) / np.float32(length)
            positions = np.floor(np.arange(length, dtype=np.float32) * step).astype(int)
            labels = jnp.take(labels, np.minimum(positions, source - 1), axis)
    return labels

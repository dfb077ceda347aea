"""Losses of networks that learn boundaries: SegFix's, and that of CE2P's edge output."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.data.dataset import IGNORE
from openseg_jax.models.layers import resize_bilinear
from openseg_jax.training.cross_entropy import balanced_cross_entropy


def segfix_loss(
    mask_logits: jax.Array,
    direction_logits: jax.Array,
    labels: jax.Array,
    distance: jax.Array,
    angle: jax.Array,
    max_distance: float = 5,
) -> jax.Array:
    """Boundary or not, everywhere; and which way leads inside, where a boundary is predicted.

    (Yuan, Xie, Chen, Wang, "SegFix", ECCV 2020, section 3.2; `SegFixLoss` of the original.) Both
    are balanced cross entropies; one without any pixel, or with pixels of one class only, is
    zero (the original: NaN).

    Args:
        mask_logits: (n, h', w', 2), at least float32: inside, boundary. Resized to the labels.
        direction_logits: (n, h', w', d), likewise; d as in `direction_class`.
        labels: (n, h, w) integers; only whether they are IGNORE matters.
        distance: (n, h, w) pixels to the boundary of the region.
        angle: (n, h, w) degrees, of the way inside.
        max_distance: up to this distance a pixel is boundary.
    """
    size = labels.shape[1:3]
    mask_logits = resize_bilinear(mask_logits, size)
    direction_logits = resize_bilinear(direction_logits, size)
    ignored = labels == IGNORE
    boundary = ((distance >= 0) & (distance <= max_distance)).astype(jnp.int32)
    mask = jnp.where(ignored, IGNORE, boundary)
    predicted = jax.nn.softmax(mask_logits)[..., 1] > 0.5
    direction = direction_class(angle, direction_logits.shape[-1])
    direction = jnp.where(predicted & ~ignored, direction, IGNORE)
    return balanced_cross_entropy(mask_logits, mask) + balanced_cross_entropy(
        direction_logits, direction
    )


def direction_class(angle: jax.Array, directions: int) -> jax.Array:
    """Degrees, -180..180, to 0..directions-1: int32 of the same shape.

    Class i is centred at -180 + i 360 / directions; of its two limits the upper one belongs to
    it. Comparing with the limits leaves nothing to rounding.
    """
    limits = -180 + (np.arange(directions) + 0.5) * (360 / directions)
    above = angle[..., None] > jnp.asarray(limits)
    return above.sum(-1, dtype=jnp.int32) % directions


def edge_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Balanced cross entropy of CE2P's edge output against the edges of the labels.

    (Ruan et al., "Devil in the Details", AAAI 2019.) The original reads edge maps but has no
    loss for them.

    Args:
        logits: (n, h, w, 2), at least float32: no edge, edge.
        labels: (n, h, w) integers, classes or IGNORE; pixels of IGNORE do not count.
    """
    edges = label_edges(labels).astype(labels.dtype)
    return balanced_cross_entropy(logits, jnp.where(labels == IGNORE, IGNORE, edges))


def label_edges(labels: jax.Array) -> jax.Array:
    """`(n, h, w)` labels -> bool: in the 3 x 3 window of a change of class.

    The rule of the original's `edge_generator`: a pixel is compared with the one above, the one
    to its right and the two diagonal ones below; IGNORE makes no edge.
    """
    change = jnp.zeros(labels.shape, bool)
    for down, right in ((-1, 0), (0, 1), (1, 1), (1, -1)):
        neighbour = _shifted(labels, down, right, IGNORE)
        change |= (labels != neighbour) & (labels != IGNORE) & (neighbour != IGNORE)
    steps = (-1, 0, 1)
    windows = (_shifted(change, down, right, False) for down in steps for right in steps)
    return jnp.any(jnp.stack(list(windows)), 0)


def _shifted(x: jax.Array, down: int, right: int, fill) -> jax.Array:
    """What pixels of `x: (n, h, w)` see `down` and `right` of them (-1..1), `fill` outside."""
    height, width = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=fill)
    return padded[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

"""SegFix's directions: angles of the way into a region, their classes, and offsets of pixels.

Source: Yuan et al., "SegFix", ECCV 2020, section 3.2; `DTOffsetHelper` of the original. Angles are
degrees, -180..180, of (down, right): 0 is right, 90 is down. Labels use IGNORE where the original
has -1.
"""

from __future__ import annotations

import numpy as np

from openseg_jax.data.dataset import IGNORE
from openseg_jax.errors import UserError

MIN_DISTANCE, MAX_DISTANCE = 0, 5  # of the pixels that are refined, from their boundary


def vectors(num_classes: int = 8) -> np.ndarray:
    """The offset (down, right) of each class, `(num_classes, 2)` int32.

    With 8, 16 or 32 classes they go round a square of radius 1, 2 or 4, from the left by the top
    to the right; with 4 they are the diagonals.
    """
    if num_classes == 4:
        return np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)], np.int32)
    if num_classes not in (8, 16, 32):
        raise UserError(f"{num_classes} directions: SegFix has 4, 8, 16 or 32 of them.")
    r = num_classes // 8
    side = np.arange(-r, r)
    top = [(-r, x) for x in side]
    right = [(y, r) for y in side]
    bottom = [(r, -x) for x in side]
    left = [(-y, -r) for y in side]
    ring = [*left[r:], *top, *right, *bottom, *left[:r]]
    return np.array(ring, np.int32)


def direction_class(angle: np.ndarray, num_classes: int = 8) -> np.ndarray:
    """Angle -> the class whose bin it is in, 0..num_classes-1, int32.

    Bins lie around -180, -180 + 360 / num_classes, …, and have their upper end in them; the
    4 of them lie between the axes, and have their lower end.
    """
    if num_classes == 4:
        return np.clip((np.asarray(angle) + 180) // 90, 0, 3).astype(np.int32)
    width = 360 / num_classes
    return (np.ceil((np.asarray(angle) + 180 - width / 2) / width) % num_classes).astype(np.int32)


def class_angle(classes: np.ndarray, num_classes: int = 8) -> np.ndarray:
    """The angle in the middle of each class's bin, float32."""
    first = -135 if num_classes == 4 else -180
    return (first + np.asarray(classes) * (360 / num_classes)).astype(np.float32)


def unit_vector(angle: np.ndarray) -> np.ndarray:
    """Angles `(h, w)` -> unit vectors (down, right), `(h, w, 2)`."""
    return np.stack([np.sin(np.radians(angle)), np.cos(np.radians(angle))], -1)


def vector_class(vector: np.ndarray, num_classes: int = 8) -> np.ndarray:
    """Vectors (down, right), `(…, 2)` -> the class of their direction."""
    angle = np.degrees(np.arctan2(vector[..., 0], vector[..., 1]))
    return direction_class(angle, num_classes)


def near_boundary(distance: np.ndarray) -> np.ndarray:
    """Where pixels are refined: bool."""
    return (distance >= MIN_DISTANCE) & (distance <= MAX_DISTANCE)


def energy_level(distance: np.ndarray, step: int = 5, levels: int = 2) -> np.ndarray:
    """Distances in steps, the last of them open; the original's coarse distance target."""
    return np.minimum(distance // step, levels - 1)


def boundary_label(distance: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Target of the boundary head: 1 near boundaries, 0 elsewhere, IGNORE where `label` is."""
    return np.where(label == IGNORE, IGNORE, near_boundary(distance)).astype(np.uint8)


def direction_label(
    distance: np.ndarray, angle: np.ndarray, label: np.ndarray, num_classes: int = 8
) -> np.ndarray:
    """Target of the direction head: a class near boundaries, `num_classes` elsewhere, or IGNORE."""
    inside = np.where(near_boundary(distance), direction_class(angle, num_classes), num_classes)
    return np.where(label == IGNORE, IGNORE, inside).astype(np.uint8)


def offsets(distance: np.ndarray, angle: np.ndarray, num_classes: int = 8) -> np.ndarray:
    """The true offset of each pixel: away from its boundary if it is near one, else 0.

    Args:
        distance, angle: `(h, w)`, of `data.boundaries`.

    Returns:
        `(h, w, 2)` int32 (down, right).
    """
    steps = vectors(num_classes)[direction_class(angle, num_classes)]
    return np.where(near_boundary(distance)[..., None], steps, 0)

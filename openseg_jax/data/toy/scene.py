"""A whole toy scene, painted from far to near and then photographed."""

from __future__ import annotations

import numpy as np

from openseg_jax.data.dataset import IGNORE
from openseg_jax.data.toy.canvas import (
    CAR,
    COLUMNS,
    HEIGHT,
    PERSON,
    POLE,
    ROWS,
    SIGN,
    SKY,
    WIDTH,
    Canvas,
    between,
)
from openseg_jax.data.toy.street import (
    Street,
    paint_ground,
    paint_side,
    paint_sky,
    paint_street_end,
    random_street,
)
from openseg_jax.data.toy.things import random_objects


def soften_borders(image: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Blends the pixels next to a border with their neighbours, as a lens would."""
    border = np.zeros(instance.shape, bool)
    across, down = instance[:, 1:] != instance[:, :-1], instance[1:] != instance[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    rows, columns = np.nonzero(border[1:-1, 1:-1])
    around = [image[rows + y, columns + x] for y, x in ((0, 1), (1, 0), (1, 2), (2, 1))]
    softened = image.copy()
    softened[rows + 1, columns + 1] = 0.5 * image[rows + 1, columns + 1] + 0.125 * sum(around)
    return softened


def with_void(label: np.ndarray) -> np.ndarray:
    """The borders of objects become void, two pixels wide, for cars one; regions just meet."""
    void = np.zeros(label.shape, bool)
    small, objects = np.isin(label, (POLE, SIGN, PERSON)), np.isin(label, (POLE, SIGN, PERSON, CAR))
    for a, b in (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
    ):
        differs = (label[a] != label[b]) & (objects[a] | objects[b])
        void[a] |= differs & (small[a] | small[b])
        void[b] |= differs
    return np.where(void, np.uint8(IGNORE), label)


def cast_shadow(canvas: Canvas, street: Street) -> None:
    """The houses of one side shade their fronts and a part of the ground."""
    if canvas.rng.random() < 0.5:
        return
    across = COLUMNS - np.float32(street.vanish)
    down = np.maximum(ROWS - np.float32(street.horizon), 0)
    edge = between(canvas.rng, -2.5, 2.5)
    slope = np.float32(edge / street.camera)
    shaded = (across < slope * down) if canvas.rng.random() < 0.5 else (across > slope * down)
    shaded &= ~np.isin(canvas.label, (SKY, CAR, PERSON, POLE, SIGN))
    canvas.image[shaded] *= np.float32(between(canvas.rng, 0.65, 0.85))


def paint_bonnet(canvas: Canvas) -> None:
    """Sometimes the bonnet of the camera's own car reaches into the picture; it is void."""
    if canvas.rng.random() < 0.2:
        across = (COLUMNS - WIDTH / 2) / np.float32(between(canvas.rng, 80, 110))
        down = (HEIGHT - ROWS) / np.float32(between(canvas.rng, 5, 8))
        bow = across * across + down * down
        canvas.paint(IGNORE, bow < 1, 0.5 + 0.5 * bow)


def photograph(canvas: Canvas) -> np.ndarray:
    """Light, colour cast, contrast and sensor noise; `(HEIGHT, WIDTH, 3)` uint8 RGB."""
    rng = canvas.rng
    image = soften_borders(canvas.image, canvas.instance)
    slope_x, slope_y = between(rng, -0.15, 0.15), between(rng, -0.1, 0.1)
    light = 1 + slope_x * (COLUMNS / (WIDTH / 2) - 1) + slope_y * (ROWS / (HEIGHT / 2) - 1)
    cast = np.array([between(rng, 0.9, 1.1) for _ in range(3)], np.float32)
    contrast = np.float32(between(rng, 0.85, 1.15))
    gain = np.float32(between(rng, 0.8, 1.15))
    image = ((image - 128) * contrast + 128) * (light * gain)[..., None] * cast
    noise = rng.random(image.shape, dtype=np.float32) - np.float32(0.5)
    image += noise * np.float32(between(rng, 3, 10))
    return np.clip(image, 0, 255).astype(np.uint8)


def draw(seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image `(HEIGHT, WIDTH, 3)` uint8 RGB and label `(HEIGHT, WIDTH)` uint8."""
    rng = np.random.default_rng(seed)
    canvas, street = Canvas(rng), random_street(rng)
    paint_sky(canvas, street)
    paint_ground(canvas, street)
    paint_street_end(canvas, street)
    for side in (0, 1):
        paint_side(canvas, street, side)
    cast_shadow(canvas, street)
    for _, paint in random_objects(rng, street):
        paint(canvas)
    paint_bonnet(canvas)
    return photograph(canvas), with_void(canvas.label)

"""What stands in a toy street: cars, people, poles and signs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from openseg_jax.data.toy.canvas import (
    CAR,
    COLUMNS,
    PERSON,
    POLE,
    ROWS,
    SIGN,
    WIDTH,
    Canvas,
    between,
)
from openseg_jax.data.toy.street import FOCAL, Street, local_grid


def disc(u: np.ndarray, v: np.ndarray, at: tuple[float, float], size: tuple[float, float]):
    """Where an ellipse at (u, v) with these half axes is, `(h, w)` bool."""
    across, up = (u - at[0]) / size[0], (v - at[1]) / size[1]
    return across * across + up * up < 1


def darken_below(canvas: Canvas, street: Street, x: float, depth: float, width: float) -> None:
    """The soft shadow on the ground under an object `width` pixels wide."""
    row, column = street.screen(x, 0, depth)
    across, down = (COLUMNS - column) / (0.6 * width), (ROWS - row) / max(0.09 * width, 1.5)
    canvas.image[across * across + down * down < 1] *= 0.55


def paint_car_from_behind(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    """A car that drives ahead, with its rear window, lamps and plate."""
    scale = FOCAL / depth
    u, v, corner = local_grid(street, x, depth, 2.1 * scale, max(1.75 * scale, 17))
    darken_below(canvas, street, x, depth, 2.1 * scale)
    side = abs(u)
    body = (v > 0.14) & (v < 0.62) & (side < 0.97)
    cabin = (v >= 0.6) & (side < 0.9 - 0.55 * (v - 0.6)) & ~((v > 0.94) & (side > 0.6))
    wheels = (v < 0.3) & (side > 0.56) & (side < 0.92)
    window = (v > 0.64) & (v < 0.89) & (side < 0.74 - 0.5 * (v - 0.6))
    lamps = (v > 0.42) & (v < 0.55) & (side > 0.68) & (side < 0.92)
    plate = (v > 0.3) & (v < 0.4) & (side < 0.26)
    shade = np.where(v > 0.6, np.float32(1.15), np.float32(1.0))
    shade = np.where((v > 0.16) & (v < 0.25), 0.7, shade)  # the bumper
    shade = np.where(wheels & (v < 0.16), 0.25, shade)
    shade = np.where(window, 0.38 + 0.25 * (u + v < 0.6), shade)
    shade = np.where(plate | lamps, 1.45, shade)
    canvas.paint(CAR, body | cabin | wheels, shade, lamps, corner)


def paint_car_from_the_side(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    """A car that crosses the street."""
    scale = FOCAL / depth
    u, v, corner = local_grid(street, x, depth, 4.4 * scale, max(1.65 * scale, 17))
    darken_below(canvas, street, x, depth, 4.4 * scale)
    forward = u if canvas.rng.random() < 0.5 else -u
    body = (v > 0.16) & (v < 0.6 - 0.1 * (forward > 0.55)) & (abs(u) < 0.98)
    inner = abs(forward + 0.12)
    cabin = (v >= 0.56) & (inner < 0.66 - 0.55 * (v - 0.56))
    window = (v > 0.6) & (v < 0.9) & (inner < 0.57 - 0.5 * (v - 0.56)) & (inner > 0.035)
    wheels, hubs = [
        disc(u, v, (-0.6, 0.2), size) | disc(u, v, (0.6, 0.2), size)
        for size in ((0.17, 0.23), (0.08, 0.1))
    ]
    lamps = (v > 0.4) & (v < 0.52) & (abs(u) > 0.9)
    shade = np.where(v > 0.56, np.float32(1.15), np.float32(1.0))
    shade = np.where((v > 0.33) & (v < 0.38), 0.8, shade)
    shade = np.where(window, 0.4 + 0.25 * (forward + v < 0.6), shade)
    shade = np.where(wheels, 0.25, shade)
    shade = np.where(hubs | lamps, 1.3, shade)
    canvas.paint(CAR, body | cabin | wheels, shade, lamps, corner)


def paint_person(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    """A person who stands and looks at the camera."""
    height = max(between(canvas.rng, 2.0, 2.4) * FOCAL / depth, 38)
    u, v, corner = local_grid(street, x, depth, 0.5 * height, height)
    darken_below(canvas, street, x, depth, 0.4 * height)
    stride = between(canvas.rng, 0.12, 0.28)
    side = abs(u)
    head = disc(u, v, (0, 0.88), (0.4, 0.12))
    torso = (v > 0.44) & (v < 0.77) & (side < 0.62 + 0.25 * (v - 0.44))
    arms = (v > 0.4) & (v < 0.75) & (side > 0.6) & (side < 0.66 + 0.9 * (0.77 - v))
    spread = stride + (0.46 - v) * 0.5
    legs = (v < 0.46) & (abs(side - spread) < 0.27)
    stripes = v % 0.12 < 0.06
    shade = np.where(arms, 0.75, np.where(stripes, 1.3, 0.7)).astype(np.float32)
    shade = np.where(legs, np.where(v < 0.06, 0.35, 0.7), shade)
    hair = head & (v > 0.9)
    shade = np.where(head, np.where(hair, 0.45, 1.35), shade)
    canvas.paint(PERSON, head | torso | arms | legs, shade, legs & (v >= 0.06), corner)


def paint_pole(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    """A round post with a foot and one or no sign, which has a rim and a mark on its face."""
    rng, scale = canvas.rng, FOCAL / depth
    thick = min(max(0.5 * scale, 7.5), 8)
    tall = between(rng, 3.4, 5.0)
    u, v, corner = local_grid(street, x, depth, thick + 2, tall * scale)
    foot = v < 0.08
    cap = (v > 0.97) & (v < 1)
    mask = (abs(u) < thick / (thick + 2)) | foot | cap
    bands = np.where(v * np.float32(tall) % 0.8 < 0.4, np.float32(1.45), np.float32(0.45))
    shade = np.where(foot | cap, np.float32(0.5), bands * (1 - 0.4 * abs(u + 0.2)))
    canvas.paint(POLE, mask, shade, None, corner)
    if rng.random() < 0.15:
        return
    size = min(max(1.5 * scale, 20), 32)
    top, column = street.screen(x, between(rng, 3.0, tall), depth)
    corner = int(max(top, 1)), corner[1] + int((thick + 2 - size) / 2 + 0.5)
    u, v, _ = local_grid(street, x, depth, size, size)
    v = v * 2 - 1
    shape = rng.integers(4)
    if shape == 0:
        edge = u * u + v * v
        edge = edge * (0.35 + 0.65 * edge)  # keeps the rim as wide as on the other shapes
    elif shape == 1:  # a square on its corner; an upright one would look like a window
        edge = abs(u) + abs(v)
    elif shape == 2:  # a triangle that points up
        edge = np.maximum(abs(u) + 0.5 * v + 0.5, -v)
    else:  # an octagon
        edge = np.maximum(np.maximum(abs(u), abs(v)), (abs(u) + abs(v)) * 0.71)
    rim = edge > 0.66
    mark = (
        (abs(u) < 0.17) & (abs(v) < 0.45)
        if rng.random() < 0.5
        else ((abs(v) < 0.17) & (abs(u) < 0.45))
    )
    shade = np.where(rim, 0.55, np.where(mark, 0.25, 1.5)).astype(np.float32)
    canvas.paint(SIGN, edge < 1, shade, None, corner)


def random_objects(rng: np.random.Generator, street: Street) -> list[tuple[float, Callable]]:
    """Cars, people and poles as (depth, paint function), the farthest first."""
    left, right = street.kerbs
    objects: list[tuple[float, Callable]] = []

    def add(paint: Callable, x: float, depth: float) -> None:
        """Moves what is beside the picture away from the camera until it is inside."""
        room = street.vanish - 14 if x < 0 else WIDTH - 14 - street.vanish
        depth = max(depth, abs(x) * FOCAL / room)
        objects.append((depth, functools.partial(paint, street=street, x=x, depth=depth)))

    if rng.random() < 0.25:
        add(paint_car_from_the_side, between(rng, -left, right) * 0.6, between(rng, 9, 13))
    for lane in (-left, right):
        for near, far, chance in ((6, 8.5, 0.55), (10.5, 13, 0.3)):
            if rng.random() < chance:
                x = lane * 0.5 if rng.random() < 0.5 else lane - 1.1 * (1 if lane > 0 else -1)
                add(paint_car_from_behind, x, between(rng, near, far))
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.05, 0.28, 0.37, 0.3])):
        side = rng.integers(2)
        offset = between(rng, 0.4, max(street.fronts[side] - street.kerbs[side] - 0.3, 0.5))
        x = (
            between(rng, -left, right)
            if rng.random() < 0.4
            else (-1, 1)[side] * (street.kerbs[side] + offset)
        )
        add(paint_person, x, between(rng, 5, 9))
    side = rng.integers(2)
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.06, 0.26, 0.4, 0.28])):
        side = 1 - side  # so that neighbouring poles do not hide each other
        add(paint_pole, (-1, 1)[side] * (street.kerbs[side] + 0.35), between(rng, 5, 9))
    return sorted(objects, key=lambda item: -item[0])

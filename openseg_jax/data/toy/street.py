"""The street of a toy scene, in true perspective: sky, ground, houses, trees and fences.

World coordinates are metres: x to the right of the camera, height above ground, depth ahead.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from openseg_jax.data.toy.canvas import (
    BUILDING,
    COLUMNS,
    HEIGHT,
    PAVEMENT,
    ROAD,
    ROWS,
    SKY,
    VEGETATION,
    WALL,
    WIDTH,
    Canvas,
    between,
    overlap,
)

FOCAL = 150.0  # pixels


@dataclasses.dataclass
class Street:
    """Where the camera and the street are; metres, but pixels for the vanishing point."""

    horizon: float
    vanish: float
    camera: float  # height of the camera
    kerbs: tuple[float, float]  # distance of the road's left and right border from the camera
    fronts: tuple[float, float]  # the same for the house fronts
    end: float  # depth at which the street ends

    def screen(self, x: float, height: float, depth: float) -> tuple[float, float]:
        """The row and column at which a point of the world appears."""
        scale = FOCAL / depth
        return self.horizon + (self.camera - height) * scale, self.vanish + x * scale


def random_street(rng: np.random.Generator) -> Street:
    """Where the camera stands, how wide the street is, and how far it goes."""
    kerbs = between(rng, 2.5, 4.2), between(rng, 2.5, 4.2)
    pavements = [between(rng, 2.0, 3.4) if rng.random() < 0.9 else 0.0 for _ in range(2)]
    return Street(
        horizon=between(rng, 46, 66),
        vanish=between(rng, 88, 168),
        camera=between(rng, 1.7, 2.2),
        kerbs=kerbs,
        fronts=(kerbs[0] + pavements[0], kerbs[1] + pavements[1]),
        end=between(rng, 18, 28),
    )


def paint_sky(canvas: Canvas, street: Street) -> None:
    """A gradient that brightens towards the horizon, with soft clouds."""
    clouds = np.clip(canvas.clouds * 3 - 1.5, 0, 1)
    shade = 0.9 + 0.2 * ROWS / np.float32(street.horizon) + 0.22 * clouds
    canvas.paint(SKY, np.ones((HEIGHT, WIDTH), bool), shade)


def paint_ground(canvas: Canvas, street: Street) -> None:
    """Pavement with tiles, then the road with its grain and lane markings."""
    below = ROWS > street.horizon + 0.5
    depth = np.float32(street.camera * FOCAL) / np.maximum(ROWS - np.float32(street.horizon), 0.5)
    x = (COLUMNS - np.float32(street.vanish)) * depth / np.float32(FOCAL)
    left, right = street.kerbs
    row = (depth / 0.9).astype(np.int32)
    shifted = x + 0.45 * (row % 2)  # every other row of tiles is shifted by half a tile
    joints = (shifted % 0.9 < 0.13) | (depth % 0.9 < 0.15)
    tiles = 0.94 + 0.1 * ((np.floor(shifted / 0.9) + row) % 2) - 0.35 * (joints & (depth < 16))
    kerb = (x > -left - 0.22) & (x < right + 0.22)
    canvas.paint(PAVEMENT, below, np.where(kerb, np.float32(1.25), tiles))

    middle = (right - left) / 2
    dashes = (abs(x - middle) < 0.13) & (depth % 4.0 < 2.2)
    borders = (abs(x + left - 0.35) < 0.09) | (abs(x - right + 0.35) < 0.09)
    lines = dashes | borders
    if canvas.rng.random() < 0.3:  # a zebra crossing
        start = between(canvas.rng, 4.5, 8)
        lines = np.where((depth > start) & (depth < start + 2.2), x % 1.0 < 0.5, lines)
    road = 0.82 + 0.3 * canvas.grain + 0.55 * lines
    canvas.paint(ROAD, below & (x > -left) & (x < right), road)


def house_texture(
    along: np.ndarray, height: np.ndarray, top: float, lit: np.ndarray, wide: float
) -> tuple[np.ndarray, np.ndarray]:
    """The shade of a house front with bricks, and where its window panes are, both `(h, w)`.

    `along` and `height` are metres on the front; `lit` `(8, 8)` says which windows shine.
    """
    column, row = along % wide / wide, height % 2.7
    frame = (abs(column - 0.5) < 0.34) & (row > 0.7) & (row < 2.3) & (height < top - 0.6)
    pane = frame & (abs(column - 0.5) < 0.26) & (row > 0.88) & (row < 2.12)
    shining = lit[(height / 2.7).astype(np.int32) % 8, (along / wide).astype(np.int32) % 8]
    bricks = 0.9 + 0.14 * (((along * 2).astype(np.int32) + (height * 4).astype(np.int32)) % 2)
    shade = np.where(height > top - 0.35, np.float32(1.3), bricks)  # the eaves
    shade = np.where(frame, np.float32(1.3), shade)
    return np.where(pane, np.where(shining, 1.1, 0.5), shade).astype(np.float32), pane & shining


def paint_house_end(
    canvas: Canvas, street: Street, x: tuple[float, float], top: float, depth: float, gable: float
) -> None:
    """A house front that faces the camera, between two x; `gable` metres of roof above `top`."""
    scale = np.float32(FOCAL / depth)
    _, left = street.screen(x[0], 0, depth)
    _, right = street.screen(x[1], 0, depth)
    columns = slice(max(int(left), 0), max(int(right) + 1, 0))
    along = (COLUMNS[:, columns] - np.float32(left)) / scale
    height = np.float32(street.camera) + (np.float32(street.horizon) - ROWS[:, columns]) / scale
    width = x[1] - x[0]
    slope = gable * (1 - abs(2 * along / np.float32(width) - 1))
    mask = (height >= 0) & (height < top + slope) & (along >= 0) & (along <= width)
    lit = canvas.rng.random((8, 8)) < 0.15
    shade, accent = house_texture(along, np.maximum(height, 0), top, lit, 2.4)
    roof = (height > top) & (gable > 0)
    shade = np.where(roof, 0.6 + 0.25 * (height % 0.5 < 0.25), shade * 0.9)
    canvas.paint(BUILDING, mask, shade, accent & ~roof, (0, columns.start))


def paint_tree(canvas: Canvas, street: Street, x: float, depth: float, size: float) -> None:
    """A crown of overlapping balls with leafy edges, lit from above; `size` is its height."""
    row, column = street.screen(x, size * 0.6, depth)
    radius = max(size * 0.4 * FOCAL / depth, 7.0)
    corner = int(row - 1.6 * radius), int(column - 1.8 * radius)
    shape = int(3.4 * radius), int(3.6 * radius)
    top, left, bottom = max(corner[0], 0), max(corner[1], 0), corner[0] + shape[0]
    window = slice(top, max(bottom, 0)), slice(left, max(corner[1] + shape[1], 0))
    rows, columns = ROWS[window], COLUMNS[window]
    leaves, bumps = canvas.leaves[window], canvas.bumps[window]
    mask = abs(columns - column) < 0.25 * radius  # what is below the crown: dense undergrowth
    mask &= rows > row
    light = np.zeros(mask.shape, np.float32)
    for ball in range(6):
        reach = 0.9 if ball else 0.0
        ball_row = np.float32(row + radius * between(canvas.rng, -reach, reach) * 0.8)
        ball_column = np.float32(column + radius * between(canvas.rng, -reach, reach))
        ball_radius = np.float32(radius * between(canvas.rng, 0.5, 0.75))
        down, across = (rows - ball_row) / ball_radius, (columns - ball_column) / ball_radius
        inside = down * down + across * across < 0.8 + 0.4 * bumps
        mask |= inside
        light = np.where(inside, -0.18 * down - 0.08 * across, light)
    mask &= rows < street.screen(x, 0, depth)[0]
    canvas.paint(VEGETATION, mask, leaf_shade(leaves) + light, None, (top, left))


def leaf_shade(leaves: np.ndarray) -> np.ndarray:
    """Leaves in four tones, `(h, w)`."""
    return 0.55 + 0.28 * np.clip(np.floor(leaves * 6 - 1), 0, 3)


def paint_street_end(canvas: Canvas, street: Street) -> None:
    """Houses and trees across the end of the street."""
    x = -26.0
    while x < 26:
        width = between(canvas.rng, 8, 14)
        if canvas.rng.random() < 0.6:
            gable = between(canvas.rng, 1.5, 3.5) if canvas.rng.random() < 0.6 else 0.0
            top = between(canvas.rng, 4, 11)
            paint_house_end(canvas, street, (x, x + width), top, street.end, gable)
        elif canvas.rng.random() < 0.75 and abs(x + width / 2) > 5:  # not on the road
            paint_tree(canvas, street, x + width / 2, street.end, between(canvas.rng, 6, 12))
        x += width


def paint_side(canvas: Canvas, street: Street, side: int) -> None:
    """Houses, fences and hedges along the left (0) or right (1) side, from far to near."""
    rng, sign = canvas.rng, (-1, 1)[side]
    front = street.fronts[side]
    far = street.end
    while far > 4:
        near = far - between(rng, 7, 12)
        kind = rng.choice([BUILDING, WALL, VEGETATION], p=[0.4, 0.42, 0.18])
        if kind == BUILDING:
            top = between(rng, 4, 12)
            if near > 6:  # its end wall shows above a lower neighbour
                left, right = sorted((sign * front, sign * (front + 7)))
                gable = between(rng, 1, 2.5) if top < 7 else 0.0
                paint_house_end(canvas, street, (left, right), top, near, gable)
        elif kind == WALL:
            for _ in range(rng.integers(0, 3)):
                x, depth = sign * (front + between(rng, 1.5, 4)), between(rng, near, far) + 3
                paint_tree(canvas, street, x, depth, between(rng, 4, 7))
        columns, depth, height = side_plane(street, side, max(near, 0.5), far)
        if depth.size:
            inside = (depth <= far) & (depth > near) & (height >= 0)
            if kind == BUILDING:
                lit = rng.random((8, 8)) < 0.15
                shade, accent = house_texture(depth, np.maximum(height, 0), top, lit, 2.4)
                canvas.paint(BUILDING, inside & (height < top), shade, accent, (0, columns.start))
            elif kind == WALL:
                paint_fence(canvas, inside, depth, height, between(rng, 1.9, 2.7), columns.start)
            else:
                leaves = canvas.leaves[:, columns]
                top = between(rng, 1.8, 3.2)
                mask = inside & (height < top + 0.5 * canvas.bumps[:, columns])
                canvas.paint(VEGETATION, mask, leaf_shade(leaves), None, (0, columns.start))
        far = near


def side_plane(
    street: Street, side: int, near: float, far: float
) -> tuple[slice, np.ndarray, np.ndarray]:
    """The columns that show one side between two depths; depth and height there `(HEIGHT, w)`."""
    front, sign = street.fronts[side], (-1, 1)[side]
    ends = sorted(street.vanish + sign * front * FOCAL / depth for depth in (near, far))
    columns, _ = overlap(int(ends[0]) - 1, int(ends[1]) - int(ends[0]) + 3, WIDTH)
    away = np.maximum(sign * (COLUMNS[:, columns] - np.float32(street.vanish)), np.float32(1))
    height = street.camera + (np.float32(street.horizon) - ROWS[:, columns]) * (front / away)
    return columns, np.float32(front * FOCAL) / away, height


def paint_fence(
    canvas: Canvas, inside: np.ndarray, depth: np.ndarray, height: np.ndarray, top: float, left: int
) -> None:
    """A board fence: upright slats, two rails and a cap; the arrays are `(HEIGHT, w)`."""
    slats = np.where(depth % 0.7 < 0.3, np.float32(0.55), np.float32(1.05))
    rails = (abs(height - 0.3 * top) < 0.1) | (abs(height - 0.72 * top) < 0.1)
    shade = np.where(height > top - 0.16, np.float32(1.3), np.where(rails, np.float32(0.8), slats))
    canvas.paint(WALL, inside & (height < top), shade, None, (0, left))


def local_grid(
    street: Street, x: float, depth: float, width: float, height: float
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """The box of an upright object on the ground: u and v `(h, w)`, and its corner.

    u runs from -1 to 1 across, v from 0 at the ground to 1 at the top; width and height are in
    pixels.
    """
    row, column = street.screen(x, 0, depth)
    h, w = max(int(height + 0.5), 1), max(int(width + 0.5), 1)
    v = 1 - (np.arange(h, dtype=np.float32)[:, None] + 0.5) / np.float32(h)
    u = (np.arange(w, dtype=np.float32)[None] + 0.5) / np.float32(w) * 2 - 1
    u, v = np.broadcast_arrays(u, v)
    return u, v, (int(row) - h, int(column - w / 2))

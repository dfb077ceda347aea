"""toy_street: little street scenes drawn by our own code, so that a first run needs no download.

A scene is a straight street in true perspective, painted from far to near: sky, the end of the
street, ground, the two sides, then cars, people and poles. Every region and object takes its
colour at random from one pool that all classes share, so colour alone tells a model nothing; it
has to look at texture, shape and place. Only integers, `random()` and + - * / decide where things
are, so that a scene has the same label on every platform.

World coordinates are metres: x to the right of the camera, height above ground, depth ahead.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from openseg_jax.data.dataset import IGNORE, DataSet, Example, LabelMap

HEIGHT, WIDTH = 128, 256
SEED = 20240
SPLIT_SIZES = {"train": 600, "val": 60}
FOCAL = 150.0  # pixels

CLASSES = {  # name: colour in pictures (Cityscapes' own)
    "road": (128, 64, 128),
    "pavement": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "vegetation": (107, 142, 35),
    "sky": (70, 130, 180),
    "pole": (153, 153, 153),
    "sign": (220, 220, 0),
    "car": (0, 0, 142),
    "person": (220, 20, 60),
}
ROAD, PAVEMENT, BUILDING, WALL, VEGETATION, SKY, POLE, SIGN, CAR, PERSON = range(len(CLASSES))

POOL = np.array([  # the colours of all things, whatever their class
    (206, 92, 78), (232, 160, 88), (236, 208, 128), (138, 174, 96), (72, 144, 124),
    (100, 160, 205), (88, 108, 172), (154, 116, 174), (226, 152, 168), (148, 116, 92),
    (136, 142, 150), (216, 210, 196), (96, 104, 122),
], np.float32)  # fmt: skip
MIN_CONTRAST = 75.0  # RGB distance between the base colours of neighbours

ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32) + np.float32(0.5)


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A uniform number; plain Python arithmetic, because `rng.uniform` may fuse operations."""
    return low + (high - low) * rng.random()


def smooth_noise(rng: np.random.Generator, cell: int) -> np.ndarray:
    """Bilinear value noise in 0..1, `(HEIGHT, WIDTH)`, with one random value per cell."""
    grid = rng.random((HEIGHT // cell + 2, WIDTH // cell + 2), dtype=np.float32)
    y, x = np.arange(HEIGHT), np.arange(WIDTH)
    fy, fx = ((y % cell) / cell).astype(np.float32)[:, None], ((x % cell) / cell).astype(np.float32)
    rows = grid[y // cell] * (1 - fy) + grid[y // cell + 1] * fy
    return rows[:, x // cell] * (1 - fx) + rows[:, x // cell + 1] * fx


def overlap(start: int, size: int, limit: int) -> tuple[slice, slice]:
    """The part of start..start+size that lies in 0..limit: there, and relative to start."""
    first, last = min(max(start, 0), limit), min(max(start + size, 0), limit)
    return slice(first, last), slice(first - start, last - start)


class Canvas:
    """The picture so far: colours, classes, and which instance each pixel belongs to."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        self.label = np.full((HEIGHT, WIDTH), IGNORE, np.uint8)
        self.instance = np.zeros((HEIGHT, WIDTH), np.int64)  # 0: nothing painted yet
        self.colours = [np.full(3, 1e4, np.float32)]  # of each instance; 0 is far from all
        self.grain = rng.random((HEIGHT, WIDTH), dtype=np.float32)
        self.bumps = smooth_noise(rng, 4)
        self.leaves = 0.55 * smooth_noise(rng, 3) + 0.45 * self.grain
        self.clouds = 0.7 * smooth_noise(rng, 32) + 0.3 * smooth_noise(rng, 12)

    def paint(
        self,
        class_id: int,
        mask: np.ndarray,
        shade: np.ndarray | float,
        accent: np.ndarray | None = None,
        corner: tuple[int, int] = (0, 0),
    ) -> None:
        """Paints one instance in a colour of the pool that differs from what surrounds it.

        Args:
            mask: `(h, w)` bool, the instance's pixels.
            shade: `(h, w)` or a number; multiplies the colour: this is the texture.
            accent: `(h, w)` bool, pixels that take a second colour of the pool.
            corner: row and column of the mask's first pixel; it may reach outside the picture.
        """
        shape = mask.shape
        (rows, part_rows), (columns, part_columns) = (
            overlap(start, size, limit)
            for start, size, limit in zip(corner, shape, (HEIGHT, WIDTH), strict=True)
        )
        window, part = (rows, columns), (part_rows, part_columns)
        mask = mask[part]
        if not mask.any():
            return
        colour = self._pick(self._neighbours(mask, window))
        shades = np.broadcast_to(np.asarray(shade, np.float32), shape)[part][mask]
        colours = shades[:, None] * colour
        if accent is not None:
            chosen = accent[part][mask]
            colours[chosen] = shades[chosen, None] * self._pick([colour])
        self.image[window][mask] = colours
        self.label[window][mask] = class_id
        self.instance[window][mask] = len(self.colours)
        self.colours.append(colour)

    def _neighbours(self, mask: np.ndarray, window: tuple[slice, slice]) -> list[np.ndarray]:
        """The base colours of the instances under the mask and two pixels around it."""
        grown = mask.copy()
        grown[:, 2:] |= mask[:, :-2]
        grown[:, :-2] |= mask[:, 2:]
        grown[2:] |= mask[:-2]
        grown[:-2] |= mask[2:]
        counts = np.bincount(self.instance[window][grown], minlength=1)
        return [self.colours[i] for i in np.flatnonzero(counts > 0.03 * counts.sum())]

    def _pick(self, avoid: list[np.ndarray]) -> np.ndarray:
        """A random colour of the pool that stands out from those to avoid, or the best there is."""
        distance = np.sqrt(((POOL[:, None] - np.stack(avoid)) ** 2).sum(-1)).min(1)
        good = np.flatnonzero(distance >= MIN_CONTRAST)
        return POOL[self.rng.choice(good)] if len(good) else POOL[distance.argmax()]


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
    height = max(between(canvas.rng, 2.0, 2.4) * FOCAL / depth, 34)
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
    mark = (abs(u) < 0.17) & (abs(v) < 0.45) if rng.random() < 0.5 else (
        (abs(v) < 0.17) & (abs(u) < 0.45))
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
        x = between(rng, -left, right) if rng.random() < 0.4 else (-1, 1)[side] * (
            street.kerbs[side] + offset)
        add(paint_person, x, between(rng, 5, 9))
    side = rng.integers(2)
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.06, 0.26, 0.4, 0.28])):
        side = 1 - side  # so that neighbouring poles do not hide each other
        add(paint_pole, (-1, 1)[side] * (street.kerbs[side] + 0.35), between(rng, 5, 9))
    return sorted(objects, key=lambda item: -item[0])


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


def draw(split: str, index: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image `(HEIGHT, WIDTH, 3)` uint8 RGB and label `(HEIGHT, WIDTH)` uint8."""
    rng = np.random.default_rng([seed, list(SPLIT_SIZES).index(split), index])
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


def load(split: str, index: int) -> Example:
    """Draws one example."""
    image, label = draw(split, index)
    _, encoded = cv2.imencode(".png", image[..., ::-1])
    name = f"{split}_{index:04d}"
    return Example(name, encoded.tobytes(), label, f"toy_street {name}")


def read(source: Path | None = None) -> dict[str, list[Callable[[], Example]]]:
    """All splits; there is nothing to read, so `source` is ignored."""
    return {
        split: [functools.partial(load, split, index) for index in range(size)]
        for split, size in SPLIT_SIZES.items()
    }


DATASET = DataSet(
    name="toy_street",
    title="Toy Street: small drawn street scenes",
    classes=tuple(CLASSES),
    palette=tuple(CLASSES.values()),
    label_map=LabelMap.identity(len(CLASSES)),
    read=read,
    needs_source=False,
    how_to_get="Nothing to get: the scenes are drawn while the data set is built.",
    license="Drawn by this project's own code; Apache-2.0",
)

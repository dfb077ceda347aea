"""The canvas of a toy street scene: classes, colours, noise, and painting an instance.

Only integers, `random()` and + - * / decide where things are, so that a scene has the same label
on every platform.
"""

from __future__ import annotations

import numpy as np

from openseg_jax.data.dataset import IGNORE

HEIGHT, WIDTH = 128, 256
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

USUAL = {  # the colours (indices into POOL) a class takes more often than others
    ROAD: (10, 12), PAVEMENT: (8, 11), BUILDING: (0, 9), WALL: (1, 9), VEGETATION: (3, 4),
    SKY: (5, 11), POLE: (10, 12), SIGN: (2, 0), CAR: (0, 6), PERSON: (1, 7),
}  # fmt: skip
USUALLY = 0.92  # how often; few enough that colour alone does not tell the classes


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
        colour = self._pick(self._neighbours(mask, window), class_id)
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

    def _pick(self, avoid: list[np.ndarray], class_id: int | None = None) -> np.ndarray:
        """A random colour of the pool that stands out from those to avoid, or the best there is.

        A class takes one of its usual colours more often than not.
        """
        distance = np.sqrt(((POOL[:, None] - np.stack(avoid)) ** 2).sum(-1)).min(1)
        good = np.flatnonzero(distance >= MIN_CONTRAST)
        usual = np.intersect1d(good, USUAL.get(class_id, ()))
        if self.rng.random() < USUALLY and len(usual):
            good = usual
        return POOL[self.rng.choice(good)] if len(good) else POOL[distance.argmax()]

"""toy_street: little street scenes drawn by our own code, so that a first run needs no download.

Every region and object takes its colour from one pool that all classes share, so that colour
alone tells a model little; it has to look at texture, shape and place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import cv2

from openseg_jax.data.dataset import DataSet, Example, LabelMap
from openseg_jax.data.toy.canvas import CLASSES, HEIGHT, WIDTH
from openseg_jax.data.toy.scene import draw

SEED = 20240
SPLIT_SIZES = {"train": 600, "val": 60}


def load(split: str, index: int) -> Example:
    """Draws one example."""
    image, label = draw([SEED, list(SPLIT_SIZES).index(split), index])
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
    size=(HEIGHT, WIDTH),
    needs_source=False,
    how_to_get="Nothing to get: the scenes are drawn while the data set is built.",
    license="Drawn by this project's own code; Apache-2.0",
)

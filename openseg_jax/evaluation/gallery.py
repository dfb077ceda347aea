"""Pictures of the images that a network does worst and best on, kept while an evaluation runs."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Picture(NamedTuple):
    """One kept picture; `file` is its name, as `worst_1` or `best_3`."""

    file: str
    image: str  # name of the image
    wrong: float  # share of its labelled pixels
    panel: np.ndarray  # (h, w, 3) uint8


class Gallery:
    """`count` pictures: one half of the worst images, the other of the best.

    Images are ranked by their share of wrong pixels, then by name, so that the order in which
    they come does not matter. Only pictures of images that rank so far are drawn and kept.
    """

    def __init__(self, count: int):
        self._room = {"worst": count - count // 2, "best": count // 2}
        self._kept: dict[str, list[tuple]] = {kind: [] for kind in self._room}

    def offer(self, name: str, confusion: np.ndarray, draw: Callable[[], np.ndarray]) -> None:
        """Considers an image.

        Args:
            confusion: its `metrics.confusion_matrix`.
            draw: makes its picture.
        """
        labelled = confusion.sum()
        if not labelled:
            return
        wrong = 1 - float(np.trace(confusion) / labelled)
        panel = None
        for kind, rank in (("worst", (-wrong, name)), ("best", (wrong, name))):
            kept, room = self._kept[kind], self._room[kind]
            if len(kept) < room or (room and rank < kept[-1][0]):
                panel = draw() if panel is None else panel
                bisect.insort(kept, (rank, wrong, panel), key=lambda each: each[0])
                del kept[room:]

    def pictures(self) -> list[Picture]:
        """The worst image first, the best one first of the second half."""
        return [
            Picture(f"{kind}_{place}", rank[1], wrong, panel)
            for kind, kept in self._kept.items()
            for place, (rank, wrong, panel) in enumerate(kept, 1)
        ]

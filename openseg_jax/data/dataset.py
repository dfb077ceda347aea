"""What a data set is: its classes, its label map, and where its examples come from.

One `LabelMap` per data set serves building, training, evaluation, pictures and submissions,
so that labels cannot be mapped twice, or differently, in two places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openseg_jax.errors import UserError

IGNORE = 255  # the train id of pixels that count nowhere


class LabelMap:
    """Maps the provider's label ids (0..255) to train ids (0..num_classes-1, or IGNORE).

    Args:
        train_ids: `{provider id: train id}` for every id that may occur; ids that mean
            "ignore" map to IGNORE. Any other id found in a label is an error.
    """

    def __init__(self, train_ids: Mapping[int, int]):
        self.train_ids = dict(train_ids)
        self._table = np.full(256, IGNORE, np.uint8)
        self._known = np.zeros(256, bool)
        self._provider = np.zeros(256, np.uint8)
        for provider_id, train_id in self.train_ids.items():
            self._table[provider_id] = train_id
            self._known[provider_id] = True
        # Walk backwards so that the first provider id named for a train id wins.
        for provider_id, train_id in reversed(self.train_ids.items()):
            self._provider[train_id] = provider_id

    @classmethod
    def identity(cls, num_classes: int, ignore: int = IGNORE) -> LabelMap:
        """Provider ids are train ids already; `ignore` is the provider's id for void."""
        return cls({**{i: i for i in range(num_classes)}, ignore: IGNORE})

    def encode(self, label: np.ndarray) -> np.ndarray:
        """Provider ids `(h, w)` uint8 -> train ids `(h, w)` uint8 (unknown ids become IGNORE)."""
        if label.dtype == np.uint8 and label.ndim == 2 and label.size:
            import cv2

            return cv2.LUT(label, self._table)  # 5x faster than indexing
        return self._table[label]

    def decode(self, train_ids: np.ndarray) -> np.ndarray:
        """Train ids `(h, w)` uint8 -> provider ids, for submissions and exports."""
        return self._provider[train_ids]

    def check(self, label: np.ndarray, where: str) -> None:
        """Raises UserError naming `where`, the value and its pixel count for unknown ids."""
        if label.ndim != 2 or label.dtype != np.uint8:
            largest = label.max(initial=0)
            raise UserError(
                f"{where}: a label must be one 8-bit channel of class ids, this one is "
                f"{label.dtype} with shape {label.shape} and label value {largest} "
                f"({np.count_nonzero(label == largest)} pixels). Colour-coded or 16-bit labels "
                "must be converted to class ids first."
            )
        counts = np.bincount(label.ravel(), minlength=256)
        unknown = np.flatnonzero((counts > 0) & ~self._known)
        if len(unknown):
            found = ", ".join(f"{i} ({counts[i]} pixels)" for i in unknown[:5])
            known = ", ".join(str(i) for i in sorted(self.train_ids))
            raise UserError(
                f"{where}: label value {found} is not one this data set knows. Known values: "
                f"{known}. Correct the file, or the data set's label map."
            )


class Example(NamedTuple):
    """One image with its label, as the provider ships them."""

    name: str
    image: bytes  # an encoded JPEG or PNG, byte for byte
    label: np.ndarray | None  # (h, w) uint8 provider ids; None where labels are not public
    source: str = ""  # where the label came from, for error messages
    instances: bytes = b""  # a 16-bit PNG of the provider's instance ids; empty where not given


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The facts of one data set and the reader of its native layout.

    `read(source)` returns `{split: [load, ...]}` where each `load()` yields one Example; the
    loads are picklable, so that several processes can build one split. Splits that the source
    lacks are absent. It raises UserError where the source is not this data set.

    A variant (other classes of the same labels) is a DataSet of its own whose `stored_as` names
    the one that is built; only its facts differ.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    label_map: LabelMap
    read: Callable[[Path | None], dict[str, list[Callable[[], Example]]]]
    version: str = "1.0.0"
    flip_pairs: tuple[tuple[int, int], ...] = ()  # classes that swap when an image is mirrored
    stored_as: str = ""  # the data set whose build this one reads, where that is another
    # Names for several splits read one after the other: {"trainval": ("train", "val")}.
    combined_splits: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    size: tuple[int, ...] = ()  # (height, width) of all images, where they have one
    needs_source: bool = True
    how_to_get: str = ""  # where a user finds the data, and in which layout
    license: str = ""
    citation: str = ""
    homepage: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

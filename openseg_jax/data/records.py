"""From an example as its provider ships it to the record that is stored: checked, and encoded.

No TFDS here, so that the processes that do this work start quickly.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from openseg_jax.data.dataset import IGNORE, DataSet, Example, LabelMap
from openseg_jax.data.images import decode_image, encode_label, truncated
from openseg_jax.data.processes import in_processes
from openseg_jax.errors import UserError

# Other formats: of images, with options, and of labels. BMP and PGM are uncompressed: nothing
# decodes faster, and nothing is lost.
FORMATS = {
    "raw": (".bmp", [], ".pgm"),
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95], ".png"),
}


class Record(NamedTuple):
    """What is stored of one example, and what is worth knowing about it."""

    name: str
    image: bytes
    label: bytes  # an image of one channel, the provider's ids
    instances: bytes  # a 16-bit PNG of instance ids, or nothing
    labelled: bool
    size: tuple[int, int]  # height, width
    pixels: np.ndarray  # (num_classes + 1,) int64: pixels of each class, and ignored ones
    source_digest: str  # SHA-256 of the name, the image's bytes and the label's ids
    cost: Cost


class Cost(NamedTuple):
    """What another image format costs, of one example or summed."""

    images: int
    bytes_before: int
    bytes_after: int
    seconds_before: float  # of decoding
    seconds_after: float
    squared_error: float  # mean over pixels and channels, in grey levels

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        before, after = self.bytes_before / self.images / 1e6, self.bytes_after / self.images / 1e6
        slow, fast = (1e3 * s / self.images for s in (self.seconds_before, self.seconds_after))
        error = (self.squared_error / self.images) ** 0.5
        loss = f"off by {error:.2f} of 255 grey levels (RMS)" if error else "without loss"
        return (
            f"images re-encoded: {before:.3g} -> {after:.3g} MB each "
            f"({after / before:.2g}x the space), decoding {slow:.2g} -> {fast:.2g} ms each, {loss}"
        )


NO_COST = Cost(0, 0, 0, 0.0, 0.0, 0.0)


def make_record(
    load: Callable[[], Example],
    dataset_name: str,
    label_map: LabelMap,
    num_classes: int,
    reencode: str = "",
) -> Record:
    """Reads one example and checks it; UserError names its file and what is wrong."""
    try:
        example = load()
    except OSError as error:
        raise UserError(f"{dataset_name}: {error}. Copy the whole data set again.") from error
    where = f"{dataset_name}: the image of {example.name}"
    image, seconds = _timed_decoding(example.image, where)
    if truncated(example.image):
        raise UserError(
            f"{where}: the file ends too early ({len(example.image)} bytes). Fetch it again."
        )
    label = _checked_label(example, image, dataset_name, label_map)
    digest = hashlib.sha256(
        example.name.encode() + example.image + label.tobytes() + example.instances
    ).hexdigest()
    train_ids = np.minimum(label_map.encode(label), num_classes)
    pixels = np.bincount(train_ids.ravel(), minlength=num_classes + 1)
    if example.label is None:
        pixels[:] = 0
    stored, cost, label_suffix = example.image, NO_COST, ".png"
    if reencode:
        suffix, options, label_suffix = FORMATS[reencode]
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        stored = cv2.imencode(suffix, bgr, options)[1].tobytes()
        again, seconds_after = _timed_decoding(stored, where)
        error = float(np.mean((again.astype(np.float32) - image) ** 2))
        cost = Cost(1, len(example.image), len(stored), seconds, seconds_after, error)
    return Record(
        example.name,
        stored,
        encode_label(label, label_suffix),
        example.instances,
        example.label is not None,
        image.shape[:2],
        pixels,
        digest,
        cost,
    )


def make_records(
    dataset: DataSet, loads: list[Callable[[], Example]], reencode: str = "", workers: int = 0
) -> Iterator[Record]:
    """The records of all `loads`, in order; the first example that is wrong raises its UserError.

    Args:
        workers: processes that share the work; 0: one a CPU core.
    """
    make = partial(
        make_record,
        dataset_name=dataset.name,
        label_map=dataset.label_map,
        num_classes=dataset.num_classes,
        reencode=reencode,
    )
    return in_processes(make, loads, workers)


def _timed_decoding(encoded: bytes, where: str) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    image = decode_image(encoded, where)
    return image, time.perf_counter() - start


def _checked_label(
    example: Example, image: np.ndarray, dataset_name: str, label_map: LabelMap
) -> np.ndarray:
    """The example's label, after its size and ids were checked; all void where it has none."""
    if example.label is None:
        return np.full(image.shape[:2], IGNORE, np.uint8)
    where = example.source or f"{dataset_name}: the label of {example.name}"
    label_map.check(example.label, where)
    if example.label.shape != image.shape[:2]:
        raise UserError(
            f"{where}: the label is {example.label.shape[1]}x{example.label.shape[0]} (width x "
            f"height), its image {image.shape[1]}x{image.shape[0]}. They must be of one size."
        )
    return example.label

"""Scores from counts of pixels (source: `lib/metrics/running_score.py` of the original).

Counts add up over images, threads and processes, so that an evaluation needs the memory of one
image and does not depend on the order of images.
"""

from __future__ import annotations

import base64
import hashlib
import zlib

import numpy as np


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (true class, predicted class) pairs of pixels: `(k, k + 1)` int64.

    Pixels whose truth is not a class (IGNORE) do not count. The last column counts predictions
    that are no class, as label maps of other programs may have.
    """
    valid = truth < num_classes
    predicted = np.minimum(prediction[valid], num_classes)
    pairs = truth[valid].astype(np.int64) * (num_classes + 1) + predicted
    counts = np.bincount(pairs, minlength=num_classes * (num_classes + 1))
    return counts.reshape(num_classes, num_classes + 1)


def scores(confusion: np.ndarray) -> dict:
    """mIoU, IoU of each class, pixel and mean accuracy, frequency-weighted IoU.

    A class that is neither in the truth nor predicted has no IoU (NaN) and does not enter the
    mean.
    """
    hits, truth, predicted = parts(confusion).astype(np.float64)
    iou = intersection_over_union(hits, truth, predicted)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy, frequency = hits / truth, truth / truth.sum()
    return {
        "miou": mean(iou),
        "iou": iou,
        "pixel_acc": float(hits.sum() / max(truth.sum(), 1)),
        "mean_acc": mean(accuracy),
        "fw_iou": float((frequency[truth > 0] * iou[truth > 0]).sum()),
    }


def parts(confusion: np.ndarray) -> np.ndarray:
    """Of each class the pixels that are hit, true and predicted: `(3, k)` int64."""
    return np.stack([np.diagonal(confusion), confusion.sum(1), confusion.sum(0)[: len(confusion)]])


def intersection_over_union(hits, truth, predicted) -> np.ndarray:
    """Hits over all that is true or predicted; NaN where there is neither."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return hits / (truth + predicted - hits)


def mean(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN where nothing is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def binary_scores(confusion: np.ndarray) -> dict:
    """Precision, recall and F1 of class 1 from a `(2, 2)` or `(2, 3)` confusion matrix."""
    hits, truth, predicted = parts(confusion)[:, 1].astype(np.float64)
    return {
        "precision": hits / max(predicted, 1),
        "recall": hits / max(truth, 1),
        "f1": 2 * hits / max(truth + predicted, 1),
    }


class Bootstrap:
    """How far scores would vary if the images were drawn anew, in constant memory.

    Each of `count` replicates counts each image as often as a Poisson(1) draw says (the streaming
    form of drawing with replacement; Chamandy et al., "Estimating uncertainty for massive data
    streams", 2012). The draws depend on the image's name alone: two evaluations of one split
    have the same replicates, so that their differences can be judged.
    """

    def __init__(self, count: int, num_classes: int):
        self.parts = np.zeros((count, 3, num_classes), np.int64)

    def add(self, name: str, confusion: np.ndarray) -> None:
        """Counts one image."""
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        draws = np.random.default_rng(seed).poisson(1, len(self.parts))
        self.parts += draws[:, None, None] * parts(confusion)

    @staticmethod
    def iou(summed: np.ndarray) -> np.ndarray:
        """`(count, k)` IoU of each replicate, from the sum of `parts` over processes."""
        hits, truth, predicted = np.moveaxis(summed.astype(np.float64), 1, 0)
        return intersection_over_union(hits, truth, predicted)


def mean_iou(replicates: np.ndarray) -> np.ndarray:
    """`(count,)` mIoU of replicates `(count, k)`; NaN where a replicate has no pixel at all."""
    known = np.isfinite(replicates)
    with np.errstate(invalid="ignore"):
        return np.where(known, replicates, 0).sum(1) / known.sum(1)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The range that holds the middle `level` of values; NaN where there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


NO_VALUE = 65535


def pack(replicates: np.ndarray) -> str:
    """IoUs `(count, k)` as text of 16 bits a number; `unpack` is its inverse to 1e-5."""
    steps = np.where(np.isfinite(replicates), np.round(np.nan_to_num(replicates) * 65534), NO_VALUE)
    return base64.b64encode(zlib.compress(steps.astype("<u2").tobytes())).decode()


def unpack(text: str, num_classes: int) -> np.ndarray:
    """`(count, k)` float64 from the text of `pack`."""
    steps = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u2").reshape(-1, num_classes)
    return np.where(steps == NO_VALUE, np.nan, steps / 65534)

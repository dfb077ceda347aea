"""Scores from a confusion matrix (source: `lib/metrics/running_score.py` of the original)."""

from __future__ import annotations

import numpy as np


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (true class, predicted class) pairs of pixels: `(k, k)` int64.

    Pixels whose truth is not a class (IGNORE) do not count.
    """
    valid = truth < num_classes
    pairs = truth[valid].astype(np.int64) * num_classes + prediction[valid]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(confusion: np.ndarray) -> dict:
    """mIoU, IoU of each class, pixel and mean accuracy, frequency-weighted IoU.

    A class that is neither in the truth nor predicted has no IoU (NaN) and does not enter the
    mean.
    """
    confusion = confusion.astype(np.float64)
    hits, truth, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = hits / (truth + predicted - hits)
        accuracy = hits / truth
        frequency = truth / confusion.sum()
    return {
        "miou": _mean(iou),
        "iou": iou,
        "pixel_acc": float(hits.sum() / max(confusion.sum(), 1)),
        "mean_acc": _mean(accuracy),
        "fw_iou": float((frequency[truth > 0] * iou[truth > 0]).sum()),
    }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

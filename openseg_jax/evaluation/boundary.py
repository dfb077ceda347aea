"""Scores near boundaries, where small objects and sharp outlines show.

All are counts of pixels that add up over images. Pixels whose truth is IGNORE are taken out of
the prediction, too, before its boundaries are looked for.
"""

from __future__ import annotations

import cv2
import numpy as np

from openseg_jax.data.dataset import IGNORE
from openseg_jax.evaluation.metrics import (
    confusion_matrix,
    intersection_over_union,
    mean,
    parts,
)

BOUNDARY_IOU_WIDTH = 0.02  # of the image's diagonal, as in the paper
MATCH_DISTANCE = 0.00088  # of the image's diagonal: 3 pixels of a 2048x1024 image, rounded up
TRIMAP_WIDTHS = (1, 2, 4, 8, 16, 32)  # pixels
SCALE = 2**32  # sums of fractions are kept as integers: the same in any order


def boundary_counts(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> dict:
    """What `boundary_scores` needs of one image, as integer arrays that add up.

    Args:
        truth, prediction: `(h, w)` uint8 class ids.
    """
    prediction = np.where(truth == IGNORE, IGNORE, prediction).astype(np.uint8)
    distance = _distance_to_edge(truth)
    bands = [
        parts(confusion_matrix(np.where(distance < w, truth, IGNORE), prediction, num_classes))
        for w in TRIMAP_WIDTHS
    ]
    return {
        "boundary_iou": _boundary_parts(truth, prediction, num_classes),
        "trimap": np.stack(bands),
        "f_score": _f_scores(truth, prediction, num_classes),
    }


def boundary_scores(counts: dict) -> dict:
    """Boundary IoU, the trimap curve and the boundary F-score, from summed `boundary_counts`.

    Returns:
        `boundary_iou`: the IoU (mean, and of each class) of the pixels of a class that are
            within 2 % of the diagonal of its outline, in truth and in prediction (Cheng et al.,
            "Boundary IoU", CVPR 2021).
        `trimap`: mIoU of the pixels within so many pixels of a boundary of the truth (Kohli et
            al., IJCV 2009; DeepLab).
        `f_score`: harmonic mean of the shares of predicted outline near a true one and of true
            outline near a predicted one, mean over the images with that class, then over
            classes (Csurka et al., BMVC 2013; `F1_running_score.py` of the original).
    """
    iou = intersection_over_union(*counts["boundary_iou"].astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        f_score = counts["f_score"][0] / SCALE / counts["f_score"][1]
    return {
        "boundary_iou": mean(iou),
        "boundary_iou_of_class": iou,
        "f_score": mean(f_score),
        "f_score_of_class": f_score,
        "trimap": {
            width: mean(intersection_over_union(*band.astype(np.float64)))
            for width, band in zip(TRIMAP_WIDTHS, counts["trimap"], strict=True)
        },
    }


def near_outline(label: np.ndarray, width: int) -> np.ndarray:
    """Pixels `(h, w)` bool from which `width` steps, diagonal ones too, leave their region.

    The same as each region less its erosion by a square, for all regions at once: a pixel is
    inside where its neighbourhood has one value only. The border of the image is an outline.
    """
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inside = cv2.erode(label, window, borderType=cv2.BORDER_REPLICATE) == cv2.dilate(
        label, window, borderType=cv2.BORDER_REPLICATE
    )
    inside[:width], inside[-width:], inside[:, :width], inside[:, -width:] = (False,) * 4
    return ~inside


def _boundary_parts(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    width = max(1, round(BOUNDARY_IOU_WIDTH * np.hypot(*truth.shape)))
    true_near, predicted_near = near_outline(truth, width), near_outline(prediction, width)

    def count(label: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.bincount(label[which & (label < num_classes)], minlength=num_classes)

    both = true_near & predicted_near & (truth == prediction)
    return np.stack(
        [count(truth, both), count(truth, true_near), count(prediction, predicted_near)]
    )


def _distance_to_edge(label: np.ndarray) -> np.ndarray:
    """`(h, w)` float32: pixels to the nearest one that has a neighbour of another label."""
    edge = np.zeros(label.shape, bool)
    neighbours = (np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])
    for here, there in neighbours:
        differ = label[here] != label[there]
        edge[here] |= differ
        edge[there] |= differ
    return _distance_to(edge)


def _distance_to(pixels: np.ndarray) -> np.ndarray:
    if not pixels.any():
        return np.full(pixels.shape, np.inf, np.float32)
    return cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _f_scores(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """`(2, k)` int64: the F-score of each class times SCALE, and 1 where the class occurs."""
    reach = int(np.ceil(MATCH_DISTANCE * np.hypot(*truth.shape)))
    result = np.zeros((2, num_classes), np.int64)
    for index in np.union1d(truth, prediction):
        if index < num_classes:
            regions = truth == index, prediction == index
            box = _bounding_box(regions[0] | regions[1])
            outlines = [_outline(region[box]) for region in regions]
            result[:, index] = round(SCALE * _f_score(*outlines, reach)), 1
    return result


def _bounding_box(region: np.ndarray) -> tuple[slice, slice]:
    """The smallest window around True pixels, and one pixel more on each side."""
    spans = []
    for axis in (1, 0):
        used = np.flatnonzero(region.any(axis))
        spans.append(slice(max(used[0] - 1, 0), used[-1] + 2))
    return tuple(spans)


def _outline(region: np.ndarray) -> np.ndarray:
    """Pixels of which the right, lower or lower right neighbour is on the other side."""
    padded = np.pad(region, ((0, 1), (0, 1)), "edge")
    right, below, across = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (region != right) | (region != below) | (region != across)


def _f_score(truth: np.ndarray, prediction: np.ndarray, reach: int) -> float:
    """F-score of two outlines `(h, w)` bool that match within `reach` pixels."""
    if not truth.any() or not prediction.any():
        return float(truth.any() == prediction.any())
    precision = (_distance_to(truth)[prediction] <= reach).mean()
    recall = (_distance_to(prediction)[truth] <= reach).mean()
    return 2 * precision * recall / max(precision + recall, 1e-12)

"""Ground truth made from a label map alone: edges, and SegFix's distances and directions.

SegFix (Yuan et al., ECCV 2020, section 3.2) learns, near the boundary of a region, which way leads
into it. The original stores both maps in files; here they are computed when a label is read.
"""

from __future__ import annotations

import cv2
import numpy as np

from openseg_jax.data.dataset import IGNORE, LabelMap

MAX_DISTANCE = 250  # larger distances are cut off, so that they fit 8 bits
NO_DIRECTION = 90  # stored direction of pixels that have none: angle 0


def distance_direction(
    label: np.ndarray,
    *,
    kernel_size: int = 5,
    metric: str = "euclidean",
    min_pixels: int = 100,
    ignore: int | None = IGNORE,
) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel is from the boundary of its region, and which way leads further inside.

    Args:
        label: (h, w) integer ids; a region is all pixels of one id. Train ids, or instance ids
            (then with `min_pixels=0, ignore=None`, as the original does).
        kernel_size: odd size of the window over which distances are compared.
        metric: euclidean, or taxicab (the original's two).
        min_pixels: smaller regions are left out.
        ignore: pixels of this id are left out; None leaves out none.

    Returns:
        distance (h, w) uint8: pixels to the nearest pixel of another id, truncated, at most 250;
            the border of the image is no boundary. 0 where left out.
        direction (h, w) uint8: (degrees + 180) / 2, truncated, of the direction (down, right)
            of growing distance, 0..180; 90 where there is none. `degrees` decodes it.
    """
    distance = np.zeros(label.shape, np.uint8)
    direction = np.full(label.shape, NO_DIRECTION, np.uint8)
    for region_id in np.unique(label):
        if region_id == ignore:
            continue
        box = _bounding_box(label == region_id)
        region = label[box] == region_id
        if np.count_nonzero(region) < min_pixels:
            continue
        depth = region_distance(region, metric)
        down, right = distance_gradient(depth, kernel_size)
        angle = np.degrees(np.arctan2(down, right)) + 180
        distance[box][region] = np.minimum(depth, MAX_DISTANCE).astype(np.uint8)[region]
        direction[box][region] = (angle / 2).astype(np.uint8)[region]
    return distance, direction


def instance_regions(instances: np.ndarray, label_map: LabelMap) -> np.ndarray:
    """Instance ids as Cityscapes has them -> ids of the regions of `distance_direction`.

    (h, w) uint16: ids from 256 on are one object each, those below are label ids, of which the
    ignored ones together are one region.
    """
    ignored = (instances < 256) & (label_map.encode(np.minimum(instances, 255)) == IGNORE)
    return np.where(ignored, IGNORE, instances)


def degrees(direction: np.ndarray) -> np.ndarray:
    """Stored direction (h, w) uint8 -> angle in degrees, -180..180, float64."""
    return 2.0 * direction - 180


def region_distance(region: np.ndarray, metric: str = "euclidean") -> np.ndarray:
    """(h, w) bool -> float32 distance of its pixels to the nearest pixel outside, 0 outside.

    A region without any outside is far from every boundary: `MAX_DISTANCE` everywhere.
    """
    if region.all():
        return np.full(region.shape, MAX_DISTANCE, np.float32)
    kind, mask = {
        "euclidean": (cv2.DIST_L2, cv2.DIST_MASK_PRECISE),
        "taxicab": (cv2.DIST_L1, cv2.DIST_MASK_3),
    }[metric]
    return cv2.distanceTransform(region.astype(np.uint8), kind, mask, dstType=cv2.CV_32F)


def distance_gradient(distance: np.ndarray, kernel_size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Correlates (h, w) distances with offset / squared length; (down, right), float64.

    Outside the image counts as zero. Sums that are zero but for rounding, as at the exact middle
    of a region, are exactly zero, so that their direction is not left to chance.
    """
    steps = np.arange(kernel_size, dtype=np.float64) - kernel_size // 2
    right, down = np.meshgrid(steps, steps)
    squared = right**2 + down**2
    squared[kernel_size // 2, kernel_size // 2] = 1
    gradients = [
        cv2.filter2D(
            distance.astype(np.float64), -1, offset / squared, borderType=cv2.BORDER_CONSTANT
        )
        for offset in (down, right)
    ]
    return tuple(np.where(np.abs(g) < 1e-5, 0, g) for g in gradients)


def edges(label: np.ndarray, width: int = 3) -> np.ndarray:
    """(h, w) integer ids -> bool: within a `width` x `width` window of a change of id.

    As the original's `edge_generator`: a pixel is compared with the one above, to the right,
    and the two diagonal ones below; pixels of IGNORE make no edge.
    """
    edge = np.zeros(label.shape, np.uint8)
    inner = slice(None, -1), slice(1, None)
    pairs = (
        (np.s_[1:, :], np.s_[:-1, :]),
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1, inner[0]], np.s_[1:, inner[1]]),
        (np.s_[:-1, inner[1]], np.s_[1:, inner[0]]),
    )
    for here, there in pairs:
        differ = label[here] != label[there]
        edge[here] |= differ & (label[here] != IGNORE) & (label[there] != IGNORE)
    window = np.ones((width, width), np.uint8)
    return cv2.dilate(edge, window, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)


def void_edges(label: np.ndarray, width: int = 10, keep: str = "inside") -> np.ndarray:
    """The label with its edges ignored (keep="inside"), or all but its edges (keep="edges")."""
    edge = edges(label, width)
    return np.where(edge if keep == "inside" else ~edge, IGNORE, label).astype(label.dtype)


def _bounding_box(region: np.ndarray) -> tuple[slice, slice]:
    """The smallest window around True pixels, and one pixel more on each side for the outside."""
    spans = []
    for axis in (1, 0):
        used = np.flatnonzero(region.any(axis=axis))
        spans.append(slice(max(used[0] - 1, 0), used[-1] + 2))
    return tuple(spans)

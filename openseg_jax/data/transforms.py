"""Changes of one example with given parameters, as the original's `cv2_aug_transforms`.

An example is a dict of arrays of one size: `image` (h, w, 3) uint8 RGB, `label` (h, w) uint8 with
IGNORE, and for SegFix `distance` and `angle` (h, w). Sizes are (height, width). What is drawn at
random, and in which order things happen, is in `augment`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from openseg_jax.data.dataset import IGNORE

Example = dict[str, np.ndarray]
FILL = {"label": IGNORE, "distance": 255, "angle": 0}  # of pixels from outside the image
MAPS = tuple(FILL)


def resize(example: Example, size: tuple[int, int]) -> Example:
    """To `size`: the image by cubic, the maps by nearest interpolation."""
    if example["image"].shape[:2] == tuple(size):
        return example
    kinds = {name: cv2.INTER_NEAREST for name in MAPS} | {"image": cv2.INTER_CUBIC}
    return {
        name: cv2.resize(array, (size[1], size[0]), interpolation=kinds[name])
        for name, array in example.items()
    }


def resize_window(
    example: Example, size: tuple[int, int], top: int, left: int, window: tuple[int, int]
) -> Example:
    """`crop(resize(example, size), top, left, window)` without resizing all of the image.

    The maps are equal to the bit. The image may differ by rounding: OpenCV resizes a part that
    starts where the two pixel grids meet, to 1/512 of a pixel.
    """
    height, width = example["image"].shape[:2]
    if (height, width) == tuple(size):
        return crop(example, top, left, window)
    rows = nearest_indices(height, size[0])[top : top + window[0]]
    columns = nearest_indices(width, size[1])[left : left + window[1]]
    resized = {
        name: array.take(rows, 0).take(columns, 1)  # much faster than both at once
        for name, array in example.items()
        if name in MAPS
    }
    y, source_rows = _aligned_part(height, size[0], top, window[0])
    x, source_columns = _aligned_part(width, size[1], left, window[1])
    part = cv2.resize(
        example["image"][source_rows, source_columns],
        None,
        fx=size[1] / width,
        fy=size[0] / height,
        interpolation=cv2.INTER_CUBIC,
    )
    return resized | crop({"image": part}, top - y, left - x, window)


def nearest_indices(length: int, new_length: int) -> np.ndarray:
    """Which of `length` pixels each of `new_length` takes, as OpenCV's INTER_NEAREST."""
    step = 1 / (new_length / length)
    return np.minimum((np.arange(new_length) * step).astype(np.int64), length - 1)


def _aligned_part(length: int, new_length: int, first: int, count: int) -> tuple[int, slice]:
    """The source pixels to resize for `count` of `new_length` from `first` on.

    Returns:
        a start at or before `first` where both grids meet, and the source from there on.
    """
    step = length / new_length
    # The kernel reaches two source pixels beyond the window. Pixel 0 is always a good start.
    starts = np.arange(max(first - math.ceil(2 / step) - 1, 0), -1, -1)
    positions = starts * step
    start = int(starts[np.argmax(np.abs(positions - np.rint(positions)) < 1 / 512)])
    end = min(math.ceil((first + count) * step) + 3, length)
    return start, slice(round(start * step), end)


def crop(example: Example, top: int, left: int, size: tuple[int, int]) -> Example:
    """The window of `size` whose first pixel is (top, left)."""
    window = np.s_[top : top + size[0], left : left + size[1]]
    return {name: array[window] for name, array in example.items()}


def flip(example: Example, pairs: tuple[tuple[int, int], ...] = ()) -> Example:
    """The mirror image; the two classes of each pair (left and right arm, ...) swap.

    Angles mirror as in the original, which leaves those of exactly 0 and +-180 degrees as they
    are.
    """
    flipped = {name: cv2.flip(array, 1) for name, array in example.items()}
    if pairs:
        swap = np.arange(256, dtype=np.uint8)
        for a, b in pairs:
            swap[a], swap[b] = b, a
        flipped["label"] = cv2.LUT(flipped["label"], swap)
    if "angle" in flipped:
        angle = flipped["angle"]
        inclined = (angle != 0) & (np.abs(angle) != 180)
        flipped["angle"] = np.where(inclined, np.sign(angle) * 180 - angle, angle)
    return flipped


def pad(
    example: Example,
    left: int,
    up: int,
    right: int,
    down: int,
    color: tuple[float, float, float] = (0, 0, 0),
) -> Example:
    """Adds pixels on each side (negative: cuts them off); the image's are `color`, RGB."""
    if min(left, up, right, down) < 0:
        height, width = example["image"].shape[:2]
        cut = [max(-side, 0) for side in (left, up, right, down)]
        size = (height - cut[1] - cut[3], width - cut[0] - cut[2])
        example = crop(example, cut[1], cut[0], size)
    sides = [max(side, 0) for side in (up, down, left, right)]
    fill = FILL | {"image": color}
    return {
        name: cv2.copyMakeBorder(array, *sides, cv2.BORDER_CONSTANT, value=fill[name])
        for name, array in example.items()
    }


def rotate(
    example: Example,
    degrees: float,
    color: tuple[float, float, float] = (0, 0, 0),
    blend_labels: bool = False,
) -> Example:
    """Turns about the centre, counter-clockwise, into the size that holds all of it.

    Args:
        color: RGB of what comes into the picture; its label is IGNORE.
        blend_labels: turn labels bilinearly, as the original does, which invents class ids at
            boundaries; ours are turned by nearest interpolation.

    Distances and angles cannot be turned, and are left out.
    """
    matrix, size = rotation(example["image"].shape[:2], degrees)

    def warp(array, method, fill):
        width_height = (size[1], size[0])
        return cv2.warpAffine(array, matrix, width_height, flags=method, borderValue=fill)

    if blend_labels:
        label = warp(example["label"].astype(np.float32), cv2.INTER_LINEAR, IGNORE)
    else:
        label = warp(example["label"], cv2.INTER_NEAREST, IGNORE)
    return {
        "image": warp(example["image"], cv2.INTER_LINEAR, color),
        "label": label.astype(np.uint8),
    }


def rotation(size: tuple[int, int], degrees: float) -> tuple[np.ndarray, tuple[int, int]]:
    """The 2x3 matrix of `rotate` for an image of `size`, and the size of the result."""
    height, width = size
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    cosine, sine = np.abs(matrix[0, :2])
    new = int(height * cosine + width * sine), int(height * sine + width * cosine)
    matrix[:, 2] += new[1] / 2 - width / 2, new[0] / 2 - height / 2
    return matrix, new


# Colours: (h, w, 3) uint8 RGB -> the same.


def brightness(image: np.ndarray, levels: int) -> np.ndarray:
    """Adds grey levels; in training the device does this (`preprocessing.normalize`)."""
    return np.clip(image.astype(np.int32) + levels, 0, 255).astype(np.uint8)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies all values."""
    return _truncate(image.astype(np.float32) * factor)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the saturation of the HSV hexcone."""
    hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 1] *= factor
    return _truncate(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def hue(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turns the hue."""
    hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 0] += degrees
    hsv[..., 0][hsv[..., 0] > 360] -= 360
    hsv[..., 0][hsv[..., 0] < 0] += 360
    return _truncate(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def permute_channels(image: np.ndarray, order: tuple[int, int, int]) -> np.ndarray:
    """Channel i of the result is channel `order[i]`."""
    return image[..., list(order)]


def _truncate(image: np.ndarray) -> np.ndarray:
    # The original does not round here.
    return np.clip(image, 0, 255).astype(np.uint8)


# Sizes, in the original's arithmetic.


def scaled_size(
    size: tuple[int, int], scale: float, aspect: float = 1.0, max_side: int = 0
) -> tuple[int, int]:
    """`size` times `scale`, with the ratio of width to height times `aspect`.

    Args:
        max_side: the longest side of the result; both sides shrink alike. 0: no limit.
    """
    ratios = [math.sqrt(1 / aspect) * scale, math.sqrt(aspect) * scale]
    longest = max(size[0] * ratios[0], size[1] * ratios[1])
    if max_side and longest > max_side:
        ratios = [ratio * max_side / longest for ratio in ratios]
    return max(int(size[0] * ratios[0]), 1), max(int(size[1] * ratios[1]), 1)


def bound_scale(size: tuple[int, int], bounds: tuple[int, int]) -> float:
    """The factor that makes the short side at most bounds[0] and the long one bounds[1]."""
    return min(bounds[0] / min(size), bounds[1] / max(size))


def side_size(
    size: tuple[int, int], min_side: int = 0, max_side: int = 0, bound: int = 0
) -> tuple[int, int]:
    """The size whose short side is `min_side`, or else whose long side is `max_side`.

    Args:
        bound: the longest side of the result; both sides shrink alike. 0: no limit.
    """
    ratio = min_side / min(size) if min_side else max_side / max(size)
    if bound and max(size) * ratio > bound:
        ratio = bound / max(size)
    return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


def center_position(size: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """The (top, left) of the window in the middle."""
    return (size[0] - window[0]) // 2, (size[1] - window[1]) // 2


def grid_position(
    size: tuple[int, int], window: tuple[int, int], grid: tuple[int, int], cell: tuple[int, int]
) -> tuple[int, int]:
    """The (top, left) of the window in `cell` (row, column) of `grid` (rows, columns)."""
    steps = [
        (whole - part) // max(cells - 1, 1)
        for whole, part, cells in zip(size, window, grid, strict=True)
    ]
    return cell[0] * steps[0], cell[1] * steps[1]

"""Bringing examples to one size, as the original's `collate`: align, then pad.

The original does this with normalised images; ours are padded before, and the device makes the
padding zero after normalisation (`preprocessing.normalize`).
"""

from __future__ import annotations

import numpy as np

from openseg_jax.data.transforms import FILL, Example

ALIGN = ("pad", "scale", "scale_and_pad")
PAD = ("random", "left_up", "right_down", "center", "border")


def batch_size(sizes: list[tuple[int, int]], stride: int = 1) -> tuple[int, int]:
    """The (height, width) that holds all `sizes`, rounded up to multiples of `stride`."""
    return tuple(-(-max(side) // stride) * stride for side in zip(*sizes, strict=True))


def align(example: Example, size: tuple[int, int], method: str = "pad") -> Example:
    """Scales an example for a batch of `size` (h, w).

    Args:
        method: pad: not at all; scale: to `size`; scale_and_pad: to the largest size of the same
            shape that fits. Images are resized bilinearly with aligned corners, maps by nearest.
    """
    height, width = example["image"].shape[:2]
    if method == "scale_and_pad":
        ratio = min(size[0] / height, size[1] / width)
        size = round(height * ratio), round(width * ratio)
    if method == "pad" or (height, width) == tuple(size):
        return example
    rows, columns = _nearest(height, size[0]), _nearest(width, size[1])
    return {
        name: _bilinear(array, size) if name == "image" else array[rows[:, None], columns]
        for name, array in example.items()
    }


def place(
    example: Example,
    size: tuple[int, int],
    method: str,
    rng: np.random.Generator | None = None,
    fill: dict[str, float] | None = None,
) -> tuple[Example, np.ndarray]:
    """Puts an example into `size` (h, w), somewhere.

    Args:
        method: where the padding goes: random, left_up, right_down, center, or border (center or
            right_down, each half of the time).
        fill: what padding consists of; default: `transforms.FILL`, and zero for images.

    Returns:
        the arrays in `size`, and the box (top, left, height, width) of the example, int32.
    """
    height, width = example["image"].shape[:2]
    if (height, width) == tuple(size):
        box = np.array([0, 0, height, width], np.int32)
        return {name: np.ascontiguousarray(array) for name, array in example.items()}, box
    free = size[0] - height, size[1] - width
    if method == "border":
        method = "center" if rng.integers(2) else "right_down"
    if method == "random":
        left = int(rng.integers(0, free[1], endpoint=True))
        top = int(rng.integers(0, free[0], endpoint=True))
    else:
        top, left = {
            "left_up": free,
            "right_down": (0, 0),
            "center": (free[0] // 2, free[1] // 2),
        }[method]
    fill = FILL | {"image": 0} | (fill or {})
    placed = {}
    for name, array in example.items():
        placed[name] = np.full((*size, *array.shape[2:]), fill[name], array.dtype)
        placed[name][top : top + height, left : left + width] = array
    return placed, np.array([top, left, height, width], np.int32)


def _nearest(length: int, new_length: int) -> np.ndarray:
    # PyTorch's arithmetic: float32.
    step = np.float32(length / new_length)
    index = (np.arange(new_length, dtype=np.float32) * step).astype(np.int64)
    return np.minimum(index, length - 1)


def _bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, c) -> (*size, c) of the same dtype; corners stay corners."""
    result = image.astype(np.float32)
    for axis, new_length in enumerate(size):
        length = result.shape[axis]
        # PyTorch's arithmetic: float32.
        step = np.float32((length - 1) / max(new_length - 1, 1))
        position = np.arange(new_length, dtype=np.float32) * step
        low = np.minimum(position.astype(np.int64), length - 1)
        weight = (position - low).astype(np.float32)
        weight = weight.reshape(-1, *(1,) * (result.ndim - axis - 1))
        high = np.minimum(low + 1, length - 1)
        result = result.take(low, axis) * (1 - weight) + result.take(high, axis) * weight
    return result if image.dtype == np.float32 else np.rint(result).astype(image.dtype)

"""Augmentation of one example, in NumPy and OpenCV, as the original's `cv2_aug_transforms`.

Images are `(h, w, 3)` uint8, labels `(h, w)` uint8 with IGNORE. Random draws come from the
caller's generator, so that each record's randomness is its own.
"""

from __future__ import annotations

import cv2
import numpy as np

from openseg_jax.data.dataset import IGNORE


def resize(
    image: np.ndarray, label: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """To `size` (h, w): the image by cubic, the label by nearest interpolation."""
    if image.shape[:2] == tuple(size):
        return image, label
    width_height = (size[1], size[0])
    image = cv2.resize(image, width_height, interpolation=cv2.INTER_CUBIC)
    return image, cv2.resize(label, width_height, interpolation=cv2.INTER_NEAREST)


def random_resize(
    image: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    scale: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Scales by U(scale) and stretches the width against the height by U(aspect)."""
    factor, stretch = rng.uniform(*scale), rng.uniform(*aspect)
    height = int(image.shape[0] * np.sqrt(1 / stretch) * factor)
    width = int(image.shape[1] * np.sqrt(stretch) * factor)
    return resize(image, label, (max(height, 1), max(width, 1)))


def random_crop(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A window of `size` (h, w), or of the image where that is smaller."""
    height, width = min(size[0], image.shape[0]), min(size[1], image.shape[1])
    left = rng.integers(0, image.shape[1] - width, endpoint=True)
    top = rng.integers(0, image.shape[0] - height, endpoint=True)
    window = np.s_[top : top + height, left : left + width]
    return image[window], label[window]


def flip(
    image: np.ndarray, label: np.ndarray, pairs: tuple[tuple[int, int], ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The mirror image; the two classes of each pair (left and right arm, ...) swap."""
    image, label = image[:, ::-1], label[:, ::-1]
    if pairs:
        swap = np.arange(256, dtype=np.uint8)
        for a, b in pairs:
            swap[a], swap[b] = b, a
        label = swap[label]
    return image, label


def random_pad(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places the image at random in a canvas of `size` (h, w), ignored where it does not reach.

    Returns:
        image, label, and the box (top, left, height, width) of the real image, int32.
    """
    height, width = image.shape[:2]
    left = int(rng.integers(0, size[1] - width, endpoint=True))
    top = int(rng.integers(0, size[0] - height, endpoint=True))
    box = np.array([top, left, height, width], np.int32)
    if (height, width) == tuple(size):
        return np.ascontiguousarray(image), np.ascontiguousarray(label), box
    canvas = np.zeros((*size, 3), np.uint8)
    canvas_label = np.full(size, IGNORE, np.uint8)
    window = np.s_[top : top + height, left : left + width]
    canvas[window], canvas_label[window] = image, label
    return canvas, canvas_label, box


def augment(
    image: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    settings,
    flip_pairs: tuple[tuple[int, int], ...] = (),
) -> dict[str, np.ndarray]:
    """One training example: resize, crop, flip, pad; brightness is only drawn here.

    Args:
        settings: `config.augment`.

    Returns:
        image `(*crop, 3)` uint8, label `crop` uint8, box `(4,)` int32, brightness int32:
        the device does the rest (`preprocessing.normalize`).
    """
    crop = tuple(settings.crop)
    image, label = random_resize(image, label, rng, settings.scale, settings.aspect)
    image, label = random_crop(image, label, rng, crop)
    if rng.random() < settings.flip:
        image, label = flip(image, label, flip_pairs)
    brightness = rng.integers(-settings.brightness, settings.brightness, endpoint=True)
    image, label, box = random_pad(image, label, rng, crop)
    return {"image": image, "label": label, "box": box, "brightness": np.int32(brightness)}

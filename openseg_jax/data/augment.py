"""Augmentation of one example: what is drawn at random, and in which order things happen.

Every random number comes from the caller's generator, so that each record's randomness is its
own. A step draws whether or not it has an effect, so that steps do not disturb one another.
"""

from __future__ import annotations

import numpy as np

from openseg_jax.data import collate, transforms
from openseg_jax.data.transforms import Example


def augment(
    example: Example,
    rng: np.random.Generator,
    settings,
    flip_pairs: tuple[tuple[int, int], ...] = (),
    color: tuple[float, float, float] = (0, 0, 0),
) -> Example:
    """One training example; brightness and padding colour are left to the device.

    Args:
        example: image (h, w, 3) uint8 RGB, label (h, w) uint8; for SegFix distance and angle.
        settings: `config.augment`; its `steps` happen in their order.
        flip_pairs: classes that swap in a mirror image.
        color: RGB, 0..255, of what a rotation brings into the picture: the mean colour.

    Returns:
        the arrays in the size `settings.crop`, with `box` (4,) int32: top, left, height, width of
        the real image, and `brightness` int32 (see `preprocessing.normalize`).
    """
    levels = 0
    for step in _plan(settings):
        if step == "brightness":
            levels = rng.integers(-settings.brightness, settings.brightness, endpoint=True)
        elif step == "flip":
            if rng.random() < settings.flip:
                example = transforms.flip(example, flip_pairs)
        elif step == "rotate":
            degrees = rng.uniform(-settings.rotate, settings.rotate)
            if rng.random() < settings.probability:
                example = transforms.rotate(example, degrees, color)
        elif step in COLORS:
            change = COLORS[step](rng, settings)
            if rng.random() < settings.probability:
                example = example | {"image": change(example["image"])}
        else:
            example = SIZES[step](example, rng, settings)
    example = collate.align(example, tuple(settings.crop), settings.align)
    example, box = collate.place(example, tuple(settings.crop), settings.pad, rng)
    return example | {"box": box, "brightness": np.int32(levels)}


def _plan(settings) -> list[str]:
    """The steps, with a resize and the crop after it made one."""
    steps = list(settings.steps)
    if "random_resize" in steps and not settings.whole_resize:
        first = steps.index("random_resize")
        if steps[first + 1 : first + 2] == ["crop"]:
            steps[first : first + 2] = ["random_resize_crop"]
    return steps


def _resize(example, rng, settings):
    if settings.resize:
        return transforms.resize(example, tuple(settings.resize))
    size = example["image"].shape[:2]
    sides = settings.resize_min_side, settings.resize_max_side
    return transforms.resize(example, transforms.side_size(size, *sides, settings.max_side))


def _random_size(size, rng, settings):
    factor = rng.uniform(*settings.scale)
    if settings.bound:
        factor = transforms.bound_scale(size, settings.bound)
    return transforms.scaled_size(size, factor, rng.uniform(*settings.aspect), settings.max_side)


def _window(size, rng, settings):
    """Top, left, and (height, width) of the crop of an image of `size`."""
    window = min(settings.crop[0], size[0]), min(settings.crop[1], size[1])
    if settings.crop_method == "center":
        return *transforms.center_position(size, window), window
    if settings.crop_method == "grid":
        column, row = (rng.integers(cells) for cells in settings.crop_grid[::-1])
        return *transforms.grid_position(size, window, settings.crop_grid, (row, column)), window
    left = int(rng.integers(0, size[1] - window[1], endpoint=True))
    return int(rng.integers(0, size[0] - window[0], endpoint=True)), left, window


def _random_resize(example, rng, settings):
    return transforms.resize(example, _random_size(example["image"].shape[:2], rng, settings))


def _crop(example, rng, settings):
    return transforms.crop(example, *_window(example["image"].shape[:2], rng, settings))


def _random_resize_crop(example, rng, settings):
    size = _random_size(example["image"].shape[:2], rng, settings)
    return transforms.resize_window(example, size, *_window(size, rng, settings))


def _pad(example, rng, settings):
    return transforms.pad(example, *settings.padding)


SIZES = {
    "resize": _resize,
    "random_resize": _random_resize,
    "crop": _crop,
    "random_resize_crop": _random_resize_crop,
    "pad": _pad,
}


def _contrast(rng, settings):
    factor = rng.uniform(*settings.contrast)
    return lambda image: transforms.contrast(image, factor)


def _saturation(rng, settings):
    factor = rng.uniform(*settings.saturation)
    return lambda image: transforms.saturation(image, factor)


def _hue(rng, settings):
    degrees = rng.uniform(-settings.hue, settings.hue)
    return lambda image: transforms.hue(image, degrees)


def _permute_channels(rng, settings):
    order = rng.permutation(3)
    return lambda image: transforms.permute_channels(image, order)


COLORS = {
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "permute_channels": _permute_channels,
}
STEPS = ("flip", "brightness", "rotate", *COLORS, "resize", "random_resize", "crop", "pad")

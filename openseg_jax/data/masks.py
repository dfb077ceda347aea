"""Masks of a user's own data set -> labels: ids, colours, or one file a class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from openseg_jax.data.dataset import IGNORE
from openseg_jax.data.description import FILE, Description, stored_verbatim
from openseg_jax.data.label_files import from_png
from openseg_jax.errors import UserError


def read_mask(description: Description, mask: Path | dict[str, Path]) -> np.ndarray:
    """A mask as it is stored, `(h, w)` uint8: its ids where they fit, otherwise train ids."""
    if description.masks == "files":
        return _stack(description, mask)
    pixels = from_png(mask.read_bytes(), str(mask))
    if description.masks == "ids":
        ids = single_channel(pixels, mask)
        if stored_verbatim(description):
            _translate(description, ids, mask, str)  # knows every id
            return ids.astype(np.uint8)
        return _translate(description, ids, mask, str)
    return _translate(description, color_codes(pixels, mask), mask, color_text)


def single_channel(pixels: np.ndarray, where: Path) -> np.ndarray:
    """`(h, w)` ids of a mask, also where they are repeated in three channels."""
    if pixels.ndim == 2:
        return pixels
    colors = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]
    if (colors == colors[..., :1]).all():
        return colors[..., 0]
    raise UserError(
        f"{where}: a mask of ids has one channel, this one has colours. If colours stand for "
        f'classes, set "masks": "colors" in {FILE}, or write it again with openseg data init.'
    )


def color_codes(pixels: np.ndarray, where: Path) -> np.ndarray:
    """`(h, w)` int32, 65536 r + 256 g + b."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
    if pixels.dtype != np.uint8 or pixels.shape[-1] < 3:
        raise UserError(f"{where}: a mask of colours has three channels of 8 bits.")
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def color_text(code: int) -> str:
    """The colour's code -> "r,g,b"."""
    return f"{code >> 16},{code >> 8 & 255},{code & 255}"


def color_code(text: str) -> int:
    """The inverse of `color_text`."""
    red, green, blue = map(int, text.split(","))
    return red << 16 | green << 8 | blue


def _translate(description: Description, codes: np.ndarray, mask: Path, text) -> np.ndarray:
    """Ids or colour codes -> train ids; a value that is not known is a UserError."""
    code = color_code if description.masks == "colors" else int
    table = {code(v): i for i, c in enumerate(description.classes) for v in c.values}
    table |= {code(value): IGNORE for value in description.ignored}
    values, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    unknown = [(text(v), n) for v, n in zip(values, counts, strict=True) if int(v) not in table]
    if unknown:
        found = ", ".join(f"{value} ({count} pixels)" for value, count in unknown[:5])
        known = ", ".join(text(value) for value in list(table)[:30])
        what = "colour" if description.masks == "colors" else "value"
        raise UserError(
            f"{mask}: the {what} {found} is in no class. Known: {known}. Correct the mask, or add "
            f"the {what} to a class or to ignored in {FILE}."
        )
    lookup = np.array([table[int(value)] for value in values], np.uint8)
    return lookup[inverse].reshape(codes.shape)


def _stack(description: Description, masks: Mapping[str, Path]) -> np.ndarray:
    """One mask a class -> train ids; later classes of the list cover earlier ones.

    Pixels in no file are of the class without values, or else ignored.
    """
    background = [i for i, c in enumerate(description.classes) if not c.values]
    label = None
    for index, category in enumerate(description.classes):
        for value in category.values:
            path = masks.get(str(value))
            if path is None:
                continue
            pixels = from_png(path.read_bytes(), str(path))
            inside = pixels > 0 if pixels.ndim == 2 else (pixels[..., :3] > 0).any(-1)
            if label is None:
                label = np.full(inside.shape, background[0] if background else IGNORE, np.uint8)
            if inside.shape != label.shape:
                raise UserError(f"{path}: the masks of one image must be of one size.")
            label[inside] = index
    return label

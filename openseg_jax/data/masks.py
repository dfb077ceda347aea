"""Masks of a user's own data set -> labels: ids, colours, or one file a class."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from openseg_jax.data.archive import File
from openseg_jax.data.dataset import IGNORE
from openseg_jax.data.description import FILE, Description, stored_verbatim
from openseg_jax.data.label_files import from_png
from openseg_jax.errors import UserError


class BadMask(UserError):
    """A mask that can be read, but holds other than its description says."""

    ids = ()  # that it holds, where it has ids


def read_mask(description: Description, mask: File | dict[str, File]) -> np.ndarray:
    """A mask as it is stored, `(h, w)` uint8: its ids where they fit, otherwise train ids."""
    if description.masks == "files":
        return _stack(description, mask)
    if description.masks == "ids":
        ids = single_channel(from_png(mask.read(), str(mask)), mask)
        if stored_verbatim(description):
            _translate(description, ids, mask, str)  # knows every id
            return ids.astype(np.uint8)
        return _translate(description, ids, mask, str)
    pixels = from_png(mask.read(), str(mask), palette_colors=True)
    return _translate(description, color_codes(pixels, mask), mask, color_text)


def palette_of(encoded: bytes) -> dict[int, tuple[int, int, int]]:
    """The colour of each id of a palette PNG; empty for other masks."""
    with Image.open(io.BytesIO(encoded)) as picture:
        table = picture.getpalette() if picture.mode == "P" else []
        used = np.unique(picture).tolist() if table else []
    return {i: tuple(table[3 * i : 3 * i + 3]) for i in used if 3 * i < len(table)}


def single_channel(pixels: np.ndarray, where: File) -> np.ndarray:
    """`(h, w)` ids of a mask, also where they are repeated in three channels."""
    if pixels.ndim == 2:
        return pixels
    colors = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]
    if (colors == colors[..., :1]).all():
        return colors[..., 0]
    raise BadMask(
        f"{where}: a mask of ids has one channel, this one has colours. If colours stand for "
        f'classes, set "masks": "colors" in {FILE}, or write it again with openseg data init.'
    )


def color_codes(pixels: np.ndarray, where: File) -> np.ndarray:
    """`(h, w)` int32, 65536 r + 256 g + b."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, -1)
    if pixels.dtype != np.uint8 or pixels.shape[-1] < 3:
        raise BadMask(f"{where}: a mask of colours has three channels of 8 bits.")
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def color_text(code: int) -> str:
    """The colour's code -> "r,g,b"."""
    return f"{code >> 16},{code >> 8 & 255},{code & 255}"


def color_code(text: str) -> int:
    """The inverse of `color_text`."""
    red, green, blue = map(int, text.split(","))
    return red << 16 | green << 8 | blue


def _translate(description: Description, codes: np.ndarray, mask: File, text) -> np.ndarray:
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
        error = BadMask(
            f"{mask}: the {what} {found} is in no class. Known: {known}. Correct the mask, or add "
            f"the {what} to a class or to ignored in {FILE}."
        )
        error.ids = values.tolist() if what == "value" else ()
        raise error
    lookup = np.array([table[int(value)] for value in values], np.uint8)
    return lookup[inverse].reshape(codes.shape)


def _stack(description: Description, masks: Mapping[str, File]) -> np.ndarray:
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
            pixels = from_png(path.read(), str(path))
            inside = pixels > 0 if pixels.ndim == 2 else (pixels[..., :3] > 0).any(-1)
            if label is None:
                label = np.full(inside.shape, background[0] if background else IGNORE, np.uint8)
            if inside.shape != label.shape:
                raise UserError(f"{path}: the masks of one image must be of one size.")
            label[inside] = index
    return label

"""Labels as providers ship them -> `(h, w)` ids: PNG, MATLAB, COCO's run lengths."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from openseg_jax.errors import UserError


def from_png(encoded: bytes, where: str, palette_colors: bool = False) -> np.ndarray:
    """PNG -> `(h, w)` ids as stored; of a palette PNG the indices, or its RGB colours.

    Colour or 16-bit files come back with the shape and dtype they have: `LabelMap.check` tells
    the user.
    """
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(encoded)) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            colored = palette_colors and picture.mode == "P"
            ids = np.array(picture.convert("RGB") if colored else picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{where}: cannot be read as an image ({len(encoded)} bytes: {error}). The file may "
            "be damaged or incomplete; fetch it again."
        ) from error
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def from_mat(encoded: bytes, where: str, keys: tuple[str, ...]) -> np.ndarray:
    """MATLAB file -> `(h, w)` ids of the variable `keys[0]`, or of the field `keys[1]` of it.

    The ids are uint8 where they fit, else uint16.
    """
    import scipy.io  # slow to import, and only needed here

    try:
        value = scipy.io.loadmat(io.BytesIO(encoded), variable_names=keys[:1])[keys[0]]
        for key in keys[1:]:
            value = value[0, 0][key]
    except Exception as error:  # loadmat raises whatever a damaged byte leads to
        raise UserError(
            f"{where}: no variable {'.'.join(keys)} can be read from this MATLAB file ({error}). "
            "It may be damaged, or of another data set."
        ) from error
    whole = value.ndim == 2 and value.dtype.kind in "buif" and np.array_equal(value, value // 1)
    if not whole or not value.size or value.min() < 0 or value.max() >= 1 << 16:
        raise UserError(f"{where}: the variable {'.'.join(keys)} is no matrix of class ids.")
    return value.astype(np.uint8 if value.max() < 256 else np.uint16)


def from_run_lengths(counts: str | list[int], size: tuple[int, int], where: str) -> np.ndarray:
    """COCO's run-length encoding, as text or as numbers -> `(h, w)` bool mask.

    Runs alternate between 0 and 1 and go down the columns. In the text a number is written in
    groups of 5 bits, lowest first, each a character from '0' on (bit 5: more follow), with the
    sign in the last group; from the fourth number on it is the difference to the one two before.
    """
    lengths = _numbers(counts) if isinstance(counts, str) else list(counts)
    height, width = size
    if sum(lengths) != height * width or min(lengths, default=0) < 0:
        raise UserError(f"{where}: the run lengths of a mask do not cover {width}x{height} pixels.")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    return numbers

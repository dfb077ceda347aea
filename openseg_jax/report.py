"""Label maps and scores as people look at them: pictures, palettes, tables for the terminal.

Pictures are RGB uint8 arrays `(h, w, 3)`; labels are train ids `(h, w)` uint8, where 255
(IGNORE) counts nowhere. The HTML report built from them is in `report_html`.
"""

from __future__ import annotations

import colorsys
import io
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openseg_jax.data.dataset import IGNORE

Palette = Sequence[tuple[int, int, int]]

GOLDEN_RATIO = (5**0.5 - 1) / 2
# Saturation and brightness of successive colours. Golden-ratio hues nearly repeat after 21, 34,
# 55, 89 steps; six does not divide these, so colours of like hue differ in tone.
TONES = ((0.40, 0.95), (0.65, 0.45), (0.65, 0.95), (0.70, 0.65), (0.85, 0.90), (0.90, 0.60))
WRONG = (230, 40, 40)
PAPER, INK, MUTED = (255, 255, 255), (30, 30, 30), (120, 120, 120)
LONGEST_NAME = 32  # characters of a class name in the table
BAR_WIDTH = 20  # characters of a full bar in the table


def default_palette(n: int) -> tuple[tuple[int, int, int], ...]:
    """`n` distinct RGB colours, always the same ones; none of them black (that is IGNORE)."""
    colors = []
    for i in range(n):
        # Golden-ratio steps spread any number of hues evenly, so n need not be known ahead.
        # It does divide the next such step, 144: from there on the tones are shifted.
        saturation, brightness = TONES[(i + 3 * (i // 144)) % len(TONES)]
        rgb = colorsys.hsv_to_rgb((0.58 + i * GOLDEN_RATIO) % 1, saturation, brightness)
        colors.append(tuple(round(255 * channel) for channel in rgb))
    return tuple(colors)


def colorize(label: np.ndarray, palette: Palette) -> np.ndarray:
    """Train ids `(h, w)` uint8 -> RGB `(h, w, 3)` uint8; ignored pixels are black."""
    _check_ids(label, palette)
    return _color_table(palette)[label]


def overlay(
    image: np.ndarray, label: np.ndarray, palette: Palette, alpha: float = 0.5
) -> np.ndarray:
    """The label's colours blended over the image, with thin bright class borders.

    Args:
        image: `(h, w, 3)` uint8 RGB.
        label: `(h, w)` uint8 train ids; ignored pixels show the image as it is.
        palette: one RGB colour a class.
        alpha: share of the label's colour, 0 (image only) to 1.

    Returns:
        `(h, w, 3)` uint8 RGB.
    """
    _check_same_size(image, label)
    colors = colorize(label, palette)
    blended = cv2.addWeighted(image, 1 - alpha, colors, alpha, 0)
    bright = cv2.addWeighted(colors, 0.5, np.full_like(colors, 255), 0.5, 0)
    valid = label != IGNORE
    return np.select([(valid & _borders(label))[..., None], valid[..., None]],
                     [bright, blended], image)  # fmt: skip


def comparison_panel(
    image: np.ndarray,
    prediction: np.ndarray,
    truth: np.ndarray | None,
    palette: Palette,
    max_width: int = 480,
) -> np.ndarray:
    """Image, prediction, truth and errors side by side, each with a caption.

    Args:
        image: `(h, w, 3)` uint8 RGB.
        prediction: `(h, w)` uint8 train ids.
        truth: `(h, w)` uint8 train ids; None leaves out the truth and the error map.
        palette: one RGB colour a class.
        max_width: width of one tile in pixels, at most.

    Returns:
        `(H, W, 3)` uint8 RGB, W about 4 tiles (2 without truth). In the error map wrong pixels
        are red over the grey image, ignored ones dark.
    """
    _check_same_size(image, prediction)
    resized = _resize(image, max_width, cv2.INTER_AREA)
    # Labels are resized before they are drawn: borders stay one pixel wide.
    small_prediction = _resize(prediction, max_width, cv2.INTER_NEAREST)
    tiles = [("image", resized), ("prediction", overlay(resized, small_prediction, palette))]
    if truth is not None:
        _check_same_size(image, truth)
        small_truth = _resize(truth, max_width, cv2.INTER_NEAREST)
        tiles.append(("truth", overlay(resized, small_truth, palette)))
        counted = truth != IGNORE
        share = np.mean(prediction[counted] != truth[counted]) if counted.any() else 0.0
        errors = _error_map(resized, small_prediction, small_truth)
        tiles.append((f"errors {100 * share:.1f} %", errors))
    return side_by_side(tiles, max_width)


def side_by_side(tiles: Sequence[tuple[str, np.ndarray]], max_width: int = 480) -> np.ndarray:
    """Pictures of one size in a row, each with its caption above: `(H, W, 3)` uint8 RGB.

    Args:
        tiles: captions, and pictures `(h, w, 3)` uint8 RGB.
        max_width: width of one tile in pixels, at most.
    """
    captioned = [
        _captioned(_resize(tile, max_width, cv2.INTER_AREA), caption) for caption, tile in tiles
    ]
    gap = np.full((len(captioned[0]), 4, 3), PAPER, np.uint8)
    parts = [part for tile in captioned for part in (tile, gap)]
    return np.concatenate(parts[:-1], axis=1)


def legend(classes: Sequence[str], palette: Palette, rows: int = 25) -> np.ndarray:
    """A picture of every class's colour, id and name.

    Args:
        classes: K names; letters outside ASCII are folded to it.
        palette: at least K RGB colours.
        rows: most classes in one column; more classes make more columns.

    Returns:
        `(H, W, 3)` uint8 RGB.
    """
    font, line, swatch = ImageFont.load_default(14), 22, 28
    texts = [_ascii(name) for name in classes]
    name_x = swatch + 14 + math.ceil(font.getlength(str(len(texts))))
    column = name_x + 20 + math.ceil(max(map(font.getlength, texts), default=0))
    columns = max(1, math.ceil(len(texts) / rows))
    rows = math.ceil(len(texts) / columns)
    picture = Image.new("RGB", (columns * column + 8, rows * line + 12), PAPER)
    draw = ImageDraw.Draw(picture)
    for i, text in enumerate(texts):
        x, y = 8 + i // rows * column, 6 + i % rows * line
        box = (x, y + 3, x + swatch, y + line - 4)
        draw.rectangle(box, fill=tuple(palette[i]), outline=MUTED)
        draw.text((x + name_x - 6, y + 2), str(i), MUTED, font, anchor="ra")
        draw.text((x + name_x, y + 2), text, INK, font)
    return np.asarray(picture)


def iou_table(
    classes: Sequence[str],
    iou: Sequence[float | None] | np.ndarray,
    extra: Mapping[str, float | None] | None = None,
) -> str:
    """An aligned table for the terminal, one row a class.

    Args:
        classes: K names; very long ones are cut (the id tells them apart).
        iou: K values in 0..1, shown in percent; None or NaN (class absent) is shown as "-".
        extra: summary rows for the bottom, such as `{"mIoU": 0.78}`, also in 0..1.
    """
    extra = extra or {}
    names = [
        name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in classes
    ]
    width = max(map(len, ["class", *names, *extra]))
    rows = [f" id  {'class':<{width}}     IoU"]
    for i, (name, value) in enumerate(zip(names, iou, strict=True)):
        rows.append(f"{i:>3}  {name:<{width}}  {percent(value):>6}  {_bar(value)}".rstrip())
    if extra:
        rows.append("─" * (width + 13))
    rows += [f"     {name:<{width}}  {percent(value):>6}" for name, value in extra.items()]
    return "\n".join(rows)


def percent(value: float | None) -> str:
    """A share in 0..1 as percent with two decimals; "-" where there is none (None, NaN, inf)."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.2f}"


def save_png(path: Path | str, array: np.ndarray, palette: Palette | None = None) -> None:
    """Writes a PNG whole or not at all, creating its folder.

    Args:
        path: the file to write.
        array: `(h, w, 3)` uint8 RGB, or `(h, w)` uint8.
        palette: given with an `(h, w)` array of ids, the file shows these colours while its
            pixels remain the ids (mode P; 255 is black).
    """
    picture = Image.fromarray(array)
    if palette is not None:
        picture.putpalette(_color_table(palette).tobytes())
    encoded = io.BytesIO()
    picture.save(encoded, format="PNG")
    write_atomically(Path(path), encoded.getvalue())


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to `path` so that no reader, or killed run, ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _color_table(palette: Palette) -> np.ndarray:
    """`(256, 3)` uint8: the palette, then black (IGNORE among it)."""
    table = np.zeros((256, 3), np.uint8)
    table[: min(len(palette), IGNORE)] = np.asarray(palette, np.uint8).reshape(-1, 3)[:IGNORE]
    return table


def _check_ids(label: np.ndarray, palette: Palette) -> None:
    unknown = np.flatnonzero(np.bincount(label.ravel(), minlength=256)[len(palette) : IGNORE])
    if len(unknown):
        found = int(unknown[0]) + len(palette)
        raise ValueError(f"The label has class {found}, the palette only {len(palette)} colours.")


def _check_same_size(image: np.ndarray, label: np.ndarray) -> None:
    if image.shape[:2] != label.shape:
        raise ValueError(f"The image is {image.shape[:2]} pixels, its label {label.shape}.")


def _borders(label: np.ndarray) -> np.ndarray:
    """`(h, w)` bool: pixels whose right or lower neighbour has another label."""
    borders = np.zeros(label.shape, bool)
    borders[:, :-1] |= label[:, :-1] != label[:, 1:]
    borders[:-1] |= label[:-1] != label[1:]
    return borders


def _error_map(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    wrong = cv2.addWeighted(grey, 0.25, np.full_like(grey, WRONG), 0.75, 0)
    ignored, differs = (truth == IGNORE)[..., None], (prediction != truth)[..., None]
    return np.select([ignored, differs], [grey // 4, wrong], grey // 2 + 96)


def _resize(array: np.ndarray, max_width: int, interpolation: int) -> np.ndarray:
    height, width = array.shape[:2]
    if width > max_width:
        size = (max_width, max(1, round(height * max_width / width)))
        return cv2.resize(array, size, interpolation=interpolation)
    # Thumbnails such as the toy data's are enlarged by a whole factor: captions need room.
    factor = max(1, min(160, max_width) // width)
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _captioned(tile: np.ndarray, caption: str) -> np.ndarray:
    # Letters grow with the tile: a panel is looked at shrunk to the width of a page.
    size = min(max(12, tile.shape[1] // 22), 24)
    strip = Image.new("RGB", (tile.shape[1], size + 8), PAPER)
    ImageDraw.Draw(strip).text((3, 3), caption, INK, ImageFont.load_default(size))
    return np.concatenate([np.asarray(strip), tile])


def _ascii(name: str) -> str:
    """The name without accents; letters that no accent explains become "?"."""
    folded = unicodedata.normalize("NFKD", name)
    letters = "".join(letter for letter in folded if not unicodedata.combining(letter))
    return letters.encode("ascii", "replace").decode()


def _bar(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    eighths = round(8 * BAR_WIDTH * min(max(value, 0.0), 1.0))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()

"""`openseg data init FOLDER`: finds out what a folder holds, and describes it.

What the values of masks mean is guessed from the values themselves and from a list of classes;
every guess is explained, and written where people can correct it.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from openseg_jax.data import folder as folders
from openseg_jax.data import layout_guess
from openseg_jax.data.archive import File
from openseg_jax.data.class_files import Named, read_class_file
from openseg_jax.data.description import Category, Description
from openseg_jax.data.label_files import from_png
from openseg_jax.data.masks import color_codes, color_text, palette_of
from openseg_jax.data.processes import in_processes
from openseg_jax.errors import UserError
from openseg_jax.report import default_palette

MOST_MASKS = 500  # that are read to see which values occur; the build checks them all
MOST_VALUES = 256  # with more, masks are no label maps
VOID = 255  # by wide custom, the id of pixels that count nowhere

Meaning = tuple[list[Category], list[int | str], list[str]]  # classes, ignored, explanations


class Finding(NamedTuple):
    """A description, and the sentences that explain it."""

    description: Description
    notes: list[str]
    pixels: dict[int | str, int]  # of each value, in the masks that were read


class Values(NamedTuple):
    """What masks hold: how many are of each kind, and pixels by value."""

    kinds: Counter  # ids, palette, gray (ids in three channels), colors, colors of palettes
    pixels: Counter  # by id; by "r,g,b" of the kinds gray and colors
    palette: dict[int, tuple[int, int, int]]  # colours of ids, from palette PNGs
    steady: bool = True  # whether each id has one colour in all palettes


def inspect(folder: Path, name: str = "", class_file: Path | None = None) -> Finding:
    """Looks at a folder of images and masks and describes it; UserError says what is unclear.

    Args:
        name: of the data set; default: the folder's.
        class_file: names of the classes, a line each; default: a classes.txt or the like in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Unpack an archive, and give its folder.")
    layout = layout_guess.guess(folder)
    draft = Description(
        name=name or re.sub(r"\W+", "_", folder.resolve().name).strip("_").lower() or "my_data",
        splits=layout.splits,
        masks="files" if layout.classes else "ids",
        classes=tuple(Category(value, (), (value,)) for value in layout.classes),
    )
    masks = [
        file
        for _, split_masks in folders.find(folder, draft).values()
        for mask in split_masks.values()
        for file in (mask.values() if isinstance(mask, dict) else [mask])
    ]
    if not masks:
        raise UserError(f"{folder}: no mask belongs to an image.")
    some = masks[:: -(-len(masks) // MOST_MASKS)]
    named = read_class_file(folder, class_file)
    seen = _values(some, named)
    if layout.classes:
        kind, meaning = "files", _one_file_a_class(layout.classes, named, seen)
    elif seen.kinds["colors"]:
        kind, meaning = "colors", _colors(seen, named)
    else:
        kind, meaning = "ids", _ids(seen, named)
    classes, ignored, notes = meaning
    description = dataclasses.replace(
        draft, masks=kind, classes=_with_colors(classes), ignored=tuple(ignored)
    )
    notes.insert(0, f"{len(some)} of {len(masks)} masks were read.")
    return Finding(description, notes, dict(seen.pixels))


def _with_colors(classes: list[Category]) -> tuple[Category, ...]:
    taken = {category.color for category in classes}
    spare = iter([color for color in default_palette(2 * len(classes)) if color not in taken])
    return tuple(c if c.color else dataclasses.replace(c, color=next(spare)) for c in classes)


def _values(files: list[File], named: list[Named]) -> Values:
    seen = _counted(files)
    listed = {entry.color for entry in named if entry.color and entry.id is None}
    if listed & set(seen.palette.values()) or not seen.steady:
        seen = _counted(files, palette_colors=True)
    kinds, pixels = seen.kinds, seen.pixels
    if kinds["colors"] and (kinds["ids"] or kinds["palette"]):
        raise UserError(
            f"Some masks have colours ({kinds['colors']}), others one channel "
            f"({kinds['ids'] + kinds['palette']}). Save all of them alike, or keep only one kind."
        )
    if kinds["gray"] and not kinds["colors"]:
        gray = [(value, n) for value, n in pixels.items() if isinstance(value, str)]
        for value, count in gray:
            del pixels[value]
            pixels[int(value.split(",")[0])] += count
    if len(pixels) > MOST_VALUES:
        raise UserError(
            f"The masks, such as {files[0]}, hold {len(pixels)} different values: they are no "
            "label maps, or have soft borders, or are numbered by object instead of by class."
        )
    return seen


def _counted(files: list[File], palette_colors: bool = False) -> Values:
    kinds, pixels, palette, steady = Counter(), Counter(), {}, True
    for one in in_processes(partial(_values_of, palette_colors=palette_colors), files):
        kinds.update(one.kinds)
        pixels.update(one.pixels)
        steady &= all(palette.get(value, color) == color for value, color in one.palette.items())
        palette.update(one.palette)
        if len(pixels) > 64 * MOST_VALUES:
            break
    return Values(kinds, pixels, palette, steady)


def _values_of(file: File, palette_colors: bool) -> Values:
    encoded = file.read()
    pixels = from_png(encoded, str(file), palette_colors)
    with Image.open(io.BytesIO(encoded)) as picture:
        mode = picture.mode
        if picture.format == "JPEG":
            raise UserError(
                f"{file}: masks must not be JPEGs, whose compression changes the values. Save "
                "them as PNG from their source."
            )
    if pixels.ndim == 3 and pixels.shape[-1] == 2:  # grey with alpha
        pixels = pixels[..., 0]
    if pixels.ndim == 2:
        values, counts = np.unique(pixels, return_counts=True)
        found = Counter({int(v): int(n) for v, n in zip(values, counts, strict=True)})
        return Values(Counter({"palette" if mode == "P" else "ids": 1}), found, palette_of(encoded))
    codes, counts = np.unique(color_codes(pixels, file), return_counts=True)
    most = np.argsort(-counts)[: 64 * MOST_VALUES + 1]
    found = Counter({color_text(int(codes[i])): int(counts[i]) for i in most})
    if mode == "P":
        return Values(Counter({"colors": 1, "colors of palettes": 1}), found, {})
    gray = all(len(set(value.split(","))) == 1 for value in found)
    return Values(Counter({"gray" if gray else "colors": 1}), found, {})


def _ids(seen: Values, named: list[Named]) -> Meaning:
    values = sorted(seen.pixels)
    if len(values) == 2 and values[0] == 0 and (values[1] == VOID or values[1] > 1):
        return _binary(values[1], named)
    used = [value for value in values if value != VOID]
    notes = []
    if seen.kinds["gray"]:
        notes.append("The ids are repeated in three channels; one is taken.")
    if seen.kinds["palette"]:
        notes.append("The masks are palette PNGs: their ids are taken, not their colours.")
    if max(values) > 255:
        notes.append("The masks have 16 bits; they are stored as class numbers, in 8.")
    if any(entry.id is not None for entry in named):
        of = {entry.id: entry.name for entry in named if entry.id is not None}
        colors = {entry.id: entry.color for entry in named}
        notes.append("Ids as in the list of classes.")
    else:
        names, note = _names_in_order(used, [entry.name for entry in named])
        of = dict(zip(names[0], names[1], strict=True))
        colors = {value: named[i].color for i, value in enumerate(names[0])} if named else {}
        notes.append(note)
    void = {VOID} if max(values) <= VOID else set()
    ignored = sorted((set(values) | void) - set(of))
    for value in set(ignored) & set(values):
        notes.append(f"Value {value} ({seen.pixels[value]} pixels) is ignored: no class has it.")
    missing = [name for value, name in of.items() if value not in seen.pixels]
    if missing:
        notes.append(f"Not seen in any mask that was read: {', '.join(missing)}.")
    classes = [
        Category(name, colors.get(value) or seen.palette.get(value) or (), (value,))
        for value, name in of.items()
    ]
    return classes, ignored, notes


def _names_in_order(used: list[int], names: list[str]) -> tuple[tuple[list, list], str]:
    """The ids that the listed names stand for, and why."""
    count = len(names)
    if not names:
        named = ["background" if v == 0 and len(used) > 1 else f"class_{v}" for v in used]
        note = "There is no list of classes: each value is a class. Put names into dataset.json."
        return (used, named), note
    if max(used) < count:
        return (list(range(count)), names), "The first class of the list has id 0, and so on."
    if max(used) == count:
        note = "There are as many classes as the highest id: the first has id 1, and 0 is ignored."
        return (list(range(1, count + 1)), names), note
    for values, note in ((used, ""), ([v for v in used if v], " 0 is ignored.")):
        if len(values) == count:
            return (values, names), "The classes of the list are the values in their order." + note
    raise UserError(
        f"The list has {count} classes, but the masks have the values "
        f"{', '.join(map(str, used[:40]))}. Write the id before each name: `7 road`."
    )


def _binary(value: int, named: list[Named]) -> Meaning:
    names = [entry.name for entry in named]
    if len(names) > 2:
        raise UserError(f"The list has {len(names)} classes, but masks only hold 0 and {value}.")
    names = (["background"] if len(names) < 2 else []) + (names or ["foreground"])
    note = f"The masks are binary: 0 is {names[0]}, {value} is {names[1]}; none is ignored."
    return [Category(names[0], (), (0,)), Category(names[1], (), (value,))], [], [note]


def _colors(seen: Values, named: list[Named]) -> Meaning:
    listed = {",".join(map(str, entry.color)): entry.name for entry in named if entry.color}
    if named and not listed:
        raise UserError(
            "The masks are coloured, but the list of classes has no colours. Write them after "
            "each name, as in `road 128 64 128`. The masks have "
            f"{'; '.join(list(seen.pixels)[:40])}."
        )
    notes = ["The masks are coloured: each colour is a class."]
    if seen.kinds["colors of palettes"]:
        notes = ["The masks are palette PNGs: each colour is a class, as ids may differ by file."]
    if not listed:
        listed = {color: "class_" + color.replace(",", "_") for color in sorted(seen.pixels)}
        notes.append("There is no list of classes: put names into dataset.json.")
    void = sorted(set(seen.pixels) - set(listed))
    total = sum(seen.pixels.values())
    for color in void:
        share = seen.pixels[color] / total
        notes.append(f"Colour {color} ({share:.2%} of the pixels) is ignored: no class has it.")
    classes = [
        Category(name, tuple(map(int, color.split(","))), (color,))
        for color, name in listed.items()
    ]
    return classes, void, notes


def _one_file_a_class(found: tuple[str, ...], named: list[Named], seen: Values) -> Meaning:
    if len(seen.pixels) > 2:
        raise UserError(
            f"Each image has several masks ({', '.join(found[:5])}), but they hold "
            f"{len(seen.pixels)} values instead of one inside and one outside of a class. Keep "
            "one mask an image, or one binary mask a class."
        )
    order = [entry.name for entry in named if entry.name in found]
    order += [name for name in found if name not in order]
    notes = [
        "Each class has a file of its own. Where they overlap, the one later in the list counts; "
        "pixels in none are background."
    ]
    background = [] if "background" in order else [Category("background", (), ())]
    return background + [Category(name, (), (name,)) for name in order], [], notes

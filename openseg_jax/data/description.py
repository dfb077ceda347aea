"""`dataset.json`: what a user's own folder of images and masks holds, for people to edit."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from openseg_jax.data.archive import File, list_files
from openseg_jax.data.dataset import IGNORE
from openseg_jax.errors import UserError

FILE = "dataset.json"
KINDS = ("ids", "colors", "files")


@dataclasses.dataclass(frozen=True)
class Category:
    """One class: its name, its RGB colour in pictures, and what stands for it in the masks.

    `values` are ids, colours "r,g,b", or names of files or folders, by the kind of the masks.
    """

    name: str
    color: tuple[int, int, int]
    values: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True)
class Description:
    """What `dataset.json` says.

    Args:
        splits: `{split: {"images": pattern, "masks": pattern}}`; patterns are paths from the
            folder, with `{name}` for what an image and its mask share, `{class}` for the class
            where each has a file of its own, and `.*` for any file type.
        val_fraction: of the training images; they are the split val where there is none.
        masks: ids (a number a pixel), colors, or files (a file a class, not 0 inside of it).
        ignored: ids or colours that count nowhere.
        flip_pairs: names of classes that swap in a mirror image, as left and right.
    """

    name: str
    splits: Mapping[str, Mapping[str, str]]
    masks: str
    classes: tuple[Category, ...]
    ignored: tuple[int | str, ...] = ()
    val_fraction: float = 0.1
    flip_pairs: tuple[tuple[str, str], ...] = ()


def save(description: Description, folder: Path) -> Path:
    """Writes `dataset.json`; each class on a line of its own, for people to edit."""
    values = dataclasses.asdict(description)
    classes = ",\n  ".join(json.dumps(category) for category in values.pop("classes"))
    text = json.dumps(values | {"classes": []}, indent=1)
    path = folder / FILE
    path.write_text(text.replace('"classes": []', f'"classes": [\n  {classes}\n ]') + "\n")
    return path


def load(source: Path) -> Description:
    """Reads and checks the `dataset.json` of a folder, or of an archive of such a folder."""
    path, archived = source / FILE, {} if source.is_dir() else files_of(source)
    write_it = f"openseg data init {source if source.is_dir() else 'UNPACKED_FOLDER'}"
    if not path.is_file() and FILE not in archived:
        raise UserError(
            f"{path} is missing: it says which masks belong to which images and what their "
            f"values mean. Write it with\n  {write_it}"
        )
    try:
        values = json.loads(archived[FILE].read() if archived else path.read_text())
        classes = tuple(
            Category(str(c["name"]), tuple(map(int, c["color"])), tuple(c["values"]))
            for c in values.pop("classes")
        )
        pairs = tuple((str(a), str(b)) for a, b in values.pop("flip_pairs", ()))
        ignored = tuple(values.pop("ignored", ()))
        description = Description(classes=classes, ignored=ignored, flip_pairs=pairs, **values)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be understood ({error!r}). Correct it, or write it again with\n"
            f"  {write_it}"
        ) from error
    _validate(description, path)
    return description


def files_of(source: Path) -> dict[str, File]:
    """The files of a folder, or of an archive of one, by their path from its `dataset.json`."""
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.is_file())
        return {path.relative_to(source).as_posix(): File(str(path)) for path in paths}
    files = list_files(source)
    tops = [path.removesuffix(FILE) for path in files if path.endswith(f"/{FILE}")]
    top = min(tops, key=len, default=f"{source.name}/")
    return {path.removeprefix(top): file for path, file in files.items() if path.startswith(top)}


def _validate(description: Description, path: Path) -> None:
    names = [category.name for category in description.classes]
    values = [value for category in description.classes for value in category.values]
    values += description.ignored
    ids = description.masks == "ids"
    unknown = {name for pair in description.flip_pairs for name in pair} - set(names)
    problems = {
        f"masks is {description.masks!r}, not one of {', '.join(KINDS)}": (
            description.masks not in KINDS
        ),
        "it needs 1 to 254 classes": not 1 <= len(names) < IGNORE,
        "two classes have one name": len(set(names)) < len(names),
        "a value stands for two classes": len(set(values)) < len(values),
        "ids are whole numbers from 0 to 65535": ids
        and not all(isinstance(value, int) and 0 <= value < 65536 for value in values),
        'colours are written "r,g,b"': description.masks == "colors"
        and not all(re.fullmatch(r"\d{1,3},\d{1,3},\d{1,3}", str(value)) for value in values),
        "a class colour has three numbers from 0 to 255": not all(
            len(c.color) == 3 and 0 <= min(c.color) and max(c.color) < 256
            for c in description.classes
        ),
        "it has no split train": "train" not in description.splits,
        "each split has the patterns images and masks with {name} in them": not all(
            "{name}" in split.get("images", "") and "{name}" in split.get("masks", "{name}")
            for split in description.splits.values()
        ),
        f"flip_pairs names unknown classes: {', '.join(sorted(unknown))}": bool(unknown),
        "val_fraction is not between 0 and 1": not 0 <= description.val_fraction < 1,
    }
    for problem, holds in problems.items():
        if holds:
            raise UserError(f"{path}: {problem}. Correct it.")


def stored_verbatim(description: Description) -> bool:
    """Whether masks are stored as they are: ids that fit 8 bits."""
    values = [value for category in description.classes for value in category.values]
    return description.masks == "ids" and max(values + list(description.ignored)) < 256

"""Lists of class names as people have them: classes.txt, label_colors.txt, class_dict.csv, JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from openseg_jax.errors import UserError

USUAL_NAMES = (
    *("classes.txt", "labels.txt", "label_colors.txt", "class_dict.csv", "classes.csv"),
    *("classes.json", "labels.json", "codes.txt", "labelmap.txt", "names.txt"),
)


class Named(NamedTuple):
    """A class of the list; id and colour where the list has them."""

    name: str
    id: int | None = None
    color: tuple[int, int, int] | None = None


def read_class_file(folder: Path, path: Path | None = None) -> list[Named]:
    """The classes in `path`, or in a usual file of `folder`; empty where there is none.

    A line is a name, with an id or with a colour before or after it: `road`, `7 road`,
    `road,128,64,128`. JSON is a list of names, or `{"7": "road"}`.
    """
    if path is None:
        path = next((folder / name for name in USUAL_NAMES if (folder / name).is_file()), None)
        if path is None:
            return []
    try:
        text = path.read_text(encoding="utf-8-sig")
        named = _from_json(text) if path.suffix == ".json" else _from_lines(text)
    except (OSError, UnicodeDecodeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as a list of classes ({error}). Write one name a line, with "
            "an id or a colour if you like: `road`, `7 road`, `road 128 64 128`."
        ) from error
    names = [entry.name for entry in named]
    double = sorted({name for name in names if names.count(name) > 1})
    if double or not named:
        what = f"names {double[0]!r} twice" if double else "names no class"
        raise UserError(f"{path} {what}. Correct it.")
    return named


def _from_json(text: str) -> list[Named]:
    values = json.loads(text)
    if isinstance(values, list):
        return [Named(str(name)) for name in values]
    return [Named(str(name), int(number)) for number, name in values.items()]


def _from_lines(text: str) -> list[Named]:
    named = []
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if not line or re.fullmatch(r"(name|class|id|label)\w*([,;\t ]+\w+)*", line.lower()):
            # A heading has no number, and more than one word; a lone name is a class.
            if not line or len(re.findall(r"\w+", line)) > 1:
                continue
        # Numbers stand before the name or after it, never inside.
        match = re.fullmatch(r"((?:\d+[\s,:;]+)*)(.*?)((?:[\s,:;]+\d+)*)[\s,:;]*", line)
        numbers = [int(number) for number in re.findall(r"\d+", match[1] + " " + match[3])]
        if not match[2] or len(numbers) not in (0, 1, 3, 4):
            raise ValueError(f"line {line!r}")
        number = numbers[0] if len(numbers) in (1, 4) else None
        color = tuple(numbers[-3:]) if len(numbers) >= 3 else None
        if color and max(color) > 255:
            raise ValueError(f"line {line!r}: a colour has numbers up to 255")
        named.append(Named(match[2].strip(" ,:;\t\"'"), number, color))
    return named

"""What is wrong with one example: its image, its label, and both together."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from PIL import Image

from openseg_jax.data.dataset import IGNORE, Example, LabelMap
from openseg_jax.data.images import decode_image, truncated
from openseg_jax.data.masks import BadMask
from openseg_jax.errors import UserError

ERROR, WARNING = "error", "warning"


class Problem(NamedTuple):
    """One thing that is wrong (error) or looks wrong (warning)."""

    severity: str
    kind: str  # a key of `doctor.MENDS`
    where: str


class Examined(NamedTuple):
    """What was found out about one example."""

    split: str
    name: str
    problems: list[Problem]
    ids: np.ndarray | None = None  # (256,) pixels of each provider id
    size: tuple[int, int] = (0, 0)
    content: str = ""  # equal for equal pictures


def examine(item: tuple[str, Callable[[], Example]], name: str, label_map: LabelMap) -> Examined:
    """Loads one example and looks at its image and label; (split, load) -> what was found."""
    split, load = item
    try:
        example = load()
    except BadMask as error:
        told = str(error) + _hint(error.ids, label_map)
        return Examined(split, "", [Problem(ERROR, "bad label", told)])
    except (UserError, OSError) as error:
        return Examined(split, "", [Problem(ERROR, "unreadable", str(error))])
    where = f"{split}: the image of {example.name}"
    problems = _image_problems(example.image, where)
    if any(problem.severity == ERROR for problem in problems):
        return Examined(split, example.name, problems)
    try:
        image = decode_image(example.image, where)
    except UserError as error:
        return Examined(split, example.name, [Problem(ERROR, "unreadable", str(error))])
    content = hashlib.sha256(np.ascontiguousarray(image)).hexdigest()
    found = Examined(split, example.name, problems, None, image.shape[:2], content)
    if example.label is None:
        return found
    where = example.source or f"{split}: the label of {example.name}"
    try:
        label_map.check(example.label, where)
    except UserError as error:
        ids = np.unique(example.label).tolist() if example.label.ndim == 2 else ()
        problems.append(Problem(ERROR, "bad label", str(error) + _hint(ids, label_map)))
        return found
    if example.label.shape != image.shape[:2]:
        sizes = [f"{size[1]}x{size[0]}" for size in (example.label.shape, image.shape)]
        problems.append(
            Problem(
                ERROR, "sizes differ", f"{where}: the label is {sizes[0]}, its image {sizes[1]}"
            )
        )
        return found
    if (label_map.encode(example.label) == IGNORE).all():
        problems.append(Problem(WARNING, "all ignored", where))
    return found._replace(ids=np.bincount(example.label.ravel(), minlength=256))


def _image_problems(encoded: bytes, where: str) -> list[Problem]:
    """What the header tells, and whether the end is there."""
    if not encoded:
        return [Problem(ERROR, "empty file", where)]
    found = [Problem(ERROR, "truncated", where)] if truncated(encoded) else []
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            mode, rotated = picture.mode, picture.getexif().get(0x0112, 1) != 1
            transparent = "transparency" in picture.info
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return found  # decoding will tell
    kinds = {
        "grey image": mode in ("1", "L", "LA"),
        "CMYK image": mode in ("CMYK", "YCCK"),
        "alpha channel": mode in ("LA", "RGBA", "PA") or transparent,
        "16-bit image": mode.startswith("I"),
        "EXIF rotation": rotated,
    }
    return found + [Problem(WARNING, kind, where) for kind, holds in kinds.items() if holds]


def _hint(found: Collection[int], label_map: LabelMap) -> str:
    """What ids may be of which some are unknown."""
    ids = set(found) - {IGNORE}
    classes = {value for value, train_id in label_map.train_ids.items() if train_id != IGNORE}
    if not ids or classes != set(range(len(classes))):
        return ""
    if max(ids) == len(classes):
        return (
            f" Do the classes have the ids 1 to {len(classes)}, and is 0 ignored? Then map them so."
        )
    if len(classes) == 19 and max(ids) <= 33:
        return " These look like Cityscapes' labelIds where trainIds are meant."
    return ""

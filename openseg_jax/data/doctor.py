"""`openseg data check`: what is wrong with a data set, where, and how to mend it.

Works on any DataSet and its loads: what a provider ships, a user's own folder, or what was built.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from openseg_jax.config import data_dir
from openseg_jax.data import description
from openseg_jax.data import folder as folders
from openseg_jax.data.built import Split, built_folder, split_sizes
from openseg_jax.data.dataset import IGNORE, DataSet, Example, LabelMap
from openseg_jax.data.images import decode_image, truncated
from openseg_jax.data.layout_guess import FILE_TYPES
from openseg_jax.data.processes import in_processes
from openseg_jax.errors import UserError

ERROR, WARNING = "error", "warning"
ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".mat", ".json"}
MENDS = {
    "unreadable": "fetch or write the file again, or remove it with its partner",
    "bad label": "correct the label, or the data set's classes",
    "sizes differ": "image and label must have one size in pixels",
    "empty file": "fetch it again",
    "truncated": "the file ends too early: fetch it again",
    "grey image": "fine if meant so: it is repeated in three channels",
    "CMYK image": "save it as RGB: colours may be wrong",
    "alpha channel": "fine if meant so: transparency is dropped",
    "16-bit image": "it is cut to 8 bits: save it as you want it in 8",
    "EXIF rotation": "it is ignored: label the pixels as stored, or rotate them for good",
    "all ignored": "nothing can be learned from it: label it, or leave it out",
    "no mask": "it is left out: label it, or remove it",
    "no image": "it is left out: find its image, or remove it",
    "leakage": "remove it from one split: scores would be too good",
    "same picture twice": "keep one",
    "never labelled": "no training pixel has this class: it cannot be learned",
    "train ids": "give the provider's own labels; these were mapped already",
    "no val": "evaluation needs a split val",
}


class Problem(NamedTuple):
    """One thing that is wrong (error) or looks wrong (warning)."""

    severity: str
    kind: str  # a key of MENDS
    where: str


class Examined(NamedTuple):
    """What was found out about one example."""

    split: str
    name: str
    problems: list[Problem]
    ids: np.ndarray | None = None  # (256,) pixels of each provider id
    size: tuple[int, int] = (0, 0)
    content: str = ""  # equal for equal pictures


class Report(NamedTuple):
    """The result of a check."""

    dataset: DataSet
    problems: list[Problem]
    pixels: dict[str, np.ndarray]  # (num_classes + 1,) of each class, and ignored ones
    sizes: dict[str, list[tuple[int, int]]]  # of the images of each split

    @property
    def has_errors(self) -> bool:
        """Whether anything must be mended before training."""
        return any(problem.severity == ERROR for problem in self.problems)


def check_source(dataset: DataSet, source: Path, workers: int = 0) -> Report:
    """Checks what a provider ships, or a user's own folder, before it is built."""
    problems = _empty_files(source)
    if (source / description.FILE).is_file():
        problems += _unpaired(source)
    try:
        splits = dataset.read(source)
    except UserError as error:
        problems.append(Problem(ERROR, "unreadable", str(error)))
        return Report(dataset, problems, {}, {})
    return _check(dataset, splits, problems, workers)


def check_built(dataset: DataSet, configured_dir: str) -> Report:
    """Checks a built data set; `configured_dir` as `config.data.dir`."""
    splits = {}
    for name in split_sizes(built_folder(dataset, data_dir(configured_dir))):
        split = Split(dataset, configured_dir, name)
        splits[name] = [partial(split.example, index) for index in range(len(split))]
    # One process: this one has the shards open.
    return _check(dataset, splits, [], 1)


def _empty_files(source: Path) -> list[Problem]:
    files = [source] if source.is_file() else sorted(source.rglob("*"))
    suspects = [path for path in files if path.suffix.lower() in FILE_TYPES | ARCHIVES]
    return [
        Problem(ERROR, "empty file", str(path))
        for path in suspects
        if path.is_file() and not path.stat().st_size
    ]


def _unpaired(source: Path) -> list[Problem]:
    problems = []
    for images, masks in folders.find(source, description.load(source)).values():
        if masks:
            problems += [
                Problem(WARNING, "no mask", str(images[name])) for name in images.keys() - masks
            ]
            alone = [masks[name] for name in masks.keys() - images]
            problems += [Problem(WARNING, "no image", str(mask)) for mask in alone]
    return sorted(problems)


def _check(
    dataset: DataSet,
    splits: Mapping[str, Sequence[Callable[[], Example]]],
    problems: list[Problem],
    workers: int,
) -> Report:
    items = [(split, load) for split, loads in splits.items() for load in loads]
    look = partial(examine, name=dataset.name, label_map=dataset.label_map)
    examined = list(in_processes(look, items, workers))
    empty = [problem.where for problem in problems if problem.kind == "empty file"]
    for one in examined:
        problems += [p for p in one.problems if not _said(p, empty)]
    problems += _duplicates(examined)
    ids = defaultdict(lambda: np.zeros(256, np.int64))
    sizes = defaultdict(list)
    for one in examined:
        sizes[one.split].append(one.size)
        if one.ids is not None:
            ids[one.split] += one.ids
    pixels = {split: _by_class(dataset, counts) for split, counts in ids.items()}
    problems += _class_problems(dataset, pixels, sum(ids.values(), np.zeros(256, np.int64)))
    if splits and not splits.get("val"):
        problems.append(Problem(WARNING, "no val", f"{dataset.name} has {', '.join(splits)}"))
    return Report(dataset, problems, pixels, dict(sizes))


def _said(problem: Problem, empty_files: list[str]) -> bool:
    """Whether this is a file of no bytes, which was reported as such already."""
    if problem.kind not in ("unreadable", "empty file"):
        return False
    return any(
        path in problem.where or problem.where.endswith(f" of {Path(path).stem}")
        for path in empty_files
    )


def examine(item: tuple[str, Callable[[], Example]], name: str, label_map: LabelMap) -> Examined:
    """Loads one example and looks at its image and label; (split, load) -> what was found."""
    split, load = item
    try:
        example = load()
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
        problems.append(Problem(ERROR, "bad label", str(error) + _hint(example.label, label_map)))
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


def _hint(label: np.ndarray, label_map: LabelMap) -> str:
    """What unknown ids may be."""
    ids = set(np.unique(label).tolist()) - {IGNORE} if label.dtype.kind in "ui" else set()
    classes = {value for value, train_id in label_map.train_ids.items() if train_id != IGNORE}
    if label.ndim != 2 or not ids or classes != set(range(len(classes))):
        return ""
    if max(ids) == len(classes) and label.dtype == np.uint8:
        return (
            f" Do the classes have the ids 1 to {len(classes)}, and is 0 ignored? Then map them so."
        )
    if len(classes) == 19 and max(ids) <= 33:
        return " These look like Cityscapes' labelIds where trainIds are meant."
    return ""


def _duplicates(examined: list[Examined]) -> list[Problem]:
    same = defaultdict(list)
    for one in examined:
        if one.content:
            same[one.content].append(f"{one.split}: {one.name}")
    problems = []
    for places in same.values():
        if len(places) > 1:
            across = len({place.split(":")[0] for place in places}) > 1
            kind = (ERROR, "leakage") if across else (WARNING, "same picture twice")
            problems.append(Problem(*kind, " = ".join(places[:4])))
    return problems


def _by_class(dataset: DataSet, ids: np.ndarray) -> np.ndarray:
    train_ids = np.minimum(dataset.label_map.encode(np.arange(256)), dataset.num_classes)
    return np.bincount(train_ids, weights=ids, minlength=dataset.num_classes + 1).astype(np.int64)


def _class_problems(dataset: DataSet, pixels: dict, ids: np.ndarray) -> list[Problem]:
    problems = []
    train = pixels.get("train")
    if train is not None:
        for index in np.flatnonzero(train[:-1] == 0):
            problems.append(Problem(WARNING, "never labelled", f"{index} {dataset.classes[index]}"))
    used = np.flatnonzero(ids[:IGNORE])
    identity = dataset.label_map.encode(used.astype(np.uint8)) == used
    ignored = sum(int(counts[-1]) for counts in pixels.values())
    total = sum(int(counts.sum()) for counts in pixels.values())
    if len(used) and used.max() < dataset.num_classes and not identity.all():
        if ignored > total / 2:
            found = f"ids {used.min()} to {used.max()}; {ignored / total:.0%} would be ignored"
            problems.append(Problem(ERROR, "train ids", found))
    return problems

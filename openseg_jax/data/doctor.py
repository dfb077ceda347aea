"""`openseg data check`: what is wrong with a data set, where, and how to mend it.

Works on any DataSet and its loads: what a provider ships, a user's own folder, or what was built.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openseg_jax.config import data_dir
from openseg_jax.data import folder as folders
from openseg_jax.data.archive import File
from openseg_jax.data.built import Split, built_folder, split_sizes
from openseg_jax.data.dataset import IGNORE, DataSet, Example
from openseg_jax.data.description import Description
from openseg_jax.data.examine import ERROR, WARNING, Examined, Problem, examine
from openseg_jax.data.layout_guess import FILE_TYPES
from openseg_jax.data.masks import palette_of
from openseg_jax.data.processes import in_processes
from openseg_jax.errors import UserError

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
    "palettes differ": "their ids mean nothing: run `openseg data init --force` to go by colours",
    "unpaired": "they are left out: fetch what is missing",
    "no mask": "it is left out: label it, or remove it",
    "no image": "it is left out: find its image, or remove it",
    "leakage": "remove it from one split: scores would be too good",
    "same picture twice": "keep one",
    "never labelled": "no training pixel has this class: it cannot be learned",
    "train ids": "give the provider's own labels; these were mapped already",
    "no val": "evaluation needs a split val",
}


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


def check_folder(described: Description, source: Path, workers: int = 0) -> Report:
    """Checks a user's own folder, or an archive of it, before it is built."""
    problems = _own_masks(described, source, workers)
    return check_source(folders.dataset_from(described, source), source, workers, problems)


def check_source(
    dataset: DataSet, source: Path, workers: int = 0, known: Sequence[Problem] = ()
) -> Report:
    """Checks what a provider ships, before it is built; `known` problems are reported too."""
    problems = _empty_files(source) + list(known)
    readers, heard = logging.getLogger("openseg_jax.data"), _Heard()
    readers.addHandler(heard)
    try:
        splits = dataset.read(source)
    except UserError as error:
        problems.append(Problem(ERROR, "unreadable", str(error)))
        return Report(dataset, problems, {}, {})
    finally:
        readers.removeHandler(heard)
    problems += [Problem(WARNING, "unpaired", text) for text in heard.texts]
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


def _own_masks(described: Description, source: Path, workers: int) -> list[Problem]:
    """What concerns the masks of a user's own folder beyond single ones."""
    problems, files = [], []
    for images, masks in folders.find(source, described).values():
        if masks:
            problems += [
                Problem(WARNING, "no mask", str(images[name])) for name in images.keys() - masks
            ]
            alone = [folders.source_of(masks[name]) for name in masks.keys() - images]
            problems += [Problem(WARNING, "no image", mask) for mask in alone]
        files += masks.values()
    if described.masks == "ids":
        problems += _palettes(files, workers)
    return sorted(problems)


def _palettes(masks: list[File], workers: int) -> list[Problem]:
    """Palette PNGs in which an id has another colour than in one before: ids only of that file."""
    first: dict[int, tuple] = {}
    problems = []
    for file, palette in zip(masks, in_processes(_palette_of, masks, workers), strict=True):
        for value, color in palette.items():
            color_before, before = first.setdefault(value, (color, file))
            if color != color_before:
                told = f"{file}: {value} is {color}, in {before} it is {color_before}"
                problems.append(Problem(ERROR, "palettes differ", told))
                break
    return problems


def _palette_of(mask: File) -> dict[int, tuple[int, int, int]]:
    try:
        return palette_of(mask.read())
    except (UserError, OSError, SyntaxError, ValueError):
        return {}  # reading the example will tell


class _Heard(logging.Handler):
    """Keeps what readers warn of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


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

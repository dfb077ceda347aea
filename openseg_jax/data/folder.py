"""A user's own data set: images and masks in a folder, described by its `dataset.json`.

`openseg data init FOLDER` writes that file (`inspect`); people correct it; `openseg data build
folder --source FOLDER` builds the data set; a config takes the facts from what was built.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from openseg_jax.config import data_dir
from openseg_jax.data import built, catalog
from openseg_jax.data import description as descriptions
from openseg_jax.data.archive import File
from openseg_jax.data.dataset import IGNORE, DataSet, Example, LabelMap
from openseg_jax.data.description import FILE, Description
from openseg_jax.data.masks import read_mask
from openseg_jax.errors import UserError, did_you_mean


def dataset(folder: Path, name: str = "") -> DataSet:
    """The data set that a `dataset.json` describes; `name` instead of its own.

    Args:
        folder: that holds the file, or an archive of such a folder.
    """
    description = descriptions.load(folder)
    return dataset_from(dataclasses.replace(description, name=name or description.name), folder)


def dataset_from(description: Description, folder: Path) -> DataSet:
    """The data set of a folder, as described."""
    count = len(description.classes)
    if descriptions.stored_verbatim(description):
        train_ids = {
            value: index
            for index, category in enumerate(description.classes)
            for value in category.values
        }
        label_map = LabelMap(train_ids | {value: IGNORE for value in description.ignored})
    else:
        label_map = LabelMap.identity(count)
    names = [category.name for category in description.classes]
    pairs = tuple((names.index(a), names.index(b)) for a, b in description.flip_pairs)
    return DataSet(
        name=description.name,
        title=f"{description.name}, from {folder.resolve().name}/",
        classes=tuple(names),
        palette=tuple(category.color for category in description.classes),
        label_map=label_map,
        read=partial(read, description=description),
        flip_pairs=pairs,
        how_to_get=f"{folder / FILE} says where its files are.",
    )


def read(source: Path, description: Description) -> dict[str, list]:
    """The loads of each split; images without a mask and masks without an image are left out."""
    splits = {}
    for split, (images, masks) in find(source, description).items():
        names = [name for name in images if name in masks or not masks]
        splits[split] = [
            partial(_load, description, name, images[name], masks.get(name)) for name in names
        ]
    if "val" not in splits and description.val_fraction:
        splits = _with_val(splits, description.val_fraction)
    return splits


def find(source: Path, description: Description) -> dict[str, tuple[dict, dict]]:
    """The images and the masks of each split by name; a mask is a file, or one for each class."""
    files = descriptions.files_of(source)
    classes = [value for c in description.classes for value in c.values]
    found = {}
    for split, patterns in description.splits.items():
        masks: dict = {}
        if "masks" in patterns:
            for match, file in _matches(patterns["masks"], files, classes):
                if description.masks == "files":
                    masks.setdefault(match["name"], {})[match["class"]] = file
                else:
                    masks[match["name"]] = file
        taken = {file for m in masks.values() for file in (m.values() if _many(m) else [m])}
        images = {
            match["name"]: file
            for match, file in _matches(patterns["images"], files)
            if file not in taken
        }
        if not images:
            raise UserError(
                f"{source}: the split {split!r} has no images {patterns['images']}. Correct "
                f"{FILE}, or write it again with\n  openseg data init {source}"
            )
        found[split] = images, masks
    return found


def _matches(pattern: str, files: Mapping[str, File], classes=()):
    """(match with the group name, file) of every path that the pattern fits."""
    names = "|".join(re.escape(str(c)) for c in sorted(classes, key=lambda c: -len(str(c))))
    expression = re.escape(pattern).replace(r"\{name\}", "(?P<name>.+)", 1)
    expression = expression.replace(r"\{name\}", "(?P=name)")
    expression = expression.replace(r"\{class\}", f"(?P<class>{names})")
    expression = re.compile(expression.replace(r"\.\*", r"\.[A-Za-z]+"))
    for path, file in files.items():
        match = expression.fullmatch(path)
        if match:
            yield match, file


def _with_val(splits: dict[str, list], fraction: float) -> dict[str, list]:
    """Moves that part of the training examples into val, chosen by name, so always the same."""
    loads = splits["train"]
    if len(loads) < 2:
        raise UserError("One image cannot be both trained on and evaluated on. Give more images.")
    order = sorted(loads, key=lambda load: hashlib.sha256(load.args[1].encode()).digest())
    held_out = set(map(id, order[: max(1, round(len(loads) * fraction))]))
    train = [load for load in loads if id(load) not in held_out]
    val = [load for load in loads if id(load) in held_out]
    return splits | {"train": train, "val": val}


def _load(description: Description, name: str, image: File, mask) -> Example:
    label = None if mask is None else read_mask(description, mask)
    return Example(name.replace("/", "_"), image.read(), label, source_of(mask))


def source_of(mask: File | dict[str, File] | None) -> str:
    """Where a mask comes from, for messages; the first of several files."""
    return "" if mask is None else str(next(iter(mask.values()), "") if _many(mask) else mask)


def _many(mask) -> bool:
    return isinstance(mask, dict)


def dataset_of(data: ConfigDict) -> DataSet:
    """The data set of a config: of the catalogue, or the user's own, with the facts it carries.

    Args:
        data: `config.data`.
    """
    if not data.classes:
        return catalog.get(data.name)
    return DataSet(
        name=data.name,
        title=data.name,
        classes=tuple(data.classes),
        palette=tuple(tuple(color) for color in data.palette),
        label_map=LabelMap({value: train_id for value, train_id in data.label_map}),
        read=lambda source: {},
        flip_pairs=tuple(tuple(pair) for pair in data.flip_pairs),
    )


def configure(config: ConfigDict, where: str) -> ConfigDict:
    """Puts the facts of a built data set into a config, with class weights and a crop to suit.

    Args:
        where: its name, where `$OPENSEG_DATA` holds it, or its folder.
    """
    folder = _built_folder(where)
    noted = built.metadata(folder)
    config.data.update(
        name=folder.parent.name,
        dir="" if Path(where).name == where else str(folder.parent.parent),
        classes=tuple(noted["classes"]),
        palette=tuple(map(tuple, noted["palette"])),
        label_map=tuple(map(tuple, noted["label_map"])),
        flip_pairs=tuple(map(tuple, noted["flip_pairs"])),
    )
    config.model.num_classes = len(noted["classes"])
    config.loss.class_weights = class_weights(noted["pixels"]["train"][:-1])
    config.augment.crop = recommended_crop(noted["median_size"]["train"])
    return config


def _built_folder(where: str) -> Path:
    if Path(where).name == where:
        folder = data_dir("") / where
    else:
        folder = Path(where).expanduser().resolve()
    if (folder / "metadata.json").is_file():
        return folder
    versions = sorted(path.parent for path in folder.glob("*/metadata.json"))
    if not versions:
        there = built_names(folder.parent)
        known = sorted({*there, *catalog.names()})
        raise UserError(
            f"There is no built data set in {folder}. {did_you_mean(folder.name, known)}\n"
            f"Built there: {', '.join(there) or 'none'}. Build your own images and masks with\n"
            f"  openseg data init IMAGES_AND_MASKS\n"
            f"  openseg data build folder --source IMAGES_AND_MASKS\n"
            "and name it: --config=configs/folder_ocr.py:NAME"
        )
    return versions[-1]


def built_names(root: Path) -> list[str]:
    """The names of the built data sets under `root`."""
    return sorted({path.parent.parent.name for path in root.glob("*/*/metadata.json")})


def class_weights(pixels: list[int]) -> tuple[float, ...]:
    """sqrt(median frequency / frequency) of each class, from 0.1 to 10; 1 where it never occurs."""
    counts = np.asarray(pixels, np.float64)
    median = np.median(counts[counts > 0]) if counts.any() else 1.0
    weights = np.sqrt(median / np.where(counts > 0, counts, median))
    return tuple(float(weight) for weight in np.round(np.clip(weights, 0.1, 10), 3))


def typical_crop(dataset: DataSet, configured_dir: str) -> tuple[int, int]:
    """`recommended_crop` for a built data set, its training images if it has any."""
    sizes = built.metadata(built.built_folder(dataset, data_dir(configured_dir)))["median_size"]
    return recommended_crop(sizes.get("train") or next(iter(sizes.values())))


def recommended_crop(size: list[int], longest: int = 512) -> tuple[int, int]:
    """A training crop for images of `size` (h, w): multiples of 32, at most 512 each way."""
    return tuple(max(32, min(longest, side // 32 * 32)) for side in size)

"""Which files of a folder are images, which are masks, and how their names belong together."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from openseg_jax.data.description import FILE
from openseg_jax.errors import UserError

FILE_TYPES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
_MASK_WORDS = {
    *("mask", "masks", "label", "labels", "lbl", "annotation", "annotations", "annot", "annots"),
    *("gt", "groundtruth", "seg", "segmentation", "segmentations", "target", "targets"),
    *("labelids", "labelid", "labeltrainids", "segmentationclass"),
}
_IMAGE_WORDS = {"image", "images", "img", "imgs", "jpegimages", "photo", "photos", "rgb", "input"}
_NEITHER_WORDS = {"instance", "instances", "instanceids", "segmentationobject", "depth", "polygons"}
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Layout(NamedTuple):
    """The patterns of each split, as `dataset.json` has them, and whether a class is a file."""

    splits: dict[str, dict[str, str]]
    classes: tuple[str, ...]  # names in file or folder names, where each class is a file


def guess(folder: Path) -> Layout:
    """Finds images and masks below `folder`, or raises UserError saying what was looked for."""
    images, masks = _images_and_masks(folder)
    splits: dict[str, dict[str, str]] = {}
    classes: set[str] = set()
    by_split = [_by_split(files) for files in (images, masks)]
    for split, files in sorted(by_split[0].items()):
        own_masks = by_split[1].get(split) or by_split[1].get("all", [])
        if not own_masks:
            splits[split] = {"images": _plain_pattern(files)}
            continue
        patterns, found = _pair(files, own_masks, folder)
        splits[split] = patterns
        classes |= found
    labelled = [split for split, patterns in splits.items() if "masks" in patterns]
    if not labelled:
        raise UserError(
            f"{folder}: images of the splits {', '.join(by_split[0])} and masks of "
            f"{', '.join(by_split[1])} do not belong together. Name their folders alike."
        )
    if "train" not in splits:
        splits["train"] = splits.pop("all" if "all" in splits else labelled[0])
    return Layout(splits, tuple(sorted(classes)))


def _images_and_masks(folder: Path) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    found = _picture_files(folder)
    roles = {path: _role(path) for path in found}
    images = [path for path in found if roles[path] == "image"]
    masks = [path for path in found if roles[path] == "mask"]
    if not masks or not images:
        by_folder = defaultdict(list)
        for path in found:
            if roles[path] != "neither":
                by_folder[path.parent].append(path)
        looks = {parent: _look_like_masks(folder, paths) for parent, paths in by_folder.items()}
        images = [path for path in found if looks.get(path.parent) is False]
        masks = [path for path in found if looks.get(path.parent)]
    if not images or not masks:
        raise UserError(
            f"{folder}: {len(images)} images and {len(masks)} masks were found. Put photographs in "
            "a folder images/ and masks, of the same names, in a folder masks/ (each with "
            f"subfolders train/ and val/ if you like), or write {FILE} by hand."
        )
    return images, masks


def _picture_files(folder: Path) -> list[PurePosixPath]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        relative = PurePosixPath(Path(parent).relative_to(folder).as_posix())
        found += [
            relative / name
            for name in sorted(files)
            if Path(name).suffix.lower() in FILE_TYPES and not name.startswith(".")
        ]
    return found


def words(text: str) -> list[str]:
    """The words of a file or folder name, in small letters: gtFine_labelIds -> gt fine label ids.

    The name's parts between separators come too, as one word each.
    """
    parts = re.split(r"[^A-Za-z0-9]+", text)
    pieces = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", text)
    return [word.lower() for word in (*parts, *pieces) if word]


def _role(path: PurePosixPath) -> str:
    """image, mask, or neither; empty where the path does not tell. What is further down counts."""
    for part in (path.stem, *reversed(path.parts[:-1])):
        found = set(words(part))
        annotated = re.fullmatch(r"(train|val|test)_?(annot|masks?|labels?)", part.lower())
        if found & _NEITHER_WORDS:
            return "neither"
        if found & _MASK_WORDS or annotated:
            return "mask"
        if found & _IMAGE_WORDS:
            return "image"
    return "image"


def _look_like_masks(folder: Path, paths: list[PurePosixPath]) -> bool:
    """Whether the first files of one folder have few values, and are no JPEGs."""
    for path in paths[:3]:
        with Image.open(folder / path) as picture:
            pixels = np.asarray(picture)
            if picture.format == "JPEG":
                return False
        values = pixels.reshape(pixels.shape[0] * pixels.shape[1], -1)
        if len(np.unique(values, axis=0)) > 100:
            return False
    return True


def _by_split(paths: Iterable[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    splits = defaultdict(list)
    for path in paths:
        found = "all"
        for part in path.parts[:-1]:
            compound = re.match(r"(train|val|test)_?(annot|masks?|labels?|images?)$", part.lower())
            for word in (compound[1] if compound else "", *words(part)):
                found = _SPLIT_WORDS.get(word, found)
        splits[found].append(path)
    return dict(splits)


def _pair(images, masks, folder: Path) -> tuple[dict[str, str], set[str]]:
    """The patterns of images and masks, and the names of classes where each is a file."""
    for attempt in (_same_names, _one_file_a_class, _affixes):
        result = attempt(images, masks)
        if result:
            return result
    raise UserError(
        f"{folder}: the names of images and masks do not match, for example {images[0]} and "
        f"{masks[0]}. Give them the same names, or the same with a constant ending as in "
        f"a.jpg and a_mask.png, or write {FILE} by hand."
    )


def _same_names(images, masks):
    image_names, mask_names = _names(images), _names(masks)
    if len(set(mask_names)) < len(mask_names) or not _most(mask_names, image_names):
        return None
    return {"images": _plain_pattern(images), "masks": _plain_pattern(masks)}, set()


def _one_file_a_class(images, masks):
    """masks/CLASS/a.png, masks/a/CLASS.png or masks/a_CLASS.png."""
    parent, suffix = _parent(masks), _suffix(masks)
    names = set(_names(images))
    inner = [mask.relative_to(parent).with_suffix("").as_posix() for mask in masks]
    image_pattern = _plain_pattern(images)
    for way in ("{class}/{name}", "{name}/{class}", "{name}_{class}", "{name}-{class}"):
        found = [_class_of(text, way, names) for text in inner]
        if None not in found and 1 < len(set(found)) < min(len(found), 255):
            masks_pattern = f"{_prefix(parent)}{way}{suffix}"
            return {"images": image_pattern, "masks": masks_pattern}, set(found)
    return None


def _class_of(text: str, way: str, names: set[str]) -> str | None:
    """The class in a mask's name that is written that way, if the rest is an image's name."""
    separator = way.strip("{}").split("}")[1][0]
    places = [i for i, letter in enumerate(text) if letter == separator]
    if way.startswith("{class}"):
        ends = [text[:i] for i in places[:1] if text[i + 1 :] in names]
    else:
        ends = [text[i + 1 :] for i in places if text[:i] in names]
    return ends[-1] if ends else None


def _affixes(images, masks):
    """img_1.jpg with mask_1.png, or a_leftImg8bit.png with a_gtFine_labelIds.png."""
    candidates = []
    for image_ends in (("", ""), _common_ends(images)):
        for mask_ends in (("", ""), _common_ends(masks)):
            ends = _without_shared(image_ends, mask_ends)
            names, mask_names = (
                [_core(path, _parent(paths), *affixes) for path in paths]
                for paths, affixes in zip((images, masks), ends, strict=True)
            )
            unique = len(set(mask_names)) == len(mask_names)
            if None not in names + mask_names and unique and _most(mask_names, names):
                candidates.append(ends)
    if not candidates:
        return None
    # The fewest characters beside the name.
    best = min(candidates, key=lambda ends: sum(len(end) for pair in ends for end in pair))
    patterns = [
        f"{_prefix(_parent(paths))}{start}{{name}}{end}{_suffix(paths)}"
        for paths, (start, end) in zip((images, masks), best, strict=True)
    ]
    return {"images": patterns[0], "masks": patterns[1]}, set()


def _common_ends(paths) -> tuple[str, str]:
    """What all stems begin and end with, up to digits, which belong to names."""
    stems = [path.stem for path in paths]
    start = re.sub(r"\d+$", "", os.path.commonprefix(stems))
    rest = [stem[len(start) :][::-1] for stem in stems]
    return start, re.sub(r"^\d+", "", os.path.commonprefix(rest)[::-1])


def _without_shared(image_ends, mask_ends):
    """What images and masks both begin or end with is part of the name."""
    return tuple(
        tuple("" if end == other else end for end, other in zip(ends, others, strict=True))
        for ends, others in ((image_ends, mask_ends), (mask_ends, image_ends))
    )


def _core(path: PurePosixPath, parent: PurePosixPath, start: str, end: str) -> str | None:
    """The name between both ends, with the folders before it; None where they do not fit."""
    name = path.relative_to(parent).with_suffix("").as_posix()
    if "/" in name and start or len(path.stem) <= len(start + end):
        return None
    if not path.stem.startswith(start) or not name.endswith(end):
        return None
    return name[len(start) : len(name) - len(end)]


def _names(paths) -> list[str]:
    parent = _parent(paths)
    return [path.relative_to(parent).with_suffix("").as_posix() for path in paths]


def _plain_pattern(paths) -> str:
    return f"{_prefix(_parent(paths))}{{name}}{_suffix(paths)}"


def _parent(paths) -> PurePosixPath:
    return PurePosixPath(os.path.commonpath([path.parent.as_posix() for path in paths]) or ".")


def _prefix(parent: PurePosixPath) -> str:
    return "" if parent == PurePosixPath(".") else f"{parent}/"


def _suffix(paths) -> str:
    suffixes = {path.suffix for path in paths}
    return suffixes.pop() if len(suffixes) == 1 else ".*"


def _most(some: Collection[str], others: Collection[str]) -> bool:
    return len(set(some) & set(others)) * 2 > min(len(some), len(others))

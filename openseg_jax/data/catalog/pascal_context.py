"""Pascal-Context: the images of VOC 2010 with every pixel labelled, in 59 classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from openseg_jax.data.archive import File, list_files
from openseg_jax.data.catalog import ade20k
from openseg_jax.data.dataset import IGNORE, DataSet, Example, LabelMap
from openseg_jax.data.label_files import from_mat, from_png, from_run_lengths
from openseg_jax.data.layouts import find, listed, pair, read_layouts, relaid
from openseg_jax.data.pickled_labels import PickledLabel, read_pickled_labels
from openseg_jax.errors import UserError

# The 60 classes of the labels as stored; background is none of the 59.
CLASSES_60 = tuple(
    (
        "background, aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, "
        "building, bus, cabinet, car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, "
        "dog, door, fence, floor, flower, food, grass, ground, horse, keyboard, light, motorbike, "
        "mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, shelves, "
        "sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, "
        "water, window, wood"
    ).split(", ")
)
PALETTE_60 = tuple(ade20k.CLASSES.values())[:60]
# The id of each of the 60 among the provider's 459 labels; all others are background.
IDS_459 = (
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85),
    *(98, 104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284),
    *(295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427),
    *(440, 445, 454, 458),
)
HOW_TO_GET = (
    "Download VOCtrainval_03-May-2010.tar from host.robots.ox.ac.uk/pascal/VOC/voc2010 and, into "
    "the same folder, either trainval.tar.gz (labels with 459 classes) from "
    "cs.stanford.edu/~roozbeh/pascal-context or trainval_merged.json of the Detail API. Give that "
    "folder as --source; unpacking is not needed."
)
TITLE = "Pascal-Context"
SPLITS = {"train": "train", "val": "val"}
LOOKED_FOR = (
    "JPEGImages/*.jpg of VOC2010 with one of",
    "  trainval_merged.json",
    "  PytorchEncoding/train.pth, val.pth",
    "  SegmentationClassContext/*.png or trainval/*.mat, and VOC2010/ImageSets/Main/train.txt or "
    "ImageSets/SegmentationContext/train.txt (also val.txt)",
)


def read(source: Path | None) -> dict[str, list[Callable[[], Example]]]:
    """Lists train and val from the labels in whichever form the source has them.

    Whatever the form, the label of an example has the 60 ids above: the provider's 459 ids do
    not fit 8 bits, and the classes beyond the 59 are background by the benchmark's definition.
    """
    files = list_files(source)
    images = find(files, r"JPEGImages/(?P<name>\d{4}_\d{6})\.jpg").get("", {})
    splits = images and (
        _ready(files, images)
        or _pickled(files, images)
        or _matlab(files, images)
        or _detail(files, images)
    )
    return splits or read_layouts(source, TITLE, (relaid(),), HOW_TO_GET, LOOKED_FOR)


def _ready(files: dict[str, File], images: dict[str, File]) -> dict:
    labels = find(files, r"SegmentationClassContext/(?P<name>[^/]+)\.png").get("", {})
    return _by_lists(files, images, labels, from_png)


def _matlab(files: dict[str, File], images: dict[str, File]) -> dict:
    labels = find(files, r"trainval/(?P<name>\d{4}_\d{6})\.mat").get("", {})
    return _by_lists(files, images, labels, _from_459_mat)


def _by_lists(files: dict, images: dict, labels: dict, decode: Callable) -> dict:
    # The main lists of VOC 2010 divide the same images; those of other years do not.
    lists = find(files, r"ImageSets/SegmentationContext/(?P<name>[^/]+)\.txt") or find(
        files, r"VOC2010/ImageSets/Main/(?P<name>[^/]+)\.txt"
    )
    lists = lists.get("", {})
    if not labels or not lists:
        return {}
    return pair(TITLE, listed(lists, images, SPLITS), listed(lists, labels, SPLITS), decode)


def to_60(label: np.ndarray, where: str) -> np.ndarray:
    """Ids of the 459 labels `(h, w)` -> ids of the 60 classes `(h, w)` uint8."""
    if label.max(initial=0) > 459:
        value = label.max()
        raise UserError(
            f"{where}: label value {value} ({np.count_nonzero(label == value)} pixels) is not "
            "one of the 459 labels of Pascal-Context."
        )
    table = np.zeros(460, np.uint8)
    table[list(IDS_459)] = range(60)
    return table[label]


def _from_459_mat(encoded: bytes, where: str) -> np.ndarray:
    return to_60(from_mat(encoded, where, keys=("LabelMap",)), where)


def _detail(files: dict[str, File], images: dict[str, File]) -> dict:
    """Labels as the Detail API makes them: masks of an image, painted in their order."""
    found = find(files, r"(?P<name>trainval_merged)\.json").get("", {})
    if not found:
        return {}
    file = found["trainval_merged"]
    try:
        content = json.loads(file.read())
        masks: dict[int, list] = {}
        for annotation in content["annos_segmentation"]:
            mask, category = annotation["segmentation"], annotation["category_id"]
            masks.setdefault(annotation["image_id"], []).append(
                (int(category), mask["counts"], tuple(mask["size"]))
            )
        pictures = [
            (p["phase"], Path(p["file_name"]).stem, p["image_id"]) for p in content["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not the JSON of the Detail API: {error!r}.") from error
    splits: dict[str, list] = {}
    for phase, name, image_id in sorted(pictures):
        if phase in SPLITS and name in images and image_id in masks:
            load = partial(_load_detail, name, images[name], masks[image_id], str(file))
            splits.setdefault(phase, []).append(load)
    return splits


def _load_detail(name: str, image: File, masks: list, file: str) -> Example:
    where = f"{file}, image {name}"
    label = np.zeros(masks[0][2], np.uint16)
    for category, counts, size in masks:
        mask = from_run_lengths(counts, size, where)
        if mask.shape != label.shape:
            raise UserError(f"{where}: its masks are not all of one size.")
        label[mask] = category
    return Example(name, image.read(), to_60(label, where), where)


def _pickled(files: dict[str, File], images: dict[str, File]) -> dict:
    splits = {}
    for split, named in find(
        files, r"PytorchEncoding/(?P<split>train|val)(?P<name>)\.pth", SPLITS
    ).items():
        file = named[""]
        labels = read_pickled_labels(file)
        names = {f"{key:010d}"[:4] + "_" + f"{key:010d}"[4:]: key for key in labels}
        splits[split] = [
            partial(_load_pickled, name, images[name], labels[names[name]], str(file))
            for name in sorted(names.keys() & images.keys())
        ]
    return {split: loads for split, loads in splits.items() if loads}


def _load_pickled(name: str, image: File, label: PickledLabel, file: str) -> Example:
    return Example(name, image.read(), label.ids(), f"{file}, image {name}")


DATASET = DataSet(
    name="pascal_context",
    title="Pascal-Context (59 classes)",
    classes=CLASSES_60[1:],
    palette=PALETTE_60[1:],
    label_map=LabelMap({0: IGNORE, **{i + 1: i for i in range(59)}}),
    read=read,
    how_to_get=HOW_TO_GET,
    license="Images: Flickr terms of use; annotations: research use",
    citation=(
        "@inproceedings{mottaghi2014role, title={The Role of Context for Object Detection and "
        "Semantic Segmentation in the Wild}, author={Mottaghi, Roozbeh and Chen, Xianjie and Liu, "
        "Xiaobai and Cho, Nam-Gyu and Lee, Seong-Whan and Fidler, Sanja and Urtasun, Raquel and "
        "Yuille, Alan}, booktitle={CVPR}, year={2014}}"
    ),
    homepage="https://cs.stanford.edu/~roozbeh/pascal-context/",
)

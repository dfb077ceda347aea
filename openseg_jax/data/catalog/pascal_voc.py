"""Pascal VOC 2012 with the further labels of SBD: 20 kinds of objects and background."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from openseg_jax.data.archive import File, list_files
from openseg_jax.data.dataset import DataSet, Example, LabelMap
from openseg_jax.data.label_files import from_mat, from_png
from openseg_jax.data.layouts import find, listed, names_in, pair, read_layouts, relaid
from openseg_jax.data.palettes import voc_colours
from openseg_jax.errors import UserError

CLASSES = (
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, "
    "dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
).split(", ")
HOW_TO_GET = (
    "Download VOCtrainval_11-May-2012.tar from host.robots.ox.ac.uk/pascal/VOC/voc2012 and, for "
    "the 10,582 training images of `trainaug`, SBD's benchmark.tgz from "
    "www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours (or the folder "
    "SegmentationClassAug) into one folder and give that folder as --source; unpacking is not "
    "needed."
)
TITLE = "Pascal VOC 2012"
LOOKED_FOR = (
    "JPEGImages/*.jpg with SegmentationClass/*.png and ImageSets/Segmentation/train.txt or "
    "val.txt, as VOCdevkit/VOC2012 has them"
)
SPLITS = {name: name for name in ("train", "val", "test")}
from_sbd = partial(from_mat, keys=("GTcls", "Segmentation"))


def read(source: Path | None) -> dict[str, list[Callable[[], Example]]]:
    """Lists train and val (and test, which has no labels), and SBD's further images as `sbd`.

    `sbd` holds what is labelled by SBD alone: nothing of train and val. So `trainaug` is train,
    with VOC's own labels, and sbd after it.
    """
    files = list_files(source)
    devkit = {path: file for path, file in files.items() if "VOC2012/" in path} or files
    images = find(devkit, r"JPEGImages/(?P<name>[^/]+)\.jpg").get("", {})
    labels = find(devkit, r"SegmentationClass/(?P<name>[^/]+)\.png").get("", {})
    lists = find(devkit, r"ImageSets/Segmentation/(?P<name>[^/]+)\.txt").get("", {})
    labelled = {split: SPLITS[split] for split in ("train", "val")}
    splits = pair(TITLE, listed(lists, images, SPLITS), listed(lists, labels, labelled))
    if not splits:
        return read_layouts(source, TITLE, (relaid(),), HOW_TO_GET, (LOOKED_FOR,))
    return splits | _sbd(files, images, lists)


def _sbd(files: dict[str, File], images: dict[str, File], lists: dict[str, File]) -> dict:
    labels, decode = find(files, r"SegmentationClassAug/(?P<name>[^/]+)\.png"), from_png
    if not labels:
        labels, decode = find(files, r"cls/(?P<name>[^/]+)\.mat"), from_sbd
    if not labels:
        return {}
    if not {"train", "val"} <= lists.keys():
        raise UserError(
            "ImageSets/Segmentation/train.txt or val.txt of VOC2012 is missing; both are needed "
            f"to tell which images of SBD are further ones.\n{HOW_TO_GET}"
        )
    of_voc = {*names_in(lists["train"]), *names_in(lists["val"])}
    further = {name: file for name, file in labels[""].items() if name not in of_voc}
    pictures = {name: images[name] for name in further if name in images}
    return pair(TITLE, {"sbd": pictures}, {"sbd": further}, decode)


DATASET = DataSet(
    name="pascal_voc",
    title="Pascal VOC 2012 (21 classes)",
    classes=tuple(CLASSES),
    palette=voc_colours(21),
    label_map=LabelMap.identity(21),  # 255 is the border of objects
    read=read,
    combined_splits={"trainval": ("train", "val"), "trainaug": ("train", "sbd")},
    how_to_get=HOW_TO_GET,
    license="Images: Flickr terms of use; research use",
    citation=(
        "@article{everingham2015pascal, title={The Pascal Visual Object Classes Challenge: A "
        "Retrospective}, author={Everingham, Mark and Eslami, S. M. Ali and Van Gool, Luc and "
        "Williams, Christopher K. I. and Winn, John and Zisserman, Andrew}, journal={IJCV}, "
        "year={2015}} @inproceedings{hariharan2011semantic, title={Semantic Contours from Inverse "
        "Detectors}, author={Hariharan, Bharath and Arbelaez, Pablo and Bourdev, Lubomir and Maji, "
        "Subhransu and Malik, Jitendra}, booktitle={ICCV}, year={2011}}"
    ),
    homepage="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
)

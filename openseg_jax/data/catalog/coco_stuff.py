"""COCO-Stuff-10K: 10,000 images with 171 kinds of things and stuff."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from openseg_jax.data.archive import list_files
from openseg_jax.data.dataset import IGNORE, DataSet, Example, LabelMap
from openseg_jax.data.label_files import from_mat
from openseg_jax.data.layouts import find, listed, pair, read_layouts, relaid
from openseg_jax.data.palettes import voc_colours

CLASSES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire "
    "hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, "
    "snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis "
    "racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, "
    "orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, "
    "dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, "
    "toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier, "
    "toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, "
    "cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, "
    "curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, "
    "floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, "
    "ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, "
    "napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, "
    "railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, "
    "skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, "
    "textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, "
    "wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, "
    "wood"
).split(", ")
UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
COCO_IDS = [i for i in range(1, 183) if i not in UNUSED_IDS]
PALETTE = tuple(colour for i, colour in enumerate(voc_colours(183)) if i in COCO_IDS)
CITATION = (
    "@inproceedings{caesar2018coco, title={{COCO-Stuff}: Thing and Stuff Classes in Context}, "
    "author={Caesar, Holger and Uijlings, Jasper and Ferrari, Vittorio}, booktitle={CVPR}, "
    "year={2018}}"
)
LICENSE = "Images: Flickr terms of use; annotations: CC BY 4.0"
HOMEPAGE = "https://github.com/nightrome/cocostuff"
HOW_TO_GET = (
    "Download cocostuff-10k-v1.1.zip (see github.com/nightrome/cocostuff10k) and give the file "
    "or its unpacked folder as --source."
)
TITLE = "COCO-Stuff-10K"
LOOKED_FOR = "images/*.jpg with annotations/*.mat and imageLists/train.txt or imageLists/test.txt"
SPLITS = {"train": "train", "test": "val"}


def read(source: Path | None) -> dict[str, list[Callable[[], Example]]]:
    """Lists train, and the labelled images of the provider's test list as val."""
    files = list_files(source)
    images = find(files, r"images/(?P<name>[^/]+)\.jpg").get("", {})
    labels = find(files, r"annotations/(?P<name>[^/]+)\.mat").get("", {})
    lists = find(files, r"imageLists/(?P<name>[^/]+)\.txt").get("", {})
    decode = partial(from_mat, keys=("S",))
    splits = pair(TITLE, *(listed(lists, named, SPLITS) for named in (images, labels)), decode)
    return splits or read_layouts(source, TITLE, (relaid(),), HOW_TO_GET, (LOOKED_FOR,))


DATASET = DataSet(
    name="coco_stuff",
    title="COCO-Stuff-10K v1.1 (171 classes)",
    classes=tuple(CLASSES),
    palette=PALETTE,
    label_map=LabelMap({0: IGNORE, **{coco: i for i, coco in enumerate(COCO_IDS)}}),
    read=read,
    how_to_get=HOW_TO_GET,
    license=LICENSE,
    citation=CITATION,
    homepage=HOMEPAGE,
)

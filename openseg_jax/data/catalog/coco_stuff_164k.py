"""COCO-Stuff on all 123,287 images of COCO 2017: the classes of COCO-Stuff-10K, other files."""

from __future__ import annotations

from functools import partial

from openseg_jax.data.catalog import coco_stuff
from openseg_jax.data.dataset import IGNORE, DataSet, LabelMap
from openseg_jax.data.layouts import Layout, read_layouts

HOW_TO_GET = (
    "Download train2017.zip and val2017.zip from cocodataset.org and "
    "stuffthingmaps_trainval2017.zip (see github.com/nightrome/cocostuff) into one folder and "
    "give that folder as --source; unpacking is not needed."
)
NATIVE = Layout(
    image=r"(?P<split>train|val)2017/(?P<name>\d{12})\.jpg",
    label=r"(?P<split>train|val)2017/(?P<name>\d{12})\.png",
    splits={"train": "train", "val": "val"},
    looked_for="train2017/*.jpg with train2017/*.png of stuffthingmaps (also val2017/)",
)

DATASET = DataSet(
    name="coco_stuff_164k",
    title="COCO-Stuff 164K (171 classes)",
    classes=tuple(coco_stuff.CLASSES),
    palette=coco_stuff.PALETTE,
    # These files hold the id of COCO less one.
    label_map=LabelMap(
        {255: IGNORE, **{coco - 1: i for i, coco in enumerate(coco_stuff.COCO_IDS)}}
    ),
    read=partial(read_layouts, title="COCO-Stuff 164K", layouts=(NATIVE,), how_to_get=HOW_TO_GET),
    how_to_get=HOW_TO_GET,
    license=coco_stuff.LICENSE,
    citation=coco_stuff.CITATION,
    homepage=coco_stuff.HOMEPAGE,
)

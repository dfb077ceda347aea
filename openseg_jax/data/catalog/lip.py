"""LIP (Look into Person): crops of single people with 19 body parts and clothes."""

from __future__ import annotations

from functools import partial

from openseg_jax.data.dataset import DataSet, LabelMap
from openseg_jax.data.layouts import Layout, read_layouts, relaid
from openseg_jax.data.palettes import voc_colours

CLASSES = (
    "background, hat, hair, glove, sunglasses, upper-clothes, dress, coat, socks, pants, "
    "jumpsuits, scarf, skirt, face, left-arm, right-arm, left-leg, right-leg, left-shoe, right-shoe"
).split(", ")
HOW_TO_GET = (
    "Download TrainVal_images.zip and TrainVal_parsing_annotations.zip of the single-person task "
    "(and Testing_images.zip for the test images) from sysu-hcp.net/lip into one folder and give "
    "that folder as --source; unpacking is not needed."
)
NATIVE = Layout(
    image=r"(?P<split>train|val|testing)_images/(?P<name>[^/]+)\.(?:jpg|png)",
    label=r"(?P<split>train|val)_segmentations/(?P<name>[^/]+)\.png",
    splits={"train": "train", "val": "val", "testing": "test"},
    looked_for="train_images/*.jpg with train_segmentations/*.png (also val_)",
)
RELAID = relaid({"atr": "atr"})  # ATR with the ids of LIP, as further training images

DATASET = DataSet(
    name="lip",
    title="LIP (20 classes)",
    classes=tuple(CLASSES),
    palette=voc_colours(20),
    label_map=LabelMap.identity(20),
    flip_pairs=((14, 15), (16, 17), (18, 19)),
    read=partial(read_layouts, title="LIP", layouts=(NATIVE, RELAID), how_to_get=HOW_TO_GET),
    how_to_get=HOW_TO_GET,
    license="Research and education only, not for commercial use",
    citation=(
        "@inproceedings{gong2017look, title={Look into Person: Self-Supervised Structure-Sensitive "
        "Learning and a New Benchmark for Human Parsing}, author={Gong, Ke and Liang, Xiaodan and "
        "Zhang, Dongyu and Shen, Xiaohui and Lin, Liang}, booktitle={CVPR}, year={2017}}"
    ),
    homepage="http://sysu-hcp.net/lip/",
)

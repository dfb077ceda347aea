"""CelebAMask-HQ: 30,000 faces of 1024x1024 with 18 parts, labelled at 512x512."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from openseg_jax.data.archive import File, list_files
from openseg_jax.data.dataset import DataSet, Example, LabelMap
from openseg_jax.data.label_files import from_png
from openseg_jax.data.layouts import find, read_layouts, relaid, tell_lonely
from openseg_jax.errors import UserError

# In the order in which the parts are painted, later ones over earlier ones.
CLASSES = {
    "background": (0, 0, 0),
    "skin": (204, 0, 0),
    "nose": (76, 153, 0),
    "eye_g": (204, 204, 0),
    "l_eye": (51, 51, 255),
    "r_eye": (204, 0, 204),
    "l_brow": (0, 255, 255),
    "r_brow": (255, 204, 204),
    "l_ear": (102, 51, 0),
    "r_ear": (255, 0, 0),
    "mouth": (102, 204, 0),
    "u_lip": (255, 255, 0),
    "l_lip": (0, 0, 153),
    "hair": (0, 0, 204),
    "hat": (255, 51, 153),
    "ear_r": (0, 204, 204),
    "neck_l": (0, 51, 0),
    "neck": (255, 153, 51),
    "cloth": (0, 204, 0),
}
HOW_TO_GET = (
    "Download CelebAMask-HQ.zip (see github.com/switchablenorms/CelebAMask-HQ) and give the file "
    "or its unpacked folder as --source."
)
TITLE = "CelebAMask-HQ"
LOOKED_FOR = (
    "CelebA-HQ-img/*.jpg with CelebAMask-HQ-mask-anno/*/*_skin.png (and the other parts) and "
    "CelebA-HQ-to-CelebA-mapping.txt"
)
PARTS = tuple(CLASSES)[1:]
MASKS = r"CelebAMask-HQ-mask-anno/\d+/(?P<name>\d{5})_(?P<split>" + "|".join(PARTS) + r")\.png"
FIRST_VAL, FIRST_TEST = 162771, 182638  # numbers of images in CelebA


def read(source: Path | None) -> dict[str, list[Callable[[], Example]]]:
    """Lists train, val and test as CelebA divides them; all have labels.

    Labels are enlarged to the size of their images by repeating pixels, which loses nothing:
    every second row and column is the provider's label.
    """
    files = list_files(source)
    images = {f"{int(n):05d}": f for n, f in _one(files, r"CelebA-HQ-img/(?P<name>\d+)\.jpg")}
    mapping = dict(_one(files, r"(?P<name>CelebA-HQ-to-CelebA-mapping)\.txt"))
    masks: dict[str, list[tuple[int, File]]] = {}
    for part, named in find(files, MASKS, {part: part for part in PARTS}).items():
        for name, file in named.items():
            masks.setdefault(name, []).append((PARTS.index(part) + 1, file))
    if images and masks and mapping:
        splits = _divide(images, masks, mapping.popitem()[1])
    else:
        splits = read_layouts(source, TITLE, (relaid(),), HOW_TO_GET, (LOOKED_FOR,))
    return {split: [partial(_enlarged, each) for each in loads] for split, loads in splits.items()}


def _one(files: dict[str, File], pattern: str):
    return find(files, pattern).get("", {}).items()


def _divide(images: dict[str, File], masks: dict, mapping: File) -> dict:
    splits: dict[str, list] = {"train": [], "val": [], "test": []}
    for line in mapping.read().decode().splitlines()[1:]:
        if len(numbers := line.split()) < 2:
            continue
        name, original = f"{int(numbers[0]):05d}", int(numbers[1])
        split = "train" if original < FIRST_VAL else "val" if original < FIRST_TEST else "test"
        if name in images and name in masks:
            splits[split].append(partial(_load, name, images[name], tuple(masks[name])))
    tell_lonely(TITLE, "all", sum(map(len, splits.values())), images.keys() ^ masks.keys())
    return {split: loads for split, loads in splits.items() if loads}


def _load(name: str, image: File, masks: tuple[tuple[int, File], ...]) -> Example:
    label = None
    for part, file in sorted(masks):
        mask = from_png(file.read(), str(file))
        mask = mask.any(axis=-1) if mask.ndim == 3 else mask != 0
        label = np.zeros(mask.shape, np.uint8) if label is None else label
        if mask.shape != label.shape:
            raise UserError(f"{file}: the mask is not of the size of the other masks of {name}.")
        label[mask] = part
    return Example(name, image.read(), label, str(masks[0][1]))


def _enlarged(load: Callable[[], Example]) -> Example:
    example = load()
    if example.label is None:
        return example
    try:
        height = Image.open(io.BytesIO(example.image)).height
    except OSError:
        return example  # the builder tells of an image that cannot be read
    times = max(1, height // example.label.shape[0])
    return example._replace(label=example.label.repeat(times, axis=0).repeat(times, axis=1))


DATASET = DataSet(
    name="celeba_mask",
    title="CelebAMask-HQ (19 classes)",
    classes=tuple(CLASSES),
    palette=tuple(CLASSES.values()),
    label_map=LabelMap({i: i for i in range(19)}),
    flip_pairs=((4, 5), (6, 7), (8, 9)),  # eyes, brows, ears
    read=read,
    how_to_get=HOW_TO_GET,
    license="Non-commercial research and education only",
    citation=(
        "@inproceedings{lee2020maskgan, title={{MaskGAN}: Towards Diverse and Interactive Facial "
        "Image Manipulation}, author={Lee, Cheng-Han and Liu, Ziwei and Wu, Lingyun and Luo, "
        "Ping}, booktitle={CVPR}, year={2020}}"
    ),
    homepage="https://github.com/switchablenorms/CelebAMask-HQ",
)

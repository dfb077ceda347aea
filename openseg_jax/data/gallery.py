"""`openseg data show`: samples of a built data set on one page, before and after augmentation."""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np
from ml_collections import ConfigDict

from openseg_jax.data import transforms
from openseg_jax.data.built import Split
from openseg_jax.data.dataset import DataSet
from openseg_jax.data.pipeline import Augment
from openseg_jax.report import overlay
from openseg_jax.report_page import page

LONGEST_SIDE = 480  # of a picture, in pixels


def gallery(
    dataset: DataSet, config: ConfigDict, split_name: str, count: int = 8, augmented: int = 2
) -> str:
    """An HTML page that refers to nothing outside itself.

    Args:
        config: its `data.dir` and `augment` are used, and `data` for the colour of padding.
        count: examples, spread evenly over the split.
        augmented: how often each is augmented, as training would.
    """
    split = Split(dataset, config.data.dir, split_name)
    indices = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).astype(int))
    augment = Augment(config, dataset.flip_pairs)
    body = f"<h1>{escape(dataset.title)}</h1><p>{len(indices)} of {len(split)} examples of "
    body += f"{escape(split_name)}. Each: the image, its label over it, and training examples made "
    body += f"of it ({', '.join(config.augment.steps)}).</p><div class=legend>"
    for name, color in zip(dataset.classes, dataset.palette, strict=True):
        rgb = ",".join(map(str, color))
        body += f'<span><i class="swatch" style="background:rgb({rgb})"></i>{escape(name)}</span>'
    body += "</div>"
    for index in indices:
        example = split[int(index)]
        shown = [example["image"], overlay(example["image"], example["label"], dataset.palette)]
        for draw in range(augmented):
            rng = np.random.default_rng([config.seed, int(index), draw])
            given = {"image": example["image"], "label": example["label"]}
            sample = augment.random_map(given, rng)
            shown.append(overlay(as_seen(sample, augment.color), sample["label"], dataset.palette))
        height, width = example["label"].shape
        body += f"<h2>{escape(example['name'])} <span class=muted>{width}x{height}</span></h2>"
        body += f'<div class="charts card">{"".join(map(_picture, shown))}</div>'
    return page(f"{dataset.name}: {split_name}", body)


def as_seen(sample: transforms.Example, color: tuple[float, float, float]) -> np.ndarray:
    """The image of a training example as the network sees it: brightened, padded with `color`."""
    image = transforms.brightness(sample["image"], int(sample["brightness"]))
    seen = np.empty_like(image)
    seen[:] = np.clip(np.rint(color), 0, 255)
    top, left, height, width = sample["box"]
    window = np.s_[top : top + height, left : left + width]
    seen[window] = image[window]
    return seen


def _picture(image: np.ndarray) -> str:
    scale = min(1.0, LONGEST_SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    data = base64.b64encode(encoded.tobytes()).decode()
    return f'<figure style="margin:0"><img src="data:image/jpeg;base64,{data}"></figure>'

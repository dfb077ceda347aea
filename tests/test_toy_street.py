"""toy_street: deterministic, complete, and not to be solved by colour alone."""

from __future__ import annotations

import hashlib
import pickle

import cv2
import numpy as np
import pytest

from openseg_jax.data import catalog
from openseg_jax.data.catalog import toy_street
from openseg_jax.data.dataset import IGNORE
from openseg_jax.data.toy.canvas import CLASSES, HEIGHT, WIDTH

NUM_CLASSES = 10
TRAIN_IMAGES = 150
LABEL_SHA256 = "f4f83a335edae9c099d39a620d5deae51ae2cd5d37c091afd6eda9de9a4a2398"  # of train_0000


def decode(loads) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, h, w, 3)` uint8 RGB and labels `(n, h, w)` uint8."""
    examples = [load() for load in loads]
    images = [cv2.imdecode(np.frombuffer(e.image, np.uint8), cv2.IMREAD_COLOR) for e in examples]
    return np.stack(images)[..., ::-1], np.stack([e.label for e in examples])


@pytest.fixture(scope="module")
def train():
    return decode(toy_street.read(None)["train"][:TRAIN_IMAGES])


@pytest.fixture(scope="module")
def val():
    return decode(toy_street.read(None)["val"])


def test_catalog_and_splits():
    dataset = catalog.get("toy_street")
    assert dataset.num_classes == len(dataset.palette) == NUM_CLASSES
    assert not dataset.needs_source
    splits = dataset.read(None)
    assert {split: len(loads) for split, loads in splits.items()} == {"train": 600, "val": 60}
    names = [load.args for loads in splits.values() for load in loads]
    assert len(set(names)) == 660


def test_loads_are_picklable_and_deterministic():
    load = toy_street.read(None)["train"][7]
    first, second = load(), pickle.loads(pickle.dumps(load))()
    assert first.name == second.name == "train_0007"
    assert first.image == second.image
    assert np.array_equal(first.label, second.label)


def test_label_stays_the_same_across_versions():
    label = toy_street.load("train", 0).label
    assert hashlib.sha256(label.tobytes()).hexdigest() == LABEL_SHA256


def test_shapes_and_label_ids(train):
    images, labels = train
    size = (HEIGHT, WIDTH)
    assert images.shape[1:] == (*size, 3) and labels.shape[1:] == size == (128, 256)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {*range(NUM_CLASSES), IGNORE}
    toy_street.DATASET.label_map.check(labels[0], "train_0000")


def test_every_class_occurs(train, val):
    for labels, least in ((train[1], 0.3), (val[1], 0.1)):
        share = [np.mean((labels == i).any(axis=(1, 2))) for i in range(NUM_CLASSES)]
        assert min(share) >= least, dict(zip(CLASSES, share, strict=True))


def test_void_fraction(train):
    assert 0.02 <= np.mean(train[1] == IGNORE) <= 0.06


def test_train_and_val_differ():
    assert not np.array_equal(toy_street.load("train", 0).label, toy_street.load("val", 0).label)


def colour_bins(images: np.ndarray) -> np.ndarray:
    """Indices 0..4095 of 16 x 16 x 16 RGB bins, shape of the images without channels."""
    red, green, blue = (images[..., i].astype(np.int32) // 16 for i in range(3))
    return red * 256 + green * 16 + blue


def mean_iou(label: np.ndarray, prediction: np.ndarray) -> float:
    known = label != IGNORE
    pairs = label[known].astype(np.int64) * NUM_CLASSES + prediction[known]
    confusion = np.bincount(pairs, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)
    hits = confusion.diagonal()
    return float(np.mean(hits / (confusion.sum(0) + confusion.sum(1) - hits)))


def test_colour_alone_does_not_tell_classes(train, val):
    known = train[1] != IGNORE
    pairs = train[1][known].astype(np.int64) * 4096 + colour_bins(train[0])[known]
    counts = np.bincount(pairs, minlength=NUM_CLASSES * 4096).reshape(NUM_CLASSES, 4096)
    balanced = counts / counts.sum(1, keepdims=True)
    bins = colour_bins(val[0])
    best = max(mean_iou(val[1], table.argmax(0)[bins]) for table in (counts, balanced))
    print(f"mIoU of the colour classifier: {best:.3f}")
    assert best < 0.45

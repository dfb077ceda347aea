"""A user's own images and masks: from a folder in any usual form to training examples."""

import dataclasses
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from miniatures import packed
from PIL import Image

from openseg_jax.config import default_config
from openseg_jax.config_checks import validate
from openseg_jax.data import builder, description, doctor, folder
from openseg_jax.data.built import Split
from openseg_jax.data.dataset import IGNORE
from openseg_jax.data.inspect import inspect
from openseg_jax.data.pipeline import check_data, training_batches
from openseg_jax.errors import UserError

COLORS = np.array([[128, 0, 0], [0, 128, 0], [0, 0, 0]], np.uint8)
SIZE = (24, 32)


def labels(count=6, classes=3):
    """Label maps 0..classes-1 in which each class occurs."""
    rng = np.random.default_rng(7)
    made = rng.integers(0, classes, (count, *SIZE)).astype(np.uint8)
    made[:, 0, :classes] = np.arange(classes)
    return made


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, Image.Image):
        pixels.save(path)
    else:
        Image.fromarray(pixels).save(path)


def images(root, names):
    rng = np.random.default_rng(1)
    for name in names:
        noise = cv2.resize(rng.integers(0, 255, (4, 5, 3)).astype(np.uint8), SIZE[::-1])
        write(root / name, noise)


def own(root, encode, classes=""):
    """images/a0.jpg ... and masks/a0.png ..., encoded in some way."""
    made = labels()
    images(root, [f"images/a{i}.jpg" for i in range(len(made))])
    for i, label in enumerate(made):
        write(root / f"masks/a{i}.png", encode(label))
    if classes:
        (root / "classes.txt").write_text(classes)
    return root


def build(root, out, **options):
    """What `openseg data init` and `openseg data build folder` do."""
    finding = inspect(root, "mine")
    description.save(finding.description, root)
    dataset = folder.dataset(root)
    builder.build(dataset, root, out, **options)
    return finding, dataset


def read_back(dataset, out):
    found = {}
    for name in ("train", "val"):
        split = Split(dataset, str(out), name)
        found |= {split[i]["name"]: split[i]["label"] for i in range(len(split))}
    return found


def palette_png(label):
    picture = Image.fromarray(np.where(label == 2, 255, label))
    picture.putpalette([1, 2, 3, 100, 0, 0] + [0] * 762)
    return picture


def palette_by_file(label):
    """COLORS as a palette PNG, in an order that is the file's own."""
    order = np.roll(np.arange(3), label[1, 0])
    picture = Image.fromarray(order[label].astype(np.uint8))
    picture.putpalette(COLORS[np.argsort(order)].tobytes())
    return picture


def rgb(label):
    return np.repeat(label[..., None], 3, -1)


AS_THEY_ARE = [0, 1, 2]
MASKS = {  # how a label is encoded, the list of classes, train ids of 0, 1, 2, names, in a note
    "ids": (lambda x: x, "", AS_THEY_ARE, "background class_1 class_2", "no list"),
    "named": (lambda x: x, "a\nb\nc\n", AS_THEY_ARE, "a b c", "has id 0"),
    "reduce zero": (lambda x: x, "a\nb\n", [IGNORE, 0, 1], "a b", "0 is ignored"),
    "numbered": (lambda x: x * 10, "20 tree\n0 sky\n", [1, IGNORE, 0], "tree sky", "Value 10"),
    "binary": (lambda x: (x > 0) * np.uint8(255), "", [0, 1, 1], "background foreground", "binary"),
    "16 bits": (
        lambda x: x.astype(np.uint16) * 1000,
        "0 a\n1000 b\n2000 c\n",
        AS_THEY_ARE,
        "a b c",
        "16 bits",
    ),
    "palette": (palette_png, "", [0, 1, IGNORE], "background class_1", "palette PNGs"),
    "palettes that differ": (
        palette_by_file,
        "",
        [2, 1, 0],
        "class_0_0_0 class_0_128_0 class_128_0_0",
        "ids may differ by file",
    ),
    "palette and a list of colours": (
        palette_by_file,
        "name,r,g,b\nroad,128,0,0\ntree,0,128,0\n",
        [0, 1, IGNORE],
        "road tree",
        "Colour 0,0,0",
    ),
    "gray RGB": (rgb, "", AS_THEY_ARE, "background class_1 class_2", "three channels"),
    "colors": (
        lambda x: COLORS[x],
        "name,r,g,b\nroad,128,0,0\ntree,0,128,0\n",
        [0, 1, IGNORE],
        "road tree",
        "Colour 0,0,0",
    ),
    "colors without names": (
        lambda x: COLORS[x],
        "",
        [2, 1, 0],
        "class_0_0_0 class_0_128_0 class_128_0_0",
        "each colour is a class",
    ),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind_become_the_right_train_ids(tmp_path, kind):
    encode, classes, expected, names, note = MASKS[kind]
    root = own(tmp_path / "own", encode, classes)
    finding, dataset = build(root, tmp_path / "out")
    assert dataset.classes == tuple(names.split())
    assert note in " ".join(finding.notes)
    read = read_back(dataset, tmp_path / "out")
    for i, label in enumerate(labels()):
        np.testing.assert_array_equal(read[f"a{i}"], np.array(expected, np.uint8)[label])


@pytest.mark.parametrize("way", ["{1}/{0}", "{0}/{1}", "{0}_{1}"])
def test_one_file_a_class(tmp_path, way):
    made, root = labels(), tmp_path / "own"
    images(root, [f"images/a{i}.jpg" for i in range(len(made))])
    for i, label in enumerate(made):
        for train_id, name in ((1, "cat"), (2, "dog")):
            path = root / "masks" / (way.format(f"a{i}", name) + ".png")
            write(path, (label == train_id) * np.uint8(255))
    _, dataset = build(root, tmp_path / "out")
    assert dataset.classes == ("background", "cat", "dog")
    read = read_back(dataset, tmp_path / "out")
    for i, label in enumerate(made):
        np.testing.assert_array_equal(read[f"a{i}"], label)


LAYOUTS = {
    "flat": ("images/{}.jpg", "masks/{}.png"),
    "one folder": ("{}.jpg", "{}_mask.png"),
    "one folder, one type": ("{}.png", "{}_mask.png"),
    "beginnings": ("images/img_{}.jpg", "masks/mask_{}.png"),
    "split first": ("train/images/{}.jpg", "train/labels/{}.png"),
    "split last": ("images/train/{}.jpg", "annotations/train/{}.png"),
    "SegNet": ("train/{}.png", "trainannot/{}.png"),
    "cities": ("leftImg8bit/train/x/{}_leftImg8bit.png", "gtFine/train/x/{}_gtFine_labelIds.png"),
    "no names that help": ("foo/{}.jpg", "bar/{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_masks_find_each_other(tmp_path, layout):
    image, mask = LAYOUTS[layout]
    made, root = labels(), tmp_path / "own"
    for i, label in enumerate(made):
        # A picture that tells which one it is.
        write(root / image.format(f"0{i}"), np.full((*SIZE, 3), 40 * i, np.uint8) + _speckle())
        write(root / mask.format(f"0{i}"), label)
    _, dataset = build(root, tmp_path / "out")
    seen = 0
    for name in ("train", "val"):
        split = Split(dataset, str(tmp_path / "out"), name)
        for example in (split[i] for i in range(len(split))):
            number = round(float(np.median(example["image"])) / 40)
            np.testing.assert_array_equal(example["label"], made[number])
            seen += 1
    assert seen == len(made)


def _speckle():
    """So many values that nobody takes the picture for a mask."""
    return np.arange(SIZE[0] * SIZE[1] * 3).reshape(*SIZE, 3).astype(np.uint8) % 15


def test_splits_by_folder_are_kept_and_test_needs_no_masks(tmp_path):
    root = tmp_path / "own"
    for split in ("train", "val", "test"):
        images(root, [f"images/{split}/{split}{i}.jpg" for i in range(3)])
        for i in range(3):
            if split != "test":
                write(root / f"masks/{split}/{split}{i}.png", labels()[i])
    _, dataset = build(root, tmp_path / "out")
    for split in ("train", "val", "test"):
        found = Split(dataset, str(tmp_path / "out"), split)
        assert [found[i]["name"] for i in range(3)] == [f"{split}{i}" for i in range(3)]
        assert found.labelled == (split != "test")


REFUSED = {
    "JPEG masks": (lambda root: write(root / "masks/a0.jpg", labels()[0]), "must not be JPEGs"),
    "mixed": (lambda root: write(root / "masks/a0.png", COLORS[labels()[0]]), "others one channel"),
    "objects": (
        lambda root: write(
            root / "masks/a0.png", np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE)
        ),
        "different values",
    ),
    "too many names": (
        lambda root: (root / "classes.txt").write_text("a\n" * 2),
        "names 'a' twice",
    ),
    "names that do not fit": (
        lambda root: (
            (root / "classes.txt").write_text("a\nb\n"),
            write(root / "masks/a0.png", labels()[0] * 100),
        ),
        "Write the id before each name",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_understood_is_said(tmp_path, case):
    damage, message = REFUSED[case]
    root = own(tmp_path / "own", lambda x: x)
    if case == "JPEG masks":
        for path in (root / "masks").iterdir():
            path.unlink()
    damage(root)
    with pytest.raises(UserError, match=message):
        inspect(root)


@pytest.mark.parametrize("how", ["zip", "tar.gz"])
def test_a_described_folder_may_be_an_archive(tmp_path, how):
    root = own(tmp_path / "own", lambda x: COLORS[x], "road 128 0 0\ntree 0 128 0\nsky 0 0 0")
    with pytest.raises(UserError, match=r"is missing: [\s\S]*openseg data init UNPACKED_FOLDER"):
        folder.dataset(packed(root, how))
    description.save(inspect(root, "mine").description, root)
    archive = packed(root, how)
    assert not doctor.check_folder(description.load(archive), archive).has_errors
    dataset = folder.dataset(archive)
    builder.build(dataset, archive, tmp_path / "out")
    read = read_back(dataset, tmp_path / "out")
    for i, label in enumerate(labels()):
        np.testing.assert_array_equal(read[f"a{i}"], label)


def test_a_build_with_other_classes_is_not_taken_for_this_one(tmp_path):
    root, out = own(tmp_path / "own", lambda x: x), tmp_path / "out"
    _, dataset = build(root, out)
    renamed = dataclasses.replace(dataset, classes=("a", "b", "c"))
    with pytest.raises(UserError, match="built already, with other classes. Remove"):
        builder.build(renamed, root, out)


def test_a_folder_without_masks_is_refused(tmp_path):
    images(tmp_path / "own", ["images/a.jpg", "images/b.jpg"])
    with pytest.raises(UserError, match="2 images and 0 masks were found. Put photographs"):
        inspect(tmp_path / "own")


def test_a_mask_with_a_value_of_no_class_stops_the_build(tmp_path):
    root = own(tmp_path / "own", lambda x: COLORS[x], "road 128 0 0\ntree 0 128 0\nsky 0 0 0")
    description.save(inspect(root).description, root)
    pixels = COLORS[labels()[3]]
    pixels[5, :4] = (9, 8, 7)
    write(root / "masks/a3.png", pixels)
    with pytest.raises(UserError, match=r"a3.png: the colour 9,8,7 \(4 pixels\) is in no class"):
        builder.build(folder.dataset(root), root, tmp_path / "out")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"masks": "pictures"}, "not one of ids, colors, files"),
        ({"classes": []}, "it needs 1 to 254 classes"),
        ({"ignored": [1]}, "a value stands for two classes"),
        ({"splits": {"val": {"images": "{name}.jpg"}}}, "it has no split train"),
        ({"flip_pairs": [["left", "right"]]}, "unknown classes: left, right"),
        ({"colour": 3}, "cannot be understood"),
    ],
)
def test_a_wrong_description_is_named(tmp_path, change, message):
    root = own(tmp_path / "own", lambda x: x)
    path = description.save(inspect(root).description, root)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*" + message):
        folder.dataset(root)


def test_the_config_carries_the_facts_and_trains(tmp_path):
    root = own(tmp_path / "own", lambda x: x, "a\nb\n")
    build(root, tmp_path / "out")
    config = folder.configure(default_config(), str(tmp_path / "out" / "mine"))
    assert (config.data.name, config.data.dir) == ("mine", str(tmp_path / "out"))
    assert config.model.num_classes == len(config.loss.class_weights) == 2
    assert config.augment.crop == (32, 32)
    validate(config)
    check_data(config)
    config.train.batch_size = 2
    batch = next(training_batches(config))
    assert batch["image"].shape == (2, 32, 32, 3) and set(np.unique(batch["label"])) <= {0, 1, 255}
    dataset = folder.dataset_of(config.data)
    assert dataset.classes == ("a", "b") and dataset.label_map.encode(np.uint8(2)) == 1


def test_class_weights_favour_rare_classes_and_bear_absent_ones():
    weights = folder.class_weights([100, 400, 25, 0])
    assert weights == (1.0, 0.5, 2.0, 1.0)
    assert folder.class_weights([0, 0]) == (1.0, 1.0)
    assert folder.class_weights([1, 10**9, 10**4])[:2] == (10.0, 0.1)


def test_two_commands_lead_from_a_folder_to_training(tmp_path, openseg):
    root = own(tmp_path / "streets", lambda x: x)
    first = openseg("data", "init", root)
    assert first.returncode == 0, first.stderr
    assert "background" in first.stdout and "openseg data build folder" in first.stdout
    again = openseg("data", "init", root)
    assert again.returncode == 2 and "--force" in again.stderr
    built = openseg("data", "build", "folder", "--source", root)
    assert built.returncode == 0, built.stderr
    assert "5 train, 1 val" in built.stdout
    source = (root / "streets_ocr.py").read_text()
    assert 'configure(default_config(), "streets")' in source
    taken = openseg("data", "build", "folder", "--source", root, "--name", "camvid")
    assert taken.returncode == 2 and "another --name" in taken.stderr
    shown = openseg("data", "show", "streets", "--page", tmp_path / "show.html", "--count", 2)
    assert shown.returncode == 0, shown.stderr
    page = (tmp_path / "show.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * 4 and "class_1" in page


@pytest.mark.slow
def test_main_trains_with_the_config_that_init_wrote(tmp_path, openseg, environment):
    root = own(tmp_path / "paths", lambda x: x)
    for arguments in (("init", root), ("build", "folder", "--source", root)):
        done = openseg("data", *arguments)
        assert done.returncode == 0, done.stderr
    changes = ("train.steps=2", "train.batch_size=2", "train.eval_every=2")
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "openseg_jax.main", f"--config={root / 'paths_ocr.py'}"),
            *(f"--workdir={tmp_path / 'run'}", *(f"--config.{change}" for change in changes)),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    scores = json.loads((tmp_path / "run" / "eval" / "2.json").read_text())
    assert len(scores["iou"]) == 3

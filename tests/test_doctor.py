"""`openseg data check`: every fault that it promises to find, planted in a miniature."""

import json

import numpy as np
import pytest
from PIL import Image
from test_folder import SIZE, labels, own, write

from openseg_jax.data import catalog, description, doctor, doctor_report, folder
from openseg_jax.data.dataset import LabelMap
from openseg_jax.data.inspect import inspect


@pytest.fixture
def healthy(tmp_path):
    """A folder with nothing wrong: 4 training and 2 validation images."""
    root = tmp_path / "own"
    for i, label in enumerate(labels()):
        split = "train" if i < 4 else "val"
        rng = np.random.default_rng(i)
        write(root / f"images/{split}/a{i}.jpg", rng.integers(0, 255, (*SIZE, 3), np.uint8))
        write(root / f"masks/{split}/a{i}.png", label)
    (root / "classes.txt").write_text("a\nb\nc\n")
    description.save(inspect(root, "mine").description, root)
    return root


def check(root):
    return doctor.check_source(folder.dataset(root), root)


def test_a_healthy_folder_has_no_findings(healthy):
    report = check(healthy)
    assert report.problems == [] and not report.has_errors
    pixels = np.bincount(labels()[:4].ravel(), minlength=4)
    np.testing.assert_array_equal(report.pixels["train"], pixels)
    text = doctor_report.text(report)
    assert "0 errors, 0 warnings" in text and "config.augment.crop = (32, 32)" in text


IMAGE, MASK = "images/train/a0.jpg", "masks/train/a0.png"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def rotated(path):
    with Image.open(path) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(path, exif=exif)


def converted(path, mode, **options):
    with Image.open(path) as picture:
        changed = picture.convert(mode)
    changed.save(path, **options)


def edit(root, **changes):
    path = root / description.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_image(root, array):
    """Image a0 as a PNG, where the pattern allows any type."""
    (root / IMAGE).unlink()
    splits = json.loads((root / description.FILE).read_text())["splits"]
    for split in splits.values():
        split["images"] = split["images"].replace(".jpg", ".*")
    edit(root, splits=splits)
    write(root / "images/train/a0.png", array)


FAULTS = {  # what happens to the folder, severity, kind, what the finding names
    "RGB mask read as ids": (
        lambda r: write(r / MASK, np.random.default_rng(0).integers(0, 3, (*SIZE, 3), np.uint8)),
        ("error", "unreadable", "a0.png: a mask of ids has one channel"),
    ),
    "id out of range": (
        lambda r: write(r / MASK, np.full(SIZE, 9, np.uint8)),
        ("error", "unreadable", "a0.png: the value 9 (768 pixels) is in no class"),
    ),
    "16-bit mask": (
        lambda r: write(r / MASK, np.full(SIZE, 700, np.uint16)),
        ("error", "unreadable", "a0.png: the value 700"),
    ),
    "sizes differ": (
        lambda r: write(r / MASK, labels()[0][:10]),
        ("error", "sizes differ", "a0.png: the label is 32x10, its image 32x24"),
    ),
    "missing mask": (lambda r: (r / MASK).unlink(), ("warning", "no mask", "a0.jpg")),
    "missing image": (lambda r: (r / IMAGE).unlink(), ("warning", "no image", "a0.png")),
    "unreadable mask": (
        lambda r: (r / MASK).write_bytes(b"no picture"),
        ("error", "unreadable", "a0.png"),
    ),
    "unreadable image": (
        lambda r: (r / IMAGE).write_bytes(b"no picture"),
        ("error", "unreadable", "train: the image of a0"),
    ),
    "truncated image": (lambda r: truncate(r / IMAGE), ("error", "truncated", "image of a0")),
    "empty file": (lambda r: (r / IMAGE).write_bytes(b""), ("error", "empty file", "a0.jpg")),
    "empty archive": (
        lambda r: (r / "more.zip").write_bytes(b""),
        ("error", "empty file", "more.zip"),
    ),
    "grey image": (
        lambda r: converted(r / IMAGE, "L"),
        ("warning", "grey image", "train: the image of a0"),
    ),
    "CMYK image": (
        lambda r: converted(r / IMAGE, "CMYK"),
        ("warning", "CMYK image", "train: the image of a0"),
    ),
    "alpha channel": (
        lambda r: replace_image(r, np.random.default_rng(1).integers(0, 9, (*SIZE, 4), np.uint8)),
        ("warning", "alpha channel", "train: the image of a0"),
    ),
    "EXIF rotation": (
        lambda r: rotated(r / IMAGE),
        ("warning", "EXIF rotation", "train: the image of a0"),
    ),
    "leakage": (
        lambda r: (r / "images/val/a4.jpg").write_bytes((r / IMAGE).read_bytes()),
        ("error", "leakage", "train: a0 = val: a4"),
    ),
    "twice": (
        lambda r: (r / "images/train/a1.jpg").write_bytes((r / IMAGE).read_bytes()),
        ("warning", "same picture twice", "train: a0 = train: a1"),
    ),
    "empty class": (
        lambda r: [
            write(r / f"masks/train/a{i}.png", np.minimum(labels()[i], 1)) for i in range(4)
        ],
        ("warning", "never labelled", "2 c"),
    ),
    "all ignored": (
        lambda r: write(r / MASK, np.full(SIZE, 255, np.uint8)),
        ("warning", "all ignored", "a0.png"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_named(healthy, fault):
    plant, (severity, kind, where) = FAULTS[fault]
    plant(healthy)
    report = check(healthy)
    assert {p.kind for p in report.problems} == {kind}
    assert {p.severity for p in report.problems} == {severity}
    assert all(where in p.where for p in report.problems), report.problems
    assert report.has_errors == (severity == "error")
    text = doctor_report.text(report)
    assert doctor.MENDS[kind] in text and where in text
    assert doctor.MENDS[kind] in doctor_report.html(report)


def test_label_ids_where_train_ids_are_meant_and_the_other_way():
    ids = np.random.default_rng(0).integers(0, 34, (50, 60)).astype(np.uint8)
    hint = doctor._hint(ids, LabelMap.identity(19))
    assert "labelIds where trainIds are meant" in hint
    assert "ids 1 to 3" in doctor._hint(np.array([[1, 3]], np.uint8), LabelMap.identity(3))
    dataset = catalog.get("cityscapes")
    counts = np.zeros(256, np.int64)
    counts[[*range(19), 255]] = 100
    pixels = {"train": doctor._by_class(dataset, counts)}
    kinds = {p.kind for p in doctor._class_problems(dataset, pixels, counts)}
    assert "train ids" in kinds
    counts[33] = 100  # no train id: these are the provider's
    assert "train ids" not in {p.kind for p in doctor._class_problems(dataset, pixels, counts)}


def test_the_command_reports_and_fails_on_errors(healthy, openseg, tmp_path):
    page = tmp_path / "check.html"
    fine = openseg("data", "check", healthy, "--page", page)
    assert fine.returncode == 0, fine.stderr
    assert "0 errors" in fine.stdout and "class=" in page.read_text()
    (healthy / IMAGE).write_bytes(b"")
    broken = openseg("data", "check", healthy)
    assert broken.returncode == 1 and "ERROR  empty file (1)" in broken.stdout


def test_a_folder_without_description_is_looked_at_all_the_same(tmp_path, openseg):
    root = own(tmp_path / "plain", lambda x: x)
    result = openseg("data", "check", root)
    assert result.returncode == 0, result.stderr
    assert "has no dataset.json" in result.stdout and "background" in result.stdout


def test_a_built_data_set_and_a_providers_source_are_checked(toy_data, openseg, tmp_path):
    built = openseg("data", "check", "toy_street")
    assert built.returncode == 0, built.stderr
    assert "train: 600 images, typically 256x128" in built.stdout
    (tmp_path / "empty.zip").write_bytes(b"")
    source = openseg("data", "check", "ade20k", "--source", tmp_path / "empty.zip")
    assert source.returncode == 1 and "empty.zip" in source.stdout

"""`openseg data check`: every fault that it promises to find, planted in a miniature."""

import json

import numpy as np
import pytest
from PIL import Image
from test_folder import SIZE, labels, own, write

from openseg_jax.data import catalog, description, doctor, doctor_report
from openseg_jax.data.inspect import inspect
from openseg_jax.data.toy import miniatures


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
    return doctor.check_folder(description.load(root), root)


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


def palettes_by_file(root):
    """Every mask as an editor saves it: its own palette, in the order in which colours come."""
    for i, label in enumerate(labels()):
        order = np.roll(np.arange(3), i)
        picture = Image.fromarray(order[label].astype(np.uint8))
        picture.putpalette(sum(([40 * c, 0, 0] for c in np.argsort(order).tolist()), []))
        write(root / f"masks/{'train' if i < 4 else 'val'}/a{i}.png", picture)


FAULTS = {  # what happens to the folder, severity, kind, what the finding names
    "RGB mask read as ids": (
        lambda r: write(r / MASK, np.random.default_rng(0).integers(0, 3, (*SIZE, 3), np.uint8)),
        ("error", "bad label", "a0.png: a mask of ids has one channel"),
    ),
    "palette mask read as ids": (
        palettes_by_file,
        ("error", "palettes differ", "a0.png it is (0, 0, 0)"),
    ),
    "id out of range": (
        lambda r: write(r / MASK, np.full(SIZE, 9, np.uint8)),
        ("error", "bad label", "a0.png: the value 9 (768 pixels) is in no class"),
    ),
    "16-bit mask": (
        lambda r: write(r / MASK, np.full(SIZE, 700, np.uint16)),
        ("error", "bad label", "a0.png: the value 700"),
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
    "truncated mask": (lambda r: truncate(r / MASK), ("error", "unreadable", "a0.png")),
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
    "16-bit image": (
        lambda r: replace_image(r, np.arange(768, dtype=np.uint16).reshape(SIZE) * 80),
        ("warning", "16-bit image", "train: the image of a0"),
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
    "no split val": (
        lambda r: edit(
            r,
            splits={"train": {"images": "images/{name}.jpg", "masks": "masks/{name}.png"}},
            val_fraction=0,
        ),
        ("warning", "no val", "mine has train"),
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


def test_label_ids_where_train_ids_are_meant(tmp_path):
    root = own(tmp_path / "own", lambda x: x * 6)
    (root / "classes.txt").write_text("\n".join(f"{i} class{i}" for i in range(19)))
    description.save(inspect(root).description, root)
    write(root / "masks/a3.png", np.where(labels()[3] == 1, 33, 7).astype(np.uint8))
    (problem,) = [p for p in check(root).problems if p.severity == "error"]
    assert problem.kind == "bad label" and "a3.png: the value 33" in problem.where
    assert "labelIds where trainIds are meant" in problem.where


def test_ids_from_1_where_0_is_meant(healthy):
    write(healthy / MASK, labels()[0] + 1)
    (problem,) = check(healthy).problems
    assert "classes have the ids 1 to 3, and is 0 ignored?" in problem.where


def test_train_ids_where_the_providers_are_meant(tmp_path):
    dataset = catalog.get("cityscapes")
    miniatures.cityscapes(tmp_path)
    assert "train ids" not in {p.kind for p in doctor.check_source(dataset, tmp_path).problems}
    for path in tmp_path.rglob("*_labelIds.png"):
        write(path, dataset.label_map.encode(np.asarray(Image.open(path))))
    (problem,) = [
        p for p in doctor.check_source(dataset, tmp_path).problems if p.severity == "error"
    ]
    assert problem.kind == "train ids" and "ids 0 to 18" in problem.where


PROVIDED = {  # faults of what a provider ships
    "missing label": (
        lambda r: (r / "annotations/training/ADE_train_00000001.png").unlink(),
        ("unpaired", "split train: 1 examples; 1 more", "ADE_train_00000001"),
    ),
    "colours": (
        lambda r: converted(r / "annotations/training/ADE_train_00000001.png", "RGB"),
        ("bad label", "ADE_train_00000001.png: a label must be one 8-bit channel"),
    ),
    "16 bits": (
        lambda r: write(
            r / "annotations/training/ADE_train_00000001.png", np.full((48, 64), 700, np.uint16)
        ),
        ("bad label", "ADE_train_00000001.png: a label must be one 8-bit channel", "value 700"),
    ),
    "truncated": (
        lambda r: truncate(r / "images/validation/ADE_val_00000002.jpg"),
        ("truncated", "val: the image of ADE_val_00000002"),
    ),
    "empty archive": (lambda r: (r / "more.tar").write_bytes(b""), ("empty file", "more.tar")),
}


@pytest.mark.parametrize("fault", PROVIDED)
def test_faults_of_what_a_provider_ships_are_named(tmp_path, fault):
    miniatures.ade20k(tmp_path)
    plant, (kind, *named) = PROVIDED[fault]
    plant(tmp_path / "ADEChallengeData2016")
    report = doctor.check_source(catalog.get("ade20k"), tmp_path)
    found = [p.where for p in report.problems if p.kind == kind]
    assert len(found) == 1 and all(part in found[0] for part in named), report.problems
    assert report.has_errors == (kind != "unpaired")


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

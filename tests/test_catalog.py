"""Every data set of the catalogue, read from miniatures of what providers ship."""

import io
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from miniatures import ids, image, packed
from PIL import Image

from openseg_jax import cli
from openseg_jax.config import default_config
from openseg_jax.data import builder, catalog
from openseg_jax.data.built import Split
from openseg_jax.data.dataset import IGNORE
from openseg_jax.data.pipeline import check_data, names_of_batch, training_batches
from openseg_jax.data.toy import miniatures
from openseg_jax.data.toy.files import SIZE, write_mat, write_png
from openseg_jax.data.toy.miniatures import NATIVE
from openseg_jax.errors import UserError


def assert_reads(name: str, source: Path, expected: dict) -> dict:
    """What the reader finds is what was written, and passes the data set's own check."""
    dataset = catalog.get(name)
    splits = dataset.read(source)
    splits = pickle.loads(pickle.dumps(splits))  # so that several processes can build
    found = {split: [load() for load in loads] for split, loads in splits.items()}
    assert {split: [e.name for e in examples] for split, examples in found.items()} == {
        split: sorted(named) for split, named in expected.items()
    }
    for split, examples in found.items():
        for example in examples:
            written = expected[split][example.name]
            if written is None:
                assert example.label is None
                continue
            assert example.label.dtype == np.uint8
            np.testing.assert_array_equal(example.label, written)
            dataset.label_map.check(example.label, example.source)
            assert cv2.imdecode(np.frombuffer(example.image, np.uint8), 1) is not None
    return found


OF_THE_ORIGINAL = sorted(NATIVE.keys() - {"camvid", "coco_stuff_164k"})


@pytest.mark.parametrize("how", ["folder", "zip", "nested zips", "tar", "tar.gz"])
@pytest.mark.parametrize("name", NATIVE)
def test_reads_what_providers_ship(tmp_path, name, how):
    root = tmp_path / "source"
    root.mkdir()
    expected = NATIVE[name](root)
    assert_reads(name, packed(root, how), expected)


@pytest.mark.parametrize("name", OF_THE_ORIGINAL)
def test_reads_the_tree_of_the_original(tmp_path, name):
    suffix = "_leftImg8bit" if name == "cityscapes" else ""
    folder = "images" if name == "coco_stuff" else "image"  # as its script wrote it
    expected = {"train": {}, "val": {}}
    valid = [i for i in catalog.get(name).label_map.train_ids if i < 255][-3:]
    for split, example in (("train", "a"), ("val", "b")):
        image(tmp_path / split / folder / f"{example}{suffix}.png")
        path = tmp_path / split / "label" / f"{example}{suffix}.png"
        expected[split][example] = write_png(path, ids(*valid))
    if name == "cityscapes":
        image(tmp_path / "coarse" / "image" / "c_leftImg8bit.png")
        path = tmp_path / "coarse" / "label" / "c_leftImg8bit.png"
        expected["train_extra"] = {"c": write_png(path, ids(7))}
        image(tmp_path / "test" / "berlin" / "d_leftImg8bit.png")
        expected["test"] = {"d": None}
    assert_reads(name, tmp_path, expected)


@pytest.mark.parametrize("name", [n for n in catalog.names() if catalog.get(n).needs_source])
def test_a_miniature_builds_and_reads_back(tmp_path, name, capsys):
    source, out = tmp_path / "source", tmp_path / "built"
    assert cli.main(["data", "toy", name, "--out", str(source)]) == 0
    assert "openseg data build" in capsys.readouterr().out
    dataset = catalog.get(name)
    expected = NATIVE[dataset.stored_as or name](tmp_path / "again")
    builder.build(dataset, source, out, workers=1)
    for split in ("train", "val"):
        built = Split(dataset, str(out), split)
        assert len(built) == len(expected[split]) > 0
        for example in (built[index] for index in range(len(built))):
            ids = expected[split][example["name"]]
            np.testing.assert_array_equal(example["label"], dataset.label_map.encode(ids))
            assert example["image"].shape == (*ids.shape, 3)


def test_a_miniature_is_not_written_over_files(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.main(["data", "toy", "lip", "--out", str(tmp_path)]) == 2
    assert "Choose another --out" in capsys.readouterr().err
    assert cli.main(["data", "toy", "lip", "--out", str(tmp_path / "new"), "--form", "json"]) == 2
    assert "--form is for pascal_context" in capsys.readouterr().err
    assert cli.main(["data", "toy", "toy_street", "--out", str(tmp_path / "new")]) == 2
    assert "openseg data build toy_street" in capsys.readouterr().err


@pytest.mark.parametrize("form", miniatures.CONTEXT_FORMS)
def test_pascal_context_is_the_same_in_every_form(tmp_path, form):
    expected = miniatures.pascal_context(tmp_path / "here", form)
    assert miniatures.write("pascal_context_60", tmp_path / "toy", form) == "pascal_context"
    assert_reads("pascal_context", tmp_path / "toy", expected)
    # One build serves both variants.
    label = expected["train"]["2008_000002"]
    of_59, of_60 = catalog.get("pascal_context"), catalog.get("pascal_context_60")
    assert of_60.stored_as == of_59.name and of_60.version == of_59.version
    np.testing.assert_array_equal(of_60.label_map.encode(label), label)
    expected_59 = np.where(label == 0, IGNORE, label - np.uint8(1))
    np.testing.assert_array_equal(of_59.label_map.encode(label), expected_59)
    assert of_59.classes[58] == of_60.classes[59] == "wood"


def test_reads_label_files_that_pytorch_wrote(tmp_path):
    torch = pytest.importorskip("torch")
    expected = miniatures.pascal_context(tmp_path, "pth")
    for zipped_format in (True, False):
        for split, named in expected.items():
            content = {int(n.replace("_", "")): Image.fromarray(x) for n, x in named.items()}
            path = tmp_path / "PytorchEncoding" / f"{split}.pth"
            torch.save(content, path, _use_new_zipfile_serialization=zipped_format)
        assert_reads("pascal_context", tmp_path, expected)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_label_file_with_code_is_refused_and_not_run(tmp_path):
    miniatures.pascal_context(tmp_path, "pth")
    path = tmp_path / "PytorchEncoding" / "train.pth"
    path.write_bytes(pickle.dumps({2008000002: Attack(str(tmp_path / "harm"))}, 2))
    with pytest.raises(UserError, match=r"train\.pth: this file wants to run .*open"):
        catalog.get("pascal_context").read(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_build_holds_the_ids_of_the_provider_and_gives_train_ids(tmp_path):
    (tmp_path / "source").mkdir()
    expected = miniatures.ade20k(tmp_path / "source")
    dataset = catalog.get("ade20k")
    builder.build(dataset, packed(tmp_path / "source", "nested zips"), tmp_path / "out")
    example = Split(dataset, str(tmp_path / "out"), "val")[0]
    raw = expected["val"][example["name"]]
    np.testing.assert_array_equal(example["label"], np.where(raw == 0, IGNORE, raw - np.uint8(1)))


def test_cityscapes_keeps_instance_ids_and_joins_splits(tmp_path):
    miniatures.cityscapes(tmp_path / "source")
    dataset = catalog.get("cityscapes")
    example = dataset.read(tmp_path / "source")["train"][0]()
    name = "gtFine/train/bonn/bonn_000000_000019_gtFine_instanceIds.png"
    path = tmp_path / "source" / name
    assert example.instances == path.read_bytes()
    builder.build(dataset, tmp_path / "source", tmp_path / "out")
    split = Split(dataset, str(tmp_path / "out"), "trainval")
    assert [split[i]["name"].split("_")[0] for i in range(len(split))] == ["bonn", "ulm", "lindau"]
    np.testing.assert_array_equal(split.instances(0), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    config = default_config()
    config.data.update(name="cityscapes", dir=str(tmp_path / "out"), train_split="trainval")
    config.data.boundaries = "instances"
    config.train.batch_size = 3
    config.augment.crop = (32, 32)
    check_data(config)
    assert sorted(names_of_batch(config, 0)) == sorted(split[i]["name"] for i in range(3))
    assert next(training_batches(config))["distance"].shape == (3, 32, 32)


def test_a_variant_reads_the_build_of_its_data_set(tmp_path):
    expected = miniatures.mapillary(tmp_path / "source")
    builder.build(catalog.get("mapillary"), tmp_path / "source", tmp_path / "out")
    for name in ("mapillary", "mapillary_as_cityscapes"):
        dataset = catalog.get(name)
        example = Split(dataset, str(tmp_path / "out"), "train")[0]
        encoded = dataset.label_map.encode(expected["train"]["a"])
        np.testing.assert_array_equal(example["label"], encoded)


def test_cityscapes_never_takes_coarse_labels_for_fine_ones(tmp_path):
    miniatures.cityscapes(tmp_path)
    shutil.rmtree(tmp_path / "gtFine")
    splits = catalog.get("cityscapes").read(tmp_path)
    assert {split: len(loads) for split, loads in splits.items()} == {
        **{"train_coarse": 1, "train_extra": 1, "test": 1}
    }


def test_a_part_of_a_data_set_builds_what_is_there(tmp_path, caplog):
    miniatures.cityscapes(tmp_path)
    shutil.rmtree(tmp_path / "leftImg8bit" / "val")
    shutil.rmtree(tmp_path / "gtFine" / "train" / "ulm")
    splits = catalog.get("cityscapes").read(tmp_path)
    assert [load().name for load in splits["train"]] == ["bonn_000000_000019"]
    assert "val" not in splits
    assert "split train: 1 examples; 1 more have only an image or only a label" in caplog.text
    assert "ulm_000000_000019" in caplog.text


def test_trainaug_of_voc_has_nothing_of_val(tmp_path):
    miniatures.pascal_voc(tmp_path)
    dataset = catalog.get("pascal_voc")
    splits = dataset.read(tmp_path)
    names = [load().name for s in dataset.combined_splits["trainaug"] for load in splits[s]]
    assert names == ["2007_000032", "2008_000002"]
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    with pytest.raises(UserError, match=r"val\.txt of VOC2012 is missing"):
        dataset.read(tmp_path)


@pytest.mark.parametrize("name", [n for n in catalog.names() if catalog.get(n).needs_source])
def test_a_wrong_source_says_what_was_looked_for_and_how_to_get_it(tmp_path, name):
    image(tmp_path / "test" / "holiday.jpg")
    write_png(tmp_path / "pictures" / "holiday.png", ids(1))
    dataset = catalog.get(name)
    with pytest.raises(UserError) as error:
        dataset.read(tmp_path)
    assert str(tmp_path) in str(error.value) and dataset.how_to_get in str(error.value)
    assert "train" in str(error.value)


@pytest.mark.parametrize("name", sorted(NATIVE.keys() - {"camvid"}))
def test_images_without_labels_are_not_the_data_set(tmp_path, name):
    expected = NATIVE[name](tmp_path)
    labelled = [".png", ".mat"] if name != "cityscapes" else ["Ids.png"]
    for path in list(tmp_path.rglob("*")):
        if path.name.endswith(tuple(labelled)):
            path.unlink()
    if name == "cityscapes":  # its test images alone are recognisable
        assert catalog.get(name).read(tmp_path).keys() == {"test"}
        return
    assert expected
    with pytest.raises(UserError, match="Looked for"):
        catalog.get(name).read(tmp_path)


def test_a_file_that_is_no_archive_is_named(tmp_path):
    (tmp_path / "data.7z").write_bytes(b"7z")
    with pytest.raises(UserError, match=r"data\.7z is no folder, zip or tar"):
        catalog.get("ade20k").read(tmp_path / "data.7z")


@pytest.mark.parametrize("value", [200, 40000])
def test_unknown_ids_name_file_value_and_count(tmp_path, value):
    (tmp_path / "source").mkdir()
    miniatures.coco_stuff(tmp_path / "source")
    label = np.zeros(SIZE, np.uint16)
    label[0, :3] = value
    write_mat(tmp_path / "source" / "annotations" / "COCO_train2014_000000000077.mat", label, "S")
    with pytest.raises(UserError) as error:
        builder.build(catalog.get("coco_stuff"), tmp_path / "source", tmp_path / "out")
    assert "000000000077.mat" in str(error.value)
    assert f"{value} (3 pixels)" in str(error.value)


@pytest.mark.parametrize("name", catalog.names())
def test_facts_are_complete(name):
    dataset = catalog.get(name)
    assert dataset.name == name
    assert dataset.title and dataset.how_to_get and dataset.license
    assert len(set(dataset.classes)) == len(dataset.palette) == dataset.num_classes
    assert all(0 <= channel < 256 for colour in dataset.palette for channel in colour)
    # Every class has an id of the provider's that leads back to it.
    train_ids = np.arange(dataset.num_classes, dtype=np.uint8)
    decoded = dataset.label_map.decode(train_ids)
    np.testing.assert_array_equal(dataset.label_map.encode(decoded), train_ids)
    if dataset.needs_source:
        assert dataset.citation.startswith("@") and dataset.homepage.startswith("http")
    if dataset.stored_as:
        stored = catalog.get(dataset.stored_as)
        assert not stored.stored_as
        assert dataset.label_map.train_ids.keys() == stored.label_map.train_ids.keys()


def test_names_of_coco_stuff_are_the_providers(real_data):
    lines = (real_data / "formats/coco_stuff_164k/cocostuff10k-labels.txt").read_text().splitlines()
    names = dict(line.split(": ", 1) for line in lines if line)
    dataset = catalog.get("coco_stuff")
    ids = dataset.label_map.decode(np.arange(171, dtype=np.uint8))
    assert [names[str(i)] for i in ids] == list(dataset.classes)


@pytest.mark.parametrize("name", ["lip", "celeba_mask"])
def test_mirrored_classes_are_left_and_right_of_the_same(name):
    dataset = catalog.get(name)
    pairs = {(dataset.classes[a], dataset.classes[b]) for a, b in dataset.flip_pairs}
    lefts = [c for c in dataset.classes if c.startswith(("left-", "l_")) and c != "l_lip"]
    mirrored = {c: c.replace("left-", "right-").replace("l_", "r_") for c in lefts}
    assert pairs == set(mirrored.items())


def test_mapillary_as_cityscapes():
    mapillary_set, cities = catalog.get("mapillary"), catalog.get("cityscapes")
    label_map = catalog.get("mapillary_as_cityscapes").label_map
    train_ids = label_map.encode(np.arange(66, dtype=np.uint8))
    found = {
        name: cities.classes[train_id]
        for name, train_id in zip(mapillary_set.classes, train_ids, strict=False)
        if train_id != IGNORE
    }
    assert found["Lane Marking - General"] == "road" and found["Curb"] == "sidewalk"
    assert found["Traffic Sign (Back)"] == "traffic sign" and found["On Rails"] == "train"
    assert "Ego Vehicle" not in found and len(found) == 34
    for name in cities.classes:  # where both have a class of that name, it is that class
        same = [other for other in mapillary_set.classes if other.lower() == name]
        assert all(found[other] == name for other in same)


def test_threads_read_from_one_archive(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    expected = miniatures.ade20k(root)
    for split in ("train", "val"):
        loads = catalog.get("ade20k").read(packed(root, "tar" if split == "train" else "zip"))
        with ThreadPoolExecutor(4) as pool:
            examples = list(pool.map(lambda load: load(), loads[split] * 20))
        for example in examples:
            np.testing.assert_array_equal(example.label, expected[split][example.name])


REAL = {
    "cityscapes": ("cityscapes", {"train": 2}),
    "ade20k": ("ade20k", {"val": 2}),
    "lip": ("lip", {"train": 1, "val": 1}),
    "pascal_voc": ("pascal_voc", {"val": 3}),
    "coco_stuff_164k": ("coco_stuff_164k", {"train": 2, "val": 1}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_samples(real_data, name):
    folder, counts = REAL[name]
    dataset = catalog.get(name)
    splits = dataset.read(real_data / "formats" / folder)
    assert {split: len(loads) for split, loads in splits.items()} == counts
    for loads in splits.values():
        for load in loads:
            example = load()
            dataset.label_map.check(example.label, example.source)
            assert example.label.shape == Image.open(io.BytesIO(example.image)).size[::-1]
            valid = dataset.label_map.encode(example.label) != IGNORE
            assert valid.mean() > (0.01 if name == "coco_stuff_164k" else 0.2)
            if name == "cityscapes":
                instances = np.array(Image.open(io.BytesIO(example.instances)))
                things = instances >= 1000
                np.testing.assert_array_equal(instances[things] // 1000, example.label[things])


def test_real_sample_of_mapillary(real_data, tmp_path):
    sample = real_data / "formats" / "mapillary_100px_crop"
    for folder, ours in (("images", "images"), ("v1.2", "v1.2/labels"), ("v2.0", "v2.0/labels")):
        shutil.copytree(sample / folder, tmp_path / "training" / ours)
    (load,) = catalog.get("mapillary").read(tmp_path)["train"]
    classes = catalog.get("mapillary").classes
    assert {classes[i] for i in np.unique(load().label)} == {"Building", "Street Light", "Pole"}

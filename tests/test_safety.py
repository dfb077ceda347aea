"""A training that went wrong stops, with what helps to find out why; bad configs do not start."""

import json
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT, run

from openseg_jax.config import default_config
from openseg_jax.config_checks import validate
from openseg_jax.data import catalog
from openseg_jax.data.built import Split
from openseg_jax.data.pipeline import names_of_batch, training_batches
from openseg_jax.errors import UserError
from openseg_jax.training import safety

sys.path.insert(0, str(ROOT / "configs"))
import toy_ocr  # noqa: E402


@pytest.fixture
def config(toy_data):
    """Toy data as it is stored: what an example shows tells which one it is."""
    config = toy_ocr.get_config()
    config.data.dir = str(toy_data)
    config.augment.update(steps=("crop",), crop=(48, 48), crop_method="center")
    return config


@pytest.mark.parametrize("processes", [1, 2])
def test_names_are_those_of_the_images_in_the_batch(config, processes):
    split = Split(catalog.get("toy_street"), config.data.dir, "train")
    config.train.batch_size = len(split) // 2 + 2  # the third batch is of the second epoch, too
    height, width = split[0]["image"].shape[:2]
    top, left = (height - 48) // 2, (width - 48) // 2
    of_image = {
        split[i]["image"][top : top + 48, left : left + 48].tobytes(): split[i]["name"]
        for i in range(len(split))
    }
    assert len(of_image) == len(split)
    streams = [training_batches(config, 1, process, processes) for process in range(processes)]
    for index in (1, 2):
        seen = [[of_image[i.tobytes()] for i in next(stream)["image"]] for stream in streams]
        expected = names_of_batch(config, index)
        assert [name for names in zip(*seen, strict=True) for name in names] == expected


def test_a_label_that_is_no_class_is_named(config):
    labels = np.zeros((4, 6, 6), np.uint8)
    labels[:, 0], labels[:, 1] = 9, 255
    safety.check_labels(labels, config, step=7)
    labels[2, 3, :5], labels[2, 4, 0] = 10, 254
    with pytest.raises(UserError) as error:
        safety.check_labels(labels, config, step=7)
    name = names_of_batch(config, 6)[2]
    for text in (f"image {name!r} of toy_street", "10 (5 pixels), 254 (1 pixels)", "0 to 9"):
        assert text in str(error.value)


def metrics(*losses):
    return [{"loss": np.float32(x), "grad_norm": np.float32(1), "lr": 0.25} for x in losses]


def test_the_first_step_that_is_not_finite_stops_the_run(config, tmp_path):
    watch = safety.Watch(config, tmp_path, print)
    assert len(watch.finite(3, metrics(1, 2, 3))) == 3
    bad = metrics(4, 5, 6)
    bad[1]["grad_norm"] = np.float32("inf")
    with pytest.raises(UserError, match="not finite any more at step 5 .*learning rate 0.25"):
        watch.finite(6, bad)
    told = json.loads((tmp_path / "failed_batch.json").read_text())
    assert (told["step"], told["learning_rate"], told["grad_norm"]) == (5, 0.25, "inf")
    assert told["images"] == names_of_batch(config, 4)


def test_so_many_steps_in_a_row_are_skipped(config, tmp_path):
    config.train.skip_nonfinite = 2
    said = []
    watch = safety.Watch(config, tmp_path, said.append)
    nan = float("nan")
    assert [m["loss"] for m in watch.finite(4, metrics(1, nan, nan, 2))] == [1, 2]
    assert watch.finite(6, metrics(nan, nan)) == []  # the count goes on from call to call
    assert "Step 6 is skipped (2 of 2 in a row)" in said[-1] and len(said) == 4
    assert not (tmp_path / "failed_batch.json").exists()
    with pytest.raises(UserError, match="step 7"):
        watch.finite(8, metrics(nan, 3))
    assert json.loads((tmp_path / "failed_batch.json").read_text())["skipped_before"] == 2


def test_a_skipped_step_leaves_all_weights_as_they_are():
    old = {"params": {"a": np.ones(3)}, "optimizer": (np.zeros(3),), "step": np.int32(4)}
    new = {"params": {"a": np.full(3, np.nan)}, "optimizer": (np.ones(3),), "step": np.int32(5)}
    for loss, norm, expected in ((1.0, 2.0, new), (np.nan, 2.0, old), (1.0, np.inf, old)):
        values = {"loss": np.float32(loss), "grad_norm": np.float32(norm)}
        kept = jax.jit(safety.skip_unless_finite)(values, new, old)
        assert int(kept["step"]) == 5
        for name in ("params", "optimizer"):
            jax.tree.map(np.testing.assert_array_equal, kept[name], expected[name])


@pytest.mark.slow
def test_a_run_that_diverges_says_where_and_leaves_no_broken_checkpoint(
    toy_data, environment, tmp_path
):
    # Division by zero: the network's input, and so the loss, is not finite.
    more = ["--config.data.std=(0.0, 0.0, 0.0)", "--config.train.skip_nonfinite=1"]
    finished = run(tmp_path / "w", 6, environment, every=1, more=more)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "not finite any more at step 2" in finished.stderr
    assert "Step 1 is skipped (1 of 1 in a row)" in finished.stdout
    told = json.loads((tmp_path / "w" / "failed_batch.json").read_text())
    assert told["step"] == 2 and len(told["images"]) == 4
    # What was saved after the skipped step is the start, and whole.
    from test_training import final_state

    assert all(np.isfinite(array).all() for array in final_state(tmp_path / "w", 1).values())


CANNOT_WORK = [
    ("loss.class_weights", (1.0, 2.0), "10 numbers"),
    ("loss.class_weights", (1.0,) * 9 + (float("inf"),), "infinite"),
    ("optimizer.schedule", "ploy", "poly"),
    ("optimizer.learning_rate", float("inf"), "finite"),
    ("train.skip_nonfinite", -1, "negative"),
    ("augment.max_side", 128, "no image is longer than 128"),
    ("data.label_map", ((0, 0), (7, 10)), "0 to 9"),
    ("augment.crop", (5000, 5000), "no image is longer than"),
    ("augment.scale", (2.0,), "(low, high)"),
    ("loss.name", "ce2p", "method='ce2p'"),
    ("model.dropout", 1.5, "0 <= dropout < 1"),
    ("model.channels", 0, "positive"),
    ("model.dilations", (0,), "positive"),
    ("model.factors", (8, 8), "pairs"),
    ("model.attention_chunk", -1, "negative"),
    ("data.mean", (0.5,), "three"),
]


@pytest.mark.parametrize("key, value, expected", CANNOT_WORK)
def test_what_cannot_work_is_refused_before_data_is_read(key, value, expected):
    config = toy_ocr.get_config()
    validate(config)
    group, name = key.split(".")
    config[group][name] = value
    with pytest.raises(UserError, match=f"config.{key}|config.augment.crop") as error:
        validate(config)
    assert expected in str(error.value)


def test_a_crop_may_be_as_large_as_the_resized_images():
    config = toy_ocr.get_config()
    config.augment.update(steps=("resize", "crop"), resize=(100, 150), crop=(150, 150))
    validate(config)
    config.augment.crop = (151, 150)
    with pytest.raises(UserError, match="no image is longer than 150"):
        validate(config)
    config.augment.align = "scale"  # brings all images to the crop's size
    validate(config)
    config.augment.update(align="pad", scale=(0.5, 2.0), crop=(300, 300))
    config.augment.steps = ("resize", "random_resize", "crop")
    validate(config)
    assert default_config().train.skip_nonfinite == 0

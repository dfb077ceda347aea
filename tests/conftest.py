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

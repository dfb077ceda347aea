"""Our numbers against the original's: a committed selection, and all of them where they are."""

import os
import sys
from pathlib import Path

import golden
import numpy as np
import pytest
from goldens import Result, Worst, fill, read_json

from openseg_jax.bridge import build_reference_model, load_state_dict, to_state_dict
from openseg_jax.bridge.state_dict import world_of_keys

SELECTION = Path(__file__).parent / "golden_data"


def all_goldens() -> Path | None:
    root = Path(os.environ.get("OPENSEG_TEST_DATA", "")) / "golden"
    return root if os.environ.get("OPENSEG_TEST_DATA") and root.is_dir() else None


SLOW = [pytest.mark.slow]


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(group, marks=SLOW if group == "train" else [])
        for group in golden.groups(SELECTION, None, None)
    ],
)
def test_the_selection(group):
    results = [result for _, result, _ in golden.check(SELECTION, [group], "")]
    assert results
    failed = [result for result in results if not result.passed]
    assert not failed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["eval", "train", "misc"])
def test_every_case(kind):
    root = all_goldens()
    if root is None:
        pytest.skip("all golden numbers: set OPENSEG_TEST_DATA")
    results = [r for _, r, _ in golden.check(root, golden.groups(root, kind, None), "")]
    failed = [result for result in results if not result.passed]
    assert results and not failed


def test_the_generator_gives_the_numbers_that_made_the_goldens():
    weight = fill.fill("backbone.layer1.0.conv1.weight", (64, 128, 1, 1))
    assert weight.ravel()[:2].tolist() == pytest.approx(
        [-0.14102624356746674, -0.03783177584409714]
    )


def test_a_wrong_number_fails_and_so_does_nothing_at_all():
    worst = Worst("case")
    assert not worst.result().passed
    worst.close("good", [1.0], [1.0], 1e-5)
    assert worst.result().passed
    worst.close("bad", [1.0], [1.1], 1e-5)
    assert not worst.result().passed and worst.result().detail == "bad"
    worst = Worst("case")
    worst.close("nan", [np.nan], [1.0], 1.0)
    worst.close("good", [1.0], [1.0], 1.0)
    assert not worst.result().passed
    assert not Result("case", float("nan")).passed


def test_an_unknown_case_and_an_unknown_group_fail_the_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "misc").mkdir()
    (tmp_path / "misc" / "novelty.json").write_text("{}")
    (tmp_path / "tolerance.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["golden.py", "--root", str(tmp_path)])
    assert golden.main() == 1
    assert "0 passed, 1 failed" in capsys.readouterr().out


def manifests(root: Path) -> list[Path]:
    return sorted((root / "manifest").glob("*.json"))


def round_trip(path: Path) -> None:
    """Torch -> ours -> torch gives every key, dtype and byte back."""
    name = path.stem.replace("__abn", "")
    model_name, backbone, classes = name.split("__")[:3]
    factors = ((4, 8), (8, 4)) if name.endswith("two_factors") else None
    entries = read_json(path)["entries"]
    state = {}
    for index, (key, shape, dtype, _) in enumerate(entries):
        count = int(np.prod(shape))
        values = np.arange(count, dtype=np.float32) + np.float32(index / 7)
        if dtype == "torch.int64" or dtype == "int64":
            values = np.full(count, index)
        state[key] = values.reshape(shape)
    network = build_reference_model(
        model_name,
        backbone,
        int(classes[1:]),
        norm=world_of_keys(state),
        factors=factors,
    )
    report = load_state_dict(network, state)
    assert not report.missing and not report.unused and not report.clashes
    back = to_state_dict(network)
    assert list(back) == list(state)
    for key in state:
        assert back[key].dtype == state[key].dtype and back[key].shape == state[key].shape, key
        assert back[key].tobytes() == state[key].tobytes(), key


@pytest.mark.parametrize("path", manifests(SELECTION), ids=lambda path: path.stem)
def test_round_trip(path):
    round_trip(path)


@pytest.mark.slow
def test_round_trip_of_every_manifest():
    root = all_goldens()
    if root is None:
        pytest.skip("all manifests: set OPENSEG_TEST_DATA")
    for path in manifests(root):
        round_trip(path)

"""Scores: their definitions, their confidence, and comparing two results."""

import json

import numpy as np
import pytest
from PIL import Image

from openseg_jax import cli
from openseg_jax.data import catalog
from openseg_jax.data.dataset import IGNORE
from openseg_jax.evaluation import metrics
from openseg_jax.evaluation.evaluator import scored

CLASSES = ("road", "car", "sky")


def test_scores_by_hand():
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, IGNORE]], np.uint8)
    prediction = np.array([[0, 1, 1, 1], [0, 0, 0, 2]], np.uint8)
    confusion = metrics.confusion_matrix(truth, prediction, 3)
    np.testing.assert_array_equal(confusion, [[3, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0]])
    values = metrics.scores(confusion)
    np.testing.assert_allclose(values["iou"], [3 / 5, 2 / 4, np.nan])
    assert values["miou"] == pytest.approx((3 / 5 + 2 / 4) / 2)  # the absent class does not count
    assert values["pixel_acc"] == pytest.approx(5 / 7)
    assert values["mean_acc"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert values["fw_iou"] == pytest.approx(4 / 7 * 3 / 5 + 3 / 7 * 2 / 4)


def test_predictions_that_are_no_class_are_misses_and_nothing_else():
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    confusion = metrics.confusion_matrix(truth, np.array([[0, IGNORE, 1, 7]], np.uint8), 2)
    np.testing.assert_array_equal(confusion, [[1, 0, 1], [0, 1, 1]])
    np.testing.assert_allclose(metrics.scores(confusion)["iou"], [0.5, 0.5])


def test_cityscapes_definition():
    """The official evaluator's: over labels that are evaluated, tp / (tp + fp + fn)."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 35, (40, 50))
    evaluated = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    prediction = rng.choice(evaluated, truth.shape)
    encode = np.full(35, IGNORE)
    encode[evaluated] = range(19)
    ours = metrics.scores(metrics.confusion_matrix(encode[truth], encode[prediction], 19))["iou"]
    for index, label in enumerate(evaluated):
        hits = np.sum((truth == label) & (prediction == label))
        missed = np.sum((truth == label) & (prediction != label))
        others = [each for each in evaluated if each != label]
        wrong = np.sum(np.isin(truth, others) & (prediction == label))
        assert ours[index] == pytest.approx(hits / (hits + missed + wrong))


def test_the_official_cityscapes_evaluator_agrees(real_data, tmp_path, monkeypatch):
    """On real label files, with predictions written as they are for the test server."""
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # NumPy has removed what it calls
    for option in ("evalInstLevelScore", "JSONOutput"):
        monkeypatch.setattr(official.args, option, False)
    monkeypatch.setattr(official.args, "quiet", True)
    cityscapes = catalog.get("cityscapes")
    rng, confusion, files, truths = np.random.default_rng(0), 0, [], []
    for path in sorted(real_data.glob("formats/cityscapes/gtFine/*/*/*_labelIds.png")):
        truth = cityscapes.label_map.encode(np.asarray(Image.open(path)))
        prediction = np.roll(truth, (7, -11), (0, 1))
        wrong = (prediction == IGNORE) | (rng.random(truth.shape) < 0.05)
        prediction[wrong] = rng.integers(0, 19, wrong.sum())
        confusion = confusion + metrics.confusion_matrix(truth, prediction, 19)
        truths.append(str(path))
        files.append(str(tmp_path / path.name))
        Image.fromarray(cityscapes.label_map.decode(prediction)).save(files[-1])
    theirs = official.evaluateImgLists(files, truths, official.args)
    ours = metrics.scores(confusion)
    assert len(files) == 2 and ours["miou"] == pytest.approx(theirs["averageScoreClasses"])
    for name, iou in zip(cityscapes.classes, ours["iou"], strict=True):
        assert iou == pytest.approx(theirs["classScores"][name], nan_ok=True), name


def test_binary_scores():
    truth = np.array([1, 1, 1, 0, 0], np.uint8)
    prediction = np.array([1, 0, 0, 1, 0], np.uint8)
    values = metrics.binary_scores(metrics.confusion_matrix(truth, prediction, 2))
    assert values["precision"] == pytest.approx(1 / 2)
    assert values["recall"] == pytest.approx(1 / 3)
    assert values["f1"] == pytest.approx(0.4)


def images(accuracy, count=60, noise=0):
    """Names and confusion matrices of images, some harder than others, the same for each call."""
    rng, chance = np.random.default_rng(0), np.random.default_rng(noise)
    for index in range(count):
        truth = rng.integers(0, 3, (20, 20))
        wrong = chance.random(truth.shape) > accuracy * rng.uniform(0.6, 1)
        yield (
            f"{index}",
            metrics.confusion_matrix(truth, np.where(wrong, (truth + 1) % 3, truth), 3),
        )


def result(accuracy, path, noise=0, **protocol):
    total, bootstrap = 0, metrics.Bootstrap(400, 3)
    for name, confusion in images(accuracy, noise=noise):
        total = total + confusion
        bootstrap.add(name, confusion)
    values = scored({"confusion": total}, bootstrap.parts, CLASSES)
    stamp = {"dataset": "x", "scales": [1.0], "checkpoint": str(path), **protocol}
    path.write_text(json.dumps({**values, "protocol": stamp}))
    return values


def test_bootstrap_says_how_far_the_mean_may_be_off(tmp_path):
    """Against drawing images with replacement, done plainly."""
    values = result(0.8, tmp_path / "a.json")
    low, high = values["miou_95_percent_interval"]
    matrices = np.stack([confusion for _, confusion in images(0.8)])
    rng = np.random.default_rng(1)
    drawn = [metrics.scores(matrices[rng.integers(0, 60, 60)].sum(0))["miou"] for _ in range(1000)]
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.006)
    assert low < values["miou"] < high


def test_bootstrap_does_not_depend_on_order_or_processes():
    forward, halves = metrics.Bootstrap(50, 3), [metrics.Bootstrap(50, 3) for _ in range(2)]
    for name, confusion in images(0.8):
        forward.add(name, confusion)
    for index, (name, confusion) in enumerate(reversed(list(images(0.8)))):
        halves[index % 2].add(name, confusion)
    np.testing.assert_array_equal(forward.parts, halves[0].parts + halves[1].parts)


def test_packed_replicates_come_back():
    replicates = np.random.default_rng(0).random((30, 7))
    replicates[3, 2], replicates[4, 5], replicates[0, 0] = np.nan, 0, 1
    back = metrics.unpack(metrics.pack(replicates), 7)
    np.testing.assert_allclose(back, replicates, atol=1e-5)


def test_compare_tells_a_difference_from_chance(tmp_path, capsys):
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for path, accuracy, noise in zip(paths, (0.80, 0.83, 0.80), (0, 0, 1), strict=True):
        result(accuracy, path, noise)
    assert cli.main(["compare", str(paths[0]), str(paths[1])]) == 0
    better = capsys.readouterr().out.splitlines()
    assert all(name in "\n".join(better) for name in CLASSES)
    assert "mIoU" in better[-1] and "+" in better[-1] and better[-1].endswith("*")
    assert cli.main(["compare", str(paths[0]), str(paths[2])]) == 0
    assert not capsys.readouterr().out.splitlines()[-1].endswith("*")


def test_compare_refuses_unlike_protocols(tmp_path, capsys):
    one, other = tmp_path / "a.json", tmp_path / "b.json"
    result(0.8, one)
    result(0.8, other, scales=[0.5, 1.0], flip=True)
    assert cli.main(["compare", str(one), str(other)]) == 2
    message = capsys.readouterr().err
    assert "scales: [1.0] | [0.5, 1.0]" in message and "flip" in message and "--force" in message
    assert "checkpoint" not in message  # that is what is compared
    assert cli.main(["compare", "--force", str(one), str(other)]) == 0
    assert "unlike: scales" in capsys.readouterr().out
    (tmp_path / "c.json").write_text("[1]")
    for bad in (tmp_path / "c.json", tmp_path / "nothing.json"):
        assert cli.main(["compare", str(one), str(bad)]) == 2
        assert bad.name in capsys.readouterr().err

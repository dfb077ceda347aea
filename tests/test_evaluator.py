"""A whole evaluation: what is written, by which protocol, and what it says."""

import copy
import functools
import json

import numpy as np
import pytest

from openseg_jax import predictor
from openseg_jax.config import default_config
from openseg_jax.config_checks import validate
from openseg_jax.data import catalog
from openseg_jax.data.pipeline import Split
from openseg_jax.errors import UserError
from openseg_jax.evaluation import directions, evaluator, gallery, metrics, segfix
from openseg_jax.models import segmenter


@pytest.fixture(scope="module")
def network(uninterrupted, toy_data):
    config, weights, graph, _ = predictor.load_network(uninterrupted[0])
    config.data.dir = str(toy_data)
    return config, weights, graph


def evaluate(network, folder, **settings):
    config, weights, graph = copy.deepcopy(network[0]), *network[1:]
    config.eval.update(settings)
    validate(config)
    return evaluator.make_evaluate(config, graph, weights)(weights, 6, folder)[0]


@pytest.mark.slow
def test_a_protocol_is_followed_and_stamped(network, tmp_path):
    settings = dict(scales=(0.5, 1.0), flip=True, boundary=True, name="two_scales", pictures=2)
    result = evaluate(network, tmp_path, **settings)
    path = tmp_path / "eval" / "6_two_scales.json"
    assert json.loads(path.read_text()) == result
    protocol = result["protocol"]
    assert protocol["scales"] == [0.5, 1.0] and protocol["flip"] is True
    assert protocol["mode"] == "whole image" and protocol["images"] == 60
    assert protocol["checkpoint"] == evaluator.weights_hash(network[1])  # of what was saved
    assert protocol["dtype"] == "float32"
    # The same by the predictor, image after image.
    config, *rest = copy.deepcopy(network[0]), *network[1:]
    config.eval.update(settings)
    model = predictor.Predictor(config, *rest, "")
    split = Split(catalog.get("toy_street"), config.data.dir, "val")
    each = {
        split[i]["name"]: metrics.confusion_matrix(
            split[i]["label"], model.predict(split[i]["image"]), 10
        )
        for i in range(len(split))
    }
    np.testing.assert_array_equal(result["confusion"], sum(each.values())[:, :10])
    wrong = {name: 1 - np.trace(confusion) / confusion.sum() for name, confusion in each.items()}
    for file, chosen in (
        ("worst_1", max(wrong, key=wrong.get)),
        ("best_1", min(wrong, key=wrong.get)),
    ):
        about = {"image": chosen, "wrong": pytest.approx(wrong[chosen], abs=1e-6)}
        assert result["pictures"][file] == about
        assert (path.with_suffix("") / f"{file}.png").is_file()
    low, high = result["miou_95_percent_interval"]
    assert low < result["miou"] < high
    assert 0 <= result["boundary_iou"] <= 1 and 0 <= result["boundary_f_score"] <= 1
    assert set(result["trimap_miou"]) == {"1", "2", "4", "8", "16", "32"}
    table = evaluator.table(result)
    assert "scales 0.5, 1.0, flip, sum of" in table and protocol["checkpoint"] in table


@pytest.mark.parametrize("count", (0, 1, 5, 6, 100))
def test_the_gallery_keeps_the_worst_and_the_best_in_any_order(count):
    rng = np.random.default_rng(0)
    wrong = {f"{index:02}": share for index, share in enumerate(rng.integers(0, 30, 50))}
    ranked = sorted(wrong, key=lambda name: (wrong[name], name))
    lowest = sorted(wrong, key=lambda name: (-wrong[name], name))
    for order in (ranked, rng.permutation(ranked)):
        kept, drawn = gallery.Gallery(count), []

        def draw(name, drawn=drawn):
            drawn.append(name)
            return np.full((2, 2, 3), int(name), np.uint8)

        for name in (*order, "void"):
            hits = 100 - wrong.get(name, 100)
            confusion = np.array([[hits, wrong.get(name, 0), 0], [0, 0, 0]])
            kept.offer(str(name), confusion, functools.partial(draw, name))
        pictures = {each.file: each for each in kept.pictures()}
        half = min(count // 2, 50)
        assert [p.image for f, p in pictures.items() if "best" in f] == ranked[:half]
        worst = [p for f, p in pictures.items() if "worst" in f]
        assert [p.image for p in worst] == lowest[: min(count - count // 2, 50)]
        for each in worst:
            assert each.wrong == pytest.approx(wrong[each.image] / 100)
            assert (each.panel == int(each.image)).all()
        assert "void" not in drawn and len(drawn) == len(set(drawn))


@pytest.mark.slow
def test_boundaries_are_scored_for_a_segfix_network(network, tmp_path):
    config = copy.deepcopy(network[0])
    with config.unlocked():
        config.model = default_config().model
        config.model.update(method="segfix", num_classes=10)
    built = segmenter.build(config.model, np.random.default_rng(0))
    params, stats, graphs = segmenter.graphs(built)
    weights = {"params": params, "stats": stats}
    result = evaluate((config, weights, graphs["eval"]), tmp_path, flip=True)
    assert tuple(result["iou"]) == segfix.CLASSES and result["protocol"]["classes"] == 9
    confusion = np.array(result["confusion"])
    assert result["boundary_acc"] == pytest.approx(
        (confusion[:8, :8].sum() + confusion[8, 8]) / confusion.sum(), abs=1e-6
    )
    assert result["direction_acc"] == pytest.approx(
        np.trace(confusion[:8, :8]) / confusion[:8].sum(), abs=1e-6
    )
    refiner = predictor.Refiner(config, weights, graphs["eval"], "")
    split = Split(catalog.get("toy_street"), config.data.dir, "val")
    # What the refiner does to a label is what was scored.
    offsets = refiner.offsets(split[0]["image"])
    assert set(map(tuple, offsets.reshape(-1, 2))) <= {(0, 0), *map(tuple, directions.vectors(8))}


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(scales=()), "eval.scales"),
        (dict(scales=(1.0, 2.0), scale_weights=(1.0,)), "2 numbers"),
        (dict(window=(64,)), "height, width"),
        (dict(stride=(32, 32)), "set eval.window"),
        (dict(window=(32, 32), stride=(64, 32)), "gaps"),
        (dict(combine="votes"), "probabilities"),
        (dict(fit_stride=0), "positive"),
    ],
)
def test_impossible_protocols_get_one_message(settings, message):
    config = default_config()
    config.data.name = "toy_street"
    config.model.num_classes = 10
    config.eval.update(settings)
    with pytest.raises(UserError, match=message):
        validate(config)

"""What `openseg explain` shows is the network's own attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from openseg_jax import cli, explain
from openseg_jax.config import default_config
from openseg_jax.models import isa, ocnet, ocr, segmenter

SIZE = (7, 10)  # of the feature maps; not a multiple of ISA's windows
IMAGES = jnp.zeros((1, 56, 80, 3))


class Features(nnx.Module):
    """In the place of a backbone: noise."""

    high_resolution = False
    widths = (6, 7, 8, 9)

    def __call__(self, images):
        keys = jax.random.split(jax.random.key(1), len(self.widths))
        return [jax.random.normal(k, (1, *SIZE, w)) for k, w in zip(keys, self.widths, strict=True)]


def network_of(method):
    """A network of random weights with which attention is far from even."""
    rng = np.random.default_rng(1)
    options = dict(factors=((4, 4), (2, 3))) if method == "isa" else {}
    options |= {} if method == "ce2p" else dict(channels=16, aux_channels=16)
    head = segmenter.METHODS[method](Features.widths, 5, key_channels=8, rng=rng, **options)
    network = segmenter.Segmenter(Features(), head, method, "bn")
    params, stats, graphs = segmenter.graphs(network)

    def random(p):
        return rng.normal(0, 2 * np.prod(p.shape[:-1]) ** -0.5, p.shape).astype(np.float32)

    return nnx.merge(graphs["eval"], jax.tree.map(random, params), stats)


def explained(network):
    """The context of a network, and what its pixel (1, 2) attends to."""
    context = explain.context(network, IMAGES)
    weights = np.asarray(explain.attention_of(context, 1, 2))
    assert weights.shape == context.size and (weights >= 0).all()
    assert weights.max() > 2 * weights.min()
    return context, weights


def calls(monkeypatch, module, name):
    """(value, result) of the calls of an attention function from now on."""
    seen, original = [], getattr(module, name)

    def call(query, key, value, **options):
        seen.append((value, original(query, key, value, **options)))
        return seen[-1][1]

    monkeypatch.setattr(module, name, call)
    return seen


@pytest.mark.parametrize("method", ["ocnet", "asp_ocnet"])
def test_self_attention_mixes_values_by_these_weights(method, monkeypatch):
    network = network_of(method)
    context, weights = explained(network)
    seen = calls(monkeypatch, ocnet, "self_attention")
    network(IMAGES)
    ((value, mixed),) = seen
    expected = mixed[0, 1 * context.size[1] + 2]
    np.testing.assert_allclose(weights.ravel() @ value[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["ocr", "asp_ocr", "ce2p"])
def test_objects_are_mixed_by_the_affinity_and_made_of_the_regions(method, monkeypatch):
    network = network_of(method)
    context, weights = explained(network)
    seen, write = [], ocr.ObjectAttention.write
    monkeypatch.setattr(
        ocr.ObjectAttention,
        "write",
        lambda self, average, value: (
            seen.append((value, average(value))) or write(self, average, value)
        ),
    )
    network(IMAGES)
    ((value, mixed),) = seen
    affinity = context.affinity[1, 2]
    np.testing.assert_allclose(affinity @ value[0, :, 0], mixed[0, 1, 2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(context.regions.sum((0, 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(context.regions @ affinity, weights, rtol=1e-4)


def test_several_windows_of_isa_share_the_attention():
    network = network_of("isa")
    _, weights = explained(network)
    x = network.head.pixels(network.backbone(IMAGES)[-1])
    each = [
        explain.attention_of(explain.Context(explain.interlaced(stage, x), SIZE), 1, 2)
        for stage in network.head.attention.stages
    ]
    np.testing.assert_allclose(np.mean(each, axis=0), weights, rtol=1e-4, atol=1e-7)


def test_interlaced_attention_goes_through_both_steps():
    module = isa.InterlacedAttention(6, 4, 6, (2, 3), norm="bn", rng=np.random.default_rng(0))
    module = nnx.view(module, use_running_average=True)
    x = jax.random.normal(jax.random.key(0), (1, 5, 7, 6))
    context = explain.Context(explain.interlaced(module, x), (5, 7))
    weights = np.asarray(explain.attention_of(context, 1, 4))
    far, near = module.long_range, module.short_range
    x = jnp.pad(x, ((0, 0), (0, 1), (1, 1), (0, 0)))  # so that windows tile it
    between = far(x, (2, 3))
    keys = np.asarray(near.key(between))[0, 0:2, 3:6].reshape(6, -1)
    window = softmax(keys @ np.asarray(near.query(between))[0, 1, 5] / 2)
    expected = np.zeros((6, 9))
    for share, (row, column) in zip(window, np.ndindex(2, 3), strict=True):
        keys = np.asarray(far.key(x))[0, row::2, column::3]
        scores = keys @ np.asarray(far.query(x))[0, row, column + 3] / 2
        expected[row::2, column::3] += share * softmax(scores)
    np.testing.assert_allclose(weights, expected[:5, 1:8], rtol=1e-4, atol=1e-7)
    assert 0.4 < weights.sum() < 1  # the rest is for the zeros around


def softmax(scores):
    exponential = np.exp(scores - scores.max())
    return exponential / exponential.sum()


def test_a_picture_is_written(uninterrupted, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    out = tmp_path / "explain.png"
    arguments = ["explain", str(tmp_path / "a.png"), "--checkpoint", str(uninterrupted[0])]
    assert cli.main([*arguments, "--point", "10,20", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "row 10, column 20" in said and said.count("%") == explain.SHOWN_REGIONS
    assert Image.open(out).size[0] == 3 * 96 + 2 * 4
    for point in ("64,0", "middle"):
        assert cli.main([*arguments, "--point", point, "--out", str(out)]) == 2
        assert f"--point {point}" in capsys.readouterr().err


def test_networks_without_context_are_refused(tmp_path, monkeypatch, capsys):
    config = default_config()
    config.model.method = "fcn"
    monkeypatch.setattr(explain, "load_network", lambda path: (config, {}, None, path))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    assert cli.main(["explain", str(tmp_path / "a.png"), "--checkpoint", "runs/fcn"]) == 2
    assert "runs/fcn is a network of fcn" in capsys.readouterr().err

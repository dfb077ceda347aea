"""Folding batch norms into convolutions changes the work, not the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from openseg_jax.compilation import FAST_COMPILE
from openseg_jax.config import default_config
from openseg_jax.models import segmenter
from openseg_jax.models.folding import fold_batch_norm
from openseg_jax.models.layers import BatchNorm


def network_of(method, backbone, norm="bn"):
    model = default_config().model
    model.update(method=method, backbone=backbone, norm=norm, num_classes=5)
    if method != "segfix":
        model.update(channels=16, aux_channels=16)
    rng = np.random.default_rng(0)
    network = segmenter.build(model, rng)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, BatchNorm):  # as after training: no two channels alike
            low = {"scale": -1.5, "var": 0.5, "bias": -0.5, "mean": -0.5}
            for name, start in low.items():
                variable = getattr(module, name)
                values = start + rng.random(variable.get_value().shape, np.float32)
                variable.set_value(values)
    return network


def logits(graph, params, stats, images):
    def forward(params, stats, images):
        return nnx.merge(graph, params, stats)(images)[-1]

    run = jax.jit(forward, compiler_options=FAST_COMPILE)
    return np.asarray(run(params, stats, images))


@pytest.mark.parametrize(
    "method, backbone, norm, remaining",
    [
        ("ocr", "mobilenet_v2", "bn", 0),
        ("fcn", "resnet18", "inplace_abn", 0),
        pytest.param("isa", "resnet50", "bn", 0, marks=pytest.mark.slow),
        pytest.param("ocnet", "resnest50", "bn", 0, marks=pytest.mark.slow),
        pytest.param("segfix", "hrnet_w18", "bn", 0, marks=pytest.mark.slow),
        # The first norm of each of the six blocks and the last of all read sums.
        pytest.param("fcn", "wide_resnet16", "bn", 7, marks=pytest.mark.slow),
        pytest.param("fcn", "wide_resnet16", "inplace_abn", 7, marks=pytest.mark.slow),
    ],
)
def test_a_folded_network_gives_the_same_logits(method, backbone, norm, remaining):
    params, stats, graphs = segmenter.graphs(network_of(method, backbone, norm))
    images = jnp.asarray(np.random.default_rng(1).standard_normal((1, 33, 49, 3)), jnp.float32)
    expected = logits(graphs["eval"], params, stats, images)
    folded = fold_batch_norm(graphs["eval"], params, stats)
    # Rounding differs in every layer; a norm that is missed or doubled is off by whole numbers.
    assert np.abs(logits(*folded, images) - expected).max() < 1e-4 * expected.std()
    assert len(jax.tree.leaves(folded[2])) == 2 * remaining  # mean and variance

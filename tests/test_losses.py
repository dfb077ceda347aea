"""The loss and the optimiser, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.config import default_config
from openseg_jax.training import optimizer
from openseg_jax.training.losses import cross_entropy, segmentation_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 5, 6, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, (4, 5, 6)).astype(np.int32)
LABELS[0, :2] = 255
WEIGHTS = (0.5, 1.0, 3.0)


def by_definition(logits, labels, weights):
    wide = logits.astype(np.float64).reshape(-1, 3)
    log_probability = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    valid = labels.ravel() != 255
    target = labels.ravel()[valid]
    weight = np.asarray(weights)[target]
    return -(weight * log_probability[valid, target]).sum() / weight.sum()


def test_cross_entropy_is_the_weighted_mean_over_valid_pixels():
    assert cross_entropy(LOGITS, LABELS) == pytest.approx(by_definition(LOGITS, LABELS, (1, 1, 1)))
    expected = by_definition(LOGITS, LABELS, WEIGHTS)
    assert cross_entropy(LOGITS, LABELS, WEIGHTS) == pytest.approx(expected, rel=1e-6)


def test_shards_normalise_each_part_of_the_batch_on_its_own():
    halves = [by_definition(LOGITS[i : i + 2], LABELS[i : i + 2], WEIGHTS) for i in (0, 2)]
    assert cross_entropy(LOGITS, LABELS, WEIGHTS, shards=2) == pytest.approx(np.mean(halves))


def test_a_batch_without_valid_pixel_has_zero_loss_and_gradient():
    nothing = np.full_like(LABELS, 255)
    value, gradient = jax.value_and_grad(cross_entropy)(jnp.asarray(LOGITS), nothing)
    assert value == 0 and not np.asarray(gradient).any()


def test_gradient_has_no_scatter_and_is_softmax_minus_target():
    gradient = jax.jit(jax.grad(cross_entropy))
    assert "scatter" not in gradient.lower(LOGITS, LABELS).as_text()
    probability = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    target = LABELS[..., None] == np.arange(3)
    valid = LABELS != 255
    expected = np.where(valid[..., None], probability - target, 0) / valid.sum()
    np.testing.assert_allclose(gradient(LOGITS, LABELS), expected, atol=1e-7)


def test_auxiliary_outputs_are_weighted():
    config = default_config()
    config.loss.aux_weight = 0.4
    expected = cross_entropy(LOGITS, LABELS) + 0.4 * cross_entropy(LOGITS[..., ::-1], LABELS)
    total = segmentation_loss((LOGITS[..., ::-1], LOGITS), LABELS, config.loss)
    assert total == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimiser_steps_as_torchs(name):
    torch = pytest.importorskip("torch")
    settings = default_config().optimizer
    settings.update(name=name, learning_rate=0.05, weight_decay=0.01, head_lr_multiplier=2.0)
    values = {"backbone": RNG.normal(size=7), "head": RNG.normal(size=7)}
    ours = {name: {"kernel": jnp.asarray(v, jnp.float32)} for name, v in values.items()}
    theirs = {name: torch.tensor(v, dtype=torch.float32) for name, v in values.items()}
    groups = [
        {"params": [theirs["backbone"]], "lr": 0.05},
        {"params": [theirs["head"]], "lr": 0.1},
    ]
    if name == "sgd":
        reference = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.01)
    else:
        reference = torch.optim.AdamW(groups, weight_decay=0.01)
    transform = optimizer.direction(settings)
    state = transform.init(ours)
    base = [group["lr"] for group in reference.param_groups]
    for step in range(5):
        gradients = {name: RNG.normal(size=7).astype(np.float32) for name in values}
        for index, group in enumerate(reference.param_groups):
            group["lr"] = base[index] * (1 - step / 5) ** 0.9
        for part, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[part])
        reference.step()
        tree = {name: {"kernel": g} for name, g in gradients.items()}
        updates, state = transform.update(tree, state, ours)
        rate = optimizer.learning_rate(settings, 5, jnp.int32(step))
        ours = optimizer.descend(ours, updates, rate, 2.0)
    for part, parameter in theirs.items():
        np.testing.assert_allclose(ours[part]["kernel"], parameter.numpy(), rtol=1e-5, atol=1e-6)


def test_poly_schedule_and_warmup():
    settings = default_config().optimizer
    rates = [float(optimizer.learning_rate(settings, 100, jnp.int32(t))) for t in (0, 50, 99)]
    assert rates == pytest.approx([0.01, 0.01 * 0.5**0.9, 0.01 * 0.01**0.9], rel=1e-5)
    settings.warmup_steps = 10
    assert float(optimizer.learning_rate(settings, 100, jnp.int32(0))) == pytest.approx(0.001)

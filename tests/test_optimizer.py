"""Optimisers against PyTorch's, learning rates against the original's, and what is added."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import read_json, schedules

from openseg_jax import config_checks
from openseg_jax.config import default_config
from openseg_jax.errors import UserError
from openseg_jax.training import optimizer

RNG = np.random.default_rng(0)
STEPS = 5
SHAPES = {
    "backbone": {"conv": {"kernel": (3, 3, 2, 4)}, "bn": {"scale": (4,), "bias": (4,)}},
    "head": {"conv": {"kernel": (1, 1, 4, 3), "bias": (3,)}},
}


def random_tree():
    return jax.tree.map(
        lambda shape: jnp.asarray(RNG.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def settings(**values):
    chosen = default_config().optimizer
    chosen.update(schedule="constant", learning_rate=0.05, weight_decay=0.01, **values)
    return chosen


def descend(chosen, params, gradients_of_steps):
    """The parameters after as many steps of training."""
    transform = optimizer.direction(chosen)

    @jax.jit
    def one(params, state, gradients, step):
        updates, state = transform.update(gradients, state, params)
        rates = optimizer.learning_rates(chosen, STEPS, step)
        return optimizer.descend(params, updates, rates), state

    state = jax.jit(transform.init)(params)
    for step, gradients in enumerate(gradients_of_steps):
        params, state = one(params, state, gradients, jnp.int32(step))
    return params


# Adam's first bias corrections, 1 - 0.999^t, have lost three digits of float32.
NOISE = dict(rtol=1e-5, atol=5e-6)


def assert_close(ours, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, expected)


def torch_descend(chosen, params, gradients_of_steps, make, decays=lambda param: True):
    """The same with an optimiser of PyTorch, one parameter group for each rate and decay."""
    torch = pytest.importorskip("torch")
    leaves, structure = jax.tree.flatten(params)
    theirs = [torch.tensor(np.array(leaf), requires_grad=True) for leaf in leaves]
    in_backbone = [path[0].key == "backbone" for path, _ in jax.tree.leaves_with_path(params)]
    groups = [
        {
            "params": [param],
            "lr": chosen.learning_rate * (1 if backbone else chosen.head_lr_multiplier),
            "weight_decay": chosen.weight_decay if decays(param) else 0.0,
        }
        for param, backbone in zip(theirs, in_backbone, strict=True)
    ]
    reference = make(torch.optim, groups)
    base = [group["lr"] for group in reference.param_groups]
    for step, gradients in enumerate(gradients_of_steps):
        factor = (1 - step / STEPS) ** 0.9 if chosen.schedule == "poly" else 1.0
        for group, rate in zip(reference.param_groups, base, strict=True):
            group["lr"] = rate * factor
        for param, gradient in zip(theirs, jax.tree.leaves(gradients), strict=True):
            param.grad = torch.tensor(np.array(gradient))
        if chosen.clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs, chosen.clip_norm)
        reference.step()
    return jax.tree.unflatten(structure, [param.detach().numpy() for param in theirs])


OPTIMIZERS = {
    "sgd": lambda optim, groups: optim.SGD(groups, momentum=0.9),
    "adamw": lambda optim, groups: optim.AdamW(groups),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [0.0, 2.0])
def test_steps_are_those_of_torch(name, clip_norm):
    chosen = settings(name=name, head_lr_multiplier=2.0, clip_norm=clip_norm)
    chosen.schedule = "poly"
    params, gradients = random_tree(), [random_tree() for _ in range(STEPS)]
    expected = torch_descend(chosen, params, gradients, OPTIMIZERS[name])
    assert_close(descend(chosen, params, gradients), expected, **NOISE)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_can_be_spared_from_decay(name):
    chosen = settings(name=name, decay_norm_and_bias=False)
    params, gradients = random_tree(), [random_tree() for _ in range(STEPS)]
    expected = torch_descend(chosen, params, gradients, OPTIMIZERS[name], lambda p: p.ndim > 1)
    assert_close(descend(chosen, params, gradients), expected, **NOISE)


def test_gradients_below_the_norm_are_not_clipped():
    params, gradients = random_tree(), [random_tree() for _ in range(STEPS)]
    plain = descend(settings(), params, gradients)
    assert_close(descend(settings(clip_norm=1e3), params, gradients), plain, rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulated_batches_are_one_large_batch(name):
    params = random_tree()
    parts = [random_tree() for _ in range(6)]
    means = [jax.tree.map(lambda *g: sum(g) / 3, *parts[i : i + 3]) for i in (0, 3)]
    one = descend(settings(name=name, clip_norm=1.0), params, means)
    three = descend(settings(name=name, clip_norm=1.0, accumulate_steps=3), params, parts)
    assert_close(three, one, **NOISE)
    unfinished = descend(settings(name=name, accumulate_steps=3), params, parts[:2])
    assert_close(unfinished, params, rtol=0)


# Learning rates.


def rates(chosen, steps, *at):
    return np.array([optimizer.learning_rates(chosen, steps, jnp.int32(step)) for step in at])


def test_schedules_start_and_end_where_they_should():
    for name, middle in (("poly", 0.5**0.9), ("cosine", 0.5), ("constant", 1.0)):
        chosen = settings(head_lr_multiplier=10.0)
        chosen.schedule = name
        backbone, rest = rates(chosen, 100, 0, 50).T
        np.testing.assert_allclose(backbone, [0.05, 0.05 * middle], rtol=1e-6)
        np.testing.assert_allclose(rest, 10 * backbone, rtol=1e-6)


def test_step_and_multistep_fall_at_their_steps():
    chosen = settings(step_size=10, gamma=0.5)
    chosen.schedule = "step"
    np.testing.assert_allclose(
        rates(chosen, 100, 9, 10, 29)[:, 0], [0.05, 0.025, 0.0125], rtol=1e-6
    )
    chosen.update(schedule="multistep", milestones=(10, 40))
    np.testing.assert_allclose(
        rates(chosen, 100, 9, 10, 39, 40)[:, 0], [0.05, 0.025, 0.025, 0.0125], rtol=1e-6
    )


def test_linear_warmup_holds_for_all_parameters():
    chosen = settings(warmup_steps=10, head_lr_multiplier=2.0)
    backbone, rest = rates(chosen, 100, 0, 4, 9, 50).T
    np.testing.assert_allclose(backbone, [0.005, 0.025, 0.05, 0.05], rtol=1e-6)
    np.testing.assert_allclose(rest, 2 * backbone, rtol=1e-6)


@pytest.mark.parametrize(
    "warmup, first", [("backbone_quartic", 0.05 / 10**4), ("backbone_frozen", 0)]
)
def test_warmup_of_the_original_is_the_backbones_only(warmup, first):
    chosen = settings(warmup_steps=10, warmup=warmup, head_lr_multiplier=2.0)
    backbone, rest = rates(chosen, 100, 0, 10).T
    np.testing.assert_allclose(backbone, [first, 0.05], rtol=1e-5)
    np.testing.assert_allclose(rest, 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "adam"}, "use one of sgd, adamw"),
        ({"schedule": "lambda_poly"}, "config.optimizer.schedule is 'lambda_poly'"),
        ({"schedule": "multistep"}, "config.optimizer.milestones"),
        ({"warmup": "exponential"}, "config.optimizer.warmup is 'exponential'"),
        ({"learning_rate": 0.0}, "config.optimizer.learning_rate is 0.0"),
        ({"clip_norm": -1.0}, "config.optimizer.clip_norm is -1.0"),
        ({"accumulate_steps": 3}, "divide train.steps, which is 40000"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    config = default_config()
    config.data.name, config.model.num_classes = "toy_street", 10
    config.optimizer.update(changes)
    with pytest.raises(UserError, match=message):
        config_checks.validate(config)


@pytest.mark.parametrize("wanted", ["lambda_poly", "warmup_poly"])
def test_learning_rates_are_those_of_the_original(wanted):
    root = Path(os.environ.get("OPENSEG_TEST_DATA", "")) / "golden"
    if not (root / "misc" / "schedules.json").is_file():
        pytest.skip("golden numbers: set OPENSEG_TEST_DATA")
    found = list(schedules.results(root, read_json(root / "tolerance.json"), wanted))
    assert found and all(result.passed for result in found), found


# The moving average.


def test_moving_average_follows_its_recursion():
    weights = [{"a": jnp.float32(value)} for value in RNG.normal(size=200)]
    average, expected = {"a": jnp.float32(7)}, 7.0
    for step, new in enumerate(weights):
        average = optimizer.moving_average(average, new, 0.9, jnp.int32(step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * float(new["a"])
    assert average["a"] == pytest.approx(expected, rel=1e-5)
    assert average["a"].dtype == jnp.float32


def test_moving_average_of_constant_weights_is_constant():
    params = random_tree()
    assert_close(optimizer.moving_average(params, params, 0.999, jnp.int32(5)), params, rtol=0)


def test_plateau_lowers_the_rates_when_the_mean_loss_no_longer_falls():
    chosen = settings(step_size=2, patience=2, gamma=0.5)
    fall, seen = optimizer.plateau(chosen), []
    state = fall.init(())
    for loss in (3.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.5, 1.5, 0.1, 0.1):
        lowered, state = fall.update((jnp.float32(1), jnp.float32(10)), state, value=loss)
        seen.append(tuple(float(rate) for rate in lowered))
    # Means of two steps: 2, 1, 2, 1.5 (the second in a row that is no better), 0.1.
    assert seen == [(1, 10)] * 7 + [(0.5, 5)] * 3

"""The region mutual information loss, against the original's formulas in float64."""

import jax
import numpy as np
import pytest

from openseg_jax.training.rmi import region_uncertainty, rmi_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 31, 38, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, (2, 8, 10)).repeat(4, 1).repeat(4, 2)[:, :31, :38]
LABELS[1, 5:20, 7:25] = 255
compiled = jax.jit(rmi_loss)


def uncertainty_by_definition(target, probability):
    """1/2 log det (V + 0.001 I) per element, as the original writes V, in float64."""
    n, h, w, k = target.shape
    total = 0.0
    for i in range(n):
        for c in range(k):
            a, p = (
                np.stack(
                    [x[i, y : h - 2 + y, z : w - 2 + z, c].ravel() for y, z in np.ndindex(3, 3)]
                )
                for x in (target.astype(np.float64), probability.astype(np.float64))
            )
            a, p = (x - x.mean(1, keepdims=True) for x in (a, p))
            ridge = 1e-3 * np.eye(9)
            conditional = a @ a.T - a @ p.T @ np.linalg.inv(p @ p.T + ridge) @ p @ a.T
            factor = np.linalg.cholesky(conditional + ridge)
            total += np.log(np.diag(factor) + 1e-8).sum() / 9 / n
    return total


def pooled(x):
    """Largest of each 3 x 3 window, with stride 3 and padding 1."""
    n, h, w, k = x.shape
    rows, columns = (h - 1) // 3 + 1, (w - 1) // 3 + 1
    windows = [
        [x[:, max(3 * i - 1, 0) : 3 * i + 2, max(3 * j - 1, 0) : 3 * j + 2] for j in range(columns)]
        for i in range(rows)
    ]
    return np.stack([np.stack([x.max((1, 2)) for x in row], 1) for row in windows], 1)


def rmi_by_definition(logits, labels, balance):
    logits = logits.astype(np.float64)
    valid = (labels != 255)[..., None]
    target = (labels[..., None] == np.arange(3)).astype(np.float64)
    probability = 1 / (1 + np.exp(-logits))
    entropy = -np.log(np.where(target == 1, probability, 1 - probability))
    entropy = (entropy * valid).sum() / (valid.sum() + 1)
    region = uncertainty_by_definition(pooled(target), pooled(probability * valid + 1e-6))
    return balance * entropy + (1 - balance) * region


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_rmi_is_that_of_the_original(balance):
    expected = rmi_by_definition(LOGITS, LABELS, balance)
    assert compiled(LOGITS, LABELS, balance) == pytest.approx(expected, abs=3e-5)


def test_gradient_of_rmi_is_that_of_finite_differences():
    gradient = jax.jit(jax.grad(rmi_loss))(LOGITS, LABELS)
    for _ in range(5):
        way = RNG.normal(size=LOGITS.shape)
        before, after = (
            rmi_by_definition(LOGITS + step * way, LABELS, 0.5) for step in (-1e-6, 1e-6)
        )
        assert (gradient * way).sum() == pytest.approx((after - before) / 2e-6, abs=1e-4)


@pytest.mark.parametrize("certainty", [0, 4, 30])
def test_rmi_stays_finite_and_exact_for_large_regular_regions(certainty):
    """Straight borders make covariances singular, good predictions make them tiny."""
    target = np.zeros((1, 90, 120, 1), np.float32)
    target[:, :, 57:] = 1
    noise = np.random.default_rng(1).normal(size=target.shape)
    logits = certainty * (2 * target - 1) + noise
    probability = (1 / (1 + np.exp(-logits))).astype(np.float32)
    value, gradient = jax.jit(jax.value_and_grad(region_uncertainty, 1))(target, probability)
    assert value == pytest.approx(uncertainty_by_definition(target, probability), abs=2e-3)
    assert np.isfinite(gradient).all()

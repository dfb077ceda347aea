"""OHEM and the order statistic it needs, against sorting in NumPy."""

import jax
import numpy as np
import pytest
from loss_cases import LABELS, LOGITS, RNG, WEIGHTS, pixel_losses, softmax

from openseg_jax.training import ohem
from openseg_jax.training.ohem import order_statistic

ohem_cross_entropy = jax.jit(ohem.ohem_cross_entropy)  # once, faster than by operation


def ohem_by_sorting(logits, labels, threshold, min_kept, weights=(1, 1, 1)):
    probability = softmax(logits).reshape(-1, 3).astype(np.float32)
    labels = labels.ravel()
    valid = labels != 255
    target = np.where(valid, labels, 0)
    probability = probability[np.arange(labels.size), target]
    loss = np.where(valid, -np.log(probability) * np.asarray(weights)[target], 0)
    valid[0] = True
    ranked = np.sort(probability[valid])
    limit = max(ranked[min(min_kept, len(ranked) - 1)], threshold)
    kept = valid & (probability < limit)
    return loss[kept].mean() if kept.any() else 0.0


@pytest.mark.parametrize("min_kept", [1, 17, 300, 100_000])
@pytest.mark.parametrize("threshold", [1e-4, 0.3, 0.9])
def test_ohem_keeps_what_sorting_keeps(threshold, min_kept):
    expected = ohem_by_sorting(LOGITS, LABELS, threshold, min_kept, WEIGHTS)
    ours = ohem_cross_entropy(LOGITS, LABELS, threshold, min_kept, WEIGHTS)
    assert ours == pytest.approx(expected, rel=1e-6)


def test_ohem_keeps_exactly_min_kept_of_the_hardest_pixels():
    margins = np.linspace(-3, 3, 50).astype(np.float32)
    logits = np.stack([margins, np.zeros(50, np.float32)], -1).reshape(1, 5, 10, 2)
    labels = np.zeros((1, 5, 10), np.int32)
    gradient = jax.grad(ohem_cross_entropy)(logits, labels, 1e-6, 7)
    kept = np.flatnonzero(np.asarray(gradient)[..., 0])
    np.testing.assert_array_equal(kept, np.arange(7))  # rank 7 itself, the eighth, is not below


def test_ohem_keeps_no_pixel_where_all_tie_at_the_limit():
    labels = np.zeros_like(LABELS)
    value, gradient = jax.value_and_grad(ohem_cross_entropy)(np.zeros_like(LOGITS), labels, 0.1, 5)
    assert value == 0 and not np.asarray(gradient).any()


def test_ohem_takes_the_first_pixel_along_even_if_ignored():
    labels = LABELS.copy()
    assert labels[0, 0, 0] == 255
    logits = LOGITS.copy()
    logits[0, 0, 0] = (-9, 0, 0)  # a small probability of class 0: kept, with a loss of zero
    loss, _ = pixel_losses(logits, labels, (1, 1, 1))
    expected = loss.sum() / (len(loss) + 1)
    assert ohem_cross_entropy(logits, labels, 1.0, 1) == pytest.approx(expected, rel=1e-6)
    logits[0, 0, 0] = (99, 0, 0)  # a probability of 1 is not below any limit
    assert ohem_cross_entropy(logits, labels, 1.0, 1) == pytest.approx(loss.mean(), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_statistic_is_that_of_sorting(dtype):
    values = np.concatenate([RNG.random(40), [0, 0, 1, 1, 1e-30, 0.5, 0.5, 0.5]]).astype(dtype)
    valid = RNG.random(values.size) < 0.7
    expected = np.sort(values[valid])
    with jax.enable_x64(dtype == np.float64):
        found = jax.vmap(order_statistic, (None, None, 0))(values, valid, np.arange(valid.sum()))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)

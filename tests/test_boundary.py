"""Boundary scores against their definitions, written down class by class and pixel by pixel."""

import cv2
import numpy as np
import pytest

from openseg_jax.data.dataset import IGNORE
from openseg_jax.evaluation import boundary


def blobs(seed, height=50, width=70, classes=4, void=True):
    noise = np.random.default_rng(seed).random((height // 8 + 2, width // 8 + 2)).astype(np.float32)
    smooth = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    label = np.clip(smooth * classes, 0, classes - 1).astype(np.uint8)
    if void:
        label[10:20, 30:50] = IGNORE
    return label


def plain_boundary_iou(truth, prediction, classes):
    """Boundary IoU of each class, by eroding its mask (Cheng et al., section 4)."""
    prediction = np.where(truth == IGNORE, IGNORE, prediction)
    width = max(1, round(0.02 * np.hypot(*truth.shape)))

    def near(mask):
        padded = np.pad(mask.astype(np.uint8), 1)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
        return mask & (eroded == 0)

    result = []
    for index in range(classes):
        one, other = near(truth == index), near(prediction == index)
        union = (one | other).sum()
        result.append((one & other).sum() / union if union else np.nan)
    return result


@pytest.mark.parametrize("shape", [(50, 70), (9, 130), (1, 1), (120, 40)])
def test_boundary_iou_is_that_of_eroded_masks(shape):
    for seed in range(3):
        truth, prediction = blobs(seed, *shape), blobs(seed + 10, *shape, void=False)
        counts = boundary.boundary_counts(truth, prediction, 5)
        values = boundary.boundary_scores(counts)
        expected = plain_boundary_iou(truth, prediction, 5)
        np.testing.assert_allclose(values["boundary_iou_of_class"], expected)
        if np.isfinite(expected).any():
            assert values["boundary_iou"] == pytest.approx(np.nanmean(expected))


def test_trimap_looks_near_true_boundaries_only():
    truth = np.zeros((40, 40), np.uint8)
    truth[:, 20:] = 1
    prediction = truth.copy()
    prediction[:, 0] = 1  # wrong, 20 pixels from the boundary
    values = boundary.boundary_scores(boundary.boundary_counts(truth, prediction, 2))["trimap"]
    assert [values[w] for w in (1, 2, 4, 8, 16)] == [1] * 5 and values[32] < 1
    prediction = truth.copy()
    prediction[:, 20] = 0  # wrong, at the boundary
    values = boundary.boundary_scores(boundary.boundary_counts(truth, prediction, 2))["trimap"]
    assert values[1] == pytest.approx((1 / 2 + 0) / 2)  # columns 19 and 20
    assert values[1] < values[2] < values[4] < values[8]


def test_f_score_forgives_small_shifts():
    truth = np.zeros((1000, 2000), np.uint8)
    truth[300:700, 500:1500] = 1
    for shift, expected in ((0, 1), (2, 1), (40, None)):
        prediction = np.roll(truth, shift, 1)
        value = boundary.boundary_scores(boundary.boundary_counts(truth, prediction, 2))["f_score"]
        if expected is not None:
            assert value == pytest.approx(expected, abs=1e-6)
        else:  # the two vertical sides, of 800 pixels, match nothing; 40 of the others neither
            assert value == pytest.approx(1 - (800 + 80) / 2800, abs=0.01)


def test_a_class_seen_in_one_of_two_only_scores_nothing():
    truth, prediction = np.zeros((30, 30), np.uint8), np.zeros((30, 30), np.uint8)
    prediction[5:10, 5:10] = 1
    values = boundary.boundary_scores(boundary.boundary_counts(truth, prediction, 3))
    np.testing.assert_allclose(values["f_score_of_class"], [0, 0, np.nan])
    assert np.isnan(values["boundary_iou_of_class"][2]) and values["boundary_iou_of_class"][1] == 0


def test_counts_add_up():
    pairs = [(blobs(seed), blobs(seed + 5, void=False)) for seed in range(3)]
    counts = [boundary.boundary_counts(*pair, 4) for pair in pairs]
    total = {name: sum(each[name] for each in counts) for name in counts[0]}
    assert all(array.dtype == np.int64 for array in total.values())
    means = [boundary.boundary_scores(each)["f_score_of_class"] for each in counts]
    np.testing.assert_allclose(
        boundary.boundary_scores(total)["f_score_of_class"], np.nanmean(means, 0)
    )

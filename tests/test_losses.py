"""The losses, against their definitions in NumPy."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import losses as golden_losses
from goldens import read_json
from loss_cases import (
    ANGLE,
    DISTANCE,
    EIGHT,
    LABELS,
    LOGITS,
    OTHER,
    RNG,
    SHAPE,
    TWO,
    WEIGHTS,
    pixel_losses,
    softmax,
)

from openseg_jax import config_checks
from openseg_jax.config import default_config
from openseg_jax.data import boundaries
from openseg_jax.errors import UserError
from openseg_jax.training.boundary_losses import (
    direction_class,
    edge_loss,
    label_edges,
    segfix_loss,
)
from openseg_jax.training.cross_entropy import (
    balanced_cross_entropy,
    cross_entropy,
    resize_labels,
)
from openseg_jax.training.losses import segmentation_loss
from openseg_jax.training.ohem import ohem_cross_entropy
from openseg_jax.training.overlap_losses import dice_loss, lovasz_softmax

# Compiled once each, which is faster than operation by operation.
cross_entropy = jax.jit(cross_entropy, static_argnames=("label_smoothing", "reduction"))

OUTPUTS = {
    "ce": (OTHER, LOGITS),
    "ohem": (OTHER, LOGITS),
    "rmi": (OTHER, LOGITS),
    "ce2p": (OTHER, TWO, OTHER, LOGITS),
    "segfix": (TWO, EIGHT),
}


def settings(**values):
    loss = default_config().loss
    loss.update(ohem_min_kept=20, **values)
    return loss


def everything(name, **values):
    """All that `segmentation_loss` needs for a loss of this name: settings, outputs, targets."""
    extra = {"distance": DISTANCE, "angle": ANGLE} if name == "segfix" else {}
    return settings(name=name, **values), OUTPUTS[name], extra


def total(loss, outputs, boundary=None, labels=LABELS):
    """`segmentation_loss`, compiled."""
    compiled = jax.jit(lambda y, t, more: segmentation_loss(y, t, loss, **more))
    return compiled(outputs, labels, boundary or {})


def by_definition(logits, labels, weights):
    loss, weight = pixel_losses(logits, labels, weights)
    return loss.sum() / weight.sum()


# What holds for every loss.


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_loss_scatters(name):
    loss, outputs, boundary = everything(name, class_weights=WEIGHTS, label_smoothing=0.1)
    loss.update(dice_weight=0.5, lovasz_weight=0.5)

    def of(outputs, labels, boundary):
        return segmentation_loss(outputs, labels, loss, **boundary)

    lowered = jax.jit(jax.grad(of)).lower(outputs, LABELS, boundary)
    assert "scatter" not in lowered.as_text()


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_batch_without_valid_pixel_has_zero_loss_and_gradient(name):
    loss, outputs, boundary = everything(name, label_smoothing=0.1)
    if name == "ce":
        loss.update(dice_weight=0.5, lovasz_weight=0.5)
    nothing = np.full_like(LABELS, 255)

    def of(outputs):
        return segmentation_loss(outputs, nothing, loss, **boundary)

    value, gradients = jax.jit(jax.value_and_grad(of))(outputs)
    assert value == 0
    assert not any(np.asarray(gradient).any() for gradient in gradients)


@pytest.mark.parametrize("name", OUTPUTS)
def test_shards_are_the_mean_of_the_losses_of_the_parts(name):
    _, outputs, boundary = everything(name)

    def loss_with(shards):
        loss = settings(name=name, class_weights=WEIGHTS, dice_weight=0.5, shards=shards)
        return jax.jit(lambda y, t, more: segmentation_loss(y, t, loss, **more))

    plain, everywhere = loss_with(1), (outputs, LABELS, boundary)
    halves = [
        plain(*jax.tree.map(lambda x, part=part: x[part], everywhere))
        for part in (slice(0, 2), slice(2, 4))
    ]
    both = loss_with(2)(*everywhere)
    assert both == pytest.approx(float(sum(halves)) / 2, rel=1e-6)
    if name == "ce":  # the parts differ in what they ignore
        assert abs(both - plain(*everywhere)) > 1e-5


@pytest.mark.parametrize("name", OUTPUTS)
def test_losses_of_bfloat16_outputs_are_float32(name):
    loss, outputs, boundary = everything(name)
    outputs = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), outputs)
    value = jax.eval_shape(lambda y: segmentation_loss(y, LABELS, loss, **boundary), outputs)
    assert value.dtype == jnp.float32


@pytest.mark.parametrize(
    "name, outputs, extra, message",
    [
        ("segfix", (LOGITS, LOGITS), {"distance": DISTANCE, "angle": ANGLE}, "3, 3 channels"),
        ("segfix", (TWO, EIGHT), {}, "config.data.boundaries"),
        ("ce2p", (OTHER, LOGITS), {}, "CE2P's four outputs"),
        ("ohem", (TWO, EIGHT), {}, "config.model.method"),
    ],
)
def test_a_loss_that_does_not_go_with_the_network_says_so(name, outputs, extra, message):
    with pytest.raises(UserError, match=message):
        segmentation_loss(outputs, LABELS, settings(name=name), **extra)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "focal"}, "config.loss.name is 'focal'"),
        ({"name": "segfix"}, "config.data.boundaries is"),
        ({"class_weights": (1.0, 2.0)}, "give 10 numbers"),
        ({"class_weights": (-1.0,) * 10}, "may not be negative"),
        ({"class_weights": (0.0,) * 10}, "one must be positive"),
        ({"label_smoothing": 1.0}, "config.loss.label_smoothing is 1.0"),
        ({"ohem_threshold": 7.0}, "config.loss.ohem_threshold is 7.0"),
        ({"ohem_min_kept": 0}, "config.loss.ohem_min_kept is 0"),
        ({"aux_weight": -0.4}, "config.loss.aux_weight is -0.4"),
        ({"shards": 3}, "divide train.batch_size, which is 8"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    config = default_config()
    config.data.name, config.model.num_classes = "toy_street", 10
    config.loss.update(changes)
    with pytest.raises(UserError, match=message):
        config_checks.validate(config)


# Cross entropy.


def test_cross_entropy_is_the_weighted_mean_over_valid_pixels():
    assert cross_entropy(LOGITS, LABELS) == pytest.approx(by_definition(LOGITS, LABELS, (1, 1, 1)))
    expected = by_definition(LOGITS, LABELS, WEIGHTS)
    assert cross_entropy(LOGITS, LABELS, WEIGHTS) == pytest.approx(expected, rel=1e-6)


def test_gradient_of_cross_entropy_is_softmax_minus_target():
    target = LABELS[..., None] == np.arange(3)
    valid = LABELS != 255
    expected = np.where(valid[..., None], softmax(LOGITS) - target, 0) / valid.sum()
    gradient = jax.grad(cross_entropy)(LOGITS, LABELS)
    np.testing.assert_allclose(gradient, expected, atol=1e-8, rtol=1e-5)


def test_label_smoothing_mixes_the_target_with_an_even_one():
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS).permute(0, 3, 1, 2),
        torch.tensor(LABELS, dtype=torch.int64),
        torch.tensor(WEIGHTS),
        ignore_index=255,
        label_smoothing=0.2,
    )
    ours = cross_entropy(LOGITS, LABELS, WEIGHTS, label_smoothing=0.2)
    assert ours == pytest.approx(float(expected), rel=1e-6)


def test_label_smoothing_of_an_even_prediction_changes_nothing():
    even = np.zeros_like(LOGITS)
    assert cross_entropy(even, LABELS, label_smoothing=0.3) == pytest.approx(np.log(3), rel=1e-5)


def test_balanced_cross_entropy_gives_two_classes_equal_weight():
    labels = np.where(LABELS == 1, 1, np.where(LABELS == 255, 255, 0))
    loss = [pixel_losses(TWO, np.where(labels == c, c, 255), (1, 1))[0].mean() for c in (0, 1)]
    assert balanced_cross_entropy(TWO, labels) == pytest.approx(np.mean(loss), rel=1e-6)


def test_labels_are_resized_as_torch_does():
    torch = pytest.importorskip("torch")
    labels = np.arange(95 * 121).reshape(1, 95, 121).astype(np.int32)
    for size in [(24, 31), (95, 60), (7, 121), (190, 363), (41, 59), (1, 1)]:
        expected = torch.nn.functional.interpolate(torch.tensor(labels[None]).float(), size)
        np.testing.assert_array_equal(resize_labels(labels, size), expected[0].int().numpy())


def test_auxiliary_outputs_are_weighted():
    plain = cross_entropy(LOGITS, LABELS) + 0.3 * cross_entropy(OTHER, LABELS)
    assert total(settings(aux_weight=0.3), (OTHER, LOGITS)) == pytest.approx(float(plain), rel=1e-6)
    mined = ohem_cross_entropy(LOGITS, LABELS, 0.7, 20) + 0.3 * cross_entropy(OTHER, LABELS)
    loss = settings(name="ohem", aux_weight=0.3)
    assert total(loss, (OTHER, LOGITS)) == pytest.approx(float(mined), rel=1e-6)
    alone = float(cross_entropy(LOGITS, LABELS))
    assert total(settings(), (LOGITS,)) == pytest.approx(alone, rel=1e-6)


# Losses of boundaries.


@pytest.mark.parametrize("directions", [4, 8, 16, 32])
def test_directions_belong_to_the_class_whose_upper_limit_they_are(directions):
    width = 360 / directions
    centres = -180 + width * np.arange(directions)
    limits = centres + width / 2
    np.testing.assert_array_equal(direction_class(centres, directions), np.arange(directions))
    np.testing.assert_array_equal(direction_class(limits, directions), np.arange(directions))
    above = np.nextafter(limits.astype(np.float32), np.float32(360))
    expected = np.arange(1, directions + 1) % directions
    np.testing.assert_array_equal(direction_class(above, directions), expected)
    assert direction_class(np.array([180], np.int16), directions) == 0


def test_segfix_loss_is_two_balanced_cross_entropies():
    valid = LABELS != 255
    boundary = np.where(valid, DISTANCE <= 5, 255)
    nearest = np.round((ANGLE.astype(float) + 180) / 45).astype(int) % 8
    predicted = softmax(TWO)[..., 1] > 0.5
    direction = np.where(valid & predicted, nearest, 255)

    def balanced(logits, labels, classes):
        counts = np.array([(labels == c).sum() for c in range(classes)])
        return by_definition(logits, labels, 1 - counts / counts.sum())

    expected = balanced(TWO, boundary, 2) + balanced(EIGHT, direction, 8)
    loss = segfix_loss(TWO, EIGHT, LABELS, DISTANCE, ANGLE)
    assert loss == pytest.approx(expected, rel=1e-6)


def test_segfix_without_predicted_boundary_learns_the_mask_only():
    inside = np.stack([np.full(SHAPE, 5.0), np.zeros(SHAPE)], -1).astype(np.float32)
    mask, direction = jax.grad(segfix_loss, (0, 1))(inside, EIGHT, LABELS, DISTANCE, ANGLE)
    assert np.isfinite(mask).all() and np.asarray(mask).any()
    assert not np.asarray(direction).any()


def test_edges_on_the_device_are_those_of_the_data():
    np.testing.assert_array_equal(label_edges(LABELS), [boundaries.edges(x) for x in LABELS])


def test_ce2p_supervises_its_four_outputs():
    loss = settings(name="ce2p", aux_weight=0.3, edge_weight=2.0, class_weights=WEIGHTS)
    value = total(loss, (OTHER, TWO, LOGITS[..., ::-1], LOGITS))
    parsing = sum(by_definition(x, LABELS, WEIGHTS) for x in (OTHER, LOGITS))
    auxiliary = by_definition(LOGITS[..., ::-1], LABELS, WEIGHTS)
    expected = parsing + 2 * float(edge_loss(TWO, LABELS)) + 0.3 * auxiliary
    assert value == pytest.approx(expected, rel=1e-5)
    edges = np.where(LABELS == 255, 255, label_edges(LABELS))
    share = (edges == 1).sum() / (edges != 255).sum()
    expected = by_definition(TWO, edges, (share, 1 - share))
    assert edge_loss(TWO, LABELS) == pytest.approx(expected, rel=1e-5)


# Losses of overlap.


def test_lovasz_is_the_extension_of_the_jaccard_loss():
    labels = np.where(LABELS == 2, 255, LABELS)  # class 2 is absent: it does not count
    valid = labels.ravel() != 255
    probability = softmax(LOGITS).reshape(-1, 3)[valid]
    losses = []
    for c in (0, 1):
        target = labels.ravel()[valid] == c
        errors = np.abs(target - probability[:, c])
        wrong, before, total = np.zeros(len(errors), bool), 0.0, 0.0
        for pixel in np.argsort(-errors):
            wrong[pixel] = True
            jaccard = wrong.sum() / (target | wrong).sum()
            total += errors[pixel] * (jaccard - before)
            before = jaccard
        losses.append(total)
    assert lovasz_softmax(LOGITS, labels) == pytest.approx(np.mean(losses), rel=1e-5)


def test_lovasz_of_a_certain_prediction_is_one_minus_its_iou():
    prediction = RNG.integers(0, 3, SHAPE)
    certain = 100 * np.eye(3, dtype=np.float32)[prediction]
    valid = LABELS != 255
    iou = [
        (valid & (LABELS == c) & (prediction == c)).sum()
        / (valid & ((LABELS == c) | (prediction == c))).sum()
        for c in range(3)
    ]
    assert lovasz_softmax(certain, LABELS) == pytest.approx(1 - np.mean(iou), rel=1e-5)


def test_dice_is_one_minus_twice_the_overlap_over_the_sizes():
    labels = np.where(LABELS == 2, 255, LABELS)
    valid = (labels != 255)[..., None]
    probability = softmax(LOGITS) * valid
    target = labels[..., None] == np.arange(3)
    overlap = 2 * (probability * target).sum((0, 1, 2))
    sizes = probability.sum((0, 1, 2)) + target.sum((0, 1, 2))
    expected = 1 - (overlap / sizes)[:2].mean()
    assert dice_loss(LOGITS, labels) == pytest.approx(expected, rel=1e-6)


def test_losses_of_overlap_are_added_to_the_main_output_only():
    base = total(settings(), (OTHER, LOGITS))
    value = total(settings(dice_weight=0.5, lovasz_weight=2.0), (OTHER, LOGITS))
    more = 0.5 * dice_loss(LOGITS, LABELS) + 2 * lovasz_softmax(LOGITS, LABELS)
    assert value - base == pytest.approx(float(more), rel=1e-5)


# The original's numbers.


@pytest.mark.parametrize("wanted", ["ohem_first_pixel_ignored", "auxohem_0.2", "segfix"])
def test_the_numbers_are_those_of_the_original(wanted):
    root = Path(os.environ.get("OPENSEG_TEST_DATA", "")) / "golden"
    if not (root / "misc" / "losses.json").is_file():
        pytest.skip("golden numbers: set OPENSEG_TEST_DATA")
    (result,) = golden_losses.results(root, read_json(root / "tolerance.json"), wanted)
    assert result.passed, result

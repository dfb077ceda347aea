"""Transforms of one example, augmentation, collation, and ground truth made from labels."""

import cv2
import numpy as np
import pytest

from openseg_jax.config import default_config
from openseg_jax.config_checks import validate
from openseg_jax.data import boundaries, collate, transforms
from openseg_jax.data.augment import augment
from openseg_jax.data.dataset import IGNORE, LabelMap
from openseg_jax.errors import UserError

RNG = np.random.default_rng(0)


def picture(height, width):
    label = np.arange(height * width, dtype=np.uint8).reshape(height, width) % 11
    return {"image": np.repeat(label[..., None], 3, -1) * 20, "label": label}


def settings(**changes):
    config = default_config().augment
    config.update(**changes)
    return config


def photograph(height, width):
    """Smooth, with sharp edges, as photographs are."""
    smooth = cv2.resize(RNG.integers(0, 255, (9, 11, 3)).astype(np.uint8), (width, height))
    label = np.kron(RNG.integers(0, 20, (10, 10)), np.ones((height // 10, width // 10)))
    smooth[: label.shape[0], : label.shape[1]][label == 3] = 255
    full = np.zeros((height, width), np.uint8)
    full[: label.shape[0], : label.shape[1]] = label
    return {"image": smooth, "label": full}


def test_resizing_only_the_crop_gives_what_resizing_everything_gives():
    example = photograph(310, 420)
    rng = np.random.default_rng(1)
    differing = []
    for _ in range(60):
        size = transforms.scaled_size((310, 420), rng.uniform(0.5, 2), rng.uniform(0.9, 1.1))
        window = min(100, size[0]), min(150, size[1])
        top, left = (int(rng.integers(0, s - w + 1)) for s, w in zip(size, window, strict=True))
        part = transforms.resize_window(example, size, top, left, window)
        whole = transforms.crop(transforms.resize(example, size), top, left, window)
        np.testing.assert_array_equal(part["label"], whole["label"])
        difference = np.abs(part["image"].astype(int) - whole["image"])
        assert difference.max() <= 1  # rounding
        differing.append(np.mean(difference > 0))
    assert np.mean(differing) < 0.02


def test_the_whole_resize_is_a_choice():
    example = photograph(200, 300)
    results = [
        augment(example, np.random.default_rng(3), settings(crop=(64, 96), whole_resize=whole))
        for whole in (False, True)
    ]
    np.testing.assert_array_equal(results[0]["label"], results[1]["label"])
    difference = np.abs(results[0]["image"].astype(int) - results[1]["image"])
    assert difference.max() <= 1


def test_nearest_is_opencvs_for_all_pairs_of_sizes():
    for length in (7, 50, 84, 1024):
        for new in range(1, 200):
            row = np.arange(length, dtype=np.float32)[None]
            expected = cv2.resize(row, (new, 1), interpolation=cv2.INTER_NEAREST)[0]
            np.testing.assert_array_equal(transforms.nearest_indices(length, new), expected)


def test_image_and_label_stay_together_through_augmentation():
    label = np.kron(RNG.integers(0, 10, (6, 8)), np.ones((10, 10))).astype(np.uint8)
    example = {"image": np.repeat(label[..., None], 3, -1), "label": label}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        made = augment(example, rng, settings(scale=(1.0, 1.0), crop=(50, 50), brightness=0))
        np.testing.assert_array_equal(made["image"][..., 0], made["label"])


def test_small_images_are_padded_with_ignored_pixels_inside_the_crop():
    chosen = settings(scale=(0.5, 1.5), aspect=(0.9, 1.1), crop=(32, 40))
    for seed in range(20):
        made = augment(picture(20, 30), np.random.default_rng(seed), chosen)
        assert made["image"].shape == (32, 40, 3) and made["label"].shape == (32, 40)
        top, left, height, width = made["box"]
        outside = np.ones((32, 40), bool)
        outside[top : top + height, left : left + width] = False
        assert (made["label"][outside] == IGNORE).all()
        assert (made["label"][~outside] != IGNORE).all()
        assert -10 <= made["brightness"] <= 10


def test_flip_swaps_the_paired_classes_and_mirrors_directions():
    example = picture(4, 6)
    example["angle"] = np.tile(np.array([0, 90, 45, -30, 180, -180], np.int16), (4, 1))
    flipped = transforms.flip(example, ((1, 2),))
    np.testing.assert_array_equal(flipped["image"], example["image"][:, ::-1])
    expected = example["label"][:, ::-1].copy()
    ones, twos = expected == 1, expected == 2
    expected[ones], expected[twos] = 2, 1
    np.testing.assert_array_equal(flipped["label"], expected)
    np.testing.assert_array_equal(flipped["angle"][0, ::-1], [0, 90, 135, -150, 180, -180])


def test_random_crop_reaches_every_position():
    example = picture(5, 6)
    rng = np.random.default_rng(0)
    chosen = settings(steps=("crop",), crop=(3, 3))
    corners = {augment(example, rng, chosen)["label"].tobytes() for _ in range(300)}
    every = {example["label"][y : y + 3, x : x + 3].tobytes() for y in range(3) for x in range(4)}
    assert corners == every


def test_steps_happen_in_their_order():
    # Flip before or after a nearest resize of a label gives other pixels at odd ratios.
    example = photograph(50, 70)
    made = [
        augment(example, np.random.default_rng(0), settings(steps=steps, flip=1.0, crop=(33, 47),
                resize=(33, 47)))["label"]
        for steps in (("flip", "resize", "crop"), ("resize", "flip", "crop"))
    ]  # fmt: skip
    size = (47, 33)
    mirrored = np.ascontiguousarray(example["label"][:, ::-1])
    first = cv2.resize(mirrored, size, interpolation=cv2.INTER_NEAREST)
    second = cv2.resize(example["label"], size, interpolation=cv2.INTER_NEAREST)[:, ::-1]
    np.testing.assert_array_equal(made[0], first)
    np.testing.assert_array_equal(made[1], second)
    assert (first != second).any()


def test_every_step_and_method_runs_in_one_config():
    chosen = settings(
        steps=("flip", "resize", "rotate", "pad", "contrast", "saturation", "hue",
               "permute_channels", "random_resize", "crop", "brightness"),
        resize_min_side=30, crop=(24, 40), padding=(2, -1, 3, 0), max_side=60,
    )  # fmt: skip
    for method in ("random", "center", "grid"):
        for pad in collate.PAD:
            chosen.update(crop_method=method, pad=pad)
            for seed in range(3):
                made = augment(photograph(40, 50), np.random.default_rng(seed), chosen)
                assert made["image"].shape == (24, 40, 3) and made["image"].dtype == np.uint8
                assert set(np.unique(made["label"])) <= {*range(20), IGNORE}


def test_steps_that_are_skipped_do_not_shift_the_others():
    example = photograph(40, 50)
    steps = ("contrast", "crop", "flip")
    made = [
        augment(
            example, np.random.default_rng(5), settings(steps=steps, crop=(9, 9), probability=p)
        )
        for p in (0.0, 1.0)
    ]
    np.testing.assert_array_equal(made[0]["label"], made[1]["label"])
    assert (made[0]["image"] != made[1]["image"]).any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": ("crop", "blur")}, "augment.steps.*the steps are flip"),
        ({"steps": ("crop", "brightness", "hue")}, "brightness is added on the device"),
        ({"steps": ("crop", "random_resize")}, "crop must come after"),
        ({"steps": ("resize", "crop")}, "the step resize needs"),
        ({"pad": "middle"}, "use one of random"),
        ({"flip": 1.5}, "give a probability"),
        ({"scale": (2.0, 0.5)}, "low <= high"),
    ],
)
def test_impossible_augmentation_is_refused(changes, message):
    config = default_config()
    config.data.name, config.model.num_classes = "toy_street", 10
    config.augment.update(changes)
    with pytest.raises(UserError, match=message):
        validate(config)


# Ground truth from labels


def test_distance_is_capped_and_small_regions_are_left_out():
    label = np.zeros((20, 700), np.uint8)
    label[:, 600:] = 1
    label[5:14, 10:21] = 2  # 99 pixels
    distance, direction = boundaries.distance_direction(label)
    assert distance[0, 599] == 1 and distance[0, 400] == 200
    assert distance[0, 330] == 250  # 270 pixels from the nearest other class
    assert (distance[label == 2] == 0).all() and (direction[label == 2] == 90).all()
    label[5, 21] = 2  # the hundredth
    assert (boundaries.distance_direction(label)[0][label == 2] > 0).all()
    # Left of the border between 0 and 1 it leads left, right of it right.
    assert boundaries.degrees(direction)[10, 598] in (-180, 180)
    assert boundaries.degrees(direction)[10, 601] == 0


def test_an_image_of_one_class_has_no_boundary():
    distance, _ = boundaries.distance_direction(np.full((30, 30), 4, np.uint8))
    assert (distance == 250).all()


def test_distance_of_a_region_is_that_of_the_whole_image():
    label = (cv2.resize(RNG.random((6, 7)), (70, 60)) * 5).astype(np.uint8)
    distance, _ = boundaries.distance_direction(label, min_pixels=0)
    for region in np.unique(label):
        whole = boundaries.region_distance(label == region)
        np.testing.assert_array_equal(distance[label == region], whole[label == region].astype(int))


def test_instances_are_regions_of_their_own_and_void_is_one():
    label_map = LabelMap({0: IGNORE, 3: IGNORE, 7: 0, 26: 1})
    instances = np.array([[0, 3, 7, 26, 26001, 26002]], np.uint16)
    regions = boundaries.instance_regions(instances, label_map)
    np.testing.assert_array_equal(regions, [[255, 255, 7, 26, 26001, 26002]])


def test_void_edges_either_way():
    label = np.zeros((9, 20), np.uint8)
    label[:, 10:] = 1
    edge = boundaries.edges(label, 3)
    assert edge[:, 9].all() and not edge[:, :7].any() and not edge[:, 13:].any()
    inside = boundaries.void_edges(label, 3)
    np.testing.assert_array_equal(inside == IGNORE, edge)
    np.testing.assert_array_equal(boundaries.void_edges(label, 3, "edges") == IGNORE, ~edge)

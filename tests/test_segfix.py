"""SegFix: directions, refinement of label maps, and of folders of them."""

import numpy as np
import pytest
from PIL import Image

from openseg_jax import cli
from openseg_jax.data import boundaries
from openseg_jax.data.dataset import IGNORE
from openseg_jax.evaluation import directions, metrics, segfix


def discs(height=96, width=128):
    """Three classes with round outlines, `(h, w)` uint8."""
    y, x = np.mgrid[:height, :width]
    label = np.zeros((height, width), np.uint8)
    label[np.hypot(y - 40, x - 45) < 28] = 1
    label[np.hypot(y - 62, x - 102) < 22] = 2
    return label


def blurred(truth, rng):
    """The truth with ragged outlines: pixels near boundaries take a neighbour's label."""
    offsets = rng.integers(-2, 3, (*truth.shape, 2))
    return np.asarray(segfix.refine(truth, offsets, 1))


@pytest.mark.parametrize("count", (4, 8, 16, 32))
def test_each_direction_is_in_the_middle_of_its_class(count):
    classes = np.arange(count)
    vectors = directions.vectors(count)
    assert len({tuple(v) for v in vectors}) == count and vectors[0, 1] < 0
    angles = directions.class_angle(classes, count)
    np.testing.assert_array_equal(directions.direction_class(angles, count), classes)
    np.testing.assert_array_equal(directions.vector_class(vectors, count), classes)
    near = directions.unit_vector(angles)
    cosine = (near * vectors).sum(-1) / np.linalg.norm(vectors, axis=-1)
    assert (cosine > 0.95).all()


def test_upper_ends_belong_to_a_direction():
    bins = directions.direction_class(np.array([-180, -157.5, -157.4, 0, 22.5, 22.6, 157.6, 180]))
    assert bins.tolist() == [0, 0, 1, 4, 4, 5, 0, 0]


def test_targets_near_boundaries_only():
    distance = np.array([[0, 5, 6, 0]])
    angle, label = np.array([[0.0, 90, 90, 90]]), np.array([[1, 1, 1, IGNORE]])
    assert directions.boundary_label(distance, label).tolist() == [[1, 1, 0, IGNORE]]
    assert directions.direction_label(distance, angle, label).tolist() == [[4, 6, 8, IGNORE]]
    assert directions.offsets(distance, angle).tolist() == [[[0, 1], [1, 0], [0, 0], [1, 0]]]


def test_refining_takes_the_label_offsets_point_to():
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    offsets = np.zeros((3, 4, 2), int)
    offsets[0, 0], offsets[1, 1], offsets[2, 3] = (1, 1), (-1, 0), (1, 1)
    expected = label.copy()
    expected[0, 0], expected[1, 1] = label[2, 2], label[0, 1]  # two steps, and at most the border
    np.testing.assert_array_equal(segfix.refine(label, offsets), expected)
    expected[0, 0] = label[1, 1]
    np.testing.assert_array_equal(segfix.refine(label, offsets, 1), expected)
    batch = np.asarray(segfix.refine(np.stack([label, label]), np.stack([offsets, 0 * offsets]), 1))
    np.testing.assert_array_equal(batch, [expected, label])


def test_true_offsets_lead_into_the_region_and_repair_outlines():
    truth = discs()
    offsets = segfix.true_offsets(truth)
    np.testing.assert_array_equal(segfix.refine(truth, offsets), truth)  # right ones stay right
    ragged = blurred(truth, np.random.default_rng(0))
    refined = np.asarray(segfix.refine(ragged, offsets))
    before, after = (
        metrics.scores(metrics.confusion_matrix(truth, each, 3))["miou"]
        for each in (ragged, refined)
    )
    assert after > before + 0.02
    # Far from boundaries nothing moves.
    far = boundaries.distance_direction(truth)[0] > directions.MAX_DISTANCE
    np.testing.assert_array_equal(refined[far], ragged[far])


def test_decoding_the_networks_answer():
    boundary = np.array([[0.4, 0.5, 0.6, 0.9]])
    direction = np.eye(8)[[[0, 1, 2, 5]]]
    expected = [[[0, 0], [0, 0], [-1, 0], [1, 1]]]
    np.testing.assert_array_equal(segfix.decode(boundary, direction), expected)


@pytest.fixture
def folder(tmp_path):
    """Label maps of a program and the truth, under Cityscapes' kind of names."""
    truth = discs()
    ragged = blurred(truth, np.random.default_rng(0))
    for name in ("labels", "truth", "offsets"):
        (tmp_path / name).mkdir()
    palette = Image.fromarray(ragged)
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "labels" / "bonn_000001_pred.png")
    Image.fromarray(ragged.astype(np.uint16) + 1000).save(tmp_path / "labels" / "ulm_000002_x.png")
    for name in ("bonn_000001_gtFine", "ulm_000002_gtFine"):
        Image.fromarray(truth).save(tmp_path / "truth" / f"{name}.png")
    return tmp_path


def test_folder_of_any_label_maps_with_true_labels(folder, capsys):
    arguments = ["segfix", folder / "labels", "--out", folder / "out", "--truth", folder / "truth"]
    assert cli.main([str(a) for a in arguments]) == 0
    assert "2 of 2" in capsys.readouterr().out
    bonn = Image.open(folder / "out" / "bonn_000001_pred.png")
    ulm = np.asarray(Image.open(folder / "out" / "ulm_000002_x.png"))
    ragged = np.asarray(Image.open(folder / "labels" / "bonn_000001_pred.png"))
    expected = np.asarray(segfix.refine(ragged, segfix.true_offsets(discs())))
    assert bonn.mode == "P" and bonn.getpalette()[:9] == [200, 0, 0, 0, 200, 0, 0, 0, 200]
    np.testing.assert_array_equal(np.asarray(bonn), expected)
    np.testing.assert_array_equal(ulm, expected.astype(int) + 1000)  # ids mean what they meant


def test_offsets_of_the_original_and_of_numpy(folder, capsys):
    import scipy.io

    offsets = segfix.true_offsets(discs())
    scipy.io.savemat(folder / "offsets" / "bonn_000001_leftImg8bit.mat", {"mat": offsets})
    np.save(folder / "offsets" / "ulm_000002_leftImg8bit.npy", offsets[:-1])
    out = folder / "out"
    command = ["segfix", folder / "labels", "--out", out, "--offsets", folder / "offsets"]
    assert cli.main([str(a) for a in command]) == 1
    printed = capsys.readouterr()
    assert "1 of 2" in printed.out and "ulm_000002_x.png" in printed.err
    assert "128x96" in printed.err and "128x95" in printed.err
    ragged = np.asarray(Image.open(folder / "labels" / "bonn_000001_pred.png"))
    refined = np.asarray(Image.open(out / "bonn_000001_pred.png"))
    np.testing.assert_array_equal(refined, segfix.refine(ragged, offsets))


def test_instances(folder, capsys):
    """Cityscapes' results: a list an image, a mask file an instance; one step instead of two."""
    results, masks = folder / "results", folder / "results" / "masks"
    masks.mkdir(parents=True)
    truth = discs()
    mask = 255 * (blurred(truth, np.random.default_rng(1)) == 1).astype(np.uint8)
    Image.fromarray(mask).save(masks / "bonn_000001_0.png")
    listing = results / "bonn_000001_leftImg8bit_pred.txt"
    listing.write_text("masks/bonn_000001_0.png 26 0.97\n")
    out = folder / "out"
    command = ["segfix", "--instances", results, "--out", out, "--truth", folder / "truth"]
    assert cli.main([str(a) for a in command]) == 0
    assert (out / listing.name).read_text() == listing.read_text()
    refined = np.asarray(Image.open(out / "masks" / "bonn_000001_0.png"))
    np.testing.assert_array_equal(refined, segfix.refine(mask, segfix.true_offsets(truth), 1))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["labels"], "one of --checkpoint"),
        (["labels", "--checkpoint", "w"], "--images"),
        (["labels", "--offsets", "offsets"], "holds no .mat"),
        (["offsets", "--truth", "truth"], "holds no .png"),
    ],
)
def test_mistakes_get_one_message(folder, arguments, message, capsys):
    paths = [str(folder / a) if (folder / a).exists() else a for a in arguments]
    assert cli.main(["segfix", *paths, "--out", str(folder / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error

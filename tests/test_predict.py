"""Prediction: from Python in three lines, and from the command line on any images."""

import cv2
import numpy as np
import pytest
from PIL import Image

import openseg_jax
from openseg_jax.data import catalog
from openseg_jax.errors import UserError


@pytest.fixture(scope="module")
def workdir(uninterrupted):
    return uninterrupted[0]


def test_three_lines_from_image_to_labels(workdir):
    model = openseg_jax.load(workdir)
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    label = model.predict(image)
    assert label.shape == (64, 96) and label.dtype == np.uint8 and label.max() < 10
    logits = model.logits(image)
    assert logits.shape == (64, 96, 10) and logits.dtype == np.float32
    np.testing.assert_array_equal(logits.argmax(-1), label)
    assert [each.shape for each in model.predict([image, image[:50]])] == [(64, 96), (50, 96)]
    assert model.classes == catalog.get("toy_street").classes
    with pytest.raises(UserError, match="RGB uint8 array"):
        model.predict(image.astype(np.float32))


def test_files_folders_and_bad_images(workdir, openseg, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 60, 3), np.uint8)
    cv2.imwrite(str(source / "a.png"), image[..., ::-1])
    cv2.imwrite(str(source / "deep" / "a.jpg"), image)
    cv2.imwrite(str(source / "grey.png"), image[..., 0])
    (source / "broken.png").write_bytes(b"nothing")
    finished = openseg("predict", "--checkpoint", workdir, source, "--out", out)
    assert finished.returncode == 1, finished.stderr
    assert "3 of 4 images done" in finished.stdout and "broken.png" in finished.stderr
    names = sorted(path.name for path in (out / "ids").iterdir())
    for name in names:
        ids = np.asarray(Image.open(out / "ids" / name))
        colour = Image.open(out / "color" / name)
        assert ids.shape == (40, 60) and colour.mode == "P"
        np.testing.assert_array_equal(np.asarray(colour), ids)
        assert np.asarray(Image.open(out / "overlay" / name)).shape == (40, 60, 3)
    assert (out / "legend.png").is_file()
    assert names == ["a.png", "a_2.png", "grey.png"]
    expected = openseg_jax.load(workdir).predict(image)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "ids" / "a.png")), expected)


def test_no_images_and_no_checkpoint(workdir, openseg, tmp_path):
    missing = openseg("predict", "--checkpoint", workdir, tmp_path / "x*.png", "--out", tmp_path)
    assert missing.returncode == 2 and "no image there" in missing.stderr
    nowhere = openseg("predict", "--checkpoint", tmp_path, tmp_path, "--out", tmp_path)
    assert nowhere.returncode == 2 and "is no checkpoint" in nowhere.stderr

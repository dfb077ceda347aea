"""Prediction: from Python in three lines, and from the command line on any images."""

import copy
import dataclasses
import io
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

import openseg_jax
from openseg_jax import photos, prediction, predictor
from openseg_jax.config import default_config
from openseg_jax.data import catalog
from openseg_jax.data.dataset import LabelMap
from openseg_jax.errors import UserError
from openseg_jax.evaluation import segfix
from openseg_jax.models import segmenter


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
    assert f"a_2 is of {source / 'deep' / 'a.jpg'}" in finished.stdout
    expected = openseg_jax.load(workdir).predict(image)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "ids" / "a.png")), expected)


def test_no_images_and_no_checkpoint(workdir, openseg, tmp_path):
    missing = openseg("predict", "--checkpoint", workdir, tmp_path / "x*.png", "--out", tmp_path)
    assert missing.returncode == 2 and "no image there" in missing.stderr
    nowhere = openseg("predict", "--checkpoint", tmp_path, tmp_path, "--out", tmp_path)
    assert nowhere.returncode == 2 and "is no checkpoint" in nowhere.stderr
    misspelt = openseg("predict", "--checkpoint", tmp_path / "typo", tmp_path, "--out", tmp_path)
    assert misspelt.returncode == 2 and "typo does not exist" in misspelt.stderr


@pytest.fixture(scope="module")
def network(workdir):
    return predictor.load_network(workdir)


@pytest.fixture(scope="module")
def model(network):
    return predictor.Predictor(*network)


def picture(height=40, width=60):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def read(path):
    return np.asarray(Image.open(path))


@pytest.mark.slow
def test_pictures_of_every_kind(model, tmp_path, capsys):
    """Whatever people have on their disks; the label map lies on the picture as it is shown."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    image = picture()
    rgb = Image.fromarray(image)
    rgb.convert("CMYK").save(source / "cmyk.jpg")
    rgb.convert("P").save(source / "palette.gif")
    rgb.convert("1").save(source / "bits.tif")
    Image.fromarray(np.dstack([image, image[..., 0]])).save(source / "alpha.png")
    cv2.imwrite(str(source / "deep.png"), image[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(source / "deep_grey.tiff"), image[..., 0].astype(np.uint16) * 257)
    exif = rgb.getexif()
    exif[0x0112] = 6  # a camera held upright: to be turned by 90 degrees
    rgb.save(source / "turned.jpg", exif=exif)
    Image.fromarray(image[:1, :1]).save(source / "pixel.png")
    Image.fromarray(image[:1]).save(source / "line.png")
    (source / "empty.jpg").touch()
    rgb.save(source / "cut.png")
    (source / "cut.png").write_bytes((source / "cut.png").read_bytes()[:100])
    assert prediction.predict_files(model, [str(source)], out) == 1
    printed = capsys.readouterr()
    assert "9 of 11 images done" in printed.out
    assert "empty.jpg" in printed.err and "cut.png" in printed.err
    sizes = {path.stem: read(path).shape for path in (out / "ids").iterdir()}
    special = {"turned": (60, 40), "pixel": (1, 1), "line": (1, 60)}
    assert sizes == dict.fromkeys(sizes, (40, 60)) | special and len(sizes) == 9
    # No information is lost on the way: these hold the same picture.
    for name in ("deep", "alpha"):
        np.testing.assert_array_equal(read(out / "ids" / f"{name}.png"), model.predict(image))


@pytest.mark.slow
def test_large_images_are_reduced_for_the_network(network, monkeypatch):
    monkeypatch.setattr(predictor, "MAX_PIXELS", 40 * 60)
    model = predictor.Predictor(*network)
    image = cv2.resize(picture(), (600, 400), interpolation=cv2.INTER_NEAREST)
    label = model.predict(image)
    assert label.shape == (400, 600) and model.logits(image).shape == (400, 600, 10)
    small = cv2.resize(model.predict(picture()), (600, 400), interpolation=cv2.INTER_NEAREST)
    assert (label == small).mean() > 0.9


def test_pictures_that_are_refused(tmp_path):
    """More pixels than memory holds, and pixels without a white."""
    with Image.new("1", (20_000, 20_000)) as giant:
        giant.save(tmp_path / "giant.png")
    with pytest.raises(UserError, match="giant.png: more than 178 million pixels"):
        photos.read_image(tmp_path / "giant.png")
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="float.tif: its pixels are 32-bit numbers"):
        photos.read_image(tmp_path / "float.tif")


def test_video_frames_in_order(model, tmp_path, capsys):
    video = cv2.VideoWriter(
        str(tmp_path / "ride.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (60, 40)
    )
    for brightness in range(0, 250, 50):
        video.write(np.full((40, 60, 3), brightness, np.uint8))
    video.release()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert prediction.predict_files(model, [str(tmp_path)], tmp_path / "out", 2) == 1
    assert "broken.mp4" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "out" / "ids" / "ride").iterdir())
    assert names == [f"{i:06d}.png" for i in range(5)]
    overlay = list(photos.frames(tmp_path / "out" / "overlay" / "ride.mp4"))
    assert len(overlay) == 5 and photos.frames_per_second(tmp_path / "ride.avi") == 10
    brightness = [frame.mean() for frame in overlay]
    assert brightness == sorted(brightness) and brightness[4] > brightness[0] + 50


def test_list_on_the_standard_input(model, tmp_path, monkeypatch, capsys):
    for name in ("a b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), picture())
    lines = f"{tmp_path}/a b.png\n\n{tmp_path}/nothing.png\n{tmp_path}/c.png"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert prediction.predict_files(model, ["-"], tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "2 of 3" in printed.out and "nothing.png: No such file" in printed.err


def test_submission_has_the_providers_ids_under_the_images_names(network, tmp_path):
    model = predictor.Predictor(*network)
    ids = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22], np.uint8)
    table = LabelMap({int(each): i for i, each in enumerate(ids)} | {0: 255})
    model.dataset = dataclasses.replace(model.dataset, label_map=table)
    name = "berlin_000000_000019_leftImg8bit.png"
    cv2.imwrite(str(tmp_path / name), picture()[..., ::-1])
    for where in (tmp_path / "results.zip", tmp_path / "results"):
        wish = prediction.Wish(submission=where)
        assert (
            prediction.predict_files(model, [str(tmp_path / name)], tmp_path / "o", wish=wish) == 0
        )
    expected = ids[model.predict(picture())]
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert archive.namelist() == [name]
        np.testing.assert_array_equal(read(archive.open(name)), expected)
    np.testing.assert_array_equal(read(tmp_path / "results" / name), expected)


@pytest.mark.slow
def test_confidence_scales_and_mirror_images(network, tmp_path):
    config, *rest = network
    config = copy.deepcopy(config)
    config.eval.update(scales=(0.5, 1.0), flip=True)
    model = predictor.Predictor(config, *rest, confidence=True)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), picture()[..., ::-1])
    wish = prediction.Wish(confidence=True)
    assert prediction.predict_files(model, [str(path)], tmp_path / "out", wish=wish) == 0
    logits = model.logits(picture())
    np.testing.assert_array_equal(read(tmp_path / "out" / "ids" / "a.png"), logits.argmax(-1))
    shares = np.exp(logits / 4 - (logits / 4).max(-1, keepdims=True))  # 4 logits were summed
    expected = 255 * shares.max(-1) / shares.sum(-1)
    np.testing.assert_allclose(read(tmp_path / "out" / "confidence" / "a.png"), expected, atol=1)
    plain = predictor.Predictor(*network).logits(picture())
    assert np.abs(plain - logits).max() > 1e-3
    mirrored = model.logits(picture()[:, ::-1])
    np.testing.assert_allclose(mirrored[:, ::-1], logits, atol=1e-3)


def test_boundaries_are_refined_by_a_segfix_network(model, workdir, tmp_path):
    """With random weights: the labels move by the offsets that the network predicts."""
    config = default_config()
    with config.unlocked():
        config.data.name = "toy_street"
        config.model.update(method="segfix", num_classes=10)
    network = segmenter.build(config.model, np.random.default_rng(0))
    params, stats, graphs = segmenter.graphs(network)
    trained = config, {"params": params, "stats": stats}, graphs["eval"], "segfix"
    refiner = predictor.Refiner(*trained)
    offsets = refiner.offsets(picture())
    assert offsets.shape == (40, 60, 2) and 0 < np.abs(offsets).max() <= 1
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), picture()[..., ::-1])
    wish = prediction.Wish(refiner=refiner)
    assert prediction.predict_files(model, [str(path)], tmp_path / "out", wish=wish) == 0
    expected = segfix.refine(model.predict(picture()), offsets, 2)
    np.testing.assert_array_equal(read(tmp_path / "out" / "ids" / "a.png"), expected)
    # Steps in a picture that is reduced for the network are as many of its own pixels.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor, "MAX_PIXELS", 40 * 60)
        reducing = predictor.Refiner(*trained)
    large = cv2.resize(picture(), (300, 200), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(reducing.offsets(large), 5 * offsets.repeat(5, 0).repeat(5, 1))
    with pytest.raises(UserError, match="--boundary-refine"):
        predictor.Predictor(*trained)
    with pytest.raises(UserError, match="no SegFix network"):
        predictor.Refiner.load(workdir)


def test_a_folder_that_cannot_be_written_is_one_message(model, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    with pytest.raises(UserError, match="Cannot write to"):
        prediction.predict_files(model, [str(tmp_path)], tmp_path / "a.png" / "out")

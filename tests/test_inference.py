"""Ways to run a network: checked with small functions in the place of networks."""

from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openseg_jax.errors import UserError
from openseg_jax.evaluation import batches, inference, modes
from openseg_jax.evaluation.ahead import ordered_map
from openseg_jax.evaluation.protocol import Protocol, apply, prepare

DATA = SimpleNamespace(channel_order="rgb", scale=255.0, mean=(0.5, 0.4, 0.2), std=(1, 1, 1))
KERNEL = np.random.default_rng(0).normal(size=(5, 5, 3, 6)).astype(np.float32)


def network(weights, images):
    """One convolution, which sees two pixels around each: `(n, h, w, 6)`."""
    return jax.lax.conv_general_dilated(
        jnp.asarray(images, jnp.float32), KERNEL, (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def pixels(weights, images):
    """Logits from the colour of each pixel alone."""
    return jnp.asarray(images, jnp.float32) @ KERNEL[0, 0]


def images(height, width, n=2, seed=0):
    return np.random.default_rng(seed).random((n, height, width, 3)).astype(np.float32)


def test_windows_cover_the_image_and_end_with_it():
    assert modes.window_starts(1024, 512, 512) == [0, 512]
    assert modes.window_starts(1024, 512, 341) == [0, 341, 512]
    assert modes.window_starts(100, 64, 64) == [0, 36]
    assert modes.window_starts(64, 64, 64) == modes.window_starts(30, 64, 64) == [0]


@pytest.mark.parametrize("smooth", (False, True))
@pytest.mark.parametrize("size", ((53, 70), (16, 90), (9, 11)))
def test_windows_of_a_network_without_context_are_the_whole(size, smooth):
    x = images(*size)
    windowed = modes.over_windows(pixels, (16, 24), (11, 24), smooth)
    np.testing.assert_allclose(windowed(None, x), pixels(None, x), atol=1e-5)


def test_windows_are_averaged_where_they_overlap():
    x = images(20, 30)
    expected, hits = np.zeros((2, 20, 30, 6)), np.zeros((20, 30, 1))
    for top in (0, 8):
        for left in (0, 9, 18):
            at = np.s_[:, top : top + 12, left : left + 12]
            expected[at] += network(None, x[at])
            hits[at[1:]] += 1
    windowed = modes.over_windows(network, (12, 12), (8, 9))
    np.testing.assert_allclose(windowed(None, x), expected / hits, atol=1e-5)
    # Smooth: the middle of a window counts most, so that seams at its edges are weak.
    smooth = modes.over_windows(network, (12, 12), (6, 6), smooth=True)
    plain = modes.over_windows(network, (12, 12), (6, 6))
    whole = network(None, x)
    assert np.abs(smooth(None, x) - whole).mean() < 0.7 * np.abs(plain(None, x) - whole).mean()


def test_mirror_images_and_left_and_right():
    x = images(7, 9)
    mirrored = np.asarray(modes.with_mirror(network)(None, x))
    flipped = np.asarray(network(None, x[:, :, ::-1]))[:, :, ::-1]
    np.testing.assert_allclose(mirrored, network(None, x) + flipped, atol=1e-5)
    swapped = np.asarray(modes.with_mirror(network, ((1, 2), (4, 5)))(None, x))
    expected = network(None, x) + flipped[..., [0, 2, 1, 3, 5, 4]]
    np.testing.assert_allclose(swapped, expected, atol=1e-5)


def test_scales_windows_and_mirror_images_together():
    """`mscrop_test`: windows only at scales from 1 on, logits summed raw."""
    x = images(24, 36)
    protocol = Protocol(
        scales=(0.5, 1.0, 1.25), scale_weights=(1, 2, 3), flip=True, window=(16, 16)
    )
    expected = 0
    for scale, weight in zip(protocol.scales, protocol.scale_weights, strict=True):
        one = network if scale < 1 else modes.over_windows(network, (16, 16), (16, 16))
        one = modes.at_scale(one, scale)
        expected += weight * (one(None, x) + one(None, x[:, :, ::-1])[:, :, ::-1])
    np.testing.assert_allclose(apply(protocol, network)(None, x), expected, rtol=1e-4, atol=1e-4)
    shares = apply(Protocol(scales=(1.0, 2.0), flip=True, combine="probabilities"), network)
    np.testing.assert_allclose(shares(None, x).sum(-1), 4, rtol=1e-5)


def test_padding_is_the_mean_colour_and_is_cut_off():
    protocol = Protocol(fit_stride=8)
    image = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    padded, size = prepare(protocol, image)
    assert padded.shape == (16, 24, 3) and size == (13, 17)
    run = inference.under_protocol(lambda weights, x: x, protocol, DATA)
    seen = np.asarray(run.run({}, padded[None], np.array([size], np.int32), at_size=False))[0]
    np.testing.assert_array_equal(seen[:, :13, :17], image.transpose(2, 0, 1))
    mean = np.array([127.5, 102, 51], np.float32)
    np.testing.assert_allclose(seen[:, 13:], np.broadcast_to(mean[:, None, None], (3, 3, 24)))
    backwards = inference.under_protocol(
        lambda weights, x: x, protocol, SimpleNamespace(**{**vars(DATA), "channel_order": "bgr"})
    )
    seen = np.asarray(backwards.run({}, padded[None], np.array([size], np.int32), at_size=False))
    np.testing.assert_allclose(seen[0, :, 15, 23], mean[::-1])  # images stay RGB


def test_input_sizes():
    image = np.zeros((480, 640, 3), np.uint8)
    assert prepare(Protocol(shorter_side=520), image)[1] == (520, 693)
    assert prepare(Protocol(shorter_side=520, fit_stride=8), image)[0].shape == (520, 696, 3)
    assert prepare(Protocol(size=(473, 473)), image)[1] == (473, 473)
    height, width = prepare(Protocol(max_pixels=10_000), image)[1]
    assert 9_500 < height * width <= 10_000 and width / height == pytest.approx(4 / 3, rel=0.02)


def one_hot(weights, x):
    """Logits by which the class of a pixel is the red value."""
    return jax.nn.one_hot(x[..., 0].astype(jnp.int32), 200)


SIDES = np.random.default_rng(0).integers((17, 33), (49, 81), (50, 2))
PHOTOS = [(k * a, k * b) for k in range(9, 18) for a, b in ((3, 4), (2, 3), (9, 16))]
PHOTOS += [(width, height) for height, width in PHOTOS[:23]]  # held upright


@pytest.mark.parametrize(
    "protocol, sizes",
    [(Protocol(fit_stride=16), SIDES), (Protocol(shorter_side=52, fit_stride=8), PHOTOS)],
)
def test_images_of_many_sizes_each_once_with_few_programs(protocol, sizes):
    """50 images, 6 shapes after padding: 6 programs. Each prediction is that of its image."""
    traced = []

    def counting(weights, x):
        traced.append(x.shape)
        return one_hot(weights, x)

    examples = [
        {"image": np.full((*size, 3), index, np.uint8), "name": index}
        for index, size in enumerate(sizes)
    ]
    shapes = {prepare(protocol, each["image"])[0].shape for each in examples}
    assert len(examples) == 50 and len(shapes) == 6
    assert len({each["image"].shape for each in examples}) > 40
    for batch_size in (0, 4):
        traced.clear()
        run = inference.under_protocol(counting, protocol, DATA)
        seen = []
        for example, ids in batches.predict_all(run, {}, iter(examples), batch_size):
            assert ids.shape == example["image"].shape[:2] and (ids == example["name"]).all()
            seen.append(example["name"])
        assert sorted(seen) == list(range(50)) and len(traced) == len(shapes)


def test_scored_at_the_size_of_the_label():
    """Bicubic resize of the logits, then the best class, as the original does."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    example = {"image": image, "label": np.zeros((33, 47), np.uint8)}
    run = inference.under_protocol(network, Protocol(), DATA, confidence=True)
    [(ids, confidence)] = batches.predict_all(
        run, {}, [example], 1, use=lambda example, ids, confidence: (ids, confidence)
    )
    logits = np.asarray(network(None, image[None]))[0]
    logits = cv2.resize(logits, (47, 33), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(ids, logits.argmax(-1))
    expected = 255 * np.asarray(jax.nn.softmax(logits, -1).max(-1))
    np.testing.assert_allclose(confidence, expected, atol=0.6)


@pytest.mark.parametrize("combine", ("logits", "probabilities"))
def test_confidence_is_that_of_the_mean(combine):
    protocol = Protocol(scales=(1.0, 1.0), flip=True, combine=combine)
    run = inference.under_protocol(
        lambda weights, x: pixels(weights, x) / 300, protocol, DATA, confidence=True
    )
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    at_size = run.run({}, image[None], np.array([[6, 7]], np.int32), at_size=True)
    ids, confidence = run.finish(tuple(each[0] for each in at_size), (6, 7), (6, 7))
    shares = np.asarray(jax.nn.softmax(image.astype(np.float32) @ KERNEL[0, 0] / 300, -1))
    np.testing.assert_array_equal(ids, shares.argmax(-1))
    np.testing.assert_allclose(confidence, 255 * shares.max(-1), atol=0.6)
    logits = np.asarray(run.run({}, image[None], np.array([[6, 7]], np.int32), at_size=False))[0]
    _, by_resize = run.finish(logits, (6, 7), (6, 7))
    np.testing.assert_allclose(by_resize, confidence, atol=1)


def test_a_batch_too_large_for_memory_is_told_and_the_rest_goes_on(monkeypatch):
    run = inference.under_protocol(one_hot, Protocol(), DATA)
    plain = run.run

    def limited(weights, images, sizes, at_size):
        if images.shape[1] > 50:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return plain(weights, images, sizes, at_size)

    monkeypatch.setattr(run, "run", limited)
    examples = [{"image": np.full((side, side, 3), side, np.uint8)} for side in (40, 60, 45)]
    told = []
    done = batches.predict_all(
        run, {}, examples, 1, failed=lambda example, error: told.append(str(error))
    )
    assert sorted(ids.shape for _, ids in done) == [(40, 40), (45, 45)]
    assert len(told) == 1 and "60x60" in told[0] and "max_pixels" in told[0]
    with pytest.raises(UserError, match="not enough memory"):
        list(batches.predict_all(run, {}, examples, 1))


def test_threads_keep_the_order_and_raise_errors():
    assert list(ordered_map(lambda x: x * x, range(100), 3)) == [x * x for x in range(100)]
    results = ordered_map(lambda x: 1 / x, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)

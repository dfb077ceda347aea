"""Ways to run a network at test time: scales, mirror images, windows, and their sums.

Each takes a `forward(weights, images) -> logits` and gives another one, so that they compose:

    with_mirror(at_scale(over_windows(forward, (512, 512), (341, 341)), 1.5))

`images: (n, h, w, c)`, `logits: (n, h, w, k)` of the size of the images. Logits are summed raw,
as `segmentor/tester.py` of the original does; put `probabilities` innermost to sum those instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.models.layers import resize_bilinear

Forward = Callable[[dict, jax.Array], jax.Array]

WINDOWS_AT_ONCE = 4  # of each image


def probabilities(forward: Forward) -> Forward:
    """The softmax of the logits."""
    return lambda weights, images: jax.nn.softmax(forward(weights, images), -1)


def at_scale(forward: Forward, scale: float) -> Forward:
    """Images enlarged by `scale` (sizes rounded down), the logits brought back to their size."""

    def scaled(weights: dict, images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]
        size = max(int(height * scale), 1), max(int(width * scale), 1)
        return resize_bilinear(forward(weights, resize_bilinear(images, size)), (height, width))

    return scaled


def with_mirror(forward: Forward, flip_pairs: Sequence[tuple[int, int]] = ()) -> Forward:
    """The sum of the logits of an image and of its mirror image, mirrored back.

    Args:
        flip_pairs: classes that are each other's mirror image, as left and right arm are.
    """

    def mirrored(weights: dict, images: jax.Array) -> jax.Array:
        n = len(images)
        both = jnp.stack([images, images[:, :, ::-1]], 1)  # neighbours stay on one device
        logits = forward(weights, both.reshape(2 * n, *images.shape[1:]))
        order = np.arange(logits.shape[-1])
        for left, right in flip_pairs:
            order[[left, right]] = right, left
        logits = logits.reshape(n, 2, *logits.shape[1:])
        return logits[:, 0] + logits[:, 1, :, ::-1][..., order]

    return mirrored


def weighted_sum(forwards: Sequence[Forward], factors: Sequence[float]) -> Forward:
    """The sum of several ways to the logits, each times its factor."""

    def summed(weights: dict, images: jax.Array) -> jax.Array:
        return sum(
            factor * forward(weights, images)
            for forward, factor in zip(forwards, factors, strict=True)
        )

    return summed


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin: every `stride`, and a last one flush with the end."""
    return [*range(0, max(size - window, 0), stride), max(size - window, 0)]


def over_windows(
    forward: Forward, window: tuple[int, int], stride: tuple[int, int], smooth: bool = False
) -> Forward:
    """The mean of the logits of all windows that a pixel is in; small images are one window.

    Args:
        window, stride: (height, width).
        smooth: a window counts less towards its edges, where it sees least of what surrounds
            a pixel; else all its pixels count alike.
    """

    def windowed(weights: dict, images: jax.Array) -> jax.Array:
        n, height, width, channels = images.shape
        size = min(window[0], height), min(window[1], width)
        starts = np.array(
            [
                (top, left)
                for top in window_starts(height, size[0], stride[0])
                for left in window_starts(width, size[1], stride[1])
            ]
        )
        importance = _pyramid(size) if smooth else np.ones(size, np.float32)
        sums = np.zeros((height, width), np.float32)
        for top, left in starts:
            sums[top : top + size[0], left : left + size[1]] += importance

        # Several windows make one batch; the last batch repeats a window, which counts as 0.
        steps = -(-len(starts) // WINDOWS_AT_ONCE)
        at_once = -(-len(starts) // steps)
        counts = np.arange(steps * at_once) < len(starts)
        starts = np.resize(starts, (steps * at_once, 2)).reshape(steps, at_once, 2)
        counts = counts.reshape(steps, at_once).astype(np.float32)

        def add(step: int, total: jax.Array) -> jax.Array:
            corners = [jnp.asarray(starts)[step, i] for i in range(at_once)]
            parts = [
                jax.lax.dynamic_slice(images, (0, top, left, 0), (n, *size, channels))
                for top, left in corners
            ]
            batch = jnp.stack(parts, 1).reshape(n * at_once, *size, channels)
            logits = forward(weights, batch) * importance[..., None]
            logits = logits.reshape(n, at_once, *logits.shape[1:])
            for i, (top, left) in enumerate(corners):
                at = (0, top, left, 0)
                old = jax.lax.dynamic_slice(total, at, logits[:, i].shape)
                new = old + logits[:, i] * jnp.asarray(counts)[step, i]
                total = jax.lax.dynamic_update_slice(total, new, at)
            return total

        one = jax.eval_shape(forward, weights, images[:, : size[0], : size[1]])
        total = jnp.zeros((n, height, width, one.shape[-1]), one.dtype)
        return jax.lax.fori_loop(0, steps, add, total) / sums[..., None]

    return windowed


def _pyramid(size: tuple[int, int]) -> np.ndarray:
    """`(h, w)` float32 weights that fall linearly from the middle to the edges, never to zero."""
    rows, columns = (np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) / n for n in size)
    return np.outer(rows, columns).astype(np.float32)

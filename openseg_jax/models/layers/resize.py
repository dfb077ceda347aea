"""Bilinear resizing of feature maps, exact against PyTorch in value and gradient."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def resize_bilinear(
    x: jax.Array, size: tuple[int, int], *, align_corners: bool = True
) -> jax.Array:
    """Bilinear resize of `x: (n, h, w, c)` to `(n, *size, c)`, as torch's `interpolate`.

    No antialiasing, up or down. Gathers two neighbours an axis on CPU and GPU: on CPU, 256 channels
    from 32x64 to 64x128, 0.5 ms where interpolation matrices take 4.6. On TPU it multiplies by
    those, as `jax.image.resize` does everywhere; which is faster there is not measured. The
    gradient is matrix products everywhere (no scatter).
    """
    if tuple(x.shape[1:3]) == tuple(size):
        return x
    return _resize(x, tuple(size), align_corners)


def _positions(n: int, m: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of m output positions: the two source indices and the weight of the second."""
    if align_corners:
        position = np.arange(m) * ((n - 1) / max(m - 1, 1))
    else:
        position = np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1)
    low = np.clip(np.floor(position).astype(int), 0, n - 1)
    return low, np.minimum(low + 1, n - 1), position - low


def _interpolation_matrix(n: int, m: int, align_corners: bool) -> np.ndarray:
    """The same as an `(m, n)` matrix, float64."""
    low, high, weight = _positions(n, m, align_corners)
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m), low), 1 - weight)
    np.add.at(matrix, (np.arange(m), high), weight)
    return matrix


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _resize(x, size, align_corners):
    return jax.lax.platform_dependent(
        x,
        tpu=lambda x: _resize_by_matrices(x, size, align_corners),
        default=lambda x: _resize_by_gathers(x, size, align_corners),
    )


def _resize_forward(x, size, align_corners):
    return _resize(x, size, align_corners), x.shape[1:3]


def _resize_backward(size, align_corners, source_size, gradient):
    rows, columns = (
        jnp.asarray(_interpolation_matrix(n, m, align_corners).T, gradient.dtype)
        for n, m in zip(source_size, size, strict=True)
    )
    n, height, width, channels = gradient.shape
    # Rows first, as a batched product over whole lines of memory: nothing is transposed.
    lines = gradient.reshape(n, height, width * channels)
    lines = _matmul(jnp.broadcast_to(rows, (n, *rows.shape)), lines)
    lines = lines.reshape(n * rows.shape[0], width, channels)
    x = _matmul(jnp.broadcast_to(columns, (len(lines), *columns.shape)), lines)
    return (x.reshape(n, rows.shape[0], columns.shape[0], channels),)


_matmul = partial(jnp.matmul, precision="highest")


_resize.defvjp(_resize_forward, _resize_backward)


def _resize_by_gathers(x, size, align_corners):
    for axis in (2, 1):  # columns first, while the array is small; then whole rows
        low, high, weight = _positions(x.shape[axis], size[axis - 1], align_corners)
        weight = jnp.asarray(weight, x.dtype).reshape((-1,) + (1,) * (3 - axis))
        first, second = jnp.take(x, low, axis), jnp.take(x, high, axis)
        x = first + (second - first) * weight
    return x


def _resize_by_matrices(x, size, align_corners):
    rows, columns = (
        jnp.asarray(_interpolation_matrix(n, m, align_corners), x.dtype)
        for n, m in zip(x.shape[1:3], size, strict=True)
    )
    x = jnp.einsum("ph,nhwc->npwc", rows, x, precision="highest")
    return jnp.einsum("qw,npwc->npqc", columns, x, precision="highest")

"""3x3 convolutions in 4 multiplications for 9: Winograd's F(2x2, 3x3), for XLA:CPU.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), equation 8: a 2x2 tile
of the output is `A^T [(G kernel G^T) * (B^T input B)] A`, with a 4x4 tile of the input. Over all
tiles and channels the 16 multiplications are 16 matrix products. A dilated convolution is the same
on every `dilation`-th row and column. Arrays are `(n, h, w, c)`.

Each transform works on rows and on columns alike, as lists of the 4 (or 2, or 3) arrays that one
direction of a tile has; the 16 arrays of both are `(n, rows, dilation, columns, dilation, c)`, so
that batch and height stay split over the devices that share them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

# Of input times output channels, and of the pixels. Below, there is less to gain than what the 48
# products and their transforms add to the compilation of HRNet, and to the time of small maps.
LEAST_PRODUCT, LEAST_PIXELS = 256 * 256, 1024
# Of the tiles, which have those of the map four times: half a gigabyte forward; backward there are
# those of the input, of the gradient and of their products: 0.9 GB where XLA's takes 0.1.
MOST_VALUES = 2**27
MOST_PADDING = 1.25  # times the map that the tiles may cover

_barrier = jax.lax.optimization_barrier


def is_faster(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: int) -> bool:
    """Whether this is made for such a convolution on a CPU, in float32 or more.

    On 32x64 pixels with the gradients: 512 to 512 channels at dilation 4 76 -> 40 ms, 256 to 256 at
    dilation 2 18.6 -> 11.5.
    """
    n, h, w, _ = x.shape
    covered = _up(h, 2 * dilation) * _up(w, 2 * dilation)
    return (
        kernel.shape[:2] == (3, 3)
        and stride == 1
        and padding == dilation
        and x.dtype in (jnp.float32, jnp.float64)
        and kernel.shape[2] * kernel.shape[3] >= LEAST_PRODUCT
        and n * h * w >= LEAST_PIXELS
        and 4 * n * covered * max(kernel.shape[2:]) <= MOST_VALUES
        and covered <= MOST_PADDING * h * w
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """`x` with `kernel: (3, 3, in, out)`, `dilation` pixels of padding on every side."""
    return _convolve(x, _kernel_tiles(kernel), dilation)


def _forward(x, kernel, dilation):
    return convolve(x, kernel, dilation), (x, kernel)


def _backward(dilation, saved, gradient):
    """The input's gradient is a convolution too; the kernel's has 16 products of its own."""
    x, kernel = saved
    gradient = _barrier(gradient)
    tiles = _kernel_tiles(kernel)
    # Those of the kernel turned by half a circle, whose taps 0, 1, 2 are 2, 1, 0.
    turned = [tiles[4 * row + column].T for row in (3, 1, 2, 0) for column in (3, 1, 2, 0)]
    inputs = _input_tiles(x, dilation)
    outputs = _tiles_of_map(gradient, dilation)
    pairs = zip(_barrier(inputs), _barrier(outputs), strict=True)
    # As matrices: `einsum` over the axes of the tiles takes 1.7 times as long.
    products = [i.reshape(-1, i.shape[-1]).T @ o.reshape(-1, o.shape[-1]) for i, o in pairs]
    return _convolve(gradient, turned, dilation), _kernel_of_tiles(products)


convolve.defvjp(_forward, _backward)


def _convolve(x, kernel_tiles, dilation):
    inputs = _input_tiles(x, dilation)
    products = [tiles @ kernel for tiles, kernel in zip(inputs, kernel_tiles, strict=True)]
    return _map_of_tiles(products)[:, : x.shape[1], : x.shape[2]]


def _input_tiles(x, dilation):
    """`B^T input B`."""
    h, w = x.shape[1:3]
    rows, columns = -(-h // (2 * dilation)), -(-w // (2 * dilation))
    ends = [dilation + 2 * dilation * rows - h, dilation + 2 * dilation * columns - w]
    x = _barrier(jnp.pad(x, ((0, 0), (dilation, ends[0]), (dilation, ends[1]), (0, 0))))

    def transform(x: jax.Array, axis: int) -> list[jax.Array]:
        a, b, c, d = _every_second(x, axis, dilation, 4)
        return [a - c, b + c, c - b, b - d]

    return [tile for row in transform(x, 1) for tile in transform(row, 3)]


def _tiles_of_map(y, dilation):
    """`A y A^T`, the transpose of `_map_of_tiles`."""
    ends = [_up(size, 2 * dilation) - size for size in y.shape[1:3]]
    y = _barrier(jnp.pad(y, ((0, 0), (0, ends[0]), (0, ends[1]), (0, 0))))

    def transform(y: jax.Array, axis: int) -> list[jax.Array]:
        a, b = _every_second(y, axis, dilation, 2)
        return [a, a + b, a - b, -b]

    return [tile for row in transform(y, 1) for tile in transform(row, 3)]


def _every_second(x, axis: int, dilation: int, count: int) -> list[jax.Array]:
    """Blocks of `dilation` rows: the even and the odd ones, then those again two blocks later.

    The axis becomes two: `(blocks / 2, dilation)`.
    """
    blocks = x.shape[axis] // dilation
    x = x.reshape(*x.shape[:axis], blocks, dilation, *x.shape[axis + 1 :])
    last = blocks - count + 1
    return [jax.lax.slice_in_dim(x, i, i + last, 2, axis) for i in range(count)]


def _map_of_tiles(products):
    """`A^T products A`, with the tiles put together."""

    def transform(parts: list) -> list[jax.Array]:
        a, b, c, d = parts
        return [a + b + c, b - c - d]

    n, rows, dilation, columns, _, channels = products[0].shape
    tiles = _barrier(products)
    parts = _both_ways(transform, [tiles[4 * i : 4 * i + 4] for i in range(4)])
    y = jnp.stack([jnp.stack(row, axis=4) for row in parts], axis=2)
    return y.reshape(n, 2 * rows * dilation, 2 * columns * dilation, channels)


def _kernel_tiles(kernel) -> list[jax.Array]:
    """`G kernel G^T`: 16 arrays `(in, out)`."""

    def transform(taps: list) -> list[jax.Array]:
        a, b, c = taps
        return [a, (a + b + c) / 2, (a - b + c) / 2, c]

    tiles = _both_ways(transform, [list(row) for row in kernel])
    return [tile for row in tiles for tile in row]


def _kernel_of_tiles(products) -> jax.Array:
    """`G^T products G`, the transpose of `_kernel_tiles`."""

    def transform(parts: list) -> list[jax.Array]:
        a, b, c, d = parts
        return [a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d]

    parts = _both_ways(transform, [products[4 * i : 4 * i + 4] for i in range(4)])
    return jnp.stack([jnp.stack(row) for row in parts])


def _both_ways(transform: Callable[[list], list], parts: list[list]) -> list[list]:
    """Transforms the columns of a list of rows, then the rows."""
    columns = [transform(list(column)) for column in zip(*parts, strict=True)]
    return [transform(list(row)) for row in zip(*columns, strict=True)]


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple

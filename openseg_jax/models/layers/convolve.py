"""Convolutions as functions, with the formulations that XLA needs on a CPU and on a GPU.

Convolutions take another way on a CPU, a GPU and a TPU, equal but for rounding; those choices live
here (for attention in `attention.py`, for resizing in `resize.py`), the longer ways in
`shifted.py`, `winograd.py` and, of a GPU, in `xla.py`. Which one may depend on the size of the
batch. Gradients are written out where that is faster, so there is no forward-mode differentiation.
Arrays are `(n, h, w, c)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from itertools import accumulate

import jax
import jax.numpy as jnp

from openseg_jax.models.layers import shifted, winograd
from openseg_jax.models.layers.materialize import materialize
from openseg_jax.models.layers.xla import convolve_general, convolve_on_gpu


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, groups: int, padding: int
) -> jax.Array:
    """Convolution of `x: (n, h, w, in)` with `kernel: (k, k, in / groups, out)`."""
    geometry = dict(stride=stride, dilation=dilation, groups=groups, padding=padding)
    if groups == x.shape[-1] == kernel.shape[-1]:
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, kernel: shifted.depthwise(x, kernel, stride, dilation, padding),
            cuda=partial(convolve_on_gpu, **geometry),
            default=partial(convolve_general, **geometry),
        )
    return _convolve_by_platform(x, kernel, (stride, dilation, groups, padding))


def convolve_concatenation(maps: tuple[jax.Array, ...], kernel: jax.Array) -> jax.Array:
    """The 1x1 convolution of maps `(n, h, w, in)` side by side with `kernel: (sum of in, out)`.

    On CPU a product a map: putting them together takes as long as the product on 97x97 pixels.
    """

    def products(kernel, *maps):
        parts = jnp.split(kernel, list(accumulate(x.shape[-1] for x in maps))[:-1])
        return sum(_convolve_pixels(x, part) for x, part in zip(maps, parts, strict=True))

    def product(kernel, *maps):
        return _convolve_pixels(jnp.concatenate(maps, -1), kernel)

    return jax.lax.platform_dependent(kernel, *maps, cpu=products, default=product)


# Below there is little to save, and OCR convolves so few rows that their rounding depends on the
# devices: with it on 768 pixels, trainings on one and on eight were 1.5e-5 apart after ten steps.
MANY_AVERAGES = 1024


def convolve_average(
    average: Callable[[jax.Array], jax.Array], x: jax.Array, kernels: list[jax.Array]
) -> jax.Array:
    """`x: (n, h, w, in)` through 1x1 convolutions, averaged before the last of them.

    On CPU averaged after all of them, whose kernels are multiplied, where there are many averages.
    It saves the last: forward, OCR on 128x128 pixels 92 -> 79 ms, ISA on 128x256 0.73 -> 0.61 s.

    Args:
        average: linear in pixels and the same for each channel.
        kernels: (in, width), (width, width'), ... in the order of the convolutions.
    """

    def after_all(x, *kernels):
        return average(_convolve_pixels(x, reduce(jnp.matmul, kernels).astype(x.dtype)))

    def before_last(x, *kernels):
        *first, last = kernels
        x = average(reduce(_convolve_pixels, (kernel.astype(x.dtype) for kernel in first), x))
        return _convolve_pixels(x, last.astype(x.dtype))

    averages = math.prod(jax.eval_shape(average, x).shape[:-1])
    on_cpu = after_all if averages >= MANY_AVERAGES else before_last
    return jax.lax.platform_dependent(x, *kernels, cpu=on_cpu, default=before_last)


def _convolve_pixels(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The 1x1 convolution of `x: (n, h, w, in)` with `kernel: (in, out)`."""
    return convolve(x, kernel[None, None], stride=1, dilation=1, groups=1, padding=0)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_by_platform(x, kernel, geometry):
    """A convolution, whose gradient chooses once more for the platform.

    Differentiating `platform_dependent` would keep what each of the ways saves.
    """
    return jax.lax.platform_dependent(x, kernel, **_ways(x, kernel, *geometry))


def _by_platform_forward(x, kernel, geometry):
    return _convolve_by_platform(x, kernel, geometry), (x, kernel)


def _by_platform_backward(geometry, saved, gradient):
    def backward(way):
        return lambda x, kernel, gradient: jax.vjp(way, x, kernel)[1](gradient)

    ways = {platform: backward(way) for platform, way in _ways(*saved, *geometry).items()}
    return jax.lax.platform_dependent(*saved, gradient, **ways)


_convolve_by_platform.defvjp(_by_platform_forward, _by_platform_backward)


LEAST_CHANNELS = 256  # below, HRNet would take a quarter longer to compile for 3 % of its step
FEW = 3, 3, 32  # kernel columns, channels in and out, as in MobileNetV2's first convolution
FEW_GROUPS = 4


def _ways(x, kernel, stride, dilation, groups, padding):
    """What computes a convolution on each platform."""
    geometry = dict(stride=stride, dilation=dilation, padding=padding)
    plain, on_gpu = (
        partial(convolution, groups=groups, **geometry)
        for convolution in (convolve_general, convolve_on_gpu)
    )
    if groups > 1:
        in_parts, in_parts_on_gpu = (
            partial(_convolve_by_parts, partial(convolution, groups=1, **geometry), groups=groups)
            for convolution in (convolve_general, convolve_on_gpu)
        )
        if groups > FEW_GROUPS:
            return dict(cpu=in_parts, cuda=on_gpu, default=plain)
        # On many devices XLA gathers a sharded batch for a grouped convolution, and each computes
        # all of it (openxla/xla issue 47945): the few groups of a ResNeSt are split everywhere.
        return dict(cpu=in_parts, cuda=in_parts_on_gpu, default=in_parts)
    if kernel.shape[:2] == (1, 1) and padding == 0:
        return dict(cuda=on_gpu, default=partial(_convolve_pointwise, stride=stride))
    ways, arguments = dict(cuda=on_gpu, default=plain), (stride, dilation, padding)
    if winograd.is_faster(x, kernel, **geometry):
        ways["cpu"] = lambda x, kernel: winograd.convolve(x, kernel, dilation)
    elif x.shape[-1] >= LEAST_CHANNELS:
        ways["cpu"] = lambda x, kernel: _convolve_dense(x, kernel, *arguments)
    elif all(size <= few for size, few in zip(kernel.shape[1:], FEW, strict=True)):
        ways["cpu"] = lambda x, kernel: _convolve_narrow(x, kernel, *arguments)
    return ways


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_dense(x, kernel, stride, dilation, padding):
    """A convolution of all channels, the gradient of whose kernel is matrix products."""
    return convolve_general(x, kernel, stride=stride, dilation=dilation, groups=1, padding=padding)


def _dense_forward(x, kernel, stride, dilation, padding):
    return _convolve_dense(x, kernel, stride, dilation, padding), (x, kernel)


def _dense_backward(stride, dilation, padding, saved, gradient):
    x, kernel = saved
    geometry = dict(stride=stride, dilation=dilation, padding=padding)
    convolution = partial(convolve_general, groups=1, **geometry)
    (x_gradient,) = jax.vjp(lambda x: convolution(x, kernel), x)[1](gradient)
    return x_gradient, _kernel_gradient(x, gradient, size=kernel.shape[0], **geometry)


_convolve_dense.defvjp(_dense_forward, _dense_backward)


def _kernel_gradient(x, gradient, *, size, stride, dilation, padding):
    """The gradient `(k, k, in, out)` of a kernel: a matrix product a tap.

    XLA:CPU's own takes twice as long for 3x3 kernels of 256 channels and more. This takes a
    transposed copy of the input and a padded one of the gradient. A tap meets output row `p` with
    input row `stride * p + offset`: row `p + offset // stride` of one of the `stride` phases of
    the input, each of which is transposed once, where the product would do so for each tap.
    """
    offsets = range(-padding, dilation * size - padding, dilation)
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    x = jnp.pad(
        x, ((0, 0), (0, rows * stride - x.shape[1]), (0, columns * stride - x.shape[2]), (0, 0))
    )
    starts = {offset % stride for offset in offsets}
    phases = {
        (i, j): materialize(x[:, i::stride, j::stride].transpose(3, 0, 1, 2))
        for i in starts
        for j in starts
    }
    before = max(0, offsets[-1] // stride)
    after = [
        max(0, length - offsets[0] // stride - there)
        for length, there in zip((rows, columns), gradient.shape[1:3], strict=True)
    ]
    gradient = jnp.pad(gradient, ((0, 0), (before, after[0]), (before, after[1]), (0, 0)))
    gradient = materialize(gradient)

    def product(down: int, right: int) -> jax.Array:
        top, left = before - down // stride, before - right // stride
        met = gradient[:, top : top + rows, left : left + columns]
        return jnp.einsum("inhw,nhwo->io", phases[down % stride, right % stride], met)

    return jnp.stack([jnp.stack([product(down, right) for right in offsets]) for down in offsets])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_narrow(x, kernel, stride, dilation, padding):
    """A convolution of few channels as shifted multiply-adds: XLA:CPU runs its own on one core.

    With 3 to 32 channels, an image of 256x512 and stride 2, 2.6 -> 1.1 ms on two.
    """
    return shifted.convolve(x, kernel, stride, dilation, padding)


def _narrow_forward(x, kernel, stride, dilation, padding):
    return _convolve_narrow(x, kernel, stride, dilation, padding), (x, kernel)


def _narrow_backward(stride, dilation, padding, saved, gradient):
    geometry = dict(stride=stride, dilation=dilation, padding=padding)
    return jax.vjp(partial(convolve_general, groups=1, **geometry), *saved)[1](gradient)


_convolve_narrow.defvjp(_narrow_forward, _narrow_backward)


DENSE_WIDTH = 32  # input channels below which a dense convolution on CPU is not much cheaper


def _convolve_by_parts(convolution, x, kernel, *, groups):
    """A grouped convolution as dense ones, narrow groups joined to `DENSE_WIDTH` channels.

    For 32 groups of 8 channels 7x faster forward and 200x with the gradients on XLA:CPU.
    """
    joined = math.gcd(groups, max(DENSE_WIDTH // kernel.shape[2], 1))
    parts = zip(*(jnp.split(array, groups // joined, -1) for array in (x, kernel)), strict=True)
    return jnp.concatenate(
        [convolution(part, _block_diagonal(part_kernel, joined)) for part, part_kernel in parts],
        axis=-1,
    )


def _block_diagonal(kernel, groups):
    """The kernel `(k, k, in, out)` of the dense convolution equal to that of `groups` groups."""
    size, _, inputs, out = kernel.shape
    blocks = kernel.reshape(size, size, 1, inputs, groups, out // groups)
    diagonal = jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    return (blocks * diagonal).reshape(size, size, groups * inputs, out)


def _convolve_pointwise(x, kernel, stride):
    """A 1x1 convolution as a matrix product.

    1.5x faster forward and 4x backward on XLA:CPU; strided ones are sliced first, the gradient of
    their kernel is 9x faster so. On a GPU they stay convolutions (`xla.convolve_on_gpu`).
    """
    return _product(x[:, ::stride, ::stride], kernel[0, 0])


@jax.custom_vjp
def _product(x, kernel):
    """`(n, h, w, in) @ (in, out)`."""
    return x @ kernel


def _product_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _product_backward(saved, gradient):
    x, kernel = saved
    gradient = materialize(gradient)
    kernel_gradient = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=_product_of_pixels,
        default=lambda x, gradient: jnp.einsum("nhwi,nhwo->io", x, gradient),
    )
    return gradient @ kernel.T, kernel_gradient


def _product_of_pixels(x, gradient):
    """`(n, h, w, in)`, `(n, h, w, out)` -> `(in, out)`, summed over the pixels.

    XLA:CPU transposes the first factor within the product, so that is the narrower one. Over more
    than one axis it would write out a transposed copy: a step of MobileNetV2 takes 4 % longer.
    """
    x, gradient = (array.reshape(-1, array.shape[-1]) for array in (x, gradient))
    if x.shape[1] <= gradient.shape[1]:
        return x.T @ gradient
    return jax.lax.optimization_barrier(gradient.T @ x).T


_product.defvjp(_product_forward, _product_backward)

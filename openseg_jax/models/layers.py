"""The layers every network here is made of, exact against PyTorch.

Arrays are `(n, h, w, c)`. A layer computes in the dtype of its input: parameters stay float32
and are cast where they are used, so the one cast of the image decides the compute dtype.

XLA:CPU needs other formulations than a GPU or TPU for 1x1, depthwise and strided convolutions;
those choices live in this file (and for resizing in `resize.py`) and give equal results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


# Initialisation. Parameters are born as NumPy arrays from a NumPy generator: the same numbers on
# every device, mesh and JAX version, and no compilation of hundreds of small random programs.


def torch_default(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """PyTorch's default for convolutions: U(-b, b) with b = fan_in^-1/2. `shape` is HWIO."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return (2 * bound) * rng.random(shape, np.float32) - np.float32(bound)


def normal_fan_out(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """N(0, sqrt(2 / (k*k*out))), the original's ResNet and MobileNetV2 initialisation."""
    fan_out = shape[0] * shape[1] * shape[3]
    return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_out))


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All zeros."""
    return np.zeros(shape, np.float32)


class Conv(nnx.Module):
    """A 2-d convolution with PyTorch's symmetric padding: `(n, h, w, in) -> (n, h', w', out)`.

    Args:
        padding: pixels on every side; by default `dilation * (kernel - 1) // 2`.
        initializer: of the kernel; a bias always follows PyTorch's default.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        padding: int | None = None,
        bias: bool = False,
        initializer: Initializer = torch_default,
        rng: np.random.Generator,
    ):
        shape = (kernel, kernel, in_features // groups, out_features)
        self.kernel = nnx.Param(initializer(rng, shape))
        fan_in = math.prod(shape[:-1])
        self.bias = nnx.Param(torch_default(rng, (fan_in, out_features))[0]) if bias else None
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = dilation * (kernel - 1) // 2 if padding is None else padding

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x.dtype)
        y = convolve(x, kernel, self.stride, self.dilation, self.groups, self.padding)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, groups: int, padding: int
) -> jax.Array:
    """Convolution of `x: (n, h, w, in)` with `kernel: (k, k, in / groups, out)`."""
    if kernel.shape[:2] == (1, 1) and groups == 1 and padding == 0:
        # As a matrix product: 1.5x faster forward and 4x backward on XLA:CPU; strided ones are
        # sliced first, their weight gradient is 9x faster so.
        return _convolve_pointwise(x[:, ::stride, ::stride], kernel[0, 0])
    general = partial(
        _convolve_general, stride=stride, dilation=dilation, groups=groups, padding=padding
    )
    if groups == x.shape[-1] == kernel.shape[-1]:
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, kernel: _convolve_depthwise(x, kernel, stride, dilation, padding),
            default=general,
        )
    return general(x, kernel)


def _convolve_general(x, kernel, *, stride, dilation, groups, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _materialize(x: jax.Array) -> jax.Array:
    """On CPU, keeps XLA from computing what leads to `x` anew in each of its users."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def _convolve_pointwise(x, kernel):
    """`(n, h, w, in) @ (in, out)`: a 1x1 convolution as a matrix product."""
    return x @ kernel


def _pointwise_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _pointwise_backward(saved, gradient):
    x, kernel = saved
    gradient = _materialize(gradient)
    return gradient @ kernel.T, jnp.einsum("nhwi,nhwo->io", x, gradient)


_convolve_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_depthwise(x, kernel, stride, dilation, padding):
    """A depthwise convolution as shifted multiply-adds: 16-20x faster on XLA:CPU."""
    taps = _depthwise_taps(x, kernel.shape[0], stride, dilation, padding)
    weights = kernel.reshape(-1, kernel.shape[-1])
    y = sum(tap * weight for tap, weight in zip(taps, weights, strict=True))
    return jax.lax.optimization_barrier(y)


def _depthwise_taps(x, size, stride, dilation, padding) -> list[jax.Array]:
    """The shifted, strided views of the padded input, one for each kernel position."""
    reach = dilation * (size - 1)
    out_h, out_w = ((s + 2 * padding - reach - 1) // stride + 1 for s in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    x = jax.lax.optimization_barrier(x)
    return [
        x[:, top : top + (out_h - 1) * stride + 1 : stride][
            :, :, left : left + (out_w - 1) * stride + 1 : stride
        ]
        for top in range(0, reach + 1, dilation)
        for left in range(0, reach + 1, dilation)
    ]


def _depthwise_forward(x, kernel, stride, dilation, padding):
    return _convolve_depthwise(x, kernel, stride, dilation, padding), (x, kernel)


def _depthwise_backward(stride, dilation, padding, saved, gradient):
    x, kernel = saved
    gradient = jax.lax.optimization_barrier(gradient)
    x_gradient = _depthwise_input_gradient(x.shape, kernel, stride, dilation, padding, gradient)
    # All taps are reduced in one pass over the rows, 4x faster than nine reductions.
    taps = _depthwise_taps(x, kernel.shape[0], stride, dilation, padding)
    row_sums = jax.lax.reduce(
        [tap * gradient for tap in taps],
        [jnp.zeros((), gradient.dtype)] * len(taps),
        lambda a, b: [p + q for p, q in zip(a, b, strict=True)],
        (1,),
    )
    kernel_gradient = jnp.stack([total.sum((0, 1)) for total in row_sums])
    return jax.lax.optimization_barrier(x_gradient), kernel_gradient.reshape(kernel.shape)


def _depthwise_input_gradient(shape, kernel, stride, dilation, padding, gradient):
    """Row `stride * m + phase` of the input met output row `m + shift` at tap `t` where
    `stride * shift = phase + padding - dilation * t`: each phase is a sum of shifted gradients.
    """
    rows, columns = (-(-size // stride) for size in shape[1:3])
    offsets = [
        [phase + padding - dilation * tap for tap in range(kernel.shape[0])]
        for phase in range(stride)
    ]
    matches = [
        [(tap, offset // stride) for tap, offset in enumerate(row) if offset % stride == 0]
        for row in offsets
    ]
    shifts = [shift for row in matches for _, shift in row]
    before = max(0, -min(shifts))
    after = [
        max(0, max(shifts) + wanted - size)
        for wanted, size in zip((rows, columns), gradient.shape[1:3], strict=True)
    ]
    padded = jnp.pad(gradient, ((0, 0), (before, after[0]), (before, after[1]), (0, 0)))
    padded = jax.lax.optimization_barrier(padded)

    def phase_sum(row_matches, column_matches) -> jax.Array:
        return sum(
            padded[:, before + down : before + down + rows][
                :, :, before + right : before + right + columns
            ]
            * kernel[i, j, 0]
            for i, down in row_matches
            for j, right in column_matches
        )

    phases = [[phase_sum(row, column) for column in matches] for row in matches]
    woven = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    woven = woven.reshape(shape[0], rows * stride, columns * stride, shape[3])
    return woven[:, : shape[1], : shape[2]]


_convolve_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, exactly as PyTorch's.

    The biased variance normalises, the unbiased one enters the running average, momentum is
    0.1 (PyTorch's sense), eps 1e-5. Statistics are at least float32 whatever the compute
    dtype. Under `jit` with a sharded batch they are those of the global batch, one all-reduce.

    `norm="inplace_abn"` scales by |weight| + eps, as the activated batch norm behind the
    published checkpoints does. `nnx.view(model, use_running_average=True)` is evaluation.
    """

    def __init__(
        self, features: int, *, norm: str = "bn", momentum: float = 0.1, eps: float = 1e-5
    ):
        self.scale = nnx.Param(np.ones(features, np.float32))
        self.bias = nnx.Param(np.zeros(features, np.float32))
        self.mean = nnx.BatchStat(np.zeros(features, np.float32))
        self.var = nnx.BatchStat(np.ones(features, np.float32))
        self.absolute_scale = norm == "inplace_abn"
        self.momentum, self.eps = momentum, eps
        self.use_running_average = False

    def set_view(self, use_running_average: bool | None = None):
        """Lets `nnx.view` switch between batch and running statistics."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.scale[...]
        if self.absolute_scale:
            scale = jnp.abs(scale) + self.eps
        if self.use_running_average:
            scale = scale * jax.lax.rsqrt(self.var[...] + self.eps)
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            return ((wide - self.mean[...]) * scale + self.bias[...]).astype(x.dtype)
        count, offset, shift = x.size // x.shape[-1], 0.0, self.mean[...]
        if count < FEW_SAMPLES:
            offset = jax.lax.stop_gradient(x.astype(shift.dtype).mean((0, 1, 2)))
            shift = jnp.zeros_like(shift)
        y, mean, var = _normalize(x - offset, scale, self.bias[...], shift, self.eps)
        mean, y = mean + offset, y.astype(x.dtype)
        self._update(self.mean, mean)
        self._update(self.var, var * (count / max(count - 1, 1)))
        return y

    def _update(self, running: nnx.BatchStat, new: jax.Array) -> None:
        new = jax.lax.stop_gradient(new)
        running[...] = (1 - self.momentum) * running[...] + self.momentum * new


# Maps with fewer samples are centred first (their normalisation does not change by that): object
# representations, nearly equal at the start of training, have a variance far below their mean,
# of which one pass over the values would leave little but rounding errors.
FEW_SAMPLES = 4096


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalize(x, scale, bias, shift, eps):
    """`x: (n, h, w, c)` normalised by its own statistics; also its mean and biased variance.

    The gradient is written out because it needs two reductions and one pass, where automatic
    differentiation makes several: a whole MobileNetV2 step on CPU takes 0.8 of the time.
    Shifting by the running mean makes the one-pass variance safe from cancellation.
    """
    return _normalize_forward(x, scale, bias, shift, eps)[0]


def _normalize_forward(x, scale, bias, shift, eps):
    count = x.size // x.shape[-1]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    shifted = wide - shift
    first = shifted.sum((0, 1, 2)) / count
    second = (shifted * shifted).sum((0, 1, 2)) / count
    mean, var = first + shift, jnp.maximum(second - first * first, 0)
    inverse = jax.lax.rsqrt(var + eps)
    slope = inverse * scale
    y = wide * slope + (bias - mean * slope)
    return (y.astype(x.dtype), mean, var), (x, mean, inverse, scale)


def _normalize_backward(eps, saved, gradients):
    x, mean, inverse, scale = saved
    gradient = _materialize(gradients[0])  # those of the statistics are zero: they only go on
    count = x.size // x.shape[-1]
    wide_x, wide = x.astype(mean.dtype), gradient.astype(mean.dtype)
    bias_gradient = wide.sum((0, 1, 2))
    scale_gradient = ((wide * wide_x).sum((0, 1, 2)) - mean * bias_gradient) * inverse
    slope = scale * inverse
    tilt = -slope * inverse * scale_gradient / count
    x_gradient = wide * slope + wide_x * tilt - (mean * tilt + slope * bias_gradient / count)
    return x_gradient.astype(x.dtype), scale_gradient, bias_gradient, jnp.zeros_like(mean)


_normalize.defvjp(_normalize_forward, _normalize_backward)


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with a zero gradient at zero."""
    return jax.nn.relu(x)


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6)."""
    return jnp.clip(x, 0, 6)


def head_activation(x: jax.Array, norm: str) -> jax.Array:
    """What follows a batch norm outside the ResNets: ReLU, or the activated norm's leaky one."""
    return jnp.where(x >= 0, x, 0.01 * x) if norm == "inplace_abn" else relu(x)


class ConvNormAct(nnx.Module):
    """Convolution, batch norm, activation: the block that heads are built of."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: int = 1,
        *,
        dilation: int = 1,
        bias: bool = True,
        norm: str = "bn",
        rng: np.random.Generator,
    ):
        self.conv = Conv(in_features, out_features, kernel, dilation=dilation, bias=bias, rng=rng)
        self.bn = BatchNorm(out_features, norm=norm)
        self.norm = norm

    def __call__(self, x: jax.Array) -> jax.Array:
        return head_activation(self.bn(self.conv(x)), self.norm)


class Sequential(nnx.List):
    """Modules and functions applied in order; the paths of the parameters stay `name.0.…`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self:
            x = layer(x)
        return x


def dropout2d(rate: float) -> nnx.Dropout:
    """Drops whole channels, as PyTorch's Dropout2d; called as `dropout(x, rngs=rngs)`."""
    return nnx.Dropout(rate, broadcast_dims=(1, 2))

"""The layers every network here is made of, exact against PyTorch.

Arrays are `(n, h, w, c)`. A layer computes in the dtype of its input: parameters stay float32
and are cast where they are used, so the one cast of the image decides the compute dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from openseg_jax.errors import UserError
from openseg_jax.models import convolve
from openseg_jax.models.convolve import materialize

Rng = np.random.Generator | None
Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


# Initialisation. Parameters are born as NumPy arrays from a NumPy generator: the same numbers on
# every device, mesh and JAX version, and no compilation of hundreds of small random programs.


def torch_default(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """PyTorch's default for convolutions: U(-b, b) with b = fan_in^-1/2. `shape` is HWIO."""
    return _uniform(rng, shape, 1 / math.sqrt(math.prod(shape[:-1])))


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> np.ndarray:
    return np.float32(2 * bound) * rng.random(shape, np.float32) - np.float32(bound)


def normal_fan_out(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """N(0, sqrt(2 / (k*k*out))): the original's ResNets and MobileNetV2."""
    fan_out = shape[0] * shape[1] * shape[3]
    return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_out))


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All zeros."""
    return np.zeros(shape, np.float32)


def parameter(initializer: Initializer, rng: Rng, shape: tuple[int, ...]) -> nnx.Param:
    """A new parameter; without `rng` a NaN that fills `shape` without taking memory.

    A network that will be filled from a checkpoint is built without `rng`.
    """
    if rng is None:
        return nnx.Param(np.broadcast_to(np.float32(np.nan), shape))
    return nnx.Param(initializer(rng, shape))


class Conv(nnx.Module):
    """A 2-d convolution with PyTorch's symmetric padding: `(n, h, w, in) -> (n, h', w', out)`.

    Args:
        padding: pixels on every side; by default `dilation * (kernel - 1) // 2`.
        initializer: of the kernel. A bias follows PyTorch's default, or is zero with `zeros`.
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
        rng: Rng,
    ):
        shape = (kernel, kernel, in_features // groups, out_features)
        bound = 0 if initializer is zeros else 1 / math.sqrt(math.prod(shape[:-1]))
        self.kernel = parameter(initializer, rng, shape)
        self.bias = (
            parameter(partial(_uniform, bound=bound), rng, (out_features,)) if bias else None
        )
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = dilation * (kernel - 1) // 2 if padding is None else padding

    def __call__(self, x: jax.Array, *beside: jax.Array) -> jax.Array:
        """Of `x` with the channels of the maps `beside` it, if there are any, after its own."""
        y = self.without_bias(x, *beside)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

    def without_bias(self, x: jax.Array, *beside: jax.Array) -> jax.Array:
        """The same for a batch norm, which is told the bias."""
        kernel = self.kernel[...].astype(x.dtype)
        geometry = self.stride, self.dilation, self.groups, self.padding
        if beside and kernel.shape[:2] == (1, 1) and geometry == (1, self.dilation, 1, 0):
            return convolve.convolve_concatenation((x, *beside), kernel[0, 0])
        x = jnp.concatenate([x, *beside], axis=-1) if beside else x
        return convolve.convolve(x, kernel, *geometry)


# Maps with fewer samples are centred first (their normalisation does not change by that): object
# representations, nearly equal at the start of training, have a variance far below their mean, of
# which one pass over the values would leave little but rounding errors.
FEW_SAMPLES = 1024


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, exactly as PyTorch's.

    The biased variance normalises, the unbiased one enters the running average, momentum is
    0.1 (PyTorch's sense), eps 1e-5. Statistics are at least float32 whatever the compute
    dtype. Under `jit` with a sharded batch they are those of the global batch, one all-reduce.
    Of `FEW_SAMPLES` and more they are taken in one pass, about the running mean: until that has
    come near (30 steps from zero), channels whose mean is above 30 standard deviations are less
    precise than PyTorch's.

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

    def __call__(
        self, x: jax.Array, constant: jax.Array | None = None, *, centred: bool = False
    ) -> jax.Array:
        """Normalises `x + constant`, a value a channel that `x` is better calculated without.

        In training only the running mean depends on the constant, whose gradient is zero.

        Args:
            centred: whether the means of `x` are near zero, wherever those of `x + constant` are.
        """
        count = x.size // x.shape[-1]
        constant = 0.0 if constant is None else constant
        scale = self.scale[...]
        if self.absolute_scale:
            scale = jnp.abs(scale) + self.eps
        if self.use_running_average:
            scale = scale * jax.lax.rsqrt(self.var[...] + self.eps)
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            shifted = wide - (self.mean[...] - constant)
            return (shifted * scale + self.bias[...]).astype(x.dtype)
        offset, shift = 0.0, self.mean[...] - constant
        if count < 2:
            raise UserError(
                f"Batch norm has {count} value a channel to take a variance of (maps {x.shape}). "
                "Train with more images a batch or larger crops."
            )
        if centred or count < FEW_SAMPLES:
            shift = jnp.zeros_like(shift)
        if count < FEW_SAMPLES:
            offset = jax.lax.stop_gradient(_sum(x.astype(shift.dtype)) / count)
        y, mean, var = _normalize_once(x - offset, scale, self.bias[...], shift, self.eps)
        mean, y = mean + offset + constant, y.astype(x.dtype)
        self._update(self.mean, mean)
        self._update(self.var, var * (count / (count - 1)))
        return y

    def _update(self, running: nnx.BatchStat, new: jax.Array) -> None:
        new = jax.lax.stop_gradient(new)
        # Not `running[...] = `, which makes tracing quadratic in the number of layers.
        running.set_value((1 - self.momentum) * running[...] + self.momentum * new)


def _sum(x: jax.Array) -> jax.Array:
    """Sums over all axes but the last, image by image and then over the batch.

    In that order any number of devices gets the same bits. A last bit that differs flips ReLUs
    near zero, and in a deep network at its random start that alone moves gradients by 1e-3.
    """
    return materialize(x.sum((1, 2))).sum(0)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalize(x, scale, bias, shift, eps):
    """`x: (n, h, w, c)` normalised by its own statistics; also its mean and biased variance.

    The gradient is written out because it needs two reductions and one pass, where automatic
    differentiation makes several: a whole MobileNetV2 step on CPU takes 0.8 of the time.
    The nearer `shift` is to the mean, the less cancels in the variance.
    """
    return _normalize_forward(x, scale, bias, shift, eps)[0]


def _normalize_forward(x, scale, bias, shift, eps):
    count = x.size // x.shape[-1]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = _sum(wide) / count
    var = jnp.maximum(_sum(jnp.square(wide - shift)) / count - jnp.square(mean - shift), 0)
    inverse = jax.lax.rsqrt(var + eps)
    slope = inverse * scale
    y = wide * slope + (bias - mean * slope)
    return (y.astype(x.dtype), mean, var), (x, mean, inverse, scale)


def _normalize_backward(eps, saved, gradients):
    """`x - mean` appears in the sum for the scale alone: twice, and XLA:CPU would store it."""
    x, mean, inverse, scale = saved
    gradient = materialize(gradients[0])  # those of mean and var are zero: they only run on
    count = x.size // x.shape[-1]
    wide_x, wide = x.astype(mean.dtype), gradient.astype(mean.dtype)
    bias_gradient = wide.sum((0, 1, 2))
    scale_gradient = (wide * (wide_x - mean)).sum((0, 1, 2)) * inverse
    slope = scale * inverse
    tilt = -slope * inverse * scale_gradient / count
    x_gradient = wide * slope + (wide_x * tilt - (mean * tilt + slope * bias_gradient / count))
    return x_gradient.astype(x.dtype), scale_gradient, bias_gradient, jnp.zeros_like(mean)


_normalize.defvjp(_normalize_forward, _normalize_backward)
# Traced and lowered once a shape instead of once a layer: on CPU the training step of HRNet-W48
# with OCR is ready after 23 s instead of 32 s, from a filled cache after 20 s instead of 31 s.
_normalize_once = jax.jit(_normalize, static_argnums=4)


def _differentiated_by_output(gradient_of_input: Callable) -> Callable:
    """Gives an activation the gradient `gradient_of_input(output, gradient)`.

    So its input need not be kept: a sixth of what a step of ResNet-101 keeps on a CPU.
    """

    def decorate(activation: Callable) -> Callable:
        function = jax.custom_vjp(activation)

        def forward(x):
            y = activation(x)
            return y, y

        function.defvjp(forward, lambda y, gradient: (gradient_of_input(y, gradient),))
        return jax.jit(function)

    return decorate


@_differentiated_by_output(lambda y, gradient: jnp.where(y > 0, gradient, 0))
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with a zero gradient at zero."""
    return jnp.maximum(x, 0)


@_differentiated_by_output(lambda y, gradient: jnp.where((y > 0) & (y < 6), gradient, 0))
def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6), with a zero gradient at both ends."""
    return jnp.clip(x, 0, 6)


@_differentiated_by_output(lambda y, gradient: jnp.where(y >= 0, gradient, 0.01 * gradient))
def leaky_relu(x: jax.Array) -> jax.Array:
    """x where x >= 0, else 0.01 x: what the activated batch norm applies."""
    return jnp.where(x >= 0, x, 0.01 * x)


class NormAct(nnx.Module):
    """Batch norm and the activation after it: the original's "BNReLU".

    ReLU with `norm="bn"`, a leaky ReLU with `norm="inplace_abn"`.
    """

    def __init__(self, features: int, *, norm: str = "bn"):
        self.bn = BatchNorm(features, norm=norm)
        self.norm = norm

    def __call__(
        self, x: jax.Array, constant: jax.Array | None = None, *, centred: bool = False
    ) -> jax.Array:
        """Of `x + constant`; see `BatchNorm`."""
        activation = leaky_relu if self.norm == "inplace_abn" else relu
        return activation(self.bn(x, constant, centred=centred))


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
        rng: Rng,
    ):
        self.conv = Conv(in_features, out_features, kernel, dilation=dilation, bias=bias, rng=rng)
        self.norm_act = NormAct(out_features, norm=norm)

    def __call__(self, x: jax.Array, *beside: jax.Array) -> jax.Array:
        """As `Conv`, which takes several maps as one."""
        return self._norm_act(self.conv.without_bias(x, *beside))

    def _norm_act(self, y: jax.Array) -> jax.Array:
        """Of the convolution before its bias, which the norm would take away again.

        So no map is written with it: OCR's module on 128x128 pixels, with the gradients, 515 -> 475
        ms, together with the mean of `_normalize` that is not about `shift`.
        """
        bias = self.conv.bias
        return self.norm_act(y, None if bias is None else bias[...])

    def of_average(
        self, average: Callable[[jax.Array], jax.Array], x: jax.Array, *before: Conv
    ) -> jax.Array:
        """`self(average(before(x)))` with 1x1 convolutions, those before without a bias.

        Args:
            average: of pixels, with the same weights for each channel.
            x: `(n, h, w, in)`.
        """
        convolutions = *before, self.conv
        kernels = [convolution.kernel[...][0, 0] for convolution in convolutions]
        return self._norm_act(convolve.convolve_average(average, x, kernels))


class Sequential(nnx.List):
    """Modules and functions applied in order; the paths of the parameters stay `name.0.…`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self:
            x = layer(x)
        return x


def dropout2d(rate: float) -> nnx.Dropout:
    """Drops whole channels, as PyTorch's Dropout2d; called as `dropout(x, rngs=rngs)`."""
    return nnx.Dropout(rate, broadcast_dims=(1, 2))


def call(module: nnx.Module, *inputs, remat: bool):
    """`module(*inputs)`; with `remat` what is inside is computed again in the backward pass."""
    if not remat:
        return module(*inputs)
    return nnx.remat(lambda module, *inputs: module(*inputs))(module, *inputs)

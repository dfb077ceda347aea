"""Batch normalisation, exact against PyTorch, with a gradient that is written out.

Arrays are `(n, h, w, c)`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from openseg_jax.errors import UserError
from openseg_jax.models.layers.materialize import materialize

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

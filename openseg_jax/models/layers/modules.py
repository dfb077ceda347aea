"""Convolutions with their weights, and what they are joined to: exact against PyTorch.

Arrays are `(n, h, w, c)`. A layer computes in the dtype of its input: parameters stay float32
and are cast where they are used, so the one cast of the image decides the compute dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from openseg_jax.models.layers import convolve
from openseg_jax.models.layers.activations import leaky_relu, relu
from openseg_jax.models.layers.batch_norm import BatchNorm
from openseg_jax.models.layers.parameters import (
    Initializer,
    Rng,
    parameter,
    torch_default,
    uniform,
    zeros,
)


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
        self.bias = parameter(partial(uniform, bound=bound), rng, (out_features,)) if bias else None
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

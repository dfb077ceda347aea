"""The layers every network here is made of, exact against PyTorch.

What XLA compiles well differs between CPU, GPU and TPU: a layer with several formulations picks
one by `jax.lax.platform_dependent`. That happens in this package only, and beside it stands the
measurement that speaks for it; networks just name what is computed. Arrays are `(n, h, w, c)`.
"""

from openseg_jax.models.layers.activations import leaky_relu, relu, relu6, residual_relu
from openseg_jax.models.layers.attention import (
    at_least_float32,
    attend_in_groups,
    self_attention,
)
from openseg_jax.models.layers.batch_norm import BatchNorm
from openseg_jax.models.layers.modules import (
    Conv,
    ConvNormAct,
    NormAct,
    Sequential,
    call,
    dropout2d,
)
from openseg_jax.models.layers.parameters import Rng, normal_fan_out, zeros
from openseg_jax.models.layers.pool import average_pool, max_pool
from openseg_jax.models.layers.resize import resize_bilinear

__all__ = [
    "BatchNorm",
    "Conv",
    "ConvNormAct",
    "NormAct",
    "Rng",
    "Sequential",
    "at_least_float32",
    "attend_in_groups",
    "average_pool",
    "call",
    "dropout2d",
    "leaky_relu",
    "max_pool",
    "normal_fan_out",
    "relu",
    "relu6",
    "residual_relu",
    "resize_bilinear",
    "self_attention",
    "zeros",
]

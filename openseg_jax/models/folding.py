"""Batch norms folded into the convolutions before them, for evaluation."""

from __future__ import annotations

import jax
from flax import nnx

from openseg_jax.models import resnest, wide_resnet
from openseg_jax.models.layers import BatchNorm, Conv, ConvNormAct, NormAct

# A norm and the convolution whose result it alone reads, where they are not neighbours in a list.
NUMBERED = {f"bn{number}": f"conv{number}" for number in (1, 2, 3)}
READS = {
    ConvNormAct: {"norm_act": "conv"},
    resnest.SplitAttention: {"bn0": "conv", "bn1": "fc1"},
    wide_resnet.Convolutions: {"bn2": "conv1", "bn3": "conv2"},
    wide_resnet.Block: {},  # its norm comes first
}


def fold_batch_norm(graph: nnx.GraphDef, params: dict, stats: dict):
    """Removes every batch norm that follows a convolution: equal results, less work.

    With slope a = scale / sqrt(var + eps), norm(K x + b) = (a K) x + a (b - mean) + bias: the
    convolution takes it over. Norms that read a sum (Wide-ResNet's) stay.

    Args:
        graph: the "eval" graph of `segmenter.graphs`, whose `params` and `stats` these are, in
            arrays of NumPy or JAX, or traced.

    Returns:
        graph, params and stats of the network without them.
    """
    network = nnx.merge(graph, params, stats)
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, nnx.List):
            for index in range(1, len(module)):
                if _fold(module[index - 1], module[index]):
                    module[index] = Identity()
            continue
        for norm, convolution in READS.get(type(module), NUMBERED).items():
            if _fold(getattr(module, convolution, None), getattr(module, norm, None)):
                setattr(module, norm, Identity())
    graph, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


class Identity(nnx.Module):
    """What stands where a batch norm with running statistics was."""

    use_running_average = True

    def __call__(
        self, x: jax.Array, constant: jax.Array | None = None, *, centred: bool = False
    ) -> jax.Array:
        return x if constant is None else x + constant.astype(x.dtype)


def _fold(convolution, norm) -> bool:
    """Lets `convolution` do the work of `norm`; whether `norm` is to be removed."""
    if isinstance(convolution, nnx.List):  # a stem whose last convolution has its norm outside
        convolution = convolution[-1]
    if isinstance(norm, NormAct):
        if _fold(convolution, norm.bn):
            norm.bn = Identity()
        return False  # the activation stays
    if not (isinstance(convolution, Conv) and isinstance(norm, BatchNorm)):
        return False
    kernel, scale, offset, mean, var = (
        each.get_value()
        for each in (convolution.kernel, norm.scale, norm.bias, norm.mean, norm.var)
    )
    scale = abs(scale) + norm.eps if norm.absolute_scale else scale
    slope = scale / (var + norm.eps) ** 0.5
    bias = 0 if convolution.bias is None else convolution.bias.get_value()
    convolution.kernel.set_value((kernel * slope).astype(kernel.dtype))
    convolution.bias = nnx.data(nnx.Param(((bias - mean) * slope + offset).astype(kernel.dtype)))
    return True

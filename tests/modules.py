"""Modules of networks alone: random inputs, and their results."""

import numpy as np
from flax import nnx

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@nnx.jit
def call(module, *inputs):
    return module(*inputs)


def evaluate(module, *inputs):
    """The module's result in evaluation."""
    view = nnx.view(module, deterministic=True, use_running_average=True, raise_if_not_found=False)
    return call(view, *inputs)

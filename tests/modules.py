"""Modules of networks alone: random inputs, their results, and what those should be."""

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


def close(ours, reference, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(ours), reference, rtol=0, atol=tolerance)


def softmax(scores, axis):
    weights = np.exp(scores - scores.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def attention(query, key, value, allowed=True):
    """softmax(Q K^T / sqrt(d)) V in float64; (n, p, d), (n, m, d), (n, m, v)."""
    scores = np.float64(query) @ np.swapaxes(np.float64(key), 1, 2) / np.sqrt(query.shape[-1])
    return softmax(np.where(allowed, scores, -np.inf), -1) @ value

"""New parameters.

They are born as NumPy arrays from a NumPy generator: the same numbers on every device, mesh and JAX
version, and no compilation of hundreds of small random programs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from flax import nnx

Rng = np.random.Generator | None
Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def torch_default(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """PyTorch's default for convolutions: U(-b, b) with b = fan_in^-1/2. `shape` is HWIO."""
    return uniform(rng, shape, 1 / math.sqrt(math.prod(shape[:-1])))


def uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> np.ndarray:
    """U(-bound, bound)."""
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

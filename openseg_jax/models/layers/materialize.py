"""What XLA is to keep in memory instead of computing it again."""

from __future__ import annotations

from typing import Literal

import jax


def materialize(x: jax.Array, on: Literal["cpu", "cuda"] = "cpu") -> jax.Array:
    """On one platform, keeps XLA from computing what leads to `x` anew in each of its users.

    On CPU a training step of FCN-ResNet-101 on 256x512 pixels takes 3.32 instead of 3.38 s with
    it; one of MobileNetV2 as long.
    """
    return jax.lax.platform_dependent(x, **{on: jax.lax.optimization_barrier}, default=lambda x: x)

"""SegFix (Yuan et al., ECCV 2020): where the boundaries are, and which way leads inside.

The head that is trained; what moves a segmentation along the directions is elsewhere. Original
module: `nets/segfix.py`.
"""

from __future__ import annotations

import jax
from flax import nnx

from openseg_jax.models.fcn import ConvClassifier
from openseg_jax.models.layers import Rng


class SegFixHead(nnx.Module):
    """Feature maps -> (mask, direction) logits `(n, h, w, 2)` and `(n, h, w, directions)`.

    Both stay at the resolution of the last feature map, which is all that is read.

    Args:
        num_classes: not used: boundaries have no class. It is there for equal signatures.
        directions: into how many the full circle is divided.
    """

    resize_outputs = False

    def __init__(
        self,
        widths: tuple[int, ...],
        num_classes: int | None = None,
        *,
        channels: int = 256,
        directions: int = 8,
        norm: str = "bn",
        rng: Rng,
    ):
        def branch(outputs: int) -> ConvClassifier:
            return ConvClassifier(
                widths[-1],
                channels,
                outputs,
                kernel=1,
                bias=False,
                classifier_bias=False,
                norm=norm,
                rng=rng,
            )

        self.mask, self.direction = branch(2), branch(directions)

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        return self.mask(features[-1], rngs), self.direction(features[-1], rngs)

"""Fully convolutional networks (Long, Shelhamer and Darrell, CVPR 2015): the plain head.

Its block, a 3x3 convolution and a classifier, is also the auxiliary head of every other method.
Original modules: `nets/fcnet.py`, `nets/hrnet.py`.
"""

from __future__ import annotations

import jax
from flax import nnx

from openseg_jax.models.layers import Conv, ConvNormAct, Rng, dropout2d


class ConvClassifier(nnx.Module):
    """Convolution, norm, activation, dropout, 1x1 classifier: `(n, h, w, in)` -> logits.

    Args:
        channels: between the two convolutions; None: as many as come in.
        bias, classifier_bias: of the first and of the last convolution.
    """

    def __init__(
        self,
        in_features: int,
        channels: int | None,
        num_classes: int,
        *,
        kernel: int = 3,
        bias: bool = True,
        classifier_bias: bool = True,
        dropout: float = 0.0,
        norm: str = "bn",
        rng: Rng,
    ):
        channels = channels or in_features
        self.block = ConvNormAct(in_features, channels, kernel, bias=bias, norm=norm, rng=rng)
        self.dropout = dropout2d(dropout)
        self.classifier = Conv(channels, num_classes, bias=classifier_bias, rng=rng)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.classifier(self.dropout(self.block(x), rngs=rngs))


class FCNHead(nnx.Module):
    """Feature maps -> (auxiliary, main) logits `(n, h, w, num_classes)` at feature resolution.

    The auxiliary block reads the last feature map but one, the main block the last.

    Args:
        channels, aux_channels: of the blocks; None: as many as the feature map has.
        auxiliary: without it there is one output.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        num_classes: int,
        *,
        channels: int | None = 512,
        aux_channels: int | None = 512,
        dropout: float = 0.1,
        auxiliary: bool = True,
        norm: str = "bn",
        rng: Rng,
    ):
        def block(width: int, channels: int | None) -> ConvClassifier:
            return ConvClassifier(
                width,
                channels,
                num_classes,
                classifier_bias=False,
                dropout=dropout,
                norm=norm,
                rng=rng,
            )

        self.auxiliary = block(widths[-2], aux_channels) if auxiliary else None
        self.main = block(widths[-1], channels)

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, ...]:
        main = self.main(features[-1], rngs)
        if self.auxiliary is None:
            return (main,)
        return self.auxiliary(features[-2], rngs), main

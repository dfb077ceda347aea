"""OCR beside dilated convolutions: ASP-OCR, an OCR context in the pyramid of DeepLab.

Original modules: `SpatialOCR_ASP_Module` of `spatial_ocr_block.py`, `nets/ocrnet.py`.
"""

from __future__ import annotations

import jax
from flax import nnx

from openseg_jax.models.blocks import AtrousPyramid
from openseg_jax.models.fcn import ConvClassifier
from openseg_jax.models.layers import Conv, ConvNormAct, Rng
from openseg_jax.models.ocr import ObjectAttention, ObjectGather


class ASPOCRModule(nnx.Module):
    """`x: (n, h, w, in_features)`, region logits `(n, h', w', k)` -> `(n, h, w, out_features)`.

    Args:
        channels: of the pixels, their context and each branch beside it.
        dilations: of the 3x3 convolutions beside the context.
    """

    def __init__(
        self,
        in_features: int,
        channels: int,
        key_channels: int,
        out_features: int,
        *,
        dilations: tuple[int, ...],
        dropout: float,
        norm: str,
        rng: Rng,
    ):
        self.pixels = ConvNormAct(in_features, channels, 3, norm=norm, rng=rng)
        self.gather = ObjectGather()
        self.attention = ObjectAttention(channels, key_channels, norm=norm, rng=rng)
        self.pyramid = AtrousPyramid(
            in_features,
            channels,
            out_features,
            dilations=dilations,
            bias=True,
            dropout=dropout,
            norm=norm,
            rng=rng,
        )

    def __call__(self, x: jax.Array, regions: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        pixels = self.pixels(x)
        context = self.attention(pixels, self.gather(regions, pixels))
        return self.pyramid(x, context, rngs)


class ASPOCRHead(nnx.Module):
    """Feature maps -> (auxiliary, main) logits `(n, h, w, num_classes)` at feature resolution.

    The auxiliary block reads the last feature map but one, the rest the last.

    Args:
        channels, key_channels, dilations: as in `ASPOCRModule`.
        aux_channels: of the auxiliary block; None: as many as its feature map has.
        aux_dropout: of the auxiliary block; None: as `dropout`.
        classifier_bias: of both classifiers.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        num_classes: int,
        *,
        channels: int = 256,
        key_channels: int = 128,
        aux_channels: int | None = 512,
        dilations: tuple[int, ...] = (12, 24, 36),
        dropout: float = 0.1,
        aux_dropout: float | None = None,
        classifier_bias: bool = True,
        norm: str = "bn",
        rng: Rng,
    ):
        self.auxiliary = ConvClassifier(
            widths[-2],
            aux_channels,
            num_classes,
            classifier_bias=classifier_bias,
            dropout=dropout if aux_dropout is None else aux_dropout,
            norm=norm,
            rng=rng,
        )
        self.context = ASPOCRModule(
            widths[-1],
            channels,
            key_channels,
            channels,
            dilations=dilations,
            dropout=dropout,
            norm=norm,
            rng=rng,
        )
        self.classifier = Conv(channels, num_classes, bias=classifier_bias, rng=rng)

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        regions = self.auxiliary(features[-2], rngs)
        return regions, self.classifier(self.context(features[-1], regions, rngs))

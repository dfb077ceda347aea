"""CE2P (Ruan et al., AAAI 2019) with ASP-OCR as its context: parsing people, with edges.

Original modules: `nets/ce2pnet.py`, `edge_block.py`, `decoder_block.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from openseg_jax.models.asp_ocr import ASPOCRModule
from openseg_jax.models.blocks import pointwise
from openseg_jax.models.fcn import ConvClassifier
from openseg_jax.models.layers import Conv, ConvNormAct, Rng, dropout2d, resize_bilinear


class EdgeModule(nnx.Module):
    """Three maps, finest first -> edge logits `(n, h, w, 2)` and features `(n, h, w, 3 c)`.

    Both have the size of the first map.
    """

    def __init__(self, widths: tuple[int, ...], channels: int, *, norm: str, rng: Rng):
        self.reduce = nnx.List(
            ConvNormAct(width, channels, bias=False, norm=norm, rng=rng) for width in widths
        )
        self.side_classifier = Conv(channels, 2, 3, bias=True, rng=rng)
        self.classifier = Conv(2 * len(widths), 2, bias=True, rng=rng)

    def __call__(self, maps: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        def concatenate(maps: list[jax.Array]) -> jax.Array:
            return jnp.concatenate([resize_bilinear(x, size) for x in maps], axis=-1)

        size = maps[0].shape[1:3]
        reduced = [reduce(x) for reduce, x in zip(self.reduce, maps, strict=True)]
        side_logits = [self.side_classifier(x) for x in reduced]
        return self.classifier(concatenate(side_logits)), concatenate(reduced)


class Decoder(nnx.Module):
    """A deep and a fine map -> logits `(n, h, w, k)` and features `(n, h, w, c)` of fine size."""

    def __init__(
        self,
        deep_width: int,
        fine_width: int,
        num_classes: int,
        *,
        channels: int = 256,
        fine_channels: int = 48,
        dropout: float = 0.1,
        norm: str,
        rng: Rng,
    ):
        self.deep = ConvNormAct(deep_width, channels, bias=False, norm=norm, rng=rng)
        self.fine = ConvNormAct(fine_width, fine_channels, bias=False, norm=norm, rng=rng)
        self.fuse = pointwise(
            channels + fine_channels, channels, channels, bias=False, norm=norm, rng=rng
        )
        self.dropout = dropout2d(dropout)
        self.classifier = Conv(channels, num_classes, bias=True, rng=rng)

    def __call__(
        self, deep: jax.Array, fine: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        deep = resize_bilinear(self.deep(deep), fine.shape[1:3])
        features = self.fuse(jnp.concatenate([deep, self.fine(fine)], axis=-1))
        features = self.dropout(features, rngs=rngs)
        return self.classifier(features), features


class CE2PHead(nnx.Module):
    """The last four feature maps -> four logits, in the original's order.

    (main without edges, edges with 2 channels, auxiliary, main): the first two and the last at
    the size of the finest of the four maps, the auxiliary ones at that of the third.

    Args:
        channels: of edge features, decoder and the pixels of ASP-OCR.
        context_channels: of what ASP-OCR hands to the decoder.
        dilations: of ASP-OCR.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        num_classes: int,
        *,
        channels: int = 256,
        key_channels: int = 128,
        context_channels: int = 512,
        aux_channels: int | None = 512,
        dilations: tuple[int, ...] = (6, 12, 18),
        dropout: float = 0.1,
        norm: str = "bn",
        rng: Rng,
    ):
        common = {"norm": norm, "rng": rng}
        self.edges = EdgeModule(widths[-4:-1], channels, **common)
        self.auxiliary = ConvClassifier(
            widths[-2], aux_channels, num_classes, bias=False, dropout=dropout, **common
        )
        self.context = ASPOCRModule(
            widths[-1],
            channels,
            key_channels,
            context_channels,
            dilations=dilations,
            dropout=dropout,
            **common,
        )
        self.decoder = Decoder(
            context_channels,
            widths[-4],
            num_classes,
            channels=channels,
            dropout=dropout,
            **common,
        )
        self.main = ConvClassifier(
            4 * channels, channels, num_classes, kernel=1, bias=False, **common
        )

    def __call__(
        self, features: list[jax.Array], rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, ...]:
        fine, deep = features[-4], features[-1]
        edges, edge_features = self.edges(features[-4:-1])
        auxiliary = self.auxiliary(features[-2], rngs)
        decoded, decoder_features = self.decoder(self.context(deep, auxiliary, rngs), fine, rngs)
        main = self.main(jnp.concatenate([decoder_features, edge_features], axis=-1), rngs)
        return decoded, edges, auxiliary, main

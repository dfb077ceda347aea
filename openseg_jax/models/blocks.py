"""What several attention heads share: their transforms and the pyramid of dilated convolutions."""

from __future__ import annotations

import jax
from flax import nnx

from openseg_jax.models.layers import ConvNormAct, Rng, Sequential, dropout2d


def pointwise(*widths: int, bias: bool = True, norm: str, rng: Rng) -> Sequential:
    """1x1 convolutions, each with norm and activation: widths[0] -> widths[1] -> ..."""
    pairs = zip(widths, widths[1:], strict=False)
    return Sequential([ConvNormAct(a, b, bias=bias, norm=norm, rng=rng) for a, b in pairs])


class AtrousPyramid(nnx.Module):
    """A context beside a 1x1 and dilated 3x3 convolutions, concatenated and fused by a 1x1.

    The spatial pyramid of DeepLab with its image pooling replaced by a context module.

    Args:
        in_features: channels of the map that the convolutions read.
        channels: of the context and of each branch.
        out_features: after the fusion.
        dilations: of the 3x3 convolutions.
        bias: of all convolutions.
    """

    def __init__(
        self,
        in_features: int,
        channels: int,
        out_features: int,
        *,
        dilations: tuple[int, ...],
        bias: bool,
        dropout: float,
        norm: str,
        rng: Rng,
    ):
        branches = [ConvNormAct(in_features, channels, bias=bias, norm=norm, rng=rng)]
        for dilation in dilations:
            branches.append(
                ConvNormAct(
                    in_features, channels, 3, dilation=dilation, bias=bias, norm=norm, rng=rng
                )
            )
        self.branches = nnx.List(branches)
        width = channels * (1 + len(branches))
        self.fuse = ConvNormAct(width, out_features, bias=bias, norm=norm, rng=rng)
        self.dropout = dropout2d(dropout)

    def __call__(self, x: jax.Array, context: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """`x: (n, h, w, in_features)`, `context: (n, h, w, channels)` -> `(n, h, w, out)`."""
        maps = [context, *(branch(x) for branch in self.branches)]
        return self.dropout(self.fuse(*maps), rngs=rngs)

"""What several attention heads share: their transforms and the pyramid of dilated convolutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from openseg_jax.models.layers import ConvNormAct, Rng, Sequential, dropout2d


def pointwise(*widths: int, bias: bool = True, norm: str, rng: Rng) -> Sequential:
    """1x1 convolutions, each with norm and activation: widths[0] -> widths[1] -> ..."""
    pairs = zip(widths, widths[1:], strict=False)
    return Sequential([ConvNormAct(a, b, bias=bias, norm=norm, rng=rng) for a, b in pairs])


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which a softmax over values of `dtype` is taken."""
    return jnp.promote_types(dtype, jnp.float32)


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(Q K^T / sqrt(d)) V.

    Args:
        query: (…, p, d).
        key: (…, m, d).
        value: (…, m, v).

    Returns:
        (…, p, v). The softmax, over the m keys, is in at least float32.
    """
    wide = at_least_float32(query.dtype)
    scores = jnp.einsum("...pd,...md->...pm", query, key, preferred_element_type=wide)
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("...pm,...mv->...pv", weights.astype(value.dtype), value)


# More scores than the first are computed by the second at a time, on CPU.
MANY_SCORES, FEW_SCORES = 2**21, 2**19


def attend_in_groups(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`attend` among the pixels of each group: `(n, g, p, d)`, `(n, g, p, v)` -> `(n, g, p, v)`.

    On CPU a few groups at a time where they have many scores, which then stay in its caches and
    are computed again for the gradients: 64 groups of 512 pixels 248 -> 84 ms forward, 288 -> 215
    ms with the gradients.
    """
    n, groups, pixels, _ = query.shape

    def group(arrays):
        if n > 1:
            return attend(*arrays)
        return attend(*(array[0] for array in arrays))[None]  # XLA minds an axis of one

    def a_few_at_a_time(*arrays):
        arrays = tuple(array.swapaxes(0, 1) for array in arrays)  # devices may share the images
        at_once = max(1, FEW_SCORES // (n * pixels**2))
        group_again = jax.checkpoint(group, prevent_cse=False)
        return jax.lax.map(group_again, arrays, batch_size=at_once).swapaxes(0, 1)

    on_cpu = a_few_at_a_time if n * groups * pixels**2 > MANY_SCORES else attend
    return jax.lax.platform_dependent(query, key, value, cpu=on_cpu, default=attend)


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

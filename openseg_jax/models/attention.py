"""softmax(Q K^T / sqrt(d)) V: at once, among the pixels of groups, and in tiles.

Softmaxes are in at least float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


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
        (…, p, v).
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

    def a_few_at_a_time(*arrays):
        arrays = tuple(array.swapaxes(0, 1) for array in arrays)  # devices may share the images
        at_once = max(1, FEW_SCORES // (n * pixels**2))
        group = jax.checkpoint(lambda arrays: _image_by_image(attend)(*arrays), prevent_cse=False)
        return jax.lax.map(group, arrays, batch_size=at_once).swapaxes(0, 1)

    on_cpu = a_few_at_a_time if n * groups * pixels**2 > MANY_SCORES else attend
    return jax.lax.platform_dependent(query, key, value, cpu=on_cpu, default=attend)


SCORE_BYTES = 64 * 2**20  # scores that exist at once, where no chunk is asked for
# Queries and keys at once on CPU: their scores stay in its caches. On 128x256 pixels, forward,
# 6.9 -> 5.4 s; rows of scores that are no multiple of a vector's length cost a fifth more.
TILE, LANES = (1024, 512), 16


def self_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, chunk: int | None = None
) -> jax.Array:
    """`attend`, exactly, without the matrix of all scores, forward or backward.

    Full Cityscapes images have 33153 tokens; all their scores would fill 4.4 GB an image. Here
    only those of a tile exist: of a chunk of queries, on CPU also of keys. The backward pass
    computes them again (Dao et al., "FlashAttention", 2022, section 3.1 and appendix B.2).

    Args:
        query: (n, p, d).
        key: (n, m, d).
        value: (n, m, v).
        chunk: queries at once; None or 0: as many as keep the scores below 64 MiB.

    Returns:
        (n, p, v).
    """
    n, tokens, _ = query.shape
    keys = key.shape[1]
    if chunk and chunk >= tokens or not chunk and n * tokens * keys <= MANY_SCORES:
        return attend(query, key, value)
    rows = chunk or max(1, SCORE_BYTES // (4 * n * keys))
    all_keys = Tile(_equal(tokens, rows), keys, interleaved=True)
    of_tokens, of_keys = (_equal(*each, LANES) for each in zip((tokens, keys), TILE, strict=True))
    few_keys = Tile(of_tokens, of_keys, interleaved=False)
    return _attend_in_tiles(query, key, value, all_keys if chunk else few_keys, all_keys)


def _equal(count: int, most: int, multiple: int = 1) -> int:
    """The size of the fewest equal parts of `count`, none larger than `most` but for rounding."""
    size = -(-count // -(-count // most))
    return -(-size // multiple) * multiple


class Tile(NamedTuple):
    """The queries and keys whose scores exist at once.

    Of `k` chunks an interleaved one holds the tokens i, i + k, i + 2 k, ...: all of the image, so
    that devices which share an image by its height each do a part of every chunk.
    """

    queries: int
    keys: int
    interleaved: bool


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend_in_tiles(query, key, value, on_cpu: Tile, elsewhere: Tile):
    return _tiles_forward(query, key, value, on_cpu, elsewhere)[0]


def _tiles_forward(query, key, value, on_cpu, elsewhere):
    context, log_sums = _by_platform(_contexts, on_cpu, elsewhere, query, key, value)
    return context, (query, key, value, context, log_sums)


def _tiles_backward(on_cpu, elsewhere, saved, gradient):
    query, key, value, context, log_sums = saved
    wide = log_sums.dtype
    tilt = (context.astype(wide) * gradient.astype(wide)).sum(-1)
    arrays = query, key, value, gradient, log_sums, tilt
    return _by_platform(_gradients, on_cpu, elsewhere, *arrays)


_attend_in_tiles.defvjp(_tiles_forward, _tiles_backward)


def _by_platform(function: Callable, on_cpu: Tile, elsewhere: Tile, *arrays):
    """`function(tile, *arrays)` of each image."""
    ways = (_image_by_image(partial(function, tile)) for tile in (on_cpu, elsewhere))
    return jax.lax.platform_dependent(*arrays, **dict(zip(("cpu", "default"), ways, strict=True)))


def _image_by_image(function: Callable) -> Callable:
    """`jax.vmap`; without it for one image, since XLA minds an axis of one."""

    def apply(*arrays):
        if len(arrays[0]) > 1:
            return jax.vmap(function)(*arrays)
        return jax.tree.map(lambda y: y[None], function(*(array[0] for array in arrays)))

    return apply


def _contexts(tile: Tile, query, key, value):
    """Contexts `(p, v)`, and of each query the logarithm of its softmax's sum: `(p,)`.

    Args:
        query: (p, d).
        key: (m, d).
        value: (m, v).
    """
    wide = at_least_float32(query.dtype)
    all_keys = _chunks_of_keys(tile, key, value, wide)

    def of_queries(query):
        def add_keys(state, keys):
            context, total, largest = state
            key, value, outside = keys
            scores = _product(query, key.T, wide) * query.shape[-1] ** -0.5 + outside
            larger = jnp.maximum(largest, scores.max(-1, keepdims=True))
            before, weights = jnp.exp(largest - larger), jnp.exp(scores - larger)
            context = context * before + _product(weights.astype(value.dtype), value, wide)
            return (context, total * before + weights.sum(-1, keepdims=True), larger), None

        column = jnp.zeros((len(query), 1), wide)
        nothing = jnp.zeros((len(query), value.shape[-1]), wide), column, column - jnp.inf
        (context, total, largest), _ = jax.lax.scan(add_keys, nothing, all_keys)
        return (context / total).astype(value.dtype), (largest + jnp.log(total))[:, 0]

    found = jax.lax.map(of_queries, _chunks(query, tile.queries, tile.interleaved))
    return tuple(_joined(chunks, len(query), tile.interleaved) for chunks in found)


def _gradients(tile: Tile, query, key, value, gradient, log_sums, tilt):
    """Those of query, key and value; `tilt: (p,)` is the mean gradient of a query's weights.

    Scores are `(keys, queries)` here: so no product transposes them, which takes a quarter longer.
    """
    wide, scale = at_least_float32(query.dtype), query.shape[-1] ** -0.5
    arrays = query, gradient, log_sums, tilt
    queries = tuple(_chunks(each, tile.queries, tile.interleaved) for each in arrays)

    def of_keys(query_gradients, keys):
        key, value, outside = keys
        transposed_key = key.T

        def add_queries(state, chunk):
            key_gradient, value_gradient = state
            (query, gradient, log_sum, tilt), query_gradient = chunk
            scores = _product(key, query.T, wide) * scale + outside[:, None]
            weights = jnp.exp(scores - log_sum)
            slopes = weights * (_product(value, gradient.T, wide) - tilt) * scale
            weights, slopes = weights.astype(value.dtype), slopes.astype(query.dtype)
            key_gradient += _product(slopes, query, wide)
            value_gradient += _product(weights, gradient, wide)
            query_gradient += _product(transposed_key, slopes, wide)
            return (key_gradient, value_gradient), query_gradient

        nothing = jnp.zeros(key.shape, wide), jnp.zeros(value.shape, wide)
        gradients, query_gradients = jax.lax.scan(add_queries, nothing, (queries, query_gradients))
        return query_gradients, gradients

    nothing = jnp.zeros_like(queries[0].swapaxes(1, 2), wide)
    all_keys = _chunks_of_keys(tile, key, value, wide)
    query_gradients, gradients = jax.lax.scan(of_keys, nothing, all_keys)
    found = zip((query_gradients.swapaxes(1, 2), *gradients), (query, key, value), strict=True)
    return tuple(_joined(x, len(y), tile.interleaved).astype(y.dtype) for x, y in found)


def _product(a: jax.Array, b: jax.Array, wide: jnp.dtype) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=wide)


def _chunks_of_keys(tile: Tile, key, value, wide):
    """Chunks of key and value, and what to add to the scores: -inf to those of padding."""
    chunks = partial(_chunks, size=tile.keys, interleaved=tile.interleaved)
    outside = chunks(jnp.zeros(len(key), wide), padding=-jnp.inf)
    return chunks(key), chunks(value), outside


def _chunks(x: jax.Array, size: int, interleaved: bool, padding: float = 0) -> jax.Array:
    """`(tokens, …)` -> `(chunks, size, …)`, with padding at the end."""
    count = -(-len(x) // size)
    widths = [(0, size * count - len(x))] + [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, widths, constant_values=padding)
    if interleaved:
        return x.reshape(size, count, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(count, size, *x.shape[1:])


def _joined(chunks: jax.Array, tokens: int, interleaved: bool) -> jax.Array:
    """The inverse of `_chunks`."""
    chunks = chunks.swapaxes(0, 1) if interleaved else chunks
    return chunks.reshape(-1, *chunks.shape[2:])[:tokens]

"""softmax(Q K^T / sqrt(d)) V: at once, among the pixels of groups, and in tiles.

Softmaxes are in at least float32. There is no forward-mode differentiation of tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from openseg_jax.models.layers.materialize import materialize


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


# More scores than the first are computed in parts; of groups, on CPU, the second at a time.
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


SCORE_BYTES = 64 * 2**20  # of scores at once, where no chunk is asked for; on CPU also kept ones
# As compiled for an H200, a training step of OCNet on ResNet-101 (8 images of 512x1024) moves 186
# instead of 217 GB with more scores at once.
SCORE_BYTES_ON_GPU = 256 * 2**20
# Queries (of all images) and keys at once on CPU: their scores stay in its caches. On 97x97 pixels
# with the gradients 1.79 -> 1.65 s; rows of scores that are no multiple of a vector cost a fifth.
TILE, LANES = (1024, 512), 16
# Queries at once where scores are kept, each with all keys, or tiles would be put together: on
# 64x64 pixels 274 ms, of 1024 queries and 512 keys 280.
KEPT_QUERIES = 512


def self_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, chunk: int | None = None
) -> jax.Array:
    """`attend`, exactly, without a large matrix of all scores, forward or backward.

    Full Cityscapes images have 33153 tokens; all their scores would fill 4.4 GB an image. Scores
    are computed for a tile at a time: a chunk of queries, on CPU also of keys. The backward pass
    computes them again (Dao et al., "FlashAttention", 2022, section 3.1 and appendix B.2). On CPU
    scores of up to 64 MiB in all are kept for it instead: OCNet's module on 64x64 pixels with the
    gradients 464 -> 443 ms.

    Args:
        query: (n, p, d).
        key: (n, m, d).
        value: (n, m, v).
        chunk: queries at once, each with all keys, never kept; None or 0: on CPU tiles that fit
            its caches, elsewhere as many queries as keep the scores below 64 MiB, on a GPU below
            256 MiB.

    Returns:
        (n, p, v).
    """
    n, tokens, _ = query.shape
    keys = key.shape[1]
    if chunk >= tokens if chunk else n * tokens * keys <= MANY_SCORES:
        return attend(query, key, value)

    def in_chunks(most_queries: int) -> Callable:
        with_all_keys = Tile(_equal(tokens, max(1, most_queries)), keys, interleaved=True)
        return partial(_attend_in_tiles, with_all_keys, with_all_keys)

    if chunk:
        return in_chunks(chunk)(query, key, value)
    bytes_of_query = 4 * n * keys

    def tile(most_queries: int, most_keys: int) -> Tile:
        queries = _equal(tokens, max(1, most_queries // n), LANES)
        return Tile(queries, _equal(keys, most_keys, LANES), interleaved=False)

    in_cache = for_gradients = tile(*TILE)
    if tokens * bytes_of_query <= SCORE_BYTES:
        for_gradients = tile(KEPT_QUERIES, keys)._replace(kept=True)
    # Differentiated, each way also returns what only the others save, as zeros: here the kept
    # scores. Where both passes are one program XLA drops them.
    return jax.lax.platform_dependent(
        query,
        key,
        value,
        cpu=partial(_attend_in_tiles, in_cache, for_gradients),
        cuda=in_chunks(SCORE_BYTES_ON_GPU // bytes_of_query),
        default=in_chunks(SCORE_BYTES // bytes_of_query),
    )


def _equal(count: int, most: int, multiple: int = 1) -> int:
    """The size of equal parts of `count`, as few as `most` allows, rounded up to a `multiple`."""
    size = -(-count // -(-count // most))
    return -(-size // multiple) * multiple


class Tile(NamedTuple):
    """The queries and keys whose scores are computed at once.

    Of `k` chunks an interleaved one holds the tokens i, i + k, i + 2 k, ...: all of the image, so
    that devices which share an image by its height each do a part of every chunk. On CPU
    chunks are contiguous, which takes no copies.

    Where they are `kept`, all scores are saved for the backward pass.
    """

    queries: int
    keys: int
    interleaved: bool
    kept: bool = False


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend_in_tiles(tile: Tile, for_gradients: Tile, query, key, value):
    """`attend` in tiles, or in others where its gradients are asked for."""
    return _tiles_forward(None, tile, query, key, value)[0]


def _tiles_forward(_, tile, query, key, value):
    found = _image_by_image(partial(_contexts, tile))(query, key, value)
    return found[0].astype(value.dtype), (query, key, value, *found)


def _tiles_backward(_, tile, saved, gradient):
    query, key, value, context, log_sums, scores = saved
    # Of the context before its rounding: an error here tilts the gradients of all scores alike.
    tilt = (context * gradient.astype(context.dtype)).sum(-1)
    arrays = query, key, value, gradient, log_sums, tilt, scores
    return _image_by_image(partial(_gradients, tile))(*arrays)


_attend_in_tiles.defvjp(_tiles_forward, _tiles_backward)


def _image_by_image(function: Callable) -> Callable:
    """`jax.vmap`; without it for one image, since XLA minds an axis of one."""

    def apply(*arrays):
        if len(arrays[0]) > 1:
            return jax.vmap(function)(*arrays)
        one = function(*jax.tree.map(lambda x: x[0], arrays))
        return jax.tree.map(lambda y: y[None], one)

    return apply


def _contexts(tile: Tile, queries, keys, values):
    """Contexts `(p, v)`, and of each query the logarithm of its softmax's sum: `(p,)`.

    Both are in at least float32. Third the scores `(chunks of queries, chunks of keys, queries,
    keys)`, or None where they are not kept.

    Args:
        queries: (p, d).
        keys: (m, d).
        values: (m, v).
    """
    wide, scale = at_least_float32(queries.dtype), queries.shape[-1] ** -0.5
    chunks_of_keys = _chunks_of_keys(tile, keys, values, wide)

    def of_queries(q):
        def add_keys(state, chunk):
            context, total, largest = state
            k, v, real = chunk
            scores = _product(q, k.T, wide)  # scaled in the exponent, or they are written twice
            new_largest = jnp.maximum(largest, scores.max(-1, keepdims=True))
            rescale = jnp.exp((largest - new_largest) * scale)
            weights = jnp.exp((scores - new_largest) * scale) * real
            context = context * rescale + _product(weights.astype(v.dtype), v, wide)
            total = total * rescale + weights.sum(-1, keepdims=True)
            return (context, total, new_largest), scores if tile.kept else None

        column = jnp.zeros((len(q), 1), wide)
        nothing = jnp.zeros((len(q), values.shape[-1]), wide), column, column - jnp.inf
        (context, total, largest), scores = jax.lax.scan(add_keys, nothing, chunks_of_keys)
        return context / total, (largest * scale + jnp.log(total))[:, 0], scores

    *found, scores = jax.lax.map(of_queries, _chunks(queries, tile.queries, tile.interleaved))
    return *(_joined(chunks, len(queries), tile.interleaved) for chunks in found), scores


def _gradients(tile: Tile, queries, keys, values, gradients, log_sums, tilts, kept_scores):
    """Those of queries, keys and values.

    Those of keys and values are transposed until the end: so no product transposes a tile, with
    which XLA:CPU would take 1.6 times as long.

    Args:
        tilts: (p,), the mean gradients of the weights of each query.
        kept_scores: as from `_contexts`.
    """
    wide, scale = at_least_float32(queries.dtype), queries.shape[-1] ** -0.5
    arrays = queries, gradients, log_sums, tilts
    chunks_of_queries = [_chunks(each, tile.queries, tile.interleaved) for each in arrays]
    chunks_of_keys = _chunks_of_keys(tile, keys, values, wide)

    def of_queries(sums, chunk):
        q, gradient, log_sum, tilt, scores_of_keys = chunk
        # Not within the products of each tile: XLA:CPU has none of transposed bfloat16.
        transposed_q, transposed_gradient = materialize(q.T), materialize(gradient.T)

        def add_keys(query_gradient, chunk):
            (k, v, real), scores, key_gradient, value_gradient = chunk
            scores = _product(q, k.T, wide) if scores is None else scores
            logs = scores * scale - log_sum[:, None]  # above 0 by rounding alone
            weights = jnp.exp(jnp.minimum(logs, 0)) * real
            slopes = weights * (_product(gradient, v.T, wide) - tilt[:, None]) * scale
            weights, slopes = weights.astype(v.dtype), slopes.astype(q.dtype)
            query_gradient += _product(slopes, k, wide)
            key_gradient += _product(transposed_q, slopes, wide)
            value_gradient += _product(transposed_gradient, weights, wide)
            return query_gradient, (key_gradient, value_gradient)

        of_keys = chunks_of_keys, scores_of_keys, *sums
        query_gradient, sums = jax.lax.scan(add_keys, jnp.zeros(q.shape, wide), of_keys)
        return sums, query_gradient

    nothing = tuple(jnp.zeros_like(x.swapaxes(1, 2), wide) for x in chunks_of_keys[:2])
    chunks = *chunks_of_queries, kept_scores
    transposed, query_gradients = jax.lax.scan(of_queries, nothing, chunks)
    found = query_gradients, *(x.swapaxes(1, 2) for x in transposed)
    return tuple(
        _joined(x, len(like), tile.interleaved).astype(like.dtype)
        for x, like in zip(found, (queries, keys, values), strict=True)
    )


def _product(a: jax.Array, b: jax.Array, wide: jnp.dtype) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=wide)


def _chunks_of_keys(tile: Tile, keys, values, wide):
    """Chunks of keys, of values, and of 1 for each, 0 for padding: copies of the last key."""
    chunks = partial(_chunks, size=tile.keys, interleaved=tile.interleaved)
    return chunks(keys, padding="edge"), chunks(values), chunks(jnp.ones(len(keys), wide))


def _chunks(x: jax.Array, size: int, interleaved: bool, padding: str = "constant") -> jax.Array:
    """`(tokens, …)` -> `(chunks, size, …)`, with padding at the end: zeros, or as `jnp.pad`'s."""
    count = -(-len(x) // size)
    widths = [(0, size * count - len(x))] + [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, widths, mode=padding)
    if interleaved:
        return x.reshape(size, count, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(count, size, *x.shape[1:])


def _joined(chunks: jax.Array, tokens: int, interleaved: bool) -> jax.Array:
    """The inverse of `_chunks`."""
    chunks = chunks.swapaxes(0, 1) if interleaved else chunks
    return chunks.reshape(-1, *chunks.shape[2:])[:tokens]

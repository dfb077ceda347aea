"""OCNet's self-attention against its definition, whatever exists of its scores at once."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modules import attention, close, evaluate, random

from openseg_jax.models.layers import attention as attention_code
from openseg_jax.models.layers import self_attention
from openseg_jax.models.ocnet import SelfAttention


@pytest.mark.parametrize("chunk", [None, 0, 1, 4, 7, 10, 11, 50])
def test_self_attention_is_exact_whatever_the_chunk(chunk):
    query, key, value = random(2, 11, 6), random(2, 9, 6), random(2, 9, 5)
    close(self_attention(query, key, value, chunk=chunk), attention(query, key, value))


@pytest.mark.parametrize("chunk", [1, 4, 11])
def test_chunks_do_not_change_the_gradients(chunk):
    inputs = random(2, 11, 6), random(2, 9, 6), random(2, 9, 5)
    weights = random(2, 11, 5)

    def gradients(chunk):
        def loss(inputs):
            return (self_attention(*inputs, chunk=chunk) * weights).sum()

        return jax.jit(jax.grad(loss))(inputs)

    for ours, whole in zip(gradients(chunk), gradients(1000), strict=True):
        close(ours, whole)


KEPT_OR_NOT = pytest.mark.parametrize(
    "score_bytes", [attention_code.SCORE_BYTES, 4], ids=["kept", "not kept"]
)


@KEPT_OR_NOT
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("tile", [(4, 3), (16, 3), (5, 16), (16, 16), (11, 9)])
def test_tiles_of_queries_and_keys_change_nothing(tile, images, score_bytes, monkeypatch):
    """What a CPU does with many scores: with padding in the last chunks and without."""
    inputs = random(images, 11, 6), random(images, 9, 6), random(images, 9, 5)
    weights = random(images, 11, 5)

    def context_and_gradients():
        def loss(inputs):
            context = self_attention(*inputs)
            return (context * weights).sum(), context

        (_, context), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs)
        return context, *gradients

    whole = context_and_gradients()
    monkeypatch.setattr(attention_code, "MANY_SCORES", 1)
    monkeypatch.setattr(attention_code, "TILE", tile)
    monkeypatch.setattr(attention_code, "KEPT_QUERIES", tile[0])
    monkeypatch.setattr(attention_code, "SCORE_BYTES", score_bytes)
    for lanes in (1, 4):
        monkeypatch.setattr(attention_code, "LANES", lanes)
        for ours, reference in zip(context_and_gradients(), whole, strict=True):
            close(ours, reference)
    program = str(jax.make_jaxpr(lambda *inputs: self_attention(*inputs))(*inputs))
    assert "scan" in program


def test_tiles_stay_precise_for_large_scores_and_for_bfloat16():
    """The largest score comes in the first tile of one query and in the last of another."""
    tokens = 2 * attention_code.TILE[0]
    query, key, value = 30 * random(1, tokens, 8), random(1, tokens, 8), random(1, tokens, 4)
    key[0, :, 0] = np.linspace(-9, 9, tokens)
    exact = attention(query, key, value)
    close(jax.jit(self_attention)(query, key, value), exact, 1e-4)
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in (query, key, value)]
    exact = attention(*(np.asarray(x, np.float32) for x in rounded))
    context = jax.jit(self_attention)(*rounded)
    assert context.dtype == jnp.bfloat16
    close(context.astype(jnp.float32), exact, 0.03)


def test_weights_sum_to_one_where_scores_are_large():
    query, key, value = 1e4 * random(1, 300, 64), 1e4 * random(1, 300, 64), random(1, 300, 4)
    query, key = query + 1e4, key + 1e4
    key[:, 1::2] = key[:, ::2] * (1 + 1e-6)  # nearly twins: neither has all of the weight

    def loss(value):
        return self_attention(query, key, value, chunk=37).sum()

    gradient = jax.jit(jax.grad(loss))(value)
    assert gradient.min() >= 0
    assert gradient.sum() <= value.size * (1 + 1e-5)


def test_gradients_stay_bounded_where_rounding_errors_of_scores_are_large(monkeypatch):
    """The backward pass computes the scores again, and not everywhere by the same kernel."""
    contexts = attention_code._contexts

    def rounded_otherwise(*inputs):
        context, log_sums, scores = contexts(*inputs)
        return context, log_sums * (1 - 1e-6), scores

    monkeypatch.setattr(attention_code, "_contexts", rounded_otherwise)
    tokens = 300
    query, key = (1e4 * (random(1, tokens, 64) + 1) for _ in range(2))

    def loss(value):
        return self_attention(query, key, value, chunk=37).sum()

    gradient = jax.jit(jax.grad(loss))(random(1, tokens, 4))
    assert gradient.min() >= 0
    assert gradient.max() <= tokens  # no weight is above one


@KEPT_OR_NOT
def test_gradients_of_bfloat16_tiles_are_near_those_of_float32(score_bytes, monkeypatch):
    """With near-even weights and keys above zero: queries' gradients are small differences."""
    monkeypatch.setattr(attention_code, "SCORE_BYTES", score_bytes)
    tokens = 2 * attention_code.TILE[0]
    arrays = (random(1, tokens, 8), np.abs(random(1, tokens, 8)), random(1, tokens, 4))
    rounded = [jnp.asarray(x / 4, jnp.bfloat16) for x in arrays]
    weights = jnp.asarray(random(1, tokens, 4), jnp.bfloat16)

    def gradients(*inputs):
        def loss(inputs):
            return (self_attention(*inputs) * weights).astype(jnp.float32).sum()

        return jax.jit(jax.grad(loss))(inputs)

    exact = gradients(*(x.astype(jnp.float32) for x in rounded))
    for ours, reference in zip(gradients(*rounded), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        close(ours.astype(jnp.float32) / reference.std(), reference / reference.std(), 0.05)


def sizes(jaxpr):
    """The number of elements of every intermediate array, in loops and calls too."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_no_matrix_of_all_scores_exists_forward_or_backward():
    tokens, chunk = 600, 20
    inputs = [jnp.zeros((1, tokens, 4))] * 3

    def largest(chunk):
        def loss(inputs):
            return self_attention(*inputs, chunk=chunk).sum()

        return max(sizes(jax.make_jaxpr(jax.value_and_grad(loss))(inputs).jaxpr))

    assert largest(tokens) == tokens**2  # the counting works
    assert largest(chunk) == tokens * chunk


@pytest.mark.parametrize("tokens, kept", [(2048, True), (4608, False)])
def test_scores_wait_for_the_gradients_where_they_take_little(tokens, kept):
    inputs = [jnp.zeros((1, tokens, 4))] * 3
    context, pull = jax.vjp(self_attention, *inputs)
    assert (max(x.size for x in jax.tree.leaves(pull)) == tokens**2) == kept
    backward = str(jax.make_jaxpr(pull)(context))
    assert backward.count("dot_general") == (4 if kept else 5)


def test_evaluation_keeps_no_scores():
    inputs = [jax.ShapeDtypeStruct((1, 4096, 4), jnp.float32)] * 3
    program = jax.jit(self_attention).lower(*inputs).compile()
    tile = 4 * attention_code.TILE[0] * attention_code.TILE[1]
    assert program.memory_analysis().temp_size_in_bytes < 2 * tile + 2**20


def test_full_images_stay_below_the_limit_by_themselves():
    inputs = [jax.ShapeDtypeStruct((1, 129 * 257, 256), jnp.float32)] * 3

    def loss(inputs):
        return self_attention(*inputs).sum()

    largest = max(sizes(jax.make_jaxpr(jax.value_and_grad(loss))(inputs).jaxpr))
    assert 4 * largest <= 256 * 2**20


@pytest.mark.parametrize("scale", [1, 2])
def test_self_attention_of_a_pooled_map_keeps_its_size(scale):
    module = SelfAttention(6, 4, scale=scale, norm="bn", rng=np.random.default_rng(0))
    x = random(1, 5, 7, 6)
    context = evaluate(module, x)
    assert context.shape == x.shape
    assert not np.any(context), "the last convolution starts at zero"


SHARED_HEIGHT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from openseg_jax.models.layers import attention

attention.MANY_SCORES, attention.LANES = 1, 1
attention.TILE, attention.KEPT_QUERIES = (8, 8), 8
mesh = jax.make_mesh((2, 2), ("data", "height"), (jax.sharding.AxisType.Auto,) * 2)
rng = np.random.default_rng(0)
alone = tuple(jnp.asarray(rng.standard_normal((2, 24, 5)), jnp.float32) for _ in range(3))
shared = jax.device_put(alone, NamedSharding(mesh, PartitionSpec("data", "height")))
for chunk, score_bytes in ((None, attention.SCORE_BYTES), (None, 4), (6, 4)):
    attention.SCORE_BYTES = score_bytes
    def loss(inputs):
        context = attention.self_attention(*inputs, chunk=chunk)
        return (context**2).sum(), context
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    assert "num_partitions=4" in step.lower(shared).compile().as_text()
    for ours, reference in zip(*map(jax.tree.leaves, (step(shared), step(alone))), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-5)
print("equal")
"""


def test_tiles_of_images_that_devices_share_by_their_height():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", SHARED_HEIGHT]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.stdout.strip() == "equal", finished.stderr

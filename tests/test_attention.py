"""The attention of each method against its definition."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modules import call, evaluate, random

from openseg_jax.data.dataset import IGNORE
from openseg_jax.models import attention as attention_code
from openseg_jax.models.attention import self_attention
from openseg_jax.models.ideal_ocr import (
    LabelledAttention,
    gather_labelled_objects,
    label_regions,
)
from openseg_jax.models.isa import (
    InterlacedAttention,
    long_range_attention,
    short_range_attention,
)
from openseg_jax.models.ocnet import SelfAttention
from openseg_jax.models.ocr import attend_to_objects, gather_objects


def close(ours, reference, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(ours), reference, rtol=0, atol=tolerance)


def softmax(scores, axis):
    weights = np.exp(scores - scores.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def attention(query, key, value, allowed=True):
    """softmax(Q K^T / sqrt(d)) V in float64; (n, p, d), (n, m, d), (n, m, v)."""
    scores = np.float64(query) @ np.swapaxes(np.float64(key), 1, 2) / np.sqrt(query.shape[-1])
    return softmax(np.where(allowed, scores, -np.inf), -1) @ value


# OCNet


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
    assert 4 * largest <= 64 * 2**20


@pytest.mark.parametrize("scale", [1, 2])
def test_self_attention_of_a_pooled_map_keeps_its_size(scale):
    module = SelfAttention(6, 4, scale=scale, norm="bn", rng=np.random.default_rng(0))
    x = random(1, 5, 7, 6)
    context = evaluate(module, x)
    assert context.shape == x.shape
    assert not np.any(context), "the last convolution starts at zero"


# ISA


def masks(h, w, window):
    """Which of h*w pixels may attend to which: (long range, short range)."""
    y, x = np.divmod(np.arange(h * w), w)
    position, tile = (y % window[0], x % window[1]), (y // window[0], x // window[1])
    return tuple((a[:, None] == a[None]) & (b[:, None] == b[None]) for a, b in (position, tile))


@pytest.mark.parametrize("window", [(2, 3), (4, 1), (1, 1), (4, 6)])
def test_sparse_attentions_are_masked_dense_ones(window):
    h, w = 4, 6
    query, key, value = random(2, h, w, 5), random(2, h, w, 5), random(2, h, w, 3)
    flat = [x.reshape(2, h * w, -1) for x in (query, key, value)]
    attentions = (long_range_attention, short_range_attention)
    for attend, mask in zip(attentions, masks(h, w, window), strict=True):
        reference = attention(*flat, allowed=mask).reshape(value.shape)
        close(attend(query, key, value, window), reference)


@pytest.mark.parametrize("few", [1, 50, 10**9])
def test_groups_a_few_at_a_time_are_all_groups(few, monkeypatch):
    """What a CPU does with many scores, with a rest of groups and without."""
    inputs, weights = (random(2, 7, 5, 6), random(2, 7, 5, 6), random(2, 7, 5, 3)), random(70, 3)

    def value_and_gradients():
        def loss(inputs):
            context = attention_code.attend_in_groups(*inputs)
            return (context.reshape(70, 3) * weights).sum(), context

        (_, context), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(inputs)
        return context, *gradients

    whole = value_and_gradients()
    monkeypatch.setattr(attention_code, "MANY_SCORES", 1)
    monkeypatch.setattr(attention_code, "FEW_SCORES", few)
    for ours, reference in zip(value_and_gradients(), whole, strict=True):
        close(ours, reference)
    program = str(jax.make_jaxpr(lambda *inputs: attention_code.attend_in_groups(*inputs))(*inputs))
    assert ("scan" in program) == (few < 10**9)


SHARED = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from openseg_jax.models import attention as attention_code

attention_code.MANY_SCORES, attention_code.FEW_SCORES = 1, 50
mesh = jax.make_mesh((4,), ("batch",))
inputs = jax.device_put(jnp.ones((4, 7, 5, 6)), NamedSharding(mesh, PartitionSpec("batch")))
gradient = jax.jit(jax.grad(lambda x: attention_code.attend_in_groups(x, x, x).sum()))
program = gradient.lower(inputs).compile().as_text()
assert "while" in program and "num_partitions=4" in program
print("all-gather" in program)
"""


def test_groups_of_images_on_several_devices_stay_where_they_are():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", SHARED]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.stdout.strip() == "False", finished.stderr


SHARED_HEIGHT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from openseg_jax.models import attention

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


def test_padding_of_interlaced_attention_attends():
    """A 3x7 map in 2x4 windows: no row before it and one after, no column before, one after."""
    window, rng = (2, 4), np.random.default_rng(0)
    module = InterlacedAttention(5, 4, 6, window, norm="bn", rng=rng)
    x = random(1, 3, 7, 5)
    y = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    stages = (module.long_range, module.short_range)
    for sparse, mask in zip(stages, masks(4, 8, window), strict=True):
        maps = [evaluate(f, y) for f in (sparse.query, sparse.key, sparse.value)]
        flat = [np.asarray(m).reshape(1, 32, -1) for m in maps]
        context = attention(*flat, allowed=mask).reshape(1, 4, 8, -1)
        y = evaluate(sparse.output, context.astype(np.float32))
    close(evaluate(module, x), y[:, :3, :7])


def test_odd_padding_has_its_smaller_half_before():
    module = InterlacedAttention(2, 2, 2, (1, 5), norm="bn", rng=np.random.default_rng(0))
    x = random(1, 1, 7, 2)  # three columns are missing: one goes before, two behind
    padded = np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 0)))
    close(evaluate(module, x), np.asarray(evaluate(module, padded))[:, :, 1:8])


# OCR


def test_objects_are_pixels_weighted_by_the_softmax_over_positions():
    logits, pixels = random(2, 4, 5, 3), random(2, 4, 5, 6)
    weights = softmax(logits.reshape(2, 20, 3).astype(np.float64), 1)
    reference = np.swapaxes(weights, 1, 2) @ pixels.reshape(2, 20, 6)
    close(gather_objects(logits, pixels)[:, :, 0], reference)


def test_pixels_attend_to_objects_by_the_softmax_over_classes():
    query, key, value = random(2, 4, 5, 6), random(2, 3, 1, 6), random(2, 3, 1, 7)
    reference = attention(query.reshape(2, 20, 6), key[:, :, 0], value[:, :, 0])
    close(attend_to_objects(query, key, value), reference.reshape(2, 4, 5, 7))


def test_softmaxes_of_bfloat16_are_as_precise_as_float32():
    logits, pixels = random(1, 64, 64, 3), np.abs(random(1, 64, 64, 4))
    exact = gather_objects(logits, pixels)
    rounded = jnp.asarray(logits, jnp.bfloat16), jnp.asarray(pixels, jnp.bfloat16)
    objects = gather_objects(*rounded)
    assert objects.dtype == jnp.float32
    close(objects, exact, 1e-3)  # what is left is the rounding of the inputs, averaged


LABELS = np.array([[[0, 0, 1, IGNORE], [0, 0, 1, 1]]])


def test_labels_become_regions_with_a_last_one_for_ignored_pixels():
    regions = np.asarray(label_regions(LABELS, (2, 4), 4))
    assert (regions.argmax(-1) == np.where(LABELS == IGNORE, 3, LABELS)).all()
    assert (regions.sum(-1) == 1).all()


def test_labels_are_sampled_at_rounded_down_positions():
    labels = np.arange(7 * 9).reshape(1, 7, 9)
    regions = np.asarray(label_regions(labels, (3, 4), 64))
    rows, columns = np.array([0, 2, 4]), np.array([0, 2, 4, 6])
    assert (regions.argmax(-1) == labels[:, rows[:, None], columns]).all()


def test_labelled_objects_are_means_and_zero_where_a_class_is_absent():
    pixels = random(1, 2, 4, 5)
    objects = np.asarray(gather_labelled_objects(label_regions(LABELS, (2, 4), 4), pixels))
    for index, label in enumerate((0, 1, 2, IGNORE)):
        chosen = pixels[LABELS == label]
        close(objects[0, index, 0], chosen.mean(0) if len(chosen) else np.zeros(5))


def test_labels_distribute_the_own_object_and_the_mean_of_all_others():
    rng = np.random.default_rng(0)
    module = LabelledAttention(5, 4, background=True, norm="bn", rng=rng)
    pixels, objects = random(1, 2, 4, 5), random(1, 4, 1, 5)
    value = np.asarray(evaluate(module.value, objects))[0, :, 0]
    index = np.where(LABELS == IGNORE, 3, LABELS)
    rest = np.stack([np.delete(value, i, 0).mean(0) for i in range(4)])
    own, others = evaluate(module, pixels, objects, LABELS)
    close(own, evaluate(module.output, value[index]))
    close(others, evaluate(module.output, rest[index]))


def test_attention_that_labels_replace_still_moves_its_batch_statistics():
    rng = np.random.default_rng(0)
    module = LabelledAttention(5, 4, background=False, norm="bn", rng=rng)
    before = np.array(module.key[1].norm_act.bn.mean[...])
    call(module, random(1, 2, 4, 5), random(1, 4, 1, 5), LABELS)
    assert not np.allclose(module.key[1].norm_act.bn.mean[...], before)

"""The attention of ISA and OCR against its definition."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from modules import attention, call, close, evaluate, random, softmax

from openseg_jax.data.dataset import IGNORE
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
from openseg_jax.models.layers import attention as attention_code
from openseg_jax.models.ocr import attend_to_objects, gather_objects

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
from openseg_jax.models.layers import attention as attention_code

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

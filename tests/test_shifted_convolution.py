"""Convolutions as shifted multiply-adds, and 1x1 ones as products, against XLA's own."""

from functools import partial

import jax
import numpy as np
import pytest

from openseg_jax.models.layers import shifted
from openseg_jax.models.layers.convolve import convolve
from openseg_jax.models.layers.xla import convolve_general

GEOMETRIES = [
    # stride, dilation, padding, (h, w)
    *((1, 1, 1, (height, 5)) for height in (1, 2, 7, 8, 9, 16, 17, 33)),
    (1, 2, 2, (33, 9)),
    (1, 4, 4, (5, 9)),
    (2, 1, 1, (16, 7)),
    (2, 1, 1, (17, 8)),
    (2, 1, 0, (19, 9)),
    (2, 2, 2, (13, 10)),
    (3, 1, 1, (25, 11)),
]


def agree(ours, reference, x_shape, kernel_shape):
    """In value and gradients, in float64."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel = rng.normal(size=x_shape), rng.normal(size=kernel_shape)
        y, backward = jax.vjp(jax.jit(ours), x, kernel)
        expected, expected_backward = jax.vjp(jax.jit(reference), x, kernel)
        upstream = rng.normal(size=y.shape)
        found = (y, *backward(upstream))
        for array, wanted in zip(found, (expected, *expected_backward(upstream)), strict=True):
            np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-12 * x.size)


@pytest.mark.parametrize("stride,dilation,padding,size", GEOMETRIES)
def test_a_depthwise_convolution_is_xlas(stride, dilation, padding, size):
    geometry = dict(stride=stride, dilation=dilation, padding=padding)
    agree(
        lambda x, kernel: convolve(x, kernel, groups=3, **geometry),
        partial(convolve_general, groups=3, **geometry),
        (2, *size, 3),
        (3, 3, 1, 3),
    )


@pytest.mark.parametrize("stride,dilation,padding,size", GEOMETRIES)
def test_a_convolution_of_few_channels_is_xlas(stride, dilation, padding, size, monkeypatch):
    calls, forward = [], shifted.convolve
    monkeypatch.setattr(shifted, "convolve", lambda *args: calls.append(1) or forward(*args))
    geometry = dict(stride=stride, dilation=dilation, padding=padding)
    agree(
        lambda x, kernel: convolve(x, kernel, groups=1, **geometry),
        partial(convolve_general, groups=1, **geometry),
        (2, *size, 3),
        (3, 3, 3, 5),
    )
    assert calls


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("inputs,outputs", [(3, 7), (7, 3), (4, 4)])
def test_a_1x1_convolution_is_xlas(inputs, outputs, stride):
    agree(
        lambda x, kernel: convolve(x, kernel, stride, 1, 1, 0),
        partial(convolve_general, stride=stride, dilation=1, groups=1, padding=0),
        (2, 6, 5, inputs),
        (1, 1, inputs, outputs),
    )


@pytest.mark.parametrize("rows,groups", [(1, (1, 4)), (8, (1, 8)), (32, (4, 8)), (33, (5, 7))])
def test_rows_are_summed_in_groups_that_add_few(rows, groups):
    assert shifted._row_groups(rows) == groups

"""The ways that dense convolutions take on a CPU, against XLA's own."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from openseg_jax.config import default_config
from openseg_jax.models import segmenter
from openseg_jax.models.layers import Conv, ConvNormAct, winograd
from openseg_jax.models.layers import convolve as convolve_module
from openseg_jax.models.layers.convolve import convolve
from openseg_jax.models.layers.xla import convolve_general, convolve_on_gpu

GEOMETRIES = [
    # stride, dilation, padding, (h, w)
    (1, 1, 1, (6, 8)),
    (1, 1, 1, (5, 7)),
    (1, 2, 2, (9, 12)),
    (1, 4, 4, (17, 10)),
    (1, 3, 3, (2, 3)),
    (2, 1, 1, (8, 6)),
    (2, 1, 1, (7, 9)),
    (2, 2, 2, (9, 10)),
    (3, 1, 0, (9, 11)),
    (1, 1, 0, (5, 6)),
    (1, 1, 3, (5, 6)),
]
WINOGRAD_GEOMETRIES = [(g[1], g[3]) for g in GEOMETRIES if g[0] == 1 and g[1] == g[2]]


def random(shape):
    """Normal values, the same whichever tests ran before."""
    return np.random.default_rng(shape).normal(size=shape)


def general(geometry):
    stride, dilation, padding = geometry
    return partial(convolve_general, stride=stride, dilation=dilation, padding=padding, groups=1)


def value_and_gradients(convolution, x, kernel):
    y, backward = jax.vjp(convolution, x, kernel)
    upstream = np.random.default_rng(1).normal(size=y.shape)
    return y, *backward(jnp.asarray(upstream.astype(y.dtype)))


@pytest.mark.parametrize("stride,dilation,padding,size", GEOMETRIES)
def test_the_gradient_of_a_kernel_by_products_is_xlas(monkeypatch, stride, dilation, padding, size):
    monkeypatch.setattr(convolve_module, "LEAST_CHANNELS", 1)
    geometry = stride, dilation, padding
    x, kernel = random((2, *size, 4)), random((3, 3, 4, 5))
    with jax.enable_x64(True):
        ours = value_and_gradients(
            lambda x, kernel: convolve(x, kernel, stride, dilation, 1, padding), x, kernel
        )
        expected = value_and_gradients(general(geometry), x, kernel)
    for array, reference in zip(ours, expected, strict=True):
        np.testing.assert_allclose(array, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride,dilation,padding,size", GEOMETRIES)
def test_gradients_on_a_gpu_are_xlas(stride, dilation, padding, size, groups):
    geometry = dict(stride=stride, dilation=dilation, padding=padding, groups=groups)
    x, kernel = random((2, *size, 4)), random((3, 3, 4 // groups, 8))
    with jax.enable_x64(True):
        ours = value_and_gradients(partial(convolve_on_gpu, **geometry), x, kernel)
        expected = value_and_gradients(partial(convolve_general, **geometry), x, kernel)
    for array, reference in zip(ours, expected, strict=True):
        np.testing.assert_allclose(array, reference, rtol=0, atol=1e-12)


SHARED = """
from functools import partial
import jax, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from openseg_jax.hlo import collectives
from openseg_jax.models.layers.xla import convolve_general, convolve_on_gpu

rng = np.random.default_rng(0)
for shape, dilation, height, groups in (
    ((4, 1), 4, 17, 1), ((1, 4), 2, 12, 1), ((1, 4), 2, 68, 1), ((1, 4), 12, 64, 1),
    ((1, 4), 3, 16, 1), ((2, 2), 4, 20, 8), ((2, 2), 4, 17, 1), ((1, 2), 2, 65, 1),
    ((2, 2), 36, 64, 1), ((1, 4), 12, 12, 1), ((1, 4), 24, 16, 1),
):
    devices = np.reshape(jax.devices()[:shape[0] * shape[1]], shape)
    mesh = Mesh(devices, ("data", "height"), axis_types=(AxisType.Auto,) * 2)
    x, gradient = rng.standard_normal((2, 4, height, 10, 8), np.float32)
    kernel = rng.standard_normal((3, 3, 8 // groups, 8), np.float32)
    geometry = dict(stride=1, dilation=dilation, groups=groups, padding=dilation)

    def gradients(convolution, x, kernel, gradient):
        y, backward = jax.vjp(partial(convolution, **geometry), x, kernel)
        return y, *backward(gradient)

    rows = "height" if height % shape[1] == 0 else None
    shared = NamedSharding(mesh, PartitionSpec("data", rows))
    inputs = jax.device_put(x, shared), kernel, jax.device_put(gradient, shared)
    program = jax.jit(partial(gradients, convolve_on_gpu)).lower(*inputs).compile()
    ours = program(*inputs)
    if shape[1] == 1:  # images of its own: nothing but the gradient's sum concerns the others
        assert collectives(program.as_text()).keys() == {"all-reduce"}, program.as_text()
    for array, reference in zip(ours, gradients(convolve_general, x, kernel, gradient)):
        np.testing.assert_allclose(array, reference, rtol=0, atol=1e-4 * abs(reference).max())
print("equal")
"""


@pytest.mark.slow  # a program for each of eleven meshes and geometries
def test_gradients_on_gpus_that_share_a_map_are_xlas():
    """As XLA partitions them: a reshape made wrong phases of shared rows, without a word."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", SHARED]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.stdout.strip() == "equal", finished.stderr


@pytest.mark.parametrize("dilation,size", WINOGRAD_GEOMETRIES)
def test_winograd_is_a_convolution_with_its_gradients(dilation, size):
    x, kernel = random((2, *size, 4)), random((3, 3, 4, 5))
    with jax.enable_x64(True):
        ours = value_and_gradients(
            lambda x, kernel: winograd.convolve(x, kernel, dilation), x, kernel
        )
        expected = value_and_gradients(general((1, dilation, dilation)), x, kernel)
    for array, reference in zip(ours, expected, strict=True):
        np.testing.assert_allclose(array, reference, rtol=0, atol=1e-12)


def test_winograd_rounds_little_more_than_xla():
    x = np.maximum(random((1, 32, 32, 256)), 0)
    kernel = random((3, 3, 256, 256)) / 48
    with jax.enable_x64(True):
        exact = [np.asarray(y) for y in value_and_gradients(general((1, 1, 1)), x, kernel)]
    single = x.astype(np.float32), kernel.astype(np.float32)
    ours = value_and_gradients(lambda x, kernel: winograd.convolve(x, kernel, 1), *single)
    for array, reference in zip(ours, exact, strict=True):
        assert np.abs(np.asarray(array) - reference).max() < 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize(
    "faster,size,kernel,stride,dilation,padding,dtype",
    [
        (True, (1, 32, 64), (3, 3, 512, 512), 1, 4, 4, "float32"),
        (True, (1, 32, 64), (3, 3, 160, 512), 1, 1, 1, "float32"),
        (False, (1, 32, 64), (3, 3, 512, 512), 1, 4, 4, "bfloat16"),
        (False, (1, 32, 64), (3, 3, 512, 512), 2, 1, 1, "float32"),
        (False, (1, 32, 64), (3, 3, 512, 512), 1, 1, 0, "float32"),
        (False, (1, 32, 64), (5, 5, 512, 512), 1, 1, 1, "float32"),
        (False, (1, 32, 64), (3, 3, 128, 128), 1, 1, 1, "float32"),
        (False, (1, 8, 16), (3, 3, 512, 512), 1, 1, 1, "float32"),
        (False, (1, 32, 64), (3, 3, 2048, 256), 1, 36, 36, "float32"),  # tiles of 72 pixels
        (False, (8, 128, 256), (3, 3, 2048, 512), 1, 1, 1, "float32"),  # 8 GB of tiles
    ],
)
def test_where_winograd_is_used(faster, size, kernel, stride, dilation, padding, dtype):
    x = jax.ShapeDtypeStruct((*size, kernel[2]), dtype)
    kernel = jax.ShapeDtypeStruct(kernel, dtype)
    assert winograd.is_faster(x, kernel, stride, dilation, padding) == faster


@pytest.mark.slow
def test_a_network_is_the_same_by_winograd_and_by_products(monkeypatch):
    model = default_config().model
    model.update(dict(method="ocr", backbone="resnet18", num_classes=4))
    network = segmenter.build(model, np.random.default_rng(0))
    params, stats, graphs = segmenter.graphs(network)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3))

    def gradients():
        def loss(params):
            logits = nnx.merge(graphs["eval"], params, stats)(images)[-1]
            return (logits**2).mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        expected, expected_gradients = gradients()
        monkeypatch.setattr(winograd, "LEAST_PRODUCT", 1)
        monkeypatch.setattr(winograd, "LEAST_PIXELS", 1)
        monkeypatch.setattr(convolve_module, "LEAST_CHANNELS", 1)
        calls, convolution = [], winograd.convolve
        monkeypatch.setattr(
            winograd, "convolve", lambda *args: calls.append(1) or convolution(*args)
        )
        ours, our_gradients = gradients()
    assert len(calls) > 15
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected_gradients))
    for gradient, reference in zip(
        jax.tree.leaves(our_gradients), jax.tree.leaves(expected_gradients), strict=True
    ):
        np.testing.assert_allclose(gradient, reference, rtol=0, atol=1e-10 * largest)


def test_maps_side_by_side_are_one_map():
    kernel = random((7, 5)).astype(np.float32)
    maps = [random((2, 3, 4, width)).astype(np.float32) for width in (4, 1, 2)]
    y = convolve_module.convolve_concatenation(maps, kernel)
    np.testing.assert_allclose(y, np.concatenate(maps, -1) @ kernel, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, jnp.bfloat16])
@pytest.mark.parametrize("before", [False, True], ids=["an average", "convolved before, too"])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "default"])
def test_an_average_is_convolved_before_or_after_alike(platform, before, dtype, monkeypatch):
    """What a CPU does, and other platforms, against the order of the networks."""
    monkeypatch.setattr(
        jax.lax,
        "platform_dependent",
        lambda *inputs, **ways: ways.get(platform, ways["default"])(*inputs),
    )
    conv = ConvNormAct(4, 5, bias=True, rng=np.random.default_rng(0))
    conv = nnx.view(conv, use_running_average=True)
    first = Conv(3, 4, rng=np.random.default_rng(1)) if before else None
    with jax.enable_x64(dtype == np.float64):
        x = jnp.asarray(random((2, 3, 4, 3 if before else 4)), dtype)
        weights = jax.nn.softmax(jnp.asarray(random((2, 6, 12)), dtype), -1)

        def average(x):
            x = x.reshape(2, 12, -1)
            return jnp.einsum("npm,nmc->npc", weights, x).reshape(2, 2, 3, -1)

        def ours(conv, first, x):
            return conv.of_average(average, x, *([first] if before else []))

        def plain(conv, first, x):
            return conv(average(first(x) if before else x))

        found, expected = (
            value_and_gradients_of_modules(apply, conv, first, x) for apply in (ours, plain)
        )
    tolerance = 1e-6 if dtype == np.float64 else 0.02  # batch norm keeps float32 parameters
    assert len(found) == len(expected) == (7 if before else 6)
    for array, reference in zip(found, expected, strict=True):
        assert array.dtype == reference.dtype
        array, reference = np.asarray(array, np.float64), np.asarray(reference, np.float64)
        np.testing.assert_allclose(array, reference, rtol=0, atol=tolerance * abs(reference).max())


def value_and_gradients_of_modules(apply, conv, first, x):
    """The value, and the gradients of its square by the parameters and `x`."""

    def loss(params, others, x):
        y = apply(*nnx.merge(graph, params, others), x)
        return (y.astype(jnp.float32) ** 2).sum(), y

    graph, params, others = nnx.split((conv, first), nnx.Param, ...)
    (_, y), gradients = jax.value_and_grad(loss, (0, 2), has_aux=True)(params, others, x)
    return [y, *jax.tree.leaves(gradients)]

"""Layers against PyTorch where it is installed, and against plain NumPy everywhere."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from openseg_jax.errors import UserError
from openseg_jax.models import layers
from openseg_jax.models.layers import (
    BatchNorm,
    Conv,
    ConvNormAct,
    average_pool,
    batch_norm,
    max_pool,
    resize,
    resize_bilinear,
)
from openseg_jax.models.layers import convolve as convolve_module
from openseg_jax.models.layers.convolve import convolve

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def close(ours, reference, tolerance=2e-5):
    scale = max(np.abs(reference).max(), 1)
    np.testing.assert_allclose(np.asarray(ours), reference, rtol=0, atol=tolerance * scale)


def naive_convolution(x, kernel, stride, dilation, groups, padding):
    """Straight from the definition, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    size, per_group = kernel.shape[0], kernel.shape[3] // groups
    out = [(s - dilation * (size - 1) - 1) // stride + 1 for s in x.shape[1:3]]
    y = np.zeros((x.shape[0], *out, kernel.shape[3]))
    for o in range(kernel.shape[3]):
        group = o // per_group
        inputs = slice(group * kernel.shape[2], (group + 1) * kernel.shape[2])
        for i in range(out[0]):
            for j in range(out[1]):
                rows = slice(i * stride, i * stride + dilation * (size - 1) + 1, dilation)
                columns = slice(j * stride, j * stride + dilation * (size - 1) + 1, dilation)
                y[:, i, j, o] = (x[:, rows, columns, inputs] * kernel[..., o]).sum((1, 2, 3))
    return y


CONVOLUTIONS = [
    # kernel, stride, dilation, groups, padding, (h, w)
    (1, 1, 1, 1, 0, (5, 6)),
    (1, 2, 1, 1, 0, (5, 6)),
    (3, 1, 1, 1, 1, (5, 6)),
    (3, 2, 1, 1, 1, (6, 7)),
    (3, 1, 2, 1, 2, (6, 5)),
    (3, 1, 1, 4, 1, (5, 6)),
    (3, 2, 1, 4, 1, (6, 7)),
    (3, 2, 1, 4, 1, (7, 6)),
    (3, 1, 4, 4, 4, (9, 10)),
    (3, 2, 2, 4, 2, (9, 10)),  # of two rows the taps meet one
    (3, 4, 1, 4, 1, (9, 10)),
    (1, 2, 1, 4, 0, (5, 6)),
]


@pytest.mark.parametrize("kernel,stride,dilation,groups,padding,size", CONVOLUTIONS)
def test_convolution_and_its_gradients(kernel, stride, dilation, groups, padding, size):
    x, k = random(2, *size, 4), random(kernel, kernel, 4 // groups, 4)

    def ours(x, k):
        return convolve(x, k, stride, dilation, groups, padding)

    y, backward = jax.vjp(jax.jit(ours), x, k)
    close(y, naive_convolution(x, k, stride, dilation, groups, padding))

    general = jax.jit(
        lambda x, k: convolve_module.convolve_general(
            x, k, stride=stride, dilation=dilation, groups=groups, padding=padding
        )
    )
    upstream = random(*y.shape)
    for gradient, reference in zip(
        jax.jit(backward)(upstream), jax.vjp(general, x, k)[1](upstream), strict=True
    ):
        close(gradient, np.asarray(reference))


def test_depthwise_gradients_of_bfloat16_do_not_lose_precision_with_the_height():
    x, k, upstream = random(1, 1024, 4, 2), random(3, 3, 1, 2), random(1, 1024, 4, 2)
    low = [jnp.asarray(array, jnp.bfloat16) for array in (x, k, upstream)]
    exact = [np.asarray(array, np.float32) for array in low]

    def results(x, k, upstream):
        y, backward = jax.vjp(lambda x, k: convolve(x, k, 1, 1, 2, 1), x, k)
        return y, *backward(upstream)

    for ours, reference in zip(results(*low), results(*exact), strict=True):
        assert ours.dtype == jnp.bfloat16
        close(ours.astype(np.float32), np.asarray(reference), 2**-8)


@pytest.mark.parametrize("stride,padding", [(1, 0), (2, 0), (1, 1)])
def test_maps_beside_each_other_are_convolved_as_their_concatenation(stride, padding):
    conv = Conv(5, 4, 1, stride, padding=padding, rng=np.random.default_rng(0))
    maps = random(2, 6, 6, 3), random(2, 6, 6, 2)
    together = np.concatenate(maps, -1)
    close(conv(*map(jnp.asarray, maps)), np.asarray(conv(jnp.asarray(together))))


def test_activations_have_torchs_gradients_where_they_bend():
    torch = pytest.importorskip("torch")
    x = np.array([-1, 0, 3, 6, 7], np.float32)
    for ours, theirs in ((layers.relu, torch.relu), (layers.relu6, torch.nn.functional.relu6)):
        reference = torch.tensor(x, requires_grad=True)
        theirs(reference).sum().backward()
        np.testing.assert_array_equal(jax.grad(lambda x, f=ours: f(x).sum())(x), reference.grad)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(33, 65), (9, 12), (1, 1), (17, 40), (16, 33)])
def test_resize_and_its_gradient(size, align_corners):
    torch = pytest.importorskip("torch")
    x, upstream = random(2, 17, 33, 3), random(2, *size, 3)
    y, backward = jax.vjp(
        jax.jit(lambda x: resize_bilinear(x, size, align_corners=align_corners)), x
    )
    reference_x = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    reference = torch.nn.functional.interpolate(
        reference_x, size, mode="bilinear", align_corners=align_corners
    )
    reference.backward(torch.tensor(upstream).permute(0, 3, 1, 2))
    close(y, reference.detach().permute(0, 2, 3, 1).numpy())
    close(backward(upstream)[0], reference_x.grad.permute(0, 2, 3, 1).numpy())


def test_resize_by_gathers_equals_resize_by_matrices_and_interpolates_linearly():
    ramp = np.arange(5, dtype=np.float32).reshape(1, 1, 5, 1) * np.ones((1, 3, 1, 1), np.float32)
    y = np.asarray(resize_bilinear(ramp, (3, 9)))
    np.testing.assert_allclose(y[0, 0, :, 0], np.arange(9) / 2)
    x = random(1, 7, 5, 2)
    for align_corners in (True, False):
        close(
            resize._resize_by_gathers(jnp.asarray(x), (13, 4), align_corners),
            np.asarray(resize._resize_by_matrices(jnp.asarray(x), (13, 4), align_corners)),
        )


def train_step(norm, params, stats, x):
    graph = nnx.graphdef(norm)
    network = nnx.merge(graph, params, stats)
    return network(x), nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))


def split(module):
    return (nnx.to_pure_dict(nnx.state(module, kind)) for kind in (nnx.Param, nnx.BatchStat))


@pytest.mark.parametrize("few_samples", [0, batch_norm.FEW_SAMPLES])
def test_batch_norm_statistics_far_from_zero(monkeypatch, few_samples):
    monkeypatch.setattr(batch_norm, "FEW_SAMPLES", few_samples)
    norm = BatchNorm(3)
    params, stats = split(norm)
    x = random(4, 5, 6, 3) * 2.8 + np.array([1000, -50, 0], np.float32)
    step = jax.jit(lambda p, s, x: train_step(norm, p, s, x))
    for _ in range(200):  # the running mean, which shifts the data, finds its way
        y, stats = step(params, stats, x)
    wide = x.astype(np.float64)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    close(y, (wide - mean) / np.sqrt(var + 1e-5), 1e-4)
    close(stats["mean"], mean, 1e-6)
    n = x.size / 3
    np.testing.assert_allclose(stats["var"], var * n / (n - 1), rtol=1e-4)


@pytest.mark.parametrize("few_samples", [0, batch_norm.FEW_SAMPLES])
def test_batch_norm_of_a_first_step_and_with_a_constant(monkeypatch, few_samples):
    """Means up to 30 standard deviations before there are statistics; a constant of any size."""
    monkeypatch.setattr(batch_norm, "FEW_SAMPLES", few_samples)
    x = random(4, 9, 9, 2) * 0.1
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    offset = np.array([3, -2], np.float32)
    close(BatchNorm(2)(jnp.asarray(x + offset)), expected, 3e-4)
    norm, constant = BatchNorm(2), np.array([500, -20], np.float32)
    norm.mean.set_value(constant)
    close(norm(jnp.asarray(x), constant), expected)
    norm.mean.set_value(constant + 40)
    close(norm(jnp.asarray(x), constant, centred=True), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("few_samples", [0, batch_norm.FEW_SAMPLES])
def test_a_norm_that_is_told_the_bias_equals_one_after_it(monkeypatch, few_samples, training):
    """In training it is only the running mean that a bias changes."""
    monkeypatch.setattr(batch_norm, "FEW_SAMPLES", few_samples)
    block = ConvNormAct(4, 3, rng=np.random.default_rng(1))
    block.conv.bias.set_value(np.array([20, -3, 0.5], np.float32))
    block.norm_act.bn.mean.set_value(np.array([19, -3, 0], np.float32))
    block = nnx.view(block, use_running_average=not training)
    (params, stats), x = split(block), jnp.asarray(random(2, 6, 7, 4))

    def result(way, params):
        network = nnx.merge(nnx.graphdef(block), params, stats)
        return way(network), nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    told, after = lambda block: block(x), lambda block: block.norm_act(block.conv(x))
    (y, found), backward = jax.vjp(partial(result, told), params)
    (expected, running), plain_backward = jax.vjp(partial(result, after), params)
    close(y, expected)
    upstream = random(*y.shape), jax.tree.map(jnp.zeros_like, running)
    gradients, plain = backward(upstream)[0], plain_backward(upstream)[0]
    assert (np.abs(plain["conv"]["bias"]).max() < 1e-4) == training
    jax.tree.map(partial(close, tolerance=1e-4), (found, gradients), (running, plain))


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu"])
def test_an_activation_keeps_its_output_alone_for_the_gradient(name):
    """The convolution after it keeps that anyway; inputs too would be twice the memory."""
    x = random(2, 3, 4, 5) * 4
    y, backward = jax.vjp(getattr(layers, name), jnp.asarray(x))
    (kept,) = jax.tree.leaves(backward)
    np.testing.assert_array_equal(kept, y)
    expected = {
        "relu": x > 0,
        "relu6": (x > 0) & (x < 6),
        "leaky_relu": np.where(x >= 0, 1, np.float32(0.01)),
    }[name]
    (gradient,) = backward(jnp.ones_like(y))
    np.testing.assert_array_equal(gradient, expected.astype(np.float32))


def test_batch_norm_of_one_value_is_refused():
    with pytest.raises(UserError, match="1 value"):
        BatchNorm(2)(jnp.ones((1, 1, 1, 2)))


@pytest.mark.parametrize("norm", ["bn", "inplace_abn"])
def test_batch_norm_evaluates_with_running_statistics_and_keeps_the_dtype(norm):
    module = BatchNorm(4, norm=norm)
    scale = np.array([1.5, -0.5, 0.0, 2.0], np.float32)
    mean, var = random(4) * 50, np.abs(random(4)) + 0.1
    module.scale.set_value(scale), module.mean.set_value(mean), module.var.set_value(var)
    module = nnx.view(module, use_running_average=True)
    x = random(1, 2, 3, 4)
    effective = np.abs(scale) + 1e-5 if norm == "inplace_abn" else scale
    close(module(jnp.asarray(x)), (x - mean) / np.sqrt(var + 1e-5) * effective)
    assert module(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("few_samples", [0, batch_norm.FEW_SAMPLES])
def test_batch_norm_trains_as_torch_does(monkeypatch, few_samples):
    monkeypatch.setattr(batch_norm, "FEW_SAMPLES", few_samples)
    torch = pytest.importorskip("torch")
    norm, reference = BatchNorm(5), torch.nn.BatchNorm2d(5).train()
    params, stats = split(norm)

    @jax.jit
    def step(params, stats, x, upstream):
        def loss(params, x):
            y, new = train_step(norm, params, stats, x)
            return (y * upstream).sum(), (y, new)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    for _ in range(5):
        x, upstream = random(4, 3, 5, 5) * 3 + 5, random(4, 3, 5, 5)
        (grads, dx), (y, stats) = step(params, stats, x, upstream)
        x_torch = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
        reference.zero_grad()
        y_torch = reference(x_torch)
        y_torch.backward(torch.tensor(upstream).permute(0, 3, 1, 2))
        close(y, y_torch.detach().permute(0, 2, 3, 1).numpy())
        close(dx, x_torch.grad.permute(0, 2, 3, 1).numpy(), 5e-5)
        close(grads["scale"], reference.weight.grad.numpy())
        close(grads["bias"], reference.bias.grad.numpy())
        close(stats["mean"], reference.running_mean.numpy(), 1e-5)
        close(stats["var"], reference.running_var.numpy(), 1e-5)


def test_initialisation_is_torchs_and_follows_the_generator():
    conv = Conv(8, 64, 3, bias=True, rng=np.random.default_rng(3))
    bound = 1 / np.sqrt(8 * 9)
    kernel = conv.kernel.get_value()
    assert np.abs(kernel).max() <= bound and kernel.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert np.abs(conv.bias.get_value()).max() <= bound and conv.bias.get_value().std() > 0
    again = Conv(8, 64, 3, bias=True, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(kernel, again.kernel.get_value())


@pytest.mark.parametrize("count_padding", (None, True, False))  # None: the largest, not the mean
@pytest.mark.parametrize("ceil_mode", (True, False))
@pytest.mark.parametrize("length", (4, 5, 10))
def test_pooling_and_its_gradient_equal_torch(length, ceil_mode, count_padding):
    torch = pytest.importorskip("torch")
    if count_padding is None:
        pool, reference, options = max_pool, torch.nn.functional.max_pool2d, {}
    else:
        pool = partial(average_pool, count_padding=count_padding)
        reference = torch.nn.functional.avg_pool2d
        options = {"count_include_pad": count_padding}
    rng = np.random.default_rng(length)
    x = rng.standard_normal((2, length, length + 1, 3), np.float32)
    nchw = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    for size, stride, padding in ((3, 2, 1), (2, 2, 0), (3, 1, 1)):
        expected = reference(nchw, size, stride, padding, ceil_mode=ceil_mode, **options)
        direction = torch.from_numpy(rng.standard_normal(tuple(expected.shape), np.float32))
        (expected_gradient,) = torch.autograd.grad((expected * direction).sum(), nchw)
        ours = partial(pool, size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
        y, gradient = jax.vjp(ours, jnp.asarray(x))
        np.testing.assert_allclose(y, expected.detach().permute(0, 2, 3, 1), atol=1e-6)
        (gradient,) = gradient(jnp.asarray(direction.permute(0, 2, 3, 1).numpy()))
        np.testing.assert_allclose(gradient, expected_gradient.permute(0, 2, 3, 1), atol=2e-6)


def test_a_network_without_weights_takes_no_memory_and_is_not_a_number():
    conv = Conv(2000, 2000, 7, bias=True, rng=None)
    assert conv.kernel.get_value().base is not None and not any(conv.kernel.get_value().strides)
    assert np.isnan(conv.kernel.get_value()[0, 0, 0, 0]) and np.isnan(conv.bias.get_value()).all()

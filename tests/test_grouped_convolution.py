"""Grouped convolutions, which XLA:CPU gets as dense ones, against PyTorch and the plain XLA way."""

import jax
import numpy as np
import pytest

from openseg_jax.models.layers.convolve import convolve
from openseg_jax.models.layers.xla import convolve_general

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def close(ours, reference):
    reference = np.asarray(reference)
    np.testing.assert_allclose(
        np.asarray(ours), reference, rtol=0, atol=2e-5 * np.abs(reference).max()
    )


GROUPED = [
    # groups, in, out, kernel, stride, dilation, (h, w)
    (2, 6, 12, 3, 1, 1, (5, 6)),
    (2, 6, 12, 3, 1, 2, (7, 6)),
    (2, 96, 64, 3, 1, 1, (4, 4)),
    (32, 64, 64, 3, 2, 1, (9, 6)),
    (32, 128, 256, 3, 1, 2, (5, 5)),
    (6, 60, 30, 3, 1, 1, (4, 5)),
    (4, 8, 8, 1, 2, 1, (5, 6)),
]


@pytest.mark.parametrize("groups,inputs,outputs,kernel,stride,dilation,size", GROUPED[1:4])
def test_grouped_convolution_and_its_gradients(
    groups, inputs, outputs, kernel, stride, dilation, size
):
    torch = pytest.importorskip("torch")
    x, weight = random(2, *size, inputs), random(kernel, kernel, inputs // groups, outputs)
    padding = dilation * (kernel - 1) // 2

    def ours(x, weight):
        return convolve(x, weight, stride, dilation, groups, padding)

    y, backward = jax.vjp(jax.jit(ours), x, weight)
    upstream = random(*y.shape)
    x_torch = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    weight_torch = torch.tensor(weight.transpose(3, 2, 0, 1), requires_grad=True)
    reference = torch.nn.functional.conv2d(
        x_torch, weight_torch, None, stride, padding, dilation, groups
    )
    reference.backward(torch.tensor(upstream.transpose(0, 3, 1, 2)))
    close(y, reference.detach().numpy().transpose(0, 2, 3, 1))
    x_gradient, weight_gradient = jax.jit(backward)(upstream)
    close(x_gradient, x_torch.grad.numpy().transpose(0, 2, 3, 1))
    close(weight_gradient, weight_torch.grad.numpy().transpose(2, 3, 1, 0))


@pytest.mark.parametrize("groups,inputs,outputs,kernel,stride,dilation,size", GROUPED)
def test_grouped_convolution_is_that_of_accelerators(
    groups, inputs, outputs, kernel, stride, dilation, size
):
    x, weight = random(1, *size, inputs), random(kernel, kernel, inputs // groups, outputs)
    padding = dilation * (kernel - 1) // 2
    general = dict(stride=stride, dilation=dilation, groups=groups, padding=padding)
    y, backward = jax.vjp(lambda x, k: convolve(x, k, stride, dilation, groups, padding), x, weight)
    reference, back = jax.vjp(lambda x, k: convolve_general(x, k, **general), x, weight)
    close(y, reference)
    upstream = random(*y.shape)
    for ours, gradient in zip(jax.jit(backward)(upstream), jax.jit(back)(upstream), strict=True):
        close(ours, gradient)

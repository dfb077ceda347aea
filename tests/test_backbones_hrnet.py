"""High-resolution networks: sizes, names, and the exchange against the formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from openseg_jax.models import hrnet
from openseg_jax.models.hrnet import (
    BasicBlock,
    HighResolutionModule,
    HRNet2x20,
    HRNetV2,
    merge_resolutions,
)
from openseg_jax.models.layers import BatchNorm

STATE = (nnx.Param, nnx.BatchStat)


def random(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def evaluated(module, rng):
    """`module` in evaluation, its norms with random statistics and scales of both signs."""
    for _, node in nnx.iter_modules(module):
        if isinstance(node, BatchNorm):
            for variable in (node.scale, node.bias, node.mean):
                variable.set_value(random(rng, *variable.shape))
            node.var.set_value(rng.random(node.var.shape, np.float32) + 0.5)
    return nnx.view(module, use_running_average=True)


@pytest.mark.parametrize(
    "make,count",
    [
        (lambda: HRNetV2(18, rng=None), 9_562_260),
        (lambda: HRNetV2(32, rng=None), 29_305_536),
        (lambda: HRNetV2(48, rng=None), 65_325_120),
        (lambda: HRNetV2(64, rng=None), 115_697_600),
        (lambda: HRNet2x20(rng=None), 47_085_184),
    ],
)
def test_parameter_counts_are_those_of_the_original(make, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(make(), nnx.Param))) == count


@pytest.mark.parametrize(
    "make,size,sizes",
    [
        (lambda: HRNetV2(18, rng=None), (473, 97), [(119, 25), (60, 13), (30, 7), (15, 4)]),
        (lambda: HRNetV2(18, rng=None), (64, 96), [(16, 24), (8, 12), (4, 6), (2, 3)]),
        (
            lambda: HRNet2x20(rng=None),
            (97, 130),
            [(49, 65), (25, 33), (13, 17), (7, 9), (4, 5)],
        ),
    ],
)
def test_maps_have_the_announced_widths_and_strides(make, size, sizes):
    network = nnx.view(make(), use_running_average=True)
    maps = jax.eval_shape(network, jax.ShapeDtypeStruct((1, *size, 3), jnp.bfloat16))
    assert [x.shape for x in maps] == [
        (1, *size, width) for size, width in zip(sizes, network.widths, strict=True)
    ]
    assert {x.dtype for x in maps} == {jnp.dtype(jnp.bfloat16)}
    merged = jax.eval_shape(merge_resolutions, maps)
    assert merged.shape == (1, *sizes[0], sum(network.widths))


@pytest.mark.parametrize(
    "make,count,some",
    [
        (
            lambda: HRNetV2(48, rng=None),
            1525,
            {
                "conv2.kernel": (3, 3, 64, 64),
                "layer1.0.downsample.1.var": (256,),
                "transition1.0.0.kernel": (3, 3, 256, 48),
                "transition1.1.0.0.kernel": (3, 3, 256, 96),
                "transition3.3.0.1.mean": (384,),
                "stage3.3.branches.2.3.bn2.scale": (192,),
                "stage4.2.fuse_layers.0.3.0.kernel": (1, 1, 384, 48),
                "stage4.2.fuse_layers.3.0.1.0.kernel": (3, 3, 48, 48),
                "stage4.2.fuse_layers.3.0.2.1.bias": (384,),
            },
        ),
        (
            lambda: HRNet2x20(rng=None),
            2335,
            {
                "transition0.1.0.0.kernel": (3, 3, 64, 256),
                "stage1.0.branches.1.3.conv2.kernel": (3, 3, 64, 64),
                "transition1.1.0.kernel": (3, 3, 256, 40),
                "transition1.2.0.0.kernel": (3, 3, 256, 80),
                "stage4.2.fuse_layers.4.1.2.0.kernel": (3, 3, 40, 320),
            },
        ),
    ],
)
def test_parameters_have_the_places_of_the_published_files(make, count, some):
    state = {
        ".".join(map(str, path)): variable.shape
        for path, variable in nnx.to_flat_state(nnx.state(make(), STATE))
    }
    assert len(state) == count
    assert {name: state.get(name) for name in some} == some


# The exchange, straight from its definition in float64.


def convolution(x, kernel, stride):
    """`kernel: (k, k, in, out)`, padding k // 2."""
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
    return np.einsum("nhwikl,klio->nhwo", windows[:, ::stride, ::stride], kernel)


def normalization(x, bn):
    scale, bias, mean, var = (np.asarray(v[...]) for v in (bn.scale, bn.bias, bn.mean, bn.var))
    scale = np.abs(scale) + 1e-5 if bn.absolute_scale else scale
    return (x - mean) / np.sqrt(var.astype(np.float64) + 1e-5) * scale + bias


def interpolation(x, size):
    """Linear along rows, then columns; corners onto corners."""
    for axis in (1, 2):
        places = np.linspace(0, x.shape[axis] - 1, size[axis - 1])
        x = np.apply_along_axis(
            lambda line, places=places: np.interp(places, np.arange(len(line)), line), axis, x
        )
    return x


@pytest.mark.parametrize("norm", ["bn", "inplace_abn"])
def test_fusion_sums_all_branches_at_each_resolution(norm, monkeypatch):
    monkeypatch.setattr(hrnet, "BLOCKS", 0)  # branches without blocks hand their maps on
    rng = np.random.default_rng(1)
    module = evaluated(HighResolutionModule((2, 3, 4), norm=norm, rng=rng), rng)
    maps = [random(rng, 2, 9, 11, 2), random(rng, 2, 5, 6, 3), random(rng, 2, 3, 3, 4)]
    high, middle, low = (x.astype(np.float64) for x in maps)

    def through(x, layers, stride):
        return normalization(convolution(x, np.asarray(layers[0].kernel[...]), stride), layers[1])

    fuse = module.fuse_layers
    half = np.maximum(through(high, fuse[2][0][0], 2), 0)
    expected = [
        high
        + interpolation(through(middle, fuse[0][1], 1), (9, 11))
        + interpolation(through(low, fuse[0][2], 1), (9, 11)),
        through(high, fuse[1][0][0], 2)
        + middle
        + interpolation(through(low, fuse[1][2], 1), (5, 6)),
        through(half, fuse[2][0][1], 2) + through(middle, fuse[2][1][0], 2) + low,
    ]
    for ours, reference in zip(jax.jit(module)(maps), expected, strict=True):
        np.testing.assert_allclose(ours, np.maximum(reference, 0), rtol=0, atol=2e-5)


def test_merging_puts_corners_on_corners_and_channels_in_order():
    rng = np.random.default_rng(2)
    high, low = random(rng, 1, 7, 9, 2), random(rng, 1, 4, 5, 3)
    merged = np.asarray(merge_resolutions([high, low]))
    np.testing.assert_array_equal(merged[..., :2], high)
    np.testing.assert_allclose(merged[:, ::2, ::2, 2:], low, atol=1e-6)


def test_activated_norm_takes_scales_without_their_sign_and_keeps_plain_relus():
    rng = np.random.default_rng(3)
    activated = evaluated(BasicBlock(4, norm="inplace_abn", rng=rng), rng)
    plain = nnx.view(BasicBlock(4, norm="bn", rng=None), use_running_average=True)
    nnx.update(plain, nnx.state(activated, STATE))
    x = random(rng, 1, 6, 5, 4)
    y = activated(x)
    assert (np.asarray(y) == 0).any() and np.asarray(y).min() == 0
    assert np.abs(plain(x) - y).max() > 0.1
    for bn in (plain.bn1, plain.bn2):
        bn.scale.set_value(np.abs(bn.scale[...]) + 1e-5)
    np.testing.assert_allclose(plain(x), y, atol=1e-6)


def test_rematerialisation_wraps_layer1_and_every_module():
    def checkpoints(remat):
        network = nnx.view(HRNetV2(2, remat=remat, rng=None), use_running_average=True)
        graph, state = nnx.split(network)
        forward = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))
        jaxpr = forward(nnx.to_pure_dict(state), jnp.zeros((1, 32, 32, 3))).jaxpr
        names = [equation.primitive.name for equation in jaxpr.eqns]
        return sum(name.startswith(("remat", "checkpoint")) for name in names)

    assert checkpoints(True) == 1 + 1 + 4 + 3 and checkpoints(False) == 0


def test_rematerialisation_changes_neither_gradients_nor_statistics(monkeypatch):
    monkeypatch.setattr(hrnet, "BLOCKS", 1)
    rng = np.random.default_rng(4)
    maps = [random(rng, 2, 9, 7, 2), random(rng, 2, 5, 4, 3)]

    def gradients_and_statistics(remat):
        stage = nnx.List([HighResolutionModule((2, 3), norm="bn", rng=np.random.default_rng(5))])
        graph, *states = nnx.split(stage, nnx.Param, nnx.BatchStat)

        def loss(params, stats):
            stage = nnx.merge(graph, params, stats)
            outputs = hrnet.run_stage(stage, maps, remat)
            return sum((y * y).mean() for y in outputs), nnx.to_pure_dict(
                nnx.state(stage, nnx.BatchStat)
            )

        step = jax.jit(jax.grad(loss, has_aux=True))
        return step(*(nnx.to_pure_dict(state) for state in states))

    plain, again = gradients_and_statistics(False), gradients_and_statistics(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, again)
    statistics = again[1][0]["branches"][1][0]["bn2"]
    assert (statistics["mean"] != 0).all() and (statistics["var"] != 1).all()

"""ResNet, ResNeXt, ResNeSt and Wide ResNet: shapes, sizes, dilation, names, gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from openseg_jax.errors import UserError
from openseg_jax.models import resnest, resnet, wide_resnet
from openseg_jax.models.layers import average_pool, max_pool
from openseg_jax.models.layers.xla import convolve_general
from openseg_jax.models.resnest import ResNeSt, SplitAttention
from openseg_jax.models.resnet import RESNEXT, ResNet
from openseg_jax.models.wide_resnet import WideResNet

resnext = partial(ResNet, **RESNEXT)

RNG = np.random.default_rng(0)
FAST = {"xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE"}


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def close(ours, reference, tolerance=2e-5):
    reference = np.asarray(reference)
    scale = max(np.abs(reference).max(), 1e-6)
    np.testing.assert_allclose(np.asarray(ours), reference, rtol=0, atol=tolerance * scale)


def evaluate(network, x):
    """The feature maps in evaluation mode, as NumPy arrays."""
    graph, state = nnx.split(nnx.view(network, use_running_average=True))
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x), compiler_options=FAST)
    return [np.asarray(y) for y in run(nnx.to_pure_dict(state), x)]


def count_parameters(network):
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    return sum(np.prod(leaf.shape) for leaf in leaves)


CLASSIFIER = 2048 * 1000 + 1000  # the published ResNeSts count their ImageNet classifier


@pytest.mark.parametrize(
    "network,options,parameters",
    [
        (ResNet, dict(depth=18), 11_324_992),
        (ResNet, dict(depth=34, deep_stem=False), 21_284_672),
        (ResNet, dict(depth=50), 23_631_808),
        (ResNet, dict(depth=50, deep_stem=False), 23_508_032),
        (ResNet, dict(depth=101), 42_623_936),
        (ResNet, dict(depth=101, deep_stem=False), 42_500_160),
        (ResNet, dict(depth=152), 58_267_584),
        (resnext, dict(group_width=8), 86_742_336),
        (resnext, dict(group_width=16), 191_977_792),
        (resnext, dict(group_width=32), 466_481_472),
        (resnext, dict(group_width=48), 826_362_176),
        (ResNeSt, dict(depth=50), 27_483_240 - CLASSIFIER),
        (ResNeSt, dict(depth=101), 48_275_016 - CLASSIFIER),
        (ResNeSt, dict(depth=200), 70_201_544 - CLASSIFIER),
        (ResNeSt, dict(depth=269), 110_929_480 - CLASSIFIER),
        (WideResNet, dict(depth=16), 59_635_008),
        (WideResNet, dict(depth=20), 78_515_520),
        (WideResNet, dict(depth=38), 105_070_912),
    ],
)
def test_number_of_parameters_is_that_of_the_published_networks(network, options, parameters):
    assert count_parameters(network(**options, rng=None)) == parameters


@pytest.mark.parametrize(
    "network,options,image,expected",
    [
        # The max-pool's ceil mode makes 129 of 256: the sizes are those of odd crops.
        (
            ResNet,
            dict(depth=50),
            (512, 1024),
            [(256, 512)] + [(129, 257)] * 2 + [(65, 129)] * 3,
        ),
        (
            ResNet,
            dict(depth=18, output_stride=16),
            (97, 129),
            [(49, 65), (25, 33), (25, 33), (13, 17), (7, 9), (7, 9)],
        ),
        (
            ResNet,
            dict(output_stride=32, depth=18),
            (128, 192),
            [(64, 96), (33, 49), (33, 49), (17, 25), (9, 13), (5, 7)],
        ),
        (
            ResNet,
            dict(depth=34, deep_stem=False),
            (473, 473),
            [(237,) * 2] + [(119,) * 2] * 2 + [(60,) * 2] * 3,
        ),
        (
            resnext,
            dict(depth=50, group_width=8),
            (128, 192),
            [(64, 96)] + [(32, 48)] * 2 + [(16, 24)] * 3,
        ),
        (ResNeSt, dict(depth=50), (128, 192), [(64, 96)] + [(33, 49)] * 2 + [(17, 25)] * 3),
        (
            ResNeSt,
            dict(depth=50, output_stride=32),
            (97, 128),
            [(49, 64), (25, 33), (25, 33), (13, 17), (7, 9), (4, 5)],
        ),
        (WideResNet, dict(depth=16), (800, 800), [(101, 101)] * 4),
        (
            WideResNet,
            dict(depth=16, output_stride=32),
            (97, 129),
            [(13, 17), (7, 9), (4, 5), (4, 5)],
        ),
    ],
)
def test_sizes_and_widths_of_the_feature_maps(network, options, image, expected):
    network = nnx.view(network(**options, rng=None), use_running_average=True)
    features = jax.eval_shape(network, jax.ShapeDtypeStruct((2, *image, 3), jnp.bfloat16))
    assert [y.shape[1:3] for y in features] == expected
    assert tuple(y.shape[3] for y in features) == network.widths
    assert all(y.dtype == jnp.bfloat16 for y in features)


@pytest.mark.parametrize(
    "options", [dict(depth=18), dict(depth=50, groups=4, group_width=16, ceil_mode=False)]
)
def test_dilated_features_hold_the_strided_ones_in_between(monkeypatch, options):
    """A convolution with holes sees, at every second place, what the strided one sees."""
    monkeypatch.setitem(resnet.BLOCKS, options["depth"], (1, 1, 2, 2))
    monkeypatch.setattr(resnet, "PLANES", (8, 16, 32, 64))
    x = random(1, 65, 65, 3)
    strided, half, full = (
        evaluate(ResNet(**options, output_stride=s, rng=np.random.default_rng(1)), x)
        for s in (32, 16, 8)
    )
    for ours, step in ((half[5], 2), (full[5], 4), (full[4], 2)):
        reference = strided[5] if ours is not full[4] else strided[4]
        assert ours.shape[1] > reference.shape[1]
        close(ours[:, ::step, ::step], reference)


def test_multi_grid_multiplies_the_dilations_of_layer4():
    def dilations(layer):
        return [(block.conv1.dilation, block.conv2.dilation) for block in layer]

    net = ResNet(depth=18, multi_grid=(1, 2, 4), rng=None)  # three numbers for two blocks
    assert dilations(net.layer3) == [(1, 2), (2, 2)]
    assert dilations(net.layer4) == [(2, 4), (8, 8)]
    assert dilations(ResNet(depth=18, multi_grid=(3,), rng=None).layer4) == [(6, 12), (4, 4)]
    assert dilations(ResNet(depth=18, output_stride=16, multi_grid=(2, 4), rng=None).layer4) == [
        (2, 4),
        (8, 8),
    ]
    net = ResNet(depth=50, multi_grid=(1, 2, 4), rng=None)
    assert [d for _, d in dilations(net.layer4)] == [2, 8, 16]
    assert [d for _, d in dilations(net.layer3)] == [1, 2, 2, 2, 2, 2]
    ones = ResNet(depth=50, multi_grid=(1, 1, 1), rng=None)
    assert dilations(ones.layer4) == dilations(ResNet(depth=50, rng=None).layer4)
    undilated = ResNet(depth=50, output_stride=32, multi_grid=(1, 2, 4), rng=None)
    assert [d for _, d in dilations(undilated.layer4)] == [1, 1, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNet(depth=77, rng=None),
        lambda: ResNet(output_stride=4, rng=None),
        lambda: ResNet(multi_grid=(1, 0, 1), rng=None),
        lambda: ResNeSt(depth=18, rng=None),
        lambda: ResNeSt(output_stride=64, rng=None),
        lambda: WideResNet(depth=50, rng=None),
        lambda: WideResNet(output_stride=4, rng=None),
    ],
)
def test_options_that_do_not_exist_are_user_errors(make):
    with pytest.raises(UserError, match="is .*: "):
        make()


def paths(network):
    return {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(network))}


def test_parameters_carry_the_published_names():
    deep, plain = (
        paths(ResNet(depth=50, rng=None)),
        paths(ResNet(depth=50, deep_stem=False, rng=None)),
    )
    assert {"resinit.conv3.kernel", "resinit.bn3.var"} <= deep - plain
    assert {"resinit.conv1.kernel", "layer1.0.downsample.0.kernel"} <= plain
    assert {"layer4.0.downsample.1.mean", "layer4.2.bn3.bias", "layer3.5.conv2.kernel"} <= plain
    assert paths(resnext(depth=50, group_width=8, rng=None)) == plain
    names = paths(ResNeSt(depth=50, rng=None))
    assert {"conv1.0.kernel", "conv1.1.scale", "conv1.6.kernel", "bn1.bias"} <= names
    assert {
        f"layer2.0.conv2.{n}" for n in ("conv.kernel", "bn0.scale", "fc1.bias", "bn1.var")
    } <= names
    assert {"layer1.0.downsample.1.kernel", "layer1.0.downsample.2.scale"} <= names
    assert not any("bn2" in name or name.startswith("fc") for name in names)
    names = paths(WideResNet(depth=38, rng=None))
    assert {"mod1.conv1.kernel", "mod2.block1.proj_conv.kernel", "bn_out.bn.scale"} <= names
    assert {"mod5.block3.convs.conv2.kernel", "mod6.block1.convs.bn3.bn.mean"} <= names
    assert "mod2.block2.proj_conv.kernel" not in names and "mod7.block1.bn1.bn.var" in names


def test_initial_weights_are_normal_by_fan_out_or_torchs_default():
    rng = np.random.default_rng(0)
    block = resnet.Bottleneck(64, 128, 256, 1, (1, 1), groups=32, norm="bn", rng=rng)
    kernel = block.conv2.kernel.get_value()  # grouped: the fan-out counts all outputs
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.05)
    convolutions = wide_resnet.Convolutions(64, (128, 128), 1, 1, norm="bn", rng=rng)
    kernel, bound = convolutions.conv2.kernel.get_value(), 1 / np.sqrt(9 * 128)
    assert 0.99 * bound < np.abs(kernel).max() <= bound


def test_split_attention_is_the_formula():
    module = SplitAttention(6, dilation=2, norm="bn", rng=np.random.default_rng(0))
    x = random(2, 7, 8, 6)
    ours = nnx.view(module, use_running_average=True)(jnp.asarray(x))

    kernel = module.conv.kernel.get_value()
    halves = [
        convolve_general(
            x[..., 3 * i : 3 * i + 3],
            kernel[..., 6 * i : 6 * i + 6],
            stride=1,
            dilation=2,
            groups=1,
            padding=2,
        )
        for i in (0, 1)
    ]
    norm = np.float32(1 / np.sqrt(1 + 1e-5))  # of running statistics 0 and 1
    first, second = (np.maximum(np.asarray(half) * norm, 0) for half in halves)
    context = (first + second).mean((1, 2))
    hidden = context @ module.fc1.kernel.get_value()[0, 0] + module.fc1.bias.get_value()
    hidden = np.maximum(hidden * norm, 0)
    scores = hidden @ module.fc2.kernel.get_value()[0, 0] + module.fc2.bias.get_value()
    share = 1 / (1 + np.exp(scores[:, 6:] - scores[:, :6]))[:, None, None]
    assert hidden.shape[1] == 32 and share.std() > 0.01
    close(ours, first * share + second * (1 - share))


@pytest.fixture
def narrow(monkeypatch):
    """Networks of these classes are small while the test runs."""
    monkeypatch.setattr(resnet, "PLANES", (4, 8, 8, 8))
    monkeypatch.setattr(resnest, "PLANES", (4, 8, 8, 8))
    monkeypatch.setitem(resnet.BLOCKS, 18, (1, 1, 1, 1))
    monkeypatch.setitem(resnest.BLOCKS, 50, (1, 1, 1, 1))
    widths = tuple(tuple(w // 32 for w in widths) for widths in wide_resnet.WIDTHS)
    monkeypatch.setattr(wide_resnet, "WIDTHS", widths)


def test_in_place_features_of_wide_resnet_are_activated_by_the_next_stage(narrow):
    x = random(1, 40, 33, 3)
    net = WideResNet(depth=16, norm="inplace_abn", rng=np.random.default_rng(3))
    for stage in (net.mod5, net.mod6, net.mod7):  # scales of both signs
        scale = stage.block1.bn1.bn.scale
        scale.set_value(random(*scale.shape))
    features = evaluate(net, x)
    net.features_in_place = False
    sums = evaluate(net, x)
    for ours, total, stage in zip(
        features[:3], sums[:3], (net.mod5, net.mod6, net.mod7), strict=True
    ):
        scale = np.abs(stage.block1.bn1.bn.scale.get_value()) + 1e-5
        normalised = total * scale / np.sqrt(1 + 1e-5)
        close(ours, np.where(normalised > 0, normalised, 0.01 * normalised))
    np.testing.assert_array_equal(features[3], sums[3])
    assert not WideResNet(depth=16, rng=None).features_in_place


@pytest.mark.parametrize(
    "network,depth",
    [
        (ResNet, 18),
        pytest.param(ResNeSt, 50, marks=pytest.mark.slow),
        pytest.param(WideResNet, 16, marks=pytest.mark.slow),
    ],
)
def test_recomputing_stages_changes_neither_gradients_nor_statistics(narrow, network, depth):
    x = random(2, 33, 33, 3)

    def gradients(remat):
        net = network(depth=depth, remat=remat, rng=np.random.default_rng(4))
        graph, params, stats = nnx.split(net, nnx.Param, nnx.BatchStat)
        params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

        def loss(params):
            net = nnx.merge(graph, params, stats)
            total = sum((y * y).mean() for y in net(x))
            return total, nnx.to_pure_dict(nnx.state(net, nnx.BatchStat))

        traced = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(params)
        assert ("remat" in str(traced.jaxpr)) == remat
        return traced.lower().compile(FAST)(params)

    plain, recomputed = gradients(False), gradients(True)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(plain[0][1])) > 0  # were updated
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain[1]))
    jax.tree.map(lambda a, b: close(b, a), plain[0], recomputed[0])
    for a, b in zip(*(jax.tree.leaves(grads) for _, grads in (plain, recomputed)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4 * largest)


@pytest.mark.parametrize("size", [(7, 8), (6, 5)])
def test_pools_of_the_shortcuts_are_torchs(size):
    functional = pytest.importorskip("torch.nn.functional")
    import torch

    x = random(2, *size, 3)
    nchw = torch.tensor(x.transpose(0, 3, 1, 2))
    for ours, reference in (
        (average_pool(x, 3, 2, 1), functional.avg_pool2d(nchw, 3, 2, 1)),
        (average_pool(x, 3, 1, 1), functional.avg_pool2d(nchw, 3, 1, 1)),
        (
            average_pool(x, 2, 2, ceil_mode=True, count_padding=False),
            functional.avg_pool2d(nchw, 2, 2, 0, True, False),
        ),
        (max_pool(x, 3, 2, 1, ceil_mode=True), functional.max_pool2d(nchw, 3, 2, 1, 1, True)),
        (max_pool(x, 3, 2, 1), functional.max_pool2d(nchw, 3, 2, 1)),
    ):
        close(ours, reference.numpy().transpose(0, 2, 3, 1))

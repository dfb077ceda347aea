"""Weights from PyTorch files, and the features they give."""

import numpy as np
import pytest
from flax import nnx
from imagenet_features import CASES, WEIGHTS, assert_features_equal, golden_features

from openseg_jax.bridge.names import backbone_variables
from openseg_jax.bridge.pretrained import fill_backbone
from openseg_jax.bridge.reference import reference_config
from openseg_jax.bridge.torch_files import read_checkpoint, write_checkpoint
from openseg_jax.config import default_config
from openseg_jax.errors import UserError
from openseg_jax.models import segmenter
from openseg_jax.models.mobilenet_v2 import OUTPUTS, MobileNetV2
from openseg_jax.training.initialization import initialize_from


def small_model():
    config = default_config().model
    config.update(num_classes=3, channels=8, key_channels=8, aux_channels=8)
    return config


def torch_file(network, path, prefix=""):
    """A file of the backbone's arrays as PyTorch would have them, each with its own number."""
    tensors = {}
    for index, (name, variable) in enumerate(backbone_variables(network.backbone, "bn").items()):
        array = np.full(variable.get_value().shape, index, np.float32)
        tensors[prefix + name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    write_checkpoint(path, tensors)
    return tensors


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_every_backbone_weight_is_filled(tmp_path, prefix):
    network = segmenter.build(small_model(), np.random.default_rng(0))
    torch_file(network, tmp_path / "w.safetensors", prefix)
    report = initialize_from(str(tmp_path / "w.safetensors"), network)
    assert len(report.mapped) == 255 and not report.missing
    for index, variable in enumerate(backbone_variables(network.backbone, "bn").values()):
        assert (variable.get_value() == index).all()


def test_a_hole_or_another_shape_is_refused_by_name(tmp_path):
    network = segmenter.build(small_model(), np.random.default_rng(0))
    tensors = torch_file(network, tmp_path / "w.safetensors")
    tensors.pop("features.3.conv.0.weight")
    write_checkpoint(tmp_path / "hole.safetensors", tensors)
    with pytest.raises(UserError, match="1 missing .features.3.conv.0.weight"):
        initialize_from(str(tmp_path / "hole.safetensors"), network)
    tensors["features.3.conv.0.weight"] = np.zeros((7, 24, 1, 1), np.float32)
    write_checkpoint(tmp_path / "shape.safetensors", tensors)
    with pytest.raises(UserError, match=r"\(7, 24, 1, 1\), the network's is \(144, 24, 1, 1\)"):
        initialize_from(str(tmp_path / "shape.safetensors"), network)


@pytest.mark.parametrize("stride, name", CASES)
def test_imagenet_features_equal_pytorchs(real_data, stride, name):
    backbone = MobileNetV2(output_stride=stride, rng=np.random.default_rng(0))
    report = fill_backbone(backbone, read_checkpoint(real_data / WEIGHTS))
    assert report.complete
    assert all(name.startswith("features.18.") for name in report.unused)
    image, golden = golden_features(real_data, name)
    features = nnx.view(backbone, use_running_average=True)(image)
    assert_features_equal(
        {index: each[0] for index, each in zip(OUTPUTS, features, strict=True)}, golden
    )


def test_the_published_file_reads(real_data):
    tensors = read_checkpoint(real_data / WEIGHTS)
    assert len(tensors) == 312 and tensors["features.0.0.weight"].shape == (32, 3, 3, 3)


def test_our_own_checkpoint_fills_everything(uninterrupted, tmp_path):
    from openseg_jax.training import checkpoint

    config = default_config().model
    config.update(num_classes=10, channels=64, key_channels=32, aux_channels=64)
    network = segmenter.build(config, np.random.default_rng(5))
    report = initialize_from(str(uninterrupted[0]), network)
    arrays, _ = checkpoint.load(checkpoint.find(uninterrupted[0]))
    assert len(report.mapped) == len(arrays) and not report.unused
    kernel = network.head.classifier.kernel.get_value()
    np.testing.assert_array_equal(kernel, arrays["params.head.classifier.kernel"])
    config.num_classes = 7
    with pytest.raises(UserError, match="head.classifier.kernel"):
        initialize_from(str(uninterrupted[0]), segmenter.build(config, np.random.default_rng(5)))


def numbered(targets):
    """Every array of a backbone, each filled with its own number, by our key and torch's axes."""
    arrays = {}
    for index, (key, variable) in enumerate(targets.items()):
        array = np.full(variable.get_value().shape, index + 1, np.float32)
        arrays[key] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    return arrays


TORCHVISION = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
TORCHVISION_FIRST = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
TIMM = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"}
TIMM_FIRST = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}
BLOCKS = [(0, 0)] + [(s, i) for s, n in enumerate((2, 3, 4, 3, 3, 1), 1) for i in range(n)]


def torchvision_key(key):
    if ".conv." not in key:
        return key
    _, block, _, layer, leaf = key.split(".")
    place = (TORCHVISION_FIRST if block == "1" else TORCHVISION)[layer]
    return f"features.{block}.conv.{place}.{leaf}"


def timm_key(key):
    if ".conv." not in key:
        return key.replace("features.0.0.", "conv_stem.").replace("features.0.1.", "bn1.")
    _, block, _, layer, leaf = key.split(".")
    stage, index = BLOCKS[int(block) - 1]
    return f"blocks.{stage}.{index}.{(TIMM if stage else TIMM_FIRST)[layer]}.{leaf}"


def without_stem(key):
    return key.removeprefix("resinit.")


@pytest.mark.parametrize(
    "backbone,rename,extra",
    [
        ("mobilenet_v2", torchvision_key, "classifier.1.weight"),
        ("mobilenet_v2", timm_key, "conv_head.weight"),
        ("resnet18", without_stem, "fc.weight"),
        ("resnet18_7x7", without_stem, "fc.weight"),
        ("hrnet_w18", str, "incre_modules.0.0.conv1.weight"),
        ("hrnet_w18", lambda key: f"model.{key}", "model.classifier.weight"),
        ("wide_resnet16", lambda key: f"module.{key}", "module.classifier.fc.weight"),
    ],
)
def test_files_of_every_layout_fill_a_backbone(backbone, rename, extra):
    model = reference_config("fcnet", "resnet18", 2)
    model.update(backbone=backbone, output_stride=None)
    network = segmenter.build(model, None)
    world = "inplace_abn" if backbone.startswith("wide") else "bn"
    targets = backbone_variables(network.backbone, world)
    arrays = numbered(targets)
    state = {rename(key): array for key, array in arrays.items()}
    state[extra] = np.zeros((5, 7), np.float32)
    report = fill_backbone(network.backbone, state, "bn")
    assert report.complete and len(report.unused) == 1
    for key, variable in targets.items():
        scale = key.endswith(".weight") and arrays[key].ndim == 1
        # The activated batch norm scales by |weight| + 1e-5, which the plain one has to be told.
        expected = arrays[key].ravel()[0] + (1e-5 if world == "inplace_abn" and scale else 0)
        np.testing.assert_allclose(variable.get_value(), expected, rtol=1e-7)


def test_imagenet_classes_equal_pytorchs(real_data):
    """The 1000-way classifier's logits, through our backbone and the last layers of its file."""
    state = read_checkpoint(real_data / "weights/mobilenet_v2_imagenet1000_dequant.pth")
    backbone = MobileNetV2(output_stride=32, rng=None)
    assert fill_backbone(backbone, state).complete
    expected = np.load(real_data / "weights/golden/mnv2_imagenet1000_logits_225.npz")
    image = expected["input_u8_hwc"][None].astype(np.float32) / np.float32(127.5) - 1
    features = nnx.view(backbone, use_running_average=True)(image)[-1]
    last = {key.removeprefix("features.18."): value for key, value in state.items()}
    x = np.asarray(features) @ last["0.weight"][:, :, 0, 0].T
    x = (x - last["1.running_mean"]) / np.sqrt(last["1.running_var"] + 1e-5)
    x = np.clip(x * last["1.weight"] + last["1.bias"], 0, 6).mean((1, 2))
    logits = (x @ state["classifier.1.weight"].T + state["classifier.1.bias"])[0]
    assert logits.argmax() == expected["logits"].argmax()
    assert np.abs(logits - expected["logits"]).max() < 5e-5 * expected["logits"].std()


@pytest.mark.slow
def test_the_command_trains_from_the_published_file(real_data, toy_data, environment, tmp_path):
    from conftest import run

    source = real_data / WEIGHTS
    done = run(tmp_path / "run", 2, environment, more=[f"--config.init_from={source}"])
    assert done.returncode == 0, done.stderr
    assert "255 arrays loaded" in done.stdout + done.stderr

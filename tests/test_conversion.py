"""Checkpoints of the original through the converter, there and back, as users run it."""

import json

import numpy as np
import pytest

import openseg_jax
from openseg_jax import analysis, certificate, conversion
from openseg_jax.bridge import (
    build_reference_model,
    load_state_dict,
    reference_outputs,
    to_state_dict,
)
from openseg_jax.bridge.reference import parse_backbone, reference_config
from openseg_jax.bridge.state_dict import detect_world
from openseg_jax.bridge.torch_files import read_file, write_checkpoint
from openseg_jax.data import catalog
from openseg_jax.errors import UserError
from openseg_jax.models import segmenter
from openseg_jax.training.initialization import initialize_from

NAMES = ("fcnet", "deepbase_resnet18_dilated8", 3)


def state_dict(norm="inplace_abn", names=NAMES, seed=0):
    """A state dict of the original's network with weights that keep activations near one."""
    rng = np.random.default_rng(seed)
    network = build_reference_model(*names, norm=norm)
    state = {}
    for key, array in to_state_dict(network).items():
        if key.endswith("num_batches_tracked"):
            array = np.array(rng.integers(100))
        elif array.ndim == 4:
            scale = np.float32(array[0].size ** -0.5)
            array = rng.standard_normal(array.shape, np.float32) * scale
        elif key.endswith("running_var"):
            array = rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        else:
            array = rng.standard_normal(array.shape, np.float32)
        state[key] = array
    return state


CONFIG_DICT = {
    "dataset": "unheard_of",
    "iters": 40000,
    "network": {"model_name": NAMES[0], "backbone": NAMES[1], "bn_type": "inplace_abn"},
    "data": {"num_classes": 3, "input_mode": "BGR"},
    "normalize": {"div_value": 1.0, "mean": [102.9801, 115.9465, 122.7717], "std": [1, 1, 1]},
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory, openseg):
    """A published-style file, the folder it was converted to, and what the command printed."""
    folder = tmp_path_factory.mktemp("converted")
    state = {f"module.{key}": array for key, array in state_dict().items()}
    write_checkpoint(folder / "published.safetensors", state, CONFIG_DICT)
    done = openseg(
        "convert", "--checkpoint", folder / "published.safetensors", "--out", folder / "ours"
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_certificate_says_what_happened(converted):
    folder, printed = converted
    text = (folder / "ours" / "certificate.txt").read_text()
    assert text in printed
    count = len(state_dict())
    for part in (
        read_file(folder / "published.safetensors").sha256,
        "fcn on resnet18, 3 classes",
        "(inplace_abn)",
        f"{count}: {count} mapped, 0 carried, 0 missing, 0 unused",
        "every key, dtype and byte comes back",
    ):
        assert part in text


def test_the_fingerprint_is_what_the_lines_of_pytorch_print(converted):
    torch = pytest.importorskip("torch")
    folder, _ = converted
    text = (folder / "ours" / "certificate.txt").read_text()
    line = next(line for line in text.splitlines() if line.startswith("fingerprint"))
    ours = json.loads(line.removeprefix("fingerprint").strip())
    network = build_reference_model(*NAMES, norm="inplace_abn")
    load_state_dict(network, state_dict())

    class Model(torch.nn.Module):  # stands for the user's own code
        def forward(self, x):
            return [torch.from_numpy(y.copy()) for y in reference_outputs(network, x.numpy())]

    printed = []
    lines = text[text.index("import torch") :]
    exec(lines, {"model": Model(), "print": printed.append})
    assert printed[0] == pytest.approx(ours, abs=1e-4) and len(set(ours)) > 1


def test_prediction_needs_nothing_else_and_feeds_bgr(converted):
    folder, _ = converted
    image = np.random.default_rng(1).integers(0, 256, (65, 97, 3), np.uint8)
    predictor = openseg_jax.load(folder / "ours")
    network = build_reference_model(*NAMES, norm="inplace_abn")
    load_state_dict(network, state_dict())
    bgr = image[..., ::-1].astype(np.float32) - CONFIG_DICT["normalize"]["mean"]
    expected = reference_outputs(network, bgr.transpose(2, 0, 1)[None])[-1][0]
    logits = predictor.logits(image)
    np.testing.assert_allclose(logits, expected.transpose(1, 2, 0), atol=1e-3 * expected.std())
    assert len(predictor.classes) == len(predictor.palette) == 3


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_way_back_gives_every_byte(converted, openseg, suffix):
    if suffix == ".pth":
        pytest.importorskip("torch")
    folder, _ = converted
    out = folder / f"back{suffix}"
    done = openseg("convert", "--checkpoint", folder / "ours", "--out", out)
    assert done.returncode == 0, done.stderr
    back, original = read_file(out), state_dict()
    assert list(back.tensors) == list(original)
    for key, array in original.items():
        assert back.tensors[key].dtype == array.dtype
        assert back.tensors[key].tobytes() == array.tobytes()
    assert back.config["network"] == CONFIG_DICT["network"]
    assert back.config["normalize"]["mean"] == CONFIG_DICT["normalize"]["mean"]


def test_training_does_not_start_in_a_converted_folder(converted, toy_data, environment):
    from conftest import run

    folder, _ = converted
    done = run(folder / "ours", 2, environment)
    assert done.returncode == 2 and "--config.init_from" in done.stderr


def test_a_file_that_does_not_say_what_it_is(tmp_path, openseg):
    write_checkpoint(tmp_path / "bare.safetensors", state_dict("bn"))
    files = ("--checkpoint", tmp_path / "bare.safetensors", "--out", tmp_path / "x")
    done = openseg("convert", *files)
    assert done.returncode == 2 and "--model" in done.stderr and "Traceback" not in done.stderr
    named = ("--model", NAMES[0], "--backbone", NAMES[1], "--classes", 3)
    done = openseg("convert", *files, *named)
    assert done.returncode == 0, done.stderr
    assert "plain batch norm" in done.stdout
    files = (*files[:3], tmp_path / "y")
    wrong = openseg("convert", *files, *named[:4], "--classes", 4)
    assert wrong.returncode == 2 and "Its classifier has 3 classes" in wrong.stderr
    twice = openseg("convert", *files, "--config", "configs/toy_ocr.py", "--classes", 4)
    assert twice.returncode == 2 and "leave out --classes" in twice.stderr


def test_weights_of_other_widths_ask_for_their_config(tmp_path):
    state = state_dict("bn")
    key = "cls_head.0.weight"
    state[key] = state[key][:8]
    write_checkpoint(tmp_path / "narrow.safetensors", state)
    shape = r"\(8, \d+, 3, 3\)"  # as PyTorch has it
    with pytest.raises(UserError, match=rf"narrow.*{shape}.*give the --config") as caught:
        conversion.torch_to_flax(
            tmp_path / "narrow.safetensors",
            tmp_path / "out",
            model_name=NAMES[0],
            backbone=NAMES[1],
            num_classes=3,
        )
    assert "classifier has" not in str(caught.value)


def test_near_names_are_offered():
    with pytest.raises(UserError, match="Did you mean.*spatial_ocrnet"):
        build_reference_model("spatial_ocnet", "resnet50", 19)
    with pytest.raises(UserError, match="Did you mean.*hrnet64"):
        build_reference_model("fcnet", "hrnet84", 19)
    model = reference_config(*NAMES)
    model.method = "ocrnet"
    with pytest.raises(UserError, match="Did you mean.*ocnet"):
        segmenter.build(model, None)
    model.method = "fcn"
    model.factors = ((8, 8),)
    with pytest.raises(UserError, match="factors has no meaning for method fcn"):
        segmenter.build(model, None)


@pytest.mark.parametrize(
    "original,ours",
    [
        ("deepbase_resnet101_dilated8", ("resnet101", 8)),
        ("deepbase_resnet50_dilated16", ("resnet50", 16)),
        ("resnet50", ("resnet50_7x7", 32)),
        ("wide_resnet38_dilated8", ("wide_resnet38", None)),
        ("hrnet48", ("hrnet_w48", None)),
        ("hrnet_w48", ("hrnet_w48", None)),
        ("mobilenetv2_dilated8", ("mobilenet_v2", 8)),
        ("hrnet2x20", ("hrnet_2x20", None)),
        ("resnext101_32x8d_dilated8", ("resnext101_32x8d", 8)),
        ("deepbase_resnest101_dilated8", ("resnest101", 8)),
    ],
)
def test_backbones_go_by_the_originals_names(original, ours):
    assert parse_backbone(original) == ours


def test_the_two_batch_norms_are_told_apart_and_not_mixed():
    for norm in ("bn", "inplace_abn"):
        network = build_reference_model(*NAMES, norm=norm)
        assert detect_world(network, state_dict(norm)) == norm
    with pytest.raises(UserError, match="norm='inplace_abn'"):
        load_state_dict(build_reference_model(*NAMES), state_dict("inplace_abn"))


def test_another_models_weights_and_broken_ones_are_refused():
    network = build_reference_model(*NAMES)
    with pytest.raises(UserError, match=r"unused.*not|not of this network.*unused"):
        load_state_dict(network, state_dict("bn", ("base_ocnet", NAMES[1], 3)))
    state = state_dict("bn")
    state["cls_head.0.weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match=r"cls_head.0.weight holds NaN"):
        load_state_dict(network, state)


def test_first_weights_of_another_model_name_the_file_and_the_mend(tmp_path):
    file = tmp_path / "fcn.safetensors"
    write_checkpoint(file, state_dict("inplace_abn"))
    other = segmenter.build(reference_config("spatial_ocrnet", "mobilenet_v2", 5), None)
    with pytest.raises(UserError, match=r"fcn.safetensors: It is of another network.*model"):
        initialize_from(str(file), other)
    state = state_dict("bn")
    state["cls_head.0.weight"][0, 0, 0, 0] = np.inf
    write_checkpoint(file, state)
    with pytest.raises(UserError, match=r"fcn.safetensors: cls_head.0.weight"):
        initialize_from(str(file), build_reference_model(*NAMES))


def test_backbones_of_the_other_batch_norm_start_a_model_of_other_classes(tmp_path):
    write_checkpoint(tmp_path / "old.safetensors", state_dict("inplace_abn"))
    network = segmenter.build(reference_config(*NAMES[:2], 5), np.random.default_rng(0))
    report = initialize_from(str(tmp_path / "old.safetensors"), network, strict=False)
    assert report.world == "inplace_abn" and len(report.sha256) == 64


@pytest.mark.parametrize(
    "backbone,dataset,order,scale,mean",
    [
        ("wide_resnet16_dilated8", "cityscapes", "rgb", 255, 0.485),
        ("wide_resnet16_dilated8", "ade20k", "bgr", 255, 0.485),
        ("hrnet18", "cityscapes", "bgr", 255, 0.485),
        ("deepbase_resnet18_dilated8", "ade20k", "bgr", 1.0, 102.9801),
        ("deepbase_resnet18_dilated8", "lip", "bgr", 1.0, 104.00698793),
        ("mobilenet_v2_dilated8", "cityscapes", "bgr", 1.0, 102.9801),
        ("wide_resnet16_dilated8", None, "bgr", 255, 0.485),
    ],
)
def test_without_a_config_dict_the_recipe_says_what_a_network_sees(
    tmp_path, backbone, dataset, order, scale, mean
):
    file = tmp_path / "w.safetensors"
    write_checkpoint(file, {"cls_head.3.bias": np.zeros(3, np.float32)})
    classes = catalog.get(dataset).num_classes if dataset else 3
    config = conversion._config_of(read_file(file), file, "fcnet", backbone, classes, dataset)
    data = config.data
    assert (data.channel_order, data.scale, data.mean[0]) == (order, scale, mean)
    if dataset == "lip":
        assert config.eval.size == (473, 473) and config.eval.flip


def test_fine_tuning_for_other_classes(tmp_path):
    write_checkpoint(tmp_path / "three.safetensors", state_dict("bn"))
    model = reference_config(*NAMES[:2], 5)
    network = segmenter.build(model, np.random.default_rng(0))
    start = np.array(network.head.main.classifier.kernel.get_value())
    with pytest.raises(UserError, match=r"cls_head.3.weight.*init_strict=False"):
        initialize_from(str(tmp_path / "three.safetensors"), network)
    report = initialize_from(str(tmp_path / "three.safetensors"), network, strict=False)
    assert sorted(line.split(":")[0] for line in report.clashes) == [
        "cls_head.3.weight",
        "dsn_head.3.weight",
    ]
    np.testing.assert_array_equal(network.head.main.classifier.kernel.get_value(), start)
    kernel = network.head.main.block.conv.kernel.get_value()
    np.testing.assert_array_equal(
        kernel, state_dict("bn")["cls_head.0.weight"].transpose(2, 3, 1, 0)
    )


def test_unused_weights_travel_as_passengers():
    names = ("fcnet", "deepbase_resnest50_dilated8", 3)
    state = state_dict("bn", names)
    state["backbone.fc.weight"] = np.ones((1000, 2048), np.float16)
    state["backbone.fc.bias"] = np.ones(1000, np.float64)
    network = build_reference_model(*names)
    report = load_state_dict(network, state)
    assert {"backbone.fc.weight", "backbone.fc.bias"} <= set(report.passengers)
    back = to_state_dict(network)
    assert all(back[key].tobytes() == state[key].tobytes() for key in state)
    assert back["backbone.fc.weight"].dtype == np.float16


@pytest.mark.slow
def test_every_method_works_on_every_kind_of_backbone():
    for backbone in ("mobilenet_v2", "resnet34", "resnet50_7x7", "wide_resnet16", "hrnet_w18"):
        for method in segmenter.METHODS:
            model = reference_config("fcnet", "deepbase_resnet50_dilated8", 7)
            model.update(method=method, backbone=backbone)
            model.output_stride = None
            parts = analysis.analyze(model, (65, 97))
            *_, main = parts[-1].outputs
            assert main[-1] == (8 if method == "segfix" else 7), (backbone, method)


@pytest.mark.parametrize(
    "names,parameters,gmacs",
    [
        (("spatial_ocrnet", "deepbase_resnet101_dilated8", 19), 57_988_838, 503.1),
        (("base_ocnet", "deepbase_resnet101_dilated8", 19), 57_987_302, 541.6),
        (("isanet", "deepbase_resnet101_dilated8", 19), 59_167_718, 519.8),
        (("hrnet_w48_ocr", "hrnet48", 19), 74_522_182, 460.4),
        (("fcnet", "wide_resnet38_dilated8", 19), 133_404_992, 1301),
    ],
)
def test_parameters_and_arithmetic_are_the_originals(names, parameters, gmacs):
    parts = analysis.analyze(reference_config(*names), (512, 1024))
    assert sum(part.parameters for part in parts) == parameters
    assert sum(part.macs for part in parts) / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_analyze_prints_it(openseg):
    from conftest import ROOT

    done = openseg("analyze", "--config", f"{ROOT}/configs/toy_ocr.py", "--size", "128x192")
    assert done.returncode == 0, done.stderr
    assert "GMAC" in done.stdout and "128" in done.stdout
    done = openseg("analyze", "--config", f"{ROOT}/configs/toy_ocr.py", "--size", "big")
    assert done.returncode == 2 and "HEIGHTxWIDTH" in done.stderr


def test_a_certificate_quotes_the_recorded_goldens(tmp_path, monkeypatch):
    model = reference_config("hrnet_w48_ocr", "hrnet48", 19)
    monkeypatch.setattr(certificate, "GOLDENS", tmp_path / "goldens.json")
    assert certificate.golden_record(model) == "not recorded"
    case = {"passed": True, "error_over_tolerance": 0.2, "version": "1", "commit": "abc"}
    record = {
        "eval/hrnet_w48_ocr__hrnet48__c19": case,
        "eval/hrnet_w48_ocr__hrnet48__c19__abn": {**case, "passed": False},
        "eval/hrnet_w48_ocr_b__hrnet48__c19": {**case, "error_over_tolerance": 0.9},
    }
    (tmp_path / "goldens.json").write_text(json.dumps({"cases": record}))
    assert certificate.golden_record(model).startswith("passed: 1 cases, at most 0.2")
    model.norm = "inplace_abn"
    assert certificate.golden_record(model).startswith("FAILED")

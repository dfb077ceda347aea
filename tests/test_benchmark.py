"""The opponents of the benchmark compute what we compute, and the benchmark measures both."""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import imagenet_features
import numpy as np
import pytest
from goldens import Worst, fill, read_json
from goldens.eval import compare

from openseg_jax.bridge import load_state_dict, reference_outputs, to_state_dict
from openseg_jax.bridge.reference import reference_config
from openseg_jax.config import default_config
from openseg_jax.errors import UserError
from openseg_jax.models import segmenter

torch = pytest.importorskip("torch", reason="PyTorch")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark  # noqa: E402
import benchmark_attention  # noqa: E402
import benchmark_convolutions  # noqa: E402
import benchmark_data  # noqa: E402
import benchmark_evaluation  # noqa: E402
import performance_page  # noqa: E402
import torch_twins  # noqa: E402
from benchmarking import command_line, jax_program, measuring, part_tables, torch_program  # noqa: E402
from benchmarking.case import Case, config_of  # noqa: E402
from torch_twins.mobilenet_v2 import OUTPUTS, MobileNetV2  # noqa: E402


def small_model(method, backbone, **options):
    model = default_config().model
    narrow = dict(channels=32, key_channels=16, aux_channels=24)
    if method == "fcn":
        del narrow["key_channels"]
    model.update(method=method, backbone=backbone, num_classes=5, **narrow, **options)
    return model


def randomize_norms(twin):
    """Statistics and scales as after training: no two channels alike."""
    for module in twin.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return twin


slow = pytest.mark.slow
PAIRS = [
    ("fcn", "resnet18", {}),
    ("ocnet", "resnet18", {"output_stride": 16}),
    ("isa", "resnet18", {"factors": ((4, 3),)}),
    ("ocr", "mobilenet_v2", {}),
    pytest.param("ocr", "resnet50", {"multi_grid": (1, 2, 4)}, marks=slow),
    pytest.param("fcn", "resnet18_7x7", {"output_stride": 32}, marks=slow),
    pytest.param("fcn", "wide_resnet16", {}, marks=slow),
    pytest.param("ocr", "hrnet_w18", {}, marks=slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("method, backbone, options", PAIRS)
def test_a_twin_and_our_network_agree(method, backbone, options):
    torch.manual_seed(0)
    model = small_model(method, backbone, **options)
    twin = randomize_norms(torch_twins.build(model)).eval()
    network = segmenter.build(model, rng=None)
    weights = {key: value.numpy() for key, value in twin.state_dict().items()}
    load_state_dict(network, weights)  # strict: the keys are the original's
    assert to_state_dict(network).keys() == weights.keys()

    images = fill.make_input(3, (2, 3, 49, 65))
    with torch.no_grad():
        theirs = twin(torch.from_numpy(images))
        alone = twin(torch.from_numpy(images), auxiliary=False)
        products = torch_twins.build(model, fused_attention=False).eval()
        products.load_state_dict(twin.state_dict())
        unfused = products(torch.from_numpy(images))
        folded = torch_twins.fold_batch_norm(twin, torch.from_numpy(images[:1]))
        after = folded(torch.from_numpy(images))
    ours = reference_outputs(network, images)
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert norms == (7 if backbone.startswith("wide_resnet") else 0)
    assert len(alone) == 1 and torch.equal(alone[0], theirs[-1])
    for our, their, product, fold in zip(ours, theirs, unfused, after, strict=True):
        # The tolerance of the golden numbers: float32 through a whole network.
        limit = 5e-5 * their.std().item()
        assert np.abs(our - their.numpy()).max() < limit
        assert (product - their).abs().max() < limit
        assert (fold - their).abs().max() < limit


def test_networks_without_a_twin_are_refused():
    for method, backbone in (("asp_ocr", "resnet18"), ("fcn", "hrnet_w18"), ("ocr", "resnest50")):
        with pytest.raises(ValueError, match=f"no PyTorch twin .*{backbone}"):
            torch_twins.build(small_model(method, backbone))


def golden_root():
    root = Path(os.environ.get("OPENSEG_TEST_DATA", "")) / "golden"
    return root if os.environ.get("OPENSEG_TEST_DATA") and root.is_dir() else None


GOLDENS = [
    "fcnet__deepbase_resnet101_dilated8__c19",
    "base_ocnet__deepbase_resnet101_dilated8__c19",
    "isanet__deepbase_resnet101_dilated8__c19",
    "spatial_ocrnet__deepbase_resnet101_dilated8__c19",
    "spatial_ocrnet__resnet101_dilated8__c19",
    "fcnet__deepbase_resnet101_dilated8__c19__mg124",
    "hrnet_w48_ocr__hrnet48__c19",
    "spatial_ocrnet__wide_resnet38_dilated8__c19",
]


@slow
@pytest.mark.parametrize("name", GOLDENS)
def test_a_twin_reproduces_the_numbers_of_the_original(name):
    root = golden_root()
    if root is None:
        pytest.skip("golden numbers: set OPENSEG_TEST_DATA")
    case = read_json(root / "eval_index.json")[name]
    tolerance = read_json(root / "tolerance.json")["eval"]
    entries = read_json(root / case["manifest"])["entries"]
    model = reference_config(
        *(case[key] for key in ("model_name", "backbone", "num_classes")),
        multi_grid=case["multi_grid"],
        factors=case["factors"],
    )
    twin = torch_twins.build(model, fused_attention=False).eval()
    weights = {key: fill.fill(key, shape, case["salt"]) for key, shape, _, _ in entries}
    assert {key: tuple(value.shape) for key, value in twin.state_dict().items()} == {
        key: value.shape for key, value in weights.items()
    }
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    worst = Worst(name)
    for run in case["runs"]:
        images = fill.make_input(run["input_seed"], (1, 3, *run["hw"]))
        with torch.no_grad():
            outputs = twin(torch.from_numpy(images))
        stored = np.load(root / run["file"])
        wanted = [key for key in run["tensors"] if key.startswith("out")]
        assert wanted == [f"out{index}" for index in range(len(outputs))]
        for key, output in zip(wanted, outputs, strict=True):
            compare(worst, key, output.numpy(), stored[key], run["tensors"][key], tolerance)
    assert worst.result().passed, worst.result()


@pytest.mark.parametrize("stride, name", imagenet_features.CASES)
def test_the_twin_of_mobilenet_v2_reproduces_the_features_of_imagenet_weights(
    real_data, stride, name
):
    twin = MobileNetV2(stride).eval()
    weights = torch.load(real_data / imagenet_features.WEIGHTS, weights_only=True)
    kept = {key: value for key, value in weights.items() if not key.startswith("features.18.")}
    twin.load_state_dict(kept)  # strict
    image, golden = imagenet_features.golden_features(real_data, name)
    with torch.no_grad():
        features = twin(torch.from_numpy(image.transpose(0, 3, 1, 2)))
    found = {
        index: feature[0].numpy().transpose(1, 2, 0)
        for index, feature in zip(OUTPUTS, features, strict=True)
    }
    imagenet_features.assert_features_equal(found, golden)


def narrow_config(case):
    config = config_of(case)
    config.model.update(channels=16, key_channels=8, aux_channels=16, dropout=0.0)
    return config


@pytest.mark.slow
def test_both_sides_of_the_benchmark_train_alike(monkeypatch):
    """Equal losses over three steps: loss, gradient, momentum and weight decay are the same."""
    for module in (jax_program, torch_program):
        monkeypatch.setattr(module, "config_of", narrow_config)
    case = Case("ocr", "resnet18", "train", (33, 49), 2, "float32")
    network = segmenter.build(narrow_config(case).model, np.random.default_rng(0))
    twin = torch_program.twin_of(case, to_state_dict(network))
    programs = [jax_program.jax_program(case, network), torch_program.torch_program(case, twin)]
    for step in range(3):
        for program in programs:
            program.start()
            program.wait()
        ours, theirs = (float(program.output()) for program in programs)
        # Rounding grows from step to step, by batch norms of few samples.
        assert ours == pytest.approx(theirs, rel=1e-5 if step == 0 else 1e-3)


@pytest.fixture(autouse=True)
def near_cores(monkeypatch):
    """Where this machine's cores are must not decide how often something is measured here."""
    monkeypatch.setattr(measuring, "handover", lambda: 1.0)


def measured(ours, theirs):
    """What the benchmark saves of rounds that took so many seconds."""
    rounds = {
        side: [dict(wall=wall, cpu=2 * wall, host=wall / 100, others=wall / 50) for wall in walls]
        for side, walls in (("jax", ours), ("torch", theirs))
    }
    case = dict(method="ocr", backbone="resnet18", mode="train", size=[64, 96], batch=4)
    about = dict(device="a chip", cores=2, dtype="float32", version="1", versions={"jax": "0"})
    return {
        "machine": about | {"peak_flops": 2e9},  # faster than when the case was measured
        "cases": [
            dict(case=case, rounds=rounds, steps=1, tries=5, load=[0.5, 1.0], macs=1e8)
            | {"peak_flops": 1e9},
            dict(case=case | {"mode": "eval"}, error="RuntimeError: out of memory"),
        ],
    }


def test_the_tables_tell_ratios_round_by_round(tmp_path):
    # The machine was half as fast in the third round, for both: the ratio does not see it.
    (tmp_path / "benchmark_run.json").write_text(json.dumps(measured([1, 1.1, 2], [2, 2, 4])))
    page = "before\n<!-- benchmark: benchmark_run.json -->\nold\n<!-- end -->\nbetween\n"
    page += "<!-- benchmark: benchmark_absent.json -->\n<!-- end -->\n"
    filled = performance_page.filled(page, tmp_path)
    assert "**0.50** (0.50 to 0.54)" in filled
    assert "| 3.64 | 2 |" in filled  # images/s: four images in 1.1 and 2 s
    assert "| 55% | 30% |" in filled  # of 1 GFLOP/s: three passes of 0.2 GFLOP
    assert "| 3 x 1, 0.5 to 1.0 | 8%, 2 again |" in filled
    assert "old" not in filled and "before" in filled and "between" in filled
    assert "Not measured yet." in filled
    assert "ocr:resnet18 eval: RuntimeError: out of memory" in filled
    assert performance_page.filled(filled, tmp_path) == filled


@slow
def test_the_command_measures_and_saves(tmp_path):
    out = tmp_path / "result.json"
    command = [sys.executable, ROOT / "scripts" / "benchmark.py", "--nets", "fcn:resnet18"]
    command += ["--mode", "eval", "--size", "33x49", "--rounds", "2", "--out", out]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "fcn:resnet18 eval" in finished.stdout
    (case,) = json.loads(out.read_text())["cases"]
    assert case["largest_difference"] < 1e-3
    assert len(case["rounds"]["jax"]) == len(case["rounds"]["torch"]) == 2
    assert case["processes"] == 2 <= case["tries"]
    cold, warm = case["alone"]["jax"], case["alone"]["jax, cache filled"]
    assert warm["compile"] < cold["compile"]
    assert min(each["resident"] for each in case["alone"].values()) > 50 * 2**20

    again = [*command, "--add", "--mode", "train", "--speed-only"]
    assert subprocess.run(again, env=environment, capture_output=True).returncode == 0
    modes = [case["case"]["mode"] for case in json.loads(out.read_text())["cases"]]
    assert modes == ["eval", "train"]


@pytest.mark.parametrize(
    "net", ["fcn:hrnet_w18", "ocr:nothing", "foo:resnet18", "ocr:resnet999", "ocr:hrnet_w99"]
)
def test_networks_without_a_twin_are_refused_before_anything_is_measured(net, monkeypatch):
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--nets", "ocr:mobilenet_v2", net])
    with pytest.raises(SystemExit, match=f"error: --nets {net}: there is no PyTorch twin"):
        benchmark.main()


def test_a_measurement_that_fails_stands_in_the_table_and_the_others_go_on(tmp_path, monkeypatch):
    def child(settings, caches):
        if settings["part"] == "machine":
            about = {"device": "d", "cores": 2, "versions": {}, "platform": "cpu"}
            return about | {"dtype": "float32", "peak_flops": 1e9}
        trace = "Traceback:\nRuntimeError: out of memory\n"
        raise benchmark.subprocess.CalledProcessError(1, "child", stderr=trace)

    monkeypatch.setattr(benchmark, "child", child)
    out = tmp_path / "result.json"
    arguments = benchmark.parse(["--nets", "ocr:mobilenet_v2", "--out", str(out)])
    assert benchmark.measure(arguments, tmp_path) == 2
    cases = json.loads(out.read_text())["cases"]
    assert [case["error"] for case in cases] == ["RuntimeError: out of memory"] * 2
    assert [case["case"]["mode"] for case in cases] == ["train", "eval"]


# GFLOP (two a multiply-accumulate) of what lies between a head's 3x3 convolution and its
# classifier, counted on the original's modules; of OCR without the gathering of objects.
MODULES = {"ocnet": (112.9, 313.5, 1176.8), "isa": (53.4, 85.4, 183.6), "ocr": (16.2, 28.3, 56.5)}


@pytest.mark.parametrize("method", MODULES)
def test_attention_has_the_arithmetic_of_the_original(method):
    sizes = ((97, 97), (128, 128), (128, 256))
    for size, gflop in zip(sizes, MODULES[method], strict=True):
        flop = benchmark_attention.costs(method, size, "eval")["flop"]
        if method == "ocr":
            flop -= 2 * size[0] * size[1] * benchmark_attention.CLASSES * 512
        assert flop / 1e9 == pytest.approx(gflop, abs=0.06)


@pytest.mark.parametrize("mode", ("eval", "train"))
def test_attention_is_measured_beside_pytorch(mode, monkeypatch):
    monkeypatch.setattr(measuring, "SHORTEST", 0.0)
    limits = {"peak_flops": 1e11, "bandwidth": 1e10}
    machine = limits | {"device": "d", "cores": 2, "dtype": "float32"}
    cases = [
        benchmark_attention.measure(method, (16, 24), mode, "float32", rounds=1) | limits
        for method in benchmark_attention.METHODS
    ]
    table = part_tables.attention_table({"machine": machine, "cases": cases})
    assert table.count("| 16x24 |") == 3 and "1.19 M" in table and "2.37 M" in table


def test_convolutions_of_a_network_are_all_its_arithmetic():
    case = Case("fcn", "resnet18", "train", (32, 64), 1, "float32")
    macs = 0
    for each in benchmark_convolutions.convolutions_of(case):
        reach = each.dilation * (each.kernel[0] - 1) + 1
        rows, columns = (
            (length + 2 * each.padding - reach) // each.stride + 1 for length in each.x[1:3]
        )
        macs += rows * columns * math.prod(each.kernel)
    assert macs == jax_program.forward_macs(case)


def test_convolutions_are_timed_beside_the_step(monkeypatch):
    two = [
        benchmark_convolutions.Convolution((1, 9, 9, 3), (3, 3, 3, 8), 2, 1, 1, 1),
        benchmark_convolutions.Convolution((1, 5, 5, 8), (3, 3, 8, 4), 1, 2, 1, 2),
    ]
    monkeypatch.setattr(benchmark_convolutions, "convolutions_of", lambda case: [two[0], *two])
    case = Case("fcn", "mobilenet_v2", "train", (32, 64), 1, "float32")
    network = segmenter.build(config_of(case).model, np.random.default_rng(0))
    found = benchmark_convolutions.measure(case, network, rounds=2)
    machine = {"device": "d", "cores": 2, "dtype": "float32"}
    found |= {"machine": machine, "case": dataclasses.asdict(case)}
    table = part_tables.convolution_table(found)
    assert "its 3 convolutions alone" in table and "| 3x3, 3 | 8 | 9x9 | 2 | 1 | 1 | 2 |" in table


def test_the_table_of_pipelines_compares_turn_by_turn():
    # The machine was half as fast in the second turn, for both.
    speeds = {
        part_tables.STRAIGHT: [{"wall": 8, "cpu": 4}, {"wall": 4, "cpu": 2}],
        "ours from raw": [{"wall": 40, "cpu": 20}, {"wall": 20, "cpu": 10}],
    }
    found = {"machine": {"device": "d", "cores": 2}, "load": [0, 1], "speeds": speeds}
    found |= {"operations": {"decode": 24.12}, "bytes": dict.fromkeys(speeds, 2.5e6)}
    table = part_tables.data_table(found)
    assert "| straight PIL from PNG | 6.0 | 3.0 |  | 2.50 | 10.00 |" in table
    assert "| ours from raw | 30.0 | 15.0 | **5.00** (5.00 to 5.00) | 2.50 | 2.00 |" in table
    assert "| decode | 24.1 |" in table


@slow
def test_pipelines_are_measured_beside_a_straight_one():
    found = benchmark_data.measure(count=2, rounds=1)
    assert found["bytes"]["ours from raw"] > found["bytes"]["ours from JPEG"]
    table = part_tables.data_table(found)
    assert all(f"| ours from {name} |" in table for name in ("PNG", "JPEG", "raw"))


@slow
def test_evaluation_is_measured_beside_a_loop():
    found = benchmark_evaluation.measure("fcn", "resnet18", count=3, rounds=2)
    assert found["agree"] == pytest.approx(1, abs=1e-3)
    found = {"machine": {"device": "d", "cores": 2}, "cases": [found]}
    assert "| fcn:resnet18 | 3 |" in part_tables.evaluation_table(found)


@pytest.mark.parametrize("text", ["256", "0x512", "ax5", "256x-1"])
def test_a_size_that_is_none_says_how_to_write_one(text):
    with pytest.raises(argparse.ArgumentTypeError, match="HEIGHTxWIDTH"):
        command_line.size(text)


def test_a_network_that_is_none_says_how_to_write_one():
    assert command_line.net_name("ocr:resnet18") == "ocr:resnet18"
    with pytest.raises(argparse.ArgumentTypeError, match="METHOD:BACKBONE"):
        command_line.net_name("resnet18")


def test_added_cases_must_be_of_the_same_machine(tmp_path):
    out, machine = tmp_path / "cases.json", {"device": "one", "cores": 2}
    assert command_line.kept_cases(out, machine) == []
    out.write_text(json.dumps({"machine": machine, "cases": [1]}))
    assert command_line.kept_cases(out, machine) == [1]
    with pytest.raises(UserError, match="measured with cores 2, this is 4"):
        command_line.kept_cases(out, machine | {"cores": 4})

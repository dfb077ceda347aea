"""The opponents of the benchmark compute what we compute, and the benchmark measures both."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from goldens import Worst, fill, read_json
from goldens.eval import compare

from openseg_jax.bridge import load_state_dict, reference_outputs, to_state_dict
from openseg_jax.bridge.reference import reference_config
from openseg_jax.config import default_config
from openseg_jax.models import segmenter

torch = pytest.importorskip("torch", reason="PyTorch")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import torch_twins  # noqa: E402


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
    pytest.param("ocr", "resnet18_7x7", {"output_stride": 32}, marks=slow),
    pytest.param("fcn", "wide_resnet16", {}, marks=slow),
    pytest.param("ocr", "hrnet_w18", {}, marks=slow),
]


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

"""Preflight: the shapes it assumes are those of a training, and it reads compilers rightly."""

import importlib.util
import json
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

from openseg_jax import hlo, preflight, targets
from openseg_jax.data.pipeline import training_batches
from openseg_jax.models import segmenter
from openseg_jax.training.trainer import create_state

sys.path[:0] = [str(ROOT / "configs"), str(ROOT / "scripts")]
import toy_ocr  # noqa: E402
from zoo_rows import GRID, read, table_rows  # noqa: E402


def shapes(tree):
    return jax.tree.map(lambda leaf: (tuple(leaf.shape), np.dtype(leaf.dtype)), tree)


@pytest.mark.parametrize("boundaries", ["", "classes"])
def test_batches_are_those_of_the_pipeline(toy_data, boundaries):
    config = toy_ocr.get_config()
    config.data.update(dir=str(toy_data), boundaries=boundaries)
    config.augment.crop = (32, 48)
    assert shapes(preflight.abstract_batch(config)) == shapes(next(training_batches(config)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_state_is_that_of_a_training(dtype):
    config = toy_ocr.get_config()
    config.dtype, config.train.ema_decay = dtype, 0.9
    state, _ = preflight.abstract_state(config)
    network = segmenter.build(config.model, np.random.default_rng(0))
    assert shapes(state) == shapes(create_state(config, network)[0])
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))


def test_auto_dtype_is_that_of_the_target():
    config = toy_ocr.get_config()
    assert preflight.for_target(config, "tpu").dtype == "bfloat16"
    assert preflight.for_target(config, "cpu").dtype == "float32"
    assert config.dtype == "auto"


PROGRAM = """HloModule jit_train_step, is_scheduled=true, num_partitions=8

FileNames
1 "/somewhere/openseg_jax/models/layers/modules.py"
2 "/somewhere/openseg_jax/models/resnet.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=91 end_line=91 column=6 end_column=6}
2 {file_name_id=1 function_name_id=2 line=30 end_line=30 column=6 end_column=6}
3 {file_name_id=2 function_name_id=3 line=12 end_line=12 column=6 end_column=6}

StackFrames
1 {file_location_id=3 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}
3 {file_location_id=1 parent_frame_id=2}

%fused_computation (p: f32[8,8]) -> f32[4096,4096] {
  %p = f32[8,8]{1,0:T(8,128)} parameter(0)
  ROOT %inside = f32[4096,4096]{1,0:T(8,128)} broadcast(%p), dimensions={}
}

%body (arg: (f32[512,512])) -> (f32[512,512]) {
  %g = f32[512,512]{1,0} get-tuple-element(%arg), index=0
  %looped = f32[512,512]{1,0} negate(%g)
  ROOT %t = (f32[512,512]) tuple(%looped)
}

ENTRY %main.1 (a: f32[1024,1024], b: bf16[2,3]) -> f32[8,8] {
  %a = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %narrow = bf16[1000,3]{1,0:T(8,128)(2,1)} copy(%b)
  %f.1 = (f32[8,8]{1,0:T(8,128)S(1)}, /*index=1*/s16[64]{0}) fusion(%a), kind=kLoop, \
calls=%fused_computation, metadata={op_name="jit(train_step)/add" stack_frame_id=3}
  %s = (f32[8,8]{1,0}, f32[8,8]{1,0}) all-reduce-start(%f.1), replica_groups={{0,1}}
  %d = f32[8,8]{1,0} all-reduce-done(%s)
  %r = f32[8,8]{1,0} all-reduce(%d), replica_groups={{0,1}}
  %c = pred[7]{0} collective-permute(%r), source_target_pairs={{0,1}}
  ROOT %out = f32[8,8]{1,0} add(%r, %r)
}
"""


def test_collectives_of_a_program():
    assert hlo.collectives(PROGRAM) == {"all-reduce": 2, "collective-permute": 1}


def test_largest_buffers_of_a_program():
    buffers = {buffer.array: buffer for buffer in hlo.largest_buffers(PROGRAM, 10)}
    assert list(buffers)[:2] == ["f32[512,512]", "bf16[1000,3]"]  # not inside fusions, no arguments
    assert buffers["f32[512,512]"].size == 4 * 512 * 512
    assert buffers["bf16[1000,3]"].size == 2 * 1000 * 128  # in tiles of 128 lanes
    assert buffers["f32[8,8]"].size == 4 * 8 * 128
    assert buffers["f32[8,8]"].source == "modules.py:91 < resnet.py:12"
    assert buffers["s16[64]"].size == 128
    assert len(hlo.largest_buffers(PROGRAM, 1)) == 1


def test_figures_of_a_compiled_program():
    """1 GFLOP, 4 MiB of weights, 2 MiB of input and of output, no other memory."""
    traced = jax.jit(lambda w, x: x @ w).trace(
        jax.ShapeDtypeStruct((1024, 1024), np.float32),
        jax.ShapeDtypeStruct((512, 1024), np.float32),
    )
    cost = preflight._compile("product", traced)
    assert cost.macs == 512 * 1024 * 1024 and cost.collectives == {}
    np.testing.assert_allclose(cost.flops, 2 * cost.macs, rtol=0.01)
    assert cost.arguments == 6 * 2**20
    assert 8 * 2**20 <= cost.peak <= 9 * 2**20
    assert cost.buffers[0].size == 2 * 2**20 and cost.buffers[0].array == "f32[512,1024]"


def test_the_table_says_whose_figures_they_are_and_whether_it_fits():
    target = targets.find_target("cpu")
    cost = preflight.Cost("train step", 10**9, 1.0, 2e9, 2**29, 2**30, 3 * 2**29)
    text = preflight.table(123_456, [cost], target, 2 * 2**30)
    assert "XLA:CPU of jaxlib" in text and "estimate" in text and "123,456" in text
    assert "fits into 2.0 GiB" in text and "2.0 GFLOP" in text
    assert "DOES NOT FIT into 1.4 GiB" in preflight.table(1, [cost], target, int(1.4 * 2**30))
    refused = preflight.Cost("train step", 0, 1.0, refused="RESOURCE_EXHAUSTED: used 20G of 15G")
    text = preflight.table(1, [refused], target, 16 * 2**30)
    assert "used 20G of 15G" in text and "DOES NOT FIT" in text
    assert "give --memory" in preflight.table(1, [cost], target, None)


@pytest.mark.parametrize(
    "target, expected",
    [
        ("gpu", "JAX finds no GPU here"),
        ("cuda", "--target cuda: use cpu, gpu or tpu"),
        ("tpu-v99:2x4", "TPU"),
        ("gpu-a99", "names are such as gpu-h100"),
        ("gpu-a100:0", "or gpu-a100:8 for eight"),
    ],
)
def test_a_target_that_is_not_there_is_one_message(openseg, target, expected):
    config = f"--config={ROOT}/configs/toy_ocr.py"
    finished = openseg("analyze", config, "--preflight", f"--target={target}")
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert expected in finished.stderr.splitlines()[-1]


@pytest.mark.slow
def test_preflight_on_two_devices(openseg):
    arguments = ["analyze", f"--config={ROOT}/configs/toy_ocr.py", "--preflight", "--size=64x96"]
    finished = openseg(*arguments, "--memory=0.1", JAX_NUM_CPU_DEVICES=2, timeout=600)
    assert finished.returncode == 1, finished.stderr
    train, evaluation = finished.stdout.split("eval step")
    assert "for 2 x cpu" in train and "all-reduce" in train and "parameters: 2,109,172" in train
    assert "DOES NOT FIT into 0.1 GiB" in train and "fits into 0.1 GiB" in evaluation


@pytest.mark.slow
def test_preflight_for_a_tpu_that_is_not_there(openseg):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler: pip install libtpu")
    arguments = ["analyze", f"--config={ROOT}/configs/toy_ocr.py", "--preflight", "--size=64x96"]
    finished = openseg(*arguments, "--target=tpu-v5e:2x2", timeout=900)
    assert finished.returncode == 0, finished.stderr
    assert "XLA:TPU of libtpu" in finished.stdout and "4 x TPU v5 lite" in finished.stdout
    assert "all-reduce" in finished.stdout and "fits into 16.0 GiB" in finished.stdout


@pytest.mark.slow
def test_preflight_for_gpus_that_are_not_there(openseg):
    arguments = ["analyze", f"--config={ROOT}/configs/toy_ocr.py", "--preflight", "--size=64x96"]
    finished = openseg(*arguments, "--target=gpu-rtx3090:2", timeout=900)
    if "needs the GPU compiler" in finished.stderr:
        pytest.skip(finished.stderr)
    assert finished.returncode == 0, finished.stderr
    assert "XLA:GPU of jax-cuda" in finished.stdout and "2 x NVIDIA GeForce RTX" in finished.stdout
    assert "all-reduce" in finished.stdout and "fits into 18.0 GiB" in finished.stdout
    assert "nan" not in finished.stdout


@pytest.mark.slow  # minutes each
@pytest.mark.parametrize("row", table_rows("cityscapes"))
def test_the_networks_of_the_tables_compile_for_a_tpu_slice(row):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("the TPU compiler: pip install libtpu")
    target = targets.find_target("tpu-v5e:2x4")
    parameters, costs = preflight.preflight(read(row), target, (1024, 2048))
    assert parameters > 0 and len(costs) == 2
    assert all(preflight.fits(cost, target.memory) for cost in costs)


def test_the_recorded_compilations_are_of_all_networks_and_fit():
    found = json.loads((ROOT / "docs" / "results" / "tpu.json").read_text())
    assert found["rows"].keys() == set(table_rows("cityscapes"))
    for row, figures in found["rows"].items():
        assert figures["batch"] == read(row).train.batch_size
        assert figures["parameters"] == parameters_of(row), row
        assert max(figures[step]["peak"] for step in ("train", "eval")) <= found["memory"]


def parameters_of(row):
    state, _ = preflight.abstract_state(read(row))
    return sum(leaf.size for leaf in jax.tree.leaves(state["params"]))


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for dataset in GRID for row in table_rows(dataset)])
def test_every_row_of_the_tables_lowers(row):
    """Train and eval step of the recipe as it is, for a TPU."""
    config = preflight.for_target(read(row), "tpu")
    target = targets.find_target("cpu")
    state, graphs = preflight.abstract_state(config)
    step = preflight.trace_train_step(config, target.devices[:1], state, graphs["train"])
    evaluation = preflight.trace_eval_step(config, target, state, graphs["eval"], (512, 683))
    assert step.out_info[1].keys() == {"loss", "lr", "grad_norm"}
    assert jax.tree.leaves(evaluation.out_info)[0].shape[0] == len(target.devices)
    for traced in (step, evaluation):
        assert "stablehlo.convolution" in traced.lower(lowering_platforms=("tpu",)).as_text()

"""Training as a user runs it: devices, resuming, stopping, processes. Small, but all real."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command, run

from openseg_jax.training import checkpoint


def final_state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, whatever devices it was written on."""
    import jax
    from orbax.checkpoint import v1 as ocp

    folder = (workdir / "checkpoints" / str(step)).resolve()
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for name, leaf in ocp.checkpointables_metadata(folder).metadata["state"].items()
    }
    loaded = ocp.load(folder, abstract, checkpointable_name="state")
    return {name: np.asarray(array) for name, array in loaded.items()}


def assert_close_statistics(first: dict, second: dict):
    """Running means agree as far as rounding, magnified by training, lets them."""
    names = [name for name in first if name.startswith("stats") and name.endswith("mean")]
    assert len(names) > 50
    for name in names:
        np.testing.assert_allclose(first[name], second[name], rtol=0.1, atol=0.05, err_msg=name)


def assert_identical(first: dict, second: dict):
    assert first.keys() == second.keys() and len(first) > 300
    different = [name for name in first if not np.array_equal(first[name], second[name])]
    assert not different, different[:5]


def test_a_run_leaves_everything_the_contract_names(uninterrupted):
    workdir, finished = uninterrupted
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in training] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(line["loss"]) and 0 <= line["data_wait"] <= 1 for line in training)
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 6
    result = json.loads((workdir / "eval" / "6.json").read_text())
    assert len(result["iou"]) == 10 and 0 <= result["miou"] <= 1
    assert result["protocol"]["images"] == 60 and result["protocol"]["split"] == "val"
    # Every pixel that is not void was counted once.
    from openseg_jax.data.catalog import toy_street

    loads = toy_street.DATASET.read(None)["val"]
    valid = sum(int((load().label != 255).sum()) for load in loads)
    assert np.sum(result["confusion"]) == valid
    assert (workdir / "report.html").stat().st_size > 10_000
    assert list((workdir / "eval" / "6").glob("*.png")) and list(workdir.glob("events.*"))
    assert "mIoU" in finished.stdout and "person" in finished.stdout


def test_a_finished_run_says_so_and_changes_nothing(uninterrupted, environment):
    workdir, _ = uninterrupted
    before = final_state(workdir, 6)
    again = run(workdir, 6, environment)
    assert again.returncode == 0 and "is finished" in again.stdout
    assert_identical(before, final_state(workdir, 6))


def test_another_config_is_refused_with_its_differences(uninterrupted, environment):
    workdir, _ = uninterrupted
    changed = ["--config.optimizer.learning_rate=0.5", "--config.data.workers=1"]
    refused = run(workdir, 6, environment, more=changed)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "optimizer.learning_rate: 0.008 -> 0.5" in refused.stderr
    assert "workers" not in refused.stderr
    longer = run(workdir, 8, environment)
    assert longer.returncode == 2 and "--extend" in longer.stderr


def test_sigterm_saves_and_the_next_run_ends_bit_for_bit_alike(
    uninterrupted, tmp_path, environment
):
    workdir = tmp_path / "stopped"
    process = subprocess.Popen(
        command(workdir, 6), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for_step(workdir, 2, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0 and "saved" in output, output
    resumed = run(workdir, 6, environment)
    assert resumed.returncode == 0 and "Going on from step" in resumed.stdout, resumed.stderr
    assert_identical(final_state(uninterrupted[0], 6), final_state(workdir, 6))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 6


@pytest.mark.slow
def test_a_second_interrupt_stops_at_once(toy_data, environment, tmp_path):
    process = subprocess.Popen(
        command(tmp_path / "w", 1000),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_for_step(tmp_path / "w", 1, process)
    # Between the two the first one is handled: signals of one kind do not queue.
    process.send_signal(signal.SIGINT)
    while b"Stopping after this step" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode in (0, 130), output  # 0: the step and its checkpoint were faster
    assert "Traceback" not in output and "Segmentation" not in output
    assert "The same command goes on" in output


def wait_for_step(workdir: Path, step: int, process: subprocess.Popen, timeout=240):
    """Until metrics.jsonl tells of that step."""
    deadline = time.time() + timeout
    path = workdir / "metrics.jsonl"
    while time.time() < deadline and process.poll() is None:
        if path.is_file() and f'"kind": "train", "step": {step},' in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} not reached: {process.stdout and process.stdout.read()}")


def wait_for_checkpoint_write(workdir: Path, process: subprocess.Popen, timeout=240):
    """Until a checkpoint is being written: Orbax's temporary folder is there."""
    deadline = time.time() + timeout
    while time.time() < deadline and process.poll() is None:
        if any("tmp" in path.name for path in (workdir / "checkpoints").glob("*")):
            return
        time.sleep(0.0005)
    raise AssertionError("no checkpoint write was seen")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the first checkpoint", "step 4", "write", "any"])
def test_sigkill_at_any_moment_loses_nothing(uninterrupted, tmp_path, environment, moment):
    workdir = tmp_path / "killed"
    process = subprocess.Popen(
        command(workdir, 6, every=2),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    if moment == "write":
        wait_for_checkpoint_write(workdir, process)
    else:
        wait_for_step(workdir, 4 if moment == "step 4" else 1, process)
    if moment == "any":
        time.sleep(np.random.default_rng(os.getpid()).uniform(0, 5))
    process.kill()
    process.wait()
    resumed = run(workdir, 6, environment, every=2)
    assert resumed.returncode == 0, resumed.stderr
    if moment == "step 4":
        assert "Going on from step" in resumed.stdout
    assert_identical(final_state(uninterrupted[0], 6), final_state(workdir, 6))
    kept = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert "6" in kept and not any("tmp" in name for name in kept), kept


@pytest.mark.slow
def test_averaged_weights_end_bit_for_bit_alike_after_a_stop(toy_data, environment, tmp_path):
    more = ["--config.optimizer.schedule=swa_poly"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    finished = run(whole, 6, environment, 4, more)
    assert finished.returncode == 0, finished.stderr
    assert "Batch norm of the averaged weights" in finished.stdout
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoints" / "6")
    resumed = run(part, 6, environment, 4, more)
    assert "Going on from step 4" in resumed.stdout, resumed.stderr
    state = final_state(whole, 6)
    assert_identical(state, final_state(part, 6))
    result, again = (json.loads((w / "eval" / "6.json").read_text()) for w in (whole, part))
    assert result["miou"] == again["miou"]
    # What is evaluated and loaded is the average.
    arrays, _ = checkpoint.load(checkpoint.find(whole))
    moved = [name for name in arrays if not np.array_equal(arrays[name], state[name])]
    assert len(moved) > 100
    for name in moved:
        np.testing.assert_array_equal(arrays[name], state[f"average.{name}"])


DEVICES = """
import sys
import jax, numpy as np
from openseg_jax import config as config_lib
from openseg_jax import config_checks
sys.path.insert(0, sys.argv[1] + "/configs")
import toy_ocr
from openseg_jax.data.pipeline import training_batches
from openseg_jax.models import segmenter
from openseg_jax.parallel import batch_specs, make_mesh, replicate, shard_batch
from openseg_jax.training.step import create_state, make_train_step

config = toy_ocr.get_config()
config.dtype, config.train.batch_size = sys.argv[2], 8
config.augment.crop = (64, 96)
stream = training_batches(config)
batches = [next(stream) for _ in range(10)]
losses = []
for devices, height in ((1, 1), (8, 1), (8, 2)):
    config.mesh.height = height
    mesh = make_mesh(config.mesh, config.train.batch_size, 64, jax.devices()[:devices])
    network = segmenter.build(config.model, np.random.default_rng(config.seed))
    first, graphs = create_state(config, network)
    step = make_train_step(config, graphs["train"], mesh, batch_specs(batches[0]))
    state, run = replicate(first, mesh), []
    for batch in batches:
        state, metrics = step(state, shard_batch(batch, mesh))
        run.append(float(metrics["loss"]))
    losses.append(run)
losses = np.array(losses)
assert np.ptp(losses[0]) > 0.01, "all losses are alike"
assert (np.abs(losses - losses[0]) <= float(sys.argv[3]) * losses[0]).all(), losses
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("float64", 1e-10)])
def test_one_and_eight_devices_have_the_same_losses(toy_data, environment, dtype, tolerance):
    """Ten steps of training.

    From a random start rounding alone flips ReLUs and drives float32 trainings apart, by 1 % in
    ten full steps of AdamW. The recipe's gentle start and the order in which batch norm sums
    keep them together.
    """
    finished = subprocess.run(
        [sys.executable, "-c", DEVICES, str(ROOT), dtype, str(tolerance)],
        env={
            **environment,
            "JAX_NUM_CPU_DEVICES": "8",
            "JAX_ENABLE_X64": str(int(dtype == "float64")),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def run_two_processes(workdir, steps, environment, timeout=400):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = ["--config.train.batch_size=8", f"--coordinator_address=127.0.0.1:{port}", "--extend"]
    processes = [
        subprocess.Popen(
            command(workdir, steps, 2, [*more, "--num_processes=2", f"--process_id={index}"]),
            env={**environment, "JAX_NUM_CPU_DEVICES": "4"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return outputs


@pytest.mark.slow
def test_two_processes_train_checkpoint_evaluate_and_resume(toy_data, environment, tmp_path):
    workdir = tmp_path / "two"
    run_two_processes(workdir, 2, environment)
    result = json.loads((workdir / "eval" / "2.json").read_text())
    whole = tmp_path / "one"
    more = ["--config.train.batch_size=8"]
    alone = run(whole, 2, {**environment, "JAX_NUM_CPU_DEVICES": "8"}, 2, more)
    assert alone.returncode == 0, alone.stderr
    expected = json.loads((whole / "eval" / "2.json").read_text())
    assert np.sum(result["confusion"]) == np.sum(expected["confusion"])
    assert_close_statistics(final_state(whole, 2), final_state(workdir, 2))
    outputs = run_two_processes(workdir, 4, environment)
    assert "Going on from step 2" in outputs[0]
    longer = run(whole, 4, {**environment, "JAX_NUM_CPU_DEVICES": "8"}, 2, [*more, "--extend"])
    assert "Going on from step 2" in longer.stdout, longer.stderr
    assert int(final_state(workdir, 4)["step"]) == 4
    assert_close_statistics(final_state(whole, 4), final_state(workdir, 4))


def test_the_newest_and_the_best_checkpoint_are_kept(tmp_path):
    state = {"params": {"kernel": np.ones(3, np.float32)}, "step": np.zeros((), np.int32)}
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, miou in ((1, 0.1), (2, 0.9), (3, None), (4, 0.3), (5, float("nan")), (6, None)):
            checkpoints.save(step, state, {"number": step}, miou)
        assert checkpoints.latest_step == 6
        assert checkpoints.config(6) == {"number": 6}
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert kept == ["2", "5", "6"]
    assert checkpoint.find(tmp_path).name == "2"


def test_restoring_on_another_mesh_is_exact(tmp_path):
    import jax

    from openseg_jax.config import default_config
    from openseg_jax.parallel import make_mesh

    rng = np.random.default_rng(0)
    state = {"params": {"a": {0: rng.normal(size=(3, 5)).astype(np.float32)}}}
    state["step"] = np.full((), 7, np.int32)
    mesh = make_mesh(default_config().mesh, 8, 64, jax.devices()[:1])
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, {})
        restored = checkpoints.restore(7, state, mesh)
    np.testing.assert_array_equal(restored["params"]["a"][0], state["params"]["a"][0])
    assert int(restored["step"]) == 7


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    import jax

    from openseg_jax.config import default_config
    from openseg_jax.errors import UserError
    from openseg_jax.parallel import make_mesh

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": {"a": np.ones(3, np.float32)}}, {})
        other = {"params": {"a": np.ones(4, np.float32), "b": np.ones(2, np.float32)}}
        mesh = make_mesh(default_config().mesh, 8, 64, jax.devices()[:1])
        with pytest.raises(UserError, match="another model") as error:
            checkpoints.restore(1, other, mesh)
    assert "params.b is missing" in str(error.value)
    assert "params.a is (3,), the model needs (4,)" in str(error.value)


def test_a_damaged_checkpoint_is_named(tmp_path):
    from openseg_jax.errors import UserError

    state = {"params": {"a": np.ones(3, np.float32)}, "step": np.zeros((), np.int32)}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {"model": "x"})
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "state" / "d")
    with pytest.raises(UserError, match="checkpoints/1 is damaged"):
        checkpoint.load(tmp_path / "checkpoints" / "1")


def test_evaluating_with_another_network_or_normalisation_is_refused():
    from openseg_jax import config as config_lib
    from openseg_jax import config_checks
    from openseg_jax.errors import UserError

    trained, wanted = (config_lib.to_dict(config_lib.default_config()) for _ in range(2))
    wanted["eval"]["batch_size"] = 1
    config_checks.check_same_network(trained, wanted)
    wanted["data"]["mean"] = [0, 0, 0]
    wanted["model"]["norm"] = "inplace_abn"
    with pytest.raises(UserError, match="data.mean.*\n.*model.norm: 'bn' -> 'inplace_abn'"):
        config_checks.check_same_network(trained, wanted)


@pytest.mark.slow
def test_bfloat16_trains_with_float32_weights(uninterrupted, toy_data, environment, tmp_path):
    done = run(tmp_path / "half", 6, environment, more=["--config.dtype=bfloat16"])
    assert done.returncode == 0, done.stderr
    state = final_state(tmp_path / "half", 6)
    floats = [array for array in state.values() if array.dtype.kind == "f"]
    assert floats and all(array.dtype == np.float32 for array in floats)
    losses = [
        [json.loads(line).get("loss") for line in (workdir / "metrics.jsonl").open()]
        for workdir in (tmp_path / "half", uninterrupted[0])
    ]
    half, full = ([loss for loss in each if loss is not None] for each in losses)
    assert half != full
    assert half[0] == pytest.approx(full[0], rel=0.02)

"""The training program: set-up, loop, evaluation. Reads top to bottom; the step is `step.py`."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from openseg_jax import config as config_lib
from openseg_jax import config_checks, report_html
from openseg_jax.certificate import NORMS
from openseg_jax.data.built import Split
from openseg_jax.data.folder import dataset_of
from openseg_jax.data.pipeline import check_data, measured, training_batches
from openseg_jax.errors import UserError
from openseg_jax.evaluation import evaluator
from openseg_jax.models import segmenter
from openseg_jax.parallel import batch_specs, make_mesh, replicate, shard_batch
from openseg_jax.recipes.backbones import BACKBONES
from openseg_jax.training import checkpoint, optimizer, safety
from openseg_jax.training.checkpoint import Checkpoints, save_config
from openseg_jax.training.initialization import initialize_from
from openseg_jax.training.logs import Logs
from openseg_jax.training.step import create_state, make_statistics_step, make_train_step


def train(config, workdir: Path, extend: bool = False) -> None:
    """Trains from scratch, from `config.init_from`, or from where `workdir` stopped."""
    config_checks.validate(config)
    check_data(config)
    mesh = make_mesh(config.mesh, config.train.batch_size, config.augment.crop[0])
    settings = config_lib.to_dict(config)
    with Checkpoints(workdir, config.train.keep_checkpoints) as checkpoints:
        start = checkpoints.latest_step or 0
        if checkpoints.latest_step == 0:
            raise UserError(
                f"{workdir} holds a converted checkpoint. Train in another --workdir, with "
                f"--config.init_from={workdir}."
            )
        if start:
            config_checks.check_resumable(checkpoints.config(start), settings, extend)
        network = segmenter.build(config.model, np.random.default_rng(config.seed))
        loaded = None
        if config.init_from and not start:
            loaded = initialize_from(config.init_from, network, config.init_strict)
        state, graphs = create_state(config, network)
        if start:
            state = checkpoints.restore(start, state, mesh)
        else:
            state = replicate(state, mesh)
        save_config(workdir, settings)
        with Logs(workdir, start, config.train.steps) as logs:
            if start >= config.train.steps:
                logs.say(f"{workdir} is finished: {start} of {config.train.steps} steps are done.")
                return
            batches = training_batches(config, start, jax.process_index(), jax.process_count())
            batches, data_speed = measured(batches, config.train.batch_size)
            logs.describe(config, state["params"], mesh, data_speed)
            if loaded:
                hash = f", sha256 {loaded.sha256}" if loaded.sha256 else ""
                norm = f", {NORMS[loaded.world]}" if loaded.world else ""
                logs.say(f"init_from {config.init_from}{norm}{hash}: {loaded}")
            elif not start and (weights := BACKBONES[config.model.backbone].weights):
                logs.say(f"Random weights; recipes start this backbone from {weights} (init_from).")
            if start:
                logs.say(f"Going on from step {start} in {workdir}.")
            evaluate = evaluator.make_evaluate(config, graphs["eval"], state)
            run = Run(config, settings, workdir, mesh, graphs, evaluate, checkpoints, logs)
            _loop(run, state, batches)


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same throughout a run."""

    config: ConfigDict
    settings: dict  # the config as it is saved
    workdir: Path
    mesh: Mesh
    graphs: dict
    evaluate: Callable
    checkpoints: Checkpoints
    logs: Logs


def _loop(run: Run, state: dict, batches: Iterator[dict]) -> None:
    """From the state's step to the last: train, log, evaluate, save, stop when asked."""
    config, logs = run.config, run.logs
    start, steps = int(jax.device_get(state["step"])), config.train.steps
    stop, watch = StopSignal(), safety.Watch(config, run.workdir, logs.say)
    train_step, recent = None, []
    for step in range(start + 1, steps + 1):
        with logs.waiting_for_data():
            batch = next(batches)
        safety.check_labels(batch["label"], config, step)
        train_step = train_step or make_train_step(
            config, run.graphs["train"], run.mesh, batch_specs(batch)
        )
        placed = shard_batch(batch, run.mesh)
        with jax.transfer_guard("disallow"):
            state, metrics = train_step(state, placed)
        recent.append(metrics)
        logging = step % config.train.log_every == 0 or step in (start + 1, steps)
        stopping = stop.requested(agree=logging)
        evaluating = step == steps or (step % config.train.eval_every == 0 and not stopping)
        saving = evaluating or stopping or step % config.train.checkpoint_every == 0
        if logging or saving:
            values = watch.finite(step, [jax.device_get(each) for each in recent])
            if values:
                logs.training(step, values, config.train.batch_size)
            recent = []
        if step == steps and optimizer.averages_cycles(config) and not config.train.freeze_norm:
            state["average"] = _with_statistics(run, state["average"], batches)
        miou = _evaluate(run, state, step) if evaluating else None
        if saving:
            with logs.pause():
                run.checkpoints.save(step, state, run.settings, miou)
        if stopping and step < steps:
            logs.say(f"Stopped by a signal at step {step}; saved. The same command goes on.")
            return
    logs.say(f"Finished {steps} steps.")


def _with_statistics(run: Run, weights: dict, batches: Iterator[dict]) -> dict:
    """Weights averaged over cycles, with batch norm statistics of one pass through the data."""
    config = run.config
    data = config.data
    images = len(Split(dataset_of(data), data.dir, data.train_split))
    count = max(1, images // config.train.batch_size)
    run.logs.say(f"Batch norm of the averaged weights: its statistics in {count} batches.")
    statistics_step = None
    with run.logs.pause():
        for index in range(count):
            batch = next(batches)
            statistics_step = statistics_step or make_statistics_step(
                config, run.graphs["train"], run.mesh, batch_specs(batch)
            )
            placed, number = shard_batch(batch, run.mesh), replicate(np.int32(index), run.mesh)
            weights = statistics_step(weights, placed, number)
    return weights


def _evaluate(run: Run, state: dict, step: int) -> float:
    """Evaluates, logs and reports; the mIoU (NaN where there is none)."""
    config, logs, workdir = run.config, run.logs, run.workdir
    with logs.pause():
        result, pictures = run.evaluate(state.get("average", state), step, workdir)
        logs.evaluation(step, result, pictures)
        if jax.process_index() == 0:
            report = report_html.write_report(workdir)
            if step == config.train.steps:
                logs.say(evaluator.table(result))
                written = workdir / "eval" / evaluator.file_name(config, step)
                logs.say(f"report:   {report}\nscores:   {written}.json\npictures: {written}")
    # SegFix is chosen by its directions, as in the original.
    score = result.get("direction_acc", result["miou"])
    return float("nan") if score is None else score


class StopSignal:
    """Turns SIGTERM (a scheduler's warning) and SIGINT into one agreed step to stop at."""

    def __init__(self):
        self._received = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number, frame) -> None:
        if self._received and number == signal.SIGINT:
            # Not an exception: in the middle of XLA's own threads that ends in a crash.
            os.write(2, b"\nStopped at once. The same command goes on from the last checkpoint.\n")
            os._exit(130)
        self._received = True
        # os.write, as printing is not safe in the middle of another print.
        os.write(2, b"\nStopping after this step, with a checkpoint. Ctrl-C again: at once.\n")

    def requested(self, agree: bool) -> bool:
        """Whether to stop after the current step; all processes answer alike.

        Several processes have to ask each other, which they do at the steps that `agree`.
        """
        if jax.process_count() == 1:
            return self._received
        if not agree:
            return False
        return bool(multihost_utils.process_allgather(np.array(self._received)).any())


def evaluate_only(config, workdir: Path) -> dict:
    """Evaluates the best checkpoint of a workdir once."""
    config_checks.validate(config)
    network = segmenter.build(config.model, rng=None)
    params, stats, graphs = segmenter.graphs(network)
    folder = checkpoint.find(workdir)
    arrays, trained_with = checkpoint.load(folder)
    config_checks.check_same_network(trained_with, config_lib.to_dict(config))
    filled = checkpoint.fill({"params": params, "stats": stats}, arrays, str(folder))
    evaluate = evaluator.make_evaluate(config, graphs["eval"], filled)
    step = int(folder.name)
    start = time.perf_counter()
    result, _ = evaluate(filled, step, workdir)
    if jax.process_index() == 0:
        print(evaluator.table(result))
        print(f"{folder} in {time.perf_counter() - start:.1f} s")
        written = workdir / "eval" / evaluator.file_name(config, step)
        print(f"scores:   {written}.json\npictures: {written}")
    return result

"""What a run tells: the progress bar, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import jax
import numpy as np

from openseg_jax import __version__
from openseg_jax.progress import progress, say


class Logs:
    """Writes from process 0 alone; the other processes' calls do nothing.

    Lines of metrics.jsonl after step `start` (of a run that was killed later than its last
    checkpoint) are dropped, so that each step stands there once.
    """

    def __init__(self, workdir: Path, start: int, steps: int):
        self._active = jax.process_index() == 0
        self._step, self._steps = start, steps
        self._waited = self._paused = 0.0
        self._clock = time.perf_counter()
        if not self._active:
            return
        from tensorboardX import SummaryWriter  # slow to import

        self._path = workdir / "metrics.jsonl"
        _keep_until(self._path, start)
        self._file = self._path.open("a", buffering=1)
        self._board = SummaryWriter(str(workdir), purge_step=start + 1 if start else None)
        self._bar = progress(total=steps, initial=start, unit="step", disable=start >= steps)
        self._bar.set_postfix_str("compiling")
        self._compiling = True

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *exception) -> None:
        if self._active:
            self._bar.close()
            self._file.close()
            self._board.close()

    def say(self, text: str) -> None:
        """Prints above the progress bar."""
        if self._active:
            say(text)

    def describe(self, config, params: dict, mesh, data_speed: float) -> None:
        """One paragraph about the run, and a "run" line in metrics.jsonl."""
        if not self._active:
            return
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        device = jax.devices()[0]
        facts = {
            "parameters": int(count),
            "devices": f"{jax.device_count()} x {device.device_kind}",
            "processes": jax.process_count(),
            "mesh": dict(mesh.shape),
            "batch_size": config.train.batch_size,
            "input_images_per_second": round(data_speed, 1),
            "jax": jax.__version__,
            "openseg_jax": __version__,
        }
        self._write({"kind": "run", "step": self._step, **facts})
        self.say(
            f"{config.model.method} on {config.model.backbone}, {count / 1e6:.1f} M parameters; "
            f"{config.data.name}, {config.model.num_classes} classes; batch "
            f"{config.train.batch_size} over {facts['devices']} "
            f"({jax.process_count()} process{'es' if jax.process_count() > 1 else ''}); "
            f"batch norm over all {config.train.batch_size} images; {config.train.steps} steps; "
            f"input pipeline alone {data_speed:.0f} images/s"
        )

    @contextlib.contextmanager
    def waiting_for_data(self):
        """Counts the time inside as waiting for the input pipeline."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def pause(self):
        """Does not count the time inside (evaluation, checkpoints) as training."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def training(self, step: int, values: list[dict], batch_size: int) -> None:
        """Logs the mean of the metrics of the steps since the last call."""
        now = time.perf_counter()
        elapsed = max(now - self._clock - self._paused, 1e-9)
        means = {name: float(np.mean([each[name] for each in values])) for name in values[0]}
        means["lr"] = float(values[-1]["lr"])
        means["images_per_second"] = round(len(values) * batch_size / elapsed, 3)
        means["data_wait"] = round(min(self._waited / elapsed, 1.0), 4)
        self._clock, self._waited, self._paused = now, 0.0, 0.0
        if not self._active:
            return
        self._write({"kind": "train", "step": step, **means})
        for name, value in means.items():
            self._board.add_scalar(f"train/{name}", value, step)
        self._bar.set_postfix_str(
            f"loss {means['loss']:.3f}, lr {means['lr']:.2g}, "
            f"{means['images_per_second']:.1f} images/s, data wait {means['data_wait']:.0%}",
            refresh=False,
        )
        if self._compiling:  # the first step says nothing about the others' speed
            self._bar.unpause()
            self._bar.initial, self._compiling = step, False
        self._bar.update(step - self._step)
        self._step = step

    def evaluation(self, step: int, result: dict, pictures: list[np.ndarray]) -> None:
        """Logs the scores and pictures of an evaluation."""
        if not self._active:
            return
        scores = {name: result[name] for name in ("miou", "pixel_acc", "mean_acc")}
        speed = result["images_per_second"]
        self._write({"kind": "eval", "step": step, **scores, "images_per_second": speed})
        for name, value in scores.items():
            if value is not None:
                self._board.add_scalar(f"eval/{name}", value, step)
        for index, picture in enumerate(pictures[:3]):
            self._board.add_image(f"eval/{index}", picture, step, dataformats="HWC")
        shown = "-" if result["miou"] is None else f"{result['miou']:.4f}"
        self.say(
            f"step {step}: mIoU {shown}, pixel accuracy {result['pixel_acc']:.4f} "
            f"({speed:.1f} images/s)"
        )

    def _write(self, line: dict) -> None:
        self._file.write(json.dumps(line) + "\n")


def _keep_until(path: Path, step: int) -> None:
    """Drops the lines later than `step`, and a last line that was cut off."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    path.with_suffix(".tmp").write_text("".join(kept))
    path.with_suffix(".tmp").replace(path)

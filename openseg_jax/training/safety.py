"""What stops a training that went wrong, and says at which step and on which images."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from openseg_jax.data.dataset import IGNORE
from openseg_jax.data.pipeline import names_of_batch
from openseg_jax.errors import UserError


def skip_unless_finite(metrics: dict, new_state: dict, state: dict) -> dict:
    """`new_state` where loss and gradient are finite; else `state`, but for the step's number."""
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    kept = jax.tree.map(partial(jnp.where, finite), new_state, state)
    return kept | {"step": new_state["step"]}


def check_labels(labels: np.ndarray, config, step: int) -> None:
    """Raises UserError, which names the image, for a label that is no class of the network.

    Args:
        labels: this process's part of the batch of `step` (1 is the first), `(n, h, w)` uint8.
    """
    classes = config.model.num_classes
    if (labels + np.uint8(1)).max(initial=0) <= classes:  # 255, which is ignored, becomes 0
        return
    wrong = (labels >= classes) & (labels != IGNORE)
    index = int(wrong.any((1, 2)).argmax())
    values, counts = np.unique(labels[index][wrong[index]], return_counts=True)
    found = ", ".join(
        f"{value} ({count} pixels)" for value, count in list(zip(values, counts, strict=True))[:5]
    )
    place = index * jax.process_count() + jax.process_index()
    raise UserError(
        f"Step {step}: the label of image {names_of_batch(config, step - 1)[place]!r} of "
        f"{config.data.name} has {found}. Train ids go from 0 to {classes - 1}, and {IGNORE} is "
        "ignored. Correct the label map of the data set (config.data.label_map), or its labels."
    )


class Watch:
    """Notices steps whose loss or gradient is not finite, and stops the run when they go on.

    Args:
        workdir: where `failed_batch.json` tells of the step that was one too many.
        say: told of the steps before it, which were skipped.
    """

    def __init__(self, config, workdir: Path, say: Callable[[str], None]):
        self._config, self._workdir, self._say = config, workdir, say
        self._in_a_row = 0

    def finite(self, step: int, metrics: list[dict]) -> list[dict]:
        """The finite ones of the metrics of consecutive steps, of which `step` is the last."""
        kept = []
        for number, each in enumerate(metrics, start=step - len(metrics) + 1):
            if np.isfinite([each["loss"], each["grad_norm"]]).all():
                kept.append(each)
                self._in_a_row = 0
            else:
                self._not_finite(number, each)
        return kept

    def _not_finite(self, step: int, metrics: dict) -> None:
        self._in_a_row += 1
        limit = self._config.train.skip_nonfinite
        what = f"loss {metrics['loss']}, norm of the gradient {metrics['grad_norm']}"
        if self._in_a_row <= limit:
            self._say(f"Step {step} is skipped ({self._in_a_row} of {limit} in a row): {what}.")
            return
        report = self._workdir / "failed_batch.json"
        if jax.process_index() == 0:
            facts = {
                "step": step,
                "learning_rate": float(metrics["lr"]),
                "loss": str(metrics["loss"]),  # JSON has no NaN
                "grad_norm": str(metrics["grad_norm"]),
                "skipped_before": self._in_a_row - 1,
                "images": names_of_batch(self._config, step - 1),
            }
            report.write_text(json.dumps(facts, indent=2) + "\n")
        raise UserError(
            f"The loss or its gradient is not finite any more at step {step} ({what}, learning "
            f"rate {float(metrics['lr']):.3g}). {report} names the images of the batch. Lower "
            f"config.optimizer.learning_rate (now {self._config.optimizer.learning_rate}) or add "
            "config.optimizer.warmup_steps; where single batches are to blame, "
            f"config.train.skip_nonfinite (now {limit}) leaves them out. Checkpoints of this run "
            "are from before that step, and the same command goes on from the last."
        )

"""Two results side by side: what differs, and whether more than chance would make it differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.evaluation.metrics import interval, mean_iou, unpack
from openseg_jax.report import percent

MAY_DIFFER = ("checkpoint", "version")  # of two protocols: what the comparison is about


def read(path: Path) -> dict:
    """A result, as an evaluation writes it."""
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.") from error
    except ValueError:
        result = None
    if not isinstance(result, dict) or not {"iou", "protocol"} <= result.keys():
        raise UserError(f"{path} is no result of an evaluation (WORKDIR/eval/STEP.json).")
    return result


def unlike(first: dict, second: dict) -> list[str]:
    """Lines `key: its value | the other's value` where two protocols differ."""
    keys = [key for key in {**first, **second} if key not in MAY_DIFFER]
    return [
        f"{key}: {first.get(key)} | {second.get(key)}"
        for key in keys
        if first.get(key) != second.get(key)
    ]


def compare(first: dict, second: dict, force: bool = False) -> str:
    """A table of the IoU of each class and their mean: first, second, difference, 95 % interval.

    The interval is that of the difference when images are drawn anew, the same for both; `*`
    marks those that do not reach 0. Refuses results of unlike protocols unless forced.
    """
    differences = unlike(first["protocol"], second["protocol"])
    if differences and not force:
        raise UserError(
            "These results were made by unlike protocols, so that their numbers do not compare:\n  "
            + "\n  ".join(differences)
            + "\nEvaluate both alike, or pass --force."
        )
    if list(first["iou"]) != list(second["iou"]):
        raise UserError("These results are of different classes.")
    names = list(first["iou"])
    values = np.array(
        [[np.nan if r["iou"][name] is None else r["iou"][name] for name in names]
         for r in (first, second)]
    )  # fmt: skip
    means = [np.nan if r["miou"] is None else r["miou"] for r in (first, second)]
    draws = _difference_of_replicates(first, second, len(names))
    width = max(map(len, ["class", "mIoU", *names]))
    lines = [f"{'class':<{width}}   first  second  difference   95 % interval"]
    for index, name in enumerate(names):
        lines.append(_row(name, width, *values[:, index], draws[:, index]))
    lines.append("─" * len(lines[0]))
    lines.append(_row("mIoU", width, *means, draws[:, len(names)]))
    lines += [f"unlike: {line}" for line in differences]
    return "\n".join(lines)


def _difference_of_replicates(first: dict, second: dict, num_classes: int) -> np.ndarray:
    """`(count, classes + 1)` second less first of each replicate, the last being the mIoU."""
    if not all(result.get("bootstrap_iou") for result in (first, second)):
        return np.full((0, num_classes + 1), np.nan)
    replicates = [unpack(result["bootstrap_iou"], num_classes) for result in (first, second)]
    if len(replicates[0]) != len(replicates[1]):
        return np.full((0, num_classes + 1), np.nan)
    one, other = (np.column_stack([each, mean_iou(each)]) for each in replicates)
    return other - one


def _row(name: str, width: int, first: float, second: float, draws: np.ndarray) -> str:
    difference = second - first
    shown = "-" if np.isnan(difference) else f"{100 * difference:+.2f}"
    row = f"{name:<{width}}  {percent(first):>6}  {percent(second):>6}  {shown:>10}"
    low, high = interval(draws)
    if np.isnan(low):
        return row
    mark = " *" if low > 0 or high < 0 else ""
    return f"{row}   {100 * low:+.2f} to {100 * high:+.2f}{mark}"

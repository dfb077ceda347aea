"""Confusion matrices and scores of the original's running score."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from goldens import Result, Worst, fill, read_json
from openseg_jax.data.dataset import IGNORE
from openseg_jax.evaluation import metrics

NAMES = {"acc": "pixel_acc", "acc_cls": "mean_acc", "fwavacc": "fw_iou", "mean_iou": "miou"}


def results(root: Path, tolerance: dict, wanted: str):
    """Checks every case of `misc/metrics.json`."""
    document = read_json(root / "misc" / "metrics.json")
    stored = np.load(root / "misc" / "metrics.npz")
    allowed = tolerance["misc"]["metrics"]["scores_rel"]
    classes = document["num_classes"]
    truth, prediction = _labels(classes)
    for name, case in document["cases"].items():
        if wanted in name:
            yield _case(name, case, stored[name], truth, prediction, classes, allowed)
    if wanted in "binary":
        yield _binary(document, stored["binary"], truth, prediction, classes, allowed)


def _labels(classes: int) -> tuple[np.ndarray, np.ndarray]:
    truth = fill.make_labels(520, (3, 64, 80), classes)
    other = fill.make_labels(521, (3, 64, 80), classes, ignore_frac=0)
    right = fill.uniform("m|522", truth.size).reshape(truth.shape) < 0.6
    return truth, np.where(right, np.where(truth == -1, 0, truth), other)


def _case(name, case, stored, truth, prediction, classes, allowed) -> Result:
    kind, _, ignored = name.rpartition("_ignore_")
    if kind == "class5_absent":
        truth = np.where(truth == 5, -1, truth)
        prediction = np.where(prediction == 5, 6, prediction)
    elif kind != "full":
        return Result(name, float("nan"), "unknown case")
    truth = np.where(truth == -1, IGNORE, truth)
    if ignored != "None":
        truth = np.where(truth == int(ignored), IGNORE, truth)
    worst = Worst(name)
    confusion = metrics.confusion_matrix(truth, prediction, classes)
    worst.equal("confusion", confusion[:, :classes], stored)
    ours = metrics.scores(confusion)
    for theirs, name_here in NAMES.items():
        worst.close(theirs, ours[name_here], case[theirs], allowed * abs(case[theirs]))
    reference = np.array(case["cls_iu"], np.float64)
    worst.equal("classes without IoU", np.isnan(ours["iou"]), np.isnan(reference))
    scale = np.maximum(np.abs(np.nan_to_num(reference)), 1e-30)
    worst.close(
        "cls_iu", np.nan_to_num(ours["iou"]) / scale, np.nan_to_num(reference) / scale, allowed
    )
    return worst.result()


def _binary(document, stored, truth, prediction, classes, allowed) -> Result:
    """The original's precision is the recall and its recall the precision: cells swapped."""
    worst = Worst("binary")
    truth = np.where(truth == -1, IGNORE, truth > classes // 2)
    confusion = metrics.confusion_matrix(truth, prediction > classes // 2, 2)
    worst.equal("confusion", confusion[:, :2], stored)
    ours = metrics.binary_scores(confusion)
    f1, precision, recall = document["binary_f1_precision_recall"]
    for name, mine, theirs in (
        ("f1", ours["f1"], f1),
        ("precision", ours["precision"], recall),
        ("recall", ours["recall"], precision),
    ):
        worst.close(name, mine, theirs, allowed * theirs)
    return worst.result()

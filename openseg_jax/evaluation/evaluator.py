"""Evaluates a network on a split: scores, the protocol they were made by, and pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from openseg_jax import __version__, report
from openseg_jax.data import catalog
from openseg_jax.data.pipeline import Split, evaluation_examples
from openseg_jax.errors import UserError
from openseg_jax.evaluation.inference import predict_all
from openseg_jax.evaluation.metrics import confusion_matrix, scores
from openseg_jax.parallel import sum_over_processes


def evaluate(
    config, predict: Callable, weights: dict, step: int, workdir: Path, dtype: str
) -> tuple[dict, list[np.ndarray]]:
    """Scores the whole `config.data.eval_split`, each image once on any number of processes.

    Args:
        predict: of `inference.make_label_predictor`.
        weights: of `inference.local_weights`.

    Returns:
        the result, as written to `workdir/eval/<step>.json`, and a few comparison pictures,
        as written to `workdir/eval/<step>/`.
    """
    dataset = catalog.get(config.data.name)
    split = Split(dataset, config.data.dir, config.data.eval_split)
    if not split.labelled:
        raise UserError(
            f"{dataset.name} has no public labels for the split {split.split!r}; use "
            "`openseg predict` on its images."
        )
    process, processes = jax.process_index(), jax.process_count()
    examples = evaluation_examples(split, process, processes)
    confusion = np.zeros((dataset.num_classes,) * 2, np.int64)
    pictures, seen, start = [], 0, time.perf_counter()
    results = predict_all(predict, weights, examples, config.eval.batch_size)
    total = len(range(process, len(split), processes))
    for example, prediction in tqdm(
        results, "evaluating", total=total, unit="image", leave=False, disable=process > 0
    ):
        confusion += confusion_matrix(example["label"], prediction, dataset.num_classes)
        seen += 1
        if process == 0 and len(pictures) < config.eval.pictures:
            pictures.append(
                report.comparison_panel(
                    example["image"], prediction, example["label"], dataset.palette
                )
            )
    seconds = time.perf_counter() - start
    confusion = sum_over_processes(confusion)
    result = {
        "step": step,
        **_jsonable(scores(confusion), dataset.classes),
        "images_per_second": round(seen * processes / seconds, 2),
        "protocol": _protocol(config, split, dtype),
        "confusion": confusion.tolist(),
    }
    if process == 0:
        _write(workdir, step, result, pictures)
    return result, pictures


def _jsonable(values: dict, classes: tuple[str, ...]) -> dict:
    """Scores with the IoUs under their classes' names, and None for NaN."""
    iou = {
        name: None if np.isnan(value) else round(float(value), 6)
        for name, value in zip(classes, values["iou"], strict=True)
    }
    plain = {k: None if np.isnan(v) else round(v, 6) for k, v in values.items() if k != "iou"}
    return {**plain, "iou": iou}


def _protocol(config, split: Split, dtype: str) -> dict:
    """How the numbers were made; results are only comparable where these agree."""
    return {
        "dataset": split.dataset.name,
        "dataset_version": split.dataset.version,
        "build_hash": split.build_hash,
        "split": split.split,
        "images": len(split),
        "mode": "whole image",
        "scales": [1.0],
        "flip": False,
        "scored_at": "label size",
        "classes": split.dataset.num_classes,
        "ignore": 255,
        "dtype": dtype,
        "version": __version__,
    }


def _write(workdir: Path, step: int, result: dict, pictures: list[np.ndarray]) -> None:
    folder = workdir / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step}.json"
    path.with_suffix(".tmp").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".tmp").replace(path)
    for index, picture in enumerate(pictures):
        report.save_png(folder / str(step) / f"{index}.png", picture)


def table(result: dict) -> str:
    """The per-class IoU table of a result, for the terminal."""
    summary = {
        "mIoU": result["miou"],
        "pixel accuracy": result["pixel_acc"],
        "mean accuracy": result["mean_acc"],
    }
    values = [float("nan") if v is None else v for v in result["iou"].values()]
    return report.iou_table(tuple(result["iou"]), values, summary)

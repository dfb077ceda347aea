"""Evaluates a network on a split: scores, the protocol they were made by, and pictures."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from openseg_jax import __version__, report
from openseg_jax.compilation import compiler_options
from openseg_jax.data.dataset import DataSet
from openseg_jax.data.folder import dataset_of
from openseg_jax.data.pipeline import Split, evaluation_examples
from openseg_jax.errors import UserError
from openseg_jax.evaluation import metrics, segfix
from openseg_jax.evaluation.batches import predict_all
from openseg_jax.evaluation.boundary import boundary_counts, boundary_scores
from openseg_jax.evaluation.gallery import Gallery, Picture
from openseg_jax.evaluation.inference import (
    Inference,
    host_weights,
    local_weights,
    make_forward,
    make_told_forward,
    under_protocol,
)
from openseg_jax.evaluation.protocol import Protocol, in_words
from openseg_jax.models import segmenter
from openseg_jax.models.folding import fold_batch_norm
from openseg_jax.parallel import sum_over_processes
from openseg_jax.preprocessing import compute_dtype
from openseg_jax.progress import progress


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network's labels mean."""

    classes: tuple[str, ...]
    palette: report.Palette
    truth: Callable[[np.ndarray], np.ndarray]  # of the data set's train ids
    more_scores: Callable[[np.ndarray], dict]  # of the confusion


def _task(config, dataset: DataSet) -> Task:
    if config.model.method != "segfix":
        return Task(dataset.classes, dataset.palette, lambda label: label, lambda confusion: {})
    palette = report.default_palette(len(segfix.CLASSES) - 1) + ((0, 0, 0),)
    return Task(segfix.CLASSES, palette, segfix.target, segfix.scores)


def make_inference(config, graph: nnx.GraphDef) -> Inference:
    """The network of a config under the protocol `config.eval`.

    Args:
        graph: the "eval" graph of `segmenter.graphs`, or that of `fold_batch_norm`.
    """
    protocol, dtype = Protocol.of(config.eval), compute_dtype(config.dtype)
    if config.model.method == "segfix":
        return segfix.make_inference(config, graph, protocol, segfix.direction_or_none)
    options = compiler_options(segmenter.backbone_class(config.model))
    if segmenter.needs_labels(config.model):
        if protocol != Protocol():
            raise UserError(
                f"config.model.method {config.model.method} is told the labels of the image as it "
                "is: leave config.eval's size, scales, flip and window as they are by default."
            )
        forward = make_told_forward(graph, config.data, dtype)
        return Inference(protocol, lambda weights, x, _: forward(weights, x), options=options)
    return under_protocol(
        make_forward(graph, config.data, dtype),
        protocol,
        config.data,
        dataset_of(config.data).flip_pairs,
        options=options,
    )


def make_evaluate(config, graph: nnx.GraphDef, state: dict) -> Callable:
    """`evaluate(state, step, workdir)`, which scores the whole `config.data.eval_split`.

    Each image is scored once on any number of processes. The network is compiled once, with its
    batch norms folded; the weights may change from call to call.

    Args:
        graph: the "eval" graph of `segmenter.graphs`.
        state: with the network's "params" and "stats", replicated, or their shapes.

    Returns:
        the function. It returns the result, as written to `workdir/eval/<step>.json`, and
        comparison pictures of the worst and the best images (of this process), as written to
        `workdir/eval/<step>/`.
    """
    fold = functools.partial(fold_batch_norm, graph)
    folded_graph, *_ = jax.eval_shape(fold, state["params"], state["stats"])
    inference = make_inference(config, folded_graph)

    def evaluate(state: dict, step: int, workdir: Path) -> tuple[dict, list[np.ndarray]]:
        weights = host_weights(state)
        _, params, stats = fold(**weights)
        folded = local_weights({"params": params, "stats": stats})
        return _evaluate(config, inference, folded, weights_hash(weights), step, workdir)

    return evaluate


def _evaluate(
    config, inference: Inference, weights: dict, checkpoint: str, step: int, workdir: Path
) -> tuple[dict, list[np.ndarray]]:
    dataset = dataset_of(config.data)
    task = _task(config, dataset)
    split = Split(dataset, config.data.dir, config.data.eval_split)
    if not split.labelled:
        raise UserError(
            f"{dataset.name} has no public labels for the split {split.split!r}; use "
            "`openseg predict` on its images."
        )
    process, processes = jax.process_index(), jax.process_count()
    examples = evaluation_examples(split, process, processes)
    if segmenter.needs_labels(config.model):
        examples = (_telling(example) for example in examples)
    start = time.perf_counter()

    def use(example: dict, ids: np.ndarray, _) -> tuple[dict, np.ndarray, np.ndarray, dict]:
        truth = task.truth(example["label"])
        return example, truth, ids, _count(truth, ids, len(task.classes), config.eval.boundary)

    results = predict_all(inference, weights, examples, config.eval.batch_size, use)
    totals, bootstrap = {}, metrics.Bootstrap(config.eval.bootstrap, len(task.classes))
    gallery, seen = Gallery(config.eval.pictures if process == 0 else 0), 0
    total = len(range(process, len(split), processes))
    for example, truth, ids, counts in progress(
        results, "evaluating", total=total, unit="image", leave=False, disable=process > 0
    ):
        totals = {name: totals.get(name, 0) + count for name, count in counts.items()}
        bootstrap.add(example["name"], counts["confusion"])
        seen += 1
        panel = functools.partial(
            report.comparison_panel, example["image"][..., :3], ids, truth, task.palette
        )
        gallery.offer(example["name"], counts["confusion"], panel)
    seconds = time.perf_counter() - start
    if not totals:  # more processes than images: this one has nothing to add
        nothing = np.full((1, 1), 255, np.uint8)
        totals = _count(nothing, nothing, len(task.classes), config.eval.boundary)
    totals = {name: sum_over_processes(totals[name]) for name in sorted(totals)}
    result = {
        "step": step,
        **scored(totals, sum_over_processes(bootstrap.parts), task.classes),
        **task.more_scores(totals["confusion"]),
        "images_per_second": round(seen * processes / seconds, 2),
        "protocol": _protocol(split, task, inference, checkpoint, compute_dtype(config.dtype).name),
        "confusion": totals["confusion"][:, :-1].tolist(),
    }
    pictures = gallery.pictures()
    result["pictures"] = {
        each.file: {"image": each.image, "wrong": _plain(each.wrong)} for each in pictures
    }
    if process == 0:
        _write(workdir / "eval", file_name(config, step), result, pictures)
    return result, [each.panel for each in pictures]


def file_name(config, step: int) -> str:
    """Of a result in `eval/`, without the `.json`; the folder of its pictures."""
    return f"{step}_{config.eval.name}" if config.eval.name else str(step)


def _telling(example: dict) -> dict:
    """The example with its label as the image's fourth channel."""
    return {**example, "image": np.dstack([example["image"], example["label"]])}


def _count(truth: np.ndarray, ids: np.ndarray, num_classes: int, boundary: bool) -> dict:
    """The counts of one image, arrays that add up."""
    counts = {"confusion": metrics.confusion_matrix(truth, ids, num_classes)}
    return counts | boundary_counts(truth, ids, num_classes) if boundary else counts


def scored(totals: dict, bootstrap: np.ndarray, classes: tuple[str, ...]) -> dict:
    """The scores of summed counts as they are written to JSON: rounded, None for NaN.

    Args:
        totals: sums of `confusion_matrix` ("confusion") and, perhaps, of `boundary_counts`.
        bootstrap: the sum of `Bootstrap.parts`.
    """
    values = metrics.scores(totals["confusion"])
    iou = values.pop("iou")
    result = {name: _plain(value) for name, value in values.items()}
    result["iou"] = _by_class(classes, iou)
    if len(bootstrap):
        replicates = metrics.Bootstrap.iou(bootstrap)
        interval = metrics.interval(metrics.mean_iou(replicates))
        result["miou_95_percent_interval"] = [_plain(bound) for bound in interval]
        result["bootstrap_iou"] = metrics.pack(replicates)
    if "trimap" in totals:
        values = boundary_scores(totals)
        result["boundary_iou"] = _plain(values["boundary_iou"])
        result["boundary_f_score"] = _plain(values["f_score"])
        result["trimap_miou"] = {str(w): _plain(v) for w, v in values["trimap"].items()}
        result["boundary_iou_of_class"] = _by_class(classes, values["boundary_iou_of_class"])
        result["boundary_f_score_of_class"] = _by_class(classes, values["f_score_of_class"])
    return result


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _by_class(classes: tuple[str, ...], values: np.ndarray) -> dict:
    return {name: _plain(value) for name, value in zip(classes, values, strict=True)}


def _protocol(split: Split, task: Task, inference: Inference, checkpoint: str, dtype: str) -> dict:
    """How the numbers were made; results are only comparable where these agree."""
    return {
        "dataset": split.dataset.name,
        "dataset_version": split.dataset.version,
        "build_hash": split.build_hash,
        "split": split.split,
        "images": len(split),
        **inference.protocol.stamp(),
        "scored_at": "label size",
        "classes": len(task.classes),
        "ignore": 255,
        "dtype": dtype,
        "checkpoint": checkpoint,
        "version": __version__,
    }


def weights_hash(weights: dict) -> str:
    """Identifies parameters and statistics, whatever file or workdir they came from."""
    content = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        content.update(jax.tree_util.keystr(path).encode())
        content.update(np.asarray(jax.device_get(leaf)).tobytes())
    return content.hexdigest()[:16]


def _write(folder: Path, name: str, result: dict, pictures: list[Picture]) -> None:
    text = json.dumps(result, indent=1) + "\n"
    report.write_atomically(folder / f"{name}.json", text.encode())
    for each in pictures:
        report.save_png(folder / name / f"{each.file}.png", each.panel)


def table(result: dict) -> str:
    """The per-class IoU table of a result, and the protocol behind it, for the terminal."""
    names = {
        "miou": "mIoU",
        "pixel_acc": "pixel accuracy",
        "mean_acc": "mean accuracy",
        "direction_acc": "direction accuracy",
        "boundary_acc": "boundary accuracy",
        "boundary_iou": "Boundary IoU",
        "boundary_f_score": "boundary F-score",
    }
    summary = {text: result[name] for name, text in names.items() if name in result}
    values = [float("nan") if v is None else v for v in result["iou"].values()]
    lines = [report.iou_table(tuple(result["iou"]), values, summary)]
    protocol = result["protocol"]
    if protocol["images"] > 1 and None not in result.get("miou_95_percent_interval", [None]):
        low, high = result["miou_95_percent_interval"]
        lines.append(
            f"     mIoU of like images: {report.percent(low)} to {report.percent(high)} (95 %)"
        )
    lines.append(f"     {in_words(protocol)}, weights {protocol['checkpoint']}")
    return "\n".join(lines)

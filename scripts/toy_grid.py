"""Trains each method on each backbone of the tables on toy_street, by its own Cityscapes recipe.

    openseg data build toy_street
    python scripts/toy_grid.py

Sixteen short runs of the recipes, an hour and a half on two CPU cores: the toy data, crops of half
an image at about its own scale, a learning rate for random weights; all but MobileNetV2 with the
smallest backbone of their kind. A network has learned if it beats `best_without_image`. Results go
to docs/results/toy_grid.json after each run; what is in there is not done again. MODEL_ZOO.md shows
them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from openseg_jax.data import catalog
from openseg_jax.data.pipeline import Split, evaluation_examples
from openseg_jax.evaluation import metrics

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "toy_grid.json"
METHODS = ("fcn", "ocnet", "isa", "ocr")
# Of the tables, and what stands for it here: the same code, fewer blocks or channels.
BACKBONES = {
    "mobilenet_v2": "mobilenet_v2",
    "resnet101": "resnet50",
    "wide_resnet38": "wide_resnet16",
    "hrnet_w48": "hrnet_w18",
}
CROP, SCALE, BATCH = (96, 144), (0.9, 1.1), 4
CLASSES = catalog.get("toy_street").num_classes


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--workdir", type=Path, default=Path("runs/toy_grid"))
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}}
    results |= dict(steps=options.steps, batch=BATCH, crop=CROP, threshold=best_without_image())
    for backbone in BACKBONES:
        for method in METHODS:
            name = f"{method}:{backbone}"
            if name not in results["runs"]:
                results["runs"][name] = train(method, backbone, options)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            miou = results["runs"][name]["miou"]
            verdict = "learned" if miou > results["threshold"] else "DID NOT LEARN"
            print(f"{name:20} mIoU {miou:.3f} {verdict}", flush=True)


def best_without_image() -> float:
    """mIoU on the validation split of the most frequent class of each place in training."""
    dataset, counts = catalog.get("toy_street"), 0
    for example in examples("train"):
        counts = counts + (example["label"][..., None] == np.arange(CLASSES))
    guess = counts.argmax(-1).astype(np.uint8)
    confusion = sum(
        metrics.confusion_matrix(example["label"], guess, dataset.num_classes)
        for example in examples("val")
    )
    return metrics.scores(confusion)["miou"]


def examples(split: str):
    """All labelled images of a split of toy_street, in order."""
    return evaluation_examples(Split(catalog.get("toy_street"), "", split), 0, 1)


def train(method: str, backbone: str, options: argparse.Namespace) -> dict:
    """One run of the program; its scores."""
    workdir = options.workdir / f"{method}_{backbone}"
    changes = {
        "data.name": "toy_street",
        "model.backbone": BACKBONES[backbone],
        "model.num_classes": CLASSES,
        "augment.crop": CROP,
        "augment.scale": SCALE,
        "loss.class_weights": (),
        "optimizer.learning_rate": 0.02,
        "train.batch_size": BATCH,
        "train.steps": options.steps,
        "train.eval_every": options.steps,
        "train.checkpoint_every": options.steps,
    }
    command = [sys.executable, "-m", "openseg_jax.main", f"--workdir={workdir}"]
    command.append(f"--config={ROOT}/configs/cityscapes_{method}.py:{backbone}")
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    if subprocess.run(command).returncode:
        sys.exit(f"error: the training of {method} on {backbone} stopped; the message says why.")
    result = json.loads((workdir / "eval" / f"{options.steps}.json").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    return dict(
        backbone=BACKBONES[backbone],
        miou=result["miou"],
        pixel_acc=result["pixel_acc"],
        first_loss=losses[0],
        last_loss=losses[-1],
    )


if __name__ == "__main__":
    main()

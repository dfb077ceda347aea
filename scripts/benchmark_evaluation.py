"""Times our evaluation of a data set beside a loop over its images.

    python scripts/benchmark_evaluation.py
    python scripts/benchmark_evaluation.py --nets ocr:mobilenet_v2 --images 40

Both read the same encoded images, run the network, resize to the label's size, count pixels and
write the label map. Programs are compiled before the clock starts. The two take turns, so that
whatever else the machine does hits both. `scripts/performance_page.py` puts what it saves into
docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from benchmarking import measuring, parts
from benchmarking.command_line import RESULTS, net_name, positive
from benchmarking.part_tables import evaluation_table

from openseg_jax import report
from openseg_jax.config import default_config
from openseg_jax.data.images import decode_image
from openseg_jax.errors import UserError
from openseg_jax.evaluation import batches, evaluator, inference, metrics
from openseg_jax.evaluation.protocol import prepare
from openseg_jax.models import segmenter
from openseg_jax.models.folding import fold_batch_norm
from openseg_jax.progress import progress

SIZES = ((256, 384), (240, 320), (256, 341))


def encoded_images(count: int) -> list[dict]:
    """JPEG images of a few sizes, with labels half as large again."""
    rng = np.random.default_rng(0)
    items = []
    for index in range(count):
        height, width = SIZES[index % len(SIZES)]
        noise = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        label = rng.integers(0, 10, (height * 3 // 2, width * 3 // 2), np.uint8)
        encoded = cv2.imencode(".jpg", image)[1].tobytes()
        items.append({"name": str(index), "encoded": encoded, "label": label})
    return items


def load(item: dict) -> dict:
    """Decodes one image."""
    return item | {"image": decode_image(item["encoded"], item["name"])}


def use(out: Path, example: dict, ids: np.ndarray, classes: int) -> np.ndarray:
    """Counts pixels and writes the label map."""
    report.save_png(out / f"{example['name']}.png", ids)
    return metrics.confusion_matrix(example["label"], ids, classes)


def one_by_one(run: inference.Inference, weights: dict, items: list[dict], out: Path, classes: int):
    """Decode, run, finish, write; then the next image."""
    total = 0
    copies = batches.local_batch_size(1)
    for item in items:
        example = load(item)
        image, size = prepare(run.protocol, example["image"])
        images, sizes = np.repeat(image[None], copies, 0), np.repeat(np.int32([size]), copies, 0)
        output = np.asarray(run.run(weights, images, sizes, at_size=False)[0])
        ids, _ = run.finish(output, size, example["label"].shape)
        total = total + use(out, example, ids, classes)
    return total


def batched(run: inference.Inference, weights: dict, items: list[dict], out: Path, classes: int):
    """The evaluator's way."""
    return sum(
        batches.predict_all(
            run, weights, items, 0, load=load, use=lambda e, ids, _: use(out, e, ids, classes)
        )
    )


def measure(method: str, backbone: str, count: int, rounds: int) -> dict:
    """Both ways in turns."""
    config = default_config()
    config.data.name = "toy_street"
    config.model.update(method=method, backbone=backbone, num_classes=10)
    params, stats, graphs = segmenter.graphs(
        segmenter.build(config.model, np.random.default_rng(0))
    )
    graph, params, stats = fold_batch_norm(graphs["eval"], params, stats)
    weights = inference.local_weights({"params": params, "stats": stats})
    items, ways = encoded_images(count), (one_by_one, batched)
    runs = {way: evaluator.make_inference(config, graph) for way in ways}
    seconds = {way.__name__: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        arguments = items, Path(folder), config.model.num_classes
        results = [way(runs[way], weights, *arguments) for way in ways]  # compiles
        agree = np.trace(np.minimum(*results)[:, :-1]) / np.trace(results[0][:, :-1])
        for _ in progress(range(rounds), desc=f"{method}:{backbone}", unit="round"):
            for way in ways:
                start = time.perf_counter()
                way(runs[way], weights, *arguments)
                seconds[way.__name__].append(time.perf_counter() - start)
    return {
        "network": f"{method}:{backbone}",
        "images": count,
        "seconds": seconds,
        "agree": float(agree),
    }


def main() -> None:
    """Prints and saves what the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--nets",
        type=net_name,
        nargs="+",
        default=("ocr:mobilenet_v2", "fcn:resnet101"),
        metavar="METHOD:BACKBONE",
    )
    parser.add_argument("--images", type=positive, default=20)
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each way")
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluation_cpu.json")
    options = parser.parse_args()
    try:
        cases = [measure(*net.split(":"), options.images, options.rounds) for net in options.nets]
    except UserError as error:
        sys.exit(f"error: {error}")
    machine = {"device": parts.processor(), "cores": len(measuring.cores())}
    found = {"machine": machine, "cases": cases}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(evaluation_table(found))
    print("Hits agree to", ", ".join(f"{case['agree']:.6f}" for case in cases))
    print(f"Saved in {options.out}.")


if __name__ == "__main__":
    main()

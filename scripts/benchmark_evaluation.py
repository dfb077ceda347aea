"""Times our evaluation against one image after the other, in one run of one model.

    python scripts/benchmark_evaluation.py --backbone mobilenet_v2 --method ocr --images 40

Both read the same encoded images, run the network, resize to the label's size, count pixels and
write the label map. Programs are compiled before the clock starts. The two take turns, so that
whatever else the machine does hits both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from openseg_jax import report
from openseg_jax.data.images import decode_image
from openseg_jax.evaluation import batches, evaluator, inference, metrics
from openseg_jax.evaluation.protocol import prepare
from openseg_jax.models import segmenter

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


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--method", default="ocr")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from openseg_jax.config import default_config

    config = default_config()
    config.data.name = "toy_street"
    config.model.update(method=options.method, backbone=options.backbone, num_classes=10)
    params, stats, graphs = segmenter.graphs(
        segmenter.build(config.model, np.random.default_rng(0))
    )
    weights = inference.local_weights({"params": params, "stats": stats})
    items, times = encoded_images(options.images), {one_by_one: [], batched: []}
    runs = {way: evaluator.make_inference(config, graphs["eval"]) for way in times}
    with tempfile.TemporaryDirectory() as folder:
        arguments = items, Path(folder), config.model.num_classes
        results = [way(runs[way], weights, *arguments) for way in times]  # compiles
        agree = np.trace(np.minimum(*results)[:, :-1]) / np.trace(results[0][:, :-1])
        for _ in range(options.rounds):
            for way in times:
                start = time.perf_counter()
                way(runs[way], weights, *arguments)
                times[way].append(time.perf_counter() - start)
    for way, seconds in times.items():
        print(f"{way.__name__:12} {options.images / min(seconds):8.2f} images/s")
    print(f"ratio {min(times[one_by_one]) / min(times[batched]):.2f}, hits agree to {agree:.6f}")


if __name__ == "__main__":
    main()

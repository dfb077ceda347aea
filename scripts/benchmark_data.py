"""Images/s of the input pipeline beside a straight PIL one.

    python scripts/benchmark_data.py

2048x1024 images, random scale 0.5 to 2, 1024x512 crops, as for Cityscapes. All pipelines run in
this process with two threads, in turns, on the same PNGs (or what `--reencode` makes of them).
Images per second of CPU time hardly depend on what else the machine does; times the cores, they
are what idle ones give. Prints the tables and saves what it measured;
`scripts/performance_page.py` puts it into docs/performance.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from benchmarking import measuring, parts
from benchmarking.command_line import RESULTS, positive
from benchmarking.part_tables import STRAIGHT, data_table
from ml_collections import ConfigDict
from PIL import Image

from openseg_jax.config import default_config
from openseg_jax.data import builder, catalog, transforms
from openseg_jax.data.dataset import Example
from openseg_jax.data.images import decode_image, decode_label, encode_label
from openseg_jax.data.pipeline import training_batches
from openseg_jax.data.toy.scene import draw
from openseg_jax.progress import progress

CROP = 512, 1024


def make_example(index: int) -> Example:
    """A drawn scene at the size of Cityscapes, with the grain of a camera."""
    image, label = draw([0, 0, index])
    rng = np.random.default_rng(index)
    large = cv2.resize(image, (2048, 1024), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    large = np.clip(large + rng.normal(0, 3, large.shape), 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".png", large)[1].tobytes()
    label = cv2.resize(label, (2048, 1024), interpolation=cv2.INTER_NEAREST)
    return Example(f"{index}", encoded, label)


def straight(example: tuple[bytes, bytes], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Decode, resize all of it bicubically, crop: with PIL alone."""
    rng = np.random.default_rng(seed)
    image = Image.open(io.BytesIO(example[0])).convert("RGB")
    label = Image.open(io.BytesIO(example[1]))
    scale = rng.uniform(0.5, 2)
    size = int(2048 * scale), int(1024 * scale)
    image, label = image.resize(size, Image.BICUBIC), label.resize(size, Image.NEAREST)
    left, top = (int(rng.integers(0, s - c + 1)) for s, c in zip(size, CROP[::-1], strict=True))
    box = (left, top, left + CROP[1], top + CROP[0])
    return np.asarray(image.crop(box)), np.asarray(label.crop(box))


def speed(work: Callable[[], object], count: int) -> dict[str, float]:
    """Images/s by the clock, and of CPU time of all threads, of work on `count` images."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "wall": count / (time.perf_counter() - wall),
        "cpu": count / (time.process_time() - cpu),
    }


def straight_speed(encoded: list[tuple[bytes, bytes]], count: int) -> dict[str, float]:
    """The speed of `straight` on two threads (PIL lets them run at once)."""
    given = itertools.islice(itertools.cycle(encoded), count)
    with ThreadPoolExecutor(2) as pool:
        return speed(lambda: list(pool.map(straight, given, range(count))), count)


def build(root: Path, reencode: str, examples: list[Example]) -> ConfigDict:
    """Builds a data set of the examples; returns the configuration that reads it."""
    dataset = catalog.get("toy_street")
    loads = {"train": [lambda example=example: example for example in examples]}
    out = root / (reencode or "png")
    builder.build(dataclasses.replace(dataset, read=lambda source: loads), None, out, reencode, 1)
    config = default_config()
    config.data.update(name=dataset.name, dir=str(out))
    config.train.batch_size = 2
    config.augment.update(aspect=(0.9, 1.1), crop=CROP)
    return config


def our_speed(config: ConfigDict, count: int) -> dict[str, float]:
    """The speed of `training_batches`."""
    stream = training_batches(config)
    for _ in range(12):  # the threads are warm, and what they prepared meanwhile is used up
        next(stream)
    return speed(lambda: [next(stream) for _ in range(count // 2)], count)


def stored_bytes(config: ConfigDict) -> int:
    """What the files of a built data set take."""
    return sum(file.stat().st_size for file in Path(config.data.dir).rglob("*.array_record*"))


def operations(example: Example) -> dict[str, float]:
    """Milliseconds of CPU time of the single operations."""
    image, label = decode_image(example.image, "image"), example.label
    encoded = {
        "decode image, PNG": (".png", []),
        "decode image, raw": (".bmp", []),
        "decode image, JPEG": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]),
    }
    work = {
        name: partial(decode_image, cv2.imencode(suffix, image, options)[1].tobytes(), "")
        for name, (suffix, options) in encoded.items()
    }
    label_png = encode_label(label)
    work["decode label, PNG"] = partial(decode_label, label_png, "")
    work["decode label, raw"] = partial(decode_label, encode_label(label, ".pgm"), "")
    arrays, size = {"image": image, "label": label}, (1280, 2560)
    work["resize whole, then crop"] = lambda: transforms.crop(
        transforms.resize(arrays, size), 300, 700, CROP
    )
    work["resize only the crop"] = lambda: transforms.resize_window(arrays, size, 300, 700, CROP)
    work["all of it, straight, PIL"] = lambda: straight((example.image, label_png), 0)
    times = {}
    for name, call in work.items():
        call()
        start = time.process_time()
        for _ in range(5):
            call()
        times[name] = 1e3 * (time.process_time() - start) / 5
    return times


def measure(count: int, rounds: int) -> dict:
    """All pipelines in turns, and the single operations."""
    examples = [make_example(index) for index in range(8)]
    encoded = [(e.image, cv2.imencode(".png", e.label)[1].tobytes()) for e in examples]
    found = {
        "machine": {"device": parts.processor(), "cores": len(measuring.cores())},
        "load": [measuring.load()],
        "operations": operations(examples[0]),
    }
    with tempfile.TemporaryDirectory() as folder:
        configs = {
            f"ours from {name}": build(Path(folder), reencode, examples)
            for name, reencode in (("PNG", ""), ("JPEG", "jpeg"), ("raw", "raw"))
        }
        sizes = {name: stored_bytes(config) / len(examples) for name, config in configs.items()}
        pipelines = {STRAIGHT: partial(straight_speed, encoded)}
        pipelines |= {name: partial(our_speed, config) for name, config in configs.items()}
        speeds = {name: [] for name in pipelines}
        for _ in progress(range(rounds), unit="round"):
            for name, pipeline in pipelines.items():
                speeds[name].append(pipeline(count))
    found["load"].append(measuring.load())
    return found | {"bytes": {STRAIGHT: sizes["ours from PNG"]} | sizes, "speeds": speeds}


def main() -> None:
    """Prints and saves the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=positive, default=40, help="timed in each turn")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each pipeline")
    parser.add_argument("--out", type=Path, default=RESULTS / "data_cpu.json")
    options = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    cv2.setNumThreads(1)
    found = measure(options.images, options.rounds)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(data_table(found))
    print(f"Saved in {options.out}.")


if __name__ == "__main__":
    main()

"""Images/s of the input pipeline beside a straight PIL one: `python scripts/benchmark_data.py`.

2048x1024 images, random scale 0.5 to 2, 1024x512 crops, as for Cityscapes. All pipelines run in
this process with two threads, one after the other, on the same PNGs (or what `--reencode` makes of
them). The time of single operations is CPU time. Images per second of CPU time hardly depend on
what else the machine does; times two, they are what two idle cores give.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from openseg_jax.config import default_config
from openseg_jax.data import builder, catalog, transforms
from openseg_jax.data.dataset import Example
from openseg_jax.data.images import decode_image, decode_label, encode_label
from openseg_jax.data.pipeline import training_batches
from openseg_jax.data.toy.scene import draw

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


def speed(work: Callable[[], object], count: int) -> np.ndarray:
    """Images/s by the clock, and by CPU time of all threads, of work on `count` images."""
    start = np.array([time.perf_counter(), time.process_time()])
    work()
    return count / (np.array([time.perf_counter(), time.process_time()]) - start)


def straight_speed(examples: list, count: int) -> np.ndarray:
    """The speed of `straight` on two threads (PIL lets them run at once)."""
    given = itertools.islice(itertools.cycle(examples), count)
    with ThreadPoolExecutor(2) as pool:
        return speed(lambda: list(pool.map(straight, given, range(count))), count)


def our_speed(root: Path, reencode: str, examples: list[Example], count: int) -> np.ndarray:
    """The speed of `training_batches` from a build of the examples."""
    dataset = catalog.get("toy_street")
    loads = {"train": [lambda example=example: example for example in examples]}
    out = root / (reencode or "png")
    builder.build(dataclasses.replace(dataset, read=lambda source: loads), None, out, reencode, 1)
    print(builder.cost(out / dataset.name / dataset.version), end="\n" if reencode else "")
    config = default_config()
    config.data.update(name=dataset.name, dir=str(out))
    config.train.batch_size = 2
    config.augment.update(aspect=(0.9, 1.1), crop=CROP)
    stream = training_batches(config)
    for _ in range(12):  # the threads are warm, and what they prepared meanwhile is used up
        next(stream)
    return speed(lambda: [next(stream) for _ in range(count // 2)], count)


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
    work["straight, PIL"] = lambda: straight((example.image, label_png), 0)
    times = {}
    for name, call in work.items():
        call()
        start = time.process_time()
        for _ in range(5):
            call()
        times[name] = 1e3 * (time.process_time() - start) / 5
    return times


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="timed in each pipeline")
    options = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    cv2.setNumThreads(1)
    examples = [make_example(index) for index in range(8)]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, milliseconds in operations(examples[0]).items():
        print(f"{name:28}{milliseconds:8.1f} ms")
    encoded = [(e.image, cv2.imencode(".png", e.label)[1].tobytes()) for e in examples]
    with tempfile.TemporaryDirectory() as folder:
        base = straight_speed(encoded, options.images)
        print(f"{'images/s':24}{'by the clock':>14}{'of CPU time':>20}")
        print(f"{'straight PIL from PNG':24}{base[0]:14.1f}{base[1]:20.1f}")
        for reencode in ("", "raw", "jpeg"):
            ours = our_speed(Path(folder), reencode, examples, options.images)
            times = ours / base
            print(
                f"{'ours from ' + (reencode or 'PNG'):24}{ours[0]:14.1f} ({times[0]:.1f}x)"
                f"{ours[1]:12.1f} ({times[1]:.1f}x)"
            )


if __name__ == "__main__":
    main()

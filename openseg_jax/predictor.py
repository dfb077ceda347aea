"""From an image to its label map: `load(path).predict(image)`."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from openseg_jax import config as config_lib
from openseg_jax import report
from openseg_jax.data import catalog
from openseg_jax.data.images import decode_image
from openseg_jax.errors import UserError
from openseg_jax.evaluation.inference import (
    local_weights,
    make_forward,
    make_label_predictor,
    predict_all,
)
from openseg_jax.models import segmenter
from openseg_jax.preprocessing import compute_dtype
from openseg_jax.training import checkpoint

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class Predictor:
    """A trained network with everything it needs: normalisation, classes, colours."""

    def __init__(self, config, weights: dict, graph, name: str):
        dataset = catalog.get(config.data.name)
        self.config, self.name = config, name
        self.classes, self.palette = dataset.classes, dataset.palette
        self._weights = local_weights(weights)
        self._forward = make_forward(graph, config.data, compute_dtype(config.dtype))
        self._labels = make_label_predictor(self._forward)
        self._logits = jax.jit(self._forward)

    @classmethod
    def load(cls, path, config=None) -> Predictor:
        """The network of a checkpoint, or of the best checkpoint of a workdir."""
        folder = checkpoint.find(Path(path).expanduser())
        arrays, saved = checkpoint.load(folder)
        config = config or config_lib.from_dict(saved)
        network = segmenter.build(config.model, np.random.default_rng(0))
        params, stats, graphs = segmenter.graphs(network)
        weights = checkpoint.fill({"params": params, "stats": stats}, arrays, str(folder))
        return cls(config, weights, graphs["eval"], str(folder))

    def predict(self, image):
        """Label map `(h, w)` uint8 of an RGB uint8 `(h, w, 3)` array or of an image's path.

        A list of them gives a list.
        """
        if isinstance(image, (list, tuple)):
            return [self.predict(each) for each in image]
        return np.asarray(self._labels(self._weights, self._batch_of_one(image))[0])

    def logits(self, image) -> np.ndarray:
        """Logits `(h, w, k)` float32 of an RGB uint8 `(h, w, 3)` array or of an image's path."""
        return np.asarray(self._logits(self._weights, self._batch_of_one(image)[:1])[0])

    def _batch_of_one(self, image) -> np.ndarray:
        """As many copies as there are devices: a batch must divide over them."""
        array = read_image(image) if isinstance(image, (str, Path)) else np.asarray(image)
        if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise UserError(
                f"An image must be an RGB uint8 array of shape (h, w, 3), not {array.dtype} "
                f"{array.shape}."
            )
        return np.repeat(array[None], jax.local_device_count(), 0)

    def predict_all(
        self, examples: Iterable[dict], batch_size: int
    ) -> Iterator[tuple[dict, np.ndarray]]:
        """Yields each example (with an RGB uint8 "image") and its label map, in batches."""
        yield from predict_all(self._labels, self._weights, examples, batch_size)


def read_image(path: str | Path) -> np.ndarray:
    """An image file as `(h, w, 3)` uint8 RGB."""
    try:
        return decode_image(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.") from error


def find_images(inputs: list[str]) -> list[Path]:
    """The image files named by paths, folders (searched through) and globs, in order."""
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            files = [path]
        else:
            files = [Path(p) for p in sorted(glob.glob(text, recursive=True))]
        if not files:
            raise UserError(f"{text}: no image there (looked for {', '.join(IMAGE_SUFFIXES)}).")
        found += files
    return list(dict.fromkeys(found))


def predict_files(model: Predictor, inputs: list[str], out: Path, batch_size: int) -> int:
    """Writes `ids/`, `color/`, `overlay/` and a legend for every image; the exit code.

    An image that cannot be read is reported, and the rest go on.
    """
    paths = find_images(inputs)
    names = _output_names(paths)
    failures: list[str] = []

    def examples() -> Iterator[dict]:
        for path, name in zip(paths, names, strict=True):
            try:
                yield {"image": read_image(path), "name": name}
            except UserError as error:
                failures.append(str(error))

    try:
        report.save_png(out / "legend.png", report.legend(model.classes, model.palette))
        results = model.predict_all(examples(), batch_size)
        for example, label in tqdm(results, "predicting", total=len(paths), unit="image"):
            _write(out, example, label, model.palette)
    except OSError as error:
        raise UserError(f"Cannot write to {out}: {error}") from error
    for failure in failures:
        print(f"skipped: {failure}", file=sys.stderr)
    done = len(paths) - len(failures)
    print(f"{done} of {len(paths)} images done with {model.name}: {out}/ids, color, overlay")
    return 1 if failures else 0


def _write(out: Path, example: dict, label: np.ndarray, palette) -> None:
    name = example["name"] + ".png"
    report.save_png(out / "ids" / name, label)
    report.save_png(out / "color" / name, label, palette)
    report.save_png(out / "overlay" / name, report.overlay(example["image"], label, palette))


def _output_names(paths: list[Path]) -> list[str]:
    """File stems; an image whose stem another has already taken gets a number."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}_{number}"
        taken.add(name)
        names.append(name)
    return names

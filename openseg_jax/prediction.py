"""`openseg predict`: labels any images and videos and writes what people look at."""

from __future__ import annotations

import dataclasses
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from openseg_jax import config_checks, photos, predictor, report
from openseg_jax.errors import UserError
from openseg_jax.predictor import Predictor, Refiner
from openseg_jax.progress import progress


@dataclasses.dataclass
class Wish:
    """What to write besides `ids/`, `color/`, `overlay/` and the legend."""

    refiner: Refiner | None = None  # improves the boundaries first
    confidence: bool = False  # the probability of the best class, as grey pictures
    submission: Path | None = None  # a folder, or a zip file, of the provider's label ids


def from_arguments(arguments) -> int:
    """Runs `openseg predict`; the exit code."""
    config, *rest = predictor.load_network(arguments.checkpoint)
    settings = config.eval.unlock()
    if arguments.scales:
        settings.scales = tuple(_numbers(arguments.scales, ",", float, "--scales"))
        settings.scale_weights = ()
    if arguments.window:
        settings.window = tuple(_numbers(arguments.window, "x", int, "--window"))
        if len(settings.window) != 2:
            raise UserError(f"--window {arguments.window}: give HEIGHTxWIDTH, as 512x1024.")
        settings.stride = tuple(-(-2 * side // 3) for side in settings.window)
        settings.smooth = True
    settings.flip = settings.flip or arguments.flip
    config_checks.validate(config)
    model = Predictor(config, *rest, confidence=arguments.confidence)
    refiner = Refiner.load(arguments.boundary_refine) if arguments.boundary_refine else None
    wish = Wish(refiner, arguments.confidence, arguments.submission)
    return predict_files(model, arguments.inputs, arguments.out, arguments.batch_size, wish)


def _numbers(text: str, separator: str, kind: type, flag: str) -> list:
    try:
        return [kind(part) for part in text.split(separator)]
    except ValueError:
        raise UserError(f"{flag} {text} is no list of numbers like 1{separator}2.") from None


def predict_files(
    model: Predictor, inputs: list[str], out: Path, batch_size: int = 0, wish: Wish | None = None
) -> int:
    """Labels every image and every frame of every video; the exit code.

    A file that cannot be read, or is too large for the device, is reported, and the rest go on.
    """
    wish = wish or Wish()
    paths = photos.find(inputs)
    failures: dict[str, str] = {}
    items = _items(paths, failures)

    def load(item: dict) -> dict | None:
        try:
            image = photos.read_image(item["path"]) if "image" not in item else item["image"]
            return item | {"image": image}
        except UserError as error:
            failures[str(item["path"])] = str(error)
            return None

    def failed(example: dict, error: UserError) -> None:
        failures[str(example["path"])] = f"{example['path']}: {error}"

    def use(example: dict, ids: np.ndarray, confidence: np.ndarray | None) -> dict:
        if wish.refiner:
            ids = wish.refiner.refine(example["image"], ids)
        return _write(out, model, wish, example, ids, confidence)

    try:
        report.save_png(out / "legend.png", report.legend(model.classes, model.palette))
        results = model.predict_all(items, batch_size, use=use, load=load, failed=failed)
        _collect(progress(results, "predicting", unit="image"), out, wish.submission)
    except OSError as error:
        raise UserError(f"Cannot write to {out}: {error}") from error
    for message in failures.values():
        print(f"skipped: {message}", file=sys.stderr)
    done = len(paths) - len(failures)
    kinds = "ids, color, overlay" + (", confidence" if wish.confidence else "")
    print(f"{done} of {len(paths)} images done with {model.name}: {out}/{kinds}")
    for path, name in zip(paths, photos.output_names(paths), strict=True):
        if name != path.stem:
            print(f"{name} is of {path}: another image has the name {path.stem}")
    if wish.submission:
        print(f"the provider's label ids: {wish.submission}")
    return 1 if failures else 0


def _items(paths: list[Path], failures: dict[str, str]) -> Iterator[dict]:
    """One item an image, with its path and name; one a video frame, with its image, too."""
    for path, name in zip(paths, photos.output_names(paths), strict=True):
        if not photos.is_video(path):
            yield {"path": path, "name": name}
            continue
        try:
            for number, image in enumerate(photos.frames(path)):
                yield {"path": path, "name": f"{name}/{number:06d}", "image": image, "video": name}
        except UserError as error:
            failures[str(path)] = str(error)


def _write(out: Path, model: Predictor, wish: Wish, example: dict, ids, confidence) -> dict:
    """Writes the pictures of one image; what must be written in order is returned."""
    name = example["name"] + ".png"
    report.save_png(out / "ids" / name, ids)
    report.save_png(out / "color" / name, ids, model.palette)
    if confidence is not None:
        report.save_png(out / "confidence" / name, confidence)
    overlay = report.overlay(example["image"], ids, model.palette)
    rest = {"name": name, "path": example["path"]}
    if wish.submission:
        rest["submission"] = _png(model.dataset.label_map.decode(ids))
    if "video" in example:
        return rest | {"frame": overlay, "video": example["video"]}
    report.save_png(out / "overlay" / name, overlay)
    return rest


def _png(label: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(label).save(encoded, format="PNG")
    return encoded.getvalue()


def _collect(results: Iterator[dict], out: Path, submission: Path | None) -> None:
    """Writes videos, frame by frame, and the submission."""
    videos: dict[str, cv2.VideoWriter] = {}
    archive = None
    if submission and submission.suffix == ".zip":
        submission.parent.mkdir(parents=True, exist_ok=True)
        archive = zipfile.ZipFile(submission, "w", zipfile.ZIP_STORED)  # a PNG is compressed
    try:
        for result in results:
            if "video" in result:
                name, frame = result["video"], result["frame"]
                if name not in videos:
                    videos[name] = _video(out / "overlay" / f"{name}.mp4", result["path"], frame)
                videos[name].write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            if archive:
                archive.writestr(result["name"], result["submission"])
            elif submission:
                report.write_atomically(submission / result["name"], result["submission"])
    finally:
        for video in videos.values():
            video.release()
        if archive:
            archive.close()


def _video(path: Path, source: Path, frame: np.ndarray) -> cv2.VideoWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter_fourcc(*"mp4v")
    size = frame.shape[1::-1]
    video = cv2.VideoWriter(str(path), codec, photos.frames_per_second(source), size)
    if not video.isOpened():
        raise UserError(f"{path} cannot be written: this OpenCV cannot encode MP4 videos.")
    return video

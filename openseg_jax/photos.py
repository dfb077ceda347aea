"""Anybody's pictures: finding and reading images and videos, whatever their format."""

from __future__ import annotations

import glob
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from openseg_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def read_image(path: str | Path) -> np.ndarray:
    """An image file as `(h, w, 3)` uint8 RGB, upright (as its EXIF data say).

    Grey images repeat, 16 bits become 8, transparency is dropped.
    """
    try:
        encoded = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.") from error
    _refuse_giants(encoded, path)
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # nothing in it, or a header that promises more pixels than OpenCV allows
        image = None
    if image is None:
        return _read_with_pillow(encoded, path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _refuse_giants(encoded: bytes, path: str | Path) -> None:
    """Asks for a smaller image where the pixels would fill the memory (Pillow's bound)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # at half the bound
        try:
            Image.open(io.BytesIO(encoded)).close()
        except Image.DecompressionBombError as error:
            raise UserError(
                f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} million pixels are too "
                "many for one image. Reduce it or cut it into parts."
            ) from error
        except (OSError, SyntaxError, ValueError):
            return  # not one of Pillow's formats, or damaged: who reads it will say


def _read_with_pillow(encoded: bytes, path: str | Path) -> np.ndarray:
    """The formats that OpenCV does not read."""
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            if picture.mode[0] in "FI":
                raise UserError(
                    f"{path}: its pixels are 32-bit numbers, which do not say what is white. "
                    "Convert it to 8 or 16 bits."
                )
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as an image ({len(encoded)} bytes). The file may be damaged, "
            "incomplete, or of a format we do not read; convert it to JPEG or PNG."
        ) from error


def find(inputs: list[str]) -> list[Path]:
    """The images and videos named by paths, folders (searched through) and globs, in order.

    `-` stands for the paths in the lines of the standard input.
    """
    found: list[Path] = []
    for text in inputs:
        if text == "-":
            found += [Path(line.rstrip("\n")) for line in sys.stdin if line.strip()]
            continue
        path = Path(text).expanduser()
        if path.is_dir():
            suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes)
        elif path.is_file():
            files = [path]
        else:
            files = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        if not files and not (path.exists() or glob.has_magic(text)):
            raise UserError(f"{text} does not exist (looked from {Path.cwd()}).")
        if not files:
            raise UserError(
                f"{text}: no image there (looked for {', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)})."
            )
        found += files
    return list(dict.fromkeys(found))


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video, each `(h, w, 3)` uint8 RGB."""
    video = cv2.VideoCapture(str(path))
    try:
        read, frame = video.read()
        if not read:
            raise UserError(f"{path}: cannot be read as a video. Convert it to MP4.")
        while read:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            read, frame = video.read()
    finally:
        video.release()


def frames_per_second(path: Path) -> float:
    """The speed of a video; 25 where it does not say."""
    video = cv2.VideoCapture(str(path))
    try:
        return video.get(cv2.CAP_PROP_FPS) or 25.0
    finally:
        video.release()


def output_names(paths: list[Path]) -> list[str]:
    """File stems; one that another file has already taken gets a number."""
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

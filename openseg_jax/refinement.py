"""`openseg segfix`: better boundaries for the label maps of any program, file by file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from openseg_jax import photos
from openseg_jax.errors import UserError
from openseg_jax.evaluation import segfix
from openseg_jax.evaluation.ahead import ordered_map
from openseg_jax.predictor import Refiner
from openseg_jax.progress import progress

Offsets = Callable[[str], np.ndarray]  # of the image of that name: (h, w, 2), down and right
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def from_arguments(arguments) -> int:
    """Runs `openseg segfix`; the exit code."""
    given = [arguments.checkpoint, arguments.offsets, arguments.truth]
    if sum(each is not None for each in given) != 1:
        raise UserError("Give one of --checkpoint (with --images), --offsets and --truth.")
    if arguments.offsets:
        offsets = from_files(arguments.offsets)
    elif arguments.truth:
        offsets = from_truth(arguments.truth)
    elif arguments.images:
        offsets = from_images(Refiner.load(arguments.checkpoint), arguments.images)
    else:
        raise UserError("--checkpoint needs --images, the folder of the images of the labels.")
    scale = arguments.scale
    if scale is None:
        scale = segfix.INSTANCE_SCALE if arguments.instances else segfix.SEMANTIC_SCALE
    return refine_files(arguments.labels, arguments.out, offsets, scale, arguments.instances)


def from_images(refiner: Refiner, folder: Path) -> Offsets:
    """Predicted for the images in a folder."""
    images = _by_stem(folder, photos.IMAGE_SUFFIXES)
    return lambda name: refiner.offsets(images[_stem_of(name, images, folder)])


def from_files(folder: Path) -> Offsets:
    """Read from files: the original's `.mat` (variable `mat`) or NumPy's `.npy`."""
    files = _by_stem(folder, (".mat", ".npy"))
    return lambda name: read_offsets(files[_stem_of(name, files, folder)])


def from_truth(folder: Path) -> Offsets:
    """Of a perfect network, made from true label maps: how much there is to gain at most."""
    labels = _by_stem(folder, LABEL_SUFFIXES)

    def offsets(name: str) -> np.ndarray:
        return segfix.true_offsets(np.asarray(_open(labels[_stem_of(name, labels, folder)])))

    return offsets


def read_offsets(path: Path) -> np.ndarray:
    """Offsets `(h, w, 2)` (down, right) of a file, as the original's `test_offset` writes them."""
    try:
        if path.suffix == ".npy":
            offsets = np.load(path, allow_pickle=False)
        else:
            import scipy.io  # slow to import, and only needed here

            offsets = scipy.io.loadmat(path, variable_names=["mat"])["mat"]
    except Exception as error:  # these readers raise whatever a damaged byte leads to
        raise UserError(f"{path}: cannot be read as offsets ({error}).") from error
    if offsets.ndim != 3 or offsets.shape[-1] != 2 or offsets.dtype.kind not in "iuf":
        raise UserError(f"{path}: offsets are (h, w, 2) numbers, not {offsets.shape}.")
    return offsets


def refine_files(
    source: Path, out: Path, offsets: Offsets, scale: float, instances: bool = False
) -> int:
    """Refines every label map below `source` into `out`; the exit code.

    Args:
        offsets: of the image with a label map's name. The file names need only begin alike:
            `aachen_000000_000019_leftImg8bit.png` belongs to `aachen_000000_000019_gtFine…`.
        scale: how many of its offsets a pixel goes.
        instances: `source` holds Cityscapes' instance results, `<image>_pred.txt` that list one
            mask file a line; the masks are refined and the lists copied.
    """
    jobs = _instance_masks(source) if instances else _labels(source)
    if not jobs:
        what = "*_pred.txt" if instances else ", ".join(LABEL_SUFFIXES)
        raise UserError(f"{source} holds no {what}.")
    failures: list[str] = []

    def refine(job: tuple[str, list[Path]]) -> int:
        name, files = job
        try:
            found = offsets(name)
            for path in files:
                _refine_file(path, out / path.relative_to(source), found, scale, instances)
        except UserError as error:
            failures.append(str(error))
            return 0
        return len(files)

    try:
        done = sum(progress(ordered_map(refine, jobs), "refining", total=len(jobs), unit="image"))
        for path in source.rglob("*_pred.txt") if instances else ():
            (out / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / path.relative_to(source))
    except OSError as error:
        raise UserError(f"Cannot write to {out}: {error}") from error
    for failure in failures:
        print(f"skipped: {failure}", file=sys.stderr)
    print(f"{done} of {sum(len(files) for _, files in jobs)} label maps refined: {out}")
    return 1 if failures else 0


def _refine_file(path: Path, out: Path, offsets: np.ndarray, scale: float, mask: bool) -> None:
    """Refines one file, whatever its ids mean; the new one is of the same kind."""
    picture = _open(path)
    label = np.asarray(picture)
    if label.shape[:2] != offsets.shape[:2]:
        raise UserError(
            f"{path} has {label.shape[1]}x{label.shape[0]} pixels, its offsets "
            f"{offsets.shape[1]}x{offsets.shape[0]}."
        )
    if mask:
        label = np.where(label > 0, np.uint8(255), np.uint8(0))
    planes = np.moveaxis(label[..., None] if label.ndim == 2 else label, -1, 0)
    planes = np.asarray(segfix.refine(planes, offsets[None], scale))
    refined = Image.fromarray(planes[0] if label.ndim == 2 else np.moveaxis(planes, 0, -1))
    if picture.mode == "P":
        refined.putpalette(picture.getpalette())
    out.parent.mkdir(parents=True, exist_ok=True)
    refined.save(out)


def _open(path: Path) -> Image.Image:
    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a label map ({error}).") from error
    return picture


def _labels(source: Path) -> list[tuple[str, list[Path]]]:
    if source.is_file():
        raise UserError(f"{source}: give the folder that holds the label maps.")
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in LABEL_SUFFIXES)
    return [(path.stem, [path]) for path in paths]


def _instance_masks(source: Path) -> list[tuple[str, list[Path]]]:
    """Each image's name and the mask files that its list names."""
    jobs = []
    for path in sorted(source.rglob("*_pred.txt")):
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        jobs.append((path.stem.removesuffix("_pred"), [path.parent / line[0] for line in lines]))
    return jobs


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files = {p.stem: p for p in sorted(folder.rglob("*")) if p.suffix.lower() in suffixes}
    if not files:
        raise UserError(f"{folder} holds no {', '.join(suffixes)}.")
    return files


def _stem_of(name: str, files: dict[str, Path], folder: Path) -> str:
    """The stem in `files` that is `name`, or that shares all but its last `_part`s with it."""
    parts = name.split("_")
    for count in range(len(parts), 0, -1):
        start = "_".join(parts[:count])
        found = [s for s in files if s == start or s.startswith(start + "_")]
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise UserError(f"{folder} holds nothing for {name}.")

"""Sources of data sets in other forms, and what tests change in them."""

import tarfile
import zipfile
from pathlib import Path

import numpy as np

from openseg_jax.data.toy.files import draw, write_image

RNG = np.random.default_rng(0)


def ids(*values: int) -> np.ndarray:
    """A label in which each of the values occurs, another one each time."""
    return draw(str(RNG.random()), *values)


def image(path: Path) -> None:
    write_image(path, ids(0, 1))


def packed(root: Path, how: str) -> Path:
    """The source in another form."""
    if how == "folder":
        return root
    if how == "nested zips":  # a folder of zips, some with zips inside, as LIP and Cityscapes
        out = root.parent / "downloads"
        out.mkdir()
        for index, entry in enumerate(sorted(root.iterdir())):
            inner = zipped(root, [entry], out / f"{entry.name}.zip")
            if index % 2 == 0:
                with zipfile.ZipFile(out / f"outer_{index}.zip", "w", (0, 8)[index % 4 // 2]) as z:
                    z.write(inner, inner.name)
                inner.unlink()
        return out
    if how == "zip":
        return zipped(root, sorted(root.iterdir()), root.parent / "source.zip")
    path = root.parent / ("source.tar" if how == "tar" else "source.tar.gz")
    with tarfile.open(path, "w" if how == "tar" else "w:gz") as archive:
        archive.add(root, "./")
    return path


def zipped(root: Path, entries: list[Path], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            for file in sorted(entry.rglob("*") if entry.is_dir() else [entry]):
                archive.write(file, file.relative_to(root))
        archive.writestr("__MACOSX/._junk.png", b"junk")
    return path

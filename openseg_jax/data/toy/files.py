"""Label maps drawn at random, pictures of them, and files as providers write them."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (48, 64)  # (height, width)


def draw(name: str, *values: int) -> np.ndarray:
    """A label map `SIZE` of patches, in which each value occurs: uint8, or uint16 where needed.

    It depends on the name and the values alone.
    """
    rng = np.random.default_rng([zlib.crc32(name.encode()), *values])
    height, width = SIZE
    places = rng.choice(height * width, 3 * len(values), replace=False)
    y, x = np.mgrid[:height, :width]
    distances = [np.hypot(y - place // width, x - place % width) for place in places]
    label = np.array(values * 3)[np.argmin(distances, axis=0)]
    return label.astype(np.uint8 if label.max() < 256 else np.uint16)


def write_image(path: Path, label: np.ndarray) -> None:
    """Writes a noisy picture of the size of a label map; pixels of one value look alike."""
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    colors = label[..., None].astype(np.int64) * (37, 91, 151) % 176 + 40
    picture = colors + rng.integers(-40, 40, (*label.shape, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture.astype(np.uint8))


def write_png(path: Path, label: np.ndarray, palette: bool = False) -> np.ndarray:
    """Writes ids, in a palette PNG if asked, whose colours are not the ids; returns them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label)
    if palette:
        picture.putpalette(bytes((255 - np.arange(768) % 256).astype(np.uint8)))
    picture.save(path)
    return label


def write_mat(path: Path, label: np.ndarray, key: str, field: str = "") -> np.ndarray:
    """Writes ids as a variable, or a field of one, of a MATLAB file; returns them."""
    import scipy.io  # slow to import, and only needed here

    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {key: {field: label} if field else label}, do_compression=True)
    return label


def write_text(path: Path, *lines: str) -> None:
    """Writes a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_pth(path: Path, labels: dict[int, np.ndarray], zipped: bool) -> None:
    """Writes a dict of PIL pictures as `torch.save` does, since 1.6 (`zipped`) or before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {key: Image.fromarray(label) for key, label in labels.items()}
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(content, 2))
            archive.writestr(f"{path.stem}/version", "3\n")
        return
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = (0x1950A86A20F9469CFC6C, 1001, sizes, content, [])
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))


def run_lengths(mask: np.ndarray) -> str:
    """A mask `(h, w)` bool as COCO's compressed text.

    Lengths of runs down the columns, in groups of 5 bits; from the fourth on the difference to
    the last but one.
    """
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *([0] if flat[0] else []), *changes, len(flat)]).tolist()
    characters = ""
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            group, value = value & 31, value >> 5
            last = value == (-1 if group & 16 else 0)
            characters += chr(48 + (group | (0 if last else 32)))
            if last:
                break
    return characters

"""Label maps from the `.pth` files of Pascal-Context: a pickled dict of PIL pictures.

A pickle is a program. Here it can name nothing but the pictures, for which a class of our own
stands in, so that no code of the file runs.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from openseg_jax.data.archive import File
from openseg_jax.errors import UserError

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of files from PyTorch before 1.6


class PickledLabel:
    """A stand-in for a PIL picture: its ids, kept deflated, as thousands of them are in a file."""

    __slots__ = ("_deflated", "size")

    def __setstate__(self, state: Any) -> None:
        _info, mode, (width, height), _palette, data = state
        data = data.encode("latin1") if isinstance(data, str) else bytes(data)  # from Python 2
        if mode not in ("L", "P") or len(data) != width * height:
            raise ValueError(f"a picture of mode {mode} with {len(data)} bytes")
        self.size, self._deflated = (width, height), zlib.compress(data, 1)

    def __reduce__(self):
        return _restored, (self.size, self._deflated)

    def ids(self) -> np.ndarray:
        """`(h, w)` uint8."""
        width, height = self.size
        return np.frombuffer(zlib.decompress(self._deflated), np.uint8).reshape(height, width)


def _restored(size: tuple[int, int], deflated: bytes) -> PickledLabel:
    label = PickledLabel()
    label.size, label._deflated = size, deflated
    return label


class _Latin1:
    """What `_codecs.encode` is to pickles of bytes; slots keep a pickle from altering it."""

    __slots__ = ()

    def __call__(self, text: str, _encoding: str = "latin1") -> bytes:
        return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _Latin1()
        if module in ("PIL.Image", "PIL.PngImagePlugin") and name in ("Image", "PngImageFile"):
            return PickledLabel
        raise UserError(
            f"this file wants to run {module}.{name}; it holds more than label maps. It was not "
            "run. Get the file from another source."
        )


def read_pickled_labels(file: File) -> dict[int, PickledLabel]:
    """The content of `train.pth` or `val.pth`: labels by the number of their image.

    Reads files of PyTorch before and after 1.6; anything else is a UserError.
    """
    try:
        with file.open() as stream:
            labels = _unpickle(_data_of(stream))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{file} is no file of pickled label maps, or damaged: {error or type(error).__name__}."
        ) from error
    if not isinstance(labels, dict) or not all(
        type(key) is int and type(label) is PickledLabel for key, label in labels.items()
    ):
        raise UserError(f"{file} is no table of label maps by image number.")
    return labels


def _data_of(stream: BinaryIO) -> BinaryIO:
    """Places the stream before the pickle that holds the data."""
    if zipfile.is_zipfile(stream):
        members = zipfile.ZipFile(stream)
        return members.open(next(n for n in members.namelist() if n.endswith("/data.pkl")))
    stream.seek(0)
    if _unpickle(stream) == _TORCH_MAGIC:
        _unpickle(stream), _unpickle(stream)  # version of the protocol, sizes of C types
    else:
        stream.seek(0)
    return stream


def _unpickle(stream: BinaryIO) -> Any:
    begin = stream.tell()
    for opcode, argument, position in pickletools.genops(stream):
        # Extension codes reach what other code of this process registered, around find_class;
        # a huge memo index would make the unpickler allocate gigabytes.
        if opcode.name.startswith("EXT"):
            raise ValueError("it has extension codes")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > position - begin:
            raise ValueError(f"it has memo index {argument}")
    end = stream.tell()
    stream.seek(begin)
    return _Unpickler(io.BytesIO(stream.read(end - begin)), encoding="latin1").load()

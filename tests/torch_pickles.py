"""Assembles PyTorch files by hand, well-formed or hostile; so most tests do without torch.

Names in the pickles are written down, never looked up.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
DTYPES = [np.dtype(dtype) for dtype in STORAGES.values()]


class Op:
    """`body` is a list of values and raw opcodes (bytes), which `assemble` writes in order."""

    def __init__(self, *body):
        self.body = body


class Raw(bytes):
    """Opcodes, as opposed to a bytes value."""


def name(module: str, attribute: str) -> Op:
    return Op(Raw(f"c{module}\n{attribute}\n".encode()))


def call(function: Op, *arguments) -> Op:
    return Op(function, arguments, Raw(b"R"))


def build(instance: Op, state) -> Op:
    return Op(instance, state, Raw(b"b"))


def fill(instance: Op, content: dict) -> Op:
    items = [part for item in content.items() for part in item]
    return Op(instance, Raw(b"("), *items, Raw(b"u"))


def assemble(value) -> bytes:
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Op):
        return b"".join(map(assemble, value.body))
    if isinstance(value, tuple):
        return b"(" + b"".join(map(assemble, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(assemble, value)) + b"e"
    if isinstance(value, dict):
        return assemble(fill(Op(Raw(b"}")), value))
    return pickle.dumps(value, 2)[2:-1]


def dump(value) -> bytes:
    return b"\x80\x02" + assemble(value) + b"."


def ordered(content: dict) -> Op:
    """An OrderedDict with the `_metadata` that torch sets on it."""
    return build(fill(call(name("collections", "OrderedDict")), content), {"_metadata": {"": 1}})


class Builder:
    """Tensors and the storages they point to; saves in either of torch's formats."""

    def __init__(self, legacy: bool):
        self.legacy = legacy
        self.storages: dict[str, np.ndarray] = {}

    def storage(self, values: np.ndarray, count: int | None = None) -> Op:
        kind = next(key for key, dtype in STORAGES.items() if values.dtype == dtype)
        key = str(len(self.storages))
        self.storages[key] = values
        fields = ("storage", name("torch", kind), key, "cuda:0", count or values.size)
        return Op((*fields, None) if self.legacy else fields, Raw(b"Q"))

    def view(self, storage: Op, offset, size, stride) -> Op:
        rebuild = name("torch._utils", "_rebuild_tensor_v2")
        hooks = call(name("collections", "OrderedDict"))
        return call(rebuild, storage, offset, size, stride, False, hooks)

    def tensor(self, array: np.ndarray) -> Op:
        steps = np.empty(array.shape, array.dtype).strides
        stride = tuple(step // array.itemsize for step in steps)
        return self.view(self.storage(array.reshape(-1)), 0, array.shape, stride)

    def save(self, path: Path, content) -> Path:
        if not self.legacy:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", dump(content))
                archive.writestr("archive/byteorder", "little")
                for key, values in self.storages.items():
                    archive.writestr(f"archive/data/{key}", values.tobytes())
            return path
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
        pickles = (0x1950A86A20F9469CFC6C, 1001, system, content, list(self.storages))
        with path.open("wb") as file:
            for part in pickles:
                file.write(dump(part))
            for values in self.storages.values():
                file.write(values.size.to_bytes(8, "little") + values.tobytes())
        return path


def sample(dtype: np.dtype, shape=(2, 3)) -> np.ndarray:
    """Arbitrary bytes, NaN payloads included; 0 and 1 for bool."""
    size = int(np.prod(shape)) * dtype.itemsize
    data = np.random.default_rng(0).integers(0, 2 if dtype == np.bool_ else 256, size)
    return data.astype(np.uint8).view(dtype).reshape(shape)


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype and found[key].shape == array.shape, key
        assert found[key].tobytes() == array.tobytes(), key
        assert type(found[key]) is np.ndarray and found[key].flags.c_contiguous, key

"""Reads and writes safetensors: 8 bytes of header length, a JSON header, the tensors in a row."""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from openseg_jax.errors import UserError

DTYPES = {
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def read(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict]:
    """The tensors, and the metadata with its entry `config_dict` unpacked from JSON.

    Raises:
        ValueError: (or others) the file is damaged; tensors may neither overlap nor leave gaps.
    """
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data_begin = 8 + int.from_bytes(memory[:8], "little")
    if data_begin > len(memory):
        raise ValueError(f"its header would end at byte {data_begin} of {len(memory)}")
    header = json.loads(memory[8:data_begin])
    metadata = header.pop("__metadata__", {})
    tensors, covered = dict.fromkeys(header), 0
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        dtype, shape = DTYPES.get(header[name]["dtype"]), header[name]["shape"]
        if dtype is None:
            raise UserError(
                f"tensor {name} has dtype {header[name]['dtype']}, which is not supported. "
                f"Save it as one of {', '.join(DTYPES)}."
            )
        begin, end = header[name]["data_offsets"]
        length = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or begin != covered or end - begin != length:
            raise ValueError(f"tensor {name} of shape {shape} cannot lie at bytes {begin} to {end}")
        data = np.frombuffer(memory, np.uint8, length, data_begin + begin)
        tensors[name], covered = data.copy().view(dtype).reshape(shape), end
    if data_begin + covered != len(memory):
        raise ValueError(f"{len(memory) - data_begin - covered} bytes belong to no tensor")
    return tensors, json.loads(metadata.pop("config_dict", "{}")) | metadata


def write(path: Path, arrays: dict[str, np.ndarray], config: dict | None) -> None:
    """Writes arrays of the dtypes above; the config goes into the metadata as JSON."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {}
    if config is not None:
        header["__metadata__"] = {"config_dict": json.dumps(config)}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        place = {"shape": list(array.shape), "data_offsets": [begin, end]}
        header[name] = {"dtype": names[array.dtype], **place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.tobytes())

"""PyTorch checkpoint files in and out as NumPy arrays; reading never needs (or imports) torch.

The pickle in a `.pth` is read by `safe_pickle`, which runs no code of the file. The readers
raise UserError without the path, and ValueError for damage; `read_file` completes both.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import math
import mmap
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from openseg_jax.bridge import safetensors
from openseg_jax.bridge.safe_pickle import Storage, Stub, Tensor, describe, to_plain, unpickle
from openseg_jax.errors import UserError

_LARGEST_EXPANSION = 64 << 20  # bytes that a tensor with repeated elements may unfold to


@dataclass(frozen=True)
class TorchFile:
    """A checkpoint: its tensors in file order, and its other contents as plain Python values.

    `config` is the file's `config_dict` together with any other entries beside the tensors
    (epoch, ...). What is neither a plain value nor a container of them is a short text there.
    """

    tensors: dict[str, np.ndarray]
    config: dict | None
    format: str  # "zip", "legacy" or "safetensors"
    sha256: str


def read_checkpoint(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The state dict of a `.pth`, `.pt` or `.safetensors` file, without a `module.` prefix."""
    return read_file(path).tensors


def read_file(path: str | os.PathLike) -> TorchFile:
    """Read any PyTorch checkpoint. No code of the file is run. Arrays are plain and contiguous."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file. Check the path, or download the checkpoint.")
    if path.is_dir():
        raise UserError(f"{path} is a folder. Give the path of a .pth or .safetensors file in it.")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            kind = _recognise(file, path.suffix)
            tensors, config = _READERS[kind](file)
        return TorchFile(_without_prefix(tensors), config or None, kind, sha256)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error.__cause__
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # whatever else a broken or hostile file can provoke
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{path} is damaged or cut short ({reason[:300]}). Download it or save it again."
        ) from error


def _recognise(file: BinaryIO, suffix: str) -> str:
    """Which of the formats this is, by content. Leaves the file at its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(512)
    file.seek(0)
    if not head:
        raise UserError("this file is empty (0 bytes). Download it or save it again.")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head")):
        raise UserError(
            "this is an HTML page, the download failed (a dead link, or one that asks for a "
            "confirmation). Open the link in a browser and save the file itself."
        )
    if head.startswith(b"version https://git-lfs"):
        raise UserError("this is a git-lfs pointer, not the file. Run `git lfs pull` there.")
    if head[257:262] == b"ustar":
        raise UserError(
            "this is a tar file, a format that PyTorch left in 2017 and that is not supported. "
            "Load it with torch.load and save it again with torch.save."
        )
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "zip" if head.startswith(b"PK") else "legacy"
    if suffix == ".safetensors":
        raise ValueError("it does not begin with the header of a safetensors file")
    raise UserError(
        "this is not a PyTorch checkpoint, neither a zip nor a pickle. Give a file of "
        "torch.save (.pth, .pt) or a .safetensors file."
    )


# Reading: each format's reader returns the tensors and what else the file holds.


def _read_zip(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict]:
    """torch >= 1.6: `<name>/data.pkl`, and one file a storage in `<name>/data/`."""
    archive = zipfile.ZipFile(file)
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.split("/")[-1] == "data.pkl"]
    if not pickles:
        raise UserError(
            "this is a zip without data.pkl, so not a file of torch.save. If it is a compressed "
            "folder, unpack it and give the .pth file inside."
        )
    prefix = min(pickles, key=len).removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in entries:
        raise UserError(
            "this is a TorchScript archive, not a checkpoint. In torch: "
            "torch.save(torch.jit.load(file).state_dict(), new_file)."
        )

    def read(name: str, length: int | None = None) -> bytes:
        info = entries.get(prefix + name)
        if info is None or length not in (None, info.file_size):
            raise ValueError(f"{prefix}{name} is missing or does not have {length} bytes")
        if info.compress_type != zipfile.ZIP_STORED:  # also keeps decompression bombs out
            raise UserError(
                "this zip is compressed, which torch.save never does. Load it with torch.load and "
                "save it again with torch.save."
            )
        return archive.read(info)

    if f"{prefix}byteorder" in entries and read("byteorder") != b"little":
        raise UserError("this file is from a big-endian machine. Save it again on another one.")
    content, _ = unpickle(io.BytesIO(read("data.pkl")))
    return _read_state(
        content,
        lambda storage: np.frombuffer(
            read(f"data/{storage.key}", storage.count * storage.dtype.itemsize), np.uint8
        ).copy(),
    )


def _read_legacy(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict]:
    """torch 0.2 to 1.5: five pickles in a row, then the storages. Always little-endian."""
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if unpickle(memory)[0] != 0x1950A86A20F9469CFC6C:
        raise UserError(
            "this is a Python pickle, but not one of torch.save. Load it where it was made and "
            "save its state dict with torch.save."
        )
    if unpickle(memory)[0] != 1001:
        raise UserError("this is no known version of the legacy format. Save it with a new torch.")
    unpickle(memory)  # facts about the machine that saved it; no reader uses them
    content, storages = unpickle(memory)
    keys, _ = unpickle(memory)
    places = {}
    for key in keys:
        if key not in storages:
            raise UserError("a tensor in it has a dtype that is not supported. Save it as float32.")
        places[key] = memory.tell() + 8
        length = storages[key].count * storages[key].dtype.itemsize
        count = int.from_bytes(memory.read(8), "little", signed=True)
        if count != storages[key].count or places[key] + length > len(memory):
            raise ValueError(f"storage {key} does not have its {storages[key].count} elements")
        memory.seek(length, os.SEEK_CUR)
    return _read_state(
        content,
        lambda storage: np.frombuffer(
            memory, np.uint8, storage.count * storage.dtype.itemsize, places[storage.key]
        ).copy(),
    )


_READERS = {"zip": _read_zip, "legacy": _read_legacy, "safetensors": safetensors.read}


def _find_state(content: Any) -> tuple[dict, dict]:
    """The state dict in an unpickled file, and what lies beside it."""
    if not isinstance(content, dict):
        raise UserError(
            f"this file holds a {describe(content)}, not a state dict. Where that class is known, "
            "save it again with torch.save(model.state_dict(), file)."
        )
    for wrapper in ("state_dict", "model", None):
        state = content if wrapper is None else content.get(wrapper)
        if isinstance(state, dict) and any(isinstance(item, Tensor) for item in state.values()):
            others = {key: content[key] for key in content if key != wrapper} if wrapper else {}
            return state, others
    raise UserError(
        "this file has no tensors at its top level, nor in `state_dict` or `model`; it holds: "
        f"{', '.join(str(key)[:40] for key in list(content)[:8]) or 'nothing'}. "
        "Save the part that is the model with torch.save(part, file)."
    )


def _read_state(
    content: Any, read_storage: Callable[[Storage], np.ndarray]
) -> tuple[dict[str, np.ndarray], dict]:
    """Reads the tensors of the state dict (and no others: an optimizer's stay unread)."""
    state, others = _find_state(content)
    storages: dict[str, np.ndarray] = {}
    tensors: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if isinstance(value, Stub):
            raise UserError(
                f"its entry {name} is a {value.name}, not a plain dense tensor. Save the file "
                "again without it, or with a dense tensor there."
            )
        if not isinstance(value, Tensor) or not isinstance(name, str):
            others[name] = value
            continue
        key = value.storage.key
        if key not in storages:
            storages[key] = read_storage(value.storage)
        try:
            tensors[name] = _read_tensor(value, storages[key])
        except (TypeError, ValueError) as error:
            raise ValueError(f"tensor {name}: {error}") from error
    config = to_plain(others.pop("config_dict", {}))
    return tensors, to_plain(others) | (config if isinstance(config, dict) else {})


def _read_tensor(tensor: Tensor, raw: np.ndarray) -> np.ndarray:
    """The strided view of a storage that a tensor is, as an array; never reads out of bounds."""
    values = raw.view(tensor.storage.dtype)
    offset = tensor.storage.start + tensor.offset
    size, stride = tuple(tensor.size), tuple(tensor.stride)
    if any(type(number) is not int or number < 0 for number in (offset, *size, *stride)):
        raise ValueError(f"size {size}, stride {stride}, offset {offset} are not all >= 0")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count == 0:
        return np.empty(size, values.dtype)
    if last >= values.size:
        raise ValueError(f"its element {last} lies outside its storage of {values.size}")
    if count > values.size and count * values.itemsize > _LARGEST_EXPANSION:
        raise ValueError(f"size {size} repeats a storage of {values.size} elements")
    steps = tuple(step * values.itemsize for step in stride)
    view = np.lib.stride_tricks.as_strided(values[offset:], size, steps)
    # A whole storage needs no copy; a part gets one, so that it does not keep the rest alive.
    whole = view.flags.c_contiguous and count == values.size
    return values.reshape(size) if whole else view.copy()


def _without_prefix(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop the `module.` that DataParallel puts before every key."""
    if not next(iter(tensors), "").startswith("module."):
        return tensors
    stripped = {name.removeprefix("module."): array for name, array in tensors.items()}
    if len(stripped) != len(tensors):
        raise ValueError("two keys differ only in the prefix `module.`")
    return stripped


# Writing.


def write_checkpoint(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], config: Mapping | None = None
) -> None:
    """Write a `.pth`/`.pt` (needs torch) or a `.safetensors` (does not), by the path's suffix.

    With a config the layout is that of the original's trainer, `{"config_dict", "state_dict"}`
    (in safetensors: JSON in the metadata), else a bare OrderedDict.
    """
    path = Path(path)
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(f"{path}: name the file .pth, .pt or .safetensors.")
    # np.require and not ascontiguousarray, which turns a scalar into a vector.
    arrays = {name: np.require(array, requirements=["C", "W"]) for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in safetensors.DTYPES.values():
            raise UserError(f"{path}: {name} has dtype {array.dtype}; convert it to float32 first.")
    config = None if config is None else to_plain(config)
    write = safetensors.write if path.suffix == ".safetensors" else _write_torch
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")  # an interrupted write leaves no broken file
    try:
        write(partial, arrays, config)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_torch(path: Path, arrays: dict[str, np.ndarray], config: dict | None) -> None:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            "Writing .pth files needs PyTorch: pip install torch. "
            "A .safetensors file can be written without it."
        ) from error
    state = OrderedDict()
    for name, array in arrays.items():
        if array.dtype == ml_dtypes.bfloat16:  # torch.from_numpy does not know it
            state[name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            state[name] = torch.from_numpy(array)
    torch.save(state if config is None else {"config_dict": config, "state_dict": state}, path)

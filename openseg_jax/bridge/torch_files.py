"""PyTorch checkpoint files in and out as NumPy arrays; reading never needs (or imports) torch.

A `.pth` is a pickle plus raw storages, and a pickle is a program. It runs here on an unpickler
that imports nothing: the few names of a plain checkpoint have our own implementations, every
other name becomes an inert stub, and a name that only an attack would use refuses the file.
Inside, UserError is raised without the path and ValueError for damage; `read_file` completes both.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import math
import mmap
import os
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from openseg_jax.errors import UserError

# torch dtype, torch storage class, name in safetensors, NumPy dtype
_DTYPES = (
    ("float32", "FloatStorage", "F32", np.dtype(np.float32)),
    ("float64", "DoubleStorage", "F64", np.dtype(np.float64)),
    ("float16", "HalfStorage", "F16", np.dtype(np.float16)),
    ("bfloat16", "BFloat16Storage", "BF16", np.dtype(ml_dtypes.bfloat16)),
    ("int8", "CharStorage", "I8", np.dtype(np.int8)),
    ("int16", "ShortStorage", "I16", np.dtype(np.int16)),
    ("int32", "IntStorage", "I32", np.dtype(np.int32)),
    ("int64", "LongStorage", "I64", np.dtype(np.int64)),
    ("uint8", "ByteStorage", "U8", np.dtype(np.uint8)),
    ("bool", "BoolStorage", "BOOL", np.dtype(np.bool_)),
)
# Stubs are harmless whatever their name; refusing these tells users what they were sent.
_REFUSED_MODULES = frozenset(
    "os posix nt subprocess _posixsubprocess commands popen2 pty sys runpy importlib imp pkgutil "
    "shutil socket _socket pickle _pickle cPickle dill cloudpickle joblib marshal ctypes _ctypes "
    "cffi code codeop asyncio signal webbrowser timeit pdb bdb profile cProfile pip requests "
    "urllib urllib2 http ftplib smtplib".split()
)
_REFUSED_NAMES = frozenset(
    "builtins.eval builtins.exec builtins.execfile builtins.compile builtins.__import__ "
    "builtins.getattr builtins.setattr builtins.delattr builtins.open builtins.file builtins.input "
    "builtins.apply builtins.map builtins.filter builtins.globals builtins.locals builtins.vars "
    "builtins.breakpoint builtins.reload io.open io.FileIO _io.open _io.FileIO types.CodeType "
    "types.FunctionType operator.attrgetter operator.methodcaller torch.load torch.hub.load "
    "torch.serialization.load numpy.load numpy.testing._private.utils.runstring".split()
)
# How pickles of protocol 2 (Python 2 names) and of NumPy below 2.0 spell these modules.
_SPELLINGS = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy.core.multiarray": "numpy._core.multiarray",
}
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
        f"this is not a PyTorch checkpoint: it begins with {head[:12]!r}. Give a file of "
        "torch.save (.pth, .pt) or a .safetensors file."
    )


# What a pickle can build. All of it is inert, and immutable or checked when a tensor is read.


class _Element(NamedTuple):
    """Stands for a torch dtype or storage class."""

    name: str
    dtype: np.dtype


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    count: int
    start: int  # in elements; not 0 for a view into another storage (legacy files)


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Dictionary(dict):
    """OrderedDict, less the attribute (`_metadata`) that torch hangs on it."""

    def __setstate__(self, *state):
        pass


class _Stub:
    """What an unknown name becomes. Calling, building or filling it only notes plain data."""

    name = "torch object of unknown type"

    def __new__(cls, *args, **kwargs):
        stub = object.__new__(cls)
        stub.fields = {}
        return stub

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args):
        return type(self)()

    def __setstate__(self, *state):  # `*` because a pickle may also aim it at the class itself
        if state and isinstance(state[0], dict):
            self.fields.update(state[0])

    def __setitem__(self, key, value):
        self.fields[key] = value

    def append(self, value):
        pass

    extend = add = append


class _Function:
    """A callable on the allow-list; slots and `__setstate__` keep pickles from altering it."""

    __slots__ = ("function",)

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *args):
        return self.function(*args)

    def __setstate__(self, state):
        raise ValueError("the pickle tries to alter a function")


class _NumpyDtype:
    """`numpy.dtype` as pickled: a code such as `f8`, then a state that holds the byte order."""

    def __init__(self, code, *_):
        self.code, self.order = code, "<"

    def __setstate__(self, state):
        self.order = state[1]


def _numpy_scalar(kind: _NumpyDtype, data: str | bytes) -> Any:
    if not re.fullmatch(r"b1|[iu][1248]|f[248]|[SU]\d{1,6}", str(kind.code)):
        return f"<numpy {kind.code}>"
    if isinstance(data, str):  # bytes from Python 2; surrogateescape made the text reversible
        data = data.encode("utf-8", "surrogateescape")
    order = ">" if kind.order == ">" else "<"
    return np.frombuffer(data, np.dtype(order + kind.code), count=1)[0].item()


def _tensor(storage, offset, size, stride, _grad=False, _hooks=None, metadata=None):
    if metadata:
        raise UserError("a tensor is lazily conjugated or negated. Save its `.resolve_neg()`.")
    return _Tensor(storage, offset, size, stride) if isinstance(storage, _Storage) else _Stub()


def _of_subclass(function, _type, args, _state):
    return function(*args) if isinstance(function, _Function) else _Stub()


def _reconstruct(kind, *_):
    return kind() if isinstance(kind, type) and issubclass(kind, _Stub) else _Stub()


_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": _Dictionary,
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(lambda tensor, *_: tensor),
    "torch._utils._rebuild_parameter_with_state": _Function(lambda tensor, *_: tensor),
    "torch._tensor._rebuild_from_type_v2": _Function(_of_subclass),
    "torch.Size": _Function(tuple),
    "torch.device": _Function(lambda *parts: ":".join(map(str, parts))),
    "torch.storage.UntypedStorage": _Element("bytes", np.dtype(np.uint8)),
    "numpy.dtype": _Function(_NumpyDtype),
    "numpy._core.multiarray.scalar": _Function(_numpy_scalar),
    "_codecs.encode": _Function(lambda text, *_: text.encode("latin1")),  # bytes in protocol 2
    "copyreg._reconstructor": _Function(_reconstruct),
    **{f"builtins.{kind.__name__}": kind for kind in (set, frozenset, list, dict, tuple, complex)},
    **{f"torch.{name}": _Element(name, dtype) for name, _, _, dtype in _DTYPES},
    **{f"torch.{name}": _Element(name, dtype) for _, name, _, dtype in _DTYPES},
    # Saved from a GPU by torch 0.x:
    **{f"torch.cuda.{name}": _Element(name, dtype) for _, name, _, dtype in _DTYPES},
}


class _Unpickler(pickle.Unpickler):
    """Imports nothing. `find_class` is the only way for a pickle to name anything."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = _SPELLINGS.get(module, module)
        full_name = f"{module}.{name}"
        if full_name in _ALLOWED:
            return _ALLOWED[full_name]
        owners = {module.partition(".")[0], *name.split(".")[:-1]}  # "logging" + "os.system" too
        if full_name in _REFUSED_NAMES or owners & _REFUSED_MODULES:
            raise UserError(
                f"this file wants to run {full_name}; it is not a plain checkpoint. It was not "
                "run. Do not open it with torch.load; get the weights from another source."
            )
        return type("_Stub", (_Stub,), {"name": full_name})

    def persistent_load(self, identity: Any) -> Any:
        if not isinstance(identity, tuple) or len(identity) < 4:
            raise ValueError("a persistent id that is not a tuple")
        if identity[0] == "module":  # a class, with its source text for people to read
            return identity[1]
        kind, element, key, _location, count, *view = identity
        if kind != "storage" or type(key) is not str or type(count) is not int or count < 0:
            raise ValueError("a persistent id that is not a storage")
        if not isinstance(element, _Element):
            return _Stub()
        start = view[0][1] if view and view[0] is not None else 0
        self.storages[key] = _Storage(key, element.dtype, count, start)
        return self.storages[key]


def _unpickle(stream: io.BytesIO | mmap.mmap) -> tuple[Any, dict[str, _Storage]]:
    """Run the next pickle of a stream: its object, and the storages it names."""
    begin = stream.tell()
    for opcode, argument, position in pickletools.genops(stream):
        # Extension codes reach what other code of this process registered, around find_class;
        # a huge memo index would make the unpickler allocate gigabytes.
        if opcode.name.startswith("EXT"):
            raise ValueError("extension codes have no place in a checkpoint")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > position - begin:
            raise ValueError(f"the pickle has memo index {argument}")
    length = stream.tell() - begin
    stream.seek(begin)
    unpickler = _Unpickler(stream.read(length))
    return unpickler.load(), unpickler.storages


# The containers. Each reader returns the tensors and what else the file holds.


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
    content, _ = _unpickle(io.BytesIO(read("data.pkl")))
    return _split(
        content,
        lambda storage: np.frombuffer(
            read(f"data/{storage.key}", storage.count * storage.dtype.itemsize), np.uint8
        ).copy(),
    )


def _read_legacy(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict]:
    """torch 0.2 to 1.5: five pickles in a row, then the storages. Always little-endian."""
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if _unpickle(memory)[0] != 0x1950A86A20F9469CFC6C:
        raise UserError(
            "this is a Python pickle, but not one of torch.save. Load it where it was made and "
            "save its state dict with torch.save."
        )
    if _unpickle(memory)[0] != 1001:
        raise UserError("this is no known version of the legacy format. Save it with a new torch.")
    _unpickle(memory)  # facts about the machine that saved it; no reader uses them
    content, storages = _unpickle(memory)
    keys, _ = _unpickle(memory)
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
    return _split(
        content,
        lambda storage: np.frombuffer(
            memory, np.uint8, storage.count * storage.dtype.itemsize, places[storage.key]
        ).copy(),
    )


def _read_safetensors(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict]:
    """8 bytes of header length, a JSON header, then the tensors without gaps or overlaps."""
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data_begin = 8 + int.from_bytes(memory[:8], "little")
    if data_begin > len(memory):
        raise ValueError(f"its header would end at byte {data_begin} of {len(memory)}")
    header = json.loads(memory[8:data_begin])
    metadata = header.pop("__metadata__", {})
    dtypes = {name: dtype for _, _, name, dtype in _DTYPES}
    tensors, covered = dict.fromkeys(header), 0
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        dtype, shape = dtypes.get(header[name]["dtype"]), header[name]["shape"]
        if dtype is None:
            raise UserError(
                f"tensor {name} has dtype {header[name]['dtype']}, which is not supported. "
                f"Save it as one of {', '.join(dtypes)}."
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


_READERS = {"zip": _read_zip, "legacy": _read_legacy, "safetensors": _read_safetensors}


# From the pickled object to tensors and config.


def _split(content: Any, storage_bytes: Callable) -> tuple[dict[str, np.ndarray], dict]:
    """Find the state dict and read its tensors (and no others: an optimizer's stay unread)."""
    if not isinstance(content, dict):
        what = content.name if isinstance(content, _Stub) else type(content).__name__.strip("_")
        raise UserError(
            f"this file holds a {what}, not a state dict. Where that class is known, save it again "
            "with torch.save(model.state_dict(), file)."
        )
    for wrapper in ("state_dict", "model", None):
        state = content if wrapper is None else content.get(wrapper)
        if isinstance(state, dict) and any(isinstance(item, _Tensor) for item in state.values()):
            others = {key: content[key] for key in content if key != wrapper} if wrapper else {}
            break
    else:
        raise UserError(
            "this file has no tensors at its top level, nor in `state_dict` or `model`; it holds: "
            f"{', '.join(str(key)[:40] for key in list(content)[:8]) or 'nothing'}. "
            "Save the part that is the model with torch.save(part, file)."
        )
    storages: dict[str, np.ndarray] = {}
    tensors: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if isinstance(value, _Stub):
            raise UserError(
                f"its entry {name} is a {value.name}, not a plain dense tensor. Save the file "
                "again without it, or with a dense tensor there."
            )
        if not isinstance(value, _Tensor) or not isinstance(name, str):
            others[name] = value
            continue
        if value.storage.key not in storages:
            storages[value.storage.key] = storage_bytes(value.storage)
        try:
            tensors[name] = _read_tensor(value, storages[value.storage.key])
        except (TypeError, ValueError) as error:
            raise ValueError(f"tensor {name}: {error}") from error
    config = _plain(others.pop("config_dict", {}), {})
    return tensors, _plain(others, {}) | (config if isinstance(config, dict) else {})


def _read_tensor(tensor: _Tensor, raw: np.ndarray) -> np.ndarray:
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


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Plain Python values only; `seen` keeps shared or circular containers from multiplying."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if id(value) in seen:
        return seen[id(value)]
    fields = value.fields if isinstance(value, _Stub) else value
    if isinstance(fields, Mapping) and (fields or not isinstance(value, _Stub)):
        result: Any = {"__class__": value.name} if isinstance(value, _Stub) else {}
        seen[id(value)] = result
        for key, item in fields.items():
            result[key if isinstance(key, str | int | float) else str(key)] = _plain(item, seen)
        return result
    if isinstance(value, list | set | frozenset):
        seen[id(value)] = result = []
        result.extend(_plain(item, seen) for item in value)
        return result
    if isinstance(value, tuple) and not isinstance(value, _Tensor | _Storage | _Element):
        return seen.setdefault(id(value), tuple(_plain(item, seen) for item in value))
    return f"<{getattr(value, 'name', None) or type(value).__name__.strip('_').lower()}>"


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
        if array.dtype not in [dtype for *_, dtype in _DTYPES]:
            raise UserError(f"{path}: {name} has dtype {array.dtype}; convert it to float32 first.")
    config = None if config is None else _plain(config, {})
    write = _write_safetensors if path.suffix == ".safetensors" else _write_torch
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
            "Writing .pth files needs PyTorch: pip install openseg_jax[torch]. "
            "A .safetensors file can be written without it."
        ) from error
    state = OrderedDict()
    for name, array in arrays.items():
        if array.dtype == ml_dtypes.bfloat16:  # torch.from_numpy does not know it
            state[name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            state[name] = torch.from_numpy(array)
    torch.save(state if config is None else {"config_dict": config, "state_dict": state}, path)


def _write_safetensors(path: Path, arrays: dict[str, np.ndarray], config: dict | None) -> None:
    names = {dtype: name for _, _, name, dtype in _DTYPES}
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

"""Unpickles PyTorch checkpoints without running them.

A pickle is a program. Here it runs on an unpickler that imports nothing: the few names of a plain
checkpoint have our own implementations, every other name becomes an inert stub, and a name that
only an attack would use refuses the file. What can be built is immutable, or checked by those
who use it.
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from openseg_jax.errors import UserError

_DTYPES = {  # torch dtype: its storage class and NumPy dtype
    "float32": ("FloatStorage", np.float32),
    "float64": ("DoubleStorage", np.float64),
    "float16": ("HalfStorage", np.float16),
    "bfloat16": ("BFloat16Storage", ml_dtypes.bfloat16),
    "int8": ("CharStorage", np.int8),
    "int16": ("ShortStorage", np.int16),
    "int32": ("IntStorage", np.int32),
    "int64": ("LongStorage", np.int64),
    "uint8": ("ByteStorage", np.uint8),
    "bool": ("BoolStorage", np.bool_),
}
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


class Element(NamedTuple):
    """A torch dtype or storage class."""

    name: str
    dtype: np.dtype


class Storage(NamedTuple):
    """A place in the file that holds `count` elements of one or more tensors."""

    key: str
    dtype: np.dtype
    count: int
    start: int  # in elements; not 0 for a view into another storage (legacy files)


class Tensor(NamedTuple):
    """A strided view of a storage, as the file states it: nothing of it is checked yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Dictionary(dict):
    """OrderedDict, less the attribute (`_metadata`) that torch hangs on it."""

    def __setstate__(self, *state):
        pass


class Stub:
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
    return Tensor(storage, offset, size, stride) if isinstance(storage, Storage) else Stub()


def _of_subclass(function, _type, args, _state):
    return function(*args) if isinstance(function, _Function) else Stub()


def _reconstruct(kind, *_):
    return kind() if isinstance(kind, type) and issubclass(kind, Stub) else Stub()


_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": _Dictionary,
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(lambda tensor, *_: tensor),
    "torch._utils._rebuild_parameter_with_state": _Function(lambda tensor, *_: tensor),
    "torch._tensor._rebuild_from_type_v2": _Function(_of_subclass),
    "torch.Size": _Function(tuple),
    "torch.device": _Function(lambda *parts: ":".join(map(str, parts))),
    "torch.storage.UntypedStorage": Element("bytes", np.dtype(np.uint8)),
    "numpy.dtype": _Function(_NumpyDtype),
    "numpy._core.multiarray.scalar": _Function(_numpy_scalar),
    "_codecs.encode": _Function(lambda text, *_: text.encode("latin1")),  # bytes in protocol 2
    "copyreg._reconstructor": _Function(_reconstruct),
    **{f"builtins.{kind.__name__}": kind for kind in (set, frozenset, list, dict, tuple, complex)},
    **{
        f"torch.{name}": Element(name, np.dtype(dtype))
        for torch_dtype, (storage, dtype) in _DTYPES.items()
        for name in (torch_dtype, storage, f"cuda.{storage}")  # cuda: from a GPU and torch 0.x
    },
}


class _Unpickler(pickle.Unpickler):
    """Imports nothing. `find_class` is the only way for a pickle to name anything."""

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
        self.storages: dict[str, Storage] = {}

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
        return type("Stub", (Stub,), {"name": full_name})

    def persistent_load(self, identity: Any) -> Any:
        if not isinstance(identity, tuple) or len(identity) < 4:
            raise ValueError("a persistent id that is not a tuple")
        if identity[0] == "module":  # a class, with its source text for people to read
            return identity[1]
        kind, element, key, _location, count, *view = identity
        if kind != "storage" or type(key) is not str or type(count) is not int or count < 0:
            raise ValueError("a persistent id that is not a storage")
        if not isinstance(element, Element):
            return Stub()
        start = view[0][1] if view and view[0] is not None else 0
        self.storages[key] = Storage(key, element.dtype, count, start)
        return self.storages[key]


def unpickle(stream: io.BytesIO | mmap.mmap) -> tuple[Any, dict[str, Storage]]:
    """Runs the next pickle of a stream: its object, and the storages it names by their keys."""
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


def describe(value: Any) -> str:
    """What a value is, for people: the name of what a stub stands for, else that of its type."""
    return getattr(value, "name", None) or type(value).__name__.strip("_").lower()


def to_plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """The value in plain Python types; anything else becomes a short text.

    `seen` keeps shared or circular containers from multiplying.
    """
    seen = {} if seen is None else seen
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if id(value) in seen:
        return seen[id(value)]
    fields = value.fields if isinstance(value, Stub) else value
    if isinstance(fields, Mapping) and (fields or not isinstance(value, Stub)):
        result: Any = {"__class__": value.name} if isinstance(value, Stub) else {}
        seen[id(value)] = result
        for key, item in fields.items():
            result[key if isinstance(key, str | int | float) else str(key)] = to_plain(item, seen)
        return result
    if isinstance(value, list | set | frozenset):
        seen[id(value)] = result = []
        result.extend(to_plain(item, seen) for item in value)
        return result
    if isinstance(value, tuple) and not isinstance(value, Tensor | Storage | Element):
        return seen.setdefault(id(value), tuple(to_plain(item, seen) for item in value))
    return f"<{describe(value)}>"

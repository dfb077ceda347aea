"""Pickles that try to run something, to alter the reader or to exhaust it."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest
from torch_pickles import Builder, Op, Raw, assert_same, build, call, fill, name, ordered

from openseg_jax.bridge.torch_files import read_checkpoint, read_file
from openseg_jax.errors import UserError


@pytest.fixture(params=["zip", "legacy"])
def builder(request) -> Builder:
    return Builder(request.param == "legacy")


DANGEROUS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("__builtin__", "getattr"),
    ("importlib", "import_module"),
    ("logging", "os.system"),
]


@pytest.mark.parametrize("module, attribute", DANGEROUS)
@pytest.mark.parametrize("place", ["bare", "wrapped", "config"])
def test_dangerous_names_are_refused(tmp_path, builder, module, attribute, place):
    marker = tmp_path / "it_ran"
    payload = call(name(module, attribute), f"touch {marker}")
    tensor = builder.tensor(np.ones(1, np.float32))
    content = {
        "bare": payload,
        "wrapped": {"state_dict": ordered({"a": tensor, "b": payload})},
        "config": {"config_dict": {"x": [payload]}, "state_dict": ordered({"a": tensor})},
    }[place]
    path = builder.save(tmp_path / "a.pth", content)
    with pytest.raises(UserError, match=rf"a\.pth.* wants to run .*{attribute};.*was not run"):
        read_checkpoint(path)
    assert not marker.exists()


def test_real_exploit_is_refused(tmp_path):
    """The same through Python's own pickler, also as a plain pickle and in place of the magic."""

    class Exploit:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'it_ran'}",)

    for protocol in range(2, 6):
        path = tmp_path / "plain.pth"
        path.write_bytes(pickle.dumps({"state_dict": Exploit()}, protocol))
        with pytest.raises(UserError, match=r"wants to run (posix|nt|os)\.system"):
            read_checkpoint(path)
    assert not (tmp_path / "it_ran").exists()
    pickle.loads(path.read_bytes())  # the payload is a real one
    assert (tmp_path / "it_ran").exists()


def test_unknown_names_become_inert_stubs(tmp_path, builder, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\npayload = print\n")
    monkeypatch.syspath_prepend(tmp_path)
    evil = name("evil", "payload")
    newobj = Op(evil, (1,), Raw(b"\x81"))
    junk = [
        evil,
        call(call(evil, "x"), "y"),
        build(newobj, {"shown": 1}),
        build(evil, {"__new__": 1}),
        fill(newobj, {"k": 2}),
        Op(newobj, Raw(b"("), 1, 2, Raw(b"e")),
    ]
    content = {"junk": junk, "state_dict": ordered({"a": builder.tensor(np.ones(2, np.float32))})}
    file = read_file(builder.save(tmp_path / "a.pth", content))
    assert "evil" not in sys.modules and not (tmp_path / "it_ran").exists()
    assert_same(file.tensors, {"a": np.ones(2, np.float32)})
    assert file.config["junk"][1] == "<evil.payload>"
    assert file.config["junk"][2] == {"__class__": "evil.payload", "shown": 1}


def test_pickle_cannot_alter_the_reader(tmp_path, builder):
    """BUILD sets attributes: on our functions it must not (a later load would run changed)."""
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    for state in ({"function": 1}, (None, {"function": 1, "__defaults__": (1,)})):
        content = {"x": build(rebuild, state)}
        with pytest.raises(UserError, match="tries to alter a function"):
            read_checkpoint(builder.save(tmp_path / "a.pth", content))
    for target in ("float32", "FloatStorage"):
        content = {"x": build(name("torch", target), {"dtype": 1})}
        with pytest.raises(UserError, match="damaged"):
            read_checkpoint(builder.save(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    "offset, size, stride",
    [
        (0, (7,), (1,)),
        (5, (2,), (1,)),
        (-1, (2,), (1,)),
        (5, (3,), (-1,)),
        (0, (2, 3), (4, 1)),
        (0, (2**62, 2**62), (1, 1)),
        (0, (2**40,), (0,)),
        (0, (0, 2**62), (1, 1)),
        (0, (-1,), (1,)),
        (0, (2, 3), (3,)),
        (0, (1,) * 70, (1,) * 70),
        (0.5, (1,), (1,)),
        (0, "ab", (1, 1)),
        (0, (2,), None),
    ],
)
def test_views_outside_the_storage(tmp_path, builder, offset, size, stride):
    storage = builder.storage(np.arange(6, dtype=np.float32))
    content = {"good.name": builder.view(storage, offset, size, stride)}
    with pytest.raises(UserError, match=r"damaged.*good\.name"):
        read_checkpoint(builder.save(tmp_path / "a.pth", content))


@pytest.mark.parametrize("count", [7, 5, 2**40, 2**70])
def test_storage_of_wrong_size(tmp_path, builder, count):
    storage = builder.storage(np.arange(6, dtype=np.float32), count)
    content = {"a": builder.view(storage, 0, (6,), (1,))}
    with pytest.raises(UserError, match="a.pth is damaged"):
        read_checkpoint(builder.save(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x82\x01",  # extension code
        b"Nr\xff\xff\xff\x7f",  # memo index of 2 billion
        b"\x8e" + b"\xff" * 7 + b"\x7f",  # bytes of absurd length
        b"X\xff\xff\xff\x7fabc",
        b"Pstorage\n",  # persistent id as text
        b"NQ",
        b"h\x07",  # unset memo
        b"0000",
        b"\x97",  # out-of-band buffer
    ],
)
def test_absurd_pickles(tmp_path, builder, opcodes):
    path = builder.save(tmp_path / "a.pth", {"a": Op(Raw(opcodes))})
    with pytest.raises(UserError, match="a.pth is damaged"):
        read_checkpoint(path)

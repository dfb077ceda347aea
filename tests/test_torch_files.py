"""Reading and writing PyTorch files of every format, with torch and without it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_pickles import (
    DTYPES,
    Builder,
    Op,
    Raw,
    assert_same,
    build,
    call,
    dump,
    name,
    ordered,
    sample,
)

from openseg_jax.bridge.torch_files import read_checkpoint, read_file, write_checkpoint
from openseg_jax.errors import UserError


@pytest.fixture(params=["zip", "legacy"])
def builder(request) -> Builder:
    return Builder(request.param == "legacy")


# ---- Contents ----


def test_every_dtype_by_hand(tmp_path, builder):
    expected = {f"z{dtype}": sample(dtype) for dtype in DTYPES}
    expected |= {"scalar": np.array(7), "empty": np.zeros((0, 3), np.float32)}
    content = ordered({key: builder.tensor(array) for key, array in expected.items()})
    path = builder.save(tmp_path / "a.pth", content)
    file = read_file(path)
    assert_same(file.tensors, expected)
    assert file.format == ("legacy" if builder.legacy else "zip") and file.config is None
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(array.flags.writeable for array in file.tensors.values())


def test_views_of_a_shared_storage(tmp_path, builder):
    values = np.arange(24, dtype=np.float32)
    storage = builder.storage(values)
    content = ordered(
        {
            "whole": builder.view(storage, 0, (4, 6), (6, 1)),
            "transposed": builder.view(storage, 0, (6, 4), (1, 6)),
            "part": builder.view(storage, 7, (2, 3), (6, 2)),
            "expanded": builder.view(storage, 5, (3, 2), (0, 1)),
        }
    )
    grid = values.reshape(4, 6)
    expected = {"whole": grid, "transposed": grid.T, "part": grid[1:3, 1:6:2]}
    expected["expanded"] = np.array([[5, 6]] * 3, np.float32)
    assert_same(read_checkpoint(builder.save(tmp_path / "a.pth", content)), expected)


def test_legacy_storage_view_and_old_rebuild(tmp_path):
    builder = Builder(legacy=True)
    builder.storages["9"] = np.arange(6, dtype=np.float32)
    identity = ("storage", name("torch.cuda", "FloatStorage"), "9", "cuda:0", 6, ("1", 2, 4))
    storage = Op(identity, Raw(b"Q"))
    content = {"a": call(name("torch._utils", "_rebuild_tensor"), storage, 1, (2,), (1,))}
    found = read_checkpoint(builder.save(tmp_path / "a.pth", content))
    assert_same(found, {"a": np.array([3, 4], np.float32)})


@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
def test_wrappers_prefix_and_config(tmp_path, builder, wrapper):
    array = np.arange(3, dtype=np.float32)
    state = ordered({"module.a.weight": builder.tensor(array), "module.b": builder.tensor(array)})
    content = state
    if wrapper:
        content = {wrapper: state, "epoch": 3, "optimizer": {"momentum": builder.tensor(array)}}
    file = read_file(builder.save(tmp_path / "a.pth", content))
    assert_same(file.tensors, {"a.weight": array, "b": array})
    assert file.config == ({"epoch": 3, "optimizer": {"momentum": "<tensor>"}} if wrapper else None)


def test_config_with_numpy_scalars_and_stubs(tmp_path, builder):
    namespace = build(call(name("argparse", "Namespace")), {"lr": 0.1, "gpus": [0, 1]})
    float64 = call(name("numpy", "dtype"), "f8", 0, 1)
    float64 = build(float64, (3, "<", None, None, None, -1, -1, 0))
    python2_bytes = Op(Raw(b"U\x08" + np.float64(-0.3).tobytes()))
    config = {
        "performance": np.float64(0.8125),
        "iters": np.int64(40000),
        "best": np.bool_(True),
        "name": np.str_("ocr"),
        "big": np.array(3, ">i4")[()],
        "nested": [[1, np.float32(0.5)], {"size": (512, 1024), 4: None}, {1}],
        "args": namespace,
        "path": call(name("pathlib", "PosixPath"), "/", "data"),
        "numpy1": call(name("numpy.core.multiarray", "scalar"), float64, python2_bytes),
        "old": call(name("copy_reg", "_reconstructor"), name("x", "Y"), name("x", "Z"), None),
    }
    state = ordered({"a": builder.tensor(np.ones(1, np.float32))})
    file = read_file(builder.save(tmp_path / "a.pth", {"config_dict": config, "state_dict": state}))
    assert file.config == {
        "performance": 0.8125,
        "iters": 40000,
        "best": True,
        "name": "ocr",
        "big": 3,
        "nested": [[1, 0.5], {"size": (512, 1024), 4: None}, [1]],
        "args": {"__class__": "argparse.Namespace", "lr": 0.1, "gpus": [0, 1]},
        "path": "<pathlib.PosixPath>",
        "numpy1": -0.3,
        "old": "<x.Y>",
    }
    assert [type(file.config[key]) for key in ("performance", "iters", "best", "name")] == [
        float, int, bool, str,
    ]  # fmt: skip


def test_circular_config_ends(tmp_path, builder):
    state = ordered({"a": builder.tensor(np.ones(1, np.float32))})
    circle = Op(Raw(b"]q\x05h\x05a"))
    config = read_file(builder.save(tmp_path / "a.pth", {"state_dict": state, "c": circle})).config
    assert config["c"][0] is config["c"]


# ---- Broken files and files of another kind ----


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Google Drive", "HTML page, the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\0" * 257 + b"ustar\x00" + b"\0" * 300, "tar file"),
        (b'{"message": "Not Found"}', "not a PyTorch checkpoint"),
        (pickle.dumps({"a": 1}, 2), "not one of torch.save"),
        (dump(0x1950A86A20F9469CFC6C) + dump(1), "no known version"),
    ],
)
def test_other_kinds_of_file(tmp_path, data, message):
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="nothing.pth: no such file"):
        read_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_every_truncation_is_a_user_error(tmp_path, builder):
    content = ordered({"a": builder.tensor(np.arange(3, dtype=np.float32))})
    data = builder.save(tmp_path / "a.pth", content).read_bytes()
    short = tmp_path / "short.pth"
    for length in range(0, len(data), 3):
        short.write_bytes(data[:length])
        with pytest.raises(UserError, match="short.pth"):
            read_checkpoint(short)


def test_flipped_byte_in_a_zip_is_found(tmp_path):
    builder = Builder(legacy=False)
    values = np.arange(100, dtype=np.float32)
    path = builder.save(tmp_path / "a.pth", ordered({"a": builder.tensor(values)}))
    data = path.read_bytes()
    path.write_bytes(data.replace(values.tobytes(), values.tobytes()[:-1] + b"\0"))
    with pytest.raises(UserError, match="damaged.*CRC"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "files, compression, message",
    [
        ({"weights.npy": b"x"}, zipfile.ZIP_STORED, "zip without data.pkl"),
        ({"a/data.pkl": b"x", "a/constants.pkl": b"x"}, zipfile.ZIP_STORED, "TorchScript"),
        ({"a/data.pkl": dump({})}, zipfile.ZIP_DEFLATED, "compressed"),
        ({"a/data.pkl": dump({}), "a/byteorder": b"big"}, zipfile.ZIP_STORED, "big-endian"),
        ({"a/data.pkl": dump({"x": 1})}, zipfile.ZIP_STORED, "no tensors.* holds: x"),
        ({"a/data.pkl": dump(call(name("my", "Net")))}, zipfile.ZIP_STORED, "holds a my.Net"),
    ],
)
def test_other_zips(tmp_path, files, compression, message):
    with zipfile.ZipFile(tmp_path / "a.pth", "w", compression) as archive:
        for entry, data in files.items():
            archive.writestr(entry, data)
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "a.pth")


def test_sparse_tensor_is_refused_not_dropped(tmp_path, builder):
    sparse = call(name("torch._utils", "_rebuild_sparse_tensor"), 1)
    content = ordered({"a": builder.tensor(np.ones(1, np.float32)), "b": sparse})
    with pytest.raises(UserError, match="entry b is a torch._utils._rebuild_sparse_tensor"):
        read_checkpoint(builder.save(tmp_path / "a.pth", content))


# ---- safetensors ----

arrays = st.builds(
    lambda dtype, shape: sample(dtype, tuple(shape)),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=4),
)
states = st.dictionaries(st.text(min_size=1).filter(lambda key: key[:1] != "m"), arrays, max_size=5)


@settings(max_examples=60, deadline=None)
@given(state=states)
def test_safetensors_round_trip(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("files") / "a.safetensors"
    state.pop("__metadata__", None)
    write_checkpoint(path, state)
    assert_same(read_checkpoint(path), state)


@settings(max_examples=60, deadline=None)
@given(state=states.filter(len), legacy=st.booleans())
def test_pickle_round_trip(tmp_path_factory, state, legacy):
    builder = Builder(legacy)
    state = {key.encode("utf-8", "replace").decode(): array for key, array in state.items()}
    content = ordered({key: builder.tensor(array) for key, array in state.items()})
    path = builder.save(tmp_path_factory.mktemp("files") / "a.pth", content)
    assert_same(read_checkpoint(path), state)


def test_safetensors_config_and_strided_input(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    state = {"module.a": np.arange(12.0).reshape(3, 4).T[1:], "module.b": np.array(3)}
    write_checkpoint(path, state, {"lr": np.float64(0.5), "steps": [np.int64(3)]})
    file = read_file(path)
    assert_same(file.tensors, {"a": state["module.a"], "b": state["module.b"]})
    assert file.config == {"lr": 0.5, "steps": [3]} and file.format == "safetensors"
    assert os.listdir(path.parent) == ["a.safetensors"]


@pytest.mark.parametrize(
    "entry, extra",
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, b""),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, b"1234"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, b""),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}, b""),
        ({"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}, b""),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, b"1"),
        ({"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}, b""),
        ({"shape": [2], "data_offsets": [0, 8]}, b""),
        ({"dtype": "F32", "shape": [2], "data_offsets": 7}, b""),
        (3, b""),
    ],
)
def test_bad_safetensors(tmp_path, entry, extra):
    header = json.dumps({"weight": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"12345678" + extra)
    with pytest.raises(UserError, match=r"a\.safetensors"):
        read_checkpoint(path)
    path.write_bytes(b"\xff" * 8 + header)
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)


# ---- With torch, or its absence ----


def test_reading_never_imports_torch(tmp_path):
    builder = Builder(legacy=False)
    path = builder.save(tmp_path / "a.pth", ordered({"a": builder.tensor(np.ones(3, np.float32))}))
    code = (
        "import sys; from openseg_jax.bridge.torch_files import read_checkpoint;"
        f"read_checkpoint({str(path)!r}); assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def test_writing_without_torch_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install torch"):
        write_checkpoint(tmp_path / "a.pth", {"a": np.ones(1)})
    assert not list(tmp_path.iterdir())


def test_writing_names_bad_input(tmp_path):
    with pytest.raises(UserError, match=r"name the file .pth, .pt or .safetensors"):
        write_checkpoint(tmp_path / "a.bin", {})
    with pytest.raises(UserError, match="a.b has dtype <U1"):
        write_checkpoint(tmp_path / "a.pth", {"a.b": np.array(["x"])})


@pytest.mark.parametrize("config", [None, {"lr": np.float64(0.1), "sizes": [np.int64(1), (2, 3)]}])
def test_written_pth_opens_in_torch(tmp_path, config):
    torch = pytest.importorskip("torch")
    expected = {f"a.{dtype}": sample(dtype) for dtype in DTYPES}
    expected["b"] = np.array(5)
    expected["c"] = np.broadcast_to(np.float32(2), (2, 2))
    write_checkpoint(tmp_path / "a.pth", expected, config)
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)
    if config is not None:
        assert list(loaded) == ["config_dict", "state_dict"]
        assert loaded["config_dict"] == read_file(tmp_path / "a.pth").config == config
        loaded = loaded["state_dict"]
    assert type(loaded) is OrderedDict and list(loaded) == list(expected)
    assert loaded["a.bfloat16"].dtype == torch.bfloat16 and loaded["b"].shape == ()
    assert_same(read_checkpoint(tmp_path / "a.pth"), expected)


@pytest.mark.parametrize("new_format", [True, False])
def test_files_of_torch(tmp_path, new_format):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    tagged = torch.ones(2)
    tagged.note = "tensors with attributes pickle in another way"
    expected = {
        "whole": base,
        "transposed": base.t(),
        "part": base[1:3, ::2],
        "expanded": torch.ones(1).expand(3, 2),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "tagged": tagged,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    for dtype in (torch.float64, torch.float16, torch.int8, torch.int16, torch.int32, torch.uint8):
        expected[str(dtype)] = torch.arange(-3, 3).to(dtype)
    expected["bool"] = torch.tensor([True, False])
    bfloat16 = torch.randn(4).bfloat16()
    config = {"miou": np.float64(0.5), "iters": np.int64(9), "ok": np.bool_(False)}
    config["nested"] = [[1], b"x", {"a": None}]
    content = {"state_dict": OrderedDict(expected, bf=bfloat16), "config_dict": config}
    content |= {"device": torch.device("cuda:0"), "size": torch.Size([2, 3]), "kind": torch.float16}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new_format)
    file = read_file(tmp_path / "a.pth")
    assert file.tensors["bf"].dtype == ml_dtypes.bfloat16
    assert file.tensors.pop("bf").tobytes() == bfloat16.view(torch.int16).numpy().tobytes()
    assert_same(file.tensors, {key: tensor.detach().numpy() for key, tensor in expected.items()})
    assert {key: file.config.pop(key) for key in ("device", "size", "kind")} == {
        "device": "cuda:0", "size": (2, 3), "kind": "<float16>",
    }  # fmt: skip
    assert file.config == config and type(file.config["miou"]) is float


def test_whole_module_of_torch_is_explained(tmp_path):
    torch = pytest.importorskip("torch")
    for new_format in (True, False):
        module = torch.nn.Linear(2, 2)
        torch.save(module, tmp_path / "a.pth", _use_new_zipfile_serialization=new_format)
        with pytest.raises(UserError, match=r"holds a torch\.nn\.modules\.linear\.Linear"):
            read_checkpoint(tmp_path / "a.pth")


@pytest.mark.skipif("OPENSEG_TEST_DATA" not in os.environ, reason="needs OPENSEG_TEST_DATA")
def test_real_weights_equal_torch_load():
    torch = pytest.importorskip("torch")
    paths = sorted(Path(os.environ["OPENSEG_TEST_DATA"], "data", "weights").glob("*.pt*"))
    assert paths
    for path in paths:
        loaded = torch.load(path, weights_only=True, map_location="cpu")
        loaded = loaded.get("state_dict", loaded.get("model", loaded))
        assert_same(read_checkpoint(path), {key: loaded[key].numpy() for key in loaded})

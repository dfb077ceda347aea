"""Files in folders, zips and tars: random access without unpacking, and damaged archives."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest

from openseg_jax.data import archive
from openseg_jax.data.archive import File, list_files
from openseg_jax.errors import UserError

RNG = np.random.default_rng(0)
CONTENT = {
    f"folder/{i:02d}.bin": RNG.integers(0, 40, 5000 + i, np.uint8).tobytes() for i in range(40)
}


def zip_bytes(content: dict, compression=zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return stream.getvalue()


def tar_bytes(content: dict) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def two_members(data: bytes) -> bytes:
    return gzip.compress(data[:70_001]) + gzip.compress(data[70_001:])


FORMS = {
    "zip": lambda: ("a.zip", zip_bytes(CONTENT)),
    "tar": lambda: ("a.tar", tar_bytes(CONTENT)),
    "tgz": lambda: ("a.tgz", gzip.compress(tar_bytes(CONTENT))),
    "gzip of two members": lambda: ("a.tar.gz", two_members(tar_bytes(CONTENT))),
    "deflated zip in zip": lambda: ("a.zip", zip_bytes({"b.zip": zip_bytes(CONTENT)})),
    "stored zip in zip": lambda: ("a.zip", zip_bytes({"b.zip": zip_bytes(CONTENT)}, 0)),
    "bzip2 zip in zip": lambda: (
        *("a.zip", zip_bytes({"b.zip": zip_bytes(CONTENT)}, zipfile.ZIP_BZIP2)),
    ),
    "tgz in tar": lambda: ("a.tar", tar_bytes({"b.tar.gz": gzip.compress(tar_bytes(CONTENT))})),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_come_back_in_any_order(tmp_path, monkeypatch, form):
    monkeypatch.setattr(archive, "_SPACING", 20_000)  # several points to start from
    monkeypatch.setattr(archive, "_PIECE", 1000)
    name, data = FORMS[form]()
    (tmp_path / name).write_bytes(data)
    files = list_files(tmp_path)
    assert all(path.startswith(f"{tmp_path.name}/{name}/") for path in files)
    found = {path.partition("folder/")[2]: file for path, file in files.items()}
    assert list(found) == [path.removeprefix("folder/") for path in CONTENT]
    for key in RNG.permutation(list(found) * 2):
        assert found[key].read() == CONTENT[f"folder/{key}"]
    assert list(tmp_path.iterdir()) == [tmp_path / name]  # nothing was unpacked


def test_a_jump_inflates_only_from_the_point_before(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_SPACING", 20_000)
    monkeypatch.setattr(archive, "_PIECE", 1000)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar_bytes(CONTENT)))
    files = list_files(tmp_path / "a.tgz")
    pieces = []
    inflate = archive._Inflated._inflate
    monkeypatch.setattr(archive._Inflated, "_inflate", lambda s: pieces.append(1) or inflate(s))
    files["a.tgz/folder/38.bin"].read()
    files["a.tgz/folder/02.bin"].read()
    whole = (tmp_path / "a.tgz").stat().st_size / 1000
    assert len(pieces) < whole / 2


@pytest.mark.parametrize("form", FORMS)
def test_truncated_archives_are_named(tmp_path, form):
    name, data = FORMS[form]()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=f"{name}.* cannot be read"):
        for file in list_files(tmp_path).values():
            file.read()


def test_a_damaged_member_is_named(tmp_path):
    data = bytearray(zip_bytes(CONTENT, zipfile.ZIP_STORED))
    data[data.index(CONTENT["folder/07.bin"]) + 100] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    files = list_files(tmp_path / "a.zip")
    assert files["a.zip/folder/06.bin"].read() == CONTENT["folder/06.bin"]
    with pytest.raises(UserError, match=r"a\.zip/folder/07\.bin cannot be read"):
        files["a.zip/folder/07.bin"].read()


def test_folders_follow_links_once_and_skip_hidden_files(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.png").write_bytes(b"x")
    (tmp_path / "data" / ".DS_Store").write_bytes(b"")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.png").write_bytes(b"y")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    assert list(list_files(tmp_path / "data")) == ["data/linked/y.png", "data/x.png"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.png cannot be read"):
        File(str(tmp_path / "gone.png")).read()

"""Files of a source wherever they lie: in folders, zips and tars, and in archives inside those.

An archive is listed as if it were a folder, and its files are read from where they are: nothing
is extracted to disk. A `File` is only an address, so processes can share a list of them; each
process and thread opens the archives for itself.
"""

from __future__ import annotations

import bisect
import functools
import io
import os
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from openseg_jax.errors import UserError

_ZIPS = (".zip",)
_TARS = (".tar", ".tar.gz", ".tgz")
_DAMAGE = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error)
_PIECE = 1 << 14  # compressed bytes that are inflated at once
_SPACING = 1 << 22  # bytes of content between two points at which inflating can start


class File(NamedTuple):
    """The address of a file: a path on disk, then names inside of nested archives."""

    path: str
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join((self.path, *self.inside))

    def open(self) -> BinaryIO:
        """A seekable stream of the content."""
        try:
            if not self.inside:
                return open(self.path, "rb")
            return _opened(File(self.path, self.inside[:-1])).open(self.inside[-1])
        except _DAMAGE as error:
            raise _unreadable(self, error) from error

    def read(self) -> bytes:
        """The content; a damaged file or archive is a UserError that names it."""
        try:
            if not self.inside:
                return Path(self.path).read_bytes()
            return _opened(File(self.path, self.inside[:-1])).read(self.inside[-1])
        except (*_DAMAGE, RuntimeError) as error:
            raise _unreadable(self, error) from error


def list_files(source: Path) -> dict[str, File]:
    """All files of a folder or archive by their `/`-separated path, sorted.

    Paths begin with the name of `source` itself, so that a reader can look for `VOC2012/...`
    whether it was given that folder or one above it. Archives count as folders. Hidden files,
    and those that macOS adds to zips, are left out.
    """
    source = Path(os.path.abspath(source))
    _opened_here.cache_clear()  # an archive may have been replaced since it was last opened
    if source.is_dir():
        found = dict(_in_folder(source, source.name, set()))
    elif source.name.lower().endswith(_ZIPS + _TARS):
        found = dict(_in_archive(File(str(source)), source.name))
    else:
        raise UserError(
            f"{source} is no folder, zip or tar (also .tar.gz). Give the folder that holds the "
            "data, or the archive as it was downloaded."
        )
    return dict(sorted(found.items()))


def _in_folder(folder: Path, prefix: str, seen: set) -> Iterator[tuple[str, File]]:
    try:
        real = os.path.realpath(folder)
        if real in seen:  # a symbolic link that leads back
            return
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if _wanted(entry.name)]
    except OSError as error:
        raise _unreadable(File(str(folder)), error) from error
    for entry in entries:
        path, file = f"{prefix}/{entry.name}", File(entry.path)
        if entry.is_dir():
            yield from _in_folder(Path(entry.path), path, seen | {real})
        elif entry.name.lower().endswith(_ZIPS + _TARS):
            yield from _in_archive(file, path)
        else:
            yield path, file


def _in_archive(archive: File, prefix: str) -> Iterator[tuple[str, File]]:
    for name in _opened(archive).members:
        if not all(_wanted(part) for part in name.split("/")):
            continue
        file = File(archive.path, (*archive.inside, name))
        if name.lower().endswith(_ZIPS + _TARS):
            yield from _in_archive(file, f"{prefix}/{name}")
        else:
            yield f"{prefix}/{name}", file


def _wanted(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _unreadable(file: File, error: Exception) -> UserError:
    return UserError(
        f"{file} cannot be read: {error or type(error).__name__}. It may be damaged or not fully "
        "downloaded: fetch it again, or unpack the archive and give the folder."
    )


class _Zip:
    """An open zip."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._zip = stream, zipfile.ZipFile(stream)
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        self.members = {info.filename.replace("\\", "/"): info for info in infos}

    def read(self, name: str) -> bytes:
        return self._zip.read(self.members[name])  # checks the checksum

    def open(self, name: str) -> BinaryIO:
        info = self.members[name]
        self._stream.seek(info.header_offset)
        header = self._stream.read(30)
        name_length, extra_length = header[26:28], header[28:30]
        start = info.header_offset + 30
        start += int.from_bytes(name_length, "little") + int.from_bytes(extra_length, "little")
        if info.compress_type == zipfile.ZIP_STORED:
            return io.BufferedReader(_Window(self._stream, start, info.file_size))
        if info.compress_type == zipfile.ZIP_DEFLATED:
            return io.BufferedReader(_Inflated(self._stream, start, -15, info.file_size))
        return io.BytesIO(self.read(name))


class _Tar:
    """An open tar."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._tar = stream, tarfile.open(fileobj=stream, mode="r:")
        infos = [info for info in self._tar.getmembers() if info.isfile()]
        self.members = {info.name.removeprefix("./"): info for info in infos}

    def read(self, name: str) -> bytes:
        content = self.open(name).read()
        if len(content) != self.members[name].size:
            raise EOFError("the archive ends too early")
        return content

    def open(self, name: str) -> BinaryIO:
        info = self.members[name]
        return io.BufferedReader(_Window(self._stream, info.offset_data, info.size))


def _opened(archive: File) -> _Zip | _Tar:
    # Streams have a position, which neither threads nor forked processes can share.
    return _opened_here(archive, os.getpid(), threading.get_ident())


@functools.lru_cache(maxsize=32)
def _opened_here(archive: File, _process: int, _thread: int) -> _Zip | _Tar:
    stream = archive.open()
    try:
        if str(archive).lower().endswith(_ZIPS):
            return _Zip(stream)
        if stream.read(2) == b"\x1f\x8b":
            stream = io.BufferedReader(_Inflated(stream, 0, 31))
        stream.seek(0)
        return _Tar(stream)
    except _DAMAGE as error:
        raise _unreadable(archive, error) from error


class _Window(io.RawIOBase):
    """A stretch of another stream as a stream of its own."""

    def __init__(self, stream: BinaryIO, start: int, size: int):
        self._stream, self._start, self._size, self._position = stream, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer) -> int:
        self._stream.seek(self._start + self._position)
        data = self._stream.read(max(min(len(buffer), self._size - self._position), 0))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Inflated(io.RawIOBase):
    """Random access to what a deflated stretch of a stream holds.

    Inflating can only go forward, so copies of the inflater (some 40 KB each) are kept at points
    on the way; a jump starts at the last point before its target.
    """

    def __init__(self, stream: BinaryIO, start: int, wbits: int, size: int | None = None):
        """`wbits` is that of zlib: -15 for a member of a zip, 31 for gzip."""
        self._stream, self._wbits, self._size, self._position = stream, wbits, size, 0
        self._points = [(0, start, zlib.decompressobj(wbits))]
        self._go_to_point(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._size is None:
            raise io.UnsupportedOperation("the end of a gzip stream is not known")
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer) -> int:
        point = bisect.bisect_right(self._points, self._position, key=lambda p: p[0]) - 1
        if self._position < self._begin or self._points[point][0] > self._end():
            self._go_to_point(point)
        while self._position >= self._end():
            if not self._inflate():
                return 0
        first = self._position - self._begin
        data = self._content[first : first + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _end(self) -> int:
        return self._begin + len(self._content)

    def _go_to_point(self, index: int) -> None:
        self._begin, self._next, inflater = self._points[index]
        self._content, self._inflater = b"", inflater.copy()

    def _inflate(self) -> bool:
        """Replaces the content at hand by what follows it; False where nothing does."""
        if self._inflater.eof:
            # A gzip file may be several of them in a row.
            self._next -= len(self._inflater.unused_data)
            self._stream.seek(self._next)
            if self._wbits < 0 or self._stream.read(2) != b"\x1f\x8b":
                return False
            self._inflater = zlib.decompressobj(self._wbits)
        self._stream.seek(self._next)
        data = self._stream.read(_PIECE)
        if not data:
            raise EOFError("the archive ends too early")
        self._begin, self._content = self._end(), self._inflater.decompress(data)
        self._next += len(data)
        if self._end() - self._points[-1][0] >= _SPACING:
            self._points.append((self._end(), self._next, self._inflater.copy()))
        return True

"""Tars of samples, as webdataset writes and reads them: the pictures among their members."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ...errors import escaped, shown
from ..listing import HEIC, PICTURE, kind_of
from ..sources import SourceError
from .outlines import UnitName
from .protocol import Content, Entry, Place, Stamp
from .stores import DISK, NANOSECONDS, Unreachable, no_stamp, unreadable
from .units import Broken, File, Unit

# Pictures of a unit: to enter a tar anywhere, so many headers at most are read again; of a tar behind an address so
# many pictures are held.
BLOCK = 64
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


@dataclass(frozen=True)
class Member:
    """A picture in a tar, read when it is called; fails with a `SourceError`."""

    path: str
    key: str
    offset: int
    size: int

    def __call__(self) -> bytes:
        try:
            with DISK.open(self.path) as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if len(content) < self.size:
            raise SourceError(_ends_early(self.path, self.key))
        return content


@dataclass(frozen=True)
class Block:
    """Members that follow each other, and what is wrong with the tar behind the last of them."""

    name: UnitName
    members: list[tuple[str, Content, Stamp]]  # key, content, size and time
    error: SourceError | None

    @property
    def rows(self) -> int:
        return len(self.members) + (self.error is not None)

    def entries(self, row: int) -> Iterator[Entry]:
        unit = str(self.name)
        for index in range(row, len(self.members)):
            key, content, stamp = self.members[index]
            yield Entry(key, Place(unit, index), content, lambda stamp=stamp: stamp)  # type: ignore[misc]
        if self.error is not None and row <= len(self.members):
            yield Entry(self.name.path, Place(unit, len(self.members)), self.error, no_stamp)


def units(file: File, start: UnitName | None) -> Iterator[Unit]:
    """The blocks of a tar, from one on.

    Raises:
        SourceError: The tar is not what it was, or cannot be read to its end.
    """
    if not file.is_due():
        return
    path = file.name.path
    at: int | None = 0 if start is None else start.at
    try:
        stream = file.store.open(path)
    except Unreachable as error:
        raise unreadable(path, error) from error
    except OSError as error:
        yield Broken(file.name, unreadable(path, error))
        return
    with stream:
        while at is not None:
            try:
                block, at = _block(stream, file, at)
            except OSError as error:
                raise unreadable(path, error) from error
            if block.rows:
                yield block


def _block(stream: BinaryIO, file: File, at: int) -> tuple[Block, int | None]:
    """The block that begins at a byte, and where the next one does."""
    path = file.name.path
    members: list[tuple[str, Content, Stamp]] = []
    heic = 0
    size = file.memory.known[file.name.key][0]

    def block(problem: str = "") -> Block:
        error = SourceError(f"{shown(path)}: {problem}") if problem else None
        file.memory.passed.add(HEIC, f"{path}:{at}", heic)
        return Block(file.unit(at), members, error)

    stream.seek(at)
    try:
        archive = tarfile.TarFile(fileobj=stream)  # which reads a header, and says what is no tar
    except tarfile.TarError:
        return block(_no_tar(stream, at)), None
    archive.offset = at
    while len(members) < BLOCK:
        stream.seek(archive.offset)
        try:
            info = tarfile.TarInfo.fromtarfile(archive)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            return block(), None
        except tarfile.TruncatedHeaderError:  # type: ignore[attr-defined]
            return block(f"the tar ends early, at byte {archive.offset:,}; what is before it is read"), None
        except tarfile.HeaderError:
            return block(f"the tar is damaged at byte {archive.offset:,}; what is behind it is not read"), None
        if info.offset_data + info.size > size:
            return block(f"the tar ends early, in {shown(info.name)}; what is before it is read"), None
        kind = _kind(info)
        if kind == PICTURE:
            stamp = (info.size, int(info.mtime * NANOSECONDS))
            content: Content = Member(path, key_of(info.name), info.offset_data, info.size)
            if file.is_read and file.store is not DISK:  # on the way, from front to back
                stream.seek(info.offset_data)
                content = stream.read(info.size)
            members.append((key_of(info.name), content, stamp))
        elif kind == HEIC:
            heic += 1
    return block(), archive.offset


def _kind(info: tarfile.TarInfo) -> str:
    parts = info.name.removeprefix("./").split("/")
    is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return kind_of(parts[-1]) if info.isreg() and not is_hidden else ""


def key_of(name: str) -> str:
    """What webdataset calls a sample: the path of its members up to the first point in their name."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    return escaped(folder + slash + last.partition(".")[0])


def _no_tar(stream: BinaryIO, at: int) -> str:
    stream.seek(0)
    start = stream.read(2)
    if start in _COMPRESSED:
        return (
            f"the tar is compressed ({_COMPRESSED[start]}); unpack it to a plain .tar, in which pictures can be found"
        )
    return "it is empty" if not start else f"it is no tar, or damaged at byte {at:,}"


def _ends_early(path: str, key: str) -> str:
    return f"{shown(path)}: the tar ends early, in {shown(key)}"


__all__ = ["BLOCK", "key_of", "units"]

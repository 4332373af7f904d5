"""Tars of samples, as webdataset writes and reads them: the pictures among their members."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from ...errors import escaped, one_line, shown
from ...files import unfetched
from ..columns import LABEL_COLUMNS, ColumnChoice
from ..listing import HEIC, PICTURE, kind_of
from ..sources import SourceError
from .outlines import UnitName
from .protocol import Content, Entry, Labeled, Place, Stamp, Teller
from .stores import DISK, NANOSECONDS, Unreachable, no_stamp, unreadable
from .units import Broken, File, Unit

# Pictures of a unit: to enter a tar anywhere, so many headers at most are read again; of a tar behind an address so
# many pictures are held.
BLOCK = 64
# What says the label of a sample, as webdataset has it: .cls, a class's number or name as text; or a .json.
CLASS_MEMBER, JSON_MEMBER = Teller("cls", is_text=True), "json"
MOST_OF_A_LABEL = 1 << 20  # bytes
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
    told: dict[str, tuple[Any, Teller]] | None = None  # what is said of each sample, where that is wanted

    @property
    def rows(self) -> int:
        return len(self.members) + (self.error is not None)

    def entries(self, row: int) -> Iterator[Entry]:
        unit = str(self.name)
        for index in range(row, len(self.members)):
            key, content, stamp = self.members[index]
            look = partial(_the, stamp)
            yield Entry(key, Place(unit, index), content, look, *self._told(key))
        if self.error is not None and row <= len(self.members):
            yield Entry(self.name.path, Place(unit, len(self.members)), self.error, no_stamp)

    def labels(self, row: int) -> Iterator[Labeled]:
        for key, _, _ in self.members[row:]:
            yield Labeled(f"{self.name.path}, {key}", *self._told(key))
        if self.error is not None and row <= len(self.members):
            yield Labeled(self.name.path, None, None)

    def _told(self, key: str) -> tuple[Any, Teller | None]:
        return (None, None) if self.told is None else self.told.get(key, (None, CLASS_MEMBER))


def _the(stamp: Stamp) -> Stamp:
    return stamp


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
    size = file.memory.known[file.name.key][0] or stream.seek(0, os.SEEK_END)  # some servers do not say it

    choice = file.memory.choice
    told: dict[str, tuple[Any, Teller]] | None = None if choice is None else {}

    def block(problem: str = "") -> Block:
        error = SourceError(f"{shown(path)}: {problem}") if problem else None
        file.memory.passed.add(HEIC, f"{path}:{at}", heic)
        return Block(file.unit(at), members, error, told)

    stream.seek(at)
    try:
        archive = tarfile.TarFile(fileobj=stream)  # which reads a header, and says what is no tar
    except tarfile.TarError:
        return block(unfetched(path) or _no_tar(stream, at)), None
    archive.offset = at
    while True:
        begin = archive.offset
        if len(members) >= BLOCK and told is None:
            break
        stream.seek(begin)
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
        if len(members) >= BLOCK and key_of(info.name) != members[-1][0]:  # what is said may stand behind the picture
            return block(), begin
        kind = _kind(info)
        if choice is not None and told is not None and info.isreg():
            stream.seek(info.offset_data)
            found = _label_in(path, info, stream, choice)
            if found is not None and (found[1] == CLASS_MEMBER or key_of(info.name) not in told):
                told[key_of(info.name)] = found
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


def _label_in(path: str, info: tarfile.TarInfo, stream: BinaryIO, choice: ColumnChoice) -> tuple[Any, Teller] | None:
    """What a member of a sample says of it: the text of .cls, or what .json has under the name of such a column.

    Raises:
        SourceError: It is not what its ending says.
    """
    ending = info.name.rpartition("/")[2].partition(".")[2].lower()
    names = [choice.label] if isinstance(choice.label, str) else list(choice.label or ())
    if info.size > MOST_OF_A_LABEL or ending not in (CLASS_MEMBER.name, JSON_MEMBER, *names):
        return None
    text = stream.read(info.size).decode("utf-8", "surrogateescape")
    if ending in names or (ending == CLASS_MEMBER.name and not names):
        return text.strip(), CLASS_MEMBER
    if ending != JSON_MEMBER:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{shown(path)}, {shown(info.name)}: not JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        return content, Teller(JSON_MEMBER)
    for name in names or (CLASS_MEMBER.name, *LABEL_COLUMNS):
        if name in content:
            return content[name], Teller(name)
    return None


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

"""Where files lie: the disk, or what fsspec reaches by an address."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Any, BinaryIO, Literal, Protocol, cast

from ...errors import one_line, shown
from ...files import MARKS
from ..listing import FOLDER, HEIC, HIDDEN, OURS, SYSTEM, SYSTEM_FOLDERS, Passed, classified, kind_of
from ..sources import SourceError
from .packing import FIELD
from .protocol import Content, Stamp

ADDRESS = "://"
# What fsspec needs beside itself is in extras of its own, by how an address begins.
FSSPEC_EXTRAS = {
    **{"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"},
    **{"abfs": "abfs", "abfss": "abfs", "az": "abfs", "sftp": "sftp", "ssh": "sftp", "smb": "smb"},
}
# A connection that breaks once in a million pictures is no reason to lose one. The packages of stores other than these
# try again by themselves.
SERVERS = ("http://", "https://")
TRIES = 3
FIRST_PAUSE = 0.5  # seconds; twice as long after each try
# Of a file that is read from front to back over a network, what is fetched at once.
FETCHED_AT_ONCE = 1 << 20
# What is taken of that at a time.
BUFFER_BYTES = 1 << 16
# Of a file that a server gives as a whole alone, what is held in memory.
HELD_BYTES = 1 << 26
NANOSECONDS = 10**9
# How stores call what differs with the content of a file; and the time at which it came, which many keep by the second
# alone.
_TAGS = ("ETag", "etag", "md5Hash")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


class Store(Protocol):
    """A kind of place for files. What it raises is an `OSError` or a `SourceError`."""

    def kind(self, path: str) -> Literal["folder", "file", None]:
        """What lies there."""

    def scan(self, folder: str, passed: Passed, is_named: bool) -> Iterator[tuple[str, bytes]]:
        """What lies in a folder, in no order, with the kinds of `listing.classified`.

        Args:
            folder: Its path.
            passed: Where to count what is passed over.
            is_named: Whether it is to be looked into even though this package wrote it.

        Yields:
            The kind and the record of each file and folder.
        """

    def time(self, folder: str) -> int:
        """When something was last added to a folder or taken out of it, in nanoseconds; 0 where nobody knows."""

    def stamp(self, path: str) -> Stamp | None:
        """A file's size and time, None where it is not there."""

    def came(self, folder: str, record: bytes) -> int:
        """When a file came to lie in a folder or was last touched."""

    def open(self, path: str) -> BinaryIO:
        """A file to read and to seek in."""

    def content(self, path: str) -> Content:
        """A picture, to be read later."""

    def join(self, folder: str, name: bytes) -> str:
        """The path of what lies in a folder."""

    def parts(self, base: str, path: str) -> list[bytes]:
        """The names on the way from a folder to what lies below it."""


class Disk:
    """Files of this machine."""

    def kind(self, path: str) -> Literal["folder", "file", None]:
        if os.path.isdir(path):
            return "folder"
        return "file" if os.path.lexists(path) else None

    def scan(self, folder: str, passed: Passed, is_named: bool) -> Iterator[tuple[str, bytes]]:
        for entry, kind in classified(folder, passed):
            yield kind, os.fsencode(entry.name)

    def time(self, folder: str) -> int:
        return os.stat(folder).st_mtime_ns

    def stamp(self, path: str) -> Stamp | None:
        return stamp_on_disk(path)

    def came(self, folder: str, record: bytes) -> int:
        return os.stat(self.join(folder, record)).st_ctime_ns

    def open(self, path: str) -> BinaryIO:
        # A pipe would wait until somebody writes to it, and nothing can be read of it twice.
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise OSError(errno.EINVAL, "is a pipe, socket or device", path)
        return open(path, "rb")

    def content(self, path: str) -> Content:
        return path

    def join(self, folder: str, name: bytes) -> str:
        return os.path.join(folder, os.fsdecode(name))

    def parts(self, base: str, path: str) -> list[bytes]:
        rest = path[len(base) :] if base else path
        return [os.fsencode(part) for part in rest.split(os.sep) if part]


class Remote:
    """Files behind an address that fsspec knows. Its records have the size and the time of files."""

    def kind(self, path: str) -> Literal["folder", "file", None]:
        files, inner = filesystem(path)
        try:
            info = asked(path, files.info, inner)
        except FileNotFoundError:
            return None
        # A web server has pages and no folders.
        is_folder = path.endswith("/") if path.startswith(SERVERS) else info["type"] == "directory"
        return "folder" if is_folder else "file"

    def scan(self, folder: str, passed: Passed, is_named: bool) -> Iterator[tuple[str, bytes]]:
        files, inner = filesystem(folder)
        files.invalidate_cache()  # what was listed earlier may have changed, and is not to be held
        infos = asked(folder, files.ls, inner, detail=True)
        files.invalidate_cache()
        found = [(_last_name(info["name"]), info) for info in infos if _is_inside(info["name"], inner)]
        if not is_named and any(name in MARKS for name, _ in found):
            passed.add(OURS, folder)
            return
        hidden = 0
        for name, info in found:
            kind = kind_of(name)
            path = self.join(folder, name.encode())
            if kind == HIDDEN:
                hidden += 1
            elif info["type"] == "directory":
                if name in SYSTEM_FOLDERS:
                    passed.add(SYSTEM, path)
                else:
                    yield FOLDER, name.encode()
            elif kind == HEIC:
                passed.add(HEIC, path)
            elif name not in MARKS:
                size, moment = _stamp_in(info)
                yield kind, b"%b%b%d%b%d" % (name.encode(), FIELD, size, FIELD, moment)
        passed.add(HIDDEN, folder, hidden)

    def time(self, folder: str) -> int:
        return 0

    def stamp(self, path: str) -> Stamp | None:
        files, inner = filesystem(path)
        try:
            return _stamp_in(asked(path, files.info, inner))
        except FileNotFoundError:
            return None

    def came(self, folder: str, record: bytes) -> int:
        return stamp_in(record)[1]

    def open(self, path: str) -> BinaryIO:
        files, inner = filesystem(path)
        file = asked(path, files.open, inner, "rb", block_size=FETCHED_AT_ONCE, cache_type="readahead")
        if path.startswith(SERVERS) and not _gives_parts(file):
            return asked(path, _copy, files, inner)
        return cast("BinaryIO", io.BufferedReader(_Asked(path, file), BUFFER_BYTES))

    def content(self, path: str) -> Content:
        return Fetch(path)

    def join(self, folder: str, name: bytes) -> str:
        return f"{folder.rstrip('/')}/{name.decode()}"

    def parts(self, base: str, path: str) -> list[bytes]:
        return [part.encode() for part in path[len(base) :].split("/") if part]


DISK, REMOTE = Disk(), Remote()


class Unreachable(OSError):
    """A store that does not answer, which says nothing of the file; the message names it."""


def unreadable(path: str, error: OSError) -> SourceError:
    """What to say of a file that cannot be read."""
    if isinstance(error, Unreachable):
        return SourceError(str(error))
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{shown(path)}: no such file")
    return SourceError(f"{shown(path)}: cannot be read: {error.strerror or one_line(error)}")


@dataclass(frozen=True)
class Fetch:
    """What gives the content of a file behind an address when it is called."""

    path: str

    def __call__(self) -> bytes:
        files, inner = filesystem(self.path)
        try:
            return asked(self.path, files.cat_file, inner)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such file", self.path) from error
        except OSError as error:
            raise unreadable(self.path, error) from error


def is_address(name: str) -> bool:
    """Whether a name is for fsspec to read."""
    return ADDRESS in name and not name.startswith("file://")


def store_of(name: str) -> Store:
    """Where a name leads to."""
    return REMOTE if is_address(name) else DISK


def stamp_in(record: bytes) -> Stamp:
    """The size and the time in a record of a store that tells them."""
    _, size, moment = record.rsplit(FIELD, 2)
    return int(size), int(moment)


def looks(store: Store, path: str, record: bytes) -> Callable[[], Stamp | None]:
    """What looks up the stamp of a file where that costs nothing: on the disk, or where its record has it."""
    if store is DISK:
        return partial(stamp_on_disk, path)
    return partial(stamp_in, record) if FIELD in record else no_stamp


def no_stamp() -> None:
    """Of what is no file."""


def stamp_on_disk(path: str) -> Stamp | None:
    """See `Store.stamp`."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def filesystem(path: str) -> tuple[Any, str]:
    """What reaches an address, and how it calls it.

    Raises:
        SourceError: There is no such thing, or a package is missing.
    """
    kind = path.partition(ADDRESS)[0].rpartition("::")[2]
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(path)
    except ImportError as error:
        extra = FSSPEC_EXTRAS.get(kind)
        packages = f"fsspec[{extra}]" if extra else "vit-hybrid[predict]"
        raise SourceError(
            f"{shown(path)}: reading {kind}{ADDRESS} needs a package that is not installed here ({one_line(error)}); "
            f"pip install '{packages}'"
        ) from error
    except ValueError as error:
        raise SourceError(f"{shown(path)}: {one_line(error)}") from error


def asked(path: str, question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a store answers, asked again where a server's connection breaks.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It says that it may not be read.
        Unreachable: It does not answer.
    """
    tries = TRIES if path.startswith(SERVERS) else 1
    for attempt in range(tries):
        try:
            return question(*arguments, **options)
        except Exception as error:  # every library has its own
            if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError) and (
                not isinstance(error.__cause__, OSError)  # a connection that fsspec takes for a missing file
            ):
                raise
            if attempt == tries - 1:
                raise Unreachable(f"{shown(path)}: cannot be fetched: {one_line(error.__cause__ or error)}") from error
            time.sleep(FIRST_PAUSE * 2**attempt)
    raise AssertionError("not reached")


class _Asked(io.RawIOBase):
    """A file of a store, which is asked again where its connection breaks."""

    def __init__(self, path: str, file: Any) -> None:
        self._path = path
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = asked(self._path, self._file.read, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def _gives_parts(file: Any) -> bool:
    """Whether a server gives parts of a file: some give it as a whole alone, or do not say how large it is."""
    if not file.size:
        return False
    try:
        file.seek(file.size - 1)
        file.read(1)
        file.seek(0)
    except (ValueError, OSError):
        return False
    return True


def _copy(files: Any, path: str) -> BinaryIO:
    """A file's content, on the disk if it is large."""
    copy = tempfile.SpooledTemporaryFile(HELD_BYTES)  # noqa: SIM115 - the caller closes it
    with files.open(path, "rb", block_size=0) as file:
        shutil.copyfileobj(file, copy)
    copy.seek(0)
    return cast("BinaryIO", copy)


def _last_name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _is_inside(path: str, folder: str) -> bool:
    """Whether what a store lists lies in the folder: some list the folder itself, pages link to anything."""
    path, folder = path.rstrip("/"), folder.rstrip("/")
    return path.rpartition("/")[0].lstrip("/") == folder.lstrip("/") and "?" not in _last_name(path)


def _stamp_in(info: Mapping[str, Any]) -> Stamp:
    size = int(info.get("size") or 0)
    tag = next((info[key] for key in _TAGS if info.get(key)), None)
    if tag is not None:
        return size, int.from_bytes(blake2b(str(tag).encode(), digest_size=7).digest())
    moment = next((info[key] for key in _TIMES if info.get(key)), 0)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        moment = moment.timestamp()
    return size, int(moment * NANOSECONDS)


__all__ = [
    *("DISK", "REMOTE", "Disk", "Fetch", "Remote", "Store", "Unreachable", "asked", "filesystem", "is_address"),
    *("looks", "no_stamp", "stamp_in", "stamp_on_disk", "store_of", "unreadable"),
]

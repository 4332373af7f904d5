"""Where parts lie: a folder, or an object store behind an address. What is written is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..errors import one_line, shown
from ..files import MARK_AMONG_ROWS, explaining_room, mark, replacing

# What is in front of an address that fsspec opens.
SCHEME = "://"


class PlaceError(ValueError):
    """A place that cannot be read or written; the message is one line that names it."""


class Folder(Protocol):
    """Files by name, in one place. May be pickled."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    def names(self) -> list[str]:
        """What lies in it, sorted; empty where it is not there."""
        ...

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: It is not there.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, whole, in the place of one of that name.

        Raises:
            NoRoom: There is no room for it.
            OSError: It cannot be written.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        ...

    def reading(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file, opened to be read piece by piece.

        Raises:
            FileNotFoundError: It is not there.
        """
        ...

    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file to be written piece by piece, which is there once the block has ended without an error."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Removes files."""
        ...


class LocalFolder:
    """A folder of this machine, or of a file system that all workers see."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with self.writing(name) as file:
            file.write(content)

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def reading(self, name: str) -> AbstractContextManager[BinaryIO]:
        return open(self.path / name, "rb")

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        with replacing(self.path / name) as unfinished, open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        flush_folder(self.path)

    def append(self, name: str, content: bytes) -> None:
        """Adds to the end of a file, and waits until it is on the disk."""
        with explaining_room(self.path), open(self.path / name, "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def make(self) -> None:
        """Makes the folder and marks it as one of results."""
        self.path.mkdir(parents=True, exist_ok=True)
        mark(self.path, name=MARK_AMONG_ROWS)


class RemoteFolder:
    """A prefix of an object store, or whatever else fsspec opens. A file is written by one request.

    Args:
        url: Its address.

    Raises:
        PlaceError: What the address needs is not installed, or it cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url if url.endswith(SCHEME) else url.rstrip("/")  # of which the root ends in slashes
        try:
            self._opened()
        except (ImportError, ValueError) as error:
            raise PlaceError(f"{shown(url)}: this address cannot be opened: {one_line(error)}") from error

    @property
    def name(self) -> str:
        return self.url

    def names(self) -> list[str]:
        files, path = self._opened()
        files.invalidate_cache()
        try:
            return sorted(one.rstrip("/").rpartition("/")[2] for one in files.ls(path, detail=False))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        files, path = self._opened()
        return files.cat_file(f"{path}/{name}")

    def write(self, name: str, content: bytes) -> None:
        files, path = self._opened()
        try:
            files.pipe_file(f"{path}/{name}", content)
        except NotImplementedError as error:
            raise PlaceError(f"{shown(self.url)}: nothing can be written there.") from error

    def has(self, name: str) -> bool:
        files, path = self._opened()
        files.invalidate_cache()
        return files.exists(f"{path}/{name}")

    def reading(self, name: str) -> AbstractContextManager[BinaryIO]:
        files, path = self._opened()
        return files.open(f"{path}/{name}", "rb")

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        files, path = self._opened()
        # Closed by an error, a file would be there as far as it came; a transaction discards it.
        with files.transaction, files.open(f"{path}/{name}", "wb") as file:
            yield file

    def remove(self, names: Iterable[str]) -> None:
        files, path = self._opened()
        for name in names:
            with suppress(FileNotFoundError):
                files.rm_file(f"{path}/{name}")

    def _opened(self) -> tuple[Any, str]:
        # fsspec keeps what it opened; it is asked each time, as what it gives cannot always be pickled.
        from fsspec.core import url_to_fs

        files, path = url_to_fs(self.url)
        return files, path.rstrip("/")


def folder(name: str) -> LocalFolder | RemoteFolder:
    """The folder of that path or address."""
    if SCHEME not in name:
        return LocalFolder(os.path.expanduser(name))
    if name.startswith("file://"):
        return LocalFolder(name.removeprefix("file://"))
    return RemoteFolder(name)


def flush_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = ["Folder", "LocalFolder", "PlaceError", "RemoteFolder", "flush_folder", "folder"]

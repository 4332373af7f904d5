"""Lines that are only ever added, each on the disk before the next: in a file, or in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

from .places import LocalFolder, RemoteFolder, flush_folder

# To what lies in an object store nothing can be added: lines come in files of so many, the last written anew.
LINES_A_FILE = 64


class Lines(Protocol):
    """Lines, in one place."""

    @property
    def name(self) -> str:
        """What to call them."""
        ...

    def is_there(self) -> bool:
        """Whether any were written."""
        ...

    def read(self) -> Iterator[bytes]:
        """All of them, each with its end; a last one that was left half written is not among them."""
        ...

    def add(self, line: bytes) -> None:
        """Adds a line, with its end, and waits until it is kept.

        Raises:
            OSError: It cannot be.
        """
        ...

    def remove(self) -> None:
        """Takes all away."""
        ...


class LocalLines:
    """A file of lines.

    Args:
        folder: Where it lies.
        file: Its name.
    """

    def __init__(self, folder: LocalFolder, file: str) -> None:
        self._folder = folder
        self._file = file
        self._path = folder.path / file

    @property
    def name(self) -> str:
        return str(self._path)

    def is_there(self) -> bool:
        return self._folder.has(self._file)

    def read(self) -> Iterator[bytes]:
        whole = 0
        with open(self._path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                yield line
        if whole < self._path.stat().st_size:  # so that what is added begins a line
            os.truncate(self._path, whole)

    def add(self, line: bytes) -> None:
        is_new = not self.is_there()
        self._folder.append(self._file, line)
        if is_new:
            flush_folder(self._folder.path)

    def remove(self) -> None:
        self._folder.remove([self._file])


class RemoteLines:
    """Files of lines in an object store.

    Args:
        folder: Where they lie.
        start: What their names begin with; a number follows.
    """

    def __init__(self, folder: RemoteFolder, start: str) -> None:
        self._folder = folder
        self._start = f"{start}."
        self._files = 0
        self._last: list[bytes] = []

    @property
    def name(self) -> str:
        return f"{self._folder.name}/{self._start}*"

    def is_there(self) -> bool:
        return bool(self._names())

    def read(self) -> Iterator[bytes]:
        self._files, self._last = 0, []
        for name in self._names():
            self._last = self._folder.read(name).splitlines(keepends=True)
            self._files += 1
            yield from self._last

    def add(self, line: bytes) -> None:
        if not self._files or len(self._last) >= LINES_A_FILE:
            self._last = []
            self._files += 1
        self._last.append(line)
        self._folder.write(f"{self._start}{self._files - 1:06d}", b"".join(self._last))

    def remove(self) -> None:
        self._folder.remove(self._names())
        self._files, self._last = 0, []

    def _names(self) -> list[str]:
        return [name for name in self._folder.names() if name.startswith(self._start)]


def lines(folder: LocalFolder | RemoteFolder, name: str) -> Lines:
    """The lines of that name in a folder."""
    return LocalLines(folder, name) if isinstance(folder, LocalFolder) else RemoteLines(folder, name)


__all__ = ["LINES_A_FILE", "Lines", "LocalLines", "RemoteLines", "lines"]

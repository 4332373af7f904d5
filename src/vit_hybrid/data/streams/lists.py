"""Text files that name pictures: a path a line, or CSV and TSV with a column of paths. Read as a stream of blocks."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from ...errors import LFS_POINTER, UNFETCHED, one_line, shown
from ..columns import ColumnChoice, choose_columns, picture_column, split_column
from ..sources import SourceError
from ..tables import CSV_SUFFIXES, HEAD_BYTES, Head, head_of, in_utf8
from ..targets import DataError
from .outlines import Differs, UnitName
from .parquet import beside
from .protocol import Entry, Labeled, Place, Teller
from .stores import Unreachable, looks, no_stamp, store_of, unreadable
from .units import Broken, File, Unit

# Rows of a unit: to enter a list anywhere, so many at most are read again.
BLOCK = 4096
# Of the end of a list, by which what stood in it is known again where more was written behind it.
TAIL_BYTES = 1 << 16
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Lines:
    """A block of rows."""

    name: UnitName
    cells: list[tuple[str, str, Any]]  # a path, where it stands, and its label where labels are wanted
    teller: Teller | None = None

    @property
    def rows(self) -> int:
        return len(self.cells)

    def entries(self, row: int) -> Iterator[Entry]:
        table = self.name.path
        for index in range(row, len(self.cells)):
            cell, where, label = self.cells[index]
            place = Place(str(self.name), index)
            if not cell or "\0" in cell:
                yield Entry(f"{table}#{where}", place, SourceError(f"{shown(table)}, {where}: no path in it"), no_stamp)
                continue
            path = beside(table, cell)
            store = store_of(path)
            yield Entry(path, place, store.content(path), looks(store, path, b""), label, self.teller)

    def labels(self, row: int) -> Iterator[Labeled]:
        table = self.name.path
        for cell, where, label in self.cells[row:]:
            is_path = bool(cell) and "\0" not in cell
            yield Labeled(f"{table}, {where}", label, self.teller if is_path else None)


def units(file: File, start: UnitName | None) -> Iterator[Unit]:
    """The blocks of a list, from one on.

    Raises:
        SourceError: The list is not what it was, or cannot be read to its end.
    """
    path = file.name.path
    stream: BinaryIO | None = None
    try:
        stream = _open(file)
        with stream:
            span = _span(file, stream)
            if span is None:
                return
            first, end = span
            reading = _Reading(path, stream, end, file.memory.choice)
            at = reading.start if first == 0 else first
            if start is not None:
                at = start.at
            while at < end:
                cells, following = reading.block(at)
                if cells:
                    yield Lines(file.unit(at), cells, reading.teller)
                at = following
    except DataError as error:
        yield Broken(file.name, SourceError(str(error)))
    except OSError as error:
        if stream is not None or isinstance(error, Unreachable):
            raise unreadable(path, error) from error
        yield Broken(file.name, unreadable(path, error))


def has_grown(file: File) -> bool:
    """Whether more was written behind what the outline has of a list.

    Raises:
        Differs: The list is not what it was.
    """
    value = file.memory.known[file.name.key]
    if list(file.stamp()) == value[:2]:
        return False
    try:
        with _open(file) as stream:
            _check(file, stream, value[-1])
            return _size(stream) > value[-1][-1][1]
    except FileNotFoundError as error:
        raise Differs("vanished", f"{shown(file.name.path)}: it is gone") from error


def _span(file: File, stream: BinaryIO) -> tuple[int, int] | None:
    """The bytes of a list that are for this pass; None where none are."""
    memory, name = file.memory, file.name
    value = memory.known.get(name.key)
    spans: list[list[Any]] = [] if value is None else value[-1]
    if value is not None:
        if list(file.stamp()) != value[:2]:
            _check(file, stream, spans)
        for index, (number, end, _) in enumerate(spans):
            if number == name.number:
                return spans[index - 1][1] if index else 0, end
        if memory.is_current(name.key):
            return None
    if not memory.belongs(name.number, name.source, file.position):
        return None
    begin, end = spans[-1][1] if spans else 0, _size(stream)
    if spans and end == begin:
        return None
    memory.record(name.key, [*file.stamp(), [*spans, [name.number, end, _tail(stream, end)]]])
    return begin, end


def _check(file: File, stream: BinaryIO, spans: list[list[Any]]) -> None:
    size = _size(stream)
    for _, end, digest in spans:
        if end > size or _tail(stream, end) != digest:
            raise Differs("changed", f"{shown(file.name.path)}: what stood in it was changed")
    end = spans[-1][1]
    stream.seek(max(0, end - 1))
    if size > end > 0 and stream.read(1) != b"\n":
        raise Differs("changed", f"{shown(file.name.path)}: something was added to its last line")


def _tail(stream: BinaryIO, end: int) -> str:
    stream.seek(max(0, end - TAIL_BYTES))
    return hashlib.blake2b(stream.read(min(end, TAIL_BYTES)), digest_size=DIGEST_BYTES).hexdigest()


def _size(stream: BinaryIO) -> int:
    return stream.seek(0, os.SEEK_END)


def _open(file: File) -> BinaryIO:
    """A list in UTF-8. One in another encoding is held in memory."""
    stream = file.store.open(file.name.path)
    start = stream.read(len(LFS_POINTER))
    stream.seek(0)
    if start == LFS_POINTER:
        stream.close()
        raise DataError(f"{shown(file.name.path)}: {UNFETCHED}")
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        with stream:
            return io.BytesIO(in_utf8(file.name.path, stream.read()) or b"")
    return stream


class _Reading:
    """A list as it is read.

    Attributes:
        start: The byte at which its rows begin.
        teller: What says the labels, where they are wanted.

    Raises:
        DataError: It has no such columns.
    """

    def __init__(self, path: str, stream: BinaryIO, end: int, choice: ColumnChoice | None = None) -> None:
        self._path = path
        self._stream = stream
        self._end = end
        self._delimiter = ""
        self._labels: list[int] = []
        self.teller: Teller | None = None
        stream.seek(0)
        self.start = len(codecs.BOM_UTF8) if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        if not path.lower().endswith(CSV_SUFFIXES):
            if choice is not None:
                raise DataError(f"{shown(path)}: a list of paths; expected CSV or TSV with a column of labels, too")
            return
        stream.seek(0)
        beginning = stream.read(HEAD_BYTES)
        head = head_of(path, beginning, is_cut=len(beginning) == HEAD_BYTES)
        kinds = dict.fromkeys(head.columns, "text")
        self._delimiter = head.delimiter
        self._width = len(head.columns)
        image = picture_column(path, kinds, None if choice is None else choice.image, head.first.__getitem__)
        self._column = head.columns.index(image)
        if choice is not None:
            self._find_labels(path, head, kinds, choice)
        if head.is_told:
            stream.seek(self.start)
            self.start += len(stream.readline())
        [(_, self.start)] = islice(self._rows(self.start), 1)

    def _find_labels(self, path: str, head: Head, kinds: dict[str, str], choice: ColumnChoice) -> None:
        if (splits := split_column(head.first)) is not None:
            raise DataError(
                f"{shown(path)}: its column {shown(splits)} names splits, which are told apart in one file here alone; "
                "expected a table of the pictures to measure on"
            )
        columns = choose_columns(path, kinds, choice, head.first.__getitem__)
        self._labels = [head.columns.index(name) for name in columns.labels]
        parts = columns.labels if len(columns.labels) > 1 else None
        self.teller = Teller(", ".join(columns.labels), None, True, parts, columns.are_switches)

    def _label(self, row: list[str]) -> Any:
        cells = [row[place] if place < len(row) else "" for place in self._labels]
        return cells if len(cells) != 1 else cells[0]

    def block(self, at: int) -> tuple[list[tuple[str, str, Any]], int]:
        """The rows that begin at a byte, each a path, where it stands and its label, and where the next ones do."""
        cells: list[tuple[str, str, Any]] = []
        begin = following = at
        try:
            for row, following in self._rows(at):
                if row:
                    is_there = not self._delimiter or self._column < len(row)
                    cell = row[self._column if self._delimiter else 0] if is_there else ""
                    label = self._label(row) if self.teller else None
                    cells.append((cell.strip() if self._delimiter else cell, f"byte {begin}", label))
                begin = following
                if len(cells) == BLOCK:
                    break
        except csv.Error as error:
            cells.append(("", f"byte {begin} ({one_line(error)})", None))
            following = self._end
        return cells, following

    def _rows(self, at: int) -> Iterator[tuple[list[str], int]]:
        """Each row, empty where nothing stands in it, with the byte behind it."""
        self._stream.seek(at)
        if not self._delimiter:
            for line in self._lines(at):
                at += len(line)
                text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
                yield [text] if text.strip() else [], at
            return
        taken = at

        def texts() -> Iterator[str]:
            nonlocal taken
            for line in self._lines(at):
                taken += len(line)
                yield line.decode("utf-8", "surrogateescape")

        for row in csv.reader(texts(), delimiter=self._delimiter, strict=True):
            yield row if any(map(str.strip, row)) else [], taken

    def _lines(self, at: int) -> Iterator[bytes]:
        while at < self._end and (line := self._stream.readline()):
            at += len(line)
            yield line


__all__ = ["BLOCK", "has_grown", "units"]

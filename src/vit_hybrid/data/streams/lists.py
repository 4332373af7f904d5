"""Text files that name pictures: a path a line, CSV and TSV with a column of paths, or JSON Lines with one in each
object. Read as a stream of blocks."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from ...errors import LFS_POINTER, UNFETCHED, one_line, shown
from ..columns import ColumnChoice, Columns, choose_columns, picture_column, split_column
from ..sources import SourceError
from ..tables import CSV_SUFFIXES, HEAD_BYTES, JSON_LINES_SUFFIXES, head_of, in_utf8, rows_of
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
        # Where in a row the path stands, and where the labels do: numbers of cells, or names in an object.
        self._image: Any = 0
        self._labels: Sequence[Any] = ()
        self._is_json = path.lower().endswith(JSON_LINES_SUFFIXES)
        self.teller: Teller | None = None
        stream.seek(0)
        self.start = len(codecs.BOM_UTF8) if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        if self._is_json:
            first = self._first_object()
            columns = self._columns({name: [value] for name, value in first.items()}, choice)
            self._image, self._labels = columns.image, columns.labels
            return
        stream.seek(0)
        beginning = stream.read(HEAD_BYTES)
        if b"\r" in beginning and b"\n" not in beginning:
            raise DataError(f"{shown(path)}: its lines end as on old Macs (CR alone); save it with other line ends")
        if not path.lower().endswith(CSV_SUFFIXES):
            if choice is not None:
                raise DataError(
                    f"{shown(path)}: a list of paths; expected CSV, TSV or JSON Lines with a column of labels, too"
                )
            return
        head = head_of(path, beginning, is_cut=len(beginning) == HEAD_BYTES)
        self._delimiter = head.delimiter
        columns = self._columns({name: head.first[name] for name in head.columns}, choice)
        self._image = head.columns.index(columns.image)
        self._labels = [head.columns.index(name) for name in columns.labels]
        if head.is_told:
            stream.seek(self.start)
            self.start += len(stream.readline())
        try:
            [(_, self.start)] = islice(self._rows(self.start), 1)
        except csv.Error as error:
            raise DataError(f"{shown(path)}: its header is damaged ({one_line(error)})") from error

    def _first_object(self) -> Mapping[str, Any]:
        for line in self._lines_from(self.start):
            if line.strip():
                found = _parsed(line)
                if isinstance(found, dict):
                    return found
                raise DataError(f"{shown(self._path)}: expected one JSON object a line{found}")
        raise DataError(f"{shown(self._path)}: is empty; expected one JSON object a line")

    def _columns(self, first: Mapping[str, Sequence[Any]], choice: ColumnChoice | None) -> Columns:
        """Which columns to read, by their names and the cells of the first row."""
        kinds = dict.fromkeys(first, "text")
        if choice is None:
            return Columns(picture_column(self._path, kinds, None, first.__getitem__), ())
        if (splits := split_column(first)) is not None:
            raise DataError(
                f"{shown(self._path)}: its column {shown(splits)} names splits, which are told apart in one file here "
                "alone; expected a table of the pictures to measure on"
            )
        columns = choose_columns(self._path, kinds, choice, first.__getitem__)
        parts = columns.labels if len(columns.labels) > 1 else None
        self.teller = Teller(", ".join(columns.labels), None, not self._is_json, parts, columns.are_switches)
        return columns

    def block(self, at: int) -> tuple[list[tuple[str, str, Any]], int]:
        """The rows that begin at a byte, each a path, where it stands and its label, and where the next ones do."""
        cells: list[tuple[str, str, Any]] = []
        begin = following = at
        try:
            for row, following in self._objects(at) if self._is_json else self._rows(at):
                if row:
                    path, label, problem = self._told(row)
                    cells.append((path, f"byte {begin}{problem}", label))
                begin = following
                if len(cells) == BLOCK:
                    break
        except csv.Error as error:
            cells.append(("", f"byte {begin} ({one_line(error)})", None))
            following = self._end
        return cells, following

    def _told(self, row: Any) -> tuple[str, Any, str]:
        """The path in a row, its label, and what is the matter with it."""
        if isinstance(row, str):
            return "", None, row
        if isinstance(row, dict):
            path, labels = row.get(self._image), [row.get(name) for name in self._labels]
            path = str(path) if type(path) is int else path  # a number as id
            path = path.strip() if isinstance(path, str) else ""
        else:
            path = row[self._image] if self._image < len(row) else ""
            path = path.strip() if self._delimiter else path
            labels = [row[place] if place < len(row) else "" for place in self._labels]
        return path, None if self.teller is None else labels if len(labels) != 1 else labels[0], ""

    def _objects(self, at: int) -> Iterator[tuple[Any, int]]:
        """What stands in each line: an object, what is the matter with it, or nothing; with the byte behind it."""
        for line in self._lines_from(at):
            at += len(line)
            yield _parsed(line) if line.strip() else None, at

    def _rows(self, at: int) -> Iterator[tuple[list[str], int]]:
        """Each row, empty where nothing stands in it, with the byte behind it."""
        if not self._delimiter:
            for line in self._lines_from(at):
                at += len(line)
                text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
                yield [text] if text.strip() else [], at
            return
        taken = at

        def texts() -> Iterator[str]:
            nonlocal taken
            for line in self._lines_from(at):
                taken += len(line)
                yield line.decode("utf-8", "surrogateescape")

        for row in rows_of(texts(), self._delimiter):
            yield row if any(map(str.strip, row)) else [], taken

    def _lines_from(self, at: int) -> Iterator[bytes]:
        self._stream.seek(at)
        while at < self._end and (line := self._stream.readline()):
            at += len(line)
            yield line


def _parsed(line: bytes) -> dict[str, Any] | str:
    """The object in a line, or what is there instead, to be said behind where it is."""
    try:
        found = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        return f" (not JSON: {one_line(error)})"
    return found if isinstance(found, dict) else f" (not an object, but {type(found).__name__})"


__all__ = ["BLOCK", "has_grown", "units"]

"""What names stand for, and the one order of all that they do."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Protocol

from ...errors import escaped, shown
from ..columns import ColumnChoice
from ..listing import Passed
from ..sources import STANDARD_INPUT, SourceError
from .files import LIST, has_grown, kind_of_file, units_of
from .outlines import END, Differs, Memory, Position, UnitName, unit_name
from .packing import digest_of
from .patterns import Pattern, has_braces, unbraced
from .protocol import Change, Entry, Labeled, Outline, PictureStream, Place, Range
from .stores import ADDRESS, DISK, Store, is_address, looks, store_of, unreadable
from .units import File, Unit
from .walking import FOLDERS, Tree

FILES = "files"


class Root(Protocol):
    """What one name, or several names of pictures, stand for."""

    def empty(self, passed: Passed) -> str:
        """What to say where there is no picture in it."""

    def position(self, kind: str, path: str) -> Position:
        """Where a folder or file of it stands in the walk."""

    def walk(self, memory: Memory, number: int, start: UnitName | None) -> Iterator[Unit | File]:
        """What it has for a pass, from the folder or file of one unit on."""

    def unit(self, memory: Memory, name: UnitName) -> Unit | File:
        """A unit that is known, or the file it lies in."""

    def check(self, memory: Memory, kind: str, path: str) -> bool:
        """Whether a file of the outline has more in it; `Differs` where one or a folder is not what it was."""


@dataclass(frozen=True)
class NamedFile:
    """A tar, a parquet file or a list that was named."""

    index: int
    store: Store
    path: str
    kind: str

    def empty(self, passed: Passed) -> str:
        return f"{shown(self.path)}: no pictures in it"

    def position(self, kind: str, path: str) -> Position:
        return ()

    def walk(self, memory: Memory, number: int, start: UnitName | None) -> Iterator[Unit | File]:
        yield self._file(memory, number)

    def unit(self, memory: Memory, name: UnitName) -> Unit | File:
        return self._file(memory, name.number)

    def check(self, memory: Memory, kind: str, path: str) -> bool:
        return has_grown(self._file(memory, memory.newest))

    def _file(self, memory: Memory, number: int) -> File:
        return File(memory, self.store, UnitName(number, self.index, self.kind, 0, self.path), ())


@dataclass(frozen=True)
class Pictures:
    """Files that were named one after the other, which are pictures whatever they are called."""

    index: int
    paths: list[str]

    def empty(self, passed: Passed) -> str:
        return "no pictures"

    def position(self, kind: str, path: str) -> Position:
        return ()

    def walk(self, memory: Memory, number: int, start: UnitName | None) -> Iterator[Unit | File]:
        name = UnitName(number, self.index, FILES, 0, "")
        known = memory.known.get(name.key)
        if known is None and memory.belongs(number, self.index, ()):
            memory.record(name.key, [[[number, len(self.paths), digest_of(map(os.fsencode, self.paths))]]])
        elif known is None or known[-1][0][0] != number:
            return
        yield PictureBlock(name, self.paths)

    def unit(self, memory: Memory, name: UnitName) -> Unit | File:
        return PictureBlock(name, self.paths)

    def check(self, memory: Memory, kind: str, path: str) -> bool:
        return False  # they were looked for when the stream was opened


@dataclass(frozen=True)
class PictureBlock:
    """The unit of `Pictures`."""

    name: UnitName
    paths: list[str]

    @property
    def rows(self) -> int:
        return len(self.paths)

    def entries(self, row: int) -> Iterator[Entry]:
        for index in range(row, len(self.paths)):
            path = self.paths[index]
            store = store_of(path)
            look = looks(store, path, b"")
            yield Entry(path, Place(str(self.name), index), store.content(path), look, _folder_of(path), FOLDERS)

    def labels(self, row: int) -> Iterator[Labeled]:
        for path in self.paths[row:]:
            yield Labeled(path, _folder_of(path), FOLDERS)


def _folder_of(path: str) -> str | None:
    """The name of the folder that a picture lies in."""
    return escaped(os.path.basename(os.path.dirname(path if is_address(path) else os.path.abspath(path)))) or None


class Stream:
    """See `PictureStream`; what `open_stream` gives.

    Attributes:
        names: As given.
        passed: What was passed over so far, counted.
    """

    def __init__(self, names: Sequence[str], outline: Outline | None, choice: ColumnChoice | None = None) -> None:
        self.names = tuple(names)
        self._roots = list(_roots(self.names))
        self._outlined = [_parts_of_key(key, self._roots) for key in outline or {} if key != END]
        positions = {
            f"{index}:{kind}:{path}": (index, self._roots[index].position(kind, path))
            for index, kind, path in self._outlined
        }
        self._memory = Memory(outline, positions)
        self._memory.choice = choice

    @property
    def passed(self) -> Passed:
        return self._memory.passed

    def entries(self, after: Place | None = None) -> Iterator[Entry]:
        if after is None:
            return chain.from_iterable(unit.entries(0) for unit in self._units(None, is_read=True))
        return islice(self._from(Place(*after)), 1, None)

    def read(self, first: Place, count: int, units: Outline | None = None) -> Iterator[Entry]:
        found = 0
        for entry in islice(self._from(Place(*first), units), count):
            yield entry
            found += 1
        if found < count:
            raise SourceError(f"{shown(unit_name(first[0]).path)}: {count - found:,} of {count:,} pictures are gone")

    def ranges(self, size: int, after: Place | None = None) -> Iterator[Range]:
        first: Place | None = None
        last = Place("", 0)
        rows = 0
        units: Outline = {}
        for unit, row in self._behind(after):
            while row < unit.rows:
                taken = min(size - rows, unit.rows - row)
                if first is None:
                    first = Place(str(unit.name), row)
                row += taken
                rows += taken
                last = Place(str(unit.name), row - 1)
                units[str(unit.name)] = self._memory.known[unit.name.key]
                if rows == size:
                    yield Range(first, last, rows, self._memory.fresh(), units)
                    first, rows, units = None, 0, {}
        if first is not None:
            yield Range(first, last, rows, self._memory.fresh(), units)
        self._memory.finish()

    def labeled_ranges(self, sizes: Iterator[int]) -> Iterator[tuple[Range, list[Labeled]]]:
        first: Place | None = None
        size = next(sizes)
        labels: list[Labeled] = []
        units: Outline = {}
        for unit in self._units(None):
            row, found = 0, unit.labels(0)
            while row < unit.rows:
                taken = min(size - len(labels), unit.rows - row)
                labels += islice(found, taken)
                first = first or Place(str(unit.name), row)
                row += taken
                last = Place(str(unit.name), row - 1)
                units[str(unit.name)] = self._memory.known[unit.name.key]
                if len(labels) == size:
                    yield Range(first, last, size, {}, units), labels
                    first, labels, units, size = None, [], {}, next(sizes)
        if first is not None:
            yield Range(first, last, len(labels), {}, units), labels

    def outline(self) -> Outline:
        return dict(self._memory.known)

    def change(self) -> Change:
        memory = self._memory
        grown = None
        try:
            for index, kind, path in self._outlined:
                if self._roots[index].check(memory, kind, path):
                    grown = path
        except Differs as error:
            return error.change
        # The latest pass that the outline knows may go on, too.
        for number in (memory.newest - 1, memory.newest) if self._outlined else ():
            for root in self._roots:
                for found in root.walk(memory, number, None):
                    is_new = found.is_new() if isinstance(found, File) else memory.is_current(found.name.key)
                    if grown is None and is_new:
                        grown = found.name.path
        return Change("same") if grown is None else Change("grew", f"{shown(grown)}: new pictures")

    def refuse_empty(self) -> None:
        """Finds out whether the sources have pictures.

        Raises:
            SourceError: One has none; or none can be read.
        """
        first_error: SourceError | None = None
        is_good = False
        for root in self._roots:
            if is_good and not isinstance(root, Tree):  # a thousand tars are not opened before the first is read
                continue
            units = self._opened(root.walk(self._memory, 0, None), None, is_read=True)
            unit = next((unit for unit in units if unit.rows), None)
            if unit is None:
                raise SourceError(root.empty(self.passed))
            content = next(unit.entries(0)).content
            if isinstance(content, SourceError):
                first_error = first_error or content
            else:
                is_good = True
        if first_error is not None and not is_good:
            raise first_error

    def _behind(self, place: Place | None) -> Iterator[tuple[Unit, int]]:
        """The units behind a place, each with the row to begin at."""
        if place is None:
            yield from ((unit, 0) for unit in self._units(None))
            return
        unit, row = place
        start = unit_name(unit)
        for found in self._units(start):
            yield found, row + 1 if found.name == start else 0

    def _from(self, place: Place, known: Outline | None = None) -> Iterator[Entry]:
        """The pictures from a place on; in units that are known these alone.

        Raises:
            SourceError: It is gone.
        """
        start = unit_name(place.unit)
        units = self._units(start, is_read=True) if known is None else self._known_units(known)
        first = next(units, None)
        if first is None or first.name != start or first.rows <= place.row:
            raise SourceError(f"{shown(start.path or self.names[0])}: pictures that were in it are gone")
        yield from first.entries(place.row)
        for unit in units:
            yield from unit.entries(0)

    def _known_units(self, known: Outline) -> Iterator[Unit]:
        """Units by their names, each with what the outline says of its folder or file."""
        for text, value in known.items():
            name = unit_name(text)
            self._memory.learn(name.key, value)
            found = self._roots[name.source].unit(self._memory, name)
            yield from islice(self._opened(iter([found]), name, is_read=True), 1)

    def _units(self, start: UnitName | None, is_read: bool = False) -> Iterator[Unit]:
        first = 0 if start is None else start.number
        if start is not None and not (0 <= first <= self._memory.newest and 0 <= start.source < len(self._roots)):
            raise SourceError(f"{shown(start)} is no place in {shown(', '.join(self.names))}")
        for number in range(first, self._memory.newest + 1):
            is_first = start is not None and number == first
            for index in range(start.source if start is not None and is_first else 0, len(self._roots)):
                is_entered = start is not None and is_first and index == start.source
                entry = start if is_entered else None
                yield from self._opened(self._roots[index].walk(self._memory, number, entry), entry, is_read)

    @staticmethod
    def _opened(found: Iterator[Unit | File], start: UnitName | None, is_read: bool) -> Iterator[Unit]:
        """The units in what a walk finds; those of the first file from one on."""
        for place, item in enumerate(found):
            if not isinstance(item, File):
                yield item
            else:
                is_entered = place == 0 and start is not None and item.name.key == start.key
                yield from units_of(replace(item, is_read=is_read), start if is_entered else None)


def open_stream(
    names: Sequence[str], outline: Outline | None = None, choice: ColumnChoice | None = None
) -> PictureStream:
    """The pictures that names stand for, as a stream.

    Args:
        names: Folders, which are walked through all levels; globs, with ** for all levels, and braces as in
            {000..099}; text files with a path in each line, CSV, TSV and JSON Lines with a column of paths, which are
            relative to the file; parquet files with a column of pictures; tars as webdataset has them; pictures. Each
            on this machine, or by an address that fsspec knows.
        outline: What an earlier stream of the same names had found: see `PictureStream`.
        choice: Opens it for labels, too: in which columns they stand, as far as that is said. Of pictures in folders
            the label is the first folder below the name, of those that are named or lie where a glob begins the folder
            that they are in; of a sample of a tar its .cls, or what its .json has under such a name.

    Raises:
        SourceError: A name stands for nothing, or for nothing with a picture in it; or a package is missing.
    """
    if not names:
        raise SourceError("no pictures: name a folder, a file or an address")
    stream = Stream(names, outline, choice)
    if outline is None:
        stream.refuse_empty()
    return stream


def _roots(names: Sequence[str]) -> Iterator[Root]:
    index = 0
    pictures: list[str] = []
    for name in names:
        for root in _meant(name):
            if isinstance(root, str):
                pictures.append(root)
                continue
            if pictures:
                yield Pictures(index, pictures)
                index, pictures = index + 1, []
            store, path, pattern = root
            if pattern is not None:
                yield Tree(index, store, path, pattern)
            else:
                yield NamedFile(index, store, path, kind_of_file(path) or LIST)
            index += 1
    if pictures:
        yield Pictures(index, pictures)


def _meant(name: str) -> Iterator[str | tuple[Store, str, Pattern | None]]:
    """What a name stands for: pictures by their paths, and files or folders."""
    if name == STANDARD_INPUT:
        raise SourceError(
            f"{STANDARD_INPUT}: standard input is one picture, which classify reads; name files or folders"
        )
    name = name.removeprefix("file://")
    store = store_of(name)
    try:
        kind = store.kind(name)
    except OSError as error:
        raise unreadable(name, error) from error
    if kind is None:
        if has_braces(name):
            for place, one in enumerate(unbraced(name)):
                if place and is_address(one) and kind_of_file(one) is not None:  # a thousand need not be asked for
                    yield store_of(one), one, None
                else:
                    yield from _meant(one)
            return
        if glob.has_magic(name):
            yield _glob(name, store)
            return
        raise SourceError(f"{shown(name)}: no such file or folder")
    if kind == "folder":
        yield store, name, Pattern(())
    elif kind_of_file(name) is not None:
        yield store, name, None
    else:
        yield name


def _glob(name: str, store: Store) -> tuple[Store, str, Pattern]:
    separator = "/" if is_address(name) else os.sep
    scheme, mark, rest = name.partition(ADDRESS) if is_address(name) else ("", "", name)
    parts = rest.split(separator)
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    base = scheme + mark + separator.join(parts[:first])
    if store is DISK and not base:
        base = separator if name.startswith(separator) else os.curdir
    return store, base, Pattern(tuple(part for part in parts[first:] if part))


def _parts_of_key(key: str, roots: Sequence[Root]) -> tuple[int, str, str]:
    try:
        index, kind, path = key.split(":", 2)
        if int(index) < len(roots):
            return int(index), kind, path
    except ValueError:
        pass
    raise SourceError(f"the outline is of other sources: it has {shown(key)}")


__all__ = ["Stream", "open_stream"]

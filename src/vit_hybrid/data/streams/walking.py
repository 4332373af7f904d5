"""Folders and globs: a walk through all levels that can begin anywhere and holds the names of one folder at a time."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ...errors import escaped, shown
from ..listing import FOLDER, LINK, OTHER, PICTURE, Passed
from ..sources import SourceError, nothing_in
from .files import LIST, has_grown, kind_of_file
from .outlines import Contents, Differs, Listed, Memory, Position, UnitName, parted
from .packing import Packed, digest_of, name_of, packed
from .patterns import Pattern
from .protocol import CLASS_FOLDER, Entry, Labeled, Place, Teller
from .stores import NANOSECONDS, Store, Unreachable, is_address, looks, unreadable
from .units import Broken, File, Unit

FOLDER_KIND = "folder"
FOLDERS = Teller(CLASS_FOLDER)
# A folder that was written to so short a time ago may be written to again without its time telling.
RECENT = 2 * NANOSECONDS
# In an outline, in the place of the digest of a folder that could not be read, before the reason: it has one row then.
UNREADABLE = "!"

Step: TypeAlias = "tuple[bool, bytes]"
"""A name on the way through a source, and whether it is a folder's."""


@dataclass(frozen=True)
class Folder:
    """The pictures of one folder that are for one pass."""

    name: UnitName
    store: Store
    tree: Tree
    memory: Memory
    rows: int

    def entries(self, row: int) -> Iterator[Entry]:
        unit, path, store = str(self.name), self.name.path, self.store
        for index, record in enumerate(self.tree.pictures(self.memory, self.name).start(row), row):
            place = store.join(path, name_of(record))
            look = looks(store, place, record)
            yield Entry(place, Place(unit, index), store.content(place), look, *self._label())

    def labels(self, row: int) -> Iterator[Labeled]:
        label, teller = self._label()
        for record in self.tree.pictures(self.memory, self.name).start(row):
            yield Labeled(self.store.join(self.name.path, name_of(record)), label, teller)

    def _label(self) -> tuple[str | None, Teller]:
        """What is said of all of them: the first folder on the way to them, or that in which a glob begins."""
        base = self.tree.base
        way = self.store.parts(base, self.name.path)
        if way:
            return escaped(os.fsdecode(way[0])), FOLDERS
        named = base.rstrip("/") if is_address(base) else os.path.abspath(base)
        return (escaped(os.path.basename(named)) or None if self.tree.pattern.parts else None), FOLDERS


class _Found(NamedTuple):
    """What a walk finds in a folder."""

    unit: Unit | None
    files: list[bytes]
    folders: Iterator[bytes]


class Tree:
    """A folder that was named, or a glob.

    Args:
        index: Which source it is.
        store: Where it lies.
        base: The folder in which the walk begins.
        pattern: What is meant below it.
    """

    def __init__(self, index: int, store: Store, base: str, pattern: Pattern) -> None:
        self.index = index
        self.store = store
        self.base = base
        self.pattern = pattern

    def empty(self, passed: Passed) -> str:
        """What to say where there is no picture in it."""
        if self.pattern.parts:
            return (
                f"{shown(self.store.join(self.base, os.fsencode('/'.join(self.pattern.parts))))}: matches no pictures"
            )
        return nothing_in(self.base, passed)

    def position(self, kind: str, path: str) -> Position:
        """Where a folder or file of it stands in the walk."""
        parts = self.store.parts(self.base, path)
        return tuple((place < len(parts) - 1 or kind == FOLDER_KIND, part) for place, part in enumerate(parts))

    def walk(self, memory: Memory, number: int, start: UnitName | None) -> Iterator[Unit | File]:
        """What it has for a pass, from the folder or file of one unit on.

        Raises:
            SourceError: It cannot be read, or is not what it was.
        """
        way = None if start is None else self.position(start.kind, start.path)
        waiting = [self._inside(memory, number, self.base, (), self.pattern.start, way)]
        while waiting:
            found = next(waiting[-1], None)
            if found is None:
                waiting.pop()
            elif isinstance(found, tuple):
                folder, position, states, rest = found
                waiting.append(self._inside(memory, number, folder, position, states, rest))
            else:
                yield found

    def unit(self, memory: Memory, name: UnitName) -> Unit | File:
        """A unit that is known, or the file it lies in."""
        if name.kind != FOLDER_KIND:
            return File(memory, self.store, name._replace(at=0), self.position(name.kind, name.path))
        listings = [Listed(*listed) for listed in memory.known[name.key][-1]]
        [listed] = (listed for listed in listings if listed.number == name.number)
        if listed.digest.startswith(UNREADABLE):
            return Broken(name, SourceError(listed.digest.removeprefix(UNREADABLE)))
        return Folder(name, self.store, self, memory, listed.rows)

    def _inside(
        self,
        memory: Memory,
        number: int,
        folder: str,
        position: Position,
        states: frozenset[int],
        way: Position | None,
    ) -> Iterator[Unit | File | tuple[str, Position, frozenset[int], Position | None]]:
        """What one folder has, and the folders in it that are to be walked through; behind `way` if given."""
        found = self._found(memory, number, folder, position, states)
        if found is None:
            return
        if not way and found.unit is not None:
            yield found.unit
        for name in found.files:
            step: Step = (False, name)
            if way and step < way[0]:
                continue
            path = self.store.join(folder, name)
            kind = kind_of_file(path) or LIST
            yield File(memory, self.store, UnitName(number, self.index, kind, 0, path), (*position, step))
        for name in found.folders:
            step = (True, name)
            if way and step < way[0]:
                continue
            below = self.pattern.below(states, os.fsdecode(name))
            rest = way[1:] if way and step == way[0] else None
            yield self.store.join(folder, name), (*position, step), below, rest

    def _found(
        self, memory: Memory, number: int, folder: str, position: Position, states: frozenset[int]
    ) -> _Found | None:
        """What a folder has for a pass; None where it is for another, or gone again before anybody had looked."""
        name = UnitName(number, self.index, FOLDER_KIND, 0, folder)
        known = memory.known.get(name.key)
        belongs = memory.belongs(number, self.index, position)
        if known is None:
            return self._first_look(memory, name, states) if belongs else None
        listings = [Listed(*listed) for listed in known[-1]]
        count = next((listed.rows for listed in listings if listed.number == number), None)
        unit: Unit | None = None
        if listings[-1].digest.startswith(UNREADABLE):
            error = SourceError(listings[-1].digest.removeprefix(UNREADABLE))
            return _Found(Broken(name, error) if count else None, [], iter(()))
        is_open = count is None and belongs and not memory.is_current(name.key)
        # Files and folders are known of what the outline has, not of what was looked at since and is kept no longer, as
        # in a stream that was pickled on the way.
        is_remembered = memory.kept(name.key) is None and not memory.is_current(name.key)
        is_remembered &= memory.has_all_in(self.index, position)
        if is_remembered and self._is_untouched(folder, known[0]):
            if count:
                unit = Folder(name, self.store, self, memory, count)
            files, folders = memory.inside(self.index, position)
            return _Found(unit, files, iter(folders))
        contents = self._contents(memory, name, states)
        if is_open:
            count = len(self._rest(memory, name, contents))
        if count:
            unit = Folder(name, self.store, self, memory, count)
        return _Found(unit, contents.files, contents.folders.start())

    def _first_look(self, memory: Memory, name: UnitName, states: frozenset[int]) -> _Found | None:
        passed = Passed()
        is_base = name.path == self.base
        try:
            contents = self._scanned(name.path, states, passed)
        except FileNotFoundError as error:
            if is_base:
                raise SourceError(f"{shown(name.path)}: no such folder") from error
            return None
        except OSError as error:
            if is_base or isinstance(error, Unreachable):
                raise unreadable(name.path, error) from error
            text = f"{shown(name.path)}: cannot read the folder: {error.strerror or error}"
            memory.record(name.key, [0, [[name.number, 1, UNREADABLE + text]]], passed)
            return _Found(Broken(name, SourceError(text)), [], iter(()))
        contents.parts[name.number] = contents.pictures
        memory.keep(name.key, contents)
        count = len(contents.pictures)
        memory.record(name.key, [contents.moment, [[name.number, count, digest_of(contents.pictures.start())]]], passed)
        unit = Folder(name, self.store, self, memory, count) if count else None
        return _Found(unit, contents.files, contents.folders.start())

    def _rest(self, memory: Memory, name: UnitName, contents: Contents) -> Packed:
        """What came to a folder since it was looked at, which is for this pass then."""
        _, listed = memory.known[name.key]
        _, rest = parted(self.store, name.path, contents.pictures, [Listed(*one) for one in listed])
        if rest:
            listed = [*listed, [name.number, len(rest), digest_of(rest.start())]]
            contents.parts[name.number] = rest
        memory.record(name.key, [contents.moment, listed])
        return rest

    def pictures(self, memory: Memory, name: UnitName) -> Packed:
        """The names of a folder's pictures that are for one pass.

        Raises:
            SourceError: The folder is not what it was.
        """
        contents = self._contents(memory, name, self._states(name.path))
        if name.number not in contents.parts:
            listings = [Listed(*listed) for listed in memory.known.get(name.key, [[]])[-1]]
            parts, rest = parted(self.store, name.path, contents.pictures, listings)
            contents.parts.update({listed.number: part for listed, part in zip(listings, parts, strict=True)})
            contents.parts.setdefault(name.number, rest)
        return contents.parts[name.number]

    def _contents(self, memory: Memory, name: UnitName, states: frozenset[int]) -> Contents:
        kept = memory.kept(name.key)
        if kept is not None:
            return kept
        try:
            contents = self._scanned(name.path, states, Passed())
        except FileNotFoundError as error:
            raise Differs("vanished", f"{shown(name.path)}: the folder is gone") from error
        except Unreachable as error:
            raise unreadable(name.path, error) from error
        except OSError as error:
            text = f"{shown(name.path)}: the folder can no longer be read: {error.strerror or error}"
            raise Differs("vanished", text) from error
        memory.keep(name.key, contents)
        return contents

    def _is_untouched(self, folder: str, moment: int) -> bool:
        """Whether a folder was last written to when the outline says."""
        try:
            return moment != 0 and self.store.time(folder) == moment
        except OSError as error:
            raise Differs("vanished", f"{shown(folder)}: the folder is gone") from error

    def _states(self, folder: str) -> frozenset[int]:
        states = self.pattern.start
        for name in self.store.parts(self.base, folder):
            states = self.pattern.below(states, os.fsdecode(name))
        return states

    def _scanned(self, folder: str, states: frozenset[int], passed: Passed) -> Contents:
        files: list[bytes] = []
        folders: list[bytes] = []
        others = Counter[str]()
        pattern = self.pattern
        is_inside = pattern.is_inside(states)

        moment = self.store.time(folder)
        if time.time_ns() - moment < RECENT:
            moment = 0

        def pictures() -> Iterator[bytes]:
            for kind, record in self.store.scan(folder, passed, folder == self.base):
                name = os.fsdecode(name_of(record))
                if kind in (FOLDER, LINK):
                    if pattern.below(states, name, kind == LINK):
                        folders.append(record)
                    elif kind == LINK and is_inside:
                        passed.add(LINK, os.path.join(folder, name))
                    continue
                is_meant = pattern.takes(states, name)
                several = kind_of_file(name)
                if is_meant and several and (several != LIST or pattern.ending):
                    files.append(name_of(record))
                elif (kind == PICTURE and (is_meant or is_inside)) or (is_meant and pattern.ending and not several):
                    yield record
                elif kind == OTHER and is_inside:
                    others[os.path.splitext(name)[1].lower()] += 1

        names = packed(pictures())
        for ending, count in others.items():
            passed.add(OTHER, folder, count, ending)
        return Contents(names, sorted(files), packed(folders), moment)

    def check(self, memory: Memory, kind: str, path: str) -> bool:
        """Finds out whether a folder or file that the outline has is as it was, but for what came since.

        Returns:
            Whether a file has more than it had.

        Raises:
            Differs: It is not.
        """
        name = UnitName(memory.newest, self.index, kind, 0, path)
        if kind != FOLDER_KIND:
            return has_grown(File(memory, self.store, name, self.position(kind, path)))
        moment, listed = memory.known[name.key]
        listings = [Listed(*one) for one in listed]
        if not (listings[-1].digest.startswith(UNREADABLE) or self._is_untouched(path, moment)):
            parted(self.store, path, self._contents(memory, name, self._states(path)).pictures, listings)
        return False


__all__ = ["FOLDERS", "FOLDER_KIND", "LIST", "Tree", "kind_of_file"]

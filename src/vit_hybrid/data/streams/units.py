"""The pieces of a source of which each is opened by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ...errors import shown
from ..sources import SourceError
from .outlines import Differs, Memory, Position, UnitName
from .protocol import Entry, Labeled, Place, Stamp
from .stores import Store, no_stamp, unreadable

# In an outline, the size and time of a file that was named and is not there.
MISSING = (0, 0)


class Unit(Protocol):
    """A folder, a row group, or a block of lines or members."""

    @property
    def name(self) -> UnitName:
        """What it is called."""

    @property
    def rows(self) -> int:
        """How many pictures it has."""

    def entries(self, row: int) -> Iterator[Entry]:
        """Its pictures from one on."""

    def labels(self, row: int) -> Iterator[Labeled]:
        """What is said of its pictures from one on, which are not read for it."""


@dataclass(frozen=True)
class Broken:
    """A unit that cannot be read: one error in the place of its pictures."""

    name: UnitName
    error: SourceError
    rows: int = 1

    def entries(self, row: int) -> Iterator[Entry]:
        if row == 0:
            yield Entry(self.name.path, Place(str(self.name), 0), self.error, no_stamp)

    def labels(self, row: int) -> Iterator[Labeled]:
        raise self.error


@dataclass(frozen=True)
class File:
    """A file with several pictures in it, as one pass through a source comes upon it.

    Attributes:
        memory: What is known of the source.
        store: Where it lies.
        name: The unit at its beginning.
        position: Where it stands in the walk.
        is_read: Whether its pictures are wanted, too, and not only how many there are.
    """

    memory: Memory
    store: Store
    name: UnitName
    position: Position
    is_read: bool = False

    def is_due(self) -> bool:
        """Whether it is for this pass, for a file that is never written to again; it is recorded if it is new.

        Raises:
            Differs: It is not what it was.
        """
        if self.is_new():
            size, moment = self.stamp()
            self.memory.record(self.name.key, [size, moment, [[self.name.number]]])
            return True
        value = self.memory.known.get(self.name.key)
        if value is None or value[-1][0][0] != self.name.number:
            return False
        self.check_stamp()
        return True

    def stamp(self) -> Stamp:
        """Its size and time now, `MISSING` where it is not there.

        Raises:
            SourceError: The store does not answer.
        """
        try:
            return self.store.stamp(self.name.path) or MISSING
        except OSError as error:
            raise unreadable(self.name.path, error) from error

    def is_new(self) -> bool:
        """Whether no pass had it before this one, whose it is."""
        belongs = self.memory.belongs(self.name.number, self.name.source, self.position)
        return self.name.key not in self.memory.known and belongs

    def check_stamp(self) -> None:
        """Finds out whether it has the size and the time that its outline says.

        Raises:
            Differs: It has not.
        """
        known = self.memory.known[self.name.key][:2]
        stamp = self.stamp()
        if list(stamp) != known:
            if stamp == MISSING:
                raise Differs("vanished", f"{shown(self.name.path)}: it is gone")
            raise Differs("changed", f"{shown(self.name.path)}: it was written to since")

    def unit(self, at: int) -> UnitName:
        """The name of what begins at a place in it."""
        return self.name._replace(at=at)


__all__ = ["Broken", "File", "Unit"]

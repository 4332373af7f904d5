"""What a source looked like, how that is told from what it looks like now, and how one that grew stays in order.

What came to a source since its outline was taken stands behind all that the outline has, in a pass of its own: pass 0
goes through the source as it was first seen, pass 1 through what had come when the stream was opened again.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ...errors import shown
from ..columns import ColumnChoice
from ..listing import Passed
from ..sources import SourceError
from .packing import Packed, digest_of
from .protocol import Change, Outline
from .stores import Store

Position: TypeAlias = "tuple[tuple[bool, bytes], ...]"
"""Where a folder or file stands in the walk through a source; what lies in a folder follows it, files first."""

# In an outline, the latest pass that came to its end.
END = "end"
# Folders whose names are kept for whoever asks next: these, and more as long as there are few names in them.
FOLDERS_KEPT = 2
NAMES_KEPT = 1_000_000


class UnitName(NamedTuple):
    """A unit of a source, in parts.

    Attributes:
        number: Of the pass.
        source: Its index among those that were given.
        kind: What it is.
        at: Where in its file it begins.
        path: The folder or file.
    """

    number: int
    source: int
    kind: str
    at: int
    path: str

    def __str__(self) -> str:
        return ":".join(map(str, self))

    @property
    def key(self) -> str:
        """By which an outline knows the folder or file."""
        return key(self.source, self.kind, self.path)


def key(index: int, kind: str, path: str) -> str:
    """By which an outline knows a folder or file of a source."""
    return f"{index}:{kind}:{path}"


def unit_name(text: str) -> UnitName:
    """The parts of a unit's name.

    Raises:
        SourceError: It is none.
    """
    try:
        number, index, kind, at, path = text.split(":", 4)
        return UnitName(int(number), int(index), kind, int(at), path)
    except ValueError as error:
        raise SourceError(f"{shown(text)!r} is no place in a source") from error


class Differs(SourceError):
    """A folder or file that is not what it was; the message names it.

    Attributes:
        change: What became of it.
    """

    def __init__(self, kind: Literal["changed", "vanished"], difference: str) -> None:
        super().__init__(difference)
        self.change = Change(kind, difference)

    def __reduce__(self) -> Any:
        return type(self), tuple(self.change)


class Listed(NamedTuple):
    """The pictures that a folder gave to one pass; as JSON a list."""

    number: int
    rows: int
    digest: str


@dataclass
class Contents:
    """What a folder has for a walk.

    Attributes:
        pictures: Those of all passes.
        files: The tars, parquet files and lists that a glob means.
        folders: Those to go on into.
        moment: When the folder was last written to; 0 where that does not say that it will be told when it is again.
        parts: The pictures of each pass.
    """

    pictures: Packed
    files: list[bytes]
    folders: Packed
    moment: int
    parts: dict[int, Packed] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pictures) + len(self.files) + len(self.folders) + 1


class Memory:
    """What a stream knows of its source: the outline it was opened with, and what it has come through since.

    Args:
        outline: None for a source that is seen for the first time.
        positions: The index of the source and the position of each key of the outline.
    """

    def __init__(self, outline: Outline | None, positions: Mapping[str, tuple[int, Position]]) -> None:
        self.known: Outline = dict(outline or {})
        self.choice: ColumnChoice | None = None  # which labels are wanted, too; where none are, None
        self.passed = Passed()
        self._fresh: Outline = {}
        self._current: set[str] = set()
        self._kept: OrderedDict[str, Contents] = OrderedDict()
        self._lock = Lock()
        self._inside: dict[tuple[int, Position], list[tuple[bool, bytes]]] = {}
        for index, position in positions.values():
            if position:
                self._inside.setdefault((index, position[:-1]), []).append(position[-1])
        last = [(number, positions[key]) for key in positions for number in passes_of(self.known[key])]
        # The pass for what is not in the outline, but for what lies behind all that the pass before it came to: that
        # one may have ended early, and goes on there.
        self.newest = 1 + max((number for number, _ in last), default=-1)
        self._frontier = max((where for number, where in last if number == self.newest - 1), default=(-1, ()))
        self._is_whole = self.known.get(END, -1) >= self.newest - 1

    def belongs(self, number: int, index: int, position: Position) -> bool:
        """Whether what no pass has had yet is for this one."""
        is_beyond = self.newest > 0 and not self._is_whole and (index, position) > self._frontier
        return number == self.newest - is_beyond

    def has_all_in(self, index: int, position: Position) -> bool:
        """Whether the outline has all files and folders that were in a folder, and not those alone to which it came."""
        at, way = self._frontier
        return self._is_whole or at != index or way[: len(position)] != position

    def finish(self) -> None:
        """Keeps that the latest pass with anything in it has come to its end."""
        passes = (number for key, value in self.known.items() if key != END for number in passes_of(value))
        self.record(END, max(passes, default=-1))

    def is_current(self, key: str) -> bool:
        """Whether it was looked at since the stream was opened."""
        return key in self._current

    def record(self, key: str, value: Any, passed: Passed | None = None) -> None:
        """Keeps what a folder or file looks like now."""
        with self._lock:
            if key not in self.known and passed is not None:
                self.passed.absorb(passed)
            self.known[key] = self._fresh[key] = value
            self._current.add(key)

    def learn(self, key: str, value: Any) -> None:
        """Takes what another process found a folder or file to look like, whatever it looked like since."""
        with self._lock:
            known = self.known.get(key, [[]])[-1]
            if known[: len(value[-1])] == value[-1]:
                return
            self.known[key] = value
            self._current.add(key)
            if key in self._kept:
                self._kept[key].parts.clear()

    def fresh(self) -> Outline:
        """What was recorded since this was asked last."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        return fresh

    def keep(self, key: str, contents: Contents) -> None:
        """Keeps what is in a folder for a while."""
        with self._lock:
            self._kept[key] = contents
            self._kept.move_to_end(key)
            names = sum(map(len, self._kept.values()))
            while len(self._kept) > FOLDERS_KEPT and names > NAMES_KEPT:
                names -= len(self._kept.popitem(last=False)[1])

    def kept(self, key: str) -> Contents | None:
        """What is in a folder, if it is kept."""
        with self._lock:
            return self._kept.get(key)

    def inside(self, index: int, position: Position) -> tuple[list[bytes], list[bytes]]:
        """The names of the files and of the folders that the outline had in a folder, sorted."""
        steps = sorted(self._inside.get((index, position), ()))
        return [name for is_folder, name in steps if not is_folder], [name for is_folder, name in steps if is_folder]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_kept": OrderedDict(), "_fresh": {}, "passed": Passed()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())


def passes_of(value: Any) -> list[int]:
    """The passes that a folder or file of an outline has something in; their list stands last in its value."""
    return [listed[0] for listed in value[-1]]


def parted(store: Store, folder: str, names: Packed, listings: Sequence[Listed]) -> tuple[list[Packed], Packed]:
    """A folder's pictures, parted into those that earlier passes had and those that came since.

    Of a folder that grew, those of a pass are either its first ones by name or those that came first.

    Raises:
        Differs: They are not there any more.
    """
    parts: list[Packed] = []
    for _, count, digest in listings:
        if len(names) < count:
            difference = f"{shown(folder)}: {count - len(names):,} of its {count:,} pictures are gone"
            raise Differs("vanished", difference)
        if digest_of(islice(names.start(), count)) == digest:
            old = names if count == len(names) else Packed(islice(names.start(), count))
            names = Packed(names.start(count))
        else:
            old, names = _parted_by_time(store, folder, names, count)
            if digest_of(old.start()) != digest:
                raise Differs("changed", f"{shown(folder)}: pictures that were in it were renamed, replaced or removed")
        parts.append(old)
    return parts, names


def _parted_by_time(store: Store, folder: str, names: Packed, count: int) -> tuple[Packed, Packed]:
    if not 0 < count < len(names):
        return names, Packed(())
    try:
        times = array("q", (store.came(folder, record) for record in names.start()))
    except OSError as error:
        raise Differs("vanished", f"{shown(folder)}: pictures vanish from it ({error.strerror})") from error
    last = int(np.partition(np.frombuffer(times, np.int64), count - 1)[count - 1])
    old = Packed(record for record, time in zip(names.start(), times, strict=True) if time <= last)
    return old, Packed(record for record, time in zip(names.start(), times, strict=True) if time > last)


__all__ = [
    *(
        "END",
        "Contents",
        "Differs",
        "Listed",
        "Memory",
        "Position",
        "UnitName",
        "key",
        "parted",
        "passes_of",
        "unit_name",
    ),
]

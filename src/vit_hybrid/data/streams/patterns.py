"""What a name with *, ?, [ ], ** or { } in it stands for."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from ...errors import shown
from ..sources import SourceError

_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
ALL_LEVELS = "**"
MOST_NAMES = 1_000_000  # that braces may stand for
MOST_DIGITS = 40  # of a number in them, with its zeros


class Pattern:
    """The names that lead from a folder to what a glob means, and how far along them a walk is.

    How far is a set of numbers: of the part that the next name has to match, or of all parts where it is inside of a
    folder that the pattern means.

    Args:
        parts: A part for each level; none where a folder is meant with all that is in it.
    """

    def __init__(self, parts: tuple[str, ...]) -> None:
        self.parts = parts

    @property
    def start(self) -> frozenset[int]:
        """How far the walk is at its beginning."""
        return self._closed({0})

    def below(self, states: frozenset[int], name: str, is_link: bool = False) -> frozenset[int]:
        """How far it is in a folder of this name; nowhere where nothing in it is meant.

        Links to folders are followed where a part of the pattern names them, and it has no **, which could go round in
        circles.
        """
        found: set[int] = set()
        for state in states:
            is_open = state == len(self.parts) or self.parts[state] == ALL_LEVELS
            if is_open:
                found.add(state)
            elif self._matches(state, name):
                found.add(state + 1)
        if is_link and (ALL_LEVELS in self.parts or self.is_inside(states)):
            return frozenset()
        return self._closed(found)

    def is_inside(self, states: frozenset[int]) -> bool:
        """Whether all pictures of a folder are meant."""
        return len(self.parts) in states

    def takes(self, states: frozenset[int], name: str) -> bool:
        """Whether a file of this name is meant by itself."""
        last = len(self.parts) - 1
        return last in states and self.parts[last] != ALL_LEVELS and self._matches(last, name)

    @cached_property
    def ending(self) -> str:
        """What the names of the files that are meant end in; empty where the pattern does not say."""
        found = re.search(r"\.\w+$", self.parts[-1] if self.parts else "")
        return found[0].lower() if found else ""

    def _closed(self, states: set[int]) -> frozenset[int]:
        for state in sorted(states):
            while state < len(self.parts) and self.parts[state] == ALL_LEVELS:  # which may be no level at all
                state += 1
                states.add(state)
        return frozenset(states)

    def _matches(self, state: int, name: str) -> bool:
        return fnmatch.fnmatchcase(name, self.parts[state])


def unbraced(name: str) -> Iterator[str]:
    """What braces stand for: {a,b} for one and the other, {000..099} for a hundred numbers; made as it is asked for.

    Raises:
        SourceError: They stand for too many names.
    """
    pieces = _BRACES.split(name)
    count = 1
    for piece in pieces[1::2]:
        count *= _choices(name, piece)
        if count > MOST_NAMES:  # before any of them is made
            raise SourceError(
                f"{shown(name)}: its braces stand for more than {MOST_NAMES:,} names; give a list of the paths, or * "
                "in place of some braces"
            )
    choices = [[piece] if place % 2 == 0 else _spelled(piece) for place, piece in enumerate(pieces)]
    return map("".join, itertools.product(*choices))


def has_braces(name: str) -> bool:
    """Whether there are braces in a name that stand for something.

    Raises:
        SourceError: They stand for too many names.
    """
    return next(unbraced(name)) != name


def _choices(name: str, piece: str) -> int:
    """For how many names a piece in braces stands."""
    numbers = _NUMBERS.fullmatch(piece)
    if numbers is None:
        return piece.count(",") + 1
    first, last = numbers.groups()
    if max(len(first), len(last)) > MOST_DIGITS:
        return MOST_NAMES + 1
    count = int(last) - int(first) + 1
    if count < 1:
        raise SourceError(f"{shown(name)}: {{{shown(piece)}}} has to run from a smaller number to a larger one")
    return count


def _spelled(piece: str) -> Iterable[str]:
    numbers = _NUMBERS.fullmatch(piece)
    if numbers is None:
        return piece.split(",") if "," in piece else [f"{{{piece}}}"]
    first, last = numbers.groups()
    return (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))


__all__ = ["Pattern", "has_braces", "unbraced"]

"""Ranges of a source, each of them work for one worker, and what it hands back."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..data.streams import Outline, Place


@dataclass(frozen=True)
class Shard:
    """Pictures that follow each other in the order of a source.

    Attributes:
        number: Which one it is, from 0.
        first: Where the first of them stands.
        last: Where the last of them stands.
        count: How many there are.
        again: Whether those alone are wanted that failed before.
        units: See `Range.units`; None of one that the stream's outline has.
    """

    number: int
    first: Place
    last: Place
    count: int
    again: bool = False
    units: Outline | None = None


@dataclass(frozen=True)
class Receipt:
    """What a worker says once a shard is done and lies where it belongs.

    Attributes:
        shard: The shard's number.
        rows: Its pictures.
        errors: How many of them could not be read.
        missing: How many of these because they were not there.
        seconds: That the worker took.
        bytes: The size of what it wrote.
        sha256: The checksum of what it wrote.
        stamps: What the pictures' files were like, packed: see `packed`.
        node: The machine that did it.
    """

    shard: int
    rows: int
    errors: int
    missing: int
    seconds: float
    bytes: int
    sha256: str
    stamps: str
    node: str


Given = TypeVar("Given", covariant=True)


class Worker(Protocol[Given]):
    """Does shards, one after the other, and writes what comes of each itself; lives in one process or actor."""

    def facts(self) -> Mapping[str, Any]:
        """What decides what it makes of a picture, for JSON; workers of one job have to say the same."""
        ...

    def work(self, shard: Shard) -> Given:
        """Does a shard; what was written for it before is replaced."""
        ...


@runtime_checkable
class ReadingAhead(Worker[Given], Protocol[Given]):
    """A worker that begins to read a shard before it is through with the one before."""

    def through(self, shards: Iterator[Shard]) -> Generator[Given, None, None]:
        """What `work` gives of each shard.

        Args:
            shards: Asked for the next one when the pictures of the one before are read, sooner than that is done.
        """
        ...


__all__ = ["ReadingAhead", "Receipt", "Shard", "Worker"]

"""The names in one folder, however many, sorted and packed."""

from __future__ import annotations

import hashlib
import heapq
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice

# What a record is: a name and, where a store tells them in its listings, the file's size and time behind it. It sorts
# as the name does, since no name has a smaller byte than this one.
FIELD = b"\0"
_SEPARATOR = b"/"  # no name has it
BLOCK = 1024  # records that are packed together
RUN = 1 << 17  # records that are sorted at once: of these alone is each an object
DIGEST_BYTES = 16


class Packed:
    """Sorted records, compressed in blocks: some ten bytes for each.

    Args:
        records: Sorted ones.
    """

    def __init__(self, records: Iterable[bytes]) -> None:
        self._blocks: list[bytes] = []
        self._length = 0
        records = iter(records)
        while block := list(islice(records, BLOCK)):
            self._blocks.append(zlib.compress(_SEPARATOR.join(block), level=1))
            self._length += len(block)

    def __len__(self) -> int:
        return self._length

    def start(self, row: int = 0) -> Iterator[bytes]:
        """The records from one on."""
        for number in range(row // BLOCK, len(self._blocks)):
            yield from self._unpacked(number)[row % BLOCK if number == row // BLOCK else 0 :]

    def consumed(self) -> Iterator[bytes]:
        """All records; what has been given is no longer held."""
        for number in range(len(self._blocks)):
            block = self._unpacked(number)
            self._blocks[number] = b""
            yield from block

    def _unpacked(self, number: int) -> list[bytes]:
        return zlib.decompress(self._blocks[number]).split(_SEPARATOR)


def packed(records: Iterable[bytes]) -> Packed:
    """The records, which come in any order."""
    records = iter(records)
    runs: list[Packed] = []
    while run := sorted(islice(records, RUN)):
        if len(run) < RUN and not runs:
            return Packed(run)
        runs.append(Packed(run))
        del run
    return runs[0] if len(runs) == 1 else Packed(heapq.merge(*(run.consumed() for run in runs)))


def digest_of(records: Iterable[bytes]) -> str:
    """By which the names in these records, without what stands behind them, are known again."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    records = iter(records)
    while block := [name_of(record) for record in islice(records, BLOCK)]:
        state.update(_SEPARATOR.join(block))
        state.update(_SEPARATOR)
    return state.hexdigest()


def name_of(record: bytes) -> bytes:
    """The name in a record."""
    return record.partition(FIELD)[0]


__all__ = ["FIELD", "Packed", "digest_of", "name_of", "packed"]

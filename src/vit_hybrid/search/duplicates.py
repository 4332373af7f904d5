"""Pictures that are nearly the same, in groups: each is near to another of its group."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ..outputs.vectors import Array
from .index import Index, Neighbor, Progress, cosines

# Up to so many rows all pairs are compared: 5 * 10^9 products of vectors, minutes of two cores.
MOST_ROWS_OF_ALL_PAIRS = 100_000
# So many rows are compared with so many others at once: 16 MiB of products.
ROWS_A_BLOCK = 2048


@dataclass(frozen=True)
class Group:
    """Pictures that are nearly the same.

    Attributes:
        row: The first of them in the order of the index.
        others: The others with their similarity to the first, nearest first. One that is near to another of the group
            only can be less similar to the first than was asked for.
    """

    row: int
    others: tuple[Neighbor, ...]


class Groups:
    """The rows of an index in groups that grow as pairs are found.

    Rows of the very same vector are one from the start, and the first stands for all of them. Rows without a vector,
    and vectors of zeros, are like no other.

    Attributes:
        rows: (M,): the rows that stand for themselves and for those that are the same.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        seen: dict[bytes, int] = {}
        self._copies: dict[int, list[int]] = {}
        for row, vector in enumerate(index.vectors):
            if np.isfinite(vector[0]) and vector.any():
                first = seen.setdefault(hashlib.blake2b(vector.tobytes(), digest_size=16).digest(), row)
                self._copies.setdefault(first, []).append(row)
        self.rows: Array = np.array([*self._copies], np.int64)
        # Of each place in `rows` the first place in its group.
        self.roots: Array = np.arange(len(self.rows))
        self._parents = [*range(len(self.rows))]

    def join(self, one: int, other: int) -> None:
        """Makes one group of the groups of two places; `roots` know of it once `settle` is called."""
        one, other = self.root(one), self.root(other)
        self._parents[max(one, other)] = min(one, other)

    def settle(self) -> None:
        """Brings `roots` up to date."""
        parents = np.array(self._parents, np.int64)
        while not np.array_equal(self.roots, parents[self.roots]):
            self.roots = parents[self.roots]

    def root(self, place: int) -> int:
        """The first place in the group of a place."""
        while self._parents[place] != place:
            self._parents[place] = place = self._parents[self._parents[place]]
        return place

    def found(self) -> list[Group]:
        """The groups of more than one row, in the order of their first."""
        members: dict[int, list[int]] = {}
        for place in range(len(self.rows)):
            members.setdefault(self.root(place), []).extend(self._copies[int(self.rows[place])])
        groups = []
        for rows in members.values():
            if len(rows) > 1:
                first, *others = sorted(rows)
                ranked = self._index.ranked(self._index.vectors[first], np.array(others), len(others))
                groups.append(Group(first, tuple(ranked)))
        return groups


def by_all_pairs(index: Index, threshold: float, progress: Progress | None = None) -> list[Group]:
    """The groups of pictures of which each has a cosine of at least `threshold` with another one; exact.

    Args:
        index: Of any size, but the time goes by its square.
        threshold: More than 0, at most 1.
        progress: Called with (blocks done, blocks in all).
    """
    groups = Groups(index)
    starts = range(0, len(groups.rows), ROWS_A_BLOCK)
    done, total = 0, len(starts) * (len(starts) + 1) // 2
    for start in starts:
        block = index.vectors[groups.rows[start : start + ROWS_A_BLOCK]]
        for other in starts[start // ROWS_A_BLOCK :]:
            others = index.vectors[groups.rows[other : other + ROWS_A_BLOCK]]
            _join_near(groups, start, other, _near(block, others, threshold))
            done += 1
            if progress is not None:
                progress(done, total)
    return groups.found()


def _near(block: Array, others: Array, threshold: float) -> Array:
    """Which pairs of rows (N, D) and (M, D), each of length 1, are near: (N, M)."""
    products = block @ others.T
    near = products >= threshold
    # What products of float32 cannot decide is computed in doubles; so many, for vectors of length 1, they are off by.
    margin = block.shape[1] * np.finfo(np.float32).eps
    doubtful, with_whom = np.nonzero(np.abs(products - np.float32(threshold)) <= margin)
    for start in range(0, len(doubtful), ROWS_A_BLOCK):
        one, other = doubtful[start : start + ROWS_A_BLOCK], with_whom[start : start + ROWS_A_BLOCK]
        near[one, other] = cosines(block[one], others[other]) >= threshold
    return near


def _join_near(groups: Groups, start: int, other: int, near: Array) -> None:
    """Joins the places from `start` on with those from `other` on, as far as they are near (N, M)."""
    if not near.any():
        return
    nobody = len(groups.roots)
    while True:
        ones, others = groups.roots[start : start + len(near)], groups.roots[other : other + near.shape[1]]
        if not (near & (ones[:, None] != others)).any():
            return
        # Each goes to the first group that it is near to, not to all, or a thousand pictures of one thing would be
        # half a million pairs; what is then still apart is joined in the next round.
        to_others = np.where(near, others, nobody).min(1)
        to_ones = np.where(near, ones[:, None], nobody).min(0)
        pairs = [*zip(ones.tolist(), to_others.tolist(), strict=True)]
        pairs += zip(others.tolist(), to_ones.tolist(), strict=True)
        for pair in pairs:
            if nobody not in pair:
                groups.join(*pair)
        groups.settle()


__all__ = ["MOST_ROWS_OF_ALL_PAIRS", "Group", "Groups", "by_all_pairs"]

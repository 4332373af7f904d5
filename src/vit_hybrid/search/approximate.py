"""A faiss index beside an index: searches that do not look at every row, with their recall measured when it is built.

Inverted lists of vectors in 8 bits: rows are sorted into cells around centers, and a query looks at the rows of the
cells nearest to it. What it finds is ranked by the exact similarities, so that only a row that was not looked at can be
missed. A graph (HNSW) answers faster, but takes several times as long to build and twice the room; a command that loads
a model for a query waits for that, and not for the index.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import needs, one_line, shown
from ..files import why_unwritten
from ..outputs.vectors import Array, VectorsError
from .duplicates import Group, Groups
from .index import ROWS_A_BLOCK, Index, Neighbor, Progress, cosines
from .laid import laying, note_of, place_beside

logger = logging.getLogger(__name__)

# Up to so many rows a query is compared with each in less time than a model takes for it.
MANY_ROWS = 1_000_000
NEIGHBORS_FILE = "neighbors.faiss"
# Of the nearest so many the recall is measured, with so many rows of the index as queries: one half chooses how many
# cells are looked at, so that at least the recall aimed at is reached; of the other half it is told.
RECALL_AT = 10
RECALL_QUERIES = 1000
RECALL_AIMED_AT = 0.99
# Cells for N rows, and how many rows of each the centers are found by, as faiss advises for a million rows and less.
CELLS_A_ROOT = 4
TRAINING_ROWS_A_CELL = 64
# So many times as many rows as are asked for are ranked by their exact similarities: 8 bits confuse near ones.
CANDIDATES = 4
# Pictures that are nearly the same lie in the same cell or the next: an eighth of the cells finds as many.
CELLS_FOR_NEAR = 8
# What a product of a vector in 8 bits is off by, seldom more.
OFF_BY = 0.02
QUERIES_FOR_NEAR = 128


@dataclass(frozen=True)
class Approximate:
    """A faiss index of an `Index`.

    Attributes:
        index: What it is of.
        cells: How many it has.
        looked_at: In how many of them a query looks for its neighbors.
        recall: The share of the true ten nearest that it finds, measured when it was built.
    """

    index: Index
    cells: int
    looked_at: int
    recall: float
    _faiss: Any

    @classmethod
    def of(cls, index: Index, progress: Progress | None = None) -> Approximate:
        """The faiss index of an index: the one that lies beside it, or a new one that is then laid there.

        A warning says where the old one is of parts that were changed since, or where the new one cannot be written.

        Args:
            index: Of any size; below a million rows the exact search is as fast.
            progress: Called while it is built.

        Raises:
            VectorsError: faiss is not installed, or the index has no vectors.
        """
        faiss = _faiss()
        place = place_beside(index.path, NEIGHBORS_FILE)
        note = note_of(place)
        if note is not None and note.get("parts") == index.state:
            try:
                loaded = faiss.read_index(str(place), faiss.IO_FLAG_MMAP)
                return cls(index, int(loaded.nlist), int(note["looked_at"]), float(note["recall"]), loaded)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                logger.warning("%s: cannot be used and is built anew (%s)", shown(place), one_line(error))
        elif place.is_file():
            logger.warning("%s: it is stale, of other rows than the index has now, and is built anew", shown(place))
        built = _built(faiss, index, progress)
        try:
            note = {"parts": index.state, "looked_at": built.looked_at, "recall": built.recall}
            with laying(place, note) as file:
                faiss.write_index(built._faiss, file.name)
        except OSError as error:
            why = why_unwritten(error)
            logger.warning("%s: it cannot be written, so it is built anew at each search: %s", shown(place), why)
        return built

    def nearest(self, queries: Array, top_k: int) -> list[list[Neighbor]]:
        """What `Index.nearest` gives, as far as it is looked at.

        Raises:
            VectorsError: The queries are of another dimension, or not finite.
        """
        units = self.index.as_queries(queries)
        self._faiss.nprobe = self.looked_at
        _, rows = self._faiss.search(units, min(top_k * CANDIDATES, self._faiss.ntotal))
        return [self.index.ranked(unit, found[found >= 0], top_k) for unit, found in zip(units, rows, strict=True)]

    def duplicates(self, threshold: float, progress: Progress | None = None) -> list[Group]:
        """What `duplicates.by_all_pairs` gives, as far as it is looked at; each pair that is found is exact."""
        groups, vectors = Groups(self.index), self.index.vectors
        place_of = {row: place for place, row in enumerate(groups.rows.tolist())}
        self._faiss.nprobe = max(1, self.looked_at // CELLS_FOR_NEAR)
        for start in range(0, len(groups.rows), QUERIES_FOR_NEAR):
            rows = groups.rows[start : start + QUERIES_FOR_NEAR]
            ends, _, found = self._faiss.range_search(vectors[rows], threshold - OFF_BY)
            for number in np.flatnonzero(np.diff(ends) > 1):
                place = start + int(number)
                others = [place_of.get(row, place) for row in found[ends[number] : ends[number + 1]].tolist()]
                root = groups.root(place)
                apart = np.array([other for other in others if groups.root(other) != root], np.int64)
                near = cosines(vectors[groups.rows[apart]], vectors[groups.rows[place]]) >= threshold
                for other in apart[near].tolist():
                    groups.join(place, other)
            if progress is not None:
                progress(start + len(rows), len(groups.rows))
        return groups.found()


def _built(faiss: ModuleType, index: Index, progress: Progress | None) -> Approximate:
    there = np.concatenate(
        [np.isfinite(index.vectors[start : start + ROWS_A_BLOCK, 0]) for start in range(0, len(index), ROWS_A_BLOCK)]
    )
    rows = np.flatnonzero(there)
    if not len(rows):
        raise VectorsError(f"{shown(index.path)}: no row of it has a vector, so there is nothing to search.")
    random = np.random.default_rng(0)  # the same rows give the same index
    cells = 2 ** round(np.log2(CELLS_A_ROOT * np.sqrt(len(rows))))
    cells = max(1, min(cells, len(rows) // TRAINING_ROWS_A_CELL))
    quantizer = faiss.IndexFlatIP(index.made.dimension)
    inverted = faiss.IndexIVFScalarQuantizer(
        *(quantizer, index.made.dimension, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    )
    inverted.cp.min_points_per_centroid = 1  # below which faiss prints a warning
    sample = np.sort(random.choice(rows, min(len(rows), cells * TRAINING_ROWS_A_CELL), replace=False))
    inverted.train(index.vectors[sample])
    for start in range(0, len(rows), ROWS_A_BLOCK):
        block = rows[start : start + ROWS_A_BLOCK]
        inverted.add_with_ids(index.vectors[block], block)
        if progress is not None:
            progress(start + len(block), len(rows))
    asked = random.choice(rows, min(len(rows), RECALL_QUERIES), replace=False)
    half = len(asked) // 2
    expected = _without(asked, index.nearest(index.vectors[asked], RECALL_AT + 1))
    for looked_at in [2**power for power in range(cells.bit_length())]:
        built = Approximate(index, cells, min(looked_at, cells), 1.0, inverted)
        found = _without(asked, built.nearest(index.vectors[asked], RECALL_AT + 1))
        if looked_at >= cells or _recall(expected[:half], found[:half]) >= RECALL_AIMED_AT:
            break
    return replace(built, recall=_recall(expected[half:], found[half:]))


def _without(asked: Array, found: list[list[Neighbor]]) -> list[set[int]]:
    """The rows of the nearest neighbors, without the rows that were the queries: these are found always."""
    return [
        {*[neighbor.row for neighbor in neighbors if neighbor.row != row][:RECALL_AT]}
        for row, neighbors in zip(asked.tolist(), found, strict=True)
    ]


def _recall(expected: list[set[int]], found: list[set[int]]) -> float:
    """The share of the true nearest that was found."""
    together = sum(len(one & other) for one, other in zip(expected, found, strict=True))
    total = sum(map(len, expected))
    return together / total if total else 1.0  # where there is nothing to find, nothing is missed


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise VectorsError(needs("a search through an index", ["faiss-cpu"], "search")) from error
    return faiss


__all__ = ["MANY_ROWS", "Approximate"]

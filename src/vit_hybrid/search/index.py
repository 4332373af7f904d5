"""An index: the vectors that `embed` wrote, and the nearest of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from ..data.streams.stores import is_address
from ..errors import shown
from ..files import why_unwritten
from ..outputs.vectors import Array, Making, Part, VectorsError, normalized, parts, stored
from .laid import laying, note_of, place_beside, state_of

logger = logging.getLogger(__name__)

VECTORS_FILE = "vectors.npy"
# The product of so many rows with so many queries is held at once: 16 MiB. Fewer rows would leave threads waiting for
# each other.
ROWS_A_BLOCK = 65_536
QUERIES_A_BLOCK = 64
# Of rows of which the exact similarity is computed, at once: 50 MB of 768 doubles.
ROWS_RESCORED = 8192
# Similarities that agree so far are equal, and the order of the rows decides.
DECIMALS = 9

# Called with (rows done, rows in all).
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Neighbor:
    """A row of an index that is near to a query.

    Attributes:
        row: Its number, from 0 on, over all parts in the order of their names.
        similarity: The cosine of the angle between the two, -1 to 1; 0 where one of them is all zeros.
    """

    row: int
    similarity: float


class Index:
    """The vectors of one index, in memory or mapped.

    The first that opens an index lays its vectors beside it, scaled to length 1, as an array that is mapped from then
    on; where it cannot be written it is held in memory, and a warning says so.

    Args:
        path: A folder with the parquet files that `vit-hybrid embed`, or `predict --embeddings`, wrote; or one file.
        progress: Called while vectors are read for the first time.

    Attributes:
        path: As given.
        made: What the vectors were made with.
        vectors: (N, D) float32 of length 1, or all zeros; NaN in the rows that have no vector, since the picture could
            not be read.
        state: The parts' names, sizes and times, for telling whether what was made of them is of others.

    Raises:
        VectorsError: There is no index, it is damaged, or its parts were made with different models.
        OSError: A file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], progress: Progress | None = None) -> None:
        if is_address(os.fspath(path)):
            raise VectorsError(
                f"{shown(path)}: an index is searched on the machine that it lies on; copy it here first."
            )
        self.path = Path(path).expanduser()
        self._parts = parts(self.path)
        self.state = state_of(self._parts)
        place = place_beside(self.path, VECTORS_FILE)
        mapped = self._mapped(place)
        if mapped is None:
            self._read_footers()
            try:
                note = {"parts": self.state, "rows": self._rows, "made": asdict(self.made)}
                with laying(place, note) as file:
                    self._write(file, progress)
            except OSError as error:
                size = sum(self._rows) * self.made.dimension * np.dtype(np.float32).itemsize
                logger.warning(
                    "%s: the vectors cannot be laid beside it, so they are read anew at each search and held in memory "
                    "(%.0f MB): %s",
                    *(shown(path), size / 10**6, why_unwritten(error)),
                )
                mapped = self._read(progress)
            else:
                mapped = self._mapped(place)
                if mapped is None:  # another has put its own there meanwhile, of other parts
                    mapped = self._read(progress)
        self.vectors: Array = mapped
        self._starts = [0, *accumulate(self._rows)]

    def __len__(self) -> int:
        return len(self.vectors)

    def _mapped(self, place: Path) -> Array | None:
        """The array beside the index; None where there is none of these parts."""
        note = note_of(place)
        if note is None or note.get("parts") != self.state:
            return None
        try:
            self.made, self._rows = Making(**note["made"]), [int(rows) for rows in note["rows"]]
            array = np.load(place, mmap_mode="r", allow_pickle=False)
        except (KeyError, TypeError, ValueError, OSError):  # of another release, or damaged
            return None
        is_whole = array.shape == (sum(self._rows), self.made.dimension) and array.dtype == np.float32
        return np.asarray(array) if is_whole else None

    def _read_footers(self) -> None:
        self._rows = []
        for path in self._parts:
            with closing(Part(path)) as part:
                if not self._rows:
                    first, self.made = path, part.made
                difference = part.made.difference(self.made)
                if difference is not None:
                    raise VectorsError(
                        f"{shown(path)}: it does not belong to the same index as {shown(first.name)}: made with "
                        f"{difference}."
                    )
                self._rows.append(part.rows)

    def _write(self, file: BinaryIO, progress: Progress | None) -> None:
        shape = (sum(self._rows), self.made.dimension)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        # Not through a map: where the disk is full, that would end the process.
        self._each(lambda start, vectors: file.write(vectors.astype("<f4", copy=False).tobytes()), progress)

    def _read(self, progress: Progress | None) -> Array:
        array = np.empty((sum(self._rows), self.made.dimension), np.float32)

        def take(start: int, vectors: Array) -> None:
            array[start : start + len(vectors)] = vectors

        self._each(take, progress)
        return array

    def _each(self, take: Callable[[int, Array], object], progress: Progress | None) -> None:
        done, total = 0, sum(self._rows)
        for path, rows in zip(self._parts, self._rows, strict=True):
            before = done
            with closing(Part(path)) as part:
                for _, values, there in part.batches():
                    vectors = normalized(values)
                    # What is not finite is no vector either: a product with it would be no number.
                    vectors[~there | ~np.isfinite(vectors).all(1)] = np.nan
                    take(done, vectors)
                    done += len(vectors)
                    if progress is not None:
                        progress(done, total)
            if done - before != rows:
                raise VectorsError(f"{shown(path)}: it changed while it was read; try again.")

    def names(self, rows: Sequence[int]) -> list[str]:
        """What the pictures of some rows are called.

        Raises:
            VectorsError: A part is damaged, or has been changed.
        """
        inside: dict[int, list[int]] = {}
        for row in rows:
            number = int(np.searchsorted(self._starts, row, side="right")) - 1
            inside.setdefault(number, []).append(row)
        found: dict[int, str] = {}
        for number, of_part in inside.items():
            with closing(Part(self._parts[number])) as part:
                local = [row - self._starts[number] for row in of_part]
                found |= zip(of_part, part.names(local), strict=True)
        return [found[row] for row in rows]

    def rows_called(self, name: str) -> Array:
        """The rows whose picture is called so; all parts are looked through.

        Raises:
            VectorsError: A part is damaged.
        """
        found: list[int] = []
        for start, path in zip(self._starts, self._parts, strict=False):
            with closing(Part(path)) as part:
                found += [start + row for row in part.rows_called(name)]
        return np.array(found, np.int64)

    def as_queries(self, vectors: Array) -> Array:
        """Vectors (N, D) as the index's own are: rounded as they are stored, then scaled to length 1.

        So a picture of the index finds itself at similarity 1, in half precision too.

        Raises:
            VectorsError: They are of another dimension, or not finite.
        """
        values = np.asarray(vectors)
        if values.ndim != 2 or values.shape[1] != self.made.dimension:
            raise VectorsError(f"queries have shape {values.shape}; expected (N, {self.made.dimension}).")
        queries = normalized(stored(values, self.made))
        if not np.isfinite(queries).all():
            raise VectorsError(f"a query has values that are not finite numbers in {self.made.dtype}.")
        return queries

    def nearest(self, queries: Array, top_k: int) -> list[list[Neighbor]]:
        """The rows nearest to each query by cosine, nearest first, equally near ones in their order; exact.

        Args:
            queries: (N, D), of any length.
            top_k: How many to give; fewer where the index has not as many vectors.

        Raises:
            VectorsError: The queries are of another dimension, or not finite.
        """
        units = self.as_queries(queries)
        found: list[list[Neighbor]] = []
        for start in range(0, len(units), QUERIES_A_BLOCK):
            found += self._nearest(units[start : start + QUERIES_A_BLOCK], top_k)
        return found

    def _nearest(self, queries: Array, top_k: int) -> list[list[Neighbor]]:
        # Twice what a sum of D products of float32 can be off by, for vectors of length 1: what lies so near to the
        # last of the nearest may belong before it.
        margin = np.float32(2 * self.made.dimension * np.finfo(np.float32).eps)
        near = [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        for start in range(0, len(self.vectors), ROWS_A_BLOCK):
            block = self.vectors[start : start + ROWS_A_BLOCK]
            products = (block @ queries[0])[None] if len(queries) == 1 else queries @ block.T
            products[np.isnan(products)] = -np.inf
            for number, scores in enumerate(products):
                rows, so_far = near[number]
                lowest = max(_last_of(scores, top_k), _last_of(so_far, top_k)) - margin
                new = np.flatnonzero((scores >= lowest) & (scores > -np.inf))
                rows = np.concatenate((rows, new + start))
                so_far = np.concatenate((so_far, scores[new]))
                kept = so_far >= _last_of(so_far, top_k) - margin
                near[number] = rows[kept], so_far[kept]
        return [self.ranked(query, rows, top_k) for query, (rows, _) in zip(queries, near, strict=True)]

    def ranked(self, query: Array, rows: Array, top_k: int) -> list[Neighbor]:
        """Of some rows the nearest, by their similarities in double precision.

        Args:
            query: (D,), as `as_queries` gives it.
            rows: (N,), whole numbers, in any order; those without a vector are left out.
            top_k: How many to give at most.
        """
        rows = np.sort(rows)
        similarities = np.concatenate(
            [np.empty(0)]
            + [
                cosines(self.vectors[rows[start : start + ROWS_RESCORED]], query)
                for start in range(0, len(rows), ROWS_RESCORED)
            ]
        )
        best_first = np.argsort(-similarities, kind="stable")[:top_k]
        return [
            Neighbor(int(rows[place]), float(similarities[place]))
            for place in best_first
            if np.isfinite(similarities[place])
        ]


def cosines(ones: Array, others: Array) -> Array:
    """The cosines (N,) of the angles between vectors (N, D) and as many others, or one (D,), in double precision."""
    first, second = np.asarray(ones, np.float64), np.asarray(others, np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    similarities = np.einsum("...d,...d->...", first, second) / np.where(lengths == 0, 1.0, lengths)
    return np.round(np.clip(similarities, -1.0, 1.0), DECIMALS) + 0.0  # which makes of -0.0 a zero


def _last_of(scores: Array, top_k: int) -> Any:
    """The smallest of the `top_k` largest scores; -inf where there are fewer."""
    if len(scores) < top_k:
        return -np.inf
    return np.partition(scores, len(scores) - top_k)[len(scores) - top_k]


__all__ = ["Index", "Neighbor", "Progress", "cosines"]

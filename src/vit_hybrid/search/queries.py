"""Pictures in, the nearest pictures of an index out, by the model that the index was made with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypedDict, final

import numpy as np

from ..checkpoints import opening
from ..checkpoints.files import ModelLoadError
from ..errors import argument, escaped, one_line, shown
from ..inference.features import Extractor, FeatureRecord
from ..inference.streaming import Source, error_record
from ..outputs.ranking import ErrorRecord
from ..outputs.vectors import Array, Making, VectorsError, fingerprint
from ..runtimes import DEFAULT_BATCH_SIZE
from .approximate import Approximate
from .duplicates import Group
from .index import Index, Neighbor


class NeighborRecord(TypedDict):
    """A picture of the index, and the cosine of the angle between its vector and the query's."""

    path: str
    similarity: float


@final
class SearchRecord(TypedDict):
    """What became of one query: the nearest pictures of the index, nearest first."""

    path: str
    neighbors: list[NeighborRecord]


@final
class DuplicatesRecord(TypedDict):
    """A group of near-identical pictures: the first in the index's order, and the others with their likeness to it."""

    path: str
    duplicates: list[NeighborRecord]


class Searcher:
    """Pictures in, the nearest pictures of an index out.

    Args:
        index: What is searched; an `Approximate` does not look at every row.
        model: What opens the model that the index was made with; by default the name that the index has of it.
        batch_size: How many pictures go through the model at once.
        engine: What `Extractor.from_pretrained` takes besides.

    Raises:
        VectorsError: The index was made with another model, or the name it has of its own cannot be opened here.
        ModelLoadError: There is no such model.
        EngineError: As `vit_hybrid.engines.load`.

    Example:

    ```python
    >>> from vit_hybrid.search import Index, Searcher

    >>> searcher = Searcher(Index("pictures.parquet"))  # doctest: +SKIP
    >>> next(searcher.stream(["examples/cat.jpg"], top_k=3))  # doctest: +SKIP
    {'path': 'examples/cat.jpg', 'neighbors': [{'path': ..., 'similarity': 0.98}, ...]}
    ```
    """

    def __init__(
        self,
        index: Index | Approximate,
        model: str | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **engine: Any,
    ) -> None:
        self._nearest = index.nearest
        self._index = index.index if isinstance(index, Approximate) else index
        self._batch_size = batch_size
        made = self._index.made
        name = made.model if model is None else model
        advice = f"give that model with {argument('model')}, or embed the pictures anew"
        try:
            weights = opening.open(name).provenance()["weights_sha256"]
        except ModelLoadError as error:
            if model is not None:
                raise
            raise VectorsError(
                f"{shown(self._index.path)}: made with a model that cannot be opened by its name here "
                f"({shown(one_line(error).rstrip('.'))}); {advice}."
            ) from error
        ours = replace(made, model=name, weights_sha256=weights)
        self._refuse_others(ours, advice)  # before the model is loaded
        # As `embed` has it: a row, and so a query, depends on its picture alone.
        extractor = Extractor.from_pretrained(name, batch_size=batch_size, fill_batches=True, **engine)
        ours = replace(
            ours,
            preprocessing=fingerprint(extractor.streaming.preparing.preprocessing),
            dimension=extractor.engine.spec.feature_size or made.dimension,
        )
        self._refuse_others(ours, advice)
        self._extractor = extractor

    def _refuse_others(self, ours: Making, advice: str) -> None:
        difference = self._index.made.difference(ours)
        if difference is not None:
            raise VectorsError(f"{shown(self._index.path)}: made with {difference}; {advice}.")

    def stream(
        self, sources: Iterable[Source], top_k: int, read_ahead: bool | None = None
    ) -> Iterator[SearchRecord | ErrorRecord]:
        """The nearest pictures of the index for each query, nearest first, as soon as its batch is through.

        Equally near ones come in the index's order, but for the query itself, which comes first.

        Args:
            sources: As `Streaming.stream` takes them.
            top_k: How many to give; fewer where the index has not as many vectors.
            read_ahead: As `Streaming.stream` takes it.

        Yields:
            `{"path": ..., "neighbors": [{"path": ..., "similarity": ...}, ...]}`, or `{"path": ..., "error": ...}`.

        Raises:
            VectorsError: A part of the index is damaged, or has been changed meanwhile.
        """
        records = iter(self._extractor.stream(sources, read_ahead))
        while batch := [*islice(records, self._batch_size)]:
            yield from self._answered(batch, top_k)

    def _answered(self, batch: list[FeatureRecord | ErrorRecord], top_k: int) -> Iterator[SearchRecord | ErrorRecord]:
        asked = [record for record in batch if "features" in record and np.isfinite(record["features"]).all()]
        queries = np.stack([record["features"] for record in asked]) if asked else None
        found = [] if queries is None else self._nearest(queries, top_k)
        named = iter(records_of(self._index, found))
        for record in batch:
            if "features" not in record:
                yield record
            elif not np.isfinite(record["features"]).all():
                yield error_record(record["path"], ValueError("the model's features are not finite numbers"))
            else:
                path, neighbors = record["path"], next(named)
                yield SearchRecord(path=path, neighbors=self._itself_first(path, record["features"], neighbors))

    def _itself_first(self, path: str, query: Array, neighbors: list[NeighborRecord]) -> list[NeighborRecord]:
        """Neighbors, of which those as near as the nearest give way to the query itself."""
        if not neighbors:
            return neighbors
        path = escaped(path)  # as the index has it
        highest = neighbors[0]["similarity"]
        ties = [neighbor for neighbor in neighbors if neighbor["similarity"] == highest]
        if len(ties) == len(neighbors) and path not in {neighbor["path"] for neighbor in ties}:
            # There may be more copies of it than were asked for.
            [unit] = self._index.as_queries(query[None])
            for own in self._index.ranked(unit, self._index.rows_called(path), 1):
                if own.similarity == highest:  # or it is another picture by now than when it was embedded
                    neighbors = [NeighborRecord(path=path, similarity=own.similarity), *neighbors[:-1]]
        return sorted(neighbors, key=lambda one: (-one["similarity"], one["path"] != path))


def records_of(index: Index, found: Sequence[Sequence[Neighbor]]) -> list[list[NeighborRecord]]:
    """Neighbors of several queries, by the names of their pictures."""
    rows = [neighbor.row for neighbors in found for neighbor in neighbors]
    names = iter(index.names(rows))
    return [
        [NeighborRecord(path=next(names), similarity=neighbor.similarity) for neighbor in neighbors]
        for neighbors in found
    ]


def duplicates_of(index: Index, groups: Sequence[Group]) -> list[DuplicatesRecord]:
    """Groups by the names of their pictures."""
    others = records_of(index, [group.others for group in groups])
    firsts = index.names([group.row for group in groups])
    return [DuplicatesRecord(path=path, duplicates=one) for path, one in zip(firsts, others, strict=True)]


__all__ = ["DuplicatesRecord", "NeighborRecord", "SearchRecord", "Searcher", "duplicates_of"]

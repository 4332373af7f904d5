"""What an assessment takes of pictures, and where it is kept until all of them were looked at."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, TypeAlias

import numpy as np

from ..data import DataError
from ..data.listing import PICTURE
from ..data.streams import Entry, PictureStream
from ..inference.predictor import Predictor
from ..outputs.assessment import Assessment, AssessmentTally, Assessor, Basis, assessment
from ..outputs.ranking import ErrorRecord, LogitsRecord, OutputRecord

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Pictures of a stream that are counted at once, of which none is read.
COUNTED_AT_ONCE = 65_536


class _Later:
    """A picture's content, fetched when it is read."""

    def __init__(self, fetch: Callable[[], bytes]) -> None:
        self._fetch = fetch

    def read(self) -> bytes:
        return self._fetch()


def given(entries: Iterable[Entry]) -> Iterator[tuple[str, Any]]:
    """Pictures of a stream as (name, source) pairs, which `Predictor.stream` takes."""
    for entry in entries:
        yield entry.path, _Later(entry.content) if callable(entry.content) else entry.content


def count_of(stream: PictureStream) -> int:
    """How many pictures a stream has."""
    copy: PictureStream = pickle.loads(pickle.dumps(stream))  # the stream itself notes what it goes through
    return sum(found.rows for found in copy.ranges(COUNTED_AT_ONCE))


def outputs_of(
    predictor: Predictor, basis: Basis, sources: Iterable[Any], **options: Any
) -> Iterator[LogitsRecord | OutputRecord | ErrorRecord]:
    """What a model makes of pictures, as much of it as is looked at; `options` are those of `stream_logits`."""
    if basis.familiarity:
        return predictor.stream_outputs(sources, **options)
    return predictor.stream_logits(sources, **options)


class Outputs:
    """What a model made of some pictures: of each its logits, and its token and statistics where they are given."""

    def __init__(self) -> None:
        self.logits: list[Array] = []
        self.tokens: list[Array] = []
        self.statistics: list[Array] = []

    def __len__(self) -> int:
        return len(self.logits)

    def add(self, record: Any) -> None:
        """Takes in a record of `outputs_of` that is no error."""
        self.logits.append(np.asarray(record["logits"], np.float32))
        if "token" in record:
            self.tokens.append(record["token"])
            self.statistics.append(record["statistics"])

    def clear(self) -> None:
        """Forgets them."""
        for one in (self.logits, self.tokens, self.statistics):
            one.clear()


class Kept:
    """What is added up over all pictures, and the few numbers of each that lie on the disk.

    Args:
        known: An empty file for those of labeled pictures.
        strangers: Another for those of strangers.
    """

    def __init__(self, known: IO[bytes], strangers: IO[bytes]) -> None:
        self._tally = AssessmentTally()
        self._called = 0
        self._known, self._strangers = known, strangers

    def take(self, tally: AssessmentTally, rows: Array) -> None:
        """Takes in what `Assessor.known` gave."""
        self._tally.merge(tally)
        self._known.write(rows.tobytes())

    def take_strangers(self, called: int, rows: Array) -> None:
        """Takes in what `Assessor.strangers` gave."""
        self._called += called
        self._strangers.write(rows.tobytes())

    def found(self, basis: Basis, labels: Sequence[str], ranked: tuple[Array, Array] | None) -> Assessment:
        """See `outputs.assessment.assessment`."""
        strangers = (self._called, _mapped(self._strangers, len(basis.scores))) if basis.scores else None
        return assessment(basis, labels, self._tally, _mapped(self._known, len(basis.columns)), strangers, ranked)


def _mapped(file: IO[bytes], columns: int) -> Array:
    file.flush()
    if not file.tell():
        return np.empty((0, columns), np.float32)
    return np.memmap(file, np.float32, "r").reshape(-1, columns)


def run_over_strangers(
    predictor: Predictor,
    assessor: Assessor,
    stream: PictureStream,
    kept: Kept,
    at_once: int,
    tell: Callable[[ErrorRecord | None], None],
) -> tuple[ErrorRecord, ...]:
    """Looks at all pictures of a stream; those that could not be read.

    Args:
        predictor: The model.
        assessor: Takes what it makes of them.
        stream: The pictures.
        kept: Where that is kept.
        at_once: How many are assessed together.
        tell: Called after each picture, with its error or None.

    Raises:
        DataError: None could be read.
    """
    skipped: list[ErrorRecord] = []
    outputs, count = Outputs(), 0

    def assess() -> None:
        if len(outputs):
            kept.take_strangers(*assessor.strangers(np.stack(outputs.logits), outputs.tokens, outputs.statistics))
            outputs.clear()

    for record in outputs_of(predictor, assessor.basis, given(stream.entries()), read_ahead=True):
        count += 1
        if "error" in record:
            skipped.append(record)
            stream.passed.add(PICTURE, record["path"])
        else:
            outputs.add(record)
        tell(record if "error" in record else None)
        if len(outputs) == at_once:
            assess()
    assess()
    refuse_none(count, skipped)
    return tuple(skipped)


def refuse_none(count: int, skipped: Sequence[ErrorRecord]) -> None:
    """Raises `DataError` where all of so many strangers were skipped."""
    if len(skipped) == count:
        why = f": {skipped[0]['error']}" if skipped else ""
        raise DataError(f"none of the {count} strangers can be looked at{why}")


__all__ = ["Kept", "Outputs", "count_of", "given", "outputs_of", "refuse_none", "run_over_strangers"]

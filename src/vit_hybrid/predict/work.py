"""What a worker does with a shard: it reads the pictures, runs the model over them, writes the part, says it is done.

A row depends on its picture and on the settings alone: the model always takes as many pictures at once, the places of
broken ones, and what is missing at a shard's end, filled up.
"""

from __future__ import annotations

import base64
import hashlib
import platform
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeAlias, cast

import numpy as np

from ..data.reading_ahead import prepared_ahead
from ..data.sources import SourceError
from ..data.streams import Entry, PictureStream
from ..engines import LoadedEngine
from ..engines.processor import instruction_sets
from ..engines.protocol import Outputs
from ..errors import JobStopped, argument, escaped, one_line, options_named
from ..images.preparing import Pixels, Size
from ..images.reading import DAMAGED, MEMORY, MISSING, UNREADABLE, ImageReadError
from ..inference.facts import INSTRUCTION_SETS, facts_of
from ..inference.predictor import Predictor
from ..inference.shards import Receipt, Shard
from ..inference.streaming import check_prepared, not_finite
from ..outputs.problems import REGRESSION
from ..outputs.ranking import OutputRecord
from ..outputs.vectors import Making, fingerprint
from .places import Folder
from .rows import Columns, Row, decoded, encoded, part_name
from .settings import Settings

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Errors that are not of a picture's file: it cannot be made into the model's input, and the model gives no numbers.
UNFIT, NO_NUMBERS = "unfit", "outputs"


class SourceGone(JobStopped):
    """A source that is no longer what was planned; the message is one line that says what to do.

    Args:
        how: What is other than it was.
    """

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how

    def __str__(self) -> str:
        return (
            f"{self.how.rstrip('.')}: the source changed while it was read; what is done is kept. When it is as it "
            f"was, {argument('resume', True)} goes on."
        )


@dataclass
class _Prepared:
    entry: Entry
    stamp: int
    pixels: Pixels | None = None
    size: Size | None = None
    error: tuple[str, str] | None = None


class PartWorker:
    """Writes the parts of a prediction.

    Args:
        settings: What to do.
        stream: The pictures.
        folder: Where the parts go.
        tell: Called with a word on what is being done while the model is loaded.

    Raises:
        ModelLoadError, EngineError: As `Predictor.from_pretrained`.
    """

    def __init__(
        self, settings: Settings, stream: PictureStream, folder: Folder, tell: Callable[[str], None] | None = None
    ) -> None:
        self._settings = settings
        self._stream = stream
        self._folder = folder
        self._predictor = Predictor.from_pretrained(
            settings.model,
            progress=tell,
            output=settings.output,
            fill_batches=True,
            confidence=settings.confidence and settings.top_k > 0,
            **settings.engine,
        )
        self._engine = cast(LoadedEngine, self._predictor.engine)
        self._preparing = self._predictor.streaming.preparing
        self._columns = columns_of(settings, self._predictor)

    def facts(self) -> dict[str, Any]:
        """What decides a row and shows only when the engine is loaded."""
        engine, confidence = self._engine, self._predictor.confidence
        return {
            **facts_of(engine),
            "threads": self._settings.engine.get("threads"),
            "way": None if self._settings.settled is None else {**self._settings.settled},
            INSTRUCTION_SETS: instruction_sets(),
            "columns": asdict(self._columns),
            "temperature": None if confidence is None else confidence.temperature.tolist(),
        }

    def work(self, shard: Shard) -> Receipt:
        """See `Worker.work`.

        Raises:
            SourceGone: The source changed on the way.
            NoRoom: The disk is full.
        """
        with options_named():  # in the command, a program or a process of a worker: the rows say the same
            return self._work(shard)

    def _work(self, shard: Shard) -> Receipt:
        began = time.monotonic()
        name, form = part_name(shard.number, self._settings.form), self._settings.form
        rows: list[Row] = []
        wanted: Sequence[int] = range(shard.count)
        if shard.again:
            rows = decoded(self._folder.read(name), self._columns, form)
            wanted = [position for position, row in enumerate(rows) if row.error is not None]
        found, stamps = self._found(shard, frozenset(wanted))
        if shard.again:
            for position, row in zip(wanted, found, strict=True):
                rows[position] = row
        else:
            rows = found
        content = encoded(rows, self._columns, form)
        self._folder.write(name, content)
        return Receipt(
            shard=shard.number,
            rows=len(rows),
            errors=sum(row.error is not None for row in rows),
            missing=sum(row.error == MISSING for row in rows),
            seconds=time.monotonic() - began,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            stamps=packed([0 if row.error else stamp for row, stamp in zip(rows, stamps, strict=True)]),
            node=platform.node(),
        )

    def _found(self, shard: Shard, wanted: frozenset[int]) -> tuple[list[Row], list[int]]:
        """The rows of a shard's wanted pictures, and the stamps of all of them."""
        stamps: list[int] = []

        def entries() -> Iterator[tuple[Entry, int]]:
            for position, entry in enumerate(self._stream.read(shard.first, shard.count, shard.units)):
                stamps.append(stamp_of(entry))
                if position in wanted:
                    yield entry, stamps[-1]

        rows: list[Row] = []
        size = self._predictor.batch_size
        try:
            prepared = prepared_ahead(self._prepared, entries(), 2 * size)
            while batch := list(islice(prepared, size)):
                rows += self._rows(batch)
        except SourceError as error:
            raise SourceGone(str(error)) from error
        return rows, stamps

    def _prepared(self, item: tuple[Entry, int]) -> _Prepared:
        entry, stamp = item
        try:
            content = entry.content
            if isinstance(content, SourceError):
                raise content
            source = content() if callable(content) else content
            pixels, size = self._preparing.sized(source, entry.path)
            check_prepared(pixels, self._engine.spec)
            return _Prepared(entry, stamp, pixels, size)
        except Exception as error:  # of a picture alone, whatever its decoder or its store stumbles over
            return _Prepared(entry, stamp, error=error_of(error))

    def _rows(self, batch: Sequence[_Prepared]) -> Iterable[Row]:
        slots = [one.pixels for one in batch]
        outputs = Outputs() if all(pixels is None for pixels in slots) else self._predictor.streaming.forward(slots)
        statistics = self._predictor.streaming.statistics_of(slots)
        for place, one in enumerate(batch):
            row = Row(escaped(one.entry.path))
            if one.error is not None:
                row.error, row.reason = one.error
            else:
                assert one.size is not None
                row.width, row.height = one.size
                given = {name: values[place] for name, values in outputs._asdict().items() if values is not None}
                if (found := statistics[place]) is not None:
                    given["statistics"] = found
                self._say(row, cast(OutputRecord, {"path": row.path, **given}))
            yield row

    def _say(self, row: Row, given: OutputRecord) -> None:
        """Puts what the model gives of a picture into its row."""
        logits, features = given.get("logits"), given.get("features") if self._settings.embeddings else None
        if not all(
            np.isfinite(values).all() for values in (logits, features, given.get("token")) if values is not None
        ):
            row.error, row.reason = NO_NUMBERS, not_finite(self._engine.precision)
            return
        if features is not None:
            with np.errstate(over="ignore"):
                is_held = np.isfinite(features.astype(self._settings.dtype)).all()
            if not is_held:
                row.error, row.reason = NO_NUMBERS, f"its vector has values that {self._settings.dtype} cannot hold"
                return
            row.embedding = features
        if logits is not None and self._columns.values:
            row.values = logits
        elif logits is not None:
            said = self._predictor.said(
                given, self._columns.ranked, self._settings.coverage, self._settings.false_alarms
            )
            row.labels = [one["label"] for one in said["predictions"]]
            row.probabilities = np.array([one["probability"] for one in said["predictions"]], np.float32)
            row.set, row.familiarity = said.get("set"), said.get("familiarity")
            row.none_of_these = said.get("none_of_these")


def columns_of(settings: Settings, predictor: Predictor) -> Columns:
    """The columns of what a model gives."""
    number = len(predictor.labels)
    is_regression = predictor.problem_type == REGRESSION
    sure = predictor.confidence if settings.top_k else None
    made = None
    if settings.embeddings:
        made = Making(
            settings.title or settings.model,
            settings.asked["weights"],
            fingerprint(predictor.preprocessing),
            predictor.engine.spec.feature_size or _size_of_features(predictor),
            settings.dtype,
            settings.normalization,
        )
    return Columns(
        settings.name,
        ranked=0 if is_regression else min(settings.top_k, number),
        sets=sure is not None and bool(sure.sets),
        familiarity=sure is not None and sure.needs_features,
        values=number if is_regression and settings.top_k else 0,
        embedding=made,
        about={"problem_type": predictor.problem_type} if settings.top_k else {},
    )


def _size_of_features(predictor: Predictor) -> int:
    """Of an engine that does not say, by what it gives."""
    engine = cast(LoadedEngine, predictor.engine)
    spec = engine.spec
    features = engine.run(np.zeros((1, spec.num_channels, *spec.image_size), np.float32)).features
    assert features is not None
    return features.shape[1]


def stamp_of(entry: Entry) -> int:
    """What its file is like, in a number: 0 where it is none."""
    stamp = entry.stamp
    return 0 if stamp is None else zlib.crc32(repr(tuple(stamp)).encode()) or 1


def packed(stamps: Sequence[int]) -> str:
    """Numbers of 32 bits as text."""
    return base64.b64encode(zlib.compress(np.array(stamps, "<u4").tobytes(), 1)).decode()


def unpacked(text: str) -> list[int]:
    """What was `packed`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u4").tolist()


def error_of(error: Exception) -> tuple[str, str]:
    """The kind of an error and what is the matter, without the picture's name."""
    if isinstance(error, ImageReadError):
        return error.kind, one_line(error.reason)
    if isinstance(error, MemoryError):
        return MEMORY, "there is not enough memory for it"
    if isinstance(error, FileNotFoundError):
        return MISSING, "no such file"
    if isinstance(error, OSError | SourceError):
        return UNREADABLE, one_line(getattr(error, "strerror", None) or error)
    return (UNFIT if isinstance(error, ValueError) else DAMAGED), one_line(error)


__all__ = ["PartWorker", "SourceGone", "columns_of", "error_of", "packed", "stamp_of", "unpacked"]

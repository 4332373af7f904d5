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
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from ..data.reading_ahead import prepared_ahead
from ..data.sources import SourceError
from ..data.streams import Entry, PictureStream
from ..engines import LoadedEngine
from ..engines.processor import instruction_sets
from ..engines.protocol import Outputs
from ..errors import JobStopped, argument, escaped, one_line, options_named_in_this_thread
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
class _Picture:
    entry: Entry
    pixels: Pixels | None = None
    size: Size | None = None
    error: tuple[str, str] | None = None


@dataclass
class _Read:
    """What stands behind the pictures of a shard.

    Attributes:
        shard: The shard; None where there is an error in its place.
        stamps: Of all its pictures, the ones that are not wanted too.
        before: Its rows as they were, where only failed ones are wanted.
        error: What ended the reading.
    """

    shard: Shard | None
    stamps: list[int]
    before: list[Row]
    error: Exception | None = None


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
        with closing(self.through(iter([shard]))) as receipts:
            return next(receipts)

    def through(self, shards: Iterator[Shard]) -> Generator[Receipt, None, None]:
        """Receipts of shards, each as `work` gives it. While the last pictures of one are computed, the first ones of
        the next are read.

        Args:
            shards: Asked for the next one when the pictures of the one before are read, sooner than its receipt comes.

        Raises:
            As `work`.
        """
        prepared = prepared_ahead(self._prepared, self._pictures(shards), 2 * self._predictor.batch_size)
        with closing(prepared), ThreadPoolExecutor(1, thread_name_prefix="rows") as saying:
            began = time.monotonic()
            while (receipt := self._receipt(prepared, saying, began)) is not None:
                yield receipt
                began = time.monotonic()

    def _pictures(self, shards: Iterator[Shard]) -> Iterator[_Picture | _Read]:
        """The wanted pictures of shards, and behind those of each what else was seen of it."""
        while True:
            stamps: list[int] = []
            before: list[Row] = []
            shard: Shard | None = None
            try:
                shard = next(shards, None)
                if shard is None:
                    return
                if shard.again:
                    before = decoded(
                        self._folder.read(part_name(shard.number, self._settings.form)),
                        self._columns,
                        self._settings.form,
                    )
                for position, entry in enumerate(self._stream.read(shard.first, shard.count, shard.units)):
                    stamps.append(stamp_of(entry))
                    if not shard.again or before[position].error is not None:
                        yield _Picture(entry)
                yield _Read(shard, stamps, before)
            except Exception as error:  # raised in its place, when what was read before is written
                yield _Read(shard, stamps, before, error)
                return

    def _receipt(
        self, prepared: Iterator[_Picture | _Read], saying: ThreadPoolExecutor, began: float
    ) -> Receipt | None:
        """Does the shard whose pictures come next; None where none do."""
        rows: list[Row] = []
        # Rows of a batch are made while the model runs over the next one, which else would leave cores idle.
        said: Future[list[Row]] | None = None
        batch: list[_Picture] = []
        with options_named_in_this_thread():  # in the command, a program or a worker's process: the rows say the same
            for one in prepared:
                if isinstance(one, _Picture):
                    batch.append(one)
                if batch and (len(batch) == self._predictor.batch_size or isinstance(one, _Read)):
                    outputs = self._outputs(batch)
                    rows += said.result() if said else ()
                    said, batch = saying.submit(self._rows, batch, outputs), []
                if isinstance(one, _Read):
                    rows += said.result() if said else ()
                    return self._written(one, rows, began)
        return None

    def _written(self, read: _Read, rows: list[Row], began: float) -> Receipt:
        """Writes the part of a shard."""
        if isinstance(read.error, SourceError):
            raise SourceGone(str(read.error)) from read.error
        if read.error is not None:
            raise read.error
        assert read.shard is not None
        if read.shard.again:
            found = iter(rows)
            rows = [row if row.error is None else next(found) for row in read.before]
        name = part_name(read.shard.number, self._settings.form)
        content = encoded(rows, self._columns, self._settings.form)
        self._folder.write(name, content)
        return Receipt(
            shard=read.shard.number,
            rows=len(rows),
            errors=sum(row.error is not None for row in rows),
            missing=sum(row.error == MISSING for row in rows),
            seconds=time.monotonic() - began,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            stamps=packed([0 if row.error else stamp for row, stamp in zip(rows, read.stamps, strict=True)]),
            node=platform.node(),
        )

    def _prepared(self, one: _Picture | _Read) -> _Picture | _Read:
        if isinstance(one, _Read):
            return one
        with options_named_in_this_thread():
            try:
                content = one.entry.content
                if isinstance(content, SourceError):
                    raise content
                source = content() if callable(content) else content
                one.pixels, one.size = self._preparing.sized(source, one.entry.path)
                check_prepared(one.pixels, self._engine.spec)
            except Exception as error:  # of a picture alone, whatever its decoder or its store stumbles over
                one.pixels, one.error = None, error_of(error)
        return one

    def _outputs(self, batch: Sequence[_Picture]) -> Outputs:
        slots = [one.pixels for one in batch]
        return Outputs() if all(pixels is None for pixels in slots) else self._predictor.streaming.forward(slots)

    def _rows(self, batch: Sequence[_Picture], outputs: Outputs) -> list[Row]:
        statistics = self._predictor.streaming.statistics_of([one.pixels for one in batch])
        all_given = {name: values for name, values in outputs._asdict().items() if values is not None}
        is_finite = np.ones(len(batch), bool)
        for name, values in all_given.items():
            if name != "features" or self._settings.embeddings:
                is_finite &= np.isfinite(values).all(axis=1)
        rows: list[Row] = []
        ranked: list[tuple[Row, OutputRecord]] = []
        for place, one in enumerate(batch):
            row = Row(escaped(one.entry.path))
            rows.append(row)
            if one.error is not None:
                row.error, row.reason = one.error
                continue
            assert one.size is not None
            row.width, row.height = one.size
            if not is_finite[place]:
                row.error, row.reason = NO_NUMBERS, not_finite(self._engine.precision)
                continue
            given = {name: values[place] for name, values in all_given.items()}
            if (found := statistics[place]) is not None:
                given["statistics"] = found
            record = cast(OutputRecord, {"path": row.path, **given})
            if self._is_held(row, record) and "logits" in record and not self._columns.values:
                ranked.append((row, record))
        self._rank(ranked)
        return rows

    def _is_held(self, row: Row, given: OutputRecord) -> bool:
        """Whether a row can hold what the model gives of its picture; then it has what is not ranked."""
        logits, features = given.get("logits"), given.get("features") if self._settings.embeddings else None
        if features is not None:
            with np.errstate(over="ignore"):
                is_held = np.isfinite(features.astype(self._settings.dtype)).all()
            if not is_held:
                row.error, row.reason = NO_NUMBERS, f"its vector has values that {self._settings.dtype} cannot hold"
                return False
            row.embedding = features
        if logits is not None and self._columns.values:
            row.values = logits
        return True

    def _rank(self, given: Sequence[tuple[Row, OutputRecord]]) -> None:
        """Puts what the model says of pictures into their rows."""
        said = self._predictor.said_of_each(
            [record for _, record in given],
            [self._columns.ranked] * len(given),
            self._settings.coverage,
            self._settings.false_alarms,
        )
        for (row, _), found in zip(given, said, strict=True):
            row.labels = [one["label"] for one in found["predictions"]]
            row.probabilities = np.array([one["probability"] for one in found["predictions"]], np.float32)
            row.set, row.familiarity = found.get("set"), found.get("familiarity")
            row.none_of_these = found.get("none_of_these")


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

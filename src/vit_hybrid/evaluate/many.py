"""An evaluation of any number of pictures, by one worker or many: counts are added up, and outputs are not kept.

Workers (`counting`) give counts and sums of their pictures, which are the same however the work is shared. Of a
multi-label model all outputs are ranked for average precision: one float32 a picture and label lies on the disk.
"""

from __future__ import annotations

import csv
import mmap
import os
import platform
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, Protocol, TextIO, TypeAlias

import numpy as np
from PIL import Image

from ..checkpoints import opening
from ..data import DataError
from ..data.listing import PICTURE
from ..data.sources import SourceError
from ..data.streams import PictureStream
from ..errors import argument
from ..images.reading import ImageReadError, open_image
from ..inference.cluster import Cluster, Sharing, connected
from ..inference.facts import INSTRUCTION_SETS, difference
from ..inference.workers import Facts, in_processes, in_this_process, threads_for
from ..outputs.assessment import Assessment, Basis
from ..outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS, MULTI_LABEL
from ..outputs.ranking import ErrorRecord
from ..outputs.scores import Scores, scores_of
from ..runtimes import DEFAULT_BATCH_SIZE
from .assessing import Kept, count_of, refuse_none
from .counting import Counted, Counting, OnNode, Told, Wanted
from .evaluation import report
from .sources import LabeledSource, Reader
from .words import Mistake, Words

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Of strangers, batches that a worker does at once.
BATCHES_OF_STRANGERS = 4


class Progress(Protocol):
    """Is told how an evaluation goes on."""

    def tell(self, text: str) -> None:
        """What is being done that takes long, before pictures are scored."""
        ...

    def begin(self, pictures: int) -> None:
        """So many pictures are about to be scored."""
        ...

    def advance(self, pictures: int, errors: list[ErrorRecord]) -> None:
        """So many more are done, these with errors."""
        ...


@dataclass(frozen=True)
class Measured:
    """What came of an evaluation whose outputs are not kept.

    Attributes:
        problem_type: What the model's outputs mean.
        labels: The names of these, no two alike.
        scores: See `vit_hybrid.outputs.scores`.
        images: How many pictures were scored.
        skipped: Those that could not be, and why.
        notes: What was assumed, a line each.
        seconds: How long it took from the first picture on, without the strangers.
        workers: How many shared the work.
        nodes: On how many machines.
        assessment: How far what the model says can be trusted: see `vit_hybrid.outputs.assessment`.
        unreadable_strangers: The strangers that could not be read, and why.
    """

    problem_type: str
    labels: tuple[str, ...]
    scores: Scores
    images: int
    skipped: tuple[ErrorRecord, ...]
    notes: tuple[str, ...]
    seconds: float
    workers: int
    nodes: int
    assessment: Assessment
    unreadable_strangers: tuple[ErrorRecord, ...]
    _wrong: int = field(repr=False)
    _worst: list[tuple[Mistake, Told, int]] = field(repr=False)
    _reader: Reader = field(repr=False)
    _table: mmap.mmap | None = field(repr=False)
    _max_pixels: int | None = field(default=None, repr=False)

    def report(self) -> dict[str, Any]:
        """See `Evaluation.report`."""
        return report(self, self.images, workers=self.workers, nodes=self.nodes)

    def worst(self, most: int) -> tuple[Iterator[tuple[Mistake, Image.Image]], int]:
        """See `Evaluation.worst`."""

        def items() -> Iterator[tuple[Mistake, Image.Image]]:
            for mistake, shard, place in self._worst[:most]:
                with suppress(ImageReadError, SourceError):  # it could be read a moment ago
                    name, source = self._reader.source(shard, place)
                    yield mistake, open_image(source, name, max_pixels=self._max_pixels)

        return items(), self._wrong

    def write_table(self, file: TextIO) -> None:
        """See `Evaluation.write_table`."""
        csv.writer(file).writerow(Words(self.problem_type, self.labels).head())
        if self._table is not None:
            self._table.seek(0)
            file.writelines(line.decode() for line in iter(self._table.readline, b""))


class _Found:
    """A model as a worker's facts tell of it."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.problem_type: str = facts["problem_type"]
        self.labels: list[str] = facts["labels"]


def measure(
    model: str,
    source: LabeledSource,
    reader: Reader,
    *,
    names: tuple[str, ...] = (),
    sharing: Sharing | None = None,
    mixed: bool = False,
    strict: bool = False,
    table: bool = False,
    mistakes: int = 0,
    coverage: float = DEFAULT_COVERAGE,
    false_alarms: float = DEFAULT_FALSE_ALARMS,
    strangers: PictureStream | None = None,
    progress: Progress | None = None,
    **engine: Any,
) -> Measured:
    """Runs a model over labeled pictures and scores what it says, with as many workers as are asked for.

    Args:
        model: What opens the model.
        source: The pictures.
        reader: Gives them to workers.
        names: The sources as they were given, which nodes of a cluster have to see.
        sharing: Who shares the work; by default this process alone does it.
        mixed: Whether processors of other instruction sets may take part, whose scores may differ in their last digits.
        strict: Stop at a picture that cannot be read, instead of passing over it.
        table: Whether `write_table` is to write a row for each picture.
        mistakes: How many of the worst mistakes `worst` is to give.
        coverage: As `evaluate` takes it.
        false_alarms: Likewise.
        strangers: Likewise.
        progress: Is told how it goes on.
        engine: What `Predictor.from_pretrained` takes besides.

    Raises:
        ModelLoadError: There is no such model.
        DataError: The data are not for this model, no picture can be read, or, with `strict`, one cannot.
        ValueError: Another argument cannot be used.
        JobStopped: It began and cannot go on.
    """
    unlabeled = None if strangers is None else Reader(strangers)
    wanted = Wanted(table, mistakes, coverage, false_alarms, unlabeled)
    who = (sharing or Sharing(), mixed, strict)
    return _Run(model, source, reader, names, *who, wanted, strangers, progress, engine).run()


class _Run:
    def __init__(
        self,
        model: str,
        source: LabeledSource,
        reader: Reader,
        names: tuple[str, ...],
        sharing: Sharing,
        mixed: bool,
        strict: bool,
        wanted: Wanted,
        strangers: PictureStream | None,
        progress: Progress | None,
        engine: Mapping[str, Any],
    ) -> None:
        self._model = model
        self._source = source
        self._reader = reader
        self._names = names
        self._sharing = sharing
        self._mixed = mixed
        self._strict = strict
        self._wanted = wanted
        self._strangers = strangers
        self._progress = progress
        self._engine = dict(engine)
        self._facts: Facts | None = None
        self._labels: tuple[str, ...] = ()
        self._notes: list[str] = []
        self._pictures = 0
        self._began = 0.0
        self._is_told = False
        self._given: dict[int, Told] = {}
        self._skipped: list[tuple[int, int, ErrorRecord]] = []
        self._skipped_strangers: list[tuple[int, int, ErrorRecord]] = []
        self._number_of_strangers = 0
        self._worst: list[tuple[float, int, int, Mistake, Told]] = []
        self._places: dict[int, tuple[int, int]] = {}  # where in the table's file each shard's rows are

    def run(self) -> Measured:
        with ExitStack() as ending:
            cluster = self._cluster(ending)
            workers = cluster.workers if cluster else self._sharing.workers
            table, ranked, truth, *files = (
                ending.enter_context(tempfile.TemporaryFile(prefix="vit-hybrid-")) for _ in range(5)
            )
            kept = Kept(*files)
            tally: Any = None
            wrong, nodes, ended = 0, set[str](), 0.0
            with closing(self._receipts(cluster)) as receipts:
                for counted in receipts:
                    self._take(counted, table, kept)
                    nodes.add(counted.node)
                    if counted.tally is None:
                        continue
                    ended = time.perf_counter()
                    if tally is None:
                        tally = counted.tally
                    else:
                        tally.merge(counted.tally)
                    if counted.ranked is not None and counted.truth is not None:
                        ranked.write(counted.ranked.tobytes())
                        truth.write(counted.truth.tobytes())
                    wrong += counted.wrong
            skipped, strangers = (
                tuple(record for _, _, record in sorted(them, key=lambda one: one[:2]))
                for them in (self._skipped, self._skipped_strangers)
            )
            if tally is None or not tally.count:
                why = f": {skipped[0]['error']}" if skipped else ""
                raise DataError(f"none of the {self._pictures} pictures can be scored{why}")
            for record in skipped:
                self._source.passed.add(PICTURE, record["path"])
            if self._strangers is not None:
                refuse_none(self._number_of_strangers, strangers)
                for record in strangers:
                    self._strangers.passed.add(PICTURE, record["path"])
            assert self._facts is not None
            basis, mapped = Basis(**self._facts["basis"]), self._mapped(ranked, truth)
            missing = basis.missing()
            return Measured(
                problem_type=self._facts["problem_type"],
                labels=self._labels,
                scores=scores_of(tally, self._labels, mapped),
                images=tally.count,
                skipped=skipped,
                notes=(*self._notes, *self._source.last_notes(), *([missing] if missing else [])),
                seconds=ended - self._began,
                workers=workers or 1,
                nodes=len(nodes),
                assessment=kept.found(basis, self._labels, mapped),
                unreadable_strangers=strangers,
                _wrong=wrong,
                _worst=[(mistake, shard, place) for _, _, place, mistake, shard in self._worst],
                _reader=self._reader,
                _table=self._in_order(table),
                _max_pixels=self._engine.get("max_pixels"),
            )

    def _cluster(self, ending: ExitStack) -> Cluster | None:
        if self._sharing.ray is None:
            return None
        if self._progress is not None:
            self._progress.tell("Connecting to Ray")
        return ending.enter_context(connected(self._sharing))

    def _receipts(self, cluster: Cluster | None) -> Generator[Counted, None, None]:
        workers = self._sharing.workers
        if self._engine.get("threads") is None:
            self._engine["threads"] = cluster.threads if cluster else threads_for(workers or 1)
        make = partial(Counting, self._model, self._engine, self._reader, self._wanted)
        if cluster is not None:
            made = opening.open(self._model).provenance()
            on_node = OnNode(make, self._model, made, self._names, os.getcwd(), platform.node())
            return cluster.receipts(on_node, self._shards(), self._stated)
        if workers is None:
            tell = None if self._progress is None else self._progress.tell
            return in_this_process(partial(make, tell=tell, each=self._each), self._shards(), self._stated)
        return in_processes(make, self._shards(), self._stated, workers, self._engine["threads"])

    def _stated(self, facts: Facts) -> None:
        """Looks at the labels when a worker says what its model calls its outputs; sees that all are alike."""
        if self._facts is not None:
            allowed = {INSTRUCTION_SETS: self._facts[INSTRUCTION_SETS]} if self._mixed else {}
            how = difference(self._facts, {**facts, **allowed})
            if how is not None:
                if facts[INSTRUCTION_SETS] != self._facts[INSTRUCTION_SETS]:
                    how += f" (with {argument('mixed', True)} a processor of another kind may take part)"
                raise ValueError(f"workers are not alike: {how}.")
            return
        self._facts = facts
        if self._progress is not None:
            self._progress.tell("Looking at labels")
        self._labels, self._notes, self._pictures = self._source.begin(_Found(facts))
        if self._strangers is not None:
            self._number_of_strangers = count_of(self._strangers)
        if self._progress is not None:
            self._progress.begin(self._pictures + self._number_of_strangers)
        self._began = time.perf_counter()

    def _shards(self) -> Iterator[Told]:
        deviations, number = self._source.deviations(), 0
        batch_size = self._engine.get("batch_size", DEFAULT_BATCH_SIZE)
        is_shared = self._sharing.workers is not None or self._sharing.ray is not None
        for shard in self._source.shards(batch_size, is_shared):
            told = Told(**vars(shard), labels=self._labels, deviations=deviations)
            self._given[told.number] = told
            yield told
            number = told.number + 1
        if self._strangers is None:
            return
        for found in self._strangers.ranges(BATCHES_OF_STRANGERS * batch_size):
            place = (number, found.first, found.last, found.rows)
            self._given[number] = told = Told(*place, units=found.units, labels=self._labels, are_strangers=True)
            yield told
            number += 1

    def _take(self, counted: Counted, table: IO[bytes], kept: Kept) -> None:
        shard = self._given.pop(counted.shard)
        if counted.strangers is not None:
            self._skipped_strangers += ((counted.shard, place, record) for place, record in counted.skipped)
            self._tell_of(shard.count, counted)
            kept.take_strangers(*counted.strangers)
            return
        assert counted.assessed is not None
        kept.take(*counted.assessed)
        self._skipped += ((counted.shard, place, record) for place, record in counted.skipped)
        self._tell_of(len(shard.targets), counted)
        new = [(badness, counted.shard, place, mistake, shard) for badness, place, mistake in counted.worst]
        self._worst = sorted([*self._worst, *new], key=lambda one: (-one[0], *one[1:3]))[: self._wanted.mistakes]
        content = counted.table.encode()
        self._places[counted.shard] = (table.tell(), len(content))
        table.write(content)

    def _each(self, error: ErrorRecord | None) -> None:
        """Hears of a picture as soon as it is done."""
        self._is_told = True
        self._tell(1, [] if error is None else [error])

    def _tell_of(self, pictures: int, counted: Counted) -> None:
        """Hears of the pictures of a shard, of other processes than this one, which tells of each."""
        if not self._is_told:
            self._tell(pictures, [record for _, record in counted.skipped])

    def _tell(self, pictures: int, errors: list[ErrorRecord]) -> None:
        """Tells that so many more are done; with `strict`, an error ends it."""
        if errors and self._strict:
            raise DataError(errors[0]["error"])
        if self._progress is not None:
            self._progress.advance(pictures, errors)

    def _mapped(self, ranked: IO[bytes], truth: IO[bytes]) -> tuple[Array, Array] | None:
        assert self._facts is not None
        if self._facts["problem_type"] != MULTI_LABEL:
            return None
        ranked.flush()
        truth.flush()
        shape = (-1, len(self._labels))
        return np.memmap(ranked, np.float32, "r").reshape(shape), np.memmap(truth, np.bool_, "r").reshape(shape)

    def _in_order(self, table: IO[bytes]) -> mmap.mmap | None:
        """The rows of the table in the order of the pictures, mapped from a file that is gone from the folder."""
        if not any(size for _, size in self._places.values()):
            return None
        with tempfile.TemporaryFile(prefix="vit-hybrid-") as found:
            for _, (start, size) in sorted(self._places.items()):
                table.seek(start)
                found.write(table.read(size))
            found.flush()
            return mmap.mmap(found.fileno(), 0, access=mmap.ACCESS_READ)


__all__ = ["Measured", "Progress", "measure"]

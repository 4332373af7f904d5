"""A prediction over any number of pictures, which goes on where it was stopped.

The source's order is cut into shards, each fixed in the manifest before its first picture. Workers write a part for
each and hand back receipts. What is done is found by listing the parts: no picture is read for it, none is remembered.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import Any, Protocol

from ..assets import BUILT_IN_MODEL
from ..data.streams import PictureStream, open_stream
from ..data.streams.files import TAR, kind_of_file
from ..engines.settling import settle
from ..errors import JobStopped, argument, needs, shown
from ..files import NoRoom
from ..inference.cluster import Cluster, Sharing, connected
from ..inference.facts import INSTRUCTION_SETS, difference
from ..inference.shards import Receipt, Shard
from ..inference.workers import Facts, in_processes, in_this_process, threads_for
from ..outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS, DEFAULT_TOP_K
from ..outputs.vectors import NAMES, Dtype, Normalization
from ..runtimes import DEFAULT_BATCH_SIZE
from .checking import damaged_parts
from .nodes import OnNode
from .output import Output
from .rows import JSON_LINES, PARQUET, Columns, columns_from, part_name
from .settings import Settings
from .work import PartWorker, SourceGone

# Seconds that a part is to take: the first few of each worker, so that a run that is killed soon has come somewhere;
# and all others, between what a kill costs and how many files there are.
FIRST_SECONDS, PART_SECONDS = 1.0, 10.0
FIRST_PARTS = 4
# However fast, so that a part of long vectors fits into memory several times.
MOST_ROWS = 32_768
# So many pictures are looked for to tell whether the run is long enough for a race; more make it no longer.
MANY_ROWS = 100_000
# How a source may change so that what was done is no longer of it.
GONE = ("changed", "vanished")
# Of a rate, the weight of the part that was done last.
NEWEST = 0.5


class Progress(Protocol):
    """Is told how a run goes on."""

    def tell(self, text: str) -> None:
        """What is being done that takes long, before there are rows."""
        ...

    def begin(self, stream: PictureStream) -> None:
        """A worker is ready for the first shard."""
        ...

    def advance(self, rows: int, errors: int, new_rows: int) -> None:
        """A shard is done: so many rows are there, with those from before, and so many are of this run."""
        ...


@dataclass(frozen=True)
class Summary:
    """What came of a run.

    Attributes:
        output: Where the rows are.
        rows: How many there are.
        errors: How many of them are of pictures that could not be read.
        seconds: That this run took.
        parts: How many parts were written, in all runs.
        workers: How many worked in this run; 0 where there was nothing to do.
        nodes: On how many machines they did.
        new_rows: Rows that this run added or replaced.
    """

    output: str
    rows: int
    errors: int
    seconds: float
    parts: int
    workers: int
    nodes: int
    new_rows: int


def predict(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = BUILT_IN_MODEL,
    top_k: int = DEFAULT_TOP_K,
    embeddings: bool = False,
    coverage: float = DEFAULT_COVERAGE,
    false_alarms: float = DEFAULT_FALSE_ALARMS,
    uncalibrated: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    retry_errors: bool = False,
    verify: bool = False,
    workers: int | None = None,
    ray: str | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    mixed: bool = False,
    rows_per_part: int | None = None,
    progress: Progress | None = None,
    **engine: Any,
) -> Summary:
    """Predicts the labels of any number of pictures, a row each, into a folder of parquet files, a CSV or JSON Lines.

    Args:
        sources: Folders, globs, text, CSV or JSON Lines files of paths, parquet with a column of pictures, webdataset
            tars; local or behind an address that fsspec opens: see `vit_hybrid.data.streams`.
        output: A name that ends in `.parquet` (a folder of parts), `.csv` or `.jsonl`.
        model: What `Predictor.from_pretrained` takes, by name.
        top_k: How many labels a row has at most.
        embeddings: Whether a row has the vector that the classifier takes, too; not in CSV.
        coverage: How often sets of labels are to hold the truth, 0 to 1, of a calibrated model.
        false_alarms: Which share of pictures of what the model knows may be called none of these, likewise.
        uncalibrated: Whether its rows are as those of a model that was not calibrated.
        resume: Whether to go on with what a run has written there, or begin where there is nothing.
        overwrite: Whether to replace what a run has written there.
        retry_errors: Whether rows of pictures that could not be read are tried again; goes on as `resume` does.
        verify: Whether all that was done is compared with the parts and the pictures' files, first; likewise.
        workers: How many processes share the work and the cores, 1 or more; by default it is done in this process.
            With `ray`, how many actors do, by default as many as there is room for.
        ray: "local" for Ray on this machine, "auto" for the cluster that this machine is a node of, or a cluster's
            address, "10.0.0.5:6379".
        cpus_per_worker: With `ray`, the cores of a worker; by default those of a node, or its share of them.
        gpus_per_worker: With `ray`, the GPUs of a worker, a part of 1 where several share one.
        mixed: Whether processors of other instruction sets may take part, whose rows may differ in their last digits.
        rows_per_part: How many pictures a part has; by default what takes about a second, later about ten.
        progress: Is told how it goes on.
        engine: What `Predictor.from_pretrained` takes besides, such as `engine`, `precision`, `batch_size`.

    Raises:
        ModelLoadError: There is no such model.
        OutputTaken: Something lies at `output`.
        ValueError: Another argument cannot be used; there is no picture; settings or pictures are not those of before.
        JobStopped: It began and cannot go on; what is done is kept.
    """
    if top_k < 1:
        raise ValueError(f"{argument('top_k')} is {top_k}; expected 1 or more.")
    place = Output(os.fspath(output))
    if embeddings and place.form not in (PARQUET, JSON_LINES):
        raise ValueError(
            f"{argument('embeddings', True)} gives vectors, which CSV has no column for; write to {PARQUET} or "
            f"{JSON_LINES}."
        )
    names = _names(sources)
    settings = Settings(
        os.fspath(model),
        place.form,
        _name_column(names),
        top_k=top_k,
        embeddings=embeddings,
        confidence=not uncalibrated,
        coverage=coverage,
        false_alarms=false_alarms,
        engine=engine,
    )
    sharing = Sharing(workers, ray, cpus_per_worker, gpus_per_worker)
    run = _Run(settings, names, place, sharing, mixed, rows_per_part, progress)
    return run.run(resume, overwrite, retry_errors, verify)


def embed(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = BUILT_IN_MODEL,
    dtype: Dtype = "float32",
    normalization: Normalization = "none",
    resume: bool = False,
    overwrite: bool = False,
    retry_errors: bool = False,
    verify: bool = False,
    workers: int | None = None,
    ray: str | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    mixed: bool = False,
    rows_per_part: int | None = None,
    progress: Progress | None = None,
    **engine: Any,
) -> Summary:
    """Embeds any number of pictures: of each the vector that the model's classifier takes, into a folder of parquet.

    Args:
        sources: As `predict` takes them.
        output: A name that ends in `.parquet`: a folder of parts, whose metadata say what model the vectors are of.
        model: As `predict` takes it.
        dtype: "float32", or "float16", which takes half the room.
        normalization: "none", or "l2" for vectors of length 1.
        resume: As `predict` takes it, and so all others.
        overwrite: Likewise.
        retry_errors: Likewise.
        verify: Likewise.
        workers: Likewise.
        ray: Likewise.
        cpus_per_worker: Likewise.
        gpus_per_worker: Likewise.
        mixed: Likewise.
        rows_per_part: Likewise.
        progress: Likewise.
        engine: Likewise.

    Raises:
        As `predict`.
    """
    place = Output(os.fspath(output))
    if place.form != PARQUET:
        raise ValueError(f"{shown(output)}: vectors go into parquet; expected a name that ends in {PARQUET}.")
    names = _names(sources)
    settings = Settings(
        os.fspath(model),
        place.form,
        _name_column(names),
        embeddings=True,
        dtype=dtype,
        normalization=normalization,
        engine=engine,
    )
    sharing = Sharing(workers, ray, cpus_per_worker, gpus_per_worker)
    run = _Run(settings, names, place, sharing, mixed, rows_per_part, progress)
    return run.run(resume, overwrite, retry_errors, verify)


def _names(sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    given = [sources] if isinstance(sources, str | os.PathLike) else sources
    return tuple(os.fspath(one) for one in given)


def _name_column(sources: Sequence[str]) -> str:
    """What the first column is called: members of tars have keys, all others paths."""
    path, key = NAMES
    return key if all(kind_of_file(name) == TAR for name in sources) else path


class _Run:
    def __init__(
        self,
        settings: Settings,
        names: tuple[str, ...],
        output: Output,
        sharing: Sharing,
        mixed: bool,
        rows_per_part: int | None,
        progress: Progress | None,
    ) -> None:
        if output.form == PARQUET and find_spec("pyarrow") is None:
            raise ValueError(f"{shown(output.name)}: {needs('writing parquet', ['pyarrow'], 'predict')}")
        if rows_per_part is not None and rows_per_part < 1:
            raise ValueError(f"{argument('rows_per_part')} is {rows_per_part}; expected 1 or more.")
        self._settings = settings
        self._names = names
        self._output = output
        self._manifest = output.manifest
        self._sharing = sharing
        self._workers = sharing.workers
        self._cluster: Cluster | None = None
        self._mixed = mixed
        self._rows_per_part = rows_per_part
        self._progress = progress
        self._rate = 0.0
        self._nodes: set[str] = set()
        self._new_rows = 0
        self._may_have_grown = False
        self._has_begun = self._overwrites = False

    def run(self, resume: bool, overwrite: bool, retry_errors: bool, verify: bool) -> Summary:
        began = time.monotonic()
        goes_on, self._overwrites = resume or retry_errors or verify, overwrite
        if overwrite and goes_on:
            raise ValueError(f"{argument('overwrite', True)} begins anew; it does not go with what goes on.")
        if goes_on or overwrite:
            self._output.check_ours()
        else:
            self._output.check_free()
        asked = self._settings.asked  # opens the model, before anything is written
        try:
            with self._on_cluster(), self._output.for_this_run():
                if not overwrite and self._manifest.is_there():
                    self._manifest.read()
                is_new = not self._manifest.state.asked
                stream = open_stream(self._names, outline=None if is_new else self._manifest.state.outline)
                if not is_new:
                    self._check_settings(asked)
                    self._check_source(stream)
                self._settle()
                done = self._output.done()
                if verify and done:
                    done -= damaged_parts(self._output, stream, self._columns(), self._looked)
                self._do(stream, self._shards(stream, done, retry_errors), is_new)
                self._output.join(self._columns())
        except NoRoom as error:
            raise JobStopped(
                f"{str(error).rstrip('.')}. What is done is kept; {argument('resume', True)} goes on."
            ) from error
        state = self._manifest.state
        return Summary(
            output=self._output.name,
            rows=state.rows,
            errors=state.errors,
            seconds=time.monotonic() - began,
            parts=len(state.done),
            workers=(self._workers or 1) if self._nodes else 0,
            nodes=len(self._nodes),
            new_rows=self._new_rows,
        )

    @contextmanager
    def _on_cluster(self) -> Iterator[None]:
        """While this lasts there is the cluster that was asked for, if one was; before anything is taken away."""
        if self._sharing.ray is None:
            yield
            return
        if self._progress is not None:
            self._progress.tell("Connecting to Ray")
        with connected(self._sharing) as self._cluster:
            self._workers = self._cluster.workers
            yield

    def _check_settings(self, asked: Mapping[str, Any]) -> None:
        state = self._manifest.state
        asked = {"sources": list(self._names), **asked}
        self._refuse(difference({"sources": list(state.names), **state.asked}, asked))
        if not state.facts:
            return
        chosen = self._settings.chosen()
        self._refuse(difference({name: state.facts[name] for name in chosen}, chosen))
        self._settings = self._settings.with_threads(state.facts["threads"])
        made = self._columns().embedding
        if made is not None:
            self._settings = self._settings.titled(made.model)

    def _settle(self) -> None:
        """Fixes how the model runs before the first row: as before where there are rows, else as it is fastest here."""
        facts = self._manifest.state.facts
        if facts:
            self._settings = self._settings.settled_as(facts.get("way"))
            return
        engine = self._settings.engine
        threads = engine.get("threads")
        if threads is None and self._cluster is not None:
            threads = self._cluster.threads
        elif threads is None and self._workers is not None:
            threads = threads_for(self._workers)
        found = settle(
            self._settings.model,
            {**engine, "threads": threads, "output": self._settings.output},
            engine.get("batch_size"),
            lambda: next((one.rows for one in open_stream(self._names).ranges(MANY_ROWS)), 0),
            may_race=self._cluster is None,
            steadily=True,
            tell=None if self._progress is None else self._progress.tell,
        )
        way = None if found.way is None else {**asdict(found.way), "batch_size": found.batch_size}
        self._settings = self._settings.settled_as(way)

    def _check_source(self, stream: PictureStream) -> None:
        change = stream.change()
        if change.kind in GONE:
            raise ValueError(
                f"{shown(self._output.name)}: the source is not what it was when these rows were written: "
                f"{change.difference.rstrip('.')}. Bring it back, or begin anew ({argument('overwrite', True)})."
            )
        self._may_have_grown = change.kind == "grew"

    def _refuse(self, how: str | None) -> None:
        if how is not None:
            raise ValueError(
                f"{shown(self._output.name)}: this was begun with other settings: {how}. Give the same to go on, or "
                f"{argument('overwrite', True)} to begin anew."
            )

    def _shards(self, stream: PictureStream, done: set[int], retry_errors: bool) -> Iterator[Shard]:
        """What is to be done: what was settled and is not done, failed rows where they are wanted, and all the rest."""
        state = self._manifest.state
        self._rate = state.rate
        for shard in list(state.shards):
            if shard.number not in done:
                yield shard
            elif shard.number in state.again or (retry_errors and state.done[shard.number].errors):
                self._manifest.begin_again(shard.number)
                yield replace(shard, again=True)
        if state.is_whole and not self._may_have_grown:
            return
        size = self._size()
        ranges = stream.ranges(size, state.shards[-1].last if state.shards else None)
        while (found := next(ranges, None)) is not None:
            shard = Shard(len(state.shards), found.first, found.last, found.rows, units=found.units)
            self._manifest.settle(shard, found.seen, self._rate)
            yield shard
            if (now := self._size()) != size:
                size = now
                ranges = stream.ranges(size, found.last)
        self._manifest.close(stream.outline())

    def _size(self) -> int:
        """How many pictures the next part is to have: a power of two of batches, which seldom changes."""
        if self._rows_per_part is not None:
            return self._rows_per_part
        batch = self._settings.engine.get("batch_size") or DEFAULT_BATCH_SIZE
        is_early = len(self._manifest.state.shards) < FIRST_PARTS * (self._workers or 1)
        batches = self._rate * (FIRST_SECONDS if is_early else PART_SECONDS) / batch
        return max(batch, min(batch * 2 ** round(math.log2(max(batches, 1))), MOST_ROWS // batch * batch))

    def _do(self, stream: PictureStream, shards: Iterator[Shard], is_new: bool) -> None:
        if not is_new:
            first = next(shards, None)
            if first is None:
                return
            self._output.take_apart()
            shards = chain([first], shards)
        with closing(self._receipts(stream, shards)) as receipts:
            for receipt in receipts:
                if receipt.missing:
                    self._check_not_gone(receipt)
                if receipt.shard not in self._manifest.state.again:  # whose rows were not all computed
                    rate = receipt.rows / max(receipt.seconds, 1e-6)
                    self._rate = NEWEST * rate + (1 - NEWEST) * self._rate if self._rate else rate
                self._manifest.finish(receipt)
                self._nodes.add(receipt.node)
                self._new_rows += receipt.rows
                if self._progress is not None:
                    state = self._manifest.state
                    self._progress.advance(state.rows, state.errors, self._new_rows)

    def _check_not_gone(self, receipt: Receipt) -> None:
        """Tells pictures that never were there from a disk that was taken away, whose rows are not kept."""
        change = open_stream(self._names, outline=self._manifest.state.outline).change()
        if change.kind in GONE:
            if receipt.shard not in self._manifest.state.done:
                self._output.folder.remove([part_name(receipt.shard, self._output.form)])
            raise SourceGone(change.difference)

    def _receipts(self, stream: PictureStream, shards: Iterator[Shard]) -> Generator[Receipt, None, None]:
        cluster = self._cluster
        threads = self._settings.with_threads(cluster.threads if cluster else threads_for(self._workers or 1))
        make = partial(PartWorker, threads, stream, self._output.folder)
        if cluster is not None:
            on_node = OnNode(make, threads, self._output.folder, self._names, os.getcwd(), platform.node())
            return cluster.receipts(on_node, shards, partial(self._stated, stream))
        if self._workers is None:
            tell = None if self._progress is None else self._progress.tell
            return in_this_process(partial(make, tell=tell), shards, partial(self._stated, stream))
        return in_processes(make, shards, partial(self._stated, stream), self._workers, threads.engine["threads"])

    def _stated(self, stream: PictureStream, facts: Facts) -> None:
        """Takes a worker's facts for those of the run, or sees that they are the same."""
        state = self._manifest.state
        if state.facts:
            allowed = {INSTRUCTION_SETS: state.facts[INSTRUCTION_SETS]} if self._mixed else {}
            how = difference(state.facts, {**facts, **allowed})
            if how is not None and facts[INSTRUCTION_SETS] != state.facts[INSTRUCTION_SETS]:
                how += f" (with {argument('mixed', True)} a processor of another kind may take part)"
            self._refuse(how)
        else:
            if self._overwrites:  # now that nothing more can be wrong with what takes its place
                self._output.remove()
            self._output.begin()
            if not state.asked:
                self._manifest.begin(self._settings.asked, self._names)
            self._manifest.state_facts(facts)
        if self._progress is not None and not self._has_begun:
            self._progress.begin(stream)
        self._has_begun = True

    def _looked(self, number: int) -> None:
        if self._progress is not None:
            self._progress.tell(
                f"Looking at what was done: {number + 1:,} of {len(self._manifest.state.shards):,} parts"
            )

    def _columns(self) -> Columns:
        return columns_from(self._manifest.state.facts["columns"])


__all__ = ["Progress", "Summary", "embed", "predict"]

"""What a worker of an evaluation does with a shard: it runs the model over its pictures and counts what comes of it."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from ..checkpoints import opening
from ..data.sources import SourceError
from ..engines.processor import instruction_sets
from ..errors import JobStopped, escaped, options_named
from ..inference.facts import INSTRUCTION_SETS, check_alike, check_seen, facts_of, stand_in
from ..inference.predictor import Predictor
from ..inference.shards import Shard
from ..outputs.assessment import AssessmentTally, Assessor
from ..outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS, MULTI_LABEL
from ..outputs.ranking import ErrorRecord
from ..outputs.tallies import TALLIES, Tally
from .assessing import Outputs, outputs_of
from .sources import LabeledShard, Reader
from .words import Mistake, Words

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Counted:
    """What a worker says once a shard is done.

    Attributes:
        shard: The shard's number.
        tally: Of its pictures; None of strangers.
        skipped: Those that gave no outputs, each with its place among the shard's.
        table: Their rows of predictions.csv, where it is wanted.
        wrong: Of how many the model is wrong.
        worst: The worst of these: how bad, the place among the shard's, and what to tell.
        ranked: Of a multi-label model the logits, (N, labels) float32, which average precision ranks.
        truth: And the targets, (N, labels) bool.
        assessed: What `Assessor.known` gives of them.
        strangers: Of a shard of strangers what `Assessor.strangers` gives; of another None.
        node: The machine that did it.
    """

    shard: int
    tally: Tally | None
    skipped: list[tuple[int, ErrorRecord]]
    table: str
    wrong: int
    worst: list[tuple[float, int, Mistake]]
    ranked: Array | None
    truth: Array | None
    assessed: tuple[AssessmentTally, Array] | None
    strangers: tuple[int, Array] | None
    node: str


@dataclass(frozen=True)
class Wanted:
    """What an evaluation is to give besides scores.

    Attributes:
        table: Whether the rows of predictions.csv.
        mistakes: How many of the worst mistakes.
        coverage: How often sets of labels are to hold the truth.
        false_alarms: Which share of pictures of what the model knows may be called none of these.
        strangers: Gives the strangers that are to be told from the pictures; None where there are none.
    """

    table: bool = False
    mistakes: int = 0
    coverage: float = DEFAULT_COVERAGE
    false_alarms: float = DEFAULT_FALSE_ALARMS
    strangers: Reader | None = None


class Counting:
    """Counts the pictures of an evaluation.

    Args:
        model: What opens the model.
        engine: What `Predictor.from_pretrained` takes besides.
        reader: Gives the pictures.
        wanted: What to give besides counts.
        tell: Called with a word on what is being done while the model is loaded.
        each: Called after each picture, with its error or None; may raise.

    Raises:
        ModelLoadError, EngineError: As `Predictor.from_pretrained`.
        ValueError: As `Assessor`.
    """

    def __init__(
        self,
        model: str,
        engine: Mapping[str, Any],
        reader: Reader,
        wanted: Wanted,
        tell: Callable[[str], None] | None = None,
        each: Callable[[ErrorRecord | None], None] | None = None,
    ) -> None:
        self._predictor = Predictor.from_pretrained(model, progress=tell, **engine)
        self._threads = engine.get("threads")
        self._reader = reader
        self._wanted = wanted
        self._assessor = Assessor(
            self._predictor.problem_type,
            self._predictor.confidence,
            wanted.coverage,
            wanted.false_alarms,
            wanted.strangers is not None,
        )
        self._each = each

    def facts(self) -> dict[str, Any]:
        """What decides the scores, and what the model calls its outputs."""
        return {
            **facts_of(self._predictor.engine),  # type: ignore[arg-type]  # one that was loaded by name
            INSTRUCTION_SETS: instruction_sets(),
            "threads": self._threads,
            "problem_type": self._predictor.problem_type,
            "labels": list(self._predictor.labels),
            "basis": asdict(self._assessor.basis),
        }

    def work(self, shard: Shard) -> Counted:
        """See `Worker.work`.

        Raises:
            JobStopped: The source changed on the way.
        """
        assert isinstance(shard, Told)
        with options_named():
            try:
                if shard.are_strangers:
                    return self._strangers(shard)
                temperature = self._assessor.basis.temperature
                return self._counted(shard, Words(self._predictor.problem_type, shard.labels, temperature))
            except SourceError as error:
                raise JobStopped(f"{str(error).rstrip('.')}: the source changed while it was read.") from error

    def _counted(self, shard: Told, words: Words) -> Counted:
        wanted = self._wanted
        rows, paths, found, skipped = self._ran(self._reader, shard)
        tally = TALLIES[words.problem_type](len(words.labels))
        outputs = np.array(found.logits, np.float32).reshape(len(rows), len(words.labels))
        targets = shard.targets[rows]
        table, worst, wrong = io.StringIO(), [], 0
        if rows:
            tally.add(outputs, targets)
        if rows and (wanted.table or wanted.mistakes):
            probabilities = words.probabilities(outputs)
            if wanted.table:
                told = zip(map(escaped, paths), targets, probabilities, strict=True)
                csv.writer(table).writerows(words.row(*one) for one in told)
            badness, is_wrong = words.badness(outputs, targets, shard.deviations)
            wrong = int(is_wrong.sum())
            order = np.argsort(-badness, kind="stable")
            for at in order[is_wrong[order]][: wanted.mistakes]:
                place = rows[at] if shard.picked is None else int(shard.picked[rows[at]])
                mistake = words.mistake(shard.start + place, paths[at], targets[at], probabilities[at])
                worst.append((float(badness[at]), rows[at], mistake))
        is_ranked = words.problem_type == MULTI_LABEL
        return Counted(
            shard=shard.number,
            tally=tally,
            skipped=skipped,
            table=table.getvalue(),
            wrong=wrong,
            worst=worst,
            ranked=outputs if is_ranked else None,
            truth=targets > 0 if is_ranked else None,
            assessed=self._assessor.known(outputs, targets, found.tokens, found.statistics),
            strangers=None,
            node=platform.node(),
        )

    def _strangers(self, shard: Told) -> Counted:
        assert self._wanted.strangers is not None
        rows, _, found, skipped = self._ran(self._wanted.strangers, shard)
        outputs = np.array(found.logits, np.float32).reshape(len(rows), len(shard.labels))
        assessed = self._assessor.strangers(outputs, found.tokens, found.statistics)
        return Counted(shard.number, None, skipped, "", 0, [], None, None, None, assessed, platform.node())

    def _ran(self, reader: Reader, shard: Told) -> tuple[list[int], list[str], Outputs, list[tuple[int, ErrorRecord]]]:
        """Runs the model over a shard: where the pictures stand that gave outputs, what they are called, the outputs;
        and the others, each with its place."""
        rows: list[int] = []
        paths: list[str] = []
        found = Outputs()
        skipped: list[tuple[int, ErrorRecord]] = []
        with self._predictor.streaming.filled():
            records = outputs_of(self._predictor, self._assessor.basis, reader.read(shard), read_ahead=True)
            for place, record in enumerate(records):
                error: ErrorRecord | None = None
                if "error" in record:
                    error = record
                    skipped.append((place, error))
                else:
                    rows.append(place)
                    paths.append(record["path"])
                    found.add(record)
                if self._each is not None:
                    self._each(error)
        return rows, paths, found, skipped


@dataclass(frozen=True)
class Told(LabeledShard):
    """A shard with what a worker needs to know of the whole.

    Attributes:
        labels: What the outputs are called.
        deviations: Of the targets of a regression: see `Words.badness`.
        are_strangers: Whether its pictures have no labels, and are to be told from those that have.
    """

    labels: tuple[str, ...] = ()
    deviations: Any = None
    are_strangers: bool = False


@dataclass(frozen=True)
class OnNode:
    """Makes a worker that works as it would where the driver is.

    Attributes:
        make: Makes it there.
        model: What opens the model.
        made: What the driver found under this name.
        sources: As they were given.
        place: The folder in which the driver was started, of which names are relative.
        driver: The driver's machine.
    """

    make: Callable[[], Counting]
    model: str
    made: Mapping[str, Any]
    sources: tuple[str, ...]
    place: str
    driver: str

    def __call__(self) -> Counting:
        """The worker.

        Raises:
            ValueError: This node does not see the driver's files, or has another model.
        """
        stand_in(self.place)
        check_seen(self.sources)
        check_alike(self.driver, self.made, lambda: opening.open(self.model).provenance())
        return self.make()


__all__ = ["Counted", "Counting", "OnNode", "Told", "Wanted"]

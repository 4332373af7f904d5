"""How far a model's answers can be trusted, over any number of pictures: before and after calibration; NumPy.

What can be added up is (`AssessmentTally`); what ranks all pictures, calibration errors of bins of equal mass, whom to
answer and who is a stranger, needs a few numbers of each, which `Assessor` gives as rows of float32, to be kept in a
file. Neither depends on how the pictures are put together, nor on the order in which they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

import numpy as np

from ..errors import argument
from . import reliability
from .confidence import Confidence, check_levels
from .problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .ranking import PROBABILITIES, softmax
from .reliability import BINS, Answers, Bin, Detection
from .sets import promised
from .strangers import (
    DISTANCES,
    ENTROPY,
    NEIGHBORS,
    SOFTMAX,
    VIM,
    Distances,
    few_at_once,
    generalized_entropy,
    unsure,
)

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

BEFORE, AFTER = "before", "after"
RIGHT = "right"
# The sum of those that familiarity is made of, and all scores that tell strangers; the virtual logit needs the
# classifier's weights, which not every engine has.
COMBINATION = "combination"
OF_LOGITS = (SOFTMAX, ENTROPY)
SCORES = tuple(name for name in DISTANCES if name != VIM)
# Of more pictures the interval of measured coverages is that of endlessly many to the third digit.
MANY = 100_000
# Numbers of all pictures that are looked at together, of a model of several labels: 64 MB of float32.
BLOCK = 2**24


class Calibration(TypedDict):
    """How probabilities go with what is true.

    Of one label a picture: the likelihood in nats and the Brier score (0 to 2) of all labels' probabilities, and of the
    label that is said the expected calibration errors, 0 to 1, and the bins of the reliability diagram. Of several
    labels both are means over pictures and labels (the Brier score 0 to 1), the errors means over the labels of each
    one's own, and `bins` has all labels together.

    `calibration_error_by_chance` is what a model that is calibrated perfectly shows by chance in bins of equal mass;
    None, as are these bins, of several labels.
    """

    negative_log_likelihood: float
    brier_score: float
    calibration_error: float
    calibration_error_equal_mass: float
    calibration_error_by_chance: float | None
    bins: list[Bin]
    bins_of_equal_mass: list[Bin] | None


class ClassSets(TypedDict):
    """What sets are worth for one class; None where no picture shows it."""

    pictures: int
    coverage: float | None
    mean_size: float | None


class SetScores(TypedDict):
    """Sets of labels: how often they were to hold the truth (`coverage`), and how often they do (`measured_coverage`).

    `promised` is the interval in which that lies with 95 % probability, over which pictures the sets were fitted on and
    which they are measured on; None where classes have quantiles of their own.
    """

    method: str
    by_class: bool
    coverage: float
    promised: list[float] | None
    measured_coverage: float
    mean_size: float
    per_class: dict[str, ClassSets]


class NoneOfThese(TypedDict):
    """Which share of the pictures may be called none of these, and which one is."""

    false_alarms: float
    share: float


class StrangerScores(TypedDict):
    """How strangers are told from the labeled pictures, by each score; and which share is called none of these."""

    images: int
    share_none_of_these: float | None
    scores: dict[str, Detection]


class Assessment(TypedDict, total=False):
    """How far answers can be trusted; what does not apply, or was not fitted, is not there.

    Attributes:
        calibration: Of probabilities `before` and `after` calibration.
        risk_coverage: (share answered, accuracy among these), the surest first, by the calibrated probabilities.
        answers: To be right so often, which pictures to answer, likewise.
        sets: Sets of labels.
        none_of_these: The false alarms.
        strangers: How strangers are told.
    """

    calibration: dict[str, Calibration]
    risk_coverage: list[tuple[float, float]]
    answers: list[Answers]
    sets: SetScores
    none_of_these: NoneOfThese
    strangers: StrangerScores


@dataclass(frozen=True)
class Basis:
    """What an assessment rests on, in plain numbers and words, the same for all who share the work.

    Attributes:
        problem_type: What the outputs mean.
        confidence: What tells the confidence from another; None where there is none, or none is used.
        temperature: By which outputs are divided, or each label's own.
        method: Of the sets; None where there are none.
        fitted_on: On how many pictures the sets were fitted.
        by_class: Whether classes have quantiles of their own.
        coverage: How often sets are to hold the truth.
        false_alarms: Which share of pictures of what the model knows may be called none of these.
        familiarity: Whether that is told.
        scores: By which strangers are looked for; empty where there are none.
    """

    problem_type: str
    confidence: str | None
    temperature: float | list[float] | None
    method: str | None
    fitted_on: int
    by_class: bool
    coverage: float
    false_alarms: float
    familiarity: bool
    scores: list[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row has that is kept of a picture."""
        if self.problem_type != SINGLE_LABEL:
            return ()
        return (RIGHT, BEFORE, *([AFTER] if self.confidence else []), *self.scores)

    def calibrated(self, logits: Array) -> Array:
        """(N, labels) float64 outputs whose softmax, or sigmoids, are those that the model's answers have."""
        outputs = np.asarray(logits, np.float64)
        return outputs if self.temperature is None else outputs / np.asarray(self.temperature)

    def missing(self) -> str | None:
        """What is to be said where strangers are looked for with less than there could be."""
        if not self.scores or COMBINATION in self.scores:
            return None
        return (
            "how familiar pictures are was not fitted for this model, so strangers are told by its probabilities "
            f"alone ({', '.join(self.scores)}); vit-hybrid calibrate fits it"
        )


class AssessmentTally:
    """Counts and sums over pictures of a model of one label each, which are added up in any pieces and in any order.

    Attributes:
        count: How many pictures.
        losses: The sum of -log(probability of the true label), before and after.
        squares: The sums of the Brier scores.
        sums: `reliability.width_sums`.
        sets: By class how many pictures, how many of their sets hold it, and how many labels these have.
        called: How many pictures are called none of these.
    """

    def __init__(self) -> None:
        self.count = self.called = 0
        self.losses: dict[str, float] = {}
        self.squares: dict[str, float] = {}
        self.sums: dict[str, Array] = {}
        self.sets: dict[int, Array] = {}

    def add(self, when: str, outputs: Array, targets: Array, probabilities: Array) -> None:
        """Takes in the probabilities of pictures, (N, labels), and the outputs that they are the softmax of."""
        rows = np.arange(len(targets))
        top = outputs.max(axis=1)
        losses = top + np.log(np.exp(outputs - top[:, None]).sum(axis=1)) - outputs[rows, targets]
        squares = (probabilities**2).sum(axis=1) - 2 * probabilities[rows, targets] + 1
        sums = reliability.width_sums(*reliability.sure_and_right(probabilities, targets))
        self._add(when, float(losses.sum()), float(squares.sum()), sums)

    def add_sets(self, inside: Array, targets: Array) -> None:
        """Takes in which labels are in the sets of pictures, (N, labels)."""
        for label in np.unique(targets).tolist():
            own = inside[targets == label]
            self._add_set(label, np.array([len(own), own[:, label].sum(), own.sum()], np.int64))

    def merge(self, other: AssessmentTally) -> None:
        """Adds what another one has."""
        self.count += other.count
        self.called += other.called
        for when in other.losses:
            self._add(when, other.losses[when], other.squares[when], other.sums[when])
        for label, counts in other.sets.items():
            self._add_set(label, counts)

    def _add(self, when: str, loss: float, square: float, sums: Array) -> None:
        self.losses[when] = self.losses.get(when, 0.0) + loss
        self.squares[when] = self.squares.get(when, 0.0) + square
        self.sums[when] = self.sums.get(when, np.zeros((BINS, 3))) + sums

    def _add_set(self, label: int, counts: Array) -> None:
        self.sets[label] = self.sets.get(label, np.zeros(3, np.int64)) + counts


class Assessor:
    """Assesses what a model says of pictures, some at a time.

    Args:
        problem_type: What the outputs mean.
        confidence: What was fitted for the model, or None.
        coverage: How often sets are to hold the truth.
        false_alarms: Which share of pictures of what the model knows may be called none of these.
        strangers: Whether strangers are looked for.

    Attributes:
        basis: What it rests on.

    Raises:
        ValueError: One of the levels is no share, or takes more held-out pictures than there were (`TooFewPictures`);
            or strangers are looked for, and the model has not one label a picture.
    """

    def __init__(
        self,
        problem_type: str,
        confidence: Confidence | None,
        coverage: float = DEFAULT_COVERAGE,
        false_alarms: float = DEFAULT_FALSE_ALARMS,
        strangers: bool = False,
    ) -> None:
        check_levels(confidence, coverage, false_alarms)
        if strangers and problem_type != SINGLE_LABEL:
            raise ValueError(
                f"{argument('strangers')} is for models of one label a picture, and this one's problem_type is "
                f"{problem_type!r}; leave it out."
            )
        sets = None if confidence is None or not confidence.sets else confidence.sets[confidence.method]
        familiarity = confidence is not None and confidence.needs_features
        scores = [*SCORES, COMBINATION] if familiarity else [*OF_LOGITS]
        self.basis = Basis(
            problem_type,
            None if confidence is None else confidence.fingerprint,
            None if confidence is None else confidence.temperature.tolist(),
            None if sets is None else sets.method,
            0 if sets is None else len(sets.scores),
            sets is not None and sets.by_class,
            coverage,
            false_alarms,
            familiarity,
            scores if strangers else [],
        )
        self._confidence = confidence
        self._neighbors: Distances | None = None
        if familiarity and strangers:
            assert confidence is not None
            assert confidence.trained_on is not None
            self._neighbors = Distances(confidence.trained_on, names=[NEIGHBORS])

    def known(
        self, logits: Array, targets: Array, tokens: Sequence[Any] = (), statistics: Sequence[Any] = ()
    ) -> tuple[AssessmentTally, Array]:
        """What is added up over labeled pictures, and the rows to be kept of them, (N, columns) float32.

        Args:
            logits: (N, labels).
            targets: (N,) classes; of other models nothing is added up here, nor kept.
            tokens: Of each picture the class token before the last norm, where familiarity is told.
            statistics: Of each its `strangers.pixel_statistics`, likewise.
        """
        tally = AssessmentTally()
        rows = np.empty((len(logits), len(self.basis.columns)), np.float32)
        if self.basis.problem_type != SINGLE_LABEL or not len(logits):
            return tally, rows
        tally.count = len(logits)
        by_name = dict(zip(self.basis.columns, rows.T, strict=True))
        versions = {BEFORE: np.asarray(logits, np.float64)}
        if self.basis.confidence:
            versions[AFTER] = self.basis.calibrated(logits)
        for when, outputs in versions.items():
            probabilities = softmax(outputs)
            tally.add(when, outputs, targets, probabilities)
            by_name[when][:] = probabilities.max(axis=1)
        by_name[RIGHT][:] = logits.argmax(axis=1) == targets
        if self.basis.method is not None:
            assert self._confidence is not None
            tally.add_sets(self._confidence.contain(logits, self.basis.coverage), targets)
        scored, tally.called = self._scored(logits, tokens, statistics)
        for name, values in scored.items():
            by_name[name][:] = values
        return tally, rows

    def strangers(self, logits: Array, tokens: Sequence[Any] = (), statistics: Sequence[Any] = ()) -> tuple[int, Array]:
        """How many strangers are called none of these, and (N, scores) float32 to be kept of them.

        Args:
            logits: As `known` takes them, and so the others.
            tokens: Likewise.
            statistics: Likewise.
        """
        scored, called = self._scored(logits, tokens, statistics)
        rows = np.stack([scored[name] for name in self.basis.scores], axis=1) if len(logits) else np.empty((0, 0))
        return called, rows.astype(np.float32)

    def _scored(
        self, logits: Array, tokens: Sequence[Any], statistics: Sequence[Any]
    ) -> tuple[Mapping[str, Array], int]:
        """What each picture has of all scores that are wanted, and how many are called none of these."""
        scores = self.basis.scores
        found: dict[str, Any] = {}
        if scores:
            found |= {SOFTMAX: unsure(logits), ENTROPY: generalized_entropy(logits)}
        if not self.basis.familiarity:
            return found, 0
        assert self._confidence is not None
        assert self._confidence.familiarity is not None
        columns: dict[str, list[Array]] = {name: [] for name in scores if name not in found}
        called = 0
        for few in few_at_once(len(logits)):
            given = (np.stack(tokens[few]), logits[few], np.stack(statistics[few]))
            distances = self._confidence.distances(*given)
            called += int((self._confidence.familiarity(distances) < self.basis.false_alarms).sum())
            if self._neighbors is None:
                continue
            distances[NEIGHBORS] = self._neighbors(NEIGHBORS, *given)
            distances[COMBINATION] = self._confidence.familiarity.strangeness(distances)
            for name, values in columns.items():
                values.append(distances[name])
        return {**found, **{name: np.concatenate([np.empty(0), *values]) for name, values in columns.items()}}, called


def assessment(
    basis: Basis,
    labels: Sequence[str],
    tally: AssessmentTally,
    kept: Array,
    strangers: tuple[int, Array] | None = None,
    ranked: tuple[Array, Array] | None = None,
) -> Assessment:
    """How far answers can be trusted, of all that was looked at.

    Args:
        basis: What it rests on.
        labels: What the outputs are called.
        tally: What was added up.
        kept: (N, columns) what was kept of the pictures, in any order; mapped from a file where they are many.
        strangers: How many of the strangers are called none of these, and (M, scores) what was kept of them.
        ranked: Of a model of several labels the logits and the targets of all pictures, (N, labels), likewise.
    """
    if basis.problem_type == REGRESSION:
        return Assessment()
    if basis.problem_type == MULTI_LABEL:
        assert ranked is not None
        versions = {BEFORE: np.ones(len(labels))}
        if basis.temperature is not None:
            versions[AFTER] = np.asarray(basis.temperature)
        return Assessment(calibration={when: _of_several(*ranked, by) for when, by in versions.items()})
    columns = dict(zip(basis.columns, kept.T, strict=True))
    right = columns[RIGHT] > 0
    sure = np.asarray(columns.get(AFTER, columns[BEFORE]))
    found = Assessment(
        calibration={when: _of_one(tally, when, np.asarray(columns[when]), right) for when in tally.losses},
        risk_coverage=reliability.risk_coverage(sure, right),
        answers=reliability.answers(sure, right),
    )
    if basis.method is not None:
        found["sets"] = _of_sets(basis, labels, tally)
    if basis.familiarity:
        found["none_of_these"] = NoneOfThese(false_alarms=basis.false_alarms, share=tally.called / tally.count)
    if strangers is not None:
        called, rows = strangers
        by_name = dict(zip(basis.scores, rows.T, strict=True))
        found["strangers"] = StrangerScores(
            images=len(rows),
            share_none_of_these=called / len(rows) if basis.familiarity else None,
            scores={
                name: reliability.detection(np.asarray(columns[name]), np.asarray(by_name[name]))
                for name in basis.scores
            },
        )
    return found


def _of_one(tally: AssessmentTally, when: str, sure: Array, right: Array) -> Calibration:
    widths = reliability.bins_of_sums(tally.sums[when])
    masses = reliability.bins(sure, right, equal_mass=True)
    return Calibration(
        negative_log_likelihood=tally.losses[when] / tally.count,
        brier_score=tally.squares[when] / tally.count,
        calibration_error=reliability.calibration_error(widths),
        calibration_error_equal_mass=reliability.calibration_error(masses),
        # Drawn in an order of their own, so that it is the same in whichever order they came.
        calibration_error_by_chance=reliability.calibration_error_by_chance(np.sort(sure), equal_mass=True),
        bins=widths,
        bins_of_equal_mass=masses,
    )


def _of_several(logits: Array, targets: Array, temperature: Array) -> Calibration:
    """The same of several labels a picture; some labels of all pictures are read at a time."""
    count, width = logits.shape
    loss = square = by_width = by_mass = 0.0
    pooled = np.zeros((BINS, 3))
    step = max(1, BLOCK // count)
    for start in range(0, width, step):
        outputs = np.asarray(logits[:, start : start + step], np.float64) / temperature[start : start + step]
        truth = np.asarray(targets[:, start : start + step]) > 0
        probabilities = PROBABILITIES[MULTI_LABEL](outputs)
        loss += float(np.logaddexp(0.0, np.where(truth, -outputs, outputs)).sum())
        square += float(((probabilities - truth) ** 2).sum())
        for own, has in zip(probabilities.T, truth.T, strict=True):
            sums = reliability.width_sums(own, has)
            pooled += sums
            by_width += reliability.calibration_error(reliability.bins_of_sums(sums))
            by_mass += reliability.calibration_error(reliability.bins(own, has, equal_mass=True))
    return Calibration(
        negative_log_likelihood=loss / (count * width),
        brier_score=square / (count * width),
        calibration_error=by_width / width,
        calibration_error_equal_mass=by_mass / width,
        calibration_error_by_chance=None,
        bins=reliability.bins_of_sums(pooled),
        bins_of_equal_mass=None,
    )


def _of_sets(basis: Basis, labels: Sequence[str], tally: AssessmentTally) -> SetScores:
    assert basis.method is not None
    per_class = {}
    for label, name in enumerate(labels):
        pictures, hits, members = tally.sets.get(label, np.zeros(3, np.int64)).tolist()
        per_class[name] = ClassSets(
            pictures=pictures,
            coverage=hits / pictures if pictures else None,
            mean_size=members / pictures if pictures else None,
        )
    _, hits, members = np.sum([*tally.sets.values()], axis=0).tolist()
    interval = None
    if not basis.by_class:
        measured_on = tally.count if tally.count <= MANY else None
        interval = list(promised(basis.fitted_on, basis.coverage, measured_on))
    return SetScores(
        method=basis.method,
        by_class=basis.by_class,
        coverage=basis.coverage,
        promised=interval,
        measured_coverage=hits / tally.count,
        mean_size=members / tally.count,
        per_class=per_class,
    )


__all__ = [
    *("AFTER", "BEFORE", "COMBINATION", "Assessment", "AssessmentTally", "Assessor", "Basis", "Calibration"),
    *("ClassSets", "NoneOfThese", "SetScores", "StrangerScores", "assessment"),
]

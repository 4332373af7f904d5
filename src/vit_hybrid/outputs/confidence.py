"""How sure one can be of what a model says of a picture, and the files that keep what it takes to know.

Fitted on labeled pictures that were not trained on, three disjoint parts of them: probabilities that mean what they
say (temperature: Guo et al., On Calibration of Modern Neural Networks, 2017), sets of labels (`sets`), and whether a
picture is of nothing that the model knows (`strangers`). Arithmetic alone; `inference.calibrating` runs the model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..errors import argument, one_line, shown
from ..files import json_text, replacing
from . import reliability, strangers
from .problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS, LAC, MULTI_LABEL, REGRESSION, SET_METHODS, SINGLE_LABEL
from .ranking import PROBABILITIES, best_first, softmax
from .sets import Penalty, Sets, pictures_needed, promised
from .sets import fit as fit_sets
from .strangers import Distances, Familiarity, TrainedOn, few_at_once
from .temperature import temperature_of, temperatures_of

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

ARRAYS_FILE, CONFIDENCE_FILE = "confidence.safetensors", "confidence.json"
# Of one model's weights: they go where others come.
CONFIDENCE_FILES = (ARRAYS_FILE, CONFIDENCE_FILE)
FORMAT = 2
# Fewer pictures a part than these fit a temperature that is worse than none, or a p-value that says nothing.
SMALLEST_PART = 20


class ConfidenceError(ValueError):
    """Confidence that cannot be fitted, read, or given for these outputs; the message is one line that says why."""


class Judgment(NamedTuple):
    """What is said of one picture beside its labels.

    Attributes:
        set: The labels' positions, likeliest first; None of a multi-label model.
        familiarity: See `strangers.Familiarity`; None where that was not fitted.
    """

    set: tuple[int, ...] | None
    familiarity: float | None


@dataclass(frozen=True)
class Confidence:
    """What was fitted on held-out pictures of one model.

    Attributes:
        labels: The model's labels.
        problem_type: What its outputs mean.
        weights: SHA-256 of the weights.
        precision: What the outputs were computed in while fitting.
        token_merging: Tokens merged per layer while fitting, or None.
        temperature: () or, for a multi-label model, (labels,): what outputs are divided by.
        sets: By method, of a single-label model.
        method: Which of `sets` is shown.
        trained_on: What distances from training pictures need, or None.
        familiarity: The distances of held-out pictures, or None.
        trained_pictures: (M, 6) uint8, `data.checksums` of what was trained on; None where nobody knows.
        about: What people want to know of it: how many pictures, which, what came of it.
    """

    labels: tuple[str, ...]
    problem_type: str
    weights: str
    precision: str
    token_merging: int | None
    temperature: Array
    sets: Mapping[str, Sets] = field(default_factory=dict)
    method: str = LAC
    trained_on: TrainedOn | None = None
    familiarity: Familiarity | None = None
    trained_pictures: Array | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises `ConfidenceError` where a model's labels, in the order of its logits, are others."""
        if self.labels != tuple(labels):
            raise ConfidenceError(
                f"{CONFIDENCE_FILE} beside the weights is for other labels, or for another order of them; calibrate "
                "the model again."
            )

    @property
    def fingerprint(self) -> str:
        """What tells it from another in what it says of a picture, in hexadecimal digits."""
        return hashlib.sha256(_content(self) + self.method.encode()).hexdigest()

    @property
    def needs_features(self) -> bool:
        """Whether `judge` takes the class token, and not outputs alone."""
        return self.familiarity is not None

    def calibrated(self, logits: Array) -> Array:
        """(N, labels) outputs whose softmax, or sigmoids, are calibrated; ranks stay as they are."""
        return np.asarray(logits, np.float64) / self.temperature

    def probabilities(self, logits: Array) -> Array:
        """(N, labels) calibrated, float64."""
        return PROBABILITIES[self.problem_type](self.calibrated(logits))

    def contain(self, logits: Array, coverage: float = DEFAULT_COVERAGE) -> Array:
        """(N, labels) which labels the set of each picture has, of a single-label model.

        Args:
            logits: (N, labels), before calibration: sets have scores of their own, since a temperature before RAPS
                makes them larger.
            coverage: How often a set is to hold the truth.

        Raises:
            ConfidenceError: The model has several labels a picture.
            TooFewPictures: `coverage` takes more held-out pictures than there were.
        """
        if not self.sets:
            raise ConfidenceError(
                f"sets of labels are for models of one label a picture, and this is {self.problem_type}."
            )
        return self.sets[self.method].contain(softmax(np.asarray(logits, np.float64)), coverage)

    def distances(self, features: Array, logits: Array, statistics: Array) -> dict[str, Array]:
        """(N,) for each of `strangers.COMBINED`."""
        return {name: self._measure(name, features, logits, statistics) for name in strangers.COMBINED}

    def familiar(self, features: Array, logits: Array, statistics: Array) -> Array:
        """(N,) how familiar pictures are, above 0 to 1: see `strangers.Familiarity`.

        Args:
            features: (N, D), class tokens before the last norm.
            logits: (N, labels).
            statistics: (N, S), `strangers.pixel_statistics` of the model's input.

        Raises:
            ConfidenceError: It was not fitted.
        """
        if self.familiarity is None:
            raise ConfidenceError("how familiar pictures are was not fitted for this model; calibrate it again.")
        return self.familiarity(self.distances(features, logits, statistics))

    def judge(
        self,
        logits: Array,
        features: Array | None = None,
        statistics: Array | None = None,
        coverage: float = DEFAULT_COVERAGE,
    ) -> list[Judgment]:
        """What is said of each picture beside its labels, whatever pictures are beside it.

        Args:
            logits: (N, labels).
            features: (N, D), where `needs_features`.
            statistics: (N, S), likewise.
            coverage: How often a set is to hold the truth.

        Raises:
            TooFewPictures: `coverage` takes more held-out pictures than there were.
        """
        found: list[tuple[int, ...] | None] = [None] * len(logits)
        if self.sets:
            found = [tuple(labels) for labels in best_first(logits, self.contain(logits, coverage))]
        shares: Sequence[float | None] = [None] * len(logits)
        if self.needs_features:
            assert features is not None
            assert statistics is not None
            parts = (self.familiar(features[few], logits[few], statistics[few]) for few in few_at_once(len(logits)))
            shares = [float(share) for part in parts for share in part]
        return [Judgment(*both) for both in zip(found, shares, strict=True)]

    @cached_property
    def _measure(self) -> Distances:  # which takes a decomposition of the covariances
        assert self.trained_on is not None
        return Distances(self.trained_on, names=strangers.COMBINED)


def check_levels(confidence: Confidence | None, coverage: float, false_alarms: float) -> None:
    """Raises `ValueError` where one of the two is no share or says nothing of such a model, or `coverage` takes more
    pictures than were held out; an `EngineWarning` says where `false_alarms` does, and no picture is a stranger."""
    if not 0.0 < false_alarms < 1.0:
        raise ValueError(f"{argument('false_alarms')} is {false_alarms:g}; expected a share between 0 and 1.")
    if confidence is not None and confidence.sets:
        confidence.sets[confidence.method].threshold(coverage)
    elif not 0.0 < coverage < 1.0:
        raise ValueError(f"{argument('coverage')} is {coverage:g}; expected a share between 0 and 1.")
    if confidence is not None and confidence.familiarity is not None:
        confidence.familiarity.warn_beyond_reach(false_alarms)
    if confidence is not None and confidence.problem_type != SINGLE_LABEL:
        asked = {"coverage": coverage != DEFAULT_COVERAGE, "false_alarms": false_alarms != DEFAULT_FALSE_ALARMS}
        for name in (name for name, is_asked in asked.items() if is_asked):
            raise ValueError(
                f"{argument(name)} is for models of one label a picture, and this one's problem_type is "
                f"{confidence.problem_type!r}; leave it out."
            )


def fit(
    logits: Array,
    targets: Array,
    labels: Sequence[str],
    problem_type: str,
    *,
    weights: str,
    precision: str,
    token_merging: int | None = None,
    features: Array | None = None,
    statistics: Array | None = None,
    trained_on: TrainedOn | None = None,
    trained_pictures: Array | None = None,
    method: str = LAC,
    by_class: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Confidence:
    """Confidence from held-out pictures.

    Args:
        logits: (N, labels) the model's outputs.
        targets: (N,) classes, or (N, labels) zeros and ones.
        labels: The model's.
        problem_type: What its outputs mean.
        weights: SHA-256 of its weights.
        precision: What it computed in.
        token_merging: Tokens merged per layer.
        features: (N, D) class tokens before the last norm; None where strangers are not looked for.
        statistics: (N, S) `strangers.pixel_statistics` of the same pictures.
        trained_on: What it was trained on.
        trained_pictures: Checksums of that, to be kept.
        method: Which sets are shown: see `problems.SET_METHODS`.
        by_class: Whether sets have quantiles of each class.
        about: More to keep for people to read.

    Raises:
        ConfidenceError: Nothing applies to such a model, or there are too few pictures.
    """
    with_strangers = problem_type == SINGLE_LABEL and features is not None and trained_on is not None
    parts = check_enough(len(logits), problem_type, with_strangers)
    said = {**(about or {}), "pictures": len(logits)}
    if problem_type == MULTI_LABEL:
        temperature = temperatures_of(logits, targets)
        fixed = [label for label, own in zip(labels, temperature, strict=True) if own == 1.0]
        if fixed:
            said["labels_left_as_they_are"] = fixed  # that all of the pictures have, or none
        return Confidence(
            labels=tuple(labels),
            problem_type=problem_type,
            weights=weights,
            precision=precision,
            token_merging=token_merging,
            temperature=temperature,
            trained_pictures=trained_pictures,
            about=said,
        )
    split = disjoint_parts(targets, parts)
    said["parts"] = dict(zip(("probabilities", "sets", "strangers"), map(len, split), strict=False))
    first, second = split[:2]
    found_sets = {
        name: fit_sets(name, softmax(logits[second].astype(np.float64)), targets[second], by_class)
        for name in SET_METHODS
    }
    found = Confidence(
        labels=tuple(labels),
        problem_type=problem_type,
        weights=weights,
        precision=precision,
        token_merging=token_merging,
        temperature=np.array(temperature_of(logits[first], targets[first])),
        sets=found_sets,
        method=method,
        trained_on=trained_on,
        trained_pictures=trained_pictures,
        about=said,
    )
    said["measured"] = _measured(found, logits, targets, first, second)
    if not with_strangers:
        return found
    assert features is not None
    assert statistics is not None
    third = split[2]
    distances = found.distances(features[third], logits[third], statistics[third])
    return replace(found, familiarity=Familiarity.fit(distances))


def check_applies(problem_type: str) -> None:
    """Raises `ConfidenceError` where a model has no probabilities."""
    if problem_type == REGRESSION:
        raise ConfidenceError("a regression model has values and no probabilities, so there is nothing to calibrate.")


def check_enough(pictures: int, problem_type: str, with_strangers: bool) -> int:
    """How many parts so many held-out pictures are divided into.

    Raises:
        ConfidenceError: They are too few for that, or nothing applies to such a model.
    """
    check_applies(problem_type)
    parts = 1 if problem_type == MULTI_LABEL else 2 + with_strangers
    needed = parts * SMALLEST_PART
    if pictures < needed:
        how = f" ({parts} parts of {SMALLEST_PART})" if parts > 1 else ""
        raise ConfidenceError(
            f"calibration takes {needed} held-out pictures or more{how}, and there are {pictures}; give more pictures "
            "that were not trained on."
        )
    return parts


def _measured(found: Confidence, logits: Array, targets: Array, first: Array, second: Array) -> dict[str, Any]:
    """What came of the temperature and the sets, each on pictures that it was not fitted on."""
    measured: dict[str, Any] = {}
    for name, outputs in (("before", logits[second]), ("after", found.calibrated(logits[second]))):
        probabilities = softmax(np.asarray(outputs, np.float64))
        sure, right = reliability.sure_and_right(probabilities, targets[second])
        bins = reliability.bins(sure, right, equal_mass=True)
        measured[name] = {
            "negative_log_likelihood": reliability.negative_log_likelihood(probabilities, targets[second]),
            "calibration_error": reliability.calibration_error(bins),
            "calibration_error_by_chance": reliability.calibration_error_by_chance(sure, equal_mass=True),
        }
    sets = found.sets[found.method]
    if pictures_needed(DEFAULT_COVERAGE) <= len(sets.scores):
        inside = found.contain(logits[first], DEFAULT_COVERAGE)
        alone = sets.by_themselves(DEFAULT_COVERAGE)
        measured["sets"] = {
            "coverage": DEFAULT_COVERAGE,
            "classes_by_themselves": len(alone),
            # Of each of these, or else of all classes together.
            "promised": list(promised(min(alone.values(), default=len(sets.scores)), DEFAULT_COVERAGE)),
            "measured_coverage": float(inside[np.arange(len(first)), targets[first]].mean()),
            "mean_size": float(inside.sum(axis=1).mean()),
        }
    return measured


def disjoint_parts(targets: Array, count: int) -> list[Array]:
    """Positions of pictures in so many parts of like size, each class spread over all of them, ascending in each.

    Drawn, but the same each time: pictures of a class may lie in the order they were taken in.
    """
    rng = np.random.default_rng(0)
    drawn = rng.permutation(len(targets))
    by_class = drawn[np.argsort(targets[drawn], kind="stable")]
    return [np.sort(by_class[start::count]) for start in range(count)]


# --- Files ------------------------------------------------------------------------------------------------------------


def write(confidence: Confidence, folder: str | os.PathLike[str]) -> None:
    """Writes `confidence.safetensors` and `confidence.json`, which are one: the second has the first's checksum.

    Raises:
        OSError: A file cannot be written; those that were there are left.
    """
    content = _content(confidence)
    head = {
        "format": FORMAT,
        "problem_type": confidence.problem_type,
        "weights_sha256": confidence.weights,
        "arrays_sha256": hashlib.sha256(content).hexdigest(),
        "precision": confidence.precision,
        "token_merging": confidence.token_merging,
        "temperature": confidence.temperature.tolist(),
        "sets": {
            name: {
                "pictures": len(one.scores),
                "by_class": one.by_class,
                "penalty_rank": one.penalty.rank,
                "penalty_weight": one.penalty.weight,
            }
            for name, one in confidence.sets.items()
        },
        "method": confidence.method,
        "strangers": None if confidence.familiarity is None else {"weights": dict(strangers.COMBINED)},
        "about": dict(confidence.about),
        "labels": list(confidence.labels),
    }
    folder = Path(folder)
    with replacing(folder / CONFIDENCE_FILE) as json_file:
        json_file.write_text(json_text(head), encoding="utf-8")
        with replacing(folder / ARRAYS_FILE) as arrays_file:
            arrays_file.write_bytes(content)


def _content(confidence: Confidence) -> bytes:
    """The arrays' file."""
    from safetensors.numpy import save

    arrays: dict[str, Array] = {"temperature": confidence.temperature}
    for name, one in confidence.sets.items():
        arrays |= {f"sets.{name}.scores": one.scores, f"sets.{name}.classes": one.classes.astype(np.int32)}
    if confidence.trained_on is not None:
        arrays |= {f"trained_on.{name}": array for name, array in confidence.trained_on.arrays().items()}
    if confidence.familiarity is not None:
        arrays |= {f"held_out.{name}": array for name, array in confidence.familiarity.parts.items()}
        arrays["held_out"] = confidence.familiarity.combined
    if confidence.trained_pictures is not None:
        arrays["trained_pictures"] = confidence.trained_pictures
    return save({name: np.array(array, order="C") for name, array in arrays.items()})


def read(folder: str | os.PathLike[str], weights: str | None = None) -> Confidence:
    """The confidence that lies in a folder.

    Args:
        folder: Where both files are.
        weights: SHA-256 of the model's weights, which it has to be of.

    Raises:
        ConfidenceError: It is not there, damaged, of another version or of another model.
    """
    from safetensors.numpy import load

    place = shown(os.path.join(folder, CONFIDENCE_FILE))
    try:
        head = json.loads(Path(folder, CONFIDENCE_FILE).read_text(encoding="utf-8"))
        content = Path(folder, ARRAYS_FILE).read_bytes()
        version = head["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfidenceError(f"{place}: cannot be read: {one_line(error)}") from error
    if version != FORMAT:
        raise ConfidenceError(f"{place}: written by another version of this package ({version}); calibrate again.")
    if weights is not None and head.get("weights_sha256") != weights:
        raise ConfidenceError(
            f"{place}: fitted for other weights than those beside it; calibrate again, or remove it and {ARRAYS_FILE}."
        )
    if head.get("arrays_sha256") != hashlib.sha256(content).hexdigest():
        raise ConfidenceError(
            f"{place}: {ARRAYS_FILE} beside it is of another calibration, or damaged; calibrate again."
        )
    try:
        return _read(head, load(content))
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:  # it is readable, and people change what they read
        raise ConfidenceError(f"{place}: damaged: {one_line(error)}; calibrate again.") from error


def _read(head: Mapping[str, Any], arrays: Mapping[str, Array]) -> Confidence:
    found_sets = {
        name: Sets(
            name,
            arrays[f"sets.{name}.scores"],
            arrays[f"sets.{name}.classes"],
            Penalty(said["penalty_rank"], said["penalty_weight"]),
            said["by_class"],
        )
        for name, said in head["sets"].items()
    }
    said = {name: head[name] for name in ("temperature", "method", "problem_type")}
    if found_sets and said["method"] not in [*found_sets]:
        raise ValueError(f"method is {said['method']!r}, expected {' or '.join(map(repr, found_sets))}")
    if said["problem_type"] not in [*PROBABILITIES] or said["temperature"] != arrays["temperature"].tolist():
        raise ValueError("its problem_type or temperature was changed")
    trained_on = None
    if "trained_on.means" in arrays:
        prefix = "trained_on."
        trained_on = TrainedOn.from_arrays(
            {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        )
    familiarity = None
    if "held_out" in arrays:
        parts = {name: arrays[f"held_out.{name}"] for name in strangers.COMBINED}
        familiarity = Familiarity(parts, arrays["held_out"])
    return Confidence(
        labels=tuple(head["labels"]),
        problem_type=said["problem_type"],
        weights=head["weights_sha256"],
        precision=head["precision"],
        token_merging=head["token_merging"],
        temperature=arrays["temperature"],
        sets=found_sets,
        method=said["method"],
        trained_on=trained_on,
        familiarity=familiarity,
        trained_pictures=arrays.get("trained_pictures"),
        about=head["about"],
    )


__all__ = [
    *("ARRAYS_FILE", "CONFIDENCE_FILE", "CONFIDENCE_FILES", "Confidence", "ConfidenceError", "Judgment"),
    *("check_applies", "check_enough", "check_levels", "disjoint_parts", "fit", "read", "temperature_of", "write"),
]

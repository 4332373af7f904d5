"""How far probabilities can be trusted: calibration, whom to answer, and telling strangers; NumPy.

Single-label models' probabilities and the true classes of the same pictures go in, plain numbers come out.
"""

from __future__ import annotations

from typing import Any, TypeAlias, TypedDict

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Guo et al., On Calibration of Modern Neural Networks, 2017.
BINS = 15
# Shares of right answers that people ask for.
WANTED = (0.8, 0.9, 0.95, 0.99)
# Points of the curve of risk against coverage that are kept; the pictures may be millions.
CURVE_POINTS = 101


class Bin(TypedDict):
    """Pictures of like probability: how many, the mean probability of the label that is said, and how many of it are
    right, as a share."""

    pictures: int
    confidence: float
    accuracy: float


class Answers(TypedDict):
    """To be right so often (`accuracy`), answer the pictures that the model is surest of: which share (None where even
    the surest are wrong too often), and from which probability on."""

    accuracy: float
    share: float | None
    probability: float | None


class Detection(TypedDict):
    """How well a score tells strangers: areas under the ROC and the precision-recall curve (strangers are what is
    looked for), and the share of known pictures that are called strangers where 95 % of strangers are."""

    auroc: float
    aupr: float
    false_positive_rate_at_95: float


def negative_log_likelihood(probabilities: Array, targets: Array) -> float:
    """The mean over the pictures, in nats."""
    true = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean())


def brier_score(probabilities: Array, targets: Array) -> float:
    """Brier, Verification of forecasts expressed in terms of probability, 1950: the mean over the pictures of the sum
    over labels of squared differences, 0 to 2."""
    squares = (np.asarray(probabilities, np.float64) ** 2).sum(axis=1)
    return float((squares - 2 * probabilities[np.arange(len(targets)), targets] + 1).mean())


def sure_and_right(probabilities: Array, targets: Array) -> tuple[Array, Array]:
    """(N,) the probability of the label that is said of each picture, float64, and whether it is the true one: of
    (N, labels) probabilities and (N,) true classes."""
    probabilities = np.asarray(probabilities, np.float64)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == targets


def bins(sure: Array, right: Array, equal_mass: bool = False, count: int = BINS) -> list[Bin]:
    """Pictures by the probability of what is said of them, ascending; empty bins are left out. The order of the
    pictures makes no difference.

    Args:
        sure: (N,) how probable it is called.
        right: (N,) whether it is right.
        equal_mass: Whether bins have equal numbers of pictures, or else equal widths.
        count: How many.
    """
    if not equal_mass:
        return bins_of_sums(width_sums(sure, right, count))
    order = np.argsort(sure, kind="stable")
    sure, right = np.asarray(sure, np.float64)[order], _alike_where_tied(np.asarray(sure)[order], right[order])
    parts = [part for part in np.array_split(np.arange(len(order)), count) if len(part)]
    return [
        Bin(pictures=len(part), confidence=float(sure[part].mean()), accuracy=float(right[part].mean()))
        for part in parts
    ]


def width_sums(sure: Array, right: Array, count: int = BINS) -> Array:
    """(count, 3) for each bin of equal width the number of pictures, the sum of `sure` and that of `right`, float64:
    those of several parts of the pictures are added."""
    sure = np.asarray(sure, np.float64)
    # The upper edge belongs to a bin, as in the paper's code.
    places = np.clip(np.ceil(sure * count).astype(int) - 1, 0, count - 1)
    found = np.empty((count, 3))
    for column, weights in enumerate((None, sure, np.asarray(right, np.float64))):
        found[:, column] = np.bincount(places, weights, minlength=count)
    return found


def bins_of_sums(sums: Array) -> list[Bin]:
    """The bins of what `width_sums` gives, empty ones left out."""
    return [
        Bin(pictures=int(pictures), confidence=float(sure / pictures), accuracy=float(right / pictures))
        for pictures, sure, right in sums
        if pictures
    ]


def _alike_where_tied(ascending: Array, right: Array) -> Array:
    """(N,) float64: of pictures that are equally sure each counts as the mean of all, whichever of them comes first."""
    starts = np.flatnonzero(np.append(True, np.diff(ascending) != 0))
    counts = np.diff(np.append(starts, len(ascending)))
    return np.repeat(np.add.reduceat(np.asarray(right, np.float64), starts) / counts, counts)


def calibration_error(found: list[Bin]) -> float:
    """The expected calibration error, 0 to 1: the mean over pictures of their bin's gap."""
    pictures = sum(one["pictures"] for one in found)
    return sum(one["pictures"] * abs(one["accuracy"] - one["confidence"]) for one in found) / pictures


def calibration_error_by_chance(sure: Array, equal_mass: bool = False, count: int = BINS, draws: int = 200) -> float:
    """What a model that is calibrated perfectly shows by chance where it calls what it says of as many pictures so
    probable, (N,): the mean over draws, in the order of the pictures, of what is right."""
    rng = np.random.default_rng(0)
    sure = np.asarray(sure, np.float64)
    if equal_mass:
        parts = [part for part in np.array_split(np.argsort(sure, kind="stable"), count) if len(part)]
        shares = np.array([len(part) for part in parts]) / len(sure)
        means = np.array([sure[part].mean() for part in parts])
        errors = []
        for _ in range(draws):
            right = rng.random(len(sure)) < sure
            errors.append(shares @ np.abs(np.array([right[part].mean() for part in parts]) - means))
        return float(np.mean(errors))
    drawn = (rng.random(len(sure)) < sure for _ in range(draws))
    return float(np.mean([calibration_error(bins(sure, right, count=count)) for right in drawn]))


def risk_coverage(sure: Array, right: Array) -> list[tuple[float, float]]:
    """(share answered, accuracy among these) where the surest pictures are answered first, in up to 101 points.

    Of equally sure ones any may be answered first, and the accuracy is what that comes to on average. The arguments are
    those of `bins`.
    """
    order = np.argsort(sure, kind="stable")
    surest_first = _alike_where_tied(np.asarray(sure)[order], right[order])[::-1]
    accuracy = np.cumsum(surest_first) / np.arange(1, len(order) + 1)
    places = np.unique(np.ceil(np.linspace(0, 1, CURVE_POINTS)[1:] * len(accuracy)).astype(int)) - 1
    return [((place + 1) / len(accuracy), float(accuracy[place])) for place in places.tolist() if place >= 0]


def answers(sure: Array, right: Array, wanted: tuple[float, ...] = WANTED) -> list[Answers]:
    """To be right as often as `wanted`, which share of the pictures to answer (see `bins`): of equally sure ones all,
    or none."""
    order = np.argsort(sure, kind="stable")[::-1]
    ordered = np.asarray(sure)[order]
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    accuracy = np.cumsum(right[order].astype(np.int64))[last] / (last + 1)
    found = []
    for level in wanted:
        enough = last[accuracy >= level]
        share, probability = None, None
        if len(enough):
            share, probability = float((enough[-1] + 1) / len(order)), float(ordered[enough[-1]])
        found.append(Answers(accuracy=level, share=share, probability=probability))
    return found


def detection(known: Array, strangers: Array) -> Detection:
    """How well a score tells strangers from pictures of what the model knows.

    Args:
        known: (N,) the score of pictures of what it knows.
        strangers: (M,) that of strangers, the higher the stranger.
    """
    scores = np.concatenate([known, strangers])
    is_stranger = np.arange(len(scores)) >= len(known)
    order = np.argsort(-scores, kind="stable")
    ranked = is_stranger[order]
    hits, alarms = np.cumsum(ranked), np.cumsum(~ranked)
    # Of equal scores all are called strangers, or none.
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    recall = np.append(0.0, hits[last] / len(strangers))
    false = np.append(0.0, alarms[last] / len(known))
    precision = np.append(1.0, hits[last] / (hits[last] + alarms[last]))
    return Detection(
        auroc=float((np.diff(false) * (recall[1:] + recall[:-1]) / 2).sum()),
        aupr=float((np.diff(recall) * precision[1:]).sum()),
        false_positive_rate_at_95=float(false[np.argmax(recall >= 0.95)]),
    )


__all__ = [
    "BINS",
    "WANTED",
    "Answers",
    "Bin",
    "Detection",
    "answers",
    "bins",
    "bins_of_sums",
    "brier_score",
    "calibration_error",
    "calibration_error_by_chance",
    "detection",
    "negative_log_likelihood",
    "risk_coverage",
    "sure_and_right",
    "width_sums",
]

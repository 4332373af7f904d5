"""Sets of labels that hold the truth as often as promised: split conformal prediction.

Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005. Pictures that were not trained on are given a
score each, how badly the model fits their true label; a set then holds the labels whose score is at most a quantile of
these. Whatever the model, the truth is in the set as often as promised, over the draw of all pictures alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from .problems import LAC, RAPS

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Of fewer pictures than these a class's own quantile says next to nothing.
PICTURES_A_CLASS = 50
# The penalties that the paper of RAPS tries, appendix E.
PENALTIES = (0.001, 0.01, 0.1, 0.2, 0.5)
# Fewer pictures than these would choose a penalty by chance.
SMALLEST_CHOICE = 20
# Sums of probabilities in another order differ by so much, and labels are as likely as each other; MAPIE's, too.
TOLERANCE = 1e-8
# How sure it is that the coverage lies in the interval that is said.
SURE = 0.95


class TooFewPictures(ValueError):
    """Fewer held-out pictures than a level of coverage needs; the message says how many it takes."""


@dataclass(frozen=True)
class Penalty:
    """What RAPS adds to the score of a label that many others come before.

    Attributes:
        rank: From which rank on, the likeliest label's being 1 (k_reg in the paper).
        weight: How much for each rank beyond it (lambda in the paper); 0 makes it APS.
    """

    rank: int = 1
    weight: float = 0.0


@dataclass(frozen=True)
class Sets:
    """Sets of labels, fitted on pictures that were held out.

    Attributes:
        method: "lac" or "raps".
        scores: (n,) float64, how badly the true label of each held-out picture fits, ascending.
        classes: (n,) what class each of `scores` is of.
        penalty: Of RAPS.
        by_class: Whether a class of at least 50 pictures has a quantile of its own.
    """

    method: str
    scores: Array
    classes: Array
    penalty: Penalty = Penalty()
    by_class: bool = False

    def threshold(self, coverage: float) -> float:
        """The largest score that a label in a set has, over all classes.

        Raises:
            TooFewPictures: `coverage` takes more pictures than were held out.
        """
        return quantile(self.scores, coverage)

    def thresholds(self, coverage: float, labels: int) -> Array:
        """(labels,) the largest score that each label in a set has.

        Raises:
            TooFewPictures: `coverage` takes more pictures than were held out.
        """
        if (coverage, labels) in self._known:
            return self._known[coverage, labels]
        found = np.full(labels, self.threshold(coverage))
        for label in self.by_themselves(coverage):
            found[label] = quantile(self.scores[self.classes == label], coverage)
        found.setflags(write=False)
        return self._known.setdefault((coverage, labels), found)

    @cached_property
    def _known(self) -> dict[tuple[float, int], Array]:
        """`thresholds` that were asked for before: each picture's set asks anew."""
        return {}

    def by_themselves(self, coverage: float) -> dict[int, int]:
        """The classes that have a quantile of their own, each with the number of its pictures; none unless `by_class`.

        Args:
            coverage: As `contain` takes it.
        """
        labels, counts = np.unique(self.classes, return_counts=True)
        least = max(PICTURES_A_CLASS, pictures_needed(coverage))
        found = zip(labels.tolist(), counts.tolist(), strict=True)
        return {label: count for label, count in found if self.by_class and count >= least}

    def contain(self, probabilities: Array, coverage: float) -> Array:
        """Which labels are in the set of each picture: (N, labels), true for at least one of each row.

        Args:
            probabilities: (N, labels), from the same source as those that this was fitted on.
            coverage: How often the set is to hold the truth, 0 to 1.

        Raises:
            TooFewPictures: `coverage` takes more pictures than were held out.
        """
        inside = label_scores(self.method, probabilities, self.penalty) <= (
            self.thresholds(coverage, probabilities.shape[1]) + TOLERANCE
        )
        inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True  # an empty set would help nobody
        if self.method == RAPS and not self.by_class:
            # Which of labels as likely as each other comes first is a matter of rounding, and of the engine.
            last = np.where(inside, probabilities, np.inf).min(axis=1, keepdims=True)
            inside |= probabilities >= last - TOLERANCE
        return inside


def fit(
    method: str,
    probabilities: Array,
    targets: Array,
    by_class: bool = False,
    coverage: float = 0.9,
    penalty: Penalty | None = None,
) -> Sets:
    """Sets from held-out pictures.

    Args:
        method: "lac" or "raps".
        probabilities: (N, labels) what the model says of them.
        targets: (N,) their classes.
        by_class: Whether classes have quantiles of their own.
        coverage: The level that the penalty of RAPS is chosen for; any other can be asked for afterwards.
        penalty: Of RAPS; by default chosen on a fifth of the pictures, which then serve for nothing else, or none where
            that would be fewer than 20.

    Raises:
        TooFewPictures: There are too few for `coverage`.
    """
    kept = np.arange(len(targets))
    if method == RAPS and penalty is None:
        chosen = np.arange(0, len(targets), 5)
        if len(chosen) >= max(SMALLEST_CHOICE, pictures_needed(coverage)):
            penalty = best_penalty(probabilities[chosen], targets[chosen], coverage)
            kept = np.setdiff1d(kept, chosen)
    penalty = penalty or Penalty()
    check_coverage(coverage, len(kept))
    scores = label_scores(method, probabilities[kept], penalty)[np.arange(len(kept)), targets[kept]]
    order = np.argsort(scores, kind="stable")
    return Sets(method, scores[order], targets[kept][order], penalty, by_class)


def best_penalty(probabilities: Array, targets: Array, coverage: float) -> Penalty:
    """The penalty of the smallest sets (section 4 and appendix E of the paper of RAPS).

    Args:
        probabilities: (N, labels), of pictures that the sets are not fitted on.
        targets: (N,) their classes.
        coverage: For which level.

    Raises:
        TooFewPictures: There are too few for `coverage`.
    """
    ranks = ranked_positions(probabilities)[np.arange(len(targets)), targets]
    rank = int(quantile(np.sort(ranks), coverage))
    sizes = []
    for weight in PENALTIES:
        tried = fit(RAPS, probabilities, targets, coverage=coverage, penalty=Penalty(rank, weight))
        sizes.append(tried.contain(probabilities, coverage).sum(axis=1).mean())
    return Penalty(rank, PENALTIES[int(np.argmin(sizes))])


def label_scores(method: str, probabilities: Array, penalty: Penalty = Penalty()) -> Array:
    """(N, labels) how badly each label fits each picture: the smaller the better.

    Args:
        method: "lac": one less the label's probability. "raps": the probability of the label and of all likelier ones,
            with a penalty for its rank, and without the paper's random part, so that an answer is the same twice.
        probabilities: (N, labels).
        penalty: Of RAPS.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if method == LAC:
        return 1.0 - probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sums = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    sums += penalty.weight * np.maximum(np.arange(1, sums.shape[1] + 1) - penalty.rank, 0)
    found = np.empty_like(sums)
    np.put_along_axis(found, order, sums, axis=1)
    return found


def ranked_positions(probabilities: Array) -> Array:
    """(N, labels) each label's rank, 1 for the likeliest; of equal ones the first in the model's order comes first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    positions = np.empty_like(order)
    np.put_along_axis(positions, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
    return positions


def pictures_needed(coverage: float) -> int:
    """How many held-out pictures a level of coverage takes: with fewer, only the set of all labels would do."""
    fewest = max(1, math.floor(coverage / (1.0 - coverage)))  # or one more, as rounding has it
    return fewest if position(fewest, coverage) <= fewest else fewest + 1


def check_coverage(coverage: float, pictures: int) -> None:
    """Raises `ValueError` where it is no share, and `TooFewPictures` where it takes more pictures than there are."""
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage is {coverage:g}; expected a share between 0 and 1, such as 0.9.")
    needed = pictures_needed(coverage)
    if pictures < needed:
        most = pictures / (pictures + 1)
        raise TooFewPictures(
            f"sets that hold the truth {100 * coverage:g} % of the time take {needed:,} held-out pictures, and there "
            f"are {pictures:,}; give more, or ask for {math.floor(1000 * most) / 10:g} % at most."
        )


def position(pictures: int, coverage: float) -> int:
    """Which of the ascending scores of so many pictures is the quantile, 1 for the first: ceil((n + 1) coverage)."""
    return math.ceil((pictures + 1) * coverage - 1e-9)  # 0.9 x 10 is a little more than 9 in floating point


def quantile(scores: Array, coverage: float) -> float:
    """The finite-sample quantile of ascending scores.

    Raises:
        ValueError: `coverage` is no share, or takes more scores (`TooFewPictures`).
    """
    check_coverage(coverage, len(scores))
    return float(scores[position(len(scores), coverage) - 1])


def promised(pictures: int, coverage: float, measured_on: int | None = None) -> tuple[float, float]:
    """Between which shares the coverage of sets lies, with 95 % probability over which pictures were held out.

    Args:
        pictures: How many they were fitted on.
        coverage: What they are to hold.
        measured_on: Over how many pictures the coverage is measured; by default over all that there could be. Then it
            is distributed as Beta(k, n + 1 - k) where k = ceil((n + 1) coverage) (Vovk, Conditional validity of
            inductive conformal predictors, 2012), else as the beta-binomial with these numbers over how many.

    Raises:
        ValueError: `coverage` is no share, or takes more pictures (`TooFewPictures`).
    """
    check_coverage(coverage, pictures)
    k = position(pictures, coverage)
    if measured_on is not None:
        hits = np.arange(measured_on + 1)
        terms = (
            _log_choose(measured_on, hits)
            + _log_beta(hits + k, measured_on - hits + pictures + 1 - k)
            - _log_beta(np.array([k]), np.array([pictures + 1 - k]))
        )
        cumulative = np.cumsum(np.exp(terms))
        low, high = (int(np.searchsorted(cumulative, share)) for share in ((1 - SURE) / 2, (1 + SURE) / 2))
        return low / measured_on, min(high, measured_on) / measured_on
    return _beta_quantile((1 - SURE) / 2, k, pictures), _beta_quantile((1 + SURE) / 2, k, pictures)


def _beta_quantile(share: float, k: int, n: int) -> float:
    """Where the distribution function of Beta(k, n + 1 - k) is `share`: P(Beta <= x) = P(Binomial(n, x) >= k)."""
    hits = np.arange(k, n + 1)
    choose = _log_choose(n, hits)
    low, high = 0.0, 1.0
    for _ in range(60):  # halvings: past the precision of a float
        middle = (low + high) / 2
        tail = np.exp(choose + hits * math.log(middle) + (n - hits) * math.log1p(-middle)).sum()
        low, high = (middle, high) if tail < share else (low, middle)
    return (low + high) / 2


_log_gamma: Any = np.vectorize(math.lgamma, otypes=[np.float64])


def _log_choose(n: int, k: Array) -> Array:
    return math.lgamma(n + 1) - _log_gamma(k + 1) - _log_gamma(n - k + 1)


def _log_beta(a: Array, b: Array) -> Array:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def sizes_by_class(inside: Array, targets: Array, labels: int) -> Mapping[str, Array]:
    """What sets are worth for each class: how many pictures, how often the truth is inside, how large they are.

    Args:
        inside: (N, labels) as `Sets.contain` gives them.
        targets: (N,) the true classes.
        labels: How many there are.

    Returns:
        `pictures`, `coverage` and `size`, (labels,) each; NaN for a class without pictures.
    """
    count = np.bincount(targets, minlength=labels).astype(np.float64)
    hits = np.bincount(targets, inside[np.arange(len(targets)), targets], minlength=labels)
    members = np.bincount(targets, inside.sum(axis=1), minlength=labels)
    there = np.where(count > 0, count, np.nan)
    return {"pictures": count, "coverage": hits / there, "size": members / there}


__all__ = [
    "PICTURES_A_CLASS",
    "Penalty",
    "Sets",
    "TooFewPictures",
    "best_penalty",
    "check_coverage",
    "fit",
    "label_scores",
    "pictures_needed",
    "promised",
    "quantile",
    "sizes_by_class",
]

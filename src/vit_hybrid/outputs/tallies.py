"""What scores are made of, picture by picture: counts and sums that are added up in any pieces and in any order.

A tally takes as much memory for a million pictures as for one, and can be pickled: each worker of an evaluation counts
its own pictures, and counts of several are added. Counts are exact; sums are of float64, and differ by how the pictures
were put together in their last digits alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from .problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL

TOP_K = 5
# Guo et al., On Calibration of Modern Neural Networks, 2017: 15 bins of equal width, mean absolute gap.
CALIBRATION_BINS = 15
# From which probability on a multi-label model is taken to say yes.
THRESHOLD = 0.5

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class SingleLabelTally:
    """Of a single-label classifier.

    Attributes:
        width: How many labels there are.
        count: How many pictures.
        among_best: How many have their label among the five that the model is surest of.
        pairs: How many of each true label were taken for each label.
        losses: The sum of -log(probability of the true label).
        bins: (16, 3) how many pictures are as sure as a bin says (15 bins, the last row of those with probability 1),
            how many of them are right, and the sum of their probabilities.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = self.among_best = 0
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.losses = 0.0
        self.bins = np.zeros((CALIBRATION_BINS + 1, 3))

    def add(self, logits: Array, targets: Array) -> None:
        """Counts pictures: logits (N, labels) and targets (N,), indices of labels."""
        outputs, true = logits.astype(np.float64), torch.from_numpy(targets)
        order = np.argsort(-outputs, axis=1, kind="stable")[:, :TOP_K]
        self.count += len(outputs)
        self.among_best += int((order == targets[:, None]).any(axis=1).sum())
        self.pairs.update(zip(targets.tolist(), order[:, 0].tolist(), strict=True))
        log_probabilities = torch.log_softmax(torch.from_numpy(outputs), dim=1)
        self.losses -= float(log_probabilities[torch.arange(len(true)), true].sum())
        certainty, surest = log_probabilities.exp().max(dim=1)
        edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.float64)
        bins = (torch.bucketize(certainty, edges, right=True) - 1).numpy()
        for column, weights in enumerate((None, surest.eq(true).double().numpy(), certainty.numpy())):
            self.bins[:, column] += np.bincount(bins, weights, minlength=len(self.bins))

    def merge(self, other: SingleLabelTally) -> None:
        """Adds what another one has counted."""
        self.count += other.count
        self.among_best += other.among_best
        self.pairs.update(other.pairs)
        self.losses += other.losses
        self.bins += other.bins

    def counts(self) -> tuple[Array, Array, Array]:
        """(labels,) how many pictures show each label, were taken for it, and both."""
        support, chosen, hits = (np.zeros(self.width, np.int64) for _ in range(3))
        for (truth, predicted), count in self.pairs.items():
            support[truth] += count
            chosen[predicted] += count
            if truth == predicted:
                hits[truth] += count
        return support, chosen, hits

    def calibration_error(self) -> float:
        """The expected calibration error: the mean gap between how sure the model is and how often it is right."""
        counted, right, certain = self.bins[self.bins[:, 0] > 0].T
        return float((np.abs(right / counted - certain / counted) * (counted / counted.sum())).sum())


class MultiLabelTally:
    """Of a multi-label classifier, but for average precision, which ranks all pictures.

    Attributes:
        width: How many labels there are.
        count: How many pictures.
        hits: (labels,) how many pictures have a label and are said to.
        misfires: (labels,) how many are said to and do not.
        support: (labels,) how many have it.
        matched: How many labels of pictures are as they are said to be.
        exactly: How many pictures have all labels as they are said to.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = self.matched = self.exactly = 0
        self.hits, self.misfires, self.support = (np.zeros(width, np.int64) for _ in range(3))

    def add(self, logits: Array, targets: Array) -> None:
        """Counts pictures: logits (N, labels) and targets (N, labels), zeros and ones."""
        predicted, truth = probabilities_of_each(logits).numpy() > THRESHOLD, targets > 0
        self.count += len(logits)
        self.hits += (predicted & truth).sum(axis=0)
        self.misfires += (predicted & ~truth).sum(axis=0)
        self.support += truth.sum(axis=0)
        self.matched += int((predicted == truth).sum())
        self.exactly += int((predicted == truth).all(axis=1).sum())

    def merge(self, other: MultiLabelTally) -> None:
        """Adds what another one has counted."""
        for name in ("count", "matched", "exactly", "hits", "misfires", "support"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class RegressionTally:
    """Of a regression model.

    Attributes:
        width: How many values there are.
        count: How many pictures.
        absolute: (values,) the sum of absolute errors.
        squared: (values,) the sum of squared errors.
        mean: (values,) of the targets.
        spread: (values,) the sum of the targets' squared distances from their mean.
        least: (values,) the smallest target.
        most: (values,) the largest.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self.absolute, self.squared = np.zeros(width), np.zeros(width)
        # With more digits than float64: of values far from zero most digits are those of the mean.
        self.mean, self.spread = np.zeros(width, np.longdouble), np.zeros(width, np.longdouble)
        self.least, self.most = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, logits: Array, targets: Array) -> None:
        """Counts pictures: outputs (N, values) and targets (N, values)."""
        errors = logits.astype(np.float64) - targets.astype(np.float64)
        targets = targets.astype(np.longdouble)
        mean = targets.mean(axis=0)
        other = RegressionTally(self.width)
        other.count, other.mean, other.spread = len(errors), mean, ((targets - mean) ** 2).sum(axis=0)
        other.least, other.most = targets.min(axis=0), targets.max(axis=0)
        other.absolute, other.squared = np.abs(errors).sum(axis=0), (errors**2).sum(axis=0)
        self.merge(other)

    def merge(self, other: RegressionTally) -> None:
        """Adds what another one has counted. Means and spreads after Chan, Golub and LeVeque, 1979."""
        count = self.count + other.count
        if not other.count:
            return
        step = other.mean - self.mean
        self.spread = self.spread + other.spread + step**2 * (self.count * other.count / count)
        self.mean = self.mean + step * (other.count / count)
        self.absolute = self.absolute + other.absolute
        self.squared = self.squared + other.squared
        self.least, self.most = np.minimum(self.least, other.least), np.maximum(self.most, other.most)
        self.count = count

    def errors(self) -> list[tuple[float, float, float | None]]:
        """Of each value the mean absolute error, root mean squared error and R2 (None where all targets are one)."""
        return [
            (
                float(absolute / self.count),
                math.sqrt(squared / self.count),
                float(1.0 - squared / spread) if most > least else None,
            )
            for absolute, squared, spread, least, most in zip(
                self.absolute, self.squared, self.spread, self.least, self.most, strict=True
            )
        ]


Tally: TypeAlias = SingleLabelTally | MultiLabelTally | RegressionTally

TALLIES: dict[str, Callable[[int], Any]] = {
    SINGLE_LABEL: SingleLabelTally,
    MULTI_LABEL: MultiLabelTally,
    REGRESSION: RegressionTally,
}


def probabilities_of_each(logits: Array) -> torch.Tensor:
    """Each label's own probability, as float64, of the logits of a multi-label model."""
    return torch.sigmoid(torch.from_numpy(logits.astype(np.float64)))


__all__ = [
    *("CALIBRATION_BINS", "TALLIES", "THRESHOLD", "TOP_K", "MultiLabelTally", "RegressionTally", "SingleLabelTally"),
    *("Tally", "probabilities_of_each"),
]

"""What is said of one picture: its truth and the model's outputs as text, a row of a table, and how wrong it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..outputs.ranking import PROBABILITIES
from ..outputs.tallies import THRESHOLD

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

LABEL_SEPARATOR = "|"  # between the labels of one picture in a cell
SIGNIFICANT_DIGITS = 4


@dataclass(frozen=True)
class Mistake:
    """One picture of which the model is wrong; texts are for a person.

    Attributes:
        index: Where it stands among the pictures.
        path: What it is called.
        truth: Its label or labels or values.
        predicted: What the model says instead.
        probability: How sure the model is of a single label, 0 to 1; otherwise None.
    """

    index: int
    path: str
    truth: str
    predicted: str
    probability: float | None


@dataclass(frozen=True)
class Words:
    """What is said of pictures by a model.

    Attributes:
        problem_type: What its outputs mean.
        labels: The names of these, no two alike.
        temperature: What outputs are divided by, or each label's own, of a model that was calibrated.
    """

    problem_type: str
    labels: Sequence[str]
    temperature: Any = None

    def probabilities(self, logits: Array) -> Array:
        """(N, labels) float64: over all labels together, or each label's own; of a regression, its values."""
        outputs = self._outputs(logits)
        return outputs if self.problem_type == REGRESSION else PROBABILITIES[self.problem_type](outputs)

    def _outputs(self, logits: Array) -> Array:
        outputs: Array = logits.astype(np.float64)
        return outputs if self.temperature is None else outputs / np.asarray(self.temperature)

    def badness(self, logits: Array, targets: Array, deviations: Array) -> tuple[Array, Array]:
        """(N,) how bad what the model says of each picture is, and whether it is wrong at all.

        Worst is the wrong label that the model is surest of; of several labels the largest cross-entropy; of values
        the largest absolute error, each value's in units of its deviation.

        Args:
            logits: (N, labels).
            targets: (N,) indices of labels, or (N, labels).
            deviations: (values,) of a regression's targets.
        """
        outputs, probabilities = self._outputs(logits), self.probabilities(logits)
        badness: Array
        is_wrong: Array
        if self.problem_type == SINGLE_LABEL:
            badness, is_wrong = probabilities.max(axis=1), np.not_equal(probabilities.argmax(axis=1), targets)
        elif self.problem_type == MULTI_LABEL:
            badness = np.logaddexp(0.0, np.where(targets > 0, -outputs, outputs)).mean(axis=1)
            is_wrong = np.any((probabilities > THRESHOLD) != (targets > 0), axis=1)
        else:
            errors = np.abs(outputs - targets)
            badness = (errors / np.where(deviations > 0, deviations, 1.0)).mean(axis=1)
            is_wrong = np.any(errors > 0, axis=1)
        return badness, is_wrong

    def mistake(self, index: int, path: str, target: Any, outputs: Array) -> Mistake:
        """What to tell of a picture of which the model is wrong; `outputs` are its `probabilities`, (labels,)."""
        certain = float(outputs.max()) if self.problem_type == SINGLE_LABEL else None
        return Mistake(index, path, self.truth(target), self.said(outputs), certain)

    def head(self) -> list[str]:
        """The names of the columns of predictions.csv."""
        if self.problem_type == SINGLE_LABEL:
            return ["path", "truth", "predicted", "correct", "probability", "probability_of_truth"]
        if self.problem_type == MULTI_LABEL:
            return ["path", "truth", "predicted", "correct", *self.labels]
        return ["path", *(f"{name} {kind}" for kind in ("truth", "predicted") for name in self.labels)]

    def row(self, path: str, target: Any, outputs: Array) -> list[Any]:
        """A picture's row of predictions.csv; `outputs` are its `probabilities`, (labels,)."""
        if self.problem_type == SINGLE_LABEL:
            best = int(outputs.argmax())
            certain = [f"{outputs[index]:.6f}" for index in (best, target)]
            return [path, self.labels[target], self.labels[best], int(best == target), *certain]
        if self.problem_type == MULTI_LABEL:
            truth, predicted = self.truth(target), self.said(outputs)
            return [path, truth, predicted, int(truth == predicted), *(f"{output:.6f}" for output in outputs)]
        return [path, *(float(value) for value in target), *(float(value) for value in outputs)]

    def truth(self, target: Any) -> str:
        """A picture's label, labels or values."""
        if self.problem_type == SINGLE_LABEL:
            return self.labels[int(target)]
        if self.problem_type == MULTI_LABEL:
            return LABEL_SEPARATOR.join(name for name, value in zip(self.labels, target, strict=True) if value)
        return ", ".join(f"{value:.{SIGNIFICANT_DIGITS}g}" for value in target)

    def said(self, outputs: Array) -> str:
        """What a picture's probabilities say."""
        if self.problem_type == SINGLE_LABEL:
            return self.labels[int(outputs.argmax())]
        return self.truth(outputs > THRESHOLD if self.problem_type == MULTI_LABEL else outputs)


__all__ = ["Mistake", "Words"]

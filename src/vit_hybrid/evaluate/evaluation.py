"""What came of running a model over labeled pictures: its scores, and of what it is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ..data import LabeledPictures
from ..outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..outputs.ranking import PROBABILITIES, ErrorRecord
from ..outputs.scores import THRESHOLD, Scores, blocks

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
class Evaluation:
    """What came of running a model over labeled pictures.

    Attributes:
        problem_type: What the outputs mean, as in the model's configuration.
        labels: The names of the outputs, no two alike.
        scores: See `vit_hybrid.scores`.
        paths: What the pictures that were read are called, N of them.
        logits: (N, labels) float32, the model's outputs, mapped from a temporary file.
        targets: What is true of them: (N,) indices of `labels`, or (N, labels).
        rows: (N,) where they stand among the pictures that were given.
        skipped: The pictures that could not be read, or that the model could make nothing of, and why.
        notes: What was assumed, a line each.
        seconds: How long reading and running took.
    """

    problem_type: str
    labels: tuple[str, ...]
    scores: Scores
    paths: tuple[str, ...]
    logits: Array
    targets: Array
    rows: Array
    skipped: tuple[ErrorRecord, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    pictures: LabeledPictures | None = field(default=None, repr=False)

    @property
    def probabilities(self) -> Array:
        """(N, labels) float64: over all labels together, or each label's own; of a regression, its values."""
        return self._probabilities(self.logits)

    def probabilities_by_picture(self) -> Iterator[Array]:
        """The same picture by picture, (labels,), of which few are held at a time."""
        for part in blocks(*self.logits.shape):
            yield from self._probabilities(self.logits[part])

    def _probabilities(self, logits: Array) -> Array:
        outputs = logits.astype(np.float64)
        return outputs if self.problem_type == REGRESSION else PROBABILITIES[self.problem_type](outputs)

    def mistakes(self, most: int | None = None) -> list[Mistake]:
        """The pictures of which the model is wrong, the worst first.

        Worst is the wrong label that the model is surest of; of several labels the largest cross-entropy; of values
        the largest absolute error, each value's in units of its deviation.

        Args:
            most: How many to give; all of them by default.
        """
        badness, is_wrong = self._badness()
        order = np.argsort(-badness, kind="stable")
        chosen = order[is_wrong[order]][:most]
        probabilities = (self._probabilities(self.logits[place : place + 1])[0] for place in chosen)
        return [
            Mistake(
                index=int(self.rows[place]),
                path=self.paths[place],
                truth=self.text(self.targets[place]),
                predicted=self.said(outputs),
                probability=float(outputs.max()) if self.problem_type == SINGLE_LABEL else None,
            )
            for place, outputs in zip(chosen, probabilities, strict=True)
        ]

    def report(self) -> dict[str, Any]:
        """Scores and counts as one dict that `json.dumps` takes; scores stand at its top."""
        return {
            "problem_type": self.problem_type,
            "labels": list(self.labels),
            "images": len(self.paths),
            "skipped": len(self.skipped),
            "seconds": self.seconds,
            "images_per_second": len(self.paths) / self.seconds if self.seconds else None,
            **self.scores,
            "notes": list(self.notes),
            "unreadable": [dict(record) for record in self.skipped],
        }

    def _badness(self) -> tuple[Array, Any]:
        """(N,) how bad what the model says of each picture is, and whether it is wrong at all."""
        badness, is_wrong = np.empty(len(self.logits)), np.empty(len(self.logits), bool)
        deviations = self.targets.std(axis=0) if self.problem_type == REGRESSION else np.ones(())
        for part in blocks(*self.logits.shape):
            outputs, targets = self.logits[part].astype(np.float64), self.targets[part]
            probabilities = self._probabilities(outputs)
            if self.problem_type == SINGLE_LABEL:
                badness[part] = probabilities.max(axis=1)
                is_wrong[part] = probabilities.argmax(axis=1) != targets
            elif self.problem_type == MULTI_LABEL:
                badness[part] = np.logaddexp(0.0, np.where(targets > 0, -outputs, outputs)).mean(axis=1)
                is_wrong[part] = ((probabilities > THRESHOLD) != (targets > 0)).any(axis=1)
            else:
                errors = np.abs(outputs - targets)
                badness[part] = (errors / np.where(deviations > 0, deviations, 1.0)).mean(axis=1)
                is_wrong[part] = (errors > 0).any(axis=1)
        return badness, is_wrong

    def text(self, target: Any) -> str:
        if self.problem_type == SINGLE_LABEL:
            return self.labels[int(target)]
        if self.problem_type == MULTI_LABEL:
            return LABEL_SEPARATOR.join(name for name, value in zip(self.labels, target, strict=True) if value)
        return ", ".join(f"{value:.{SIGNIFICANT_DIGITS}g}" for value in target)

    def said(self, outputs: Array) -> str:
        """What a picture's probabilities say."""
        if self.problem_type == SINGLE_LABEL:
            return self.labels[int(outputs.argmax())]
        return self.text(outputs > THRESHOLD if self.problem_type == MULTI_LABEL else outputs)


__all__ = ["Evaluation", "Mistake"]

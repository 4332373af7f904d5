"""What came of running a model over labeled pictures: its scores, and of what it is wrong."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO, TypeAlias

import numpy as np
from PIL import Image

from ..data import LabeledPictures
from ..errors import escaped
from ..images.reading import ImageReadError
from ..outputs.assessment import Assessment
from ..outputs.problems import REGRESSION
from ..outputs.ranking import ErrorRecord
from ..outputs.scores import Scores, blocks
from .words import Mistake, Words

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


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
        assessment: How far what the model says can be trusted: see `vit_hybrid.outputs.assessment`.
        temperature: What outputs are divided by, or each label's own, of a model that was calibrated.
        unreadable_strangers: The strangers that could not be read, and why.
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
    assessment: Assessment = field(default_factory=Assessment, repr=False)
    temperature: float | list[float] | None = None
    unreadable_strangers: tuple[ErrorRecord, ...] = ()

    @property
    def words(self) -> Words:
        """What is said of a picture."""
        return Words(self.problem_type, self.labels, self.temperature)

    @property
    def probabilities(self) -> Array:
        """(N, labels) float64, calibrated as `classify` prints them: over all labels together, or each label's own; of
        a regression, its values."""
        return self.words.probabilities(self.logits)

    def probabilities_by_picture(self) -> Iterator[Array]:
        """The same picture by picture, (labels,), of which few are held at a time."""
        for part in blocks(*self.logits.shape):
            yield from self.words.probabilities(self.logits[part])

    def mistakes(self, most: int | None = None) -> list[Mistake]:
        """The pictures of which the model is wrong, the worst first: see `Words.badness`.

        Args:
            most: How many to give; all of them by default.
        """
        badness, is_wrong = self._badness()
        order = np.argsort(-badness, kind="stable")
        chosen = order[is_wrong[order]][:most]
        return [
            self.words.mistake(
                int(self.rows[place]),
                self.paths[place],
                self.targets[place],
                self.words.probabilities(self.logits[place : place + 1])[0],
            )
            for place in chosen
        ]

    def worst(self, most: int) -> tuple[Iterator[tuple[Mistake, Image.Image]], int]:
        """So many of the worst mistakes with their pictures, and how many mistakes there are."""
        mistakes = self.mistakes()

        def items() -> Iterator[tuple[Mistake, Image.Image]]:
            assert self.pictures is not None
            for mistake in mistakes[:most]:
                with suppress(ImageReadError):  # it could be read a moment ago
                    yield mistake, self.pictures.picture(mistake.index)

        return items(), len(mistakes)

    def write_table(self, file: TextIO) -> None:
        """Writes the rows of predictions.csv, in the order of the pictures."""
        rows = zip(map(escaped, self.paths), self.targets, self.probabilities_by_picture(), strict=True)
        csv.writer(file).writerows([self.words.head()])
        csv.writer(file).writerows(self.words.row(*row) for row in rows)

    def report(self) -> dict[str, Any]:
        """Scores and counts as one dict that `json.dumps` takes; scores stand at its top."""
        return report(self, len(self.paths))

    def _badness(self) -> tuple[Array, Array]:
        """(N,) how bad what the model says of each picture is, and whether it is wrong at all."""
        badness, is_wrong = np.empty(len(self.logits)), np.empty(len(self.logits), bool)
        deviations = self.targets.std(axis=0) if self.problem_type == REGRESSION else np.ones(())
        for part in blocks(*self.logits.shape):
            badness[part], is_wrong[part] = self.words.badness(self.logits[part], self.targets[part], deviations)
        return badness, is_wrong


class Scored(Protocol):
    """What came of an evaluation, whether the outputs of its pictures are kept or not."""

    @property
    def problem_type(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def scores(self) -> Scores: ...
    @property
    def skipped(self) -> tuple[ErrorRecord, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def assessment(self) -> Assessment: ...
    @property
    def unreadable_strangers(self) -> tuple[ErrorRecord, ...]: ...

    def report(self) -> dict[str, Any]: ...
    def worst(self, most: int) -> tuple[Iterator[tuple[Mistake, Image.Image]], int]: ...
    def write_table(self, file: TextIO) -> None: ...


def report(found: Scored, images: int, **more: Any) -> dict[str, Any]:
    """Scores and counts of an evaluation of so many pictures, with what else there is to say of it."""
    strangers: dict[str, Any] = {}
    if "strangers" in found.assessment:
        unreadable = [dict(record) for record in found.unreadable_strangers]
        strangers["strangers"] = {**found.assessment["strangers"], "unreadable": unreadable}
    return {
        "problem_type": found.problem_type,
        "labels": list(found.labels),
        "images": images,
        "skipped": len(found.skipped),
        "seconds": found.seconds,
        "images_per_second": images / found.seconds if found.seconds else None,
        **more,
        **found.scores,
        **found.assessment,
        **strangers,
        "notes": list(found.notes),
        "unreadable": [dict(record) for record in found.skipped],
    }


__all__ = ["Evaluation", "Mistake", "Scored", "report"]

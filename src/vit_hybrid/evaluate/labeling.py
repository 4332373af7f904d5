"""What labels in a stream mean to a model: looked through once before anything is computed, a piece at a time.

A reader of a whole table looks at all its labels at once. A stream is looked at in pieces of few pictures, of which
nothing is kept but how often each label stands there; pieces that the reader of a whole would take for the same are
taken for the same here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np

from ..data import DataError
from ..data.streams.protocol import CLASS_FOLDER, Labeled, Teller
from ..data.targets import LabelColumn, Targets, UnexpectedLabels, interpret, joined, order_of
from ..outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..outputs.scores import distinct
from .pictures import Named, of_another_kind, of_other_labels, outputs_called

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Targeting:
    """How labels become targets of a model.

    Attributes:
        problem_type: The model's.
        labels: What its outputs are called.
        places: Where each label of the data stands among them; what is left out is not there.
        unknown: The labels that are left out.
        na_as_class: Whether "NA" and the like are classes of that name.
        pictures: How many pictures there are to score, where none of several unknown labels are told apart.
        notes: What was assumed, a line each.
        deviations: (outputs,) how far apart the targets of a regression are; ones for another model.
    """

    problem_type: str
    labels: tuple[str, ...]
    places: dict[str, int]
    unknown: tuple[str, ...]
    na_as_class: bool
    pictures: int
    notes: tuple[str, ...]
    deviations: Any

    def targets(self, labeled: Sequence[Labeled]) -> tuple[Array, Array]:
        """What is true of pictures: their targets, (N,) or (N, labels), and (N,) whether each is to be scored.

        What is no picture but an error has targets of zero, and is to be told of, too.
        """
        is_told = np.array([_is_told(one) for one in labeled], bool)
        scored = is_told | np.array([one.teller is None for one in labeled], bool)
        is_single = self.problem_type == SINGLE_LABEL
        targets = np.zeros(len(labeled) if is_single else (len(labeled), len(self.labels)), np.float32)
        if is_single:
            targets = targets.astype(np.int64)
        if not is_told.any():
            return targets, scored
        found = _interpreted([one for one in labeled if _is_told(one)], self.problem_type, self.na_as_class)
        order = np.array([self.places.get(label, -1) for label in found.labels])
        rows = np.flatnonzero(is_told)
        if is_single:
            targets[rows] = order[found.values]
            scored[rows] &= targets[rows] >= 0
        else:
            known = order >= 0
            targets[np.ix_(rows, order[known])] = found.values[:, known]
            scored[rows] &= ~(found.values[:, ~known] > 0).any(axis=1)
        return targets, scored


class Survey:
    """The labels of a stream, piece by piece.

    Args:
        problem_type: The model's; None takes it from the labels.
        na_as_class: Whether "NA" and the like are classes of that name.

    Attributes:
        counts: How many pictures have each label.
        pictures: How many have any.
        errors: How many errors stand in the place of pictures.
        beside: How many pictures lie beside class folders, and belong to none.
        kinds: Which kinds of problem the labels look like.
    """

    def __init__(self, problem_type: str | None, na_as_class: bool) -> None:
        self.problem_type = problem_type
        self.counts: Counter[str] = Counter()
        self.pictures = self.errors = self.beside = 0
        self.kinds: set[str] = set()
        self._na_as_class = na_as_class
        self._is_numbered = True
        self._sums: Array | float = 0.0  # of a regression's values and their squares

    def add(self, labeled: Sequence[Labeled]) -> None:
        """Looks at pictures.

        Raises:
            DataError: One has no label, or labels are not those of such a model.
        """
        told = [one for one in labeled if _is_told(one)]
        self.errors += sum(one.teller is None for one in labeled)
        self.beside += sum(one.teller is not None for one in labeled) - len(told)
        if not told:
            return
        looks_like = _interpreted(told, None, self._na_as_class)
        kind = looks_like.problem_type
        self.kinds.add(kind)
        wanted = self.problem_type = self.problem_type or kind
        of_folders = any(one.teller is not None and one.teller.name == CLASS_FOLDER for one in told)
        if (wanted == SINGLE_LABEL and kind != SINGLE_LABEL) or (wanted != SINGLE_LABEL and of_folders):
            raise of_another_kind(wanted, kind, looks_like.labels)
        found = looks_like if kind == wanted else _interpreted(told, wanted, self._na_as_class)
        self.pictures += len(told)
        self._is_numbered &= found.numbered
        if wanted == SINGLE_LABEL:
            counts = np.bincount(found.values, minlength=len(found.labels))
        elif wanted == MULTI_LABEL:
            counts = found.values.sum(axis=0).astype(int)
        else:
            counts = np.full(len(found.labels), len(told))
            values = found.values.astype(np.float64)
            self._sums = self._sums + np.stack([values.sum(axis=0), (values**2).sum(axis=0)])
        self.counts.update(dict(zip(found.labels, counts.tolist(), strict=True)))

    def targeting(self, model: Named, known_only: bool) -> Targeting:
        """What the labels mean to a model; `known_only` leaves out pictures of labels that it does not know.

        Raises:
            DataError: They are for another kind of model, or labels are not among the model's.
        """
        if not self.pictures:
            raise DataError("no labels: no picture lies in a folder of its class, or has a label in a table or a tar")
        labels = tuple(self.counts)
        if model.problem_type == MULTI_LABEL and MULTI_LABEL not in self.kinds:
            raise of_another_kind(MULTI_LABEL, min(self.kinds), labels)
        names = distinct(model.labels)
        used = np.array([self.counts[label] > 0 for label in labels])
        unknown: tuple[str, ...] = ()
        try:
            order = order_of(labels, used, names, self._is_numbered, model.problem_type)
        except UnexpectedLabels as error:
            if not known_only:
                raise of_other_labels(error.labels, names) from error
            unknown = tuple(error.labels)
            if len(unknown) == sum(used):
                raise DataError(f"none of the labels would be left: {error}") from error
            labels = tuple(label for label in labels if label not in unknown)
            used = np.array([self.counts[label] > 0 for label in labels])
            order = order_of(labels, used, names, False, model.problem_type)
        told = [label for label, is_used in zip(labels, used, strict=True) if is_used]
        called, notes = outputs_called(model.problem_type, names, told, labels)
        if self.beside:
            notes = [
                f"pictures beside the class folders belong to no class and are passed over: {self.beside:,}",
                *notes,
            ]
        pictures = self.pictures
        if model.problem_type == SINGLE_LABEL:
            pictures -= sum(self.counts[label] for label in unknown)
        places = {label: int(place) for label, place in zip(labels, order, strict=True) if place >= 0}
        return Targeting(
            *(model.problem_type, tuple(called), places, unknown, self._na_as_class, pictures + self.errors),
            *(tuple(notes), self._deviations(order) if model.problem_type == REGRESSION else np.ones(len(called))),
        )

    def _deviations(self, order: Array) -> Array:
        mean, squares = np.asarray(self._sums) / self.pictures
        deviations = np.empty(len(order))
        deviations[order] = np.sqrt(np.maximum(squares - mean**2, 0.0))
        return deviations


def _is_told(one: Labeled) -> bool:
    """Whether there is a picture that has a label, or should have one."""
    return one.teller is not None and not (one.teller.name == CLASS_FOLDER and one.label is None)


def _interpreted(told: Sequence[Labeled], problem_type: str | None, na_as_class: bool) -> Targets:
    columns = [_column(teller, list(group)) for teller, group in groupby(told, lambda one: one.teller) if teller]
    return interpret(joined(columns), problem_type, None, na_as_class)


def _column(teller: Teller, labeled: Sequence[Labeled]) -> LabelColumn:
    return LabelColumn(
        teller.name,
        [one.label for one in labeled],
        lambda row: labeled[row].path,
        teller.names,
        teller.is_text,
        teller.parts,
        teller.is_guess,
    )


__all__ = ["Survey", "Targeting"]

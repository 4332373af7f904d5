"""Which pictures a model is measured on, and how their labels and the model's outputs go together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..data import DataError, LabeledPictures, read_labeled
from ..data.targets import MissingSplit, UnexpectedLabels
from ..errors import argument
from ..outputs.problems import REGRESSION
from ..outputs.scores import distinct

# Which split a model is measured on where nobody says so, the first of these that is there.
PREFERRED_SPLITS = ("test", "val")
NAMES_IN_ERRORS = 10


def default_split(
    location: str | os.PathLike[str],
    split: str | None = None,
    preferred: Sequence[str] = PREFERRED_SPLITS,
    **options: Any,
) -> tuple[LabeledPictures, str | None]:
    """Reads the pictures to measure a model on, and says which split they are.

    Args:
        location: As `read_labeled` takes it.
        split: The split to read. By default the first of `preferred` that is there, else everything that is there.
        preferred: The names of splits; first the test split, then the validation split.
        options: `image_column`, `label_column`, `problem_type`, `na_as_class`, `max_pixels` and `held`, as
            `read_labeled` takes them.

    Returns:
        The pictures, and the split's name, None for everything.

    Raises:
        DataError: If they cannot be read.
    """
    if split is not None:
        return read_labeled(location, split, **options), split
    for candidate in preferred:
        try:
            return read_labeled(location, candidate, **options), candidate
        except MissingSplit:
            continue
    return read_labeled(location, **options), None


def spread(pictures: LabeledPictures, limit: int) -> LabeledPictures:
    """At most `limit` of the pictures, spread evenly: the first ones would often be of one class only."""
    if limit >= len(pictures):
        return pictures
    return pictures.select(np.arange(limit) * len(pictures) // limit)


def known_only(pictures: LabeledPictures, labels: Sequence[str]) -> LabeledPictures:
    """The pictures of labels that a model knows; a note says what is left out.

    Args:
        pictures: The pictures.
        labels: The model's.

    Raises:
        DataError: If none is left.
    """
    try:
        pictures.with_labels(labels)
    except UnexpectedLabels as error:
        known = pictures.without(error.labels)
        known.notes += (left_out(len(pictures) - len(known), error.labels),)
        return known
    return pictures


class Named(Protocol):
    """What has outputs with names: a `Predictor`, or what is known of one in another process."""

    @property
    def problem_type(self) -> str: ...
    @property
    def labels(self) -> Sequence[str]: ...


def matched(model: Named, pictures: LabeledPictures) -> tuple[LabeledPictures, list[str], list[str]]:
    """The pictures with targets in the order of the model's outputs, the names of these, and notes on what was assumed.

    Raises:
        DataError: If the data are for another kind of model or have labels that the model does not know.
    """
    if pictures.problem_type != model.problem_type:
        raise of_another_kind(model.problem_type, pictures.problem_type, pictures.labels)
    names = distinct(model.labels)
    try:
        result = pictures.with_labels(names)
    except UnexpectedLabels as error:
        raise of_other_labels(error.labels, names) from error
    used = [name for name, count in zip(pictures.labels, pictures.class_counts(), strict=True) if count]
    names, notes = outputs_called(model.problem_type, names, used, pictures.labels)
    return result, names, [*pictures.notes, *notes]


def of_another_kind(problem_type: str, kind: str, labels: Sequence[str]) -> DataError:
    """What to raise where the data are not for this kind of model."""
    return DataError(
        f"the model's problem_type is {problem_type!r}, but the data's labels are those of {kind!r} "
        f"({_listed(labels)}); evaluate it on data of its own kind"
    )


def of_other_labels(unknown: Sequence[str], names: Sequence[str]) -> DataError:
    """What to raise where the data have labels that the model does not know."""
    return DataError(
        f"the data has labels that the model does not know: {_listed(unknown)}; the model's are {_listed(names)}; "
        "evaluate a model that was trained on these classes, rename them, or leave their pictures out "
        f"({argument('known_only', True)})"
    )


def outputs_called(
    problem_type: str, names: list[str], used: Sequence[str], labels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """What the outputs are called, and a note where that was assumed.

    Args:
        problem_type: The model's.
        names: What the model calls them.
        used: The data's labels that pictures have.
        labels: All of the data's labels.
    """
    if problem_type == REGRESSION:
        return (list(labels) if set(used) != set(names) else names), []  # LABEL_0 and the like say less
    if set(used) <= set(names):
        return names, []
    meant = _listed([f"{number} is {names[int(number)]}" for number in used])
    return names, [f"the data's labels are bare integers, taken for positions among the model's labels: {meant}"]


def left_out(count: int, unknown: Sequence[str]) -> str:
    """The note on pictures of labels that the model does not know."""
    return f"left out: {count:,} pictures of labels that the model does not know ({_listed(unknown)})"


def as_values(
    pictures: LabeledPictures, location: str | os.PathLike[str], split: str | None = None, **columns: Any
) -> LabeledPictures:
    """The pictures for a regression model, where whole numbers in their labels were taken for classes.

    Args:
        pictures: What was read, given back as it is where its labels are no numbers.
        location: Where it was read from, to be read again.
        split: The split that was read.
        columns: `image_column`, `label_column`, `na_as_class`, `max_pixels` and `held`, as they were.
    """
    try:
        numbers = {float(label) for label in pictures.labels}
    except ValueError:
        return pictures
    if pictures.problem_type == REGRESSION:
        return pictures
    try:
        read = read_labeled(location, split, problem_type=REGRESSION, **columns)
    except DataError:
        return pictures
    # Of class folders that are called by numbers it would give the positions.
    return read if {float(value) for value in np.unique(read.targets)} <= numbers else pictures


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - NAMES_IN_ERRORS
    return ", ".join(names[:NAMES_IN_ERRORS]) + (f" and {rest} more" if rest > 0 else "")


__all__ = [
    *("PREFERRED_SPLITS", "Named", "as_values", "default_split", "known_only", "left_out", "matched"),
    *("of_another_kind", "of_other_labels", "outputs_called", "spread"),
]

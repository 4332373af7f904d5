"""Which pictures a model is measured on, and how their labels and the model's outputs go together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data import DataError, LabeledPictures, read_labeled
from ..data.targets import MissingSplit, UnexpectedLabels
from ..errors import argument
from ..inference.predictor import Predictor
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
        options: `image_column`, `label_column`, `problem_type`, `na_as_class` and `max_pixels`, as `read_labeled` takes
            them.

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
        count, unknown = len(pictures) - len(known), _listed(error.labels)
        known.notes += (f"left out: {count:,} pictures of labels that the model does not know ({unknown})",)
        return known
    return pictures


def matched(predictor: Predictor, pictures: LabeledPictures) -> tuple[LabeledPictures, list[str], list[str]]:
    """The pictures with targets in the order of the model's outputs, the names of these, and notes on what was assumed.

    Raises:
        DataError: If the data are for another kind of model or have labels that the model does not know.
    """
    problem_type = predictor.problem_type
    if pictures.problem_type != problem_type:
        raise DataError(
            f"the model's problem_type is {problem_type!r}, but the data's labels are those of "
            f"{pictures.problem_type!r} ({_listed(pictures.labels)}); evaluate it on data of its own kind"
        )
    names, notes = distinct(predictor.labels), list(pictures.notes)
    try:
        result = pictures.with_labels(names)
    except UnexpectedLabels as error:
        raise DataError(
            f"the data has labels that the model does not know: {_listed(error.labels)}; the model's are "
            f"{_listed(names)}; evaluate a model that was trained on these classes, rename them, or leave their "
            f"pictures out ({argument('known_only', True)})"
        ) from error
    used = [name for name, count in zip(pictures.labels, pictures.class_counts(), strict=True) if count]
    if problem_type == REGRESSION:
        if set(used) != set(names):
            names = list(pictures.labels)  # LABEL_0 and the like say less
    elif not set(used) <= set(names):
        notes.append(
            "the data's labels are bare integers, taken for positions among the model's labels: "
            + _listed([f"{number} is {names[int(number)]}" for number in used])
        )
    return result, names, notes


def as_values(
    pictures: LabeledPictures, location: str | os.PathLike[str], split: str | None = None, **columns: Any
) -> LabeledPictures:
    """The pictures for a regression model, where whole numbers in their labels were taken for classes.

    Args:
        pictures: What was read, given back as it is where its labels are no numbers.
        location: Where it was read from, to be read again.
        split: The split that was read.
        columns: `image_column`, `label_column`, `na_as_class` and `max_pixels`, as they were.
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


__all__ = ["as_values", "default_split", "known_only", "matched", "spread"]

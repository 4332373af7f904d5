"""From a location to labeled pictures: what is there, which of it is training and validation, and the split."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import argument, escaped, shortened, shown
from .columns import ColumnChoice
from .held_back import held_back_mask
from .layout import Part, parts_of, those_there
from .listing import Passed
from .locating import located
from .parquet import InFile
from .pictures import Files, Joined, LabeledPictures, Store
from .splits import SPLIT_NAMES, TRAIN, VAL
from .targets import (
    MOST_OF_A_LISTED_NAME,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    Array,
    DataError,
    MissingSplit,
    UnexpectedLabels,
    interpret,
    joined,
    listed,
)


@dataclass(frozen=True)
class Split:
    """Pictures to train on and to validate with, with the same labels; `notes` holds what is odd, a line each."""

    train: LabeledPictures
    val: LabeledPictures
    notes: tuple[str, ...] = ()

    def described(self) -> tuple[str, str]:
        """The classes and counts of both parts and where each was found, a line each."""
        return f"training on {self.train.described()}", f"validating with {self.val.described()}"

    @property
    def passed(self) -> Passed:
        """What was passed over at their places, counted."""
        passed = Passed()
        for pictures in (self.train, self.val):
            passed.update(pictures.passed)
        return passed


def read_labeled(
    location: str | os.PathLike[str],
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    na_as_class: bool = False,
    max_pixels: int | None = None,
    held: bool = True,
) -> LabeledPictures:
    """Read the labeled pictures of a location, all of them or one split.

    Args:
        location: a folder of class folders, or of train/ and val/ with class folders in them; a parquet, CSV, TSV or
            JSON Lines file or a folder of them; a folder that `datasets` saved; or the id of a data set on the hub.
        split: "train", "val" (or "valid", "validation", "dev"), "test", or a name that only this location has.
        image_column: the column of pictures, guessed if not given.
        label_column: the column of labels, guessed if not given. Several, as a sequence or with commas between, are
            one 0 or 1 for each class, or several values of a regression.
        labels: the labels in the order of their indices. Where the data has bare integers, their names.
        problem_type: "single_label_classification", "multi_label_classification" or "regression", instead of what
            the labels look like.
        na_as_class: whether "NA", "None", "nan" and the like in a column of text are classes of that name, and not
            missing labels.
        max_pixels: the most pixels that a picture may have; 250 million if not given.
        held: whether encoded pictures in parquet files are read into memory now, for any order, and not when they are
            asked for, at best in their order.

    Raises:
        DataError: nothing there that can be read as this.
    """
    choice = ColumnChoice(image_column, label_column)
    place = os.fspath(location)
    passed = Passed()
    parts = parts_of(place, choice, passed)
    if split is None:
        chosen = [part for group in parts.values() for part in group]
    else:
        key = split if split in parts else SPLIT_NAMES.get(split.lower(), split)
        if key not in parts:
            raise MissingSplit(f"{shown(place)}: no split {split!r}; {those_there(parts)}")
        chosen = list(parts[key])
    return _read(chosen, passed, problem_type, labels, na_as_class, max_pixels, held=held)


def read_splits(
    location: str | os.PathLike[str],
    val: str | os.PathLike[str] | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    na_as_class: bool = False,
    max_pixels: int | None = None,
    leave_out: Sequence[str] = (),
    held_back: Sequence[str] = (),
) -> Split:
    """Read pictures to train on and to validate with.

    Validation is `val` if given, else those training pictures that `held_back` lists, else the location's own
    validation split, else a part of the training pictures: of each class the same fraction, at least one where there
    are two. A test split is never looked at.

    Args:
        location: as `read_labeled` takes it; of one with splits the training split is read.
        val: another location, of which the validation split is read, or everything where it has none.
        val_fraction: how much is split off, between 0 and 1.
        seed: decides which pictures are split off: the same ones for the same data, fraction and seed.
        image_column: as in `read_labeled`.
        label_column: as in `read_labeled`.
        labels: as in `read_labeled`; of what is left where classes are left out.
        problem_type: as in `read_labeled`.
        na_as_class: as in `read_labeled`.
        max_pixels: as in `read_labeled`.
        leave_out: labels whose pictures are used neither for training nor for validation.
        held_back: training pictures to validate with, as paths below the location (see `read_held_back`).

    Raises:
        DataError: nothing that can be trained on: no pictures, one class only, an empty class folder, labels in the
            validation pictures that no training picture has, or too few pictures to split; a label to be left out
            that there is not, or a picture to be held back.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"{argument('val_fraction')} must lie between 0 and 1, got {val_fraction}")
    if seed < 0:
        raise DataError(f"{argument('seed')} must be 0 or more, got {seed}")
    choice = ColumnChoice(image_column, label_column)
    place = os.fspath(location)
    passed = Passed()
    parts = parts_of(place, choice, passed)
    chosen = parts.get(TRAIN) or parts.get(None)
    if not chosen:
        raise DataError(f"{shown(place)}: no training split; {those_there(parts)}")
    train = _read(chosen, passed, problem_type, None if leave_out else labels, na_as_class, max_pixels)
    if train.problem_type != REGRESSION and len(train.labels) < 2:
        raise DataError(f"{shown(place)}: one class only ({train.labels[0]}); expected at least two to tell apart")

    validation: Sequence[Part] | None = parts.get(VAL)
    val_place = place
    if val is not None:
        val_place = os.fspath(val)
        val_parts = parts_of(val_place, choice, passed)
        validation = val_parts.get(VAL) or [part for group in val_parts.values() for part in group]
    if held_back:
        if val is not None:
            raise DataError(f"{shown(val_place)}: held_back lists what to validate with; give it or {argument('val')}")
        is_held_back = held_back_mask(train, place, held_back)
        train, held_out = train.select(~is_held_back), train.select(is_held_back)
    elif validation:
        held_out = _read_validation(val_place, validation, passed, na_as_class, train)
    else:
        indices = held_out_indices(train, val_fraction, seed)
        if not 0 < len(indices) < len(train):
            raise DataError(
                f"{shown(place)}: no class has two pictures, so that none can be split off for validation; add "
                f"pictures, or name other ones with {argument('val')}"
            )
        is_held_out = np.zeros(len(train), np.bool_)
        is_held_out[indices] = True
        train, held_out = train.select(~is_held_out), train.select(is_held_out)
    if leave_out:
        train, held_out = train.without(leave_out), held_out.without(leave_out)
        if len(train.labels) < 2:
            raise DataError(f"{shown(place)}: one class would be left ({train.labels[0]}); expected at least two")
        if labels is not None:
            train, held_out = train.with_labels(labels), held_out.with_labels(labels)
    return Split(train, held_out, _notes(train, held_out))


def _read_validation(
    place: str, parts: Sequence[Part], passed: Passed, na_as_class: bool, train: LabeledPictures
) -> LabeledPictures:
    try:
        return _read(parts, passed, train.problem_type, train.labels, na_as_class, train.max_pixels, empty_allowed=True)
    except UnexpectedLabels as error:
        raise DataError(
            f"{shown(place)}: labels for validation that no training picture has: {listed(error.labels)}"
        ) from error


def _notes(train: LabeledPictures, val: LabeledPictures) -> tuple[str, ...]:
    notes = [*train.notes, *val.notes]
    if train.problem_type != REGRESSION:
        for pictures, what in ((train, "training"), (val, "validation")):
            without = [name for name, count in zip(train.labels, pictures.class_counts(), strict=True) if not count]
            if without:
                notes.append(f"no {what} pictures of {listed(without)}")
        notes += _alike(train.labels)
    return tuple(dict.fromkeys(notes))


def _alike(labels: Sequence[str]) -> list[str]:
    """A note on labels that a person would take for one."""
    spellings: dict[str, list[str]] = {}
    for label in labels:
        plain = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        spellings.setdefault(plain, []).append(label)
    several = [
        " and ".join(shortened(escaped(repr(label)), MOST_OF_A_LISTED_NAME) for label in same[:2])
        for same in spellings.values()
        if len(same) > 1
    ]
    if not several:
        return []
    others = len(several) - 1
    more = f" and {others:,} more such pair{'s' if others > 1 else ''}" if others else ""
    return [
        f"labels that differ only in capitals, spaces or how accents are encoded: {several[0]}{more}; give those the "
        "same name that are one class"
    ]


def _read(
    parts: Sequence[Part],
    passed: Passed,
    problem_type: str | None,
    labels: Sequence[str] | None,
    na_as_class: bool,
    max_pixels: int | None,
    empty_allowed: bool = False,
    held: bool = True,
) -> LabeledPictures:
    read = [rows for part in parts for rows in part(empty_allowed)]
    targets = interpret(joined([rows.column for rows in read]), problem_type, labels, na_as_class)
    notes = [note for rows in read for note in rows.notes]
    stores: list[Store] = []
    for rows in read:
        store = rows.store
        if isinstance(store, Files) and rows.table:
            store, note = located(store, rows.table)
            notes += [note] if note else []
        if isinstance(store, InFile) and held:
            store = store.held()
        stores.append(store)
    origins = list(dict.fromkeys(rows.origin for rows in read))
    others = len(origins) - 2
    more = f" and {others:,} more place{'s' if others > 1 else ''}" if others > 0 else ""
    return LabeledPictures(
        stores[0] if len(stores) == 1 else Joined(stores),
        targets.problem_type,
        targets.labels,
        targets.values,
        numbered=targets.numbered,
        notes=notes,
        origin=" and ".join(origins[:2]) + more,
        passed=passed,
        max_pixels=max_pixels,
    )


# --- Holding pictures back --------------------------------------------------------------------------------------------


def held_out_indices(pictures: LabeledPictures, fraction: float, seed: int) -> Array:
    """Which pictures to hold back for validation, in ascending order.

    Of each class `fraction` of the pictures, at least one and not all where there are two. Where a picture has
    several classes, it counts for the rarest of them; the values of a regression are cut into bins of equal size.
    """
    groups = _groups(pictures, fraction)
    chosen = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        if len(members) > 1:
            count = min(max(round(len(members) * fraction), 1), len(members) - 1)
            # A generator of its own for each class: another class's pictures do not change the choice.
            generator = np.random.default_rng([seed, int(group)])
            chosen.append(generator.permutation(members)[:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def _groups(pictures: LabeledPictures, fraction: float) -> Array:
    """(N,) the class by which each picture is held back, 0 or more."""
    if pictures.problem_type == SINGLE_LABEL:
        return pictures.targets
    if pictures.problem_type == MULTI_LABEL:
        rarity = np.where(pictures.targets > 0, pictures.class_counts(), len(pictures) + 1)
        without = pictures.targets.sum(axis=1) == 0
        return np.where(without, len(pictures.labels), rarity.argmin(axis=1))
    # Bins just large enough to hold one picture of each back.
    bin_size = max(2, round(1 / fraction))
    bins = max(1, len(pictures) // bin_size)
    ranks = np.argsort(np.argsort(pictures.targets[:, 0], kind="stable"), kind="stable")
    return ranks * bins // len(pictures)

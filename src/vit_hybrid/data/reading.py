"""From a location to labeled pictures: what is there, which of it is training and validation, and the split."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..errors import argument
from .folders import Rows, listing, read_class_folders
from .hub import is_hub_id, is_saved_dataset, load_from_hub, load_saved, read_dataset
from .listing import Passed
from .parquet import read_parquet
from .pictures import Joined, LabeledPictures
from .tables import CSV_SUFFIXES, JSON_SUFFIXES, ColumnChoice, has_known_columns, read_text_table
from .targets import (
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

TRAIN, VAL, TEST = "train", "val", "test"
# The names of splits, in lower case, as folders, parts of file names and Hugging Face's datasets have them.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (*PARQUET_SUFFIXES, *CSV_SUFFIXES, *JSON_SUFFIXES)
# The tables that describe a folder of pictures by the ImageFolder convention of Hugging Face's datasets.
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Where data sets on the hub keep their parquet files.
PARQUET_FOLDER = "data"

# Reads one part of a location; the second argument says whether class folders may be empty.
Part: TypeAlias = Callable[[ColumnChoice, bool], Rows]
Parts: TypeAlias = Mapping[str | None, Sequence[Part]]


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

    Raises:
        DataError: nothing there that can be read as this.
    """
    choice = ColumnChoice(image_column, label_column)
    place = os.fspath(location)
    passed = Passed()
    parts = _parts_of(place, passed)
    if split is None:
        chosen = [part for group in parts.values() for part in group]
    else:
        key = split if split in parts else SPLIT_NAMES.get(split.lower(), split)
        if key not in parts:
            raise MissingSplit(f"{place}: no split {split!r}; {_those_there(parts)}")
        chosen = list(parts[key])
    return _read(chosen, choice, passed, problem_type, labels)


def read_splits(
    location: str | os.PathLike[str],
    val: str | os.PathLike[str] | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
) -> Split:
    """Read pictures to train on and to validate with.

    Validation is `val` if given, else the location's own validation split, else a part of the training pictures: of
    each class the same fraction, at least one where there are two. A test split is never looked at.

    Args:
        location: as `read_labeled` takes it; of one with splits the training split is read.
        val: another location, of which the validation split is read, or everything where it has none.
        val_fraction: how much is split off, between 0 and 1.
        seed: decides which pictures are split off: the same ones for the same data, fraction and seed.
        image_column: as in `read_labeled`.
        label_column: as in `read_labeled`.
        labels: as in `read_labeled`.
        problem_type: as in `read_labeled`.

    Raises:
        DataError: nothing that can be trained on: no pictures, one class only, an empty class folder, labels in the
            validation pictures that no training picture has, or too few pictures to split.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"{argument('val_fraction')} must lie between 0 and 1, got {val_fraction}")
    if seed < 0:
        raise DataError(f"{argument('seed')} must be 0 or more, got {seed}")
    choice = ColumnChoice(image_column, label_column)
    place = os.fspath(location)
    passed = Passed()
    parts = _parts_of(place, passed)
    chosen = parts.get(TRAIN) or parts.get(None)
    if not chosen:
        raise DataError(f"{place}: no training split; {_those_there(parts)}")
    train = _read(chosen, choice, passed, problem_type, labels)
    if train.problem_type != REGRESSION and len(train.labels) < 2:
        raise DataError(f"{place}: one class only ({train.labels[0]}); expected at least two to tell apart")

    validation: Sequence[Part] | None = parts.get(VAL)
    val_place = place
    if val is not None:
        val_place = os.fspath(val)
        val_parts = _parts_of(val_place, passed)
        validation = val_parts.get(VAL) or [part for group in val_parts.values() for part in group]
    if validation:
        held_out = _read_validation(val_place, validation, choice, passed, train)
    else:
        indices = held_out_indices(train, val_fraction, seed)
        if not 0 < len(indices) < len(train):
            raise DataError(
                f"{place}: no class has two pictures, so that none can be split off for validation; add pictures, or "
                f"name other ones with {argument('val')}"
            )
        is_held_out = np.zeros(len(train), np.bool_)
        is_held_out[indices] = True
        train, held_out = train.select(~is_held_out), train.select(is_held_out)
    return Split(train, held_out, _notes(train, held_out))


def _read_validation(
    place: str, parts: Sequence[Part], choice: ColumnChoice, passed: Passed, train: LabeledPictures
) -> LabeledPictures:
    try:
        return _read(parts, choice, passed, train.problem_type, train.labels, empty_allowed=True)
    except UnexpectedLabels as error:
        raise DataError(
            f"{place}: labels for validation that no training picture has: {listed(error.labels)}"
        ) from error


def _notes(train: LabeledPictures, val: LabeledPictures) -> tuple[str, ...]:
    notes = [*train.notes, *val.notes]
    if train.problem_type != REGRESSION:
        for pictures, what in ((train, "training"), (val, "validation")):
            without = [name for name, count in zip(train.labels, pictures.class_counts(), strict=True) if not count]
            if without:
                notes.append(f"no {what} pictures of {listed(without)}")
    return tuple(dict.fromkeys(notes))


def _read(
    parts: Sequence[Part],
    choice: ColumnChoice,
    passed: Passed,
    problem_type: str | None,
    labels: Sequence[str] | None,
    empty_allowed: bool = False,
) -> LabeledPictures:
    read = [part(choice, empty_allowed) for part in parts]
    store = read[0].store if len(read) == 1 else Joined([rows.store for rows in read])
    targets = interpret(joined([rows.column for rows in read]), problem_type, labels)
    notes = [note for rows in read for note in rows.notes]
    return LabeledPictures(
        store,
        targets.problem_type,
        targets.labels,
        targets.values,
        numbered=targets.numbered,
        notes=notes,
        origin=listed(dict.fromkeys(rows.origin for rows in read)),
        passed=passed,
    )


# --- What is at a location --------------------------------------------------------------------------------------------


def _those_there(parts: Parts) -> str:
    names = sorted(name for name in parts if name)
    return f"there are {', '.join(names)}" if names else "it has no splits"


def _parts_of(place: str, passed: Passed) -> Parts:
    if not place:
        raise DataError("the name of the location is empty; expected a folder, a file or the id of a data set")
    if os.path.isdir(place):
        if is_saved_dataset(place):
            return _dataset_parts(place, load_saved(place))
        return _folder_parts(place.rstrip(os.sep) or place, passed)
    if os.path.exists(place):
        return {_split_in_name(place): [_table_part(place)]}
    if place.lower().endswith(TABLE_SUFFIXES) or not is_hub_id(place):
        raise DataError(f"{place}: no such file or folder; expected one, or owner/name of a data set on the hub")
    return _dataset_parts(place, load_from_hub(place))


def _dataset_parts(place: str, loaded: Mapping[str | None, object]) -> Parts:
    parts: dict[str | None, list[Part]] = {}
    for name, dataset in loaded.items():
        key = None if name is None else SPLIT_NAMES.get(name.lower(), name)
        title = os.path.basename(place.rstrip("/")) + (f"/{name}" if name else "")

        def part(choice: ColumnChoice, empty_allowed: bool, dataset: object = dataset, title: str = title) -> Rows:
            return read_dataset(dataset, title, choice)

        parts.setdefault(key, []).append(part)
    return parts


def _table_part(path: str) -> Part:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{path}: expected a folder, or a file of {', '.join(TABLE_SUFFIXES)}")
    read = read_parquet if suffix in PARQUET_SUFFIXES else read_text_table
    return lambda choice, _: read(path, choice)


def _class_folder_part(folder: str, passed: Passed) -> Part:
    def part(choice: ColumnChoice, empty_allowed: bool) -> Rows:
        if choice.image is not None or choice.label is not None:
            names = f"{argument('image_column')} and {argument('label_column')}"
            raise DataError(f"{folder}: has class folders, no columns; {names} are for tables")
        return read_class_folders(folder, passed, empty_allowed)

    return part


def _split_in_name(path: str) -> str | None:
    """The split that a file's name speaks of, as in train.parquet, train-00000-of-00002.parquet or labels_val.csv."""
    words = re.findall(r"[a-z]+", os.path.splitext(os.path.basename(path))[0].lower())
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def _folder_parts(folder: str, passed: Passed) -> Parts:
    found = listing(folder, passed)
    tables = [name for name in found.others if name.lower().endswith(TABLE_SUFFIXES)]
    folders = found.folders
    described = _described(folder, tables)
    if described is not None:
        return {None: [described]}
    parquet = [os.path.join(folder, name) for name in tables if name.lower().endswith(PARQUET_SUFFIXES)]
    if not parquet and PARQUET_FOLDER in folders:
        inner = os.path.join(folder, PARQUET_FOLDER)
        parquet = [
            os.path.join(inner, name)
            for name in listing(inner, passed).others
            if name.lower().endswith(PARQUET_SUFFIXES)
        ]
    if parquet:
        return _by_split(parquet)
    texts = [os.path.join(folder, name) for name in tables if has_known_columns(os.path.join(folder, name))]
    if texts and (len(texts) == 1 or all(_split_in_name(path) for path in texts)):
        return _by_split(texts)
    splits = _split_folders(folders)
    if splits:
        return {
            split: [_inner_part(os.path.join(folder, name), passed) for name in names]
            for split, names in splits.items()
        }
    if not folders and tables:
        if len(tables) == 1 or all(map(_split_in_name, tables)):
            return _by_split([os.path.join(folder, name) for name in tables])
        raise DataError(f"{folder}: several tables and no class folders ({listed(tables)}); name one of them")
    return {None: [_class_folder_part(folder, passed)]}


def _described(folder: str, tables: Sequence[str]) -> Part | None:
    found = [os.path.join(folder, name) for name in tables if name.lower() in METADATA_FILES]
    found = [path for path in found if path.lower().endswith(PARQUET_SUFFIXES) or has_known_columns(path)]
    return _table_part(found[0]) if found else None


def _inner_part(folder: str, passed: Passed) -> Part:
    """What is in the folder of one split."""
    tables = [name for name in listing(folder, passed).others if name.lower().endswith(TABLE_SUFFIXES)]
    return _described(folder, tables) or _class_folder_part(folder, passed)


def _by_split(paths: Sequence[str]) -> Parts:
    parts: dict[str | None, list[Part]] = {}
    for path in paths:
        parts.setdefault(_split_in_name(path), []).append(_table_part(path))
    return parts


def _split_folders(folders: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The folders that are splits. One that is called "train" among other classes is a class."""
    splits: dict[str, list[str]] = {}
    for name in folders:
        if name.lower() in SPLIT_NAMES:
            splits.setdefault(SPLIT_NAMES[name.lower()], []).append(name)
    if sum(map(len, splits.values())) == len(folders) or (TRAIN in splits and len(splits) > 1):
        return splits
    return {}


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

"""What is at a location: which tables and folders hold its labels, and which of these are training and validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ..errors import argument, shown
from .columns import ColumnChoice
from .folders import Rows, listing, read_class_folders
from .hub import is_hub_id, is_saved_dataset, load_from_hub, load_saved, read_dataset
from .listing import NO_SPLIT, OURS, TABLE, Passed, count_others, walk
from .locating import is_below
from .parquet import read_parquet
from .splits import (
    SPLIT_NAMES,
    TRAIN,
    VAL,
    are_counted,
    are_versions,
    say_nothing,
    split_folders,
    split_in_name,
    split_of,
)
from .tables import CSV_SUFFIXES, JSON_SUFFIXES, Survey, read_text_table, splits_in, survey
from .targets import DataError, listed
from .tiny_imagenet import is_tiny_imagenet, read_training, read_validation, refuse_columns

PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (*PARQUET_SUFFIXES, *CSV_SUFFIXES, *JSON_SUFFIXES)
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
# The tables that describe a folder of pictures by the ImageFolder convention of Hugging Face's datasets.
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Where data sets on the hub keep their parquet files.
PARQUET_FOLDER = "data"

# Reads one part of a location; the argument says whether class folders may be empty.
Part: TypeAlias = Callable[[bool], Sequence[Rows]]
Parts: TypeAlias = Mapping[str | None, Sequence[Part]]


def those_there(parts: Parts) -> str:
    """Which splits there are, for an error."""
    names = sorted(name for name in parts if name)
    return f"there are {listed(names)}" if names else "it has no splits"


def parts_of(place: str, choice: ColumnChoice, passed: Passed) -> Parts:
    """What is at a location by splits, None for what is in none.

    Args:
        place: a folder, a file or the id of a data set.
        choice: the columns of tables that were named.
        passed: where to count what is passed over, now and when parts are read.

    Raises:
        DataError: nothing that can be read, or folders and tables that could mean several things.
    """
    if not place:
        raise DataError("the name of the location is empty; expected a folder, a file or the id of a data set")
    if os.path.isdir(place):
        if is_saved_dataset(place):
            return _dataset_parts(place, load_saved(place), choice)
        if is_tiny_imagenet(place):
            return _tiny_imagenet_parts(place, choice, passed)
        return _Folder(place.rstrip(os.sep) or place, choice, passed).parts()
    if os.path.exists(place):
        return _table_parts(place, choice)
    if place.lower().endswith(TABLE_SUFFIXES) or not is_hub_id(place):
        raise DataError(f"{shown(place)}: no such file or folder; expected one, or owner/name of a data set on the hub")
    return _dataset_parts(place, load_from_hub(place), choice)


def _dataset_parts(place: str, loaded: Mapping[str | None, object], choice: ColumnChoice) -> Parts:
    parts: dict[str | None, list[Part]] = {}
    for name, dataset in loaded.items():
        key = None if name is None else SPLIT_NAMES.get(name.lower(), name)
        title = os.path.basename(place.rstrip("/")) + (f"/{name}" if name else "")

        def part(empty_allowed: bool, dataset: object = dataset, title: str = title) -> Sequence[Rows]:
            return [read_dataset(dataset, title, choice)]

        parts.setdefault(key, []).append(part)
    return parts


def _tiny_imagenet_parts(place: str, choice: ColumnChoice, passed: Passed) -> Parts:
    refuse_columns(place, choice)
    folder = place.rstrip(os.sep)
    return {TRAIN: [lambda _: [read_training(folder, passed)]], VAL: [lambda _: [read_validation(folder, passed)]]}


def _table_part(path: str, choice: ColumnChoice) -> Part:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{shown(path)}: expected a folder, or a file of {', '.join(TABLE_SUFFIXES)}")
    if not os.path.isfile(path):
        raise DataError(f"{shown(path)}: is a pipe, socket or device; expected a file")
    read = read_parquet if suffix in PARQUET_SUFFIXES else read_text_table
    return lambda _: [read(path, choice)]


def _table_parts(path: str, choice: ColumnChoice) -> Parts:
    """What is in one table, by a column for splits if it has one, else by its name."""
    part = _table_part(path, choice)
    splits = () if _is_parquet(path) else splits_in(path)
    if not splits:
        return {split_in_name(path): [part]}

    def of_split(split: str) -> Part:
        return lambda _: [read_text_table(path, choice, split)]

    return {split: [of_split(split)] for split in splits}


class _Folder:
    """A folder of tables, of class folders, of splits, or with one of these further inside."""

    def __init__(self, path: str, choice: ColumnChoice, passed: Passed) -> None:
        self.path, self.choice, self.passed = path, choice, passed
        found = listing(path, passed)
        self.folders, self.pictures = found.folders, found.pictures
        self.tables = [name for name in found.others if name.lower().endswith(TABLE_SUFFIXES)]
        self.others = found.others
        count_others(path, tuple(name for name in found.others if name not in self.tables), passed)

    def parts(self) -> Parts:
        """What is here by splits.

        Tables come before folders: those that have names of columns as tables of labels have, others only where no
        folder is called as a class may be.
        """
        texts = {name: survey(self._at(name), self.choice) for name in self.tables if not _is_parquet(name)}
        for name in [name for name, found in texts.items() if found.is_ours]:
            self.passed.add(OURS, self._at(name))
            self.tables.remove(name)
            del texts[name]
        # Of one that cannot be read nobody knows what it says.
        metadata = [
            name
            for name in self.tables
            if name.lower() in METADATA_FILES and (_is_parquet(name) or texts[name].has_names or texts[name].problem)
        ]
        if metadata:
            parts = _table_parts(self._at(metadata[0]), self.choice)
            return parts if len(parts) > 1 else {None: next(iter(parts.values()))}
        parquet = self._parquet()
        if parquet:
            return self._by_split(parquet)
        named = [name for name, found in texts.items() if found.has_names]
        if named:
            return self._chosen(named, texts)
        likely = [name for name, found in texts.items() if found.has_labels or found.has_pictures]
        return self._folder_parts(likely, texts)

    def _folder_parts(self, likely: Sequence[str], texts: Mapping[str, Survey]) -> Parts:
        """What is in the folders here, or what tables say that are only likely ones."""
        splits, sets = split_folders(self.folders)
        if sets:
            each = "; ".join(listed(names, 3) for names in sets[:3])
            raise DataError(
                f"{shown(self.path)}: the folders are named as splits of several sets ({each}); expected one train/ "
                "and one val/ with a folder for each class in them, or a table of labels"
            )
        if (
            splits
            and len(self.folders) == 1
            and split_of(self.folders[0])[1]
            and listing(self._at(self.folders[0]), self.passed).pictures
        ):
            splits = {}  # one class, called "train station" perhaps
        counted = self._of_counted(likely, texts, [name for names in splits.values() for name in names])
        if counted:
            return self._chosen(counted, texts)
        if splits:
            if likely and not any(map(self._gives_classes, self.folders)):
                return self._chosen(likely, texts)
            return self._splits(splits)
        says_nothing = say_nothing(self.folders)
        if says_nothing or len(self.folders) == 1:  # which cannot be told from any other
            there = [name for name in likely if is_below(self.path, texts[name].picture)]
            if there:
                return self._chosen(there, texts)
        around = self.folders
        if says_nothing and len(around) > 1:  # such as images/ beside meta/
            around = tuple(
                name
                for name in around
                if any(not isinstance(found, OSError) and found for _, found in walk(self._at(name), self.passed))
            )
        if len(around) == 1 and not self.pictures:
            [name] = around
            # Is it no class, but holds all that is here?
            if not listing(self._at(name), self.passed).pictures and self._gives_classes(name):
                return _Folder(self._at(name), self.choice, self.passed).parts()
        if says_nothing and likely:
            return self._chosen(likely, texts)
        if says_nothing or (len(self.folders) == 1 and any(found.problem for found in texts.values())):
            self._refuse_unsaid(texts)
        return {None: [self._class_folders(texts)]}

    # --- Tables

    def _at(self, *names: str) -> str:
        return os.path.join(self.path, *names)

    def _table(self, *names: str) -> Part:
        return _table_part(self._at(*names), self.choice)

    def _parquet(self) -> list[str]:
        here = [name for name in self.tables if _is_parquet(name)]
        if here or PARQUET_FOLDER not in self.folders:
            return here
        inside = listing(self._at(PARQUET_FOLDER), self.passed)
        return [os.path.join(PARQUET_FOLDER, name) for name in inside.others if _is_parquet(name)]

    def _by_split(self, names: Sequence[str]) -> Parts:
        parts: dict[str | None, list[Part]] = {}
        for name in names:
            parts.setdefault(split_in_name(name), []).append(self._table(name))
        return parts

    def _chosen(self, names: Sequence[str], texts: Mapping[str, Survey]) -> Parts:
        """The tables to read, where these could be meant."""
        meant = [name for name in names if "submission" not in name.lower()] or list(names)
        if any(split_in_name(name) == TRAIN for name in meant):
            meant = [name for name in meant if split_in_name(name)]
        if any(texts[name].has_labels for name in meant):
            meant = [name for name in meant if texts[name].has_labels]
        if len(meant) > 1 and not all(map(split_in_name, meant)):
            what = "could all hold the labels" if self.folders else "and no class folders"
            raise DataError(
                f"{shown(self.path)}: several tables {what} ({listed(meant)}); name one of them as the data"
            )
        for name in texts:
            if name not in meant:
                self.passed.add(TABLE, self._at(name))
        return _table_parts(self._at(meant[0]), self.choice) if len(meant) == 1 else self._by_split(meant)

    # --- Folders

    def _splits(self, splits: Mapping[str, Sequence[str]]) -> Parts:
        taken = {name for names in splits.values() for name in names}
        for name in self.folders:
            if name not in taken:
                self.passed.add(NO_SPLIT, self._at(name))
        for name in self.tables:
            self.passed.add(TABLE, self._at(name))
        return {split: [self._inside(split, name) for name in names] for split, names in splits.items()}

    def _inside(self, split: str, name: str) -> Part:
        """What is in the folder of one split; looked at only when it is read, as nobody may need it."""

        def part(empty_allowed: bool) -> Sequence[Rows]:
            parts = _Folder(self._at(name), self.choice, self.passed).parts()
            if not set(parts) <= {None, split}:
                raise DataError(
                    f"{shown(self._at(name))}: has splits of its own ({those_there(parts)}), though its name is that "
                    f"of the {split} split; name the one that you mean as the data"
                )
            return [rows for group in parts.values() for inner in group for rows in inner(empty_allowed)]

        return part

    def _class_folders(self, texts: Mapping[str, Survey]) -> Part:
        if not self.folders and self.tables:
            if len(self.tables) == 1:
                return self._table(self.tables[0])
            raise DataError(
                f"{shown(self.path)}: several tables and no class folders ({listed(self.tables)}); name one of them"
            )
        self._refuse_copies()
        notes = []
        for name, found in texts.items():
            self.passed.add(TABLE, self._at(name))
            if found.problem and name.lower().endswith(CSV_SUFFIXES):
                notes.append(f"the folders are the classes, and no table: {found.problem}")

        def part(empty_allowed: bool) -> Sequence[Rows]:
            if self.choice.image is not None or self.choice.label is not None:
                names = f"{argument('image_column')} and {argument('label_column')}"
                raise DataError(f"{shown(self.path)}: has class folders, no columns; {names} are for tables")
            rows = read_class_folders(self.path, self.passed, empty_allowed)
            return [rows._replace(notes=(*rows.notes, *notes))]

        return part

    def _of_counted(self, likely: Sequence[str], texts: Mapping[str, Survey], splits: Sequence[str]) -> list[str]:
        """The tables that name pictures in folders which are only counted, as patients are, and would be classes."""
        found = [listing(self._at(name), self.passed).folders for name in splits] if likely else []
        classes = {name for folders in found or [self.folders] for name in folders}
        if not likely or not are_counted(sorted(classes)):
            return []
        return [name for name in likely if classes.intersection(texts[name].picture.split("/"))]

    def _gives_classes(self, name: str) -> bool:
        """Whether there is something in a folder that can say classes: more folders, or a table."""
        inside = listing(self._at(name), self.passed)
        return bool(inside.folders) or any(other.lower().endswith(TABLE_SUFFIXES) for other in inside.others)

    def _refuse_unsaid(self, texts: Mapping[str, Survey]) -> None:
        """Refuses folders whose names are no classes, where no table that can be read says the labels."""
        problems = [found.problem for found in texts.values() if found.problem]
        sheets = [self._at(name) for name in self.others if name.lower().endswith(SPREADSHEETS)]
        problems += [f"{shown(sheet)}: is a spreadsheet, which is not read: save it as CSV UTF-8" for sheet in sheets]
        if problems:
            raise DataError(f"{problems[0]}; or take it away, if it does not hold the labels")
        if self.folders:
            beside = f", nor the table {listed(texts)} beside them" if texts else ""
            raise DataError(
                f"{shown(self.path)}: the names of the folders in it ({listed(self.folders)}) say no classes{beside}; "
                "expected a folder for each class, train/ and val/ with such folders, or a table with columns such as "
                "image and label"
            )

    def _refuse_copies(self) -> None:
        """Refuses folders that hold what is beside them once more, or the same as the split beside them, or classes of
        their own as a split beside them."""
        self._refuse_versions_and_sets()
        here = set(self.folders)
        suspects = [name for name in self.folders if name == os.path.basename(self.path) or split_of(name)[0]]
        for name in suspects:
            inside = listing(self._at(name), self.passed)
            if inside.pictures:
                continue
            twice = sorted(here.intersection(inside.folders))
            if len(twice) > 1:
                raise DataError(
                    f"{shown(self._at(name))}: holds folders called as those beside it ({listed(twice)}): a copy, or "
                    "other data? Take it away, or name it as the data"
                )
            for other in self.folders:
                same = set(inside.folders).intersection(listing(self._at(other), self.passed).folders)
                if other != name and split_of(name)[0] and len(same) > 1:
                    raise DataError(
                        f"{shown(self.path)}: {name} and {other} hold folders of the same names "
                        f"({listed(sorted(same))}), so that they look like splits; call them train and val or test, or "
                        "give a table of labels if they are classes"
                    )
            if len(inside.folders) > 1 and split_of(name)[0] and say_nothing([name]):
                others = listed([other for other in self.folders if other != name], 3)
                raise DataError(
                    f"{shown(self.path)}: {name} holds folders ({listed(inside.folders, 3)}), as a split of a data set "
                    f"does, and what is beside it ({others}) is called as no split; name {shown(self._at(name))} as "
                    "the data, or call them train and val or test"
                )

    def _refuse_versions_and_sets(self) -> None:
        """Refuses folders that hold the same folders each, called as versions of the same pictures, and folders of
        tables, each a set of its own."""
        inside = [listing(self._at(name), self.passed) for name in self.folders]
        if len(inside) < 2 or any(found.pictures for found in inside):
            return
        same = set[str].intersection(*(set(found.folders) for found in inside))
        if len(same) > 1 and are_versions(self.folders):
            raise DataError(
                f"{shown(self.path)}: {listed(self.folders)} hold folders of the same names ({listed(sorted(same))}), "
                "as versions of the same pictures do; name one of them as the data"
            )
        if all(any(other.lower().endswith(TABLE_SUFFIXES) for other in found.others) for found in inside):
            raise DataError(
                f"{shown(self.path)}: the folders in it ({listed(self.folders)}) hold tables, as several sets do, and "
                "no pictures; name one of them as the data"
            )


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(PARQUET_SUFFIXES)


__all__ = ["Part", "Parts", "parts_of", "those_there"]

"""Folders of class folders: the name of each folder is the label of all pictures in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from .pictures import Files, Store
from .sources import IMAGE_SUFFIXES, SourceError, expand
from .targets import DataError, LabelColumn, listed


class Rows(NamedTuple):
    """What one reader found: pictures, their labels, and notes on what it passed over."""

    store: Store
    column: LabelColumn
    notes: tuple[str, ...] = ()


def subfolders(folder: str) -> list[str]:
    """The names of the folders in `folder`, links to folders included, sorted; hidden ones are passed over.

    Raises:
        DataError: the folder cannot be read.
    """
    return _names(folder, folders=True)


def files(folder: str) -> list[str]:
    """The names of the files in `folder`, sorted; hidden ones are passed over.

    Raises:
        DataError: the folder cannot be read.
    """
    return _names(folder, folders=False)


def _names(folder: str, folders: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir() == folders
            )
    except OSError as error:
        raise DataError(f"{folder}: cannot read the folder: {error.strerror}") from error


def read_class_folders(folder: str, empty_allowed: bool = False) -> Rows:
    """The pictures in the class folders of `folder`, each searched through all its levels.

    Args:
        empty_allowed: whether a class folder without pictures is noted instead of refused.

    Raises:
        DataError: no class folders, one without pictures, or one that cannot be read.
    """
    classes = subfolders(folder)
    if not classes:
        raise DataError(
            f"{folder}: no class folders and no table of labels in it; expected a folder for each class, such as "
            f"{os.path.join(folder, 'cat', '1.jpg')}, or a parquet, CSV or JSON Lines file"
        )
    paths: list[str] = []
    values: list[int] = []
    empty: list[str] = []
    for index, name in enumerate(classes):
        found = _pictures_in(os.path.join(folder, name))
        if not found:
            empty.append(name)
        paths += [path[len(folder) :].lstrip(os.sep) for path in found]
        values += [index] * len(found)
    if not paths:
        raise DataError(f"{folder}: no pictures in its class folders {listed(classes)} (looked for names like *.jpg)")
    text = f"{folder}: no pictures in the class folder{'s' if len(empty) > 1 else ''} {listed(empty)}"
    if empty and not empty_allowed:
        raise DataError(f"{text} (looked for names like *.jpg); add some, or remove the folder")
    store = Files.of(folder, paths)
    notes = [text] if empty else []
    beside = sum(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in files(folder))
    if beside:
        notes.append(f"{folder}: pictures beside the class folders belong to no class and are passed over: {beside}")
    return Rows(store, LabelColumn("class folder", values, store.name, tuple(classes)), tuple(notes))


def _pictures_in(folder: str) -> Sequence[str]:
    paths = []
    for path, source in expand([folder]):
        if not isinstance(source, SourceError):
            paths.append(path)
        elif path != folder or not os.access(folder, os.R_OK | os.X_OK):
            raise DataError(str(source))
    return paths

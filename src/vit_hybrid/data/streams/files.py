"""The files that have several pictures in them: what each kind is called, and who reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..tables import CSV_SUFFIXES, JSON_LINES_SUFFIXES
from . import lists, parquet, tars
from .outlines import UnitName
from .units import File, Unit

TAR, PARQUET, LIST = "tar", "parquet", "list"
_LISTS = (*CSV_SUFFIXES, *JSON_LINES_SUFFIXES, ".txt")
_KINDS = {".tar": TAR, ".parquet": PARQUET, **dict.fromkeys(_LISTS, LIST)}
_UNITS = {TAR: tars.units, PARQUET: parquet.units, LIST: lists.units}


def kind_of_file(path: str) -> str | None:
    """What a file with several pictures in it is by its name; None for any other."""
    return _KINDS.get(os.path.splitext(path)[1].lower())


def units_of(file: File, start: UnitName | None) -> Iterator[Unit]:
    """What a file has for a pass, from one unit on.

    Raises:
        SourceError: It is not what it was, or a package is missing.
    """
    return _UNITS[file.name.kind](file, start)


def has_grown(file: File) -> bool:
    """Whether there is more in a file that the outline has; only lists are written to again.

    Raises:
        Differs: It is not what it was.
    """
    if file.name.kind == LIST:
        return lists.has_grown(file)
    file.check_stamp()
    return False


__all__ = ["LIST", "PARQUET", "TAR", "has_grown", "kind_of_file", "units_of"]

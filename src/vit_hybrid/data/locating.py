"""Where the pictures of a table lie: beside it as it says, in one of the folders there, or nowhere, and then why."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice

from ..errors import shown
from .listing import Passed, walk
from .pictures import Files
from .splits import split_in_name, split_of
from .targets import DataError

# Rows that are looked at to see whether the paths of a table are right, spread evenly.
SAMPLED_ROWS = 64
# Folders that are searched for the pictures of a table: more, and it does not lie beside its pictures.
MOST_FOLDERS = 20_000


def located(store: Files, table: str) -> tuple[Files, str]:
    """The pictures of a table where they are, and a note if that is not where the table says.

    If none of its paths leads to a file from the table's own folder, the pictures are looked for by name in the folders
    there, with an ending where the table gives none, as in the layout of `train.csv` beside `train_images/`. A picture
    that only some rows lack is told of when it is read.

    Raises:
        DataError: There is none of the pictures, or one of the names could mean several.
    """
    count = len(store)
    sample = range(0, count, max(1, count // SAMPLED_ROWS))
    if any(os.path.lexists(name) and not os.path.isdir(name) for name in map(store.name, sample)):
        return store, ""
    paths = [os.path.relpath(store.name(row), store.folder or os.curdir) for row in range(count)]
    index = _Index(store.folder or os.curdir)
    candidates = [index.matches(path) for path in paths]
    found = [matches for matches in candidates if matches]
    if not found:
        raise DataError(
            f"{shown(table)}: none of its {count:,} pictures is there, such as {shown(store.name(0))}; {_cause(store)}"
        )
    whole = frozenset.intersection(*map(frozenset, found))
    split = split_in_name(table)
    of_split = {folder for matches in found for folder in matches if split is not None and split_of(folder)[0] == split}
    places: list[str] = []
    used: set[str] = set()
    for path, matches in zip(paths, candidates, strict=True):
        folders = set(matches)
        for preferred in (of_split, whole):
            folders = folders & preferred or folders
        if len(folders) > 1:
            several = " and ".join(shown(os.path.join(*matches[folder])) for folder in sorted(folders)[:2])
            raise DataError(
                f"{shown(table)}: {shown(path)} could be {several}, among others; give paths in the table that say "
                "which, relative to its folder"
            )
        used |= folders
        places.append(os.path.join(*matches[folders.pop()]) if folders else path)
    ending = os.path.splitext(places[0])[1] if not os.path.splitext(paths[0])[1] else ""
    note = f"{shown(table)}: its pictures are in {', '.join(shown(folder or os.curdir) for folder in sorted(used)[:3])}"
    return Files.of(store.folder, places), note + (f", with the ending {ending}" if ending else "")


def is_below(folder: str, path: str) -> bool:
    """Whether a picture that a table names is below the folder of the table."""
    return bool(path) and (os.path.isfile(os.path.join(folder, path)) or bool(_Index(folder).matches(path.strip())))


class _Index:
    """The pictures below a folder by their names, with and without ending."""

    def __init__(self, folder: str) -> None:
        self._names: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for place, names in islice(walk(folder, Passed()), MOST_FOLDERS):
            if not isinstance(names, OSError):
                inside = os.path.relpath(place, folder)
                for name in names:
                    for key in {name, os.path.splitext(name)[0]}:
                        self._names[key].append(("" if inside == os.curdir else inside, name))

    def matches(self, path: str) -> Mapping[str, tuple[str, str]]:
        """For a path the (folder, name) of the pictures it can mean, by the folder that it would be relative to."""
        start, name = os.path.split(path)
        matches: dict[str, tuple[str, str]] = {}
        for folder, file in self._names.get(name, ()):
            base = folder if not start else folder[: -len(start)].rstrip(os.sep)
            if not start or folder == start or folder.endswith(os.sep + start):
                matches.setdefault(base, (folder, file))
        return matches


def _cause(store: Files) -> str:
    """Why the pictures of a table are not there, most likely."""
    path = os.path.relpath(store.name(0), store.folder or os.curdir)
    stored = store.path(0)
    if "://" in stored:
        return "these are addresses: download the pictures, and write their paths into the table"
    if "\\" in stored:
        return "the paths have backslashes, as on Windows: write / in place of \\"
    if os.path.isabs(stored):
        return "the paths are absolute, perhaps those of another machine: make them relative to the table's folder"
    for folder, words in (
        (os.curdir, "the current folder"),
        (os.path.dirname(os.path.abspath(store.folder)), "the folder above"),
    ):
        if os.path.isfile(os.path.join(folder, path)):
            return f"paths are read relative to the table's folder, but these are relative to {words}: move the table"
    return "paths are read relative to the table's folder: put the pictures there, or change the paths"


__all__ = ["is_below", "located"]

"""Which columns of a table hold the pictures and the labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import argument, shown
from .listing import HEIC_SUFFIXES, IMAGE_SUFFIXES
from .splits import SPLIT_NAMES
from .targets import DataError, listed

# Names of columns, likely ones first; upper and lower case are the same, and so are _, - and a space.
IMAGE_COLUMNS = (
    *("image", "path", "file", "file_name", "filename", "file_path", "filepath", "image_path", "image_file"),
    *("img", "img_path", "picture", "photo"),
    *("filenames", "filepaths", "image_name", "img_name", "image_id", "img_id", "id_code", "file_id", "id"),
)
LABEL_COLUMNS = (
    *("label", "class", "target", "labels", "value", "class_name", "label_name", "classes", "targets", "values"),
    *("category", "categories", "tags", "score", "y"),
    *("class_id", "classid", "label_id", "category_id", "diagnosis", "dx", "breed", "species", "level"),
)
# Those of them that many other tables have, too.
ID_COLUMNS = frozenset(("id_code", "file_id", "id"))
# Columns that say to which split a picture belongs, where all they hold are names of splits.
SPLIT_COLUMNS = frozenset(("split", "set", "subset", "partition", "data_set", "dataset", "usage"))
# Columns by which a table is known to have a row for each box in a picture, not for each picture.
BOX_COLUMNS = (
    frozenset(("xmin", "ymin", "xmax", "ymax")),
    frozenset(("x_min", "y_min", "x_max", "y_max")),
    frozenset(("bbox",)),
)


@dataclass(frozen=True)
class ColumnChoice:
    """The columns that the caller named; None where they are to be guessed."""

    image: str | None = None
    label: str | Sequence[str] | None = None


class Columns(NamedTuple):
    """The columns to read: of the pictures, and one or several of labels."""

    image: str
    labels: tuple[str, ...]
    are_switches: bool = False  # whether the labels are a 0 or 1 in a column for each class, which nobody said

    def origin(self, table: str) -> str:
        """Where the labels stand, for a person."""
        names = listed(map(repr, self.labels))
        return f"column{'' if len(self.labels) == 1 else 's'} {names} of {shown(table)}"


def choose_columns(
    path: str, kinds: Mapping[str, str], choice: ColumnChoice, values: Callable[[str], Sequence[object]] | None = None
) -> Columns:
    """Which columns of a table to read.

    Args:
        path: the table's, for errors.
        kinds: for each column what it may be used for: "image" (certainly pictures), "class" (certainly labels),
            "text" or "other".
        choice: what the caller named.
        values: gives the values of a column, where these may help.

    Raises:
        DataError: a named column is not there, or none or several could be meant.
    """
    image = picture_column(path, kinds, choice.image, values)
    rest = {name: kind for name, kind in kinds.items() if name != image and not _is_index(name)}
    if choice.label is None:
        is_open = not _is_known(rest, LABEL_COLUMNS) and len(rest) > 1
        if is_open and values is not None and all(_are_switches(values(name)) for name in rest):
            return Columns(image, tuple(rest), are_switches=True)
        return Columns(image, (_guess(path, "labels", "label_column", rest, "class", LABEL_COLUMNS),))
    if isinstance(choice.label, str):
        # A comma is a separator only where no column is called so.
        names = [choice.label] if choice.label in kinds else [name.strip() for name in choice.label.split(",")]
    else:
        names = list(choice.label)
        if not names:
            raise DataError(f"{shown(path)}: {argument('label_column')} names no column; expected one or several")
    for name in names:
        if name not in kinds:
            raise _unknown(path, name, kinds)
    if len(set(names)) < len(names):
        raise DataError(
            f"{shown(path)}: {argument('label_column')} names a column twice: {listed(names)}; name each once"
        )
    return Columns(image, tuple(names))


def picture_column(
    path: str,
    kinds: Mapping[str, str],
    named: str | None = None,
    values: Callable[[str], Sequence[object]] | None = None,
) -> str:
    """Which column of a table has the pictures: the arguments and the error are those of `choose_columns`."""
    if named is not None:
        if named not in kinds:
            raise _unknown(path, named, kinds)
        return named
    only = _only_column_of_pictures(kinds, values)
    return _guess(path, "pictures", "image_column", kinds, "image", IMAGE_COLUMNS) if only is None else only


def says_labels(columns: Mapping[str, object], choice: ColumnChoice) -> tuple[str | None, bool, bool]:
    """What a table's first row tells of it.

    Args:
        columns: the values of the first row by their columns; None where there is no row.
        choice: the columns that the caller named.

    Returns:
        The column of pictures if there is one, whether it can be told which are the labels, and whether all of these
        are called as such columns are, or as the caller says: then it is a table of labels and nothing else.
    """
    named = {choice.image} if choice.image else {name for name in columns if _plain(name) in IMAGE_COLUMNS}
    images = [name for name in columns if name in named] or [name for name in columns if is_picture_name(columns[name])]
    if not images:
        return None, False, False
    is_sure = any(_plain(name) not in ID_COLUMNS or name == choice.image for name in images)
    rest = [name for name in columns if name not in images and not _is_index(name)]
    if choice.label is not None:
        wanted = [choice.label, *choice.label.split(",")] if isinstance(choice.label, str) else choice.label
        if any(name.strip() in columns for name in wanted):
            return images[0], True, True
    elif _is_known(columns, LABEL_COLUMNS):
        return images[0], True, is_sure
    are_switches = len(rest) > 1 and all(columns[name] is not None and _are_switches([columns[name]]) for name in rest)
    return images[0], len(rest) == 1 or are_switches, False


def split_column(columns: Mapping[str, Sequence[object]]) -> str | None:
    """The column of a table that says for each row to which split it belongs."""
    for name, cells in columns.items():
        if _plain(name) in SPLIT_COLUMNS and cells and all(str(cell).strip().lower() in SPLIT_NAMES for cell in cells):
            return name
    return None


def has_boxes(columns: Sequence[str]) -> bool:
    """Whether the rows of a table are boxes in pictures."""
    names = {name.lower() for name in columns}
    return any(box <= names for box in BOX_COLUMNS)


def is_picture_name(value: object) -> bool:
    """Whether a cell holds the name of a picture."""
    if not isinstance(value, str):
        return False
    return os.path.splitext(value.strip())[1].lower() in IMAGE_SUFFIXES | HEIC_SUFFIXES


def _only_column_of_pictures(kinds: Mapping[str, str], values: Callable[[str], Sequence[object]] | None) -> str | None:
    """The one column with names of pictures in it, where no column is called as those of pictures are."""
    if values is None or _is_known(kinds, IMAGE_COLUMNS) or "image" in kinds.values():
        return None
    if any(map(is_picture_name, kinds)):  # the first row in the place of a header
        return None
    names = [name for name in kinds if (cells := values(name)) and all(map(is_picture_name, cells))]
    return names[0] if len(names) == 1 else None


def _are_switches(cells: Sequence[object]) -> bool:
    return bool(cells) and all(str(cell).strip() in ("0", "1", "0.0", "1.0") for cell in cells)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _is_index(name: str) -> bool:
    """Whether a column is the number of the row, which pandas writes without a name."""
    return not name or name.startswith("Unnamed: ")


def _is_known(columns: Mapping[str, object], likely: Sequence[str]) -> bool:
    return not {_plain(name) for name in columns}.isdisjoint(likely)


def _unknown(path: str, name: str, columns: Mapping[str, str]) -> DataError:
    return DataError(f"{shown(path)}: no column {name!r}; its columns are {listed(columns, MOST_COLUMNS)}")


MOST_COLUMNS = 12  # that an error names


def _guess(path: str, what: str, asked: str, kinds: Mapping[str, str], certain: str, likely: Sequence[str]) -> str:
    sure = [name for name, kind in kinds.items() if kind == certain]
    if len(sure) == 1:
        return sure[0]
    candidates = sure or list(kinds)
    for wanted in likely:
        for name in candidates:
            if _plain(name) == wanted:
                return name
    if certain == "class" and len(kinds) == 1:
        return next(iter(kinds))
    problem = f"{listed(sure)} could all hold" if sure else "cannot tell which column holds"
    raise DataError(
        f"{shown(path)}: {problem} the {what}; its columns are {listed(kinds, MOST_COLUMNS) or 'none'}: name one with "
        f"{argument(asked)}"
    )

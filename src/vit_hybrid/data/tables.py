"""Text files of labels, CSV, TSV and JSON Lines, and which columns of a table hold the pictures and the labels."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import argument, shown
from .folders import Rows
from .pictures import Files
from .targets import DataError, LabelColumn, listed

CSV_SUFFIXES = (".csv", ".tsv")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
# The separators of columns that a CSV file may have, by its header; the first one found is taken.
DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}

# Names of columns, likely ones first; upper and lower case are the same.
IMAGE_COLUMNS = (
    *("image", "path", "file", "file_name", "filename", "file_path", "filepath", "image_path", "image_file"),
    *("img", "img_path", "picture", "photo"),
)
LABEL_COLUMNS = (
    *("label", "class", "target", "labels", "value", "class_name", "label_name", "classes", "targets", "values"),
    *("category", "categories", "tags", "score", "y"),
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

    def origin(self, table: str) -> str:
        """Where the labels stand, for a person."""
        names = listed(map(repr, self.labels))
        return f"column{'' if len(self.labels) == 1 else 's'} {names} of {shown(table)}"


def choose_columns(path: str, kinds: Mapping[str, str], choice: ColumnChoice) -> Columns:
    """Which columns of a table to read.

    Args:
        path: the table's, for errors.
        kinds: for each column what it may be used for: "image" (certainly pictures), "class" (certainly labels),
            "text" or "other".
        choice: what the caller named.

    Raises:
        DataError: a named column is not there, or none or several could be meant.
    """
    image = choice.image
    if image is None:
        image = _guess(path, "pictures", "image_column", kinds, "image", IMAGE_COLUMNS)
    elif image not in kinds:
        raise _unknown(path, image, kinds)
    rest = {name: kind for name, kind in kinds.items() if name != image}
    if choice.label is None:
        return Columns(image, (_guess(path, "labels", "label_column", rest, "class", LABEL_COLUMNS),))
    if isinstance(choice.label, str):
        # A comma is a separator only where no column is called so.
        names = [choice.label] if choice.label in kinds else [name.strip() for name in choice.label.split(",")]
    else:
        names = list(choice.label)
    for name in names:
        if name not in kinds:
            raise _unknown(path, name, kinds)
    return Columns(image, tuple(names))


def _unknown(path: str, name: str, columns: Mapping[str, str]) -> DataError:
    return DataError(f"{path}: no column {name!r}; its columns are {', '.join(columns)}")


def _guess(path: str, what: str, asked: str, kinds: Mapping[str, str], certain: str, likely: Sequence[str]) -> str:
    sure = [name for name, kind in kinds.items() if kind == certain]
    if len(sure) == 1:
        return sure[0]
    candidates = sure or list(kinds)
    for wanted in likely:
        for name in candidates:
            if name.strip().lower() == wanted:
                return name
    if certain == "class" and len(kinds) == 1:
        return next(iter(kinds))
    problem = f"{listed(sure)} could all hold" if sure else "cannot tell which column holds"
    raise DataError(
        f"{path}: {problem} the {what}; its columns are {', '.join(kinds) or 'none'}: name one with {argument(asked)}"
    )


def has_known_columns(path: str) -> bool:
    """Whether the header of a text file names columns of pictures and labels, so that it is no file of another kind."""
    try:
        if path.lower().endswith(CSV_SUFFIXES):
            with open(path, encoding="utf-8-sig", newline="") as file:
                names: Any = next(_csv_rows(path, file), [])
        else:
            with open(path, encoding="utf-8-sig") as file:
                names = json.loads(file.readline() or "{}")
        names = {str(name).strip().lower() for name in names}
    except (OSError, ValueError, TypeError, csv.Error):
        return False
    return not names.isdisjoint(IMAGE_COLUMNS) and not names.isdisjoint(LABEL_COLUMNS)


def read_text_table(path: str, choice: ColumnChoice) -> Rows:
    """The pictures of a CSV, TSV or JSON Lines file; paths in it are relative to its folder.

    Raises:
        DataError: the file cannot be read, a line is damaged (its number is named), or columns are not found.
    """
    read = _read_csv if path.lower().endswith(CSV_SUFFIXES) else _read_json_lines
    try:
        table, lines, is_text = read(path)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    columns = choose_columns(path, dict.fromkeys(table, "text"), choice)
    if not lines:
        raise DataError(f"{path}: no rows in it; expected one for each picture")

    def where(row: int) -> str:
        return f"{path}, line {lines[row]}"

    paths = table[columns.image]
    for row, value in enumerate(paths):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where(row)}: no path of a picture in column {columns.image!r}, but {value!r}")
    store = Files.of(os.path.dirname(path), [value.strip() for value in paths])
    if len(columns.labels) == 1:
        label = columns.labels[0]
        return Rows(store, LabelColumn(label, table[label], where, is_text=is_text), columns.origin(path))
    values = [list(row) for row in zip(*(table[label] for label in columns.labels), strict=True)]
    column = LabelColumn(", ".join(columns.labels), values, where, is_text=is_text, parts=columns.labels)
    return Rows(store, column, columns.origin(path))


def _csv_rows(path: str, file: Any) -> Any:
    delimiters = DELIMITERS[os.path.splitext(path)[1].lower()]
    header = file.readline()
    file.seek(0)
    return csv.reader(file, delimiter=next((mark for mark in delimiters if mark in header), delimiters[0]), strict=True)


_Table = tuple[dict[str, list[Any]], list[int], bool]


def _read_csv(path: str) -> _Table:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = _csv_rows(path, file)
        try:
            header = [name.strip() for name in next(reader, [])]
            if not header:
                raise DataError(f"{path}: is empty; expected a header line with the names of the columns")
            if len(set(header)) < len(header):
                raise DataError(f"{path}: a column name stands more than once in the header {', '.join(header)}")
            rows, lines = [], []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"{path}, line {reader.line_num}: {len(row)} cells, expected {len(header)}")
                rows.append(row)
                lines.append(reader.line_num)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: damaged ({error})") from error
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}, lines, True


def _read_json_lines(path: str) -> _Table:
    rows, lines = [], []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error}); expected one object a line") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: {type(row).__name__}; expected one object a line")
            rows.append(row)
            lines.append(number)
    if not rows:
        raise DataError(f"{path}: is empty; expected one object a line")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}, lines, False

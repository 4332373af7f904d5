"""Text files of labels: CSV, TSV, JSON Lines and JSON arrays, in the encodings and dialects that people have."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import LFS_POINTER, UNFETCHED, argument, escaped, one_line, shown
from .columns import ColumnChoice, Columns, choose_columns, has_boxes, is_picture_name, says_labels, split_column
from .folders import Rows
from .pictures import Files
from .splits import SPLIT_NAMES
from .targets import SEPARATORS, DataError, LabelColumn, listed, repeated

CSV_SUFFIXES = (".csv", ".tsv")
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
JSON_SUFFIXES = (*JSON_LINES_SUFFIXES, ".json")
# The separators of columns that a CSV file may have, likely ones first.
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}
# Excel writes it as a first line of its own, to tell itself the separator.
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
# In files with ; between the columns, as Excel writes them where the decimal point is a comma.
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
# The longer ones first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What files of other kinds begin with, and what they are.
_NO_TEXTS = {
    b"PK\x03\x04": "a spreadsheet or another zip file",
    b"\xd0\xcf\x11\xe0": "a spreadsheet or another document of an old Office",
    b"\x1f\x8b": "a compressed file (gzip)",
    b"PAR1": "a parquet file",
    b"SQLite format 3\0": "a database (SQLite)",
}
# White space and byte order marks.
_BEFORE_JSON = b" \t\r\n\xef\xbb\xbf\xff\xfe\0"
# What a file of annotations has in it as COCO's have, and what to say of it.
COCO_KEYS = frozenset(("images", "annotations"))
OF_COCO = (
    "is a file of annotations as COCO has them, which is not read; write a table with a row for each picture, such as "
    "image,label"
)
# What is read of a file to see what its columns are.
HEAD_BYTES = 1 << 20


class _Table(NamedTuple):
    """What stands in a text file: its columns, what each row is called, and whether values are only text yet."""

    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[str]
    is_text: bool
    delimiter: str = ""


class Survey(NamedTuple):
    """What a table beside pictures is, seen from its first rows.

    Attributes:
        has_pictures: whether it has a column of pictures.
        has_labels: whether it can be told which column holds the labels, too.
        has_names: whether both are called as such columns are, or as the caller says.
        picture: the first one, as the table has it.
        is_ours: whether this package wrote it.
        problem: why it cannot be read, if it cannot; the others are guesses then.
    """

    has_pictures: bool = False
    has_labels: bool = False
    has_names: bool = False
    picture: str = ""
    is_ours: bool = False
    problem: str = ""


def survey(path: str, choice: ColumnChoice) -> Survey:
    """What a text file is: a table of pictures and labels, or something else."""
    try:
        table = _table(path, head=True)
    except DataError as error:
        if OF_COCO in str(error):  # whose words are names of columns elsewhere
            return Survey(problem=str(error))
        image, has_labels, has_names = says_labels(dict.fromkeys(_names_in(path)), choice)
        return Survey(image is not None, has_labels, has_names, problem=str(error))
    names = list(table.columns)
    if names[:3] == ["path", "truth", "predicted"] or (names[:1] == ["path"] and names[-1].endswith(" predicted")):
        return Survey(is_ours=True)
    if table.is_text and any(map(is_picture_name, names)):
        return Survey(problem=_no_header(path, names))
    first = {name: next(iter(cells), None) for name, cells in table.columns.items()}
    image, has_labels, has_names = says_labels(first, choice)
    return Survey(image is not None, has_labels, has_names, "" if image is None else str(first[image] or ""))


def _names_in(path: str) -> list[str]:
    """What may be the names of columns in a file that is damaged or in an encoding that it does not tell."""
    try:
        with open(path, "rb") as file:
            content = file.read(HEAD_BYTES)
    except OSError:
        return []
    text = content.replace(b"\0", b"").decode("utf-8-sig", "ignore")
    first = text.strip().partition("\n")[0].strip()
    if path.lower().endswith(CSV_SUFFIXES):
        return re.split("[,;\t|]", first.replace('"', ""))
    if first == "{":  # one object over several lines, which is something else
        return []
    return re.findall(r'"(\w+)"\s*:', text)


def splits_in(path: str) -> tuple[str, ...]:
    """The splits that a column of the table speaks of, none where it has no such column or cannot be read."""
    try:
        if split_column(_table(path, head=True).columns) is None:
            return ()
        columns = _table(path).columns
    except DataError:
        return ()
    name = split_column(columns)
    return () if name is None else tuple(sorted({_split(cell) for cell in columns[name]}))


def _split(cell: object) -> str:
    return SPLIT_NAMES[str(cell).strip().lower()]


class Head(NamedTuple):
    """The beginning of a CSV or TSV file.

    Attributes:
        columns: the names of its columns.
        first: the cells of its first row, by column; empty where it has none.
        delimiter: what stands between the cells.
        is_told: whether a line of its own before the header tells the delimiter.
    """

    columns: tuple[str, ...]
    first: Mapping[str, Sequence[str]]
    delimiter: str
    is_told: bool


def head_of(path: str, content: bytes, is_cut: bool) -> Head:
    """What the columns of a CSV or TSV file in UTF-8 are.

    Args:
        path: its name.
        content: its beginning.
        is_cut: whether there is more of it.

    Raises:
        DataError: it has no header, or is damaged.
    """
    text = _decoded(path, content, is_cut)
    table = _csv_table(path, text, is_cut, head=True)
    names = tuple(table.columns)
    if any(map(is_picture_name, names)):
        raise DataError(_no_header(path, names))
    return Head(names, table.columns, table.delimiter, _SEPARATOR_LINE.match(text) is not None)


def read_text_table(path: str, choice: ColumnChoice, split: str | None = None) -> Rows:
    """The pictures of a CSV, TSV or JSON file; paths in it are relative to its folder.

    Args:
        path: the file.
        choice: the columns that were named.
        split: the split of which to take the rows, one of `splits_in(path)`.

    Raises:
        DataError: the file cannot be read, a line is damaged (its number is named), or columns are not found.
    """
    table = _table(path)
    column = None if split is None else split_column(table.columns)
    if column is not None:
        rows = [row for row, cell in enumerate(table.columns[column]) if _split(cell) == split]
        columns_kept = {name: [cells[row] for row in rows] for name, cells in table.columns.items()}
        table = table._replace(columns=columns_kept, lines=[table.lines[row] for row in rows])
    kinds = dict.fromkeys(table.columns, "text")
    columns = choose_columns(path, kinds, choice, table.columns.__getitem__)
    if not table.lines:
        raise DataError(f"{shown(path)}: no rows in it; expected one for each picture")
    if table.is_text and choice.label is None:
        _refuse_mixed_separators(path, table.delimiter, columns)

    def where(row: int) -> str:
        return f"{shown(path)}, {table.lines[row]}"

    paths = [str(value) if type(value) is int else value for value in table.columns[columns.image]]  # a number as id
    for row, value in enumerate(paths):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{where(row)}: no path of a picture in column {columns.image!r}, but {shown(value)!r}")
    paths = [value.strip() for value in paths]
    _refuse_undecoded(path, table, columns, paths)
    label = LabelColumn(
        ", ".join(columns.labels), _labels(table, columns), where, is_text=table.is_text, is_guess=columns.are_switches
    )
    if len(columns.labels) > 1:
        label = replace(label, parts=columns.labels)
    notes: tuple[str, ...] = ()
    if len(columns.labels) == 1 and has_boxes(list(table.columns)):
        paths, label = _one_row_a_picture(paths, label)
        notes = (f"{shown(path)}: its rows are boxes; each picture has the classes of its boxes",)
    else:
        notes = repeated(path, paths, label.values)
    return Rows(Files.of(os.path.dirname(path), paths), label, columns.origin(path), notes, table=path)


def _refuse_mixed_separators(path: str, delimiter: str, columns: Columns) -> None:
    """Refuses a column of labels, chosen by nobody, in whose name another separator stands."""
    name = columns.labels[0]
    others = [mark for mark in DELIMITERS[".csv"] if mark != delimiter and mark in name]
    if len(columns.labels) == 1 and others:
        raise DataError(
            f"{shown(path)}: the separators of its columns are mixed: {delimiter!r} and {others[0]!r} in the header; "
            f"write one of them throughout, or name {shown(name)!r} with {argument('label_column')}"
        )


def _labels(table: _Table, columns: Columns) -> Sequence[Any]:
    values = [table.columns[name] for name in columns.labels]
    if table.delimiter == ";":
        values = [_with_points(cells) for cells in values]
    return values[0] if len(values) == 1 else [list(row) for row in zip(*values, strict=True)]


def _with_points(cells: Sequence[str]) -> Sequence[str]:
    """The cells with decimal points in place of commas, if they are all numbers."""
    numbers = [cell.strip() for cell in cells]
    if not all(_DECIMAL_COMMA.fullmatch(cell) or cell.lstrip("+-").isdigit() for cell in numbers if cell):
        return cells
    return [cell.replace(",", ".") for cell in numbers]


def _one_row_a_picture(paths: Sequence[str], label: LabelColumn) -> tuple[list[str], LabelColumn]:
    classes: dict[str, list[Any]] = {}
    first: list[int] = []
    for row, (path, value) in enumerate(zip(paths, label.values, strict=True)):
        if path not in classes:
            first.append(row)
        if value not in classes.setdefault(path, []):
            classes[path].append(value)
    several = any(len(values) > 1 for values in classes.values())
    values: list[Any] = [found if several else found[0] for found in classes.values()]
    if several and label.is_text:
        values = [SEPARATORS[0].join(map(str, found)) for found in values]
    where = label.where
    return list(classes), replace(label, values=values, where=lambda row: where(first[row]))


def _refuse_undecoded(path: str, table: _Table, columns: Columns, paths: Sequence[str]) -> None:
    """Refuses cells that are no UTF-8, but for paths that name a file by these very bytes."""
    for row, value in enumerate(paths):
        if not _is_decoded(value) and not os.path.lexists(os.path.join(os.path.dirname(path), value)):
            raise _undecoded(path, value, table.lines[row])
    for name in columns.labels:
        for row, value in enumerate(table.columns[name]):
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str) and not _is_decoded(item):
                    raise _undecoded(path, item, table.lines[row])


def _is_decoded(text: str) -> bool:
    """Whether no byte of a text was left as it is."""
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


def _undecoded(path: str, text: str, line: str) -> DataError:
    kind = "CSV " if path.lower().endswith(CSV_SUFFIXES) else ""  # as Excel calls it
    return DataError(
        f"{shown(path)}: not text in UTF-8 ({line} holds {shown(text)}), but perhaps in Windows-1252, as Excel "
        f"writes it: nothing in the file tells its encoding; save it as {kind}UTF-8"
    )


# --- From a file's bytes to rows --------------------------------------------------------------------------------------


def _table(path: str, head: bool = False) -> _Table:
    """What stands in a file, or in its beginning."""
    is_csv = path.lower().endswith(CSV_SUFFIXES)
    try:
        with open(path, "rb") as file:
            content = file.read(HEAD_BYTES) if head else file.read()
            if head and not is_csv and (content.lstrip(_BEFORE_JSON).startswith(b"[") or b"\n" not in content):
                content += file.read()  # which can only be understood as a whole
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror}") from error
    is_cut = head and len(content) == HEAD_BYTES
    text = _decoded(path, content, is_cut)
    return _csv_table(path, text, is_cut, head) if is_csv else _json_table(path, text, head)


def _decoded(path: str, content: bytes, is_cut: bool) -> str:
    """A file's text; what is no UTF-8 in it stands there as single surrogates.

    With a byte order mark it may be UTF-8, UTF-16 or UTF-32; without one it is taken for UTF-8.
    """
    if content.startswith(LFS_POINTER):
        raise DataError(f"{shown(path)}: {UNFETCHED}")
    for beginning, what in _NO_TEXTS.items():
        if content.startswith(beginning):
            raise DataError(f"{shown(path)}: is {what}, whatever its name says; expected a text file in UTF-8")
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if encoding == "utf-8" else "strict")
            try:
                return decoder.decode(content[len(mark) :], final=not is_cut)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{shown(path)}: begins as {encoding.upper()} does, but is damaged ({error.reason} at byte "
                    f"{error.start + len(mark)}); save it as UTF-8"
                ) from error
    if b"\0" in content:
        raise DataError(
            f"{shown(path)}: not text in UTF-8 (there are zero bytes in it, as in UTF-16 without a byte order mark)"
            "; save it as UTF-8"
        )
    return content.decode("utf-8", "surrogateescape")


def in_utf8(path: str, content: bytes) -> bytes | None:
    """The whole content of a text file in UTF-8, None where it is in that already, but for a mark at its beginning.

    Raises:
        DataError: it is in an encoding that nothing in it tells, or damaged.
    """
    if not any(content.startswith(mark) for mark, encoding in _MARKS if encoding != "utf-8"):
        return None
    return _decoded(path, content, is_cut=False).encode("utf-8", "surrogateescape")


def _csv_table(path: str, text: str, is_cut: bool, head: bool) -> _Table:
    start = 1
    told = _SEPARATOR_LINE.match(text)
    if told:
        text, start = text[told.end() :], 2
    first = text.partition("\n")[0]
    delimiter = told[1] if told else _delimiter(path, first)
    rows: list[list[str]] = []
    lines: list[str] = []
    reader = rows_of(io.StringIO(text, newline=""), delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
        while header and not header[-1]:  # as spreadsheets write columns that were used once
            header.pop()
        if not header:
            raise DataError(f"{shown(path)}: is empty; expected a header line with the names of the columns")
        if len(set(header)) < len(header):
            names = listed(header)
            raise DataError(f"{shown(path)}: a column name stands more than once in the header {names}")
        if not all(map(_is_decoded, header)):
            raise _undecoded(path, next(name for name in header if not _is_decoded(name)), "the header")
        if len(header) == 1 and _says_labels(re.findall(r"\w+", header[0])):
            raise DataError(
                f"{shown(path)}: has one column only, called {shown(header[0])!r}; expected a comma, a semicolon, a "
                "tab or | between the columns"
            )
        for row in reader:
            if not any(map(str.strip, row[len(header) :])):
                row = row[: len(header)]
            if not any(map(str.strip, row)):
                continue
            if len(row) != len(header) and not head:
                line = reader.line_num + start - 1
                raise DataError(f"{shown(path)}, line {line}: {len(row)} cells, expected {len(header)}")
            rows.append(row)
            lines.append(f"line {reader.line_num + start - 1}")
            if head:
                break
    except csv.Error as error:
        if not is_cut:
            line = reader.line_num + start - 1
            raise DataError(f"{shown(path)}, line {line}: damaged ({error})") from error
    columns = {name: [row[place] for row in rows if place < len(row)] for place, name in enumerate(header)}
    return _Table(columns, lines, True, delimiter)


def rows_of(lines: Iterable[str], delimiter: str, strict: bool = True) -> Any:
    """What reads the rows of a CSV or TSV file. Quotes count behind a space, too, as in `a.jpg, "cat"`."""
    return csv.reader(lines, delimiter=delimiter, strict=strict, skipinitialspace=True)


def _delimiter(path: str, header: str) -> str:
    """The separator by which most is understood of a header; the first one of those that are there."""
    possible = DELIMITERS[os.path.splitext(path)[1].lower()]
    there = [mark for mark in possible if mark in header] or [possible[0]]

    def understood(mark: str) -> int:
        try:
            names: list[str] = next(rows_of([header], mark, strict=False), [])
        except csv.Error:
            return 0
        return sum(map(bool, says_labels(dict.fromkeys(names), ColumnChoice())))

    return max(there, key=understood)


def _says_labels(names: Sequence[str]) -> bool:
    """Whether columns of these names would be those of a table of labels."""
    _, has_labels, has_names = says_labels(dict.fromkeys(names), ColumnChoice())
    return has_labels and has_names


def _json_table(path: str, text: str, head: bool) -> _Table:
    rows: list[Mapping[str, Any]] = []
    lines: list[str] = []
    if not text.strip():
        raise DataError(f"{shown(path)}: is empty; expected one object a line")
    pairs = _array(path, text) if text.lstrip().startswith("[") else _json_lines(path, text)
    for line, row in pairs:
        if not isinstance(row, dict):
            raise DataError(f"{shown(path)}, {line}: {type(row).__name__}; expected one object a line")
        rows.append(row)
        lines.append(line)
        if head:
            break
    if not rows:
        raise DataError(f"{shown(path)}: is empty; expected one object a line")
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(rows) == 1 and {*names} >= COCO_KEYS:
        raise DataError(f"{shown(path)}: {OF_COCO}")
    return _Table({name: [row.get(name) for row in rows] for name in names}, lines, False)


def _array(path: str, text: str) -> Iterator[tuple[str, Any]]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown(path)}: not JSON ({one_line(error)}); expected an array of objects") from error
    yield from ((f"item {number}", item) for number, item in enumerate(items, 1))


def _json_lines(path: str, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{shown(path)}, line {number}: not JSON ({one_line(error)}); expected one object a line{_keys(text)}"
            ) from error


def _keys(text: str) -> str:
    """What to add to an error where a file is one object over several lines."""
    try:
        keys = list(json.loads(text))
    except (ValueError, RecursionError):
        return ""
    if {*keys} >= COCO_KEYS:
        return f"; this {OF_COCO}"
    return f" or an array of them, got one object of {listed(map(escaped, keys))}"


def _no_header(path: str, names: Sequence[str]) -> str:
    return (
        f"{shown(path)}: has no header line with the names of its columns, but begins with {listed(names)}; write one "
        "above it, such as image,label"
    )


__all__ = [
    "CSV_SUFFIXES",
    "HEAD_BYTES",
    "JSON_LINES_SUFFIXES",
    "JSON_SUFFIXES",
    "Head",
    "Survey",
    "head_of",
    "in_utf8",
    "read_text_table",
    "rows_of",
    "splits_in",
    "survey",
]

"""From a column of labels to targets: which kind of problem it is, the names of the classes, the numbers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ..errors import argument, escaped, one_line, shown
from ..outputs.problems import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Words that pandas writes, and reads, for what is missing.
MISSING_WORDS = frozenset(
    ("#N/A", "#N/A N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
)
# What separates the labels of one picture in a cell of a text file.
SEPARATORS = "|;"
# Names that an error lists before it says how many more there are.
NAMES_IN_ERRORS = 5
MOST_OF_A_LISTED_NAME = 60  # characters
# Without leading zeros: "007" is a name. Python does not read thousands of digits.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,999})")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[nN][aA][nN]")


class DataError(ValueError):
    """Labeled pictures that cannot be used; the message is one line: what was given, what is expected, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class MissingSplit(DataError):
    """There is no split of the name that was asked for."""


class UnexpectedLabels(DataError):
    """Labels that are not among the expected ones.

    Attributes:
        labels: these labels.
    """

    def __init__(self, labels: Sequence[str], message: str) -> None:
        super().__init__(message)
        self.labels = tuple(labels)

    def __reduce__(self) -> tuple[type[UnexpectedLabels], tuple[tuple[str, ...], str]]:
        return type(self), (self.labels, str(self))  # of an exception only the text would be pickled


@dataclass(frozen=True)
class LabelColumn:
    """What a file says about the label of each of its rows.

    Attributes:
        name: the column's name.
        values: for each row an integer, a float, a string, a list of these, or None.
        where: says what to call a row in an error.
        names: the class names that integers stand for, where the file has them.
        is_text: whether the values are cells of a text file, in which numbers and lists have yet to be recognized.
        parts: the names of the columns that each value, a list, was put together from.
        is_guess: whether nobody named these columns.
    """

    name: str
    values: Sequence[Any]
    where: Callable[[int], str]
    names: tuple[str, ...] | None = None
    is_text: bool = False
    parts: tuple[str, ...] | None = None
    is_guess: bool = False


@dataclass(frozen=True)
class Targets:
    """What `LabeledPictures` holds beside the pictures; `numbered` where the labels are bare integers."""

    problem_type: str
    labels: tuple[str, ...]
    values: Array
    numbered: bool = False


def listed(names: Iterable[object], most: int = NAMES_IN_ERRORS) -> str:
    """Names for an error: the first few, and how many more there are."""
    texts = [shown(name, MOST_OF_A_LISTED_NAME) for name in names]
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest > 0 else "")


def order_of(
    labels: Sequence[str], used: Array, wanted: Sequence[str], numbered: bool, problem_type: str = SINGLE_LABEL
) -> Array:
    """Where each of `labels` stands in `wanted`, (labels,) int64; -1 for a label that is not there and has no picture.

    Raises:
        DataError: a name twice in `wanted`, or labels with pictures that are not there.
    """
    twice = [name for name, times in Counter(wanted).items() if times > 1]
    if twice:
        raise DataError(f"the list of labels has these names more than once: {listed(twice)}; give each label once")
    places = {name: place for place, name in enumerate(wanted)}
    missing = [label for label, is_used in zip(labels, used, strict=True) if is_used and label not in places]
    if problem_type == REGRESSION:
        missing = [label for label in labels if label not in places]
        if len(labels) != len(wanted):
            raise DataError(f"the data has {len(labels)} values a picture ({listed(labels)}), expected {len(wanted)}")
        return np.arange(len(labels)) if missing else np.array([places[label] for label in labels])
    if missing and numbered:
        numbers = np.array([int(label) for label in labels])
        if numbers.min() >= 0 and numbers.max() < len(wanted):
            return numbers
    if missing:
        raise UnexpectedLabels(
            missing,
            f"labels of the data that are not among the {len(wanted)} expected ones ({listed(wanted)}): "
            f"{listed(missing)}; rename them, or leave their pictures out",
        )
    return np.array([places.get(label, -1) for label in labels], np.int64)


def joined(columns: Sequence[LabelColumn]) -> LabelColumn:
    """The label columns of several files, one after the other.

    Raises:
        DataError: they do not fit together.
    """
    if len(columns) == 1:
        return columns[0]
    columns = [_in_the_order(columns[0], column) for column in columns]
    if len({(column.names, column.is_text) for column in columns}) > 1:
        columns = [_without_names(column) for column in columns]
    ends = np.cumsum([len(column.values) for column in columns])

    def where(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return columns[part].where(row - (int(ends[part - 1]) if part else 0))

    values = [value for column in columns for value in column.values]
    return replace(columns[0], values=values, where=where)


def _in_the_order(first: LabelColumn, column: LabelColumn) -> LabelColumn:
    """A column with its parts, if it was put together from several, in the order that the first one has them in."""
    if column.parts == first.parts:
        return column
    if first.parts is None or column.parts is None or {*first.parts} != {*column.parts}:
        raise DataError(
            f"the columns of labels differ: {first.where(0)} has {listed(first.parts or [first.name])}, "
            f"{column.where(0)} {listed(column.parts or [column.name])}; give all tables the same ones, or name the "
            f"columns with {argument('label_column')}"
        )
    order = [column.parts.index(name) for name in first.parts]
    values = [None if value is None else [value[place] for place in order] for value in column.values]
    return replace(column, values=values, parts=first.parts)


def _without_names(column: LabelColumn) -> LabelColumn:
    """A column in which names stand for the integers, and typed values for the cells of a text file."""
    if column.is_text:
        column = replace(column, values=_from_cells(column, None), is_text=False)
    if column.names is None:
        return column
    names = column.names

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(item) for item in value]
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None

    return replace(column, values=[named(value) for value in column.values], names=None)


def repeated(table: str, paths: Sequence[str], labels: Sequence[Any]) -> tuple[str, ...]:
    """A note on pictures that stand in several rows of a table: one may be trained on and validated with."""
    first: dict[str, Any] = {}
    alike, unlike = set[str](), set[str]()
    for path, label in zip(paths, labels, strict=True):
        if path in first:
            (alike if first[path] == label else unlike).add(path)
        first.setdefault(path, label)
    several = alike | unlike
    if not several:
        return ()
    count = f"{len(several):,} of its pictures stand{'s' * (len(several) == 1)} in several rows"
    differing = f", {len(unlike):,} of them with different labels" if unlike else ""
    return (f"{shown(table)}: {count}{differing}, such as {shown(min(unlike or alike), MOST_OF_A_LISTED_NAME)}",)


# --- Which kind of problem --------------------------------------------------------------------------------------------


def interpret(
    column: LabelColumn,
    problem_type: str | None = None,
    labels: Sequence[str] | None = None,
    na_as_class: bool = False,
) -> Targets:
    """The targets of a column.

    Lists are several labels of one picture, or several values if any number has a fraction; numbers with a fraction
    are values; whole numbers and text are classes. Words that stand for a missing label, as pandas writes and reads
    them, are none.

    Args:
        problem_type: decides instead of the values.
        labels: the labels in their order. Integers that have no names in the data get theirs from here.
        na_as_class: whether "NA", "None" and the like in text are classes of that name.

    Raises:
        DataError: rows without a label, values of different types, or of a type that `problem_type` cannot be.
    """
    if problem_type not in (None, *PROBLEM_TYPES):
        raise DataError(f"{argument('problem_type')} must be one of {', '.join(PROBLEM_TYPES)}, got {problem_type!r}")
    missing_words = frozenset() if na_as_class else MISSING_WORDS
    values = _from_cells(column, problem_type, missing_words) if column.is_text else column.values
    values = _plain(column, values, missing_words)
    kinds = set(map(type, values))
    odd = next(((row, what) for row, value in enumerate(values) if (what := _odd_kind(value))), None)
    if odd is not None:
        raise DataError(
            f"{column.where(odd[0])}: the label column {column.name!r} holds {odd[1]}; expected integers, numbers, "
            "text, or lists of these"
        )
    if len(kinds) > 1 and not kinds <= {int, float}:
        raise _mixed(column, values)
    column = replace(column, values=values)

    if problem_type is None:
        problem_type = _kind_of_problem(column)
    if problem_type == REGRESSION:
        targets = _regression(column)
    elif problem_type == MULTI_LABEL:
        targets = _multi_label(column)
    else:
        targets = _single_label(column)
    if labels is None or tuple(labels) == targets.labels:
        return targets
    return _reordered(targets, tuple(labels))


def _odd_kind(value: Any) -> str:
    """What a value is that is no label, nor a list of them."""
    if not isinstance(value, list):
        return "" if isinstance(value, int | float | str) else type(value).__name__
    kinds = (type(item).__name__ for item in value if not isinstance(item, int | float | str))
    return f"a list of {kind}" if (kind := next(kinds, "")) else ""


def _reordered(targets: Targets, labels: tuple[str, ...]) -> Targets:
    single = targets.problem_type == SINGLE_LABEL
    if single:
        used = np.bincount(targets.values, minlength=len(targets.labels)) > 0
    else:
        used = np.any(targets.values, axis=0)
    order = order_of(targets.labels, used, labels, targets.numbered, targets.problem_type)
    if single:
        return replace(targets, labels=labels, values=order[targets.values], numbered=False)
    values = np.zeros((len(targets.values), len(labels)), np.float32)
    values[:, order[order >= 0]] = targets.values[:, order >= 0]
    return replace(targets, labels=labels, values=values, numbered=False)


def _kind_of_problem(column: LabelColumn) -> str:
    first = column.values[0]
    if isinstance(first, list):
        items = [item for value in column.values for item in value]
        if any(isinstance(item, float) and not item.is_integer() for item in items):
            return REGRESSION
        if column.parts and not set(items) <= {0, 1}:
            return REGRESSION
        if column.is_guess and all(sum(value) == 1 for value in column.values):
            return SINGLE_LABEL
        return MULTI_LABEL
    if any(isinstance(value, float) and not value.is_integer() for value in column.values):
        return REGRESSION
    return SINGLE_LABEL


def _plain(column: LabelColumn, values: Sequence[Any], missing_words: Set[str]) -> list[Any]:
    """The values, truth values as text; refuses rows without a label."""

    def plain(value: Any) -> Any:
        return str(value).lower() if isinstance(value, bool) else escaped(value) if isinstance(value, str) else value

    def is_missing(value: Any) -> bool:
        if isinstance(value, str):
            return not value.strip() or value.strip() in missing_words
        if isinstance(value, list):
            return any(item is None or (not isinstance(item, list) and is_missing(item)) for item in value)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return True
        return column.names is not None and value == UNKNOWN_CLASS

    missing = [row for row, value in enumerate(values) if is_missing(value)]
    if missing:
        more = f" (rows without one: {len(missing)})" if len(missing) > 1 else ""
        cells = [column.values[row] for row in missing]
        items = [item for cell in cells for item in (cell if isinstance(cell, list) else [cell])]
        words = sorted({item.strip() for item in items if isinstance(item, str)} & MISSING_WORDS)
        if any(isinstance(value, float) for value in values):
            words = []  # among numbers they can be nothing else
        kept = f"; if {listed(map(repr, words))} is a class, say {argument('na_as_class', True)}" if words else ""
        raise DataError(
            f"{column.where(missing[0])}{more} has no label in column {column.name!r}: add it, or drop it{kept}"
        )
    return [[plain(item) for item in value] if isinstance(value, list) else plain(value) for value in values]


# What datasets without labels for a split have in their place.
UNKNOWN_CLASS = -1


def _mixed(column: LabelColumn, values: Sequence[Any]) -> DataError:
    words = {int: "a number", float: "a number", str: "text", list: "a list"}
    first = words[type(values[0])]
    row = next(row for row, value in enumerate(values) if words[type(value)] != first)
    return DataError(
        f"the label column {column.name!r} mixes types: {column.where(0)} holds {first} ({values[0]!r}), "
        f"{column.where(row)} {words[type(values[row])]} ({values[row]!r}); give all rows the same type"
    )


def _from_cells(column: LabelColumn, problem_type: str | None, missing_words: Set[str] = frozenset()) -> list[Any]:
    """The cells of a text file as integers, floats, text or lists; None for an empty one and for a missing word."""
    if column.parts:
        parts = [
            _from_cells(
                replace(column, values=[value[part] for value in column.values], parts=None), REGRESSION, missing_words
            )
            for part in range(len(column.parts))
        ]
        return [None if None in row else list(row) for row in zip(*parts, strict=True)]
    cells = [cell.strip() if cell else "" for cell in column.values]
    if any(cell in missing_words for cell in cells):
        kept = [row for row, cell in enumerate(cells) if cell not in missing_words]
        others = replace(column, values=[cells[row] for row in kept], where=lambda row: column.where(kept[row]))
        values = iter(_from_cells(others, problem_type))
        return [None if cell in missing_words else next(values) for cell in cells]
    separated = any(separator in cell for cell in cells for separator in SEPARATORS)
    if problem_type == MULTI_LABEL or (separated and problem_type != SINGLE_LABEL):
        return _lists_from_cells(cells, problem_type)
    if problem_type != REGRESSION and all(_INTEGER.fullmatch(cell) for cell in cells if cell):
        return [int(cell) if cell else None for cell in cells]
    words = [row for row, cell in enumerate(cells) if cell and not _NUMBER.fullmatch(cell)]
    fractions = [row for row, cell in enumerate(cells) if _NUMBER.fullmatch(cell) and not _is_whole(cell)]
    if words and problem_type == REGRESSION:
        raise DataError(f"{column.where(words[0])}: {cells[words[0]]!r} in column {column.name!r} is not a number")
    if words and fractions and problem_type is None:
        raise DataError(
            f"the label column {column.name!r} mixes types: {column.where(fractions[0])} holds a number "
            f"({cells[fractions[0]]}), {column.where(words[0])} text ({cells[words[0]]!r}); give all rows the same "
            f"type, or say {argument('problem_type', SINGLE_LABEL)} where these are names of classes"
        )
    are_names = (
        words
        or (fractions and problem_type == SINGLE_LABEL)
        or any(len(cell) > 1 and cell[0] == "0" and cell.isdigit() for cell in cells)  # padded with zeros
    )
    if are_names and problem_type != REGRESSION:
        return [cell or None for cell in cells]
    return [float(cell) if cell else None for cell in cells]


def _lists_from_cells(cells: Sequence[str], problem_type: str | None) -> list[Any]:
    lists = [[item.strip() for item in re.split(f"[{SEPARATORS}]", cell) if item.strip()] for cell in cells]
    items = [item for items in lists for item in items]
    if problem_type != REGRESSION and all(map(_INTEGER.fullmatch, items)):
        return [[int(item) for item in items] for items in lists]
    if problem_type != MULTI_LABEL and all(map(_NUMBER.fullmatch, items)):
        return [[float(item) for item in items] for items in lists]
    return lists


def _is_whole(cell: str) -> bool:
    number = float(cell)
    return math.isnan(number) or number.is_integer()


# --- Each kind --------------------------------------------------------------------------------------------------------


def _regression(column: LabelColumn) -> Targets:
    values = column.values
    vectors = isinstance(values[0], list)
    lengths = {len(value) for value in values} if vectors else {1}
    if len(lengths) > 1 or lengths == {0}:
        raise DataError(
            f"the values in column {column.name!r} are lists of {listed(sorted(lengths))} numbers; expected as many "
            "for every picture, at least one"
        )
    for row, value in enumerate(values):
        items = value if vectors else [value]
        if not all(isinstance(item, int | float) and math.isfinite(item) for item in items):
            raise DataError(f"{column.where(row)}: {value!r} in column {column.name!r} is not a finite number")
    numbers = np.array(values, np.float32).reshape(len(values), -1)
    width = numbers.shape[1]
    names = column.parts or ((column.name,) if width == 1 else tuple(f"{column.name}_{i}" for i in range(width)))
    return Targets(REGRESSION, names, numbers)


def _single_label(column: LabelColumn) -> Targets:
    if column.parts:
        return _switched_on(column, column.parts)
    if isinstance(column.values[0], list):
        longer = next((row for row, value in enumerate(column.values) if len(value) != 1), None)
        if longer is not None:
            raise DataError(
                f"{column.where(longer)} has {len(column.values[longer])} labels in column {column.name!r}; "
                f"expected one for {SINGLE_LABEL}"
            )
        column = replace(column, values=[value[0] for value in column.values])
    labels, numbered, indices = _classes(column, [column.values])
    return Targets(SINGLE_LABEL, labels, np.array(indices[0], np.int64), numbered)


def _switched_on(column: LabelColumn, labels: tuple[str, ...]) -> Targets:
    """The one class of each picture whose column has a 1."""
    odd = next((row for row, value in enumerate(column.values) if not set(value) <= {0, 1} or sum(value) != 1), None)
    if odd is not None:
        cells = listed(item if isinstance(item, str) else f"{item:g}" for item in column.values[odd])
        raise DataError(
            f"{column.where(odd)}: the columns {listed(labels)} hold {cells}; expected one 1, and 0 in the others, for "
            f"{SINGLE_LABEL}"
        )
    return Targets(SINGLE_LABEL, labels, np.array([value.index(1) for value in column.values], np.int64))


def _multi_label(column: LabelColumn) -> Targets:
    lists = [value if isinstance(value, list) else [value] for value in column.values]
    if column.parts or _are_switches(lists):
        width = len(lists[0])
        if not {item for items in lists for item in items} <= {0, 1}:
            raise DataError(
                f"the columns {column.name} hold other values than 0 and 1; expected these in {MULTI_LABEL}"
            )
        flags = np.array(lists, np.float32)
        names = column.parts or (column.names if column.names and len(column.names) == width else None)
        return Targets(MULTI_LABEL, names or tuple(map(str, range(width))), flags, numbered=names is None)
    labels, numbered, indices = _classes(column, lists)
    targets = np.zeros((len(lists), len(labels)), np.float32)
    for row, places in enumerate(indices):
        targets[row, places] = 1
    return Targets(MULTI_LABEL, labels, targets, numbered)


def _are_switches(lists: Sequence[Sequence[Any]]) -> bool:
    """Whether lists are a 0 or 1 for each class: only then do they repeat one, since no picture has a class twice."""
    if len({len(items) for items in lists}) != 1 or any(item not in (0, 1) for items in lists for item in items):
        return False
    return any(len(set(items)) < len(items) for items in lists)


def _classes(column: LabelColumn, lists: Sequence[Sequence[Any]]) -> tuple[tuple[str, ...], bool, list[list[int]]]:
    """The class names in order, whether they are bare integers, and `lists` as indices of them."""
    distinct = {item for items in lists for item in items}
    types = {type(item) for item in distinct}
    if types <= {int, float} and all(float(item).is_integer() for item in distinct):
        if column.names is not None:
            wrong = [item for item in distinct if not 0 <= item < len(column.names)]
            if wrong:
                raise DataError(
                    f"the label column {column.name!r} holds {listed(sorted(wrong))}, but there are names for "
                    f"{len(column.names)} classes, 0 to {len(column.names) - 1}"
                )
            return column.names, False, [[int(item) for item in items] for items in lists]
        ordered = sorted(distinct)
        labels = tuple(str(int(item)) for item in ordered)
    elif types <= {int, float} or types == {str}:
        ordered = sorted(distinct)
        labels = tuple(map(str, ordered))
    else:
        raise DataError(
            f"the label column {column.name!r} mixes types in its lists: {listed(sorted(map(repr, distinct)))}; "
            "give all of them as numbers or all as text"
        )
    places = {item: place for place, item in enumerate(ordered)}
    numbered = bool(types) and types <= {int, float} and all(float(item).is_integer() for item in distinct)
    return labels, numbered, [[places[item] for item in items] for items in lists]

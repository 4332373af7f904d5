"""What is said of a picture as a row, and rows as parquet, CSV and JSON Lines: the same rows are the same bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..outputs import vectors
from ..outputs.vectors import Making

if TYPE_CHECKING:
    import pyarrow as pa

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

PARQUET, CSV, JSON_LINES = FORMATS = (".parquet", ".csv", ".jsonl")
# What the names of parts begin with.
PART = "part-"
# Of parquet. Statistics of what is written, and no time: two files of the same rows are the same bytes.
WRITING = {"compression": "zstd", "compression_level": 3, "version": "2.6", "data_page_version": "1.0"}
# The columns that few values repeat in.
REPEATING = ["labels.list.element", "set.list.element", "error", "reason"]


@dataclass
class Row:
    """What became of one picture.

    Attributes:
        path: What it is called.
        width: In pixels, upright; None where it could not be read.
        height: Likewise.
        labels: The best ones, best first.
        probabilities: Theirs, float32.
        set: The labels of the set that holds the truth as often as was asked for, likeliest first.
        familiarity: Of the held-out pictures and this one, the share that is at most as familiar.
        none_of_these: Whether that is below what was asked for.
        values: What a regression predicts, float32.
        embedding: (D,), float32.
        error: What kind of error it is, where it is one.
        reason: One line that says what is the matter.
    """

    path: str
    width: int | None = None
    height: int | None = None
    labels: Sequence[str] | None = None
    probabilities: Array | None = None
    set: Sequence[str] | None = None
    familiarity: float | None = None
    none_of_these: bool | None = None
    values: Array | None = None
    embedding: Array | None = None
    error: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns of a file of rows.

    Attributes:
        name: What the first is called, which names the picture.
        ranked: How many labels a row has; 0 where it has none.
        sets: Whether a row has a set of labels.
        familiarity: Whether it says how familiar a picture is.
        values: How many values a regression predicts; 0 where it is none.
        embedding: What the vectors are made with; None where there are none.
        about: What a parquet file's metadata say of the model.
    """

    name: str = vectors.PATH
    ranked: int = 0
    sets: bool = False
    familiarity: bool = False
    values: int = 0
    embedding: Making | None = None
    about: Mapping[str, str] = field(default_factory=dict)


def columns_from(said: Mapping[str, Any]) -> Columns:
    """What `dataclasses.asdict` made of columns, as columns again."""
    made = said["embedding"]
    return Columns(**{**said, "embedding": None if made is None else Making(**made)})


def part_name(number: int, form: str) -> str:
    """What the part of a shard is called."""
    return f"{PART}{number:05d}{form}"


def encoded(rows: Sequence[Row], columns: Columns, form: str) -> bytes:
    """Rows as the content of a part; CSV without its header."""
    if form == PARQUET:
        return _as_parquet(rows, columns)
    if form == CSV:
        return _as_lines([_cells(row, columns) for row in rows])
    return b"".join(
        json.dumps(one, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"
        for one in (_fields(row, columns) for row in rows)
    )


def decoded(content: bytes, columns: Columns, form: str) -> list[Row]:
    """The rows of a part.

    Raises:
        ValueError: It is damaged.
    """
    if form == PARQUET:
        return list(_of_parquet(content, columns))
    if form == CSV:
        return [_of_cells(cells, columns) for cells in csv.reader(io.StringIO(content.decode(), newline=""))]
    return [_of_fields(json.loads(line), columns) for line in content.splitlines()]


def header(columns: Columns, form: str) -> bytes:
    """What stands before the rows in a file of several parts."""
    if form != CSV:
        return b""
    ranked = [f"{what}_{rank + 1}" for rank in range(columns.ranked) for what in ("label", "probability")]
    values = [f"value_{number + 1}" for number in range(columns.values)]
    return _as_lines([[columns.name, "width", "height", *ranked, *_judged(columns), *values, "error", "reason"]])


def _judged(columns: Columns) -> list[str]:
    """The columns of what is said of a picture beside its labels."""
    return ["set"] * columns.sets + ["familiarity", "none_of_these"] * columns.familiarity


def _as_parquet(rows: Sequence[Row], columns: Columns) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(columns)
    found: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in schema.names[1:]}
    found[columns.name] = [row.path for row in rows]
    if columns.embedding is not None:
        found[vectors.EMBEDDING] = vectors.column(found[vectors.EMBEDDING], columns.embedding)
    arrays = [
        found[one.name] if isinstance(found[one.name], pa.Array) else pa.array(found[one.name], one.type)
        for one in schema
    ]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(table, sink, row_group_size=max(1, len(rows)), use_dictionary=REPEATING, **WRITING)
    return sink.getvalue().to_pybytes()


def _schema(columns: Columns) -> pa.Schema:
    import pyarrow as pa

    size = [pa.field("width", pa.int32()), pa.field("height", pa.int32())]
    said = []
    if columns.ranked:
        said = [pa.field("labels", pa.list_(pa.string())), pa.field("probabilities", pa.list_(pa.float32()))]
    kinds = {"set": pa.list_(pa.string()), "familiarity": pa.float64(), "none_of_these": pa.bool_()}
    said += [pa.field(name, kinds[name]) for name in _judged(columns)]
    if columns.values:
        said = [pa.field("values", pa.list_(pa.float32()))]
    why = [pa.field("error", pa.string()), pa.field("reason", pa.string())]
    about = {f"{vectors.KEY_PREFIX}{name}".encode(): value.encode() for name, value in columns.about.items()}
    if columns.embedding is None:
        return pa.schema([pa.field(columns.name, pa.string()), *size, *said, *why], about)
    schema = vectors.schema(columns.embedding, before=(*size, *said), after=why)
    return schema.set(0, pa.field(columns.name, pa.string())).with_metadata({**about, **schema.metadata})


def _of_parquet(content: bytes, columns: Columns) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(content))
    for one in table.to_pylist():
        path = one.pop(columns.name)
        for name in ("probabilities", "values", vectors.EMBEDDING):
            one[name] = _as_array(one.get(name))
        yield Row(path, **one)


def _as_array(values: Any) -> Array | None:
    return None if values is None else np.asarray(values, np.float32)


def _as_lines(table: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # whose lines end in "\r\n", so that cells with either of the two are quoted
    for cells in table:
        writer.writerow(cells)
        text.seek(text.tell() - 2)
        text.write("\n")
        text.truncate()
    return text.getvalue().encode()


def _cells(row: Row, columns: Columns) -> list[object]:
    cells: list[object] = [row.path, row.width, row.height]
    if row.error is not None:
        cells += [""] * (2 * columns.ranked + len(_judged(columns)) + columns.values)
    for label, probability in zip(
        row.labels or (), () if row.probabilities is None else row.probabilities, strict=True
    ):
        cells += [label, probability]
    if row.error is None and columns.sets:
        cells.append(json.dumps(row.set, ensure_ascii=False))  # whose labels may have any character
    if row.error is None and columns.familiarity:
        cells += [row.familiarity, str(row.none_of_these).lower()]
    cells += [] if row.values is None else list(row.values)
    return [*cells, row.error, row.reason]


def _of_cells(cells: Sequence[str], columns: Columns) -> Row:
    path, width, height, *said, error, reason = cells
    row = Row(path, int(width) if width else None, int(height) if height else None, error=error or None)
    row.reason = reason or None
    if row.error is None and columns.ranked:
        said, judged = said[: 2 * columns.ranked], iter(said[2 * columns.ranked :])
        row.labels, row.probabilities = said[::2], np.array(said[1::2], np.float32)
        if columns.sets:
            row.set = json.loads(next(judged))
        if columns.familiarity:
            row.familiarity, row.none_of_these = float(next(judged)), next(judged) == "true"
    if row.error is None and columns.values:
        row.values = np.array(said, np.float32)
    return row


def _fields(row: Row, columns: Columns) -> dict[str, Any]:
    said: dict[str, Any] = {columns.name: row.path}
    if row.error is not None:
        return {**said, "error": row.error, "reason": row.reason}
    said |= {"width": row.width, "height": row.height}
    if columns.ranked:
        said |= {"labels": row.labels, "probabilities": _short(row.probabilities)}
    said |= {name: getattr(row, name) for name in _judged(columns)}
    if columns.values:
        said["values"] = _short(row.values)
    if columns.embedding is not None:
        said["embedding"] = _short(row.embedding)
    return said


def _of_fields(said: dict[str, Any], columns: Columns) -> Row:
    row = Row(said.pop(columns.name), **said)
    row.probabilities, row.values, row.embedding = (
        _as_array(values) for values in (row.probabilities, row.values, row.embedding)
    )
    return row


def _short(values: Array | None) -> list[float]:
    """Float32 values with no more digits than tell them from their neighbors."""
    assert values is not None
    return [float(str(value)) for value in values]


__all__ = [
    "CSV",
    "FORMATS",
    "JSON_LINES",
    "PARQUET",
    "PART",
    "Columns",
    "Row",
    "decoded",
    "encoded",
    "header",
    "part_name",
]

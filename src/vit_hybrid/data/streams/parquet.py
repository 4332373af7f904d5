"""Parquet files with pictures in them, a row group at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import needs, one_line, shown
from ...files import unfetched
from ..columns import ColumnChoice, choose_columns, picture_column
from ..parquet import class_names, features_of, kind_of_column, refuse_repeated
from ..sources import SourceError
from ..targets import DataError
from .outlines import UnitName
from .protocol import Content, Entry, Labeled, Place, Teller
from .stores import Store, Unreachable, is_address, no_stamp, store_of, unreadable
from .units import Broken, File, Unit

# Rows that are decoded together, which are as many encoded pictures in memory.
ROWS_AT_ONCE = 64
LABELS_AT_ONCE = 4096
# What is read of a column at once: a row group may have gigabytes.
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class RowGroup:
    """One row group, opened again when its pictures are asked for."""

    name: UnitName
    store: Store
    column: str
    start: int  # rows before it in the file
    rows: int
    told: tuple[str, ...] = ()  # the columns of labels
    teller: Teller | None = None

    def entries(self, row: int) -> Iterator[Entry]:
        path, unit = self.name.path, str(self.name)
        index = row
        start = 0
        columns = [self.column, *self.told]
        try:
            with self.store.open(path) as stream:
                file = _opened(path, stream)
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[self.name.at], columns=columns):
                    skipped = max(0, row - start)
                    labels = iter(self._labels_in(batch, skipped))
                    for value in batch.column(self.column)[skipped:].to_pylist():
                        name, content = self._picture(value, index)
                        yield Entry(name, Place(unit, index), content, no_stamp, next(labels), self.teller)
                        index += 1
                    start += len(batch)
        except SourceError:
            raise
        except Unreachable as error:
            raise unreadable(path, error) from error
        except (OSError, ValueError, KeyError) as error:  # Arrow's are among them
            text = f"{shown(path)}: row group {self.name.at} is damaged ({one_line(error)})"
            for missing in range(index, self.rows):
                yield Entry(self._row(missing), Place(unit, missing), SourceError(text), no_stamp)

    def labels(self, row: int) -> Iterator[Labeled]:
        path, index = self.name.path, 0
        try:
            with self.store.open(path) as stream:
                file = _opened(path, stream)
                for batch in file.iter_batches(LABELS_AT_ONCE, row_groups=[self.name.at], columns=[*self.told]):
                    for label in self._labels_in(batch, 0):
                        if index >= row:
                            yield Labeled(self._row(index), label, self.teller)
                        index += 1
        except SourceError:
            raise
        except Unreachable as error:
            raise unreadable(path, error) from error
        except (OSError, ValueError, KeyError) as error:
            raise SourceError(f"{shown(path)}: row group {self.name.at} is damaged ({one_line(error)})") from error

    def _labels_in(self, batch: Any, skipped: int) -> list[Any]:
        """What is said of each row of a batch behind some: a value, or a list of those of several columns."""
        if not self.told:
            return [None] * (len(batch) - skipped)
        columns = [batch.column(name)[skipped:].to_pylist() for name in self.told]
        if self.teller is None or self.teller.parts is None:
            return columns[0]
        return [None if None in row else list(row) for row in zip(*columns, strict=True)]

    def _row(self, index: int) -> str:
        return f"{self.name.path}#{self.start + index}"

    def _picture(self, value: Any, index: int) -> tuple[str, Content]:
        """What a row's picture is called, and where its content is."""
        row = self._row(index)
        if isinstance(value, dict):
            name, value = value.get("path"), value.get("bytes")
            value = name if value is None else value
            row = name if isinstance(name, str) and name else row
        if isinstance(value, bytes) and value:
            return row, value
        if isinstance(value, str) and value:
            path = beside(self.name.path, value)
            return path, store_of(path).content(path)
        return row, SourceError(f"{shown(self._row(index))}: no picture in this row")


def units(file: File, start: UnitName | None) -> Iterator[Unit]:
    """The row groups of a parquet file, from one on.

    Raises:
        Differs: The file is not what it was.
        SourceError: pyarrow is missing, or the file cannot be fetched.
    """
    if not file.is_due():
        return
    path = file.name.path
    try:
        with file.store.open(path) as stream:
            opened = _opened(path, stream)
            schema = opened.schema_arrow
            features = features_of(schema.metadata)
            kinds = {field.name: kind_of_column(field.type, features.get(field.name)) for field in schema}
            column, told, teller = _columns(path, kinds, features, file.memory.choice)
            refuse_repeated(path, schema.names, [column, *told])
            counts = [opened.metadata.row_group(index).num_rows for index in range(opened.num_row_groups)]
    except SourceError:
        raise
    except Unreachable as error:
        raise unreadable(path, error) from error
    except FileNotFoundError as error:
        yield Broken(file.name, unreadable(path, error))
        return
    except DataError as error:
        yield Broken(file.name, SourceError(str(error)))
        return
    except (OSError, ValueError, KeyError) as error:
        text = f"{shown(path)}: {unfetched(path) or f'not a parquet file, or damaged ({one_line(error)})'}"
        yield Broken(file.name, SourceError(text))
        return
    for index in range(0 if start is None else start.at, len(counts)):
        if counts[index]:
            start_row = sum(counts[:index])
            yield RowGroup(file.unit(index), file.store, column, start_row, counts[index], told, teller)


def _columns(
    path: str, kinds: Mapping[str, str], features: Mapping[str, Any], choice: ColumnChoice | None
) -> tuple[str, tuple[str, ...], Teller | None]:
    """The column of pictures and, where labels are wanted, those of labels."""
    if choice is None:
        return picture_column(path, kinds), (), None
    columns = choose_columns(path, kinds, choice)
    name = ", ".join(columns.labels)
    if len(columns.labels) > 1:
        return columns.image, columns.labels, Teller(name, parts=columns.labels)
    return columns.image, columns.labels, Teller(name, class_names(features.get(name)))


def beside(table: str, path: str) -> str:
    """Where a path in a table leads: from the folder of the table, unless it begins anew."""
    if is_address(path) or (os.path.isabs(path) and not is_address(table)):
        return path
    if is_address(table):
        folder = table.rpartition("/")[0]
        while path.startswith(("./", "../")):  # which stores take for names
            step, _, path = path.partition("/")
            folder = folder if step == "." else folder.rpartition("/")[0]
        return f"{folder}/{path}"
    return os.path.join(os.path.dirname(table), path)


def _opened(path: str, stream: Any) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SourceError(f"{shown(path)}: {needs('reading parquet', ['pyarrow'], 'predict')}") from error
    return pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)


__all__ = ["beside", "units"]

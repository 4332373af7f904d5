"""Parquet files as datasets writes them: encoded bytes or paths of pictures, and labels with or without names."""

from __future__ import annotations

import json
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from itertools import accumulate, islice
from typing import Any

import numpy as np

from ..errors import LFS_POINTER, UNFETCHED, escaped, one_line, shown
from ..images.reading import DAMAGED, ImageReadError
from ..runtimes import usable_cores
from .columns import ColumnChoice, choose_columns
from .folders import Rows
from .pictures import Blobs, Encoded, Files, Store
from .targets import Array, DataError, LabelColumn, listed

# Where datasets keeps the types of the columns that Arrow does not know.
FEATURES_KEY = b"huggingface"
ROWS_A_BATCH = 1024
# Encoded pictures that are read together where they are read when they are asked for; and what is read of a column at
# once, since a row group may have gigabytes.
PICTURES_A_BATCH = 32
BUFFER_BYTES = 1 << 20


class InFile:
    """Encoded pictures in the rows of a parquet file, read when they are asked for, at best in their order.

    May be shared by threads, and goes to another process as the file's name.

    Args:
        path: The file's.
        column: That of the pictures: binary, or a struct of `bytes` and `path`.
        numbers: (N,) the row numbers in the file.
    """

    def __init__(self, path: str, column: str, numbers: Array) -> None:
        self._path = path
        self._column = column
        self._numbers = numbers
        self._reader: _Reader | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._numbers)

    def name(self, row: int) -> str:
        return f"{os.path.basename(self._path)}[{self._numbers[row]}]"

    def source(self, row: int) -> str | bytes:
        """The picture's encoded bytes, or, where there are none, its path.

        Raises:
            ImageReadError: The file is damaged there, or no longer what it was.
        """
        import pyarrow as pa

        try:
            with self._lock:
                if self._reader is None:
                    self._reader = _Reader(self._path, self._column)
                value = self._reader.value(int(self._numbers[row]))
        except (pa.ArrowException, OSError, ValueError, IndexError) as error:
            raise ImageReadError(self.name(row), f"the file is damaged there ({one_line(error)})", DAMAGED) from error
        if isinstance(value, dict):
            name, value = value.get("path"), value["bytes"]
            if value is None and isinstance(name, str) and name:
                return os.path.join(os.path.dirname(self._path), name)
        return value or b""

    def take(self, rows: Array) -> InFile:
        return InFile(self._path, self._column, self._numbers[rows])

    def held(self) -> Store:
        """The same pictures in memory, for any order.

        Raises:
            DataError: The file is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with _named(self._path) as content:
                file = pq.ParquetFile(content)
                # Arrow cannot read more than 2 GB of the bytes in structs at once.
                batches = list(file.iter_batches(ROWS_A_BATCH, columns=[self._column]))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self._path, error) from error
        store = _store(self._path, pa.Table.from_batches(batches).column(self._column))
        return store if len(store) == len(self) else store.take(self._numbers)

    def __reduce__(self) -> Any:
        return InFile, (self._path, self._column, self._numbers)


class _Reader:
    """One column of a parquet file, a few rows at a time; those that were read last are kept."""

    def __init__(self, path: str, column: str) -> None:
        import pyarrow.parquet as pq

        self._content = open(path, "rb")  # noqa: SIM115 - closed when nobody needs this any more
        self._file = pq.ParquetFile(self._content, buffer_size=BUFFER_BYTES, pre_buffer=False)
        self._column = column
        groups = range(self._file.metadata.num_row_groups)
        self._starts = [0, *accumulate(self._file.metadata.row_group(group).num_rows for group in groups)]
        # The row group that is being read, and its next batch.
        self._at: tuple[int, int] | None = None
        self._batches: Iterator[Any] = iter(())
        # Several threads ask for rows that lie a few batches apart.
        self._kept: OrderedDict[tuple[int, int], Sequence[Any]] = OrderedDict()
        self._most = usable_cores() + 2

    def value(self, row: int) -> Any:
        """What stands in a row.

        Raises:
            IndexError: The file has no such row.
        """
        if row >= self._starts[-1]:
            raise IndexError(f"it has {self._starts[-1]:,} rows and no longer row {row:,}")
        group = bisect_right(self._starts, row) - 1
        batch, place = divmod(row - self._starts[group], PICTURES_A_BATCH)
        if (group, batch) not in self._kept:
            if self._at is None or self._at[0] != group or self._at[1] > batch:
                self._at = (group, 0)
                self._batches = self._file.iter_batches(PICTURES_A_BATCH, row_groups=[group], columns=[self._column])
            first, self._at = self._at[1], None  # an error leaves the place unknown
            found = next(islice(self._batches, batch - first, None), None)
            if found is None:
                raise IndexError("it has fewer rows than it says")
            self._at = (group, batch + 1)
            self._kept[group, batch] = found.column(self._column).to_pylist()
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end((group, batch))
        return self._kept[group, batch][place]

    def __del__(self) -> None:
        with suppress(AttributeError):  # it could not be opened
            self._content.close()


def read_parquet(path: str, choice: ColumnChoice) -> Rows:
    """The pictures of one parquet file. Encoded bytes are read when they are asked for: see `InFile`.

    The picture column is a struct of `bytes` and `path`, binary, or text: paths relative to the file's folder.

    Raises:
        DataError: pyarrow is missing, the file is damaged or empty, or its columns are not found.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{shown(path)}: reading parquet needs pyarrow: pip install 'vit-hybrid[evaluate]'") from error
    try:
        with _named(path) as content:
            file = pq.ParquetFile(content)
            schema = file.schema_arrow
            features = features_of(schema.metadata)
            kinds = {field.name: kind_of_column(field.type, features.get(field.name)) for field in schema}
            columns = choose_columns(path, kinds, choice)
            refuse_repeated(path, schema.names, [columns.image, *columns.labels])
            if not file.metadata.num_rows:
                raise DataError(f"{shown(path)}: no rows in it; expected one for each picture")
            has_paths = _holds_paths(path, schema.field(columns.image).type)
            read = [*([columns.image] if has_paths else []), *columns.labels]
            table = pa.Table.from_batches(list(file.iter_batches(ROWS_A_BATCH, columns=read)))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    store: Store = InFile(path, columns.image, np.arange(table.num_rows))
    if has_paths:
        store = _store(path, table.column(columns.image))
    name = os.path.basename(path)

    def where(row: int) -> str:
        return f"{name}[{row}]"

    try:
        lists = [table.column(label).to_pylist() for label in columns.labels]
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(path)}: the labels in it are not text in UTF-8 ({error.reason})") from error
    if len(lists) == 1:
        label = columns.labels[0]
        return Rows(
            store,
            LabelColumn(label, lists[0], where, class_names(features.get(label))),
            columns.origin(path),
            table=path,
        )
    rows = [list(row) for row in zip(*lists, strict=True)]
    column = LabelColumn(", ".join(columns.labels), rows, where, parts=columns.labels)
    return Rows(store, column, columns.origin(path), table=path)


def refuse_repeated(path: str, there: Sequence[str], read: Sequence[str]) -> None:
    """Refuses columns to be read of whose name a file has several."""
    twice = [name for name in read if there.count(name) > 1]
    if twice:
        raise DataError(f"{shown(path)}: has several columns called {listed(twice)}; expected one of each name")


def features_of(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """The types that datasets wrote into a file's schema, by column; empty where there are none."""
    try:
        features = json.loads((metadata or {})[FEATURES_KEY])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a `ClassLabel`, or of the `ClassLabel` in a list."""
    if isinstance(feature, list) and len(feature) == 1:
        return class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        return tuple(map(str, feature.get("names") or ())) or None
    return class_names(feature.get("feature"))


def kind_of_column(type: Any, feature: Any) -> str:
    """What a column may be used for: "image", "class", "text" or "other"."""
    import pyarrow as pa

    if isinstance(feature, dict) and feature.get("_type") == "Image":
        return "image"
    if _is_binary(type) or (pa.types.is_struct(type) and type.get_field_index("bytes") >= 0):
        return "image"
    if class_names(feature):
        return "class"
    return "text" if _is_text(type) else "other"


def _is_binary(type: Any) -> bool:
    import pyarrow as pa

    if type is None:
        return False
    return pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_fixed_size_binary(type)


def _named(path: str) -> Any:
    """A file as pyarrow takes it: names in UTF-8 alone, else what Python has opened."""
    return nullcontext(path) if escaped(path) == path else open(path, "rb")


def _damaged(path: str, error: Exception) -> DataError:
    """What to raise where a file cannot be read."""
    with suppress(OSError), open(path, "rb") as found:
        if found.read(len(LFS_POINTER)) == LFS_POINTER:
            return DataError(f"{shown(path)}: {UNFETCHED}")
    return DataError(f"{shown(path)}: not a parquet file, or damaged ({one_line(error)})")


def _holds_paths(path: str, type: Any) -> bool:
    """Whether a column of pictures has their paths, and not their bytes.

    Raises:
        DataError: It has neither.
    """
    import pyarrow as pa

    type = type.value_type if pa.types.is_dictionary(type) else type
    if type in (pa.binary_view(), pa.string_view()):
        return type == pa.string_view()
    if pa.types.is_struct(type):
        kinds = {field.name: field.type for field in type}
        if "bytes" not in kinds and _is_text(kinds.get("path")):
            return True
        if not _is_binary(kinds.get("bytes")):
            raise DataError(f"{shown(path)}: expected a struct of bytes and path in the column of pictures, got {type}")
        return False
    if _is_binary(type):
        return False
    if _is_text(type):
        return True
    raise DataError(f"{shown(path)}: a column of {type} holds no pictures; expected encoded bytes or paths")


def _store(path: str, column: Any) -> Store:
    """The pictures of a column that `_holds_paths` knows, in memory."""
    import pyarrow as pa

    folder, name = os.path.split(path)
    numbers = np.arange(len(column))
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type in (pa.binary_view(), pa.string_view()):
        column = column.cast(pa.large_binary() if column.type == pa.binary_view() else pa.large_string())
    if pa.types.is_struct(column.type):
        kinds = {field.name: field.type for field in column.type}
        # Flattened, a row that is null as a whole has null bytes.
        fields = [dict(zip(kinds, chunk.flatten(), strict=True)) for chunk in column.chunks]
        if "bytes" not in kinds and _is_text(kinds.get("path")):
            return Files(folder, _blobs([chunk["path"] for chunk in fields]))
        blobs = _blobs([chunk["bytes"] for chunk in fields])
        # Names beside bytes are only where the bytes came from, often on another machine.
        has_paths = _is_text(kinds.get("path")) and any(chunk["bytes"].null_count for chunk in fields)
        paths = Files(folder, _blobs([chunk["path"] for chunk in fields])) if has_paths else None
        return Encoded(name, blobs, numbers, paths)
    if _is_binary(column.type):
        return Encoded(name, _blobs(column.chunks), numbers)
    return Files(folder, _blobs(column.chunks))


def _is_text(type: Any) -> bool:
    import pyarrow as pa

    return type is not None and (pa.types.is_string(type) or pa.types.is_large_string(type))


def _blobs(chunks: Any) -> Blobs:
    """Arrow's buffers without a copy; a null is an empty string."""
    return Blobs([_buffers(chunk) for chunk in chunks if len(chunk)])


def _buffers(chunk: Any) -> tuple[Array, Array]:
    import pyarrow as pa

    if chunk.null_count:
        # Arrow says nothing about what lies behind a null.
        chunk = chunk.fill_null(b"" if _is_binary(chunk.type) else "")
    large = pa.types.is_large_binary(chunk.type) or pa.types.is_large_string(chunk.type)
    if pa.types.is_fixed_size_binary(chunk.type):
        chunk, large = chunk.cast(pa.large_binary()), True
    _, offsets, data = chunk.buffers()
    places = np.frombuffer(offsets, np.int64 if large else np.int32)
    places = places[chunk.offset : chunk.offset + len(chunk) + 1]
    content = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    # Batches may share one buffer, which each of them would take along to another process.
    return content[places[0] : places[-1]], places - places[0]

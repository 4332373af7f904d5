"""Parquet files as datasets writes them: encoded bytes or paths of pictures, and labels with or without names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np

from ..errors import LFS_POINTER, UNFETCHED, escaped, one_line, shown
from .columns import ColumnChoice, choose_columns
from .folders import Rows
from .pictures import Blobs, Encoded, Files, Store
from .targets import Array, DataError, LabelColumn

# Where datasets keeps the types of the columns that Arrow does not know.
FEATURES_KEY = b"huggingface"
ROWS_A_BATCH = 1024


def read_parquet(path: str, choice: ColumnChoice) -> Rows:
    """The pictures of one parquet file. Encoded bytes are held in memory.

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
        # pyarrow takes names in UTF-8 alone, and reads what Python has opened.
        with nullcontext(path) if escaped(path) == path else open(path, "rb") as content:
            file = pq.ParquetFile(content)
            schema = file.schema_arrow
            features = features_of(schema.metadata)
            kinds = {field.name: kind_of_column(field.type, features.get(field.name)) for field in schema}
            columns = choose_columns(path, kinds, choice)
            # Arrow cannot read more than 2 GB of the bytes in structs at once.
            batches = file.iter_batches(ROWS_A_BATCH, columns=[columns.image, *columns.labels])
            table = pa.Table.from_batches(list(batches)) if file.metadata.num_rows else schema.empty_table()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        with suppress(OSError), open(path, "rb") as found:
            if found.read(len(LFS_POINTER)) == LFS_POINTER:
                raise DataError(f"{shown(path)}: {UNFETCHED}") from error
        raise DataError(f"{shown(path)}: not a parquet file, or damaged ({one_line(error)})") from error
    if not table.num_rows:
        raise DataError(f"{shown(path)}: no rows in it; expected one for each picture")
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
    rows = [None if None in row else list(row) for row in zip(*lists, strict=True)]
    column = LabelColumn(", ".join(columns.labels), rows, where, parts=columns.labels)
    return Rows(store, column, columns.origin(path), table=path)


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


def _store(path: str, column: Any) -> Store:
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
        if not _is_binary(kinds.get("bytes")):
            raise DataError(
                f"{shown(path)}: expected a struct of bytes and path in the column of pictures, got {column.type}"
            )
        blobs = _blobs([chunk["bytes"] for chunk in fields])
        # Names beside bytes are only where the bytes came from, often on another machine.
        has_paths = _is_text(kinds.get("path")) and any(chunk["bytes"].null_count for chunk in fields)
        paths = Files(folder, _blobs([chunk["path"] for chunk in fields])) if has_paths else None
        return Encoded(name, blobs, numbers, paths)
    if _is_binary(column.type):
        return Encoded(name, _blobs(column.chunks), numbers)
    if _is_text(column.type):
        return Files(folder, _blobs(column.chunks))
    raise DataError(f"{shown(path)}: a column of {column.type} holds no pictures; expected encoded bytes or paths")


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

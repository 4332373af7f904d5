"""Labeled pictures on disk for tests: PNGs known again by their level, in folders, tables and parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_hybrid.data import (
    DataError,
    LabeledPictures,
)


def encoded(level: int, size: tuple[int, int] = (4, 3), **options: Any) -> bytes:
    """A PNG of one gray level, by which it is known again."""
    file = io.BytesIO()
    Image.new("L", size, level).save(file, "PNG", **options)
    return file.getvalue()


def level_of(picture: Image.Image) -> int:
    return int(np.asarray(picture)[0, 0])


def levels_of(pictures: LabeledPictures) -> list[int]:
    return [level_of(pictures.picture(index)) for index in range(len(pictures))]


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def class_folders(folder: Path, **counts: int) -> Path:
    """A folder with class folders of so many pictures, whose levels count up through all of them."""
    level = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            put(folder / name / f"{index}.png", encoded(level))
            level += 1
    return folder


def pictures_beside(folder: Path, count: int) -> list[str]:
    for level in range(count):
        put(folder / "pictures" / f"{level}.png", encoded(level))
    return [f"pictures/{level}.png" for level in range(count)]


def csv_file(path: Path, labels: Sequence[object], header: str = "path,label", join: str = ",") -> Path:
    paths = pictures_beside(path.parent, len(labels))
    rows = [f"{name}{join}{label}" for name, label in zip(paths, labels, strict=True)]
    return put(path, "\n".join([header, *rows]) + "\n")


def json_lines(path: Path, labels: Sequence[object], image: str = "file_name") -> Path:
    paths = pictures_beside(path.parent, len(labels))
    rows = [json.dumps({image: name, "label": label}) for name, label in zip(paths, labels, strict=True)]
    return put(path, "\n".join(rows))


def parquet(
    path: Path,
    columns: Mapping[str, Any],
    features: Mapping[str, Any] | None = None,
    row_group_size: int | None = None,
) -> Path:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def structs(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": encoded(first + level), "path": f"{level}.png"} for level in range(count)]


NAMED = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}}


def refused(read: Callable[..., object], *args: Any, **options: Any) -> str:
    """The message of the `DataError` that a call raises, which is one line."""
    with pytest.raises(DataError) as caught:
        read(*args, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message

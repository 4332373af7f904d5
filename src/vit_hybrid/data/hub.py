"""Data sets of Hugging Face's datasets library: folders that it saved, and ids on its hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .columns import ColumnChoice, choose_columns
from .folders import Rows
from .parquet import class_names
from .pictures import Store
from .targets import Array, DataError, LabelColumn

# The files by which a folder written by `save_to_disk` is known.
DICT_FILE = "dataset_dict.json"
DATASET_FILES = ("state.json", "dataset_info.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_saved_dataset(folder: str) -> bool:
    """Whether `datasets` wrote this folder."""
    if os.path.isfile(os.path.join(folder, DICT_FILE)):
        return True
    return all(os.path.isfile(os.path.join(folder, name)) for name in DATASET_FILES)


def is_hub_id(location: str) -> bool:
    """Whether a name that is no path here can be owner/name on the hub."""
    return bool(_HUB_ID.fullmatch(location)) and not os.path.isdir(os.path.dirname(location))


def load_saved(folder: str) -> Mapping[str | None, Any]:
    """The data sets in a folder by the name of their split, None for a single one without.

    Raises:
        DataError: datasets is missing, or the folder is damaged.
    """
    datasets = _library(f"{folder}: was saved by datasets, which is needed to read it")
    try:
        loaded = datasets.load_from_disk(folder)
    except Exception as error:  # whatever the library meets in files of its own
        raise DataError(f"{folder}: not a folder that datasets can load ({_first_line(error)})") from error
    return dict(loaded) if isinstance(loaded, dict) else {None: loaded}


def load_from_hub(name: str) -> Mapping[str | None, Any]:
    """The splits of a data set on the hub.

    Raises:
        DataError: datasets is missing, or there is no such data set.
    """
    datasets = _library(f"{name}: no such file or folder; to look for it on the hub, datasets is needed")
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # no network, no such data set, a file of it that cannot be read
        raise DataError(
            f"{name}: no such file or folder, and datasets cannot load it from the hub ({_first_line(error)})"
        ) from error
    return dict(loaded)


def _library(problem: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{problem}: pip install 'vit-hybrid[datasets]'") from error
    return datasets


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclass(frozen=True)
class DatasetRows:
    """The rows of a `datasets.Dataset` whose picture column is not decoded."""

    dataset: Any
    column: str
    title: str
    numbers: Any

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, row: int) -> str:
        return f"{self.title}[{self.numbers[row]}]"

    def source(self, row: int) -> str | bytes:
        value = self.dataset[int(self.numbers[row])][self.column]
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        return value or b""

    def take(self, rows: Array) -> Store:
        # The data stays in files that each process maps for itself: only the row numbers travel.
        return DatasetRows(self.dataset, self.column, self.title, self.numbers[rows])


def read_dataset(dataset: Any, title: str, choice: ColumnChoice) -> Rows:
    """The pictures of a `datasets.Dataset`; `title` is what its rows are called after.

    Raises:
        DataError: its columns are not found, or it is empty.
    """
    import datasets
    import numpy as np

    features = dataset.features.to_dict()
    kinds = {name: _kind(feature) for name, feature in features.items()}
    columns = choose_columns(title, kinds, choice)
    if not len(dataset):
        raise DataError(f"{title}: no rows in it; expected one for each picture")
    pictures = dataset.select_columns([columns.image]).with_format(None)
    if kinds[columns.image] == "image" and isinstance(dataset.features[columns.image], datasets.Image):
        pictures = pictures.cast_column(columns.image, datasets.Image(decode=False))
    store = DatasetRows(pictures, columns.image, title, np.arange(len(dataset)))
    labels = dataset.select_columns(list(columns.labels)).with_format(None)
    lists = [list(labels[name]) for name in columns.labels]

    def where(row: int) -> str:
        return f"{title}[{row}]"

    if len(lists) == 1:
        label = columns.labels[0]
        return Rows(store, LabelColumn(label, lists[0], where, class_names(features[label])), columns.origin(title))
    rows = [list(row) for row in zip(*lists, strict=True)]
    column = LabelColumn(", ".join(columns.labels), rows, where, parts=columns.labels)
    return Rows(store, column, columns.origin(title))


def _kind(feature: Any) -> str:
    if class_names(feature):
        return "class"
    if not isinstance(feature, dict):
        return "other"
    if feature.get("_type") == "Image" or feature.get("dtype") in ("binary", "large_binary"):
        return "image"
    return "text" if feature.get("dtype") in ("string", "large_string") else "other"

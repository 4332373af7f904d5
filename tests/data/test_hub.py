"""Data sets of Hugging Face's datasets library."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from labeled_files import encoded, levels_of, put, refused, structs

from vit_hybrid.data import (
    read_labeled,
    read_splits,
)


def dataset_of(labels: Sequence[int]) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])})
    return datasets.Dataset.from_dict({"image": structs(len(labels)), "label": list(labels)}, features)


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    dataset_of([2, 0, 1]).save_to_disk(tmp_path / "one")
    pictures = read_labeled(tmp_path / "one")
    assert (pictures.labels, pictures.targets.tolist()) == (("cat", "dog", "eel"), [2, 0, 1])
    assert levels_of(pictures) == [0, 1, 2]
    assert pictures.name(2) == "one[2]"
    assert read_labeled(f"{tmp_path}/one/").name(2) == "one[2]"
    chosen = pickle.loads(pickle.dumps(pictures.select([2, 0])))
    assert levels_of(chosen) == [2, 0]
    assert chosen.name(0) == "one[2]"
    again = pickle.loads(pickle.dumps(chosen.select([1])))  # of those that were chosen
    assert (levels_of(again), again.name(0), again.targets.tolist()) == ([0], "one[0]", [2])

    datasets = pytest.importorskip("datasets")
    both = datasets.DatasetDict({"train": dataset_of([0, 1, 2]), "validation": dataset_of([1, 0])})
    both.save_to_disk(tmp_path / "two")
    split = read_splits(tmp_path / "two")
    assert (split.train.targets.tolist(), split.val.targets.tolist()) == ([0, 1, 2], [1, 0])
    assert split.val.name(1) == "two/validation[1]"
    assert split.notes == ("no validation pictures of eel",)

    for path in (tmp_path / "one").glob("*.arrow"):
        path.write_bytes(b"")
    assert "not a folder that datasets can load" in refused(read_labeled, tmp_path / "one")


def test_several_columns_of_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows: dict[str, Any] = {"image": structs(2), "x": [0, 1], "y": [1, 1], "z": ["b", None]}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(tmp_path / "one")
    several = read_labeled(tmp_path / "one", label_column="x,y")
    assert (several.labels, several.targets.tolist()) == (("x", "y"), [[0, 1], [1, 1]])
    assert several.origin == "columns 'x', 'y' of one"
    assert read_labeled(tmp_path / "one", label_column="x").origin == "column 'x' of one"
    assert "one[1] has no label in column 'z'" in refused(read_labeled, tmp_path / "one", label_column="z")


def test_a_data_set_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        if name == "someone/none":
            raise FileNotFoundError("Dataset 'someone/none' doesn't exist\non the Hub")
        return datasets.DatasetDict(
            {"Train": dataset_of([0, 1, 2] * 4), "test": dataset_of([0, 1]), "odd": dataset_of([2])}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    split = read_splits("someone/pets", val_fraction=0.25)
    assert (split.train.class_counts().tolist(), split.val.class_counts().tolist()) == ([3, 3, 3], [1, 1, 1])
    assert read_labeled("someone/pets", "odd").targets.tolist() == [2]
    message = refused(read_labeled, "someone/none")
    assert message.startswith("someone/none: no such file or folder, and datasets cannot load it from the hub")
    assert set(asked) == {"someone/pets", "someone/none"}


def test_pictures_of_which_a_data_set_has_the_paths_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [str(put(tmp_path / f"{level}.png", encoded(level))) for level in (7, 3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {"image": [{"bytes": None, "path": path} for path in paths], "label": ["b", "a"]}
    found = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: found)
    read = read_labeled("someone/pets")
    assert (levels_of(read), read.targets.tolist()) == ([7, 3], [1, 0])


def test_without_datasets_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "dataset_dict.json", "{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for place in (tmp_path, "someone/pets"):
        assert "pip install 'vit-hybrid[datasets]'" in refused(read_labeled, place)

"""Data sets of Hugging Face's datasets library."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from labeled_files import class_folders, encoded, levels_of, put, refused, structs

from vit_hybrid.data import (
    find_unreadable,
    read_labeled,
    read_splits,
)
from vit_hybrid.data.columns import ColumnChoice
from vit_hybrid.data.hub import read_dataset


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
    again = pickle.loads(pickle.dumps(chosen.select([0])))
    assert (levels_of(again), again.name(0), again.targets.tolist()) == ([2], "one[2]", [1])

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


@pytest.mark.parametrize("kind", ["numpy", "pandas"])
def test_a_data_set_that_was_saved_with_a_format_of_its_own(kind: str, tmp_path: Path) -> None:
    dataset_of([2, 0, 1]).with_format(kind).save_to_disk(tmp_path / "one")
    read = read_labeled(tmp_path / "one")
    assert (read.targets.tolist(), levels_of(read)) == ([2, 0, 1], [0, 1, 2])


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
    assert message.endswith("(Dataset 'someone/none' doesn't exist)")
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
    for place, why in (
        (tmp_path, "was saved by datasets, which is needed to read it"),
        ("someone/pets", "no such file or folder; to look for it on the hub, datasets is needed"),
    ):
        assert refused(read_labeled, place) == f"{place}: {why}: pip install 'vit-hybrid[datasets]'"


def test_rows_of_bytes_rows_without_a_picture_and_none_at_all(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"scan": [encoded(3), None, encoded(5)], "label": ["b", "a", "b"], "note": [""] * 3}
    for kind in ("binary", "large_binary"):
        names = {"note": datasets.Value("string"), "scan": datasets.Value(kind), "label": datasets.Value("string")}
        datasets.Dataset.from_dict(rows, datasets.Features(names)).save_to_disk(tmp_path / kind)
        read = read_labeled(tmp_path / kind)
        assert (levels_of(read.select([0, 2])), read.targets.tolist()) == ([3, 5], [1, 0, 1])
        assert find_unreadable(read) == [(1, f"{kind}[1]: is empty")]
    assert refused(read_dataset, dataset_of([]), "none", ColumnChoice()) == (
        "none: no rows in it; expected one for each picture"
    )


def test_a_file_that_datasets_writes_too_makes_no_saved_data_set(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=1, dog=1)
    for name in ("dataset_info.json", "state.json"):
        put(tmp_path / name, "{}")
        assert read_labeled(tmp_path).labels == ("cat", "dog")
        (tmp_path / name).unlink()


def test_an_error_of_the_library_is_told_by_its_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    put(tmp_path / "dataset_dict.json", "{}")
    for error, why in ((RuntimeError("\n first\nsecond"), "first"), (RuntimeError(), "RuntimeError")):

        def fail(folder: str, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(datasets, "load_from_disk", fail)
        assert refused(read_labeled, tmp_path) == f"{tmp_path}: not a folder that datasets can load ({why})"


def test_splits_that_are_called_by_two_names_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {"train": dataset_of([0, 1]), "dev": dataset_of([1]), "validation": dataset_of([2, 0])}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(splits))
    val = read_labeled("someone/pets", "val")
    assert [val.name(index) for index in range(3)] == ["pets/dev[0]", "pets/validation[0]", "pets/validation[1]"]
    assert val.targets.tolist() == [1, 2, 0]

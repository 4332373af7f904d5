"""What is at a location: tables and folders, and which of them are training and validation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from labeled_files import class_folders, csv_file, json_lines, levels_of, put, refused

from vit_hybrid.data import (
    read_labeled,
    read_splits,
)


def test_a_folder_of_tables_with_splits_in_their_names(tmp_path: Path) -> None:
    csv_file(tmp_path / "train.csv", ["cat", "dog", "dog"])
    csv_file(tmp_path / "labels_valid.csv", ["dog"])
    csv_file(tmp_path / "test.csv", ["cat", "cat"])
    split = read_splits(tmp_path)
    assert split.train.targets.tolist() == [0, 1, 1]
    assert split.val.targets.tolist() == [1]
    assert split.notes == ("no validation pictures of cat",)
    assert len(read_labeled(tmp_path, "test")) == 2
    assert len(read_labeled(tmp_path / "train.csv", "train")) == 3
    assert "no split 'val'; there are train" in refused(read_labeled, tmp_path / "train.csv", "val")


def test_one_table_beside_a_folder_of_pictures(tmp_path: Path) -> None:
    csv_file(tmp_path / "annotations.csv", ["cat", "dog"])
    put(tmp_path / "license.json", "{}")
    assert read_labeled(tmp_path).labels == ("cat", "dog")
    assert "it has no splits" in refused(read_labeled, tmp_path, "val")


def test_a_table_of_something_else_beside_class_folders(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=1, dog=1)
    put(tmp_path / "sizes.csv", "width,height\n3,4\n")
    put(tmp_path / "metadata.csv", "author,year\nme,2020\n")
    assert read_labeled(tmp_path).labels == ("cat", "dog")


def test_tables_that_could_all_be_meant(tmp_path: Path) -> None:
    csv_file(tmp_path / "a.csv", [1, 2])
    csv_file(tmp_path / "b.csv", [1, 2])
    (tmp_path / "alone").mkdir()
    for name in ("a.csv", "b.csv"):
        os.rename(tmp_path / name, tmp_path / "alone" / name)
    assert "several tables and no class folders (a.csv, b.csv)" in refused(read_labeled, tmp_path / "alone")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_the_image_folder_convention_with_metadata(tmp_path: Path, name: str) -> None:
    for split, labels in (("train", ["cat", "dog", "cat"]), ("validation", ["dog"])):
        if name.endswith("csv"):
            csv_file(tmp_path / split / name, labels, "file_name,label")
        else:
            json_lines(tmp_path / split / name, labels)
    read = read_splits(tmp_path)
    assert read.train.targets.tolist() == [0, 1, 0]
    assert read.val.targets.tolist() == [1]
    assert levels_of(read_labeled(tmp_path / "train")) == [0, 1, 2]

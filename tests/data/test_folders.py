"""Class folders: the name of each folder is the label of all pictures in it."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from labeled_files import class_folders, csv_file, encoded, level_of, levels_of, put, refused
from locked_folders import lock_folder

from vit_hybrid.data import (
    SINGLE_LABEL,
    listing,
    read_labeled,
    read_splits,
)


def test_class_folders_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    class_folders(tmp_path, dog=2, cat=3)
    pictures = read_labeled(tmp_path)
    assert pictures.problem_type == SINGLE_LABEL
    assert pictures.labels == ("cat", "dog")
    assert pictures.targets.dtype == np.int64
    assert pictures.targets.tolist() == [0, 0, 0, 1, 1]
    assert levels_of(pictures) == [2, 3, 4, 0, 1]
    assert pictures.name(3) == str(tmp_path / "dog" / "0.png")
    assert pictures.class_counts().tolist() == [3, 2]
    assert not pictures.notes


def test_a_class_folder_is_searched_through_all_levels(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=1, dog=1)
    put(tmp_path / "cat" / "young" / "very" / "a.JPEG", b"")
    for hidden in (".b.png", ".trash/c.png", "notes.txt"):
        put(tmp_path / "cat" / hidden, b"")
    put(tmp_path / ".cache" / "d.png", b"")
    pictures = read_labeled(tmp_path)
    assert pictures.labels == ("cat", "dog")
    names = [os.path.relpath(pictures.name(index), tmp_path) for index in range(3)]
    assert names == ["cat/0.png", "cat/young/very/a.JPEG", "dog/0.png"]


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    class_folders(tmp_path / "all", cat=1, dog=2, eel=1)
    (tmp_path / "some").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "some" / name).symlink_to(tmp_path / "all" / name)
    assert read_labeled(tmp_path / "some").class_counts().tolist() == [1, 2]


def test_a_class_folder_of_links_to_folders_alone_is_refused_with_why(tmp_path: Path) -> None:
    class_folders(tmp_path / "all", cat=1)
    class_folders(tmp_path / "some", dog=2, eel=0)
    (tmp_path / "some" / "eel" / "more").symlink_to(tmp_path / "all" / "cat")
    assert refused(read_labeled, tmp_path / "some") == (
        f"{tmp_path}/some: no pictures in the class folder eel (looked for names like *.jpg; links to folders are not "
        "followed there); add some, remove it, or name the folder with the class folders"
    )


def test_a_link_in_one_of_several_empty_class_folders_is_told_of(tmp_path: Path) -> None:
    class_folders(tmp_path / "all", cat=1)
    class_folders(tmp_path / "some", dog=2, eel=0, fox=0)
    (tmp_path / "some" / "eel" / "more").symlink_to(tmp_path / "all" / "cat")
    message = refused(read_labeled, tmp_path / "some")
    assert "class folders eel, fox (looked for names like *.jpg; links to folders are not followed there)" in message


def test_links_in_another_class_are_not_why_one_is_empty(tmp_path: Path) -> None:
    class_folders(tmp_path / "all", cat=1)
    class_folders(tmp_path / "some", dog=2, eel=0)
    (tmp_path / "some" / "dog" / "more").symlink_to(tmp_path / "all" / "cat")
    assert "in the class folder eel (looked for names like *.jpg); add some" in refused(read_labeled, tmp_path / "some")


def test_pictures_that_nothing_here_reads_are_why_a_class_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vit_hybrid.data.listing._reads_heic", lambda: False)
    class_folders(tmp_path, cat=1, dog=0)
    for name in ("1.heic", "2.HEIC"):
        put(tmp_path / "dog" / name, b"")
    assert "dog (looked for names like *.jpg; 2 are HEIC, which pip install 'vit-hybrid[heif]' reads); add some" in (
        refused(read_labeled, tmp_path)
    )


def test_the_place_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path / "data", cat=1, dog=1)
    monkeypatch.chdir(tmp_path / "data")
    assert [level_of(read_labeled(place).picture(1)) for place in (".", "./", "../data/")] == [1, 1, 1]
    csv_file(tmp_path / "table" / "labels.csv", ["a", "b"])
    monkeypatch.chdir(tmp_path / "table")
    assert levels_of(read_labeled("labels.csv")) == [0, 1]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "Val"])
def test_train_and_val_folders(tmp_path: Path, val: str) -> None:
    class_folders(tmp_path / "train", cat=2, dog=3)
    class_folders(tmp_path / val, cat=1, dog=1)
    class_folders(tmp_path / "test", cat=4, dog=4)
    split = read_splits(tmp_path)
    assert (len(split.train), len(split.val), split.notes) == (5, 2, ())
    assert split.train.name(0) == str(tmp_path / "train" / "cat" / "0.png")
    for name in ("val", "valid", "validation", "dev"):
        assert read_labeled(tmp_path, name).name(0) == str(tmp_path / val / "cat" / "0.png")
    assert len(read_labeled(tmp_path, "TRAINING")) == 5
    assert len(read_labeled(tmp_path, "test")) == 8
    assert len(read_labeled(tmp_path)) == 15
    assert len(read_labeled(tmp_path / "train")) == 5
    assert refused(read_labeled, tmp_path, "extra") == f"{tmp_path}: no split 'extra'; there are test, train, val"


def test_the_test_split_is_never_used_for_validation(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", cat=10, dog=10)
    class_folders(tmp_path / "test", cat=5, dog=5)
    split = read_splits(tmp_path)
    assert (len(split.train), len(split.val)) == (18, 2)
    assert not any("test" in os.path.relpath(split.val.name(index), tmp_path) for index in range(2))
    class_folders(tmp_path / "only" / "test", cat=5, dog=5)
    assert refused(read_splits, tmp_path / "only") == f"{tmp_path}/only: no training split; there are test"


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    class_folders(tmp_path, bus=2, train=2)
    assert read_labeled(tmp_path).labels == ("bus", "train")


def test_classes_of_validation_get_the_indices_of_training(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", cat=2, dog=2, eel=2)
    class_folders(tmp_path / "val", eel=1, cat=1, dog=0)
    split = read_splits(tmp_path)
    assert split.val.labels == split.train.labels == ("cat", "dog", "eel")
    assert split.val.targets.tolist() == [0, 2]
    assert split.notes == (f"{tmp_path}/val: no pictures in the class folder dog", "no validation pictures of dog")


def test_pictures_beside_class_folders_are_noted(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    put(tmp_path / "stray.png", encoded(1))
    split = read_splits(tmp_path)
    assert len(split.train) + len(split.val) == 4
    assert split.notes == (  # said once, though both parts have it
        f"{tmp_path}: pictures beside the class folders belong to no class and are passed over: 1",
    )
    assert split.passed.counts() == {listing.BESIDE: 1}


def test_a_hundred_thousand_files_are_listed_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class File(NamedTuple):
        name: str
        path: str = ""

        def is_dir(self) -> bool:
            return False

        def is_file(self) -> bool:
            return True

    files = [File(f"{index}.jpg") for index in range(10_000)]
    scandir = os.scandir

    def fake(folder: str) -> Any:
        return scandir(folder) if folder == str(tmp_path) else nullcontext(files)

    for index in range(10):
        (tmp_path / str(index)).mkdir()
    monkeypatch.setattr(os, "scandir", fake)
    start = time.process_time()  # which others on the machine hardly change
    pictures = read_labeled(tmp_path)
    assert len(pictures) == 100_000
    assert len(pickle.dumps(pictures)) < 4e6
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda folder: folder.mkdir(),
            "no class folders and no table of labels in it; expected a folder for each class",
        ),
        (lambda folder: class_folders(folder, cat=0, dog=0), "no pictures in its class folders cat, dog"),
        (lambda folder: class_folders(folder, cat=1, dog=0, eel=0), "no pictures in the class folders dog, eel"),
        (
            lambda folder: class_folders(folder, **dict.fromkeys("abcdef", 0)),
            "no pictures in its class folders a, b, c, d, e and 1 more (",
        ),
        (
            lambda folder: put(folder / "a.png", encoded(0)),
            "no class folders and no table of labels in it, though 1 pictures; expected a folder for each class, such",
        ),
        (lambda folder: class_folders(folder, cat=3), "one class only (cat)"),
        (
            lambda folder: class_folders(folder, cat=1, dog=1),
            "no class has two pictures, so that none can be split off for validation; add pictures, or name other ones "
            "with val",
        ),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path: Path, make: Callable[[Path], object], expected: str) -> None:
    make(tmp_path / "data")
    message = refused(read_splits, tmp_path / "data")
    assert message.startswith(f"{tmp_path / 'data'}: {expected}")


def test_one_class_can_be_evaluated(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, dog=2)).with_labels(["cat", "dog"])
    assert pictures.targets.tolist() == [1, 1]


def test_a_class_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, cat=1, dog=1)
    put(tmp_path / "dog" / "locked" / "a.png", b"")
    lock_folder("locked", monkeypatch)
    assert refused(read_labeled, tmp_path) == f"{tmp_path}/dog/locked: cannot read the folder: Permission denied"
    assert refused(read_labeled, tmp_path / "dog" / "locked") == (
        f"{tmp_path}/dog/locked: cannot read the folder: Permission denied"
    )


def test_columns_of_class_folders_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=1, dog=1)
    for named in ({"label_column": "label"}, {"image_column": "path"}):
        assert "has class folders, no columns; image_column and label_column are for tables" in (
            refused(read_labeled, tmp_path, **named)
        )


@pytest.mark.parametrize("name", ["none", "none/at all", "none.csv", "data/none.parquet", "none/none.CSV"])
def test_a_place_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    for read in (read_labeled, read_splits):
        assert refused(read, name).startswith(f"{name}: no such file or folder; expected one, or owner/name of a data")
    beside_a_folder = refused(read_labeled, "data/none")  # which is no hub id
    assert beside_a_folder.startswith("data/none: no such file or folder; expected one, or owner/name of a data set")
    class_folders(tmp_path / "some", cat=2, dog=2)
    assert f"{name}: no such file or folder" in refused(read_splits, "some", val=name)


def test_an_empty_name() -> None:
    assert "the name of the location is empty" in refused(read_labeled, "")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    assert (
        refused(read_labeled, tmp_path / "a.csv") == f"{tmp_path}/a.csv: is a pipe, socket or device; expected a file"
    )
    path = put(tmp_path / "labels.xlsx", b"PK")
    assert "expected a folder, or a file of .parquet" in refused(read_labeled, path)


def test_pictures_are_in_the_order_of_the_parts_of_their_paths(tmp_path: Path) -> None:
    names = ["a/f.png", "a-b/e.png", "a.png", "b/0.png"]
    for level, name in enumerate(names):
        put(tmp_path / "cat" / name, encoded(level))
    assert levels_of(read_labeled(tmp_path)) == [0, 1, 2, 3]

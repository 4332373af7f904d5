"""Labeled pictures from every kind of place, the split into training and validation, and what is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from vit_hybrid.data import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    DataError,
    LabeledPictures,
    find_unreadable,
    read_labeled,
    read_splits,
)
from vit_hybrid.images.reading import ImageReadError

Write = Callable[..., Path]


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


# --- Class folders ----------------------------------------------------------------------------------------------------


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
    assert len(read_labeled(tmp_path, "test")) == 8
    assert len(read_labeled(tmp_path)) == 15
    assert len(read_labeled(tmp_path / "train")) == 5
    assert "no split 'extra'; there are test, train, val" in refused(read_labeled, tmp_path, "extra")


def test_the_test_split_is_never_used_for_validation(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", cat=10, dog=10)
    class_folders(tmp_path / "test", cat=5, dog=5)
    split = read_splits(tmp_path)
    assert (len(split.train), len(split.val)) == (18, 2)
    assert not any("test" in os.path.relpath(split.val.name(index), tmp_path) for index in range(2))
    class_folders(tmp_path / "only" / "test", cat=5, dog=5)
    assert "no training split; there are test" in refused(read_splits, tmp_path / "only")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    class_folders(tmp_path, bus=2, train=2)
    assert read_labeled(tmp_path).labels == ("bus", "train")


def test_classes_of_validation_get_the_indices_of_training(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", cat=2, dog=2, eel=2)
    class_folders(tmp_path / "val", eel=1, cat=1, dog=0)
    split = read_splits(tmp_path)
    assert split.val.labels == split.train.labels == ("cat", "dog", "eel")
    assert split.val.targets.tolist() == [0, 2]
    assert any("no validation pictures of dog" in note for note in split.notes)
    assert any("no pictures in the class folder dog" in note for note in split.notes)


def test_pictures_beside_class_folders_are_noted(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    put(tmp_path / "stray.png", encoded(1))
    split = read_splits(tmp_path)
    assert len(split.train) + len(split.val) == 4
    assert [note for note in split.notes if note.endswith("passed over: 1")]


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
        (lambda folder: folder.mkdir(), "no class folders"),
        (lambda folder: class_folders(folder, cat=0, dog=0), "no pictures in its class folders cat, dog"),
        (lambda folder: class_folders(folder, cat=1, dog=0, eel=0), "no pictures in the class folders dog, eel"),
        (lambda folder: put(folder / "a.png", encoded(0)), "no class folders"),
        (lambda folder: class_folders(folder, cat=3), "one class only (cat)"),
        (lambda folder: class_folders(folder, cat=1, dog=1), "no class has two pictures"),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path: Path, make: Callable[[Path], object], expected: str) -> None:
    make(tmp_path / "data")
    message = refused(read_splits, tmp_path / "data")
    assert expected in message
    assert str(tmp_path / "data") in message


def test_one_class_can_be_evaluated(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, dog=2)).with_labels(["cat", "dog"])
    assert pictures.targets.tolist() == [1, 1]


def test_a_class_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, cat=1, dog=1)
    put(tmp_path / "dog" / "locked" / "a.png", b"")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert f"{tmp_path / 'dog' / 'locked'}: cannot read the folder" in refused(read_labeled, tmp_path)


def test_columns_of_class_folders_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=1, dog=1)
    assert "has class folders, no columns" in refused(read_labeled, tmp_path, label_column="label")


@pytest.mark.parametrize("name", ["none", "none/at all", "none.csv", "data/none.parquet"])
def test_a_place_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    for read in (read_labeled, read_splits):
        assert f"{name}: no such file or folder" in refused(read, name)
    assert "data/none: no such file or folder" in refused(read_labeled, "data/none")  # beside a folder: no hub id
    class_folders(tmp_path / "some", cat=2, dog=2)
    assert f"{name}: no such file or folder" in refused(read_splits, "some", val=name)


def test_an_empty_name() -> None:
    assert "the name of the location is empty" in refused(read_labeled, "")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = put(tmp_path / "labels.xlsx", b"PK")
    assert "expected a folder, or a file of .parquet" in refused(read_labeled, path)


# --- CSV, TSV and JSON Lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "image_column"),
    [
        *[(f"{name},label", None) for name in ("image", "path", "file", "file_name", "filename", "Image")],
        *[(f"path,{name}", None) for name in ("label", "class", "target", "labels", "value", "Class ")],
        ("id_of_it,label", "id_of_it"),
    ],
)
def test_columns_are_guessed_by_name(tmp_path: Path, header: str, image_column: str | None) -> None:
    path = csv_file(tmp_path / "labels.csv", ["dog", "cat", "dog"], header)
    pictures = read_labeled(path, image_column=image_column)
    assert (pictures.problem_type, pictures.labels) == (SINGLE_LABEL, ("cat", "dog"))
    assert pictures.targets.tolist() == [1, 0, 1]
    assert levels_of(pictures) == [0, 1, 2]
    assert pictures.name(1) == str(tmp_path / "pictures" / "1.png")


def test_named_columns_come_before_guesses(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    path = put(tmp_path / "a.csv", f"path,label,view,kind\nx.png,1,{names[0]},a\ny.png,2,{names[1]},b\n")
    pictures = read_labeled(path, image_column="view", label_column="kind")
    assert pictures.labels == ("a", "b")
    assert levels_of(pictures) == [0, 1]
    for options in ({"image_column": "none"}, {"label_column": "none"}, {"label_column": ["kind", "none"]}):
        assert "no column 'none'; its columns are path, label, view, kind" in refused(read_labeled, path, **options)


def test_columns_that_cannot_be_guessed_are_listed(tmp_path: Path) -> None:
    no_header = put(tmp_path / "a.csv", "1.png,cat\n2.png,dog\n")
    message = refused(read_labeled, no_header)
    assert "cannot tell which column holds the pictures; its columns are 1.png, cat" in message
    assert "image_column" in message
    no_labels = put(tmp_path / "b.csv", "path,width,height\n1.png,3,4\n")
    assert "the labels; its columns are width, height: name one with label_column" in refused(read_labeled, no_labels)


@pytest.mark.parametrize(
    ("name", "join", "labels", "expected"),
    [
        ("a.csv", ",", ["cat|dog", "dog", ""], [[1, 1], [0, 1], [0, 0]]),
        ("a.csv", ",", ["cat; dog", "dog;", "cat"], [[1, 1], [0, 1], [1, 0]]),
        ("a.csv", ";", ["cat|dog", "dog", "cat"], [[1, 1], [0, 1], [1, 0]]),
        ("a.tsv", "\t", ["cat|dog", "dog", "cat"], [[1, 1], [0, 1], [1, 0]]),
    ],
)
def test_several_labels_in_a_cell(tmp_path: Path, name: str, join: str, labels: list[str], expected: object) -> None:
    pictures = read_labeled(csv_file(tmp_path / name, labels, f"path{join}label", join))
    assert (pictures.problem_type, pictures.labels) == (MULTI_LABEL, ("cat", "dog"))
    assert pictures.targets.dtype == np.float32
    assert pictures.targets.tolist() == expected
    assert pictures.class_counts().tolist() == np.sum(expected, axis=0).tolist()


def test_what_the_cells_of_a_text_file_are(tmp_path: Path) -> None:
    def read(labels: Sequence[object], **options: Any) -> LabeledPictures:
        return read_labeled(csv_file(tmp_path / "a.csv", labels), **options)

    integers = read([10, 9, 10])
    assert (integers.problem_type, integers.labels) == (SINGLE_LABEL, ("9", "10"))
    assert integers.targets.tolist() == [1, 0, 1]
    assert read(["2.0", "1", "1"]).labels == ("1", "2")
    assert read(["007", "7", "07"]).labels == ("007", "07", "7")
    assert read(["1", "b", "1"]).labels == ("1", "b")

    numbers = read(["0.5", "-2", "1e1"])
    assert (numbers.problem_type, numbers.labels) == (REGRESSION, ("label",))
    assert numbers.targets.dtype == np.float32
    assert numbers.targets.tolist() == [[0.5], [-2], [10]]
    assert numbers.class_counts().tolist() == [3]
    assert read(["0.5|1", "2|3"]).targets.tolist() == [[0.5, 1], [2, 3]]
    assert read([1, 2], problem_type=REGRESSION).targets.tolist() == [[1], [2]]
    assert read(["0.5", "1.5"], problem_type=SINGLE_LABEL).labels == ("0.5", "1.5")
    assert read([1, 2], problem_type=MULTI_LABEL).targets.tolist() == [[1, 0], [0, 1]]
    assert read(["a;b", "c"], problem_type=SINGLE_LABEL).labels == ("a;b", "c")
    assert "problem_type must be one of" in refused(read, [1, 2], problem_type="ranking")


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json"])
def test_json_lines(tmp_path: Path, ending: str) -> None:
    pictures = read_labeled(json_lines(tmp_path / f"a.{ending}", ["dog", "cat"]))
    assert (pictures.problem_type, pictures.labels) == (SINGLE_LABEL, ("cat", "dog"))
    assert pictures.targets.tolist() == [1, 0]
    assert levels_of(pictures) == [0, 1]


@pytest.mark.parametrize(
    ("labels", "problem_type", "names", "targets"),
    [
        ([3, 1, 3], SINGLE_LABEL, ("1", "3"), [1, 0, 1]),
        ([True, False], SINGLE_LABEL, ("false", "true"), [1, 0]),
        ([1.0, 2], SINGLE_LABEL, ("1", "2"), [0, 1]),
        ([["b", "a"], [], ["b"]], MULTI_LABEL, ("a", "b"), [[1, 1], [0, 0], [0, 1]]),
        ([[10, 9], [9]], MULTI_LABEL, ("9", "10"), [[1, 1], [1, 0]]),
        ([[0, 1, 0], [1, 1, 0]], MULTI_LABEL, ("0", "1", "2"), [[0, 1, 0], [1, 1, 0]]),
        ([0.25, 3], REGRESSION, ("label",), [[0.25], [3]]),
        ([[0.25, 3], [1, 2]], REGRESSION, ("label_0", "label_1"), [[0.25, 3], [1, 2]]),
    ],
)
def test_what_json_values_are(
    tmp_path: Path, labels: list[Any], problem_type: str, names: tuple[str, ...], targets: list[Any]
) -> None:
    pictures = read_labeled(json_lines(tmp_path / "a.jsonl", labels))
    assert (pictures.problem_type, pictures.labels) == (problem_type, names)
    assert pictures.targets.tolist() == targets


def test_several_columns_of_labels(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    path = put(tmp_path / "a.csv", f"path,cat,dog,x\n{names[0]},1,0,0.5\n{names[1]},1,1,2\n")
    switches = read_labeled(path, label_column=["cat", "dog"])
    assert (switches.problem_type, switches.labels) == (MULTI_LABEL, ("cat", "dog"))
    assert switches.targets.tolist() == [[1, 0], [1, 1]]
    values = read_labeled(path, label_column="x, dog")
    assert (values.problem_type, values.labels) == (REGRESSION, ("x", "dog"))
    assert values.targets.tolist() == [[0.5, 0], [2, 1]]


def test_paths_may_be_absolute_and_missing_files_are_found_later(tmp_path: Path) -> None:
    put(tmp_path / "far" / "a.png", encoded(7))
    path = put(tmp_path / "in" / "a.csv", f"path,label\n{tmp_path / 'far' / 'a.png'},cat\nnone.png,dog\n")
    pictures = read_labeled(path)
    assert level_of(pictures.picture(0)) == 7
    assert find_unreadable(pictures) == [(1, f"{tmp_path / 'in' / 'none.png'}: no such file")]
    with pytest.raises(ImageReadError) as caught:
        pictures.picture(1)
    assert caught.value.name == pictures.name(1) == str(tmp_path / "in" / "none.png")


def test_a_byte_order_mark_blank_lines_and_quotes(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    path = put(tmp_path / "a.csv", f'\ufeffpath,label\r\n\r\n"{names[0]}","a, b"\r\n{names[1]},c\r\n')
    assert read_labeled(path).labels == ("a, b", "c")
    path = put(tmp_path / "a.jsonl", "\ufeff" + json.dumps({"path": names[0], "label": "x"}) + "\n\n")
    assert read_labeled(path).labels == ("x",)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "path,label\n", "no rows"),
        ("a.csv", "path,label\na.png,cat\nb.png\n", "line 3: 1 cells, expected 2"),
        ("a.csv", 'path,label\na.png,cat\nb.png,"dog\n', "damaged"),
        ("a.csv", "path,label,label\na.png,1,2\n", "more than once in the header"),
        ("a.csv", b"path,label\n\xff.png,cat\n", "not text in UTF-8"),
        ("a.csv", "path,label\na.png,cat\n,dog\n", "line 3: no path of a picture"),
        ("a.csv", "path,label\na.png,cat\nb.png,\nc.png, \n", "line 3 (rows without one: 2) has no label"),
        ("a.csv", "path,label\na.png,0.5\nb.png,nan\n", "line 3 has no label"),
        ("a.csv", "path,label\na.png,0.5\n\nb.png,cat\n", "mixes types"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"path": \n', "line 2: not JSON"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n\n["b.png", 1]\n', "line 3: list; expected one object a line"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"path": "b.png"}\n', "line 2 has no label"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"label": 1}\n', "line 2: no path of a picture"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"path": "b.png", "label": "cat"}\n', "mixes types"),
        ("a.jsonl", '{"path": "a.png", "label": [1]}\n{"path": "b.png", "label": 1}\n', "mixes types"),
        ("a.jsonl", '{"path": "a.png", "label": [1, "x"]}\n', "mixes types in its lists"),
        ("a.jsonl", '{"path": "a.png", "label": [0.5]}\n{"path": "b.png", "label": [1, 2]}\n', "lists of 1, 2 numbers"),
        ("a.jsonl", '{"path": "a.png", "label": 0.5}\n{"path": "b.png", "label": Infinity}\n', "not a finite number"),
        ("a.jsonl", '{"path": "a.png", "label": {"x": 1}}\n', "holds dict"),
    ],
)
def test_damaged_text_files(tmp_path: Path, name: str, content: str | bytes, expected: str) -> None:
    message = refused(read_labeled, put(tmp_path / name, content))
    assert expected in message
    assert str(tmp_path / name) in message or "column 'label'" in message


def test_a_word_among_the_numbers_of_a_regression(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [1, "two"])
    assert "line 3: 'two' in column 'label' is not a number" in refused(read_labeled, path, problem_type=REGRESSION)


# --- Folders of tables ------------------------------------------------------------------------------------------------


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


# --- Parquet ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_group_size", [None, 2])
def test_parquet_with_class_names(tmp_path: Path, row_group_size: int | None) -> None:
    columns = {"image": structs(5), "label": [2, 0, 0, 1, 2]}
    path = parquet(tmp_path / "train.parquet", columns, NAMED, row_group_size)
    pictures = read_labeled(path)
    assert (pictures.problem_type, pictures.labels) == (SINGLE_LABEL, ("cat", "dog", "eel"))
    assert pictures.targets.tolist() == [2, 0, 0, 1, 2]
    assert levels_of(pictures) == [0, 1, 2, 3, 4]
    assert pictures.name(4) == "train.parquet[4]"
    chosen = pickle.loads(pickle.dumps(pictures.select([4, 1])))
    assert levels_of(chosen) == [4, 1]
    assert [chosen.name(0), chosen.name(1)] == ["train.parquet[4]", "train.parquet[1]"]


def test_parquet_without_class_names(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": [encoded(0), encoded(1)], "label": [1, 0]})
    pictures = read_labeled(path)
    assert pictures.labels == ("0", "1")
    assert levels_of(pictures) == [0, 1]
    assert pictures.with_labels(["no", "yes", "maybe"]).targets.tolist() == [1, 0]
    named = read_labeled(path, labels=["no", "yes"])
    assert (named.labels, named.targets.tolist()) == (("no", "yes"), [1, 0])
    assert "not among the 1 expected ones (no): 0, 1" in refused(read_labeled, path, labels=["no"])
    assert "more than once: no" in refused(read_labeled, path, labels=["no", "no"])


def test_parquet_with_paths_text_and_lists(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    text = read_labeled(parquet(tmp_path / "a.parquet", {"path": names, "label": ["b", "a"]}))
    assert (text.labels, levels_of(text), text.name(0)) == (("a", "b"), [0, 1], str(tmp_path / names[0]))
    lists = read_labeled(parquet(tmp_path / "b.parquet", {"path": names, "labels": [["b", "a"], []]}))
    assert (lists.problem_type, lists.targets.tolist()) == (MULTI_LABEL, [[1, 1], [0, 0]])
    feature = {"labels": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["x", "y", "z"]}}}
    lists = read_labeled(parquet(tmp_path / "c.parquet", {"path": names, "labels": [[2, 0], [1]]}, feature))
    assert (lists.labels, lists.targets.tolist()) == (("x", "y", "z"), [[1, 0, 1], [0, 1, 0]])
    value = read_labeled(parquet(tmp_path / "d.parquet", {"path": names, "value": [0.5, 2.0]}))
    assert (value.problem_type, value.labels, value.targets.tolist()) == (REGRESSION, ("value",), [[0.5], [2]])


@pytest.mark.parametrize("kind", ["large_binary", "binary_view", "fixed", "dictionary", "struct of paths"])
def test_other_ways_in_which_parquet_holds_pictures(tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    names, images = pictures_beside(tmp_path, 2), [encoded(0), encoded(1)]
    column = {
        "large_binary": lambda: pa.array(images, pa.large_binary()),
        "binary_view": lambda: pa.array(images, pa.binary_view()),
        "fixed": lambda: pa.array([image.ljust(100, b"\0") for image in images], pa.binary(100)),
        "dictionary": lambda: pa.array(names).dictionary_encode(),
        "struct of paths": lambda: pa.array([{"path": name} for name in names]),
    }[kind]()
    assert levels_of(read_labeled(parquet(tmp_path / "a.parquet", {"image": column, "label": [0, 1]}))) == [0, 1]


def test_parquet_rows_without_bytes_are_read_from_their_path(tmp_path: Path) -> None:
    (name,) = pictures_beside(tmp_path, 1)
    images = [
        {"bytes": encoded(9), "path": "x.png"},
        {"bytes": None, "path": name},
        {"bytes": None, "path": None},
        None,
    ]
    pictures = read_labeled(parquet(tmp_path / "a.parquet", {"image": images, "label": [0, 1, 0, 1]}))
    assert levels_of(pictures.select([0, 1])) == [9, 0]
    assert find_unreadable(pictures) == [(2, "a.parquet[2]: is empty"), (3, "a.parquet[3]: is empty")]
    assert levels_of(pickle.loads(pickle.dumps(pictures.select([1])))) == [0]


def test_the_one_column_of_class_names_is_the_label(tmp_path: Path) -> None:
    columns = {"image": structs(2), "mask": structs(2), "id": [7, 8], "kind": [1, 0]}
    path = parquet(tmp_path / "a.parquet", columns, {"kind": NAMED["label"]})
    assert read_labeled(path).labels == ("cat", "dog", "eel")
    both = {"fine_label": NAMED["label"], "coarse_label": NAMED["label"]}
    path = parquet(tmp_path / "b.parquet", {"image": structs(1), "fine_label": [0], "coarse_label": [1]}, both)
    message = refused(read_labeled, path)
    assert "fine_label, coarse_label could all hold the labels" in message
    assert read_labeled(path, label_column="coarse_label").targets.tolist() == [1]


@pytest.mark.parametrize("place", [".", "data"])
def test_a_folder_of_parquet_files(tmp_path: Path, place: str) -> None:
    for name, labels, first in (
        ("train-00000-of-00002", [0, 1], 0),
        ("train-00001-of-00002", [2, 1], 2),
        ("validation-00000-of-00001", [2, 0], 4),
        ("test-00000-of-00001", [0], 6),
    ):
        parquet(tmp_path / place / f"{name}.parquet", {"image": structs(len(labels), first), "label": labels}, NAMED)
    split = read_splits(tmp_path)
    assert split.train.targets.tolist() == [0, 1, 2, 1]
    assert levels_of(split.train) == [0, 1, 2, 3]
    assert split.train.name(3) == "train-00001-of-00002.parquet[1]"
    assert split.val.targets.tolist() == [2, 0]
    assert split.notes == ("no validation pictures of dog",)
    chosen = pickle.loads(pickle.dumps(split.train.select([3, 0, 3])))
    assert levels_of(chosen) == [3, 0, 3]
    assert levels_of(pickle.loads(pickle.dumps(split.train.select([2])))) == [2]


def test_files_with_other_class_names_are_joined_by_name(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"image": structs(2), "label": [0, 2]}, NAMED)
    other = {"label": {"_type": "ClassLabel", "names": ["dog", "cat"]}}
    parquet(tmp_path / "b.parquet", {"image": structs(2), "label": [0, 1]}, other)
    pictures = read_labeled(tmp_path)
    assert [pictures.labels[target] for target in pictures.targets] == ["cat", "eel", "dog", "cat"]


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": structs(50), "label": [0, 1] * 25})
    whole = path.read_bytes()
    for content in (b"", whole[:-100], b"PAR1" + bytes(100) + b"PAR1", whole[:200] + bytes(400) + whole[600:]):
        message = refused(read_labeled, put(tmp_path / "b.parquet", content))
        assert message.startswith(f"{tmp_path / 'b.parquet'}: not a parquet file, or damaged")
    empty = parquet(tmp_path / "c.parquet", {"image": structs(1)[:0], "label": [0][:0]})
    assert "no rows" in refused(read_labeled, empty, image_column="image")
    numbers = parquet(tmp_path / "d.parquet", {"image": [1], "label": [1]})
    assert "a column of int64 holds no pictures" in refused(read_labeled, numbers)
    texts = parquet(tmp_path / "t.parquet", {"image": [{"bytes": "x"}], "label": [1]})
    assert "expected a struct of bytes and path" in refused(read_labeled, texts)
    missing = parquet(tmp_path / "e.parquet", {"image": structs(2), "label": [0, None]})
    assert "e.parquet[1] has no label" in refused(read_labeled, missing)
    unknown = parquet(tmp_path / "f.parquet", {"image": structs(2), "label": [0, -1]}, NAMED)
    assert "f.parquet[1] has no label" in refused(read_labeled, unknown)
    beyond = parquet(tmp_path / "g.parquet", {"image": structs(2), "label": [0, 3]}, NAMED)
    assert "holds 3, but there are names for 3 classes" in refused(read_labeled, beyond)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.parquet", b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'vit-hybrid[evaluate]'" in refused(read_labeled, path)


# --- datasets ---------------------------------------------------------------------------------------------------------


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
    chosen = pickle.loads(pickle.dumps(pictures.select([2, 0])))
    assert levels_of(chosen) == [2, 0]
    assert chosen.name(0) == "one[2]"

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


def test_a_data_set_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        if name == "someone/none":
            raise FileNotFoundError("Dataset 'someone/none' doesn't exist\non the Hub")
        return datasets.DatasetDict(
            {"train": dataset_of([0, 1, 2] * 4), "test": dataset_of([0, 1]), "odd": dataset_of([2])}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    split = read_splits("someone/pets", val_fraction=0.25)
    assert (split.train.class_counts().tolist(), split.val.class_counts().tolist()) == ([3, 3, 3], [1, 1, 1])
    assert read_labeled("someone/pets", "odd").targets.tolist() == [2]
    message = refused(read_labeled, "someone/none")
    assert message.startswith("someone/none: no such file or folder, and datasets cannot load it from the hub")
    assert set(asked) == {"someone/pets", "someone/none"}


def test_without_datasets_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "dataset_dict.json", "{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for place in (tmp_path, "someone/pets"):
        assert "pip install 'vit-hybrid[datasets]'" in refused(read_labeled, place)


# --- The split --------------------------------------------------------------------------------------------------------


def test_the_split_is_stratified_and_whole(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, cat=40, dog=20, eel=3, fox=2, gnu=1)
    split = read_splits(folder, val_fraction=0.25)
    assert split.val.class_counts().tolist() == [10, 5, 1, 1, 0]
    assert split.train.class_counts().tolist() == [30, 15, 2, 1, 1]
    assert sorted(levels_of(split.train) + levels_of(split.val)) == list(range(66))
    assert split.notes == ("no validation pictures of gnu",)
    assert read_splits(folder, val_fraction=0.999).train.class_counts().tolist() == [1, 1, 1, 1, 1]
    assert read_splits(folder, val_fraction=0.001).val.class_counts().tolist() == [1, 1, 1, 1, 0]


def test_the_split_follows_from_the_seed(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "all", cat=20, dog=20)
    held_out = {seed: levels_of(read_splits(folder, seed=seed, val_fraction=0.3).val) for seed in range(3)}
    assert held_out[0] == levels_of(read_splits(folder, val_fraction=0.3).val)
    assert held_out[0] != held_out[1] != held_out[2]
    val = read_splits(folder, val_fraction=0.3).val
    names = [val.name(index) for index in range(len(val))]
    assert names == sorted(names)


def test_several_labels_and_values_are_stratified_too(tmp_path: Path) -> None:
    labels = [["common"]] * 90 + [["common", "rare"]] * 9 + [[]]
    split = read_splits(json_lines(tmp_path / "a.jsonl", labels), val_fraction=1 / 3)
    assert split.val.class_counts().tolist() == [33, 3]
    values = [index + 0.5 for index in range(100)]
    held_out = read_splits(json_lines(tmp_path / "b.jsonl", values), val_fraction=0.1).val.targets[:, 0]
    assert [int(value // 10) for value in held_out] == list(range(10))


def test_integers_of_two_locations_agree(tmp_path: Path) -> None:
    train = csv_file(tmp_path / "a.csv", [3, 5, 7, 5])
    val = csv_file(tmp_path / "b.csv", [7, 3])
    split = read_splits(train, val=val)
    assert (split.train.labels, split.val.targets.tolist()) == (("3", "5", "7"), [2, 0])
    split = read_splits(train, val=val, labels=list("abcdefgh"))
    assert (split.train.targets.tolist(), split.val.targets.tolist()) == ([3, 5, 7, 5], [7, 3])
    assert "no training pictures of a, b, c, e, g" in split.notes


def test_validation_from_another_location(tmp_path: Path) -> None:
    class_folders(tmp_path / "a" / "train", cat=2, dog=2)
    class_folders(tmp_path / "a" / "val", cat=1, dog=1)
    class_folders(tmp_path / "b", dog=3)
    class_folders(tmp_path / "c" / "train", cat=5, dog=5)
    class_folders(tmp_path / "c" / "val", cat=4, dog=4)
    assert read_splits(tmp_path / "a", val=tmp_path / "b").val.targets.tolist() == [1, 1, 1]
    assert len(read_splits(tmp_path / "a", val=tmp_path / "c").val) == 8


def test_values_stay_values_where_validation_has_whole_numbers(tmp_path: Path) -> None:
    split = read_splits(csv_file(tmp_path / "a.csv", [0.5, 1.5]), val=csv_file(tmp_path / "b.csv", [1, 2]))
    assert (split.val.problem_type, split.val.targets.tolist()) == (REGRESSION, [[1], [2]])


def test_labels_that_only_validation_has(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", cat=2, dog=2)
    class_folders(tmp_path / "val", cat=1, eel=1, fox=1)
    message = refused(read_splits, tmp_path)
    assert f"{tmp_path}: labels for validation that no training picture has: eel, fox" in message


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_a_fraction_out_of_range(tmp_path: Path, fraction: float) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    assert "val_fraction must lie between 0 and 1" in refused(read_splits, tmp_path, val_fraction=fraction)


def test_a_negative_seed(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    assert "seed must be 0 or more, got -1" in refused(read_splits, tmp_path, seed=-1)


# --- LabeledPictures --------------------------------------------------------------------------------------------------


def test_labels_in_the_order_of_a_model(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, cat=1, dog=2))
    other = pictures.with_labels(["eel", "dog", "cat"])
    assert (other.labels, other.targets.tolist()) == (("eel", "dog", "cat"), [2, 1, 1])
    assert other.class_counts().tolist() == [0, 2, 1]
    assert read_labeled(tmp_path, labels=["eel", "dog", "cat"]).targets.tolist() == [2, 1, 1]
    assert pictures.targets.tolist() == [0, 1, 1]
    assert pictures.with_labels(pictures.labels) is pictures
    assert "not among the 2 expected ones (cat, eel): dog" in refused(pictures.with_labels, ["cat", "eel"])
    assert pictures.select([0]).with_labels(["cat"]).targets.tolist() == [0]  # no picture of a dog is left
    assert "more than once: cat" in refused(pictures.with_labels, ["cat", "cat", "dog"])


def test_several_labels_and_values_in_the_order_of_a_model(tmp_path: Path) -> None:
    several = read_labeled(json_lines(tmp_path / "a.jsonl", [["a", "b"], ["b"]]))
    assert several.with_labels(["b", "c", "a"]).targets.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert "not among the 1 expected ones (b): a" in refused(several.with_labels, ["b"])
    values = read_labeled(json_lines(tmp_path / "b.jsonl", [[0.5, 1], [2, 3]]))
    assert values.with_labels(["label_1", "label_0"]).targets.tolist() == [[1, 0.5], [3, 2]]
    renamed = values.with_labels(["x", "y"])
    assert (renamed.labels, renamed.targets.tolist()) == (("x", "y"), [[0.5, 1], [2, 3]])
    assert "2 values a picture (label_0, label_1), expected 1" in refused(values.with_labels, ["x"])


def test_numbers_are_indices_only_where_they_fit(tmp_path: Path) -> None:
    pictures = read_labeled(csv_file(tmp_path / "a.csv", [0, 2, 0]))
    assert pictures.with_labels(["a", "b", "c"]).targets.tolist() == [0, 2, 0]
    assert pictures.with_labels(["2", "0"]).targets.tolist() == [1, 0, 1]
    assert "not among the 2 expected ones (a, b): 0, 2" in refused(pictures.with_labels, ["a", "b"])


def test_selecting_by_index_and_by_mask(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, cat=2, dog=2))
    assert levels_of(pictures.select([3, 0, 3])) == [3, 0, 3]
    assert levels_of(pictures.select(np.array([True, False, False, True]))) == [0, 3]
    assert levels_of(pictures.select([1, 2, 3]).select([2, 0])) == [3, 1]
    empty = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(pictures.select([])))))
    assert (len(empty), empty.class_counts().tolist()) == (0, [0, 0])
    with pytest.raises(IndexError):
        pictures.picture(4)
    assert [int(target) for _, target in pictures] == [0, 0, 1, 1]


def test_pictures_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    put(tmp_path / "cat" / "a.png", encoded(1, (4, 3), exif=exif))
    put(tmp_path / "dog" / "a.png", encoded(1, (4, 3)))
    pictures = read_labeled(tmp_path)
    assert [picture.size for picture, _ in pictures] == [(3, 4), (4, 3)]


def test_unreadable_pictures_are_found_with_their_reason(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=60, dog=60)
    put(tmp_path / "cat" / "5.png", b"")
    put(tmp_path / "dog" / "59.png", encoded(1, (200, 200))[:-40])
    put(tmp_path / "dog" / "6.png", b"not a picture")
    pictures = read_labeled(tmp_path)
    calls: list[tuple[int, int]] = []
    found = find_unreadable(pictures, lambda done, of: calls.append((done, of)))
    assert all(reason.startswith(f"{pictures.name(index)}: ") for index, reason in found)
    reasons = dict(os.path.relpath(reason, tmp_path).split(": ") for _, reason in found)
    assert list(reasons) == ["cat/5.png", "dog/59.png", "dog/6.png"]
    assert reasons["cat/5.png"] == "is empty"
    assert reasons["dog/6.png"] == "is not a picture in a format that Pillow reads"
    assert reasons["dog/59.png"].startswith("is truncated or damaged")
    assert calls == [(32, 120), (64, 120), (96, 120), (120, 120)]
    assert find_unreadable(pictures.select([])) == []


def test_an_interrupted_search_ends_at_once(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, cat=100, dog=100))

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_unreadable(pictures, interrupt)


def test_threads_and_processes_share_pictures(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": structs(40), "label": [0, 1] * 20}, row_group_size=7)
    pictures = read_labeled(path)
    with ThreadPoolExecutor(8) as executor:
        levels = list(executor.map(lambda index: level_of(pictures.picture(index % 40)), range(400)))
    assert levels == list(range(40)) * 10

    # A process that starts afresh needs neither pyarrow nor torch to decode what it was sent.
    saved = put(tmp_path / "pictures.pickle", pickle.dumps(pictures.select(range(30, 40))))
    code = (
        "import pickle, sys; from pathlib import Path\n"
        f"pictures = pickle.loads(Path({str(saved)!r}).read_bytes())\n"
        "print([pictures.picture(i).getpixel((0, 0)) for i in range(len(pictures))], pictures.name(0))\n"
        "print({'torch', 'transformers', 'pyarrow'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [f"{list(range(30, 40))} a.parquet[30]", "set()"]


def test_what_is_sent_to_a_process_is_no_larger_than_the_selection(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": structs(200), "label": [0, 1] * 100}, row_group_size=10)
    pictures = read_labeled(path)
    content = sum(len(encoded(level)) for level in range(200))
    assert content < len(pickle.dumps(pictures)) < 1.5 * content + 6000
    assert len(pickle.dumps(pictures.select([1, 2]))) < 3000


def test_errors_survive_pickling(tmp_path: Path) -> None:
    pictures = read_labeled(class_folders(tmp_path, cat=1, dog=1))
    with pytest.raises(DataError) as caught:
        pictures.with_labels(["cat"])
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (type(caught.value), str(caught.value))


# --- The data sets at hand --------------------------------------------------------------------------------------------


def test_cifar10(data_dir: Path) -> None:
    folder = data_dir / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"no cifar10 in {data_dir}")
    pytest.importorskip("pyarrow")
    split = read_splits(folder)
    assert split.train.labels[:2] == ("airplane", "automobile")
    assert split.train.class_counts().tolist() == [4500] * 10
    assert split.val.class_counts().tolist() == [500] * 10
    assert split.val.picture(0).size == (32, 32)
    assert split.val.name(0).startswith("train.parquet[")
    assert read_labeled(folder, "test").class_counts().tolist() == [1000] * 10


def test_tinyphotos10(data_dir: Path) -> None:
    folder = data_dir / "tinyphotos10"
    if not folder.is_dir():
        pytest.skip(f"no tinyphotos10 in {data_dir}")
    split = read_splits(folder)
    assert split.train.class_counts().tolist() == [100] * 10
    assert split.val.class_counts().tolist() == [50] * 10
    assert split.val.labels[0] == "african_elephant"
    assert find_unreadable(split.val) == []

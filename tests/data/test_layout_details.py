"""What is at a location where only one thing decides what is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from labeled_files import NAMED, class_folders, csv_file, encoded, levels_of, parquet, put, refused, structs

from vit_hybrid.data import MULTI_LABEL, listing, read_labeled, read_splits


def test_one_class_whose_name_speaks_of_a_split(tmp_path: Path) -> None:
    put(tmp_path / "a" / "steam train" / "0.png", encoded(0))
    assert read_labeled(tmp_path / "a").labels == ("steam train",)
    put(tmp_path / "b" / "train" / "0.png", encoded(0))
    assert f"{tmp_path}/b/train: no class folders" in refused(read_labeled, tmp_path / "b")
    class_folders(tmp_path / "c" / "seg_train", cat=1, dog=1)
    assert read_labeled(tmp_path / "c", "train").labels == ("cat", "dog")


def test_a_table_of_something_else_beside_splits_of_which_one_has_no_classes(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", forest=2, sea=2)
    put(tmp_path / "test" / "0.png", encoded(9))
    put(tmp_path / "sums.csv", "file,md5\ntrain/forest/0.png,abc\ntrain/sea/0.png,def\n")
    split = read_splits(tmp_path, val_fraction=0.5)
    assert (split.train.labels, len(split.train), len(split.val)) == (("forest", "sea"), 2, 2)
    assert split.passed.counts() == {listing.TABLE: 1}


def test_a_folder_is_not_looked_into_where_pictures_lie_beside_it(tmp_path: Path) -> None:
    class_folders(tmp_path / "images", forest=1, sea=1)
    assert read_labeled(tmp_path).labels == ("forest", "sea")
    put(tmp_path / "0.png", encoded(0))
    assert f"{tmp_path}: the names of the folders in it (images) say no classes; expected" in refused(
        read_labeled, tmp_path
    )


@pytest.mark.parametrize("name", ["labels.csv", "LABELS.CSV"])
def test_a_folder_with_a_table_alone_is_looked_into(name: str, tmp_path: Path) -> None:
    csv_file(tmp_path / "far" / "labels.csv", ["a", "b"])
    rows = (tmp_path / "far" / "labels.csv").read_text().replace("pictures/", "../../../far/pictures/")
    put(tmp_path / "data" / "set" / "in" / name, rows)
    read = read_labeled(tmp_path / "data" / "set")
    assert (read.labels, levels_of(read)) == (("a", "b"), [0, 1])


def test_a_table_that_cannot_be_read_beside_one_folder(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2)
    table = put(tmp_path / "odd.csv", b"\0")
    message = refused(read_labeled, tmp_path)
    assert message.startswith(f"{table}: not text in UTF-8")
    assert message.endswith("; or take it away, if it does not hold the labels")
    class_folders(tmp_path, dog=2)
    assert read_labeled(tmp_path).labels == ("cat", "dog")


def test_a_table_that_says_no_labels_beside_folders_that_say_none(tmp_path: Path) -> None:
    put(tmp_path / "images" / "0.png", encoded(0))
    put(tmp_path / "about.csv", "year,author\n2020,me\n")
    assert refused(read_labeled, tmp_path) == (
        f"{tmp_path}: the names of the folders in it (images) say no classes, nor the table about.csv beside them; "
        "expected a folder for each class, train/ and val/ with such folders, or a table with columns such as image "
        "and label"
    )


def test_a_damaged_table_of_the_columns_that_were_named_comes_before_class_folders(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    table = put(tmp_path / "odd.csv", "where,what,what\ncat/0.png,x,y\n")
    assert read_labeled(tmp_path).labels == ("cat", "dog")
    message = refused(read_labeled, tmp_path, image_column="where", label_column="what")
    assert message == f"{table}: a column name stands more than once in the header where, what, what"


def test_a_table_of_a_split_beside_one_of_none(tmp_path: Path) -> None:
    for name in ("labels.csv", "val.csv"):
        csv_file(tmp_path / name, ["a", "b"])
    assert refused(read_labeled, tmp_path) == (
        f"{tmp_path}: several tables could all hold the labels (labels.csv, val.csv); name one of them as the data"
    )


def test_sets_of_tables_in_any_spelling(tmp_path: Path) -> None:
    for place in ("full/train.csv", "small/TRAIN.CSV"):
        put(tmp_path / place, "image,label\n0.png,a\n")
    assert "(full, small) hold tables, as several sets do, and no pictures" in refused(read_labeled, tmp_path)


def test_a_folder_of_tables_beside_another_is_no_set(tmp_path: Path) -> None:
    put(tmp_path / "full" / "train.csv", "image,label\n0.png,a\n")
    put(tmp_path / "notes" / "readme.txt", "by hand")
    assert "as several sets do" not in refused(read_labeled, tmp_path)


def test_tables_without_pictures_alone(tmp_path: Path) -> None:
    put(tmp_path / "x.csv", "year,author\n2020,me\n")
    assert f"{tmp_path}/x.csv: cannot tell which column holds the pictures" in refused(read_labeled, tmp_path)
    put(tmp_path / "y.csv", "year,author\n2020,me\n")
    assert refused(read_labeled, tmp_path) == (
        f"{tmp_path}: several tables and no class folders (x.csv, y.csv); name one of them"
    )


def test_of_tables_of_pictures_that_with_labels_is_meant(tmp_path: Path) -> None:
    csv_file(tmp_path / "odd.csv", ["a", "b"], "where,what")
    csv_file(tmp_path / "sizes.csv", ["4,3", "4,3"], "where,width,height")
    read = read_labeled(tmp_path)
    assert (read.labels, read.passed.counts()) == (("a", "b"), {listing.TABLE: 1})


@pytest.mark.parametrize("name", ["a.xls", "a.XLSX", "a.ods", "a.numbers"])
def test_spreadsheets_beside_images_are_named(name: str, tmp_path: Path) -> None:
    put(tmp_path / "images" / "0.png", encoded(0))
    sheet = put(tmp_path / name, b"")
    assert refused(read_labeled, tmp_path) == (
        f"{sheet}: is a spreadsheet, which is not read: save it as CSV UTF-8; or take it away, if it does not hold the "
        "labels"
    )


def test_parquet_comes_before_other_tables(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", {"image": structs(2), "label": [1, 2]}, NAMED)
    csv_file(tmp_path / "labels.csv", ["x", "y"])
    assert read_labeled(tmp_path).labels == ("cat", "dog", "eel")
    put(tmp_path / "Metadata.CSV", (tmp_path / "labels.csv").read_bytes())
    assert read_labeled(tmp_path).labels == ("x", "y")  # but for what describes the folder


@pytest.mark.parametrize("ending", [".CSV", ".TSV", ".JsonL", ".PARQUET", ".pq"])
def test_endings_of_tables_in_any_spelling(tmp_path: Path, ending: str) -> None:
    if ending in (".PARQUET", ".pq"):
        path = parquet(tmp_path / f"a{ending}", {"image": structs(2), "label": ["b", "a"]})
    elif ending == ".JsonL":
        csv_file(tmp_path / "none.csv", ["x", "y"]).unlink()
        rows = [{"path": f"pictures/{row}.png", "label": label} for row, label in enumerate("ba")]
        path = put(tmp_path / f"a{ending}", "\n".join(map(json.dumps, rows)))
    else:
        join = "\t" if ending == ".TSV" else ","
        path = csv_file(tmp_path / f"a{ending}", ["b", "a"], f"path{join}label", join)
    for place in (path, tmp_path):
        read = read_labeled(place)
        assert (levels_of(read), read.targets.tolist()) == ([0, 1], [1, 0])


@pytest.mark.parametrize("name", ["sampleSubmission.csv", "Sample_Submission.csv", "submission.csv"])
def test_a_table_to_be_filled_in_is_known_in_any_spelling(tmp_path: Path, name: str) -> None:
    csv_file(tmp_path / "labels.csv", ["scab", "rust"], "image,label")
    put(tmp_path / name, "image,label\npictures/0.png,x\npictures/1.png,x\n")
    read = read_labeled(tmp_path)
    assert (read.labels, read.passed.counts()) == (("rust", "scab"), {listing.TABLE: 1})


def test_classes_whose_folders_hold_others_of_the_same_names(tmp_path: Path) -> None:
    for place in ("color/a", "color/b", "color", "gray/a", "gray/b"):  # of a version there are no pictures beside
        put(tmp_path / "some" / place / "0.png", encoded(0))
    assert read_labeled(tmp_path / "some").labels == ("color", "gray")
    for place in ("0/a", "0/b", "1/a", "1/b"):  # numbers say of no class that it is a version of another
        put(tmp_path / "numbers" / place / "0.png", encoded(0))
    assert read_labeled(tmp_path / "numbers").labels == ("0", "1")


def test_a_class_with_pictures_of_its_own_is_no_split_whatever_else_is_in_it(tmp_path: Path) -> None:
    for place in ("train/0.png", "train/a/0.png", "train/b/0.png", "a/0.png", "b/0.png"):
        put(tmp_path / place, encoded(0))
    read = read_labeled(tmp_path)
    assert (read.labels, read.class_counts().tolist()) == (("a", "b", "train"), [1, 1, 3])


@pytest.mark.parametrize(
    "tables",
    [
        ("labels.csv",),
        ("metadata.csv",),
        ("train.csv", "val.csv"),
        ("train/labels.csv", "val/labels.csv"),
        ("around/in/labels.csv",),
        ("data/train.parquet", "data/val.parquet"),
        ("several.csv",),
    ],
)
def test_columns_that_are_named_are_those_of_a_table_wherever_it_lies(tables: tuple[str, ...], tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / "far" / f"{number}.png", encoded(number))
    rows = [(f"{tmp_path}/far/{number}.png", "xy"[number % 2]) for number in range(4)]
    for name in tables:
        if name.endswith("parquet"):
            columns = {"path": ["gone.png"] * 4, "label": ["wrong"] * 4, "where": [path for path, _ in rows]}
            parquet(tmp_path / "set" / name, {**columns, "kind": [kind for _, kind in rows]})
            continue
        last = ",split" if name == "several.csv" else ""
        lines = [f"gone.png,wrong,{path},{kind}{',train' if last else ''}" for path, kind in rows]
        put(tmp_path / "set" / name, "\n".join([f"path,label,where,kind{last}", *lines]))
    named = {"image_column": "where", "label_column": "kind"}
    split = read_splits(tmp_path / "set", val_fraction=0.5, **named)  # type: ignore[arg-type]
    assert split.train.labels == split.val.labels == ("x", "y")
    assert len(split.train) + len(split.val) == 4 * len(tables)
    read = read_labeled(tmp_path / "set", **named)  # type: ignore[arg-type]
    assert (levels_of(read), read.targets.tolist()) == ([0, 1, 2, 3] * len(tables), [0, 1, 0, 1] * len(tables))


def test_what_looks_like_a_split_beside_what_does_not(tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "train/c", "train/d", "night/x", "dusk", "noon", "dawn"):
        put(tmp_path / place / "0.png", encoded(0))
    assert refused(read_labeled, tmp_path) == (
        f"{tmp_path}: train holds folders (a, b, c and 1 more), as a split of a data set does, and what is beside it "
        f"(dawn, dusk, night and 1 more) is called as no split; name {tmp_path}/train as the data, or call them train "
        "and val or test"
    )


def test_a_class_called_as_the_folder_around_it(tmp_path: Path) -> None:
    for place in ("cats/old", "cats/young", "dogs/old", "dogs/young"):
        put(tmp_path / "cats" / place / "0.png", encoded(0))
    assert read_labeled(tmp_path / "cats").labels == ("cats", "dogs")


def test_parquet_of_no_split_beside_that_for_training(tmp_path: Path) -> None:
    parquet(tmp_path / "extra.parquet", {"image": structs(2, 8), "label": [2, 2]}, NAMED)
    parquet(tmp_path / "train.parquet", {"image": structs(4), "label": [1, 0, 1, 0]}, NAMED)
    split = read_splits(tmp_path, val_fraction=0.5)
    assert sorted(levels_of(split.train) + levels_of(split.val)) == [0, 1, 2, 3]
    assert len(read_labeled(tmp_path)) == 6


def test_tables_of_a_persons_own_that_begin_as_results_do(tmp_path: Path) -> None:
    csv_file(tmp_path / "mine.csv", ["a,x", "b,y"], "path,truth,label")
    assert read_labeled(tmp_path).labels == ("x", "y")
    csv_file(tmp_path / "mine.csv", ["x,a", "y,b"], "path,label,predicted")
    assert read_labeled(tmp_path).labels == ("x", "y")


def test_rows_of_boxes_with_several_columns_of_labels_are_not_put_together(tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path / f"{number}.png", encoded(number))
    path = put(tmp_path / "a.csv", "image,x,y,bbox\n0.png,1,0,1\n1.png,1,1,2\n0.png,0,1,3\n")
    read = read_labeled(path, label_column="x,y")
    assert (levels_of(read), read.targets.tolist()) == ([0, 1, 0], [[1, 0], [1, 1], [0, 1]])
    assert read.notes == (
        f"{path}: 1 of its pictures stands in several rows, 1 of them with different labels, such as 0.png",
    )


def test_parquet_beside_the_folder_of_parquet(tmp_path: Path) -> None:
    for place, first in (("train.parquet", 0), ("data/train.parquet", 5)):
        parquet(tmp_path / place, {"image": structs(2, first), "label": [1, 2]}, NAMED)
    assert levels_of(read_labeled(tmp_path)) == [0, 1]


def test_tables_of_a_split_whose_columns_of_0_and_1_have_another_order(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / f"{number}.png", encoded(number))
    put(tmp_path / "train_1.csv", "image,cat,dog\n0.png,1,0\n1.png,0,1\n")
    put(tmp_path / "train_2.csv", "image,dog,cat\n2.png,1,0\n3.png,0,1\n")
    read = read_labeled(tmp_path)
    assert (read.labels, levels_of(read), read.targets.tolist()) == (("cat", "dog"), [0, 1, 2, 3], [0, 1, 1, 0])
    put(tmp_path / "train_2.csv", "image,dog,eel\n2.png,1,0\n3.png,0,1\n")
    assert f"differ: {tmp_path}/train_1.csv, line 2 has cat, dog, {tmp_path}/train_2.csv, line 2 dog, eel; give" in (
        refused(read_labeled, tmp_path)
    )


def test_boxes_in_json(tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path / f"{number}.png", encoded(number))
    rows = [("0.png", "cat"), ("1.png", "dog"), ("0.png", "dog"), ("0.png", "cat")]
    boxes = [{"image": name, "label": label, "bbox": [1, 2, 3, row]} for row, (name, label) in enumerate(rows)]
    read = read_labeled(put(tmp_path / "a.json", json.dumps(boxes)))
    assert (read.problem_type, read.labels, read.targets.tolist()) == (MULTI_LABEL, ("cat", "dog"), [[1, 1], [0, 1]])
    one = read_labeled(put(tmp_path / "a.json", json.dumps([boxes[0], boxes[1], boxes[3]])))
    assert (one.labels, one.targets.tolist(), levels_of(one)) == (("cat", "dog"), [0, 1], [0, 1])


def test_metadata_whose_column_knows_one_split_inside_the_folder_of_another(tmp_path: Path) -> None:
    for name, said in (("train", "train"), ("val", "test")):
        csv_file(tmp_path / name / "metadata.csv", [f"a,{said}", f"b,{said}"], "file_name,label,split")
    split = read_splits(tmp_path)
    assert [len(split.train), len(split.val)] == [2, 2]
    assert split.val.name(0) == str(tmp_path / "val" / "pictures" / "0.png")

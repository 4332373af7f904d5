"""What is at a location: tables and folders, and which of them are training and validation."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from labeled_files import (
    NAMED,
    class_folders,
    csv_file,
    encoded,
    json_lines,
    levels_of,
    parquet,
    pictures_beside,
    put,
    refused,
    structs,
)

from vit_hybrid.data import (
    MULTI_LABEL,
    SINGLE_LABEL,
    LabeledPictures,
    find_unreadable,
    listing,
    read_labeled,
    read_splits,
)
from vit_hybrid.data.splits import are_counted
from vit_hybrid.files import mark


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
    assert refused(read_labeled, tmp_path / "alone") == (
        f"{tmp_path}/alone: several tables and no class folders (a.csv, b.csv); name one of them as the data"
    )


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
def test_the_image_folder_convention_with_metadata(tmp_path: Path, name: str) -> None:
    for split, labels in (("train", ["cat", "dog", "cat"]), ("validation", ["dog"])):
        if name.endswith("csv"):
            csv_file(tmp_path / split / name, labels, "file_name,label")
        elif name.endswith("parquet"):
            paths = pictures_beside(tmp_path / split, len(labels))
            parquet(tmp_path / split / name, {"file_name": paths, "label": labels})
        else:
            json_lines(tmp_path / split / name, labels)
    read = read_splits(tmp_path)
    assert read.train.targets.tolist() == [0, 1, 0]
    assert read.val.targets.tolist() == [1]
    assert levels_of(read_labeled(tmp_path / "train")) == [0, 1, 2]


# --- Layouts of well-known data sets ----------------------------------------------------------------------------------


def labeled(folder: Path, *splits: str, names: tuple[str, ...] = ("forest", "sea"), count: int = 3) -> None:
    for split in splits:
        class_folders(folder / split, **dict.fromkeys(names, count))


def found(folder: Path, **options: object) -> tuple[tuple[str, ...], list[str], list[str]]:
    """The classes, and the folders in which the training and the validation pictures lie."""
    split = read_splits(folder, **options)  # type: ignore[arg-type]

    def places(pictures: LabeledPictures) -> list[str]:
        names = [os.path.relpath(pictures.name(index), folder) for index in range(len(pictures))]
        return sorted({os.path.dirname(name) for name in names})

    return split.train.labels, places(split.train), places(split.val)


def test_splits_that_are_folders_twice(tmp_path: Path) -> None:
    labeled(tmp_path, "seg_train/seg_train", "seg_test/seg_test")
    put(tmp_path / "seg_pred" / "seg_pred" / "0.png", encoded(0))
    inside = ["seg_train/seg_train/forest", "seg_train/seg_train/sea"]
    assert found(tmp_path) == (("forest", "sea"), inside, inside)
    assert [read_labeled(tmp_path, "test").name(0)] == [str(tmp_path / "seg_test/seg_test/forest/0.png")]
    split = read_splits(tmp_path)
    assert split.passed.counts() == {listing.NO_SPLIT: 1}
    assert split.described()[0] == (
        f"training on 4 pictures of 2 classes from the folders in {tmp_path}/seg_train/seg_train: forest 2, sea 2"
    )


@pytest.mark.parametrize(
    ("train", "val", "other"),
    [
        ("training_set", "validation_set", "single_prediction"),
        ("Training", "Validation", "Meta"),
        ("train", "valid", "extra"),
        ("TrainImages", "ValImages", "notes"),
        ("trainset", "valset", "docs"),
        ("train2017", "val2017", "annotations"),
        ("images_train", "images_val", "images_pred"),
        ("asl_alphabet_train/asl_alphabet_train", "asl_alphabet_val/asl_alphabet_val", "more"),
        ("dataset/train", "dataset/dev", None),
        ("archive/data/train/classes", "archive/data/eval", None),
    ],
)
def test_names_of_splits(tmp_path: Path, train: str, val: str, other: str | None) -> None:
    labeled(tmp_path, train, val)
    if other is not None:
        put(tmp_path / other / "x.png", encoded(1))
    expected = ([f"{place}/{name}" for name in ("forest", "sea")] for place in (train, val))
    assert found(tmp_path) == (("forest", "sea"), *expected)


@pytest.mark.parametrize("test", ["test_set", "Testing", "test"])
def test_a_split_for_tests_alone_beside_that_for_training(tmp_path: Path, test: str) -> None:
    train = {"test_set": "training_set", "Testing": "Training", "test": "train"}[test]
    labeled(tmp_path, train, test)
    labels, places, held_out = found(tmp_path)
    assert labels == ("forest", "sea")
    assert {os.path.dirname(place) for place in [*places, *held_out]} == {train}


@pytest.mark.parametrize("inside", ["flowers", "asl_alphabet_train/asl_alphabet_train", "images", "archive/a/b"])
def test_a_folder_around_the_classes_is_looked_into(tmp_path: Path, inside: str) -> None:
    labeled(tmp_path, inside)
    put(tmp_path / "__MACOSX" / "._x.jpg", b"")
    expected = [f"{inside}/forest", f"{inside}/sea"]
    assert found(tmp_path) == (("forest", "sea"), expected, expected)


def test_a_class_of_its_own_is_not_looked_into(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "0.png", encoded(0))
    put(tmp_path / "cat" / "young" / "1.png", encoded(1))
    assert read_labeled(tmp_path).labels == ("cat",)
    assert "one class only (cat)" in refused(read_splits, tmp_path)


def test_one_folder_called_as_another_makes_no_copy(tmp_path: Path) -> None:
    places = ("cats/siamese/0.png", "cats/cats/tabby/1.png", "cats/tabby/2.png")
    for level, place in enumerate(places):
        put(tmp_path / place, encoded(level))
    read = read_labeled(tmp_path / "cats")
    assert read.labels == ("cats", "siamese", "tabby")
    assert [(read.labels[target], level) for target, level in zip(read.targets, levels_of(read), strict=True)] == [
        ("cats", 1),
        ("siamese", 0),
        ("tabby", 2),
    ]


@pytest.mark.parametrize(
    "names",
    [("freight train", "steam train"), ("train", "bus"), ("0", "1"), ("label_0", "label_1"), ("mask", "no_mask")],
)
def test_names_that_could_be_those_of_splits_but_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        put(tmp_path / name / "0.png", encoded(0))
        put(tmp_path / name / "1.png", encoded(0))
    assert read_labeled(tmp_path).labels == tuple(sorted(names))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        # pictures without classes
        (("train_images/0.png", "test_images/0.png"), "train_images: no class folders and no table of labels in it"),
        (("train/cat.0.png", "test1/0.png"), "train: no class folders and no table of labels in it, though 1 pictures"),
        (("images/0.png", "masks/0.png"), "(images, masks) say no classes"),
        (("images/0.png",), "(images) say no classes"),
        (("fold1/a/0.png", "fold2/a/0.png"), "(fold1, fold2) say no classes"),
        (("JPEGImages/0.png", "Annotations/0.png"), "(Annotations, JPEGImages) say no classes"),
        # the splits of several sets, and of one under names that nobody knows
        (
            ("cat_train/0.png", "cat_test/0.png", "dog_train/0.png", "dog_test/0.png"),
            "splits of several sets (cat_test, cat_train; dog_test, dog_train)",
        ),
        (
            tuple(f"{name}_{split}/0.png" for name in "abcd" for split in ("train", "test")),
            "splits of several sets (a_test, a_train; b_test, b_train; c_test, c_train); expected one train/",
        ),
        (
            ("train/a/0.png", "train/b/0.png", "later/a/0.png", "later/b/0.png"),
            "data: train and later hold folders of the same names (a, b), so that they look like splits; call",
        ),
        (
            ("train/a/0.png", "train/b/0.png", "xray/train/a/0.png", "xray/train/b/0.png"),
            "train holds folders (a, b), as a split of a data set does, and what is beside it (xray) is called as no",
        ),
        (("train/a/0.png", "train/b/0.png", "predict_me/0.png"), "train holds folders (a, b), as a split of a data"),
        # the same once more
        (
            tuple(
                f"{place}{name}/0.png" for place in ("", "data/") for name in ("rose", "lily", "iris", "fern", "aloe")
            ),
            "data/data: holds folders called as those beside it (aloe, fern, iris, lily, rose): a copy, or other data?",
        ),
        (
            ("train/train/a/0.png", "train/val/a/0.png", "val/a/0.png"),
            "train: has splits of its own (there are train, val), though its name is that of the train split; name the",
        ),
        (("train/val/a/0.png", "train/val/b/0.png", "val/a/0.png"), "train: has splits of its own (there are val)"),
        # versions of the same pictures, and sets of tables
        (
            ("color_images/a/0.png", "color_images/b/0.png", "gray_images/a/0.png", "gray_images/b/0.png"),
            "color_images, gray_images hold folders of the same names (a, b), as versions of the same pictures do",
        ),
        (
            ("color/a/0.png", "color/b/0.png", "grayscale/a/0.png", "grayscale/b/0.png"),
            "color, grayscale hold folders of the same names (a, b), as versions of the same pictures do",
        ),
        (("small/train.csv", "full/train.csv"), "(full, small) hold tables, as several sets do, and no pictures"),
    ],
)
def test_layouts_that_are_refused_in_a_line_that_says_what_was_seen(
    tmp_path: Path, places: tuple[str, ...], expected: str
) -> None:
    for place in places:
        put(tmp_path / "data" / place, encoded(0))
    message = refused(read_splits, tmp_path / "data")
    assert expected in message
    assert message.startswith(str(tmp_path / "data"))
    assert len(message) < 500


def plant(folder: Path, **columns: list[str]) -> Path:
    """A table beside a folder of pictures, as competitions give it, and one to be filled in."""
    names = columns.pop("image", [f"{number}.png" for number in range(4)])
    for number in range(4):
        put(folder / "train_images" / f"{number}.png", encoded(number))
        put(folder / "test_images" / f"t{number}.png", encoded(9))
    rows = [",".join(row) for row in zip(names, *columns.values(), strict=True)]
    put(folder / "train.csv", "\n".join([",".join(["image_id", *columns]), *rows]))
    put(folder / "sample_submission.csv", f"image_id,{','.join(columns)}\nt0,{','.join('0' for _ in columns)}\n")
    put(folder / "test.csv", "image_id\nt0\n")
    return folder


LABELS = ["scab", "rust", "scab", "rust"]


def test_a_table_beside_the_folder_of_its_pictures(tmp_path: Path) -> None:
    split = read_splits(plant(tmp_path, labels=LABELS), val_fraction=0.5)
    assert split.train.labels == ("rust", "scab")
    read = read_labeled(tmp_path)
    assert read.targets.tolist() == [1, 0, 1, 0]
    assert levels_of(read) == [0, 1, 2, 3]
    assert read.name(2) == str(tmp_path / "train_images" / "2.png")
    assert read.notes == (f"{tmp_path}/train.csv: its pictures are in train_images",)
    assert read.passed.counts() == {listing.TABLE: 2}
    assert read.passed.line().startswith("passed over: 2 tables that are not used (")
    assert read.origin == f"column 'labels' of {tmp_path}/train.csv"


@pytest.mark.parametrize("label", ["diagnosis", "what_it_is"])
def test_a_table_of_names_without_ending(tmp_path: Path, label: str) -> None:
    read = read_labeled(plant(tmp_path, image=["0", "1", "2", "3"], **{label: LABELS}))
    assert levels_of(read) == [0, 1, 2, 3]
    assert [read.labels[target] for target in read.targets] == LABELS
    assert read.notes == (f"{tmp_path}/train.csv: its pictures are in train_images, with the ending .png",)


def test_a_column_of_0_and_1_for_each_class(tmp_path: Path) -> None:
    one = read_labeled(plant(tmp_path, healthy=list("1000"), scab=list("0101"), rust=list("0010")))
    assert (one.problem_type, one.labels, one.targets.tolist()) == (
        SINGLE_LABEL,
        ("healthy", "scab", "rust"),
        [0, 1, 2, 1],
    )
    several = read_labeled(tmp_path, problem_type=MULTI_LABEL)
    assert several.targets.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]]
    several = read_labeled(plant(tmp_path, healthy=list("1000"), scab=list("0101"), rust=list("0110")))
    assert (several.problem_type, several.labels) == (MULTI_LABEL, ("healthy", "scab", "rust"))
    assert several.targets.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 1, 0]]
    message = refused(read_labeled, tmp_path, problem_type=SINGLE_LABEL)
    assert f"{tmp_path}/train.csv, line 3: the columns healthy, scab, rust hold 0, 1, 1; expected one 1" in message


def test_a_table_whose_pictures_are_in_several_folders(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / f"part_{number % 2}" / f"x{number}.png", encoded(number))
    put(
        tmp_path / "meta.csv",
        "lesion,image_id,dx\n" + "".join(f"l,x{number},{LABELS[number]}\n" for number in range(4)),
    )
    read = read_labeled(tmp_path)
    assert levels_of(read) == [0, 1, 2, 3]
    assert [read.labels[target] for target in read.targets] == LABELS


def test_a_table_whose_labels_nobody_can_tell_is_named_where_no_folder_is_a_class(tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path / "images" / f"{number}.png", encoded(number))
    put(tmp_path / "about.csv", "file,age,place\n0.png,3,x\n1.png,4,y\n")
    message = refused(read_splits, tmp_path)
    assert f"{tmp_path}/about.csv: cannot tell which column holds the labels" in message
    assert read_labeled(tmp_path, label_column="place").labels == ("x", "y")


def test_tables_of_something_else_beside_class_folders_say_no_labels(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=1, dog=1)
    put(tmp_path / "classes.csv", "id,name\n0,cat\n1,dog\n")
    put(tmp_path / "kinds.csv", "id,class\n0,cat\n1,dog\n")
    put(tmp_path / "sums.csv", "file,md5\ncat/0.png,abc\ndog/0.png,def\n")
    put(tmp_path / "odd.csv", b"\0\0")
    read = read_labeled(tmp_path)
    assert read.labels == ("cat", "dog")
    assert read.passed.counts() == {listing.TABLE: 4}
    assert [note for note in read.notes if "odd.csv: not text in UTF-8" in note]


# --- Tables and parquet in the folders of splits ----------------------------------------------------------------------


def test_tables_of_boxes_and_of_classes_in_the_folders_of_splits(tmp_path: Path) -> None:
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    for split, boxes in (("train", ["0.png,9,9,cat", "0.png,9,9,cat", "1.png,9,9,dog"]), ("valid", ["0.png,9,9,dog"])):
        for number in range(2):
            put(tmp_path / "a" / split / f"{number}.png", encoded(number))
            put(tmp_path / "b" / split / f"{number}.png", encoded(number))
        put(tmp_path / "a" / split / "_annotations.csv", head + "".join(f"{box},1,1,5,5\n" for box in boxes))
        put(tmp_path / "b" / split / "_classes.csv", "filename, Cat, Dog\n0.png, 1, 1\n1.png, 0, 1\n")
        put(tmp_path / "README.roboflow.txt", "")
    split = read_splits(tmp_path / "a")
    assert (split.train.labels, split.train.targets.tolist()) == (("cat", "dog"), [0, 1])
    assert (levels_of(split.train), split.val.targets.tolist()) == ([0, 1], [1])
    split = read_splits(tmp_path / "b")
    assert (split.train.problem_type, split.train.labels) == (MULTI_LABEL, ("Cat", "Dog"))
    assert split.train.targets.tolist() == split.val.targets.tolist() == [[1, 1], [0, 1]]


def test_boxes_of_several_classes_in_a_picture(tmp_path: Path) -> None:
    rows = ["0.png,cat,1", "1.png,dog,1", "0.png,dog,2", "0.png,cat,3"]
    for number in range(2):
        put(tmp_path / "images" / f"{number}.png", encoded(number))
    put(tmp_path / "boxes.csv", "image,label,bbox\n" + "\n".join(rows))
    read = read_labeled(tmp_path)
    assert (read.problem_type, read.labels, read.targets.tolist()) == (MULTI_LABEL, ("cat", "dog"), [[1, 1], [0, 1]])
    assert read.notes == (
        f"{tmp_path}/boxes.csv: its rows are boxes; each picture has the classes of its boxes",
        f"{tmp_path}/boxes.csv: its pictures are in images",
    )
    assert levels_of(read) == [0, 1]
    put(tmp_path / "boxes.csv", "image,label,bbox\n0.png,cat,1\n1.png,,1\n")
    assert "boxes.csv, line 3 has no label" in refused(read_labeled, tmp_path)
    put(tmp_path / "boxes.csv", "image,label,bbox\n0.png,cat,1\n0.png,cat,2\n1.png,,1\n")
    assert "boxes.csv, line 4 has no label" in refused(read_labeled, tmp_path)


@pytest.mark.parametrize("around", [".", "default", "data"])
def test_parquet_in_the_folders_of_splits(tmp_path: Path, around: str) -> None:
    parquet(tmp_path / around / "train" / "0000.parquet", {"image": structs(2), "label": [0, 1]}, NAMED)
    parquet(tmp_path / around / "train" / "0001.parquet", {"image": structs(2, 2), "label": [2, 1]}, NAMED)
    parquet(tmp_path / around / "validation" / "0000.parquet", {"image": structs(1, 4), "label": [1]}, NAMED)
    put(tmp_path / "README.md", "")
    split = read_splits(tmp_path)
    assert split.train.targets.tolist() == [0, 1, 2, 1]
    assert levels_of(split.train) == [0, 1, 2, 3]
    assert (split.val.targets.tolist(), levels_of(split.val)) == ([1], [4])


def test_a_split_that_nobody_reads_may_be_damaged(tmp_path: Path) -> None:
    labeled(tmp_path, "train", "val")
    put(tmp_path / "test" / "labels.csv", b"\0")
    assert read_splits(tmp_path).train.labels == ("forest", "sea")
    assert "test/labels.csv: not text in UTF-8" in refused(read_labeled, tmp_path, "test")


# --- A table that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "labels.csv",
            "image,label\n0.png,caf\u00e9\n1.png,tea\n".encode("cp1252"),
            "not text in UTF-8 (line 2 holds caf",
        ),
        ("labels.csv", "image,label\n0.png,x\n1.png,y\n".encode("utf-16-le"), "as in UTF-16 without a byte order mark"),
        (
            "labels.csv",
            b"0.png,cat\n1.png,dog\n",
            "header line with the names of its columns, but begins with 0.png, cat;",
        ),
        ("labels.json", b'{"images": [1],\n "annotations": []}', "is a file of annotations as COCO has them"),
        (
            "labels.json",
            b'{"images": [1],\n "annotations": [], "info": 0}',
            "is a file of annotations as COCO has them",
        ),
        ("labels.json", b'{"images": [1], "annotations": []}', "is a file of annotations as COCO has them"),
        ("labels.csv", b"image~label\n0.png~x\n", "has one column only, called 'image~label'"),
        ("labels.csv", b"image label\n0.png x\n", "expected a comma, a semicolon, a tab or | between"),
        ("labels.csv", b"image,label;group\n0.png,x;1\n", "mixed: ',' and ';' in the header"),
        ("labels.csv", b"image,label|group\n0.png,x|1\n", "or name 'label|group' with label_column"),
        ("labels.csv", b"image,image\n0.png,x\n", "stands more than once"),
    ],
)
def test_a_table_beside_images_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    for number in range(2):
        put(tmp_path / "images" / f"{number}.png", encoded(number))
    put(tmp_path / name, content)
    for read in (read_splits, read_labeled):
        message = refused(read, tmp_path)
        assert message.startswith((f"{tmp_path / name}: ", f"{tmp_path / name}, line 1: "))
        assert expected in message


def test_two_tables_beside_images_are_both_named(tmp_path: Path) -> None:
    put(tmp_path / "images" / "0.png", encoded(0))
    for name in ("a.csv", "b.csv"):
        put(tmp_path / name, "image,label\n0.png,x\n")
    assert refused(read_splits, tmp_path) == (
        f"{tmp_path}: several tables could all hold the labels (a.csv, b.csv); name one of them as the data"
    )
    class_folders(tmp_path / "classes", cat=1, dog=1)
    for name in ("a.csv", "b.csv"):
        os.rename(tmp_path / name, tmp_path / "classes" / name)
    assert "several tables could all hold the labels (a.csv, b.csv)" in refused(read_splits, tmp_path / "classes")


@pytest.mark.parametrize("name", ["labels.csv", "metadata.jsonl", "data/train.parquet", "cat/0.png"])
def test_what_git_lfs_did_not_fetch_is_said(tmp_path: Path, name: str) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    put(tmp_path / name, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 394862120\n")
    place = tmp_path / name if name == "labels.csv" else tmp_path
    if name.endswith(".png"):
        [(_, message)] = find_unreadable(read_labeled(place))
    else:
        message = refused(read_labeled, place)
    assert message == (
        f"{tmp_path / name}: is a Git LFS pointer, which only stands for the file; git lfs pull, where it was cloned, "
        "gets the file"
    )


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_is_never_ignored_where_it_cannot_be_read(tmp_path: Path, name: str) -> None:
    class_folders(tmp_path / "data", camera1=2, camera2=2)
    put(tmp_path / "data" / name, "file_name,label\ncamera1/0.png,caf\u00e9\n".encode("utf-16-le"))
    assert refused(read_labeled, tmp_path / "data").startswith(f"{tmp_path / 'data' / name}: not text in UTF-8")
    labeled(tmp_path / "splits", "train")
    put(tmp_path / "splits" / "train" / name, b"\0")
    assert f"train/{name}: not text in UTF-8" in refused(read_splits, tmp_path / "splits")


def test_metadata_of_any_separator_is_read_or_refused(tmp_path: Path) -> None:
    class_folders(tmp_path, camera1=2, camera2=2)
    rows = (("camera1/0.png", "b"), ("camera1/1.png", "a"), ("camera2/0.png", "b"), ("camera2/1.png", "a"))
    for mark_between in (",", ";", "\t", "|"):
        lines = [mark_between.join(row) for row in (("file_name", "label"), *rows)]
        put(tmp_path / "metadata.csv", "\n".join(lines))
        read = read_labeled(tmp_path)
        assert (read.labels, read.targets.tolist(), levels_of(read)) == (("a", "b"), [1, 0, 1, 0], [0, 1, 2, 3])
    for mark_between in ("~", " ", ":"):
        lines = [mark_between.join(row) for row in (("file_name", "label"), *rows)]
        put(tmp_path / "metadata.csv", "\n".join(lines))
        assert f"metadata.csv: has one column only, called 'file_name{mark_between}label'" in refused(
            read_labeled, tmp_path
        )


# --- What is passed over ----------------------------------------------------------------------------------------------


def test_what_this_package_wrote_is_no_class_and_no_table(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    (tmp_path / "run").mkdir()
    mark(tmp_path / "run")
    put(tmp_path / "run" / "confusion_matrix.png", encoded(0))
    put(tmp_path / "run" / "checkpoints" / "checkpoint-1" / "x.png", encoded(0))
    put(tmp_path / "cat" / "out" / "mistakes.png", encoded(0))
    put(tmp_path / "cat" / "out" / "written-by-vit-hybrid.txt", "")
    put(tmp_path / "predictions.csv", "path,truth,predicted,correct,probability\ncat/0.png,cat,dog,0,0.9\n")
    read = read_labeled(tmp_path)
    assert (read.labels, len(read)) == (("cat", "dog"), 4)
    assert read.passed.counts() == {listing.OURS: 3}
    split = read_splits(tmp_path)
    assert split.passed.counts() == {listing.OURS: 3}
    assert pickle.loads(pickle.dumps(split)).passed.counts() == {}


def test_a_folder_with_results_alone_is_no_class(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=1, dog=1)
    for run in ("first", "second"):
        put(tmp_path / "runs" / run / "written-by-vit-hybrid.txt", "")
        put(tmp_path / "runs" / run / "curve.png", encoded(0))
    read = read_labeled(tmp_path)
    assert (read.labels, read.passed.counts()) == (("cat", "dog"), {listing.OURS: 2})


def test_results_among_tables_alone(tmp_path: Path) -> None:
    csv_file(tmp_path / "odd.csv", ["a", "b"], "where,what")
    put(tmp_path / "predictions.csv", "path,truth,predicted,correct,probability\npictures/0.png,a,b,0,0.9\n")
    assert read_labeled(tmp_path).labels == ("a", "b")
    put(tmp_path / "predictions.csv", "path,x truth,x predicted\npictures/0.png,1,2\n")
    assert read_labeled(tmp_path).passed.counts() == {listing.OURS: 1}


def test_folders_of_this_package_among_splits_and_parquet(tmp_path: Path) -> None:
    labeled(tmp_path / "a", "train", "val", "probe")
    parquet(tmp_path / "b" / "data" / "train.parquet", {"image": structs(2), "label": [0, 1]}, NAMED)
    parquet(tmp_path / "b" / "out" / "train.parquet", {"image": structs(2), "label": [1, 1]}, NAMED)
    for folder in (tmp_path / "a" / "probe", tmp_path / "b" / "out"):
        put(folder / "written-by-vit-hybrid.txt", "")
    put(tmp_path / "a" / "predictions.csv", "path,truth,predicted,correct,probability\n0.png,a,b,0,0.9\n")
    assert read_splits(tmp_path / "a").passed.counts() == {listing.OURS: 2}
    assert read_labeled(tmp_path / "b").targets.tolist() == [0, 1]


# --- Names that are no UTF-8 ------------------------------------------------------------------------------------------


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    data = os.fsencode(tmp_path) + b"/donn\xe9es"
    for name, count in ((b"caf\xe9", 3), (b"th\xe9", 2)):
        os.makedirs(data + b"/" + name)
        for number in range(count):
            with open(data + b"/" + name + b"/\xe9%d.png" % number, "wb") as file:
                file.write(encoded(number))
    split = read_splits(os.fsdecode(data))
    assert split.train.labels == ("caf\\xe9", "th\\xe9")
    assert levels_of(read_labeled(os.fsdecode(data))) == [0, 1, 2, 0, 1]
    assert split.described()[0].encode().endswith(b"donn\\xe9es: caf\\xe9 2, th\\xe9 1")
    copy = pickle.loads(pickle.dumps(split.train))
    assert levels_of(copy) == levels_of(split.train)
    assert os.fsencode(copy.name(0)).startswith(data + b"/caf\xe9/\xe9")
    with open(data + b"/caf\xe9/bad.png", "wb"):
        pass
    assert [reason for _, reason in find_unreadable(read_labeled(os.fsdecode(data)))] == [
        f"{tmp_path}/donn\\xe9es/caf\\xe9/bad.png: is empty"
    ]


def test_a_table_with_paths_that_are_no_utf_8(tmp_path: Path) -> None:
    for number in range(2):
        with open(os.fsencode(tmp_path) + b"/\xe9%d.png" % number, "wb") as file:
            file.write(encoded(number))
    put(tmp_path / "a.csv", b"path,label\n\xe90.png,x\n\xe91.png,y\n")
    assert levels_of(read_labeled(tmp_path / "a.csv")) == [0, 1]
    put(tmp_path / "a.csv", b"path,label\n\xe90.png,x\n\xe92.png,y\n")
    assert "a.csv: not text in UTF-8 (line 3 holds \\xe92.png)" in refused(read_labeled, tmp_path / "a.csv")
    table = os.fsencode(tmp_path) + b"/\xe9.csv"
    os.rename(tmp_path / "a.csv", table)
    assert refused(read_labeled, os.fsdecode(table)).startswith(f"{tmp_path}/\\xe9.csv: ")


def test_a_table_with_other_names_of_columns_beside_the_one_folder_of_its_pictures(tmp_path: Path) -> None:
    csv_file(tmp_path / "odd.csv", ["a", "b"], "where,what")
    assert read_labeled(tmp_path).labels == ("a", "b")
    csv_file(tmp_path / "odd.csv", ["a,1", "b,2"], "where,what,size")
    assert "odd.csv: cannot tell which column holds the labels" in refused(read_labeled, tmp_path)
    put(tmp_path / "odd.csv", "where,what\nelse/0.png,a\n")
    assert read_labeled(tmp_path).labels == ("pictures",)


def test_a_spreadsheet_beside_images_is_named(tmp_path: Path) -> None:
    put(tmp_path / "images" / "0.png", encoded(0))
    put(tmp_path / "labels.xlsx", b"PK")
    assert refused(read_splits, tmp_path).startswith(f"{tmp_path}/labels.xlsx: is a spreadsheet, which is not read")


@pytest.mark.parametrize("name", ["birds.csv", "metadata.csv"])
def test_a_column_of_splits(tmp_path: Path, name: str) -> None:
    rows = [("train", "a"), ("test", "b"), ("valid", "a"), ("train", "b"), ("test", "a")]
    for number, (split, _) in enumerate(rows):
        put(tmp_path / split / f"{number}.png", encoded(number))
    table = [f"{split}/{number}.png,{label},{split}" for number, (split, label) in enumerate(rows)]
    put(tmp_path / name, "\n".join(["filepaths,labels,data set", *table]))
    for place in (tmp_path, tmp_path / name):
        split = read_splits(place)
        assert (levels_of(split.train), split.train.targets.tolist()) == ([0, 3], [0, 1])
        assert (levels_of(split.val), split.val.targets.tolist()) == ([2], [0])
        assert levels_of(read_labeled(place, "test")) == [1, 4]
        assert sorted(levels_of(read_labeled(place))) == [0, 1, 2, 3, 4]
    put(tmp_path / name, "\n".join(["filepaths,labels,set", *table[:-1], "test/4.png,a,other"]))
    assert len(read_labeled(tmp_path)) == 5
    assert "it has no splits" in refused(read_labeled, tmp_path, "test")
    put(tmp_path / name, "\n".join(["filepaths,labels,data set", *table, "train/9.png,,train"]))
    assert f"{name}, line 7 has no label" in refused(read_splits, tmp_path)


def test_pictures_beside_folders_without_any(tmp_path: Path) -> None:
    labeled(tmp_path, "images")
    put(tmp_path / "meta" / "classes.txt", "forest\nsea\n")
    expected = ["images/forest", "images/sea"]
    assert found(tmp_path) == (("forest", "sea"), expected, expected)
    assert read_labeled(tmp_path).passed.counts() == {listing.OTHER: 1}
    put(tmp_path / "meta" / "forest" / "0.png", encoded(0))
    assert "(images, meta) say no classes" in refused(read_splits, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "image,label\ncat/0.png,x\ndog/0.png,y\n".encode("utf-16-le")),
        ("labels.csv", b'"image",label\ncat/0.png,"x\n'),
        ("labels.csv", b"image,label,label\ncat/0.png,x,y\n"),
        ("labels.csv", b"\xef\xbb\xbfimage,label,label\ncat/0.png,x,y\n"),
        ("train.jsonl", b'[{"image": "cat/0.png", "label": "x"},\n'),
        ("labels.json", '{"image": "cat/0.png", "label": "x"}'.encode("utf-16-le")),
    ],
)
def test_a_table_of_labels_that_cannot_be_read_is_not_passed_over_for_class_folders(
    tmp_path: Path, name: str, content: bytes
) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    put(tmp_path / name, content)
    assert refused(read_splits, tmp_path).startswith(f"{tmp_path / name}")


def test_boxes_of_detection_in_json_are_something_else_than_labels(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    boxes = {"images": [{"file_name": "cat/0.png", "id": 1}], "annotations": [{"image_id": 1, "category_id": 3}]}
    for indent in (None, 1):
        put(tmp_path / "instances.json", json.dumps(boxes, indent=indent))
        read = read_labeled(tmp_path)
        assert read.labels == ("cat", "dog")
        assert read.passed.counts() == {listing.TABLE: 1}
        assert not read.notes
    put(tmp_path / "instances.json", '{\n "image": "cat/0.png",\n "label": "x"\n}')  # one object, of something else
    assert read_labeled(tmp_path).labels == ("cat", "dog")


def test_folders_of_the_same_names_in_classes_are_parts_of_these(tmp_path: Path) -> None:
    for place in ("raw/cam1", "raw/cam2", "cooked/cam1", "cooked/cam2"):
        put(tmp_path / place / "0.png", encoded(0))
    assert read_labeled(tmp_path).labels == ("cooked", "raw")
    for place in ("color/a", "color/b", "gray/a"):  # of which no two are the same
        put(tmp_path / "versions" / place / "0.png", encoded(0))
    assert read_labeled(tmp_path / "versions").labels == ("color", "gray")


def test_masks_beside_the_images_of_a_class_are_no_pictures_of_it(tmp_path: Path) -> None:
    for number, name in enumerate(("covid", "normal")):
        put(tmp_path / name / "images" / "0.png", encoded(number))
        for mask in ("masks/deep/0.png", "masks/0.png"):
            put(tmp_path / name / mask, encoded(9))
    put(tmp_path / "normal" / "masks worn" / "0.png", encoded(2))  # which begins alike
    put(tmp_path / "normal" / "more" / "masks" / "0.png", encoded(3))
    read = read_labeled(tmp_path)
    assert (levels_of(read), read.targets.tolist()) == ([0, 1, 2, 3], [0, 1, 1, 1])
    assert read.passed.counts() == {listing.MASKS: 2}
    assert read.passed.line() == "passed over: 2 folders of masks beside images (covid/masks, ...)"
    for place in ("a/masks", "b/labels"):  # and nothing beside them
        put(tmp_path / "worn" / place / "0.png", encoded(0))
    assert len(read_labeled(tmp_path / "worn")) == 2


def test_a_table_of_labels_with_a_column_of_ids_too_comes_before_class_folders(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    put(tmp_path / "labels.csv", "id,image,label\n1,cat/0.png,x\n2,cat/1.png,y\n3,dog/0.png,x\n4,dog/1.png,y\n")
    read = read_labeled(tmp_path)
    assert (read.labels, levels_of(read), read.targets.tolist()) == (("x", "y"), [0, 1, 2, 3], [0, 1, 0, 1])


def test_a_list_of_class_names_does_not_hide_the_folder_of_classes(tmp_path: Path) -> None:
    labeled(tmp_path, "dataset")
    put(tmp_path / "classes.csv", "id,name\n7,forest\n8,sea\n")
    assert found(tmp_path)[0] == ("forest", "sea")
    for name in ("7", "8"):
        put(tmp_path / "other" / "images" / "images" / f"{name}.png", encoded(int(name)))
    put(tmp_path / "other" / "classes.csv", "id,name\n7,forest\n8,sea\n")
    assert levels_of(read_labeled(tmp_path / "other")) == [7, 8]
    put(tmp_path / "flat" / "images" / "0.png", encoded(0))
    put(tmp_path / "flat" / "classes.csv", "id,name\n7,forest\n8,sea\n")
    assert f"{tmp_path}/flat/classes.csv: none of its 2 pictures is there" in refused(read_labeled, tmp_path / "flat")


def test_a_table_to_be_filled_in_is_not_meant(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / "train" / f"x{number}.png", encoded(number))
        put(tmp_path / "test" / f"y{number}.png", encoded(number))
    put(tmp_path / "labels.csv", "image,label\n" + "".join(f"x{number},{LABELS[number]}\n" for number in range(3)))
    put(tmp_path / "sample_submission.csv", "image,label\ny0,scab\ny1,scab\n")
    read = read_labeled(tmp_path)
    assert [read.labels[target] for target in read.targets] == LABELS[:3]
    put(tmp_path / "labels.csv", "id,breed\n" + "".join(f"x{number},{LABELS[number]}\n" for number in range(3)))
    put(tmp_path / "sample_submission.csv", "id,rust,scab\ny0,0.5,0.5\n")
    read = read_labeled(tmp_path)
    assert (levels_of(read), [read.labels[target] for target in read.targets]) == ([0, 1, 2], LABELS[:3])
    os.unlink(tmp_path / "labels.csv")  # and alone it is named itself
    assert "sample_submission.csv: cannot tell which column holds the labels" in refused(read_labeled, tmp_path)


def test_other_tables_beside_those_of_splits_are_not_meant(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 3)
    for name, label in (("Train.csv", "a"), ("Test.csv", "b"), ("Meta.csv", "c")):
        put(tmp_path / name, "Path,ClassId\n" + "".join(f"{picture},{label}\n" for picture in names))
    assert read_labeled(tmp_path).labels == ("a", "b")
    assert read_labeled(tmp_path, "train").labels == ("a",)
    assert read_labeled(tmp_path).passed.counts() == {listing.TABLE: 1}


def test_weak_tables_beside_splits_of_class_folders_are_not_used(tmp_path: Path) -> None:
    labeled(tmp_path, "train", "val")
    put(tmp_path / "sums.csv", "file,md5\ntrain/forest/0.png,abc\ntrain/sea/0.png,def\n")
    expected = ([f"{place}/{name}" for name in ("forest", "sea")] for place in ("train", "val"))
    assert found(tmp_path) == (("forest", "sea"), *expected)
    assert read_splits(tmp_path).passed.counts() == {listing.TABLE: 1}


@pytest.mark.parametrize("inside", ["", "valid"])
def test_patients_whose_labels_a_table_has_are_no_classes(inside: str, tmp_path: Path) -> None:
    """As in CheXpert: train.csv with a column for each finding beside train/patient00001/study1/view1.png."""
    for part in filter(None, ("train", inside)):
        rows = []
        for number in range(4):
            name = f"{part}/patient{number:05}/study1/view1.png"
            put(tmp_path / name, encoded(number))
            rows.append(f"{name},Male,{60 + number},{'yes' if number % 2 else 'no'},")
        put(tmp_path / f"{part}.csv", "\n".join(["Path,Sex,Age,Edema,Fracture", *rows]) + "\n")
    message = refused(read_splits, tmp_path)
    assert "train.csv: cannot tell which column holds the labels; its columns are Sex, Age, Edema, Fracture" in message
    split = read_splits(tmp_path, label_column="Edema", val_fraction=0.5)
    assert split.train.labels == ("no", "yes")
    assert len(split.val) == (4 if inside else 2)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("patient00001", "patient2"), True),
        (("Subject 1", "subject_02", "subject-3"), True),
        (("patient1",), False),
        (("n01440764", "n01443537"), False),
        (("00001", "00002"), False),
        (("class1", "class2"), False),
        (("cat1", "dog2"), False),
        (("001.Albatross", "002.Auklet"), False),
    ],
)
def test_names_that_are_counted(names: tuple[str, ...], expected: bool) -> None:
    assert are_counted(names) == expected


def test_a_box_without_a_label_is_named_by_its_line(tmp_path: Path) -> None:
    put(tmp_path / "boxes.csv", "image,label,bbox\n0.png,cat,1\n0.png,cat,2\n1.png,,3\n")
    assert "boxes.csv, line 4 has no label" in refused(read_labeled, tmp_path / "boxes.csv")

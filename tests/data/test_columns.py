"""Which columns of a table hold pictures and labels, by their names and by what is in them."""

from __future__ import annotations

import pytest
from labeled_files import refused

from vit_hybrid.data import DataError
from vit_hybrid.data.columns import (
    ColumnChoice,
    Columns,
    choose_columns,
    has_boxes,
    is_picture_name,
    picture_column,
    says_labels,
    split_column,
)

GUESSED = ColumnChoice()


def chosen(*names: str, choice: ColumnChoice = GUESSED) -> Columns:
    return choose_columns("a.csv", dict.fromkeys(names, "text"), choice)


@pytest.mark.parametrize(
    ("names", "image", "label"),
    [
        (("note", "Image-Name", "Class Name"), "Image-Name", "Class Name"),
        (("note", "FILE NAME", "class-id"), "FILE NAME", "class-id"),
        (("id", "y", "image", "label"), "image", "label"),  # the likelier names, wherever they stand
        (("", "Unnamed: 0", "file", "anything"), "file", "anything"),  # numbers of rows, as pandas writes them
        (("score", "category", "path"), "path", "category"),
        # as tables of well-known data sets call them
        (("id_code", "diagnosis", "x"), "id_code", "diagnosis"),
        (("lesion_id", "image_id", "dx", "age"), "image_id", "dx"),
        (("id", "breed", "x"), "id", "breed"),
        (("class id", "filepaths", "labels", "data set"), "filepaths", "labels"),
        (("image_name", "patient_id", "target"), "image_name", "target"),
        (("img_path", "class_name", "x"), "img_path", "class_name"),
        (("photo", "tags", "x"), "photo", "tags"),
        (("filenames", "species", "x"), "filenames", "species"),
        (("Width", "ClassId", "Path"), "Path", "ClassId"),
        (("img_id", "level", "x"), "img_id", "level"),
        (("picture", "categories", "x"), "picture", "categories"),
        (("file_id", "category_id", "x"), "file_id", "category_id"),
        (("img_name", "label_name", "x"), "img_name", "label_name"),
        (("image_file", "classes", "x"), "image_file", "classes"),
        (("filepath", "targets", "x"), "filepath", "targets"),
        (("file_path", "label_id", "x"), "file_path", "label_id"),
        (("img", "values", "x"), "img", "values"),
        (("image_path", "score", "x"), "image_path", "score"),
    ],
)
def test_names_in_any_spelling_the_likelier_ones_first(names: tuple[str, ...], image: str, label: str) -> None:
    assert chosen(*names) == Columns(image, (label,))


def test_a_column_that_is_called_so_before_several() -> None:
    assert chosen("image", "a,b", "a", "b", choice=ColumnChoice(label="a,b")).labels == ("a,b",)
    assert chosen("image", "a", "b", choice=ColumnChoice(label="a, b")).labels == ("a", "b")
    said = "a.csv: label_column names no column; expected one or several"
    assert refused(chosen, "image", "a", choice=ColumnChoice(label=[])) == said
    said = "a.csv: label_column names a column twice: a, b, a; name each once"
    assert refused(chosen, "image", "a", "b", choice=ColumnChoice(label="a,b,a")) == said
    with pytest.raises(DataError, match=r"^a\.csv: no column 'c'"):
        chosen("image", "a", choice=ColumnChoice(label="a,c"))


@pytest.mark.parametrize(
    ("value", "is_picture"),
    [("a/b.JPG", True), ("IMG_1.HEIC", True), (" a.png ", True), ("a.csv", False), ("a", False), (7, False)],
)
def test_names_of_pictures(value: object, is_picture: bool) -> None:
    assert is_picture_name(value) == is_picture


def test_a_table_of_pictures_as_phones_call_them_is_one() -> None:
    assert says_labels({"what": "IMG_1.heic", "species": "cat"}, GUESSED) == ("what", True, True)


def test_the_one_column_beside_the_pictures_is_of_labels_but_for_the_numbers_of_rows() -> None:
    assert says_labels({"": "0", "what": "1.jpg", "kind": "cat"}, GUESSED) == ("what", True, False)
    assert says_labels({"what": "1.jpg", "kind": "cat", "place": "here"}, GUESSED) == ("what", False, False)
    assert says_labels({"what": "1.jpg", "a": "1", "b": "0"}, GUESSED) == ("what", True, False)
    assert says_labels({"what": "1.jpg", "a": "1", "b": "x"}, GUESSED) == ("what", False, False)
    assert says_labels({"what": "1.jpg"}, GUESSED) == ("what", False, False)


def test_a_column_of_ids_is_surely_one_of_pictures_where_that_is_said() -> None:
    table = {"id": "7", "label": "cat"}
    assert says_labels(table, GUESSED) == ("id", True, False)
    assert says_labels(table, ColumnChoice(image="id")) == ("id", True, True)
    for name, is_sure in (("id_code", False), ("File ID", False), ("image_id", True), ("img_id", True), ("file", True)):
        assert says_labels({name: "7", "label": "cat"}, GUESSED) == (name, True, is_sure)


def test_labels_are_told_by_the_names_that_somebody_gave() -> None:
    table = {"image": "1.jpg", "of it": "a", "z": "b"}
    for label, expected in (
        ("of it", (True, True)),
        ("none, of it", (True, True)),
        ("of it,none", (True, True)),
        (["none", "of it"], (True, True)),
        ("none", (False, False)),
    ):
        assert says_labels(table, ColumnChoice(label=label)) == ("image", *expected)
    assert says_labels(table, ColumnChoice(image="z")) == ("z", False, False)
    assert says_labels({"what": "x", "kind": "cat"}, GUESSED) == (None, False, False)


SWITCHES = {"image": ["1.jpg", "2.jpg"], "cat": [" 1", "0.0"], "dog": ["0 ", "1.0"]}


def test_columns_of_0_and_1_are_labels_where_none_is_called_so() -> None:
    def guessed(table: dict[str, list[str]]) -> Columns:
        return choose_columns("a.csv", dict.fromkeys(table, "text"), GUESSED, table.__getitem__)

    assert guessed(SWITCHES) == Columns("image", ("cat", "dog"), True)
    assert guessed({**SWITCHES, "class": ["0", "1"]}) == Columns("image", ("class",))
    assert guessed({"image": ["1.jpg"], "cat": ["0"]}) == Columns("image", ("cat",))
    named = {"class": ["1.jpg"], "cat": ["0"], "dog": ["1"]}  # with the pictures in a column called as labels are
    columns = choose_columns("a.csv", dict.fromkeys(named, "text"), ColumnChoice(image="class"), named.__getitem__)
    assert columns == Columns("class", ("cat", "dog"), True)
    for odd in (["0", "2"], []):
        assert "cannot tell which column holds the labels" in refused(guessed, {**SWITCHES, "dog": odd})
    assert "cannot tell which column holds the labels" in refused(chosen, *SWITCHES)  # of which nobody has the values


def test_the_one_column_with_names_of_pictures_alone_has_the_pictures() -> None:
    def image(**table: list[str]) -> str:
        return picture_column("a.csv", dict.fromkeys(table, "text"), None, table.__getitem__)

    assert image(what=["1.jpg", "2.heic"], other=["x", "1.jpg"]) == "what"
    assert image(what=["1.jpg"], path=["x"]) == "path"  # which is called so
    for table in ({"a": ["1.jpg"], "b": ["2.jpg"]}, {"a": ["1.jpg", "x"]}, {"a": []}, {"a": ["x"]}):
        assert "a.csv: cannot tell which column holds the pictures; its columns are a" in refused(image, **table)
    assert picture_column("a.parquet", {"a": "image", "path": "text"}) == "a"
    message = refused(picture_column, "a.parquet", {"a": "image", "b": "image", "path": "text"})
    assert "a, b could all hold the pictures; its columns are a, b, path: name one with image_column" in message
    assert picture_column("a.parquet", {"a": "image", "Photo": "image", "path": "text"}) == "Photo"


def test_a_table_of_pictures_alone_has_no_labels() -> None:
    assert refused(chosen, "path") == (
        "a.csv: cannot tell which column holds the labels; its columns are none: name one with label_column"
    )


def test_of_many_columns_an_error_names_twelve() -> None:
    for count, more in ((12, ""), (13, " and 1 more"), (15, " and 3 more")):
        names = ["image", *(f"c{number}" for number in range(1, count))]
        shown = ", ".join(names[:12])
        with pytest.raises(DataError, match=f"no column 'x'; its columns are {shown}{more}$"):
            chosen(*names, choice=ColumnChoice(label="x"))


def test_a_column_is_one_of_splits_where_all_in_it_are() -> None:
    assert split_column({"image": ["a"], "Set": [" Train", "valid", "TEST"]}) == "Set"
    for name in ("split", "subset", "Partition", "data set", "dataset", "usage"):
        assert split_column({name: ["train"]}) == name
    assert split_column({"part": ["train"]}) is None
    assert split_column({"set": ["train", "chess"]}) is None
    assert split_column({"set": []}) is None


def test_boxes_have_all_of_their_sides() -> None:
    assert has_boxes(["image", "XMin", "ymin", "xmax", "ymax"])
    assert has_boxes(["X_min", "y_min", "x_max", "y_max", "image"])
    assert has_boxes(["bbox"])
    assert not has_boxes(["image", "xmin", "xmax"])

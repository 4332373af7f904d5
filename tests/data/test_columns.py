"""Which columns of a table hold pictures and labels, by their names and by what is in them."""

from __future__ import annotations

import pytest

from vit_hybrid.data import DataError
from vit_hybrid.data.columns import (
    ColumnChoice,
    Columns,
    choose_columns,
    has_boxes,
    is_picture_name,
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
    ],
)
def test_names_in_any_spelling_the_likelier_ones_first(names: tuple[str, ...], image: str, label: str) -> None:
    assert chosen(*names) == Columns(image, (label,))


def test_a_column_that_is_called_so_before_several() -> None:
    assert chosen("image", "a,b", "a", "b", choice=ColumnChoice(label="a,b")).labels == ("a,b",)
    assert chosen("image", "a", "b", choice=ColumnChoice(label="a, b")).labels == ("a", "b")
    with pytest.raises(DataError, match="no column 'c'"):
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
    assert says_labels({"what": "1.jpg"}, GUESSED) == ("what", False, False)


def test_a_column_of_ids_is_surely_one_of_pictures_where_that_is_said() -> None:
    table = {"id": "7", "label": "cat"}
    assert says_labels(table, GUESSED) == ("id", True, False)
    assert says_labels(table, ColumnChoice(image="id")) == ("id", True, True)


def test_of_many_columns_an_error_names_twelve() -> None:
    for count, more in ((12, ""), (13, " and 1 more"), (15, " and 3 more")):
        names = ["image", *(f"c{number}" for number in range(1, count))]
        shown = ", ".join(names[:12])
        with pytest.raises(DataError, match=f"no column 'x'; its columns are {shown}{more}$"):
            chosen(*names, choice=ColumnChoice(label="x"))


def test_a_column_is_one_of_splits_where_all_in_it_are() -> None:
    assert split_column({"image": ["a"], "Set": [" Train", "valid", "TEST"]}) == "Set"
    assert split_column({"set": ["train", "chess"]}) is None
    assert split_column({"set": []}) is None


def test_boxes_have_all_of_their_sides() -> None:
    assert has_boxes(["image", "XMin", "ymin", "xmax", "ymax"])
    assert has_boxes(["bbox"])
    assert not has_boxes(["image", "xmin", "xmax"])

"""From a column of labels to targets, value by value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from labeled_files import refused

from vit_hybrid.data import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from vit_hybrid.data.targets import LabelColumn, UnexpectedLabels, interpret, joined, listed


def column(values: Sequence[Any], name: str = "label", row: str = "row {}", **options: Any) -> LabelColumn:
    return LabelColumn(name, values, row.format, **options)


@pytest.mark.parametrize(
    ("lists", "labels", "targets"),
    [
        ([[1, 1], [0, 0]], ("0", "1"), [[1, 1], [0, 0]]),  # a 0 or 1 for each class, as some picture has one twice
        ([[0, 1], [1, 0]], ("0", "1"), [[1, 1], [1, 1]]),
        ([[0, 1, 1], [0]], ("0", "1"), [[1, 1], [1, 0]]),
        ([[0, 1, 1], [2, 1, 1]], ("0", "1", "2"), [[1, 1, 0], [0, 1, 1]]),
        ([[1.0, 3.0], [3.0]], ("1", "3"), [[1, 1], [0, 1]]),
        ([[True], [False, True]], ("false", "true"), [[0, 1], [1, 1]]),
    ],
)
def test_lists_are_classes_but_for_those_of_0_and_1_for_each(
    lists: list[list[Any]], labels: tuple[str, ...], targets: list[list[int]]
) -> None:
    found = interpret(column(lists))
    assert (found.problem_type, found.labels, found.values.tolist()) == (MULTI_LABEL, labels, targets)


@pytest.mark.parametrize(
    ("values", "problem_type", "targets"),
    [
        ([1, 0, 1], None, [1, 0, 1]),
        ([2.0, 0.0, 2.0], None, [2, 0, 2]),
        ([[0, 1, 0], [1, 1, 0]], None, [[0, 1, 0], [1, 1, 0]]),
        ([[2], [0, 2]], None, [[0, 0, 1], [1, 0, 1]]),
        ([-1, 1], None, None),
        ([3, 1], None, None),
        (["0", "1"], None, None),  # text, which names classes
        ([0.5, 1.5], SINGLE_LABEL, None),
    ],
)
def test_whole_numbers_are_positions_of_labels_where_there_is_one_for_each(
    values: list[Any], problem_type: str | None, targets: list[Any] | None
) -> None:
    if targets is None:
        with pytest.raises(UnexpectedLabels):
            interpret(column(values), problem_type, ["a", "b", "c"])
        return
    found = interpret(column(values), problem_type, ["a", "b", "c"])
    assert (found.labels, found.values.tolist(), found.numbered) == (("a", "b", "c"), targets, False)


def test_labels_without_a_picture_have_their_places_too() -> None:
    found = interpret(column([0, 1, 0], names=("cat", "dog", "eel")), None, ["eel", "dog", "cat"])
    assert (found.labels, found.values.tolist()) == (("eel", "dog", "cat"), [2, 1, 2])
    assert interpret(column([0, 1, 0], names=("cat", "dog", "eel")), None, ["dog", "cat"]).values.tolist() == [1, 0, 1]
    several = column([[0], [0, 1]], names=("cat", "dog", "eel"))
    assert interpret(several, None, ["dog", "cat"]).values.tolist() == [[0, 1], [1, 1]]
    without_cats = column([[1], [1, 2]], names=("cat", "dog", "eel"))
    assert interpret(without_cats, None, ["eel", "dog"]).values.tolist() == [[0, 1], [1, 1]]
    with pytest.raises(UnexpectedLabels, match="dog"):  # which one of the pictures has
        interpret(several, None, ["eel", "cat"])


def test_numbers_as_people_write_them() -> None:
    found = interpret(column([".5", "5.", "+1.5", "-1E-1", " 2e+2 "], is_text=True))
    assert (found.problem_type, found.values[:, 0].tolist()) == (REGRESSION, pytest.approx([0.5, 5, 1.5, -0.1, 200]))
    for words in (["0.5", "."], ["0.5", "1e"], ["0.5", "1,5"], ["0.5", "--1"]):
        assert "mixes types" in refused(interpret, column(words, is_text=True))
    for cells in (["1", "NAN"], ["1.5", "naN"]):  # in letters of which no word for what is missing is written
        assert refused(interpret, column(cells, is_text=True)) == (
            "row 1 has no label in column 'label': add it, or drop it"
        )
    assert "row 1 has no label" in refused(interpret, column(["1", "NAN"], is_text=True), SINGLE_LABEL)
    assert interpret(column(["cat", "NAN"], is_text=True)).labels == ("NAN", "cat")  # among words it is one
    found = interpret(column([[3, 0], [2, 1]], "x, y", parts=("x", "y")))
    assert (found.problem_type, found.labels, found.values.tolist()) == (REGRESSION, ("x", "y"), [[3, 0], [2, 1]])
    found = interpret(column(["-3", "0", "+1", "12"], is_text=True))
    assert (found.problem_type, found.labels) == (SINGLE_LABEL, ("-3", "0", "1", "12"))


def test_numbers_of_thousands_of_digits_are_too_large() -> None:
    digits = "9" * 5_000
    for cell in (digits, f"-{digits}"):
        assert "row 0: " in refused(interpret, column([cell, "2"], is_text=True))
        assert "inf in column 'label' is not a finite number" in refused(interpret, column([cell, "2"], is_text=True))
    assert interpret(column(["9" * 30, "2"], is_text=True)).labels == ("2", "9" * 30)


def test_cells_of_several_are_what_the_kind_of_problem_wants() -> None:
    found = interpret(column(["0.5|1", "1"], is_text=True), MULTI_LABEL)
    assert (found.labels, found.values.tolist()) == (("0.5", "1"), [[1, 1], [0, 1]])
    found = interpret(column(["1|cat", "2"], is_text=True))
    assert (found.labels, found.values.tolist()) == (("1", "2", "cat"), [[1, 0, 1], [0, 1, 0]])
    found = interpret(column([[0.5, 1.0], [1.0]]), MULTI_LABEL)
    assert (found.labels, found.numbered) == (("0.5", "1.0"), False)
    found = interpret(column(["1|2", "3;4"], is_text=True), REGRESSION)
    assert (found.labels, found.values.tolist()) == (("label_0", "label_1"), [[1, 2], [3, 4]])
    found = interpret(column(["1", "02"], is_text=True), REGRESSION)
    assert (found.labels, found.values.tolist()) == (("label",), [[1], [2]])


@pytest.mark.parametrize(
    ("values", "problem_type", "message"),
    [
        ([[], []], REGRESSION, "the values in column 'label' are lists of 0 numbers; expected as many for every"),
        ([0.5, float("inf")], None, "row 1: inf in column 'label' is not a finite number"),
        (["a", "b"], REGRESSION, "row 0: 'a' in column 'label' is not a finite number"),
        ([[0.5, 1], [2, "x"]], None, "row 1: [2, 'x'] in column 'label' is not a finite number"),
        (
            ["NA", "cat", "None"],
            None,
            "row 0 (rows without one: 2) has no label in column 'label': add it, or drop it; if",
        ),
        (["cat", "None", "NA"], None, "if 'NA', 'None' is a class, say na_as_class=True"),
        ([[1, "x"]], None, "the label column 'label' mixes types in its lists: 'x', 1; give all of them as numbers or"),
        (
            [[1], [[2]]],
            None,
            "row 1: the label column 'label' holds a list of list; expected integers, numbers, text, or",
        ),
        (
            [["a", {"b": 1}]],
            None,
            "row 0: the label column 'label' holds a list of dict; expected integers, numbers, text",
        ),
        ([1, None], None, "row 1 has no label in column 'label': add it, or drop it"),
        (
            [1, 2],
            "ranking",
            "must be one of single_label_classification, multi_label_classification, regression, got 'ran",
        ),
        (
            ["x", (1,)],
            None,
            "row 1: the label column 'label' holds tuple; expected integers, numbers, text, or lists of",
        ),
    ],
)
def test_what_is_no_target_is_refused_by_its_row(values: list[Any], problem_type: str | None, message: str) -> None:
    assert message in refused(interpret, column(values), problem_type)


@pytest.mark.parametrize(
    ("values", "is_text", "problem_type", "message"),
    [
        (
            [[1, 0], [2, 1]],
            False,
            MULTI_LABEL,
            "the columns x, y hold other values than 0 and 1; expected these in multi",
        ),
        (
            [["a", "b"]],
            False,
            MULTI_LABEL,
            "the columns x, y hold other values than 0 and 1; expected these in multi_label",
        ),
        ([["a", "b"]], False, SINGLE_LABEL, "row 0: the columns x, y hold a, b; expected one 1, and 0 in the others"),
        ([["a", "b"]], False, None, "row 0: ['a', 'b'] in column 'x, y' is not a finite number"),
        ([[[1], 2]], False, None, "row 0: the label column 'x, y' holds a list of list; expected integers"),
        ([["1", ""], ["0", "1"]], True, None, "row 0 has no label in column 'x, y'"),
        ([["1", "0"], ["0", "NA"]], True, None, "row 1 has no label in column 'x, y'"),
        ([["1", "0"], ["two", "1"]], True, None, "row 1: 'two' in column 'x, y' is not a number"),
        (
            [[1, 1], [0, 1]],
            False,
            SINGLE_LABEL,
            "row 0: the columns x, y hold 1, 1; expected one 1, and 0 in the others",
        ),
        ([[0, 1], [0.5, 0.5]], False, SINGLE_LABEL, "row 1: the columns x, y hold 0.5, 0.5; expected one 1"),
    ],
)
def test_what_several_columns_cannot_hold(
    values: list[Any], is_text: bool, problem_type: str | None, message: str
) -> None:
    assert message in refused(interpret, column(values, "x, y", is_text=is_text, parts=("x", "y")), problem_type)


def test_names_in_errors_are_few_and_short() -> None:
    assert listed(["a" * 60, "b" * 61]) == f"{'a' * 60}, {'b' * 28} ... {'b' * 27}"
    assert listed([1, 2, 3, 4, 5]) == "1, 2, 3, 4, 5"
    assert listed(iter("abcdefgh")) == "a, b, c, d, e and 3 more"
    assert listed("abc", 2) == "a, b and 1 more"
    assert listed([]) == ""


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (column([[1, 0]], "cat, eel", "other {}", parts=("cat", "eel")), "other 0 cat, eel"),
        (column([[1, 0, 0]], "cat, dog, eel", "other {}", parts=("cat", "dog", "eel")), "other 0 cat, dog, eel"),
        (column([[1, 0]], "tags", "other {}"), "other 0 tags"),
    ],
)
def test_columns_of_labels_that_differ_between_files_are_refused(other: LabelColumn, said: str) -> None:
    first = column([[0, 1]], "cat, dog", parts=("cat", "dog"))
    message = (
        f"the columns of labels differ: row 0 has cat, dog, {said}; give all tables the same ones, or name the columns "
        "with label_column"
    )
    assert refused(joined, [first, other]) == message
    assert refused(joined, [other, first]).startswith(
        f"the columns of labels differ: {said.replace('0 ', '0 has ')}, row"
    )


def test_columns_of_several_files_are_one_whatever_each_calls_its_classes() -> None:
    names = ("cat", "dog", "eel")
    same = joined([column([0, 2], names=names), column([1], row="other {}", names=names)])
    assert (same.values, same.names) == ([0, 2, 1], names)
    assert [same.where(row) for row in range(3)] == ["row 0", "row 1", "other 0"]
    mixed = joined([column([0, -1, 3], names=names), column(["dog"]), column([1], names=("ant", "bee"))])
    assert (mixed.values, mixed.names) == (["cat", None, None, "dog", "bee"], None)
    lists = joined([column([[0, 2], []], names=names), column([["eel"]])])
    assert lists.values == [["cat", "eel"], [], ["eel"]]
    assert (joined([column([1], "first"), column([2], "second")]).name, joined([column([1], "one")]).name) == (
        "first",
        "one",
    )
    order = joined(
        [
            column([["1", "0"]], parts=("cat", "dog"), is_text=True),
            column([["1", "0"]], parts=("dog", "cat"), is_text=True),
            column([[0, 1], None], parts=("dog", "cat")),
        ]
    )
    assert (order.parts, order.values, order.is_text) == (("cat", "dog"), [[1, 0], [0, 1], [1, 0], None], False)
    turned = [column([[3, 1, 2]], parts=("a", "b", "c")), column([[10, 20, 30]], parts=("b", "c", "a"))]
    assert joined(turned).values == [[3, 1, 2], [30, 10, 20]]
    cells = joined([column(["1", "", "2"], is_text=True), column([2])])
    assert (cells.values, cells.is_text) == ([1, None, 2, 2], False)

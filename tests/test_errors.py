"""What an error says: one line, short, writable everywhere, with the names that the reader knows."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from vit_hybrid.errors import (
    MOST_CHARACTERS,
    argument,
    escaped,
    needs,
    one_line,
    options_named,
    options_named_in_this_thread,
    reason,
    shortened,
    shown,
)


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    assert shortened("a" * 20, 20) == "a" * 20
    assert shortened("0123456789" * 3, 20) == "01234567 ... 3456789"
    message = one_line("first\n" + "x" * 9000 + " last")
    assert len(message) == MOST_CHARACTERS < 500
    assert message.startswith("first x")
    assert message.endswith("x last")
    assert len(shown("/".join(["folder"] * 999))) == 200
    assert shown("one\nname and more", 10) == "one ... re"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (os.fsdecode(b"\xe9t\xe9.jpg"), r"\xe9t\xe9.jpg"),
        ("caf\u00e9 \u2615", "caf\u00e9 \u2615"),
        ("\ud83d half", r"\ud83d half"),
    ],
)
def test_names_that_are_no_utf_8_are_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected
    assert escaped(expected) == expected
    assert one_line(ValueError(text)) == expected
    expected.encode()


def test_the_text_of_an_error() -> None:
    assert one_line(KeyError()) == "KeyError"
    assert reason(OSError(13, "Permission denied", b"\xe9/a")) == "\\xe9/a: Permission denied"


def test_arguments_are_named_as_the_reader_types_them() -> None:
    assert argument("label_column") == "label_column"
    assert argument("problem_type", "regression") == "problem_type='regression'"
    assert argument("strict", True) == "strict=True"
    with options_named({"calibration": "--calibration DIR"}):
        assert argument("label_column") == "--label-column"
        assert argument("problem_type", "regression") == "--problem-type regression"
        assert argument("strict", True) == "--strict"
        assert argument("calibration") == "--calibration DIR"
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(argument, "label_column").result() == "--label-column"
        with options_named():
            assert argument("calibration") == "--calibration"
        assert argument("calibration") == "--calibration DIR"
    assert argument("label_column") == "label_column"
    with pytest.raises(ZeroDivisionError), options_named():
        _ = 1 / 0
    assert argument("label_column") == "label_column"


def test_one_thread_may_name_options_and_the_others_not() -> None:
    with ThreadPoolExecutor(1) as executor, options_named_in_this_thread():
        assert argument("label_column") == "--label-column"
        with options_named_in_this_thread():
            assert argument("label_column") == "--label-column"
        assert argument("label_column", "a") == "--label-column a"  # also behind the inner one
        assert executor.submit(argument, "label_column").result() == "label_column"
    assert argument("label_column") == "label_column"
    with pytest.raises(ZeroDivisionError), options_named_in_this_thread():
        _ = 1 / 0
    assert argument("label_column") == "label_column"


def test_what_is_missing_is_named_with_its_extra() -> None:
    said = needs("rows in parquet", ["pyarrow", "numpy"], "parquet")
    assert (
        said == "rows in parquet needs pyarrow, numpy, not installed here; pip install 'vit-hybrid[parquet]' brings it."
    )

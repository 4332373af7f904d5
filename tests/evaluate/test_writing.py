"""The files that keep an evaluation: what stands in the table, in the metrics, and on the sheet of mistakes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vit_hybrid.evaluate import Evaluation, write_files
from vit_hybrid.images.reading import ImageReadError
from vit_hybrid.outputs import figures
from vit_hybrid.outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL


def picture(index: int) -> Image.Image:
    """Of 16 bits, whose level of 255 is its place; one of the places has none any more."""
    if index == 6:
        raise ImageReadError("6", "is gone")
    return Image.fromarray(np.full((2, 2), 257 * index, np.uint16))


def made(problem_type: str, logits: Any, targets: Any, **more: Any) -> Evaluation:
    """An evaluation of pictures that stood among others: every second of them."""
    return Evaluation(
        problem_type=problem_type,
        labels=("a", "b"),
        scores={},  # type: ignore[typeddict-item]
        paths=tuple(f"in/{index}.png" for index in range(len(logits))),
        logits=np.array(logits, np.float32),
        targets=np.array(targets),
        rows=2 * np.arange(len(logits)),
        pictures=SimpleNamespace(picture=picture),  # type: ignore[arg-type]
        **more,
    )


def sheet_of(found: Evaluation, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[tuple[Any, ...]]]:
    """The title of the sheet of mistakes, and for each picture there its level and the lines below it."""
    sheets: list[tuple[str, list[tuple[Any, ...]]]] = []

    def contact_sheet(items: Any, path: Path, title: str) -> None:
        assert path == folder / "mistakes.png"
        sheets.append((title, [(shown.convert("RGB").getpixel((0, 0))[0], *lines) for shown, lines in items]))

    monkeypatch.setattr(figures, "contact_sheet", contact_sheet)
    write_files(found, folder)
    [sheet] = sheets
    return sheet


def test_below_a_mistake_stands_what_it_is_and_what_it_is_taken_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = np.log([[1, 3], [4, 1], [1, 9], [1, 99]])
    assert sheet_of(made(SINGLE_LABEL, logits, [0, 0, 0, 0]), tmp_path, monkeypatch) == (
        "3 of 3 mistakes in 4 pictures, the worst first",
        [(4, "is a", "taken for b 90%", "2.png"), (0, "is a", "taken for b 75%", "0.png")],  # the worst cannot be read
    )


def test_of_many_mistakes_the_worst_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = [[0, 40 - index] for index in range(40)]
    title, items = sheet_of(made(SINGLE_LABEL, logits, [0] * 40), tmp_path, monkeypatch)
    assert title == "24 of 40 mistakes in 40 pictures, the worst first"
    assert [one[0] for one in items] == [2 * index for index in range(24) if index != 3]


def test_mistakes_that_are_as_bad_come_in_the_order_of_the_pictures() -> None:
    assert [one.index for one in made(SINGLE_LABEL, [[0, 1]] * 40, [0] * 40).mistakes(3)] == [0, 2, 4]


def test_mistakes_are_those_of_all_pictures_however_many_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    given = [
        (SINGLE_LABEL, random.integers(0, 2, 9)),
        (MULTI_LABEL, random.integers(0, 2, (9, 2))),
        (REGRESSION, random.normal(size=(9, 2))),
    ]
    found = [made(problem_type, random.normal(size=(9, 2)), targets) for problem_type, targets in given]
    expected = [one.mistakes() for one in found]
    tables = [[*one.probabilities_by_picture()] for one in found]
    parts = [slice(0, 2), slice(2, 6), slice(6, 9)]
    monkeypatch.setattr("vit_hybrid.evaluate.evaluation.blocks", lambda *_: parts)
    assert [one.mistakes() for one in found] == expected
    np.testing.assert_array_equal([[*one.probabilities_by_picture()] for one in found], tables)


def test_of_other_problems_a_mistake_has_no_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = made(MULTI_LABEL, [[1, -1], [2, 2], [-2, -2]], [[1, 0], [0, 0], [1, 1]])
    assert sheet_of(several, tmp_path, monkeypatch) == (
        "2 of 2 mistakes in 3 pictures, the worst first",
        [(2, "is nothing", "taken for a|b", "1.png"), (4, "is a|b", "taken for nothing", "2.png")],
    )
    values = made(REGRESSION, [[1, 0.5], [2, 0.123456]], [[1, 0.5], [2.5, 0.25]])
    assert sheet_of(values, tmp_path, monkeypatch) == (
        "The 1 largest errors of 2 pictures",
        [(2, "is 2.5, 0.25", "taken for 2, 0.1235", "1.png")],
    )
    many = made(REGRESSION, [[40 - index, 0] for index in range(40)], [[0, 0]] * 40)
    title, items = sheet_of(many, tmp_path, monkeypatch)
    assert (title, len(items)) == ("The 24 largest errors of 40 pictures", 23)  # of which one cannot be read
    none = made(SINGLE_LABEL, [[1, 0]], [0])
    assert sheet_of(none, tmp_path, monkeypatch) == ("No mistakes in 1 pictures", [])


@pytest.mark.parametrize(
    ("problem_type", "logits", "targets", "table"),
    [
        (
            MULTI_LABEL,
            [[1, -1], [2, 2], [0, 0]],
            [[1, 0], [1, 0], [0, 0]],
            [
                "path,truth,predicted,correct,a,b",
                "in/0.png,a,a,1,0.731059,0.268941",
                "in/1.png,a,a|b,0,0.880797,0.880797",
                "in/2.png,,,1,0.500000,0.500000",
            ],
        ),
        (
            REGRESSION,
            [[1, 0.5], [2, 0.125]],
            [[1, 0.5], [2.5, 0.25]],
            ["path,a truth,b truth,a predicted,b predicted", "in/0.png,1.0,0.5,1.0,0.5", "in/1.png,2.5,0.25,2.0,0.125"],
        ),
    ],
)
def test_a_row_of_the_table_has_truth_and_outputs(
    problem_type: str, logits: Any, targets: Any, table: list[str]
) -> None:
    text = io.StringIO()
    made(problem_type, logits, targets).write_table(text)
    assert text.getvalue().splitlines() == table


def test_outputs_are_divided_by_each_labels_own_temperature() -> None:
    found = made(MULTI_LABEL, [[2, -2]], [[1, 0]], temperature=[2.0, 4.0])
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp([[-1, 0.5]])))


def test_metrics_begin_with_what_is_given_and_say_how_fast_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "contact_sheet", lambda *_, **__: None)
    write_files(
        made(SINGLE_LABEL, [[1, 0]] * 6, [0] * 6, seconds=1.5), tmp_path / "new" / "out", {"model": "m", "split": None}
    )
    found = json.loads((tmp_path / "new" / "out" / "metrics.json").read_text())
    assert [*found][:3] == ["model", "split", "problem_type"]
    assert (found["images"], found["seconds"], found["images_per_second"]) == (6, 1.5, 4.0)
    assert made(SINGLE_LABEL, [[1, 0]], [0]).report()["images_per_second"] is None

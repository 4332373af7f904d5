"""What the commands show of records and scores, without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vit_hybrid.cli import convert, export, output, scores
from vit_hybrid.cli.maps import MapPrinter
from vit_hybrid.cli.output import RecordPrinter, new_table, rendered


def record(labels: str, **more: Any) -> dict[str, Any]:
    """A picture's record with these labels, one letter each."""
    predictions = [{"label": label, "probability": 0.5 / (rank + 1)} for rank, label in enumerate(labels)]
    return {"path": "a.jpg", "predictions": predictions, **more}


@pytest.mark.parametrize(
    ("labels", "members", "marked", "more"),
    [
        ("ab", "ab", 2, None),
        ("abc", "a", 1, None),
        ("a", "ab", 1, "and 1 more label in the set"),
        ("ac", "abd", 1, "and 2 more labels in the set"),
        ("cd", "ab", 0, "and 2 more labels in the set"),
    ],
)
def test_labels_of_a_set_that_are_not_shown_are_counted(labels: str, members: str, marked: int, more: str) -> None:
    printer = RecordPrinter(False, ["a", "b", "c", "d"], total=1)
    shown = printer.shown(record(labels, set=[*members], coverage=0.9))
    assert "in the 90 % set" in shown
    assert sum(line.endswith("*") for line in shown.splitlines()) == marked
    assert ("more label" in shown) == (more is not None)
    assert more is None or f"  {more}\n" in shown


@pytest.mark.parametrize("as_json", [True, False])
def test_how_many_cannot_be_read_is_told_beside_tables_alone(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with RecordPrinter(as_json, ["a"], total=7) as printer:
        for number in range(7):
            printer.print({"path": f"{number}.jpg", "error": f"{number}.jpg: is empty"})
    shown = capsys.readouterr()
    assert printer.failures == 7
    assert len(shown.out.splitlines()) == (7 if as_json else 0)
    assert len(shown.err.splitlines()) == (0 if as_json else 5 + 1)  # the first ones, and one line for all
    assert ("7 of 7 pictures cannot be read, all because: is empty" in shown.err) != as_json


def test_none_of_these_is_said_with_its_share() -> None:
    printer = RecordPrinter(False, ["a"], total=1)
    assert "  none of these (p = 0.021)\n" in printer.shown(record("a", none_of_these=True, familiarity=0.0212))
    assert "none of these" not in printer.shown(record("a", none_of_these=False, familiarity=0.5))


def test_each_map_stands_once_beside_its_label_and_those_of_others_below() -> None:
    maps = [{"label": label, "files": {"overlay": f"{label}.png"}, "empty": label == "c"} for label in ("b", "c")]
    lines = MapPrinter(False, ["a", "b", "c"], total=1).shown(record("ab", maps=maps)).splitlines()
    assert [line.split() for line in lines if "%" in line or "png" in line] == [
        ["a", "50.00%"],
        ["b", "25.00%", "b.png"],
        ["c", "c.png", *"(nothing raises it)".split()],
    ]


def test_what_an_assessment_says_of_calibration_is_not_said_above_it_too() -> None:
    report = {"images": 7, "top1": 0.5, "expected_calibration_error": 0.1, "negative_log_likelihood": 1.5}
    report["images_per_second"] = 3.0
    for assessment, said in (({}, True), ({"calibration": {}}, False)):
        found: Any = SimpleNamespace(report=lambda: report, assessment=assessment, skipped=())
        text = rendered(scores._summary(found))
        assert ("calibration error" in text, "negative log-likelihood" in text) == (said, said)
        assert "top-1" in text


def test_of_many_classes_the_worst_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "MOST_CLASS_ROWS", 2)
    recalls = {"a": 0.9, "b": 0.1, "c": None, "d": 0.5}
    found = {name: {"precision": 0.5, "recall": recall, "support": 7} for name, recall in recalls.items()}
    text = rendered(*scores._classes("class", "classes", found, worst_by="recall"))
    title, _, _, first, second = text.strip().splitlines()
    assert title == "The 2 of 4 classes of lowest recall"
    assert (first.split(), second.split()) == (["b", "50.00%", "10.00%", "7"], ["d", "50.00%", "50.00%", "7"])


@pytest.mark.parametrize(
    ("done", "seconds", "total", "is_shown"),
    [(1, 0.1, 10, False), (1, 0.1, 30, True), (2, 0.15, 20, False), (2, 0.3, 20, True), (20, 9.0, 20, False)],
)
def test_a_bar_is_shown_once_the_whole_is_seen_to_take_long(
    done: int, seconds: float, total: int, is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, made = [5.0], []

    class Bar:
        task_ids = (0,)

        def __getattr__(self, name: str) -> Any:
            return lambda *given, **options: made.append((name, given, options))

    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(output, "is_terminal", lambda _: True)
    monkeypatch.setattr(output, "_new_bar", Bar)
    bar = output.ProgressBar(total, "Reading")
    now[0] += seconds
    bar.advance(done)
    assert made == ([("add_task", ("Reading",), {"total": total, "completed": done}), ("start", (), {})] * is_shown)
    bar.advance()
    if is_shown:
        assert made[2:] == [("update", (0,), {"completed": done + 1})]
    made.clear()
    with bar.out_of_the_way():
        made.append("written")
    assert [step if step == "written" else step[0] for step in made] == (
        ["stop", "written", "start"] if is_shown else ["written"]
    )


def test_the_row_before_a_total_is_followed_by_a_line() -> None:
    rows = [("one", "1"), ("two", "2"), ("both", "3")]
    for is_total in (True, False):
        table = new_table(("what", ">count"), rows, total=is_total)
        assert [row.end_section for row in table.rows] == [False, is_total, False]


def test_a_step_is_told_at_its_start_and_then_when_a_person_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [5.0], []
    monkeypatch.setattr(convert.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(convert, "say", said.append)
    show = convert._lines("Reading a.npz")
    for seconds, done in ((1.9, 1), (0.2, 2), (0.5, 3), (1.4, 4), (0.2, 5)):
        now[0] += seconds
        show(done, 8)
    assert said == ["Reading a.npz", "Reading a.npz: 25%", "Reading a.npz: 62%"]


def test_of_layers_that_stay_in_floating_point_the_first_twelve_are_named() -> None:
    said = {"calibration": "9 pictures", "seconds": 61.2, "kept_share": 0.0312, "error_share": 0.5}
    for count, ending in ((12, "layer10, layer11"), (13, "layer10, layer11 and 1 more"), (15, "layer11 and 3 more")):
        first, second = export._quantized({**said, "kept": [f"layer{number}" for number in range(count)]})
        assert first == "calibrated with 9 pictures in 61 s"
        assert second.startswith(
            "in floating point stay 3.1% of the arithmetic, with 50% of the error: layer0, layer1, "
        )
        assert second.endswith(ending)
    assert len(export._quantized({**said, "kept": []})) == 1

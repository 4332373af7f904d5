"""What the commands show of records and scores, without a model."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from told_bars import bar_into

from vit_hybrid.checkpoints import opening
from vit_hybrid.cli import convert, evaluate, export, output, parts, scores, streams
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


def test_a_bar_makes_way_for_each_record_and_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []

    monkeypatch.setattr(output, "ProgressBar", bar_into(steps))
    for name in ("write", "write_json", "complain"):
        monkeypatch.setattr(output, name, lambda said, name=name: steps.append(name))
    for as_json, said in ((False, ("write", "complain")), (True, ("write_json", "write_json"))):
        steps.clear()
        with suppress(ValueError), RecordPrinter(as_json, ["a"], total=9) as printer:
            printer.print(record("a"))
            printer.print({"path": "b.jpg", "error": "b.jpg: is empty"})
            raise ValueError("why")
        first, second = (("away", one, "back", "advance") for one in said)
        assert steps == [("Classifying", 9), *first, *second, "close"]


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


def test_curves_of_a_map_stand_beside_those_of_random_maps() -> None:
    check = {
        "label": "cat",
        "shares": [0.0, 0.5, 1.0],
        "deletion": {"map": [0.9, 0.3, 0.1], "random": [0.9, 0.6, 0.2], "map_area": 0.41, "random_area": 0.52},
        "insertion": {"map": [0.1, 0.7, 0.9], "random": [0.15, 0.4, 0.8], "map_area": 0.63, "random_area": 0.74},
    }
    maps = [{"label": "cat", "files": {"overlay": "cat.png"}, "empty": False, "check": check}]
    for value, kind in (({"probability": 0.9}, "probability"), ({"value": 12.3456}, "value")):
        told = {"path": "a.jpg", "predictions": [{"label": "cat", **value}], "maps": maps}
        lines = [" ".join(line.split()) for line in MapPrinter(False, ["cat"], total=1).shown(told).splitlines()]
        assert f"label {kind} map" in lines
        assert f"cat {'90.00%' if kind == 'probability' else '12.35'} cat.png" in lines
        place = lines.index(f"cat: its {kind} in the map's order")
        assert [line for line in lines[place + 1 :] if line.strip(" ─")] == [
            "pixels taken away at random brought back at random",
            "0% 0.9000 0.9000 0.1000 0.1500",
            "50% 0.3000 0.6000 0.7000 0.4000",
            "100% 0.1000 0.2000 0.9000 0.8000",
            "mean 0.4100 0.5200 0.6300 0.7400",
        ]


def test_what_an_export_says_of_a_bundle() -> None:
    check = {"largest_logit_difference": 0.0123, "largest_logit": 12.345, "top1_agreement": 0.995}
    files = {"program.xml": {"bytes": 1_200_000}, "program.bin": {"bytes": 3_400_000}}
    how = {"engine": "openvino", "precision": "bf16", "quantization": None, "files": files, "image_size": (384, 256)}
    for more, of, expected in (
        ({"dynamic": False, "token_merging": None}, {"of": "64 made pictures", "pictures": 64}, "64 made pictures"),
        ({"dynamic": True, "token_merging": 8}, {"of": "1 arrays", "pictures": 1}, "one picture"),
    ):
        bundle: Any = SimpleNamespace(**how, **more, check={**check, **of})
        first, *rest = export._as_text(bundle, Path("o\x1but")).splitlines()
        sizes = "any size" if more["dynamic"] else "384 x 256 pixels"
        assert first == f"o\\x1but: openvino, bf16, {sizes}, 4.6 MB"
        assert rest[:-1] == (["8 tokens are merged per layer"] if more["token_merging"] else [])
        assert rest[-1] == (
            "largest logit difference to PyTorch in float32: 0.012 (largest logit 12.3), top-1 agreement 99.50%, on "
            f"{expected}"
        )
        report = {"calibration": "9 pictures", "seconds": 61.2, "kept": []}
        bundle.quantization = report
        assert export._as_text(bundle, Path("out")).splitlines()[-2] == "calibrated with 9 pictures in 61 s"


def test_what_an_assessment_says_of_calibration_is_not_said_above_it_too() -> None:
    report = {"images": 7, "top1": 0.5, "expected_calibration_error": 0.1, "negative_log_likelihood": 1.5}
    report["images_per_second"] = 3.0
    for assessment, said in (({}, True), ({"calibration": {}}, False)):
        found: Any = SimpleNamespace(report=lambda: {**report, "skipped": 1}, assessment=assessment, skipped=("a",))
        text = rendered(scores._summary(found))
        assert ("calibration error" in text, "negative log-likelihood" in text) == (said, said)
        assert "top-1" in text
        assert ["skipped", "1"] in [line.split() for line in text.splitlines()]


def test_of_many_classes_the_worst_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "MOST_CLASS_ROWS", 2)
    recalls = {"a": 0.9, "b": 0.0, "c": None, "d": 0.5}
    found = {name: {"precision": 0.5, "recall": recall, "support": 7} for name, recall in recalls.items()}
    text = rendered(*scores._classes("class", "classes", found, worst_by="recall"))
    title, _, _, first, second = text.strip().splitlines()
    assert title == "The 2 of 4 classes of lowest recall"
    assert (first.split(), second.split()) == (["b", "50.00%", "0.00%", "7"], ["d", "50.00%", "50.00%", "7"])
    monkeypatch.setattr(scores, "MOST_CLASS_ROWS", 4)
    title, _, _, *rows = rendered(*scores._classes("class", "classes", found, worst_by="recall")).strip().splitlines()
    assert (title, [row.split()[0] for row in rows]) == ("Each class", [*recalls])


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
    with suppress(KeyError), bar.out_of_the_way():
        made.append("written")
        raise KeyError
    assert [step if step == "written" else step[0] for step in made] == (
        ["stop", "written", "start"] if is_shown else ["written"]
    )


@pytest.mark.parametrize("made", [output._new_bar, parts._new_bar])
def test_a_bar_leaves_nothing_behind_and_what_others_print_where_it_is(made: Any, monkeypatch: Any) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    for module in (output, parts):
        monkeypatch.setattr(module, "standard_error", lambda: terminal)
    streams = sys.stdout, sys.stderr
    bar = made()
    bar.add_task("Doing", total=8, completed=3, rate="2 a second", errors="1 error")
    bar.start()
    assert (sys.stdout, sys.stderr) == streams
    bar.stop()
    shown = re.sub(r"\x1b\[[\d;?]*m", "", terminal.getvalue())
    assert re.search(r"Doing \S+ 3/8( 2 a second 1 error)? -:--:--", shown)
    assert shown.endswith("\x1b[2K")  # the line that it was on is empty


def test_a_bar_of_a_conversion_goes_as_far_as_what_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(convert, "standard_error", lambda: terminal)
    shared = sys.stdout, sys.stderr
    with convert._step("Writing", "in [bold]/x.npz") as progress:
        assert (sys.stdout, sys.stderr) == shared
        streams.complain("said behind it")
        assert capsys.readouterr().err == ""
        progress(1, 4)
        progress(3, 4)
    assert capsys.readouterr().err == "vit-hybrid: said behind it\n"
    shown = re.sub(r"\x1b\[[\d;?]*m", "", terminal.getvalue())
    assert re.search(r"Writing in \[bold\]/x\.npz \S+ +75% \d:\d\d:\d\d", shown) or "75% -:--:--" in shown
    assert "100%" not in shown
    assert shown.endswith("\x1b[2K")


def test_the_time_left_is_known_however_far_parts_are_from_each_other() -> None:
    assert parts._new_bar().speed_estimate_period == 600  # seconds; parts take ten or more


def test_what_a_count_of_pictures_comes_upon_is_the_runs_own_to_say() -> None:
    progress = parts.RunProgress("a model")
    progress._total = 7
    progress._count(b"no stream")
    assert progress._total is None


def test_a_bar_that_is_closed_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    bar = output.ProgressBar(9)
    bar.close()  # it may never have been shown
    bar._bar = SimpleNamespace(stop=lambda: stopped.append("stopped"))  # type: ignore[assignment]
    bar.close()
    assert stopped == ["stopped"]


def test_the_row_before_a_total_is_followed_by_a_line() -> None:
    rows = [("one", "1"), ("two", "2"), ("both", "3")]
    for is_total in (True, False):
        table = new_table(("what", ">count"), rows, total=is_total)
        assert [row.end_section for row in table.rows] == [False, is_total, False]


def test_where_no_heading_says_anything_there_is_no_line_of_them() -> None:
    rows = [("one", "1"), ("three", "20")]
    lines = rendered(new_table(("", ">"), rows)).splitlines()
    assert [line.split() for line in lines] == [["one", "1"], ["three", "20"]]
    head, rule, *below = rendered(new_table(("", ">count"), rows)).splitlines()
    assert (head.split(), {*rule.strip()}, len(below)) == (["count"], {"\u2500"}, 2)
    head, *_ = rendered(new_table(("", ">a>"), rows)).splitlines()
    assert head.split() == ["a>"]  # a label may end in what stands before numbers


def test_the_first_column_alone_is_as_wide_as_is_asked_for() -> None:
    table = new_table(("a", "b", ">c"), [("x", "y", "123")], text_width=9)
    assert [column.min_width for column in table.columns] == [9, None, 3]


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


def test_while_a_model_is_evaluated_a_spinner_makes_way_for_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    @contextmanager
    def loading(model: str) -> Iterator[Any]:
        seen.append(f"loading {model}")
        try:
            yield seen.append
        finally:
            seen.append("loaded")

    monkeypatch.setattr(evaluate, "loading", loading)
    monkeypatch.setattr(evaluate, "ProgressBar", bar_into(seen))
    monkeypatch.setattr(evaluate, "complain", seen.append)
    error: Any = {"path": "a.jpg", "error": "a.jpg: is empty"}
    for is_told in (True, False):
        seen.clear()
        with evaluate._Progress("a model", is_told) as progress:
            progress.tell("Looking at labels")
            progress.begin(9)
            progress.advance(4, [error] * 6)
        told = ["away", "a.jpg: is empty", "back"] * 5 if is_told else []
        assert seen == [
            *("loading a model", "Looking at labels", "loaded", ("Evaluating", 9)),
            *(*told, ("advance", 4), "close"),
        ]
        assert progress.rest() == "6 of 9 pictures cannot be read, all because: is empty"
    seen.clear()
    progress = evaluate._Progress("a model", True)  # kept, or the spinner would end with it
    with suppress(ValueError), progress:
        raise ValueError("no such model")
    assert seen == ["loading a model", "loaded"]


def test_no_model_is_fetched_to_count_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "open", lambda model: pytest.fail(f"{model} is opened"))
    assert evaluate._check_of("someone/model") is None

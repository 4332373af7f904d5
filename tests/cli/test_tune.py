"""What is shown while ways to run a model race."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vit_hybrid.cli.main import app
from vit_hybrid.cli.output import ProgressBar
from vit_hybrid.engines.kept import Row, Table
from vit_hybrid.engines.tuning import Tried, Tuning
from vit_hybrid.engines.ways import Way


def test_the_bar_goes_as_far_as_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    done = [0]
    seen: list[int] = []

    def advance(self: Any, steps: int = 1) -> None:
        done[0] += steps

    def race(*_: Any, progress: Any, **__: Any) -> Any:
        for share in (0.1, 0.109, 0.35, 0.3, 1.0):
            progress(share, "racing")
            seen.append(done[0])
        raise ValueError("that is all")

    monkeypatch.setattr(ProgressBar, "advance", advance)
    monkeypatch.setattr(ProgressBar, "close", lambda self: seen.append(-1))
    monkeypatch.setattr("vit_hybrid.engines.tuning.tune", race)
    result = CliRunner().invoke(app, ["tune"])
    assert result.stderr.endswith("vit-hybrid: that is all\n")
    assert seen == [10, 10, 35, 35, 100, -1]  # and the bar is gone


def test_what_was_found_stands_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(Way("torch", "f32", "sdpa", threads=1), 4, 0.5, 3)
    found = Tuning("tiny", (32, 32), {}, Table((row,)), (), racing=9.0, converting=5.0, compiling=3.0, file=None)
    monkeypatch.setattr("vit_hybrid.engines.tuning.tune", lambda *_, **__: found)
    result = CliRunner().invoke(app, ["tune"])
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [*row.way.name.split(), "4", "500.00", "8.0", "3", "fastest"] in lines
    assert " ".join(result.stdout.split()).endswith(
        "9 s of passes, 5 s of conversion, which later starts do without, 3 s of compiling, which they do not; not kept"
    )
    assert "Did not run here" not in result.stdout


def test_what_did_not_run_and_what_gains_nothing_stand_below(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        Row(Way("onnx", "f32"), 1, 0.1, 3),
        Row(Way("openvino", "int8"), 1, 0.2, 2),
        Row(Way("onnx", "f32"), 4, 1, 1),
    ]
    tried = (Tried(Way("torch", "f32", "eager"), error="no memory"), Tried(Way("onnx", "f32")))
    found = Tuning("tiny", (32, 32), {}, Table(tuple(rows)), tried, 0.4, 0.6, 1.6, file=tmp_path)
    monkeypatch.setattr("vit_hybrid.engines.tuning.tune", lambda *_, **__: found)
    lines = [" ".join(line.split()) for line in CliRunner().invoke(app, ["tune"]).stdout.splitlines()]
    assert [line for line in lines if line.strip(" ─")] == [
        "way batch least ms pictures/s rounds",
        "onnx f32 1 100.00 10.0 3 fastest",
        "openvino int8 1 200.00 5.0 2 fastest",
        "onnx f32 4 1000.00 4.0 1 fastest",
        "Did not run here",
        "way reason",
        "torch f32 eager no memory",
        "int8 is not faster than f32 on this processor",
        "0 s of passes, 1 s of conversion, which later starts do without, 2 s of compiling, which they do not; "
        "kept for --engine auto",
    ]
    assert lines[lines.index("Did not run here") - 1] == ""
    said = json.loads(CliRunner().invoke(app, ["tune", "--json"]).stdout)
    assert said == json.loads(json.dumps(found.report()))
    assert (said["rows"][0]["name"], said["rows"][0]["batch_size"]) == ("onnx f32", 1)

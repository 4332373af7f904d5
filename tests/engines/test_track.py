"""Which ways are raced in which precision and for how long; what is loaded only moves a clock."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from fake_race import Hand, raced

from vit_hybrid.checkpoints.opening import open as open_source
from vit_hybrid.engines import EngineError, EngineWarning, kept, tuning
from vit_hybrid.engines.kept import Row
from vit_hybrid.engines.tuning import Tried, tune
from vit_hybrid.engines.ways import Way


@pytest.fixture
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hand:
    """The clock of engines that take the place of those there are."""
    return raced(tmp_path, monkeypatch)


def test_precisions_are_raced_one_by_one_with_those_that_are_left(
    hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def race(track: tuning.Track, *what: Any) -> None:
        asked.append((track.device, track.seconds, *what))
        way = Way("openvino", what[0])
        track.rows[way, 1] = Row(way, 1, 0.5, 3)
        track.tried[way] = Tried(way, converting=2.0, compiling=3.0)

    monkeypatch.setattr(tuning.Track, "race_precision", race)
    found = tune(tiny_folder, clock=hand.clock)
    assert asked == [("cpu", 300.0, one, (1, 4, 16), 3 - place) for place, one in enumerate(("f32", "bf16", "int8"))]
    assert (found.converting, found.compiling) == (6.0, 9.0)
    asked.clear()
    monkeypatch.setattr(tuning, "device_name", lambda device: "a GPU")
    found = tune(tiny_folder, minutes=2.0, batch_sizes=(2,), clock=hand.clock)
    assert asked == [("a GPU", 120.0, one, (2,), 3 - place) for place, one in enumerate(("f32", "bf16", "f16"))]
    assert found.about["device"] == "a GPU"
    shape = kept.shape_of(open_source(tiny_folder).fields())
    for device, precisions in (("a GPU", ["f32", "bf16", "f16"]), ("cpu", ["f32", "bf16", "int8"])):
        table = kept.read(shape, device)
        assert table is not None
        assert [row.way.precision for row in table.rows] == precisions


def test_where_nothing_can_run_each_reason_is_told_once(
    hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, **options: Any) -> Any:
        raise EngineError("no kernel" if options["engine"] == "torch" else "no memory\nat all")

    monkeypatch.setattr(tuning, "load", refuse)
    said = f"nothing here can run {tiny_folder} in f32 or bf16 or int8: no kernel; no memory at all"
    with pytest.raises(EngineError, match=f"^{said}$"):
        tune(tiny_folder, clock=hand.clock)
    with pytest.raises(EngineError, match=r"in bf16: no kernel; no memory at all$"):
        tune(tiny_folder, "bf16", clock=hand.clock)
    assert kept.read(kept.shape_of(open_source(tiny_folder).fields())) is None


def test_beside_a_cpu_torch_is_raced_alone_and_with_its_own_threads(
    hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(tuning, "can_compile", lambda on_cpu: asked.append(on_cpu))
    track = tuning.Track(open_source(tiny_folder), "a GPU", hand.clock, 60.0, lambda share, text: None)
    track.race_precision("f32", (4, 1), 1)
    assert {(way.engine, way.threads) for way in track.tried} == {("torch", None)}
    assert {way.channels_last for way in track.tried} == {True, False}
    assert asked == [False]
    track = tuning.Track(open_source(tiny_folder), "cpu", hand.clock, 60.0, lambda share, text: None)
    track.race_precision("f32", (1,), 1)
    assert {way.threads for way in track.tried} == {None, 1, 2}


def test_what_loading_warns_of_is_no_word_worth_in_a_race(
    hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = tuning.load

    def warning(name: str, **options: Any) -> Any:
        warnings.warn(EngineWarning("made pictures"), stacklevel=1)
        return load(name, **options)

    monkeypatch.setattr(tuning, "load", warning)
    track = tuning.Track(open_source(tiny_folder), "cpu", hand.clock, 60.0, lambda share, text: None)
    assert track.open(Way("openvino", "f32"))
    assert track.tried[Way("openvino", "f32")].error is None


def test_without_time_only_one_picture_is_passed(hand: Hand, tiny_folder: Path) -> None:
    track = tuning.Track(open_source(tiny_folder), "cpu", hand.clock, 60.0, lambda share, text: None)
    way = Way("openvino", "f32")
    assert track.open(way)
    track.race([way], 4, 0.0)
    assert not track.rows
    track.race([way], 1, 0.0)
    assert [*track.rows] == [(way, 1)]  # or there would be nothing to choose by
    track.race([way, Way("onnx", "f32")], 1, 10.0)  # of which the other was never started
    assert [*track.rows] == [(way, 1)]


def test_what_failed_and_how_often_the_others_were_timed_is_in_the_report(hand: Hand, tiny_folder: Path) -> None:
    said = tune(tiny_folder, "int8", clock=hand.clock).report()
    [failure] = said["failures"]
    assert (failure["name"], failure["engine"], failure["error"]) == ("onnx int8", "onnx", "no kernel for this")
    assert said["notes"] == []
    assert {row["engine"] for row in said["rows"]} == {"openvino"}
    assert all(row["rounds"] >= 1 for row in said["rows"])
    assert max(row["rounds"] for row in said["rows"]) > 2
    assert {name: said[name] for name in ("device", "cores")} == {"device": "cpu", "cores": kept.where()["cores"]}


def test_a_compiler_is_the_one_that_is_named_or_a_common_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "ours")
    (tmp_path / "g++").touch(mode=0o755)
    assert not tuning.can_compile(on_cpu=True)
    (tmp_path / "ours").touch(mode=0o755)
    assert tuning.can_compile(on_cpu=True)
    (tmp_path / "ours").unlink()
    (tmp_path / "clang++").touch(mode=0o755)
    assert tuning.can_compile(on_cpu=True)

"""How a job comes to the way that it runs its model in, by a clock that only engines move."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_race import SPEEDS, Fake, Hand, raced

from vit_hybrid.checkpoints.opening import open as open_source
from vit_hybrid.engines import EngineWarning, kept, settling
from vit_hybrid.engines.kept import Row, Table
from vit_hybrid.engines.racing import Clock
from vit_hybrid.engines.settling import Settled, settle
from vit_hybrid.engines.ways import Wanted, Way
from vit_hybrid.runtimes import BUNDLE_FILE, DEFAULT_BATCH_SIZE


@pytest.fixture(autouse=True)
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hand]:
    before = torch.get_num_threads()
    monkeypatch.setattr(settling, "chosen", lambda engine, *_: "openvino" if engine == "auto" else engine)
    yield raced(tmp_path, monkeypatch)
    torch.set_num_threads(before)


def table_of(folder: Path) -> Table | None:
    return kept.read(kept.shape_of(open_source(folder).fields()))


def quiet(*arguments: Any, **options: Any) -> Settled:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return settle(*arguments, **options)


def test_a_long_job_races_says_what_it_chose_and_keeps_it(
    tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPEEDS, "onnx", 4.0)
    pictures = 200_000  # 2,000 s at 10 ms
    told: list[str] = []
    with pytest.warns(EngineWarning, match="raced for .* s: onnx f32, .* pictures at once; vit-hybrid tune looks") as w:
        found = settle(tiny_folder, {}, None, pictures, clock=hand.clock, tell=told.append)
    assert {"Starting openvino f32", "Starting onnx f32", "Timing f32, 16 at once"} <= {*told}
    [said] = [str(one.message) for one in w]
    assert said == found.said
    assert f"4 ways to run it, with batches of 4, 16, 32, were raced for {hand.time:.1f} s: onnx" in said
    assert f"onnx f32, {found.batch_size} pictures at once" in said
    assert found.way == Way("onnx", "f32")
    assert hand.time <= min(0.02 * 0.010 * pictures, 60.0) + 5.0  # beside the conversion for onnx
    assert table_of(tiny_folder) is not None
    at = hand.time
    again = quiet(tiny_folder, {}, None, pictures, clock=hand.clock)
    assert (again.way, again.batch_size, again.said) == (found.way, found.batch_size, None)
    assert hand.time == at


@pytest.mark.parametrize("pictures", [None, 1, 999, 1000, 20_000])
def test_a_short_job_runs_as_nobody_has_measured(tiny_folder: Path, hand: Hand, pictures: int | None) -> None:
    """The longest of these takes 200 s, of which 2 % do not pay for the conversion that the default takes."""
    found = quiet(tiny_folder, {}, None, pictures, clock=hand.clock)
    assert found == Settled(None, DEFAULT_BATCH_SIZE)
    assert found.options() == {"tuned": False}
    assert table_of(tiny_folder) is None
    assert len(hand.loaded) == (pictures in (1000, 20_000))


def test_a_job_of_a_model_that_takes_less_than_decoding_does_not_race(
    tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPEEDS, "openvino", 1.0)
    assert quiet(tiny_folder, {}, None, math.inf, clock=hand.clock).way is None


def test_the_processors_work_counts_not_what_else_the_machine_does(tiny_folder: Path, hand: Hand) -> None:
    idle = Clock(hand.clock.now, hand.clock.sleep, lambda: 0.0)
    assert quiet(tiny_folder, {}, None, math.inf, clock=idle).way is None


def test_who_may_not_race_takes_what_is_kept_and_else_the_default(tiny_folder: Path, hand: Hand) -> None:
    assert quiet(tiny_folder, {}, 4, math.inf, may_race=False, clock=hand.clock) == Settled(None, 4)
    rows = [Row(Way("onnx", "f32"), 4, 0.01, 3), Row(Way("torch", "f32", "sdpa", channels_last=True), 16, 0.02, 3)]
    kept.keep(Table(tuple(rows)), kept.shape_of(open_source(tiny_folder).fields()))
    found = quiet(tiny_folder, {"token_merging": 2}, None, math.inf, may_race=False)
    assert found == Settled(Way("torch", "f32", "sdpa", channels_last=True, token_merging=2), 16)
    assert found.way is not None
    assert found.options() == found.way.options()
    assert quiet(tiny_folder, {}, 4).way == Way("onnx", "f32")
    assert quiet(tiny_folder, {}, 6) == Settled(Way("onnx", "f32"), 6)  # raced with others at once, run as was asked
    assert quiet(tiny_folder, {"engine": "torch"}, 4).way == Way("torch", "f32", "sdpa", channels_last=True)
    assert quiet(tiny_folder, {"dtype": "float32"}, 4).way == Way("torch", "f32", "sdpa", channels_last=True)
    assert quiet(tiny_folder, {"dtype": "auto"}, 4, math.inf).way is None
    assert not hand.loaded


def test_one_way_is_tried_with_batches_of_several_sizes_and_that_is_said(tiny_folder: Path, hand: Hand) -> None:
    with pytest.warns(
        EngineWarning, match=r"one way to run it, with batches of 4, 16, 32, was raced for .* s: openvino"
    ):
        settle(tiny_folder, {"engine": "openvino"}, None, math.inf, clock=hand.clock)


def test_what_is_given_by_hand_is_not_raced_against_others(tiny_folder: Path, hand: Hand) -> None:
    given = {"engine": "torch", "threads": 1, "token_merging": 2}
    with pytest.warns(EngineWarning, match=r"\d ways to run it were raced"):
        found = settle(tiny_folder, given, 16, math.inf, clock=hand.clock)
    assert found.way == Way("torch", "f32", "sdpa", channels_last=False, threads=1, token_merging=2)
    assert {way.engine for way in hand.loaded} == {"torch"}
    assert found.batch_size == 16


def test_what_was_measured_of_another_precision_stays(tiny_folder: Path, hand: Hand) -> None:
    before = Row(Way("openvino", "bf16"), 4, 0.01, 3)
    kept.keep(Table((before,)), kept.shape_of(open_source(tiny_folder).fields()))
    with pytest.warns(EngineWarning, match="raced for"):
        found = settle(tiny_folder, {"engine": "torch"}, 16, math.inf, clock=hand.clock)
    table = table_of(tiny_folder)
    assert table is not None
    assert before in table.rows
    assert found.way in {row.way for row in table.rows}


def test_a_server_races_for_a_few_seconds(tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPEEDS, "torch", 120.0)
    with pytest.warns(EngineWarning, match="raced for"):
        found = settle(tiny_folder, {"engine": "torch"}, 16, math.inf, clock=hand.clock)
    assert found.way is not None
    assert hand.time <= 10.0


def test_pictures_are_counted_only_where_it_matters(tiny_folder: Path) -> None:
    def count() -> float:
        raise AssertionError("asked for nothing")

    kept.keep(Table((Row(Way("onnx", "f32"), 4, 0.01, 3),)), kept.shape_of(open_source(tiny_folder).fields()))
    assert quiet(tiny_folder, {}, None, count) == Settled(Way("onnx", "f32"), 4)
    assert quiet(tiny_folder, {"precision": "bf16"}, None, count, may_race=False) == Settled(None, 16)


def test_a_bundle_is_run_as_it_is(tmp_path: Path, hand: Hand) -> None:
    (tmp_path / BUNDLE_FILE).write_text("{}")
    assert quiet(tmp_path, {}, None, math.inf) == Settled(None, DEFAULT_BATCH_SIZE)
    assert not hand.loaded


def test_the_first_pass_which_is_slower_does_not_count(
    tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = [9.0, 0.16]  # of which 2 % of 20,000 pictures are 225 s and 4 s, and the conversion takes 5 s

    def timed(track: settling.Track, way: Way, size: int) -> float:
        seconds = took.pop(0)
        hand.time += seconds
        return seconds

    monkeypatch.setattr(settling.Track, "timed", timed)
    assert quiet(tiny_folder, {}, None, 20_000, clock=hand.clock) == Settled(None, DEFAULT_BATCH_SIZE)
    assert not took


def test_batches_of_all_sizes_have_a_share_of_the_time(
    tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(engine: Fake, values: Any) -> list[np.ndarray]:
        hand.time += 0.2 * len(values) ** 0.5  # so that a picture takes least among many
        return [np.zeros((len(values), 2), np.float32)]

    monkeypatch.setattr(Fake, "_compute", compute)
    with pytest.warns(EngineWarning, match="raced for .* 32 pictures at once"):
        found = settle(tiny_folder, {"engine": "torch"}, None, math.inf, clock=hand.clock)
    assert found.batch_size == 32
    table = table_of(tiny_folder)
    assert table is not None
    assert {row.batch_size for row in table.rows} == {4, 16, 32}


@pytest.mark.parametrize("options", [{"compile": True, "engine": "torch"}, {"dynamic": True}, {"precision": "f16"}])
def test_what_no_race_says_anything_of_runs_as_nobody_has_measured(
    tiny_folder: Path, hand: Hand, options: dict[str, Any]
) -> None:
    assert quiet(tiny_folder, options, None, math.inf, clock=hand.clock) == Settled(None, DEFAULT_BATCH_SIZE)
    assert all(way.precision == "f16" for way in hand.loaded)


def test_pictures_that_only_a_call_counts_are_enough_for_a_race(tiny_folder: Path, hand: Hand) -> None:
    with pytest.warns(EngineWarning, match="raced for"):
        assert settle(tiny_folder, {"engine": "torch"}, 16, lambda: math.inf, clock=hand.clock).way is not None


@pytest.mark.parametrize(("steadily", "pictures", "seconds"), [(False, math.inf, 10.0), (True, 10**6, 60.0)])
def test_a_race_is_of_the_passes_that_the_job_makes(
    tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch, steadily: bool, pictures: float, seconds: float
) -> None:
    made: list[settling.Track] = []

    class Track(settling.Track):
        def open(self, way: Way) -> bool:
            made.append(self)
            return super().open(way)

    monkeypatch.setattr(settling, "Track", Track)
    given = {"calibration": "pictures", "max_pixels": 7, "time_limit": 9.0, "output": "both"}
    how = {"engine": "torch", **given, "fast_decode": True}
    with pytest.warns(EngineWarning, match="raced for"):
        settle(tiny_folder, how, 16, pictures, clock=hand.clock, **({"steadily": True} if steadily else {}))
    assert {(track.steadily, track.seconds) for track in made} == {(steadily, seconds)}
    assert made[0].given == given


@pytest.mark.parametrize(("pictures", "engines"), [(math.inf, {"torch"}), (10**6, {"torch", "openvino", "onnx"})])
def test_where_the_first_took_no_conversion_others_are_taken_to_need_a_while(
    pictures: float, engines: set[str], tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "chosen", lambda *_: "torch")
    with pytest.warns(EngineWarning, match="raced for"):
        settle(tiny_folder, {}, 16, pictures, clock=hand.clock)
    assert {way.engine for way in hand.loaded} == engines


def test_where_the_first_was_converted_others_are_taken_to_need_as_long(tiny_folder: Path, hand: Hand) -> None:
    """Of 14 s five are over; what is left is more than the conversion took, and less than what a guess would be."""
    with pytest.warns(EngineWarning, match="raced for"):
        settle(tiny_folder, {}, 16, 70_000, clock=hand.clock)
    assert {way.engine for way in hand.loaded} == {"torch", "openvino", "onnx"}


def test_int8_is_quantized_for_one_engine_alone(tiny_folder: Path, hand: Hand) -> None:
    assert quiet(tiny_folder, {"precision": "int8"}, 16, 10**7, clock=hand.clock) == Settled(None, 16)
    assert hand.loaded == [Way("openvino", "int8")]


def test_one_way_with_one_size_has_nobody_to_race_against(tiny_folder: Path, hand: Hand) -> None:
    assert quiet(tiny_folder, {"engine": "openvino"}, 4, math.inf, clock=hand.clock) == Settled(None, 4)
    assert table_of(tiny_folder) is None
    assert quiet(tiny_folder, {"engine": "torch"}, 4, math.inf) == Settled(None, 4)  # which takes no time by our clock


def test_what_would_run_unmeasured_is_what_load_would_choose(
    tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(settling, "chosen", lambda *what: asked.append(what) or "nowhere")
    given = {"precision": "bf16", "device": "cpu", "attention": "eager", "channels_last": True}
    assert quiet(tiny_folder, given, 16, math.inf, clock=hand.clock) == Settled(None, 16)
    assert asked == [("auto", "bf16", "cpu", {"compile": None, "attention": "eager", "channels_last": True})]
    assert not hand.loaded


def test_what_was_measured_is_asked_for_as_it_was_given(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(settling, "measured", lambda source, *what: asked.append(what))
    given = {"attention": "eager", "compile": True, "channels_last": False, "threads": 3, "device": "cuda:1"}
    for options, size in (({"engine": "torch", "precision": "bf16", **given}, 5), ({"compile": False}, None)):
        assert quiet(tiny_folder, options, size, 1) == Settled(None, size or DEFAULT_BATCH_SIZE)
    assert asked == [
        (Wanted("torch", "bf16", "eager", True, False, 3), "cuda:1", 5),
        (Wanted(None, "f32"), None, None),
    ]

"""A race between engines that only move a clock, what comes of it, and that those who load a model follow it."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_race import SIDE, SPEEDS, Fake, Hand, raced
from typer.testing import CliRunner

from vit_hybrid import engines
from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.bundles import cache
from vit_hybrid.checkpoints import published
from vit_hybrid.checkpoints.opening import open as open_source
from vit_hybrid.cli.main import app
from vit_hybrid.engines import EngineError, EngineWarning, kept, tuning
from vit_hybrid.engines.kept import Row, Table
from vit_hybrid.engines.tuning import tune
from vit_hybrid.engines.ways import Wanted, Way
from vit_hybrid.runtimes import BUNDLE_FILE

OPENVINO = Way("openvino", "f32")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hand:
    """The clock of engines that take the place of those there are, each as fast as `SPEEDS` says."""
    return raced(tmp_path, monkeypatch)


class TestTuning:
    def test_finds_the_fastest_of_each_precision_and_keeps_it(self, hand: Hand, tiny_folder: Path) -> None:
        found = tune(tiny_folder, clock=hand.clock)
        best = {(row.way.precision, row.batch_size): row for row in found.winners()}
        assert set(best) == {(one, size) for one in ("f32", "bf16", "int8") for size in (1, 4, 16)}
        assert {row.way.engine for row in best.values()} == {"openvino"}
        assert best["f32", 1].seconds == pytest.approx(0.010)
        assert best["bf16", 16].seconds == pytest.approx(0.080)
        assert found.image_size == (SIDE, SIDE)
        table = kept.read(kept.shape_of(open_source(tiny_folder).fields()))
        assert table is not None
        assert {*table.rows} == {*found.table.rows}

    def test_so_many_pictures_at_once_as_were_asked_for(self, hand: Hand, tiny_folder: Path) -> None:
        found = tune(tiny_folder, "f32", batch_sizes=(8, 2), clock=hand.clock)
        assert {(row.batch_size, round(row.seconds, 3)) for row in found.winners()} == {(2, 0.02), (8, 0.08)}

    def test_what_was_measured_of_another_precision_stays(self, hand: Hand, tiny_folder: Path) -> None:
        rows = [row for one in ("f32", "bf16") for row in tune(tiny_folder, one, clock=hand.clock).table.rows]
        table = kept.read(kept.shape_of(open_source(tiny_folder).fields()))
        assert table is not None
        assert {*table.rows} == {*rows}
        assert len(table.rows) == len(rows)  # what was found now is told, not what is kept besides
        assert {row.way.precision for row in rows} == {"f32", "bf16"}

    def test_all_of_it_as_json_holds_it(self, hand: Hand, tiny_folder: Path) -> None:
        found = tune(tiny_folder, "f32", clock=hand.clock)
        said = json.loads(json.dumps(found.report()))
        assert (said["model"], said["image_size"], said["kept"]) == (str(tiny_folder), [SIDE, SIDE], True)
        by_place = {(row["name"], row["batch_size"]): row for row in said["rows"]}
        row = by_place["openvino f32", 16]
        assert (row["engine"], row["precision"], row["is_fastest"]) == ("openvino", "f32", True)
        assert (row["milliseconds"], row["pictures_per_second"]) == pytest.approx((160.0, 100.0))
        assert not by_place["onnx f32", 1]["is_fastest"]
        assert said["seconds"] == {"racing": found.racing, "converting": found.converting, "compiling": 0.0}
        assert sum(row["is_fastest"] for row in said["rows"]) == 3

    def test_what_is_compiled_is_not_compiled_anew_for_numbers_of_threads(
        self, hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(SPEEDS, "torch", 24.0)
        monkeypatch.setattr(tuning, "can_compile", lambda on_cpu: True)
        load = tuning.load

        def twice_as_fast(name: str, **options: Any) -> Any:
            loaded: Any = load(name, **options)
            loaded._milliseconds /= 1 + options["compile"]
            return loaded

        monkeypatch.setattr(tuning, "load", twice_as_fast)
        found = tune(tiny_folder, "f32", clock=hand.clock)
        assert found.winners()[0].way.compiled
        assert {one.way.threads for one in found.tried} == {None}

    def test_tells_conversion_apart_and_what_did_not_run(self, hand: Hand, tiny_folder: Path) -> None:
        found = tune(tiny_folder, minutes=0.5, clock=hand.clock)
        assert found.converting >= 5.0 * 4
        assert found.compiling == 0.0
        assert found.racing <= 30.0 + 1.0
        assert [(one.way.engine, one.error) for one in found.tried if one.error] == [("onnx", "no kernel for this")]
        assert found.notes() == ["int8 is not faster than bf16 on this processor"]

    def test_tries_other_threads_and_layouts_of_what_is_near(
        self, hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(SPEEDS, "torch", 18.0)  # 9 ms with sdpa
        found = tune(tiny_folder, "f32", clock=hand.clock)
        assert found.winners()[0].way.name.startswith("torch f32 sdpa")
        tried = {one.way for one in found.tried}
        assert Way("torch", "f32", "sdpa", channels_last=True) in tried
        assert {way.threads for way in tried if way.engine == "torch"} == {None, 1, 2}

    def test_does_not_try_what_cannot_win(self, hand: Hand, tiny_folder: Path) -> None:
        found = tune(tiny_folder, "f32", clock=hand.clock)
        assert not any(one.way.channels_last for one in found.tried)
        assert not any(row.batch_size > 1 and row.way.engine == "torch" for row in found.table.rows)

    def test_compiles_what_torch_does_best(
        self, hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(SPEEDS, "torch", 24.0)
        monkeypatch.setattr(tuning, "can_compile", lambda on_cpu: True)
        found = tune(tiny_folder, "f32", clock=hand.clock)
        compiled = [one for one in found.tried if one.way.compiled]
        assert [one.way.attention for one in compiled] == ["sdpa"]
        assert found.compiling > 0

    def test_of_another_size_leaves_nothing_behind_but_the_table(
        self, hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load, places = tuning.load, set[Path]()

        def noting(name: str, **options: Any) -> Any:
            places.add(cache.cache_folder())
            return load(name, **options)

        monkeypatch.setattr(tuning, "load", noting)
        found = tune(tiny_folder, "f32", (64, 48), clock=hand.clock)
        assert len(places) == 1
        assert not any(place.exists() or place == cache.cache_folder() for place in places)
        assert found.file is not None
        assert json.loads(found.file.read_text())["about"]["model"]["image_size"] == [64, 48]
        assert [path.name for path in cache.cache_folder().iterdir()] == [kept.FOLDER]
        assert kept.read(kept.shape_of(open_source(tiny_folder).fields())) is None

    def test_goes_on_without_a_cache(self, hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(cache.CACHE_VARIABLE, str(tiny_folder / "config.json"))
        with pytest.warns(EngineWarning, match="cannot be kept"):
            found = tune(tiny_folder, "f32", clock=hand.clock)
        assert found.file is None
        assert found.report()["kept"] is False
        assert found.winners()

    def test_says_how_far_it_is(self, hand: Hand, tiny_folder: Path) -> None:
        told: list[tuple[float, str]] = []
        tune(tiny_folder, minutes=0.05, clock=hand.clock, progress=lambda share, text: told.append((share, text)))
        assert all(0.0 <= share <= 1.0 for share, _ in told)
        assert [share for share, _ in told] == sorted(share for share, _ in told)
        assert next(share for share, text in told if text.startswith("Timing")) > 0.0
        assert {text for _, text in told} >= {"Opening the model", "Starting openvino f32", "Timing bf16, 1 at once"}

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"precision": "f8"}, "precision is 'f8'; expected 'f32'"),
            ({"minutes": 0.0}, "minutes is 0; expected more"),
            ({"minutes": math.nan}, "minutes is nan; expected more"),
        ],
    )
    def test_refuses_what_it_cannot_use(
        self, arguments: dict[str, Any], said: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tuning, "opened", lambda *_: 1 / 0)  # nothing is opened before
        with pytest.raises(EngineError, match=said):
            tune(tiny_folder, **arguments)

    def test_takes_no_bundle(self, tmp_path: Path) -> None:
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / BUNDLE_FILE).write_text("{}")
        with pytest.raises(EngineError, match="this is a bundle, whose engine was settled"):
            tune(tmp_path / "bundle")


class TestFollowing:
    """Those who load a model take what was measured for its shape, as far as they do not say otherwise."""

    @pytest.fixture(autouse=True)
    def no_table_is_left(self) -> Iterator[None]:
        yield
        shutil.rmtree(cache.cache_folder() / kept.FOLDER, ignore_errors=True)

    @staticmethod
    def keep(folder: Path, *rows: Row) -> None:
        kept.keep(Table(rows), kept.shape_of(open_source(folder).fields()))

    def test_auto_is_what_was_measured(self, tiny_folder: Path) -> None:
        assert engines.load(tiny_folder).name == "openvino"
        self.keep(
            tiny_folder,
            Row(Way("torch", "f32", "eager", channels_last=True, threads=1), 1, 0.001, 3),
            Row(Way("openvino", "f32"), 1, 0.002, 3),
            Row(Way("onnx", "f32", threads=1), 16, 0.003, 3),
        )
        loaded = engines.load(tiny_folder)
        assert loaded.way == Way("torch", "f32", "eager", channels_last=True, threads=1)
        assert loaded.model.config._attn_implementation == "eager"  # type: ignore[attr-defined]
        assert engines.load(tiny_folder, batch_size=16).way == Way("onnx", "f32", threads=1)
        assert engines.load(tiny_folder, engine="openvino").name == "openvino"
        assert engines.load(tiny_folder, attention="sdpa").way == Way("torch", "f32", "sdpa", channels_last=False)
        assert engines.load(tiny_folder, tuned=False).name == "openvino"
        assert engines.load(tiny_folder, precision="bf16").name == "openvino"  # of which nothing was measured

    def test_of_any_size_nothing_was_measured(self, tiny_folder: Path) -> None:
        self.keep(tiny_folder, Row(Way("torch", "f32", "eager", channels_last=True), 1, 0.001, 3))
        for dynamic, attention in ((False, "eager"), (True, "sdpa")):
            loaded = engines.load(tiny_folder, engine="torch", dynamic=dynamic)
            assert loaded.model.config._attn_implementation == attention  # type: ignore[attr-defined]

    def test_a_fine_tune_follows_what_its_shape_was_measured_with(self, tiny_model: Any, tmp_path: Path) -> None:
        for name in ("one", "other"):
            with torch.no_grad():
                tiny_model.classifier.bias += 1
            tiny_model.config.id2label = {number: f"{name} {number}" for number in range(3)}
            tiny_model.save_pretrained(tmp_path / name)
        self.keep(tmp_path / "one", Row(Way("torch", "f32", "sdpa", channels_last=False), 1, 0.001, 3))
        assert engines.load(tmp_path / "other").name == "torch"

    def test_a_damaged_table_is_passed_over_with_a_word(self, tiny_folder: Path) -> None:
        self.keep(tiny_folder, Row(Way("torch", "f32", "sdpa"), 1, 0.001, 3))
        for file in (cache.cache_folder() / kept.FOLDER).iterdir():
            file.write_text("{")
        with pytest.warns(EngineWarning, match="cannot be read"):
            assert engines.load(tiny_folder).name == "openvino"

    def test_a_few_pictures_do_not_pay_for_compiling(self, tiny_folder: Path) -> None:
        self.keep(
            tiny_folder,
            Row(Way("torch", "f32", "sdpa", compiled=True, channels_last=False), 1, 0.001, 3),
            Row(Way("onnx", "f32"), 1, 0.002, 3),
        )
        assert engines.load(tiny_folder, pictures=1).name == "onnx"
        found = kept.measured(open_source(tiny_folder), Wanted(precision="f32"))
        assert found is not None
        assert found.way.compiled


def test_the_command_prints_a_table_or_json(hand: Hand, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: hand.time)
    monkeypatch.setattr("vit_hybrid.engines.tuning.Clock", lambda: hand.clock)
    result = CliRunner().invoke(app, ["tune", str(tiny_folder), "--precision", "f32"])
    assert result.exit_code == 0, result.output
    assert "openvino f32" in result.stdout
    assert "fastest" in result.stdout
    assert "kept for --engine auto" in result.stdout
    result = CliRunner().invoke(app, ["tune", str(tiny_folder), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["kept"] is True
    assert report["cores"] == kept.where()["cores"]
    assert {row["precision"] for row in report["rows"] if row["is_fastest"]} == {"f32", "bf16", "int8"}
    assert report["failures"][0]["error"] == "no kernel for this"
    result = CliRunner().invoke(app, ["tune", str(tiny_folder / "nowhere")])
    assert result.exit_code == 2
    assert "there is no such file or folder" in result.stderr


def test_a_model_of_another_size_or_without_weights_is_saved_for_as_long_as_it_is_raced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineWarning)  # of random weights, which take as long as others
        for size in ((64, 48), (32, 32)):
            with tuning.opened("R+Ti/16", size) as source:
                place = Path(source.name)
                assert tuple(source.config.image_size) == size
                assert source.preprocessing is not None
                assert source.preprocessing.crop_size == size
                assert cache.cache_folder() == place.parent / "cache"
            assert not place.parent.exists()


@pytest.mark.parametrize(("model", "size", "minutes"), [(BUILT_IN_MODEL, None, 1.0), (BUILT_IN_MODEL, (96, 96), 5.0)])
def test_how_long_it_takes_by_default(
    model: str, size: Any, minutes: float, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    class Track(tuning.Track):
        def race_precision(self, *_: Any) -> None:
            seen.append(self.seconds)

    monkeypatch.setattr(tuning, "Track", Track)
    with warnings.catch_warnings(), pytest.raises(EngineError, match="nothing here can run"):
        tune(model, "f32", size, clock=hand.clock)
    assert seen == [60 * minutes]


class TestTrack:
    @pytest.fixture
    def track(self, hand: Hand, tiny_folder: Path) -> tuning.Track:
        return tuning.Track(open_source(tiny_folder), "cpu", hand.clock, 60.0, lambda share, text: None)

    def test_of_several_races_the_least_time_counts_and_all_rounds(self, hand: Hand, track: tuning.Track) -> None:
        way = OPENVINO
        assert track.open(way)
        engine: Any = track._engines[way]
        for milliseconds, least in ((10.0, 0.010), (20.0, 0.010), (5.0, 0.005)):
            before = track.rows[way, 1].rounds if track.rows else 0
            engine._milliseconds = milliseconds
            track.race([way], 1, 10.0)
            assert track.rows[way, 1].seconds == pytest.approx(least)
            assert track.rows[way, 1].rounds > before

    def test_each_precision_has_an_equal_share_of_what_is_left(
        self, track: tuning.Track, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shares: list[float] = []

        def takes_all_it_may(track: tuning.Track, entrants: Any, batch_size: int, seconds: float) -> None:
            track.racing += seconds
            shares.append(seconds)

        monkeypatch.setattr(tuning.Track, "race", takes_all_it_may)
        for left, precision in ((3, "f32"), (2, "bf16"), (1, "int8")):
            track.race_precision(precision, (1, 4), left)
            assert not track._engines  # of which the next precision's may need the memory
        assert shares == pytest.approx([60.0 / 3 / 6] * 18)  # three stages of two sizes each

    @pytest.mark.parametrize("why", ["racing", "starting"])
    def test_late_no_more_is_started_in_a_precision_that_something_runs_in(
        self, why: str, hand: Hand, track: tuning.Track
    ) -> None:
        first, other, narrower = Way("torch", "f32", "eager", channels_last=False), OPENVINO, Way("openvino", "bf16")
        assert track.open(first)
        track.race([first], 1, 10.0)
        if why == "racing":
            track.racing = 2 * track.seconds
            assert track._share() == 1.0  # whatever a last pass took beyond
        else:
            hand.time = 2 * track.seconds + 0.001
        assert not track.open(other)
        assert [*track.tried] == hand.loaded == [first]
        assert track.open(narrower)
        assert track.open(first)  # which was started in time

    def test_torch_is_loaded_once_for_all_that_changes_as_it_goes(self, hand: Hand, track: tuning.Track) -> None:
        first = Way("torch", "f32", "eager", channels_last=False)
        for way in (first, replace(first, attention="sdpa"), replace(first, threads=1)):
            assert track.open(way)
        assert hand.loaded == [first]
        others = [replace(first, channels_last=True), replace(first, compiled=True), Way("torch", "bf16", "eager")]
        for way in others:
            assert track.open(way)
        assert hand.loaded == [first, *others]

    @pytest.mark.parametrize(("seconds", "number"), [(0.95, 0), (0.97, 1), (2.8, 1), (2.9, 2)])
    def test_a_larger_batch_is_raced_by_those_that_have_time_for_two_passes(
        self, seconds: float, number: int, hand: Hand, track: tuning.Track, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(SPEEDS, "openvino", 30.0)
        monkeypatch.setitem(SPEEDS, "torch", 60.0)
        ways = [Way("torch", "f32", "eager", channels_last=False), OPENVINO]
        monkeypatch.setattr(tuning, "NEAR", 3.0)
        for way in ways:
            assert track.open(way)
        track.race(ways, 1, 10.0)
        track.race(ways, 16, seconds)  # of which two passes take 0.96 s, and 1.92 s of the slower one
        assert [way for way, size in track.rows if size == 16] == [OPENVINO, ways[0]][:number]

    def test_what_fails_in_a_race_is_out_and_why_is_told(
        self, hand: Hand, track: tuning.Track, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = Way("onnx", "f32")
        assert track.open(OPENVINO)
        assert track.open(other)
        compute = Fake._compute

        def fail(engine: Fake, values: Any) -> Any:
            if engine.name == "onnx":
                raise RuntimeError("no memory\nat all")
            return compute(engine, values)

        monkeypatch.setattr(Fake, "_compute", fail)
        track.race([OPENVINO, other], 4, 10.0)
        assert [*track.rows] == [(OPENVINO, 4)]
        assert (track.tried[other].error, track.tried[OPENVINO].error) == ("no memory at all", None)
        assert not track.open(other)
        track.race([other], 1, 10.0)
        assert [*track.rows] == [(OPENVINO, 4)]

    @pytest.mark.parametrize(
        ("precision", "given"), [("int8", None), ("int8", {"calibration": "theirs"}), ("f32", None), ("f32", {})]
    )
    def test_int8_is_quantized_briefly_and_for_now_where_its_time_alone_is_wanted(
        self, precision: str, given: Any, track: tuning.Track, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load, told, outside = tuning.load, dict[str, Any](), cache.cache_folder()

        def noting(name: str, **options: Any) -> Any:
            told.update(options, place=cache.cache_folder())
            return load(name, **options)

        monkeypatch.setattr(tuning, "load", noting)
        track.given = given
        assert track.open(Way("openvino", precision))
        is_for_now = precision == "int8" and given is None
        assert (told["place"] == outside) is not is_for_now
        assert told.get("time_limit") == (60.0 if is_for_now else None)
        if is_for_now:
            assert told["calibration"].shape == (tuning.FEWEST_PICTURES, 3, SIDE, SIDE)
            assert not told["place"].exists()
        else:
            assert told.get("calibration") == (given or {}).get("calibration")

    def test_int8_of_a_model_that_does_not_say_how_pictures_are_prepared(
        self, hand: Hand, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(tiny_folder, tmp_path / "model")
        (tmp_path / "model" / "preprocessor_config.json").unlink()
        asked: list[Any] = []
        calibration_pixels = tuning.calibration_pixels
        monkeypatch.setattr(tuning, "calibration_pixels", lambda *what: asked.append(what) or calibration_pixels(*what))
        track = tuning.Track(open_source(tmp_path / "model"), "cpu", hand.clock, 60.0, lambda share, text: None)
        assert track.open(Way("openvino", "int8"))
        steps = published.preprocessing((SIDE, SIDE), 3)
        assert asked == [(None, steps, (3, SIDE, SIDE), tuning.FEWEST_PICTURES)]

    def test_what_computes_in_another_precision_than_asked_is_no_way(
        self, track: tuning.Track, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load = tuning.load

        def in_float32(name: str, **options: Any) -> Any:
            loaded = load(name, **options)
            loaded.precision = "f32"
            return loaded

        monkeypatch.setattr(tuning, "load", in_float32)
        way = Way("openvino", "bf16")
        assert not track.open(way)
        assert track.tried[way].error == "openvino computes in f32 here, not in bf16"
        assert track.open(OPENVINO)

    def test_what_takes_long_without_a_word_is_no_conversion(
        self, hand: Hand, track: tuning.Track, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load = tuning.load

        def slowly(name: str, **options: Any) -> Any:
            hand.time += 3.0
            return load(name, **options)

        monkeypatch.setattr(tuning, "load", slowly)
        for way, seconds in ((Way("torch", "f32", "sdpa", channels_last=False), 0.0), (OPENVINO, 8.0)):
            assert track.open(way)
            assert track.tried[way].converting == pytest.approx(seconds)

    def test_torch_gets_its_threads_and_attention_before_each_turn(
        self, track: tuning.Track, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[Any] = []
        monkeypatch.setattr(tuning, "take_threads", told.append)
        first = Way("torch", "f32", "eager", channels_last=False)
        ways = [first, replace(first, attention="sdpa"), replace(first, threads=1), OPENVINO]
        for way in ways:
            assert track.open(way)
        assert told == [None, None, 1]
        engine: Any = track._engines[first]
        told.clear()
        for way in (ways[1], ways[2]):
            track.timed(way, 1)
            told.append(engine.config._attn_implementation)
        assert told == [None, "sdpa", 1, "eager"]

    def test_each_size_is_compiled_for_itself_and_what_fails_then_is_out(
        self, hand: Hand, track: tuning.Track, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiled, broken = (Way("torch", "f32", "sdpa", compiled=True, channels_last=last) for last in (False, True))
        compute, sizes = Fake._compute, set[tuple[int, int]]()

        def compiling(engine: Fake, values: Any) -> Any:
            if (id(engine), len(values)) not in sizes:
                sizes.add((id(engine), len(values)))
                hand.time += 7.0
                if len(values) > 1 and engine is track._engines.get(broken):
                    raise RuntimeError("no kernel for 4")
            return compute(engine, values)

        monkeypatch.setattr(Fake, "_compute", compiling)
        for way in (compiled, broken):
            assert track.open(way)
            assert track.tried[way].compiling == pytest.approx(7.0, abs=0.1)
        track.race([compiled, broken], 1, 10.0)
        track.race([compiled, broken], 4, 10.0)
        assert track.tried[compiled].compiling == pytest.approx(14.0, abs=0.2)
        assert track.tried[broken].error == "no kernel for 4"
        assert [size for way, size in track.rows if way == broken] == [1]
        assert track.rows[compiled, 4].seconds == pytest.approx(0.060)
        assert track.racing < 14.0  # compiling is no part of it

    @pytest.mark.parametrize("steadily", [False, True])
    def test_passes_are_those_of_the_job_and_engines_know_their_size(
        self, steadily: bool, track: tuning.Track, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[Any] = []
        for name in ("run", "run_steadily"):
            monkeypatch.setattr(Fake, name, lambda engine, values, name=name: told.append((name, len(values))))
        monkeypatch.setattr(Fake, "expect", lambda engine, size: told.append(("expect", size)), raising=False)
        track.steadily = steadily
        assert track.open(OPENVINO)
        track.timed(OPENVINO, 40)  # more than the pixels that are there
        run = "run_steadily" if steadily else "run"
        assert told == [(run, 1), (run, 40)]
        told.clear()
        monkeypatch.setattr(tuning.Race, "run", lambda race: {})
        track.race([OPENVINO], 4, 10.0)
        assert told == [("expect", 4)]


def test_on_a_cpu_compiling_takes_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (tuning.can_compile(on_cpu=True), tuning.can_compile(on_cpu=False)) == (False, True)
    (tmp_path / "g++").touch(mode=0o755)
    assert tuning.can_compile(on_cpu=True)

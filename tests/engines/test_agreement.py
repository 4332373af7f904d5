"""A precision by a promise: the bound, the pictures that it takes, and what is chosen of ways that differ."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_race import SPEEDS, Fake, Hand, raced
from PIL import Image
from typer.testing import CliRunner

from vit_hybrid.bundles import cache
from vit_hybrid.bundles.calibration import PictureFolder
from vit_hybrid.checkpoints import published
from vit_hybrid.checkpoints.kinds import Own
from vit_hybrid.checkpoints.opening import open as open_source
from vit_hybrid.cli.main import app
from vit_hybrid.engines import EngineError, EngineWarning, agreement, kept, tuning
from vit_hybrid.engines.agreement import lower_bound, pictures_needed, promised
from vit_hybrid.engines.kept import Row, Table
from vit_hybrid.engines.ways import Way
from vit_hybrid.images.preparing import preparing
from vit_hybrid.outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from vit_hybrid.runtimes import BUNDLE_FILE

# 14 pictures that calibrate nothing.
ASKED, PICTURES = 0.8, 28


def change_what_loads(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, dict[str, Any]], None]) -> None:
    """Every engine that a search loads is changed, by the options that it was loaded with."""
    inner: Any = agreement.load

    def load(name: str, **options: Any) -> Any:
        loaded = inner(name, **options)
        change(loaded, options)
        return loaded

    monkeypatch.setattr(agreement, "load", load)


class TestBound:
    @pytest.mark.parametrize(("share", "pictures"), [(0.995, 598), (0.99, 299), (0.98, 149), (0.8, 14)])
    def test_the_pictures_that_a_promise_takes(self, share: float, pictures: int) -> None:
        assert pictures_needed(share) == pictures
        assert lower_bound(pictures, pictures) >= share > lower_bound(pictures - 1, pictures - 1)

    @pytest.mark.parametrize(("agreed", "total"), [(30, 30), (29, 30), (17, 20), (1, 5), (590, 598)])
    def test_is_where_so_many_would_be_seen_by_chance(self, agreed: int, total: int) -> None:
        share = Fraction(lower_bound(agreed, total))
        chance = sum(comb(total, one) * share**one * (1 - share) ** (total - one) for one in range(agreed, total + 1))
        assert float(chance) == pytest.approx(0.05, rel=1e-6)

    def test_published_values(self) -> None:
        """One side of the 90 % intervals of Clopper and Pearson: 0 of n, n of n, 5 of 10 (0.2224)."""
        assert lower_bound(0, 10) == 0.0
        assert lower_bound(10, 10) == pytest.approx(0.05**0.1)
        assert lower_bound(5, 10) == pytest.approx(0.2224, abs=5e-5)

    def test_more_confidence_is_a_lower_bound(self) -> None:
        assert lower_bound(95, 100, 0.975) < lower_bound(95, 100, 0.95) < 0.95


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        levels = generator.integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(levels).resize((32, 32)).save(place / f"{number:02}.png")
    return place


@pytest.fixture
def wrong() -> dict[str, float]:
    """By precision, and for merged tokens, the share of pictures that is decided otherwise than in float32."""
    return {"f32": 0.0, "bf16": 0.0, "int8": 0.0, "merged": 1.0}


@pytest.fixture
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, float]) -> Iterator[Hand]:
    before = torch.get_num_threads()
    hand = raced(tmp_path, monkeypatch)
    inner = tuning.load
    monkeypatch.setattr(agreement, "instruction_sets", lambda: ["x86_64", "avx512_bf16"])

    def load(
        name: str, progress: Any = None, calibration: Any = None, token_merging: Any = None, **options: Any
    ) -> Any:
        loaded: Any = inner(name, progress=progress or (lambda text: None), **options)
        if options["precision"] == "int8":
            assert calibration == PictureFolder(str(tmp_path / "pictures"), None, half=True)
        share = wrong["merged" if token_merging else options["precision"]]
        speed = (
            loaded._milliseconds * (0.5 if token_merging else 1.0) * (0.6 if options["precision"] == "int8" else 1.0)
        )

        def compute(values: Any) -> list[np.ndarray]:
            hand.time += speed / 1000 * len(values)
            means = values.mean((1, 2, 3))
            flips = np.array([int(abs(float(mean)) * 1e6) % 100 < 100 * share for mean in means])
            decided = (means > 0) ^ flips
            return [np.stack([~decided, decided], 1).astype(np.float32)]

        loaded._compute = compute
        return loaded

    monkeypatch.setattr(agreement, "load", load)
    yield hand
    torch.set_num_threads(before)


class TestPromise:
    def find(self, folder: Path, tiny_folder: Path, hand: Hand, **options: Any) -> Any:
        return promised(tiny_folder, ASKED, folder, batch_size=4, clock=hand.clock, **options)

    def test_is_the_fastest_that_holds(self, folder: Path, tiny_folder: Path, hand: Hand) -> None:
        found = self.find(folder, tiny_folder, hand)
        assert found.way == Way("openvino", "int8")
        assert (found.needed, found.tested, found.agreed) == (14, 14, 14)
        assert found.bound >= ASKED
        assert found.gain == pytest.approx(10 / (0.6 * 0.6 * 10), rel=0.01)
        assert found.options()["calibration"] == PictureFolder(str(folder), None, half=True)
        assert found.notes == ()
        assert "14 of 14 pictures as it does, 0 otherwise" in found.said()
        assert [one.seconds for one in found.candidates] == pytest.approx([0.0036, 0.005, 0.010])  # of a picture each
        at_once = promised(tiny_folder, ASKED, folder, batch_size=64, clock=hand.clock)  # more than there are
        assert [one.seconds for one in at_once.candidates] == pytest.approx([0.0036, 0.005, 0.010])

    def test_a_first_pass_that_takes_longer_is_not_timed(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def slow_at_first(loaded: Any, options: Any) -> None:
            compute, sizes = loaded._compute, set[int]()

            def first_slowly(values: Any) -> Any:
                hand.time += 0.0 if len(values) in sizes else 5.0
                sizes.add(len(values))
                return compute(values)

            loaded._compute = first_slowly

        change_what_loads(monkeypatch, slow_at_first)
        found = self.find(folder, tiny_folder, hand)
        assert found.way == Way("openvino", "int8")
        assert found.gain == pytest.approx(10 / (0.6 * 0.6 * 10), rel=0.01)

    def test_all_of_it_is_said_in_a_line(self) -> None:
        way = Way("onnx", "int8", threads=2)
        found = agreement.Promise(way, 0.98, 149, 1200, 1190, 0.98512, 2.504, (), (), "pictures", None)
        assert found.said() == (
            "onnx int8, 2 threads: 2.50 times as fast as float32, and decides 1,190 of 1,200 pictures as it does, 10 "
            "otherwise, so at least 98.51% with 95 % confidence; 0.98 takes 149 pictures or more"
        )

    def test_only_int8_is_loaded_with_pictures_and_with_their_limit(
        self, folder: Path, tiny_folder: Path, hand: Hand
    ) -> None:
        found = self.find(folder, tiny_folder, hand, precision="bf16", max_pixels=5000)
        assert (found.way.precision, found.max_pixels) == ("bf16", 5000)
        assert found.options() == {**found.way.options(), "calibration": None}
        int8 = replace(found, way=replace(found.way, precision="int8"))
        assert int8.options()["calibration"] == PictureFolder(str(folder), 5000, half=True)

    def test_what_agrees_exactly_as_often_as_was_asked_is_tested(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, float]
    ) -> None:
        wrong["merged"] = 0.0
        monkeypatch.setattr(agreement._Search, "_share", lambda search, way, expected: ASKED)
        found = self.find(folder, tiny_folder, hand).way
        assert (found.precision, found.token_merging is None) == ("int8", False)
        monkeypatch.setattr(agreement, "lower_bound", lambda *_: 0.79)
        assert promised(tiny_folder, 0.79, folder, batch_size=4, clock=hand.clock).way == found  # and it holds so much

    def test_what_cannot_run_or_runs_otherwise_gives_way_to_what_can(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def change(loaded: Any, options: dict[str, Any]) -> None:
            warnings.warn(EngineWarning("which is no word worth here"), stacklevel=1)
            if options["engine"] == "openvino" and options["precision"] == "f32":
                raise EngineError("no kernel")
            if options["precision"] == "bf16":
                loaded.precision = "f32"

        change_what_loads(monkeypatch, change)
        found = self.find(folder, tiny_folder, hand, engine="openvino")
        assert [one.way for one in found.candidates] == [Way("openvino", "int8"), Way("onnx", "f32")]

    def test_where_nothing_can_run_in_float32_that_is_said(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agreement._Search, "_open", lambda search, way: False)
        with pytest.raises(EngineError, match=f"nothing here can run {tiny_folder} in float32"):
            self.find(folder, tiny_folder, hand)

    def test_begins_with_what_was_measured_but_for_what_is_compiled(
        self, folder: Path, tiny_folder: Path, hand: Hand
    ) -> None:
        eager = Way("torch", "f32", "eager", channels_last=False)
        rows = [Row(replace(eager, compiled=True), 4, 0.01, 3), Row(eager, 4, 0.02, 3), Row(eager, 16, 0.2, 3)]
        rows.append(Row(Way("onnx", "f32"), 16, 0.1, 3))  # of other batches
        kept.keep(Table(tuple(rows)), kept.shape_of(open_source(tiny_folder).fields()))
        found = self.find(folder, tiny_folder, hand)
        assert [one.way for one in found.candidates if one.way.precision == "f32"] == [eager]

    def test_what_fails_when_it_is_timed_is_out(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(loaded: Any, options: dict[str, Any]) -> None:
            if options["precision"] == "int8":
                monkeypatch.setattr(loaded, "run", lambda pixels: 1 / 0)
                loaded.logits = lambda pixels: loaded._compute(pixels)[0]

        change_what_loads(monkeypatch, fail)
        assert [one.way.precision for one in self.find(folder, tiny_folder, hand).candidates] == ["bf16", "f32"]

    def test_passes_over_what_does_not_hold(
        self, folder: Path, tiny_folder: Path, hand: Hand, wrong: dict[str, float]
    ) -> None:
        wrong["int8"] = 0.5
        found = self.find(folder, tiny_folder, hand)
        assert found.way == Way("openvino", "bf16")
        assert {one.way.precision: one.agreed for one in found.candidates} == {"int8": None, "bf16": 14, "f32": None}
        wrong["bf16"] = 0.5
        found = self.find(folder, tiny_folder, hand, threads=1)
        assert (found.way, found.gain, found.agreed) == (Way("openvino", "f32", threads=1), 1.0, 14)

    def test_the_second_that_is_tested_has_to_hold_it_with_more_confidence(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decisions = agreement._Search._decisions

        def otherwise_where_tested(search: Any, way: Way, pixels: Any) -> Any:
            found = decisions(search, way, pixels)
            other = way.precision == "int8" and pixels is search._testing
            return np.hstack([found, 1 - found if other else found])  # of two labels: one is decided as it was

        monkeypatch.setattr(agreement._Search, "_decisions", otherwise_where_tested)
        found = self.find(folder, tiny_folder, hand)
        assert found.way.precision == "f32"  # which 14 pictures do not show of bf16 with 97.5 %
        assert {one.way.precision: (one.agreed, one.bound) for one in found.candidates} == {
            "int8": (0, 0.0),
            "bf16": (14, lower_bound(14, 14, 0.975)),
            "f32": (None, None),
        }

    def test_of_several_labels_a_picture_agrees_where_all_of_them_do(self) -> None:
        found = np.array([[1, 0], [1, 1], [0, 1], [1, 1]])
        search: Any = SimpleNamespace(_decisions=lambda way, pixels: found, _looking=None)
        assert agreement._Search._share(search, Way("torch", "bf16"), np.ones((4, 2))) == 0.5

    def test_takes_merging_where_it_holds(
        self, folder: Path, tiny_folder: Path, hand: Hand, wrong: dict[str, float]
    ) -> None:
        wrong["merged"] = 0.0
        found = self.find(folder, tiny_folder, hand)
        assert found.way.token_merging is not None
        assert found.way.precision == "int8"  # the fastest of those that hold it
        # A third, a half and two thirds of 16 tokens, over two layers.
        assert {one.way.token_merging for one in found.candidates} == {None, 2, 4, 5}
        assert self.find(folder, tiny_folder, hand, merging=False).way.token_merging is None

    def test_merges_shares_of_tokens_that_stand_in_no_square(self) -> None:
        config = SimpleNamespace(grid_size=(2, 6), num_hidden_layers=2)
        search: Any = SimpleNamespace(_source=SimpleNamespace(config=config), _open=lambda way: True)
        search._share = lambda way, expected: 0.9 if way.token_merging < 4 else 0.8
        way = Way("torch", "f32")
        found = agreement._Search._merged(search, way, np.zeros(1), 0.9)
        # A third and a half of twelve; two thirds agree too little.
        assert [one.token_merging for one in found] == [2, 3]
        search._share = lambda way, expected: 0.8 if way.token_merging == 3 else 0.9
        assert len(agreement._Search._merged(search, way, np.zeros(1), 0.9)) == 1  # with 3, larger ones are given up

    @pytest.mark.parametrize(("layers", "numbers"), [(3, [1, 2]), (5, [1]), (9, [])])
    def test_merges_at_least_one_token_a_layer(self, layers: int, numbers: list[int]) -> None:
        config = SimpleNamespace(grid_size=(2, 6), num_hidden_layers=layers)
        search: Any = SimpleNamespace(_source=SimpleNamespace(config=config), _open=lambda way: True)
        search._share = lambda way, expected: 1.0
        found = agreement._Search._merged(search, Way("torch", "f32"), np.zeros(1), 0.9)
        assert [one.token_merging for one in found] == numbers

    def test_names_a_precision_that_gains_nothing(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inner = agreement.load

        def slow(name: str, **options: Any) -> Any:
            monkeypatch.setitem(SPEEDS, "openvino", 30.0 if options["precision"] == "bf16" else 10.0)
            return inner(name, **options)

        monkeypatch.setattr(agreement, "load", slow)
        assert self.find(folder, tiny_folder, hand).notes == ("bf16 is not faster than f32 on this processor",)

    def test_is_kept_for_these_weights_and_pictures(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []
        monkeypatch.setattr(Fake, "expect", lambda engine, size: sizes.append(size))
        found = self.find(folder, tiny_folder, hand)
        loads, at = len(hand.loaded), hand.time
        assert sizes == [4] * loads
        assert self.find(folder, tiny_folder, hand) == found
        monkeypatch.chdir(folder.parent)
        assert self.find(Path(folder.name), tiny_folder, hand) == replace(
            found, folder=folder.name
        )  # as it is named now
        assert (len(hand.loaded), hand.time) == (loads, at)
        for file in (cache.cache_folder() / agreement.FOLDER).iterdir():
            content = json.loads(file.read_text())
            content["promise"]["way"]["engine"] = "tensorrt"
            file.write_text(json.dumps(content))
        with pytest.warns(EngineWarning, match="is damaged"):
            assert self.find(folder, tiny_folder, hand).way == found.way
        file.write_text("{")
        with pytest.warns(EngineWarning, match=f"{file.name}: cannot be read .*; passed over"):
            assert self.find(folder, tiny_folder, hand).way == found.way
        Image.new("RGB", (8, 8)).save(folder / "another.png")
        assert self.find(folder, tiny_folder, hand).way == found.way
        assert len(hand.loaded) > 2 * loads

    @pytest.mark.parametrize(
        "other",
        [
            *({"batch_size": 2}, {"merging": False}, {"agreement": 0.79}, {"threads": 1}, {"engine": "openvino"}),
            *({"precision": "int8"}, {"cores": 64}, {"weights_sha256": "0" * 64}, {"pictures": "another"}),
        ],
    )
    def test_what_is_kept_is_for_what_was_asked(
        self,
        other: dict[str, Any],
        folder: Path,
        tiny_folder: Path,
        hand: Hand,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        asked: dict[str, Any] = {"agreement": ASKED, "batch_size": 4, "clock": hand.clock}
        promised(tiny_folder, calibration=folder, **asked)
        loads = len(hand.loaded)
        if "cores" in other:
            monkeypatch.setattr(kept, "where", lambda device: other)
        elif "weights_sha256" in other:
            monkeypatch.setattr(Own, "provenance", lambda source: other)
        elif "pictures" in other:
            Image.new("RGB", (32, 32)).save(folder / "00.png")
        else:
            asked |= other
        promised(tiny_folder, calibration=folder, **asked)
        assert len(hand.loaded) > loads

    def test_where_it_cannot_be_kept_it_holds_for_now(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = Path.write_text

        def fill_the_disk(path: Path, text: str, **how: Any) -> int:
            write(path, text[:10], **how)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", fill_the_disk)
        with pytest.warns(EngineWarning, match=r"chosen cannot be kept \(.*the disk is full .*, and holds for now"):
            assert self.find(folder, tiny_folder, hand).way == Way("openvino", "int8")
        assert [*(cache.cache_folder() / agreement.FOLDER).iterdir()] == []

    @pytest.mark.parametrize("place", ["a file", "no home"])
    def test_without_a_cache_it_is_said_once_that_nothing_is_kept(
        self, place: str, folder: Path, tiny_folder: Path, hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        named = str(tmp_path / "file") if place == "a file" else "~nobody-of-this-name/it"
        monkeypatch.setenv(cache.CACHE_VARIABLE, named)
        with pytest.warns(EngineWarning, match=r"what was chosen cannot be kept \(.*\), and holds for now") as warned:
            assert self.find(folder, tiny_folder, hand).way == Way("openvino", "int8")
        assert len(warned) == 1

    def test_a_model_that_does_not_say_how_pictures_are_prepared_sees_those_of_the_published(
        self, folder: Path, tiny_folder: Path, hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(tiny_folder, tmp_path / "model")
        (tmp_path / "model" / "preprocessor_config.json").unlink()
        asked: list[Any] = []
        monkeypatch.setattr(
            agreement, "preparing", lambda *how, **limit: asked.append((*how, limit)) or preparing(*how)
        )
        assert self.find(folder, tmp_path / "model", hand).way == Way("openvino", "int8")
        assert asked == [(published.preprocessing((32, 32), 3), {"max_pixels": None})] * 2

    @pytest.mark.parametrize("change", [{"format": "another"}, {"format_version": 2}, {"about": {}}])
    def test_what_is_kept_of_something_else_is_passed_over(
        self, change: dict[str, Any], folder: Path, tiny_folder: Path, hand: Hand
    ) -> None:
        found = self.find(folder, tiny_folder, hand)
        [file] = (cache.cache_folder() / agreement.FOLDER).iterdir()
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, **change}))
        with pytest.warns(EngineWarning, match=rf"{file.name}: is damaged \(it is of something else\); passed over"):
            assert self.find(folder, tiny_folder, hand).way == found.way
        anew = json.loads(file.read_text())
        assert {name: anew[name] for name in change} == {name: content[name] for name in change}

    def test_of_more_pictures_than_a_promise_takes_some_are_looked_at(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agreement, "MOST_TIMES", 1)
        told: list[str] = []
        found = promised(tiny_folder, 0.7, folder, batch_size=4, clock=hand.clock, progress=told.append)
        assert (found.needed, found.tested) == (9, 9)  # 0.7^9 = 0.04, and 14 are there
        assert "Reading 18 pictures" in told
        assert {"Starting openvino f32", "Timing 3 ways", "Asking openvino int8 of 9 pictures"} <= {*told}

    def test_pictures_may_have_no_more_pixels_than_were_allowed(
        self, folder: Path, tiny_folder: Path, hand: Hand
    ) -> None:
        with pytest.raises(EngineError, match="of those 0 can be read"):
            self.find(folder, tiny_folder, hand, max_pixels=32 * 32 - 1)

    def test_decoded_pictures_are_gone_where_it_is_given_up(
        self, folder: Path, tiny_folder: Path, hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        decoded = agreement._Search._decoded

        def interrupted(search: Any, paths: Any, file: Path, passed: Any) -> Any:
            if file.name == "testing.npy":
                raise KeyboardInterrupt
            return decoded(search, paths, file, passed)

        monkeypatch.setattr(agreement._Search, "_decoded", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            self.find(folder, tiny_folder, hand)
        assert [*(tmp_path / "temporary").iterdir()] == [], caught

    @pytest.mark.parametrize(("problem", "precision"), [(SINGLE_LABEL, "int8"), (MULTI_LABEL, "bf16")])
    def test_of_several_labels_each_has_to_be_decided_alike(
        self,
        problem: str,
        precision: str,
        folder: Path,
        tiny_folder: Path,
        hand: Hand,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def of_that_problem(loaded: Any, options: Any) -> None:
            loaded.spec = replace(loaded.spec, problem_type=problem)
            compute, more = loaded._compute, 0.5 if options["precision"] == "int8" else 0.0
            loaded._compute = lambda values: [compute(values)[0] + more]  # the best label is the same, and not alone

        change_what_loads(monkeypatch, of_that_problem)
        assert self.find(folder, tiny_folder, hand).way == Way("openvino", precision)

    def test_a_regression_decides_nothing(
        self, folder: Path, tiny_folder: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def of_a_regression(loaded: Any, options: Any) -> None:
            loaded.spec = replace(loaded.spec, problem_type=REGRESSION)

        change_what_loads(monkeypatch, of_a_regression)
        with pytest.raises(EngineError, match="a regression decides nothing that could agree"):
            self.find(folder, tiny_folder, hand)

    def test_what_is_given_by_hand_narrows_it(self, folder: Path, tiny_folder: Path, hand: Hand) -> None:
        found = self.find(folder, tiny_folder, hand, engine="torch")
        assert found.way == Way("torch", "bf16", "eager", channels_last=True)
        assert self.find(folder, tiny_folder, hand, precision="bf16").way == Way("openvino", "bf16")
        for engine in ("torch", "onnx"):
            assert self.find(folder, tiny_folder, hand, engine=engine, precision="f32").way.engine == engine

    def test_counts_what_it_passes_over(self, folder: Path, tiny_folder: Path, hand: Hand) -> None:
        (folder / "notes.txt").touch()
        for number in range(28, 32):
            (folder / f"{number}.png").write_bytes(b"no picture")
        (folder / "01.png").write_bytes(b"no picture")
        said = r"passed over: 5 pictures that cannot be read \(pictures/01.png, ...\), 1 file of another kind"
        with pytest.raises(EngineError, match=r"pictures: agreement 0.8 takes 14 .* of those 13 can be read"):
            self.find(folder, tiny_folder, hand)
        Image.new("RGB", (8, 8), "red").save(folder / "29.png")
        with pytest.warns(EngineWarning, match=f"calibration {said.replace('5 ', '4 ')}"):
            assert self.find(folder, tiny_folder, hand).tested == 14
        with pytest.warns(EngineWarning, match=r"passed over: 1 file of another kind \(1 .txt\)"):
            self.find(folder, tiny_folder, hand)

    def test_refuses_halves_that_cannot_be_read(self, folder: Path, tiny_folder: Path, hand: Hand) -> None:
        for number in range(0, PICTURES, 2):
            (folder / f"{number:02}.png").write_bytes(b"no picture")
        with pytest.raises(EngineError, match="every second picture calibrates, and of those none can be read"):
            self.find(folder, tiny_folder, hand)

    @pytest.mark.parametrize("asked", [0.0, 1.0, 1.5, math.nan])
    def test_refuses_what_is_no_share(self, asked: float, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match=f"^agreement is {asked:g}; expected a share between 0 and 1"):
            promised("vit-hybrid-tiny-imagenet", asked, tmp_path)

    def test_says_how_many_pictures_it_takes(self, folder: Path, tiny_folder: Path) -> None:
        with pytest.raises(EngineError, match=r"pictures: agreement 0.995 takes 598 .* 1,196 in .* has 28"):
            promised(tiny_folder, 0.995, folder)

    def test_takes_no_bundle(self, tmp_path: Path) -> None:
        (tmp_path / BUNDLE_FILE).write_text("{}")
        with pytest.raises(EngineError, match=f"^{tmp_path}: a bundle's precision is settled"):
            promised(tmp_path, ASKED, tmp_path)


def test_of_precisions_that_gain_nothing_the_widest_that_is_as_fast_is_named() -> None:
    seconds = {"int8": 0.2, "f32": 0.3, "bf16": 0.2, "f16": 0.4}
    found = [agreement.Candidate(Way("torch", name), took, 1.0) for name, took in seconds.items()]
    assert agreement._not_faster(found) == [
        "f16 is not faster than f32 on this processor",
        "int8 is not faster than bf16 on this processor",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--agreement", "0.9"], "--agreement needs --calibration"),
        (["--agreement", "2", "--calibration", "x"], "2 is no share between 0 and 1"),
        (["--agreement", "0.9", "--calibration", "x", "--compile"], "leave out --compile"),
        (["--agreement", "0.9", "--calibration", "nowhere"], "there is no such calibration folder"),
    ],
)
def test_what_the_command_refuses(options: list[str], said: str, tiny_folder: Path, folder: Path) -> None:
    picture = str(next(folder.iterdir()))
    result = CliRunner().invoke(app, ["classify", picture, "--model", str(tiny_folder), *options])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())

"""What the process that runs the model says of a batch, asked without a process."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_worker import PREPROCESSING, Colors
from made_confidence import calibrated_copy
from serving import photo

from vit_hybrid import Predictor
from vit_hybrid.engines.settling import Settled
from vit_hybrid.engines.ways import Way
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.runtimes import BUNDLE_FILE
from vit_hybrid.serve import worker
from vit_hybrid.serve.worker import CLASSIFY, EMBED, Asked, Running, opened


@pytest.fixture
def calibrated(tiny_folder: Path, tmp_path: Path) -> Path:
    return calibrated_copy(tiny_folder, tmp_path / "calibrated")


def test_a_calibrated_model_says_what_the_predictor_says_at_these_levels(calibrated: Path) -> None:
    pictures = [photo(seed) for seed in range(5)]
    how = {"engine": "torch", "device": "cpu"}
    predictor = Predictor.from_pretrained(calibrated, **how)
    pixels = np.stack([predictor.streaming.preparing(picture) for picture in pictures])
    asked = [Asked(place, CLASSIFY, 2) for place in range(5)]
    verdicts = set()
    for coverage, false_alarms in ((0.9, 0.05), (0.4, 0.9)):
        levels = {"coverage": coverage, "false_alarms": false_alarms}
        running = opened({"name": calibrated, "may_race": False, **how, **levels})
        assert running.facts.is_calibrated
        expected = predictor.stream(pictures, top_k=2, coverage=coverage, false_alarms=false_alarms)
        for (is_answer, text), record in zip(running.answers(pixels, asked), expected, strict=True):
            assert is_answer
            said = json.loads(b"{%b}" % text)
            assert said.keys() == record.keys() - {"path"}
            assert (said["set"], said["coverage"]) == (record["set"], coverage)
            assert said["familiarity"] == pytest.approx(record["familiarity"], abs=1e-5)
            assert said["none_of_these"] == record["none_of_these"]
            verdicts.add((coverage, len(said["set"]), said["none_of_these"]))
            for one, other in zip(said["predictions"], record["predictions"], strict=True):
                assert one["label"] == other["label"]
                assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
    assert {one[1:] for one in verdicts if one[0] == 0.9} != {one[1:] for one in verdicts if one[0] == 0.4}


def test_uncalibrated_it_says_nothing_beside_the_labels(calibrated: Path) -> None:
    (calibrated / "README.md").write_text("# What it is\n")
    running = opened({"name": calibrated, "may_race": False, "engine": "torch", "device": "cpu", "confidence": False})
    assert (running.facts.is_calibrated, running.facts.card) == (False, "# What it is\n")
    [(is_answer, text)] = running.answers(np.zeros((1, 3, 32, 32), np.float32), [Asked(0, CLASSIFY, None)])
    assert is_answer
    assert json.loads(b"{%b}" % text).keys() == {"predictions"}
    assert running.facts.tasks == (CLASSIFY, EMBED)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({"coverage": 1.5}, "coverage is 1.5; expected"),
        ({"coverage": 0.999}, "held-out pictures"),
        ({"false_alarms": 0}, "false_alarms is 0; expected a share"),
    ],
)
def test_levels_that_it_cannot_be_asked_for(calibrated: Path, levels: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        opened({"name": calibrated, "may_race": False, "engine": "torch", "device": "cpu", **levels})


def test_it_runs_as_was_measured_or_as_another_worker_found_out(tiny_folder: Path) -> None:
    how = {"name": tiny_folder, "may_race": False, "threads": 1}
    assert opened({**how, "engine": "torch"}).facts.way == Way("torch", "f32", "sdpa", channels_last=False, threads=1)
    way = Way("torch", "bf16", "eager", channels_last=False, threads=1)
    facts = opened({**how, "way": way, "dtype": "float32"}).facts  # which was typed, and is in the way
    assert (facts.way, facts.engine, facts.precision) == (way, "torch", "bf16")
    assert (
        opened({**how, "way": way, "dtype": "float32"}).facts.precision == "bf16"
    )  # it was measured with that in mind


@pytest.mark.parametrize(("given", "may_race"), [({}, True), ({"may_race": False}, False)])
def test_it_finds_out_how_it_runs_fastest_unless_it_may_not(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, bool], may_race: bool
) -> None:
    asked: list[Any] = []

    def settle(model: Any, options: Any, batch_size: int, pictures: Any, **how: Any) -> Settled:
        asked.append((options["output"], batch_size, pictures, how["may_race"], how["tell"]))
        return Settled(None, batch_size)

    monkeypatch.setattr(worker, "settle", settle)
    tell = lambda text: None  # noqa: E731
    opened({"name": tiny_folder, "engine": "torch", "device": "cpu", "batch_size": 3, **given}, tell)
    assert asked == [("all", 3, math.inf, may_race, tell)]


@pytest.mark.parametrize(
    ("gives", "output"), [(None, "all"), ("logits", "auto"), ("both", "both"), ("features", "features")]
)
def test_a_bundle_is_opened_for_what_it_was_exported_for(
    gives: str | None, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gives is not None:
        (tmp_path / BUNDLE_FILE).touch()
    (tmp_path / "README.md").write_text("# Its card\n")
    asked: list[Any] = []

    def settle(model: Any, options: Any, batch_size: int, *_: Any, **__: Any) -> Settled:
        asked.append((model, options, batch_size))
        return Settled(None, batch_size)

    def from_pretrained(**given: Any) -> Predictor:
        asked.append(given)
        return Predictor(Noted(), PREPROCESSING, 5)

    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setattr(worker, "settle", settle)
    monkeypatch.setattr(worker, "read_bundle", lambda folder: SimpleNamespace(output=gives))
    monkeypatch.setattr(worker.Predictor, "from_pretrained", from_pretrained)
    monkeypatch.setattr(worker.opening, "open", lambda name: SimpleNamespace(location=str(tmp_path)))
    tell = lambda text: None  # noqa: E731
    how = {"name": f"~/{tmp_path.name}", "threads": 2}
    running = opened({**how, "may_race": True, "coverage": 0.8}, tell)
    assert asked == [(tmp_path, {**how, "output": output}, 16), {**how, "output": output, "progress": tell}]
    assert (running.facts.card, running.facts.max_batch) == ("# Its card\n", 5)
    assert running._levels == (0.8, 0.05)


class Noted(Colors):
    """An engine that keeps how many pictures it got, and gives what is not finite for those of levels that none has."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def logits(self, pixel_values: Any) -> np.ndarray:
        self.counts.append(len(pixel_values))
        found = pixel_values.mean((2, 3))
        found[pixel_values[:, 0, 0, 0] == 2, 0] = np.inf
        found[pixel_values[:, 0, 0, 0] == 3, 0] = np.nan
        return found


def test_it_is_warmed_with_every_number_of_pictures() -> None:
    engine = Noted()
    Running(Predictor(engine, PREPROCESSING, 5)).warm_up()
    assert engine.counts == [1, 5, 2, 3, 4]


def test_it_is_warmed_with_pictures_of_its_size() -> None:
    class Oblong(Noted):
        spec = replace(Colors.spec, image_size=(8, 12))

        def logits(self, pixel_values: Any) -> np.ndarray:
            shapes.append(pixel_values.shape)
            return super().logits(pixel_values)

    shapes: list[tuple[int, ...]] = []
    size = {"size": {"height": 8, "width": 12}, "do_center_crop": False, "do_normalize": False}
    running = Running(Predictor(Oblong(), Preprocessing.from_dict(size), 3))
    running.warm_up()
    assert shapes == [(1, 3, 8, 12), (3, 3, 8, 12), (2, 3, 8, 12)]
    assert running.facts.shape == (3, 8, 12)


def test_it_is_warmed_with_one_picture_and_with_a_full_batch_where_more_would_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vit_hybrid.serve.worker.WARMING", 0.0)
    engine = Noted()
    Running(Predictor(engine, PREPROCESSING, 5)).warm_up()
    assert engine.counts == [1, 5]


def test_it_is_warmed_for_as_long_as_that_may_take_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    class Slow(Noted):
        def logits(self, pixel_values: Any) -> np.ndarray:
            now[0] += 0.1 * len(pixel_values)
            return super().logits(pixel_values)

    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: now[0]))
    engine = Slow()
    Running(Predictor(engine, PREPROCESSING, 20)).warm_up()
    # Up to nine it took 4.4 of the five seconds, and ten would take one more.
    assert engine.counts == [1, 20, 2, 3, 4, 5, 6, 7, 8, 9]


def test_what_is_compiled_is_not_compiled_for_every_number_of_pictures() -> None:
    engine: Any = Noted()
    engine.way = Way("torch", "f32", "sdpa", compiled=True)
    Running(Predictor(engine, PREPROCESSING, 5)).warm_up()
    assert engine.counts == [1, 5]


def test_each_picture_gets_as_many_labels_as_are_asked_of_it() -> None:
    pixels = np.zeros((4, 3, 8, 8), np.float32)
    asked = [Asked(0, CLASSIFY, 2), Asked(1, EMBED, 1), Asked(2, CLASSIFY, None), Asked(3, CLASSIFY, 1)]
    answers = Running(Predictor(Noted(), PREPROCESSING, 4)).answers(pixels, asked)
    said = [json.loads(b"{%b}" % text) for _, text in answers]
    assert [len(one["predictions"]) if "predictions" in one else None for one in said] == [2, None, 3, 1]


@pytest.mark.parametrize(
    ("output", "tasks"),
    [("logits", (CLASSIFY,)), ("both", (CLASSIFY, EMBED)), ("all", (CLASSIFY, EMBED))],
)
def test_vectors_are_for_those_who_have_them(output: str, tasks: tuple[str, ...]) -> None:
    running = Running(Predictor(Noted(), PREPROCESSING, 4))
    facts = running.facts
    assert (running._levels, facts.card) == ((0.9, 0.05), None)  # where nobody says others
    assert replace(facts, spec=replace(facts.spec, output=output)).tasks == tasks


def test_each_picture_gets_its_own_answer_and_what_is_not_finite_is_none() -> None:
    pixels = np.zeros((5, 3, 8, 8), np.float32)
    for position, levels in enumerate([(0.1, 0.9, 0.2), (2, 2, 2), (1 / 3, 0.1, 0.7), (3, 3, 3), (0.1, 0.2, 0.9)]):
        pixels[position] = np.array(levels)[:, None, None]
    asked = [Asked(position, EMBED if position == 2 else CLASSIFY, 1) for position in range(5)]
    answers = Running(Predictor(Noted(), PREPROCESSING, 5)).answers(pixels, asked)
    assert [is_answer for is_answer, _ in answers] == [True, False, True, False, True]
    said = [json.loads(b"{%b}" % text) for is_answer, text in answers if is_answer]
    assert [one["predictions"][0]["label"] for one in (said[0], said[2])] == ["green", "blue"]
    assert np.array_equal(np.float32(said[1]["embedding"]), np.float32([1 / 3, 0.1, 0.7]))  # to the last bit
    assert b"not finite numbers in float32" in answers[1][1]
    [(is_answer, text)] = Running(Predictor(Noted(), PREPROCESSING, 5)).answers(pixels[1:2], [Asked(0, EMBED, None)])
    assert (is_answer, text) == (True, b'"embedding": [2, 2, 2]')  # what is asked for is finite

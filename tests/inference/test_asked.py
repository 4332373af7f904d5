"""What is asked of a predictor reaches those who do it: levels of confidence, reading ahead, and what is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_engine import Colors
from made_confidence import calibrated_copy

from vit_hybrid import Predictor, engines
from vit_hybrid.checkpoints.files import ModelLoadError
from vit_hybrid.errors import EngineWarning
from vit_hybrid.inference import predictor as predictor_module
from vit_hybrid.inference.features import Extractor
from vit_hybrid.outputs.confidence import Judgment
from vit_hybrid.outputs.problems import MULTI_LABEL


def gray(level: int) -> np.ndarray:
    return np.full((8, 8, 3), level, np.uint8)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Colors())


def test_levels_that_are_asked_for_are_those_of_every_record(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def judge(logits: Any, token: Any, statistics: Any, coverage: float) -> Any:
        asked.append((len(logits), coverage))
        return [Judgment((1,), 0.25)] * len(logits)

    judged: Any = SimpleNamespace(judge=judge, calibrated=lambda logits: logits)
    predictor.confidence = judged
    checked: list[Any] = []
    monkeypatch.setattr(predictor_module, "check_levels", lambda *what: checked.append(what))
    for levels, is_none in (({"coverage": 0.8, "false_alarms": 0.3}, True), ({}, False)):
        first, error, second = predictor.stream([gray(9), ("b", b""), gray(200)], 1, **levels)
        assert error == {"path": "b", "error": "b: is empty"}
        for record in (first, second):
            assert (record["coverage"], record["none_of_these"]) == (levels.get("coverage", 0.9), is_none)
            assert len(record["predictions"]) == 1
    assert asked == [(1, 0.8)] * 2 + [(1, 0.9)] * 2
    assert checked == [(judged, 0.8, 0.3), (judged, 0.9, 0.05)]


def test_levels_that_cannot_be_had_are_said_at_the_call(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("too much")

    monkeypatch.setattr(predictor_module, "check_levels", refuse)
    with pytest.raises(ValueError, match="too much"):
        predictor.stream([gray(9)])


@pytest.mark.parametrize("read_ahead", [None, False, True])
def test_pictures_are_read_ahead_as_was_asked(
    read_ahead: bool | None, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def noting(sources: Any, ahead: bool | None = None) -> Iterator[Any]:
        asked.append((sources, ahead))
        return iter(())

    extractor = Extractor(Colors(output="both"))
    for streaming in (predictor.streaming, extractor.streaming):
        monkeypatch.setattr(streaming, "stream_outputs", noting)
    sources = [gray(1)]
    for ask in (predictor.stream_outputs, predictor.stream_logits, extractor.stream):
        assert list(ask(sources, read_ahead)) == []
    assert list(predictor.stream(sources, 1, read_ahead)) == []
    assert asked == [(sources, read_ahead)] * 4


@pytest.mark.parametrize(
    ("confidence", "given", "output"), [(True, {}, "auto"), (False, {}, "logits"), (False, {"output": "both"}, "both")]
)
def test_without_confidence_logits_alone_are_asked_for(
    confidence: bool, given: dict[str, str], output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def load(name: str, **options: Any) -> Any:
        asked.append(options)
        raise ZeroDivisionError

    monkeypatch.setattr(predictor_module.engines, "load", load)
    for how in ({}, {"dtype": "float16"}):
        with pytest.raises(ZeroDivisionError):
            Predictor.from_pretrained("a model", confidence=confidence, **given, **how)
    assert [(one["output"], one["confidence"], one.get("dtype")) for one in asked] == [
        (output, confidence, None),
        (output, confidence, "float16"),
    ]


def test_confidence_is_used_where_it_was_fitted_and_is_wanted(tiny_folder: Path, tmp_path: Path) -> None:
    folder = calibrated_copy(tiny_folder, tmp_path / "calibrated")
    loaded = engines.load(folder, engine="torch", device="cpu", output="auto")
    for wanted in (True, False):
        found = Predictor(loaded, confidence=wanted)
        assert found.confidence is (loaded.spec.confidence if wanted else None)
        assert found.streaming.statistics is wanted
    with pytest.warns(EngineWarning, match=f"^{folder}: its confidence was fitted in f32, and this runs in bf16; cal"):
        Predictor.from_pretrained(folder, "cpu", engine="torch", precision="bf16")


def test_an_engine_alone_has_no_model_of_pytorch() -> None:
    found = Predictor(Colors(MULTI_LABEL))
    assert found.problem_type == MULTI_LABEL
    for name in ("model", "config"):
        with pytest.raises(ModelLoadError, match="this engine has no PyTorch model; load the model that it runs"):
            getattr(found, name)


def test_what_a_model_is_for_may_be_changed_while_it_is_there(tiny_folder: Path) -> None:
    found = Predictor.from_pretrained(tiny_folder, "cpu", engine="torch")
    found.model.config.problem_type = MULTI_LABEL
    assert found.problem_type == MULTI_LABEL
    assert sum(one["probability"] for one in found(gray(9))) != pytest.approx(1)

"""Settings that make other rows are told apart, in words; those that do not are the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from broken_pictures import sound
from made_confidence import calibrated_copy, fitted

from vit_hybrid import __version__
from vit_hybrid.checkpoints import opening
from vit_hybrid.engines.ways import Way
from vit_hybrid.inference.facts import difference
from vit_hybrid.outputs import confidence
from vit_hybrid.predict.settings import Settings
from vit_hybrid.runtimes import BUNDLE_FILE


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"top-k": 5}, {"top-k": 1}, "top-k was 5 and is 1"),
        ({}, {"compile": True}, "compile was None and is True"),
        ({"compile": True}, {}, "compile was True and is None"),
        ({"weights": "1" * 64}, {"weights": "2" * 64}, "other weights than before"),
        ({"libraries": {"x": "1"}}, {"libraries": {"x": "2"}}, "other libraries: x was 1 and is 2"),
        ({"sets": ["a", "b"]}, {"sets": ["b", "c"]}, "other sets than before: without a and with c"),
        ({"sets": ["a", "b"]}, {"sets": ["b", "a"]}, "other sets than before: in another order"),
    ],
)
def test_differences_are_named(before: dict[str, Any], now: dict[str, Any], said: str | None) -> None:
    assert difference(before, now) == said


def test_what_is_not_asked_for_may_be_left_out(tiny_folder: Path) -> None:
    def asked(**engine: Any) -> dict[str, Any]:
        return Settings(str(tiny_folder), ".csv", top_k=5, engine=engine).asked

    assert asked(compile=False, dtype=None, batch_size=16, engine="auto", threads=2) == asked()
    assert asked(batch_size=8) != asked()
    assert asked(fast_decode=True) != asked()


def test_what_was_left_to_choose_is_no_choice(tiny_folder: Path) -> None:
    settings = Settings(str(tiny_folder), ".csv", engine={"engine": "auto", "precision": "f32", "device": "cuda:1"})
    assert settings.chosen() == {"precision": "f32", "device": "cuda"}


def test_other_weights_of_the_same_name(tiny_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    before = Settings(str(other), ".csv").asked
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert difference(before, Settings(str(other), ".csv").asked) == "other weights than before"


@pytest.mark.parametrize(
    ("embeddings", "confidence", "false_alarms", "output"),
    [
        (False, None, None, "logits"),
        (False, "some", None, "auto"),
        (False, "some", 0.05, "auto"),
        (True, None, None, "both"),
        (True, "some", None, "both"),
        (True, "some", 0.05, "all"),
    ],
)
def test_an_engine_gives_no_more_than_rows_need(
    embeddings: bool, confidence: str | None, false_alarms: float | None, output: str
) -> None:
    settings = Settings("a model", ".parquet", top_k=3, embeddings=embeddings)
    settings.__dict__["asked"] = {"confidence": confidence, "false alarms": false_alarms}
    assert settings.output == output
    assert Settings("a model", ".parquet", embeddings=True).output == "features"


def test_all_that_decides_a_row_is_asked(tiny_folder: Path, tmp_path: Path) -> None:
    """The files of the model, the pictures that calibrate it, what vectors are like, and who computes all that."""
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0.jpg").write_bytes(sound())

    def asked(**options: Any) -> dict[str, Any]:
        return Settings(str(model), ".parquet", **{"top_k": 5, **options}).asked

    before = asked(embeddings=True)
    assert (before["release"], before["top-k"], before["format"]) == (__version__, 5, ".parquet")
    vectors = asked(embeddings=True, dtype="float16", normalization="l2")
    assert difference(before, vectors) == "other embeddings than before: without float32, none and with float16, l2"
    assert difference(before, asked()) == "embeddings was ['float32', 'none'] and is None"
    int8 = {"precision": "int8", "calibration": str(tmp_path / "pictures")}
    calibrated = asked(engine=int8)
    assert difference(calibrated, asked(engine={"precision": "int8"})) == "other calibration than before"
    assert calibrated["calibration"] != asked(engine={**int8, "max_pixels": 99})["calibration"]
    assert asked(engine={**int8, "precision": "f32"})["calibration"] is None
    for file, field, value, what in (
        ("config.json", "layer_norm_eps", 0.125, "configuration"),
        ("preprocessor_config.json", "image_mean", [0.125, 0.25, 0.5], "preprocessing"),
    ):
        before = asked()
        fields = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps({**fields, field: value}))
        assert difference(before, asked()) == f"other {what} than before"


def test_what_is_said_of_a_calibrated_model_is_asked_where_it_is_wanted(tiny_folder: Path, tmp_path: Path) -> None:
    model = calibrated_copy(tiny_folder, tmp_path / "model")

    def asked(**options: Any) -> dict[str, Any]:
        return Settings(str(model), ".csv", **{"top_k": 5, **options}).asked

    before = asked()
    assert (before["coverage"], before["false alarms"]) == (0.9, 0.05)
    assert difference(before, asked(coverage=0.8)) == "coverage was 0.9 and is 0.8"
    assert difference(before, asked(false_alarms=0.3)) == "false alarms was 0.05 and is 0.3"
    for plain in (asked(confidence=False), asked(top_k=0)):
        assert (plain["confidence"], plain["coverage"], plain["false alarms"]) == (None, None, None)
    confidence.write(replace(fitted(model), method="raps"), model)
    assert difference(before, asked()) == "other confidence than before"
    confidence.write(fitted(model, with_strangers=False), model)
    assert (asked()["coverage"], asked()["false alarms"]) == (0.9, None)
    confidence.write(replace(fitted(model), sets={}), model)
    assert (asked()["coverage"], asked()["false alarms"]) == (None, 0.05)


def test_a_program_is_asked_as_it_was_exported_and_calibrated_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / BUNDLE_FILE).write_text(json.dumps({"files": {"model.onnx": "ab" * 32}}))
    made = {"weights_sha256": "12" * 32, "config_sha256": "34" * 32}
    source = SimpleNamespace(kind="bundle", location=str(tmp_path), preprocessing=None, provenance=lambda: made)
    source.confidence = lambda: None
    monkeypatch.setattr(opening, "open", lambda name: source)
    asked = Settings("a bundle", ".csv", top_k=1, engine={"precision": "int8"}).asked
    assert (asked["exported program"], asked["calibration"]) == ({"model.onnx": "ab" * 32}, None)
    assert (asked["weights"], asked["configuration"]) == ("12" * 32, "34" * 32)


def test_what_is_settled_changes_nothing_that_was_asked(tiny_folder: Path) -> None:
    settings = Settings(str(tiny_folder), ".csv", engine={"engine": "auto", "batch_size": 8})
    with_threads = settings.with_threads(3)
    assert with_threads.engine == {"engine": "auto", "batch_size": 8, "threads": 3}
    assert with_threads.with_threads(5) is with_threads
    assert with_threads.settled_as(None).engine == {**with_threads.engine, "tuned": False}
    assert Settings(str(tiny_folder), ".csv").settled_as(None).engine == {"tuned": False, "batch_size": 16}
    of_none = Settings(str(tiny_folder), ".csv", engine={"threads": None, "batch_size": None})  # as commands say it
    assert of_none.with_threads(3).settled_as(None).engine == {"threads": 3, "batch_size": 16, "tuned": False}
    assert with_threads.titled("a model").asked is settings.asked
    way = {**asdict(Way("torch", "bf16", threads=2)), "batch_size": 32}
    given = Settings(str(tiny_folder), ".csv", engine={"dtype": "float32", "max_pixels": 9, "batch_size": 8})
    settled = given.settled_as(way)
    assert (settled.settled, settled.asked) == (way, given.asked)
    for name, value in {"precision": "bf16", "dtype": None, "max_pixels": 9, "threads": 2, "batch_size": 32}.items():
        assert settled.engine[name] == value  # of two words for what it computes in, the one that was measured

"""Settings that make other rows are told apart, in words; those that do not are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vit_hybrid.inference.facts import difference
from vit_hybrid.predict.settings import Settings


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
    import shutil

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

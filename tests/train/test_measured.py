"""What a race found is taken where the recipe leaves it open, and kept by a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_hybrid
import torch
from tiny_training import ARCHITECTURE, FIELDS, make_pictures, trained

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification
from vit_hybrid.bundles import cache
from vit_hybrid.checkpoints.opening import open as open_source
from vit_hybrid.engines import kept
from vit_hybrid.engines.kept import Row, Table
from vit_hybrid.engines.ways import Way
from vit_hybrid.train import Run, measured
from vit_hybrid.train.recipe import build_recipe

EAGER_LAST = Way("torch", "f32", "eager", channels_last=True)
ROWS = (
    Row(EAGER_LAST, 4, 0.01, 3),
    Row(Way("torch", "f32", "sdpa", channels_last=False, threads=1), 4, 0.02, 3),
    Row(Way("torch", "f32", "sdpa", channels_last=True, threads=1), 4, 0.03, 3),
    Row(Way("torch", "f32", "eager", compiled=True, channels_last=False), 4, 0.005, 3),
    Row(Way("openvino", "f32"), 4, 0.001, 3),
    Row(Way("torch", "bf16", "sdpa", channels_last=True), 4, 0.01, 3),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))


def keep(config: ViTHybridConfig) -> None:
    kept.keep(Table(ROWS), kept.shape_of(json.loads(config.to_json_string())))


def found(tmp_path: Path, threads: int | None = 1, checkpoint: Path | None = None, **fields: Any) -> tuple[Run, list]:
    lines: list[str] = []
    recipe = build_recipe({**FIELDS, **fields})
    run = Run("pictures", tmp_path / "out", recipe, threads=threads, device="cpu", report=lines.append)
    model = ViTHybridForImageClassification(ViTHybridConfig(**ARCHITECTURE))
    return measured.as_measured(run, model, None, 4, checkpoint), lines


def test_the_fastest_of_torch_in_the_recipes_precision(tmp_path: Path) -> None:
    keep(ViTHybridConfig(**ARCHITECTURE))
    run, lines = found(tmp_path)
    assert (run.recipe.attention, run.recipe.channels_last) == ("eager", True)
    assert lines == ["computed as was measured to be fastest here: torch f32 eager, channels last"]
    assert found(tmp_path, precision="bf16")[0].recipe.attention == "sdpa"


@pytest.mark.parametrize(
    ("fields", "attention", "last"),
    [
        ({"attention": "sdpa"}, "sdpa", False),
        ({"channels_last": False}, "sdpa", False),
        ({"attention": "sdpa", "channels_last": True}, "sdpa", True),
        ({"freeze": ["embeddings"]}, "sdpa", False),
        ({"adapter": {"method": "lora"}}, "sdpa", False),
        ({"compile": True}, "eager", False),
    ],
)
def test_what_the_recipe_says_narrows_it(fields: dict[str, Any], attention: str, last: bool, tmp_path: Path) -> None:
    keep(ViTHybridConfig(**ARCHITECTURE))
    recipe = found(tmp_path, **fields)[0].recipe
    assert (recipe.attention, recipe.channels_last) == (attention, last)


def test_where_the_recipe_leaves_nothing_open_nothing_is_said(tmp_path: Path) -> None:
    keep(ViTHybridConfig(**ARCHITECTURE))
    run, lines = found(tmp_path, attention="sdpa", channels_last=True)
    assert (run.recipe.attention, run.recipe.channels_last, lines) == ("sdpa", True, [])


def test_what_was_measured_on_a_processor_says_nothing_of_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(ViTHybridConfig(**ARCHITECTURE))
    monkeypatch.setattr(measured, "on_cpu", lambda run: False)
    run, lines = found(tmp_path)
    assert (run.recipe.attention, run.recipe.channels_last, lines) == ("auto", None, [])


def test_where_nobody_has_measured_all_is_as_it_was(tmp_path: Path) -> None:
    run, lines = found(tmp_path)
    assert (run.recipe.attention, run.recipe.channels_last, lines) == ("auto", None, [])
    keep(ViTHybridConfig(**{**ARCHITECTURE, "hidden_size": 32}))  # another model
    assert found(tmp_path)[0].recipe == run.recipe


def test_threads_are_those_that_were_measured_unless_the_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(ViTHybridConfig(**ARCHITECTURE))
    taken: list[int] = []
    monkeypatch.setattr(measured, "take_threads", taken.append)
    found(tmp_path, attention="sdpa")
    found(tmp_path, None)  # of which the fastest is not of so many threads
    assert taken == []
    found(tmp_path, None, attention="sdpa")
    assert taken == [1]
    monkeypatch.setattr(measured, "count", lambda: 2)  # processes, which share the cores as their launcher says
    found(tmp_path, None, attention="sdpa")
    assert taken == [1]


def test_a_model_from_a_folder_is_known_by_its_file(tiny_folder: Path, tmp_path: Path) -> None:
    """Which may say more than is saved today."""
    fields = json.loads((tiny_folder / "config.json").read_text())
    source = open_source(tiny_folder)
    source._fields = {**fields, "of_an_earlier_release": True}  # type: ignore[attr-defined]
    kept.keep(Table(ROWS), kept.shape_of(source.fields()))
    run = Run("pictures", tmp_path / "out", build_recipe({**FIELDS, "architecture": None}), device="cpu", threads=1)
    model = ViTHybridForImageClassification(tiny_hybrid.tiny_config())
    assert measured.as_measured(run, model, source, 4, None).recipe.attention == "eager"
    assert measured.as_measured(run, model, None, 4, None).recipe.attention == "auto"
    larger = ViTHybridForImageClassification(tiny_hybrid.tiny_config(image_size=48))  # than what was measured
    assert measured.as_measured(run, larger, source, 4, None).recipe.attention == "auto"


def test_a_run_that_goes_on_keeps_what_it_had(tmp_path: Path) -> None:
    keep(ViTHybridConfig(**ARCHITECTURE))
    (tmp_path / "out").mkdir()
    before = build_recipe({**FIELDS, "attention": "sdpa", "channels_last": False})
    (tmp_path / "out" / measured.RECIPE_FILE).write_text(before.to_yaml())
    checkpoint = tmp_path / "out" / "checkpoint-1"
    run, lines = found(tmp_path, checkpoint=checkpoint)
    assert (run.recipe.attention, run.recipe.channels_last, lines) == ("sdpa", False, [])
    recipe = found(tmp_path, checkpoint=checkpoint, attention="eager")[0].recipe  # which is no longer left open
    assert (recipe.attention, recipe.channels_last) == ("eager", False)
    assert found(tmp_path)[0].recipe.channels_last is True  # what begins anew in its place does not


def test_a_run_computes_so_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of batches of two, as what a step takes at once; what is fastest of a whole step's is another.
    rows = (Row(EAGER_LAST, 2, 0.01, 3), Row(Way("torch", "f32", "sdpa", channels_last=False), 4, 0.001, 3))
    kept.keep(Table(rows), kept.shape_of(json.loads(ViTHybridConfig(**ARCHITECTURE).to_json_string())))
    used: list[tuple[str, bool]] = []
    forward = ViTHybridForImageClassification.forward

    def watched(self: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        last = pixel_values.is_contiguous(memory_format=torch.channels_last)
        used.append((self.config._attn_implementation, last))
        return forward(self, pixel_values, **kwargs)

    monkeypatch.setattr(ViTHybridForImageClassification, "forward", watched)
    fields = {"epochs": 1, "max_steps": 2, "calibrate": False, "gradient_accumulation": 2}
    outcome = trained(make_pictures(tmp_path / "data"), tmp_path / "out", **fields)
    assert used[0] == ("eager", True)
    assert (outcome.metrics["recipe"]["attention"], outcome.metrics["recipe"]["channels_last"]) == ("eager", True)
    assert "attention: eager" in (tmp_path / "out" / "recipe.yaml").read_text()

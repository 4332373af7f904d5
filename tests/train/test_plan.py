"""How a run is divided into steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_hybrid import tiny_config
from tiny_training import FIELDS, make_pictures, trained

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.train import plan
from vit_hybrid.train.checkpointing import named_checkpoints, step_of
from vit_hybrid.train.plan import attention_for
from vit_hybrid.train.recipe import build_recipe
from vit_hybrid.train.run import TrainingError


def test_warmup_is_a_share_of_the_whole_run(tmp_path: Path) -> None:
    """Of 24 steps in four epochs, 12 rise to the recipe's rate and 12 fall from it."""
    fields = {"epochs": 4, "warmup": 0.5, "schedule": "linear", "learning_rate": 0.012}
    outcome = trained(make_pictures(tmp_path / "data"), tmp_path / "out", **fields)
    rates = {entry["step"]: entry["learning_rate"] for entry in outcome.metrics["log"] if "learning_rate" in entry}
    assert outcome.metrics["steps"] == len(rates) == 24
    expected = {step: 0.012 * min(step - 1, 25 - step) / 12 for step in range(1, 25)}
    assert rates == pytest.approx(expected)


def test_validation_comes_by_shares_of_an_epoch_however_long_the_run_is(tmp_path: Path) -> None:
    """Six steps an epoch: at a half, behind every third."""
    fields = {"epochs": 2, "validate_every": 0.5, "save_every": 1.0, "keep_best": False}
    outcome = trained(make_pictures(tmp_path / "data"), tmp_path / "out", **fields)
    assert [entry["step"] for entry in outcome.metrics["log"] if "eval_loss" in entry] == [3, 6, 9, 12]
    assert [step_of(path) for path in named_checkpoints(tmp_path / "out" / "checkpoints")] == [6, 12]


@pytest.mark.parametrize(
    ("pictures", "accumulated", "an_epoch", "all_steps"),
    [(21, 1, 3, 6), (21, 2, 3, 6), (17, 4, 3, 6), (16, 2, 2, 4), (3, 1, 1, 2), (24, 8, 3, 6)],
)
def test_the_last_step_of_an_epoch_takes_what_is_left(
    pictures: int, accumulated: int, an_epoch: int, all_steps: int
) -> None:
    recipe = build_recipe({**FIELDS, "batch_size": 8, "gradient_accumulation": accumulated, "epochs": 2})
    assert plan.plan_of(recipe, pictures) == plan.Plan(8 // accumulated, an_epoch, all_steps)
    assert plan.plan_of(build_recipe({**recipe.model_dump(), "epochs": 1.5}), 16).steps == 3
    assert plan.plan_of(build_recipe({**recipe.model_dump(), "max_steps": 5}), 16).steps == 5


def test_several_processes_share_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 21 pictures, two processes take two each at a time, and two such batches are a step."""
    monkeypatch.setattr(plan, "count", lambda: 2)
    recipe = build_recipe({**FIELDS, "batch_size": 8, "gradient_accumulation": 2, "epochs": 2})
    assert plan.plan_of(recipe, 21) == plan.Plan(share=2, steps_per_epoch=3, steps=6)
    with pytest.raises(TrainingError, match=r"3 cannot be divided among 2 processes and 3 accumulated .* of 6"):
        plan.plan_of(build_recipe({**FIELDS, "batch_size": 3, "gradient_accumulation": 3}), 21)


@pytest.mark.parametrize(
    ("side", "precision", "on_cpu", "attention", "expected"),
    [
        (32, "bf16", True, "auto", "eager"),
        (192, "bf16", True, "auto", "eager"),  # 24 x 24 patches and the class token: the most that were measured
        (200, "bf16", True, "auto", "sdpa"),
        (32, "f32", True, "auto", "sdpa"),
        (32, "bf16", False, "auto", "sdpa"),
        (32, "bf16", True, "sdpa", "sdpa"),
        (200, "f32", False, "eager", "eager"),
    ],
)
def test_attention_is_the_fastest_there_unless_the_recipe_names_one(
    side: int, precision: str, on_cpu: bool, attention: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "instruction_sets", lambda: ["x86_64", "avx512f", "avx512_bf16"])
    with torch.device("meta"):
        model = ViTHybridForImageClassification(tiny_config(image_size=side))
    recipe = build_recipe({**FIELDS, "precision": precision, "attention": attention})
    assert attention_for(model, recipe, on_cpu) == expected

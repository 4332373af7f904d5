"""How a run is divided into steps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_hybrid import tiny_config
from tiny_training import FIELDS, make_pictures, trained

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.train import plan
from vit_hybrid.train.checkpointing import named_checkpoints, step_of
from vit_hybrid.train.plan import attention_for
from vit_hybrid.train.recipe import build_recipe
from vit_hybrid.train.run import Run, TrainingError


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
    assert plan.plan_of(build_recipe({**recipe.model_dump(), "epochs": 1.25}), 16).steps == 3
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
        ((8, 8 * 576), "bf16", True, "auto", "eager"),
        ((8, 8 * 577), "bf16", True, "auto", "sdpa"),
        (32, "f32", True, "auto", "sdpa"),
        (32, "bf16", False, "auto", "sdpa"),
        (32, "bf16", True, "sdpa", "sdpa"),
        (200, "f32", False, "eager", "eager"),
    ],
)
def test_attention_is_the_fastest_there_unless_the_recipe_names_one(
    side: int | tuple[int, int],
    precision: str,
    on_cpu: bool,
    attention: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "instruction_sets", lambda: ["x86_64", "avx512f", "avx512_bf16"])
    with torch.device("meta"):
        model = ViTHybridForImageClassification(tiny_config(image_size=side))
    recipe = build_recipe({**FIELDS, "precision": precision, "attention": attention})
    assert attention_for(model, recipe, on_cpu) == expected


@pytest.mark.parametrize(
    ("problem_type", "score", "is_better"),
    [("single_label_classification", "top1", True), ("regression", "mae", False)],
)
def test_trainer_is_told_what_the_recipe_says(
    problem_type: str, score: str, is_better: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "TrainingArguments", lambda **told: told)
    fields: dict[str, Any] = {"epochs": 3, "batch_size": 12, "gradient_accumulation": 2, "learning_rate": 0.5}
    fields |= {"schedule": "constant", "warmup": 0.25, "weight_decay": 0.125, "clip_norm": 0.75, "precision": "bf16"}
    fields |= {"compile": True, "workers": 3, "seed": 11, "tensorboard": True}
    fields |= {"validate_every": 0.5, "save_every": 0.25, "log_every_steps": 7}
    hub: dict[str, Any] = {"push_to_hub": True, "hub_model_id": "owner/name", "hub_private": True}
    run = Run("data", tmp_path / "out", build_recipe(fields), device="cpu", **hub)
    split: Any = SimpleNamespace(train=SimpleNamespace(problem_type=problem_type))
    told: Any = plan.arguments_of(run, plan.Plan(share=6, steps_per_epoch=20, steps=60), split, preactivation=False)
    expected = {
        "output_dir": str(tmp_path / "out"),
        "num_train_epochs": 3,
        "max_steps": -1,
        "per_device_train_batch_size": 6,
        "per_device_eval_batch_size": 64,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 15,
        "weight_decay": 0.125,
        "max_grad_norm": 0.75,
        "bf16": True,
        "fp16": False,
        "torch_compile": True,
        "use_cpu": True,
        "eval_strategy": "steps",
        "eval_steps": 10,
        "save_strategy": "steps",
        "save_steps": 5,
        "metric_for_best_model": score,
        "greater_is_better": is_better,
        "logging_steps": 7,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "dataloader_num_workers": 3,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        "ddp_backend": None,
        "report_to": ["tensorboard"],
        "disable_tqdm": True,
        "label_names": ["targets"],
        "seed": 11,
        "push_to_hub": True,
        "hub_model_id": "owner/name",
        "hub_private_repo": True,
    }
    assert {name: told[name] for name in expected} == expected
    other = Run(
        "data",
        tmp_path / "out",
        build_recipe({"max_steps": 9, "save_every": 0.001, "validate_every": 0.02}),
        device="cpu",
    )
    told = plan.arguments_of(other, plan.Plan(share=6, steps_per_epoch=20, steps=9), split, preactivation=True)
    assert (told["max_steps"], told["save_steps"], told["eval_steps"], told["report_to"]) == (9, 1, 1, "none")
    assert (told["bf16"], told["torch_compile"], told["ddp_find_unused_parameters"]) == (False, False, True)
    assert (told["push_to_hub"], told["hub_model_id"], told["hub_private_repo"]) == (False, None, None)


@pytest.mark.parametrize(("on_cpu", "backend"), [(True, "gloo"), (False, None)])
def test_trainer_is_told_of_an_accelerator_and_of_several_processes(
    on_cpu: bool, backend: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "TrainingArguments", lambda **told: told)
    monkeypatch.setattr(plan, "count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: not on_cpu)
    split: Any = SimpleNamespace(train=SimpleNamespace(problem_type="single_label_classification"))
    run = Run("data", tmp_path / "out", build_recipe({"precision": "f32" if on_cpu else "f16"}))
    told: Any = plan.arguments_of(run, plan.Plan(share=6, steps_per_epoch=20, steps=60), split, preactivation=False)
    assert (told["use_cpu"], told["ddp_backend"]) == (on_cpu, backend)
    assert (told["fp16"], told["bf16"], told["dataloader_pin_memory"]) == (not on_cpu, False, not on_cpu)
    assert plan.on_cpu(Run("data", tmp_path / "out", build_recipe({}), device="cpu"))

"""What a run may go on from, by what lies in its folder, without a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vit_hybrid.train.recipe import build_recipe
from vit_hybrid.train.resuming import (
    UNCHANGEABLE,
    WEIGHTS_FILE,
    contradictions_of_data,
    contradictions_of_recipe,
    contradictions_of_weights,
    finished_metrics,
    remember,
)

CHANGES: dict[str, Any] = {
    "model": "R+Ti/16",
    "architecture": {"hidden_size": 16},
    "image_size": 64,
    "labels": ["b", "a"],
    "leave_out": ["c"],
    "freeze": ["stem"],
    "adapter": {"method": "lora"},
    "batch_size": 8,
    "optimizer": "sgd",
    "layer_decay": 0.5,
    "head_multiplier": 2.0,
    "seed": 1,
    "held_back": "names.txt",
    "val_fraction": 0.2,
    "ema": 0.5,
}
FREE: dict[str, Any] = {
    "epochs": 7.0,
    "max_steps": 9,
    "learning_rate": 0.5,
    "weight_decay": 0.5,
    "schedule": "linear",
    "warmup": 0.5,
    "clip_norm": 0.5,
    "label_smoothing": 0.5,
    "mixup": 0.5,
    "precision": "bf16",
    "workers": 3,
    "save_every": 0.5,
    "keep_checkpoints": 5,
    "keep_best": False,
    "early_stopping": 3,
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_checkpoint_depends_on_may_not_change(name: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(build_recipe({}).to_yaml())
    [found] = contradictions_of_recipe(tmp_path, build_recipe({name: CHANGES[name]}))
    assert found.startswith(f"{name} was ")
    (tmp_path / "recipe.yaml").write_text(build_recipe({name: CHANGES[name]}).to_yaml())
    assert len(contradictions_of_recipe(tmp_path, build_recipe({}))) == 1
    assert contradictions_of_recipe(tmp_path, build_recipe({name: CHANGES[name]})) == []


def test_entries_of_tables_are_compared_one_by_one(tmp_path: Path) -> None:
    before = {"architecture": {"hidden_size": 16, "depths": [1, 1, 1]}}
    (tmp_path / "recipe.yaml").write_text(build_recipe(before).to_yaml())
    now = {"architecture": {"hidden_size": 32, "num_hidden_layers": 2}}
    assert contradictions_of_recipe(tmp_path, build_recipe(now)) == [
        "architecture.hidden_size was 16 and is 32",
        "architecture.depths was 1, 1, 1 and is none",
        "architecture.num_hidden_layers was none and is 2",
    ]


def test_long_lists_are_cut_where_they_have_changed(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(build_recipe({"leave_out": [f"class {n}" for n in range(900)]}).to_yaml())
    [found] = contradictions_of_recipe(tmp_path, build_recipe({"leave_out": ["class 7"]}))
    first = "class 0, class 1, class 2, class 3, class 4, class 5, class 6, class 7"[:60]
    assert found == f"leave_out was {first}... and is class 7"
    exactly = "a" * 60  # is not cut yet
    (tmp_path / "recipe.yaml").write_text(build_recipe({"model": exactly}).to_yaml())
    assert contradictions_of_recipe(tmp_path, build_recipe({})) == [f"model was {exactly} and is none"]


def test_weights_are_told_by_where_they_are(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    save_file({"bias": torch.zeros(2), "gone": torch.zeros(1), "weight": torch.zeros(2, 3)}, tmp_path / WEIGHTS_FILE)
    assert contradictions_of_weights(tmp_path, model) == ["the weight gone is only in the checkpoint"]
    more = {name: torch.zeros(1) for name in ("ruins", "relics", "gone", "remains", "traces")}
    save_file({"bias": torch.zeros(2), **more, "weight": torch.zeros(2, 3)}, tmp_path / WEIGHTS_FILE)
    assert contradictions_of_weights(tmp_path, model) == ["the weight gone is only in the checkpoint"]  # and others
    save_file({"weight": torch.zeros(2, 4)}, tmp_path / WEIGHTS_FILE)
    assert contradictions_of_weights(tmp_path, model) == ["the weight bias is only in the model"]
    save_file({"bias": torch.zeros(2), "weight": torch.zeros(2, 4)}, tmp_path / WEIGHTS_FILE)
    assert contradictions_of_weights(tmp_path, model) == ["weight was 2, 4 and is 2, 3"]
    save_file({"bias": torch.zeros(3), "weight": torch.zeros(3, 3)}, tmp_path / WEIGHTS_FILE)
    [one] = contradictions_of_weights(tmp_path, model)  # which says enough
    assert one in ("bias was 3 and is 2", "weight was 3, 3 and is 2, 3")
    save_file(model.state_dict(), tmp_path / WEIGHTS_FILE)
    assert contradictions_of_weights(tmp_path, model) == []
    assert contradictions_of_weights(tmp_path / "nowhere", model) == []


def test_all_else_may_change(tmp_path: Path) -> None:
    assert {*CHANGES} == {*UNCHANGEABLE, "ema"}
    (tmp_path / "recipe.yaml").write_text(build_recipe({}).to_yaml())
    assert contradictions_of_recipe(tmp_path, build_recipe(FREE)) == []
    assert contradictions_of_recipe(tmp_path / "nowhere", build_recipe(CHANGES | {"architecture": None})) == []


@pytest.mark.parametrize("length", [{}, {"epochs": 30}, {"max_steps": 7}])
def test_a_run_has_ended_where_its_model_is_there_and_no_other_length_is_asked_for(
    length: dict[str, int], tmp_path: Path
) -> None:
    recipe = build_recipe({"epochs": 20})
    assert finished_metrics(tmp_path, recipe) is None
    metrics = {"steps": 3, "recipe": recipe.model_dump(mode="json")}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert finished_metrics(tmp_path, recipe) is None  # the model is gone
    (tmp_path / "config.json").write_text("{}")
    asked = build_recipe({"epochs": 20, "learning_rate": 0.5, **length})
    assert finished_metrics(tmp_path, asked) == (None if length else metrics)
    for damaged in ("{", "[]", "{}", '{"recipe": {}}', '{"recipe": 3}'):
        (tmp_path / "metrics.json").write_text(damaged)
        assert finished_metrics(tmp_path, recipe) is None


class Pictures:
    def __init__(self, targets: list[int], labels: tuple[str, ...] = ("a", "b"), kind: str = "single_label") -> None:
        self.targets, self.labels, self.problem_type = np.array(targets), labels, kind

    def __len__(self) -> int:
        return len(self.targets)


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (([0, 1, 1], [0, 1]), []),
        (([0, 1, 1, 0], [0, 1]), ["training pictures was 3 and is 4"]),
        (([0, 1, 1], [0]), ["validation pictures was 2 and is 1"]),
        (([0, 1, 1], [0, 1], ("a", "c")), ["labels was a, b and is a, c"]),
        (([0, 1, 1], [0, 1], ("b", "a")), ["labels was a, b and is b, a"]),
        (([0, 1, 1], [0, 1], ("a", "b"), "regression"), ["problem type was single_label and is regression"]),
        (([0], [0], ("a", "b")), ["training pictures was 3 and is 1", "validation pictures was 2 and is 1"]),
        (([1, 0, 1], [0, 1]), ["as many pictures have other labels, or stand in another order"]),
        (([0, 1, 1], [1, 0]), ["as many pictures have other labels, or stand in another order"]),
    ],
)
def test_other_pictures_are_told_by_what_is_different(now: tuple[Any, ...], found: list[str], tmp_path: Path) -> None:
    def split(train: list[int], val: list[int], *how: Any) -> Any:
        return SimpleNamespace(train=Pictures(train, *how), val=Pictures(val, *how))

    assert contradictions_of_data(tmp_path, split(*now)) == []  # nothing is known
    remember(tmp_path, build_recipe({}), split([0, 1, 1], [0, 1]))
    assert contradictions_of_data(tmp_path, split(*now)) == found
    for damaged in ("{", "[]", "{}"):
        (tmp_path / "checkpoints" / "data.json").write_text(damaged)
        assert contradictions_of_data(tmp_path, split(*now)) == []

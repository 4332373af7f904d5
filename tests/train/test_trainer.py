"""What is measured while a run lasts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_training import make_pictures, trained
from transformers import Trainer

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.data import read_labeled
from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.outputs.problems import SINGLE_LABEL
from vit_hybrid.train.trainer import HybridTrainer


def test_validation_measures_the_averaged_weights_that_are_kept(tmp_path: Path) -> None:
    outcome = trained(make_pictures(tmp_path / "data"), tmp_path / "out", ema=0.9, keep_best=False)
    last = [entry for entry in outcome.metrics["log"] if "eval_top1" in entry][-1]
    assert last["step"] == outcome.metrics["steps"]
    kept = outcome.metrics["validation"]
    for name in ("top1", "negative_log_likelihood", "expected_calibration_error", "macro_f1"):
        assert last[f"eval_{name}"] == pytest.approx(kept[name], rel=1e-5)


def test_a_validation_loss_weighs_each_class_by_its_own_weight(tmp_path: Path) -> None:
    weights = {"red": 3.0, "blue": 0.25}
    data = make_pictures(tmp_path / "data")
    outcome = trained(data, tmp_path / "out", class_weights=weights, keep_best=False)
    [*_, last] = [entry["eval_loss"] for entry in outcome.metrics["log"] if "eval_loss" in entry]
    pictures = read_labeled(data, "val")
    predictor = Predictor.from_pretrained(tmp_path / "out", device="cpu")
    logits = torch.from_numpy(predictor.logits([pictures.picture(index) for index in range(len(pictures))]))
    assert list(ViTHybridForImageClassification.from_pretrained(tmp_path / "out").config.id2label.values()) == [
        "blue",
        "green",
        "red",
    ]
    losses = -logits.log_softmax(-1)[torch.arange(9), torch.from_numpy(pictures.targets)]
    each = torch.tensor([0.25] * 3 + [1.0] * 3 + [3.0] * 3)  # three pictures of each color
    assert last == pytest.approx(float((losses * each).sum() / each.sum()), rel=1e-4)


def test_the_training_accuracy_is_that_of_the_steps_since_it_was_last_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, float]] = []
    monkeypatch.setattr(Trainer, "log", lambda self, logs: told.append(logs))
    trainer: Any = object.__new__(HybridTrainer)
    trainer.__dict__ |= {"_correct": 0.0, "_seen": 0, "problem_type": SINGLE_LABEL}
    trainer.accelerator = SimpleNamespace(reduce=lambda counts: counts)
    trainer.args = SimpleNamespace(device="cpu")
    logits = torch.eye(4)
    trainer._count(logits, torch.tensor([0, 1, 0, 0]))
    trainer._count(logits, torch.tensor([0, 1, 2, 0]))
    trainer.log({"loss": 1.0})
    trainer._count(logits, torch.tensor([0, 1, 2, 3]))
    trainer.log({"eval_loss": 1.0})
    trainer.log({"loss": 1.0})
    trainer.log({"loss": 1.0})
    assert told == [{"loss": 1.0, "accuracy": 5 / 8}, {"eval_loss": 1.0}, {"loss": 1.0, "accuracy": 1.0}, {"loss": 1.0}]

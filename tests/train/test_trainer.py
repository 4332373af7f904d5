"""What is measured while a run lasts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import make_pictures, trained

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.data import read_labeled
from vit_hybrid.inference.predictor import Predictor


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

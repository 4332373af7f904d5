"""What a finished run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import make_pictures, trained
from transformers import TrainerCallback


class Spoiling(TrainerCallback):
    """From one step on the classifier says the opposite."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: torch.nn.Module, **_: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                model.classifier.weight.neg_()


def test_the_average_of_the_best_step_is_kept_and_not_the_last(tmp_path: Path) -> None:
    options = {"callbacks": [Spoiling(19)]}
    outcome = trained(make_pictures(tmp_path / "data"), tmp_path / "out", options, epochs=4, ema=0.5)
    logged = [entry for entry in outcome.metrics["log"] if "eval_top1" in entry]
    best = max(logged, key=lambda entry: entry["eval_top1"])
    assert best["eval_top1"] > logged[-1]["eval_top1"], "the test needs a run whose last score is not its best"
    assert outcome.score == best["eval_top1"]
    found = outcome.metrics["validation"]["negative_log_likelihood"]
    assert found == pytest.approx(best["eval_negative_log_likelihood"], rel=1e-5)
    assert outcome.metrics["kept"] == f"the averaged weights of step {best['step']}, the best in validation"

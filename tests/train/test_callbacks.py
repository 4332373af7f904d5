"""What happens between steps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import make_pictures, trained
from transformers import TrainerCallback, TrainerControl, TrainerState

from vit_hybrid.train.callbacks import EpochStart, RankAllocation
from vit_hybrid.train.pictures import EpochSampler

DECAY = 0.7


class Recording(TrainerCallback):
    """The weights before the first step and behind each."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_begin(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        self.weights.append({name: weight.detach().clone() for name, weight in model.named_parameters()})

    on_step_end = on_train_begin


def test_the_average_takes_in_each_steps_weights_once(tmp_path: Path) -> None:
    recording = Recording()
    options = {"callbacks": [recording]}
    trained(make_pictures(tmp_path / "data"), tmp_path / "out", options, ema=DECAY, keep_best=False)
    average, *steps = recording.weights
    assert len(steps) == 12
    for update, weights in enumerate(steps):
        decay = min(DECAY, (1 + update) / (10 + update))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in average}
    [checkpoint] = (tmp_path / "out" / "checkpoints").glob("checkpoint-12")
    saved = load_file(checkpoint / "averaged.safetensors")
    assert saved["updates"] == len(steps)
    kept = load_file(tmp_path / "out" / "model.safetensors")
    for name, expected in average.items():
        torch.testing.assert_close(saved[f"average.{name}"], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(kept[name], expected, rtol=1e-5, atol=1e-6)


def test_ranks_move_while_the_gradients_are_there() -> None:
    steps: list[int] = []
    model = SimpleNamespace(base_model=SimpleNamespace(update_and_allocate=steps.append))
    around = SimpleNamespace(model=[model], accelerator=SimpleNamespace(unwrap_model=lambda given: given[0]))
    allocation = RankAllocation(around)  # type: ignore[arg-type]
    allocation.on_optimizer_step(None, TrainerState(global_step=7), TrainerControl())  # type: ignore[arg-type]
    allocation.on_step_end(None, TrainerState(global_step=8), TrainerControl())  # type: ignore[arg-type]
    assert steps == [7]


@pytest.mark.parametrize(
    ("counted", "epoch"), [(None, 0), (0.0, 0), (1.0, 1), (2.9999999999, 3), (3.0000000001, 3), (2.75, 2)]
)
def test_the_sampler_is_told_the_epoch_that_begins_or_goes_on(counted: float | None, epoch: int) -> None:
    """Trainer adds up shares of epochs, which come a little short of a whole one."""
    sampler = EpochSampler(10, seed=0)
    start = EpochStart(SimpleNamespace(sampler=sampler))  # type: ignore[arg-type]
    start.on_epoch_begin(None, TrainerState(epoch=counted), TrainerControl())  # type: ignore[arg-type]
    assert sampler.epoch == epoch

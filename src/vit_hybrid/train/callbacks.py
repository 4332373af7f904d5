"""What happens between steps: the epoch's order of pictures, averaging of weights, AdaLoRA's ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .adapters import allocate_ranks

if TYPE_CHECKING:
    from .trainer import HybridTrainer

# An epoch's share that counts as all of it: Trainer counts epochs in floating point.
EPOCH_TOLERANCE = 1e-6


class EpochStart(TrainerCallback):
    """Tells the sampler which epoch begins, also where a resumed run begins in its middle."""

    def __init__(self, trainer: HybridTrainer) -> None:
        self.sampler = trainer.sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Sets the epoch, counted from 0."""
        self.sampler.set_epoch(int((state.epoch or 0.0) + EPOCH_TOLERANCE))


class Averaging(TrainerCallback):
    """Moves the average of the weights on after each step, from where a checkpoint left it."""

    def __init__(self, trainer: HybridTrainer, checkpoint: Path | None) -> None:
        self.trainer, self.checkpoint = trainer, checkpoint

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Loads the average of the checkpoint that the run resumes from."""
        if self.checkpoint is not None:
            self.trainer.load_average(self.checkpoint)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Takes in the step's weights."""
        average = self.trainer.average
        if average is not None:
            average.update(self.trainer.accelerator.unwrap_model(self.trainer.model))


class RankAllocation(TrainerCallback):
    """Lets AdaLoRA move its ranks after each step."""

    def __init__(self, trainer: HybridTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Moves them, while the gradients are there."""
        allocate_ranks(self.trainer.accelerator.unwrap_model(self.trainer.model), state.global_step)


__all__ = ["Averaging", "EpochStart", "RankAllocation"]

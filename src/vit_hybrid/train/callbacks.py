"""What happens between steps: the epoch's order of pictures, averaging, a stop by the keyboard, progress."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .adapters import allocate_ranks
from .processes import everywhere

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


class Interruption(TrainerCallback):
    """Ctrl-C and a polite kill end the run behind the current step, with a checkpoint; a second Ctrl-C ends it at once.

    Attributes:
        wanted: Whether the run was asked to stop; after a step, whether any of its processes was.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.wanted = False
        self.report = report
        self._process = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over meanwhile."""
        previous = {}
        try:
            for name in (signal.SIGINT, signal.SIGTERM):
                previous[name] = signal.signal(name, self._on_signal)
        except ValueError:  # not in the main thread, where signals do not come
            pass
        try:
            yield
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A loader's worker, which has inherited this. Ctrl-C reaches it too, and the step still needs its pictures.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.wanted:
            self.wanted = True
            with suppress(RuntimeError):  # the signal came while something else was being written
                self.report("stopping after this step, with a checkpoint; Ctrl-C once more stops at once")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Saves and stops where that was asked for, in all processes at the same step."""
        self.wanted = not everywhere(not self.wanted, args.device)
        if self.wanted:
            control.should_save = True
            control.should_training_stop = True

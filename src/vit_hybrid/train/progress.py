"""How far a run is: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Where there is no terminal, lines come at most this often, so that a log of hours stays readable.
SECONDS_BETWEEN_LINES = 10.0
SHOWN = {"loss": "loss", "accuracy": "accuracy", "eval_loss": "val loss", "eval_top1": "val top-1"}
SHOWN |= {"eval_mean_average_precision": "val mAP", "eval_mae": "val MAE"}


class TrainingProgress(TrainerCallback):
    """Epoch, step, loss, accuracy and time left, on the first process alone.

    Args:
        stream: Where to write; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._console = Console(file=self._stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._is_first = int(os.environ.get("RANK", "0")) == 0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._latest: dict[str, float] = {}
        self._last_line = 0.0
        self._start: tuple[float, int] = (0.0, 0)

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self._is_first:
            self._console.print(Text(line))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Starts the clock and, on a terminal, the bar."""
        self._start = time.monotonic(), state.global_step
        if not (self._is_first and self._console.is_terminal):
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, redirect_stdout=False, redirect_stderr=False)
        self._task = self._bar.add_task("Training", total=state.max_steps, completed=state.global_step)
        self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, description=self._describe(state))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Takes up new figures; where there is no bar, prints them, those of a validation always."""
        self._latest |= {name: value for name, value in (logs or {}).items() if name in SHOWN}
        if self._bar is not None:
            self._bar.update(self._task, description=self._describe(state))
        if not self._is_first or self._bar is not None or not logs:
            return
        is_validation = any(name.startswith("eval_") for name in logs)
        now = time.monotonic()
        if is_validation or now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._console.print(
                Text(f"{self._describe(state)}, step {state.global_step}/{state.max_steps}{self._left(state)}")
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leaves the bar as it is."""
        self.close()

    def close(self) -> None:
        """Takes the bar off the terminal's hands, also when the run ends by an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _describe(self, state: TrainerState) -> str:
        figures = [f"{words} {self._latest[name]:.3f}" for name, words in SHOWN.items() if name in self._latest]
        return ", ".join([f"epoch {state.epoch or 0.0:.1f}", *figures])

    def _left(self, state: TrainerState) -> str:
        began, first = self._start
        done = state.global_step - first
        if not done or state.global_step >= state.max_steps:
            return ""
        seconds = (time.monotonic() - began) / done * (state.max_steps - state.global_step)
        return f", {_duration(seconds)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes > 1 else f"{60 * minutes + rest} s"


__all__ = ["TrainingProgress"]

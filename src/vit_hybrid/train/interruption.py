"""Stopping a run politely: signals end it behind the current step, with a checkpoint, and its workers wait for that."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .processes import everywhere

WORKERS_GRACE_SECONDS = 5
STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def start_patient_worker(start: Callable[[int], None] | None, number: int) -> None:
    """Starts a loader's worker that is not ended together with the run: its last step still needs pictures.

    Ctrl-C and the signals of service managers reach all processes of a group. PyTorch has workers end at once then, and
    the run would fail before its checkpoint.
    """
    if start is not None:
        start(number)
    for name in STOPPING_SIGNALS:
        signal.signal(name, leave_later)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING_SIGNALS)


def leave_later(number: int, frame: FrameType | None) -> None:
    """What a worker does on a signal: nothing on Ctrl-C; otherwise it is gone in a while if nobody tells it to end."""
    if number == signal.SIGTERM:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(WORKERS_GRACE_SECONDS)


class Interruption(TrainerCallback):
    """Ctrl-C and a polite kill end the run behind the current step, with a checkpoint; a second Ctrl-C ends it at once.

    Attributes:
        wanted: Whether the run was asked to stop; after a step, whether any of its processes was.
        signal: What asked this process first.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.wanted = False
        self.signal: int | None = None
        self.report = report
        self._process = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over meanwhile."""
        previous = {}
        try:
            for name in STOPPING_SIGNALS:
                previous[name] = signal.signal(name, self._on_signal)
        except ValueError:  # not in the main thread, where signals do not come
            pass
        _hold_signals_in_new_processes()
        _Holding.active = bool(previous)
        try:
            yield
        finally:
            _Holding.active = False
            for name, handler in previous.items():
                signal.signal(name, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            leave_later(number, frame)  # a loader's worker, which has inherited this
            return
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.wanted:
            self.wanted, self.signal = True, number
            with suppress(RuntimeError):  # the signal came while something else was being written
                self.report("stopping after this step, with a checkpoint; Ctrl-C once more stops at once")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Saves and stops where that was asked for, in all processes at the same step."""
        self.wanted = not everywhere(not self.wanted, args.device)
        if self.wanted:
            control.should_save = True
            control.should_training_stop = True


class _Holding:
    """Whether new processes are a loader's workers, to which signals wait until `start_patient_worker` has run."""

    active = False


@cache
def _hold_signals_in_new_processes() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lambda: _mask(signal.SIG_BLOCK), after_in_parent=lambda: _mask(signal.SIG_UNBLOCK))


def _mask(how: int) -> None:
    if _Holding.active:
        signal.pthread_sigmask(how, STOPPING_SIGNALS)


__all__ = ["Interruption", "start_patient_worker"]

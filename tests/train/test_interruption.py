"""What signals do to a run, without one."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from vit_hybrid.train import interruption
from vit_hybrid.train.interruption import Interruption


def test_the_first_signal_is_told_and_kept_and_only_ctrl_c_ends_at_once_then() -> None:
    said: list[str] = []
    stopping = Interruption(said.append)
    assert (stopping.wanted, stopping.signal) == (False, None)
    for _ in range(2):
        stopping._on_signal(signal.SIGTERM, None)
        assert (stopping.wanted, stopping.signal) == (True, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        stopping._on_signal(signal.SIGINT, None)
    assert stopping.signal == signal.SIGTERM
    assert said == ["stopping after this step, with a checkpoint; Ctrl-C once more stops at once"]


@pytest.mark.parametrize("is_wanted", [False, True])
def test_a_step_is_followed_by_a_checkpoint_and_the_end_where_that_is_wanted(is_wanted: bool) -> None:
    stopping = Interruption(lambda line: None)
    stopping.wanted = is_wanted
    control = TrainerControl()
    arguments: Any = SimpleNamespace(device=torch.device("cpu"))
    stopping.on_step_end(arguments, TrainerState(), control)
    assert (control.should_save, control.should_training_stop) == (is_wanted, is_wanted)


def test_a_signal_while_something_is_being_said_stops_all_the_same() -> None:
    def busy(line: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    stopping = Interruption(busy)
    stopping._on_signal(signal.SIGINT, None)
    assert (stopping.wanted, stopping.signal) == (True, signal.SIGINT)


def test_where_no_signals_come_none_are_taken_over() -> None:
    """As in another thread than the first."""
    before = [signal.getsignal(number) for number in interruption.STOPPING_SIGNALS]
    found: list[Any] = []

    def listen() -> None:
        with Interruption(lambda line: None).listening():
            found.append(interruption._Holding.active)
            found.extend(signal.getsignal(number) for number in interruption.STOPPING_SIGNALS)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [False, *before]


def test_a_worker_is_started_as_it_would_be_and_waits_when_it_is_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Any] = {}
    masks: list[Any] = []
    started: list[int] = []
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *given: masks.append(given))
    interruption.start_patient_worker(started.append, 3)
    interruption.start_patient_worker(None, 4)
    assert started == [3]
    assert handlers == dict.fromkeys((signal.SIGINT, signal.SIGTERM), interruption.leave_later)
    assert masks == [(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))] * 2


def test_signals_are_taken_over_for_a_while_alone() -> None:
    stopping = Interruption(lambda line: None)
    before = [signal.getsignal(number) for number in interruption.STOPPING_SIGNALS]

    def fail() -> None:
        with stopping.listening():
            assert [signal.getsignal(number) for number in interruption.STOPPING_SIGNALS] == [stopping._on_signal] * 2
            assert interruption._Holding.active
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert [signal.getsignal(number) for number in interruption.STOPPING_SIGNALS] == before
    assert not interruption._Holding.active


def test_a_worker_says_nothing_and_is_gone_in_a_while_unless_it_was_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[int] = []
    handlers: list[tuple[int, Any]] = []
    monkeypatch.setattr(signal, "alarm", alarms.append)
    monkeypatch.setattr(signal, "signal", lambda *given: handlers.append(given))
    stopping = Interruption(lambda line: pytest.fail("a worker speaks"))
    stopping._process = os.getpid() + 1
    stopping._on_signal(signal.SIGINT, None)
    assert alarms == []
    stopping._on_signal(signal.SIGTERM, None)
    assert alarms == [5]  # seconds
    assert handlers == [(signal.SIGALRM, signal.SIG_DFL)]
    assert not stopping.wanted

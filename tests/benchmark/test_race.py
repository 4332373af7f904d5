"""What becomes of the answers of those who race, without a race."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_hybrid.benchmark import race
from vit_hybrid.benchmark.contenders import Contender
from vit_hybrid.benchmark.processes import TurnFailed, WorkerFailed
from vit_hybrid.benchmark.race import Cell, Entry


class Answering:
    def __init__(self, *answers: Any) -> None:
        self.answers = iter(answers)
        self.asked: list[dict[str, Any]] = []

    def ask(self, request: dict[str, Any], limit: float) -> Any:
        self.asked.append(request)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        if request["logits"] is not None:
            np.save(request["logits"], np.ones((2, 3)))
        return answer


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "PAUSE", 0.0)


def turns(tmp_path: Path, worker: Any, count: int, timed_from: int = 1) -> tuple[Entry, Cell]:
    entry, cell = Entry(Contender("torch", "f32")), Cell()
    for turn in range(count):
        logits = tmp_path / "0.npy" if turn == 0 else None
        race._take_turn(worker, entry, cell, 2, logits, is_timed=turn >= timed_from)
    return entry, cell


def test_times_are_of_timed_turns_and_memory_is_the_most_of_all(tmp_path: Path) -> None:
    peaks = [(5, None), (9, 2), (7, 4), (None, 3)]
    answers = [
        {"seconds": [0.1 * turn], "peak_bytes": peak, "device_peak_bytes": device, "copied_seconds": [turn]}
        for turn, (peak, device) in enumerate(peaks)
    ]
    worker = Answering(*answers)
    entry, cell = turns(tmp_path, worker, 4, timed_from=2)
    assert (cell.seconds, cell.copied_seconds) == ([0.2, pytest.approx(0.3)], [2, 3])
    assert (cell.peak_bytes, cell.device_peak_bytes) == (9, 4)
    assert cell.logits is not None
    assert cell.logits.shape == (2, 3)
    assert [(one["batch"], one["fresh"]) for one in worker.asked] == [(2, True), (2, False), (2, False), (2, False)]
    assert entry.error is cell.error is None


@pytest.mark.parametrize(("error", "is_out"), [(TurnFailed("too large"), False), (WorkerFailed("it ended"), True)])
def test_a_turn_that_fails_ends_its_cell_and_a_process_that_ends_all_of_them(
    error: Exception, is_out: bool, tmp_path: Path
) -> None:
    entry, cell = turns(tmp_path, Answering({"seconds": [0.1]}, error), 2)
    assert (cell.error, entry.error) == (str(error), str(error) if is_out else None)
    assert cell.seconds == []

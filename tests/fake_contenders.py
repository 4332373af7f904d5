"""Contenders for the tests of the benchmark, which do as they are told in place of the real ones."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from vit_hybrid.benchmark import contenders as line
from vit_hybrid.benchmark import race
from vit_hybrid.benchmark.settings import Settings

FAKE = Path(__file__).with_name("fake_contender.py")


class Fakes:
    """Runs with `fake_contender.py` in place of all workers."""

    def __init__(self, model: Path, log: Path) -> None:
        self.model = model
        self.log = log
        self.acts: dict[str, str] = {}

    def command(self, *_: Any) -> list[str]:
        return [sys.executable, str(FAKE), json.dumps(self.acts), str(self.log)]

    def settings(self, **changes: Any) -> Settings:
        few: dict[str, Any] = {
            "batch_sizes": (1, 2),
            "engines": ("torch",),
            "repetitions": 2,
            "warm_up": 1,
            "threads": 1,
        }
        return Settings(model=str(self.model), device="cpu", **{**few, **changes})

    def noted(self) -> list[list[str]]:
        """What the contenders wrote into the log, which one that is ended early has not made yet."""
        return [words.split() for words in self.log.read_text().splitlines()] if self.log.exists() else []


def in_place(model: Path, log: Path, patch: pytest.MonkeyPatch) -> Fakes:
    found = Fakes(model, log)
    patch.setattr(line, "command", found.command)
    patch.setattr(line, "worker_command", found.command)
    patch.setattr(race, "STARTS", 1)
    patch.setattr(race, "PAUSE", 0.0)
    patch.setattr(race, "TURN", 0.0)
    patch.setattr(race, "TURN_LIMIT", 20.0)
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

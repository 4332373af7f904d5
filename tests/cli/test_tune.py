"""What is shown while ways to run a model race."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from vit_hybrid.cli.main import app
from vit_hybrid.cli.output import ProgressBar


def test_the_bar_goes_as_far_as_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    done = [0]
    seen: list[int] = []

    def advance(self: Any, steps: int = 1) -> None:
        done[0] += steps

    def race(*_: Any, progress: Any, **__: Any) -> Any:
        for share in (0.1, 0.104, 0.35, 0.3, 1.0):
            progress(share, "racing")
            seen.append(done[0])
        raise ValueError("that is all")

    monkeypatch.setattr(ProgressBar, "advance", advance)
    monkeypatch.setattr("vit_hybrid.engines.tuning.tune", race)
    result = CliRunner().invoke(app, ["tune"])
    assert result.stderr.endswith("vit-hybrid: that is all\n")
    assert seen == [10, 10, 35, 35, 100]

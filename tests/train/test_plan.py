"""How a run is divided into steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_training import make_pictures, trained


def test_warmup_is_a_share_of_the_whole_run(tmp_path: Path) -> None:
    """Of 24 steps in four epochs, 12 rise to the recipe's rate and 12 fall from it."""
    fields = {"epochs": 4, "warmup": 0.5, "schedule": "linear", "learning_rate": 0.012}
    outcome = trained(make_pictures(tmp_path / "data"), tmp_path / "out", **fields)
    rates = {entry["step"]: entry["learning_rate"] for entry in outcome.metrics["log"] if "learning_rate" in entry}
    assert outcome.metrics["steps"] == len(rates) == 24
    expected = {step: 0.012 * min(step - 1, 25 - step) / 12 for step in range(1, 25)}
    assert rates == pytest.approx(expected)

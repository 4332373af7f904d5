"""What follows from settings, and the cores that there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vit_hybrid.serve.settings import Settings, available_cores


def test_the_queue_is_two_batches_for_each_worker_unless_it_is_said() -> None:
    assert Settings().queue_for(16) == 32
    assert Settings(workers=3).queue_for(8) == 48
    assert Settings(workers=3, max_queue=5).queue_for(8) == 5


@pytest.mark.parametrize(
    ("content", "cores"), [("50000 100000", 1), ("150000 100000", 2), ("max 100000", None), ("", None), ("x y", None)]
)
def test_a_container_may_have_fewer_cores(tmp_path: Path, content: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(content)
    everything = len(os.sched_getaffinity(0))
    expected = everything if cores is None else min(cores, everything)
    assert available_cores(str(tmp_path / "cpu.max")) == expected
    assert available_cores(str(tmp_path / "missing")) == everything

"""What follows from settings."""

from __future__ import annotations

from vit_hybrid.serve.settings import Settings


def test_the_queue_is_two_batches_for_each_worker_unless_it_is_said() -> None:
    assert Settings().queue_for(16) == 32
    assert Settings(workers=3).queue_for(8) == 48
    assert Settings(workers=3, max_queue=5).queue_for(8) == 5

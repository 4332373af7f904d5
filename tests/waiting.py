"""Waiting, on the event loop of a test, for what others do there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Waits as long as it takes: a test's own patience ends it."""
    while not condition():
        await asyncio.sleep(0.001)

"""Work in threads on what comes next, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ..runtimes import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

# More threads than this only take turns with those that compute.
MOST_THREADS = 8


def prepared_ahead(
    prepare: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Result, None, None]:
    """`map(prepare, items)`, worked on in threads up to `ahead` items before they are asked for.

    Items are taken from their iterator in the caller's thread, one after the other. What `prepare` raises is raised
    when its result is asked for.
    """
    waiting: deque[Future[Result]] = deque()
    iterator = iter(items)
    with ThreadPoolExecutor(min(MOST_THREADS, usable_cores()), thread_name_prefix="reading-ahead") as executor:
        try:
            for item in iterator:
                waiting.append(executor.submit(prepare, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


__all__ = ["prepared_ahead"]

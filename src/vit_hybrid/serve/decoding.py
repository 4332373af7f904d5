"""Threads that decode, and say of many pictures at once that they are done. Standard library only.

A pool of `concurrent.futures` wakes the event loop for each piece of work, and has locks that event loop and threads
wait for in turns: with small pictures, its thread had twice as much to do.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Decoders:
    """Threads that work for an event loop.

    Args:
        count: How many.

    Attributes:
        count: As given.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._loop: asyncio.AbstractEventLoop
        self._waiting: SimpleQueue[tuple[Callable[[], None], Callable[[], None]] | None] = SimpleQueue()
        self._finished: deque[Callable[[], None]] = deque()
        self._is_told = False
        for number in range(count):
            threading.Thread(target=self._work, name=f"decode_{number}", daemon=True).start()

    def submit(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Has a thread do `work`, in the order in which it comes, and then the event loop `then`.

        Args:
            work: What raises nothing.
            then: What follows, however that went.
        """
        self._loop = asyncio.get_running_loop()
        self._waiting.put((work, then))

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What a function returns, or raises, in a thread."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        outcome: list[Callable[[], None]] = []

        def work() -> None:
            try:
                result = function(*arguments)
            except Exception as raised:
                error = raised  # whose own name ends with this block
                outcome.append(lambda: done.set_exception(error))
            else:
                outcome.append(lambda: done.set_result(result))

        def then() -> None:
            if not done.done():  # else nobody waits any more
                outcome[0]()

        self.submit(work, then)
        return await done

    def close(self) -> None:
        """Ends the threads, each with what it does."""
        with suppress(Empty):  # those who waited are gone; what a thread takes meanwhile is not waited for
            while True:
                self._waiting.get_nowait()
        for _ in range(self.count):
            self._waiting.put(None)

    def _work(self) -> None:
        while (given := self._waiting.get()) is not None:
            work, then = given
            try:
                work()
            finally:
                self._finished.append(then)
                # Whoever finds that it is told already has put what is done before that is looked at.
                if not self._is_told:
                    self._is_told = True
                    with suppress(RuntimeError):  # the event loop has ended
                        self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._is_told = False
        while self._finished:
            self._finished.popleft()()


__all__ = ["Decoders"]

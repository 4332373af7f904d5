"""Threads that decode: what they have done is heard of, in order, however much there is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from serving import PATIENCE

from vit_hybrid.serve import decoding
from vit_hybrid.serve.decoding import Decoders


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders(2)
    yield made
    made.close()


def test_each_piece_of_work_is_done_by_a_thread_and_followed_on_the_event_loop(decoders: Decoders) -> None:
    done: list[int] = []
    threads: set[str] = set()

    async def main() -> None:
        ended = asyncio.Event()

        def work(number: int) -> None:
            threads.add(threading.current_thread().name)
            time.sleep(0.0002 * (number % 3))

        def then(number: int) -> None:
            assert threading.current_thread() is threading.main_thread()
            done.append(number)
            if len(done) == 300:
                ended.set()

        for number in range(300):
            decoders.submit(lambda number=number: work(number), lambda number=number: then(number))
            if number % 7 == 0:
                await asyncio.sleep(0.0003)
        await asyncio.wait_for(ended.wait(), 60)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert sorted(done) == list(range(300))
    assert threads == {"decode_0", "decode_1"}


def test_several_are_done_at_once_and_in_their_order(decoders: Decoders) -> None:
    both, order = threading.Barrier(2), []

    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(decoders.run(both.wait), decoders.run(both.wait))
            held = threading.Event()
            first = [asyncio.ensure_future(decoders.run(held.wait)) for _ in range(2)]
            others = [asyncio.ensure_future(decoders.run(order.append, number)) for number in range(20)]
            await asyncio.sleep(0)
            held.set()
            await asyncio.gather(*first, *others)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert len(order) == 20
    assert all(abs(place - number) <= 1 for place, number in enumerate(order))  # two threads, so a step apart at most


def test_what_a_function_returns_or_raises_comes_back(decoders: Decoders) -> None:
    async def main() -> None:
        assert await decoders.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await decoders.run(divmod, 7, 0)
        assert await decoders.run(divmod, 9, 2) == (4, 1)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_who_no_longer_waits_disturbs_nobody(decoders: Decoders) -> None:
    async def main() -> None:
        held, errors = threading.Event(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: errors.append(told))
        waiting = asyncio.ensure_future(decoders.run(held.wait))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        held.set()
        for _ in range(decoders.count + 1):
            assert await asyncio.wait_for(decoders.run(len, "abc"), 60) == 3
        assert errors == []

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_what_was_done_while_the_event_loop_was_busy_is_followed_in_its_order() -> None:
    decoders, heard = Decoders(1), []

    async def main() -> None:
        for number in range(9):
            decoders.submit(lambda: None, lambda number=number: heard.append(number))
        time.sleep(0.2)  # so that all are done before any is told of
        await asyncio.wait_for(decoders.run(len, "abc"), 60)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    decoders.close()
    assert heard == [*range(9)]


def test_they_end() -> None:
    before = {*threading.enumerate()}  # other tests of this process may have left theirs
    decoders = Decoders(3)
    ours = {*threading.enumerate()} - before
    assert sorted(thread.name for thread in ours) == ["decode_0", "decode_1", "decode_2"]

    async def main() -> list[str]:
        held, heard = threading.Event(), []
        for _ in range(3):
            decoders.submit(lambda: held.wait(60) and None, lambda: None)  # type: ignore[func-returns-value]
        decoders.submit(lambda: heard.append("late"), lambda: None)
        await asyncio.sleep(0.01)
        decoders.close()
        held.set()
        for thread in ours:
            thread.join(60)
            assert not thread.is_alive()
        return heard

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == []


def test_what_a_thread_takes_at_the_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    free, taken = threading.Event(), threading.Event()

    class Waiting(SimpleQueue[Any]):
        """Of which a thread takes the last after it was seen to wait there."""

        def empty(self) -> bool:
            waits = not super().empty()
            if waits:
                free.set()
                taken.wait(60)
            return not waits

    monkeypatch.setattr(decoding, "SimpleQueue", Waiting)
    decoders = Decoders(1)

    async def main() -> None:
        decoders.submit(lambda: free.wait(60) and None, lambda: None)  # type: ignore[func-returns-value]
        decoders.submit(taken.set, lambda: None)
        ending = threading.Thread(target=decoders.close, daemon=True)
        ending.start()
        ending.join(10)
        free.set()
        assert not ending.is_alive()

    asyncio.run(asyncio.wait_for(main(), PATIENCE))

"""Threads that work ahead: results in order, no further than said, nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vit_hybrid.data.reading_ahead import prepared_ahead


def test_results_come_in_order_whichever_is_done_first() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * item

    assert list(prepared_ahead(slow_first, range(20), 5)) == [item * item for item in range(20)]


def test_works_in_other_threads_and_no_further_ahead_than_said() -> None:
    taken: list[int] = []
    threads: set[threading.Thread] = set()

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    def prepare(item: int) -> int:
        threads.add(threading.current_thread())
        return item

    results = prepared_ahead(prepare, items(), 4)
    assert taken == []
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]
    assert next(results) == 1
    assert taken == [0, 1, 2, 3, 4]
    assert threads
    assert threading.current_thread() not in threads
    results.close()
    assert not [thread for thread in threads if thread.is_alive()]


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (3, 3), (64, 8)])
def test_as_many_threads_as_cores_and_no_more_than_eight(
    cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vit_hybrid.data.reading_ahead.usable_cores", lambda: cores)
    submitted = threading.Event()
    found: list[int] = []

    def items() -> Iterator[int]:
        yield from range(20)
        found.append(sum(thread.name.startswith("reading-ahead") for thread in threading.enumerate()))
        submitted.set()

    def prepare(item: int) -> int:
        assert submitted.wait(timeout=60)  # until then none is free for another
        return item

    assert list(prepared_ahead(prepare, items(), 30)) == [*range(20)]
    assert found == [threads]


def test_an_error_is_raised_when_its_turn_comes() -> None:
    def prepare(item: int) -> float:
        return 1 / item

    results = prepared_ahead(prepare, [1, 2, 0, 4], 3)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_waits_when_it_is_given_up_is_not_prepared_any_more() -> None:
    started: list[int] = []
    go_on = threading.Event()

    def prepare(item: int) -> int:
        started.append(item)
        if item:
            go_on.wait(timeout=60)
        return item

    results = prepared_ahead(prepare, range(2000), 1000)
    assert next(results) == 0
    threading.Timer(0.2, go_on.set).start()
    results.close()
    assert len(started) < 500  # those that threads had begun with

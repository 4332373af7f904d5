"""Workers in processes of their own: every shard is done once, whoever dies."""

from __future__ import annotations

import io
import os
import pickle
import queue
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from shard_workers import Begun, Complaining, Picky, Squares, Unstartable, Vanishing

from vit_hybrid.data.streams import Place
from vit_hybrid.errors import JobStopped
from vit_hybrid.inference.shards import Shard
from vit_hybrid.inference.workers import (
    WorkerLost,
    _Process,
    _read,
    _write,
    in_processes,
    in_this_process,
    raised,
    threads_for,
)

# Of a folder "a".
UNIT = "0:0:folder:0:a"


def shards(count: int) -> Iterator[Shard]:
    for number in range(count):
        yield Shard(number, Place(UNIT, 4 * number), Place(UNIT, 4 * number + 3), 4)


def run(make: Any, count: int, workers: int = 2) -> tuple[list[Any], list[dict[str, Any]]]:
    stated: list[dict[str, Any]] = []
    return list(in_processes(make, shards(count), lambda facts: stated.append(dict(facts)), workers, 3)), stated


def test_here_one_worker_does_all_in_order() -> None:
    stated: list[Any] = []
    assert list(in_this_process(Squares, shards(3), stated.append)) == [(0, 0), (1, 1), (2, 4)]
    assert len(stated) == 1


def test_processes_do_each_shard_once() -> None:
    found, stated = run(Squares, 5)
    assert sorted(found) == [(number, number**2) for number in range(5)]
    assert len({facts["process"] for facts in stated}) == 2
    assert {facts["threads"] for facts in stated} == {"3"}
    for facts in stated:  # each has ended, and was waited for
        with pytest.raises(ProcessLookupError):
            os.kill(facts["process"], 0)


def test_shards_are_settled_once_a_worker_said_what_it_is_and_when_one_is_about_to_need_them() -> None:
    for drive, ahead in ((in_this_process, 0), (partial(in_processes, workers=1, threads=1), 1)):
        stated: list[Any] = []
        asked: list[int] = []

        def noted(stated: list[Any] = stated, asked: list[int] = asked) -> Iterator[Shard]:
            for shard in shards(6):
                assert stated
                asked.append(shard.number)
                yield shard

        done = 0
        for _ in drive(Squares, noted(), stated.append):
            done += 1
            assert len(asked) <= done + ahead
        assert done == 6


def test_more_workers_than_shards_are_not_started() -> None:
    found, stated = run(Squares, 1, workers=4)
    assert found == [(0, 0)]
    assert len(stated) == 1


def test_nothing_to_do() -> None:
    assert run(Squares, 0)[0] == []


def test_a_worker_that_dies_is_replaced_and_its_shard_done_again(tmp_path: Path) -> None:
    found, stated = run(partial(Squares, dies={1: 1, 3: 2}, notes=str(tmp_path)), 5)
    assert sorted(found) == [(number, number**2) for number in range(5)]
    assert len(stated) == 2 + 3


def test_a_shard_that_was_lost_is_the_next_one_done(tmp_path: Path) -> None:
    found, _ = run(partial(Squares, dies={1: 2}, notes=str(tmp_path)), 5, workers=1)
    assert found == [(number, number**2) for number in range(5)]


def test_a_shard_that_kills_three_workers_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match=r"the 4 pictures from a \(9\) to a \(12\) .* 3 times.*SIGKILL.*memory"):
        run(partial(Squares, dies={2: 99}, notes=str(tmp_path)), 5)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_worker_raises_is_raised_here() -> None:
    with pytest.raises(ValueError, match="shard 2 is bad"):
        run(partial(Squares, raises=2), 5)


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [(Unstartable, OSError, "no such model"), (Vanishing, WorkerLost, "cannot run: a worker ended with status 7")],
)
def test_a_worker_that_cannot_begin(make: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        run(make, 3)


def test_the_last_words_of_a_worker_that_ends_are_told() -> None:
    with pytest.raises(WorkerLost, match=r"cannot run: a worker ended with status 9 \(no room for it\)$"):
        run(Complaining, 3)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "a worker ended with status 0"),
        (-15, "a worker was ended by SIGTERM"),
        (-9, "a worker was ended by SIGKILL, as is done when memory runs out"),
        (-99, "a worker ended with status -99"),
    ],
)
def test_how_a_worker_ended_is_told_with_its_last_words(status: int, said: str) -> None:
    ended: Any = _Process.__new__(_Process)
    for words, last in ((b"first\n the   last\n\n", " (the last)"), (b" \n", ""), (b"\xff", " (\ufffd)")):
        ended._errors = io.BytesIO(words)
        ended._errors.read()
        assert ended._how_it_ended(status) == said + last


def test_a_message_that_is_cut_short_is_none() -> None:
    stream = io.BytesIO()
    for content in (b"first", b""):
        _write(stream, content)
    whole = stream.getvalue()
    for length, messages in ((len(whole), [b"first", b"", None]), (12, [None]), (7, [None]), (20, [b"first", None])):
        cut = io.BytesIO(whole[:length])
        assert [_read(cut) for _ in messages] == messages


def test_an_error_goes_to_the_driver_itself_or_with_what_it_says() -> None:
    for error, kind in ((ValueError("first\nsecond"), ValueError), (Picky("first", "second"), JobStopped)):
        word, found = pickle.loads(raised(error))
        assert (word, type(found), str(found).split()) == ("raised", kind, ["first", "second"])
    word, found = pickle.loads(raised(ValueError(lambda: 1)))
    assert (word, type(found)) == ("raised", JobStopped)


def test_what_is_wrong_with_the_facts_ends_it() -> None:
    def refuse(_: Any) -> None:
        raise ValueError("another machine")

    with pytest.raises(ValueError, match="another machine"):
        list(in_processes(Squares, shards(3), refuse, 2, 1))


def test_the_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_hybrid.inference.workers.cores", lambda: 6)
    assert [threads_for(workers) for workers in (0, 1, 2, 4, 9)] == [6, 6, 3, 1, 1]


def test_a_worker_ends_in_the_midst_of_a_shard_that_nobody_wants_any_more(tmp_path: Path) -> None:
    said: queue.SimpleQueue[Any] = queue.SimpleQueue()
    worker = _Process(pickle.dumps(partial(Begun, str(tmp_path))), 1, said)
    try:
        assert said.get(timeout=60)[1] == "ready"
        assert os.getsid(worker._process.pid) == worker._process.pid  # so that Ctrl-C reaches us alone
        [_, _, shard] = shards(3)  # for which it would wait for ever
        worker.give(shard)
        until = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert worker._process.stdin is not None
        worker._process.stdin.close()
        assert said.get(timeout=60)[1:] == ("died", "a worker ended with status 1")
    finally:
        worker.end(at_once=True)

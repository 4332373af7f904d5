"""The server's side of its workers, with processes that only seem to be some: who is asked, replaced, and given up."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_worker import Colors
from waiting import until

from vit_hybrid.engines.ways import Way
from vit_hybrid.serve import workers
from vit_hybrid.serve.channel import Unpacking, packed
from vit_hybrid.serve.logs import Log
from vit_hybrid.serve.worker import CLASSIFY, Asked, Facts
from vit_hybrid.serve.workers import MOST_FAILED_STARTS, CannotStart, Crew, Worker

FACTS = Facts(Colors.spec, "fake", "f32", "cpu", 2, False)


class Process:
    """One that is not there."""

    def __init__(self) -> None:
        self.kills = self.waits = 0
        self.returncode: int | None = None

    def kill(self) -> None:
        self.kills += 1
        self.returncode = -9 if self.returncode is None else self.returncode

    def wait(self) -> int:
        self.waits += 1
        return self.returncode or 0


class Wire(asyncio.Transport):
    """What a worker is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[Any, ...]] = []
        self.is_aborted = False
        self._unpacking = Unpacking()

    def write(self, data: Any) -> None:
        self.messages += self._unpacking.feed(bytes(data))

    def abort(self) -> None:
        self.is_aborted = True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.001)


class Some(Crew):
    """A crew whose workers have no processes.

    Attributes:
        said: What it did to whom.
    """

    def __init__(self, count: int = 1, batch_timeout: float = 60.0) -> None:
        super().__init__({"name": "m"}, count, 4, Log(None), batch_timeout)
        self.said: list[tuple[Any, ...]] = []
        self.on_idle = lambda _: self.said.append(("idle",))
        self.on_done = lambda batch, kind, content: self.said.append((kind, batch, *content))
        self.on_lost = lambda batch: self.said.append(("lost", batch))
        self.on_restart = lambda: self.said.append(("restart",))
        self.on_word = lambda kind, text: self.said.append((kind, text))
        self.on_end = lambda line: self.said.append(("end", line))

    async def _start_one(self) -> None:
        worker = Worker(self, Process())  # type: ignore[arg-type]
        self.workers.append(worker)
        worker.connection_made(Wire())

    def tell(self, place: int, *message: Any) -> None:
        self.workers[place].data_received(packed(message))

    async def with_all_ready(self) -> None:
        opening = asyncio.ensure_future(self.open())
        for place in range(self._count):
            while len(self.workers) <= place:
                await asyncio.sleep(0)
            self.tell(place, "ready", FACTS)
        await opening

    async def dies(self, place: int) -> None:
        """A worker's end of the wire is closed; waits for the next."""
        gone = self.workers[place]
        gone.process.returncode = -9
        gone.connection_lost(None)
        before = len(self.workers)
        async with asyncio.timeout(60):
            await until(lambda: len(self.workers) != before or any(one[0] == "end" for one in self.said))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def wire(worker: Worker) -> Wire:
    assert isinstance(worker._transport, Wire)
    return worker._transport


def test_it_opens_with_one_and_then_the_others_and_says_where_pictures_lie() -> None:
    async def test() -> None:
        crew = Some(3)
        opening = asyncio.ensure_future(crew.open())
        await until(lambda: crew.workers)
        await asyncio.sleep(0.01)
        assert len(crew.workers) == 1  # which may have to convert the model
        assert wire(crew.workers[0]).messages == [({"name": "m"},)]
        crew.tell(0, "progress", "converting")
        assert not crew.ready
        crew.tell(0, "ready", FACTS)
        await until(lambda: len(crew.workers) == 3)
        crew.tell(1, "ready", FACTS)
        await asyncio.sleep(0.01)
        assert not opening.done()
        crew.tell(2, "ready", FACTS)
        await opening
        assert crew.said == [("progress", "converting"), *[("idle",)] * 3]
        # Four that wait, and two batches of two for each.
        for worker in crew.workers:
            assert wire(worker).messages[1] == (16, (3, 8, 8))
        assert list(crew.free) == list(range(16))
        await crew.close()

    run(test())


def test_all_others_run_as_the_first_found_out() -> None:
    async def test() -> None:
        crew, way = Some(2), Way("onnx", "f32", threads=1)
        opening = asyncio.ensure_future(crew.open())
        await until(lambda: crew.workers)
        crew.tell(0, "ready", replace(FACTS, way=way))
        await until(lambda: len(crew.workers) == 2)
        crew.tell(1, "ready", replace(FACTS, way=way))
        await opening
        await crew.dies(0)
        assert [wire(worker).messages[0] for worker in crew.workers] == [({"name": "m", "way": way},)] * 2
        await crew.close()

    run(test())


def test_a_worker_has_one_batch_at_a_time_and_gives_it_back() -> None:
    async def test() -> None:
        crew = Some(2)
        await crew.with_all_ready()
        first, second = crew.idle()
        asked = [Asked(4, CLASSIFY, 1)]
        first.run(["picture"], asked)
        assert wire(first).messages[-1] == (asked,)
        assert crew.idle() == [second]
        crew.tell(0, "done", 0.5, [(True, b"")])
        assert crew.said[-1] == ("done", ["picture"], 0.5, [(True, b"")])
        assert crew.idle() == [first, second]
        first.run(["picture"], asked)
        crew.tell(0, "raised", "RuntimeError")
        assert crew.said[-1] == ("raised", ["picture"], "RuntimeError")
        await crew.close()

    run(test())


def test_a_worker_that_has_computed_a_batch_takes_the_next_while_it_writes_the_answers() -> None:
    async def test() -> None:
        crew = Some(1, batch_timeout=0.2)
        await crew.with_all_ready()
        [worker] = crew.workers
        crew.said.clear()
        worker.run(["a"], [])
        crew.tell(0, "computed")
        assert crew.said == [("idle",)]
        assert crew.idle() == [worker]
        worker.run(["b"], [])
        first, second = worker._stuck
        assert crew.idle() == []
        crew.tell(0, "done", 0.5, ["of a"])
        assert crew.said[-1] == ("done", ["a"], 0.5, ["of a"])
        assert (first.cancelled(), second.cancelled()) == (True, False)  # of a there is nothing to wait for
        assert crew.idle() == []
        crew.tell(0, "raised", "RuntimeError")
        assert crew.said[-1] == ("raised", ["b"], "RuntimeError")
        assert crew.idle() == [worker]
        worker.run(["c"], [])
        crew.tell(0, "computed")
        worker.run(["d"], [])
        await asyncio.sleep(0.4)  # nothing is written of either
        assert worker.process.kills == 2  # type: ignore[attr-defined]
        crew.said.clear()
        await crew.dies(0)
        assert crew.said == [("lost", ["c"]), ("lost", ["d"]), ("restart",)]
        await crew.close()

    run(test())


def test_only_a_worker_that_does_not_answer_is_stuck() -> None:
    async def test() -> None:
        crew = Some(2, batch_timeout=0.05)
        await crew.with_all_ready()
        first, second = crew.workers
        first.run(["a"], [])
        second.run(["b"], [])
        crew.tell(0, "done", 0.1, [])
        await asyncio.sleep(0.15)
        assert (first.process.kills, second.process.kills) == (0, 1)  # type: ignore[attr-defined]
        await crew.close()

    run(test())


def test_the_batch_of_one_that_dies_comes_back_and_another_takes_its_place() -> None:
    async def test() -> None:
        crew = Some(2)
        await crew.with_all_ready()
        crew.said.clear()
        gone, other = crew.workers
        gone.run(["a"], [])
        lines: list[tuple[Any, ...]] = []
        crew._log = lambda event, level, **fields: lines.append((event, level, fields))  # type: ignore[assignment]
        gone.failure = "/models/ann/m: is broken"
        await crew.dies(0)
        assert lines == [("worker ended", "error", {"reason": "m: is broken", "was_ready": True})]
        assert crew.said == [("lost", ["a"]), ("restart",)]
        assert crew.restarts == 1
        assert gone.process.kills == 1  # type: ignore[attr-defined]
        assert crew.ready == [other]
        crew.tell(1, "ready", FACTS)
        assert len(crew.idle()) == 2
        assert len(crew.free) == 4 + 2 * 2 * 2  # as before: there is one memory
        await crew.dies(0)
        assert crew.said[1:] == [("restart",), ("idle",), ("restart",)]  # it had no batch
        await crew.close()

    run(test())


def test_it_is_given_up_only_where_none_lives_and_starts_fail_one_after_the_other() -> None:
    async def test() -> None:
        crew = Some(2)
        await crew.with_all_ready()
        await crew.dies(1)
        for _ in range(2 * MOST_FAILED_STARTS):  # beside one that lives
            crew.tell(1, "failed", "/models/m: no memory")
            await crew.dies(1)
        assert not [one for one in crew.said if one[0] == "end"]
        crew.tell(1, "ready", FACTS)  # after which failures are counted anew
        await crew.dies(0)
        await crew.dies(0)
        for number in range(1, MOST_FAILED_STARTS + 1):
            assert not [one for one in crew.said if one[0] == "end"], number
            crew.tell(0, "failed", "/models/m: no memory")
            await crew.dies(0)
        assert crew.said[-1] == ("end", "no worker can run the model: /models/m: no memory")
        assert crew.restarts == 3  # those that had been ready
        await asyncio.sleep(0.02)
        assert len(crew.workers) == 1  # the other, which is being started: none comes after it
        await crew.close()

    run(test())


def test_starts_that_fail_are_further_and_further_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, inner = [], asyncio.sleep

    async def sleep(seconds: float, *_: Any) -> None:
        pauses.append(seconds)
        await inner(0)

    were_ready: list[bool] = []

    async def test() -> None:
        crew = Some(2)
        crew._log = lambda *_, **fields: were_ready.append(fields["was_ready"])  # type: ignore[assignment]
        await crew.with_all_ready()
        await crew.dies(1)  # which had been ready, and is replaced at once
        for _ in range(8):
            crew.tell(1, "failed", "no memory")
            await crew.dies(1)
        await crew.close()

    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.5)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    run(test())
    assert [one for one in pauses if one >= 0.5] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert were_ready == [True, *[False] * 8]


@pytest.mark.parametrize(("last_words", "told"), [("no such model", "no such model"), (None, "ended by SIGSEGV")])
def test_a_model_that_cannot_be_opened_is_told_and_not_tried_again(last_words: str | None, told: str) -> None:
    async def test() -> None:
        crew = Some()
        opening = asyncio.ensure_future(crew.open())
        await until(lambda: crew.workers)
        if last_words:
            crew.tell(0, "failed", last_words)
        crew.workers[0].process.returncode = -11
        crew.workers[0].connection_lost(None)
        with pytest.raises(CannotStart, match=f"^{told}$") as raised:
            await opening
        assert raised.value.may_pass == (last_words is None)  # it is not the model that is wrong
        assert not crew.workers
        await crew.close()

    run(test())


def test_a_worker_finds_no_modules_where_the_server_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "found_here.py").touch()
    monkeypatch.chdir(tmp_path)

    async def test() -> None:
        crew = Crew({"name": "m"}, 1, 3, Log(None), 60.0, "import found_here")
        with pytest.raises(CannotStart, match="ended with status 1"):
            await crew.open()
        await crew.close()

    run(test())


def test_a_process_says_that_it_has_computed_a_batch_before_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("VIT_HYBRID_FAKE_SECONDS", "0.05")
    options = {"name": "m", "batch_size": 2, "coverage": 0.9, "false_alarms": 0.05}
    said: list[tuple[Any, ...]] = []

    async def test() -> None:
        crew = Crew(options, 1, 4, Log(None), 60.0, "from fake_worker import main; main()")
        crew.on_idle = lambda _: said.append(("idle",))
        crew.on_done = lambda batch, kind, content: said.append((kind, batch, *content))
        await crew.open()
        [worker] = crew.workers
        assert crew.places is not None
        # Red fails the model, and green what is said of it.
        for place, color in enumerate([(0.1, 0.8, 0.2), (1, 0, 0), (0, 1, 0)]):
            crew.places.pixels[place] = np.float32(color)[:, None, None]
            said.clear()
            worker.run([place], [Asked(place, CLASSIFY, 1)])
            await until(lambda: said and said[-1][0] != "idle")
            if place == 0:
                idle, (kind, batch, seconds, [(is_answer, text)]) = said
                assert (idle, kind, batch, is_answer) == (("idle",), "done", [0], True)
                assert 0.05 <= seconds < 60
                assert text.startswith(b'"predictions": [{"label": "green", ')
            else:
                failed = [("raised", [1], "RuntimeError")], [("idle",), ("raised", [2], "LookupError")]
                assert said == failed[place - 1]
        await crew.close()
        crew = Crew({**options, "batch_size": 0}, 1, 4, Log(None), 60.0, "from fake_worker import main; main()")
        with pytest.raises(CannotStart, match="--max-batch is 0; expected"):  # as the command calls it
            await crew.open()
        await crew.close()

    run(test())


def test_where_no_process_can_be_started_it_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    async def test() -> None:
        crew, lines = Some(2), list[tuple[str, dict[str, Any]]]()
        await crew.with_all_ready()
        crew._log = lambda event, level, **fields: lines.append((event, fields))  # type: ignore[assignment]
        start, before = crew._start_one, len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr(workers.subprocess, "Popen", full)
            crew._start_one = lambda: Crew._start_one(crew)  # type: ignore[method-assign]
            crew.workers[1].connection_lost(None)
            # Beside one that lives.
            await until(lambda: [event for event, _ in lines].count("worker not started") >= 4)
            # Nothing of them is left; another's may be open briefly.
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
            assert lines[-1] == (
                "worker not started",
                {"reason": f"no process can be started: {os.strerror(errno.EAGAIN)}"},
            )
            crew._start_one = start  # type: ignore[method-assign]
            await until(lambda: len(crew.workers) == 2)
            crew.tell(1, "ready", FACTS)
            crew._start_one = lambda: Crew._start_one(crew)  # type: ignore[method-assign]
            for worker in list(crew.workers):
                worker.connection_lost(None)
            await until(lambda: crew.said and crew.said[-1][0] == "end")
            assert crew.said[-1][1].startswith("no worker can run the model: no process can be started: ")
            other = Crew({"name": "m"}, 1, 3, Log(None), 60.0)
            with pytest.raises(CannotStart, match="no process can be started: ") as told:
                await other.open()
            assert told.value.may_pass
        await other.close()
        await crew.close()

    run(test())


def test_all_end_with_it_and_none_comes_after() -> None:
    async def test() -> None:
        crew = Some(2)
        await crew.with_all_ready()
        everybody, memory = list(crew.workers), crew._memory
        await crew.close()
        assert all(wire(worker).is_aborted and worker.process.kills for worker in everybody)  # type: ignore[attr-defined]
        assert all(worker.process.waits for worker in everybody)  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(memory)
        await crew.close()  # which has nothing left to end
        for worker in everybody:
            worker.connection_lost(None)
        await asyncio.sleep(0.02)
        assert not crew.workers
        waiting = Some()
        opening = asyncio.ensure_future(waiting.open())
        await until(lambda: waiting.workers)
        await waiting.close()
        with pytest.raises(CannotStart, match="ending") as told:
            await opening
        assert told.value.may_pass

    run(test())

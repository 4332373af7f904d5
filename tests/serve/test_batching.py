"""The queue, with engines that a test answers for: what comes into which batch, and what becomes of each picture."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from fake_worker import PREPROCESSING, Colors
from serving import PATIENCE, photo, plain
from waiting import until

from vit_hybrid.images.preparing import preparing

pytest.importorskip("prometheus_client", reason="needs the extra serve")

from vit_hybrid.serve import batching
from vit_hybrid.serve.batching import Batching, Job, Model, Picture, public_name
from vit_hybrid.serve.decoding import Decoders
from vit_hybrid.serve.logs import Log
from vit_hybrid.serve.memory import Places, shared_memory
from vit_hybrid.serve.metrics import Metrics
from vit_hybrid.serve.problems import Disconnected, Problem
from vit_hybrid.serve.settings import Settings
from vit_hybrid.serve.worker import CLASSIFY, Asked, Facts

LATE = 1000.0


class Engine:
    """One that keeps what it is to do."""

    def __init__(self) -> None:
        self.batch: Sequence[Picture] | None = None
        self.asked: Sequence[Asked] = ()

    def run(self, batch: Sequence[Picture], asked: Sequence[Asked]) -> None:
        assert self.batch is None, "it is busy"
        self.batch, self.asked = list(batch), asked


class Engines:
    """Some of them, as `Batching` knows a crew."""

    def __init__(self, count: int, max_batch: int, waiting: int) -> None:
        self.facts: Facts | None = Facts(Colors.spec, "fake", "f32", "cpu", max_batch, False)
        memory = shared_memory()
        self.places: Places | None = Places(memory, waiting, self.facts.shape)
        os.close(memory)
        self.free = deque(range(waiting))
        self.all = [Engine() for _ in range(count)]
        self.is_closed = False
        self.on_idle: Callable[[Any], None]
        self.on_done: Callable[[Sequence[Any], str, Sequence[Any]], None]
        self.on_lost: Callable[[Sequence[Any]], None]
        self.on_restart: Callable[[], None]

    @property
    def ready(self) -> Sequence[Engine]:
        return self.all

    def idle(self) -> Sequence[Engine]:
        return [one for one in self.all if one.batch is None]

    async def close(self) -> None:
        self.is_closed = True

    def answer(self, place: int = 0, seconds: float = 0.1) -> list[str]:
        """Has an engine done with its batch: the names of the pictures in it."""
        engine = self.all[place]
        assert engine.batch is not None
        batch, engine.batch = engine.batch, None
        self.on_done(batch, "done", [seconds, [(True, b'"predictions": []') for _ in batch]])
        return [picture.name for picture in batch]


class Place:
    """A queue before engines.

    Attributes:
        engines: What it feeds.
        batching: The queue.
    """

    def __init__(self, count: int = 1, max_batch: int = 4, **settings: Any) -> None:
        self.settings, self.max_batch = Settings(workers=count, **settings), max_batch
        self.metrics, self.decoders = Metrics(), Decoders(2)
        self.engines, self.model = self.made(1)
        self.batching = Batching(self.settings, self.model, max_batch, self.decoders, self.metrics, Log(None))

    def made(self, version: int) -> tuple[Engines, Model]:
        waiting = self.settings.queue_for(self.max_batch) + self.settings.workers * self.max_batch + 2
        engines = Engines(self.settings.workers, self.max_batch, waiting)
        return engines, Model("colors", engines, preparing(PREPROCESSING, False), version, 0.0, None)

    def submit(self, count: int = 1, source: bytes | None = None, within: float = LATE) -> Job:
        sources = [photo() if source is None else source] * count
        return self.batching.submit(sources, CLASSIFY, None, time.monotonic() + within)

    async def decoded(self, count: int) -> None:
        """Waits until so many pictures wait for a batch."""
        await until(lambda: len(self.model.decoded) == count)

    async def occupied(self, place: int = 0) -> Job:
        """A request that an idle engine is at, so that those behind it gather."""
        job = self.submit()
        await self.busy(place)
        return job

    async def batch_of(self, *jobs: Job) -> Sequence[Picture]:
        """Waits until these have gathered behind a busy engine, and has it done: the next batch."""
        await self.decoded(sum(len(job.pictures) for job in jobs))
        self.engines.answer()
        return await self.busy()

    async def busy(self, place: int = 0) -> Sequence[Picture]:
        """Waits until an engine has a batch."""
        await until(lambda: self.engines.all[place].batch is not None)
        batch = self.engines.all[place].batch
        assert batch is not None
        return batch

    def metric(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"vit_hybrid_{name}") or 0.0


def run(test: Callable[[Place], Coroutine[Any, Any, None]], **how: Any) -> None:
    async def main() -> None:
        place = Place(**how)
        try:
            async with asyncio.timeout(PATIENCE):
                await test(place)
        finally:
            place.decoders.close()
        free = set(place.engines.free)
        held = {picture.place for engine in place.engines.all for picture in engine.batch or ()}
        waiting = {picture.place for picture in place.model.decoded}
        assert len(free) == len(place.engines.free), "a place is free twice"
        assert free | held | waiting == set(range(len(place.engines.places.pixels))), "a place is lost"  # type: ignore[union-attr]

    asyncio.run(main())


def test_while_an_engine_is_busy_pictures_gather_and_the_next_batch_takes_them() -> None:
    async def test(place: Place) -> None:
        first = await place.occupied()
        others = [place.submit(2), place.submit(3)]
        batch = await place.batch_of(*others)
        await first.done
        assert len(batch) == 4
        assert len(place.model.decoded) == 1
        place.engines.answer()
        assert len(await place.busy()) == 1
        assert sum(job.done.done() for job in others) == 1  # the last batch has a picture of the other
        place.engines.answer()
        await asyncio.gather(*(job.done for job in others))
        assert place.metric("batch_pictures_count") == 3
        assert place.metric("batch_pictures_sum") == place.metric("decode_seconds_count") == 6
        assert (place.batching.waiting, place.batching.jobs, place.model.in_work) == (0, set(), 0)

    run(test)


def test_batches_take_pictures_in_the_order_in_which_they_were_ready() -> None:
    async def test(place: Place) -> None:
        await place.occupied()
        jobs = []
        for number in range(1, 4):
            jobs.append(place.submit())
            await place.decoded(number)
        place.engines.answer()
        assert [picture.job for picture in await place.busy()] == jobs[:2]
        place.engines.answer()
        assert [picture.job for picture in await place.busy()] == jobs[2:]

    run(test, max_batch=2)


def test_each_picture_lies_in_its_place() -> None:
    async def test(place: Place) -> None:
        await place.occupied()
        colors = {"#20c040": (32, 192, 64), "#c04020": (192, 64, 32), "#4020c0": (64, 32, 192)}
        jobs = {color: place.submit(source=plain(color)) for color in colors}
        batch = await place.batch_of(*jobs.values())
        assert place.engines.places is not None
        for picture, one in zip(batch, place.engines.all[0].asked, strict=True):
            [color] = [color for color, job in jobs.items() if job is picture.job]
            assert (one.task, one.top_k) == (CLASSIFY, None)
            found = place.engines.places.pixels[one.place].mean((1, 2)) * 255
            assert found == pytest.approx(colors[color], abs=0.01)

    run(test)


@pytest.mark.parametrize("pictures", [1, 3, 6])
def test_the_queue_holds_what_it_may_and_no_more(pictures: int) -> None:
    async def test(place: Place) -> None:
        for _ in range(6 // pictures):
            place.submit(pictures)
        assert place.batching.waiting == 6
        with pytest.raises(Problem) as told:
            place.submit()
        assert (told.value.status, told.value.reason, told.value.headers) == (503, "queue full", {"Retry-After": "1"})
        assert told.value.detail == "too many pictures are waiting; try again later"
        with pytest.raises(Problem):
            place.batching.check_room()
        while place.batching.waiting:
            await place.busy()
            place.engines.answer()
        place.batching.check_room(6)
        with pytest.raises(Problem):
            place.batching.check_room(7)
        with pytest.raises(Problem):
            place.submit(7)
        assert place.batching.waiting == 0
        await place.decoded(0)

    run(test, max_queue=6)


def test_a_batch_whose_answers_are_written_beside_the_next_one_takes_room() -> None:
    async def test(place: Place) -> None:
        await place.occupied()
        first = place.submit(4)
        written = await place.batch_of(first)
        place.batching.check_room(6)  # a batch that runs takes none
        second = place.submit(4)
        await place.decoded(4)
        place.engines.all[0].batch = None
        place.engines.on_idle(place.engines)  # it has computed the batch, and says later what came of it
        assert len(await place.busy()) == 4
        assert (place.batching.waiting, place.batching.room_taken, place.model.running) == (0, 4, 8)
        place.batching.check_room(2)
        with pytest.raises(Problem):
            place.batching.check_room(3)
        place.engines.on_done(written, "done", [0.1, [(True, b"") for _ in written]])
        await first.done
        place.batching.check_room(6)
        third = place.submit(4)
        await place.decoded(4)
        lost, place.engines.all[0].batch = place.engines.all[0].batch, None
        assert lost is not None
        place.engines.on_idle(place.engines)
        place.engines.on_lost(lost)  # as it is told of a worker that died
        await second.done
        assert place.batching.room_taken == 0
        place.engines.answer()
        await third.done
        assert place.model.running == 0

    run(test, max_queue=6)


def test_a_batch_of_each_engine_takes_no_room() -> None:
    async def test(place: Place) -> None:
        assert place.batching.capacity == 16  # two batches for each
        for running, taken in ((8, 0), (9, 1)):
            place.model.running = running
            assert place.batching.room_taken == taken
        del place.engines.all[1]  # it has died
        assert place.batching.room_taken == 5
        place.batching._rate = 0.5
        assert (place.batching.waiting, place.batching.retry_after()) == (0, 10)  # for whoever comes waits for these

    run(test, count=2)


@pytest.mark.parametrize(("count", "seconds", "expected"), [(1, 0.5, 3), (2, 0.5, 2), (1, 1e-4, 1), (1, 1e6, 600)])
def test_retry_after_is_what_waits_at_the_rate_that_was_measured(count: int, seconds: float, expected: int) -> None:
    async def test(place: Place) -> None:
        for number in range(count):
            await place.occupied(number)
        place.engines.answer(0, seconds)
        assert place.batching.retry_after() == 1  # where nothing waits
        await place.occupied()
        place.submit(6)
        assert place.batching.retry_after() == expected
        with pytest.raises(Problem) as told:
            place.batching.check_room(3)
        assert told.value.headers == {"Retry-After": str(expected)}
        await place.decoded(6)

    run(test, count=count, max_queue=8)


def test_the_rate_follows_the_newest_batches_slowly() -> None:
    async def test(place: Place) -> None:
        for seconds in (1.0, 0.1):  # of one picture each: one a second, then ten
            await place.occupied()
            place.engines.answer(0, seconds)
        await place.occupied()
        place.submit(6)
        assert place.batching.retry_after() == 3  # at 2.8 a second
        await place.decoded(6)

    run(test, max_queue=8)


def test_a_picture_waits_for_its_thread_and_for_its_batch_and_keeps_no_file() -> None:
    async def test(place: Place) -> None:
        first = await place.occupied()
        held = threading.Event()
        for _ in range(place.decoders.count):
            place.decoders.submit(lambda: held.wait(PATIENCE) and None, lambda: None)  # type: ignore[func-returns-value]
        began = time.monotonic()
        job = place.submit()
        await asyncio.sleep(0.1)
        held.set()
        await place.decoded(1)
        await asyncio.sleep(0.1)
        [picture] = job.pictures
        assert picture.source is None
        place.engines.answer()
        await place.busy()
        assert picture.queue_seconds >= 0.2
        assert 0 < picture.decode_seconds <= time.monotonic() - began - picture.queue_seconds
        assert place.metric("queue_wait_seconds_sum") == pytest.approx(
            picture.queue_seconds + first.pictures[0].queue_seconds
        )
        decoding = picture.decode_seconds + first.pictures[0].decode_seconds
        assert place.metric("decode_seconds_sum") == pytest.approx(decoding)

    run(test)


def test_who_is_past_the_deadline_when_a_batch_forms_is_told_so_and_not_in_it() -> None:
    async def test(place: Place) -> None:
        first = await place.occupied()
        late, other = place.submit(2), place.submit()
        await place.decoded(3)
        late.deadline = time.monotonic()  # which the event loop has not come to see
        place.engines.answer()
        assert [picture.job for picture in await place.busy()] == [other]
        with pytest.raises(Problem) as told:
            await late.done
        assert (told.value.status, told.value.reason) == (504, "deadline")
        place.engines.answer()
        await asyncio.gather(first.done, other.done)

    run(test)


def test_a_deadline_is_told_when_it_is_over_even_if_no_batch_forms() -> None:
    async def test(place: Place) -> None:
        first = await place.occupied()
        late = place.submit(within=0.05)
        with pytest.raises(Problem, match="no answer within the time"):
            await late.done
        await place.decoded(1)  # still among them, and passed over
        assert place.batching.waiting == 0
        place.engines.answer()
        await first.done
        assert place.engines.all[0].batch is None

    run(test)


@pytest.mark.parametrize("how", ["abandoned", "cancelled"])
def test_who_gives_up_leaves_room_at_once(how: str) -> None:
    async def test(place: Place) -> None:
        await place.occupied()
        given_up, other = place.submit(4), place.submit(2)
        await place.decoded(6)
        free = len(place.engines.free)
        assert place.batching.waiting == 6
        if how == "abandoned":
            place.batching.abandon(given_up, Disconnected())
        else:
            given_up.done.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert (place.batching.waiting, len(place.engines.free)) == (2, free + 4)
        place.batching.check_room(4)
        place.engines.answer()
        assert [picture.job for picture in await place.busy()] == [other, other]
        place.batching.abandon(other, Disconnected())  # in its batch already, which is as it was
        place.batching.abandon(other, Problem(503, "the server is ending", "ending"))  # of which nobody hears any more
        place.engines.answer()
        assert isinstance(other.done.exception(), Disconnected)
        assert (place.batching.waiting, place.model.in_work) == (0, 0)

    run(test, max_queue=6)


def test_what_nobody_waits_for_is_not_decoded_and_nobody_looks_at_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(place: Place) -> None:
        decoded, errors, inner = list[str](), list[Any](), batching.prepared
        monkeypatch.setattr(batching, "prepared", lambda *given: decoded.append(given[-1]) or inner(*given))
        asyncio.get_running_loop().set_exception_handler(lambda _, told: errors.append(told))
        held = threading.Event()
        for _ in range(place.decoders.count):
            place.decoders.submit(lambda: held.wait(PATIENCE) and None, lambda: None)  # type: ignore[func-returns-value]
        place.batching.abandon(place.submit(2), Disconnected())
        held.set()
        await until(lambda: place.model.in_work == 0)
        all_ = threading.Barrier(place.decoders.count)  # each of which holds its last picture until the next comes
        await asyncio.gather(*(place.decoders.run(all_.wait) for _ in range(place.decoders.count)))
        gc.collect()
        assert (decoded, errors) == ([], [])

    run(test)


def test_nothing_waits_for_a_job_that_is_over() -> None:
    """No timer of its deadline keeps it."""

    async def test(place: Place) -> None:
        asked: list[Job] = []
        place.batching._time_out = asked.append  # type: ignore[method-assign]
        job = place.submit(within=0.5)
        await place.busy()
        place.engines.answer()
        await job.done
        await asyncio.sleep(0.6)
        assert not asked

    run(test)


def test_an_error_fails_the_pictures_of_its_batch_and_no_others() -> None:
    async def test(place: Place) -> None:
        lines: list[tuple[Any, ...]] = []
        place.batching._log = lambda *given, **fields: lines.append((*given, fields))  # type: ignore[assignment]
        await place.occupied()
        first = place.submit(2)
        batch = await place.batch_of(first)
        second = place.submit()
        await place.decoded(1)
        place.engines.all[0].batch = None
        place.engines.on_done(batch, "raised", ["RuntimeError"])
        await first.done
        said = "the model failed on the pictures of this batch"
        assert [picture.problem.detail for picture in first.pictures if picture.problem] == [said] * 2
        assert [picture.problem.status for picture in first.pictures if picture.problem] == [500, 500]
        assert lines == [("batch failed", "error", {"reason": "RuntimeError", "pictures": 2})]
        await place.busy()
        place.engines.answer()
        await second.done
        assert second.pictures[0].problem is None
        assert second.pictures[0].answer == b'"predictions": []'

    run(test, max_batch=2)


def test_the_batch_of_an_engine_that_died_is_told_to_come_again() -> None:
    async def test(place: Place) -> None:
        await place.occupied()
        job = place.submit(2)
        batch = await place.batch_of(job)
        place.engines.all[0].batch = None
        place.engines.on_lost(batch)
        await job.done
        [first, _] = job.pictures
        assert first.problem is not None
        assert (first.problem.status, first.problem.reason) == (503, "worker")
        assert first.problem.headers == {"Retry-After": "1"}
        place.engines.on_restart()
        assert place.metric("worker_restarts_total") == 1

    run(test, max_batch=2)


def test_an_answer_that_is_no_number_is_that_pictures_problem() -> None:
    async def test(place: Place) -> None:
        await place.occupied()
        job = place.submit(2)
        batch = await place.batch_of(job)
        place.engines.all[0].batch = None
        place.engines.on_done(batch, "done", [0.5, [(True, b'"a": 1'), (False, b"not finite")]])
        await job.done
        good, bad = batch
        assert (good.answer, good.problem, good.model_seconds) == (b'"a": 1', None, 0.5)
        assert bad.problem is not None
        assert (bad.problem.status, bad.problem.detail) == (422, f"{bad.name}: not finite")
        assert bad.problem.reason == "not finite"
        assert place.metric("batch_seconds_sum") == pytest.approx(0.1 + 0.5)

    run(test, max_batch=2)


def test_what_cannot_be_decoded_waits_for_no_batch() -> None:
    async def test(place: Place) -> None:
        await place.occupied()
        job = place.submit(source=b"no picture")
        await job.done
        assert job.pictures[0].problem is not None
        assert job.pictures[0].problem.status == 415
        assert place.metric("decode_seconds_count") == 1
        assert place.batching.waiting == 0

    run(test)


def test_a_decoder_that_fails_is_told_of_and_a_picture_that_cannot_be_read_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[tuple[Any, ...]] = []

    def fail(*_: Any) -> None:
        raise RuntimeError("/home/ann/decoder stumbles")

    async def test(place: Place) -> None:
        place.batching._log = lambda *given, **fields: lines.append((*given, fields))  # type: ignore[assignment]
        await place.submit(source=b"no picture").done
        assert lines == []
        monkeypatch.setattr("vit_hybrid.serve.batching.prepared", fail)
        await place.submit().done
        assert lines == [("decoding failed", "error", {"reason": "RuntimeError"})]

    run(test)


def test_an_idle_engine_waits_as_long_as_it_is_told_to_or_until_a_batch_is_full() -> None:
    async def test(place: Place) -> None:
        start = time.monotonic()
        for number in range(1, 4):
            place.submit()
            await place.decoded(number)
        await asyncio.sleep(0.05)
        assert place.engines.all[0].batch is None
        place.submit()
        assert len(await place.busy()) == 4
        assert time.monotonic() - start < 30
        place.engines.answer()

    run(test, max_wait_ms=60_000)

    async def short(place: Place) -> None:
        start = time.monotonic()
        place.submit(3)
        assert len(await place.busy()) == 3
        assert time.monotonic() - start >= 0.2
        place.engines.answer()
        place.submit()  # and it waits again
        await place.decoded(1)
        assert place.engines.all[0].batch is None
        await place.busy()

    run(short, max_wait_ms=200)


def test_pictures_that_come_later_make_no_engine_wait_longer() -> None:
    async def test(place: Place) -> None:
        now = time.monotonic()
        for seconds, waits in (((9.0, 0.0), False), ((0.0, 9.0), True)):
            place.model.decoded.extend(SimpleNamespace(since=now - one) for one in seconds)  # type: ignore[misc]
            assert place.batching._may_fill(place.model) is waits
            place.model.decoded.clear()

    run(test, max_wait_ms=5000)


def test_a_model_that_is_replaced_answers_who_was_there_and_then_ends() -> None:
    async def test(place: Place) -> None:
        before = await place.occupied()
        engines, model = place.made(2)
        place.batching.use(model)
        after = place.submit()
        assert (before.model, after.model) == (place.model, model)
        assert not place.engines.is_closed
        place.engines.answer()
        await before.done
        await until(lambda: place.engines.is_closed)
        await until(lambda: engines.all[0].batch is not None)
        engines.answer()
        await after.done
        assert not engines.is_closed
        last, another = place.made(3)
        place.batching.use(another)
        await until(lambda: engines.is_closed)  # for which there was nothing to do
        assert not last.is_closed

    run(test)


def test_names_of_models_have_no_folders(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert public_name(str(tmp_path / "mine")) == public_name(str(tmp_path / "link")) == "mine"
    assert public_name("google/vit-hybrid-base-bit-384") == "google/vit-hybrid-base-bit-384"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert public_name("~/link") == "mine"

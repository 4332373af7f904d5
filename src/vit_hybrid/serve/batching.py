"""From requests to batches: one bounded queue of pictures, and what becomes of each.

All of it happens on the event loop, but for decoding, which threads do. Batches form by themselves: while the engines
are busy pictures gather, and the next batch takes what waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..errors import one_line
from ..images.preparing import Preparing
from ..images.reading import MEMORY, NOT_A_PICTURE, TOO_LARGE, UNREADABLE, ImageReadError
from ..inference.streaming import prepared
from .decoding import Decoders
from .logs import Log
from .memory import Places
from .metrics import Metrics
from .problems import Problem
from .settings import Settings
from .worker import Asked, Facts

# How much the newest batch says of how fast pictures go through.
NEWEST = 0.2
# Until a batch has been measured.
FIRST_RETRY_AFTER = 1
LONGEST_RETRY_AFTER = 600
DECODER = "decoder"  # failed in a way that nobody foresaw


class Engine(Protocol):
    """What runs a batch at a time."""

    def run(self, batch: Sequence[Any], asked: Sequence[Asked]) -> None:
        """Begins with a batch; `on_done` or `on_lost` of its `Engines` gets it back."""


class Engines(Protocol):
    """What runs one model: a `Crew` of processes, or what stands in for it.

    Attributes:
        facts: What the model is; there once an engine is ready.
        places: Where pictures wait; likewise.
        free: Indices of places that nobody uses.
        ready: The engines that have loaded and warmed the model, and live.
        on_idle: Called when an engine has nothing to do.
        on_done: Called with an engine's batch, "done" or "raised", and what it said.
        on_lost: Called with the batch of an engine that died.
        on_restart: Called when one has to be replaced.
    """

    facts: Facts | None
    places: Places | None
    free: deque[int]
    on_idle: Callable[[Any], None]
    on_done: Callable[[Sequence[Any], str, Sequence[Any]], None]
    on_lost: Callable[[Sequence[Any]], None]
    on_restart: Callable[[], None]

    @property
    def ready(self) -> Sequence[Engine]: ...

    def idle(self) -> Sequence[Engine]:
        """The engines that wait for a batch."""

    async def close(self) -> None:
        """Ends them."""


@dataclass
class Model:
    """A model that answers requests.

    Attributes:
        name: What answers call it.
        crew: What runs it.
        preparing: What makes its input of pictures.
        version: Counts the models that this server has loaded.
        loaded_at: When it was ready, as `time.time`.
        max_pixels: What a picture may have; None for what `reading.pixel_limit` says.
        decoded: Pictures that wait for a batch.
        running: Pictures in batches that are not answered yet.
        in_work: Pictures that something is still to be done to.
    """

    name: str
    crew: Engines
    preparing: Preparing
    version: int
    loaded_at: float
    max_pixels: int | None
    decoded: deque[Picture] = field(default_factory=deque)
    running: int = 0
    in_work: int = 0


@dataclass(eq=False)
class Picture:
    """One of a request.

    Attributes:
        job: The request.
        name: What errors call it.
        source: Its file, as it came; None once it is decoded.
        place: Where it is in shared memory; None while it is nowhere.
        answer: The members of a JSON object.
        problem: What is the matter, where there is no answer.
        seconds: That it waited, was decoded, and was in the model.
    """

    job: Job
    name: str
    source: bytes | None
    place: int | None = None
    answer: bytes | None = None
    problem: Problem | None = None
    waits: bool = True
    since: float = 0.0
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    model_seconds: float = 0.0


@dataclass(eq=False)
class Job:
    """What one request asks.

    Attributes:
        task: What is asked of each picture.
        top_k: How many labels.
        deadline: When the answer is too late, by `time.monotonic`.
        model: What answers it.
        pictures: Its pictures.
        done: Resolved once each picture has an answer or a problem.
    """

    task: str
    top_k: int | None
    deadline: float
    model: Model
    done: asyncio.Future[None]
    pictures: list[Picture] = field(default_factory=list)
    left: int = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done.done()


class Batching:
    """The queue, and what it feeds.

    Args:
        settings: The server's.
        max_batch: Pictures of a batch.
        decoders: Threads that decode.
        metrics: What it measures.
        log: Where it says what went wrong.

    Attributes:
        model: What answers requests that come from now on.
        waiting: Pictures that wait: those that are decoded or will be, and are in no batch yet.
        capacity: How many of them there may be, with those of `room_taken`.
    """

    def __init__(
        self, settings: Settings, model: Model, max_batch: int, decoders: Decoders, metrics: Metrics, log: Log
    ) -> None:
        self._settings = settings
        self._max_batch = max_batch
        self._decoders = decoders
        self._metrics = metrics
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._filling: asyncio.TimerHandle | None = None
        self._rate: float | None = None
        self.capacity = settings.queue_for(max_batch)
        self.waiting = 0
        self.jobs: set[Job] = set()
        self.use(model)

    def use(self, model: Model) -> None:
        """Has a model answer the requests that come from now on. Those that are there are answered by the one before,
        whose workers end with the last of them."""
        before = getattr(self, "model", None)
        self.model = model
        crew = model.crew
        crew.on_idle = lambda _: self._form_batches(model)
        crew.on_done = lambda batch, kind, content: self._finish(model, batch, kind, content)
        crew.on_lost = lambda batch: self._lose(model, batch)
        crew.on_restart = self._metrics.restarts.inc
        if before is not None:
            self._retire_if_done(before)

    @property
    def room_taken(self) -> int:
        """Pictures that wait, and those that the engines have beyond a batch each: the answers of one batch are written
        while the next is computed, and who comes now waits for both."""
        model = self.model
        return self.waiting + max(0, model.running - len(model.crew.ready) * self._max_batch)

    def check_room(self, pictures: int = 1) -> None:
        """Raises `Problem` (503) where there is no room for so many pictures."""
        if self.room_taken + pictures > self.capacity:
            raise Problem(
                503,
                "too many pictures are waiting; try again later",
                "queue full",
                {"Retry-After": str(self.retry_after())},
            )

    def retry_after(self) -> int:
        """Seconds in which what waits now will be through, as fast as it has been going."""
        if self._rate is None:
            return FIRST_RETRY_AFTER
        return max(1, min(LONGEST_RETRY_AFTER, math.ceil(self.room_taken / self._rate)))

    def submit(self, sources: Sequence[bytes], task: str, top_k: int | None, deadline: float) -> Job:
        """Lets a request in.

        Raises:
            Problem: 503, there is no room for it.
        """
        self.check_room(len(sources))
        model = self.model
        job = Job(task, top_k, deadline, model, self._loop.create_future())
        now = time.monotonic()
        for position, source in enumerate(sources, start=1):
            job.pictures.append(Picture(job, f"image {position}", source, since=now))
        job.left = len(job.pictures)
        self.waiting += job.left
        model.in_work += job.left
        self.jobs.add(job)
        timer = self._loop.call_later(deadline - now, self._time_out, job)

        def over(_: object) -> None:
            timer.cancel()
            self.jobs.discard(job)
            if job.done.cancelled():  # with the task that waited for it, where that is how a client's going is told
                self._drop(job)

        job.done.add_done_callback(over)
        for picture in job.pictures:
            self._decoders.submit(partial(self._decode, model, picture), partial(self._decoded, model, picture))
        return job

    def abandon(self, job: Job, error: Exception) -> None:
        """Nobody waits for a request any more: what of it is in no batch yet is dropped."""
        if job.is_over:
            return
        job.done.set_exception(error)
        job.done.exception()  # it may be that nobody looks
        self._drop(job)

    def _drop(self, job: Job) -> None:
        for picture in job.pictures:
            if picture.waits:
                self._stop_waiting(picture)
                self._free(job.model, picture)  # at once, so that there are places for all that may wait

    def _time_out(self, job: Job) -> None:
        if not job.is_over:
            self.abandon(job, Problem(504, "there was no answer within the time that a request has", "deadline"))

    def _stop_waiting(self, picture: Picture) -> None:
        if picture.waits:
            picture.waits = False
            self.waiting -= 1

    # --- Decoding -----------------------------------------------------------------------------------------------------

    def _decode(self, model: Model, picture: Picture) -> None:
        """In a thread: a picture from its file to its place in shared memory."""
        if picture.job.is_over or picture.source is None:
            return
        start = time.monotonic()
        picture.queue_seconds = start - picture.since
        facts, places = model.crew.facts, model.crew.places
        assert facts is not None
        assert places is not None
        try:
            pixels = prepared(model.preparing, facts.spec, picture.source, picture.name)
            place = model.crew.free.popleft()
            places.pixels[place] = pixels
            picture.place = place
        except Exception as error:
            picture.problem = decoding_problem(error, picture.name)
            if picture.problem.reason == DECODER:
                self._log("decoding failed", "error", reason=type(error).__name__)
        picture.source = None
        picture.decode_seconds = time.monotonic() - start

    def _decoded(self, model: Model, picture: Picture) -> None:
        picture.since = time.monotonic()
        if picture.job.is_over:
            self._leave(model, picture)
        elif picture.problem is not None:
            self._settle(model, picture)
        else:
            self._metrics.decode.observe(picture.decode_seconds)
            model.decoded.append(picture)
            self._form_batches(model)

    # --- Batches ------------------------------------------------------------------------------------------------------

    def _form_batches(self, model: Model) -> None:
        for worker in model.crew.idle():
            if not model.decoded or self._may_fill(model):
                return
            batch: list[Picture] = []
            now = time.monotonic()
            while model.decoded and len(batch) < self._max_batch:
                picture = model.decoded.popleft()
                if not picture.job.is_over and picture.job.deadline <= now:
                    self._time_out(picture.job)
                if picture.job.is_over:
                    self._leave(model, picture)
                    continue
                self._stop_waiting(picture)
                picture.queue_seconds += now - picture.since
                self._metrics.queue_wait.observe(picture.queue_seconds)
                batch.append(picture)
            if batch:
                model.running += len(batch)
                worker.run(batch, [Asked(_placed(picture), picture.job.task, picture.job.top_k) for picture in batch])
                self._metrics.batch_pictures.observe(len(batch))

    def _may_fill(self, model: Model) -> bool:
        """Whether an idle engine waits for further pictures, and will be asked again."""
        wait = self._settings.max_wait_ms / 1000
        if not wait or len(model.decoded) >= self._max_batch:
            return False
        until = model.decoded[0].since + wait
        if until <= time.monotonic():
            return False
        if self._filling is None:
            self._filling = self._loop.call_later(until - time.monotonic(), self._fill_no_longer, model)
        return True

    def _fill_no_longer(self, model: Model) -> None:
        self._filling = None
        self._form_batches(model)

    def _finish(self, model: Model, batch: Sequence[Picture], kind: str, content: Sequence[Any]) -> None:
        """A worker has done with a batch."""
        model.running -= len(batch)
        if kind == "done":
            seconds, answers = content
            self._metrics.batches.observe(seconds)
            rate = len(batch) * len(model.crew.ready) / max(seconds, 1e-6)
            self._rate = rate if self._rate is None else (1 - NEWEST) * self._rate + NEWEST * rate
            for picture, (is_answer, text) in zip(batch, answers, strict=True):
                picture.model_seconds = seconds
                if is_answer:
                    picture.answer = text
                else:
                    picture.problem = Problem(422, f"{picture.name}: {text.decode()}", "not finite")
        else:
            self._log("batch failed", "error", reason=content[0], pictures=len(batch))
            for picture in batch:
                picture.problem = Problem(500, "the model failed on the pictures of this batch", "engine")
        self._form_batches(model)  # the engine first
        for picture in batch:
            self._settle(model, picture)

    def _lose(self, model: Model, batch: Sequence[Picture]) -> None:
        """The worker that had a batch has died."""
        model.running -= len(batch)
        for picture in batch:
            picture.problem = Problem(
                503, "the process that ran the model ended; try again", "worker", {"Retry-After": "1"}
            )
            self._settle(model, picture)

    def _settle(self, model: Model, picture: Picture) -> None:
        """A picture has its answer, or its problem."""
        self._leave(model, picture)
        job = picture.job
        job.left -= 1
        if job.left == 0 and not job.is_over:
            job.done.set_result(None)

    def _leave(self, model: Model, picture: Picture) -> None:
        """Nothing is done to a picture any more."""
        self._stop_waiting(picture)
        self._free(model, picture)
        model.in_work -= 1
        self._retire_if_done(model)

    def _free(self, model: Model, picture: Picture) -> None:
        if picture.place is not None:
            model.crew.free.append(picture.place)
            picture.place = None

    def _retire_if_done(self, model: Model) -> None:
        if model is not self.model and model.in_work == 0:
            asyncio.ensure_future(model.crew.close())  # noqa: RUF006 - it ends by itself


def public_name(model: str) -> str:
    """What answers call a model: without the folders that it lies in."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model


def decoding_problem(error: Exception, name: str) -> Problem:
    """What is answered where a picture could not be decoded or preprocessed."""
    if isinstance(error, ImageReadError):
        if error.kind == TOO_LARGE:
            return Problem(422, f"{error.name} has more pixels than this server decodes", "pixels")
        if error.kind == MEMORY:
            return Problem(503, f"there is not enough memory for {error.name}", "memory")
        if error.kind in (NOT_A_PICTURE, UNREADABLE):
            return Problem(415, str(error), "format")
        return Problem(422, str(error), "picture")
    if isinstance(error, ValueError | OSError):
        return Problem(422, f"{name}: {one_line(error)}", "picture")
    if isinstance(error, MemoryError):
        return Problem(503, f"there is not enough memory for {name}", "memory")
    return Problem(422, f"{name} cannot be decoded", DECODER)


def _placed(picture: Picture) -> int:
    assert picture.place is not None
    return picture.place


__all__ = ["Batching", "Engine", "Engines", "Job", "Model", "Picture", "decoding_problem", "public_name"]

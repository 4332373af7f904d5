"""The server's side of the processes that run the model: started, watched, replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import reason
from .channel import Unpacking, packed
from .logs import Log, without_folders
from .memory import Places, shared_memory
from .worker import Facts

# What a worker runs.
START = "from vit_hybrid.serve.worker import main; main()"
# Starts that fail one after the other, with no worker alive, until the server gives up.
MOST_FAILED_STARTS = 3
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two such starts


class CannotStart(ValueError):
    """No worker can run the model; the message is one line that says why.

    Args:
        why: The message.
        may_pass: As below.

    Attributes:
        may_pass: Whether trying again may help, as where memory is short or a process was killed; not where it is the
            model that cannot be opened.
    """

    def __init__(self, why: str, *, may_pass: bool) -> None:
        super().__init__(why)
        self.may_pass = may_pass


class Worker(asyncio.Protocol):
    """A process that runs the model, while it lives.

    Attributes:
        facts: What it said of the model; None until it is ready.
        is_idle: Whether it waits for a batch.
        batch: What it works at; None where it waits.
        computed: The batches before, whose answers it still writes, in their order.
        process: The process.
        failure: Why it could not open the model.
    """

    def __init__(self, crew: Crew, process: subprocess.Popen[bytes]) -> None:
        self._crew = crew
        self._unpacking = Unpacking()
        self._transport: asyncio.Transport | None = None
        # When the batches that it has are to be answered, in their order.
        self._stuck: deque[asyncio.TimerHandle] = deque()
        self.process = process
        self.facts: Facts | None = None
        self.failure: str | None = None
        self.batch: Sequence[Any] | None = None
        self.computed: deque[Sequence[Any]] = deque()

    @property
    def is_idle(self) -> bool:
        return self.facts is not None and self.batch is None and self._transport is not None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.send(self._crew.options)

    def send(self, *message: Any) -> None:
        """Sends it a message."""
        if self._transport is not None:
            self._transport.write(packed(message))

    def run(self, batch: Sequence[Any], asked: Sequence[Any]) -> None:
        """Has an idle worker answer a batch; `crew.on_done` or `crew.on_lost` gets it back."""
        self.batch = batch
        self.send(list(asked))
        self._stuck.append(asyncio.get_running_loop().call_later(self._crew.batch_timeout, self.process.kill))

    def data_received(self, data: bytes) -> None:
        for kind, *content in self._unpacking.feed(data):
            if kind == "ready":
                self.facts = content[0]
                self._crew.worker_is_ready(self)
            elif kind == "failed":
                self.failure = content[0]
            elif kind in ("progress", "warning"):
                self._crew.on_word(kind, content[0])
            elif kind == "computed":
                self.computed.append(self.batch or ())
                self.batch = None
                self._crew.on_idle(self._crew)
            else:
                if self.computed:
                    batch = self.computed.popleft()
                else:
                    batch, self.batch = self.batch or (), None
                self._stuck.popleft().cancel()
                self._crew.on_done(batch, kind, content)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for timer in self._stuck:
            timer.cancel()
        self.process.kill()  # nearly always dead already
        self._crew.worker_is_gone(self)

    def stop(self) -> None:
        """Lets it end."""
        if self._transport is not None:
            self._transport.abort()

    def why_it_ended(self) -> str:
        """In words, once it has."""
        code = self.process.returncode
        if self.failure is not None:
            return self.failure
        if code is not None and code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return f"ended with status {code}"


class Crew:
    """The workers that run one model, as many as there are to be, and the memory that pictures wait for them in.

    Args:
        options: What `Predictor.from_pretrained` takes, by its names.
        count: How many workers.
        waiting: Pictures that wait at once, and those that are being decoded.
        log: Where it is said what happens.
        batch_timeout: Seconds after which a worker that has not answered is killed.
        start: What a worker runs; `START` by default.

    Attributes:
        places: The pictures; there once a worker is ready.
        free: Indices of places that nobody uses.
        facts: What the model is; likewise.
        workers: Those that live.
        restarts: How often one had to be replaced.
        on_idle: Called when a worker has nothing to do.
        on_done: Called with a worker's batch, "done" or "raised", and what it said.
        on_lost: Called with the batch of a worker that died.
        on_restart: Called when one has to be replaced.
        on_word: Called with "progress" or "warning" and what a worker says while it opens the model.
        on_end: Called with a line when no worker can live.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        count: int,
        waiting: int,
        log: Log,
        batch_timeout: float,
        start: str | None = None,
    ) -> None:
        self.options = dict(options)
        self.batch_timeout = batch_timeout
        self._start = start
        self._count = count
        self._waiting = waiting
        self._log = log
        self._memory = shared_memory()
        self._failed_starts = 0
        self._is_open = self._is_retired = False
        self._why: CannotStart
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = asyncio.Event()
        self.places: Places | None = None
        self.free: deque[int] = deque()
        self.facts: Facts | None = None
        self.workers: list[Worker] = []
        self.restarts = 0
        self.on_idle: Callable[[Crew], None] = lambda crew: None
        self.on_done: Callable[[Sequence[Any], str, Sequence[Any]], None] = lambda *_: None
        self.on_lost: Callable[[Sequence[Any]], None] = lambda batch: None
        self.on_restart: Callable[[], None] = lambda: None
        self.on_word: Callable[[str, str], None] = lambda kind, text: None
        self.on_end: Callable[[str], None] = lambda line: None

    @property
    def ready(self) -> list[Worker]:
        """The workers that have loaded and warmed the model, and live."""
        return [worker for worker in self.workers if worker.facts is not None]

    async def open(self) -> None:
        """Starts the workers, and waits until each is ready: one first, which may have to convert the model.

        Raises:
            CannotStart: The model cannot be opened.
        """
        for wanted in sorted({1, self._count}):
            while len(self.workers) < wanted:
                await self._start_one()
            while len(self.ready) < wanted:
                self._changed.clear()
                await self._changed.wait()
                if self._is_retired:
                    raise CannotStart("the server is ending", may_pass=True)
                if len(self.workers) < wanted:
                    raise self._why
        self._is_open = True

    def idle(self) -> list[Worker]:
        """The workers that wait for a batch."""
        return [worker for worker in self.workers if worker.is_idle]

    async def close(self) -> None:
        """Ends the workers, and waits until none is left."""
        self._is_retired = True
        self._changed.set()
        processes = [worker.process for worker in self.workers]
        for worker in list(self.workers):
            worker.stop()
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        for process in processes:
            process.kill()  # who has nothing to put in order
            await _ended(process)
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    async def _start_one(self) -> None:
        """Raises `CannotStart` where the system has no descriptors or no memory left for a process."""
        try:
            process, ours = self._process()
        except OSError as error:
            raise CannotStart(f"no process can be started: {error.strerror or reason(error)}", may_pass=True) from error
        worker = Worker(self, process)
        self.workers.append(worker)
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)

    def _process(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """A new process, and our end of what connects it."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", self._start or START, str(theirs.fileno()), str(self._memory)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), self._memory),
                    start_new_session=True,  # Ctrl-C is for the server, which then ends them
                )
        except BaseException:
            ours.close()
            raise
        return process, ours

    def worker_is_ready(self, worker: Worker) -> None:
        """A worker has loaded and warmed the model."""
        assert worker.facts is not None
        self._failed_starts = 0
        if self.places is None:
            self.facts = worker.facts
            if worker.facts.way is not None:  # which those that follow then take
                self.options["way"] = worker.facts.way
            # Of each worker a batch that is computed, and one whose answers are written.
            count = self._waiting + 2 * self._count * worker.facts.max_batch
            self.places = Places(self._memory, count, worker.facts.shape)
            self.free.extend(range(count))
        worker.send(len(self.places.pixels), worker.facts.shape)
        self._changed.set()
        self.on_idle(self)

    def worker_is_gone(self, worker: Worker) -> None:
        """A worker's end of the socket is closed: it has died."""
        self.workers.remove(worker)
        lost = [*worker.computed, *([] if worker.batch is None else [worker.batch])]
        worker.batch = None
        worker.computed.clear()
        for batch in lost:
            self.on_lost(batch)
        if not self._is_retired:
            task = asyncio.ensure_future(self._replace(worker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _replace(self, worker: Worker) -> None:
        await _ended(worker.process)
        why = worker.why_it_ended()
        self._why = CannotStart(why, may_pass=worker.failure is None)
        was_ready = worker.facts is not None
        self._changed.set()
        if not self._is_open:  # it is `open` that says so
            return
        self._log("worker ended", "error", reason=without_folders(why), was_ready=was_ready)
        if was_ready:
            self.restarts += 1
            self.on_restart()
        elif not await self._may_start_again(why):
            return
        while True:
            try:
                await self._start_one()
                return
            except CannotStart as error:
                self._log("worker not started", "error", reason=without_folders(error))
                if not await self._may_start_again(str(error)):
                    return

    async def _may_start_again(self, why: str) -> bool:
        """After a start has failed: waits, the longer the more of them have; or gives up."""
        self._failed_starts += 1
        if self._failed_starts >= MOST_FAILED_STARTS and not self.ready:
            self.on_end(f"no worker can run the model: {why}")
            return False
        await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._failed_starts - 1)))
        return True


async def _ended(process: subprocess.Popen[bytes]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, process.wait)


__all__ = ["START", "CannotStart", "Crew", "Worker"]

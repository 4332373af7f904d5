"""Workers that go through shards: one in this process, or several in processes of their own that may die.

The driver plans and waits. A worker is made by a function that can be pickled, takes a shard, writes what comes of it
by itself and hands back a receipt; so whatever else runs such workers elsewhere needs the same three things:
`make() -> Worker`, the shards, and what to do with the facts that each worker states.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, TypeVar

from ..data.streams import Place
from ..data.streams.outlines import unit_name
from ..errors import JobStopped, one_line, shown
from ..runtimes import usable_cores as cores
from .shards import ReadingAhead, Shard, Worker

Given = TypeVar("Given")
Make = Callable[[], Worker[Given]]
Facts = Mapping[str, Any]

# So often a shard is begun before its pictures are blamed for the deaths of those who did it.
MOST_TRIES = 3
# Seconds. A process that is asked to end gets so long before it is made to.
GRACE = 5.0
# What a worker of its own process runs.
COMMAND = "from vit_hybrid.inference.workers import serve; serve()"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerLost(JobStopped):
    """Workers died at the same shard again and again; the message is one line that says where and how."""


def threads_for(workers: int) -> int:
    """How many threads each of so many workers computes with, so that together they have all cores."""
    return max(1, cores() // max(1, workers))


def in_this_process(
    make: Make[Given], shards: Iterator[Shard], stated: Callable[[Facts], object]
) -> Generator[Given, None, None]:
    """Receipts of shards that one worker here does, each as soon as it is done.

    Args:
        make: Makes the worker.
        shards: Asked for the next one when the last is done, or read by a worker that reads ahead.
        stated: Called with what the worker states before a shard is asked for; may raise.
    """
    worker = make()
    stated(worker.facts())
    yield from worker.through(shards) if isinstance(worker, ReadingAhead) else map(worker.work, shards)


def in_processes(
    make: Make[Given], shards: Iterator[Shard], stated: Callable[[Facts], object], workers: int, threads: int
) -> Generator[Given, None, None]:
    """Receipts of shards that several processes do, each as soon as it is done, in whatever order.

    A process that dies is replaced, and its shard is done again.

    Args:
        make: Makes a worker; pickled.
        shards: Asked for the next one when a worker is about to need it.
        stated: Called with what each worker states before it does anything, and before a shard is asked for; may raise.
        workers: How many processes.
        threads: That each computes with.

    Raises:
        WorkerLost: A shard was begun three times, and whoever did it died; or a worker died before it could begin.
        Exception: What a worker raised.
    """
    said: queue.SimpleQueue[tuple[_Process, str, Any]] = queue.SimpleQueue()
    pickled, processes, idle = pickle.dumps(make), set[_Process](), deque[_Process]()
    waiting, tries, is_over = deque[Shard](), Counter[int](), False

    def fill() -> None:
        nonlocal is_over
        while not is_over and len(waiting) < workers:
            shard = next(shards, None)
            if shard is None:
                is_over = True
            else:
                waiting.append(shard)

    def start() -> None:
        processes.add(_Process(pickled, threads, said))

    try:
        start()  # one, which may have a model to convert that the others then find converted
        is_first = True
        while processes:
            process, kind, content = said.get()
            if process not in processes:  # it was ended here
                continue
            if kind == "died":
                processes.discard(process)
                process.end(at_once=True)
                lost = process.shard
                if not process.is_ready:
                    raise WorkerLost(f"a worker cannot run: {content}")
                if lost is not None:
                    tries[lost.number] += 1
                    if tries[lost.number] >= MOST_TRIES:
                        raise begun_too_often(lost, content)
                    waiting.appendleft(lost)
                    start()
                continue
            if kind == "raised":
                raise content
            process.shard = None
            idle.append(process)
            if kind == "ready":
                process.is_ready = True
                stated(content)
                if is_first:
                    is_first = False
                    fill()
                    for _ in range(len(waiting) - 1):
                        start()
            while idle and waiting:
                idle.popleft().give(waiting.popleft())
            if kind == "done":
                yield content
            fill()
            while idle and waiting:
                idle.popleft().give(waiting.popleft())
            if len(processes) < workers and waiting and not is_first:
                start()
            if is_over and not waiting:
                while idle:
                    ended = idle.popleft()
                    processes.discard(ended)
                    ended.end()
    finally:
        for process in processes:
            process.end(at_once=True)


def begun_too_often(shard: Shard, how: str) -> WorkerLost:
    """What to raise of a shard that was begun `MOST_TRIES` times, each time to this end."""
    return WorkerLost(
        f"the {shard.count} pictures from {_said(shard.first)} to {_said(shard.last)} were begun {MOST_TRIES} times, "
        f"and each time {how}; what is done is kept. Take out the picture that does it, or give more memory, and go on."
    )


def _said(place: Place) -> str:
    return f"{shown(unit_name(place.unit).path)} ({place.row + 1:,})"


class _Process:
    """A worker in a process of its own, in whose name a thread here waits for what it says."""

    def __init__(self, make: bytes, threads: int, said: queue.SimpleQueue[tuple[_Process, str, Any]]) -> None:
        self.shard: Shard | None = None
        self.is_ready = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed when it has ended)
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={
                **os.environ,
                **dict.fromkeys(THREAD_VARIABLES, str(threads)),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            start_new_session=True,  # so that Ctrl-C reaches us alone
        )
        self._said = said
        self._send(make)
        threading.Thread(target=self._listen, daemon=True, name="worker").start()

    def give(self, shard: Shard) -> None:
        """Has it do a shard."""
        self.shard = shard
        self._send(pickle.dumps(shard))

    def end(self, at_once: bool = False) -> None:
        """Ends it; one that is idle ends by itself when nothing more can come."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        if not at_once:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        if self._process.poll() is None:
            with suppress(OSError):  # it has just ended
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _send(self, content: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it has died, which the thread says
            _write(self._process.stdin, content)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout, self._errors:
            while (content := _read(stdout)) is not None:
                kind, value = pickle.loads(content)
                self._said.put((self, kind, value))
            status = self._process.wait()
            self._said.put((self, "died", self._how_it_ended(status)))

    def _how_it_ended(self, status: int) -> str:
        how = f"a worker ended with status {status}"
        if status < 0:
            with suppress(ValueError):
                how = f"a worker was ended by {signal.Signals(-status).name}"
            if status == -signal.SIGKILL:
                how += ", as is done when memory runs out"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").splitlines()
        last = next((one_line(line) for line in reversed(said) if line.strip()), "")
        return f"{how} ({last})" if last else how


def serve() -> None:
    """What a worker's process does: makes its worker, and does the shards that come through standard input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def listen() -> None:
        while (content := _read(sys.stdin.buffer)) is not None:
            given.put(content)
        given.put(None)
        if is_busy:  # whoever wanted the shard is gone
            os._exit(1)

    is_busy = True
    threading.Thread(target=listen, daemon=True).start()
    try:
        worker = pickle.loads(given.get() or b"")()
        _write(answers, pickle.dumps(("ready", dict(worker.facts()))))
        while True:
            is_busy = False
            content = given.get()
            if content is None:
                return
            is_busy = True
            _write(answers, pickle.dumps(("done", worker.work(pickle.loads(content)))))
    except Exception as error:
        _write(answers, raised(error))


def raised(error: Exception) -> bytes:
    """An error as it goes to the driver: itself where it can be pickled there and back, else what it says."""
    try:
        content = pickle.dumps(("raised", error))
        pickle.loads(content)
    except Exception:
        return pickle.dumps(("raised", JobStopped(one_line(error))))
    return content


def _write(stream: IO[bytes], content: bytes) -> None:
    stream.write(len(content).to_bytes(8, "big") + content)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    """The next message, None where there will be none."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    length = int.from_bytes(head, "big")
    content = stream.read(length)
    return content if len(content) == length else None


__all__ = [
    *("MOST_TRIES", "THREAD_VARIABLES", "Facts", "Make", "WorkerLost", "begun_too_often", "in_processes"),
    *("in_this_process", "raised", "serve", "threads_for"),
]

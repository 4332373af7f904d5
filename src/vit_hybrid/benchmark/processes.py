"""Processes that answer lines of JSON, and that are gone in the end whatever becomes of them or of us."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

# Seconds. A process that is asked to end gets so long before it is made to.
GRACE = 2.0
# Variables that name the folders of what is converted and compiled: `bundles.cache`'s, and torch.compile's.
CACHES = ("VIT_HYBRID_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


# What a process does that keeps a core busy, as others on a shared machine do, until nobody holds its standard input.
BUSY = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
number = 1
while True:
    number = number * 3 % 1000003
"""


class WorkerFailed(Exception):
    """A process that cannot go on; the message is one line."""


class TurnFailed(Exception):
    """A request that a process refused, ready for the next one; the message is one line."""


class Worker:
    """A process of its own that speaks the protocol of `peer`.

    Args:
        command: What to start.
        environment: All of its environment's variables.

    Attributes:
        ready: What it said of itself once it was ready.
        start_seconds: From its start until then.

    Raises:
        WorkerFailed: If it cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.ready: dict[str, Any] = {}
        self.start_seconds = 0.0
        self._began = time.monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        try:
            # In a session of its own, Ctrl-C reaches us alone, and what it starts itself can be ended with it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise WorkerFailed(f"{command[0]} cannot be started: {error.strerror}") from error
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=kind is not None)

    def start(self, task: Mapping[str, Any], limit: float) -> None:
        """Hands over the task and waits until the process is ready.

        Raises:
            WorkerFailed: If it refuses the task, ends, or is not ready within `limit` seconds. It is ended then.
        """
        try:
            answer = self._exchange(task, limit)
        except BaseException:  # also where nobody waits for it any more
            self.close(at_once=True)
            raise
        self.start_seconds = time.monotonic() - self._began
        if "ready" not in answer:
            self.close()
            raise WorkerFailed(str(answer.get("error", "it gave no answer")))
        self.ready = answer["ready"]

    def ask(self, request: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            TurnFailed: If it refuses this request.
            WorkerFailed: If it ends, or gives no answer within `limit` seconds. It is ended then.
        """
        try:
            answer = self._exchange(request, limit)
        except WorkerFailed:
            self.close(at_once=True)
            raise
        if "error" in answer:
            raise TurnFailed(str(answer["error"]))
        return answer

    def close(self, at_once: bool = False) -> None:
        """Ends the process and all that it started; calling it again does nothing."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if not at_once:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        self._kill()
        self._process.wait()
        self._reader.join(GRACE)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()
        self._errors.close()

    def _exchange(self, message: Mapping[str, Any], limit: float) -> dict[str, Any]:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        except (OSError, ValueError):  # it has ended, or was closed before
            raise WorkerFailed(self._end()) from None
        deadline = time.monotonic() + limit
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise WorkerFailed(f"it gave no answer within {limit:g} seconds") from None
            if line is None:
                raise WorkerFailed(self._end())
            with suppress(ValueError):  # what something printed before the protocol began
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _end(self) -> str:
        """How the process ended, with the last line it wrote to standard error."""
        try:
            status = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return "its process closed its output"
        how = f"its process ended with status {status}"
        if status < 0:
            with suppress(ValueError):
                how = f"its process was ended by {signal.Signals(-status).name}"
            if status == -signal.SIGKILL:
                how += ", as is done when memory runs out"
        if self._errors.closed:
            return how
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").split("\n")
        last = next((" ".join(line.split()) for line in reversed(said) if line.strip()), "")
        return f"{how}: {last}" if last else how

    def _kill(self) -> None:
        with suppress(OSError):  # gone already, as it should be
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """Keeps so many cores busy, a process each, until the block ends; their numbers.

    They end with this process, however that ends.
    """
    with ExitStack() as ending:
        numbers = []
        for _ in range(count):
            # In one session: Linux may divide cores by sessions, and two of their own would leave a third of two cores.
            process = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE)
            assert process.stdin is not None
            ending.callback(process.wait)
            ending.callback(process.stdin.close)
            ending.callback(process.kill)
            numbers.append(process.pid)
        yield numbers


def environment(threads: int, foreign: bool, cache: Path | None = None) -> dict[str, str]:
    """The environment of a worker: so many threads, and no network, which it has no need of.

    Args:
        threads: How many threads compute.
        foreign: Whether it is another environment's Python, to which this one's settings mean nothing.
        cache: Where to keep what is converted and compiled, in place of the user's folders.
    """
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if not (foreign and name in ours)}
    caches = {} if cache is None else {name: str(cache / name.lower()) for name in CACHES}
    return {
        **kept,
        **caches,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


__all__ = ["TurnFailed", "Worker", "WorkerFailed", "busy", "environment"]

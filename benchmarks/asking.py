"""Requests to a server at times that do not wait for its answers: what `serving.py` measures with."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CONNECTIONS = 64
PATIENCE = 60.0  # seconds that an answer is waited for


def request_of(body: bytes, path: str = "/v1/classify") -> bytes:
    """The bytes of a request with a picture."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One of the client's: a request at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.answer: asyncio.Future[int] | None = None
        self.is_closing = False
        self._received = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self.answer is None:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(self._received) >= end + 4 + length:
            status, self.is_closing = int(head[9:12]), b"connection: close" in head
            self._received.clear()
            answer, self.answer = self.answer, None
            if not answer.done():
                answer.set_result(status)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionResetError())


@dataclass
class Asked:
    """What came of a stretch of asking.

    Attributes:
        seconds: How long it was.
        client: Processor time of the client, in seconds.
        statuses: How many answers of each; "lost" where a connection ended without one, "left" where the client left.
        latencies: Seconds from when a request was due to its answer, of those answered with 200.
        waits: Likewise, from when it was sent.
        late: How many were due before a connection was free.
    """

    seconds: float = 0.0
    client: float = 0.0
    statuses: Counter[Any] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    late: int = 0
    waits: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers with 200, a second."""
        return self.statuses[200] / self.seconds

    def corrected(self, cores: int) -> float:
        """The rate, had the client taken no processor time."""
        return self.rate * cores / max(0.1, cores - self.client / self.seconds)

    def percentile(self, share: float) -> float:
        """The latency that this share does not exceed."""
        return percentile(self.latencies, share)


def percentile(values: Sequence[float], share: float) -> float:
    """What this share of values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


async def ask(
    port: int,
    request: bytes,
    rate: float,
    seconds: float,
    connections: int = CONNECTIONS,
    leaving: float = 0.0,
    seed: int = 0,
) -> Asked:
    """Asks at random times, so often a second, whatever becomes of it.

    Args:
        port: The server's, on the loopback.
        request: What is sent.
        rate: Requests a second of those that wait for their answers.
        seconds: For how long.
        connections: How many requests may be on their way.
        leaving: The share of further clients among all, which go away before their answer, on connections of their own.
        seed: Of the times.
    """
    loop = asyncio.get_running_loop()
    asked = Asked()
    free: deque[Connection] = deque()
    freed = asyncio.Condition()
    open_ = 0
    chance = random.Random(seed)

    async def connected() -> Connection:
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        return connection

    async def one(due: float) -> None:
        nonlocal open_
        connection = None
        async with freed:
            if not free and open_ >= connections:
                asked.late += 1
                await freed.wait_for(lambda: free or open_ < connections)
            if free:
                connection = free.popleft()
            else:
                open_ += 1
        try:
            if connection is None or connection.transport is None:
                connection = await connected()
            connection.answer = loop.create_future()
            sent = time.perf_counter()
            connection.transport.write(request)
            status = await asyncio.wait_for(connection.answer, PATIENCE)
            asked.statuses[status] += 1
            if status == 200:
                now = time.perf_counter()
                asked.latencies.append(now - due)
                asked.waits.append(now - sent)
        except TimeoutError:
            asked.statuses["hangs"] += 1
            connection = None
        except OSError:
            asked.statuses["lost"] += 1
            connection = None
        async with freed:
            if connection is None or connection.is_closing:
                open_ -= 1
            else:
                free.append(connection)
            freed.notify()

    async def leaver() -> None:
        try:
            connection = await connected()
            connection.transport.write(request)
            await asyncio.sleep(chance.uniform(0, 0.05))
            connection.transport.abort()
            asked.statuses["left"] += 1
        except OSError:
            asked.statuses["lost"] += 1

    tasks: set[asyncio.Task[None]] = set()

    async def arrivals(every: float, what: Any) -> None:
        due = time.perf_counter()
        while due < end:
            due += chance.expovariate(every)
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            task = asyncio.ensure_future(what(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    start, processor = time.perf_counter(), time.process_time()
    end = start + seconds
    streams = [arrivals(rate, one)]
    if leaving:
        streams.append(arrivals(rate * leaving / (1 - leaving), lambda due: leaver()))
    await asyncio.gather(*streams)
    asked.seconds = time.perf_counter() - start
    asked.client = time.process_time() - processor
    # What is still due counts for nothing but how it ends.
    counted = asked.statuses[200]
    await asyncio.gather(*tasks)
    asked.statuses[200], asked.statuses["after the end"] = counted, asked.statuses[200] - counted
    for connection in free:
        if connection.transport is not None:
            connection.transport.abort()
    return asked

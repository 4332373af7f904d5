"""Connections as they come over the wire, in this process: what each part may take, and who hears of its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from serving import PATIENCE
from waiting import until

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

from uvicorn.server import ServerState

from vit_hybrid.serve import connection
from vit_hybrid.serve.connection import CONNECTION, HEADERS_AT, Connection
from vit_hybrid.serve.metrics import Metrics
from vit_hybrid.serve.server import Server
from vit_hybrid.serve.settings import Settings

LONG = 1000.0
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
BEGUN = b"GET / HTTP/1.1\r\nHo"  # of the next one

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Place:
    """Connections of the server on the loopback, before an application of the test's.

    Attributes:
        state: What uvicorn knows of them.
        metrics: What is counted.
    """

    def __init__(self, app: Any, **settings: Any) -> None:
        times = {"header_timeout": LONG, "body_timeout": LONG, "idle_timeout": LONG}
        self.metrics, self.state = Metrics(), ServerState()
        known: Any = SimpleNamespace(
            settings=Settings(**{**times, **settings}), metrics=self.metrics, _gate=app, _state=self.state
        )
        self._made = Server._connections(known)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.get_running_loop().create_server(self._made, "127.0.0.1", 0)
        self._address = server.sockets[0].getsockname()
        try:
            yield
        finally:
            server.close()
            for one in list(self.state.connections):
                one.transport.abort()  # type: ignore[union-attr]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def only(self) -> Connection:
        """The server's end of the one connection."""
        await until(lambda: self.state.connections)
        [one] = self.state.connections
        assert isinstance(one, Connection)
        return one

    async def none_left(self) -> None:
        await until(lambda: not self.state.connections)

    def shed(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value("vit_hybrid_shed_total", {"reason": reason}) or 0.0


async def answer(client: Client) -> tuple[int, dict[str, str]]:
    """The status and the headers of what comes next; its body is read."""
    head = await client[0].readuntil(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")[:-2]
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    await client[0].readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def run(test: Callable[[Place], Coroutine[Any, Any, None]], app: Any = ok, **settings: Any) -> None:
    async def main() -> None:
        place = Place(app, **settings)
        async with asyncio.timeout(PATIENCE), place.listening():
            await test(place)

    asyncio.run(main())


def test_the_headers_of_each_request_have_their_time() -> None:
    async def test(place: Place) -> None:
        async with place.client() as client:
            client[1].write(REQUEST)
            assert (await answer(client))[0] == 200
            await asyncio.sleep(0.8)  # between two requests there may be more
            client[1].write(BEGUN)
            assert (await answer(client))[0] == 408
            assert await client[0].read() == b""
        assert place.shed("slow headers") == 1

    run(test, header_timeout=0.5)


def test_headers_that_come_before_the_answer_to_the_request_before_have_it_too() -> None:
    may_answer = asyncio.Event()

    async def later(scope: Any, receive: Any, send: Any) -> None:
        await may_answer.wait()
        await ok(scope, receive, send)

    async def test(place: Place) -> None:
        async with place.client() as client:
            client[1].write(REQUEST + BEGUN)
            await asyncio.sleep(0.8)
            may_answer.set()
            assert (await answer(client))[0] == 200  # which is not disturbed by them
            assert (await answer(client))[0] == 408

    run(test, later, header_timeout=0.5)


def test_a_body_that_begins_before_the_answer_to_the_request_before_may_come_to_its_end() -> None:
    may_answer, lengths = asyncio.Event(), list[int]()

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            await may_answer.wait()
        else:
            lengths.append(0)
            while (message := await receive())["type"] == "http.request":
                lengths[-1] += len(message["body"])
                if not message["more_body"]:
                    break
        await ok(scope, receive, send)

    async def test(place: Place) -> None:
        async with place.client() as client:
            for begins in (0, 5):  # in the same piece as its headers, or later
                may_answer.clear()
                client[1].write(REQUEST + REQUEST.replace(b"GET", b"POST")[:-2] + b"Content-Length: 9\r\n\r\n")
                client[1].write(bytes(begins))
                one = await place.only()
                await until(lambda one=one: one.pipeline)
                may_answer.set()
                assert (await answer(client))[0] == 200
                client[1].write(bytes(9 - begins))
                assert (await answer(client))[0] == 200
        assert lengths == [9, 9]

    run(test, counted)


def test_an_answer_that_is_not_taken_has_the_time_of_a_body() -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (64 << 20))]})
        for number in range(64):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": number < 63})

    async def test(place: Place) -> None:
        async with place.client() as client:
            client[1].write(REQUEST)
            await place.only()
            await place.none_left()  # the client has read nothing, and is still there

    run(test, large, body_timeout=0.2)


def test_who_takes_an_answer_after_a_pause_is_kept_for_the_next_request() -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/large":
            await ok(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (8 << 20))]})
        for number in range(8):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": number < 7})

    async def test(place: Place) -> None:
        async with place.client() as client:
            client[1].write(REQUEST.replace(b" / ", b" /large "))
            one = await place.only()
            await until(lambda: one.flow.write_paused)
            assert (await answer(client))[0] == 200
            await asyncio.sleep(1.0)  # more than an answer may take
            client[1].write(REQUEST)
            assert (await answer(client))[0] == 200

    run(test, large, body_timeout=0.8)


def test_who_ends_a_connection_lets_it_answer_what_it_has() -> None:
    async def test(place: Place) -> None:
        async with place.client() as client:
            client[1].write(REQUEST)
            await answer(client)
            one = await place.only()
            client[1].write(BEGUN)
            await until(lambda: one._in_headers)
            one.shutdown()  # in the midst of the headers
            client[1].write(REQUEST[len(BEGUN) :])
            assert (await answer(client))[0] == 200
            one.shutdown()  # between two requests
            assert await client[0].read() == b""
        await place.none_left()

        may_answer.clear()
        async with place.client() as client:
            client[1].write(REQUEST)
            one = await place.only()
            await until(lambda: one.cycle is not None)
            one.shutdown()  # before the answer
            may_answer.set()
            status, headers = await answer(client)
            assert (status, headers["connection"]) == (200, "close")
            assert await client[0].read() == b""

    may_answer = asyncio.Event()
    may_answer.set()

    async def when_it_may(scope: Any, receive: Any, send: Any) -> None:
        await may_answer.wait()
        await ok(scope, receive, send)

    run(test, when_it_may)


@pytest.mark.parametrize("asks", [True, False])
def test_a_connection_that_was_taken_last_has_a_moment_for_its_request(
    monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    async def test(place: Place) -> None:
        async with place.client() as client:
            (await place.only()).shutdown()
            if asks:
                client[1].write(REQUEST)
                assert (await answer(client))[0] == 200
            else:
                assert await client[0].read() == b""

    monkeypatch.setattr(connection, "LAST_REQUEST_SECONDS", LONG if asks else 0.1)
    run(test)


def test_more_connections_than_there_may_be_are_told_to_come_again_and_counted() -> None:
    async def test(place: Place) -> None:
        async with place.client() as first, place.client() as second:
            for client in (first, second):
                client[1].write(REQUEST)
                assert (await answer(client))[0] == 200
            async with place.client() as third:
                status, headers = await answer(third)
                assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            assert place.shed("connections") == 1
            await until(lambda: len(place.state.connections) == 2)
        await place.none_left()
        async with place.client() as client:
            client[1].write(REQUEST)
            assert (await answer(client))[0] == 200
            client[1].write(b"nonsense\r\n\r\n")
            assert (await answer(client))[0] == 400
        assert (place.shed("connections"), place.shed("not http")) == (1, 1)
        await place.none_left()
        async with place.client() as client:
            client[1].write(REQUEST + b"nonsense\r\n\r\n")
            assert (await answer(client))[0] == 200
            assert await client[0].read() == b""  # of what is behind it nobody can say where it ends

    run(test, max_connections=2)


@pytest.mark.parametrize(("seconds", "bytes_sent"), [(LONG, 300_000), (0.1, 0)])
def test_who_was_refused_is_listened_to_for_so_long_and_for_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch, seconds: float, bytes_sent: int
) -> None:
    async def test(place: Place) -> None:
        async with place.client() as client:
            client[1].write(b"nonsense\r\n\r\n")
            assert (await answer(client))[0] == 400
            if bytes_sent:
                assert await client[0].read() == b""  # that there is no more is told at once
                client[1].write(bytes(1000))
                await asyncio.sleep(0.05)
                assert place.state.connections  # what comes is dropped, and the answer is not lost
                client[1].write(bytes(bytes_sent))
            await place.none_left()

    monkeypatch.setattr(connection, "LINGER_SECONDS", seconds)
    monkeypatch.setattr(connection, "LINGER_BYTES", 100_000)
    run(test)


def test_headers_have_a_length_however_many_pieces_they_come_in() -> None:
    async def test(place: Place) -> None:
        async with place.client() as client:
            client[1].write(REQUEST[:-2])
            for number in range(10):
                client[1].write(b"X-%d: %b\r\n" % (number, b"y" * 7000))
                await client[1].drain()
                await asyncio.sleep(0.01)
            assert (await answer(client))[0] == 431

    run(test)


def test_what_comes_instead_of_a_body_does_not_become_a_second_answer() -> None:
    told: list[str] = []

    async def begun(scope: Any, receive: Any, send: Any) -> None:
        scope[CONNECTION].on_gone = lambda: told.append("gone")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        told.append("disconnected")

    async def test(place: Place) -> None:
        async with place.client() as client:
            client[1].write(REQUEST.replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n")
            assert (await client[0].readuntil(b"half")).startswith(b"HTTP/1.1 200")
            client[1].write(b"no chunk\r\n")
            assert await client[0].read() == b""
            await until(lambda: len(told) == 2)
            assert told == ["gone", "disconnected"]
            assert place.state.connections  # at once, while the client is still listened to

    run(test, begun)


def test_a_client_that_goes_during_its_request_is_told_of_and_one_that_goes_after_it_is_not() -> None:
    told, is_over = list[str](), asyncio.Event()

    async def asking(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        assert 0 <= time.monotonic() - scope[HEADERS_AT] < PATIENCE
        scope[CONNECTION].on_gone = lambda: told.append(path)
        if path == "/waits":
            await is_over.wait()
        await ok(scope, receive, send)

    async def test(place: Place) -> None:
        async with place.client() as client:
            client[1].write(REQUEST)
            await answer(client)
        await place.none_left()
        async with place.client() as client:
            client[1].write(REQUEST.replace(b" / ", b" /waits "))
            one = await place.only()
            await until(lambda: one.on_gone is not None)
        await place.none_left()
        assert told == ["/waits"]
        is_over.set()

    run(test, asking)

"""What every request passes, asked as an ASGI application: sizes, keys, what is counted, and what the log says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import PATIENCE

pytest.importorskip("prometheus_client", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from vit_hybrid.serve.connection import CONNECTION, HEADERS_AT
from vit_hybrid.serve.gate import EXCHANGE, SHED, Exchange, Gate
from vit_hybrid.serve.keys import Keys
from vit_hybrid.serve.metrics import Metrics
from vit_hybrid.serve.problems import Disconnected, Problem
from vit_hybrid.serve.settings import MEGABYTE, Settings

KEY = "a-key-of-somebody"
Behavior = Callable[["Passed", Exchange, Any, Any], Awaitable[None]]


class Passed:
    """A gate, what stands behind it, and what came of requests."""

    def __init__(self, behavior: Behavior, keys: Keys | None = None, **settings: Any) -> None:
        self.settings, self.metrics = Settings(**settings), Metrics()
        self.lines: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.asked = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.asked += 1
            exchange = scope[EXCHANGE]
            exchange.route = "/v1/classify"
            await behavior(self, exchange, receive, send)

        def log(event: str, level: str = "info", **fields: Any) -> None:
            self.lines.append({"event": event, "level": level, **fields})

        self.gate = Gate(app, self.settings, keys, self.metrics, log)  # type: ignore[arg-type]

    def ask(self, *parts: bytes, path: str = "/v1/classify", method: str = "POST", **headers: str) -> int | None:
        """The status of the answer to a request whose body comes in these parts; None without one."""
        return asyncio.run(asyncio.wait_for(self.asking(parts, path, method, headers), PATIENCE))

    async def asking(self, parts: Sequence[bytes], path: str, method: str, headers: dict[str, str]) -> int | None:
        self.sent = []
        waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        if waiting:
            waiting[-1]["more_body"] = False

        async def receive() -> Any:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(message)

        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        if parts and "content_length" not in headers:
            given.append((b"transfer-encoding", b"chunked"))
        await self.gate({"type": "http", "method": method, "path": path, "headers": given}, receive, send)
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"vit_hybrid_{name}", labels) or 0.0


async def answer(send: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def read(passed: Passed, exchange: Exchange, receive: Any, send: Any) -> None:
    body = await passed.gate.read(exchange, receive)
    exchange.noted["length"] = len(body)
    await answer(send)


async def ignore(passed: Passed, exchange: Exchange, receive: Any, send: Any) -> None:
    await answer(send)


def raising(error: Exception) -> Behavior:
    async def behavior(passed: Passed, exchange: Exchange, receive: Any, send: Any) -> None:
        raise error

    return behavior


@pytest.mark.parametrize(
    ("parts", "headers", "status"),
    [
        ([MEGABYTE], {}, 200),
        ([MEGABYTE // 2, MEGABYTE // 2], {}, 200),
        ([MEGABYTE + 1], {}, 413),
        ([MEGABYTE, 1], {}, 413),
        ([MEGABYTE], {"content_length": str(MEGABYTE)}, 200),
        ([1], {"content_length": str(MEGABYTE + 1)}, 413),
        ([1], {"content_length": "9" * 400}, 413),
    ],
)
def test_a_body_may_be_as_large_as_the_limit(parts: list[int], headers: dict[str, str], status: int) -> None:
    passed = Passed(read, max_body_mb=1)
    assert passed.ask(*(b"x" * part for part in parts), **headers) == status
    assert passed.gate.buffered == passed.gate.open == 0
    if status == 200:
        assert passed.lines[0]["length"] == passed.lines[0]["bytes"] == sum(parts)
    else:
        assert passed.lines[0]["reason"] == "body"
        assert json.loads(passed.sent[1]["body"])["detail"].startswith("a body may have 1 MB")
    assert passed.asked == ("content_length" not in headers or status == 200)  # else it is not even asked for


def test_what_is_no_request_passes_as_it_is() -> None:
    given, scope = (object(), object()), {"type": "lifespan"}
    asked: list[Any] = []

    async def app(*all_: Any) -> None:
        asked.append(all_)

    nothing: Any = None
    asyncio.run(Gate(app, Settings(), nothing, Metrics(), nothing)(scope, *given))  # type: ignore[arg-type]
    assert asked == [({"type": "lifespan"}, *given)]


def test_a_request_begins_with_its_last_header() -> None:
    assert Exchange("1", {HEADERS_AT: 5.0}, 9.0).headers_at == 5
    assert Exchange("1", {}, 9.0).headers_at == 9


@pytest.mark.parametrize(
    ("is_read", "is_its_own", "more", "is_here"),
    [(True, False, True, True), (False, True, False, True), (False, True, True, False), (False, False, False, False)],
)
def test_a_body_is_here_where_it_was_read_or_its_connection_has_all_of_it(
    is_read: bool, is_its_own: bool, more: bool, is_here: bool
) -> None:
    scope: dict[str, Any] = {}
    scope[CONNECTION] = SimpleNamespace(cycle=SimpleNamespace(scope=scope if is_its_own else {}, more_body=more))
    exchange = Exchange("1", scope, 0.0)
    exchange.is_read = is_read
    assert exchange.is_here is is_here


def test_a_line_says_how_many_milliseconds_it_took() -> None:
    async def slow(passed: Passed, exchange: Exchange, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await answer(send)

    passed, before = Passed(slow), time.monotonic()
    assert passed.ask(b"x") == 200
    assert 50 <= passed.lines[0]["ms"] <= 1000 * (time.monotonic() - before)
    assert passed.metric("request_seconds_sum", route="/v1/classify", status="200") >= 0.05


def test_all_bodies_together_have_a_limit_and_leave_it_when_they_are_answered() -> None:
    passed = Passed(read, max_body_mb=1, max_buffered_mb=1.5)

    for _ in range(3):
        assert passed.ask(b"x" * MEGABYTE) == 200
    held, may_answer = asyncio.Event(), asyncio.Event()

    async def hold(passed: Passed, exchange: Exchange, receive: Any, send: Any) -> None:
        await passed.gate.read(exchange, receive)
        held.set()
        await may_answer.wait()
        await answer(send)

    busy = Passed(hold, max_body_mb=1, max_buffered_mb=1.5)

    async def two() -> tuple[int | None, int | None]:
        part = [b"x" * (MEGABYTE - 1)]
        first = asyncio.ensure_future(busy.asking(part, "/v1/classify", "POST", {}))
        await held.wait()
        assert busy.gate.open == 1
        second = await busy.asking(part, "/v1/classify", "POST", {})
        assert (second, busy.headers["retry-after"]) == (503, "1")
        assert busy.gate.buffered == MEGABYTE - 1
        may_answer.set()
        await first
        return second, await busy.asking(part, "/v1/classify", "POST", {})

    assert asyncio.run(asyncio.wait_for(two(), PATIENCE)) == (503, 200)
    assert busy.metric("shed_total", reason="memory") == 1


def test_what_is_read_and_not_held_is_none_of_the_bodies_that_are() -> None:
    async def pass_over(passed: Passed, exchange: Exchange, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await answer(send)

    passed = Passed(pass_over)
    assert passed.ask(b"abc", b"de") == 200
    assert passed.lines[0]["bytes"] == 5
    assert passed.gate.buffered == 0


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def never(passed: Passed, exchange: Exchange, receive: Any, send: Any) -> None:
        await passed.gate.read(exchange, lambda: asyncio.sleep(60))

    passed = Passed(never, body_timeout=0.05)
    assert passed.ask(b"x") == 408
    assert passed.lines[0]["reason"] == "slow body"
    assert (
        0.05
        <= passed.metric("refusal_seconds_sum")
        <= passed.metric("request_seconds_sum", route="/v1/classify", status="408")
    )


@pytest.mark.parametrize("status", [408, 413, 415, 422, 429, 503, 504])
def test_what_is_shed_is_counted_by_its_reason_and_timed(status: int) -> None:
    passed = Passed(raising(Problem(status, "no", "because", {"Retry-After": "7"})))
    assert passed.ask(b"x") == status
    is_shed = status in (408, 429, 503, 504)
    assert (status in SHED) == is_shed
    assert passed.metric("shed_total", reason="because") == passed.metric("refusal_seconds_count") == is_shed
    assert passed.metric("request_seconds_count", route="/v1/classify", status=str(status)) == 1
    assert passed.headers["retry-after"] == "7"
    assert passed.headers["content-type"] == "application/problem+json"
    assert (passed.lines[0]["reason"], passed.lines[0]["status"]) == ("because", status)
    assert passed.lines[0]["level"] == "info"  # the server does what it is to do


def test_a_fault_is_told_as_one_and_nothing_of_it_comes_out() -> None:
    passed = Passed(raising(RuntimeError("/home/ann/secret")))
    assert passed.ask(b"x") == 500
    assert b"secret" not in passed.sent[1]["body"]
    [line] = passed.lines
    assert (line["level"], line["status"], line["fault"]) == ("error", 500, "RuntimeError")
    assert "secret" not in str(line)
    assert passed.gate.open == 0

    async def halfway(passed: Passed, exchange: Exchange, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    passed = Passed(halfway)
    assert passed.ask(b"x") == 200
    assert len(passed.sent) == 1  # a second answer would be part of the first
    assert (passed.lines[0]["status"], passed.lines[0]["fault"]) == (200, "RuntimeError")


def test_who_goes_away_is_counted_and_not_answered() -> None:
    for behavior in (raising(Disconnected()), read):
        passed = Passed(behavior)
        assert passed.ask(content_length="5") is None  # of which nothing comes
        assert passed.metric("cancelled_total") == 1
        assert passed.metric("request_seconds_count", route="/v1/classify", status="499") == 1
        assert passed.lines[0]["reason"] == "cancelled"


def test_who_has_no_key_does_not_come_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ann {KEY}\n")
    for headers, status in (
        ({}, 401),
        ({"authorization": f"Bearer {KEY}x"}, 401),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"x_api_key": ""}, 401),
        ({"authorization": f"bearer {KEY} "}, 200),
        ({"x_api_key": KEY}, 200),
    ):
        passed = Passed(ignore, Keys(str(file)))
        assert passed.ask(b"x", **headers) == status, headers
        assert passed.asked == (status == 200)
        assert passed.lines[0]["key"] == ("ann" if status == 200 else None)
        assert passed.lines[0]["reason"] == ("key" if status == 401 else None)
        assert passed.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
        assert KEY not in str(passed.lines)
    passed = Passed(ignore, Keys(str(file)))
    assert passed.ask(path="/healthz", method="GET") == 200
    assert passed.ask(path="/v1/model", method="GET") == 401
    assert Passed(ignore).ask(path="/v1/model", method="GET") == 200


def test_connections_end_where_their_rest_is_not_read_or_the_server_ends() -> None:
    passed = Passed(read)
    assert passed.ask(b"x") == 200
    assert "connection" not in passed.headers
    passed = Passed(ignore)
    assert passed.ask(method="GET") == 200  # which has no body
    assert "connection" not in passed.headers
    assert passed.lines[0]["bytes"] is None
    for length, is_read in (("0", True), ("00", True), ("10", False)):
        assert passed.ask(content_length=length) == 200
        assert ("connection" not in passed.headers) is is_read
    assert passed.ask(b"x") == 200
    assert passed.headers["connection"] == "close"
    passed = Passed(read)
    passed.gate.is_ending = True
    assert passed.ask(b"x") == 200
    assert passed.headers["connection"] == "close"


def test_each_request_has_a_number_of_its_own_and_a_line() -> None:
    passed = Passed(ignore, access_log_rate=1000)
    numbers = set()
    for method in ("GET", "POST", "HEAD", "OPTIONS", "BREW"):
        said = "other" if method == "BREW" else method
        assert passed.ask(method=method) == 200
        numbers.add(passed.headers["x-request-id"])
        assert passed.lines[-1]["id"] == passed.headers["x-request-id"]
        assert (passed.lines[-1]["method"], passed.lines[-1]["route"]) == (said, "/v1/classify")
        assert passed.headers["x-content-type-options"] == "nosniff"
    assert len(numbers) == 5
    for skipped in (7, 0):
        passed.gate._sampler.take = lambda *_, skipped=skipped: skipped  # type: ignore[method-assign]
        passed.ask(method="GET")
        assert passed.lines[-1]["skipped"] == (skipped or None)
    passed = Passed(ignore, access_log_rate=2)
    for _ in range(20):
        passed.ask(method="GET")
    assert 2 <= len(passed.lines) <= 4  # a second may end between them
    statuses = iter([200, 200, 200, 415, 415])

    async def mixed(passed: Passed, exchange: Exchange, receive: Any, send: Any) -> None:
        await answer(send, next(statuses))

    passed = Passed(mixed, access_log_rate=1)
    for _ in range(5):
        passed.ask(method="GET")
    assert {line["status"] for line in passed.lines} == {200, 415}  # what goes well hides nothing else

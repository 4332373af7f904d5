"""What every request passes, and every answer: its number, its key, its size, its line in the log."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from .connection import CONNECTION, HEADERS_AT
from .keys import Key, Keys
from .logs import Log, Sampler
from .metrics import Metrics
from .problems import MEDIA_TYPE, Disconnected, Problem
from .settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

EXCHANGE = "vit_hybrid.exchange"
# The part of the server that needs a key.
GUARDED = "/v1/"
# What is refused to keep the server going, by its status, in contrast to what is wrong with a request.
SHED = {408, 429, 503, 504}


class Exchange:
    """A request and its answer.

    Attributes:
        id: Its number, in the answer and the log.
        headers_at: When its last header came, by `time.monotonic`.
        key: Whose it is; None where no keys are needed.
        route: What is asked, for the log and the metrics; nothing that the client made up.
        reason: Why it was refused, in a word.
        noted: What else the log says of it.
        is_read: Whether its body has come to its end.
        bytes: Of its body, so far.
        held: Those of them that are kept.
        status: Of the answer; None before.
    """

    def __init__(self, identity: str, scope: Mapping[str, Any], now: float) -> None:
        self.id = identity
        self._scope = scope
        self.headers_at: float = scope.get(HEADERS_AT, now)
        self.connection: Any = scope.get(CONNECTION)
        self.key: Key | None = None
        self.route = "other"
        self.reason: str | None = None
        self.noted: dict[str, Any] = {}
        self.is_read = False
        self.bytes = self.held = 0
        self.status: int | None = None

    @property
    def is_here(self) -> bool:
        """Whether all of its body has come, read or not."""
        cycle = getattr(self.connection, "cycle", None)
        return self.is_read or (cycle is not None and cycle.scope is self._scope and not cycle.more_body)

    def when_gone(self, action: Callable[[], None] | None) -> None:
        """Has `action` called where the client goes away before the answer."""
        if self.connection is not None:
            self.connection.on_gone = action


class Gate:
    """An ASGI application around the one that answers.

    Args:
        app: What answers.
        settings: The server's.
        keys: Who may ask; None for everybody.
        metrics: What it measures.
        log: Where it says who asked.

    Attributes:
        is_ending: Whether connections are to end with their next answer.
        buffered: Bytes of bodies that are held.
        open: Requests that are not answered yet.
    """

    def __init__(self, app: Any, settings: Settings, keys: Keys | None, metrics: Metrics, log: Log) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._metrics = metrics
        self._log = log
        self._sampler = Sampler(settings.access_log_rate)
        self._start = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self.is_ending = False
        self.buffered = 0
        self.open = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope[EXCHANGE] = Exchange(f"{self._start}-{next(self._numbers):x}", scope, time.monotonic())
        is_complete = False

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                exchange.bytes += len(message.get("body", b""))
                exchange.is_read = not message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal is_complete
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", exchange.id.encode())]
                headers.append((b"x-content-type-options", b"nosniff"))
                if self.is_ending or not exchange.is_here:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
                if exchange.status in SHED:
                    self._metrics.refusals.observe(time.monotonic() - exchange.headers_at)
            else:
                is_complete = not message.get("more_body", False)
            await send(message)

        self.open += 1
        try:
            try:
                self._check(scope, exchange)
                await self._app(scope, receiving, sending)
            except Problem as problem:
                await self.answer(problem, exchange, sending)
            except Disconnected:
                exchange.reason = "cancelled"
                self._metrics.cancelled.inc()
            except Exception as error:  # a fault of this program: the log says which, and the answer that there is one
                exchange.noted["fault"] = type(error).__name__
                if exchange.status is None:
                    await self.answer(Problem(500, "the server failed", "fault"), exchange, sending)
        finally:
            self.open -= 1
            self.buffered -= exchange.held
            self._account(scope, exchange, time.monotonic(), is_complete)

    async def answer(self, problem: Problem, exchange: Exchange, send: Send) -> None:
        """Answers with a problem."""
        body, headers = self.told(problem, exchange)
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})

    def told(self, problem: Problem, exchange: Exchange) -> tuple[bytes, dict[str, str]]:
        """The body and the headers that answer with a problem, which is counted."""
        exchange.reason = problem.reason
        if problem.status in SHED:
            self._metrics.shed.labels(problem.reason).inc()
        body = problem.body(exchange.id)
        return body, {**problem.headers, "content-type": MEDIA_TYPE, "content-length": str(len(body))}

    async def read(self, exchange: Exchange, receive: Receive) -> bytes:
        """All of a request's body, counted while it comes.

        Raises:
            Problem: 408, it comes too slowly; 413, it is too large; 503, too much is held already.
            Disconnected: The client is gone.
        """
        if exchange.is_here:
            return await self._collected(exchange, receive)
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                return await self._collected(exchange, receive)
        except TimeoutError:
            raise Problem(408, "the request's body did not come in time", "slow body") from None

    async def _collected(self, exchange: Exchange, receive: Receive) -> bytes:
        parts: list[bytes] = []
        while not exchange.is_read:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            part = message.get("body", b"")
            exchange.held += len(part)
            self.buffered += len(part)
            if exchange.held > self._settings.max_body:
                raise self._too_large()
            if self.buffered > self._settings.max_buffered:
                raise Problem(503, "too much is being sent; try again later", "memory", {"Retry-After": "1"})
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> Problem:
        return Problem(413, f"a body may have {self._settings.max_body_mb:g} MB; send less", "body")

    def _check(self, scope: Mapping[str, Any], exchange: Exchange) -> None:
        """Raises `Problem` for what can be told from the headers: no key (401), or too large a body (413)."""
        given = _given(scope["headers"])
        if self._keys is not None and scope["path"].startswith(GUARDED):
            exchange.key = self._keys.find(given["key"]) if given["key"] else None
            if exchange.key is None:
                raise Problem(401, "send a key, as: Authorization: Bearer KEY", "key", {"WWW-Authenticate": "Bearer"})
        if given["length"].isdigit() and int(given["length"][:18]) > self._settings.max_body:
            raise self._too_large()
        exchange.is_read = not given["length"].strip(b"0") and not given["is_chunked"]

    def _account(self, scope: Mapping[str, Any], exchange: Exchange, now: float, is_complete: bool) -> None:
        seconds = now - exchange.headers_at
        status = exchange.status if is_complete or exchange.status else 499  # as others call it: nobody waited
        self._metrics.requests.labels(exchange.route, str(status)).observe(seconds)
        skipped = self._sampler.take((exchange.route, status), now)
        if skipped is None:
            return
        self._log(
            "request",
            "error" if status == 500 else "info",
            id=exchange.id,
            method=scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other",
            route=exchange.route,
            status=status,
            ms=round(seconds * 1000, 2),
            bytes=exchange.bytes or None,
            key=exchange.key.name if exchange.key else None,
            reason=exchange.reason,
            skipped=skipped or None,
            **exchange.noted,
        )


def _given(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    found: dict[str, Any] = {"key": b"", "length": b"", "is_chunked": False}
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            found["key"] = value[7:].strip()
        elif name == b"x-api-key":
            found["key"] = value.strip()
        elif name == b"content-length":
            found["length"] = value
        elif name == b"transfer-encoding":
            found["is_chunked"] = True
    return found


__all__ = ["EXCHANGE", "Exchange", "Gate"]

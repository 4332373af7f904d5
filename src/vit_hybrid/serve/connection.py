"""Connections that do not wait for ever: uvicorn's, with time for headers, room for them, and an end that is heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .problems import MEDIA_TYPE, Problem
from .settings import Settings

MOST_HEADER_BYTES = 1 << 16
# Seconds, and bytes, that are read and dropped of what a client still sends after it was refused: closed at once, the
# connection would be reset, and the answer lost.
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 << 20
# Seconds that a connection which was taken shortly before the server stopped listening has for its request.
LAST_REQUEST_SECONDS = 1.0
# What the server puts into a request's scope: this connection, and when the last header came.
CONNECTION, HEADERS_AT = "vit_hybrid.connection", "vit_hybrid.headers_at"


class Connection(HttpToolsProtocol):
    """One of a client's.

    Attributes:
        settings: The server's; set on a subclass, as uvicorn makes the connections.
        on_refusal: Called with the reason where a connection is ended before there is a request.
        on_gone: Called once when the client goes away during a request.
    """

    settings: Settings
    on_refusal: Callable[[str], None]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.on_gone: Callable[[], None] | None = None
        self._header_bytes = 0
        self._in_headers = True
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._lingering: int | None = None
        self._is_deaf = False
        if len(self.connections) > self.settings.max_connections:
            problem = Problem(503, "too many connections are open; try again later", "connections")
            self._refuse(problem, {"retry-after": "1"})
        else:
            self._time(self.settings.header_timeout, self._headers_are_late)

    def _time(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, action)

    def _headers_are_late(self) -> None:
        if self._is_answering:  # these are headers of the next request, which was sent before the answer
            self._time(self.settings.header_timeout, self._headers_are_late)
        elif self._header_bytes:
            self._refuse(Problem(408, "the request's headers did not come in time", "slow headers"))
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            self._lingering -= len(data)
            if self._lingering < 0:
                self.transport.abort()
            return
        if self._is_deaf:
            return
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > MOST_HEADER_BYTES and self._lingering is None:
            self._refuse(Problem(431, "the request's headers are too large", "large headers"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_headers:
            self._in_headers = True
            self._header_bytes = 1
            self._time(self.settings.header_timeout, self._headers_are_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:  # else it is a trailer, behind the body, which nobody asks for
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if self._timer is not None:
            self._timer.cancel()
        scope: Any = self.scope
        scope[CONNECTION], scope[HEADERS_AT] = self, time.monotonic()
        super().on_headers_complete()
        self.cycle.transport = _Closing(self)

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "this is no HTTP request that the server understands", "not http"))

    @property
    def _is_answering(self) -> bool:
        """Whether there is a request that is whole, and not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _refuse(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        """Answers where there is no request that could be, and ends the connection."""
        if self.transport.is_closing() or self._lingering is not None:
            return
        if self._is_answering:  # what comes behind a request that is whole is not that one's fault
            self.cycle.keep_alive, self._is_deaf = False, True
            return
        body = problem.body("")
        told = {
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "connection": "close",
            **(headers or {}),
        }
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
            self.transport.write(STATUS_LINE[problem.status] + lines.encode() + b"\r\n" + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._tell_gone()
        type(self).on_refusal(problem.reason)
        self.linger()

    def linger(self) -> None:
        """Ends the connection when the client does, or a little later."""
        if self._lingering is not None or self.transport.is_closing():
            return
        self._lingering = LINGER_BYTES
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._time(LINGER_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.on_gone = None
        if self.cycle.response_complete and self.cycle.more_body:  # else it is the body of a request that is to come
            self.linger()  # what follows would be the rest of the body, as slow as its sender likes

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.settings.body_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._tell_gone()

    def _tell_gone(self) -> None:
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def shutdown(self) -> None:
        """Ends with the answer to the request that it has; without one, at once, or, where it never had one, a little
        later."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self.cycle is None and self._lingering is None:
            self._time(LAST_REQUEST_SECONDS, self.transport.close)
        elif not self._in_headers:
            self.transport.close()


class _Closing:
    """A connection's transport, for uvicorn to write to; what closes it does so when the client has the answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        if self._connection.cycle.more_body:
            self._connection.linger()
        else:
            self._connection.transport.close()


__all__ = ["CONNECTION", "HEADERS_AT", "Connection"]

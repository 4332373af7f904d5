"""Pictures to a server that runs somewhere, and what it says of them: the client behind `classify --server`.

It speaks HTTP by the standard library, a picture a request as the file is, over several connections that stay open.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, cast
from urllib.parse import urlsplit

from ..errors import JobStopped, one_line, reason, shown
from ..images.reading import ImageReadError, encoded
from ..outputs.ranking import ErrorRecord, PredictionRecord, Record

# Where the key stands that no option names.
KEY_VARIABLE = "VIT_HYBRID_API_KEY"
CONNECTIONS = 8
# Seconds in which a server that is asked for the first time has to answer, and after its own deadline later.
FIRST_TIMEOUT, MARGIN = 20.0, 20.0
# Seconds that a picture waits for a server with too much to do, and at a time.
PATIENCE, LONGEST_WAIT = 120.0, 30.0
MOST_OF_AN_ANSWER = 64 << 20  # bytes
EXPECTED = "expected an address such as http://127.0.0.1:8000"
# What is answered for one picture, and says nothing of the next.
OF_A_PICTURE = {408, 413, 415, 422, 500, 503, 504}
BUSY = {429, 503}


class ServerError(ValueError):
    """A server that cannot be asked, or not any more; the message is one line that names it and says why."""


class Client:
    """A server of `vit-hybrid serve`.

    Args:
        address: Its address, such as `http://127.0.0.1:8000`.
        key: The key that it asks for, if any.

    Attributes:
        model: What `GET /v1/model` says of its model.

    Raises:
        ServerError: It is no address, nobody listens there, it is another server, or wants another key.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self._name = shown(address)
        self._scheme, self._host, self._port, self._path = _parsed(address)
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key and key):
            raise ServerError(f"{self._name}: a key is one word of ASCII characters, and what was given is none.")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = FIRST_TIMEOUT
        self._own = threading.local()
        self._connections: list[HTTPConnection] = []
        self._ended = threading.Event()
        try:
            self.model = self._described()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections, and what is under way on them."""
        self._ended.set()
        for connection in self._connections:
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def classify(self, sources: Iterable[tuple[str, Any]], top_k: int, ahead: bool = True) -> Iterator[Record]:
        """What the server says of pictures, in their order: `Predictor.stream`'s records.

        Args:
            sources: (path, source) pairs; a source is a path, the bytes of a picture's file, or an error in its place.
            top_k: How many labels to give of each.
            ahead: Whether pictures are read and sent before those in front of them are answered.

        Yields:
            A record for each, of errors too.

        Raises:
            JobStopped: The server has gone, or takes no more pictures.
        """
        most = min(top_k, len(self.model["labels"]))
        waiting: deque[Future[Record]] = deque()
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="asking") as executor:
            try:
                for path, source in sources:
                    waiting.append(executor.submit(self._record, path, source, most))
                    if len(waiting) > (2 * CONNECTIONS if ahead else 0):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except ServerError as error:
                raise JobStopped(str(error)) from error
            finally:
                for future in waiting:
                    future.cancel()
                self.close()

    def _record(self, path: str, source: Any, top_k: int) -> Record:
        limit = self.model["limits"]["body_bytes"]
        try:
            if isinstance(source, Exception):
                return ErrorRecord(path=path, error=str(source))  # which names it
            content = source if isinstance(source, bytes) else encoded(source, path, limit + 1)
        except ImageReadError as error:
            return ErrorRecord(path=path, error=str(error))
        if len(content) > limit:
            return ErrorRecord(path=path, error=f"{path}: has more than the {limit / 2**20:g} MB that the server takes")
        status, told = self._patiently("POST", f"/v1/classify?top_k={top_k}", content)
        if status in OF_A_PICTURE:
            detail = one_line(told["detail"])
            # The server calls it by its place, which of one picture is always this.
            is_named = detail.startswith("image 1")
            return ErrorRecord(path=path, error=path + (detail.removeprefix("image 1") if is_named else f": {detail}"))
        pictures = told.get("pictures")
        if not isinstance(pictures, list) or len(pictures) != 1 or "predictions" not in pictures[0]:
            raise self._wrong("it does not say what is in a picture")
        return cast(PredictionRecord, {**pictures[0], "path": path})

    def _described(self) -> dict[str, Any]:
        _, told = self._patiently("GET", "/v1/model", None)
        limits = told.get("limits")
        is_whole = isinstance(told.get("labels"), list) and isinstance(told.get("problem_type"), str)
        if not is_whole or not isinstance(limits, dict) or not isinstance(limits.get("body_bytes"), int):
            raise self._wrong("it does not say which model it has")
        self._timeout = float(limits.get("deadline_seconds", FIRST_TIMEOUT)) + MARGIN
        return told

    def _patiently(self, method: str, path: str, body: bytes | None) -> tuple[int, dict[str, Any]]:
        """The status and the content of an answer; where the server has too much to do it is asked again later."""
        waited = 0.0
        while True:
            status, headers, content = self._exchange(method, path, body)
            told = _fields(content)
            if status == 200 and told is not None:
                return status, told
            seconds = _retry_after(headers)
            if status in BUSY and seconds is not None and waited < PATIENCE:
                # Those who were refused together do not come back together.
                pause = min(seconds, LONGEST_WAIT) * random.uniform(1.0, 1.25)
                waited += pause
                if self._ended.wait(pause):
                    raise ServerError(f"{self._name}: not asked any more.")
                continue
            detail = None if told is None else told.get("detail")
            if status == 401:
                what = "is none of its keys" if self._headers else "is missing"
                raise ServerError(
                    f"{self._name}: the server wants a key, which {what}; --api-key-file or the environment's "
                    f"{KEY_VARIABLE} gives one."
                )
            if not isinstance(detail, str) or status in (404, 405):
                raise self._wrong(f"it answers {status}")
            if status in OF_A_PICTURE and seconds is None and body is not None:
                return status, {"detail": detail}
            busy = f", for {waited:.0f} seconds already" if waited else ""
            raise ServerError(f"{self._name}: {one_line(detail)} ({status}{busy}).")

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, Message, bytes]:
        connection = self._connection()
        try:
            was_open = connection.sock is not None
            if was_open:
                connection.sock.settimeout(self._timeout)
            try:
                return self._asked(connection, method, path, body)
            except ConnectionError:
                connection.close()
                if not was_open or self._ended.is_set():
                    raise
                return self._asked(connection, method, path, body)  # the server had ended it in between
        except (OSError, HTTPException, UnicodeError) as error:
            connection.close()
            raise ServerError(f"{self._name}: {self._why(error)}.") from error

    def _asked(
        self, connection: HTTPConnection, method: str, path: str, body: bytes | None
    ) -> tuple[int, Message, bytes]:
        headers = {"Content-Type": "application/octet-stream", **self._headers} if body is not None else self._headers
        try:
            connection.request(method, self._path + path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise
            # It may have been refused, and answered, before all of it was sent.
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read(MOST_OF_AN_ANSWER)

    def _connection(self) -> HTTPConnection:
        """This thread's own."""
        if not hasattr(self._own, "connection"):
            kind = HTTPSConnection if self._scheme == "https" else HTTPConnection
            self._own.connection = kind(self._host, self._port)
            self._connections.append(self._own.connection)
        connection: HTTPConnection = self._own.connection
        connection.timeout = self._timeout
        return connection

    def _why(self, error: Exception) -> str:
        if isinstance(error, ConnectionRefusedError):
            return "nobody listens there; vit-hybrid serve starts a server"
        if isinstance(error, socket.gaierror | UnicodeError):
            return "there is no host of that name"
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:.0f} seconds"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate cannot be trusted: {one_line(error.verify_message)}"
        if isinstance(error, ssl.SSLError):
            return "what listens there does not speak https, but may speak http"
        if isinstance(error, ConnectionError):
            return "the server ended the connection without an answer"
        if isinstance(error, HTTPException):
            return "what listens there does not speak http, but may speak https"
        return getattr(error, "strerror", None) or reason(error)

    def _wrong(self, why: str) -> ServerError:
        return ServerError(f"{self._name}: this is no server of vit-hybrid serve, or not its address: {why}.")


def _parsed(address: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and path of an address.

    Raises:
        ServerError: It is none.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ServerError(f"{shown(address)!r} is no address of a server; {EXPECTED}.") from None
    if parts.username is not None or parts.password is not None:
        raise ServerError(f"an address has no name or password in it, which others could read; {EXPECTED}.")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ServerError(f"{shown(address)!r} is no address of a server; {EXPECTED}.")
    return parts.scheme, host, port, parts.path.rstrip("/")


def _fields(content: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _retry_after(headers: Message) -> float | None:
    """Seconds after which to ask again; a date counts as a second."""
    text = headers.get("Retry-After")
    if text is None:
        return None
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 1.0


__all__ = ["KEY_VARIABLE", "Client", "ServerError"]

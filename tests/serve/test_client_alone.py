"""A client of a server that is never asked: which pictures it would send, how long it waits, and what it says then."""

from __future__ import annotations

import socket
import ssl
from email.message import Message
from http.client import HTTPException
from types import SimpleNamespace
from typing import Any

import pytest

from vit_hybrid.serve import client

MODEL = {"labels": ["red", "green", "blue"], "limits": {"body_bytes": 1000}}
SAID = {"pictures": [{"path": "image 1", "predictions": [{"label": "red", "probability": 0.5}]}]}
BUSY = 503, {"Retry-After": "9"}, b'{"detail": "too many pictures are waiting"}'


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> client.Client:
    """A client that has asked nobody yet, and need not."""
    monkeypatch.setattr(client.Client, "_described", lambda self: MODEL)
    return client.Client("http://made.up")


@pytest.mark.parametrize(("ahead", "taken"), [(False, 1), (True, 2 * client.CONNECTIONS + 1)])
def test_pictures_are_read_before_those_in_front_are_answered_or_not(
    ahead: bool, taken: int, alone: client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "_record", lambda path, source, most: {"path": path, "most": most})
    given = iter([(str(number), b"") for number in range(50)])
    records = alone.classify(given, 9, ahead)
    assert next(records) == {"path": "0", "most": 3}  # there are no more labels
    assert 50 - len(list(given)) == taken
    assert [record["path"] for record in records] == [str(number) for number in range(1, taken)]


def test_files_as_large_as_the_server_takes_are_sent(alone: client.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(alone, "_patiently", lambda method, path, body: sent.append(body) or (200, SAID))
    assert "predictions" in alone._record("a", bytes(1000), 1)
    assert "error" in alone._record("a", bytes(1001), 1)
    assert sent == [bytes(1000)]


def test_patience_ends(alone: client.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) > 20  # as if it were closed

    monkeypatch.setattr(client, "PATIENCE", 10.0)
    monkeypatch.setattr(client, "_retry_after", lambda headers: 3.0)
    monkeypatch.setattr(alone, "_exchange", lambda *_: BUSY)
    monkeypatch.setattr(alone, "_ended", SimpleNamespace(wait=wait))
    with pytest.raises(client.ServerError, match=r"too many pictures are waiting \(503, for 1[0-9] seconds already\)"):
        alone._patiently("POST", "/", b"")
    assert sum(waited[:-1]) < 10 <= sum(waited)


def test_a_client_that_is_closed_asks_no_more(alone: client.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_exchange", lambda *_: BUSY)
    alone.close()
    with pytest.raises(client.ServerError, match="not asked any more"):
        alone._patiently("POST", "/", b"")


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionRefusedError(111, "refused"), "nobody listens there; vit-hybrid serve starts a server"),
        (socket.gaierror(-2, "Name or service not known"), "there is no host of that name"),
        (UnicodeError("label too long"), "there is no host of that name"),
        (TimeoutError("timed out"), "no answer within 20 seconds"),
        (untrusted(), "its certificate cannot be trusted: self-signed certificate"),
        (ssl.SSLError(1, "wrong version number"), "what listens there does not speak https, but may speak http"),
        (ConnectionResetError(104, "reset"), "the server ended the connection without an answer"),
        (HTTPException("odd"), "what listens there does not speak http, but may speak https"),
        (OSError(113, "No route to host"), "No route to host"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_why_a_server_cannot_be_asked(error: Exception, why: str, alone: client.Client) -> None:
    assert alone._why(error) == why


@pytest.mark.parametrize(("was_open", "asked"), [(True, 2), (False, 1)])
def test_only_a_connection_that_was_open_is_opened_again(
    was_open: bool, asked: int, alone: client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(sock=SimpleNamespace(settimeout=lambda _: None) if was_open else None, close=lambda: None)
    answers: list[object] = []

    def ask(*_: object) -> tuple[int, dict[str, str], bytes]:
        answers.append(ConnectionResetError("by peer"))
        if len(answers) == 1:
            raise answers[0]
        return 200, {}, b"{}"

    monkeypatch.setattr(alone, "_connection", lambda: made)
    monkeypatch.setattr(alone, "_asked", ask)
    if was_open:
        assert alone._exchange("GET", "/", None) == (200, {}, b"{}")
    else:
        with pytest.raises(client.ServerError, match="ended the connection without an answer"):
            alone._exchange("GET", "/", None)
    assert len(answers) == asked


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, None), ("0", 0), ("7", 7), ("999999", 999_999), ("1000000", 1), ("-1", 1), ("Wed, 21 Oct 2026", 1)],
)
def test_when_a_server_is_to_be_asked_again(said: str | None, seconds: float | None) -> None:
    headers = Message()
    if said is not None:
        headers["Retry-After"] = said
    assert client._retry_after(headers) == seconds


def test_a_server_that_asks_for_a_long_wait_is_asked_again_sooner() -> None:
    answers = iter([(503, {"Retry-After": "600"}, b'{"detail": "busy"}'), (200, {}, b'{"pictures": []}')])
    waits: list[float] = []
    asking: Any = client.Client.__new__(client.Client)
    asking._exchange = lambda *_: next(answers)
    asking._ended = SimpleNamespace(wait=lambda seconds: waits.append(seconds))
    assert asking._patiently("POST", "/v1/classify", b"") == (200, {"pictures": []})
    [wait] = waits
    assert client.LONGEST_WAIT <= wait <= 1.25 * client.LONGEST_WAIT

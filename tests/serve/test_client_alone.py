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
    assert alone._record("a", bytes(1001), 1) == {
        **{"path": "a", "error": "a: has more than the 0.000953674 MB that the server takes"}  # 1,000 bytes
    }
    assert alone._record("b", ValueError("b: is a folder"), 1) == {"path": "b", "error": "b: is a folder"}
    assert sent == [bytes(1000)]


@pytest.mark.parametrize(
    ("detail", "error"),
    [
        *(("image 1:\n is odd", "a: is odd"), ("it is\n odd", "a: it is odd"), ("not image 1", "a: not image 1")),
        ("image 1: is not image 1", "a: is not image 1"),
    ],
)
def test_what_is_said_of_a_picture_is_one_line_with_its_name(
    detail: str, error: str, alone: client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(alone, "_patiently", lambda *given: asked.append(given) or (422, {"detail": detail}))
    assert alone._record("a", b"a picture", 2) == {"path": "a", "error": error}
    assert asked == [("POST", "/v1/classify?top_k=2", b"a picture")]


@pytest.mark.parametrize("pictures", [None, "image 1", [], SAID["pictures"] * 2, [{"path": "image 1", "values": []}]])
def test_an_answer_that_is_not_of_one_picture_is_none(
    pictures: Any, alone: client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "_patiently", lambda *_: (200, {"pictures": pictures}))
    with pytest.raises(
        client.ServerError, match=r"made\.up: this is no server .* it does not say what is in a picture"
    ):
        alone._record("a", b"a picture", 1)


WHOLE = {"labels": ["red"], "problem_type": "regression", "limits": {"body_bytes": 1000}}


@pytest.mark.parametrize(
    "missing", [{"labels": "red"}, {"problem_type": None}, {"limits": None}, {"limits": {"body_bytes": "1000"}}]
)
def test_what_a_server_has_to_say_of_its_model(missing: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    told: dict[str, Any] = dict(WHOLE)
    monkeypatch.setattr(client.Client, "_patiently", lambda _, *given: asked.append(given) or (200, told))
    there = client.Client("http://made.up")
    assert (there.model, asked) == (WHOLE, [("GET", "/v1/model", None)])
    assert there._timeout == 40  # as long as at first, and the margin
    told |= missing
    with pytest.raises(client.ServerError, match="it does not say which model it has"):
        client.Client("http://made.up")


@pytest.mark.parametrize("key", ["", "two words", "k\u00e9y", "a\tkey", "a\nkey"])
def test_what_is_no_key_is_not_sent_and_not_told(key: str) -> None:
    with pytest.raises(client.ServerError) as told:
        client.Client("http://made.up", key)
    assert str(told.value) == "http://made.up: a key is one word of ASCII characters, and what was given is none."


@pytest.mark.parametrize("status", [408, 500, 503])
def test_what_is_said_of_one_picture_is_said_of_all_where_none_was_sent(status: int, alone: client.Client) -> None:
    asking: Any = alone
    asking._exchange = lambda *_: (status, {}, b'{"detail": "it\\n cannot"}')
    assert alone._patiently("POST", "/v1/classify", b"") == (status, {"detail": "it\n cannot"})
    with pytest.raises(client.ServerError, match=rf"^http://made.up: it cannot \({status}\)\.$"):
        alone._patiently("GET", "/v1/model", None)


def test_another_method_is_another_server(alone: client.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_exchange", lambda *_: (405, {}, b'{"detail": "not with this method"}'))
    with pytest.raises(client.ServerError, match=r"this is no server of vit-hybrid serve, .* it answers 405"):
        alone._patiently("POST", "/v1/classify", b"")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("http://here", ("http", "here", None, "")),
        ("https://here:8443/behind/a/proxy/", ("https", "here", 8443, "/behind/a/proxy")),
        ("http://[::1]:80/", ("http", "::1", 80, "")),
    ],
)
def test_parts_of_an_address(address: str, parts: tuple[Any, ...]) -> None:
    assert client._parsed(address) == parts


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
        (OSError("something\n odd"), "something odd"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_why_a_server_cannot_be_asked(error: Exception, why: str, alone: client.Client) -> None:
    assert alone._why(error) == why


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ConnectionResetError(104, "reset")])
@pytest.mark.parametrize("key", [None, "a-key"])
def test_what_was_refused_before_all_of_it_was_sent_has_its_answer(
    error: Exception, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Refusing:
        """A connection whose other end has stopped to listen."""

        sock: Any = object()

        def request(self, *given: Any) -> None:
            asked.append(given)
            raise error

        def getresponse(self) -> Any:
            return SimpleNamespace(status=413, headers={"a": "b"}, read=lambda most: b"%d" % most)

    monkeypatch.setattr(client.Client, "_described", lambda self: MODEL)
    there, connection = client.Client("http://made.up/behind", key), Refusing()
    answer = 413, {"a": "b"}, b"%d" % (64 << 20)
    assert there._asked(connection, "POST", "/v1/classify", b"a picture") == answer  # type: ignore[arg-type]
    assert there._asked(connection, "GET", "/v1/model", None) == answer  # type: ignore[arg-type]
    who = {} if key is None else {"Authorization": "Bearer a-key"}
    kind = {"Content-Type": "application/octet-stream"}
    assert asked == [
        ("POST", "/behind/v1/classify", b"a picture", {**kind, **who}),
        ("GET", "/behind/v1/model", None, who),
    ]
    connection.sock = None  # nothing was sent
    with pytest.raises(type(error)):
        there._asked(connection, "GET", "/v1/model", None)  # type: ignore[arg-type]


def test_it_is_closed_behind_its_block_and_where_it_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[client.Client] = []

    def described(there: client.Client) -> dict[str, Any]:
        made.append(there)
        if len(made) == 2:
            raise client.ServerError("nobody listens there")
        return MODEL

    monkeypatch.setattr(client.Client, "_described", described)
    with client.Client("http://made.up") as there:
        assert not there._ended.is_set()
    with pytest.raises(client.ServerError, match="nobody listens"):
        client.Client("http://made.up")
    assert [one._ended.is_set() for one in made] == [True, True]


@pytest.mark.parametrize(("was_open", "is_ended", "asked"), [(True, False, 2), (False, False, 1), (True, True, 1)])
def test_only_a_connection_that_was_open_is_opened_again(
    was_open: bool, is_ended: bool, asked: int, alone: client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts, closed = list[float](), list[int]()
    sock = SimpleNamespace(settimeout=timeouts.append) if was_open else None
    made = SimpleNamespace(sock=sock, close=lambda: closed.append(1))
    answers: list[object] = []
    alone._timeout = 7.0
    if is_ended:
        alone._ended.set()

    def ask(*_: object) -> tuple[int, dict[str, str], bytes]:
        answers.append(ConnectionResetError("by peer"))
        if len(answers) == 1:
            raise answers[0]
        return 200, {}, b"{}"

    monkeypatch.setattr(alone, "_connection", lambda: made)
    monkeypatch.setattr(alone, "_asked", ask)
    if was_open and not is_ended:
        assert alone._exchange("GET", "/", None) == (200, {}, b"{}")
    else:
        with pytest.raises(client.ServerError, match="ended the connection without an answer"):
            alone._exchange("GET", "/", None)
    assert len(answers) == asked
    assert closed
    assert timeouts == ([7.0] if was_open else [])  # not that of its first request


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, None), ("0", 0), ("7", 7), ("999999", 999_999), ("1000000", 1), ("-1", 1), ("Wed, 21 Oct 2026", 1)],
)
def test_when_a_server_is_to_be_asked_again(said: str | None, seconds: float | None) -> None:
    headers = Message()
    if said is not None:
        headers["Retry-After"] = said
    assert client._retry_after(headers) == seconds


def test_a_server_that_asks_for_a_long_wait_is_asked_again_sooner_and_not_by_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([(503, {"Retry-After": "600"}, b'{"detail": "busy"}'), (200, {}, b'{"pictures": []}')])
    waits: list[float] = []
    asking: Any = client.Client.__new__(client.Client)
    asking._exchange = lambda *_: next(answers)
    asking._ended = SimpleNamespace(wait=lambda seconds: waits.append(seconds))
    assert asking._patiently("POST", "/v1/classify", b"") == (200, {"pictures": []})
    assert 30 <= waits[0] <= 1.25 * 30
    monkeypatch.setattr(client.random, "uniform", lambda least, most: (least + most) / 2)
    answers = iter([(503, {"Retry-After": "8"}, b'{"detail": "busy"}'), (200, {}, b'{"pictures": []}')])
    asking._patiently("POST", "/v1/classify", b"")
    assert waits[1:] == [9]

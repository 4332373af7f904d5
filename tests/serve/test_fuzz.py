"""Whatever comes over the wire: never an error of the server, never a request that hangs, and healthy afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import hypothesis
import pytest
from hypothesis import strategies as st
from serving import Server, as_json, fake, multipart, photo

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")
schemathesis = pytest.importorskip("schemathesis", reason="needs the extra test")

# What a server answers to whom it does not understand, or who asks for what it does not do.
FINE = {200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 422, 431, 503}
PICTURE = photo(size=(9, 9))
BODIES = [PICTURE, PICTURE[:50], multipart([PICTURE])[0], as_json([PICTURE]), b"", b"[" * 999, b"\0" * 70_000]
TYPES = ["image/jpeg", multipart([])[1], "application/json", "multipart/form-data; boundary=", "text/plain", "\xff", ""]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    limits = ("--max-body-mb", "0.05", "--header-timeout", "0.3", "--body-timeout", "0.3", "--idle-timeout", "0.3")
    with fake(*limits, "--max-files", "3", "--max-queue", "200") as server:
        yield server
        assert server.get("/readyz").status == 200
        assert server.post("/v1/classify", PICTURE).status == 200
        assert server.metric("vit_hybrid_queue_pictures") == 0
        assert server.metric("vit_hybrid_open_requests") == 1  # this one
        assert server.metric("vit_hybrid_worker_restarts_total") == 0
        assert not [line for line in server.log if line.get("fault") or line["level"] == "error"]


def exchanged(server: Server, parts: list[bytes], half_close: bool) -> bytes:
    """What comes back for bytes on the wire, until the server closes the connection."""
    answer = b""
    with server.connect() as connection:
        try:
            for part in parts:
                connection.sendall(part)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                answer += part
        except (BrokenPipeError, ConnectionResetError):
            pass  # it had enough
    return answer


def check(answer: bytes) -> None:
    for part in answer.split(b"HTTP/1.1 ")[1:]:
        assert int(part[:3]) in FINE | {100}, answer


texts = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=30).map(
    lambda text: text.encode("latin-1")
)
NAMES = [b"Content-Type", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"Upgrade"]
VALUES = [b"5", b"0", b"99999999999", b"-1", b"chunked", b"close", b"upgrade", b"100-continue", b"websocket"]
PATHS = [b"/v1/classify", b"/v1/embed", b"/v1/explain?head=1", b"/v1/admin/reload", b"/healthz", b"*", b"//", b"/%ff"]
headers = st.lists(st.tuples(st.sampled_from(NAMES) | texts, st.sampled_from(VALUES) | texts), max_size=4)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    method=st.sampled_from([b"POST", b"GET", b"OPTIONS", b"HEAD", b"CONNECT", b"FOO"]),
    path=st.sampled_from(PATHS) | texts,
    others=headers,
    body=st.sampled_from(BODIES) | st.binary(max_size=99),
    cut=st.none() | st.integers(0, 200),
    half_close=st.booleans(),
)
def test_bytes_on_the_wire(
    server: Server,
    method: bytes,
    path: bytes,
    others: list[tuple[bytes, bytes]],
    body: bytes,
    cut: int | None,
    half_close: bool,
) -> None:
    lines = b"".join(b"%b: %b\r\n" % pair for pair in others)
    request = b"%b %b HTTP/1.1\r\nHost: x\r\n%b\r\n%b" % (method, path, lines, body)
    check(exchanged(server, [request[:cut]], half_close))


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    kind=st.sampled_from(TYPES),
    body=st.sampled_from(BODIES),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    task=st.sampled_from(["classify", "classify", "explain"]),
    query=st.sampled_from(["", "?top_k=1", "?top_k=99999999999999999999", "?top_k[]=1", "?%ff"]),
)
def test_bodies(server: Server, kind: str, body: bytes, flips: list[tuple[int, int]], task: str, query: str) -> None:
    damaged = bytearray(body)
    for place, value in flips:
        if damaged:
            damaged[place % len(damaged)] = value
    answer = server.post(f"/v1/{task}{query}", bytes(damaged), kind)
    assert answer.status in FINE
    if answer.status != 200:
        assert answer.json["status"] == answer.status


def test_the_description_is_kept() -> None:
    """Schemathesis asks what the OpenAPI says may be asked, and what it says may not, and holds it to its answers."""
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    with fake("--max-queue", "200", "--max-files", "50") as server:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()

            @hypothesis.settings(max_examples=15, suppress_health_check=list(hypothesis.HealthCheck))
            @hypothesis.given(case=operation.as_strategy())
            def ask(case: schemathesis.Case) -> None:
                answer = case.call()
                assert answer.status_code in FINE
                # What is no picture is refused, and that of bytes no description can say.
                case.validate_response(answer, excluded_checks=[positive_data_acceptance])

            ask()

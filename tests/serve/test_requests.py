"""What requests get: the three kinds of body, and what is refused, with the status that says why."""

from __future__ import annotations

import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import pytest
from serving import Server, as_json, fake, multipart, photo, plain, until

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    options = ("--max-body-mb", "1", "--max-files", "4", "--max-pixels", "10000", "--body-timeout", "1")
    others = ("--header-timeout", "1", "--cors-origin", "https://example.org", "--access-log-rate", "1000")
    with fake(*options, *others, "--idle-timeout", "2") as server:
        yield server


def labels(server: Server, body: bytes, content_type: str, query: str = "") -> list[list[str]]:
    answer = server.post(f"/v1/classify{query}", body, content_type)
    assert answer.status == 200, answer
    return [[one["label"] for one in picture["predictions"]] for picture in answer.json["pictures"]]


def test_a_picture_as_it_is(server: Server) -> None:
    answer = server.post("/v1/classify", plain("#20c040"), "image/png")
    assert answer.status == 200
    told = answer.json
    assert told["model"] == "vit-hybrid-tiny-imagenet"
    assert [one["label"] for one in told["pictures"][0]["predictions"]] == ["green", "blue", "red"]
    assert told["pictures"][0]["path"] == "image 1"
    assert sum(one["probability"] for one in told["pictures"][0]["predictions"]) == pytest.approx(1)
    assert set(told["timing"]) == {"queue_ms", "decode_ms", "model_ms"}
    assert all(value >= 0 for value in told["timing"].values())
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", "image/x-whatever; q=1"])
def test_kinds_of_pictures_are_found_out(server: Server, content_type: str) -> None:
    assert labels(server, plain("#20c040"), content_type, "?top_k=1") == [["green"]]


def test_forms_and_json_have_several_pictures_in_their_order(server: Server) -> None:
    pictures = [plain("#20c040"), plain("#2040c0"), plain("#c04020")]
    expected = [["green"], ["blue"], ["red"]]
    assert labels(server, *multipart(pictures, top_k="1")) == expected
    assert labels(server, *multipart(pictures), "?top_k=1") == expected
    assert labels(server, as_json(pictures, top_k=1), "application/json") == expected
    assert labels(server, as_json(pictures, top_k=1), "application/json", "?top_k=2") == expected  # the body's counts


def test_one_that_cannot_be_read_has_its_error_in_its_place(server: Server) -> None:
    pictures = [photo(), b"no picture", photo()[:300], photo()]
    told = server.post("/v1/classify", *multipart(pictures)).json["pictures"]
    assert ["predictions" in one for one in told] == [True, False, False, True]
    assert [one.get("status") for one in told] == [None, 415, 422, None]
    assert told[1]["error"] == "image 2: is not a picture in a format that Pillow reads"
    assert told[2]["error"].startswith("image 3: is truncated or damaged")


def bomb(side: int) -> bytes:
    """A PNG of so many pixels a side, small as a file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"", "image/png", 422, "is empty"),
        (b"text", "image/png", 415, "is not a picture"),
        (photo()[:-200], "image/jpeg", 422, "truncated"),
        (bomb(101), "image/png", 422, "more pixels"),
        (bomb(1 << 30), "image/png", 422, "more pixels"),
        (photo(), "text/plain", 415, "Content-Type"),
        (photo(), "application/x-www-form-urlencoded", 415, "Content-Type"),
        (b"{", "application/json", 422, "no JSON"),
        (b"[" * 100_000, "application/json", 422, "no JSON"),
        (b"[]", "application/json", 422, "images"),
        (b'{"images": []}', "application/json", 422, "no picture"),
        (b'{"images": ["?"]}', "application/json", 422, "image 1 is no base64"),
        (b'{"images": [1]}', "application/json", 422, "base64"),
        (b'{"images": ["/etc/passwd"]}', "application/json", 422, "base64"),
        (b'{"images": ["http://127.0.0.1/a.jpg"]}', "application/json", 422, "base64"),
        (as_json([photo()], top_k=0), "application/json", 422, "top_k"),
        (as_json([photo()], top_k=True), "application/json", 422, "top_k"),
        (as_json([photo()], url="http://127.0.0.1"), "application/json", 422, "images"),
        (as_json([photo()] * 5), "application/json", 413, "4 pictures"),
        (multipart([photo()] * 5)[0], multipart([])[1], 413, "4 pictures"),
        (multipart([photo()] * 50)[0], multipart([])[1], 413, "4 pictures"),
        (multipart([])[0], multipart([])[1], 422, ""),
        (multipart([photo()], other="1")[0], multipart([])[1], 422, "field file"),
        (multipart([photo()], top_k="x")[0], multipart([])[1], 422, "top_k"),
        (multipart([photo()])[0][:-40], multipart([])[1], 422, "breaks off"),
        (b"nothing", "multipart/form-data; boundary=x", 422, "multipart"),
        (b"nothing", "multipart/form-data", 422, "boundary"),
        (b"nothing", f"multipart/form-data; boundary={'x' * 5000}", 422, "multipart"),
        (b"x" * (LIMIT + 1), "image/png", 413, "1 MB"),
    ],
)
def test_what_is_refused(server: Server, body: bytes, content_type: str, status: int, words: str) -> None:
    answer = server.post("/v1/classify", body, content_type)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json
    assert told["status"] == status
    assert words in told["detail"]
    assert told["request_id"] == answer.headers["x-request-id"]
    assert (told["type"], told["title"]) == ("about:blank", HTTPStatus(status).phrase)
    assert "/" not in told["detail"].replace("image/", "").replace("multipart/", "").replace("application/", "")


def test_vectors(server: Server) -> None:
    answer = server.post("/v1/embed", *multipart([plain("#20c040"), b"text"]))
    assert answer.status == 200
    first, second = answer.json["pictures"]
    assert first["embedding"] == pytest.approx([32 / 255, 192 / 255, 64 / 255])
    assert second["status"] == 415
    assert server.get("/v1/model").json["embedding_size"] == 3
    with fake(VIT_HYBRID_FAKE_OUTPUT="logits") as other:
        refused = other.post("/v1/embed", photo())
        assert (refused.status, "labels alone, without vectors" in refused.json["detail"]) == (404, True)
        assert other.post("/v1/classify", photo()).status == 200
        assert other.get("/v1/model").json["embedding_size"] is None


@pytest.mark.parametrize("query", ["top_k=0", "top_k=-1", "top_k=x", "top_k="])
def test_a_top_k_that_is_none(server: Server, query: str) -> None:
    answer = server.post(f"/v1/classify?{query}", photo())
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert "top_k" in answer.json["detail"]


def test_compressed_bodies_are_refused_and_not_unpacked(server: Server) -> None:
    assert server.post("/v1/classify", zlib.compress(photo()), **{"Content-Encoding": "deflate"}).status == 415


def test_other_routes_and_methods(server: Server) -> None:
    for method, path, status in [("GET", "/redoc", 404), ("GET", "/v1/classify", 405), ("DELETE", "/v1/model", 405)]:
        answer = server.ask(method, path)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
        expected = {"/redoc": None, "/v1/classify": "POST", "/v1/model": "GET, HEAD"}
        assert answer.headers.get("allow") == expected[path]
        assert answer.json["detail"] == {404: "there is nothing here", 405: "not with this method"}[status]
    assert server.get("/page/../server.py").status == 404
    assert server.get("/page/%2e%2e/server.py").status == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/model", "/openapi.json", "/", "/docs"])
def test_head_is_answered_as_get_is_without_the_body(server: Server, path: str) -> None:
    head, get = server.ask("HEAD", path), server.get(path)
    assert (head.status, head.body) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embed", "/v1/explain", "/v1/admin/reload"])
def test_head_of_what_takes_bodies_is_no_method(server: Server, path: str) -> None:
    answer = server.ask("HEAD", path)
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST", b"")
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_the_model_is(server: Server) -> None:
    told = server.get("/v1/model").json
    assert told["labels"] == ["red", "green", "blue"]
    assert told["image_size"] == {"height": 8, "width": 8}
    assert told["limits"] == {"body_bytes": LIMIT, "files": 4, "pixels": 10000, "deadline_seconds": 30}
    assert told["way"] is None  # of an engine that says nothing of it
    assert server.get("/v1/model").json["loaded_at"] == told["loaded_at"] <= time.time()


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        *(("POST", path, path) for path in ("/v1/classify", "/v1/embed", "/v1/explain", "/v1/admin/reload")),
        *(("GET", path, path) for path in ("/v1/model", "/healthz", "/readyz", "/metrics", "/", "/docs")),
        ("GET", "/page/home.js", "/page"),
        ("GET", "/nothing", "other"),
    ],
)
def test_the_log_says_what_was_asked(server: Server, method: str, path: str, route: str) -> None:
    identity = server.ask(method, path).headers["x-request-id"]
    [line] = until(lambda: [line for line in server.events("request") if line["id"] == identity], "no line")
    assert (line["method"], line["route"]) == (method, route)


def test_a_body_that_does_not_end_is_refused_while_it_comes(server: Server) -> None:
    """10 GB in chunks: the client stops where it is answered; what the server has read is in its log."""
    sent, on_disk = 0, server.on_disk()
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with server.connect() as connection:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.settimeout(0.001)
        answer = b""
        while sent < 10 << 30 and not answer:
            try:
                sent += connection.send(chunk)
                answer = connection.recv(1 << 16)
            except TimeoutError:
                pass
        assert server.on_disk() == on_disk
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 100 << 20
    identity = answer.lower().partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    [line] = until(lambda: [line for line in server.events("request") if line["id"] == identity], "no line")
    assert LIMIT < line["bytes"] <= LIMIT + (64 << 10)


def test_a_body_that_is_said_to_be_too_large_is_not_asked_for(server: Server) -> None:
    with server.connect() as connection:
        headers = b"Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n" + headers)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_sends_all_of_a_refused_body_first_has_its_answer(server: Server) -> None:
    answer = server.post("/v1/classify", b"x" * (30 << 20))
    assert answer.status == 413


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-", b"408"),
        (b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nabc", b"408"),
        (b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"408"),
        (b"", b""),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", b"400"),
    ],
)
def test_slow_and_odd_clients_are_let_go(server: Server, start: bytes, status: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(start)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    assert answer[9:12] == status
    if status:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == int(status)


def test_a_drip_of_headers_does_not_hold_a_connection(server: Server) -> None:
    with server.connect() as connection:
        start = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        while time.monotonic() - start < 30:
            try:
                connection.sendall(b"X: y\r\n")
            except (BrokenPipeError, ConnectionResetError):
                return
            time.sleep(0.05)
    pytest.fail("it is still open")


def test_requests_follow_each_other_on_a_connection(server: Server) -> None:
    picture = plain("#20c040")
    one = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b"
    request = one % (len(picture), picture)
    with server.connect() as connection:
        connection.sendall(request * 3)  # without waiting for answers
        answer = b""
        while answer.count(b'"green"') < 3:
            part = connection.recv(1 << 16)
            assert part
            answer += part
    assert answer.count(b"HTTP/1.1 200 OK") == 3


def test_headers_are_counted_for_each_request_by_itself(server: Server) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 60_000 + b"\r\n\r\n"
    with server.connect() as connection:
        for _ in range(4):
            connection.sendall(request[:10])
            time.sleep(0.05)  # so that it is known that headers have begun
            connection.sendall(request[10:])
            answer = b""
            while b"alive" not in answer:
                part = connection.recv(1 << 16)
                assert part
                answer += part
            assert answer.startswith(b"HTTP/1.1 200")


def test_what_stands_behind_a_body_is_no_header(server: Server) -> None:
    picture = plain("#20c040")
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head + b"%x\r\n%b\r\n0\r\nContent-Encoding: deflate\r\n\r\n" % (len(picture), picture))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_answers_have_to_be_taken_and_who_takes_them_late_is_kept(server: Server) -> None:
    one, last = (b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in (b"/openapi.json", b"/healthz"))
    count = 1 + (8 << 20) // len(server.get("/openapi.json").body)  # more than the system holds for a connection

    def asking() -> socket.socket:
        connection = server.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.sendall(one * count + last)
        return connection

    with asking() as late:
        end = b""
        while b'"alive"' not in end:
            part = late.recv(1 << 20)
            assert part
            end = end[-20:] + part
        time.sleep(1.2)  # more than an answer may take
        late.sendall(last)
        end = b""
        while b'"alive"' not in end:
            part = late.recv(1 << 16)
            assert part
            end += part
    with asking() as never:
        time.sleep(2.5)
        end = b""
        with suppress(ConnectionResetError):  # or it is closed
            while part := never.recv(1 << 20):
                end = end[-20:] + part
        assert b'"alive"' not in end


def test_what_follows_a_request_and_is_none_does_not_harm_it(server: Server) -> None:
    picture = plain("#20c040")
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b"
    with server.connect() as connection:
        connection.sendall(head % (len(picture), picture) + b"nonsense\r\n\r\n")
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b'"green"' in answer


def test_only_named_origins_may_read_answers(server: Server) -> None:
    named = server.get("/healthz", Origin="https://example.org")
    other = server.get("/healthz", Origin="https://example.com")
    assert named.headers["access-control-allow-origin"] == "https://example.org"
    assert "access-control-allow-origin" not in other.headers
    refused = server.post("/v1/classify", b"text", "image/png", Origin="https://example.org")
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (415, "https://example.org")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert server.ask("OPTIONS", "/v1/classify", headers={"Origin": "https://example.org", **asked}).status == 200
    assert server.ask("OPTIONS", "/v1/classify", headers={"Origin": "https://example.com", **asked}).status == 400


def test_a_connection_is_kept_for_the_next_request_as_long_as_it_may_be_idle(server: Server) -> None:
    with server.connect() as connection:
        for pause in (0.7, 0.0):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"alive" not in answer:
                answer += connection.recv(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 ")
            began = time.monotonic()
            time.sleep(pause)
        while connection.recv(1 << 16):
            pass
        assert 1 < time.monotonic() - began < 4.5


def test_an_answer_says_when_it_was_given_and_not_by_what(server: Server) -> None:
    answer = server.get("/healthz")
    assert abs(parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()) < 20
    assert "server" not in answer.headers


def test_nothing_of_a_client_comes_back_or_into_the_log(server: Server) -> None:
    secret = "c0ffee-secret"
    server.get(f"/{secret}", **{"X-Request-ID": secret, "User-Agent": secret})
    answer = server.post(f"/v1/classify?{secret}={secret}", b"text", f"image/{secret}", **{"X-Forwarded-For": secret})
    form, content_type = multipart([photo()])
    named = server.post("/v1/classify", form.replace(b"a.jpg", secret.encode()), content_type)
    assert secret.encode() not in answer.body + named.body
    assert secret not in json.dumps(answer.headers)
    assert secret not in json.dumps(server.log)
    assert "python" not in json.dumps(server.log).lower()


def test_the_description_has_examples_that_work(server: Server) -> None:
    described = server.get("/openapi.json").json
    body = described["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    example = json.dumps(body["application/json"]["example"]).encode()
    assert server.post("/v1/classify", example, "application/json").status == 200
    for route, field in (("classify", "predictions"), ("embed", "embedding"), ("explain", "map")):
        answer = described["paths"][f"/v1/{route}"]["post"]["responses"]["200"]["content"]["application/json"][
            "example"
        ]
        assert field in answer["maps" if route == "explain" else "pictures"][0]
        assert answer.keys() >= {"model", "timing"}


def test_the_description_says_how_many_pictures_a_body_may_have(server: Server) -> None:
    paths = server.get("/openapi.json").json["paths"]
    most = {}
    for route in ("classify", "embed", "explain"):
        content = paths[f"/v1/{route}"]["post"]["requestBody"]["content"]
        fields = (
            content["application/json"]["schema"]["properties"],
            content["multipart/form-data"]["schema"]["properties"],
        )
        most[route] = fields[0]["images"].get("maxItems"), fields[1]["file"].get("maxItems")
        assert content["application/json"]["schema"]["required"] == ["images"]
        assert content["multipart/form-data"]["schema"]["required"] == ["file"]
    [top_k] = paths["/v1/classify"]["post"]["parameters"]
    assert (top_k["schema"]["minimum"], top_k["schema"]["maximum"]) == (1, 999_999_999)  # what is taken, of nine digits
    asked = {one["name"]: one["schema"] for one in paths["/v1/explain"]["post"]["parameters"]}
    assert (asked["head"]["minimum"], asked["head"]["maximum"]) == (1, 999_999_999)
    assert (asked["discard"]["minimum"], asked["discard"]["exclusiveMaximum"], asked["label"]["maxItems"]) == (0, 1, 16)
    assert most == {"classify": (None, None), "embed": (None, None), "explain": (1, 1)}


def test_its_page_is_of_our_own_files(server: Server) -> None:
    page = server.get("/docs")
    assert page.status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b"http://" not in page.body
    assert b"https://" not in page.body
    for path in ("page/docs.css", "page/docs.js"):  # from where the page is, behind a proxy too
        assert f'"{path}"'.encode() in page.body
        assert server.get(f"/{path}").status == 200


def test_health_and_metrics(server: Server) -> None:
    assert server.get("/healthz").json == {"status": "alive"}
    assert server.get("/readyz").json == {"ready": True, "reason": None, "workers": 1, "of": 1}
    before = server.metric("vit_hybrid_batch_pictures_sum")
    server.post("/v1/classify", *multipart([photo(), photo()]))
    assert server.metric("vit_hybrid_batch_pictures_sum") == before + 2
    for name in ("request", "queue_wait", "decode", "batch"):
        assert server.metric(f"vit_hybrid_{name}_seconds_count") > 0
    assert server.metric("vit_hybrid_queue_pictures") == 0
    assert server.metric("vit_hybrid_workers_ready") == 1
    measured = server.get("/metrics")
    assert measured.headers["content-type"].startswith("text/plain; ")
    assert b'\nvit_hybrid_batch_pictures_bucket{le="128.0"}' in measured.body
    for least_and_most in (b"0.001", b"60.0"):
        assert b'\nvit_hybrid_batch_seconds_bucket{le="%b"}' % least_and_most in measured.body
    assert server.metric("process_resident_memory_bytes") > 1 << 20
    [listening] = server.events("listening")
    assert (listening["model"], listening["pid"]) == ("vit-hybrid-tiny-imagenet", server.process.pid)


def test_other_kinds_of_models_say_theirs() -> None:
    with fake(VIT_HYBRID_FAKE_PROBLEM="multi_label_classification") as server:
        [told] = server.post("/v1/classify", plain("#20c040")).json["pictures"]
        assert [one["label"] for one in told["predictions"]] == ["green", "blue", "red"]
        assert sum(one["probability"] for one in told["predictions"]) > 1.5
    with fake(VIT_HYBRID_FAKE_PROBLEM="regression") as server:
        [told] = server.post("/v1/classify", plain("#20c040")).json["pictures"]
        assert [one["label"] for one in told["values"]] == ["red", "green", "blue"]
        assert [one["value"] for one in told["values"]] == pytest.approx([32 / 255, 192 / 255, 64 / 255])


def test_pages_of_other_origins_may_ask_where_they_are_named(server: Server) -> None:
    asked = {"Origin": "https://ours.example", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type,x-api-key"
    with fake("--cors-origin", "https://ours.example") as ours:
        answer = ours.ask("OPTIONS", "/v1/classify", headers=asked)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "https://ours.example"
        allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
        assert {"authorization", "content-type", "x-api-key"} <= allowed
        assert {"GET", "POST"} <= {*answer.headers["access-control-allow-methods"].replace(" ", "").split(",")}
        others = ours.ask("OPTIONS", "/v1/classify", headers={**asked, "Origin": "https://others.example"})
        assert others.status == 400
        assert "access-control-allow-origin" not in others.headers
        told = ours.get("/v1/model", Origin="https://ours.example").headers["access-control-expose-headers"].lower()
        assert {"retry-after", "x-request-id", "x-explained"} == {name.strip() for name in told.split(",")}
    plain = server.get("/v1/model", Origin="https://ours.example")
    assert "access-control-allow-origin" not in plain.headers

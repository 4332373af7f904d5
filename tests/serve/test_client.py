"""`classify --server`: what a server says is printed as what a model here says, and what goes wrong is one line."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fresh_process import run as run_fresh
from made_confidence import calibrated_copy
from serving import Server, fake, photo, plain, running
from typer.testing import CliRunner

from vit_hybrid.cli.main import app
from vit_hybrid.cli.output import RecordPrinter
from vit_hybrid.serve import client

KEY = "CyKvPpgzHw4nE2rNq7dN"
MODEL = {
    "labels": ["red", "green", "blue"],
    "problem_type": "single_label_classification",
    "limits": {"body_bytes": 1000, "deadline_seconds": 5},
}
SAID = {"model": "m", "pictures": [{"path": "image 1", "predictions": [{"label": "red", "probability": 0.5}]}]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of them, one that breaks off, one that is none, and one that is empty."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(6):
        (folder / f"{seed}.jpg").write_bytes(photo(seed))
    (folder / "7.jpg").write_bytes(photo()[:300])
    (folder / "8.jpg").write_bytes(b"words")
    (folder / "9.jpg").write_bytes(b"")
    return folder


def classify(*words: object, **others: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["classify", *map(str, words)], **others)
    return result.exit_code, result.stdout, result.stderr


def refused(*words: object) -> str:
    """The line of a command that cannot begin."""
    status, said, line = classify(*words)
    assert (status, said) == (2, "")
    assert len(line) <= 501
    assert line.count("\n") == 1
    return line


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = calibrated_copy(tiny_folder, tmp_path_factory.mktemp("served") / "calibrated")
    (folder.parent / "key").write_text(f"\ufeff{KEY}\n", encoding="utf-8")  # with the mark that some editors write
    (folder.parent / "keys").write_text(f"ann {KEY}\n")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """With a model that is calibrated; it asks for a key."""
    pytest.importorskip("fastapi", reason="needs the extra serve")
    pytest.importorskip("uvloop", reason="needs the extra serve")
    keys = ("--api-key-file", str(folder.parent / "keys"))
    with running(str(folder), "--engine", "torch", "--device", "cpu", "--threads", "1", *keys) as server:
        yield server


def there(server: Server, folder: Path) -> tuple[str, ...]:
    return ("--server", f"http://127.0.0.1:{server.port}/", "--api-key-file", str(folder.parent / "key"))


def test_tables_are_those_of_the_model_here(server: Server, folder: Path, pictures: Path) -> None:
    # The loop over folders, globs and what is not there is the same, and so is what is said of it.
    sources = (pictures, pictures / "nothing.jpg", str(pictures / "*.tif"))
    here = classify("--model", folder, "--engine", "torch", "--device", "cpu", "--top-k", 2, *sources)
    assert classify(*there(server, folder), "--top-k", 2, *sources) == here
    assert here[0] == 1
    assert "in the 90 % set" in here[1]
    assert all(here[2].count(f"/{name}.jpg: is ") == 1 for name in (7, 8, 9))


def test_json_is_that_of_the_model_here(server: Server, folder: Path, pictures: Path) -> None:
    words = ("--json", pictures, "-")
    given = {"input": (pictures / "3.jpg").read_bytes()}
    status, here, _ = classify("--model", folder, "--engine", "torch", "--device", "cpu", *words, **given)
    found = classify(*there(server, folder), *words, **given)
    assert (found[0], found[2]) == (status, "")
    lines = [json.loads(line) for line in found[1].splitlines()]
    expected = [json.loads(line) for line in here.splitlines()]
    assert [list(line) for line in lines] == [list(line) for line in expected]
    assert lines[-1]["path"] == "-"
    for line, other in zip(lines, expected, strict=True):
        assert line.get("error") == other.get("error")
        if "error" in line:
            continue
        assert {name: line[name] for name in ("path", "set", "coverage", "none_of_these")} == {
            name: other[name] for name in ("path", "set", "coverage", "none_of_these")
        }
        for one, two in zip(line["predictions"], other["predictions"], strict=True):
            assert one["label"] == two["label"]
            assert one["probability"] == pytest.approx(two["probability"], abs=1e-5)


def test_the_key(server: Server, folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ("--server", f"http://127.0.0.1:{server.port}", pictures / "0.jpg")
    assert "wants a key, which is missing; --api-key-file" in refused(*here)
    monkeypatch.setenv(client.KEY_VARIABLE, "another-key-than-theirs")
    assert "wants a key, which is none of its keys" in refused(*here)
    monkeypatch.setenv(client.KEY_VARIABLE, KEY)
    assert classify(*here)[0] == 0
    (folder.parent / "two").write_text("two words")
    assert "two is not a file with a key, one word" in refused(*here, "--api-key-file", folder.parent / "two")
    assert "No such file" in refused(*here, "--api-key-file", folder.parent / "none")
    monkeypatch.setenv(client.KEY_VARIABLE, "k\u00e9y")
    assert "one word of ASCII" in refused(*here)


def test_torch_is_not_loaded(server: Server, folder: Path, pictures: Path) -> None:
    words = ["vit-hybrid", "classify", *there(server, folder), str(pictures / "0.jpg")]
    code = f"""
import sys
from vit_hybrid.cli.main import main
sys.argv = {words!r}
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert not {{"torch", "transformers", "fastapi", "uvicorn"}} & set(sys.modules)
"""
    assert "probability" in run_fresh(code)


def test_more_pictures_than_the_queue_takes_are_all_answered(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    pytest.importorskip("uvloop", reason="needs the extra serve")
    for number in range(12):
        (tmp_path / f"{number:02}.png").write_bytes(plain(("#20c040", "#2040c0")[number % 2]))
    limits = ("--max-queue", "1", "--max-batch", "1")
    with fake(*limits, VIT_HYBRID_FAKE_SECONDS="0.05") as server:
        status, said, _ = classify("--server", f"http://127.0.0.1:{server.port}", "--json", "--top-k", 1, tmp_path)
        assert server.metric("vit_hybrid_shed_total") > 0
    assert status == 0
    labels = [json.loads(line)["predictions"][0]["label"] for line in said.splitlines()]
    assert labels == ["green", "blue"] * 6
    with fake(VIT_HYBRID_FAKE_PROBLEM="regression") as server:
        assert "regression" in refused("--server", f"http://127.0.0.1:{server.port}", tmp_path)


Answers = Callable[[str, bytes], tuple[int, Mapping[str, str], bytes]]


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    """A server that answers as it is told, by the path and the body of a request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = answers(self.path, body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Of a client that went away."""

    with Listening(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}"
        finally:
            listening.shutdown()
            thread.join()


def scripted(*steps: tuple[int, Mapping[str, str], bytes]) -> Answers:
    """The model first, then one step for each picture, the last of them for all that come after."""
    left = list(steps)

    def answers(path: str, _: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if path.endswith("/v1/model"):
            return 200, {}, json.dumps(MODEL).encode()
        return left.pop(0) if len(left) > 1 else left[0]

    return answers


def problem(status: int, detail: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"status": status, "detail": detail}).encode()


GOOD = (200, {}, json.dumps(SAID).encode())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(plain("#20c040"))
    return path


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(408, "the request's body did not come in time"), ": the request's body did not come in time"),
        (problem(413, "a body may have 1 MB; send less"), ": a body may have 1 MB; send less"),
        (problem(415, "image 1: is not a picture"), ": is not a picture"),
        (problem(422, "image 1 has more pixels than this server decodes"), " has more pixels than this server decodes"),
        (problem(500, "the model failed on the pictures of this batch"), ": the model failed on the pictures of this"),
        (problem(503, "there is not enough memory for image 1"), ": there is not enough memory for"),
        (problem(504, "there was no answer within the time"), ": there was no answer within the time"),
    ],
)
def test_what_is_the_matter_with_one_picture_stands_in_its_place(
    answer: tuple[int, Mapping[str, str], bytes], error: str, picture: Path
) -> None:
    script, paths = scripted(answer, GOOD), set[str]()
    with answering(lambda path, body: paths.add(path) or script(path, body)) as address:
        status, said, _ = classify("--server", f"{address}/behind/a/proxy", "--json", picture, picture)
    assert paths == {"/behind/a/proxy/v1/model", "/behind/a/proxy/v1/classify?top_k=3"}
    found = sorted(said.splitlines(), key=lambda line: "error" not in line)
    assert status == 1
    assert json.loads(found[0])["error"].startswith(f"{picture}{error}")
    assert json.loads(found[1])["predictions"] == SAID["pictures"][0]["predictions"]  # type: ignore[index]


def test_larger_files_than_the_server_takes_are_not_sent(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(1001))
    with answering(scripted(GOOD)) as address:
        status, _, line = classify("--server", address, tmp_path / "large.png")
    assert status == 1
    assert re.search(r"large\.png: has more than the \S+ MB that the server takes$", line.strip())


def test_what_comes_is_counted_and_as_wide_as_the_servers_labels(
    pictures: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    class Printer(RecordPrinter):
        def __init__(self, **given: Any) -> None:
            made.append(given)
            super().__init__(**given)

    def answers(there: client.Client, sources: Any, *_: Any) -> Iterator[Any]:
        yield from ({**SAID["pictures"][0], "path": path} for path, _ in sources)  # type: ignore[dict-item, index]

    monkeypatch.setattr("vit_hybrid.cli.classify.RecordPrinter", Printer)
    monkeypatch.setattr(client.Client, "_described", lambda self: MODEL)
    monkeypatch.setattr(client.Client, "classify", answers)
    assert classify("--server", "http://made.up", "--json", pictures, picture)[0] == 0
    assert made == [{"as_json": True, "labels": ["red", "green", "blue"], "total": 10}]  # nine of them in a folder


@pytest.mark.parametrize(("source", "ahead"), [("a.png", True), ("-", False)])
def test_standard_input_is_not_waited_for(
    source: str, ahead: bool, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, bool]] = []

    def answers(there: client.Client, sources: Any, top_k: int, ahead: bool = True) -> Iterator[Any]:
        asked.append((top_k, ahead))
        yield from ({**SAID["pictures"][0], "path": path} for path, _ in sources)  # type: ignore[dict-item, index]

    monkeypatch.setattr(client.Client, "_described", lambda self: MODEL)
    monkeypatch.setattr(client.Client, "classify", answers)
    given = picture if source == "a.png" else source
    assert classify("--server", "http://made.up", "--top-k", 2, given, input=b"a picture")[0] == 0
    assert asked == [(2, ahead)]


@pytest.mark.parametrize(
    "step", [problem(503, "too many", Retry_After="0"), problem(429, "600 a minute", Retry_After="1")]
)
def test_it_comes_again_when_it_is_told_to(step: tuple[int, Mapping[str, str], bytes], picture: Path) -> None:
    with answering(scripted(step, step, GOOD)) as address:
        assert classify("--server", address, picture)[0] == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (problem(503, "too many pictures are waiting", Retry_After="1"), r"too many pictures are waiting \(503, for"),
        (problem(429, "this key may send 6 pictures a minute"), r"this key may send 6 pictures a minute \(429\)"),
        (problem(401, "send a key"), "the server wants a key, which is missing"),
        (problem(404, "there is nothing here"), "this is no server of vit-hybrid serve, .* it answers 404"),
        ((502, {}, b"<html>Bad Gateway"), "this is no server of vit-hybrid serve, .* it answers 502"),
        ((200, {}, b"{}"), "it does not say what is in a picture"),
        ((200, {}, b"[]"), "it answers 200"),
    ],
)
def test_a_server_that_takes_no_more_ends_the_command(
    answer: tuple[int, Mapping[str, str], bytes], words: str, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.5)
    monkeypatch.setattr(client, "CONNECTIONS", 1)
    with answering(scripted(GOOD, answer)) as address:
        status, said, line = classify("--server", address, "--json", *[picture] * 3)
    assert status == 1
    assert json.loads(said)["predictions"]  # what was answered is not lost
    assert re.fullmatch(rf"vit-hybrid: {address}: .*{words}.*\n", line)


@pytest.mark.parametrize(
    "model", [b"", b"<html>", b"[]", b"{}", json.dumps({**MODEL, "limits": None}).encode(), b"[" * 99_999]
)
def test_another_server(model: bytes, picture: Path) -> None:
    with answering(lambda path, body: (200, {}, model)) as address:
        assert "this is no server of vit-hybrid serve, or not its address" in refused("--server", address, picture)


@pytest.mark.parametrize(
    ("bytes_sent", "words"),
    [(b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak http"), (b"", "ended the connection without an answer")],
)
def test_what_is_no_server_at_all(bytes_sent: bytes, words: str, picture: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(2):
                taken, _ = listening.accept()
                with taken:
                    taken.recv(1 << 16)
                    taken.sendall(bytes_sent)

        threading.Thread(target=serve, daemon=True).start()
        port = listening.getsockname()[1]
        assert words in refused("--server", f"http://127.0.0.1:{port}", picture)
        assert "does not speak https" in refused("--server", f"https://127.0.0.1:{port}", picture)


def test_a_server_that_does_not_answer(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert "no answer within 0 seconds" in refused("--server", address, picture)
    assert "nobody listens there; vit-hybrid serve starts" in refused("--server", address, picture)


def test_connections_that_the_server_ended_in_between_are_opened_again(picture: Path) -> None:
    with answering(scripted(GOOD)) as address, client.Client(address) as there:
        assert there._timeout == 5 + client.MARGIN  # longer than its deadline, so that it is heard what it says then
        there._connection().sock.shutdown(socket.SHUT_RDWR)
        [record] = there.classify([("a", str(picture))], top_k=1)
        assert "predictions" in record
    with answering(scripted(GOOD)) as address, client.Client(address) as there:
        records = there.classify([("a", str(picture))] * 3, top_k=1, ahead=False)
        next(records)
        records.close()  # as Ctrl-C does
        assert there._ended.is_set()


def test_who_is_closed_waits_for_no_answer(picture: Path) -> None:
    """As Ctrl-C does not."""
    asked, may_answer = threading.Semaphore(0), threading.Event()

    def answers(path: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if path.endswith("/v1/model"):
            return 200, {}, json.dumps(MODEL).encode()
        if body == b"first":
            return GOOD
        asked.release()
        may_answer.wait(30)
        return GOOD

    with answering(answers) as address, client.Client(address) as there:
        records = there.classify([("a", b"first"), *[("b", b"later")] * 99], top_k=1)
        assert "predictions" in next(records)
        asked.acquire(timeout=30)
        began = time.monotonic()
        records.close()
        assert time.monotonic() - began < 10
        may_answer.set()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1:8000", "localhost", "ftp://127.0.0.1", "http://", "http://x:y", "http://x:65536"),
        *("http://x/?a=1", "http://x/#a", "http://[x"),
    ],
)
def test_addresses_that_are_none(address: str, picture: Path) -> None:
    assert "is no address of a server; expected an address such as" in refused("--server", address, picture)


def test_no_password_in_an_address(picture: Path) -> None:
    for who in ("ann:secret", "secret", ":secret"):
        line = refused("--server", f"http://{who}@127.0.0.1:8000", picture)
        assert "no name or password" in line
        assert "secret" not in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--model", "x"), ["--model"]),
        (("--coverage", "0.9"), ["--coverage"]),  # the default, but typed
        (("--engine", "torch", "--batch-size", 3, "--uncalibrated"), ["--engine", "--batch-size", "--uncalibrated"]),
    ],
)
def test_what_makes_no_sense_beside_a_server(words: Sequence[object], named: Sequence[str], picture: Path) -> None:
    line = refused("--server", "http://127.0.0.1:1", *words, picture)
    assert all(name in line for name in named)
    assert len(re.findall(r"--[a-z-]+", line)) == len(named) + 1
    assert f" {'says' if len(named) == 1 else 'say'} how a model runs here" in line
    assert "give its address with --server" in refused("--api-key-file", "x", picture)

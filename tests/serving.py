"""A server in a process of its own on the loopback, and requests to it, for the tests of `serve`."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

PATIENCE = 60.0  # seconds: for a machine that is busy with other things


def encoded(picture: Image.Image, format: str = "JPEG") -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.save(file, format)
    return file.getvalue()


def photo(seed: int = 0, size: tuple[int, int] = (48, 40)) -> bytes:
    """A JPEG that is like no other."""
    pixels = Image.effect_noise(size, 60)
    return encoded(Image.merge("RGB", [pixels, pixels.rotate(90).resize(size), Image.new("L", size, seed % 256)]))


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:300]!r}"


class Server:
    """One that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.port = process, 0
        self.log: list[dict[str, Any]] = []
        self.other: list[str] = []  # lines of no JSON

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """A request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: bytes, content_type: str = "image/jpeg", **headers: str) -> Answer:
        return self.ask("POST", path, body, {"Content-Type": content_type, **headers})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def metric(self, name: str) -> float:
        """The sum over all labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def children(self) -> list[int]:
        """The processes that it has started and that live."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            found += [int(pid) for pid in task.read_text().split()]
        return [pid for pid in found if is_alive(pid)]

    def on_disk(self) -> tuple[int, set[str]]:
        """The bytes that it has had written to disks, and the files that it has open."""
        process = Path(f"/proc/{self.process.pid}")
        [line] = [line for line in (process / "io").read_text().splitlines() if line.startswith("write_bytes:")]
        files = set()
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):  # it was closed meanwhile
                files.add(str(descriptor.readlink()))
        return int(line.split()[1]), {file for file in files if file.startswith("/") and "memfd:" not in file}

    def megabytes(self) -> float:
        """What it and its workers have resident, memory that they share counted in each."""
        pages = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in (self.process.pid, *self.children())]
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in list(self.log) if line["event"] == name]

    def wait_for(self, event: str) -> dict[str, Any]:
        return until(lambda: (self.events(event) or [None])[0], f"no line {event}")

    def terminate(self, number: int = signal.SIGTERM) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Any, complaint: str) -> Any:
    """Waits for what comes sooner or later, and gives it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(complaint)


def command(*arguments: str, program: Sequence[str] = ("-m", "vit_hybrid")) -> list[str]:
    return [sys.executable, *program, *arguments]


@contextmanager
def running(
    *arguments: str, program: Sequence[str] = ("-m", "vit_hybrid", "serve"), **environment: str
) -> Iterator[Server]:
    """A server that listens, ended at the end, with all that it started."""
    given = (*arguments, "--port", "0")
    if "--drain-delay" not in given:
        given = (*given, "--drain-delay", "0")
    process = subprocess.Popen(
        command(*given, program=program),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    server = Server(process)

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            try:
                server.log.append(json.loads(line))
            except ValueError:
                server.other.append(line.decode())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        until(lambda: server.events("listening") or process.poll() is not None, "it does not listen")
        assert process.poll() is None, server.other
        server.port = int(server.events("listening")[0]["url"].rstrip("/").rpartition(":")[2])
        yield server
    finally:
        children = server.children()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(PATIENCE)
        assert process.stderr is not None
        process.stderr.close()
        until(lambda: not any(is_alive(pid) for pid in children), "processes are left over")
    # A busy machine may let a server find out how it runs fastest, which is said.
    unexpected = [line for line in server.other if " raced for " not in line]
    assert process.returncode == 1 or not unexpected, unexpected


def multipart(pictures: Sequence[bytes], **fields: str) -> tuple[bytes, str]:
    """A form's body, and its content type."""
    parts = [
        b'--boundary\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%b\r\n" % picture
        for picture in pictures
    ]
    parts += [
        f'--boundary\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    return b"".join([*parts, b"--boundary--\r\n"]), "multipart/form-data; boundary=boundary"


def as_json(pictures: Sequence[bytes], **fields: Any) -> bytes:
    return json.dumps({"images": [base64.b64encode(picture).decode() for picture in pictures], **fields}).encode()


def fake(*arguments: str, **environment: str) -> Any:
    """`running`, with the workers of `fake_worker`, whose model is there at once."""
    tests = Path(__file__).parent
    program = (str(tests / "fake_server.py"), "serve")
    path = os.pathsep.join(filter(None, [str(tests), os.environ.get("PYTHONPATH")]))
    return running(*arguments, program=program, PYTHONPATH=path, **environment)


def plain(color: str) -> bytes:
    """A picture of one color: what it makes `fake_worker` do stands there."""
    return encoded(Image.new("RGB", (20, 20), color), "PNG")

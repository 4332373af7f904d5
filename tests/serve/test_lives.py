"""Workers that die, models that are loaded anew, and the end of a server."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from serving import PATIENCE, Server, command, fake, is_alive, photo, until
from typer.testing import CliRunner

from vit_hybrid.cli.main import app

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")


class Asking:
    """Clients that ask without an end, each on connections that it keeps as long as it may."""

    def __init__(self, server: Server, clients: int) -> None:
        self.server = server
        self.statuses: Counter[object] = Counter()
        self.turned_away: list[float] = []  # when that was, by `time.monotonic`
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(photo(number),)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, body: bytes) -> None:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        while not self.stop.is_set():
            is_sent = False
            try:
                if connection.sock is None:
                    connection.connect()
                is_sent = True
                connection.request("POST", "/v1/classify", body, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
                if answer.status == 503:
                    self.turned_away.append(time.monotonic())
            except OSError as error:
                self.statuses["lost" if is_sent else "not let in"] += 1
                self.turned_away.append(time.monotonic())
                self.errors = repr(error)
                connection.close()
                if not is_sent:
                    break
        connection.close()

    def end(self) -> Counter[object]:
        self.stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a request hangs"
        return self.statuses


def test_killed_workers_are_replaced_and_no_request_hangs_or_is_an_error_of_the_server(tmp_path: Path) -> None:
    how = {"VIT_HYBRID_FAKE_SECONDS": "0.02", "VIT_HYBRID_FAKE_WARNING": str(tmp_path / "warns")}
    with fake("--workers", "2", "--max-batch", "2", **how) as server:
        (tmp_path / "warns").touch()
        asking = Asking(server, 6)
        for turn in range(1, 5):
            [pid, *_] = until(lambda: len(server.children()) == 2 and server.children(), "no two workers")
            os.kill(pid, signal.SIGKILL)
            # Until the one after it has said all it says: killed earlier, it would say less, and two count as ready
            # for as long as the server has not seen that one is gone.
            until(
                lambda pid=pid, turn=turn: (
                    not is_alive(pid)
                    and len(server.events("warning")) == turn
                    and server.get("/readyz").json["workers"] == 2
                ),
                "none comes after it",
            )
        assert server.get("/readyz").json["of"] == 2
        until(lambda: asking.statuses[200] > 20, "nothing is answered")
        assert set(asking.end()) <= {200, 503}
        assert server.metric("vit_hybrid_worker_restarts_total") == 4
        # What a worker says of its start is a line of the log, once the server listens.
        for event, text in (("progress", "opening colors"), ("warning", "colors: are pale")):
            assert [line["text"] for line in server.events(event)] == [text] * 4
        assert server.post("/v1/classify", photo()).status == 200


def test_the_requests_of_a_worker_that_dies_are_answered_at_once() -> None:
    with fake("--deadline", "1000", VIT_HYBRID_FAKE_SECONDS="1000") as server:
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(server.post("/v1/classify", photo()).status))
        asking.start()
        until(lambda: server.metric("vit_hybrid_batch_pictures_count") == 1, "no batch")
        os.kill(server.children()[0], signal.SIGKILL)
        asking.join(PATIENCE)
        assert answers == [503]
        until(
            lambda: server.get("/readyz").status == 503 or server.metric("vit_hybrid_worker_restarts_total"), "it lives"
        )


def test_signals_that_are_meant_for_the_server_end_no_worker() -> None:
    """Which whoever ends a container or a group of processes may send to all of them."""
    with fake(VIT_HYBRID_FAKE_SECONDS="0.5") as server:
        [worker] = server.children()
        asking = Asking(server, 1)
        until(lambda: server.metric("vit_hybrid_batch_pictures_count") > 0, "no batch")
        assert os.getpgid(worker) == worker  # Ctrl-C in a terminal is for the group of the server
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(worker, number)
        time.sleep(0.2)
        assert server.terminate() == 0
        assert set(asking.end()) <= {200, "not let in"}


def test_a_worker_that_is_stuck_is_replaced() -> None:
    with fake("--batch-timeout", "0.3", VIT_HYBRID_FAKE_SECONDS="1000") as server:
        assert server.post("/v1/classify", photo()).status == 503
        until(lambda: server.metric("vit_hybrid_worker_restarts_total") == 1, "it is not replaced")
        assert server.terminate(signal.SIGINT) == 130  # as of all that is ended by Ctrl-C


def test_readiness_is_that_of_the_workers(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with fake("--drain-delay", "1000", VIT_HYBRID_FAKE_BROKEN=str(broken)) as server:
        broken.touch()
        os.kill(server.children()[0], signal.SIGKILL)
        told = until(lambda: (one := server.get("/readyz")).status == 503 and one.json, "it says that it is ready")
        assert told == {"ready": False, "reason": "no worker is ready", "workers": 0, "of": 1}
        assert server.metric("vit_hybrid_workers_ready") == 0
        assert server.get("/healthz").status == 200
        # None can live: the model is gone, and nobody is to be sent elsewhere first.
        assert server.process.wait(PATIENCE) == 1
        until(lambda: server.other, "it does not say so")
        assert "no worker can run the model" in server.other[0]


def test_the_model_is_loaded_anew_on_a_signal(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with fake(VIT_HYBRID_FAKE_BROKEN=str(broken)) as server:
        before = server.children()
        asking = Asking(server, 3)
        broken.touch()
        server.process.send_signal(signal.SIGHUP)
        assert server.wait_for("reload refused")["reason"] == "broken: no such model"
        broken.unlink()
        assert server.children() == before
        server.process.send_signal(signal.SIGHUP)
        told = server.wait_for("reloaded")
        assert (told["model"], told["version"]) == ("vit-hybrid-tiny-imagenet", 2)
        until(lambda: not set(server.children()) & set(before), "the workers before are still there")
        assert set(asking.end()) == {200}
        assert server.get("/v1/model").json["version"] == 2


@pytest.mark.parametrize("round_", range(3))
def test_its_end_loses_no_request_and_turns_nobody_away_too_soon(round_: int) -> None:
    room = ("--max-batch", "2", "--max-queue", "50")
    with fake("--drain-delay", "0.5", *room, VIT_HYBRID_FAKE_SECONDS="0.05") as server:
        asking = Asking(server, 8)
        until(lambda: asking.statuses[200] > 10, "no answers")
        children = server.children()
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        told = until(lambda: (one := server.get("/readyz")).status == 503 and one.json, "it says that it is ready")
        assert told == {"ready": False, "reason": "ending", "workers": 1, "of": 1}
        assert server.post("/v1/classify", photo()).status == 200  # still taken
        assert server.process.wait(PATIENCE) == 0
        assert time.monotonic() - start > 0.5
        statuses = asking.end()
        assert set(statuses) <= {200, 503, "not let in"}, asking.errors
        assert min(asking.turned_away) - start >= 0.5
        assert not any(is_alive(pid) for pid in children)


def test_what_was_accepted_is_finished_and_idle_connections_are_closed() -> None:
    with fake("--drain-delay", "0", VIT_HYBRID_FAKE_SECONDS="1") as server:
        idle = server.connect()
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert _ends_with(idle, b"}")
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(server.post("/v1/classify", photo()).status))
        asking.start()
        until(lambda: server.metric("vit_hybrid_batch_pictures_count") == 1, "no batch")
        assert server.terminate() == 0
        asking.join(PATIENCE)
        assert answers == [200]
        assert idle.recv(1000) == b""
        idle.close()


def _ends_with(connection: socket.socket, end: bytes) -> bool:
    answer = b""
    while not answer.endswith(end):
        answer += connection.recv(1000)
    return True


def test_what_does_not_end_within_the_grace_is_told_so() -> None:
    with fake("--grace", "0.3", "--deadline", "1000", VIT_HYBRID_FAKE_SECONDS="1000") as server:
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(server.post("/v1/classify", photo()).status))
        asking.start()
        until(lambda: server.metric("vit_hybrid_batch_pictures_count") == 1, "no batch")
        assert server.terminate() == 0
        asking.join(PATIENCE)
        assert answers == [503]


def test_a_server_that_is_killed_leaves_no_worker_behind() -> None:
    with fake(VIT_HYBRID_FAKE_SECONDS="1000") as server:
        children = server.children()
        with pytest.MonkeyPatch.context():
            threading.Thread(target=_ask_quietly, args=(server,), daemon=True).start()
            until(lambda: server.metric("vit_hybrid_batch_pictures_count") == 1, "no batch")
        server.process.kill()
        until(lambda: not any(is_alive(pid) for pid in children), "it is left over")


def _ask_quietly(server: Server) -> None:
    with suppress(OSError):
        server.post("/v1/classify", photo())


class TestBadInput:
    """One line and status 2, before anything listens."""

    def refused(self, *arguments: str, **environment: str) -> str:
        tests = Path(__file__).parents[1]
        path = os.pathsep.join(filter(None, [str(tests), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            command(*arguments, program=(str(tests / "fake_server.py"), "serve")),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 2, done.stderr
        assert not done.stdout
        [line] = done.stderr.splitlines()
        return line

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            line = self.refused("--port", str(port))
        said = f"cannot listen on 127.0.0.1, port {port}: Address already in use; give another --host or --port."
        assert line == f"vit-hybrid: {said}"

    def test_an_address_that_is_not_ours(self) -> None:
        assert "cannot listen on 192.0.2.1" in self.refused("--host", "192.0.2.1", "--port", "0")

    def test_no_such_model(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        missing.touch()
        assert "no such model" in self.refused("--port", "0", VIT_HYBRID_FAKE_BROKEN=str(missing))

    def test_preprocessing_for_another_size(self) -> None:
        line = self.refused("--port", "0", VIT_HYBRID_FAKE_SIDE="9")
        assert "(3, 9, 9) of it, but the model takes (3, 8, 8)" in line

    def test_levels_that_are_no_shares(self) -> None:
        line = self.refused("--port", "0", "--coverage", "2")
        assert "--coverage is 2; expected a share between 0 and 1" in line
        line = self.refused("--port", "0", "--false-alarms", "0")
        assert "--false-alarms is 0; expected a share between 0 and 1" in line

    @pytest.mark.parametrize(
        "missing",
        [
            *(["fastapi"], ["uvicorn"], ["uvloop"], ["httptools"], ["prometheus_client"], ["python_multipart"]),
            ["uvicorn", "httptools"],
        ],
    )
    def test_a_missing_extra(self, missing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
        done = CliRunner().invoke(app, ["serve", "--port", "0"])
        assert done.exit_code == 2
        said = f"the server needs {', '.join(missing)}, not installed here; pip install 'vit-hybrid[serve]' brings it."
        assert done.stderr == f"vit-hybrid: {said}\n"

    def test_files_of_keys(self, tmp_path: Path) -> None:
        keys = tmp_path / "keys"
        assert "No such file" in self.refused("--api-key-file", str(keys))
        keys.write_text("# none yet\n")
        assert "has no keys" in self.refused("--api-key-file", str(keys))
        keys.write_text("ann a-key-of-somebody quota=many\n")
        line = self.refused("--api-key-file", str(keys))
        assert "line 1 has a word that is neither a quota nor admin" in line
        assert "a-key-of-somebody" not in line

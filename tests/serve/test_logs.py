"""The log: lines that are whole, sampled, and without folders."""

from __future__ import annotations

import io
import json
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from vit_hybrid.serve.logs import MOST_WAITING, Log, Sampler, without_folders


def test_lines_are_json_in_their_order() -> None:
    stream = io.StringIO()
    log = Log(stream)
    before = datetime.now(UTC) - timedelta(milliseconds=1)  # to which times are cut
    for number in range(5):
        log("counted", number=number, nothing=None)
    log.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["number"] for line in lines] == list(range(5))
    assert all(before <= datetime.fromisoformat(line["time"]) <= datetime.now(UTC) for line in lines)
    assert all(line["event"] == "counted" and line["level"] == "info" and "nothing" not in line for line in lines)


def test_a_line_is_there_as_soon_as_it_is_written() -> None:
    steps: list[str] = []

    class Buffered(io.StringIO):
        def write(self, text: str) -> int:
            steps.append("write")
            return super().write(text)

        def flush(self) -> None:
            steps.append("flush")

    log = Log(Buffered())
    log("one", "error")
    log("two")
    log.close()
    assert steps == ["write", "flush"] * 2


class Stopped(io.StringIO):
    """A stream that nobody reads for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.go_on.wait()
        return super().write(text)


def test_nobody_waits_for_a_log_that_nobody_reads() -> None:
    stream = Stopped()
    log = Log(stream)
    for number in range(MOST_WAITING + 100):
        log("counted", number=number)
    stream.go_on.set()
    log.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert MOST_WAITING <= len(lines) <= MOST_WAITING + 1
    assert sum(line.get("lines_dropped", 0) for line in lines) == MOST_WAITING + 100 - len(lines)


def test_the_end_waits_a_moment_alone_for_a_log_that_nobody_reads() -> None:
    stream = Stopped()
    log = Log(stream)
    log("counted")
    while not log._waiting.empty():  # till it is being written
        time.sleep(0.001)
    for _ in range(MOST_WAITING):
        log("counted")
    log.close()  # and no error of a log that is full
    assert stream.getvalue() == ""
    stream.go_on.set()


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_log_that_is_gone_ends_nothing(error: Exception) -> None:
    class Gone(io.StringIO):
        asked = 0

        def write(self, text: str) -> int:
            self.asked += 1
            raise error

    gone = Gone()
    log = Log(gone)
    log("counted")
    log.close()
    log("counted")
    assert gone.asked == 1
    nowhere = Log(None)
    nowhere("counted")
    nowhere.close()


def test_so_many_lines_of_a_kind_pass_in_a_second() -> None:
    sampler = Sampler(2)
    assert [sampler.take("a", 10 + part / 10) for part in range(5)] == [0, 0, None, None, None]
    assert sampler.take("b", 10.5) == 0
    assert [sampler.take("a", 11.0), sampler.take("a", 11.1), sampler.take("a", 11.2)] == [3, 0, None]
    assert [sampler.take("b", 11.0), Sampler(0).take("a", 11.0)] == [0, None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/model/config.json: no such file", "config.json: no such file"),
        ("cannot read '/srv/a b'", "cannot read 'a b'"),
        ("~/models/x.npz is damaged", "x.npz is damaged"),
        ("google/vit-hybrid-base-bit-384 is no model", "google/vit-hybrid-base-bit-384 is no model"),
        ("1/2 of it", "1/2 of it"),
    ],
)
def test_folders_are_left_out(text: str, expected: str) -> None:
    assert without_folders(text) == expected

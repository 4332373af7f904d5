"""The figures of benchmarks/serving.py, small: it asks when it says, counts what comes back, and takes itself off."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from repository import REPOSITORY, loaded
from serving import fake, photo

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvloop", reason="needs the extra serve")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "benchmarks")
        module = loaded("benchmarks/serving.py")
    yield module
    sys.modules.pop("asking", None)


def test_rates_and_latencies(script: ModuleType) -> None:
    asked = script.Asked(10.0, 5.0, Counter({200: 300, 503: 100}), [0.01 * position for position in range(100)])
    assert asked.rate == 30
    assert asked.corrected(cores=2) == pytest.approx(30 * 2 / 1.5)
    assert asked.percentile(0.5) == 0.5
    assert asked.percentile(0.99) == 0.99


def test_a_server_is_asked_and_measured(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(photo())
    with fake("--max-batch", "2", "--max-queue", "4", VIT_HYBRID_FAKE_SECONDS="0.02") as server:
        there = object.__new__(script.Server)  # one that runs already
        there.process, there.port = server.process, server.port

        class Alone:
            def rate(self, seconds: float) -> float:
                return 50.0

        arguments = argparse.Namespace(
            picture=picture, seconds=0.5, cores=2, turns=1, loads=(0.5, 0.8), max_queue=4, requests=30, kill_seconds=0
        )
        found: dict[str, Any] = script.load(arguments, there, Alone())
        assert found["alone"] == 50
        assert found["served"] > 0
        assert found["batch_seconds"] >= 0.02
        assert [row["load"] for row in found["loads"]] == [0.5, 0.8]
        assert script.leavers(arguments, there, 20.0)["shares"][0] > 0
        grown = script.memory(arguments, there, 60.0)
        assert grown["before_mb"] > 10
        asked = script.run(there, script.request_of(photo()), 400.0, 0.5, 0)
        assert asked.statuses[503] > 0  # at 100 a second, which is all that it can
        assert set(asked.statuses) <= {200, 503, "after the end"}
        assert there.metrics()["vit_hybrid_refusal_seconds_count"] == server.metric("vit_hybrid_shed_total")
    assert "batch times (at most 4)" in capsys.readouterr().out
    pytest.importorskip("matplotlib", reason="needs the extra evaluate")
    script.draw(found, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000
    json.dumps(found)


def test_at_twice_the_load_waits_are_told_inside_and_as_the_client_saw_them(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(photo())
    given = ("--max-batch", "2", "--max-queue", "4", *script.ALL_LINES)
    with fake(*given, VIT_HYBRID_FAKE_SECONDS="0.02") as server:

        class There(script.Server):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                self.process, self.port, self.log = server.process, server.port, tmp_path / "log"

            def end(self, number: int = 0) -> int:
                status = server.terminate()
                server.wait_for("ended")
                self.log.write_text("".join(json.dumps(line) + "\n" for line in server.log))
                return status

        arguments = argparse.Namespace(picture=picture, seconds=1.0, max_queue=4)
        found: dict[str, Any] = script.twice(arguments, There(), 100.0)
    assert found["refused"] > 0
    assert found["batch_seconds"] >= 0.02
    assert 1 <= found["pictures_a_batch"] <= 2
    assert 0.02 <= found["p99_inside"] <= found["longest_inside"] < 10
    assert 0.02 <= found["p99_from_sent"] < 10
    assert 0.02 <= found["p99_from_due"] <= found["longest_from_due"] < 10
    assert found["bound"] > 0.04
    said = capsys.readouterr().out
    assert f"who was let in waited {1000 * found['p99_inside']:.0f} ms at p99 inside" in said
    assert f"as the client saw it, on the same cores, {1000 * found['p99_from_sent']:.0f} from when it sent" in said
    json.dumps(found)


def test_an_ask_is_on_time_whatever_becomes_of_it(script: ModuleType) -> None:
    """Nothing listens: all are lost, and no fewer are sent."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    asked = asyncio.run(script.ask(port, b"", 100.0, 0.5))
    assert set(+asked.statuses) == {"lost"}
    assert asked.statuses["lost"] > 20

"""How much a server answers, how soon, and what it does with more than that.

    python benchmarks/serving.py [--model MODEL] [--output FOLDER] [--seconds 20] [--requests 100000] [--quick]

A server of `vit-hybrid serve` in a process of its own is asked over the loopback by this one: pictures as they are, on
64 connections, at random times that do not wait for answers (Poisson), so that a late answer is late from when it was
due. The processor time that asking takes is measured, and what the server could have done with it is added: with c of
n cores at the client, a rate counts n / (n - c) times. All is compared with the engine and the decoding alone, in turns
with the server and in a third process: `Predictor.stream`, which decodes in threads while a batch is computed.

Sections, all of them by default:

- load: throughput against that of engine and decoding; latency at several loads; at twice the throughput, what is
  refused, how fast, and how long those wait that are let in: inside, by the log of a server of its own that has a line
  of each request, and as this process sees it, which has to share the cores with the server.
- leavers: what others get while 30 % of the clients go away early.
- memory: what it grows by over many requests.
- kills: a worker is killed every five seconds for a minute.
- ends: SIGTERM at full load, twenty times.

Prints tables, then one JSON line; with --output also results.json and chart.png.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from asking import PATIENCE, Asked, ask, percentile, request_of

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "examples" / "cat.jpg"
LOADS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
SECTIONS = ("load", "leavers", "memory", "kills", "ends")
# Lines of the access log: one of each request.
ALL_LINES = ("--access-log-rate", "1000000")


# --- The server, and what it is compared with -------------------------------------------------------------------------


class Server:
    """One of `vit-hybrid serve`.

    Args:
        arguments: Its own.
        log: A file for what it says; by default that goes nowhere.
    """

    def __init__(self, arguments: Sequence[str], log: Path = Path(os.devnull)) -> None:
        self.log = log
        command = [sys.executable, "-m", "vit_hybrid", "serve", *arguments, "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if '"listening"' in line:
                self.port = int(json.loads(line)["url"].rstrip("/").rpartition(":")[2])
                break
            if not line.startswith("{"):
                raise SystemExit(line)
        with open(log, "wb") as file:
            self._log = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=file)
        self.process.stderr.close()

    def metrics(self) -> dict[str, float]:
        """By name, with labels other than buckets summed over."""
        from urllib.request import urlopen

        found: dict[str, float] = {}
        with urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            for line in answer.read().decode().splitlines():
                match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
                if match:
                    bucket = re.search(r'le="([^"]+)"', match[2] or "")
                    name = match[1] + (f" {bucket[1]}" if bucket else "")
                    found[name] = found.get(name, 0.0) + float(match[3])
        return found

    def answered(self, since: datetime) -> list[float]:
        """Seconds from the last header of each request that was answered with 200 to the end of its answer, by its log,
        once it has ended."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        assert not any("lines_dropped" in line or "skipped" in line for line in lines)
        asked = [line for line in lines if line["event"] == "request" and line["route"].startswith("/v1/")]
        asked = [line for line in asked if datetime.fromisoformat(line["time"]) >= since]
        return [line["ms"] / 1000 for line in asked if line["status"] == 200]

    def workers(self) -> list[int]:
        """The processes that run the model."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def megabytes(self) -> float:
        """What the server and its workers have resident of their own."""
        pages = sum(
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (self.process.pid, *self.workers())
        )
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def end(self, number: int = signal.SIGINT) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self._log.wait(PATIENCE)
        return status


COMPARED = """
import sys, time
from pathlib import Path
from vit_hybrid import Predictor
model, picture, batch, engine, precision = sys.argv[1:]
content = Path(picture).read_bytes()
options = {"engine": engine, "precision": precision, "batch_size": int(batch)}
predictor = Predictor.from_pretrained(model, **options)
print("ready", flush=True)
for line in sys.stdin:
    count = int(line)
    start = time.perf_counter()
    assert all("predictions" in record for record in predictor.stream([content] * count, top_k=5, read_ahead=True))
    print(time.perf_counter() - start, flush=True)
"""


class Compared:
    """The engine and the decoding without a server, in a process of their own."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        given = (arguments.model, arguments.picture, arguments.max_batch, arguments.engine, arguments.precision)
        command = [sys.executable, "-c", COMPARED, *map(str, given)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self._count = 4 * arguments.max_batch
        self.rate(0.5)

    def rate(self, seconds: float) -> float:
        """Pictures a second, over about so long."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self._count}\n")
        self.process.stdin.flush()
        rate = self._count / float(self.process.stdout.readline())
        self._count = max(self._count, int(rate * seconds))
        return rate

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE)


# --- Sections ---------------------------------------------------------------------------------------------------------


def load(arguments: argparse.Namespace, server: Server, compared: Compared) -> dict[str, Any]:
    """Throughput, and latency against load."""
    request, seconds, cores = request_of(arguments.picture.read_bytes()), arguments.seconds, arguments.cores
    turns: list[tuple[float, float]] = []
    before = server.metrics()
    for turn in range(arguments.turns):
        alone = compared.rate(seconds / 2)
        asked = run(server, request, 1.3 * alone, seconds, turn)
        turns.append((alone, asked.corrected(cores)))
        shares = ", ".join(f"{served / alone:.2f}" for alone, served in turns)
    after = server.metrics()
    batch = per({name: value - before.get(name, 0.0) for name, value in after.items()}, "vit_hybrid_batch_seconds")
    alone = max(rate for rate, _ in turns)
    rate = max(served for _, served in turns)
    print(
        f"engine and decoding {alone:8.1f} a second; the server {rate:8.1f}, {rate / alone:.2f} of it (turns: {shares})"
    )
    print(f"a batch takes {1000 * batch:.1f} ms\n\n load  offered/s  answered/s  refused  p50 ms  p99 ms  late")
    rows = []
    for share in arguments.loads:
        asked = run(server, request, share * rate, seconds, 100)
        row = {
            "load": share,
            "offered": share * rate,
            "answered": asked.corrected(cores),
            "refused": asked.statuses[503],
            "p50": asked.percentile(0.5),
            "p99": asked.percentile(0.99),
            "late": asked.late,
        }
        rows.append(row)
        print(
            f"{share:5.2f} {row['offered']:10.1f} {row['answered']:11.1f} {row['refused']:8d}"
            f" {1000 * row['p50']:7.1f} {1000 * row['p99']:7.1f} {row['late']:5d}"
        )
    found = {
        "alone": alone,
        "served": rate,
        "share": rate / alone,
        "batch_seconds": batch,
        "loads": rows,
        "p99_in_batches_at_0.8": next((row["p99"] / batch for row in rows if row["load"] == 0.8), None),
    }
    print(f"\nat 0.8 of the load, p99 is {found['p99_in_batches_at_0.8'] or float('nan'):.1f} batch times (at most 4)")
    return found


def twice(arguments: argparse.Namespace, server: Server, rate: float) -> dict[str, Any]:
    """Twice as much as there can be answered, of a server that writes a line of each request and then ends."""
    request = request_of(arguments.picture.read_bytes())
    run(server, request, rate, min(2.0, arguments.seconds), 100)  # which warms it up
    began, before = datetime.now(UTC), server.metrics()
    asked = run(server, request, 2 * rate, arguments.seconds, 101)
    grown = {name: value - before.get(name, 0.0) for name, value in server.metrics().items()}
    server.end()
    inside = server.answered(began)
    refused, batch = (grown["vit_hybrid_refusal_seconds_count"], per(grown, "vit_hybrid_batch_seconds"))
    found = {
        "refused": refused,
        "refused_within_5_ms": grown["vit_hybrid_refusal_seconds_bucket 0.005"] / refused if refused else None,
        "batch_seconds": batch,
        "pictures_a_batch": per(grown, "vit_hybrid_batch_pictures"),
        "late": asked.late,
        **{
            f"p99_{where}": percentile(waits, 0.99)
            for where, waits in (("inside", inside), ("from_sent", asked.waits), ("from_due", asked.latencies))
        },
        "longest_inside": max(inside, default=float("nan")),
        "longest_from_due": max(asked.latencies, default=float("nan")),
        "bound": arguments.max_queue / max(asked.rate, 1e-9) + 2 * batch,
    }
    within = 100 * (found["refused_within_5_ms"] or 0)
    print(f"\nat twice the load {refused:.0f} were refused, {within:.1f} % of them within 5 ms inside;")
    print(
        f"who was let in waited {1000 * found['p99_inside']:.0f} ms at p99 inside, at most "
        f"{1000 * found['longest_inside']:.0f} (queue over rate plus two batches: {1000 * found['bound']:.0f});"
    )
    print(
        f"as the client saw it, on the same cores, {1000 * found['p99_from_sent']:.0f} from when it sent the request, "
        f"{1000 * found['p99_from_due']:.0f} from when that was due; {asked.late} were due before a connection was free"
    )
    return found


def per(metrics: Mapping[str, float], name: str) -> float:
    """The mean of a histogram."""
    return metrics[f"{name}_sum"] / metrics[f"{name}_count"]


def leavers(arguments: argparse.Namespace, server: Server, rate: float) -> dict[str, Any]:
    """What those that wait get, without and with clients that go away."""
    request = request_of(arguments.picture.read_bytes())
    shares = []
    for turn in range(arguments.turns):
        without = run(server, request, 0.8 * rate, arguments.seconds, turn)
        beside = run(server, request, 0.8 * rate, arguments.seconds, turn, leaving=0.3)
        shares.append(beside.corrected(arguments.cores) / without.corrected(arguments.cores))
    print(f"beside 30 % that go away, the others get {median(shares):.3f} of what they get without (at least 0.95)")
    return {"shares": shares}


def memory(arguments: argparse.Namespace, server: Server, rate: float) -> dict[str, Any]:
    """What the processes grow by over many requests."""
    request = request_of(arguments.picture.read_bytes())
    run(server, request, 0.7 * rate, min(arguments.seconds, 10), 200)  # every pool is full then
    before = server.megabytes()
    asked = run(server, request, 0.7 * rate, arguments.requests / (0.7 * rate), 201)
    after = server.megabytes()
    count = asked.statuses.total()
    print(
        f"{before:.1f} MB before {count} requests, {after:.1f} after: {100 * (after / before - 1):+.2f} % (at most 2)"
    )
    return {"requests": count, "before_mb": before, "after_mb": after}


def kills(arguments: argparse.Namespace, server: Server, rate: float) -> dict[str, Any]:
    """A worker is killed every five seconds."""
    request, every = request_of(arguments.picture.read_bytes()), 5.0

    async def killing() -> Asked:
        async def kill() -> None:
            for _ in range(int(arguments.kill_seconds / every)):
                await asyncio.sleep(every)
                for pid in server.workers()[:1]:
                    os.kill(pid, signal.SIGKILL)

        asked, _ = await asyncio.gather(ask(server.port, request, 0.5 * rate, arguments.kill_seconds + every), kill())
        return asked

    asked = asyncio.run(killing())
    print(f"with a worker killed every {every:g} s: {dict(asked.statuses)}")
    return {"statuses": {str(status): count for status, count in asked.statuses.items()}}


def ends(arguments: argparse.Namespace, rate: float) -> dict[str, Any]:
    """SIGTERM at full load: requests are sent until the server no longer lets anybody in."""
    request = request_of(arguments.picture.read_bytes())
    counts: Counter[Any] = Counter()
    for turn in range(arguments.ends):
        server = Server([*arguments.served, "--drain-delay", "1"])

        async def ending(server: Server = server, turn: int = turn) -> Asked:
            async def end() -> None:
                await asyncio.sleep(1)
                server.process.send_signal(signal.SIGTERM)

            # Until the drain delay is nearly over, nobody may be turned away.
            asked, _ = await asyncio.gather(ask(server.port, request, rate, 1.9, seed=turn), end())
            return asked

        asked = asyncio.run(ending())
        children = server.workers()
        counts["exit status not 0"] += server.process.wait(PATIENCE) != 0
        time.sleep(1)
        counts["processes left"] += sum(Path(f"/proc/{pid}").exists() for pid in children)
        counts += asked.statuses
        counts.pop("after the end", None)
    print(f"after SIGTERM at full load, {arguments.ends} times: {dict(counts)}")
    return {str(name): count for name, count in counts.items()}


def run(server: Server, request: bytes, rate: float, seconds: float, seed: int, leaving: float = 0.0) -> Asked:
    """`ask`, on an event loop of its own."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(ask(server.port, request, rate, seconds, seed=seed, leaving=leaving))


def draw(found: dict[str, Any], path: Path) -> None:
    """Latency against load."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = found["loads"]
    figure, axes = pyplot.subplots(figsize=(6.4, 4.4))
    for name, style in (("p50", "o--"), ("p99", "o-")):
        axes.plot([row["load"] for row in rows], [1000 * row[name] for row in rows], style, label=name)
    axes.axhline(4000 * found["batch_seconds"], color="gray", linewidth=1, label="4 batches")
    axes.axvline(1, color="gray", linewidth=1, linestyle=":")
    axes.set(xlabel="load, of what the server can answer", ylabel="ms until the answer", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-hybrid-tiny-imagenet")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="what is asked about")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--turns", type=int, default=3, help="of server and engine, and of clients that leave")
    parser.add_argument("--requests", type=int, default=100_000, help="in the section on memory")
    parser.add_argument("--kill-seconds", type=float, default=60.0)
    parser.add_argument("--ends", type=int, default=20)
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true", help="a few seconds of each, to see that it works")
    parser.add_argument("--output", type=Path, help="a folder for results.json and chart.png")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.turns, arguments.requests, arguments.ends = 2.0, 1, 1000, 1
        arguments.kill_seconds, arguments.loads = 5.0, (0.5, 0.8)
    arguments.cores = len(os.sched_getaffinity(0))
    arguments.max_queue = 2 * arguments.max_batch  # for several workers too, so that 64 connections can fill it
    arguments.served = [
        arguments.model,
        *("--engine", arguments.engine, "--precision", arguments.precision, "--workers", str(arguments.workers)),
        *("--max-batch", str(arguments.max_batch), "--max-queue", str(arguments.max_queue)),
    ]
    found: dict[str, Any] = {"model": arguments.model, "cores": arguments.cores}
    server, compared = Server(arguments.served), Compared(arguments)
    try:
        rate = compared.rate(1.0) / 2
        if "load" in arguments.sections:
            found["load"] = load(arguments, server, compared)
            rate = found["load"]["served"]
            with tempfile.TemporaryDirectory() as folder:
                overloaded = Server([*arguments.served, *ALL_LINES], Path(folder) / "log")
                found["load"]["twice"] = twice(arguments, overloaded, rate)
        for section in (leavers, memory, kills):
            if section.__name__ in arguments.sections:
                found[section.__name__] = section(arguments, server, rate)
    finally:
        compared.end()
        server.end()
    if "ends" in arguments.sections:
        found["ends"] = ends(arguments, rate)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        if "load" in found:
            draw(found["load"], arguments.output / "chart.png")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

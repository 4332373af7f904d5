"""Several processes that know each other as those of torchrun do, forked from one that has loaded the libraries.

A launcher loads torch and transformers in each of its processes, which takes most of the time of a test with models as
tiny as these. `together` leaves that out; the launchers themselves are tested too, where it matters.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fresh_process import TIME_LIMIT, environment

_SERVER = """
import json, os, signal, socket, sys, tempfile, traceback
import accelerate.commands.launch, matplotlib.backends.backend_agg, torch, torch._dynamo, torchmetrics.functional
import torch.distributed.fsdp, torch.distributed.checkpoint.state_dict
import vit_hybrid.cli.main, vit_hybrid.evaluate.job, vit_hybrid.train.job, vit_hybrid.train.progress

LIMIT = int(sys.argv[1])

def child(request, rank, port, output):
    count = str(request["count"])
    os.environ.update(request["environment"])
    if request["count"] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=count, LOCAL_WORLD_SIZE=count,
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    signal.alarm(LIMIT)
    status = 0
    try:
        exec(compile(request["code"], "<process>", "exec"), {"__name__": "__main__", "RANK": rank})
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

for line in sys.stdin:
    request = json.loads(line)
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    running = []
    for rank in range(request["count"]):
        output = tempfile.TemporaryFile("w+b")
        process = os.fork()
        if process == 0:
            child(request, rank, port, output.fileno())
        running.append((process, output))
    answer = []
    for process, output in running:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        output.seek(0)
        answer.append((status, output.read().decode(errors="backslashreplace")))
        output.close()
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, negative for a signal, and what it printed on both streams."""

    status: int
    output: str


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(TIME_LIMIT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(
            PYTHONPATH=os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        ),
    )
    atexit.register(_close, server)
    return server


def _close(server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    server.wait(timeout=TIME_LIMIT)
    server.stdout.close()


def together(code: str, count: int = 2, env: Mapping[str, str] | None = None) -> list[Ended]:
    """Runs `code`, which finds its process's number in RANK, in so many processes, and waits for all of them."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    print(json.dumps({"code": code, "count": count, "environment": dict(env or {})}), file=server.stdin, flush=True)
    return [Ended(*each) for each in json.loads(server.stdout.readline())]

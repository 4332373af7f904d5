"""Interpreters of their own for tests in which import order and environment matter.

`run` starts a Python from nothing. `run_forked` forks one from an interpreter that has loaded torch (and the parts of
torch that transformers loads) and nothing of transformers or vit_hybrid, which saves seconds a call.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

TIME_LIMIT = 300  # seconds for one piece of code; on a quiet machine it takes a few
ATTEMPTS = 3  # for what is measured
PROXIES = ("http_proxy", "https_proxy", "all_proxy")

# The beginning of code that is to run where vit_hybrid is not installed.
WITHOUT_THE_PACKAGE = """
import os, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vit_hybrid":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
sys.path[:] = [path for path in sys.path if not os.path.isdir(os.path.join(path, "vit_hybrid"))]
"""

_SERVER = """
import json, os, signal, sys, traceback, warnings
import numpy, PIL.Image, torch
import torch._dynamo, torch.distributed.checkpoint, torch.distributed.tensor
assert not {"transformers", "huggingface_hub", "vit_hybrid"} & set(sys.modules)

LIMIT = int(sys.argv[1])

def child(request):
    os.environ.update(request["environment"])
    signal.alarm(LIMIT)
    warnings.simplefilter("error")
    try:
        exec(compile(request["code"], "<fresh>", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        status = child(json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
        output = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps({"status": status, "output": output}), flush=True)
"""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment on one thread, without proxies and without the network, with `changes`."""
    inherited = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
    return {**inherited, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_PROXY": "*", **changes}


def run(code: str, *flags: str, env: Mapping[str, str] | None = None) -> str:
    """What `code` prints in a new interpreter; fails the test where it ends with an error."""
    command = [sys.executable, *flags, "-c", code]
    done = subprocess.run(
        command, env=environment(**(env or {})), capture_output=True, text=True, timeout=TIME_LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cpu_seconds(code: str) -> float:
    """The processor's seconds that `code` takes in a new interpreter, all of its threads and its start included.

    Unlike what a clock says, they hardly grow where others want the processor too.
    """
    import resource  # which is not on every system

    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = spent()
    run(code)
    return spent() - before


@cache
def _seconds_of_importing_torch() -> float:
    return min(cpu_seconds("import torch") for _ in range(ATTEMPTS))


def share_of_importing_torch(code: str) -> float:
    """What `code` takes in a new interpreter, as a share of what `import torch` takes there.

    That import is what most of a start-up goes into, about 1.4 seconds, and a share of it is much the same on a slow
    processor as on a fast one. The least of a few, for a busy machine slows some of them down.
    """
    return min(cpu_seconds(code) for _ in range(ATTEMPTS)) / _seconds_of_importing_torch()


class _ForkServer:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(TIME_LIMIT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def ask(self, request: dict[str, object]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps(request), file=stdin, flush=True)
        answer: dict[str, Any] = json.loads(stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=TIME_LIMIT)
        self._process.stdout.close()


@cache
def _fork_server() -> _ForkServer:
    server = _ForkServer()
    atexit.register(server.close)
    return server


def run_forked(code: str, **env: str) -> str:
    """What `code` prints, on standard output and error, in a forked interpreter with warnings as errors.

    Fails the test where it ends with an error. `env` changes its environment before anything reads it.
    """
    answer = _fork_server().ask({"code": code, "environment": env})
    assert answer["status"] == 0, f"exit status {answer['status']}\n{answer['output']}"
    return str(answer["output"])

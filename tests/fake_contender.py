"""A process that speaks the benchmark's protocol without any engine, and fails on demand.

    python fake_contender.py ACTS LOG

ACTS is JSON: by a contender's precision, what it does. "slow" takes longer; the others are failures, at the start or in
a turn of two pictures. LOG gets a line for each task and turn.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import numpy as np

from vit_hybrid.benchmark import peer

acts, log = json.loads(sys.argv[1]), sys.argv[2]


def note(*words: object) -> None:
    with open(log, "a", encoding="utf-8") as file:
        print(os.getpid(), *words, file=file)


def engine(task: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    name = task["options"]["precision"]
    act = acts.get(name, "")
    note("start", name, task["options"]["attention"])
    if act == "refuse":
        raise ValueError("this precision is not\nto be had")
    if act == "crash":
        print("at first\nabout to fall\n", file=sys.stderr, flush=True)
        os._exit(3)
    if act == "hang":
        time.sleep(60)

    def run(pixels: np.ndarray) -> np.ndarray:
        note("turn", name, len(pixels))
        if len(pixels) == 2 and act == "refuse two":
            raise MemoryError("no room for two")
        if len(pixels) == 2 and act == "die at two":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(pixels) == 2 and act == "hang at two":
            time.sleep(60)
        time.sleep(0.02 if act == "slow" else 0.01)
        logits = np.zeros((len(pixels), 3), np.float32)
        logits[:, 1] = 1.0
        if act == "slow":
            logits[0] = (2.0, 0.5, 0.0)
        return logits

    print("libraries may print")
    peer.first_pass(run, task["pixels"])
    return {"device": "fake"}, peer.passes_over(run, task["pixels"])


def matrix_product(task: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    asked: list[str] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["precision"])
        return {"rate": 1e9 if asked.count(request["precision"]) == 2 else 7e8, "seconds": [0.25]}  # best the 2nd time

    return {"device": "fake", "device_name": "Abacus"}, answer


def preprocessing(task: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    asked: list[bool] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["decode_only"])
        busy = 0.0 if asked.count(request["decode_only"]) == 2 else 0.1
        return {"seconds": [0.7, busy + (0.25 if request["decode_only"] else 0.4)], "pictures": 4}

    return {}, answer


peer.serve({"engine": engine, "matrix-product": matrix_product, "preprocessing": preprocessing})

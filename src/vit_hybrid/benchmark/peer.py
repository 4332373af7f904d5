"""What a contender's process does: it answers lines of JSON with lines of JSON. Run as a file, it is a peer's process.

Imports nothing of this package and, at its top, only the standard library, so that the Python of another environment
(3.9 or newer) can run this very file to time transformers 4.49 or timm there.

The first line on standard input is a task; its answer is `{"ready": {...}}` once the first logits are there. Every
further line asks for a turn, whose answer holds the `seconds` of its passes. Where either fails, the answer is
`{"error": "one line"}`. The process ends with its standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

# Seconds. A shorter pass takes a share of them to wake its threads and to bring back what the others' turns displaced.
LONG_PASS = 1.0
# A turn of one pass measures small models badly: within this limit passes are repeated until the turn is long enough.
MOST_PASSES = 50
# Of the memory of a GPU; what one contender keeps in reserve beyond it is missed by another.
LEAST_FREE_SHARE = 0.5
KIBIBYTE = 1024
STATUS, CLEAR_REFERENCES, CLEAR_PEAK = "/proc/self/status", "/proc/self/clear_refs", "5"  # see proc(5)

# What a peer's process may name in its answers.
LIBRARIES = ("torch", "transformers", "timm", "numpy")


def serve(kinds: dict[str, Callable[[dict[str, Any]], tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]]]) -> None:
    """Answers until standard input ends.

    Args:
        kinds: By the task's `kind`, what gets the task and gives what to say once ready, and what answers requests.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not end up among the replies

    def reply(answer: dict[str, Any]) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    try:
        task = json.loads(sys.stdin.readline())
        about, answer = kinds[task["kind"]](task)
    except Exception as error:  # libraries fail in as many ways as there are
        reply({"error": one_line(error)})
        return
    reply({"ready": {**about, "peak_bytes": peak_bytes()}})
    for line in sys.stdin:
        try:
            reply(answer(json.loads(line)))
        except Exception as error:
            reply({"error": one_line(error)})


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def timed(run: Callable[[], Any], least_seconds: float) -> tuple[list[float], Any]:
    """The seconds of each pass of a turn, and what the last gave.

    A first pass of less than `LONG_PASS` only warms up; then come as many as fill `least_seconds`, and one at least.
    """
    start = time.perf_counter()
    result = run()
    passes = [time.perf_counter() - start]
    if passes[0] >= LONG_PASS:
        return passes, result
    passes = []
    while not passes or (sum(passes) < least_seconds and len(passes) < MOST_PASSES):
        start = time.perf_counter()
        result = run()
        passes.append(time.perf_counter() - start)
    return passes, result


def peak_bytes() -> int | None:
    """The most memory this process had resident since `forget_peak`, or since its start where that does nothing."""
    try:
        with open(STATUS) as status:
            [line] = [line for line in status if line.startswith("VmHWM:")]
        return int(line.split()[1]) * KIBIBYTE
    except (OSError, ValueError):  # no Linux
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else KIBIBYTE)


def forget_peak() -> None:
    """Starts `peak_bytes`, and what torch knows of a GPU, anew."""
    try:
        with open(CLEAR_REFERENCES, "w") as file:
            file.write(CLEAR_PEAK)
    except OSError:  # no Linux, or not allowed: the peak is that of the whole process then
        pass
    torch = torch_on_gpu()
    if torch is not None:
        torch.cuda.reset_peak_memory_stats()


def torch_on_gpu() -> Any:
    """torch, where this process uses it on a CUDA GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def passes_over(
    run: Callable[[Any], Any], pixels_file: str, place: Callable[[Any], Any] | None = None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What answers requests for forward passes: `{"batch": pictures, "least_seconds": ...}`.

    `"fresh": true` starts the memory's peak anew, `"logits": path` writes there what the pass gave. With `place`, the
    `seconds` are those of passes over what lies on the device already, and `copied_seconds` of those from NumPy.

    Args:
        run: From (N, C, H, W) pixel values, NumPy's or what `place` makes of them, to (N, labels) logits of NumPy's.
        pixels_file: The pixel values, as `numpy.save` writes them.
        place: Copies pixel values to another device, where there is one.
    """
    import numpy

    batch: Any = None
    placed: Any = None

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal batch, placed
        count, least = request["batch"], request["least_seconds"]
        if batch is None or len(batch) != count:
            placed = None  # before the next, for want of room
            batch = numpy.array(numpy.load(pixels_file, mmap_mode="r")[:count])
            placed = batch if place is None else place(batch)
        if request.get("fresh"):
            forget_peak()
        seconds, logits = timed(lambda: run(placed), least)
        if request.get("logits"):
            numpy.save(request["logits"], logits)
        found = {"seconds": seconds, "peak_bytes": peak_bytes()}
        if place is not None:
            found["copied_seconds"], _ = timed(lambda: run(batch), least)
        torch = torch_on_gpu()
        if torch is not None:
            found["device_peak_bytes"] = torch.cuda.max_memory_allocated()
            free, total = torch.cuda.mem_get_info()
            if free < LEAST_FREE_SHARE * total:
                torch.cuda.empty_cache()
        return found

    return answer


def first_pass(run: Callable[[Any], Any], pixels_file: str) -> None:
    """The logits of one picture, after which a contender is ready."""
    import numpy

    run(numpy.array(numpy.load(pixels_file, mmap_mode="r")[:1]))


def versions() -> dict[str, str]:
    """Python's and those of `LIBRARIES` that are installed beside it, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _peer(task: dict[str, Any]) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]:
    """Loads the task's `model`, a folder, with the library that `kind` names."""
    import torch

    torch.set_num_threads(task["threads"])
    device, dtype = torch.device(task["device"]), getattr(torch, task["dtype"])
    logits_of = _legacy(task, dtype, device) if task["kind"] == "legacy" else _timm(task, dtype, device)

    def run(pixels: Any) -> Any:
        with torch.inference_mode():
            return logits_of(torch.as_tensor(pixels).to(device, dtype)).float().cpu().numpy()

    def place(pixels: Any) -> Any:
        return torch.as_tensor(pixels).to(device)

    first_pass(run, task["pixels"])
    about = {"device": str(device), "versions": versions()}
    return about, passes_over(run, task["pixels"], None if device.type == "cpu" else place)


def _legacy(task: dict[str, Any], dtype: Any, device: Any) -> Callable[[Any], Any]:
    from transformers import ViTHybridForImageClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    # 4.49 picks sdpa by itself, and refuses to be asked for it.
    options = {"attn_implementation": task["attention"]} if task["attention"] == "eager" else {}
    model = ViTHybridForImageClassification.from_pretrained(task["model"], torch_dtype=dtype, **options)
    found = model.config._attn_implementation
    if found != task["attention"]:
        raise ValueError(f"it runs {found!r} attention; {task['attention']!r} is to be timed")
    model = model.eval().to(device)
    return lambda pixels: model(pixels).logits


def _timm(task: dict[str, Any], dtype: Any, device: Any) -> Callable[[Any], Any]:
    library = importlib.import_module("timm")
    model = library.create_model(f"local-dir:{task['model']}", pretrained=True)
    return model.eval().to(device, dtype)


if __name__ == "__main__":
    # The folder of this file is no place to import libraries from.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != here]
    if "--versions" in sys.argv:
        print(json.dumps(versions()))
    else:
        serve({"legacy": _peer, "timm": _peer})

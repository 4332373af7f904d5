"""Contenders taking turns: in every round each makes its passes while the others wait, so that a busy moment of the
machine strikes all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..runtimes import DTYPE_NAMES
from . import contenders as line
from .contenders import Contender
from .models import Prepared
from .processes import TurnFailed, Worker, WorkerFailed, environment

# Seconds, between two turns: until the threads of the one before have stopped spinning.
PAUSE = 0.05
# Seconds that a turn lasts at least, by more passes where one is shorter.
TURN = 0.1
# Each contender is started so often: the first time, files may have to be read and models converted and compiled.
STARTS = 2
# Seconds, for what hangs: until a process is ready, and for a turn.
START_LIMIT = 1800.0
TURN_LIMIT = 900.0
# Of pictures, for the rates of decoding and preprocessing.
PICTURES = 8
# Matrices of a product have at most the rows of so many pictures.
MOST_PRODUCT_PICTURES = 16
MACHINE, PREPROCESSING = "matrix products", "preprocessing"

Advance = Callable[[], None]


@dataclass
class Cell:
    """What became of one contender at one batch size.

    Attributes:
        seconds: Of every timed pass, over pixel values that are on the device already.
        copied_seconds: Of those that copied them there; none on a CPU.
        peak_bytes: The most resident memory of its process in these rounds.
        device_peak_bytes: The most memory of a GPU that torch allocated.
        logits: (N, labels), what the first pass gave.
        error: One line where it failed.
    """

    seconds: list[float] = field(default_factory=list)
    copied_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    device_peak_bytes: int | None = None
    logits: np.ndarray | None = None
    error: str | None = None


@dataclass
class Entry:
    """A contender at one image size: how it started, and its cell for each batch size.

    Attributes:
        contender: Which.
        start_seconds: Of each start, until the logits of one picture were there. The first may convert or compile the
            model, the others find that done.
        start_peak_bytes: The most resident memory until then, of each start.
        ready: What its process says of itself.
        cells: By batch size.
        error: One line where it failed for good.
    """

    contender: Contender
    start_seconds: list[float] = field(default_factory=list)
    start_peak_bytes: list[int | None] = field(default_factory=list)
    ready: dict[str, Any] = field(default_factory=dict)
    cells: dict[int, Cell] = field(default_factory=dict)
    error: str | None = None


@dataclass
class Heat:
    """All that was measured at one image size.

    Attributes:
        about: `Prepared.about`.
        entries: The contenders, in the order of their turns.
        rates: The best of each precision's matrix products in FLOP/s.
        convolutions: The best of each precision's convolutions, likewise.
        preprocessing: Least seconds a picture, `decode` and `decode_and_preprocess`.
        device_name: What the device calls itself, if it does.
        remarks: Lines on what could not be measured of the machine.
    """

    about: dict[str, Any]
    entries: list[Entry]
    rates: dict[str, float] = field(default_factory=dict)
    convolutions: dict[str, float] = field(default_factory=dict)
    preprocessing: dict[str, float] = field(default_factory=dict)
    device_name: str | None = None
    remarks: list[str] = field(default_factory=list)


def turns(contenders: int, batch_sizes: int, rounds: int) -> int:
    """How often `race` advances."""
    return contenders * (STARTS + batch_sizes * rounds)


def race(
    contenders: Sequence[Contender],
    prepared: Prepared,
    batch_sizes: Sequence[int],
    device: str,
    threads: int,
    warm_up: int,
    repetitions: int,
    folder: Path,
    advance: Advance,
) -> Heat:
    """Starts all contenders and lets them take turns; what fails is said in its entry, and the others go on.

    Args:
        contenders: Who takes part, in this order.
        prepared: The model and its pixels.
        batch_sizes: One after the other, the smallest first.
        device: Where torch runs.
        threads: Of each process.
        warm_up: Rounds that are not counted.
        repetitions: Rounds that are.
        folder: For logits, and what is converted and compiled, while this runs.
        advance: Called for each turn that is over.
    """
    heat = Heat(prepared.about, [Entry(contender) for contender in contenders])
    with ExitStack() as stack:
        machine = _Machine(heat, prepared, device, threads, stack)
        workers: dict[int, Worker] = {}
        for number, entry in enumerate(heat.entries):
            for start in range(STARTS):
                worker = None if entry.error is not None else _started(entry, prepared, device, threads, folder)
                if worker is not None and start < STARTS - 1:
                    worker.close()
                elif worker is not None:
                    workers[number] = stack.enter_context(worker)
                advance()
        for batch_size in batch_sizes:
            for entry in heat.entries:
                entry.cells[batch_size] = Cell(error=entry.error)
            for turn in range(warm_up + repetitions):
                machine.turn(batch_size, is_first_batch=batch_size == batch_sizes[0])
                for number, entry in enumerate(heat.entries):
                    cell = entry.cells[batch_size]
                    if cell.error is None:
                        logits = folder / f"{number}.npy" if turn == 0 else None
                        _take_turn(workers[number], entry, cell, batch_size, logits, is_timed=turn >= warm_up)
                    advance()
    return heat


def _take_turn(worker: Worker, entry: Entry, cell: Cell, batch_size: int, logits: Path | None, is_timed: bool) -> None:
    time.sleep(PAUSE)
    request = {"batch": batch_size, "least_seconds": TURN, "fresh": logits is not None}
    try:
        answer = worker.ask({**request, "logits": None if logits is None else str(logits)}, TURN_LIMIT)
        if logits is not None:
            cell.logits = np.load(logits)
    except (TurnFailed, OSError, ValueError) as error:
        cell.error = str(error)
        return
    except WorkerFailed as error:
        cell.error = entry.error = str(error)
        return
    if is_timed:
        cell.seconds += answer["seconds"]
        cell.copied_seconds += answer.get("copied_seconds", [])
    cell.peak_bytes = _larger(cell.peak_bytes, answer.get("peak_bytes"))
    cell.device_peak_bytes = _larger(cell.device_peak_bytes, answer.get("device_peak_bytes"))


def _larger(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _started(entry: Entry, prepared: Prepared, device: str, threads: int, cache: Path) -> Worker | None:
    """The contender's process once it is ready; None, and the entry's error, where it is not to be had."""
    contender = entry.contender
    try:
        task = _task(contender, prepared, device, threads)
        time.sleep(PAUSE)
        worker = Worker(line.command(contender), environment(threads, contender.peer is not None, cache))
        worker.start(task, START_LIMIT)
    except (ValueError, WorkerFailed) as error:
        entry.error = str(error)
        return None
    entry.ready = worker.ready
    entry.start_seconds.append(worker.start_seconds)
    entry.start_peak_bytes.append(worker.ready.get("peak_bytes"))
    return worker


def _task(contender: Contender, prepared: Prepared, device: str, threads: int) -> dict[str, Any]:
    pixels = {"pixels": str(prepared.pixels)}
    if contender.peer is not None:
        model = prepared.timm if contender.peer.kind == "timm" else prepared.folder
        if isinstance(model, ValueError):
            raise model
        return {
            "kind": contender.peer.kind,
            "model": str(model),
            "dtype": DTYPE_NAMES[contender.precision],
            "attention": contender.attention,
            "device": device,
            "threads": threads,
            **pixels,
        }
    options: dict[str, Any] = {"engine": contender.engine, "precision": contender.precision, "threads": threads}
    if not prepared.is_bundle:  # of which the rest is settled
        options |= {
            "device": device if contender.engine == "torch" else None,
            "compile": contender.compiled,
            "token_merging": contender.token_merging,
            "attention": contender.attention,
            "calibration": str(prepared.calibration) if contender.precision == "int8" else None,
        }
    return {"kind": "engine", "model": str(prepared.folder), "options": options, **pixels}


class _Machine:
    """What is measured of the machine itself, in turns between the others'."""

    def __init__(self, heat: Heat, prepared: Prepared, device: str, threads: int, stack: ExitStack) -> None:
        self._heat = heat
        self._precisions = sorted({line.RATE_OF[entry.contender.precision] for entry in heat.entries})
        # No share is held against it, since much of what runs in int8 runs in bfloat16.
        self._narrow = ["int8"] if any(entry.contender.precision == "int8" for entry in heat.entries) else []
        about = heat.about
        self._workers: dict[str, Worker] = {}
        self._refused: set[tuple[Any, ...]] = set()
        tasks: dict[str, dict[str, Any]] = {
            MACHINE: {
                "kind": "matrix-product",
                "device": device,
                "threads": threads,
                "hidden": about["hidden_size"],
                "inner": about["intermediate_size"],
                "maps": about["maps"],
            },
            PREPROCESSING: {
                "kind": "preprocessing",
                "preprocessing": str(prepared.preprocessing),
                "pictures": PICTURES,
                "mode": prepared.mode,
            },
        }
        for name, task in tasks.items():
            try:
                worker = Worker(line.worker_command(), environment(threads if name == MACHINE else 1, foreign=False))
                worker.start(task, START_LIMIT)
            except WorkerFailed as error:
                heat.remarks.append(f"{name}: {error}")
                continue
            self._workers[name] = stack.enter_context(worker)
        if MACHINE in self._workers:
            heat.device_name = self._workers[MACHINE].ready.get("device_name")

    def turn(self, batch_size: int, is_first_batch: bool) -> None:
        """A round's measurements; preprocessing, which knows no batches, has a turn only with the first of them."""
        rows = self._heat.about["tokens"] * min(batch_size, MOST_PRODUCT_PICTURES)
        for precision in [*self._precisions, *self._narrow]:
            self._rate(self._heat.rates, precision, {"rows": rows, "precision": precision})
        for precision in self._precisions:
            maps = min(batch_size, MOST_PRODUCT_PICTURES)
            self._rate(self._heat.convolutions, precision, {"batch": maps, "precision": f"{precision} convolution"})
        if is_first_batch:
            for name, decode_only in (("decode", True), ("decode_and_preprocess", False)):
                answer = self._ask(PREPROCESSING, {"decode_only": decode_only})
                if answer is not None:
                    least = min(answer["seconds"]) / answer["pictures"]
                    self._heat.preprocessing[name] = min(least, self._heat.preprocessing.get(name, least))

    def _rate(self, rates: dict[str, float], precision: str, request: Mapping[str, Any]) -> None:
        answer = self._ask(MACHINE, request)
        if answer is not None:
            rates[precision] = max(answer["rate"], rates.get(precision, 0.0))

    def _ask(self, name: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        worker, what = self._workers.get(name), (name, request.get("precision"), request.get("decode_only"))
        if worker is None or what in self._refused:
            return None
        time.sleep(PAUSE)
        try:
            return worker.ask({**request, "least_seconds": TURN}, TURN_LIMIT)
        except TurnFailed as error:  # as where this device has no such product; the others go on
            self._heat.remarks.append(f"{name}, {request['precision']}: {error}" if what[1] else f"{name}: {error}")
            self._refused.add(what)
            return None
        except WorkerFailed as error:
            self._heat.remarks.append(f"{name}: {error}")
            del self._workers[name]  # which the stack closes
            return None


__all__ = ["Cell", "Entry", "Heat", "race", "turns"]

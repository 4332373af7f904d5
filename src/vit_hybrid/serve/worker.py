"""The process that runs the model: pictures of a batch from shared memory in, answers out.

It is started by `workers.Worker`, and lives as long as the server does: when the server is gone, however that went, the
other end of the socket is closed, and the process ends at once.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..bundles.manifest import read_bundle
from ..checkpoints import opening
from ..checkpoints.files import read_card
from ..engines.protocol import LoadedEngine, Outputs, Specification
from ..engines.settling import settle
from ..engines.ways import Way
from ..errors import EngineWarning, one_line, options_named
from ..inference.predictor import Predictor
from ..inference.streaming import not_finite
from ..outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS, REGRESSION
from ..outputs.ranking import OutputRecord
from ..outputs.strangers import pixel_statistics
from ..runtimes import ALL, AUTO, BUNDLE_FILE, DEFAULT_BATCH_SIZE, FEATURES, OUTPUTS, PRECISIONS
from .channel import packed, received
from .memory import Places

# What may be asked of a picture: its labels, or its vector.
CLASSIFY, EMBED = "classify", "embed"
# Seconds that warming up with numbers of pictures between one and a full batch may take.
WARMING = 5.0
# Options of the command that are not called as the arguments that they become.
NAMED = {"batch_size": "--max-batch"}


@dataclass(frozen=True)
class Facts:
    """What the server has to know of the model that a worker runs.

    Attributes:
        spec: What it takes and gives: pictures of one size, made by the preprocessing that stands in it.
        engine: What runs it.
        precision: What it computes in.
        device: Where it runs.
        max_batch: Pictures that go through it at once.
        is_calibrated: Whether what it says of how sure it is was fitted on held-out pictures.
        card: What its README.md says, None where it has none.
        way: How it runs; None where the engine does not say.
    """

    spec: Specification
    engine: str
    precision: str
    device: str
    max_batch: int
    is_calibrated: bool
    card: str | None = None
    way: Way | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """What may be asked of it."""
        return (CLASSIFY, EMBED) if FEATURES in OUTPUTS[self.spec.output] else (CLASSIFY,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture: (channels, height, width)."""
        return self.spec.num_channels, *self.spec.image_size


@dataclass(frozen=True)
class Asked:
    """A picture of a batch.

    Attributes:
        place: Where in the shared memory it is.
        task: What is asked of it.
        top_k: How many labels; all of them by default.
    """

    place: int
    task: str
    top_k: int | None


class Running:
    """A model that answers batches.

    Args:
        predictor: The model.
        coverage: How often sets of labels are to hold the truth, where it is calibrated.
        false_alarms: Which share of pictures of what it knows may be called none of these, likewise.
        card: What the model's README.md says.

    Raises:
        ValueError: `coverage` takes more held-out pictures than there were, or one of the two is no share.
    """

    def __init__(
        self,
        predictor: Predictor,
        coverage: float = DEFAULT_COVERAGE,
        false_alarms: float = DEFAULT_FALSE_ALARMS,
        card: str | None = None,
    ) -> None:
        predictor.check_levels(coverage, false_alarms)
        self._levels = coverage, false_alarms
        self._predictor = predictor
        engine: LoadedEngine = predictor.engine  # type: ignore[assignment]  # as `engines.load` gives it
        self._engine = engine
        self.facts = Facts(
            spec=replace(engine.spec, preprocessing=predictor.preprocessing, dynamic=False, confidence=None),
            is_calibrated=predictor.confidence is not None,
            engine=engine.name,
            precision=engine.precision,
            device=str(engine.device),
            max_batch=predictor.batch_size,
            card=card,
            way=getattr(engine, "way", None),  # of an engine that was loaded by other means there is none
        )

    def warm_up(self) -> None:
        """Runs a made-up picture, alone and in a full batch, all the way that pictures go; and as many as are between
        these, as far as that takes no longer than `WARMING`.

        Raises:
            ValueError: Preprocessing makes other pictures than the model takes.
        """
        height, width = self.facts.spec.image_size
        picture, most = Image.new("RGB", (width, height)), self.facts.max_batch
        for count in sorted({1, most}):
            began = time.monotonic()
            self._predictor.logits([picture] * count)
        if self.facts.way is not None and self.facts.way.compiled:
            return  # for each number anew, which takes minutes
        # Engines keep kernels and memory for each number of pictures that ever came: what comes later would be answered
        # late, and the process would grow for as long as new numbers come.
        pixels = np.zeros((most, self.facts.spec.num_channels, height, width), np.float32)
        a_picture, end = (time.monotonic() - began) / most, time.monotonic() + WARMING
        for count in range(2, most):
            if time.monotonic() + count * a_picture > end:
                break
            self._engine.run(pixels[:count])

    def answers(self, pixels: np.ndarray, asked: Sequence[Asked]) -> list[tuple[bool, bytes]]:
        """For each picture of a batch whether there is an answer, and the members of a JSON object that are the answer;
        or what is the matter.

        Args:
            pixels: (N, C, H, W), float32.
            asked: N.
        """
        return self.computed(pixels, asked)()

    def computed(self, pixels: np.ndarray, asked: Sequence[Asked]) -> Callable[[], list[tuple[bool, bytes]]]:
        """Runs the model over a batch; what comes of it gives the answers, while the model may run over the next."""
        return partial(self._told, self._engine.run(pixels), pixels, asked)

    def _told(self, outputs: Outputs, pixels: np.ndarray, asked: Sequence[Asked]) -> list[tuple[bool, bytes]]:
        wanted: dict[str, Any] = {CLASSIFY: outputs.logits, EMBED: outputs.features}
        records = [OutputRecord(path="") for _ in asked]
        for name, values in outputs._asdict().items():
            if values is not None:
                for record, value in zip(records, values, strict=False):  # whose last rows may fill the batch
                    record[name] = value  # type: ignore[literal-required]
        if self._predictor.streaming.statistics:
            for record, values in zip(records, pixel_statistics(pixels[: len(asked)]), strict=True):
                record["statistics"] = values
        answers: list[tuple[bool, bytes]] = []
        ranked: list[int] = []
        for position, one in enumerate(asked):
            output = wanted[one.task][position]
            if not np.isfinite(output).all():
                answers.append((False, not_finite(self.facts.precision).encode()))
                continue
            is_ranked = one.task == CLASSIFY and self.facts.spec.problem_type != REGRESSION
            if is_ranked:
                ranked.append(position)
            answers.append((True, b"" if is_ranked else self._members(output, one.task)))
        tops = [asked[position].top_k for position in ranked]
        said = self._predictor.said_of_each([records[position] for position in ranked], tops, *self._levels)
        for position, found in zip(ranked, said, strict=True):
            told = {name: value for name, value in found.items() if name != "path"}
            answers[position] = (True, json.dumps(told).encode()[1:-1])
        return answers

    def _members(self, output: np.ndarray, task: str) -> bytes:
        """What is answered where it is not ranked labels."""
        if task == EMBED:  # nine digits are all that a number of 32 bits has
            return b'"embedding": [%b]' % ", ".join([f"{value:.9g}" for value in output.tolist()]).encode()
        labels = self.facts.spec.labels
        values = [{"label": label, "value": float(value)} for label, value in zip(labels, output, strict=True)]
        return b'"values": ' + json.dumps(values).encode()


def opened(options: Mapping[str, Any], progress: Any = None) -> Running:
    """The model that `Predictor.from_pretrained` opens with these options, which are by its names, as are those of
    `Running`; for labels and vectors, or, of a bundle, for what it was exported for.

    Where nothing is kept of how it runs fastest here, its first seconds are for finding out; not with `may_race` false,
    nor with the `way` of a worker that did.
    """
    folder = Path(options["name"]).expanduser()
    is_bundle = (folder / BUNDLE_FILE).is_file()
    gives = read_bundle(folder).output if is_bundle else ALL
    output = gives if FEATURES in OUTPUTS[gives] else AUTO
    levels = {name: options[name] for name in ("coverage", "false_alarms") if name in options}
    own = {*levels, "way", "may_race"}
    others = {name: value for name, value in options.items() if name not in own}
    way, may_race = options.get("way"), options.get("may_race", True)
    if way is None:
        given = {**others, "output": output}
        size = others.get("batch_size", DEFAULT_BATCH_SIZE)
        way = settle(folder, given, size, math.inf, may_race=may_race, tell=progress).way
    if way is not None and way.precision in PRECISIONS:
        others |= {**way.options(), "dtype": None}
    predictor = Predictor.from_pretrained(**others, output=output, progress=progress)
    return Running(predictor, **levels, card=read_card(opening.open(options["name"]).location))


def main(open_model: Any = opened) -> None:
    """Opens the model that the server asks for and answers its batches, until the server goes.

    Args:
        open_model: What makes something like `Running` of the server's options.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # which may be meant for the server with all it has
        signal.signal(number, signal.SIG_IGN)
    connection, memory = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    messages: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def listen() -> None:
        with suppress(OSError):
            for message in received(connection):
                messages.put(message)
        os._exit(0)  # the server is gone, or has no more use for this process

    saying = threading.Lock()

    def say(*message: Any) -> None:
        with saying:
            connection.sendall(packed(message))

    threading.Thread(target=listen, daemon=True).start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", EngineWarning)
        warnings.showwarning = lambda message, *_, **__: say("warning", one_line(message))
        try:
            [options] = messages.get()
            with options_named(NAMED):
                running = open_model(options, lambda text: say("progress", text))
                running.warm_up()
        except Exception as error:  # in whatever way a model cannot be opened
            say("failed", one_line(error))
            return
        say("ready", running.facts)
        places = Places(memory, *messages.get())
        computed: queue.SimpleQueue[tuple[float, Callable[[], Any]]] = queue.SimpleQueue()

        def write() -> None:  # in the order of the batches
            while True:
                seconds, told = computed.get()
                try:
                    answers = told()
                except Exception as error:  # fails this batch, and no other
                    say("raised", type(error).__name__)
                else:
                    say("done", seconds, answers)

        threading.Thread(target=write, daemon=True, name="answers").start()
        while True:
            [asked] = messages.get()
            start = time.perf_counter()
            try:
                told = running.computed(places.batch([one.place for one in asked]), asked)
            except Exception as error:
                computed.put((0.0, partial(_raise, error)))
            else:
                seconds = time.perf_counter() - start
                say("computed")  # the next batch need not wait until what is said of this one is written
                computed.put((seconds, told))


def _raise(error: Exception) -> None:
    raise error


if __name__ == "__main__":
    main()

__all__ = ["CLASSIFY", "EMBED", "Asked", "Facts", "Running", "main", "opened"]

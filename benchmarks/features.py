"""What it costs that an engine gives what confidence needs: the class token beside the logits, and what is made of it.

    python benchmarks/features.py [MODEL] [--image-size 384] [--engines torch openvino onnx] [--batch-sizes 1 8]

MODEL is what `vit-hybrid classify` takes, the model in the package by default, or an architecture such as R50+B/16,
which then has random weights. Each engine is loaded twice in this process, once for the logits alone and once for all
that confidence needs; both take turns on the same pixel values, so that a busy moment of the machine strikes both
alike, and whoever begins a round is second in the next. Beside them stand the statistics of the pixels and the judgment
(sets, distances, familiarity), which do not depend on the engine, as a share of the same time. What is compared is the
least processor time, that of all threads together: on a machine that does other things as well it is steadier than the
clock, whose minima stand beside it.

Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, engines
from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.checkpoints.opening import is_preset
from vit_hybrid.engines import LoadedEngine
from vit_hybrid.outputs import confidence as fitting
from vit_hybrid.outputs import strangers
from vit_hybrid.outputs.confidence import Confidence
from vit_hybrid.outputs.problems import SINGLE_LABEL
from vit_hybrid.runtimes import ALL, ENGINES, LOGITS

CLOCKS = {"processor": time.process_time, "clock": time.perf_counter}
WARM_UP_ROUNDS = 3
HELD_OUT = 120  # pictures that the judgment is fitted on; its time does not depend on them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=BUILT_IN_MODEL, help="the model")
    parser.add_argument("--image-size", type=int, help="of an architecture")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), help="those to load")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8], help="pictures that go through at once")
    parser.add_argument("--rounds", type=int, default=41, help="in which each has a turn")
    parser.add_argument("--threads", type=int, default=2, help="that each computes with")
    arguments = parser.parse_args()
    model = opened(arguments.model, arguments.image_size)
    rows = []
    for engine in arguments.engines:
        pair = [engines.load(model, engine, threads=arguments.threads, output=output) for output in (LOGITS, ALL)]
        confidence = judging(pair[1])
        for batch_size in arguments.batch_sizes:
            found = measured(pair, confidence, batch_size, arguments.rounds)
            rows.append({"engine": engine, "batch_size": batch_size, **found})
    print(f"{arguments.model}, float32, {arguments.threads} threads, minima of {arguments.rounds} turns, in ms\n")
    print(f"{'':16}{'processor':>26}{'clock':>26}")
    print(f"{'engine':10}{'batch':>6}" + f"{'logits':>9}{'all':>9}{'ratio':>8}" * 2 + f"{'judgment':>10}")
    for row in rows:
        cells = "".join(
            f"{1e3 * row[which][LOGITS]:9.2f}{1e3 * row[which][ALL]:9.2f}{row[which]['ratio']:8.3f}" for which in CLOCKS
        )
        share = row["processor"]["judgment"] / row["processor"][LOGITS]
        print(f"{row['engine']:10}{row['batch_size']:6}{cells}{share:10.1%}")
    print(json.dumps({"model": arguments.model, "image_size": arguments.image_size, "rows": rows}))


def opened(name: str, image_size: int | None) -> Any:
    """What `engines.load` takes: the name, or of an architecture a model with random weights."""
    if not is_preset(name):
        return name
    torch.manual_seed(0)
    size = {} if image_size is None else {"image_size": image_size}
    return ViTHybridForImageClassification(ViTHybridConfig.from_preset(name, num_labels=1000, **size)).eval()


def judging(engine: LoadedEngine) -> Confidence:
    """Confidence for what an engine gives, from numbers made up."""
    rng = np.random.default_rng(0)
    labels = engine.spec.labels
    [token] = engine.run(pixels_for(engine, 1)).token  # type: ignore[misc]
    targets = np.arange(HELD_OUT) % len(labels)
    features = rng.normal(size=(HELD_OUT, len(token)))
    statistics = rng.normal(size=(HELD_OUT, strangers.STATISTICS))
    gathering = strangers.Gathering(len(labels), len(token))
    every = np.arange(len(labels)).repeat(2)  # all classes have a mean, as of a model that was trained
    gathering.add(rng.normal(size=(len(every), len(token))), every, rng.normal(size=(len(every), strangers.STATISTICS)))
    return fitting.fit(
        rng.normal(size=(HELD_OUT, len(labels))),
        targets,
        labels,
        SINGLE_LABEL,
        weights="",
        precision="f32",
        features=features,
        statistics=statistics,
        trained_on=gathering.trained_on(),
    )


def pixels_for(engine: LoadedEngine, batch_size: int) -> np.ndarray:
    shape = (batch_size, engine.spec.num_channels, *engine.spec.image_size)
    return np.random.default_rng(batch_size).normal(size=shape).astype(np.float32)


def measured(
    pair: list[LoadedEngine], confidence: Confidence, batch_size: int, rounds: int
) -> dict[str, dict[str, float]]:
    """By either clock the seconds for a batch, the ratio of both engines, and the seconds of the judgment."""
    pixels = pixels_for(pair[0], batch_size)
    outputs = pair[1].run(pixels)

    def judge() -> None:
        found = strangers.pixel_statistics(pixels)
        for row in range(batch_size):  # one by one, as `Predictor.said` does it
            some = slice(row, row + 1)
            confidence.judge(outputs.logits[some], outputs.token[some], found[some])  # type: ignore[index]

    turns: dict[str, Callable[[], object]] = {
        LOGITS: lambda: pair[0].run(pixels),
        ALL: lambda: pair[1].run(pixels),
        "judgment": judge,
    }
    taken: dict[str, dict[str, list[float]]] = {which: {name: [] for name in turns} for which in CLOCKS}
    for number in range(WARM_UP_ROUNDS + rounds):
        order = [LOGITS, ALL] if number % 2 else [ALL, LOGITS]
        for name in (*order, "judgment"):
            starts = [clock() for clock in CLOCKS.values()]
            turns[name]()
            for (which, clock), start in zip(CLOCKS.items(), starts, strict=True):
                if number >= WARM_UP_ROUNDS:
                    taken[which][name].append(clock() - start)
    found = {}
    for which, seconds in taken.items():
        least = {name: min(each) for name, each in seconds.items()}
        found[which] = {**least, "ratio": least[ALL] / least[LOGITS]}
    return found


if __name__ == "__main__":
    main()

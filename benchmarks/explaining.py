"""Whether maps show what counts: deletion, insertion and randomized weights, on pictures a model was not trained on.

    python benchmarks/explaining.py [MODEL] [DATA] [--split val] [--limit 500] [--methods grad-cam relevance ...]
    python benchmarks/explaining.py [MODEL] --start PHOTO

MODEL is what `vit-hybrid explain` takes, the model in the package by default; DATA are pictures as
`vit-hybrid evaluate` takes them, by default ``tinyphotos10`` in the folder named by VIT_HYBRID_DATA
(``../shared/data``, where that is not set), of whose classes that model has seen none. What is explained of each
picture is the label that the model gives first.

Deletion and insertion are those of `vit-hybrid explain --check`: the mean probability of the label while pixels are
taken away, and brought back, in the order of the map and in that of random maps. Intervals are of the mean over the
pictures, by 10,000 bootstrap samples.

Then weights are replaced by random ones from the top down, part after part (Adebayo et al., arXiv 1810.03292), and maps
of the same label are compared with those of the trained model: Spearman's rank correlation over the tokens, on average
over the pictures. A map that is the same everywhere has no order, and counts as 0.

With ``--start`` it is measured instead how long `vit-hybrid explain PHOTO` takes by each method, from the start of the
process to its end, beyond ``python -c "import torch"``: the minimum of five, taking turns.

Prints tables, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.evaluate import default_split, spread
from vit_hybrid.explain import METHODS as ALL_METHODS
from vit_hybrid.explain import Explainer
from vit_hybrid.explain.checking import DEFAULT_DRAWS, DEFAULT_STEPS, check
from vit_hybrid.images.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("VIT_HYBRID_DATA") or ROOT.parent / "shared" / "data")
METHODS = ("grad-cam", "relevance")
SAMPLES = 10_000
STARTS = 5
CURVES = ("deletion", "insertion")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=BUILT_IN_MODEL, help="the model")
    parser.add_argument("data", nargs="?", default=str(DATA / "tinyphotos10"), help="pictures")
    parser.add_argument("--split", help="the split to take them from; by default test, else val, else all there is")
    parser.add_argument("--limit", type=int, default=500, help="so many pictures, spread evenly")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="of those that explain a label")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="parts that pixels are taken away in")
    parser.add_argument("--draws", type=int, default=DEFAULT_DRAWS, help="random maps for each picture")
    parser.add_argument("--seed", type=int, default=0, help="of random maps, weights and samples")
    parser.add_argument("--start", metavar="PHOTO", help="measure how long the command takes to explain this picture")
    arguments = parser.parse_args()
    if arguments.start:
        print_starts(arguments.model, arguments.start)
        return
    disable_progress_bar()
    began = time.process_time()
    explainer = Explainer.from_pretrained(arguments.model, "cpu")
    pictures, split = default_split(arguments.data, arguments.split)
    pictures = spread(pictures, arguments.limit)
    sources = [pictures.source(index) for index in range(len(pictures))]
    print(f"{len(sources)} pictures of {Path(arguments.data).name}, {split or 'all of it'}\n")

    found: dict[str, dict[str, Any]] = {}
    kept: dict[str, list[Any]] = {method: [] for method in arguments.methods}
    for method in arguments.methods:
        checks = []
        for number, source in enumerate(sources):
            [explanation] = explainer.explain(source, method)
            kept[method].append((explanation.pixels, explanation.index, explanation.tokens))
            seed = arguments.seed + number
            checks.append(check(explainer.model, explanation, arguments.steps, arguments.draws, seed))
        found[method] = {curve: compared(checks, curve, arguments.seed) for curve in CURVES}
    print_curves(found)
    for method, by_part in randomized(explainer, kept, arguments.seed).items():
        found[method]["rank_correlation"] = by_part
    print_correlations(found)
    seconds = time.process_time() - began
    said = {"model": arguments.model, "data": Path(arguments.data).name, "split": split, "pictures": len(sources)}
    print(json.dumps({**said, "processor_seconds": round(seconds, 1), "methods": found}))


def print_starts(model: str, photo: str) -> None:
    """Seconds from the start of a process to its end: of importing torch, and what an explanation takes beyond it."""
    with tempfile.TemporaryDirectory() as folder:
        explain = [sys.executable, "-m", "vit_hybrid", "explain", photo, "--model", model, "--output", folder]
        commands = {"torch": [sys.executable, "-c", "import torch"]}
        commands |= {method: [*explain, "--method", method] for method in ALL_METHODS}
        seconds = dict.fromkeys(commands, float("inf"))
        for _ in range(STARTS):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    beyond = {method: round(seconds[method] - seconds["torch"], 2) for method in ALL_METHODS}
    for method, more in beyond.items():
        print(f"{method:12}{more:6.2f} s beyond {seconds['torch']:.2f} s for import torch")
    print(json.dumps({"model": model, "torch": round(seconds["torch"], 2), "beyond": beyond}))


def compared(checks: list[Any], curve: str, seed: int) -> dict[str, Any]:
    """The mean areas under a curve of the maps and of random ones, with their 95 % intervals."""
    areas = {
        whose: np.array([getattr(getattr(one, whose), f"{curve}_area") for one in checks])
        for whose in ("map", "random")
    }
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(checks), (SAMPLES, len(checks)))
    said: dict[str, Any] = {}
    for whose, values in areas.items():
        low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
        said[whose] = {"mean": float(values.mean()), "low": float(low), "high": float(high)}
    lower, upper = ("map", "random") if curve == "deletion" else ("random", "map")
    said["apart"] = bool(said[lower]["high"] < said[upper]["low"])
    return said


def print_curves(found: dict[str, dict[str, Any]]) -> None:
    print(f"{'':12}{'':11}{'map':>8}{'95 %':>18}{'random':>9}{'95 %':>18}  apart")
    for method, curves in found.items():
        for curve in CURVES:
            said = curves[curve]
            cells = "".join(
                f"{said[whose]['mean']:9.4f}   {said[whose]['low']:.4f} - {said[whose]['high']:.4f}"
                for whose in ("map", "random")
            )
            print(f"{method:12}{curve:10}{cells}  {'yes' if said['apart'] else 'no'}")
    print()


def randomized(explainer: Explainer, kept: dict[str, list[Any]], seed: int) -> dict[str, dict[str, float]]:
    """By method and part: the mean rank correlation once that part and all above it are random."""
    model = explainer.model.unfold_weight_standardization()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = ViTHybridForImageClassification(model.config).state_dict()
    # What was explained are pixel values, which preprocessing has made already.
    as_it_is = Explainer(model, Preprocessing(False, do_center_crop=False, do_rescale=False, do_normalize=False))
    means: dict[str, dict[str, float]] = {method: {} for method in kept}
    state = model.state_dict()
    for part, prefixes in parts_of(model):
        changed = {name: fresh[name] for name in state if name.startswith(tuple(prefixes))}
        assert changed, part
        model.load_state_dict({**model.state_dict(), **changed})
        for method, explanations in kept.items():
            correlations = []
            for pixels, index, tokens in explanations:
                [now] = as_it_is.explain(pixels, method, index)
                correlations.append(rank_correlation(now.tokens.ravel(), tokens.ravel()))
            means[method][part] = float(np.mean(correlations))
    return means


def parts_of(model: Any) -> Iterator[tuple[str, list[str]]]:
    """The parts of a model from the top down, and how the names of their weights begin."""
    yield "classifier", ["classifier.", "pre_logits."]
    for number in reversed(range(model.config.num_hidden_layers)):
        above = ["vit.layernorm."] if number == model.config.num_hidden_layers - 1 else []
        yield f"layer{number + 1}", [f"vit.encoder.layer.{number}.", *above]
    embeddings = "vit.embeddings."
    bit = f"{embeddings}patch_embeddings.backbone.bit."
    yield "embeddings", [f"{embeddings}{name}" for name in ("cls_token", "position_", "patch_embeddings.projection.")]
    stages = model.vit.embeddings.patch_embeddings.backbone.bit.encoder.stages
    for number in reversed(range(len(stages))):
        yield f"stage{number + 1}", [f"{bit}encoder.stages.{number}.", f"{bit}norm."]
    yield "stem", [f"{bit}embedder."]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, with equal values at the mean of their ranks; 0 where one has no order."""
    ranks = [mean_ranks(values) - (len(values) - 1) / 2 for values in (first, second)]
    lengths = [float(np.linalg.norm(one)) for one in ranks]
    return float(ranks[0] @ ranks[1] / (lengths[0] * lengths[1])) if all(lengths) else 0.0


def mean_ranks(values: np.ndarray) -> np.ndarray:
    less = (values[None] < values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    return less + (equal - 1) / 2


def print_correlations(found: dict[str, dict[str, Any]]) -> None:
    print("rank correlation with the trained model's maps, weights random down to")
    parts = next(iter(found.values()))["rank_correlation"]
    print(f"{'':12}" + "".join(f"{part:>12}" for part in parts))
    for method, said in found.items():
        print(f"{method:12}" + "".join(f"{said['rank_correlation'][part]:12.3f}" for part in parts))
    print()


if __name__ == "__main__":
    main()

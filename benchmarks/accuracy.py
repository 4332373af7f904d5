"""What engines, precisions and token merging do to a model's decisions on labeled pictures.

    python benchmarks/accuracy.py [MODEL] [DATA] [--split val] [--limit N] [--paths openvino:int8 torch:f32:2 ...]
                                  [--calibration-split train]

MODEL is what `vit-hybrid evaluate` takes, the model in the package by default; DATA are labeled pictures as it takes
them, by default ``tiny-imagenet-200`` in the folder named by VIT_HYBRID_DATA (``../shared/data``, where that is not
set); pictures of labels that the model does not have are left out. A path is an engine and a precision, and the tokens
to merge per layer where there are any; by default all engines that are installed, without merging. int8 is calibrated
with 300 pictures of another split, spread evenly, and once more with made ones. Each is held against PyTorch in
float32. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils.logging import disable_progress_bar

from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.data import LabeledPictures
from vit_hybrid.engines import EngineWarning
from vit_hybrid.evaluate import Evaluation, default_split, evaluate, known_only, spread
from vit_hybrid.inference.predictor import Predictor

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("VIT_HYBRID_DATA") or ROOT.parent / "shared" / "data")
REFERENCE = "torch:f32"
PATHS = ("torch:bf16", "openvino:f32", "openvino:bf16", "openvino:int8", "onnx:f32", "onnx:int8")
PACKAGES = {"torch": "torch", "openvino": "openvino", "onnx": "onnxruntime"}
CALIBRATION_PICTURES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=BUILT_IN_MODEL, help="the model")
    parser.add_argument("data", nargs="?", default=str(DATA / "tiny-imagenet-200"), help="labeled pictures")
    parser.add_argument("--split", help="the split to measure on; by default test, else val, else all there is")
    parser.add_argument("--limit", type=int, help="measure on so many pictures, spread evenly")
    parser.add_argument(
        "--paths", type=checked_path, nargs="+", metavar="ENGINE:PRECISION[:R]", help="by default all installed"
    )
    parser.add_argument("--calibration-split", default="train", help="the split whose pictures calibrate int8")
    parser.add_argument("--threads", type=int, help="threads of each engine")
    arguments = parser.parse_args()
    disable_progress_bar()
    labels = Predictor.from_pretrained(arguments.model, device="cpu", engine="torch").labels
    paths = arguments.paths
    if paths is None:
        paths = [path for path in PATHS if importlib.util.find_spec(PACKAGES[path.partition(":")[0]])]
    try:
        pictures, split = default_split(arguments.data, arguments.split)
        pictures = known_only(pictures, labels)
        if arguments.limit is not None:
            pictures = spread(pictures, arguments.limit)
        needs_others = any(":int8" in path for path in paths)
        others = None
        if needs_others:
            others = known_only(default_split(arguments.data, arguments.calibration_split)[0], labels)
    except ValueError as error:
        parser.error(str(error))

    print(f"{len(pictures):,} pictures of {arguments.data}" + (f", split {split}" if split else ""))
    print(f"\n{'':44}{'top-1':>9}{'as f32':>9}{'largest logit difference':>27}")
    reference: Evaluation | None = None
    rows: list[dict[str, Any]] = []
    for name, options in contenders(paths, arguments.model, others):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EngineWarning)  # of made pictures, which is the point
            predictor = Predictor.from_pretrained(arguments.model, device="cpu", threads=arguments.threads, **options)
        found = evaluate(predictor, pictures, strict=True)
        reference = reference or found
        row = {
            "path": name,
            "top1": found.scores["top1"],
            "agreement": float((found.logits.argmax(1) == reference.logits.argmax(1)).mean()),
            "largest_logit_difference": float(np.abs(found.logits - reference.logits).max()),
        }
        rows.append(row)
        print(f"{name:44}{row['top1']:9.2%}{row['agreement']:9.2%}{row['largest_logit_difference']:27.2g}", flush=True)
    print(json.dumps({"benchmark": "accuracy", "pictures": len(pictures), "rows": rows}))


def checked_path(text: str) -> str:
    if not re.fullmatch(r"(torch|openvino|onnx):(f32|bf16|f16|int8)(:[1-9]\d*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected ENGINE:PRECISION or ENGINE:PRECISION:R")
    return text


def contenders(
    paths: Sequence[str], model: str, others: LabeledPictures | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names, and what `Predictor.from_pretrained` takes; PyTorch in float32 first."""
    for path in (REFERENCE, *paths):
        engine, precision, *merged = path.split(":")
        options: dict[str, Any] = {"engine": engine, "precision": precision}
        name = f"{engine} {precision}"
        if merged:
            options["token_merging"] = int(merged[0])
            name += f", merging {merged[0]}"
        if precision != "int8":
            yield name, options
            continue
        assert others is not None
        arrays = prepared(model, spread(others, CALIBRATION_PICTURES))
        yield f"{name}, {len(arrays)} other pictures", {**options, "calibration": arrays}
        yield f"{name}, made pictures", options


def prepared(model: str, pictures: LabeledPictures) -> np.ndarray:
    """Pictures as the model takes them, (N, C, H, W)."""
    preprocessing = Predictor.from_pretrained(model, device="cpu", engine="torch").preprocessing
    return np.concatenate([preprocessing([pictures.picture(row)]) for row in range(len(pictures))])


if __name__ == "__main__":
    main()

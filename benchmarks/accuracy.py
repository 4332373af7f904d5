"""What engines, precisions and token merging do to a model's decisions on labeled pictures.

    python benchmarks/accuracy.py [MODEL] [DATA] [--split test] [--limit N] [--paths openvino:int8 ...]
                                  [--token-merging 1 2] [--calibration-split train]

MODEL is what `vit-hybrid evaluate` takes, the model in the package by default; DATA are labeled pictures as it takes
them, by default ``cifar10`` in the folder named by VIT_HYBRID_DATA (``../shared/data``, where that is not set). Every
path is an engine and a precision; those that are not installed are left out, unless they are asked for. int8 is
calibrated with 300 pictures of another split, spread evenly, and once more with made ones. Each is held against PyTorch
in float32. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.engines import EngineWarning
from vit_hybrid.evaluate import Evaluation, default_split, evaluate, spread
from vit_hybrid.labeled import LabeledPictures
from vit_hybrid.predictor import Predictor

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("VIT_HYBRID_DATA") or ROOT.parent / "shared" / "data")
REFERENCE = ("torch", "f32")
PATHS = ("torch:bf16", "openvino:f32", "openvino:bf16", "openvino:int8", "onnx:f32", "onnx:int8")
PACKAGES = {"torch": "torch", "openvino": "openvino", "onnx": "onnxruntime"}
CALIBRATION_PICTURES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=BUILT_IN_MODEL, help="the model")
    parser.add_argument("data", nargs="?", default=str(DATA / "cifar10"), help="labeled pictures")
    parser.add_argument("--split", help="the split to measure on; by default test, else val, else all there is")
    parser.add_argument("--limit", type=int, help="measure on so many pictures, spread evenly")
    parser.add_argument("--paths", nargs="*", metavar="ENGINE:PRECISION", help="by default all that are installed")
    parser.add_argument("--token-merging", type=int, nargs="*", default=[], metavar="R", help="and R in PyTorch")
    parser.add_argument("--calibration-split", default="train", help="the split whose pictures calibrate int8")
    parser.add_argument("--threads", type=int, help="threads of each engine")
    arguments = parser.parse_args()
    paths = arguments.paths
    if paths is None:
        paths = [path for path in PATHS if importlib.util.find_spec(PACKAGES[path.partition(":")[0]])]
    try:
        pictures, split = default_split(arguments.data, arguments.split)
        if arguments.limit is not None:
            pictures = spread(pictures, arguments.limit)
        needs_others = any(path.endswith(":int8") for path in paths)
        others = default_split(arguments.data, arguments.calibration_split)[0] if needs_others else None
    except ValueError as error:
        parser.error(str(error))

    print(f"{len(pictures):,} pictures of {arguments.data}" + (f", split {split}" if split else ""))
    print(f"\n{'':44}{'top-1':>9}{'as f32':>9}{'largest logit difference':>27}")
    reference: Evaluation | None = None
    rows: list[dict[str, Any]] = []
    for name, options in contenders(paths, arguments.token_merging, arguments.model, others):
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


def contenders(
    paths: list[str], token_merging: list[int], model: str, others: LabeledPictures | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names, and what `Predictor.from_pretrained` takes; PyTorch in float32 first."""
    engine, precision = REFERENCE
    yield f"{engine} {precision}", {"engine": engine, "precision": precision}
    for path in paths:
        engine, _, precision = path.partition(":")
        options: dict[str, Any] = {"engine": engine, "precision": precision}
        if precision != "int8":
            yield f"{engine} {precision}", options
            continue
        assert others is not None
        arrays = prepared(model, spread(others, CALIBRATION_PICTURES))
        yield f"{engine} int8, {len(arrays)} other pictures", {**options, "calibration": arrays}
        yield f"{engine} int8, made pictures", options
    for count in token_merging:
        engine, precision = REFERENCE
        options = {"engine": engine, "precision": precision, "token_merging": count}
        yield f"{engine} {precision}, merging {count}", options


def prepared(model: str, pictures: LabeledPictures) -> np.ndarray:
    """Pictures as the model takes them, (N, C, H, W)."""
    preprocessing = Predictor.from_pretrained(model, device="cpu", engine="torch").preprocessing
    return np.concatenate([preprocessing([pictures.picture(row)]) for row in range(len(pictures))])


if __name__ == "__main__":
    main()

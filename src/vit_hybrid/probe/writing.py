"""The folder that a probe writes: the frozen model with its new classifier, figures and a card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import Split
from ..errors import escaped
from ..files import MARK, json_text, mark, whole_folder, why_no_model_place
from ..inference.calibrating import calibrate_written, in_words
from ..outputs.confidence import CONFIDENCE_FILES, ConfidenceError
from .frozen import FrozenModel, ProbeError
from .protocol import Report, Spread, listed
from .solving import LeastSquares

CLASSES_IN_A_CARD = 100

PROCESSOR_FILE, WEIGHTS_FILE, CONFIG_FILE = "preprocessor_config.json", "model.safetensors", "config.json"
METRICS_FILE, CARD_FILE = "metrics.json", "README.md"
WRITTEN_FILES = frozenset((MARK, PROCESSOR_FILE, WEIGHTS_FILE, CONFIG_FILE, METRICS_FILE, CARD_FILE, *CONFIDENCE_FILES))


def check_output(out: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Says before any work whether `write_model` could write to `out`.

    Raises:
        ProbeError: If `out` is a file, or a folder with something in it and `overwrite` is false or it is not a model
            that `write_model` wrote, with nothing else beside it; or no weights could be read from it.
    """
    folder = Path(out)
    why_not = why_no_model_place(folder)
    if why_not is not None:
        raise ProbeError(why_not)
    if folder.exists() and not folder.is_dir():
        raise ProbeError(f"{out}: this is a file; give the name of a folder")
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if found and not overwrite:
        raise ProbeError(f"{out}: not empty (there is {found[0]}); give another name, or --overwrite to replace it")
    foreign = [name for name in found if name not in WRITTEN_FILES]
    if foreign:
        raise ProbeError(
            f"{out}: will not be replaced, since it holds more than a probe writes ({listed(foreign)}); give another "
            "name"
        )


def write_model(
    out: str | os.PathLike[str],
    frozen: FrozenModel,
    solution: LeastSquares,
    report: Report,
    model: str,
    data: str,
    overwrite: bool = False,
    split: Split | None = None,
) -> dict[str, Any] | None:
    """Writes the frozen model with the solution as its classifier: a folder for `from_pretrained` and `classify`.

    With it come the image processor, `metrics.json`, a model card and, where there are enough validation pictures, its
    confidence. The folder is complete or not there.

    Args:
        out: The folder.
        frozen: The model the features came from; its classifier is set.
        solution: What `probe` returned.
        report: Likewise.
        model: What the card calls the frozen model.
        data: What the card calls the data.
        overwrite: Whether to replace what `write_model` wrote there before.
        split: The pictures that it was solved on, and those to calibrate it on; without them it is not calibrated.

    Returns:
        What came of the calibration, or `why_not`; None without `split`.

    Raises:
        ProbeError: See `check_output`.
        OSError: If the files cannot be written.
    """
    check_output(out, overwrite)
    weight, bias = solution.linear(report["scale"])
    classifier: Any = frozen.predictor.model.classifier
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(weight))
        classifier.bias.copy_(torch.from_numpy(bias))
    with whole_folder(out, "replace" if overwrite else "refuse") as folder:
        frozen.predictor.model.save_pretrained(folder)
        frozen.processor.save_pretrained(folder)
        sure = None if split is None else _calibrated(folder, split, frozen.predictor.engine)
        metrics: dict[str, Any] = {"model": model, "data": data, **report}
        if sure is not None:
            metrics["confidence"] = sure
        (folder / METRICS_FILE).write_text(json_text(metrics), encoding="utf-8")
        card = _card(Path(out).resolve().name, report, model, data, sure)
        (folder / CARD_FILE).write_text(escaped(card), encoding="utf-8")
        mark(folder)
    return sure


def _calibrated(folder: Path, split: Split, engine: Any) -> dict[str, Any]:
    try:
        about = {"data": "the validation pictures of the probe"}
        return calibrate_written(folder, split.val, split.train, device=engine.device, about=about)
    except ConfidenceError as error:
        return {"why_not": str(error)}


def _card(name: str, report: Report, model: str, data: str, sure: Mapping[str, Any] | None) -> str:
    rows = "".join(
        f"| {row['shots']} | {row['images']:,} | {percent(row['least_squares'])} | {percent(row['knn'])} |\n"
        for row in report["rows"]
    )
    if report["held_out_top1"] is None:
        how = f"With one picture a class, l2 is the default, {report['l2']:g}, and probabilities are uncalibrated"
    else:
        how = (
            f"The regularization (l2 {report['l2']:g}) and the logits' scale ({report['scale']:.3g}) fit training "
            f"pictures scored by the solution of all the others (top-1 {report['held_out_top1']:.2%})"
        )
    return f"""---
library_name: vit-hybrid
pipeline_tag: image-classification
---

# {name}

`{model}` with its weights frozen and a new linear classifier, computed in closed form by `vit-hybrid probe` from
{report["train_images"]:,} pictures of `{data}`. It tells {len(report["classes"])} classes apart:
{listed(report["classes"], CLASSES_IN_A_CARD)}.

Top-1 on {report["val_images"]:,} validation pictures is {report["top1"]:.2%}, top-5 {report["top5"]:.2%}.

| pictures a class | pictures | least squares, top-1 | {report["neighbors"]} nearest neighbors, top-1 |
|---|---|---|---|
{rows}
Means of draws with seed {report["seed"]}, and their ranges. {how}; nothing was chosen on the validation pictures.
`{METRICS_FILE}` has all figures.
{"" if sure is None else f"{chr(10)}{in_words(sure)}{chr(10)}"}
```sh
vit-hybrid classify PICTURE --model {name}
```
"""


def percent(spread: Spread) -> str:
    """A mean and, where there is one, its range: `43.12% (41.00 to 45.20)`."""
    if spread["min"] == spread["max"]:
        return f"{spread['mean']:.2%}"
    return f"{spread['mean']:.2%} ({100 * spread['min']:.2f} to {100 * spread['max']:.2f})"


__all__ = ["check_output", "percent", "write_model"]

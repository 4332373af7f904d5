"""The files that keep an evaluation: its scores, what the model says of each picture, and what it is wrong of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from ..files import json_text, mark, replacing
from ..images.levels import to_rgb
from ..outputs import figures
from ..outputs.problems import REGRESSION
from .evaluation import Scored
from .words import Mistake

METRICS_FILE, PREDICTIONS_FILE = "metrics.json", "predictions.csv"
MATRIX_FILE, MISTAKES_FILE = "confusion_matrix.png", "mistakes.png"
RELIABILITY_FILE, CURVE_FILE = "reliability.png", "risk_coverage.png"
# Pictures on the sheet of mistakes: four rows of six.
MISTAKES_SHOWN = 24


def write_files(evaluation: Scored, folder: str | os.PathLike[str], about: dict[str, Any] | None = None) -> None:
    """Writes `metrics.json`, `predictions.csv` and `mistakes.png`; of a model that has probabilities `reliability.png`,
    and of a single-label model `confusion_matrix.png` and `risk_coverage.png`.

    Each file is there only when it is whole; one of an earlier evaluation is replaced.

    Args:
        evaluation: What to write.
        folder: Where to; made where it is not there.
        about: More fields for the beginning of `metrics.json`.

    Raises:
        OSError: If a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark(folder, (MATRIX_FILE, MISTAKES_FILE, RELIABILITY_FILE, CURVE_FILE))
    report = evaluation.report()
    text = json_text({**(about or {}), **report}, allow_nan=False)
    _write_whole(folder / METRICS_FILE, lambda file: file.write(text))
    _write_whole(folder / PREDICTIONS_FILE, evaluation.write_table)
    matrix = evaluation.scores.get("confusion_matrix")
    if matrix is not None:
        figures.confusion_matrix(matrix, evaluation.labels, folder / MATRIX_FILE)  # type: ignore[arg-type]
    assessment = evaluation.assessment
    if "calibration" in assessment:
        figures.reliability_diagram(assessment["calibration"], folder / RELIABILITY_FILE)
    if "risk_coverage" in assessment:
        figures.risk_coverage_curve(assessment["risk_coverage"], assessment["answers"], folder / CURVE_FILE)
    _write_mistakes(evaluation, report["images"], folder / MISTAKES_FILE)


def _write_mistakes(evaluation: Scored, images: int, path: Path) -> None:
    found, wrong = evaluation.worst(MISTAKES_SHOWN)
    shown = min(wrong, MISTAKES_SHOWN)
    if not wrong:
        title = f"No mistakes in {images} pictures"
    elif evaluation.problem_type == REGRESSION:
        title = f"The {shown} largest errors of {images} pictures"
    else:
        title = f"{shown} of {wrong} mistakes in {images} pictures, the worst first"
    figures.contact_sheet(_items(found), path, title=title)


def _items(found: Iterator[tuple[Mistake, Image.Image]]) -> Iterator[figures.Item]:
    for mistake, picture in found:
        predicted = mistake.predicted or "nothing"
        if mistake.probability is not None:
            predicted += f" {mistake.probability:.0%}"
        lines = [f"is {mistake.truth or 'nothing'}", f"taken for {predicted}", os.path.basename(mistake.path)]
        yield to_rgb(picture), lines


def _write_whole(path: Path, write: Callable[[TextIO], object]) -> None:
    """Writes under another name first, so that nobody finds half a file."""
    with replacing(path) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
        write(file)


__all__ = ["METRICS_FILE", "write_files"]

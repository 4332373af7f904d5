"""The files that keep an evaluation: its scores, what the model says of each picture, and what it is wrong of."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import escaped
from ..files import json_text, mark, replacing
from ..images.levels import to_rgb
from ..images.reading import ImageReadError
from ..outputs import figures
from ..outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .evaluation import Evaluation, Mistake

METRICS_FILE, PREDICTIONS_FILE = "metrics.json", "predictions.csv"
MATRIX_FILE, MISTAKES_FILE = "confusion_matrix.png", "mistakes.png"
# Pictures on the sheet of mistakes: four rows of six.
MISTAKES_SHOWN = 24


def write_files(evaluation: Evaluation, folder: str | os.PathLike[str], about: dict[str, Any] | None = None) -> None:
    """Writes `metrics.json`, `predictions.csv`, `mistakes.png` and, of a single-label model, `confusion_matrix.png`.

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
    mark(folder, (MATRIX_FILE, MISTAKES_FILE))
    report = json_text({**(about or {}), **evaluation.report()}, allow_nan=False)
    _write_whole(folder / METRICS_FILE, lambda file: file.write(report))
    _write_whole(folder / PREDICTIONS_FILE, lambda file: csv.writer(file).writerows(_table(evaluation)))
    matrix = evaluation.scores.get("confusion_matrix")
    if matrix is not None:
        figures.confusion_matrix(matrix, evaluation.labels, folder / MATRIX_FILE)  # type: ignore[arg-type]
    _write_mistakes(evaluation, folder / MISTAKES_FILE)


def _table(evaluation: Evaluation) -> Iterator[list[Any]]:
    """The rows of predictions.csv, in the order of the pictures."""
    texts = map(escaped, evaluation.paths), evaluation.targets, evaluation.probabilities_by_picture()
    if evaluation.problem_type == SINGLE_LABEL:
        yield ["path", "truth", "predicted", "correct", "probability", "probability_of_truth"]
        for path, target, outputs in zip(*texts, strict=True):
            best = int(outputs.argmax())
            certain = [f"{outputs[index]:.6f}" for index in (best, target)]
            yield [path, evaluation.labels[target], evaluation.labels[best], int(best == target), *certain]
    elif evaluation.problem_type == MULTI_LABEL:
        yield ["path", "truth", "predicted", "correct", *evaluation.labels]
        for path, target, outputs in zip(*texts, strict=True):
            truth, predicted = evaluation.text(target), evaluation.said(outputs)
            yield [path, truth, predicted, int(truth == predicted), *(f"{output:.6f}" for output in outputs)]
    else:
        yield ["path", *(f"{name} {kind}" for kind in ("truth", "predicted") for name in evaluation.labels)]
        for path, target, outputs in zip(*texts, strict=True):
            yield [path, *(float(value) for value in target), *(float(value) for value in outputs)]


def _write_mistakes(evaluation: Evaluation, path: Path) -> None:
    wrong = evaluation.mistakes()
    shown = wrong[:MISTAKES_SHOWN]
    count = len(evaluation.paths)
    if not wrong:
        title = f"No mistakes in {count} pictures"
    elif evaluation.problem_type == REGRESSION:
        title = f"The {len(shown)} largest errors of {count} pictures"
    else:
        title = f"{len(shown)} of {len(wrong)} mistakes in {count} pictures, the worst first"
    figures.contact_sheet(_items(evaluation, shown), path, title=title)


def _items(evaluation: Evaluation, shown: Sequence[Mistake]) -> Iterator[figures.Item]:
    assert evaluation.pictures is not None
    for mistake in shown:
        predicted = mistake.predicted or "nothing"
        if mistake.probability is not None:
            predicted += f" {mistake.probability:.0%}"
        lines = [f"is {mistake.truth or 'nothing'}", f"taken for {predicted}", os.path.basename(mistake.path)]
        try:
            yield to_rgb(evaluation.pictures.picture(mistake.index)), lines
        except ImageReadError:  # it could be read a moment ago
            continue


def _write_whole(path: Path, write: Callable[[TextIO], object]) -> None:
    """Writes under another name first, so that nobody finds half a file."""
    with replacing(path) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
        write(file)


__all__ = ["METRICS_FILE", "write_files"]

"""How good a model is on labeled pictures: its scores, its mistakes, and the files that keep them.

Everything goes through `Predictor`, so what is measured is what `vit-hybrid classify` gives. Pictures are read as their
batch comes up; only the model's outputs are kept, one float32 a picture and label, in a file that is mapped.
"""

from __future__ import annotations

import csv
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np

from ..data import DataError, LabeledPictures, read_labeled
from ..data.listing import PICTURE
from ..data.pictures import PictureSources
from ..data.targets import MissingSplit, UnexpectedLabels
from ..errors import argument, escaped
from ..files import json_text, mark, replacing
from ..images.levels import to_rgb
from ..images.reading import ImageReadError
from ..inference.predictor import Predictor
from ..outputs import figures
from ..outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..outputs.ranking import PROBABILITIES, ErrorRecord
from ..outputs.scores import THRESHOLD, Scores, blocks, distinct, scores

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Which split a model is measured on where nobody says so, the first of these that is there.
PREFERRED_SPLITS = ("test", "val")
METRICS_FILE, PREDICTIONS_FILE = "metrics.json", "predictions.csv"
MATRIX_FILE, MISTAKES_FILE = "confusion_matrix.png", "mistakes.png"
# Pictures on the sheet of mistakes: four rows of six.
MISTAKES_SHOWN = 24
LABEL_SEPARATOR = "|"  # between the labels of one picture in a cell
NAMES_IN_ERRORS = 10
SIGNIFICANT_DIGITS = 4


@dataclass(frozen=True)
class Mistake:
    """One picture of which the model is wrong; texts are for a person.

    Attributes:
        index: Where it stands among the pictures.
        path: What it is called.
        truth: Its label or labels or values.
        predicted: What the model says instead.
        probability: How sure the model is of a single label, 0 to 1; otherwise None.
    """

    index: int
    path: str
    truth: str
    predicted: str
    probability: float | None


@dataclass(frozen=True)
class Evaluation:
    """What came of running a model over labeled pictures.

    Attributes:
        problem_type: What the outputs mean, as in the model's configuration.
        labels: The names of the outputs, no two alike.
        scores: See `vit_hybrid.scores`.
        paths: What the pictures that were read are called, N of them.
        logits: (N, labels) float32, the model's outputs, mapped from a temporary file.
        targets: What is true of them: (N,) indices of `labels`, or (N, labels).
        rows: (N,) where they stand among the pictures that were given.
        skipped: The pictures that could not be read, or that the model could make nothing of, and why.
        notes: What was assumed, a line each.
        seconds: How long reading and running took.
    """

    problem_type: str
    labels: tuple[str, ...]
    scores: Scores
    paths: tuple[str, ...]
    logits: Array
    targets: Array
    rows: Array
    skipped: tuple[ErrorRecord, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    pictures: LabeledPictures | None = field(default=None, repr=False)

    @property
    def probabilities(self) -> Array:
        """(N, labels) float64: over all labels together, or each label's own; of a regression, its values."""
        return self._probabilities(self.logits)

    def probabilities_by_picture(self) -> Iterator[Array]:
        """The same picture by picture, (labels,), of which few are held at a time."""
        for part in blocks(*self.logits.shape):
            yield from self._probabilities(self.logits[part])

    def _probabilities(self, logits: Array) -> Array:
        outputs = logits.astype(np.float64)
        return outputs if self.problem_type == REGRESSION else PROBABILITIES[self.problem_type](outputs)

    def mistakes(self, most: int | None = None) -> list[Mistake]:
        """The pictures of which the model is wrong, the worst first.

        Worst is the wrong label that the model is surest of; of several labels the largest cross-entropy; of values
        the largest absolute error, each value's in units of its deviation.

        Args:
            most: How many to give; all of them by default.
        """
        badness, is_wrong = self._badness()
        order = np.argsort(-badness, kind="stable")
        chosen = order[is_wrong[order]][:most]
        probabilities = (self._probabilities(self.logits[place : place + 1])[0] for place in chosen)
        return [
            Mistake(
                index=int(self.rows[place]),
                path=self.paths[place],
                truth=self._text(self.targets[place]),
                predicted=self._predicted(outputs),
                probability=float(outputs.max()) if self.problem_type == SINGLE_LABEL else None,
            )
            for place, outputs in zip(chosen, probabilities, strict=True)
        ]

    def report(self) -> dict[str, Any]:
        """Scores and counts as one dict that `json.dumps` takes; scores stand at its top."""
        return {
            "problem_type": self.problem_type,
            "labels": list(self.labels),
            "images": len(self.paths),
            "skipped": len(self.skipped),
            "seconds": self.seconds,
            "images_per_second": len(self.paths) / self.seconds if self.seconds else None,
            **self.scores,
            "notes": list(self.notes),
            "unreadable": [dict(record) for record in self.skipped],
        }

    def _badness(self) -> tuple[Array, Any]:
        """(N,) how bad what the model says of each picture is, and whether it is wrong at all."""
        badness, is_wrong = np.empty(len(self.logits)), np.empty(len(self.logits), bool)
        deviations = self.targets.std(axis=0) if self.problem_type == REGRESSION else np.ones(())
        for part in blocks(*self.logits.shape):
            outputs, targets = self.logits[part].astype(np.float64), self.targets[part]
            probabilities = self._probabilities(outputs)
            if self.problem_type == SINGLE_LABEL:
                badness[part] = probabilities.max(axis=1)
                is_wrong[part] = probabilities.argmax(axis=1) != targets
            elif self.problem_type == MULTI_LABEL:
                badness[part] = np.logaddexp(0.0, np.where(targets > 0, -outputs, outputs)).mean(axis=1)
                is_wrong[part] = ((probabilities > THRESHOLD) != (targets > 0)).any(axis=1)
            else:
                errors = np.abs(outputs - targets)
                badness[part] = (errors / np.where(deviations > 0, deviations, 1.0)).mean(axis=1)
                is_wrong[part] = (errors > 0).any(axis=1)
        return badness, is_wrong

    def _text(self, target: Any) -> str:
        if self.problem_type == SINGLE_LABEL:
            return self.labels[int(target)]
        if self.problem_type == MULTI_LABEL:
            return LABEL_SEPARATOR.join(name for name, value in zip(self.labels, target, strict=True) if value)
        return ", ".join(f"{value:.{SIGNIFICANT_DIGITS}g}" for value in target)

    def _predicted(self, outputs: Array) -> str:
        """What a picture's probabilities say."""
        if self.problem_type == SINGLE_LABEL:
            return self.labels[int(outputs.argmax())]
        return self._text(outputs > THRESHOLD if self.problem_type == MULTI_LABEL else outputs)


def default_split(
    location: str | os.PathLike[str],
    split: str | None = None,
    preferred: Sequence[str] = PREFERRED_SPLITS,
    **options: Any,
) -> tuple[LabeledPictures, str | None]:
    """Reads the pictures to measure a model on, and says which split they are.

    Args:
        location: As `read_labeled` takes it.
        split: The split to read. By default the first of `preferred` that is there, else everything that is there.
        preferred: The names of splits; first the test split, then the validation split.
        options: `image_column`, `label_column`, `problem_type`, `na_as_class` and `max_pixels`, as `read_labeled` takes
            them.

    Returns:
        The pictures, and the split's name, None for everything.

    Raises:
        DataError: If they cannot be read.
    """
    if split is not None:
        return read_labeled(location, split, **options), split
    for candidate in preferred:
        try:
            return read_labeled(location, candidate, **options), candidate
        except MissingSplit:
            continue
    return read_labeled(location, **options), None


def spread(pictures: LabeledPictures, limit: int) -> LabeledPictures:
    """At most `limit` of the pictures, spread evenly: the first ones would often be of one class only."""
    if limit >= len(pictures):
        return pictures
    return pictures.select(np.arange(limit) * len(pictures) // limit)


def known_only(pictures: LabeledPictures, labels: Sequence[str]) -> LabeledPictures:
    """The pictures of labels that a model knows; a note says what is left out.

    Args:
        pictures: The pictures.
        labels: The model's.

    Raises:
        DataError: If none is left.
    """
    try:
        pictures.with_labels(labels)
    except UnexpectedLabels as error:
        known = pictures.without(error.labels)
        count, unknown = len(pictures) - len(known), _listed(error.labels)
        known.notes += (f"left out: {count:,} pictures of labels that the model does not know ({unknown})",)
        return known
    return pictures


def evaluate(
    predictor: Predictor,
    pictures: LabeledPictures,
    strict: bool = False,
    progress: Callable[[ErrorRecord | None], None] | None = None,
) -> Evaluation:
    """Runs a model over labeled pictures and scores what it says.

    Labels are matched by name. Data whose labels are bare integers are taken to mean the positions of the model's
    labels, and a note says so. The values of a regression may be called otherwise in the data than in the model.

    Args:
        predictor: The model.
        pictures: The pictures; a label of the model that none of them has is no error.
        strict: Stop at a picture that cannot be read, instead of passing over it.
        progress: Called after each picture, with its error or None.

    Raises:
        DataError: If the data are for another kind of model or have labels that the model does not know, if no picture
            can be read, or, with `strict`, at the first that cannot.
    """
    pictures, names, notes = matched(predictor, pictures)
    start = time.perf_counter()
    paths: list[str] = []
    rows: list[int] = []
    skipped: list[ErrorRecord] = []
    with tempfile.TemporaryFile(prefix="vit-hybrid-") as outputs:
        for row, record in enumerate(predictor.stream_logits(PictureSources(pictures))):
            error: ErrorRecord | None = None
            if "logits" in record:
                paths.append(record["path"])
                outputs.write(np.asarray(record["logits"], np.float32).tobytes())
                rows.append(row)
            else:
                error = record
                skipped.append(record)
                pictures.passed.add(PICTURE, record["path"])
                if strict:
                    raise DataError(record["error"])
            if progress is not None:
                progress(error)
        seconds = time.perf_counter() - start
        if not rows:
            why = f": {skipped[0]['error']}" if skipped else ""
            raise DataError(f"none of the {len(pictures)} pictures can be scored{why}")
        outputs.flush()
        # What is mapped stays when the file is closed, and gone from the folder.
        logits = np.memmap(outputs, np.float32, "r").reshape(len(rows), -1)
    targets = pictures.targets[rows]
    return Evaluation(
        problem_type=predictor.problem_type,
        labels=tuple(names),
        scores=scores(predictor.problem_type, logits, targets, names),
        paths=tuple(paths),
        logits=logits,
        targets=targets,
        rows=np.array(rows),
        skipped=tuple(skipped),
        notes=tuple(notes),
        seconds=seconds,
        pictures=pictures,
    )


def matched(predictor: Predictor, pictures: LabeledPictures) -> tuple[LabeledPictures, list[str], list[str]]:
    """The pictures with targets in the order of the model's outputs, the names of these, and notes on what was assumed.

    Raises:
        DataError: If the data are for another kind of model or have labels that the model does not know.
    """
    problem_type = predictor.problem_type
    if pictures.problem_type != problem_type:
        raise DataError(
            f"the model's problem_type is {problem_type!r}, but the data's labels are those of "
            f"{pictures.problem_type!r} ({_listed(pictures.labels)}); evaluate it on data of its own kind"
        )
    names, notes = distinct(predictor.labels), list(pictures.notes)
    try:
        result = pictures.with_labels(names)
    except UnexpectedLabels as error:
        raise DataError(
            f"the data has labels that the model does not know: {_listed(error.labels)}; the model's are "
            f"{_listed(names)}; evaluate a model that was trained on these classes, rename them, or leave their "
            f"pictures out ({argument('known_only', True)})"
        ) from error
    used = [name for name, count in zip(pictures.labels, pictures.class_counts(), strict=True) if count]
    if problem_type == REGRESSION:
        if set(used) != set(names):
            names = list(pictures.labels)  # LABEL_0 and the like say less
    elif not set(used) <= set(names):
        notes.append(
            "the data's labels are bare integers, taken for positions among the model's labels: "
            + _listed([f"{number} is {names[int(number)]}" for number in used])
        )
    return result, names, notes


def as_values(
    pictures: LabeledPictures, location: str | os.PathLike[str], split: str | None = None, **columns: Any
) -> LabeledPictures:
    """The pictures for a regression model, where whole numbers in their labels were taken for classes.

    Args:
        pictures: What was read, given back as it is where its labels are no numbers.
        location: Where it was read from, to be read again.
        split: The split that was read.
        columns: `image_column`, `label_column`, `na_as_class` and `max_pixels`, as they were.
    """
    try:
        numbers = {float(label) for label in pictures.labels}
    except ValueError:
        return pictures
    if pictures.problem_type == REGRESSION:
        return pictures
    try:
        read = read_labeled(location, split, problem_type=REGRESSION, **columns)
    except DataError:
        return pictures
    # Of class folders that are called by numbers it would give the positions.
    return read if {float(value) for value in np.unique(read.targets)} <= numbers else pictures


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


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - NAMES_IN_ERRORS
    return ", ".join(names[:NAMES_IN_ERRORS]) + (f" and {rest} more" if rest > 0 else "")


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
            truth, predicted = evaluation._text(target), evaluation._predicted(outputs)
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


__all__ = [
    *("Evaluation", "Mistake", "as_values", "default_split", "evaluate", "known_only", "matched", "spread"),
    "write_files",
]

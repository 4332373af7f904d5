"""How good a model's raw outputs are: what `vit-hybrid evaluate`, training and the probe report.

Every function takes logits as `Predictor.logits` gives them and the targets of the same pictures, and gives plain
Python numbers, strings, lists and dicts that `json.dumps` takes as they are. A score that the data leave undefined (the
recall of a class that no picture shows) is None, never NaN. All are computed on the CPU in float64.

Logits may be mapped from a file: they are read in blocks, of which nothing is kept but counts and sums (`tallies`).
Average precision, which is torchmetrics', ranks all pictures, so it reads some labels of all of them at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
import torch

try:
    from torchmetrics.functional import classification
except ImportError as error:
    raise ImportError("scores need torchmetrics: pip install 'vit-hybrid[evaluate]'") from error

from .problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .tallies import (
    THRESHOLD,
    MultiLabelTally,
    RegressionTally,
    SingleLabelTally,
    Tally,
    probabilities_of_each,
)

# The matrix of 21,843 ImageNet-21k labels would take 3.8 GB; the most confused pairs are found without it.
LARGEST_CONFUSION_MATRIX = 2000
MOST_CONFUSED_PAIRS = 20
# Logits that are looked at together: 8 MB of float64.
BLOCK = 2**20
# Those that are ranked together. A few labels of all pictures are read from all of a file, so there are more of them.
RANKED_BLOCK = 2**24

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class ClassScores(TypedDict):
    """What a single-label model makes of one class; `support` is how many pictures show it."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class Confusion(TypedDict):
    """How often pictures of one class were taken for another; `share` is of all pictures of `truth`."""

    truth: str
    predicted: str
    count: int
    share: float


class SingleLabelScores(TypedDict):
    """Scores of a single-label classifier. Shares are 0 to 1; `confusion_matrix` has a row for each true class.

    `balanced_accuracy` and `macro_f1` are means over the classes that the data show. `confusion_matrix` is None above
    2,000 labels.
    """

    top1: float
    top5: float
    balanced_accuracy: float
    macro_f1: float
    negative_log_likelihood: float
    expected_calibration_error: float
    per_class: dict[str, ClassScores]
    most_confused: list[Confusion]
    confusion_matrix: list[list[int]] | None


class LabelScores(TypedDict):
    """What a multi-label model makes of one label; `support` is how many pictures have it."""

    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class MultiLabelScores(TypedDict):
    """Scores of a multi-label classifier, 0 to 1; a label counts as predicted above a probability of 0.5.

    `mean_average_precision` and `macro_f1` are means over the labels that at least one picture has.
    """

    mean_average_precision: float | None
    micro_f1: float | None
    macro_f1: float | None
    exact_match: float
    hamming_accuracy: float
    per_label: dict[str, LabelScores]


class ValueScores(TypedDict):
    """How far one predicted value is off, in its own unit; `r2` is None for fewer than two values that differ."""

    mae: float
    rmse: float
    r2: float | None


class RegressionScores(TypedDict):
    """Scores of a regression model: means over its values, and each value's own."""

    mae: float
    rmse: float
    r2: float | None
    per_value: dict[str, ValueScores]


Scores: TypeAlias = SingleLabelScores | MultiLabelScores | RegressionScores


def headline(problem_type: str) -> tuple[str, bool]:
    """The one score that runs are compared by: its name in the scores, and whether more of it is better.

    Raises:
        ValueError: If there is no such problem type.
    """
    if problem_type not in _HEADLINES:
        raise ValueError(f"problem_type is {problem_type!r}; expected {', '.join(map(repr, _HEADLINES))}.")
    return _HEADLINES[problem_type]


def scores(problem_type: str, logits: Array, targets: Array, labels: Sequence[str] | None = None) -> Scores:
    """The scores of one kind of model.

    Args:
        problem_type: `"single_label_classification"`, `"multi_label_classification"` or `"regression"`.
        logits: The model's outputs, (N, labels).
        targets: What is true of the N pictures: (N,) class indices, (N, labels) zeros and ones, or (N, values).
        labels: The names of the outputs; by default their positions.

    Raises:
        ValueError: If there is no such problem type, shapes do not fit, there are no pictures, or a number is NaN,
            infinite or no label.
    """
    headline(problem_type)
    return _SCORES[problem_type](logits, targets, labels)


def scalars(found: Scores) -> dict[str, float]:
    """The defined single numbers among scores, without the lists and those of classes: what a training log takes."""
    return {name: value for name, value in found.items() if isinstance(value, float)}


def blocks(count: int, each: int, most: int | None = None) -> Iterator[slice]:
    """Slices of `count` rows or columns of `each` numbers: of at most `most` numbers (`BLOCK`), but of one at least."""
    size = max(1, (BLOCK if most is None else most) // max(1, each))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def distinct(labels: Sequence[str]) -> list[str]:
    """The labels, their index in parentheses behind those that there are several of: ImageNet has two cranes."""
    times = Counter(labels)
    return [label if times[label] == 1 else f"{label} ({index})" for index, label in enumerate(labels)]


def single_label_scores(logits: Array, targets: Array, labels: Sequence[str] | None = None) -> SingleLabelScores:
    """Scores of a single-label classifier from (N, labels) logits and (N,) class indices.

    Ties between labels go to the first, as in `Predictor`. With fewer than six labels, `top5` counts as many as there
    are (so it is 1).

    Raises:
        ValueError: As `scores`.
    """
    logits = _checked_logits(logits)
    count, width = logits.shape
    targets = _checked_indices(targets, count, width)
    names = _names(labels, width)
    tally = SingleLabelTally(width)
    for part in blocks(count, width):
        tally.add(logits[part], targets[part])
    return _of_single_label(tally, names, None)


def multi_label_scores(logits: Array, targets: Array, labels: Sequence[str] | None = None) -> MultiLabelScores:
    """Scores of a multi-label classifier from (N, labels) logits and (N, labels) zeros and ones.

    Raises:
        ValueError: As `scores`.
    """
    logits = _checked_logits(logits)
    count, width = logits.shape
    targets = _checked_values(targets, logits.shape)
    if not all(np.isin(targets[part], (0, 1)).all() for part in blocks(count, width)):
        raise ValueError("targets of a multi-label model must be 0 or 1.")
    names = _names(labels, width)
    tally = MultiLabelTally(width)
    for part in blocks(count, width):
        tally.add(logits[part], targets[part])
    return _of_multi_label(tally, names, (logits, targets))


def regression_scores(values: Array, targets: Array, names: Sequence[str] | None = None) -> RegressionScores:
    """Scores of a regression model from its (N, values) outputs and (N, values) targets.

    Raises:
        ValueError: As `scores`.
    """
    values = _checked_logits(values)
    targets = _checked_values(targets, values.shape)
    count, width = values.shape
    found = _names(names, width)
    tally = RegressionTally(width)
    for part in blocks(count, width):
        tally.add(values[part], targets[part])
    return _of_regression(tally, found, None)


def scores_of(tally: Tally, names: Sequence[str], ranked: tuple[Array, Array] | None = None) -> Scores:
    """The scores of what was counted.

    Args:
        tally: The counts, of one picture at least.
        names: Of the outputs, no two alike.
        ranked: Of a multi-label model the logits and the targets of all pictures, (N, labels), mapped from files where
            they are many: average precision ranks them.
    """
    return _OF_TALLIES[type(tally)](tally, names, ranked)


def _of_single_label(tally: SingleLabelTally, names: Sequence[str], _: None) -> SingleLabelScores:
    # Counted without a (labels, labels) matrix, which would be large where labels are many.
    support, chosen, hits = tally.counts()
    recalls = [_share(part, whole) for part, whole in zip(hits, support, strict=True)]
    per_class: dict[str, ClassScores] = {}
    for index, name in enumerate(names):
        precision = _share(hits[index], chosen[index])
        f1 = _f1(hits[index], chosen[index] - hits[index], support[index])
        per_class[name] = ClassScores(precision=precision, recall=recalls[index], f1=f1, support=int(support[index]))
    matrix = None
    if tally.width <= LARGEST_CONFUSION_MATRIX:
        matrix = [[0] * tally.width for _ in range(tally.width)]
        for (truth, predicted), count in tally.pairs.items():
            matrix[truth][predicted] = count
    return SingleLabelScores(
        top1=float(hits.sum() / tally.count),
        top5=tally.among_best / tally.count,
        balanced_accuracy=_required_mean(recalls),
        macro_f1=_required_mean([one["f1"] for one in per_class.values()]),
        negative_log_likelihood=tally.losses / tally.count,
        expected_calibration_error=tally.calibration_error(),
        per_class=per_class,
        most_confused=_most_confused(tally, support, names),
        confusion_matrix=matrix,
    )


def _of_multi_label(
    tally: MultiLabelTally, names: Sequence[str], ranked: tuple[Array, Array] | None
) -> MultiLabelScores:
    count, width = tally.count, tally.width
    # Average precision asks how the pictures that have the label are ranked, so there must be one.
    shown = np.flatnonzero(tally.support)
    precisions: dict[int, float | None] = dict.fromkeys(range(width))
    assert ranked is not None
    logits, targets = ranked
    for part in blocks(len(shown), count, RANKED_BLOCK):
        some = (slice(None), shown[part])
        found = _average_precisions(probabilities_of_each(logits[some]), torch.from_numpy(targets[some].astype(int)))
        precisions.update(zip(shown[part].tolist(), found, strict=True))
    per_label: dict[str, LabelScores] = {}
    for index, name in enumerate(names):
        hits, misfires, positives = tally.hits[index], tally.misfires[index], tally.support[index]
        per_label[name] = LabelScores(
            average_precision=precisions[index],
            precision=_share(hits, hits + misfires),
            recall=_share(hits, positives),
            f1=_f1(hits, misfires, positives),
            support=int(positives),
        )
    hits, misfires, positives = tally.hits.sum(), tally.misfires.sum(), tally.support.sum()
    return MultiLabelScores(
        mean_average_precision=_mean([one["average_precision"] for one in per_label.values()]),
        micro_f1=_share(2 * hits, hits + misfires + positives),
        macro_f1=_mean([one["f1"] for one in per_label.values()]),
        exact_match=tally.exactly / count,
        hamming_accuracy=tally.matched / (count * width),
        per_label=per_label,
    )


def _of_regression(tally: RegressionTally, names: Sequence[str], _: None) -> RegressionScores:
    per_value = {
        name: ValueScores(mae=mae, rmse=rmse, r2=r2)
        for name, (mae, rmse, r2) in zip(names, tally.errors(), strict=True)
    }
    return RegressionScores(
        mae=_required_mean([one["mae"] for one in per_value.values()]),
        rmse=_required_mean([one["rmse"] for one in per_value.values()]),
        r2=_mean([one["r2"] for one in per_value.values()]),
        per_value=per_value,
    )


_HEADLINES = {SINGLE_LABEL: ("top1", True), MULTI_LABEL: ("mean_average_precision", True), REGRESSION: ("mae", False)}
_SCORES: dict[str, Callable[[Array, Array, Sequence[str] | None], Scores]] = {
    SINGLE_LABEL: single_label_scores,
    MULTI_LABEL: multi_label_scores,
    REGRESSION: regression_scores,
}
_OF_TALLIES: dict[type, Callable[[Any, Sequence[str], Any], Scores]] = {
    SingleLabelTally: _of_single_label,
    MultiLabelTally: _of_multi_label,
    RegressionTally: _of_regression,
}


def _checked_logits(logits: Array) -> Array:
    logits = np.asarray(logits)
    if logits.dtype.kind not in "fiu":
        logits = logits.astype(np.float64)
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"logits have shape {logits.shape}; expected (pictures, labels).")
    if not len(logits):
        raise ValueError("there are no pictures to score.")
    _require_finite("logits", logits)
    return logits


def _checked_indices(targets: Array, count: int, width: int) -> Array:
    targets = np.asarray(targets)
    if targets.shape != (count,):
        raise ValueError(f"targets have shape {targets.shape}; expected ({count},), a class index for each picture.")
    if not np.issubdtype(targets.dtype, np.integer):
        _require_finite("targets", targets)
        if (targets != np.floor(targets)).any():
            raise ValueError("targets must be whole numbers, the indices of classes.")
    wrong = targets[(targets < 0) | (targets >= width)]
    if len(wrong):
        raise ValueError(f"targets hold the class index {int(wrong[0])}; expected 0 to {width - 1}.")
    return targets.astype(np.int64)


def _checked_values(targets: Array, shape: tuple[int, ...]) -> Array:
    targets = np.asarray(targets)
    if targets.dtype.kind not in "fiub":
        targets = targets.astype(np.float64)
    if targets.shape != shape:
        raise ValueError(f"targets have shape {targets.shape}; expected {shape}, that of the logits.")
    _require_finite("targets", targets)
    return targets


def _require_finite(what: str, numbers: Array) -> None:
    rows = numbers.reshape(len(numbers), -1)
    bad = np.empty(len(rows), bool)
    for part in blocks(*rows.shape):
        bad[part] = ~np.isfinite(rows[part].astype(np.float64)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{what} of {int(bad.sum())} of {len(numbers)} pictures are not finite numbers (picture "
            f"{int(np.flatnonzero(bad)[0]) + 1} is the first)."
        )


def _names(labels: Sequence[str] | None, width: int) -> list[str]:
    """A name for each output, no two of them equal: they become the keys of a dict."""
    if labels is None:
        return [str(index) for index in range(width)]
    if len(labels) != width:
        raise ValueError(f"there are {len(labels)} labels for logits of {width}.")
    return distinct(labels)


def _share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def _f1(true_positives: Any, false_positives: Any, support: Any) -> float | None:
    """F1 of a class that the data show: of another, nothing but its false alarms could be told."""
    return _share(2 * true_positives, true_positives + false_positives + support) if support else None


def _average_precisions(probabilities: torch.Tensor, truth: torch.Tensor) -> list[float]:
    width = truth.shape[1]
    if not width:
        return []
    found = classification.multilabel_average_precision(
        probabilities, truth, num_labels=width, average="none", validate_args=False
    )
    return found.reshape(width).double().tolist()


def _mean(numbers: Sequence[float | None]) -> float | None:
    defined = [number for number in numbers if number is not None]
    return float(np.mean(defined)) if defined else None


def _required_mean(numbers: Sequence[float | None]) -> float:
    """The mean of numbers of which at least one is defined."""
    mean = _mean(numbers)
    assert mean is not None
    return mean


def _most_confused(tally: SingleLabelTally, support: Array, names: Sequence[str]) -> list[Confusion]:
    """The pairs of classes that are most often taken one for the other, most pictures first, then largest share."""
    wrong = ((count, pair) for pair, count in tally.pairs.items() if pair[0] != pair[1])
    found = [(count, count / int(support[pair[0]]), pair) for count, pair in wrong]
    found.sort(key=lambda one: (-one[0], -one[1], one[2]))
    return [
        Confusion(truth=names[truth], predicted=names[predicted], count=count, share=share)
        for count, share, (truth, predicted) in found[:MOST_CONFUSED_PAIRS]
    ]


__all__ = [
    "MULTI_LABEL",
    "REGRESSION",
    "SINGLE_LABEL",
    "THRESHOLD",
    "ClassScores",
    "Confusion",
    "LabelScores",
    "MultiLabelScores",
    "RegressionScores",
    "Scores",
    "SingleLabelScores",
    "ValueScores",
    "blocks",
    "distinct",
    "headline",
    "multi_label_scores",
    "regression_scores",
    "scalars",
    "scores",
    "scores_of",
    "single_label_scores",
]

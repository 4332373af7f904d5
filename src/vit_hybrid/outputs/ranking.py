"""What is said of a picture: probabilities of its labels, and the records that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypeAlias, TypedDict, final

import numpy as np

from .problems import MULTI_LABEL, SINGLE_LABEL


class Prediction(TypedDict):
    """A label and its probability, 0 to 1."""

    label: str
    probability: float


@final
class PredictionRecord(TypedDict):
    """What became of one picture: its predictions, best first; and what a model that was calibrated has to say of them.

    `set` holds the truth in the share `coverage` of all pictures, likeliest first; `familiarity` is, of the held-out
    pictures and this one, the share that is at most as familiar, above 0 to 1; `none_of_these` whether it is below what
    was asked for.
    """

    path: str
    predictions: list[Prediction]
    set: NotRequired[list[str]]
    coverage: NotRequired[float]
    familiarity: NotRequired[float]
    none_of_these: NotRequired[bool]


@final
class ErrorRecord(TypedDict):
    """What became of one picture: one line that names it and says why there is no prediction."""

    path: str
    error: str


Record: TypeAlias = PredictionRecord | ErrorRecord


@final
class LogitsRecord(TypedDict):
    """What became of one picture: the model's raw outputs, (labels,) float32."""

    path: str
    logits: np.ndarray


@final
class OutputRecord(TypedDict):
    """What became of one picture: what the engine was loaded to give of it, raw outputs (labels,), what the classifier
    takes (D,) and the class token before the last norm (D,), float32; and statistics of its pixels (S,), float64, where
    they were wanted."""

    path: str
    logits: NotRequired[np.ndarray]
    features: NotRequired[np.ndarray]
    token: NotRequired[np.ndarray]
    statistics: NotRequired[np.ndarray]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Each output's own probability."""
    return np.exp(-np.logaddexp(0.0, -logits))  # without the overflow of 1 / (1 + exp(-x))


# What makes probabilities of logits; the outputs of a regression are values.
PROBABILITIES = {SINGLE_LABEL: softmax, MULTI_LABEL: sigmoid}


def check_rankable(problem_type: str, top_k: int | None) -> None:
    """Raises `ValueError` where outputs are values and not scores of labels, or `top_k` is not positive."""
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; expected 1 or more, or None for all labels.")
    if problem_type not in PROBABILITIES:
        raise ValueError(
            f"This model's problem_type is {problem_type!r}: its outputs are values, not scores of labels, "
            "and cannot be ranked. Predictor.logits gives the values."
        )


def ranked(logits: np.ndarray, labels: Sequence[str], problem_type: str, top_k: int | None = None) -> list[Prediction]:
    """The labels of one picture, best first; those of equal probability in the order of the logits.

    Args:
        logits: (labels,), finite.
        labels: In the order of the logits.
        problem_type: One that `check_rankable` lets pass.
        top_k: How many labels to give; all of them by default.
    """
    return ranked_each(logits[None], labels, problem_type, [top_k])[0]


def ranked_each(
    logits: np.ndarray, labels: Sequence[str], problem_type: str, top_k: Sequence[int | None]
) -> list[list[Prediction]]:
    """The same of several pictures, to the last digit, in less time.

    Args:
        logits: (N, labels), finite.
        labels: In the order of the logits.
        problem_type: One that `check_rankable` lets pass.
        top_k: (N,) how many labels to give of each; None for all of them.
    """
    probabilities = PROBABILITIES[problem_type](logits.astype(np.float64))
    number = probabilities.shape[1]
    most = max((number if one is None else min(one, number) for one in top_k), default=number)
    # All that are as likely as the last one wanted, so that equal ones come in the order of the logits.
    last = np.partition(probabilities, number - most, axis=1)[:, number - most, None]
    ordered = best_first(probabilities, probabilities >= last)
    return [
        [
            {"label": labels[index], "probability": probability}
            for index, probability in zip(order[:count], row[order[:count]].tolist(), strict=True)
        ]
        for row, order, count in zip(probabilities, ordered, top_k, strict=True)
    ]


def best_first(scores: np.ndarray, chosen: np.ndarray) -> list[list[int]]:
    """The positions of the chosen scores of each row, highest first; of equal ones the first comes first.

    Args:
        scores: (N, labels), finite.
        chosen: (N, labels), which of them.
    """
    rows, positions = np.nonzero(chosen)
    ordered = positions[np.lexsort((-scores[rows, positions], rows))].tolist()
    ends = np.cumsum(np.count_nonzero(chosen, axis=1)).tolist()
    return [ordered[start:end] for start, end in zip([0, *ends], ends, strict=False)]


__all__ = [
    "PROBABILITIES",
    "ErrorRecord",
    "LogitsRecord",
    "OutputRecord",
    "Prediction",
    "PredictionRecord",
    "Record",
    "best_first",
    "check_rankable",
    "ranked",
    "ranked_each",
    "sigmoid",
    "softmax",
]

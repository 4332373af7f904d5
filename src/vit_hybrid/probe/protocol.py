"""How much a frozen model knows of new classes: few-shot least squares and nearest neighbors on its features.

The protocol is that of the ViT paper (Dosovitskiy et al., 2020, section 4.1) as the authors' big_vision carries it out:
regularized least squares from what the classifier takes, standardized feature by feature, to targets of -1 and 1. The
model runs over each picture once; everything after that is linear algebra on the CPU, in float64.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np

from ..inference.features import DEFAULT_NEIGHBORS, Features, Skipped, nearest_neighbors
from ..outputs.ranking import softmax
from .frozen import ProbeError
from .solving import L2_CANDIDATES, LeastSquares, fit_scale, least_squares

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# big_vision's shots a class.
DEFAULT_SHOTS = (1, 5, 10, 25)
# Draws of the pictures of a few-shot row: two more than big_vision's three, since they cost next to nothing.
DEFAULT_TRIALS = 5

TOP_K = 5
NAMES_IN_A_MESSAGE = 5
ALL: Literal["all"] = "all"


class Spread(TypedDict):
    """A figure over the trials."""

    mean: float
    min: float
    max: float


class Row(TypedDict):
    """What `shots` pictures of each class give: top-1 on the validation pictures, 0 to 1; `images` is how many in all.

    `l2` has the strength chosen in each trial.
    """

    shots: int | Literal["all"]
    images: int
    trials: int
    least_squares: Spread
    knn: Spread
    l2: list[float]


class Report(TypedDict):
    """What a probe found. `top1` to `mean_confidence` are of least squares on all training pictures, as in the model
    that `write_model` writes; `scale` is what makes logits of its scores. Shares are 0 to 1, `seconds` wall-clock time.
    """

    classes: list[str]
    train_images: int
    val_images: int
    feature_size: int
    neighbors: int
    seed: int
    rows: list[Row]
    top1: float
    top5: float
    knn_top1: float
    held_out_top1: float | None
    cross_entropy: float
    mean_confidence: float
    l2: float
    scale: float
    seconds: dict[str, float]
    unreadable: list[Skipped]
    notes: list[str]


def draw_shots(targets: Array, num_classes: int, shots: int, generator: np.random.Generator) -> Array:
    """Indices of `shots` pictures of each class, drawn without replacement; all of a class that has fewer.

    With a generator in the same state, the pictures of fewer shots are among those of more.
    """
    drawn = [generator.permutation(np.flatnonzero(targets == index))[:shots] for index in range(num_classes)]
    return np.concatenate(drawn)


def probe(
    train: Features,
    val: Features,
    classes: Sequence[str],
    shots: Sequence[int] | None = None,
    trials: int = DEFAULT_TRIALS,
    neighbors: int = DEFAULT_NEIGHBORS,
    l2: Sequence[float] = L2_CANDIDATES,
    seed: int = 0,
) -> tuple[Report, LeastSquares]:
    """Few-shot least squares and nearest neighbors, and both on all training pictures.

    Nothing is chosen on the validation pictures: the strength of the regularization and the scale of the logits come
    from scores of training pictures by solutions without them.

    Args:
        train: Features of the training pictures.
        val: Features of the validation pictures.
        classes: The classes' names.
        shots: How many pictures a class, in ascending order or not; by default those of 1, 5, 10 and 25 that are fewer
            than the largest class has. All pictures are tried in any case.
        trials: How many draws of these pictures.
        neighbors: How many pictures vote.
        l2: Strengths of the regularization to choose from.
        seed: What the draws depend on.

    Returns:
        What was found, and the solution on all training pictures.

    Raises:
        ProbeError: If the training pictures show fewer than two classes.
        ValueError: If a number is out of range.
    """
    for name, number in (("trials", trials), ("neighbors", neighbors), *(("shots", number) for number in shots or ())):
        if number < 1:
            raise ValueError(f"{name} is {number}; expected 1 or more.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more.")
    counts = _counts(train, classes)
    shown = np.count_nonzero(counts)
    if shown < 2:
        raise ProbeError(f"the training pictures show {shown} of {len(classes)} classes; a probe needs 2 or more")
    started = time.perf_counter()
    if shots is None:
        shots = [number for number in DEFAULT_SHOTS if number < counts.max()]
    shots = sorted(set(shots))
    notes = _notes(counts, classes, shots, val)
    rows = [_few_shot_row(train, val, len(classes), number, trials, neighbors, l2, seed) for number in shots]

    everything = least_squares(train.values, train.targets, len(classes), l2)
    scores = everything.scores(val.values)
    in_company = counts[train.targets] > 1
    held_out, own = everything.held_out[in_company], train.targets[in_company]
    scale = fit_scale(held_out, own) if len(own) else 1.0
    if not len(own):
        notes.append("with one picture a class none can be held out: l2 is the default, probabilities are uncalibrated")
    knn = _top1(nearest_neighbors(train, val.values, len(classes), neighbors), val.targets)
    top1 = _top1(scores, val.targets)
    rows.append(
        Row(
            shots=ALL,
            images=len(train),
            trials=1,
            least_squares=_spread([top1]),
            knn=_spread([knn]),
            l2=[everything.l2],
        )
    )
    probabilities = softmax(scale * scores)
    report = Report(
        classes=list(classes),
        train_images=len(train),
        val_images=len(val),
        feature_size=train.values.shape[1],
        neighbors=neighbors,
        seed=seed,
        rows=rows,
        top1=top1,
        top5=_top_k(scores, val.targets, TOP_K),
        knn_top1=knn,
        held_out_top1=_top1(held_out, own) if len(own) else None,
        cross_entropy=_cross_entropy(scale * scores, val.targets),
        mean_confidence=float(probabilities.max(1).mean()),
        l2=everything.l2,
        scale=scale,
        seconds={"solving": time.perf_counter() - started},
        unreadable=[*train.skipped, *val.skipped],
        notes=notes,
    )
    return report, everything


def _few_shot_row(
    train: Features,
    val: Features,
    num_classes: int,
    shots: int,
    trials: int,
    neighbors: int,
    l2: Sequence[float],
    seed: int,
) -> Row:
    solved, voted, strengths = [], [], []
    chosen = np.empty(0, np.int64)
    for trial in range(trials):
        chosen = draw_shots(train.targets, num_classes, shots, np.random.default_rng((seed, trial)))
        few = Features(train.values[chosen], train.targets[chosen])
        solution = least_squares(few.values, few.targets, num_classes, l2)
        solved.append(_top1(solution.scores(val.values), val.targets))
        voted.append(_top1(nearest_neighbors(few, val.values, num_classes, neighbors), val.targets))
        strengths.append(solution.l2)
        if len(chosen) == len(train):  # another draw would be the same pictures
            break
    return Row(
        shots=shots,
        images=len(chosen),
        trials=len(solved),
        least_squares=_spread(solved),
        knn=_spread(voted),
        l2=strengths,
    )


def _notes(counts: Array, classes: Sequence[str], shots: Sequence[int], val: Features) -> list[str]:
    """What a reader of the figures should know of the data, a line each."""
    notes = []
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        notes.append(f"no training pictures of {listed(empty)}")
    unseen = [name for name, count in zip(classes, _counts(val, classes), strict=True) if count == 0]
    if unseen:
        notes.append(f"no validation pictures of {listed(unseen)}")
    for number in shots:
        short = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if 0 < count < number]
        if short:
            notes.append(f"fewer than {number} training pictures, all of which are used, of {listed(short)}")
    return notes


def _counts(features: Features, classes: Sequence[str]) -> Array:
    return np.bincount(features.targets, minlength=len(classes))


def listed(names: Sequence[str], most: int = NAMES_IN_A_MESSAGE) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _top1(scores: Array, targets: Array) -> float:
    return float((scores.argmax(1) == targets).mean())


def _top_k(scores: Array, targets: Array, k: int) -> float:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == targets[:, None]).any(1).mean())


def _cross_entropy(logits: Array, targets: Array) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(1))
    return float((log_sums - shifted[np.arange(len(targets)), targets]).mean())


def _spread(figures: Sequence[float]) -> Spread:
    return Spread(mean=float(np.mean(figures)), min=min(figures), max=max(figures))


__all__ = ["Report", "draw_shots", "probe"]

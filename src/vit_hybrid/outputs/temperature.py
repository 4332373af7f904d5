"""Temperatures that make probabilities mean what they say.

Guo et al., On Calibration of Modern Neural Networks, 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .problems import MULTI_LABEL
from .ranking import PROBABILITIES, softmax

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Reciprocals of temperatures that are looked among. Where outputs spread by less than 1, as after a few steps of
# training, the first is so many times as much, and where by more, the last as much less. There outputs and labels have
# little to do with each other.
COLDEST, HOTTEST = 20.0, 1 / 20.0
HALVINGS = 60


def temperature_of(logits: Array, targets: Array) -> float:
    """The temperature of the smallest negative log-likelihood, of one label a picture.

    Where there is none, since the outputs are right of all pictures and would be the better the surer they are, that
    of one more picture which they would be wrong of, spread over the others (as Platt, Probabilistic Outputs for
    Support Vector Machines, 1999, guards himself).

    Args:
        logits: (N, labels).
        targets: (N,) classes.
    """
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.mean(axis=1, keepdims=True)
    pictures, labels = logits.shape
    true = logits[np.arange(pictures), targets]
    # Of the others the outputs have the mean -true / (labels - 1): all of them together have none.
    wrong = 1 / (pictures + 2)
    guarded = (1 - wrong) * true - wrong * true / max(1, labels - 1)

    def rising(of: Array) -> Callable[[Array], Array]:
        return lambda by: np.array([((softmax(by * logits) * logits).sum(axis=1) - of).mean() >= 0])

    spread, never_errs = np.sqrt(np.square(logits).mean()), bool((true >= logits.max(axis=1)).all())
    return float(_best(np.array([spread]), rising(true), rising(guarded), np.array([never_errs]))[0])


def temperatures_of(logits: Array, targets: Array) -> Array:
    """(labels,) each label's own, 1 for a label that all of the pictures have or none has; see `temperature_of`."""
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    having = targets.sum(axis=0)
    lacking = len(targets) - having
    guarded = np.where(targets > 0, (having + 1) / (having + 2), 1 / (lacking + 2))

    def rising(of: Array) -> Callable[[Array], Array]:
        return lambda by: (logits * (PROBABILITIES[MULTI_LABEL](by * logits) - of)).mean(axis=0) >= 0

    never_errs = np.asarray(np.where(targets > 0, logits >= 0, logits <= 0).all(axis=0))
    found = _best(np.sqrt(np.square(logits).mean(axis=0)), rising(targets), rising(guarded), never_errs)
    return np.where((having > 0) & (lacking > 0), found, 1.0)


def _best(
    spread: Array, rising: Callable[[Array], Array], guarded: Callable[[Array], Array], never_errs: Array
) -> Array:
    """The temperatures at which losses are smallest, whose slope in the reciprocal of the temperature only rises.

    Args:
        spread: (M,) root mean squares of outputs.
        rising: Says of (M,) reciprocals whether the loss rises there.
        guarded: The same of another loss, which is taken where that one falls all the way.
        never_errs: (M,) where it does, which rounding hides.
    """
    more = 1 / np.clip(spread, np.finfo(np.float32).tiny, 1.0)
    falls = never_errs | ~rising(COLDEST * more)
    low, high = HOTTEST / np.maximum(spread, 1.0), COLDEST * more
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        past = np.where(falls, guarded(middle), rising(middle))
        low, high = np.where(past, low, middle), np.where(past, middle, high)
    return np.where(spread > 0, 2 / (low + high), 1.0)


__all__ = ["temperature_of", "temperatures_of"]

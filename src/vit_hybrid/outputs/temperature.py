"""Temperatures that make probabilities mean what they say.

Guo et al., On Calibration of Modern Neural Networks, 2017.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from .problems import MULTI_LABEL
from .ranking import PROBABILITIES, softmax

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Reciprocals of temperatures that are looked among; at either end labels and outputs have little to do with each other.
COLDEST, HOTTEST = 20.0, 1 / 20.0


def temperature_of(logits: Array, targets: Array) -> float:
    """The temperature of the smallest negative log-likelihood, of one label a picture.

    The slope of that in the reciprocal of the temperature only rises, so halving finds where it is zero.

    Args:
        logits: (N, labels).
        targets: (N,) classes.
    """
    logits = np.asarray(logits, np.float64)
    true = logits[np.arange(len(logits)), targets]
    low, high = HOTTEST, COLDEST
    for _ in range(50):
        middle = (low + high) / 2
        slope = ((softmax(middle * logits) * logits).sum(axis=1) - true).mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 2 / (low + high)


def temperatures_of(logits: Array, targets: Array) -> Array:
    """(labels,) each label's own, 1 for a label that all of the pictures have or none has."""
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    low, high = np.full(logits.shape[1], HOTTEST), np.full(logits.shape[1], COLDEST)
    sigmoid = PROBABILITIES[MULTI_LABEL]
    for _ in range(50):
        middle = (low + high) / 2
        rising = (logits * (sigmoid(middle * logits) - targets)).mean(axis=0) >= 0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    share = targets.mean(axis=0)
    return np.where((share > 0) & (share < 1), 2 / (low + high), 1.0)


__all__ = ["temperature_of", "temperatures_of"]

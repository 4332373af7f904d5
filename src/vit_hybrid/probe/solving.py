"""Regularized least squares from features to classes, in closed form, on the CPU in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from ..outputs.ranking import softmax

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# big_vision's: the strength of the regularization, and what is added to a feature's deviation, so that a feature that
# never changes divides by something.
DEFAULT_L2 = 2.0**10
DEVIATION_EPSILON = 1e-5
# Strengths to choose from; they cover the 2^-10 to 2^20 of Kolesnikov et al. (Big Transfer, 2020).
L2_CANDIDATES = tuple(4.0**power for power in range(-5, 11))
# Between these the factor lies that makes logits of scores; the bisection halves the logarithm's range so many times.
SMALLEST_SCALE, LARGEST_SCALE = 1e-2, 1e3
SCALE_STEPS = 30


@dataclass(frozen=True)
class LeastSquares:
    """Scores of classes as an affine function of features.

    Attributes:
        mean: (D,), and `deviation` (D,): what features are standardized by.
        coefficients: (D, K), on standardized features.
        intercept: (K,).
        l2: The strength of the regularization.
        held_out: (N, K): each training picture's scores by the solution of all the others.
    """

    mean: Array
    deviation: Array
    coefficients: Array
    intercept: Array
    l2: float
    held_out: Array

    def scores(self, features: Array) -> Array:
        """(N, D) features to (N, K) scores, about -1 for no and 1 for yes."""
        return (features - self.mean) / self.deviation @ self.coefficients + self.intercept

    def linear(self, scale: float = 1.0) -> tuple[Array, Array]:
        """Weight (K, D) and bias (K,) of one linear layer that makes `scale` x scores of features as they are."""
        weight = (self.coefficients / self.deviation[:, None]).T
        return scale * weight, scale * (self.intercept - weight @ self.mean)


def least_squares(
    features: Array, targets: Array, num_classes: int, l2: Sequence[float] = L2_CANDIDATES
) -> LeastSquares:
    """Regularized least squares from standardized features to -1 and, for a picture's own class, 1, in closed form.

    The intercept is not regularized: on standardized features it is the targets' mean. (big_vision appends a feature of
    constant 100 instead, so that it is hardly regularized; this is the limit for larger constants.) Of several
    strengths, that with the smallest squared error of `held_out` is taken, which one decomposition gives for all of
    them: a prediction without the picture itself is y - (y - prediction) / (1 - leverage). Pictures that are alone in
    their class say nothing there; where all are, the strength is that nearest to big_vision's 2^10.

    Args:
        features: (N, D).
        targets: (N,), indices of classes.
        num_classes: K; a class may have no pictures.
        l2: Strengths to choose from, each above 0.

    Raises:
        ValueError: If a strength is not above 0, or there are none or no pictures.
    """
    if len(l2) == 0 or not all(strength > 0 and np.isfinite(strength) for strength in l2):
        raise ValueError(f"l2 is {list(l2)}; expected one or more numbers above 0.")
    if len(features) == 0:
        raise ValueError("There are no pictures to learn from.")
    inputs = torch.from_numpy(np.asarray(features, np.float64))
    mean = inputs.mean(0)
    deviation = inputs.std(0, correction=0) + DEVIATION_EPSILON
    classes = torch.from_numpy(np.asarray(targets, np.int64))
    wanted = 2.0 * torch.nn.functional.one_hot(classes, num_classes).double() - 1.0  # (N, K)
    intercept = wanted.mean(0)

    left, singular, right = torch.linalg.svd((inputs - mean) / deviation, full_matrices=False)
    projected = left.T @ (wanted - intercept)  # (r, K)
    in_company = torch.bincount(classes, minlength=num_classes)[classes] > 1

    def held_out(strength: float) -> torch.Tensor:
        kept = singular**2 / (singular**2 + strength)
        leverage = 1 / len(inputs) + left**2 @ kept
        residual = wanted - intercept - (left * kept) @ projected
        return wanted - residual / (1 - leverage).clamp(min=torch.finfo(torch.float64).eps)[:, None]

    def error_of(strength: float) -> float:
        return float((held_out(strength) - wanted)[in_company].square().mean())

    if len(l2) > 1 and in_company.any():
        chosen = min(l2, key=error_of)
    else:
        chosen = min(l2, key=lambda strength: abs(np.log(strength / DEFAULT_L2)))
    coefficients = right.T @ ((singular / (singular**2 + chosen))[:, None] * projected)
    return LeastSquares(
        mean=mean.numpy(),
        deviation=deviation.numpy(),
        coefficients=coefficients.numpy(),
        intercept=intercept.numpy(),
        l2=float(chosen),
        held_out=held_out(chosen).numpy(),
    )


def fit_scale(scores: Array, targets: Array) -> float:
    """The factor by which scores become the logits whose softmax fits `targets` best, as cross-entropy goes.

    As in Platt's scaling (1999), a picture counts as its class with the probability (N + 1) / (N + 2) only, so that
    scores without a mistake do not call for an infinite factor.

    Args:
        scores: (N, K) scores of pictures that the solution has not seen.
        targets: (N,), indices of classes.
    """
    number, num_classes = scores.shape
    doubt = 1 / (number + 2)
    wanted = np.full(scores.shape, doubt / (num_classes - 1))
    wanted[np.arange(number), targets] = 1 - doubt
    hoped = float((wanted * scores).sum())
    low, high = np.log(SMALLEST_SCALE), np.log(LARGEST_SCALE)
    for _ in range(SCALE_STEPS):  # cross-entropy is convex in the factor: its slope changes sign once
        middle = (low + high) / 2
        if float((softmax(np.exp(middle) * scores) * scores).sum()) < hoped:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


__all__ = ["DEFAULT_L2", "DEVIATION_EPSILON", "L2_CANDIDATES", "LeastSquares", "fit_scale", "least_squares"]

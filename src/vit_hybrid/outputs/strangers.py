"""How familiar a picture is to a model: distances from what it was trained on, and what held-out pictures have.

Features are class tokens before the last norm, whose length tells strangers, too. All distances grow with strangeness.
On Vision Transformers the energy and the largest logit tell strangers worse than the plain softmax does (OpenOOD 1.5,
Zhang et al. 2023), so neither is here.
What a classifier makes of noise lies in the midst of what it makes of photographs, closer than most of them, so no
distance of features tells noise; a few statistics of the pixels do.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from ..errors import EngineWarning, argument
from .ranking import softmax

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MAHALANOBIS, VIM, NEIGHBORS = "relative mahalanobis", "virtual logit", "nearest neighbors"
PIXELS, SOFTMAX, ENTROPY = "pixels", "softmax", "generalized entropy"
DISTANCES = (MAHALANOBIS, VIM, NEIGHBORS, PIXELS, SOFTMAX, ENTROPY)
# What a picture's strangeness is the sum of: the negative logarithms of the shares of held-out pictures that are as
# far, times these; of the pixels only what is beyond `ODD`, since most strangers have pixels like those of any
# photograph. docs/measured.md has what this was chosen against.
COMBINED = {MAHALANOBIS: 1.0, ENTROPY: 1.0, PIXELS: 3.0}
# Of few held-out pictures more are odd, or none could be odder than they are.
ODD = 0.03
ODDEST = 3
# Of GEN: Liu, Lochman and Zach, GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection, 2023.
GAMMA = 0.1
# Of each class's training pictures that nearest neighbors are looked for among.
NEIGHBORS_A_CLASS = 20
# Which of the nearest is measured: Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, 2022, take
# the 1,000th of 1,281,167 pictures of ImageNet; of 20 a class it is this one.
NEIGHBOR = 10
# Of the variance that covariances get on their diagonal, so that directions without any can be inverted.
RIDGE = 1e-3
# What share of the directions is principal: Wang et al., ViM: Out-Of-Distribution with Virtual-logit Matching, 2022,
# take 512 of 768.
PRINCIPAL = 2 / 3
# Of the spread of held-out pictures' distances, what rounding moves a distance by.
ROUNDING = 1e-4
# Halvings of the picture at which the statistics of its pixels look for edges.
SCALES = 4
# Of pixels, values whose statistics are computed together: what a processor's cache holds several times.
VALUES_AT_ONCE = 1 << 17
# Of a sum of squares, values that are added by one call: OpenBLAS adds more than 10,000 in threads, whose number the
# last digits would depend on.
ADDED_AT_ONCE = 1 << 13
# So many pictures at most are judged each by itself; of more, products of matrices are several times as fast.
FEW_ROWS = 64
# What logarithms are taken above: a thousandth of a standard deviation of photographs' levels.
FLOOR = 1e-3


class Gathering:
    """Collects, batch by batch, what distances need of training pictures; their features are not kept.

    Args:
        classes: How many there are.
        width: Numbers in a feature.
    """

    def __init__(self, classes: int, width: int) -> None:
        self._count = np.zeros(classes, np.int64)
        self._sum = np.zeros((classes, width))
        self._products = np.zeros((width, width))
        self._statistics = np.zeros(STATISTICS)
        self._statistic_products = np.zeros((STATISTICS, STATISTICS))
        self._kept: list[list[Array]] = [[] for _ in range(classes)]
        self._rng = np.random.default_rng(0)

    def add(self, features: Array, targets: Array, statistics: Array) -> None:
        """Takes pictures in: (N, D) features, (N,) classes, and (N, S) `pixel_statistics`."""
        features = np.asarray(features, np.float64)
        np.add.at(self._sum, targets, features)
        self._products += features.T @ features
        self._statistics += statistics.sum(axis=0)
        self._statistic_products += statistics.T @ statistics
        for feature, target in zip(features, targets, strict=True):
            self._count[target] += 1
            kept = self._kept[target]
            if len(kept) < NEIGHBORS_A_CLASS:
                kept.append(feature.astype(np.float32))
            else:  # so that each picture of the class has the same chance to be kept (Vitter's algorithm R)
                place = int(self._rng.integers(self._count[target]))
                if place < NEIGHBORS_A_CLASS:
                    kept[place] = feature.astype(np.float32)

    def trained_on(self) -> TrainedOn:
        """What was collected.

        Raises:
            ValueError: No picture was.
        """
        pictures = int(self._count.sum())
        if not pictures:
            raise ValueError("there are no training pictures to measure distances from.")
        there = np.maximum(self._count, 1)[:, None]
        means = self._sum / there
        within = self._products - (means.T * self._count) @ means
        average = self._statistics / pictures
        scale = float(np.sqrt(np.trace(self._products) / pictures / len(self._products))) or 1.0
        neighbors = np.stack([feature for kept in self._kept for feature in kept])
        return TrainedOn(
            counts=self._count,
            scale=np.array(scale),
            means=(means / scale).astype(np.float16),
            covariance=(within / pictures / scale**2).astype(np.float16),
            neighbors=(neighbors / scale).astype(np.float16),
            statistics=average,
            statistics_covariance=self._statistic_products / pictures - np.outer(average, average),
        )


@dataclass(frozen=True)
class TrainedOn:
    """What distances need of the features that a model was trained on.

    Attributes:
        counts: (classes,) training pictures of each.
        scale: () the root mean square of a feature's numbers, which all below are divided by, to fit half precision.
        means: (classes, D) float16; zeros for a class without pictures.
        covariance: (D, D) float16, of features about the mean of their class, over all classes.
        neighbors: (M, D) float16, at most 20 features a class.
        statistics: (S,) the mean of `pixel_statistics`.
        statistics_covariance: (S, S).
    """

    counts: Array
    scale: Array
    means: Array
    covariance: Array
    neighbors: Array
    statistics: Array
    statistics_covariance: Array

    def arrays(self) -> dict[str, Array]:
        """All of it by name, for a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> TrainedOn:
        """The reverse of `arrays`."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})


class Distances:
    """Measures how far features are from those that a model was trained on.

    Args:
        trained_on: What these were.
        weight: (classes, D) the classifier's matrix, which the virtual logit needs.
        bias: (classes,) its bias.
        names: Which distances are wanted; what the others need is not computed.

    Raises:
        ValueError: The virtual logit is wanted, and there is no classifier.
    """

    def __init__(
        self,
        trained_on: TrainedOn,
        weight: Array | None = None,
        bias: Array | None = None,
        names: Iterable[str] = DISTANCES,
    ) -> None:
        self.names = tuple(names)
        self._feature_scale = float(trained_on.scale)
        counts = trained_on.counts.astype(np.float64)
        means = trained_on.means.astype(np.float64)[counts > 0]
        shares = counts[counts > 0] / counts.sum()
        within = trained_on.covariance.astype(np.float64)
        center = shares @ means
        between = ((means - center).T * shares) @ (means - center)
        if MAHALANOBIS in self.names:
            self._center = center
            whiten, whiten_all = _whitening(within), _whitening(within + between)
            white_means = (means - center) @ whiten
            self._mean_squares = (white_means**2).sum(1)
            # The squared lengths of a feature in both are quadratic forms, and their difference is one: one product
            # with a matrix gives it and what the means have in it.
            self._forms = np.hstack([whiten @ whiten.T - whiten_all @ whiten_all.T, -2 * whiten @ white_means.T])
        if VIM in self.names:
            if weight is None or bias is None:
                raise ValueError(f"{VIM} needs the classifier's weights.")
            weight = weight.astype(np.float64) * self._feature_scale
            self._origin = -np.linalg.pinv(weight) @ bias.astype(np.float64)
            moment = within + between + np.outer(center - self._origin, center - self._origin)
            _, directions = np.linalg.eigh(moment)  # ascending
            self._residual = directions[:, : max(1, round((1 - PRINCIPAL) * len(directions)))]
            self._scale = self._virtual_scale(trained_on, weight, bias)
        if NEIGHBORS in self.names:
            self._neighbors = _unit(trained_on.neighbors.astype(np.float32))
        self._statistics = trained_on.statistics
        self._whiten_statistics = _whitening(trained_on.statistics_covariance)

    def __call__(self, name: str, features: Array, logits: Array, statistics: Array) -> Array:
        """(N,) one distance of pictures, float64.

        Args:
            name: One of those that were wanted.
            features: (N, D).
            logits: (N, classes) of the same pictures.
            statistics: (N, S) `pixel_statistics` of the same pictures.
        """
        if name == SOFTMAX:
            return unsure(logits)
        if name == ENTROPY:
            return generalized_entropy(logits)
        if name == PIXELS:
            return np.asarray((_each_by(statistics - self._statistics, self._whiten_statistics) ** 2).sum(axis=1))
        features = np.asarray(features, np.float64) / self._feature_scale
        if name == MAHALANOBIS:
            # Ren et al., A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection, 2021.
            centered = features - self._center
            length, to_means = np.split(_each_by(centered, self._forms), [centered.shape[1]], axis=1)
            return np.asarray((length * centered).sum(1) + (to_means + self._mean_squares).min(1))
        if name == VIM:
            virtual = self._scale * np.linalg.norm((features - self._origin) @ self._residual, axis=1)
            return np.asarray(virtual - _log_sum_exp(np.asarray(logits, np.float64)))
        similar = _each_by(_unit(features.astype(np.float32)), self._neighbors.T)
        nth = min(NEIGHBOR, similar.shape[1])
        return np.asarray(-np.partition(similar, -nth, axis=1)[:, -nth], np.float64)

    def _virtual_scale(self, trained_on: TrainedOn, weight: Array, bias: Array) -> float:
        """What brings residuals to the size of the largest logits, over training pictures (ViM, equation 6)."""
        features = trained_on.neighbors.astype(np.float64)
        largest = (features @ weight.T + bias).max(1).mean()
        return float(largest / np.linalg.norm((features - self._origin) @ self._residual, axis=1).mean())


@dataclass(frozen=True)
class Familiarity:
    """What distances held-out pictures have, for which nothing else was fitted.

    Attributes:
        parts: For each of `COMBINED`, (n,) distances, ascending.
        combined: (n,) strangeness, ascending.
    """

    parts: Mapping[str, Array]
    combined: Array

    @classmethod
    def fit(cls, distances: Mapping[str, Array]) -> Familiarity:
        """From the distances of held-out pictures: for each of `COMBINED`, (n,) in the order of the pictures."""
        parts = {name: np.sort(distances[name]) for name in COMBINED}
        count = len(next(iter(parts.values())))
        # A picture's share counts itself, as that of a new picture does.
        shares = {name: (count - np.searchsorted(parts[name], distances[name])) / count for name in COMBINED}
        return cls(parts, np.sort(_strangeness(shares, count)))

    def strangeness(self, distances: Mapping[str, Array]) -> Array:
        """(N,) how strange pictures are, from the distances of each; comparable with other pictures' alone."""
        shares = {name: _share_as_far(self.parts[name], distances[name], self._rounding[name]) for name in COMBINED}
        return _strangeness(shares, len(self.combined))

    def __call__(self, distances: Mapping[str, Array]) -> Array:
        """(N,) how familiar pictures are: of the held-out pictures and the picture itself, the share that is at most as
        familiar, above 0 to 1. Of pictures like the held-out ones it is below any p in a share p of them."""
        return _share_as_far(self.combined, self.strangeness(distances), self._rounding[None])

    def warn_beyond_reach(self, false_alarms: float) -> None:
        """Says where no picture can be less familiar than that, since so few were held out."""
        held_out, needed = len(self.combined), math.floor(1 / false_alarms + 1e-9)
        if held_out < needed:
            text = (
                f"{argument('false_alarms')} {false_alarms:g} takes {needed:,} held-out pictures or more, and there "
                f"are {held_out:,}: no picture will be called none of these"
            )
            warnings.warn(EngineWarning(text), stacklevel=3)

    @cached_property
    def _rounding(self) -> dict[str | None, float]:
        """What rounding moves each distance by, and under None all of them together: pictures are judged one by one."""
        found: dict[str | None, float] = {name: ROUNDING * float(one.std()) for name, one in self.parts.items()}
        return {**found, None: ROUNDING * float(self.combined.std())}


def _share_as_far(ascending: Array, distances: Array, rounding: float) -> Array:
    # A held-out picture is as far as itself, whatever rounding another batch or engine brings.
    farther = len(ascending) - np.searchsorted(ascending, distances - rounding)
    return np.asarray((farther + 1) / (len(ascending) + 1))


def _strangeness(shares: Mapping[str, Array], count: int) -> Array:
    """The sum of the negative logarithms of shares of `count` pictures, as Fisher combines p-values, weighted."""
    logs = {name: -np.log(share) for name, share in shares.items()}
    logs[PIXELS] = np.maximum(logs[PIXELS] + np.log(max(ODD, ODDEST / (count + 1))), 0.0)
    return np.asarray(sum(weight * logs[name] for name, weight in COMBINED.items()))


def pixel_statistics(pixels: Array | Sequence[Array]) -> Array:
    """(N, S) what tells a photograph from other images, float64: level, contrast and color, edges from fine to coarse
    in light and in color, and how rare strong edges are.

    Args:
        pixels: (N, C, H, W), as the model takes them; or N pictures (C, H, W).
    """
    at_once = max([1, *(VALUES_AT_ONCE // max(1, one.size) for one in pixels[:1])])
    blocks = [
        _statistics_of(np.asarray(pixels[start : start + at_once], np.float32))
        for start in range(0, len(pixels), at_once)
    ]
    return np.concatenate([np.empty((0, STATISTICS)), *blocks])


def _statistics_of(pixels: Array) -> Array:
    channels = [*pixels.swapaxes(0, 1)]
    light = sum(channels[1:], channels[0]) / np.float32(len(channels))
    # Channel by channel, since memory for all at once is not kept but asked for again each time.
    colors = [channel - light for channel in channels]
    level = light.mean(axis=(1, 2))
    contrast = np.sqrt(_mean_square(light - level[:, None, None]))
    found = [level, _log(contrast), _log(np.sqrt(sum(map(_mean_square, colors)) / np.float32(len(colors))))]
    coarser = light
    for _ in range(SCALES):
        found.append(_log(_edges(coarser)))
        height, width = (max(1, size // 2) for size in coarser.shape[1:])
        # A picture of one row or column has nothing to halve there.
        rows, columns = (min(2, size) for size in coarser.shape[1:])
        coarser = coarser[:, : height * rows, : width * columns]
        # Slices are added several times as fast as a mean over axes of two.
        coarser = sum((coarser[:, row::rows] for row in range(1, rows)), coarser[:, ::rows])
        coarser = sum((coarser[:, :, column::columns] for column in range(1, columns)), coarser[:, :, ::columns])
        coarser = coarser / np.float32(rows * columns)
    steps = _steps(light)
    found.append(np.log(_mean_square(steps) + FLOOR**2) - 2 * _log(np.abs(steps).mean(axis=(1, 2))))
    edges = [_log(_edges(color)) for color in colors[:3]]
    found += edges + edges[-1:] * (3 - len(edges))
    return np.stack(found, axis=1).astype(np.float64)


STATISTICS = 3 + SCALES + 1 + 3


def _edges(maps: Array) -> Array:
    """(N,) the root of the mean squared difference between neighbors in (N, H, W)."""
    height, width = maps.shape[1:]
    found = np.zeros(len(maps), np.float32)
    if height > 1:  # of one row or column there is none
        found += _mean_square(maps[:, 1:] - maps[:, :-1])
    if width > 1:
        found += _mean_square(_steps(maps)) * np.float32(width / (width - 1))
    return np.sqrt(found)


def _steps(maps: Array) -> Array:
    """(N, H, W) from each column of (N, H, W) to the next, and 0 from the last."""
    values, steps = maps.reshape(-1), np.empty(maps.size, np.float32)
    np.subtract(values[1:], values[:-1], out=steps[:-1])  # in one go, from row to row too, and not row by row
    steps = steps.reshape(maps.shape)
    steps[:, :, -1] = 0
    return steps


def _mean_square(maps: Array) -> Array:
    """(N,) of (N, H, W)."""
    values = maps.reshape(len(maps), -1)
    parts = (values[:, start : start + ADDED_AT_ONCE] for start in range(0, values.shape[1], ADDED_AT_ONCE))
    total = sum((part[:, None] @ part[:, :, None])[:, 0, 0] for part in parts)
    return np.asarray(total / np.float32(values.shape[1]))


def _log(values: Array) -> Array:
    return np.asarray(np.log(values + FLOOR))


def unsure(logits: Array) -> Array:
    """(N,) how little sure the softmax is: the negative log of the largest probability's odds, which has no ceiling."""
    logits = np.asarray(logits, np.float64)
    best = logits.argmax(axis=1)
    others = logits.copy()
    others[np.arange(len(logits)), best] = -np.inf
    return np.asarray(_log_sum_exp(others) - logits[np.arange(len(logits)), best])


def generalized_entropy(logits: Array) -> Array:
    """(N,) how much is left to all labels together, the rare ones too: the sum of (p (1 - p)) to the power of 0.1."""
    probabilities = softmax(np.asarray(logits, np.float64))
    return np.asarray(((probabilities * (1 - probabilities)) ** GAMMA).sum(axis=1))


def _whitening(covariance: Array) -> Array:
    """(D, D) a matrix that makes features of this covariance have the identity's."""
    values, directions = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0) + RIDGE * max(values.mean(), np.finfo(np.float64).tiny)
    return np.asarray(directions / np.sqrt(values))


def _each_by(rows: Array, matrix: Array) -> Array:
    """(N, D) @ (D, M); of few rows each by itself, so that what comes of one depends on no other, to the last digit."""
    return rows @ matrix if len(rows) > FEW_ROWS else np.asarray((rows[:, None] @ matrix)[:, 0])


def few_at_once(count: int) -> Iterator[slice]:
    """So many pictures in parts in which each is judged by itself: what comes of one depends on no other."""
    return (slice(start, start + FEW_ROWS) for start in range(0, count, FEW_ROWS))


def _unit(features: Array) -> Array:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _log_sum_exp(values: Array) -> Array:
    top = values.max(axis=1)
    return np.asarray(top + np.log(np.exp(values - top[:, None]).sum(axis=1)))


__all__ = [
    "COMBINED",
    "DISTANCES",
    "ENTROPY",
    "MAHALANOBIS",
    "NEIGHBORS",
    "PIXELS",
    "SOFTMAX",
    "VIM",
    "Distances",
    "Familiarity",
    "Gathering",
    "TrainedOn",
    "few_at_once",
    "generalized_entropy",
    "pixel_statistics",
    "unsure",
]

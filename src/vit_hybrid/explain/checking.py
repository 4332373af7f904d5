"""Whether a map shows what counts: deletion and insertion (Petsiuk et al., RISE, arXiv 1806.07421) against random maps.

Deletion takes the pixels away that a map puts first, and the label's probability should fall at once; insertion brings
them back first, and it should rise at once. What takes a pixel's place is the picture at the resolution of the tokens:
it keeps colors and shades, so that nothing new appears. Random maps are drawn on the grid of the map and stretched just
as it is: single pixels at random would destroy a picture faster than any map's places, and flatter none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..outputs.problems import labels_of, problem_type_of
from ..outputs.ranking import PROBABILITIES
from .attention import Array
from .drawing import View, pooled
from .explanation import Explanation
from .hybrid import Explainable
from .passes import logits_of

# Parts that the pixels are taken away in, and random maps that a map is compared with.
DEFAULT_STEPS = 10
DEFAULT_DRAWS = 5
# Pictures that go through the model at once.
BATCH_SIZE = 16


@dataclass(frozen=True)
class Curves:
    """What becomes of a label as pixels are taken away, and as they are brought back.

    Attributes:
        deletion: (steps + 1,) the probability of the label, of a regression the value, with none to all of the pixels
            taken away, those first that the map puts first.
        insertion: (steps + 1,) the same with none to all of them brought back.
    """

    deletion: Array
    insertion: Array

    @property
    def deletion_area(self) -> float:
        """The mean of the curve over the share of pixels; lower is better."""
        return _mean(self.deletion)

    @property
    def insertion_area(self) -> float:
        """The mean of the curve over the share of pixels; higher is better."""
        return _mean(self.insertion)


@dataclass(frozen=True)
class Check:
    """A map's curves beside those of random maps.

    Attributes:
        label: Whose probability or value it is.
        shares: (steps + 1,) of the pixels, 0 to 1.
        map: The curves of the map.
        random: The means of the curves of random maps.
    """

    label: str
    shares: Array
    map: Curves
    random: Curves

    def record(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "label": self.label,
            "shares": self.shares.tolist(),
            **{
                name: {
                    "map": getattr(self.map, name).tolist(),
                    "random": getattr(self.random, name).tolist(),
                    "map_area": getattr(self.map, f"{name}_area"),
                    "random_area": getattr(self.random, f"{name}_area"),
                }
                for name in ("deletion", "insertion")
            },
        }


def check(
    model: Explainable,
    explanation: Explanation,
    steps: int = DEFAULT_STEPS,
    draws: int = DEFAULT_DRAWS,
    seed: int = 0,
) -> Check:
    """Deletion and insertion of a map, and of random maps.

    Args:
        model: The classifier that was explained.
        explanation: The map. Where it is the same for all labels, the first that the model gives is looked at.
        steps: In how many parts the pixels are taken away.
        draws: How many random maps.
        seed: What these, and the order of pixels that a map puts alike, depend on.

    Raises:
        ValueError: If the model has no labels, or `steps` or `draws` is not positive.
    """
    if min(steps, draws) < 1:
        raise ValueError(f"steps is {steps} and draws {draws}; expected 1 or more.")
    if not explanation.predictions:
        raise ValueError("a map is checked by the probability of a label, and this model has no classifier.")
    index = explanation.index
    if index is None:
        index = labels_of(model.config).index(explanation.predictions[0]["label"])
    random = np.random.default_rng(seed)
    maps = [explanation.map, *random.random((draws, *explanation.map.shape))]
    pixels = explanation.pixels
    height, width = pixels.shape[-2:]
    whole = View((width, height), (height, width), (0, 0, height, width))
    coarse = np.stack([whole.stretched(pooled(channel, explanation.grid)) for channel in pixels])
    found = []
    for values in maps:
        levels = whole.stretched(values).ravel()
        shuffled = random.permutation(levels.size)  # so that places of one value do not go from top to bottom
        order = shuffled[np.argsort(-levels[shuffled], kind="stable")]
        stops = [round(order.size * step / steps) for step in range(steps + 1)]
        deletion = _scores(model, _mixed(pixels, coarse, order, stops), index)
        found.append(Curves(deletion, _scores(model, _mixed(coarse, pixels, order, stops), index)))
    return Check(
        label=labels_of(model.config)[index],
        shares=np.arange(steps + 1) / steps,
        map=found[0],
        random=Curves(
            *(np.mean([getattr(one, name) for one in found[1:]], axis=0) for name in ("deletion", "insertion"))
        ),
    )


def _mixed(before: Array, after: Array, order: Array, stops: list[int]) -> Iterator[Array]:
    """(C, H, W) with more and more pixels of the other in the place of its own."""
    mixed, others = before.reshape(len(before), -1).copy(), after.reshape(len(after), -1)
    for start, stop in zip([0, *stops], stops, strict=False):
        mixed[:, order[start:stop]] = others[:, order[start:stop]]
        yield mixed.reshape(before.shape).copy()


def _scores(model: Explainable, pictures: Iterator[Array], index: int) -> Array:
    batch = list(pictures)
    logits = [
        logits_of(model, np.stack(batch[start : start + BATCH_SIZE])) for start in range(0, len(batch), BATCH_SIZE)
    ]
    scores = np.concatenate(logits).astype(np.float64)
    probabilities = PROBABILITIES.get(problem_type_of(model.config))
    return (scores if probabilities is None else probabilities(scores))[:, index]


def _mean(curve: Array) -> float:
    """The area under a curve over 0 to 1, by trapezoids."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


__all__ = ["DEFAULT_DRAWS", "DEFAULT_STEPS", "Check", "Curves", "check"]

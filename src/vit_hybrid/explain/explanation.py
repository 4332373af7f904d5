"""What an explanation is: a map, with the picture and the label that it is of; its PNGs, and what is said with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..outputs.problems import DEFAULT_TOP_K
from . import drawing
from .attention import Array
from .drawing import View, pooled
from .twins import Twin


@dataclass(frozen=True)
class Explanation:
    """What a model looked at in a picture.

    Attributes:
        map: (h, w) float32, what counts more is larger, nothing is below 0: on the grid of the tokens, or of a map of
            the ResNet's, whose cells are as large or smaller.
        grid: (rows, columns) of the tokens.
        method: One of `METHODS`.
        label: What the map is of; None where it is the same for all labels.
        index: The place of that among the model's labels.
        layer: What it was made from, where a method goes by one: "stage3", "layer12".
        head: The attention head, from 1; None for all.
        predictions: What the model says of the picture: labels, best first, with their probabilities; of a regression
            the outputs in their order with their values.
        picture: What was explained, upright, RGB.
        pixels: What the model took of it, (C, H, W) float32.
        view: What of the picture the model saw.
        twin: What was explained in an exported model's place, if one was to be explained.
    """

    map: Array
    grid: tuple[int, int]
    method: str
    label: str | None
    index: int | None
    layer: str | None
    head: int | None
    predictions: list[dict[str, Any]]
    picture: Image.Image
    pixels: Array
    view: View
    twin: Twin | None = None

    @property
    def tokens(self) -> Array:
        """The map on the grid of the tokens, (rows, columns); of a finer one means."""
        return self.map if self.map.shape == self.grid else pooled(self.map, self.grid)

    def at_picture(self) -> Array:
        """The map at the picture's size, (height, width) float32; 0 where the model saw nothing."""
        return self.view.stretched(self.map)

    @property
    def is_empty(self) -> bool:
        """Whether the map is 0 everywhere, as where nothing in a picture raises a label."""
        return not self.map.any()


def told(explanations: Sequence[Explanation], count: int = DEFAULT_TOP_K) -> list[dict[str, Any]]:
    """What the model says of an explained picture: the first labels, and those that were explained."""
    explained = {one.label for one in explanations}
    predictions = explanations[0].predictions
    return [*predictions[:count], *(one for one in predictions[count:] if one["label"] in explained)]


def heat_png(explanation: Explanation, longest: int | None = None) -> bytes:
    """A map in colors as the bytes of a PNG file.

    Args:
        explanation: With the map.
        longest: The most pixels that a side may have; as the picture has by default.
    """
    size = drawing.fitting(explanation.picture.size, longest)
    return drawing.png(drawing.heat(explanation.map, explanation.view, size))


def overlay_png(explanation: Explanation, longest: int | None = None) -> bytes:
    """A map in colors over the picture, as the bytes of a PNG file.

    Args:
        explanation: With both.
        longest: The most pixels that a side may have; as the picture has by default.
    """
    picture = explanation.picture
    size = drawing.fitting(picture.size, longest)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return drawing.png(drawing.overlay(picture, explanation.map, explanation.view))


__all__ = ["Explanation", "heat_png", "overlay_png", "told"]

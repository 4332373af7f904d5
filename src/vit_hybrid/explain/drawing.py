"""Maps as pictures: in colors, over the picture they explain, stretched to its size. Pillow and NumPy alone."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from .attention import Array

# Colors from nothing to most, evenly spaced; between them they are mixed. Those of "inferno" (matplotlib, CC0): each is
# lighter than the one before, so that they tell more from less in gray and to the color-blind too.
STOPS = (
    *((0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84)),
    *((221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164)),
)
# How much of an overlay is colors where the map is highest, and what is left of the picture where the model saw none.
OPACITY = 0.7
UNSEEN = 0.5


@dataclass(frozen=True)
class View:
    """What of a picture a model sees: preprocessing resizes the picture, and cuts out its middle.

    Attributes:
        size: (width, height) of the picture in pixels.
        resized: (height, width) that it is resized to.
        box: (top, left, bottom, right) of what is cut out of that; beyond it where it is padded.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    box: tuple[int, int, int, int]

    def stretched(self, values: Array, size: tuple[int, int] | None = None) -> Array:
        """A map (h, w) at the picture's size, (height, width) float32: bilinear between the middles of its cells, and 0
        where the model saw nothing.

        Args:
            values: The map, which lies over all that the model sees.
            size: (width, height), of a smaller or larger copy of the picture.
        """
        width, height = size or self.size
        top, left, bottom, right = self.box
        rows = _interpolation(height, self.resized[0], top, bottom, values.shape[0])
        columns = _interpolation(width, self.resized[1], left, right, values.shape[1])
        return rows @ values.astype(np.float32) @ columns.T

    def seen(self, size: tuple[int, int] | None = None) -> Array:
        """(height, width) whether the model saw a pixel of the picture, whose middle counts."""
        return self.stretched(np.ones((1, 1), np.float32), size) > 0

    def corners(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what the model sees, in pixels of the picture."""
        (width, height), (rows, columns) = self.size, self.resized
        top, left, bottom, right = self.box
        return (
            max(left * width / columns, 0.0),
            max(top * height / rows, 0.0),
            min(right * width / columns, float(width)),
            min(bottom * height / rows, float(height)),
        )


def _interpolation(length: int, resized: int, start: int, stop: int, cells: int) -> Array:
    """(length, cells): how much of each of `cells` that lie evenly from `start` to `stop` of a side of `resized` goes
    into each of the side's `length` pixels."""
    middles = (np.arange(length) + 0.5) * resized / length
    places = np.clip((middles - start) / (stop - start) * cells - 0.5, 0, cells - 1)
    below = np.minimum(places.astype(int), max(cells - 2, 0))
    weights = np.zeros((length, cells), np.float32)
    pixels = np.arange(length)
    weights[pixels, np.minimum(below + 1, cells - 1)] = places - below
    weights[pixels, below] += 1 - (places - below)
    weights[(middles < start) | (middles > stop)] = 0
    return weights


def pooled(values: Array, grid: tuple[int, int]) -> Array:
    """A map (h, w) on another grid (rows, columns), each cell the mean of what it covers, float32."""
    rows, columns = (_shares(given, wanted) for given, wanted in zip(values.shape, grid, strict=True))
    return (rows @ np.asarray(values, np.float64) @ columns.T).astype(np.float32)


def _shares(given: int, wanted: int) -> Array:
    """(wanted, given): which share of each of `wanted` cells each of `given` cells covers."""
    edges, others = np.arange(wanted + 1) / wanted, np.arange(given + 1) / given
    upper = np.minimum(edges[1:, None], others[None, 1:])
    lower = np.maximum(edges[:-1, None], others[None, :-1])
    return np.maximum(upper - lower, 0.0) * wanted


def scaled(values: Array) -> Array:
    """A map from 0 at its least to 1 at its most; one that is the same everywhere is 0."""
    least, most = float(values.min()), float(values.max())
    span = most - least
    return (values - least) / span if span > 0 else np.zeros_like(values)


@lru_cache(maxsize=1)
def palette() -> Array:
    """Colors (256, 3), uint8, from nothing to most."""
    stops = np.asarray(STOPS, np.float32)
    levels, places = np.linspace(0, 1, 256), np.linspace(0, 1, len(stops))
    mixed = [np.interp(levels, places, stops[:, channel]) for channel in range(stops.shape[1])]
    return np.stack(mixed, axis=-1).round().astype(np.uint8)


def colored(values: Array) -> Array:
    """Colors (..., 3), uint8, of values of 0 to 1."""
    return palette()[(np.clip(values, 0, 1) * 255).round().astype(np.uint8)]


def heat(values: Array, view: View, size: tuple[int, int] | None = None) -> Image.Image:
    """A map (h, w) in colors, at the picture's size."""
    return Image.fromarray(colored(view.stretched(scaled(values), size)))


def overlay(picture: Image.Image, values: Array, view: View) -> Image.Image:
    """A map in colors over the picture, the more of them the higher it is; darker where the model saw nothing.

    Args:
        picture: RGB; it may be a smaller or larger copy of the one that was explained.
        values: The map, (h, w).
        view: What of the picture the map lies over.
    """
    levels = view.stretched(scaled(values), picture.size)
    pixels = np.asarray(picture, np.float32)
    opacity = (OPACITY * levels)[..., None]
    mixed = pixels * (1 - opacity) + colored(levels) * opacity
    mixed[~view.seen(picture.size)] *= UNSEEN
    return Image.fromarray(mixed.round().astype(np.uint8))


def fitting(size: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """(width, height) made smaller, in proportion, till no side is longer than that."""
    share = min(1.0, (longest or max(size)) / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


__all__ = ["View", "colored", "fitting", "heat", "overlay", "palette", "png", "pooled", "scaled"]

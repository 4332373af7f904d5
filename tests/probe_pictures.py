"""Pictures and features that tests of the probe share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vit_hybrid.images.reading import ImageReadError
from vit_hybrid.probe import Features

COLORS = ("red", "green", "blue")
CLASSES = [f"{color} things" for color in COLORS]
PICTURE_SIZE = (36, 32)


class InMemory:
    """Pictures as `data.LabeledPictures` hands them out."""

    problem_type = "single_label_classification"
    labels = tuple(CLASSES)

    def __init__(self, pictures: Sequence[Image.Image | None], targets: Sequence[int]) -> None:
        self.pictures, self.targets = list(pictures), np.array(targets, np.int64)

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return f"picture {index}"

    def source(self, index: int) -> Image.Image:
        picture = self.pictures[index]
        if picture is None:
            raise ImageReadError(self.name(index), "is damaged")
        return picture


def noisy(color: str, seed: int) -> Image.Image:
    """A picture of one color under noise, so that no two are the same."""
    noise = np.random.default_rng(seed).integers(0, 200, (*PICTURE_SIZE[::-1], 3))
    base = np.array(Image.new("RGB", PICTURE_SIZE, color)).astype(int)
    return Image.fromarray(((base + noise) // 2).astype(np.uint8))


def some_pictures(each: int, seed: int = 0) -> InMemory:
    pairs = [(noisy(color, seed + 100 * k + i), k) for k, color in enumerate(COLORS) for i in range(each)]
    return InMemory(*zip(*pairs, strict=True))


def clusters(counts: Sequence[int], width: int = 8, seed: int = 0, spread: float = 1.0) -> Features:
    """Features of classes around random centers, the same for each seed; some features large, one constant."""
    centers = np.random.default_rng(99).normal(size=(len(counts), width))
    generator = np.random.default_rng(seed)
    targets = np.repeat(np.arange(len(counts)), counts)
    values = centers[targets] + spread * generator.normal(size=(len(targets), width))
    values = values * np.geomspace(0.01, 100, width) + np.linspace(-5, 5, width)
    values[:, 2] = 3.0
    return Features(values.astype(np.float32), targets)

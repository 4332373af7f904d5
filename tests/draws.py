"""Random pictures, and whether what chance gives is near to what is expected of it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

DRAWS = 2000
# Random shares are compared with their expectation within so many standard errors.
ERRORS = 4.5


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(noise(height, width, 3, seed=seed))


def near(share: float, expected: float, draws: int, deviation: float | None = None) -> bool:
    deviation = math.sqrt(expected * (1 - expected)) if deviation is None else deviation
    return abs(share - expected) < ERRORS * deviation / math.sqrt(draws)

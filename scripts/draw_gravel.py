"""Draws examples/gravel.jpg, a picture of none of the classes of the model in the package: gravel.

python scripts/draw_gravel.py examples/gravel.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, PEBBLES, SEED = 320, 6000, 4


def gravel() -> Image.Image:
    """Cells around random points, each a shade of gray, lit from the upper left and dark where they meet."""
    rng = np.random.default_rng(SEED)
    points = rng.uniform(0, SIZE, (PEBBLES, 2))
    shades = rng.uniform(70, 190, (PEBBLES, 1)) + rng.normal(0, 6, (PEBBLES, 3))
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    levels = np.empty((SIZE, SIZE, 3))
    for row in range(SIZE):
        place = np.stack([rows[row], columns[row]], axis=1)
        away = np.linalg.norm(place[:, None] - points, axis=2)
        first, second = np.partition(away, 1, axis=1)[:, :2].T
        nearest = away.argmin(axis=1)
        lit = (points[nearest] - place).sum(axis=1) * 3.0
        edge = np.clip((second - first) / 3.0, 0.15, 1.0)
        levels[row] = (shades[nearest] + lit[:, None]) * edge[:, None]
    grain = rng.normal(0, 7, (SIZE, SIZE, 1))
    return Image.fromarray((levels + grain).clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    gravel().save(Path(sys.argv[1]), quality=80)

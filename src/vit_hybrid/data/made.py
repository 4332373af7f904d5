"""Pictures that are made up: always the same, as large as common photos, with shapes and noise as photos have them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

# The size of photos in design notes and benchmarks of image processors here: (width, height) in pixels.
SIZE = (475, 395)
JPEG_QUALITY = 90
SPOTS = 9  # random colors along a side, between which there are slopes
NOISE = 8.0  # standard deviation in levels of 255


def made_picture(number: int, mode: str = "RGB") -> Image.Image:
    """The picture of that number."""
    random = np.random.default_rng(number)
    spots = Image.fromarray(random.integers(0, 256, (SPOTS, SPOTS, 3), dtype=np.uint8))
    slopes = np.asarray(spots.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
    levels = slopes + NOISE * random.standard_normal((SIZE[1], SIZE[0], 1), dtype=np.float32)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded_pictures(count: int, mode: str = "RGB") -> list[bytes]:
    """The first `count` pictures as the bytes of JPEG files."""
    files = []
    for number in range(count):
        file = io.BytesIO()
        made_picture(number, mode).save(file, "JPEG", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return files


__all__ = ["encoded_pictures", "made_picture"]

"""Pictures that are made up and always the same: as large as common photos, for timing, or with their statistics."""

from __future__ import annotations

import io
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Of `photo_sized_picture`, (width, height) in pixels: as in design notes and benchmarks of image processors here.
SIZE = (475, 395)
JPEG_QUALITY = 90
SPOTS = 9  # random colors along a side, between which there are slopes
NOISE = 8.0  # standard deviation in levels of 255
# Of `natural_picture`.
SIDE = 256
# Power spectra of natural pictures fall with frequency to about this power (Field, 1987), amplitudes with half of it.
SPECTRUM_POWER = 2.0


def photo_sized_picture(number: int, mode: str = "RGB") -> Image.Image:
    """The picture of that number: as large as common photos, with slopes and noise as photos have them."""
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
        photo_sized_picture(number, mode).save(file, "JPEG", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return files


def natural_picture(seed: int, side: int = SIDE) -> Image.Image:
    """A picture with the statistics of photographs, though of nothing: always the same for a seed.

    Soft noise whose spectrum falls off as that of natural pictures, in colors of random mean and contrast, under a few
    shapes with sharp edges.
    """
    random = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    distance = np.hypot(rows, columns)
    distance[0, 0] = np.inf  # no mean: it is drawn below
    amplitude = distance ** (-SPECTRUM_POWER / 2 * random.uniform(0.8, 1.3))
    noise = np.stack([_noise(random, amplitude, side) for _ in range(3)], axis=-1)  # (side, side, 3)
    shared = _noise(random, amplitude, side)[..., None]
    saturation = random.uniform(0.1, 0.7)
    values = (1 - saturation) * shared + saturation * noise
    values = random.uniform(0.15, 0.85, 3) + random.uniform(0.08, 0.3) * values
    y, x = np.mgrid[:side, :side] / side
    for _ in range(random.integers(0, 6)):
        center, radii = random.uniform(0, 1, 2), random.uniform(0.03, 0.4, 2)
        angle = random.uniform(0, np.pi)
        u = ((x - center[0]) * np.cos(angle) + (y - center[1]) * np.sin(angle)) / radii[0]
        v = ((y - center[1]) * np.cos(angle) - (x - center[0]) * np.sin(angle)) / radii[1]
        inside = (u * u + v * v < 1) if random.random() < 0.5 else (np.maximum(abs(u), abs(v)) < 1)
        shade = random.uniform(0, 1, 3) + random.uniform(0, 0.3) * values[inside]
        values[inside] = values[inside] * (1 - (opacity := random.uniform(0.5, 1))) + opacity * shade
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def _noise(random: np.random.Generator, amplitude: Array, side: int) -> Array:
    phase = np.exp(2j * np.pi * random.random(amplitude.shape))
    noise = np.fft.irfft2(amplitude * phase, s=(side, side))
    return noise / noise.std()


__all__ = ["encoded_pictures", "natural_picture", "photo_sized_picture"]

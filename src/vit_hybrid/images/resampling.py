"""Pillow's resizing as products of matrices, which NumPy hands to BLAS: faster, and off by a level or two of 0..255.

Weights, the order of axes and the rounding between them are Pillow's (src/libImaging/Resample.c); sums are calculated
in single precision instead of whole numbers of 32 bits. `images.fast` says how fast and how far off this is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import PIL
from PIL import Image

from .levels import MAX_8_BIT, Array
from .preprocessing import crop_span

# --- Geometry ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """One edge of a picture on its way through resizing and cropping.

    Attributes:
        length: how many pixels it has.
        begin: where the picture begins, and
        end: where it ends: the last pixel of a scaled JPEG, or the first if it is mirrored, may lie partly outside.
        resized: how many pixels it is resized to.
        total: how many pixels it has after cropping, which pads if these are more than `resized`.
    """

    length: int
    begin: float
    end: float
    resized: int
    total: int

    @property
    def kept(self) -> tuple[int, int]:
        """Start and stop of those resized pixels that the crop leaves."""
        start, stop = crop_span(self.resized, self.total)
        return max(start, 0), min(stop, self.resized)

    @property
    def offset(self) -> int:
        """Where these begin in the result."""
        return max(-crop_span(self.resized, self.total)[0], 0)

    @property
    def is_kept_as_it_is(self) -> bool:
        """Whether there is nothing to resize."""
        return self.has_whole_pixels and self.length == self.resized

    @property
    def scale(self) -> float:
        """How many of its pixels become one."""
        return (self.end - self.begin) / self.resized

    @property
    def has_whole_pixels(self) -> bool:
        """Whether no pixel lies partly outside of the picture."""
        return (self.begin, self.end) == (0, self.length)


# From this release on Pillow may resize along the columns first.
_ORDERING_PILLOW = 13
_PILLOW = int(PIL.__version__.partition(".")[0])


def takes_columns_first(vertical: Axis, horizontal: Axis) -> bool:
    """Whether Pillow resizes a picture along its columns first: from release 13 on, if its height shrinks far more.

    The other order would round and cut off other values in between, which very tall pictures show.
    """
    lost_height, lost_width = vertical.length - vertical.resized, horizontal.length - horizontal.resized
    return _PILLOW >= _ORDERING_PILLOW and lost_height > max(2 * lost_width, 0)


# --- Weights ----------------------------------------------------------------------------------------------------------


def _box(x: Array) -> Array:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: Array) -> Array:
    return np.maximum(1 - np.abs(x), 0)


def _hamming(x: Array) -> Array:
    return np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0)


def _bicubic(x: Array) -> Array:
    a = -0.5
    x = np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    return np.where(x < 1, inner, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * a, 0))


def _lanczos(x: Array) -> Array:
    return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0)


@dataclass(frozen=True)
class Kernel:
    """A filter of Pillow's (src/libImaging/Resample.c): the weight at a distance, beyond `support` zero."""

    weight: Callable[[Array], Array]
    support: float
    overshoots: bool


KERNELS: dict[int, Kernel] = {
    Image.Resampling.BOX: Kernel(_box, 0.5, overshoots=False),
    Image.Resampling.BILINEAR: Kernel(_bilinear, 1, overshoots=False),
    Image.Resampling.HAMMING: Kernel(_hamming, 1, overshoots=False),
    Image.Resampling.BICUBIC: Kernel(_bicubic, 2, overshoots=True),
    Image.Resampling.LANCZOS: Kernel(_lanczos, 3, overshoots=True),
}

# Resizing is a product with a matrix that is zero but for a narrow band. So many pixels of the result are computed at
# once, from those of the source that any of them needs: more would multiply more zeros, fewer make small products.
BAND = 16
# OpenBLAS, which NumPy comes with, calculates products of no more multiplications than this in the calling thread
# (65536 * GEMM_MULTITHREAD_THRESHOLD in its interface/gemm.c). For larger ones it wakes threads of its own: several
# callers queue for these, and they compete with inference for the cores.
MULTIPLICATIONS_IN_ONE_THREAD = 2**18
# How many values of the source are floating-point numbers at once; 2 MiB.
STRIP_VALUES = 2**19
# Pillow's weights are whole multiples of this; single precision holds them exactly.
WEIGHT_UNIT = 2.0**-22
# Pillow rounds halves up and NumPy to even. This lifts halves, and what falls short of one by a few units in the last
# place, just above it.
LIFT = 1 + 2.0**-22
# Memory that a thread keeps for its next picture, in values of 4 bytes.
SCRATCH_VALUES = 2**22


@dataclass(frozen=True)
class Bands:
    """A resizing matrix, in blocks of `BAND` rows.

    Attributes:
        starts: for each block, its first pixel of the source.
        weights: (blocks, BAND, pixels), float32.
    """

    starts: tuple[int, ...]
    weights: Array

    @property
    def span(self) -> tuple[int, int]:
        """Start and stop of the source's pixels that are needed at all."""
        return self.starts[0], self.starts[-1] + self.weights.shape[-1]


@lru_cache(maxsize=256)
def _bands(axis: Axis, resample: int) -> Bands:
    """Pillow's weights (`precompute_coeffs`) of the pixels that are kept."""
    kernel = KERNELS[resample]
    widening = max(axis.scale, 1.0)  # against aliasing
    centers = axis.begin + (np.arange(*axis.kept) + 0.5) * axis.scale
    first = np.maximum((centers - kernel.support * widening + 0.5).astype(int), 0)
    last = np.minimum((centers + kernel.support * widening + 0.5).astype(int), axis.length)
    pixels = first[:, None] + np.arange((last - first).max())
    # In Pillow's order of operations: a last bit decides which pixels the box filter takes.
    weights = kernel.weight((pixels - centers[:, None] + 0.5) * (1 / widening)) * (pixels < last[:, None])
    weights /= weights.sum(axis=1, keepdims=True) * WEIGHT_UNIT
    weights = np.trunc(weights + np.copysign(0.5, weights)) * (WEIGHT_UNIT * LIFT)

    heads = np.arange(0, len(centers), BAND)
    tails = np.minimum(heads + BAND, len(centers)) - 1
    width = int((last[tails] - first[heads]).max())
    starts = np.minimum(first[heads], axis.length - width)
    dense = np.zeros((len(heads), BAND, width + pixels.shape[1]), np.float32)
    block, row = np.divmod(np.arange(len(centers)), BAND)
    dense[block[:, None], row[:, None], pixels - starts[block][:, None]] = weights
    return Bands(tuple(starts.tolist()), np.ascontiguousarray(dense[..., :width]))


class _Scratch(threading.local):
    """Memory that is used again, so that the system need not clear new pages for each picture."""

    def __init__(self) -> None:
        self._kept: dict[str, Array] = {}

    def get(self, name: str, shape: tuple[int, ...]) -> Array:
        values = math.prod(shape)
        memory = self._kept.get(name)
        if memory is None or memory.size < values:
            memory = np.empty(values, np.float32)
            if values <= SCRATCH_VALUES:
                self._kept[name] = memory
        return memory[:values].reshape(shape)


_scratch = _Scratch()


def _round_to_levels(values: Array, overshoots: bool) -> None:
    if overshoots:
        np.clip(values, 0, MAX_8_BIT, out=values)
    np.rint(values, out=values)


def resize(image: Image.Image, vertical: Axis, horizontal: Axis, resample: int, result: Array) -> None:
    """Resize a picture, and write what the crop leaves of it: whole levels of 0..255.

    First along the one axis, then along the other, and rounded each time, as Pillow does.

    Args:
        image: an RGB or an 8-bit grayscale picture.
        vertical: the axis along its columns.
        horizontal: the axis along its rows.
        resample: one of `KERNELS`.
        result: (channels, height, width), float32, of the pixels that are kept.
    """
    if takes_columns_first(vertical, horizontal):
        # Rare: what follows takes the rows first.
        _resize(image.transpose(Image.Transpose.TRANSPOSE), horizontal, vertical, resample, result.transpose(0, 2, 1))
    else:
        _resize(image, vertical, horizontal, resample, result)


def _resize(image: Image.Image, vertical: Axis, horizontal: Axis, resample: int, result: Array) -> None:
    """`resize`, along the rows first."""
    overshoots = KERNELS[resample].overshoots
    across, down = _bands(horizontal, resample), _bands(vertical, resample)
    left, right = across.span
    top, bottom = down.span
    channels, height, width = result.shape

    # (channels, needed rows, width)
    resized = _scratch.get("resized", (channels, bottom - top, width))
    weights = across.weights
    rows = min(MULTIPLICATIONS_IN_ONE_THREAD // weights[0].size, STRIP_VALUES // (channels * (right - left)))
    rows = max(rows, 1)
    for start in range(0, bottom - top, rows):
        stop = min(start + rows, bottom - top)
        strip = _scratch.get("strip", (channels, stop - start, right - left))
        cut = image.crop((left, top + start, right, top + stop))
        # Pillow takes the channels apart faster than NumPy.
        for channel, values in zip(cut.split(), strip, strict=True):
            np.copyto(values, np.asarray(channel))
        for block, first in enumerate(across.starts):
            columns = slice(block * BAND, min((block + 1) * BAND, width))
            source = strip[..., first - left : first - left + weights.shape[-1]]
            matrix = weights[block, : columns.stop - columns.start].T
            np.matmul(source, matrix, out=resized[:, start:stop, columns])
        _round_to_levels(resized[:, start:stop], overshoots)

    weights = down.weights
    columns_at_once = max(MULTIPLICATIONS_IN_ONE_THREAD // weights[0].size, 1)
    for block, first in enumerate(down.starts):
        lines = slice(block * BAND, min((block + 1) * BAND, height))
        matrix = weights[block, : lines.stop - lines.start]
        source = resized[:, first - top : first - top + weights.shape[-1]]
        for start in range(0, width, columns_at_once):
            columns = slice(start, start + columns_at_once)
            np.matmul(matrix, source[..., columns], out=result[:, lines, columns])
    for values in result:
        _round_to_levels(values, overshoots)

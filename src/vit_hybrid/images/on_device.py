"""From pictures to the model's input with torch, so that on a GPU only 8-bit pixels travel and resizing runs there.

`images.preprocessing` and `images.fast` do without torch; this is for models that run in it. Levels differ from those
of `Preprocessing` by 1 of 0..255 at most with the bicubic filter and by 2 with the bilinear one, in the mean by 0.0002
and 0.002: 48 photos to 384 px, calculated on the CPU by the very code that runs on a GPU (torch 2.13.0, Pillow 13.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from .fast import FastPreprocessing, as_channels, axes, levels_to_values
from .levels import MAX_8_BIT, Picture
from .preprocessing import Preprocessing
from .resampling import Axis, takes_columns_first

# Pillow's filters that torch has, by torch's names.
MODES: dict[int, str] = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
# Added before fractions are cut off, to round halves up as Pillow does, and what falls short of one by a few units in
# the last place of single precision.
HALF = 0.5 + 2**-14
# torch's kernels for GPUs keep the weights of a pixel in shared memory: 48 KiB suffice for the bicubic filter up to 91
# pixels that become one, and beyond that they refuse to run.
LARGEST_SCALE = 64


class DevicePreprocessing:
    """`Preprocessing` on a device of torch's, whose levels may be off by one or two.

    Pictures that are resized with the bilinear or the bicubic filter are uploaded as 8-bit pixels; each is resized by
    itself, against aliasing, and cropped, and the batch is rescaled and normalized. Whatever else there is goes through
    `FastPreprocessing` first and is uploaded then.

    Args:
        preprocessing: what is to be done.
        device: where, such as `"cuda"` or `"cuda:0"`.

    Attributes:
        preprocessing: the same.
        device: where.
    """

    def __init__(self, preprocessing: Preprocessing, device: str | torch.device) -> None:
        self.preprocessing = preprocessing
        self.device = torch.device(device)
        self._fast = FastPreprocessing(preprocessing)
        self._values: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def __call__(self, images: Sequence[Picture]) -> torch.Tensor:
        """Preprocess pictures into one batch.

        Args:
            images: pictures, from `open_draft` or elsewhere; or arrays (H, W), (H, W, C) or (C, H, W); at least one.

        Returns:
            (N, C, H, W) on the device, float32.

        Raises:
            ValueError: as `Preprocessing`.
        """
        try:
            batch = self._batch(images)
        except ValueError:
            batch = None  # the exact way knows how to say what is wrong, and with which of the images
        return torch.from_numpy(self._fast(images)).to(self.device) if batch is None else batch

    def _batch(self, images: Sequence[Picture]) -> torch.Tensor | None:
        """The batch, or None where it has to be made in another way."""
        steps = self.preprocessing
        if not steps.do_resize or steps.resample not in MODES:
            return None
        batch: torch.Tensor | None = None
        for index, image in enumerate(images):
            if not isinstance(image, Image.Image) or 0 in image.size:
                return None
            vertical, horizontal = axes(image, steps)
            converted = as_channels(image, steps)
            if converted is None or not _is_for_torch(vertical, horizontal):
                return None
            image, channels = converted
            shape = (channels, vertical.total, horizontal.total)
            if batch is None:
                batch = torch.zeros(len(images), *shape, device=self.device)  # level 0, where there is padding
            elif batch.shape[1:] != shape:
                return None
            self._resize(image, vertical, horizontal, batch[index])
        if batch is not None:
            factors, offsets = self._levels_to_values(batch.shape[1])
            batch *= factors
            batch += offsets
        return batch

    def _resize(self, image: Image.Image, vertical: Axis, horizontal: Axis, result: torch.Tensor) -> None:
        """Write whole levels of 0..255 into `result` (C, H, W), but for its padding.

        First along the one axis, then along the other, and rounded each time, as Pillow does. Besides, torch's kernels
        for GPUs multiply the weights of both axes for each pixel: one axis at a time needs far fewer of them.
        """
        mode = MODES[cast(int, self.preprocessing.resample)]
        pixels = torch.from_numpy(np.array(image)).to(self.device)  # (H, W) or (H, W, C)
        levels = torch.atleast_3d(pixels).permute(2, 0, 1)[None].to(torch.float32)  # (1, C, H, W)
        order = [(horizontal, 3), (vertical, 2)]
        for axis, dimension in reversed(order) if takes_columns_first(vertical, horizontal) else order:
            if not axis.is_kept_as_it_is:
                levels = _resize_axis(levels, axis, dimension, mode)
                levels.add_(HALF).floor_().clamp_(0, MAX_8_BIT)
            start, stop = axis.kept
            levels = levels.narrow(dimension, start, stop - start)
        top, left = vertical.offset, horizontal.offset
        result[:, top : top + levels.shape[2], left : left + levels.shape[3]] = levels[0]  # grayscale into all channels

    def _levels_to_values(self, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What levels are multiplied by, and what is added then; each (C, 1, 1)."""
        if channels not in self._values:
            factors, offsets = levels_to_values(self.preprocessing, channels)
            self._values[channels] = (
                torch.from_numpy(factors[:, None, None]).to(self.device),
                torch.from_numpy(offsets[:, None, None]).to(self.device),
            )
        return self._values[channels]


def _is_for_torch(vertical: Axis, horizontal: Axis) -> bool:
    start, stop = horizontal.kept
    if 1 in (horizontal.length, stop - start):
        return False  # torch 2.13 resizes a single column wrongly on a CPU
    return max(vertical.scale, horizontal.scale) <= LARGEST_SCALE


def _resize_axis(levels: torch.Tensor, axis: Axis, dimension: int, mode: str) -> torch.Tensor:
    """Resize (1, C, H, W) along one dimension, against aliasing."""
    if axis.has_whole_pixels:
        size = list(levels.shape[2:])
        size[dimension - 2] = axis.resized
        return functional.interpolate(levels, size=size, mode=mode, antialias=True)
    # Only a factor can say that the picture ends within its last pixel; what it makes of the rest is cut off.
    factors = [1.0, 1.0]
    factors[dimension - 2] = 1 / axis.scale
    if axis.begin:  # or that it begins within its first
        levels = levels.flip(dimension)
    longer = functional.interpolate(levels, scale_factor=factors, mode=mode, antialias=True)
    resized = longer.narrow(dimension, 0, axis.resized)
    return resized.flip(dimension) if axis.begin else resized

"""Random crops and mirrors of training pictures, with Pillow and NumPy alone, in the processes that decode them.

No global random state is read or moved: what comes out is a function of what goes in and of the generator, so the
number of processes changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ..images.levels import to_channels, to_picture, to_rgb

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
# (left, top, right, bottom) in pixels, fractions included.
Box: TypeAlias = tuple[float, float, float, float]

# Pillow's modes whose pixels are 8-bit levels, one for each channel.
MODES_OF_LEVELS = ("L", "LA", "RGB", "RGBA", "CMYK")
# How often a crop is drawn before one is taken that surely fits; the first fits nearly always.
CROP_ATTEMPTS = 10
# Pillow first reduces a picture by whole factors while it stays this many times larger than the result: a large photo
# is then scaled down several times faster, and hardly a pixel differs (Pillow's documentation of `Image.resize`).
REDUCING_GAP = 3.0


@dataclass(frozen=True)
class CropAndFlip:
    """A random part of a picture, resized to what the model takes, and mirrored or not.

    The part is the crop of Inception (Szegedy et al. 2015, section 6): its share of the area is uniform in `scale` and
    the logarithm of its aspect ratio is uniform in that of `ratio`; the defaults are the usual ones. Where no such crop
    fits into a picture of very unlike sides, the largest one of an allowed aspect ratio is taken from its middle.

    With `shift` the whole picture is kept and only moved by up to so many of its own pixels along each axis, as
    Krizhevsky (2012) did for CIFAR. What comes in at the borders is the picture's reflection. If its aspect ratio is
    not that of the result, the largest part that has it is taken from the middle, as for evaluation.

    Attributes:
        scale: smallest and largest share of the picture's area, above 0 and up to 1.
        ratio: smallest and largest width divided by height.
        flip: probability of a mirror image (left becomes right).
        resample: the filter, one of `PIL.Image.Resampling`.
        shift: largest shift in pixels of the picture before it is resized; 0 for random crops.

    Raises:
        ValueError: a value out of its range.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    resample: int = int(Image.Resampling.BICUBIC)
    shift: int = 0

    def __post_init__(self) -> None:
        if not (len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] <= 1):
            raise ValueError(f"scale is {self.scale}: expected two shares of the area, ascending, above 0 and up to 1")
        if not (len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1] < math.inf):
            raise ValueError(f"ratio is {self.ratio}: expected two aspect ratios above 0, ascending")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}: expected a probability, 0 to 1")
        if not (isinstance(self.shift, int) and self.shift >= 0):
            raise ValueError(f"shift is {self.shift}: expected a whole number of pixels, 0 or more")
        if self.resample not in list(Image.Resampling):
            filters = ", ".join(f"{filter.value} ({filter.name.lower()})" for filter in Image.Resampling)
            raise ValueError(f"resample is {self.resample!r}: expected one of {filters}")

    def __call__(self, picture: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Array:
        """Augment one picture.

        Args:
            picture: decoded and upright, in the mode whose channels the model takes. Pixels that are not 8-bit levels
                become such: a palette becomes RGB, and 16 bits are scaled down.
            size: height and width of the result in pixels.
            rng: where all randomness comes from.

        Returns:
            (C, height, width), uint8; C is the picture's number of channels.

        Raises:
            ValueError: a picture without pixels, or with levels beyond 16 bits or not finite.
        """
        if 0 in picture.size:
            raise ValueError(f"a picture of {picture.width} x {picture.height} has no pixels")
        if picture.mode not in MODES_OF_LEVELS:
            palette = picture.mode.startswith("P")
            picture = to_rgb(picture) if palette else to_picture(to_channels(picture))[0]
        height, width = size
        if self.shift:
            picture = _shifted(picture, *(int(pixels) for pixels in rng.integers(-self.shift, self.shift + 1, 2)))
            box = _central_box(picture.width, picture.height, width / height)
        else:
            box = self.crop_box(picture.width, picture.height, rng)
        picture = picture.resize((width, height), Image.Resampling(self.resample), box, REDUCING_GAP)
        if rng.random() < self.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.stack([np.asarray(channel) for channel in picture.split()])

    def crop_box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Draw the crop of a picture of `width` x `height` pixels; see the class for its distribution."""
        for _ in range(CROP_ATTEMPTS):
            area = rng.uniform(*self.scale) * width * height
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if crop_width <= width and crop_height <= height:
                left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
                # A sum of rounded numbers may pass the border by a last bit, which Pillow would refuse.
                return left, top, min(left + crop_width, width), min(top + crop_height, height)
        return _central_box(width, height, min(max(width / height, self.ratio[0]), self.ratio[1]))


def _central_box(width: int, height: int, ratio: float) -> Box:
    """The largest box of the given aspect ratio in the middle of a picture."""
    crop_width, crop_height = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, min(left + crop_width, width), min(top + crop_height, height)


def _shifted(picture: Image.Image, right: int, down: int) -> Image.Image:
    """A picture moved by whole pixels, its reflection following behind."""
    pixels = np.asarray(picture)
    pixels = pixels[_reflected(picture.height, -down)][:, _reflected(picture.width, -right)]
    return Image.fromarray(pixels)


def _reflected(length: int, start: int) -> Array:
    """`length` indices from `start` on, of an edge of that length that is reflected at both ends without end."""
    period = max(2 * (length - 1), 1)  # the pixel at the border is not repeated
    position = np.arange(start, start + length) % period
    return np.minimum(position, period - position) if length > 1 else np.zeros(1, np.intp)


__all__ = ["CropAndFlip"]

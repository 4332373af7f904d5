"""A faster way from a picture file to the model's input, for those who ask for it: it deviates a little, as said below.

`open_draft` lets libjpeg decode large JPEG files at 1/2, 1/4 or 1/8. `FastPreprocessing` resizes by `resampling`, which
is Pillow's way calculated by products of matrices. Neither needs torch.

How fast and how far off both are, beside what was not taken: docs/measured.md, "Decoding and resizing".
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np
from PIL import ExifTags, Image

from .levels import LEVELS_8_BIT, MAX_8_BIT, RGB_CHANNELS, Array, Picture, to_rgb
from .preprocessing import Preprocessing, as_batch, resized_size
from .reading import open_image
from .resampling import KERNELS, Axis, resize

# --- Decoding ---------------------------------------------------------------------------------------------------------

# A file is decoded at no less than this many times the size it is resized to: smaller margins deviate several times as
# much and gain little more (docs/measured.md, "Decoding and resizing"). Pillow's own thumbnails keep to the same.
DRAFT_MARGIN = 2.0
# What libjpeg can divide a picture's edges by; it rounds them up.
DRAFT_SCALES = (2, 4, 8)
# EXIF orientations that exchange width and height, and that turn columns, and rows, around.
_TURNED = frozenset({5, 6, 7, 8})
_MIRRORED_COLUMNS = frozenset({2, 3, 6, 7})
_MIRRORED_ROWS = frozenset({3, 4, 7, 8})


@dataclass(frozen=True)
class Draft:
    """What a picture was before it was scaled, in `Image.info[Draft.KEY]` of the scaled one.

    Attributes:
        size: (width, height) in the file, upright.
        mirrored: whether columns, and rows, were stored in the opposite order.
    """

    KEY: ClassVar[str] = "vit_hybrid_draft"

    size: tuple[int, int]
    mirrored: tuple[bool, bool]


def open_draft(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    preprocessing: Preprocessing,
    name: str | None = None,
    margin: float = DRAFT_MARGIN,
    max_pixels: int | None = None,
) -> Image.Image:
    """`open_image`, but a JPEG file far larger than what it is resized to is decoded at 1/2, 1/4 or 1/8.

    It is the smallest of these scales at which both edges still have `margin` times the pixels they are resized to.
    What a margin gains and how far off its pictures are: docs/measured.md, "Decoding and resizing".

    Args:
        source: as for `open_image`.
        preprocessing: says what the picture is to be resized to; without resizing, files are decoded as usual.
        name: as for `open_image`.
        margin: 1 or more; less is faster and deviates more.
        max_pixels: as for `open_image`.

    Returns:
        The picture, upright. Where it is scaled, `info[Draft.KEY]` says what it was before: `FastPreprocessing` needs
        that to make of it just what the whole picture would have become.

    Raises:
        ImageReadError, TypeError: as `open_image`.
        ValueError: `margin` is below 1.
    """
    if not margin >= 1:
        raise ValueError(f"margin is {margin}; expected 1 or more: below, pictures would be enlarged again")

    def choose_scale(image: Image.Image) -> None:
        if type(image).draft is Image.Image.draft:
            return  # not of a format that can be scaled
        orientation = _orientation(image)
        turned = orientation in _TURNED
        upright = image.size[::-1] if turned else image.size
        height, width = (math.ceil(margin * edge) for edge in resized_size(*upright[::-1], preprocessing.size))
        stored = image.size
        image.draft(None, (height, width) if turned else (width, height))
        if image.size != stored:
            image.info[Draft.KEY] = Draft(upright, (orientation in _MIRRORED_COLUMNS, orientation in _MIRRORED_ROWS))

    return open_image(source, name, choose_scale if preprocessing.do_resize else None, max_pixels)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data, of which `open_image` will say that it ignores the orientation
        return 1


def draft_of(image: Image.Image) -> tuple[Draft, int]:
    """What a picture was before `open_draft`, and by what its edges were divided: 1 if by nothing."""
    draft = image.info.get(Draft.KEY)
    if isinstance(draft, Draft):
        width, height = draft.size
        for scale in DRAFT_SCALES:
            # Copies that were cropped or resized since keep the entry as well, but it no longer speaks of them.
            if image.size == (-(-width // scale), -(-height // scale)):
                return draft, scale
    return Draft(image.size, (False, False)), 1


def axes(image: Image.Image, preprocessing: Preprocessing) -> tuple[Axis, Axis]:
    """The vertical and the horizontal axis of a picture that `preprocessing` resizes."""
    draft, scale = draft_of(image)
    width, height = draft.size
    resized = resized_size(height, width, preprocessing.size)
    total = preprocessing.crop_size if preprocessing.do_center_crop else resized

    def axis(length: int, covered: float, mirrored: bool, resized: int, total: int) -> Axis:
        begin = length - covered if mirrored else 0.0
        return Axis(length, begin, begin + covered, resized, total)

    mirrored_columns, mirrored_rows = draft.mirrored
    return (
        axis(image.height, height / scale, mirrored_rows, resized[0], total[0]),
        axis(image.width, width / scale, mirrored_columns, resized[1], total[1]),
    )


# --- All steps --------------------------------------------------------------------------------------------------------


def levels_to_values(preprocessing: Preprocessing, channels: int) -> tuple[Array, Array]:
    """What rescaling and normalizing make of a level: `level * factor + offset`; each (channels,), float32.

    Raises:
        ValueError: `preprocessing` has means or deviations for another number of channels, or none that is of use.
    """
    steps = replace(preprocessing, do_resize=False, do_center_crop=False, do_convert_rgb=False)
    levels = np.arange(LEVELS_8_BIT, dtype=np.uint8).reshape(1, -1, 1).repeat(channels, -1)
    values = as_batch(steps.run([levels], input_data_format="channels_last"))[0, :, 0].astype(np.float64)
    offsets = values[:, 0]
    return ((values[:, -1] - offsets) / MAX_8_BIT).astype(np.float32), offsets.astype(np.float32)


def as_channels(image: Image.Image, preprocessing: Preprocessing) -> tuple[Image.Image, int] | None:
    """A picture as RGB or 8-bit grayscale, and how many channels the result has; None where it has to be another mode.

    Grayscale that becomes RGB stays what it is: its channels would be equal.

    Raises:
        ValueError: the picture cannot be converted to RGB.
    """
    if preprocessing.do_convert_rgb:
        return (image if image.mode == "L" else to_rgb(image)), RGB_CHANNELS
    return (image, len(image.getbands())) if image.mode in ("L", "RGB") else None


class FastPreprocessing:
    """`Preprocessing` with a faster way to resize pictures, whose levels may be off by one or two.

    With the bilinear filter some are off by two, with the others by one (docs/measured.md, "Decoding and resizing").

    Resizing is calculated as two products of matrices, with Pillow's weights, in single precision and without what the
    crop cuts off. The filters are box, bilinear, Hamming, bicubic and Lanczos. Pictures of all modes that become RGB,
    and RGB and 8-bit grayscale pictures that do not, go this way if they are resized. Whatever else is left to the
    `Preprocessing`, and so is every error.

    Safe in threads: nearly all of the time is spent in Pillow and NumPy with the interpreter's lock released, and none
    in threads of a BLAS library's own.

    Args:
        preprocessing: what is to be done.

    Attributes:
        preprocessing: the same.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._values: dict[int, tuple[Array, Array]] = {}

    def __call__(self, images: Sequence[Picture], out: Array | None = None) -> Array:
        """Preprocess pictures into one batch.

        Args:
            images: pictures, from `open_draft` or elsewhere; or arrays (H, W), (H, W, C) or (C, H, W); at least one.
            out: where to write the batch, of its shape, float32; a part of a larger batch, for one, which spares the
                time for copying there.

        Returns:
            (N, C, H, W), float32; `out`, if given.

        Raises:
            ValueError: as `Preprocessing`; or `out` is of another shape or type.
        """
        try:
            batch = self._batch(images, out)
        except ValueError:
            batch = None  # the exact way knows how to say what is wrong, and with which of the images
        if batch is None:
            batch = self.preprocessing(images)
        if out is None or out is batch:
            return batch
        if out.shape != batch.shape or out.dtype != batch.dtype:
            raise ValueError(f"out is {out.shape} {out.dtype}, but the batch is {batch.shape} {batch.dtype}")
        out[...] = batch
        return out

    def _batch(self, images: Sequence[Picture], out: Array | None) -> Array | None:
        """The batch, in `out` where that fits; None where it has to be made in the exact way."""
        steps = self.preprocessing
        if not steps.do_resize or steps.resample not in KERNELS:
            return None
        batch: Array | None = None
        for index, image in enumerate(images):
            if not isinstance(image, Image.Image) or 0 in image.size:
                return None
            vertical, horizontal = axes(image, steps)
            converted = as_channels(image, steps)
            if converted is None:
                return None
            image, channels = converted
            shape = (channels, vertical.total, horizontal.total)
            if batch is None:
                batch = np.empty((len(images), *shape), np.float32) if out is None else out
                if batch.shape != (len(images), *shape) or batch.dtype != np.float32:
                    return None
            elif batch.shape[1:] != shape:
                return None
            self._write(image, vertical, horizontal, batch[index])
        return batch

    def _write(self, image: Image.Image, vertical: Axis, horizontal: Axis, result: Array) -> None:
        """All steps, into `result` (C, H, W)."""
        if vertical.is_kept_as_it_is and horizontal.is_kept_as_it_is:
            result[...] = self.preprocessing([image])[0]
            return
        factors, offsets = self._levels_to_values(len(result))
        height, width = (stop - start for start, stop in (vertical.kept, horizontal.kept))
        inside = result[:, vertical.offset : vertical.offset + height, horizontal.offset : horizontal.offset + width]
        if inside.shape != result.shape:
            result[:] = offsets[:, None, None]  # level 0
        computed = inside[: len(image.getbands())]
        resize(image, vertical, horizontal, cast(int, self.preprocessing.resample), computed)
        for channel in reversed(range(len(inside))):  # grayscale is read from channel 0, which is written last
            values = inside[channel]
            np.multiply(inside[min(channel, len(computed) - 1)], factors[channel], out=values)
            values += offsets[channel]

    def _levels_to_values(self, channels: int) -> tuple[Any, Any]:
        if channels not in self._values:
            self._values[channels] = levels_to_values(self.preprocessing, channels)
        return self._values[channels]

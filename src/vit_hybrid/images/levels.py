"""A picture's levels: from any picture or array to 8-bit channels, with Pillow and NumPy alone.

Shapes: a picture is a `PIL.Image.Image` or an array, (H, W, C) inside this module.
"""

from __future__ import annotations

import logging
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Picture: TypeAlias = Image.Image | Array
# An array's layout; "none" is (H, W), a grayscale picture without a channel axis.
Layout: TypeAlias = Literal["channels_first", "channels_last", "none"]
IMAGE_LAYOUTS: tuple[Layout, ...] = ("channels_first", "channels_last")
GRAYSCALE_LAYOUT: Layout = "none"

LEVELS_8_BIT = 256
MAX_8_BIT = LEVELS_8_BIT - 1
MAX_16_BIT = 2**16 - 1
# 65535 / 255: the step between two 8-bit levels on the 16-bit scale.
STEP_16_TO_8_BIT = MAX_16_BIT // MAX_8_BIT

RGB_CHANNELS = 3
RGBA_CHANNELS = 4
# Axis sizes that are taken for channels when a layout has to be inferred: first as transformers 4.49 did, then RGBA.
CHANNEL_COUNTS = ((1, RGB_CHANNELS), (RGBA_CHANNELS,))


def to_8_bit(image: Array) -> Array:
    """Scale a 16-bit array to 8 bits by 1/257, rounded to nearest: 65535 becomes 255. Any shape."""
    # No tie can occur, because the divisor is odd.
    return ((image.astype(np.uint32) + STEP_16_TO_8_BIT // 2) // STEP_16_TO_8_BIT).astype(np.uint8)


def _without_16_bit(image: Image.Image) -> Image.Image:
    """A picture of 16-bit depth as 8-bit grayscale; any other picture as it is."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(to_8_bit(np.asarray(image)))
    if image.mode == "I":  # 32-bit integers, in which some readers hand over 16-bit files
        levels = np.asarray(image)
        low, high = int(levels.min()), int(levels.max())
        if high > MAX_8_BIT:
            if low < 0 or high > MAX_16_BIT:
                raise ValueError(
                    f"the picture's 32-bit levels range from {low} to {high}: scale them to 0..{MAX_16_BIT} first"
                )
            return Image.fromarray(to_8_bit(levels))
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any Pillow mode to 8-bit RGB.

    Transparency is dropped, not blended with a background (transformers 4.49 did so). 16-bit grayscale (modes `I;16*`,
    and `I` with levels beyond 255) is scaled by 1/257.

    Raises:
        ValueError: the mode has no conversion, a level is not finite, or 32-bit levels leave the 16-bit range.
    """
    if image.mode == "RGB":
        return image
    image = _without_16_bit(image)
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise ValueError("the picture has levels that are NaN or infinite")
    if image.mode == "P" and "transparency" in image.info:
        # The same colors as by converting directly, about which Pillow warns.
        image = image.convert("RGBA")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"a picture of Pillow mode {image.mode!r} cannot be converted to RGB ({error})") from error


def to_channels(image: Image.Image) -> Array:
    """A picture's own channels as (H, W, C), without conversion to RGB. 16-bit levels are scaled to 8 bits.

    Raises:
        ValueError: a palette picture, whose pixels are indices and no levels.
    """
    if image.mode in ("P", "PA"):
        raise ValueError("a palette picture has no channels of its own: convert it to RGB (do_convert_rgb=True)")
    image = _without_16_bit(image)
    channels = np.asarray(image.convert("L") if image.mode == "1" else image)
    return channels[..., None] if channels.ndim == 2 else channels


def infer_layout(shape: tuple[int, ...], preferred: Layout | None = None) -> Layout:
    """Which axis of an array holds the channels: the one of size 1 or 3, else of size 4.

    Args:
        shape: two or three axis sizes.
        preferred: the answer where both the first and the last axis could be it; without it, a warning is logged and
            the first axis is taken, as in transformers 4.49.

    Raises:
        ValueError: no axis fits, or the array has another number of axes.
    """
    if len(shape) == 2:
        return "none"
    if len(shape) == 3:
        for counts in CHANNEL_COUNTS:
            first, last = shape[0] in counts, shape[-1] in counts
            if first and last:
                if preferred in ("channels_first", "channels_last"):
                    return preferred
                logger.warning(
                    "An image of shape %s may have its channels first or last; first is assumed. "
                    "Say which with input_data_format.",
                    shape,
                )
            if first or last:
                return "channels_first" if first else "channels_last"
    raise ValueError(
        f"an image of shape {shape} has no axis of 1, 3 or 4 channels first or last: "
        "give it as (H, W), (H, W, C) or (C, H, W), or say which axis it is with input_data_format"
    )


def channels_last(image: Array, layout: Layout) -> Array:
    """View an array of the given layout as (H, W, C).

    Raises:
        ValueError: the number of axes does not fit the layout, or there are no pixels.
    """
    expected = 2 if layout == "none" else 3
    if image.ndim != expected:
        raise ValueError(f'an image of layout "{layout}" has {expected} axes, but this one has shape {image.shape}')
    if image.size == 0:
        raise ValueError(f"an image of shape {image.shape} has no pixels")
    if image.dtype.kind not in "buif":
        raise ValueError(f"an image has integer or floating-point levels, not {image.dtype}")
    if layout == "none":
        return image[..., None]
    return image.transpose(1, 2, 0) if layout == "channels_first" else image


def array_to_rgb(image: Array) -> Array:
    """Bring an (H, W, C) array to RGB: one channel is repeated, the fourth (transparency) is dropped, as in `to_rgb`.

    Returns:
        A view (H, W, 3); `image` itself where it has another number of channels.
    """
    if image.shape[-1] == 1:
        return np.broadcast_to(image, (*image.shape[:-1], RGB_CHANNELS))
    return image[..., :RGB_CHANNELS] if image.shape[-1] == RGBA_CHANNELS else image


def to_picture(image: Array) -> tuple[Image.Image, bool]:
    """Bring an (H, W, C) array into the 8-bit picture that Pillow can resize.

    Whole levels of 0..255 are taken as they are, fractions of 0..1 are multiplied by 255; what is left of a fraction
    then is cut off, not rounded (as in transformers 4.49).

    Returns:
        The picture, and whether its levels were fractions of 0..1.

    Raises:
        ValueError: levels beyond these ranges, not finite, or a number of channels that no picture has.
    """
    if image.shape[-1] > RGBA_CHANNELS:
        raise ValueError(
            f"an image of {image.shape[-1]} channels cannot be resized: 1 to {RGBA_CHANNELS} are supported"
        )
    fractions = False
    if image.dtype != np.uint8:
        low, high = image.min(), image.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("the image has levels that are NaN or infinite, which cannot be resized")
        valid = low >= 0 and high <= MAX_8_BIT
        if valid and not np.allclose(image, image.astype(np.int64)):
            valid = fractions = high <= 1
        if not valid:
            raise ValueError(
                f"the image's levels range from {low} to {high}: "
                f"to be resized they must be whole numbers of 0..{MAX_8_BIT} or fractions of 0..1"
            )
        if fractions:
            image = rescale(image, MAX_8_BIT)
        image = image.astype(np.uint8)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), fractions


def rescale(image: Array, factor: float, dtype: Any = np.float32) -> Array:
    """`image * factor`, computed in double precision. Any shape; a new array of `dtype`."""
    return cast(Array, (image.astype(np.float64) * factor).astype(dtype))

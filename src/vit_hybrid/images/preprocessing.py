"""From pictures to pixel values, with Pillow and NumPy alone.

Everything the image processor computes is here, so an inference engine that runs without torch and transformers
prepares its inputs with the very code that training used. Results equal those of `ViTHybridImageProcessor` in
transformers 4.49 bit for bit where that one ran; `Preprocessing` says where it goes further.

Shapes: a picture is a `PIL.Image.Image` or an array, (H, W, C) inside this module; a batch is (N, C, H, W).
"""

from __future__ import annotations

import io
import logging
import math
import operator
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Picture: TypeAlias = Image.Image | Array
# An array's layout; "none" is (H, W), a grayscale picture without a channel axis.
Layout: TypeAlias = Literal["channels_first", "channels_last", "none"]
IMAGE_LAYOUTS: tuple[Layout, ...] = ("channels_first", "channels_last")
GRAYSCALE_LAYOUT: Layout = "none"
# What a picture is resized to: its shortest edge in pixels (the aspect ratio is kept), or (height, width).
Size: TypeAlias = int | tuple[int, int]

# The defaults of the class in transformers 4.49; mean and standard deviation are those of OpenAI's CLIP.
DEFAULT_SIZE = 224
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RESCALE_FACTOR = 1 / 255

LEVELS_8_BIT = 256
MAX_8_BIT = LEVELS_8_BIT - 1
MAX_16_BIT = 2**16 - 1
# 65535 / 255: the step between two 8-bit levels on the 16-bit scale.
STEP_16_TO_8_BIT = MAX_16_BIT // MAX_8_BIT

RGB_CHANNELS = 3
RGBA_CHANNELS = 4
# Axis sizes that are taken for channels when a layout has to be inferred: first as transformers 4.49 did, then RGBA.
CHANNEL_COUNTS = ((1, RGB_CHANNELS), (RGBA_CHANNELS,))


# --- Reading files ----------------------------------------------------------------------------------------------------


class ImageReadError(ValueError):
    """A picture that cannot be read. Its text is one line: `name: reason`.

    Attributes:
        name: the file, or what the caller called it.
        reason: why it cannot be read, without the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        # Both go into `args`, so that the error survives pickling between processes.
        super().__init__(_one_line(name), _one_line(reason))
        self.name, self.reason = self.args

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


# Turning one kind of warning into an error changes state that all threads share, so only one of them may do it.
_warning_filters = threading.Lock()


def open_image(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    name: str | None = None,
    before_decoding: Callable[[Image.Image], object] | None = None,
) -> Image.Image:
    """Decode one picture completely and turn it upright as its EXIF orientation says.

    Args:
        source: a path, the bytes of an encoded picture, or a file opened in binary mode (read from its position on).
        name: what to call the picture in errors; the path, or the file's own name, if not given.
        before_decoding: called with the picture once its header is read, when `Image.draft` still has a say.

    Returns:
        The decoded first frame, in the mode it was stored in.

    Raises:
        ImageReadError: the file is missing, a folder, unreadable, empty, truncated, damaged, not a picture, or larger
            than `PIL.Image.MAX_IMAGE_PIXELS` allows (a decompression bomb).
        TypeError: `source` is none of the above.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), name or "<bytes>", before_decoding)
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fsdecode(source)
        try:
            with open(source, "rb") as file:
                # Pillow seeks while it decodes, which pipes cannot do.
                return _decode(file if file.seekable() else io.BytesIO(file.read()), name, before_decoding)
        except FileNotFoundError:
            raise ImageReadError(name, "no such file") from None
        except IsADirectoryError:
            raise ImageReadError(name, "is a folder, not a picture") from None
        except ImageReadError:
            raise
        except (OSError, ValueError) as error:
            raise ImageReadError(name, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if hasattr(source, "read"):
        name = name or str(getattr(source, "name", "<stream>"))
        try:
            content = source.read()  # all of it: a pipe or a socket cannot seek
        except (OSError, ValueError) as error:
            raise ImageReadError(name, f"cannot be read ({error})") from error
        if not isinstance(content, bytes):
            raise TypeError(f"{name} gives {type(content).__name__}: open it in binary mode")
        return _decode(io.BytesIO(content), name, before_decoding)
    raise TypeError(f"a picture is read from a path, bytes or a binary file, not from {type(source).__name__}")


def _decode(file: BinaryIO, name: str, before_decoding: Callable[[Image.Image], object] | None) -> Image.Image:
    if not file.read(1):
        raise ImageReadError(name, "is empty")
    file.seek(0)
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata: damaged pixels raise
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file)
        if before_decoding is not None:
            before_decoding(image)
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageReadError(
            name, f"has more pixels than the {Image.MAX_IMAGE_PIXELS} that PIL.Image.MAX_IMAGE_PIXELS allows"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ImageReadError(name, "is not a picture in a format that Pillow reads") from error
    except Exception as error:
        # The decoders of the many formats raise whatever a damaged file makes them stumble over.
        raise ImageReadError(name, f"is truncated or damaged ({error or type(error).__name__})") from error
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # the same decoders, on the metadata: the pixels are sound
        logger.warning("%s: damaged EXIF data, orientation ignored (%s)", _one_line(name), error)
    return image


# --- From any picture to 8-bit channels -------------------------------------------------------------------------------


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


# --- The four steps ---------------------------------------------------------------------------------------------------


def resized_size(height: int, width: int, size: Size) -> tuple[int, int]:
    """(height, width) of a picture resized to `size`; a longer edge is rounded down, as in torchvision."""
    if not isinstance(size, int):
        return size
    if width <= height:
        return int(size * height / width), size
    return size, int(size * width / height)


def resize(image: Image.Image, size: Size, resample: int, reducing_gap: float | None = None) -> Image.Image:
    """Resize a picture to a shortest edge or to (height, width).

    Args:
        image: a picture of an 8-bit mode.
        size: the shortest edge in pixels, or (height, width).
        resample: the filter, one of `PIL.Image.Resampling`.
        reducing_gap: see `PIL.Image.Image.resize`; speed for accuracy.
    """
    height, width = resized_size(image.height, image.width, size)
    return image.resize((width, height), resample=Image.Resampling(resample), reducing_gap=reducing_gap)


def crop_span(length: int, target: int) -> tuple[int, int]:
    """Start and stop of a centered span of `target` pixels on an edge of `length`; beyond it where it is shorter."""
    start = (length - target) // 2  # an odd pixel is cut, or padded, at the far and the near side respectively
    return start, start + target


def center_crop(image: Picture, size: tuple[int, int]) -> Picture:
    """Cut (height, width) out of the middle; where the picture is smaller, it is padded with zeros.

    Args:
        image: a picture, or an array (H, W, C).
        size: height and width in pixels.

    Returns:
        The same kind as `image`, of exactly `size`. An array without padding is a view.
    """
    if isinstance(image, Image.Image):
        top, bottom = crop_span(image.height, size[0])
        left, right = crop_span(image.width, size[1])
        return image if image.size == (size[1], size[0]) else image.crop((left, top, right, bottom))
    top, bottom = crop_span(image.shape[0], size[0])
    left, right = crop_span(image.shape[1], size[1])
    inside = image[max(top, 0) : bottom, max(left, 0) : right]
    if inside.shape[:2] == size:
        return inside
    padded = np.zeros((*size, image.shape[2]), image.dtype)
    top, left = max(-top, 0), max(-left, 0)
    padded[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return padded


# Filters whose weights fall to zero at the edge of their support, so that a last bit in a weight's position, which is
# all that tells the two ways of `resize_and_center_crop` apart, cannot bring in another pixel.
_CONTINUOUS_FILTERS = frozenset(
    {Image.Resampling.BILINEAR, Image.Resampling.HAMMING, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS}
)


def resize_and_center_crop(image: Image.Image, size: Size, crop_size: tuple[int, int], resample: int) -> Image.Image:
    """`center_crop(resize(image, size, resample), crop_size)`, without computing most of what the crop cuts off.

    Pillow resizes along one axis, rounds to whole levels, then resizes along the other. For a landscape picture whose
    aspect ratio is kept it takes the horizontal axis first, so columns can be cut between the two. The horizontal pass
    itself is confined to a `box`; Pillow still looks at the pixels around that, but reads its edges in single
    precision, so the box is widened to the next columns whose edges are exact. Other pictures take the plain way.
    """
    height, width = resized_size(image.height, image.width, size)
    left, right = crop_span(width, crop_size[1])
    if (
        isinstance(size, tuple)
        or left <= 0
        or image.width <= image.height
        or image.mode not in ("RGB", "L")
        or resample not in _CONTINUOUS_FILTERS
    ):
        return cast(Image.Image, center_crop(resize(image, size, resample), crop_size))
    filter = Image.Resampling(resample)
    start, stop = _exact_span(image.width, width, left, right)
    box = (start * image.width / width, 0, stop * image.width / width, image.height)
    columns = image.resize((stop - start, image.height), filter, box=box)
    columns = columns.crop((left - start, 0, right - start, image.height))
    return cast(Image.Image, center_crop(columns.resize((right - left, height), filter), crop_size))


def _exact_span(length: int, target: int, start: int, stop: int) -> tuple[int, int]:
    """Widen a span of an edge resized from `length` to `target`, until its ends fall on single-precision positions.

    A pixel x of the result begins at x * length / target of the source, a binary fraction where x is a multiple of the
    odd part of the reduced denominator.
    """
    denominator = target // math.gcd(length, target)
    step = denominator // (denominator & -denominator)
    start, stop = start // step * step, min(-(-stop // step) * step, target)
    edges = np.array([start, stop]) * length / target
    return (start, stop) if np.array_equal(edges, edges.astype(np.float32)) else (0, target)


def rescale(image: Array, factor: float, dtype: Any = np.float32) -> Array:
    """`image * factor`, computed in double precision. Any shape; a new array of `dtype`."""
    return cast(Array, (image.astype(np.float64) * factor).astype(dtype))


def normalize(image: Array, mean: float | Iterable[float], std: float | Iterable[float]) -> Array:
    """`(image - mean) / std` for each channel of an array (..., C).

    A floating-point array keeps its precision, any other becomes float32.

    Raises:
        ValueError: the number of means or deviations is not C, or a deviation is zero.
    """
    result = image if image.dtype.kind == "f" else image.astype(np.float32)
    means = per_channel(mean, image.shape[-1], "image_mean").astype(result.dtype)
    return (result - means) / _deviations(std, image.shape[-1]).astype(result.dtype)


def per_channel(value: float | Iterable[float], channels: int, name: str) -> Array:
    """One number for all channels, or one for each, as a double-precision array (C,).

    Raises:
        ValueError: the number of values is not the number of channels.
    """
    values = np.array(list(value) if isinstance(value, Iterable) else [value] * channels, np.float64)
    if values.shape != (channels,):
        raise ValueError(
            f"{name} has {_count(len(values), 'value')}, but the image has {_count(channels, 'channel')}: "
            "give one value for all channels or one for each"
            + (", or convert the image to RGB" if len(values) == RGB_CHANNELS else "")
        )
    return values


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _deviations(std: float | Iterable[float], channels: int) -> Array:
    deviations = per_channel(std, channels, "image_std")
    if not deviations.all():
        raise ValueError(f"image_std must not contain 0, got {std}")
    return deviations


@lru_cache(maxsize=16)
def _divisor(factor: float) -> np.float32 | None:
    """The number by which dividing 0..255 in single precision gives what `rescale` by `factor` gives, if there is one.

    It saves the detour over double precision, and is 255 for a factor of 1/255. All 256 levels are compared.
    """
    if not factor or not math.isfinite(factor):
        return None
    levels = np.arange(LEVELS_8_BIT)
    divisor = np.float32(1 / factor)
    exact = np.array_equal(levels.astype(np.float32) / divisor, rescale(levels, factor))
    return divisor if exact else None


# --- All steps --------------------------------------------------------------------------------------------------------


def _pixels(value: Any, name: str) -> int:
    try:
        pixels = operator.index(value)
    except TypeError:
        pixels = 0
    if pixels <= 0:
        raise ValueError(f"{name} must be a positive number of pixels, got {value!r}")
    return pixels


def parse_size(size: Any) -> Size:
    """Read the `size` of a configuration: a number or {"shortest_edge"}; (height, width) or {"height", "width"}.

    A "longest_edge" beside "shortest_edge" is ignored, as in transformers 4.49.

    Raises:
        ValueError: none of these, or not positive.
    """
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return _pixels(size["shortest_edge"], 'size["shortest_edge"]')
        if not {"height", "width"} <= size.keys():
            raise ValueError(f'size needs "shortest_edge", or "height" and "width", got {dict(size)}')
        size = (size["height"], size["width"])
    if isinstance(size, Sequence) and len(size) == 2 and not isinstance(size, str):
        return _pixels(size[0], "the height in size"), _pixels(size[1], "the width in size")
    return _pixels(size, "size")


def parse_crop_size(size: Any) -> tuple[int, int]:
    """Read the `crop_size` of a configuration: one number for a square, (height, width) or {"height", "width"}.

    Raises:
        ValueError: none of these, or not positive.
    """
    if isinstance(size, Mapping):
        if not {"height", "width"} <= size.keys():
            raise ValueError(f'crop_size needs "height" and "width", got {dict(size)}')
        size = (size["height"], size["width"])
    if isinstance(size, Sequence) and len(size) == 2 and not isinstance(size, str):
        return _pixels(size[0], "the height in crop_size"), _pixels(size[1], "the width in crop_size")
    edge = _pixels(size, "crop_size")
    return edge, edge


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a picture before the model sees it: resize, center crop, rescale, normalize, in this order.

    Fields and defaults are those of `preprocessor_config.json` and of transformers 4.49, and so are the results,
    bit for bit. Beyond 4.49: 16-bit pictures are scaled to 8 bits by 1/257; a grayscale array may come without a
    channel axis; each array's layout is inferred by itself, and only where it is ambiguous follows the first one; and
    arrays of one or four channels become RGB where `image_mean` or `image_std` has three values (in 4.49 only Pillow's
    pictures did; these arrays raised an error).

    Attributes:
        size: the shortest edge in pixels (the aspect ratio is kept), or (height, width).
        resample: one of `PIL.Image.Resampling`.
        crop_size: (height, width); smaller pictures are padded with zeros.
        rescale_factor: what levels of 0..255 are multiplied by.
        image_mean: mean of the rescaled levels, one for all channels or one for each.
        image_std: standard deviation of the rescaled levels, likewise.
        do_convert_rgb: whether pictures become RGB first.

    Raises:
        ValueError: a value that is missing or of no use for a step that is to be done.
    """

    do_resize: bool = True
    size: Size = DEFAULT_SIZE
    resample: int | None = int(Image.Resampling.BICUBIC)
    do_center_crop: bool = True
    crop_size: tuple[int, int] = (DEFAULT_SIZE, DEFAULT_SIZE)
    do_rescale: bool = True
    rescale_factor: float | None = RESCALE_FACTOR
    do_normalize: bool = True
    image_mean: float | tuple[float, ...] = CLIP_MEAN
    image_std: float | tuple[float, ...] = CLIP_STD
    do_convert_rgb: bool = True

    def __post_init__(self) -> None:
        if self.do_rescale and self.rescale_factor is None:
            raise ValueError("do_rescale needs a rescale_factor, but it is None")
        if self.do_resize and self.resample not in list(Image.Resampling):
            filters = ", ".join(f"{filter.value} ({filter.name.lower()})" for filter in Image.Resampling)
            raise ValueError(f"do_resize needs resample to be one of {filters}, got {self.resample!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """From the content of a `preprocessor_config.json`. Absent fields have their defaults, other keys are ignored.

        Raises:
            ValueError: a field that its step cannot work with.
        """
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"):
            if name in known:
                known[name] = bool(known[name])  # null in a file means no
        # Null means the default here. The size of a step that is left out is not looked at: files may have one there
        # that the step could not use.
        for name, step, parse in (
            ("size", "do_resize", parse_size),
            ("crop_size", "do_center_crop", parse_crop_size),
            ("image_mean", "do_normalize", _numbers),
            ("image_std", "do_normalize", _numbers),
        ):
            if name in known:
                value = known.pop(name)
                if value is not None and known.get(step, True):
                    known[name] = parse(value)
        return cls(**known)

    def __call__(self, images: Sequence[Picture]) -> Array:
        """Preprocess pictures into one batch.

        Args:
            images: pictures, or arrays (H, W), (H, W, C) or (C, H, W); at least one.

        Returns:
            (N, C, H, W), float32.

        Raises:
            ValueError: no picture, one that cannot be preprocessed, or different sizes after preprocessing.
        """
        return as_batch(self.run(images)).astype(np.float32, copy=False)

    def run(
        self,
        images: Sequence[Picture],
        data_format: Layout | None = "channels_first",
        input_data_format: Layout | None = None,
    ) -> Array | list[Array]:
        """Preprocess pictures, each into an array of the layout `data_format`.

        Args:
            images: pictures or arrays, at least one.
            data_format: "channels_first", "channels_last", or None for each image's own (pictures: channels last).
            input_data_format: the layout of all arrays; inferred for each of them if not given.

        Returns:
            One array (N, ...), or a list where shapes or types differ. The type is float32 after rescaling; after
            normalizing alone it is the image's own if that is a floating-point type, else float32; otherwise it is the
            image's own.

        Raises:
            ValueError: no picture, or one that cannot be preprocessed.
        """
        if len(images) == 0:
            raise ValueError("no image was given: at least one is needed")
        if data_format not in (*IMAGE_LAYOUTS, None):
            raise ValueError(f"data_format must be one of {IMAGE_LAYOUTS} or None, got {data_format!r}")
        if input_data_format not in (*IMAGE_LAYOUTS, GRAYSCALE_LAYOUT, None):
            expected = (*IMAGE_LAYOUTS, GRAYSCALE_LAYOUT)
            raise ValueError(f"input_data_format must be one of {expected} or None, got {input_data_format!r}")

        batch: Array | None = None
        results: list[Array] = []
        first_layout: Layout | None = None
        for index, image in enumerate(images):
            try:
                layout: Layout = "channels_last"  # of every picture of Pillow's
                if not isinstance(image, Image.Image):
                    layout = input_data_format or infer_layout(image.shape, first_layout)
                first_layout = first_layout or layout
                planes = self._planes(image, layout)
                if data_format is not None:
                    layout = data_format
                elif layout == GRAYSCALE_LAYOUT and len(planes) > 1:
                    layout = "channels_last"  # it became RGB
                shape = _shape(planes, layout)
                dtype = self._result_type(planes[0].dtype)
                if batch is None and (self._has_fixed_size or len(images) == 1):
                    batch = np.empty((len(images), *shape), dtype)
                if batch is not None and batch.shape[1:] == shape and batch.dtype == dtype:
                    result = batch[index]
                else:
                    result = np.empty(shape, dtype)
                self._write(planes, result if layout == "channels_first" else np.moveaxis(np.atleast_3d(result), -1, 0))
            except ValueError as error:
                if len(images) == 1:
                    raise
                raise ValueError(f"image {index + 1} of {len(images)}: {error}") from error
            results.append(result)
        if batch is not None and all(result.base is batch for result in results):
            return batch
        if len({(result.shape, result.dtype) for result in results}) == 1:
            return np.stack(results)
        return results

    @property
    def _has_fixed_size(self) -> bool:
        return self.do_center_crop or (self.do_resize and not isinstance(self.size, int))

    @property
    def _expects_rgb(self) -> bool:
        statistics = (self.image_mean, self.image_std) if self.do_normalize else ()
        return any(isinstance(value, tuple) and len(value) == RGB_CHANNELS for value in statistics)

    def _planes(self, image: Picture, layout: Layout) -> list[Array]:
        """The channels of a picture after resizing and cropping, each (H, W)."""
        if isinstance(image, Image.Image):
            if 0 in image.size:
                raise ValueError(f"a picture of {image.width} x {image.height} has no pixels")
            image = to_rgb(image) if self.do_convert_rgb else to_channels(image)
        else:
            image = channels_last(image, layout)
            if image.dtype.kind == "u" and image.dtype.itemsize == 2:
                image = to_8_bit(image)
            if self.do_convert_rgb and self._expects_rgb:
                image = array_to_rgb(image)
        fractions = False
        if self.do_resize:
            if not isinstance(image, Image.Image):
                image, fractions = to_picture(image)
            resample = cast(int, self.resample)
            if self.do_center_crop:
                image = resize_and_center_crop(image, self.size, self.crop_size, resample)
            else:
                image = resize(image, self.size, resample)
        elif self.do_center_crop:
            image = center_crop(image, self.crop_size)
        if isinstance(image, Image.Image):
            # Faster than to take every third byte of one array.
            planes = [np.asarray(channel) for channel in image.split()]
        else:
            planes = [image[..., channel] for channel in range(image.shape[-1])]
        return [rescale(plane, 1 / MAX_8_BIT) for plane in planes] if fractions else planes

    def _result_type(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        if self.do_rescale or (self.do_normalize and dtype.kind != "f"):
            return np.dtype(np.float32)
        return dtype.newbyteorder("=")

    def _write(self, planes: list[Array], result: Array) -> None:
        """Rescale and normalize planes into `result` (C, H, W), in the arithmetic of `rescale` and `normalize`."""
        if self.do_normalize:
            means = per_channel(self.image_mean, len(planes), "image_mean").astype(result.dtype)
            deviations = _deviations(self.image_std, len(planes)).astype(result.dtype)
        for channel, plane in enumerate(planes):
            values = result[channel]
            if self.do_rescale:
                factor = cast(float, self.rescale_factor)
                divisor = _divisor(factor) if plane.dtype == np.uint8 else None
                np.copyto(values, rescale(plane, factor) if divisor is None else plane)
                if divisor is not None:
                    values /= divisor
            else:
                np.copyto(values, plane)
            if self.do_normalize:
                values -= means[channel]
                values /= deviations[channel]


def _numbers(value: float | Iterable[float]) -> float | tuple[float, ...]:
    return tuple(float(number) for number in value) if isinstance(value, Iterable) else float(value)


def _shape(planes: list[Array], layout: Layout) -> tuple[int, ...]:
    if layout == GRAYSCALE_LAYOUT:
        return planes[0].shape
    return (len(planes), *planes[0].shape) if layout == "channels_first" else (*planes[0].shape, len(planes))


def as_batch(results: Array | list[Array]) -> Array:
    """The batch that `Preprocessing.run` returned.

    Raises:
        ValueError: it returned a list, because shapes or types differ.
    """
    if isinstance(results, list):
        different = sorted({f"{result.shape} {result.dtype}" for result in results})
        raise ValueError(
            f"the images do not fit into one batch: after preprocessing they are {', '.join(different)}. "
            "Use do_center_crop=True or a size with height and width, or preprocess them one by one"
        )
    return results

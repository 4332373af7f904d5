"""From pictures to pixel values, with Pillow and NumPy alone.

Everything the image processor computes is here, so an inference engine that runs without torch and transformers
prepares its inputs with the very code that training used. Results equal those of `ViTHybridImageProcessor` in
transformers 4.49 bit for bit where that one ran; `Preprocessing` says where it goes further.

Shapes: a picture is a `PIL.Image.Image` or an array, (H, W, C) inside this module; a batch is (N, C, H, W).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeAlias, cast

import numpy as np
from PIL import Image

from .levels import (
    GRAYSCALE_LAYOUT,
    IMAGE_LAYOUTS,
    LEVELS_8_BIT,
    MAX_8_BIT,
    RGB_CHANNELS,
    Array,
    Layout,
    Picture,
    array_to_rgb,
    channels_last,
    infer_layout,
    rescale,
    to_8_bit,
    to_channels,
    to_picture,
    to_rgb,
)

# What a picture is resized to: its shortest edge in pixels (the aspect ratio is kept), or (height, width).
Size: TypeAlias = int | tuple[int, int]

# The defaults of the class in transformers 4.49; mean and standard deviation are those of OpenAI's CLIP.
DEFAULT_SIZE = 224
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RESCALE_FACTOR = 1 / 255


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
    # A pixel x of the result begins at x * image.width / width of the picture, a binary fraction where x is a multiple
    # of the odd part of the reduced denominator.
    denominator = width // math.gcd(image.width, width)
    step = denominator // (denominator & -denominator)
    start, stop = left // step * step, min(-(-right // step) * step, width)
    edges = np.array([start, stop]) * image.width / width
    if not np.array_equal(edges, edges.astype(np.float32)):
        start, stop = 0, width
    box = (start * image.width / width, 0, stop * image.width / width, image.height)
    columns = image.resize((stop - start, image.height), filter, box=box)
    columns = columns.crop((left - start, 0, right - start, image.height))
    return cast(Image.Image, center_crop(columns.resize((right - left, height), filter), crop_size))


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
        has_fixed_size = self.do_center_crop or (self.do_resize and not isinstance(self.size, int))
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
                if batch is None and (has_fixed_size or len(images) == 1):
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
            statistics = (self.image_mean, self.image_std) if self.do_normalize else ()
            expects_rgb = any(isinstance(value, tuple) and len(value) == RGB_CHANNELS for value in statistics)
            if self.do_convert_rgb and expects_rgb:
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

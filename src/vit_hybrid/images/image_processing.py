"""`ViTHybridImageProcessor`: the `preprocessing` module behind the interface of transformers' image processors."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature, get_size_dict
from transformers.image_utils import ChannelDimension, ImageInput, PILImageResampling
from transformers.utils import TensorType, is_torch_tensor, logging

from .levels import (
    GRAYSCALE_LAYOUT,
    Array,
    Layout,
    Picture,
    channels_last,
    infer_layout,
    rescale,
    to_8_bit,
    to_channels,
    to_picture,
)
from .preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    DEFAULT_SIZE,
    RESCALE_FACTOR,
    Preprocessing,
    as_batch,
    center_crop,
    normalize,
    parse_crop_size,
    parse_size,
    resize,
)

logger = logging.get_logger(__name__)

SizeLike: TypeAlias = int | Iterable[int] | Mapping[str, int]


class ViTHybridImageProcessor(BaseImageProcessor):
    """Turns pictures into the `pixel_values` of a ViT hybrid: resize, center crop, rescale, normalize, in this order.

    Arguments, defaults, attributes and results are those of the class of the same name in transformers 4.49. It needs
    Pillow and NumPy only, so there is one class for every `backend` and `use_fast`. `preprocessing.Preprocessing` does
    the work and says what it accepts beyond 4.49.

    Args:
        do_resize: whether to resize to `size`.
        size: `{"shortest_edge": pixels}` or `{"height": pixels, "width": pixels}`; a number is a shortest edge.
        resample: the filter to resize with.
        do_center_crop: whether to crop to `crop_size`, padding smaller pictures with zeros.
        crop_size: `{"height": pixels, "width": pixels}`; a number is a square.
        do_rescale: whether to multiply by `rescale_factor`.
        rescale_factor: 1/255 brings levels of 0..255 to 0..1.
        do_normalize: whether to subtract `image_mean` and divide by `image_std`.
        image_mean: one number for all channels or one for each; CLIP's, where not given.
        image_std: likewise.
        do_convert_rgb: whether to convert pictures to RGB first.

    Raises:
        ValueError: a size without the keys above.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    # transformers asks the class which steps it has, and leaves a field that is None out of a file unless its default
    # here is something else.
    do_resize: bool = True
    do_center_crop: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    do_convert_rgb: bool = True
    default_to_square: bool = False

    def __init__(
        self,
        do_resize: bool = True,
        size: SizeLike | None = None,
        resample: int = PILImageResampling.BICUBIC,
        do_center_crop: bool = True,
        crop_size: SizeLike | None = None,
        do_rescale: bool = True,
        rescale_factor: float = RESCALE_FACTOR,
        do_normalize: bool = True,
        image_mean: float | Iterable[float] | None = None,
        image_std: float | Iterable[float] | None = None,
        do_convert_rgb: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("_valid_processor_keys", None)  # some releases of transformers 4 wrote it into files
        super().__init__(**kwargs)
        self.do_resize = do_resize
        self.size = _size_dict(DEFAULT_SIZE if size is None else size)
        self.resample = resample
        self.do_center_crop = do_center_crop
        self.crop_size = _crop_size_dict(DEFAULT_SIZE if crop_size is None else crop_size)
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = _statistics(CLIP_MEAN if image_mean is None else image_mean)
        self.image_std = _statistics(CLIP_STD if image_std is None else image_std)
        self.do_convert_rgb = do_convert_rgb

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; `backend` and `use_fast` change nothing, because there is one class for all."""
        for name in ("backend", "use_fast"):
            kwargs.pop(name, None)
        return super().from_dict(image_processor_dict, **kwargs)

    @property
    def backend(self) -> str:
        """What computes the result, as transformers names it."""
        return "pil"

    @property
    def _valid_processor_keys(self) -> list[str]:
        arguments = inspect.signature(self.preprocess).parameters.values()
        return [argument.name for argument in arguments if argument.kind is not inspect.Parameter.VAR_KEYWORD]

    def preprocess(
        self,
        images: ImageInput,
        do_resize: bool | None = None,
        size: SizeLike | None = None,
        resample: int | None = None,
        do_center_crop: bool | None = None,
        crop_size: SizeLike | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Iterable[float] | None = None,
        image_std: float | Iterable[float] | None = None,
        do_convert_rgb: bool | None = None,
        return_tensors: str | TensorType | None = None,
        data_format: str | ChannelDimension | None = ChannelDimension.FIRST,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Preprocess an image or several. Calling the processor does the same.

        Args:
            images: pictures of Pillow (any mode), NumPy arrays or torch tensors: one, a batch as one array, or a list,
                which may be nested and mixed. Arrays are (H, W), (H, W, C) or (C, H, W), of levels 0..255, or of 0..1
                with `do_rescale=False`; uint16 ones are scaled by 1/257.
            do_resize, size, resample, do_center_crop, crop_size, do_rescale, rescale_factor, do_normalize, image_mean,
            image_std, do_convert_rgb: instead of the processor's own.
            return_tensors: None for a list of NumPy arrays, one per image; "np" or "pt" for one array or tensor.
            data_format: "channels_first", "channels_last", or None for each image's own (pictures: channels last).
            input_data_format: the layout of all arrays, "channels_first", "channels_last" or "none" (grayscale, H x W);
                inferred where not given.
            **kwargs: other arguments are ignored with a warning.

        Returns:
            `pixel_values`, float32 of shape (N, C, H, W) in the default case, all images in one piece of memory.

        Raises:
            ValueError: something that is no image, one that cannot be preprocessed (its position is named), arguments
                that do not work together, or `return_tensors` with images of different sizes.
        """
        if kwargs:
            logger.warning(f"Unused or unrecognized kwargs: {', '.join(kwargs)}.")
        tensor_type = None if return_tensors is None else TensorType(return_tensors)
        given = {
            "do_resize": do_resize,
            "size": None if size is None else _size_dict(size),
            "resample": resample,
            "do_center_crop": do_center_crop,
            "crop_size": None if crop_size is None else _crop_size_dict(crop_size),
            "do_rescale": do_rescale,
            "rescale_factor": rescale_factor,
            "do_normalize": do_normalize,
            "image_mean": image_mean,
            "image_std": image_std,
            "do_convert_rgb": do_convert_rgb,
        }
        preprocessing = Preprocessing.from_dict(
            {name: getattr(self, name) if value is None else value for name, value in given.items()}
        )
        input_layout = _layout(input_data_format)
        pictures = list(_flatten(images, 2 if input_layout == GRAYSCALE_LAYOUT else 3))
        if preprocessing.do_rescale and pictures and _is_rescaled(pictures[0]):
            logger.warning_once(
                "The first image's levels are between 0 and 1, as if it had been rescaled before. If so, "
                "set `do_rescale=False`."
            )
        results = preprocessing.run(pictures, _layout(data_format), input_layout)
        if tensor_type is None:
            return BatchFeature({"pixel_values": list(results)})
        return BatchFeature({"pixel_values": as_batch(results)}, tensor_type=tensor_type)

    def resize(
        self,
        image: Picture,
        size: SizeLike,
        resample: int = PILImageResampling.BICUBIC,
        data_format: str | ChannelDimension | None = None,
        input_data_format: str | ChannelDimension | None = None,
        reducing_gap: float | None = None,
        return_numpy: bool = True,
    ) -> Picture:
        """Resize an image to a shortest edge, keeping its aspect ratio, or to a height and width.

        Args:
            image: an array of levels 0..255 or 0..1, or a picture.
            size: `{"shortest_edge"}` or `{"height", "width"}`, in pixels.
            resample: the filter.
            data_format: layout of the result; that of the input if not given.
            input_data_format: layout of the input; inferred if not given.
            reducing_gap: see `PIL.Image.Image.resize`.
            return_numpy: whether to return an array; otherwise a picture of Pillow.

        Returns:
            uint8, or float32 of 0..1 where the input was so.
        """
        array, layout = _channels_last(image, input_data_format)
        picture, fractions = to_picture(array)
        picture = resize(picture, parse_size(_size_dict(size)), resample, reducing_gap)
        if not return_numpy:
            return picture
        resized = to_channels(picture)
        return _to_layout(rescale(resized, RESCALE_FACTOR) if fractions else resized, _layout(data_format) or layout)

    def center_crop(
        self,
        image: Picture,
        size: SizeLike,
        data_format: str | ChannelDimension | None = None,
        input_data_format: str | ChannelDimension | None = None,
    ) -> Array:
        """Cut `size` (`{"height", "width"}` in pixels) out of the middle of an image, padding with zeros.

        `data_format` and `input_data_format` are layouts as in `resize`.
        """
        array, layout = _channels_last(image, input_data_format)
        cropped = cast(Array, center_crop(array, parse_crop_size(_crop_size_dict(size))))
        return _to_layout(cropped, _layout(data_format) or layout)

    def rescale(
        self,
        image: Picture,
        scale: float,
        data_format: str | ChannelDimension | None = None,
        input_data_format: str | ChannelDimension | None = None,
        dtype: Any = np.float32,
    ) -> Array:
        """Multiply an image by `scale`, in double precision, into an array of `dtype`.

        `data_format` and `input_data_format` are layouts as in `resize`.
        """
        array, layout = _channels_last(image, input_data_format)
        return _to_layout(rescale(array, scale, dtype), _layout(data_format) or layout)

    def normalize(
        self,
        image: Picture,
        mean: float | Iterable[float],
        std: float | Iterable[float],
        data_format: str | ChannelDimension | None = None,
        input_data_format: str | ChannelDimension | None = None,
    ) -> Array:
        """`(image - mean) / std`, with one number for all channels or one for each.

        `data_format` and `input_data_format` are layouts as in `resize`.
        """
        array, layout = _channels_last(image, input_data_format)
        return _to_layout(normalize(array, mean, std), _layout(data_format) or layout)


def _size_dict(size: SizeLike) -> dict[str, int]:
    return cast("dict[str, int]", dict(get_size_dict(size, default_to_square=False)))


def _crop_size_dict(size: SizeLike) -> dict[str, int]:
    return cast("dict[str, int]", dict(get_size_dict(size, param_name="crop_size")))


def _statistics(value: float | Iterable[float]) -> float | list[float]:
    return [float(number) for number in value] if isinstance(value, Iterable) else value


def _layout(data_format: str | ChannelDimension | None) -> Layout | None:
    """The bare string of a layout, which `Preprocessing.run` checks."""
    return cast("Layout | None", getattr(data_format, "value", data_format))


def _to_numpy(image: Any) -> Picture:
    if isinstance(image, (Image.Image, np.ndarray)):
        return image
    if is_torch_tensor(image):
        image = image.detach().cpu()
        # NumPy has no bfloat16.
        return cast(Array, (image.float() if str(image.dtype) == "torch.bfloat16" else image).numpy())
    raise ValueError(
        "an image is a PIL.Image.Image, a numpy.ndarray or a torch.Tensor, or a list of these, not "
        + (f"{image!r}: open the file first" if isinstance(image, str) else type(image).__name__)
    )


def _flatten(images: Any, axes: int) -> Iterator[Picture]:
    """The single images of nested lists; an array of more than `axes` axes is a batch."""
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _flatten(image, axes)
        return
    image = _to_numpy(images)
    if isinstance(image, np.ndarray) and image.ndim == axes + 1:
        yield from image
    elif isinstance(image, np.ndarray) and image.ndim not in (2, axes):
        raise ValueError(f"an image has {axes} axes and a batch {axes + 1}, but an array of shape {image.shape} came")
    else:
        yield image


def _is_rescaled(image: Picture) -> bool:
    """Whether levels lie within 0..1, which those of an 8-bit or 16-bit picture never do."""
    if isinstance(image, Image.Image) or image.dtype.kind not in "bif" or image.size == 0:
        return False
    return bool(image.min() >= 0 and image.max() <= 1)


def _channels_last(image: Picture, input_data_format: str | ChannelDimension | None) -> tuple[Array, Layout]:
    """An image as (H, W, C), and the layout that it came in."""
    picture = _to_numpy(image)
    if isinstance(picture, Image.Image):
        return to_channels(picture), "channels_last"
    layout = _layout(input_data_format) or infer_layout(picture.shape)
    array = channels_last(picture, layout)
    return (to_8_bit(array) if array.dtype == np.uint16 else array), layout


def _to_layout(image: Array, layout: Layout) -> Array:
    """An (H, W, C) array in another layout, as a view."""
    if layout == GRAYSCALE_LAYOUT and image.shape[-1] == 1:
        return image[..., 0]
    return image.transpose(2, 0, 1) if layout == "channels_first" else image

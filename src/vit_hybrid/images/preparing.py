"""From a picture, wherever it is, to what a model takes: exactly, fast, or on the device. One protocol, one choice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias

import numpy as np
from PIL import Image

from ..errors import argument
from .levels import Array, Picture, infer_layout, to_channels, to_rgb
from .preprocessing import Preprocessing, resized_size
from .reading import eight_bit_levels, open_image, pillows_limit, upright

if TYPE_CHECKING:
    import torch

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | torch.Tensor"
"""A path, an image file's bytes, an image file opened in binary mode, a picture of Pillow's, or an array: (H, W),
(H, W, C) or (C, H, W)."""
Pixels: TypeAlias = "Array | torch.Tensor"
"""(C, H, W) of one picture, or (N, C, H, W) of several, float32; a tensor is on the device already."""
Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""


class Preparing(Protocol):
    """What makes a model's input of pictures. Safe in threads.

    Attributes:
        preprocessing: What it carries out.
    """

    preprocessing: Preprocessing

    def __call__(self, source: ImageSource, name: str | None = None) -> Pixels:
        """(C, H, W) of one picture.

        Args:
            source: The picture.
            name: What to call it in errors; a file's own name, if not given.

        Raises:
            ImageReadError: It cannot be read.
            ValueError: It cannot be preprocessed.
        """
        ...

    def sized(self, source: ImageSource, name: str | None = None) -> tuple[Pixels, Size]:
        """The same, and the width and height that the picture has, upright, before anything is done to it."""
        ...

    def batch(self, pixels: Sequence[Any]) -> Pixels:
        """(N, C, H, W) of several pictures of one size, N of 1 or more."""
        ...


def preparing(
    preprocessing: Preprocessing, fast: bool = False, device: str = "cpu", max_pixels: int | None = None
) -> Preparing:
    """The way that pictures take to a model.

    Args:
        preprocessing: What is to be done to them.
        fast: Whether they are decoded and resized the faster way, which may be off by a few levels of 255: see
            `images.fast`.
        device: Where torch is to compute with the outcome; on a GPU the fast way resizes there.
        max_pixels: The most pixels that a picture in a file may have: see `reading.pixel_limit`.

    Raises:
        ValueError: `max_pixels` is not positive.
    """
    if max_pixels is not None and max_pixels < 1:
        raise ValueError(f"{argument('max_pixels')} is {max_pixels}; expected 1 or more.")
    if not fast:
        return Exactly(preprocessing, max_pixels)
    if device.startswith("cuda"):
        return OnDevice(preprocessing, max_pixels, device)
    return Fast(preprocessing, max_pixels)


class Exactly:
    """Just what `Preprocessing` says, on the CPU."""

    def __init__(self, preprocessing: Preprocessing, max_pixels: int | None = None) -> None:
        self.preprocessing = preprocessing
        self.max_pixels = max_pixels
        self._steps: Any = preprocessing

    def __call__(self, source: ImageSource, name: str | None = None) -> Pixels:
        return self.sized(source, name)[0]

    def sized(self, source: ImageSource, name: str | None = None) -> tuple[Pixels, Size]:
        picture = self.opened(source, name)
        check_resizable(picture, self.preprocessing)
        pixels: Pixels = self._steps([picture])[0]
        return pixels, self._size(picture)

    def batch(self, pixels: Sequence[Any]) -> Pixels:
        return np.stack(pixels)

    def opened(self, source: Any, name: str | None = None) -> Picture:
        """`source` as an upright picture or an array, of levels that preprocessing takes."""
        if is_tensor(source):
            source = source.detach().cpu()
            # NumPy has no bfloat16.
            source = (source.float() if str(source.dtype) == "torch.bfloat16" else source).numpy()
        if isinstance(source, np.ndarray):
            # Without rescaling, arrays are on the scale that the model takes.
            return eight_bit_levels(source) if self.preprocessing.do_rescale else source
        return upright(source, name) if isinstance(source, Image.Image) else self._decoded(source, name)

    def _decoded(self, source: Any, name: str | None) -> Image.Image:
        return open_image(source, name, max_pixels=self.max_pixels)

    def _size(self, picture: Picture) -> Size:
        if isinstance(picture, Image.Image):
            return picture.size
        height, width = picture.shape[1:] if infer_layout(picture.shape) == "channels_first" else picture.shape[:2]
        return width, height


class Fast(Exactly):
    """The same on the CPU, off by a few levels."""

    def __init__(self, preprocessing: Preprocessing, max_pixels: int | None = None) -> None:
        from .fast import FastPreprocessing

        super().__init__(preprocessing, max_pixels)
        self._steps = FastPreprocessing(preprocessing)

    def _decoded(self, source: Any, name: str | None) -> Image.Image:
        from .fast import open_draft

        return open_draft(source, self.preprocessing, name, max_pixels=self.max_pixels)

    def _size(self, picture: Picture) -> Size:
        from .fast import Draft

        draft = picture.info.get(Draft.KEY) if isinstance(picture, Image.Image) else None
        return super()._size(picture) if draft is None else draft.size


class OnDevice(Fast):
    """The same on a device of torch's, off by a few levels."""

    def __init__(self, preprocessing: Preprocessing, max_pixels: int | None, device: str) -> None:
        from .on_device import DevicePreprocessing

        super().__init__(preprocessing, max_pixels)
        self._steps = DevicePreprocessing(preprocessing, device)

    def batch(self, pixels: Sequence[Any]) -> Pixels:
        import torch

        return torch.stack(list(pixels))


def check_resizable(picture: Picture, preprocessing: Preprocessing) -> None:
    """A picture of very unlike sides can become a bomb by being resized to a shortest edge.

    Raises:
        ValueError: It would have more pixels than `PIL.Image.MAX_IMAGE_PIXELS` then.
    """
    limit = pillows_limit()
    if not (preprocessing.do_resize and isinstance(picture, Image.Image) and limit):
        return
    height, width = resized_size(picture.height, picture.width, preprocessing.size)
    if height * width > limit:
        raise ValueError(
            f"a picture of {picture.width} x {picture.height} would be resized to {width} x {height}, more pixels "
            f"than the {limit} allowed; crop it first"
        )


def check_usable(picture: Picture, preprocessing: Preprocessing) -> None:
    """Whether a picture can become a model's input, without the work of making it.

    Raises:
        ValueError: It cannot.
    """
    check_resizable(picture, preprocessing)
    if isinstance(picture, Image.Image):
        corner = picture.crop((0, 0, 1, 1))
        to_rgb(corner) if preprocessing.do_convert_rgb else to_channels(corner)


def is_tensor(source: Any) -> bool:
    """Whether it is one of torch's, without loading torch: who has a tensor has loaded it."""
    return hasattr(source, "detach") and hasattr(source, "cpu")


__all__ = [
    "Exactly",
    "Fast",
    "ImageSource",
    "OnDevice",
    "Pixels",
    "Preparing",
    "Size",
    "check_resizable",
    "check_usable",
    "is_tensor",
    "preparing",
]

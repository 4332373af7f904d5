"""From a picture's file to its pixels: decoded, upright, or an error that names it. Pillow alone."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image, ImageOps

from ..errors import one_line

logger = logging.getLogger(__name__)


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


def upright(image: Image.Image, name: str | None) -> Image.Image:
    try:
        image.load()
    except (
        Exception
    ) as error:  # of a file that Pillow opened and reads only now; its decoders raise all sorts of things
        raise ImageReadError(name or "<picture>", f"is truncated or damaged ({one_line(error)})") from error
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data around sound pixels, as in `open_image`
        return image

"""From a picture's file to its pixels: decoded, upright, or an error that names it. Pillow alone."""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageOps

from ..errors import LFS_POINTER, UNFETCHED, argument, one_line
from .levels import MAX_8_BIT, MAX_16_BIT, STEP_16_TO_8_BIT, Array, Picture, to_8_bit, to_rgb

logger = logging.getLogger(__name__)


# What may be the matter with a picture, in a word that a table of errors can be sorted by: it is not there or cannot be
# opened; what is there is no picture, breaks off or is damaged, has more pixels or other levels than are taken; there
# was not enough memory for it.
MISSING, UNREADABLE, EMPTY, NOT_A_PICTURE, DAMAGED, TOO_LARGE, LEVELS, MEMORY = ERROR_KINDS = (
    *("missing", "unreadable", "empty", "not a picture", "damaged", "too large", "levels", "memory"),
)


class ImageReadError(ValueError):
    """A picture that cannot be read. Its text is one line: `name: reason`.

    Attributes:
        name: the file, or what the caller called it.
        reason: why it cannot be read, without the name.
        kind: one of `ERROR_KINDS`.
    """

    def __init__(self, name: str, reason: str, kind: str = DAMAGED) -> None:
        # All go into `args`, so that the error survives pickling between processes.
        super().__init__(_one_line(name), _one_line(reason), kind)
        self.name, self.reason, self.kind = self.args

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


# Phones take pictures of 200 megapixels. Decoded, 250 million pixels are one gigabyte.
MAX_PIXELS = 250_000_000
# What PIL.Image.MAX_IMAGE_PIXELS is where nobody has set it.
PILLOWS_MAX_PIXELS = 1024**3 // 4 // 3
# The modes of pictures that become RGB; of others Pillow knows when it is asked.
RGB_MODES = frozenset(
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "F", "I", "I;16", "I;16L", "I;16B")
)
# Chunks of a PNG that Pillow refuses to decompress where they are large. EXIF data, which say what is upright, are at
# most 64 KiB, and twice that as hexadecimal text.
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_METADATA = frozenset((b"iCCP", b"tEXt", b"zTXt", b"iTXt"))
MOST_PNG_METADATA = 2**17
# What a TIFF says of signed integers (TIFF 6.0, section 19).
SAMPLE_FORMAT, SIGNED = 339, 2
# How far resampled fractions lie beyond 0 or 1: the cubic filters of OpenCV and PyTorch overshoot an edge by a ninth, a
# corner by 23 %.
OVERSHOOT = 0.25
# Where the largest floating-point level is above those of fractions and below this, a picture of 0..255 would be black.
LEAST_OF_LEVELS = 2
# The brands of HEIC files, which stand behind "ftyp" from their ninth byte on.
HEIC_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"))

# What has no picture in it, or would be waited for without an end.
NO_FILE = "is a pipe, socket or device, not a picture"
NO_SUCH_FILE = "no such file"
OF_WINDOWS = "; the path has backslashes, as on Windows, where / is expected"
PIPE_CHUNK = 1 << 16  # bytes; what a pipe holds

# Turning one kind of warning into an error, and Pillow's limit of pixels, are states that all threads share, so only
# one of them may change these at a time.
_pillows_state = threading.RLock()


def pixel_limit(max_pixels: int | None = None) -> int | None:
    """The most pixels that a picture in a file may have; None for any number.

    Args:
        max_pixels: What is asked for. By default what `PIL.Image.MAX_IMAGE_PIXELS` was set to, else 250 million.
    """
    if max_pixels is not None:
        return max_pixels
    pillows = pillows_limit()
    return MAX_PIXELS if pillows == PILLOWS_MAX_PIXELS else pillows


def pillows_limit() -> int | None:
    """`PIL.Image.MAX_IMAGE_PIXELS`, 89 million where nobody has set it, as it is between two pictures."""
    with _pillows_state:
        return Image.MAX_IMAGE_PIXELS


def open_image(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    name: str | None = None,
    before_decoding: Callable[[Image.Image], object] | None = None,
    max_pixels: int | None = None,
) -> Image.Image:
    """Decode one picture completely and turn it upright as its EXIF orientation says.

    Floating-point levels come as 8-bit ones, by the rule of `eight_bit_levels`. HEIC files are read where pillow-heif
    is installed.

    Args:
        source: a path, the bytes of an encoded picture, or a file opened in binary mode (read from its position on).
        name: what to call the picture in errors; the path, or the file's own name, if not given.
        before_decoding: called with the picture once its header is read, when `Image.draft` still has a say.
        max_pixels: see `pixel_limit`.

    Returns:
        The decoded first frame, in the mode it was stored in, which can become RGB.

    Raises:
        ImageReadError: the file is missing, a folder, unreadable, empty, truncated, damaged, not a picture, has more
            pixels than are allowed (a decompression bomb), or levels that no picture has; or it is a device, or a pipe
            that nobody writes to.
        TypeError: `source` is none of the above.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), name or "<bytes>", before_decoding, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fsdecode(source)
        with _opened(source, name) as file:
            return _decode(file, name, before_decoding, max_pixels)
    if hasattr(source, "read"):
        name = name or str(getattr(source, "name", "<stream>"))
        try:
            content = source.read()  # all of it: a pipe or a socket cannot seek
        except (OSError, ValueError) as error:
            raise ImageReadError(name, f"cannot be read ({one_line(error)})", UNREADABLE) from error
        if not isinstance(content, bytes):
            raise TypeError(f"{name} gives {type(content).__name__}: open it in binary mode")
        return _decode(io.BytesIO(content), name, before_decoding, max_pixels)
    raise TypeError(f"a picture is read from a path, bytes or a binary file, not from {type(source).__name__}")


def _is_of_windows(path: str | os.PathLike[str]) -> bool:
    return os.sep != "\\" and "\\" in os.fsdecode(path)


def encoded(source: str | os.PathLike[str], name: str | None = None, most: int = -1) -> bytes:
    """The bytes of a picture's file, whatever they are.

    Args:
        source: The file.
        name: As for `open_image`.
        most: No more bytes than these are read; -1 for all.

    Raises:
        ImageReadError: It is missing, a folder, a device, or cannot be read.
    """
    with _opened(source, name or os.fsdecode(source)) as file:
        return file.read(most)


@contextmanager
def _opened(source: str | os.PathLike[str], name: str) -> Iterator[BinaryIO]:
    """A picture's file while it is read; what is the matter with it as an `ImageReadError`."""
    try:
        # A pipe would wait until somebody writes to it.
        with open(source, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            yield _seekable(file, name)
    except FileNotFoundError:
        raise ImageReadError(name, NO_SUCH_FILE + (OF_WINDOWS if _is_of_windows(source) else ""), MISSING) from None
    except IsADirectoryError:
        raise ImageReadError(name, "is a folder, not a picture", NOT_A_PICTURE) from None
    except ImageReadError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ImageReadError(name, f"cannot be opened ({why})", UNREADABLE) from error


def _seekable(file: BinaryIO, name: str) -> BinaryIO:
    """The file, or all of its content where Pillow could not seek in it."""
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISFIFO(mode):
        try:
            head = os.read(file.fileno(), PIPE_CHUNK)
        except BlockingIOError:  # somebody is about to write
            head = None
        if head == b"":
            raise ImageReadError(name, NO_FILE, NOT_A_PICTURE)
        os.set_blocking(file.fileno(), True)
        return io.BytesIO((head or b"") + file.read())
    if not stat.S_ISREG(mode):  # a device may have no end
        raise ImageReadError(name, NO_FILE, NOT_A_PICTURE)
    return file if file.seekable() else io.BytesIO(file.read())


def _decode(
    file: BinaryIO, name: str, before_decoding: Callable[[Image.Image], object] | None, max_pixels: int | None
) -> Image.Image:
    head = file.read(len(PNG_SIGNATURE) + 4)
    if not head:
        raise ImageReadError(name, "is empty", EMPTY)
    is_heic = head[4:8] == b"ftyp" and head[8:] in HEIC_BRANDS
    if is_heic:
        _let_pillow_read_heic(name)
    try:
        try:
            image = _loaded(file, before_decoding, max_pixels)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise
        except Exception:
            other = _with_small_metadata(file) if head.startswith(PNG_SIGNATURE) else None
            if other is None:
                raise
            image = _loaded(other, before_decoding, max_pixels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        [size, *_] = map(int, re.findall(r"\d+", str(error)))  # "Image size (108000000 pixels) exceeds limit of ..."
        raise ImageReadError(
            name,
            f"has more pixels than the {pixel_limit(max_pixels)} allowed; {argument('max_pixels', size)} lets it pass",
            TOO_LARGE,
        ) from error
    except Image.UnidentifiedImageError as error:
        reason = "is a damaged HEIC picture" if is_heic else "is not a picture in a format that Pillow reads"
        if LFS_POINTER.startswith(head):
            file.seek(0)
            reason = UNFETCHED if file.read(len(LFS_POINTER)) == LFS_POINTER else reason
        raise ImageReadError(name, reason, DAMAGED if is_heic else NOT_A_PICTURE) from error
    except Exception as error:
        # The decoders of the many formats raise whatever a damaged file makes them stumble over.
        kind = MEMORY if isinstance(error, MemoryError) else DAMAGED
        raise ImageReadError(name, f"is truncated or damaged ({one_line(error)})", kind) from error
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # the same decoders, on the metadata: the pixels are sound
        logger.warning("%s: damaged EXIF data, orientation ignored (%s)", _one_line(name), one_line(error))
    try:
        _check_signs(image)
        return cast(Image.Image, eight_bit_levels(image))
    except ValueError as error:
        raise ImageReadError(name, str(error), LEVELS) from error


def _loaded(
    file: BinaryIO, before_decoding: Callable[[Image.Image], object] | None, max_pixels: int | None
) -> Image.Image:
    file.seek(0)
    with _pillows_state, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata: damaged pixels raise
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixel_limit(max_pixels)
        try:
            image = Image.open(file)
            if before_decoding is not None:
                before_decoding(image)
            if before is not None and image.width * image.height > before:
                image.load()  # some formats count once more; and one at a time is gigabyte enough
        finally:
            Image.MAX_IMAGE_PIXELS = before
    image.load()
    return image


def _with_small_metadata(file: BinaryIO) -> BinaryIO | None:
    """A PNG without its color profile and large texts, which change no level; None where it has none of these."""
    file.seek(0)
    content = file.read()
    smaller = _without_large_metadata(content)
    return io.BytesIO(smaller) if len(smaller) < len(content) else None


def _let_pillow_read_heic(name: str) -> None:
    with _pillows_state:
        if "HEIF" in Image.OPEN:
            return
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise ImageReadError(
                name, "is a HEIC picture; pip install 'vit-hybrid[heif]' reads these", UNREADABLE
            ) from None
        register_heif_opener()


def _without_large_metadata(content: bytes) -> bytes:
    """The bytes of a PNG without its color profile and large texts, which make no difference to its levels."""
    kept, place = [content[: len(PNG_SIGNATURE)]], len(PNG_SIGNATURE)
    while place < len(content):
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        data, place, start = content[place + 8 : place + 8 + length], place + 12 + length, place
        if kind not in PNG_METADATA or _is_small_text(kind, data):
            kept.append(content[start:place])
    return b"".join(kept)


def _is_small_text(kind: bytes, data: bytes) -> bool:
    if kind == b"iCCP" or len(data) > MOST_PNG_METADATA:
        return False
    if kind == b"tEXt":
        return True
    _, _, rest = data.partition(b"\0")  # behind the keyword: zTXt has the method, iTXt whether, method and two words
    packed = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    if kind == b"iTXt" and rest[:1] == b"\0":
        return True
    unpacking = zlib.decompressobj()
    try:
        return len(unpacking.decompress(packed, MOST_PNG_METADATA)) < MOST_PNG_METADATA
    except zlib.error:
        return False


def upright(image: Image.Image, name: str | None) -> Image.Image:
    """A picture that somebody opened, decoded and turned as its EXIF orientation says; its levels as in `open_image`.

    Raises:
        ImageReadError: it cannot be decoded, or has levels that no picture has.
    """
    try:
        image.load()
    except Exception as error:  # of a file that is read only now; its decoders raise all sorts of things
        raise ImageReadError(name or "<picture>", f"is truncated or damaged ({one_line(error)})") from error
    decoded = image
    with suppress(Exception):  # damaged EXIF data around sound pixels, as in `open_image`
        image = ImageOps.exif_transpose(image)
    try:
        _check_signs(decoded)
        return cast(Image.Image, eight_bit_levels(image))
    except ValueError as error:
        raise ImageReadError(name or "<picture>", str(error), LEVELS) from error


# --- Levels -----------------------------------------------------------------------------------------------------------


def eight_bit_levels(picture: Picture) -> Picture:
    """A picture, or an array of levels, as preprocessing takes it; what its levels mean goes by their type and range.

    8-bit levels are left as they are, and so are unsigned 16-bit ones (uint16 arrays, Pillow's modes I;16), whose scale
    is 0..65535 and which preprocessing itself divides by 257. Other integers are levels of 0..255 where none is larger,
    else of 0..65535. Floating-point levels are fractions of 0..1 where none is above 1.25, else levels of 0..255 where
    none is above 318.75, else of 0..65535: so far resampling goes beyond the ends of a scale, which is cut off, below 0
    of fractions alone, by a fourth of the largest at most. What is scaled is rounded to the nearest level. True is
    white.

    Raises:
        ValueError: a level is negative, beyond 65535 or not finite, the largest is neither a fraction nor 2 or more, or
            a mode cannot become RGB.
    """
    if isinstance(picture, np.ndarray):
        return _scaled(picture)
    if picture.mode == "F":
        levels = _scaled(np.asarray(picture))
        return picture.convert("L") if levels.dtype.kind == "f" else Image.fromarray(levels)
    if picture.mode == "I":
        _scaled(np.asarray(picture))  # `to_rgb` divides them by 257
    elif picture.mode not in RGB_MODES:
        to_rgb(picture.crop((0, 0, 1, 1)))
    return picture


def _check_signs(image: Image.Image) -> None:
    """Raises `ValueError` for a TIFF of signed bytes with negative ones, of which Pillow takes -1 for 255."""
    if image.mode == "L" and SIGNED in getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, ()):
        _scaled(np.asarray(image).view(np.int8))


def _scaled(levels: Array) -> Array:
    kind = levels.dtype.kind
    if kind == "b":
        return levels.astype(np.uint8) * np.uint8(MAX_8_BIT)
    if kind not in "iuf" or (kind == "u" and levels.dtype.itemsize <= 2) or not levels.size:
        return levels
    low, high = levels.min(), levels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it has NaN or infinite values where pixels should be")
    are_fractions = kind == "f" and high <= 1 + OVERSHOOT and low >= -OVERSHOOT * high
    if not are_fractions and (low < 0 or high > MAX_16_BIT or (kind == "f" and high < LEAST_OF_LEVELS)):
        raise ValueError(
            f"it has levels from {low:g} to {high:g}; expected 0 to {MAX_8_BIT}, 0 to {MAX_16_BIT} "
            "or fractions of 0 to 1; scale them first"
        )
    if are_fractions:
        return np.rint(levels.clip(0, 1) * MAX_8_BIT).astype(np.uint8)
    if high <= MAX_8_BIT:
        return levels
    if kind == "f" and high <= (1 + OVERSHOOT) * MAX_8_BIT:
        return np.rint(levels.clip(0, MAX_8_BIT)).astype(np.uint8)
    return to_8_bit(levels) if kind in "iu" else np.rint(levels / STEP_16_TO_8_BIT).astype(np.uint8)


__all__ = [
    *("ERROR_KINDS", "LEVELS", "MAX_PIXELS", "MEMORY", "UNREADABLE", "ImageReadError", "eight_bit_levels"),
    *("open_image", "pillows_limit", "pixel_limit", "upright"),
]

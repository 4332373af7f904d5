"""Pictures to calibrate quantization with: from a folder, as arrays, or made where there are none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..data.listing import PICTURE, Passed
from ..data.made import natural_picture
from ..data.sources import SourceError, expand
from ..errors import EngineError, one_line, shown
from ..images.preparing import preparing
from ..images.preprocessing import Preprocessing

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class PictureFolder:
    """A folder of calibration pictures.

    Attributes:
        path: Where it is.
        max_pixels: The most pixels that a picture may have: see `images.reading.pixel_limit`.
        half: Whether only every second picture is taken, the first of them; the others are for a test.
    """

    path: str | os.PathLike[str]
    max_pixels: int | None = None
    half: bool = False


CalibrationSource: TypeAlias = "str | os.PathLike[str] | PictureFolder | Array | Sequence[Array] | None"

# NNCF's own number. More change the ranges of activations little.
MOST_PICTURES = 300
FEWEST_PICTURES = 8
MADE_PICTURES = 96
# Seconds for calibration, ranking and quantization together.
DEFAULT_TIME_LIMIT = 600.0
MADE_WARNING = (
    "no calibration pictures were given, so int8 was calibrated on made ones; give a folder of pictures like those the "
    "model is for (calibration=, --calibration DIR) for the best accuracy"
)


@dataclass(frozen=True)
class Calibration:
    """Pictures as the model takes them.

    Attributes:
        pixel_values: (N, C, H, W), float32.
        about: What they are, for the report.
        fingerprint: What identifies them; calibration with the same ones gives the same model.
        made: Whether they were made for the purpose.
        passed: What was passed over in their folder, counted.
    """

    pixel_values: Array
    about: str
    fingerprint: str
    made: bool
    passed: Passed = field(default_factory=Passed)


def limited(source: CalibrationSource, max_pixels: int | None) -> CalibrationSource:
    """The source with a limit of pixels, where it is a folder."""
    return PictureFolder(source, max_pixels) if isinstance(source, str | os.PathLike) else source


def fingerprint_of(source: CalibrationSource) -> str:
    """What identifies the calibration pictures, without decoding any: their names and sizes, or the arrays' content.

    Raises:
        EngineError: If there is no such folder or no picture in it.
    """
    if source is None:
        return "made"
    digest = hashlib.sha256()
    source = limited(source, None)
    if isinstance(source, PictureFolder):
        place = os.path.abspath(os.path.expanduser(source.path))
        for path in _taken(source):
            name, what = os.path.relpath(path, place), "gone"
            with suppress(OSError):  # as of a link to nothing, which is passed over when it is to be read
                about = os.stat(path)
                what = f"{about.st_size}\0{about.st_mtime_ns}"
            digest.update(f"{name}\0{what}\0".encode("utf-8", "replace"))
        digest.update(place.encode("utf-8", "replace"))
        if source.half:
            digest.update(b"half")
        if source.max_pixels is not None:  # more or fewer of them can be read
            digest.update(str(source.max_pixels).encode())
    else:
        arrays = _as_array(source)
        digest.update(str(arrays.shape).encode())
        digest.update(np.ascontiguousarray(arrays).tobytes())
    return digest.hexdigest()


def calibration_pixels(
    source: CalibrationSource, preprocessing: Preprocessing, shape: tuple[int, int, int], limit: int = MOST_PICTURES
) -> Calibration:
    """The pictures of a source, as the model takes them.

    Args:
        source: A folder or `PictureFolder`, searched through all levels; arrays (N, C, H, W) of pixel values, or a
            sequence of (C, H, W); or None for made pictures.
        preprocessing: What turns a picture into the model's input.
        shape: (C, H, W) that the model takes.
        limit: How many to use at most, spread evenly.

    Raises:
        EngineError: If a folder is missing or has no picture that can be read, or arrays do not fit the model.
    """
    identity = fingerprint_of(source)
    if source is None:
        pictures = [natural_picture(seed) for seed in range(min(limit, MADE_PICTURES))]
        batch = preprocessing(pictures)
        _check_shape(batch.shape[1:], shape)
        return Calibration(batch, f"{len(pictures)} made pictures", identity, True)
    source = limited(source, None)
    if not isinstance(source, PictureFolder):
        arrays = _as_array(source)
        if arrays.shape[1:] != shape:
            raise EngineError(
                f"the calibration arrays have shape {arrays.shape}; expected (N, {', '.join(map(str, shape))}), as "
                "preprocessing gives them."
            )
        kept = _spread(arrays, limit)
        return Calibration(np.stack(list(kept)).astype(np.float32), f"{len(kept)} arrays", identity, False)
    prepare = preparing(preprocessing, max_pixels=source.max_pixels)
    passed = Passed()
    parts: list[Array] = []
    problem = ""
    for path in _spread(_taken(source, passed), limit):
        try:
            pixels = np.asarray(prepare(path))
            _check_shape(pixels.shape, shape)
        except (OSError, ValueError) as error:
            passed.add(PICTURE, path)
            problem = one_line(error)
        else:
            parts.append(pixels)
    if not parts:
        raise EngineError(f"{shown(source.path)}: none of the calibration pictures can be used; {problem}.")
    about = f"{len(parts)} pictures of {shown(Path(source.path).name or source.path)}"
    return Calibration(np.stack(parts), about, identity, False, passed)


def _check_shape(made: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    if made != shape:
        raise EngineError(f"preprocessing makes {made} of a picture, but the model takes {shape}")


def pictures_of(folder: str | os.PathLike[str], passed: Passed | None = None) -> list[str]:
    """The pictures of a calibration folder, through all its levels.

    Args:
        folder: The folder.
        passed: Counts what is passed over.

    Raises:
        EngineError: If there is no such folder or no picture in it.
    """
    return _paths(folder, passed)


def _taken(source: PictureFolder, passed: Passed | None = None) -> list[str]:
    return _paths(source.path, passed)[:: 2 if source.half else 1]


def _paths(folder: str | os.PathLike[str], passed: Passed | None = None) -> list[str]:
    place = os.path.expanduser(os.fspath(folder))
    if not os.path.exists(place):
        raise EngineError(f"{shown(folder)}: there is no such calibration folder.")
    found = [path for path, source in expand([place], passed) if not isinstance(source, SourceError)]
    if not found:
        also = f" They are {passed.line()}." if passed else ""
        raise EngineError(
            f"{shown(folder)}: there are no pictures in this calibration folder (looked for names like *.jpg).{also}"
        )
    return found


def _as_array(source: Any) -> Array:
    try:
        arrays = np.asarray(source if isinstance(source, np.ndarray) else [np.asarray(one) for one in source])
    except (TypeError, ValueError) as error:
        raise EngineError(f"calibration is neither a folder nor arrays of one shape ({one_line(error)}).") from error
    if arrays.ndim != 4 or arrays.dtype.kind != "f" or not len(arrays) or not np.isfinite(arrays).all():
        raise EngineError(
            f"calibration arrays must be finite floating-point pixel values (N, C, H, W); got shape {arrays.shape}, "
            f"{arrays.dtype}."
        )
    return arrays


def _spread(items: Any, limit: int) -> Any:
    if len(items) <= limit:
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


__all__ = [
    "DEFAULT_TIME_LIMIT",
    "FEWEST_PICTURES",
    "MADE_WARNING",
    "MOST_PICTURES",
    "Calibration",
    "CalibrationSource",
    "PictureFolder",
    "calibration_pixels",
    "fingerprint_of",
    "limited",
    "pictures_of",
]

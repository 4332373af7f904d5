"""The pictures that file names, folder names and `-` stand for.

Imports neither torch nor NumPy, so that a command can say what is wrong with its arguments before the model is loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

STANDARD_INPUT = "-"

# Pictures that are read, and go through a model, at once: it keeps a CPU busy, and 16 of 384 x 384 are only 28 MB.
DEFAULT_BATCH_SIZE = 16

# What counts as a picture inside a folder. A file that is named itself is tried whatever its name ends in.
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "dib", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)


class SourceError(ValueError):
    """A source that gives no picture; the message is one line that names it and says why."""


def expand(names: Iterable[str]) -> list[tuple[str, str | SourceError]]:
    """The pictures behind `names`, in order, a folder replaced by the pictures in it.

    Args:
        names: Files, folders and `-`. A folder is searched through all its levels and its pictures are sorted by path;
            names that start with a dot are passed over and links to folders are not followed.

    Returns:
        A (path, path) pair for each picture, and a (path, `SourceError`) pair in its place for each folder that has
        none or cannot be read. Whether a file is a picture, or there at all, shows only when it is opened.
    """
    return [pair for name in names for pair in (_in_folder(name) if os.path.isdir(name) else [(name, name)])]


def contents(
    pairs: Iterable[tuple[str, str | SourceError]],
) -> Iterator[tuple[str, str | bytes | SourceError]]:
    """`pairs` with the bytes of standard input in place of `-`, read only when they are asked for.

    Where it cannot be read there is a `SourceError` in its place.
    """
    for path, source in pairs:
        yield path, _read_standard_input() if source == STANDARD_INPUT else source


def _read_standard_input() -> bytes | SourceError:
    if sys.stdin is None or sys.stdin.closed:
        return SourceError(f"{STANDARD_INPUT}: standard input is closed; pipe a picture into it")
    if sys.stdin.isatty():  # where it would wait for a picture that nobody can type
        return SourceError(f"{STANDARD_INPUT}: standard input is a terminal; pipe a picture into it")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        return SourceError(f"{STANDARD_INPUT}: standard input cannot be read: {error.strerror}")


def _in_folder(folder: str) -> Iterator[tuple[str, str | SourceError]]:
    found: list[str] = []
    unreadable: list[OSError] = []
    for place, subfolders, files in os.walk(folder, onerror=unreadable.append):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [os.path.join(place, name) for name in files if _is_image_name(name)]

    pairs: list[tuple[str, str | SourceError]] = [(path, path) for path in found]
    for error in unreadable:
        path = str(error.filename)
        pairs.append((path, SourceError(f"{path}: cannot read the folder: {error.strerror}")))
    if not pairs:
        pairs.append(
            (folder, SourceError(f"{folder}: no pictures in this folder (looked for names like *.jpg, *.png)"))
        )
    return iter(sorted(pairs, key=lambda pair: Path(pair[0]).parts))


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES

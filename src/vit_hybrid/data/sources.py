"""The pictures that file names, folder names, globs and `-` stand for.

Imports neither torch nor NumPy, so that a command can say what is wrong with its arguments before the model is loaded.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import shown
from .listing import HEIC, PICTURE, Passed, kind_of, walk

STANDARD_INPUT = "-"


class SourceError(ValueError):
    """A source that gives no picture; the message is one line that names it and says why."""


def expand(names: Iterable[str], passed: Passed | None = None) -> list[tuple[str, str | SourceError]]:
    """The pictures behind `names`, in order, a folder replaced by the pictures in it.

    Args:
        names: Files, folders, globs (with ** for all levels) and `-`. A folder is searched through all its levels and
            its pictures are sorted by path; what is hidden, no file or a folder that this package wrote is passed over,
            and links to folders are not followed.
        passed: Where to count what is passed over.

    Returns:
        A (path, path) pair for each picture, and a (path, `SourceError`) pair in its place for each folder or glob that
        has none or cannot be read. Whether a file is a picture, or there at all, shows only when it is opened.
    """
    pairs: list[tuple[str, str | SourceError]] = []
    for name in names:
        if os.path.isdir(name):
            inside = Passed()
            pairs += _in_folder(name, inside)
            if passed is not None:
                passed.update(inside)
        elif glob.has_magic(name) and not os.path.lexists(name):
            pairs += _matching(name)
        else:
            pairs.append((name, name))
    return pairs


def _matching(pattern: str) -> list[tuple[str, str | SourceError]]:
    """The files that a pattern means, which the shell left as it is; with an ending whatever has it, else pictures."""
    is_any = not glob.has_magic(os.path.splitext(pattern)[1] or "*")
    found = sorted(set(glob.iglob(pattern, recursive=True)), key=lambda path: Path(path).parts)
    paths = [
        path for path in found if not os.path.isdir(path) and (is_any or kind_of(os.path.basename(path)) == PICTURE)
    ]
    if not paths and not {"*", "?"} & {*pattern}:
        return [(pattern, pattern)]  # brackets alone are more often of a file's own name
    return [(path, path) for path in paths] or [(pattern, SourceError(f"{shown(pattern)}: matches no pictures"))]


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


def _in_folder(folder: str, passed: Passed) -> Iterator[tuple[str, str | SourceError]]:
    pairs: list[tuple[str, str | SourceError]] = []
    for place, found in walk(folder, passed):
        if isinstance(found, OSError):
            pairs.append((place, SourceError(f"{shown(place)}: cannot read the folder: {found.strerror}")))
        else:
            paths = [os.path.join(place, name) for name in found]
            pairs += zip(paths, paths, strict=True)
    if not pairs:
        pairs.append((folder, SourceError(nothing_in(folder, passed))))
    return iter(sorted(pairs, key=lambda pair: Path(pair[0]).parts))


def nothing_in(folder: str, passed: Passed) -> str:
    """What to say of a folder without pictures, of which so much was passed over."""
    heic = passed.counts().get(HEIC)
    text = "no pictures in this folder (looked for names like *.jpg, *.png)"
    if heic:
        text += f", but {heic:,} HEIC pictures; pip install 'vit-hybrid[heif]' to read them"
    return f"{shown(folder)}: {text}"

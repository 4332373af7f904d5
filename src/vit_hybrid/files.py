"""Files and folders that are complete or not there at all."""

from __future__ import annotations

import hashlib
import mimetypes
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The mark of a folder that this package wrote: the pictures and tables in it are results and not data, so those who
# look for data pass over it. Its name and its text are for the person who comes upon it.
MARK = "written-by-vit-hybrid.txt"
MARK_TEXT = "vit-hybrid wrote this folder and does not look for pictures in it, unless it is named itself.\n"


def is_marked(folder: str | os.PathLike[str]) -> bool:
    """Whether this package wrote the folder, so that what is in it is not data."""
    return os.path.exists(os.path.join(folder, MARK))


def mark(folder: str | os.PathLike[str], figures: Collection[str] = ()) -> None:
    """Marks a folder that this package writes into, unless it holds somebody's pictures, which would be lost as data.

    Args:
        folder: The folder, which has to exist.
        figures: The names of the pictures that this package itself writes into it.

    Raises:
        OSError: The mark cannot be written.
    """
    if not is_marked(folder) and not _holds_pictures(folder, figures):
        with replacing(os.path.join(folder, MARK)) as unfinished:
            unfinished.write_text(MARK_TEXT, encoding="utf-8")


def _holds_pictures(folder: str | os.PathLike[str], figures: Collection[str]) -> bool:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_marked(os.path.join(place, name))]
        for name in names:
            kind, _ = mimetypes.guess_type(name)
            if name not in figures and kind is not None and kind.startswith("image/"):
                return True
    return False


def checksum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A name beside `path` to write to, which takes the place of `path` once the block has ended without an error.

    Raises:
        OSError: If the file cannot take the place of `path`.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        with suppress(FileNotFoundError):  # as it is when all went well
            temporary.unlink()


@contextmanager
def made_parents(out: Path) -> Iterator[None]:
    """Makes the folders that `out` is to lie in, and takes them away again if nothing comes to lie there."""
    made = [parent for parent in out.absolute().parents if not parent.exists()]
    for parent in reversed(made):
        parent.mkdir()
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise


__all__ = ["MARK", "checksum", "is_marked", "made_parents", "mark", "replacing"]

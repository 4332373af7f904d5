"""Files and folders that are complete or not there at all."""

from __future__ import annotations

import errno
import hashlib
import json
import mimetypes
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import escaped, one_line, shown

try:
    import fcntl
except ImportError:  # Windows, where two runs into one folder are not told from each other
    fcntl = None  # type: ignore[assignment]

# The mark of a folder that this package wrote: the pictures and tables in it are results and not data, so those who
# look for data pass over it. Its name and its text are for the person who comes upon it.
MARK = "written-by-vit-hybrid.txt"
MARK_TEXT = "vit-hybrid wrote this folder and does not look for pictures in it, unless it is named itself.\n"

# What a folder that a run writes into holds meanwhile, so that another run is told from it. What starts with "_" is not
# uploaded by Trainer.
LOCK = "_vit-hybrid.lock"

MEGABYTE = 10**6
# How the libraries that write put it when there is no room: safetensors, torch.save (by the place in its file that it
# had come to), what is written in C++ (OpenVINO), protobuf (ONNX).
WORDS_OF_FULL_DISKS = (
    "No space left",
    "File too large",
    "Disk quota exceeded",
    "PytorchStreamWriter",
    "inline_container",
    "file write failed",
    "iostream error",
    "basic_ios::clear",
)
_HALF_OF_A_CHARACTER = re.compile("[\ud800-\udfff]")


def is_marked(folder: str | os.PathLike[str]) -> bool:
    """Whether this package wrote the folder, or is writing into it, so that what is in it is not data."""
    if os.path.exists(os.path.join(folder, MARK)):
        return True
    return os.path.exists(os.path.join(folder, LOCK)) and not _holds_pictures(folder)


def mark(folder: str | os.PathLike[str], figures: Collection[str] = ()) -> None:
    """Marks a folder that this package writes into, unless it holds somebody's pictures, which would be lost as data.

    Args:
        folder: The folder, which has to exist.
        figures: The names of the pictures that this package itself writes into it.

    Raises:
        OSError: The mark cannot be written.
    """
    if not os.path.exists(os.path.join(folder, MARK)) and not _holds_pictures(folder, figures):
        with replacing(os.path.join(folder, MARK)) as unfinished:
            unfinished.write_text(MARK_TEXT, encoding="utf-8")


def _holds_pictures(folder: str | os.PathLike[str], figures: Collection[str] = ()) -> bool:
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
        NoRoom: There is no room for it.
        OSError: If the file cannot take the place of `path`.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with explaining_room(target):
            yield temporary
        temporary.replace(target)
    finally:
        with suppress(FileNotFoundError):  # as it is when all went well
            temporary.unlink()


def json_text(value: Any) -> str:
    r"""`value` as JSON, a line for each entry; odd bytes of names that are no UTF-8 become \xe9, as `escaped` does."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    # A backslash is written twice within JSON.
    return _HALF_OF_A_CHARACTER.sub(lambda half: escaped(half[0]).replace("\\", "\\\\"), text) + "\n"


class Locked(OSError):
    """Another process writes into a folder; the message is one line that says so."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a folder, which is made where it is not there, for this process alone; what dies lets go of it.

    Raises:
        Locked: Another process has it.
        OSError: The folder cannot be made or written to.
    """
    with made_parents(folder / LOCK):
        descriptor = _lock(folder)
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                (folder / LOCK).unlink()
            os.close(descriptor)


def _lock(folder: Path) -> int:
    """The descriptor of a folder's lock file, which this process has locked; processes that it forks have not."""
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(descriptor)
                raise Locked(
                    f"{shown(folder)}: another run is writing into this folder; wait until it has ended, or give "
                    "another folder."
                ) from error
            return descriptor  # a file system without locks
        # Whoever had the lock may have deleted the file since it was opened here; then that lock keeps nobody out.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


class NoRoom(OSError):
    """A file cannot be written for want of room; the message is one line that says so."""


@contextmanager
def explaining_room(path: str | os.PathLike[str]) -> Iterator[None]:
    """Says in one line that `path` cannot be written for want of room, in whatever words a library says it.

    Raises:
        NoRoom: There is none.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, NoRoom) or not lacks_room(error):
            raise
        raise NoRoom(
            f"{shown(path)}: the disk is full ({one_line(why_unwritten(error))}{free_room(Path(path))}); make room, or "
            "give a place on another disk."
        ) from error


def lacks_room(error: BaseException) -> bool:
    """Whether a file could not be written for want of room, in the words of the several libraries that write."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    text = str(error)
    return any(words in text for words in WORDS_OF_FULL_DISKS)


def why_unwritten(error: BaseException) -> str:
    """Why a file could not be written, in words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = one_line(error)
    return text if "No space left" in text else f"the disk is full or fails: {text}"


def free_room(path: Path) -> str:
    """How much room there is where a path is, as the end of a sentence."""
    try:
        return f"; {shutil.disk_usage(nearest_existing(path)).free / MEGABYTE:,.1f} MB free"
    except OSError:  # the disk is gone
        return ""


def nearest_existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


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


__all__ = [
    *("MARK", "Locked", "NoRoom", "checksum", "explaining_room", "free_room", "is_marked", "json_text", "lacks_room"),
    *("locked", "made_parents", "mark", "nearest_existing", "replacing", "why_unwritten"),
]

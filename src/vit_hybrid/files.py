"""Files and folders that are complete or not there at all."""

from __future__ import annotations

import errno
import hashlib
import json
import mimetypes
import os
import platform
import re
import secrets
import shutil
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from .errors import LFS_POINTER, UNFETCHED, escaped, one_line, shown

try:
    import fcntl
except ImportError:  # Windows, where two runs into one folder are not told from each other
    fcntl = None  # type: ignore[assignment]

# The mark of a folder that this package wrote: the pictures and tables in it are results and not data, so those who
# look for data pass over it. Its name and its text are for the person who comes upon it.
MARK = "written-by-vit-hybrid.txt"
# Where all files but those that begin so are read as rows: by pyarrow, DuckDB and Spark.
MARK_AMONG_ROWS = f"_{MARK}"
MARKS = (MARK, MARK_AMONG_ROWS)
MARK_TEXT = "vit-hybrid wrote this folder and does not look for pictures in it, unless it is named itself.\n"

# What a folder that a run writes into holds meanwhile, so that another run is told from it. What starts with "_" is not
# uploaded by Trainer.
LOCK = "_vit-hybrid.lock"

MEGABYTE = 10**6
FULL_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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

# What is unfinished lies beside its place as `.NAME.PID.HOST.partial`. The number of the process and the machine tell
# what a killed one left behind from what another is writing now, which may be on another machine that sees this folder.
HOST = f"{zlib.crc32(os.fsencode(platform.node())):08x}"
# Of a name, so that what is added to it fits into the 255 bytes that file systems allow.
MOST_NAME_BYTES = 200
# Others may put something where a folder is to go; so often it is tried to get it there.
MOST_TRIES = 4
# Nobody executes what is written here.
READ_AND_WRITE = 0o666


def why_no_model_place(out: str | os.PathLike[str]) -> str | None:
    """One line that says why no model is to be written there, of which the weights could not be read: its name."""
    if escaped(os.fspath(out)) == os.fspath(out):
        return None
    return f"{shown(out)}: this name is no UTF-8, and no weights can be read from it; give another"


def is_marked(folder: str | os.PathLike[str]) -> bool:
    """Whether this package wrote the folder, or is writing into it, so that what is in it is not data."""
    if any(os.path.exists(os.path.join(folder, name)) for name in MARKS):
        return True
    return os.path.exists(os.path.join(folder, LOCK)) and not _holds_pictures(folder)


def mark(folder: str | os.PathLike[str], figures: Collection[str] = (), name: str = MARK) -> None:
    """Marks a folder that this package writes into, unless it holds somebody's pictures, which would be lost as data.

    Args:
        folder: The folder, which has to exist.
        figures: The names of the pictures that this package itself writes into it.
        name: What the mark is called.

    Raises:
        OSError: The mark cannot be written.
    """
    if not os.path.exists(os.path.join(folder, name)) and not _holds_pictures(folder, figures):
        with replacing(os.path.join(folder, name)) as unfinished:
            unfinished.write_text(MARK_TEXT, encoding="utf-8")


def _holds_pictures(folder: str | os.PathLike[str], figures: Collection[str] = ()) -> bool:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_marked(os.path.join(place, name))]
        for name in names:
            kind, _ = mimetypes.guess_type(name)
            if name not in figures and kind is not None and kind.startswith("image/"):
                return True
    return False


def unfetched(path: str | os.PathLike[str]) -> str | None:
    """What to say of a file that Git LFS did not fetch, after its name; None for any other."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return None
    try:
        with open(path, "rb") as file:
            return UNFETCHED if file.read(len(LFS_POINTER)) == LFS_POINTER else None
    except OSError:
        return None


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
    _sweep(target, target.parent)
    temporary = _beside(target, target.parent, "partial")
    try:
        with explaining_room(target):
            yield temporary
        temporary.replace(target)
    finally:
        _remove(temporary)


@contextmanager
def whole_folder(
    out: str | os.PathLike[str],
    existing: Literal["refuse", "replace", "fill"] = "refuse",
    *,
    keep: Callable[[], bool] = lambda: False,
    last: str | None = None,
    stale: Collection[str] = (),
) -> Iterator[Path]:
    """A hidden empty folder to write to, whose content is at `out` once the block has ended without an error.

    Until then `out` is as it was, and it is again where anything fails: what is half written goes, folders that were
    made for it go, and what was there before comes back. What a killed process left is swept by the next who writes
    there. All files may be read by whoever may read a new one; safetensors' would be for their owner alone.

    Args:
        out: The folder; those that it lies in are made.
        existing: What becomes of a folder that is there and not empty. "replace" puts the new one in its place; "fill"
            puts the new files among the old ones, one after the other.
        keep: Asked where something has come to lie at `out`, before it is replaced: whether it is to stay.
        last: With "fill", the name of the file that goes first and comes last: no folder that has it is half filled.
        stale: With "fill", patterns of old files that go, whether or not a new one of their name comes.

    Raises:
        FileExistsError: If `out` is not empty, and to be refused.
        NoRoom: There is no room for it.
        OSError: If it cannot be written. Its file, and what other errors say, is what would be at `out`.
    """
    target = Path(os.path.realpath(out))
    with made_parents(target):
        is_filled = existing == "fill" and target.is_dir()
        # Nothing takes the place of a mount, and nothing is written beside what alone may be written to.
        is_bound = os.path.ismount(target) or not os.access(target.parent, os.W_OK)
        is_filled |= target.is_dir() and is_bound and not any(target.iterdir())
        home = target if is_filled else target.parent
        _sweep(target, home)
        if existing == "refuse" or not target.is_dir():
            _refuse_taken(target)
        unfinished = _beside(target, home, "partial")
        try:
            with explaining_room(out):
                unfinished.mkdir()
                yield unfinished
            mode = unfinished.stat().st_mode & READ_AND_WRITE
            for path in unfinished.rglob("*"):
                if path.is_file():
                    path.chmod(mode)
            if is_filled:
                _fill(unfinished, target, last, stale)
            else:
                _settle(unfinished, target, existing, keep)
        except Exception as error:
            _name_as_asked(error, str(unfinished), os.fspath(out))
            raise
        finally:
            _remove(unfinished)


def _refuse_taken(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(errno.EEXIST, "is there already, and not empty", str(target))


def _settle(unfinished: Path, target: Path, existing: str, keep: Callable[[], bool]) -> None:
    formers: list[Path] = []
    try:
        for tries_left in reversed(range(MOST_TRIES)):
            try:
                unfinished.rename(target)  # takes the place of an empty folder, and of no other
                break
            except OSError:
                if not tries_left:
                    raise
            if existing != "replace" or not target.is_dir():
                _refuse_taken(target)
            if keep():
                break
            # Moved away first: whoever has its files open keeps them.
            former = _beside(target, target.parent, "former")
            with suppress(FileNotFoundError):  # another has moved it away
                target.rename(former)
                formers.append(former)
    except BaseException:
        if formers and not target.exists():
            formers[0].rename(target)
        raise
    for former in formers:
        _discard(former, target, target.parent)


def _fill(unfinished: Path, target: Path, last: str | None, stale: Collection[str]) -> None:
    new = sorted(unfinished.iterdir(), key=lambda path: (path.name == last, path.name))
    old = {path.name for pattern in stale for path in target.glob(pattern)}
    old |= {path.name for path in new if os.path.lexists(target / path.name)}
    aside = _beside(target, target, "replaced")
    aside.mkdir()
    try:
        for name in sorted(old, key=lambda name: (name != last, name)):
            (target / name).rename(aside / name)
        for path in new:
            path.rename(target / path.name)
    except BaseException:
        for path in new:
            if not os.path.lexists(path) and os.path.lexists(target / path.name):
                (target / path.name).rename(path)
        _restore(aside, target)
        raise
    _discard(aside, target, target)


def _restore(aside: Path, target: Path) -> None:
    for path in aside.iterdir():
        path.replace(target / path.name)
    aside.rmdir()


def _discard(former: Path, target: Path, home: Path) -> None:
    """Deletes what has been replaced. It changes its name first: a later sweep must not take it for what is missed."""
    doomed = _beside(target, home, "partial")
    with suppress(OSError):
        former.rename(doomed)
        _remove(doomed)


def _beside(target: Path, home: Path, kind: str) -> Path:
    stem = os.fsdecode(os.fsencode(target.name)[:MOST_NAME_BYTES])
    return home / f".{stem}.{os.getpid()}.{HOST}{secrets.token_hex(2)}.{kind}"


def _sweep(target: Path, home: Path) -> None:
    """Removes what killed processes left half written for `target`, and brings back what they had moved away."""
    stem = os.fsdecode(os.fsencode(target.name)[:MOST_NAME_BYTES])
    pattern = re.compile(rf"\.{re.escape(stem)}\.(\d+)(?:\.(\w{{8}})\w{{4}})?\.(partial|former|replaced)", re.DOTALL)
    with suppress(OSError):  # a folder that cannot be listed can still be written to
        for name in os.listdir(home):
            match = pattern.fullmatch(name)
            if match is None or match[2] not in (None, HOST) or _is_alive(int(match[1])):
                continue
            left = home / name
            if match[3] == "former" and not target.exists():
                left.rename(target)
            elif match[3] == "replaced":
                _restore(left, target)
            else:
                _remove(left)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _name_as_asked(error: Exception, written: str, asked: str) -> None:
    """Lets an error say the name that was given where it says the one that was written to."""
    error.args = tuple(one.replace(written, asked) if isinstance(one, str) else one for one in error.args)
    if isinstance(error, OSError) and isinstance(error.filename, str):
        error.filename = error.filename.replace(written, asked)


def json_text(value: Any, allow_nan: bool = True) -> str:
    r"""`value` as JSON, a line for each entry; odd bytes of names that are no UTF-8 become \xe9, as `escaped` does."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=allow_nan)
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
        if not lacks_room(error) or isinstance(error, NoRoom):
            raise
        why = f"{_systems_words(error)}{free_room(Path(path))}".removeprefix("; ")
        raise NoRoom(
            f"{shown(path)}: the disk is full{why and f' ({why})'}; make room, or give a place on another disk."
        ) from error


def require_room(folder: Path, size: int) -> None:
    """Finds out whether a file of so many bytes can be written into a folder, where the system can tell.

    Raises:
        NoRoom: It cannot.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    path = folder / f".room.{os.getpid()}"
    try:
        with explaining_room(folder), path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if isinstance(error, NoRoom):
            raise
    finally:
        path.unlink(missing_ok=True)


def lacks_room(error: BaseException) -> bool:
    """Whether a file could not be written for want of room, in the words of the several libraries that write."""
    if isinstance(error, NoRoom):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL_DISKS
    text = str(error)
    return any(words in text for words in WORDS_OF_FULL_DISKS)


def why_unwritten(error: BaseException) -> str:
    """Why a file could not be written, in words."""
    if isinstance(error, NoRoom) and error.__cause__ is not None:
        error = error.__cause__
    return _systems_words(error) or ("the disk is full" if lacks_room(error) else f"the disk fails: {one_line(error)}")


def _systems_words(error: BaseException) -> str:
    """What the system says of an error; empty where a library says it in words of its code alone."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    return next((os.strerror(number) for number in FULL_DISKS if os.strerror(number) in text), "")


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
    made: list[Path] = []
    try:
        for parent in reversed([parent for parent in out.absolute().parents if not parent.exists()]):
            try:
                parent.mkdir()
            except FileExistsError:
                if not parent.is_dir():  # else another has made it meanwhile
                    raise
            else:
                made.append(parent)
        yield
    except BaseException:
        with suppress(OSError):
            for parent in reversed(made):
                parent.rmdir()
        raise


__all__ = [
    *("MARK", "MARKS", "MARK_AMONG_ROWS", "Locked", "NoRoom", "checksum", "explaining_room", "free_room", "is_marked"),
    *("json_text", "lacks_room", "locked", "made_parents", "mark", "nearest_existing", "replacing", "require_room"),
    *("unfetched", "whole_folder", "why_no_model_place", "why_unwritten"),
]

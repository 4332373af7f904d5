"""What an error says, as one line for the person at the keyboard."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

# No message is longer: what is cut out of its middle, a person would not have read.
MOST_CHARACTERS = 480
# Of one name within a message, such as a path or a label.
MOST_OF_A_NAME = 200
CUT = " ... "

# What Git LFS leaves in place of a file that was not fetched starts with, and what to say of it, after its name.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
UNFETCHED = "is a Git LFS pointer, which only stands for the file; git lfs pull, where it was cloned, gets the file"


def one_line(error: object) -> str:
    """The text of an error, its white space folded, as `escaped` and as short as `shortened`; what kind of error it is,
    where it has no text."""
    return shortened(escaped(" ".join(str(error).split()))) or type(error).__name__


def escaped(text: str) -> str:
    r"""`text` as every Unicode encoding can write it: in a name that is no UTF-8, odd bytes become \xe9."""
    whole = _HALF.sub(lambda half: half[0].encode("utf-8", "backslashreplace").decode(), text)
    return whole.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """`text`, or its beginning and its end where it has more than `most` characters."""
    if len(text) <= most:
        return text
    end = (most - len(CUT)) // 2
    return text[: most - len(CUT) - end] + CUT + text[-end:]


def shown(name: object, most: int = MOST_OF_A_NAME) -> str:
    """A path, a label or the like as a message has it: on one line, `escaped` and of at most so many characters."""
    return shortened(escaped(" ".join(str(name).split())), most)


# Halves of a character that no file name has, but JSON can; odd bytes of a name lie between these.
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")

# How `argument` calls the arguments of the functions that raise, None in a program of somebody's own; and in a thread.
_options: Mapping[str, str] | None = None
_of_thread = threading.local()


def argument(name: str, value: object = None) -> str:
    """What a message calls an argument: as it is written in Python, or as the option of the command that was typed.

    Args:
        name: The argument's name.
        value: What to give it; of a flag True.
    """
    options = getattr(_of_thread, "options", _options)
    if options is None:
        return name if value is None else f"{name}={value!r}"
    option = options.get(name, "--" + name.replace("_", "-"))
    return option if value is None or value is True else f"{option} {value}"


@contextmanager
def options_named(deviating: Mapping[str, str] | None = None) -> Iterator[None]:
    """While this lasts, `argument` names options, in all threads: `--label-column` instead of `label_column`.

    Args:
        deviating: The options that are not called as their argument is, by the argument's name.
    """
    global _options
    before, _options = _options, dict(deviating or {})
    try:
        yield
    finally:
        _options = before


@contextmanager
def options_named_in_this_thread() -> Iterator[None]:
    """`options_named` for this thread alone, where others may be in the midst of something else."""
    if hasattr(_of_thread, "options"):
        yield
        return
    _of_thread.options = {}
    try:
        yield
    finally:
        del _of_thread.options


def reason(error: BaseException) -> str:
    """The text of an error on one line; one of the file system's as the file and what is the matter with it."""
    if isinstance(error, OSError) and error.filename is not None:
        name = error.filename
        return one_line(f"{os.fsdecode(name) if isinstance(name, bytes) else name}: {error.strerror}")
    return one_line(error)


def needs(what: str, packages: Iterable[str], extra: str | None) -> str:
    """What to say where packages are missing: what wants them, and which extra of this package brings them."""
    return f"{what} needs {', '.join(packages)}, not installed here; pip install 'vit-hybrid[{extra}]' brings it."


class JobStopped(RuntimeError):
    """A job that began and cannot go on; the message is one line that says why, and what is kept.

    Attributes:
        concerns_all: Whether all processes of the job on this machine find out alike, so that one of them says it.
        signal: The signal that asked for its end, None where none did.
    """

    concerns_all = True
    signal: int | None = None


class EngineError(ValueError):
    """A model that an engine cannot convert, load or run; the message is one line that says why and what to do."""


class EngineWarning(UserWarning):
    """What an engine does otherwise than was asked for, or less well than it could; one line that says why."""


__all__ = [
    *("LFS_POINTER", "UNFETCHED"),
    *("EngineError", "EngineWarning", "JobStopped", "argument", "escaped", "needs", "one_line", "options_named"),
    *("options_named_in_this_thread", "reason", "shortened", "shown"),
]

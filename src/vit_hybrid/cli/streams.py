"""Where a command's answer goes, and what it says beside it.

While a command runs it has streams of its own (`own_streams`), so that nothing else can mix with what it shows.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ..errors import escaped, shortened

# The streams of the running command; outside of one they are Python's.
_own: dict[str, TextIO | None] = {}
# Lines for standard error that wait for a spinner to end.
_held: list[str] | None = None
# What kept standard output from being written to, while files are finished all the same; None where it ends a command.
_lost: list[Exception] | None = None


def standard_output() -> TextIO | None:
    """Where a command's answer goes; None where nobody takes it."""
    return _own.get("stdout", sys.stdout)


def standard_error() -> TextIO | None:
    """Where what a command says beside its answer goes; None where nobody takes it."""
    return _own.get("stderr", sys.stderr)


@contextmanager
def own_streams() -> Iterator[None]:
    """Standard output and error for the command alone: what libraries write there, C libraries included, is dropped."""
    shared = {"stdout": sys.stdout, "stderr": sys.stderr}
    kept: dict[int, int] = {}
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        try:
            for name, stream in shared.items():
                _own[name] = _apart(stream, is_answer=name == "stdout", kept=kept)
            for descriptor in kept:
                os.dup2(nowhere.fileno(), descriptor)
            sys.stdout = sys.stderr = nowhere
            yield
        finally:
            sys.stdout, sys.stderr = shared.values()
            for name, stream in shared.items():
                own = _own.pop(name, None)
                if own is not None and own is not stream:
                    with suppress(OSError):  # what could not be written has been told of, or cannot be
                        own.close()
            for descriptor, copy in kept.items():
                os.dup2(copy, descriptor)
                os.close(copy)


def _apart(stream: TextIO | None, is_answer: bool, kept: dict[int, int]) -> TextIO | None:
    """`stream` under a descriptor of its own; itself where it is no file, as in a test."""
    if stream is None:
        return None
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return stream
    with suppress(OSError):
        stream.flush()
    if descriptor not in kept:  # both streams may be one file
        kept[descriptor] = os.dup(descriptor)
    raw = (io.FileIO if is_answer else _Unfailing)(os.dup(descriptor), "w")
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=True)


class _Unfailing(io.FileIO):
    """A file for what is said beside the answer: where it cannot be said, the answer is given all the same."""

    has_failed = False

    def write(self, data: Any) -> int:
        try:
            super().write(data)
        except OSError:
            self.has_failed = True
        return len(data)


def is_heard() -> bool:
    """Whether all that was said beside the answer could be written."""
    stream = standard_error()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return stream is not None and not getattr(raw, "has_failed", False)


def take_the_place_of_closed_streams() -> None:
    """Opens the standard streams that were closed at the start: a file that is opened later would get their numbers,
    and what is printed with it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest number that is free is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR if descriptor == 2 else os.O_RDONLY), True)
    if sys.stdout is None:  # to which nothing can be written, so that an answer is not lost without a word
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees what is written to a stream as it comes."""
    return stream is not None and stream.isatty()


class OutputError(Exception):
    """Standard output cannot be written to, for another reason than that nobody reads it."""


def write(text: str) -> None:
    """Writes to standard output, at once; a failure ends the command through `ending_quietly`, or see `files_first`."""
    if _lost:
        return
    stream = standard_output()
    try:
        if stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        stream.write(text)
        stream.flush()
    except OSError as error:
        problem = error if isinstance(error, BrokenPipeError) else OutputError(unwritable(error))
        if _lost is None:
            raise problem from None
        _lost.append(problem)


@contextmanager
def files_first() -> Iterator[None]:
    """Lets a command finish the files that its answer is in, too, where standard output cannot be written to, and ends
    it behind them as `write` would have at once."""
    global _lost
    before, _lost = _lost, []
    try:
        yield
        lost = _lost
    finally:
        _lost = before
    if lost:
        raise lost[0]


def unwritable(error: OSError) -> str:
    """Why standard output cannot be written to."""
    return f"cannot write to standard output: {'it is closed' if error.errno == errno.EBADF else error.strerror}"


def write_json(record: Mapping[str, Any]) -> None:
    """One record as one line of JSON on standard output; what is no number is null there."""
    write(json.dumps(_as_json(record), allow_nan=False, default=str) + "\n")


def _as_json(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _as_json(one, name) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return shortened(value) if key == "error" and isinstance(value, str) else value


def complain(line: str) -> None:
    """One line on standard error, once a spinner has made way for it; nobody who cannot be told is told."""
    text = f"vit-hybrid: {shortened(printable(line))}"
    if _held is None:
        say(text)
    else:
        _held.append(text)


@contextmanager
def holding_back() -> Iterator[None]:
    """Keeps lines back until the block is through."""
    global _held
    held: list[str] = []
    _held = held
    try:
        yield
    finally:
        _held = None
        for text in held:
            say(text)


def say(line: str) -> None:
    """A line on standard error as it is."""
    stream = standard_error()
    if stream is None:
        return
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except OSError:
        abandon(stream)


def abandon(stream: TextIO | None) -> None:
    """Keeps the interpreter from trying, and failing, to flush what is left when it exits."""
    if stream is None:
        return
    with suppress(OSError, ValueError):  # it is no file, as in a test
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def printable(text: str) -> str:
    """`text` on one line, with what would move a terminal's cursor, or cannot be encoded, written as an escape."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in escaped(text)  # odd bytes of a name as messages have them: \xe9
    )


__all__ = [
    "OutputError",
    "abandon",
    "complain",
    "files_first",
    "holding_back",
    "is_heard",
    "is_terminal",
    "own_streams",
    "printable",
    "say",
    "standard_error",
    "standard_output",
    "take_the_place_of_closed_streams",
    "unwritable",
    "write",
    "write_json",
]

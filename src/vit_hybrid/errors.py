"""What an error says, as one line for the person at the keyboard."""

from __future__ import annotations

import os
from collections.abc import Iterable


def one_line(error: object) -> str:
    """The text of an error, its white space folded; what kind of error it is, where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def reason(error: BaseException) -> str:
    """The text of an error on one line; one of the file system's as the file and what is the matter with it."""
    if isinstance(error, OSError) and error.filename is not None:
        name = error.filename
        return f"{os.fsdecode(name) if isinstance(name, bytes) else name}: {error.strerror}"
    return one_line(error)


def needs(what: str, packages: Iterable[str], extra: str | None) -> str:
    """What to say where packages are missing: what wants them, and which extra of this package brings them."""
    return f"{what} needs {', '.join(packages)}, not installed here; pip install 'vit-hybrid[{extra}]' brings it."


class EngineError(ValueError):
    """A model that an engine cannot convert, load or run; the message is one line that says why and what to do."""


class EngineWarning(UserWarning):
    """What an engine does otherwise than was asked for, or less well than it could; one line that says why."""


__all__ = ["EngineError", "EngineWarning", "needs", "one_line", "reason"]

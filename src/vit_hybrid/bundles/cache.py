"""Where converted models are kept between runs.

An entry is a bundle in a folder that its key names. It is written beside its place and moved there when it is whole, so
that nobody finds half of one and two processes that convert at once do not spoil each other's: the second finds the
place taken and uses what is there. An entry whose files are not those that were written is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError, one_line
from ..files import lacks_room, whole_folder, why_unwritten
from .manifest import Bundle, read_bundle

# The variable that names another folder; by default `vit-hybrid` in the user's cache folder.
CACHE_VARIABLE = "VIT_HYBRID_CACHE"
KEY_LENGTH = 32  # hexadecimal digits, of SHA-256's 64


# A folder that takes the place of all that, while `elsewhere` lasts.
_instead: ContextVar[Path | None] = ContextVar("instead", default=None)


class CacheUnusable(Exception):
    """An entry cannot be kept; the message says where and why."""


@dataclass(frozen=True)
class Entry:
    """A bundle in the cache.

    Attributes:
        folder: Where it is.
        bundle: What it says of itself.
    """

    folder: Path
    bundle: Bundle


def cache_folder() -> Path:
    """The folder that `VIT_HYBRID_CACHE` names, else `vit-hybrid` in `XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        CacheUnusable: If none of them says where, as for a user whom the system does not know.
    """
    instead = _instead.get()
    if instead is not None:
        return instead
    named = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            return Path(named).expanduser()
        return (Path(base) if base else Path("~/.cache").expanduser()) / "vit-hybrid"
    except RuntimeError as error:
        raise CacheUnusable(
            f"there is no home folder to keep converted models in ({CACHE_VARIABLE} names another place)"
        ) from error


@contextmanager
def elsewhere(folder: Path) -> Iterator[None]:
    """Keeps what is converted in another folder while this lasts, such as one that goes in the end."""
    before = _instead.set(folder)
    try:
        yield
    finally:
        _instead.reset(before)


def key_of(parts: Mapping[str, Any]) -> str:
    """A name for what `parts`, values that JSON can hold, have made."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def find(key: str, weights_sha256: str) -> Entry | None:
    """The entry of that key, if it is there, whole, and from those weights."""
    try:
        folder = cache_folder() / key
        if not folder.is_dir():
            return None
        bundle = read_bundle(folder)
    except (CacheUnusable, EngineError, OSError):
        return None
    return Entry(folder, bundle) if bundle.provenance.get("weights_sha256") == weights_sha256 else None


def keep(key: str, weights_sha256: str, write: Callable[[Path], object]) -> Entry:
    """Keeps what `write` writes into a folder as the entry of that key.

    Args:
        key: The entry's name.
        weights_sha256: The weights that it is from.
        write: Writes a bundle into the empty folder it is given.

    Returns:
        The entry: this one, or one that another process kept meanwhile.

    Raises:
        CacheUnusable: If the folder cannot be written to, or has no room; nothing is left behind then.
    """
    place = cache_folder()
    try:
        place.mkdir(parents=True, exist_ok=True)  # for all entries: it stays where this one fails
        # Another's entry stays, if it is sound; half of one, or a damaged one, is replaced.
        with whole_folder(place / key, "replace", keep=lambda: find(key, weights_sha256) is not None) as unfinished:
            write(unfinished)
            read_bundle(unfinished)
        return Entry(place / key, read_bundle(place / key, check_files=False))
    except (OSError, RuntimeError, EngineError) as error:
        if lacks_room(error):
            reason = why_unwritten(error)  # in our words where a library says it in words of its code
        else:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise CacheUnusable(f"the cache folder {place} cannot be written to ({reason})") from error


__all__ = ["CACHE_VARIABLE", "CacheUnusable", "Entry", "cache_folder", "elsewhere", "find", "keep", "key_of"]

"""Who may ask: the file of keys, and how many pictures each may send. Standard library only."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import reason, shown

SHORTEST_KEY = 16
MINUTE = 60.0
EXPECTED = "a line is: NAME KEY [quota=PICTURES-A-MINUTE] [admin]"


@dataclass
class Key:
    """Somebody who may ask.

    Attributes:
        name: What logs call them.
        digest: SHA-256 of the key.
        quota: Pictures a minute; None for any number.
        is_admin: Whether they may reload the model.
    """

    name: str
    digest: bytes
    quota: int | None
    is_admin: bool
    _left: float = field(default=math.inf)
    _at: float = -math.inf

    def wait_for(self, pictures: int, now: float) -> float:
        """Seconds until they may send so many pictures; 0.0 for now. Infinite where that is more than a minute's."""
        if self.quota is None:
            return 0.0
        if pictures > self.quota:
            return math.inf
        self._left = min(self.quota, self._left + (now - self._at) * self.quota / MINUTE)
        self._at = now
        return max(0.0, (pictures - self._left) * MINUTE / self.quota)

    def take(self, pictures: int) -> None:
        """Counts pictures that `wait_for` has let pass."""
        self._left -= pictures


class Keys:
    """The keys of a file, read again when it changes.

    Args:
        path: The file: on each line `NAME KEY [quota=PICTURES-A-MINUTE] [admin]`; what follows a `#` is a remark.
        quota: Of those whose line says nothing; None for any number.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has a line that is none, or no key at all.
    """

    def __init__(self, path: str, quota: int | None = None) -> None:
        self._path = Path(path).expanduser()
        self._quota = quota
        self._seen = self._state()
        self._keys = self._read()

    def find(self, given: bytes) -> Key | None:
        """Whose key this is. How long that takes says nothing of how much of it is right."""
        digest = hashlib.sha256(given).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def refresh(self) -> bool:
        """Reads the file again where it changed; what each key has left of its quota stays.

        Returns:
            Whether there was anything to read.

        Raises:
            OSError: The file cannot be read; the keys stay as they were.
            ValueError: It has a line that is none; likewise.
        """
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        before = {key.digest: key for key in self._keys}
        fresh = self._read()
        for key in fresh:
            old = before.get(key.digest)
            if old is not None and old.quota is not None:
                key._left, key._at = old._left, old._at
        self._keys = fresh
        return True

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._path)  # of what a link leads to, as Kubernetes changes its secrets
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> list[Key]:
        keys: dict[bytes, Key] = {}
        try:
            lines = self._path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{shown(self._path)} is no text in UTF-8; {EXPECTED}") from None
        for number, line in enumerate(lines, start=1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            key = self._parsed(words, f"{shown(self._path)}, line {number}")
            keys[key.digest] = key
        if not keys:
            raise ValueError(f"{shown(self._path)} has no keys; {EXPECTED}")
        return list(keys.values())

    def _parsed(self, words: list[str], place: str) -> Key:
        name, secret, *others = (*words, "") if len(words) == 1 else words
        if len(secret) < SHORTEST_KEY:  # which a message does not repeat
            raise ValueError(f"{place} has no key of {SHORTEST_KEY} characters or more; {EXPECTED}")
        quota, is_admin = self._quota, False
        for word in others:
            if word == "admin":
                is_admin = True
            elif word.startswith("quota=") and word[6:].isdecimal() and int(word[6:]) > 0:
                quota = int(word[6:])
            else:
                raise ValueError(f"{place} has a word that is neither a quota nor admin; {EXPECTED}")
        return Key(name, hashlib.sha256(secret.encode()).digest(), quota, is_admin)


def opened_keys(path: str | None, quota: int | None) -> Keys | None:
    """The keys of a file; None without one.

    Raises:
        ValueError: The file cannot be read, or has a line that is none, or no key at all.
    """
    if path is None:
        return None
    try:
        return Keys(path, quota)
    except OSError as error:
        raise ValueError(reason(error)) from error


__all__ = ["Key", "Keys", "opened_keys"]

"""Files that are complete or not there at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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


__all__ = ["replacing"]

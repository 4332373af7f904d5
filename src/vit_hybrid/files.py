"""Files and folders that are complete or not there at all."""

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


__all__ = ["made_parents", "replacing"]

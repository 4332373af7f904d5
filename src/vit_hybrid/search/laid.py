"""What is laid beside an index to search it faster: files that are whole or not there, and say what they were made of.

Such a file is what its library reads, and behind it a note in JSON. One file cannot be at odds with itself, as a file
and a note beside it can when a process is killed between the two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..files import replacing
from ..outputs.vectors import HIDDEN

# The file ends with the note's length and this word.
WORD = b"vit-hybrid note\n"
LENGTH_BYTES = 8
# The note of an index of a million parts would be smaller.
MOST_NOTE_BYTES = 2**28


def place_beside(index: Path, name: str) -> Path:
    """Where a file of this name lies: in the index's folder; for an index of one file beside it, called after it."""
    hidden = HIDDEN[0]  # which readers of parquet pass over
    return index / f"{hidden}{name}" if index.is_dir() else index.with_name(f"{hidden}{index.stem}.{name}")


def state_of(parts: Sequence[Path]) -> list[list[Any]]:
    """The name, the size and the time of the last change of each file, for telling whether one is another now."""
    about = [(path.name, path.stat()) for path in parts]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in about]


@contextmanager
def laying(path: Path, note: Mapping[str, Any]) -> Iterator[BinaryIO]:
    """A file to write to, which lies at `path`, with the note behind it, once the block has ended without an error.

    Args:
        path: Where.
        note: May get its entries while the block runs.

    Raises:
        OSError: It cannot be written; `files.NoRoom` for want of room.
    """
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        yield file
        text = json.dumps(note).encode()
        file.seek(0, os.SEEK_END)  # a library may have written by the file's name
        file.write(text + len(text).to_bytes(LENGTH_BYTES, "little") + WORD)
        file.flush()
        os.fsync(file.fileno())


def note_of(path: Path) -> dict[str, Any] | None:
    """The note behind a file; None where there is no such file, or it has none."""
    end = LENGTH_BYTES + len(WORD)
    with suppress(OSError, ValueError), path.open("rb") as file:
        file.seek(-end, os.SEEK_END)
        tail = file.read()
        length = int.from_bytes(tail[:LENGTH_BYTES], "little")
        if tail[LENGTH_BYTES:] == WORD and length <= MOST_NOTE_BYTES:
            file.seek(-end - length, os.SEEK_END)
            note = json.loads(file.read(length))
            return note if isinstance(note, dict) else None
    return None


__all__ = ["laying", "note_of", "place_beside", "state_of"]

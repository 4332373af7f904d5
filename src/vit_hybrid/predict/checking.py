"""Whether what was done is still what it was: parts as they were written, pictures as they were read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..data.sources import SourceError
from ..data.streams import PictureStream
from ..data.streams.outlines import unit_name
from ..errors import argument, escaped, shown
from ..inference.shards import Shard
from .output import Output
from .rows import Columns, Row, decoded
from .work import stamp_of, unpacked


class SourceChanged(ValueError):
    """Pictures are no longer those whose rows were written; the message is one line that names the first."""


def damaged_parts(output: Output, stream: PictureStream, columns: Columns, looked: Callable[[int], object]) -> set[int]:
    """Walks through all that was done.

    Args:
        output: Where it lies.
        stream: The pictures.
        columns: Of the parts.
        looked: Called with the number of each shard that is as it was.

    Returns:
        The shards whose parts are not what was written, and have to be done again.

    Raises:
        SourceChanged: A picture's file is gone, or another one than when its row was written.
    """
    damaged: set[int] = set()
    stamps = output.manifest.stamps()
    for number, content in output.contents():
        if content is None:
            damaged.add(number)
            continue
        shard = output.manifest.state.shards[number]
        how = _difference(shard, stream, decoded(content, columns, output.form), unpacked(stamps[number]))
        if how is not None:
            raise SourceChanged(
                f"{shown(output.name)}: {how}. Bring back what was there, or begin anew "
                f"({argument('overwrite', True)})."
            )
        looked(number)
    return damaged


def _difference(shard: Shard, stream: PictureStream, rows: Sequence[Row], stamps: Sequence[int]) -> str | None:
    """How the pictures of a shard are other ones than its rows are of, in words; None where they are the same."""
    try:
        for row, was, entry in zip(rows, stamps, stream.read(shard.first, shard.count), strict=True):
            if escaped(entry.path) != row.path:
                return f"{shown(row.path)} is no longer where it was in the order of the source"
            if was and (now := stamp_of(entry)) != was:
                return f"{shown(row.path)} {'was written to' if now else 'is gone'} since its row was written"
    except (SourceError, ValueError) as error:
        return f"pictures are gone from {shown(unit_name(shard.first.unit).path)} ({error})"
    return None


__all__ = ["SourceChanged", "damaged_parts"]

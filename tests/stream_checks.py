"""What holds for the stream of any source."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Sequence
from pathlib import Path

from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import Entry, PictureStream, Range, open_stream


def names_in(stream: PictureStream) -> list[str]:
    return [entry.path for entry in stream.entries()]


def content_of(entry: Entry) -> bytes | str:
    """A picture's bytes, or what is wrong with it."""
    content = entry.content
    try:
        if isinstance(content, str):
            return Path(content).read_bytes()
        if callable(content):
            return content()
    except (SourceError, FileNotFoundError) as error:
        return str(error)
    return content if isinstance(content, bytes) else str(content)


def check_entry_anywhere(names: Sequence[str]) -> None:
    """The order is the same whoever opens it, may be left and entered at each place, and in ranges of any size."""
    stream = open_stream(names)
    whole = [(entry.path, entry.place, content_of(entry)) for entry in stream.entries()]
    assert len({place for _, place, _ in whole}) == len(whole)
    for start, (_, place, _) in enumerate(whole):
        other = pickle.loads(pickle.dumps(stream))
        place = tuple(json.loads(json.dumps(place)))
        rest = [(entry.path, entry.place, content_of(entry)) for entry in other.entries(place)]
        assert rest == whole[start + 1 :]
        for count in {1, 2, len(whole) - start}:
            if start + count <= len(whole):
                read = [(entry.path, entry.place, content_of(entry)) for entry in other.read(place, count)]
                assert read == whole[start : start + count]
    for size in {1, 3, len(whole)}:
        start = 0
        for found in open_stream(names).ranges(size):
            assert found.first == whole[start][1]
            units = json.loads(json.dumps(found.units))
            read = pickle.loads(pickle.dumps(stream)).read(found.first, found.rows, units)
            assert [(entry.path, entry.place, content_of(entry)) for entry in read] == whole[start : start + found.rows]
            start += found.rows
            assert found.last == whole[start - 1][1]
            assert found.rows == size or start == len(whole)
        assert start == len(whole)


def planned(names: Sequence[str], size: int) -> tuple[PictureStream, list[Range]]:
    """A stream that was gone through once."""
    stream = open_stream(names)
    return stream, list(stream.ranges(size))


def reopened(stream: PictureStream) -> PictureStream:
    """The stream as a later process opens it."""
    return open_stream(stream.names, json.loads(json.dumps(stream.outline())))


def wait_for_the_clock(folder: Path) -> None:
    """Waits until what is written is told by its time from what was."""
    probe = folder / ".probe"
    probe.touch()
    before = os.stat(probe).st_ctime_ns
    while os.stat(probe).st_ctime_ns == before:
        time.sleep(0.001)
        probe.touch()
    probe.unlink()

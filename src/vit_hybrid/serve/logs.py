"""The server's log: a JSON object a line, written by a thread of its own. Standard library only."""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

from ..errors import one_line

# Lines that wait to be written: where nobody reads the log, further ones are dropped, and requests do not wait.
MOST_WAITING = 1000
# What an absolute path has before the last of its names.
FOLDERS = re.compile(r"(?<![\w.:/])~?(?:/[^/\s:,;'\"]+)+/")


class Log:
    """Where the server says what happens.

    Args:
        stream: Where the lines go; None where nobody takes them.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(MOST_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, args=(stream,), name="log", daemon=True)
        if stream is not None:
            self._thread.start()

    def __call__(self, event: str, level: str = "info", **fields: Any) -> None:
        """Says that something happened; fields that are None are left out."""
        if self._stream is None:
            return
        try:
            self._waiting.put_nowait({"time": time.time(), "level": level, "event": event, **fields})
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Waits a moment for what is not yet written."""
        if self._stream is None:
            return
        with suppress(queue.Full):
            self._waiting.put(None, timeout=1)
            self._thread.join(timeout=1)

    def _write(self, stream: TextIO) -> None:
        while (line := self._waiting.get()) is not None:
            moment = datetime.fromtimestamp(line.pop("time"), UTC).isoformat(timespec="milliseconds")
            said = {name: value for name, value in line.items() if value is not None}
            dropped, self._dropped = self._dropped, 0
            if dropped:
                said["lines_dropped"] = dropped
            try:
                stream.write(json.dumps({"time": moment, **said}) + "\n")
                stream.flush()
            except (OSError, ValueError):  # whoever read the log is gone; the server is not
                self._stream = None
                return


class Sampler:
    """Lets so many lines of a kind pass in each second, and counts the others.

    Args:
        rate: Lines a second.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._second: dict[Any, int] = {}
        self._passed: dict[Any, int] = {}
        self._skipped: dict[Any, int] = {}

    def take(self, kind: Any, now: float) -> int | None:
        """How many lines of this kind were passed over since the last one; None where this one is to be."""
        second = int(now)
        if self._second.get(kind) != second:
            self._second[kind], self._passed[kind] = second, 0
        if self._passed[kind] >= self._rate:
            self._skipped[kind] = self._skipped.get(kind, 0) + 1
            return None
        self._passed[kind] += 1
        return self._skipped.pop(kind, 0)


def without_folders(text: object) -> str:
    """One line without the folders of the paths in it: `/home/ann/model/config.json` is `config.json`."""
    return FOLDERS.sub("", one_line(text))


__all__ = ["Log", "Sampler", "without_folders"]

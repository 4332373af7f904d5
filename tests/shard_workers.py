"""Workers without a model, for tests of those who drive them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from vit_hybrid.inference.shards import Shard


class Squares:
    """Squares a shard's number; dies or raises at those that it is told."""

    def __init__(self, dies: dict[int, int] | None = None, raises: int | None = None, notes: str = "") -> None:
        self._dies = dies or {}
        self._raises = raises
        self._notes = Path(notes)

    def facts(self) -> dict[str, Any]:
        return {"threads": os.environ.get("OMP_NUM_THREADS"), "process": os.getpid()}

    def work(self, shard: Shard) -> tuple[int, int]:
        print("what a library prints")
        if shard.number == self._raises:
            raise ValueError(f"shard {shard.number} is bad")
        if shard.number in self._dies:
            note = self._notes / f"{shard.number}.{os.getpid()}"
            note.touch()
            if len(list(self._notes.glob(f"{shard.number}.*"))) <= self._dies[shard.number]:
                os.kill(os.getpid(), signal.SIGKILL)
        return shard.number, shard.number**2


class Unstartable:
    """Cannot be made."""

    def __init__(self) -> None:
        raise OSError("no such model")


class Vanishing(Squares):
    """Is gone before it is ready."""

    def facts(self) -> dict[str, Any]:
        os._exit(7)


class Complaining(Squares):
    """Says why before it is gone."""

    def facts(self) -> dict[str, Any]:
        print("loading\nno  room for it\n", file=sys.stderr, flush=True)
        os._exit(9)


class Picky(Exception):
    """Cannot be made again of what it says."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Slow(Squares):
    """Waits in each shard after the second for a file, so that nodes can go meanwhile."""

    def __init__(self, folder: str, dies: dict[int, int] | None = None) -> None:
        super().__init__(dies, notes=folder)
        self._folder = Path(folder)

    def facts(self) -> dict[str, Any]:
        return {}

    def work(self, shard: Shard) -> tuple[int, int]:
        while shard.number > 1 and not (self._folder / "go").exists():
            time.sleep(0.05)
        return super().work(shard)


class Begun(Slow):
    """Leaves a note once it is in a shard."""

    def work(self, shard: Shard) -> tuple[int, int]:
        (self._folder / "begun").touch()
        return super().work(shard)

"""Memory that the server and its workers share: places for pictures that are ready for the model."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np


def shared_memory() -> int:
    """The descriptor of memory that another process can be given, still without a size; it has no name to be left over.

    It does not count towards the size of /dev/shm, which is 64 MB in a container. Where the system has no such memory
    (macOS), a file without a name stands in.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vit-hybrid", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Places:
    """Places in shared memory for pictures, (C, H, W) float32 each.

    Args:
        descriptor: From `shared_memory`; it stays the caller's.
        count: How many places.
        shape: (C, H, W).

    Attributes:
        pixels: (count, C, H, W), float32: all of them.
    """

    def __init__(self, descriptor: int, count: int, shape: tuple[int, ...]) -> None:
        size = count * int(np.prod(shape)) * np.dtype(np.float32).itemsize
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)
        self.pixels: np.ndarray[Any, np.dtype[np.float32]] = np.frombuffer(self._memory, np.float32).reshape(
            count, *shape
        )

    def batch(self, places: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(N, C, H, W): the pictures in these places. Those that follow each other are a batch as they stand."""
        is_range = list(places) == list(range(places[0], places[0] + len(places)))
        return self.pixels[places[0] : places[0] + len(places)] if is_range else self.pixels[list(places)]


__all__ = ["Places", "shared_memory"]

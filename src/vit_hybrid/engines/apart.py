"""PyTorch on a CPU with rows that do not depend on their place in a batch: each thread computes pictures of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from .protocol import Array


class ThreadsApart:
    """Runs shares of a batch side by side, each in one thread.

    Threads that share a product each take its rows in their own way (MKL's in float32 do), and which rows these are
    depends on the number of threads and of rows. Here each has a share of the pictures, all of the same number.
    """

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    def __call__(self, compute: Callable[[torch.Tensor], Sequence[Array]], values: torch.Tensor) -> Sequence[Array]:
        """What `compute` makes of `values` (N, ...), arrays (N, ...)."""
        threads = torch.get_num_threads()
        if threads == 1:
            return compute(values)
        share = -(-len(values) // threads)
        parts = list(values.split(share))
        parts[-1] = torch.cat([parts[-1], values.new_zeros(share - len(parts[-1]), *values.shape[1:])])
        if self._threads is None:
            self._threads = ThreadPoolExecutor(threads, "torch-engine", torch.set_num_threads, (1,))
        found = zip(*self._threads.map(compute, parts), strict=True)
        return [np.concatenate(one)[: len(values)] for one in found]


__all__ = ["ThreadsApart"]

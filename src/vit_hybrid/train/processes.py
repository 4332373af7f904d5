"""Several processes of one run: what they agree upon, and which of them speaks.

torchrun and accelerate launch start the same command in every process. What each finds out alone, before training, all
processes of a machine find out alike; the first of them says it. One process on its own notices nothing of this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

from ..errors import JobStopped, one_line


class ProcessFailed(JobStopped):
    """One process of several cannot go on, and the others need not know why; the message is one line."""

    concerns_all = False


class PeerLost(JobStopped):
    """Another process of the run has ended; the message is one line."""


def count() -> int:
    """How many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the process that reports and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def is_first_of_machine() -> bool:
    """Whether this is the process that says what all processes of its machine find out."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


@contextmanager
def joined(use_cpu: bool) -> Iterator[None]:
    """The processes know each other meanwhile; Trainer takes up the group that is there.

    Behind it all wait until the last is done, unless an error ends this one.

    Raises:
        PeerLost: Another process has ended meanwhile, so that a common step cannot be made.
    """
    if count() == 1 or distributed.is_initialized():
        yield
        return
    from accelerate import PartialState

    try:
        PartialState(cpu=use_cpu, backend="gloo" if use_cpu else None)
        yield
        distributed.barrier()
    except RuntimeError as error:
        # Gloo has no class of errors of its own.
        if not isinstance(error, distributed.DistError) and "gloo/" not in str(error):
            raise
        raise PeerLost(
            "another process of this run has ended; what it said, or what started it, tells why. --resume goes on "
            "from the last checkpoint"
        ) from error
    distributed.destroy_process_group()


def gathered(value: Any) -> list[Any]:
    """The values of all processes, by their number; all have to call this."""
    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def everywhere(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in all processes; all have to call this."""
    if not distributed.is_initialized():
        return flag
    flags = torch.tensor(flag, dtype=torch.int32, device=device)
    distributed.all_reduce(flags, distributed.ReduceOp.MIN)
    return bool(flags)


@contextmanager
def apart() -> Iterator[None]:
    """Names this process in errors meanwhile, as the processes compute different things and need not share them.

    Raises:
        ProcessFailed: In place of an error of the kind that a command reports.
    """
    if count() == 1:
        yield
        return
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise ProcessFailed(f"process {distributed.get_rank()} of {count()}: {one_line(error)}") from error


__all__ = [
    "PeerLost",
    "ProcessFailed",
    "apart",
    "count",
    "everywhere",
    "gathered",
    "is_first",
    "is_first_of_machine",
    "joined",
]

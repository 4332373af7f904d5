"""Bundles for the torch engine: programs that `torch.export` saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers.modeling_outputs  # noqa: F401 - the programs give one of its classes, which must be known to torch

from ..errors import EngineError, one_line
from ..images.preparing import Pixels
from ..runtimes import DTYPE_NAMES, OUTPUTS
from .apart import ThreadsApart
from .devices import take_threads
from .protocol import Array, LoadedEngine, Specification


class ExportedEngine(LoadedEngine):
    """A program of `torch.export` on the CPU.

    Args:
        program: Its `.pt2` file.
        spec: What the model takes and gives.
        precision: The one it was exported in.
        threads: How many to compute with, for this whole process; by default PyTorch's own number, at most the cores
            that the process may use.
        device: "cpu".

    Raises:
        EngineError: If PyTorch cannot load the program, or it is to run elsewhere.
    """

    name = "torch"

    def __init__(
        self,
        program: str | Path,
        spec: Specification,
        precision: str = "f32",
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        if device not in (None, "cpu"):
            raise EngineError(
                f"a torch bundle runs on device 'cpu', not {device!r}; load the model itself to run elsewhere."
            )
        take_threads(threads)
        self._apart = ThreadsApart()
        self.device = "cpu"
        self.spec = spec
        self.precision = precision
        try:
            self._module = torch.export.load(os.fspath(program)).module()
        except Exception as error:  # torch.export's errors are of many kinds
            raise EngineError(f"PyTorch cannot load this program: {one_line(error)[:200]}") from error

    def _checked(self, pixel_values: Pixels) -> Pixels:
        return torch.from_numpy(super()._checked(pixel_values))

    def _compute(self, values: torch.Tensor) -> Sequence[Array]:
        extra = {"interpolate_pos_encoding": True} if self.spec.dynamic else {}
        with torch.no_grad():
            batch = values.to(getattr(torch, DTYPE_NAMES[self.precision]))
            found = self._module(pixel_values=batch, **extra)
            return [found[name].float().numpy() for name in OUTPUTS[self.spec.output]]

    def _compute_steadily(self, values: torch.Tensor) -> Sequence[Array]:
        return self._apart(self._compute, values)


__all__ = ["ExportedEngine"]

"""Exported models on OpenVINO. Imports neither torch nor transformers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, EngineWarning, needs, one_line
from ..runtimes import OUTPUTS, RUNTIMES, fewer_cores, machine_cores, somewhere_at_home
from ..runtimes import openvino as load_openvino
from .compiled import KeptPrograms
from .protocol import PLACES, Array, LoadedEngine, Specification

ROW = RUNTIMES["openvino"]
CPU = ROW.devices["cpu"]
CRASHING = "GroupNormalization"


class OpenVINOEngine(LoadedEngine):
    """A model on OpenVINO's CPU plugin.

    Args:
        program: The `.xml` file of a model, or an `openvino.Model`.
        spec: What the model takes and gives.
        precision: One of the row's.
        threads: How many to compute with; all cores that the process may use by default.
        device: "cpu".
        batch_size: How many pictures will mostly go through at once. These get kernels for that number, which are
            faster; other numbers share a program that is compiled when they first come.
        checksums: SHA-256 of a bundle's files on disk, by their names, under which what is compiled is kept for the
            next start (`compiled`); None to keep nothing.

    Raises:
        EngineError: If OpenVINO is not installed, cannot read the program, or cannot compute in that precision.
    """

    name = ROW.name

    def __init__(
        self,
        program: Any,
        spec: Specification,
        precision: str = "f32",
        threads: int | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        checksums: Mapping[str, str] | None = None,
    ) -> None:
        self.check_device(device)
        try:
            with somewhere_at_home():
                load_openvino()
        except ImportError as error:
            raise EngineError(
                f"{needs('the openvino engine', [ROW.package], ROW.extra)} ({one_line(error)})"
            ) from error
        self.device = "cpu"
        self.spec = spec
        self.precision = precision
        core = shared_core()
        hint = ROW.hints[precision]
        capabilities = core.get_property(CPU, "OPTIMIZATION_CAPABILITIES")
        if hint == "f16" and "FP16" not in capabilities:
            raise EngineError(
                "this processor does not compute in float16; take bf16 or f32 on the CPU, or f16 with the torch engine."
            )
        if hint == "bf16" and "BF16" not in capabilities:
            hint = "f32"
            if precision == "bf16":
                warnings.warn(
                    EngineWarning("this processor has no bfloat16, so openvino computes in float32"), stacklevel=2
                )
                self.precision = "f32"
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        threads = threads or fewer_cores()
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
            # Else they are tied to the first cores, as are those of every other process that has a share of them.
            settings["ENABLE_CPU_PINNING"] = threads >= machine_cores()
        self._core, self._settings = core, settings
        try:
            self._kept = None if checksums is None else KeptPrograms(core, Path(program), checksums, settings)
            self._program = core.read_model(os.fspath(program)) if isinstance(program, str | Path) else program
            self._fixed: dict[int, Any] = {}  # requests by the number of pictures that they are for
            self._open: Any = None  # the one for other numbers
            if batch_size is not None and self._may_be_fixed():
                self.expect(batch_size)
            else:
                self._open = self._started()
        except Exception as error:  # OpenVINO raises RuntimeError with several lines
            raise EngineError(f"OpenVINO cannot load this model: {one_line(error)}") from error

    @staticmethod
    def check_device(device: str | None) -> None:
        """Raises `EngineError` where this engine does not run on a device."""
        if device not in (None, *ROW.devices):
            raise EngineError(
                f"the openvino engine runs on device 'cpu', not {device!r}; the torch engine runs elsewhere."
            )

    def _may_be_fixed(self) -> bool:
        """Whether kernels can be made for a number of pictures: OpenVINO 2026.4 then crashes on some programs with the
        operation for group norms (docs/measured.md, "What OpenVINO does not do")."""
        return not self.spec.dynamic and all(node.get_type_name() != CRASHING for node in self._program.get_ops())

    def expect(self, batch_size: int) -> None:
        if batch_size not in self._fixed and self._may_be_fixed():
            self._fixed[batch_size] = self._started(batch_size)

    def _started(self, count: int | None = None) -> Any:
        program = self._program
        if count is not None:
            program = program.clone()
            program.reshape({0: [count, self.spec.num_channels, *self.spec.image_size]})
        if self._kept is not None:
            return self._kept.compiled(program, count).create_infer_request()
        return self._core.compile_model(program, device_name=CPU, config=self._settings).create_infer_request()

    def _compute(self, values: Array) -> Sequence[Array]:
        request = self._fixed.get(len(values)) or self._open
        if request is None:
            request = self._open = self._started()
        request.infer([values], share_inputs=True)
        found = request.output_tensors
        return [np.array(found[PLACES[name]].data, np.float32) for name in OUTPUTS[self.spec.output]]


@cache
def shared_core() -> Any:
    """OpenVINO's `Core`, one for the whole process.

    Each gives the thread that makes it a stack of its own for signals, and at its end puts back the one that it found.
    If several end in the order in which they were made, the last puts back one that is gone, and the next signal
    (Ctrl-C, say) ends the process with a segmentation fault; OpenVINO 2026.4.
    """
    return load_openvino().Core()


__all__ = ["OpenVINOEngine", "shared_core"]

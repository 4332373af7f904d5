"""Exported models on OpenVINO. Imports neither torch nor transformers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, EngineWarning, needs, one_line
from ..runtimes import OUTPUTS, RUNTIMES, fewer_cores, machine_cores, somewhere_at_home
from .protocol import PLACES, Array, LoadedEngine, Specification

ROW = RUNTIMES["openvino"]
CPU = ROW.devices["cpu"]


class OpenVINOEngine(LoadedEngine):
    """A model on OpenVINO's CPU plugin.

    Args:
        program: The `.xml` file of a model, or an `openvino.Model`.
        spec: What the model takes and gives.
        precision: One of the row's.
        threads: How many to compute with; all cores that the process may use by default.
        device: "cpu".

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
    ) -> None:
        if device not in (None, *ROW.devices):
            raise EngineError(
                f"the openvino engine runs on device 'cpu', not {device!r}; the torch engine runs elsewhere."
            )
        try:
            with somewhere_at_home():
                import openvino  # noqa: F401
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
        try:
            # The number of pictures stays open: fixed to 1, OpenVINO 2026.4 crashes on the model in the package.
            model = core.read_model(os.fspath(program)) if isinstance(program, str | Path) else program
            self._request = core.compile_model(model, CPU, settings).create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError with several lines
            raise EngineError(f"OpenVINO cannot load this model: {one_line(error)}") from error

    def _compute(self, values: Array) -> Sequence[Array]:
        self._request.infer([values], share_inputs=True)
        found = self._request.output_tensors
        return [np.array(found[PLACES[name]].data, np.float32) for name in OUTPUTS[self.spec.output]]


@cache
def shared_core() -> Any:
    """OpenVINO's `Core`, one for the whole process.

    Each gives the thread that makes it a stack of its own for signals, and at its end puts back the one that it found.
    If several end in the order in which they were made, the last puts back one that is gone, and the next signal
    (Ctrl-C, say) ends the process with a segmentation fault; OpenVINO 2026.4.
    """
    import openvino

    return openvino.Core()


__all__ = ["OpenVINOEngine", "shared_core"]

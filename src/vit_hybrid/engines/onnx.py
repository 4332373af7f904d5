"""Exported models on ONNX Runtime. Imports neither torch nor transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, needs, one_line
from ..runtimes import OUTPUTS, RUNTIMES, check_precision, fewer_cores
from .protocol import PLACES, Array, LoadedEngine, Specification

ROW = RUNTIMES["onnx"]
QUIET = 3  # errors only


class OnnxEngine(LoadedEngine):
    """A model on ONNX Runtime.

    Args:
        program: The `.onnx` file of a model, or its bytes.
        spec: What the model takes and gives.
        precision: One of the row's.
        threads: How many to compute with; all cores that the process may use by default.
        device: "cpu", or "cuda" where ONNX Runtime was built for it.

    Raises:
        EngineError: If ONNX Runtime is not installed, cannot read the program, or lacks the precision or the device.
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
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"{needs('the onnx engine', [ROW.package], ROW.extra)} ({one_line(error)})") from error
        self.device = str(device or "cpu")
        kind, _, number = self.device.partition(":")
        provider = ROW.devices.get(kind)
        if provider not in onnxruntime.get_available_providers():
            raise EngineError(
                f"ONNX Runtime here cannot run on device {self.device!r}; it has "
                f"{', '.join(onnxruntime.get_available_providers())}. Try 'cpu'."
            )
        check_precision(self.name, precision)
        self.spec = spec
        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        threads = threads or fewer_cores()
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            content = os.fspath(program) if isinstance(program, str | Path) else program
            where: Any = (provider, {"device_id": int(number)}) if number else provider
            self._session = onnxruntime.InferenceSession(content, options, providers=[where])
        except Exception as error:  # ONNX Runtime's own classes, all of Exception
            raise EngineError(f"ONNX Runtime cannot load this model: {one_line(error)}") from error
        self._input = self._session.get_inputs()[0].name

    def _compute(self, values: Array) -> Sequence[Array]:
        found = self._session.run(None, {self._input: values})
        return [np.asarray(found[PLACES[name]], np.float32) for name in OUTPUTS[self.spec.output]]


__all__ = ["OnnxEngine"]

"""Exported models on ONNX Runtime. Imports neither torch nor transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, needs, one_line
from ..images.preparing import Pixels
from ..runtimes import RUNTIMES, check_precision
from .protocol import Array, Specification, checked

ROW = RUNTIMES["onnx"]
QUIET = 3  # errors only


class OnnxEngine:
    """A model on ONNX Runtime.

    Args:
        program: The `.onnx` file of a model, or its bytes.
        spec: What the model takes and gives.
        precision: One of the row's.
        threads: How many to compute with; all cores by default.
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
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            content = os.fspath(program) if isinstance(program, str | Path) else program
            where: Any = (provider, {"device_id": int(number)}) if number else provider
            self._session = onnxruntime.InferenceSession(content, options, providers=[where])
        except Exception as error:  # ONNX Runtime's own classes, all of Exception
            raise EngineError(f"ONNX Runtime cannot load this model: {one_line(error)}") from error
        self._input = self._session.get_inputs()[0].name

    def logits(self, pixel_values: Pixels) -> Array:
        """See `Engine.logits`."""
        values = checked(pixel_values, self.spec)
        if not len(values):
            return np.empty((0, len(self.spec.labels)), np.float32)
        return np.asarray(self._session.run(None, {self._input: values})[0], np.float32)


__all__ = ["OnnxEngine"]

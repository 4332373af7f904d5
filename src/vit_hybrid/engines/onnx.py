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
        onnxruntime = _onnxruntime()
        self.device = str(device or "cpu")
        self.check_device(self.device)
        kind, _, number = self.device.partition(":")
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
            where: Any = (ROW.devices[kind], {"device_id": int(number)}) if number else ROW.devices[kind]
            self._session = onnxruntime.InferenceSession(content, options, providers=[where])
        except Exception as error:  # ONNX Runtime's own classes, all of Exception
            raise EngineError(f"ONNX Runtime cannot load this model: {one_line(error)}") from error
        self._input = self._session.get_inputs()[0].name

    @staticmethod
    def check_device(device: str | None) -> None:
        """Raises `EngineError` where ONNX Runtime as it is installed cannot run on a device."""
        here = _onnxruntime().get_available_providers()
        place = device or "cpu"
        if ROW.devices.get(place.partition(":")[0]) not in here:
            raise EngineError(f"ONNX Runtime here cannot run on device {place!r}; it has {', '.join(here)}. Try 'cpu'.")

    def _compute(self, values: Array) -> Sequence[Array]:
        found = self._session.run(None, {self._input: values})
        return [np.asarray(found[PLACES[name]], np.float32) for name in OUTPUTS[self.spec.output]]


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(f"{needs('the onnx engine', [ROW.package], ROW.extra)} ({one_line(error)})") from error
    return onnxruntime


__all__ = ["OnnxEngine"]

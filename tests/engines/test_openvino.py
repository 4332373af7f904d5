"""What OpenVINO is told to compute in, and with: by a core that only takes it down."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vit_hybrid.engines import EngineError, EngineWarning, openvino
from vit_hybrid.engines.openvino import OpenVINOEngine
from vit_hybrid.engines.protocol import Specification

pytest.importorskip("openvino")
SPEC = Specification(("a", "b"), "single_label_classification", 3, (4, 6))


class Core:
    """Compiles nothing, and says what it was asked for."""

    def __init__(self, capabilities: list[str]) -> None:
        self.capabilities = capabilities
        self.compiled: list[tuple[Any, str, dict[str, Any]]] = []
        self.reshaped: list[Any] = []
        self.operations: list[str] = ["MatMul"]

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.capabilities

    def read_model(self, path: str) -> Any:
        if not path.endswith(".xml"):
            raise RuntimeError("not a model\nat all")
        nodes = [SimpleNamespace(get_type_name=lambda name=name: name) for name in self.operations]
        return SimpleNamespace(
            path=path,
            get_ops=lambda: nodes,
            clone=lambda: SimpleNamespace(path=path, reshape=self.reshaped.append),
        )

    def compile_model(self, program: Any, device_name: str, config: dict[str, Any]) -> Any:
        self.compiled.append((program.path, device_name, config))
        return SimpleNamespace(create_infer_request=lambda: SimpleNamespace(number=len(self.compiled)))


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    core = Core(["FP32", "BF16"])
    monkeypatch.setattr(openvino, "shared_core", lambda: core)
    monkeypatch.setattr(openvino, "fewer_cores", lambda: None)
    monkeypatch.setattr(openvino, "machine_cores", lambda: 4)
    return core


@pytest.mark.parametrize(
    ("precision", "capabilities", "hint", "runs_in", "said"),
    [
        ("f32", ["FP32", "BF16", "FP16"], "f32", "f32", None),
        ("bf16", ["FP32", "BF16"], "bf16", "bf16", None),
        ("bf16", ["FP32"], "f32", "f32", "this processor has no bfloat16, so openvino computes in float32"),
        ("f16", ["FP32", "FP16"], "f16", "f16", None),
        ("int8", ["FP32", "BF16"], "bf16", "int8", None),
        ("int8", ["FP32"], "f32", "int8", None),  # what is not quantized, which is no word worth
    ],
)
def test_each_precision_is_a_hint_where_the_processor_has_it(
    precision: str, capabilities: list[str], hint: str, runs_in: str, said: str | None, core: Core
) -> None:
    core.capabilities = capabilities
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", EngineWarning)
        engine = OpenVINOEngine("program.xml", SPEC, precision)
    assert [str(one.message) for one in warned] == ([said] if said else [])
    assert (engine.precision, engine.device) == (runs_in, "cpu")
    assert core.compiled == [
        ("program.xml", "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}),
    ]


def test_float16_is_refused_where_the_processor_lacks_it(core: Core) -> None:
    with pytest.raises(EngineError, match="does not compute in float16; take bf16 or f32 on the CPU"):
        OpenVINOEngine("program.xml", SPEC, "f16")
    assert not core.compiled


@pytest.mark.parametrize(
    ("threads", "fewer", "taken", "is_tied"),
    [(None, None, None, None), (1, None, 1, False), (4, None, 4, True), (5, 2, 5, True), (None, 2, 2, False)],
)
def test_threads_are_tied_to_cores_where_they_have_all_of_them(
    threads: int | None,
    fewer: int | None,
    taken: int | None,
    is_tied: bool | None,
    core: Core,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino, "fewer_cores", lambda: fewer)
    OpenVINOEngine("program.xml", SPEC, threads=threads)
    [(_, _, settings)] = core.compiled
    assert (settings.get("INFERENCE_NUM_THREADS"), settings.get("ENABLE_CPU_PINNING")) == (taken, is_tied)


def test_kernels_are_for_the_numbers_that_are_expected_and_one_program_for_all_others(core: Core) -> None:
    engine = OpenVINOEngine(Path("program.xml"), SPEC, batch_size=2)
    assert core.reshaped == [{0: [2, 3, 4, 6]}]
    engine.expect(2)
    engine.expect(5)
    assert core.reshaped == [{0: [2, 3, 4, 6]}, {0: [5, 3, 4, 6]}]
    assert ([*engine._fixed], engine._open) == ([2, 5], None)
    core.operations = ["MatMul", "GroupNormalization"]
    crashing = OpenVINOEngine("program.xml", SPEC, batch_size=2)
    crashing.expect(2)
    assert (crashing._fixed, len(core.reshaped)) == ({}, 2)
    assert crashing._open is not None


def test_what_cannot_be_read_or_run_elsewhere_is_one_line(core: Core) -> None:
    with pytest.raises(EngineError, match=r"^OpenVINO cannot load this model: not a model at all$"):
        OpenVINOEngine("program.onnx", SPEC)
    with pytest.raises(EngineError, match="runs on device 'cpu', not 'GPU'; the torch engine runs elsewhere"):
        OpenVINOEngine("program.xml", SPEC, device="GPU")

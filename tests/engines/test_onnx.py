"""What ONNX Runtime is told: where to run and with how many threads, by a session that only takes it down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vit_hybrid.engines import EngineError, onnx
from vit_hybrid.engines.onnx import OnnxEngine
from vit_hybrid.engines.protocol import Specification

onnxruntime = pytest.importorskip("onnxruntime")
SPEC = Specification(("a", "b"), "single_label_classification", 3, (4, 6))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any, Any]]:
    """The sessions that were opened: of what, with which options, where."""
    found: list[tuple[Any, Any, Any]] = []

    def session(program: Any, options: Any, providers: Any) -> Any:
        found.append((program, options, providers))
        if program == "broken.onnx":
            raise RuntimeError("no protobuf\nin it")
        return SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="pixel_values")])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnx, "fewer_cores", lambda: None)
    return found


@pytest.mark.parametrize(
    ("device", "place"),
    [
        (None, "CPUExecutionProvider"),
        ("cpu", "CPUExecutionProvider"),
        ("cuda", "CUDAExecutionProvider"),
        ("cuda:1", ("CUDAExecutionProvider", {"device_id": 1})),
    ],
)
def test_it_runs_on_the_device_that_was_asked_for(device: str | None, place: Any, opened: list[Any]) -> None:
    engine = OnnxEngine(Path("model.onnx"), SPEC, device=device)
    [(program, _, providers)] = opened
    assert (program, providers, engine.device) == ("model.onnx", [place], device or "cpu")


def test_the_default_device_is_asked_for_too(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(EngineError, match=r"cannot run on device 'cpu'; it has CUDAExecutionProvider\."):
        OnnxEngine("model.onnx", SPEC)
    assert opened == []


@pytest.mark.parametrize(("threads", "fewer", "taken"), [(None, None, 0), (3, None, 3), (3, 2, 3), (None, 2, 2)])
def test_threads_are_its_own_number_or_no_more_than_there_are_cores_for(
    threads: int | None, fewer: int | None, taken: int, opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "fewer_cores", lambda: fewer)
    OnnxEngine(b"a program", SPEC, threads=threads)
    [(program, options, _)] = opened
    assert (program, options.intra_op_num_threads, options.log_severity_level) == (b"a program", taken, onnx.QUIET)


@pytest.mark.parametrize(
    ("program", "how", "said"),
    [
        ("model.onnx", {"device": "npu"}, r"cannot run on device 'npu'; it has CUDAExec\w+, CPUExec\w+\. Try 'cpu'\.$"),
        ("model.onnx", {"precision": "bf16"}, "the onnx engine computes in f32 or int8, not 'bf16'"),
        ("broken.onnx", {}, "^ONNX Runtime cannot load this model: no protobuf in it$"),
    ],
)
def test_what_it_cannot_do_is_one_line(program: str, how: dict[str, Any], said: str, opened: list[Any]) -> None:
    with pytest.raises(EngineError, match=said):
        OnnxEngine(program, SPEC, **how)

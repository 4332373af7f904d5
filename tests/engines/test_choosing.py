"""The engine that runs a model where nobody names one and nobody has measured."""

from __future__ import annotations

from typing import Any

import pytest

from vit_hybrid.engines import ways
from vit_hybrid.engines.ways import chosen
from vit_hybrid.runtimes import Runtime

BOTH, NONE = {"openvino", "onnx"}, set[str]()


@pytest.mark.parametrize(
    ("engine", "precision", "device", "torch_only", "installed", "accelerator", "expected"),
    [
        ("onnx", "f16", "cuda:0", {"compile": True}, NONE, True, "onnx"),  # it stands for itself
        ("auto", "auto", None, None, BOTH, False, "openvino"),
        ("auto", "bf16", None, {"compile": False, "attention": None}, BOTH, False, "openvino"),
        ("auto", "int8", None, {}, BOTH, False, "openvino"),
        ("auto", "auto", None, {"compile": True}, BOTH, False, "torch"),
        ("auto", "auto", "cpu", {"attention": "sdpa"}, BOTH, False, "torch"),
        ("auto", "auto", "cpu", None, BOTH, True, "openvino"),
        ("auto", "auto", None, None, BOTH, True, "torch"),
        ("auto", "auto", "cuda:1", None, BOTH, False, "torch"),
        ("auto", "f16", None, None, BOTH, False, "torch"),
        ("auto", "auto", None, None, {"onnx"}, False, "torch"),
        ("auto", "int8", None, None, {"onnx"}, False, "onnx"),
        ("auto", "int8", None, None, NONE, False, "torch"),
    ],
)
def test_auto_is_what_is_fastest_without_a_loss(
    engine: str,
    precision: str,
    device: str | None,
    torch_only: dict[str, Any] | None,
    installed: set[str],
    accelerator: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Runtime, "is_installed", lambda row: row.name in installed)
    monkeypatch.setattr(ways, "has_accelerator", lambda: accelerator)
    assert chosen(engine, precision, device, torch_only) == expected

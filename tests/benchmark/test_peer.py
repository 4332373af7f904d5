"""What a peer's process asks its library for; that it computes the same is seen where such a library is installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vit_hybrid.benchmark import peer


def test_timm_runs_the_weights_that_were_saved_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def create_model(name: str, **how: Any) -> torch.nn.Module:
        asked.append((name, how))
        return torch.nn.Dropout(0.5)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    model: Any = peer._timm({"model": "/saved/timm"}, torch.bfloat16, torch.device("cpu"))
    assert asked == [("local-dir:/saved/timm", {"pretrained": True})]
    assert not model.training

"""What a peer's process asks its library for; that it computes the same is seen where such a library is installed."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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


class Legacy:
    """A model of transformers 4 that says what was asked of it."""

    attention = "sdpa"

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.config = SimpleNamespace(_attn_implementation=self.attention)

    def eval(self) -> Any:
        self.told.append("eval")
        return self

    def to(self, *where: Any) -> Any:
        self.told.append(where)
        return self

    def __call__(self, pixels: torch.Tensor) -> Any:
        assert torch.is_inference_mode_enabled()
        self.told.append((pixels.dtype, len(pixels)))
        return SimpleNamespace(logits=pixels.flatten(1))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_4_runs_the_saved_model_in_the_attention_that_is_timed(
    attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    model = Legacy()
    model.config._attn_implementation = attention
    loading = SimpleNamespace(from_pretrained=lambda *given, **how: asked.append((given, how)) or model)
    quiet: list[int] = []
    logging = SimpleNamespace(set_verbosity_error=lambda: quiet.append(1))
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(ViTHybridForImageClassification=loading))
    monkeypatch.setitem(sys.modules, "transformers.utils", SimpleNamespace(logging=logging))
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    np.save(tmp_path / "pixels.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    task = {"kind": "legacy", "model": "/saved", "dtype": "bfloat16", "attention": attention, "device": "cpu"}
    about, answer = peer._peer({**task, "threads": 3, "pixels": str(tmp_path / "pixels.npy")})
    assert (about["device"], about["versions"]["torch"], threads, quiet) == ("cpu", version("torch"), [3], [1])
    own = {"attn_implementation": "eager"} if attention == "eager" else {}  # the other it takes by itself
    assert asked == [(("/saved",), {"torch_dtype": torch.bfloat16, **own})]
    assert model.told == ["eval", (torch.device("cpu"),), (torch.bfloat16, 1)]
    found = answer({"batch": 2, "least_seconds": 0.0, "logits": str(tmp_path / "logits.npy")})
    assert model.told[3:] == [(torch.bfloat16, 2)] * 2  # one pass to warm up
    assert (len(found["seconds"]), "copied_seconds" in found) == (1, False)
    logits = np.load(tmp_path / "logits.npy")
    assert (logits.dtype, logits.tolist()) == (np.float32, [[0, 1], [2, 3]])
    other = {**task, "attention": "sdpa" if attention == "eager" else "eager"}
    with pytest.raises(ValueError, match=f"it runs '{attention}' attention; '{other['attention']}' is to be timed"):
        peer._legacy(other, torch.float32, torch.device("cpu"))


def test_each_kind_of_peer_is_loaded_by_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "pixels.npy", np.zeros((1, 2), np.float32))
    seen: list[Any] = []
    for kind in ("legacy", "timm"):

        def load(task: Any, dtype: Any, device: Any, kind: str = kind) -> Any:
            seen.append((kind, dtype, device))
            return lambda pixels: pixels

        monkeypatch.setattr(peer, f"_{kind}", load)
    for kind in ("legacy", "timm"):
        task = {"kind": kind, "dtype": "float32", "device": "cpu", "threads": torch.get_num_threads()}
        peer._peer({**task, "pixels": str(tmp_path / "pixels.npy")})
    assert seen == [(kind, torch.float32, torch.device("cpu")) for kind in ("legacy", "timm")]

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
        return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    model: Any = peer._timm({"model": "/saved/timm"}, torch.bfloat16, torch.device("cpu"))
    assert asked == [("local-dir:/saved/timm", {"pretrained": True})]
    assert not model.training
    assert model[0].weight.dtype == torch.bfloat16


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


@pytest.mark.parametrize(("free", "emptied"), [(5, 0), (4, 1)])
def test_on_a_gpu_its_memory_is_told_and_what_is_kept_in_reserve_is_given_back(
    free: int, emptied: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    cuda = SimpleNamespace(
        max_memory_allocated=lambda: 77,
        mem_get_info=lambda: (free, 10),
        empty_cache=lambda: told.append("emptied"),
        reset_peak_memory_stats=lambda: told.append("forgotten"),
        is_initialized=lambda: True,
    )
    np.save(tmp_path / "pixels.npy", np.zeros((1, 2), np.float32))
    answer = peer.passes_over(lambda pixels: pixels, str(tmp_path / "pixels.npy"))
    assert "device_peak_bytes" not in answer({"batch": 1, "least_seconds": 0.0})
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert answer({"batch": 1, "least_seconds": 0.0, "fresh": True})["device_peak_bytes"] == 77
    assert told == ["forgotten", *["emptied"] * emptied]


def test_where_there_is_no_list_of_a_process_memory_the_system_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    (tmp_path / "status").write_text("VmPeak:\t 99 kB\nVmHWM:\t    12345 kB\nVmRSS:\t 7 kB\n")
    monkeypatch.setattr(peer, "STATUS", str(tmp_path / "status"))
    assert peer.peak_bytes() == 12345 * 1024
    monkeypatch.setattr(peer, "STATUS", str(tmp_path / "none"))
    monkeypatch.setattr(peer, "CLEAR_REFERENCES", str(tmp_path / "none" / "either"))
    peer.forget_peak()  # of the whole process then
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=[54321][who]))
    for system, unit in (("linux", 1024), ("darwin", 1)):
        monkeypatch.setattr(sys, "platform", system)
        assert peer.peak_bytes() == 54321 * unit


def test_what_an_error_says_is_on_one_line_with_its_kind_but_where_it_is_about_a_value() -> None:
    for error, said in (
        (ValueError("first\n second"), "first second"),
        (ValueError(), "ValueError"),
        (RuntimeError("no room\n"), "RuntimeError: no room"),
        (MemoryError(), "MemoryError"),
    ):
        assert peer.one_line(error) == said

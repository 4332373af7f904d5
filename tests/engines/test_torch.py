"""How the torch engine lays a model out, and how threads share a batch so that rows depend on nothing else."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_hybrid import tiny_config
from torch import nn

from vit_hybrid import ViTHybridForImageClassification, engines
from vit_hybrid.engines import torch as torch_engine
from vit_hybrid.engines.apart import ThreadsApart
from vit_hybrid.engines.torch import TorchEngine

LAST = torch.channels_last


@pytest.mark.parametrize("threads", [1, 3])
def test_each_thread_has_as_many_rows_and_what_fills_them_up_is_gone(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    shares: list[torch.Tensor] = []

    def compute(values: torch.Tensor) -> list[np.ndarray]:
        shares.append(values)
        return [2 * values.numpy(), values.sum(1).numpy()]

    values = torch.arange(1.0, 15.0).reshape(7, 2)
    apart = ThreadsApart()
    doubled, sums = apart(compute, values)
    np.testing.assert_array_equal(doubled, 2 * values.numpy())
    np.testing.assert_array_equal(sums, values.sum(1).numpy())
    assert [len(one) for one in shares] == {1: [7], 3: [3, 3, 3]}[threads]
    assert sum(not row.any() for share in shares for row in share) == {1: 0, 3: 2}[threads]
    assert {*taken} == {1: set(), 3: {1}}[threads]  # each of them computes alone
    pool = apart._threads
    [alone, _] = apart(compute, values[:1])
    assert (alone.tolist(), apart._threads) == ([[2.0, 4.0]], pool)


@pytest.mark.parametrize(
    ("precision", "asked", "is_last"),
    [("f32", None, False), ("bf16", None, True), ("f16", None, True), ("f32", True, True)],
)
def test_channels_of_weights_and_maps_come_last_where_that_is_faster_or_asked_for(
    precision: str, asked: bool | None, is_last: bool, tiny_model: Any
) -> None:
    engine = TorchEngine(tiny_model, precision=precision, channels_last=asked)
    assert engine.channels_last is is_last
    wide = [module for module in tiny_model.modules() if isinstance(module, nn.Conv2d) and min(module.kernel_size) > 1]
    assert len(wide) > 2
    for module in wide:
        folded = getattr(module, "folded_weight", None)
        weight = module.weight if folded is None else folded
        assert weight.is_contiguous(memory_format=LAST) is is_last
    seen: list[bool] = []
    hook = wide[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous(memory_format=LAST)))
    engine.run(np.zeros((2, 3, 32, 32), np.float32))
    hook.remove()
    assert seen == [is_last]


def test_what_is_compiled_says_so_and_rows_are_computed_together(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: told.append(how) or model)
    monkeypatch.setattr("vit_hybrid.engines.torch.packs_in_half", lambda instruction_sets: True)
    packed: list[int] = []
    monkeypatch.setattr(ViTHybridForImageClassification, "pack_wide_layers", lambda self: packed.append(1))
    apart: list[int] = []
    monkeypatch.setattr(ThreadsApart, "__call__", lambda self, compute, values: apart.append(1) or compute(values))
    pixels = np.zeros((2, 3, 32, 32), np.float32)
    for compile in (True, False):
        loaded = engines.load(tiny_folder, engine="torch", device="cpu", compile=compile)
        assert loaded.way is not None
        assert loaded.way.compiled is compile
        assert len(packed) == (not compile)
        loaded.run_steadily(pixels)
        assert len(apart) == (not compile)
        loaded.run(pixels)
        assert len(apart) == (not compile)
    assert told == [{"dynamic": False}]
    on_a_gpu: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, modules=list)
    assert torch_engine._compiled(on_a_gpu) is on_a_gpu
    assert told[1:] == [{"mode": "reduce-overhead", "dynamic": False}]
    assert torch_engine._arrange_channels_last(on_a_gpu, None)
    assert not torch_engine._arrange_channels_last(on_a_gpu, False)


def test_what_is_compiled_has_frozen_weights_and_compilers_are_not_heard(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    frozen: list[bool] = []

    def compile(model: Any, **_: Any) -> Any:
        def run(batch: torch.Tensor) -> Any:
            warnings.warn("of the compiler, about itself", stacklevel=1)
            frozen.append(config.freezing)
            return model(batch)

        return run

    monkeypatch.setattr(torch, "compile", compile)
    TorchEngine(tiny_model, compile=True).logits(np.zeros((1, 3, 32, 32), np.float32))
    assert frozen == [True]
    assert not config.freezing


@pytest.mark.parametrize(
    ("precision", "given", "takes", "asked"),
    [("bf16", None, "eager", [25]), ("bf16", "sdpa", "sdpa", []), ("f32", None, "sdpa", [])],
)
def test_attention_in_half_precision_goes_by_the_tokens_of_a_picture(
    precision: str, given: str | None, takes: str, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr("vit_hybrid.engines.torch.attention_in_half", lambda tokens, _: seen.append(tokens) or "eager")
    model = ViTHybridForImageClassification(tiny_config(image_size=[32, 48], attn_implementation="sdpa"))
    TorchEngine(model, precision=precision, attention=given)
    assert (model.config._attn_implementation, seen) == (takes, asked)  # of 4 x 6 patches and the class
    own = ViTHybridForImageClassification(tiny_config(attn_implementation="eager"))
    TorchEngine(own, precision=precision)  # which is somebody's choice
    assert (own.config._attn_implementation, seen) == ("eager", asked)


def test_a_model_in_double_precision_stays_in_it(tiny_model: Any) -> None:
    engine = TorchEngine(tiny_model.double())
    assert (engine.precision, engine.model.dtype) == ("f64", torch.float64)
    assert engine.logits(np.zeros((1, 3, 32, 32), np.float32)).dtype == np.float32

"""Weights that oneDNN lays out: the same products, changes that count, and where they stay out of the way."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import tiny_hybrid
import torch
from torch import nn

from vit_hybrid.engines.torch import TorchEngine
from vit_hybrid.model import modeling, packing

pytestmark = pytest.mark.skipif(not packing.is_available(), reason="this PyTorch has no oneDNN products")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The activation of each product with a packed weight."""
    found: list[str] = []
    compute = packing.Packed.__call__

    def counting(self: packing.Packed, *args: Any) -> torch.Tensor:
        found.append(self.activation)
        return compute(self, *args)

    monkeypatch.setattr(packing.Packed, "__call__", counting)
    return found


def model(**changes: Any) -> Any:
    found = tiny_hybrid.random_model(4.0, num_hidden_layers=2, num_labels=7, **changes).eval().to(torch.bfloat16)
    return found.fold_weight_standardization().fuse_projections()


def pictures(count: int = 3) -> torch.Tensor:
    side = tiny_hybrid.IMAGE_SIZE
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


def logits(of: Any) -> torch.Tensor:
    found: torch.Tensor = of(pictures()).logits.float()
    return found


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_the_same(bias: bool) -> None:
    layer = nn.Linear(48, 160, bias=bias).to(torch.bfloat16)
    x = torch.randn(2, 17, 48).to(torch.bfloat16)
    expected = layer(x)
    torch.testing.assert_close(packing.Packed()(x, layer.weight, layer.bias), expected, atol=1e-2, rtol=2e-2)
    widened = packing.Packed(packing.GELU)(x, layer.weight, layer.bias)
    torch.testing.assert_close(widened, nn.functional.gelu(expected.float()).to(torch.bfloat16), atol=1e-2, rtol=2e-2)


def test_weights_whose_changes_nobody_counts_are_taken_too() -> None:
    with torch.inference_mode():
        layer = nn.Linear(48, 160).to(torch.bfloat16)
        x = torch.randn(2, 17, 48).to(torch.bfloat16)
        torch.testing.assert_close(packing.Packed()(x, layer.weight, layer.bias), layer(x), atol=1e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("activation", "behind"), [("gelu", packing.GELU), ("gelu_new", packing.PLAIN), ("gelu_python", packing.PLAIN)]
)
def test_a_model_computes_the_same(activation: str, behind: str, calls: list[str]) -> None:
    plain = model(hidden_act=activation)
    packed = copy.deepcopy(plain).pack_wide_layers()
    expected, found = logits(plain), logits(packed)
    assert calls == [packing.PLAIN, behind] * 2  # the projections and the widening layer, of two layers
    assert (found - expected).abs().max() <= 0.03 * expected.abs().max()
    assert packed.state_dict().keys() == plain.state_dict().keys()


def test_in_float32_and_with_gradients_nothing_is_packed(calls: list[str]) -> None:
    packed = model().pack_wide_layers()
    with torch.enable_grad():
        logits(packed)
    expected = packed.to(torch.float32)(pictures().float()).logits
    assert not calls
    torch.testing.assert_close(expected, packed.unfold_weight_standardization()(pictures().float()).logits)


def test_changed_weights_count() -> None:
    packed = model().pack_wide_layers()
    logits(packed)
    block = packed.vit.encoder.layer[0]
    for weight in (block.intermediate.dense.weight, block.attention.attention.value.weight):
        before = logits(packed)
        weight.mul_(-2.0)
        found = logits(packed)
        assert (found - before).abs().max() > 0.05 * before.abs().max()
        plain = copy.deepcopy(packed).unfold_weight_standardization()
        torch.testing.assert_close(found, logits(plain), atol=0.03 * float(found.abs().max()), rtol=0.0)


def test_a_weight_is_laid_out_once_until_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[int] = []
    lay_out = torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, rows: laid_out.append(rows) or lay_out(weight, rows)
    )
    layer, packed = nn.Linear(48, 160).to(torch.bfloat16), packing.Packed()
    for rows in (17, 17, 5):
        packed(torch.randn(2, rows, 48).to(torch.bfloat16), layer.weight, layer.bias)
    assert laid_out == [34]
    layer.weight.add_(1)
    packed(torch.randn(2, 5, 48).to(torch.bfloat16), layer.weight, layer.bias)
    assert laid_out == [34, 10]


def test_a_layer_that_is_more_than_a_product_is_not_taken_for_one() -> None:
    class Adapted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + x

    assert packing.is_plain(nn.Linear(4, 4))
    assert not packing.is_plain(Adapted(4, 4))


def test_a_copy_has_its_own_weights(calls: list[str]) -> None:
    packed = model().pack_wide_layers()
    before = logits(packed)
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(logits(other), before)
        other.vit.encoder.layer[1].intermediate.dense.weight.zero_()
        assert not torch.equal(logits(other), before)
    assert torch.equal(logits(packed), before)
    assert len(calls) == 6 * 4


def test_what_is_watched_or_undone_is_computed_as_it_stands(calls: list[str]) -> None:
    packed = model().pack_wide_layers()
    seen: list[torch.Tensor] = []
    dense = packed.vit.encoder.layer[0].intermediate.dense
    handle = dense.register_forward_hook(lambda _module, _given, found: seen.append(found))
    logits(packed)
    assert calls == [packing.PLAIN, packing.PLAIN, packing.GELU]
    assert seen[0].min() < -0.2  # what comes before GELU, whose least value is -0.17
    handle.remove()
    calls.clear()
    logits(packed.unfold_weight_standardization())
    logits(packed.fold_weight_standardization().fuse_projections())  # and nothing is packed that was not asked for
    assert not calls


def test_where_there_are_no_such_products_nothing_is_packed(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling, "is_available", lambda: False)
    plain = model()
    assert plain.pack_wide_layers() is plain
    logits(plain)
    assert not calls


def test_the_engine_packs_where_that_is_faster(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    pixels = pictures().float().numpy()
    for sets, precision, packs in (
        (["amx_bf16", "avx512_bf16"], "bf16", True),
        (["avx512_bf16"], "bf16", False),
        (["amx_bf16"], "f32", False),
    ):
        monkeypatch.setattr("vit_hybrid.engines.torch.instruction_sets", lambda sets=sets: sets)
        engine = TorchEngine(tiny_hybrid.random_model(4.0, num_hidden_layers=2), precision=precision, device="cpu")
        engine.logits(pixels)
        assert bool(calls) == packs
        calls.clear()

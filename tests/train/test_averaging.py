"""The moving average of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_hybrid
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.train.averaging import WeightAverage


def new_model(dtype: torch.dtype = torch.float32) -> ViTHybridForImageClassification:
    torch.manual_seed(0)
    return ViTHybridForImageClassification(tiny_hybrid.tiny_config()).to(dtype)


def move(model: nn.Module, seed: int) -> None:
    """Stands for an optimizer step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.1)


def copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("warmup", [False, True])
def test_formula(warmup: bool) -> None:
    model = new_model()
    average = WeightAverage(model, decay=0.3, warmup=warmup)
    expected = {name: weight.double() for name, weight in copies(model).items()}
    for step in range(6):
        move(model, step)
        average.update(model)
        decay = min(0.3, (1 + step) / (10 + step)) if warmup else 0.3
        assert average.decay_at(step) == decay
        for name, weight in copies(model).items():
            expected[name] = decay * expected[name] + (1 - decay) * weight.double()
    with average.swap_in(model):
        for name, weight in copies(model).items():
            assert torch.allclose(weight.double(), expected[name], atol=1e-6), name
    assert average.updates == 6


def test_warmup_ends_at_the_decay() -> None:
    average = WeightAverage(nn.Linear(2, 2), decay=0.999)
    assert average.decay_at(0) == 0.1
    assert average.decay_at(8_000) < 0.999
    assert average.decay_at(100_000) == 0.999


def test_swap_in_gives_the_weights_back_to_the_bit() -> None:
    model = new_model()
    average = WeightAverage(model, decay=0.9)
    move(model, 1)
    average.update(model)
    move(model, 2)
    before, tensors = copies(model), [id(parameter) for parameter in model.parameters()]
    with average.swap_in(model):
        assert not torch.equal(model.classifier.weight, before["classifier.weight"])
    assert all(torch.equal(weight, before[name]) for name, weight in copies(model).items())
    with pytest.raises(KeyError, match="stopped"), average.swap_in(model):
        raise KeyError("stopped")
    assert all(torch.equal(weight, before[name]) for name, weight in copies(model).items())
    assert [id(parameter) for parameter in model.parameters()] == tensors
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_copy_to_is_for_good() -> None:
    model = new_model()
    average = WeightAverage(model, decay=0.9)
    start = copies(model)
    move(model, 1)
    average.copy_to(model)
    assert all(torch.equal(weight, start[name]) for name, weight in copies(model).items())
    move(model, 2)
    assert torch.equal(average.state_dict()["average.classifier.weight"], start["classifier.weight"])


def test_no_update_of_the_averages_by_themselves() -> None:
    model = new_model()
    average = WeightAverage(model, decay=0.9)
    with average.swap_in(model):
        with average.swap_in(model):
            pass
        with pytest.raises(RuntimeError, match="swap_in"):
            average.update(model)
    average.update(model)
    assert average.updates == 1


def test_saved_and_loaded_goes_on_to_the_bit(tmp_path: Path) -> None:
    model = new_model().to(memory_format=torch.channels_last)
    average = WeightAverage(model, decay=0.9)
    for step in range(3):
        move(model, step)
        average.update(model)
    save_file(average.state_dict(), tmp_path / "average.safetensors")
    weights = copies(model)

    resumed = new_model().to(memory_format=torch.channels_last)
    again = WeightAverage(resumed, decay=0.9)
    resumed.load_state_dict(weights)
    again.load_state_dict(load_file(tmp_path / "average.safetensors"))
    for each, its in ((model, average), (resumed, again)):
        move(each, 9)
        its.update(each)
    assert again.updates == average.updates == 4
    ours, theirs = again.state_dict(), average.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_averaged_in_float32(dtype: torch.dtype) -> None:
    model = nn.Linear(4, 4).to(dtype)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = WeightAverage(model, decay=0.999, warmup=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    for _ in range(100):
        average.update(model)
    # In bfloat16 1 + 0.001 is 1, and the average would never have left its place.
    assert average.state_dict()["average.weight"].dtype == torch.float32
    assert average.state_dict()["average.weight"][0, 0].item() == pytest.approx(2 - 0.999**100, rel=1e-4)
    with average.swap_in(model):
        assert model.weight.dtype == dtype
        assert model.weight[0, 0].item() == pytest.approx(2 - 0.999**100, rel=1e-2)
    assert model.weight[0, 0].item() == 2.0
    assert WeightAverage(model.double(), decay=0.9).state_dict()["average.weight"].dtype == torch.float64


def test_frozen_weights_are_left_out() -> None:
    model = new_model()
    model.vit.requires_grad_(False)
    average = WeightAverage(model, decay=0.9)
    assert set(average.state_dict()) == {"updates", "average.classifier.weight", "average.classifier.bias"}
    before = copies(model)
    move(model, 1)
    average.update(model)
    with average.swap_in(model):
        swapped = copies(model)
    assert {name for name in before if not torch.equal(before[name], swapped[name])} == {
        "classifier.weight",
        "classifier.bias",
    }
    model.requires_grad_(False)
    nothing = WeightAverage(model, decay=0.9)
    nothing.update(model)
    assert set(nothing.state_dict()) == {"updates"}


def test_does_not_follow_the_model_by_itself() -> None:
    model = new_model()
    average = WeightAverage(model, decay=0.9)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    move(model, 1)
    assert all(torch.equal(value, before[name]) for name, value in average.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("average.weight"), r"it lacks average\.weight \(1 in all\)"),
        (lambda state: [state.pop(f"average.{name}") for name in ("weight", "bias")], r"average\.bias \(2 in all\)"),
        (lambda state: state.pop("updates"), "lacks updates"),
        (lambda state: state.update({"average.more": torch.zeros(2)}), r"it also holds average\.more \(1 in all\)"),
        (lambda state: state.update({"average.bias": torch.zeros(7)}), "has another shape for average.bias"),
    ],
)
def test_state_of_another_model(change: object, message: str) -> None:
    average = WeightAverage(nn.Linear(3, 2), decay=0.9)
    state = WeightAverage(nn.Linear(3, 2), decay=0.9).state_dict()
    change(state)  # type: ignore[operator]
    before = {name: value.clone() for name, value in average.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        average.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in average.state_dict().items())


def test_refusals() -> None:
    assert WeightAverage(nn.Linear(2, 2), decay=0).decay_at(7) == 0
    for decay in (-0.1, 1.0, 2.0, float("nan")):
        with pytest.raises(ValueError, match="decay of the average is"):
            WeightAverage(nn.Linear(2, 2), decay=decay)
    average = WeightAverage(nn.Linear(2, 2), decay=0.9)
    with pytest.raises(ValueError, match=r"lacks bias \(1 in all\)"):
        average.update(nn.Linear(2, 2, bias=False))
    with pytest.raises(ValueError, match=r"lacks bias \(2 in all\)"):
        average.copy_to(nn.Identity())
    with pytest.raises(ValueError, match="lacks bias"), average.swap_in(nn.Linear(2, 2, bias=False)):
        pass

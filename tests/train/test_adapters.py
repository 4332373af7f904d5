"""LoRA and other adapters through PEFT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_hybrid
import torch
from torch import nn

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.train.adapters import METHODS, add_adapter, allocate_ranks, merge
from vit_hybrid.train.parameters import parameter_groups

REQUIRED: dict[str, dict[str, Any]] = {"adalora": {"total_step": 10}, "oft": {"oft_block_size": 8}}
STEPS = 4


@pytest.fixture
def model() -> ViTHybridForImageClassification:
    torch.manual_seed(0)
    return ViTHybridForImageClassification(tiny_hybrid.tiny_config()).eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(4, 3, tiny_hybrid.IMAGE_SIZE, tiny_hybrid.IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixels).logits


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def train(model: nn.Module, pixels: torch.Tensor) -> list[float]:
    optimizer = torch.optim.AdamW(parameter_groups(model, 2e-2, 0.05))
    model.train()
    losses = []
    for step in range(STEPS):
        loss = model(pixel_values=pixels, labels=torch.tensor([0, 1, 2, 0])).loss
        loss.backward()
        optimizer.step()
        allocate_ranks(model, step)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(autouse=True)
def _peft() -> None:
    pytest.importorskip("peft", reason="adapters need the extra `peft`")


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_merges(
    model: ViTHybridForImageClassification, pixels: torch.Tensor, method: str, tmp_path: Path
) -> None:
    before = logits(model, pixels)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = add_adapter(model, method, **REQUIRED.get(method, {}))
    assert torch.allclose(logits(adapted, pixels), before, atol=1e-5)  # every method starts at the model as it was
    learned = trainable(adapted)
    assert {name for name in learned if "classifier" in name} == {
        "base_model.model.classifier.modules_to_save.default.weight",
        "base_model.model.classifier.modules_to_save.default.bias",
    }
    assert any("encoder.layer" in name for name in learned)
    assert not [name for name in learned if ".backbone." in name]

    losses = train(adapted, pixels)
    assert losses[-1] < losses[0]
    expected = logits(adapted, pixels)
    assert not torch.allclose(expected, before, atol=1e-3)

    merged = merge(adapted)
    assert type(merged) is ViTHybridForImageClassification
    assert torch.allclose(logits(merged, pixels), expected, atol=1e-5)
    assert trainable(merged) == {name for name, _ in merged.named_parameters()}
    assert merged.state_dict().keys() == weights.keys()
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, weights[name])}
    assert any("encoder.layer" in name for name in changed)
    assert not [name for name in changed if ".backbone." in name]
    merged.save_pretrained(tmp_path)
    assert torch.equal(
        logits(ViTHybridForImageClassification.from_pretrained(tmp_path), pixels), logits(merged, pixels)
    )


def test_lora_by_default(model: ViTHybridForImageClassification) -> None:
    adapted = add_adapter(model)
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.0)
    adapters = {name.partition(".lora_")[0].rpartition(".")[2] for name in trainable(adapted) if "lora_" in name}
    assert adapters == {"query", "value"}


def test_options(model: ViTHybridForImageClassification) -> None:
    adapted = add_adapter(model, "lora", r=2, alpha=6, dropout=0.25, target_modules=("key",), modules_to_save=None)
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 6, 0.25)
    assert config.target_modules == {"key"}  # as PEFT makes it of a list alone
    assert all(".key.lora_" in name for name in trainable(adapted))


def test_what_is_trained_beside_adapters_may_be_named_by_its_place(model: ViTHybridForImageClassification) -> None:
    names = ["vit.layernorm", "attention.attention.key", "classifier"]
    learned = trainable(add_adapter(model, modules_to_save=names))
    for name in names:
        assert any(f".{name}.modules_to_save.default.weight" in each for each in learned)


def test_short_names_of_options_and_ranks_of_other_methods(model: ViTHybridForImageClassification) -> None:
    for method in ("loha", "lokr"):
        other = ViTHybridForImageClassification(model.config)
        config = add_adapter(other, method, dropout=0.25).peft_config["default"]
        assert (config.r, config.alpha, config.module_dropout) == (8, 16, 0.25)
    for method in ("dora", "adalora"):
        other = ViTHybridForImageClassification(model.config)
        config = add_adapter(other, method, alpha=4, dropout=0.25, **REQUIRED.get(method, {})).peft_config["default"]
        assert (config.lora_alpha, config.lora_dropout) == (4, 0.25)
    other = ViTHybridForImageClassification(model.config)
    assert add_adapter(other, "vera", dropout=0.25).peft_config["default"].vera_dropout == 0.25
    config = add_adapter(model, "oft", dropout=0.25, **REQUIRED["oft"]).peft_config["default"]
    assert config.module_dropout == 0.25


def test_ia3_elsewhere_has_no_feed_forward_part(model: ViTHybridForImageClassification) -> None:
    config = add_adapter(model, "ia3", target_modules=["key"]).peft_config["default"]
    assert (set(config.target_modules), set(config.feedforward_modules)) == ({"key"}, set())


def test_ia3_rescales_what_the_feed_forward_part_takes_in_and_keys_and_values_as_they_come_out(
    model: ViTHybridForImageClassification,
) -> None:
    adapted = add_adapter(model, "ia3")
    shapes = {
        name.partition("encoder.layer.0.")[2].partition(".ia3_l")[0]: tuple(parameter.shape)
        for name, parameter in adapted.named_parameters()
        if "encoder.layer.0." in name and ".ia3_l" in name
    }
    # A factor for each of the 16 numbers that come out, or of the intermediate ones that go in.
    intermediate = model.config.intermediate_size
    assert shapes == {
        "attention.attention.key": (16, 1),
        "attention.attention.value": (16, 1),
        "output.dense": (1, intermediate),
    }


def test_weights_that_are_no_numbers_are_not_merged(model: ViTHybridForImageClassification) -> None:
    adapted = add_adapter(model)
    with torch.no_grad():
        next(value for name, value in adapted.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        merge(adapted)


def test_dora_and_adalora_are_what_they_are_called(model: ViTHybridForImageClassification) -> None:
    assert any("lora_magnitude_vector" in name for name in trainable(add_adapter(model, "dora")))
    other = ViTHybridForImageClassification(tiny_hybrid.tiny_config())
    config = add_adapter(other, "adalora", r=3, total_step=5).peft_config["default"]
    assert (config.target_r, config.init_r) == (3, 12)
    assert (config.lora_alpha, config.lora_dropout) == (16, 0.0)


def test_adalora_takes_ranks_away(model: ViTHybridForImageClassification, pixels: torch.Tensor) -> None:
    adapted = add_adapter(model, "adalora", r=1, init_r=4, total_step=STEPS, tinit=0, tfinal=1)
    train(adapted, pixels)
    values = [parameter for name, parameter in adapted.named_parameters() if "lora_E" in name]
    assert sum(int((value != 0).sum()) for value in values) <= len(values) < 4 * len(values)


def test_factors_of_ia3_do_not_decay(model: ViTHybridForImageClassification) -> None:
    adapted = add_adapter(model, "ia3")
    names = {id(parameter): name for name, parameter in adapted.named_parameters()}
    for group in parameter_groups(adapted, 1e-2, 0.1):
        for parameter in group["params"]:
            assert not ("ia3_l" in names[id(parameter)] and group["weight_decay"])
    assert len([name for name in trainable(adapted) if "ia3_l" in name]) == 3 * 2


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lroa", {}, r"no adapter method 'lroa'; did you mean 'lora'\? There are: lora, dora"),
        ("xyzzy", {}, r"no adapter method 'xyzzy'\. There are: lora"),
        ("lora", {"lora_alhpa": 1}, r"lora has no option 'lora_alhpa'; did you mean 'lora_alpha'\?"),
        ("oft", {"xyzzy": 1}, r"oft has no option 'xyzzy'\. It has: .* dropout, .*oft_block_size"),
        ("lora", {"task_type": "SEQ_CLS"}, "no option 'task_type'"),
        ("lora", {"peft_type": "LOHA"}, "no option 'peft_type'"),
        ("lora", {"auto_mapping": {}}, "no option 'auto_mapping'"),
        ("lora", {"peft_version": "1"}, "no option 'peft_version'"),
        ("lora", {"base_model_name_or_path": "x"}, "no option 'base_model_name_or_path'"),
        ("lora", {"revision": "x"}, "no option 'revision'"),
        ("lora", {"inference_mode": True}, "no option 'inference_mode'"),
        ("dora", {"use_dora": False}, "no option 'use_dora'"),
        ("lora", {"r": "8"}, "lora: r is '8'; give a number"),
        ("lora", {"r": True}, "lora: r is True; give a number"),
        ("lora", {"r": -1}, "lora: .*positive"),
        ("lora", {"use_rslora": "yes"}, "use_rslora is 'yes'; give true or false"),
        ("lora", {"use_rslora": 1}, "use_rslora is 1; give true or false"),
        ("lora", {"dropout": "0.1"}, r"lora: dropout is '0\.1'; give a number"),
        ("lora", {"alpha": 1, "lora_alpha": 2}, "'lora_alpha' twice, once as 'lora_alpha'"),
        ("lora", {"lora_alpha": 2, "alpha": 1}, "'lora_alpha' twice, once as 'alpha'"),
        ("lora", {"target_modules": ["nope"]}, "lora: "),
        ("lora", {"target_modules": 5}, "lora: "),
        ("lora", {"modules_to_save": ["nope"]}, "modules_to_save has 'nope'"),
        ("lora", {"modules_to_save": ["classifier", "ssifier"]}, "modules_to_save has 'ssifier'"),
        ("adalora", {}, "adalora: .*total_step"),
    ],
)
def test_refusals(model: ViTHybridForImageClassification, method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        add_adapter(model, method, **options)
    assert "\n" not in str(caught.value)


def test_merging_what_has_no_adapters(model: ViTHybridForImageClassification) -> None:
    assert merge(model) is model
    with pytest.raises(TypeError, match="adapters of a Linear"):
        merge(nn.Linear(2, 2))
    import peft

    other = peft.get_peft_model(nn.Sequential(nn.Linear(2, 2)), peft.LoraConfig(target_modules=["0"]))
    with pytest.raises(TypeError, match="adapters are of a Sequential, not of a ViTHybridForImageClassification"):
        merge(other)


def test_ranks_of_other_models_are_left_alone(model: ViTHybridForImageClassification) -> None:
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    allocate_ranks(model, 0)
    allocate_ranks(add_adapter(model), 0)
    assert all(
        torch.equal(weights[name], value) for name, value in merge(model).state_dict().items() if name in weights
    )


def test_without_peft(model: ViTHybridForImageClassification, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"adapters need peft: pip install 'vit-hybrid\[peft\]'"):
        add_adapter(model)

"""Layers of a hybrid, and groups of its parameters for optimizers."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_hybrid
import torch

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.model.presets import PRESETS, Preset
from vit_hybrid.train.parameters import layers, muon_groups, parameter_groups

TINY_LAYERS = ["stem", "stage1.block1", "stage2.block1", "embeddings", "encoder.1", "encoder.2", "head"]
UNDECAYED = ("bias", "norm", "cls_token", "mask_token", "position_embeddings")


@pytest.fixture
def model() -> ViTHybridForImageClassification:
    torch.manual_seed(0)
    return ViTHybridForImageClassification(tiny_hybrid.tiny_config())


def names_of(model: torch.nn.Module, parameters: list[torch.nn.Parameter]) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]


def rates(model: torch.nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of each parameter; no parameter may stand in two groups."""
    found: dict[str, tuple[float, float]] = {}
    for group in groups:
        for name in names_of(model, group["params"]):
            assert name not in found
            found[name] = (group["lr"], group["weight_decay"])
    return found


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_layers_of_presets(preset: Preset) -> None:
    with torch.device("meta"):
        model = ViTHybridForImageClassification(ViTHybridConfig.from_preset(preset.name))
    found = dict(layers(model))
    blocks = [f"stage{i}.block{j}" for i, depth in enumerate(preset.depths, 1) for j in range(1, depth + 1)]
    encoder = [f"encoder.{index}" for index in range(1, preset.num_hidden_layers + 1)]
    assert list(found) == ["stem", *blocks, "embeddings", *encoder, "head"]
    everything = [name for names in found.values() for name in names]
    assert sorted(everything) == sorted(name for name, _ in model.named_parameters())
    if preset.name == "R50+B/16":
        assert len(found) == 1 + (3 + 4 + 9) + 1 + 12 + 1
        assert [len(names) for names in found.values()][:5] == [3, 12, 9, 9, 12]


def test_members_of_layers(model: ViTHybridForImageClassification) -> None:
    found = dict(layers(model))
    assert list(found) == TINY_LAYERS
    assert found["embeddings"] == [
        "vit.embeddings.cls_token",
        "vit.embeddings.position_embeddings",
        "vit.embeddings.patch_embeddings.projection.weight",
        "vit.embeddings.patch_embeddings.projection.bias",
    ]
    assert found["head"] == ["vit.layernorm.weight", "vit.layernorm.bias", "classifier.weight", "classifier.bias"]
    assert all(".stages.1.layers.0." in name for name in found["stage2.block1"])
    assert all(name.startswith("vit.encoder.layer.1.") for name in found["encoder.2"])


def test_last_norm_goes_with_the_last_block() -> None:
    backbone = {**tiny_hybrid.tiny_config().backbone_config.to_dict(), "layer_type": "preactivation", "depths": [1, 2]}
    model = ViTHybridForImageClassification(tiny_hybrid.tiny_config(backbone_config=backbone))
    found = dict(layers(model))
    assert [name for name in found if "stage2" in name] == ["stage2.block1", "stage2.block2"]
    assert [name.rpartition("bit.")[2] for name in found["stage2.block2"] if ".bit.norm." in name] == [
        "norm.weight",
        "norm.bias",
    ]


def test_mask_token_pooler_and_pre_logits_have_their_places() -> None:
    bare = ViTHybridModel(tiny_hybrid.tiny_config(), use_mask_token=True)
    found = dict(layers(bare))
    assert list(found) == TINY_LAYERS
    assert "embeddings.mask_token" in found["embeddings"]
    assert "pooler.dense.weight" in found["head"]
    model = ViTHybridForImageClassification(tiny_hybrid.tiny_config(representation_size=8))
    assert "pre_logits.dense.weight" in dict(layers(model))["head"]


def test_layer_decay_counts_from_the_head(model: ViTHybridForImageClassification) -> None:
    found = rates(model, parameter_groups(model, 1e-2, 0.1, layer_decay=0.5, head_multiplier=10))
    expected = {name: 1e-2 * 0.5 ** (6 - index) for index, name in enumerate(TINY_LAYERS)} | {"head": 1e-1}
    assert set(found) == {name for name, _ in model.named_parameters()}
    for layer, names in layers(model):
        for name in names:
            assert found[name][0] == pytest.approx(expected[layer]), name


def test_no_decay_of_norms_biases_tokens_and_positions(model: ViTHybridForImageClassification) -> None:
    found = rates(model, parameter_groups(model, 1e-2, 0.1))
    for name, (_, weight_decay) in found.items():
        assert weight_decay == (0.0 if any(part in name for part in UNDECAYED) else 0.1), name
    assert sum(weight_decay > 0 for _, weight_decay in found.values()) == 1 + 4 + 4 + 1 + 2 * 6 + 1
    masked = ViTHybridModel(tiny_hybrid.tiny_config(), use_mask_token=True)
    assert rates(masked, parameter_groups(masked, 1e-2, 0.1))["embeddings.mask_token"] == (1e-2, 0.0)


def test_groups_are_named_ordered_and_always_the_same(model: ViTHybridForImageClassification) -> None:
    groups = parameter_groups(model, 1e-2, 0.1, layer_decay=0.5)
    assert [group["name"] for group in groups] == [
        f"{layer}, {kind}" for layer in TINY_LAYERS for kind in ("decay", "no decay")
    ]
    again = parameter_groups(ViTHybridForImageClassification(model.config), 1e-2, 0.1, layer_decay=0.5)
    assert [[p.shape for p in group["params"]] for group in again] == [
        [p.shape for p in group["params"]] for group in groups
    ]
    alike = parameter_groups(model, 1e-2, 0.1)
    assert [group["name"] for group in alike] == ["stem to head, decay", "stem to head, no decay"]
    own_head = parameter_groups(model, 1e-2, 0.1, head_multiplier=10)
    assert [group["name"] for group in own_head][::2] == ["stem to encoder.2, decay", "head, decay"]


def test_frozen_parameters_are_left_out(model: ViTHybridForImageClassification) -> None:
    model.vit.requires_grad_(False)
    groups = parameter_groups(model, 1e-2, 0.1, layer_decay=0.5)
    assert [(group["name"], group["lr"]) for group in groups] == [("head, decay", 1e-2), ("head, no decay", 1e-2)]
    model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"No parameter of the model is trainable"):
        parameter_groups(model, 1e-2, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_decay": 0.0}, "layer decay is 0.0"),
        ({"layer_decay": 1.5}, "layer decay is 1.5"),
        ({"learning_rate": -1.0}, "learning rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning rate is nan"),
        ({"weight_decay": -0.1}, "weight decay is -0.1"),
        ({"head_multiplier": -1.0}, "multiplier is -1.0"),
    ],
)
def test_numbers_out_of_range(model: ViTHybridForImageClassification, changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter_groups(model, **{"learning_rate": 1e-2, "weight_decay": 0.1, **changes})


def test_optimizer_and_scheduler_take_them(model: ViTHybridForImageClassification) -> None:
    groups = parameter_groups(model, 1e-2, 0.1, layer_decay=0.5)
    expected = [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert scheduler.get_last_lr() == [rate * 0.5 for rate in expected]


def test_names_behind_wrappers(model: ViTHybridForImageClassification) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

    plain = {layer: [f"module.{name}" for name in names] for layer, names in layers(model)}
    assert dict(layers(Wrapped(model))) == plain


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_lie_in_the_layers_that_they_adapt(model: ViTHybridForImageClassification) -> None:
    peft = pytest.importorskip("peft", reason="adapters need the extra `peft`")
    settings = peft.LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"])
    adapted = peft.get_peft_model(model, settings)
    assert [name for name, _ in layers(adapted)] == TINY_LAYERS
    groups = parameter_groups(adapted, 1e-2, 0.1, layer_decay=0.5)
    assert [(group["name"], group["lr"]) for group in groups] == [
        ("encoder.1, decay", 1e-2 * 0.25),
        ("encoder.2, decay", 1e-2 * 0.5),
        ("head, decay", 1e-2),
        ("head, no decay", 1e-2),
    ]
    found = rates(adapted, groups)
    assert set(found) == {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert sum("classifier.modules_to_save" in name for name in found) == 2


def test_muon_gets_matrices_and_kernels_inside_of_the_network(model: ViTHybridForImageClassification) -> None:
    groups = muon_groups(model, 0.02, 1e-3, 0.1, layer_decay=0.5)
    found = rates(model, groups)
    assert set(found) == {name for name, _ in model.named_parameters()}
    muon = {name for group in groups if group["use_muon"] for name in names_of(model, group["params"])}
    decayed = {name for name, (_, weight_decay) in found.items() if weight_decay}
    stem = "vit.embeddings.patch_embeddings.backbone.bit.embedder.convolution.weight"
    assert decayed - muon == {stem, "classifier.weight"}
    assert muon < decayed
    assert "vit.embeddings.patch_embeddings.projection.weight" in muon
    assert found["vit.encoder.layer.0.output.dense.weight"] == (0.02 * 0.25, 0.1)
    assert found["vit.encoder.layer.0.output.dense.bias"] == (1e-3 * 0.25, 0.0)
    assert found["classifier.weight"] == (1e-3, 0.1)
    assert found[stem][0] == pytest.approx(1e-3 * 0.5**6)
    assert [group["name"] for group in groups[:5]] == [
        "stem, AdamW, decay",
        "stem, AdamW",
        "stage1.block1, Muon",
        "stage1.block1, AdamW",
        "stage2.block1, Muon",
    ]
    assert [group["name"] for group in groups[-2:]] == ["head, AdamW, decay", "head, AdamW"]
    for rates_given in ((0.02, -1), (-1, 0.02)):
        with pytest.raises(ValueError, match="learning rate is -1"):
            muon_groups(model, *rates_given, 0.1)


def test_a_multiplier_of_nothing_keeps_the_head_as_it_is(model: ViTHybridForImageClassification) -> None:
    found = rates(model, parameter_groups(model, 1e-2, 0.1, head_multiplier=0))
    assert (found["classifier.weight"], found["vit.encoder.layer.1.output.dense.weight"]) == ((0, 0.1), (1e-2, 0.1))

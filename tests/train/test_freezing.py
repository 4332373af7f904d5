"""Freezing a hybrid by its parts."""

from __future__ import annotations

import copy

import pytest
import tiny_hybrid
import torch

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.train.freezing import freezable_parts, freeze
from vit_hybrid.train.parameters import layers

BACKBONE = {"stem", "stage1.block1", "stage2.block1"}
ALL_BUT_HEAD = BACKBONE | {"embeddings", "encoder.1", "encoder.2"}


def new_model(**changes: object) -> ViTHybridForImageClassification:
    torch.manual_seed(0)
    return ViTHybridForImageClassification(tiny_hybrid.tiny_config(**changes)).train()


def frozen_layers(model: torch.nn.Module) -> set[str]:
    """Layers of which all is frozen; none may be frozen in part."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = set()
    for layer, names in layers(model):
        assert set(names) <= trainable or not set(names) & trainable, layer
        if not set(names) & trainable:
            found.add(layer)
    return found


@pytest.mark.parametrize(
    ("up_to", "expected"),
    [
        ("stem", {"stem"}),
        ("stage1", {"stem", "stage1.block1"}),
        ("stage2", BACKBONE),
        ("backbone", BACKBONE),
        ("embeddings", BACKBONE | {"embeddings"}),
        ("encoder.1", BACKBONE | {"embeddings", "encoder.1"}),
        ("encoder.2", ALL_BUT_HEAD),
        ("all_but_head", ALL_BUT_HEAD),
        (["stage1"], {"stage1.block1"}),
        (["stem", "embeddings"], {"stem", "embeddings"}),
        (["backbone"], BACKBONE),
        (["encoder.2"], {"encoder.1", "encoder.2"}),
        (["all_but_head", "stem"], ALL_BUT_HEAD),
        ([], set()),
    ],
    # A set's own order differs from process to process, and several processes share these tests.
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_parts(up_to: str | list[str], expected: set[str]) -> None:
    model = new_model()
    remaining = freeze(model, up_to)
    assert frozen_layers(model) == expected
    by_name = dict(model.named_parameters())
    assert remaining == sum(
        by_name[name].numel() for layer, names in layers(model) if layer not in expected for name in names
    )


def test_names_of_parts() -> None:
    assert list(freezable_parts(new_model())) == [
        "stem",
        "stage1",
        "stage2",
        "backbone",
        "embeddings",
        "encoder.1",
        "encoder.2",
        "all_but_head",
    ]


def test_frozen_weights_stay_and_the_others_learn() -> None:
    model = new_model()
    freeze(model, "stage2")
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    pixels = torch.randn(4, 3, 32, 32)
    model(pixels, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not [name for name in changed if ".backbone." in name]
    assert "vit.embeddings.patch_embeddings.projection.weight" in changed


DROPPING = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3, "drop_path_rate": 0.5}


def dropping_model() -> ViTHybridForImageClassification:
    backbone = {**tiny_hybrid.tiny_config().backbone_config.to_dict(), "drop_path_rate": 0.5}
    return new_model(**DROPPING, backbone_config=backbone, attn_implementation="eager")


def features(model: ViTHybridForImageClassification) -> torch.Tensor:
    torch.manual_seed(3)
    pixels = torch.randn(8, 3, 32, 32)
    torch.manual_seed(torch.initial_seed() + 1)
    return model.vit(pixels).last_hidden_state


def test_frozen_parts_drop_nothing_in_training() -> None:
    model = dropping_model()
    expected = features(model.eval())
    model.train()
    assert not torch.allclose(features(model), expected, atol=1e-3)
    freeze(model, "all_but_head")
    model.train()  # as Trainer does at each step
    assert torch.allclose(features(model), expected, atol=1e-6)
    assert model.config.hidden_dropout_prob == 0.3


def test_the_other_parts_still_drop() -> None:
    model = dropping_model()
    freeze(model, "encoder.1")
    first, second = model.vit.encoder.layer
    assert model.vit.embeddings.dropout.p == 0.0
    assert first.attention.attention.dropout_prob == first.output.dropout.p == first.drop_path_rate == 0.0
    assert second.attention.attention.dropout_prob == second.output.dropout.p == 0.3
    assert second.drop_path_rate == 0.5
    blocks = model.vit.embeddings.patch_embeddings.backbone.bit.encoder.stages
    assert blocks[1].layers[0].drop_path.rate == 0.0
    only_stem = dropping_model()
    freeze(only_stem, "stem")
    assert only_stem.vit.embeddings.dropout.p == 0.3
    stages = only_stem.vit.embeddings.patch_embeddings.backbone.bit.encoder.stages
    assert stages[1].layers[0].drop_path.rate == 0.5


@pytest.mark.parametrize(
    ("name", "near"), [("stage9", "stage"), ("backbon", "backbone"), ("encoder.7", "encoder."), ("Stem", "stem")]
)
def test_unknown_names(name: str, near: str) -> None:
    model = new_model()
    for up_to in (name, ["stem", name]):
        with pytest.raises(
            ValueError, match=f"no part '{name}' .*did you mean '{near}.*There are: stem, stage1"
        ) as caught:
            freeze(model, up_to)
        assert "\n" not in str(caught.value)
        assert not frozen_layers(model)
    with pytest.raises(ValueError, match=r"'xyzzy' to freeze in this model\. There are: stem"):
        freeze(model, "xyzzy")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_with_adapters() -> None:
    peft = pytest.importorskip("peft", reason="adapters need the extra `peft`")
    settings = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"], lora_dropout=0.2)
    adapted = peft.get_peft_model(new_model(), settings)
    freeze(adapted, "encoder.1")
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name.split(".attention.")[0].rpartition(".")[2] for name in trainable if "lora_" in name} == {"1"}
    first, second = adapted.base_model.model.vit.encoder.layer
    assert first.attention.attention.query.lora_dropout["default"].p == 0.0
    assert second.attention.attention.query.lora_dropout["default"].p == 0.2

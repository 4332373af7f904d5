"""DPT-hybrid of transformers, with random weights, against its encoder as a hybrid, and back."""

import argparse
import ast
import collections
import hashlib
import json

import pytest
import torch
from tiny_hybrid import save_tiny_model, tiny_config
from transformers import DPTConfig, DPTForDepthEstimation, DPTForSemanticSegmentation, DPTModel, ViTConfig

from vit_hybrid import ViTHybridBackbone, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.checkpoints import dpt, opening
from vit_hybrid.checkpoints.files import ModelLoadError
from vit_hybrid.checkpoints.matching import CheckpointError
from vit_hybrid.errors import EngineWarning

SIDE = 64
BACKBONE = {
    "global_padding": "same",
    "layer_type": "bottleneck",
    "depths": [1, 2, 1],
    "hidden_sizes": [16, 32, 64],
    "embedding_size": 16,
    "num_groups": 8,
    "out_features": ["stage1", "stage2", "stage3"],
    "embedding_dynamic_padding": True,
}


def dpt_config(**changes):
    fields = {
        "is_hybrid": True,
        "backbone_config": dict(BACKBONE),
        "backbone_featmap_shape": [1, 64, 4, 4],
        "image_size": SIDE,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "backbone_out_indices": [0, 0, 1, 2],
        "neck_hidden_sizes": [16, 32, 8, 8],
        "reassemble_factors": [1, 1, 1, 0.5],
        "fusion_hidden_size": 8,
    }
    return DPTConfig(**{**fields, **changes})


def made(model_class=DPTForDepthEstimation, *, seed=0, **changes):
    """With weights all drawn at random, so that none is zero or one, as new norms and positions would be."""
    torch.manual_seed(seed)
    model = model_class(dpt_config(**changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def pixels(seed=0):
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(weight, second[name]) for name, weight in first.items())


def assert_close(given, expected):
    """Within 1e-5 of the largest value, or of one: DPT's ResNet sums in another order."""
    assert (given - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"hidden_act": "gelu_new"}, {"qkv_bias": False, "layer_norm_eps": 1e-6}])
def test_the_encoder_gives_dpts_numbers(changes):
    model = made(**changes)
    expected = model.dpt(pixels(), output_hidden_states=True)
    hybrid = dpt.from_dpt(model)
    assert type(hybrid) is ViTHybridModel
    assert not hybrid.training
    assert_close(hybrid(pixels()).last_hidden_state, expected.last_hidden_state)
    names = ["stage1", "stage2", "layer1", "layer2", "layer3"]
    found = hybrid.forward_features(pixels(), names)
    for name, activation in zip(names, [*expected.intermediate_activations, *expected.hidden_states[1:]], strict=True):
        assert_close(found[name], activation)


def test_the_configuration_says_all_that_the_encoder_is_and_does_in_training():
    said = {
        **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2, "initializer_range": 0.3},
        **{"layer_norm_eps": 1e-3, "num_channels": 1, "qkv_bias": False, "hidden_act": "relu"},
        **{"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40},
    }
    config = dpt_config(backbone_config={**BACKBONE, "num_channels": 1}, **said)
    found = dpt.hybrid_config(config)
    assert {name: getattr(found, name) for name in said} == said
    assert (found.image_size, found.patch_size, found.backbone_config.depths) == (SIDE, 1, [1, 2, 1])
    found.backbone_config.depths = [9]  # which is its own
    assert list(config.backbone_config.depths) == [1, 2, 1]


@torch.no_grad()
def test_a_whole_depth_model_sees_no_difference():
    """Its neck and head on our backbone's outputs, which are those that DPT's own encoder hands to them."""
    model = made()
    names = ["stage1", "stage2", "layer2", "layer3"]
    backbone = ViTHybridBackbone.of(dpt.from_dpt(model), out_features=names, reshape_hidden_states=False)
    depth = model.head(model.neck(list(backbone(pixels()).feature_maps)))
    assert_close(depth, model(pixels()).predicted_depth)


@pytest.mark.parametrize("model_class", [DPTForDepthEstimation, DPTForSemanticSegmentation, DPTModel])
def test_there_and_back_bit_for_bit(model_class):
    model, other = made(model_class), made(model_class, seed=1)
    hybrid = dpt.from_dpt(model)
    assert (hybrid.pooler is not None) == (model_class is DPTModel)
    before = {name: weight.clone() for name, weight in other.state_dict().items()}
    dpt.into_dpt(hybrid, other)
    assert same(other.base_model.state_dict(), model.base_model.state_dict())
    heads = {name for name in before if not name.startswith("dpt.")} if model_class is not DPTModel else set()
    assert all(torch.equal(other.state_dict()[name], before[name]) for name in heads)
    again = dpt.from_dpt(other)
    assert same(again.state_dict(), hybrid.state_dict())
    with torch.no_grad():  # copies, both ways
        other.base_model.layernorm.weight.add_(1)
    assert same(again.state_dict(), hybrid.state_dict())


def test_poolers_stay_where_only_one_of_the_two_has_one():
    with_pooler = made(DPTModel)
    kept = with_pooler.pooler.dense.weight.clone()
    dpt.into_dpt(dpt.from_dpt(made(seed=1)), with_pooler)
    assert torch.equal(with_pooler.pooler.dense.weight, kept)
    depth = made(seed=2)
    dpt.into_dpt(dpt.from_dpt(with_pooler), depth)
    assert torch.equal(depth.dpt.layernorm.weight, with_pooler.layernorm.weight)
    assert dpt.from_dpt(made(DPTModel, pooler_act="relu")).pooler is None
    assert dpt.from_dpt(made(DPTModel, pooler_output_size=12)).pooler is None
    assert dpt.from_dpt(made(DPTModel).train()).training


def test_a_classifiers_encoder_goes_into_a_dpt():
    model = made()
    classifier = ViTHybridForImageClassification(dpt.hybrid_config(model.config))
    dpt.into_dpt(classifier, model)
    assert same(dpt.from_dpt(model).state_dict(), classifier.vit.state_dict())


@pytest.mark.parametrize("model_class", [DPTForDepthEstimation, DPTForSemanticSegmentation, DPTModel])
def test_of_what_stands_behind_the_encoder_nothing_is_said(model_class, tmp_path, caplog):
    model = (
        made(model_class, use_auxiliary_head=True) if model_class is DPTForSemanticSegmentation else made(model_class)
    )
    model.save_pretrained(tmp_path)
    found = dpt.load(tmp_path)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    expected = dpt.from_dpt(model).state_dict()
    assert same(found.state_dict(), {name: one for name, one in expected.items() if not name.startswith("pooler.")})


@torch.no_grad()
def test_a_folder(tmp_path):
    model = made()
    model.save_pretrained(tmp_path)
    assert same(dpt.load(tmp_path).state_dict(), dpt.from_dpt(model).state_dict())

    source = opening.open(tmp_path)
    assert source.kind == "dpt"
    assert source.config.hidden_size == 24
    with pytest.raises(ModelLoadError, match="has no classifier"):
        source.classifier()
    classifier = source.classifier(num_labels=5)
    assert same(classifier.vit.state_dict(), dpt.from_dpt(model).state_dict())
    assert classifier(pixels()).logits.shape == (2, 5)
    assert not classifier.training
    half = source.classifier(num_labels=5, dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    assert source.backbone(dtype=torch.bfloat16).dtype == torch.bfloat16
    assert source.classifier((SIDE, 2 * SIDE), 5).config.image_size == [SIDE, 2 * SIDE]
    expected = dpt.load(tmp_path).resize_position_embeddings((2 * SIDE, SIDE // 2), mode="bilinear", antialias=False)
    for vit in (
        source.classifier((2 * SIDE, SIDE // 2), 5).vit,
        source.backbone((2 * SIDE, SIDE // 2), out_features=["layer1"]),
    ):
        assert torch.equal(vit.embeddings.position_embeddings, expected.embeddings.position_embeddings)
    checksums = [
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("model.safetensors", "config.json")
    ]
    assert list(source.provenance().values()) == [tmp_path.name, *checksums]
    assert source.preprocessing is None
    with pytest.warns(EngineWarning, match="does not say how images are prepared"):
        processor = source.processor((32, 96))
    assert processor.crop_size == {"height": 32, "width": 96}
    with pytest.warns(EngineWarning, match="does not say how images are prepared"):
        assert source.processor().crop_size == {"height": SIDE, "width": SIDE}
    backbone = source.backbone(out_features=["stage3"])
    assert torch.equal(
        backbone(pixels()).feature_maps[0], dpt.from_dpt(model).forward_features(pixels(), "stage3")["stage3"]
    )


def test_other_kinds_are_backbones_too(tmp_path):
    source = opening.open(save_tiny_model(tmp_path))
    backbone = source.backbone(image_size=(64, 32), out_features=["stem", "layer2"])
    assert backbone.channels == [16, 16]
    assert backbone.config.image_size == [64, 32]
    assert not backbone.training
    with pytest.raises(ModelLoadError, match="subset of stage_names"):
        source.backbone(out_features=["stage9"])


class TestRefusals:
    def test_a_dpt_that_is_no_hybrid(self, tmp_path):
        plain = made(is_hybrid=False, backbone_config=None, backbone_out_indices=[0, 0, 1, 2])
        with pytest.raises(ValueError, match="no hybrid"):
            dpt.from_dpt(plain)
        plain.save_pretrained(tmp_path)
        with pytest.raises(ModelLoadError, match="no hybrid"):
            dpt.load(tmp_path)
        with pytest.raises(ValueError, match="no hybrid"):
            dpt.hybrid_config(ViTConfig())  # which does not even say so

    @pytest.mark.parametrize(
        "change",
        [
            {"hidden_size": "wide"},
            {"backbone_config": 3},
            {"backbone_config": {"model_type": "resnet"}},
            {"backbone_config": {"model_type": "bit", "layer_type": "basic"}},
            {"num_attention_heads": 7},
            {"id2label": 3},
        ],
        ids=str,
    )
    def test_a_configuration_that_is_of_no_use_is_one_line(self, change, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "dpt", "is_hybrid": True, **change}))
        for read in (lambda: opening.open(tmp_path).config, lambda: dpt.load(tmp_path)):
            with pytest.raises(ModelLoadError, match=rf"^{tmp_path}: cannot use its config\.json: ") as caught:
                read()
            assert "\n" not in str(caught.value)

    def test_what_is_no_dpt(self):
        with pytest.raises(ValueError, match="is a ViTHybridModel; give a DPT"):
            dpt.from_dpt(ViTHybridModel(tiny_config()))

    @pytest.mark.parametrize(
        ("name", "ours", "theirs"),
        [
            ("group_norm_eps", "1e-06", "1e-05"),
            ("weight_standardization", "'std'", "'variance'"),
            ("weight_standardization_eps", "1e-05", "1e-08"),
            ("layer_norm_eps", "1e-06", "1e-12"),
            ("hidden_act", "'relu'", "'gelu'"),
            ("num_attention_heads", "4", "2"),
        ],
    )
    def test_other_numerics(self, name, ours, theirs):
        model = made()
        config = dpt.hybrid_config(model.config)
        setattr(config, name, ast.literal_eval(ours))
        with pytest.raises(ValueError, match=f"the hybrid has {name} {ours} and this DPT-hybrid .* with {theirs}"):
            dpt.into_dpt(ViTHybridModel(config), model)

    def test_weights_that_cannot_be_read(self, tmp_path):
        made().save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"no weights")
        with pytest.raises(ModelLoadError, match=f"^{tmp_path}: cannot load the model: "):
            dpt.load(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save({"dpt": collections.deque(), "scheme": argparse.Namespace()}, tmp_path / "pytorch_model.bin")
        with pytest.raises(ModelLoadError, match=r"its file of weights holds a \w+\.\w+ object, which takes code"):
            dpt.load(tmp_path)

    def test_other_shapes(self):
        model = made()
        config = dpt.hybrid_config(dpt_config(intermediate_size=48))
        with pytest.raises(CheckpointError, match=r"^the hybrid: the weights do not fit the model\. Misfitting"):
            dpt.into_dpt(ViTHybridModel(config, add_pooling_layer=False), model)

    def test_weights_that_are_missing(self, tmp_path):
        model = made()
        model.save_pretrained(tmp_path)
        weights = model.state_dict()
        del weights["dpt.layernorm.weight"]
        model.save_pretrained(tmp_path, state_dict=weights)
        with pytest.raises(CheckpointError, match=r"not all there\. Missing \(1\): layernorm\.weight \(24\)"):
            dpt.load(tmp_path)

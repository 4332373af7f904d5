"""The hybrid as a backbone: the numbers of its parts, configurations, loading, and the models that are built on one."""

import json
import pickle

import pytest
import torch
from tiny_hybrid import TINY_BACKBONE, save_tiny_model, tiny_config
from transformers import (
    AutoBackbone,
    AutoConfig,
    DPTConfig,
    DPTForDepthEstimation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)
from transformers.backbone_utils import BackboneType

from vit_hybrid import (
    ViTHybridBackbone,
    ViTHybridBackboneConfig,
    ViTHybridConfig,
    ViTHybridForImageClassification,
    ViTHybridModel,
)

NAMES = ["stem", "stage1", "stage2", "layer1", "layer2"]


def pixels(*shape, seed=0):
    return torch.rand(*(shape or (2, 3, 32, 32)), generator=torch.Generator().manual_seed(seed))


def classifier(**changes):
    torch.manual_seed(0)
    return ViTHybridForImageClassification(tiny_config(initializer_range=0.3, **changes)).eval()


def backbone_config(**fields):
    return ViTHybridBackboneConfig.of(tiny_config(), **fields)


class TestMaps:
    @torch.no_grad()
    def test_are_the_parts_of_a_forward_pass_to_the_bit(self):
        model = classifier()
        backbone = ViTHybridBackbone.of(model, out_features=NAMES)
        bit = model.vit.embeddings.patch_embeddings.backbone.bit
        stages = bit.encoder(bit.embedder(pixels()))
        layers = model(pixels(), output_hidden_states=True).hidden_states[1:]
        found = backbone(pixels())
        for given, expected in zip(found.feature_maps[:3], stages, strict=True):
            assert torch.equal(given, expected)
        for given, expected in zip(found.feature_maps[3:], layers, strict=True):
            assert given.shape == (2, 16, 4, 4)
            assert torch.equal(given.flatten(2).transpose(1, 2), expected[:, 1:])
        backbone.config.reshape_hidden_states = False
        for given, expected in zip(backbone(pixels()).feature_maps[3:], layers, strict=True):
            assert torch.equal(given, expected)

    @torch.no_grad()
    @pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
    @pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
    def test_follow_the_attention_and_stay_under_folding(self, attention):
        model = classifier()
        model.set_attn_implementation(attention)
        backbone = ViTHybridBackbone.of(model, out_features=["stage2", "layer2"])
        assert backbone.config._attn_implementation == attention
        expected = model(pixels(), output_hidden_states=True).hidden_states[-1]
        before = backbone(pixels()).feature_maps
        assert torch.equal(before[1].flatten(2).transpose(1, 2), expected[:, 1:])
        backbone.fold_weight_standardization()
        assert model.is_folded
        for given, kept in zip(backbone(pixels()).feature_maps, before, strict=True):
            assert torch.equal(given, kept)

    @pytest.mark.parametrize("size", [(32, 32), (64, 48), (32, 80), (37, 45)])
    @torch.no_grad()
    def test_of_any_size_have_the_channels_and_strides_that_are_said(self, size):
        backbone = ViTHybridBackbone(backbone_config(out_features=NAMES)).eval()
        assert backbone.channels == [16, 16, 32, 16, 16]
        assert backbone.strides == [4, 4, 8, 8, 8]
        assert backbone.out_feature_strides == dict(zip(NAMES, backbone.strides, strict=True))
        for given, channels, stride in zip(
            backbone(pixels(1, 3, *size)).feature_maps, backbone.channels, backbone.strides, strict=True
        ):
            assert given.shape == (1, channels, *(-(-side // stride) for side in size))

    def test_of_a_backbone_that_dilates_and_of_patches_that_are_not_square(self):
        small = {"embedding_size": 8, "hidden_sizes": [8, 16, 16], "depths": [1, 2, 1], "num_groups": 2}
        small |= {"global_padding": "same", "embedding_dynamic_padding": True, "output_stride": 8}
        hybrid = tiny_config(
            backbone_config={**small, "out_features": ["stage3"]}, patch_size=(2, 1), image_size=(64, 32)
        )
        config = ViTHybridBackboneConfig.of(hybrid, out_features=["stem", "stage3", "layer1"])
        assert config.patch_size == (16, 8)
        assert list(config.map_strides.values()) == [4, 4, 8, 8, (16, 8), (16, 8)]
        maps = ViTHybridBackbone(config)(pixels(1, 3, 64, 32)).feature_maps
        assert [tuple(given.shape[2:]) for given in maps] == [(16, 8), (8, 4), (4, 4)]

    def test_the_encoder_does_not_run_for_the_stages(self, monkeypatch):
        backbone = ViTHybridBackbone(backbone_config(out_features=["stem", "stage2"]))
        monkeypatch.setattr(backbone.encoder, "forward", None)
        assert len(backbone(pixels()).feature_maps) == 2
        for asked in ("output_hidden_states", "output_attentions"):
            with pytest.raises(TypeError):
                backbone(pixels(), **{asked: True})

    @pytest.mark.parametrize("indices", [[-2, -1], [-5, -3], [0, -1], [-4]])
    def test_indices_may_count_from_the_end(self, indices):
        config = backbone_config(out_indices=indices)
        found = ViTHybridBackbone(config).eval()
        named = ViTHybridBackbone(backbone_config(out_features=config.out_features)).eval()
        named.load_state_dict(found.state_dict())
        maps, expected = found(pixels()).feature_maps, named(pixels()).feature_maps
        assert len(maps) == len(indices)
        assert all(torch.equal(*pair) for pair in zip(maps, expected, strict=True))

    def test_pictures_are_brought_to_the_models_precision(self):
        model = classifier().to(torch.bfloat16)
        for found in ViTHybridBackbone.of(model, out_features=NAMES)(pixels()).feature_maps:
            assert found.dtype == torch.bfloat16
        features = model.forward_features(pixels(), [*NAMES, "logits"])
        assert {output.dtype for output in features.values()} == {torch.bfloat16}

    def test_no_hook_is_left_and_it_can_be_pickled(self):
        backbone = ViTHybridBackbone(backbone_config())
        backbone(pixels(), output_hidden_states=True, output_attentions=True)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())
        assert pickle.loads(pickle.dumps(backbone)).out_features == ["layer2"]

    def test_wrong_channels_are_refused(self):
        with pytest.raises(ValueError, match="made for 3"):
            ViTHybridBackbone(backbone_config())(pixels(1, 4, 32, 32))


class TestAsTransformersAsksOfBackbones:
    """What `BackboneTesterMixin` of transformers asks; upstream_modeling.py runs itself where a checkout is at hand."""

    def test_outputs_are_chosen_by_names_or_indices(self):
        assert backbone_config().out_features == ["layer2"]
        assert backbone_config(out_features=None, out_indices=None).out_indices == [4]
        assert backbone_config(out_features=["stem", "stage1"], out_indices=[0, 1]).out_features == ["stem", "stage1"]
        assert backbone_config(out_features=["stage1", "layer1"]).out_indices == [1, 3]
        assert backbone_config(out_indices=(0, -1)).out_features == ["stem", "layer2"]
        with pytest.raises(ValueError, match="correspond to the same stages"):
            backbone_config(out_features=["stem", "stage1"], out_indices=[0, 2])
        with pytest.raises(ValueError, match="subset of stage_names"):
            backbone_config(out_features=["stage7"])

    def test_attributes(self):
        backbone = ViTHybridBackbone(backbone_config(out_features=["stage1", "layer1"]))
        assert backbone.backbone_type is BackboneType.TRANSFORMERS
        assert backbone.stage_names == NAMES
        assert backbone.num_features == [16, 16, 32, 16, 16]
        assert backbone.out_indices == [1, 3]
        assert backbone.out_feature_channels == dict(zip(NAMES, backbone.num_features, strict=True))
        backbone.out_features = ["layer2"]
        assert backbone.channels == [16]
        assert len(backbone(pixels()).feature_maps) == 1

    def test_outputs(self):
        backbone = ViTHybridBackbone(backbone_config(out_features=["stage1", "layer1"])).eval()
        plain = backbone(pixels())
        assert isinstance(plain.feature_maps, tuple)
        assert plain.hidden_states is None
        assert plain.attentions is None
        asked = backbone(pixels(), output_hidden_states=True, output_attentions=True)
        assert len(asked.hidden_states) == len(NAMES)
        assert [tuple(weights.shape) for weights in asked.attentions] == [(2, 2, 17, 17)] * 2
        backbone.set_attn_implementation("eager")  # or transformers takes no such configuration
        backbone.config.output_hidden_states = backbone.config.output_attentions = True
        asked = backbone(pixels())
        assert (len(asked.hidden_states), len(asked.attentions)) == (len(NAMES), 2)
        backbone.config.output_attentions = False
        assert backbone(pixels()).attentions is None
        backbone.config.output_hidden_states, backbone.config.output_attentions = False, True
        assert (backbone(pixels()).hidden_states, len(backbone(pixels()).attentions)) == (None, 2)
        plain = backbone(pixels(), output_hidden_states=False, output_attentions=False)
        assert (plain.hidden_states, plain.attentions) == (None, None)
        assert isinstance(backbone(pixels(), return_dict=False), tuple)
        assert len(backbone.forward_with_filtered_kwargs(pixels(), output_attentions=True).attentions) == 2


class TestConfiguration:
    def test_a_hybrids_is_copied_and_stays_as_it_is(self):
        hybrid = tiny_config(num_attention_heads=4, initializer_range=0.1)
        before = hybrid.to_json_string()
        config = ViTHybridBackboneConfig.of(hybrid, out_features=["stage1"], reshape_hidden_states=False)
        config.image_size = 64
        assert config.hybrid_config.image_size == 64
        assert hybrid.to_json_string() == before
        assert (config.hidden_size, config.num_hidden_layers, config.num_channels) == (16, 2, 3)
        assert (config.num_attention_heads, config.intermediate_size, config.initializer_range) == (4, 24, 0.1)
        config.num_attention_heads = 8
        assert (config.hybrid_config.num_attention_heads, hybrid.num_attention_heads) == (8, 4)

    def test_survives_a_folder_and_a_dictionary(self, tmp_path):
        config = backbone_config(out_features=["stage1", "layer1"], reshape_hidden_states=False)
        config.save_pretrained(tmp_path)
        for again in (AutoConfig.from_pretrained(tmp_path), ViTHybridBackboneConfig.from_dict(config.to_dict())):
            assert type(again) is ViTHybridBackboneConfig
            assert type(again.hybrid_config) is ViTHybridConfig
            assert again.to_diff_dict() == config.to_diff_dict()

    def test_is_read_from_a_classifiers_folder(self, tmp_path):
        save_tiny_model(tmp_path)
        config = ViTHybridBackboneConfig.from_pretrained(tmp_path, out_indices=[1])
        assert config.out_features == ["stage1"]
        assert config.hybrid_config.hidden_size == 16
        assert config.model_type == "vit-hybrid-backbone"

    def test_the_total_stride_of_published_hybrids(self):
        for preset, side in (("R50+B/16", 16), ("R50+L/32", 32), ("R26+S/32", 32)):
            assert ViTHybridBackboneConfig.of(ViTHybridConfig.from_preset(preset)).patch_size == side

    def test_the_strides_of_a_hybrid_that_reads_an_earlier_stage(self):
        hybrid = tiny_config(backbone_config={**TINY_BACKBONE, "out_features": ["stage1"]})
        config = ViTHybridBackboneConfig.of(hybrid)
        assert config.map_strides == {"stem": 4, "stage1": 4, "layer1": 4, "layer2": 4}
        assert config.patch_size == 4

    def test_by_default_it_is_of_the_default_hybrid(self):
        config = ViTHybridBackboneConfig()
        assert config.hybrid_config.to_dict() == ViTHybridConfig().to_dict()
        assert (config.out_features, config.patch_size) == (["layer12"], 16)

    def test_attention_that_is_asked_for_is_that_of_the_layers(self):
        config = backbone_config(attn_implementation="eager")
        assert config._attn_implementation == config.hybrid_config._attn_implementation == "eager"

    def test_what_cannot_run_is_refused(self):
        with pytest.raises(ValueError, match="hybrid_config is a str"):
            ViTHybridBackboneConfig(hybrid_config="R50+B/16")
        config = backbone_config()
        config.hybrid_config.num_attention_heads = 3
        with pytest.raises(ValueError, match="not a multiple of num_attention_heads"):
            ViTHybridBackbone(config)


class TestLoading:
    @pytest.mark.parametrize("kind", ["classifier", "model", "pre-logits"])
    def test_any_checkpoint_of_the_family_whole_and_without_a_word(self, kind, tmp_path):
        saved = classifier(representation_size=8 if kind == "pre-logits" else None)
        base = saved.vit
        if kind == "model":
            saved = base = ViTHybridModel(tiny_config(), use_mask_token=True)
        saved.save_pretrained(tmp_path)
        before = (tmp_path / "config.json").read_bytes()
        backbone, report = ViTHybridBackbone.from_pretrained(
            tmp_path, out_features=["stage2", "layer1"], output_loading_info=True
        )
        assert not any(report.values())
        assert backbone.out_features == ["stage2", "layer1"]
        state = base.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())
        assert (tmp_path / "config.json").read_bytes() == before

    def test_its_own_folder(self, tmp_path):
        backbone = ViTHybridBackbone.of(classifier(), out_indices=[2, 4], reshape_hidden_states=False)
        backbone.save_pretrained(tmp_path)
        fields = json.loads((tmp_path / "config.json").read_text())
        assert fields["model_type"] == "vit-hybrid-backbone"
        assert fields["out_features"] == ["stage2", "layer2"]
        again, report = ViTHybridBackbone.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values())
        for given, expected in zip(again(pixels()).feature_maps, backbone(pixels()).feature_maps, strict=True):
            assert torch.equal(given, expected)

    def test_for_another_size_and_attention(self, tmp_path):
        save_tiny_model(tmp_path)
        backbone = ViTHybridBackbone.from_pretrained(tmp_path, image_size=(64, 32), attn_implementation="eager")
        assert backbone.config.image_size == [64, 32]
        assert backbone.embeddings.position_embeddings.shape == (1, 1 + 8 * 4, 16)
        assert backbone.encoder.layer[0].attention.attention.config._attn_implementation == "eager"

    def test_auto_backbone_makes_one_of_both_configurations(self):
        assert AutoBackbone.from_config(tiny_config()).out_features == ["layer2"]
        made = AutoBackbone.from_config(backbone_config(out_features=["stem"]))
        assert type(made) is ViTHybridBackbone
        assert made.channels == [16]

    def test_a_classifiers_configuration_is_taken_for_its_folder(self, tmp_path):
        given = {"config": ViTHybridConfig.from_pretrained(save_tiny_model(tmp_path))}
        fields = {"out_features": ["stage1", "layer2"], "reshape_hidden_states": False}
        found = ViTHybridBackbone.from_pretrained(tmp_path, **given, **fields)
        assert (found.out_features, found.config.reshape_hidden_states) == (["stage1", "layer2"], False)
        assert ViTHybridBackbone.from_pretrained(tmp_path, **given, out_indices=[0, 3]).out_features == [
            "stem",
            "layer1",
        ]

    def test_both_share_their_weights(self):
        model = classifier().train()
        backbone = ViTHybridBackbone.of(model)
        assert backbone.training
        assert backbone.config.hybrid_config is model.config
        assert not ViTHybridBackbone.of(classifier().eval()).training
        shared = {id(weight) for weight in model.parameters()}
        assert all(id(weight) in shared for weight in backbone.parameters())
        assert ViTHybridBackbone.of(model.vit, out_features=["stem"]).channels == [16]


class TestInside:
    """The models that transformers builds on a backbone."""

    def assert_trains(self, loss, backbone):
        loss.backward()
        missing = [name for name, weight in backbone.named_parameters() if weight.grad is None]
        assert missing == []
        assert all(weight.grad.isfinite().all() for weight in backbone.parameters())

    def test_upernet(self, tmp_path):
        config = UperNetConfig(
            backbone_config=backbone_config(out_features=["stem", "stage1", "stage2", "layer2"]),
            hidden_size=8,
            pool_scales=[1, 2],
            auxiliary_channels=8,
            auxiliary_in_index=2,
            num_labels=3,
        )
        torch.manual_seed(0)
        model = UperNetForSemanticSegmentation(config).train()
        found = model(pixels(2, 3, 64, 48), labels=torch.randint(3, (2, 64, 48)))
        assert found.logits.shape == (2, 3, 64, 48)
        self.assert_trains(found.loss, model.backbone)
        model.eval().save_pretrained(tmp_path)
        # The weights are the same, but lie elsewhere in memory, which is enough for a convolution's last bit.
        again = UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            assert torch.allclose(again(pixels()).logits, model(pixels()).logits, atol=1e-6)

    def test_dpt(self, tmp_path):
        config = DPTConfig(
            backbone_config=backbone_config(out_features=["layer1", "layer2"], reshape_hidden_states=False),
            neck_hidden_sizes=[8, 8],
            reassemble_factors=[2, 1],
            fusion_hidden_size=8,
        )
        torch.manual_seed(0)
        model = DPTForDepthEstimation(config).train()
        depth = model(pixels(2, 3, 64, 48)).predicted_depth
        assert depth.shape[0] == 2
        assert depth.shape[1] * 48 == depth.shape[2] * 64
        self.assert_trains((depth - 1).square().mean(), model.backbone)
        model.eval().save_pretrained(tmp_path)
        again = DPTForDepthEstimation.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            assert torch.allclose(again(pixels()).predicted_depth, model(pixels()).predicted_depth, atol=1e-6)

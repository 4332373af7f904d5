"""`ViTHybridConfig`: what it derives, what it reads, what it refuses, and what 4.49 could read back."""

import json
from pathlib import Path

import pytest
import torch
from tiny_hybrid import SMALL_BACKBONE, TINY_BACKBONE, tiny_config
from transformers import BitConfig, PreTrainedConfig

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.model import configuration, modeling
from vit_hybrid.model.complexity import complexity, memory
from vit_hybrid.model.configuration import FIELDS_NEW_SINCE_LEGACY


def saved(config: ViTHybridConfig, folder, **changes):
    """`config.json` of `config` in `folder`, with some fields changed behind its back."""
    config.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def test_default_is_r50_b16_at_its_own_size():
    config = ViTHybridConfig()
    assert config.image_size == 224
    assert config.backbone_featmap_shape == [1, 1024, 14, 14]
    assert isinstance(config.backbone_config, BitConfig)
    assert config.backbone_config.depths == [3, 4, 9]
    assert config.backbone_config.global_padding == "SAME"
    assert (config.hidden_act, config.qkv_bias, config.num_channels, config.patch_size) == ("gelu", True, 3, 1)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.drop_path_rate) == (0, 0, 0)
    assert (config.layer_norm_eps, config.initializer_range, config.representation_size) == (1e-12, 0.02, None)
    assert (config.weight_standardization, config.weight_standardization_eps) == ("variance", 1e-8)
    assert config.group_norm_eps == 1e-5


def test_width_factor_counts_in_the_feature_map():
    config = ViTHybridConfig(backbone_config={**SMALL_BACKBONE, "layer_type": "bottleneck", "width_factor": 2})
    assert config.backbone_featmap_shape[1] == 32
    assert ViTHybridModel(tiny_config(backbone_config=config.backbone_config)).embeddings is not None


def test_image_size_at_load_derives_the_feature_map_anew(tmp_path):
    saved(ViTHybridConfig(image_size=384), tmp_path)
    assert ViTHybridConfig.from_pretrained(tmp_path).backbone_featmap_shape == [1, 1024, 24, 24]
    config = ViTHybridConfig.from_pretrained(tmp_path, image_size=[224, 320])
    assert config.backbone_featmap_shape == [1, 1024, 14, 20]


def test_image_size_at_load_mends_a_contradicting_file(tmp_path):
    saved(ViTHybridConfig(), tmp_path, backbone_featmap_shape=[1, 1024, 24, 24])
    with pytest.raises(ValueError, match="backbone_featmap_shape"):
        ViTHybridConfig.from_pretrained(tmp_path)
    assert ViTHybridConfig.from_pretrained(tmp_path, image_size=384).backbone_featmap_shape == [1, 1024, 24, 24]
    again = ViTHybridConfig.from_pretrained(tmp_path, backbone_config=ViTHybridConfig().backbone_config)
    assert again.backbone_featmap_shape == [1, 1024, 14, 14]


def test_assignments_keep_the_feature_map_right():
    config = ViTHybridConfig()
    config.image_size = 384
    assert config.backbone_featmap_shape == [1, 1024, 24, 24]
    config.backbone_config = {**SMALL_BACKBONE, "out_features": ["stage1"]}
    assert config.backbone_featmap_shape == [1, 8, 96, 96]
    config.num_channels = 1
    assert config.backbone_config.num_channels == 1
    config._attn_implementation = "eager"  # of which code that walks nested configurations expects one answer
    assert config._attn_implementation == config.backbone_config._attn_implementation == "eager"


def test_contradiction_made_by_assignment_is_refused_by_the_model():
    config = tiny_config()
    config.backbone_featmap_shape = [1, 32, 9, 9]
    with pytest.raises(ValueError, match=r"\[1, 32, 4, 4\]"):
        ViTHybridModel(config)
    config.backbone_featmap_shape = None
    assert config.backbone_featmap_shape == [1, 32, 4, 4]
    ViTHybridModel(config)


def test_stored_shape_with_the_same_patches_is_put_right(monkeypatch):
    """4.49 read two numbers from the shape, so a transposed or rounded-up one ran there."""
    fields = {"image_size": [224, 320], "backbone_featmap_shape": [8, 1024, 20, 14]}
    said = []
    monkeypatch.setattr(configuration.logger, "warning", said.append)
    config = ViTHybridConfig(**fields)
    assert config.backbone_featmap_shape == [1, 1024, 14, 20]
    assert len(said) == 1
    assert "[8, 1024, 20, 14] was stored for a feature map that really is [1, 1024, 14, 20]" in said[0]
    config = ViTHybridConfig(image_size=[224, 320], backbone_featmap_shape=(8, 1024, 14, 20))
    assert (config.backbone_featmap_shape, len(said)) == ([1, 1024, 14, 20], 1)  # a batch is nobody's business


REFUSED = {
    "heads": ({"hidden_size": 768, "num_attention_heads": 10}, "heads that divides"),
    "patch": ({"image_size": 32, "patch_size": 3}, "smaller than a patch"),
    "layer type": ({"backbone_config": {"layer_type": "basic"}}, "preactivation,bottleneck"),
    "padding": ({"backbone_config": {"global_padding": "reflect"}}, "'SAME', 'VALID' or None"),
    "stage": ({"backbone_config": {"out_features": ["stage9"]}}, "stage9"),
    "type of a field": ({"backbone_config": {"depths": "many"}}, "depths"),
    "other backbone": ({"backbone_config": {"model_type": "resnet"}}, "'resnet'.*BitConfig"),
    "other config": ({"backbone_config": PreTrainedConfig()}, "BiT backbone"),
    "not a config": ({"backbone_config": 3}, "int"),
    "pretrained": ({"use_pretrained_backbone": True}, "from_pretrained"),
    "timm": ({"use_timm_backbone": True}, "timm"),
    "both": ({"backbone": "google/bit-50", "backbone_config": {}}, "Give one of them"),
    "kwargs": ({"backbone_kwargs": {"depths": [1]}, "backbone_config": {}}, "backbone_kwargs"),
    "shape": ({"backbone_featmap_shape": [1, 1024, 24, 24]}, r"\[1, 1024, 14, 14\]"),
    "channels of the shape": ({"backbone_featmap_shape": [1, 512, 14, 14]}, r"\[1, 1024, 14, 14\]"),
    "length of the shape": ({"backbone_featmap_shape": [14, 14]}, r"\[1, 1024, 14, 14\]"),
    "channels": (
        {"num_channels": 4, "backbone_config": {"num_channels": 3}},
        "num_channels is 4, but backbone_config.num_channels is 3. Set both to the number of channels of",
    ),
    "groups": ({"backbone_config": {"num_groups": 24}}, "num_groups"),
    "widths": ({"backbone_config": {"depths": [1, 1], "hidden_sizes": [32]}}, "a width a stage"),
    "shrinking residual": ({"backbone_config": {"global_padding": "VALID"}}, "shrinks"),
    "tiny image": ({"image_size": 3, "backbone_config": {"global_padding": "VALID"}}, "too small"),
    "no image": ({"image_size": 0}, "image_size"),
    "three sides": ({"image_size": [1, 2, 3]}, "pair"),
    "second side": ({"image_size": [224, 0]}, "image_size is 0; give a whole number of 1 or more"),
    "no patch": ({"patch_size": [1, 0]}, "patch_size is 0; give a whole number of 1 or more"),
    "wide patch": (
        {"image_size": [64, 32], "patch_size": [1, 3]},
        "map of a 64x32 image is 4x2, smaller than a .* 1x3",
    ),
    "tall patch": (
        {"image_size": [32, 64], "patch_size": [3, 1]},
        "map of a 32x64 image is 2x4, smaller than a .* 3x1",
    ),
    "text size": ({"hidden_size": "768"}, "hidden_size"),
    "heads of none": ({"num_attention_heads": 0}, "num_attention_heads is 0; give a whole number of 1 or more"),
    "nothing inside": ({"intermediate_size": 0}, "intermediate_size is 0; give a whole number of 1 or more"),
    "no channels": ({"num_channels": 0}, "num_channels is 0; give a whole number of 1 or more"),
    "a truth value": ({"intermediate_size": True}, "intermediate_size is True"),
    "layers": ({"num_hidden_layers": -1}, "num_hidden_layers is -1; give a whole number, 0 or more"),
    "layers that are none": ({"num_hidden_layers": True}, "num_hidden_layers is True"),
    "representation": ({"representation_size": 0}, "representation_size is 0; give a whole number of 1 or more"),
    "dropout": ({"hidden_dropout_prob": 1.5}, "between 0 and 1"),
    "dropout of attention": (
        {"attention_probs_dropout_prob": -0.1},
        "attention_probs_dropout_prob is -0.1; give a prob",
    ),
    "drop path": ({"drop_path_rate": 1.0}, "below 1"),
    "drop path below nothing": ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1; give a probability between 0 and 1"),
    "standardization": ({"weight_standardization": "mean"}, "'variance'"),
    "epsilon": ({"group_norm_eps": -1e-5}, "group_norm_eps"),
}


@pytest.mark.parametrize(("fields", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_run_is_refused(fields, says):
    with pytest.raises(ValueError, match=says) as caught:
        ViTHybridConfig(**fields)
    assert "\n" not in str(caught.value)


def test_valid_padding_runs_where_residuals_fit():
    """Without a stage (R+Ti/16's backbone) nothing is added, so no padding can be wrong."""
    backbone = {"depths": [], "hidden_sizes": [], "layer_type": "bottleneck", "global_padding": "VALID"}
    config = tiny_config(image_size=65, backbone_config={**backbone, "embedding_size": 16, "num_groups": 4})
    assert config.backbone_featmap_shape == [1, 16, 15, 15]
    ViTHybridModel(config)(torch.zeros(1, 3, 65, 65))


def test_a_stored_shape_gives_way_where_the_backbone_is_another():
    fields = tiny_config().to_dict()
    assert fields["backbone_featmap_shape"] == [1, 32, 4, 4]
    backbone = tiny_config(backbone_config={**TINY_BACKBONE, "out_features": ["stage1"]}).backbone_config
    other = ViTHybridConfig.from_dict(fields, backbone_config=backbone)
    assert other.backbone_featmap_shape == [1, 16, 8, 8]


def test_of_several_maps_of_the_backbone_the_last_is_read():
    both = {**TINY_BACKBONE, "out_features": ["stage1", "stage2"]}
    config, plain = tiny_config(backbone_config=both), tiny_config()
    assert config.backbone_featmap_shape == [1, 32, 4, 4]
    assert (config.grid_size, config.feature_names) == ((4, 4), ["stem", "stage1", "stage2", "layer1", "layer2"])
    assert (complexity(config), memory(config)) == (complexity(plain), memory(plain))
    models = [ViTHybridModel(one).eval() for one in (config, plain)]
    models[0].load_state_dict(models[1].state_dict())
    found, expected = (model(torch.ones(1, 3, 32, 32)).last_hidden_state for model in models)
    assert torch.equal(found, expected)


def test_an_activation_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"hidden_act is 'swoosh'; give one of .*gelu.*silu"):
        ViTHybridModel(tiny_config(hidden_act="swoosh"))


def test_a_stage_without_blocks_has_no_width_that_groups_could_not_divide():
    """A bottleneck in it would have 8 channels, a fourth of the stem's rounded up, in 16 groups."""
    wide = {"depths": [0, 1], "hidden_sizes": [16, 64], "num_groups": 16}
    config = tiny_config(backbone_config={**TINY_BACKBONE, **wide})
    assert config.backbone_featmap_shape[1] == 64
    with pytest.raises(ValueError, match=r"num_groups \(16\) does not divide the backbone's widths 8"):
        tiny_config(backbone_config={**TINY_BACKBONE, **wide, "depths": [1, 1]})
    ViTHybridModel(config)(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("stored", ["absent", None, {"layer_type": "bottleneck", "depths": [3, 4, 9]}])
def test_reads_files_without_a_full_backbone_config(tmp_path, stored):
    changes = {} if stored == "absent" else {"backbone_config": stored}
    file = saved(ViTHybridConfig(), tmp_path, **changes) / "config.json"
    if stored == "absent":
        fields = json.loads(file.read_text())
        del fields["backbone_config"]
        file.write_text(json.dumps(fields))
    config = ViTHybridConfig.from_pretrained(tmp_path)
    assert config.backbone_config.depths == [3, 4, 9]
    assert config.backbone_config.model_type == "bit"


def test_reads_and_saves_the_full_dump_of_older_fine_tunes(tmp_path):
    dump = json.loads((Path(__file__).parents[1] / "recorded" / "legacy" / "full_backbone_dump.json").read_text())
    saved(ViTHybridConfig(image_size=384), tmp_path, backbone_config=dump)
    config = ViTHybridConfig.from_pretrained(tmp_path)
    assert config.backbone_config.depths == [3, 4, 9]
    assert config.backbone_config.out_features == ["stage3"]
    again = tmp_path / "again"
    config.save_pretrained(again)
    assert ViTHybridConfig.from_pretrained(again).backbone_featmap_shape == [1, 1024, 24, 24]


def test_backbone_named_by_a_folder_is_read_once(tmp_path):
    BitConfig(**SMALL_BACKBONE, layer_type="bottleneck").save_pretrained(tmp_path)
    config = ViTHybridConfig(backbone=str(tmp_path), backbone_kwargs={"out_indices": [2]})
    assert config.backbone_config.out_features == ["stage2"]
    assert config.backbone_featmap_shape == [1, 16, 28, 28]
    assert config.backbone is None
    assert ViTHybridConfig(**config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_everything_may_be_dropped_and_nothing(name):
    assert [getattr(tiny_config(**{name: value}), name) for value in (0, 1.0)] == [0, 1.0]


def test_a_backbone_that_says_no_model_type_is_taken_for_bit():
    assert tiny_config(backbone_config={**TINY_BACKBONE, "model_type": None}).backbone_featmap_shape == [1, 32, 4, 4]


def test_the_groups_divide_the_stem_too():
    with pytest.raises(ValueError, match=r"does not divide the backbone's widths 12\. Choose"):
        tiny_config(backbone_config={**TINY_BACKBONE, "embedding_size": 12})


def test_an_activation_may_be_given_as_a_function():
    assert modeling.activation_function(torch.tanh) is torch.tanh


def test_gray_images_need_no_second_field():
    config = ViTHybridConfig(num_channels=1)
    assert config.backbone_config.num_channels == 1


def test_file_holds_what_4_49_set_differently_and_no_new_field(tmp_path):
    fields = json.loads((saved(ViTHybridConfig(), tmp_path) / "config.json").read_text())
    assert fields["backbone_featmap_shape"] == [1, 1024, 14, 14]
    assert fields["backbone_config"]["model_type"] == "bit"
    assert not FIELDS_NEW_SINCE_LEGACY.keys() & fields.keys()


@pytest.fixture
def messages(monkeypatch):
    """What is said of configurations."""
    told: list[str] = []
    monkeypatch.setattr(configuration.logger, "warning", lambda text: told.append(text))
    return told


def test_fields_of_a_backbone_that_is_not_named_are_left_out_and_said(messages, tmp_path):
    config = ViTHybridConfig(backbone_kwargs={"out_indices": [2]})
    assert config.backbone_config.out_features == ["stage3"]
    [told] = messages
    assert told.startswith("backbone_kwargs={'out_indices': [2]} changes nothing without `backbone`")
    config.save_pretrained(tmp_path)
    assert ViTHybridConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert ViTHybridConfig(backbone_kwargs={}).backbone_config.out_features == ["stage3"]
    assert len(messages) == 1


def test_saving_what_4_49_would_ignore_warns(messages, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    assert messages == []
    tiny_config(group_norm_eps=1e-6, drop_path_rate=0.1).save_pretrained(tmp_path)
    assert len(messages) == 1
    assert "group_norm_eps, drop_path_rate" in messages[0]
    assert ViTHybridConfig.from_pretrained(tmp_path).group_norm_eps == 1e-6


def test_what_cannot_run_is_not_saved(tmp_path):
    config = tiny_config()
    config.num_attention_heads = 3
    with pytest.raises(ValueError, match="not a multiple of num_attention_heads"):
        config.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_saving_is_asked_for_besides_is_handed_on(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(PreTrainedConfig, "save_pretrained", lambda self, *given, **named: asked.append((given, named)))
    tiny_config().save_pretrained(tmp_path, push_to_hub=True, private=True)
    assert asked == [((tmp_path,), {"push_to_hub": True, "private": True})]


def test_round_trip_is_equal(tmp_path):
    config = tiny_config(
        image_size=[40, 56], weight_standardization="std", weight_standardization_eps=1e-5, hidden_act="gelu_new"
    )
    config.save_pretrained(tmp_path)
    assert ViTHybridConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", ["weight_standardization_eps", "group_norm_eps", "layer_norm_eps"])
def test_an_epsilon_may_be_zero_and_no_less(name):
    assert getattr(tiny_config(**{name: 0.0}), name) == 0.0
    for other in (-1e-12, float("nan")):
        with pytest.raises(ValueError, match=f"{name} is {other}; give a number of 0 or more"):
            tiny_config(**{name: other})


def test_every_epsilon_reaches_the_backbone():
    config = tiny_config(weight_standardization="std", weight_standardization_eps=1e-3, group_norm_eps=1e-2)
    model = ViTHybridForImageClassification(config)
    bit = model.vit.embeddings.patch_embeddings.backbone.bit
    convolutions = [module for module in bit.modules() if isinstance(module, torch.nn.Conv2d)]
    norms = [module for module in bit.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert {(convolution.form, convolution.eps) for convolution in convolutions} == {("std", 1e-3)}
    assert {norm.eps for norm in norms} == {1e-2}

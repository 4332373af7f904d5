"""timm's weights, held against what timm itself computed, wrote and published.

The numbers are recorded by scripts/record_timm_outputs.py; tests/timm_recipe.py makes weights and pixels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import textwrap
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm_recipe as recipe
import torch
from fresh_process import run_forked
from hub_server import LocalHub
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_hybrid import tiny_config

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridImageProcessor, ViTHybridModel
from vit_hybrid.checkpoints import timm, timm_config, timm_files
from vit_hybrid.checkpoints.matching import CheckpointError
from vit_hybrid.checkpoints.timm_config import Description, untold
from vit_hybrid.checkpoints.timm_files import RELEASES, WEIGHT_FILES
from vit_hybrid.errors import LFS_POINTER
from vit_hybrid.model.positions import resize_positions
from vit_hybrid.model.presets import PRESETS, Preset

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "timm"
TIMM_PYTHON = "VIT_HYBRID_TIMM_PYTHON"  # names an interpreter with timm, for the check of what is written here

CASES = json.loads((RECORDED / "cases.json").read_text())
PUBLISHED = json.loads((RECORDED / "releases.json").read_text())
HYBRIDS = {name: release for name, release in PUBLISHED.items() if "layout" in release}
OTHERS = sorted(PUBLISHED.keys() - HYBRIDS.keys())
SMALL = sorted(name for name, case in CASES.items() if math.prod(case["layout"]["cls_token"]) <= 128)
# Where the weights do not tell everything and no config.json is given, this does.
NEEDED = {
    "narrow_heads_wide_patch": {"num_heads": 4},
    "odd_rectangle_gray_no_qkv_bias": {"image_size": (70, 50)},
    "small_tiny_r": {"num_heads": 3},
}

TOLERANCE = 1e-4
ARCHITECTURE_FIELDS = (
    "hidden_size num_hidden_layers num_attention_heads intermediate_size patch_size image_size num_channels qkv_bias "
    "num_labels hidden_act layer_norm_eps group_norm_eps weight_standardization weight_standardization_eps"
).split()


@pytest.fixture(scope="module")
def outputs() -> dict[str, torch.Tensor]:
    return load_file(RECORDED / "outputs.safetensors")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the module logs."""
    timm.logger.addHandler(caplog.handler)
    yield caplog
    timm.logger.removeHandler(caplog.handler)


def weights_of(case: str) -> dict[str, torch.Tensor]:
    return recipe.state_dict(CASES[case]["layout"])


def on_meta(layout: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in layout.items()}


def logits(model: ViTHybridForImageClassification, case: str) -> torch.Tensor:
    size = model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    with torch.no_grad():
        return model(recipe.pixels(case, model.config.num_channels, height, width)).logits


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


# What timm computes


@pytest.mark.parametrize("case", [case for case in CASES if case != "tanh_gelu"])
def test_logits_are_those_of_timm(case: str, outputs: dict[str, torch.Tensor]) -> None:
    model = timm.load(weights_of(case), **NEEDED.get(case, {}))
    assert type(model) is ViTHybridForImageClassification
    assert not model.training
    found = logits(model, case)
    assert found.shape == outputs[case].shape
    assert (found - outputs[case]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("weights", [*WEIGHT_FILES, "checkpoint.pth.tar"])
@pytest.mark.parametrize("case", ["small_tiny_r", "tanh_gelu"])
def test_a_folder_of_timm_needs_nothing_else(
    case: str, weights: str, outputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CASES[case]["config"]))
    write = save_file if weights.endswith(".safetensors") else torch.save
    write(weights_of(case), tmp_path / weights)
    model = timm.load(tmp_path)
    assert model.config.num_attention_heads == CASES[case]["num_heads"]
    assert model.config.hidden_act == ("gelu_pytorch_tanh" if case == "tanh_gelu" else "gelu")
    assert (logits(model, case) - outputs[case]).abs().max() <= TOLERANCE
    if weights in WEIGHT_FILES:  # named itself, the file is still the one that config.json is about
        assert timm.read_config(str(tmp_path / weights)).num_attention_heads == CASES[case]["num_heads"]
        assert timm.image_processor(tmp_path / weights).to_dict() == timm.image_processor(tmp_path).to_dict()
    assert timm.load(tmp_path, num_heads=1).config.num_attention_heads == 1  # whatever the file says


def test_the_configuration_carries_the_numbers_of_timm() -> None:
    config = timm.read_config(on_meta(CASES["two_stages"]["layout"]))
    assert (config.weight_standardization, config.weight_standardization_eps) == ("variance", 1e-8)
    assert (config.group_norm_eps, config.layer_norm_eps, config.hidden_act) == (1e-5, 1e-6, "gelu")
    backbone = config.backbone_config
    assert (backbone.num_groups, backbone.global_padding, backbone.hidden_act) == (32, "SAME", "relu")
    assert (backbone.depths, backbone.hidden_sizes, backbone.embedding_size) == ([1, 2], [128, 256], 32)
    assert config.representation_size is None


@pytest.mark.parametrize("with_name", [False, True])
@pytest.mark.parametrize("release", HYBRIDS)
def test_every_release_is_understood(release: str, with_name: bool) -> None:
    expected = HYBRIDS[release]
    config = timm.read_config(on_meta(expected["layout"]), f"timm/{release}" if with_name else None)
    assert config.num_labels == expected["num_classes"]
    assert config.image_size == expected["input_size"][-1]
    assert (config.hidden_size, config.num_attention_heads) == (expected["hidden_size"], expected["num_heads"])
    with torch.device("meta"):
        model = ViTHybridForImageClassification(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["parameters"]


def test_the_releases_are_those_of_timm() -> None:
    assert sorted(RELEASES) == sorted(HYBRIDS)
    for architecture in {name.partition(".")[0] for name in HYBRIDS}:
        first, *_ = [name for name in HYBRIDS if name.startswith(f"{architecture}.")]
        assert next(name for name in RELEASES if name.startswith(f"{architecture}.")) == first
    for name, expected in (
        ("vit_tiny_r_s16_p8_384", ("timm/vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k", None)),
        ("hf-hub:timm/vit_base_resnet50_384@v1", ("timm/vit_base_r50_s16_384.orig_in21k_ft_in1k", "v1")),
        ("hf_hub:someone/vit_base_resnet50_384", ("someone/vit_base_resnet50_384", None)),
        ("someone/fine-tune@", ("someone/fine-tune", None)),
        *((name, (f"timm/{name}", None)) for name in RELEASES if not name.endswith(".untrained")),
    ):
        assert timm_files._hub_repository(name) == expected
    assert [name for name in RELEASES if name.endswith(".untrained")] == [
        name for name, release in HYBRIDS.items() if not release["has_weights"]
    ]


# What timm does to images


@pytest.mark.parametrize("release", HYBRIDS)
@pytest.mark.parametrize("prefix", ["", "timm/", "hf-hub:timm/"])
def test_image_processors_are_those_of_timm(release: str, prefix: str) -> None:
    expected = HYBRIDS[release]
    processor = timm.image_processor(prefix + release)
    assert type(processor) is ViTHybridImageProcessor
    assert processor.size == {"shortest_edge": expected["resize"]}
    height, width = expected["crop"]
    assert processor.crop_size == {"height": height, "width": width}
    assert (expected["interpolation"], int(processor.resample)) == ("bicubic", 3)
    assert (processor.image_mean, processor.image_std) == (expected["mean"], expected["std"])
    steps = (processor.do_resize, processor.do_center_crop, processor.do_rescale, processor.do_normalize)
    assert all(steps)


@pytest.mark.parametrize(
    ("size", "image_size", "mode"),
    [
        ({"shortest_edge": 71}, (64, 64), "center"),
        ({"height": 71, "width": 71}, (64, 64), "squash"),
        ({"height": 71, "width": 106}, (64, 96), "squash"),
    ],
)
def test_preprocessing_in_timms_words_is_read_as_it_was(size: Any, image_size: tuple[int, int], mode: str) -> None:
    crop = {"height": image_size[0], "width": image_size[1]}
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    processor = ViTHybridImageProcessor(size=size, crop_size=crop, image_mean=mean, image_std=std, resample=2)
    said = timm_config.data_from(processor, image_size)
    expected = {"interpolation": "bilinear", "crop_pct": 0.9, "crop_mode": mode, "mean": mean, "std": std}
    assert said == expected
    found = timm.image_processor({**said, "input_size": [3, *image_size]}, image_size=image_size)
    assert (found.size, found.crop_size, found.image_mean, found.image_std) == (size, crop, mean, std)
    processor.image_mean, processor.image_std = 0.4, 0.2  # one number for all channels, where timm has a list
    said = timm_config.data_from(processor, image_size)
    assert (said["mean"], said["std"]) == ([0.4] * 3, [0.2] * 3)


def test_preprocessing_is_read_from_a_folder(tmp_path: Path) -> None:
    fields = json.loads(json.dumps(CASES["small_tiny_r"]["config"]))
    fields["pretrained_cfg"] |= {"interpolation": "bilinear", "crop_pct": 0.95, "mean": [0.4, 0.5, 0.6]}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for source in (tmp_path, str(tmp_path), fields, fields["pretrained_cfg"]):
        processor = timm.image_processor(source)
        assert processor.size == {"shortest_edge": math.floor(64 / 0.95)}
        assert processor.crop_size == {"height": 64, "width": 64}
        assert (int(processor.resample), processor.image_mean) == (2, [0.4, 0.5, 0.6])
    fields["pretrained_cfg"]["crop_mode"] = "squash"
    squashed = timm.image_processor(fields, image_size=(96, 128))
    assert squashed.size == {"height": math.floor(96 / 0.95), "width": math.floor(128 / 0.95)}
    assert squashed.crop_size == {"height": 96, "width": 128}


def test_what_timm_leaves_out_is_its_own_default() -> None:
    processor = timm.image_processor({"architecture": "vit_small_r26_s32_224", "input_size": [3, 224, 224]})
    assert processor.size == {"shortest_edge": 256}
    assert processor.image_mean == [0.485, 0.456, 0.406]
    assert (processor.image_std, int(processor.resample)) == ([0.229, 0.224, 0.225], 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_mode": "border"}, "crop_mode is 'border'"),
        ({"input_size": [3, 64, 96]}, "at 64x96 pixels"),
        ({"interpolation": "random"}, "interpolation is 'random'"),
    ],
)
def test_preprocessing_that_no_processor_does_is_refused(change: dict[str, Any], message: str) -> None:
    data = {**CASES["small_tiny_r"]["config"]["pretrained_cfg"], **change}
    with pytest.raises(ValueError, match=message):
        timm.image_processor({"pretrained_cfg": data})


def test_a_file_that_says_nothing_of_preprocessing_is_refused(tmp_path: Path) -> None:
    save_file(weights_of("stem_only"), tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match=r"bare\.safetensors: nothing there says how images are prepared"):
        timm.image_processor(tmp_path / "bare.safetensors")
    with pytest.raises(
        CheckpointError, match=r"^the configuration: nothing there says .* a folder with timm's config\.json\.$"
    ):
        timm.image_processor({})


# Files


@pytest.mark.parametrize("wrapper", [(), ("state_dict",), ("model",), ("state_dict_ema",), ("state_dict", "model")])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model."])
def test_wrappers_and_prefixes_are_taken_off(wrapper: tuple[str, ...], prefix: str, tmp_path: Path) -> None:
    weights = weights_of("stem_only")
    content: dict[str, Any] = {prefix + name: tensor for name, tensor in weights.items()}
    for name in wrapper:
        content = {"epoch": 3, "arch": "anything", "args": argparse.Namespace(lr=0.1), name: content}
    torch.save(content, tmp_path / "last.pth")
    again = tmp_path / "again.safetensors"
    timm.save(timm.load(tmp_path / "last.pth"), again)
    assert_same_weights(load_file(again), weights)


def test_a_prefix_that_some_names_have_is_part_of_them(tmp_path: Path) -> None:
    torch.save({**weights_of("stem_only"), "module.more": torch.zeros(1)}, tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match=r"module\.more"):
        timm.load(tmp_path / "last.pth")


def test_averaged_weights_go_before_the_others(tmp_path: Path) -> None:
    weights = weights_of("stem_only")
    averaged = {name: tensor + 1 for name, tensor in weights.items()}
    averaged = {f"timm_model.{name}": tensor for name, tensor in averaged.items()}
    for one, other in (("state_dict", "state_dict_ema"), ("model", "model_ema")):
        torch.save({one: weights, other: averaged}, tmp_path / "last.pth.tar")
        model = timm.load(tmp_path / "last.pth.tar")
        assert torch.equal(model.vit.embeddings.cls_token, weights["cls_token"] + 1)


def test_loading_leaves_the_given_tensors_alone() -> None:
    weights = weights_of("two_stages")
    model = timm.load(weights)
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert_same_weights(weights, weights_of("two_stages"))


def test_the_precision_of_the_weights_is_kept() -> None:
    weights = weights_of("two_stages")
    half = timm.load({name: tensor.bfloat16() for name, tensor in weights.items()})
    assert half.dtype == torch.bfloat16
    mixed = timm.load({name: t.half() if t.ndim > 1 else t for name, t in weights.items()})
    assert {parameter.dtype for parameter in mixed.parameters()} == {torch.float32}
    assert torch.equal(mixed.classifier.weight, weights["head.weight"].half().float())
    with pytest.raises(CheckpointError, match=r"head\.bias is of torch\.int64"):
        timm.load(weights | {"head.bias": weights["head.bias"].long()})


def test_the_pre_logits_of_older_releases_are_kept_and_used() -> None:
    weights = weights_of("two_stages")
    weights |= {"head.weight": recipe.weight("head.weight", (7, 24))}
    headless = timm.load({name: tensor for name, tensor in weights.items() if not name.startswith("head.")})
    weights |= {
        f"pre_logits.fc.{w}": recipe.weight(f"pre_logits.fc.{w}", s)
        for w, s in (("weight", (24, 128)), ("bias", (24,)))
    }
    model = timm.load(weights)
    assert model.config.representation_size == 24
    features = logits(headless, "two_stages")
    features = torch.tanh(features @ weights["pre_logits.fc.weight"].T + weights["pre_logits.fc.bias"])
    expected = features @ weights["head.weight"].T + weights["head.bias"]
    assert (logits(model, "two_stages") - expected).abs().max() <= TOLERANCE


def test_labels_come_along(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    names = ["n01", "n02", "n03", "n04", "n05", "n06"]
    fields = CASES["small_tiny_r"]["config"] | {"label_names": names, "label_descriptions": {"n02": "tabby, tabby cat"}}
    save_file(weights_of("small_tiny_r"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    config = timm.read_config(tmp_path)
    assert config.id2label == {0: "n01", 1: "tabby, tabby cat", 2: "n03", 3: "n04", 4: "n05", 5: "n06"}
    assert config.label2id["tabby, tabby cat"] == 1
    timm.save(timm.load(tmp_path), tmp_path / "again")
    assert timm.read_config(tmp_path / "again").id2label == config.id2label
    by_index = fields | {"label_names": {str(index): name for index, name in enumerate(names)}}
    (tmp_path / "config.json").write_text(json.dumps(by_index))
    assert timm.read_config(tmp_path).id2label == config.id2label
    assert "left out" not in log.text
    (tmp_path / "config.json").write_text(json.dumps(fields | {"label_names": names[:2]}))
    assert timm.read_config(tmp_path).id2label[1] == "LABEL_1"
    assert f"{tmp_path}: 2 labels for 6 classes; they are left out." in log.text
    (tmp_path / "config.json").write_text(json.dumps(fields | {"label_names": [*names, "n07"]}))
    assert timm.read_config(tmp_path).id2label[1] == "LABEL_1"
    assert f"{tmp_path}: 7 labels for 6 classes; they are left out." in log.text


def test_what_timm_has_to_be_told_of_a_file_is_named() -> None:
    arguments = {"depth": 2, "num_heads": 3, "act_layer": "gelu_tanh"}
    assert untold({"architecture": "vit_tiny_r_s16_p8_224", "model_args": arguments}) == [
        "timm does not see in the file that the model is made with num_heads=3, act_layer=gelu_tanh"
    ]
    assert untold({"architecture": "vit_tiny_r_s16_p8_224", "model_args": {"depth": 2}}) == []


def test_labels_by_index_come_in_the_order_of_numbers() -> None:
    names = {str(index): f"class {index}" for index in (11, *range(10), 10)}
    found = Description.of({"label_names": names}, "the file")
    assert found.labels == tuple(f"class {index}" for index in range(12))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"architecture": 3}, "a name"),
        ({"model_args": []}, "an object"),
        ({"num_groups": 0}, "a whole number above 0"),
        ({"model_args": {"embed_dim": True}}, "a whole number above 0"),
        ({"model_args": {"depth": -1}}, "a whole number above 0"),
        ({"model_args": {"mlp_ratio": 0}}, "a number above 0"),
        ({"model_args": {"mlp_ratio": True}}, "a number above 0"),
        ({"crop_pct": math.inf}, "a number above 0"),
        ({"model_args": {"patch_size": [1, 0]}}, "a whole number above 0, or two"),
        ({"model_args": {"patch_size": [1, 2, 3]}}, "a whole number above 0, or two"),
        ({"model_args": {"drop_path_rate": 1.0}}, "a number from 0 to below 1"),
        ({"model_args": {"attn_drop_rate": -0.1}}, "a number from 0 to below 1"),
        ({"pretrained_cfg": {"input_size": [3, 64]}}, "channels, height and width"),
        ({"pretrained_cfg": {"crop_pct": 0}}, "a number above 0"),
        ({"interpolation": 3}, "a name"),
        ({"crop_mode": None, "mean": [0.5, "a"]}, "a list of numbers"),
        ({"std": [math.nan]}, "a list of numbers"),
        ({"label_names": {"a": "b"}}, "names by their index"),
        ({"label_names": ["a", 3]}, "names by their index"),
        ({"label_descriptions": {"a": 3}}, "an object of names"),
    ],
)
def test_a_field_of_no_use_is_told_what_was_expected(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^the file: its config\.json says \w+=.*; expected {expected}\.$"):
        Description.of(fields, "the file")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("gelu", "gelu"), ("gelu_tanh", "gelu_pytorch_tanh"), ("quick_gelu", "quick_gelu"), ("relu", "relu")],
)
def test_activations_are_those_of_timms_names(theirs: str, ours: str) -> None:
    assert Description.of({"model_args": {"act_layer": theirs}}, "the file").hidden_act == ours
    config = ViTHybridConfig.from_preset("R26+S/32", **{**timm.NUMERICS, "hidden_act": ours})
    assert timm_config.fields_of(config, 1000, None)["model_args"] == ({} if ours == "gelu" else {"act_layer": theirs})


def test_arguments_that_change_nothing_in_inference_are_passed_over_and_others_must_be_as_by_default() -> None:
    idle = ("drop_rate", "pos_drop_rate", "proj_drop_rate", "patch_drop_rate", "weight_init", "fix_init")
    idle += ("dynamic_img_size", "strict_img_size", "out_indices")
    default = {"pos_embed": "learn", "class_token": True, "final_norm": True, "proj_bias": True, "reg_tokens": False}
    told = {"depth": 3, "embed_dim": 8, "in_chans": 1, "mlp_ratio": 2, "num_classes": 0, "patch_size": 2}
    arguments = {**dict.fromkeys(idle, 0.5), **default, **told, "qkv_bias": False}
    assert Description.of({"model_args": arguments}, "the file").arguments == arguments
    for name in default:
        with pytest.raises(CheckpointError, match=f"says {name}='other', which no hybrid here can do"):
            Description.of({"model_args": {**arguments, name: "other"}}, "the file")


def test_what_is_null_is_as_if_it_were_not_there_and_arguments_win_over_what_is_said_beside_them() -> None:
    with pytest.raises(CheckpointError, match="says global_pool='avg', which no hybrid here can do"):
        Description.of({"global_pool": "avg"}, "the file")
    arguments = {"global_pool": "token", "img_size": None, "block_fn": None, "drop_path_rate": 0, "mlp_ratio": 2}
    found = Description.of({"global_pool": "avg", "model_args": arguments, "num_groups": None}, "the file")
    assert (found.image_sizes, found.num_groups, found.labels, found.hidden_act) == ([], 32, (), "gelu")
    assert found.arguments == {"global_pool": "token", "drop_path_rate": 0, "mlp_ratio": 2}


def test_sizes_are_height_and_width_that_of_the_arguments_first() -> None:
    fields = {"pretrained_cfg": {"input_size": [3, 64, 96]}}
    assert Description.of(fields, "the file").image_sizes == [[64, 96]]
    assert Description.of({**fields, "model_args": {"img_size": 128}}, "the file").image_sizes == [128, [64, 96]]
    for older in ({"crop_pct": 0.5}, {"crop_pct": 0.5, "input_size": [3, 32, 32]}):  # today's form wins over it
        fields["pretrained_cfg"]["crop_pct"] = 0.9
        found = Description.of({**older, **fields}, "the file")
        assert (found.data["crop_pct"], found.image_sizes) == (0.9, [[64, 96]])


# Other sizes, other classes


def test_position_embeddings_are_resized_as_timm_does(outputs: dict[str, torch.Tensor]) -> None:
    case = CASES["two_stages"]
    weights = weights_of("two_stages")
    model = timm.load(weights, image_size=case["resized_to"])
    assert model.config.image_size == case["resized_to"]
    assert torch.equal(model.vit.embeddings.position_embeddings[:, 0], weights["pos_embed"][:, 0])
    assert (logits(model, "two_stages") - outputs["two_stages.resized"]).abs().max() <= TOLERANCE


def test_position_embeddings_that_are_made_smaller_are_smoothed_as_timm_does() -> None:
    own = weights_of("two_stages")["pos_embed"]
    for changes, how in (({}, ("bicubic", True)), ({"antialias": False}, ("bicubic", False))):
        found = timm.load(weights_of("two_stages"), image_size=(24, 32), **changes).vit.embeddings.position_embeddings
        assert torch.equal(found, resize_positions(own, (6, 6), (3, 4), *how))
    found = timm.load(weights_of("two_stages"), image_size=(24, 32), positions="bilinear").vit.embeddings
    assert torch.equal(found.position_embeddings, resize_positions(own, (6, 6), (3, 4), "bilinear", True))


def test_a_size_that_is_the_own_one_changes_nothing() -> None:
    weights = weights_of("two_stages")
    model = timm.load(weights, image_size=48)
    assert torch.equal(model.vit.embeddings.position_embeddings, weights["pos_embed"])
    # 64 x 36 pixels have as many patches as 48 x 48, but square ones are meant where nothing else is said
    assert not torch.equal(
        timm.load(weights, image_size=(72, 32)).vit.embeddings.position_embeddings, weights["pos_embed"]
    )


def test_a_new_classifier_is_zero() -> None:
    model = timm.load(weights_of("two_stages"), num_labels=4)
    assert model.classifier.weight.shape == (4, 128)
    assert not model.classifier.weight.any()
    assert not model.classifier.bias.any()
    assert timm.load(weights_of("two_stages"), num_labels=0).num_labels == 0


# Back to timm


@pytest.mark.parametrize("file", ["m.safetensors", "m.pth", "m.bin", "m.pt", "folder"])
@pytest.mark.parametrize("case", SMALL)
def test_what_is_written_is_what_was_read(case: str, file: str, tmp_path: Path) -> None:
    weights = weights_of(case)
    model = timm.load(weights, **NEEDED.get(case, {}))
    path = tmp_path / "deep" / "deeper" / file
    if file == "folder" and case not in ("small_tiny_r", "tanh_gelu"):
        with pytest.raises(ValueError, match=r"config\.json has to name an architecture"):
            timm.save(model, path)
        assert not path.exists()
        return
    timm.save(model, path)
    written = path / "model.safetensors" if path.is_dir() else path
    content = load_file(written) if written.suffix == ".safetensors" else torch.load(written, weights_only=True)
    assert_same_weights(dict(content), weights)
    again = timm.load(path)
    assert_same_weights(again.state_dict(), model.state_dict())
    for field in ARCHITECTURE_FIELDS:
        assert getattr(again.config, field) == getattr(model.config, field), field
    assert again.config.backbone_config.to_dict() == model.config.backbone_config.to_dict()
    assert [p.name for p in path.parent.iterdir()] == [file]  # nothing half written is left


@pytest.mark.parametrize("file", ["m.safetensors", "m.pth", "folder"])
def test_writing_that_breaks_off_leaves_what_was_there(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(*given: Any, **_: Any) -> None:
        [path] = [one for one in given if isinstance(one, Path)]
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model, target = timm.load(weights_of("small_tiny_r"), num_heads=3), tmp_path / file
    timm.save(model, target)
    in_question = target / "config.json" if file == "folder" else target
    names, kept = sorted(tmp_path.rglob("*")), in_question.read_bytes()
    if file == "folder":  # of which the weights are whole by then
        monkeypatch.setattr(Path, "write_text", half)
    else:
        for name in ("save_file", "torch.save"):
            monkeypatch.setattr(f"vit_hybrid.checkpoints.timm_files.{name}", half)
    with pytest.raises(OSError, match="No space left"):
        timm.save(model, target)
    assert (sorted(tmp_path.rglob("*")), in_question.read_bytes()) == (names, kept)


@pytest.mark.parametrize("ending", [".PTH", ".Bin", ".SAFETENSORS"])
def test_an_ending_is_the_same_in_capitals(ending: str, tmp_path: Path) -> None:
    model, path = timm.load(weights_of("stem_only")), tmp_path / f"m{ending}"
    timm.save(model.to(memory_format=torch.channels_last), path)  # as engines keep it in memory
    for source in (path, tmp_path):
        assert_same_weights(timm.load(source).state_dict(), model.state_dict())
    content = load_file(path) if ending == ".SAFETENSORS" else torch.load(path, weights_only=True)
    assert_same_weights(dict(content), weights_of("stem_only"))
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        timm.load(f"none{ending}")


def test_pickled_files_are_plain_state_dicts(tmp_path: Path) -> None:
    model = timm.load(weights_of("stem_only"))
    timm.save(model, tmp_path / "m.pth")
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    assert type(content) is OrderedDict
    assert all(type(tensor) is torch.Tensor for tensor in content.values())
    timm.save(model, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    for name in ("m.pth", "m.safetensors"):
        headers = timm_files.open_checkpoint(tmp_path / name, headers_only=True)
        assert all(tensor.is_meta for tensor in headers.weights.values())
        assert headers.shapes == {name: tuple(tensor.shape) for name, tensor in content.items()}


def test_a_folder_says_in_the_words_of_timm_what_the_model_is(tmp_path: Path) -> None:
    config = CASES["small_tiny_r"]["config"]
    model = timm.load(weights_of("small_tiny_r"), num_heads=3)
    model.config.drop_path_rate, model.config.attention_probs_dropout_prob = 0.1, 0.2
    processor = ViTHybridImageProcessor(
        size={"shortest_edge": 70}, crop_size=64, resample=2, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    timm.save(model, tmp_path / "m", image_processor=processor)
    found = json.loads((tmp_path / "m" / "config.json").read_text())
    # Of what lies beside the weights a folder's config.json goes before what the file keeps, and only its own file's.
    changed = {**found, "label_names": list("abcdef"), "model_args": {**found["model_args"], "mlp_ratio": 3.006}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(changed))
    assert timm.read_config(tmp_path / "m").id2label[5] == "f"
    assert timm.read_config(tmp_path / "m").intermediate_size == 288  # of 288.6, as timm cuts
    weights = tmp_path / "m" / "model.safetensors"
    assert timm.read_config(weights).id2label[5] == "LABEL_5"
    (tmp_path / "m" / "config.json").write_text(json.dumps({**found, "interpolation": "nearest", "pretrained_cfg": {}}))
    assert timm.image_processor(weights).resample == 2
    with pytest.raises(CheckpointError, match="nothing there says how images are prepared"):
        timm.image_processor(tmp_path / "m")
    save_file(load_file(weights), tmp_path / "m" / "other.safetensors")
    with pytest.raises(CheckpointError, match="how many attention heads share the width of 96"):
        timm.read_config(tmp_path / "m" / "other.safetensors")
    (tmp_path / "m" / "other.safetensors").unlink()
    (tmp_path / "m" / "config.json").write_text(json.dumps(found))
    assert found["architecture"] == config["architecture"]
    assert (found["num_classes"], found["num_features"], found["global_pool"]) == (6, 96, "token")
    assert found["model_args"] == {
        **{"embed_dim": 96, "depth": 2, "mlp_ratio": 3.0},
        **{"drop_path_rate": 0.1, "attn_drop_rate": 0.2},
    }
    unset = {"tag", "license", "interpolation", "crop_pct", "mean", "std"}
    assert {key: value for key, value in config["pretrained_cfg"].items() if key not in unset}.items() <= found[
        "pretrained_cfg"
    ].items()
    assert timm.image_processor(tmp_path / "m").to_dict() == processor.to_dict()
    read = timm.read_config(tmp_path / "m")
    assert (read.drop_path_rate, read.attention_probs_dropout_prob) == (0.1, 0.2)


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset.timm], ids=lambda preset: preset.name)
def test_a_published_hybrid_is_called_so_and_needs_no_arguments(preset: Preset) -> None:
    sizes = {int(name.split(".")[0].rsplit("_", 1)[1]) for name in RELEASES if name.startswith(f"{preset.timm}_")}
    for size in sizes:
        config = ViTHybridConfig.from_preset(preset.name, image_size=size, **timm.NUMERICS)
        fields = timm_config.fields_of(config, 1000, None)
        assert (fields["architecture"], fields["model_args"]) == (f"{preset.timm}_{size}", {})
        assert (fields["num_features"], fields["pretrained_cfg"]["num_classes"]) == (preset.hidden_size, 1000)
        first = "patch_embed.backbone.stem.conv" if preset.depths else "patch_embed.backbone.conv"
        assert fields["pretrained_cfg"]["first_conv"] == first
    config.image_size = 288  # of which timm has no model
    assert timm_config.fields_of(config, 1000, None)["architecture"] == f"{preset.timm}_224"


@pytest.mark.parametrize(
    ("hidden_size", "heads", "inner", "architecture"),
    [
        *((640, 10, 3072, "vit_base_r26_s32_224"), (448, 7, 1536, "vit_small_r26_s32_224")),
        *((576, 3, 1729, "vit_small_r26"), (600, 10, 1001, "vit_base_r26")),  # int(600 * (1001 / 600)) is 1000
    ],
)
def test_a_model_of_another_width_is_the_nearest_hybrid_with_arguments(
    hidden_size: int, heads: int, inner: int, architecture: str
) -> None:
    changes = {"num_hidden_layers": 5, "qkv_bias": False, "patch_size": (1, 2), "intermediate_size": inner}
    widths = {"hidden_size": hidden_size, "num_attention_heads": heads}
    fields = timm_config.fields_of(ViTHybridConfig.from_preset("R26+S/32", **widths, **changes), 7, None)
    assert fields["architecture"].startswith(architecture)
    arguments = fields["model_args"]
    assert int(hidden_size * arguments.pop("mlp_ratio")) == inner  # which is how timm goes back
    assert arguments == {
        **{"embed_dim": hidden_size, "depth": 5, "num_heads": heads, "patch_size": [1, 2], "qkv_bias": False}
    }
    assert (fields["num_classes"], "label_names" in fields) == (7, False)


@pytest.mark.parametrize(
    "processor",
    [
        {"size": {"shortest_edge": 70}, "crop_size": 60},
        *(
            {"size": {"shortest_edge": 70}, "crop_size": 64, step: False}
            for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        ),
        {"size": {"height": 70, "width": 80}, "crop_size": 64},
    ],
)
def test_preprocessing_that_timm_cannot_do_is_not_written(processor: dict[str, Any], tmp_path: Path) -> None:
    model = timm.load(weights_of("stem_only"))
    with pytest.raises(ValueError, match="timm has no words for what the image processor does"):
        timm.save(model, tmp_path / "m.safetensors", image_processor=ViTHybridImageProcessor(**processor))
    assert not list(tmp_path.iterdir())


def test_a_file_keeps_what_its_weights_do_not_tell(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    config = tiny_config(image_size=[70, 50], id2label={0: "a", 1: "b", 2: "c"}, **timm.NUMERICS)  # 2 heads, 8 groups
    model = ViTHybridForImageClassification(config)
    for file in ("m.safetensors", "m.pth"):
        timm.save(model, tmp_path / file)
        again = timm.load(tmp_path / file)
        assert_same_weights(again.state_dict(), model.state_dict())
        assert again.config.backbone_config.num_groups == 8
        assert (again.config.num_attention_heads, again.config.image_size) == (2, [70, 50])
        assert again.config.id2label == {0: "a", 1: "b", 2: "c"}
        assert timm.image_processor(tmp_path / file, image_size=64).image_mean == [0.5, 0.5, 0.5]
    assert "no architecture of timm's has this ResNet" in log.text


def test_a_bare_model_is_a_headless_one(tmp_path: Path) -> None:
    config = timm.load(weights_of("two_stages")).config
    model = ViTHybridModel(config, add_pooling_layer=False).eval()
    timm.save(model, tmp_path / "m.safetensors")
    again = timm.load(tmp_path / "m.safetensors")
    said = timm_files.read_fields(tmp_path / "m.safetensors")
    assert (again.num_labels, said["num_classes"], said["pretrained_cfg"]["num_classes"]) == (0, 0, 0)
    assert_same_weights(again.vit.state_dict(), model.state_dict())


def test_a_folded_model_writes_its_own_weights(tmp_path: Path) -> None:
    model = timm.load(weights_of("two_stages")).fold_weight_standardization()
    timm.save(model, tmp_path / "m.safetensors")
    assert_same_weights(load_file(tmp_path / "m.safetensors"), weights_of("two_stages"))


def timm_like(**changes: Any) -> ViTHybridConfig:
    return tiny_config(**{**timm.NUMERICS, "num_attention_heads": 1, **changes})


def backbone_like(**changes: Any) -> dict[str, Any]:
    return tiny_config().backbone_config.to_dict() | {"out_features": ["stage2"], "out_indices": None} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12, in timm 1e-06"),
        ({"group_norm_eps": 1e-6}, "group_norm_eps is 1e-06, in timm 1e-05"),
        ({"weight_standardization": "std"}, "weight_standardization is 'std', in timm 'variance'"),
        ({"weight_standardization_eps": 1e-5}, "weight_standardization_eps is 1e-05"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "hidden_act is 'gelu_pytorch_tanh', in timm 'gelu'"),
        ({"representation_size": 8}, r"a pre_logits layer \(representation_size\)"),
        ({"backbone_config": backbone_like(layer_type="preactivation", global_padding=None)}, "'preactivation', in"),
        ({"backbone_config": backbone_like(global_padding=None)}, "global_padding is None, in timm 'SAME'"),
        ({"backbone_config": backbone_like(embedding_dynamic_padding=False)}, "embedding_dynamic_padding is False"),
        ({"backbone_config": backbone_like(hidden_act="gelu")}, "backbone_config.hidden_act is 'gelu', in timm 'relu'"),
        ({"backbone_config": backbone_like(out_features=["stage1"])}, "the tokens are of stage1"),
        ({"backbone_config": backbone_like(output_stride=4)}, "output_stride 4 turns strides into dilation"),
        ({"backbone_config": backbone_like(depths=[0, 1])}, "has a stage without blocks"),
        ({"patch_size": 3}, "patches of 3x3 do not divide the feature map"),
        ({"patch_size": (2, 3)}, "patches of 2x3 do not divide the feature map"),
    ],
)
def test_what_timm_cannot_express_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = ViTHybridForImageClassification(timm_like(**changes))
    with pytest.raises(ValueError, match=message):
        timm.save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_both_names_of_the_exact_gelu_are_one(tmp_path: Path) -> None:
    timm.save(ViTHybridForImageClassification(timm_like(hidden_act="gelu_python")), tmp_path / "m.safetensors")
    assert timm.read_config(tmp_path / "m.safetensors").hidden_act == "gelu"


def test_adapters_are_refused_by_name(tmp_path: Path) -> None:
    model = timm.load(weights_of("stem_only"))
    query = model.vit.encoder.layer[0].attention.attention.query
    query.lora_A = torch.nn.Linear(64, 2, bias=False)
    with pytest.raises(ValueError, match=r"a weight called vit\.encoder\.layer\.0\..*lora_A\.weight"):
        timm.save(model, tmp_path / "m.safetensors")


def test_every_reason_is_named_at_once(tmp_path: Path) -> None:
    model = ViTHybridModel(timm_like(layer_norm_eps=1e-12), add_pooling_layer=True, use_mask_token=True)
    with pytest.raises(ValueError, match="timm has no such model") as refusal:
        timm.save(model, tmp_path / "m.safetensors")
    for reason in ("a mask token", "a pooler", "layer_norm_eps is 1e-12"):
        assert reason in str(refusal.value)
    assert "approximate=True" not in str(refusal.value)  # which would not help


def test_weights_of_other_numerics_are_written_on_demand(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    model = ViTHybridForImageClassification(timm_like(layer_norm_eps=1e-12))
    timm.save(model, tmp_path / "m.safetensors", approximate=True)
    assert "layer_norm_eps is 1e-12, in timm 1e-06" in log.text
    again = timm.load(tmp_path / "m.safetensors")
    assert again.config.layer_norm_eps == 1e-6
    assert_same_weights(again.state_dict(), model.state_dict())
    pooled = ViTHybridModel(timm_like(), add_pooling_layer=True)
    with pytest.raises(ValueError, match="a pooler"):
        timm.save(pooled, tmp_path / "p.safetensors", approximate=True)


def test_epsilons_alone_can_be_allowed(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    model = ViTHybridForImageClassification(timm_like(layer_norm_eps=1e-12))
    timm.save(model, tmp_path / "m.safetensors", approximate="epsilons")
    assert "layer_norm_eps is 1e-12, in timm 1e-06" in log.text
    assert_same_weights(timm.load(tmp_path / "m.safetensors").state_dict(), model.state_dict())
    other = ViTHybridForImageClassification(timm_like(layer_norm_eps=1e-12, hidden_act="gelu_new"))
    with pytest.raises(ValueError, match=r"layer_norm_eps is 1e-12.*hidden_act is 'gelu_new'"):
        timm.save(other, tmp_path / "o.safetensors", approximate="epsilons")
    with pytest.raises(ValueError, match=r"\(Weights of other numerics can be written with approximate=True\.\)$"):
        timm.save(other, tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


def test_a_folder_that_is_there_may_have_a_dot_in_its_name(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    (tmp_path / "v1.5").mkdir()
    weights = weights_of("small_tiny_r")
    model = timm.load(weights, num_heads=4)
    timm.save(model, tmp_path / "v1.5")
    assert sorted(path.name for path in (tmp_path / "v1.5").iterdir()) == ["config.json", "model.safetensors"]
    assert "timm does not see" not in log.text  # it reads config.json
    timm.save(model, tmp_path / "m.safetensors")
    assert "m.safetensors: timm does not see in the file that the model is made with num_heads=4" in log.text


def test_only_hybrids_and_only_sensible_names_are_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="model is a Linear"):
        timm.save(torch.nn.Linear(1, 1), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.onnx: weights for timm go into a file that ends in \.safetensors"):
        timm.save(timm.load(weights_of("stem_only")), tmp_path / "m.onnx")
    with torch.device("meta"):
        empty = ViTHybridForImageClassification(timm_like())
    with pytest.raises(ValueError, match="its weights are not in memory"):
        timm.save(empty, tmp_path / "m.safetensors")


# Errors


def refusal(source: Any, *arguments: Any, **keywords: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        timm.load(source, *arguments, **keywords)
    assert "\n" not in str(caught.value)
    return caught.value


def test_missing_unexpected_and_misfitting_weights_are_listed_together(tmp_path: Path) -> None:
    weights = weights_of("two_stages")
    for name in [name for name in weights if name.startswith("blocks.1.")]:
        del weights[name]
    weights["reg_token"] = torch.zeros(1, 4, 128)
    weights["blocks.0.mlp.fc2.weight"] = torch.zeros(128, 100)
    save_file(weights, tmp_path / "m.safetensors")
    error = refusal(tmp_path / "m.safetensors")
    assert len(error.missing) == 12
    assert all(name.startswith("blocks.1.") for name in error.missing)
    assert error.unexpected == ["reg_token"]
    assert error.misfitting == ["blocks.0.mlp.fc2.weight"]
    message = str(error)
    assert message.startswith(f"{tmp_path / 'm.safetensors'}: ")
    assert "Missing (12): blocks.1." in message
    assert "and 7 more" in message
    assert "blocks.0.mlp.fc2.weight is (128, 100), expected (128, 512)" in message


@pytest.mark.parametrize(
    "dropped",
    [
        *("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.backbone.stem.conv.weight", "norm.weight"),
        *("blocks.0.attn.qkv.weight", "patch_embed.backbone.stages.1.blocks.0.conv3.weight", "head.bias"),
    ],
)
def test_one_missing_weight_is_named_alone(dropped: str) -> None:
    weights = weights_of("two_stages")
    del weights[dropped]
    error = refusal(weights)
    assert error.missing == [dropped]
    assert not error.unexpected


def test_missing_last_layers_are_noticed_by_name_and_else_mentioned(log: pytest.LogCaptureFixture) -> None:
    whole = on_meta(HYBRIDS["vit_tiny_r_s16_p8_224.augreg_in21k"]["layout"])
    cut = {name: tensor for name, tensor in whole.items() if not name.startswith("blocks.11.")}
    with pytest.raises(CheckpointError, match=r"Missing \(12\): blocks\.11\."):
        timm.read_config(cut, "vit_tiny_r_s16_p8_224")
    assert timm.read_config(whole).num_hidden_layers == 12
    of_another_patch = {**cut, "patch_embed.proj.weight": torch.empty(192, 64, 4, 4, device="meta")}
    assert timm.read_config(of_another_patch).num_hidden_layers == 11  # which is no published hybrid at all
    assert not log.records
    assert timm.read_config(cut).num_hidden_layers == 11
    assert "11 layers are here, and R+Ti/16 has 12" in log.text


@pytest.mark.parametrize(
    ("numbers", "layers"),
    [([], 0), ([0], 1), ([2, 0, 1], 3), ([0, 3], 4), ([0, 4], 1), ([1], 2), ([2], 0), ([0, 1, 2, 10**9], 3)],
)
def test_layers_are_counted_as_far_as_half_of_them_are_there(numbers: list[int], layers: int) -> None:
    shapes = {f"blocks.{number}.norm1.weight": (8,) for number in numbers}
    assert timm._described(shapes)["num_hidden_layers"] == layers


def test_a_name_is_held_against_the_weights(log: pytest.LogCaptureFixture) -> None:
    small = on_meta(HYBRIDS["vit_small_r26_s32_224.augreg_in21k"]["layout"])
    with pytest.raises(CheckpointError, match=r"cls_token is \(1, 1, 384\), expected \(1, 1, 768\)"):
        timm.read_config(small, "vit_base_r26_s32_224")
    with pytest.raises(CheckpointError, match=r"Unexpected \(.*patch_embed\.backbone\.stages\.0"):
        timm.read_config(small, "R+Ti/16")
    with pytest.raises(CheckpointError, match=r"Missing \(.*patch_embed\.backbone\.stages\.0\.blocks\.1"):
        timm.read_config(on_meta(CASES["two_stages"]["layout"]), "R50+B/32")
    assert timm.read_config(small, "vit_small_r26_s32_384").image_size == 224  # the size is the weights' own
    assert "the width is 384" not in log.text
    narrow = on_meta(CASES["small_tiny_r"]["layout"])
    found = timm.read_config(narrow, "vit_tiny_r_s16_p8_224", num_heads=2)  # any width, but the same ResNet
    assert (found.hidden_size, found.num_hidden_layers, found.num_attention_heads) == (96, 2, 2)
    assert "the state dict: the width is 96, not the 192 of that name." in log.text


@pytest.mark.parametrize("name", OTHERS)
def test_hybrids_on_other_backbones_are_refused_by_name(name: str) -> None:
    weights = weights_of("stem_only")
    for attempt in (
        lambda: timm.load(weights, name),
        lambda: timm.load(weights, name.partition(".")[0]),
        lambda: timm.load(f"timm/{name}"),
        lambda: timm.load(name),
        lambda: timm.read_config(f"hf-hub:timm/{name}"),
        lambda: timm.image_processor(name),
    ):
        with pytest.raises(ValueError, match="no BiT ResNet"):
            attempt()


def test_models_that_are_none_of_the_hybrids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No published hybrid is called 'vit_base_patch16_224'"):
        timm.load("vit_base_patch16_224")
    save_file(weights_of("stem_only"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_resnet26d_224"}))
    assert "its config.json names 'vit_base_resnet26d_224'" in str(refusal(tmp_path))
    stem = {"cls_token": torch.zeros(1, 1, 8), "patch_embed.backbone.conv1.0.weight": torch.zeros(32, 3, 3, 3)}
    assert "ResNet-D" in str(refusal(stem))
    assert "MobileCLIP" in str(refusal({"patch_embed.backbone.0.conv.weight": torch.zeros(32, 3, 4, 4)}))
    ours = timm.load(weights_of("stem_only")).state_dict()
    assert "from_pretrained" in str(refusal(ours))
    for name, said in (
        ("patch_embed.backbone.layer1.0.weight", "ResNet-D"),
        ("image_encoder.model.patch_emb.0.weight", "MobileCLIP"),
        ("embeddings.patch_embeddings.projection.weight", "from_pretrained"),
    ):
        assert said in str(refusal({name: torch.zeros(1)}))
    resnet = refusal({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(10, 512)})
    assert resnet.unexpected == ["conv1.weight", "fc.weight"]
    assert "cls_token" in resnet.missing
    assert refusal({}).missing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_pool": "avg"}, "global_pool='avg'"),
        ({"class_token": False}, "class_token=False"),
        ({"img_size": "64"}, "img_size='64'; expected a whole number above 0, or two"),
        ({"num_heads": 0}, "num_heads=0; expected a whole number above 0"),
        ({"act_layer": "mish"}, "act_layer='mish'; expected one of gelu"),
        ({"block_fn": "ParallelThingsBlock"}, "block_fn='ParallelThingsBlock'"),
    ],
)
def test_arguments_that_make_another_model_are_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    fields = json.loads(json.dumps(CASES["small_tiny_r"]["config"]))
    fields["model_args"] |= arguments
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save_file(weights_of("small_tiny_r"), tmp_path / "model.safetensors")
    assert message in str(refusal(tmp_path))


def test_what_nothing_tells_is_asked_for() -> None:
    assert "how many attention heads share the width of 48" in str(refusal(weights_of("narrow_heads_wide_patch")))
    uneven = str(refusal(weights_of("narrow_heads_wide_patch"), num_heads=5))
    assert "no hybrid has weights of these shapes (" in uneven
    assert "not a multiple" in uneven
    assert ".)" not in uneven  # one sentence
    gray = weights_of("odd_rectangle_gray_no_qkv_bias")
    assert "its 63 patches are no square" in str(refusal(gray))
    assert timm.load(gray, image_size=(70, 50)).config.image_size == [70, 50]


@pytest.mark.parametrize("file", ["m.safetensors", "m.pth", "m.bin"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(file: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / file
    timm.save(timm.load(weights_of("stem_only")), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = str(refusal(path))
    assert message.startswith(f"{path}: the file cannot be read (")
    assert message.partition(" (")[2].partition("). It may be")[0].count(". ") == 0  # the first sentence of it
    assert "damaged or incomplete" in message


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


def test_pickled_code_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harmful()}, "m.pth")
    assert "files that need code to be read are refused" in str(refusal("m.pth")).lower()
    assert not Path("harm").exists()


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        timm.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        timm.load("absent.safetensors")
    for name in (Path("owner/name"), "./name", "~/name", "/owner/name", "a/b/c", "name.ckpt"):
        with pytest.raises(FileNotFoundError, match=f"^{name}: there is no such file or folder"):
            timm.load(name)
    (tmp_path / "m.npz").write_bytes(b"PK")
    assert "checkpoints.jax.load" in str(refusal(tmp_path / "m.npz"))
    (tmp_path / "m.txt").write_text("weights")
    assert ".safetensors, .bin" in str(refusal(tmp_path / "m.txt"))
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "it holds a list" in str(refusal(tmp_path / "list.pth"))
    torch.save({"cls_token": torch.zeros(1), "epoch": 3}, tmp_path / "epoch.pth")
    assert "'epoch' is a int and no tensor" in str(refusal(tmp_path / "epoch.pth"))

    folder = tmp_path / "folder"
    folder.mkdir()
    assert "there is no file of weights" in str(refusal(folder))
    (folder / "a.pt").mkdir()
    assert "there is no file of weights" in str(refusal(folder))
    save_file(weights_of("stem_only"), folder / "b.safetensors")
    assert timm.read_config(folder).num_labels == timm.read_config(folder / "b.safetensors").num_labels
    (folder / "b.safetensors").unlink()
    for name in ("a.safetensors", "b.pth"):
        (folder / name).touch()
    assert "it has a.safetensors, b.pth; expected one of" in str(refusal(folder))
    assert str(refusal(folder)).endswith("Give the file itself.")
    (folder / "model.safetensors").write_bytes(LFS_POINTER + b"\noid sha256:4d7a\n")
    assert str(refusal(folder)).startswith(f"{folder}: its model.safetensors is a Git LFS pointer")
    (folder / "model.safetensors").unlink()
    for name in reversed(WEIGHT_FILES):
        (folder / name).touch()
        assert timm_files.located(folder)[0] == folder / name
    for name in WEIGHT_FILES:
        (folder / name).unlink()
    (folder / "config.json").write_text("{")
    assert "its config.json is no JSON" in str(refusal(folder))
    (folder / "config.json").write_bytes(b'{"architecture": "\xff"}')
    for source in (folder, folder / WEIGHT_FILES[2]):  # a file that the folder is about
        (folder / WEIGHT_FILES[2]).touch()
        assert "its config.json is no JSON ('utf-8' codec can't decode" in str(refusal(source))
    (folder / WEIGHT_FILES[2]).unlink()
    (folder / "config.json").write_text("[]")
    assert "its config.json holds a list, expected an object" in str(refusal(folder))


# The hub

PUBLISHED_NAME = "vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k"
HUB_CODE = textwrap.dedent(
    """
    import os
    from vit_hybrid.checkpoints import timm
    from vit_hybrid.checkpoints.matching import CheckpointError
    for source in os.environ["SOURCES"].split():
        try:
            model = timm.load(source)
            print(source, model.num_labels, model.config.num_attention_heads, timm.read_config(source).image_size)
        except CheckpointError as error:
            print(error)
    """
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    folder = tmp_path / "repository"
    folder.mkdir()
    fields = CASES["small_tiny_r"]["config"]
    (folder / "config.json").write_text(json.dumps(fields))
    save_file(weights_of("small_tiny_r"), folder / "model.safetensors")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text(json.dumps(fields))
    torch.save(weights_of("small_tiny_r"), pickled / "pytorch_model.bin")
    with LocalHub() as running:
        running.publish(f"timm/{PUBLISHED_NAME}", folder)
        running.publish("someone/fine-tune", pickled)
        yield running


def ask(hub: LocalHub, home: Path, *sources: str, offline: bool = False) -> list[str]:
    """What `HUB_CODE` prints for these sources, a line for each."""
    output = run_forked(
        HUB_CODE,
        HF_ENDPOINT=hub.url,
        HF_HOME=str(home),
        HF_HUB_OFFLINE=str(int(offline)),
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_TOKEN="",
        SOURCES=" ".join(sources),
    )
    return output.splitlines()[-len(sources) :]


def test_hub_ids_are_downloaded_once(hub: LocalHub, tmp_path: Path) -> None:
    revision = hub.repositories[f"timm/{PUBLISHED_NAME}"].commits[0][0]
    sources = [
        f"timm/{PUBLISHED_NAME}",
        f"hf-hub:timm/{PUBLISHED_NAME}",
        PUBLISHED_NAME,
        "vit_tiny_r_s16_p8_384",
        f"timm/{PUBLISHED_NAME}@{revision}",
        "someone/fine-tune",
    ]
    assert ask(hub, tmp_path / "home", *sources) == [f"{source} 6 3 64" for source in sources]
    downloads = [line for line in hub.requests if line.startswith("GET") and "/resolve/" in line]
    assert len(downloads) == len(set(downloads)), downloads
    asked = len(hub.requests)
    assert ask(hub, tmp_path / "home", sources[0], offline=True) == [f"{sources[0]} 6 3 64"]
    assert len(hub.requests) == asked


def test_what_the_hub_does_not_have_is_said(hub: LocalHub, tmp_path: Path) -> None:
    wrong = ["someone/else", "someone/fine-tune@nowhere", "vit_base_r26_s32_224.untrained", "vit_small_r26_s32_224"]
    unknown, revision, untrained, absent = ask(hub, tmp_path / "home", *wrong)
    assert unknown.startswith("someone/else: there is no such file or folder, and no someone/else on the hub")
    assert revision == "someone/fine-tune@nowhere: someone/fine-tune on the hub has no revision 'nowhere'."
    assert "timm never published weights of this architecture" in untrained
    assert "no timm/vit_small_r26_s32_224.augreg_in21k_ft_in1k on the hub" in absent


@pytest.mark.parametrize(("what", "names"), [("file", WEIGHT_FILES), ("reach", WEIGHT_FILES[:1])])
def test_other_names_of_weights_are_asked_for_where_there_is_none_of_a_name(
    what: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(repository: str, file: str, revision: str | None) -> str:
        asked.append((repository, file, revision))
        raise OSError("refused")

    monkeypatch.setattr(timm_files, "hf_hub_download", refuse)
    monkeypatch.setattr(timm_files, "why_refused", lambda error: what)
    said = f"^someone/name@v1: .*{re.escape(names[-1])}"
    with pytest.raises(CheckpointError, match=said) as caught:
        timm_files._hub_weights("someone/name@v1")
    assert asked == [("someone/name", name, "v1") for name in names]
    assert ("Download the repository" in str(caught.value)) is (what == "reach")


def test_without_a_network_the_error_says_so(hub: LocalHub, tmp_path: Path) -> None:
    (line,) = ask(hub, tmp_path / "home", f"timm/{PUBLISHED_NAME}", offline=True)
    assert line.startswith(f"timm/{PUBLISHED_NAME}: there is no such file or folder, config.json of timm/")
    assert "cannot be reached or offline mode is on" in line
    assert line.endswith("Download the repository where there is a network, and give its folder.")
    assert not hub.requests


def test_importing_it_loads_neither_timm_nor_torchvision() -> None:
    run_forked("import sys, vit_hybrid.checkpoints.timm; assert not {'timm', 'torchvision'} & set(sys.modules)")


# timm itself


@pytest.mark.skipif(TIMM_PYTHON not in os.environ, reason=f"{TIMM_PYTHON} names no interpreter with timm")
def test_timm_loads_strictly_what_is_written_here(tmp_path: Path) -> None:
    written: dict[str, Any] = {}
    outputs: dict[str, torch.Tensor] = {}
    for name, case in CASES.items():
        weights = {key: tensor.flip(0) for key, tensor in weights_of(name).items()}
        model = timm.load(weights, **NEEDED.get(name, {}))
        is_tanh = case["model"].get("act_layer") == "gelu_tanh"
        if is_tanh:
            model.config.hidden_act = "gelu_pytorch_tanh"
            model = ViTHybridForImageClassification(model.config).eval()
        files = [f"{name}.safetensors", f"{name}.pth"]
        if "architecture" in case["model"]:
            files.append(name)
        for file in files:
            timm.save(model, tmp_path / file, approximate=is_tanh)
            written[file] = {"file": file, "model": case["model"], "pixels": name}
            outputs[file] = logits(model, name).contiguous()
    (tmp_path / "cases.json").write_text(json.dumps(written))
    save_file(outputs, tmp_path / "outputs.safetensors")
    command = [os.environ[TIMM_PYTHON], ROOT / "scripts" / "record_timm_outputs.py", "--check", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("off by") == len(written)

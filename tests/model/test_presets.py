"""The table of published hybrids: every row's size and cost, and every spelling of its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification
from vit_hybrid.model.presets import (
    IMAGENET_21K_LABELS,
    OLD_TIMM_NAMES,
    PRESETS,
    TIMM_IMAGE_SIZES,
    TIMM_TAGS,
    nearest,
    resolve,
    spellings,
)

# At 224 x 224 pixels and 1000 labels.
PARAMETERS = {
    "R+Ti/16": 6_337_704,
    "R26+S/32": 36_431_912,
    "R26+B/32": 101_383_976,
    "R50+B/16": 98_659_112,
    "R50+B/32": 110_945_832,
    "R50+L/16": 316_483_624,
    "R50+L/32": 328_994_856,
}
STRIDES = {"R+Ti/16": 32, **{name: int(name.rpartition("/")[2]) for name in PARAMETERS if name != "R+Ti/16"}}

AUGREG_S = "R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0"
AUGREG_L = "R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1"
AUGREG_TI = "R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"

NAMES = [
    # the papers
    *((name, name, 224, 1000) for name in PARAMETERS),
    ("R50+ViT-B/16", "R50+B/16", 224, 1000),
    ("R+ViT-Ti/16", "R+Ti/16", 224, 1000),
    ("r50+vit-l/32", "R50+L/32", 224, 1000),
    (" R26 + S/32 ", "R26+S/32", 224, 1000),
    # the files of the first paper
    ("R50+ViT-B_16", "R50+B/16", 224, 1000),
    ("R50+ViT-B_16.npz", "R50+B/16", 224, 1000),
    ("imagenet21k/R26+ViT-B_32", "R26+B/32", 224, IMAGENET_21K_LABELS),
    ("imagenet21k+imagenet2012/R50+ViT-B_16.npz", "R50+B/16", 384, 1000),
    ("gs://vit_models/imagenet21k/R50+ViT-L_32.npz", "R50+L/32", 224, IMAGENET_21K_LABELS),
    # the files of the second
    ("R26_S_32", "R26+S/32", 224, 1000),
    (AUGREG_S, "R26+S/32", 224, IMAGENET_21K_LABELS),
    (f"{AUGREG_S}.npz", "R26+S/32", 224, IMAGENET_21K_LABELS),
    (f"{AUGREG_S}--imagenet2012-steps_20k-lr_0.03-res_384", "R26+S/32", 384, 1000),
    (f"{AUGREG_L}--imagenet2012-steps_20k-lr_0.01-res_224.npz", "R50+L/32", 224, 1000),
    (f"augreg/{AUGREG_TI}--cifar100-steps_2k-lr_0.003-res_224", "R+Ti/16", 224, 100),
    (f"{AUGREG_TI}--imagenet2012-steps_20k-lr_0.03-res_384.npz".upper(), "R+Ti/16", 384, 1000),
    # timm
    ("vit_tiny_r_s16_p8", "R+Ti/16", 224, 1000),
    ("vit_small_r26_s32_224", "R26+S/32", 224, 1000),
    ("vit_base_r26_s32_224.untrained", "R26+B/32", 224, 1000),
    ("vit_base_r50_s16_384.orig_in21k_ft_in1k", "R50+B/16", 384, 1000),
    ("vit_base_r50_s16_224.orig_in21k", "R50+B/16", 224, 0),
    ("timm/vit_large_r50_s32_384.augreg_in21k_ft_in1k", "R50+L/32", 384, 1000),
    ("hf-hub:timm/vit_small_r26_s32_224.augreg_in21k", "R26+S/32", 224, IMAGENET_21K_LABELS),
    ("vit_base_resnet50_384", "R50+B/16", 384, 1000),
    ("ViT_Base_R50_S16_384", "R50+B/16", 384, 1000),
]


def test_every_row_is_pinned() -> None:
    assert {preset.name: preset.parameters for preset in PRESETS} == PARAMETERS


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_parameters_and_operations_are_those_of_the_model(preset: Any) -> None:
    with torch.device("meta"):
        model = ViTHybridForImageClassification(ViTHybridConfig.from_preset(preset.name)).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[preset.name]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = model(torch.empty(1, 3, 224, 224, device="meta")).logits
    assert logits.shape == (1, 1000)
    assert round(counter.get_total_flops() / 1e9, 2) == preset.gflops


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_stride_is_that_of_the_tokens(preset: Any) -> None:
    config = ViTHybridConfig.from_preset(preset.name, image_size=(320, 256))
    assert preset.stride == STRIDES[preset.name]
    assert config.grid_size == (320 // preset.stride, 256 // preset.stride)


def test_r50_b16_at_384_is_the_model_on_the_hub() -> None:
    config = ViTHybridConfig.from_preset("R50+B/16", image_size=384, num_labels=1000)
    with torch.device("meta"):
        model = ViTHybridForImageClassification(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 98_950_952
    assert config.backbone_featmap_shape == [1, 1024, 24, 24]
    assert config.backbone_config.stage_names == ["stem", "stage1", "stage2", "stage3"]
    assert ViTHybridConfig.from_preset("R50+B/16", num_labels=2).to_dict() == ViTHybridConfig().to_dict()
    named = ViTHybridConfig.from_preset("R50+B/16", id2label={0: "cat", 1: "dog", 2: "eel"})
    assert (named.num_labels, named.id2label[2]) == (3, "eel")


def test_r_ti16_runs_on_the_stem_alone() -> None:
    config = ViTHybridConfig.from_preset("R+Ti/16", image_size=64, num_labels=5, num_hidden_layers=1)
    assert config.backbone_featmap_shape == [1, 64, 16, 16]
    assert config.patch_size == 8
    torch.manual_seed(0)
    model = ViTHybridForImageClassification(config).eval()
    assert not [name for name, _ in model.named_parameters() if ".stages." in name]
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 64, 64)).logits
    assert logits.shape == (2, 5)
    assert not torch.equal(logits[0], logits[1])


class TestNames:
    @pytest.mark.parametrize(("name", "preset", "image_size", "num_labels"), NAMES)
    def test_spellings(self, name: str, preset: str, image_size: int, num_labels: int) -> None:
        found = resolve(name)
        assert (found.preset.name, found.image_size, found.num_labels) == (preset, image_size, num_labels)
        config = ViTHybridConfig.from_preset(name)
        assert (config.image_size, config.num_labels) == (image_size, num_labels)
        assert config.hidden_size == found.preset.hidden_size

    @pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
    def test_every_row_in_every_spelling(self, preset: Any) -> None:
        names = [*spellings(preset), *filter(None, (preset.jax, preset.timm))]
        if preset.timm:
            names += [f"timm/{preset.timm}_{size}.{tag}" for size in TIMM_IMAGE_SIZES for tag in TIMM_TAGS]
        for name in names:
            for spelling in (name, name.lower(), name.upper()):
                assert resolve(spelling).preset is preset

    def test_no_two_rows_share_a_spelling(self) -> None:
        names = [name.lower() for preset in PRESETS for name in spellings(preset)]
        assert len(set(names)) == len(names)

    def test_old_names_of_timm(self) -> None:
        for old, new in OLD_TIMM_NAMES.items():
            assert resolve(old) == resolve(new) == resolve(f"timm/{old}")

    def test_names_do_not_change_numerics(self) -> None:
        numerics = ("weight_standardization", "weight_standardization_eps", "group_norm_eps", "layer_norm_eps")
        expected = [getattr(ViTHybridConfig(), field) for field in (*numerics, "hidden_act")]
        for name in ("R26+S/32", f"{AUGREG_S}.npz", "vit_small_r26_s32_224"):
            config = ViTHybridConfig.from_preset(name)
            assert [getattr(config, field) for field in (*numerics, "hidden_act")] == expected


@pytest.mark.parametrize(
    ("name", "size", "labels"),
    [
        ("vit_tiny_r_s16_p8_224_in21k", 224, IMAGENET_21K_LABELS),
        ("vit_small_r26_s32_224_in21k", 224, IMAGENET_21K_LABELS),
        ("vit_large_r50_s32_224_in21k", 224, IMAGENET_21K_LABELS),
        ("vit_base_r50_s16_224_in21k", 224, 0),
        ("vit_base_resnet50_224_in21k", 224, 0),
        ("vit_base_resnet50_384", 384, 1000),
        *(
            (f"{AUGREG_S}--{data}-steps_20k-lr_0.03-res_384", 384, labels)
            for data, labels in (
                *(("cifar10", 10), ("cifar100", 100), ("oxford_iiit_pet", 37)),
                *(("oxford_flowers102", 102), ("resisc45", 45), ("imagenet2012", 1000)),
            )
        ),
    ],
)
def test_what_old_names_and_data_sets_say(name: str, size: int, labels: int) -> None:
    found = resolve(name)
    assert (found.image_size, found.num_labels) == (size, labels)


class TestWrongNames:
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("R50+B/17", "R50+B/16"),
            ("R50+ViT-H/14", "R50+ViT-B/16"),
            ("R50B/16", "R50+B/16"),
            ("R26-S_32", "R26_S_32"),
            ("vit_small_r26_s32_256", "vit_small_r26_s32_224"),
            ("vit_base_r50_s16_224.my_tag", "vit_base_r50_s16_224"),
            ("vit_base_r50_s32", "vit_base_r50_s16"),
            (f"{AUGREG_S}--my_photos-steps_20k-res_384.npz", "R26_S_32"),
            ("R26_M_32-i21k-300ep-lr_0.001-aug_light1", "R26_S_32"),
            ("models/R50+ViT-B_16.npz", "R50+ViT-B_16"),
            ("R50+B/16-384", "R50+B/16"),
            ("R 5 0 + V i T - H / 1 4", "R50+ViT-B/16"),
        ],
    )
    def test_the_nearest_are_named(self, name: str, near: str) -> None:
        whole = name.replace(" ", "")
        assert near in nearest(whole)
        assert len(nearest(whole)) <= len(nearest("R50+B/17")) == 3 < len(nearest("R50+B/17", count=9))
        assert nearest(whole, count=1) == nearest(whole)[:1]
        with pytest.raises(ValueError, match="No published hybrid is called") as caught:
            ViTHybridConfig.from_preset(name)
        assert repr(name) in str(caught.value)
        assert repr(near) in str(caught.value)

    @pytest.mark.parametrize("name", ["", "resnet50", "google/vit-hybrid-base-bit-384", "猫", "x" * 5000])
    def test_nothing_near_still_lists_them_all(self, name: str) -> None:
        with pytest.raises(ValueError, match="No published hybrid") as caught:
            ViTHybridConfig.from_preset(name)
        assert all(preset.name in str(caught.value) for preset in PRESETS)

    @pytest.mark.parametrize(
        "name",
        [
            "vit_small_resnet26d_224",
            "vit_base_resnet50d_224.untrained",
            "vit_small_resnet50d_s16_224",
            "timm/vit_base_mci_224.apple_mclip",
        ],
    )
    def test_other_hybrids_of_timm_are_refused_as_such(self, name: str) -> None:
        with pytest.raises(ValueError, match="no BiT ResNet"):
            ViTHybridConfig.from_preset(name)


class TestChanges:
    def test_what_is_given_wins_over_what_the_name_says(self) -> None:
        config = ViTHybridConfig.from_preset(
            "vit_base_r50_s16_384.orig_in21k_ft_in1k", image_size=(96, 128), num_labels=7
        )
        assert (config.image_size, config.num_labels) == ((96, 128), 7)
        assert config.backbone_featmap_shape == [1, 1024, 6, 8]

    def test_no_labels(self) -> None:
        assert ViTHybridConfig.from_preset("R26+S/32", num_labels=0).num_labels == 0

    def test_named_labels(self) -> None:
        config = ViTHybridConfig.from_preset("R26+S/32", id2label={0: "cat", 1: "dog", 2: "fox"})
        assert (config.num_labels, config.id2label[2]) == (3, "fox")

    def test_any_field(self) -> None:
        config = ViTHybridConfig.from_preset("R26+S/32", layer_norm_eps=1e-6, num_channels=1, drop_path_rate=0.1)
        assert (config.layer_norm_eps, config.drop_path_rate) == (1e-6, 0.1)
        assert config.backbone_config.num_channels == config.num_channels == 1

    def test_what_cannot_run_is_refused(self) -> None:
        with pytest.raises(ValueError, match="smaller than a patch"):
            ViTHybridConfig.from_preset("R+Ti/16", image_size=16)

    @pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
    def test_saving_keeps_it(self, preset: Any, tmp_path: Any) -> None:
        config = ViTHybridConfig.from_preset(preset.name, image_size=384)
        config.save_pretrained(tmp_path)
        assert ViTHybridConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()

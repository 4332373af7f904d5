"""transformers' own model and configuration test mixins, over both layer types of the backbone.

Not collected by itself: tests/model/test_modeling_upstream.py runs this file with pytest in a process of its own, in
which the tests of a transformers source checkout can be imported as `tests`.
"""

import unittest
from typing import Any, ClassVar

import pytest
from tests.test_backbone_common import BackboneTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

from vit_hybrid import (
    ViTHybridBackbone,
    ViTHybridBackboneConfig,
    ViTHybridConfig,
    ViTHybridForImageClassification,
    ViTHybridModel,
)

NUM_LABELS = 10


class HybridTester:
    """What the mixins ask of a model tester: sizes as attributes, a configuration, and inputs for it."""

    backbone_config: ClassVar[dict[str, Any]] = {
        "layer_type": "bottleneck",
        "global_padding": "same",
        "embedding_dynamic_padding": True,
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 2],
        "num_groups": 2,
        "out_features": ["stage1", "stage2"],
    }
    grid_size = 4  # patches along a side, of an 8 x 8 feature map in patches of 2

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent
        self.batch_size = 3
        self.image_size = 64
        self.patch_size = 2
        self.num_channels = 3
        self.hidden_size = 32
        self.num_hidden_layers = 2
        self.num_attention_heads = 4
        self.is_training = True
        self.mask_length = self.grid_size**2
        self.num_masks = self.mask_length // 2
        self.seq_length = self.mask_length + 1

    def get_config(self) -> ViTHybridConfig:
        return ViTHybridConfig(
            backbone_config=self.backbone_config,
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=self.num_channels,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            attn_implementation="eager",
        )

    def prepare_config_and_inputs(self):
        pixel_values = floats_tensor([self.batch_size, self.num_channels, self.image_size, self.image_size])
        return self.get_config(), pixel_values, ids_tensor([self.batch_size], NUM_LABELS)

    def prepare_config_and_inputs_for_common(self):
        config, pixel_values, _ = self.prepare_config_and_inputs()
        return config, {"pixel_values": pixel_values}


class PreactivationTester(HybridTester):
    """Pre-activation blocks, PyTorch's padding, and an image that leaves an odd feature map (9 x 9)."""

    backbone_config: ClassVar[dict[str, Any]] = HybridTester.backbone_config | {
        "layer_type": "preactivation",
        "global_padding": None,
        "embedding_dynamic_padding": False,
    }

    def __init__(self, parent: unittest.TestCase) -> None:
        super().__init__(parent)
        self.image_size = 70


class HybridMixins(ModelTesterMixin):
    """The mixins' settings, and the few tests of theirs that have to be told about vision models."""

    all_model_classes = (ViTHybridModel, ViTHybridForImageClassification)
    test_resize_embeddings = False  # there is no vocabulary
    test_can_init_all_missing_weights_before_2023 = True  # also held to what newer models are
    hybrid_tester = HybridTester

    def setUp(self):
        self.model_tester = self.hybrid_tester(self)

    def test_configuration(self):
        tester = ConfigTester(self, config_class=ViTHybridConfig, has_text_modality=False, hidden_size=36)
        tester.run_common_tests()

    @unittest.skip(reason="a hybrid takes pixels, no embeddings")
    def test_inputs_embeds(self):
        pass

    def test_model_get_set_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            assert model.get_input_embeddings() is model.base_model.embeddings.patch_embeddings

    def test_shapes(self):
        config, pixel_values, labels = self.model_tester.prepare_config_and_inputs()
        config.num_labels = NUM_LABELS
        tokens = (self.model_tester.batch_size, self.model_tester.seq_length, self.model_tester.hidden_size)
        assert ViTHybridModel(config)(pixel_values).last_hidden_state.shape == tokens
        logits = ViTHybridForImageClassification(config)(pixel_values, labels=labels).logits
        assert logits.shape == (self.model_tester.batch_size, NUM_LABELS)


class BottleneckMixinsTest(HybridMixins, unittest.TestCase):
    pass


class PreactivationMixinsTest(HybridMixins, unittest.TestCase):
    hybrid_tester = PreactivationTester
    test_all_params_have_gradient = False  # BiT's last norm stands behind the feature map, so that no loss reaches it


class BackboneTester(HybridTester):
    def get_config(self) -> ViTHybridBackboneConfig:
        return ViTHybridBackboneConfig.of(super().get_config(), out_features=["stage1", "layer2"])


class BackboneMixinsTest(BackboneTesterMixin, unittest.TestCase):
    all_model_classes = (ViTHybridBackbone,)
    config_class = ViTHybridBackboneConfig

    def setUp(self):
        self.model_tester = BackboneTester(self)

    def test_config(self):
        """Overridden: the mixin expects the names of a ResNet's stages alone, as many as the configuration has depths.
        A hybrid's are followed by its layers. The rest is what the mixin asks."""
        config = ViTHybridBackboneConfig()
        names = ["stem", *(f"stage{n}" for n in (1, 2, 3)), *(f"layer{n}" for n in range(1, 13))]
        assert config.stage_names == names
        config = ViTHybridBackboneConfig(out_features=None, out_indices=None)
        assert (config.out_features, config.out_indices) == (["layer12"], [15])
        config = ViTHybridBackboneConfig(out_features=["stem", "stage1"], out_indices=[0, 1])
        assert (config.out_features, config.out_indices) == (["stem", "stage1"], [0, 1])
        config = ViTHybridBackboneConfig(out_features=["stage1", "stage3"])
        assert (config.out_features, config.out_indices) == (["stage1", "stage3"], [1, 3])
        config = ViTHybridBackboneConfig(out_indices=[0, 2])
        assert (config.out_features, config.out_indices) == (["stem", "stage2"], [0, 2])
        with pytest.raises(ValueError, match="correspond to the same stages"):
            ViTHybridBackboneConfig(out_features=["stage1", "stage2"], out_indices=[0, 2])

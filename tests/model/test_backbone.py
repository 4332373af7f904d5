"""The BiT backbone: padding, weight standardization and its folding, layers."""

import copy
import math

import pytest
import torch
from tiny_hybrid import tiny_config
from torch import nn
from transformers import BitConfig

from vit_hybrid import ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.model.backbone import (
    BackboneNumerics,
    BitBackbone,
    BitMaxPool2d,
    BitPreActivationBottleneckLayer,
    DropPath,
    WeightStandardizedConv2d,
    pad_same,
)


def backbone_config(**changes):
    fields = {
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [2, 1],
        "num_groups": 2,
        "layer_type": "bottleneck",
    }
    return BitConfig(**{**fields, **changes})


def convolution(form="variance", eps=1e-8, **changes):
    options = {"stride": 2, "config": backbone_config(global_padding="SAME")}
    return WeightStandardizedConv2d(4, 6, 3, numerics=BackboneNumerics(form, eps), **{**options, **changes})


def test_a_pre_activation_block_is_its_formula():
    """The shortcut of a stage's first block starts behind the first norm, as in BiT; later ones before it."""
    for is_first in (True, False):
        shape = {"stride": 1, "dilation": 1, "drop_path_rate": 0.0, "is_first": is_first}
        config = backbone_config(layer_type="preactivation")
        block = BitPreActivationBottleneckLayer(config, 8, 8, BackboneNumerics(), **shape)
        maps = torch.randn(2, 8, 6, 6)
        normed = block.norm1(maps)
        inner = block.conv3(block.norm3(block.conv2(block.norm2(block.conv1(normed)))))
        shortcut = block.downsample(normed) if is_first else maps
        assert torch.allclose(block(maps), inner + shortcut, atol=1e-6)
        shape["drop_path_rate"] = 1 - 1e-12
        dropping = BitPreActivationBottleneckLayer(config, 8, 8, BackboneNumerics(), **shape)
        dropping.load_state_dict(block.state_dict())
        assert torch.equal(dropping.train()(maps), shortcut)
        assert torch.equal(dropping.eval()(maps), block(maps))


@pytest.mark.parametrize("size", range(1, 16))
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 2, 1), (3, 2, 1), (3, 1, 2), (1, 2, 1), (3, 2, 2)])
def test_same_padding_is_tensorflows(size, kernel, stride, dilation):
    pixels = torch.rand(1, 1, size, size + 1)
    out = nn.functional.conv2d(
        pad_same(pixels, kernel, stride, dilation), torch.ones(1, 1, kernel, kernel), stride=stride, dilation=dilation
    )
    assert out.shape[-2:] == (math.ceil(size / stride), math.ceil((size + 1) / stride))
    total = max((math.ceil(size / stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    # The first output row starts `total // 2` above the picture, so its kernel rows from there on see pixels.
    first = sum(pixels[0, 0, row, 0] for tap in range(kernel) if 0 <= (row := tap * dilation - total // 2) < size)
    column_total = max((math.ceil((size + 1) / stride) - 1) * stride + dilation * (kernel - 1) + 1 - size - 1, 0)
    along_column = nn.functional.conv2d(
        pad_same(pixels, kernel, stride, dilation)[..., column_total // 2 : column_total // 2 + 1],
        torch.ones(1, 1, kernel, 1),
        stride=stride,
        dilation=dilation,
    )
    assert along_column[0, 0, 0, 0] == pytest.approx(float(first), abs=1e-6)


@pytest.mark.parametrize("form", ["variance", "std"])
def test_standardization_is_its_formula(form):
    layer = convolution(form, 1e-2).double()
    weight = layer.weight.detach().numpy().reshape(6, -1)
    mean, variance = weight.mean(1, keepdims=True), weight.var(1, keepdims=True)
    scale = (variance + 1e-2) ** 0.5 if form == "variance" else variance**0.5 + 1e-2
    expected = ((weight - mean) / scale).reshape(layer.weight.shape)
    assert torch.allclose(layer.standardized_weight(), torch.from_numpy(expected), atol=1e-12)


@pytest.mark.parametrize("form", ["variance", "std"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_standardizes_in_single(form, dtype):
    layer = convolution(form).to(dtype)
    exact = convolution(form)
    exact.weight.data = layer.weight.data.float()
    assert torch.equal(layer.standardized_weight(), exact.standardized_weight().to(dtype))


def test_constant_kernels_stay_finite():
    layer = convolution()
    layer.weight.data.fill_(0.3)
    assert torch.isfinite(layer.standardized_weight()).all()


class TestPooling:
    """The stem's pooling takes short cuts; what it stands for is a border of zeros and a plain maximum."""

    @staticmethod
    def expected(hidden_states):
        return nn.functional.max_pool2d(pad_same(hidden_states, 3, 2), 3, 2)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("size", [(1, 1), (2, 2), (8, 8), (9, 9), (8, 9), (9, 8), (14, 6)])
    @pytest.mark.parametrize("hidden_act", ["relu", "gelu"])
    def test_gives_the_same_values_and_gradients(self, hidden_act, size, dtype):
        pooling = BitMaxPool2d(backbone_config(hidden_act=hidden_act, embedding_dynamic_padding=True))
        values = torch.randn(2, 4, *size, dtype=dtype)
        before = [values.clone().requires_grad_() for _ in range(2)]
        found, expected = (
            pool(tensor.relu() if hidden_act == "relu" else tensor)
            for pool, tensor in zip((pooling, self.expected), before, strict=True)
        )
        assert torch.equal(found, expected)
        assert found.is_contiguous()
        grad = torch.randint(-3, 4, found.shape).to(dtype)  # whole numbers, whose sums are exact
        found.backward(grad)
        expected.backward(grad)
        assert torch.equal(before[0].grad, before[1].grad)

    def test_negative_maps_meet_a_border_of_zeros(self):
        pooling = BitMaxPool2d(backbone_config(layer_type="preactivation", embedding_dynamic_padding=True))
        assert pooling(torch.full((1, 1, 8, 8), -1.0))[0, 0, -1].tolist() == [0.0] * 4

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_keeps_the_layout(self, dtype):
        pooling = BitMaxPool2d(backbone_config(embedding_dynamic_padding=True))
        maps = torch.rand(2, 4, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
        assert pooling(maps).is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(pooling(maps), pooling(maps.contiguous()))

    def test_keeps_no_padded_copy_for_the_backward_pass(self):
        pooling = BitMaxPool2d(backbone_config(embedding_dynamic_padding=True))
        maps = torch.rand(1, 2, 8, 8, requires_grad=True)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape) or tensor, lambda t: t):
            pooling(maps)
        assert (1, 2, 9, 9) not in saved
        assert maps.shape in saved


@pytest.mark.parametrize("layer_type", ["bottleneck", "preactivation"])
@pytest.mark.parametrize("out_features", [["stem"], ["stage1"], ["stem", "stage2"]])
def test_gives_the_maps_that_were_asked_for(layer_type, out_features):
    backbone = BitBackbone(backbone_config(layer_type=layer_type, out_features=out_features)).eval()
    pixels = torch.rand(2, 3, 32, 40)
    maps = backbone(pixels).feature_maps
    every = backbone.bit(pixels).hidden_states
    assert len(maps) == len(out_features)
    for name, channels, found in zip(out_features, backbone.channels, maps, strict=True):
        assert found.shape[1] == channels
        assert torch.equal(found, every[backbone.stage_names.index(name)])


@pytest.mark.parametrize("layer_type", ["bottleneck", "preactivation"])
def test_the_whole_resnet_ends_with_its_norm_and_the_mean_over_the_map(layer_type):
    model = BitBackbone(backbone_config(layer_type=layer_type)).bit.eval()
    found = model(torch.rand(2, 3, 32, 40))
    last = found.hidden_states[-1]
    if layer_type == "preactivation":
        last = torch.relu(nn.functional.group_norm(last, 2, eps=1e-5))
    torch.testing.assert_close(found.last_hidden_state, last)
    torch.testing.assert_close(found.pooler_output, last.mean((2, 3), keepdim=True))


def test_stages_behind_the_last_map_do_not_run():
    backbone = BitBackbone(backbone_config(out_features=["stage1"]))
    ran = []
    backbone.bit.encoder.stages[1].register_forward_hook(lambda *_: ran.append(1))
    backbone(torch.rand(1, 3, 32, 32))
    assert ran == []
    backbone.bit(torch.rand(1, 3, 32, 32))
    assert ran == [1]


def test_output_stride_turns_strides_into_dilation():
    backbone = BitBackbone(
        backbone_config(
            hidden_sizes=[8, 16, 16],
            depths=[1, 2, 2],
            output_stride=4,
            global_padding="SAME",
            embedding_dynamic_padding=True,
        )
    )
    stages = backbone.bit.encoder.stages
    assert [layer.conv2.dilation[0] for stage in stages for layer in stage.layers] == [1, 1, 2, 2, 4]
    assert backbone(torch.rand(1, 3, 32, 32)).feature_maps[-1].shape == (1, 16, 8, 8)


def test_wrong_channels_name_both_numbers():
    with pytest.raises(ValueError, match=r"4 channels.*3"):
        BitBackbone(backbone_config())(torch.rand(1, 4, 32, 32))


def test_stochastic_depth_keeps_the_mean_and_rests_in_evaluation():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    assert repr(layer) == "DropPath(rate=0.25)"
    ones = torch.ones(20_000, 2, 1)
    dropped = layer(ones)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(layer.eval()(ones), ones)


def test_stochastic_depth_rises_over_the_encoder_and_the_stages():
    config = tiny_config(num_hidden_layers=3, drop_path_rate=0.2)
    config.backbone_config.drop_path_rate = 0.1
    model = ViTHybridModel(config)
    assert [layer.drop_path_rate for layer in model.encoder.layer] == pytest.approx([0.0, 0.1, 0.2])
    stages = model.embeddings.patch_embeddings.backbone.bit.encoder.stages
    assert isinstance(stages[0].layers[0].drop_path, nn.Identity)
    assert stages[1].layers[0].drop_path.rate == pytest.approx(0.1)
    torch.manual_seed(0)
    pixels = torch.rand(4, 3, 32, 32)
    assert not torch.equal(model(pixels).last_hidden_state, model(pixels).last_hidden_state)
    model.eval()
    assert torch.equal(model(pixels).last_hidden_state, model(pixels).last_hidden_state)


def test_a_layer_that_is_dropped_is_left_out_with_its_attention_and_its_feed_forward_part(tiny_model):
    layer = tiny_model.vit.encoder.layer[0].train()
    layer.drop_path_rate = 1 - 1e-12
    states = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(states)[0], states)
    assert not torch.equal(layer.eval()(states)[0], states)


class TestFolding:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_outputs_are_identical(self, tiny_model, dtype):
        model = tiny_model.to(dtype)
        plain = model(self.pixels).logits
        assert model.fold_weight_standardization() is model
        assert model.is_folded
        assert torch.equal(model(self.pixels).logits, plain)
        model.unfold_weight_standardization()
        assert not model.is_folded
        assert torch.equal(model(self.pixels).logits, plain)

    def test_ends_training(self, tiny_model):
        tiny_model.train().fold_weight_standardization()
        assert not any(module.training for module in tiny_model.modules())

    def test_is_not_computed_again(self, tiny_model, monkeypatch):
        tiny_model.fold_weight_standardization()
        monkeypatch.setattr(WeightStandardizedConv2d, "standardized_weight", None)
        tiny_model(self.pixels)

    def test_follows_to(self, tiny_model):
        plain = copy.deepcopy(tiny_model).to(torch.bfloat16)
        tiny_model.fold_weight_standardization().to(torch.bfloat16)
        assert torch.equal(tiny_model(self.pixels).logits, plain(self.pixels).logits)
        tiny_model.to("meta")
        assert all(buffer.is_meta for buffer in tiny_model.buffers())

    def test_refuses_training_until_unfolded(self, tiny_model):
        tiny_model.fold_weight_standardization()
        for attempt in (tiny_model.train, nn.Sequential(tiny_model).train, tiny_model.vit.embeddings.train):
            with pytest.raises(RuntimeError, match="unfold_weight_standardization"):
                attempt()
        assert not tiny_model.training
        tiny_model(self.pixels, labels=torch.tensor([0, 1])).loss.backward()
        kernels = [
            name for name, weight in tiny_model.named_parameters() if ".conv" in name and weight.grad is not None
        ]
        assert kernels == []
        tiny_model.unfold_weight_standardization().train()
        tiny_model(self.pixels, labels=torch.tensor([0, 1])).loss.backward()
        stem = tiny_model.vit.embeddings.patch_embeddings.backbone.bit.embedder.convolution
        assert stem.weight.grad.abs().sum() > 0

    def test_leaves_frozen_weights_frozen(self, tiny_model):
        tiny_model.requires_grad_(False)
        tiny_model.fold_weight_standardization().unfold_weight_standardization()
        assert not any(weight.requires_grad for weight in tiny_model.parameters())

    def test_folded_once_more_it_still_knows_what_was_trainable(self, tiny_model):
        tiny_model.fold_weight_standardization().fold_weight_standardization().unfold_weight_standardization()
        assert all(weight.requires_grad for weight in tiny_model.parameters())

    def test_refuses_load_state_dict_until_unfolded(self, tiny_model):
        other = {key: weight + 1 for key, weight in tiny_model.state_dict().items()}
        tiny_model.fold_weight_standardization()
        with pytest.raises(RuntimeError, match="unfold_weight_standardization"):
            tiny_model.load_state_dict(other)
        tiny_model.unfold_weight_standardization().load_state_dict(other)
        assert torch.equal(tiny_model.classifier.weight, other["classifier.weight"])

    def test_saves_the_original_weights(self, tiny_model, tmp_path):
        before = {key: weight.clone() for key, weight in tiny_model.state_dict().items()}
        tiny_model.fold_weight_standardization()
        assert tiny_model.state_dict().keys() == before.keys()
        tiny_model.save_pretrained(tmp_path)
        loaded = ViTHybridForImageClassification.from_pretrained(tmp_path)
        for key, weight in loaded.state_dict().items():
            assert torch.equal(weight, before[key]), key
        assert not loaded.is_folded

    def test_a_copy_is_folded_too(self, tiny_model):
        twin = copy.deepcopy(tiny_model.fold_weight_standardization())
        assert twin.is_folded
        twin.unfold_weight_standardization()
        assert tiny_model.is_folded

    def test_refuses_weights_that_are_not_in_memory(self, tiny_config):
        with torch.device("meta"):
            model = ViTHybridModel(tiny_config)
        with pytest.raises(RuntimeError, match="not in memory"):
            model.fold_weight_standardization()

    def test_plain_model_sees_every_change_of_its_weights(self, tiny_model):
        before = tiny_model(self.pixels).logits
        stem = tiny_model.vit.embeddings.patch_embeddings.backbone.bit.embedder.convolution
        stem.weight.data[0] = torch.rand_like(stem.weight[0])
        assert not torch.equal(tiny_model(self.pixels).logits, before)

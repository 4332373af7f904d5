"""The hybrid's models: attention implementations, outputs, masks, losses, sizes, precision, compiling and exporting."""

import logging
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_hybrid
import torch
from tiny_hybrid import save_tiny_model, tiny_config
from torch import nn
from torch.export import Dim
from transformers.utils import logging as transformers_logging

from vit_hybrid import ViTHybridBackbone, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.model import modeling
from vit_hybrid.model.positions import resize_positions
from vit_hybrid.model.token_merging import merge_tokens

# Compiling flex attention warns of torch's own doings.
FLEX = pytest.param(
    "flex_attention",
    marks=[
        pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated"),
        pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    ],
)
ATTENTION = ["eager", "sdpa", FLEX]
HALF = [torch.float16, torch.bfloat16]


def pixels(*shape, seed=0):
    return torch.rand(*(shape or (2, 3, 32, 32)), generator=torch.Generator().manual_seed(seed))


def model_with(attention="sdpa", **changes):
    torch.manual_seed(0)
    config = tiny_config(initializer_range=0.3, **changes)
    return ViTHybridForImageClassification._from_config(config, attn_implementation=attention).eval()


@pytest.fixture
def messages():
    """What the model logs as warnings, with the memory of `warning_once` wiped."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    logger = transformers_logging.get_logger("vit_hybrid.model.modeling")
    transformers_logging.warning_once.cache_clear()
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


@pytest.fixture
def no_grad():
    """Inference only, which is all that flex attention can do on a CPU."""
    with torch.no_grad():
        yield


@pytest.mark.usefixtures("no_grad")
class TestAttention:
    def test_default_is_sdpa(self, tiny_config):
        assert ViTHybridModel(tiny_config).config._attn_implementation == "sdpa"

    @pytest.mark.parametrize("attention", ATTENTION)
    def test_implementations_agree(self, attention):
        expected = model_with("eager")(pixels()).logits
        assert torch.allclose(model_with(attention)(pixels()).logits, expected, atol=1e-5)

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_drops_nothing_but_in_training(self, attention):
        model = model_with(attention, attention_probs_dropout_prob=0.5)
        plain = model_with(attention)
        plain.load_state_dict(model.state_dict())
        assert torch.equal(model(pixels()).logits, plain(pixels()).logits)
        assert not torch.equal(model.train()(pixels()).logits, model(pixels()).logits)

    def test_positions_are_dropped_with_what_they_are_added_to(self):
        embeddings = model_with().vit.embeddings.train()
        embeddings.dropout.p = 1.0
        assert not embeddings(pixels()).any()

    def test_is_set_at_load_and_later(self, tmp_path, messages):
        folder = save_tiny_model(tmp_path)
        for attention in ("eager", "sdpa", "flex_attention"):
            model = ViTHybridForImageClassification.from_pretrained(folder, attn_implementation=attention)
            assert model.config._attn_implementation == attention
            model.set_attn_implementation("eager")
            assert model.vit.encoder.layer[0].attention.attention.config._attn_implementation == "eager"
        assert messages == []

    def test_the_set_implementation_is_the_one_that_runs(self, monkeypatch):
        model = model_with("sdpa")
        ran = []
        original = nn.functional.scaled_dot_product_attention
        monkeypatch.setattr(
            nn.functional, "scaled_dot_product_attention", lambda *a, **k: ran.append(1) or original(*a, **k)
        )
        model(pixels())
        assert len(ran) == 2
        model.set_attn_implementation("eager")
        model(pixels())
        assert len(ran) == 2

    @pytest.mark.parametrize(
        ("attention", "biased"),
        [("eager", "eager"), ("sdpa", "sdpa"), ("flex_attention", "sdpa"), ("flash_attention_2", "sdpa")],
    )
    def test_what_takes_no_bias_is_left_for_what_does_only_where_there_is_one(self, attention, biased, monkeypatch):
        asked: list[str] = []

        def interface(name: str, default: Any) -> Any:
            asked.append(name)
            return default

        monkeypatch.setattr(modeling, "ALL_ATTENTION_FUNCTIONS", SimpleNamespace(get_interface=interface))
        module = model_with("eager").vit.encoder.layer[0].attention.attention
        module.config._attn_implementation_internal = attention
        given = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
        module.attend(*given, None, None, False)
        module.attend(*given, torch.zeros(1, 1, 1, 5), None, False)
        assert asked == [attention, biased]

    def test_unknown_implementation_is_refused(self, tiny_config):
        with pytest.raises(ValueError, match="flash_attention_9"):
            ViTHybridModel._from_config(tiny_config, attn_implementation="flash_attention_9")

    @pytest.mark.gpu
    def test_flash_attention_agrees(self):
        pytest.importorskip("flash_attn", reason="needs the flash-attn package")
        expected = model_with("eager").cuda().half()(pixels().cuda()).logits
        found = model_with("eager").cuda().half()
        found.set_attn_implementation("flash_attention_2")
        assert torch.allclose(found(pixels().cuda()).logits, expected, atol=1e-2)

    @pytest.mark.gpu
    def test_flex_attention_trains(self):
        model = model_with("flex_attention").cuda().train()
        with torch.enable_grad():
            loss = model(pixels().cuda(), labels=torch.tensor([0, 1]).cuda()).loss
        loss.backward()
        assert model.vit.encoder.layer[0].attention.attention.query.weight.grad.isfinite().all()


@pytest.mark.usefixtures("no_grad")
class TestOutputs:
    @pytest.mark.parametrize("attention", ATTENTION)
    def test_attentions_and_hidden_states_under_every_implementation(self, attention, messages):
        model = model_with(attention)
        found = model(pixels(), output_attentions=True, output_hidden_states=True)
        again = model(pixels(), output_attentions=True)
        assert len(found.attentions) == len(again.attentions) == 2
        for weights in found.attentions:
            assert weights.shape == (2, 2, 17, 17)
            assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 17), atol=1e-5)
        assert [tuple(state.shape) for state in found.hidden_states] == [(2, 17, 16)] * 3
        assert torch.allclose(found.logits, model(pixels()).logits, atol=1e-5)
        assert len(messages) == (0 if attention == "eager" else 1)

    def test_last_hidden_state_is_the_last_of_them_behind_the_norm(self):
        model = model_with().vit
        found = model(pixels(), output_hidden_states=True)
        assert torch.equal(model.layernorm(found.hidden_states[-1]), found.last_hidden_state)
        assert torch.equal(found.hidden_states[0], model.embeddings(pixels()))

    def test_nothing_is_recorded_unasked(self):
        found = model_with()(pixels())
        assert found.attentions is None
        assert found.hidden_states is None

    def test_the_configuration_can_ask(self):
        found = model_with("eager", output_hidden_states=True, output_attentions=True)(pixels())
        assert len(found.attentions) == 2
        assert len(found.hidden_states) == 3
        asking = model_with("eager", output_hidden_states=True, output_attentions=True)
        for model in (asking, asking.vit):  # and who calls has the last word
            found = model(pixels(), output_hidden_states=False, output_attentions=False)
            assert (found.hidden_states, found.attentions) == (None, None)

    def test_tuples_and_arguments_by_position(self):
        model = model_with("eager")
        by_name = model(pixels(), labels=torch.tensor([0, 2]), output_attentions=True, output_hidden_states=True)
        by_position = model(pixels(), None, torch.tensor([0, 2]), True, True, False, False)
        assert isinstance(by_position, tuple)
        assert torch.equal(by_position[0], by_name.loss)
        assert torch.equal(by_position[1], by_name.logits)
        assert len(by_position[2]) == 3
        assert len(by_position[3]) == 2
        base = model.vit(pixels(), None, None, False, True, None, False)
        assert [len(base), len(base[1])] == [2, 3]

    def test_argument_mistakes_are_named(self):
        model = model_with()
        with pytest.raises(TypeError, match="two values for pixel_values"):
            model(pixels(), pixel_values=pixels())
        with pytest.raises(TypeError, match="at most 7"):
            model(*[None] * 8)

    def test_pooler(self, tiny_config):
        model = ViTHybridModel(tiny_config).eval()
        found = model(pixels())
        expected = torch.tanh(model.pooler.dense(found.last_hidden_state[:, 0]))
        assert torch.equal(found.pooler_output, expected)
        assert ViTHybridModel(tiny_config, add_pooling_layer=False)(pixels()).pooler_output is None


@pytest.mark.usefixtures("no_grad")
class TestHeadMask:
    @pytest.mark.parametrize("attention", ATTENTION)
    def test_is_a_factor_on_the_heads_context(self, attention):
        """Masking a head equals silencing its columns of the output projection."""
        mask = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
        found = model_with(attention)(pixels(), head_mask=mask).logits
        scaled = model_with(attention)
        for layer, factors in zip(scaled.vit.encoder.layer, mask, strict=True):
            layer.attention.output.dense.weight.data *= factors.repeat_interleave(8)
        assert torch.allclose(found, scaled(pixels()).logits, atol=1e-5)
        assert not torch.allclose(found, model_with(attention)(pixels()).logits, atol=1e-3)

    @pytest.mark.parametrize("attention", ATTENTION)
    def test_scales_the_returned_weights(self, attention):
        model = model_with(attention)
        plain = model(pixels(), output_attentions=True).attentions
        masked = model(pixels(), head_mask=torch.tensor([0.0, 0.5]), output_attentions=True).attentions
        assert masked[0][:, 0].abs().sum() == 0
        assert torch.allclose(masked[0][:, 1], plain[0][:, 1] / 2)

    def test_one_row_serves_every_layer(self):
        model, row = model_with(num_hidden_layers=3), torch.tensor([0.0, 1.0])
        assert torch.equal(model(pixels(), head_mask=row).logits, model(pixels(), head_mask=row.expand(3, 2)).logits)

    def test_is_of_the_models_precision(self):
        model, mask = model_with().to(torch.bfloat16), torch.tensor([0.25, 1.0])
        found = model(pixels().bfloat16(), head_mask=mask).logits
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, model(pixels().bfloat16(), head_mask=mask.bfloat16()).logits)

    @pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 3), (1, 3, 2)])
    def test_wrong_shape_names_the_right_ones(self, shape):
        with pytest.raises(ValueError, match=rf"has shape {re.escape(str(shape))}; .*\(2,\).*\(3, 2\)"):
            model_with(num_hidden_layers=3)(pixels(), head_mask=torch.ones(shape))


class TestSizes:
    @pytest.mark.parametrize("size", [(8, 8), (5, 3), (32, 32), (33, 47), (64, 40), (96, 96)])
    def test_any_size_from_one_patch_up(self, size):
        model = model_with()
        found = model.vit(pixels(1, 3, *size), interpolate_pos_encoding=True).last_hidden_state
        rows, columns = -(-size[0] // 8), -(-size[1] // 8)
        assert found.shape == (1, 1 + rows * columns, 16)
        assert found.isfinite().all()

    def test_patches_come_as_a_sequence_or_as_their_map(self):
        patches = model_with(image_size=[32, 64]).vit.embeddings.patch_embeddings
        images = pixels(2, 3, 32, 64)
        found, as_map = patches(images), patches(images, flatten=False)
        assert (found.shape, as_map.shape) == ((2, 32, 16), (2, 16, 4, 8))
        assert torch.equal(found.transpose(1, 2).unflatten(2, (4, 8)), as_map)
        again, maps = patches(images, output_feature_maps=True)
        assert torch.equal(again, found)
        assert [tuple(one.shape) for one in maps] == [(2, 16, 8, 16), (2, 16, 8, 16), (2, 32, 4, 8)]

    def test_own_size_is_untouched(self):
        model = model_with()
        assert torch.equal(model(pixels(), interpolate_pos_encoding=True).logits, model(pixels()).logits)

    @pytest.mark.parametrize("size", [(6, 3), (2, 8)])  # the latter of as many patches as its own grid has
    def test_positions_are_resized_bicubically_and_the_class_tokens_kept(self, size):
        embeddings = model_with().vit.embeddings
        found = embeddings.position_embeddings_for(size)
        own = embeddings.position_embeddings
        grid = own[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
        expected = nn.functional.interpolate(grid, size, mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, 16)
        assert torch.equal(found[:, :1], own[:, :1])
        assert torch.allclose(found[:, 1:], expected)

    def test_rectangular_models_interpolate_too(self):
        model = model_with(image_size=[32, 64], patch_size=[2, 1])
        assert model.vit.embeddings.patch_embeddings.grid_size == (2, 8)
        found = model.vit(pixels(1, 3, 48, 40), interpolate_pos_encoding=True).last_hidden_state
        assert found.shape[1] == 1 + 3 * 5

    @pytest.mark.parametrize("dtype", HALF)
    def test_in_half_precision(self, dtype):
        model = model_with().to(dtype)
        assert model(pixels(1, 3, 40, 56), interpolate_pos_encoding=True).logits.dtype == dtype

    def test_wrong_size_names_both(self):
        with pytest.raises(ValueError, match=r"\(40\*32\).*\(32\*32\).*interpolate_pos_encoding"):
            model_with()(pixels(1, 3, 40, 32))

    def test_less_than_a_patch_is_refused(self):
        for size, feature_map in (((8, 32), "1x4"), ((32, 8), "4x1")):
            said = f"A {size[0]}x{size[1]} image gives a feature map of {feature_map}, smaller than a patch of 2x2"
            with pytest.raises(ValueError, match=said):
                model_with(patch_size=2)(pixels(1, 3, *size), interpolate_pos_encoding=True)

    def test_wrong_channels_name_both_numbers(self):
        with pytest.raises(ValueError, match=r"1 channels.*made for 3"):
            model_with()(pixels(1, 1, 32, 32))

    @pytest.mark.parametrize("shape", [(3, 32, 32), (1, 2, 3, 32, 32), (32, 32)])
    def test_what_is_no_batch_names_its_shape(self, shape):
        model = model_with()
        for compute in (model, model.forward_features, ViTHybridBackbone.of(model)):
            with pytest.raises(
                ValueError, match=rf"{re.escape(str(shape))}; give images of shape \(N, channels, h.* \(1, "
            ):
                compute(torch.zeros(shape))

    def test_missing_pixels(self):
        with pytest.raises(ValueError, match="pixel_values"):
            model_with()()

    @pytest.mark.parametrize("size", [64, (24, 40)])
    def test_another_size_at_load(self, tmp_path, size):
        folder = save_tiny_model(tmp_path)
        model = ViTHybridForImageClassification.from_pretrained(folder, image_size=size)
        expected = ViTHybridForImageClassification.from_pretrained(folder).resize_position_embeddings(size)
        shape = (1, 3, size, size) if isinstance(size, int) else (1, 3, *size)
        assert torch.equal(model(pixels(*shape)).logits, expected(pixels(*shape)).logits)
        _, loading = ViTHybridForImageClassification.from_pretrained(folder, image_size=size, output_loading_info=True)
        assert not loading["missing_keys"]


class TestMaskToken:
    def test_replaces_the_masked_patches(self, tiny_config):
        torch.manual_seed(0)
        embeddings = ViTHybridModel(tiny_config, use_mask_token=True).eval().embeddings
        embeddings.mask_token.data.fill_(2.0)
        mask = torch.zeros(2, 16, dtype=torch.bool)
        mask[0, 3] = True
        found, plain = embeddings(pixels(), bool_masked_pos=mask), embeddings(pixels())
        assert torch.allclose(found[0, 4], 2.0 + embeddings.position_embeddings[0, 4])
        found[0, 4] = plain[0, 4]
        assert torch.equal(found, plain)

    def test_without_one_says_how_to_get_one(self, tiny_config):
        with pytest.raises(ValueError, match="use_mask_token=True"):
            ViTHybridModel(tiny_config)(pixels(), bool_masked_pos=torch.zeros(2, 16))

    @pytest.mark.parametrize("shape", [(2, 9), (3, 16), (16,), (2, 16, 1)])
    def test_wrong_shape_names_the_right_one(self, shape, tiny_config):
        with pytest.raises(ValueError, match=rf"has shape {re.escape(str(shape))}; expected one .*, \(2, 16\)"):
            ViTHybridModel(tiny_config, use_mask_token=True)(pixels(), bool_masked_pos=torch.zeros(shape))

    def test_one_row_serves_every_image(self, tiny_config):
        model = ViTHybridModel(tiny_config, use_mask_token=True).eval()
        row = (torch.arange(16) % 3 == 0)[None]
        found = model(pixels(), bool_masked_pos=row).last_hidden_state
        assert torch.equal(found, model(pixels(), bool_masked_pos=row.expand(2, 16)).last_hidden_state)


class TestLosses:
    @pytest.mark.parametrize(
        ("problem", "labels", "loss"),
        [
            ("single_label_classification", torch.tensor([0, 2]), nn.functional.cross_entropy),
            (
                "multi_label_classification",
                torch.tensor([[0.0, 1, 1], [1, 0, 0]]),
                nn.functional.binary_cross_entropy_with_logits,
            ),
            ("regression", torch.tensor([[0.5, 1, 1], [1, 0, -1]]), nn.functional.mse_loss),
        ],
    )
    def test_of_each_problem_type(self, problem, labels, loss):
        model = model_with(problem_type=problem)
        found = model(pixels(), labels=labels)
        assert torch.allclose(found.loss, loss(found.logits, labels))

    def test_a_trainer_may_say_by_how_many_pictures_the_sum_is_divided(self):
        model = model_with(problem_type="single_label_classification")
        found = model(pixels(), labels=torch.tensor([0, 2]), num_items_in_batch=8)
        assert torch.allclose(found.loss, nn.functional.cross_entropy(found.logits, torch.tensor([0, 2])) / 4)

    @pytest.mark.parametrize(
        ("num_labels", "labels", "problem"),
        [
            (3, torch.tensor([0, 2]), "single_label_classification"),
            (3, torch.tensor([[0.0, 1, 1], [1, 0, 0]]), "multi_label_classification"),
            (1, torch.tensor([0.5, -1.0]), "regression"),
        ],
    )
    def test_problem_type_follows_from_the_labels(self, num_labels, labels, problem):
        model = model_with(num_labels=num_labels)
        assert model(pixels(), labels=labels).loss.isfinite()
        assert model.config.problem_type == problem

    def test_without_labels_to_predict_the_features_come_out(self):
        model = model_with(num_labels=0)
        assert torch.equal(model(pixels()).logits, model.vit(pixels()).last_hidden_state[:, 0])


class TestPrecisionAndMemory:
    @pytest.mark.parametrize("dtype", HALF)
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_half_precision_is_near_single(self, attention, dtype):
        exact = model_with(attention)(pixels()).logits
        found = model_with(attention).to(dtype)(pixels()).logits
        assert found.dtype == dtype
        assert torch.allclose(found.float(), exact, atol=0.15)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_at_load(self, tmp_path, dtype):
        model = ViTHybridForImageClassification.from_pretrained(save_tiny_model(tmp_path), dtype=dtype)
        assert {weight.dtype for weight in model.parameters()} == {getattr(torch, dtype)}

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_gradient_checkpointing_gives_the_same_gradients(self, attention):
        gradients = []
        for checkpointing in (False, True):
            model = model_with(attention).train()
            if checkpointing:
                model.activation_checkpointing_enable()
                recomputed = []
                block = model.vit.embeddings.patch_embeddings.backbone.bit.encoder.stages[0].layers[0]
                block.conv1.register_forward_hook(lambda *_, seen=recomputed: seen.append(1))
            model(pixels(), labels=torch.tensor([0, 1])).loss.backward()
            gradients.append([weight.grad for weight in model.parameters()])
        assert len(recomputed) == 2
        for plain, checkpointed in zip(*gradients, strict=True):
            assert torch.allclose(plain, checkpointed, atol=1e-6)

    def test_device_map(self, tmp_path):
        folder = save_tiny_model(tmp_path)
        plain = ViTHybridForImageClassification.from_pretrained(folder)
        for device_map in ("auto", {"": "cpu"}):
            model = ViTHybridForImageClassification.from_pretrained(folder, device_map=device_map)
            assert torch.equal(model(pixels()).logits, plain(pixels()).logits)

    def test_bin_only_checkpoints_load(self, tmp_path):
        folder = save_tiny_model(tmp_path)
        plain = ViTHybridForImageClassification.from_pretrained(folder)
        torch.save(plain.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        model = ViTHybridForImageClassification.from_pretrained(folder)
        assert torch.equal(model(pixels()).logits, plain(pixels()).logits)

    def test_base_model_and_classifier_load_each_others_files(self, tmp_path):
        folder = save_tiny_model(tmp_path / "classifier")
        classifier = ViTHybridForImageClassification.from_pretrained(folder)
        base = ViTHybridModel.from_pretrained(folder, add_pooling_layer=False)
        expected = classifier.vit(pixels()).last_hidden_state
        assert torch.equal(base(pixels()).last_hidden_state, expected)
        base.save_pretrained(tmp_path / "base")
        again = ViTHybridForImageClassification.from_pretrained(tmp_path / "base")
        assert torch.equal(again.vit(pixels()).last_hidden_state, expected)


def test_no_module_of_transformers_bit_is_inside():
    assert not [type(module) for module in model_with().modules() if "models.bit" in type(module).__module__]


def test_what_must_not_be_split_over_devices_is_what_adds_to_what_it_is_given():
    model = model_with()
    kept = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    assert {type(module).__name__ for module in kept} == {*model._no_split_modules}
    whole = {id(part) for module in kept for part in module.modules()}
    assert {id(part) for part in model.vit.embeddings.modules()} <= whole
    assert {id(part) for layer in model.vit.encoder.layer for part in layer.modules()} <= whole
    assert (model.main_input_name, model.base_model is model.vit) == ("pixel_values", True)
    assert model.get_input_embeddings() is model.vit.embeddings.patch_embeddings


def test_a_new_mask_token_is_zero(tiny_config):
    assert not ViTHybridModel(tiny_config, use_mask_token=True).embeddings.mask_token.any()


def test_new_weights_are_drawn_as_documented():
    torch.manual_seed(0)
    model = ViTHybridForImageClassification(tiny_config(hidden_size=64, intermediate_size=256))
    dense = model.vit.encoder.layer[0].intermediate.dense
    assert dense.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert dense.bias.abs().sum() == 0
    stem = model.vit.embeddings.patch_embeddings.backbone.bit.embedder.convolution
    assert stem.weight.std().item() == pytest.approx((2 / (16 * 7 * 7)) ** 0.5, rel=0.1)
    assert model.vit.embeddings.position_embeddings.std().item() == pytest.approx(0.02, rel=0.15)
    assert model.vit.embeddings.cls_token.std().item() == pytest.approx(0.02, rel=0.4)  # of 64 numbers


def test_a_model_that_has_recorded_can_be_pickled():
    model = model_with()
    model(pixels(), output_hidden_states=True, output_attentions=True)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(pixels()).logits, model(pixels()).logits)


def test_compiles_without_a_graph_break():
    model = model_with()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        found = compiled(pixels(), output_attentions=True, output_hidden_states=True)
        assert [len(found.attentions), len(found.hidden_states)] == [2, 3]
        assert torch.allclose(compiled(pixels()).logits, model(pixels()).logits, atol=1e-5)
        model.fold_weight_standardization()
        assert torch.allclose(compiled(pixels()).logits, model(pixels()).logits, atol=1e-5)


@pytest.mark.parametrize(("padding", "folded"), [("SAME", False), (None, True)])
def test_exports_with_dynamic_batch_height_and_width(padding, folded):
    config = tiny_config()
    config.backbone_config.global_padding = padding
    config.backbone_featmap_shape = None
    torch.manual_seed(0)
    model = ViTHybridForImageClassification(config).eval()
    if folded:
        model.fold_weight_standardization()
    # A map of one column is a special case to the exporter; twice the stride of 8 keeps clear of it.
    sizes = {0: Dim("batch", min=1, max=16), 2: Dim("height", min=16, max=512), 3: Dim("width", min=17, max=512)}
    with torch.no_grad():
        program = torch.export.export(
            model,
            (pixels(2, 3, 32, 40),),
            {"interpolate_pos_encoding": True},
            dynamic_shapes={"pixel_values": sizes, "interpolate_pos_encoding": None},
        ).module()
        for shape in [(1, 3, 32, 32), (3, 3, 16, 17), (2, 3, 75, 33)]:
            expected = model(pixels(*shape), interpolate_pos_encoding=True).logits
            found = program(pixels(*shape), interpolate_pos_encoding=True).logits
            assert torch.allclose(found, expected, atol=1e-5), shape


class TestNewSizesAndHeads:
    @pytest.mark.parametrize("size", [64, (48, 40)])
    def test_resized_model_equals_interpolation(self, size, tmp_path):
        shape = (1, 3, size, size) if isinstance(size, int) else (1, 3, *size)
        model = model_with()
        expected = model(pixels(*shape), interpolate_pos_encoding=True).logits
        assert model.resize_position_embeddings(size, antialias=False) is model
        assert torch.equal(model(pixels(*shape)).logits, expected)
        model.save_pretrained(tmp_path)
        again = ViTHybridForImageClassification.from_pretrained(tmp_path)
        assert torch.equal(again(pixels(*shape)).logits, expected)

    def test_all_parts_know_the_new_size(self):
        model = model_with().resize_position_embeddings((64, 32))
        patches = model.vit.embeddings.patch_embeddings
        assert (patches.image_size, patches.grid_size, patches.num_patches) == ((64, 32), (8, 4), 32)
        assert model.vit.embeddings.position_embeddings.shape == (1, 33, 16)
        assert model.config.image_size == [64, 32]
        assert model.config.grid_size == (8, 4)
        assert model.vit.config.image_size == model.vit.embeddings.config.image_size == [64, 32]

    @pytest.mark.parametrize("frozen", [True, False])
    def test_resizing_keeps_what_is_frozen(self, frozen):
        model = model_with()
        model.vit.embeddings.position_embeddings.requires_grad_(not frozen)
        model.resize_position_embeddings(64)
        assert model.vit.embeddings.position_embeddings.requires_grad is not frozen
        assert model.vit.embeddings.cls_token.requires_grad

    def test_what_is_made_smaller_is_averaged_unless_told_otherwise(self):
        model = model_with()
        own = model.vit.embeddings.position_embeddings.detach()
        for changes, antialias in (({}, True), ({"antialias": False}, False)):
            found = model_with().resize_position_embeddings((16, 24), **changes).vit.embeddings.position_embeddings
            assert torch.equal(found, resize_positions(own, (4, 4), (2, 3), "bicubic", antialias))
            assert not torch.equal(found, resize_positions(own, (4, 4), (2, 3), "bicubic", not antialias))

    def test_resizing_refuses_less_than_a_patch_and_changes_nothing(self):
        model = model_with(patch_size=2)
        with pytest.raises(ValueError, match="smaller than a patch"):
            model.resize_position_embeddings(8)
        with pytest.raises(ValueError, match="'nearest'"):
            model.resize_position_embeddings(64, mode="nearest")
        assert model(pixels()).logits.shape == (2, 3)

    @pytest.mark.parametrize("dtype", HALF)
    @pytest.mark.parametrize("mode", ["bicubic", "bilinear", "bilinear-jax"])
    def test_positions_in_half_precision_are_resized_in_single(self, mode, dtype):
        positions = torch.randn(1, 17, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
        found = resize_positions(positions, (4, 4), (7, 3), mode)
        assert torch.equal(found, resize_positions(positions.float(), (4, 4), (7, 3), mode).to(dtype))

    @pytest.mark.parametrize("antialias", [False, True])
    @pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
    def test_positions_are_resized_as_pictures_are(self, mode, antialias):
        positions = torch.randn(1, 1 + 5 * 3, 2, generator=torch.Generator().manual_seed(0))
        grid = positions[:, 1:].transpose(1, 2).reshape(1, 2, 5, 3)
        expected = nn.functional.interpolate(grid, (2, 4), mode=mode, antialias=antialias)
        found = resize_positions(positions, (5, 3), (2, 4), mode, antialias)
        assert torch.equal(found[:, :1], positions[:, :1])
        torch.testing.assert_close(found[:, 1:].transpose(1, 2).reshape(1, 2, 2, 4), expected)

    @pytest.mark.parametrize("shape", [(4, 7), (2, 2), (4, 4)])
    def test_the_authors_zoom_lays_corner_on_corner(self, shape):
        """Each output row is at i * (n - 1) / (m - 1) of the input's rows, and linear between them."""
        rows = torch.arange(4.0)[:, None] * torch.ones(4)
        positions = torch.cat((torch.full((1, 1), 9.0), rows.reshape(16, 1)))[None]
        found = resize_positions(positions, (4, 4), shape, mode="bilinear-jax")[0, :, 0]
        expected = torch.linspace(0, 3, shape[0])[:, None].expand(shape).flatten()
        assert found[0] == 9
        assert torch.allclose(found[1:], expected, atol=1e-6)

    def test_reset_classifier_starts_at_zero(self, messages):
        model = model_with()
        model.reset_classifier(5)
        assert torch.equal(model(pixels()).logits, torch.zeros(2, 5))
        assert model.config.num_labels == 5
        model.reset_classifier(0)
        assert model(pixels()).logits.shape == (2, 16)
        assert messages == [
            "The classifier is new: 5 classes, all weights zero. Train it before use.",
            "The classifier was taken away: the logits are its inputs.",
        ]
        with pytest.raises(ValueError, match="-1"):
            model.reset_classifier(-1)

    def test_a_new_classifier_is_like_the_rest_of_the_model(self):
        model = model_with().to(torch.bfloat16)
        model.reset_classifier(2)
        assert model.classifier.weight.dtype == model.classifier.bias.dtype == torch.bfloat16
        assert (model.num_labels, model.config.num_labels) == (2, 2)
        assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
        assert model.config.label2id == {"LABEL_0": 0, "LABEL_1": 1}
        assert model(torch.randn(1, 3, 32, 32)).logits.tolist() == [[0, 0]]

    def test_representation_layer(self, tmp_path):
        model = model_with(representation_size=7)
        features = model.vit(pixels()).last_hidden_state[:, 0]
        expected = model.classifier(torch.tanh(model.pre_logits.dense(features)))
        assert torch.equal(model(pixels()).logits, expected)
        model.save_pretrained(tmp_path)
        again = ViTHybridForImageClassification.from_pretrained(tmp_path)
        assert torch.equal(again(pixels()).logits, expected)
        assert not [key for key in model_with().state_dict() if "pre_logits" in key]


class TestFusedProjections:
    """Queries, keys and values as one matrix product, which nobody but the clock can tell from three."""

    @pytest.fixture
    def model(self) -> ViTHybridForImageClassification:
        torch.manual_seed(3)
        return ViTHybridForImageClassification(tiny_hybrid.tiny_config(qkv_bias=True)).fold_weight_standardization()

    @staticmethod
    def logits(model: ViTHybridForImageClassification) -> torch.Tensor:
        pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return model(pixels.to(model.dtype)).logits

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_give_the_same(self, model: ViTHybridForImageClassification, dtype: torch.dtype) -> None:
        plain = self.logits(model.to(dtype))
        fused = self.logits(model.fuse_projections())
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-2)
        model.to(torch.float32)  # moves both forms alike
        attention = model.vit.encoder.layer[0].attention.attention
        assert torch.equal(attention.fused_weight[:16], attention.query.weight)

    def test_without_biases(self) -> None:
        model = ViTHybridForImageClassification(tiny_hybrid.tiny_config(qkv_bias=False)).fold_weight_standardization()
        plain = self.logits(model)
        torch.testing.assert_close(self.logits(model.fuse_projections()), plain, rtol=0, atol=1e-6)
        attention = model.vit.encoder.layer[0].attention.attention
        assert (attention.fused_bias, attention.fused_weight.shape) == (None, (48, 16))

    def test_take_no_memory_and_leave_the_files_as_they_are(
        self, model: ViTHybridForImageClassification, tmp_path: Path
    ) -> None:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.fuse_projections()
        attention = model.vit.encoder.layer[0].attention.attention
        storages = {layer.weight.untyped_storage().data_ptr() for layer in (attention.query, attention.value)}
        assert storages == {attention.fused_weight.untyped_storage().data_ptr()}
        model.save_pretrained(tmp_path)
        after = ViTHybridForImageClassification.from_pretrained(tmp_path).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_stand_aside_for_training(self, model: ViTHybridForImageClassification) -> None:
        model.fuse_projections().unfold_weight_standardization().train()
        attention = model.vit.encoder.layer[0].attention.attention
        assert attention.fused_weight is None
        model(torch.randn(1, 3, 32, 32), labels=torch.tensor([1])).loss.backward()
        assert attention.query.weight.grad is not None
        assert attention.query.weight.untyped_storage().nbytes() == attention.query.weight.nbytes

    def test_stand_aside_where_gradients_are_kept(self, model: ViTHybridForImageClassification) -> None:
        pixels = torch.randn(1, 3, 32, 32)
        model.fuse_projections()(pixels).logits.sum().backward()
        attention = model.vit.encoder.layer[0].attention.attention
        for layer in (attention.query, attention.key, attention.value):
            assert layer.weight.grad is not None
            assert layer.weight.grad.abs().sum() > 0

    def test_are_left_as_they_are_under_an_adapter_or_a_hook(self, model: ViTHybridForImageClassification) -> None:
        first, second = (layer.attention.attention for layer in model.vit.encoder.layer)
        seen: list[torch.Tensor] = []
        first.query.register_forward_hook(lambda *given: seen.append(given[2]))
        second.value = torch.nn.Sequential(second.value)
        plain = self.logits(model)
        torch.testing.assert_close(self.logits(model.fuse_projections()), plain, rtol=0, atol=0)
        assert first.fused_weight is second.fused_weight is None
        assert len(seen) == 2

    def test_are_left_as_they_are_where_something_comes_before_one(
        self, model: ViTHybridForImageClassification
    ) -> None:
        attention = model.vit.encoder.layer[0].attention.attention
        attention.key.register_forward_pre_hook(lambda module, given: (2 * given[0],))
        plain = self.logits(model)
        torch.testing.assert_close(self.logits(model.fuse_projections()), plain, rtol=0, atol=0)
        assert attention.fused_weight is None

    def test_want_a_folded_model(self) -> None:
        with pytest.raises(RuntimeError, match="Fold the model first"):
            ViTHybridForImageClassification(tiny_hybrid.tiny_config()).fuse_projections()


FEATURES = ["stem", "stage1", "stage2", "layer1", "layer2"]
FEATURE_SHAPES = [(2, 16, 8, 8), (2, 16, 8, 8), (2, 32, 4, 4), (2, 17, 16), (2, 17, 16)]


def _forward_pass(model, images, **options):
    """The same by a forward pass and the parts of the ResNet."""
    bit = model.vit.embeddings.patch_embeddings.backbone.bit
    maps = bit.encoder(bit.embedder(images))
    outputs = model(images, output_hidden_states=True, output_attentions=True, **options)
    found = dict(zip(FEATURES, [*maps, *outputs.hidden_states[1:]], strict=True))
    found |= {f"attention{index}": weights for index, weights in enumerate(outputs.attentions, start=1)}
    return {**found, "logits": outputs.logits}


class TestForwardFeatures:
    """What the models compute on their way, by name: the numbers of a forward pass, in one graph, without hooks."""

    @pytest.mark.parametrize("folded", [False, True])
    @pytest.mark.parametrize("attention", ATTENTION)
    @torch.no_grad()
    def test_they_are_those_of_a_forward_pass_to_the_bit(self, attention, folded):
        model = model_with(attention)
        if folded:
            model.fold_weight_standardization().fuse_projections()
        found = model.forward_features(pixels())
        assert list(found) == FEATURES == model.config.feature_names
        assert [tuple(output.shape) for output in found.values()] == FEATURE_SHAPES
        # Attention weights are computed by the eager function, so each pass is held against one that computes the same.
        plain = model(pixels(), output_hidden_states=True)
        assert torch.equal(found["layer1"], plain.hidden_states[1])
        assert torch.equal(found["layer2"], plain.hidden_states[2])
        expected = _forward_pass(model, pixels())
        for name in FEATURES[:3]:
            assert torch.equal(found[name], expected[name])
        everything = model.forward_features(pixels(), expected)
        assert everything.keys() == expected.keys()
        for name, output in everything.items():
            assert torch.equal(output, expected[name]), name

    def test_they_come_in_the_models_order_whatever_was_asked_first(self):
        model = model_with()
        found = model.forward_features(pixels(), ["logits", "layer2", "attention1", "stage1"])
        assert list(found) == ["stage1", "layer2", "attention1", "logits"]
        assert list(model.forward_features(pixels(), "last_hidden_state")) == ["last_hidden_state"]
        assert list(model.forward_features(pixels(), "logits")) == ["logits"]
        assert list(model.forward_features(pixels(), ["logits", "last_hidden_state"])) == [
            "last_hidden_state",
            "logits",
        ]
        assert list(model.vit.forward_features(pixels(), ("layer1",))) == ["layer1"]

    def test_the_encoder_does_not_run_for_maps(self, monkeypatch):
        model = model_with()
        monkeypatch.setattr(model.vit.encoder, "forward", None)
        assert list(model.forward_features(pixels(), ["stem", "stage2"])) == ["stem", "stage2"]
        with pytest.raises(TypeError):
            model.forward_features(pixels(), "layer1")

    def test_gradients_reach_what_comes_before(self):
        model = model_with()
        names = ["stem", "stage2", "layer1", "attention2"]
        found = model.forward_features(pixels(), [*names, "logits"])
        gradients = torch.autograd.grad(found["logits"][:, 1].sum(), [found[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            assert gradient.shape == found[name].shape
            assert gradient.abs().max() > 0, name
        assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())

    @torch.no_grad()
    def test_other_sizes_head_masks_and_merged_tokens(self):
        model = model_with()
        wide = pixels(1, 3, 32, 48)
        with pytest.raises(ValueError, match="doesn't match model"):
            model.forward_features(wide)
        found = model.forward_features(wide, interpolate_pos_encoding=True)
        assert found["stage2"].shape == (1, 32, 4, 6)
        assert found["layer2"].shape == (1, 25, 16)

        mask = torch.tensor([1.0, 0.0])
        masked = model.forward_features(pixels(), ["layer2", "logits"], head_mask=mask)
        assert torch.equal(masked["logits"], model(pixels(), head_mask=mask).logits)

        merged = merge_tokens(model, 2)
        states = merged(pixels(), output_hidden_states=True).hidden_states
        assert torch.equal(merged.forward_features(pixels(), "layer1")["layer1"], states[1])

    def test_an_unknown_name_is_told_which_there_are(self):
        model = model_with()
        with pytest.raises(
            ValueError, match=r"no output 'stage3' in this model; give some of stem, stage1, .*, logits\."
        ):
            model.forward_features(pixels(), ["stem", "stage3"])
        with pytest.raises(ValueError, match="no output 'logits'"):
            model.vit.forward_features(pixels(), "logits")

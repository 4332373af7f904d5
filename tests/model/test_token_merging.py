"""Token merging: what is merged, that nothing else changes, and that every way of running it agrees."""

from __future__ import annotations

import copy
import itertools
import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tiny_hybrid import tiny_config

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification
from vit_hybrid.bundles.quantization import FLOAT_PATTERNS
from vit_hybrid.model import token_merging
from vit_hybrid.model.token_merging import for_class_token, merge_tokens

LAYERS, SIZE, TOKENS = 4, 64, 65  # 8 x 8 patches and the class token


def new_model(**changes: Any) -> ViTHybridForImageClassification:
    torch.manual_seed(0)
    fields = {"image_size": SIZE, "num_hidden_layers": LAYERS, "initializer_range": 0.5, **changes}
    return ViTHybridForImageClassification(tiny_config(**fields)).eval()


@pytest.fixture
def model() -> ViTHybridForImageClassification:
    return new_model()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def logits(model: ViTHybridForImageClassification, pixels: torch.Tensor, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(pixels, **options).logits


def tokens_by_layer(config: ViTHybridConfig, count: int) -> list[int]:
    """How many tokens each layer is to give, the class token included, with images of the configuration's size."""
    patches = math.prod(config.grid_size)
    merged = itertools.accumulate(token_merging.merged_by_layer(1 + patches, config.num_hidden_layers, count))
    return [*[1 + patches - gone for gone in merged][:-1], 1]


def without_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_merging, "merged_by_layer", lambda tokens, layers, token_merging: [0] * layers)


@pytest.mark.parametrize("given", [0, -1, 1.5, True, None, "8"])
def test_what_is_no_number_of_tokens_is_refused(model: ViTHybridForImageClassification, given: Any) -> None:
    with pytest.raises(ValueError, match=r"token_merging is .*; expected the tokens to merge per layer, 1 or more"):
        merge_tokens(model, given)


def test_a_model_that_merges_tokens_already_goes_on_with_the_class_token_alone() -> None:
    merging = merge_tokens(new_model(), 8)
    assert for_class_token(merging) is merging


def test_a_model_in_training_is_refused(model: ViTHybridForImageClassification) -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        merge_tokens(model.train(), 2)


def test_tokens_by_layer_of_the_published_hybrid() -> None:
    config = ViTHybridConfig.from_preset("R50+B/16", image_size=384)
    assert tokens_by_layer(config, 24) == [577, 577, 481, 481, 385, 385, 289, 289, 289, 289, 289, 1]
    # 576 patch tokens, of which three times half can go.
    assert tokens_by_layer(config, 1000) == [577, 577, 289, 289, 145, 145, 73, 73, 73, 73, 73, 1]


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("count", [1, 5, 1000])
def test_hidden_states_have_the_tokens_that_are_announced(layers: int, count: int, pixels: torch.Tensor) -> None:
    model = new_model(num_hidden_layers=layers)
    outputs = merge_tokens(model, count)(pixels, output_hidden_states=True, output_attentions=True)
    found = [state.shape[1] for state in outputs.hidden_states]
    assert found == [TOKENS, *tokens_by_layer(model.config, count)]
    assert [weights.shape[-1] for weights in outputs.attentions] == found[:-1]
    for before, behind in itertools.pairwise(found[:-1]):
        assert before - behind <= (before - 1) // 2
    assert outputs.logits.isfinite().all()


def test_the_last_layer_gives_the_class_token_exactly(
    model: ViTHybridForImageClassification, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_merging(monkeypatch)
    torch.testing.assert_close(logits(merge_tokens(model, 1), pixels), logits(model, pixels), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("layers", [LAYERS, 6])  # of six the fifth merges nothing, and goes by the sizes all the same
def test_equal_tokens_are_merged_without_a_change(layers: int, pixels: torch.Tensor) -> None:
    """Tokens of one value weigh what they did, however many are merged: what the sizes in attention are for."""
    model = new_model(num_hidden_layers=layers)
    embeddings = model.vit.embeddings
    with torch.no_grad():
        embeddings.position_embeddings[:, 1:] = 0.25
        embeddings.patch_embeddings.projection.weight.zero_()
    expected = logits(model, pixels)
    torch.testing.assert_close(logits(merge_tokens(model, 8), pixels), expected, atol=1e-5, rtol=1e-5)


def test_tokens_that_differ_are_merged_with_a_change(
    model: ViTHybridForImageClassification, pixels: torch.Tensor
) -> None:
    assert (logits(merge_tokens(model, 8), pixels) - logits(model, pixels)).abs().max() > 1e-4


def reference_merge(
    hidden: torch.Tensor, sizes: torch.Tensor, keys: torch.Tensor, merged: int
) -> tuple[list[torch.Tensor], list[float]]:
    """The paper's matching for one image, step by step: tokens and sizes without an order."""
    pairs = (len(hidden) - 1) // 2
    metric = torch.nn.functional.normalize(keys.mean(1), dim=-1)
    first, second = [1 + 2 * i for i in range(pairs)], [2 + 2 * i for i in range(pairs)]
    edges = []
    for source in first:
        alike = [float(metric[source] @ metric[target]) for target in second]
        edges.append((max(alike), source, second[int(np.argmax(alike))]))
    edges.sort(reverse=True)
    sums = {index: hidden[index] * sizes[index] for index in range(len(hidden))}
    totals = {index: float(sizes[index]) for index in range(len(hidden))}
    for _, source, target in edges[:merged]:
        sums[target] = sums[target] + sums.pop(source)
        totals[target] += totals.pop(source)
    return [sums[index] / totals[index] for index in sums], [totals[index] for index in sums]


@pytest.mark.parametrize("tokens", [3, 9, 10, 33])
@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_merge_is_the_papers(tokens: int, part: float) -> None:
    generator = torch.Generator().manual_seed(tokens)
    merged = max(1, round(part * ((tokens - 1) // 2)))
    hidden = torch.randn(2, tokens, 6, generator=generator)
    keys = torch.randn(2, tokens, 2, 3, generator=generator)
    sizes = torch.randint(1, 5, (2, tokens), generator=generator).float()
    out, out_sizes = token_merging._merge(hidden, sizes, keys, merged)
    assert out.shape == (2, tokens - merged, 6)
    for image in range(2):
        expected, expected_sizes = reference_merge(hidden[image], sizes[image], keys[image], merged)
        torch.testing.assert_close(out[image, 0], hidden[image, 0])  # the class token
        found = sorted([*row.tolist(), size.item()] for row, size in zip(out[image], out_sizes[image], strict=True))
        wanted = sorted([*row.tolist(), size] for row, size in zip(expected, expected_sizes, strict=True))
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_ties_leave_the_right_number_of_tokens_and_lose_nothing() -> None:
    hidden = torch.randn(1, 577, 4, generator=torch.Generator().manual_seed(0))
    sizes = torch.ones(1, 577)
    out, out_sizes = token_merging._merge(hidden, sizes, torch.ones(1, 577, 2, 3), 200)
    assert out.shape[1] == 377
    torch.testing.assert_close(out_sizes.sum(), torch.tensor(577.0))
    torch.testing.assert_close((out * out_sizes.unsqueeze(-1)).sum(1), hidden.sum(1), atol=1e-3, rtol=1e-4)


def test_the_original_stays_as_it_is(model: ViTHybridForImageClassification, pixels: torch.Tensor) -> None:
    state, expected = copy.deepcopy(model.state_dict()), logits(model, pixels)
    merging = merge_tokens(model, 8)
    logits(merging, pixels)
    assert torch.equal(logits(model, pixels), expected)
    assert type(merging) is type(model)
    assert list(merging.state_dict()) == list(state)
    for name, value in merging.state_dict().items():
        assert torch.equal(value, state[name])
        assert value.data_ptr() == model.state_dict()[name].data_ptr()
    other = merge_tokens(merging, 2)  # merges anew, and leaves the first as it is
    assert torch.equal(logits(other, pixels), logits(merge_tokens(model, 2), pixels))
    assert not torch.equal(logits(other, pixels), logits(merging, pixels))


def test_what_is_bound_to_the_original_is_not_taken_along(
    model: ViTHybridForImageClassification, pixels: torch.Tensor
) -> None:
    """Exporters leave `forward` in the instance, bound to it; a copy that has it runs the original, without merging."""
    expected = logits(merge_tokens(model, 8), pixels)
    model.forward = model.forward
    model.vit.forward = model.vit.forward
    assert torch.equal(logits(merge_tokens(model, 8), pixels), expected)
    model._compiled_call_impl = model.vit._compiled_call_impl = model.forward  # as `model.compile()` does
    assert torch.equal(logits(merge_tokens(model, 8), pixels), expected)


def test_no_part_of_it_trains(model: ViTHybridForImageClassification) -> None:
    assert not any(module.training for module in merge_tokens(model, 1).modules())


def test_a_fused_model_and_eager_attention_agree(model: ViTHybridForImageClassification, pixels: torch.Tensor) -> None:
    expected = logits(merge_tokens(model, 6), pixels)
    model.fold_weight_standardization().fuse_projections()
    torch.testing.assert_close(logits(merge_tokens(model, 6), pixels), expected, atol=1e-5, rtol=1e-5)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits(merge_tokens(model, 6), pixels), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_by_layer", [False, True])
def test_head_mask(
    is_by_layer: bool, model: ViTHybridForImageClassification, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = torch.linspace(0, 1, 2 * LAYERS).reshape(LAYERS, 2) if is_by_layer else torch.tensor([1.0, 0.0])
    without_merging(monkeypatch)
    expected = logits(model, pixels, head_mask=mask)
    torch.testing.assert_close(logits(merge_tokens(model, 1), pixels, head_mask=mask), expected, atol=1e-6, rtol=1e-6)


def test_other_image_sizes(model: ViTHybridForImageClassification) -> None:
    pixels = torch.randn(1, 3, 72, 88)  # 9 x 11 patches, an odd number
    outputs = merge_tokens(model, 5)(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    assert [state.shape[1] for state in outputs.hidden_states] == [100, 93, 86, 80, 1]


def test_bfloat16(pixels: torch.Tensor) -> None:
    """The choice of tokens may differ, so it is held against itself without merging, and to what float32 gives."""
    merging = merge_tokens(new_model(initializer_range=0.02).to(torch.bfloat16), 8)
    found = logits(merging, pixels)
    assert found.dtype == torch.bfloat16
    expected = logits(merge_tokens(new_model(initializer_range=0.02), 8), pixels)
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_torch_compile_takes_it_as_one_graph(model: ViTHybridForImageClassification, pixels: torch.Tensor) -> None:
    merging = merge_tokens(model, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler, about itself
        compiled = torch.compile(merging, backend="aot_eager", fullgraph=True, dynamic=False)
        found = logits(compiled, pixels)
    torch.testing.assert_close(found, logits(merging, pixels), atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu(pixels: torch.Tensor, dtype: torch.dtype) -> None:
    expected = logits(merge_tokens(new_model(initializer_range=0.02), 8), pixels)
    merging = merge_tokens(new_model(initializer_range=0.02).to("cuda", dtype), 8)
    found = logits(merging, pixels.to("cuda")).float().cpu()
    assert (found - expected).abs().max() < (0.05 if dtype == torch.bfloat16 else 1e-3) * expected.abs().max()


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_exported_programs_agree(engine: str, pixels: torch.Tensor) -> None:
    pytest.importorskip(engine)
    pytest.importorskip("onnxruntime" if engine == "onnx" else "openvino")
    from vit_hybrid.bundles.conversion import convert, prepared

    ready = prepared(new_model(num_hidden_layers=3), owned=True)
    if engine == "openvino":
        convert(ready, "torch")  # what an export leaves in the model must not keep its tokens from being merged
    merging = merge_tokens(ready, 6)
    converted = convert(merging, engine)
    for count in (1, 3):
        expected = logits(merging, pixels[:count]).numpy()
        assert np.abs(expected - logits(ready, pixels[:count]).numpy()).max() > 1e-3  # so that agreement says something
        np.testing.assert_allclose(run(converted, engine, pixels[:count].numpy()), expected, atol=1e-4, rtol=1e-4)

    # Of each of the two merges the two products, and no linear layer.
    assert tokens_by_layer(ready.config, 6) == [56, 47, 1]
    ignored = ignored_products(converted, engine)
    assert len(ignored) == 2 * 2
    assert all(ignored), "a product with weights would be left out of quantization"


def run(converted: Any, engine: str, pixels: np.ndarray) -> np.ndarray:
    if engine == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(converted.in_memory())
        return session.run(None, {session.get_inputs()[0].name: pixels})[0]
    from vit_hybrid.engines.openvino import shared_core

    compiled = shared_core().compile_model(converted.program, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([pixels])[0]


def ignored_products(converted: Any, engine: str) -> list[bool]:
    """For each product that `FLOAT_PATTERNS` name: whether it is without weights."""
    if engine == "onnx":
        products = [
            (node.name, all(value.producer() is not None and not value.is_initializer() for value in node.inputs))
            for node in converted.program.graph
            if node.op_type == "MatMul"
        ]
    else:
        products = [
            (
                node.get_friendly_name(),
                all(value.get_node().get_type_name() != "Constant" for value in node.input_values()),
            )
            for node in converted.program.get_ops()
            if node.get_type_name() == "MatMul"
        ]
    return [bare for name, bare in products if any(re.match(pattern, name) for pattern in FLOAT_PATTERNS)]

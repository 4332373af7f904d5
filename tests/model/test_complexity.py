"""The arithmetic of parameters, operations and memory, held to real modules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_hybrid import TINY_BACKBONE, tiny_config
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification
from vit_hybrid.model.complexity import DTYPE_BYTES, PARTS, complexity, memory
from vit_hybrid.model.geometry import as_pair
from vit_hybrid.model.presets import PRESETS

# The first match says which part a module or parameter belongs to.
PLACES = {
    "vit.embeddings.patch_embeddings.backbone": "stem_and_stages",
    "vit.embeddings.patch_embeddings.projection": "projection",
    "vit.embeddings": "embeddings",
    ".attention": "attention",
    ".layernorm_before": "attention",
    "vit.encoder": "mlp",
    "vit.layernorm": "head",
    "pre_logits": "head",
    "classifier": "head",
}
# What the estimate leaves out: the means and deviations that norms hand out beside their results.
TOLERANCE = 0.001


def part_of(name: str) -> str:
    return next(part for place, part in PLACES.items() if place in name)


def on_meta(config: ViTHybridConfig) -> ViTHybridForImageClassification:
    with torch.device("meta"):
        return ViTHybridForImageClassification(config).eval()


def parameters_by_part(model: ViTHybridForImageClassification) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return {part: counts[part] for part in PARTS}


def flops_by_part(model: ViTHybridForImageClassification) -> dict[str, int]:
    """What torch counts, each operation with the innermost module that it runs in."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, model.config.num_channels, *as_pair(model.config.image_size), device="meta"))
    root = type(model).__name__
    own = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.startswith(root)}
    total = dict(own)
    for name in own:
        outer = name.rpartition(".")[0]
        while outer and outer not in own:  # a list of modules is never called itself
            outer = outer.rpartition(".")[0]
        if outer:
            own[outer] -= total[name]
    counts: Counter[str] = Counter()
    for name, flops in own.items():
        if flops:
            counts[part_of(name.removeprefix(root))] += flops
    assert sum(counts.values()) == counter.get_total_flops()
    return {part: counts[part] for part in PARTS}


@st.composite
def configurations(draw: st.DrawFn) -> ViTHybridConfig:
    depths = draw(st.lists(st.integers(0, 2), max_size=4))
    widths = draw(st.lists(st.sampled_from([16, 32, 48]), min_size=max(len(depths), 1), max_size=4))
    sides = st.integers(20, 100)
    backbone = {
        "depths": depths,
        "hidden_sizes": widths,
        "embedding_size": draw(st.sampled_from([8, 16])),
        "num_groups": draw(st.sampled_from([1, 4])),
        "layer_type": draw(st.sampled_from(["bottleneck", "preactivation"])),
        "global_padding": draw(st.sampled_from([None, "same", "valid"])),
        "embedding_dynamic_padding": draw(st.booleans()),
        "output_stride": draw(st.sampled_from([4, 8, 32])),
        "width_factor": draw(st.sampled_from([1, 2])),
        "out_features": [draw(st.sampled_from(["stem", *(f"stage{stage + 1}" for stage in range(len(depths)))]))],
        "num_channels": (num_channels := draw(st.sampled_from([1, 3]))),
    }
    try:
        return ViTHybridConfig(
            backbone_config=backbone,
            image_size=draw(st.one_of(sides, st.tuples(sides, sides))),
            patch_size=draw(st.sampled_from([1, 2, (1, 3)])),
            num_channels=num_channels,
            hidden_size=16,
            num_attention_heads=draw(st.sampled_from([1, 4])),
            num_hidden_layers=draw(st.integers(0, 3)),
            intermediate_size=draw(st.sampled_from([8, 40])),
            qkv_bias=draw(st.booleans()),
            representation_size=draw(st.sampled_from([None, 24])),
            num_labels=draw(st.integers(0, 5)),
        )
    except ValueError:
        assume(False)
        raise


@settings(max_examples=50)
@given(configurations())
def test_every_part_is_that_of_the_modules(config: ViTHybridConfig) -> None:
    costs, model = complexity(config), on_meta(config)
    assert costs.parameters == parameters_by_part(model)
    assert costs.flops == flops_by_part(model)
    assert costs.tokens == model.vit.embeddings.position_embeddings.shape[1]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_presets(preset: Any) -> None:
    costs = complexity(ViTHybridConfig.from_preset(preset.name))
    assert costs.total_parameters == preset.parameters
    assert round(costs.total_flops / 1e9, 2) == preset.gflops


def test_r50_b16_at_384() -> None:
    config = ViTHybridConfig.from_preset("R50+B/16", image_size=384, num_labels=1000)
    costs = complexity(config)
    assert round(costs.total_flops / 1e9, 1) == 134.3
    assert costs.total_parameters == 98_950_952
    assert costs.tokens == 577
    assert costs.flops == flops_by_part(on_meta(config))


def test_what_cannot_run_is_refused() -> None:
    config = tiny_config()
    config.num_attention_heads = 5
    with pytest.raises(ValueError, match="num_attention_heads"):
        complexity(config)


class LiveStorages(TorchDispatchMode):
    """The bytes of the tensors that PyTorch's operations hand out, and how many live at once.

    What an operation takes and gives back before it returns is not among them, so the count is the same on every
    processor, whichever kernels a library has for it.
    """

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self._known = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in known}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)  # of a view, or of what is changed in place, a known one
                if reference.cdata not in self._known:
                    self._live[reference.cdata] = (reference, storage.nbytes())
        self._live = {key: (ref, size) for key, (ref, size) in self._live.items() if not ref.expired()}
        self.most = max(self.most, sum(size for _, size in self._live.values()))
        return made


def held_at_most(model: ViTHybridForImageClassification, images: torch.Tensor) -> int:
    """Bytes of the tensors that a forward pass makes, at the fullest moment."""
    with torch.no_grad(), LiveStorages(images, *model.parameters(), *model.buffers()) as storages:
        model(images)
    return storages.most


def test_live_storages_counts_what_lives_at_once() -> None:
    given = torch.zeros(100)
    with torch.no_grad(), LiveStorages(given) as storages:
        given.view(10, 10).add_(1)
        assert storages.most == 0
        one = given + 1
        two = one[:50]
        assert storages.most == 400
        del one
        three = two + 1  # a view keeps all of its storage
        assert storages.most == 600
        del two
        three = three * 2
        assert storages.most == 600
        three = torch.cat([three, three, three])
    assert storages.most == 800


STEM_ONLY = {"depths": [], "out_features": ["stem"]}
UNPADDED = {"global_padding": None, "embedding_dynamic_padding": False}
# Each has its fullest moment elsewhere: in the stem, in a stage, in attention, in the feed-forward part.
MEMORY_CASES = {
    "stem": {},
    "unpadded stem": {"backbone": UNPADDED},
    "rectangle": {"image_size": (64, 128), "patch_size": 2},
    "preactivation": {"backbone": {"layer_type": "preactivation"}},
    "unpadded preactivation": {"backbone": {"layer_type": "preactivation", **UNPADDED}},
    "narrow unpadded stem": {
        "backbone": {"layer_type": "preactivation", **UNPADDED, "embedding_size": 8, "hidden_sizes": [8, 16]}
    },
    "first stage": {"backbone": {"hidden_sizes": [96, 32]}},
    "a stage that does not run": {"backbone": {"out_features": ["stage1"]}},
    "later block": {"backbone": {"hidden_sizes": [96, 32], "depths": [3, 1]}},
    "later block, preactivation": {"backbone": {"hidden_sizes": [96], "depths": [3], "layer_type": "preactivation"}},
    "another activation": {"backbone": {"hidden_act": "gelu"}},
    "later block, another activation": {"backbone": {"hidden_sizes": [96, 32], "depths": [3, 1], "hidden_act": "silu"}},
    "preactivation, another activation": {
        "backbone": {"hidden_sizes": [96], "depths": [3], "layer_type": "preactivation", "hidden_act": "silu"}
    },
    "attention": {"backbone": STEM_ONLY, "hidden_size": 128},
    "feed-forward": {"backbone": STEM_ONLY, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4},
    "one layer": {"backbone": STEM_ONLY, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 1},
    "tokens": {"backbone": STEM_ONLY, "hidden_size": 256, "num_hidden_layers": 0},
}


class TestMemory:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    @pytest.mark.parametrize("changes", MEMORY_CASES.values(), ids=MEMORY_CASES.keys())
    def test_estimate_is_what_the_tensors_take(self, changes: dict[str, Any], dtype: str) -> None:
        fields = {"image_size": 96, "hidden_size": 32, **changes}
        backbone = {**TINY_BACKBONE, "out_features": [], **fields.pop("backbone", {})}
        backbone["out_features"] = backbone["out_features"] or [f"stage{len(backbone['depths'])}"]
        config = tiny_config(backbone_config=backbone, **fields)
        torch.manual_seed(0)
        model = ViTHybridForImageClassification(config).to(getattr(torch, dtype)).fold_weight_standardization()
        images = torch.randn(8, 3, *as_pair(config.image_size), dtype=model.dtype)

        held = memory(config, batch_size=8, dtype=dtype)
        measured = images.nbytes + held_at_most(model, images)
        assert held.activations == pytest.approx(measured, rel=TOLERANCE)
        assert held.weights == sum(parameter.nbytes for parameter in model.parameters())
        assert held.folded_weights == sum(buffer.nbytes for buffer in model.buffers())
        assert held.total == held.weights + held.folded_weights + held.activations

    def test_grows_with_the_batch_and_the_numbers(self) -> None:
        one, four = memory(tiny_config()), memory(tiny_config(), batch_size=4)
        assert four.activations == 4 * one.activations
        assert (four.weights, four.folded_weights) == (one.weights, one.folded_weights)
        half = memory(tiny_config(), dtype="float16")
        assert (2 * half.weights, 2 * half.folded_weights) == (one.weights, one.folded_weights)
        assert half == memory(tiny_config(), dtype="bfloat16")

    @pytest.mark.parametrize(
        ("options", "reason"), [({"batch_size": 0}, "batch_size is 0"), ({"dtype": "int8"}, "int8")]
    )
    def test_wrong_options_are_refused(self, options: dict[str, Any], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            memory(tiny_config(), **options)

    def test_knows_the_size_of_every_dtype(self) -> None:
        assert {name: getattr(torch, name).itemsize for name in DTYPE_BYTES} == DTYPE_BYTES

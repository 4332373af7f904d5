"""The JAX reader and writer, held against what the authors' code computed.

The numbers are recorded by scripts/record_jax_outputs.py; tests/jax_recipe.py makes weights and pixels.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax_recipe as recipe
import numpy as np
import pytest
import tiny_hybrid
import torch
from PIL import Image

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.checkpoints import jax
from vit_hybrid.checkpoints.jax_weights import inferred_sizes, map_side
from vit_hybrid.checkpoints.matching import CheckpointError
from vit_hybrid.model.positions import resize_positions
from vit_hybrid.model.presets import IMAGENET_21K_LABELS, PRESETS, Preset

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).resolve().parents[1] / "recorded" / "jax"
JAX_PYTHON = "VIT_HYBRID_JAX_PYTHON"  # names an interpreter with JAX and the authors' code, for the check there

CASES: dict[str, dict[str, Any]] = json.loads((DATA / "cases.json").read_text())
every_case = pytest.mark.parametrize("case", CASES)
TOLERANCE = 1e-5
# What another epsilon or GELU changes at least in the logits of these models.
NOTICEABLE = 1e-4

# What the released files call the parts that newer Flax code numbers anew.
RELEASED = {
    "LayerNorm_1": "LayerNorm_2",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
}

Arrays = dict[str, np.ndarray]


def newer_spelling(case: str) -> Arrays:
    return recipe.weights(CASES[case]["shapes"])


def released_spelling(arrays: Arrays) -> Arrays:
    def renamed(name: str) -> str:
        return "/".join(RELEASED.get(part, part) for part in name.split("/"))

    return {renamed(name): array for name, array in arrays.items()}


def with_backslashes(arrays: Arrays) -> Arrays:
    return {name.replace("/", "\\"): array for name, array in arrays.items()}


def with_old_group_norms(arrays: Arrays) -> Arrays:
    return {name: array.reshape(1, 1, 1, -1) if "/gn" in f"/{name}" else array for name, array in arrays.items()}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Arrays], Path]:
    """Writes arrays into a file."""

    def write(arrays: Arrays) -> Path:
        path = tmp_path / "weights.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture
def stages(written: Callable[[Arrays], Path]) -> Path:
    return written(newer_spelling("stages"))


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(DATA / "outputs.npz") as outputs:
        return dict(outputs)


def logits(model: ViTHybridForImageClassification, image_size: int) -> np.ndarray:
    pixels = torch.from_numpy(recipe.pixels(image_size).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return model(pixels).logits.numpy()


def difference(model: ViTHybridForImageClassification, case: str, recorded: dict[str, np.ndarray]) -> float:
    ours, theirs = logits(model, CASES[case]["image_size"]), recorded[case]
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestOutputs:
    @every_case
    @pytest.mark.parametrize(
        "spelling",
        [lambda arrays: arrays, released_spelling, with_backslashes, with_old_group_norms],
        ids=["newer", "released", "backslashes", "old group norms"],
    )
    def test_logits_are_the_original_codes(
        self,
        case: str,
        spelling: Callable[[Arrays], Arrays],
        written: Callable[[Arrays], Path],
        recorded: dict[str, np.ndarray],
    ) -> None:
        size = CASES[case]["image_size"]
        path = written(spelling(newer_spelling(case)))
        model = jax.load(path, image_size=None if jax.read_config(path).image_size == size else size)
        assert difference(model, case, recorded) < TOLERANCE
        assert not model.training

    def test_a_file_that_flax_weights_were_saved_to(self, recorded: dict[str, np.ndarray]) -> None:
        assert difference(jax.load(DATA / "stem_only.npz"), "stem_only", recorded) < TOLERANCE

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("weight_standardization", "variance"),
            ("weight_standardization_eps", 1e-8),
            ("group_norm_eps", 1e-5),
            ("layer_norm_eps", 1e-12),
            ("hidden_act", "gelu"),
        ],
    )
    def test_each_number_of_the_source_matters(
        self, stages: Path, field: str, value: Any, recorded: dict[str, np.ndarray]
    ) -> None:
        model = jax.load(stages)
        config = ViTHybridConfig.from_dict({**model.config.to_dict(), field: value})
        other = ViTHybridForImageClassification(config).eval()
        other.load_state_dict(model.state_dict())
        assert difference(other, "stages", recorded) > NOTICEABLE

    def test_a_saved_folder_computes_the_same(
        self, stages: Path, tmp_path: Path, recorded: dict[str, np.ndarray]
    ) -> None:
        jax.load(stages).save_pretrained(tmp_path / "folder")
        model = ViTHybridForImageClassification.from_pretrained(tmp_path / "folder")
        assert difference(model, "stages", recorded) < TOLERANCE

    def test_memory_holds_the_weights_once(self, written: Callable[[Arrays], Path]) -> None:
        path = written(newer_spelling("four_stages_headless"))
        jax.read_config(path)  # what is imported on first use is not to count
        tracemalloc.start()
        jax.load(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.8 * path.stat().st_size


class TestInference:
    @every_case
    def test_everything_comes_from_the_file(self, case: str, written: Callable[[Arrays], Path]) -> None:
        config, facts = jax.read_config(written(newer_spelling(case))), CASES[case]
        width = int(64 * facts["width_factor"])
        stages = len(facts["blocks"])
        backbone = config.backbone_config
        assert list(backbone.depths) == facts["blocks"]
        assert backbone.embedding_size == width
        assert list(backbone.hidden_sizes) == [4 * width * 2**stage for stage in range(stages)]
        assert (backbone.num_groups, backbone.layer_type, backbone.global_padding) == (32, "bottleneck", "SAME")
        stride = 4 * 2 ** max(stages - 1, 0)
        assert config.image_size == -(-facts["image_size"] // stride) * stride
        found = (
            *(config.patch_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads),
            *(config.intermediate_size, config.representation_size, config.num_labels, config.qkv_bias),
        )
        names = ("patch", "hidden", "layers", "heads", "mlp", "representation")
        assert found == (*(facts[name] for name in names), facts["classes"] or 0, True)
        for field, value in jax.NUMERICS.items():
            assert getattr(config, field) == value

    @pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
    @pytest.mark.parametrize("num_labels", [1000, IMAGENET_21K_LABELS])
    def test_published_sizes(self, preset: Preset, num_labels: int, tmp_path: Path) -> None:
        path = tmp_path / f"{preset.jax or preset.name.replace('/', '_')}.npz"
        write_headers(path, preset, num_labels)
        config = jax.read_config(path, name=preset.name)
        assert config.to_dict() == jax.read_config(path).to_dict()
        assert (config.image_size, config.num_labels) == (224, num_labels)
        with torch.device("meta"):
            model = ViTHybridForImageClassification(config)
        new_labels = (preset.hidden_size + 1) * (num_labels - 1000)
        assert model.num_parameters() == preset.parameters + new_labels
        expected = ViTHybridConfig.from_preset(preset.name, num_labels=num_labels)
        with torch.device("meta"):
            keys = ViTHybridForImageClassification(expected).state_dict().keys()
        assert model.state_dict().keys() == keys

    def test_a_patch_that_is_no_square(self, stages: Path, written: Callable[[Arrays], Path]) -> None:
        arrays = newer_spelling("stages")
        kernel, positions = "embedding/kernel", "Transformer/posembed_input/pos_embedding"
        arrays[kernel] = recipe.normal("kernel", (2, 1, *arrays[kernel].shape[2:]))
        arrays[positions] = arrays[positions][:, : 1 + 2 * 4]
        model = jax.load(written(arrays))
        assert (model.config.patch_size, model.config.image_size) == ([2, 1], 32)

    def test_five_stages_keep_their_strides(self, written: Callable[[Arrays], Path]) -> None:
        config = jax.read_config(written(newer_spelling("four_stages_headless")))
        backbone = {**config.backbone_config.to_dict(), "depths": [1] * 5, "hidden_sizes": [128, 256, 512, 1024, 2048]}
        backbone |= {"output_stride": 64, "out_features": ["stage5"], "out_indices": None}
        backbone.pop("stage_names")
        fields = {**config.to_dict(), "backbone_config": backbone, "image_size": 128, "backbone_featmap_shape": None}
        model = ViTHybridForImageClassification(ViTHybridConfig.from_dict(fields))
        path = written({})
        jax.save(model, path)
        assert jax.read_config(path).backbone_featmap_shape == [1, 2048, 2, 2]
        assert equal(jax.load(path), model)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", ">f4"])
    def test_other_precisions_become_float32(self, dtype: str, written: Callable[[Arrays], Path]) -> None:
        def rounded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """In the file, and in float32."""
            if dtype != "bfloat16":
                return array.astype(dtype), array.astype(dtype).astype(np.float32)
            upper_half = array.view(np.uint32) >> 16
            return upper_half.astype(np.uint16).view("V2"), (upper_half << 16).view(np.float32)

        arrays = newer_spelling("stem_only")
        model = jax.load(written({name: rounded(array)[0] for name, array in arrays.items()}))
        exact = jax.load(written({name: rounded(array)[1] for name, array in arrays.items()}))
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert equal(model, exact)


def write_headers(path: Path, preset: Preset, num_labels: int) -> None:
    """A file with the names and shapes of a published hybrid, but without numbers."""
    with torch.device("meta"):
        model = ViTHybridForImageClassification(
            ViTHybridConfig.from_preset(preset.name, num_labels=num_labels)
        ).state_dict()
    shapes: dict[str, tuple[int, ...]] = {"cls": (1, 1, preset.hidden_size)}
    bit = "vit.embeddings.patch_embeddings.backbone.bit."

    def convolution(name: str, key: str) -> None:
        out, *rest = model[key].shape
        shapes[name] = (*rest[1:], rest[0], out)

    def norm(name: str, key: str) -> None:
        shapes[f"{name}/scale"] = shapes[f"{name}/bias"] = tuple(model[f"{key}.weight"].shape)

    def dense(name: str, key: str) -> None:
        out, inputs = model[f"{key}.weight"].shape
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = (inputs, out), (out,)

    convolution("conv_root/kernel", f"{bit}embedder.convolution.weight")
    norm("gn_root", f"{bit}embedder.norm")
    for stage, depth in enumerate(preset.depths, start=1):
        for unit in range(1, depth + 1):
            ours, theirs = f"{bit}encoder.stages.{stage - 1}.layers.{unit - 1}", f"block{stage}/unit{unit}"
            for number in (1, 2, 3):
                convolution(f"{theirs}/conv{number}/kernel", f"{ours}.conv{number}.weight")
                norm(f"{theirs}/gn{number}", f"{ours}.norm{number}")
            if unit == 1:
                convolution(f"{theirs}/conv_proj/kernel", f"{ours}.downsample.conv.weight")
                norm(f"{theirs}/gn_proj", f"{ours}.downsample.norm")
    convolution("embedding/kernel", "vit.embeddings.patch_embeddings.projection.weight")
    shapes["embedding/bias"] = (preset.hidden_size,)
    positions = model["vit.embeddings.position_embeddings"].shape
    shapes["Transformer/posembed_input/pos_embedding"] = tuple(positions)
    heads, hidden = preset.num_attention_heads, preset.hidden_size
    for n in range(preset.num_hidden_layers):
        ours, theirs = f"vit.encoder.layer.{n}", f"Transformer/encoderblock_{n}"
        norm(f"{theirs}/LayerNorm_0", f"{ours}.layernorm_before")
        norm(f"{theirs}/LayerNorm_2", f"{ours}.layernorm_after")
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes[f"{attention}/{part}/kernel"] = (hidden, heads, hidden // heads)
            shapes[f"{attention}/{part}/bias"] = (heads, hidden // heads)
        shapes[f"{attention}/out/kernel"] = (heads, hidden // heads, hidden)
        shapes[f"{attention}/out/bias"] = (hidden,)
        dense(f"{theirs}/MlpBlock_3/Dense_0", f"{ours}.intermediate.dense")
        dense(f"{theirs}/MlpBlock_3/Dense_1", f"{ours}.output.dense")
    norm("Transformer/encoder_norm", "vit.layernorm")
    dense("head", "classifier")
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w") as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)


class TestAdapting:
    @pytest.mark.parametrize(("before", "after"), [(2, 5), (5, 2), (7, 12), (12, 7)])
    def test_positions_are_zoomed_as_there(self, before: int, after: int, recorded: dict[str, np.ndarray]) -> None:
        expected = recorded[f"zoom_{before}_{after}"]
        positions = torch.from_numpy(recipe.positions(before, expected.shape[-1]))
        resized = resize_positions(positions, (before, before), (after, after), "bilinear-jax")
        np.testing.assert_allclose(resized.numpy(), expected, atol=TOLERANCE)

    @pytest.mark.parametrize("size", [48, (24, 56)])
    @pytest.mark.parametrize("positions", ["bilinear-jax", "bilinear", "bicubic"])
    def test_another_image_size(self, size: int | tuple[int, int], positions: str, stages: Path) -> None:
        original = jax.load(stages)
        model = jax.load(stages, image_size=size, positions=positions, antialias=positions == "bicubic")
        height, width = (size, size) if isinstance(size, int) else size
        ours, theirs = (m.vit.embeddings.position_embeddings for m in (model, original))
        grid = height // 8, width // 8
        assert torch.equal(ours[:, :1], theirs[:, :1])
        assert torch.equal(ours, resize_positions(theirs, (4, 4), grid, positions, positions == "bicubic"))
        assert model(torch.zeros(1, 3, height, width)).logits.shape == (1, 7)
        assert jax.image_processor(model).size == {"height": height, "width": width}

    def test_it_is_as_in_the_authors_code_unless_told_otherwise(self, stages: Path) -> None:
        plain, told = jax.load(stages, image_size=48), jax.load(stages, image_size=48, positions="bilinear-jax")
        assert equal(plain, told)
        assert not equal(plain, jax.load(stages, image_size=48, positions="bilinear"))

    def test_its_own_size_changes_nothing(self, stages: Path) -> None:
        assert equal(jax.load(stages, image_size=32), jax.load(stages))

    @pytest.mark.parametrize("num_labels", [7, 4])
    def test_a_new_head_is_zero_and_said_to_be(
        self, num_labels: int, stages: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = jax.load(stages, num_labels=num_labels)
        assert model.classifier.out_features == model.config.num_labels == num_labels
        assert not any(weight.any() for weight in model.classifier.parameters())
        assert f"{num_labels} classes" in caplog.text

    def test_a_head_that_is_to_be_replaced_is_not_even_read(self, written: Callable[[Arrays], Path]) -> None:
        arrays = newer_spelling("stages")
        path = written({**arrays, "head/kernel": np.zeros(arrays["head/kernel"].shape, np.int64)})
        with pytest.raises(CheckpointError, match="head/kernel holds int64"):
            jax.load(path)
        assert jax.load(path, num_labels=3).config.num_labels == 3

    def test_pre_logits_stay_below_a_new_head(self, written: Callable[[Arrays], Path]) -> None:
        arrays = newer_spelling("pre_logits")
        model = jax.load(written(arrays), num_labels=4)
        assert torch.equal(model.pre_logits.dense.bias, torch.from_numpy(arrays["pre_logits/bias"]))
        assert model.classifier.in_features == CASES["pre_logits"]["representation"]

    def test_no_head(self, stages: Path, tmp_path: Path) -> None:
        model = jax.load(stages, num_labels=0)
        assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 32)
        jax.save(model, tmp_path / "headless.npz")
        assert jax.read_config(tmp_path / "headless.npz").num_labels == 0

    def test_progress_is_told(self, stages: Path, tmp_path: Path) -> None:
        read: list[tuple[int, int]] = []
        model = jax.load(stages, progress=lambda done, total: read.append((done, total)))
        count = len(CASES["stages"]["shapes"])
        assert read == [(done, count) for done in range(1, count + 1)]
        new: list[tuple[int, int]] = []
        jax.load(stages, num_labels=3, progress=lambda done, total: new.append((done, total)))
        assert new == [(done, count - 2) for done in range(1, count - 1)]  # without its head
        saved: list[tuple[int, int]] = []
        jax.save(model, tmp_path / "again.npz", progress=lambda done, total: saved.append((done, total)))
        assert saved == read


class TestSaving:
    @every_case
    def test_arrays_come_back_bit_for_bit(self, case: str, written: Callable[[Arrays], Path], tmp_path: Path) -> None:
        source = newer_spelling(case)
        jax.save(jax.load(written(source)), tmp_path / "saved.npz")
        with np.load(tmp_path / "saved.npz", allow_pickle=False) as saved:
            assert sorted(saved) == sorted(released_spelling(source))
            for name, array in released_spelling(source).items():
                assert saved[name].dtype == np.float32
                assert saved[name].shape == array.shape
                assert np.array_equal(saved[name], array)

    @pytest.mark.parametrize("representation_size", [None, 20])
    @pytest.mark.parametrize("patch_size", [1, 2, [2, 1]])
    def test_load_undoes_save(self, representation_size: int | None, patch_size: Any, tmp_path: Path) -> None:
        model = trained(representation_size=representation_size, patch_size=patch_size)
        jax.save(model, tmp_path / "weights.npz")
        again = jax.load(tmp_path / "weights.npz")
        assert equal(again, model)
        assert again.config.to_dict() == model.config.to_dict()
        with zipfile.ZipFile(tmp_path / "weights.npz") as archive:  # where an array may have more than 2 GiB
            assert {member.extract_version for member in archive.infolist()} == {zipfile.ZIP64_VERSION}

    def test_what_is_folded_saves_its_own_weights(self, tmp_path: Path) -> None:
        model = trained()
        jax.save(model.fold_weight_standardization(), tmp_path / "weights.npz")
        assert equal(jax.load(tmp_path / "weights.npz"), model)

    def test_a_model_without_a_head(self, tmp_path: Path) -> None:
        model = trained()
        jax.save(model.vit, tmp_path / "weights.npz")
        again = jax.load(tmp_path / "weights.npz")
        assert again.config.num_labels == 0
        assert equal(again.vit, model.vit)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_widened_and_named(
        self, dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = trained().to(dtype)
        jax.save(model, tmp_path / "weights.npz")
        assert f"{str(dtype).removeprefix('torch.')} weights are written, exactly, as float32" in caplog.text
        assert equal(jax.load(tmp_path / "weights.npz"), model.float())

    @pytest.mark.parametrize(
        ("changes", "backbone", "named"),
        [
            ({"qkv_bias": False}, {}, "qkv_bias"),
            ({"image_size": [32, 64]}, {}, "32x64"),
            ({"num_hidden_layers": 0}, {}, "no encoder layers"),
            ({}, {"layer_type": "preactivation"}, "layer_type"),
            ({}, {"global_padding": None}, "global_padding"),
            ({}, {"embedding_dynamic_padding": False}, "embedding_dynamic_padding"),
            ({}, {"num_groups": 16}, "num_groups"),
            ({}, {"hidden_act": "gelu"}, "backbone_config.hidden_act"),
            ({}, {"hidden_sizes": [128, 128]}, r"\[32, 128, 128\] wide \(there \[32, 128, 256\]\)"),
            ({}, {"out_features": ["stage1"]}, "the tokens come from stage1"),
            ({}, {"output_stride": 4}, "output_stride 4"),
            ({}, {"depths": [1, 0]}, r"backbone_config\.depths \[1, 0\] has a stage without blocks"),
            ({"weight_standardization": "variance"}, {}, "weight_standardization is 'variance'"),
            ({"weight_standardization_eps": 1e-8}, {}, "weight_standardization_eps is 1e-08"),
            ({"group_norm_eps": 1e-5}, {}, "group_norm_eps is 1e-05"),
            ({"layer_norm_eps": 1e-12}, {}, "layer_norm_eps is 1e-12"),
            ({"hidden_act": "gelu"}, {}, "hidden_act is 'gelu'"),
        ],
    )
    def test_what_the_jax_code_has_not_is_refused(
        self, changes: dict[str, Any], backbone: dict[str, Any], named: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=named):
            jax.save(trained(backbone, **changes), tmp_path / "weights.npz")
        assert not list(tmp_path.iterdir())

    def test_all_reasons_are_named_at_once(self, tmp_path: Path) -> None:
        model = ViTHybridModel(trained(qkv_bias=False, hidden_act="gelu").config, use_mask_token=True)
        with pytest.raises(ValueError, match=r"qkv_bias.*a mask token.*a pooler.*hidden_act") as structure:
            jax.save(model, tmp_path / "weights.npz")
        with pytest.raises(ValueError, match="hidden_act is 'gelu'") as numerics:
            jax.save(trained(hidden_act="gelu"), tmp_path / "weights.npz")
        advice = "With approximate=True other numerics are written nevertheless."
        assert (advice in str(structure.value), str(numerics.value).endswith(advice)) == (False, True)

    def test_weights_without_a_place_are_named(self, tmp_path: Path) -> None:
        model = trained()
        model.vit.embeddings.register_parameter("prompt", torch.nn.Parameter(torch.zeros(3)))
        with pytest.raises(ValueError, match=r"no place for vit\.embeddings\.prompt \(1 in all\)"):
            jax.save(model, tmp_path / "weights.npz")
        for number in range(6):
            model.register_parameter(f"more_{number}", torch.nn.Parameter(torch.zeros(3)))
        named = "more_0, more_1, more_2, more_3, more_4"
        with pytest.raises(ValueError, match=rf"no place for {named} \(7 in all\)"):
            jax.save(model, tmp_path / "weights.npz")

    def test_weights_that_cannot_be_written_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"float32, float16 or bfloat16: classifier\.bias, classifier\.weight"):
            jax.save(trained().double(), tmp_path / "weights.npz")
        with pytest.raises(ValueError, match="not in memory"):
            jax.save(trained().to("meta"), tmp_path / "weights.npz")

    def test_other_numerics_can_be_written_and_are_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = trained(hidden_act="gelu", group_norm_eps=1e-5)
        jax.save(model, tmp_path / "weights.npz", approximate=True)
        assert f"{tmp_path / 'weights.npz'}: hidden_act is 'gelu' (there 'gelu_pytorch_tanh')." in caplog.messages
        assert f"{tmp_path / 'weights.npz'}: group_norm_eps is 1e-05 (there 1e-06)." in caplog.messages
        assert equal(jax.load(tmp_path / "weights.npz"), model)

    def test_epsilons_alone_can_be_allowed(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = trained(group_norm_eps=1e-5, layer_norm_eps=1e-12)
        with pytest.raises(ValueError, match="group_norm_eps is 1e-05"):
            jax.save(model, tmp_path / "weights.npz")
        jax.save(model, tmp_path / "weights.npz", approximate="epsilons")
        assert "group_norm_eps is 1e-05" in caplog.text
        assert equal(jax.load(tmp_path / "weights.npz"), model)
        with pytest.raises(ValueError, match=r"group_norm_eps is 1e-05.*hidden_act is 'gelu'"):
            jax.save(trained(hidden_act="gelu", group_norm_eps=1e-5), tmp_path / "other.npz", approximate="epsilons")
        assert not (tmp_path / "other.npz").exists()

    def test_structure_is_refused_also_then(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="qkv_bias"):
            jax.save(trained(qkv_bias=False), tmp_path / "weights.npz", approximate=True)

    def test_what_a_file_has_no_room_for_is_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = trained(image_size=35, id2label={0: "LABEL_0", 1: "dog"}, drop_path_rate=0.1)
        jax.save(model, tmp_path / "weights.npz")
        assert "the names of the 2 labels are not kept" in caplog.text
        assert "image_size 35 will be read back as 40" in caplog.text
        assert "drop_path_rate" in caplog.text
        assert equal(jax.load(tmp_path / "weights.npz"), model)
        caplog.clear()
        jax.save(trained({"drop_path_rate": 0.1}), tmp_path / "backbone.npz")
        assert "drop_path_rate" in caplog.text

    def test_nothing_is_named_where_nothing_is_lost(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        jax.save(trained(hidden_act="gelu_new"), tmp_path / "weights.npz")
        assert not caplog.records

    def test_an_error_leaves_no_half_file(self, tmp_path: Path) -> None:
        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        for before in ({}, {"weights.npz": "old"}):
            for name, content in before.items():
                (tmp_path / name).write_text(content)
            with pytest.raises(KeyboardInterrupt):
                jax.save(trained(), tmp_path / "weights.npz", progress=stop)
            assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before

    def test_only_hybrids(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="Linear"):
            jax.save(torch.nn.Linear(1, 1), tmp_path / "weights.npz")  # type: ignore[arg-type]

    def test_the_original_code_reads_what_is_written(self, written: Callable[[Arrays], Path], tmp_path: Path) -> None:
        python = os.environ.get(JAX_PYTHON)
        if not python:
            pytest.skip(f"{JAX_PYTHON} names no interpreter with JAX and the authors' code")
        folder = tmp_path / "check"
        folder.mkdir()
        for case in CASES:
            jax.save(jax.load(written(newer_spelling(case))), folder / f"{case}.npz")
        command = [python, ROOT / "scripts" / "record_jax_outputs.py", "--check", folder]
        checked = subprocess.run(command, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert len(checked.stdout.splitlines()) == len(CASES)


def trained(backbone: dict[str, Any] | None = None, **changes: Any) -> ViTHybridForImageClassification:
    """A small model as the JAX code has them, every weight of it random, but for `changes`."""
    common = {"embedding_size": 32, "depths": [1, 1], "hidden_sizes": [128, 256], "out_features": ["stage2"]}
    fields = {"backbone_config": {**common, **jax.BACKBONE, **(backbone or {})}, **jax.NUMERICS, "num_labels": 2}
    torch.manual_seed(0)
    model = ViTHybridForImageClassification(tiny_hybrid.tiny_config(**{**fields, **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
    return model


def test_units_and_layers_are_counted_in_whichever_order_they_stand() -> None:
    names = [f"block1/unit{unit}/conv1/kernel" for unit in (1, 10, *range(2, 10))]
    names += [f"Transformer/encoderblock_{layer}/x/kernel" for layer in (0, 1, 10, 11, *range(2, 10))]
    found = inferred_sizes(dict.fromkeys(names, (1, 1, 64, 64)))
    assert (found.depths, found.layers) == ((10,), 12)


def test_a_stray_number_makes_no_more_units_and_layers_than_there_are_arrays() -> None:
    names = [
        f"block1/unit{10**9}/conv1/kernel",
        "block2/unit1/conv1/kernel",
        f"Transformer/encoderblock_{10**9}/x/kernel",
    ]
    found = inferred_sizes(dict.fromkeys(names, (1, 1, 64, 64)))
    assert (found.depths, found.layers) == ((3, 1), 3)
    assert inferred_sizes({f"block{10**9}/unit1/conv1/kernel": (1, 1, 64, 64)}).depths == (1,)


def test_a_name_says_the_sizes_of_its_model() -> None:
    found = inferred_sizes({}, "R+Ti/16")
    assert (found.depths, found.layers, found.has_head) == ((), 12, False)
    assert found.by_name == {
        **{"width": 64, "features": 64, "patch_height": 8, "patch_width": 8},
        **{"hidden": 192, "heads": 3, "head_size": 64, "mlp": 768, "head_inputs": 192},
    }
    found = inferred_sizes({}, "R50+L/32")
    assert (found.depths, found.layers) == ((3, 4, 6, 3), 24)
    assert (found.by_name["features"], found.by_name["patch_width"], found.by_name["mlp"]) == (2048, 1, 4096)


@pytest.mark.parametrize(
    ("patches", "patch", "side"),
    [
        *((0, (1, 1), 1), (0, (2, 3), 3), (16, (1, 1), 4), (17, (1, 1), 5), (9, (8, 8), 24)),
        *((8, (2, 1), 4), (1, (2, 1), 2), (2, (3, 3), 6)),
    ],
)
def test_a_map_is_the_smallest_square_that_holds_the_patches(patches: int, patch: tuple[int, int], side: int) -> None:
    assert map_side(patches, patch) == side


def test_arrays_with_longer_headers_are_read(stages: Path) -> None:
    """NumPy writes them where a header would not do."""
    arrays = newer_spelling("stages")
    with zipfile.ZipFile(stages, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, version=(2, 0))
    head = torch.from_numpy(arrays["head/bias"])
    assert torch.equal(jax.load(stages).classifier.bias, head)


class TestDamage:
    @pytest.mark.parametrize(
        ("lost", "first"),
        [
            ("block1/unit1/", "block1/unit1/conv1/kernel (1, 1, 32, 32)"),
            ("block2/unit1/", "block2/unit1/conv1/kernel (1, 1, 128, 64)"),
            ("block2/", "block2/unit1/conv1/kernel (1, 1, 128, 64)"),
            ("block2/unit2/conv2/", "block2/unit2/conv2/kernel (3, 3, 64, 64)"),
            ("Transformer/encoderblock_0/", "Transformer/encoderblock_0/LayerNorm_0/scale (32)"),
            ("Transformer/encoderblock_1/LayerNorm_1/", "Transformer/encoderblock_1/LayerNorm_2/scale (32)"),
            ("Transformer/encoderblock_", "Transformer/encoderblock_0/LayerNorm_0/scale (32)"),
            ("Transformer/posembed_input/", "Transformer/posembed_input/pos_embedding (1, ?, 32)"),
            ("embedding/kernel", "embedding/kernel (?, ?, 256, 32)"),
            ("cls", "cls (1, 1, 32)"),
            ("gn_root/", "gn_root/scale (32)"),
            ("head/bias", "head/bias (7)"),
        ],
    )
    def test_what_is_missing_is_listed(self, lost: str, first: str, written: Callable[[Arrays], Path]) -> None:
        arrays = newer_spelling("stages")
        count = sum(name.startswith(lost) for name in arrays)
        path = written({name: array for name, array in arrays.items() if not name.startswith(lost)})
        with pytest.raises(CheckpointError) as caught:
            jax.load(path)
        assert f"Missing ({len(caught.value.missing)}): {first}" in str(caught.value)
        assert not caught.value.unexpected
        assert not caught.value.misfitting
        if lost not in ("block2/", "Transformer/encoderblock_"):  # nothing tells how many units or layers there were
            assert len(caught.value.missing) == count

    @pytest.mark.parametrize(
        ("name", "shape", "expected"),
        [
            ("conv_root/kernel", (7, 7, 3, 64), "(7, 7, 3, 32)"),
            ("embedding/kernel", (1, 1, 300, 32), "(1, 1, 256, 32)"),
            ("block2/unit1/conv_proj/kernel", (1, 1, 64, 256), "(1, 1, 128, 256)"),
            ("Transformer/posembed_input/pos_embedding", (1, 16, 32), "(1, 17, 32)"),
            ("Transformer/encoder_norm/scale", (1, 1, 1, 32), "(32)"),
            ("gn_root/scale", (2, 1, 1, 32), "(32)"),
            ("head/kernel", (32, 0), "(32, 7)"),
            ("cls", (32,), "(1, 1, 32)"),
        ],
    )
    def test_what_does_not_fit_is_listed(
        self, name: str, shape: tuple[int, ...], expected: str, written: Callable[[Arrays], Path]
    ) -> None:
        path = written({**newer_spelling("stages"), name: np.zeros(shape, np.float32)})
        with pytest.raises(CheckpointError) as caught:
            jax.load(path)
        assert caught.value.misfitting == [name]
        assert f"expected {expected}" in str(caught.value)
        assert not caught.value.missing
        assert not caught.value.unexpected

    def test_a_damaged_block_does_not_make_others_misfit(self, written: Callable[[Arrays], Path]) -> None:
        arrays = newer_spelling("stages")
        query = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
        with pytest.raises(CheckpointError) as caught:
            jax.load(written({**arrays, query: arrays[query].reshape(32, 4, 8)}))
        assert caught.value.misfitting == [query.replace("Attention_0", "Attention_1")]

    def test_all_three_in_one_message(self, written: Callable[[Arrays], Path]) -> None:
        arrays = {**newer_spelling("stages"), "opt/step": np.zeros(()), "head/bias": np.zeros(3, np.float32)}
        del arrays["cls"]
        with pytest.raises(
            CheckpointError, match=r"Missing \(1\): cls .*Unexpected \(1\): opt/step .*Misfitting \(1\)"
        ):
            jax.load(written(arrays))

    def test_an_array_in_two_spellings_is_unexpected(self, written: Callable[[Arrays], Path]) -> None:
        name = "Transformer/encoderblock_0/LayerNorm_{}/scale"
        arrays = newer_spelling("stages")
        with pytest.raises(CheckpointError) as caught:
            jax.load(written({**arrays, name.format(2): arrays[name.format(1)]}))
        assert caught.value.unexpected == [name.format(1)]

    def test_other_models(self, written: Callable[[Arrays], Path]) -> None:
        arrays = newer_spelling("stages")
        plain_vit = {name: array for name, array in arrays.items() if not name.startswith(("block", "conv_", "gn_"))}
        plain_vit["embedding/kernel"] = np.zeros((16, 16, 3, 32), np.float32)
        resnet = {"resnet/root_block/standardized_conv2d/kernel": np.zeros((7, 7, 3, 64), np.float32)}
        for other in (plain_vit, resnet, {}):
            with pytest.raises(CheckpointError, match=r"no hybrid: it has no ResNet stem .*conv_root/kernel \(7, 7"):
                jax.load(written(other))

    def test_a_name_tells_of_lost_layers(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = tmp_path / "R_Ti_16-i21k-300ep.npz"
        np.savez(path, **newer_spelling("stem_only"))
        jax.load(path)
        assert "called like R+Ti/16, which has [] blocks and 12 layers, but holds [] blocks and 1 layers" in caplog.text
        with pytest.raises(CheckpointError, match=r"Missing \(176\): Transformer/encoderblock_1/"):
            jax.load(path, name="R+Ti/16")
        with pytest.raises(CheckpointError, match=r"Missing \(176\): Transformer/encoderblock_1/"):
            jax.read_config(path, name="R+Ti/16")
        with pytest.raises(ValueError, match="R99"):
            jax.load(path, name="R99+B/16")

    def test_a_name_tells_of_other_blocks(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        arrays = newer_spelling("stages")
        layers = 1 + max(int(found[1]) for name in arrays if (found := re.search(r"encoderblock_(\d+)/", name)))
        more = {
            name.replace("encoderblock_0/", f"encoderblock_{index}/"): array
            for name, array in arrays.items()
            for index in range(layers, 12)
            if "encoderblock_0/" in name
        }
        path = tmp_path / "R_Ti_16-i21k-300ep.npz"
        np.savez(path, **arrays, **more)
        model = jax.load(path)
        depths = model.config.backbone_config.depths
        assert f"which has [] blocks and 12 layers, but holds {depths} blocks and 12 layers" in caplog.text

    def test_damaged_files(self, stages: Path, tmp_path: Path) -> None:
        content = stages.read_bytes()
        for damaged, reason in (
            (b"", "the file is empty"),
            (content[: len(content) // 2], "truncated"),
            (content[:100], "truncated"),
            (b"not a zip archive", "no .npz file"),
            (content.replace(b"\x93NUMPY", b"\x93NUMBER", 1)[:-1] + b"\0", "damaged|truncated"),
        ):
            stages.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=reason):
                jax.load(stages)

    def test_an_archive_of_other_things(self, stages: Path) -> None:
        with zipfile.ZipFile(stages, "a") as archive:
            archive.writestr("readme.txt", "mine")
        with pytest.raises(CheckpointError, match=r"no \.npz file of arrays: it holds readme\.txt, which is none\.$"):
            jax.load(stages)

    def test_damage_inside_an_array(self, stages: Path) -> None:
        content = bytearray(stages.read_bytes())
        with zipfile.ZipFile(stages) as archive:
            place = archive.getinfo("block2/unit1/conv2/kernel.npy").header_offset + 1000
        content[place : place + 4] = b"\1\2\3\4"
        stages.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged at block2/unit1/conv2/kernel"):
            jax.load(stages)

    def test_a_compressed_array_whose_checksum_differs(self, tmp_path: Path) -> None:
        path = tmp_path / "compressed.npz"
        np.savez_compressed(path, **newer_spelling("stem_only"))
        assert jax.load(path).config.num_labels == 5
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\1\2") + 16] ^= 1  # of the first array, in the archive's table of contents
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"the file is damaged at .* \(Bad CRC-32"):
            jax.load(path)

    def test_an_error_without_words_is_called_what_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "model.npz"
        np.savez(path, a=np.zeros(1))

        def end(*_: Any) -> None:
            raise EOFError

        monkeypatch.setattr(np.lib.format, "read_magic", end)
        with pytest.raises(CheckpointError, match=r"the file is damaged at a \(EOFError\)\.$"):
            jax.load(path)

    def test_what_is_no_array(self, tmp_path: Path) -> None:
        path = tmp_path / "model.npz"
        torch.save({"a": torch.zeros(1)}, path)
        with pytest.raises(CheckpointError, match=r"data\.pkl"):
            jax.load(path)

    def test_nothing_is_unpickled(self, written: Callable[[Arrays], Path]) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return pytest.fail, ("it was unpickled",)

        trapped = np.empty((1, 1, 24), dtype=object)
        trapped[...] = Trap()
        with pytest.raises(CheckpointError, match="cls holds pickled Python objects"):
            jax.load(written({**newer_spelling("stem_only"), "cls": trapped}))

    def test_whole_numbers_are_no_weights(self, written: Callable[[Arrays], Path]) -> None:
        with pytest.raises(CheckpointError, match="cls holds int64"):
            jax.load(written({**newer_spelling("stem_only"), "cls": np.zeros((1, 1, 24), np.int64)}))

    def test_widths_that_cannot_run(self, written: Callable[[Arrays], Path]) -> None:
        def narrowed(name: str, array: np.ndarray) -> np.ndarray:
            return array[..., :24] if name.startswith(("conv_root", "gn_root")) else array

        arrays = {name: narrowed(name, array) for name, array in newer_spelling("stem_only").items()}
        arrays["embedding/kernel"] = arrays["embedding/kernel"][:, :, :24]
        with pytest.raises(CheckpointError, match=r"cannot run: .*num_groups"):
            jax.load(written(arrays))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            jax.load(tmp_path / "none.npz")


class TestImageProcessor:
    def test_pixels_are_resized_straight_and_span_1(self, stages: Path) -> None:
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))
        found = jax.image_processor(stages)(picture, return_tensors="np")["pixel_values"][0]
        resized = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32)
        np.testing.assert_allclose(found, (resized.transpose(2, 0, 1) - 127.5) / 127.5, atol=1e-6)

    def test_sources(self, stages: Path) -> None:
        model = jax.load(stages)
        from_path = jax.image_processor(stages).to_dict()
        for source in (str(stages), model, model.config, 32, (32, 32)):
            assert jax.image_processor(source).to_dict() == from_path
        assert jax.image_processor(stages, image_size=(48, 64)).crop_size == {"height": 48, "width": 64}


def test_importing_the_package_of_readers_loads_none_of_them() -> None:
    command = "import sys, vit_hybrid.checkpoints; assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", command], check=True)

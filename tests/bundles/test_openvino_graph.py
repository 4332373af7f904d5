"""Programs that are built, held to the model in PyTorch; what is built without it, and what is not built."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_process
import numpy as np
import pytest
import tiny_hybrid
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, engines
from vit_hybrid.bundles import building, quantization, sensitivity
from vit_hybrid.bundles.conversion import prepared
from vit_hybrid.bundles.plain_config import BIT_DEFAULTS, DEFAULTS, plain_config
from vit_hybrid.bundles.program import MERGING
from vit_hybrid.checkpoints.opening import open as open_source
from vit_hybrid.model.giving import giving
from vit_hybrid.model.token_merging import for_class_token, merge_tokens
from vit_hybrid.runtimes import ALL, LOGITS, OUTPUTS

pytest.importorskip("openvino")

SIDE = tiny_hybrid.IMAGE_SIZE


def hybrid(factor: float = 4.0, **changes: Any) -> ViTHybridForImageClassification:
    return prepared(tiny_hybrid.random_model(factor, **changes), owned=True)


def pictures(config: ViTHybridConfig, count: int = 2, size: tuple[int, int] | None = None) -> np.ndarray:
    height, width = size or np.broadcast_to(config.image_size, 2)
    return np.random.default_rng(count).normal(0, 1, (count, config.num_channels, height, width)).astype(np.float32)


def run(program: Any, pixels: np.ndarray, precision: str = "f32", output: str = ALL) -> dict[str, np.ndarray]:
    from vit_hybrid.engines.openvino import shared_core

    compiled = shared_core().compile_model(program, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    found = compiled([pixels])
    assert len(compiled.outputs) == len(OUTPUTS[output])
    return {name: found[place] for place, name in enumerate(OUTPUTS[output])}


def expected_of(model: Any, pixels: np.ndarray, merging: int | None, **kwargs: Any) -> dict[str, np.ndarray]:
    ready = for_class_token(model) if merging is None else merge_tokens(model, merging)
    with torch.no_grad():
        found = giving(ready, ALL)(torch.from_numpy(pixels), **kwargs)
    return {name: value.numpy() for name, value in found.items()}


def check(model: Any, pixels: np.ndarray, merging: int | None = None, dynamic: bool = False) -> None:
    expected = expected_of(model, pixels, merging, **({"interpolate_pos_encoding": True} if dynamic else {}))
    for for_int8 in (False, True):
        converted = building.converted_from(model, dynamic, merging, ALL, for_int8)
        assert converted is not None
        found = run(converted.program, pixels)
        assert [*found] == [*OUTPUTS[ALL]] == [*expected]
        for name, values in expected.items():
            assert found[name].shape == values.shape
            assert np.abs(found[name] - values).max() <= 1e-5 * max(1.0, np.abs(values).max()), name


@pytest.mark.parametrize("kind", tiny_hybrid.HYBRIDS)
def test_is_the_model(kind: str) -> None:
    model = hybrid(**tiny_hybrid.HYBRIDS[kind])
    check(model, pictures(model.config))
    check(model, pictures(model.config, 1))


@pytest.mark.parametrize("kind", ["bottleneck", "preactivation"])
def test_norms_maps_that_are_the_same_everywhere_or_far_from_zero(kind: str) -> None:
    """Where a variance is the small difference of two squares, or of nothing."""
    model = hybrid(backbone_config=dict(tiny_hybrid.TINY_BACKBONE, layer_type=kind))
    level = np.broadcast_to(np.float32([0.0, 1.0, -30.0, 300.0])[:, None, None, None], (4, 3, SIDE, SIDE)).copy()
    check(model, level)
    check(model, level + pictures(model.config, 4))


def test_each_norm_has_its_own_epsilon() -> None:
    for layer_type in ("bottleneck", "preactivation"):
        backbone = dict(tiny_hybrid.TINY_BACKBONE, layer_type=layer_type)
        model = hybrid(backbone_config=backbone, group_norm_eps=0.5, layer_norm_eps=0.02)
        check(model, pictures(model.config))


@pytest.mark.parametrize("merging", [1, 2, 6, 40])
def test_merges_the_same_tokens(merging: int) -> None:
    model = hybrid(12.0, image_size=[64, 72], num_hidden_layers=4)
    pixels = pictures(model.config, 3)
    plain, merged = expected_of(model, pixels, None), expected_of(model, pixels, merging)
    assert np.abs(plain[LOGITS] - merged[LOGITS]).max() > 1e-3  # so that agreement says something
    check(model, pixels, merging)


@pytest.mark.parametrize("size", [(SIDE, SIDE), (48, 80), (33, 47)])
def test_takes_pictures_of_other_sizes(size: tuple[int, int]) -> None:
    for own in (SIDE, [SIDE, 56]):  # a grid that is no square is not turned
        model = hybrid(image_size=own)
        check(model, pictures(model.config, 2, size), dynamic=True)


def test_gives_what_is_asked_for() -> None:
    model = hybrid()
    pixels = pictures(model.config)
    for output, names in OUTPUTS.items():
        converted = building.converted_from(model, False, None, output)
        assert converted is not None
        found = run(converted.program, pixels, output=output)
        assert [output.get_any_name() for output in converted.program.outputs] == [*found] == [*names]
        assert converted.program.input(0).get_any_name() == "pixel_values"


def test_decides_the_same_in_bfloat16() -> None:
    from vit_hybrid.engines.openvino import shared_core

    if "BF16" not in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    model = hybrid(num_labels=5)
    pixels = pictures(model.config, 64)
    converted = building.converted_from(model, False, None, LOGITS)
    assert converted is not None
    full, half = (run(converted.program, pixels, precision, LOGITS)[LOGITS] for precision in ("f32", "bf16"))
    assert 0 < np.abs(full - half).max() < 0.1 * np.abs(full).max()
    assert (full.argmax(1) == half.argmax(1)).mean() > 0.9


class TestWhatIsNotBuilt:
    def test_an_activation_of_ones_own(self) -> None:
        assert building.converted_from(hybrid(hidden_act=torch.nn.functional.gelu), False, None, LOGITS) is None
        assert building.converted_from(hybrid(hidden_act="relu2"), False, None, LOGITS) is None

    def test_a_module_that_computes_something_else(self) -> None:
        class Doubled(nn.Linear):
            def forward(self, values: torch.Tensor) -> torch.Tensor:
                return 2 * super().forward(values)

        model = hybrid()
        double = Doubled(16, 3)
        double.load_state_dict(model.classifier.state_dict())
        model.classifier = double
        assert building.converted_from(model, False, None, LOGITS) is None

    def test_a_model_that_is_watched_or_merges_already(self) -> None:
        model = hybrid()
        assert building.converted_from(merge_tokens(model, 2), False, None, LOGITS) is None
        model.vit.layernorm.register_forward_hook(lambda *_: None)
        assert building.converted_from(model, False, None, LOGITS) is None

    @pytest.mark.parametrize("how", ["before", "instead"])
    def test_a_model_whose_input_is_changed_or_that_does_something_else(self, how: str) -> None:
        model = hybrid()
        assert building._is_plain(model)
        if how == "before":
            model.vit.layernorm.register_forward_pre_hook(lambda *_: None)
        else:
            model.vit.layernorm.forward = lambda values: values
        assert not building._is_plain(model)

    def test_padding_that_needs_to_know_the_size(self) -> None:
        model = hybrid(**tiny_hybrid.HYBRIDS["other activations"])
        assert building.converted_from(model, True, None, LOGITS) is None
        for kind in ("preactivation", "preactivation, SAME", "PyTorch's padding"):
            assert building.converted_from(hybrid(**tiny_hybrid.HYBRIDS[kind]), True, None, LOGITS) is None

    def test_weights_of_another_shape_or_that_have_no_place(self, tiny_folder: Path, tmp_path: Path) -> None:
        made = from_folder(tiny_folder)
        assert made is not None
        folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
        weights = load_file(folder / "model.safetensors")
        for change in (
            {"classifier.weight": torch.ones(3, 4)},
            {"vit.more": torch.ones(1)},
            {"vit.layernorm.weight": torch.ones(16, dtype=torch.bfloat16)},
        ):
            save_file({**weights, **change}, folder / "model.safetensors", {"format": "pt"})
            assert from_folder(folder) is None
        for lacking in ("vit.layernorm.weight", "classifier.weight"):
            left = {name: weight for name, weight in weights.items() if name != lacking}
            save_file(left, folder / "model.safetensors", {"format": "pt"})
            assert from_folder(folder) is None
        (folder / "model.safetensors").write_bytes(b"no such thing")
        assert from_folder(folder) is None
        fields = json.loads((folder / "config.json").read_text())
        assert building.made_from_files(fields, [folder / "gone.safetensors"], {}) is None


def from_folder(folder: Path, **how: Any) -> Any:
    source = open_source(folder)
    return building.made_from_files(source.fields(), building_paths(folder), source.provenance(), **how)


def building_paths(folder: Path) -> list[Path]:
    from vit_hybrid.checkpoints.files import weights_paths

    return weights_paths(str(folder))


class TestFromFiles:
    def test_without_labels_it_gives_the_features(self, tmp_path: Path) -> None:
        model = hybrid(**tiny_hybrid.HYBRIDS["no labels, one layer"])
        model.save_pretrained(tmp_path)
        made = from_folder(tmp_path)
        pixels = pictures(model.config)
        expected = expected_of(model, pixels, None)[LOGITS]
        np.testing.assert_allclose(run(made.converted.program, pixels, output=LOGITS)[LOGITS], expected, atol=1e-4)

    def test_sizes_at_which_no_model_can_run_are_left_to_the_loader(self, tiny_folder: Path) -> None:
        fields = json.loads((tiny_folder / "config.json").read_text())
        backbone = {**fields["backbone_config"], "global_padding": "VALID"}
        for change in ({"image_size": 3, "backbone_config": backbone}, {"patch_size": 5}):
            assert building.made_from_files({**fields, **change}, building_paths(tiny_folder), {}) is None

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
    @pytest.mark.parametrize("is_sharded", [False, True])
    def test_is_what_the_loaded_model_is(self, dtype: torch.dtype, is_sharded: bool, tmp_path: Path) -> None:
        hybrid().to(dtype).save_pretrained(tmp_path, max_shard_size="15KB" if is_sharded else "1GB")
        assert (len([*tmp_path.glob("*.safetensors")]) > 1) is is_sharded
        made = from_folder(tmp_path, output=ALL)
        model = prepared(ViTHybridForImageClassification.from_pretrained(tmp_path, dtype=torch.float32), owned=True)
        pixels = pictures(model.config)
        expected, found = expected_of(model, pixels, None), run(made.converted.program, pixels)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5 * max(1.0, np.abs(values).max()))
        assert made.bundle.labels == tuple(model.config.id2label.values())
        assert made.bundle.feature_size == 16

    @pytest.mark.parametrize("how", [{"dynamic": True}, {"token_merging": 1}, {"output": ALL}], ids=str)
    def test_says_how_it_was_made(self, how: dict[str, Any], tiny_folder: Path) -> None:
        plain, made = from_folder(tiny_folder), from_folder(tiny_folder, **how)
        now: Any = {"provenance": None}  # which says when, too
        assert {**vars(plain.bundle), **how, **now} == {**vars(made.bundle), **now}
        merging = [node for node in made.converted.program.get_ops() if f".{MERGING}." in node.get_friendly_name()]
        assert bool(merging) == ("token_merging" in how)
        assert made.converted.program.input(0).get_partial_shape()[2].is_dynamic == ("dynamic" in how)

    def test_its_weights_are_written_as_they_are(self, tiny_folder: Path, tmp_path: Path) -> None:
        from vit_hybrid.engines.openvino import shared_core

        from_folder(tiny_folder).write(tmp_path)
        read = shared_core().read_model(next(tmp_path.glob("*.xml")))
        expected = load_file(tiny_folder / "model.safetensors")["classifier.weight"].numpy()
        kept = [node.get_data() for node in read.get_ops() if node.get_type_name() == "Constant"]
        assert any(one.dtype == np.float32 and np.array_equal(one, expected) for one in kept)

    def test_is_what_the_loader_would_have_made(self, tiny_folder: Path, tmp_path: Path) -> None:
        from vit_hybrid.bundles.making import make

        source = open_source(tiny_folder)
        slow = make(source.classifier(), "openvino", "f32", source.provenance())
        fast = from_folder(tiny_folder)
        assert {**vars(fast.bundle), "provenance": None} == {**vars(slow.bundle), "provenance": None}
        for made, folder in ((slow, tmp_path / "slow"), (fast, tmp_path / "fast")):
            folder.mkdir()
            made.write(folder)
        assert {path.name for path in (tmp_path / "fast").iterdir()} == {
            path.name for path in (tmp_path / "slow").iterdir()
        }
        assert engines.load(tmp_path / "fast").spec == engines.load(tmp_path / "slow").spec
        reread = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("fast", "slow")]
        assert ViTHybridConfig.from_dict(reread[0]).to_dict() == ViTHybridConfig.from_dict(reread[1]).to_dict()

    def test_the_first_start_takes_neither_torch_nor_transformers(self, tmp_path: Path) -> None:
        photo = Path(__file__).parents[2] / "examples" / "cat.jpg"
        code = f"""
import sys
sys.argv[1:] = ["classify", {str(photo)!r}, "--json", "--device", "cpu"]
from vit_hybrid.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code
print(sorted({{"torch", "transformers"}} & {{*sys.modules}}))
"""
        said, loaded = fresh_process.run(code, env={"VIT_HYBRID_CACHE": str(tmp_path)}).splitlines()[-2:]
        assert "tabby" in said
        assert loaded == "[]"
        assert len([*tmp_path.iterdir()]) == 1


class TestPlainConfig:
    def test_its_defaults_are_those_of_the_classes(self) -> None:
        config = ViTHybridConfig()
        assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
        bit = type(config.backbone_config)()
        assert {name: getattr(bit, name) for name in BIT_DEFAULTS} == BIT_DEFAULTS

    @pytest.mark.parametrize("kind", tiny_hybrid.HYBRIDS)
    @pytest.mark.parametrize("is_short", [False, True])
    def test_says_what_the_class_says(self, kind: str, is_short: bool) -> None:
        config = tiny_hybrid.tiny_config(**tiny_hybrid.HYBRIDS[kind])
        found = plain_config(json.loads(config.to_json_string(use_diff=is_short)))
        same(found, config)
        same(found.backbone_config, config.backbone_config)

    @pytest.mark.parametrize(
        "change",
        [
            {"hidden_size": "768"},
            {"hidden_size": 15},
            {"num_hidden_layers": True},
            {"backbone": "google/bit-50"},
            {"backbone_config": None},
            {"backbone_config": {"model_type": "resnet"}},
            {"backbone_config": {"depths": [1], "out_features": ["stage2"]}},
            {"backbone_config": {"depths": [1], "out_features": ["stage1", "stage2"]}},
            {"backbone_config": {"depths": [1], "out_features": ["stage1"], "global_padding": "reflect"}},
            {"weight_standardization": "mean"},
            {"id2label": {"1": "a", "2": "b"}},
            {"image_size": [32]},
            {"image_size": [32, 32.0]},
            {"image_size": 0},
            {"image_size": [32, 0]},
            {"patch_size": 0},
            {"num_hidden_layers": -1},
            {"hidden_size": 0},
            {"layer_norm_eps": "1e-12"},
            {"qkv_bias": 1},
            {"backbone_kwargs": {"depths": [1]}},
            {"use_pretrained_backbone": True},
            {"use_timm_backbone": True},
            {"num_channels": 1},
            {"num_labels": 5},
            {"num_labels": "3"},
            {"representation_size": "12"},
            {"problem_type": 3},
            {"backbone_config": {"depths": [True], "out_features": ["stage1"]}},
            {"backbone_config": {"depths": [1, 1], "hidden_sizes": [256], "out_features": ["stage1"]}},
            {"backbone_config": {"depths": [1], "out_features": ["stage1"], "layer_type": "basic"}},
            {"backbone_config": {"depths": [1], "out_features": []}},
            {"backbone_config": {"depths": [1], "out_features": "stage1"}},
        ],
    )
    def test_what_is_unusual_is_left_to_the_class(self, change: dict[str, Any]) -> None:
        fields = json.loads(tiny_hybrid.tiny_config().to_json_string())
        assert plain_config(fields) is not None
        assert plain_config({**fields, **change}) is None

    @pytest.mark.parametrize(
        "change",
        [
            {"layer_norm_eps": 1},
            {"id2label": {"2": "c", "0": "a", "1": "b"}},
            dict.fromkeys(("backbone", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone")),
            {"backbone_config": {"global_padding": "Same"}},
            {"backbone_config": {"model_type": None}},
            {"num_channels": 1, "backbone_config": {"num_channels": 1}},
        ],
        ids=str,
    )
    def test_what_is_written_otherwise_means_the_same(self, change: dict[str, Any]) -> None:
        fields = json.loads(tiny_hybrid.tiny_config().to_json_string())
        fields.pop("label2id")
        backbone = {**fields["backbone_config"], **change.get("backbone_config", {})}
        fields = {**fields, **change, "backbone_config": backbone}
        found, config = plain_config(fields), ViTHybridConfig.from_dict(fields)
        same(found, config)
        same(found.backbone_config, config.backbone_config)

    def test_of_one_channel_the_backbone_need_not_say_so(self) -> None:
        fields = json.loads(tiny_hybrid.tiny_config(num_channels=1).to_json_string())
        assert fields["backbone_config"].pop("num_channels") == 1
        assert plain_config(fields).backbone_config.num_channels == 1

    @pytest.mark.parametrize("more", [{}, {"num_labels": 7}, {"num_labels": 0}])
    def test_labels_that_are_not_named_are_numbered(self, more: dict[str, Any]) -> None:
        fields = json.loads(tiny_hybrid.tiny_config().to_json_string())
        unnamed = {name: value for name, value in fields.items() if name not in ("id2label", "label2id", "num_labels")}
        same(plain_config({**unnamed, **more}), ViTHybridConfig.from_dict({**unnamed, **more}))


def test_each_activation_is_that_of_its_name() -> None:
    from transformers.activations import ACT2FN

    from vit_hybrid.bundles.openvino_graph import ACTIVATIONS, openvino, ops
    from vit_hybrid.engines.openvino import shared_core

    given = np.linspace(-6, 6, 241, dtype=np.float32)
    values = ops.parameter([len(given)], np.float32)
    results = [ops.result(activation(values)) for activation in ACTIVATIONS.values()]
    program = openvino.Model(results, [values], "activations")
    found = shared_core().compile_model(program, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([given])
    for place, name in enumerate(ACTIVATIONS):
        expected = ACT2FN[name](torch.from_numpy(given)).numpy()
        np.testing.assert_allclose(found[place], expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("padding", "sides"), [("VALID", [4, 3]), (None, [5, 4]), ("SAME", [5, 4])])
def test_each_padding_gives_a_map_of_its_size(padding: str | None, sides: list[int]) -> None:
    from vit_hybrid.bundles import openvino_graph

    how = {"weight_standardization": "variance", "weight_standardization_eps": 1e-8}
    config = SimpleNamespace(backbone_config=SimpleNamespace(global_padding=padding), **how)
    graph = openvino_graph._Graph(config, {"it.weight": np.ones((4, 2, 3, 3), np.float32)}, False, False)
    pixels = openvino_graph.ops.parameter([1, 2, 9, 7], np.float32)
    found = graph.convolution(pixels, "it", (2, 4), 3, stride=2)
    assert [side.get_length() for side in found.get_output_partial_shape(0)] == [1, 4, *sides]


@pytest.mark.parametrize(
    ("sides", "operation"), [((16, 16), "AvgPool"), ((3, 11), "AvgPool"), ((1, 1), "AvgPool"), ((16, 17), "ReduceMean")]
)
@pytest.mark.parametrize("count", [-1, 3])
def test_a_group_norm_of_maps_of_any_size(sides: tuple[int, int], operation: str, count: int) -> None:
    from vit_hybrid.bundles import openvino_graph
    from vit_hybrid.engines.openvino import shared_core

    rng = np.random.default_rng(sum(sides))
    pixels, scale, shift = (rng.normal(2, 3, shape).astype(np.float32) for shape in ((3, 6, *sides), 6, 6))
    eps = 1e-3
    config = SimpleNamespace(backbone_config=SimpleNamespace(num_groups=2), group_norm_eps=eps)
    maps = openvino_graph.ops.parameter([count, 6, *sides], np.float32)
    normed = openvino_graph._Graph(config, {}, False, False).normalized_channels(maps, scale, shift)
    program = openvino_graph.openvino.Model([normed], [maps], "norm")
    over_maps = {
        node.get_type_name()
        for node in program.get_ops()
        if node.get_type_name() in ("AvgPool", "ReduceMean")
        and node.input(0).get_partial_shape().rank.get_length() == 4
    }
    assert over_maps == {operation}
    found = shared_core().compile_model(program, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([pixels])[0]
    given, weight, bias = map(torch.from_numpy, (pixels, scale, shift))
    expected = nn.functional.group_norm(given, 2, weight, bias, eps)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=2e-5)


def test_a_group_norm_of_maps_that_are_the_same_everywhere() -> None:
    """Their variance is nothing, also where its two parts are rounded otherwise."""
    from vit_hybrid.bundles import openvino_graph
    from vit_hybrid.engines.openvino import shared_core

    config = SimpleNamespace(backbone_config=SimpleNamespace(num_groups=1), group_norm_eps=1e-9)
    maps = openvino_graph.ops.parameter([-1, 1, 7, 9], np.float32)
    graph = openvino_graph._Graph(config, {}, False, False)
    normed = graph.normalized_channels(maps, np.ones(1, np.float32), np.ones(1, np.float32))
    program = openvino_graph.openvino.Model([normed], [maps], "norm")
    levels = np.geomspace(0.1, 100, 500, dtype=np.float32)
    pixels = np.broadcast_to(levels[:, None, None, None], (500, 1, 7, 9)).copy()
    found = shared_core().compile_model(program, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([pixels])[0]
    assert np.isfinite(found).all()


def same(found: Any, config: Any) -> None:
    for name, value in vars(found).items():
        if name != "backbone_config":
            expected = getattr(config, name)
            assert value == (list(expected) if isinstance(expected, tuple) else expected), name


def test_layers_that_stay_in_floating_point_have_their_names() -> None:
    model = hybrid(num_hidden_layers=3)
    ranking, _ = sensitivity.rank_layers(for_class_token(model), pictures(model.config, 1), 60.0)
    converted = building.converted_from(model, False, 2, LOGITS)
    assert converted is not None
    names = quantization._names(converted, ranking)
    assert names == [layer.name for layer in ranking]
    assert {*names} <= {node.get_friendly_name() for node in converted.program.get_ops()}
    products = {node.get_friendly_name() for node in converted.program.get_ops() if node.get_type_name() == "MatMul"}
    merging = {name for name in products if re.match(quantization.FLOAT_PATTERNS[0], name)}
    assert len(merging) == 2 * 2  # of two merges
    assert products == merging | {layer.name for layer in ranking if layer.kind == "linear"}

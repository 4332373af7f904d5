"""`vit-hybrid info` as a person and as a script meet it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import fresh_process
import pytest
import tiny_hybrid
import torch
from typer.testing import CliRunner, Result

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification
from vit_hybrid.assets import BUILT_IN_FOLDER, BUILT_IN_MODEL
from vit_hybrid.checkpoints import jax, timm
from vit_hybrid.cli.main import app
from vit_hybrid.model.complexity import PARTS, complexity, memory
from vit_hybrid.model.presets import PRESETS

LIST_SHARE = 0.4  # of what `import torch` takes, in processor time
ESCAPE = "\x1b"

# What JAX and timm compute with, so that a model can be saved for them.
JAX_NUMERICS: dict[str, Any] = {
    "weight_standardization": "std",
    "weight_standardization_eps": 1e-5,
    "group_norm_eps": 1e-6,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}
TIMM_NUMERICS: dict[str, Any] = {"layer_norm_eps": 1e-6}


def info(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["info", *map(str, arguments)])


def record(*arguments: str | Path) -> dict[str, Any]:
    result = info(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    [line] = result.stdout.splitlines()
    fields: dict[str, Any] = json.loads(line)
    return fields


def one_layer_of_r_ti16(**changes: Any) -> ViTHybridConfig:
    return ViTHybridConfig.from_preset("R+Ti/16", image_size=64, num_labels=5, num_hidden_layers=1, **changes)


class TestList:
    def test_a_line_for_each_preset(self) -> None:
        result = info()
        assert (result.exit_code, result.stderr) == (0, "")
        assert ESCAPE not in result.stdout
        lines = result.stdout.splitlines()
        rows = {line.split()[0]: line for line in lines[3:]}
        assert list(rows) == [preset.name for preset in PRESETS]
        for preset in PRESETS:
            assert f"{preset.parameters:,}" in rows[preset.name]
            assert f" {preset.gflops:.1f} " in rows[preset.name]
            assert (preset.timm or "-") == rows[preset.name].split()[-1]
        heads = "preset blocks stride layers width heads parameters GFLOP JAX timm"
        assert lines[:2] == ["Published hybrids, counted for 224 x 224 pixels and 1000 labels", lines[1]]
        assert lines[1].split() == heads.split()
        tiny, small = rows["R+Ti/16"].split(), rows["R26+S/32"].split()
        assert tiny[1:] == "stem only 32 12 192 3 6,337,704 0.9 R_Ti_16 vit_tiny_r_s16_p8".split()
        assert small[1:] == "2, 2, 2, 2 32 12 384 6 36,431,912 6.9 R26_S_32 vit_small_r26_s32".split()

    def test_json(self) -> None:
        result = info("--json")
        found = [json.loads(line) for line in result.stdout.splitlines()]
        assert [one["name"] for one in found] == [preset.name for preset in PRESETS]
        assert found[0]["depths"] == []
        assert [one["stride"] for one in found] == [32, 32, 32, 16, 32, 16, 32]
        assert {one["name"]: one["parameters"] for one in found} == {one.name: one.parameters for one in PRESETS}

    @pytest.mark.alone
    def test_answers_at_once_and_loads_nothing_heavy(self) -> None:
        code = (
            "import sys\n"
            "from vit_hybrid.cli.main import main\n"
            "sys.argv = ['vit-hybrid', 'info']\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code\n"
            "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'huggingface_hub'} & set(sys.modules)\n"
            "print(sorted(heavy))"
        )
        assert fresh_process.run(code).splitlines()[-1] == "[]"
        assert fresh_process.share_of_importing_torch(code) < LIST_SHARE


class TestPreset:
    def test_tables(self) -> None:
        result = info("R50+B/16", "--image-size", "384", "--batch-size", "1")
        assert (result.exit_code, result.stderr) == (0, "")
        assert ESCAPE not in result.stdout
        text = result.stdout
        assert text.startswith("R50+B/16\n")
        assert "384 x 384, 3 channels" in text
        assert "3 + 4 + 9 bottleneck blocks" in text
        assert "577: 24 x 24 patches of 1 x 1, and the class token" in text
        assert "12 layers, 768 wide, 12 heads, MLP 3072 wide" in text
        assert re.search(r"^ images +384 x 384, 3 channels$", text, re.MULTILINE)
        assert re.search(r"^ feature map +1024 channels of 24 x 24$", text, re.MULTILINE)
        numerics = "weight standardization by variance + 1e-08, group norm 1e-05, layer norm 1e-12, gelu"
        assert re.search(rf"^ numerics +{re.escape(numerics)}$", text, re.MULTILINE)
        assert "1000 labels" in text
        rows = {
            match[1]: match[2].split() for match in re.finditer(r"^ ([A-Za-z ]+?)  +([\d,. ]+)$", text, re.MULTILINE)
        }
        assert list(rows)[:6] == ["stem and stages", "projection", "embeddings", "attention", "MLP", "head"]
        assert rows["stem and stages"] == ["11,894,848", "23.116"]
        assert " total             98,950,952          134.312\n" in text
        assert "memory for 1 image in float32" in text
        assert "(the model's tensors; what kernels take while they run, and the process itself, come on top)\n" in text
        assert rows["weights"] == ["395.8"]
        held = memory(ViTHybridConfig.from_preset("R50+B/16", image_size=384), batch_size=1, dtype="float32")
        sizes = {"folded weights": held.folded_weights, "activations": held.activations, "total": held.total}
        assert {name: rows[name] for name in sizes} == {name: [f"{size / 1e6:,.1f}"] for name, size in sizes.items()}
        assert re.search(r"^ backbone +BiT: 3 \+ 4 \+ 9 bottleneck blocks, SAME padding$", text, re.MULTILINE)

    def test_json_is_what_the_library_says(self) -> None:
        fields = record("vit_base_r50_s16_384.orig_in21k_ft_in1k", "--batch-size", "8", "--dtype", "bfloat16")
        config = ViTHybridConfig.from_preset("R50+B/16", image_size=384)
        costs, held = complexity(config), memory(config, batch_size=8, dtype="bfloat16")
        assert fields["name"] == "vit_base_r50_s16_384.orig_in21k_ft_in1k"
        assert fields["image_size"] == [384, 384]
        assert (fields["num_channels"], fields["num_labels"], fields["representation_size"]) == (3, 1000, None)
        assert (fields["patch_size"], fields["grid"], fields["tokens"]) == ([1, 1], [24, 24], 577)
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        assert [fields[name] for name in names] == [768, 12, 12, 3072]
        assert fields["backbone"] == {
            "depths": [3, 4, 9],
            "layer_type": "bottleneck",
            "padding": "SAME",
            "feature_map": [1024, 24, 24],
        }
        assert fields["parameters"] == {**costs.parameters, "total": 98_950_952}
        assert fields["flops"] == {**costs.flops, "total": costs.total_flops}
        assert set(PARTS) < set(fields["flops"])
        assert fields["memory"] == {
            "batch_size": 8,
            "dtype": "bfloat16",
            "weights": 2 * 98_950_952,
            "folded_weights": held.folded_weights,
            "activations": held.activations,
            "total": held.total,
        }

    def test_options(self) -> None:
        fields = record("R+Ti/16", "--image-size", "64x96", "--num-labels", "0")
        assert (fields["image_size"], fields["grid"], fields["tokens"]) == ([64, 96], [2, 3], 7)
        assert (fields["num_labels"], fields["flops"]["head"]) == (0, 0)
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        assert [fields[name] for name in names] == [192, 12, 3, 768]
        text = info("R+Ti/16", "--image-size", "64x96", "--num-labels", "0").stdout
        assert "only its stem" in text
        assert re.search(r"^ images +64 x 96, 3 channels$", text, re.MULTILINE)
        assert re.search(r"^ feature map +64 channels of 16 x 24$", text, re.MULTILINE)
        assert "7: 2 x 3 patches of 8 x 8, and the class token" in text
        assert "memory for 16 images in float32" in text
        assert re.search(r"^ encoder +12 layers, 192 wide, 3 heads, MLP 768 wide$", text, re.MULTILINE)
        assert re.search(r"^ head +none$", text, re.MULTILINE)


class TestSavedModels:
    def test_the_parts_of_a_tiny_model_can_be_told_apart(self, tiny_folder: Path) -> None:
        costs, text = complexity(tiny_hybrid.tiny_config()), info(tiny_folder).stdout
        assert f" {costs.flops['attention'] / 1e9:.6f}\n" in text
        assert f" {4 * costs.total_parameters / 1e6:.4f}\n" in text

    def test_a_folder_needs_only_its_configuration(self, tmp_path: Path) -> None:
        config = tiny_hybrid.tiny_config(representation_size=8, qkv_bias=False)
        config.save_pretrained(tmp_path)
        fields = record(tmp_path)
        assert fields["name"] == str(tmp_path)
        assert fields["parameters"]["total"] == complexity(config).total_parameters
        assert (fields["num_labels"], fields["representation_size"]) == (3, 8)
        text = info(tmp_path).stdout
        assert "no bias in queries, keys and values" in text
        assert "a layer 8 wide and tanh, then 3 labels" in text

    def test_options(self, tiny_folder: Path) -> None:
        fields = record(tiny_folder, "--image-size", "48", "--num-labels", "10")
        assert (fields["image_size"], fields["num_labels"]) == ([48, 48], 10)
        changed = complexity(tiny_hybrid.tiny_config(image_size=48, num_labels=10))
        assert fields["flops"]["total"] == changed.total_flops

    def test_the_built_in_model(self) -> None:
        fields = record(BUILT_IN_MODEL)
        stored = json.loads((BUILT_IN_FOLDER / "config.json").read_text())
        assert (fields["name"], fields["hidden_size"]) == (BUILT_IN_MODEL, stored["hidden_size"])
        model = ViTHybridForImageClassification.from_pretrained(BUILT_IN_FOLDER)
        assert fields["parameters"]["total"] == model.num_parameters()

    def test_a_path_wins_over_a_preset(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        tiny_hybrid.tiny_config().save_pretrained(tmp_path / "R50_B_16")
        assert record("R50_B_16")["hidden_size"] == 16
        assert record("R50_L_32")["hidden_size"] == 1024


class TestFiles:
    def test_jax(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = ViTHybridForImageClassification(one_layer_of_r_ti16(**JAX_NUMERICS))
        jax.save(model, tmp_path / "model.npz")
        fields = record(tmp_path / "model.npz")
        assert fields["parameters"]["total"] == model.num_parameters()
        assert fields["numerics"] == JAX_NUMERICS
        assert (fields["image_size"], fields["num_labels"]) == ([64, 64], 5)
        assert record(tmp_path / "model.npz", "--image-size", "128")["tokens"] == 17

    @pytest.mark.parametrize("name", ["model.safetensors", "folder"])
    def test_timm(self, name: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = ViTHybridForImageClassification(one_layer_of_r_ti16(**TIMM_NUMERICS))
        timm.save(model, tmp_path / name)
        fields = record(tmp_path / name)
        assert fields["parameters"]["total"] == model.num_parameters()
        assert (fields["image_size"], fields["num_labels"], fields["num_attention_heads"]) == ([64, 64], 5, 3)
        assert fields["numerics"]["layer_norm_eps"] == 1e-6

    @pytest.mark.parametrize("name", ["model.npz", "model.safetensors", "photo.jpg"])
    def test_a_file_that_is_none_of_these(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(b"no such thing")
        result = info(tmp_path / name)
        assert (result.exit_code, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert str(tmp_path / name) in line


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["R50+B/16", "--image-size", "wide"], "--image-size"),
            (["R50+B/16", "--image-size", "0"], "--image-size"),
            (["R50+B/16", "--image-size", "384x"], "--image-size"),
            (["R50+B/16", "--num-labels", "-1"], "--num-labels"),
            (["R50+B/16", "--batch-size", "0"], "--batch-size"),
            (["R50+B/16", "--dtype", "int8"], "--dtype"),
            (["R50+B/16", "--nonsense"], "--nonsense"),
            (["--num-labels", "3"], "name it too"),
            (["--image-size", "64"], "name it too"),
            (["R50+B/17"], "Did you mean 'R50+B/16'"),
            (["/no/such/folder"], "there is no such file or folder here"),
            (["vit_small_resnet26d_224"], "no BiT ResNet"),
            (["R+Ti/16", "--image-size", "16"], "smaller than a patch"),
        ],
    )
    def test_are_status_2(self, arguments: list[str], reason: str) -> None:
        result = info(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert reason in result.stderr
        assert "Traceback" not in result.stderr

    def test_a_hub_id_that_cannot_be_had(self) -> None:
        out = fresh_process.run(
            "import sys; sys.stderr = sys.stdout; from vit_hybrid.cli.main import main\n"
            "sys.argv = ['vit-hybrid', 'info', 'nobody/no-such-model']\n"
            "try: main()\n"
            "except SystemExit as end: print(end.code)"
        )
        line, code = out.splitlines()
        assert line.startswith("vit-hybrid: nobody/no-such-model: there is no such file or folder here")
        assert code == "2"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (None, "there is no config.json in this folder"),
            ("{", "cannot read its config.json"),
            ('{"model_type": "vit"}', "says model_type 'vit'; expected 'vit-hybrid'"),
            ("{}", "says model_type None; expected 'vit-hybrid'"),
            ('{"model_type": "vit-hybrid", "hidden_size": "wide"}', "cannot use its config.json"),
            ('{"model_type": "vit-hybrid", "image_size": 1, "patch_size": 2}', "smaller than a patch"),
        ],
    )
    def test_a_wrong_folder_is_one_line(self, content: str | None, reason: str, tmp_path: Path) -> None:
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        result = info(tmp_path)
        assert (result.exit_code, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert line.startswith(f"vit-hybrid: {tmp_path}: ")
        assert reason in line

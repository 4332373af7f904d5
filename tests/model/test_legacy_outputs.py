"""The classes held against what transformers 4.49 computed, over every layout it could run.

The numbers are recorded by scripts/record_legacy_outputs.py; tests/legacy_recipe.py makes weights and inputs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import legacy_recipe as recipe
import pytest
import torch
from safetensors.torch import load_file

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridModel

ROOT = Path(__file__).resolve().parents[2]
LEGACY = Path(__file__).resolve().parents[1] / "recorded" / "legacy"
LEGACY_PYTHON = "VIT_HYBRID_LEGACY_PYTHON"  # names an interpreter with transformers 4.49, for the check both ways

DTYPES = {"float64": torch.float64, "float32": torch.float32}
# Largest deviation allowed, relative to the largest entry of the recorded tensor.
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}
# Where 4.49's own float32 is further than that from its float64 (a ReLU that rounding flips moves a gradient by a
# percent), this many times its own error is allowed.
OWN_ERRORS = 2.0
# A gradient that is zero in exact arithmetic (a key's bias, say) is rounding noise: gradients are compared relative to
# their own norm or to this share of the largest norm in the model, whichever is more.
GRADIENT_FLOOR = 1e-2

# Fields that transformers 4.49 documents, other than the backbone; its own files carry all of them.
DOCUMENTED_FIELDS = (
    "backbone_featmap_shape hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "hidden_dropout_prob attention_probs_dropout_prob initializer_range layer_norm_eps image_size patch_size "
    "num_channels qkv_bias backbone use_pretrained_backbone use_timm_backbone backbone_kwargs model_type"
).split()
BACKBONE_FIELDS = (
    "embedding_size hidden_sizes depths layer_type hidden_act global_padding num_groups drop_path_rate num_channels "
    "embedding_dynamic_padding output_stride width_factor out_features out_indices stage_names model_type"
).split()

CASES = json.loads((LEGACY / "cases.json").read_text())
every_case = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return load_file(LEGACY / "outputs.safetensors")


def legacy_config(case: dict[str, Any], folder: Path, **overrides: Any) -> ViTHybridConfig:
    """The case's configuration, read from the file that 4.49 wrote."""
    (folder / "config.json").write_text(json.dumps(case["config"]))
    return ViTHybridConfig.from_pretrained(folder, **overrides)


def expected_of(
    case: dict[str, Any], recorded: dict[str, torch.Tensor], dtype: str, model: str
) -> dict[str, torch.Tensor]:
    prefix = f"{case['name']}/{dtype}/{model}/"
    return {key.removeprefix(prefix): tensor for key, tensor in recorded.items() if key.startswith(prefix)}


def scale_of(name: str, expected: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a deviation of output `name` is measured against."""
    if "gradient" not in name:
        return expected[name].abs().max()
    norms = expected["gradient_norms"].clamp(min=GRADIENT_FLOOR * expected["gradient_norms"].max().item())
    if name == "gradient_norms":
        return norms
    if name == "gradient_projections":
        return norms.unsqueeze(1)
    return expected[name].abs().max().clamp(min=norms.min().item())


def assert_recorded(found, case, recorded, dtype, model, leave_out="nothing"):
    """`found` is what 4.49 gave for `case` in `dtype`, but for outputs whose names start with `leave_out`."""
    expected = expected_of(case, recorded, dtype, model)
    precise = expected_of(case, recorded, "float64", model)
    names = sorted(name for name in expected if not name.startswith(leave_out))
    assert sorted(found) == names
    for name in names:
        assert (found[name].shape, found[name].dtype) == (expected[name].shape, expected[name].dtype), name
        scale = scale_of(name, expected)
        own_error = ((expected[name] - precise[name]).abs() / scale).max().item()
        allowed = max(TOLERANCES[dtype], OWN_ERRORS * own_error)
        error = ((found[name] - expected[name]).abs() / scale).max().item()
        assert error <= allowed, f"{name}: off by {error:.2e} of its size, allowed {allowed:.0e}"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", DTYPES)
@every_case
def test_the_bare_model_computes_what_it_did(case, dtype, attention, recorded, tmp_path):
    config = legacy_config(case, tmp_path, attn_implementation=attention)
    model = ViTHybridModel(config, use_mask_token=case.get("use_mask_token", False)).to(DTYPES[dtype])
    if attention == "eager":
        assert_recorded(recipe.observe_base(recipe.fill(model), case), case, recorded, dtype, "base")
    else:  # what the kernel computes; the weights come from the fallback, tested below
        found = recipe.observe_base(recipe.fill(model), case, output_attentions=False)
        assert_recorded(found, case, recorded, dtype, "base", leave_out="attentions.")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", DTYPES)
@every_case
def test_logits_losses_and_gradients_are_what_they_were(case, dtype, attention, recorded, tmp_path):
    config = legacy_config(case, tmp_path, attn_implementation=attention)
    model = recipe.fill(ViTHybridForImageClassification(config).to(DTYPES[dtype]))
    found = recipe.observe_classifier(model, case)
    assert_recorded(found, case, recorded, dtype, "classifier")
    assert model.config.problem_type == case["problem_type"]


@pytest.mark.parametrize("name", ["published_layout", "heads_masked_by_layer"])
def test_sdpa_returns_the_attention_weights_of_eager(name, recorded, tmp_path):
    case = next(case for case in CASES if case["name"] == name)
    model = ViTHybridModel(legacy_config(case, tmp_path, attn_implementation="sdpa")).double()
    found = recipe.observe_base(recipe.fill(model), case, output_attentions=True)
    assert_recorded(found, case, recorded, "float64", "base")


@every_case
def test_names_and_shapes_of_the_state_dict_are_the_old_ones(case, tmp_path):
    config = legacy_config(case, tmp_path)
    models = {
        "base": ViTHybridModel(config, use_mask_token=case.get("use_mask_token", False)),
        "classifier": ViTHybridForImageClassification(config),
    }
    for kind, model in models.items():
        assert recipe.layout(model) == case["layout"][kind], f"{kind} has {sorted(model.state_dict())}"


@every_case
def test_a_saved_config_says_what_4_49_had_said(case, tmp_path):
    old = case["config"]
    config = legacy_config(case, tmp_path)
    config.save_pretrained(tmp_path / "again")
    new = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {name: new[name] for name in DOCUMENTED_FIELDS} == {name: old[name] for name in DOCUMENTED_FIELDS}
    spoken = [name for name in BACKBONE_FIELDS if name in old["backbone_config"]]  # 4.49 leaves out what is default
    assert {name: new["backbone_config"].get(name, getattr(config.backbone_config, name)) for name in spoken} == {
        name: old["backbone_config"][name] for name in spoken
    }
    assert new.get("id2label") == old.get("id2label")
    assert new.get("problem_type") == old.get("problem_type")


@pytest.mark.parametrize("backbone_config", ["null", "absent"])
def test_a_config_without_a_backbone_means_the_default_one(backbone_config, recorded, tmp_path):
    case = next(case for case in CASES if case["name"] == "default_backbone")
    fields = {key: value for key, value in case["config"].items() if key != "backbone_config"}
    if backbone_config == "null":
        fields["backbone_config"] = None
    model = ViTHybridForImageClassification(legacy_config(case | {"config": fields}, tmp_path)).double()
    found = recipe.observe_classifier(recipe.fill(model), case)
    assert_recorded(found, case, recorded, "float64", "classifier")


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_written_by_4_49_loads_completely(weights, tmp_path):
    for name in ("config.json", weights):
        (tmp_path / name).write_bytes((LEGACY / "checkpoint" / name).read_bytes())
    model, report = ViTHybridForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.id2label[0] == "tabby, tabby cat"
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, torch.from_numpy(recipe.weight(key, tuple(tensor.shape))).float(), msg=key)


@pytest.mark.skipif(LEGACY_PYTHON not in os.environ, reason=f"{LEGACY_PYTHON} names no transformers 4.49 interpreter")
def test_files_go_both_ways_between_here_and_4_49():
    script = ROOT / "scripts" / "check_loads_in_legacy.py"
    command = [sys.executable, script, "--legacy", os.environ[LEGACY_PYTHON]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""Record what transformers 4.49 computes, for tests/model/test_legacy_outputs.py to hold the package against.

    python -m venv legacy
    legacy/bin/pip install transformers==4.49.0 torch==2.13.0 safetensors numpy
    legacy/bin/python scripts/record_legacy_outputs.py

Writes three things under `tests/recorded/legacy`: `cases.json` (each case's configuration exactly as 4.49 saves it, and
how the model is called), `outputs.safetensors` (outputs in float64 and float32, and gradients) and `checkpoint` (one
tiny model as 4.49 saves it, in both weight formats). Weights and inputs are not stored: they follow from
`tests/legacy_recipe.py`. Recording again on another machine moves the last digits only.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import legacy_recipe as recipe  # noqa: E402  (found through the line above)

LEGACY_VERSION = "4.49.0"
DTYPES = {"float64": torch.float64, "float32": torch.float32}

BACKBONE = {
    "layer_type": "bottleneck",
    "global_padding": "SAME",
    "embedding_dynamic_padding": True,
    "embedding_size": 8,
    "hidden_sizes": [16, 24, 32],
    "depths": [2, 1, 1],
    "num_groups": 4,
    "out_features": ["stage3"],
}
PREACTIVATION = BACKBONE | {"layer_type": "preactivation", "global_padding": None, "embedding_dynamic_padding": False}
ENCODER = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_labels": 5,
}

# One row a case. "backbone" and "config" go over BACKBONE and ENCODER; "map" is (channels, height, width) of the last
# feature map, which 4.49 has to be told.
CASES: list[dict[str, Any]] = [
    {"name": "published_layout", "config": {"image_size": 48}, "map": (32, 3, 3)},
    {"name": "default_backbone", "backbone": None, "config": {"image_size": 32}, "map": (1024, 2, 2)},
    {"name": "full_dump", "config": {"image_size": 32, "num_labels": 1000}, "map": (32, 2, 2), "full_dump": True},
    {
        "name": "four_stages_small_epsilon",
        "backbone": {"depths": [1, 2, 1, 2], "hidden_sizes": [16, 24, 32, 40], "out_features": ["stage4"]},
        "config": {"image_size": 64, "layer_norm_eps": 1e-6, "num_labels": 1},
        "map": (40, 2, 2),
        "labels": "value",
    },
    {"name": "odd_size", "config": {"image_size": 33, "num_labels": 2}, "map": (32, 3, 3)},
    {
        "name": "rectangle_tall_patch",
        "config": {"image_size": [56, 40], "patch_size": [2, 1]},
        "map": (32, 4, 3),
    },
    {
        "name": "rectangle_no_qkv_bias",
        "config": {"image_size": [40, 56], "qkv_bias": False, "num_labels": 3},
        "map": (32, 3, 4),
        "labels": "indicator",
    },
    {
        "name": "same_static_stem_pool",
        "backbone": {"embedding_dynamic_padding": False, "out_features": ["stage1", "stage2"]},
        "config": {"image_size": 27},
        "map": (24, 3, 3),
    },
    {
        "name": "default_padding_patch_2",
        "backbone": {"global_padding": None, "embedding_dynamic_padding": False},
        "config": {"image_size": 78, "patch_size": 2},
        "map": (32, 5, 5),
    },
    {
        "name": "default_padding_dynamic_pool",
        "backbone": {"global_padding": None, "out_features": ["stage2"]},
        "config": {"image_size": [25, 18]},
        "map": (24, 4, 3),
    },
    {
        "name": "valid_padding",  # runs only where a 1 x 1 residual is broadcast over its shortcut
        "backbone": {
            "global_padding": "VALID",
            "embedding_dynamic_padding": False,
            "depths": [2, 1],
            "out_features": None,
        },
        "config": {"image_size": 16},
        "map": (24, 2, 2),
    },
    {"name": "preactivation", "layout": PREACTIVATION, "config": {"image_size": 47}, "map": (32, 3, 3)},
    {
        "name": "preactivation_same_patch_2",
        "layout": PREACTIVATION,
        "backbone": {"global_padding": "same", "embedding_dynamic_padding": True},
        "config": {"image_size": [64, 96], "patch_size": 2, "num_labels": 2},
        "map": (32, 4, 6),
    },
    {
        "name": "preactivation_dynamic_pool_rectangle",
        "layout": PREACTIVATION,
        "backbone": {"embedding_dynamic_padding": True, "num_groups": 8, "hidden_act": "silu", "drop_path_rate": 0.2},
        "config": {"image_size": [35, 50], "hidden_act": "gelu_new"},
        "map": (32, 3, 4),
    },
    {
        "name": "preactivation_dilated",
        "layout": PREACTIVATION,
        "backbone": {"global_padding": "SAME", "output_stride": 8, "depths": [1, 1, 2]},
        "config": {"image_size": [36, 28]},
        "map": (32, 4, 3),
    },
    {
        "name": "dilated",
        "backbone": {"output_stride": 8, "depths": [1, 2, 2]},
        "config": {"image_size": 22},
        "map": (32, 3, 3),
    },
    {
        "name": "dilated_default_padding",
        "backbone": {
            "global_padding": None,
            "output_stride": 4,
            "depths": [1, 1, 1, 2],
            "hidden_sizes": [16, 16, 16, 16],
            "out_features": ["stage4"],
        },
        "config": {"image_size": 8},
        "map": (16, 3, 3),
    },
    {
        "name": "double_width",
        "backbone": {"width_factor": 2, "num_groups": 2, "hidden_sizes": [12, 20, 28], "hidden_act": "gelu"},
        "config": {"image_size": 32, "hidden_act": "relu"},
        "map": (56, 2, 2),
    },
    {
        "name": "stem_only",
        "backbone": {"depths": [], "hidden_sizes": [], "out_features": None},
        "config": {"image_size": 29, "patch_size": 4},
        "map": (8, 8, 8),
    },
    {
        "name": "dropouts_at_rest",
        "backbone": {"drop_path_rate": 0.3, "out_features": None, "out_indices": [1, 3]},
        "config": {"image_size": 32, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1, "num_labels": 1},
        "map": (32, 2, 2),
        "labels": "value",
    },
    {
        "name": "vector_regression",
        "config": {"image_size": 16, "problem_type": "regression", "num_labels": 4, "num_channels": 1},
        "backbone": {"num_channels": 1, "out_features": ["stage1"]},
        "map": (16, 4, 4),
        "labels": "value",
        "batch": 1,
    },
    {
        "name": "mask_token",
        "config": {"image_size": 48},
        "map": (32, 3, 3),
        "use_mask_token": True,
    },
    {"name": "heads_masked", "config": {"image_size": 32}, "map": (32, 2, 2), "head_mask": [1.0, 0.0, 0.5]},
    {
        "name": "heads_masked_by_layer",
        "config": {"image_size": 32},
        "map": (32, 2, 2),
        "head_mask": [[1.0, 0.0, 0.5], [0.25, 1.0, 0.0]],
    },
    {
        "name": "interpolation_at_own_size",
        "config": {"image_size": 32},
        "map": (32, 2, 2),
        "interpolate_pos_encoding": True,
    },
    {"name": "no_classifier", "config": {"image_size": 32, "num_labels": 0}, "map": (32, 2, 2), "labels": None},
]


def legacy_config(row: dict[str, Any]) -> "transformers.ViTHybridConfig":
    """The 4.49 configuration of one row of CASES."""
    layout = row.get("layout", BACKBONE)
    backbone = None if "backbone" in row and row["backbone"] is None else layout | row.get("backbone", {})
    arguments = ENCODER | row["config"]
    return transformers.ViTHybridConfig(
        backbone_config=backbone, backbone_featmap_shape=[1, *row["map"]], attn_implementation="eager", **arguments
    )


def saved_config(model: "transformers.PreTrainedModel", full_dump: bool) -> dict[str, Any]:
    """The `config.json` that 4.49 writes for `model`, or the dump of every default that older versions wrote."""
    if full_dump:
        return json.loads(model.config.to_json_string(use_diff=False))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return json.loads((Path(folder) / "config.json").read_text())


def record(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """One case's entry in `cases.json` and its tensors, keyed `dtype/model/output`."""
    torch.manual_seed(0)
    classifier = transformers.ViTHybridForImageClassification(legacy_config(row))
    base = transformers.ViTHybridModel(legacy_config(row), use_mask_token=row.get("use_mask_token", False))
    case = {
        "name": row["name"],
        "batch": row.get("batch", 2),
        "labels": row.get("labels", "index"),
        "config": saved_config(classifier, row.get("full_dump", False)),
        "layout": {"base": recipe.layout(base), "classifier": recipe.layout(classifier)},
    }
    case |= {key: row[key] for key in ("use_mask_token", "head_mask", "interpolate_pos_encoding") if key in row}
    tensors = {}
    for dtype_name, dtype in DTYPES.items():
        seen = {
            "base": recipe.observe_base(recipe.fill(base.to(dtype)), case),
            "classifier": recipe.observe_classifier(recipe.fill(classifier.to(dtype)), case),
        }
        tensors |= {f"{dtype_name}/{model}/{key}": t for model, found in seen.items() for key, t in found.items()}
    case["problem_type"] = classifier.config.problem_type  # as 4.49 settled it from the labels
    return case, {key: tensor.contiguous().clone() for key, tensor in tensors.items()}


def record_checkpoint(folder: Path) -> None:
    """One tiny classifier as 4.49's `save_pretrained` writes it, as `model.safetensors` and `pytorch_model.bin`."""
    row = {
        "backbone": {"depths": [1, 1], "hidden_sizes": [16, 16], "num_groups": 8, "out_features": ["stage2"]},
        "config": {
            "image_size": 24,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "num_labels": 3,
        },
        "map": (16, 3, 3),
    }
    config = legacy_config(row)
    config.id2label = {0: "tabby, tabby cat", 1: "tiger cat", 2: "Egyptian cat"}
    config.label2id = {label: index for index, label in config.id2label.items()}
    model = recipe.fill(transformers.ViTHybridForImageClassification(config))
    model.save_pretrained(folder, safe_serialization=False)
    model.save_pretrained(folder)


def main() -> None:
    """Record every case; print a line for each and the sizes written."""
    parser = argparse.ArgumentParser(description="Record the outputs of transformers 4.49 for the tests.")
    parser.add_argument("--output", type=Path, default=ROOT / "tests" / "recorded" / "legacy", help="folder to write")
    arguments = parser.parse_args()
    if transformers.__version__ != LEGACY_VERSION:
        sys.exit(f"this is transformers {transformers.__version__}; record with {LEGACY_VERSION} (see the docstring)")
    torch.set_num_threads(1)  # so that sums are taken in one order
    arguments.output.mkdir(parents=True, exist_ok=True)
    cases, tensors = [], {}
    for row in CASES:
        case, found = record(row)
        cases.append(case)
        tensors |= {f"{case['name']}/{key}": tensor for key, tensor in found.items()}
        numbers = sum(tensor.numel() for tensor in found.values())
        print(f"{case['name']:40} {numbers:8} numbers, logits {tuple(found['float64/classifier/logits'].shape)}")
    save_file(tensors, arguments.output / "outputs.safetensors", metadata={"transformers": LEGACY_VERSION})
    lines = ",\n".join(json.dumps(case, sort_keys=True) for case in cases)  # a line a case, so that diffs can be read
    (arguments.output / "cases.json").write_text(f"[\n{lines}\n]\n")
    record_checkpoint(arguments.output / "checkpoint")
    for path in sorted(arguments.output.rglob("*.*")):
        if path.is_file():
            print(f"{path.relative_to(arguments.output)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

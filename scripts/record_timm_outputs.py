"""Record what timm computes, for tests/checkpoints/test_timm.py to hold the package against.

    python -m venv timm
    timm/bin/pip install timm==1.0.31 torch==2.13.0 torchvision safetensors numpy
    timm/bin/python scripts/record_timm_outputs.py

Writes under `tests/recorded/timm`: `cases.json` (how each model is made, its weights' names and shapes, and the
`config.json` that timm writes for it), `outputs.safetensors` (logits), and `releases.json` (what timm publishes, and
how it prepares images for each). Weights and pixels are not stored: they follow from `tests/timm_recipe.py`.

    timm/bin/python scripts/record_timm_outputs.py --check FOLDER

loads the files in FOLDER instead, strictly, each into the model that `FOLDER/cases.json` describes, and compares logits
with those in `FOLDER/outputs.safetensors`. The test that writes such a folder runs where `VIT_HYBRID_TIMM_PYTHON` names
an interpreter with timm.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from timm.layers import HybridEmbed, StdConv2dSame
from timm.models import load_checkpoint
from timm.models._hub import save_config_for_hf
from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import checkpoint_filter_fn, default_cfgs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import timm_recipe as recipe  # noqa: E402  (found through the line above)

TOLERANCE = 1e-4
FOREIGN = ("resnet26d", "resnet50d", "mci")  # hybrids on other backbones

# Models of timm's classes. "backbone" is (blocks a stage, stem width, stage widths), the rest VisionTransformer's.
HAND_MADE: dict[str, dict[str, Any]] = {
    "stem_only": {
        "backbone": [[], 32, []],
        "img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 5,
    },
    "two_stages": {
        "backbone": [[1, 2], 32, [128, 256]],
        "img_size": 48, "patch_size": 1, "embed_dim": 128, "depth": 3, "num_heads": 2, "num_classes": 7,
    },
    "four_stages_headless": {
        "backbone": [[1, 1, 2, 1], 32, [128, 128, 256, 128]],
        "img_size": 96, "patch_size": 1, "embed_dim": 64, "depth": 1, "num_heads": 1, "num_classes": 0,
    },
    "odd_rectangle_gray_no_qkv_bias": {
        "backbone": [[2, 1], 32, [128, 128]],
        "img_size": [70, 50], "patch_size": 1, "in_chans": 1, "embed_dim": 64, "depth": 2, "num_heads": 1,
        "num_classes": 3, "qkv_bias": False, "mlp_ratio": 2.5,
    },
    "narrow_heads_wide_patch": {
        "backbone": [[1], 32, [128]],
        "img_size": 48, "patch_size": 2, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 4,
    },
}  # fmt: skip
# Models of timm's own architectures, with the arguments that make some of them small.
CREATED: dict[str, dict[str, Any]] = {
    "small_tiny_r": {
        "architecture": "vit_tiny_r_s16_p8_224",
        "img_size": 64, "embed_dim": 96, "depth": 2, "mlp_ratio": 3.0, "num_classes": 6,
    },
    "tanh_gelu": {
        "architecture": "vit_tiny_r_s16_p8_384",
        "img_size": 64, "embed_dim": 128, "num_heads": 2, "depth": 2, "num_classes": 6, "act_layer": "gelu_tanh",
    },
    "vit_tiny_r_s16_p8_224": {"architecture": "vit_tiny_r_s16_p8_224"},
    "vit_tiny_r_s16_p8_384": {"architecture": "vit_tiny_r_s16_p8_384", "num_classes": 0},
    "vit_small_r26_s32_224": {"architecture": "vit_small_r26_s32_224"},
}  # fmt: skip
# The side to which timm resizes the position embeddings of this case.
RESIZED = {"two_stages": (64, 112)}


def built(case: dict[str, Any]) -> torch.nn.Module:
    """The model that a case describes, in evaluation mode."""
    arguments = {
        key: tuple(value) if key == "img_size" and isinstance(value, list) else value for key, value in case.items()
    }
    if "architecture" in arguments:
        return timm.create_model(arguments.pop("architecture"), **arguments).eval()
    depths, stem, widths = arguments.pop("backbone")
    channels = arguments.get("in_chans", 3)
    convolution = partial(StdConv2dSame, eps=1e-8)  # as timm's hybrids have it
    if depths:
        backbone = ResNetV2(
            depths, widths, num_classes=0, in_chans=channels, global_pool="", stem_chs=stem, stem_type="same",
            preact=False, conv_layer=convolution,
        )  # fmt: skip
    else:
        backbone = create_resnetv2_stem(channels, stem, stem_type="same", preact=False, conv_layer=convolution)
    return VisionTransformer(embed_layer=partial(HybridEmbed, backbone=backbone), **arguments).eval()


def layout(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def logits(model: torch.nn.Module, name: str) -> torch.Tensor:
    height, width = model.patch_embed.img_size
    with torch.no_grad():
        return model(recipe.pixels(name, model.in_chans, height, width)).contiguous()


def record(folder: Path) -> None:
    cases: dict[str, Any] = {}
    outputs: dict[str, torch.Tensor] = {}
    for name, case in (HAND_MADE | CREATED).items():
        model = built(case)
        weights = recipe.state_dict(layout(model))
        model.load_state_dict(weights)
        cases[name] = {"model": case, "layout": layout(model), "num_heads": model.blocks[0].attn.num_heads}
        outputs[name] = logits(model, name)
        if "architecture" in case:
            with tempfile.NamedTemporaryFile() as file:
                save_config_for_hf(
                    model,
                    file.name,
                    model_args={k: v for k, v in case.items() if k not in ("architecture", "num_classes")},
                )
                cases[name]["config"] = json.loads(Path(file.name).read_text())
        if name in RESIZED:
            other = built(case | {"img_size": list(RESIZED[name])})
            other.load_state_dict(checkpoint_filter_fn(weights, other))
            cases[name]["resized_to"] = RESIZED[name]
            outputs[f"{name}.resized"] = logits(other, name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    save_file(outputs, folder / "outputs.safetensors")
    (folder / "releases.json").write_text(json.dumps(releases(), separators=(",", ":")) + "\n")


def releases() -> dict[str, Any]:
    """What timm publishes: by name, whether there are weights, classes, preprocessing and the model's layout."""
    found = {}
    for architecture, described in default_cfgs.items():
        for tag in described.tags:
            name = f"{architecture}.{tag}"
            config = described.cfgs[tag]
            found[name] = {"has_weights": bool(config.has_weights), "num_classes": config.num_classes}
            if any(part in name for part in FOREIGN):
                continue
            data = resolve_data_config(pretrained_cfg=config.to_dict())
            resize, crop, *_ = create_transform(**data, is_training=False).transforms
            found[name] |= {
                "input_size": data["input_size"],
                "resize": resize.size,
                "crop": crop.size,
                "interpolation": resize.interpolation.value,
                "mean": data["mean"],
                "std": data["std"],
            }
            model = timm.create_model(architecture, num_classes=config.num_classes, device="cpu")
            found[name] |= {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "hidden_size": model.embed_dim,
                "num_heads": model.blocks[0].attn.num_heads,
                "layout": layout(model),
            }
    return found


def check(folder: Path) -> None:
    """Loads what the package wrote, as a person would, and ends with an error at the first difference."""
    cases = json.loads((folder / "cases.json").read_text())
    expected = load_file(folder / "outputs.safetensors")
    for name, case in cases.items():
        path = folder / case["file"]
        if path.is_dir():
            model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        else:
            model = built(case["model"])
            load_checkpoint(model, str(path), strict=True)
        difference = (logits(model, case["pixels"]) - expected[name]).abs().max().item()
        print(f"{name}: off by {difference:.1e}")
        if not difference <= TOLERANCE:
            sys.exit(f"{name}: expected at most {TOLERANCE:.0e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="compare files written by the package instead")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "recorded" / "timm")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.check:
        check(options.check)
    else:
        record(options.out)

"""The smallest hybrid that exercises every part, for tests of what surrounds the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMAGE_SIZE = 32
# A backbone of three stages, for arithmetic on its maps.
SMALL_BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16, 16], "depths": [1, 2, 1], "num_groups": 2}
TINY_BACKBONE: dict[str, Any] = {
    "depths": [1, 1],
    "hidden_sizes": [16, 32],
    "embedding_size": 16,
    "num_groups": 8,
    "layer_type": "bottleneck",
    "global_padding": "same",
    "embedding_dynamic_padding": True,
    "out_features": ["stage2"],
}
PREACTIVATION = {"layer_type": "preactivation", "out_features": ["stage3"]}

# What is unlike `tiny_config`, by what it is for.
HYBRIDS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "R50": {
        "image_size": 64,
        "backbone_config": {
            "depths": [3, 4, 9],
            "hidden_sizes": [32, 64, 64],
            "embedding_size": 16,
            "num_groups": 8,
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "out_features": ["stage3"],
        },
    },
    "R26 of four stages": {
        "image_size": [64, 96],
        "backbone_config": {
            "depths": [2, 2, 2, 2],
            "hidden_sizes": [16, 32, 32, 64],
            "embedding_size": 16,
            "num_groups": 8,
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
        },
    },
    "stem alone": {
        "patch_size": [4, 2],
        "backbone_config": {
            "depths": [],
            "embedding_size": 16,
            "num_groups": 4,
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "out_features": ["stem"],
        },
    },
    "PyTorch's padding": {"backbone_config": {**SMALL_BACKBONE, "layer_type": "bottleneck"}, "image_size": 48},
    "preactivation": {"backbone_config": {**SMALL_BACKBONE, **PREACTIVATION}},
    "preactivation, SAME": {
        "backbone_config": {
            **SMALL_BACKBONE,
            **PREACTIVATION,
            "global_padding": "same",
            "embedding_dynamic_padding": True,
        },
        "image_size": 40,
    },
    # By 2 the last block of the second stage, and by 2 of 4 the only one of the third.
    "dilated": {
        "backbone_config": {**SMALL_BACKBONE, "layer_type": "bottleneck", "global_padding": "same", "output_stride": 4},
    },
    "preactivation, without a stride": {"backbone_config": {**SMALL_BACKBONE, **PREACTIVATION, "output_stride": 8}},
    "a stage before the last": {
        "backbone_config": {
            **SMALL_BACKBONE,
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "out_features": ["stage1"],
        },
        "patch_size": 4,
    },
    "other activations": {
        "hidden_act": "gelu_new",
        "backbone_config": {
            **SMALL_BACKBONE,
            "layer_type": "bottleneck",
            "hidden_act": "silu",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "out_features": ["stage1", "stage3"],  # of which the last is read
        },
    },
    "JAX's numbers": {
        "weight_standardization": "std",
        "weight_standardization_eps": 1e-5,
        "group_norm_eps": 1e-3,
        "layer_norm_eps": 1e-2,
        "hidden_act": "quick_gelu",
    },
    "without biases, with pre-logits": {"qkv_bias": False, "representation_size": 12},
    "no labels, one layer": {"num_labels": 0, "num_hidden_layers": 1},
    "no layers, one channel": {
        "num_hidden_layers": 0,
        "num_channels": 1,
        "backbone_config": {**TINY_BACKBONE, "num_channels": 1},
    },
}


def tiny_config(**changes: Any) -> Any:
    from vit_hybrid import ViTHybridConfig

    fields: dict[str, Any] = {
        "image_size": IMAGE_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "num_labels": 3,
        "backbone_config": {**TINY_BACKBONE},
    }
    return ViTHybridConfig(**{**fields, **changes})


def tiny_processor() -> Any:
    from vit_hybrid import ViTHybridImageProcessor

    return ViTHybridImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )


def save_tiny_model(folder: Path) -> Path:
    """A classifier with random weights and its image processor, as `save_pretrained` writes them."""
    import torch

    from vit_hybrid import ViTHybridForImageClassification

    torch.manual_seed(0)
    ViTHybridForImageClassification(tiny_config()).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def save_decided_model(folder: Path, labels: Sequence[str], **changes: Any) -> Path:
    """Such a classifier of these labels that does not say the same of all; `changes` are of its configuration."""
    import torch

    from vit_hybrid import ViTHybridForImageClassification

    torch.manual_seed(0)
    config = tiny_config(num_labels=len(labels), **changes)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in config.id2label.items()}
    model = ViTHybridForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def random_model(factor: float = 4.0, **changes: Any) -> Any:
    """A classifier of random weights, norms and biases included, whose tokens differ more with a larger `factor`."""
    import torch

    from vit_hybrid import ViTHybridForImageClassification

    torch.manual_seed(0)
    model = ViTHybridForImageClassification(tiny_config(**changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.3)
        for layer in model.modules():
            if type(layer) in (torch.nn.Linear, torch.nn.Conv2d):
                layer.weight.mul_(factor)
    return model

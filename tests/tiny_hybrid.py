"""The smallest hybrid that exercises every part, for tests of what surrounds the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMAGE_SIZE = 32
# A backbone of three stages, for arithmetic on its maps.
SMALL_BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 16, 16], "depths": [1, 2, 1], "num_groups": 2}


def tiny_config(**changes: Any) -> Any:
    from vit_hybrid import ViTHybridConfig

    fields: dict[str, Any] = {
        "image_size": IMAGE_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "num_labels": 3,
        "backbone_config": {
            "depths": [1, 1],
            "hidden_sizes": [16, 32],
            "embedding_size": 16,
            "num_groups": 8,
            "layer_type": "bottleneck",
            "global_padding": "same",
            "embedding_dynamic_padding": True,
            "out_features": ["stage2"],
        },
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

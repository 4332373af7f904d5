"""A PyTorch classifier or backbone from a folder or the hub, complete or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import one_line
from ..files import unfetched
from ..model.feature_backbone import ViTHybridBackbone
from ..model.modeling import ViTHybridForImageClassification
from .files import ModelLoadError, needing_code, weights_paths


def load_model(
    name: str, location: str, dtype: torch.dtype | str, num_labels: int | None = None
) -> ViTHybridForImageClassification:
    """The classifier at `location`, a folder or a hub id; one that lacks weights is refused with `ModelLoadError`.

    With `num_labels=0` it comes without its last layer, which then need not be in the file.
    """
    changes = {} if num_labels is None else {"num_labels": num_labels}
    return _loaded(ViTHybridForImageClassification, "no trained classifier", name, location, dtype, changes)


def load_backbone(
    name: str, location: str, dtype: torch.dtype | str, image_size: tuple[int, int] | None, fields: Mapping[str, Any]
) -> ViTHybridBackbone:
    """The backbone of the model at `location`, with or without a head, with `fields` of its configuration; else as
    `load_model`."""
    return _loaded(ViTHybridBackbone, "no trained model", name, location, dtype, {"image_size": image_size, **fields})


def _loaded(
    model_class: Any, lacking: str, name: str, location: str, dtype: torch.dtype | str, changes: Mapping[str, Any]
) -> Any:
    for path in weights_paths(location) if os.path.isdir(location) else ():
        if (reason := unfetched(path)) is not None:
            raise ModelLoadError(f"{name}: its {path.name} {reason}.")
    try:
        model, report = model_class.from_pretrained(location, dtype=dtype, output_loading_info=True, **changes)
    except Exception as error:  # foreign files fail in as many ways as they have readers
        if (reason := needing_code(error)) is not None:
            raise ModelLoadError(f"{name}: its file of weights {reason}.") from error
        raise ModelLoadError(f"{name}: cannot load the model: {one_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers draws these at random and goes on; predictions would then mean nothing.
        raise ModelLoadError(
            f"{name}: its weights lack {len(missing)} of the model's tensors ({missing[0]!r} is one), so it is "
            f"{lacking}; fine-tune it first or name another model."
        )
    return model


__all__ = ["load_backbone", "load_model"]

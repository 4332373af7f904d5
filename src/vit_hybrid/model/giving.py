"""What a classifier computes: logits, what its classifier takes, or both in one pass."""

from __future__ import annotations

from typing import Any

import torch

from ..runtimes import FEATURES, LOGITS, OUTPUTS
from .modeling import ViTHybridForImageClassification
from .token_merging import copy_around


def giving(model: ViTHybridForImageClassification, output: str) -> ViTHybridForImageClassification:
    """A classifier for inference that gives what `output` says; both share all layers and weights.

    Args:
        model: The classifier; it may be one that merges tokens.
        output: One of `runtimes.OUTPUTS`.

    Returns:
        For logits the model itself; otherwise one whose forward gives a dict of them by name: `logits` (N, labels),
        `features` (N, D), what the classifier takes.
    """
    if output == LOGITS:
        return model
    copy = copy_around(model, _WithFeatures)
    copy.gives = OUTPUTS[output]
    return copy


class _WithFeatures(ViTHybridForImageClassification):
    gives: tuple[str, ...]

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        tokens = self.vit(pixel_values, return_dict=True, **kwargs).last_hidden_state  # (N, T or 1, D)
        features = self.pre_logits(tokens[:, 0])
        if LOGITS not in self.gives:
            return {FEATURES: features}
        return {LOGITS: self.classifier(features), FEATURES: features}


__all__ = ["giving"]

"""What a classifier computes: logits, what its classifier takes, the class token, or all in one pass."""

from __future__ import annotations

from typing import Any

import torch

from ..runtimes import FEATURES, LOGITS, OUTPUTS, TOKEN
from .modeling import ViTHybridForImageClassification
from .token_merging import copy_around


def giving(model: ViTHybridForImageClassification, output: str) -> ViTHybridForImageClassification:
    """A classifier for inference that gives what `output` says; both share all layers and weights.

    Args:
        model: The classifier; it may be one that merges tokens.
        output: One of `runtimes.OUTPUTS`.

    Returns:
        For logits the model itself; otherwise one whose forward gives a dict of them by name: `logits` (N, labels),
        `features` (N, D), what the classifier takes, `token` (N, hidden_size), the class token before the last norm.
    """
    if output == LOGITS:
        return model
    copy = copy_around(model, _WithFeatures)
    copy.gives = OUTPUTS[output]
    return copy


class _WithFeatures(ViTHybridForImageClassification):
    gives: tuple[str, ...]

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        wants_token = TOKEN in self.gives
        found = self.vit(pixel_values, return_dict=True, output_hidden_states=wants_token, **kwargs)
        features = self.pre_logits(found.last_hidden_state[:, 0])  # of (N, T or 1, D)
        if LOGITS not in self.gives:
            return {FEATURES: features}
        logits = self.classifier(features)
        if not wants_token:
            return {LOGITS: logits, FEATURES: features}
        return {LOGITS: logits, TOKEN: found.hidden_states[-1][:, 0], FEATURES: features}


__all__ = ["giving"]

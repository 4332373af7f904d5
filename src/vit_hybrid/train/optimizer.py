"""The optimizer of a recipe."""

from __future__ import annotations

import torch

from .muon import Muon
from .parameters import muon_groups, parameter_groups
from .recipe import Recipe

SGD_MOMENTUM = 0.9  # arXiv 2010.11929, section 4.1
MUON_MOMENTUM = 0.95  # Jordan et al. 2024
# Adam's rate for what Muon does not take, where the recipe gives none.
ADAM_LEARNING_RATE = 1e-3


def build_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of a recipe over the model's trainable parameters, in layer-wise groups."""
    if recipe.optimizer == "muon":
        rest = ADAM_LEARNING_RATE if recipe.adam_learning_rate is None else recipe.adam_learning_rate
        groups = muon_groups(model, recipe.learning_rate, rest, recipe.weight_decay, recipe.layer_decay)
        momentum = MUON_MOMENTUM if recipe.momentum is None else recipe.momentum
        return Muon(groups, momentum=momentum, betas=recipe.betas)
    groups = parameter_groups(
        model, recipe.learning_rate, recipe.weight_decay, recipe.layer_decay, recipe.head_multiplier
    )
    if recipe.optimizer == "sgd":
        momentum = SGD_MOMENTUM if recipe.momentum is None else recipe.momentum
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=momentum)
    # One kernel for all weights, faster than the default (docs/measured.md, "Training").
    fused = all(weight.device.type in ("cpu", "cuda") for group in groups for weight in group["params"])
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=fused)


__all__ = ["build_optimizer"]

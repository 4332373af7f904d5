"""What training minimizes, for hard labels, mixed ones, several at once, and numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, one_hot

from ..data import LabeledPictures
from ..outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .recipe import Recipe, RecipeError


class TrainingLoss(nn.Module):
    """The mean loss of a batch.

    Args:
        problem_type: Hugging Face's word for what the targets are.
        loss: `"auto"` is cross-entropy for one label, binary cross-entropy for several, and the mean squared error for
            numbers. Binary cross-entropy for one label treats each label as a question of its own (Wightman et al.
            2021, "ResNet strikes back"); what several questions cost is averaged over them.
        label_smoothing: The share of a target that is spread over all labels (Szegedy et al. 2016); in binary
            cross-entropy, targets move towards one half by as much.
        class_weights: (labels,); how much a picture of each label counts. As in PyTorch's cross-entropy, a batch's mean
            is weighted: it is divided by the sum of the weights. In binary cross-entropy they weigh each label's
            question.

    Raises:
        ValueError: The loss does not fit the problem.
    """

    def __init__(
        self,
        problem_type: str,
        loss: str = "auto",
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        fitting = _FITTING[problem_type]
        self.kind = fitting[0] if loss == "auto" else loss
        if self.kind not in fitting:
            raise ValueError(
                f"loss is {loss!r}, but the data are for {problem_type}; expected {' or '.join(map(repr, fitting))}."
            )
        if problem_type == REGRESSION and (label_smoothing or class_weights is not None):
            raise ValueError("label_smoothing and class_weights are for labels, and these data hold numbers.")
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", weights)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss.

        Args:
            logits: (N, labels), of any floating dtype; computed in float32.
            targets: (N,) indices, or (N, labels) shares, or (N, values) numbers.
        """
        logits = logits.float()
        weights = self.class_weights
        if self.kind == "mean_squared_error":
            return mse_loss(logits, targets.float().reshape(logits.shape))
        if self.kind == "cross_entropy":
            if targets.ndim == 1 or weights is None:
                return cross_entropy(logits, targets, weight=weights, label_smoothing=self.label_smoothing)
            # PyTorch divides soft targets by the batch, not by their weights; a mixed batch should not weigh more.
            total = cross_entropy(logits, targets, weights, label_smoothing=self.label_smoothing, reduction="sum")
            return total / (targets * weights).sum()
        if targets.ndim == 1:
            targets = one_hot(targets, logits.shape[-1])
        smoothed = targets.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        return binary_cross_entropy_with_logits(logits, smoothed, weight=weights)


# The losses that fit a problem, the usual one first.
_FITTING = {
    SINGLE_LABEL: ("cross_entropy", "binary_cross_entropy"),
    MULTI_LABEL: ("binary_cross_entropy",),
    REGRESSION: ("mean_squared_error",),
}


def balanced_weights(class_counts: Sequence[int]) -> torch.Tensor:
    """Weights by which every class counts the same in all: inverse to the number of its pictures, 1 on average.

    Args:
        class_counts: Pictures of each label. A label without pictures gets weight 1: no loss is computed for it.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float32)
    present = counts > 0
    weights = torch.ones_like(counts)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def class_weights(recipe: Recipe, pictures: LabeledPictures) -> torch.Tensor | None:
    if recipe.class_weights is None or pictures.problem_type == REGRESSION:
        return None if recipe.class_weights is None else torch.ones(len(pictures.labels))
    if recipe.class_weights == "balanced":
        return balanced_weights(pictures.class_counts().tolist())
    unknown = sorted(set(recipe.class_weights) - set(pictures.labels))
    if unknown:
        raise RecipeError(f"class_weights names {unknown[0]!r}; the data's labels are {', '.join(pictures.labels)}.")
    return torch.tensor([recipe.class_weights.get(label, 1.0) for label in pictures.labels])


__all__ = ["TrainingLoss", "balanced_weights", "class_weights"]

"""What explanations need of a model, and a classifier of transformers' as that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

if TYPE_CHECKING:
    from ..model.modeling import ViTHybridForImageClassification

LOGITS = "logits"


class Hybrid(Protocol):
    """A classifier, by what it computes of pictures on its way.

    Shapes: N pictures, T tokens, D = hidden_size.

    Attributes:
        config: What has the attributes of `ViTHybridConfig` that say what is computed.
        device: Where it computes.
        dtype: What it computes in.
        position_embeddings: (1, T, D).
        stem_filters: (channels, input channels, k, k), standardized as they are used.
    """

    @property
    def config(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def position_embeddings(self) -> torch.Tensor: ...
    @property
    def stem_filters(self) -> torch.Tensor: ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode for a while; afterwards the model is as before."""
        ...

    def outputs(self, pixels: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """What it computes of pictures (N, C, H, W) of any size, all in one graph.

        Args:
            pixels: The preprocessed pictures.
            names: What is wanted: see `ViTHybridForImageClassification.forward_features`.

        Raises:
            ValueError: If the pictures do not fit the model, or it merges tokens.
        """
        ...

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, labels) of pictures (N, C, H, W) of any size, by whatever attention is fastest."""
        ...

    def classified(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, labels) that the last norm and the classifier give of a layer's tokens (N, T, D)."""
        ...


class Classifier:
    """A classifier of transformers' as a `Hybrid`. Nothing of it is hooked, and it is as before when a pass is over.

    Args:
        model: The classifier.
    """

    def __init__(self, model: ViTHybridForImageClassification) -> None:
        self.model = model

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def position_embeddings(self) -> torch.Tensor:
        return self.model.vit.embeddings.position_embeddings

    @property
    def stem_filters(self) -> torch.Tensor:
        stem = self.model.vit.embeddings.patch_embeddings.backbone.bit.embedder
        return stem.convolution.standardized_weight()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        training = [module for module in self.model.modules() if module.training]
        # Not by `eval` and `train`, since a folded model refuses the latter, and some modules may be in another mode.
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def outputs(self, pixels: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        from ..model.modeling import ViTHybridEncoder

        if not isinstance(self.model.vit.encoder, ViTHybridEncoder):
            raise ValueError(
                "this model merges tokens, whose attention is then no longer of places in the picture; explain the "
                "model without token_merging."
            )
        return self.model.forward_features(pixels, names, interpolate_pos_encoding=True)

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixels, interpolate_pos_encoding=True).logits

    def classified(self, tokens: torch.Tensor) -> torch.Tensor:
        model = self.model
        return model.classifier(model.pre_logits(model.vit.layernorm(tokens)[:, 0]))


Explainable: TypeAlias = "ViTHybridForImageClassification | Hybrid"
"""A classifier of transformers', or what stands for one."""


def as_hybrid(model: Explainable) -> Hybrid:
    """A model as a `Hybrid`."""
    return Classifier(model) if isinstance(model, torch.nn.Module) else model


__all__ = ["LOGITS", "Classifier", "Explainable", "Hybrid", "as_hybrid"]

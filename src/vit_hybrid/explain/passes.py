"""One picture through a model and back: what it computes on its way, and gradients of its outputs by these.

Nothing is hooked: `forward_features` gives everything in one graph, attention weights by the eager function whatever
the model uses otherwise. It runs in evaluation mode, and is as before when the pass is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ..model.geometry import as_pair
from ..model.modeling import ViTHybridEncoder, ViTHybridForImageClassification
from .attention import Array

LOGITS = "logits"


class Pass:
    """What a model computes of one picture; `through` makes it.

    Attributes:
        grid: (rows, columns) of the tokens.
    """

    def __init__(self, model: ViTHybridForImageClassification, pixels: torch.Tensor, names: Sequence[str]) -> None:
        self._model = model
        last_map = [name for name in model.config.feature_names if not name.startswith("layer")][-1]
        # One layer's weights asked for, all layers compute attention by the eager function.
        wanted = list(dict.fromkeys([*names, LOGITS, last_map, *attention_names(model)[:1]]))
        self._found = model.forward_features(pixels, wanted, interpolate_pos_encoding=True)
        patch = as_pair(model.config.patch_size)
        height, width = self._found[last_map].shape[-2:]
        self.grid = height // patch[0], width // patch[1]

    def value(self, name: str) -> Array:
        """An output of the picture, without the axis of pictures."""
        return _numbers(self._found[name])

    def map(self, name: str) -> Array:
        """An output as a map (C, h, w); of the encoder's tokens (T, D) those of the picture."""
        return self._as_map(self.value(name))

    def map_gradient(self, name: str, label: int) -> Array:
        """Of a logit by `map`."""
        [gradient] = self.gradients(label, [name])
        return self._as_map(gradient)

    def gradients(self, label: int, names: Sequence[str]) -> list[Array]:
        """Of a logit by outputs."""
        return self._by(self._found[LOGITS][0, label], names)

    def own_gradients(self, label: int) -> Iterator[Array]:
        """For each layer, of the logit that the classifier would give of its tokens by its attention (H, T, T)."""
        for number, name in enumerate(attention_names(self._model), start=1):
            tokens = self._model.vit.layernorm(self._found[f"layer{number}"])
            logits = self._model.classifier(self._model.pre_logits(tokens[:, 0]))
            yield from self._by(logits[0, label], [name])

    def _by(self, output: torch.Tensor, names: Sequence[str]) -> list[Array]:
        # The graph is kept for other labels; it goes with the pass.
        found = torch.autograd.grad(output, [self._found[name] for name in names], retain_graph=True)
        return [_numbers(gradient) for gradient in found]

    def _as_map(self, values: Array) -> Array:
        return values if values.ndim == 3 else values[1:].T.reshape(-1, *self.grid)


@contextmanager
def through(
    model: ViTHybridForImageClassification, pixels: Array, names: Sequence[str], gradients: bool = False
) -> Iterator[Pass]:
    """A pass of one picture through the model.

    Args:
        model: The classifier, which is as it was afterwards.
        pixels: The preprocessed picture (C, H, W), of any size.
        names: What will be asked for beside the logits: see `ViTHybridModel.forward_features`.
        gradients: Whether gradients will be.

    Raises:
        ValueError: If the picture does not fit the model, or the model merges tokens.
    """
    if not isinstance(model.vit.encoder, ViTHybridEncoder):
        raise ValueError(
            "this model merges tokens, whose attention is then no longer of places in the picture; explain the model "
            "without token_merging."
        )
    with _evaluating(model), torch.set_grad_enabled(gradients):
        values = torch.tensor(pixels[None], device=model.device, dtype=model.dtype)
        # With a gradient by the pixels there is a graph also where all weights are frozen.
        yield Pass(model, values.requires_grad_(gradients), names)


def logits_of(model: ViTHybridForImageClassification, batch: Array) -> Array:
    """(N, labels) of preprocessed pictures (N, C, H, W), float32."""
    with _evaluating(model), torch.no_grad():
        values = torch.tensor(batch, device=model.device, dtype=model.dtype)
        return model(values, interpolate_pos_encoding=True).logits.float().cpu().numpy()


def attention_names(model: ViTHybridForImageClassification) -> list[str]:
    """What `forward_features` calls the attention weights of the layers, in order."""
    return [f"attention{number}" for number in range(1, model.config.num_hidden_layers + 1)]


@contextmanager
def _evaluating(model: ViTHybridForImageClassification) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    # Not by `eval` and `train`, since a folded model refuses the latter, and some modules may be in another mode.
    for module in training:
        module.training = False
    try:
        with torch.inference_mode(False):
            yield
    finally:
        for module in training:
            module.training = True


def _numbers(tensor: torch.Tensor) -> Array:
    values = tensor.detach()[0]
    return np.asarray((values.float() if values.itemsize < 4 else values).cpu().numpy())  # NumPy has no bfloat16


__all__ = ["LOGITS", "Pass", "attention_names", "logits_of", "through"]

"""One picture through a model and back: what it computes on its way, and gradients of its outputs by these.

Nothing is hooked: everything comes in one graph, attention weights by the eager function whatever the model uses
otherwise. It runs in evaluation mode, and is as before when the pass is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ..model.geometry import as_pair, feature_names
from .attention import Array
from .hybrid import LOGITS, Explainable, Hybrid, as_hybrid


class Pass:
    """What a model computes of one picture; `through` makes it.

    Attributes:
        grid: (rows, columns) of the tokens.
    """

    def __init__(self, hybrid: Hybrid, pixels: torch.Tensor, names: Sequence[str]) -> None:
        self._hybrid = hybrid
        last_map = [name for name in feature_names(hybrid.config) if not name.startswith("layer")][-1]
        # One layer's weights asked for, all layers compute attention by the eager function.
        wanted = list(dict.fromkeys([*names, LOGITS, last_map, *attention_names(hybrid)[:1]]))
        self._found = hybrid.outputs(pixels, wanted)
        patch = as_pair(hybrid.config.patch_size)
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
        for number, name in enumerate(attention_names(self._hybrid), start=1):
            logits = self._hybrid.classified(self._found[f"layer{number}"])
            yield from self._by(logits[0, label], [name])

    def _by(self, output: torch.Tensor, names: Sequence[str]) -> list[Array]:
        # The graph is kept for other labels; it goes with the pass.
        found = torch.autograd.grad(output, [self._found[name] for name in names], retain_graph=True)
        return [_numbers(gradient) for gradient in found]

    def _as_map(self, values: Array) -> Array:
        return values if values.ndim == 3 else values[1:].T.reshape(-1, *self.grid)


@contextmanager
def through(model: Explainable, pixels: Array, names: Sequence[str], gradients: bool = False) -> Iterator[Pass]:
    """A pass of one picture through the model.

    Args:
        model: The classifier, which is as it was afterwards.
        pixels: The preprocessed picture (C, H, W), of any size.
        names: What will be asked for beside the logits: see `ViTHybridForImageClassification.forward_features`.
        gradients: Whether gradients will be.

    Raises:
        ValueError: If the picture does not fit the model, or the model merges tokens.
    """
    hybrid = as_hybrid(model)
    with hybrid.evaluating(), torch.inference_mode(False), torch.set_grad_enabled(gradients):
        values = torch.tensor(pixels[None], device=hybrid.device, dtype=hybrid.dtype)
        # With a gradient by the pixels there is a graph also where all weights are frozen.
        yield Pass(hybrid, values.requires_grad_(gradients), names)


def logits_of(model: Explainable, batch: Array) -> Array:
    """(N, labels) of preprocessed pictures (N, C, H, W), float32."""
    hybrid = as_hybrid(model)
    with hybrid.evaluating(), torch.inference_mode(False), torch.no_grad():
        values = torch.tensor(batch, device=hybrid.device, dtype=hybrid.dtype)
        return hybrid.logits(values).float().cpu().numpy()


def attention_names(model: Explainable) -> list[str]:
    """What the attention weights of the layers are called, in order."""
    return [f"attention{number}" for number in range(1, model.config.num_hidden_layers + 1)]


def _numbers(tensor: torch.Tensor) -> Array:
    values = tensor.detach()[0]
    return np.asarray((values.float() if values.itemsize < 4 else values).cpu().numpy())  # NumPy has no bfloat16


__all__ = ["LOGITS", "Pass", "attention_names", "logits_of", "through"]

"""What raises an output: Grad-CAM, relevance and LeGrad, from values and gradients to maps. NumPy alone.

Shapes: H heads, T = 1 + rows * columns tokens, the class token's first; maps (C, h, w).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import argument
from .attention import Array


def grad_cam(values: Array, gradients: Array) -> Array:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391): the channels of a map, weighted by how much each raises the
    output on average over the map; what lowers it in all counts as zero.

    Args:
        values: A map of the model's, (C, h, w).
        gradients: Of the output by these, (C, h, w).

    Returns:
        (h, w), float64.
    """
    weights = np.asarray(gradients, np.float64).mean(axis=(1, 2))
    return np.maximum(np.tensordot(weights, np.asarray(values, np.float64), axes=1), 0.0)


def relevance(attentions: Iterable[Array], gradients: Iterable[Array]) -> Array:
    """How relevant each token is to an output by way of each other (Chefer et al., arXiv 2103.15679, equations 5, 6).

    Relevance begins as the identity; each layer adds to it its attention times the gradient of the output by that,
    where positive and on average over the heads, times the relevance so far.

    Args:
        attentions: The attention weights of the layers, in order, (H, T, T) each.
        gradients: Of the output by these, likewise.

    Returns:
        (T, T), float64; its first row is the class token's, which the classifier reads.

    Raises:
        ValueError: If there is no layer.
    """
    found: Array | None = None
    for attention, gradient in zip(attentions, gradients, strict=True):
        raised = np.asarray(gradient, np.float64) * np.asarray(attention, np.float64)
        layer = np.maximum(raised, 0.0).mean(axis=0)
        found = np.eye(len(layer)) if found is None else found
        found = found + layer @ found
    if found is None:
        raise ValueError("the encoder has no layers, so nothing of the picture comes into the class token.")
    return found


def legrad(gradients: Iterable[Array]) -> Array:
    """LeGrad (Bousselham et al., arXiv 2404.03214): gradients by attention alone, summed up over the layers.

    Args:
        gradients: For each layer, in order: of the output that the classifier would give of that layer's tokens, by the
            layer's attention weights, (H, T, T) each.

    Returns:
        (T,), float64: for each token what raises the output, the mean over heads and rows, and over layers.

    Raises:
        ValueError: If there is no layer.
    """
    found = [np.maximum(np.asarray(gradient, np.float64), 0.0).mean(axis=(0, 1)) for gradient in gradients]
    if not found:
        raise ValueError("the encoder has no layers, so nothing of the picture comes into the class token.")
    return np.mean(found, axis=0)


def check_layer(layer: str, names: Sequence[str]) -> None:
    """Whether the gradient by that layer's map can be anything but zero.

    Args:
        layer: One of `names`.
        names: All maps of the model, in order: `stem`, `stage1`, ..., `layer1`, ...

    Raises:
        ValueError: There is no such map, or its gradient is zero by structure; the message says why.
    """
    if layer not in names:
        raise ValueError(f"{argument('layer')} is {layer!r}; this model has {', '.join(names)}.")
    if layer == names[-1] and layer.startswith("layer"):
        raise ValueError(
            f"{argument('layer')} is {layer!r}, the last of the encoder, by whose map every gradient is zero by "
            "structure: behind it the classifier reads the class token alone, and nothing of the other tokens. Give "
            f"{names[-2]!r}, the one before."
        )


__all__ = ["check_layer", "grad_cam", "legrad", "relevance"]

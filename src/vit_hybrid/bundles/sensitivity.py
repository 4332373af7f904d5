"""Which layers' quantization costs most: one pass over a few pictures ranks them all.

A layer computed in eight bits is off by some error d. To first order the difference between the two best labels' logits
then moves by g d, where g is how that difference depends on the layer's output. One forward pass gives every layer's
error by itself, computed from its exact input, and one backward pass gives g of all layers at once. So a layer's error
counts as much as it reaches the decision, and errors in opposite directions cancel as they do in the model. Pictures
that the model is sure of are not decided otherwise by a small error: close decisions count most.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..model.modeling import ViTHybridForImageClassification

# A picture counts half when the difference between its two best logits is this share of the median one.
CLOSE = 0.25
# Activations are quantized to unsigned or signed eight bits over their range, weights symmetrically to 127 a side.
LEVELS, WEIGHT_LEVELS = 255, 127
# SmoothQuant's strength, the one NNCF has for matrix products (Xiao et al., arXiv 2211.10438, equation 4).
SMOOTHING = 0.95
TINY = 1e-8


@dataclass(frozen=True)
class LayerError:
    """What quantizing one layer does to the logits.

    Attributes:
        name: The layer's module.
        kind: "convolution" or "linear".
        index: The how manieth of its kind it is in the order of computation, from 0.
        error: The mean square by which its quantization alone moves the difference between the two best logits.
        share: Its share of the arithmetic of all convolutions and linear layers.
    """

    name: str
    kind: str
    index: int
    error: float
    share: float


def rank_layers(
    model: ViTHybridForImageClassification, pixel_values: np.ndarray, time_limit: float
) -> tuple[list[LayerError], int]:
    """Convolutions and linear layers, the one whose quantization costs most first, and how many pictures said so.

    Args:
        model: A folded model in float32 on the CPU; nothing of it is changed.
        pixel_values: Pictures, (N, C, H, W), float32; as many are used as the time allows, at least one.
        time_limit: Seconds.
    """
    deadline = time.monotonic() + time_limit
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    calls: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: calls.append((module, inputs[0].detach(), output)))
        for module in names
    ]
    moved: list[list[float]] = []  # for each picture, by each layer
    margins: list[float] = []
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        for picture in pixel_values:
            calls.clear()
            pixels = torch.from_numpy(np.ascontiguousarray(picture[None])).requires_grad_()
            with torch.enable_grad():
                margin = _margin(model(pixels).logits[0])
                slopes = torch.autograd.grad(margin, [output for _, _, output in calls])
            with torch.no_grad():
                moved.append(
                    [
                        float((slope * (_quantized(module, inputs) - output)).sum())
                        for (module, inputs, output), slope in zip(calls, slopes, strict=True)
                    ]
                )
            margins.append(abs(margin.item()))
            if time.monotonic() > deadline:
                break
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)
    scale = max(CLOSE * float(np.median(margins)), TINY)
    weights = 1 / (1 + (np.array(margins) / scale) ** 2)
    errors = (weights[:, None] * np.array(moved) ** 2).sum(0) / weights.sum()
    work = [output[0].numel() * _weight(module)[0].numel() for module, _, output in calls]
    seen = {"convolution": 0, "linear": 0}
    found = []
    for (module, _, _), error, cost in zip(calls, errors, work, strict=True):
        kind = "convolution" if isinstance(module, nn.Conv2d) else "linear"
        found.append(LayerError(names[module], kind, seen[kind], float(error), cost / sum(work)))
        seen[kind] += 1
    return sorted(found, key=lambda layer: -layer.error), len(margins)


def _margin(logits: torch.Tensor) -> torch.Tensor:
    """By how much the best label leads; of a single output, the output."""
    if len(logits) == 1:
        return logits[0]
    first, second = logits.topk(2).values
    return first - second


def choose(ranking: list[LayerError], budget: float, enough: float) -> list[LayerError]:
    """The layers to leave out of quantization: those that cost most for their arithmetic.

    Args:
        ranking: All layers.
        budget: The share of the arithmetic that may stay unquantized, 0 to 1.
        enough: The share of the summed error after which it is not worth more.
    """
    total = sum(layer.error for layer in ranking)
    chosen: list[LayerError] = []
    spent = removed = 0.0
    for layer in sorted(ranking, key=lambda layer: -layer.error / max(layer.share, TINY)):
        if removed >= enough * total:
            break
        if spent + layer.share <= budget:
            chosen.append(layer)
            spent += layer.share
            removed += layer.error
    return chosen


def _weight(module: Any) -> torch.Tensor:
    folded = getattr(module, "folded_weight", None)
    return module.weight if folded is None else folded


def _quantized(module: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The layer's output with its input in eight bits as a whole and its weights in eight bits an output channel."""
    weight = _weight(module)
    if isinstance(module, nn.Linear):
        rows = inputs.reshape(-1, inputs.shape[-1])
        largest = rows.abs().amax(0).clamp(min=TINY)
        scale = largest**SMOOTHING / weight.abs().amax(0).clamp(min=TINY) ** (1 - SMOOTHING)
        rounded = _in_8_bits(rows / scale).reshape(inputs.shape)
        return nn.functional.linear(rounded, _weight_in_8_bits(weight * scale), module.bias)
    original = module.weight, getattr(module, "folded_weight", None)
    try:  # the layer's own forward, which knows its padding
        if original[1] is None:
            module.weight = nn.Parameter(_weight_in_8_bits(weight), requires_grad=False)
        else:
            module.folded_weight = _weight_in_8_bits(weight)
        return type(module).forward(module, _in_8_bits(inputs))
    finally:
        module.weight = original[0]
        if original[1] is not None:
            module.folded_weight = original[1]


def _in_8_bits(values: torch.Tensor) -> torch.Tensor:
    low, high = values.min().clamp(max=0), values.max().clamp(min=0)
    step = ((high - low) / LEVELS).clamp(min=TINY)
    return ((values - low) / step).round() * step + low


def _weight_in_8_bits(weight: torch.Tensor) -> torch.Tensor:
    step = (weight.abs().flatten(1).amax(1) / WEIGHT_LEVELS).clamp(min=TINY)
    step = step.view(-1, *[1] * (weight.ndim - 1))
    return (weight / step).round() * step


__all__ = ["LayerError", "choose", "rank_layers"]

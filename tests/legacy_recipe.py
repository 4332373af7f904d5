"""The recipe behind `tests/recorded/legacy`: how weights, pixels and labels are made, and what is kept of a run.

The recording script (under transformers 4.49) and the test (under transformers 5) both import this file, so it needs
NumPy and torch only, and it asks a model for nothing that the old classes did not have. Nothing but outputs has to be
stored: every input follows from a name and a shape through NumPy's frozen legacy generator.
"""

import hashlib
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

BASE_PREFIX = "vit."  # ViTHybridForImageClassification holds the bare model under this name
NORM_SPREAD = 0.1  # how far norm scales and biases stand from their neutral values, so that each of them matters
TOKEN_SCALE = 0.5  # class, mask and position embeddings: large enough to change every output
PROJECTIONS = 2  # random directions along which every gradient is measured, beside its norm
FULL_GRADIENTS = (  # the ends of the chain, kept whole where they are small
    "vit.embeddings.cls_token",
    "vit.embeddings.patch_embeddings.projection.bias",
    "vit.layernorm.weight",
    "classifier.weight",
)
FULL_GRADIENT_LIMIT = 500  # numbers; a larger gradient is kept as its norm and projections only


@lru_cache(maxsize=256)  # the same model is filled several times in a row
def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float64 numbers of `shape` that depend on nothing but `name` and `shape`."""
    return np.asarray(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape))


def signs(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random entries of 1 and -1, int8, that depend on nothing but `name` and `shape`."""
    return 2 * np.random.RandomState(zlib.crc32(name.encode())).randint(0, 2, shape, dtype=np.int8) - 1


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of the parameter `key`, the same in the bare model and under a classifier."""
    values = normal(key.removeprefix(BASE_PREFIX), shape)
    if key.endswith("bias"):
        return NORM_SPREAD * values
    if key.endswith(".weight") and len(shape) == 1:  # the scale of a norm
        return 1.0 + NORM_SPREAD * values
    if key.endswith(".weight"):
        return values / np.sqrt(np.prod(shape[1:]))
    return TOKEN_SCALE * values


def fill(model: nn.Module) -> nn.Module:
    """Overwrite every tensor of `model`'s state dict by the recipe, in its own dtype; return the model in eval mode."""
    model.load_state_dict({key: torch.from_numpy(weight(key, tuple(t.shape))) for key, t in model.state_dict().items()})
    return model.eval()


def layout(model: nn.Module) -> str:
    """SHA-256 over the sorted names and shapes of `model`'s state dict: equal layouts read each other's files."""
    lines = sorted(f"{key} {tuple(tensor.shape)}" for key, tensor in model.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def pixels(case: Mapping[str, Any]) -> np.ndarray:
    """Pixel values (batch, channels, height, width) of a recorded case."""
    size = case["config"]["image_size"]
    height, width = size if isinstance(size, list) else (size, size)
    return normal(f"{case['name']}.pixels", (case["batch"], case["config"].get("num_channels", 3), height, width))


def labels(case: Mapping[str, Any], num_labels: int, dtype: torch.dtype) -> torch.Tensor:
    """Labels of the kind the case names: "index" (batch,), "indicator" or "value" (batch, num_labels) in `dtype`."""
    numbers = normal(f"{case['name']}.labels", (case["batch"], num_labels))
    if case["labels"] == "index":
        return torch.from_numpy(numbers.argmax(axis=1))
    if case["labels"] == "indicator":
        return torch.from_numpy(numbers > 0).to(dtype)
    if case["labels"] == "value":
        return torch.from_numpy(numbers).to(dtype)
    raise ValueError(f"case {case['name']!r} has labels {case['labels']!r}; expected index, indicator or value")


def masked_positions(case: Mapping[str, Any], num_patches: int) -> torch.Tensor:
    """Boolean mask (batch, num_patches) with both values in every row."""
    numbers = normal(f"{case['name']}.mask", (case["batch"], num_patches))
    return torch.from_numpy(numbers > np.median(numbers, axis=1, keepdims=True))


def options(case: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments of `forward` that both classes take in this case."""
    chosen: dict[str, Any] = {"pixel_values": torch.tensor(pixels(case), dtype=dtype)}
    if case.get("head_mask") is not None:
        chosen["head_mask"] = torch.tensor(case["head_mask"], dtype=dtype)
    if case.get("interpolate_pos_encoding"):
        chosen["interpolate_pos_encoding"] = True
    return chosen


def observe_base(model: nn.Module, case: Mapping[str, Any], output_attentions: bool = True) -> dict[str, torch.Tensor]:
    """Everything a bare `ViTHybridModel` returns for this case, one flat dict of tensors."""
    parameter = next(model.parameters())
    arguments = options(case, parameter.dtype)
    if case.get("use_mask_token"):
        num_patches = model.embeddings.position_embeddings.shape[1] - 1
        arguments["bool_masked_pos"] = masked_positions(case, num_patches)
    with torch.no_grad():
        outputs = model(**arguments, output_hidden_states=True, output_attentions=output_attentions)
    seen = {"last_hidden_state": outputs.last_hidden_state}
    if outputs.pooler_output is not None:
        seen["pooler_output"] = outputs.pooler_output
    seen |= {f"hidden_states.{i}": t for i, t in enumerate(outputs.hidden_states)}
    if output_attentions:
        seen |= {f"attentions.{i}": t for i, t in enumerate(outputs.attentions)}
    return seen


def observe_classifier(model: nn.Module, case: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Logits, loss, and what is kept of the loss's gradients, in the order of the sorted parameter names.

    `gradient_norms` has shape (parameters,) and `gradient_projections` (parameters, PROJECTIONS); a parameter that
    the loss does not reach counts as zero.
    """
    parameters = dict(sorted(model.named_parameters()))
    dtype = next(iter(parameters.values())).dtype
    arguments = options(case, dtype)
    if case["labels"] is None:
        with torch.no_grad():
            return {"logits": model(**arguments).logits}
    model.zero_grad(set_to_none=True)
    outputs = model(**arguments, labels=labels(case, model.num_labels, dtype))
    outputs.loss.backward()
    seen = {"logits": outputs.logits.detach(), "loss": outputs.loss.detach()}
    norms, projections = [], []
    for name, parameter in parameters.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        directions = torch.from_numpy(signs(name, (PROJECTIONS, gradient.numel()))).to(dtype)
        norms.append(gradient.norm())
        projections.append(directions @ gradient.flatten())
        if name in FULL_GRADIENTS and gradient.numel() <= FULL_GRADIENT_LIMIT:
            seen[f"gradients.{name}"] = gradient.clone()
    return seen | {"gradient_norms": torch.stack(norms), "gradient_projections": torch.stack(projections)}

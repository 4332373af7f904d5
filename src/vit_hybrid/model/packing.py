"""Linear layers with their weights as oneDNN lays them out for its products, for inference on a CPU in bfloat16.

PyTorch's own product lays a weight out anew each time it comes by, which for wide layers takes a third of their time on
processors with AMX (docs/measured.md, "PyTorch's choices"); GELU then comes in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.activations import GELUActivation

# What `torch.compile` takes for such layers, too.
_OPERATIONS = ("_reorder_linear_weight", "_linear_pointwise")
PLAIN, GELU = "none", "gelu"


class Packed:
    """A product with a weight that is laid out once, and anew where the weight has changed (as autograd counts changes:
    not through `.data`).

    Args:
        activation: What comes behind it: `PLAIN`, or `GELU` for the exact one.
    """

    def __init__(self, activation: str = PLAIN) -> None:
        self.activation = activation
        self._of: tuple[object, ...] = ()
        self._weight: torch.Tensor | None = None

    def __deepcopy__(self, memo: Any) -> Packed:
        return Packed(self.activation)  # which lays out the copy's weight

    def __getstate__(self) -> dict[str, Any]:
        return {"activation": self.activation, "_of": (), "_weight": None}

    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, made_of: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        """(..., D) by a weight (M, D), which may share its memory with the tensors that it is made of: (..., M)."""
        of = (weight.data_ptr(), weight.shape, weight.dtype, *(_changes(one) for one in (weight, *made_of)))
        if of != self._of:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), x.shape[:-1].numel())
            self._of = of
        how = PLAIN if self.activation == GELU else ""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, bias, self.activation, [], how)
        return product


def _changes(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def takes(x: torch.Tensor) -> bool:
    """Whether `Packed` computes with it: on a CPU, in bfloat16, and nobody asks for gradients."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.is_grad_enabled()


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a product and no more: no adapter, and nobody looks at what comes of it."""
    return type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks


def is_exact_gelu(activation: Callable[..., Any]) -> bool:
    return type(activation) is GELUActivation and getattr(activation, "act", None) is nn.functional.gelu


def is_available() -> bool:
    """Whether this PyTorch has what it takes."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS)


__all__ = ["GELU", "PLAIN", "Packed", "is_available", "is_exact_gelu", "is_plain", "takes"]

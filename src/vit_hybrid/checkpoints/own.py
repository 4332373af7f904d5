"""A PyTorch classifier from a folder or the hub, complete or refused, on a device that is there."""

from __future__ import annotations

import torch

from ..errors import one_line
from ..model.modeling import ViTHybridForImageClassification
from .files import ModelLoadError


def load_model(
    name: str, location: str, dtype: torch.dtype | str, num_labels: int | None = None
) -> ViTHybridForImageClassification:
    """The classifier at `location`, a folder or a hub id; one that lacks weights is refused with `ModelLoadError`.

    With `num_labels=0` it comes without its last layer, which then need not be in the file.
    """
    changes = {} if num_labels is None else {"num_labels": num_labels}
    try:
        model, report = ViTHybridForImageClassification.from_pretrained(
            location, dtype=dtype, output_loading_info=True, **changes
        )
    except Exception as error:  # foreign files fail in as many ways as they have readers
        raise ModelLoadError(f"{name}: cannot load the model: {one_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers draws these at random and goes on; predictions would then mean nothing.
        raise ModelLoadError(
            f"{name}: its weights lack {len(missing)} of the model's tensors ({missing[0]!r} is one), so it is no "
            "trained classifier; fine-tune it first or name another model."
        )
    return model


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device to run on: by default the accelerator that torch finds, else the CPU.

    Raises:
        ValueError: If it cannot be used here.
    """
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        usable = torch.device(device)
        torch.zeros(1, device=usable).cpu()
    except Exception as error:  # torch raises a different class for each way in which a device is not there
        raise ValueError(f"Device {str(device)!r} cannot be used here: {_first_sentence(error)} Try 'cpu'.") from error
    return usable


def usable_dtype(dtype: str | torch.dtype) -> torch.dtype | str:
    """A dtype that models compute in, or "auto" for the one that the weights were saved in.

    Raises:
        ValueError: If it is neither.
    """
    if dtype == "auto":
        return "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < torch.float16.itemsize:
        raise ValueError(f"dtype is {dtype!r}; expected 'float32', 'bfloat16', 'float16', 'float64' or 'auto'.")
    return found


def _first_sentence(error: BaseException) -> str:
    sentence = one_line(error).split(". ")[0].rstrip(".")
    return f"{sentence}."


__all__ = ["load_model", "usable_device", "usable_dtype"]

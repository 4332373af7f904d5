"""Devices and dtypes that can be used here. Loads torch only once it is asked of."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from ..errors import one_line
from ..runtimes import fewer_cores

if TYPE_CHECKING:
    import torch

# Where Linux has the drivers of accelerators that PyTorch knows.
ACCELERATOR_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dri/renderD128", "/dev/accel")


def has_accelerator() -> bool:
    """Whether torch finds an accelerator; it is asked only where there may be one, for to import it takes a second."""
    try:
        if metadata.version("torch").endswith("+cpu"):
            return False
    except metadata.PackageNotFoundError:
        return False
    if sys.platform == "linux" and not any(os.path.exists(path) for path in ACCELERATOR_FILES):
        return False
    import torch

    return torch.accelerator.is_available()


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device to run on: by default the accelerator that torch finds, else the CPU.

    Raises:
        ValueError: If it cannot be used here.
    """
    import torch

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
    import torch

    if dtype == "auto":
        return "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < torch.float16.itemsize:
        raise ValueError(f"dtype is {dtype!r}; expected 'float32', 'bfloat16', 'float16', 'float64' or 'auto'.")
    return found


def device_name(device: str | torch.device | None) -> str:
    """What the place calls itself where a model runs with this device: "cpu", or the accelerator's name.

    Raises:
        ValueError: If it cannot be used here.
    """
    if str(device) == "cpu" or (device is None and not has_accelerator()):
        return "cpu"
    import torch

    place = usable_device(device)
    return torch.cuda.get_device_name(place) if place.type == "cuda" else place.type


def take_threads(threads: int | None) -> None:
    """Has PyTorch compute with so many threads in this whole process; by default with its own number, but with no more
    than there are cores for it."""
    import torch

    most = fewer_cores() if threads is None else threads
    if most is not None and (threads is not None or torch.get_num_threads() > most):
        torch.set_num_threads(most)


def _first_sentence(error: BaseException) -> str:
    sentence = one_line(error).split(". ")[0].rstrip(".")
    return f"{sentence}."


__all__ = ["ACCELERATOR_FILES", "device_name", "has_accelerator", "take_threads", "usable_device", "usable_dtype"]

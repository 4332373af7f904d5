"""What every engine is: something that has a specification and turns pixel values into logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ..errors import EngineError
from ..images.preparing import Pixels
from ..images.preprocessing import Preprocessing

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Specification:
    """What a model takes and gives.

    Attributes:
        labels: The labels, in the order of the logits.
        problem_type: What the logits mean, as in a configuration.
        num_channels: Channels of the pictures.
        image_size: (height, width) in pixels.
        dynamic: Whether pictures of other sizes are taken too.
        preprocessing: What turns a picture into the model's input; None for a model given as an object.
    """

    labels: tuple[str, ...]
    problem_type: str
    num_channels: int
    image_size: tuple[int, int]
    dynamic: bool = False
    preprocessing: Preprocessing | None = None


@runtime_checkable
class Engine(Protocol):
    """A model, loaded for one runtime.

    Attributes:
        name: One of `runtimes.ENGINES`.
        precision: One of `runtimes.PRECISIONS`; "f64" where torch runs a model that is in it.
        device: Where it runs, as torch names devices.
        spec: What the model takes and gives.
    """

    name: str
    precision: str
    device: str
    spec: Specification

    def logits(self, pixel_values: Pixels) -> Array:
        """Raw outputs (N, labels), float32, of preprocessed pictures (N, C, H, W).

        Those are a NumPy array. The torch engine also takes a tensor, which may be on its device already.

        Raises:
            EngineError: If the pixel values have another shape, are no floating-point numbers, or are not finite.
        """
        ...


def checked(pixel_values: Any, spec: Specification) -> Array:
    """Pixel values as a contiguous array (N, C, H, W), float32.

    Raises:
        EngineError: If they have another shape, are no floating-point numbers, or are not finite.
    """
    if not isinstance(pixel_values, np.ndarray):
        raise EngineError(f"pixel_values is a {type(pixel_values).__name__}; expected a NumPy array (N, C, H, W).")
    height, width = spec.image_size
    size = ("height", "width") if spec.dynamic else (height, width)
    expected = f"(N, {spec.num_channels}, {size[0]}, {size[1]})"
    if pixel_values.ndim != 4 or pixel_values.shape[1] != spec.num_channels:
        raise EngineError(f"pixel_values has shape {pixel_values.shape}; expected {expected}.")
    if not spec.dynamic and pixel_values.shape[2:] != (height, width):
        raise EngineError(
            f"pixel_values has shape {pixel_values.shape}; expected {expected}. Resize the pictures, or export the "
            "model with dynamic height and width (--dynamic)."
        )
    if pixel_values.dtype.kind != "f":
        raise EngineError(
            f"pixel_values has dtype {pixel_values.dtype}; expected floating-point numbers, as preprocessing gives."
        )
    values = np.ascontiguousarray(pixel_values, np.float32)
    finite = np.isfinite(values).all((1, 2, 3))
    if not finite.all():
        raise EngineError(
            f"pixel_values has NaN or infinite values, in picture {int(finite.argmin()) + 1} of {len(values)}; "
            "look for the step that made them."
        )
    return values


__all__ = [
    "Array",
    "Engine",
    "Specification",
    "checked",
]

"""What every engine is: something that has a specification and turns pixel values into logits, features or both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ..errors import EngineError
from ..images.preparing import Pixels
from ..images.preprocessing import Preprocessing
from ..outputs.confidence import Confidence
from ..runtimes import BOTH, FEATURES, LOGITS, OUTPUTS, TOKEN
from .ways import Way

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Where they stand among what a converted program gives, whichever of them it has.
PLACES = {LOGITS: 0, TOKEN: 1, FEATURES: -1}

NO_LOGITS = (
    f"this engine was loaded with output={FEATURES!r} and computes no logits; load the model with output={LOGITS!r} or "
    f"{BOTH!r}."
)


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
        output: What `LoadedEngine.run` gives, of `runtimes.OUTPUTS`.
        feature_size: Numbers in a picture's features; None where nobody said.
        token_merging: Tokens that the encoder merges per layer, if any.
        confidence: What `vit-hybrid calibrate` fitted for the model, with what tells strangers where the class token is
            given; None where it fitted nothing.
    """

    labels: tuple[str, ...]
    problem_type: str
    num_channels: int
    image_size: tuple[int, int]
    dynamic: bool = False
    preprocessing: Preprocessing | None = None
    output: str = LOGITS
    feature_size: int | None = None
    token_merging: int | None = None
    confidence: Confidence | None = None


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


class Outputs(NamedTuple):
    """What an engine gives of N pictures, float32; None for what it was not loaded for.

    Attributes:
        logits: (N, labels), raw outputs.
        features: (N, D), what the classifier takes: the class token behind the last norm, and behind the dense layer
            and tanh of models that have these.
        token: (N, hidden_size), the class token before the last norm, which tells strangers; None for no pictures, too.
    """

    logits: Array | None = None
    features: Array | None = None
    token: Array | None = None


class LoadedEngine(ABC):
    """An engine as `load` gives it, which can give features too."""

    name: str
    precision: str
    device: str
    spec: Specification
    # How it runs, which `load` says; None of an engine that was made otherwise.
    way: Way | None = None

    def run(self, pixel_values: Pixels) -> Outputs:
        """What `spec.output` says, in one pass, of preprocessed pictures (N, C, H, W).

        Raises:
            EngineError: As `Engine.logits`.
        """
        return self._run(pixel_values, self._compute)

    def run_steadily(self, pixel_values: Pixels) -> Outputs:
        """As `run`, with rows that depend, to the last digit, on their own pictures and on how many there are: neither
        on the other pictures nor on the places in which they stand.

        Compiled models, and those on a GPU, promise no more than `run` does.
        """
        return self._run(pixel_values, self._compute_steadily)

    def logits(self, pixel_values: Pixels) -> Array:
        """See `Engine.logits`.

        Raises:
            EngineError: Also if it was loaded for features alone.
        """
        if LOGITS not in OUTPUTS[self.spec.output]:
            raise EngineError(NO_LOGITS)
        found = self.run(pixel_values).logits
        assert found is not None
        return found

    def expect(self, batch_size: int) -> None:  # noqa: B027 - most engines take any number alike
        """Gets ready for so many pictures at once, where that makes an engine faster. Others may come all the same."""

    def _run(self, pixel_values: Pixels, compute: Callable[[Any], Sequence[Array]]) -> Outputs:
        values = self._checked(pixel_values)
        names = OUTPUTS[self.spec.output]
        if not len(values):
            sizes = {LOGITS: len(self.spec.labels), FEATURES: self.spec.feature_size or 0}
            return Outputs(**{name: np.empty((0, sizes[name]), np.float32) for name in names if name in sizes})
        return Outputs(**dict(zip(names, compute(values), strict=True)))

    def _checked(self, pixel_values: Pixels) -> Pixels:
        return checked(pixel_values, self.spec)

    @abstractmethod
    def _compute(self, values: Any) -> Sequence[Array]:
        """Arrays of float32 that are the caller's own, in the order of `OUTPUTS[spec.output]`.

        Args:
            values: One picture or more, checked.
        """

    def _compute_steadily(self, values: Any) -> Sequence[Array]:
        """The same for `run_steadily`; kernels of OpenVINO and ONNX Runtime are steady by themselves."""
        return self._compute(values)


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
    with np.errstate(over="ignore"):  # what is beyond float32 is told below
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
    "LoadedEngine",
    "Outputs",
    "Specification",
    "checked",
]

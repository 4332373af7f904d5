"""An engine that is there at once, for tests of what surrounds a model: what it gives is the mean of each color."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vit_hybrid.engines import Specification
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.outputs.problems import SINGLE_LABEL

SIDE = 8
STEPS = Preprocessing(size=(SIDE, SIDE), crop_size=(SIDE, SIDE), image_mean=0.0, image_std=1.0)


class Given(NamedTuple):
    """What an engine gives."""

    logits: Any
    features: Any


class Colors:
    """Logits: the means of red, green and blue, not finite for a white picture. Features: these and one more."""

    name, precision, device = "torch", "f32", "cpu"

    def __init__(self, problem_type: str = SINGLE_LABEL, output: str = "logits") -> None:
        self.spec = Specification(("red", "green", "blue"), problem_type, 3, (SIDE, SIDE), preprocessing=STEPS)
        self.output = output
        self.sizes: list[int] = []

    def logits(self, pixel_values: Any) -> np.ndarray:
        return self.run(pixel_values).logits

    def run(self, pixel_values: Any) -> Given:
        self.sizes.append(len(pixel_values))
        means = pixel_values.mean((2, 3)).astype(np.float32)
        logits = 8 * means
        logits[means.min(1) == 1] = np.nan
        features = np.concatenate([means, means.max(1, keepdims=True)], 1)
        return Given(
            *(
                one if self.output in (name, "both") else None
                for name, one in (
                    ("logits", logits),
                    ("features", features),
                )
            )
        )


def opening(problem_type: str = SINGLE_LABEL, engines: list[Colors] | None = None) -> Any:
    """What takes the place of `Predictor.from_pretrained`.

    Args:
        problem_type: Of the engines.
        engines: Where to put those that are made.
    """

    def from_pretrained(name: str, batch_size: int = 16, output: str = "logits", **_: Any) -> Predictor:
        engine = Colors(problem_type, output)
        if engines is not None:
            engines.append(engine)
        return Predictor(engine, batch_size=batch_size)  # type: ignore[arg-type]

    return staticmethod(from_pretrained)

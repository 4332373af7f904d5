"""An engine that is there at once, for tests of what surrounds a model: what it gives is the mean of each color."""

from __future__ import annotations

from typing import Any

import numpy as np

from vit_hybrid.engines import LoadedEngine, Specification
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.outputs.problems import SINGLE_LABEL
from vit_hybrid.runtimes import OUTPUTS

SIDE = 8
STEPS = Preprocessing(size=(SIDE, SIDE), crop_size=(SIDE, SIDE), image_mean=0.0, image_std=1.0)


class Colors(LoadedEngine):
    """Logits: the means of red, green and blue, not finite for a white picture. Features: these and one more."""

    name, precision, device = "torch", "f32", "cpu"

    def __init__(self, problem_type: str = SINGLE_LABEL, output: str = "logits") -> None:
        self.spec = Specification(
            ("red", "green", "blue"), problem_type, 3, (SIDE, SIDE), preprocessing=STEPS, output=output
        )
        self.sizes: list[int] = []

    def _compute(self, values: Any) -> list[np.ndarray]:
        self.sizes.append(len(values))
        means = values.mean((2, 3)).astype(np.float32)
        logits = 8 * means
        logits[means.min(1) == 1, 1] = np.nan
        given = {"logits": logits, "features": np.concatenate([means, means.max(1, keepdims=True)], 1)}
        return [given[name] for name in OUTPUTS[self.spec.output]]


def opening(problem_type: str = SINGLE_LABEL, engines: list[Colors] | None = None) -> Any:
    """What takes the place of `Predictor.from_pretrained`.

    Args:
        problem_type: Of the engines.
        engines: Where to put those that are made.
    """

    def from_pretrained(
        name: str, batch_size: int = 16, output: str = "logits", fill_batches: bool = False, **_: Any
    ) -> Predictor:
        engine = Colors(problem_type, output)
        if engines is not None:
            engines.append(engine)
        return Predictor(engine, batch_size=batch_size, fill_batches=fill_batches)

    return staticmethod(from_pretrained)

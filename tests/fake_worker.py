"""A worker of the server with a model that is there at once, and does what a picture's color tells it.

Labels are "red", "green" and "blue", by how much of each a picture has. A picture that is all red makes the model raise
an error, one that is all green what writes the answers, one that is all blue ends the process; VIT_HYBRID_FAKE_SECONDS
is what a batch takes. Where VIT_HYBRID_FAKE_BROKEN names a file that is there, the model cannot be opened, and where
VIT_HYBRID_FAKE_WARNING does, a worker warns of something, and of something else that nobody is to hear. Vectors are a
picture's first pixel; with VIT_HYBRID_FAKE_OUTPUT=logits there are none. With VIT_HYBRID_FAKE_NO_TWIN nothing can be
explained.
"""

from __future__ import annotations

import io
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vit_hybrid.engines.protocol import Outputs, Specification
from vit_hybrid.errors import EngineWarning
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.inference.predictor import Predictor
from vit_hybrid.serve import worker
from vit_hybrid.serve.explaining import composed

LABELS = ("red", "green", "blue")
SIDE = 8
PROBLEM = os.environ.get("VIT_HYBRID_FAKE_PROBLEM", "single_label_classification")
OUTPUT = os.environ.get("VIT_HYBRID_FAKE_OUTPUT", "both")
MADE = int(os.environ.get("VIT_HYBRID_FAKE_SIDE", SIDE))  # by preprocessing, of whatever comes
PREPROCESSING = Preprocessing.from_dict(
    {"size": {"height": MADE, "width": MADE}, "do_center_crop": False, "do_normalize": False}
)


class Colors:
    """An engine."""

    name, precision, device = "fake", "f32", "cpu"
    spec = Specification(LABELS, PROBLEM, 3, (SIDE, SIDE), output=OUTPUT, feature_size=3)

    def run(self, pixel_values: Any) -> Outputs:
        return Outputs(self.logits(pixel_values), pixel_values[:, :, 0, 0])

    def logits(self, pixel_values: Any) -> np.ndarray:
        if pixel_values.any():  # black pictures warm it up
            time.sleep(float(os.environ.get("VIT_HYBRID_FAKE_SECONDS", "0")))
        amounts = pixel_values.mean((2, 3))
        for red, green, blue in amounts:
            if red > 0.9 and green < 0.1 and blue < 0.1:
                raise RuntimeError("/somewhere/red.py does not like red")
            if blue > 0.9 and red < 0.1 and green < 0.1:
                os._exit(7)
        return amounts.astype(np.float32)


class Running(worker.Running):
    """What fails in its answers where a picture is all green."""

    def _told(self, outputs: Outputs, pixels: Any, asked: Any) -> list[tuple[bool, bytes]]:
        if any(green > 0.9 and red < 0.1 and blue < 0.1 for red, green, blue in pixels.mean((2, 3))):
            raise LookupError("/somewhere/green.py does not like green")
        return super()._told(outputs, pixels, asked)


def opened(options: Mapping[str, Any], progress: Any) -> worker.Running:
    progress("opening /somewhere/secret/colors")
    broken = os.environ.get("VIT_HYBRID_FAKE_BROKEN")
    if broken and Path(broken).exists():
        raise ValueError(f"{broken}: no such model")
    predictor = Predictor(Colors(), PREPROCESSING, options["batch_size"])
    if os.path.exists(os.environ.get("VIT_HYBRID_FAKE_WARNING", "")):
        warnings.warn(EngineWarning("/somewhere/secret/colors: are pale"), stacklevel=1)
        warnings.warn("which is for programmers alone", stacklevel=1)
    return Running(predictor, options["coverage"], options["false_alarms"])


class Explaining:
    """What explains, with a map that is the same for all pictures but red and blue ones, which are as above."""

    def __init__(self) -> None:
        self.facts = worker.Facts(Specification(LABELS, PROBLEM, 1, (1, 1)), "torch", "f32", "cpu", 1, False)

    def warm_up(self) -> None:
        pass

    def computed(self, pixels: Any, asked: Any) -> Callable[[], list[tuple[bool, bytes]]]:
        answers = self._answers(asked)
        return lambda: answers

    def _answers(self, asked: Any) -> list[tuple[bool, bytes]]:
        [how] = asked
        with Image.open(io.BytesIO(how.source)) as picture:
            levels = np.asarray(picture.convert("RGB"))[0, 0] / 255
            Colors().logits(levels.astype(np.float32)[None, :, None, None])
            if how.format != "json":
                return [(True, composed(how.source, "in place of it"))]
            told = {
                "method": how.method,
                "size": {"height": picture.height, "width": picture.width},
                "seen": [0.0, 0.0, picture.width, picture.height],
                "layers": 2,
                "predictions": [{"label": "red", "probability": 1.0}],
                "maps": [
                    {"label": "red", "layer": how.layer, "head": how.head, "is_empty": False, "map": [[0.5, 1.0]]}
                ],
                "note": None,
            }
        return [(True, composed(json.dumps(told).encode()[1:-1], None))]


def opened_explaining(options: Mapping[str, Any], progress: Any) -> Explaining:
    broken = os.environ.get("VIT_HYBRID_FAKE_NO_TWIN")
    if broken:
        if broken == "ends":
            os._exit(9)
        raise ValueError(f"{options['name']}: there is no twin in /somewhere/secret/{broken}")
    return Explaining()


def main() -> None:
    worker.main(opened)


def explain() -> None:
    worker.main(opened_explaining)

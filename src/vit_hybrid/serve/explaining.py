"""The process that explains: pictures as they came in, maps out, of the model's PyTorch twin.

It is started when an explanation is first asked for, so that nobody has torch in memory who asks for none; and
gradients keep no batch of labels waiting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..engines.protocol import Specification
from ..errors import one_line
from ..explain.methods import DEFAULT_FUSION, DEFAULT_METHOD, GRAD_CAM
from ..images.reading import ImageReadError
from ..outputs.problems import DEFAULT_TOP_K, problem_type_of
from . import worker
from .batching import public_name
from .worker import Facts

if TYPE_CHECKING:
    from ..explain.explainer import Explainer
    from ..explain.explanation import Explanation

# What runs the twin, and what in.
TORCH = "torch"
F32 = "f32"
JSON_FORMAT, PNG_FORMAT, HEAT_FORMAT = FORMATS = ("json", "png", "heat")
MEDIA_TYPES = {JSON_FORMAT: "application/json", PNG_FORMAT: "image/png", HEAT_FORMAT: "image/png"}
# No side of a PNG is longer, in pixels.
LONGEST = 1024
NAME = "image 1"  # what errors call a picture
DIGITS = 6  # of the numbers of a map


@dataclass(frozen=True)
class How:
    """What is asked of a picture, in the words of `Explainer.explain`.

    Attributes:
        source: The picture's file.
        format: One of `FORMATS`: numbers, the map in colors over the picture, or in colors alone.
        place: In shared memory, which is not used.
    """

    source: bytes
    format: str = JSON_FORMAT
    method: str = DEFAULT_METHOD
    labels: tuple[str, ...] = ()
    layer: str | None = None
    head: int | None = None
    fusion: str = DEFAULT_FUSION
    discard: float = 0.0
    place: int = 0


class Explaining:
    """An explainer that answers one picture after the other.

    Args:
        explainer: Of the model's PyTorch twin.
        note: What is said of that where something else answers for labels.
        device: Where it runs.
    """

    def __init__(self, explainer: Explainer, note: str | None, device: str) -> None:
        self._explainer = explainer
        self._note = note
        config = explainer.hybrid.config
        # Pictures come as they are: of the memory that others come in, there is as little as there can be.
        spec = Specification(tuple(explainer.labels), problem_type_of(config), 1, (1, 1))
        self.facts = Facts(spec, TORCH, F32, device, max_batch=1, is_calibrated=False)

    def warm_up(self) -> None:
        """Explains a made-up picture."""
        from PIL import Image

        self._explainer.explain(Image.new("RGB", (64, 64)), GRAD_CAM)

    def computed(self, pixels: Any, asked: Sequence[How]) -> Callable[[], list[tuple[bool, bytes]]]:
        """What gives whether there is an answer, and that, as `composed`; or what is the matter."""
        answers = self._answers(asked)
        return lambda: answers

    def _answers(self, asked: Sequence[How]) -> list[tuple[bool, bytes]]:
        [how] = asked
        try:
            found = self._explainer.explain(
                how.source,
                how.method,
                how.labels or None,
                layer=how.layer,
                head=how.head,
                fusion=how.fusion,
                discard=how.discard,
                name=NAME,
            )
        except (ImageReadError, ValueError) as error:
            return [(False, one_line(error).encode())]
        layers = self._explainer.hybrid.config.num_hidden_layers
        return [(True, composed(drawn(found, how.format, self._note, layers), self._note))]


def drawn(found: Sequence[Explanation], format: str, note: str | None, layers: int) -> bytes:
    """Maps as what was asked for."""
    if format != JSON_FORMAT:
        from ..explain.explanation import heat_png, overlay_png

        return (heat_png if format == HEAT_FORMAT else overlay_png)(found[0], LONGEST)
    first = found[0]
    width, height = first.picture.size
    told = {
        "method": first.method,
        "size": {"height": height, "width": width},
        "seen": [round(float(edge), 2) for edge in first.view.corners()],
        "layers": layers,
        "predictions": first.predictions[:DEFAULT_TOP_K],
        "maps": [
            {
                "label": one.label,
                "layer": one.layer,
                "head": one.head,
                "is_empty": one.is_empty,
                "map": [[float(f"{value:.{DIGITS}g}") for value in row] for row in one.map.tolist()],
            }
            for one in found
        ],
        "note": note,
    }
    return json.dumps(told, allow_nan=False).encode()[1:-1]  # the members of the object


def composed(content: bytes, note: str | None) -> bytes:
    """An answer and what is said beside it, as one."""
    return json.dumps(note).encode() + b"\n" + content


def taken_apart(answer: bytes) -> tuple[bytes, str | None]:
    """What `composed` put together."""
    note, _, content = answer.partition(b"\n")
    return content, json.loads(note)


def opened(options: Mapping[str, Any], progress: Any = None) -> Explaining:
    """The twin of the model that `worker.opened` opens with these options; `runs` says what runs that one: engine and
    precision.

    Raises:
        ModelLoadError: There is none.
    """
    os.environ["OMP_NUM_THREADS"] = str(options["threads"])  # which torch reads when it is loaded, not before
    from ..explain.explainer import Explainer
    from ..explain.twins import Twin

    device = options.get("device")
    asked = {"max_pixels": options.get("max_pixels"), "confidence": options.get("confidence", True)}
    explainer = Explainer.from_pretrained(options["name"], device, **asked)
    engine, precision = options["runs"]
    twin = explainer.twin
    if twin is None and (engine, precision) != (TORCH, F32):
        twin = Twin(str(options["name"]), precision, engine)
    note = None if twin is None else str(replace(twin, model=public_name(twin.model)))
    return Explaining(explainer, note, str(explainer.hybrid.device))


def main() -> None:
    """Explains, until the server goes: see `worker.main`."""
    worker.main(opened)


__all__ = ["FORMATS", "NAME", "Explaining", "How", "composed", "main", "opened", "taken_apart"]

"""Pictures in, vectors out: what a model's classifier takes of each picture, and the nearest of these vectors."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, final

import numpy as np

from .. import engines
from ..assets import BUILT_IN_MODEL
from ..engines.protocol import LoadedEngine
from ..errors import EngineError
from ..images.preparing import preparing
from ..images.preprocessing import Preprocessing
from ..outputs.ranking import ErrorRecord
from ..runtimes import AUTO, BOTH, DEFAULT_BATCH_SIZE, FEATURES, OUTPUTS
from .streaming import Source, Streaming, said_or_published

if TYPE_CHECKING:
    import torch

    from ..bundles.calibration import CalibrationSource
    from ..model.modeling import ViTHybridForImageClassification

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018: the temperature; and the
# number that the authors of DINO (Caron et al., 2021) found best throughout.
NEIGHBOR_TEMPERATURE = 0.07
DEFAULT_NEIGHBORS = 20
# Pictures whose similarities to all training pictures are held at once.
NEIGHBOR_ROWS = 1024


class Skipped(TypedDict):
    """A picture that gave no features, and one line that names it and says why."""

    path: str
    error: str


@dataclass(frozen=True)
class Features:
    """What a frozen model makes of labeled pictures.

    Attributes:
        values: (N, D), float32: what the classifier takes.
        targets: (N,), whole numbers: indices of classes.
        skipped: The pictures that are not among them.
    """

    values: Array
    targets: Array
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)


@final
class FeatureRecord(TypedDict):
    """What became of one picture: what the classifier takes, (D,) float32."""

    path: str
    features: Array


class Extractor:
    """Pictures in, vectors out: what a model's classifier takes of each, on any engine, batching inside.

    Args:
        model: An engine that was loaded with `output="features"` or "both"; or any hybrid, which the torch engine runs
            as it is, and others convert without its classifier.
        preprocessing: What turns a picture into the model's input; an engine's own by default.
        batch_size: How many pictures go through the model at once.
        engine: What computes the features of a model: see `vit_hybrid.engines.load`.
        precision: What it computes them in.
        calibration: For int8, as `vit_hybrid.engines.load` takes it.
        max_pixels: As `Predictor` takes it.
        fast_decode: As `Predictor` takes it.
        fill_batches: As `Predictor` takes it: whether a picture's features depend on it alone, to the last digit.

    Attributes:
        engine: What runs the model.
        streaming: What runs it over pictures.

    Raises:
        EngineError: If the engine was loaded for logits alone; and as `vit_hybrid.engines.load`.
        ValueError: If there is no preprocessing, or `batch_size` is not positive.

    Example:

    ```python
    >>> from vit_hybrid.inference.features import Extractor

    >>> extractor = Extractor.from_pretrained("vit-hybrid-tiny-imagenet")
    >>> extractor(["examples/cat.jpg", "examples/cat.jpg"]).shape
    (2, 256)
    >>> next(extractor.stream(["examples/cat.jpg"]))["features"].dtype
    dtype('float32')
    ```
    """

    def __init__(
        self,
        model: ViTHybridForImageClassification | LoadedEngine,
        preprocessing: Preprocessing | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        engine: str = "torch",
        precision: str = AUTO,
        calibration: CalibrationSource = None,
        max_pixels: int | None = None,
        fast_decode: bool = False,
        fill_batches: bool = False,
    ) -> None:
        if not isinstance(model, LoadedEngine):
            if engine == "torch" and precision not in (AUTO, "f32"):
                model = copy.deepcopy(model)  # which the engine puts into another precision
            model = engines.load(
                model,
                engine=engine,
                precision=precision,
                calibration=calibration,
                output=FEATURES,
                max_pixels=max_pixels,
                preprocessing=preprocessing,
            )
        if FEATURES not in OUTPUTS[model.spec.output]:
            raise EngineError(
                f"this engine was loaded with output={model.spec.output!r} and gives no features; load the model with "
                f"output={FEATURES!r} or {BOTH!r}."
            )
        preprocessing = preprocessing or model.spec.preprocessing
        if preprocessing is None:
            raise ValueError("There is no preprocessing: give what turns pictures into the model's input.")
        self.engine = model
        device = model.device if model.name == "torch" else "cpu"
        how = preparing(preprocessing, fast_decode, device, max_pixels)
        self.streaming = Streaming(model, how, batch_size, fill_batches)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = BUILT_IN_MODEL,
        device: str | torch.device | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        engine: str = AUTO,
        precision: str = AUTO,
        max_pixels: int | None = None,
        fast_decode: bool = False,
        fill_batches: bool = False,
        **options: Any,
    ) -> Extractor:
        """Loads a model with its preprocessing; it need not have a classifier.

        Args:
            name: As `Predictor.from_pretrained` takes it; a bundle has to give features.
            device: Where to run, by default the accelerator that torch finds, else the CPU.
            batch_size: See the class.
            engine: "torch", "openvino" or "onnx"; "auto" is openvino on a CPU where it is installed, else torch.
            precision: "f32", "bf16", "f16" or "int8"; "auto" is a bundle's own, else f32.
            max_pixels: See the class; of calibration pictures, too.
            fast_decode: See the class.
            fill_batches: See the class.
            options: What `vit_hybrid.engines.load` takes besides, such as `threads` and `token_merging`.

        Raises:
            ModelLoadError: If there is no such model or it cannot be used.
            ValueError: If another argument cannot be used, or the engine is not installed.
        """
        name = os.path.expanduser(os.fspath(name))
        options = {"output": FEATURES, "batch_size": batch_size, **options, "max_pixels": max_pixels}
        loaded = engines.load(name, engine, precision, device=device, **options)
        return cls(
            loaded,
            said_or_published(name, loaded.spec),
            batch_size,
            max_pixels=max_pixels,
            fast_decode=fast_decode,
            fill_batches=fill_batches,
        )

    def __call__(self, images: Any) -> Array:
        """The features of images, (N, D) float32; a single image gives N = 1.

        Args:
            images: One image, or a sequence of them, as `Predictor` takes them.

        Raises:
            ImageReadError: If an image cannot be read.
            ValueError: If an array has the wrong shape.
        """
        found = [outputs.features for outputs in self.streaming.batches(images) if outputs.features is not None]
        return np.concatenate(found) if found else np.empty((0, self.engine.spec.feature_size or 0), np.float32)

    def stream(
        self, sources: Iterable[Source], read_ahead: bool | None = None
    ) -> Iterator[FeatureRecord | ErrorRecord]:
        """The features of each picture, in their order, as soon as its batch is through; they need not be finite.

        Args:
            sources: As `Streaming.stream` takes them.
            read_ahead: Likewise.
        """
        for record in self.streaming.stream_outputs(sources, read_ahead):
            yield record if "error" in record else FeatureRecord(path=record["path"], features=record["features"])


def nearest_neighbors(train: Features, features: Array, num_classes: int, neighbors: int) -> Array:
    """Votes (N, K) for each class by the most similar training pictures, weighted by exp(cosine / 0.07).

    Args:
        train: The training pictures.
        features: (N, D) of the pictures to vote on.
        num_classes: K.
        neighbors: How many pictures vote; all of them where there are fewer.
    """
    known, asked = _unit_rows(train.values), _unit_rows(features)
    number = min(neighbors, len(train))
    votes = np.zeros((len(asked), num_classes))
    for start in range(0, len(asked), NEIGHBOR_ROWS):
        similarity = asked[start : start + NEIGHBOR_ROWS] @ known.T
        nearest = np.argpartition(-similarity, number - 1, axis=1)[:, :number]
        weights = np.exp((np.take_along_axis(similarity, nearest, 1) - 1) / NEIGHBOR_TEMPERATURE)
        rows = np.arange(start, start + len(similarity))[:, None]
        np.add.at(votes, (rows, train.targets[nearest]), weights)
    return votes


def _unit_rows(features: Array) -> Array:
    rows = np.asarray(features, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)


__all__ = [
    "DEFAULT_NEIGHBORS",
    "Extractor",
    "FeatureRecord",
    "Features",
    "Skipped",
    "nearest_neighbors",
]

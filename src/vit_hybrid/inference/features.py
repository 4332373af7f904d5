"""Pictures in, vectors out: what a model's classifier takes of each picture, and the nearest of these vectors."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, final

import numpy as np

from .. import engines
from ..images.preparing import preparing
from ..images.preprocessing import Preprocessing
from ..outputs.ranking import ErrorRecord
from ..runtimes import AUTO, DEFAULT_BATCH_SIZE
from .streaming import Source, Streaming

if TYPE_CHECKING:
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
    """A classifier with the classifier taken off: pictures in, vectors out.

    Args:
        model: Any hybrid, whose modules are shared where the torch engine runs it as it is.
        preprocessing: What turns a picture into its input.
        batch_size: How many pictures go through the model at once.
        engine: What computes the features: see `vit_hybrid.engines.load`.
        precision: What it computes them in.
        calibration: For int8, as `vit_hybrid.engines.load` takes it.
        max_pixels: As `Predictor` takes it.

    Raises:
        EngineError: As `vit_hybrid.engines.load`.
    """

    def __init__(
        self,
        model: ViTHybridForImageClassification,
        preprocessing: Preprocessing,
        batch_size: int = DEFAULT_BATCH_SIZE,
        engine: str = "torch",
        precision: str = AUTO,
        calibration: CalibrationSource = None,
        max_pixels: int | None = None,
    ) -> None:
        as_it_is = engine == "torch" and precision in (AUTO, "f32")
        headless = copy.copy(model) if as_it_is else copy.deepcopy(model)
        if as_it_is:  # the classifier and the number of labels are its own, all else is the model's
            headless._modules = dict(model._modules)
            headless.config = copy.deepcopy(model.config)
        headless.reset_classifier(0)
        loaded = engines.load(
            headless,
            engine=engine,
            precision=precision,
            calibration=calibration,
            max_pixels=max_pixels,
            preprocessing=preprocessing,
        )
        self.streaming = Streaming(loaded, preparing(preprocessing, max_pixels=max_pixels), batch_size)

    def stream(
        self, sources: Iterable[Source], read_ahead: bool | None = None
    ) -> Iterator[FeatureRecord | ErrorRecord]:
        """The features of each picture, in their order, as soon as its batch is through; they need not be finite.

        Args:
            sources: As `Streaming.stream` takes them.
            read_ahead: Likewise.
        """
        for record in self.streaming.stream(sources, read_ahead):
            yield FeatureRecord(path=record["path"], features=record["logits"]) if "logits" in record else record


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

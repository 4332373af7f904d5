"""A pretrained hybrid whose weights are frozen, and what it makes of labeled pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from .. import engines
from ..assets import BUILT_IN_MODEL
from ..checkpoints import opening
from ..data.pictures import PictureSources
from ..engines.devices import usable_device
from ..engines.protocol import LoadedEngine
from ..engines.ways import chosen
from ..images.image_processing import ViTHybridImageProcessor
from ..images.preprocessing import Preprocessing
from ..inference.features import Extractor, Features, Skipped
from ..inference.predictor import Predictor
from ..model.modeling import ViTHybridForImageClassification
from ..outputs.problems import SINGLE_LABEL
from ..runtimes import AUTO, DEFAULT_BATCH_SIZE, FEATURES

if TYPE_CHECKING:
    from ..bundles.calibration import CalibrationSource
    from ..data import LabeledPictures

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Progress: TypeAlias = Callable[[int, int], None]


class ProbeError(ValueError):
    """What cannot be probed or written; the message is one line that says why and what to do."""


class FrozenModel:
    """A pretrained hybrid with the classifier taken off and one for `labels`, all zero, in its place.

    Args:
        model: Any hybrid; its classifier, if it has one, is of no account.
        processor: Its image processor.
        labels: The names of the new classes, two or more.
        batch_size: How many images go through the model at once.
        engine: What computes the features: see `vit_hybrid.engines.load`.
        precision: What it computes them in.
        calibration: For int8, as `vit_hybrid.engines.load` takes it.
        max_pixels: As `Predictor` takes it.
        loaded: An engine that gives the model's features, where there is one already.

    Attributes:
        predictor: The `Predictor` of the model with its new classifier, on PyTorch.
        processor: As given.
    """

    def __init__(
        self,
        model: ViTHybridForImageClassification,
        processor: ViTHybridImageProcessor,
        labels: Sequence[str],
        batch_size: int = DEFAULT_BATCH_SIZE,
        engine: str = "torch",
        precision: str = AUTO,
        calibration: CalibrationSource = None,
        max_pixels: int | None = None,
        loaded: LoadedEngine | None = None,
    ) -> None:
        preprocessing = Preprocessing.from_dict(processor.to_dict())
        runs = loaded or model
        self._extractor = Extractor(
            runs, preprocessing, batch_size, engine, precision, calibration, max_pixels, fill_batches=True
        )
        model.reset_classifier(len(labels))
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: index for index, label in enumerate(labels)}
        model.config.problem_type = SINGLE_LABEL
        self.processor = processor
        self.predictor = Predictor(model, preprocessing, batch_size=batch_size)

    @classmethod
    def from_pretrained(
        cls,
        name: str = BUILT_IN_MODEL,
        labels: Sequence[str] = (),
        device: str | torch.device | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        engine: str = "torch",
        precision: str = AUTO,
        calibration: CalibrationSource = None,
        max_pixels: int | None = None,
    ) -> FrozenModel:
        """The model `name`, whatever head it has or lacks, in float32.

        Args:
            name: What `checkpoints.opening` opens, but for bundles.
            labels: The names of the new classes.
            device: Where to run; by default the accelerator that torch finds, else the CPU.
            batch_size: How many images go through the model at once.
            engine: What computes the features: see `vit_hybrid.engines.load`.
            precision: What it computes them in.
            calibration: For int8, as `vit_hybrid.engines.load` takes it.
            max_pixels: As `Predictor` takes it.

        Raises:
            ValueError: If there is no such model, it cannot be used, or neither can the device.
            OSError: If a file cannot be read.
        """
        try:
            place = usable_device(device)
        except ValueError as error:
            raise ProbeError(str(error)) from error
        source = opening.open(name)
        model = source.classifier(num_labels=len(labels)).to(place, torch.float32)
        loaded = None
        if chosen(engine, precision, device) != "torch":  # which shares the model; others keep it under its own name
            loaded = engines.load(
                name, engine, precision, None, device, calibration, output=FEATURES, max_pixels=max_pixels
            )
            engine = loaded.name
        return cls(model, source.processor(), labels, batch_size, engine, precision, calibration, max_pixels, loaded)

    def features(self, pictures: LabeledPictures, progress: Progress | None = None, strict: bool = False) -> Features:
        """What the classifier takes, for every picture that can be read.

        Args:
            pictures: Pictures with one label each.
            progress: Called with (pictures done, pictures in all) as they go through.
            strict: Whether a picture that cannot be read is an error.

        Raises:
            ProbeError: If `strict` and a picture cannot be read, or none can, or the features are not finite numbers.
        """
        parts: list[Array] = []
        kept: list[int] = []
        skipped: list[Skipped] = []
        for index, record in enumerate(self._extractor.stream(PictureSources(pictures))):
            if "features" in record:
                kept.append(index)
                parts.append(record["features"])
            elif strict:
                raise ProbeError(record["error"])
            else:
                skipped.append(Skipped(path=record["path"], error=record["error"]))
            if progress is not None:
                progress(index + 1, len(pictures))
        values = np.stack(parts) if parts else np.empty((0, 0), np.float32)
        if not np.isfinite(values).all():  # of one picture, they are so of all
            raise ProbeError("the model's features are not finite numbers; its weights may be damaged")
        if not kept:
            reason = f"; {skipped[0]['error']}" if skipped else ""
            raise ProbeError(f"none of the {len(pictures)} pictures can be read{reason}")
        return Features(values, np.asarray(pictures.targets)[kept], tuple(skipped))


__all__ = ["FrozenModel", "ProbeError"]

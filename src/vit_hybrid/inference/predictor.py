"""The one way from images to ranked labels: the command line, and whatever else predicts, goes through `Predictor`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from .. import engines
from ..assets import BUILT_IN_MODEL
from ..checkpoints.files import ModelLoadError
from ..engines.loading import classifier, configuration
from ..engines.protocol import Engine
from ..errors import EngineWarning
from ..images.preparing import ImageSource, preparing
from ..images.preprocessing import Preprocessing
from ..outputs.confidence import Confidence, check_levels
from ..outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS, problem_type_of
from ..outputs.ranking import (
    ErrorRecord,
    LogitsRecord,
    OutputRecord,
    Prediction,
    PredictionRecord,
    Record,
    check_rankable,
    ranked_each,
)
from ..runtimes import AUTO, DEFAULT_BATCH_SIZE, LOGITS
from .streaming import (
    Source,
    Streaming,
    check_batch_size,
    error_record,
    is_single,
    not_finite,
    said_or_published,
)

if TYPE_CHECKING:
    import torch

    from ..model.configuration import ViTHybridConfig
    from ..model.modeling import ViTHybridForImageClassification


class Predictor:
    """Images in, ranked labels out, batching inside.

    Args:
        model: An engine that `vit_hybrid.engines.load` gives; or a classifier on the device and in the dtype it is to
            run in, which the torch engine then takes over: puts in evaluation mode and folds (undone by
            `predictor.model.unfold_weight_standardization()`).
        preprocessing: What turns a picture into the model's input: a `Preprocessing`, or an image processor of
            transformers; an engine's own by default.
        batch_size: How many images go through the model at once.
        fast_decode: Whether pictures are decoded and resized the faster way, which may be off by a few levels of 255:
            see `images.fast`.
        max_pixels: The most pixels that a picture in a file may have; 250 million by default, or what
            `PIL.Image.MAX_IMAGE_PIXELS` was set to.
        fill_batches: Whether all batches are filled up to `batch_size`, so that what is said of a picture depends, to
            the last digit, on it alone and not on the pictures around it.
        confidence: Whether what `vit-hybrid calibrate` fitted for the model is used: probabilities are then calibrated,
            and records come with sets of labels and with how familiar a picture is.

    Attributes:
        engine: What runs the model.
        confidence: What was fitted, or None.
        labels: The model's labels, in the order of its logits.
        fast_decode: As given.
        streaming: What runs it over pictures, for those who have no use for labels.

    Raises:
        ValueError: If the model has no labels, there is no preprocessing, or `batch_size` is not positive.

    Example:

    ```python
    >>> from vit_hybrid import Predictor

    >>> predictor = Predictor.from_pretrained("vit-hybrid-tiny-imagenet")
    >>> predictor("examples/cat.jpg", top_k=1)[0]["label"]
    'Egyptian cat'
    ```
    """

    def __init__(
        self,
        model: ViTHybridForImageClassification | Engine,
        preprocessing: Any = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        fast_decode: bool = False,
        max_pixels: int | None = None,
        fill_batches: bool = False,
        confidence: bool = True,
    ) -> None:
        check_batch_size(batch_size)
        if not isinstance(model, Engine):
            if model.config.num_labels < 1:
                raise ValueError("The model has no labels (num_labels is 0), so there is nothing to predict.")
            model = engines.load(model, engine="torch")
        if preprocessing is None:
            preprocessing = model.spec.preprocessing
        if preprocessing is None:
            raise ValueError("There is no preprocessing: give the model's image processor.")
        if not isinstance(preprocessing, Preprocessing):
            preprocessing = Preprocessing.from_dict(preprocessing.to_dict())
        self.engine: Engine = model
        self.preprocessing: Preprocessing = preprocessing
        self.fast_decode = fast_decode
        device = model.device if model.name == "torch" else "cpu"
        how = preparing(preprocessing, fast_decode, device, max_pixels)
        self.confidence: Confidence | None = model.spec.confidence if confidence else None
        strangers = self.confidence is not None and self.confidence.needs_features
        self.streaming = Streaming(model, how, batch_size, fill_batches, strangers)
        self.labels = list(model.spec.labels)
        self._source: str | None = None
        self._model: ViTHybridForImageClassification | None = getattr(model, "model", None)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = BUILT_IN_MODEL,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        engine: str = AUTO,
        precision: str = AUTO,
        fast_decode: bool = False,
        max_pixels: int | None = None,
        fill_batches: bool = False,
        confidence: bool = True,
        **options: Any,
    ) -> Predictor:
        """Loads a classifier with its preprocessing.

        Args:
            name: `"vit-hybrid-tiny-imagenet"`, the model in the package; a folder that `save_pretrained` wrote; the id
                of a model on the Hugging Face Hub; a JAX `.npz` file; a file, folder or hub id of timm's; or a bundle
                that `vit-hybrid export` wrote.
            device: Where to run, such as `"cpu"` or `"cuda:0"`. By default the accelerator that torch finds, else the
                CPU.
            dtype: What the torch engine is to compute in, such as `"bfloat16"` or `torch.float16`, or `"auto"` for the
                dtype the weights were saved in. `precision` says it for every engine.
            batch_size: How many images go through the model at once.
            engine: What runs it, as for `vit_hybrid.engines.load`, where they are named.
            precision: What it computes in, likewise.
            fast_decode: See the class.
            max_pixels: See the class; of calibration pictures, too.
            fill_batches: See the class.
            confidence: See the class.
            options: What `vit_hybrid.engines.load` takes besides: `threads`, `calibration`, `output`, `compile`,
                `token_merging`, `attention`, `channels_last`, `time_limit`, `progress`, `pictures`, `tuned`.

        Raises:
            ModelLoadError: If there is no such model or it cannot be used.
            ValueError: If another argument cannot be used, or the engine is not installed.
        """
        check_batch_size(batch_size)
        name = os.path.expanduser(os.fspath(name))
        if device is not None and str(device) != "cpu":
            from ..engines.devices import usable_device

            device = usable_device(device)
        if dtype is not None:
            options["dtype"] = dtype
        at_once = min(batch_size, options.get("pictures") or batch_size)
        options = {"output": AUTO if confidence else LOGITS, "batch_size": at_once, **options, "max_pixels": max_pixels}
        options["confidence"] = confidence
        loaded = engines.load(name, engine=engine, precision=precision, device=device, **options)
        preprocessing = said_or_published(name, loaded.spec)
        predictor = cls(loaded, preprocessing, batch_size, fast_decode, max_pixels, fill_batches, confidence)
        predictor._source = name
        if predictor.confidence is not None:
            _warn_of_another_precision(name, predictor.confidence, loaded)
        return predictor

    @property
    def batch_size(self) -> int:
        """How many images go through the model at once."""
        return self.streaming.batch_size

    @property
    def model(self) -> ViTHybridForImageClassification:
        """The classifier in PyTorch. Where another engine runs, it is loaded on the CPU when it is first asked for;
        what is done to it then changes no prediction.

        Raises:
            ModelLoadError: If there is only a bundle, which has no PyTorch model.
        """
        if self._model is None:
            if self._source is None:
                raise ModelLoadError("this engine has no PyTorch model; load the model that it runs.")
            self._model = classifier(self._source)
        return self._model

    @property
    def config(self) -> ViTHybridConfig:
        """The model's configuration."""
        if self._model is not None or self._source is None:
            return self.model.config
        return configuration(self._source)

    @property
    def problem_type(self) -> str:
        """What the logits mean: as the configuration says, or else, as in the model's loss, by the number of labels."""
        if self._model is not None:  # whose configuration may have been changed since
            return problem_type_of(self._model.config)
        return self.engine.spec.problem_type

    @overload
    def __call__(
        self, images: str | os.PathLike[str] | bytes | Image.Image, top_k: int | None = None
    ) -> list[Prediction]: ...

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...], top_k: int | None = None) -> list[list[Prediction]]: ...

    @overload
    def __call__(self, images: Any, top_k: int | None = None) -> list[Prediction] | list[list[Prediction]]: ...

    def __call__(self, images: Any, top_k: int | None = None) -> list[Prediction] | list[list[Prediction]]:
        """The labels of images, best first.

        Args:
            images: One image, or a sequence of them: see `ImageSource`. An array of four dimensions is a sequence. The
                orientation in a file's or picture's EXIF data is applied. Levels may be of 0 to 255, of 0 to 65535 or
                fractions of 0 to 1: `images.reading.eight_bit_levels` has the rule.
            top_k: How many labels to give; all of them by default.

        Returns:
            The predictions of the image, or a list of the predictions of each. Probabilities sum to 1 over all labels,
            except with a multi-label model, whose labels each have a probability of their own.

        Raises:
            ImageReadError: If an image cannot be read.
            ValueError: If an array has the wrong shape, or the model was made for regression and so ranks nothing: use
                `logits`.
        """
        check_rankable(self.problem_type, top_k)
        predictions = [self.ranked(logits, top_k) for logits in self.logits(images)]
        return predictions[0] if is_single(images) else predictions

    def logits(self, images: Any) -> np.ndarray:
        """The model's raw outputs: (N, labels), float32. For a regression model these are the predicted values.

        Args:
            images: As in a call; a single image gives N = 1.

        Raises:
            ImageReadError: If an image cannot be read.
            ValueError: If an array has the wrong shape.
        """
        return self.streaming.outputs(images)

    def stream(
        self,
        sources: Iterable[Source],
        top_k: int | None = None,
        read_ahead: bool | None = None,
        coverage: float = DEFAULT_COVERAGE,
        false_alarms: float = DEFAULT_FALSE_ALARMS,
    ) -> Iterator[Record]:
        """What became of each source, in their order, as soon as its batch is through; sources are read as needed.

        A source that gives no prediction gives an error record, and the others go on.

        Args:
            sources: Images, or (path, image) pairs that say what to call them; a path is called by itself, others by
                their position. An error in the image's place becomes its record.
            top_k: How many labels to give; all of them by default.
            read_ahead: Whether threads decode and preprocess the pictures of the next batch while one is computed; the
                sources are then asked for up to two batches ahead. By default for sequences of more than a few batches,
                not for other iterables, which may have their reasons to be read no sooner than needed.
            coverage: How often sets of labels are to hold the truth, 0 to 1, where there is `confidence`.
            false_alarms: Which share of pictures of what the model knows may be called none of these, likewise.

        Yields:
            `{"path": ..., "predictions": [{"label": ..., "probability": ...}, ...]}`, best first, and what
            `PredictionRecord` has besides where there is `confidence`; or `{"path": ..., "error": ...}`.

        Raises:
            ValueError: At the call, before anything is read: if the model was made for regression, `top_k` is not
                positive, `coverage` takes more held-out pictures than there were, or `false_alarms` is no share.
        """
        check_rankable(self.problem_type, top_k)
        self.check_levels(coverage, false_alarms)
        return self._stream(sources, top_k, read_ahead, coverage, false_alarms)

    def _stream(
        self,
        sources: Iterable[Any],
        top_k: int | None,
        read_ahead: bool | None,
        coverage: float,
        false_alarms: float,
    ) -> Iterator[Record]:
        for record in self.stream_outputs(sources, read_ahead):
            yield record if "error" in record else self.said(record, top_k, coverage, false_alarms)

    def check_levels(self, coverage: float = DEFAULT_COVERAGE, false_alarms: float = DEFAULT_FALSE_ALARMS) -> None:
        """Raises `ValueError` where `said` could not be asked for these."""
        check_levels(self.confidence, coverage, false_alarms)

    def said(
        self,
        record: OutputRecord,
        top_k: int | None = None,
        coverage: float = DEFAULT_COVERAGE,
        false_alarms: float = DEFAULT_FALSE_ALARMS,
    ) -> PredictionRecord:
        """What is said of a picture of which `stream_outputs` gave the outputs: see `stream`."""
        return self.said_of_each([record], [top_k], coverage, false_alarms)[0]

    def said_of_each(
        self,
        records: Sequence[OutputRecord],
        top_k: Sequence[int | None],
        coverage: float = DEFAULT_COVERAGE,
        false_alarms: float = DEFAULT_FALSE_ALARMS,
    ) -> list[PredictionRecord]:
        """The same of several pictures, to the last digit, in less time; `top_k` for each."""
        if not records:
            return []
        logits = np.stack([one["logits"] for one in records])
        predictions = self._ranked_each(logits, top_k)
        said = [
            PredictionRecord(path=one["path"], predictions=found)
            for one, found in zip(records, predictions, strict=True)
        ]
        if self.confidence is None:
            return said
        token, statistics = (
            np.stack([one[name] for one in records]) if name in records[0] else None for name in ("token", "statistics")
        )
        for found, (members, familiarity) in zip(
            said, self.confidence.judge(logits, token, statistics, coverage), strict=True
        ):
            if members is not None:
                found |= {"set": [self.labels[label] for label in members], "coverage": coverage}
            if familiarity is not None:
                found |= {"familiarity": familiarity, "none_of_these": familiarity < false_alarms}
        return said

    def stream_logits(
        self, sources: Iterable[Source], read_ahead: bool | None = None
    ) -> Iterator[LogitsRecord | ErrorRecord]:
        """The model's raw outputs for each source, in their order, as soon as its batch is through.

        What `stream` does for predictions, for those who score outputs themselves; any model will do.

        Args:
            sources: As `stream` takes them.
            read_ahead: As `stream` takes it.

        Yields:
            `{"path": ..., "logits": ...}` with an array (labels,), or `{"path": ..., "error": ...}`, also where the
            outputs are not finite numbers.
        """
        for record in self.streaming.stream(sources, read_ahead):
            if "logits" in record:
                try:
                    self._check_finite(record["logits"])
                except ValueError as error:
                    record = error_record(record["path"], error)
            yield record

    def stream_outputs(
        self, sources: Iterable[Source], read_ahead: bool | None = None
    ) -> Iterator[OutputRecord | ErrorRecord]:
        """What the engine was loaded to give of each source (`output` of `vit_hybrid.engines.load`), in their order.

        Args:
            sources: As `stream` takes them.
            read_ahead: As `stream` takes it.

        Yields:
            `{"path": ..., "logits": ..., "features": ..., "token": ...}` with arrays (labels,), (D,) and (D,), those
            that it gives, or `{"path": ..., "error": ...}`, also where they are not finite numbers.
        """
        for record in self.streaming.stream_outputs(sources, read_ahead):
            if "error" not in record:
                try:
                    for values in (record.get("logits"), record.get("features"), record.get("token")):
                        if values is not None:
                            self._check_finite(values)
                except ValueError as error:
                    yield error_record(record["path"], error)
                    continue
            yield record

    def ranked(self, logits: np.ndarray, top_k: int | None = None) -> list[Prediction]:
        """The labels of one picture, best first, calibrated where there is `confidence`.

        Args:
            logits: (labels,), of `logits` or `stream_outputs`.
            top_k: How many labels to give; all of them by default.

        Raises:
            ValueError: If the logits are not finite.
        """
        return self._ranked_each(np.asarray(logits)[None], [top_k])[0]

    def _ranked_each(self, logits: np.ndarray, top_k: Sequence[int | None]) -> list[list[Prediction]]:
        self._check_finite(logits)
        if self.confidence is not None:
            logits = self.confidence.calibrated(logits)
        return ranked_each(logits, self.labels, self.problem_type, top_k)

    def _check_finite(self, logits: np.ndarray) -> None:
        if not np.isfinite(logits).all():
            raise ValueError(f"{not_finite(self.engine.precision)}; try float32")


def _warn_of_another_precision(name: str, confidence: Confidence, engine: Engine) -> None:
    """Says where confidence was fitted for something that computes otherwise than the engine."""
    fitted, runs = (
        what + ("" if merging is None else f" with {merging} tokens merged per layer")
        for what, merging in (
            (confidence.precision, confidence.token_merging),
            (engine.precision, engine.spec.token_merging),
        )
    )
    if fitted != runs:
        text = f"{name}: its confidence was fitted in {fitted}, and this runs in {runs}; calibrate it so to be exact"
        warnings.warn(EngineWarning(text), stacklevel=3)


__all__ = [
    "ImageSource",
    "ModelLoadError",
    "Predictor",
]

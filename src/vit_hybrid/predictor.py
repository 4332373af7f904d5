"""The one way from images to ranked labels: the command line, and whatever else predicts, goes through `Predictor`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypedDict, final, overload

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from PIL import Image, ImageOps

from .assets import BUILT_IN_FOLDER, BUILT_IN_MODEL
from .configuration import ViTHybridConfig, as_pair
from .errors import one_line
from .modeling import ViTHybridForImageClassification
from .preprocessing import ImageReadError, Preprocessing, open_image, resized_size
from .problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .sources import DEFAULT_BATCH_SIZE, SourceError

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | torch.Tensor
"""A path, an image file's bytes, an image file opened in binary mode, a picture of Pillow's, or an array: (H, W),
(H, W, C) or (C, H, W)."""


class Prediction(TypedDict):
    """A label and its probability, 0 to 1."""

    label: str
    probability: float


@final
class PredictionRecord(TypedDict):
    """What became of one picture: its predictions, best first."""

    path: str
    predictions: list[Prediction]


@final
class ErrorRecord(TypedDict):
    """What became of one picture: one line that names it and says why there is no prediction."""

    path: str
    error: str


Record: TypeAlias = PredictionRecord | ErrorRecord


@final
class LogitsRecord(TypedDict):
    """What became of one picture: the model's raw outputs, (labels,) float32."""

    path: str
    logits: np.ndarray


class ModelLoadError(ValueError):
    """A model that cannot be loaded; the message is one line that names it and says why."""


class Predictor:
    """Images in, ranked labels out, batching inside.

    Takes the model over: puts it in evaluation mode and folds its weight standardization (undone by
    `predictor.model.unfold_weight_standardization()`).

    Args:
        model: The classifier, on the device and in the dtype it is to run in.
        preprocessing: What turns a picture into the model's input: a `Preprocessing`, or an image processor of
            transformers.
        batch_size: How many images go through the model at once.

    Attributes:
        labels: The model's labels, in the order of its logits.

    Raises:
        ValueError: If the model has no labels or `batch_size` is not positive.

    Example:

    ```python
    >>> from vit_hybrid import Predictor

    >>> predictor = Predictor.from_pretrained("vit-hybrid-cifar10")
    >>> predictor("examples/cat.jpg", top_k=1)[0]["label"]
    'cat'
    ```
    """

    def __init__(
        self, model: ViTHybridForImageClassification, preprocessing: Any, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more.")
        if model.config.num_labels < 1:
            raise ValueError("The model has no labels (num_labels is 0), so there is nothing to predict.")
        if not isinstance(preprocessing, Preprocessing):
            preprocessing = Preprocessing.from_dict(preprocessing.to_dict())
        self.model = model.fold_weight_standardization()
        self.preprocessing: Preprocessing = preprocessing
        self.batch_size = batch_size
        names = model.config.id2label or {}
        self.labels = [str(names.get(index, f"LABEL_{index}")) for index in range(model.config.num_labels)]

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = BUILT_IN_MODEL,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> Predictor:
        """Loads a classifier with its preprocessing.

        Args:
            name: `"vit-hybrid-cifar10"`, the model in the package; a folder that `save_pretrained` wrote; or the id of
                a model on the Hugging Face Hub.
            device: Where to run, such as `"cpu"` or `"cuda:0"`. By default the accelerator that torch finds, else the
                CPU.
            dtype: What to compute in, such as `"bfloat16"` or `torch.float16`, or `"auto"` for the dtype the weights
                were saved in. Float32 by default.
            batch_size: How many images go through the model at once.

        Raises:
            ModelLoadError: If there is no such model or it cannot be used.
            ValueError: If `device`, `dtype` or `batch_size` cannot be used.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more.")
        device = usable_device(device)
        torch_dtype = _usable_dtype(dtype)
        name = os.path.expanduser(os.fspath(name))
        location = str(BUILT_IN_FOLDER) if name == BUILT_IN_MODEL else name
        check_model_type(name, read_json(name, location, CONFIG_FILE))
        try:
            preprocessing = Preprocessing.from_dict(read_json(name, location, PREPROCESSOR_FILE))
        except ModelLoadError:
            raise
        except (TypeError, ValueError) as error:
            raise ModelLoadError(f"{name}: cannot use its {PREPROCESSOR_FILE}: {one_line(error)}") from error
        model = load_model(name, location, torch_dtype)
        return cls(model.to(device), preprocessing, batch_size=batch_size)

    @property
    def config(self) -> ViTHybridConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def problem_type(self) -> str:
        """What the logits mean: as the configuration says, or else, as in the model's loss, by the number of labels."""
        return self.config.problem_type or (REGRESSION if self.config.num_labels == 1 else SINGLE_LABEL)

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
                orientation in a file's or picture's EXIF data is applied. An array holds what `ViTHybridImageProcessor`
                takes, as a rule 0 to 255.
            top_k: How many labels to give; all of them by default.

        Returns:
            The predictions of the image, or a list of the predictions of each. Probabilities sum to 1 over all labels,
            except with a multi-label model, whose labels each have a probability of their own.

        Raises:
            ImageReadError: If an image cannot be read.
            ValueError: If an array has the wrong shape, or the model was made for regression and so ranks nothing: use
                `logits`.
        """
        self._check_rankable(top_k)
        predictions = [self._rank(logits, top_k) for logits in self.logits(images)]
        return predictions[0] if _is_single(images) else predictions

    def logits(self, images: Any) -> np.ndarray:
        """The model's raw outputs: (N, labels), float32. For a regression model these are the predicted values.

        Args:
            images: As in a call; a single image gives N = 1.

        Raises:
            ImageReadError: If an image cannot be read.
            ValueError: If an array has the wrong shape.
        """
        sources = [images] if _is_single(images) else list(images)
        parts = []
        for start in range(0, len(sources), self.batch_size):
            pictures = []
            for position, source in enumerate(sources[start : start + self.batch_size], start=start + 1):
                try:
                    pictures.append(self._prepare(source, name=None))
                except ImageReadError:
                    raise
                except ValueError as error:
                    raise ValueError(f"image {position} of {len(sources)}: {error}") from error
            parts.append(self._forward(pictures))
        return np.concatenate([np.empty((0, self.config.num_labels), np.float32), *parts])

    def stream(
        self, sources: Iterable[ImageSource | tuple[str, ImageSource | SourceError]], top_k: int | None = None
    ) -> Iterator[Record]:
        """What became of each source, in their order, as soon as its batch is through; sources are read as needed.

        A source that gives no prediction gives an error record, and the others go on.

        Args:
            sources: Images, or (path, image) pairs that say what to call them; a path is called by itself, others by
                their position. An error in the image's place becomes its record.
            top_k: How many labels to give; all of them by default.

        Yields:
            `{"path": ..., "predictions": [{"label": ..., "probability": ...}, ...]}`, best first, or
            `{"path": ..., "error": ...}`.

        Raises:
            ValueError: At the call, before anything is read: if the model was made for regression, or `top_k` is not
                positive.
        """
        self._check_rankable(top_k)
        return self._stream(sources, top_k)

    def _stream(self, sources: Iterable[Any], top_k: int | None) -> Iterator[Record]:
        for record in self.stream_logits(sources):
            if "logits" not in record:
                yield record
                continue
            yield PredictionRecord(path=record["path"], predictions=self._rank(record["logits"], top_k))

    def stream_logits(
        self, sources: Iterable[ImageSource | tuple[str, ImageSource | SourceError]]
    ) -> Iterator[LogitsRecord | ErrorRecord]:
        """The model's raw outputs for each source, in their order, as soon as its batch is through.

        What `stream` does for predictions, for those who score outputs themselves; any model will do.

        Args:
            sources: As `stream` takes them.

        Yields:
            `{"path": ..., "logits": ...}` with an array (labels,), or `{"path": ..., "error": ...}`, also where the
            outputs are not finite numbers.
        """
        waiting: list[ErrorRecord | tuple[str, np.ndarray]] = []
        held = 0
        for position, item in enumerate(sources, start=1):
            path, source = item if isinstance(item, tuple) else (_name_of(item, position), item)
            try:
                if isinstance(source, SourceError):
                    raise source
                waiting.append((path, self._prepare(source, name=path)))
                held += 1
            except (OSError, ValueError, MemoryError) as error:
                waiting.append(_error_record(path, error))
            if held in (0, self.batch_size):  # an error with no picture waiting before it need not wait either
                yield from self._records(waiting)
                waiting, held = [], 0
        yield from self._records(waiting)

    def _records(self, waiting: Sequence[ErrorRecord | tuple[str, np.ndarray]]) -> Iterator[LogitsRecord | ErrorRecord]:
        pictures = [item[1] for item in waiting if isinstance(item, tuple)]
        outputs = iter(self._forward(pictures) if pictures else ())
        for item in waiting:
            if not isinstance(item, tuple):
                yield item
                continue
            path, _ = item
            logits = next(outputs)
            try:
                self._check_finite(logits)
            except ValueError as error:
                yield _error_record(path, error)
            else:
                yield LogitsRecord(path=path, logits=logits)

    def _prepare(self, source: Any, name: str | None) -> np.ndarray:
        """The model's input for one image, (channels, height, width)."""
        picture = _opened(source, name)
        self._check_resizable(picture)
        try:
            pixels = self.preprocessing([picture])[0]
        except ValueError as error:
            raise (error.__cause__ or error) from None  # without "image 1 of 1", which it says of a batch of one
        expected = (self.config.num_channels, *as_pair(self.config.image_size))
        if pixels.shape != expected:
            raise ValueError(
                f"preprocessing made (channels, height, width) = {pixels.shape} of it, but the model takes {expected}; "
                f"size and crop_size in {PREPROCESSOR_FILE} say what it makes"
            )
        return pixels

    def _check_resizable(self, picture: Any) -> None:
        """A picture of very unlike sides can become a bomb by being resized to a shortest edge."""
        if not (self.preprocessing.do_resize and isinstance(picture, Image.Image) and Image.MAX_IMAGE_PIXELS):
            return
        height, width = resized_size(picture.height, picture.width, self.preprocessing.size)
        if height * width > Image.MAX_IMAGE_PIXELS:
            raise ValueError(
                f"a picture of {picture.width} x {picture.height} would be resized to {width} x {height}, more pixels "
                f"than the {Image.MAX_IMAGE_PIXELS} that PIL.Image.MAX_IMAGE_PIXELS allows"
            )

    def _forward(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(channels, height, width) pictures to (N, labels) logits."""
        batch = torch.from_numpy(np.stack(pictures)).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            return self.model(batch).logits.float().cpu().numpy()

    def _check_finite(self, logits: np.ndarray) -> None:
        if not np.isfinite(logits).all():
            raise ValueError(
                f"the model's outputs are not finite numbers in {_dtype_name(self.model.dtype)}; try float32"
            )

    def _rank(self, logits: np.ndarray, top_k: int | None) -> list[Prediction]:
        self._check_finite(logits)
        probabilities = PROBABILITIES[self.problem_type](logits.astype(np.float64))
        best_first = np.argsort(-probabilities, kind="stable")[:top_k]
        return [Prediction(label=self.labels[index], probability=float(probabilities[index])) for index in best_first]

    def _check_rankable(self, top_k: int | None) -> None:
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; expected 1 or more, or None for all labels.")
        if self.problem_type not in PROBABILITIES:
            raise ValueError(
                f"This model's problem_type is {self.problem_type!r}: its outputs are values, not scores of labels, "
                "and cannot be ranked. Predictor.logits gives the values."
            )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Each output's own probability."""
    return np.exp(-np.logaddexp(0.0, -logits))  # without the overflow of 1 / (1 + exp(-x))


# What makes probabilities of logits; the outputs of a regression are values.
PROBABILITIES = {SINGLE_LABEL: softmax, MULTI_LABEL: sigmoid}


def _opened(source: Any, name: str | None) -> Any:
    """`source` as an upright picture or an array."""
    if isinstance(source, torch.Tensor):
        return source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        return source
    return _upright(source, name) if isinstance(source, Image.Image) else open_image(source, name=name)


def _upright(image: Image.Image, name: str | None) -> Image.Image:
    try:
        image.load()
    except (
        Exception
    ) as error:  # of a file that Pillow opened and reads only now; its decoders raise all sorts of things
        raise ImageReadError(name or "<picture>", f"is truncated or damaged ({one_line(error)})") from error
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data around sound pixels, as in `open_image`
        return image


def _is_single(images: Any) -> bool:
    """Whether `images` is one image and not several."""
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim < 4
    return isinstance(images, str | os.PathLike | bytes | Image.Image) or hasattr(images, "read")


def _name_of(source: Any, position: int) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"image {position}"


def _error_record(path: str, error: BaseException) -> ErrorRecord:
    if isinstance(error, SourceError):  # names it
        return ErrorRecord(path=path, error=str(error))
    reason = error.reason if isinstance(error, ImageReadError) else one_line(error)
    return ErrorRecord(path=path, error=f"{path}: {reason}")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device to run on: by default the accelerator that torch finds, else the CPU.

    Raises:
        ValueError: If it cannot be used here.
    """
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        usable = torch.device(device)
        torch.zeros(1, device=usable).cpu()
    except Exception as error:  # torch raises a different class for each way in which a device is not there
        raise ValueError(f"Device {str(device)!r} cannot be used here: {_first_sentence(error)} Try 'cpu'.") from error
    return usable


def _usable_dtype(dtype: str | torch.dtype | None) -> torch.dtype | str:
    if dtype is None:
        return torch.float32
    if dtype == "auto":
        return "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < torch.float16.itemsize:
        raise ValueError(f"dtype is {dtype!r}; expected 'float32', 'bfloat16', 'float16', 'float64' or 'auto'.")
    return found


def _first_sentence(error: BaseException) -> str:
    sentence = one_line(error).split(". ")[0].rstrip(".")
    return f"{sentence}."


def read_json(name: str, location: str, file: str) -> dict[str, Any]:
    """The fields in `file` of the model at `location`, a folder or a hub id."""
    path = _local_file(name, location, file) if os.path.isdir(location) else _hub_file(name, location, file)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{name}: cannot read its {file}: {one_line(error)}") from error
    if not isinstance(fields, dict):
        raise ModelLoadError(f"{name}: its {file} holds no fields.")
    return fields


_PURPOSE = {
    CONFIG_FILE: "a folder that save_pretrained wrote has one",
    PREPROCESSOR_FILE: "it says how pictures are resized and normalized, and "
    "ViTHybridImageProcessor(...).save_pretrained writes it",
}


def _local_file(name: str, location: str, file: str) -> Path:
    path = Path(location, file)
    if not path.is_file():
        raise ModelLoadError(f"{name}: there is no {file} in this folder; {_PURPOSE[file]}.")
    return path


def _hub_file(name: str, repository: str, file: str) -> Path:
    if os.path.exists(name):
        raise ModelLoadError(f"{name}: this is a file; expected a model folder, a hub id or {BUILT_IN_MODEL!r}.")
    try:
        return Path(hf_hub_download(repository, file))
    except HFValidationError as error:  # a path with several slashes, for one
        raise ModelLoadError(
            f"{name}: there is no such folder, and a hub id would look like owner/name; the model in the package is "
            f"{BUILT_IN_MODEL!r}."
        ) from error
    except GatedRepoError as error:
        raise ModelLoadError(f"{name}: the hub gives this model only to people it was granted to; log in.") from error
    except RepositoryNotFoundError as error:
        raise ModelLoadError(
            f"{name}: there is no such folder here and no such model on the hub (or it is private: then log in); the "
            f"model in the package is {BUILT_IN_MODEL!r}."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelLoadError(
            f"{name}: there is no such folder here, its {file} is not in the hub's cache on this machine, and the hub "
            f"cannot be reached or offline mode is on; the model in the package is {BUILT_IN_MODEL!r}."
        ) from error
    except EntryNotFoundError as error:
        raise ModelLoadError(f"{name}: there is no {file} in this model on the hub; {_PURPOSE[file]}.") from error
    except OSError as error:
        raise ModelLoadError(f"{name}: cannot get its {file} from the hub: {one_line(error)}") from error


def check_model_type(name: str, fields: dict[str, Any]) -> None:
    """Raises `ModelLoadError` where a configuration's `fields` are another model's."""
    found, expected = fields.get("model_type"), ViTHybridConfig.model_type
    if found != expected:
        raise ModelLoadError(f"{name}: its {CONFIG_FILE} says model_type {found!r}; expected {expected!r}.")


def load_model(
    name: str, location: str, dtype: torch.dtype | str, num_labels: int | None = None
) -> ViTHybridForImageClassification:
    """The classifier at `location`, a folder or a hub id; one that lacks weights is refused with `ModelLoadError`.

    With `num_labels=0` it comes without its last layer, which then need not be in the file.
    """
    changes = {} if num_labels is None else {"num_labels": num_labels}
    try:
        model, report = ViTHybridForImageClassification.from_pretrained(
            location, dtype=dtype, output_loading_info=True, **changes
        )
    except Exception as error:  # foreign files fail in as many ways as they have readers
        raise ModelLoadError(f"{name}: cannot load the model: {one_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers draws these at random and goes on; predictions would then mean nothing.
        raise ModelLoadError(
            f"{name}: its weights lack {len(missing)} of the model's tensors ({missing[0]!r} is one), so it is no "
            "trained classifier; fine-tune it first or name another model."
        )
    return model


__all__ = [
    "ErrorRecord",
    "ImageSource",
    "LogitsRecord",
    "ModelLoadError",
    "Prediction",
    "PredictionRecord",
    "Predictor",
    "Record",
]

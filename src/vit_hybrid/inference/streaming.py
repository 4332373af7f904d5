"""From pictures to a model's outputs: batches, reading ahead, and errors in their place.

What all that runs a model over pictures shares: labels (`predictor`), vectors (`features`), scores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import numpy as np
from PIL import Image

from ..checkpoints import published
from ..checkpoints.files import PREPROCESSOR_FILE
from ..data.reading_ahead import prepared_ahead
from ..data.sources import SourceError
from ..engines.protocol import NO_LOGITS, Engine, LoadedEngine, Outputs, Specification
from ..errors import EngineError, argument, one_line
from ..images.preparing import ImageSource, Pixels, Preparing, is_tensor
from ..images.preprocessing import Preprocessing
from ..images.reading import ImageReadError
from ..outputs.ranking import ErrorRecord, LogitsRecord, OutputRecord
from ..outputs.strangers import pixel_statistics
from ..runtimes import DTYPE_NAMES, LOGITS, OUTPUTS

# Of fewer batches than these, threads that read ahead save next to nothing.
BATCHES_WORTH_THREADS = 4

Source: TypeAlias = "ImageSource | Exception | tuple[str, ImageSource | Exception]"
"""An image, or what is wrong with it; or either with what to call it."""
Result = TypeVar("Result")


class Streaming:
    """A model over pictures, as many at once as a batch has.

    Args:
        engine: What runs the model.
        preparing: What makes the model's input of a picture.
        batch_size: How many pictures go through the model at once.
        fill_batches: Whether always so many go through it: zeros stand in for what the last batch lacks, and for a
            picture that cannot be read. Kernels differ between sizes of a batch, and so do last digits; with this, what
            is given of a picture depends on it alone, and not on the pictures around it.
        statistics: Whether records come with the statistics of a picture's pixels, which tell strangers.

    Attributes:
        engine: As given.
        preparing: As given.
        batch_size: As given.
        fill_batches: As given.
        statistics: As given.

    Raises:
        ValueError: If `batch_size` is not positive.
    """

    def __init__(
        self,
        engine: Engine,
        preparing: Preparing,
        batch_size: int,
        fill_batches: bool = False,
        statistics: bool = False,
    ) -> None:
        check_batch_size(batch_size)
        self.engine = engine
        self.preparing = preparing
        self.batch_size = batch_size
        self.fill_batches = fill_batches
        self.statistics = statistics

    @contextmanager
    def filled(self) -> Iterator[None]:
        """While this lasts batches are filled: what is given of a picture does not depend on those around it."""
        before, self.fill_batches = self.fill_batches, True
        try:
            yield
        finally:
            self.fill_batches = before

    def outputs(self, images: Any) -> np.ndarray:
        """The logits of images, (N, outputs) float32; a single image gives N = 1.

        Args:
            images: One image, or a sequence of them: see `ImageSource`. An array of four dimensions is a sequence.

        Raises:
            ImageReadError: If an image cannot be read.
            ValueError: If an array has the wrong shape, or the engine was loaded for features alone.
        """
        self._check_logits()
        found = [outputs.logits for outputs in self.batches(images) if outputs.logits is not None]
        return np.concatenate([np.empty((0, len(self.engine.spec.labels)), np.float32), *found])

    def batches(self, images: Any) -> Iterator[Outputs]:
        """What the engine gives of images, batch by batch.

        Args:
            images: As `outputs` takes them.

        Raises:
            ImageReadError: If an image cannot be read.
            ValueError: If an array has the wrong shape.
        """
        sources = [images] if is_single(images) else list(images)
        for start in range(0, len(sources), self.batch_size):
            pixels = []
            for position, source in enumerate(sources[start : start + self.batch_size], start=start + 1):
                try:
                    pixels.append(self._prepare(source, name=None))
                except ImageReadError:
                    raise
                except ValueError as error:
                    raise ValueError(f"image {position} of {len(sources)}: {error}") from error
            yield self.forward(pixels)

    def stream(self, sources: Iterable[Source], read_ahead: bool | None = None) -> Iterator[LogitsRecord | ErrorRecord]:
        """The logits of each source: see `stream_outputs`.

        Yields:
            `{"path": ..., "logits": ...}` with an array (outputs,), which need not be finite, or
            `{"path": ..., "error": ...}`.

        Raises:
            EngineError: At the call, if the engine was loaded for features alone.
        """
        self._check_logits()
        return self._stream(sources, read_ahead)

    def _stream(self, sources: Iterable[Source], read_ahead: bool | None) -> Iterator[LogitsRecord | ErrorRecord]:
        for record in self.stream_outputs(sources, read_ahead):
            yield record if "error" in record else LogitsRecord(path=record["path"], logits=record["logits"])

    def stream_outputs(
        self, sources: Iterable[Source], read_ahead: bool | None = None
    ) -> Iterator[OutputRecord | ErrorRecord]:
        """What the engine gives of each source, in their order, as soon as its batch is through.

        A source that gives no picture gives an error record, and the others go on.

        Args:
            sources: Images, or (path, image) pairs that say what to call them; a path is called by itself, others by
                their position. An error in the image's place becomes its record.
            read_ahead: Whether threads decode and preprocess the pictures of the next batch while one is computed; the
                sources are then asked for up to two batches ahead. By default for sequences of more than a few batches,
                not for other iterables, which may have their reasons to be read no sooner than needed.

        Yields:
            `{"path": ..., "logits": ..., "features": ..., "token": ...}`, as the engine was loaded, whose arrays need
            not be finite, and `"statistics"` where they are wanted; or `{"path": ..., "error": ...}`.
        """
        ahead = read_ahead
        if ahead is None:
            ahead = isinstance(sources, Sequence) and len(sources) > BATCHES_WORTH_THREADS * self.batch_size
        items = (
            prepared_ahead(self._prepared, _numbered(sources), 2 * self.batch_size)
            if ahead
            else map(self._prepared, _numbered(sources))
        )
        waiting: list[ErrorRecord | tuple[str, Pixels]] = []
        held = 0
        for item in items:
            waiting.append(item)
            held += isinstance(item, tuple)
            # Where slots are not kept for errors, one with no picture waiting before it need not wait either.
            if len(waiting) == self.batch_size if self.fill_batches else held in (0, self.batch_size):
                yield from self._records(waiting)
                waiting, held = [], 0
        yield from self._records(waiting)

    def _prepared(self, item: tuple[str, Any]) -> ErrorRecord | tuple[str, Pixels]:
        """A picture's name with the model's input, or with what is wrong with it."""
        path, source = item
        try:
            if isinstance(source, Exception):
                raise source
            return path, self._prepare(source, name=path)
        except (OSError, ValueError, MemoryError) as error:
            return error_record(path, error)

    def _records(self, waiting: Sequence[ErrorRecord | tuple[str, Pixels]]) -> Iterator[OutputRecord | ErrorRecord]:
        slots = [item[1] if isinstance(item, tuple) else None for item in waiting]
        if not self.fill_batches:
            slots = [pixels for pixels in slots if pixels is not None]
        outputs = Outputs() if all(pixels is None for pixels in slots) else self.forward(slots)
        statistics = iter(self.statistics_of([item[1] for item in waiting if isinstance(item, tuple)]))
        place = 0
        for item in waiting:
            if not isinstance(item, tuple):
                yield item
                place += self.fill_batches
                continue
            record = OutputRecord(path=item[0])
            if outputs.logits is not None:
                record["logits"] = outputs.logits[place]
            if outputs.features is not None:
                record["features"] = outputs.features[place]
            if outputs.token is not None:
                record["token"] = outputs.token[place]
            if (found := next(statistics)) is not None:
                record["statistics"] = found
            yield record
            place += 1

    def statistics_of(self, slots: Sequence[Pixels | None]) -> list[np.ndarray | None]:
        """Statistics of pictures' pixels, in the order of `slots`; None where they are not wanted, or there is none."""
        read = [slot for slot in slots if slot is not None]
        if not self.statistics or not read:
            return [None] * len(slots)
        found = iter(pixel_statistics([_on_cpu(one) for one in read]))
        return [None if slot is None else next(found) for slot in slots]

    def _prepare(self, source: Any, name: str | None) -> Pixels:
        return prepared(self.preparing, self.engine.spec, source, name)

    def forward(self, slots: Sequence[Pixels | None]) -> Outputs:
        """What the engine gives of a batch, a row for each slot.

        Args:
            slots: Pictures as `prepared` gives them, (C, H, W), at most `batch_size` of them; None, which not all are,
                where there is none but a slot is kept for it (with `fill_batches`): its row is of no picture.
        """
        count = len(slots)
        if self.fill_batches:
            nothing = next(pixels for pixels in slots if pixels is not None) * 0
            filled = [nothing if pixels is None else pixels for pixels in slots]
            slots = filled + [nothing] * (self.batch_size - count)
        batch = self.preparing.batch(slots)
        if not isinstance(self.engine, LoadedEngine):  # somebody's own
            return Outputs(logits=self.engine.logits(batch)[:count])
        run = self.engine.run_steadily if self.fill_batches else self.engine.run
        return Outputs(*(None if found is None else found[:count] for found in run(batch)))

    def _check_logits(self) -> None:
        if LOGITS not in OUTPUTS[self.engine.spec.output]:
            raise EngineError(NO_LOGITS)


def prepared(preparing: Preparing, spec: Specification, source: Any, name: str | None) -> Pixels:
    """The model's input for one image, (C, H, W).

    Args:
        preparing: What makes it.
        spec: What the model spec.
        source: The image: see `ImageSource`.
        name: What errors call it.

    Raises:
        ImageReadError: The image cannot be read.
        ValueError: It cannot be preprocessed, or becomes something else than the model spec.
    """
    pixels = preparing(source, name)
    check_prepared(pixels, spec)
    return pixels


def check_prepared(pixels: Pixels, spec: Specification) -> None:
    """Raises `ValueError` where pixels (C, H, W) are not what the model takes."""
    expected = (spec.num_channels, *spec.image_size)
    if tuple(pixels.shape) != expected and not (spec.dynamic and pixels.shape[0] == spec.num_channels):
        raise ValueError(
            f"preprocessing made (channels, height, width) = {tuple(pixels.shape)} of it, but the model takes "
            f"{expected}; size and crop_size in {PREPROCESSOR_FILE} say what it makes"
        )
    if isinstance(pixels, np.ndarray) and not np.isfinite(pixels).all():
        raise ValueError("it has NaN or infinite values where pixels should be")


def _on_cpu(pixels: Pixels) -> np.ndarray:
    return pixels if isinstance(pixels, np.ndarray) else pixels.float().cpu().numpy()


def said_or_published(name: str, spec: Specification) -> Preprocessing:
    """How a model wants its pictures; where it does not say it the published hybrids', with an `EngineWarning`."""
    if spec.preprocessing is not None:
        return spec.preprocessing
    published.warn_of_stand_in(name)
    return published.preprocessing(spec.image_size, spec.num_channels)


def not_finite(precision: str) -> str:
    """What is the matter where a model's outputs are NaN or infinite."""
    return f"the model's outputs are not finite numbers in {DTYPE_NAMES[precision]}"


def check_batch_size(batch_size: int) -> None:
    """Raises `ValueError` where it is not positive."""
    if batch_size < 1:
        raise ValueError(f"{argument('batch_size')} is {batch_size}; expected 1 or more.")


def is_single(images: Any) -> bool:
    """Whether `images` is one image and not several."""
    if isinstance(images, np.ndarray) or is_tensor(images):
        return bool(images.ndim < 4)
    return isinstance(images, str | os.PathLike | bytes | Image.Image) or hasattr(images, "read")


def _numbered(sources: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """(name, source) pairs."""
    for position, item in enumerate(sources, start=1):
        if isinstance(item, tuple):
            yield item
        else:
            yield os.fspath(item) if isinstance(item, str | os.PathLike) else f"image {position}", item


def attempted(path: str, source: object, work: Callable[[Any], Result]) -> tuple[Result | None, ErrorRecord | None]:
    """What `work` makes of a picture; or None, and the record of why nothing came of it.

    Args:
        path: What the picture is called.
        source: The picture, or what is wrong with it.
        work: What is done to it.
    """
    try:
        if isinstance(source, Exception):
            raise source
        return work(source), None
    except (ValueError, MemoryError) as error:
        return None, error_record(path, error)


def error_record(path: str, error: BaseException) -> ErrorRecord:
    """One line that names the picture and says why there is no output."""
    if isinstance(error, SourceError):  # names it
        return ErrorRecord(path=path, error=str(error))
    reason = error.reason if isinstance(error, ImageReadError) else one_line(error)
    return ErrorRecord(path=path, error=f"{path}: {reason}")


__all__ = [
    "Source",
    "Streaming",
    "attempted",
    "check_batch_size",
    "check_prepared",
    "error_record",
    "is_single",
    "not_finite",
    "prepared",
    "said_or_published",
]

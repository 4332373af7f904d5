"""Pictures with their labels in memory: names or encoded bytes in a few large buffers, pixels only when asked for."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..errors import one_line, shortened, shown
from ..images.reading import NO_FILE, ImageReadError, open_image
from ..runtimes import usable_cores
from .listing import Passed
from .targets import REGRESSION, SINGLE_LABEL, Array, DataError, listed, order_of

# Pictures that one thread decodes between two calls of `progress`.
PICTURES_A_TASK = 32
# Classes that one line names, and characters of each.
MOST_CLASSES = 12
MOST_OF_A_CLASS = 24
# UTF-8 as Arrow's strings are, but for names that are no valid text, which come back as they were.
PATH_ENCODING = ("utf-8", "surrogatepass")


class Store(Protocol):
    """Where pictures come from: a name and a path or encoded bytes for each row."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str: ...

    def source(self, row: int) -> str | bytes: ...

    def take(self, rows: Array) -> Store:
        """The rows alone, so that what goes to another process is no larger than it has to be."""
        ...


class Blobs:
    """Many byte strings in a few buffers: hundreds of thousands of them pickle as fast as memory is copied.

    Args:
        chunks: (data, offsets) pairs; string i of a chunk is data[offsets[i] : offsets[i + 1]].
    """

    def __init__(self, chunks: Sequence[tuple[Array, Array]]) -> None:
        self._chunks = tuple(chunks)
        self._ends = np.cumsum([len(offsets) - 1 for _, offsets in self._chunks], dtype=np.int64)

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> Blobs:
        strings = list(strings)
        offsets = np.zeros(len(strings) + 1, np.int64)
        np.cumsum([len(string) for string in strings], out=offsets[1:])
        return cls([(np.frombuffer(b"".join(strings), np.uint8), offsets)])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, row: int) -> bytes:
        chunk = int(np.searchsorted(self._ends, row, side="right"))
        data, offsets = self._chunks[chunk]
        place = row - (int(self._ends[chunk - 1]) if chunk else 0)
        return data[offsets[place] : offsets[place + 1]].tobytes()

    def take(self, rows: Array) -> Blobs:
        return Blobs.of(self[int(row)] for row in rows)


@dataclass(frozen=True)
class Files:
    """Pictures that are files, their paths relative to `folder` (or absolute)."""

    folder: str
    paths: Blobs

    @classmethod
    def of(cls, folder: str, paths: Iterable[str]) -> Files:
        return cls(folder, Blobs.of(path.encode(*PATH_ENCODING) for path in paths))

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, row: int) -> str:
        return os.path.join(self.folder, self.path(row))

    def path(self, row: int) -> str:
        """The path as it was given."""
        path = self.paths[row]
        try:
            return path.decode(*PATH_ENCODING)
        except UnicodeDecodeError:  # bytes of a name as they are, from a parquet file
            return path.decode("utf-8", "surrogateescape")

    source = name

    def take(self, rows: Array) -> Files:
        return Files(self.folder, self.paths.take(rows))


@dataclass(frozen=True)
class Encoded:
    """Pictures that are encoded bytes in the rows of a file; where there are none, the row's path is read instead.

    Attributes:
        file: what the rows are called after: row 17 of "train.parquet" is "train.parquet[17]".
        numbers: (N,) the row numbers in the file.
    """

    file: str
    blobs: Blobs
    numbers: Array
    paths: Files | None = None

    def __len__(self) -> int:
        return len(self.blobs)

    def name(self, row: int) -> str:
        return f"{self.file}[{self.numbers[row]}]"

    def source(self, row: int) -> str | bytes:
        content = self.blobs[row]
        if not content and self.paths is not None and self.paths.paths[row]:
            return self.paths.source(row)
        return content

    def take(self, rows: Array) -> Encoded:
        paths = None if self.paths is None else self.paths.take(rows)
        return Encoded(self.file, self.blobs.take(rows), self.numbers[rows], paths)


class Joined:
    """Several stores, one after the other."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = tuple(stores)
        self._ends = np.cumsum([len(store) for store in stores], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _place(self, row: int) -> tuple[Store, int]:
        index = int(np.searchsorted(self._ends, row, side="right"))
        return self._stores[index], row - (int(self._ends[index - 1]) if index else 0)

    def name(self, row: int) -> str:
        store, row = self._place(row)
        return store.name(row)

    def source(self, row: int) -> str | bytes:
        store, row = self._place(row)
        return store.source(row)

    def take(self, rows: Array) -> Joined:
        """The rows in ascending order, as `LabeledPictures` asks for them."""
        bounds = np.searchsorted(rows, [0, *self._ends])
        starts = [0, *self._ends[:-1]]
        return Joined(
            [
                store.take(rows[first:last] - start)
                for store, start, first, last in zip(self._stores, starts, bounds[:-1], bounds[1:], strict=True)
                if last > first
            ]
        )


class LabeledPictures:
    """Pictures and what is known of each: a class, several classes, or numbers.

    May be shared by threads, and is cheap to hand to worker processes: a picture is decoded when it is asked for.

    Attributes:
        problem_type: "single_label_classification", "multi_label_classification" or "regression".
        labels: the names of the classes in the order of their indices; of a regression, the names of its values.
        targets: (N,) int64 indices of classes; (N, labels) float32 of 0 and 1 where a picture may have several
            classes; (N, values) float32 of a regression.
        notes: one line for each thing about the data that the reader found odd.
        origin: where the labels were found: folders, or a table and its column.
        passed: what the reader passed over, counted.
        max_pixels: the most pixels that a picture may have: see `images.reading.pixel_limit`.
    """

    def __init__(
        self,
        store: Store,
        problem_type: str,
        labels: Sequence[str],
        targets: Array,
        *,
        rows: Array | None = None,
        numbered: bool = False,
        notes: Sequence[str] = (),
        origin: str = "memory",
        passed: Passed | None = None,
        max_pixels: int | None = None,
    ) -> None:
        """Pictures of `store` and what is known of them.

        Args:
            store: where the pictures come from.
            rows: (N,) the rows of `store` that the targets belong to, all of them if not given.
            numbered: whether the labels are bare integers, which `with_labels` may take for indices.
        """
        self.problem_type = problem_type
        self.labels = tuple(labels)
        self.targets = targets
        self.notes = tuple(notes)
        self.origin = origin
        self.passed = Passed() if passed is None else passed
        self.max_pixels = max_pixels
        self._store = store
        self._rows = np.arange(len(store)) if rows is None else rows
        self._numbered = numbered

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} pictures, {self.problem_type}, {len(self.labels)} labels>"

    def name(self, index: int) -> str:
        """The picture's path, or its file and row as in "train.parquet[17]"."""
        return self._store.name(int(self._rows[index]))

    def picture(self, index: int) -> Image.Image:
        """Decode one picture and turn it upright; its mode is the one it was stored in.

        Raises:
            ImageReadError: it cannot be read; the error carries `name(index)`.
        """
        return open_image(self.source(index), name=self.name(index), max_pixels=self.max_pixels)

    def source(self, index: int) -> str | bytes:
        """The picture's path or its encoded bytes, for those who decode it themselves.

        Raises:
            ImageReadError: it is a pipe or a device, from which nothing may ever come.
        """
        source = self._store.source(int(self._rows[index]))
        if _is_special(source):
            raise ImageReadError(self.name(index), NO_FILE)
        return source

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        """The picture and its target."""
        return self.picture(index), self.targets[index]

    def select(self, indices: Sequence[int] | Array) -> LabeledPictures:
        """The pictures at `indices` (or where a mask of N is true), in that order, with the same labels."""
        indices = np.asarray(indices)
        if indices.dtype != np.bool_:
            indices = indices.astype(np.int64)
        return self._with(self.targets[indices], rows=self._rows[indices])

    def class_counts(self) -> Array:
        """How many pictures each label has, (labels,) int64; of a regression, how many pictures have each value."""
        if self.problem_type == SINGLE_LABEL:
            return np.bincount(self.targets, minlength=len(self.labels))
        if self.problem_type == REGRESSION:
            return np.full(len(self.labels), len(self))
        return self.targets.sum(axis=0, dtype=np.int64)

    def described(self) -> str:
        """How many pictures there are, of which classes how many, and where these were found, on one line."""
        start = f"{len(self):,} picture{'' if len(self) == 1 else 's'}"
        if self.problem_type == REGRESSION:
            return shortened(f"{start} with values of {listed(self.labels)}, from {self.origin}")
        counts = self.class_counts()
        texts = [f"{shown(label, MOST_OF_A_CLASS)} {count:,}" for label, count in zip(self.labels, counts, strict=True)]
        kept = len(texts) if len(texts) <= MOST_CLASSES else MOST_CLASSES // 2
        if len(texts) > kept:
            texts = [
                *texts[:kept],
                f"and {len(texts) - kept:,} more; {counts.min():,} to {counts.max():,} pictures each",
            ]
        kind = "classes" if self.problem_type == SINGLE_LABEL else "labels"
        return shortened(f"{start} of {len(self.labels):,} {kind} from {self.origin}: {', '.join(texts)}")

    def with_labels(self, labels: Sequence[str]) -> LabeledPictures:
        """The same pictures with another list of labels, such as a model's, and targets to match.

        Labels that are bare numbers without names are taken for indices into `labels` unless they are found there.
        The values of a regression are matched by name, or by position where the names differ.

        Raises:
            DataError: pictures have labels that are not among these.
        """
        labels = tuple(labels)
        if labels == self.labels:
            return self
        order = order_of(self.labels, self.class_counts() > 0, labels, self._numbered, self.problem_type)
        if self.problem_type == SINGLE_LABEL:
            targets = order[self.targets]
        else:
            targets = np.zeros((len(self), len(labels)), np.float32)
            targets[:, order[order >= 0]] = self.targets[:, order >= 0]
        return self._with(targets, labels=labels)

    def without(self, labels: Sequence[str]) -> LabeledPictures:
        """The pictures that have none of these labels, and the labels that are left, in their order.

        Raises:
            DataError: a name that is no label, a regression, or labels of which none are left.
        """
        if not labels:
            return self
        if self.problem_type == REGRESSION:
            raise DataError("classes can be left out, and these pictures have values instead of classes")
        for label in labels:
            if label not in self.labels:
                near = difflib.get_close_matches(label, self.labels, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise DataError(f"{label!r}, to be left out, is no label; {hint}there are {listed(self.labels)}")
        left_out = np.array([label in labels for label in self.labels])
        rest = [label for label in self.labels if label not in labels]
        if not rest:
            raise DataError(f"none of the labels {listed(self.labels)} would be left")
        if self.problem_type == SINGLE_LABEL:
            stays = np.logical_not(left_out[self.targets])
        else:
            stays = np.all(self.targets[:, left_out] == 0, axis=1)
        return self.select(stays).with_labels(rest)

    def _with(self, targets: Array, rows: Array | None = None, labels: Sequence[str] | None = None) -> LabeledPictures:
        return LabeledPictures(
            self._store,
            self.problem_type,
            self.labels if labels is None else labels,
            targets,
            rows=self._rows if rows is None else rows,
            numbered=self._numbered and labels is None,
            notes=self.notes,
            origin=self.origin,
            passed=self.passed,
            max_pixels=self.max_pixels,
        )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["passed"] = Passed()  # which grows with the number of folders, and is for the process that read them
        rows, places = np.unique(self._rows, return_inverse=True)
        if len(rows) < len(self._store):
            state.update(_store=self._store.take(rows), _rows=places)
        return state


def _is_special(source: str | bytes) -> bool:
    """Whether a path leads to something that would be waited for and never end, as a pipe does."""
    if isinstance(source, bytes):
        return False
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class PictureSources(Sequence[tuple[str, Any]]):
    """(name, source) pairs as `Predictor.stream` takes them: a path or encoded bytes, read when its turn comes.

    Args:
        pictures: The pictures.
    """

    def __init__(self, pictures: LabeledPictures) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self._pictures.name(index)
        try:
            return name, self._pictures.source(index)
        except (OSError, ValueError) as error:  # of a store that reads rows one by one
            return name, error


def find_unreadable(
    pictures: LabeledPictures,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[Image.Image], object] | None = None,
) -> list[tuple[int, str]]:
    """Decode all pictures, in as many threads as there are CPU cores, and say which cannot be.

    Args:
        progress: called now and then with the number of pictures that are done and of all pictures.
        check: called with each picture; raises `ValueError` where it cannot be used.

    Returns:
        (index, reason) pairs in the order of the pictures; the reason is one line, `name: why`.
    """

    def decode(start: int) -> tuple[int, list[tuple[int, str]]]:
        stop = min(start + PICTURES_A_TASK, len(pictures))
        found = []
        for index in range(start, stop):
            try:
                picture = pictures.picture(index)
                if check is not None:
                    check(picture)
            except ImageReadError as error:
                found.append((index, one_line(error)))
            except ValueError as error:
                found.append((index, one_line(f"{pictures.name(index)}: {error}")))
        return stop, found

    unreadable: list[tuple[int, str]] = []
    executor = ThreadPoolExecutor(usable_cores())
    try:
        for done, found in executor.map(decode, range(0, len(pictures), PICTURES_A_TASK)):
            unreadable += found
            if progress is not None:
                progress(done, len(pictures))
    finally:
        executor.shutdown(cancel_futures=True)
    return unreadable

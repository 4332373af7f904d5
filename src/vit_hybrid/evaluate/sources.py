"""Labeled pictures as shards for workers: those that one reader holds, or any source that streams, however large."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..data import DataError, LabeledPictures
from ..data.columns import ColumnChoice
from ..data.listing import FOLDER, Passed
from ..data.pictures import PictureSources
from ..data.sources import SourceError
from ..data.splits import SPLIT_NAMES, split_folders
from ..data.streams import Place, open_stream
from ..data.streams.files import TAR, kind_of_file
from ..data.streams.outlines import UnitName
from ..data.streams.packing import name_of
from ..data.streams.patterns import has_braces
from ..data.streams.stores import is_address, store_of
from ..data.targets import MissingSplit
from ..errors import shown
from ..inference.shards import Shard
from .assessing import given
from .labeling import Survey, Targeting
from .pictures import PREFERRED_SPLITS, Named, known_only, left_out, matched, spread

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Where several share the work, the first shards have a batch each, so that few pictures are shared, too; each so many
# more have twice as many, up to what a worker that ends has to do again at most.
SHARDS_A_SIZE, MOST_PICTURES = 16, 512


@dataclass(frozen=True)
class LabeledShard(Shard):
    """Pictures that follow each other, of which some are to be scored.

    Attributes:
        targets: Of these: (N,) indices of the model's outputs, or (N, outputs).
        picked: (N,) which of the shard's pictures they are; None for all.
        start: How many pictures of the source are before the shard.
        pictures: Themselves, of a source whose pictures are known by name; None of one that is read as a stream.
    """

    targets: Any = None
    picked: Any = None
    start: int = 0
    pictures: LabeledPictures | None = None


class LabeledSource(Protocol):
    """Labeled pictures, whose labels are looked at when it is known what a model calls its outputs."""

    @property
    def passed(self) -> Passed:
        """What was passed over, counted."""
        ...

    def begin(self, model: Named) -> tuple[tuple[str, ...], list[str], int]:
        """Looks at the labels: what the outputs are called, notes on what was assumed, how many pictures there are.

        Raises:
            DataError: The data are not for this model.
        """
        ...

    def shards(self, batch_size: int, is_shared: bool = True) -> Iterator[LabeledShard]:
        """All pictures that are to be scored, cut for one worker or for several; asked for once, after `begin`."""
        ...

    def deviations(self) -> Array:
        """(values,) how far apart the targets of a regression are; ones for another model."""
        ...

    def last_notes(self) -> list[str]:
        """What there is to note once all shards were asked for."""
        ...


def sizes(batch_size: int, is_shared: bool = True) -> Iterator[int]:
    """How many pictures each shard has, whole batches."""
    most = max(batch_size, MOST_PICTURES // batch_size * batch_size)
    size = batch_size if is_shared else most
    while True:
        yield from [size] * SHARDS_A_SIZE
        size = min(2 * size, most)


class Held:
    """Labeled pictures that were read as a whole.

    Args:
        pictures: As `read_labeled` gives them.
        as_values: Reads them again for a regression model.
        known: Whether pictures of labels that the model does not know are left out.
        limit: How many pictures there may be, spread evenly.
    """

    def __init__(
        self,
        pictures: LabeledPictures,
        as_values: Callable[[LabeledPictures, Named], LabeledPictures],
        known: bool,
        limit: int | None,
    ) -> None:
        self.passed = pictures.passed
        self._pictures = pictures
        self._as_values = as_values
        self._known = known
        self._limit = limit

    def begin(self, model: Named) -> tuple[tuple[str, ...], list[str], int]:
        pictures = self._as_values(self._pictures, model)
        if self._known:
            pictures = known_only(pictures, model.labels)
        if self._limit is not None:
            pictures = spread(pictures, self._limit)
        self._pictures, names, notes = matched(model, pictures)
        return tuple(names), notes, len(pictures)

    def shards(self, batch_size: int, is_shared: bool = True) -> Iterator[LabeledShard]:
        start, pictures = 0, self._pictures
        for number, size in enumerate(sizes(batch_size, is_shared)):
            part = pictures.select(np.arange(start, min(start + size, len(pictures))))
            if not len(part):
                return
            first, last = (Place(str(UnitName(0, 0, "labeled", 0, part.name(at))), start) for at in (0, len(part) - 1))
            last = last._replace(row=start + len(part) - 1)
            yield LabeledShard(number, first, last, len(part), targets=part.targets, start=start, pictures=part)
            start += size

    def deviations(self) -> Array:
        targets = self._pictures.targets
        return targets.std(axis=0) if targets.dtype.kind == "f" else np.ones(1)

    def last_notes(self) -> list[str]:
        return []


class Streamed:
    """Labeled pictures of any source that streams.

    Args:
        names: As `streams.open_stream` takes them.
        split: Of folders that are splits, the one to read; by default the first of `PREFERRED_SPLITS` that is there.
        image_column: The column of pictures in tables, guessed if not given.
        label_column: That of labels, or what they are called in samples of tars.
        na_as_class: Whether "NA" and the like are classes of that name.
        known: As `Held` takes it.
        limit: Likewise.

    Attributes:
        split: Which one it is.
        stream: The pictures.

    Raises:
        SourceError: There is no picture.
        MissingSplit: There is no such split.
    """

    def __init__(
        self,
        names: Sequence[str],
        split: str | None,
        image_column: str | None = None,
        label_column: str | Sequence[str] | None = None,
        na_as_class: bool = False,
        known: bool = False,
        limit: int | None = None,
    ) -> None:
        names, self.split = _of_split(names, split)
        self.stream = open_stream(names, choice=ColumnChoice(image_column, label_column))
        self._na_as_class = na_as_class
        self._known = known
        self._limit = limit
        self._targeting: Targeting | None = None
        self._left_out = 0

    @property
    def passed(self) -> Passed:
        return self.stream.passed

    def surveyed(self, problem_type: str | None, batch_size: int) -> Survey:
        """Looks at all labels, and at no picture."""
        survey = Survey(problem_type, self._na_as_class)
        for _, labeled in self.stream.labeled_ranges(sizes(batch_size)):
            survey.add(labeled)
        return survey

    def begin(self, model: Named) -> tuple[tuple[str, ...], list[str], int]:
        self._targeting = self.surveyed(model.problem_type, MOST_PICTURES).targeting(model, self._known)
        count = self._targeting.pictures
        self._limit = None if self._limit is not None and self._limit >= count else self._limit
        return self._targeting.labels, list(self._targeting.notes), self._limit or count

    def shards(self, batch_size: int, is_shared: bool = True) -> Iterator[LabeledShard]:
        targeting = self._targeting
        assert targeting is not None
        scored_before = start = number = 0
        for found, labeled in self.stream.labeled_ranges(sizes(batch_size, is_shared)):
            targets, scored = targeting.targets(labeled)
            is_labeled = np.array([one.label is not None for one in labeled], bool)
            self._left_out += int((is_labeled & ~scored).sum())
            picked = np.flatnonzero(scored)
            if self._limit is not None:  # spread evenly over all that are to be scored
                wanted = np.arange(self._limit) * targeting.pictures // self._limit
                inside = wanted[(wanted >= scored_before) & (wanted < scored_before + len(picked))]
                scored_before += len(picked)
                picked = picked[inside - scored_before + len(np.flatnonzero(scored))]
            if len(picked):
                yield LabeledShard(
                    number,
                    found.first,
                    found.last,
                    found.rows,
                    units=found.units,
                    targets=targets[picked],
                    picked=None if len(picked) == found.rows else picked,
                    start=start,
                )
                number += 1
            start += found.rows

    def deviations(self) -> Array:
        assert self._targeting is not None
        return self._targeting.deviations

    def last_notes(self) -> list[str]:
        assert self._targeting is not None
        return [left_out(self._left_out, self._targeting.unknown)] if self._targeting.unknown else []


class Reader:
    """Gives a worker the pictures of its shards.

    Args:
        stream: Where those are that a shard does not have itself.
    """

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream

    def read(self, shard: LabeledShard) -> Iterator[tuple[str, Any]]:
        """(name, source) pairs as `Predictor.stream` takes them, of the pictures that are to be scored.

        Raises:
            SourceError: The source is not what it was.
        """
        if shard.pictures is not None:
            yield from PictureSources(shard.pictures)
            return
        picked = None if shard.picked is None else set(shard.picked.tolist())
        entries = enumerate(self._stream.read(shard.first, shard.count, shard.units))
        yield from given(entry for place, entry in entries if picked is None or place in picked)

    def source(self, shard: LabeledShard, place: int) -> tuple[str, Any]:
        """One of the pictures that were scored, once more."""
        return next(islice(self.read(shard), place, None))


def is_streamed(names: Sequence[str]) -> bool:
    """Whether labeled pictures of these names are read as a stream, and not by `read_labeled`."""
    if len(names) != 1:
        return True
    [name] = names
    if is_address(name) or kind_of_file(name) == TAR:
        return True
    return not os.path.lexists(os.path.expanduser(name)) and (glob.has_magic(name) or has_braces(name))


def _of_split(names: Sequence[str], split: str | None) -> tuple[list[str], str | None]:
    """The names with the folders of one split in the place of those that hold splits, and which split that is."""
    found: list[str] = []
    chosen: str | None = None
    for name in names:
        folders, _ = split_folders(_folders_in(name))
        wanted = [one for one in ([split] if split else PREFERRED_SPLITS) if one is not None]
        key = next((key for one in wanted for key in (one, SPLIT_NAMES.get(one.lower(), one)) if key in folders), None)
        if key is None:
            if folders and split is not None:  # or those of all its splits would be taken for those of this one
                raise MissingSplit(f"{shown(name)}: no split {split!r}; there are {', '.join(folders)}")
            found.append(name)
        else:
            store = store_of(name)
            found += [store.join(name, os.fsencode(folder)) for folder in folders[key]]
            chosen = key
    if split is not None and chosen is None:
        raise MissingSplit(f"{', '.join(map(shown, names))}: no split {split!r}; it has no splits")
    return found, chosen


def _folders_in(name: str) -> list[str]:
    """The folders right in a folder."""
    store = store_of(name)
    try:
        if kind_of_file(name) is not None or glob.has_magic(name) or store.kind(name) != "folder":
            return []
        found = store.scan(name, Passed(), True)
        return sorted(os.fsdecode(name_of(record)) for kind, record in found if kind == FOLDER)
    except (OSError, SourceError) as error:
        raise DataError(f"{shown(name)}: cannot be read: {error}") from error


__all__ = ["Held", "LabeledShard", "LabeledSource", "Reader", "Streamed", "is_streamed"]

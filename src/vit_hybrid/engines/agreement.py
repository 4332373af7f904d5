"""Precision by a promise: the fastest way of all whose decisions are those of float32 as often as is asked.

Pictures are split in two. One half calibrates int8, and shows which ways are worth a test; on the other, which has
calibrated and shown nothing, a way has to hold what is asked with 95 % confidence, by the lower bound of Clopper and
Pearson (Biometrika 26, 1934). The second way that is tested there has to hold it with 97.5 %, the k-th with
1 - 0.05 / k, so that to try many is no way to find one by chance.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundles.cache import CacheUnusable, cache_folder, key_of
from ..bundles.calibration import PictureFolder, fingerprint_of, pictures_of
from ..checkpoints import published
from ..checkpoints.opening import Source
from ..checkpoints.opening import open as open_source
from ..data.listing import PICTURE, Passed
from ..errors import EngineError, EngineWarning, argument, one_line, shown
from ..files import replacing
from ..images.preparing import preparing
from ..outputs.problems import MULTI_LABEL, REGRESSION
from ..runtimes import DEFAULT_BATCH_SIZE, PRECISIONS
from . import kept
from .devices import device_name
from .kept import Table
from .loading import Progress, load
from .processor import instruction_sets
from .protocol import Array, LoadedEngine
from .racing import Clock, Race, Runner
from .ways import Wanted, Way, plain, precisions_here

CONFIDENCE = 0.95
FORMAT, FORMAT_VERSION, FOLDER = "vit-hybrid agreement", 1, "promised"
# Times the pictures that a promise takes at least: more make the bound hardly narrower.
MOST_TIMES = 4
# Shares of the patch tokens that all layers merge away together.
MERGED_SHARES = (1 / 3, 1 / 2, 2 / 3)
# Seconds for the race between those that hold what is asked.
RACING = 20.0


def pictures_needed(agreement: float, confidence: float = CONFIDENCE) -> int:
    """How many pictures a promise takes at least, all decided alike: the least n with agreement^n <= 1 - confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(agreement))


def lower_bound(agreed: int, total: int, confidence: float = CONFIDENCE) -> float:
    """What a share is at least, with this confidence, of which `agreed` of `total` were seen (Clopper and Pearson)."""
    if agreed == 0:
        return 0.0
    low, high = 0.0, agreed / total
    for _ in range(60):  # the bound is where so many or more would be seen with the probability 1 - confidence
        middle = (low + high) / 2
        if _at_least(agreed, total, middle) > 1 - confidence:
            high = middle
        else:
            low = middle
    return low


def _at_least(agreed: int, total: int, share: float) -> float:
    """The probability of `agreed` or more of `total`, each with the probability `share`."""
    if not 0.0 < share < 1.0:
        return share
    log, rest = math.log(share), math.log1p(-share)
    whole = math.lgamma(total + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(one + 1) - math.lgamma(total - one + 1) + one * log + (total - one) * rest)
        for one in range(agreed, total + 1)
    )


@dataclass(frozen=True)
class Candidate:
    """A way that was looked at.

    Attributes:
        way: The way.
        seconds: What a picture takes.
        looked: Share of the calibrating half that it decides as float32 does.
        agreed: Pictures of the other half likewise; None where it was not tested.
        bound: What its agreement is at least, by these.
    """

    way: Way
    seconds: float
    looked: float
    agreed: int | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Promise:
    """A way that decides as float32 as often as was asked.

    Attributes:
        way: The way.
        asked: The agreement that was asked for.
        needed: The pictures that this takes at least.
        tested: The pictures that were used: they calibrated nothing.
        agreed: How many of them are decided alike.
        bound: What the agreement is at least, with 95 % confidence or more.
        gain: How many times as fast as float32 it is.
        candidates: All that were looked at, the fastest first.
        notes: What else there is to say, a line each.
        folder: The pictures.
        max_pixels: The most that one of them may have.
    """

    way: Way
    asked: float
    needed: int
    tested: int
    agreed: int
    bound: float
    gain: float
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    folder: str
    max_pixels: int | None

    def options(self) -> dict[str, Any]:
        """What `engines.load` takes."""
        calibration = PictureFolder(self.folder, self.max_pixels, half=True) if self.way.precision == "int8" else None
        return {**self.way.options(), "calibration": calibration}

    def said(self) -> str:
        """All of it in a line."""
        loss = self.tested - self.agreed
        return (
            f"{self.way.name}: {self.gain:.2f} times as fast as float32, and decides {self.agreed:,} of "
            f"{self.tested:,} pictures as it does, {loss:,} otherwise, so at least {self.bound:.2%} with 95 % "
            f"confidence; {self.asked:g} takes {self.needed:,} pictures or more"
        )


def promised(
    model: str | os.PathLike[str],
    agreement: float,
    calibration: str | os.PathLike[str],
    *,
    engine: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    max_pixels: int | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    merging: bool = True,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Promise:
    """Finds the fastest way to run a model that holds an agreement with float32, or takes what is kept of one.

    Args:
        model: What `load` takes by name, but no bundle.
        agreement: The share of pictures that are to be decided as in float32, between 0 and 1.
        calibration: A folder of pictures like those the model is for; every second one calibrates, the others test.
        engine: The only one to look at; all that are here by default.
        precision: The only one to look at besides float32; likewise.
        threads: How many compute; each engine's own number by default.
        max_pixels: The most pixels that a picture may have.
        batch_size: Pictures that go through at once.
        merging: Whether merging tokens is looked at, too.
        clock: What tells the time.
        progress: Called with what is being done.

    Raises:
        EngineError: There are too few pictures, the model decides nothing, or an argument cannot be used.
        ModelLoadError: There is no such model.
    """
    if not 0 < agreement < 1:
        raise EngineError(f"{argument('agreement')} is {agreement:g}; expected a share between 0 and 1, such as 0.995.")
    source = open_source(model)
    if source.kind == "bundle":
        raise EngineError(f"{shown(model)}: a bundle's precision is settled; give the model that it was exported from.")
    passed = Passed()
    halves = pictures_of(calibration, passed)
    needed = pictures_needed(agreement)
    looking, testing = halves[::2], halves[1::2]
    if len(testing) < needed:
        raise EngineError(
            f"{shown(calibration)}: {argument('agreement')} {agreement:g} takes {needed:,} pictures that calibrate "
            f"nothing, so {2 * needed:,} in this folder, and it has {len(halves):,}; give more, or ask for less."
        )
    folder = PictureFolder(os.fspath(calibration), max_pixels, half=True)
    about = {
        **kept.where(device_name(None)),
        "model": source.provenance(),
        "pictures": fingerprint_of(folder),
        "asked": [agreement, engine, precision, threads, batch_size, merging],
    }
    promise = _read(about, folder)
    if promise is None:
        search = _Search(source, folder, threads, batch_size, clock or Clock(), progress or (lambda text: None))
        with search.pictures(looking[: MOST_TIMES * needed], testing[: MOST_TIMES * needed], passed):
            promise = search.run(agreement, needed, engine, precision, merging)
        _keep(about, promise)
    if passed:
        warnings.warn(EngineWarning(f"calibration {passed.line()}"), stacklevel=2)
    return promise


class _Search:
    def __init__(
        self,
        source: Source,
        folder: PictureFolder,
        threads: int | None,
        batch_size: int,
        clock: Clock,
        say: Progress,
    ) -> None:
        self._source, self._folder = source, folder
        self._threads, self._batch_size = threads, batch_size
        self._clock, self._say = clock, say
        self._engines: dict[Way, LoadedEngine] = {}

    def pictures(
        self, looking: Sequence[str], testing: Sequence[str], passed: Passed
    ) -> tempfile.TemporaryDirectory[str]:
        """Decodes the pictures into files that are there as long as what is given back is open; counts as passed over
        those that cannot be read."""
        place = tempfile.TemporaryDirectory(prefix="vit-hybrid-agreement-")
        try:
            self._say(f"Reading {len(looking) + len(testing):,} pictures")
            self._looking = self._decoded(looking, Path(place.name, "looking.npy"), passed)
            self._testing = self._decoded(testing, Path(place.name, "testing.npy"), passed)
        except BaseException:
            place.cleanup()
            raise
        return place

    def _decoded(self, paths: Sequence[str], file: Path, passed: Passed) -> Array:
        config = self._source.config
        from ..model.geometry import as_pair

        size = as_pair(config.image_size)
        how = self._source.preprocessing or published.preprocessing(size, config.num_channels)
        prepare = preparing(how, max_pixels=self._folder.max_pixels)
        pixels = np.lib.format.open_memmap(file, "w+", np.float32, (len(paths), config.num_channels, *size))
        count = 0
        for path in paths:
            try:
                pixels[count] = np.asarray(prepare(path))
            except (OSError, ValueError):  # as calibration does
                passed.add(PICTURE, path)
                continue
            count += 1
        return pixels[:count]

    def run(self, agreement: float, needed: int, engine: str | None, precision: str | None, merging: bool) -> Promise:
        if len(self._testing) < needed:
            raise EngineError(
                f"{shown(self._folder.path)}: {argument('agreement')} {agreement:g} takes {needed:,} pictures that "
                f"calibrate nothing, and of those {len(self._testing):,} can be read; give more of them."
            )
        if not len(self._looking):
            raise EngineError(
                f"{shown(self._folder.path)}: every second picture calibrates, and of those none can be read; give "
                "others."
            )
        shape = kept.shape_of(self._source.fields())
        table = kept.read(shape, device_name(None)) or Table()
        base = self._opened("f32", table, engine) or self._opened("f32", table, None)
        if base is None:
            raise EngineError(f"nothing here can run {shown(self._source.name)} in float32.")
        problem = self._engines[base].spec.problem_type
        if problem == REGRESSION:
            raise EngineError(f"{shown(self._source.name)}: a regression decides nothing that could agree.")
        self._is_multi_label = problem == MULTI_LABEL
        looked, tested = self._decisions(base, self._looking), self._decisions(base, self._testing)
        ways = [base]
        for narrower in precisions_here(instruction_sets()):
            if narrower != "f32" and precision in (None, narrower):
                ways += filter(None, [self._opened(narrower, table, engine)])
        found = self._raced(ways, looked)
        notes = _not_faster(found)
        if merging:
            holding = [one for one in found if one.looked >= agreement]
            merged = self._merged(min(holding, key=lambda one: one.seconds).way, looked, agreement)
            if merged:
                found = self._raced([*ways, *merged], looked)
        seconds = next(candidate.seconds for candidate in found if candidate.way == base)
        tries = 0
        for place, candidate in enumerate(found):
            if candidate.way == base:
                agreed, bound = len(tested), lower_bound(len(tested), len(tested))
            elif candidate.looked < agreement:
                continue
            else:
                tries += 1
                agreed = int((self._decisions(candidate.way, self._testing) == tested).all(axis=1).sum())
                bound = lower_bound(agreed, len(tested), 1 - (1 - CONFIDENCE) / tries)
                found[place] = replace(candidate, agreed=agreed, bound=bound)
            if bound >= agreement:
                gain = seconds / candidate.seconds
                return Promise(
                    *(candidate.way, agreement, needed, len(tested), agreed, bound, gain, tuple(found), tuple(notes)),
                    folder=os.fspath(self._folder.path),
                    max_pixels=self._folder.max_pixels,
                )
        raise AssertionError("float32 agrees with itself")

    def _opened(self, precision: str, table: Table, engine: str | None) -> Way | None:
        """The way of a precision: as it was measured, else the first that can run; None where none can."""
        wanted = Wanted(engine, precision, compiled=False, threads=self._threads)
        row = table.best(wanted, self._batch_size)
        ways = [replace(one, threads=self._threads) for one in plain(precision) if wanted.allows(one)]
        ways.sort(key=lambda one: one.engine == "torch")  # which others are faster than where nobody has measured
        for way in [row.way] if row is not None else ways:
            if self._open(way):
                return way
        return None

    def _open(self, way: Way) -> bool:
        self._say(f"Starting {way.name}")
        calibration = self._folder if way.precision == "int8" else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EngineWarning)
                loaded = load(self._source.name, calibration=calibration, progress=self._say, **way.options())
        except EngineError:
            return False
        if loaded.precision == way.precision:
            loaded.expect(self._batch_size)
            self._engines[way] = loaded
        return way in self._engines

    def _merged(self, way: Way, expected: Array, agreement: float) -> list[Way]:
        """The way with more and more tokens merged, as long as the calibrating half agrees."""
        from ..model.geometry import as_pair

        config = self._source.config
        rows, columns = as_pair(config.grid_size)
        found: list[Way] = []
        for share in MERGED_SHARES:
            number = int(rows * columns * share / config.num_hidden_layers)  # what each layer merges on average
            merged = replace(way, token_merging=number)
            if number < 1 or merged in found:  # few tokens in many layers: a larger share may be another number
                continue
            if not self._open(merged) or self._share(merged, expected) < agreement:
                break
            found.append(merged)
        return found

    def _raced(self, ways: Sequence[Way], expected: Array) -> list[Candidate]:
        """The ways with what each takes and agrees, the fastest first."""
        # Before they are timed, since the first batch of a size takes longer: kernels are made for it, memory is taken.
        shares = {way: self._share(way, expected) for way in ways}
        pixels = np.ascontiguousarray(self._looking[: self._batch_size])
        runners = {way: Runner(lambda way=way: self._engines[way].run(pixels)) for way in ways}  # type: ignore[misc]
        self._say(f"Timing {len(ways)} ways")
        standings = Race(runners, RACING, self._clock).run()
        found = [
            Candidate(way, standing.seconds / len(pixels), shares[way])
            for way, standing in standings.items()
            if standing.error is None
        ]
        return sorted(found, key=lambda one: one.seconds)

    def _share(self, way: Way, expected: Array) -> float:
        return float((self._decisions(way, self._looking) == expected).all(axis=1).mean())

    def _decisions(self, way: Way, pixels: Array) -> Array:
        """(N, 1) the label, or (N, labels) which of them."""
        self._say(f"Asking {way.name} of {len(pixels):,} pictures")
        engine, found = self._engines[way], []
        for start in range(0, len(pixels), self._batch_size):
            logits = engine.logits(np.ascontiguousarray(pixels[start : start + self._batch_size]))
            found.append(logits > 0 if self._is_multi_label else logits.argmax(1, keepdims=True))
        return np.concatenate(found)


def _not_faster(found: Sequence[Candidate]) -> list[str]:
    seconds = {one.way.precision: one.seconds for one in found}
    notes: list[str] = []
    wider: list[str] = []
    for precision in PRECISIONS:  # the widest first
        if precision not in seconds:
            continue
        faster = next((one for one in wider if seconds[one] <= seconds[precision]), None)
        if faster is not None:
            notes.append(f"{precision} is not faster than {faster} on this processor")
        wider.append(precision)
    return notes


def _path(about: Mapping[str, Any]) -> Path:
    return cache_folder() / FOLDER / f"{key_of(about)}.json"


def _read(about: Mapping[str, Any], folder: PictureFolder) -> Promise | None:
    try:
        path = _path(about)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (CacheUnusable, FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        warnings.warn(EngineWarning(f"{shown(path)}: cannot be read ({one_line(error)}); passed over"), stacklevel=3)
        return None
    try:
        form = (content["format"], content["format_version"])
        if form != (FORMAT, FORMAT_VERSION) or content["about"] != json.loads(json.dumps(about)):
            raise ValueError("it is of something else")
        said = content["promise"]
        candidates = tuple(Candidate(**{**one, "way": Way.from_fields(one["way"])}) for one in said["candidates"])
        fields = {**said, "way": Way.from_fields(said["way"]), "candidates": candidates, "notes": tuple(said["notes"])}
        return Promise(**{**fields, "folder": os.fspath(folder.path)})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        warnings.warn(EngineWarning(f"{shown(path)}: is damaged ({one_line(error)}); passed over"), stacklevel=3)
        return None


def _keep(about: Mapping[str, Any], promise: Promise) -> None:
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "about": about, "promise": asdict(promise)}
    try:
        path = _path(about)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except (CacheUnusable, OSError) as error:
        why = getattr(error, "strerror", None) or one_line(error)
        warnings.warn(EngineWarning(f"what was chosen cannot be kept ({why}), and holds for now"), stacklevel=3)


__all__ = ["Candidate", "Promise", "lower_bound", "pictures_needed", "promised"]

"""What runs a model fastest here, found by a race within each precision, and kept for whoever loads it.

`auto` then follows it: see `loading.load`. How the race goes is in `racing`, what takes part in `ways`, what is kept in
`kept`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..assets import BUILT_IN_MODEL
from ..bundles import cache
from ..bundles.calibration import FEWEST_PICTURES, calibration_pixels
from ..checkpoints import published
from ..checkpoints.opening import Source
from ..checkpoints.opening import open as open_source
from ..errors import EngineError, EngineWarning, one_line
from ..runtimes import PRECISIONS
from . import kept
from .devices import device_name, take_threads
from .kept import Row, Table
from .loading import load
from .processor import instruction_sets
from .protocol import LoadedEngine
from .racing import Clock, Race, Runner
from .ways import Way, laid_out, plain, precisions_here, threaded

# Pictures that go through at once: one, a few, and a job's.
BATCH_SIZES = (1, 4, 16)
# Minutes: of the model in the package, and at most of others.
BUILT_IN_MINUTES, MOST_MINUTES = 1.0, 5.0
# What is so much slower than the best one, of one picture, is not tried with more pictures or with other settings.
NEAR = 1.5
# Of the time for passes: once so much of it is over, with conversion and compiling, no further engine is started in a
# precision that something runs in.
PATIENCE = 2.0
# Seconds that quantization may take here, where only the time of what comes of it counts.
QUANTIZING = 60.0
# Of random weights and pixels, so that every run has the same.
SEED = 0

# Called with the share of the time that is over, and what is being done.
Progress = Callable[[float, str], object]


@dataclass(frozen=True)
class Tried:
    """What became of a way at the start.

    Attributes:
        way: The way.
        converting: Seconds of conversion and quantization, which later starts do without.
        compiling: Seconds of `torch.compile`, which comes again with each start.
        error: Why it cannot run here, in a line.
    """

    way: Way
    converting: float = 0.0
    compiling: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Tuning:
    """What a race found.

    Attributes:
        model: What was asked about.
        image_size: (height, width) in pixels.
        about: The processor, cores and libraries that it holds for.
        table: The times.
        tried: How each way started.
        racing: Seconds that passes took.
        converting: Seconds that conversion and quantization took.
        compiling: Seconds that compiling took.
        file: Where it is kept; None where it is not.
    """

    model: str
    image_size: tuple[int, int]
    about: Mapping[str, Any]
    table: Table
    tried: tuple[Tried, ...]
    racing: float
    converting: float
    compiling: float
    file: Path | None

    def winners(self) -> list[Row]:
        """The fastest of each precision and batch size."""
        return kept.winners(self.table.rows)

    def notes(self) -> list[str]:
        """What else there is to say, a line each."""
        return [
            f"{precision} is not faster than {wider} on this processor"
            for precision, wider in self.table.slower_than_wider().items()
        ]

    def report(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        best = {(row.way, row.batch_size) for row in self.winners()}
        return {
            "model": self.model,
            "image_size": list(self.image_size),
            **self.about,
            "rows": [
                {
                    "name": row.way.name,
                    **asdict(row.way),
                    "batch_size": row.batch_size,
                    "milliseconds": 1000 * row.seconds,
                    "pictures_per_second": 1 / row.seconds_a_picture,
                    "rounds": row.rounds,
                    "is_fastest": (row.way, row.batch_size) in best,
                }
                for row in self.table.rows
            ],
            "failures": [
                {"name": one.way.name, **asdict(one.way), "error": one.error}
                for one in self.tried
                if one.error is not None
            ],
            "seconds": {"racing": self.racing, "converting": self.converting, "compiling": self.compiling},
            "notes": self.notes(),
            "kept": self.file is not None,
        }


def tune(
    model: str | os.PathLike[str] = BUILT_IN_MODEL,
    precision: str | None = None,
    image_size: tuple[int, int] | None = None,
    minutes: float | None = None,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Races what can run a model here, and keeps what it finds for all models of this shape.

    Args:
        model: What `load` takes by name, but no bundle; or a published architecture, with random weights.
        precision: One of `runtimes.PRECISIONS`; all that the processor has instructions for by default.
        image_size: (height, width) in pixels; the model's own by default.
        minutes: How long passes may take in all; by default one for the model in the package, else five. Conversion and
            compiling come on top; in twice that time no more of them is begun.
        batch_sizes: Pictures that go through at once.
        clock: What tells the time.
        progress: Called as it goes on.

    Raises:
        ModelLoadError: There is no such model.
        EngineError: It is a bundle, nothing here can run it, or an argument cannot be used.
    """
    if precision is not None and precision not in PRECISIONS:
        raise EngineError(f"precision is {precision!r}; expected {', '.join(map(repr, PRECISIONS))}.")
    if minutes is None:
        minutes = BUILT_IN_MINUTES if os.fspath(model) == BUILT_IN_MODEL and image_size is None else MOST_MINUTES
    if not minutes > 0:
        raise EngineError(f"minutes is {minutes:g}; expected more than 0.")
    say = progress or (lambda share, text: None)
    device = device_name(None)
    precisions = (precision,) if precision else precisions_here(instruction_sets(), device == "cpu")
    say(0.0, "Opening the model")
    with opened(model, image_size) as source:
        track = Track(source, device, clock or Clock(), minutes * 60, say)
        for number, one in enumerate(precisions):
            track.race_precision(one, batch_sizes, len(precisions) - number)
        if not track.rows:
            reasons = "; ".join(dict.fromkeys(one.error for one in track.tried.values() if one.error is not None))
            raise EngineError(f"nothing here can run {os.fspath(model)} in {' or '.join(precisions)}: {reasons}")
        shape = kept.shape_of(source.fields())
        size = track.image_size
    before = kept.read(shape, device) or Table()
    table = before.with_rows(track.rows.values())
    return Tuning(
        model=os.fspath(model),
        image_size=size,
        about=kept.where(device),
        table=Table(tuple(track.rows.values())),
        tried=tuple(track.tried.values()),
        racing=track.racing,
        converting=sum(one.converting for one in track.tried.values()),
        compiling=sum(one.compiling for one in track.tried.values()),
        file=kept.keep(table, shape, device),
    )


@contextmanager
def opened(model: str | os.PathLike[str], image_size: tuple[int, int] | None) -> Iterator[Source]:
    """The model, saved anew for as long as the block lasts where it is to be of another size or has no weights.

    Raises:
        EngineError: It is a bundle.
    """
    source = open_source(model, random_weights=True)
    if source.kind == "bundle":
        raise EngineError(
            f"{os.fspath(model)}: this is a bundle, whose engine was settled when it was exported; give the model that "
            "it was exported from."
        )
    if source.kind != "preset" and image_size is None:
        yield source
        return
    import torch

    with tempfile.TemporaryDirectory(prefix="vit-hybrid-tune-") as place, cache.elsewhere(Path(place, "cache")):
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", EngineWarning)  # of random weights, which take as long as others
            torch.manual_seed(SEED)
            source.classifier(image_size).save_pretrained(Path(place, "model"))
            source.processor(image_size).save_pretrained(Path(place, "model"))
        yield open_source(Path(place, "model"))


@dataclass
class Track:
    """Where a race is run: the engines that are loaded, and what they took so far.

    Args:
        source: The model.
        device: "cpu", or the accelerator's name.
        clock: What tells the time.
        seconds: How long passes may take in all.
        say: Called as it goes on.
        steadily: Whether passes are those of jobs whose rows depend on nothing else.
        given: What `load` is given besides; None for a race alone, which quantizes for the time of it and no more.

    Attributes:
        rows: The times, by way and batch size.
        tried: How each way started.
        racing: Seconds that passes took.
    """

    source: Source
    device: str
    clock: Clock
    seconds: float
    say: Progress
    steadily: bool = False
    given: Mapping[str, Any] | None = None
    rows: dict[tuple[Way, int], Row] = field(default_factory=dict)
    tried: dict[Way, Tried] = field(default_factory=dict)
    racing: float = 0.0
    _engines: dict[Way, LoadedEngine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = self.clock.now()
        self._pixels: np.ndarray | None = None
        self.image_size = (0, 0)

    def race_precision(self, precision: str, batch_sizes: Sequence[int], precisions_left: int) -> None:
        """Races within a precision: what is plain, then torch's other settings, then numbers of threads."""
        on_cpu = self.device == "cpu"
        end = self.racing + (self.seconds - self.racing) / precisions_left
        entrants = list(plain(precision, on_cpu))
        for stage in range(3):
            if stage == 1:
                best = self.best(precision, engine="torch")
                is_near = best is not None and best.seconds <= NEAR * self._least(precision)
                entrants = list(laid_out(best.way, can_compile(on_cpu))) if best is not None and is_near else []
            elif stage == 2:
                best = self.best(precision)
                # What is compiled would be compiled anew for each number.
                is_free = best is not None and on_cpu and not best.way.compiled
                entrants = list(threaded(best.way)) if best is not None and is_free else []
            entrants = [way for way in entrants if self.open(way)]
            best = self.best(precision)
            if stage and best is not None and entrants:
                entrants.insert(0, best.way)
            for number, size in enumerate(sorted(set(batch_sizes))):
                races_left = (3 - stage) * len(batch_sizes) - number
                self.race(entrants, size, (end - self.racing) / max(1, races_left))
        self._engines.clear()

    def best(self, precision: str, engine: str | None = None) -> Row | None:
        """The fastest so far, of the least number of pictures."""
        rows = [row for row in self.rows.values() if row.way.precision == precision]
        rows = [row for row in rows if engine in (None, row.way.engine)]
        least = min((row.batch_size for row in rows), default=0)
        return min((row for row in rows if row.batch_size == least), key=lambda row: row.seconds, default=None)

    def _least(self, precision: str) -> float:
        best = self.best(precision)
        return float("inf") if best is None else best.seconds

    def open(self, way: Way) -> bool:
        """Loads the engine for a way; whether it can run."""
        if way in self.tried:
            return self.tried[way].error is None
        is_late = self.racing >= self.seconds or self.clock.now() - self._began > PATIENCE * self.seconds
        if is_late and any(raced.precision == way.precision for raced, _ in self.rows):
            return False
        self.say(self._share(), f"Starting {way.name}")
        # An engine of torch that is not compiled changes its attention and its threads as it goes.
        alike = next((other for other in self._engines if _same_engine(way, other)), None)
        converting = compiling = 0.0
        try:
            if alike is not None:
                self._engines[way] = self._engines[alike]
            else:
                self._engines[way], converting = self._load(way)
            if self._pixels is None:
                spec = self._engines[way].spec
                self.image_size = spec.image_size
                generator = np.random.default_rng(SEED)
                shape = (max(BATCH_SIZES), spec.num_channels, *spec.image_size)
                self._pixels = generator.standard_normal(shape, np.float32)
            start = self.clock.now()
            self._ready(way)
            self._go(way, 1)
            compiling = self.clock.now() - start if way.compiled else 0.0
            self.tried[way] = Tried(way, converting, compiling)
        except Exception as error:  # of whatever library: this way cannot run here
            self._engines.pop(way, None)
            self.tried[way] = Tried(way, converting, compiling, one_line(error))
        return self.tried[way].error is None

    def _load(self, way: Way) -> tuple[LoadedEngine, float]:
        said: list[str] = []
        options = way.options()
        start = self.clock.now()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EngineWarning)
            is_for_now = way.precision == "int8" and self.given is None
            if is_for_now:
                options |= {"calibration": self._calibration(), "time_limit": QUANTIZING}
            with _for_now() if is_for_now else nullcontext():
                loaded = load(self.source.name, progress=said.append, **{**(self.given or {}), **options})
        if loaded.precision != way.precision:
            raise EngineError(f"{way.engine} computes in {loaded.precision} here, not in {way.precision}")
        return loaded, self.clock.now() - start if said else 0.0

    def _calibration(self) -> np.ndarray:
        config = self.source.config
        from ..model.geometry import as_pair

        size = as_pair(config.image_size)
        how = self.source.preprocessing or published.preprocessing(size, config.num_channels)
        return calibration_pixels(None, how, (config.num_channels, *size), FEWEST_PICTURES).pixel_values

    def race(self, entrants: Iterable[Way], batch_size: int, seconds: float) -> None:
        """Races these at a batch size, and takes down what they took; what is slow with one picture stays out."""
        ways = [way for way in entrants if way in self._engines]
        first = {way: self.rows[way, 1].seconds for way in ways if (way, 1) in self.rows}
        if batch_size > 1 and first:
            least = min(first.values())
            near = [way for way in ways if first.get(way, least) <= NEAR * least]
            ways = sorted(near, key=lambda way: first.get(way, least))
            # Each has to make a pass at least, and one more tells little if the first was its only one.
            while ways and 2 * batch_size * sum(first.get(way, least) for way in ways) > max(seconds, 0.0):
                ways.pop()
        if not ways or (batch_size > 1 and seconds <= 0):
            return
        for way in [one for one in ways if one.compiled and batch_size > 1]:  # each size is compiled for itself
            start = self.clock.now()
            try:
                self._ready(way)
                self._go(way, batch_size)
            except Exception as error:  # of whatever compiler: the others go on
                self.tried[way] = replace(self.tried[way], error=one_line(error))
                ways.remove(way)
                continue
            one = self.tried[way]
            self.tried[way] = replace(one, compiling=one.compiling + self.clock.now() - start)
        for way in ways:
            self._engines[way].expect(batch_size)
        runners = {way: self._runner(way, batch_size) for way in ways}
        start = self.clock.now()

        def tell() -> None:
            self.say(self._share(self.clock.now() - start), f"Timing {ways[0].precision}, {batch_size} at once")

        standings = Race(runners, seconds, self.clock, tell=tell).run()
        self.racing += self.clock.now() - start
        for way, standing in standings.items():
            if standing.error is not None:
                self.tried[way] = Tried(way, error=one_line(standing.error))
                self._engines.pop(way, None)
                continue
            before = self.rows.get((way, batch_size))
            least = standing.seconds if before is None else min(before.seconds, standing.seconds)
            rounds = standing.rounds + (0 if before is None else before.rounds)
            self.rows[way, batch_size] = Row(way, batch_size, least, rounds)

    def timed(self, way: Way, batch_size: int) -> float:
        """Seconds that a pass takes now."""
        self._ready(way)
        start = self.clock.now()
        self._go(way, batch_size)
        return self.clock.now() - start

    def _runner(self, way: Way, batch_size: int) -> Runner:
        return Runner(lambda: self._go(way, batch_size), lambda: self._ready(way))

    def _ready(self, way: Way) -> None:
        if way.engine != "torch":
            return
        take_threads(way.threads)
        model = self._engines[way].model  # type: ignore[attr-defined]
        if not way.compiled and way.attention is not None and model.config._attn_implementation != way.attention:
            model.set_attn_implementation(way.attention)

    def _go(self, way: Way, batch_size: int) -> None:
        assert self._pixels is not None
        engine = self._engines[way]
        repeated = -(-batch_size // len(self._pixels))
        pixels = np.concatenate([self._pixels] * repeated) if repeated > 1 else self._pixels
        (engine.run_steadily if self.steadily else engine.run)(pixels[:batch_size])

    def _share(self, more: float = 0.0) -> float:
        return min(1.0, (self.racing + more) / self.seconds)


def _same_engine(way: Way, other: Way) -> bool:
    """Whether the engine that was loaded for one way runs another one, too."""
    if way.engine != "torch" or way.compiled or other.compiled:
        return False
    return (way.engine, way.precision, way.channels_last, way.token_merging) == (
        other.engine,
        other.precision,
        other.channels_last,
        other.token_merging,
    )


@contextmanager
def _for_now() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="vit-hybrid-tune-") as place, cache.elsewhere(Path(place)):
        yield


def can_compile(on_cpu: bool) -> bool:
    """Whether `torch.compile` finds what it needs: on a CPU a C++ compiler."""
    return not on_cpu or any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


__all__ = [
    *("BATCH_SIZES", "BUILT_IN_MINUTES", "MOST_MINUTES", "Track", "Tried", "Tuning", "can_compile", "opened", "tune"),
]

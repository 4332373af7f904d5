"""How a job runs its model, settled before its first picture: what is kept for the machine, or a short race of its own.

A race takes part of the job's own time, so only long jobs run one, and only where nothing is kept: at most 2 % of what
the job takes as engines are chosen without measuring.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..checkpoints.opening import Source
from ..checkpoints.opening import open as open_source
from ..errors import EngineWarning
from ..runtimes import AUTO, DEFAULT_BATCH_SIZE
from . import kept
from .devices import device_name
from .kept import Table, measured
from .loading import Progress
from .racing import Clock
from .tuning import Track
from .ways import Wanted, Way, chosen, named, plain

# Of a job, the share that its race may take, and the seconds at most; those of a server, which has no end.
MOST_SHARE, MOST_SECONDS, SECONDS_OF_A_SERVER = 0.02, 60.0, 10.0
# Jobs of fewer pictures do not race, nor do those of models that take less of the processor's time for a picture than
# decoding and preparing a photograph of 500 x 375 does on an AMD EPYC, whatever else the machine does meanwhile.
FEWEST_PICTURES, LEAST_WORK = 1000, 0.004
# Seconds: what starting another engine is taken to need where nothing is known of it, with a conversion. A guess: of
# the model in the package a first start takes 11.5 s of an AMD EPYC.
STARTING = 15.0


@dataclass(frozen=True)
class Settled:
    """How a job runs its model.

    Attributes:
        way: The way; None for what `load` takes where nobody has measured.
        batch_size: Pictures that go through at once.
        said: What was chosen by a race, in a line; None where none was run.
    """

    way: Way | None
    batch_size: int
    said: str | None = None

    def options(self) -> dict[str, Any]:
        """What `engines.load` takes, so that it runs so and follows nothing that is measured meanwhile."""
        return {"tuned": False} if self.way is None else self.way.options()


def settle(
    model: str | os.PathLike[str],
    options: Mapping[str, Any],
    batch_size: int | None = None,
    pictures: Callable[[], float] | float | None = None,
    *,
    may_race: bool = True,
    steadily: bool = False,
    clock: Clock | None = None,
    tell: Progress | None = None,
) -> Settled:
    """Settles how a job runs a model; a race's outcome is kept, and told in a warning.

    Args:
        model: What `load` takes by name.
        options: What `load` takes besides, as far as it was given by hand.
        batch_size: Pictures that go through at once; None where that may be chosen, too.
        pictures: How many the job has at least, or what counts them where that is needed; infinite for a server; None
            where nobody knows.
        may_race: Whether a race may be run where nothing is kept.
        steadily: Whether rows are to depend on nothing but their picture, as `LoadedEngine.run_steadily` gives them.
        clock: What tells the time.
        tell: Called with what is being done.

    Raises:
        ModelLoadError: There is no such model.
    """
    source = open_source(model)
    engine, precision = options.get("engine") or AUTO, options.get("precision") or AUTO
    if options.get("dtype") is not None:
        engine = "torch"  # whose word it is
    wanted = Wanted(
        None if engine == AUTO else engine,
        named(precision, options.get("dtype")),
        options.get("attention"),
        options.get("compile") or None,
        options.get("channels_last"),
        options.get("threads"),
    )
    size = batch_size or DEFAULT_BATCH_SIZE
    if source.kind == "bundle" or wanted.precision is None or options.get("dynamic"):
        return Settled(None, size)
    row = measured(source, wanted, options.get("device"), batch_size)
    if row is not None:
        return Settled(_with(row.way, options), batch_size or row.batch_size)
    number = pictures() if may_race and callable(pictures) else pictures
    if not may_race or number is None or callable(number) or number < FEWEST_PICTURES:
        return Settled(None, size)
    return _raced(source, wanted, options, batch_size, number, steadily, clock or Clock(), tell)


def _with(way: Way, options: Mapping[str, Any]) -> Way:
    """A way with what a race leaves alone."""
    return replace(way, token_merging=options.get("token_merging"))


def _raced(
    source: Source,
    wanted: Wanted,
    options: Mapping[str, Any],
    batch_size: int | None,
    pictures: float,
    steadily: bool,
    clock: Clock,
    tell: Progress | None,
) -> Settled:
    assert wanted.precision is not None
    began = clock.now()
    size = batch_size or DEFAULT_BATCH_SIZE
    device = device_name(options.get("device"))
    only_torch = {name: options.get(name) for name in ("compile", "attention", "channels_last")}
    by_default = chosen(wanted.engine or AUTO, wanted.precision, options.get("device"), only_torch)
    ways = [replace(way, threads=wanted.threads) for way in plain(wanted.precision, device == "cpu")]
    ways = [way for way in ways if wanted.allows(way)]
    first = next((way for way in ways if way.engine == by_default), None)
    if first is None or wanted.compiled:
        return Settled(None, size)

    def say(share: float, text: str) -> None:
        if tell is not None:
            tell(text)

    given = {name: options[name] for name in ("calibration", "max_pixels", "time_limit", "output") if name in options}
    most = SECONDS_OF_A_SERVER if math.isinf(pictures) else MOST_SECONDS
    track = Track(source, device, clock, most, say, steadily, given)
    if not track.open(first):
        return Settled(None, size)  # the job says why
    opening = clock.now() - began
    track.timed(first, size)  # the first one is slower
    before = clock.worked()
    seconds = track.timed(first, size)
    work = clock.worked() - before
    budget = min(MOST_SHARE * pictures * seconds / size, most)
    if work / size < LEAST_WORK or clock.now() - began >= budget:
        return Settled(None, size)
    for way in ways:
        # Quantizing anew would take minutes.
        is_cheap = way.engine == first.engine
        costs = opening if is_cheap or track.tried[first].converting else STARTING
        if way != first and (is_cheap or wanted.precision != "int8") and costs < budget - (clock.now() - began):
            track.open(way)
    entrants = [way for way in ways if way in track.tried and track.tried[way].error is None]
    sizes = [batch_size] if batch_size else [size, size // 4, 2 * size]
    for number, one in enumerate(sizes):
        left = budget - (clock.now() - began)
        if len(entrants) * len(sizes) > 1 and left > 0:
            track.race(entrants, one, left / (len(sizes) - number))
    if not track.rows:
        return Settled(None, size)
    table = Table(tuple(track.rows.values()))
    row = table.best_of_all_batches(wanted) if batch_size is None else table.best(wanted, size)
    assert row is not None
    shape = kept.shape_of(source.fields())
    kept.keep((kept.read(shape, device) or Table()).with_rows(table.rows), shape, device)
    batches = f", with batches of {', '.join(map(str, sorted(sizes)))}," if len(sizes) > 1 else ""
    what = f"one way to run it{batches} was" if len(entrants) == 1 else f"{len(entrants)} ways to run it{batches} were"
    said = (
        f"nothing was kept of this machine and model, so {what} raced for "
        f"{clock.now() - began:.1f} s: {row.way.name}, {row.batch_size} pictures at once; vit-hybrid tune looks longer"
    )
    warnings.warn(EngineWarning(said), stacklevel=4)
    return Settled(_with(row.way, options), row.batch_size, said)


__all__ = ["FEWEST_PICTURES", "MOST_SECONDS", "MOST_SHARE", "SECONDS_OF_A_SERVER", "Settled", "settle"]

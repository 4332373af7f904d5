"""The model of a command, as the options of an engine say, or as a race or a promise has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..runtimes import AUTO
from .options import EngineOptions, FeatureOptions
from .session import loading
from .streams import complain

if TYPE_CHECKING:
    from ..inference.predictor import Predictor

# The options of the running command that a person typed, by their arguments' names.
_typed: ContextVar[frozenset[str]] = ContextVar("typed", default=frozenset())


def note_typed(names: Iterable[str]) -> None:
    """Keeps which options were typed."""
    _typed.set(frozenset(names))


def by_hand(model: str, engine: FeatureOptions, tell: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The options of an engine as arguments; None for the batch size where nobody typed it, and it may be chosen."""
    options = engine_arguments(model, engine, tell)
    return {**options, "batch_size": options["batch_size"] if "batch_size" in _typed.get() else None}


def engine_arguments(model: str, engine: FeatureOptions, tell: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The options of an engine as arguments of what loads it; where an agreement is asked for, of what holds it.

    Args:
        model: The model.
        engine: The options.
        tell: Called with what is being done.

    Raises:
        ValueError: There is no folder of pictures, or another option says already what is to be chosen.
    """
    options = {**vars(engine)}
    agreement = options.pop("agreement")
    if agreement is None:
        return options
    if options["calibration"] is None:
        raise ValueError("--agreement needs --calibration: a folder of pictures to calibrate and to test with.")
    taken = [name for name in ("device", "dtype", "compile", "token_merging") if options.get(name)]
    if taken:
        raise ValueError(f"--agreement chooses how the model runs; leave out --{taken[0].replace('_', '-')}.")
    from ..engines.agreement import promised

    found = promised(
        os.path.expanduser(model),
        agreement,
        options["calibration"],
        engine=None if options["engine"] == AUTO else options["engine"],
        precision=None if options["precision"] == AUTO else options["precision"],
        threads=options.get("threads"),
        max_pixels=options["max_pixels"],
        batch_size=options["batch_size"],
        merging="token_merging" in options,
        progress=tell,
    )
    for line in (found.said(), *found.notes):
        complain(line)
    chosen = found.options()
    if "token_merging" in options:
        return {**options, **chosen}
    # Where only some of these are options, the rest is as engines choose it.
    return {name: chosen.get(name, value) for name, value in options.items()}


def opened_predictor(
    model: str, engine: EngineOptions, *, job_of: int | None = None, few: int | None = None, **others: Any
) -> Predictor:
    """The predictor that a command works with, loaded as its options say, and with what else it wants.

    Args:
        model: The model.
        engine: The options.
        job_of: How many pictures a job has, which may then measure in its first seconds how it is fastest.
        few: How many there are of what is no job.
        others: What `Predictor.from_pretrained` takes besides.
    """
    with loading(model) as tell:
        from ..inference.predictor import Predictor

        options = settled(model, engine, job_of, tell, pictures=few, **others)
        return Predictor.from_pretrained(model, progress=tell, **options)


def settled(
    model: str, engine: EngineOptions, job_of: int | None, tell: Callable[[str], None], **others: Any
) -> dict[str, Any]:
    """What `Predictor.from_pretrained` takes for the options of an engine; the arguments are those of
    `opened_predictor`."""
    typed = by_hand(model, engine, tell)
    options: dict[str, Any] = {**typed, "batch_size": engine.batch_size, **others}
    options["compile"] = options["compile"] or None
    if job_of is not None:
        from ..engines.settling import settle

        wanted = {name: value for name, value in others.items() if name != "pictures"}
        found = settle(os.path.expanduser(model), {**typed, **wanted}, typed["batch_size"], job_of, tell=tell)
        options |= {**found.options(), "batch_size": found.batch_size}
        if found.way is not None:
            options["dtype"] = None
    return options


__all__ = ["by_hand", "engine_arguments", "note_typed", "opened_predictor", "settled"]

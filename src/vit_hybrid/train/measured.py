"""What a race found to be fastest here (`vit-hybrid tune`), for training: attention, the layout of maps, threads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.opening import Source
from ..engines import kept
from ..engines.devices import take_threads
from ..engines.ways import Wanted, Way
from ..model.modeling import ViTHybridForImageClassification
from .plan import on_cpu
from .processes import count
from .recipe import Recipe, load_recipe
from .resuming import RECIPE_FILE
from .run import Run

AUTO = "auto"
# What the recipe may leave open.
OPEN = {"attention": AUTO, "channels_last": None}


def as_measured(
    run: Run,
    model: ViTHybridForImageClassification,
    start: Source | None,
    batch_size: int,
    checkpoint: Path | None,
) -> Run:
    """The run, with what its recipe leaves open as it was measured to be fastest on this processor.

    What decides is written into the run's folder with the recipe, and a run that goes on keeps it. Where nothing was
    measured for a model of this shape the run is as it was. A number of threads that was measured is taken for this
    process, unless the run says one or is of several processes.

    Args:
        run: What was asked for.
        model: The model, as it is going to be trained.
        start: What it was opened from; None for an architecture of the recipe's.
        batch_size: Pictures that go through at once.
        checkpoint: What the run resumes from.
    """
    left = [name for name, value in OPEN.items() if getattr(run.recipe, name) == value]
    if not on_cpu(run):
        return run
    if checkpoint is not None and (run.output / RECIPE_FILE).is_file():
        before = load_recipe(run.output / RECIPE_FILE)
        return replace(run, recipe=run.recipe.model_copy(update={name: getattr(before, name) for name in left}))
    way = _fastest(run.recipe, model, start, batch_size)
    if way is None:
        return run
    if run.threads is None and way.threads is not None and count() == 1:
        take_threads(way.threads)
    found = {name: getattr(way, name) for name in left}
    if found:
        run.report(f"computed as was measured to be fastest here: {way.name}")
    return replace(run, recipe=run.recipe.model_copy(update=found))


def _fastest(
    recipe: Recipe, model: ViTHybridForImageClassification, start: Source | None, batch_size: int
) -> Way | None:
    cannot_be_last = bool(recipe.freeze) or recipe.adapter is not None  # as the recipe's own check says
    wanted = Wanted(
        engine="torch",
        precision=recipe.precision,
        attention=None if recipe.attention == AUTO else recipe.attention,
        compiled=recipe.compile,
        channels_last=False if cannot_be_last else recipe.channels_last,
    )
    for shape in _shapes(model, start):
        table = kept.read(shape)
        row = None if table is None else table.best(wanted, batch_size)
        if row is not None:
            return row.way
    return None


def _shapes(model: ViTHybridForImageClassification, start: Source | None) -> Iterator[Mapping[str, Any]]:
    """The model's shape, as its file says it where it is of the same size, and as it would be saved."""
    own = model.config
    if start is not None and start.config.image_size == own.image_size:
        yield kept.shape_of(start.fields())
    yield kept.shape_of(json.loads(own.to_json_string()))


__all__ = ["as_measured"]

"""What a run is asked for where nothing is said."""

from __future__ import annotations

from pathlib import Path

from vit_hybrid.errors import JobStopped
from vit_hybrid.train.recipe import Recipe
from vit_hybrid.train.run import Run, TrainingError, TrainingStopped


def test_what_is_not_said_is_off() -> None:
    recipe = Recipe()
    run = Run("pictures", Path("out"), recipe)
    given = {"data": "pictures", "output": Path("out"), "recipe": recipe, "command": "", "callbacks": ()}
    open_ones = ("val", "image_column", "label_column", "problem_type", "max_pixels", "device", "threads")
    off = ("na_as_class", "resume", "overwrite", "strict", "push_to_hub")
    asked = {name: value for name, value in vars(run).items() if name != "report"}
    assert asked == {
        **given,
        **dict.fromkeys((*open_ones, "hub_model_id", "hub_private")),
        **dict.fromkeys(off, False),
    }
    run.report("nobody hears it")


def test_what_cannot_begin_is_an_error_of_what_was_given_and_what_cannot_go_on_is_none() -> None:
    assert issubclass(TrainingError, ValueError)
    assert issubclass(TrainingStopped, JobStopped)
    assert not issubclass(TrainingStopped, ValueError)

"""What a run is asked for, what comes of it, and how it may fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import JobStopped

if TYPE_CHECKING:
    from .recipe import Recipe

CURVE_FILE, CONFUSION_FILE, METRICS_FILE = "training_curve.png", "confusion_matrix.png", "metrics.json"

Report = Callable[[str], None]


class TrainingError(ValueError):
    """A run that cannot begin; the message is one line that says why and what to do."""


@dataclass(frozen=True)
class Run:
    """What `train` is asked for, beside the recipe.

    Attributes:
        data: Where the pictures are, as `data.read_splits` takes it.
        output: The folder that gets the model.
        recipe: How to train.
        val: Another place with the validation pictures.
        image_column: As in `data.read_splits`.
        label_column: As in `data.read_splits`.
        problem_type: As in `data.read_splits`.
        na_as_class: As in `data.read_splits`.
        max_pixels: As in `data.read_splits`.
        resume: Whether to go on from the newest checkpoint in `output`.
        overwrite: Whether files of an earlier run in `output` may be replaced.
        strict: Whether a picture that cannot be read stops the run.
        device: Where to train; by default the accelerator there is, else the CPU.
        threads: How many threads compute on a CPU; None leaves PyTorch's choice.
        push_to_hub: Whether to upload the finished model, as Trainer does.
        hub_model_id: To which repository.
        hub_private: Whether a repository that is made for it is private.
        command: The command line, for the card.
        callbacks: More of Trainer's callbacks, such as a progress bar.
        report: Called with one line for each thing the person should know.
    """

    data: str
    output: Path
    recipe: Recipe
    val: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    problem_type: str | None = None
    na_as_class: bool = False
    max_pixels: int | None = None
    resume: bool = False
    overwrite: bool = False
    strict: bool = False
    device: str | None = None
    threads: int | None = None
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_private: bool | None = None
    command: str = ""
    callbacks: Sequence[Any] = ()
    report: Report = field(default=lambda line: None)


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        output: The folder with the model.
        is_first_process: Whether this process wrote it.
        score_name: The score that runs are compared by, such as "top1".
        score: Its value on the validation pictures.
        metrics: All that `metrics.json` says.
    """

    output: Path
    is_first_process: bool
    score_name: str
    score: float
    metrics: dict[str, Any]


class TrainingStopped(JobStopped):
    """Training cannot go on; the message is one line that says why and what is kept."""


__all__ = [
    "CONFUSION_FILE",
    "CURVE_FILE",
    "METRICS_FILE",
    "Outcome",
    "Report",
    "Run",
    "TrainingError",
    "TrainingStopped",
]

"""A training run: from data and a recipe to a folder with the model, its figures and its card."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import set_seed
from transformers.utils.logging import disable_progress_bar

from ..data import Split
from ..engines.devices import take_threads
from ..errors import escaped
from ..files import locked, why_unwritten
from ..images.image_processing import ViTHybridImageProcessor
from ..images.preprocessing import Preprocessing
from ..model.geometry import as_pair
from ..model.modeling import ViTHybridForImageClassification
from .checks import (
    check_sizes,
    checkpoint_to_resume,
    finished,
    prepare_output,
    read,
    readable,
    refuse_contradictions,
    refuse_disagreement,
    refuse_too_little_room,
    refuse_unusable_output,
    say_what_is_left,
    say_what_launchers_do_not,
    telling_what_is_passed_over,
)
from .finishing import take_best_weights, write_outcome
from .interruption import Interruption
from .measured import as_measured
from .plan import on_cpu, plan_of
from .processes import apart, gathered, is_first, joined
from .resuming import contradictions_of_data, contradictions_of_weights
from .run import Outcome, Run, TrainingStopped
from .starting import prepared, starting_model, starting_preprocessing, starting_source, starting_trainer
from .trainer import WRITING_ERRORS, is_full


def train(run: Run) -> Outcome:
    """Trains a model and writes it, its figures and its card into the run's folder.

    Raises:
        TrainingError: The folder is taken, the recipe does not fit the data, or there is nothing to resume.
        Locked: Another run is writing into the folder.
        TrainingStopped: It began and could not go on: no room for a checkpoint, or a loss that is no number.
        DataError, RecipeError, ValueError: What was given cannot be used.
        ProcessFailed, PeerLost: Of several processes, this one alone cannot go on, or another has ended.
    """
    refuse_unusable_output(run)
    with locked(run.output) if is_first() else nullcontext():
        outcome = finished(run) if run.resume else None
        if outcome is not None:
            return outcome
        checkpoint = checkpoint_to_resume(run)
        take_threads(run.threads)
        disable_progress_bar()
        set_seed(run.recipe.seed)
        split = read(run)
        with telling_what_is_passed_over(run, split):
            # Before the processes are joined: with FSDP's variables set, transformers loads weights in the first only.
            model, processor, start = starting_model(run.recipe, split.train, run.report)
            with joined(on_cpu(run)):
                return _train(run, split, model, processor, start, checkpoint)


def look(run: Run) -> Split:
    """Looks at all that a run needs but weights, says what it found, and writes nothing: what `--dry-run` does.

    Returns:
        The pictures that the run would use.

    Raises:
        TrainingError, DataError, RecipeError, ValueError: As `train`.
    """
    refuse_unusable_output(run)
    checkpoint_to_resume(run)
    split = read(run)
    with telling_what_is_passed_over(run, split):
        return readable(split, run, starting_preprocessing(run.recipe, run.report))[0]


def _train(
    run: Run,
    split: Split,
    model: ViTHybridForImageClassification,
    processor: ViTHybridImageProcessor,
    start: str,
    checkpoint: Path | None,
) -> Outcome:
    recipe = run.recipe
    refuse_disagreement(split, checkpoint)
    preprocessing = Preprocessing.from_dict(processor.to_dict())
    split, skipped = readable(split, run, preprocessing)
    if checkpoint is not None:
        refuse_contradictions(run, contradictions_of_data(run.output, split))
    preprocessing_size = as_pair(model.config.image_size)
    check_sizes(split, recipe, preprocessing_size, run)
    plan = plan_of(recipe, len(split.train))
    run = as_measured(run, model, starting_source(recipe), plan.share, checkpoint)
    recipe = run.recipe
    trainable = prepared(model, recipe, on_cpu(run), plan.steps)
    if checkpoint is not None:
        refuse_contradictions(run, contradictions_of_weights(checkpoint, trainable))
    refuse_too_little_room(run, trainable)
    trainer = starting_trainer(run, split, model, trainable, preprocessing, plan, checkpoint)
    if checkpoint is not None:
        say_what_is_left(run, checkpoint, split)
    interruption = Interruption(run.report)
    trainer.add_callback(interruption)
    if trainer.args.should_save:
        prepare_output(run, split, checkpoint)
    say_what_launchers_do_not(trainer, run.report)
    began = time.monotonic()
    # Each process drops other units; where one resumes, Trainer puts these numbers back too.
    torch.manual_seed(recipe.seed + trainer.args.process_index)
    with interruption.listening(), apart():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.monotonic() - began
    if interruption.wanted and trainer.state.global_step < trainer.state.max_steps:
        stopped = TrainingStopped(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}, with a checkpoint; "
            "the same command with --resume goes on"
        )
        stopped.signal = interruption.signal
        raise stopped
    for reason in sorted(set().union(*gathered(trainer.unreadable))):
        run.report(f"replaced by another picture: {reason}")
    facts = {
        "start": start,
        "command": escaped(run.command),
        "kept": take_best_weights(trainer),
        "chosen": ", but chosen by: the best of several validations is kept" if recipe.keep_best else "",
        "seconds": seconds,
        "resumed": "" if checkpoint is None else f" since it was resumed at {checkpoint.name}",
        "skipped": skipped,
        "data": escaped(run.data),
    }
    try:
        outcome = write_outcome(trainer, processor, split, run.output, facts, run.report)
    except WRITING_ERRORS as error:
        if is_full(error):
            raise TrainingStopped(
                f"the finished model cannot be written to {run.output} ({why_unwritten(error)}); its "
                "checkpoint is whole: make room, and --resume writes the model"
            ) from error
        raise
    if run.push_to_hub:
        trainer.push_to_hub()
    return outcome


__all__ = ["look", "train"]

"""What stands before a run: whether its folder, its data and its checkpoint let it begin, and a word of what is odd."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data import PROBLEM_TYPES, DataError, Split, Unreadable, find_unreadable, read_splits
from ..data.listing import PICTURE
from ..errors import argument, shown
from ..files import mark, nearest_existing, why_no_model_place
from ..images.preparing import check_usable
from ..outputs.scores import headline
from .checkpointing import (
    CHECKPOINT_FOLDER,
    TRAINER_STATE,
    discard,
    named_checkpoints,
    remove_leftovers,
    set_aside,
    step_of,
)
from .plan import plan_of
from .processes import gathered, is_first, is_first_of_machine
from .recipe import Recipe, held_back_pictures
from .resuming import (
    DATA_FILE,
    contradictions_of_recipe,
    data_facts,
    describe,
    finished_metrics,
    newest_undamaged,
    remember,
    too_little_room,
)
from .run import CONFUSION_FILE, CURVE_FILE, METRICS_FILE, Outcome, Report, Run, TrainingError

if TYPE_CHECKING:
    from ..images.preprocessing import Preprocessing
    from .trainer import HybridTrainer

HEADLINES = [headline(problem_type)[0] for problem_type in PROBLEM_TYPES]
SAMPLED_PICTURES = 64
MUCH_SMALLER = 2.5


def refuse_unusable_output(run: Run) -> None:
    if run.resume and run.overwrite:
        raise TrainingError("--resume goes on with a run and --overwrite replaces it; give one of them.")
    if run.output.exists() and not run.output.is_dir():
        raise TrainingError(f"{run.output}: this is a file; give a folder for the model.")
    why_not = why_no_model_place(run.output)
    if why_not is not None:
        raise TrainingError(why_not)
    existing = nearest_existing(run.output)
    if not existing.is_dir():
        raise TrainingError(f"{run.output}: {existing} is a file; give a folder for the model.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise TrainingError(f"{run.output}: {existing} cannot be written to; give another folder for the model.")


def finished(run: Run) -> Outcome | None:
    """What a run that has ended came to, so that there is nothing to resume."""
    metrics = finished_metrics(run.output, run.recipe)
    if metrics is None:
        return None
    refuse_contradictions(run, contradictions_of_recipe(run.output, run.recipe))
    name = next(name for name in metrics if name in HEADLINES)
    run.report(
        f"{run.output}: this run has ended, after {metrics['steps']:,} steps, and is left as it is; more --epochs "
        "train it further"
    )
    return Outcome(run.output, is_first(), name, float(metrics[name]), metrics)


def checkpoint_to_resume(run: Run) -> Path | None:
    if run.resume:
        return _newest_checkpoint(run)
    found = named_checkpoints(run.output / CHECKPOINT_FOLDER)
    taken = found or [path for name in ("config.json", METRICS_FILE) if (path := run.output / name).exists()]
    if taken and not run.overwrite:
        raise TrainingError(
            f"{run.output}: there is a run already ({taken[-1].name}); --resume goes on with it, --overwrite starts "
            "anew, or give another folder."
        )
    return None


def _newest_checkpoint(run: Run) -> Path | None:
    folder = run.output / CHECKPOINT_FOLDER
    checkpoint, damaged = newest_undamaged(folder)
    if checkpoint is None and damaged:
        raise TrainingError(
            f"{run.output}: no checkpoint is whole ({describe(damaged)}); --overwrite starts anew, or give another "
            "folder."
        )
    for path, reason in damaged.items():
        run.report(f"{path.name} is damaged ({reason}) and passed over")
    if checkpoint is None:
        if (run.output / "config.json").exists() and not (folder / DATA_FILE).exists():
            raise TrainingError(
                f"{run.output}: there is a model, but no checkpoint to resume from; --overwrite replaces it, or give "
                "another folder."
            )
        run.report(f"{run.output}: there is no checkpoint yet; training starts from the beginning")
        return None
    refuse_contradictions(run, contradictions_of_recipe(run.output, run.recipe))
    run.report(f"resuming from {checkpoint.name}")
    return checkpoint


def refuse_contradictions(run: Run, contradictions: list[str]) -> None:
    if contradictions:
        raise TrainingError(
            f"{run.output}: --resume cannot go on with this run: {describe(contradictions)}; give what it began with, "
            "or train into another folder."
        )


def refuse_too_little_room(run: Run, model: torch.nn.Module) -> None:
    reason = too_little_room(run.output, model, run.recipe) if is_first() else None
    if reason is not None:
        raise TrainingError(reason)


def say_what_is_left(run: Run, checkpoint: Path, split: Split) -> None:
    done, planned = step_of(checkpoint), plan_of(run.recipe, len(split.train)).steps
    if done > planned:
        raise TrainingError(
            f"{run.output}: {checkpoint.name} is beyond the {planned:,} steps that the recipe now plans; give more "
            "--epochs or --max-steps, or train into another folder."
        )
    before = json.loads((checkpoint / TRAINER_STATE).read_bytes()).get("max_steps")
    if before and before != planned:
        run.report(
            f"{planned:,} steps instead of {before:,}: from step {done + 1:,} on the learning rate follows the new plan"
        )


def prepare_output(run: Run, split: Split, checkpoint: Path | None) -> None:
    """Makes the run's folder ready: what is left of other runs goes, what this one is about is written."""
    folder = run.output / CHECKPOINT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    mark(run.output, (CURVE_FILE, CONFUSION_FILE))
    remove_leftovers(folder)
    if checkpoint is not None:
        for path in named_checkpoints(folder):
            if step_of(path) > step_of(checkpoint):  # or it would have been resumed from
                run.report(f"{path.name} is called {set_aside(path).name} now")
    else:
        # First what says that a run has ended, so that the old figures are never taken for the new run's.
        (run.output / METRICS_FILE).unlink(missing_ok=True)
        for path in named_checkpoints(folder):
            discard(path)
    remember(run.output, run.recipe, split)


def read(run: Run) -> Split:
    """The run's pictures, of which it says how many there are of which classes, and where they were found."""
    recipe = run.recipe
    split = read_splits(
        run.data,
        val=run.val,
        val_fraction=recipe.val_fraction,
        seed=recipe.seed,
        image_column=run.image_column,
        label_column=run.label_column,
        labels=recipe.labels,
        problem_type=run.problem_type,
        na_as_class=run.na_as_class,
        max_pixels=run.max_pixels,
        leave_out=recipe.leave_out,
        held_back=held_back_pictures(recipe),
    )
    for line in (*split.notes, *split.described()):
        run.report(line)
    return split


@contextmanager
def telling_what_is_passed_over(run: Run, split: Split) -> Iterator[None]:
    """Counts in one line, once the block is through, what was passed over, pictures that cannot be read included."""
    try:
        yield
    finally:
        line = split.passed.line()
        if line:
            run.report(line)


def readable(split: Split, run: Run, preprocessing: Preprocessing) -> tuple[Split, list[str]]:
    """The split without the pictures that cannot be decoded, and what is wrong with each of these.

    Args:
        split: What was read.
        run: What was asked for.
        preprocessing: What is to be done to validation pictures, which have to stand it, too.
    """
    parts, skipped = [], []
    check = partial(check_usable, preprocessing=preprocessing)
    told = Unreadable(len(split.train) + len(split.val))
    for pictures in (split.train, split.val):
        # One process of each machine looks, as decoding all pictures takes all of its cores; what any of them cannot
        # read, none uses.
        found = gathered(
            find_unreadable(pictures, check=check if pictures is split.val else None) if is_first_of_machine() else []
        )
        bad = sorted({index: reason for part in reversed(found) for index, reason in part}.items())
        if bad and run.strict:
            _, reason = bad[0]
            raise DataError(f"{reason} ({len(bad)} such pictures; without --strict they are skipped)")
        for index, reason in bad:
            pictures.passed.add(PICTURE, pictures.name(index))
            skipped.append(reason)
            line = told.add(reason)
            if line is not None:
                run.report(f"skipped: {line}")
        unreadable = {index for index, _ in bad}
        parts.append(
            pictures.select([index for index in range(len(pictures)) if index not in unreadable]) if bad else pictures
        )
    rest = told.rest()
    if rest is not None:
        run.report(f"skipped: {rest}")
    train, val = parts
    if not len(train) or not len(val):
        raise DataError(
            f"{shown(run.data)}: no picture of the {'training' if not len(train) else 'validation'} split is readable; "
            f"the first: {skipped[0 if not len(train) else len(split.train) - len(train)]}"
        )
    return Split(train, val, split.notes), skipped


def refuse_disagreement(split: Split, checkpoint: Path | None) -> None:
    """Refuses processes that would train on different data, or go on from different checkpoints."""
    views = gathered((data_facts(split), "nothing" if checkpoint is None else checkpoint.name))
    for number, (facts, start) in enumerate(views):
        for words, first in views[0][0].items():
            if facts[words] != first:
                raise DataError(
                    f"the processes see different data: {words} {first} in the first, {facts[words]} in process "
                    f"{number}; give every machine the same."
                )
        if start != views[0][1]:
            raise TrainingError(
                f"the first process resumes from {views[0][1]}, process {number} from {start}; the output folder has "
                "to be one that all machines share."
            )


def check_sizes(split: Split, recipe: Recipe, image_size: tuple[int, int], run: Run) -> None:
    """A word where most pictures are far smaller than what the model will see of them."""
    sample = range(0, len(split.train), max(1, len(split.train) // SAMPLED_PICTURES))
    shorter = sorted(min(split.train.picture(index).size) for index in sample)
    median = shorter[len(shorter) // 2]
    if median < min(image_size) / MUCH_SMALLER:
        run.report(
            f"half of the pictures have a shorter side of {median} pixels or less, and the model takes "
            f"{image_size[0]} x {image_size[1]}; a smaller --image-size trains faster and loses little"
        )
    if len(split.train) < recipe.batch_size:
        run.report(
            f"there are {len(split.train)} training pictures, fewer than {argument('batch_size')} "
            f"{recipe.batch_size}: each epoch is one step"
        )


def say_what_launchers_do_not(trainer: HybridTrainer, report: Report) -> None:
    """A word where accelerate launch was asked for something that it silently leaves out on a CPU."""
    if trainer.args.device.type != "cpu":
        return
    if _is_set("ACCELERATE_USE_FSDP"):
        report("FSDP was asked for; on a CPU Trainer does not shard but copies the model to every process (DDP)")
    # It sets an address for several processes, and starts one.
    if _is_set("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        report(
            "accelerate launch --cpu starts one process, whatever --num_processes says; "
            "torchrun --nproc-per-node N starts N"
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true")


__all__ = [
    "check_sizes",
    "checkpoint_to_resume",
    "finished",
    "prepare_output",
    "read",
    "readable",
    "refuse_contradictions",
    "refuse_disagreement",
    "refuse_too_little_room",
    "refuse_unusable_output",
    "say_what_is_left",
    "say_what_launchers_do_not",
    "telling_what_is_passed_over",
]

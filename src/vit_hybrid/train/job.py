"""A training run: from data and a recipe to a folder with the model, its figures and its card."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments, set_seed
from transformers.utils.logging import disable_progress_bar

from ..assets import BUILT_IN_MODEL
from ..data import PROBLEM_TYPES, REGRESSION, DataError, LabeledPictures, Split, find_unreadable, read_splits
from ..errors import one_line
from ..images.image_processing import ViTHybridImageProcessor
from ..images.preprocessing import Preprocessing
from ..model.geometry import as_pair
from ..model.modeling import ViTHybridForImageClassification
from ..outputs.scores import headline
from .adapters import add_adapter
from .augmentation import BatchAugmentation
from .averaging import WeightAverage
from .callbacks import Averaging, EpochStart, RankAllocation
from .checkpointing import (
    CHECKPOINT_FOLDER,
    TRAINER_STATE,
    discard,
    named_checkpoints,
    remove_leftovers,
    set_aside,
    step_of,
)
from .finishing import Outcome, take_best_weights, write_outcome
from .freezing import freeze
from .interruption import Interruption
from .losses import TrainingLoss, balanced_weights
from .pictures import TrainingPictures, ValidationPictures
from .processes import apart, count, gathered, is_first, is_first_of_machine, joined
from .recipe import Recipe, RecipeError
from .resuming import (
    DATA_FILE,
    METRICS_FILE,
    contradictions_of_data,
    contradictions_of_recipe,
    contradictions_of_weights,
    data_facts,
    describe,
    finished_metrics,
    nearest_existing,
    newest_undamaged,
    remember,
    too_little_room,
)
from .starting import starting_model
from .trainer import HybridTrainer, TrainingStopped, is_full

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
VAL_BATCH_SIZE = 64
HEADLINES = [headline(problem_type)[0] for problem_type in PROBLEM_TYPES]

# Up to so many tokens (the most that were measured) an encoder layer trains on a CPU in bfloat16 1.2 to 1.3 times as
# fast with attention as plain matrix products as with sdpa, whose backward pass is slow there. In float32 sdpa is as
# fast, and at 577 tokens 1.3 times as fast.
EAGER_TOKENS_ON_CPU = 577

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


def train(run: Run) -> Outcome:
    """Trains a model and writes it, its figures and its card into the run's folder.

    Raises:
        TrainingError: The folder is taken, the recipe does not fit the data, or there is nothing to resume.
        TrainingStopped: It began and could not go on: no room for a checkpoint, or a loss that is no number.
        DataError, RecipeError, ValueError: What was given cannot be used.
        ProcessFailed, PeerLost: Of several processes, this one alone cannot go on, or another has ended.
    """
    recipe = run.recipe
    _refuse_unusable_output(run)
    finished = _finished(run) if run.resume else None
    if finished is not None:
        return finished
    checkpoint = _checkpoint_to_resume(run)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    disable_progress_bar()
    set_seed(recipe.seed)
    split = _read(run)
    for note in split.notes:
        run.report(note)
    # Before the processes are joined: with FSDP's variables set, transformers loads weights in the first of them only.
    model, processor = starting_model(recipe, split.train)
    with joined(_on_cpu(run)):
        return _train(run, split, model, processor, checkpoint)


def _train(
    run: Run,
    split: Split,
    model: ViTHybridForImageClassification,
    processor: ViTHybridImageProcessor,
    checkpoint: Path | None,
) -> Outcome:
    recipe = run.recipe
    _refuse_disagreement(split, checkpoint)
    split, skipped = _readable(split, run)
    if checkpoint is not None:
        _refuse_contradictions(run, contradictions_of_data(run.output, split))
    preprocessing = Preprocessing.from_dict(processor.to_dict())
    preprocessing_size = as_pair(model.config.image_size)
    _check_sizes(split, recipe, preprocessing_size, run)
    plan = _plan(recipe, len(split.train))
    trainable = _prepared(model, recipe, _on_cpu(run), plan.steps)
    if checkpoint is not None:
        _refuse_contradictions(run, contradictions_of_weights(checkpoint, trainable))
    _refuse_too_little_room(run, trainable)
    loss = TrainingLoss(
        split.train.problem_type, recipe.loss, recipe.label_smoothing, _class_weights(recipe, split.train)
    )
    augment = BatchAugmentation(
        mean=preprocessing.image_mean if preprocessing.do_normalize else 0.0,
        std=preprocessing.image_std if preprocessing.do_normalize else 1.0,
        rescale_factor=(preprocessing.rescale_factor or 1.0) if preprocessing.do_rescale else 1.0,
        num_labels=len(split.train.labels),
        problem_type=split.train.problem_type,
        randaugment_layers=recipe.randaugment_layers,
        randaugment_magnitude=recipe.randaugment_magnitude,
        erase=recipe.erase,
        erase_scale=recipe.erase_scale,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
    )
    arguments = _arguments(run, plan, split, model.config.backbone_config.layer_type == "preactivation")
    channels = model.config.num_channels
    trainer = HybridTrainer(
        trainable,
        recipe,
        arguments,
        TrainingPictures(split.train, recipe, preprocessing_size, channels, recipe.seed),
        ValidationPictures(split.val, preprocessing),
        augment,
        loss,
        run.output,
        list(run.callbacks),
    )
    if checkpoint is not None:
        _say_what_is_left(run, checkpoint, split)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EpochStart(trainer))
    interruption = Interruption(run.report)
    trainer.add_callback(interruption)
    if recipe.adapter is not None:
        trainer.add_callback(RankAllocation(trainer))
    if recipe.ema and recipe.adapter is not None and recipe.adapter["method"].lower() == "adalora":
        raise RecipeError("ema does not go with adalora, whose ranks change on the way; set one of them aside.")
    if recipe.ema:
        _refuse_sharded_average(trainer)
        trainer.average = WeightAverage(trainable, recipe.ema)
        trainer.add_callback(Averaging(trainer, checkpoint))
    if recipe.early_stopping is not None:
        trainer.add_callback(EarlyStoppingCallback(recipe.early_stopping))
    if trainer.args.should_save:
        _prepare_output(run, split, checkpoint)
    _say_what_launchers_do_not(trainer, run.report)
    start = time.monotonic()
    # Each process drops other units; where one resumes, Trainer puts these numbers back too.
    torch.manual_seed(recipe.seed + trainer.args.process_index)
    with interruption.listening(), apart():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.monotonic() - start
    if interruption.wanted and trainer.state.global_step < trainer.state.max_steps:
        raise TrainingStopped(
            f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}, with a checkpoint; "
            "the same command with --resume goes on"
        )
    for reason in sorted(set().union(*gathered(trainer.unreadable))):
        run.report(f"replaced by another picture: {reason}")
    facts = {
        "start": recipe.model or (BUILT_IN_MODEL if recipe.architecture is None else "random weights"),
        "command": run.command,
        "kept": take_best_weights(trainer),
        "chosen": ", but chosen by: the best of several validations is kept" if recipe.keep_best else "",
        "seconds": seconds,
        "resumed": "" if checkpoint is None else f" since it was resumed at {checkpoint.name}",
        "skipped": skipped,
        "data": run.data,
    }
    try:
        outcome = write_outcome(trainer, processor, split, run.output, facts)
    except (OSError, SafetensorError, RuntimeError) as error:
        if is_full(error):
            raise TrainingStopped(
                f"the finished model cannot be written to {run.output} ({one_line(error)}); its "
                "checkpoint is whole: make room, and --resume writes the model"
            ) from error
        raise
    if run.push_to_hub:
        trainer.push_to_hub()
    return outcome


# --- before -----------------------------------------------------------------------------------------------------------


def _refuse_unusable_output(run: Run) -> None:
    if run.resume and run.overwrite:
        raise TrainingError("--resume goes on with a run and --overwrite replaces it; give one of them.")
    if run.output.exists() and not run.output.is_dir():
        raise TrainingError(f"{run.output}: this is a file; give a folder for the model.")
    existing = nearest_existing(run.output)
    if not existing.is_dir():
        raise TrainingError(f"{run.output}: {existing} is a file; give a folder for the model.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise TrainingError(f"{run.output}: {existing} cannot be written to; give another folder for the model.")


def _finished(run: Run) -> Outcome | None:
    """What a run that has ended came to, so that there is nothing to resume."""
    metrics = finished_metrics(run.output, run.recipe)
    if metrics is None:
        return None
    _refuse_contradictions(run, contradictions_of_recipe(run.output, run.recipe))
    name = next(name for name in metrics if name in HEADLINES)
    run.report(
        f"{run.output}: this run has ended, after {metrics['steps']:,} steps, and is left as it is; more --epochs "
        "train it further"
    )
    return Outcome(run.output, is_first(), name, float(metrics[name]), metrics)


def _checkpoint_to_resume(run: Run) -> Path | None:
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
    _refuse_contradictions(run, contradictions_of_recipe(run.output, run.recipe))
    run.report(f"resuming from {checkpoint.name}")
    return checkpoint


def _refuse_contradictions(run: Run, contradictions: list[str]) -> None:
    if contradictions:
        raise TrainingError(
            f"{run.output}: --resume cannot go on with this run: {describe(contradictions)}; give what it began with, "
            "or train into another folder."
        )


def _refuse_too_little_room(run: Run, model: torch.nn.Module) -> None:
    reason = too_little_room(run.output, model, run.recipe) if is_first() else None
    if reason is not None:
        raise TrainingError(reason)


def _say_what_is_left(run: Run, checkpoint: Path, split: Split) -> None:
    done, planned = step_of(checkpoint), _plan(run.recipe, len(split.train)).steps
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


def _prepare_output(run: Run, split: Split, checkpoint: Path | None) -> None:
    """Makes the run's folder ready: what is left of other runs goes, what this one is about is written."""
    folder = run.output / CHECKPOINT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
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


def _read(run: Run) -> Split:
    recipe = run.recipe
    return read_splits(
        run.data,
        val=run.val,
        val_fraction=recipe.val_fraction,
        seed=recipe.seed,
        image_column=run.image_column,
        label_column=run.label_column,
        labels=recipe.labels,
        problem_type=run.problem_type,
    )


def _readable(split: Split, run: Run) -> tuple[Split, list[str]]:
    """The split without the pictures that cannot be decoded, and what is wrong with each of these."""
    parts, skipped = [], []
    for pictures in (split.train, split.val):
        # One process of each machine looks, as decoding all pictures takes all of its cores; what any of them cannot
        # read, none uses.
        found = gathered(find_unreadable(pictures) if is_first_of_machine() else [])
        bad = sorted({index: reason for part in reversed(found) for index, reason in part}.items())
        if bad and run.strict:
            _, reason = bad[0]
            raise DataError(f"{reason} ({len(bad)} such pictures; without --strict they are skipped)")
        for _, reason in bad:
            run.report(f"skipped: {reason}")
            skipped.append(reason)
        unreadable = {index for index, _ in bad}
        parts.append(
            pictures.select([index for index in range(len(pictures)) if index not in unreadable]) if bad else pictures
        )
    train, val = parts
    if not len(train) or not len(val):
        raise DataError(
            f"{run.data}: no picture of the {'training' if not len(train) else 'validation'} split is readable."
        )
    return Split(train, val, split.notes), skipped


def _refuse_disagreement(split: Split, checkpoint: Path | None) -> None:
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


def _check_sizes(split: Split, recipe: Recipe, image_size: tuple[int, int], run: Run) -> None:
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
            f"there are {len(split.train)} training pictures, fewer than batch_size {recipe.batch_size}: each epoch is "
            "one step"
        )


SAMPLED_PICTURES = 64
MUCH_SMALLER = 2.5


@dataclass(frozen=True)
class _Plan:
    """Pictures of one process's batch, and optimizer steps of an epoch and of the run."""

    share: int
    steps_per_epoch: int
    steps: int


def _plan(recipe: Recipe, pictures: int) -> _Plan:
    processes = count()
    share, rest = divmod(recipe.batch_size, processes * recipe.gradient_accumulation)
    if rest:
        raise TrainingError(
            f"batch_size {recipe.batch_size} cannot be divided among {processes} processes and "
            f"{recipe.gradient_accumulation} accumulated batches; give a multiple of "
            f"{processes * recipe.gradient_accumulation}."
        )
    batches = math.ceil(pictures / (share * processes))
    steps_per_epoch = max(1, math.ceil(batches / recipe.gradient_accumulation))
    return _Plan(share, steps_per_epoch, recipe.max_steps or math.ceil(recipe.epochs * steps_per_epoch))


def _on_cpu(run: Run) -> bool:
    return run.device == "cpu" or not torch.accelerator.is_available()


def attention_for(model: ViTHybridForImageClassification, recipe: Recipe, on_cpu: bool) -> str:
    """The attention a model is trained with: the recipe's, or where that is "auto" the fastest there."""
    if recipe.attention != "auto":
        return recipe.attention
    tokens = math.prod(model.config.grid_size) + 1
    return "eager" if on_cpu and recipe.precision == "bf16" and tokens <= EAGER_TOKENS_ON_CPU else "sdpa"


def _prepared(model: ViTHybridForImageClassification, recipe: Recipe, on_cpu: bool, steps: int) -> torch.nn.Module:
    """The model as it is trained: attention chosen, parts frozen, adapters added."""
    model.set_attn_implementation(attention_for(model, recipe, on_cpu))
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    if recipe.gradient_checkpointing:
        # transformers 5.2x renamed it; the old name warns there.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if recipe.freeze:
        freeze(model, list(recipe.freeze))
    if recipe.adapter is None:
        return model
    options = dict(recipe.adapter)
    method = options.pop("method")
    if method.lower() == "adalora":  # its ranks move on a schedule over the whole run
        options.setdefault("total_step", steps)
    return add_adapter(model, method, **options)


def _class_weights(recipe: Recipe, pictures: LabeledPictures) -> torch.Tensor | None:
    if recipe.class_weights is None or pictures.problem_type == REGRESSION:
        return None if recipe.class_weights is None else torch.ones(len(pictures.labels))
    if recipe.class_weights == "balanced":
        return balanced_weights(pictures.class_counts().tolist())
    unknown = sorted(set(recipe.class_weights) - set(pictures.labels))
    if unknown:
        raise RecipeError(f"class_weights names {unknown[0]!r}; the data's labels are {', '.join(pictures.labels)}.")
    return torch.tensor([recipe.class_weights.get(label, 1.0) for label in pictures.labels])


def _arguments(run: Run, plan: _Plan, split: Split, preactivation: bool) -> TrainingArguments:
    recipe = run.recipe
    name, greater_is_better = headline(split.train.problem_type)
    on_cpu = _on_cpu(run)
    if recipe.precision == "f16" and on_cpu:
        raise TrainingError("precision f16 needs a GPU; on a CPU give bf16 or f32.")
    validate_every = max(1, round(recipe.validate_every * plan.steps_per_epoch))
    save_every = max(1, round(recipe.save_every * plan.steps_per_epoch))
    return TrainingArguments(
        output_dir=str(run.output),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=plan.share,
        per_device_eval_batch_size=VAL_BATCH_SIZE,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=SCHEDULES[recipe.schedule],
        warmup_steps=round(recipe.warmup * plan.steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip_norm,
        bf16=recipe.precision == "bf16",
        fp16=recipe.precision == "f16",
        torch_compile=recipe.compile,
        use_cpu=on_cpu,
        eval_strategy="steps",
        eval_steps=validate_every,
        save_strategy="steps",
        save_steps=save_every,
        metric_for_best_model=name,
        greater_is_better=greater_is_better,
        logging_steps=recipe.log_every_steps,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_num_workers=recipe.workers,
        dataloader_pin_memory=not on_cpu,
        # The last norm of a pre-activation backbone is not part of the forward pass.
        ddp_find_unused_parameters=preactivation,
        ddp_backend="gloo" if on_cpu and count() > 1 else None,
        report_to=["tensorboard"] if recipe.tensorboard else "none",
        disable_tqdm=True,
        seed=recipe.seed,
        push_to_hub=run.push_to_hub,
        hub_model_id=run.hub_model_id,
        hub_private_repo=run.hub_private,
        label_names=["targets"],
    )


def _refuse_sharded_average(trainer: HybridTrainer) -> None:
    if trainer.is_fsdp_enabled and trainer.args.device.type != "cpu":
        raise TrainingError("ema is not kept of sharded weights (FSDP); set ema to 0, or train with DDP.")


def _say_what_launchers_do_not(trainer: HybridTrainer, report: Report) -> None:
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

"""How a run is divided into steps, and what Trainer is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from ..data import Split
from ..engines.processor import instruction_sets
from ..errors import argument
from ..model.modeling import ViTHybridForImageClassification
from ..outputs.scores import headline
from ..runtimes import attention_in_half
from .processes import count
from .recipe import Recipe
from .run import Run, TrainingError

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
VAL_BATCH_SIZE = 64


@dataclass(frozen=True)
class Plan:
    """Pictures of one process's batch, and optimizer steps of an epoch and of the run."""

    share: int
    steps_per_epoch: int
    steps: int


def plan_of(recipe: Recipe, pictures: int) -> Plan:
    processes = count()
    share, rest = divmod(recipe.batch_size, processes * recipe.gradient_accumulation)
    if rest:
        raise TrainingError(
            f"{argument('batch_size')} {recipe.batch_size} cannot be divided among {processes} processes and "
            f"{recipe.gradient_accumulation} accumulated batches; give a multiple of "
            f"{processes * recipe.gradient_accumulation}."
        )
    batches = math.ceil(pictures / (share * processes))
    steps_per_epoch = max(1, math.ceil(batches / recipe.gradient_accumulation))
    return Plan(share, steps_per_epoch, recipe.max_steps or math.ceil(recipe.epochs * steps_per_epoch))


def on_cpu(run: Run) -> bool:
    return run.device == "cpu" or not torch.accelerator.is_available()


def attention_for(model: ViTHybridForImageClassification, recipe: Recipe, on_cpu: bool) -> str:
    """The attention a model is trained with: the recipe's, or where that is "auto" the fastest there."""
    if recipe.attention != "auto":
        return recipe.attention
    if not on_cpu or recipe.precision != "bf16":
        return "sdpa"
    return attention_in_half(math.prod(model.config.grid_size) + 1, instruction_sets())


def arguments_of(run: Run, plan: Plan, split: Split, preactivation: bool) -> TrainingArguments:
    recipe = run.recipe
    name, greater_is_better = headline(split.train.problem_type)
    cpu = on_cpu(run)
    if recipe.precision == "f16" and cpu:
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
        use_cpu=cpu,
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
        dataloader_pin_memory=not cpu,
        # The last norm of a pre-activation backbone is not part of the forward pass.
        ddp_find_unused_parameters=preactivation,
        ddp_backend="gloo" if cpu and count() > 1 else None,
        report_to=["tensorboard"] if recipe.tensorboard else "none",
        disable_tqdm=True,
        seed=recipe.seed,
        push_to_hub=run.push_to_hub,
        hub_model_id=run.hub_model_id,
        hub_private_repo=run.hub_private,
        label_names=["targets"],
    )


__all__ = ["Plan", "arguments_of", "attention_for", "on_cpu", "plan_of"]

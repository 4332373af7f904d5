"""transformers' Trainer with this package's data, losses, optimizers, averages and checkpoints."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..errors import one_line
from ..files import free_room, lacks_room, why_unwritten
from ..outputs.problems import SINGLE_LABEL
from ..outputs.scores import scalars, scores
from .augmentation import BatchAugmentation
from .averaging import WeightAverage
from .checkpointing import (
    CHECKPOINT_FOLDER,
    STAGING,
    TRAINER_STATE,
    checkpoint_name,
    publish,
    rotate,
    staging,
    whole_checkpoints,
)
from .interruption import start_patient_worker
from .losses import TrainingLoss
from .optimizer import build_optimizer
from .pictures import EpochSampler, TrainingPictures, ValidationPictures, collate
from .processes import everywhere
from .recipe import Recipe
from .run import TrainingStopped

AVERAGE_FILE = "averaged.safetensors"
WORDS_OF_LOST_WORKERS = "DataLoader worker"
ADVICE = "a smaller learning_rate, a longer warmup, or precision f32 usually helps"
PATIENCE_COUNTER = "early_stopping_patience_counter"
# What writing weights raises; `is_full` says of which it is for want of room.
WRITING_ERRORS = (OSError, SafetensorError, RuntimeError)


class HybridTrainer(Trainer):
    """Trains a hybrid by a recipe.

    Args:
        model: What to train: a classifier, or one with adapters of PEFT's.
        recipe: How.
        arguments: Trainer's own settings; they agree with the recipe (`job` makes them).
        train_pictures: Augmented pictures.
        val_pictures: Pictures as the model's users give them.
        augment: What is done to whole batches.
        loss: What is minimized.
        output: The run's folder; checkpoints go into its `checkpoints`.
        callbacks: Trainer's.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        recipe: Recipe,
        arguments: TrainingArguments,
        train_pictures: TrainingPictures,
        val_pictures: ValidationPictures,
        augment: BatchAugmentation,
        loss: TrainingLoss,
        output: Path,
        callbacks: list[Any],
    ) -> None:
        self.recipe = recipe
        self.augment = augment
        self.problem_type = train_pictures.pictures.problem_type
        self.sampler = EpochSampler(len(train_pictures), recipe.seed, recipe.batch_size)
        self.checkpoint_folder = output / CHECKPOINT_FOLDER
        self.unreadable: set[str] = set()
        self.average: WeightAverage | None = None
        self._staging: Path | None = None
        self._correct: Any = 0.0
        self._seen = 0
        self._step_of_batches = self._micro_batches = 0
        self._mean_weight: torch.Tensor | float = 1.0
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=train_pictures,
            eval_dataset=val_pictures,
            data_collator=collate,
            compute_metrics=self._scores,
            callbacks=callbacks,
        )
        self.loss = loss.to(self.args.device)
        # The loss is the mean of its batch; Trainer then divides by the number of accumulated batches.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False

    optimizer: torch.optim.Optimizer | None

    # --- one step -----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> Any:
        """The loss of a batch of levels, augmented here, or of finished pixel values."""
        targets = inputs["targets"]
        pixel_values = inputs.get("pixel_values")
        hard_targets = targets
        if pixel_values is None:
            self.unreadable.update(inputs.get("unreadable", ()))
            mix = self.state.global_step < self.recipe.mix_until * self.state.max_steps
            # The run's seed, the step, the part of the step and the process alone decide.
            place = (self.state.global_step, self._micro_batches, self.args.process_index)
            seed = int(np.random.SeedSequence((self.recipe.seed, *place)).generate_state(1)[0])
            pixel_values, targets = self.augment(inputs["pixels"], targets, seed, mix)
        if self.recipe.channels_last:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        outputs = model(pixel_values=pixel_values, interpolate_pos_encoding=bool(self.recipe.growing))
        loss = self.loss(outputs.logits, targets)
        if model.training:
            if self._weighs_pictures:
                loss = loss * (self._weight_of(hard_targets) / self._mean_weight)
            # On an accelerator, looking at every loss would make it wait for the processor; `log` looks there.
            # All processes stop together: one that only lost the others could not say why.
            if loss.device.type == "cpu" and not everywhere(bool(torch.isfinite(loss)), loss.device):
                self._stop_for_nonsense(float(self.accelerator.reduce(loss.detach())))
            self._count(outputs.logits, hard_targets)
        return (loss, {"logits": outputs.logits}) if return_outputs else loss

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """Loss, logits and targets of a validation batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, outputs["logits"].float(), inputs["targets"]

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> torch.Tensor:
        """One forward and backward pass."""
        if self.state.global_step != self._step_of_batches:
            self._step_of_batches, self._micro_batches = self.state.global_step, 0
        loss = super().training_step(model, inputs, *args, **options)
        self._micro_batches += 1
        return loss

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """The batches of one step. Where classes have weights, a batch counts by the weight of its pictures, so that
        the step's loss is the weighted mean of all of them, however they are divided among batches and processes."""
        batches, items = super().get_batch_samples(*args, **options)
        if self._weighs_pictures and batches:
            weights = torch.stack([self._weight_of(batch["targets"]) for batch in batches])
            self._mean_weight = self.accelerator.reduce(weights.mean(), "mean")
        return batches, items

    @property
    def _weighs_pictures(self) -> bool:
        return self.loss.kind == "cross_entropy" and self.loss.class_weights is not None

    def _weight_of(self, targets: torch.Tensor) -> torch.Tensor:
        weights = self.loss.class_weights
        assert weights is not None
        return weights[targets.to(weights.device)].sum()

    def _stop_for_nonsense(self, loss: float) -> None:
        raise TrainingStopped(
            f"the loss is {loss} at step {self.state.global_step + 1}; {ADVICE}. {self._what_is_kept()}"
        )

    def _count(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        if self.problem_type == SINGLE_LABEL:
            self._correct = self._correct + (logits.detach().argmax(-1) == targets).sum()
            self._seen += len(targets)

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Logs with the training accuracy since the last time, on augmented pictures before mixing."""
        if "loss" in logs:
            if not np.isfinite(logs["loss"]):
                self._stop_for_nonsense(logs["loss"])
            if self._seen:
                counts = torch.tensor([float(self._correct), self._seen], device=self.args.device)
                correct, seen = self.accelerator.reduce(counts).tolist()
                logs["accuracy"] = correct / seen
                self._correct, self._seen = 0.0, 0
        super().log(logs, *args, **options)

    # --- optimizer and data -------------------------------------------------------------------------------------------

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The recipe's optimizer over layer-wise groups."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.model if model is None else model, self.recipe)
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's, whose workers outlast a signal to the run."""
        return _with_patient_workers(super().get_train_dataloader())

    def get_eval_dataloader(self, *args: Any, **options: Any) -> DataLoader:
        """Trainer's, whose workers outlast a signal to the run."""
        return _with_patient_workers(super().get_eval_dataloader(*args, **options))

    def _get_train_sampler(self, *_: Any) -> Sampler | None:
        return self.sampler

    # --- validation ---------------------------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        """Validation scores, of the averaged weights where the recipe averages."""
        if self.is_in_train:
            self._refuse_nonsense_weights()
        with self.averaged_weights():
            return super().evaluate(*args, **options)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The model with its averaged weights, if there are any."""
        if self.average is None:
            yield
            return
        with self.average.swap_in(self.accelerator.unwrap_model(self.model)):
            yield

    def _scores(self, prediction: EvalPrediction) -> dict[str, float]:
        found = scores(self.problem_type, prediction.predictions, prediction.label_ids)
        # Trainer's own mean counts pictures twice that fill up the processes' last batches.
        logits, targets = (torch.as_tensor(array, device=self.args.device) for array in prediction)
        return scalars(found) | {"loss": float(self.loss(logits, targets))}

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.checkpoint_folder)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Trainer's checkpoint, written aside and given its name when it is whole."""
        self._refuse_nonsense_weights()
        name = checkpoint_name(self.state.global_step)
        try:
            with self._staged() as place:
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    self._save_average(place / name)
                self._record_best(place / name)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    publish(place / name, self.checkpoint_folder)
        except WRITING_ERRORS as error:
            if is_full(error):
                raise TrainingStopped(self._why_not_saved(error)) from error
            raise
        if self.args.should_save:
            rotate(self.checkpoint_folder, self.recipe.keep_checkpoints, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        """Trainer's output folder is the staging folder meanwhile; the first process makes and removes it."""
        with staging(self.checkpoint_folder) if self.args.should_save else nullcontext():
            self.accelerator.wait_for_everyone()
            self._staging = self.checkpoint_folder / STAGING
            try:
                yield self._staging
            finally:
                self._staging = None

    def _save_average(self, place: Path) -> None:
        if self.average is not None:
            save_file(self.average.state_dict(), place / AVERAGE_FILE)

    def _record_best(self, place: Path) -> None:
        """Puts right where the best checkpoint is: Trainer looked for it in the staging folder."""
        best = None
        if self.state.best_global_step:
            best = self.checkpoint_folder / checkpoint_name(self.state.best_global_step)
            if best.name != place.name and not best.is_dir():
                best = None
        self.state.best_model_checkpoint = None if best is None else str(best)
        if self.args.should_save:
            self.state.save_to_json(str(place / TRAINER_STATE))

    def _why_not_saved(self, error: BaseException) -> str:
        return (
            f"the checkpoint of step {self.state.global_step} cannot be written to {self.checkpoint_folder} "
            f"({why_unwritten(error)}{free_room(self.checkpoint_folder)}); make room. {self._what_is_kept()}"
        )

    def _what_is_kept(self) -> str:
        kept = whole_checkpoints(self.checkpoint_folder)
        return f"{kept[-1].name} is whole: --resume goes on from it" if kept else "There is no checkpoint before it"

    def _refuse_nonsense_weights(self) -> None:
        """Stops where a weight is no number any more: such weights are neither measured nor saved."""
        for name, weight in self.accelerator.unwrap_model(self.model).named_parameters():
            finite = torch.isfinite(weight.detach()).all()
            if weight.requires_grad and not bool(finite.full_tensor() if isinstance(finite, DTensor) else finite):
                raise TrainingStopped(
                    f"the weight {name} is no number after step {self.state.global_step}; {ADVICE}. "
                    f"{self._what_is_kept()}"
                )

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Trainer's, and of a resumed run what Trainer leaves as it was or forgets.

        Trainer takes the steps between checkpoints, validations and logs from the checkpoint and not from the recipe,
        looks for the best checkpoint where it once was, and begins to count anew for early stopping.
        """
        place = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is None:
            return place
        state = self.state
        state.compute_steps(self.args, max_steps)
        best = self.checkpoint_folder / checkpoint_name(state.best_global_step or 0)
        state.best_model_checkpoint = str(best) if best.is_dir() else None
        if self.recipe.keep_best and not best.is_dir():
            state.best_metric = state.best_global_step = None
        for callback in [*self.callback_handler.callbacks, self.control]:
            if not isinstance(callback, ExportableState):
                continue
            saved = state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = saved["attributes"][PATIENCE_COUNTER]
        return place

    def _run_epoch(self, **options: Any) -> None:
        """Trainer's, unless there is nothing left to do, where Trainer would make one step more."""
        patience = [call for call in self.callback_handler.callbacks if isinstance(call, EarlyStoppingCallback)]
        if self.state.global_step >= self.state.max_steps or any(
            call.early_stopping_patience_counter >= call.early_stopping_patience for call in patience
        ):
            self.control.should_training_stop = True
            return
        try:
            super()._run_epoch(**options)
        except RuntimeError as error:
            if WORDS_OF_LOST_WORKERS not in str(error):
                raise
            # It was killed, for want of memory or with the run as it was just being started.
            raise TrainingStopped(
                f"a process that reads pictures has ended behind step {self.state.global_step} ({one_line(error)}); "
                f"with too little memory, fewer workers help. {self._what_is_kept()}"
            ) from error

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Trainer's, with the rates, decays and momenta of the recipe, which may have changed."""
        if checkpoint is None or self.optimizer is None or self.lr_scheduler is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        settings = [
            {name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups
        ]
        highest = list(self.lr_scheduler.base_lrs)
        super()._load_optimizer_and_scheduler(checkpoint)
        scheduler = self.lr_scheduler
        scheduler.base_lrs = highest
        shares = [share(scheduler.last_epoch) for share in scheduler.lr_lambdas]
        rates = [rate * share for rate, share in zip(highest, shares, strict=True)]
        scheduler._last_lr = rates
        for group, setting, rate in zip(self.optimizer.param_groups, settings, rates, strict=True):
            group.update({**setting, "lr": rate})

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.recipe.keep_best:
            self.control.should_save = True  # what is not saved cannot be kept
        return is_best

    def load_average(self, checkpoint: Path) -> None:
        """Takes up the averaged weights where a checkpoint left them."""
        if self.average is not None and (checkpoint / AVERAGE_FILE).is_file():
            self.average.load_state_dict(load_file(checkpoint / AVERAGE_FILE))


def _with_patient_workers(loader: DataLoader) -> DataLoader:
    if getattr(loader.worker_init_fn, "func", None) is not start_patient_worker:
        loader.worker_init_fn = partial(start_patient_worker, loader.worker_init_fn)
    return loader


def is_full(error: BaseException) -> bool:
    """Whether a file could not be written for want of room, or because the disk fails or lets nobody write."""
    is_of_disk = isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EIO)
    return is_of_disk or lacks_room(error)


__all__ = ["WRITING_ERRORS", "HybridTrainer", "is_full"]

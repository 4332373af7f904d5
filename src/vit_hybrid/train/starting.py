"""What a run starts from: the model, fitted to data and recipe, and Trainer with all that the recipe asks for."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback

from ..assets import BUILT_IN_MODEL
from ..checkpoints import opening, published
from ..checkpoints.files import ModelLoadError
from ..data import LabeledPictures, Split
from ..errors import EngineWarning
from ..images.image_processing import ViTHybridImageProcessor
from ..images.preprocessing import Preprocessing
from ..model.configuration import ViTHybridConfig
from ..model.geometry import as_pair
from ..model.modeling import ViTHybridForImageClassification
from ..outputs.problems import REGRESSION
from .adapters import add_adapter
from .augmentation import BatchAugmentation
from .averaging import WeightAverage
from .callbacks import Averaging, EpochStart, RankAllocation
from .freezing import freeze
from .losses import TrainingLoss, class_weights
from .pictures import TrainingPictures, ValidationPictures
from .plan import Plan, arguments_of, attention_for
from .recipe import Recipe, RecipeError
from .run import Report, Run, TrainingError
from .trainer import HybridTrainer


def starting_model(
    recipe: Recipe, pictures: LabeledPictures, report: Report
) -> tuple[ViTHybridForImageClassification, ViTHybridImageProcessor, str]:
    """The recipe's model in float32 with the data's labels, its image processor, and what it starts from in words.

    A model that has exactly these labels, in any order, keeps its classifier; otherwise it gets a new one, all zero, as
    the paper starts its fine-tuning (arXiv 2010.11929, section 3.2). A preset, or a recipe's `architecture`, starts
    from random weights.

    Args:
        recipe: How to train.
        pictures: Those to train on.
        report: Called with one line for each thing the person should know, such as that the weights are random.

    Raises:
        RecipeError: The recipe's model and architecture contradict each other or cannot be.
        ValueError: The model cannot be opened, as `checkpoints.opening` says.
    """
    found = _start(recipe)
    size = None if recipe.image_size is None else (recipe.image_size, recipe.image_size)
    if isinstance(found, ViTHybridConfig):
        model = ViTHybridForImageClassification(found)
        start = "random weights"
    else:
        with _telling(report):
            model = _opened(found, size, len(pictures.labels))
        model = model.float()
        model.unfold_weight_standardization()
        model = _with_rates(model, _rates(recipe))
        start = f"random weights ({found.name})" if found.kind == "preset" else found.name
    fit_labels(model, pictures)
    with _telling(report):
        return model, _processor(found, as_pair(model.config.image_size)), start


def starting_preprocessing(recipe: Recipe, report: Report) -> Preprocessing:
    """What the model that `starting_model` would give does to pictures; no weights are read.

    Raises:
        RecipeError, ValueError: As `starting_model`.
    """
    size = None if recipe.image_size is None else (recipe.image_size, recipe.image_size)
    with _telling(report):
        return Preprocessing.from_dict(_processor(_start(recipe), size).to_dict())


def starting_source(recipe: Recipe) -> opening.Source | None:
    """What a recipe's model is opened from; None where it is an architecture of the recipe's own.

    Raises:
        RecipeError, ValueError: As `starting_model`.
    """
    found = _start(recipe)
    return None if isinstance(found, ViTHybridConfig) else found


def _start(recipe: Recipe) -> ViTHybridConfig | opening.Source:
    """What a recipe's model is made of: an architecture with random weights, or the model that it names."""
    if recipe.architecture is None:
        return opening.open(recipe.model or BUILT_IN_MODEL, random_weights=True)
    if recipe.model is not None:
        raise RecipeError(
            f"the recipe has an architecture, to start from random weights, and model is {recipe.model!r}; "
            "give one of them."
        )
    fields = {**recipe.architecture, **_rates(recipe)}
    if recipe.image_size is not None:
        fields["image_size"] = recipe.image_size
    try:
        config = ViTHybridConfig(**fields)
        config.check_runnable()
    except (TypeError, ValueError) as error:
        raise RecipeError(f"architecture: {error}") from error
    return config


def _processor(found: ViTHybridConfig | opening.Source, size: tuple[int, int] | None) -> ViTHybridImageProcessor:
    if isinstance(found, ViTHybridConfig):
        return published.processor(as_pair(found.image_size), found.num_channels, whole=True)
    return found.processor(size)


def _opened(source: opening.Source, size: tuple[int, int] | None, num_labels: int) -> ViTHybridForImageClassification:
    try:
        return source.classifier(size)
    except ModelLoadError:
        if source.kind != "own":
            raise
        return source.classifier(size, num_labels)  # a model without a classifier is a start, too


@contextmanager
def _telling(report: Report) -> Iterator[None]:
    """Reports what this package warns of, once the block is through."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EngineWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, EngineWarning):
            report(str(warning.message))


def fit_labels(model: ViTHybridForImageClassification, pictures: LabeledPictures) -> None:
    """Gives the model the labels and the problem type of the data, and a new zero classifier unless it has them."""
    config = model.config
    own = [str(config.id2label[index]) for index in range(config.num_labels)] if config.num_labels else []
    if sorted(own) == sorted(pictures.labels) and pictures.problem_type != REGRESSION:
        _reorder(model, [own.index(label) for label in pictures.labels])
    else:
        model.reset_classifier(len(pictures.labels))
    config.id2label = dict(enumerate(pictures.labels))
    config.label2id = {label: index for index, label in enumerate(pictures.labels)}
    config.problem_type = pictures.problem_type


def _reorder(model: ViTHybridForImageClassification, order: list[int]) -> None:
    with torch.no_grad():
        for weight in model.classifier.parameters():
            weight.copy_(weight[order].clone())


def _rates(recipe: Recipe) -> dict[str, Any]:
    """The fields of the configuration that the recipe decides."""
    return {
        "hidden_dropout_prob": recipe.dropout,
        "attention_probs_dropout_prob": recipe.attention_dropout,
        "drop_path_rate": recipe.drop_path,
    }


def _with_rates(model: ViTHybridForImageClassification, rates: dict[str, float]) -> ViTHybridForImageClassification:
    """The model with other rates of dropout, which its modules took from the configuration when they were made."""
    if all(getattr(model.config, name) == rate for name, rate in rates.items()):
        return model
    config = copy.deepcopy(model.config)
    for name, rate in rates.items():
        setattr(config, name, rate)
    other = ViTHybridForImageClassification(config)
    other.load_state_dict(model.state_dict())
    return other


def prepared(model: ViTHybridForImageClassification, recipe: Recipe, on_cpu: bool, steps: int) -> torch.nn.Module:
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


def starting_trainer(
    run: Run,
    split: Split,
    model: ViTHybridForImageClassification,
    trainable: torch.nn.Module,
    preprocessing: Preprocessing,
    plan: Plan,
    checkpoint: Path | None,
) -> HybridTrainer:
    """Trainer with all that the recipe asks for: the loss, augmentation, pictures, averages and what ends it early.

    Args:
        run: Its recipe, output and callbacks are used.
        split: The pictures, all readable.
        model: The model without adapters.
        trainable: What `prepared` made of it.
        preprocessing: What prepares pictures for the model.
        plan: The steps of the run.
        checkpoint: What the run resumes from.

    Raises:
        RecipeError, TrainingError: Fields of the recipe contradict each other, the device or the data.
    """
    recipe = run.recipe
    loss = TrainingLoss(
        split.train.problem_type, recipe.loss, recipe.label_smoothing, class_weights(recipe, split.train)
    )
    augment = BatchAugmentation(
        mean=preprocessing.image_mean if preprocessing.do_normalize else 0.0,
        std=preprocessing.image_std if preprocessing.do_normalize else 1.0,
        rescale_factor=(preprocessing.rescale_factor or 1.0) if preprocessing.do_rescale else 1.0,
        num_labels=len(split.train.labels),
        problem_type=split.train.problem_type,
        color=recipe.color,
        randaugment_layers=recipe.randaugment_layers,
        randaugment_magnitude=recipe.randaugment_magnitude,
        erase=recipe.erase,
        erase_scale=recipe.erase_scale,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
    )
    arguments = arguments_of(run, plan, split, model.config.backbone_config.layer_type == "preactivation")
    channels = model.config.num_channels
    trainer = HybridTrainer(
        trainable,
        recipe,
        arguments,
        TrainingPictures(split.train, recipe, as_pair(model.config.image_size), channels, recipe.seed),
        ValidationPictures(split.val, preprocessing),
        augment,
        loss,
        run.output,
        list(run.callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EpochStart(trainer))
    if recipe.adapter is not None:
        trainer.add_callback(RankAllocation(trainer))
    if recipe.ema and recipe.adapter is not None and recipe.adapter["method"].lower() == "adalora":
        raise RecipeError("ema does not go with adalora, whose ranks change on the way; set one of them aside.")
    if recipe.ema:
        if trainer.is_fsdp_enabled and trainer.args.device.type != "cpu":
            raise TrainingError("ema is not kept of sharded weights (FSDP); set ema to 0, or train with DDP.")
        trainer.average = WeightAverage(trainable, recipe.ema)
        trainer.add_callback(Averaging(trainer, checkpoint))
    if recipe.early_stopping is not None:
        trainer.add_callback(EarlyStoppingCallback(recipe.early_stopping))
    return trainer


__all__ = ["fit_labels", "prepared", "starting_model", "starting_preprocessing", "starting_source", "starting_trainer"]

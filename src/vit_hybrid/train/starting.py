"""The model a run starts from: fitted to the data's labels and the recipe's picture size, dropout and attention."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch

from ..assets import BUILT_IN_MODEL
from ..checkpoints.opening import open_classifier, published_processor
from ..data import LabeledPictures
from ..images.image_processing import ViTHybridImageProcessor
from ..inference.predictor import ModelLoadError
from ..model.configuration import ViTHybridConfig
from ..model.geometry import as_pair
from ..model.modeling import ViTHybridForImageClassification
from ..model.presets import resolve
from ..outputs.problems import REGRESSION
from .recipe import Recipe, RecipeError

# Pictures from -1 to 1, as the papers' models saw them.
HALF = [0.5, 0.5, 0.5]


def starting_model(
    recipe: Recipe, pictures: LabeledPictures
) -> tuple[ViTHybridForImageClassification, ViTHybridImageProcessor]:
    """The recipe's model in float32 with the data's labels, and its image processor.

    A model that has exactly these labels, in any order, keeps its classifier; otherwise it gets a new one, all zero, as
    the paper starts its fine-tuning (arXiv 2010.11929, section 3.2). A preset, or a recipe's `architecture`, starts
    from random weights.

    Raises:
        RecipeError: The recipe's model and architecture contradict each other or cannot be.
        ValueError: As `opening.open_classifier`.
    """
    changes = _changes(recipe)
    if recipe.architecture is not None:
        if recipe.model is not None:
            raise RecipeError(
                f"the recipe has an architecture, to start from random weights, and model is {recipe.model!r}; "
                "give one of them."
            )
        model = _from_configuration({**recipe.architecture, **changes}, recipe)
        processor = _plain_processor(as_pair(model.config.image_size), model.config.num_channels)
    elif recipe.model is not None and _is_preset(recipe.model):
        config = ViTHybridConfig.from_preset(recipe.model, image_size=recipe.image_size, **changes)
        model = ViTHybridForImageClassification(config)
        processor = published_processor(as_pair(config.image_size))
    else:
        size = None if recipe.image_size is None else (recipe.image_size, recipe.image_size)
        model, processor = _opened(recipe.model or BUILT_IN_MODEL, size, len(pictures.labels))
        model = model.float()
        model.unfold_weight_standardization()
        model = _with_rates(model, changes)
    fit_labels(model, pictures)
    return model, processor


def _opened(
    source: str, size: tuple[int, int] | None, num_labels: int
) -> tuple[ViTHybridForImageClassification, ViTHybridImageProcessor]:
    try:
        return open_classifier(source, size)
    except ModelLoadError:  # a model without a classifier is a start, too
        return open_classifier(source, size, num_labels)


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


def _is_preset(name: str) -> bool:
    if os.path.exists(os.path.expanduser(name)):
        return False
    try:
        resolve(name)
    except ValueError:
        return False
    return True


def _changes(recipe: Recipe) -> dict[str, Any]:
    """The fields of the configuration that the recipe decides."""
    return {
        "hidden_dropout_prob": recipe.dropout,
        "attention_probs_dropout_prob": recipe.attention_dropout,
        "drop_path_rate": recipe.drop_path,
    }


def _from_configuration(fields: dict[str, Any], recipe: Recipe) -> ViTHybridForImageClassification:
    if recipe.image_size is not None:
        fields["image_size"] = recipe.image_size
    try:
        config = ViTHybridConfig(**fields)
        config.check_runnable()
    except (TypeError, ValueError) as error:
        raise RecipeError(f"architecture: {error}") from error
    return ViTHybridForImageClassification(config)


def _plain_processor(size: tuple[int, int], channels: int) -> ViTHybridImageProcessor:
    height, width = size
    edge = {"shortest_edge": height} if height == width else {"height": height, "width": width}
    half = HALF if channels == len(HALF) else HALF[:1] * channels
    return ViTHybridImageProcessor(
        size=edge,
        crop_size={"height": height, "width": width},
        image_mean=half,
        image_std=half,
        do_convert_rgb=channels == len(HALF),
    )


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


__all__ = ["fit_labels", "starting_model"]

"""Recipes: every setting of a training run in one validated table, from YAML files and flags over them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..data import read_held_back
from ..errors import one_line
from ..files import unfetched
from ..runtimes import FloatingPrecision

RECIPE_FOLDER = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = "adamw"
SUFFIXES = (".yaml", ".yml")

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Pixels = Annotated[int, Field(ge=1)]


class RecipeError(ValueError):
    """A recipe that cannot be used; the message is one line that names it, the field, and what was expected."""


class Phase(BaseModel):
    """Epochs at one picture size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: Pixels
    epochs: Annotated[int, Field(ge=1)]


class Recipe(BaseModel):
    """What a training run does, but for the data and where it writes.

    Sizes are in pixels, times in epochs unless the name says steps; `batch_size` counts the pictures of one optimizer
    step, over all processes and accumulated batches, so that a recipe means the same on one processor and on eight.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    # what it is
    summary: str = ""
    command: str = ""
    result: str = ""

    # the model
    model: str | None = None
    architecture: dict[str, Any] | None = None
    image_size: Pixels | None = None
    growing: tuple[Phase, ...] = ()
    dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    drop_path: Rate = 0.0
    freeze: tuple[str, ...] = ()
    adapter: dict[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    leave_out: tuple[str, ...] = ()
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"

    # how long, and in what portions
    epochs: Annotated[float, Field(gt=0.0)] = 20.0
    max_steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 32
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1

    # the optimizer
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    adam_learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    momentum: Rate | None = None
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    head_multiplier: Annotated[float, Field(gt=0.0)] = 1.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05
    clip_norm: Annotated[float, Field(ge=0.0)] = 1.0
    ema: Rate = 0.0

    # the loss
    loss: Literal["auto", "cross_entropy", "binary_cross_entropy", "mean_squared_error"] = "auto"
    label_smoothing: Rate = 0.0
    class_weights: Literal["balanced"] | dict[str, float] | None = None

    # what is done to pictures
    crop_scale: tuple[Share, Share] = (0.25, 1.0)
    crop_ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 4 / 3)
    shift: Annotated[int, Field(ge=0)] = 0
    flip: Share = 0.5
    color: Rate = 0.0
    randaugment_layers: Annotated[int, Field(ge=0)] = 0
    randaugment_magnitude: Annotated[float, Field(ge=0.0, le=30.0)] = 10.0
    erase: Share = 0.0
    erase_scale: tuple[Share, Share] = (0.02, 1 / 3)
    mixup: Annotated[float, Field(ge=0.0)] = 0.0
    cutmix: Annotated[float, Field(ge=0.0)] = 0.0
    mix_until: Share = 1.0

    # how it is computed
    precision: FloatingPrecision = "f32"
    gradient_checkpointing: bool = False
    compile: bool = False
    channels_last: bool | None = None
    workers: Annotated[int, Field(ge=0)] = 1
    seed: Annotated[int, Field(ge=0)] = 0

    # what is measured and kept on the way
    held_back: str | None = None
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    validate_every: Annotated[float, Field(gt=0.0)] = 1.0
    save_every: Annotated[float, Field(gt=0.0)] = 1.0
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    keep_best: bool = True
    early_stopping: Annotated[int, Field(ge=1)] | None = None
    calibrate: bool = True
    log_every_steps: Annotated[int, Field(ge=1)] = 25
    tensorboard: bool = False

    @field_validator("crop_scale", "erase_scale", "crop_ratio")
    @classmethod
    def _ascending(cls, span: tuple[float, float]) -> tuple[float, float]:
        if not 0 < span[0] <= span[1]:
            raise ValueError(f"expected two numbers above 0, the smaller first, not {list(span)}")
        return span

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        planned = sum(phase.epochs for phase in self.growing)
        if self.growing and planned != self.epochs:
            raise ValueError(f"growing plans {planned} epochs, but epochs is {self.epochs:g}; make them equal")
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided into gradient_accumulation "
                f"{self.gradient_accumulation} equal parts"
            )
        if self.channels_last and (self.freeze or self.adapter is not None):
            # PyTorch 2.13 crashes in group norm's backward pass on a CPU where only the norm behind it is trained.
            raise ValueError("channels_last does not go with freeze or adapter; set it to false")
        if self.adapter is not None and "method" not in self.adapter:
            raise ValueError("adapter needs a method, such as {method: lora}")
        return self

    def size_in(self, epoch: int, image_size: int) -> int:
        """Side in pixels of the pictures of an epoch, counted from 0; `image_size` where the recipe grows none."""
        for phase in self.growing:
            if epoch < phase.epochs:
                return phase.image_size
            epoch -= phase.epochs
        return self.growing[-1].image_size if self.growing else image_size

    def to_yaml(self) -> str:
        """All settings, the default ones too, as a file that `load_recipe` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml"))


def load_recipe(name: str | os.PathLike[str] = DEFAULT_RECIPE, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by its shipped name or from a YAML file, with changes over it.

    Args:
        name: One of `shipped_recipes()`, or the path of a file.
        changes: Fields and their values, such as `parse_settings` gives. Epochs replace the recipe's `max_steps`.

    Raises:
        RecipeError: There is no such recipe, it is no YAML, or a field is unknown or has a value that cannot be.
    """
    name = os.fspath(name)
    path = _locate(name)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{name}: cannot be read: {one_line(error)}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: is no YAML: {one_line(error)}") from error
    if not isinstance(fields, dict):
        why = unfetched(path) or "holds no fields; expected lines such as `learning_rate: 1.0e-3`"
        raise RecipeError(f"{name}: {why}.")
    changes = dict(changes or {})
    if changes.get("epochs") is not None:
        changes.setdefault("max_steps", None)  # which would stand over the epochs that are asked for
    return build_recipe({**fields, **changes}, name)


def held_back_pictures(recipe: Recipe) -> list[str]:
    """The names of the training pictures that a recipe holds back, as `data.read_held_back` reads them.

    `held_back` is the name of a file beside the shipped recipes, or the path of another.

    Raises:
        DataError: There is no such file, or it is no such list.
    """
    if recipe.held_back is None:
        return []
    shipped = RECIPE_FOLDER / recipe.held_back
    return read_held_back(shipped if shipped.is_file() else Path(recipe.held_back).expanduser())


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Fields and values of texts such as `"learning_rate=1e-4"`; the values are read as YAML.

    Raises:
        RecipeError: A text has no `=`, or its value is no YAML.
    """
    return dict(_assignment(text) for text in texts)


def build_recipe(fields: Mapping[str, Any], name: str = "recipe") -> Recipe:
    """A recipe from its fields.

    Raises:
        RecipeError: As in `load_recipe`; `name` stands at the message's start.
    """
    try:
        return Recipe(**{str(key): value for key, value in fields.items()})
    except ValidationError as error:
        raise RecipeError(f"{name}: {'; '.join(_explain(problem) for problem in error.errors())}") from error


def _locate(name: str) -> Path:
    shipped = RECIPE_FOLDER / f"{name}.yaml"
    path = Path(name).expanduser()
    if os.sep not in name and not name.endswith(SUFFIXES) and shipped.is_file():
        return shipped
    if path.is_file():
        return path
    near = difflib.get_close_matches(name, shipped_recipes(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RecipeError(
        f"{name}: there is no such recipe; {hint}expected a YAML file or one of {', '.join(shipped_recipes())}."
    )


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"{text!r} sets nothing; expected NAME=VALUE, such as learning_rate=1e-4.")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{text!r}: the value is no YAML: {one_line(error)}") from error


def _explain(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = Recipe.model_fields if len(problem["loc"]) == 1 else Phase.model_fields
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.4)
        return f"unknown field {field!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {message}, not {problem['input']!r}" if field else message


__all__ = [
    "DEFAULT_RECIPE",
    "Phase",
    "Recipe",
    "RecipeError",
    "build_recipe",
    "held_back_pictures",
    "load_recipe",
    "parse_settings",
    "shipped_recipes",
]

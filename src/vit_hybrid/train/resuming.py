"""Whether a run can go on from what is in its folder: the same recipe where it matters, the same pictures, room."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..data import LabeledPictures, Split
from ..files import json_text, nearest_existing
from .checkpointing import CHECKPOINT_FOLDER, damage, named_checkpoints, whole_checkpoints, write_at_once
from .recipe import Recipe, load_recipe
from .run import METRICS_FILE

RECIPE_FILE = "recipe.yaml"
DATA_FILE = "data.json"
WEIGHTS_FILE = "model.safetensors"

# What a checkpoint depends on: the weights' names and shapes, what a step is, and which pictures come when. All other
# fields may change on the way.
UNCHANGEABLE = (
    "model",
    "architecture",
    "image_size",
    "labels",
    "leave_out",
    "freeze",
    "adapter",
    "batch_size",
    "optimizer",
    "layer_decay",
    "head_multiplier",
    "seed",
    "held_back",
    "val_fraction",
)
LENGTH = ("epochs", "max_steps")

# Numbers kept for each trained weight beside it, in float32: Adam has two moments, the others a momentum.
MOMENTS = {"adamw": 2, "sgd": 1, "muon": 1}
MOMENTS_OF_VECTORS = {"adamw": 2, "sgd": 1, "muon": 2}
FLOAT_BYTES = 4
# At the same time there can be the newest `keep_checkpoints`, the best one, and one that is being written.
CHECKPOINTS_BESIDE = 2
MEGABYTE = 10**6
FACTS = ("problem type", "labels", "training pictures", "validation pictures")
TARGETS = "digests of targets"
DIGEST_LENGTH = 16
LONGEST_LIST = 60  # characters of a value that a message shows


# --- which checkpoint -------------------------------------------------------------------------------------------------


def newest_undamaged(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The checkpoint to go on from, if there is one, and the newer ones that are damaged, with what is wrong."""
    damaged: dict[Path, str] = {}
    for checkpoint in reversed(named_checkpoints(folder)):
        reason = damage(checkpoint)
        if reason is None:
            return checkpoint, damaged
        damaged[checkpoint] = reason
    return None, damaged


def finished_metrics(output: Path, recipe: Recipe) -> dict[str, Any] | None:
    """What `metrics.json` says where the run in `output` has ended and the recipe asks for no other length."""
    try:
        metrics = json.loads((output / METRICS_FILE).read_bytes())
        trained = metrics["recipe"]
        same = all(trained[name] == getattr(recipe, name) for name in LENGTH)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return metrics if same and (output / "config.json").is_file() else None


# --- the same run? ----------------------------------------------------------------------------------------------------


def contradictions_of_recipe(output: Path, recipe: Recipe) -> list[str]:
    """What the recipe says that a checkpoint made by the recipe in `output` cannot go on with.

    Raises:
        RecipeError: The recipe in `output` cannot be read.
    """
    path = output / RECIPE_FILE
    if not path.is_file():
        return []
    before = load_recipe(path)
    found = [text for name in UNCHANGEABLE for text in _differences(name, getattr(before, name), getattr(recipe, name))]
    if bool(before.ema) != bool(recipe.ema):  # an average cannot begin in the middle
        found.append(_was_and_is("ema", before.ema, recipe.ema))
    return found


def contradictions_of_data(output: Path, split: Split) -> list[str]:
    """What is different in the pictures from those that the run in `output` has seen."""
    try:
        before = json.loads((output / CHECKPOINT_FOLDER / DATA_FILE).read_bytes())
        now = data_facts(split)
        found = [_was_and_is(words, before[words], now[words]) for words in FACTS if before[words] != now[words]]
        if not found and before[TARGETS] != now[TARGETS]:
            found = ["as many pictures have other labels, or stand in another order"]
        return found
    except (OSError, ValueError, TypeError, KeyError):  # nothing is known, so nothing contradicts
        return []


def contradictions_of_weights(checkpoint: Path, model: torch.nn.Module) -> list[str]:
    """Weights that a checkpoint has and the model has not, or in another shape."""
    path = checkpoint / WEIGHTS_FILE
    if not path.is_file():  # an adapter's, or one in shards
        return []
    with safe_open(path, framework="pt") as file:
        before = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    now = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    for name in sorted(before.keys() ^ now.keys()):
        return [f"the weight {name} is only in the {'checkpoint' if name in before else 'model'}"]
    return [_was_and_is(name, shape, now[name]) for name, shape in before.items() if shape != now[name]][:1]


def data_facts(split: Split) -> dict[str, Any]:
    """What tells one data set from another."""
    values = (split.train.problem_type, list(split.train.labels), len(split.train), len(split.val))
    return {**dict(zip(FACTS, values, strict=True)), TARGETS: [_digest(split.train), _digest(split.val)]}


def remember(output: Path, recipe: Recipe, split: Split) -> None:
    """Writes what a later `--resume` compares with."""
    folder = output / CHECKPOINT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_at_once(folder / DATA_FILE, json_text(data_facts(split)))
    write_at_once(output / RECIPE_FILE, recipe.to_yaml())


def _digest(pictures: LabeledPictures) -> str:
    return hashlib.sha256(pictures.targets.tobytes()).hexdigest()[:DIGEST_LENGTH]


def _was_and_is(what: str, before: Any, now: Any) -> str:
    """What has changed, in words."""
    return f"{what} was {_short(before)} and is {_short(now)}"


def _differences(what: str, before: Any, now: Any) -> list[str]:
    """The same, of tables for each of their entries."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [] if before == now else [_was_and_is(what, before, now)]
    names = [*before, *(name for name in now if name not in before)]
    return [text for name in names for text in _differences(f"{what}.{name}", before.get(name), now.get(name))]


def _short(value: Any) -> str:
    if value is None or value in ([], ()):
        return "none"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= LONGEST_LIST else f"{text[:LONGEST_LIST]}..."


# --- room -------------------------------------------------------------------------------------------------------------


def bytes_needed(model: torch.nn.Module, recipe: Recipe, existing: int = 0) -> int:
    """About how many bytes a run writes at most: its checkpoints at their most numerous, and the finished model.

    Args:
        model: As it is trained, with what is frozen frozen.
        recipe: Its optimizer, average and number of kept checkpoints count.
        existing: Checkpoints that are there already.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    numbers = sum(
        parameter.numel() * (MOMENTS if parameter.ndim > 1 else MOMENTS_OF_VECTORS)[recipe.optimizer]
        for parameter in trained
    )
    average = sum(parameter.numel() for parameter in trained) if recipe.ema else 0
    saved = sum(parameter.nbytes for parameter in trained) if recipe.adapter is not None else weights
    checkpoint = saved + FLOAT_BYTES * (numbers + average)
    return checkpoint * max(1, recipe.keep_checkpoints + CHECKPOINTS_BESIDE - existing) + weights


def too_little_room(
    output: Path,
    model: torch.nn.Module,
    recipe: Recipe,
    usage: Callable[[Path], Any] = shutil.disk_usage,
) -> str | None:
    """A sentence with both numbers where the run's checkpoints will not fit on the disk."""
    existing = len(whole_checkpoints(output / CHECKPOINT_FOLDER))
    needed, free = bytes_needed(model, recipe, existing), usage(nearest_existing(output)).free
    if needed <= free:
        return None
    return (
        f"{output}: the run needs about {_megabytes(needed)} MB for its checkpoints and the model, and "
        f"{_megabytes(free)} MB are free; make room, set keep_checkpoints lower, or give a folder on another disk."
    )


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:,.1f}"


def describe(contradictions: list[str] | Mapping[Path, str]) -> str:
    """Several reasons in one line."""
    if isinstance(contradictions, Mapping):
        return "; ".join(f"{path.name}: {reason}" for path, reason in contradictions.items())
    return "; ".join(contradictions)


__all__ = [
    "DATA_FILE",
    "RECIPE_FILE",
    "bytes_needed",
    "contradictions_of_data",
    "contradictions_of_recipe",
    "contradictions_of_weights",
    "data_facts",
    "describe",
    "finished_metrics",
    "newest_undamaged",
    "remember",
    "too_little_room",
]

"""The model card of a fine-tuned hybrid."""

from __future__ import annotations

from typing import Any

from ..data import Split
from ..inference.calibrating import in_words
from ..model.geometry import as_pair
from ..model.modeling import ViTHybridForImageClassification
from .recipe import Recipe
from .run import Outcome

LISTED_LABELS = 50
SHOWN_SCORES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "expected_calibration_error": "expected calibration error",
    "negative_log_likelihood": "negative log likelihood",
    "mean_average_precision": "mean average precision",
    "micro_f1": "micro F1",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
}


def model_card(model: ViTHybridForImageClassification, outcome: Outcome, split: Split) -> str:
    """README.md of a trained model: what it is, how it was made, and how good it was on the validation pictures."""
    metrics = outcome.metrics
    height, width = as_pair(model.config.image_size)
    found = metrics["validation"]
    rows = "\n".join(
        f"| {words} | {found[name]:.4f} |" for name, words in SHOWN_SCORES.items() if found.get(name) is not None
    )
    changed = _changed_settings(metrics["recipe"])
    labels = ", ".join(split.train.labels[:LISTED_LABELS]) + (" ..." if len(split.train.labels) > LISTED_LABELS else "")
    sure = f"## How sure it is\n\n{in_words(metrics['confidence'])}\n\n" if "confidence" in metrics else ""
    command = f"\n```sh\n{metrics['command']}\n```\n" if metrics.get("command") else ""
    return f"""---
library_name: transformers
pipeline_tag: image-classification
tags: [vit-hybrid, image-classification]
---

# {outcome.output.resolve().name}

A Hybrid Vision Transformer (a BiT ResNet whose feature map becomes the tokens of a ViT encoder) of
{model.num_parameters():,} parameters for images of {height} x {width} pixels, trained from
{metrics["start"]}. {len(split.train.labels)} labels: {labels}.

```sh
vit-hybrid classify PHOTO --model {outcome.output.resolve().name}
```

## How it was trained
{command}
{metrics["train_images"]:,} training pictures, {metrics["epochs"]:.4g} epochs, {metrics["steps"]:,} steps, seed
{metrics["seed"]}, {metrics["seconds"] / 60:.1f} minutes on {metrics["hardware"]}{metrics["resumed"]}. Kept:
{metrics["kept"]}. All settings are in `recipe.yaml`; those that differ from the defaults:

| setting | value |
|---|---|
{changed}

## How good it is

On {metrics["validation_images"]:,} validation pictures, which were not trained on{metrics["chosen"]}:

| score | value |
|---|---|
{rows}

{sure}![training curve](training_curve.png)
"""


def _changed_settings(recipe: dict[str, Any]) -> str:
    defaults = Recipe().model_dump(mode="json")
    unsaid = ("summary", "command", "result", "labels")
    rows = [f"| {name} | {value} |" for name, value in recipe.items() if value != defaults[name] and name not in unsaid]
    return "\n".join(rows) or "| (none) | |"


__all__ = ["model_card"]

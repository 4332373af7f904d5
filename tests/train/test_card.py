"""What a model's card says, by what a run came to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_hybrid import tiny_config

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.train.card import model_card
from vit_hybrid.train.recipe import Recipe
from vit_hybrid.train.run import Outcome

# What the card says elsewhere, or of another run.
UNSAID: dict[str, Any] = {"summary": "a", "command": "b", "result": "c", "labels": ("cat", "dog")}
FOUND = {"top1": 0.0, "top5": 1.0, "balanced_accuracy": 0.25, "r2": None, "per_class": {}}


def card(labels: list[str], output: str = "/there/my-model", **changes: Any) -> str:
    metrics: dict[str, Any] = {
        "validation": FOUND,
        "train_images": 1234,
        "validation_images": 56,
        "start": "random weights",
        "command": "vit-hybrid train x",
        "epochs": 1.5,
        "steps": 7000,
        "seed": 3,
        "seconds": 594.0,
        "hardware": "a processor",
        "resumed": "",
        "kept": "the weights after the last step",
        "chosen": "",
        "recipe": Recipe(batch_size=7, flip=0.25, keep_best=False, clip_norm=0.0, **UNSAID).model_dump(mode="json"),
        **changes,
    }
    model = ViTHybridForImageClassification(tiny_config(image_size=(32, 48)))
    split: Any = SimpleNamespace(train=SimpleNamespace(labels=tuple(labels)))
    return model_card(model, Outcome(Path(output), True, "top1", 0.0, metrics), split)


def test_every_fact_stands_in_its_place() -> None:
    text = card(["cat", "dog"])
    assert "\n# my-model\n" in text
    assert "vit-hybrid classify PHOTO --model my-model\n" in text
    assert "for images of 32 x 48 pixels, trained from\nrandom weights. 2 labels: cat, dog.\n" in text
    assert "\n```sh\nvit-hybrid train x\n```\n" in text
    assert "\n1,234 training pictures, 1.5 epochs, 7,000 steps, seed\n3, 9.9 minutes on a processor. Kept:\n" in text
    assert "\nOn 56 validation pictures, which were not trained on:\n" in text
    weights = ViTHybridForImageClassification(tiny_config(image_size=(32, 48))).parameters()
    assert f"\n{sum(weight.numel() for weight in weights):,} parameters for images" in text
    text = card(["cat"], resumed=" since it was resumed at checkpoint-3", chosen=", but chosen", kept="the best")
    assert " on a processor since it was resumed at checkpoint-3. Kept:\nthe best. " in text
    assert ", which were not trained on, but chosen:\n" in text


def test_a_model_is_called_as_its_folder_also_where_that_is_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    text = card(["cat", "dog"], output=".")
    assert "\n# mine\n" in text
    assert "--model mine\n" in text


def test_scores_of_nothing_are_scores_and_undefined_ones_are_left_out() -> None:
    text = card(["cat", "dog"])
    rows = text[text.index("| score | value |") :].splitlines()[2:5]
    assert rows == ["| top-1 accuracy | 0.0000 |", "| top-5 accuracy | 1.0000 |", "| balanced accuracy | 0.2500 |"]
    assert "R²" not in text
    every = {"top1": 0.1, "top5": 0.2, "balanced_accuracy": 0.3, "macro_f1": 0.4, "expected_calibration_error": 0.5}
    every |= {"negative_log_likelihood": 0.6, "mean_average_precision": 0.7, "micro_f1": 0.8, "mae": 0.9, "rmse": 1.0}
    text = card(["cat", "dog"], validation={**every, "r2": 0.95})
    assert (
        """
| score | value |
|---|---|
| top-1 accuracy | 0.1000 |
| top-5 accuracy | 0.2000 |
| balanced accuracy | 0.3000 |
| macro F1 | 0.4000 |
| expected calibration error | 0.5000 |
| negative log likelihood | 0.6000 |
| mean average precision | 0.7000 |
| micro F1 | 0.8000 |
| mean absolute error | 0.9000 |
| root mean squared error | 1.0000 |
| R² | 0.9500 |

"""
        in text
    )


def test_the_settings_are_those_that_differ() -> None:
    text = card(["cat", "dog"])
    start = text.index("| setting | value |")
    rows = text[start : text.index("## How good")].strip().splitlines()[2:]
    assert sorted(rows) == ["| batch_size | 7 |", "| clip_norm | 0.0 |", "| flip | 0.25 |", "| keep_best | False |"]
    assert "| (none) | |" in card(["cat", "dog"], recipe=Recipe().model_dump(mode="json"))


@pytest.mark.parametrize(("count", "is_cut"), [(50, False), (51, True)])
def test_of_many_labels_the_first_are_listed(count: int, is_cut: bool) -> None:
    text = card([f"label{number}" for number in range(count)], command="")
    assert f"{count} labels: label0, label1, " in text
    assert f"label49{' ...' if is_cut else ''}.\n" in text
    assert "vit-hybrid train" not in text
    assert text.count("```sh") == 1  # how it is used

"""The model in the box: what its folder holds, what its card claims, and that the claims hold on pictures."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vit_hybrid import Predictor, ViTHybridForImageClassification, ViTHybridImageProcessor
from vit_hybrid.assets import BUILT_IN_FOLDER, BUILT_IN_MODEL, RETIRED_MODELS
from vit_hybrid.checkpoints.files import ModelLoadError
from vit_hybrid.data import read_labeled
from vit_hybrid.data.tiny_imagenet import known_labels
from vit_hybrid.evaluate import evaluate, known_only, spread
from vit_hybrid.train.recipe import load_recipe

MAX_BYTES = 12_000_000
PROMISED_TOP1, PROMISED_TOP5 = 0.50, 0.75
SAMPLE = 1000
# Three standard errors of an accuracy measured on the sample: sqrt(p (1 - p) / 1000) is at most 1.6 points.
TOLERANCE = 0.048

# What recipes say of themselves, which results complete.
PROSE = ("summary", "command", "result")

CARD = (BUILT_IN_FOLDER / "README.md").read_text(encoding="utf-8")
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return json.loads((BUILT_IN_FOLDER / "figures.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_pretrained(device="cpu", engine="torch", batch_size=100)


def claimed() -> tuple[float, float]:
    """Top-1 and top-5 of the card."""
    found = re.search(r"all 9,000 \| ([\d.]+) % \| ([\d.]+) %", CARD)
    assert found, "the card states no accuracy on all 9,000 validation pictures"
    return float(found[1]) / 100, float(found[2]) / 100


def test_folder_is_complete_and_small() -> None:
    files = [path for path in BUILT_IN_FOLDER.iterdir() if path.is_file()]
    names = {path.name for path in files}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_card_states_what_a_user_needs_to_know() -> None:
    for fact in (
        *("Tiny ImageNet", "rights remain", "not\ncommercial", "Apache License 2.0", "9,000", "held back", "hours"),
        *("seed", "release_box_model.py", "tiny-imagenet", "These twenty classes", "tabby cat", BUILT_IN_MODEL),
    ):
        assert fact in CARD
    top1, top5 = claimed()
    assert top1 >= PROMISED_TOP1
    assert top5 >= PROMISED_TOP5
    assert not re.search(r"[{}]|\bnan\b", CARD)


def test_it_is_a_hybrid_of_this_family_with_the_names_of_its_classes() -> None:
    model = ViTHybridForImageClassification.from_pretrained(BUILT_IN_FOLDER)
    processor = ViTHybridImageProcessor.from_pretrained(BUILT_IN_FOLDER)
    left_out = load_recipe("tiny-imagenet").leave_out
    labels = [label for label in known_labels().values() if label not in left_out]
    assert len(left_out) == 20
    assert list(model.config.id2label.values()) == labels
    assert processor.crop_size == {"height": model.config.image_size, "width": model.config.image_size}


def test_weights_are_halves_in_the_file_and_float32_in_memory() -> None:
    with safe_open(BUILT_IN_FOLDER / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    model = ViTHybridForImageClassification.from_pretrained(BUILT_IN_FOLDER)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert {weight.dtype for weight in Predictor.from_pretrained(device="cpu", engine="torch").model.parameters()} == {
        torch.float32
    }


def test_it_is_what_the_recipe_in_the_package_describes() -> None:
    log = json.loads((BUILT_IN_FOLDER / "training_log.json").read_text())
    recipe = load_recipe("tiny-imagenet")
    said = {name: value for name, value in recipe.model_dump(mode="json").items() if name not in PROSE}
    assert {name: log["recipe"].get(name) for name in said} == said
    assert log["seed"] == recipe.seed
    assert recipe.architecture is not None
    model = ViTHybridForImageClassification.from_pretrained(BUILT_IN_FOLDER)
    assert model.config.backbone_config.hidden_sizes == recipe.architecture["backbone_config"]["hidden_sizes"]


def test_training_log_goes_down() -> None:
    log = json.loads((BUILT_IN_FOLDER / "training_log.json").read_text())["log"]
    losses = [float(entry["loss"]) for entry in log if "loss" in entry]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_nothing_in_the_folder_names_a_place_of_one_machine() -> None:
    for path in BUILT_IN_FOLDER.glob("*.[jm]*"):
        if path.suffix in (".json", ".md"):
            assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work|Users)/", path.read_text(encoding="utf-8")), path


def test_figures_are_those_of_the_weights(figures: dict[str, Any]) -> None:
    assert figures["weights"] == hashlib.sha256((BUILT_IN_FOLDER / "model.safetensors").read_bytes()).hexdigest()
    top1, top5 = claimed()
    assert figures["validation"]["images"] == 9000
    assert figures["validation"]["top1"] == pytest.approx(top1, abs=1e-4)
    assert figures["validation"]["top5"] == pytest.approx(top5, abs=1e-4)


def test_half_precision_costs_nothing(figures: dict[str, Any]) -> None:
    found = figures["held_back"]
    assert found["images"] == 3600
    assert found["top1"] == pytest.approx(found["top1_in_float32"], abs=0.001)
    assert found["agreement"] > 0.995


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.jpg")))
def test_the_photos_that_ship_are_named_as_recorded(name: str, predictor: Predictor, figures: dict[str, Any]) -> None:
    ranking = predictor(EXAMPLES / name, top_k=5)
    recorded = figures["examples"][name]
    assert ranking[0]["label"] == recorded[0]["label"]
    for one, other in zip(ranking, recorded, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=0.01)


def test_it_ships_calibrated(predictor: Predictor, figures: dict[str, Any]) -> None:
    found = predictor.confidence
    assert found is not None
    assert found.about["pictures"] == 3600
    assert found.trained_pictures is not None
    trust = figures["trust"]
    assert trust["images"] == 9000
    assert trust["after"]["calibration_error_equal_mass"] - trust["after"]["by_chance"] <= 0.01
    assert trust["after"]["negative_log_likelihood"] < trust["before"]["negative_log_likelihood"]
    assert trust["after"]["top1"] == trust["before"]["top1"]
    assert trust["splits"]["mean"] == pytest.approx(0.9, abs=0.005)
    assert trust["splits"]["within"] >= 90
    assert 0.03 <= trust["false_alarms"] <= 0.07
    for one in trust["strangers"].values():
        assert one["gain_between"][0] > 0


def test_the_photos_are_familiar_and_gravel_is_not(predictor: Predictor, figures: dict[str, Any]) -> None:
    paths = [EXAMPLES / name for name in ("cat.jpg", "coffee.jpg", "gravel.jpg")]
    records: list[Any] = list(predictor.stream(paths))
    assert [one["none_of_these"] for one in records] == [False, False, True]
    for path, one in zip(paths, records, strict=True):
        assert one["familiarity"] == pytest.approx(figures["familiar"][path.name], abs=0.01)


def test_the_cat_is_a_cat(figures: dict[str, Any]) -> None:
    assert "cat" in figures["examples"]["cat.jpg"][0]["label"].split()


@pytest.mark.parametrize("half", [0, 1])
def test_accuracy_on_validation_pictures_is_the_cards(data_dir: Path, predictor: Predictor, half: int) -> None:
    folder = data_dir / "tiny-imagenet-200"
    if not folder.is_dir():
        pytest.skip(f"no Tiny ImageNet at {folder}")
    pictures = known_only(read_labeled(folder, "val"), predictor.labels)
    assert len(pictures) == 9000
    found = evaluate(predictor, spread(pictures.select(np.arange(half, len(pictures), 2)), SAMPLE), strict=True).scores
    top1, top5 = claimed()
    assert found["top1"] == pytest.approx(top1, abs=TOLERANCE)
    assert found["top5"] == pytest.approx(top5, abs=TOLERANCE)


def test_photographs_are_named_as_recorded(data_dir: Path, predictor: Predictor, figures: dict[str, Any]) -> None:
    folder = data_dir / "photos"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}")
    labels = known_labels()
    for path in sorted(folder.iterdir()):
        label = labels.get(path.name.split("_")[0])
        if label in figures["photographs"]["first"]:
            assert predictor(path, top_k=1)[0]["label"] == figures["photographs"]["first"][label], path.name


@pytest.mark.parametrize("name", RETIRED_MODELS)
def test_a_model_that_was_here_names_the_one_that_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError, match=f"{name}: this model is no longer in the package; {BUILT_IN_MODEL} takes"):
        Predictor.from_pretrained(name, device="cpu")

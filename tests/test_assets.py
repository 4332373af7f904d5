"""The model in the box: what its folder holds, what its card claims, and that the claim holds on test pictures."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_hybrid import Predictor, ViTHybridForImageClassification, ViTHybridImageProcessor
from vit_hybrid.assets import BUILT_IN_FOLDER
from vit_hybrid.train.recipe import load_recipe

MAX_BYTES = 12_000_000
PROMISED_TOP1 = 0.88
SAMPLE = 1000
# Three standard errors of an accuracy measured on the sample: sqrt(p (1 - p) / 1000) is at most 1.4 points here.
TOLERANCE = 0.042

# What recipes say of themselves, which results complete.
PROSE = ("summary", "command", "result")

CARD = BUILT_IN_FOLDER / "README.md"


def claimed_top1() -> float:
    found = re.search(r"all 10,000 \| ([\d.]+) %", CARD.read_text(encoding="utf-8"))
    assert found, "the card states no accuracy on all 10,000 test images"
    return float(found[1]) / 100


def test_folder_is_complete_and_small():
    files = [path for path in BUILT_IN_FOLDER.iterdir() if path.is_file()]
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= {
        path.name for path in files
    }
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_card_states_what_a_user_needs_to_know():
    card = CARD.read_text(encoding="utf-8")
    for fact in (
        "CIFAR-10",
        "JPEG",
        "10,000",
        "hours",
        "thread",
        "seed",
        "release_box_model.py",
        "from-scratch",
        "do not carry over",
    ):
        assert fact in card
    assert claimed_top1() >= PROMISED_TOP1


def test_it_is_a_hybrid_of_this_family_with_ten_named_classes():
    model = ViTHybridForImageClassification.from_pretrained(BUILT_IN_FOLDER)
    processor = ViTHybridImageProcessor.from_pretrained(BUILT_IN_FOLDER)
    assert model.config.id2label[3] == "cat"
    assert model.config.num_labels == 10
    assert processor.crop_size == {"height": model.config.image_size, "width": model.config.image_size}


def test_it_is_what_the_recipe_in_the_package_describes():
    log = json.loads((BUILT_IN_FOLDER / "training_log.json").read_text())
    recipe = load_recipe("from-scratch")
    said = {name: value for name, value in recipe.model_dump(mode="json").items() if name not in PROSE}
    assert {name: log["recipe"][name] for name in said} == said
    assert log["seed"] == recipe.seed
    model = ViTHybridForImageClassification.from_pretrained(BUILT_IN_FOLDER)
    assert model.config.backbone_config.hidden_sizes == recipe.architecture["backbone_config"]["hidden_sizes"]


def test_training_log_goes_down():
    log = json.loads((BUILT_IN_FOLDER / "training_log.json").read_text())["log"]
    losses = [float(entry["loss"]) for entry in log if "loss" in entry]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize("start", [0, 9000])
def test_accuracy_on_test_pictures_is_the_cards(data_dir: Path, start: int):
    parquet = pytest.importorskip("pyarrow.parquet")
    file = data_dir / "cifar10" / "test.parquet"
    if not file.is_file():
        pytest.skip(f"no {file}")
    table = parquet.read_table(file).slice(start, SAMPLE)
    pictures = [Image.open(io.BytesIO(row["bytes"])) for row in table.column("image").to_pylist()]
    predictor = Predictor.from_pretrained(device="cpu", batch_size=100)
    found = predictor.logits(pictures).argmax(-1)
    accuracy = (found == np.array(table.column("label").to_pylist())).mean()
    assert accuracy == pytest.approx(claimed_top1(), abs=TOLERANCE)

"""A model from any format, with the image processor that goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.checkpoints import jax, opening, timm
from vit_hybrid.inference.predictor import ModelLoadError

PRESET = "R+Ti/16"
SIZE = 64


@pytest.fixture(scope="module")
def published() -> ViTHybridForImageClassification:
    """The smallest published hybrid with random weights and JAX's numerics, for small images."""
    torch.manual_seed(0)
    config = ViTHybridConfig.from_preset(PRESET, image_size=SIZE, num_labels=3)
    return ViTHybridForImageClassification(config).eval()


def test_every_format_gives_the_same_model(
    published: ViTHybridForImageClassification, tiny_folder: Path, tmp_path: Path
) -> None:
    jax.save(published, tmp_path / "model.npz", approximate=True)
    timm.save(published, tmp_path / "model.safetensors", approximate=True)
    weights = published.state_dict()
    for file in ("model.npz", "model.safetensors"):
        source = opening.open(tmp_path / file)
        model, processor = source.classifier((SIZE, SIZE)), source.processor((SIZE, SIZE))
        assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
        assert processor.crop_size == {"height": SIZE, "width": SIZE}
    source = opening.open(tiny_folder)
    model, processor = source.classifier(), source.processor()
    assert model.config.num_labels == 3
    assert processor.crop_size["height"] == model.config.image_size


def test_another_size_and_other_labels(tiny_folder: Path) -> None:
    source = opening.open(tiny_folder)
    model, processor = source.classifier((48, 48), num_labels=5), source.processor((48, 48))
    assert model.config.image_size == 48
    assert processor.crop_size == {"height": 48, "width": 48}
    assert processor.size == {"shortest_edge": 48}
    assert model(torch.zeros(1, 3, 48, 48)).logits.shape == (1, 5)
    assert not model.classifier.weight.any()


def test_a_headless_model_opens_only_with_a_new_classifier(tiny_folder: Path, tmp_path: Path) -> None:
    ViTHybridModel.from_pretrained(tiny_folder, add_pooling_layer=False).save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelLoadError, match="lack"):
        opening.open(tmp_path / "headless").classifier()
    model = opening.open(tmp_path / "headless").classifier(num_labels=2)
    assert model.config.num_labels == 2


def test_missing_weights_are_refused_with_a_new_classifier_too(tiny_folder: Path, tmp_path: Path) -> None:
    model = ViTHybridForImageClassification.from_pretrained(tiny_folder)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "stages.0" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="lack"):
        opening.open(tmp_path).classifier(num_labels=2)

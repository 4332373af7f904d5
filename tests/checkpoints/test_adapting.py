"""Another image size or number of classes than the checkpoint has."""

from __future__ import annotations

import copy

import pytest
import torch

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.checkpoints.adapting import adapt


def positions_of(model: ViTHybridForImageClassification) -> torch.Tensor:
    return model.vit.embeddings.position_embeddings.detach()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "bilinear-jax"])
@pytest.mark.parametrize("antialias", [True, False])
def test_positions_are_resized_as_asked(
    mode: str, antialias: bool, tiny_model: ViTHybridForImageClassification
) -> None:
    large = tiny_model.resize_position_embeddings((96, 128))
    expected = copy.deepcopy(large).resize_position_embeddings((48, 32), mode=mode, antialias=antialias)
    assert adapt(large, (48, 32), positions=mode, antialias=antialias) is large
    torch.testing.assert_close(positions_of(large), positions_of(expected), rtol=0, atol=0)
    assert tuple(large.config.image_size) == (48, 32)


@pytest.mark.parametrize(("asked", "labels"), [(None, 3), (0, 0), (3, 3), (5, 5)])
def test_a_new_classifier_where_one_is_asked_for(
    asked: int | None, labels: int, tiny_model: ViTHybridForImageClassification
) -> None:
    adapt(tiny_model, num_labels=asked)
    assert (tiny_model.num_labels, tiny_model.config.num_labels) == (labels, labels)
    logits = tiny_model(torch.randn(1, 3, 32, 32)).logits
    assert logits.shape == (1, labels or tiny_model.config.hidden_size)
    assert bool(logits.any()) is (asked in (None, 0))


def test_a_square_is_one_number(tiny_model: ViTHybridForImageClassification) -> None:
    assert adapt(tiny_model, (64, 64)).config.image_size == 64
    assert adapt(tiny_model).config.image_size == 64

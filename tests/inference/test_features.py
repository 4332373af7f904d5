"""Pictures in, vectors out, and the nearest of these."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch

from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.inference.features import Extractor, Features, nearest_neighbors


class TestNearestNeighbors:
    def test_weighted_votes_by_hand(self) -> None:
        angles = np.radians([0, 30, 60, 180])
        train = Features(np.stack([3 * np.cos(angles), 3 * np.sin(angles)], 1), np.array([0, 1, 1, 2]))
        votes = nearest_neighbors(train, np.array([[5.0, 0.0], [0.0, 0.1]]), 3, neighbors=3)
        weights = np.exp((np.cos(np.radians([0, 30, 60])) - 1) / 0.07)
        np.testing.assert_allclose(votes[0], [weights[0], weights[1] + weights[2], 0], atol=1e-12)
        assert votes[1].argmax() == 1

    def test_more_neighbors_than_pictures_and_zero_features(self) -> None:
        train = Features(np.zeros((2, 4)), np.array([0, 1]))
        votes = nearest_neighbors(train, np.zeros((1, 4)), 2, neighbors=50)
        assert np.isfinite(votes).all()
        assert votes[0, 0] == votes[0, 1] > 0


class TestExtractor:
    @pytest.mark.parametrize("precision", ["auto", "bf16"])
    def test_gives_what_the_classifier_takes_and_leaves_the_model_as_it_was(
        self, precision: str, tiny_model: Any
    ) -> None:
        steps = Preprocessing.from_dict(tiny_hybrid.tiny_processor().to_dict())
        picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        before = (tiny_model.classifier, tiny_model.config.num_labels, tiny_model.dtype)
        extractor = Extractor(tiny_model, steps, batch_size=2, precision=precision)
        first, error, second = extractor.stream([picture, ("b", b""), picture])
        assert (tiny_model.classifier, tiny_model.config.num_labels, tiny_model.dtype) == before
        assert error == {"path": "b", "error": "b: is empty"}
        np.testing.assert_array_equal(first["features"], second["features"])
        with torch.no_grad():
            expected = tiny_model(torch.from_numpy(steps([picture]))).logits[0]
            found = tiny_model.classifier(torch.from_numpy(first["features"]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if precision == "auto" else 0.05)

"""Deletion and insertion, on a model that says what one place of a picture has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_hybrid import tiny_config, tiny_processor

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.explain import Explainer, checking
from vit_hybrid.explain.checking import Curves, check
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.outputs.ranking import softmax


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    torch.manual_seed(0)
    return Explainer(ViTHybridForImageClassification(tiny_config()).eval(), tiny_processor())


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def explained(explainer: Explainer, method: str = "relevance", **changes: Any) -> Any:
    [found] = explainer.explain(picture(), method, 1 if method == "relevance" else None)
    return replace(found, **changes)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The batches that a model was given which says nothing of them."""
    given: list[np.ndarray] = []
    monkeypatch.setattr(checking, "logits_of", lambda _, batch: [given.append(batch), np.zeros((len(batch), 3))][1])
    return given


def looks_at_a_corner(_: Any, batch: np.ndarray) -> np.ndarray:
    """Logits of label 1: how much the upper left cell of 4 x 4 differs from nothing."""
    score = np.abs(batch[:, :, :8, :8]).mean((1, 2, 3)) * 5
    return np.stack([np.zeros_like(score), score, np.zeros_like(score)], axis=1)


def test_the_map_that_names_the_place_beats_chance_and_its_opposite_does_not(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "logits_of", looks_at_a_corner)
    corner = np.zeros((4, 4), np.float32)
    corner[0, 0] = 1
    found = check(explainer.model, explained(explainer, map=corner))
    assert found.map.deletion_area < found.random.deletion_area - 0.05
    assert found.map.insertion_area > found.random.insertion_area + 0.05
    found = check(explainer.model, explained(explainer, map=1 - corner))
    assert found.map.deletion_area > found.random.deletion_area
    assert found.map.insertion_area < found.random.insertion_area


def test_pictures_and_grids_need_not_be_square(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ViTHybridForImageClassification(tiny_config(image_size=[32, 48])).eval()
    wide = Explainer(model, Preprocessing(size=(32, 48), do_center_crop=False))
    [found] = wide.explain(picture(), "relevance", 1)
    result = check(model, found, steps=2, draws=1)
    said = {one["label"]: one["probability"] for one in found.predictions}
    assert result.map.deletion[0] == pytest.approx(said["LABEL_1"], abs=1e-6)
    monkeypatch.setattr(checking, "logits_of", looks_at_a_corner)
    corner = np.zeros((4, 6), np.float32)
    corner[0, 0] = 1
    result = check(model, replace(found, map=corner))
    assert result.map.deletion_area < result.random.deletion_area - 0.05
    assert result.map.insertion_area > result.random.insertion_area + 0.05


def test_curves_begin_and_end_with_the_picture_and_what_is_left_of_it(explainer: Explainer) -> None:
    found = explained(explainer)
    result = check(explainer.model, found, steps=4, draws=2)
    [logits] = explainer.model(torch.tensor(found.pixels[None])).logits.detach().numpy()
    whole = softmax(logits.astype(float))[1]
    for curves in (result.map, result.random):
        assert curves.deletion.shape == curves.insertion.shape == (5,)
        assert curves.deletion[0] == pytest.approx(whole, abs=1e-6)
        assert curves.insertion[-1] == pytest.approx(whole, abs=1e-6)
        assert curves.deletion[-1] == pytest.approx(curves.insertion[0], abs=1e-6)
    assert result.label == "LABEL_1"
    assert result.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    again = check(explainer.model, found, steps=4, draws=2)
    assert again.record() == result.record()
    assert check(explainer.model, found, steps=4, draws=2, seed=1).record() != result.record()


def test_the_same_pixels_are_taken_away_as_brought_back(explainer: Explainer, seen: list[np.ndarray]) -> None:
    found = explained(explainer)
    check(explainer.model, found, steps=4, draws=1)
    deleted, inserted = seen[:2]
    for step, (without, only) in enumerate(zip(deleted, inserted, strict=True)):
        # Of each pixel one of the two has the picture's, and the other what is in its place.
        assert (without + only == found.pixels + deleted[-1]).all()
        changed = (without != found.pixels).any(0).mean()
        assert changed == pytest.approx(step / 4, abs=0.02)


def test_the_label_that_the_map_is_of_whichever_it_is(explainer: Explainer) -> None:
    for index in range(3):
        [found] = explainer.explain(picture(), "grad-cam", index)
        said = {one["label"]: one["probability"] for one in found.predictions}
        for order in (1, -1):
            result = check(explainer.model, replace(found, predictions=found.predictions[::order]), steps=1, draws=1)
            assert result.label == f"LABEL_{index}"
            assert result.map.deletion[0] == pytest.approx(said[result.label], abs=1e-6)


def test_the_first_label_where_a_map_is_the_same_for_all(explainer: Explainer) -> None:
    found = explained(explainer, "rollout")
    assert check(explainer.model, found, steps=1, draws=1).label == found.predictions[0]["label"]
    for first in found.predictions:
        said = replace(found, predictions=[first])
        result = check(explainer.model, said, steps=1, draws=1)
        assert result.label == first["label"]
        assert result.map.deletion[0] == pytest.approx(first["probability"], abs=1e-6)


def test_random_curves_are_the_means_of_as_many_as_are_asked_for(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = explained(explainer)
    numbers = iter(range(100))
    with monkeypatch.context() as patched:
        patched.setattr(checking, "_scores", lambda *_: np.full(3, float(next(numbers))))
        result = check(explainer.model, found, steps=2, draws=3)
        assert next(numbers) == 2 * 4
        check(explainer.model, found)
        assert next(numbers) == 2 * 4 + 1 + 2 * 6  # five by default
    assert [curve.tolist() for curve in (result.map.deletion, result.map.insertion)] == [[0] * 3, [1] * 3]
    assert [curve.tolist() for curve in (result.random.deletion, result.random.insertion)] == [[4] * 3, [5] * 3]
    assert result.record() == {
        "label": "LABEL_1",
        "shares": [0, 0.5, 1],
        "deletion": {"map": [0] * 3, "random": [4] * 3, "map_area": 0, "random_area": 4},
        "insertion": {"map": [1] * 3, "random": [5] * 3, "map_area": 1, "random_area": 5},
    }


def test_more_pictures_than_a_batch_holds_give_as_many_points(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = explained(explainer)
    whole = check(explainer.model, found, steps=6, draws=1)
    monkeypatch.setattr(checking, "BATCH_SIZE", 3)
    parts = check(explainer.model, found, steps=6, draws=1)
    for curve, other in ((whole.map.deletion, parts.map.deletion), (whole.random.insertion, parts.random.insertion)):
        assert len(other) == 7
        assert other == pytest.approx(curve, abs=1e-6)


def test_of_pixels_that_a_map_puts_alike_some_are_taken_from_everywhere(
    explainer: Explainer, seen: list[np.ndarray]
) -> None:
    found = explained(explainer, map=np.ones((4, 4), np.float32))
    check(explainer.model, found, steps=2, draws=1)
    changed = (seen[0][1] != found.pixels).any(0)
    for quarter in (changed[:16, :16], changed[:16, 16:], changed[16:, :16], changed[16:, 16:]):
        assert 0.3 < quarter.mean() < 0.7


def test_random_maps_are_as_coarse_as_the_map(explainer: Explainer, seen: list[np.ndarray]) -> None:
    """Single pixels from everywhere would leave nothing of any picture, and every map would look worse than chance."""
    found = explained(explainer)
    check(explainer.model, found, steps=2, draws=1)
    changed = (seen[2][1] != found.pixels).any(0)
    assert changed.mean() == pytest.approx(0.5, abs=0.02)
    assert (changed[:, 1:] == changed[:, :-1]).mean() > 0.8


def test_values_of_a_regression(explainer: Explainer) -> None:
    model = ViTHybridForImageClassification(tiny_config(problem_type="regression")).eval()
    [found] = Explainer(model, tiny_processor()).explain(picture(), "grad-cam", 2)
    result = check(model, found, steps=1, draws=1)
    assert result.map.deletion[0] == pytest.approx(found.predictions[2]["value"], abs=1e-6)


def test_areas_are_those_of_trapezoids() -> None:
    curves = Curves(np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0]))
    assert (curves.deletion_area, curves.insertion_area) == (0.25, 0.75)


def test_what_cannot_be_checked(explainer: Explainer) -> None:
    with pytest.raises(ValueError, match="steps is 0 and draws 5; expected 1 or more"):
        check(explainer.model, explained(explainer), steps=0)
    with pytest.raises(ValueError, match="steps is 10 and draws 0; expected 1 or more"):
        check(explainer.model, explained(explainer), draws=0)
    with pytest.raises(ValueError, match="this model has no classifier"):
        check(explainer.model, explained(explainer, predictions=[]))

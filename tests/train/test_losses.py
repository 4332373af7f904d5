"""What training minimizes, against formulas written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vit_hybrid.data import LabeledPictures, read_labeled
from vit_hybrid.train.losses import TrainingLoss, balanced_weights, class_weights
from vit_hybrid.train.recipe import RecipeError, build_recipe

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.tensor([0, 3, 1, 1, 2, 0])


def test_cross_entropy_with_smoothing_and_weights_is_a_weighted_mean(logits, targets) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    found = TrainingLoss(SINGLE, class_weights=weights)(logits, targets)
    each = -logits.log_softmax(-1)[torch.arange(6), targets]
    expected = (each * weights[targets]).sum() / weights[targets].sum()
    assert found == pytest.approx(expected.item(), rel=1e-6)
    smoothed = TrainingLoss(SINGLE, label_smoothing=0.2)(logits, targets)
    shares = torch.nn.functional.one_hot(targets, 4) * 0.8 + 0.2 / 4
    assert smoothed == pytest.approx(-(shares * logits.log_softmax(-1)).sum(-1).mean().item(), rel=1e-6)


def test_hard_targets_written_as_shares_cost_the_same(logits, targets) -> None:
    shares = torch.nn.functional.one_hot(targets, 4).float()
    weights, smoothing = {"class_weights": [1.0, 2.0, 0.5, 3.0]}, {"label_smoothing": 0.1}
    for options in ({}, weights, smoothing, weights | smoothing):
        loss = TrainingLoss(SINGLE, **options)
        assert loss(logits, shares) == pytest.approx(loss(logits, targets).item(), rel=1e-6)


def test_binary_cross_entropy_of_one_label_asks_for_each(logits, targets) -> None:
    found = TrainingLoss(SINGLE, loss="binary_cross_entropy", label_smoothing=0.1)(logits, targets)
    shares = torch.nn.functional.one_hot(targets, 4) * 0.9 + 0.05
    expected = -(shares * logits.sigmoid().log() + (1 - shares) * (-logits).sigmoid().log()).mean()
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_several_labels_and_numbers(logits) -> None:
    several = torch.tensor([[1.0, 0.0, 1.0, 0.0]] * 6)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, several)
    assert TrainingLoss(MULTI)(logits, several) == pytest.approx(expected.item())
    values = torch.arange(6.0)
    assert TrainingLoss(REGRESSION)(values[:, None] + 2, values) == pytest.approx(4.0)


def test_half_precision_logits_are_summed_in_single(logits, targets) -> None:
    loss = TrainingLoss(SINGLE)(logits.bfloat16(), targets)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_in_binary_cross_entropy_weights_weigh_each_labels_question(problem_type, logits, targets) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    shares = torch.nn.functional.one_hot(targets, 4).float()
    loss = TrainingLoss(problem_type, loss="binary_cross_entropy", class_weights=weights)
    asked = torch.nn.functional.softplus(logits) - logits * shares  # what each question costs
    expected = (asked * weights).mean()
    torch.testing.assert_close(loss(logits, targets if problem_type == SINGLE else shares), expected)
    assert abs(expected - asked.mean()) > 0.05


@pytest.mark.parametrize(
    ("problem", "options", "words"),
    [
        (MULTI, {"loss": "cross_entropy"}, "'binary_cross_entropy'"),
        (SINGLE, {"loss": "mean_squared_error"}, "'cross_entropy' or 'binary_cross_entropy'"),
        (REGRESSION, {"label_smoothing": 0.1}, "for labels"),
        (REGRESSION, {"class_weights": [1.0]}, "for labels"),
    ],
)
def test_losses_that_do_not_fit_are_refused(problem: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingLoss(problem, **options)


def test_balanced_classes_count_the_same_and_the_mean_picture_one() -> None:
    counts = [30, 10, 0, 60]
    weights = balanced_weights(counts)
    shares = [weight * count for weight, count in zip(weights.tolist(), counts, strict=True)]
    assert shares[0] == pytest.approx(shares[1]) == pytest.approx(shares[3])
    assert sum(shares) / sum(counts) == pytest.approx(1.0)
    assert weights[2] == 1


class TestClassWeights:
    @pytest.fixture
    def pictures(self, tmp_path: Path) -> LabeledPictures:
        for name, count in (("ant", 1), ("bee", 2), ("cat", 5)):
            (tmp_path / name).mkdir()
            for number in range(count):
                Image.new("RGB", (2, 2)).save(tmp_path / name / f"{number}.png")
        return read_labeled(tmp_path)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (None, None),
            ({"cat": 0.25, "ant": 4.0}, [4.0, 1.0, 0.25]),
            ("balanced", [8 / 3, 8 / 6, 8 / 15]),
        ],
    )
    def test_each_label_gets_its_own(self, given: Any, expected: Any, pictures: LabeledPictures) -> None:
        found = class_weights(build_recipe({"class_weights": given}), pictures)
        assert found is expected if expected is None else found.tolist() == pytest.approx(expected)

    def test_of_values_they_are_refused_by_the_loss(self, pictures: LabeledPictures) -> None:
        pictures.problem_type = REGRESSION
        weights = class_weights(build_recipe({"class_weights": "balanced"}), pictures)
        with pytest.raises(ValueError, match="class_weights are for labels, and these data hold numbers"):
            TrainingLoss(REGRESSION, class_weights=weights)
        assert class_weights(build_recipe({}), pictures) is None

    def test_of_labels_that_there_are(self, pictures: LabeledPictures) -> None:
        with pytest.raises(RecipeError, match=r"'dog'.*ant, bee, cat"):
            class_weights(build_recipe({"class_weights": {"dog": 2.0}}), pictures)

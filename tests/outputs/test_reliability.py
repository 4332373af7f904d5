"""Scores of probabilities, against scikit-learn's and torchmetrics' and against hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from vit_hybrid.outputs import reliability
from vit_hybrid.outputs.ranking import softmax
from vit_hybrid.outputs.reliability import sure_and_right


def made(pictures: int, scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of outputs `scale` times as sure as they should be, and true classes."""
    rng = np.random.default_rng(seed)
    honest = 2 * rng.normal(size=(pictures, 5))
    targets = np.array([rng.choice(5, p=row) for row in softmax(honest)])
    return softmax(scale * honest), targets


def test_a_likelihood_is_of_any_probability_and_no_infinity() -> None:
    probabilities = np.array([[1e-30, 1.0], [0.0, 1.0]])
    found = [reliability.negative_log_likelihood(probabilities[[row]], np.array([0])) for row in (0, 1)]
    assert found == pytest.approx([30 * np.log(10), 1022 * np.log(2)])  # 2 to the -1022 is the least normal float64


def test_the_upper_edge_belongs_to_a_bin() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])
    assert reliability.bins(*sure_and_right(probabilities, np.array([0, 1, 0])), count=2) == [
        {"pictures": 1, "confidence": 0.5, "accuracy": 1.0},
        {"pictures": 2, "confidence": 0.875, "accuracy": 0.5},
    ]


def test_likelihood_and_brier_are_scikit_learns() -> None:
    probabilities, targets = made(300)
    assert reliability.negative_log_likelihood(probabilities, targets) == pytest.approx(
        metrics.log_loss(targets, probabilities)
    )
    one_hot = np.eye(5)[targets]
    assert reliability.brier_score(probabilities, targets) == pytest.approx(
        ((probabilities - one_hot) ** 2).sum(axis=1).mean()
    )
    assert np.isfinite(reliability.negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])))


def test_the_error_of_equal_widths_is_torchmetrics() -> None:
    probabilities, targets = made(2_000, scale=2.0)
    found = reliability.calibration_error(reliability.bins(*sure_and_right(probabilities, targets)))
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(targets), num_classes=5, n_bins=15, norm="l1"
    )
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_bins_of_equal_mass() -> None:
    probabilities, targets = made(1_000, scale=2.0)
    found = reliability.bins(*sure_and_right(probabilities, targets), equal_mass=True)
    assert [one["pictures"] for one in found] == [67] * 10 + [66] * 5
    sure = np.sort(probabilities.max(axis=1))
    assert found[0]["confidence"] == pytest.approx(sure[:67].mean())
    right = probabilities.argmax(axis=1) == targets
    assert sum(one["accuracy"] * one["pictures"] for one in found) == pytest.approx(right.sum())
    assert len(reliability.bins(*sure_and_right(probabilities[:4], targets[:4]), equal_mass=True)) == 4


def test_of_many_pictures_a_hundred_points_are_kept() -> None:
    probabilities, targets = made(1_234)
    sure, right = sure_and_right(probabilities, targets)
    curve = reliability.risk_coverage(sure, right)
    assert [share for share, _ in curve] == pytest.approx(np.arange(1, 101) / 100, abs=1 / 1_234)
    ordered = right[np.argsort(-sure)]
    assert curve[0][0] == 13 / 1_234  # of 12.34, as each of them one more
    assert curve[-1][0] == 1.0
    for share, accuracy in curve:
        assert accuracy == pytest.approx(ordered[: round(share * 1_234)].mean())


def test_what_chance_shows() -> None:
    honest, targets = made(3_000)
    chance = reliability.calibration_error_by_chance(honest.max(axis=1), equal_mass=True)
    assert 0 < chance < 0.03
    found = reliability.calibration_error(reliability.bins(*sure_and_right(honest, targets), equal_mass=True))
    assert found == pytest.approx(chance, abs=0.01)
    boastful, targets = made(3_000, scale=3.0)
    found = reliability.calibration_error(reliability.bins(*sure_and_right(boastful, targets), equal_mass=True))
    assert found > reliability.calibration_error_by_chance(boastful.max(axis=1), equal_mass=True) + 0.05


def test_whom_to_answer() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    targets = np.array([0, 1, 1, 1])  # the third is wrong
    sure, right = sure_and_right(probabilities, targets)
    assert reliability.risk_coverage(sure, right) == [(0.25, 1.0), (0.5, 1.0), (0.75, 2 / 3), (1.0, 0.75)]
    assert [one["accuracy"] for one in reliability.answers(sure, right)] == [0.8, 0.9, 0.95, 0.99]
    found = reliability.answers(sure, right, (0.99, 0.7))
    assert found[0] == {"accuracy": 0.99, "share": 0.5, "probability": 0.8}
    assert found[1] == {"accuracy": 0.7, "share": 1.0, "probability": 0.6}
    assert reliability.answers(*sure_and_right(probabilities, 1 - targets), (0.9,)) == [
        {"accuracy": 0.9, "share": None, "probability": None}
    ]


@pytest.mark.parametrize("rounded", [False, True])
def test_telling_strangers_is_scikit_learns(rounded: bool) -> None:
    rng = np.random.default_rng(0)
    known, strangers = rng.normal(size=400), rng.normal(size=150) + 1
    if rounded:  # so that scores of both are equal
        known, strangers = known.round(), strangers.round()
    truth = np.repeat([0, 1], [400, 150])
    scores = np.concatenate([known, strangers])
    found = reliability.detection(known, strangers)
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(truth, scores))
    assert found["aupr"] == pytest.approx(metrics.average_precision_score(truth, scores))
    false, recall, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert found["false_positive_rate_at_95"] == pytest.approx(false[np.argmax(recall >= 0.95)])


def test_ninety_five_percent_of_strangers_are_enough() -> None:
    known, strangers = np.array([1.5, 0.5]), np.arange(20.0) + 1  # of whom one alone is below 1.5
    assert reliability.detection(known, strangers)["false_positive_rate_at_95"] == 0.0
    assert reliability.detection(known, strangers[:19])["false_positive_rate_at_95"] == 0.5


def test_equally_sure_pictures_count_alike_whichever_comes_first() -> None:
    sure = np.array([0.6, 0.6, 0.6, 0.9, 0.3])
    right = np.array([True, False, False, True, False])
    for order in ([0, 1, 2, 3, 4], [2, 4, 1, 3, 0], [1, 3, 2, 0, 4]):
        found = reliability.bins(sure[order], right[order], equal_mass=True, count=3)
        assert found == [
            {"pictures": 2, "confidence": pytest.approx(0.45), "accuracy": pytest.approx(1 / 6)},
            {"pictures": 2, "confidence": pytest.approx(0.6), "accuracy": pytest.approx(1 / 3)},
            {"pictures": 1, "confidence": 0.9, "accuracy": 1.0},
        ]
        curve = reliability.risk_coverage(sure[order], right[order])
        assert curve == [
            *((0.2, 1.0), (0.4, pytest.approx(2 / 3)), (0.6, pytest.approx(5 / 9)), (0.8, pytest.approx(0.5))),
            (1.0, pytest.approx(0.4)),
        ]
        [most, some] = reliability.answers(sure[order], right[order], (0.55, 0.5))
        assert most == {"accuracy": 0.55, "share": 0.2, "probability": 0.9}  # all of 0.6, or none
        assert some == {"accuracy": 0.5, "share": 0.8, "probability": 0.6}


def test_sums_of_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    sure, right = rng.random(500), rng.random(500) < 0.5
    sure[:3] = 0.0, 1.0, 0.2  # edges
    parts = reliability.width_sums(sure[:77], right[:77]) + reliability.width_sums(sure[77:], right[77:])
    np.testing.assert_allclose(parts, reliability.width_sums(sure, right), rtol=1e-13)
    assert reliability.bins_of_sums(parts)[0]["pictures"] == ((sure >= 0) & (sure <= 1 / 15)).sum()
    for found, expected in zip(reliability.bins_of_sums(parts), reliability.bins(sure, right), strict=True):
        assert found == pytest.approx(expected)
    assert parts[:, 0].sum() == 500
    assert parts[2, 0] == ((sure > 2 / 15) & (sure <= 0.2)).sum()


def test_what_chance_shows_is_the_mean_over_draws_whose_bins_have_unlike_numbers_of_pictures() -> None:
    sure = np.random.default_rng(1).random(37)
    for equal_mass in (True, False):
        rng = np.random.default_rng(0)
        drawn = (reliability.bins(sure, rng.random(37) < sure, equal_mass) for _ in range(200))
        expected = np.mean([reliability.calibration_error(found) for found in drawn])
        assert reliability.calibration_error_by_chance(sure, equal_mass) == pytest.approx(expected, rel=1e-12)
        rng = np.random.default_rng(0)
        drawn = (reliability.bins(sure, rng.random(37) < sure, equal_mass, 4) for _ in range(9))
        expected = np.mean([reliability.calibration_error(found) for found in drawn])
        found = reliability.calibration_error_by_chance(sure, equal_mass, count=4, draws=9)
        assert found == pytest.approx(expected, rel=1e-12)

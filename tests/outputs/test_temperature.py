"""Temperatures: those of the smallest loss, however far outputs spread, and what is made of outputs that never err."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from vit_hybrid.outputs.ranking import sigmoid, softmax
from vit_hybrid.outputs.temperature import temperature_of, temperatures_of

SCALES = [1e-4, 0.02, 1.0, 60.0, 1e5]


def drawn(pictures: int, labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are as sure as they should be, and classes."""
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(pictures, labels)) + 3.0
    return logits, np.array([rng.choice(labels, p=row) for row in softmax(logits)])


@pytest.mark.parametrize("scale", SCALES)
def test_it_is_the_best_however_far_outputs_spread(scale: float) -> None:
    logits, targets = drawn(400)

    def loss(temperature: float) -> float:
        return float(-np.log(softmax(logits / temperature)[np.arange(len(targets)), targets]).mean())

    best = optimize.minimize_scalar(loss, bounds=(0.3, 3), method="bounded", options={"xatol": 1e-9}).x
    assert temperature_of(scale * logits, targets) == pytest.approx(scale * best, rel=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_of_several_labels_too(scale: float) -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(400, 2))
    targets = (rng.random(logits.shape) < sigmoid(logits)).astype(float)

    def loss(temperature: float, label: int) -> float:
        outputs = logits[:, label] / temperature
        return float(np.logaddexp(0, np.where(targets[:, label] > 0, -outputs, outputs)).mean())

    best = [
        optimize.minimize_scalar(loss, bounds=(0.3, 3), args=(label,), method="bounded", options={"xatol": 1e-9}).x
        for label in range(2)
    ]
    found = temperatures_of(logits * np.array([scale, 1.0]), targets)
    assert found / np.array([scale, 1.0]) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("pictures", "least", "most"), [(20, 0.9, 0.98), (2_000, 0.999, 0.9999)])
def test_outputs_that_are_right_of_all_pictures_are_not_called_certain(
    scale: float, pictures: int, least: float, most: float
) -> None:
    """The likelihood would be the better the surer they are; of 20 pictures nobody can know 100 %."""
    targets = np.arange(pictures) % 4
    logits = scale * np.eye(4)[targets]
    probabilities = softmax(logits / temperature_of(logits, targets))
    assert least < probabilities[np.arange(pictures), targets].min() < most
    several = scale * (2 * np.eye(4)[targets] - 1)
    found = sigmoid(several / temperatures_of(several, np.eye(4)[targets]))[np.arange(pictures), targets]
    # A fourth of the pictures has each label, and so they say less of its presence.
    assert found.min() > 0.8
    assert found.max() < most


def test_one_of_as_many_labels_that_is_always_told_is_called_as_sure_as_platt_has_it() -> None:
    """(n + 1) / (n + 2) of n pictures."""
    targets = np.arange(20) % 4
    logits = np.eye(4)[targets]
    found = softmax(logits / temperature_of(logits, targets))[np.arange(20), targets]
    assert found == pytest.approx(21 / 22)


def test_a_label_that_some_outputs_say_nothing_of_is_always_told() -> None:
    targets = np.arange(100)[:, None] % 2
    logits = np.zeros((100, 1))
    logits[:2, 0] = -100.0, 100.0
    assert sigmoid(100 / temperatures_of(logits, targets))[0] == pytest.approx(51 / 52)


@pytest.mark.parametrize("having", [5, 10, 18])
def test_a_label_that_is_always_told_is_called_as_sure_as_platt_has_it(having: int) -> None:
    """The mean of (n + 1) / (n + 2) over the pictures with the label and those without it, n of each kind."""
    lacking = 20 - having
    targets = np.repeat([[1.0], [0.0]], [having, lacking], axis=0)
    expected = (having * (having + 1) / (having + 2) + lacking * (lacking + 1) / (lacking + 2)) / 20
    assert sigmoid(1 / temperatures_of(2 * targets - 1, targets))[0] == pytest.approx(expected)


def test_outputs_that_say_nothing_make_probabilities_alike() -> None:
    assert temperature_of(np.zeros((30, 3)), np.arange(30) % 3) == 1.0
    assert temperature_of(np.full((30, 3), 7.0), np.arange(30) % 3) == 1.0
    rng = np.random.default_rng(0)
    logits, targets = 100 * rng.normal(size=(300, 3)), rng.integers(0, 3, 300)
    assert softmax(logits / temperature_of(logits, targets)).max() < 0.5
    wrong = logits.argmin(axis=1)
    assert softmax(logits / temperature_of(logits, wrong)).max() < 0.5
    assert np.isfinite(temperatures_of(np.zeros((30, 2)), np.eye(2)[np.arange(30) % 2])).all()

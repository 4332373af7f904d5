"""Counts and sums of pictures that are added up in any pieces, as several workers count them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from vit_hybrid.outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from vit_hybrid.outputs.scores import scores, scores_of
from vit_hybrid.outputs.tallies import TALLIES

NAMES = ["a", "b", "c", "d", "e", "f", "g"]
PICTURES = 600


def drawn(problem_type: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    logits = random.normal(size=(PICTURES, len(NAMES))).astype(np.float32)
    if problem_type == SINGLE_LABEL:
        return logits, random.integers(0, len(NAMES) - 1, PICTURES)
    if problem_type == MULTI_LABEL:
        return logits, (random.random((PICTURES, len(NAMES))) < 0.3).astype(np.float32)
    # Far from zero, where sums of squares would lose all digits.
    return logits + 1e6, (random.normal(size=(PICTURES, len(NAMES))) + 1e6).astype(np.float32)


def numbers_in(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_in(inner)]
    return [number for inner in value for number in numbers_in(inner)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL, REGRESSION])
def test_pieces_in_any_order_give_the_scores_of_the_whole(problem_type: str) -> None:
    logits, targets = drawn(problem_type)
    expected = scores(problem_type, logits, targets, NAMES)
    pieces = []
    for piece in np.split(np.random.default_rng(6).permutation(PICTURES), [1, 9, 10, 300]):
        pieces.append(TALLIES[problem_type](len(NAMES)))
        pieces[-1].add(logits[piece], targets[piece])
    whole = TALLIES[problem_type](len(NAMES))
    whole.merge(TALLIES[problem_type](len(NAMES)))  # of a worker without pictures
    for one in reversed(pieces):
        whole.merge(pickle.loads(pickle.dumps(one)))
    found = scores_of(whole, NAMES, (logits, targets))
    for one, other in zip(numbers_in(found), numbers_in(expected), strict=True):
        if isinstance(other, float):
            assert one == pytest.approx(other, rel=1e-12, abs=1e-12)
        else:
            assert one == other


def test_errors_of_a_regression_are_not_rounded_to_single_precision() -> None:
    counted = TALLIES[REGRESSION](1)
    counted.add(np.array([[2.0**24], [2.0**24]], np.float32), np.array([[0.5], [1.5]], np.float32))
    assert counted.absolute.tolist() == [2 * 2.0**24 - 2]
    assert counted.squared.tolist() == [(2.0**24 - 0.5) ** 2 + (2.0**24 - 1.5) ** 2]


def test_a_tally_takes_no_more_for_more_pictures() -> None:
    for problem_type, tally in TALLIES.items():
        logits, targets = drawn(problem_type)
        counted = tally(len(NAMES))
        counted.add(logits, targets)
        before = len(pickle.dumps(counted))
        for _ in range(50):
            counted.add(logits, targets)
        assert len(pickle.dumps(counted)) < before + 200


def test_those_of_probability_one_are_taken_together_and_not_with_the_bin_below() -> None:
    tally = TALLIES[SINGLE_LABEL](2)
    tally.add(np.array([[1000.0, 0.0], [np.log(0.97 / 0.03), 0.0]]), np.array([1, 0]))
    assert tally.bins[:, 0].tolist() == [0] * 14 + [1, 1]
    assert tally.calibration_error() == pytest.approx((1 + 0.03) / 2)


def test_values_that_are_all_one_have_no_r2() -> None:
    targets = np.full((7, 1), 0.1, np.float32)
    assert scores(REGRESSION, targets + 1, targets)["r2"] is None

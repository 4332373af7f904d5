from __future__ import annotations

import numpy as np
import pytest

from vit_hybrid.outputs.problems import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from vit_hybrid.outputs.ranking import PROBABILITIES, best_first, check_rankable, ranked, ranked_each, sigmoid, softmax


def test_probabilities_by_hand() -> None:
    np.testing.assert_allclose(softmax(np.log([[1.0, 2.0, 5.0]])), [[0.125, 0.25, 0.625]])
    np.testing.assert_allclose(sigmoid(np.log([1.0, 3.0])), [0.5, 0.75])


@pytest.mark.parametrize("extreme", [1000.0, -1000.0])
def test_large_logits_give_finite_probabilities(extreme: float) -> None:
    np.testing.assert_allclose(softmax(np.array([extreme, extreme - 1.0, 0.0]))[:2].sum(), float(extreme > 0))
    np.testing.assert_allclose(softmax(np.array([extreme, extreme])), 0.5)
    assert sigmoid(np.array([extreme])) == float(extreme > 0)


def test_best_come_first_and_equal_ones_in_order() -> None:
    logits = np.array([0.0, 3.0, 0.0, 1.0], np.float32)
    assert [one["label"] for one in ranked(logits, "abcd", SINGLE_LABEL)] == ["b", "d", "a", "c"]
    certain = [one["probability"] for one in ranked(logits, "abcd", SINGLE_LABEL)]
    np.testing.assert_allclose(certain, np.exp([3.0, 1.0, 0.0, 0.0]) / np.exp([3.0, 1.0, 0.0, 0.0]).sum(), rtol=1e-6)
    [first, second] = ranked(logits, "abcd", MULTI_LABEL, top_k=2)
    assert (first["label"], second["label"]) == ("b", "d")
    assert first["probability"] == pytest.approx(1 / (1 + np.exp(-3.0)), rel=1e-14)  # and not in single precision
    assert [one["label"] for one in ranked(logits, "abcd", MULTI_LABEL, top_k=9)] == ["b", "d", "a", "c"]


@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL])
@pytest.mark.parametrize("labels", [3, 180])
def test_of_several_pictures_each_is_ranked_as_it_is_alone(problem_type: str, labels: int) -> None:
    names = [str(number) for number in range(labels)]
    logits = np.random.default_rng(labels).normal(0, 4, (17, labels)).astype(np.float32)
    logits[3] = logits[3, 0]  # all alike, in the order of the logits
    tops = [(None, 1, 2)[number % 3] for number in range(17)]
    alone = [ranked(one, names, problem_type, most) for one, most in zip(logits, tops, strict=True)]
    for several in (slice(0, 17), slice(2, 9), slice(4, 6), slice(0, 0)):
        assert ranked_each(logits[several], names, problem_type, tops[several]) == alone[several]
    assert [one["label"] for one in ranked_each(logits[3:4], names, problem_type, [2])[0]] == ["0", "1"]


def test_of_each_row_the_chosen_come_best_first_and_equal_ones_in_order() -> None:
    scores = np.array([[1.0, 3.0, 1.0, 2.0], [0.0, 0.0, 5.0, 0.0], [4.0, 3.0, 2.0, 1.0]], np.float32)
    chosen = np.array([[True, False, True, True], [True, True, True, True], [False, False, False, False]])
    assert best_first(scores, chosen) == [[3, 0, 2], [2, 0, 1, 3], []]


def test_values_are_not_ranked() -> None:
    assert {REGRESSION} == set(PROBLEM_TYPES) - set(PROBABILITIES)
    with pytest.raises(ValueError, match="'regression': its outputs are values"):
        check_rankable(REGRESSION, None)
    with pytest.raises(ValueError, match="top_k is 0; expected 1 or more"):
        check_rankable(SINGLE_LABEL, 0)
    check_rankable(MULTI_LABEL, 3)

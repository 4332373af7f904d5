"""Scores against cases counted by hand and formulas written out in NumPy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from vit_hybrid.outputs import scores
from vit_hybrid.outputs.scores import MULTI_LABEL, REGRESSION, SINGLE_LABEL

# Four classes, of which "d" is never true and "c" never predicted. Predicted: a a b a d b.
LOGITS = np.array(
    [
        [4.0, 1.0, 0.0, 0.0],
        [2.0, 1.0, 0.0, 0.0],
        [0.0, 3.0, 1.0, 0.0],
        [1.0, 0.5, 0.0, 0.0],
        [0.0, 0.0, 1.0, 2.0],
        [0.0, 1.0, 0.5, 0.0],
    ]
)
TRUTH = np.array([0, 0, 1, 1, 2, 2])
NAMES = ["a", "b", "c", "d"]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def calibration_error(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    certain, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    numbers = np.minimum((certain * bins).astype(int), bins - 1)
    gaps = [
        (numbers == one).mean() * abs(right[numbers == one].mean() - certain[numbers == one].mean())
        for one in np.unique(numbers)
    ]
    return float(sum(gaps))


def average_precision(ranked: np.ndarray, truth: np.ndarray) -> float:
    """The mean, over the true ones, of the precision among all that are ranked as high."""
    order = np.argsort(-ranked)
    hits = truth[order].astype(bool)
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def numbers_in(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_in(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers_in(inner)]
    return [value]


def test_scores_of_classes_of_unlike_numbers_are_scikit_learns() -> None:
    """So that no mean over pictures is one over classes."""
    rng, truth = np.random.default_rng(0), np.repeat(np.arange(7), [60, 40, 20, 13, 9, 6, 2])
    logits = rng.normal(size=(150, 7))
    logits[np.arange(150), truth] += 1.5
    found, said = scores.single_label_scores(logits, truth), logits.argmax(axis=1)
    assert found["top1"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["top5"] == pytest.approx(metrics.top_k_accuracy_score(truth, logits, k=5))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, said))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert found["negative_log_likelihood"] == pytest.approx(metrics.log_loss(truth, softmax(logits)))
    assert found["expected_calibration_error"] == pytest.approx(calibration_error(softmax(logits), truth))
    assert found["confusion_matrix"] == metrics.confusion_matrix(truth, said).tolist()
    expected = zip(*metrics.precision_recall_fscore_support(truth, said), strict=True)
    for one, other in zip(found["per_class"].values(), expected, strict=True):
        assert [*one.values()] == pytest.approx(other)


def test_scores_of_labels_of_unlike_numbers_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((90, 4)) < [0.1, 0.3, 0.5, 0.8]
    logits = rng.normal(size=(90, 4)) + 1.5 * truth
    found, said = scores.multi_label_scores(logits, truth.astype(np.float32)), logits > 0
    assert 0 < found["exact_match"] == pytest.approx(metrics.accuracy_score(truth, said))
    assert found["hamming_accuracy"] == pytest.approx(1 - metrics.hamming_loss(truth, said))
    for mean in ("micro", "macro"):
        assert found[f"{mean}_f1"] == pytest.approx(metrics.f1_score(truth, said, average=mean))  # type: ignore[literal-required]
    assert scores.multi_label_scores(logits, truth) == found  # truth values
    expected = zip(*metrics.precision_recall_fscore_support(truth, said), strict=True)
    for one, other in zip(found["per_label"].values(), expected, strict=True):
        assert [one[name] for name in ("precision", "recall", "f1", "support")] == pytest.approx(other)


class TestSingleLabel:
    def test_counted_by_hand(self) -> None:
        found = scores.single_label_scores(LOGITS, TRUTH, NAMES)
        assert found["top1"] == 3 / 6
        assert found["top5"] == 1.0  # of four labels
        assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 0) / 3)
        assert found["per_class"] == {
            "a": {"precision": 2 / 3, "recall": 1.0, "f1": pytest.approx(0.8), "support": 2},
            "b": {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2},
            "c": {"precision": None, "recall": 0.0, "f1": 0.0, "support": 2},
            "d": {"precision": 0.0, "recall": None, "f1": None, "support": 0},
        }
        assert found["macro_f1"] == pytest.approx((0.8 + 0.5 + 0.0) / 3)
        assert found["confusion_matrix"] == [[2, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
        assert found["most_confused"] == [
            {"truth": "b", "predicted": "a", "count": 1, "share": 0.5},
            {"truth": "c", "predicted": "b", "count": 1, "share": 0.5},
            {"truth": "c", "predicted": "d", "count": 1, "share": 0.5},
        ]
        expected = -np.log(softmax(LOGITS)[np.arange(6), TRUTH]).mean()
        assert found["negative_log_likelihood"] == pytest.approx(expected)
        assert found["expected_calibration_error"] == pytest.approx(calibration_error(softmax(LOGITS), TRUTH))

    def test_against_formulas_on_random_outputs(self) -> None:
        random = np.random.default_rng(3)
        logits, truth = random.normal(size=(500, 12)).astype(np.float32) * 3, random.integers(0, 12, 500)
        logits[:250, :] += 4 * np.eye(12, dtype=np.float32)[truth[:250]]
        logits[0] = 0
        logits[0, 5] = 2000  # as sure as float64 can say
        found = scores.single_label_scores(logits, truth)
        ranks = (logits > logits[np.arange(500), truth][:, None]).sum(axis=1)
        assert found["top1"] == (ranks == 0).mean()
        assert found["top5"] == (ranks < 5).mean()
        error = calibration_error(softmax(logits.astype(np.float64)), truth)
        assert found["expected_calibration_error"] == pytest.approx(error, abs=1e-6)
        predicted = logits.argmax(axis=1)
        for index, one in enumerate(found["per_class"].values()):
            hits = ((truth == index) & (predicted == index)).sum()
            assert one["precision"] == pytest.approx(hits / (predicted == index).sum())
            assert one["recall"] == pytest.approx(hits / (truth == index).sum())
        pairs = [(one["count"], one["share"]) for one in found["most_confused"]]
        assert pairs == sorted(pairs, reverse=True)

    def test_calibration_has_fifteen_bins_of_equal_width(self) -> None:
        """0.62 and 0.68 are in two of these, where ten would take them together and let one make up for the other."""
        sure = np.array([0.62, 0.68])
        logits = np.stack([np.log(sure / (1 - sure)), np.zeros(2)], axis=1)
        found = scores.single_label_scores(logits, np.array([0, 1]))
        assert found["expected_calibration_error"] == pytest.approx((abs(1 - 0.62) + abs(0 - 0.68)) / 2)

    @pytest.mark.parametrize(("low", "high"), [(0.605, 0.655), (0.805, 0.86)])
    def test_pictures_of_one_of_fifteen_bins_are_taken_together(self, low: float, high: float) -> None:
        logits = np.log(np.array([[low, 1 - low], [high, 1 - high]]))
        found = scores.single_label_scores(logits, np.array([1, 0]))
        assert found["expected_calibration_error"] == pytest.approx(abs(0.5 - (low + high) / 2))

    def test_the_twenty_most_confused_pairs_are_told(self) -> None:
        truth = np.repeat(np.arange(1, 26), np.arange(1, 26))  # class 25 is taken for class 0 most often
        found = scores.single_label_scores(np.eye(26)[np.zeros(len(truth), int)], truth)
        assert [(one["truth"], one["predicted"], one["count"]) for one in found["most_confused"]] == [
            (str(index), "0", index) for index in range(25, 5, -1)
        ]

    def test_ties_go_to_the_first_label(self) -> None:
        found = scores.single_label_scores(np.zeros((3, 8)), np.array([0, 4, 5]))
        assert (found["top1"], found["top5"]) == (1 / 3, 2 / 3)
        every_other = np.tile(np.arange(40.0) % 2, (3, 1))
        found = scores.single_label_scores(every_other, np.array([1, 9, 11]))
        assert (found["top1"], found["top5"]) == (1 / 3, 2 / 3)

    def test_labels_of_the_same_name_stay_apart(self) -> None:
        found = scores.single_label_scores(np.eye(3), np.arange(3), ["crane", "dog", "crane"])
        assert list(found["per_class"]) == ["crane (0)", "dog", "crane (2)"]
        assert scores.distinct(["a", "A", "a (0)"]) == ["a", "A", "a (0)"]

    def test_many_labels_need_no_matrix(self) -> None:
        logits = np.zeros((2, 21_843), np.float32)
        logits[:, 7] = 1
        found = scores.single_label_scores(logits, np.array([7, 21_842]))
        assert found["confusion_matrix"] is None
        assert found["top1"] == 0.5
        assert found["most_confused"] == [{"truth": "21842", "predicted": "7", "count": 1, "share": 1.0}]

    def test_there_is_a_matrix_of_as_many_labels_as_may_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for most, is_there in ((4, True), (3, False)):
            monkeypatch.setattr(scores, "LARGEST_CONFUSION_MATRIX", most)
            assert (scores.single_label_scores(LOGITS, TRUTH)["confusion_matrix"] is not None) is is_there

    def test_targets_may_be_whole_floats(self) -> None:
        assert scores.single_label_scores(LOGITS, TRUTH.astype(np.float32))["top1"] == 0.5


class TestMultiLabel:
    LOGITS = np.array([[2.0, -1.0, 1.0], [-1.0, 1.0, 2.0], [1.0, -2.0, -1.0], [-2.0, -0.5, 0.5]])
    TRUTH = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]], np.float32)

    def test_counted_by_hand(self) -> None:
        # Predicted: a c / b c / a / c. Truth: a / b / b / a.
        found = scores.multi_label_scores(self.LOGITS, self.TRUTH, ["a", "b", "c"])
        # a: true ones rank 1st and 4th; b: 1st and 4th.
        assert found["per_label"] == {
            "a": {
                "average_precision": pytest.approx((1 + 2 / 4) / 2),
                "precision": 1 / 2,
                "recall": 1 / 2,
                "f1": 1 / 2,
                "support": 2,
            },
            "b": {
                "average_precision": pytest.approx((1 + 2 / 4) / 2),
                "precision": 1.0,
                "recall": 1 / 2,
                "f1": pytest.approx(2 / 3),
                "support": 2,
            },
            "c": {"average_precision": None, "precision": 0.0, "recall": None, "f1": None, "support": 0},
        }
        assert found["mean_average_precision"] == pytest.approx(0.75)
        assert found["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 4 + 2))
        assert found["macro_f1"] == pytest.approx((1 / 2 + 2 / 3) / 2)
        assert found["exact_match"] == 0.0
        assert found["hamming_accuracy"] == (12 - 6) / 12

    def test_average_precision_on_random_outputs(self) -> None:
        random = np.random.default_rng(0)
        logits, truth = random.normal(size=(80, 6)), (random.random((80, 6)) < 0.3).astype(np.float32)
        found = scores.multi_label_scores(logits, truth)
        expected = [average_precision(logits[:, index], truth[:, index]) for index in range(6)]
        assert [one["average_precision"] for one in found["per_label"].values()] == pytest.approx(expected, abs=1e-6)
        assert found["mean_average_precision"] == pytest.approx(np.mean(expected), abs=1e-6)

    def test_an_even_chance_is_no_yes(self) -> None:
        found = scores.multi_label_scores(np.array([[0.0], [1.0], [0.0]]), np.array([[0], [1], [1]]))
        assert found["per_label"]["0"]["precision"] == 1.0
        assert found["per_label"]["0"]["recall"] == 0.5
        assert found["exact_match"] == pytest.approx(2 / 3)

    def test_one_label_and_no_picture_that_has_it(self) -> None:
        found = scores.multi_label_scores(np.array([[1.0], [-1.0]]), np.zeros((2, 1)))
        assert found["mean_average_precision"] is None
        assert (found["exact_match"], found["hamming_accuracy"]) == (0.5, 0.5)

    def test_nothing_to_find_and_nothing_found(self) -> None:
        assert scores.multi_label_scores(-np.ones((2, 2)), np.zeros((2, 2)))["micro_f1"] is None


class TestRegression:
    def test_counted_by_hand(self) -> None:
        found = scores.regression_scores(
            np.array([[1.0, 5.0], [2.0, 5.0], [5.0, 5.0]]), np.array([[1.0, 4.0], [3.0, 4.0], [3.0, 4.0]]), ["x", "y"]
        )
        total = (1 - 7 / 3) ** 2 + 2 * (3 - 7 / 3) ** 2
        assert found["per_value"]["x"] == {
            "mae": pytest.approx(1.0),
            "rmse": pytest.approx(math.sqrt(5 / 3)),
            "r2": pytest.approx(1 - 5 / total),
        }
        assert found["per_value"]["y"] == {"mae": 1.0, "rmse": 1.0, "r2": None}  # truth does not vary
        assert found["mae"] == pytest.approx(1.0)
        assert found["rmse"] == pytest.approx((math.sqrt(5 / 3) + 1) / 2)
        assert found["r2"] == pytest.approx(1 - 5 / total)

    def test_one_picture_has_no_r2(self) -> None:
        assert scores.regression_scores(np.array([[1.0]]), np.array([[3.0]])) == {
            "mae": 2.0,
            "rmse": 2.0,
            "r2": None,
            "per_value": {"0": {"mae": 2.0, "rmse": 2.0, "r2": None}},
        }


CASES = {
    SINGLE_LABEL: (LOGITS, TRUTH),
    MULTI_LABEL: (TestMultiLabel.LOGITS, TestMultiLabel.TRUTH),
    REGRESSION: (np.ones((3, 2)), np.zeros((3, 2))),
}


@pytest.mark.parametrize("problem_type", CASES)
def test_everything_is_plain_json_and_has_its_headline(problem_type: str) -> None:
    found = scores.scores(problem_type, *CASES[problem_type])
    json.dumps(found, allow_nan=False)
    assert {type(number) for number in numbers_in(found)} <= {float, int, str, type(None)}
    name, _ = scores.headline(problem_type)
    single = scores.scalars(found)
    assert name in single
    assert scores.scalars({**found, name: 0.0})[name] == 0.0  # type: ignore[misc, typeddict-item]
    assert all(type(number) is float for number in single.values())


def test_headlines() -> None:
    assert scores.headline(SINGLE_LABEL) == ("top1", True)
    assert scores.headline(MULTI_LABEL) == ("mean_average_precision", True)
    assert scores.headline(REGRESSION) == ("mae", False)
    with pytest.raises(ValueError, match="problem_type is 'ranking'; expected 'single_label_classification'"):
        scores.headline("ranking")
    with pytest.raises(ValueError, match="problem_type is 'ranking'"):
        scores.scores("ranking", LOGITS, TRUTH)


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float64)
    array[1] = np.nan
    return array


@pytest.mark.parametrize("problem_type", CASES)
def test_numbers_that_are_none_are_refused(problem_type: str) -> None:
    logits, targets = CASES[problem_type]
    with pytest.raises(ValueError, match=r"logits of 1 of \d pictures are not finite numbers \(picture 2"):
        scores.scores(problem_type, with_nan(logits), targets)
    with pytest.raises(ValueError, match=r"targets of 1 of \d pictures are not finite numbers"):
        scores.scores(problem_type, logits, with_nan(targets))
    several = with_nan(logits)
    several[2, -1] = np.inf  # one number of a picture
    with pytest.raises(
        ValueError, match=rf"logits of 2 of {len(several)} pictures are not .* \(picture 2 is the first"
    ):
        scores.scores(problem_type, several, targets)


@pytest.mark.parametrize(
    ("problem_type", "logits", "targets", "labels", "reason"),
    [
        (SINGLE_LABEL, np.zeros((0, 3)), np.zeros(0, int), None, "there are no pictures"),
        (SINGLE_LABEL, np.zeros(3), np.zeros(3, int), None, r"logits have shape \(3,\)"),
        (REGRESSION, np.zeros((2, 0)), np.zeros((2, 0)), None, r"logits have shape \(2, 0\)"),
        (SINGLE_LABEL, np.zeros((2, 3)), np.zeros((2, 3)), None, r"targets have shape \(2, 3\); expected \(2,\)"),
        (SINGLE_LABEL, np.zeros((2, 3)), np.array([0, 3]), None, "class index 3; expected 0 to 2"),
        (SINGLE_LABEL, np.zeros((2, 3)), np.array([-1, 0]), None, "class index -1"),
        (SINGLE_LABEL, np.zeros((2, 3)), np.array([5, -1]), None, "class index 5; expected 0 to 2"),
        (SINGLE_LABEL, np.zeros((2, 3)), np.array([0.5, 0]), None, "whole numbers"),
        (SINGLE_LABEL, np.zeros((2, 3)), np.array([0, 1]), ["a"], "1 labels for logits of 3"),
        (MULTI_LABEL, np.zeros((2, 3)), np.zeros((2, 2)), None, r"shape \(2, 2\); expected \(2, 3\)"),
        (MULTI_LABEL, np.zeros((2, 3)), np.full((2, 3), 0.5), None, "0 or 1"),
        (MULTI_LABEL, np.zeros((2, 3)), np.array([[0, 1, 0], [1, 0, 2]]), None, "0 or 1"),
        (MULTI_LABEL, np.zeros((2, 3)), np.array([[0, 1, -1], [1, 0, 1]]), None, "0 or 1"),
        (REGRESSION, np.zeros((2, 1)), np.zeros(2), None, r"shape \(2,\); expected \(2, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(problem_type: str, logits: Any, targets: Any, labels: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        scores.scores(problem_type, logits, targets, labels)


@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL, REGRESSION])
def test_blocks_of_a_mapped_file_give_what_all_at_once_give(
    problem_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (211, 7)).astype(np.float32)
    logits[::5, 3] = logits[::5, 4]  # ties, too
    targets: Any = random.integers(0, 7, 211)
    if problem_type != SINGLE_LABEL:
        targets = random.integers(0, 2, (211, 7)) if problem_type == MULTI_LABEL else random.normal(0, 2, (211, 7))
    whole = scores.scores(problem_type, logits, targets)
    np.save(tmp_path / "logits.npy", logits)
    monkeypatch.setattr(scores, "BLOCK", 30)
    monkeypatch.setattr(scores, "RANKED_BLOCK", 500)
    assert [*scores.blocks(9, 7)] == [slice(0, 4), slice(4, 8), slice(8, 9)]
    assert [*scores.blocks(2, 31)] == [slice(0, 1), slice(1, 2)]
    assert [*scores.blocks(3, 0)] == [slice(0, 3)]
    ranked: list[int] = []
    inner = scores._average_precisions
    monkeypatch.setattr(
        scores, "_average_precisions", lambda some, truth: ranked.append(some.shape[1]) or inner(some, truth)
    )
    found = scores.scores(problem_type, np.load(tmp_path / "logits.npy", mmap_mode="r"), targets)
    assert ranked == ([2, 2, 2, 1] if problem_type == MULTI_LABEL else [])
    assert_close(found, whole)
    logits[205, 6] = np.nan  # in one of the last blocks
    with pytest.raises(ValueError, match=r"logits of 1 of 211 pictures are not finite numbers \(picture 206 is the"):
        scores.scores(problem_type, logits, targets)
    if problem_type == MULTI_LABEL:
        targets[205, 6] = 2
        with pytest.raises(ValueError, match="must be 0 or 1"):
            scores.scores(problem_type, np.zeros_like(logits), targets)


def assert_close(found: Any, expected: Any) -> None:
    """Counts and all else alike, fractions within 1e-12."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0, abs=1e-12)
    else:
        assert found == expected

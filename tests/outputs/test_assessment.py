"""How far answers can be trusted, against scikit-learn and by hand; however the pictures are put together."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from alike import same_but_for_rounding
from sklearn import metrics

from vit_hybrid.outputs import confidence as fitting
from vit_hybrid.outputs import reliability, sets, strangers
from vit_hybrid.outputs.assessment import COMBINATION, Assessment, AssessmentTally, Assessor, Basis, assessment
from vit_hybrid.outputs.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from vit_hybrid.outputs.ranking import sigmoid, softmax
from vit_hybrid.outputs.sets import TooFewPictures

LABELS = ("a", "b", "c", "d")
WIDTH = 6
COVERAGE, FALSE_ALARMS = 0.8, 0.1


class Made:
    """Pictures of four classes, whose outputs are 1.7 times as sure as they should be, or of none of them."""

    def __init__(self, pictures: int, seed: int, shift: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        honest = 2 * rng.normal(size=(pictures, len(LABELS)))
        self.targets = np.array([rng.choice(len(LABELS), p=row) for row in softmax(honest)])
        self.logits = (1.7 * honest * (1 - shift / 4)).astype(np.float32)
        centers = np.eye(len(LABELS), WIDTH)[self.targets]
        self.tokens = (rng.normal(size=(pictures, WIDTH)) + 3 * centers * (1 - shift) + shift).astype(np.float32)
        self.statistics = rng.normal(size=(pictures, strangers.STATISTICS)) + shift / 2

    def part(self, rows: Any) -> tuple[Any, Any, Any, Any]:
        return self.logits[rows], self.targets[rows], self.tokens[rows], self.statistics[rows]


def fitted(by_class: bool = False, with_strangers: bool = True, method: str = "lac") -> fitting.Confidence:
    trained, held_out = Made(300, 1), Made(450, 2)
    gathering = strangers.Gathering(len(LABELS), WIDTH)
    gathering.add(trained.tokens, trained.targets, trained.statistics)
    more: dict[str, Any] = {}
    if with_strangers:
        more = {"features": held_out.tokens, "statistics": held_out.statistics, "trained_on": gathering.trained_on()}
    return fitting.fit(
        held_out.logits,
        held_out.targets,
        LABELS,
        SINGLE_LABEL,
        weights="0" * 64,
        precision="f32",
        method=method,
        by_class=by_class,
        **more,
    )


CONFIDENCE = fitted()
KNOWN, STRANGE = Made(500, 3), Made(120, 4, shift=1.0)


def assessed(
    confidence: fitting.Confidence | None = CONFIDENCE,
    parts: Any = (slice(None),),
    strange: Any = (slice(None),),
    coverage: float = COVERAGE,
) -> Assessment:
    """Of the pictures in these parts, one after the other, each assessed by itself."""
    assessor = Assessor(SINGLE_LABEL, confidence, coverage, FALSE_ALARMS, bool(len(strange)))
    tally, rows = AssessmentTally(), []
    for part in parts:
        own, kept = assessor.known(*KNOWN.part(part))
        tally.merge(own)
        rows.append(kept)
    called, others = 0, []
    for part in strange:
        logits, _, tokens, statistics = STRANGE.part(part)
        own_called, kept = assessor.strangers(logits, tokens, statistics)
        called += own_called
        others.append(kept)
    told = (called, np.concatenate(others)) if others else None
    return assessment(assessor.basis, LABELS, tally, np.concatenate(rows), told)


def test_probabilities_before_and_after_are_scikit_learns() -> None:
    found = assessed()["calibration"]
    assert list(found) == ["before", "after"]
    assert float(CONFIDENCE.temperature) > 1.3  # so that the two are apart
    outputs = KNOWN.logits.astype(np.float64)
    for when, probabilities in (("before", softmax(outputs)), ("after", softmax(outputs / CONFIDENCE.temperature))):
        one = found[when]
        assert one["negative_log_likelihood"] == pytest.approx(metrics.log_loss(KNOWN.targets, probabilities))
        one_hot = np.eye(len(LABELS))[KNOWN.targets]
        assert one["brier_score"] == pytest.approx(((probabilities - one_hot) ** 2).sum(axis=1).mean())
        sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == KNOWN.targets
        edges = np.linspace(0, 1, 16)
        gaps = [
            abs(right[inside].mean() - sure[inside].mean()) * inside.mean()
            for low, high in pairwise(edges)
            if (inside := (sure > low) & (sure <= high)).any()
        ]
        assert one["calibration_error"] == pytest.approx(sum(gaps))
        parts = np.array_split(np.argsort(sure), 15)
        gaps = [abs(right[part].mean() - sure[part].mean()) * len(part) / len(sure) for part in parts]
        assert one["calibration_error_equal_mass"] == pytest.approx(sum(gaps), abs=1e-6)
        assert one["calibration_error_by_chance"] == pytest.approx(
            reliability.calibration_error_by_chance(np.sort(sure), equal_mass=True), abs=1e-5
        )
        assert sum(each["pictures"] for each in one["bins"]) == len(sure)
    assert found["after"]["negative_log_likelihood"] < found["before"]["negative_log_likelihood"] - 0.02
    assert found["after"]["calibration_error"] < found["before"]["calibration_error"] - 0.03


def test_what_is_as_familiar_as_was_asked_for_is_not_called_none_of_these() -> None:
    logits, targets, tokens, statistics = KNOWN.part(slice(60))
    familiar = CONFIDENCE.familiar(tokens, logits, statistics)
    level = float(np.sort(familiar)[20])
    assessor = Assessor(SINGLE_LABEL, CONFIDENCE, COVERAGE, level)
    tally, _ = assessor.known(logits, targets, tokens, statistics)
    assert tally.called == (familiar < level).sum() < (familiar <= level).sum()


def test_a_likelihood_of_the_surest_wrong_answer_is_no_infinity() -> None:
    assessor = Assessor(SINGLE_LABEL, None)
    tally, rows = assessor.known(np.array([[0.0, 2000.0]], np.float32), np.array([0]))
    [one] = assessment(assessor.basis, ("a", "b"), tally, rows)["calibration"].values()
    assert one["negative_log_likelihood"] == 2000.0


def test_whom_to_answer_is_by_the_calibrated_probabilities() -> None:
    found = assessed()
    probabilities = CONFIDENCE.probabilities(KNOWN.logits)
    order = np.argsort(-probabilities.max(axis=1))
    right = (probabilities.argmax(axis=1) == KNOWN.targets)[order]
    accuracy = np.cumsum(right) / np.arange(1, len(right) + 1)
    for share, reached in found["risk_coverage"]:
        assert reached == pytest.approx(accuracy[round(share * len(right)) - 1])
    assert found["risk_coverage"][-1] == (1.0, pytest.approx(right.mean()))
    [eighty, *_] = found["answers"]
    most = np.flatnonzero(accuracy >= 0.8)[-1]
    assert eighty["share"] == (most + 1) / len(right)
    assert 0.3 < eighty["share"] < 1.0
    assert eighty["probability"] == pytest.approx(np.sort(probabilities.max(axis=1))[::-1][most], abs=1e-6)


@pytest.mark.parametrize("method", ["lac", "raps"])
def test_sets_by_class(method: str) -> None:
    confidence = fitted(method=method)
    found = assessed(confidence, strange=())["sets"]
    inside = confidence.sets[method].contain(softmax(KNOWN.logits.astype(np.float64)), COVERAGE)
    held = inside[np.arange(len(inside)), KNOWN.targets]
    assert (found["method"], found["coverage"]) == (method, COVERAGE)
    assert found["measured_coverage"] == pytest.approx(held.mean())
    assert found["mean_size"] == pytest.approx(inside.sum(axis=1).mean())
    for label, name in enumerate(LABELS):
        own = KNOWN.targets == label
        assert found["per_class"][name] == {
            "pictures": own.sum(),
            "coverage": pytest.approx(held[own].mean()),
            "mean_size": pytest.approx(inside[own].sum(axis=1).mean()),
        }
    low, high = found["promised"] or (0, 0)
    assert (low, high) == sets.promised(len(confidence.sets[method].scores), COVERAGE, measured_on=len(inside))
    assert low < COVERAGE < high


def test_of_many_pictures_sets_promise_what_they_do_of_endlessly_many(monkeypatch: pytest.MonkeyPatch) -> None:
    few = assessed(strange=())["sets"]["promised"]
    monkeypatch.setattr("vit_hybrid.outputs.assessment.MANY", 499)  # of 500
    many = assessed(strange=())["sets"]["promised"]
    assert many == list(sets.promised(len(CONFIDENCE.sets["lac"].scores), COVERAGE, measured_on=None))
    assert few is not None
    assert few[0] < many[0] < many[1] < few[1]
    monkeypatch.setattr("vit_hybrid.outputs.assessment.MANY", 500)
    assert assessed(strange=())["sets"]["promised"] == few


def test_sets_by_class_promise_nothing_of_all_together() -> None:
    found = assessed(fitted(by_class=True), strange=())["sets"]
    assert (found["by_class"], found["promised"]) == (True, None)


def test_a_class_without_pictures_has_no_coverage() -> None:
    some = np.flatnonzero(KNOWN.targets != 2)
    found = assessed(parts=[some], strange=())["sets"]["per_class"]
    assert found["c"] == {"pictures": 0, "coverage": None, "mean_size": None}
    assert found["d"]["pictures"] == (KNOWN.targets == 3).sum()


def test_who_is_called_none_of_these() -> None:
    found = assessed()
    shares = CONFIDENCE.familiar(KNOWN.tokens, KNOWN.logits, KNOWN.statistics)
    assert found["none_of_these"] == {"false_alarms": FALSE_ALARMS, "share": np.mean(shares < FALSE_ALARMS)}
    assert 0.05 < found["none_of_these"]["share"] < 0.15
    strange = CONFIDENCE.familiar(STRANGE.tokens, STRANGE.logits, STRANGE.statistics)
    assert found["strangers"]["share_none_of_these"] == np.mean(strange < FALSE_ALARMS)
    assert found["strangers"]["images"] == len(STRANGE.logits)


def test_each_score_tells_strangers_as_scikit_learn_says() -> None:
    found = assessed()["strangers"]["scores"]
    assert list(found) == [
        *("relative mahalanobis", "nearest neighbors", "pixels", "softmax", "generalized entropy", COMBINATION)
    ]
    truth = np.repeat([0, 1], [len(KNOWN.logits), len(STRANGE.logits)])
    assert CONFIDENCE.trained_on is not None
    assert CONFIDENCE.familiarity is not None
    distances = strangers.Distances(CONFIDENCE.trained_on, names=[name for name in found if name != COMBINATION])
    for name, one in found.items():
        both = []
        for made in (KNOWN, STRANGE):
            given = (made.tokens, made.logits, made.statistics)
            if name == COMBINATION:
                both.append(CONFIDENCE.familiarity.strangeness(CONFIDENCE.distances(*given)))
            else:
                both.append(distances(name, *given))
        scores = np.concatenate(both).astype(np.float32)  # as they are kept: sums of the same shares are then the same
        assert one["auroc"] == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-6)
        assert one["aupr"] == pytest.approx(metrics.average_precision_score(truth, scores), abs=1e-6)
        false, recall, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
        assert one["false_positive_rate_at_95"] == pytest.approx(false[np.argmax(recall >= 0.95)], abs=1e-6)
    assert found[COMBINATION]["auroc"] > found["softmax"]["auroc"] > 0.5


def test_it_is_the_same_in_any_parts_and_any_order() -> None:
    rng = np.random.default_rng(0)
    whole = assessed()
    cut = np.split(rng.permutation(500), [1, 2, 30, 200, 333])
    others = np.split(rng.permutation(120), [50, 51])
    same_but_for_rounding(dict(assessed(parts=cut, strange=others)), dict(whole))


def test_without_confidence_there_is_what_the_model_says_alone() -> None:
    found = assessed(None)
    assert set(found) == {"calibration", "risk_coverage", "answers", "strangers"}
    assert list(found["calibration"]) == ["before"]
    same_but_for_rounding(found["calibration"]["before"], assessed()["calibration"]["before"])
    assert list(found["strangers"]["scores"]) == ["softmax", "generalized entropy"]
    assert found["strangers"]["share_none_of_these"] is None
    missing = Assessor(SINGLE_LABEL, None, strangers=True).basis.missing() or ""
    assert "was not fitted for this model" in missing
    assert "alone (softmax, generalized entropy); vit-hybrid calibrate" in missing
    unfamiliar = replace(CONFIDENCE, familiarity=None)
    assert Assessor(SINGLE_LABEL, unfamiliar, strangers=True).basis.missing() == missing
    assert Assessor(SINGLE_LABEL, None).basis.missing() is None
    assert Assessor(SINGLE_LABEL, CONFIDENCE, strangers=True).basis.missing() is None


def test_without_familiarity_there_are_sets() -> None:
    found = assessed(replace(CONFIDENCE, familiarity=None))
    assert set(found) == {"calibration", "risk_coverage", "answers", "sets", "strangers"}
    assert list(found["strangers"]["scores"]) == ["softmax", "generalized entropy"]


def test_an_assessment_rests_on_all_that_was_fitted() -> None:
    """Workers whose confidence differs in any of it are not alike."""
    apart, temperature = fitted(by_class=True, method="raps"), float(CONFIDENCE.temperature)
    told = (COVERAGE, FALSE_ALARMS, True, [])
    assert Assessor(SINGLE_LABEL, CONFIDENCE, COVERAGE, FALSE_ALARMS).basis == Basis(
        *(SINGLE_LABEL, CONFIDENCE.fingerprint, temperature, "lac", 150, False, *told),
    )
    assert Assessor(SINGLE_LABEL, apart, COVERAGE, FALSE_ALARMS).basis == Basis(
        *(SINGLE_LABEL, apart.fingerprint, temperature, "raps", 120, True, *told),
    )
    assert Assessor(SINGLE_LABEL, None).basis == Basis(SINGLE_LABEL, None, None, None, 0, False, 0.9, 0.05, False, [])


def test_levels_are_nine_in_ten_and_one_in_twenty_by_default() -> None:
    for confidence in (None, CONFIDENCE):
        basis = Assessor(SINGLE_LABEL, confidence).basis
        assert (basis.coverage, basis.false_alarms, basis.scores) == (0.9, 0.05, [])


def test_of_no_picture_nothing_is_counted_and_no_row_is_kept() -> None:
    assessor = Assessor(SINGLE_LABEL, CONFIDENCE, strangers=True)
    tally, rows = assessor.known(*KNOWN.part(slice(0)))
    assert (tally.count, tally.called, tally.losses, tally.sets, len(rows)) == (0, 0, {}, {}, 0)
    called, kept = assessor.strangers(STRANGE.logits[:0], STRANGE.tokens[:0], STRANGE.statistics[:0])
    assert (called, len(kept)) == (0, 0)


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(TooFewPictures, match="take 999 held-out pictures, and there are 150"):
        Assessor(SINGLE_LABEL, CONFIDENCE, coverage=0.999)
    with pytest.raises(ValueError, match=r"coverage is 1\.5; expected a share"):
        Assessor(SINGLE_LABEL, None, coverage=1.5)
    with pytest.raises(ValueError, match="alarms is 0; expected a share"):
        Assessor(SINGLE_LABEL, None, false_alarms=0.0)
    for problem_type in (MULTI_LABEL, REGRESSION):
        with pytest.raises(ValueError, match=f"strangers is for .*'{problem_type}'; leave it out"):
            Assessor(problem_type, None, strangers=True)


def test_several_labels_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    honest = 2 * rng.normal(size=(400, 3))
    targets = (rng.random((400, 3)) < sigmoid(honest)).astype(np.float32)
    logits = (honest * [0.5, 2.0, 3.0]).astype(np.float32)
    confidence = fitting.fit(logits, targets, LABELS[:3], MULTI_LABEL, weights="0" * 64, precision="f32")
    assessor = Assessor(MULTI_LABEL, confidence)
    tally, rows = assessor.known(logits, targets)
    assert rows.size == 0
    found = assessment(assessor.basis, LABELS[:3], tally, rows, ranked=(logits, targets))
    assert set(found) == {"calibration"}
    temperatures = {"before": np.ones(3), "after": confidence.temperature}
    assert list(found["calibration"]) == list(temperatures)
    for when, temperature in temperatures.items():
        one, probabilities = found["calibration"][when], sigmoid(logits.astype(np.float64) / temperature)
        by_label = list(zip(targets.T, probabilities.T, strict=True))
        assert one["negative_log_likelihood"] == pytest.approx(np.mean([metrics.log_loss(*each) for each in by_label]))
        assert one["brier_score"] == pytest.approx(np.mean([metrics.brier_score_loss(*each) for each in by_label]))
        errors = [
            np.mean([reliability.calibration_error(reliability.bins(p, has > 0, equal_mass=mass))])
            for mass in (False, True)
            for has, p in by_label
        ]
        assert one["calibration_error"] == pytest.approx(np.mean(errors[:3]))
        assert one["calibration_error_equal_mass"] == pytest.approx(np.mean(errors[3:]))
        assert sum(each["pictures"] for each in one["bins"]) == targets.size
        share = sum(each["pictures"] * each["accuracy"] for each in one["bins"]) / targets.size
        assert share == pytest.approx(targets.mean())
        assert (one["calibration_error_by_chance"], one["bins_of_equal_mass"]) == (None, None)
    read: list[slice] = []

    class Mapped(np.ndarray):
        def __getitem__(self, key: Any) -> Any:
            read.append(key[1])
            return np.asarray(self)[key]

    for block, starts in ((2 * 400, [0, 2]), (399, [0, 1, 2])):  # one of the labels, though it is more
        monkeypatch.setattr("vit_hybrid.outputs.assessment.BLOCK", block)
        read.clear()
        again = assessment(assessor.basis, LABELS[:3], tally, rows, ranked=(logits.view(Mapped), targets))
        same_but_for_rounding(dict(again), dict(found))
        assert [one.start for one in read] == 2 * starts  # before and after
    plain = assessment(Assessor(MULTI_LABEL, None).basis, LABELS[:3], tally, rows, ranked=(logits, targets))
    assert list(plain["calibration"]) == ["before"]
    same_but_for_rounding(plain["calibration"]["before"], found["calibration"]["before"])
    before, after = found["calibration"].values()
    assert after["negative_log_likelihood"] < before["negative_log_likelihood"] - 0.05
    assert after["calibration_error"] < before["calibration_error"] - 0.05


def test_values_have_no_probabilities() -> None:
    assessor = Assessor(REGRESSION, None)
    tally, rows = assessor.known(np.ones((3, 1), np.float32), np.ones((3, 1)))
    assert rows.shape == (3, 0)
    assert assessment(assessor.basis, ("value",), tally, rows) == {}

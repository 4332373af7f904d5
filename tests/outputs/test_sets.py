"""Sets of labels: against MAPIE, and against what conformal prediction promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from vit_hybrid.outputs import sets
from vit_hybrid.outputs.problems import LAC, RAPS, SET_METHODS
from vit_hybrid.outputs.ranking import softmax

LABELS = 12


def made(pictures: int, seed: int = 0, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, labels) of a model that is right most of the time, and true classes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, LABELS, pictures)
    logits = rng.normal(size=(pictures, LABELS))
    logits[np.arange(pictures), targets] += sharpness * rng.random(pictures) * 2
    return softmax(logits), targets


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_lac_is_mapies(coverage: float) -> None:
    conformity = pytest.importorskip("mapie.conformity_scores")
    probabilities, targets = made(400)
    new, _ = made(500, seed=1)
    theirs = conformity.LACConformityScore()
    scores = theirs.get_conformity_scores(targets, probabilities, y_enc=targets)
    level = np.array([1 - coverage])
    theirs.quantiles_ = theirs.get_conformity_score_quantiles(scores, level, cv="prefit")
    expected = theirs.get_prediction_sets(new[:, :, None], scores, level, cv="prefit")[:, :, 0]
    found = sets.fit(LAC, probabilities, targets)
    assert found.threshold(coverage) == pytest.approx(float(theirs.quantiles_[0]), abs=1e-12)
    empty = ~expected.any(axis=1)
    expected[empty, new[empty].argmax(axis=1)] = True
    np.testing.assert_array_equal(found.contain(new, coverage), expected)


@pytest.mark.parametrize("coverage", [0.5, 0.75, 0.8, 0.9, 0.95, 0.99])
def test_thresholds_are_mapies_from_the_fewest_pictures_on(coverage: float) -> None:
    """Also where (n + 1) times the coverage is a whole number, and where several pictures have one score."""
    conformity = pytest.importorskip("mapie.conformity_scores")
    probabilities, targets = made(230)
    probabilities = np.round(probabilities, 2)
    least = sets.pictures_needed(coverage)
    for pictures in [*range(least, least + 25), 199, 229]:
        theirs = conformity.LACConformityScore()
        scores = theirs.get_conformity_scores(targets[:pictures], probabilities[:pictures], y_enc=targets[:pictures])
        [expected] = theirs.get_conformity_score_quantiles(scores, np.array([1 - coverage]), cv="prefit")
        found = sets.quantile(np.sort(scores[:, 0]), coverage)
        assert found == expected, pictures
    with pytest.raises(sets.TooFewPictures, match=f"take {least:,} held-out pictures, and there are {least - 1:,};"):
        sets.quantile(np.arange(least - 1.0), coverage)


def test_what_may_be_asked_of_few_pictures_is_no_more_than_they_allow() -> None:
    with pytest.raises(sets.TooFewPictures, match=r"or ask for 91\.6 % at most\.$"):  # of 11 / 12
        sets.check_coverage(0.95, 11)
    sets.check_coverage(0.916, 11)
    with pytest.raises(sets.TooFewPictures):
        sets.check_coverage(0.917, 11)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("penalty", [sets.Penalty(), sets.Penalty(3, 0.01), sets.Penalty(2, 0.2)])
def test_raps_is_mapies(coverage: float, penalty: sets.Penalty) -> None:
    conformity = pytest.importorskip("mapie.conformity_scores")
    probabilities, targets = made(400)
    new, _ = made(500, seed=1)
    theirs = conformity.RAPSConformityScore()
    sums, ranks = theirs.get_true_label_cumsum_proba(targets, probabilities, np.arange(LABELS))
    theirs.k_star, theirs.lambda_star = np.array([penalty.rank]), np.array([penalty.weight])
    scores = theirs._regularize_conformity_score(theirs.k_star, theirs.lambda_star, sums, ranks)[:, 0, 0]
    theirs.quantiles_ = np.sort(scores)[[math.ceil(401 * coverage - 1e-9) - 1]]
    level = np.array([1 - coverage])
    # Without the label that passes the threshold, and so without anything drawn at random.
    expected = theirs.get_prediction_sets(new[:, :, None], scores, level, cv="prefit", include_last_label=False)[
        :, :, 0
    ]
    found = sets.fit(RAPS, probabilities, targets, penalty=penalty)
    assert found.threshold(coverage) == pytest.approx(float(theirs.quantiles_[0]), abs=1e-12)
    np.testing.assert_array_equal(found.contain(new, coverage), expected)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_labels_as_likely_as_the_last_of_a_set_are_in_it_as_in_mapies(coverage: float) -> None:
    """Which of them comes first is a matter of rounding."""
    conformity = pytest.importorskip("mapie.conformity_scores")
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(600, 20))
    twins = logits + 1e-9 * rng.normal(size=logits.shape)
    probabilities = softmax(np.concatenate([logits, twins], axis=1))
    targets = np.array([rng.choice(40, p=row / row.sum()) for row in probabilities])
    held, new = probabilities[:400], probabilities[400:]
    theirs, found = conformity.RAPSConformityScore(), sets.fit(RAPS, held, targets[:400], penalty=sets.Penalty(3, 0.01))
    theirs.k_star, theirs.lambda_star = np.array([3]), np.array([0.01])
    theirs.quantiles_ = np.array([found.threshold(coverage)])
    expected = theirs.get_prediction_sets(
        new[:, :, None], found.scores, np.array([1 - coverage]), cv="prefit", include_last_label=False
    )[:, :, 0]
    inside = found.contain(new, coverage)
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(inside[:, :20], inside[:, 20:])
    assert 2 < inside.sum(axis=1).mean() < 30


@pytest.mark.parametrize("method", SET_METHODS)
def test_sets_hold_the_truth_as_often_as_promised(method: str) -> None:
    """Over many draws of the held-out pictures the mean is the promise, and the interval holds as many as it says."""
    probabilities, targets = made(40_000)
    rng = np.random.default_rng(2)
    found, low, high = [], *sets.promised(400, 0.9, 2_000)
    for _ in range(60):
        order = rng.permutation(len(targets))
        held, rest = order[:400], order[400:2_400]
        fitted = sets.fit(method, probabilities[held], targets[held], penalty=sets.Penalty(2, 0.1))
        inside = fitted.contain(probabilities[rest], 0.9)
        found.append(inside[np.arange(len(rest)), targets[rest]].mean())
    assert np.mean(found) == pytest.approx(0.9, abs=0.006)
    assert sum(low <= share <= high for share in found) >= 53


def test_the_quantile_is_the_finite_samples() -> None:
    scores = np.arange(1.0, 20.0)  # 19 of them: 20 x 0.95 is the nineteenth, 20 x 0.9 the eighteenth
    assert sets.quantile(scores, 0.95) == 19.0
    assert sets.quantile(scores, 0.9) == 18.0
    assert sets.quantile(np.arange(1.0, 10.0), 0.9) == 9.0  # where 10 x 0.9 is above 9 in floating point
    assert sets.position(24, 0.56) == 14  # and 25 x 0.56 above 14
    assert sets.pictures_needed(0.9) == 9
    for nines in range(1, 7):  # where the share over what is left of it is rounded up, and where it is rounded down
        needed = 10**nines - 1
        assert sets.pictures_needed(needed / (needed + 1)) == sets.position(needed, needed / (needed + 1)) == needed
    assert [sets.pictures_needed(share) for share in (0.001, 0.5, 0.6, 0.8, 0.95)] == [1, 1, 2, 4, 19]


def test_too_few_pictures_for_a_level() -> None:
    with pytest.raises(sets.TooFewPictures, match=r"95 % of the time take 19 held-out pictures, and there are 18;.*94"):
        sets.quantile(np.arange(18.0), 0.95)
    for coverage in (0.0, 1.0, -1.0, 90.0):
        with pytest.raises(ValueError, match="expected a share between 0 and 1"):
            sets.quantile(np.arange(18.0), coverage)


def test_a_set_is_never_empty_and_takes_the_likeliest_first() -> None:
    fitted = sets.Sets(LAC, np.zeros(99), np.zeros(99, np.int64))  # whose quantile no label reaches
    inside = fitted.contain(np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]]), 0.9)
    assert inside.tolist() == [[False, True, False], [True, False, False]]
    held_out = sets.Sets(LAC, np.full(99, 0.7), np.zeros(99, np.int64))
    beside = np.array([0.3 - 5e-9, 0.3 - 2e-8])  # of which rounding moves one out of it
    inside = held_out.contain(np.stack([1 - beside, beside], axis=1), 0.9)
    assert inside.tolist() == [[True, True], [True, False]]
    probabilities, targets = made(300)
    for method in SET_METHODS:
        inside = sets.fit(method, probabilities, targets).contain(probabilities, 0.8)
        ranks = sets.ranked_positions(probabilities)
        assert (np.where(inside, ranks, 0).max(axis=1) == inside.sum(axis=1)).all()


def test_a_class_has_a_quantile_of_its_own_where_it_has_pictures() -> None:
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(size=(160, 3)))
    targets = np.array([0] * 100 + [1] * 40 + [2] * 20)
    probabilities[:100] = softmax(rng.normal(size=(100, 3)) + np.array([4.0, 0, 0]))  # an easy class
    marginal = sets.fit(LAC, probabilities, targets)
    own = sets.fit(LAC, probabilities, targets, by_class=True)
    assert own.thresholds(0.9, 3)[0] == sets.quantile(np.sort(1 - probabilities[:100, 0]), 0.9)
    assert own.thresholds(0.9, 3)[0] < marginal.threshold(0.9)
    assert own.thresholds(0.9, 3)[1:].tolist() == [marginal.threshold(0.9)] * 2  # fewer than 50 pictures
    assert own.thresholds(0.99, 3)[0] == sets.quantile(np.sort(1 - probabilities[:100, 0]), 0.99)
    assert not own.thresholds(0.99, 3).flags.writeable  # what is given once more later


def test_which_classes_stand_by_themselves() -> None:
    scores = np.linspace(0, 1, 160)
    classes = np.repeat([2, 0, 1], [60, 49, 51])
    by_class = sets.Sets(LAC, scores, classes, by_class=True)
    assert by_class.by_themselves(0.9) == {2: 60, 1: 51}
    assert by_class.by_themselves(0.982) == {2: 60}  # which takes 55
    assert sets.Sets(LAC, scores, classes).by_themselves(0.9) == {}
    marginal = by_class.threshold(0.9)
    assert [len(by_class.thresholds(0.9, labels)) for labels in (3, 5)] == [3, 5]
    assert by_class.thresholds(0.5, 3)[0] == by_class.threshold(0.5) < marginal
    assert by_class.thresholds(0.9, 4).tolist() == [
        *(marginal, sets.quantile(scores[-51:], 0.9), sets.quantile(scores[:60], 0.9), marginal),
    ]


def test_the_penalty_makes_sets_smaller() -> None:
    probabilities, targets = made(2_000, sharpness=1.5)
    penalty = sets.best_penalty(probabilities[:1_000], targets[:1_000], 0.9)
    assert penalty.weight in sets.PENALTIES
    sizes = [
        sets.fit(RAPS, probabilities[:1_000], targets[:1_000], penalty=tried)
        .contain(probabilities[1_000:], 0.9)
        .sum(axis=1)
        .mean()
        for tried in (penalty, sets.Penalty())
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(("pictures", "coverage"), [(100, 0.9), (1_200, 0.95), (19, 0.95)])
def test_the_interval_is_betas(pictures: int, coverage: float) -> None:
    k = math.ceil((pictures + 1) * coverage - 1e-9)
    expected = stats.beta(k, pictures + 1 - k).ppf([0.025, 0.975])
    assert sets.promised(pictures, coverage) == pytest.approx(expected, abs=1e-9)
    law = stats.betabinom(500, k, pictures + 1 - k)
    assert sets.promised(pictures, coverage, 500) == pytest.approx(law.ppf([0.025, 0.975]) / 500, abs=1e-9)


def test_of_many_labels_as_likely_as_each_other_the_first_comes_first() -> None:
    likely = np.tile([1.0, 3.0], 20)[None] / 80
    ranks = np.stack([np.arange(21, 41), np.arange(1, 21)], axis=1).ravel()
    assert sets.ranked_positions(likely).tolist() == [ranks.tolist()]
    sums = np.where(ranks > 20, 3 * 20 + ranks - 20, 3 * ranks) / 80
    np.testing.assert_allclose(sets.label_scores(RAPS, likely), [sums])
    penalized = sets.label_scores(RAPS, likely, sets.Penalty(5, 0.5))
    np.testing.assert_allclose(penalized, [sums + 0.5 * np.maximum(ranks - 5, 0)])


def test_what_sets_are_worth_for_each_class() -> None:
    inside = np.array([[True, False, False], [True, True, False], [False, True, True]])
    found = sets.sizes_by_class(inside, np.array([0, 0, 0]), 3)
    assert found["pictures"].tolist() == [3, 0, 0]
    assert found["coverage"][0] == pytest.approx(2 / 3)
    assert found["size"][0] == pytest.approx(5 / 3)
    assert np.isnan(found["coverage"][1:]).all()
    found = sets.sizes_by_class(inside, np.array([0, 1, 1]), 4)
    assert [found["pictures"].tolist(), *(found[name][:2].tolist() for name in ("coverage", "size"))] == [
        *([1, 2, 0, 0], [1, 1], [1, 2]),
    ]
    assert len(found["size"]) == 4
    assert np.isnan(found["size"][2:]).all()


def test_pictures_that_chose_the_penalty_fit_no_scores() -> None:
    probabilities, targets = made(500)
    found = sets.fit(RAPS, probabilities, targets)
    rest = np.arange(500) % 5 > 0
    expected = sets.label_scores(RAPS, probabilities[rest], found.penalty)[np.arange(400), targets[rest]]
    assert found.classes.tolist() == targets[rest][np.argsort(expected, kind="stable")].tolist()
    assert found.scores.tolist() == np.sort(expected).tolist()
    assert found.penalty == sets.best_penalty(probabilities[::5], targets[::5], 0.9)


def test_of_few_pictures_none_chooses_a_penalty() -> None:
    probabilities, targets = made(500)
    for pictures, coverage, fitted_on in ((95, 0.9, 95), (96, 0.9, 76), (490, 0.99, 490), (491, 0.99, 392)):
        found = sets.fit(RAPS, probabilities[:pictures], targets[:pictures], coverage=coverage)
        assert len(found.scores) == fitted_on
        assert (found.penalty == sets.Penalty()) == (fitted_on == pictures)
        assert len(sets.fit(LAC, probabilities[:pictures], targets[:pictures], coverage=coverage).scores) == pictures
    with pytest.raises(sets.TooFewPictures, match=r"take 9,999 held-out pictures, and there are 500; "):
        sets.fit(LAC, probabilities, targets, coverage=0.9999)


def test_the_penalty_is_chosen_for_the_level_that_is_asked_for() -> None:
    probabilities, targets = made(500)
    found = {level: sets.fit(RAPS, probabilities, targets, coverage=level).penalty for level in (0.5, 0.9)}
    assert found[0.5] != found[0.9]
    chosen, own = probabilities[::5], targets[::5]
    for level, penalty in found.items():
        ranks = np.sort((chosen > chosen[np.arange(100), own, None]).sum(axis=1) + 1)
        assert penalty.rank == ranks[math.ceil(101 * level) - 1]
        sizes = [
            sets.fit(RAPS, chosen, own, penalty=sets.Penalty(penalty.rank, weight)).contain(chosen, level).sum()
            for weight in sets.PENALTIES
        ]
        assert penalty.weight == sets.PENALTIES[int(np.argmin(sizes))]
        assert penalty == sets.best_penalty(chosen, own, level)
    assert sets.best_penalty(chosen[:5], own[:5], 0.5).weight in sets.PENALTIES  # too few for 0.9
    ranks = sets.ranked_positions(chosen[:9])[np.arange(9), own[:9]]
    assert sets.best_penalty(chosen[:9], own[:9], 0.9).rank == ranks.max() > np.sort(ranks)[-2]  # the last of nine


def test_where_classes_have_quantiles_of_their_own_no_label_is_in_a_set_for_anothers_sake() -> None:
    """Neither as likely as the last one."""
    classes = np.repeat([0, 1], [60, 60])
    found = sets.Sets(RAPS, np.linspace(0.3, 0.9, 120), classes, by_class=True)
    alike = np.array([[0.5, 0.5]])  # of which the second's score is 1
    assert found.contain(alike, 0.9).tolist() == [[True, False]]
    together = sets.Sets(RAPS, found.scores, classes)
    assert together.contain(alike, 0.9).tolist() == [[True, True]]


def test_classes_of_just_enough_pictures_are_by_themselves() -> None:
    counts = {0: 98, 1: 99, 2: sets.PICTURES_A_CLASS, 3: sets.PICTURES_A_CLASS - 1}
    classes = np.repeat([*counts], [*counts.values()])
    found = sets.Sets(LAC, np.sort(np.random.default_rng(0).random(len(classes))), classes, by_class=True)
    assert found.by_themselves(0.9) == {label: counts[label] for label in (0, 1, 2)}
    assert found.by_themselves(0.99) == {1: 99}  # which takes 99 pictures

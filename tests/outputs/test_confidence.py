"""Confidence: its temperature, its three disjoint parts, and files that are of one model or refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize

from vit_hybrid.errors import EngineWarning
from vit_hybrid.outputs import confidence, reliability, strangers
from vit_hybrid.outputs.confidence import Confidence, ConfidenceError
from vit_hybrid.outputs.problems import MULTI_LABEL, REGRESSION, SET_METHODS, SINGLE_LABEL
from vit_hybrid.outputs.ranking import softmax
from vit_hybrid.outputs.sets import TooFewPictures, promised

LABELS = ("bee", "cat", "dog", "egg")
WIDTH = 5


def made(
    pictures: int = 600, seed: int = 0, scale: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits that are `scale` times as sure as they should be, classes, features and pixel statistics."""
    rng = np.random.default_rng(seed)
    honest = 2 * rng.normal(size=(pictures, len(LABELS)))
    targets = np.array([rng.choice(len(LABELS), p=row) for row in softmax(honest)])
    features = rng.normal(size=(pictures, WIDTH)) + 4 * np.eye(len(LABELS), WIDTH)[targets]
    return scale * honest, targets, features, rng.normal(size=(pictures, strangers.STATISTICS))


def trained_on() -> strangers.TrainedOn:
    _, targets, features, statistics = made(seed=9)
    gathering = strangers.Gathering(len(LABELS), WIDTH)
    gathering.add(features, targets, statistics)
    return gathering.trained_on()


def fitted(**others: Any) -> Confidence:
    logits, targets, features, statistics = made()
    given = {"features": features, "statistics": statistics, "trained_on": trained_on(), **others}
    return confidence.fit(logits, targets, LABELS, SINGLE_LABEL, weights="w", precision="f32", **given)


def test_the_temperature_is_the_best_one() -> None:
    logits, targets, *_ = made(4_000)

    def loss(temperature: float) -> float:
        return float(-np.log(softmax(logits / temperature)[np.arange(len(targets)), targets]).mean())

    found = confidence.temperature_of(logits, targets)
    assert found == pytest.approx(optimize.minimize_scalar(loss, bounds=(0.1, 20), method="bounded").x, rel=1e-4)
    assert found == pytest.approx(3.0, rel=0.1)


def test_each_label_of_several_has_its_own() -> None:
    rng = np.random.default_rng(0)
    honest = 2 * rng.normal(size=(5_000, 3))
    targets = (rng.random(honest.shape) < 1 / (1 + np.exp(-honest))).astype(float)
    targets[:, 2] = 0  # a label that no picture has
    found = confidence.fit(honest * [2, 0.5, 1], targets, "abc", MULTI_LABEL, weights="w", precision="f32")
    assert found.temperature == pytest.approx([2, 0.5, 1], rel=0.1)
    assert found.temperature[2] == 1.0
    assert found.about["labels_left_as_they_are"] == ["c"]
    assert found.judge(honest) == [confidence.Judgment(None, None)] * len(honest)
    np.testing.assert_allclose(found.probabilities(honest), 1 / (1 + np.exp(-honest / found.temperature)))
    with pytest.raises(ConfidenceError, match="sets of labels are for models of one label"):
        found.contain(honest)


def test_a_label_that_all_pictures_have_is_left_as_it_is() -> None:
    logits = np.random.default_rng(0).normal(size=(90, 3))
    targets = np.stack([logits[:, 0] > 0, np.ones(90), np.zeros(90)], axis=1).astype(float)
    assert confidence.temperatures_of(logits, targets)[1:].tolist() == [1.0, 1.0]


def test_a_regression_model_has_none() -> None:
    with pytest.raises(ConfidenceError, match="regression"):
        confidence.fit(np.zeros((90, 1)), np.zeros((90, 1)), "v", REGRESSION, weights="w", precision="f32")


def test_too_few_pictures_say_how_many_it_takes() -> None:
    logits, targets, *_ = made(39)
    with pytest.raises(
        ConfidenceError, match=r"takes 40 held-out pictures or more \(2 parts of 20\), and there are 39;"
    ):
        confidence.fit(logits, targets, LABELS, SINGLE_LABEL, weights="w", precision="f32")
    with pytest.raises(ConfidenceError, match=r"takes 20 held-out pictures or more, and there are 19;"):
        confidence.check_enough(19, MULTI_LABEL, True)


def test_pictures_that_are_just_enough_are_divided_into_parts() -> None:
    needed = {(SINGLE_LABEL, True): 3, (SINGLE_LABEL, False): 2, (MULTI_LABEL, False): 1}
    for (problem_type, with_strangers), parts in needed.items():
        assert confidence.check_enough(20 * parts, problem_type, with_strangers) == parts
        with pytest.raises(ConfidenceError, match=f"takes {20 * parts} held-out pictures or more"):
            confidence.check_enough(20 * parts - 1, problem_type, with_strangers)


def test_parts_are_disjoint_and_spread_over_classes() -> None:
    targets = np.repeat(np.arange(5), [30, 30, 7, 2, 1])
    parts = confidence.disjoint_parts(targets, 3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(70))
    for part in parts:
        assert (np.bincount(targets[part], minlength=5)[:2] == 10).all()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all((np.diff(part) > 0).all() for part in parts)
    assert not (np.diff(parts[0][:10]) == 3).all()  # drawn, and not each third
    assert all((one == other).all() for one, other in zip(parts, confidence.disjoint_parts(targets, 3), strict=True))


def test_each_part_is_fitted_on_its_own_pictures() -> None:
    logits, targets, features, statistics = made()
    first, second, third = confidence.disjoint_parts(targets, 3)
    found = fitted()
    assert found.temperature == confidence.temperature_of(logits[first], targets[first])
    scores = 1 - softmax(logits[second])[np.arange(len(second)), targets[second]]
    assert found.sets["lac"].scores.tolist() == np.sort(scores).tolist()
    distances = found.distances(features[third], logits[third], statistics[third])
    assert found.familiarity is not None
    for name, values in distances.items():
        assert found.familiarity.parts[name].tolist() == np.sort(values).tolist()
    assert found.about["parts"] == {"probabilities": 200, "sets": 200, "strangers": 200}


def test_parts_of_unlike_numbers_are_told_apart() -> None:
    logits, targets, features, statistics = made(62)
    more = {"features": features, "statistics": statistics, "trained_on": trained_on()}
    for given, parts in (
        ({}, {"probabilities": 31, "sets": 31}),
        (more, {"probabilities": 21, "sets": 21, "strangers": 20}),
    ):
        how: dict[str, Any] = given
        found = confidence.fit(logits, targets, LABELS, SINGLE_LABEL, weights="w", precision="f32", **how)
        assert found.about["parts"] == parts
    found = confidence.fit(logits[:61], targets[:61], LABELS, SINGLE_LABEL, weights="w", precision="f32")
    assert found.about["parts"] == {"probabilities": 31, "sets": 30}
    assert len(found.sets["lac"].scores) == 30
    assert found.about["measured"]["sets"]["promised"] == list(promised(30, 0.9))


def test_calibration_keeps_ranks_and_betters_the_likelihood() -> None:
    logits, targets, *_ = made(2_000, seed=5)
    found = fitted().probabilities(logits)
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).all()
    likelihoods = [-np.log(p[np.arange(len(targets)), targets]).mean() for p in (found, softmax(logits))]
    assert likelihoods[0] < likelihoods[1] - 0.1
    assert found.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("method", SET_METHODS)
def test_what_is_said_of_a_picture(method: str) -> None:
    logits, targets, features, statistics = made(300, seed=7)
    found = fitted(method=method)
    judged = found.judge(logits, features, statistics, 0.9)
    inside = found.sets[method].contain(softmax(logits), 0.9)
    for row, (members, familiarity) in enumerate(judged):
        assert type(members) is tuple
        assert set(members) == set(np.flatnonzero(inside[row]))
        assert list(logits[row, list(members)]) == sorted(logits[row, list(members)], reverse=True)
        assert familiarity is not None
        assert 0 < familiarity <= 1
    for row in (0, 63, 64, 200, 299):  # whatever pictures are beside it
        assert found.judge(*(given[row : row + 1] for given in (logits, features, statistics)), 0.9) == [judged[row]]
    hits = [target in one.set for target, one in zip(targets, judged, strict=True) if one.set is not None]
    assert 0.84 < np.mean(hits) < 0.98  # sums of probabilities come in few steps, and so sets of RAPS may hold more
    assert found.judge(logits, features, statistics) == judged
    assert found.judge(logits[:0], features[:0], statistics[:0]) == []
    assert found.judge(logits, features, statistics, 0.8) != judged
    with pytest.raises(TooFewPictures, match=r"99\.9 % of the time take 999"):
        found.judge(logits, features, statistics, 0.999)


def test_without_features_there_are_sets_and_no_strangers() -> None:
    found = fitted(features=None, statistics=None, trained_on=None)
    assert not found.needs_features
    logits, *_ = made(3)
    assert [one.familiarity for one in found.judge(logits)] == [None] * 3
    assert found.about["parts"] == {"probabilities": 300, "sets": 300}
    # Pictures that there is nothing to compare with, and nothing to compare.
    for lacking in ({"trained_on": None}, {"features": None, "statistics": None}):
        less = fitted(**lacking)
        assert (less.needs_features, less.about["parts"]) == (False, {"probabilities": 300, "sets": 300})
    with pytest.raises(ConfidenceError, match="not fitted"):
        found.familiar(np.zeros((3, WIDTH)), logits, np.zeros((3, strangers.STATISTICS)))


def test_files_give_back_what_was_written(tmp_path: Path) -> None:
    logits, _, features, statistics = made(50, seed=7)
    found = fitted(about={"from": "folder/\udce9"})
    confidence.write(found, tmp_path)
    again = confidence.read(tmp_path, "w")
    assert again.judge(logits, features, statistics) == found.judge(logits, features, statistics)
    assert again.familiarity is not None
    assert found.familiarity is not None
    np.testing.assert_array_equal(again.familiarity.combined, found.familiarity.combined)
    np.testing.assert_array_equal(again.probabilities(logits), found.probabilities(logits))
    assert (again.precision, again.token_merging, again.problem_type) == ("f32", None, SINGLE_LABEL)
    other = replace(found, method="raps", token_merging=2, precision="bf16")
    confidence.write(other, tmp_path)
    read = confidence.read(tmp_path)
    assert (read.method, read.token_merging, read.precision) == ("raps", 2, "bf16")
    assert read.judge(logits, features, statistics) == other.judge(logits, features, statistics)
    confidence.write(found, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confidence.json", "confidence.safetensors"]
    head = json.loads((tmp_path / "confidence.json").read_text())
    assert head["sets"]["lac"] == {"pictures": 200, "by_class": False, "penalty_rank": 1, "penalty_weight": 0.0}
    assert head["sets"]["raps"]["by_class"] is False
    assert (head["sets"]["raps"]["pictures"], head["strangers"] is None) == (160, False)
    by_class = fitted(by_class=True)
    confidence.write(replace(by_class, familiarity=None), tmp_path)
    read = confidence.read(tmp_path)
    for name in SET_METHODS:
        assert read.sets[name].by_class
        assert read.sets[name].penalty == by_class.sets[name].penalty
        np.testing.assert_array_equal(read.sets[name].thresholds(0.9, 4), by_class.sets[name].thresholds(0.9, 4))
    assert read.sets["raps"].penalty.weight > 0
    assert json.loads((tmp_path / "confidence.json").read_text())["strangers"] is None
    assert not read.needs_features


def test_where_one_file_cannot_be_written_both_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confidence.write(fitted(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no more")

    for name in ("write_bytes", "write_text"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, name, fail)
            with pytest.raises(OSError, match="no more"):
                confidence.write(fitted(method="raps", by_class=True), tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_of_another_model_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    confidence.write(fitted(), tmp_path)
    for other in ("other", ""):  # of which nothing is known
        with pytest.raises(ConfidenceError, match="other weights"):
            confidence.read(tmp_path, other)
    confidence.read(tmp_path, "w").check_labels(LABELS)
    with pytest.raises(ConfidenceError, match="another order"):
        confidence.read(tmp_path, "w").check_labels(LABELS[::-1])
    head = json.loads((tmp_path / "confidence.json").read_text())
    (tmp_path / "confidence.json").write_text(json.dumps({**head, "format": 99}))
    with pytest.raises(ConfidenceError, match=r"by another version of this package \(99\); calibrate again"):
        confidence.read(tmp_path)
    unsaid = {name: value for name, value in head.items() if name != "weights_sha256"}
    (tmp_path / "confidence.json").write_text(json.dumps(unsaid))
    with pytest.raises(ConfidenceError, match="fitted for other weights than those beside it"):
        confidence.read(tmp_path, "w")
    (tmp_path / "confidence.json").write_text(json.dumps({**head, "sets": {"raps": head["sets"]["raps"]}}))
    with pytest.raises(ConfidenceError, match="method is 'lac', expected 'raps'"):
        confidence.read(tmp_path)
    (tmp_path / "confidence.json").write_text(json.dumps({**head, "sets": {"lac": {}}}))
    with pytest.raises(ConfidenceError, match="damaged"):
        confidence.read(tmp_path)
    (tmp_path / "confidence.json").write_text(json.dumps(head))
    (tmp_path / "confidence.safetensors").write_bytes(b"short")
    with pytest.raises(ConfidenceError, match="another calibration, or damaged"):
        confidence.read(tmp_path)
    for text in ("{", "[]", "{}"):
        (tmp_path / "confidence.json").write_text(text)
        with pytest.raises(ConfidenceError, match=r"/confidence\.json: cannot be read: "):
            confidence.read(tmp_path)
    (tmp_path / "confidence.json").write_text(json.dumps(head))
    (tmp_path / "confidence.safetensors").unlink()
    with pytest.raises(ConfidenceError, match=r"cannot be read: .*No such file"):
        confidence.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "aps"}, "method is 'aps', expected 'lac' or 'raps'"),
        ({"method": ["lac"]}, r"method is \['lac'\]"),
        ({"method": None}, "method is None"),
        ({"temperature": 1.0}, "temperature was changed"),
        ({"temperature": None}, "temperature was changed"),
        ({"problem_type": "regression"}, "problem_type or temperature was changed"),
        ({"sets": []}, "damaged"),
        ({"sets": None}, "damaged"),
        ({"labels": 5}, "damaged"),
    ],
)
def test_what_people_changed_in_the_readable_file_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    confidence.write(fitted(), tmp_path)
    head = json.loads((tmp_path / "confidence.json").read_text())
    (tmp_path / "confidence.json").write_text(json.dumps({**head, **change}))
    with pytest.raises(ConfidenceError, match=said):
        confidence.read(tmp_path, "w")


def test_another_method_is_chosen_in_the_readable_file(tmp_path: Path) -> None:
    confidence.write(fitted(), tmp_path)
    head = json.loads((tmp_path / "confidence.json").read_text())
    (tmp_path / "confidence.json").write_text(json.dumps({**head, "method": "raps"}))
    logits, *_ = made(50, seed=7)
    np.testing.assert_array_equal(confidence.read(tmp_path, "w").contain(logits), fitted(method="raps").contain(logits))


def test_a_share_of_false_alarms_that_no_picture_can_be_below_is_told() -> None:
    found = fitted()  # 200 of whose pictures say how familiar others are
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confidence.check_levels(found, 0.9, 0.005)
    logits, _, features, statistics = made(3, seed=7)
    [one, *_] = found.judge(logits, features + 100, statistics + 100)
    assert one.familiarity == pytest.approx(1 / 201)  # the least there is, and below 0.005
    with pytest.warns(
        EngineWarning, match=r"false_alarms 0\.004 takes 250 held-out pictures or more, and there are 200"
    ):
        confidence.check_levels(found, 0.9, 0.004)


def test_levels_are_checked_by_what_a_model_has() -> None:
    found = fitted()
    for wrong in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=f"false_alarms is {wrong:g}; expected a share between 0 and 1"):
            confidence.check_levels(None, 0.9, wrong)
        for given in (None, found):
            with pytest.raises(ValueError, match=f"coverage is {wrong:g}; expected a share between 0 and 1"):
                confidence.check_levels(given, wrong, 0.05)
    confidence.check_levels(found, 0.994, 0.05)  # which takes 166 pictures, and of RAPS 160 are left
    with pytest.raises(TooFewPictures, match="take 166 held-out pictures, and there are 160"):
        confidence.check_levels(replace(found, method="raps"), 0.994, 0.05)
    several = confidence.fit(
        np.zeros((20, 2)), np.eye(2)[np.arange(20) % 2], "ab", MULTI_LABEL, weights="w", precision="f32"
    )
    confidence.check_levels(several, 0.9, 0.05)  # nothing was asked for
    for name, levels in (("coverage", (0.8, 0.05)), ("false_alarms", (0.9, 0.1))):
        with pytest.raises(ValueError, match=f"^{name} is for models of one label .*'{MULTI_LABEL}'; leave it out"):
            confidence.check_levels(several, *levels)


def test_what_by_class_guarantees_is_that_of_the_smallest_class_by_itself() -> None:
    together, apart = fitted().about["measured"]["sets"], fitted(by_class=True).about["measured"]["sets"]
    assert together["classes_by_themselves"] == 0
    assert together["promised"] == list(promised(200, 0.9))
    classes = fitted().sets["lac"].classes
    own = [count for count in np.bincount(classes) if count >= 50]
    assert 0 < len(own) < len(LABELS)  # so that it is not that of a class that is too small
    assert apart["classes_by_themselves"] == len(own)
    assert apart["promised"] == list(promised(min(own), 0.9))


def test_sets_are_measured_on_pictures_that_they_were_not_fitted_on() -> None:
    logits, targets, *_ = made()
    first, *_ = confidence.disjoint_parts(targets, 3)
    found = fitted()
    inside = found.contain(logits[first])
    measured = found.about["measured"]["sets"]
    assert measured["mean_size"] == inside.sum(axis=1).mean()
    assert measured["measured_coverage"] == inside[np.arange(len(first)), targets[first]].mean()
    assert measured["coverage"] == 0.9


def test_temperatures_are_measured_on_pictures_that_they_were_not_fitted_on() -> None:
    logits, targets, *_ = made()
    _, second, _ = confidence.disjoint_parts(targets, 3)
    found = fitted()
    measured = found.about["measured"]
    for name, outputs in (("before", logits[second]), ("after", logits[second] / found.temperature)):
        probabilities = softmax(outputs)
        likelihood = -np.log(probabilities[np.arange(len(second)), targets[second]]).mean()
        assert measured[name]["negative_log_likelihood"] == pytest.approx(likelihood)
        sure, right = reliability.sure_and_right(probabilities, targets[second])
        error = reliability.calibration_error(reliability.bins(sure, right, equal_mass=True))
        assert measured[name]["calibration_error"] == pytest.approx(error)
        by_chance = reliability.calibration_error_by_chance(sure, equal_mass=True)
        assert measured[name]["calibration_error_by_chance"] == pytest.approx(by_chance)


@pytest.mark.parametrize("problem_type", [SINGLE_LABEL, MULTI_LABEL])
def test_how_the_outputs_came_to_be_is_kept(problem_type: str, tmp_path: Path) -> None:
    logits, targets, *_ = made(60)
    truth = targets if problem_type == SINGLE_LABEL else np.eye(len(LABELS))[targets]
    trained = np.arange(12, dtype=np.uint8).reshape(2, 6)
    how: dict[str, Any] = {"weights": "w", "precision": "bf16", "token_merging": 2, "trained_pictures": trained}
    given = confidence.fit(logits, truth, [*LABELS], problem_type, **how, about={"from": "here", "pictures": "all"})
    given.check_labels([*LABELS])
    confidence.write(given, tmp_path)
    found = confidence.read(tmp_path)
    assert (found.labels, found.problem_type, found.weights) == (LABELS, problem_type, "w")
    assert (found.precision, found.token_merging) == ("bf16", 2)
    assert found.trained_pictures is not None
    np.testing.assert_array_equal(found.trained_pictures, trained)
    assert (found.about["from"], found.about["pictures"]) == ("here", 60)
    assert "labels_left_as_they_are" not in found.about


def test_another_method_of_sets_is_another_confidence() -> None:
    found = fitted()
    assert replace(found, method="raps").fingerprint != found.fingerprint == fitted().fingerprint
    assert replace(found, temperature=found.temperature + 1e-6).fingerprint != found.fingerprint
    assert replace(found, familiarity=None).fingerprint != found.fingerprint

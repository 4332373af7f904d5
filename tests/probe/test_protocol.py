"""Few-shot least squares and nearest neighbors, on made features."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from probe_pictures import CLASSES, clusters

from vit_hybrid.inference.features import Skipped
from vit_hybrid.outputs.ranking import softmax
from vit_hybrid.probe import Features, ProbeError, draw_shots, least_squares, nearest_neighbors, probe


class TestShots:
    targets = np.array([0] * 7 + [1] * 2 + [2] * 5)

    def test_as_many_of_each_class_as_asked_for_or_there_are(self) -> None:
        drawn = draw_shots(self.targets, 4, 3, np.random.default_rng(0))
        assert len(set(drawn)) == len(drawn)
        assert np.bincount(self.targets[drawn], minlength=4).tolist() == [3, 2, 3, 0]

    def test_fewer_are_among_more_and_draws_differ_by_seed(self) -> None:
        few, more = (set(draw_shots(self.targets, 3, n, np.random.default_rng(4))) for n in (1, 4))
        assert few < more
        draws = {tuple(draw_shots(self.targets, 3, 2, np.random.default_rng(seed))) for seed in range(10)}
        assert len(draws) > 1


class TestProbe:
    train, val = clusters((30, 12, 6)), clusters((10, 10, 10), seed=7)

    def test_rows(self) -> None:
        report, solution = probe(self.train, self.val, CLASSES)
        rows = report["rows"]
        assert [row["shots"] for row in rows] == [1, 5, 10, 25, "all"]
        assert [row["images"] for row in rows] == [3, 15, 26, 43, 48]
        assert [row["trials"] for row in rows] == [5, 5, 5, 5, 1]
        for row in rows:
            for figure in (row["least_squares"], row["knn"]):
                assert 0 <= figure["min"] <= figure["mean"] <= figure["max"] <= 1
        assert rows[-1]["least_squares"]["mean"] == report["top1"] > rows[0]["least_squares"]["mean"]
        assert report["knn_top1"] > 0.5
        assert (solution.scores(self.val.values).argmax(1) == self.val.targets).mean() == report["top1"]
        assert report["top5"] == 1.0
        assert [note for note in report["notes"] if "fewer than 25" in note] == [
            "fewer than 25 training pictures, all of which are used, of green things (12), blue things (6)"
        ]
        assert 0 < report["seconds"]["solving"] < 60
        json.dumps(report)

    def test_features_far_from_those_of_training_give_figures_that_are_numbers(self) -> None:
        far = replace(self.val, values=1e6 * self.val.values)
        report, solution = probe(self.train, far, CLASSES, [])
        assert np.abs(report["scale"] * solution.scores(far.values)).max() > 1000
        assert 100 < report["cross_entropy"] < np.inf
        assert 0.9 < report["mean_confidence"] <= 1

    def test_the_seed_decides(self) -> None:
        first, second, other = (probe(self.train, self.val, CLASSES, [2, 2], seed=seed)[0] for seed in (3, 3, 4))
        for report in (first, second, other):
            del report["seconds"]
        assert first == second
        assert first["rows"][0] != other["rows"][0]
        assert first["rows"][1] == other["rows"][1]
        assert [row["shots"] for row in first["rows"]] == [2, "all"]  # once, however often it was asked for

    def test_validation_pictures_decide_nothing(self) -> None:
        other_val = Features(self.val.values[::-1].copy(), self.val.targets)
        (one, first), (two, second) = (probe(self.train, val, CLASSES) for val in (self.val, other_val))
        assert one["top1"] != two["top1"]
        assert (one["l2"], one["scale"]) == (two["l2"], two["scale"])
        np.testing.assert_array_equal(first.coefficients, second.coefficients)

    def test_probabilities_are_as_sure_as_they_are_right(self) -> None:
        train, val = (clusters((150, 150, 150), seed=seed, spread=2.5) for seed in (1, 2))
        report, _ = probe(train, val, CLASSES, [])
        assert 0.5 < report["top1"] < 0.98
        assert report["mean_confidence"] == pytest.approx(report["top1"], abs=0.06)

    def test_the_scale_is_that_of_scores_of_solutions_without_the_picture(self) -> None:
        train = clusters((9, 7, 8, 1), width=20, spread=2.0)  # the last picture is alone in its class
        report, solution = probe(train, clusters((5, 5, 5, 5), width=20, seed=7), [*CLASSES, "odd"], [], l2=[2.0])
        z = (train.values - solution.mean) / solution.deviation
        wanted = np.where(train.targets[:, None] == np.arange(4), 1.0, -1.0)
        design, penalty = np.hstack([z, np.ones((25, 1))]), 2.0 * np.diag([1.0] * 20 + [0.0])
        held_out = np.empty((24, 4))
        for index in range(24):
            rest = np.delete(design, index, axis=0)
            direct = np.linalg.solve(rest.T @ rest + penalty, rest.T @ np.delete(wanted, index, axis=0))
            held_out[index] = design[index] @ direct

        def best_of(scores: np.ndarray) -> float:
            """On a grid, what makes the cross-entropy to targets of 25/26 least."""
            factors = np.geomspace(0.05, 20, 3000)
            hoped = np.full((24, 4), 1 / 26 / 3)
            hoped[np.arange(24), train.targets[:24]] = 25 / 26
            return factors[np.argmin([-(hoped * np.log(softmax(factor * scores))).sum() for factor in factors])]

        assert report["scale"] == pytest.approx(best_of(held_out), rel=0.005)
        assert best_of(solution.scores(train.values[:24])) > 1.5 * report["scale"]  # or this would show nothing
        assert report["held_out_top1"] == (held_out.argmax(1) == train.targets[:24]).mean()

    def test_every_figure_by_hand(self) -> None:
        train, val = (clusters((7,) * 8, width=12, seed=seed, spread=3.0) for seed in (1, 2))
        report, solution = probe(train, val, list("abcdefgh"), [3], trials=4, neighbors=5, l2=[3.0], seed=6)
        scores, rows = solution.scores(val.values), np.arange(len(val))
        ranks = (scores > scores[rows, val.targets][:, None]).sum(1)
        assert report["top1"] == (ranks == 0).mean() < report["top5"] == (ranks < 5).mean() < 1
        probabilities = softmax(report["scale"] * scores)
        assert report["cross_entropy"] == pytest.approx(-np.log(probabilities[rows, val.targets]).mean())
        assert report["mean_confidence"] == pytest.approx(probabilities.max(1).mean())
        voted = nearest_neighbors(train, val.values, 8, 5).argmax(1)
        assert report["knn_top1"] == (voted == val.targets).mean()

        solved, voted_of_few = [], []
        for trial in range(4):
            chosen = draw_shots(train.targets, 8, 3, np.random.default_rng((6, trial)))
            few = Features(train.values[chosen], train.targets[chosen])
            right = least_squares(few.values, few.targets, 8, [3.0]).scores(val.values).argmax(1) == val.targets
            solved.append(right.mean())
            voted_of_few.append((nearest_neighbors(few, val.values, 8, 5).argmax(1) == val.targets).mean())
        assert (report["feature_size"], report["neighbors"], report["seed"]) == (12, 5, 6)
        assert (report["classes"], report["l2"]) == ([*"abcdefgh"], 3.0)
        row, everything = report["rows"]
        assert (everything["shots"], everything["images"], everything["trials"], everything["l2"]) == (
            "all",
            56,
            1,
            [3],
        )
        assert (row["shots"], row["images"], row["trials"], row["l2"]) == (3, 24, 4, [3.0] * 4)
        assert len(set(solved)) > 1
        for figures, found in ((solved, row["least_squares"]), (voted_of_few, row["knn"])):
            assert found == {"mean": pytest.approx(np.mean(figures)), "min": min(figures), "max": max(figures)}
        assert everything["least_squares"] == dict.fromkeys(("mean", "min", "max"), report["top1"])
        assert everything["knn"] == dict.fromkeys(("mean", "min", "max"), report["knn_top1"])

    def test_more_shots_than_there_are(self) -> None:
        for shots in (30, 1000):  # of the largest class as many, and more
            report, _ = probe(self.train, self.val, CLASSES, [shots])
            few, everything = report["rows"]
            assert few["images"] == everything["images"] == 48
            assert few["trials"] == 1
            assert few["least_squares"] == everything["least_squares"]

    def test_one_picture_a_class(self) -> None:
        report, _ = probe(clusters((1, 1, 1)), self.val, CLASSES)
        assert [row["shots"] for row in report["rows"]] == ["all"]
        assert report["held_out_top1"] is None
        assert report["scale"] == 1.0
        assert any("one picture a class" in note for note in report["notes"])

    def test_classes_that_are_missing_are_named(self) -> None:
        report, _ = probe(clusters((5, 0, 5)), clusters((5, 5, 0), seed=2), CLASSES, [])
        assert report["notes"] == [
            "no training pictures of green things",
            "no validation pictures of blue things",
        ]
        report, _ = probe(clusters((5, 0, 5)), clusters((5, 5, 0), seed=2), CLASSES, [9, 5, 9])
        assert [row["shots"] for row in report["rows"]] == [5, 9, "all"]
        assert report["notes"][2:] == [  # where what has none is not named again
            "fewer than 9 training pictures, all of which are used, of red things (5), blue things (5)"
        ]

    def test_of_many_classes_that_are_missing_five_are_named(self) -> None:
        for more, said in ((0, "c, d, e, f, g"), (1, "c, d, e, f, g and 1 more"), (2, "c, d, e, f, g and 2 more")):
            counts = (3, 3, *[0] * (5 + more))
            report, _ = probe(clusters(counts), clusters(counts, seed=2), list("abcdefghi")[: len(counts)], [])
            assert report["notes"] == [f"no {part} pictures of {said}" for part in ("training", "validation")]

    def test_pictures_of_both_parts_that_cannot_be_read_are_told_of(self) -> None:
        lost = [Skipped(path=name, error=f"{name}: is empty") for name in ("a", "b")]
        train, val = (replace(part, skipped=(each,)) for part, each in zip((self.train, self.val), lost, strict=True))
        assert probe(train, val, CLASSES, [])[0]["unreadable"] == lost

    def test_one_class_only(self) -> None:
        with pytest.raises(ProbeError, match="a probe needs 2 or more"):
            probe(clusters((5, 0, 0)), self.val, CLASSES)

    def test_one_is_enough_of_everything(self) -> None:
        report, _ = probe(self.train, self.val, CLASSES, [1], trials=1, neighbors=1)
        assert [(row["shots"], row["images"], row["trials"]) for row in report["rows"]] == [(1, 3, 1), ("all", 48, 1)]
        assert report["neighbors"] == 1

    @pytest.mark.parametrize("wrong", [{"trials": 0}, {"neighbors": 0}, {"shots": [3, 0]}, {"seed": -1}])
    def test_numbers_out_of_range(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))} is -?\d"):
            probe(self.train, self.val, CLASSES, **wrong)

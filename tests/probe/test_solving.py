"""Linear algebra against direct solutions."""

from __future__ import annotations

import numpy as np
import pytest
from probe_pictures import clusters

from vit_hybrid.outputs.ranking import softmax
from vit_hybrid.probe import DEFAULT_L2, DEVIATION_EPSILON, L2_CANDIDATES, fit_scale, least_squares


def test_the_numbers_of_the_protocol() -> None:
    assert (DEFAULT_L2, DEVIATION_EPSILON) == (1024.0, 1e-5)
    assert [float(strength) for strength in L2_CANDIDATES] == [2.0**power for power in range(-10, 21, 2)]


class TestLeastSquares:
    @pytest.mark.parametrize("counts", [(20, 30, 14), (2, 3, 1)], ids=["tall", "wide"])
    @pytest.mark.parametrize("l2", [0.01, 7.0, 4096.0])
    def test_is_the_solution_of_the_normal_equations(self, counts: tuple[int, ...], l2: float) -> None:
        data = clusters(counts)
        found = least_squares(data.values, data.targets, 3, [l2])
        x = data.values.astype(np.float64)
        z = (x - x.mean(0)) / (x.std(0) + DEVIATION_EPSILON)
        design = np.hstack([z, np.ones((len(z), 1))])
        wanted = np.where(data.targets[:, None] == np.arange(3), 1.0, -1.0)
        penalty = l2 * np.diag([1.0] * z.shape[1] + [0.0])  # the intercept goes free
        direct = np.linalg.solve(design.T @ design + penalty, design.T @ wanted)
        np.testing.assert_allclose(found.coefficients, direct[:-1], atol=1e-9)
        np.testing.assert_allclose(found.intercept, direct[-1], atol=1e-9)
        np.testing.assert_allclose(found.scores(x), design @ direct, atol=1e-9)

    def test_where_none_can_be_held_out_the_strength_nearest_to_the_protocols_by_its_ratio_is_taken(self) -> None:
        data = clusters((1, 1, 1))
        strengths = [DEFAULT_L2 / 1.7, DEFAULT_L2 * 1.6]  # of which the first is nearer by its difference
        assert least_squares(data.values, data.targets, 3, strengths).l2 == strengths[1]

    def test_comes_close_to_the_protocol_with_a_large_constant_feature(self) -> None:
        data, asked = clusters((25, 25, 25)), clusters((9, 9, 9), seed=5)
        found = least_squares(data.values, data.targets, 3, [DEFAULT_L2])
        x = data.values.astype(np.float64)
        mean, deviation = x.mean(0), x.std(0) + 1e-5
        design, test = (
            np.pad((part - mean) / deviation, ((0, 0), (0, 1)), constant_values=100.0) for part in (x, asked.values)
        )
        wanted = 2.0 * np.eye(3)[data.targets] - 1
        solution = np.linalg.solve(design.T @ design + DEFAULT_L2 * np.eye(9), design.T @ wanted)
        np.testing.assert_allclose(found.scores(asked.values), test @ solution, atol=2e-3)
        assert (found.scores(asked.values).argmax(1) == (test @ solution).argmax(1)).all()

    @pytest.mark.parametrize("counts", [(6, 9, 5), (2, 2, 2)], ids=["tall", "wide"])
    def test_held_out_scores_are_those_of_the_solution_without_the_picture(self, counts: tuple[int, ...]) -> None:
        data, l2 = clusters(counts), 3.0
        found = least_squares(data.values, data.targets, 3, [l2])
        z = (data.values - found.mean) / found.deviation
        wanted = np.where(data.targets[:, None] == np.arange(3), 1.0, -1.0)
        for index in range(len(z)):
            others = np.arange(len(z)) != index
            design = np.hstack([z[others], np.ones((others.sum(), 1))])
            penalty = l2 * np.diag([1.0] * z.shape[1] + [0.0])
            direct = np.linalg.solve(design.T @ design + penalty, design.T @ wanted[others])
            np.testing.assert_allclose(found.held_out[index], np.append(z[index], 1) @ direct, atol=1e-8)

    def test_of_several_strengths_that_is_used_by_which_pictures_with_company_are_foretold_best(self) -> None:
        data, strengths = clusters((4, 4, *[1] * 8), width=12), (1.0, 4.0, 16.0, 64.0)
        wanted = np.where(data.targets[:, None] == np.arange(10), 1.0, -1.0)
        alone = [least_squares(data.values, data.targets, 10, [strength]) for strength in strengths]
        errors = [(each.held_out - wanted) ** 2 for each in alone]
        assert np.argmin([error.mean() for error in errors]) == 2, "the test needs pictures whose say would be another"
        best = int(np.argmin([error[:8].mean() for error in errors]))
        assert best == 1
        found = least_squares(data.values, data.targets, 10, strengths)
        assert found.l2 == strengths[best]
        np.testing.assert_array_equal(found.coefficients, alone[best].coefficients)
        np.testing.assert_array_equal(found.held_out, alone[best].held_out)

    def test_takes_the_strength_that_held_out_pictures_favor(self) -> None:
        strengths = [1e-4, 1.0, 100.0, 1e6]
        data = clusters((12, 12, 12), width=30, spread=3.0)
        wanted = 2.0 * np.eye(3)[data.targets] - 1
        errors = [
            ((least_squares(data.values, data.targets, 3, [l2]).held_out - wanted) ** 2).mean() for l2 in strengths
        ]
        best = strengths[int(np.argmin(errors))]
        assert best == 100.0  # neither end, or this would show nothing
        assert least_squares(data.values, data.targets, 3, strengths).l2 == best

    def test_without_pictures_to_hold_out_the_strength_is_the_protocols(self) -> None:
        data = clusters((1, 1, 1))
        assert least_squares(data.values, data.targets, 3).l2 == DEFAULT_L2
        assert least_squares(data.values, data.targets, 3, [1.0, 900.0, 1e6]).l2 == 900.0

    def test_one_layer_gives_the_same_scores(self) -> None:
        data, asked = clusters((20, 30, 14)), clusters((5, 5, 5), seed=3)
        found = least_squares(data.values, data.targets, 3)
        weight, bias = found.linear(2.5)
        assert weight.shape == (3, 8)
        np.testing.assert_allclose(asked.values @ weight.T + bias, 2.5 * found.scores(asked.values), atol=1e-9)

    def test_a_class_without_pictures_is_never_predicted(self) -> None:
        data = clusters((8, 0, 8))
        scores = least_squares(data.values, data.targets, 3).scores(clusters((9, 9, 9), seed=4).values)
        np.testing.assert_allclose(scores[:, 1], -1.0, atol=1e-9)
        assert 1 not in scores.argmax(1)

    @pytest.mark.parametrize("l2", [[], [0.0], [1.0, -1.0], [float("nan")], [float("inf")]])
    def test_strengths_that_are_none(self, l2: list[float]) -> None:
        data = clusters((3, 3, 3))
        with pytest.raises(ValueError, match="expected one or more numbers above 0"):
            least_squares(data.values, data.targets, 3, l2)

    def test_no_pictures(self) -> None:
        with pytest.raises(ValueError, match="no pictures"):
            least_squares(np.empty((0, 4)), np.empty(0, np.int64), 3)


class TestScale:
    def test_finds_the_factor_that_made_the_labels(self) -> None:
        generator = np.random.default_rng(0)
        scores = generator.uniform(-1, 1, (20_000, 4))
        targets = np.array([generator.choice(4, p=row) for row in softmax(3.0 * scores)])
        assert fit_scale(scores, targets) == pytest.approx(3.0, rel=0.05)

    def test_stays_finite_without_a_mistake(self) -> None:
        targets = np.arange(30) % 3
        scores = 2.0 * np.eye(3)[targets] - 1
        sure = softmax(fit_scale(scores, targets) * scores).max(1)
        np.testing.assert_allclose(sure, 31 / 32, atol=1e-6)

    def test_scores_that_say_nothing_call_for_a_small_factor(self) -> None:
        generator = np.random.default_rng(1)
        assert fit_scale(generator.uniform(-1, 1, (3000, 3)), generator.integers(0, 3, 3000)) < 0.2

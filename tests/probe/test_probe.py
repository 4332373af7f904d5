"""The probe: its linear algebra against direct solutions, the model it writes, and the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from vit_hybrid import Predictor, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid import probe as job
from vit_hybrid.cli import probe as command
from vit_hybrid.cli.main import app
from vit_hybrid.data import read_splits
from vit_hybrid.files import is_marked
from vit_hybrid.images.reading import ImageReadError
from vit_hybrid.outputs.ranking import softmax
from vit_hybrid.probe import (
    DEFAULT_L2,
    DEVIATION_EPSILON,
    Features,
    FrozenModel,
    ProbeError,
    check_output,
    draw_shots,
    fit_scale,
    least_squares,
    nearest_neighbors,
    probe,
    write_model,
)

COLORS = ("red", "green", "blue")
CLASSES = [f"{color} things" for color in COLORS]
PICTURE_SIZE = (36, 32)


class InMemory:
    """Pictures as `data.LabeledPictures` hands them out."""

    problem_type = "single_label_classification"
    labels = tuple(CLASSES)

    def __init__(self, pictures: Sequence[Image.Image | None], targets: Sequence[int]) -> None:
        self.pictures, self.targets = list(pictures), np.array(targets, np.int64)

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        return f"picture {index}"

    def source(self, index: int) -> Image.Image:
        picture = self.pictures[index]
        if picture is None:
            raise ImageReadError(self.name(index), "is damaged")
        return picture


def noisy(color: str, seed: int) -> Image.Image:
    """A picture of one color under noise, so that no two are the same."""
    noise = np.random.default_rng(seed).integers(0, 200, (*PICTURE_SIZE[::-1], 3))
    base = np.array(Image.new("RGB", PICTURE_SIZE, color)).astype(int)
    return Image.fromarray(((base + noise) // 2).astype(np.uint8))


def some_pictures(each: int, seed: int = 0) -> InMemory:
    pairs = [(noisy(color, seed + 100 * k + i), k) for k, color in enumerate(COLORS) for i in range(each)]
    return InMemory(*zip(*pairs, strict=True))


def clusters(counts: Sequence[int], width: int = 8, seed: int = 0, spread: float = 1.0) -> Features:
    """Features of classes around random centers, the same for each seed; some features large, one constant."""
    centers = np.random.default_rng(99).normal(size=(len(counts), width))
    generator = np.random.default_rng(seed)
    targets = np.repeat(np.arange(len(counts)), counts)
    values = centers[targets] + spread * generator.normal(size=(len(targets), width))
    values = values * np.geomspace(0.01, 100, width) + np.linspace(-5, 5, width)
    values[:, 2] = 3.0
    return Features(values.astype(np.float32), targets)


@pytest.fixture
def frozen(tiny_folder: Path) -> FrozenModel:
    return FrozenModel.from_pretrained(str(tiny_folder), CLASSES, device="cpu", batch_size=4)


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


class TestNearestNeighbors:
    def test_weighted_votes_by_hand(self) -> None:
        angles = np.radians([0, 30, 60, 180])
        train = Features(np.stack([3 * np.cos(angles), 3 * np.sin(angles)], 1), np.array([0, 1, 1, 2]))
        votes = nearest_neighbors(train, np.array([[5.0, 0.0], [0.0, 0.1]]), 3, neighbors=3)
        weights = np.exp((np.cos(np.radians([0, 30, 60])) - 1) / 0.07)
        np.testing.assert_allclose(votes[0], [weights[0], weights[1] + weights[2], 0], atol=1e-12)
        assert votes[1].argmax() == 1

    def test_more_neighbors_than_pictures_and_zero_features(self) -> None:
        train = Features(np.zeros((2, 4)), np.array([0, 1]))
        votes = nearest_neighbors(train, np.zeros((1, 4)), 2, neighbors=50)
        assert np.isfinite(votes).all()
        assert votes[0, 0] == votes[0, 1] > 0


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
        json.dumps(report)

    def test_the_seed_decides(self) -> None:
        first, second, other = (probe(self.train, self.val, CLASSES, [2], seed=seed)[0] for seed in (3, 3, 4))
        for report in (first, second, other):
            del report["seconds"]
        assert first == second
        assert first["rows"][0] != other["rows"][0]
        assert first["rows"][1] == other["rows"][1]

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
        row, everything = report["rows"]
        assert (row["shots"], row["images"], row["trials"], row["l2"]) == (3, 24, 4, [3.0] * 4)
        assert len(set(solved)) > 1
        for figures, found in ((solved, row["least_squares"]), (voted_of_few, row["knn"])):
            assert found == {"mean": pytest.approx(np.mean(figures)), "min": min(figures), "max": max(figures)}
        assert everything["least_squares"] == dict.fromkeys(("mean", "min", "max"), report["top1"])
        assert everything["knn"] == dict.fromkeys(("mean", "min", "max"), report["knn_top1"])

    def test_more_shots_than_there_are(self) -> None:
        report, _ = probe(self.train, self.val, CLASSES, [1000])
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

    def test_one_class_only(self) -> None:
        with pytest.raises(ProbeError, match="a probe needs 2 or more"):
            probe(clusters((5, 0, 0)), self.val, CLASSES)

    @pytest.mark.parametrize("wrong", [{"trials": 0}, {"neighbors": 0}, {"shots": [3, 0]}, {"seed": -1}])
    def test_numbers_out_of_range(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))} is -?\d"):
            probe(self.train, self.val, CLASSES, **wrong)


class TestFeatures:
    def test_are_what_the_classifier_takes(self, frozen: FrozenModel, tiny_folder: Path) -> None:
        pictures = some_pictures(3)
        found = frozen.features(pictures)
        assert found.values.shape == (9, 16)
        assert found.targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        original = Predictor.from_pretrained(tiny_folder, device="cpu")
        classifier = original.model.classifier
        with torch.no_grad():
            logits = classifier(torch.from_numpy(found.values)).numpy()
        np.testing.assert_allclose(logits, original.logits(pictures.pictures), atol=1e-5)

    @pytest.mark.parametrize(("engine", "precision"), [("openvino", "f32"), ("torch", "bf16")])
    def test_of_another_engine_are_close(
        self, engine: str, precision: str, frozen: FrozenModel, tiny_folder: Path
    ) -> None:
        other = FrozenModel.from_pretrained(
            str(tiny_folder), ("a", "b", "c"), "cpu", engine=engine, precision=precision
        )
        pictures = some_pictures(2)
        found, expected = other.features(pictures), frozen.features(pictures)
        assert found.targets.tolist() == expected.targets.tolist()
        tolerance = 1e-4 if precision == "f32" else 0.1
        np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=tolerance)

    def test_unreadable_pictures_are_skipped_and_named(self, frozen: FrozenModel) -> None:
        whole = some_pictures(2)
        broken = InMemory([whole.pictures[0], None, *whole.pictures[2:5], None], whole.targets)
        done: list[tuple[int, int]] = []
        found = frozen.features(broken, progress=lambda *step: done.append(step))
        assert [entry["path"] for entry in found.skipped] == ["picture 1", "picture 5"]
        assert found.skipped[0]["error"] == "picture 1: is damaged"
        assert found.targets.tolist() == [0, 1, 1, 2]
        np.testing.assert_allclose(found.values, frozen.features(whole).values[[0, 2, 3, 4]], atol=1e-5)
        assert done[-1] == (6, 6)
        with pytest.raises(ProbeError, match="picture 1: is damaged"):
            frozen.features(broken, strict=True)

    def test_nothing_to_read(self, frozen: FrozenModel) -> None:
        with pytest.raises(ProbeError, match="none of the 2 pictures can be read; picture 0: is damaged"):
            frozen.features(InMemory([None, None], [0, 1]))

    def test_damaged_weights(self, frozen: FrozenModel) -> None:
        with torch.no_grad():
            frozen.predictor.model.vit.layernorm.weight[0] = float("nan")
        with pytest.raises(ProbeError, match="not finite"):
            frozen.features(some_pictures(1))

    @pytest.mark.parametrize("head", ["none", "base model", "pre-logits and regression"])
    def test_any_head_will_do(self, tmp_path: Path, tiny_folder: Path, head: str) -> None:
        model = ViTHybridForImageClassification.from_pretrained(tiny_folder)
        width = 16
        if head == "none":
            model.reset_classifier(0)
        elif head == "base model":
            model = ViTHybridModel.from_pretrained(tiny_folder, add_pooling_layer=False)
        else:
            width = 12
            config = tiny_hybrid.tiny_config(representation_size=width, num_labels=1, problem_type="regression")
            model = ViTHybridForImageClassification(config)
        model.save_pretrained(tmp_path)
        tiny_hybrid.tiny_processor().save_pretrained(tmp_path)
        found = FrozenModel.from_pretrained(str(tmp_path), CLASSES, device="cpu").features(some_pictures(1))
        assert found.values.shape == (3, width)
        if width == 16:
            same = FrozenModel.from_pretrained(str(tiny_folder), CLASSES, device="cpu").features(some_pictures(1))
            np.testing.assert_allclose(found.values, same.values, atol=1e-5)

    def test_a_device_that_is_not_there(self, tiny_folder: Path) -> None:
        with pytest.raises(ProbeError, match="Device 'cuda:99' cannot be used here"):
            FrozenModel.from_pretrained(str(tiny_folder), CLASSES, device="cuda:99")


class TestWrittenModel:
    def test_its_logits_are_the_solutions(self, frozen: FrozenModel, tmp_path: Path) -> None:
        train, val = frozen.features(some_pictures(8)), some_pictures(3, seed=5000)
        features = frozen.features(val)
        report, solution = probe(train, features, CLASSES, [2])
        out = tmp_path / "new" / "model"
        write_model(out, frozen, solution, report, "tiny", "colors")
        assert [path.name for path in out.parent.iterdir()] == ["model"]
        assert is_marked(out)

        predictor = Predictor.from_pretrained(out, device="cpu")
        assert predictor.labels == CLASSES
        assert predictor.config.label2id == {name: index for index, name in enumerate(CLASSES)}
        assert predictor.problem_type == "single_label_classification"
        logits = predictor.logits(val.pictures)
        np.testing.assert_allclose(logits, report["scale"] * solution.scores(features.values), atol=1e-4)
        assert (logits.argmax(1) == val.targets).mean() == report["top1"] > 0.5
        assert json.loads((out / "metrics.json").read_text()) == {"model": "tiny", "data": "colors", **report}
        card = (out / "README.md").read_text()
        assert f"Top-1 on 9 validation pictures is {report['top1']:.2%}" in card
        assert "| 2 | 6 |" in card
        modes = {path.stat().st_mode for path in out.iterdir()}
        assert len(modes) == 1

    def test_can_be_trained_on_and_probed_again(self, frozen: FrozenModel, tmp_path: Path) -> None:
        features = frozen.features(some_pictures(4))
        report, solution = probe(features, features, CLASSES, [])
        write_model(tmp_path / "out", frozen, solution, report, "tiny", "colors")
        model = ViTHybridForImageClassification.from_pretrained(tmp_path / "out").train()
        assert not model.is_folded
        again = FrozenModel.from_pretrained(str(tmp_path / "out"), CLASSES, device="cpu")
        np.testing.assert_allclose(again.features(some_pictures(4)).values, features.values, atol=1e-6)

    def test_a_failure_leaves_nothing_behind(
        self, frozen: FrozenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        features = frozen.features(some_pictures(4))
        report, solution = probe(features, features, CLASSES, [])
        write_model(tmp_path / "old", frozen, solution, report, "tiny", "colors")
        before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(frozen.processor, "save_pretrained", full)
        for out in (tmp_path / "deep" / "new", tmp_path / "old"):
            with pytest.raises(OSError, match="No space left"):
                write_model(out, frozen, solution, report, "tiny", "colors", overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
        assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before

    def test_what_is_there_is_not_lost(self, tmp_path: Path) -> None:
        check_output(tmp_path / "new")
        (tmp_path / "empty").mkdir()
        check_output(tmp_path / "empty")
        (tmp_path / "file").write_text("")
        with pytest.raises(ProbeError, match="this is a file"):
            check_output(tmp_path / "file", overwrite=True)
        old = tmp_path / "old"
        old.mkdir()
        (old / "config.json").write_text("{}")
        with pytest.raises(ProbeError, match=r"not empty \(there is config.json\).*--overwrite"):
            check_output(old)
        check_output(old, overwrite=True)
        (old / "thesis.tex").write_text("")
        with pytest.raises(ProbeError, match=r"more than a probe writes \(thesis.tex\)"):
            check_output(old, overwrite=True)


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of eight training and three validation pictures each; not to be changed."""
    root = tmp_path_factory.mktemp("colors")
    for split, each, seed in (("train", 8, 0), ("val", 3, 5000)):
        pictures = some_pictures(each, seed)
        for index, target in enumerate(pictures.targets):
            folder = root / split / CLASSES[target]
            folder.mkdir(parents=True, exist_ok=True)
            pictures.source(index).save(folder / f"{index}.png")
    return root


@pytest.fixture
def run(tiny_folder: Path) -> Any:
    def invoke(*arguments: str | Path) -> Result:
        options = ["--model", str(tiny_folder), "--device", "cpu"]
        return CliRunner().invoke(app, ["probe", *map(str, arguments), *options])

    return invoke


class TestCommand:
    def test_one_json_object_the_same_for_the_same_seed(self, run: Any, colors: Path) -> None:
        first, second = (run(colors, "--json", "--shots", "1,4", "--trials", "3", "--seed", "5") for _ in range(2))
        assert first.exit_code == 0, first.stderr
        assert first.stderr == ""
        found, again = (json.loads(result.stdout) for result in (first, second))
        assert found["seconds"].keys() == {"features", "solving"}
        del found["seconds"], again["seconds"]
        assert found == again
        assert (found["train_images"], found["val_images"], found["classes"]) == (24, 9, sorted(CLASSES))
        assert [(row["shots"], row["images"], row["trials"]) for row in found["rows"]] == [
            (1, 3, 3),
            (4, 12, 3),
            ("all", 24, 1),
        ]
        assert found["top1"] > 0.5
        assert found["output"] is None

    def test_table(self, run: Any, colors: Path) -> None:
        result = run(colors, "--neighbors", "3")
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        title, heading, *_ = result.stdout.splitlines()
        assert title.startswith("Top-1 on 9 validation pictures of 3 classes")
        assert heading.split("  ")[-1].strip() == "3 nearest neighbors"
        rows = [line.split() for line in result.stdout.splitlines() if "%" in line]
        assert [row[:2] for row in rows] == [["1", "3"], ["5", "15"], ["all", "24"]]

    def test_what_is_passed_over_is_counted_in_one_line(self, run: Any, colors: Path, tmp_path: Path) -> None:
        data = shutil.copytree(colors, tmp_path / "data")
        (data / "val" / ".hidden").touch()
        (data / "notes.txt").touch()
        (data / "later").mkdir()
        result = run(data, "--shots", "all", "--json")
        assert result.exit_code == 0, result.stderr
        assert result.stderr.endswith(
            "vit-hybrid: passed over: 1 folder that is neither train, val nor test (data/later), 1 hidden "
            "file or folder, 1 file of another kind (1 .txt)\n"
        )

    def test_classify_takes_what_was_written(self, run: Any, colors: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        result = run(colors, "--output", out, "--shots", "all", "--json")
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        found = json.loads(result.stdout)
        assert found["output"] == str(out)
        assert f"pictures of `{colors.name}`" in (out / "README.md").read_text()
        assert json.loads((out / "metrics.json").read_text())["top1"] == found["top1"]
        classified = CliRunner().invoke(
            app, ["classify", str(colors / "val"), "--model", str(out), "--json", "--top-k", "1", "--device", "cpu"]
        )
        assert classified.exit_code == 0, classified.stderr
        records = [json.loads(line) for line in classified.stdout.splitlines()]
        right = [Path(record["path"]).parent.name == record["predictions"][0]["label"] for record in records]
        assert sum(right) / len(right) == pytest.approx(found["top1"])
        sure = sum(record["predictions"][0]["probability"] for record in records) / len(records)
        assert sure == pytest.approx(found["mean_confidence"], abs=1e-4)

        again = run(colors, "--output", out)
        assert again.exit_code == 2
        assert again.stderr.count("\n") == 1
        assert f"{out}: not empty" in again.stderr
        assert run(colors, "--output", out, "--overwrite").exit_code == 0
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_unreadable_pictures_are_listed_or_stop_it(self, run: Any, colors: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        shutil.copytree(colors, data)
        broken = [data / "train" / CLASSES[0] / "0.png", data / "val" / CLASSES[1] / "broken.jpg"]
        for path in broken:
            path.write_bytes(b"no picture")
        result = run(data)
        assert result.exit_code == 0
        lines = result.stderr.splitlines()
        assert len(lines) == 2
        for line, path in zip(sorted(lines), sorted(map(str, broken)), strict=True):
            assert line.startswith(f"vit-hybrid: skipped: {path}: ")
        found = json.loads(run(data, "--json").stdout)
        assert sorted(entry["path"] for entry in found["unreadable"]) == sorted(map(str, broken))
        assert found["train_images"] == 23
        stopped = run(data, "--strict", "--output", tmp_path / "out")
        assert stopped.exit_code == 2
        assert stopped.stderr.count("\n") == 1
        assert str(broken[0]) in stopped.stderr
        assert not (tmp_path / "out").exists()

    def test_a_split_is_made_where_there_is_none(self, run: Any, colors: Path) -> None:
        found = json.loads(run(colors / "train", "--json", "--val-fraction", "0.25").stdout)
        assert (found["train_images"], found["val_images"]) == (18, 6)
        apart = json.loads(run(colors / "train", "--json", "--val", colors / "val").stdout)
        assert (apart["train_images"], apart["val_images"]) == (24, 9)

    @pytest.mark.parametrize(
        ("rows", "kind"),
        [(["red|green", "blue", "red"], "multi label"), ([0.5, 1.25, 3.75], "regression")],
    )
    def test_other_kinds_of_labels(self, run: Any, colors: Path, tmp_path: Path, rows: list[Any], kind: str) -> None:
        paths = sorted((colors / "train" / CLASSES[0]).iterdir())[:3] * 4
        lines = [
            {"path": str(path), "label": label.split("|") if isinstance(label, str) else label}
            for path, label in zip(paths, rows * 4, strict=True)
        ]
        data = tmp_path / "data.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = run(data)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert kind in result.stderr
        assert "one label each" in result.stderr

    def test_one_class_only(self, run: Any, colors: Path, tmp_path: Path) -> None:
        shutil.copytree(colors / "train" / CLASSES[0], tmp_path / "data" / CLASSES[0])
        result = run(tmp_path / "data")
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        assert "one class" in result.stderr

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--shots", "0"], "--shots"),
            (["--shots", "1,many"], "--shots"),
            (["--l2", "-1"], "--l2"),
            (["--l2", "all"], "--l2"),
            (["--val-fraction", "1.5"], "--val-fraction"),
            (["--trials", "0"], "--trials"),
        ],
    )
    def test_options_that_cannot_be(self, run: Any, colors: Path, options: list[str], said: str) -> None:
        result = run(colors, *options)
        assert result.exit_code == 2
        assert said in result.stderr
        assert "Traceback" not in result.stderr

    def test_data_model_and_output_that_are_not_there(self, run: Any, colors: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for arguments, said in (
            ([tmp_path / "nowhere"], "nowhere"),
            ([colors, "--model", tmp_path / "nothing"], "nothing"),
            ([colors, "--output", tmp_path / "file"], "this is a file"),
            ([colors, "--device", "cuda:99"], "cuda:99"),
        ):
            result = CliRunner().invoke(app, ["probe", *map(str, arguments)])
            assert result.exit_code == 2
            assert result.stderr.count("\n") == 1, result.stderr
            assert said in result.stderr

    def test_defaults_are_the_jobs(self) -> None:
        assert (command.DEFAULT_TRIALS, command.DEFAULT_NEIGHBORS) == (job.DEFAULT_TRIALS, job.DEFAULT_NEIGHBORS)


def test_the_built_in_model_on_classes_it_never_saw(data_dir: Path) -> None:
    """A fraction of the pictures, for the time it takes; far above the 10 % of a guess."""
    root = data_dir / "tinyphotos10"
    if not root.is_dir():
        pytest.skip(f"no pictures at {root}")
    split = read_splits(str(root))
    frozen = FrozenModel.from_pretrained(labels=split.train.labels, device="cpu", batch_size=50)
    train, val = (
        frozen.features(part.select(draw_shots(part.targets, 10, 10, np.random.default_rng(0))))
        for part in (split.train, split.val)
    )
    report, _ = probe(train, val, split.train.labels, [])
    assert report["top1"] > 0.2
    assert report["knn_top1"] > 0.2

"""`evaluate` and `vit-hybrid evaluate`: what a model says of labeled pictures, through the very way that classifies."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from vit_hybrid import Predictor, ViTHybridForImageClassification
from vit_hybrid import evaluate as evaluation
from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.cli import output
from vit_hybrid.cli.main import app
from vit_hybrid.cli.scores import MOST_CLASS_ROWS
from vit_hybrid.data import MULTI_LABEL, REGRESSION, SINGLE_LABEL, DataError, read_labeled
from vit_hybrid.data.streams import open_stream
from vit_hybrid.data.targets import MissingSplit
from vit_hybrid.evaluate.pictures import left_out, outputs_called
from vit_hybrid.files import MARK
from vit_hybrid.inference.streaming import Streaming

COLORS = ("red", "green", "blue")
PER_CLASS = 4
FILES = {"metrics.json", "predictions.csv", "mistakes.png", MARK}
FIGURES = {"confusion_matrix.png", "reliability.png", "risk_coverage.png"}
command_module = sys.modules["vit_hybrid.cli.evaluate"]
# Tiny ImageNet's validation pictures that the model in the box is asked about, and the share it knows at least.
SLICE, LEAST_TOP1 = 360, 0.42


def picture(color: str, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 60, (40, 40, 3), dtype=np.uint8)
    return Image.blend(Image.new("RGB", (40, 40), color), Image.fromarray(noise), 0.3)


def save_model(folder: Path, labels: tuple[str, ...] = COLORS, **changes: Any) -> Path:
    return tiny_hybrid.save_decided_model(folder, labels, **changes)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.from_pretrained(model, device="cpu", batch_size=5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures in class folders; only to be read."""
    folder = tmp_path_factory.mktemp("pictures")
    for color in COLORS:
        (folder / color).mkdir()
        for number in range(PER_CLASS):
            picture(color, number).save(folder / color / f"{number}.png")
    return folder


def write_csv(path: Path, pictures: Path, rows: list[list[Any]], head: list[str]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([head, *([str(pictures / row[0]), *row[1:]] for row in rows)])
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def one_object(result: Result) -> dict[str, Any]:
    [line] = result.stdout.splitlines()
    return json.loads(line)


class TestEvaluate:
    def test_is_what_the_predictor_says(self, predictor: Predictor, pictures: Path) -> None:
        found = evaluation.evaluate(predictor, read_labeled(pictures))
        paths = [pictures / color / f"{number}.png" for color in sorted(COLORS) for number in range(PER_CLASS)]
        assert list(found.paths) == list(map(str, paths))
        np.testing.assert_allclose(found.logits, predictor.logits(paths), rtol=0, atol=1e-5)
        assert isinstance(found.logits, np.memmap)  # on the disk, not held
        np.testing.assert_array_equal([*found.probabilities_by_picture()], found.probabilities)
        said = [one[0]["label"] for one in predictor(paths, top_k=1)]
        right = [label == path.parent.name for label, path in zip(said, paths, strict=True)]
        assert found.scores["top1"] == np.mean(right)
        assert 0 < sum(right) < len(right)
        assert found.skipped == ()
        assert found.seconds > 0

    def test_labels_are_matched_by_name(self, predictor: Predictor, pictures: Path) -> None:
        # The folders come in the order of the alphabet, the model's labels do not.
        found = evaluation.evaluate(predictor, read_labeled(pictures))
        assert found.labels == COLORS
        assert [found.labels[target] for target in found.targets] == [
            color for color in sorted(COLORS) for _ in range(PER_CLASS)
        ]

    def test_mistakes_are_the_surest_first(self, predictor: Predictor, pictures: Path) -> None:
        found = evaluation.evaluate(predictor, read_labeled(pictures))
        mistakes = found.mistakes()
        assert len(mistakes) == round((1 - found.scores["top1"]) * len(found.paths))
        sure = [one.probability for one in mistakes]
        assert sure == sorted(sure, reverse=True)
        for one in mistakes:
            [best] = predictor(one.path, top_k=1)
            assert (best["label"], best["probability"]) == (one.predicted, pytest.approx(one.probability, abs=1e-5))
            assert one.truth == Path(one.path).parent.name != one.predicted
        assert found.mistakes(most=1) == mistakes[:1]

    def test_a_model_may_know_more_classes_than_the_data_show(self, pictures: Path, tmp_path: Path) -> None:
        model = save_model(tmp_path / "model", ("red", "purple", "green", "blue"))
        found = evaluation.evaluate(Predictor.from_pretrained(model, device="cpu"), read_labeled(pictures))
        assert found.scores["per_class"]["purple"]["support"] == 0
        assert set(found.targets) == {0, 2, 3}

    def test_bare_integers_are_positions(self, predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
        rows = [[f"{color}/1.png", index] for index, color in enumerate(COLORS)]
        table = write_csv(tmp_path / "data.csv", pictures, rows, ["image", "label"])
        strangers = open_stream([str(pictures / "red")])
        found = evaluation.evaluate(predictor, read_labeled(table), strangers=strangers)
        assert list(found.targets) == [0, 1, 2]
        note, missing = found.notes
        assert missing.startswith("how familiar pictures are was not fitted for this model")
        assert note.endswith("positions among the model's labels: 0 is red, 1 is green, 2 is blue")

    def test_pictures_are_read_batch_by_batch(
        self, predictor: Predictor, pictures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = read_labeled(pictures)
        read: list[int] = []
        seen: list[int] = []
        inner = type(data).source
        monkeypatch.setattr(type(data), "source", lambda self, index: read.append(index) or inner(self, index))
        evaluation.evaluate(predictor, data, progress=lambda _: seen.append(len(read)))
        assert seen[0] == predictor.batch_size < seen[-1] == len(data)

    def test_pictures_of_other_labels_can_be_left_out(self, model: Path, predictor: Predictor, tmp_path: Path) -> None:
        for index, color in enumerate(("red", "green", "violet", "violet", "violet")):
            (tmp_path / color).mkdir(exist_ok=True)
            picture(color, index).save(tmp_path / color / f"{index}.png")
        found = evaluation.evaluate(predictor, evaluation.known_only(read_labeled(tmp_path), predictor.labels))
        assert [Path(path).name for path in found.paths] == ["1.png", "0.png"]
        assert found.notes == ("left out: 3 pictures of labels that the model does not know (violet)",)
        refused = run(model, tmp_path, "--device", "cpu")
        assert refused.exit_code == 2
        assert "violet; the model's are" in refused.stderr
        assert re.search(r"leave their pictures out \((--known-only|known_only=True)\)", refused.stderr)
        report = one_object(run(model, tmp_path, "--known-only", "--json", "--device", "cpu"))
        assert (report["images"], report["notes"]) == (2, list(found.notes))
        (tmp_path / "red" / "0.png").unlink()
        (tmp_path / "green" / "1.png").unlink()
        for color in ("red", "green"):
            (tmp_path / color).rmdir()
        (tmp_path / "other").mkdir()
        picture("red", 0).save(tmp_path / "other" / "0.png")
        nothing = run(model, tmp_path, "--known-only", "--device", "cpu")
        assert nothing.exit_code == 2
        assert "none of the labels other, violet would be left" in nothing.stderr

    @pytest.mark.parametrize(
        ("labels", "reason"),
        [
            (["x", "y", "z"], "labels that the model does not know: x, y, z; the model's are red, green, blue;"),
            (["red", "green", "violet"], "does not know: violet; the model's are red, green, blue;"),
            ([0, 1, 3], "does not know: 0, 1, 3; the model's are red, green, blue;"),
            ([0.5, 1.5, 2.5], "'single_label_classification', but the data's labels are those of 'regression'"),
            (["red|green", "red", "blue"], "but the data's labels are those of 'multi_label_classification'"),
        ],
    )
    def test_data_that_do_not_fit_the_model(
        self, labels: list[Any], reason: str, predictor: Predictor, pictures: Path, tmp_path: Path
    ) -> None:
        rows = [[f"{color}/0.png", label] for color, label in zip(COLORS, labels, strict=True)]
        table = write_csv(tmp_path / "data.csv", pictures, rows, ["image", "label"])
        with pytest.raises(DataError) as caught:
            evaluation.evaluate(predictor, read_labeled(table))
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_spread_takes_of_all_classes(self, pictures: Path) -> None:
        data = read_labeled(pictures)
        assert [data.labels[target] for target in evaluation.spread(data, 3).targets] == sorted(COLORS)
        five = evaluation.spread(data, 5)
        names = [Path(five.name(at)).relative_to(pictures).as_posix() for at in range(5)]
        assert names == ["blue/0.png", "blue/2.png", "green/0.png", "green/3.png", "red/1.png"]  # every 2.4th of 12
        for limit in (12, 13, 1000):
            assert evaluation.spread(data, limit) is data

    def test_of_splits_test_is_preferred(self, pictures: Path, tmp_path: Path) -> None:
        for index, name in enumerate(("train", "val", "test"), start=1):
            for color in COLORS:
                (tmp_path / name / color).mkdir(parents=True)
                for number in range(index):
                    picture(color, number).save(tmp_path / name / color / f"{number}.png")
        for expected, count in (("test", 9), ("val", 6)):
            data, split = evaluation.default_split(tmp_path)
            assert (split, len(data)) == (expected, count)
            assert len(evaluation.default_split(tmp_path, "train")[0]) == 3
            (tmp_path / expected).rename(tmp_path.parent / f"{tmp_path.name}-{expected}")
        assert evaluation.default_split(pictures)[1] is None

    def test_a_split_that_cannot_be_read_is_not_passed_over_for_another(self, pictures: Path, tmp_path: Path) -> None:
        shutil.copytree(pictures, tmp_path / "val")
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / "metadata.csv").write_bytes("file_name,label\ncaf\xe9.png,a\n".encode("cp1252"))
        with pytest.raises(DataError, match=r"test/metadata\.csv: .*UTF-8"):
            evaluation.default_split(tmp_path)

    def test_how_pictures_are_read_is_handed_on_whichever_split_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []

        def read(location: str, split: str | None = None, **options: Any) -> str:
            asked.append((location, split, options))
            if split in ("test", "val", "dev"):
                raise MissingSplit(f"no {split}")
            return "pictures"

        monkeypatch.setattr("vit_hybrid.evaluate.pictures.read_labeled", read)
        how: dict[str, Any] = {"label_column": "what", "held": False}
        for split, preferred, tried in (
            ("train", {}, ["train"]),
            (None, {}, ["test", "val", None]),
            (None, {"preferred": ("dev",)}, ["dev", None]),
        ):
            asked.clear()
            assert evaluation.default_split("data", split, **preferred, **how) == ("pictures", split)
            assert asked == [("data", one, how) for one in tried]

    def test_numbers_are_read_again_as_values_where_they_are_no_classes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        there: list[Any] = []

        def read(location: str, split: str | None, **options: Any) -> Any:
            asked.append((location, split, options))
            if isinstance(there[-1], Exception):
                raise there[-1]
            return SimpleNamespace(targets=np.array(there[-1]))

        monkeypatch.setattr("vit_hybrid.evaluate.pictures.read_labeled", read)
        numbers: Any = SimpleNamespace(labels=("20", "31"), problem_type=SINGLE_LABEL)
        for values, is_read in (
            ([20.0, 31.0, 20.0], True),
            ([31.0, 31.0], True),  # of the other label no picture was left
            ([0.0, 1.0], False),
            (DataError("no values"), False),
        ):
            there.append(values)
            found = evaluation.as_values(numbers, "data", "val", label_column="age")
            assert (found is not numbers) is is_read
        assert asked == [("data", "val", {"problem_type": REGRESSION, "label_column": "age"})] * 4
        asked.clear()
        for labels, problem_type in ((("20", "cat"), SINGLE_LABEL), (("1", "2"), REGRESSION)):
            given: Any = SimpleNamespace(labels=labels, problem_type=problem_type)
            assert evaluation.as_values(given, "data", label_column="age") is given
        assert not asked

    def test_of_many_labels_ten_are_named(self) -> None:
        said = "left out: 1,234 pictures of labels that the model does not know (0, 1, 2, 3, 4, 5, 6, 7, 8, 9{})"
        for count, more in ((10, ""), (11, " and 1 more"), (13, " and 3 more")):
            assert left_out(1234, [str(number) for number in range(count)]) == said.format(more)

    def test_a_damaged_split_is_not_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "test.parquet").write_bytes(b"no parquet")
        (tmp_path / "val.parquet").write_bytes(b"no parquet")
        with pytest.raises(DataError, match=r"test\.parquet: not a parquet file"):
            evaluation.default_split(tmp_path)


def made(problem_type: str, logits: list[list[float]], targets: list[list[float]]) -> evaluation.Evaluation:
    """An evaluation of pictures that stood among others: every second of them."""
    return evaluation.Evaluation(
        problem_type=problem_type,
        labels=("a", "b"),
        scores={},  # type: ignore[typeddict-item]
        paths=tuple(f"{index}.png" for index in range(len(logits))),
        logits=np.array(logits, np.float32),
        targets=np.array(targets, np.float32),
        rows=2 * np.arange(len(logits)),
    )


def test_a_row_says_how_sure_the_model_is_of_its_label_and_of_the_true_one(pictures: Path, tmp_path: Path) -> None:
    found = evaluation.Evaluation(
        problem_type=SINGLE_LABEL,
        labels=("a", "b"),
        scores={"confusion_matrix": None},  # type: ignore[typeddict-item]
        paths=("0.png", "1.png"),
        logits=np.log(np.array([[1, 3], [4, 1]], np.float32)),
        targets=np.array([0, 0]),
        rows=np.arange(2),
        pictures=read_labeled(pictures),
    )
    evaluation.write_files(found, tmp_path / "out")
    assert [list(row.values()) for row in read_csv(tmp_path / "out" / "predictions.csv")] == [
        ["0.png", "a", "b", "0", "0.750000", "0.250000"],
        ["1.png", "a", "a", "1", "0.800000", "0.800000"],
    ]


class TestMistakesOfOtherProblems:
    def test_of_several_labels_the_largest_cross_entropy_comes_first(self) -> None:
        logits = [[3, -3], [-2, 2], [-6, 1], [0, 9], [-0.1, -3]]
        found = made(MULTI_LABEL, logits, [[1, 0], [1, 0], [1, 1], [0, 1], [1, 0]])
        # (log(1 + e^6) + log(1 + e^-1)) / 2 = 3.16, log(1 + e^2) = 2.13, and (log(1 + e^0.1) + log(1 + e^-3)) / 2 =
        # 0.40; an even chance is no yes.
        assert found.mistakes() == [
            evaluation.Mistake(index=4, path="2.png", truth="a|b", predicted="b", probability=None),
            evaluation.Mistake(index=2, path="1.png", truth="a", predicted="b", probability=None),
            evaluation.Mistake(index=8, path="4.png", truth="a", predicted="", probability=None),
        ]
        np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-found.logits)), rtol=1e-6)

    def test_of_values_the_largest_error_in_units_of_each_ones_deviation(self) -> None:
        found = made(REGRESSION, [[1, 0], [2, 250], [1, 100]], [[0, 0], [2, 200], [1, 100]])
        assert [(one.index, one.truth, one.predicted) for one in found.mistakes()] == [
            (0, "0, 0", "1, 0"),
            (2, "2, 200", "2, 250"),
        ]
        np.testing.assert_array_equal(found.probabilities, found.logits)

    def test_a_value_that_is_the_same_of_all_pictures_counts_in_its_own_unit(self) -> None:
        found = made(REGRESSION, [[0, 5.5], [3, 5], [2, 5]], [[0, 5], [1, 5], [2, 5]])
        # Half of (0 + 0.5), and half of 2 / (2 / 3)^0.5.
        assert [one.index for one in found.mistakes()] == [2, 0]
        assert found._badness()[0].tolist() == pytest.approx([0.25, (2 / 3) ** -0.5, 0.0])


class TestOtherProblems:
    def test_multi_label(self, pictures: Path, tmp_path: Path) -> None:
        model = save_model(tmp_path / "model", problem_type=MULTI_LABEL)
        rows = [["red/0.png", "red|blue"], ["green/0.png", "green"], ["blue/0.png", ""], ["red/1.png", "red"]]
        data = tmp_path / "data.jsonl"
        lines = [
            {"image": str(pictures / path), "labels": [one for one in label.split("|") if one]} for path, label in rows
        ]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = run(model, data, "--json", "--device", "cpu", "--output", tmp_path / "out")
        assert (result.exit_code, result.stderr) == (0, "")
        found = one_object(result)
        predictor = Predictor.from_pretrained(model, device="cpu")
        said = [
            {one["label"] for one in ranked if one["probability"] > 0.5}
            for ranked in predictor([pictures / row[0] for row in rows])
        ]
        truth = [set(filter(None, row[1].split("|"))) for row in rows]
        assert found["exact_match"] == np.mean([one == other for one, other in zip(said, truth, strict=True)])
        right = [(label in one) == (label in other) for one, other in zip(said, truth, strict=True) for label in COLORS]
        assert found["hamming_accuracy"] == pytest.approx(np.mean(right))
        assert 0 <= found["mean_average_precision"] <= 1
        assert list(found["per_label"]) == list(COLORS)
        table = read_csv(tmp_path / "out" / "predictions.csv")
        assert [set(filter(None, row["truth"].split("|"))) for row in table] == truth
        assert [set(filter(None, row["predicted"].split("|"))) for row in table] == said
        assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"reliability.png"}
        text = run(model, data, "--device", "cpu").stdout
        assert "mean average precision" in text
        assert "Each label" in text

    @pytest.mark.parametrize("ages", [[20.5, 31.25, 40.0], [20, 31, 40]], ids=["fractions", "whole"])
    def test_regression(self, ages: list[float], pictures: Path, tmp_path: Path) -> None:
        model = save_model(tmp_path / "model", ("LABEL_0",), problem_type=REGRESSION)
        rows = [[f"{color}/0.png", age] for color, age in zip(COLORS, ages, strict=True)]
        data = write_csv(tmp_path / "data.csv", pictures, rows, ["image", "label"])
        result = run(model, data, "--json", "--device", "cpu", "--output", tmp_path / "out")
        assert (result.exit_code, result.stderr) == (0, "")
        found = one_object(result)
        values = Predictor.from_pretrained(model, device="cpu").logits([pictures / row[0] for row in rows])[:, 0]
        errors = values - np.array(ages)
        assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
        assert found["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
        assert found["r2"] == pytest.approx(
            1 - (errors**2).sum() / ((np.array(ages) - np.mean(ages)) ** 2).sum(), rel=1e-4
        )
        assert found["labels"] == ["label"]
        table = read_csv(tmp_path / "out" / "predictions.csv")
        assert [float(row["label truth"]) for row in table] == ages
        assert [float(row["label predicted"]) for row in table] == pytest.approx(values.tolist(), abs=1e-4)
        assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
        assert "calibration" not in found
        assert "RMSE" in run(model, data, "--device", "cpu").stdout

    def test_values_are_called_what_the_data_calls_them_unless_the_model_knows_better(self) -> None:
        for used, labels, called in (
            (["age"], ["age"], ["age"]),
            (["LABEL_0"], ["LABEL_0", "of which there is none"], ["LABEL_0"]),
        ):
            assert outputs_called(REGRESSION, ["LABEL_0"], used, labels) == (called, [])

    def test_class_folders_are_no_values(self, pictures: Path, tmp_path: Path) -> None:
        model = save_model(tmp_path / "model", ("LABEL_0",), problem_type=REGRESSION)
        for age in ("20", "31"):
            (tmp_path / "data" / age).mkdir(parents=True)
            picture("red", 0).save(tmp_path / "data" / age / "1.png")
        result = run(model, tmp_path / "data")
        assert result.exit_code == 2
        assert "problem_type is 'regression', but the data's labels are those of 'single_label" in result.stderr


class TestCommand:
    def test_what_is_passed_over_is_counted_in_one_line(self, model: Path, pictures: Path, tmp_path: Path) -> None:
        data = shutil.copytree(pictures, tmp_path / "data")
        (data / "red" / "a.HEIC.txt").touch()
        (data / "old").mkdir()
        (data / "old" / "written-by-vit-hybrid.txt").touch()
        (data / "old" / "mistakes.png").touch()
        for form in ([], ["--json"]):
            result = run(model, data, *form, "--device", "cpu")
            assert result.exit_code == 0, result.stderr
            assert result.stderr == (
                "vit-hybrid: passed over: 1 result of vit-hybrid (data/old), 1 file of another kind (1 .txt)\n"
            )

    def test_json_is_one_object(self, model: Path, predictor: Predictor, pictures: Path) -> None:
        result = run(model, pictures, "--json", "--device", "cpu")
        assert (result.exit_code, result.stderr) == (0, "")
        found = one_object(result)
        assert (found["model"], found["data"], found["split"]) == (str(model), str(pictures), None)
        assert (found["images"], found["skipped"], found["unreadable"]) == (12, 0, [])
        expected = evaluation.evaluate(predictor, read_labeled(pictures)).scores
        for name, value in expected.items():
            if not isinstance(value, float):
                assert found[name] == value, name
            else:
                assert found[name] == pytest.approx(value, abs=1e-5), name
        assert found["top5"] == 1.0
        assert sum(map(sum, found["confusion_matrix"])) == 12

    def test_tables(self, model: Path, pictures: Path) -> None:
        result = run(model, pictures, "--device", "cpu")
        found = one_object(run(model, pictures, "--json", "--device", "cpu"))
        assert (result.exit_code, result.stderr) == (0, "")
        lines = [line.split() for line in result.stdout.splitlines()]
        assert ["top-1", f"{found['top1']:.2%}"] in lines
        for name, counts in zip(found["labels"], found["confusion_matrix"], strict=True):
            assert [name, *map(str, counts)] in lines
        [worst, *_] = found["most_confused"]
        assert [worst["truth"], worst["predicted"], str(worst["count"]), f"{worst['share']:.2%}"] in lines
        assert "\x1b" not in result.stdout

    def test_output_holds_everything(self, model: Path, pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "out"
        result = run(model, pictures, "--json", "--output", out, "--device", "cpu")
        assert result.exit_code == 0
        assert {path.name for path in out.iterdir()} == FILES | FIGURES
        assert json.loads((out / "metrics.json").read_text()) == one_object(result)
        rows = read_csv(out / "predictions.csv")
        assert np.mean([int(row["correct"]) for row in rows]) == one_object(result)["top1"]
        assert all((row["truth"] == row["predicted"]) == (row["correct"] == "1") for row in rows)
        for name in ("mistakes.png", *FIGURES):
            with Image.open(out / name) as image:
                image.load()
        assert run(model, pictures, "--output", out, "--limit", "2", "--device", "cpu").exit_code == 0
        assert json.loads((out / "metrics.json").read_text())["images"] == 2

    def test_nothing_is_written_unasked(self, model: Path, pictures: Path, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        assert run(model, pictures, "--device", "cpu").exit_code == 0
        assert not list(tmp_path.iterdir())

    def test_batch_size_and_dtype_reach_the_predictor(self, model: Path, pictures: Path, monkeypatch: Any) -> None:
        seen: list[Predictor] = []
        stream = Predictor.stream_logits
        monkeypatch.setattr(
            Predictor, "stream_logits", lambda self, *rest, **how: seen.append(self) or stream(self, *rest, **how)
        )
        result = run(model, pictures, "--device", "cpu", "--dtype", "bfloat16", "--batch-size", "3")
        assert result.exit_code == 0
        assert (seen[0].model.dtype, seen[0].batch_size) == (torch.bfloat16, 3)

    def test_columns(self, model: Path, pictures: Path, tmp_path: Path) -> None:
        rows = [[f"{color}/0.png", "other", color] for color in COLORS]
        data = write_csv(tmp_path / "data.csv", pictures, rows, ["where", "label", "what"])
        assert run(model, data).exit_code == 2
        result = run(model, data, "--image-column", "where", "--label-column", "what", "--json", "--device", "cpu")
        assert result.exit_code == 0, result.stderr
        assert one_object(result)["images"] == 3

    def test_a_model_of_many_classes(self, pictures: Path, tmp_path: Path) -> None:
        names = (*COLORS, *(f"class {index}" for index in range(MOST_CLASS_ROWS)))
        result = run(save_model(tmp_path, names), pictures, "--device", "cpu")
        assert result.exit_code == 0, result.stderr
        assert "The 3 of 43 classes of lowest recall" in result.stdout
        assert "Confusion matrix" not in result.stdout


class TestUnreadable:
    @pytest.fixture
    def data(self, pictures: Path, tmp_path: Path) -> Path:
        rows = [["red/0.png", "red"], ["gone.png", "red"], ["blue/0.png", "blue"], ["broken.png", "blue"]]
        (tmp_path / "broken.png").write_bytes((pictures / "red" / "0.png").read_bytes()[:200])
        rows[3][0] = str(tmp_path / "broken.png")
        return write_csv(tmp_path / "data.csv", pictures, rows, ["image", "label"])

    def test_are_skipped_and_listed(self, model: Path, data: Path, pictures: Path) -> None:
        result = run(model, data, "--device", "cpu")
        assert result.exit_code == 1
        gone, broken, passed = result.stderr.splitlines()
        assert passed.startswith("vit-hybrid: passed over: 2 pictures that cannot be read (")
        assert gone == f"vit-hybrid: {pictures / 'gone.png'}: no such file"
        assert broken.startswith(f"vit-hybrid: {data.parent / 'broken.png'}: is truncated")
        assert ["skipped", "2"] in [line.split() for line in result.stdout.splitlines()]

    def test_many_are_told_in_one_line(self, model: Path, pictures: Path, tmp_path: Path) -> None:
        rows = [["red/0.png", "red"], *([f"gone{number}.png", "red"] for number in range(7))]
        data = write_csv(tmp_path / "data.csv", pictures, rows, ["image", "label"])
        *named, rest, _ = run(model, data, "--device", "cpu").stderr.splitlines()
        assert named == [f"vit-hybrid: {pictures / f'gone{number}.png'}: no such file" for number in range(5)]
        assert rest == "vit-hybrid: 7 of 8 pictures cannot be read, all because: no such file"

    def test_are_part_of_the_object(self, model: Path, data: Path, pictures: Path) -> None:
        result = run(model, data, "--json", "--device", "cpu")
        assert result.exit_code == 1
        [passed] = result.stderr.splitlines()
        assert passed.startswith("vit-hybrid: passed over: 2 pictures that cannot be read (")
        found = one_object(result)
        assert (found["images"], found["skipped"]) == (2, 2)
        assert [one["path"] for one in found["unreadable"]] == [
            str(pictures / "gone.png"),
            str(data.parent / "broken.png"),
        ]
        assert {name: one["support"] for name, one in found["per_class"].items()} == {"red": 1, "green": 0, "blue": 1}

    @pytest.mark.parametrize("at_once", [2, 256])
    def test_the_others_keep_their_labels(
        self, at_once: int, predictor: Predictor, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those before a picture that cannot be read, and those behind it, however many are assessed together."""
        monkeypatch.setattr("vit_hybrid.evaluate.job.AT_ONCE", at_once)
        names = ["red/0", "gone/0", "blue/0", "green/0", "gone/1", "green/1", "red/1"]
        rows = [[f"{name}.png", "blue" if "gone" in name else name.split("/")[0]] for name in names]
        data = read_labeled(write_csv(tmp_path / "data.csv", pictures, rows, ["image", "label"]))
        told: list[Any] = []
        found = evaluation.evaluate(predictor, data, progress=told.append)
        left = [row for row in rows if "gone" not in row[0]]
        assert [found.labels[target] for target in found.targets] == [truth for _, truth in left]
        assert found.rows.tolist() == [0, 2, 3, 5, 6]
        assert sorted(map(str, filter(None, told))) == sorted(map(str, found.skipped))
        assert data.passed.line().startswith("passed over: 2 pictures that cannot be read (")
        assert len(told) == len(rows)
        supports = {name: one["support"] for name, one in found.scores["per_class"].items()}
        assert supports == {"red": 2, "green": 2, "blue": 1}
        said = [one[0]["label"] for one in predictor([pictures / path for path, _ in left], top_k=1)]
        assert found.scores["top1"] == np.mean([one == truth for one, (_, truth) in zip(said, left, strict=True)])
        assert found.assessment["risk_coverage"][-1] == (1.0, found.scores["top1"])
        for one in found.mistakes():
            assert data.name(one.index) == one.path
            assert one.truth == Path(one.path).parent.name

        evaluation.write_files(found, tmp_path / "out")
        table = read_csv(tmp_path / "out" / "predictions.csv")
        assert [(row["path"], row["truth"]) for row in table] == [(str(pictures / path), truth) for path, truth in left]
        assert [row["predicted"] for row in table] == said
        for row in table:
            certain = {one["label"]: one["probability"] for one in predictor(row["path"])}
            assert float(row["probability"]) == pytest.approx(certain[row["predicted"]], abs=2e-5)
            assert float(row["probability_of_truth"]) == pytest.approx(certain[row["truth"]], abs=2e-5)

    def test_are_counted_apart_from_those_that_were_read(self, predictor: Predictor, data: Path) -> None:
        found = evaluation.evaluate(predictor, read_labeled(data))
        some = dataclasses.replace(found, skipped=found.skipped[:1], unreadable_strangers=found.skipped)
        report = some.report()  # of which strangers are none
        assert (report["images"], report["skipped"], len(report["unreadable"])) == (2, 1, 1)
        assert "strangers" not in report
        keys = [*report]  # scores come before how far they can be trusted
        assert keys.index("images") < keys.index("top1") < keys.index("calibration") < keys.index("unreadable")
        known: Any = {**found.assessment, "strangers": {"images": 7}}
        report = dataclasses.replace(some, assessment=known).report()
        assert (report["images"], report["skipped"], len(report["unreadable"])) == (2, 1, 1)
        assert report["strangers"] == {"images": 7, "unreadable": [*map(dict, found.skipped)]}

    def test_strict_stops(self, model: Path, data: Path, pictures: Path) -> None:
        for form in ([], ["--json"]):
            result = run(model, data, "--strict", *form, "--device", "cpu")
            assert (result.exit_code, result.stdout) == (2, "")
            assert result.stderr == f"vit-hybrid: {pictures / 'gone.png'}: no such file\n"

    def test_strict_stops_in_python_whoever_is_told(self, predictor: Predictor, data: Path) -> None:
        told: list[Any] = []
        for progress, before in ((None, []), (told.append, [None])):
            with pytest.raises(DataError, match=r"gone\.png: no such file"):
                evaluation.evaluate(predictor, read_labeled(data), strict=True, progress=progress)
            assert told == before  # of the picture before that one

    def test_none_that_can_be_read(self, model: Path, predictor: Predictor, tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"no picture")
        rows = [["broken.png", "red"], ["gone.png", "red"]]
        data = write_csv(tmp_path / "data.csv", tmp_path, rows, ["image", "label"])
        result = run(model, data, "--json", "--device", "cpu")
        assert (result.exit_code, result.stdout) == (2, "")
        why = f"none of the 2 pictures can be scored: {tmp_path / 'broken.png'}: "
        assert why in result.stderr
        with pytest.raises(DataError, match=f"^{re.escape(why)}"):
            evaluation.evaluate(predictor, read_labeled(data))

    def test_outputs_that_are_no_numbers(self, pictures: Path, tmp_path: Path) -> None:
        model = ViTHybridForImageClassification.from_pretrained(save_model(tmp_path))
        with torch.no_grad():
            model.classifier.bias.fill_(float("nan"))
        model.save_pretrained(tmp_path)
        result = run(tmp_path, pictures, "--json", "--device", "cpu")
        assert result.exit_code == 2
        assert "outputs are not finite numbers" in result.stderr


class TestFilesThatCannotBeWritten:
    """What is there of an earlier evaluation stays whole."""

    class FullDisk(tuple):
        """Paths behind whose second the disk is full."""

        def __iter__(self) -> Any:
            yield from self[:2]
            raise OSError(28, "No space left on device")

    def test_the_old_table_stays(self, predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
        found = evaluation.evaluate(predictor, read_labeled(pictures))
        evaluation.write_files(found, tmp_path)
        before = (tmp_path / "predictions.csv").read_bytes()
        with pytest.raises(OSError, match="No space left"):
            evaluation.write_files(dataclasses.replace(found, paths=self.FullDisk(found.paths)), tmp_path)
        assert (tmp_path / "predictions.csv").read_bytes() == before
        assert {path.name for path in tmp_path.iterdir()} >= FILES | FIGURES
        assert not [path for path in tmp_path.iterdir() if "partial" in path.name]

    def test_the_old_metrics_stay(self, predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
        found = evaluation.evaluate(predictor, read_labeled(pictures))
        evaluation.write_files(found, tmp_path)
        before = (tmp_path / "metrics.json").read_bytes()
        with pytest.raises(ValueError, match="not JSON compliant"):
            evaluation.write_files(found, tmp_path, {"seconds so far": float("nan")})
        assert (tmp_path / "metrics.json").read_bytes() == before

    def test_no_half_of_a_table_is_left(self, predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
        found = evaluation.evaluate(predictor, read_labeled(pictures))
        with pytest.raises(OSError, match="No space left"):
            evaluation.write_files(dataclasses.replace(found, paths=self.FullDisk(found.paths)), tmp_path)
        assert not (tmp_path / "predictions.csv").exists()


class TestDryRun:
    def test_says_what_there_is_and_opens_no_model(self, pictures: Path, tmp_path: Path) -> None:
        data = Path(shutil.copytree(pictures, tmp_path / "data"))
        for color in COLORS[:2]:
            (data / color / "0.png").write_bytes(b"no picture")
        result = run(tmp_path / "no model", data, "--dry-run", "--output", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith("data: blue 4, green 4, red 4\n")
        assert result.stderr.startswith("vit-hybrid: passed over: 2 pictures that cannot be read (")
        found = one_object(run(tmp_path / "no model", data, "--dry-run", "--json"))
        assert (found["images"], found["labels"]) == (12, {"blue": 4, "green": 4, "red": 4})
        assert (found["data"], found["split"]) == (str(data), None)
        assert not (tmp_path / "out").exists()

    def test_says_which_split_it_would_measure_on(self, pictures: Path, tmp_path: Path) -> None:
        for split in ("val", "test"):
            shutil.copytree(pictures, tmp_path / "data" / split)
        for options, split in (((), "test"), (("--split", "val"), "val")):
            shown = run("no/model", tmp_path / "data", "--dry-run", *options)
            assert shown.exit_code == 0, shown.output
            assert shown.stdout.startswith(f"{split}: 12 pictures of 3 classes from the folders in ")
            assert shown.stdout.endswith(f"data/{split}: blue 4, green 4, red 4\n")
            assert one_object(run("no/model", tmp_path / "data", "--dry-run", "--json", *options))["split"] == split

    def test_counts_what_a_model_that_is_here_could_make_nothing_of(
        self, model: Path, pictures: Path, tmp_path: Path
    ) -> None:
        data = Path(shutil.copytree(pictures, tmp_path / "data"))
        Image.new("L", (1, 90_000)).save(data / COLORS[0] / "strip.png")
        result = run(model, data, "--dry-run")
        assert (result.exit_code, result.stderr) == (
            0,
            f"vit-hybrid: passed over: 1 picture that cannot be read ({COLORS[0]}/strip.png)\n",
        )


class TestPlacesOfResults:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        for color in COLORS:
            (tmp_path / "data" / color).mkdir(parents=True)
            for number in range(2):
                picture(color, number).save(tmp_path / "data" / color / f"{number}.png")
        return tmp_path / "data"

    def test_within_the_data_are_no_class(self, predictor: Predictor, data: Path) -> None:
        for _ in range(2):
            found = evaluation.evaluate(predictor, read_labeled(data))
            assert found.report()["images"] == 6
            evaluation.write_files(found, data / "results" / "today")
        assert read_labeled(data).passed.line().startswith("passed over: 1 ")
        mark = data / "results" / "today" / MARK
        mark.unlink()
        evaluation.write_files(found, mark.parent)
        assert mark.exists()  # for the pictures there are its own

    def test_among_the_pictures_leave_these_pictures(self, predictor: Predictor, data: Path) -> None:
        evaluation.write_files(evaluation.evaluate(predictor, read_labeled(data)), data / "red")
        assert set(read_labeled(data).labels) == set(COLORS)

    def test_are_no_empty_folders_where_nothing_was_written(self, data: Path, tmp_path: Path) -> None:
        assert run(tmp_path / "no model", data, "--output", data / "results" / "today").exit_code == 2
        assert sorted(path.name for path in data.iterdir()) == sorted(COLORS)

    @pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
    def test_names_that_are_no_utf_8_are_escaped(self, predictor: Predictor, data: Path, tmp_path: Path) -> None:
        for name in (b"caf\xe9.png", b"\xff.png"):
            os.link(data / "red" / "0.png", os.fsencode(data / "green") + b"/" + name)
        with open(os.fsencode(data / "red") + b"/\xe9t\xe9.png", "wb") as file:
            file.write(b"no picture")
        found = evaluation.evaluate(predictor, read_labeled(data))
        evaluation.write_files(found, tmp_path / "out", {"data": os.fsdecode(b"donn\xe9es")})
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["data"] == r"donn\xe9es"
        assert metrics["unreadable"][0]["path"] == str(data / "red" / r"\xe9t\xe9.png")
        paths = [row["path"] for row in read_csv(tmp_path / "out" / "predictions.csv")]
        assert {str(data / "green" / r"caf\xe9.png"), str(data / "green" / r"\xff.png")} <= set(paths)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--batch-size", "0"], "--batch-size"),
            (["--limit", "0"], "--limit"),
            (["--dtype", "int8"], "--dtype"),
            (["--device", "nowhere"], "Device 'nowhere' cannot be used here"),
            (["--split", "holdout"], "no split 'holdout'"),
            (["--nonsense"], "--nonsense"),
        ],
    )
    def test_wrong_usage_is_status_2(self, options: list[str], reason: str, model: Path, pictures: Path) -> None:
        result = run(model, pictures, *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert reason in result.stderr
        assert "Traceback" not in result.stderr

    def test_data_or_model_that_are_not_there(self, model: Path, pictures: Path, tmp_path: Path) -> None:
        for arguments in ([model, tmp_path / "gone"], [model, tmp_path], [tmp_path / "gone", pictures]):
            result = run(*arguments)
            assert (result.exit_code, result.stdout) == (2, "")
            [line] = result.stderr.splitlines()
            assert line.startswith(f"vit-hybrid: {tmp_path}")

    def test_an_output_that_is_a_file(self, model: Path, pictures: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("")
        result = run(model, pictures, "--output", tmp_path / "out")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"vit-hybrid: {tmp_path / 'out'}: File exists\n"

    @pytest.mark.parametrize("library", ["torchmetrics", "matplotlib"])
    def test_a_missing_library_is_named_with_its_extra(
        self, library: str, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluations = [name for name in sys.modules if name.startswith("vit_hybrid.evaluate")]
        for name in ("vit_hybrid.outputs.scores", "vit_hybrid.outputs.figures", *evaluations):
            folder, _, file = name.rpartition(".")
            monkeypatch.delattr(sys.modules[folder], file)
        for name in ("vit_hybrid.outputs.scores", "vit_hybrid.outputs.figures", *evaluations):
            monkeypatch.delitem(sys.modules, name)
        for name in (library, f"{library}.functional"):
            monkeypatch.setitem(sys.modules, name, None)
        result = run(model, pictures)
        assert (result.exit_code, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert line.endswith(f" need {library}: pip install 'vit-hybrid[evaluate]'")

    def test_too_little_memory(self, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(Streaming, "forward", failing)
        result = run(model, pictures, "--batch-size", "7")
        assert result.exit_code == 2
        assert "too little memory for 7 images at once" in result.stderr


def test_progress_counts_every_picture(model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    class Bar(output.ProgressBar):
        def __init__(self, total: int, doing: str) -> None:
            super().__init__(total, doing)
            self.seen: list[Any] = [total, doing]
            bars.append(self)

        def advance(self, count: int = 1) -> None:
            super().advance(count)
            self.seen.append(count)

        def close(self) -> None:
            super().close()
            self.seen.append("close")

    monkeypatch.setattr(command_module, "ProgressBar", Bar)
    assert run(model, pictures, "--device", "cpu").exit_code == 0
    [bar] = bars
    assert bar.seen == [12, "Evaluating", *[1] * 12, "close"]


class TestModelInTheBox:
    def test_knows_a_slice_of_tiny_imagenet(self, data_dir: Path) -> None:
        source = data_dir / "tiny-imagenet-200"
        if not source.is_dir():
            pytest.skip(f"no Tiny ImageNet at {source}")
        result = run(BUILT_IN_MODEL, source, "--known-only", "--limit", str(SLICE), "--json", "--device", "cpu")
        assert result.exit_code == 0, result.stderr
        found = one_object(result)
        assert (found["images"], found["split"]) == (SLICE, "val")
        assert LEAST_TOP1 < found["top1"] < found["top5"] <= 1
        assert found["expected_calibration_error"] < 0.3
        assert all(one["support"] > 0 for one in found["per_class"].values())

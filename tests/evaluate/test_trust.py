"""How far answers can be trusted: what `vit-hybrid evaluate` says of a model that was calibrated, and of strangers."""

from __future__ import annotations

import csv
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
from PIL import Image
from sklearn import metrics
from typer.testing import CliRunner

from vit_hybrid import Predictor
from vit_hybrid.cli.main import app
from vit_hybrid.cli.options import ConfidenceOptions
from vit_hybrid.data import MULTI_LABEL, REGRESSION, SINGLE_LABEL, read_labeled
from vit_hybrid.data.streams import open_stream
from vit_hybrid.evaluate import evaluate, measure
from vit_hybrid.inference.calibrating import over
from vit_hybrid.outputs import confidence, reliability, strangers
from vit_hybrid.outputs.ranking import softmax
from vit_hybrid.predict.job import predict

LABELS = ("red", "green", "blue")
A_CLASS, STRANGERS = 30, 15
PLAIN = {"calibration", "risk_coverage", "answers"}


def picture(rng: np.random.Generator, channel: int) -> Image.Image:
    levels = rng.integers(0, 150, (20, 20, 3), dtype=np.uint8)
    levels[..., channel] += 40
    return Image.fromarray(levels)


def save_model(folder: Path, labels: tuple[str, ...] = LABELS, problem_type: str = SINGLE_LABEL) -> Path:
    return tiny_hybrid.save_decided_model(folder, labels, problem_type=problem_type)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders in pictures/val, to be calibrated on, and pictures/test; and strangers/; only to be read."""
    folder = tmp_path_factory.mktemp("trust")
    rng = np.random.default_rng(0)
    for split in ("val", "test"):
        for channel, label in enumerate(LABELS):
            (folder / "pictures" / split / label).mkdir(parents=True)
            for number in range(A_CLASS):
                shown = channel if number % 4 else (channel + 1) % 3
                picture(rng, shown).save(folder / "pictures" / split / label / f"{number:02}.png")
    (folder / "strangers" / "deeper").mkdir(parents=True)
    for number in range(STRANGERS):
        gray = Image.new("RGB", (20, 20), (8 * number + 60,) * 3)
        gray.save(folder / "strangers" / ("deeper" if number % 2 else "") / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return save_model(place / "model")


@pytest.fixture(scope="module")
def calibrated(model: Path, place: Path) -> Path:
    folder = Path(shutil.copytree(model, place / "calibrated"))
    result = CliRunner().invoke(
        app, ["calibrate", str(folder), str(place / "pictures"), "--engine", "torch", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    return folder


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--engine", "torch", "--device", "cpu"])


def found_by(*arguments: Any) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    [line] = result.stdout.splitlines()
    return json.loads(line)


def test_what_a_calibrated_model_is_worth(calibrated: Path, place: Path) -> None:
    data = place / "pictures"
    found = found_by(calibrated, data, "--strangers", place / "strangers", "--coverage", 0.8, "--false-alarms", 0.2)
    predictor = Predictor.from_pretrained(calibrated, engine="torch", device="cpu", output="all", confidence=False)
    fitted = confidence.read(calibrated)
    pictures = read_labeled(data, "test").with_labels(LABELS)
    paths = [pictures.name(index) for index in range(len(pictures))]
    known: list[Any] = list(over(predictor, paths))
    others: list[Any] = list(over(predictor, sorted(map(str, (place / "strangers").rglob("*.png")))))
    outputs = {
        name: [np.stack([one[name] for one in them]) for them in (known, others)]
        for name in ("logits", "token", "statistics")
    }
    logits, targets = outputs["logits"][0], pictures.targets
    for when, probabilities in (
        ("before", softmax(logits.astype(np.float64))),
        ("after", softmax(logits.astype(np.float64) / fitted.temperature)),
    ):
        one = found["calibration"][when]
        assert one["negative_log_likelihood"] == pytest.approx(metrics.log_loss(targets, probabilities), abs=1e-4)
        assert one["brier_score"] == pytest.approx(reliability.brier_score(probabilities, targets), abs=1e-4)
    assert found["negative_log_likelihood"] == pytest.approx(
        found["calibration"]["before"]["negative_log_likelihood"], abs=1e-9
    )
    inside = fitted.contain(logits, 0.8)
    held = inside[np.arange(len(targets)), targets]
    assert (found["sets"]["coverage"], found["sets"]["method"]) == (0.8, "lac")
    assert found["sets"]["measured_coverage"] == pytest.approx(held.mean())
    for label, name in enumerate(LABELS):
        own = found["sets"]["per_class"][name]
        assert own["coverage"] == pytest.approx(held[targets == label].mean())
        assert own["mean_size"] == pytest.approx(inside[targets == label].sum(axis=1).mean())
    familiar = [
        fitted.familiar(*(outputs[name][which] for name in ("token", "logits", "statistics"))) for which in (0, 1)
    ]
    assert found["none_of_these"] == {"false_alarms": 0.2, "share": pytest.approx(np.mean(familiar[0] < 0.2))}
    told = found["strangers"]
    assert (told["images"], told["unreadable"]) == (STRANGERS, [])
    assert told["share_none_of_these"] == pytest.approx(np.mean(familiar[1] < 0.2))
    truth = np.repeat([0, 1], [len(targets), STRANGERS])
    unsure = np.concatenate([strangers.unsure(one) for one in outputs["logits"]])
    assert told["scores"]["softmax"]["auroc"] == pytest.approx(metrics.roc_auc_score(truth, unsure), abs=0.01)
    assert told["scores"]["pixels"]["auroc"] > 0.99  # gray has no edges
    assert set(told["scores"]) >= {"relative mahalanobis", "nearest neighbors", "generalized entropy", "combination"}
    assert found["notes"] == []


def test_verdicts_are_those_of_classify(calibrated: Path, place: Path) -> None:
    """Of sets, of what is none of these, and of probabilities."""
    arguments = ["classify", str(place / "pictures" / "test"), "--model", str(calibrated), "--json", "--top-k", "1"]
    result = CliRunner().invoke(app, [*arguments, "--engine", "torch", "--device", "cpu"])
    said = {one["path"]: one for one in map(json.loads, result.stdout.splitlines())}
    found = found_by(calibrated, place / "pictures", "--output", place / "out")
    truth = {path: Path(path).parent.name for path in said}
    assert found["sets"]["measured_coverage"] == np.mean([truth[path] in one["set"] for path, one in said.items()])
    assert found["sets"]["mean_size"] == pytest.approx(np.mean([len(one["set"]) for one in said.values()]))
    assert found["none_of_these"]["share"] == np.mean([one["none_of_these"] for one in said.values()])
    with open(place / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(said) == 3 * A_CLASS
    for row in rows:
        [best] = said[row["path"]]["predictions"]
        assert row["predicted"] == best["label"]
        assert float(row["probability"]) == pytest.approx(best["probability"], abs=1e-5)


def test_the_tables_say_it(calibrated: Path, place: Path) -> None:
    arguments = (calibrated, place / "pictures", "--strangers", place / "strangers")
    text, found = run(*arguments).stdout, found_by(*arguments)
    lines = [line.strip() for line in text.splitlines()]
    words = [line.split() for line in lines]
    errors = [f"{found['calibration'][when]['calibration_error']:.2%}" for when in ("before", "after")]
    assert ["calibration", "error,", "bins", "of", "equal", "width", *errors] in words
    for one in found["answers"]:
        begins = f"to be right {100 * one['accuracy']:g} % of the time, answer "
        [line] = [line for line in lines if line.startswith(begins)]
        if one["share"] is None:
            assert line == f"{begins}none: even of the surest more are wrong"
        else:
            assert line.startswith(f"{begins}{100 * one['share']:.0f} % of the pictures (from ")
    own = found["sets"]["per_class"]["green"]
    assert any(f"{own['coverage']:.2%}" in line and line.startswith("green") for line in lines)
    sets = found["sets"]
    low, high = (100 * share for share in sets["promised"])
    assert (
        f"LAC sets of 90 % hold the truth of {100 * sets['measured_coverage']:.1f} % ({low:.1f} to {high:.1f} % "
        f"promised), with {sets['mean_size']:.1f} labels on average"
    ) in lines
    none, called = found["none_of_these"]["share"], found["strangers"]["share_none_of_these"]
    assert f"{100 * none:.1f} % of the pictures are called none of these (--false-alarms 0.05)" in lines
    assert f"{100 * called:.1f} % of them are called none of these" in lines
    combined = found["strangers"]["scores"]["combination"]
    numbers = [f"{combined[key]:.2%}" for key in ("auroc", "aupr", "false_positive_rate_at_95")]
    assert ["combination", *numbers] in words
    assert f"{STRANGERS} strangers" in lines


def test_figures_are_written(calibrated: Path, place: Path, tmp_path: Path) -> None:
    assert run(calibrated, place / "pictures", "--output", tmp_path / "out").exit_code == 0
    for name in ("reliability.png", "risk_coverage.png"):
        with Image.open(tmp_path / "out" / name) as image:
            image.load()
    assert "calibration" in json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert run(calibrated, tmp_path / "out", "--dry-run").exit_code == 2  # they are no pictures of a class


def test_without_confidence_there_is_what_the_model_says_alone(model: Path, calibrated: Path, place: Path) -> None:
    plain = found_by(model, place / "pictures")
    assert list(plain["calibration"]) == ["before"]
    assert set(plain) >= PLAIN
    assert not {"sets", "none_of_these", "strangers"} & set(plain)
    left = found_by(calibrated, place / "pictures", "--uncalibrated")
    different = {name for name in plain if plain[name] != left[name]}
    assert different <= {"model", "seconds", "images_per_second"}
    told = found_by(model, place / "pictures", "--strangers", place / "strangers")
    assert set(told["strangers"]["scores"]) == {"softmax", "generalized entropy"}
    assert told["strangers"]["share_none_of_these"] is None
    assert "was not fitted for this model" in told["notes"][0]
    shown = run(model, place / "pictures", "--strangers", place / "strangers")
    assert shown.stderr.splitlines() == [f"vit-hybrid: {note}" for note in told["notes"]]
    assert "are called none of these" not in shown.stdout
    assert "calibration" in run(model, place / "pictures").stdout


def test_strangers_that_cannot_be_read_are_named(calibrated: Path, place: Path, tmp_path: Path) -> None:
    some = Path(shutil.copytree(place / "strangers", tmp_path / "some"))
    (some / "broken.png").write_bytes(b"no picture")
    arguments = (calibrated, place / "pictures", "--strangers", some)
    result = run(*arguments, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)["strangers"]
    assert (told["images"], [one["path"] for one in told["unreadable"]]) == (STRANGERS, [str(some / "broken.png")])
    assert "passed over: 1 picture that cannot be read" in result.stderr
    shown = run(*arguments)
    assert f"{some / 'broken.png'}: " in shown.stderr
    strict = run(*arguments, "--strict")
    assert (strict.exit_code, strict.stdout) == (2, "")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "broken.png").write_bytes(b"no picture")
    nothing = run(calibrated, place / "pictures", "--strangers", tmp_path / "none", "--output", tmp_path / "out")
    assert (nothing.exit_code, nothing.stdout) == (2, "")
    assert "none of the 1 strangers can be looked at: " in nothing.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_asked_for(calibrated: Path, place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for options, reason in (
        (["--coverage", "0.999"], "take 999 held-out pictures, and there are 22"),
        (["--coverage", "1.5"], "expected a share between 0 and 1"),
        (["--false-alarms", "0"], "--false-alarms is 0; expected a share"),
        (["--strangers", tmp_path / "gone"], "gone"),
        (["--strangers", tmp_path / "empty"], "empty"),
    ):
        result = run(calibrated, place / "pictures", *options, "--output", tmp_path / "out")
        assert (result.exit_code, result.stdout) == (2, ""), options
        [line] = result.stderr.splitlines()
        assert reason in line
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("problem_type", "label"), [(MULTI_LABEL, "red|blue"), (REGRESSION, "0.5")])
def test_models_of_another_kind_have_no_strangers(problem_type: str, label: str, place: Path, tmp_path: Path) -> None:
    labels = LABELS if problem_type == MULTI_LABEL else ("LABEL_0",)
    other = save_model(tmp_path / "model", labels, problem_type)
    paths = sorted((place / "pictures" / "test" / "red").iterdir())[:3]
    (tmp_path / "data.csv").write_text("image,label\n" + "".join(f"{path},{label}\n" for path in paths))
    result = run(other, tmp_path / "data.csv", "--strangers", place / "strangers")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--strangers is for models of one label a picture, and this one's problem_type is '{problem_type}'" in (
        result.stderr
    )
    found = found_by(other, tmp_path / "data.csv")
    assert ("calibration" in found) == (problem_type == MULTI_LABEL)
    assert not {"risk_coverage", "answers", "sets"} & set(found)
    if problem_type == MULTI_LABEL:
        assert "Brier score" in run(other, tmp_path / "data.csv").stdout


@pytest.mark.parametrize("asked", [evaluate, measure, predict])
def test_levels_are_the_same_whoever_asks(asked: Any) -> None:
    names = inspect.signature(asked).parameters
    assert (names["coverage"].default, names["false_alarms"].default) == (0.9, 0.05)
    options = inspect.signature(ConfidenceOptions).parameters
    assert (options["coverage"].default, options["false_alarms"].default) == (0.9, 0.05)


def test_in_python(calibrated: Path, place: Path) -> None:
    predictor = Predictor.from_pretrained(calibrated, engine="torch", device="cpu", batch_size=5)
    seen: list[Any] = []
    found = evaluate(
        predictor,
        read_labeled(place / "pictures", "test"),
        progress=seen.append,
        coverage=0.7,
        false_alarms=0.2,
        strangers=open_stream([str(place / "strangers")]),
    )
    assert len(seen) == 3 * A_CLASS + STRANGERS
    assert found.assessment["sets"]["coverage"] == 0.7
    assert found.assessment["none_of_these"]["false_alarms"] == 0.2
    assert found.assessment["strangers"]["images"] == STRANGERS
    paths = list(found.paths[:4])
    expected = [one[0]["probability"] for one in predictor(paths, top_k=1)]
    np.testing.assert_allclose(found.probabilities[:4].max(axis=1), expected, atol=1e-5)

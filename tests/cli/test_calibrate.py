"""`vit-hybrid calibrate`, and what `classify` says of a model that was calibrated."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from told_bars import bar_into
from typer.testing import CliRunner

from vit_hybrid import Predictor
from vit_hybrid.cli import calibrate
from vit_hybrid.cli.main import app
from vit_hybrid.errors import EngineWarning
from vit_hybrid.outputs import confidence
from vit_hybrid.outputs.ranking import softmax

LABELS = ("LABEL_0", "LABEL_1", "LABEL_2")
A_CLASS = 30


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes by their color, in val/, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for place, label in enumerate(LABELS):
        (folder / "val" / label).mkdir(parents=True)
        for number in range(A_CLASS):
            levels = rng.integers(0, 120, (20, 20, 3), dtype=np.uint8)
            levels[..., place] += 100
            Image.fromarray(levels).save(folder / "val" / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def calibrated(tiny_folder: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(tiny_folder, folder)
    result = run("calibrate", folder, pictures)
    assert result.exit_code == 0, result.output
    assert "LAC sets of 90 %" in result.stdout
    assert "of the held-out pictures, which serve for nothing else" in result.stdout
    return folder


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments), "--engine", "torch", "--device", "cpu"])


def test_two_files_come_to_lie_beside_the_weights(calibrated: Path, tiny_folder: Path) -> None:
    new = {path.name for path in calibrated.iterdir()} - {path.name for path in tiny_folder.iterdir()}
    assert new == {"confidence.json", "confidence.safetensors"}
    found = confidence.read(calibrated)
    assert found.about["pictures"] == 67  # a fourth stands in for training pictures
    assert found.precision == "f32"


def test_classify_prints_the_set_and_json_has_all_of_it(calibrated: Path, pictures: Path) -> None:
    picture = pictures / "val" / "LABEL_1" / "0.png"
    shown = run("classify", picture, "--model", calibrated)
    assert "in the 90 % set" in shown.stdout
    found = json.loads(run("classify", picture, "--model", calibrated, "--json", "--top-k", 1).stdout)
    fitted = confidence.read(calibrated)
    plain = Predictor.from_pretrained(calibrated, engine="torch", device="cpu", confidence=False)
    logits = plain.logits(picture)
    assert found["predictions"][0]["probability"] == pytest.approx(fitted.probabilities(logits).max(), abs=1e-6)
    inside = fitted.contain(logits)[0]
    assert set(found["set"]) == {label for label, one in zip(LABELS, inside, strict=True) if one}
    assert found["coverage"] == 0.9
    assert 0 < found["familiarity"] <= 1
    assert found["none_of_these"] == (found["familiarity"] < 0.05)


def test_gray_is_none_of_these_and_noise_of_the_known_kind_mostly_is_not(calibrated: Path, pictures: Path) -> None:
    gray = pictures.parent / "gray.png"
    Image.new("RGB", (20, 20), (128, 128, 128)).save(gray)
    result = run("classify", gray, "--model", calibrated, "--false-alarms", 0.1)
    assert "none of these (p = 0.0" in result.stdout
    lines = run("classify", pictures, "--model", calibrated, "--false-alarms", 0.1, "--json").stdout.splitlines()
    assert np.mean([json.loads(line)["none_of_these"] for line in lines]) < 0.3


def test_levels_that_the_pictures_do_not_allow(calibrated: Path, pictures: Path) -> None:
    picture = pictures / "val" / "LABEL_1" / "0.png"
    result = run("classify", picture, "--model", calibrated, "--coverage", 0.999)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "take 999 held-out pictures, and there are 2" in result.stderr
    for option in ("--coverage", "--false-alarms"):
        result = run("classify", picture, "--model", calibrated, option, 1.5)
        assert result.exit_code == 2
        assert "expected a share between 0 and 1" in result.stderr
    wide = json.loads(run("classify", picture, "--model", calibrated, "--coverage", 0.5, "--json").stdout)
    assert wide["coverage"] == 0.5


def test_uncalibrated_is_as_the_model_gives_it(calibrated: Path, pictures: Path) -> None:
    picture = pictures / "val" / "LABEL_1" / "0.png"
    found = json.loads(run("classify", picture, "--model", calibrated, "--json", "--uncalibrated").stdout)
    assert set(found) == {"path", "predictions"}
    plain = Predictor.from_pretrained(calibrated, engine="torch", device="cpu", confidence=False)
    assert found["predictions"][0]["probability"] == pytest.approx(softmax(plain.logits(picture)).max(), abs=1e-6)


def test_another_precision_is_used_with_a_word(calibrated: Path) -> None:
    with pytest.warns(EngineWarning, match="its confidence was fitted in f32, and this runs in bf16"):
        Predictor.from_pretrained(calibrated, engine="torch", device="cpu", precision="bf16")


def test_what_is_said_does_not_depend_on_the_batch(calibrated: Path, pictures: Path) -> None:
    predictor = Predictor.from_pretrained(calibrated, engine="torch", device="cpu", batch_size=4)
    paths = sorted(map(str, (pictures / "val" / "LABEL_0").iterdir()))[:6]
    together = list(predictor.stream(paths))
    for path, record in zip(paths, together, strict=True):
        [alone] = predictor.stream([path])
        assert alone["set"] == record["set"]  # type: ignore[typeddict-item]
        assert alone["familiarity"] == pytest.approx(record["familiarity"], abs=1e-5)  # type: ignore[typeddict-item]


def test_the_model_in_the_package_needs_another_place(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_hybrid.evaluate.default_split", lambda *_, **__: pytest.fail("it is in vain"))
    result = run("calibrate", "vit-hybrid-tiny-imagenet", pictures)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "name one for a copy of the model with --output" in result.stderr
    result = run("calibrate", "vit-hybrid-tiny-imagenet", pictures, "--output", os.fsdecode(b"sort\xe9e"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "sort\\xe9e: this name is no UTF-8" in result.stderr


def test_a_copy_and_a_picture_that_cannot_be_read(tiny_folder: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "val" / "LABEL_0" / "broken.png").write_bytes(b"no picture")
    arguments = ("calibrate", tiny_folder, tmp_path / "data", "--output", tmp_path / "copy", "--json", "--sets", "raps")
    result = run(*arguments, "--training", pictures)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["model"], found["written"]) == (str(tiny_folder), str(tmp_path / "copy"))
    fitted = confidence.read(tmp_path / "copy")
    assert (found["temperature"], found["pictures"]) == (fitted.temperature.tolist(), fitted.about["pictures"])
    assert found["distances_from"] == "90 training pictures"
    assert found["method"] == "raps"
    assert [Path(one["path"]).name for one in found["unreadable"]] == ["broken.png"]
    assert result.stderr.endswith("passed over: 1 picture that cannot be read (LABEL_0/broken.png)\n")
    assert (tmp_path / "copy" / "model.safetensors").exists()
    assert not (tiny_folder / "confidence.json").exists()
    again = run(
        "calibrate", tmp_path / "copy", pictures, "--json"
    )  # which keeps what was known of the training pictures
    assert "kept with the model" in json.loads(again.stdout)["distances_from"]
    anew = run("calibrate", tmp_path / "copy", pictures, "--json", "--training", pictures)  # which go before those
    assert json.loads(anew.stdout)["distances_from"] == "90 training pictures"


def test_all_that_cannot_be_read_are_named_and_counted(tiny_folder: Path, pictures: Path, tmp_path: Path) -> None:
    """Those, too, from which distances are measured: a fourth of the pictures, or those that training had."""
    data = shutil.copytree(pictures, tmp_path / "data") / "val"
    for number in range(8):
        (data / "LABEL_1" / f"broken{number}.png").write_bytes(b"no picture")
    result = run("calibrate", tiny_folder, data.parent, "--output", tmp_path / "copy", "--json")
    assert result.exit_code == 1
    broken = {f"broken{number}.png" for number in range(8)}
    assert {Path(one["path"]).name for one in json.loads(result.stdout)["unreadable"]} == broken
    passed_over = "vit-hybrid: passed over: 8 pictures that cannot be read (LABEL_1/broken0.png, ...)"
    assert result.stderr.splitlines() == [passed_over]
    shown = run("calibrate", tiny_folder, data.parent, "--output", tmp_path / "again")
    *named, rest, last = shown.stderr.splitlines()
    assert (shown.exit_code, last) == (1, passed_over)
    assert {Path(line.split(": ")[1]).name for line in named} < broken
    assert len(named) == 5
    assert rest.startswith("vit-hybrid: 8 of 98 pictures cannot be read, all because: is not a picture")
    assert f"{tiny_folder}, on val of {data.parent}; written to {tmp_path / 'again'}" in shown.stdout
    other = ("--output", tmp_path / "other", "--training", data.parent, "--json")
    held_out = shutil.copytree(pictures, tmp_path / "held-out")
    (held_out / "val" / "LABEL_0" / "notes.txt").touch()
    result = run("calibrate", tiny_folder, held_out, *other)
    assert result.exit_code == 1
    assert {Path(one["path"]).name for one in json.loads(result.stdout)["unreadable"]} == broken
    assert result.stderr.splitlines() == [f"{passed_over}, 1 file of another kind (1 .txt)"]  # of both places


def test_too_few_pictures_say_how_many_it_takes(tiny_folder: Path, pictures: Path, tmp_path: Path) -> None:
    for label in LABELS:
        (tmp_path / label).mkdir()
        for number in range(5):
            shutil.copyfile(pictures / "val" / label / f"{number}.png", tmp_path / label / f"{number}.png")
    result = run("calibrate", tiny_folder, tmp_path, "--output", tmp_path / "copy")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "calibration takes 40 held-out pictures or more" in result.stderr
    assert not (tmp_path / "copy").exists()


def test_it_goes_where_other_weights_come(calibrated: Path, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(calibrated, tmp_path / "model")
    arguments = ["convert", str(tiny_folder), str(tmp_path / "model"), "--num-labels", "2", "--overwrite"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert not list((tmp_path / "model").glob("confidence.*"))


def rewritten(model: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a model whose configuration says otherwise."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def table_of(pictures: Path, path: Path, labels: Callable[[int], str]) -> Path:
    """A table of the pictures, with a label for each number of them."""
    rows = enumerate(sorted((pictures / "val").glob("*/*.png")))
    path.write_text("image,label\n" + "".join(f"{picture},{labels(number)}\n" for number, picture in rows))
    return path


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_python_classify_and_predict_agree(engine: str, calibrated: Path, pictures: Path, tmp_path: Path) -> None:
    """The server too: tests/serve/test_worker.py."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    how: dict[str, Any] = {"engine": engine, "device": "cpu", "threads": 1, "batch_size": 7}
    levels = {"coverage": 0.8, "false_alarms": 0.3}
    folder = pictures / "val" / "LABEL_2"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**how, **levels}.items()]
    predictor = Predictor.from_pretrained(calibrated, **how)
    paths = sorted(map(str, folder.iterdir()))
    told = {one["path"]: one for one in predictor.stream(paths, top_k=2, **levels)}
    arguments = ["--model", str(calibrated), "--top-k", "2", *options]
    printed = CliRunner().invoke(app, ["classify", *paths, "--json", *arguments])
    written = CliRunner().invoke(app, ["predict", str(folder), "--output", str(tmp_path / "out.jsonl"), *arguments])
    assert (printed.exit_code, written.exit_code) == (0, 0), printed.output + written.output
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == len(rows) == len(told) == A_CLASS
    assert {one["none_of_these"] for one in told.values()} == {False, True}
    for one in [*lines, *rows]:
        expected: Any = told[one["path"]]
        assert (one["set"], one["none_of_these"]) == (expected["set"], expected["none_of_these"])
        assert one["familiarity"] == pytest.approx(expected["familiarity"], abs=1e-5)
        found = one.get("predictions") or [
            {"label": label, "probability": share}
            for label, share in zip(one["labels"], one["probabilities"], strict=True)
        ]
        assert [each["label"] for each in found] == [each["label"] for each in expected["predictions"]]
        for each, other in zip(found, expected["predictions"], strict=True):
            assert each["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_labels_in_another_order_are_refused(calibrated: Path, pictures: Path, tmp_path: Path) -> None:
    order = [LABELS[1], LABELS[0], LABELS[2]]
    names = {"id2label": dict(enumerate(order)), "label2id": {name: index for index, name in enumerate(order)}}
    folder = rewritten(calibrated, tmp_path / "model", **names)
    for command in (
        ["classify", pictures / "val" / LABELS[0], "--model", folder],
        ["evaluate", folder, pictures],
    ):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "is for other labels, or for another order of them; calibrate the model again" in result.stderr


def other_weights(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / "model.safetensors")
    save_file({name: array * 1.01 for name, array in arrays.items()}, folder / "model.safetensors", {"format": "pt"})


def other_order(folder: Path) -> None:
    fitted = confidence.read(folder)
    confidence.write(replace(fitted, labels=fitted.labels[::-1]), folder)


def cut(name: str) -> Callable[[Path], object]:
    """What leaves the first half of a file."""
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (other_weights, "fitted for other weights than those beside it"),
        (other_order, "is for other labels, or for another order of them"),
        (cut("confidence.json"), "cannot be read"),
        (cut("confidence.safetensors"), "is of another calibration, or damaged"),
        (lambda folder: (folder / "confidence.safetensors").unlink(), "without confidence.safetensors"),
        (lambda folder: (folder / "confidence.json").write_text('{"format": 1}'), "another version of this package"),
    ],
)
def test_what_does_not_fit_is_refused_left_out_on_request_and_fitted_anew(
    spoil: Callable[[Path], object], said: str, calibrated: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(calibrated, tmp_path / "model"))
    spoil(folder)
    picture = pictures / "val" / "LABEL_1" / "0.png"
    refused = run("classify", picture, "--model", folder)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert said in refused.stderr
    left_out = run("classify", picture, "--model", folder, "--uncalibrated", "--json")
    assert (left_out.exit_code, set(json.loads(left_out.stdout))) == (0, {"path", "predictions"})
    anew = run("calibrate", folder, pictures, "--json")
    assert anew.exit_code == 0, anew.output
    if spoil is not other_order:  # of which what was kept of the training pictures holds
        assert said in anew.stderr
        assert "; it is not used, nor what it knew of the pictures that were trained on" in anew.stderr
        assert "; calibrate" not in anew.stderr  # which is what is being done
        assert "serve for nothing else" in json.loads(anew.stdout)["distances_from"]
    again = run("classify", picture, "--model", folder, "--json")
    assert again.exit_code == 0, again.output
    assert "familiarity" in json.loads(again.stdout)


def test_by_class_says_which_classes_stand_by_themselves(tiny_folder: Path, pictures: Path, tmp_path: Path) -> None:
    said = run("calibrate", tiny_folder, pictures, "--by-class", "--output", tmp_path / "copy").stdout
    assert "by class" in said
    assert "0 of 3 classes have 50 pictures or more of those for sets: all share one quantile" in said
    assert "by class" not in run("calibrate", tiny_folder, pictures, "--output", tmp_path / "other").stdout
    assert calibrate._by_class(2, 3).endswith("for sets; the others share what all pictures say")
    assert calibrate._by_class(3, 3) == "3 of 3 classes have 50 pictures or more of those for sets"


def test_nothing_is_said_of_an_earlier_precision_while_another_is_calibrated(
    calibrated: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(calibrated, tmp_path / "model"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run("calibrate", folder, pictures, "--precision", "bf16").exit_code == 0
        assert (
            run("classify", pictures / "val" / "LABEL_1" / "0.png", "--model", folder, "--precision", "bf16").exit_code
            == 0
        )
    assert confidence.read(folder).precision == "bf16"


def test_a_class_that_the_data_lacks_is_named(tiny_folder: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "val" / "LABEL_1")
    arguments = ("calibrate", tiny_folder, tmp_path / "data", "--output", tmp_path / "copy")
    shown = run(*arguments)
    assert shown.exit_code == 0, shown.output
    [line] = [line for line in shown.stdout.splitlines() if "labels without pictures" in line]
    assert line.split()[-1] == "LABEL_1"
    assert confidence.read(tmp_path / "copy").about["labels_without_pictures"] == ["LABEL_1"]


def test_of_several_labels_what_applies_is_done_and_the_rest_refused_by_name(
    tiny_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    model = rewritten(tiny_folder, tmp_path / "model", problem_type="multi_label_classification")
    data = table_of(pictures, tmp_path / "data.csv", lambda number: "|".join(LABELS[: 1 + number % 3]))
    refused = "is for models of one label a picture, and this one's problem_type is 'multi_label_classification'"
    for options in (["--by-class"], ["--sets", "raps"], ["--training", data]):
        result = run("calibrate", model, data, *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{options[0]} {refused}; leave it out" in result.stderr
    shown = run("calibrate", model, data, "--output", tmp_path / "copy").stdout
    assert shown.startswith(f"{model}, on all of {data}; written to {tmp_path / 'copy'}\n")
    found = json.loads(run("calibrate", model, data, "--json").stdout)
    assert len(found["temperature"]) == 3
    assert found["labels_left_as_they_are"] == ["LABEL_0"]  # which all pictures have
    picture = pictures / "val" / "LABEL_1" / "0.png"
    said = json.loads(run("classify", picture, "--model", model, "--json").stdout)
    assert set(said) == {"path", "predictions"}
    plain = Predictor.from_pretrained(model, engine="torch", device="cpu", confidence=False)
    expected = 1 / (1 + np.exp(-plain.logits(picture)[0] / np.array(found["temperature"])))
    by_label = {one["label"]: one["probability"] for one in said["predictions"]}
    assert [by_label[label] for label in LABELS] == pytest.approx(expected, abs=1e-6)
    for option in ("--coverage", "--false-alarms"):
        result = run("classify", picture, "--model", model, option, 0.7)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{option} {refused}" in result.stderr


def test_a_regression_model_is_refused_before_a_picture_is_read(
    tiny_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    arguments = ["convert", str(tiny_folder), str(tmp_path / "model"), "--num-labels", "1"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    model = rewritten(tmp_path / "model", tmp_path / "values", problem_type="regression", **names)
    data = table_of(pictures, tmp_path / "data.csv", lambda number: f"{number / 7:.3f}")
    monkeypatch.setattr(Predictor, "stream_outputs", lambda *_: pytest.fail("a picture is read"))
    result = run("calibrate", model, data)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a regression model has values and no probabilities, so there is nothing to calibrate" in result.stderr


def test_what_was_measured_stands_in_its_place() -> None:
    measured = {
        "before": {"negative_log_likelihood": 1.5, "calibration_error": 0.0321},
        "after": {"negative_log_likelihood": 0.75, "calibration_error": 0.0123, "calibration_error_by_chance": 0.0098},
        "sets": {"promised": [0.88, 0.93], "coverage": 0.9, "classes_by_themselves": 0, "mean_size": 2.5},
    }
    about = {"pictures": 1234, "parts": {"the temperature": 617}, "measured": measured, "distances_from": "all of them"}
    found: Any = SimpleNamespace(
        about=about, temperature=np.array([2.0]), method="aps", sets={"aps": SimpleNamespace(by_class=False)}
    )
    said = " ".join(calibrate._as_table(found, "Calibrated").split())
    assert said == (
        "Calibrated pictures 1,234 for the temperature 617 temperature 2 negative log-likelihood 1.5 before, "
        "0.75 after calibration error 3.21 % before, 1.23 % after, 0.98 % by chance alone APS sets of 90 % 2.5 labels "
        "on average; hold the truth 88.0 to 93.0 % of the time strangers are told by all of them"
    )
    found.temperature = np.array([2.0, 0.5])
    found.sets["aps"].by_class, found.labels = True, ("a", "b", "c")
    about |= {"labels_without_pictures": ["b", "c"]}
    measured["sets"] |= {"classes_by_themselves": 2}
    said = " ".join(calibrate._as_table(found, "Calibrated").split())
    assert "temperatures 0.5 to 2 " in said
    assert "hold the truth of each of 2 classes 88.0 to 93.0 % of the time by class 2 of 3 classes have 50" in said
    assert said.endswith("labels without pictures b, c")


def test_the_bar_goes_also_where_it_fails(
    tiny_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []

    def fail(*_: Any, progress: Any, **__: Any) -> None:
        progress("held-out pictures", 1, 60)
        raise ValueError("why")

    monkeypatch.setattr("vit_hybrid.cli.calibrate.ProgressBar", bar_into(steps))
    monkeypatch.setattr("vit_hybrid.inference.calibrating.calibrate", fail)
    result = run("calibrate", tiny_folder, pictures, "--output", tmp_path / "copy")
    assert (result.exit_code, result.stderr) == (2, "vit-hybrid: why\n")
    assert steps == [("Running over held-out pictures", 60), "advance", "close"]
    assert not (tmp_path / "copy").exists()

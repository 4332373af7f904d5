"""What a person types reaches the job: every option of a command, each with a value that is not its default."""

from __future__ import annotations

import contextvars
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
from made_index import write_index
from PIL import Image
from tiny_training import make_pictures
from told_bars import bar_into
from told_loading import loading_into
from typer.testing import CliRunner

from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.benchmark.contenders import Peer
from vit_hybrid.benchmark.settings import Settings
from vit_hybrid.checkpoints.calibrated import fitted_before
from vit_hybrid.checkpoints.opening import open as open_source
from vit_hybrid.cli import evaluate, output, running
from vit_hybrid.cli.main import app
from vit_hybrid.cli.options import EngineOptions, FeatureOptions
from vit_hybrid.engines.settling import Settled
from vit_hybrid.engines.ways import Way
from vit_hybrid.inference.cluster import Sharing
from vit_hybrid.train.progress import TrainingProgress

ENGINE = {
    "--engine": "torch",
    "--precision": "bf16",
    "--calibration": "pictures",
    "--device": "cpu",
    "--batch-size": 7,
    "--max-pixels": 12_345,
    "--threads": 3,
    "--dtype": "float16",
    "--compile": True,
    "--token-merging": 2,
    "--fast-decode": True,
}


class Seen(ValueError):
    """Ends a command as soon as its job has been asked."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("data"), train=3, val=2)


def asked(monkeypatch: pytest.MonkeyPatch, job: str, *words: str | Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """What a command gives to its job: arguments by place and by name."""
    found: list[tuple[Any, dict[str, Any]]] = []

    def stop(*given: Any, **named: Any) -> None:
        found.append((given, named))
        raise Seen("seen")

    monkeypatch.setattr(job, stop)
    result = CliRunner().invoke(app, [*map(str, words), *flags(options)])
    assert result.stderr.splitlines()[-1] == "vit-hybrid: seen"
    [seen] = found
    return seen


def flags(options: dict[str, Any]) -> list[str]:
    texts = ([name] if value is True else [name, str(value)] for name, value in options.items())
    return [text for pair in texts for text in pair]


def named(options: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("--").replace("-", "_"): value for name, value in options.items()}


@pytest.mark.parametrize("command", ["classify", "evaluate"])
def test_how_a_model_runs(command: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = "vit_hybrid.inference.predictor.Predictor.from_pretrained"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    # An evaluation opens its model before, to settle how it runs; a photo is counted instead.
    model = BUILT_IN_MODEL if command == "evaluate" else "a model"
    words = ("evaluate", model, pictures) if command == "evaluate" else ("classify", tmp_path / "a.png")
    own = {} if command == "evaluate" else {"--model": model, "--uncalibrated": True}
    given, named_ = asked(monkeypatch, job, *words, **ENGINE, **own)
    assert given == (model,)
    settled = {"pictures": 1, "confidence": False} if own else {"tuned": False}
    expected = named(ENGINE) | settled
    assert callable(named_["progress"])
    assert {name: value for name, value in named_.items() if name != "progress"} == expected


def test_what_an_agreement_is_held_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    options = {name: value for name, value in ENGINE.items() if name not in ("--device", "--dtype", "--compile")}
    del options["--token-merging"]
    words = ("classify", tmp_path / "a.png", "--model", "a model", "--agreement", "0.9")
    given, how = asked(monkeypatch, "vit_hybrid.engines.agreement.promised", *words, **options)
    assert given == ("a model", 0.9, "pictures")
    expected = {"engine": "torch", "precision": "bf16", "threads": 3, "max_pixels": 12_345, "batch_size": 7}
    assert callable(how["progress"])
    assert {name: value for name, value in how.items() if name != "progress"} == {**expected, "merging": True}
    monkeypatch.setenv("HOME", str(tmp_path))
    for left, chosen in (("--engine", (None, "bf16")), ("--precision", ("torch", None))):  # which may then be any
        some = {name: value for name, value in options.items() if name != left} | {"--model": "~/a model"}
        given, how = asked(monkeypatch, "vit_hybrid.engines.agreement.promised", *words, **some)
        assert (how["engine"], how["precision"]) == chosen
        assert given[0] == str(tmp_path / "a model")


@pytest.mark.parametrize(
    ("name", "value"), [("device", "cpu"), ("dtype", "float16"), ("compile", True), ("token_merging", 2)]
)
def test_what_an_agreement_chooses_cannot_be_given(name: str, value: Any) -> None:
    options = EngineOptions(agreement=0.9, calibration="pictures", **{name: value})
    with pytest.raises(ValueError, match=f"--agreement chooses how .* leave out --{name.replace('_', '-')}"):
        running.engine_arguments("a model", options)


def test_an_agreement_is_told_with_its_notes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Found:
        notes = ("two of these pictures are the same",)

        def said(self) -> str:
            return "twice as fast"

        def options(self) -> dict[str, Any]:
            return {"precision": "bf16", "token_merging": 2}

    monkeypatch.setattr("vit_hybrid.engines.agreement.promised", lambda *_, **__: Found())
    held = {"agreement": 0.9, "calibration": "pictures", "threads": 3}
    options = running.engine_arguments("a model", EngineOptions(**held))
    assert (options["precision"], options["token_merging"], options["threads"]) == ("bf16", 2, 3)
    said = "vit-hybrid: twice as fast\nvit-hybrid: two of these pictures are the same\n"
    assert capsys.readouterr() == ("", said)
    of_features = running.engine_arguments("a model", FeatureOptions(agreement=0.9, calibration="pictures"))
    assert of_features["precision"] == "bf16"
    assert "token_merging" not in of_features


def test_how_pictures_are_read_for_a_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "--split": "dev",
        "--image-column": "photo",
        "--label-column": "kind",
        "--na-as-class": True,
        "--max-pixels": 12_345,
    }
    given, read = asked(monkeypatch, "vit_hybrid.evaluate.default_split", "evaluate", "a model", "data", **options)
    assert given == ("data", "dev")
    columns = {"image_column": "photo", "label_column": "kind", "na_as_class": True}
    assert read == {**columns, "max_pixels": 12_345, "held": False}


def test_which_pictures_a_model_is_calibrated_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("calibrate", BUILT_IN_MODEL, "data", "--output", tmp_path / "out")
    options = {"--split": "dev", "--label-column": "kind", "--max-pixels": 12_345}
    given, read = asked(monkeypatch, "vit_hybrid.evaluate.default_split", *words, **options)
    assert given == ("data", "dev", ("val", "test"))  # the first of these that is there, where none is named
    assert (read["label_column"], read["max_pixels"]) == ("kind", 12_345)


@pytest.mark.parametrize(("limit", "count"), [({}, 6), ({"--limit": 4}, 4), ({"--limit": 9}, 6)])
def test_how_many_pictures_a_measurement_has(
    limit: dict[str, int], count: int, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", BUILT_IN_MODEL, pictures)
    (_, _, job_of, _), how = asked(monkeypatch, "vit_hybrid.cli.evaluate.settled", *words, **limit)
    assert (job_of, how) == (count, {})
    words = ("evaluate", BUILT_IN_MODEL, pictures / "val" / "*" / "*.png")  # a stream, which nobody has counted
    (_, _, job_of, _), how = asked(monkeypatch, "vit_hybrid.cli.evaluate.settled", *words, **limit)
    assert (job_of, how) == (None, {})


@pytest.mark.parametrize("is_written", [True, False])
def test_a_measurement(is_written: bool, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_hybrid.cli.evaluate.settled", lambda *_, **__: {"threads": 3})
    options: dict[str, Any] = {"--strict": True, "--coverage": 0.8, "--false-alarms": 0.2, "--workers": 2}
    options |= {"--ray": "auto", "--cpus-per-worker": 4, "--gpus-per-worker": 0.5, "--mixed": True}
    options |= {"--strangers": pictures / "val"} | ({"--output": tmp_path / "out"} if is_written else {})
    given, how = asked(monkeypatch, "vit_hybrid.evaluate.measure", "evaluate", "a model", pictures / "train", **options)
    assert given[0] == "a model"
    assert how.pop("strangers").names == (str(pictures / "val"),)
    assert how.pop("progress") is not None
    assert how == {
        **{"names": (str(pictures / "train"), str(pictures / "val")), "sharing": Sharing(2, "auto", 4, 0.5)},
        **{"mixed": True, "strict": True, "table": is_written, "mistakes": 24 if is_written else 0},
        **{"coverage": 0.8, "false_alarms": 0.2, "threads": 3},
    }


def test_for_a_regression_numbers_are_read_again_as_they_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("vit_hybrid.evaluate.as_values", lambda *given, **how: asked.append((given, how)) or "values")
    again: Any = evaluate._as_values("data", "val", {"label_column": "age"})
    assert again("classes", SimpleNamespace(problem_type="single_label_classification")) == "classes"
    assert again("classes", SimpleNamespace(problem_type="regression")) == "values"
    assert asked == [(("classes", "data", "val"), {"label_column": "age"})]


def test_how_pictures_of_a_stream_are_read_for_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"--split": "dev", "--limit": 5, "--known-only": True}
    columns = {"--image-column": "photo", "--label-column": "kind", "--na-as-class": True}
    job = "vit_hybrid.evaluate.sources.Streamed"
    given, read = asked(monkeypatch, job, "evaluate", "a model", "a.csv", "b.csv", **options, **columns)
    assert given == (["a.csv", "b.csv"], "dev")
    assert read == {"image_column": "photo", "label_column": "kind", "na_as_class": True, "known": True, "limit": 5}


def test_a_training_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"--image-column": "photo", "--label-column": "kind", "--na-as-class": True, "--strict": True}
    fields |= {"--val": "other", "--max-pixels": 12_345, "--problem-type": "regression", "--device": "cpu"}
    fields |= {"--threads": 3, "--overwrite": True, "--push-to-hub": True, "--hub-model-id": "me/it"}
    fields |= {"--hub-private": True}
    recipe = {"--model": "a model", "--epochs": 3.5, "--max-steps": 11, "--batch-size": 5, "--learning-rate": 0.25}
    recipe |= {"--image-size": 96, "--precision": "bf16", "--seed": 4, "--workers": 1, "--val-fraction": 0.4}
    recipe |= {"--tensorboard": True}
    monkeypatch.setattr("sys.argv", ["/usr/bin/vit-hybrid", "train", "my data"])
    words = ("train", "data", "--output", tmp_path / "out", "--set", "flip=false")
    given, _ = asked(monkeypatch, "vit_hybrid.train.job.train", *words, **fields, **recipe)
    [run] = given
    assert (run.data, run.output) == ("data", tmp_path / "out")
    assert {name: getattr(run, name) for name in named(fields)} == named(fields)
    assert {name: getattr(run.recipe, name) for name in named(recipe)} == named(recipe)
    assert run.recipe.flip == 0
    assert run.resume is False
    assert run.command == "vit-hybrid train 'my data'"  # as a shell takes it again
    [progress] = run.callbacks
    assert isinstance(progress, TrainingProgress)
    assert run.report == progress.say
    [over], _ = asked(monkeypatch, "vit_hybrid.train.job.train", *words, "--set", "epochs=9", **{"--epochs": 7})
    assert over.recipe.epochs == 7  # an option comes before a field that is set
    none = {"--workers": 0, "--seed": 0}
    [run], _ = asked(monkeypatch, "vit_hybrid.train.job.train", *words, **none)
    assert (run.recipe.workers, run.recipe.seed) == (0, 0)
    [begun], _ = asked(monkeypatch, "vit_hybrid.train.job.train", *words, **{"--resume": True})
    assert (begun.resume, begun.recipe.epochs) == (True, 20)  # where there is nothing to go on from
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.yaml").write_text("epochs: 77\n")  # of the run that is there
    [again], _ = asked(monkeypatch, "vit_hybrid.train.job.train", *words, **{"--resume": True})
    assert (again.resume, again.recipe.epochs) == (True, 77)
    (tmp_path / "other.yaml").write_text("epochs: 78\n")
    other = {"--resume": True, "--recipe": tmp_path / "other.yaml"}
    [other_run], _ = asked(monkeypatch, "vit_hybrid.train.job.train", *words, **other)
    assert other_run.recipe.epochs == 78
    [anew], _ = asked(monkeypatch, "vit_hybrid.train.job.train", *words, **{"--overwrite": True})
    assert (anew.resume, anew.recipe.epochs) == (False, 20)


def test_a_probe(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = {"--engine": "onnx", "--precision": "int8", "--calibration": "pictures", "--device": "cpu"}
    engine |= {"--batch-size": 7, "--max-pixels": 12_345}
    job = "vit_hybrid.probe.FrozenModel.from_pretrained"
    given, how = asked(monkeypatch, job, "probe", pictures, "--model", "a model", **engine)
    assert given == ("a model", ("blue", "green", "red"))
    assert how == named(engine)


def test_a_probes_protocol(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[dict[str, Any]] = []
    strict: list[bool] = []

    class Frozen:
        @staticmethod
        def features(pictures: Any, progress: Any, stop: bool = False) -> str:
            for number in range(len(pictures)):
                progress(number + 1, len(pictures))
            strict.append(stop)
            return f"features of {len(pictures)}"

    from vit_hybrid.data import read_splits

    bars: list[tuple[int, str]] = []
    monkeypatch.setattr(
        "vit_hybrid.cli.probe.ProgressBar",
        lambda total, doing: bars.append((total, doing)) or output.ProgressBar(total, doing),
    )
    advanced: list[int] = []
    monkeypatch.setattr(output.ProgressBar, "advance", lambda self, steps=1: advanced.append(steps))
    monkeypatch.setattr(output.ProgressBar, "close", lambda self: advanced.append(0))
    monkeypatch.setattr("vit_hybrid.probe.FrozenModel.from_pretrained", lambda *_, **__: Frozen)
    monkeypatch.setattr("vit_hybrid.data.read_splits", lambda data, **how: read.append(how) or read_splits(data))
    how = {"--val": "other", "--val-fraction": 0.4, "--image-column": "photo", "--label-column": "kind"}
    how |= {"--na-as-class": True, "--seed": 9}
    options = {"--strict": True, "--shots": "1,2", "--trials": 3, "--neighbors": 4, "--l2": "0.5,8"}
    given, _ = asked(monkeypatch, "vit_hybrid.probe.probe", "probe", pictures, **how, **options)
    assert read == [named(how)]
    assert strict == [True, True]
    train, val, classes, *rest = given
    assert (train, val, classes) == ("features of 9", "features of 6", ("blue", "green", "red"))
    assert (bars, advanced) == ([(15, "Features")], [*[1] * 15, 0])  # and it is gone
    assert rest == [[1, 2], 3, 4, [0.5, 8.0], 9]
    (*_, shots, trials, neighbors, strengths, seed), _ = asked(monkeypatch, "vit_hybrid.probe.probe", "probe", pictures)
    assert (shots, trials, neighbors, seed, strict[2:]) == (None, 5, 20, 0, [False, False])
    assert (strengths[0], strengths[1], strengths[-1]) == (2**-10, 2**-8, 2**20)


def test_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"--calibration": "pictures", "--dynamic": True, "--token-merging": 2, "--max-pixels": 12_345}
    options |= {"--overwrite": True}
    words = ("export", "a model", tmp_path / "out", "--engine", "onnx", "--precision", "int8", "--minutes", "1.5")
    words = (*words, "--features")
    given, how = asked(monkeypatch, "vit_hybrid.export.export", *words, **options)
    assert given == ("a model", tmp_path / "out", "onnx", "int8")
    assert how.pop("progress")
    assert how == {**named(options), "time_limit": 90.0, "features": True}


def test_a_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"--approximate": True, "--overwrite": True}
    words = ("convert", "a model", tmp_path / "out", "--to", "timm", "--image-size", "64x96", "--num-labels", "0")
    given, how = asked(monkeypatch, "vit_hybrid.checkpoints.converting.convert", *words, **options)
    assert given == ("a model", tmp_path / "out", "timm", (64, 96), 0)
    assert {name: how[name] for name in named(options)} == named(options)


def test_what_a_model_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_hybrid.save_tiny_model(tmp_path / "model")
    options = {"--image-size": "64x96", "--num-labels": 5, "--batch-size": 3, "--dtype": "bfloat16"}
    given, _ = asked(monkeypatch, "vit_hybrid.model.complexity.memory", "info", folder, **options)
    config, batch_size, dtype = given
    assert (config.image_size, config.num_labels, batch_size, dtype) == ((64, 96), 5, 3, "bfloat16")


def test_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "--batch-sizes": "3, 15,,3",
        "--image-sizes": "64,64x96",
        "--engines": "torch,onnx",
        "--attention": "eager",
    }
    options |= {"--precision": "bf16,int8", "--compile": True, "--token-merging": "1,2", "--device": "cpu"}
    options |= {"--threads": 3, "--repetitions": 4, "--warm-up": 1, "--busy": 2}
    monkeypatch.setattr("vit_hybrid.cli.benchmark.find_peer", lambda text: Peer(*text.split("="), {}))
    words = ("benchmark", "R26+S/32", "--peers", "legacy=a", "--peers", "timm=b")
    given, _ = asked(monkeypatch, "vit_hybrid.benchmark.job.run", *words, **options)
    settings = given[0]
    assert settings.model == "R26+S/32"
    assert [(peer.kind, peer.python) for peer in settings.peers] == [("legacy", "a"), ("timm", "b")]
    assert (settings.batch_sizes, settings.image_sizes) == ((3, 15), ((64, 64), (64, 96)))
    assert (settings.engines, settings.attentions) == (("torch", "onnx"), ("eager",))
    assert (settings.precisions, settings.compiled, settings.token_merging) == (("bf16", "int8"), True, (1, 2))
    assert (settings.device, settings.threads, settings.repetitions, settings.warm_up) == ("cpu", 3, 4, 1)
    assert settings.busy == 2
    (plain, _), _ = asked(monkeypatch, "vit_hybrid.benchmark.job.run", "benchmark")
    assert plain == Settings()
    assert (plain.model, plain.image_sizes, plain.compiled, plain.device) == (BUILT_IN_MODEL, (None,), False, None)


def test_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"--precision": "bf16", "--image-size": "64x96", "--minutes": 2.5}
    given, how = asked(monkeypatch, "vit_hybrid.engines.tuning.tune", "tune", "a model", **options)
    assert (given, [*how]) == (("a model", "bf16", (64, 96), 2.5), ["progress"])
    given, _ = asked(monkeypatch, "vit_hybrid.engines.tuning.tune", "tune")
    assert given == (BUILT_IN_MODEL, None, None, None)


def test_a_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    opened: list[Any] = []
    bars: list[Any] = []

    monkeypatch.setattr("vit_hybrid.cli.calibrate.ProgressBar", bar_into(bars))
    monkeypatch.setattr(
        "vit_hybrid.cli.calibrate.opened_predictor", lambda model, engine, **how: opened.append((model, engine, how))
    )
    monkeypatch.setattr("vit_hybrid.evaluate.default_split", lambda *_, **__: ("held out", "dev"))
    monkeypatch.setattr("vit_hybrid.data.read_labeled", lambda *place, **how: read.append((place, how)) or "training")
    words = ("calibrate", BUILT_IN_MODEL, "data", "--output", tmp_path / "out")
    options = {"--training": "others", "--sets": "raps", "--by-class": True, "--na-as-class": True, "--threads": 3}
    given, how = asked(monkeypatch, "vit_hybrid.inference.calibrating.calibrate", *words, **options)
    columns = {"image_column": None, "label_column": None, "na_as_class": True}
    assert read == [(("others",), {**columns, "max_pixels": None})]
    assert [(model, engine.threads, what) for model, engine, what in opened] == [
        (BUILT_IN_MODEL, 3, {"output": "all", "confidence": False})
    ]
    assert given[1] == "held out"
    assert len(given[2]) == 64  # the checksum of the weights
    progress = how.pop("progress")
    before = fitted_before(open_source(BUILT_IN_MODEL))
    assert before is not None
    np.testing.assert_array_equal(how.pop("trained"), before.trained_pictures)
    assert how == {
        **{"training": "training", "known": None, "method": "raps", "by_class": True},
        "about": {"data": "data", "split": "dev"},
    }
    for what in (("training pictures", 1, 2), ("training pictures", 2, 2), ("held-out pictures", 1, 60)):
        progress(*what)
    assert bars == [
        *(("Running over training pictures", 2), "advance", "advance", "close"),
        *(("Running over held-out pictures", 60), "advance"),
    ]
    bars.clear()

    def failing(*_: Any, progress: Any, **__: Any) -> None:
        progress("training pictures", 1, 2)
        raise ValueError("why")

    monkeypatch.setattr("vit_hybrid.inference.calibrating.calibrate", failing)
    assert CliRunner().invoke(app, [*map(str, words)]).exit_code == 2
    assert bars == [("Running over training pictures", 2), "advance", "close"]


def test_an_explanation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    model = ("--model", "a model", "--output", tmp_path / "out")
    opening = {"--device": "cpu", "--image-size": "64x96", "--max-pixels": 12_345}
    job = "vit_hybrid.explain.explainer.Explainer.from_pretrained"
    given, how = asked(monkeypatch, job, "explain", tmp_path / "a.png", *model, **opening)
    assert (given, how) == (("a model", "cpu"), {"image_size": (64, 96), "max_pixels": 12_345})
    checked: list[Any] = []
    explained: list[Any] = []

    def explain(_: Any, *given: Any, **how: Any) -> None:
        explained.append((given, how))
        raise Seen("seen")

    fake = SimpleNamespace(
        labels=["cat"], twin=None, check=lambda *given, **how: checked.append((given, how)), explain=explain
    )
    monkeypatch.setattr(job, lambda *_, **__: fake)
    words = ["explain", tmp_path / "a.png", *model, "--label", "cat", "--label", "1"]
    how = {"--method": "attention", "--layer": "2", "--head": 3, "--fusion": "max", "--discard": 0.5, "--token": "4,5"}
    CliRunner().invoke(app, [*map(str, words), *flags(how)])
    asked_for = {"layer": "2", "head": 3, "fusion": "max", "discard": 0.5, "token": (4, 5)}
    assert checked == [(("attention", ["cat", "1"]), asked_for)]
    assert explained == [(("attention", ["cat", "1"]), {"name": str(tmp_path / "a.png"), **asked_for})]


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_who_shares_the_work(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sharing = {"--workers": 3, "--ray": "auto", "--cpus-per-worker": 4, "--gpus-per-worker": 0.5, "--mixed": True}
    words = (command, "pictures", "--output", "x.parquet")
    given, how = asked(monkeypatch, f"vit_hybrid.predict.job.{command}", *words, **sharing)
    assert given == (["pictures"], "x.parquet")
    assert {name: how[name] for name in named(sharing)} == named(sharing)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("embed", {"--dtype": "float16", "--normalization": "l2"}),
        ("predict", {"--top-k": 3, "--embeddings": True, "--coverage": 0.8, "--false-alarms": 0.2}),
    ],
)
def test_what_is_written_of_each_picture(
    command: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"--resume": True, "--overwrite": True, "--retry-errors": True, "--verify": True, "--rows-per-part": 9}
    words = (command, "pictures", "--output", "x.parquet", "--model", "a model")
    _, how = asked(monkeypatch, f"vit_hybrid.predict.job.{command}", *words, **options, **parts)
    expected = {**named(options), **named(parts), "model": "a model"}
    assert {name: how[name] for name in expected} == expected


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_how_a_model_runs_over_many_pictures(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("vit_hybrid.cli.parts.loading", lambda name: nullcontext(loaded.append(name)))
    words = (command, "pictures", "--output", "x.parquet", "--model", "a model")
    _, how = asked(monkeypatch, f"vit_hybrid.predict.job.{command}", *words, **ENGINE)
    assert loaded == ["a model"]
    assert {name: how[name] for name in named(ENGINE)} == named(ENGINE)
    assert how["progress"] is not None


@pytest.mark.parametrize("model", [{}, {"--model": "a model"}])
def test_a_search(model: dict[str, str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    place = write_index(tmp_path / "x", [np.ones(3)])
    loaded: list[str] = []
    monkeypatch.setattr("vit_hybrid.cli.search.loading", lambda name: nullcontext(loaded.append(name)))
    engine = {name: value for name, value in ENGINE.items() if name != "--dtype"}  # of vectors, which INDEX has
    (index, name), how = asked(monkeypatch, "vit_hybrid.search.Searcher", "search", place, pictures, **model, **engine)
    assert (index.path, name) == (place, model.get("--model"))
    assert loaded == [model.get("--model", "some/model")]  # what the index has of its own
    assert {name: value for name, value in how.items() if name != "progress"} == named(engine)


def test_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    engine = {**ENGINE, "--uncalibrated": True, "--coverage": 0.8, "--false-alarms": 0.2}
    engine["--max-batch"] = engine.pop("--batch-size")
    words = ("serve", "a model", "--port", "0", "--cors-origin", "https://example.org", "--quota", "5")
    (options, server, *_), _ = asked(monkeypatch, "vit_hybrid.serve.server.run", *words, **engine)
    expected = {**named(engine), "name": "a model", "confidence": False, "batch_size": 7}
    assert options == {name: value for name, value in expected.items() if name not in ("uncalibrated", "max_batch")}
    assert (server.port, server.cors_origins, server.quota) == (0, ("https://example.org",), 5)
    (options, server, *_), _ = asked(monkeypatch, "vit_hybrid.serve.server.run", "serve", "--access-log-rate", "0")
    assert (options["name"], options["threads"], options["batch_size"]) == (BUILT_IN_MODEL, None, 16)
    assert (options["max_pixels"], options["confidence"]) == (50_000_000, True)
    assert (server.access_log_rate, server.max_files) == (0, 16)
    held = {"--agreement": 0.9, "--calibration": "pictures", "--threads": 2, "--max-batch": 3}
    _, how = asked(monkeypatch, "vit_hybrid.engines.agreement.promised", "serve", "a model", **held)
    assert callable(how.pop("progress"))
    expected = {"threads": 2, "batch_size": 3, "max_pixels": 50_000_000, "merging": True}
    assert how == {"engine": None, "precision": None, **expected}


def test_a_server_is_being_loaded_until_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    steps: list[str] = []

    def run(options: Any, settings: Any, log: Any, hear: Any, listens: Any) -> None:
        hear("progress", "converts")
        hear("warning", "it is slow here")
        listens()
        steps.append("serves")

    monkeypatch.setattr("vit_hybrid.cli.serve.loading", loading_into(steps))
    monkeypatch.setattr("vit_hybrid.serve.server.run", run)
    result = CliRunner().invoke(app, ["serve", "a model", "--port", "0"])
    assert (result.exit_code, result.stderr) == (0, "vit-hybrid: it is slow here\n")
    assert steps == ["loads a model", "converts", "loaded", "serves"]


def test_what_was_typed_is_told_from_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[set[str]] = []
    monkeypatch.setattr("vit_hybrid.cli.main.note_typed", lambda names: typed.append({*names}))
    words = ("embed", "pictures", "--output", "x.parquet")
    asked(monkeypatch, "vit_hybrid.predict.job.embed", *words, **{"--batch-size": 7})
    assert typed == [{"sources", "output", "batch_size"}]


def test_a_batch_size_that_nobody_typed_may_be_chosen() -> None:
    def found(*typed: str) -> Any:
        running.note_typed(typed)
        return running.by_hand("a model", EngineOptions(batch_size=7))["batch_size"]

    alone = contextvars.copy_context()
    assert (alone.run(found), alone.run(found, "precision"), alone.run(found, "batch_size")) == (None, None, 7)


def test_a_job_runs_its_model_as_was_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    way: Way | None = Way("torch", "f32", "sdpa", channels_last=True)

    def settle(model: str, options: Any, batch_size: int | None, pictures: int, tell: Any) -> Settled:
        asked.append((model, options["engine"], options["fast_decode"], "pictures" in options, batch_size, pictures))
        tell("measuring")
        return Settled(way, 4)

    monkeypatch.setattr("vit_hybrid.engines.settling.settle", settle)
    options = EngineOptions(dtype="float32")
    alone = contextvars.copy_context()
    alone.run(running.note_typed, ())
    told: list[str] = []
    found = alone.run(running.settled, "a model", options, 5000, told.append, pictures=7, fast_decode=True)
    assert asked == [("a model", "auto", True, False, None, 5000)]
    assert told == ["measuring"]
    assert (found["pictures"], found["fast_decode"]) == (7, True)
    assert way is not None
    assert {name: found[name] for name in way.options()} == way.options()
    assert (found["batch_size"], found["dtype"]) == (4, None)
    monkeypatch.setenv("HOME", "/home/of/one")
    way = None  # as where nobody has measured, and what was asked for holds
    left = alone.run(running.settled, "~/a model", options, 5000, told.append)
    assert asked[1][0] == "/home/of/one/a model"
    assert (left["tuned"], left["batch_size"], left["dtype"]) == (False, 4, "float32")
    unsettled = running.settled("a model", options, None, lambda text: None)
    assert (unsettled["batch_size"], unsettled["dtype"]) == (options.batch_size, "float32")
    assert unsettled["compile"] is None  # nobody asked for it, nor against it


@pytest.mark.parametrize(
    ("variable", "is_typed", "key"), [("a", False, "a"), ("", False, None), ("a", True, "b"), ("", True, "b")]
)
def test_the_key_of_a_server(
    variable: str, is_typed: bool, key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is typed comes before what the environment says."""
    monkeypatch.setenv("VIT_HYBRID_API_KEY", variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text("b\n")
    words = ("x.jpg", "--server", "http://here", *(("--api-key-file", "~/key") if is_typed else ()))
    given, _ = asked(monkeypatch, "vit_hybrid.serve.client.Client", "classify", *words)
    assert given == ("http://here", key)

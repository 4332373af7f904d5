"""What a finished run leaves."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_hybrid import tiny_config
from tiny_training import make_pictures, trained
from transformers import TrainerCallback

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.checkpoints import opening
from vit_hybrid.train import finishing
from vit_hybrid.train.averaging import WeightAverage
from vit_hybrid.train.finishing import plain_model
from vit_hybrid.train.recipe import build_recipe


def test_how_a_model_was_trained_is_not_how_it_is_used() -> None:
    model: Any = ViTHybridForImageClassification(tiny_config())
    model.to(memory_format=torch.channels_last).set_attn_implementation("eager")
    around = torch.nn.ModuleList([model])
    trainer: Any = SimpleNamespace(model=around, accelerator=SimpleNamespace(unwrap_model=lambda given: given[0]))
    plain = plain_model(trainer)
    assert plain.config._attn_implementation == "sdpa"
    assert all(weight.is_contiguous() for weight in plain.parameters())


def test_the_processor_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.50GHz\n\nprocessor\t: 1\nmodel name\t: Another\n")
    monkeypatch.setattr(finishing, "CPU_INFO", facts)
    assert finishing.hardware(torch.device("cpu")) == f"Some CPU @ 2.50GHz, {torch.get_num_threads()} threads"
    facts.write_text("processor\t: 0\n")  # as on Arm
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert finishing.hardware(torch.device("cpu")) == f"aarch64, {torch.get_num_threads()} threads"
    facts.unlink()  # as elsewhere than on Linux
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert finishing.hardware(torch.device("cpu")) == f"arm, {torch.get_num_threads()} threads"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU of number {device.index}")
    assert finishing.hardware(torch.device("cuda", 3)) == "the GPU of number 3"


@pytest.mark.parametrize(
    ("keep_best", "is_there", "has_average", "averages", "kept", "weight"),
    [
        (True, True, True, True, "the averaged weights of step 3, the best in validation", 3),
        (True, True, False, True, "the weights of step 3, the best in validation", 2),
        (True, True, True, False, "the weights of step 3, the best in validation", 2),
        (True, False, False, True, "the averaged weights after the last step", 1),
        (True, False, False, False, "the weights after the last step", 0),
        (False, True, True, True, "the averaged weights after the last step", 1),
        (False, True, True, False, "the weights after the last step", 0),
    ],
)
def test_which_weights_are_kept(
    keep_best: bool, is_there: bool, has_average: bool, averages: bool, kept: str, weight: int, tmp_path: Path
) -> None:
    model = torch.nn.Linear(1, 1)

    def become(value: float) -> torch.nn.Module:
        torch.nn.init.constant_(model.weight, value)
        return model

    best = tmp_path / "checkpoint-3"
    if is_there:
        best.mkdir()
    if has_average:
        save_file(WeightAverage(become(3), 0.5).state_dict(), best / "averaged.safetensors")
    trainer: Any = SimpleNamespace(
        average=WeightAverage(become(1), 0.5) if averages else None,
        accelerator=SimpleNamespace(unwrap_model=lambda given: given),
        model=become(0),
        recipe=build_recipe({"keep_best": keep_best}),
        state=SimpleNamespace(best_model_checkpoint=str(best), best_global_step=3),
        _load_best_model=lambda: become(2),
    )
    assert finishing.take_best_weights(trainer) == kept
    assert model.weight.item() == weight


class Spoiling(TrainerCallback):
    """From one step on the classifier says the opposite."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: torch.nn.Module, **_: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                model.classifier.weight.neg_()


def test_the_average_of_the_best_step_is_kept_and_not_the_last(tmp_path: Path) -> None:
    options, fields = {"callbacks": [Spoiling(19)]}, {"epochs": 4, "ema": 0.5, "keep_checkpoints": 1}
    fields["save_every"] = 100  # the best is saved all the same
    outcome = trained(make_pictures(tmp_path / "data"), tmp_path / "out", options, **fields)
    logged = [entry for entry in outcome.metrics["log"] if "eval_top1" in entry]
    best = max(logged, key=lambda entry: entry["eval_top1"])
    assert best["eval_top1"] > logged[-1]["eval_top1"], "the test needs a run whose last score is not its best"
    assert outcome.score == best["eval_top1"]
    found = outcome.metrics["validation"]["negative_log_likelihood"]
    assert found == pytest.approx(best["eval_negative_log_likelihood"], rel=1e-5)
    assert outcome.metrics["kept"] == f"the averaged weights of step {best['step']}, the best in validation"
    there = {path.name for path in (tmp_path / "out" / "checkpoints").glob("checkpoint-*")}
    assert there == {f"checkpoint-{best['step']}", "checkpoint-24"}


def test_the_kept_weights_carry_their_confidence_also_where_a_run_is_extended(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", val=21)
    lines: list[str] = []
    options = {"callbacks": [Spoiling(10)], "report": lines.append}
    outcome = trained(data, tmp_path / "out", options, epochs=2, ema=0.5)
    first = opening.open(tmp_path / "out").confidence()  # which is refused where it is of other weights
    assert first is not None
    assert first.temperature == outcome.metrics["confidence"]["temperature"]
    assert first.about["parts"] == {"probabilities": 21, "sets": 21, "strangers": 21}
    assert first.about["distances_from"] == "21 training pictures"
    assert first.about["data"] == "the validation pictures of the training run"
    assert first.trained_pictures is not None
    assert first.trained_pictures.shape == (21, 6)
    assert not [line for line in lines if "calibrat" in line]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Sets of 90% hold the truth" in card
    assert "distances are from 21 training pictures" in card

    trained(data, tmp_path / "out", {"resume": True}, epochs=3, ema=0.5, keep_best=False)
    second = opening.open(tmp_path / "out").confidence()
    assert second is not None
    assert second.weights != first.weights


def test_a_recipe_without_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    whole = finishing.whole_folder
    monkeypatch.setattr(finishing, "whole_folder", lambda *given, **how: written.append(how) or whole(*given, **how))
    data = make_pictures(tmp_path / "data", val=21)
    trained(data, tmp_path / "out", epochs=1)
    fields = {"epochs": 1, "calibrate": False, "keep_best": False}
    outcome = trained(data, tmp_path / "out", {"overwrite": True}, **fields)
    assert "confidence" not in outcome.metrics
    assert outcome.metrics["kept"] == "the weights after the last step"
    assert outcome.metrics["hardware"] == finishing.hardware(torch.device("cpu"))
    assert [how["last"] for how in written] == ["config.json"] * 2  # by which a run is known to have ended
    assert not list((tmp_path / "out").glob("confidence.*"))
    assert "How sure" not in (tmp_path / "out" / "README.md").read_text()


def test_too_few_validation_pictures_are_said_and_the_model_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    drawn: list[Any] = []
    assert finishing.PICTURES_WORTH_A_WORD == 1000
    monkeypatch.setattr(finishing, "PICTURES_WORTH_A_WORD", 29)  # and there are 30
    monkeypatch.setattr(finishing, "confusion_matrix", lambda *given: drawn.append(given))
    data, labels = make_pictures(tmp_path / "data"), ("red", "blue", "green")
    outcome = trained(data, tmp_path / "out", {"report": lines.append}, epochs=1, labels=labels)
    [(counts, names, path)] = drawn
    assert counts == outcome.metrics["validation"]["confusion_matrix"]
    assert ([sum(row) for row in counts], tuple(names), path.name) == ([3] * 3, labels, "confusion_matrix.png")
    assert tuple(outcome.metrics["validation"]["per_class"]) == labels
    first, line = [line for line in lines if "calibrat" in line]
    assert first == "calibrating the model on the 9 validation pictures"
    assert line.startswith(
        "the model is not calibrated: calibration takes 60 held-out pictures or more (3 parts of 20)"
    )
    assert outcome.metrics["confidence"]["why_not"] in line
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not list((tmp_path / "out").glob("confidence.*"))
    assert "Not calibrated: calibration takes 60" in (tmp_path / "out" / "README.md").read_text()


def test_a_model_is_calibrated_where_it_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(finishing, "calibrate_written", lambda *given, **how: calls.append((given, how)) or {"a": 1})
    split: Any = SimpleNamespace(train=range(600), val=range(401))
    said: list[str] = []
    assert finishing._calibrated(tmp_path, split, torch.device("cuda", 1), said.append) == {"a": 1}
    [(given, how)] = calls
    assert given == (tmp_path, split.val, split.train)
    assert how == {"device": "cuda:1", "about": {"data": "the validation pictures of the training run"}}
    assert said == ["calibrating the model on the 401 validation pictures"]
    split.train = range(599)  # a thousand in all
    finishing._calibrated(tmp_path, split, torch.device("cpu"), said.append)
    assert len(said) == 1


def test_validation_pictures_that_were_trained_on_are_left_out(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", val=21)
    shutil.copyfile(data / "train" / "red" / "0.png", data / "val" / "red" / "again.png")
    outcome = trained(data, tmp_path / "out", epochs=1)
    assert outcome.metrics["validation_images"] == 64
    assert outcome.metrics["confidence"]["pictures"] == 63
    assert outcome.metrics["confidence"]["left_out_as_trained_on"] == 1


@pytest.mark.parametrize(("kind", "columns"), [("multi_label_classification", 2), ("regression", 1)])
def test_of_other_models_what_applies_is_done(kind: str, columns: int, tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures", val=21)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        rows = []
        for path in sorted((pictures / split).rglob("*.png")):
            label = "|".join(name for name in ("dark", "red") if rng.random() < 0.6) or "dark"
            rows.append({"image": str(path), "label": label if columns == 2 else f"{rng.random():.3f}"})
        lines = ["image,label", *(f"{row['image']},{row['label']}" for row in rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    options = {"val": str(tmp_path / "val.csv"), "problem_type": kind}
    outcome = trained(tmp_path / "train.csv", tmp_path / "out", options, epochs=1)
    found = outcome.metrics["confidence"]
    if kind == "regression":
        assert "a regression model has values and no probabilities" in found["why_not"]
        return
    assert len(found["temperature"]) == columns
    written = opening.open(tmp_path / "out").confidence()
    assert written is not None
    assert not written.sets

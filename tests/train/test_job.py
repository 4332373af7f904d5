"""Runs from data to a folder with a model: every kind of data and start, and what is written."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from tiny_training import CLASSES, FIELDS, make_pictures
from transformers import TrainerCallback, TrainingArguments

import vit_hybrid
from vit_hybrid import Predictor, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.checkpoints import jax
from vit_hybrid.data import DataError, read_labeled
from vit_hybrid.files import is_marked
from vit_hybrid.train import trainer
from vit_hybrid.train.augmentation import BatchAugmentation
from vit_hybrid.train.job import look, train
from vit_hybrid.train.pictures import EpochSampler
from vit_hybrid.train.recipe import RecipeError, build_recipe
from vit_hybrid.train.run import Run, TrainingError, TrainingStopped
from vit_hybrid.train.starting import prepared

WRITTEN = {
    "README.md",
    "config.json",
    "confusion_matrix.png",
    "metrics.json",
    "model.safetensors",
    "preprocessor_config.json",
    "recipe.yaml",
    "training_curve.png",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


def run(data: Path, output: Path, options: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A short run of a tiny hybrid; without `architecture` in `changes` it starts from random weights."""
    recipe = build_recipe({**FIELDS, "epochs": 1, **changes})
    return train(Run(data=str(data), output=output, recipe=recipe, device="cpu", **(options or {})))


def test_a_run_learns_and_leaves_everything(pictures: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    began = time.monotonic()
    outcome = run(pictures, tmp_path / "out", {"report": lines.append, "command": "vit-hybrid train x"}, epochs=12)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= WRITTEN
    assert not list((tmp_path / "out").glob(".*"))
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["top1"] == outcome.score >= 2 / 3  # three colors that a glance tells apart
    assert outcome.score_name == "top1"
    assert (metrics["train_images"], metrics["validation_images"]) == (21, 9)
    assert 0 < metrics["seconds"] < time.monotonic() - began
    assert metrics["finished"] in {(datetime.now(UTC) - timedelta(days=ago)).strftime("%Y-%m-%d") for ago in (0, 1)}
    assert metrics["versions"] == {
        **{"vit-hybrid": vit_hybrid.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    }
    facts = {"start": "random weights", "command": "vit-hybrid train x", "data": str(pictures), "resumed": ""}
    assert {name: metrics[name] for name in facts} == facts
    assert (metrics["epochs"], metrics["steps"], metrics["seed"], metrics["processes"]) == (12, 72, 0, 1)
    losses = [entry["loss"] for entry in metrics["log"] if "loss" in entry]
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:6])
    assert all(0 <= entry["accuracy"] <= 1 for entry in metrics["log"] if "loss" in entry)
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in ("vit-hybrid train x", "| top-1 accuracy |", "random weights", "blue, green, red", "| epochs | 12.0 |"):
        assert fact in card
    assert "\n21 training pictures, 12 epochs, 72 steps, seed\n0, " in card
    assert "\nOn 9 validation pictures, which were not trained on" in card
    assert "| batch_size | 4 |" in card
    assert "| flip |" not in card  # as it is by default
    for figure in ("training_curve.png", "confusion_matrix.png"):
        with Image.open(tmp_path / "out" / figure) as image:
            assert min(image.size) > 200

    predictor = Predictor.from_pretrained(tmp_path / "out", device="cpu")
    val = read_labeled(pictures, "val")
    found = predictor.logits([val.picture(index) for index in range(len(val))]).argmax(-1)
    assert (found == val.targets).mean() == pytest.approx(outcome.score)


def test_the_best_of_several_validations_is_kept(pictures: Path, tmp_path: Path) -> None:
    outcome = run(pictures, tmp_path, epochs=4, learning_rate=0.05, schedule="constant")
    scores = [entry["eval_top1"] for entry in outcome.metrics["log"] if "eval_top1" in entry]
    assert outcome.score == max(scores)
    assert outcome.metrics["chosen"].startswith(", but chosen by")
    last = run(pictures, tmp_path / "last", epochs=4, learning_rate=0.05, schedule="constant", keep_best=False)
    assert last.metrics["chosen"] == ""
    assert last.score == [entry["eval_top1"] for entry in last.metrics["log"] if "eval_top1" in entry][-1]


def test_averaged_weights_are_validated_and_kept(pictures: Path, tmp_path: Path) -> None:
    plain = run(pictures, tmp_path / "plain", keep_best=False)
    averaged = run(pictures, tmp_path / "averaged", keep_best=False, ema=0.9)
    assert averaged.metrics["kept"] == "the averaged weights after the last step"
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "averaged")]
    assert not torch.equal(*(each["classifier.bias"] for each in weights))
    assert plain.score != averaged.score or plain.metrics["validation"] != averaged.metrics["validation"]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd"},
        {"optimizer": "muon", "precision": "bf16"},
        {"gradient_checkpointing": True, "channels_last": True, "attention": "sdpa"},
        {"loss": "binary_cross_entropy", "mixup": 0.2, "cutmix": 1.0, "randaugment_layers": 1, "erase": 0.5},
        {"class_weights": "balanced", "layer_decay": 0.7, "schedule": "linear", "label_smoothing": 0.1},
        {"class_weights": {"red": 3.0}, "gradient_accumulation": 2, "schedule": "constant"},
        {"freeze": ["stem", "stage1"], "dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.2, "workers": 1},
        {"growing": [{"image_size": 16, "epochs": 1}, {"image_size": 32, "epochs": 1}], "epochs": 2, "shift": 2},
        {"early_stopping": 1, "epochs": 3, "validate_every": 0.5, "tensorboard": True},
        {"adapter": {"method": "lora", "r": 2}, "ema": 0.5},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_settings(changes: dict[str, Any], pictures: Path, tmp_path: Path) -> None:
    outcome = run(pictures, tmp_path, **changes)
    assert 0 <= outcome.score <= 1
    first = ViTHybridForImageClassification.from_pretrained(tmp_path)
    assert all(weight.isfinite().all() for weight in first.state_dict().values())
    if changes.get("tensorboard"):
        assert list(tmp_path.rglob("events.out.tfevents.*"))
    if changes.get("early_stopping"):
        assert outcome.metrics["steps"] <= 18


def test_mixing_ends_where_the_recipe_says(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed: list[bool] = []
    seeds: list[int] = []
    augment = BatchAugmentation.__call__

    def watched(*arguments: Any) -> Any:
        values, targets = augment(*arguments)
        mixed.append(targets.ndim == 2)
        seeds.append(arguments[3])
        return values, targets

    sampled: list[Any] = []
    threads: list[Any] = []
    seeded: list[int] = []

    class Starting(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            seeded.append(torch.initial_seed())  # of what is dropped

    monkeypatch.setattr(BatchAugmentation, "__call__", watched)
    monkeypatch.setattr(trainer, "EpochSampler", lambda *given: sampled.append(given) or EpochSampler(*given))
    monkeypatch.setattr("vit_hybrid.train.job.take_threads", threads.append)
    monkeypatch.setattr("vit_hybrid.train.job.set_seed", seeded.append)  # of random weights
    quiet: list[str] = []
    monkeypatch.setattr("vit_hybrid.train.job.disable_progress_bar", lambda: quiet.append("transformers"))
    prepared_for: list[Any] = []
    monkeypatch.setattr(
        "vit_hybrid.train.job.prepared",
        lambda model, recipe, *how: prepared_for.append(how) or prepared(model, recipe, *how),
    )
    options = {"threads": 3, "callbacks": [Starting()]}
    fields = {"epochs": 2, "max_steps": 10, "gradient_accumulation": 2, "seed": 7}  # of epochs that have 6 steps
    run(pictures, tmp_path, options, mixup=1.0, mix_until=0.7, **fields)
    assert (threads, sampled) == ([3], [(21, 7, 4)])  # pictures, of the order, and of a step
    assert (seeded, quiet) == ([7, 7], ["transformers"])
    assert prepared_for == [(True, 10)]  # a CPU, and steps in all
    assert mixed == [True] * 14 + [False] * 6
    # Each part of each step is augmented in its own way, by the run's seed and its place alone.
    places = [(step, part) for step in range(10) for part in range(2)]
    assert seeds == [int(np.random.SeedSequence((7, *place, 0)).generate_state(1)[0]) for place in places]


def test_classes_left_out_and_pictures_held_back(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "held-back.txt").write_text("train/{blue,green,red}/{2,5}.png\n")
    fields = {"leave_out": ["green"], "held_back": str(tmp_path / "held-back.txt")}
    outcome = run(pictures, tmp_path / "out", **fields)
    assert (outcome.metrics["train_images"], outcome.metrics["validation_images"]) == (10, 4)
    assert ViTHybridForImageClassification.from_pretrained(tmp_path / "out").config.id2label == {0: "blue", 1: "red"}
    with pytest.raises(TrainingError, match="leave_out was green and is red"):
        run(pictures, tmp_path / "out", {"resume": True}, **{**fields, "epochs": 2, "leave_out": ["red"]})
    for what in ("data", "weights"):
        with monkeypatch.context() as others:
            others.setattr(f"vit_hybrid.train.job.contradictions_of_{what}", lambda *_: ["it was one and is two"])
            with pytest.raises(TrainingError, match="it was one and is two"):
                run(pictures, tmp_path / "out", {"resume": True}, **{**fields, "epochs": 2})
    with pytest.raises(DataError, match="'geen', to be left out, is no label; did you mean 'green'"):
        run(pictures, tmp_path / "other", leave_out=["geen"])


def test_frozen_parts_stay(pictures: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run(pictures, tmp_path, architecture=None, model=str(tiny_folder), freeze=["backbone"])
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_folder, tmp_path))
    changed = {name for name in before if name in after and not torch.equal(before[name], after[name])}
    assert changed
    assert not any(".backbone." in name for name in changed)


def rows(pictures: Path, folder: Path, value: Any) -> Path:
    """A CSV of the training and validation pictures with `value(label)` in its label column."""
    for split in ("train", "val"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label"])
            for path in sorted((pictures / split).rglob("*.png")):
                writer.writerow([path, value(path.parent.name)])
    return folder


def test_several_labels(pictures: Path, tmp_path: Path) -> None:
    data = rows(pictures, tmp_path, {"blue": "cold|sea", "green": "cold", "red": "warm"}.__getitem__)
    outcome = run(data, tmp_path / "out", epochs=3)
    assert outcome.score_name == "mean_average_precision"
    config = ViTHybridForImageClassification.from_pretrained(tmp_path / "out").config
    assert config.problem_type == "multi_label_classification"
    assert list(config.id2label.values()) == ["cold", "sea", "warm"]


def test_numbers(pictures: Path, tmp_path: Path) -> None:
    data = rows(pictures, tmp_path, {"blue": 0.25, "green": 0.5, "red": 0.75}.__getitem__)
    outcome = run(data, tmp_path / "out", epochs=3)
    assert outcome.score_name == "mae"
    assert not any("accuracy" in entry for entry in outcome.metrics["log"])
    model = ViTHybridForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.problem_type == "regression"
    assert model.config.num_labels == 1


class TestStarts:
    def start(self, source: str, pictures: Path, output: Path, **changes: Any) -> dict[str, torch.Tensor]:
        run(pictures, output, architecture=None, model=source, learning_rate=1e-12, warmup=0, **changes)
        return load_file(output / "model.safetensors")

    def test_a_folder_with_other_labels_gets_a_new_head(
        self, pictures: Path, tiny_folder: Path, tmp_path: Path
    ) -> None:
        weights = self.start(str(tiny_folder), pictures, tmp_path)
        before = load_file(tiny_folder / "model.safetensors")
        assert torch.allclose(weights["vit.layernorm.weight"], before["vit.layernorm.weight"])
        assert weights["classifier.weight"].abs().max() < 1e-6

    def test_the_same_labels_in_another_order_keep_their_head(self, pictures: Path, tmp_path: Path) -> None:
        torch.manual_seed(1)
        names = ["red", "blue", "green"]
        config = tiny_hybrid.tiny_config(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
        model = ViTHybridForImageClassification(config)
        torch.nn.init.normal_(model.classifier.weight)
        model.save_pretrained(tmp_path / "start")
        tiny_hybrid.tiny_processor().save_pretrained(tmp_path / "start")
        weights = self.start(str(tmp_path / "start"), pictures, tmp_path / "out")
        order = [names.index(label) for label in sorted(CLASSES)]
        assert torch.allclose(weights["classifier.weight"], model.classifier.weight[order], atol=1e-6)

    def test_a_headless_model(self, pictures: Path, tiny_folder: Path, tmp_path: Path) -> None:
        ViTHybridModel.from_pretrained(tiny_folder, add_pooling_layer=False).save_pretrained(tmp_path / "start")
        tiny_hybrid.tiny_processor().save_pretrained(tmp_path / "start")
        weights = self.start(str(tmp_path / "start"), pictures, tmp_path / "out")
        assert weights["classifier.weight"].shape == (3, 16)

    def test_another_resolution(self, pictures: Path, tiny_folder: Path, tmp_path: Path) -> None:
        self.start(str(tiny_folder), pictures, tmp_path, image_size=48)
        predictor = Predictor.from_pretrained(tmp_path, device="cpu")
        assert predictor.config.image_size == 48
        assert predictor.preprocessing.crop_size == (48, 48)
        assert predictor.logits([Image.new("RGB", (90, 60))]).shape == (1, 3)

    def test_a_preset_and_a_jax_file(self, pictures: Path, tmp_path: Path) -> None:
        options = {"image_size": 64, "max_steps": 1}
        outcome = run(pictures, tmp_path / "preset", architecture=None, model="R+Ti/16", **options)
        assert outcome.metrics["start"] == "random weights (R+Ti/16)"
        model = ViTHybridForImageClassification.from_pretrained(tmp_path / "preset")
        jax.save(model, tmp_path / "model.npz", approximate=True)
        weights = self.start(str(tmp_path / "model.npz"), pictures, tmp_path / "jax", **options)
        before = model.state_dict()["vit.encoder.layer.0.intermediate.dense.weight"]
        assert torch.allclose(weights["vit.encoder.layer.0.intermediate.dense.weight"], before, atol=1e-6)

    def test_a_model_and_an_architecture_contradict(self, pictures: Path, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"architecture.*give one"):
            run(pictures, tmp_path, model="vit-hybrid-tiny-imagenet")

    def test_an_architecture_that_cannot_be(self, pictures: Path, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"architecture: "):
            run(pictures, tmp_path, architecture={**FIELDS["architecture"], "hidden_size": 17})


class TestBadInput:
    @pytest.fixture
    def damaged(self, pictures: Path, tmp_path: Path) -> Path:
        folder = Path(shutil.copytree(pictures, tmp_path / "damaged"))
        (folder / "train" / "red" / "0.png").write_bytes(b"no picture")
        return folder

    def test_unreadable_pictures_are_skipped_and_listed(self, damaged: Path, tmp_path: Path) -> None:
        lines: list[str] = []
        outcome = run(damaged, tmp_path / "out", {"report": lines.append}, epochs=2)
        # An epoch is five steps of those that are left.
        assert [entry["step"] for entry in outcome.metrics["log"] if "eval_loss" in entry] == [5, 10]
        assert any("skipped" in line and "0.png" in line for line in lines)
        assert outcome.metrics["train_images"] == 20
        assert len(outcome.metrics["skipped"]) == 1

    def test_unless_strict(self, damaged: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"0\.png.*--strict"):
            run(damaged, tmp_path / "out", {"strict": True})

    def test_one_class(self, pictures: Path, tmp_path: Path) -> None:
        shutil.copytree(pictures / "train" / "red", tmp_path / "data" / "red")
        with pytest.raises(DataError, match="one class only"):
            run(tmp_path / "data", tmp_path / "out")

    def test_a_loss_that_is_no_number_keeps_the_checkpoints(self, pictures: Path, tmp_path: Path) -> None:
        with pytest.raises(TrainingStopped, match=r"loss is .*learning_rate"):
            run(
                pictures,
                tmp_path,
                epochs=6,
                optimizer="sgd",
                learning_rate=1e30,
                clip_norm=0,
                warmup=0.5,
                save_every=0.2,
                momentum=0.0,
            )
        for weights in tmp_path.rglob("model.safetensors"):
            assert all(weight.isfinite().all() for weight in load_file(weights).values())

    def test_far_smaller_pictures_than_the_model_takes_get_a_word(self, pictures: Path, tmp_path: Path) -> None:
        lines: list[str] = []
        architecture = {**FIELDS["architecture"], "image_size": 80}
        run(pictures, tmp_path, {"report": lines.append}, architecture=architecture, max_steps=1)
        assert any("24 pixels" in line and "--image-size" in line for line in lines)

    def test_half_precision_with_loss_scaling_needs_a_gpu(self, pictures: Path, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="f16 needs a GPU"):
            run(pictures, tmp_path, precision="f16")

    def test_a_run_that_is_there_is_not_replaced_unasked(self, pictures: Path, tmp_path: Path) -> None:
        run(pictures, tmp_path, max_steps=2)
        with pytest.raises(TrainingError, match=r"--resume.*--overwrite"):
            run(pictures, tmp_path, max_steps=2)
        again = run(pictures, tmp_path, {"overwrite": True}, max_steps=2, seed=3)  # as long as the one before
        assert (again.metrics["steps"], again.metrics["epochs"]) == (2, pytest.approx(2 / 6))
        written = json.loads((tmp_path / "metrics.json").read_text())
        assert (written["steps"], written["seed"], written["recipe"]["seed"]) == (2, 3, 3)

    def test_class_weights_of_unknown_labels(self, pictures: Path, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"'purple'.*blue, green, red"):
            run(pictures, tmp_path, class_weights={"purple": 2.0})


def test_a_run_says_what_it_found_before_it_starts_and_what_it_passed_over_at_the_end(
    pictures: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(pictures, tmp_path / "data"))
    for name in ("green", "red"):
        (data / "train" / name / "0.png").write_bytes(b"no picture")
    (data / "train" / "red" / "6.png").unlink()
    (data / "val" / "red" / ".hidden.png").touch()
    (data / "val" / "red" / "notes.doc").touch()
    lines: list[str] = []

    class Starting(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            lines.append("start")

    run(data, tmp_path / "out", {"report": lines.append, "callbacks": [Starting()]}, max_steps=1)
    found = "pictures of 3 classes from the folders in .*data/"
    patterns = (
        rf"training on 20 {found}train: blue 7, green 7, red 6",
        rf"validating with 9 {found}val: blue 3, green 3, red 3",
        "start",
    )
    places = [[index for index, line in enumerate(lines) if re.fullmatch(pattern, line)] for pattern in patterns]
    assert [len(place) for place in places] == [1, 1, 1]
    assert places == sorted(places)
    assert lines[-1].startswith("passed over: 2 pictures that cannot be read (")
    assert "1 hidden file or folder" in lines[-1]
    assert "1 file of another kind (1 .doc)" in lines[-1]


def test_looking_stops_before_the_model_and_writes_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(pictures, tmp_path / "data"))
    (data / "val" / "red" / "0.png").write_bytes(b"no picture")
    monkeypatch.setattr("vit_hybrid.train.job.starting_model", lambda *_: pytest.fail("no model is needed"))
    lines: list[str] = []
    asked = Run(str(data), tmp_path / "out", build_recipe(FIELDS), device="cpu", report=lines.append)
    split = look(asked)
    assert (len(split.train), len(split.val)) == (21, 8)
    assert [line.partition(":")[0].partition(" from ")[0] for line in lines] == [
        "training on 21 pictures of 3 classes",
        "validating with 9 pictures of 3 classes",
        "skipped",
        "passed over",
    ]
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").touch()
    with pytest.raises(TrainingError, match=r"--overwrite"):
        look(asked)
    with pytest.raises(TrainingError, match="this is a file"):
        look(replace(asked, output=tmp_path / "out" / "config.json"))


@pytest.mark.parametrize(
    "settings",
    [{"image_size": None}, {"image_size": 64}, {"architecture": None}, {"architecture": None, "image_size": 48}],
)
def test_looking_tells_what_the_model_could_make_nothing_of(
    settings: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(pictures, tmp_path / "data"))
    # At 32 pixels it would be resized to 32 x 2,560,000 and is used; at 64 to twice as much each way.
    Image.new("L", (1, 80_000)).save(data / "val" / "red" / "strip.png")
    lines: list[str] = []
    recipe = build_recipe({**FIELDS, **settings})
    split = look(Run(str(data), tmp_path / "out", recipe, device="cpu", report=lines.append))
    if recipe.architecture is not None and recipe.image_size is None:
        assert len(split.val) == 10
        assert len(lines) == 2
        return
    assert len(split.val) == 9
    [skipped] = [line for line in lines if line.startswith("skipped: ")]
    side = 64 if recipe.architecture is not None else 57 if recipe.image_size else 76  # the model in the package crops
    size = f"{side} x {80_000 * side}"
    assert skipped.endswith(
        f"strip.png: a picture of 1 x 80000 would be resized to {size}, more pixels than the 89478485 allowed; crop it "
        "first"
    )
    assert lines[-1] == "passed over: 1 picture that cannot be read (red/strip.png)"


def test_many_pictures_that_cannot_be_read_get_five_lines_and_a_count(pictures: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(pictures, tmp_path / "data"))
    for path in (data / "train" / "red").iterdir():
        path.write_bytes(b"no picture")
    lines: list[str] = []
    outcome = run(data, tmp_path / "out", {"report": lines.append}, max_steps=1)
    skipped = [line for line in lines if line.startswith("skipped: ")]
    assert len(skipped) == 6
    assert skipped[-1].startswith("skipped: 7 of 30 pictures cannot be read, all because: ")
    assert len(outcome.metrics["skipped"]) == 7
    for path in (data / "val").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no picture of the validation split is readable; the first: .*\.png"):
        run(data, tmp_path / "other")


def test_results_within_the_data_are_no_class(pictures: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in CLASSES:
        shutil.copytree(pictures / "train" / name, data / name)

    class Stopping(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingStopped, match="with a checkpoint"):
        run(data, data / "runs" / "1", {"callbacks": [Stopping()]})
    assert is_marked(data / "runs" / "1")
    resumed = run(data, data / "runs" / "1", {"resume": True})
    assert resumed.metrics["resumed"] == " since it was resumed at checkpoint-1"
    again = run(data, data / "runs" / "2", {"callbacks": [Stopping()]}, max_steps=1)  # in its last step: it is through
    for outcome in (resumed, again):
        assert outcome.metrics["train_images"] + outcome.metrics["validation_images"] == 21
        assert list(ViTHybridForImageClassification.from_pretrained(outcome.output).config.id2label.values()) == [
            "blue",
            "green",
            "red",
        ]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_names_that_are_no_utf_8_are_escaped(pictures: Path, tmp_path: Path) -> None:
    data, output = tmp_path / os.fsdecode(b"donn\xe9es"), tmp_path / "out"
    shutil.copytree(pictures, data)
    for part in ("train", "val"):
        (data / part / "red").rename(data / part / os.fsdecode(b"caf\xe9"))
    (data / "train" / "blue" / os.fsdecode(b"\xe9t\xe9.png")).write_bytes(b"no picture")
    lines: list[str] = []
    options = {"report": lines.append, "command": f"vit-hybrid train {data}"}
    outcome = run(data, output, options, max_steps=2, save_every=0.2, ema=0.5)
    assert outcome.metrics["command"].endswith(r"donn\xe9es")
    assert outcome.metrics["data"].endswith(r"donn\xe9es")
    metrics = json.loads((output / "metrics.json").read_bytes())
    assert metrics["data"] == str(tmp_path / r"donn\xe9es")
    assert r"\xe9t\xe9.png" in metrics["skipped"][0]
    card = (output / "README.md").read_text(encoding="utf-8")
    assert rf"vit-hybrid train {tmp_path}/donn\xe9es" in card
    assert r"blue, caf\xe9, green" in card
    assert (output / "recipe.yaml").read_text(encoding="utf-8")
    predictor = Predictor.from_pretrained(output, device="cpu")
    assert list(predictor.config.id2label.values()) == ["blue", r"caf\xe9", "green"]
    resumed = run(data, output, {**options, "resume": True}, max_steps=3, save_every=0.2, ema=0.5)
    assert "resuming from checkpoint-2" in lines
    assert resumed.metrics["steps"] == 3


def test_a_folder_from_which_weights_cannot_be_read_is_refused_before_training(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"sort\\xe9e.*no UTF-8.*give another"):
        run(pictures, tmp_path / os.fsdecode(b"sort\xe9e") / "run")
    assert not os.listdir(tmp_path)


def test_compiled_training_gives_the_same_run(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All of torch.compile but the C++ compiler, which takes two minutes.
    compiling = functools.partial(TrainingArguments, torch_compile_backend="aot_eager")
    monkeypatch.setattr("vit_hybrid.train.plan.TrainingArguments", compiling)
    changes = {"max_steps": 2, "learning_rate": 1e-3}
    plain = run(pictures, tmp_path / "plain", **changes)
    compiled = run(pictures, tmp_path / "compiled", compile=True, **changes)
    losses = [[entry["loss"] for entry in each.metrics["log"] if "loss" in entry] for each in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    weights = load_file(tmp_path / "compiled" / "model.safetensors")
    assert not any("_orig_mod" in name for name in weights)

"""Recipes: the shipped ones run, files and flags make one table, and what cannot be is refused in one line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch
import typer
import yaml
from PIL import Image
from safetensors.torch import load_file

from vit_hybrid.cli.main import app
from vit_hybrid.data.tiny_imagenet import known_labels
from vit_hybrid.train.job import train
from vit_hybrid.train.recipe import (
    DEFAULT_RECIPE,
    Recipe,
    RecipeError,
    build_recipe,
    held_back_pictures,
    load_recipe,
    parse_settings,
    shipped_recipes,
)
from vit_hybrid.train.run import Run

EXPECTED = {"adamw", "augreg", "from-scratch", "linear-probe", "lora", "paper"}
CLASSES, PICTURES = ("blue", "red"), 8
BATCH = 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders under train/ and val/: noise with a tint, which tells the classes apart."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for channel, name in zip((2, 0), CLASSES, strict=True):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(PICTURES):
                levels = random.integers(0, 128, (40, 36, 3), dtype=np.uint8)
                levels[..., channel] += 127
                Image.fromarray(levels).save(place / f"{index}.png")
    return folder


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- The shipped ones -------------------------------------------------------------------------------------------------


def test_the_recipes_that_were_promised_are_shipped() -> None:
    assert set(shipped_recipes()) >= EXPECTED
    assert shipped_recipes() == sorted(shipped_recipes())
    assert DEFAULT_RECIPE == "adamw"


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_names_its_command_and_the_result_seen(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.summary
    program, command, *arguments = shlex.split(recipe.command)
    assert (program, command) == ("vit-hybrid", "train")
    # Parsed as the command line itself would parse it: a flag that is not there is an error.
    parser = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    given = parser.make_context("train", arguments).params
    assert (given["recipe"] or DEFAULT_RECIPE) == name
    assert load_recipe(name, parse_settings(given["settings"] or ()))
    shares = [float(figure) for figure in re.findall(r"(\d+(?:\.\d+)?) ?%", recipe.result)]
    assert shares
    assert all(10 < share <= 100 for share in shares)
    assert re.search(r"CPU|GPU|core", recipe.result), "the result does not say what it was measured on"


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_survives_the_way_through_its_own_file(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert load_recipe(recipe_file(tmp_path, recipe.to_yaml())) == recipe


def test_the_authors_fine_tuning_is_theirs() -> None:
    for name in ("paper", "augreg"):
        recipe = load_recipe(name)
        assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 0.0)
        assert (recipe.schedule, recipe.clip_norm, recipe.batch_size) == ("cosine", 1.0, 512)
        assert recipe.image_size == 384
        assert (recipe.layer_decay, recipe.head_multiplier) == (1.0, 1.0)
        assert not any((recipe.mixup, recipe.cutmix, recipe.erase, recipe.randaugment_layers, recipe.dropout))
        assert recipe.crop_scale == (0.05, 1.0)
    for name, rate, steps, warmup in (("paper", 0.01, 10_000, 500), ("augreg", 0.03, 500, 100)):
        recipe = load_recipe(name)
        assert (recipe.learning_rate, recipe.max_steps, recipe.warmup * recipe.max_steps) == (rate, steps, warmup)


def test_the_others_are_what_their_results_were_measured_with() -> None:
    found = {
        name: (recipe.optimizer, recipe.learning_rate, recipe.weight_decay, recipe.epochs, recipe.batch_size)
        for name in ("adamw", "linear-probe", "lora", "muon")
        for recipe in [load_recipe(name)]
    }
    assert found == {
        "adamw": ("adamw", 1e-3, 0.05, 20, 32),
        "linear-probe": ("adamw", 1e-2, 0, 20, 64),
        "lora": ("adamw", 5e-3, 0, 20, 32),
        "muon": ("muon", 1e-2, 0.05, 20, 32),
    }
    assert (load_recipe("adamw").layer_decay, load_recipe("muon").layer_decay) == (0.8, 0.9)
    assert load_recipe("muon").adam_learning_rate == 1e-3
    everywhere = ["query", "key", "value", "dense"]
    assert load_recipe("lora").adapter == {
        **{"method": "lora", "r": 8, "alpha": 16, "dropout": 0.1, "target_modules": everywhere}
    }


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_trains(name: str, pictures: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Two steps, from the smallest model, with all that the recipe switches on."""
    changes: dict[str, Any] = {
        "max_steps": 2,
        "batch_size": BATCH,
        "gradient_accumulation": min(load_recipe(name).gradient_accumulation, 2),
        "warmup": 0.0,
        "workers": 0,
    }
    if load_recipe(name).architecture is None:
        changes |= {"model": str(tiny_folder), "image_size": tiny_hybrid.IMAGE_SIZE}
    else:
        changes |= {"architecture": _tiny_architecture(), "labels": None, "val_fraction": 0.5}
        changes |= {"leave_out": (), "held_back": None}
    recipe = load_recipe(name, changes)

    outcome = train(Run(data=str(pictures), output=tmp_path, recipe=recipe, device="cpu"))

    assert outcome.metrics["steps"] == 2
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    if recipe.architecture is None:
        changed = _changed(load_file(tiny_folder / "model.safetensors"), load_file(tmp_path / "model.safetensors"))
        assert {_part(weight) for weight in changed} == TRAINED.get(name, {"backbone", "encoder", "embeddings", "head"})


def test_the_shipped_list_has_twenty_pictures_of_each_class_that_the_recipe_learns() -> None:
    recipe = load_recipe("tiny-imagenet")
    held_back = held_back_pictures(recipe)
    classes = [name.split("/")[1] for name in held_back]
    learned = [wnid for wnid, label in known_labels().items() if label not in recipe.leave_out]
    assert len(learned) == 180
    assert classes == [wnid for wnid in learned for _ in range(20)]


# What learns, where that is not everything.
TRAINED = {"linear-probe": {"head"}, "lora": {"head", "encoder"}}


def _tiny_architecture() -> dict[str, Any]:
    config = tiny_hybrid.tiny_config().to_dict()
    names = ("image_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    backbone = ("depths", "hidden_sizes", "embedding_size", "num_groups", "layer_type", "global_padding")
    return {
        **{name: config[name] for name in names},
        "backbone_config": {name: config["backbone_config"][name] for name in (*backbone, "out_features")},
    }


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {
        name
        for name, weight in after.items()
        if weight.shape != before[name].shape or not torch.equal(weight, before[name])
    }


def _part(weight: str) -> str:
    """Where a weight of the tiny model lies; the final norm goes with the classifier."""
    if weight.startswith(("classifier.", "vit.layernorm.")):
        return "head"
    if ".backbone." in weight:
        return "backbone"
    return "encoder" if ".encoder.layer." in weight else "embeddings"


# --- Files and flags --------------------------------------------------------------------------------------------------


def test_a_file_with_a_few_fields_leaves_the_others_at_their_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path, "epochs: 3\ncrop_scale: [0.5, 1]\n"))
    assert recipe == Recipe(epochs=3, crop_scale=(0.5, 1.0))


def test_what_a_file_leaves_out_is_what_it_always_was() -> None:
    assert Recipe().model_dump() == {
        **{"summary": "", "command": "", "result": ""},
        **{"model": None, "architecture": None, "image_size": None, "growing": ()},
        **{"dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0, "freeze": (), "adapter": None},
        **{"labels": None, "leave_out": (), "attention": "auto"},
        **{"epochs": 20.0, "max_steps": None, "batch_size": 32, "gradient_accumulation": 1},
        **{"optimizer": "adamw", "learning_rate": 1e-3, "adam_learning_rate": None, "momentum": None},
        **{"betas": (0.9, 0.999), "weight_decay": 0.05, "layer_decay": 1.0, "head_multiplier": 1.0},
        **{"schedule": "cosine", "warmup": 0.05, "clip_norm": 1.0, "ema": 0.0},
        **{"loss": "auto", "label_smoothing": 0.0, "class_weights": None},
        **{"crop_scale": (0.25, 1.0), "crop_ratio": (3 / 4, 4 / 3), "shift": 0, "flip": 0.5, "color": 0.0},
        **{"randaugment_layers": 0, "randaugment_magnitude": 10.0, "erase": 0.0, "erase_scale": (0.02, 1 / 3)},
        **{"mixup": 0.0, "cutmix": 0.0, "mix_until": 1.0},
        **{"precision": "f32", "gradient_checkpointing": False, "compile": False, "channels_last": None},
        **{"workers": 1, "seed": 0, "held_back": None, "val_fraction": 0.1, "validate_every": 1.0},
        **{"save_every": 1.0, "keep_checkpoints": 2, "keep_best": True, "early_stopping": None},
        **{"calibrate": True, "log_every_steps": 25, "tensorboard": False},
    }


def test_flags_stand_over_the_file_and_settings_are_read_as_yaml(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "epochs: 3\nlearning_rate: 0.1\nmixup: 0.2\n")
    changes = parse_settings(["learning_rate=1.0e-4", "freeze=[stem, stage1]", "mixup=0.5", "mixup=0", " model = a=b"])
    recipe = load_recipe(path, changes)
    assert (recipe.epochs, recipe.learning_rate, recipe.mixup) == (3, 1e-4, 0)
    assert recipe.freeze == ("stem", "stage1")
    assert recipe.model == "a=b"


def test_numbers_in_the_way_people_write_them_are_numbers() -> None:
    # To YAML 1.1 this is a text, as it lacks a point.
    assert load_recipe(changes=parse_settings(["learning_rate=1e-4"])).learning_rate == 1e-4


def test_a_shipped_name_is_not_taken_for_a_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lora.yaml").write_text("epochs: 7\n", encoding="utf-8")
    (tmp_path / "lora").write_text("epochs: 8\n", encoding="utf-8")
    assert load_recipe("lora").adapter is not None
    assert load_recipe("lora.yaml").epochs == 7
    assert load_recipe("./lora").epochs == 8


def test_a_recipe_as_a_table_of_itself_is_plain_yaml() -> None:
    recipe = build_recipe({"growing": [{"image_size": 32, "epochs": 20}], "class_weights": {"a": 2.0}, "labels": ["é"]})
    lines = recipe.to_yaml().splitlines()
    assert lines[:4] == ["summary: ''", "command: ''", "result: ''", "model: null"]  # in their order
    assert "- é" in lines
    fields = yaml.safe_load(recipe.to_yaml())
    assert fields["growing"] == [{"image_size": 32, "epochs": 20}]
    assert fields["labels"] == ["é"]
    assert set(fields) == set(Recipe.model_fields)
    assert build_recipe(fields) == recipe


def test_a_list_of_pictures_and_a_recipe_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe_file(tmp_path, "epochs: 7\n")
    assert load_recipe("~/mine.yaml").epochs == 7
    (tmp_path / "names.txt").write_text("cat/1.png\n")
    assert held_back_pictures(build_recipe({"held_back": "~/names.txt"})) == ["cat/1.png"]


def test_growing_sizes_follow_the_epochs() -> None:
    phases = [{"image_size": size, "epochs": epochs} for size, epochs in ((32, 2), (48, 3), (56, 1))]
    recipe = build_recipe({"growing": phases, "epochs": 6})
    assert [recipe.size_in(epoch, 64) for epoch in range(8)] == [32, 32, 48, 48, 48, 56, 56, 56]
    assert Recipe().size_in(4, 64) == 64


# --- What cannot be ---------------------------------------------------------------------------------------------------


def test_a_phase_is_not_said_to_have_the_fields_of_a_recipe() -> None:
    with pytest.raises(RecipeError) as error:
        build_recipe({"growing": [{"image_size": 32, "epochs": 20, "schedule": "linear"}]})
    assert str(error.value).endswith("unknown field 'growing.0.schedule'")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rte: 0.1", "unknown field 'learning_rte'; did you mean 'learning_rate'?"),
        ("batchsize: 4", "unknown field 'batchsize'; did you mean 'batch_size'?"),
        ("zzzzzz: 4", "unknown field 'zzzzzz'"),
        ("4: 4", "unknown field '4'"),
        ("growing: [{image_sise: 32, epochs: 20}]", "unknown field 'growing.0.image_sise'; did you mean 'image_size'?"),
        ("epochs: many", ", not 'many'"),
        ("epochs: 0", "epochs: "),
        ("epochs: .nan", "epochs: "),
        ("batch_size: 2.5", "batch_size: "),
        ("batch_size: -1", "batch_size: "),
        ("optimizer: adam", "'adam'"),
        ("dropout: 1.0", "dropout: "),
        ("crop_scale: [0.5]", "crop_scale"),
        ("crop_scale: [0.9, 0.1]", "smaller first"),
        ("crop_ratio: [0, 1]", "crop_ratio"),
        ("growing: [{image_size: 32, epochs: 2}]", "growing plans 2 epochs, but epochs is 20"),
        ("batch_size: 10\ngradient_accumulation: 3", "batch_size 10 cannot be divided"),
        ("adapter: {r: 4}", "adapter needs a method"),
        ("adapter: {}", "adapter needs a method"),
        ("class_weights: evenly", "class_weights"),
        ("", "holds no fields"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "is a Git LFS pointer"),
        ("- epochs", "holds no fields"),
        ("epochs: [", "is no YAML"),
        ("epochs: 3\n\tbatch_size: 4", "is no YAML"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_names_the_file(tmp_path: Path, text: str, words: str) -> None:
    path = recipe_file(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


SHARE, RATE, ABOVE_0, COUNT = ((0, 1), (-0.1, 1.1)), ((0, 0.99), (-0.1, 1)), ((0.01, 9), (0, -1)), ((1, 9), (0, 1.5))
FROM_0 = ((0, 9), (-1,))
# What each number may be, at both ends, and what it may not be any more.
LIMITS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    **dict.fromkeys(("image_size", "max_steps", "batch_size", "gradient_accumulation"), COUNT),
    **dict.fromkeys(("keep_checkpoints", "early_stopping", "log_every_steps"), COUNT),
    **dict.fromkeys(("dropout", "attention_dropout", "drop_path", "momentum", "ema", "label_smoothing", "color"), RATE),
    **dict.fromkeys(("warmup", "flip", "erase", "mix_until"), SHARE),
    **dict.fromkeys(("epochs", "learning_rate", "adam_learning_rate", "head_multiplier"), ABOVE_0),
    **dict.fromkeys(("validate_every", "save_every"), ABOVE_0),
    **dict.fromkeys(("weight_decay", "clip_norm", "shift", "randaugment_layers", "mixup", "cutmix"), FROM_0),
    **dict.fromkeys(("workers", "seed"), FROM_0),
    "layer_decay": ((0.01, 1), (0, 1.1)),
    "val_fraction": ((0.01, 0.99), (0, 1)),
    "randaugment_magnitude": ((0, 30), (-0.1, 30.1)),
    "betas": (((0, 0.99),), ((0.9, 1), (-0.1, 0.9), (0.9,))),
    "crop_scale": (((0.5, 0.5), (0.01, 1)), ((0, 1), (0.5, 1.1), (0.5, 0.4))),
    "erase_scale": (((0.5, 0.5), (0.01, 1)), ((0, 1), (0.5, 1.1), (0.5, 0.4))),
    "crop_ratio": (((2, 2), (0.01, 9)), ((0, 1), (2, 1))),
}


@pytest.mark.parametrize("name", LIMITS)
def test_numbers_have_limits(name: str) -> None:
    possible, impossible = LIMITS[name]
    more = {"batch_size": 9} if name == "gradient_accumulation" else {}
    for value in possible:
        assert getattr(build_recipe({name: value, **more}), name) == value
    for value in impossible:
        with pytest.raises(RecipeError, match=rf"^recipe: {name}"):
            build_recipe({name: value, **more})


def test_a_phase_is_at_least_one_epoch_at_one_pixel() -> None:
    assert build_recipe({"growing": [{"image_size": 1, "epochs": 1}], "epochs": 1}).growing[0].epochs == 1
    for phase in ({"image_size": 0, "epochs": 1}, {"image_size": 1, "epochs": 0}):
        with pytest.raises(RecipeError, match=r"growing\.0\."):
            build_recipe({"growing": [{"image_size": 1, "epochs": 1}, phase][::-1], "epochs": 1})


def test_what_does_not_go_together_is_told_of_both_and_of_no_field_alone() -> None:
    with pytest.raises(RecipeError) as caught:
        build_recipe({"batch_size": 10, "gradient_accumulation": 3}, "mine")
    assert str(caught.value) == "mine: batch_size 10 cannot be divided into gradient_accumulation 3 equal parts"


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="batch_size") as caught:
        load_recipe(recipe_file(tmp_path, "epochz: 1\nbatch_size: 0\n"))
    assert "'epochz'" in str(caught.value)


def test_a_misspelled_recipe_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"adamv: there is no such recipe; did you mean 'adamw'\?.*from-scratch"):
        load_recipe("adamv")
    with pytest.raises(RecipeError, match="there is no such recipe"):
        load_recipe(tmp_path / "missing.yaml")


def test_a_folder_or_a_picture_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such recipe"):
        load_recipe(tmp_path)
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(RecipeError, match=f"^{re.escape(str(path))}: cannot be read: .*decode byte 0x89"):
        load_recipe(path)


@pytest.mark.parametrize("text", ["epochs", "=3", " = 3", "epochs=[", ""])
def test_a_setting_that_sets_nothing_is_refused(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_settings([text])
    assert "\n" not in str(caught.value)


def test_a_recipe_cannot_be_changed_behind_the_back_of_what_was_saved() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().epochs = 3  # type: ignore[misc]


def test_epochs_that_are_asked_for_replace_a_recipes_steps() -> None:
    assert load_recipe("paper").max_steps
    changes = {"epochs": 3}
    assert load_recipe("paper", changes).max_steps is None
    assert changes == {"epochs": 3}  # which are the caller's
    assert load_recipe("paper", {"epochs": 3, "max_steps": 7}).max_steps == 7


@pytest.mark.parametrize("setting", ["epochs=.inf", "learning_rate=.nan", "weight_decay=.inf"])
def test_numbers_without_end_are_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match=setting.partition("=")[0]):
        load_recipe(DEFAULT_RECIPE, parse_settings([setting]))


@pytest.mark.parametrize("setting", ["freeze=[stem]", "adapter={method: lora}"])
def test_channels_last_is_refused_where_parts_are_frozen(setting: str) -> None:
    with pytest.raises(RecipeError, match="channels_last"):
        load_recipe(DEFAULT_RECIPE, parse_settings(["channels_last=true", setting]))

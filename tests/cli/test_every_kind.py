"""Every command opens every kind of model, and says the same where it refuses one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.benchmark import models
from vit_hybrid.checkpoints import opening, timm
from vit_hybrid.cli.main import app
from vit_hybrid.errors import EngineWarning

JAX_FILE = Path(__file__).resolve().parents[1] / "recorded" / "jax" / "stem_only.npz"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 394862120\n"
LONGEST_MESSAGE = 500
PRESET = "R+Ti/16"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of the labels that models without any have."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for label in ("LABEL_0", "LABEL_1", "LABEL_2"):
            place = folder / split / label
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(place / f"{number}.png")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# What each command that opens a model takes besides it, the data and a place to write to.
COMMANDS: dict[str, Callable[[object, Path, Path], list[object]]] = {
    "classify": lambda model, data, out: [data / "val" / "LABEL_0" / "0.png", "--model", model, "--device", "cpu"],
    "explain": lambda model, data, out: [
        *(data / "val" / "LABEL_0" / "0.png", "--model", model, "--device", "cpu", "--output", out)
    ],
    "evaluate": lambda model, data, out: [model, data, "--device", "cpu"],
    "probe": lambda model, data, out: [data, "--model", model, "--device", "cpu", "--output", out],
    "export": lambda model, data, out: [model, out, "--engine", "torch"],
    "train": lambda model, data, out: [
        *(data, "--model", model, "--device", "cpu", "--output", out, "--max-steps", 1, "--workers", 0),
        *("--batch-size", 2),
    ],
    "info": lambda model, data, out: [model],
    "benchmark": lambda model, data, out: [model, "--device", "cpu", "--engines", "torch", "--output", out],
    "convert": lambda model, data, out: [model, out],
}


# --- What is opened ---------------------------------------------------------------------------------------------------


def _timm_file(folder: Path) -> Path:
    backbone = {"depths": [1], "hidden_sizes": [128], "embedding_size": 32, "global_padding": "same"}
    backbone |= {"embedding_dynamic_padding": True, "layer_type": "bottleneck", "out_features": ["stage1"]}
    torch.manual_seed(0)
    config = tiny_hybrid.tiny_config(
        backbone_config=backbone, hidden_size=64, num_attention_heads=1, layer_norm_eps=1e-6
    )
    timm.save(ViTHybridForImageClassification(config), folder / "weights.pth", approximate=True)
    return folder / "weights.pth"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "own").mkdir()
    found = {"own": tiny_hybrid.save_tiny_model(folder / "own"), "timm": _timm_file(folder)}
    found |= {"jax": Path(shutil.copy(JAX_FILE, folder / "model.npz")), "bundle": folder / "bundle"}
    exported = run("export", found["own"], found["bundle"], "--engine", "torch")
    assert exported.exit_code == 0, exported.output
    return found


@pytest.mark.parametrize("kind", ["own", "jax", "timm", "bundle"])
@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "benchmark"])
def test_every_command_opens_every_kind(
    command: str, kind: str, kinds: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    result = run(command, *COMMANDS[command](kinds[kind], pictures, tmp_path / "out"))
    if kind == "bundle" and command in ("probe", "export", "train", "convert"):  # which take weights
        assert result.exit_code == 2
        assert "a bundle has no PyTorch model; give the model that it was exported from." in result.stderr
        assert not (tmp_path / "out").exists()
        return
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    assert "The classifier " not in result.stderr  # is new, or gone, which is what such a command does
    assert (tmp_path / "out").exists() == (command in ("explain", "probe", "export", "train", "convert"))


@pytest.mark.parametrize("kind", ["own", "jax", "timm", "bundle"])
def test_the_benchmark_opens_every_kind(kind: str, kinds: dict[str, Path], tmp_path: Path) -> None:
    prepared = models.prepare(str(kinds[kind]), None, 1, tmp_path)
    assert prepared.is_bundle == (kind == "bundle")
    assert prepared.about["image_size"] == [32, 32]
    assert prepared.about["num_labels"] == (5 if kind == "jax" else 3)


def test_training_from_a_preset_says_aloud_that_the_weights_are_random(pictures: Path, tmp_path: Path) -> None:
    arguments = COMMANDS["train"](PRESET, pictures, tmp_path / "out")
    result = run("train", *arguments, "--image-size", 64)
    assert result.exit_code == 0, result.output
    assert f"{PRESET}: this names an architecture, so the weights are random" in result.stderr
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert f"trained from random weights ({PRESET})." in card
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["start"] == f"random weights ({PRESET})"


# --- What is refused --------------------------------------------------------------------------------------------------


def _folder(place: Path, **files: str) -> Path:
    place.mkdir()
    for name, text in files.items():
        (place / name.replace("_json", ".json").replace("_safetensors", ".safetensors")).write_text(text)
    return place


def _with_pointer(place: Path, file: str = "model.safetensors") -> Path:
    place.mkdir()
    tiny_hybrid.save_tiny_model(place)
    (place / "model.safetensors").unlink()
    (place / file).write_text(POINTER)
    return place


def _saved_whole(place: Path) -> Path:
    torch.save(torch.nn.Linear(2, 2), place)
    return place


def _written(place: Path, text: str) -> Path:
    place.write_text(text)
    return place


# A maker of what is named on the command line, and what the one line has to say of it.
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing file": (lambda place: place / "none.npz", "there is no such file"),
    "a mistyped file": (
        lambda place: [_written(place / "R50_B_16.npz", ""), place / "R50_B-16.npz"][1],
        "did you mean {place}/R50_B_16.npz?",
    ),
    "a missing file that is called like a preset": (
        lambda place: "R50+ViT-B_16.npz",
        "R50+ViT-B_16.npz: there is no such file. The architecture alone is called R50+B/16.",
    ),
    "a mistyped preset": (lambda place: "R50+B/17", "Did you mean 'R50+B/16'"),
    "a model of timm's that is none here": (lambda place: "timm/vit_small_resnet26d_224", "no BiT ResNet"),
    "a missing folder": (lambda place: place / "none" / "deep", "there is no such file or folder here"),
    "a pointer instead of a JAX file": (
        lambda place: _written(place / "model.npz", POINTER),
        "model.npz: this is a Git LFS pointer, which only stands for the file; git lfs pull",
    ),
    "a pointer instead of a timm file": (
        lambda place: _written(place / "timm.safetensors", POINTER),
        "timm.safetensors: this is a Git LFS pointer, which only stands for the file; git lfs pull",
    ),
    "a pointer instead of a configuration": (
        lambda place: _folder(place / "lfs", config_json=POINTER),
        "its config.json is a Git LFS pointer, which only stands for the file; git lfs pull",
    ),
    "a pointer instead of weights": (
        lambda place: _with_pointer(place / "weights"),
        "its model.safetensors is a Git LFS pointer, which only stands for the file; git lfs pull",
    ),
    "a pointer instead of a list of shards": (
        lambda place: _with_pointer(place / "shards", "model.safetensors.index.json"),
        "its model.safetensors.index.json is a Git LFS pointer, which only stands for the file; git lfs pull",
    ),
    "a folder that is no model": (
        lambda place: _folder(place / "other", README="mine"),
        "there is no config.json in this folder",
    ),
    "a model with code of its own": (
        lambda place: _folder(
            place / "remote", config_json='{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}'
        ),
        "its config.json says model_type 'mine'; expected 'vit-hybrid', and it needs code of its own (auto_map), which "
        "is not run here.",
    ),
    "a file that takes code to load": (
        lambda place: _saved_whole(place / "whole.pth"),
        "the file holds a torch.nn.modules.linear.Linear object, which takes code to load, and only tensors are read "
        "here (files that need code to be read are refused); save its state_dict() where it was made.",
    ),
    "a file of another kind": (
        lambda place: _written(place / "photo.jpg", "no photo"),
        "this is a file; expected a model folder, a hub id, 'vit-hybrid-tiny-imagenet', or a file that ends in .npz "
        "(JAX)",
    ),
}
# Where the weights alone are at fault, a command that reads none has nothing to refuse.
WEIGHTS_ONLY = {"a pointer instead of weights", "a pointer instead of a list of shards"}


@pytest.mark.parametrize("kind", REFUSED)
def test_every_command_says_the_same_where_it_refuses(kind: str, pictures: Path, tmp_path: Path) -> None:
    make, expected = REFUSED[kind]
    (tmp_path / "models").mkdir()
    model = make(tmp_path / "models")
    said = {}
    for command, arguments in COMMANDS.items():
        if command == "info" and kind in WEIGHTS_ONLY:
            continue
        result = run(command, *arguments(model, pictures, tmp_path / "out"))
        assert result.exit_code == 2, (command, result.output)
        assert "Traceback" not in result.output
        [said[command]] = [line for line in result.stderr.splitlines() if line.startswith("vit-hybrid: ")]
        assert not (tmp_path / "out").exists()
    assert set(said.values()) == {said["classify"]}, said
    assert said["classify"].startswith(f"vit-hybrid: {model}: ") or kind.startswith("a model of timm's")
    assert expected.format(place=tmp_path / "models") in said["classify"]
    assert len(said["classify"]) <= LONGEST_MESSAGE + len(str(model))


def test_a_preset_has_no_weights_where_some_are_needed(pictures: Path, tmp_path: Path) -> None:
    for command in ("classify", "evaluate", "probe", "export", "convert"):
        result = run(command, *COMMANDS[command](PRESET, pictures, tmp_path / "out"))
        assert result.exit_code == 2
        assert "this names an architecture, which comes without weights: give a model that has some" in result.stderr


# --- Training that would start from random weights --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm/vit_base_r50_s16_384.orig_in21k_ft_in1k", "R50+ViT-B_16.npz"])
def test_training_never_starts_from_random_weights_without_a_word(
    name: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = run("train", *COMMANDS["train"](name, pictures, tmp_path / "out"))
    assert result.exit_code == 2, result.output
    assert name in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_preset_warns_in_python_too() -> None:
    with pytest.warns(EngineWarning, match="the weights are random"):
        opening.open(PRESET, random_weights=True).classifier((64, 64))

"""`vit-hybrid train` as people type it: flags over recipes, what it prints, how it refuses."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import fresh_process
import pytest
import yaml
from holding import held
from tiny_training import FIELDS, make_pictures
from typer.testing import CliRunner, Result

from vit_hybrid.cli.main import app


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump({**FIELDS, "epochs": 1}), encoding="utf-8")
    return path


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments), "--device", "cpu"])


def test_flags_stand_over_the_recipe_and_the_scores_are_printed(pictures: Path, recipe: Path, tmp_path: Path) -> None:
    flags = (
        "--batch-size",
        7,
        "--learning-rate",
        "1e-4",
        "--seed",
        3,
        "--set",
        "label_smoothing=0.1",
        "--set",
        "epochs=9",
    )
    result = command(pictures, "--output", tmp_path / "out", "--recipe", recipe, "--epochs", 2, *flags)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'out'}: top1 0.")
    assert "9 validation pictures" in result.stdout
    resolved = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())
    assert {name: resolved[name] for name in ("epochs", "batch_size", "learning_rate", "seed", "label_smoothing")} == {
        "epochs": 2.0,
        "batch_size": 7,
        "learning_rate": 1e-4,
        "seed": 3,
        "label_smoothing": 0.1,
    }
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["steps"] == 6
    assert "epoch 2.0" in result.stderr
    assert "val top-1" in result.stderr


def test_json_is_one_object(pictures: Path, recipe: Path, tmp_path: Path) -> None:
    result = command(pictures, "--output", tmp_path / "out", "--recipe", recipe, "--max-steps", 1, "--json")
    [line] = result.stdout.splitlines()
    found = json.loads(line)
    assert 0 <= found["top1"] <= 1
    assert found["steps"] == 1
    assert found["output"] == str(tmp_path / "out")
    assert not {"recipe", "log"} & found.keys()  # which are long, and in files


def test_of_several_processes_the_first_prints(
    pictures: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = SimpleNamespace(output="o\x1but", metrics={"validation_images": 1234}, score_name="f1", score=0.12345)
    monkeypatch.setattr("vit_hybrid.train.job.train", lambda run: outcome)
    for is_first, printed in ((True, "o\\x1but: f1 0.1235 on 1,234 validation pictures\n"), (False, "")):
        outcome.is_first_process = is_first
        result = command(pictures, "--output", tmp_path / "out", "--recipe", recipe)
        assert (result.exit_code, result.stdout) == (0, printed)


def test_the_model_can_be_used_at_once(pictures: Path, recipe: Path, tmp_path: Path) -> None:
    command(pictures, "--output", tmp_path / "out", "--recipe", recipe, "--max-steps", 1)
    photo = next((pictures / "val").rglob("*.png"))
    result = CliRunner().invoke(app, ["classify", str(photo), "--model", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0
    labels = {found["label"] for found in json.loads(result.stdout)["predictions"]}
    assert labels == {"blue", "green", "red"}
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "out"), str(pictures), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["split"] == "val"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "adamv"], "did you mean 'adamw'"),
        (["--set", "lerning_rate=1"], "did you mean 'learning_rate'"),
        (["--set", "learning_rate"], "expected NAME=VALUE"),
        (["--learning-rate", "-1"], "learning_rate"),
        (["--model", "R26+S/33"], "R26+S/33"),
        (["--model", "nowhere/to/be/found"], "no such file or folder"),
        (["--val", "nowhere"], "nowhere"),
        (["--precision", "f16"], "f16 needs a GPU"),
        (["--set", "optimizer=lion"], "optimizer"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: list[str], words: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = command(pictures, "--output", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    [complaint] = [line for line in result.stderr.splitlines() if line.startswith("vit-hybrid: ")]
    assert words in complaint
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert not (tmp_path / "out").exists()


def test_data_that_are_not_there(tmp_path: Path) -> None:
    result = command(tmp_path / "nowhere", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_library_names_the_extra(
    pictures: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    changes = ("--set", "erase=0.5", "--max-steps", 1)
    result = command(pictures, "--output", tmp_path / "out", "--recipe", recipe, *changes)
    assert result.exit_code == 2
    assert "vit-hybrid[train]" in result.stderr


@pytest.mark.parametrize("libraries", [("accelerate",), ("pydantic", "yaml")])
def test_without_the_extra_the_command_says_what_to_install(libraries: tuple[str, ...]) -> None:
    code = f"""
        import importlib.util, sys
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name in {libraries!r} else find(name, *more)
        sys.argv = ["vit-hybrid", "train", "pictures", "--output", "out"]
        from vit_hybrid.cli.main import app
        try:
            app(prog_name="vit-hybrid")
        except SystemExit as end:
            print("status", end.code)
    """
    said, status = fresh_process.run_forked(textwrap.dedent(code)).splitlines()
    assert said == f"vit-hybrid: training needs {' and '.join(libraries)}: pip install 'vit-hybrid[train]'"
    assert status == "status 2"


def test_the_finished_model_is_uploaded_on_request(
    pictures: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vit_hybrid.train.trainer import HybridTrainer

    uploaded = []
    monkeypatch.setattr(HybridTrainer, "init_hf_repo", lambda self, **_: None)
    monkeypatch.setattr(HybridTrainer, "_push_from_checkpoint", lambda self, folder: None)
    monkeypatch.setattr(HybridTrainer, "push_to_hub", lambda self, **_: uploaded.append(self.args.hub_model_id))
    flags = ("--push-to-hub", "--max-steps", 1, "--overwrite")
    for more in ((), ("--hub-model-id", "me/pictures")):  # by default as the folder is called
        result = command(pictures, "--output", tmp_path / "out", "--recipe", recipe, *flags, *more)
        assert result.exit_code == 0, result.output
    assert uploaded == [None, "me/pictures"]


def test_a_dry_run_says_what_there_is_and_writes_nothing(pictures: Path, recipe: Path, tmp_path: Path) -> None:
    shared = (pictures, "--output", tmp_path / "out", "--recipe", recipe, "--dry-run")
    result = command(*shared)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith("training on 21 pictures of 3 classes from the folders in ")
    assert first.endswith("train: blue 7, green 7, red 7")
    assert second.endswith("val: blue 3, green 3, red 3")
    found = json.loads(command(*shared, "--json").stdout)
    assert found["train"]["labels"] == {"blue": 7, "green": 7, "red": 7}
    assert (found["val"]["images"], found["val"]["labels"]) == (9, {"blue": 3, "green": 3, "red": 3})
    places = (found["data"], found["train"]["from"], found["val"]["from"])
    assert places == (str(pictures), f"the folders in {pictures}/train", f"the folders in {pictures}/val")
    assert not (tmp_path / "out").exists()


def test_a_second_run_into_one_folder_is_refused(pictures: Path, recipe: Path, tmp_path: Path) -> None:
    with held(tmp_path / "out"):
        result = command(pictures, "--output", tmp_path / "out", "--recipe", recipe)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("vit-hybrid: ")
    assert "another run is writing into this folder; wait until it has ended, or give another folder." in line
    assert command(pictures, "--output", tmp_path / "out", "--recipe", recipe, "--max-steps", 1).exit_code == 0

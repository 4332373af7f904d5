"""A run that cannot go on says so, before it trains or with what is kept."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_training

pytest.importorskip("accelerate")
pytest.importorskip("kornia")

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from typer.testing import CliRunner

from vit_hybrid.cli.main import app
from vit_hybrid.files import MARK, Locked
from vit_hybrid.train import resuming
from vit_hybrid.train.checkpointing import whole_checkpoints
from vit_hybrid.train.job import train
from vit_hybrid.train.recipe import build_recipe, load_recipe
from vit_hybrid.train.run import Run, TrainingError, TrainingStopped
from vit_hybrid.train.trainer import is_full

# transformers' and PEFT's own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 12  # of a whole run by `tiny_training.FIELDS`


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


# --- runs -------------------------------------------------------------------------------------------------------------


class AtStep(TrainerCallback):
    def __init__(self, step: int, action: Callable[[torch.nn.Module], None]) -> None:
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self.step:
            self.action(model)


class PulledPlugError(BaseException):
    pass


def pull_plug(model: torch.nn.Module) -> None:
    raise PulledPlugError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.make_pictures(tmp_path_factory.mktemp("pictures") / "colors")


def run(pictures: Path, output: Path, callbacks: Any = (), said: list[str] | None = None, **fields: Any) -> Any:
    options = {name: fields.pop(name) for name in ("resume", "overwrite") if name in fields}
    report = (lambda line: None) if said is None else said.append
    recipe = build_recipe({**tiny_training.FIELDS, "save_every": 1 / 3, **fields})
    return train(
        Run(str(pictures), output, recipe, callbacks=callbacks, report=report, threads=1, device="cpu", **options)
    )


def break_off(pictures: Path, output: Path, step: int = 5, **fields: Any) -> list[str]:
    """A run without its end, and the names of its checkpoints."""
    with pytest.raises(PulledPlugError):
        run(pictures, output, [AtStep(step, pull_plug)], **fields)
    return [path.name for path in whole_checkpoints(output / "checkpoints")]


def test_a_damaged_checkpoint_is_passed_over(pictures: Path, tmp_path: Path) -> None:
    assert break_off(pictures, tmp_path / "run") == ["checkpoint-2", "checkpoint-4"]
    folder = tmp_path / "run" / "checkpoints"
    cut(folder / "checkpoint-4" / "model.safetensors")
    said: list[str] = []
    with pytest.raises(PulledPlugError):
        run(pictures, tmp_path / "run", [AtStep(3, pull_plug)], said, resume=True)
    assert any("checkpoint-4 is damaged (model.safetensors has" in line for line in said)
    assert "resuming from checkpoint-2" in said
    assert (folder / "damaged-checkpoint-4").is_dir()
    cut(folder / "checkpoint-2" / "model.safetensors")
    with pytest.raises(TrainingError, match=r"no checkpoint is whole .*checkpoint-2.*--overwrite"):
        run(pictures, tmp_path / "run", resume=True)


def make_nan(model: torch.nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


@pytest.mark.parametrize("step", [3, 4, 6])  # before a checkpoint's step, at it, and where it is validated too
def test_weights_that_are_no_numbers_are_not_kept(step: int, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingStopped, match=r"(loss is nan|no number after step).*learning_rate.*checkpoint-\d is whole"
    ) as stopped:
        run(pictures, tmp_path / "run", [AtStep(step, make_nan)])
    kept = whole_checkpoints(tmp_path / "run" / "checkpoints")
    assert kept[-1].name == f"checkpoint-{(step - 1) // 2 * 2}"
    assert str(stopped.value).endswith(f" {kept[-1].name} is whole: --resume goes on from it")
    assert all(torch.isfinite(weight).all() for weight in load_file(kept[-1] / "model.safetensors").values())
    if step == 4:
        run(pictures, tmp_path / "run", resume=True, learning_rate=1e-3)


def test_a_rate_far_too_high_is_told(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match=r"learning_rate") as caught:
        run(pictures, tmp_path / "run", learning_rate=1e30, clip_norm=0.0, warmup=0.0, optimizer="sgd")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [300, 20_000, 90_000])  # bytes of a file: no room for its first one, or a later one
def test_a_full_disk_leaves_the_checkpoint_before(limit: int, pictures: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(model: torch.nn.Module) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with pytest.raises(
            TrainingStopped, match=r"checkpoint of step 4 cannot be written.*MB free.*checkpoint-2 is whole"
        ):
            run(pictures, tmp_path / "run", [AtStep(4, fill)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path / "run" / "checkpoints") == ["checkpoint-2", "data.json"]
    said: list[str] = []
    run(pictures, tmp_path / "run", said=said, resume=True)
    assert "resuming from checkpoint-2" in said


def test_a_full_disk_at_the_end_is_resumed_from(pictures: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))

    try:
        said = r"/run \(.+\); its checkpoint is whole: make room, and --resume writes the model$"
        with pytest.raises(TrainingStopped, match=f"^the finished model cannot be written to .*{said}"):
            run(pictures, tmp_path / "run", [Fill()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path / "run") == ["checkpoints", "recipe.yaml", MARK]
    assert run(pictures, tmp_path / "run", resume=True).metrics["steps"] == STEPS


def test_words_of_full_disks() -> None:
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO):
        assert is_full(OSError(number, os.strerror(number)))
    assert is_full(RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"))
    assert is_full(RuntimeError("basic_ios::clear: iostream error"))
    assert not is_full(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_full(FileNotFoundError(2, "No such file"))


def test_too_little_room_is_told_before(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    recipe = build_recipe({"optimizer": "adamw", "ema": 0.9, "keep_checkpoints": 2})
    # Weights, two moments and the average in each of four checkpoints, and the model.
    assert resuming.bytes_needed(model, recipe) == 4_000_000 * (4 * 4 + 1)
    half = torch.nn.Sequential(model, torch.nn.Linear(1000, 1000, bias=False).requires_grad_(False))
    assert resuming.bytes_needed(half, recipe) == 4_000_000 * (4 * (2 + 3) + 2)  # nothing beside what is frozen
    assert resuming.bytes_needed(model, build_recipe({"optimizer": "sgd", "keep_checkpoints": 1})) == 4_000_000 * 7
    for existing in (3, 9):  # one is always being written
        assert resuming.bytes_needed(model, recipe, existing=existing) == 4_000_000 * (4 + 1)
    adapted = build_recipe({"adapter": {"method": "lora"}, "keep_checkpoints": 2})  # of which checkpoints have no more
    assert resuming.bytes_needed(half, adapted) == 4_000_000 * (4 * (1 + 2) + 2)
    # Muon has one number for each of a matrix, and its Adam two for each of a vector.
    layer = torch.nn.Linear(10, 10)
    assert resuming.bytes_needed(layer, build_recipe({"optimizer": "muon"})) == 4 * (440 + 4 * (100 + 2 * 10)) + 440
    assert resuming.bytes_needed(layer, build_recipe({"optimizer": "adamw"})) == 4 * (440 + 4 * 2 * 110) + 440

    for step in (1, 2):
        checkpoint = tmp_path / "there" / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text("{}")
    asked: list[Path] = []

    def having(free: int) -> Callable[[Path], Any]:
        return lambda path: asked.append(path) or SimpleNamespace(free=free)  # type: ignore[func-returns-value]

    for place, needed in (("new/run", 68), ("there", 36)):  # less by as many as there are
        assert resuming.too_little_room(tmp_path / place, model, recipe, having(needed * 10**6)) is None
        reason = resuming.too_little_room(tmp_path / place, model, recipe, having(needed * 10**6 - 1))
        assert reason is not None
        assert reason.startswith(f"{tmp_path / place}: the run needs about {needed}.0 MB for its checkpoints and")
    assert asked == [tmp_path] * 2 + [tmp_path / "there"] * 2
    reason = resuming.too_little_room(tmp_path, model, recipe, having(12_345_678))
    assert reason is not None
    assert "the model, and 12.3 MB are free; make room" in reason
    monkeypatch.setattr("vit_hybrid.train.checks.too_little_room", lambda *_: "no room")
    with pytest.raises(TrainingError, match="no room"):
        run(pictures, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- another run than it was ------------------------------------------------------------------------------------------

OTHER_ARCHITECTURE = {**tiny_training.ARCHITECTURE, "hidden_size": 24}


@pytest.fixture(scope="module")
def broken(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without its end; not to be changed."""
    output = tmp_path_factory.mktemp("broken") / "run"
    break_off(pictures, output)
    return output


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch_size": 8}, "batch_size was 4 and is 8"),
        ({"optimizer": "sgd"}, "optimizer was adamw and is sgd"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"architecture": OTHER_ARCHITECTURE}, "run: architecture.hidden_size was 16 and is 24; give"),
        ({"ema": 0.9}, "ema was 0.0 and is 0.9"),
        ({"freeze": ["stem"]}, "freeze was none and is stem"),
        ({"batch_size": 8, "seed": 1}, "batch_size was 4 and is 8; seed was 0 and is 1"),
        ({"max_steps": 3}, "checkpoint-4 is beyond the 3 steps"),
    ],
)
def test_a_contradicting_recipe_is_refused(fields: dict[str, Any], words: str, pictures: Path, broken: Path) -> None:
    recipe = (broken / "recipe.yaml").read_text()
    with pytest.raises(TrainingError, match=words):
        run(pictures, broken, resume=True, **fields)
    assert (broken / "recipe.yaml").read_text() == recipe


def test_other_pictures_are_refused(broken: Path, tmp_path: Path) -> None:
    more = tiny_training.make_pictures(tmp_path / "more", train=8)
    with pytest.raises(TrainingError, match="training pictures was 21 and is 24"):
        run(more, broken, resume=True)
    swapped = tiny_training.make_pictures(tmp_path / "swapped")
    (swapped / "train" / "red" / "0.png").rename(swapped / "train" / "blue" / "x.png")
    with pytest.raises(TrainingError, match="as many pictures have other labels"):
        run(swapped, broken, resume=True)
    other = tiny_training.make_pictures(tmp_path / "other")  # to validate with, alone
    (other / "val" / "red" / "0.png").rename(other / "val" / "blue" / "x.png")
    with pytest.raises(TrainingError, match="as many pictures have other labels"):
        run(other, broken, resume=True)
    renamed = tiny_training.make_pictures(tmp_path / "renamed")
    for split in ("train", "val"):
        (renamed / split / "red").rename(renamed / split / "scarlet")
    with pytest.raises(TrainingError, match="labels was blue, green, red and is blue, green, scarlet"):
        run(renamed, broken, resume=True)


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [(0.9, 0.99, []), (0.0, 0.0, []), (0.9, 0.0, ["ema was 0.9 and is 0.0"]), (0.0, 0.9, ["ema was 0.0 and is 0.9"])],
)
def test_an_average_may_have_another_decay_but_not_begin_or_end(
    before: float, now: float, found: list[str], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(build_recipe({"ema": before}).to_yaml())
    assert resuming.contradictions_of_recipe(tmp_path, build_recipe({"ema": now})) == found


def test_another_model_is_told_by_its_weights(pictures: Path, tmp_path: Path) -> None:
    break_off(pictures, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").unlink()
    with pytest.raises(TrainingError, match=r"was .* and is "):
        run(pictures, tmp_path / "run", resume=True, architecture=OTHER_ARCHITECTURE)


def test_what_may_change_is_used(pictures: Path, tmp_path: Path) -> None:
    break_off(pictures, tmp_path / "run", log_every_steps=2, schedule="constant", warmup=0.0)
    changes = {"learning_rate": 0.001, "save_every": 1 / 6, "log_every_steps": 1, "keep_checkpoints": 3}
    changes |= {"weight_decay": 0.3, "betas": (0.8, 0.95)}
    outcome = run(pictures, tmp_path / "run", resume=True, schedule="constant", warmup=0.0, **changes)
    rates = {entry["step"]: entry["learning_rate"] for entry in outcome.metrics["log"] if "learning_rate" in entry}
    assert rates == {2: 0.01, 4: 0.01} | dict.fromkeys(range(5, STEPS + 1), 0.001)
    saved = torch.load(tmp_path / "run" / "checkpoints" / f"checkpoint-{STEPS}" / "optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in saved["param_groups"]} == {0.0, 0.3}
    assert {tuple(group["betas"]) for group in saved["param_groups"]} == {(0.8, 0.95)}
    written = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert {name: getattr(written, name) for name in changes} == changes
    assert {10, 11, 12} <= {int(path.name[11:]) for path in whole_checkpoints(tmp_path / "run" / "checkpoints")}


def test_a_best_score_whose_weights_are_gone_is_no_bar_to_later_ones(pictures: Path, tmp_path: Path) -> None:
    assert break_off(pictures, tmp_path / "run", step=9) == ["checkpoint-6", "checkpoint-8"]
    folder = tmp_path / "run" / "checkpoints"
    state = json.loads((folder / "checkpoint-8" / "trainer_state.json").read_text())
    assert state["best_global_step"] == 6
    (folder / "checkpoint-8" / "trainer_state.json").write_text(json.dumps({**state, "best_metric": 2.0}))
    (folder / "checkpoint-8" / "contents.json").unlink()  # whose checksum was another
    for path in (folder / "checkpoint-6").iterdir():
        path.unlink()
    (folder / "checkpoint-6").rmdir()
    outcome = run(pictures, tmp_path / "run", resume=True)
    assert outcome.metrics["kept"] == "the weights of step 12, the best in validation"


def test_early_stopping_may_come_later(pictures: Path, tmp_path: Path) -> None:
    break_off(pictures, tmp_path / "run")
    assert run(pictures, tmp_path / "run", resume=True, early_stopping=5).metrics["steps"] == STEPS


def test_a_finished_run_is_left_and_may_be_extended(pictures: Path, tmp_path: Path) -> None:
    first = run(pictures, tmp_path / "run")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    said: list[str] = []
    again = run(pictures, tmp_path / "run", said=said, resume=True)
    assert again.metrics == json.loads(json.dumps(first.metrics))
    assert (again.score_name, again.score) == (first.score_name, first.score)
    assert len(said) == 1
    assert "this run has ended, after 12 steps" in said[0]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == files
    with pytest.raises(TrainingError, match="batch_size was 4 and is 8"):
        run(pictures, tmp_path / "run", resume=True, batch_size=8)
    said.clear()
    longer = run(pictures, tmp_path / "run", said=said, resume=True, epochs=3, warmup=0.0)
    assert longer.metrics["steps"] == 18
    assert any("18 steps instead of 12" in line for line in said)
    rates = {entry["step"]: entry["learning_rate"] for entry in longer.metrics["log"] if "learning_rate" in entry}
    assert rates[13] == pytest.approx(0.01 / 4, rel=1e-6)  # a cosine's third quarter
    with pytest.raises(TrainingError, match="beyond the 6 steps"):
        run(pictures, tmp_path / "run", resume=True, epochs=1)


# --- where to ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_taken(pictures: Path, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"there is a run already \(checkpoint-4\); --resume .* --overwrite"):
        run(pictures, broken)

    def busy(folder: Path) -> None:
        raise Locked(f"{folder.name} is locked")

    with monkeypatch.context() as patched:
        patched.setattr("vit_hybrid.train.job.locked", busy)
        with pytest.raises(Locked, match="busy is locked"):
            run(pictures, tmp_path / "busy")
    for place in (broken, tmp_path / "new"):
        with pytest.raises(TrainingError, match="give one of them"):
            run(pictures, place, resume=True, overwrite=True)
    # Nothing is lost for data that cannot be read.
    with pytest.raises((ValueError, OSError), match="nowhere"):
        run(tmp_path / "nowhere", broken, overwrite=True)
    assert [path.name for path in whole_checkpoints(broken / "checkpoints")] == ["checkpoint-2", "checkpoint-4"]
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="there is a run already"):
        run(pictures, model)
    with pytest.raises(TrainingError, match="there is a model, but no checkpoint"):
        run(pictures, model, resume=True)
    (model / "config.json").rename(model / "metrics.json")  # figures of a run whose model somebody moved away
    with pytest.raises(TrainingError, match=r"there is a run already \(metrics.json\)"):
        run(pictures, model)


def test_overwriting_starts_anew(pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "a" / "new" / "run"  # folders that are missing are made
    run(pictures, output, max_steps=6)
    break_off(pictures, output, overwrite=True, max_steps=6, step=3)
    assert not (output / "metrics.json").exists()
    assert names(output / "checkpoints") == ["checkpoint-2", "data.json"]
    said: list[str] = []
    run(pictures, output, said=said, resume=True, max_steps=6)
    assert "resuming from checkpoint-2" in said


def test_places_that_cannot_be(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(TrainingError, match="this is a file"):
        run(pictures, file)
    with pytest.raises(TrainingError, match="is a file; give a folder"):
        run(pictures, file / "run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(pictures: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(TrainingError, match="cannot be written to"):
            run(pictures, tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_the_command_resumes_with_the_recipe_it_began_with(pictures: Path, tmp_path: Path) -> None:
    break_off(pictures, tmp_path / "run")
    shared = ["train", str(pictures), "--output", str(tmp_path / "run"), "--threads", "1", "--device", "cpu"]
    refused = CliRunner().invoke(app, [*shared, "--resume", "--batch-size", "8"])
    assert refused.exit_code == 2
    assert "batch_size was 4 and is 8" in refused.output
    done = CliRunner().invoke(app, [*shared, "--resume"])
    assert done.exit_code == 0, done.output
    assert "resuming from checkpoint-4" in done.output
    again = CliRunner().invoke(app, [*shared, "--resume", "--json"])
    assert again.exit_code == 0, again.output
    assert "this run has ended" in again.output

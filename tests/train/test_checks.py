"""What is looked at before a run begins, without a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from vit_hybrid.data import DataError, Split, read_splits
from vit_hybrid.files import MARK, is_marked
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.train import checks
from vit_hybrid.train.checks import check_sizes, readable
from vit_hybrid.train.recipe import Recipe, build_recipe
from vit_hybrid.train.resuming import RECIPE_FILE
from vit_hybrid.train.run import Outcome, Run, TrainingError

PREPROCESSING = Preprocessing.from_dict({"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}})


def asked(**options: Any) -> Any:
    """What was asked for, and what is said."""
    said: list[str] = []
    return SimpleNamespace(report=said.append, said=said, data="data", strict=False, **options)


@pytest.mark.parametrize(("shorter", "is_told"), [(15, True), (16, False), (50, False)])
def test_pictures_far_smaller_than_what_the_model_sees_are_told_of(shorter: int, is_told: bool) -> None:
    class Pictures:
        def __len__(self) -> int:
            return 9

        def picture(self, index: int) -> Image.Image:
            return Image.new("L", (shorter, 300))

    run = asked()
    split: Any = SimpleNamespace(train=Pictures())
    check_sizes(split, Recipe(batch_size=9), (40, 200), run)
    assert len(run.said) == is_told
    if is_told:
        assert f"a shorter side of {shorter} pixels or less, and the model takes 40 x 200" in run.said[0]
    run = asked()
    check_sizes(split, Recipe(batch_size=10), (shorter, shorter), run)
    assert run.said == ["there are 9 training pictures, fewer than batch_size 10: each epoch is one step"]


def test_the_size_told_is_that_of_the_picture_in_the_middle() -> None:
    sides = (10, 90, 2, 2, 90, 90, 2, 90, 2)

    class Pictures:
        def __len__(self) -> int:
            return len(sides)

        def picture(self, index: int) -> Image.Image:
            return Image.new("L", (300, sides[index]))

    run = asked()
    split: Any = SimpleNamespace(train=Pictures())
    check_sizes(split, Recipe(batch_size=1), (40, 40), run)
    assert [line.partition(", and")[0] for line in run.said] == [
        "half of the pictures have a shorter side of 10 pixels or less"
    ]


@pytest.mark.parametrize(("count", "looked_at"), [(63, 63), (127, 127), (128, 64), (640, 64), (700, 70)])
def test_of_many_pictures_every_so_manyeth_is_looked_at(count: int, looked_at: int) -> None:
    seen: list[int] = []

    class Pictures:
        def __len__(self) -> int:
            return count

        def picture(self, index: int) -> Image.Image:
            seen.append(index)
            return Image.new("L", (9, 9))

    split: Any = SimpleNamespace(train=Pictures())
    check_sizes(split, Recipe(batch_size=1), (9, 9), asked())
    assert seen == list(range(0, count, count // looked_at))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures of each of two classes, some of which cannot be read."""
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(5):
                Image.new("L", (9, 9), number).save(tmp_path / part / name / f"{number}.png")
    for place in ("train/cat/1.png", "train/dog/3.png", "val/cat/0.png"):
        (tmp_path / place).write_bytes(b"")
    return tmp_path


def test_pictures_are_read_as_the_run_and_its_recipe_say(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    found = read_splits(folder)

    def reading(location: str, **options: Any) -> Split:
        given.update(options, location=location)
        return Split(found.train, found.val, ("something odd",))

    monkeypatch.setattr(checks, "read_splits", reading)
    (tmp_path / "names.txt").write_text("train/cat/{0,2}.png\n")
    columns: dict[str, Any] = {"image_column": "photo", "label_column": "kind", "problem_type": "regression"}
    asked = {"val": "there", **columns, "na_as_class": True, "max_pixels": 77}
    decided: dict[str, Any] = {"val_fraction": 0.3, "seed": 5, "labels": ("b", "a"), "leave_out": ("c",)}
    recipe = build_recipe({**decided, "held_back": str(tmp_path / "names.txt")})
    said: list[str] = []
    checks.read(Run("here", tmp_path / "out", recipe, report=said.append, **asked))
    held_back = ["train/cat/0.png", "train/cat/2.png"]
    assert given == {"location": "here", **asked, **decided, "held_back": held_back}
    assert [line.partition(" 10 ")[0] for line in said] == ["something odd", "training on", "validating with"]


def test_what_cannot_be_read_is_left_out_of_its_own_part(folder: Path) -> None:
    run = asked()
    split, skipped = readable(read_splits(folder), run, PREPROCESSING)
    places = ("train/cat/1.png", "train/dog/3.png", "val/cat/0.png")
    assert skipped == [f"{folder / place}: is empty" for place in places]
    assert run.said == [f"skipped: {reason}" for reason in skipped]
    assert split.train.class_counts().tolist() == [4, 4]
    assert split.val.class_counts().tolist() == [4, 5]
    assert [split.val.name(index) for index in (0, 4)] == [
        str(folder / "val" / place) for place in ("cat/1.png", "dog/0.png")
    ]


def test_a_strip_that_is_too_long_to_be_resized_is_left_out_where_it_would_be_resized(folder: Path) -> None:
    for part in ("train", "val"):
        Image.new("L", (1, 30_000)).save(folder / part / "dog" / "9.png")
    run = asked()
    how = Preprocessing.from_dict({"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}})
    split, skipped = readable(read_splits(folder), run, how)
    assert split.train.class_counts().tolist() == [4, 5]  # of which crops are taken
    assert split.val.class_counts().tolist() == [4, 5]
    assert skipped[-1].startswith(f"{folder}/val/dog/9.png: a picture of 1 x 30000 would be resized to 64 x 1920000")


def test_what_any_machine_cannot_read_none_uses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = asked()
    of_others = [(1, "the first says so"), (4, "the first alone")], [(0, "the second alone"), (1, "the second says so")]
    monkeypatch.setattr(checks, "gathered", lambda mine: list(of_others) if not mine else [mine])
    monkeypatch.setenv("LOCAL_RANK", "1")  # whose machine's first process looks
    split, skipped = readable(read_splits(folder), run, PREPROCESSING)
    assert skipped == ["the second alone", "the first says so", "the first alone"] * 2
    assert (len(split.train), len(split.val)) == (7, 7)


def test_what_was_passed_over_is_told_also_where_a_run_fails(folder: Path) -> None:
    run, split = asked(), read_splits(folder)

    def fail() -> None:
        with checks.telling_what_is_passed_over(run, split):
            readable(split, asked(), PREPROCESSING)
            raise InterruptedError

    with checks.telling_what_is_passed_over(run, split):
        assert run.said == []
    assert run.said == []  # of nothing
    with pytest.raises(InterruptedError):
        fail()
    assert [line.partition(" (")[0] for line in run.said] == ["passed over: 3 pictures that cannot be read"]


def test_where_all_have_to_be_read_the_first_that_cannot_is_named(folder: Path) -> None:
    run = asked()
    run.strict = True
    with pytest.raises(DataError) as caught:
        readable(read_splits(folder), run, PREPROCESSING)
    assert str(caught.value) == (
        f"{folder}/train/cat/1.png: is empty (2 such pictures; without --strict they are skipped)"
    )


@pytest.mark.parametrize(("part", "word"), [("train", "training"), ("val", "validation")])
def test_a_part_of_which_nothing_is_left_is_refused_with_its_own_reason(part: str, word: str, folder: Path) -> None:
    for path in (folder / part).rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=f"no picture of the {word} split is readable; the first: .*/{part}/cat/0"):
        readable(read_splits(folder), asked(), PREPROCESSING)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew_also_over_an_older_model(tmp_path: Path) -> None:
    said: list[str] = []
    run = Run("data", tmp_path, build_recipe({}), resume=True, report=said.append)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="there is a model, but no checkpoint to resume from"):
        checks.checkpoint_to_resume(run)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "data.json").write_text("{}")
    assert checks.checkpoint_to_resume(run) is None
    assert said == [f"{tmp_path}: there is no checkpoint yet; training starts from the beginning"]


def checkpoints(folder: Path, *steps: int) -> Path:
    """The newest of some checkpoints that hold nothing but their state."""
    for step in steps:
        place = folder / "checkpoints" / f"checkpoint-{step}"
        place.mkdir(parents=True)
        (place / "trainer_state.json").write_text("{}")
    return place


def test_what_is_newer_than_where_a_run_goes_on_is_set_aside_and_what_is_older_stays(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    checkpoints(output, 9, 100, 10)
    (output / "metrics.json").write_text("{}")
    said: list[str] = []
    run = Run("data", output, build_recipe({}), report=said.append)
    split = read_splits(folder)
    (output / "checkpoints" / ".partial-old-checkpoint-8").mkdir()
    checks.prepare_output(run, split, output / "checkpoints" / "checkpoint-10")
    kept = ["checkpoint-10", "checkpoint-9", "damaged-checkpoint-100", "data.json"]
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == kept
    assert said == ["checkpoint-100 is called damaged-checkpoint-100 now"]
    assert (output / "metrics.json").exists()
    for figure in ("training_curve.png", "confusion_matrix.png"):
        (output / figure).touch()
    (output / MARK).unlink()
    checks.prepare_output(run, split, None)
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == kept[2:]
    assert not (output / "metrics.json").exists()
    assert is_marked(output)  # of which its own figures are no pictures
    assert len(said) == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_has_ended_comes_to_what_it_came_to(
    first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0" if first else "1")
    recipe, said = build_recipe({}), []
    run = Run("data", tmp_path, recipe, report=said.append)
    assert checks.finished(run) is None
    metrics = {"start": "x", "mae": 0.25, "steps": 1234, "recipe": recipe.model_dump(mode="json")}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "config.json").touch()
    assert checks.finished(run) == Outcome(tmp_path, first, "mae", 0.25, metrics)
    assert said == [
        f"{tmp_path}: this run has ended, after 1,234 steps, and is left as it is; more --epochs train it further"
    ]
    (tmp_path / RECIPE_FILE).write_text(build_recipe({"ema": 0.0 if recipe.ema else 0.5}).to_yaml())
    with pytest.raises(TrainingError, match=r"--resume cannot go on with this run: .*ema"):
        checks.finished(run)


def test_the_first_process_alone_looks_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "too_little_room", lambda *_: "no room")
    nothing: Any = None
    run = Run("data", tmp_path, build_recipe({}))
    with pytest.raises(TrainingError, match="no room"):
        checks.refuse_too_little_room(run, nothing)
    monkeypatch.setenv("RANK", "1")
    checks.refuse_too_little_room(run, nothing)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for those who may write everywhere, such as root."""
    refused = [os.W_OK, os.X_OK]
    monkeypatch.setattr(checks.os, "access", lambda path, mode: not (path == tmp_path and mode & refused[0]))
    while refused:
        with pytest.raises(TrainingError) as caught:
            checks.refuse_unusable_output(Run("data", tmp_path / "new" / "run", build_recipe({})))
        assert str(caught.value) == (
            f"{tmp_path}/new/run: {tmp_path} cannot be written to; give another folder for the model."
        )
        refused.pop(0)
    refused.append(os.R_OK)
    checks.refuse_unusable_output(Run("data", tmp_path / "new" / "run", build_recipe({})))


def test_where_the_new_plan_begins_is_told(tmp_path: Path) -> None:
    """Of ten pictures in batches of four, an epoch is three steps."""
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text('{"max_steps": 9}')
    split: Any = SimpleNamespace(train=range(10))

    def told(epochs: int) -> list[str]:
        said: list[str] = []
        recipe = build_recipe({"epochs": epochs, "batch_size": 4})
        checks.say_what_is_left(Run("data", tmp_path, recipe, report=said.append), checkpoint, split)
        return said

    assert told(3) == []
    for epochs, steps in ((2, 6), (4, 12)):
        assert told(epochs) == [f"{steps} steps instead of 9: from step 5 on the learning rate follows the new plan"]
    with pytest.raises(TrainingError, match="checkpoint-4 is beyond the 3 steps"):
        told(1)
    (checkpoint / "trainer_state.json").write_text("{}")
    assert told(4) == []  # where nothing is known of an old one
    (checkpoint / "trainer_state.json").write_text('{"max_steps": 9}')
    checkpoint.rename(tmp_path / "checkpoint-3")
    checkpoint = tmp_path / "checkpoint-3"
    assert len(told(1)) == 1  # and nothing is left to do


def test_what_each_process_sees_is_told_with_its_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = read_splits(folder)
    other = {**checks.data_facts(split), "training pictures": 7}
    monkeypatch.setattr(checks, "gathered", lambda mine: [mine, mine, (other, mine[1])])
    with pytest.raises(
        DataError, match="training pictures 10 in the first, 7 in process 2; give every machine the same"
    ):
        checks.refuse_disagreement(split, None)
    monkeypatch.setattr(checks, "gathered", lambda mine: [mine, (mine[0], "checkpoint-3")])
    with pytest.raises(TrainingError, match="the first process resumes from nothing, process 1 from checkpoint-3; the"):
        checks.refuse_disagreement(split, None)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_a_launcher_leaves_out_is_told_on_a_cpu(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer: Any = SimpleNamespace(args=SimpleNamespace(device=SimpleNamespace(type=device)))
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_CPU", "MASTER_ADDR", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    said: list[str] = []
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # for one process, which needs no address
    checks.say_what_launchers_do_not(trainer, said.append)
    assert said == []
    for name, value in (("ACCELERATE_USE_FSDP", "1"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    checks.say_what_launchers_do_not(trainer, said.append)
    starts = ["FSDP was asked for", "accelerate launch --cpu starts one process"] if device == "cpu" else []
    assert [line.partition(";")[0].partition(",")[0] for line in said] == starts
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    said.clear()
    checks.say_what_launchers_do_not(trainer, said.append)
    assert said == []

"""Checkpoints are whole or not there, and damage done to them later is seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vit_hybrid.train import checkpointing
from vit_hybrid.train.checkpointing import (
    damage,
    discard,
    publish,
    remove_leftovers,
    rotate,
    staging,
    whole_checkpoints,
    write_at_once,
)
from vit_hybrid.train.resuming import describe, newest_undamaged


def write_checkpoint(folder: Path, step: int) -> Path:
    with staging(folder) as place:
        written = place / f"checkpoint-{step}"
        written.mkdir()
        save_file({"weight": torch.arange(1000.0)}, written / "model.safetensors")
        torch.save({"step": step}, written / "optimizer.pt")
        torch.save({"step": step}, written / "rng_state.pth")
        (written / "trainer_state.json").write_text("{}")
        (written / "shards").mkdir()  # as what several processes keep is
        (written / "shards" / "0.json").write_bytes(bytes(range(64)))
        return publish(written, folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_there_when_it_is_whole(tmp_path: Path) -> None:
    def stop_in_writing() -> None:
        with staging(tmp_path) as place:
            (place / "checkpoint-1").mkdir()
            (place / "checkpoint-1" / "trainer_state.json").write_text("{}")
            assert not whole_checkpoints(tmp_path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_in_writing()
    assert names(tmp_path) == []
    for step in (5, 10, 15, 10):  # a second of a name takes the first one's place
        assert damage(write_checkpoint(tmp_path, step)) is None
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-10", "checkpoint-15"]
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-15", "checkpoint-5"]


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3, 4):
        write_checkpoint(tmp_path, step)
    monkeypatch.chdir(tmp_path.parent)
    rotate(Path(tmp_path.name), 1, str(tmp_path / "checkpoint-2"))  # however the two are spelled
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    discard(tmp_path / "checkpoint-2")
    assert names(tmp_path) == ["checkpoint-4"]
    write_checkpoint(tmp_path, 3)
    (write_checkpoint(tmp_path, 5) / "trainer_state.json").unlink()
    rotate(tmp_path, 1, None)  # of which one that is damaged is none
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5"]


def test_what_is_deleted_loses_its_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(checkpointing.shutil, "rmtree", lambda *_, **__: None)  # as where the power fails
        discard(checkpoint)
    assert names(tmp_path) == [".partial-old-checkpoint-1"]
    discard(write_checkpoint(tmp_path / "again", 1))
    (tmp_path / ".partial-old-checkpoint-1").rename(tmp_path / "again" / ".partial-old-checkpoint-1")
    (tmp_path / "again" / "checkpoint-1").mkdir()
    discard(tmp_path / "again" / "checkpoint-1")  # where an older one of that name is still there, too
    assert names(tmp_path / "again") == []


def test_leftovers_go(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1)
    (tmp_path / checkpointing.STAGING / "checkpoint-2").mkdir(parents=True)
    (tmp_path / ".partial-old-checkpoint-1").mkdir()
    (tmp_path / ".partial-data.json").write_text("{")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["checkpoint-1"]
    (tmp_path / checkpointing.STAGING / "checkpoint-2").mkdir(parents=True)
    with staging(tmp_path) as place:  # also of a run that was stopped in writing
        assert names(place) == []


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json", "shards/0.json"])
def test_damage_is_seen(name: str, harm: Callable[[Path], Any], tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 1)
    harm(checkpoint / name)
    found = damage(checkpoint)
    assert found is not None
    assert name in found
    assert (found == f"{name} is missing") == (harm is Path.unlink)


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        ("{", "contents.json cannot be read"),
        ("[1]", "contents.json cannot be read"),
        ('{"model.safetensors": 7}', "model.safetensors cannot be read ("),
        ('{"model.safetensors": {}}', "model.safetensors cannot be read ("),
    ],
)
def test_a_list_of_contents_that_is_none_is_damage(contents: str, found: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 1)
    (checkpoint / "contents.json").write_text(contents)
    assert (damage(checkpoint) or "").startswith(found)


def test_what_is_no_checkpoint_has_no_step() -> None:
    assert checkpointing.step_of(Path("checkpoint-12")) == 12
    with pytest.raises(ValueError, match="damaged-checkpoint-4 is not the name of a checkpoint; expected checkpoint-0"):
        checkpointing.step_of(Path("damaged-checkpoint-4"))


def test_damage_is_seen_before_the_last_part_that_is_read_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "CHUNK_BYTES", 100)
    checkpoint = write_checkpoint(tmp_path, 1)
    assert damage(checkpoint) is None
    flip(checkpoint / "model.safetensors")
    assert damage(checkpoint) == "model.safetensors was changed"
    cut(write_checkpoint(tmp_path, 2) / "shards" / "0.json")
    assert damage(tmp_path / "checkpoint-2") == "shards/0.json has 32 bytes instead of 64"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_damage_is_seen_without_a_list_of_contents(name: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 1)
    (checkpoint / "contents.json").unlink()
    assert damage(checkpoint) is None
    cut(checkpoint / name)
    assert damage(checkpoint) == f"{name} cannot be read"
    state = (checkpoint / "trainer_state.json").read_text()
    cut(checkpoint / "trainer_state.json")
    assert damage(checkpoint) == "trainer_state.json cannot be read"
    (checkpoint / "trainer_state.json").write_text(state)
    (checkpoint / "model.safetensors").unlink()
    assert damage(checkpoint) == "its weights are missing"
    for other in ("optimizer.pt", "rng_state.pth"):
        (checkpoint / other).unlink()
    (checkpoint / "shards" / "__0_0.distcp").touch()  # as weights of several processes are called
    assert damage(checkpoint) is None
    (checkpoint / "shards" / "__0_0.distcp").rename(checkpoint / "pytorch_model.bin")
    assert damage(checkpoint) is None


def test_the_newest_that_is_whole_is_gone_on_from_and_every_newer_one_is_told(tmp_path: Path) -> None:
    for step in (3, 9, 10, 11):
        write_checkpoint(tmp_path, step)
    for step in (10, 11):
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").unlink()
    told = dict.fromkeys((tmp_path / "checkpoint-11", tmp_path / "checkpoint-10"), "optimizer.pt is missing")
    assert newest_undamaged(tmp_path) == (tmp_path / "checkpoint-9", told)
    assert describe(told) == "checkpoint-11: optimizer.pt is missing; checkpoint-10: optimizer.pt is missing"
    for step in (3, 9):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").unlink()
    none, told = newest_undamaged(tmp_path)
    assert none is None
    assert [path.name for path in told] == [f"checkpoint-{step}" for step in (11, 10, 9, 3)]
    assert newest_undamaged(tmp_path / "nowhere") == (None, {})


def test_of_damaged_checkpoints_of_a_name_the_last_is_kept(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (write_checkpoint(tmp_path, 1) / "optimizer.pt").write_text(content)
        aside = checkpointing.set_aside(tmp_path / "checkpoint-1")
    assert names(tmp_path) == ["damaged-checkpoint-1"]
    assert (aside / "optimizer.pt").read_text() == "second"


def test_what_has_its_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file and folder before the name, and then the folder that has the name."""
    flushed: list[tuple[str, bool]] = []
    final = tmp_path / "checkpoint-1"
    monkeypatch.setattr(checkpointing, "_flush", lambda path: flushed.append((path.name, final.exists())))
    write_checkpoint(tmp_path, 1)
    *before, last = flushed
    there = [path.name for path in [final, *final.rglob("*")]]
    assert "contents.json" in there
    assert sorted(before) == sorted((name, False) for name in there)
    assert last == (tmp_path.name, True)
    flushed.clear()
    final = tmp_path / "recipe.yaml"
    write_at_once(final, "epochs: 3")
    assert flushed == [(".partial-recipe.yaml", False), (tmp_path.name, True)]


def test_a_text_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipe.yaml"
    write_at_once(path, "first")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(OSError, match="no"):
            write_at_once(path, "second")
    assert path.read_text() == "first"
    assert names(tmp_path) == ["recipe.yaml"]

"""Checkpoints that bear their name only when they are whole.

Trainer writes a checkpoint file by file under its final name. Here it is written under a hidden name in the same folder
and renamed when all of it is on the disk; it is renamed away again before it is deleted. Whatever is called
`checkpoint-N` can therefore be resumed from, however the run ended. Each holds a list of its files with their sizes and
checksums, so that damage done later is seen too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

CHECKPOINT_FOLDER = "checkpoints"
TRAINER_STATE = "trainer_state.json"
CONTENTS_FILE = "contents.json"
DAMAGED_PREFIX = "damaged-"
# How much of a file is in memory while its checksum is computed.
CHUNK_BYTES = 1 << 24
_NAME = re.compile(r"checkpoint-(\d+)")
_PARTIAL_PREFIX = ".partial-"
STAGING = f"{_PARTIAL_PREFIX}new"


def checkpoint_name(step: int) -> str:
    """What the checkpoint of an optimizer step is called, as Trainer does."""
    return f"checkpoint-{step}"


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; leftovers of interrupted writing are not among them."""
    return [path for path in named_checkpoints(folder) if _state_damage(path) is None]


def named_checkpoints(folder: Path) -> list[Path]:
    """What is called a checkpoint in a folder, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def step_of(checkpoint: Path) -> int:
    """After how many optimizer steps a checkpoint was made."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint.name} is not the name of a checkpoint; expected {checkpoint_name(0)} or such.")
    return int(match[1])


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words, after reading all of it; None if nothing is."""
    reason = _state_damage(checkpoint)
    if reason is not None:
        return reason
    listed = checkpoint / CONTENTS_FILE
    if not listed.is_file():
        return _damage_by_structure(checkpoint)
    try:
        contents = dict(json.loads(listed.read_bytes()))
    except (OSError, ValueError, TypeError):
        return f"{CONTENTS_FILE} cannot be read"
    for name, expected in contents.items():
        path = checkpoint / name
        try:
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size:,} bytes instead of {expected['bytes']:,}"
            if _checksum(path) != expected["crc32"]:
                return f"{name} was changed"
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, KeyError, TypeError) as error:
            return f"{name} cannot be read ({error})"
    return None


def set_aside(checkpoint: Path) -> Path:
    """Gives a damaged checkpoint a name that is not taken for a checkpoint's."""
    aside = checkpoint.with_name(f"{DAMAGED_PREFIX}{checkpoint.name}")
    if aside.exists():
        shutil.rmtree(aside)
    os.rename(checkpoint, aside)
    return aside


def write_at_once(path: Path, text: str) -> None:
    """Writes a text file so that it is there whole or as it was before, also where the power fails."""
    partial = path.with_name(f"{_PARTIAL_PREFIX}{path.name}")
    try:
        partial.write_text(text, encoding="utf-8")
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _flush(path.parent)


def _state_damage(checkpoint: Path) -> str | None:
    try:
        json.loads((checkpoint / TRAINER_STATE).read_bytes())
    except FileNotFoundError:
        return f"{TRAINER_STATE} is missing"
    except (OSError, ValueError):
        return f"{TRAINER_STATE} cannot be read"
    return None


def _damage_by_structure(checkpoint: Path) -> str | None:
    """What can be told without a list of the files: tensors cut short, archives without their end."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    if not any(path.suffix in (".safetensors", ".bin", ".distcp") for path in files):
        return "its weights are missing"
    for path in files:
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="numpy"):
                    pass
            except (OSError, SafetensorError):
                return f"{path.name} cannot be read"
        elif path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
            return f"{path.name} cannot be read"
    return None


def _contents(folder: Path) -> dict[str, Any]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32": _checksum(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CONTENTS_FILE
    }


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder to write a checkpoint into; removed, with what is in it, unless `publish` took it away."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    place = folder / STAGING
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def publish(written: Path, folder: Path) -> Path:
    """Gives a whole checkpoint its name in `folder`, at once, in place of an older one of that name."""
    (written / CONTENTS_FILE).write_text(json.dumps(_contents(written), indent=1) + "\n", encoding="utf-8")
    for path in [*written.rglob("*"), written]:
        _flush(path)
    final = folder / written.name
    if final.exists():
        discard(final)
    os.rename(written, final)
    _flush(folder)
    return final


def rotate(folder: Path, keep: int, best: str | None) -> None:
    """Deletes all but the newest `keep` checkpoints and the best one."""
    for path in whole_checkpoints(folder)[:-keep]:
        if best is None or path.resolve() != Path(best).resolve():
            discard(path)


def discard(checkpoint: Path) -> None:
    """Deletes a checkpoint, which loses its name first."""
    doomed = checkpoint.with_name(f"{_PARTIAL_PREFIX}old-{checkpoint.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(checkpoint, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Deletes what interrupted runs left half written or half deleted."""
    for path in folder.glob(f"{_PARTIAL_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Makes a file's or folder's content outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems know no flushing of folders
        pass
    finally:
        os.close(descriptor)


__all__ = [
    "CHECKPOINT_FOLDER",
    "STAGING",
    "TRAINER_STATE",
    "checkpoint_name",
    "damage",
    "discard",
    "named_checkpoints",
    "publish",
    "remove_leftovers",
    "rotate",
    "set_aside",
    "staging",
    "step_of",
    "whole_checkpoints",
    "write_at_once",
]

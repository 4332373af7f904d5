"""Files and folders that are complete or not there, and the mark of those that this package wrote."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vit_hybrid.files import (
    MARK,
    Locked,
    NoRoom,
    explaining_room,
    is_marked,
    json_text,
    lacks_room,
    locked,
    mark,
    replacing,
)


def test_a_folder_of_results_is_marked(tmp_path: Path) -> None:
    assert not is_marked(tmp_path)
    (tmp_path / "log.txt").write_text("so far")
    (tmp_path / "curve.png").touch()
    mark(tmp_path, figures=["curve.png"])
    assert is_marked(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {MARK, "log.txt", "curve.png"}
    assert "vit-hybrid" in (tmp_path / MARK).read_text()


@pytest.mark.parametrize("name", ["photo.jpg", "cat/photo.JPG", "curve.png"])
def test_a_folder_with_pictures_of_others_is_not_marked(name: str, tmp_path: Path) -> None:
    """Whoever lets results be written among the pictures goes on having pictures."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    mark(tmp_path)
    assert not is_marked(tmp_path)


def test_pictures_in_a_folder_with_the_mark_are_results(tmp_path: Path) -> None:
    inner = tmp_path / "before"
    inner.mkdir()
    mark(inner)
    (inner / "curve.png").touch()
    mark(tmp_path)
    assert is_marked(tmp_path)


# --- names that are no UTF-8 ------------------------------------------------------------------------------------------


def test_json_escapes_odd_bytes_and_nothing_else() -> None:
    value = {os.fsdecode(b"caf\xe9"): [os.fsdecode(b"\xff/1.jpg"), "caf\u00e9 \U0001f408"], "path": "C:\\new", "n": 0.5}
    text = json_text(value)
    assert json.loads(text.encode()) == {
        "caf\\xe9": ["\\xff/1.jpg", "caf\u00e9 \U0001f408"],
        "path": "C:\\new",
        "n": 0.5,
    }
    assert "caf\u00e9 \U0001f408" in text


# --- one run at a time ------------------------------------------------------------------------------------------------

# Holds a folder's lock, with a process of its own as a loader of pictures has, until it is killed.
_HOLDING = """
import os, sys, time
from pathlib import Path
from vit_hybrid.files import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.close(1)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDING, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        yield holder
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with held(folder) as holder:
        with pytest.raises(Locked, match="another run is writing into this folder; wait") as refused, locked(folder):
            pass
        assert str(folder) in str(refused.value)
        holder.kill()
        holder.wait()
        with locked(folder):  # although a process that it forked lives on
            assert os.listdir(folder)
    assert os.listdir(folder) == []


def test_a_lock_leaves_no_folder_of_a_run_that_did_not_begin(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data"), locked(tmp_path / "deep" / "run"):
        raise ValueError("no data")
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "model").touch()
    assert os.listdir(tmp_path / "run") == ["model"]


# --- full disks -------------------------------------------------------------------------------------------------------

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EFBIG, "File too large"),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    RuntimeError("basic_ios::clear: iostream error"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_told_in_one_line_whatever_a_library_says(error: Exception, tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "model.bin") as unfinished:
            unfinished.write_bytes(b"half")
            raise error

    with pytest.raises(NoRoom, match=r"model\.bin: the disk is full.*MB free\); make room") as told:
        write()
    assert len(str(told.value).splitlines()) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(errno.ENOENT, "No such file")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    assert not lacks_room(error)
    with pytest.raises(type(error)) as told, explaining_room(tmp_path):
        raise error
    assert told.value is error

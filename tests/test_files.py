"""Files and folders that are complete or not there, and the mark of those that this package wrote."""
# ruff: noqa: PT012 - what is tested is what comes of a block that fails in its midst

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from holding import held

from vit_hybrid import files
from vit_hybrid.files import (
    MARK,
    Locked,
    NoRoom,
    checksum,
    explaining_room,
    free_room,
    is_marked,
    json_text,
    lacks_room,
    locked,
    made_parents,
    mark,
    nearest_existing,
    replacing,
    require_room,
    unfetched,
    whole_folder,
    why_no_model_place,
    why_unwritten,
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
    assert json.loads(json_text({"n": float("inf")})) == {"n": float("inf")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"n": float("inf")}, allow_nan=False)


# --- one run at a time ------------------------------------------------------------------------------------------------


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


def test_a_lock_of_a_file_that_was_deleted_meanwhile_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    lock, opened, descriptors = fcntl.lockf, [], []

    def lockf(descriptor: int, how: int) -> None:
        descriptors.append(descriptor)
        opened.append(os.fstat(descriptor).st_ino)
        if len(opened) == 1:  # whoever had it ends between the opening and the lock
            (tmp_path / "run" / files.LOCK).unlink()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with locked(tmp_path / "run"):
        assert len(opened) == 2
        assert (tmp_path / "run" / files.LOCK).stat().st_ino == opened[1]
    assert os.listdir(tmp_path / "run") == []
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_a_lock_that_somebody_deleted_is_let_go_of_all_the_same(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / files.LOCK).unlink()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EAGAIN])
def test_either_way_in_which_a_system_says_that_another_has_the_lock(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    descriptors: list[int] = []

    def lockf(descriptor: int, how: int) -> None:
        descriptors.append(descriptor)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(Locked, match="another run is writing into this folder"), locked(tmp_path):
        pytest.fail("another has it")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_knows_no_locks_nobody_is_kept_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def lockf(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with locked(tmp_path):
        assert os.listdir(tmp_path) == [files.LOCK]
    assert os.listdir(tmp_path) == []


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

    with pytest.raises(NoRoom) as told:
        write()
    words = {"No space left on device; ", "File too large; "}
    [why] = [word for word in words if word[:8] in str(error)] or [""]
    found = re.fullmatch(
        r"(.*): the disk is full \(([^;)]*; )?[\d,.]+ MB free\); make room, or give .*", str(told.value)
    )
    assert found is not None  # and nothing of C++ or serializing
    assert (found[1], found[2] or "") == (str(tmp_path / "model.bin"), why)
    assert why_unwritten(error) == why_unwritten(told.value) == (why.removesuffix("; ") or "the disk is full")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(errno.ENOENT, "No such file")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    assert not lacks_room(error)
    with pytest.raises(type(error)) as told, explaining_room(tmp_path):
        raise error
    assert told.value is error


def contents(folder: Path) -> dict[str, str]:
    """All files under `folder`, hidden ones included, with their text."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def filled(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_checksum_is_sha_256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"levels" * 10**6)
    assert checksum(tmp_path / "file") == hashlib.sha256(b"levels" * 10**6).hexdigest()


class TestReplacing:
    def test_the_new_file_takes_the_place(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("old")
        with replacing(path) as unfinished:
            unfinished.write_text("new")
            assert path.read_text() == "old"
        assert contents(tmp_path) == {"file": "new"}

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    def test_a_writer_that_fails_leaves_the_old_one(self, error: BaseException, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("old")
        with pytest.raises(type(error)), replacing(path) as unfinished:
            unfinished.write_text("ne")
            raise error
        assert contents(tmp_path) == {"file": "old"}

    def test_what_a_killed_process_left_is_swept(self, dead: int, tmp_path: Path) -> None:
        (tmp_path / f".file.{dead}.partial").write_text("half")
        (tmp_path / f".file.{dead}.{files.HOST}abcd.partial").symlink_to("folder")
        filled(tmp_path / "folder", kept="of whom the link leads to")
        (tmp_path / f".file.{os.getpid()}.partial").write_text("another's, who writes")
        (tmp_path / f".file.{10**30}.partial").write_text("of no process that can be")
        (tmp_path / f".other.{dead}.partial").write_text("of another file")
        with replacing(tmp_path / "file") as unfinished:
            unfinished.write_text("new")
        assert not os.path.lexists(tmp_path / f".file.{dead}.{files.HOST}abcd.partial")
        theirs = {f".file.{os.getpid()}.partial", f".other.{dead}.partial", "folder/kept"}
        assert set(contents(tmp_path)) == {"file", *theirs}

    @pytest.mark.parametrize("name", ["photo (1)+[2].jpg", "n" * 255, "a\nb", os.fsdecode(b"caf\xe9")])
    def test_it_is_swept_whatever_the_name(self, name: str, dead: int, tmp_path: Path) -> None:
        other = f".x{name[:190]}.{dead}.{files.HOST}abcd.partial"
        for left in (other, f".{name[:200]}.{dead}.{files.HOST}abcd.partial"):
            (tmp_path / left).write_text("half")
        with replacing(tmp_path / name) as unfinished:
            unfinished.write_text("new")
        assert contents(tmp_path) == {name: "new", other: "half"}


class TestMadeParents:
    def test_they_go_again_where_nothing_comes(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no"), made_parents(tmp_path / "a/b/c"):
            assert (tmp_path / "a/b").is_dir()
            raise ValueError("no")
        assert list(tmp_path.iterdir()) == []

    def test_one_that_cannot_be_made_takes_the_others_along(self, tmp_path: Path, monkeypatch: Any) -> None:
        make = Path.mkdir

        def full(path: Path, *args: Any, **options: Any) -> None:
            if path.name == "b":
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            make(path, *args, **options)

        monkeypatch.setattr(Path, "mkdir", full)
        with pytest.raises(OSError, match="No space left"), made_parents(tmp_path / "a/b/c"):
            pytest.fail("nothing can be written there")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("is_folder", [True, False])
    def test_of_what_another_makes_meanwhile_a_folder_is_as_good(
        self, is_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make = Path.mkdir

        def late(path: Path, *args: Any, **options: Any) -> None:
            if path.name == "a":
                make(path) if is_folder else path.touch()
            make(path, *args, **options)

        monkeypatch.setattr(Path, "mkdir", late)
        with pytest.raises(ValueError if is_folder else FileExistsError), made_parents(tmp_path / "a/b/c"):
            assert is_folder
            raise ValueError("no")
        assert os.listdir(tmp_path) == ["a"]  # which is the other's
        assert not is_folder or os.listdir(tmp_path / "a") == []

    def test_what_was_there_stays(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with pytest.raises(ValueError, match="no"), made_parents(tmp_path / "a/b/c"):
            filled(tmp_path / "a/b", other="came meanwhile")
            raise ValueError("no")
        assert contents(tmp_path) == {"a/b/other": "came meanwhile"}


class TestWholeFolder:
    def test_it_is_not_there_before_it_is_whole(self, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "out"
        with whole_folder(out) as folder:
            filled(folder, one="1")
            filled(folder / "inner", two="2")
            assert not out.exists()
        assert contents(tmp_path) == {"deep/out/one": "1", "deep/out/inner/two": "2"}

    @pytest.mark.parametrize("existing", ["refuse", "replace", "fill"])
    @pytest.mark.parametrize(
        "error", [ValueError("half"), KeyboardInterrupt(), SystemExit(3), OSError(errno.ENOSPC, "No space left")]
    )
    @pytest.mark.parametrize("before", ["nothing", "empty", "full"])
    def test_where_anything_fails_all_is_as_it_was(
        self, before: str, error: BaseException, existing: Any, tmp_path: Path
    ) -> None:
        out = tmp_path / "deep" / "out"
        if before != "nothing":
            filled(out, **({"one": "old", "mine": "old"} if before == "full" and existing != "refuse" else {}))
        was = sorted(tmp_path.rglob("*")), contents(tmp_path)
        with pytest.raises(type(error)), whole_folder(out, existing, last="one", stale=["mi*"]) as folder:
            filled(folder, one="new", two="new")
            raise error
        assert (sorted(tmp_path.rglob("*")), contents(tmp_path)) == was

    def test_one_that_is_there_is_refused_before_any_work(self, tmp_path: Path) -> None:
        filled(tmp_path / "out", one="old")
        with pytest.raises(FileExistsError) as caught, whole_folder(tmp_path / "out"):
            pytest.fail("it would be in vain")
        assert caught.value.filename == str(tmp_path / "out")
        assert contents(tmp_path) == {"out/one": "old"}

    def test_one_that_comes_meanwhile_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError), whole_folder(tmp_path / "out") as folder:
            filled(folder, one="new")
            filled(tmp_path / "out", other="came meanwhile")
        assert contents(tmp_path) == {"out/other": "came meanwhile"}

    def test_a_file_that_comes_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError), whole_folder(tmp_path / "out", "replace") as folder:
            filled(folder, one="new")
            (tmp_path / "out").write_text("came meanwhile")
        assert contents(tmp_path) == {"out": "came meanwhile"}

    @pytest.mark.parametrize("existing", ["refuse", "replace", "fill"])
    def test_a_file_is_refused(self, existing: Any, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        with pytest.raises(FileExistsError), whole_folder(tmp_path / "out", existing):
            pytest.fail("it would be in vain")
        assert contents(tmp_path) == {"out": "mine"}

    def test_an_empty_one_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with whole_folder(tmp_path / "out") as folder:
            filled(folder, one="1")
        assert contents(tmp_path) == {"out/one": "1"}

    def test_an_empty_mount_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a container has it: nothing else can take its name, and beside it is another file system."""
        monkeypatch.setattr(os.path, "ismount", lambda path: True)
        (tmp_path / "out").mkdir()
        identity = (tmp_path / "out").stat().st_ino
        with whole_folder(tmp_path / "out") as folder:
            assert folder.parent == tmp_path / "out"
            filled(folder, one="1")
        assert contents(tmp_path) == {"out/one": "1"}
        assert (tmp_path / "out").stat().st_ino == identity
        filled(tmp_path / "out", two="old")
        with whole_folder(tmp_path / "out", "replace") as folder:  # of one that is not empty nothing may stay
            filled(folder, one="new")
        assert contents(tmp_path) == {"out/one": "new"}

    def test_replacing_leaves_nothing_of_the_old_one(self, tmp_path: Path) -> None:
        filled(tmp_path / "out", one="old", two="old")
        with whole_folder(tmp_path / "out", "replace") as folder:
            filled(folder, one="new")
            assert contents(tmp_path / "out") == {"one": "old", "two": "old"}
        assert contents(tmp_path) == {"out/one": "new"}

    def test_filling_leaves_what_is_not_stale(self, tmp_path: Path) -> None:
        filled(tmp_path / "out", one="old", mine="mine", stale_1="old", stale_2="old")
        with whole_folder(tmp_path / "out", "fill", stale=["stale_*"]) as folder:
            filled(folder, one="new", stale_2="new")
        assert contents(tmp_path) == {"out/one": "new", "out/mine": "mine", "out/stale_2": "new"}

    @pytest.mark.parametrize("number", range(6))
    def test_filling_that_fails_midway_is_undone(
        self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two old files and a link to nothing go, "last" before the others, and three new files come: any of the six
        steps may fail."""
        filled(tmp_path / "out", last="old", first="old", mine="mine")
        (tmp_path / "out" / "zero").symlink_to("nowhere")
        move, steps = Path.rename, []

        def fail(path: Path, place: Path) -> Path:
            steps.append(path.name)
            if len(steps) == number + 1:
                raise OSError(errno.EIO, "Input/output error", str(path))
            return move(path, place)

        with pytest.raises(OSError, match="Input/output"), whole_folder(tmp_path / "out", "fill", last="last") as new:
            filled(new, last="new", first="new", zero="new")
            monkeypatch.setattr(Path, "rename", fail)
        assert steps[: number + 1] == ["last", "first", "zero", "first", "zero", "last"][: number + 1]
        assert contents(tmp_path) == {"out/last": "old", "out/first": "old", "out/mine": "mine"}
        assert os.readlink(tmp_path / "out" / "zero") == "nowhere"

    def test_replacing_that_fails_midway_is_undone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        filled(tmp_path / "out", one="old")
        move = Path.rename

        def fail(path: Path, place: Path) -> Path:
            if path.name.endswith(".partial") and Path(place).name == "out":
                raise OSError(errno.EIO, "Input/output error", str(path))
            return move(path, place)

        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="Input/output"), whole_folder(tmp_path / "out", "replace") as folder:
            filled(folder, one="new")
        assert contents(tmp_path) == {"out/one": "old"}

    def test_of_what_came_meanwhile_and_was_there_before_the_first_comes_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled(tmp_path / "out", one="before")
        move = Path.rename

        def fail(path: Path, place: Path) -> Path:
            if path.name.endswith(".partial") and Path(place).name == "out":
                raise OSError(errno.EIO, "Input/output error", str(path))
            moved = move(path, place)
            if contents(Path(place)) == {"one": "before"} and Path(place).name != "out":
                filled(tmp_path / "out", one="meanwhile")  # another has put something there
            return moved

        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="Input/output"), whole_folder(tmp_path / "out", "replace") as folder:
            filled(folder, one="new")
        assert contents(tmp_path / "out") == {"one": "before"}

    def test_a_link_to_a_folder_stays_a_link(self, tmp_path: Path) -> None:
        filled(tmp_path / "real", one="old")
        (tmp_path / "out").symlink_to("real")
        with whole_folder(tmp_path / "out", "replace") as folder:
            filled(folder, one="new")
        assert (tmp_path / "out").is_symlink()
        assert contents(tmp_path / "real") == {"one": "new"}

    def test_the_current_folder_has_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out").mkdir()
        monkeypatch.chdir(tmp_path / "out")
        with whole_folder(".", "fill") as folder:
            filled(folder, one="1")
        assert contents(tmp_path) == {"out/one": "1"}

    def test_all_may_read_what_they_may_read_of_new_files(self, tmp_path: Path) -> None:
        before = os.umask(0o027)
        try:
            (tmp_path / "new").touch()
            with whole_folder(tmp_path / "out") as folder:
                filled(folder, one="1")
                (filled(folder / "inner", two="2") / "two").chmod(0o600)
                (folder / "one").chmod(0o600)  # as safetensors does
        finally:
            os.umask(before)
        for name in ("out/one", "out/inner/two"):
            assert (tmp_path / name).stat().st_mode == (tmp_path / "new").stat().st_mode

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_may_not_be_written_to(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(PermissionError), whole_folder(tmp_path / "other"):
                pytest.fail("nothing can be written there")
            with whole_folder(tmp_path / "out") as folder:  # this one may be written to, but nothing beside it
                filled(folder, one="1")
        finally:
            tmp_path.chmod(0o700)
        assert contents(tmp_path) == {"out/one": "1"}

    def test_a_parent_that_may_not_be_written_to(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As root, too, for whom it is made up."""
        (tmp_path / "out").mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        with whole_folder(tmp_path / "out") as folder:
            assert folder.parent == tmp_path / "out"
            filled(folder, one="1")
        assert contents(tmp_path) == {"out/one": "1"}

    def test_errors_name_what_was_asked_for(self, tmp_path: Path) -> None:
        for kind in (ValueError, RuntimeError):
            with pytest.raises(kind) as caught, whole_folder(tmp_path / "out") as folder:
                raise kind(f"{folder}/model: cannot be written")
            assert str(caught.value) == f"{tmp_path}/out/model: cannot be written"
        with pytest.raises(FileNotFoundError) as missing, whole_folder(tmp_path / "out") as folder:
            (folder / "none" / "file").write_text("")
        assert missing.value.filename == f"{tmp_path}/out/none/file"

    @pytest.mark.parametrize("name", [b"caf\xe9".decode("utf-8", "surrogateescape"), "a b\nc", "n" * 255, "é" * 127])
    def test_any_name_that_the_file_system_takes(self, name: str, dead: int, tmp_path: Path) -> None:
        with whole_folder(tmp_path / name) as folder:
            filled(folder, one="1")
        with whole_folder(tmp_path / name, "replace") as folder:
            filled(folder, one="2")
        assert os.listdir(tmp_path) == [name]
        assert (tmp_path / name / "one").read_text() == "2"
        with replacing(tmp_path / name / name) as unfinished:
            unfinished.write_text("3")
        assert sorted(os.listdir(tmp_path / name)) == sorted(["one", name])


class TestLeftovers:
    """A process that is killed tidies nothing up; the next one does."""

    def killed(self, out: Path, existing: str, when: str) -> None:
        """Runs a process that is killed in the block, or when it has moved the first of the old away."""
        code = f"""
import os, signal
from pathlib import Path
from vit_hybrid.files import whole_folder

move = Path.rename
def die(path, place):
    move(path, place)
    os.kill(os.getpid(), signal.SIGKILL)

with whole_folder({os.fspath(out)!r}, {existing!r}, last="one") as folder:
    (folder / "one").write_text("new")
    if {when!r} == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
    Path.rename = die
"""
        assert subprocess.run([sys.executable, "-c", code]).returncode == -9

    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        return filled(tmp_path / "out", one="old", mine="old")

    @pytest.mark.parametrize("existing", ["replace", "fill"])
    def test_half_of_one_is_swept(self, existing: Any, out: Path, tmp_path: Path) -> None:
        self.killed(out, existing, "writing")
        assert len(contents(tmp_path)) == 3
        with whole_folder(out, existing) as folder:
            filled(folder, two="new")
        both = {"out/one": "old", "out/mine": "old", "out/two": "new"}
        assert contents(tmp_path) == (both if existing == "fill" else {"out/two": "new"})

    @pytest.mark.parametrize("existing", ["replace", "fill"])
    def test_what_was_moved_away_comes_back(self, existing: Any, out: Path, tmp_path: Path) -> None:
        self.killed(out, existing, "moving")
        assert not (out / "one").exists()
        with pytest.raises(ValueError, match="no"), whole_folder(out, existing):
            raise ValueError("no")
        assert contents(tmp_path) == {"out/one": "old", "out/mine": "old"}

    def test_what_is_not_ours_stays(self, out: Path, dead: int, tmp_path: Path) -> None:
        theirs = [
            f".out.{os.getpid()}.{files.HOST}abcd.partial",  # of a process that lives
            f".out.{dead}.{int(files.HOST, 16) ^ 1:08x}abcd.partial",  # of another machine
            f".other.{dead}.partial",
            f"out.{dead}.partial",
            f".out.{dead}.partial.txt",
            ".out.partial",
        ]
        for name in theirs:
            filled(tmp_path / name, file="theirs")
        filled(tmp_path / f".out.{dead}.partial", file="half")
        filled(tmp_path / f".out.{dead}.{files.HOST}abcd.partial", file="half")
        filled(tmp_path / f".out.{dead}.{files.HOST}abcd.former", file="what there is another of by now")
        with whole_folder(out, "replace") as folder:
            filled(folder, one="new")
        assert contents(out) == {"one": "new"}
        assert sorted(os.listdir(tmp_path)) == sorted(["out", *theirs])


class TestTwoAtOnce:
    """Threads, for processes do the same; each waits in its block until all are there."""

    def together(self, tmp_path: Path, existing: str, count: int = 8) -> tuple[list[str], list[BaseException]]:
        barrier, written, errors = threading.Barrier(count), [], []

        def write(number: int) -> None:
            try:
                with whole_folder(tmp_path / "deep" / "out", existing) as folder:  # type: ignore[arg-type]
                    filled(folder, one=str(number), two=str(number))
                    barrier.wait(30)
                written.append(str(number))
            except OSError as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return written, errors

    def test_one_wins_where_the_others_may_not_replace_it(self, tmp_path: Path) -> None:
        written, errors = self.together(tmp_path, "refuse")
        assert len(written) == 1
        assert len(errors) == 7
        assert all(isinstance(error, FileExistsError) for error in errors)
        assert contents(tmp_path) == {"deep/out/one": written[0], "deep/out/two": written[0]}

    def test_what_is_there_is_from_one_of_them(self, tmp_path: Path) -> None:
        written, _ = self.together(tmp_path, "replace", 2)
        found = contents(tmp_path)
        assert found.keys() == {"deep/out/one", "deep/out/two"}
        assert found["deep/out/one"] == found["deep/out/two"] in written

    def test_what_is_as_good_stays(self, tmp_path: Path) -> None:
        filled(tmp_path / "out", one="theirs")
        with whole_folder(tmp_path / "out", "replace", keep=lambda: True) as folder:
            filled(folder, one="ours")
        assert contents(tmp_path) == {"out/one": "theirs"}


def test_a_folder_that_is_being_written_into_is_no_data_unless_it_holds_pictures(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        assert is_marked(tmp_path / "out")
        (tmp_path / "out" / "photo.jpg").touch()
        assert not is_marked(tmp_path / "out")
    assert not is_marked(tmp_path / "out")


def test_what_somebody_elses_process_is_writing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another person's process nothing may be asked but whether it is there."""

    def refuse(process: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    theirs = tmp_path / f".out.txt.1.{files.HOST}abcd.partial"
    theirs.touch()
    with replacing(tmp_path / "out.txt") as unfinished:
        unfinished.write_text("mine")
    assert theirs.exists()
    assert (tmp_path / "out.txt").read_text() == "mine"


def test_a_full_disk_is_told_once_by_who_met_it_first(tmp_path: Path) -> None:
    with pytest.raises(NoRoom) as caught, explaining_room(tmp_path / "around"), explaining_room(tmp_path / "within"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value).startswith(f"{tmp_path}/within: the disk is full")


def test_room_is_asked_for_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def allocate(descriptor: int, start: int, size: int) -> None:
        asked.append(size)
        if size > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        if size == 999:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", allocate, raising=False)
    require_room(tmp_path, 1000)
    require_room(tmp_path, 999)  # of which this file system cannot tell
    with pytest.raises(NoRoom, match=rf"^{re.escape(str(tmp_path))}: the disk is full \(No space left on device; "):
        require_room(tmp_path, 1001)
    assert asked == [1000, 999, 1001]
    assert os.listdir(tmp_path) == []
    monkeypatch.delattr(os, "posix_fallocate")
    require_room(tmp_path, 1001)


def test_the_nearest_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    assert nearest_existing(tmp_path / "a") == nearest_existing(tmp_path / "a" / "b" / "c") == tmp_path / "a"
    monkeypatch.chdir(tmp_path)
    assert nearest_existing(Path("b/c")) == tmp_path
    assert re.fullmatch(r"; [\d,]+\.\d MB free", free_room(tmp_path / "a" / "b"))
    usage = SimpleNamespace(total=9_000_000, used=6_500_000, free=2_500_000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)
    assert free_room(tmp_path) == "; 2.5 MB free"

    def gone(path: Path) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.shutil, "disk_usage", gone)
    assert free_room(tmp_path) == ""


def test_no_model_goes_where_its_weights_could_not_be_read(tmp_path: Path) -> None:
    assert why_no_model_place(tmp_path / "caf\u00e9") is None
    said = why_no_model_place(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    assert said == f"{tmp_path}/caf\\xe9: this name is no UTF-8, and no weights can be read from it; give another"


def test_what_git_lfs_did_not_fetch_is_said(tmp_path: Path) -> None:
    (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n")
    (tmp_path / "file").write_text("version https://example.com")
    assert str(unfetched(tmp_path / "pointer")).startswith("is a Git LFS pointer")
    for other in ("file", "none", "."):
        assert unfetched(tmp_path / other) is None


@pytest.mark.skipif(not os.path.isfile("/proc/self/mem"), reason="there is no file that nobody can read from its start")
def test_of_what_cannot_be_read_nothing_is_said() -> None:
    assert unfetched("/proc/self/mem") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_of_a_pipe_nothing_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)  # so that whoever opens it does not wait
    try:
        os.write(pipe, b"version https://git-lfs.github.com/spec/v1\n")
        assert unfetched(tmp_path / "pipe") is None
    finally:
        os.close(pipe)


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "odd") for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
        RuntimeError("cannot write: Disk quota exceeded"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        RuntimeError("PytorchStreamWriter failed"),
        RuntimeError("file write failed"),
        RuntimeError("iostream error"),
        RuntimeError("basic_ios::clear: unspecified"),
        ValueError("File too large"),
        NoRoom("no room"),
    ],
)
def test_what_says_that_there_is_no_room(error: Exception) -> None:
    assert lacks_room(error)


def test_why_a_file_could_not_be_written() -> None:
    assert why_unwritten(OSError(errno.EIO, "Input/output error")) == "Input/output error"
    assert why_unwritten(RuntimeError("odd\n words")) == "the disk fails: odd words"

"""What is kept of a run: lines that are only added, here or in an object store, and survive being cut short."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vit_hybrid.data.streams import Place
from vit_hybrid.files import MARK_AMONG_ROWS, NoRoom, is_marked
from vit_hybrid.inference.shards import Receipt, Shard
from vit_hybrid.predict.lines import LINES_A_FILE, Lines, LocalLines, RemoteLines, lines
from vit_hybrid.predict.manifest import Done, Manifest, ManifestError
from vit_hybrid.predict.output import Output, OutputTaken
from vit_hybrid.predict.places import LocalFolder, PlaceError, RemoteFolder, folder
from vit_hybrid.predict.rows import Columns, part_name

Opened = Callable[[], Lines]


@pytest.fixture(params=["local", "remote"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the same lines, as another process would."""
    name = str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4()}"
    return lambda: lines(folder(name), "_kept.jsonl")


def shard(number: int) -> Shard:
    return Shard(number, Place("a", 4 * number), Place("b", 4 * number + 3), 4)


def receipt(number: int, errors: int = 0) -> Receipt:
    return Receipt(number, 4, errors, 0, 1.25, 100, "ab12", f"stamps {errors}", "here")


def test_lines_come_back_in_order(opened: Opened) -> None:
    assert not opened().is_there()
    first = opened()
    for number in range(LINES_A_FILE + 3):
        first.add(b"%d\n" % number)
    again = opened()
    assert again.is_there()
    assert [int(line) for line in again.read()] == list(range(LINES_A_FILE + 3))
    again.add(b"-1\n")
    assert [int(line) for line in opened().read()] == [*range(LINES_A_FILE + 3), -1]
    again.remove()
    assert not opened().is_there()
    again.add(b"anew\n")
    assert list(opened().read()) == [b"anew\n"]


def test_a_line_that_was_cut_short_makes_room_for_the_next(tmp_path: Path) -> None:
    kept = LocalLines(LocalFolder(tmp_path), "kept")
    kept.add(b"one\n")
    with open(tmp_path / "kept", "ab") as file:
        file.write(b"tw")
    assert list(kept.read()) == [b"one\n"]
    kept.add(b"three\n")
    assert list(kept.read()) == [b"one\n", b"three\n"]


def test_lines_of_an_object_store_are_few_files() -> None:
    place = RemoteFolder(f"memory://{uuid.uuid4()}")
    kept = RemoteLines(place, "kept")
    for number in range(2 * LINES_A_FILE + 1):
        kept.add(b"%d\n" % number)
    assert place.names() == ["kept.000000", "kept.000001", "kept.000002"]
    others = RemoteLines(place, "not.kept")
    assert not others.is_there()
    others.add(b"another's\n")
    assert list(kept.read()) == [b"%d\n" % number for number in range(2 * LINES_A_FILE + 1)]
    kept.remove()
    assert place.names() == ["not.kept.000000"]


class TestManifest:
    def test_says_again_what_it_was_told(self, opened: Opened) -> None:
        kept = Manifest(opened())
        kept.begin({"top-k": 5}, ["pictures"])
        kept.state_facts({"engine": "torch"})
        for number in range(3):
            kept.settle(shard(number), {f"folder {number}": number}, 12.3456)
        kept.finish(receipt(1, errors=2))
        kept.finish(receipt(0))
        kept.finish(receipt(1))
        kept.close({"folder 1": 9, "folder 2": 2, "late": 3})
        kept.join(True)
        state = Manifest(opened()).read()
        assert state == kept.state == kept.read()  # also by who wrote it
        assert state.asked == {"top-k": 5}
        assert state.facts == {"engine": "torch"}
        assert state.names == ("pictures",)
        assert state.shards == [shard(0), shard(1), shard(2)]
        assert (state.rows, state.errors, set(state.done)) == (8, 0, {0, 1})
        assert state.done[1] == Done(rows=4, errors=0, bytes=100, sha256="ab12")
        assert state.outline == {"folder 0": 0, "folder 1": 9, "folder 2": 2, "late": 3}
        assert state.rate == 12.346
        assert state.is_whole
        assert state.is_joined
        assert Manifest(opened()).stamps() == {0: "stamps 0", 1: "stamps 0"}
        first, *others = opened().read()
        assert [line["seconds"] for line in map(json.loads, others) if "done" in line] == [1.25] * 3
        assert first == (
            b'{"format":"vit-hybrid prediction","format_version":1,"asked":{"top-k":5},"sources":["pictures"]}\n'
        )

    def test_what_is_begun_again_is_so_until_it_is_done(self, opened: Opened) -> None:
        kept = Manifest(opened())
        kept.begin({}, [])
        for number in (0, 1):
            kept.settle(shard(number), {}, 1)
            kept.finish(receipt(number, errors=1))
        before = len(list(opened().read()))
        for number in (1, 0, 1):
            kept.begin_again(number)
        assert len(list(opened().read())) == before + 2
        assert Manifest(opened()).read().again == {0, 1}
        kept.finish(receipt(1))
        assert (Manifest(opened()).read().again, Manifest(opened()).read().errors) == ({0}, 1)

    def test_a_source_that_goes_on_is_not_whole(self, opened: Opened) -> None:
        kept = Manifest(opened())
        kept.begin({}, [])
        kept.close({})
        kept.settle(shard(0), {}, 1)
        assert not Manifest(opened()).read().is_whole

    @pytest.mark.parametrize("damage", [b"{}\n", b'{"shard": 1}\n', b"no JSON\n", b'{"done": 0}\n', b"[]\n", b"5\n"])
    def test_damage_is_told_by_its_line(self, opened: Opened, damage: bytes) -> None:
        kept = opened()
        Manifest(kept).begin({}, [])
        kept.add(damage)
        Manifest(kept).begin({}, [])
        with pytest.raises(ManifestError, match=r"/_kept\.jsonl(\.\*)?: this is damaged in line 2"):
            Manifest(opened()).read()

    def test_a_line_that_was_lost_is_damage(self, opened: Opened) -> None:
        lines = opened()
        kept = Manifest(lines)
        kept.begin({}, [])
        kept.settle(shard(0), {}, 1)
        *_, last = opened().read()
        lines.add(json.dumps({**json.loads(last), "shard": 2}).encode() + b"\n")  # and shard 1 is nowhere
        with pytest.raises(ManifestError, match="this is damaged in line 3"):
            Manifest(opened()).read()

    @pytest.mark.parametrize(("name", "version"), [("vit-hybrid prediction", 99), ("of something else", 1)])
    def test_one_of_a_later_release_is_not_misread(self, opened: Opened, name: str, version: int) -> None:
        line = {"format": name, "format_version": version, "asked": {}, "sources": []}
        opened().add(json.dumps(line).encode() + b"\n")
        with pytest.raises(ManifestError, match="another format"):
            Manifest(opened()).read()


class TestPlaces:
    @pytest.mark.parametrize("kind", ["local", "remote"])
    def test_files(self, kind: str, tmp_path: Path) -> None:
        place = folder(str(tmp_path / "x") if kind == "local" else f"memory://{uuid.uuid4()}/x")
        assert place.names() == []
        if isinstance(place, LocalFolder):
            place.make()
        place.write("b", b"two")
        place.write("a", b"one")
        place.write("a", b"three")
        assert [name for name in place.names() if name != MARK_AMONG_ROWS] == ["a", "b"]
        assert place.read("a") == b"three"
        with place.writing("c") as file:
            file.write(b"four")
        with place.reading("c") as file:
            assert file.read() == b"four"
        place.remove(["b", "nothing"])
        assert (place.has("a"), place.has("b")) == (True, False)
        with pytest.raises(FileNotFoundError):
            place.read("b")

    @pytest.mark.parametrize("kind", ["local", "memory", "s3"])
    def test_what_fails_leaves_what_was_there(self, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
        if kind == "s3":
            name = f"{request.getfixturevalue('bucket')}/in"
        else:
            name = str(tmp_path) if kind == "local" else f"memory://{uuid.uuid4()}"
        place = folder(name)
        place.write("a", b"one")

        def fail() -> None:
            with place.writing("a") as file:
                file.write(b"tw")
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert place.names() == ["a"]
        assert place.read("a") == b"one"

    def test_a_folder_of_rows_is_marked(self, tmp_path: Path) -> None:
        place = LocalFolder(tmp_path / "x")
        place.make()
        place.make()
        assert is_marked(place.path)
        assert all(name.startswith("_") for name in place.names())

    @pytest.mark.parametrize("name", ["nonsense://x", "s4://bucket/x"])
    def test_an_address_that_nothing_opens(self, name: str) -> None:
        with pytest.raises(PlaceError, match=f"{name}: this address cannot be opened"):
            folder(name)

    def test_an_object_store_is_asked_and_not_what_was_listed_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        place, asked = RemoteFolder(f"memory://{uuid.uuid4()}"), list[str]()

        class Files:
            def __getattr__(self, name: str) -> Callable[..., list[str]]:
                return lambda *_, **__: asked.append(name) or []  # type: ignore[func-returns-value]

        monkeypatch.setattr(RemoteFolder, "_opened", lambda _: (Files(), "bucket/in"))
        place.names()
        place.has("a")
        assert asked == ["invalidate_cache", "ls", "invalidate_cache", "exists"]
        inside: Any = SimpleNamespace(invalidate_cache=str, ls=lambda *_, **__: ["bucket/in/b", "bucket/in/a/"])
        monkeypatch.setattr(RemoteFolder, "_opened", lambda _: (inside, "bucket/in"))
        assert place.names() == ["a", "b"]

    def test_a_store_that_takes_nothing_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        place = RemoteFolder(f"memory://{uuid.uuid4()}/in/")

        def refuse(*_: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(type(place._opened()[0]), "pipe_file", refuse)
        with pytest.raises(PlaceError, match=rf"^{place.name}: nothing can be written there\.$"):
            place.write("a", b"one")

    @pytest.mark.parametrize(
        ("name", "parent"),
        [("/x.csv", "/"), ("x.csv", "."), ("file:///x.csv", "/"), ("memory://x.csv", "memory://"), ("in/x.csv", "in")],
    )
    def test_one_file_lies_right_where_its_name_says(self, name: str, parent: str) -> None:
        """At the root of a file system, too, or of a store."""
        output = Output(name)
        assert (output._parent.name, output._file) == (parent, "x.csv")

    def test_a_file_address_is_a_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert folder("~/in").name == str(tmp_path / "in")
        assert folder(f"file://{tmp_path}").name == str(tmp_path)


def test_a_name_says_what_is_written_however_it_is_typed(tmp_path: Path) -> None:
    for name, form in (("x.CSV", ".csv"), ("x.JsonL", ".jsonl"), ("x.Parquet/", ".parquet")):
        assert Output(f"{tmp_path}/{name}").form == form


@pytest.mark.parametrize(("name", "folder"), [("x.parquet", "x.parquet"), ("x.csv", "x.csv.parts")])
def test_a_folder_in_which_nobody_sees_a_file_is_free(name: str, folder: str, tmp_path: Path) -> None:
    output = Output(str(tmp_path / name))
    (tmp_path / folder).mkdir()
    (tmp_path / folder / ".DS_Store").touch()
    output.check_free()
    (tmp_path / folder / "mine").touch()
    with pytest.raises(OutputTaken, match="did not write"):
        output.check_free()


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_a_run_that_wrote_nothing_leaves_no_folder_and_one_that_did_its_parts(name: str, tmp_path: Path) -> None:
    output = Output(str(tmp_path / name))
    with output.for_this_run():
        output.begin()
    assert [path.name for path in tmp_path.iterdir() if not name.endswith("parquet")] == []
    with output.for_this_run():  # which ends before the parts become one file
        output.begin()
        output.folder.write(part_name(0, output.form), b"rows")
    assert part_name(0, output.form) in output.folder.names()
    assert MARK_AMONG_ROWS in output.folder.names()


def test_parts_become_one_file_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Also where there are more of them than the names have digits for."""
    output = Output(str(tmp_path / "x.csv"))
    output.begin()
    for number in (100_000, 7, 99_999):
        output.folder.write(part_name(number, ".csv"), b"%d\n" % number)
    output.folder.write("part-00007.csv.of-another", b"what is no part\n")
    output.join(Columns())
    assert (tmp_path / "x.csv").read_text() == "path,width,height,error,reason\n7\n99999\n100000\n"
    assert output.manifest.state.is_joined


def test_what_is_added_and_written_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own bytes before it is taken for there, and then its name."""
    flushed: list[bytes] = []
    inner = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}")
        flushed.append(b"" if path.is_dir() else path.read_bytes())
        inner(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    place = LocalFolder(tmp_path)
    place.append("lines", b"one")
    place.append("lines", b", two")
    assert flushed == [b"one", b"one, two"]
    place.write("part", b"three")
    assert flushed[2:] == [b"three", b""]
    kept = lines(place, "kept")
    kept.add(b"four\n")
    kept.add(b"five\n")
    assert flushed[4:] == [b"four\n", b"", b"four\nfive\n"]  # the name of a new file, too
    assert place.names() == ["kept", "lines", "part"]


def test_lines_for_which_there_is_no_room_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoRoom, match="the disk is full"):
        LocalLines(LocalFolder(tmp_path), "kept").add(b"one\n")


def test_what_was_read_twice_is_added_to_once(opened: Opened) -> None:
    opened().add(b"one\n")
    again = opened()
    for _ in range(2):
        assert list(again.read()) == [b"one\n"]
    again.add(b"two\n")
    assert list(opened().read()) == [b"one\n", b"two\n"]

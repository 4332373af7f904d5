"""Folders and globs as streams: their order, how it is entered anywhere, and how a source that grew keeps it."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from locked_folders import lock_folder
from stream_checks import check_entry_anywhere, names_in, planned, reopened, wait_for_the_clock

from vit_hybrid.data import listing
from vit_hybrid.data.columns import ColumnChoice
from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import Place, Range, open_stream, opening, outlines, packing, stores, walking
from vit_hybrid.data.streams.packing import Packed, digest_of, packed
from vit_hybrid.data.streams.patterns import has_braces, unbraced
from vit_hybrid.evaluate.sources import is_streamed
from vit_hybrid.files import mark

TREE = ("z.jpg", "0.PNG", "a/2.jpg", "a/10.jpg", "a/in/x.webp", "a-b/1.jpg", "b/deep/er/1.jpg", "a.d/3.jpg")
ORDER = ["0.PNG", "z.jpg", "a/10.jpg", "a/2.jpg", "a/in/x.webp", "a-b/1.jpg", "a.d/3.jpg", "b/deep/er/1.jpg"]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def relative(names: list[str], folder: Path) -> list[str]:
    return [os.path.relpath(name, folder) for name in names]


def test_a_folders_pictures_come_before_its_folders_each_sorted(tmp_path: Path) -> None:
    touch(tmp_path, *TREE, "a/notes.txt")
    stream = open_stream([str(tmp_path)])
    assert relative(names_in(stream), tmp_path) == ORDER
    assert all(os.path.isfile(entry.content) and entry.content == entry.path for entry in stream.entries())
    for name in ORDER:
        os.utime(tmp_path / name, ns=(1, 2))
    assert [entry.stamp for entry in stream.entries()] == [(len(name), 2) for name in ORDER]


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "shard.tar", "rows.parquet"])
def test_files_of_many_pictures_that_are_none(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    sources = [str(tmp_path / "a.jpg"), str(tmp_path / name)]
    os.mkfifo(tmp_path / name)
    _, entry = open_stream(sources).entries()
    assert str(entry.content).startswith(f"{tmp_path / name}: ")
    assert "is a pipe, socket or device" in str(entry.content)
    os.unlink(tmp_path / name)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 394862120\n" * 9)
    _, entry = open_stream(sources).entries()
    assert str(entry.content).startswith(f"{tmp_path / name}: is a Git LFS pointer, which only stands for the file")


def test_the_label_of_a_picture_is_the_first_folder_on_the_way_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "0.jpg", "a/1.jpg", "a/in/deep/2.jpg", "b/in/3.jpg")
    entries = list(open_stream([str(tmp_path)], None, ColumnChoice()).entries())
    assert [entry.label for entry in entries] == [None, "a", "a", "b"]
    for name, labels in (("*/*.jpg", ["a"]), ("a/*.jpg", ["a"]), ("a/**/*.jpg", ["a", "in"])):
        entries = list(open_stream([str(tmp_path / name)], None, ColumnChoice()).entries())
        assert [entry.label for entry in entries] == labels


def test_it_can_be_entered_anywhere(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    check_entry_anywhere([str(tmp_path)])
    assert list(open_stream([str(tmp_path)]).entries())[3].place == (f"0:0:folder:0:{tmp_path}/a", 1)
    check_entry_anywhere([str(tmp_path / "b"), str(tmp_path / "z.jpg"), str(tmp_path / "0.PNG"), str(tmp_path / "a")])


def test_what_lies_before_a_place_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *TREE)
    places = {os.path.relpath(entry.path, tmp_path): entry.place for entry in open_stream([str(tmp_path)]).entries()}
    looked_at = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked_at.append(os.path.relpath(path, tmp_path)) or scandir(path))
    stream = pickle.loads(pickle.dumps(open_stream([str(tmp_path)])))
    looked_at.clear()
    assert relative([entry.path for entry in stream.entries(places["a.d/3.jpg"])], tmp_path) == ["b/deep/er/1.jpg"]
    assert looked_at == [".", "a.d", "b", "b/deep", "b/deep/er"]
    looked_at.clear()
    assert len(list(pickle.loads(pickle.dumps(stream)).read(places["a/10.jpg"], 2))) == 2
    assert set(looked_at) == {".", "a"}


def test_a_path_that_is_relative_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "b.jpg")
    monkeypatch.chdir(tmp_path)
    assert names_in(open_stream(["."])) == ["./b.jpg", "./a/1.jpg"]
    assert names_in(open_stream(["a/"])) == ["a/1.jpg"]
    assert names_in(open_stream(["*.jpg"])) == ["./b.jpg"]
    assert names_in(open_stream([f"file://{tmp_path}/a"])) == [f"{tmp_path}/a/1.jpg"]
    for name, base in (("/*.jpg", "/"), ("/a/*/*.jpg", "/a"), ("a*/*.jpg", "."), ("a/*.jpg", "a")):
        assert opening._glob(name, stores.DISK)[1] == base
    here = tmp_path.name
    for name, label in (("b.jpg", here), ("a/1.jpg", "a"), ("*.jpg", here), ("a/../[b].jpg", here)):
        [entry] = open_stream([name], None, ColumnChoice()).entries()
        assert entry.label == label
    check_entry_anywhere(["."])
    check_entry_anywhere(["a/", "*.jpg"])


def test_what_is_passed_over_is_that_of_other_readers(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", ".2.jpg", "x.txt", "__MACOSX/3.jpg", "run/4.jpg", "deep/y.TXT", "deep/5.jpg")
    mark(tmp_path / "run", figures=["4.jpg"])
    for link in ("link", "other"):
        (tmp_path / link).symlink_to(tmp_path / "deep")
    stream = open_stream([str(tmp_path)])
    assert relative(names_in(stream), tmp_path) == ["1.jpg", "deep/5.jpg"]
    assert stream.passed.counts() == {
        **{listing.OURS: 1, listing.LINK: 2, listing.SYSTEM: 1, listing.HIDDEN: 1, listing.OTHER: 2}
    }
    assert "1 result of vit-hybrid" in stream.passed.line()
    assert stream.passed.line().endswith("2 files of other kinds (2 .txt)")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["0.PNG", "z.jpg", *ORDER[2:]]),
        ("*.jpg", ["z.jpg"]),
        ("a*/*.jpg", ["a/10.jpg", "a/2.jpg", "a-b/1.jpg", "a.d/3.jpg"]),
        ("**", ORDER),
        ("**/*.jpg", [name for name in ORDER if name.endswith(".jpg")]),
        ("**/1.jpg", ["a-b/1.jpg", "b/deep/er/1.jpg"]),
        ("**/deep", ["b/deep/er/1.jpg"]),
        ("b/**/er/*", ["b/deep/er/1.jpg"]),
        ("a/[12]*.jpg", ["a/10.jpg", "a/2.jpg"]),
        ("?/*.jpg", ["a/10.jpg", "a/2.jpg"]),
        ("a/in", ["a/in/x.webp"]),
        ("{z,b/deep/er/1}.jpg", ["z.jpg", "b/deep/er/1.jpg"]),
        ("a/{2..2}.jpg", ["a/2.jpg"]),
    ],
)
def test_globs(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, *TREE, "a/labels.csv", "a/in/x.tar", "list.txt")  # which no pattern names by itself
    names = [str(tmp_path / pattern)]
    assert relative(names_in(open_stream(names)), tmp_path) == expected
    check_entry_anywhere(names)


def test_braces_of_numbers_keep_their_zeros(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number:03}.jpg" for number in range(8, 12)))
    names = names_in(open_stream([str(tmp_path / "{008..011}.jpg")]))
    assert relative(names, tmp_path) == ["008.jpg", "009.jpg", "010.jpg", "011.jpg"]


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..999}{0..999}{0..999}",
        "{000..999}{000..999}/{a,b}.jpg",
        "{a,b}" * 21,
        "{a,b}" * 20_000,
        "{,}" * 4_000,
        "{0..1000000}",
        "{1..2}{0..999999}",
        "{0..9" + 5_000 * "9" + "}",
        "{" + 5_000 * "0" + "..999999}",
        "{0..999}{a,b," + "c," * 999 + "}",
    ],
    ids=lambda pattern: pattern[:30],
)
@pytest.mark.parametrize("ask", [lambda name: open_stream([name]), lambda name: is_streamed([name])])
def test_braces_that_stand_for_too_many_names_are_refused_at_once(pattern: str, ask: Callable[[str], Any]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="stand for more than 1,000,000 names") as caught:
            ask(pattern)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000  # bytes; a million names take ten times that
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith((f"{pattern}: its", f"{pattern[:50]}"))
    assert len(str(caught.value)) < 500


def test_braces_stand_for_a_million_names_one_after_the_other() -> None:
    assert sum(1 for _ in unbraced("{0..999}{0..999}")) == 1_000_000
    assert list(islice(unbraced("{00..99}{a,b}x{c}"), 3)) == ["00ax{c}", "00bx{c}", "01ax{c}"]
    assert list(unbraced("{9..10}{099..100}")) == ["9099", "9100", "10099", "10100"]
    assert [has_braces(name) for name in ("a", "{a}", "{}", "{a,b}", "{7..7}", "{,}", "{a..b}")] == [
        *(False, False, False),
        *(True, True, True),
        False,
    ]


def test_a_name_with_magic_in_it_that_is_there_is_meant(tmp_path: Path) -> None:
    touch(tmp_path, "[1].jpg", "1.jpg", "{a,b}/2.jpg")
    assert relative(names_in(open_stream([str(tmp_path / "[1].jpg"), str(tmp_path / "{a,b}")])), tmp_path) == [
        "[1].jpg",
        "{a,b}/2.jpg",
    ]


def test_a_glob_with_an_ending_takes_what_it_names_and_follows_links(tmp_path: Path) -> None:
    touch(tmp_path, "here/1.dat", "here/2.jpg", "there/3.dat")
    (tmp_path / "linked").symlink_to(tmp_path / "there")
    names = names_in(open_stream([str(tmp_path / "*" / "*.dat")]))
    assert relative(names, tmp_path) == ["here/1.dat", "linked/3.dat", "there/3.dat"]
    touch(tmp_path, "4.dat", "5.txt")
    stream = open_stream([str(tmp_path / "*.dat")])
    assert relative(names_in(stream), tmp_path) == ["4.dat"]
    assert not stream.passed  # a link and a file beside it were not meant


def test_a_link_that_leads_around_is_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "around").symlink_to(tmp_path)
    assert relative(names_in(open_stream([str(tmp_path / "**" / "*")])), tmp_path) == ["a/1.jpg"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file or folder"),
        ("empty", "no pictures in this folder"),
        ("*.tiff", "matches no pictures"),
        ("**/*.tiff", r"/\*\*/\*\.tiff: matches no pictures"),
        ("{3..1}.jpg", "from a smaller number to a larger"),
        ("{2..1}.jpg", r"\{2\.\.1\} has to run from a smaller number to a larger one"),
        ("-", r"^-: standard input is one picture, which classify reads; name files or folders$"),
    ],
)
def test_a_source_without_pictures_is_refused(tmp_path: Path, name: str, message: str) -> None:
    touch(tmp_path, "1.jpg", "empty/x.txt")
    with pytest.raises(SourceError, match=message) as caught:
        open_stream([str(tmp_path / "1.jpg"), name if name == "-" else str(tmp_path / name)])
    assert len(str(caught.value).splitlines()) == 1


def test_of_sources_that_cannot_be_read_the_first_is_named(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(b"no tar at all" * 100)
    with pytest.raises(SourceError, match=r"a\.tar: it is no tar"):
        open_stream([str(tmp_path / "a.tar"), str(tmp_path / "b.tar")])


def test_no_source_is_refused() -> None:
    with pytest.raises(SourceError, match=r"^no pictures: name a folder, a file or an address$"):
        open_stream([])


def test_a_folder_that_the_system_does_not_read_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    lock_folder("b", monkeypatch)
    stream, ranges = planned([str(tmp_path)], 2)
    entries = list(stream.entries())
    assert relative([entry.path for entry in entries], tmp_path) == ["a/1.jpg", "b", "c/3.jpg"]
    assert str(entries[1].content) == f"{tmp_path}/b: cannot read the folder: Permission denied"
    again = list(reopened(stream).read(ranges[0].first, 3))
    assert [entry.path for entry in again] == [entry.path for entry in entries]
    assert str(again[1].content) == str(entries[1].content)
    assert reopened(stream).change().kind == "same"
    assert names_in(reopened(stream)) == [entry.path for entry in entries]  # once, though a pass more is gone through
    with pytest.raises(SourceError, match=f"^{tmp_path}/b: cannot be read: Permission denied$"):  # which was named
        open_stream([str(tmp_path / "b")])


def test_a_folder_that_goes_away_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    stream, _ = planned([str(tmp_path)], 2)
    scandir = os.scandir

    def failing(folder: Path, error: OSError) -> None:
        def scan(path: str) -> object:
            if path == str(folder):
                raise error
            return scandir(path)

        monkeypatch.setattr(os, "scandir", scan)

    gone = FileNotFoundError(2, "No such file or directory")
    failing(tmp_path / "a", gone)
    assert relative(names_in(open_stream([str(tmp_path)])), tmp_path) == ["b/2.jpg"]
    assert reopened(stream).change() == ("vanished", f"{tmp_path}/a: the folder is gone")
    failing(tmp_path / "a", PermissionError(13, "Permission denied"))
    assert reopened(stream).change() == (
        "vanished",
        f"{tmp_path}/a: the folder can no longer be read: Permission denied",
    )
    failing(tmp_path, gone)
    with pytest.raises(SourceError, match=f"^{tmp_path}: no such folder$"):
        open_stream([str(tmp_path)])


def test_a_picture_that_goes_away_while_its_time_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "1.jpg", "3.jpg")
    stream, _ = planned([str(tmp_path)], 2)
    touch(tmp_path, "2.jpg")

    def fail(self: stores.Disk, folder: str, record: bytes) -> int:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(stores.Disk, "came", fail)
    assert reopened(stream).change() == (
        "vanished",
        f"{tmp_path}: pictures vanish from it (No such file or directory)",
    )


def test_memory_grows_with_a_folder_and_not_with_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(self: stores.Disk, folder: str, passed: listing.Passed, is_named: bool) -> Iterator[tuple[str, bytes]]:
        """A source with so many folders of 400 pictures as its name says."""
        if is_named:
            yield from ((listing.FOLDER, f"{number:04}".encode()) for number in range(int(os.path.basename(folder))))
        else:
            yield from ((listing.PICTURE, f"photo_{number * 7919 % 10007:08}.jpg".encode()) for number in range(400))

    monkeypatch.setattr(stores.Disk, "scan", scan)
    monkeypatch.setattr(stores.Disk, "time", lambda self, folder: 1)
    monkeypatch.setattr(outlines, "NAMES_KEPT", 1600)
    peaks = []
    for folders in (5, 5, 60):  # once for what Python itself keeps
        (tmp_path / str(folders)).mkdir(exist_ok=True)
        tracemalloc.start()
        stream = open_stream([str(tmp_path / str(folders))])
        assert sum(found.rows for found in stream.ranges(64)) == 400 * folders
        assert sum(1 for _ in stream.entries()) == 400 * folders
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]  # the outline's folders; as a list of paths it would be twelve times as much


def test_the_example_of_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Path(__file__).parents[3]
    page = (repository / "docs" / "prediction.md").read_text(encoding="utf-8")
    [example] = [text for text in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "open_stream" in text]
    monkeypatch.chdir(repository)
    exec(example, {})
    assert capsys.readouterr().out.startswith("examples/cat.jpg Place(")


# --- Outlines ---------------------------------------------------------------------------------------------------------


def test_ranges_have_the_outline_between_them(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    stream, ranges = planned([str(tmp_path)], 3)
    assert [found.rows for found in ranges] == [3, 3, 2]
    seen = {}
    for found in ranges:
        seen.update(found.seen)
    assert seen | {"end": 0} == stream.outline()
    assert len(seen) == sum(len(found.seen) for found in ranges) == 8  # one for each folder, none for a picture
    places = [entry.place for entry in stream.entries()]
    assert [(found.first, found.last) for found in ranges] == [
        (places[0], places[2]),
        (places[3], places[5]),
        (places[6], places[7]),
    ]


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_planning_goes_on_where_it_was_stopped(tmp_path: Path, size: int, is_old: bool) -> None:
    touch(tmp_path, *TREE)
    for folder, _, _ in os.walk(tmp_path) if is_old else ():  # so that times tell that nothing changed
        os.utime(folder, (10**9, 10**9))
    _, whole = planned([str(tmp_path)], size)
    for stop in range(1, len(whole)):
        outline = {}
        for found in whole[:stop]:
            outline.update(found.seen)
        later = open_stream([str(tmp_path)], json.loads(json.dumps(outline)))
        assert later.change().kind == "grew"
        rest = list(later.ranges(size, whole[stop - 1].last))
        assert [found[:3] for found in rest] == [found[:3] for found in whole[stop:]]  # as if it had not been stopped
        assert [entry.path for found in rest for entry in later.read(found.first, found.rows)] == [
            entry.path for found in whole[stop:] for entry in later.read(found.first, found.rows)
        ]


def test_a_source_that_stayed_is_the_same_and_no_folder_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *TREE)
    for folder, _, _ in os.walk(tmp_path):
        os.utime(folder, (10**9, 10**9))
    stream, ranges = planned([str(tmp_path)], 3)
    later = reopened(stream)

    def fail(path: str) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(os, "scandir", fail)
    assert later.change() == ("same", "")
    assert list(later.ranges(3, ranges[-1].last)) == []


def test_what_came_since_follows_what_was_there(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    stream, ranges = planned([str(tmp_path)], 3)
    before = names_in(stream)
    wait_for_the_clock(tmp_path)
    touch(tmp_path, "a/1.jpg", "a/11.jpg", "a/9.jpg", "b/new/1.jpg", "0/1.jpg")  # before, between and behind others
    os.utime(tmp_path / "a/1.jpg", (1, 1))  # a copy that has kept its time
    later = reopened(stream)
    kind, difference = later.change()
    assert kind == "grew"
    assert "new pictures" in difference
    new = list(later.ranges(2, ranges[-1].last))
    added = ["0/1.jpg", "a/1.jpg", "a/11.jpg", "a/9.jpg", "b/new/1.jpg"]
    assert relative([entry.path for found in new for entry in later.read(found.first, found.rows)], tmp_path) == added
    assert relative(names_in(later), tmp_path) == ORDER + added
    assert [entry.path for entry in reopened(later).read(ranges[0].first, len(before))] == before

    wait_for_the_clock(tmp_path)
    touch(tmp_path, "a/12.jpg", "y.jpg")
    last = reopened(later)
    assert last.change().kind == "grew"
    assert relative([entry.path for entry in last.entries(new[-1].last)], tmp_path) == ["y.jpg", "a/12.jpg"]
    assert relative(names_in(reopened(last)), tmp_path) == ORDER + added + ["y.jpg", "a/12.jpg"]
    everything = [entry.place for entry in last.entries()]
    for place, name in zip(everything, names_in(last), strict=True):
        assert next(reopened(last).read(place, 1)).path == name


def test_what_came_since_is_found_also_where_nobody_asks_for_the_change_first(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    for folder, _, _ in os.walk(tmp_path):
        os.utime(folder, (10**9, 10**9))
    stream, ranges = planned([str(tmp_path)], 3)
    touch(tmp_path, "a/11.jpg", "b/new/1.jpg", "y.jpg")
    added = ["y.jpg", "a/11.jpg", "b/new/1.jpg"]
    assert relative([entry.path for entry in reopened(stream).entries(ranges[-1].last)], tmp_path) == added
    assert [found.rows for found in reopened(stream).ranges(2, ranges[-1].last)] == [2, 1]
    assert relative(names_in(reopened(stream)), tmp_path) == ORDER + added


def test_what_comes_at_the_same_moment_by_the_clock_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    stream, _ = planned([str(tmp_path)], 3)
    moment = (tmp_path / "a").stat().st_mtime_ns
    touch(tmp_path, "a/2.jpg")
    os.utime(tmp_path / "a", ns=(moment, moment))
    assert reopened(stream).change().kind == "grew"


def test_a_folder_that_was_only_touched_is_the_same(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    stream, ranges = planned([str(tmp_path)], 3)
    touch(tmp_path, "a/notes.txt", "a/.hidden")
    later = reopened(stream)
    assert later.change().kind == "same"
    assert list(later.ranges(3, ranges[-1].last)) == []
    listings = [value[-1] for key, value in later.outline().items() if key.endswith("/a")]
    assert [[row[:2] for row in listing] for listing in listings] == [[[0, 2]]]  # and no pass of no pictures


def test_a_picture_that_is_gone_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    stream, _ = planned([str(tmp_path)], 3)
    (tmp_path / "a" / "2.jpg").unlink()
    assert reopened(stream).change() == ("vanished", f"{tmp_path}/a: 1 of its 2 pictures are gone")
    touch(tmp_path / "b", *(f"{number}.jpg" for number in range(5)))
    stream, _ = planned([str(tmp_path / "b")], 3)
    (tmp_path / "b" / "3.jpg").unlink()
    assert reopened(stream).change() == ("vanished", f"{tmp_path}/b: 1 of its 5 pictures are gone")


def test_a_picture_that_was_renamed_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    stream, _ = planned([str(tmp_path)], 3)
    (tmp_path / "a" / "2.jpg").rename(tmp_path / "a" / "3.jpg")
    kind, difference = reopened(stream).change()
    assert kind == "changed"
    assert difference.startswith(f"{tmp_path}/a: ")


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    stream, ranges = planned([str(tmp_path)], 3)
    (tmp_path / "b/deep/er/1.jpg").unlink()
    (tmp_path / "b/deep/er").rmdir()
    later = reopened(stream)
    assert later.change() == ("vanished", f"{tmp_path}/b/deep/er: the folder is gone")
    with pytest.raises(SourceError, match="gone"):
        list(later.read(ranges[-1].last, 1))


def test_a_link_to_nothing_that_is_named_is_a_picture_that_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    (tmp_path / "2.jpg").symlink_to("nowhere.jpg")
    assert relative(names_in(open_stream([str(tmp_path / "1.jpg"), str(tmp_path / "2.jpg")])), tmp_path) == [
        "1.jpg",
        "2.jpg",
    ]


def test_an_outline_that_was_given_away_is_the_receivers(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    stream, _ = planned([str(tmp_path)], 3)
    outline = stream.outline()
    whole = dict(outline)
    outline.clear()
    assert stream.outline() == whole


def test_a_named_picture_that_is_gone_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    stream, ranges = planned([str(tmp_path / "1.jpg"), str(tmp_path / "2.jpg")], 3)
    assert reopened(stream).change().kind == "same"
    assert relative(names_in(reopened(stream)), tmp_path) == ["1.jpg", "2.jpg"]  # once, in the pass that had them
    assert list(reopened(stream).ranges(3, ranges[-1].last)) == []
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(SourceError, match=r"2\.jpg: no such file"):
        reopened(stream)


def test_a_source_that_vanishes_on_the_way_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.jpg" for number in range(5)))
    stream = open_stream([str(tmp_path)])
    places = [entry.place for entry in stream.entries()]
    for number in range(3):
        (tmp_path / f"{number}.jpg").unlink()
    with pytest.raises(SourceError, match=r"pictures are gone|were in it are gone"):
        list(open_stream([str(tmp_path)]).read(places[1], 4))
    with pytest.raises(SourceError, match=rf"^{tmp_path}: 5 of 7 pictures are gone$"):
        list(open_stream([str(tmp_path)]).read(places[0], 7))


def test_what_comes_while_it_is_read_leaves_the_ranges_as_they_were(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    elsewhere = pickle.loads(pickle.dumps(open_stream([str(tmp_path)])))
    _, ranges = planned([str(tmp_path)], 3)
    wait_for_the_clock(tmp_path)
    touch(tmp_path, "1.jpg", "a/0.jpg", "a/in/0.jpg", "a/between/1.jpg", "a.d/4.jpg")
    found = [
        [os.path.relpath(entry.path, tmp_path) for entry in elsewhere.read(found.first, found.rows, found.units)]
        for found in ranges
    ]
    assert found == [ORDER[:3], ORDER[3:6], ORDER[6:]]
    (tmp_path / "a" / "2.jpg").unlink()
    with pytest.raises(SourceError, match="renamed, replaced or removed"):
        list(open_stream([str(tmp_path)]).read(ranges[0].first, 3, ranges[0].units))


def test_what_comes_while_a_stream_is_open_is_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "NAMES_KEPT", 0)  # so that folders are looked into again
    touch(tmp_path, *TREE)
    stream, _ = planned([str(tmp_path)], 3)
    later = reopened(stream)
    assert relative(names_in(later), tmp_path) == ORDER
    wait_for_the_clock(tmp_path)
    touch(tmp_path, "1.jpg", "a/0.jpg", "b/deep/er/0.jpg")
    assert relative(names_in(later), tmp_path) == ORDER
    assert relative(names_in(reopened(later)), tmp_path) == [*ORDER, "1.jpg", "a/0.jpg", "b/deep/er/0.jpg"]


def test_a_folder_of_old_that_is_gone_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    for folder, _, _ in os.walk(tmp_path):
        os.utime(folder, (10**9, 10**9))
    stream, ranges = planned([str(tmp_path)], 3)
    (tmp_path / "b/deep/er/1.jpg").unlink()
    (tmp_path / "b/deep/er").rmdir()
    for folder in ("b/deep", "b"):
        os.utime(tmp_path / folder, (10**9, 10**9))
    later = reopened(stream)
    with pytest.raises(SourceError, match="er: the folder is gone"):
        list(later.read(ranges[-1].last, 1))
    assert later.change() == ("vanished", f"{tmp_path}/b/deep/er: the folder is gone")


def test_an_outline_of_other_sources_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    stream, _ = planned([str(tmp_path / "a"), str(tmp_path / "b")], 3)
    with pytest.raises(SourceError, match=f"^the outline is of other sources: it has 1:folder:{tmp_path}/b$"):
        open_stream([str(tmp_path / "a")], stream.outline())
    with pytest.raises(SourceError, match=r"^the outline is of other sources: it has nothing of this$"):
        open_stream([str(tmp_path / "a")], {"nothing of this": [0, []]})


@pytest.mark.parametrize(
    "place",
    [
        Place("nowhere", 0),
        Place("0:7:folder:0:x", 0),
        Place("5:0:folder:0:x", 0),
        Place("0:-1:folder:0:x", 0),
        Place("-1:0:folder:0:x", 0),
    ],
)
def test_a_place_of_another_source_is_refused(tmp_path: Path, place: Place) -> None:
    touch(tmp_path, "1.jpg")
    named = f"{place.unit} is no place in {tmp_path}"
    with pytest.raises(
        SourceError, match="^'nowhere' is no place in a source$" if place.unit == "nowhere" else f"^{named}$"
    ):
        list(open_stream([str(tmp_path)]).entries(place))


@pytest.mark.parametrize("seed", range(24))
def test_each_picture_is_planned_once_however_often_it_is_stopped_and_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    if seed % 2:  # as if all were written long ago
        monkeypatch.setattr(walking, "RECENT", 0)
    source = tmp_path / "source"
    names = [str(source) + draw.choice(["", "/**", "/**/*.jpg"])]
    outline: dict[str, Any] = {}
    planned: list[tuple[Range, list[str]]] = []
    for session in range(4):
        wait_for_the_clock(tmp_path)
        for _ in range(draw.randrange(8) if session else 6):
            folder = "/".join(draw.choices("abc", k=draw.randrange(4)))
            touch(source, f"{folder or '.'}/{draw.randrange(10**6)}.jpg")
        wait_for_the_clock(tmp_path)
        stream = open_stream(names, json.loads(json.dumps(outline)) if outline else None)
        assert stream.change().kind in ("same", "grew")
        ranges = stream.ranges(draw.randrange(1, 5), planned[-1][0].last if planned else None)
        for found in islice(ranges, draw.choice([1, 2, 3]) if session < 3 else None):
            outline.update(found.seen)
            planned.append((found, [entry.path for entry in stream.read(found.first, found.rows)]))
    later = open_stream(names, json.loads(json.dumps(outline)))
    for found, paths in planned:
        assert [entry.path for entry in later.read(found.first, found.rows)] == paths
        assert [entry.path for entry in open_stream(names).read(found.first, found.rows, found.units)] == paths
    assert sorted(path for _, paths in planned for path in paths) == sorted(map(str, source.rglob("*.jpg")))


# --- Names, packed ----------------------------------------------------------------------------------------------------


def test_packed_names_are_sorted_whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "RUN", 7)
    monkeypatch.setattr(packing, "BLOCK", 3)
    for count in (0, 1, 6, 7, 8, 50):
        names = [f"{number * 7919 % 1000}.jpg".encode() for number in range(count)]
        found = packed(names)
        assert len(found) == count
        assert list(found.start()) == sorted(names)
        assert [list(found.start(row)) for row in range(count)] == [sorted(names)[row:] for row in range(count)]


def test_records_sort_and_are_known_by_their_names() -> None:
    records = [b"a.jpg\x0012\x005", b"a.jpg.png\x003\x004", b"a.jp\x009\x001"]
    found = packed(records)
    assert [packing.name_of(record) for record in found.start()] == [b"a.jp", b"a.jpg", b"a.jpg.png"]
    assert digest_of(found.start()) == digest_of([b"a.jp", b"a.jpg", b"a.jpg.png"])
    assert len(digest_of([])) == len(digest_of(records)) == 32  # characters, of 16 bytes
    assert digest_of([b"ab", b"c"]) != digest_of([b"a", b"bc"])


def test_what_differs_is_known_in_another_process_too() -> None:
    error = outlines.Differs("vanished", "a: it is gone")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.change) == (type(error), "a: it is gone", ("vanished", "a: it is gone"))


def test_few_folders_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for names, kept in ((10, [4, 5]), (18, [2, 3, 4, 5]), (1, [4, 5])):  # each of four names, and two at least
        monkeypatch.setattr(outlines, "NAMES_KEPT", names)
        memory = outlines.Memory(None, {})
        for number in range(6):
            memory.keep(str(number), outlines.Contents(Packed([b"1", b"2", b"3"]), [], Packed([]), 0))
        assert [number for number in range(6) if memory.kept(str(number))] == kept


def test_what_another_process_found_is_parted_anew() -> None:
    memory = outlines.Memory({"a": [7, [[0, 2, "digest"]]]}, {"a": (0, ())})
    contents = outlines.Contents(Packed([b"1", b"2"]), [], Packed([]), 7, {0: Packed([b"1", b"2"])})
    memory.keep("a", contents)
    memory.learn("a", [8, [[0, 2, "digest"]]])  # of which nothing is new
    assert (list(contents.parts), memory.known["a"][0]) == ([0], 7)
    memory.learn("a", [8, [[0, 1, "other"], [1, 1, "last"]]])
    assert (contents.parts, memory.known["a"]) == ({}, [8, [[0, 1, "other"], [1, 1, "last"]]])


def test_where_planning_was_stopped_is_a_place_of_one_source_alone() -> None:
    step = ((True, b"a"),)
    places = {"0:folder:x": (0, ()), "0:folder:x/a": (0, step), "1:folder:y": (1, ()), "1:folder:y/a": (1, step)}
    memory = outlines.Memory({key: [7, [[0, 1, "digest"]]] for key in places}, places)
    assert [memory.has_all_in(index, step) for index in (0, 1)] == [True, False]


def test_a_stream_that_was_pickled_on_the_way_reads_what_it_came_through(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    for path in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        os.utime(path, (1, 1))  # so that times tell that nothing changed
    stream = open_stream([str(tmp_path)])
    first, second, *_ = stream.ranges(3)
    copy = pickle.loads(pickle.dumps(stream))
    for found, names in ((first, ORDER[:3]), (second, ORDER[3:6])):
        assert relative([entry.path for entry in copy.read(found.first, found.rows)], tmp_path) == names

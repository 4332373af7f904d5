"""Tars of samples as streams."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from stream_checks import check_entry_anywhere, content_of, names_in, planned, reopened

from vit_hybrid.data import listing
from vit_hybrid.data.columns import ColumnChoice
from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import open_stream, stores, tars
from vit_hybrid.data.streams.protocol import Teller
from vit_hybrid.data.streams.tars import key_of


def write(path: Path, *names: str, format: int = tarfile.PAX_FORMAT, mode: str = "w") -> str:
    with tarfile.open(path, mode, format=format) as archive:  # type: ignore[call-overload]
        for name in names:
            info = tarfile.TarInfo(name)
            content = f"content of {name}".encode() * 100
            info.size, info.mtime = len(content), 17
            archive.addfile(info, io.BytesIO(content))
    return str(path)


SAMPLES = [f"{number:03}.{ending}" for number in range(9) for ending in ("jpg", "json", "cls")]


def test_the_pictures_of_samples_are_found(tmp_path: Path) -> None:
    hidden = (".hidden.jpg", "__MACOSX/d.jpg", ".git/f.jpg", "in/.trash/g.jpg", "in/__MACOSX/h.jpg")
    source = write(tmp_path / "x.tar", "./in/a.b.jpg", "in/a.json", "c.PNG", *hidden, "e.txt")
    stream = open_stream([source])
    entries = list(stream.entries())
    assert [entry.path for entry in entries] == ["in/a", "c"]
    assert [content_of(entry) for entry in entries] == [b"content of ./in/a.b.jpg" * 100, b"content of c.PNG" * 100]
    assert entries[1].stamp == (1600, 17 * 10**9)


def test_heic_is_counted_once_where_nothing_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_reads_heic", lambda: False)
    stream = open_stream([write(tmp_path / "x.tar", "a.jpg", "b.heic", "c.HEIF")])
    assert [names_in(stream), names_in(stream)] == [["a"], ["a"]]
    assert stream.passed.counts() == {listing.HEIC: 2}
    monkeypatch.setattr(tars, "BLOCK", 1)
    stream = open_stream([write(tmp_path / "y.tar", "a.jpg", "b.heic", "c.jpg", "d.heic", "e.heic", "f.jpg")])
    assert [names_in(stream), names_in(stream)] == [["a", "c", "f"]] * 2
    assert stream.passed.counts() == {listing.HEIC: 3}  # of several blocks
    stream = open_stream([write(tmp_path / "z.tar", "a.jpg", "b.heic"), write(tmp_path / "0.tar", "c.jpg", "d.heic")])
    assert (names_in(stream), stream.passed.counts()) == (["a", "c"], {listing.HEIC: 2})  # and of several tars


@pytest.mark.parametrize(
    ("name", "key"), [("a.jpg", "a"), ("./x/a.b.jpg", "x/a"), ("x.y/a.seg.png", "x.y/a"), ("a", "a")]
)
def test_keys_are_webdatasets(name: str, key: str) -> None:
    assert key_of(name) == key


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar_can_be_entered_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: int) -> None:
    monkeypatch.setattr(tars, "BLOCK", 2)
    long = f"{'long/' * 20}{'name' * 22}.jpg"  # in headers of their own
    first = write(tmp_path / "0.tar", *SAMPLES, long, "last.jpg", format=format)
    check_entry_anywhere([first])
    write(tmp_path / "1.tar", "other.jpg", format=format)
    write(tmp_path / "2.tar", "none.txt", format=format)
    write(tmp_path / "3.tar", "third.jpg", "fourth.jpg", format=format)
    check_entry_anywhere([str(tmp_path / "{0..3}.tar")])
    check_entry_anywhere([str(tmp_path / "*.tar")])
    assert names_in(open_stream([str(tmp_path / "*.tar")]))[-4:] == ["last", "other", "third", "fourth"]
    with pytest.raises(SourceError, match=f"^{tmp_path}/4.tar: no such file or folder$"):
        open_stream([str(tmp_path / "{0..4}.tar")])


def test_only_the_block_of_a_place_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "BLOCK", 4)
    stream = open_stream([write(tmp_path / "0.tar", *SAMPLES)])
    place = list(stream.entries())[6].place
    read = []
    fromtarfile = tarfile.TarInfo.fromtarfile
    monkeypatch.setattr(
        tarfile.TarInfo, "fromtarfile", lambda archive: read.append(fromtarfile(archive)) or read[-1], raising=True
    )
    assert [entry.path for entry in stream.read(place, 1)] == ["006"]
    assert read[0].name == "003.json"  # behind the fourth picture


@pytest.mark.parametrize("cut", [1, 300, 600, 4000])
def test_a_tar_that_ends_early_is_an_error_behind_what_is_whole(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "0.tar", "1.jpg", "2.jpg", "3.jpg")
    write(tmp_path / "1.tar", "4.jpg")
    content = (tmp_path / "0.tar").read_bytes()
    end = content.index(b"content of 3.jpg") + 1600
    (tmp_path / "0.tar").write_bytes(content[: end - cut] if cut != 4000 else content[: end - 1600 - 300])
    entries = list(open_stream([str(tmp_path / "*.tar")]).entries())
    assert [entry.path for entry in entries] == ["1", "2", str(tmp_path / "0.tar"), "4"]
    error = entries[2].content
    assert isinstance(error, SourceError)
    where = f"at byte {end - 1600 - 512:,}" if cut == 4000 else "in 3.jpg"
    assert str(error) == f"{tmp_path}/0.tar: the tar ends early, {where}; what is before it is read"
    check_entry_anywhere([str(tmp_path / "*.tar")])


def test_a_tar_without_the_zeros_at_its_end_is_whole(tmp_path: Path) -> None:
    source = write(tmp_path / "x.tar", "1.jpg", "2.jpg")
    for size in (2 * (512 + 2048) + 512, 2 * (512 + 2048), 512 + 2048 + 512 + 1600):  # of 1600 bytes each
        os.truncate(source, size)
        assert names_in(open_stream([source])) == ["1", "2"]


def test_a_picture_that_was_cut_off_since_it_was_found_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "x.tar", "1.jpg", "2.jpg")
    first, second = open_stream([source]).entries()
    os.truncate(source, Path(source).read_bytes().index(b"content of 2.jpg") + 1599)  # of 1600
    assert content_of(first) == b"content of 1.jpg" * 100
    assert content_of(second) == f"{source}: the tar ends early, in 2"


def test_a_tar_that_is_damaged_is_an_error_behind_what_is_whole(tmp_path: Path) -> None:
    source = write(tmp_path / "0.tar", "1.jpg", "2.jpg", "3.jpg")
    with open(source, "r+b") as file:
        place = file.read().index(b"2.jpg")
        file.seek(place)
        file.write(b"\xff" * 300)
    entries = list(open_stream([source]).entries())
    assert [entry.path for entry in entries] == ["1", source]
    assert str(entries[1].content) == f"{source}: the tar is damaged at byte {place:,}; what is behind it is not read"
    one = write(tmp_path / "1.tar", "1.jpg")
    os.truncate(one, 1000)
    [(_, labels)] = open_stream([source, one]).labeled_ranges(itertools.repeat(8))
    assert [each.path for each in labels] == [f"{source}, 1", source, one]  # also where nothing is before it


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"no tar at all" * 100, "it is no tar, or damaged at byte 0"),
        (b"\x1f\x8b" + bytes(600), r"the tar is compressed \(gzip\); unpack it to a plain .tar"),
        (b"BZh9" + bytes(600), r"the tar is compressed \(bzip2\)"),
        (b"\xfd7zXZ" + bytes(600), r"the tar is compressed \(xz\)"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), r"the tar is compressed \(zstd\)"),
        (bytes(10240), "no pictures in it"),
    ],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(SourceError, match=f"^{tmp_path}/x.tar: {message}"):
        open_stream([str(tmp_path / "x.tar")])


def test_no_tar_is_opened_to_tell_that_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.tar", "a.jpg", "b.jpg")
    stream, ranges = planned([str(tmp_path / "{0..2}.tar"), str(tmp_path / "*.tar")], 2)
    later = reopened(stream)
    opened = []
    from_disk = stores.Disk.open
    monkeypatch.setattr(stores.Disk, "open", lambda self, path: opened.append(path) or from_disk(self, path))
    assert later.change().kind == "same"
    assert opened == []
    assert list(later.ranges(2, ranges[-1].last)) == []
    assert set(opened) == {str(tmp_path / "2.tar")}  # in which the last place is
    opened.clear()
    open_stream([str(tmp_path / "{0..2}.tar")])
    assert set(opened) == {str(tmp_path / "0.tar")}  # which shows that there is something to read


def test_tars_in_folders_of_old_are_remembered(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        (tmp_path / name / "in").mkdir(parents=True)
        write(tmp_path / name / "in" / f"{number}.tar", f"{number}.jpg", f"{number}{number}.jpg")
        for folder in (tmp_path / name / "in", tmp_path / name, tmp_path):
            os.utime(folder, (10**9, 10**9))
    stream, ranges = planned([str(tmp_path / "**" / "*.tar")], 1)
    assert names_in(reopened(stream)) == ["0", "00", "1", "11"]
    assert list(reopened(stream).ranges(1, ranges[-1].last)) == []
    for stop in range(1, 4):
        outline = {}
        for found in ranges[:stop]:
            outline.update(found.seen)
        later = open_stream(stream.names, json.loads(json.dumps(outline)))
        assert [found[:3] for found in later.ranges(1, ranges[stop - 1].last)] == [found[:3] for found in ranges[stop:]]


def test_outlines(tmp_path: Path) -> None:
    write(tmp_path / "1.tar", "a.jpg", "b.jpg")
    write(tmp_path / "3.tar", "c.jpg")
    stream, ranges = planned([str(tmp_path / "*.tar")], 2)
    assert reopened(stream).change().kind == "same"
    write(tmp_path / "0.tar", "d.jpg")
    write(tmp_path / "4.tar", "e.jpg")
    later = reopened(stream)
    assert later.change() == ("grew", f"{tmp_path}/0.tar: new pictures")  # the first of them
    new = list(later.ranges(5, ranges[-1].last))
    assert [entry.path for entry in later.read(new[0].first, 2)] == ["d", "e"]
    assert names_in(later) == ["a", "b", "c", "d", "e"]
    assert reopened(later).change().kind == "same"
    os.utime(tmp_path / "1.tar", (1, 1))
    assert reopened(later).change() == ("changed", f"{tmp_path}/1.tar: it was written to since")
    with pytest.raises(SourceError, match="written to since"):
        list(reopened(later).read(ranges[0].first, 2))
    (tmp_path / "1.tar").unlink()
    assert reopened(later).change() == ("vanished", f"{tmp_path}/1.tar: it is gone")


def test_the_label_is_what_the_named_member_says_and_no_other(tmp_path: Path) -> None:
    source = write(tmp_path / "x.tar", "1.jpg", "1.kind", "1.cls")
    for choice, label in ((ColumnChoice(), "content of 1.cls"), (ColumnChoice(None, "kind"), "content of 1.kind")):
        [entry] = open_stream([source], None, choice).entries()
        assert entry.label == label * 100


def write_samples(path: Path, **members: str) -> str:
    """A tar of members by their names, with _ in place of the point; a folder and a link beside the first picture."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
        for name, kind in (("folder.jpg", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            archive.addfile(info)
    return str(path)


@pytest.mark.parametrize("block", [1, 2, 64])
def test_what_says_the_label_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(tars, "BLOCK", block)
    source = write_samples(
        tmp_path / "x.tar",
        **{"a_json": '{"label": 7, "kind": [3]}', "a_jpg": "", "a_cls": " cat\n", "a_seg_cls": "sky"},
        **{"b_cls": "dog", "b_json": '{"label": 8, "cls": 9}', "b_jpg": "", "c_jpg": "", "c_json": "5"},
        **{
            "d_jpg": "",
            "d_json": '{"species": "ant", "label": "bee"}',
            "e_jpg": "",
            "e_json": '{"cls": "eel", "label": 1}',
        },
        **{"f_jpg": "", "f_json": '{"note": 1}'},
    )
    cell, whole = Teller("cls", is_text=True), Teller("json")
    for label, expected in (
        (
            None,
            [("cat", cell), ("dog", cell), (5, whole), ("bee", Teller("label")), ("eel", Teller("cls")), (None, cell)],
        ),
        ("kind", [([3], Teller("kind")), (None, cell), (5, whole), (None, cell), (None, cell), (None, cell)]),
        (["note", "label"], [(7, Teller("label")), (8, Teller("label")), (5, whole), ("bee", Teller("label"))]),
    ):
        entries = list(open_stream([source], None, ColumnChoice(None, label)).entries())
        assert [entry.path for entry in entries] == [*"abcdef"]
        assert [(entry.label, entry.teller) for entry in entries][: len(expected)] == expected
    labels = [
        one for _, part in open_stream([source], None, ColumnChoice()).labeled_ranges(iter([4, 4])) for one in part
    ]
    assert [one.path for one in labels] == [f"{source}, {key}" for key in "abcdef"]
    assert [one.label for one in labels] == ["cat", "dog", 5, "bee", "eel", None]
    for text in ("{", "[" * 100_000):
        source = write_samples(tmp_path / "x.tar", b_jpg="", b_json=text)
        with pytest.raises(SourceError, match=rf"^{source}, b\.json: not JSON \("):
            list(open_stream([source], None, ColumnChoice()).entries())


def test_labels_of_a_tar_that_ends_early(tmp_path: Path) -> None:
    source = write_samples(tmp_path / "x.tar", a_cls="cat", a_jpg="1", b_cls="dog", b_jpg="2" * 600)
    stream: Any = open_stream([source], None, ColumnChoice())
    os.truncate(source, 4 * 512 + 3 * 512 + 512)  # within the last of four members
    [(found, labeled)] = open_stream([source], None, ColumnChoice()).labeled_ranges(iter([9]))
    assert (found.rows, [one[:2] for one in labeled]) == (2, [(f"{source}, a", "cat"), (source, None)])
    assert [one.teller is None for one in labeled] == [False, True]
    with pytest.raises(SourceError, match="written to since"):
        list(stream.labeled_ranges(iter([9])))


def test_what_is_too_long_for_a_label_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "x.tar", "1.jpg", "1.cls")
    for most, label in ((1600, "content of 1.cls" * 100), (1599, None)):
        monkeypatch.setattr(tars, "MOST_OF_A_LABEL", most)
        [entry] = open_stream([source], None, ColumnChoice()).entries()
        assert entry.label == label

"""What lies in folders, and the count of what is passed over."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest
from locked_folders import lock_folder

from vit_hybrid.data import listing
from vit_hybrid.data.listing import Passed, look, walk
from vit_hybrid.data.sources import expand
from vit_hybrid.files import mark


@pytest.fixture(autouse=True)
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_reads_heic", lambda: False)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_what_is_passed_over_is_counted_by_kind(tmp_path: Path) -> None:
    tmp_path = tmp_path / "data"
    touch(tmp_path, "a.jpg", "b.HEIC", "c.heif", "d.txt", "e.TXT", "f.xml", ".DS_Store", "noending")
    touch(tmp_path, "__MACOSX/._a.jpg", ".git/x.jpg", "run/x.png", "deep/g.jpg", "deep/h.heic", "deep/i.txt")
    mark(tmp_path / "run", figures=["x.png"])
    for link in ("link", "other"):
        (tmp_path / link).symlink_to(tmp_path / "deep")
    os.mkfifo(tmp_path / "pipe.jpg")
    passed = Passed()
    assert [os.path.relpath(path, tmp_path) for path, _ in expand([str(tmp_path)], passed)] == ["a.jpg", "deep/g.jpg"]
    assert passed.counts() == {
        listing.HEIC: 3,
        listing.SPECIAL: 1,
        listing.OURS: 1,
        listing.LINK: 2,
        listing.SYSTEM: 1,
        listing.HIDDEN: 2,
        listing.OTHER: 5,
    }
    assert passed.line() == (
        "passed over: 3 HEIC pictures (pip install 'vit-hybrid[heif]' to read them), "
        "1 pipe, socket or device (data/pipe.jpg), 1 result of vit-hybrid (data/run), "
        "2 links to folders (data/link, ...), 1 folder of the system's (data/__MACOSX), "
        "2 hidden files or folders, 5 files of other kinds (3 .txt, 1 .xml, 1 no ending)"
    )


@pytest.mark.parametrize(
    "name", ["__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"]
)
def test_folders_that_systems_leave_are_passed_over(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", f"{name}/b.jpg")
    passed = Passed()
    assert [os.path.relpath(path, tmp_path) for path, _ in expand([str(tmp_path)], passed)] == ["a.jpg"]
    assert passed.counts() == {listing.SYSTEM: 1}


def test_names_come_in_their_order_whatever_the_file_systems_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "b.jpg", "a.jpg", "c.jpg", "b.txt", "a.txt", "b/1.jpg", "a/1.jpg")
    inner = listing.classified
    for is_reversed in (False, True):

        def ordered(folder: str, passed: Passed, is_reversed: bool = is_reversed) -> list[tuple[os.DirEntry[str], str]]:
            return sorted(inner(folder, passed), key=lambda one: one[0].name, reverse=is_reversed)

        monkeypatch.setattr(listing, "classified", ordered)
        found = look(str(tmp_path), Passed())
        assert found.pictures == ("a.jpg", "b.jpg", "c.jpg")
        assert (found.folders, found.others) == (("a", "b"), ("a.txt", "b.txt"))


def test_a_place_is_counted_once_however_often_it_is_looked_at(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.txt", ".c", "in/d.txt")
    passed, again = Passed(), Passed()
    for count in (passed, passed, again):
        expand([str(tmp_path)], count)
    passed.update(again)
    assert passed.line() == "passed over: 1 hidden file or folder, 2 files of other kinds (2 .txt)"
    assert Passed().line() == ""
    assert not Passed()


def test_what_lies_in_a_folder_is_not_in_one_whose_name_begins_alike() -> None:
    passed = Passed()
    passed.add(listing.OURS, "data/runs2/first")
    passed.add(listing.OURS, "data/runs3")
    assert [passed.has(listing.OURS, folder) for folder in ("data/runs2", "data/runs3", "data/runs", "data")] == [
        *(True, False, False, True),
    ]


def test_what_is_absorbed_takes_no_room_for_each_place() -> None:
    whole = Passed()
    for number in range(500):
        one = Passed()
        one.add(listing.HIDDEN, f"somewhere/in/folder {number}", 2)
        one.add(listing.OTHER, f"somewhere/in/folder {number}", 1, ".txt")
        whole.absorb(one)
    assert whole.counts() == {listing.HIDDEN: 1000, listing.OTHER: 500}
    assert len(pickle.dumps(whole)) < 1000


def test_the_line_is_short_whatever_the_names_are(tmp_path: Path) -> None:
    passed = Passed()
    for kind in (listing.SPECIAL, listing.OURS, listing.FOLDER, listing.LINK, listing.TABLE):
        passed.add(kind, "/".join(["folder"] * 300))
    for number in range(100):
        passed.add(listing.OTHER, "here", 1, f".{number}" + "x" * 200)
    assert len(passed.line()) < 500


def test_what_is_passed_over_has_a_name_where_there_is_one_and_where_there_are_more() -> None:
    one, two = Passed(), Passed()
    for kind in (listing.PICTURE, listing.BESIDE, listing.FOLDER, listing.NO_SPLIT, listing.MASKS, listing.HEIC):
        one.add(kind, "in/data/b")
        two.add(kind, "in/data/b", 1_000)
        two.add(kind, "in/data/a")
    assert one.line() == (
        "passed over: 1 HEIC picture (pip install 'vit-hybrid[heif]' to read them), 1 picture that cannot be read "
        "(data/b), 1 picture beside the class folders, 1 folder that cannot be read (data/b), 1 folder of masks beside "
        "images (data/b), 1 folder that is neither train, val nor test (data/b)"
    )
    assert two.line() == (
        "passed over: 1,001 HEIC pictures (pip install 'vit-hybrid[heif]' to read them), 1,001 pictures that cannot be "
        "read (data/a, ...), 1,001 pictures beside the class folders, 1,001 folders that cannot be read (data/a, ...), "
        "1,001 folders of masks beside images (data/a, ...), 1,001 folders that are neither train, val nor test "
        "(data/a, ...)"
    )
    one.add(listing.OURS, "run")
    assert "1 result of vit-hybrid (run)" in one.line()
    one.add(listing.OURS, "other run")
    assert "2 results of vit-hybrid (other run, ...)" in one.line()
    assert repr(Passed()) == "<Passed: nothing>"
    long = Passed()
    long.add(listing.OURS, "/".join(["far", "x" * 20, "y" * 20]))  # of which 40 characters are shown
    assert long.line() == f"passed over: 1 result of vit-hybrid ({'x' * 18} ... {'y' * 17})"


def test_the_commonest_endings_are_named_first() -> None:
    passed = Passed()
    for count, ending in ((1, ".b"), (1, ".a"), (1_500, ".txt"), (2, ".xml"), (1, "")):
        passed.add(listing.OTHER, "here", count, ending)
    assert passed.line() == "passed over: 1,505 files of other kinds (1,500 .txt, 2 .xml, 1 .a, 1 .b, ...)"


def test_four_endings_are_named() -> None:
    for endings, said in (("abcd", "1 .a, 1 .b, 1 .c, 1 .d"), ("abcde", "1 .a, 1 .b, 1 .c, 1 .d, ...")):
        passed = Passed()
        for ending in endings:
            passed.add(listing.OTHER, "here", 1, f".{ending}")
        assert passed.line() == f"passed over: {len(endings)} files of other kinds ({said})"


def test_a_folder_that_this_package_wrote_is_read_where_it_is_named_itself(tmp_path: Path) -> None:
    touch(tmp_path, "data/a.jpg", "data/run/b.jpg")
    (tmp_path / "data/run/b.jpg").rename(tmp_path / "b.jpg")
    mark(tmp_path / "data/run")
    (tmp_path / "b.jpg").rename(tmp_path / "data/run/b.jpg")
    assert [path for path, _ in expand([str(tmp_path / "data")])] == [str(tmp_path / "data/a.jpg")]
    passed = Passed()
    assert [path for path, _ in expand([str(tmp_path / "data/run")], passed)] == [str(tmp_path / "data/run/b.jpg")]
    assert not passed  # the mark itself is none of the person's files


def test_pipes_sockets_and_links_to_them_are_no_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "d.jpg").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket has to be short
        try:
            server.bind("e.jpg")
        finally:
            os.chdir(here)
        (tmp_path / "gone.jpg").symlink_to("nowhere")  # which is a picture that is missing: its name is told
        passed = Passed()
        assert look(str(tmp_path), passed).pictures == ("a.jpg", "gone.jpg")
        assert passed.counts() == {listing.SPECIAL: 4}


def test_a_link_that_leads_in_a_circle_ends_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "loop").symlink_to("loop")
    found = look(str(tmp_path), Passed())
    assert (found.folders, found.pictures, found.others) == ((), ("a.jpg",), ("loop",))


def test_heic_pictures_are_pictures_where_they_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.HEIC", "b.jpg")
    (first, error), *rest = expand([str(tmp_path / "a.HEIC")])
    assert (first, error, rest) == (str(tmp_path / "a.HEIC"), first, [])  # named itself it is tried
    (tmp_path / "b.jpg").unlink()
    [(_, error)] = expand([str(tmp_path)])
    assert "no pictures in this folder" in str(error)
    assert "but 1 HEIC pictures; pip install 'vit-hybrid[heif]'" in str(error)
    (tmp_path / "none").mkdir()
    counted = Passed()
    _, (_, error) = expand([str(tmp_path), str(tmp_path / "none")], counted)
    assert str(error).endswith("none: no pictures in this folder (looked for names like *.jpg, *.png)")
    assert counted.counts() == {listing.HEIC: 1}
    monkeypatch.setattr(listing, "_reads_heic", lambda: True)
    passed = Passed()
    assert [path for path, _ in expand([str(tmp_path)], passed)] == [first]
    assert not passed


def test_a_folder_that_cannot_be_read_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    lock_folder("b", monkeypatch)
    passed = Passed()
    found = dict(walk(str(tmp_path), passed))
    assert isinstance(found[str(tmp_path / "b")], PermissionError)
    assert passed.counts() == {listing.FOLDER: 1}


def test_names_that_are_no_utf_8_are_escaped_in_the_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    os.mkfifo(os.fsencode(tmp_path) + b"/data/\xe9.jpg")
    passed = Passed()
    look(str(tmp_path / "data"), passed)
    assert passed.line() == "passed over: 1 pipe, socket or device (data/\\xe9.jpg)"

"""The pictures that file names, folder names and `-` stand for."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from locked_folders import lock_folder

from vit_hybrid.data.listing import IMAGE_SUFFIXES
from vit_hybrid.data.sources import SourceError, contents, expand


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_files_keep_their_order_and_are_not_looked_at(tmp_path: Path) -> None:
    touch(tmp_path, "b.txt")
    names = ["z.jpg", str(tmp_path / "b.txt"), "a.jpg", "-", "z.jpg"]
    assert expand(names) == [(name, name) for name in names]


def test_a_folder_stands_for_the_pictures_in_it_sorted_by_path(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a.jpg", "notes.txt", "noending", "sub/d.webp", "sub/deep/c.Jpeg", "a-b/e.gif", "a/f.tif")
    found = [os.path.relpath(path, tmp_path) for path, _ in expand([str(tmp_path)])]
    assert found == ["a/f.tif", "a-b/e.gif", "a.jpg", "b.PNG", "sub/d.webp", "sub/deep/c.Jpeg"]


def test_hidden_names_and_linked_folders_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", ".b.jpg", ".hidden/c.jpg")
    touch(tmp_path / "out", "d.jpg")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "e.jpg").symlink_to(tmp_path / "out" / "d.jpg")
    assert [Path(path).name for path, _ in expand([str(tmp_path / "in")])] == ["a.jpg", "e.jpg"]


def test_a_folder_without_pictures_is_an_error_in_its_place(tmp_path: Path) -> None:
    touch(tmp_path, "empty/notes.txt", "full/a.jpg")
    (first, error), (second, path) = expand([str(tmp_path / "empty"), str(tmp_path / "full")])
    assert first == str(tmp_path / "empty")
    assert isinstance(error, SourceError)
    assert str(error).startswith(f"{first}: no pictures in this folder")
    assert second == path == str(tmp_path / "full" / "a.jpg")


def test_a_folder_that_cannot_be_read_is_an_error_among_its_neighbors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    lock_folder("b", monkeypatch)
    one, two, three = expand([str(tmp_path)])
    assert (one[0], three[0]) == (str(tmp_path / "a/1.jpg"), str(tmp_path / "c/3.jpg"))
    assert str(two[1]) == f"{tmp_path / 'b'}: cannot read the folder: Permission denied"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["b.png", "z.jpg"]),
        ("a*/*", ["a/1.jpg"]),
        ("**/*.jpg", ["a/1.jpg", "z.jpg"]),
        ("**/**/*.jpg", ["a/1.jpg", "z.jpg"]),  # each once
        ("**", ["a/1.jpg", "b.png", "z.jpg"]),
        ("*.dat", ["c.dat"]),
        ("[z].jpg", ["[z].jpg"]),
        ("[!b].j*", ["z.jpg"]),
    ],
)
def test_globs_that_the_shell_left_as_they_are(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "z.jpg", "b.png", "a/1.jpg", "a/labels.csv", "c.dat", "d.txt", "folder.dat/x.txt", "y.jpg/x.txt")
    if pattern in expected:
        touch(tmp_path, pattern)
    pairs = expand([str(tmp_path / pattern)])
    assert [(os.path.relpath(path, tmp_path), source == path) for path, source in pairs] == [
        (name, True) for name in expected
    ]


def test_a_link_to_nothing_is_no_glob(tmp_path: Path) -> None:
    touch(tmp_path, "ab.png")
    (tmp_path / "a*.png").symlink_to("gone.png")
    assert expand([str(tmp_path / "a*.png")]) == [(str(tmp_path / "a*.png"),) * 2]


@pytest.mark.parametrize("pattern", ["./*", "../in/*", "./**", ".//*", "../*/1*"])
def test_globs_from_here_and_from_the_folder_above(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "in", "1.jpg", "2.txt", ".3.jpg")
    monkeypatch.chdir(tmp_path / "in")
    assert [os.path.normpath(path).removeprefix("../in/") for path, _ in expand([pattern])] == ["1.jpg"]


def test_a_glob_without_pictures_is_an_error_in_its_place(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    [(_, error)] = expand([str(tmp_path / "?.png")])
    assert str(error) == f"{tmp_path}/?.png: matches no pictures"
    (_, error), (_, path) = expand([str(tmp_path / "*.png"), str(tmp_path / "1.jpg")])
    assert isinstance(error, SourceError)
    assert str(error) == f"{tmp_path}/*.png: matches no pictures"
    assert path == str(tmp_path / "1.jpg")
    touch(tmp_path, "2.txt")
    [(_, error)] = expand([str(tmp_path / "*.t[x]t")])  # which is no ending, so that pictures alone are meant
    assert isinstance(error, SourceError)
    brackets = str(tmp_path / "[0].jpg")  # which are more often of a file's own name
    assert expand([brackets]) == [(brackets, brackets)]


def test_standard_input_is_read_only_when_its_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"picture"))
    monkeypatch.setattr(sys, "stdin", stdin)
    items = contents([("a.jpg", "a.jpg"), ("-", "-"), ("-", "-")])
    assert next(items) == ("a.jpg", "a.jpg")
    assert stdin.buffer.tell() == 0
    assert list(items) == [("-", b"picture"), ("-", b"")]


@pytest.mark.parametrize(
    ("kind", "reason"), [("terminal", "is a terminal"), ("closed", "is closed"), ("none", "is closed")]
)
def test_standard_input_that_cannot_hold_a_picture(kind: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"picture"))
    if kind == "terminal":
        monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
    if kind == "closed":
        stdin.close()
    monkeypatch.setattr(sys, "stdin", None if kind == "none" else stdin)
    [(path, error)] = contents([("-", "-")])
    assert path == "-"
    assert isinstance(error, SourceError)
    assert str(error) == f"-: standard input {reason}; pipe a picture into it"


def test_standard_input_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Failing()))
    [(_, error)] = contents([("-", "-")])
    assert str(error) == "-: standard input cannot be read: Input/output error"


def test_errors_pass_through() -> None:
    error = SourceError("x: nothing")
    assert list(contents([("x", error)])) == [("x", error)]


def test_every_picture_format_that_pillow_opens_and_people_keep_is_known() -> None:
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib"} <= IMAGE_SUFFIXES
    assert {".tif", ".tiff", ".jp2", ".j2k", ".pnm", ".pbm", ".pgm", ".ppm", ".tga"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)

"""Where the pictures of a table lie, and why they may lie nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from labeled_files import encoded, levels_of, parquet, pictures_beside, put, refused

from vit_hybrid.data import find_unreadable, read_labeled, read_splits


def table(path: Path, *names: str) -> Path:
    return put(path, "image,label\n" + "".join(f"{name},{'ab'[number % 2]}\n" for number, name in enumerate(names)))


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("pictures\\{}.png", "the paths have backslashes, as on Windows: write / in place of \\"),
        ("C:\\data\\{}.png", "the paths have backslashes"),
        ("https://example.org/{}.png", "these are addresses: download the pictures"),
        ("/far/away/{}.png", "the paths are absolute, perhaps those of another machine"),
        ("here/pictures/{}.png", "these are relative to the current folder: move the table"),
        ("../there/{}.png", "put the pictures there, or change the paths"),
        ("none{}", "paths are read relative to the table's folder"),
    ],
)
def test_a_table_of_which_no_picture_is_there_is_one_line_with_the_likely_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, cause: str
) -> None:
    pictures_beside(tmp_path / "here", 300)
    monkeypatch.chdir(tmp_path)
    path = table(tmp_path / "here" / "tables" / "a.csv", *map(name.format, range(300)))
    for read in (read_labeled, read_splits):
        message = refused(read, path)
        first = os.path.join(tmp_path, "here", "tables", name.format(0))
        assert message.startswith(f"{path}: none of its 300 pictures is there, such as {first}; ")
        assert cause in message
        assert len(message) < 500
    columns = {"path": [name.format(number) for number in range(4)], "label": [0, 1, 0, 1]}
    assert "none of its 4 pictures is there" in refused(read_labeled, parquet(tmp_path / "p" / "a.parquet", columns))


def test_where_one_picture_lies_as_the_table_says_no_other_is_looked_for_elsewhere(tmp_path: Path) -> None:
    for place, level in (("a.png", 1), ("elsewhere/a.png", 2), ("elsewhere/b.png", 3)):
        put(tmp_path / place, encoded(level))
    path = table(tmp_path / "t.csv", "a.png", "b.png")
    pictures = read_labeled(path)
    assert not pictures.notes
    assert [pictures.name(index) for index in range(2)] == [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert [index for index, _ in find_unreadable(pictures)] == [1]


def test_of_a_long_table_rows_all_over_it_are_looked_at(tmp_path: Path) -> None:
    """The first hundred of its pictures are gone, and the others where it says."""
    names = [f"{number}.png" for number in range(200)]
    for number in range(100, 200):
        put(tmp_path / names[number], encoded(number))
    put(tmp_path / "elsewhere" / "7.png", encoded(7))
    pictures = read_labeled(table(tmp_path / "t.csv", *names))
    assert not pictures.notes
    assert pictures.name(7) == str(tmp_path / "7.png")


def test_paths_relative_to_the_folder_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures_beside(tmp_path / "data", 2)
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    path = table(tmp_path / "data" / "a" / "a.csv", "pictures/0.png", "pictures/1.png")
    assert "but these are relative to the folder above" in refused(read_labeled, path)


def test_some_pictures_that_are_not_there_are_told_of_when_they_are_read(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 3)
    read = read_labeled(table(tmp_path / "a.csv", "gone.png", *names))
    assert [index for index, _ in find_unreadable(read)] == [0]
    put(tmp_path / "b" / "in" / "0.png", encoded(7))
    read = read_labeled(table(tmp_path / "b" / "a.csv", "gone.png", "0.png"))
    assert find_unreadable(read) == [(0, f"{tmp_path}/b/gone.png: no such file")]
    assert read.targets.tolist() == [0, 1]
    assert read.picture(1).getpixel((0, 0)) == 7


def test_a_name_in_several_folders_is_that_of_the_tables_split_or_refused(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / "train_images" / f"{number}.png", encoded(number))
        put(tmp_path / "test_images" / f"{number}.png", encoded(100 + number))
    for name, level in (("train.csv", 0), ("test_labels.csv", 100)):
        read = read_labeled(table(tmp_path / name, "0.png", "1.png", "2.png"))
        assert levels_of(read) == [level, level + 1, level + 2]
    message = refused(read_labeled, table(tmp_path / "all.csv", "0.png", "1.png"))
    both = "could be test_images/0.png and train_images/0.png, among others; give paths in the table that say which"
    assert message.startswith(f"{tmp_path}/all.csv: 0.png {both}")
    put(tmp_path / "validate_me" / "2.png", encoded(5))
    assert f"{tmp_path}/one.csv: 2.png {both.replace('0', '2')}" in refused(
        read_labeled, table(tmp_path / "one.csv", "2.png")
    )
    put(tmp_path / "test_images" / "3.png", encoded(103))
    assert levels_of(read_labeled(table(tmp_path / "all.csv", "0.png", "3.png"))) == [100, 103]  # one folder has both
    put(tmp_path / "more_train" / "4.png", encoded(4))
    put(tmp_path / "test_images" / "4.png", encoded(104))
    assert levels_of(read_labeled(table(tmp_path / "train.csv", "0.png", "4.png"))) == [0, 4]
    assert read_labeled(tmp_path / "train.csv").notes == (
        f"{tmp_path}/train.csv: its pictures are in more_train, train_images",
    )


def test_folders_in_paths_are_kept(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a" / "x.png", encoded(1))
    put(tmp_path / "images" / "b" / "x.png", encoded(2))
    put(tmp_path / "images" / "ab" / "x.png", encoded(3))  # whose name ends alike
    read = read_labeled(table(tmp_path / "labels.csv", "b/x", "./a/x.png"))
    assert levels_of(read) == [2, 1]
    assert [os.path.relpath(read.name(index), tmp_path) for index in range(2)] == ["images/b/x.png", "images/a/x.png"]
    assert levels_of(read_labeled(table(tmp_path / "labels.csv", "b/x"))) == [2]


def test_pictures_that_are_where_the_table_says_are_not_looked_for(tmp_path: Path) -> None:
    put(tmp_path / "0.png", encoded(1))
    put(tmp_path / "in" / "0.png", encoded(2))
    read = read_labeled(table(tmp_path / "labels.csv", "0.png"))
    assert (levels_of(read), read.notes) == ([1], ())
    (tmp_path / "cat").mkdir()
    put(tmp_path / "in" / "cat.png", encoded(3))  # the name of a folder is that of no picture
    assert levels_of(read_labeled(table(tmp_path / "labels.csv", "cat"))) == [3]


def test_pictures_are_looked_for_in_so_many_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for level, name in enumerate("abcde"):
        put(tmp_path / f"part {name}" / f"{name}.png", encoded(level))
    path = table(tmp_path / "t.csv", "e.png", "d.png", "c.png", "b.png")
    read = read_labeled(path)
    assert levels_of(read) == [4, 3, 2, 1]
    assert read.notes == (f"{path}: its pictures are in part b, part c, part d",)  # three of the places
    for most, there in ((6, True), (5, False)):  # with that of the table itself
        monkeypatch.setattr("vit_hybrid.data.locating.MOST_FOLDERS", most)
        table(path, "e.png")
        if there:
            assert levels_of(read_labeled(path)) == [4]
        else:
            assert "none of its 1 pictures is there" in refused(read_labeled, path)


def test_names_without_ending_of_pictures_beside_the_table(tmp_path: Path) -> None:
    for level, name in enumerate(("7.png", "8.png")):
        put(tmp_path / name, encoded(level))
    path = table(tmp_path / "a.csv", "7", "8")
    read = read_labeled(path)
    assert (levels_of(read), read.notes) == ([0, 1], (f"{path}: its pictures are in ., with the ending .png",))


def test_numbers_as_names_in_json(tmp_path: Path) -> None:
    put(tmp_path / "in" / "7.png", encoded(3))
    put(tmp_path / "a.jsonl", '{"image_id": 7, "label": "x"}\n')
    assert levels_of(read_labeled(tmp_path)) == [3]

"""Pictures that are not trained on: those that a list holds back, and classes that are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_hybrid.data import DataError, LabeledPictures, read_held_back, read_labeled, read_splits
from vit_hybrid.train.recipe import build_recipe, held_back_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    for name, count in (("cat", 4), ("dog", 3), ("fox", 2)):
        (place / "train" / name).mkdir(parents=True)
        (place / "val" / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (3, 4), index).save(place / "train" / name / f"{index}.png")
        Image.new("L", (3, 4), 9).save(place / "val" / name / "9.png")
    return place


def names(pictures: LabeledPictures, folder: Path) -> list[str]:
    return [Path(pictures.name(index)).relative_to(folder).as_posix() for index in range(len(pictures))]


def listed_in(folder: Path, text: str) -> list[str]:
    path = folder / "held-back.txt"
    path.write_text(text)
    return read_held_back(path)


def test_a_list_that_git_lfs_did_not_fetch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"held-back.txt: is a Git LFS pointer, which only stands for the file"):
        listed_in(tmp_path, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")


def test_the_mark_that_some_editors_write_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa/1.png\r\na/2.png\r\n")
    assert read_held_back(tmp_path / "list.txt") == ["a/1.png", "a/2.png"]


def test_a_line_stands_for_one_picture_or_several(tmp_path: Path) -> None:
    text = "# held back\n  # by hand\n \n train/cat/{1,3}.png\ntrain/dog/0.png\n{a,b}/{1, 2}.png\n"
    assert listed_in(tmp_path, text) == [
        *("train/cat/1.png", "train/cat/3.png", "train/dog/0.png"),
        *("a/1.png", "a/2.png", "b/1.png", "b/2.png"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", r"held-back.txt: no pictures in it; expected lines such as train/cat/\{3,17\}.jpg"),
        ("a/{1,2}.png\na/2.png\n", "held-back.txt: these pictures stand in it more than once: a/2.png"),
    ],
)
def test_lists_that_say_nothing_or_the_same_twice_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        listed_in(tmp_path, text)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none.txt: the list of held-back pictures cannot be read: .*No such file or directory"
    ):
        read_held_back(tmp_path / "none.txt")
    (tmp_path / "odd.txt").write_bytes(b"caf\xe9.jpg\n")
    with pytest.raises(DataError, match=r"odd.txt: the list of held-back pictures cannot be read: .*can't decode"):
        read_held_back(tmp_path / "odd.txt")


def test_held_back_pictures_validate_and_are_not_trained_on(folder: Path) -> None:
    held_back = ["train/cat/1.png", "train/fox/0.png"]
    split = read_splits(folder, held_back=held_back)
    assert names(split.val, folder) == held_back
    assert len(split.train) == 7
    assert not set(names(split.train, folder)) & set(held_back)
    assert split.val.labels == split.train.labels == ("cat", "dog", "fox")
    assert names(read_splits(f"{folder}/", held_back=held_back).val, folder) == held_back


def test_names_may_be_those_of_rows(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    Image.new("L", (3, 4)).save(tmp_path / "0.png")
    table = pyarrow.table({"image": [(tmp_path / "0.png").read_bytes()] * 4, "label": ["a", "b", "a", "b"]})
    parquet.write_table(table, tmp_path / "train.parquet")
    split = read_splits(tmp_path, held_back=["train.parquet[1]", "train.parquet[2]"])
    assert split.val.targets.tolist() == [1, 0]


def test_a_held_back_picture_that_is_not_there_is_named(folder: Path) -> None:
    said = "held_back lists pictures that are not among the training pictures: train/cat/7.png; give the list that"
    with pytest.raises(DataError, match=f"^{folder}: {said} belongs to this data, or none$"):
        read_splits(folder, held_back=["train/cat/1.png", "train/cat/7.png"])


def test_a_list_and_another_place_contradict_each_other(folder: Path) -> None:
    with pytest.raises(DataError, match=f"^{folder}/val: held_back lists what to validate with; give it or val"):
        read_splits(folder, val=folder / "val", held_back=["train/cat/1.png"])


def test_classes_that_are_left_out_are_in_neither_part(folder: Path) -> None:
    split = read_splits(folder, leave_out=["dog"])
    assert split.train.labels == split.val.labels == ("cat", "fox")
    assert split.train.targets.tolist() == [0, 0, 0, 0, 1, 1]
    assert names(split.val, folder) == ["val/cat/9.png", "val/fox/9.png"]
    assert split.notes == ()


def test_what_is_left_may_have_another_order(folder: Path) -> None:
    split = read_splits(folder, leave_out=["dog"], labels=["fox", "cat"])
    assert split.train.labels == ("fox", "cat")
    assert split.train.targets.tolist() == [1, 1, 1, 1, 0, 0]
    assert split.val.targets.tolist() == [1, 0]


def test_pictures_with_one_of_several_labels_left_out_are_left_out(tmp_path: Path) -> None:
    rows = "path,label\n" + "".join(f"{index}.png,{label}\n" for index, label in enumerate(["a|b", "b", "c|b", "a"]))
    (tmp_path / "train.csv").write_text(rows)
    for index in range(4):
        Image.new("L", (3, 4)).save(tmp_path / f"{index}.png")
    pictures = read_labeled(tmp_path / "train.csv").without(["c"])
    assert pictures.labels == ("a", "b")
    assert pictures.targets.tolist() == [[1, 1], [0, 1], [1, 0]]
    alone = read_labeled(tmp_path / "train.csv").without(["b", "c"])  # also one that has only one of the two
    assert ([alone.name(index)[-5:] for index in range(len(alone))], alone.labels) == (["3.png"], ("a",))


def test_no_label_left_out_changes_nothing(folder: Path) -> None:
    pictures = read_labeled(folder, "train")
    assert pictures.without([]) is pictures


@pytest.mark.parametrize(
    ("leave_out", "message"),
    [
        (["dgo"], "'dgo', to be left out, is no label; did you mean 'dog'"),
        (["zebra"], "'zebra', to be left out, is no label; there are cat, dog, fox"),
        (["cat", "dog"], r"pictures: one class would be left \(fox\); expected at least two"),
        (["cat", "dog", "fox"], "none of the labels cat, dog, fox would be left"),
    ],
)
def test_classes_that_cannot_be_left_out_are_named(folder: Path, leave_out: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_splits(folder, leave_out=leave_out)


def test_values_cannot_be_left_out() -> None:
    pictures = LabeledPictures([None] * 2, "regression", ["weight"], np.zeros((2, 1), np.float32))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="these pictures have values instead of classes"):
        pictures.without(["weight"])


def test_a_recipe_names_a_list_beside_it_or_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("a/{1,2}.png\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(tmp_path / "mine.txt"), "~/mine.txt"):
        assert held_back_pictures(build_recipe({"held_back": name})) == ["a/1.png", "a/2.png"]
    assert held_back_pictures(build_recipe({})) == []

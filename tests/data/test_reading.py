"""The split into training and validation pictures, and the data sets at hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from labeled_files import class_folders, csv_file, json_lines, levels_of, refused

from vit_hybrid.data import (
    REGRESSION,
    find_unreadable,
    read_labeled,
    read_splits,
)


def test_the_split_is_stratified_and_whole(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, cat=40, dog=20, eel=3, fox=2, gnu=1)
    split = read_splits(folder, val_fraction=0.25)
    assert split.val.class_counts().tolist() == [10, 5, 1, 1, 0]
    assert split.train.class_counts().tolist() == [30, 15, 2, 1, 1]
    assert sorted(levels_of(split.train) + levels_of(split.val)) == list(range(66))
    assert split.notes == ("no validation pictures of gnu",)
    assert read_splits(folder, val_fraction=0.999).train.class_counts().tolist() == [1, 1, 1, 1, 1]
    assert read_splits(folder, val_fraction=0.001).val.class_counts().tolist() == [1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("cat", "Cat"), ("cat", "cat "), ("a b", "a  b")),
        *(("caf\xe9", "cafe\u0301"), ("STRASSE", "straße"), ("m\xb2", "m2")),
    ],
)
def test_labels_that_look_alike_are_told_of(first: str, second: str, tmp_path: Path) -> None:
    split = read_splits(class_folders(tmp_path, **{first: 2, second: 2, "dog": 2}))
    assert len(split.train.labels) == 3
    [note] = split.notes
    assert note.startswith("labels that differ only in capitals, spaces or how accents are encoded: ")
    assert repr(first) in note
    assert repr(second) in note
    assert "dog" not in note
    class_folders(tmp_path, Dog=2)
    [note] = read_splits(tmp_path).notes
    assert " and 1 more such pair; give" in note
    for name in ("eel", "Eel", "EEL"):
        class_folders(tmp_path, **{name: 2})
    [note] = read_splits(tmp_path).notes
    assert " and 2 more such pairs; give those the same name that are one class" in note


def test_of_labels_that_look_alike_two_are_named(tmp_path: Path) -> None:
    split = read_splits(class_folders(tmp_path, EEL=2, Eel=2, dog=2, eel=2))
    assert split.notes == (
        "labels that differ only in capitals, spaces or how accents are encoded: 'EEL' and 'Eel'; give those the same "
        "name that are one class",
    )


@pytest.mark.parametrize("kind", ["a part split off", "a split of its own", "another place", "held back"])
def test_the_most_pixels_and_what_was_passed_over_come_along_with_every_part(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "all"
    class_folders(place / "train" if kind == "a split of its own" else place, cat=4, dog=4)
    class_folders(place / "val" if kind == "a split of its own" else tmp_path / "val", cat=2, dog=2)
    (tmp_path / "val" if kind == "another place" else place).joinpath("notes.txt").touch()
    options: dict[str, Any] = {"val": str(tmp_path / "val")} if kind == "another place" else {}
    if kind == "held back":
        options = {"held_back": ["cat/0.png", "dog/1.png"]}
    split = read_splits(place, max_pixels=77, **options)
    for pictures in (split.train, split.val):
        for part in (pictures, pictures.select([0]), pictures.without(["dog"]), pickle.loads(pickle.dumps(pictures))):
            assert part.max_pixels == 77
    assert split.passed.line() == "passed over: 1 file of another kind (1 .txt)"


def test_the_split_follows_from_the_seed(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "all", cat=20, dog=20)
    held_out = {seed: levels_of(read_splits(folder, seed=seed, val_fraction=0.3).val) for seed in range(3)}
    assert held_out[0] == levels_of(read_splits(folder, val_fraction=0.3).val)
    assert held_out[0] != held_out[1] != held_out[2]
    val = read_splits(folder, val_fraction=0.3).val
    names = [val.name(index) for index in range(len(val))]
    assert names == sorted(names)
    cats, dogs = ([Path(name).name for name in names if f"/{kind}/" in name] for kind in ("cat", "dog"))
    assert (len(cats), len(dogs)) == (6, 6)
    assert cats != dogs  # each class is drawn from by itself


def test_which_pictures_of_a_class_are_held_out_is_no_matter_of_other_classes(tmp_path: Path) -> None:
    held_out = []
    for count, of_them in ((5, 2), (9, 3), (13, 4)):  # 1.5, 2.7 and 3.9
        folder = class_folders(tmp_path / str(count), ant=count, cat=20)
        val = read_splits(folder, val_fraction=0.3).val
        held_out.append([Path(val.name(index)).name for index in range(len(val)) if val.targets[index] == 1])
        assert val.class_counts()[0] == of_them
    assert held_out[0] == held_out[1] == held_out[2]
    assert len(held_out[0]) == 6


def test_pictures_without_any_label_are_held_out_as_a_kind_of_their_own(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [["a", "b"]] * 10 + [[]] * 10)
    for seed in range(6):
        val = read_splits(path, val_fraction=0.2, seed=seed).val
        assert (len(val), val.class_counts().tolist()) == (4, [2, 2])


def test_several_labels_and_values_are_stratified_too(tmp_path: Path) -> None:
    labels = [["common"]] * 90 + [["common", "rare"]] * 9 + [[]]
    split = read_splits(json_lines(tmp_path / "a.jsonl", labels), val_fraction=1 / 3)
    assert split.val.class_counts().tolist() == [33, 3]
    kinds = (["common"], ["common", "rare"], ["mid", "rare"], ["common", "mid", "rare"])
    labels = [kind for kind, count in zip(kinds, (60, 10, 10, 10), strict=True) for _ in range(count)]
    for seed in range(4):  # all that have the rarest count for it, whatever else they have
        split = read_splits(json_lines(tmp_path / "c.jsonl", labels), val_fraction=0.1, seed=seed)
        assert split.val.class_counts()[split.val.labels.index("rare")] == 3
    values = [index + 0.5 for index in range(100)]
    held_out = read_splits(json_lines(tmp_path / "b.jsonl", values), val_fraction=0.1).val.targets[:, 0]
    assert [int(value // 10) for value in held_out] == list(range(10))
    for seed in range(4):
        held_out = read_splits(json_lines(tmp_path / "d.jsonl", values[:9]), val_fraction=0.3, seed=seed).val.targets[
            :, 0
        ]
        assert [int(value // 3) for value in held_out] == [0, 1, 2]
    most = read_splits(tmp_path / "b.jsonl", val_fraction=0.9)
    assert (len(most.train), len(most.val)) == (50, 50)  # of each two neighbors one


def test_integers_of_two_locations_agree(tmp_path: Path) -> None:
    train = csv_file(tmp_path / "a.csv", [3, 5, 7, 5])
    val = csv_file(tmp_path / "b.csv", [7, 3])
    split = read_splits(train, val=val)
    assert (split.train.labels, split.val.targets.tolist()) == (("3", "5", "7"), [2, 0])
    split = read_splits(train, val=val, labels=list("abcdefgh"))
    assert (split.train.targets.tolist(), split.val.targets.tolist()) == ([3, 5, 7, 5], [7, 3])
    assert "no training pictures of a, b, c, e, g" in split.notes


def test_validation_from_another_location(tmp_path: Path) -> None:
    class_folders(tmp_path / "a" / "train", cat=2, dog=2)
    class_folders(tmp_path / "a" / "val", cat=1, dog=1)
    class_folders(tmp_path / "b", dog=3)
    class_folders(tmp_path / "c" / "train", cat=5, dog=5)
    class_folders(tmp_path / "c" / "val", cat=4, dog=4)
    assert read_splits(tmp_path / "a", val=tmp_path / "b").val.targets.tolist() == [1, 1, 1]
    class_folders(tmp_path / "parts" / "train", cat=1, dog=1)
    class_folders(tmp_path / "parts" / "test", cat=2, dog=2)
    assert len(read_splits(tmp_path / "a", val=tmp_path / "parts").val) == 6  # all of it, as it has no split for that
    assert len(read_splits(tmp_path / "a", val=tmp_path / "c").val) == 8
    for name in ("d", "e"):
        csv_file(tmp_path / name / "labels.csv", ["x,cat", "y,dog"], "path,label,kind")
    split = read_splits(tmp_path / "d", val=tmp_path / "e", label_column="kind")
    assert (split.val.labels, split.val.targets.tolist()) == (("cat", "dog"), [0, 1])


def test_values_stay_values_where_validation_has_whole_numbers(tmp_path: Path) -> None:
    split = read_splits(csv_file(tmp_path / "a.csv", [0.5, 1.5]), val=csv_file(tmp_path / "b.csv", [1, 2]))
    assert (split.val.problem_type, split.val.targets.tolist()) == (REGRESSION, [[1], [2]])


def test_values_held_back_are_spread_over_all_that_there_are(tmp_path: Path) -> None:
    values = [3, 9, 0, 6, 1, 10, 4, 11, 2, 7, 5, 8]
    table = csv_file(tmp_path / "a.csv", [value + 0.5 for value in values])
    for seed in range(8):  # of each third of the values, which are four, one
        val = read_splits(table, val_fraction=0.25, seed=seed).val
        assert sorted(int(value) // 4 for value in val.targets[:, 0]) == [0, 1, 2]


def test_labels_that_only_validation_has(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", cat=2, dog=2)
    class_folders(tmp_path / "val", cat=1, eel=1, fox=1)
    message = refused(read_splits, tmp_path)
    assert message == f"{tmp_path}: labels for validation that no training picture has: eel, fox"
    message = refused(read_splits, tmp_path / "train", val=tmp_path / "val")
    assert message == f"{tmp_path}/val: labels for validation that no training picture has: eel, fox"


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_a_fraction_out_of_range(tmp_path: Path, fraction: float) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    assert refused(read_splits, tmp_path, val_fraction=fraction) == (
        f"val_fraction must lie between 0 and 1, got {fraction}"
    )


def test_a_negative_seed(tmp_path: Path) -> None:
    class_folders(tmp_path, cat=2, dog=2)
    assert "seed must be 0 or more, got -1" in refused(read_splits, tmp_path, seed=-1)


def test_cifar10(data_dir: Path) -> None:
    folder = data_dir / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"no cifar10 in {data_dir}")
    pytest.importorskip("pyarrow")
    split = read_splits(folder)
    assert split.train.labels[:2] == ("airplane", "automobile")
    assert split.train.class_counts().tolist() == [4500] * 10
    assert split.val.class_counts().tolist() == [500] * 10
    assert split.val.picture(0).size == (32, 32)
    assert split.val.name(0).startswith("train.parquet[")
    assert read_labeled(folder, "test").class_counts().tolist() == [1000] * 10


def test_tinyphotos10(data_dir: Path) -> None:
    folder = data_dir / "tinyphotos10"
    if not folder.is_dir():
        pytest.skip(f"no tinyphotos10 in {data_dir}")
    split = read_splits(folder)
    assert split.train.class_counts().tolist() == [100] * 10
    assert split.val.class_counts().tolist() == [50] * 10
    assert split.val.labels[0] == "african_elephant"
    assert find_unreadable(split.val) == []


def test_words_for_missing_labels_are_classes_in_both_splits_where_they_are_asked_for(tmp_path: Path) -> None:
    csv_file(tmp_path / "train.csv", ["NA", "dog", "NA"])
    csv_file(tmp_path / "val.csv", ["dog", "NA"])
    split = read_splits(tmp_path, na_as_class=True)
    assert (split.train.labels, split.val.targets.tolist()) == (("NA", "dog"), [1, 0])
    assert "train.csv, line 2 (rows without one: 2) has no label" in refused(read_splits, tmp_path)
    csv_file(tmp_path / "train.csv", ["cat", "dog", "cat"])
    assert "val.csv, line 3 has no label" in refused(read_splits, tmp_path)

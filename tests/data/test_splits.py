"""Names that speak of splits, and names that say nothing."""

from __future__ import annotations

import pytest

from vit_hybrid.data.splits import TEST, TRAIN, VAL, say_nothing, split_folders, split_in_name, split_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", (TRAIN, ())),
        ("Validation", (VAL, ())),
        ("TEST", (TEST, ())),
        ("seg_train", (TRAIN, ("seg",))),
        ("training_set", (TRAIN, ("set",))),
        ("trainset", (TRAIN, ("set",))),
        ("TestImages", (TEST, ("images",))),
        ("trainLabels", (TRAIN, ("labels",))),
        ("train2017", (TRAIN, ())),
        ("test1", (TEST, ())),
        ("train-00000-of-00002", (TRAIN, ("of",))),
        ("trainer", (None, ("trainer",))),
        ("contest", (None, ("contest",))),
        ("train_test_split", (None, ("train", "test", "split"))),
        ("0001", (None, ())),
    ],
)
def test_the_split_that_a_name_speaks_of(name: str, expected: object) -> None:
    assert split_of(name) == expected
    assert split_in_name(f"train/{name}.csv") == split_of(name)[0]


def test_names_that_say_nothing_of_a_picture() -> None:
    for name in ("images", "JPEGImages", "fold_3", "train_images", "masks", "Annotations", "data", "trainset"):
        assert say_nothing([name])
    for name in ("cat", "0", "n01440764", "label_1", "no_mask", "photos", "test strip", "trainer", "seg_train"):
        assert not say_nothing([name])
        assert not say_nothing(["images", name])
    assert say_nothing(["seg_train", "seg_pred"])
    assert say_nothing(["fold_1", "fold_2"])
    assert say_nothing([])
    assert not say_nothing(["label_1", "label_2"])
    assert not say_nothing(["n01", "n02"])


def test_folders_that_are_splits() -> None:
    assert split_folders(["seg_pred", "seg_test", "seg_train"]) == ({TEST: ["seg_test"], TRAIN: ["seg_train"]}, ())
    assert split_folders(["train", "bus"]) == ({}, ())
    assert split_folders(["test", "train", "bus"])[0] == {TEST: ["test"], TRAIN: ["train"]}
    assert split_folders(["valid", "val", "train"])[0] == {VAL: ["valid", "val"], TRAIN: ["train"]}
    assert split_folders(["test"])[0] == {TEST: ["test"]}
    assert split_folders(["seg_train"])[0] == {TRAIN: ["seg_train"]}
    assert split_folders(["steam train", "freight train"])[0] == {}
    assert split_folders(["Training images", "Test"])[0] == {TRAIN: ["Training images"], TEST: ["Test"]}
    assert split_folders(["seg_train", "seg_pred"])[0] == {TRAIN: ["seg_train"]}
    assert split_folders(["train", "holdout"])[0] == {TRAIN: ["train"]}
    assert split_folders(["images", "masks"])[0] == {}
    beside = split_folders(["train", "val", "seg_train", "seg_test"])
    assert beside == ({TRAIN: ["train"], VAL: ["val"]}, ())
    splits, sets = split_folders(["a_train", "a_test", "b_train", "b_test"])
    assert (splits, [sorted(names) for names in sets]) == ({}, [["a_test", "a_train"], ["b_test", "b_train"]])

"""Names that speak of splits, and names that say nothing."""

from __future__ import annotations

import pytest

from vit_hybrid.data.splits import (
    TEST,
    TRAIN,
    VAL,
    are_counted,
    are_versions,
    masks_beside_images,
    say_nothing,
    split_folders,
    split_in_name,
    split_of,
)


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
        ("evaluation", (VAL, ())),
        ("dev_eval", (VAL, ())),
        ("trainsets", (TRAIN, ("sets",))),
        ("traindata", (TRAIN, ("data",))),
        ("valimgs", (VAL, ("imgs",))),
        ("testfolder", (TEST, ("folder",))),
        ("Traindir", (TRAIN, ("dir",))),
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
    for name in (
        *(
            "imgs",
            "img_2",
            "PNGImages",
            "jpg",
            "jpeg",
            "image",
            "dataset",
            "datasets",
            "annotation",
            "annots",
            "labels",
        ),
        *(
            "bboxes",
            "boxes",
            "trimaps",
            "xmls",
            "json",
            "set1",
            "sets",
            "split_1",
            "splits",
            "folds",
            "part-2",
            "parts",
        ),
        *("batch_3", "batches", "archive", "pred", "preds", "prediction", "predictions", "unlabeled", "unlabelled"),
        *("holdout", "extra", "submission", "folder", "folders", "dir", "files", "metadata", "meta"),
    ):
        assert say_nothing([name]), name
    for name in ("cat", "0", "n01440764", "label_1", "no_mask", "photos", "test strip", "trainer", "seg_train"):
        assert not say_nothing([name])
        assert not say_nothing(["images", name])
    assert say_nothing(["seg_train", "seg_pred"])
    assert say_nothing(["fold_1", "fold_2"])
    assert say_nothing([])
    assert not say_nothing(["label_1", "label_2"])
    assert not say_nothing(["n01", "n02"])


@pytest.mark.parametrize(
    "word", ["class", "type", "kind", "grade", "stage", "level", "group", "cluster", "species", "category", "Label"]
)
def test_what_is_called_a_class_and_numbered_is_one(word: str) -> None:
    assert not are_counted([f"{word}1", f"{word}2"])


def test_masks_are_known_by_images_beside_them() -> None:
    names = ["Images", "2", "masks", "mask_old", "GroundTruth", "labels", "masks_1"]
    assert masks_beside_images(names) == ["masks", "labels", "masks_1"]
    words = [*("mask", "label", "annotations", "annotation", "annots", "trimaps", "segmentation", "segmentations")]
    words += ["groundtruth", "gt", "overlays", "heatmaps"]
    for pictures in ("images", "image", "imgs", "img"):
        assert masks_beside_images([pictures, *words]) == words
    assert masks_beside_images(["2", "masks"]) == []
    assert masks_beside_images(["cat images", "masks"]) == []


def test_versions_are_called_so_each_of_them() -> None:
    assert are_versions(["color_images", "Grayscale"])
    assert are_versions(["images", "images_resized", "raw_2"])
    for word in (
        *("original", "originals", "augmented", "augmentation", "cropped", "scaled", "aligned", "processed"),
        *("preprocessed", "unprocessed", "colour", "colored", "rgb", "gray", "grey", "greyscale", "segmented"),
        *("normalized", "enhanced", "denoised", "thumbnails", "thumbs"),
    ):
        assert are_versions(["raw", word]), word
    assert not are_versions(["color"])
    assert not are_versions(["color", "cat"])
    assert not are_versions(["0", "1"])


def test_folders_that_are_splits() -> None:
    assert split_folders(["seg_pred", "seg_test", "seg_train"]) == ({TEST: ["seg_test"], TRAIN: ["seg_train"]}, ())
    assert split_folders(["train", "bus"]) == ({}, ())
    assert split_folders(["test", "train", "bus"])[0] == {TEST: ["test"], TRAIN: ["train"]}
    assert split_folders(["valid", "val", "train"])[0] == {VAL: ["valid", "val"], TRAIN: ["train"]}
    assert split_folders(["test"])[0] == {TEST: ["test"]}
    assert split_folders(["test", "testing"])[0] == {TEST: ["test", "testing"]}
    assert split_folders(["bird_test", "cat_test"])[0] == {}
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

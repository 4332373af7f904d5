"""Tiny ImageNet as it is distributed: names instead of WordNet ids, its list of validation pictures, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from vit_hybrid.data import DataError, read_labeled, read_splits
from vit_hybrid.data.targets import MissingSplit
from vit_hybrid.data.tiny_imagenet import distinct_labels, known_labels

WORDS = {
    "n00000001": "thing, whatchamacallit",  # a class of ImageNet that is not among the 200
    "n02123045": "tabby, tabby cat",
    "n02814860": "beacon, lighthouse, beacon light, pharos",
    "n07753592": "banana",
}
TRAINING = {"n02123045": 3, "n02814860": 2, "n07753592": 4}
VALIDATION = ["n07753592", "n02123045", "n07753592"]
LABELS = ("tabby cat", "lighthouse", "banana")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Tiny ImageNet: three classes, boxes beside the training pictures, test pictures without labels."""
    place = tmp_path / "tiny-imagenet-200"
    for wnid, count in TRAINING.items():
        images = place / "train" / wnid / "images"
        images.mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (64, 64), (index, 0, 0)).save(images / f"{wnid}_{index}.JPEG")
        (images.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
    for split, count in (("val", len(VALIDATION)), ("test", 2)):
        (place / split / "images").mkdir(parents=True)
        for index in range(count):
            Image.new("L", (64, 64), 9).save(place / split / "images" / f"{split}_{index}.JPEG")
    lines = [f"val_{index}.JPEG\t{wnid}\t0\t32\t44\t62\n" for index, wnid in enumerate(VALIDATION)]
    (place / "val" / "val_annotations.txt").write_text("".join(lines))
    (place / "words.txt").write_text("".join(f"{wnid}\t{names}\n" for wnid, names in WORDS.items()))
    (place / "wnids.txt").write_text("\n".join(TRAINING) + "\n")
    return place


def test_classes_have_the_names_that_people_use(folder: Path) -> None:
    with (folder / "words.txt").open("a", encoding="utf-8") as file:
        file.write("\nn00000002 without a tab\nn00000003\twith two\tof them\n")
    pictures = read_labeled(folder, "train")
    assert pictures.labels == LABELS
    assert pictures.class_counts().tolist() == [3, 2, 4]
    assert pictures.name(0) == str(folder / "train" / "n02123045" / "images" / "n02123045_0.JPEG")
    assert pictures.picture(1).getpixel((0, 0))[0] in (0, 1, 2)


def test_validation_pictures_come_in_the_order_of_their_list(folder: Path) -> None:
    split = read_splits(folder)
    assert (len(split.train), len(split.val)) == (9, 3)
    assert split.val.labels == LABELS
    assert split.val.targets.tolist() == [2, 0, 2]
    assert split.val.name(1) == str(folder / "val" / "images" / "val_1.JPEG")
    assert split.val.picture(1).mode == "L"
    assert split.train.origin == f"the folders in {folder}/train"
    assert split.val.origin == f"{folder}/val/val_annotations.txt"
    assert read_splits(f"{folder}/").val.origin == split.val.origin
    assert split.notes == ("no validation pictures of lighthouse",)


def test_test_pictures_have_no_labels(folder: Path) -> None:
    with pytest.raises(MissingSplit, match="no split 'test'; there are train, val"):
        read_labeled(folder, "test")


def test_training_pictures_may_stand_in_their_class_folder_itself(folder: Path) -> None:
    for images in sorted((folder / "train").glob("*/images")):
        for path in images.iterdir():
            path.rename(images.parent / path.name)
        images.rmdir()
    assert len(read_labeled(folder, "train")) == 9


def test_a_copy_with_class_folders_alone_is_read_as_class_folders(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    shutil.rmtree(folder / "test")
    assert read_labeled(folder, "train").labels == tuple(TRAINING)


def remove_words(folder: Path) -> None:
    (folder / "words.txt").unlink()


def remove_training(folder: Path) -> None:
    shutil.rmtree(folder / "train")


def empty_training(folder: Path) -> None:
    shutil.rmtree(folder / "train")
    (folder / "train").mkdir()


def empty_class(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "n02814860" / "images")


def remove_validation(folder: Path) -> None:
    shutil.rmtree(folder / "val" / "images")


def remove_picture(folder: Path) -> None:
    (folder / "val" / "images" / "val_2.JPEG").unlink()


def unnamed_class(folder: Path) -> None:
    (folder / "words.txt").write_text("n07753592\tbanana\n")


def spaces_for_tabs(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG n07753592\n")


def unknown_class(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn07753592\n\nval_1.JPEG\tn01443537\n")


def empty_list(folder: Path) -> None:
    (folder / "val" / "val_annotations.txt").write_text("\n")


def no_text(folder: Path) -> None:
    (folder / "words.txt").write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_words, r"tiny-imagenet-200: words.txt, with the names of the classes, is missing; expected Tiny"),
        (remove_training, r"tiny-imagenet-200: the folder train is missing; expected Tiny ImageNet as it is"),
        (empty_training, r"tiny-imagenet-200/train: no class folders in it; expected Tiny ImageNet"),
        (empty_class, r"tiny-imagenet-200/train/n02814860: no pictures in it; expected Tiny ImageNet"),
        (remove_validation, r"tiny-imagenet-200: val/images is missing; expected Tiny ImageNet"),
        (remove_picture, r"val_annotations.txt, line 3: .*tiny-imagenet-200/val/images/val_2.JPEG is not there"),
        (unnamed_class, r"words.txt: no names of n02123045, n02814860, of which train/ has pictures; add lines"),
        (spaces_for_tabs, r"val_annotations.txt, line 1: no tab in it"),
        (
            unknown_class,
            r"val_annotations.txt, line 3: val_1.JPEG is of the class n01443537, which train/ does not have",
        ),
        (empty_list, r"val_annotations.txt: no lines in it"),
        (no_text, r"words.txt: cannot be read"),
    ],
)
def test_what_is_missing_is_named(folder: Path, spoil: object, message: str) -> None:
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(DataError, match=message):
        read_splits(folder)


def test_columns_are_for_tables(folder: Path) -> None:
    for named in ({"label_column": "label"}, {"image_column": "path"}):
        with pytest.raises(DataError, match="image_column and label_column are for tables"):
            read_labeled(folder, "val", **named)


def test_a_name_that_two_classes_have_goes_to_one_of_them() -> None:
    names = {"a": ["crane", "wader"], "b": ["crane", "derrick"], "c": ["wader", "boot"]}
    assert distinct_labels(names, {}) == ("crane", "derrick", "wader")
    assert distinct_labels(names, {"b": "crane"}) == ("wader", "crane", "boot")
    assert distinct_labels(names, {"b": "hoist"}) == ("crane", "derrick", "wader")  # none of its names
    with pytest.raises(DataError, match=r"^words.txt: c has no name that no other class has \(crane\)"):
        distinct_labels({"a": ["crane"], "c": ["crane"]}, {})
    names = {"a": ["crane"], "b": ["crane", "wader"], "c": ["crane", "wader", "derrick"]}
    assert distinct_labels(names, {}) == ("crane", "wader", "derrick")


def test_the_table_has_a_name_for_each_of_the_200_classes() -> None:
    labels = known_labels()
    assert len(labels) == 200
    assert len(set(labels.values())) == 200
    assert list(labels) == sorted(labels)
    assert labels["n02123045"] == "tabby cat"
    assert labels["n02509815"] == "red panda"

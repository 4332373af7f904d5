"""Tiny ImageNet as it is distributed: 200 classes of ImageNet, 500 pictures each of 64 x 64, named by WordNet ids.

    train/n01443537/images/n01443537_0.JPEG, ...
    val/images/val_0.JPEG, ...
    val/val_annotations.txt        a line a picture: its name, its class, a box; with tabs between
    words.txt                      a line a class: its id, its names; a tab between, commas between the names

Le and Yang, "Tiny ImageNet Visual Recognition Challenge" (2015), of Stanford's course CS231n. The folder `test` has no
labels and is passed over.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import argument, one_line, shown
from .columns import ColumnChoice
from .folders import Rows, listing, pictures_below
from .listing import Passed
from .pictures import Files
from .targets import DataError, LabelColumn, listed

ANNOTATIONS_FILE = os.path.join("val", "val_annotations.txt")
WORDS_FILE = "words.txt"
LAYOUT = (
    "expected Tiny ImageNet as it is distributed: train/WNID/images, val/images, val/val_annotations.txt and words.txt"
)
# For each of the 200 classes the one of its names that people use, no two alike; held against the pictures by eye.
LABELS_FILE = Path(__file__).with_name("tiny_imagenet_labels.csv")


def is_tiny_imagenet(folder: str) -> bool:
    """Whether a folder is laid out as Tiny ImageNet: no other data set has its list of validation pictures."""
    return os.path.isfile(os.path.join(folder, ANNOTATIONS_FILE))


def read_training(folder: str, passed: Passed) -> Rows:
    """The training pictures, by class.

    Labels are names, not WordNet ids, in the order of the ids. Where a class has no name of its own, as it stands in
    `tiny_imagenet_labels.csv` or is first in words.txt, the next of its names that no other class has is taken.

    Args:
        folder: the data set.
        passed: where to count what is passed over.

    Raises:
        DataError: a part of the layout is missing, a class has no pictures or no name.
    """
    train = os.path.join(folder, "train")
    classes = _classes(folder, passed)
    labels = _labels(folder, classes)
    paths: list[str] = []
    values: list[int] = []
    for index, wnid in enumerate(classes):
        found = pictures_below(train, wnid, passed)
        if not found:
            raise DataError(f"{shown(os.path.join(train, wnid))}: no pictures in it; {LAYOUT}")
        paths += found
        values += [index] * len(found)
    store = Files.of(train, paths)
    return Rows(store, LabelColumn("class", values, store.name, labels), f"the folders in {shown(train)}")


def read_validation(folder: str, passed: Passed) -> Rows:
    """The validation pictures in the order of val/val_annotations.txt, with the labels of `read_training`.

    Args:
        folder: the data set.
        passed: where to count what is passed over.

    Raises:
        DataError: a part of the layout is missing, or a line names a picture that is not there or a class that is not
            among the training pictures.
    """
    classes = {wnid: index for index, wnid in enumerate(_classes(folder, passed))}
    labels = _labels(folder, list(classes))
    path = os.path.join(folder, ANNOTATIONS_FILE)
    images = os.path.join(folder, "val", "images")
    if not os.path.isdir(images):
        raise DataError(f"{shown(folder)}: {os.path.join('val', 'images')} is missing; {LAYOUT}")
    there = set(listing(images, passed).pictures)
    names: list[str] = []
    values: list[int] = []
    for number, line in _lines(path):
        name, *rest = line.split("\t")
        where = f"{shown(path)}, line {number}"
        if not rest:
            raise DataError(f"{where}: no tab in it; expected a picture, a tab and its class")
        if rest[0] not in classes:
            raise DataError(f"{where}: {shown(name)} is of the class {shown(rest[0])}, which train/ does not have")
        if name not in there:
            raise DataError(f"{where}: {shown(os.path.join(images, name))} is not there")
        names.append(name)
        values.append(classes[rest[0]])
    if not names:
        raise DataError(f"{shown(path)}: no lines in it; expected one for each validation picture")
    store = Files.of(images, names)
    return Rows(store, LabelColumn("class", values, store.name, labels), shown(path))


def refuse_columns(folder: str, choice: ColumnChoice) -> None:
    """Raises `DataError` where columns were named: there are none."""
    if choice.image is not None or choice.label is not None:
        names = f"{argument('image_column')} and {argument('label_column')}"
        raise DataError(f"{shown(folder)}: has class folders, no columns; {names} are for tables")


def distinct_labels(names: Mapping[str, Sequence[str]], preferred: Mapping[str, str]) -> tuple[str, ...]:
    """A label for each class, no two alike.

    Args:
        names: the names of each class, by its WordNet id, the usual one first.
        preferred: the label that a class gets, by its id, if it is one of its names.

    Raises:
        DataError: all names of a class are those of classes before it.
    """
    labels: dict[str, str] = {
        wnid: preferred[wnid] for wnid, known in names.items() if wnid in preferred and preferred[wnid] in known
    }
    taken = set(labels.values())
    for wnid, known in names.items():
        if wnid in labels:
            continue
        free = [name for name in known if name not in taken]
        if not free:
            raise DataError(f"{WORDS_FILE}: {wnid} has no name that no other class has ({listed(known)}); add one")
        labels[wnid] = free[0]
        taken.add(free[0])
    return tuple(labels[wnid] for wnid in names)


def known_labels() -> dict[str, str]:
    """The labels of Tiny ImageNet's 200 classes by their WordNet ids, in the order of the ids."""
    with LABELS_FILE.open(encoding="utf-8", newline="") as file:
        return {row["wnid"]: row["label"] for row in csv.DictReader(file)}


def _classes(folder: str, passed: Passed) -> tuple[str, ...]:
    train = os.path.join(folder, "train")
    if not os.path.isdir(train):
        raise DataError(f"{shown(folder)}: the folder train is missing; {LAYOUT}")
    classes = listing(train, passed).folders
    if not classes:
        raise DataError(f"{shown(train)}: no class folders in it; {LAYOUT}")
    return classes


def _labels(folder: str, classes: Sequence[str]) -> tuple[str, ...]:
    path = os.path.join(folder, WORDS_FILE)
    if not os.path.isfile(path):
        raise DataError(f"{shown(folder)}: {WORDS_FILE}, with the names of the classes, is missing; {LAYOUT}")
    words = dict(line.split("\t", 1) for _, line in _lines(path) if "\t" in line)
    unnamed = [wnid for wnid in classes if wnid not in words]
    if unnamed:
        raise DataError(
            f"{shown(path)}: no names of {listed(unnamed)}, of which train/ has pictures; add lines for them"
        )
    names = {wnid: [name.strip() for name in words[wnid].split(",") if name.strip()] for wnid in classes}
    return distinct_labels(names, known_labels())


def _lines(path: str) -> list[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers."""
    try:
        with open(path, encoding="utf-8") as file:
            return [(number, line.rstrip("\r\n")) for number, line in enumerate(file, 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(path)}: cannot be read: {one_line(error)}") from error


__all__ = [
    *("distinct_labels", "is_tiny_imagenet", "known_labels", "read_training", "read_validation", "refuse_columns"),
]

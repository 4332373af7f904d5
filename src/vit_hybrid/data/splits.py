"""Names that speak of splits, of folders, files and data sets, and names that say nothing of what is in a picture."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

TRAIN, VAL, TEST = "train", "val", "test"
# The names of splits, in lower case, as folders, parts of file names and Hugging Face's datasets have them.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
# What is written together with them, as in trainset.
_ENDINGS = ("sets", "set", "data", "images", "imgs", "folder", "dir", "labels")
# Words that no class is called by, unless there is another word beside them.
_EMPTY_WORDS = frozenset(
    (
        *("images", "image", "imgs", "img", "jpeg", "jpg", "png", "data", "dataset", "datasets"),
        *("masks", "annotations", "annotation", "annots", "labels", "bboxes", "boxes", "trimaps", "xmls", "json"),
        *("set", "sets", "split", "splits", "fold", "folds", "part", "parts", "batch", "batches", "archive"),
        *("pred", "preds", "prediction", "predictions", "unlabeled", "unlabelled", "holdout", "extra", "submission"),
        *("folder", "folders", "dir", "files", "metadata", "meta"),
    )
)
# Of the pictures themselves, and of what is drawn over or said of them, in folders beside each other.
_PICTURES = frozenset(("images", "image", "imgs", "img"))
_MASKS = frozenset(
    (
        *("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "trimaps", "segmentation"),
        *("segmentations", "groundtruth", "gt", "overlays", "heatmaps"),
    )
)
# What the same pictures are called that somebody changed, all of them.
_VERSIONS = frozenset(
    (
        *("original", "originals", "raw", "augmented", "augmentation", "resized", "cropped", "scaled", "aligned"),
        *("processed", "preprocessed", "unprocessed", "color", "colour", "colored", "rgb", "gray", "grey"),
        *("grayscale", "greyscale", "segmented", "normalized", "enhanced", "denoised", "thumbnails", "thumbs"),
    )
)
# A word and a number; and words that numbers make classes of.
_COUNTED = re.compile(r"([^\W\d_]{2,})[\W_]*[0-9]+")
_COUNTED_CLASSES = frozenset(
    (
        "class",
        "cls",
        "label",
        "category",
        "cat",
        "type",
        "kind",
        "grade",
        "stage",
        "level",
        "group",
        "cluster",
        "species",
    )
)
# A word begins with a capital after a small letter, too: trainImages.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def split_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The one split that a name speaks of, and the other words in it.

    seg_train, training_set, TestImages, train-00000-of-00002 and labels_val do; (None, all words) if it speaks of none
    or of several.
    """
    words = [word.lower() for word in _WORD.findall(name)]
    splits: set[str] = set()
    others: list[str] = []
    for word in words:
        stem = next((word.removesuffix(end) for end in _ENDINGS if word.removesuffix(end) in SPLIT_NAMES), word)
        if stem in SPLIT_NAMES:
            splits.add(SPLIT_NAMES[stem])
            others += [word[len(stem) :]] if stem != word else []
        else:
            others.append(word)
    return (splits.pop(), tuple(others)) if len(splits) == 1 else (None, tuple(words))


def split_in_name(path: str) -> str | None:
    """The split that a file's name speaks of, as in train.parquet, train-00000-of-00002.parquet or labels_val.csv."""
    return split_of(os.path.splitext(os.path.basename(path))[0])[0]


def say_nothing(names: Sequence[str]) -> bool:
    """Whether none of the names of folders beside each other says what is in its pictures: images, train_2, fold_3.

    Words that all of them have do not count, as in seg_train and seg_pred, if others are left.
    """
    words = [{word.lower() for word in _WORD.findall(name)} for name in names]
    common = set.intersection(*words) if len(words) > 1 else set()
    return all(_is_empty(found) or (found - common and _is_empty(found - common)) for found in words)


def masks_beside_images(names: Sequence[str]) -> list[str]:
    """Of folders beside each other those of masks and the like, where another is called images."""
    words = {name: {word.lower() for word in _WORD.findall(name)} for name in names}
    if not any(found and found <= _PICTURES for found in words.values()):
        return []
    return [name for name, found in words.items() if found and found <= _MASKS]


def are_versions(names: Sequence[str]) -> bool:
    """Whether folders beside each other are called as versions of the same pictures: color beside grayscale."""
    words = [{word.lower() for word in _WORD.findall(name)} for name in names]
    return len(names) > 1 and all(found and found - _EMPTY_WORDS <= _VERSIONS for found in words)


def are_counted(names: Sequence[str]) -> bool:
    """Whether folders beside each other are called by one word and a number each, as those of patients and studies are:
    patient00001, patient00002. n01440764 and 00014 are classes, and so is what is called a class, a type or a grade."""
    stems = {found[1].lower() if (found := _COUNTED.fullmatch(name)) else "" for name in names}
    return len(names) > 1 and len(stems) == 1 and not stems & {"", *_COUNTED_CLASSES}


def _is_empty(words: set[str]) -> bool:
    return bool(words) and all(word in _EMPTY_WORDS or split_of(word)[0] is not None for word in words)


def split_folders(folders: Sequence[str]) -> tuple[Mapping[str, Sequence[str]], Sequence[Sequence[str]]]:
    """Which of the folders beside each other are splits.

    They are if all of them have names of splits, or if one is for training and another not, their names otherwise
    alike: seg_train beside seg_test; or if those beside the one for training say nothing. One that is called "train"
    among other classes is a class.

    Returns:
        The names of the folders by split; and, if names speak of the splits of several sets, these sets, and no splits.
    """
    sets: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name in folders:
        split, others = split_of(name)
        if split is not None:
            sets.setdefault(others, {}).setdefault(split, []).append(name)
    whole = {others: found for others, found in sets.items() if TRAIN in found and len(found) > 1}
    if () in whole:
        return whole[()], ()
    if len(whole) == 1:
        return next(iter(whole.values())), ()
    if whole:
        return {}, [[name for names in found.values() for name in names] for found in whole.values()]
    together: dict[str, list[str]] = {}
    for found in sets.values():
        for split, names in found.items():
            together.setdefault(split, []).extend(names)
    are_all = sum(map(len, together.values())) == len(folders)
    if TRAIN in together and not are_all and say_nothing(folders):
        return together, ()
    if are_all and (len(together) > 1 or len(folders) == 1 or set(sets) == {()}):
        return together, ()
    return {}, ()


__all__ = [
    *(
        "SPLIT_NAMES",
        "TEST",
        "TRAIN",
        "VAL",
        "are_counted",
        "are_versions",
        "masks_beside_images",
        "say_nothing",
        "split_folders",
    ),
    *("split_in_name", "split_of"),
]

"""Folders of class folders: the name of each folder is the label of all pictures in it."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..errors import escaped, shown
from .listing import BESIDE, HEIC, LINK, MASKS, OURS, Listing, Passed, look, walk
from .pictures import Files, Store
from .splits import masks_beside_images
from .targets import DataError, LabelColumn, listed


class Rows(NamedTuple):
    """What one reader found: pictures, their labels, where these stand, and notes on what it passed over."""

    store: Store
    column: LabelColumn
    origin: str
    notes: tuple[str, ...] = ()
    table: str = ""  # the table whose folder the paths of pictures are relative to


def listing(folder: str, passed: Passed) -> Listing:
    """What lies in `folder`.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return look(folder, passed)
    except OSError as error:
        raise DataError(f"{shown(folder)}: cannot read the folder: {error.strerror}") from error


def read_class_folders(folder: str, passed: Passed, empty_allowed: bool = False) -> Rows:
    """The pictures in the class folders of `folder`, each searched through all its levels.

    Args:
        folder: the folder with the class folders, of which links are followed.
        passed: where to count what is passed over.
        empty_allowed: whether a class folder without pictures is noted instead of refused.

    Raises:
        DataError: no class folders, one without pictures, or one that cannot be read.
    """
    found = listing(folder, passed)
    if not found.folders:
        inside = f", though {len(found.pictures):,} pictures" if found.pictures else ""
        raise DataError(
            f"{shown(folder)}: no class folders and no table of labels in it{inside}; expected a folder for each "
            f"class, such as {shown(os.path.join(folder, 'cat', '1.jpg'))}, or a parquet, CSV or JSON Lines file"
        )
    classes: list[str] = []
    paths: list[str] = []
    values: list[int] = []
    empty: list[str] = []
    for name in found.folders:
        below = pictures_below(folder, name, passed)
        if not below and passed.has(OURS, os.path.join(folder, name)):
            continue  # such as runs/ with the outputs of several
        if not below:
            empty.append(name)
        paths += below
        values += [len(classes)] * len(below)
        classes.append(name)
    heic = passed.counts().get(HEIC)
    hint = f"looked for names like *.jpg; {heic:,} are HEIC, which pip install 'vit-hybrid[heif]' reads" if heic else ""
    hint = hint or "looked for names like *.jpg"
    if not paths:
        raise DataError(f"{shown(folder)}: no pictures in its class folders {listed(classes)} ({hint})")
    if any(passed.has(LINK, os.path.join(folder, name)) for name in empty):
        hint += "; links to folders are not followed there"
    text = f"{shown(folder)}: no pictures in the class folder{'s' if len(empty) > 1 else ''} {listed(empty)}"
    if empty and not empty_allowed:
        raise DataError(f"{text} ({hint}); add some, remove it, or name the folder with the class folders")
    passed.add(BESIDE, folder, len(found.pictures))
    notes = [text] if empty else []
    if found.pictures:
        notes.append(
            f"{shown(folder)}: pictures beside the class folders belong to no class and are passed over: "
            f"{len(found.pictures)}"
        )
    store = Files.of(folder, paths)
    column = LabelColumn("class folder", values, store.name, tuple(map(escaped, classes)))
    return Rows(store, column, f"the folders in {shown(folder)}", tuple(notes))


def pictures_below(folder: str, name: str, passed: Passed) -> list[str]:
    """The paths of the pictures in a class folder, relative to the folder it lies in, sorted by their parts.

    Where it has images/ and masks/ in it, or the like, the masks are passed over.

    Args:
        folder: the folder with the class folders.
        name: the class folder, searched through all its levels.
        passed: where to count what is passed over.

    Raises:
        DataError: a folder in it cannot be read.
    """
    paths: list[str] = []
    top = os.path.join(folder, name)
    masks = [os.path.join(top, inner) for inner in masks_beside_images(listing(top, passed).folders)]
    for mask in masks:
        passed.add(MASKS, mask)
    for place, pictures in walk(top, passed):
        if any(place == mask or place.startswith(os.path.join(mask, "")) for mask in masks):
            continue
        if isinstance(pictures, OSError):
            raise DataError(f"{shown(place)}: cannot read the folder: {pictures.strerror}") from pictures
        start = place[len(folder) :].lstrip(os.sep)
        paths += [os.path.join(start, picture) for picture in pictures]
    return sorted(paths, key=lambda path: path.split(os.sep))

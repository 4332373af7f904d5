"""Lists of pictures that are held back from training, as files in which a line may stand for many pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

import numpy as np

from ..errors import one_line, shown
from ..files import unfetched
from .pictures import LabeledPictures
from .targets import Array, DataError, listed

# As in a shell: pictures/{1,5,7}.jpg are three pictures.
_ALTERNATIVES = re.compile(r"\{([^{}]*)\}")


def read_held_back(path: str | os.PathLike[str]) -> list[str]:
    """The names of pictures in a text file.

    A line holds a picture as a path below the data's location, with / between its parts, or several of them:
    `train/cat/{3,17}.jpg` are `train/cat/3.jpg` and `train/cat/17.jpg`. Lines that are empty or begin with # say
    nothing.

    Raises:
        DataError: The file cannot be read, or names no picture or one twice.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shown(path)}: the list of held-back pictures cannot be read: {one_line(error)}") from error
    why = unfetched(path)
    if why is not None:
        raise DataError(f"{shown(path)}: {why}")
    names = [name for line in lines if line and not line.startswith("#") for name in _expanded(line)]
    if not names:
        raise DataError(f"{shown(path)}: no pictures in it; expected lines such as train/cat/{{3,17}}.jpg")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise DataError(f"{shown(path)}: these pictures stand in it more than once: {listed(twice)}")
    return names


def held_back_mask(pictures: LabeledPictures, location: str, names: Collection[str]) -> Array:
    """(N,) bool, which pictures are among `names`.

    Args:
        pictures: Those of a location.
        location: Where they were read from.
        names: Paths below it, or names such as "train.parquet[17]".

    Raises:
        DataError: A name belongs to no picture.
    """
    missing = set(names)
    mask = np.zeros(len(pictures), np.bool_)
    start = location.rstrip(os.sep) + os.sep
    for index in range(len(pictures)):
        name = pictures.name(index).removeprefix(start).replace(os.sep, "/")
        if name in missing:
            mask[index] = True
            missing.discard(name)
    if missing:
        raise DataError(
            f"{shown(location)}: held_back lists pictures that are not among the training pictures: "
            f"{listed(sorted(missing))}; give the list that belongs to this data, or none"
        )
    return mask


def _expanded(line: str) -> list[str]:
    found = _ALTERNATIVES.search(line)
    if found is None:
        return [line]
    before, behind = line[: found.start()], line[found.end() :]
    return [name for part in found[1].split(",") for name in _expanded(before + part.strip() + behind)]


__all__ = ["held_back_mask", "read_held_back"]

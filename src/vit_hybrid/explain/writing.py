"""The files that an explained picture leaves: the map in colors, over the picture, and in numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.sources import STANDARD_INPUT
from ..files import MOST_NAME_BYTES, mark, whole_folder
from .explanation import Explanation, heat_png, overlay_png

# What a picture from standard input is called, which has no name.
NAME_OF_STANDARD_INPUT = "standard-input"
OVERLAY = "overlay"
# Of a label, in file names.
MOST_LABEL_CHARACTERS = 60


def names_of(paths: Sequence[str]) -> list[str]:
    """What the files of each picture begin with: its name without folders and ending, with a number where several
    pictures have one name. File systems may not tell large letters from small ones."""
    stems = [NAME_OF_STANDARD_INPUT if path == STANDARD_INPUT else _cut(Path(path).stem) for path in paths]
    taken, own = set[str](), {stem.casefold() for stem in stems}
    names = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in own):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _cut(stem: str) -> str:
    while len(os.fsencode(stem)) > MOST_NAME_BYTES // 2:
        stem = stem[:-1]  # a character at a time, of which half would be no text
    return stem


def write(explanations: Sequence[Explanation], folder: str | os.PathLike[str], name: str) -> list[dict[str, str]]:
    """Writes `NAME-METHOD.png`, `NAME-METHOD-overlay.png` and `NAME-METHOD.npz` for each map of one picture; of several
    `NAME-METHOD-LABEL` takes the place of `NAME-METHOD`. All are there, or none.

    The `.npz` has `tokens`, the map on the grid of the tokens (rows, columns); `picture`, the map at the picture's size
    (height, width); `map`, as it was made, (h, w); `seen`, what the model saw: left, top, right, bottom in pixels of
    the picture; `method`, `label` and `layer`, as text, empty where there is none.

    Args:
        explanations: Of one picture by one method.
        folder: Where to write; it is made where it is not there. Files of these names are replaced.
        name: What they begin with.

    Returns:
        For each map the paths of its files: `heat`, `overlay`, `numbers`.

    Raises:
        OSError: They cannot be written.
    """
    stems = [f"{name}-{one.method}{suffix}" for one, suffix in zip(explanations, _suffixes(explanations), strict=True)]
    files = [{"heat": f"{stem}.png", "overlay": f"{stem}-{OVERLAY}.png", "numbers": f"{stem}.npz"} for stem in stems]
    with whole_folder(folder, "fill") as unfinished:
        for one, written in zip(explanations, files, strict=True):
            (unfinished / written["heat"]).write_bytes(heat_png(one))
            (unfinished / written["overlay"]).write_bytes(overlay_png(one))
            np.savez_compressed(unfinished / written["numbers"], **numbers(one))
    mark(folder, [file for written in files for file in written.values()])
    return [{kind: os.path.join(folder, file) for kind, file in written.items()} for written in files]


def numbers(explanation: Explanation) -> dict[str, Any]:
    """What the `.npz` of a map has."""
    return {
        "tokens": explanation.tokens,
        "picture": explanation.at_picture(),
        "map": explanation.map,
        "seen": np.asarray(explanation.view.corners(), np.float32),
        "method": explanation.method,
        "label": explanation.label or "",
        "layer": explanation.layer or "",
    }


def _suffixes(explanations: Sequence[Explanation]) -> list[str]:
    """What tells the files of several labels apart."""
    if len(explanations) == 1:
        return [""]
    words = [re.sub(r"[^\w.]+", "-", one.label or "").strip("-.")[:MOST_LABEL_CHARACTERS] for one in explanations]
    # Labels that come to the same, or would be taken for another's overlay, go by their numbers.
    if len({word.casefold() for word in words}) < len(words) or any(
        word.endswith(OVERLAY) or not word for word in words
    ):
        words = [str(one.index) for one in explanations]
    return [f"-{word}" for word in words]


__all__ = ["names_of", "numbers", "write"]

"""Whether parts are as they were written, and pictures as they were read; of an output and a stream that are none."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import Place
from vit_hybrid.inference.shards import Shard
from vit_hybrid.predict.checking import SourceChanged, damaged_parts
from vit_hybrid.predict.rows import CSV, Columns, Row, encoded
from vit_hybrid.predict.work import packed, stamp_of

COLUMNS = Columns(ranked=1)
# By shard; the fourth could not be read.
NAMES, FAILED = ("ab", "cd", "e", "f"), "d"


class Pictures:
    """Those of all shards, by their names what each is like."""

    def __init__(self) -> None:
        self.stamps: dict[str, tuple[int, int] | None] = {name: (number, 7) for number, name in enumerate("abcdef")}
        self.gone = ""

    def read(self, first: Place, count: int) -> Iterator[Any]:
        for name in [*self.stamps][first.row : first.row + count]:
            if name == self.gone:
                raise SourceError("in/photos: 1 of 2 pictures are gone")
            yield SimpleNamespace(path=name, stamp=self.stamps[name])


@pytest.fixture
def pictures() -> Pictures:
    return Pictures()


def looked_at(pictures: Any, damaged: tuple[int, ...] = ()) -> tuple[set[int], list[int]]:
    """The shards whose parts are found damaged, and those of which is told that they are as they were."""
    before: Any = Pictures()
    shards, contents, stamps = [], [], {}
    for number, names in enumerate(NAMES):
        first = Place("0:0:folder:0:in/photos", len("".join(NAMES[:number])))
        shards.append(Shard(number, first, first._replace(row=first.row + len(names) - 1), len(names)))
        fine = {"labels": ["cat"], "probabilities": np.float32([0.75])}
        rows = [Row(name, error="empty") if name == FAILED else Row(name, 5, 4, **fine) for name in names]
        contents.append((number, None if number in damaged else encoded(rows, COLUMNS, CSV)))
        entries = before.read(first, len(names))
        stamps[number] = packed([0 if entry.path == FAILED else stamp_of(entry) for entry in entries])
    manifest = SimpleNamespace(stamps=lambda: stamps, state=SimpleNamespace(shards=shards))
    output: Any = SimpleNamespace(name="x.csv", form=CSV, contents=lambda: iter(contents), manifest=manifest)
    told: list[int] = []
    return damaged_parts(output, pictures, COLUMNS, told.append), told


def test_all_that_is_damaged_is_found_and_of_all_others_is_told(pictures: Pictures) -> None:
    assert looked_at(pictures) == (set(), [0, 1, 2, 3])
    assert looked_at(pictures, (0, 2)) == ({0, 2}, [1, 3])
    pictures.stamps["b"] = (9, 9)
    assert looked_at(pictures, (0, 2)) == ({0, 2}, [1, 3])  # of which the rows are made anew


def test_one_that_failed_may_be_another_now(pictures: Pictures) -> None:
    pictures.stamps[FAILED] = (9, 9)
    assert looked_at(pictures) == (set(), [0, 1, 2, 3])


def test_a_name_in_the_place_of_one_that_failed_is_told(pictures: Pictures) -> None:
    pictures.stamps = {"D" if name == FAILED else name: stamp for name, stamp in pictures.stamps.items()}
    with pytest.raises(SourceChanged, match=r"^x\.csv: d is no longer where it was in the order of the source\. "):
        looked_at(pictures)


def test_a_picture_that_is_another_is_named_with_what_to_do(pictures: Pictures) -> None:
    advice = r"Bring back what was there, or begin anew \(overwrite=True\)\.$"
    pictures.stamps["f"] = (9, 9)
    with pytest.raises(SourceChanged, match=rf"^x\.csv: f was written to since its row was written\. {advice}"):
        looked_at(pictures, (0,))
    pictures.stamps["f"] = None
    with pytest.raises(SourceChanged, match=rf"^x\.csv: f is gone since its row was written\. {advice}"):
        looked_at(pictures, (0,))
    pictures.stamps = {"A" if name == "a" else name: stamp for name, stamp in pictures.stamps.items()}
    why = "a is no longer where it was in the order of the source"
    with pytest.raises(SourceChanged, match=rf"^x\.csv: {why}\. {advice}"):
        looked_at(pictures)
    pictures.gone = "A"
    why = r"pictures are gone from in/photos \(in/photos: 1 of 2 pictures are gone\)"
    with pytest.raises(SourceChanged, match=rf"^x\.csv: {why}\. {advice}"):
        looked_at(pictures)

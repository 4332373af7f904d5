from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_index import write_index

from vit_hybrid.search import duplicates
from vit_hybrid.search.duplicates import Group, by_all_pairs
from vit_hybrid.search.index import Index, Neighbor, cosines

pytest.importorskip("pyarrow")


def angles(*degrees: float | None) -> list[np.ndarray | None]:
    """Vectors in a plane, of any length."""
    return [
        None if one is None else np.array([np.cos(np.radians(one)), np.sin(np.radians(one))]) * (1 + number)
        for number, one in enumerate(degrees)
    ]


def groups_of(rows: list[np.ndarray | None], threshold: float) -> list[list[int]]:
    """By the definition: from each row to all that can be reached over near ones."""
    near = {
        one: [
            other
            for other, row in enumerate(rows)
            if other != one and row is not None and rows[one] is not None and cosines(rows[one], row) >= threshold
        ]
        for one in range(len(rows))
    }
    groups, seen = [], set[int]()
    for start in near:
        reached, waiting = {start}, [start]
        while waiting:
            new = {*near[waiting.pop()]} - reached
            reached |= new
            waiting += new
        if len(reached) > 1 and start not in seen:
            groups.append(sorted(reached))
        seen |= reached
    return groups


def as_rows(groups: list[Group]) -> list[list[int]]:
    return [sorted([group.row, *(other.row for other in group.others)]) for group in groups]


def test_groups_by_hand(tmp_path: Path) -> None:
    rows = [*angles(0, 90, None, 9, 200, 18, 90, 203), np.zeros(2), np.zeros(2)]
    three, nine, eighteen = (pytest.approx(np.cos(np.radians(degrees))) for degrees in (3, 9, 18))
    assert by_all_pairs(Index(write_index(tmp_path / "x", rows)), float(np.cos(np.radians(10)))) == [
        Group(0, (Neighbor(3, nine), Neighbor(5, eighteen))),
        Group(1, (Neighbor(6, 1.0),)),
        Group(4, (Neighbor(7, three),)),
    ]


@pytest.mark.parametrize("threshold", [0.6, 0.97, 1.0])
def test_groups_are_those_of_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    monkeypatch.setattr(duplicates, "ROWS_A_BLOCK", 32)
    random = np.random.default_rng(3)
    centers = random.normal(size=(60, 6))
    rows = [*(centers[random.integers(0, 60, 200)] + random.normal(scale=0.12, size=(200, 6))).astype(np.float32)]
    for copy, original in ((17, 3), (150, 3), (199, 198)):
        rows[copy] = rows[original]
    rows[45] = 2 * rows[46]
    rows[44] = None
    found = by_all_pairs(Index(write_index(tmp_path / "x", rows)), threshold)
    assert as_rows(found) == groups_of(rows, threshold)
    assert found
    for group in found:
        similarities = [other.similarity for other in group.others]
        assert similarities == sorted(similarities, reverse=True)


def test_what_single_precision_cannot_decide_is_computed_in_double() -> None:
    vectors = np.random.default_rng(4).normal(size=(100, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert ((vectors @ vectors.T).diagonal() < 1).any()
    assert np.array_equal(duplicates._near(vectors, vectors, 1.0), np.eye(100, dtype=bool))
    alone = [duplicates._near(one[None], vectors, 1.0)[0] for one in vectors]  # as the last block may be
    assert np.array_equal(alone, np.eye(100, dtype=bool))


def test_a_group_is_known_by_its_first_place(tmp_path: Path) -> None:
    groups = duplicates.Groups(Index(write_index(tmp_path / "x", angles(0, 40, 80, 120, 160))))
    for pair in ((3, 4), (1, 3), (4, 2)):
        groups.join(*pair)
    assert [groups.root(place) for place in range(5)] == [0, 1, 1, 1, 1]
    groups.settle()
    assert groups.roots.tolist() == [0, 1, 1, 1, 1]


def test_a_thousand_pictures_of_one_thing_are_one_group(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    rows = [*(np.ones(4) + random.normal(scale=0.001, size=(5000, 4))).astype(np.float32)]
    [group] = by_all_pairs(Index(write_index(tmp_path / "x", rows, 5000)), 0.99)
    assert (group.row, len(group.others)) == (0, 4999)


def test_progress_ends_with_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    index = Index(write_index(tmp_path / "x", angles(1, 2, 3, 4, 5)))
    by_all_pairs(index, 0.9, lambda *done: told.append(done))
    assert told == [(1, 1)]
    told.clear()
    monkeypatch.setattr(duplicates, "ROWS_A_BLOCK", 2)
    by_all_pairs(index, 0.9, lambda *done: told.append(done))
    assert told == [(done, 6) for done in range(1, 7)]  # three blocks, each with itself and with those behind it

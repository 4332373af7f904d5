from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_index import write_index, write_part
from repository import REPOSITORY

from vit_hybrid.outputs.vectors import VectorsError
from vit_hybrid.search import approximate as approximate_module
from vit_hybrid.search.approximate import MANY_ROWS, Approximate
from vit_hybrid.search.duplicates import MOST_ROWS_OF_ALL_PAIRS, by_all_pairs
from vit_hybrid.search.index import Index, Neighbor
from vit_hybrid.search.laid import laying

pytest.importorskip("pyarrow")
pytest.importorskip("faiss")

CENTERS = 300


def around(number: int, seed: int = 1) -> list[np.ndarray | None]:
    """Rows around a few centers, as pictures of things are."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(size=(CENTERS, 16))
    noise = random.normal(scale=0.3, size=(number, 16))
    return [*(centers[random.integers(0, CENTERS, number)] + noise).astype(np.float32)]


@pytest.fixture(scope="module")
def rows() -> list[np.ndarray | None]:
    return [None, *around(5998), np.zeros(16, np.float32)]


@pytest.fixture(scope="module")
def index(rows: list[np.ndarray | None], tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index(write_index(tmp_path_factory.mktemp("x"), rows, part_rows=3000))


@pytest.fixture(scope="module")
def built(index: Index) -> Approximate:
    told: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate_module, "ROWS_A_BLOCK", 2000)
        found = Approximate.of(index, lambda *done: told.append(done))
    assert told == [(2000, 5999), (4000, 5999), (5999, 5999)]
    return found


def test_it_finds_what_its_recall_says(index: Index, built: Approximate) -> None:
    assert built.recall >= 0.98
    assert built.looked_at < built.cells == 5999 // approximate_module.TRAINING_ROWS_A_CELL
    queries = np.stack(around(300, seed=2))
    exact, found = index.nearest(queries, 10), built.nearest(queries, 10)
    shared = [len({*one} & {*other}) for one, other in zip(exact, found, strict=True)]
    assert sum(shared) / 3000 >= 0.97
    # Where the same rows are found, they are ranked and measured as the exact search does.
    assert sum(one == other for one, other in zip(exact, found, strict=True)) >= 250


def test_the_recall_is_told_of_queries_that_chose_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[list[set[int]]] = []
    recall = approximate_module._recall
    monkeypatch.setattr(approximate_module, "_recall", lambda one, other: measured.append(one) or recall(one, other))
    approximate_module._built(approximate_module._faiss(), index, None)
    *choosing, telling = measured
    assert len(choosing[0]) == len(telling) == approximate_module.RECALL_QUERIES // 2
    assert all(chosen == choosing[0] for chosen in choosing)
    assert telling != choosing[0]


def test_rows_find_themselves_and_errors_are_never_found(index: Index, built: Approximate) -> None:
    found = built.nearest(index.vectors[1:500], 5)
    assert [neighbors[0].row for neighbors in found] == [*range(1, 500)]
    assert 0 not in {neighbor.row for neighbors in found for neighbor in neighbors}
    assert len(built.nearest(index.vectors[1:2], 10_000)[0]) <= 5999


def test_it_lies_beside_the_index_with_its_recall(
    index: Index, built: Approximate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_again(*_: object) -> None:
        raise AssertionError("it was built again")

    monkeypatch.setattr(approximate_module, "_built", not_again)
    again = Approximate.of(Index(index.path))
    assert (again.recall, again.looked_at, again.cells) == (built.recall, built.looked_at, built.cells)
    queries = np.stack(around(20, seed=3))
    assert again.nearest(queries, 5) == built.nearest(queries, 5)


def test_it_says_when_it_is_stale_or_damaged_and_is_built_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = around(400)
    folder = write_index(tmp_path / "x", rows)
    Approximate.of(Index(folder))
    write_part(folder / "part-00004.parquet", rows[:1], ["new.jpg"], Index(folder).made)
    with caplog.at_level(logging.WARNING):
        assert Approximate.of(Index(folder)).nearest(rows[0][None], 2)[0][1].row == 400
        Approximate.of(Index(folder))
        [stale] = caplog.records
        place = folder / "_neighbors.faiss"
        assert "_neighbors.faiss: it is stale, of other rows than the index has now" in stale.getMessage()
        content = place.read_bytes()
        place.write_bytes(bytes(100) + content[100:])
        Approximate.of(Index(folder))
        assert "cannot be used and is built anew" in caplog.records[-1].getMessage()
        assert place.read_bytes() == content
        with laying(place, {"parts": Index(folder).state, "recall": 1.0}) as file:  # by another release
            file.write(content)
        Approximate.of(Index(folder))
    assert len(caplog.records) == 3
    assert place.read_bytes() == content


def test_where_it_cannot_be_written_it_is_used_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = around(50)
    folder = write_index(tmp_path / "x", rows)
    (folder / "_neighbors.faiss").mkdir()
    with caplog.at_level(logging.WARNING):
        assert Approximate.of(Index(folder)).nearest(rows[3][None], 1)[0][0].row == 3
    assert "_neighbors.faiss: it cannot be written, so it is built anew" in caplog.records[-1].getMessage()


def test_groups_are_those_of_all_pairs(index: Index, built: Approximate) -> None:
    told: list[tuple[int, int]] = []
    exact, found = by_all_pairs(index, 0.97), built.duplicates(0.97, lambda *done: told.append(done))
    assert (told[0], told[-1]) == ((128, 5998), (5998, 5998))  # those that have a vector which is not zero
    pairs = [{(group.row, other.row) for group in groups for other in group.others} for groups in (exact, found)]
    assert len(pairs[0]) > 50
    assert len(pairs[0] & pairs[1]) >= 0.97 * len(pairs[0])
    assert built._faiss.nprobe == max(1, built.looked_at // 8)  # near ones lie in the next few cells, or they are none


def test_what_8_bits_are_off_by_is_looked_at_too_and_the_threshold_is_exact(tmp_path: Path) -> None:
    asked: list[tuple[int, float]] = []

    class Faiss:
        nprobe = 0

        def range_search(self, queries: np.ndarray, least: float) -> tuple[np.ndarray, None, np.ndarray]:
            asked.append((self.nprobe, least))
            return 3 * np.arange(len(queries) + 1), None, np.tile(np.arange(3), len(queries))

    index = Index(write_index(tmp_path / "x", [*np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, -1]])]))
    [group] = Approximate(index, 64, 24, 1.0, Faiss()).duplicates(0.5)
    assert (group.row, group.others) == (0, (Neighbor(1, 0.5),))
    assert asked == [(3, pytest.approx(0.48))]
    Approximate(index, 64, 7, 1.0, Faiss()).duplicates(0.5)
    assert asked[1][0] == 1  # cell at least


def test_copies_are_found_without_looking(tmp_path: Path) -> None:
    rows = [*around(200), *around(200)]
    groups = Approximate.of(Index(write_index(tmp_path / "x", rows))).duplicates(1.0)
    assert [(group.row, [other.row for other in group.others]) for group in groups] == [
        (row, [row + 200]) for row in range(200)
    ]


def test_nothing_to_build_of(tmp_path: Path) -> None:
    with pytest.raises(VectorsError, match=r"/x: no row of it has a vector"):
        Approximate.of(Index(write_index(tmp_path / "x", [None])))


def test_without_faiss_the_extra_is_named(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(VectorsError, match=r"needs faiss-cpu, not installed here; pip install 'vit-hybrid\[search\]'"):
        Approximate.of(index)


def test_a_row_that_finds_itself_says_nothing_of_the_recall() -> None:
    found = [[Neighbor(3, 1.0), Neighbor(5, 0.9), Neighbor(4, 0.8)], [Neighbor(row, 0.5) for row in range(11)]]
    assert approximate_module._without(np.array([3, 99]), found) == [{5, 4}, {*range(10)}]


@pytest.mark.parametrize(("number", "cells"), [(300, 64), (600, 128), (60, 15)])
def test_cells_are_powers_of_two_near_four_times_the_root_where_there_are_rows_for_them(
    number: int, cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate_module, "TRAINING_ROWS_A_CELL", 4)
    assert Approximate.of(Index(write_index(tmp_path / "x", around(number)))).cells == cells


@pytest.mark.parametrize(("top_k", "asked"), [(3, 12), (30, 100)])
def test_a_few_times_as_many_are_ranked_as_are_asked_for(top_k: int, asked: int) -> None:
    """Not all that a large index has."""
    counts: list[int] = []

    class Faiss:
        ntotal = 100

        def search(self, queries: np.ndarray, count: int) -> tuple[None, np.ndarray]:
            counts.append(count)
            return None, np.array([[5, 0, -1]])

    index: Any = SimpleNamespace(as_queries=lambda queries: queries, ranked=lambda unit, rows, count: [*rows, count])
    found = Approximate(index, 9, 4, 1.0, Faiss()).nearest(np.zeros((1, 2)), top_k)
    assert (counts, found) == ([asked], [[5, 0, top_k]])


def test_pictures_that_8_bits_confuse_are_told_apart(tmp_path: Path) -> None:
    """Three of each thing, as like each other as shots of a series."""
    random = np.random.default_rng(7)
    things = random.normal(size=(100, 16))
    rows = [*(np.repeat(things, 3, axis=0) + random.normal(scale=0.003, size=(300, 16))).astype(np.float32)]
    found = Approximate.of(Index(write_index(tmp_path / "x", rows))).nearest(np.stack(rows), 1)
    assert [neighbors[0].row for neighbors in found] == [*range(300)]


def test_limits_are_those_that_people_read_of() -> None:
    text = " ".join((REPOSITORY / "docs" / "search.md").read_text(encoding="utf-8").split())
    assert f"compares all pairs of up to {MOST_ROWS_OF_ALL_PAIRS:,} pictures, and goes through the faiss" in text
    assert f"as many as find {100 * approximate_module.RECALL_AIMED_AT:g} % of the true ten nearest" in text
    assert MANY_ROWS == 10**6
    assert "below a million rows that takes less time than the model does" in text


def test_of_a_few_rows_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert Approximate.of(Index(write_index(tmp_path / "one", around(1)))).recall == 1.0  # of which none is missed
    rows = around(3)
    told: list[tuple[int, int]] = []
    built = Approximate.of(Index(write_index(tmp_path / "x", rows)), lambda *done: told.append(done))
    assert told == [(3, 3)]
    assert (built.cells, [[one.row for one in found] for found in built.nearest(np.stack(rows), 1)]) == (
        1,
        [[0], [1], [2]],
    )
    assert not any(capfd.readouterr())

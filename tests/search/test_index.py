from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_index import MADE, write_index, write_part

from vit_hybrid.outputs.vectors import VectorsError
from vit_hybrid.search import index as index_module
from vit_hybrid.search.index import Index, Neighbor, cosines
from vit_hybrid.search.laid import WORD, laying, note_of

pytest.importorskip("pyarrow")


def random_rows(number: int, dimension: int = 8, seed: int = 0) -> list[np.ndarray | None]:
    return [*np.random.default_rng(seed).normal(size=(number, dimension)).astype(np.float32)]


def expected_neighbors(rows: list[np.ndarray | None], query: np.ndarray, top_k: int) -> list[int]:
    """By the definition, one row after the other."""

    def similarity(row: np.ndarray) -> float:
        one, other = row.astype(np.float64), query.astype(np.float64)
        lengths = np.sqrt(one @ one) * np.sqrt(other @ other)
        return round(float(one @ other / lengths), 9) if lengths else 0.0

    there = [(-similarity(row), number) for number, row in enumerate(rows) if row is not None]
    return [number for _, number in sorted(there)[:top_k]]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_nearest_are_those_of_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(index_module, "ROWS_A_BLOCK", 64)
    monkeypatch.setattr(index_module, "QUERIES_A_BLOCK", 3)
    monkeypatch.setattr(index_module, "ROWS_RESCORED", 50)
    rows = [None if number % 9 == 0 else row.astype(dtype) for number, row in enumerate(random_rows(300))]
    index = Index(write_index(tmp_path / "x", rows, made=replace(MADE, dtype=dtype)))
    queries = np.stack(random_rows(8, seed=1)).astype(dtype)
    for top_k in (1, 10, 500):
        for query, found in zip(queries, index.nearest(queries, top_k), strict=True):
            assert [neighbor.row for neighbor in found] == expected_neighbors(rows, query, top_k)
            assert [neighbor.similarity for neighbor in found] == sorted(
                (neighbor.similarity for neighbor in found), reverse=True
            )


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.0]), min_size=3, max_size=3), min_size=1, max_size=20),
    top_k=st.integers(1, 5),
)
def test_equal_ones_come_in_their_order_and_zeros_are_like_none(
    tmp_path_factory: pytest.TempPathFactory, values: list[list[float]], top_k: int
) -> None:
    rows = [np.array(row, np.float32) for row in values]
    index = Index(write_index(tmp_path_factory.mktemp("x"), rows, part_rows=4))
    for query, found in zip(rows, index.nearest(np.stack(rows), top_k), strict=True):
        assert [neighbor.row for neighbor in found] == expected_neighbors([*rows], query, top_k)
        if not query.any():
            assert {neighbor.similarity for neighbor in found} == {0.0}


def test_equal_ones_come_in_their_order_though_float32_tells_them_apart(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=256).astype(np.float32)
    rows = [random.permutation(values) for _ in range(100)]  # all alike to a query of ones, but for rounding
    index = Index(write_index(tmp_path / "x", rows))
    [found] = index.nearest(np.ones((1, 256), np.float32), 3)
    assert [neighbor.row for neighbor in found] == [0, 1, 2]


def test_what_is_laid_beside_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size, (tmp_path / "x").exists())))
    note = {"parts": 3}
    with laying(tmp_path / "x", note) as file:
        file.write(b"content")
        note["rows"] = 7  # as is known only then
    assert synced == [((tmp_path / "x").stat().st_size, False)]
    assert note_of(tmp_path / "x") == {"parts": 3, "rows": 7}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_finds_itself_at_one_though_it_was_rounded(tmp_path: Path, dtype: str) -> None:
    rows = random_rows(200, 64)
    index = Index(write_index(tmp_path / "x", rows, made=replace(MADE, dtype=dtype)))
    found = index.nearest(np.stack(rows), 1)
    assert [one for [one] in found] == [Neighbor(row, 1.0) for row in range(200)]


def test_vectors_are_laid_beside_the_index_once_and_anew_when_parts_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [None, *random_rows(249)]
    folder = write_index(tmp_path / "x", rows)
    told: list[tuple[int, int]] = []
    Index(folder, lambda *done: told.append(done))
    assert told == [(100, 250), (200, 250), (250, 250)]
    laid = np.load(folder / "_vectors.npy", mmap_mode="r")  # what any reader of such files sees
    np.testing.assert_allclose(laid[1:], np.stack(rows[1:]) / np.linalg.norm(np.stack(rows[1:]), axis=1)[:, None], 1e-6)
    assert np.isnan(laid[0]).all()

    def no_part(*_: object) -> None:
        raise AssertionError("a part was read")

    with monkeypatch.context() as patch:
        patch.setattr(index_module, "Part", no_part)
        assert isinstance(Index(folder).vectors.base, np.memmap)

    write_part(folder / "part-00001.parquet", rows[100:150], [f"new {row}" for row in range(50)], Index(folder).made)
    index = Index(folder)
    assert len(index) == len(np.load(folder / "_vectors.npy", mmap_mode="r")) == 200
    assert index.names([100, 99, 150, 100]) == ["new 0", "99.jpg", "200.jpg", "new 0"]
    (folder / "part-00000.parquet").unlink()
    assert len(Index(folder)) == 100
    damaged = (folder / "_vectors.npy").read_bytes()
    (folder / "_vectors.npy").write_bytes(damaged[:-20])
    assert len(Index(folder)) == 100
    assert (folder / "_vectors.npy").read_bytes() == damaged
    assert sorted(os.listdir(folder)) == ["_vectors.npy", "part-00001.parquet", "part-00002.parquet"]
    assert not caplog.records


def test_an_index_written_anew_with_as_many_bytes_is_another(tmp_path: Path) -> None:
    write_index(tmp_path / "x", random_rows(9))
    before = Index(tmp_path / "x").state
    assert Index(tmp_path / "x").state == before
    part = tmp_path / "x" / "part-00000.parquet"
    os.utime(part, (1, 1))
    assert (now := Index(tmp_path / "x").state) != before
    write_index(tmp_path / "x", random_rows(10))
    os.utime(part, (1, 1))  # as a copy keeps it
    assert Index(tmp_path / "x").state != now
    assert len(Index(tmp_path / "x")) == 10


def test_an_array_of_other_rows_than_its_note_says_is_not_searched(tmp_path: Path) -> None:
    rows = random_rows(9)
    folder = write_index(tmp_path / "x", rows)
    note = note_of(folder / "_vectors.npy") if Index(folder) else None
    assert note is not None
    for other in (np.zeros((8, 8), np.float32), np.zeros((9, 7), np.float32), np.zeros((9, 8))):
        with laying(folder / "_vectors.npy", note) as file:
            np.save(file, other)
        assert Index(folder).nearest(rows[3][None], 1) == [[Neighbor(3, 1.0)]]


@pytest.mark.parametrize("kept", [[], ["rows"], ["made"], ["made", "rows"]])
def test_a_note_of_another_release_is_not_trusted(tmp_path: Path, kept: list[str]) -> None:
    rows = random_rows(9)
    place = write_index(tmp_path / "x", rows) / "_vectors.npy"
    state = Index(tmp_path / "x").state
    note = {"made": {"model": "m", "of later": 1}, "rows": [9]}
    with laying(place, {"parts": state, **{name: note[name] for name in kept}}) as file:
        np.save(file, np.zeros((9, 8), np.float32))
    assert Index(tmp_path / "x").nearest(rows[3][None], 1) == [[Neighbor(3, 1.0)]]


def test_where_another_lays_its_own_there_meanwhile_what_was_read_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(9)
    folder = write_index(tmp_path / "x", rows, part_rows=5)
    monkeypatch.setattr(Index, "_mapped", lambda *_: None)
    assert Index(folder).nearest(rows[7][None], 1) == [[Neighbor(7, 1.0)]]


@pytest.mark.parametrize(
    ("text", "length", "word", "note"),
    [
        (b'{"a": 1}', 8, WORD, {"a": 1}),
        (b'{"a": 1}', 8, b"another's note!\n", None),
        (b'{"a": 1}', 2**28 + 1, WORD, None),
        (b'{"a": 1}', 7, WORD, None),
        (b'[["a"]]', 7, WORD, None),
        (b"", 0, b"", None),
    ],
)
def test_a_note_is_behind_what_it_is_of(
    tmp_path: Path, text: bytes, length: int, word: bytes, note: dict[str, int] | None
) -> None:
    (tmp_path / "x").write_bytes(b"content" + text + length.to_bytes(8, "little") + word)
    assert note_of(tmp_path / "x") == note
    assert note_of(tmp_path / "gone") is None


def test_an_index_that_changes_while_it_is_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_index(tmp_path / "x", random_rows(30))
    batches = index_module.Part.batches
    monkeypatch.setattr(index_module.Part, "batches", lambda part: islice(batches(part, 7), 4))
    with pytest.raises(VectorsError, match=r"part-00000\.parquet: it changed while it was read; try again"):
        Index(folder)
    assert not (folder / "_vectors.npy").exists()


def test_names_of_rows_at_the_ends_of_row_groups(tmp_path: Path) -> None:
    index = Index(write_index(tmp_path / "x", random_rows(30), part_rows=15))  # row groups of seven
    for rows in ([6], [7], [14], [15], [6, 7, 13, 14, 15, 21, 22, 29], [29, 0, 14, 7]):
        assert index.names(rows) == [f"{row}.jpg" for row in rows]


def test_a_copy_of_an_index_is_laid_anew(tmp_path: Path) -> None:
    folder = write_index(tmp_path / "x", random_rows(5))
    Index(folder)
    shutil.copytree(folder, tmp_path / "y", copy_function=shutil.copy)
    assert len(Index(tmp_path / "y")) == 5


def test_an_index_that_cannot_be_written_to_is_searched_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = random_rows(200, 8192)
    folder = write_index(tmp_path / "x", rows)
    (folder / "_vectors.npy").mkdir()  # a file cannot take its place, not even root's
    told: list[tuple[int, int]] = []
    with caplog.at_level(logging.WARNING):
        [[found]] = Index(folder, lambda *done: told.append(done)).nearest(rows[7][None], 1)
    assert found == Neighbor(7, 1.0)
    assert told == 2 * [(100, 200), (200, 200)]  # to lay them there, and to hold them
    [record] = caplog.records
    said = "cannot be laid beside it, so they are read anew at each search and held in memory (7 MB): "
    assert said in record.getMessage()


def test_one_file_is_an_index_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(tmp_path, random_rows(150))
    index = Index(tmp_path / "part-00001.parquet")
    assert (len(index), index.names([0])) == (50, ["100.jpg"])
    assert (tmp_path / "_part-00001.vectors.npy").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = Index("~/part-00000.parquet")
    assert (len(at_home), at_home.path) == (100, tmp_path / "part-00000.parquet")
    assert len(Index(tmp_path)) == 150


def test_what_git_lfs_did_not_fetch_and_what_never_ends(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "part-00000.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n")
    with pytest.raises(VectorsError, match=r"part-00000.parquet: is a Git LFS pointer, which only stands for the file"):
        Index(tmp_path / "x")
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(VectorsError, match=r"pipe.parquet: this is a pipe, socket or device; expected the folder"):
        Index(tmp_path / "pipe.parquet")


def test_the_name_of_an_index_may_be_no_utf_8(tmp_path: Path) -> None:
    rows = random_rows(30)
    write_index(tmp_path / "there", rows)
    place = Path((tmp_path / "there").rename(tmp_path / os.fsdecode(b"index\xe9")))
    for _ in range(2):  # the second time it is mapped
        index = Index(place)
        assert index.nearest(rows[3][None], 1) == [[Neighbor(3, 1.0)]]
        assert index.names([3, 29]) == ["3.jpg", "29.jpg"]
        assert index.rows_called("7.jpg").tolist() == [7]


def test_nothing_to_find(tmp_path: Path) -> None:
    index = Index(write_index(tmp_path / "x", [None, None], made=replace(MADE, dimension=3)))
    assert index.nearest(np.ones((2, 3), np.float32), 5) == [[], []]
    opposite = Index(write_index(tmp_path / "y", [None, None, -np.ones(3)]))  # which is nearer than none
    assert opposite.nearest(np.ones((1, 3), np.float32), 1) == [[Neighbor(2, -1.0)]]


def test_values_that_are_no_numbers_are_no_vectors(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    made = replace(MADE, dimension=2)
    column = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, np.nan, 1, np.inf, 0], pa.float32()), 2)
    table = pa.table({"path": ["a", "b", "c"], "embedding": column}).replace_schema_metadata(made.metadata())
    pq.write_table(table, tmp_path / "x.parquet")
    index = Index(tmp_path)
    assert [[one.row for one in found] for found in index.nearest(np.ones((1, 2)), 3)] == [[0]]
    assert np.isnan(index.vectors[1:]).all()


def test_parts_of_different_models_are_no_index(tmp_path: Path) -> None:
    write_index(tmp_path, random_rows(5))
    other = replace(MADE, model="other", weights_sha256="ef" * 32, dimension=8)
    write_part(tmp_path / "part-00001.parquet", random_rows(5), list("abcde"), other)
    with pytest.raises(
        VectorsError, match=r"part-00001.parquet: it .* same index as part-00000.parquet: .* model other"
    ):
        Index(tmp_path)
    assert not (tmp_path / "_vectors.npy").exists()


def test_queries_of_no_use_are_refused(tmp_path: Path) -> None:
    index = Index(write_index(tmp_path / "x", random_rows(5), made=replace(MADE, dtype="float16")))
    for query, shape in ((np.ones((1, 4)), r"\(1, 4\)"), (np.ones(8), r"\(8,\)")):
        with pytest.raises(VectorsError, match=rf"shape {shape}; expected \(N, 8\)"):
            index.nearest(query, 1)
    for queries in (np.full((1, 8), 1e6), np.stack([np.ones(8), np.full(8, 1e6)])):
        with pytest.raises(VectorsError, match="not finite numbers in float16"):
            index.nearest(queries, 1)


def test_cosines_by_hand() -> None:
    np.testing.assert_array_equal(cosines(np.array([[3, 4], [0, 0], [-3, -4]]), np.array([4, 3])), [0.96, 0, -0.96])
    assert not np.signbit(cosines(np.array([[-1e-12, 1.0]]), np.array([1.0, 0.0])))  # which would be shown as -0.0
    assert np.abs(cosines(np.full((9, 3), 0.1), np.full((9, 3), 0.1))).max() <= 1


def test_of_equal_similarity_the_order_of_the_rows_decides_whatever_order_they_came_in(tmp_path: Path) -> None:
    same, other = np.array([1, 2, 2], np.float32), np.array([2, 2, 1], np.float32)
    index = Index(write_index(tmp_path / "x", [same, other, same, same, other], part_rows=2))
    found = index.ranked(same, np.array([4, 3, 1, 0, 2]), 4)
    assert [one.row for one in found] == [0, 2, 3, 1]
    with_errors = Index(write_index(tmp_path / "y", [None, same, None, other]))
    assert [one.row for one in with_errors.ranked(same, np.arange(4), 4)] == [1, 3]
    assert index.rows_called("3.jpg").tolist() == [3]

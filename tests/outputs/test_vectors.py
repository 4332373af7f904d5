from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.outputs import vectors
from vit_hybrid.outputs.vectors import Making, Part, VectorsError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MADE = Making("some/model", "ab" * 32, vectors.fingerprint(Preprocessing()), 4)


def write(path: Path, made: Making, rows: list[np.ndarray | None]) -> Path:
    table = pa.table(
        [pa.array([f"{row}.jpg" for row in range(len(rows))]), vectors.column(rows, made)], schema=vectors.schema(made)
    )
    pq.write_table(table, path, row_group_size=3)
    return path


@pytest.mark.parametrize("dtype", vectors.DTYPES)
def test_vectors_come_back_as_they_were_written(tmp_path: Path, dtype: vectors.Dtype) -> None:
    made = replace(MADE, dtype=dtype)
    random = np.random.default_rng(0)
    rows = [None if row in (0, 4, 8) else random.normal(size=4).astype(np.float32) for row in range(9)]
    odd = Part(write(tmp_path / "part.parquet", made, rows).rename(tmp_path / "\udce9.parquet"))
    assert odd.names([8]) == ["8.jpg"]
    odd.close()
    part = Part(write(tmp_path / "part.parquet", made, rows))
    assert (part.made, part.rows) == (made, 9)
    names, values, there = zip(*part.batches(2), strict=True)
    assert [name for batch in names for name in batch] == [f"{row}.jpg" for row in range(9)]
    found, is_there = np.concatenate(values), np.concatenate(there)
    assert found.dtype == dtype
    np.testing.assert_array_equal(is_there, [row is not None for row in rows])
    expected = np.stack([np.zeros(4) if row is None else row for row in rows]).astype(dtype)
    np.testing.assert_array_equal(found, expected)
    assert part.names([7, 0, 7, 3]) == ["7.jpg", "0.jpg", "7.jpg", "3.jpg"]
    assert (part.rows_called("7.jpg"), part.rows_called("9.jpg")) == ([7], [])
    with pytest.raises(VectorsError, match=r"part\.parquet: it has 9 rows, fewer than a moment ago; try again"):
        part.names([3, 9])
    part.close()


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda part: part.names([4]), id="names"),
        pytest.param(lambda part: part.rows_called("4.jpg"), id="rows"),
        pytest.param(lambda part: list(part.batches()), id="batches"),
    ],
)
def test_damage_between_its_ends_is_told_by_whoever_meets_it(tmp_path: Path, read: Callable[[Part], Any]) -> None:
    path = write(tmp_path / "part.parquet", MADE, [np.ones(4, np.float32)] * 9)
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")  # of the metadata, which stay
    path.write_bytes(content[:4] + bytes(len(content) - length - 12) + content[-length - 8 :])
    part = Part(path)
    with pytest.raises(VectorsError, match=r"part\.parquet: not a parquet file, or damaged \("):
        read(part)
    part.close()


def test_other_readers_see_the_rows_and_what_they_were_made_with(tmp_path: Path) -> None:
    write(tmp_path / "part-0.parquet", MADE, [np.ones(4, np.float32)])
    write(tmp_path / "part-1.parquet", MADE, [None])
    (tmp_path / "_manifest.json").write_text("{}")
    table = pq.read_table(tmp_path)
    assert table.to_pylist() == [{"path": "0.jpg", "embedding": [1.0] * 4}, {"path": "0.jpg", "embedding": None}]
    assert table.schema.metadata[b"vit_hybrid.weights_sha256"] == b"ab" * 32
    assert [path.name for path in vectors.parts(tmp_path)] == ["part-0.parquet", "part-1.parquet"]
    assert vectors.parts(tmp_path / "part-1.parquet") == [tmp_path / "part-1.parquet"]


def test_the_rows_of_a_folder_are_its_parquet_files_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.parquet", "a.parquet", ".c.parquet", "_d.parquet", "e.parquet.tmp", "f.PARQUET"):
        (tmp_path / name).touch()
    (tmp_path / "g.parquet").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for place in (tmp_path, f"~/{tmp_path.name}"):
        assert vectors.parts(place) == [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    os.mkfifo(tmp_path / "h.parquet")
    with pytest.raises(VectorsError, match=r"h\.parquet: this is a pipe, socket or device; expected the folder"):
        vectors.parts(tmp_path / "h.parquet")


def test_pictures_of_shards_are_called_by_their_keys_and_some_by_nothing(tmp_path: Path) -> None:
    vector = vectors.column([np.ones(4), np.zeros(4)], MADE)
    keys = pa.array(["one", None])
    for names in ({"key": keys}, {"key": pa.array(["x", "y"]), "path": keys}):
        pq.write_table(
            pa.table({**names, "embedding": vector}).replace_schema_metadata(MADE.metadata()), tmp_path / "x.parquet"
        )
        part = Part(tmp_path / "x.parquet")
        assert part.name_column == [*names][-1]
        assert part.names([1, 0]) == ["", "one"]
        assert [found for found, *_ in part.batches()] == [["one", ""]]
        assert part.rows_called("one") == [0]
        part.close()


def test_columns_stand_between_the_path_and_the_vector_and_behind_it() -> None:
    found = vectors.schema(MADE, [pa.field("label", pa.string())], [pa.field("error", pa.string())])
    assert found.names == ["path", "label", "embedding", "error"]
    assert found.metadata == MADE.metadata()
    odd = Making.from_metadata(replace(MADE, model="m\udce9").metadata(), "x.parquet")
    assert odd == replace(MADE, model="m\\udce9")


def test_normalized_vectors_have_length_one_and_zeros_stay() -> None:
    made = replace(MADE, normalization="l2")
    rows = [np.array([3e30, 0, 4e30, 0], np.float32), np.zeros(4, np.float32), np.array([0, 3e-30, 0, 4e-30])]
    assert vectors.column(rows, made).to_pylist() == [
        pytest.approx([0.6, 0, 0.8, 0]),
        [0, 0, 0, 0],
        pytest.approx([0, 0.6, 0, 0.8]),
    ]
    assert np.isnan(vectors.normalized(np.array([[np.inf, 1.0], [np.nan, 1.0]]))[:, 0]).all()


def test_a_vector_that_its_column_cannot_hold_is_refused() -> None:
    with pytest.raises(VectorsError, match="float16 cannot hold; take float32"):
        vectors.column([np.full(4, 70_000.0)], replace(MADE, dtype="float16"))
    for number, dtype in ((70_000.0, "float16"), (np.nan, "float32"), (-np.inf, "float32")):  # of others that it can
        made: Any = replace(MADE, dtype=dtype)  # type: ignore[arg-type]
        with pytest.raises(VectorsError, match=f"a vector has values that {dtype} cannot hold"):
            vectors.column([np.ones(4), np.array([0.0, 1.0, number, 1.0])], made)
    with pytest.raises(VectorsError, match=r"shape \(3,\); expected \(4,\)"):
        vectors.column([np.ones(3)], MADE)


def test_a_fingerprint_is_of_what_is_done() -> None:
    usual = Preprocessing(size=384)
    assert vectors.fingerprint(usual) == vectors.fingerprint(Preprocessing.from_dict({"size": 384}))
    assert vectors.fingerprint(usual) != vectors.fingerprint(replace(usual, size=256))
    without = replace(usual, do_normalize=False)
    assert vectors.fingerprint(without) == vectors.fingerprint(replace(without, image_mean=0.5))
    assert vectors.fingerprint(without) != vectors.fingerprint(usual)
    for step, of_it in (
        ("do_resize", {"size": 100, "resample": 2}),
        ("do_center_crop", {"crop_size": (9, 9)}),
        ("do_rescale", {"rescale_factor": 0.5}),
        ("do_normalize", {"image_mean": 0.5, "image_std": 0.25}),
    ):
        without = replace(usual, **{step: False})  # type: ignore[arg-type]
        for name, value in of_it.items():
            other: dict[str, Any] = {name: value}
            assert vectors.fingerprint(replace(without, **other)) == vectors.fingerprint(without)
            assert vectors.fingerprint(replace(usual, **other)) != vectors.fingerprint(usual)


def test_indexes_of_before_have_the_same_fingerprint() -> None:
    said = (
        '{"crop_size": [224, 224], "do_center_crop": true, "do_convert_rgb": true, "do_normalize": false, '
        '"do_rescale": true, "do_resize": true, "resample": 3, "rescale_factor": 0.00392156862745098, '
        '"size": [384, 256]}'
    )
    expected = hashlib.sha256(said.encode()).hexdigest()
    assert vectors.fingerprint(Preprocessing(size=(384, 256), do_normalize=False)) == expected


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "part.parquet", MADE, [np.ones(4, np.float32)])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for ask in (lambda: Part(path), lambda: vectors.schema(MADE), lambda: vectors.column([None], MADE)):
        with pytest.raises(VectorsError, match=r"reading and writing vectors .*pyarrow.*'vit-hybrid\[search\]'"):
            ask()


def test_what_differs_is_named() -> None:
    assert MADE.difference(replace(MADE, model="elsewhere/model", dtype="float16", normalization="l2")) is None
    other = replace(MADE, model="other", weights_sha256="cd" * 32)
    assert MADE.difference(other) == "model some/model (weights abababababab) and not other (weights cdcdcdcdcdcd)"
    nameless = replace(MADE, model="other", weights_sha256="")
    assert MADE.difference(nameless) == "model some/model (weights abababababab) and not other (weights unknown)"
    assert (
        MADE.difference(replace(MADE, model="b", preprocessing="x")) == "another preprocessing of pictures than b has"
    )
    assert MADE.difference(replace(MADE, dimension=8)) == "dimension 4 and not 8"
    assert MADE.difference(replace(MADE, layer="elsewhere")) == f"layer {MADE.layer} and not elsewhere"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_are_stored_in_their_dtype_and_of_length_one_where_that_is_said(dtype: Any) -> None:
    given = np.array([[3, 0, 4, 0], [0, 0, 0, 0]], np.float32)
    for normalization, expected in (("none", given), ("l2", given / 5)):
        found = vectors.stored(given, replace(MADE, dtype=dtype, normalization=normalization))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected.astype(dtype))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("absent", "absent: there is no such folder or file; expected the folder of parquet files"),
        ("empty", "empty: there is no parquet file in this folder"),
        ("x.csv", "x.csv: this is no parquet file"),
        ("damaged.parquet", "damaged.parquet: not a parquet file, or damaged"),
        (
            "foreign.parquet",
            r"do not say what model its vectors are of \(vit_hybrid.model, .* missing, \.\.\.\)",
        ),
        ("nameless.parquet", "there is no column path or key; it has .'embedding'."),
        ("cast.parquet", "the column embedding is fixed_size_list<.*double.*, its metadata say .*float"),
        ("later.parquet", "vit_hybrid.dtype is int8; expected float32 or float16"),
        ("lengths.parquet", "vit_hybrid.normalization is l1; expected none or l2"),
        ("older.parquet", r"\(vit_hybrid.dtype, vit_hybrid.normalization, vit_hybrid.layer missing\); expected what"),
        ("pointer.parquet", r"pointer\.parquet: is a Git LFS pointer"),
        ("empty.parquet", "there is no column embedding; it has .'path'."),
        ("wide.parquet", r"the column embedding is .*\[4\], its metadata say .*\[5\]"),
        ("list.parquet", r"the column embedding is list<.*float>, its metadata say .*\[4\]"),
        ("odd.parquet", "vit_hybrid.dimension is four; expected 1 or more"),
        ("none.parquet", "vit_hybrid.dimension is 0; expected 1 or more"),
    ],
)
def test_what_is_no_index_is_said_to_be_none(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("path\n")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "pointer.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    column = vectors.column([np.ones(4)], MADE)
    doubles = column.cast(pa.list_(pa.float64(), 4))
    paths = pa.array(["a.jpg"])
    for file, columns, metadata in (
        ("foreign", {"path": paths, "embedding": column}, {}),
        ("nameless", {"embedding": column}, MADE.metadata()),
        ("cast", {"path": paths, "embedding": doubles}, MADE.metadata()),
        ("later", {"path": paths, "embedding": column}, {**MADE.metadata(), b"vit_hybrid.dtype": b"int8"}),
        ("lengths", {"path": paths, "embedding": column}, {**MADE.metadata(), b"vit_hybrid.normalization": b"l1"}),
        ("older", {"path": paths, "embedding": column}, dict([*MADE.metadata().items()][:-3])),
        ("empty", {"path": paths}, MADE.metadata()),
        ("wide", {"path": paths, "embedding": column}, {**MADE.metadata(), b"vit_hybrid.dimension": b"5"}),
        ("list", {"path": paths, "embedding": column.cast(pa.list_(pa.float32()))}, MADE.metadata()),
        ("odd", {"path": paths, "embedding": column}, {**MADE.metadata(), b"vit_hybrid.dimension": b"four"}),
        ("none", {"path": paths, "embedding": column}, {**MADE.metadata(), b"vit_hybrid.dimension": b"0"}),
    ):
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / f"{file}.parquet")
    with pytest.raises(VectorsError, match=expected) as told:
        [Part(path) for path in vectors.parts(tmp_path / name)]
    assert len(str(told.value)) <= 500
    assert "\n" not in str(told.value)

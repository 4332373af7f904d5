"""Parquet files, and folders of them."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labeled_files import NAMED, encoded, levels_of, parquet, pictures_beside, put, refused, structs

from vit_hybrid.data import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    find_unreadable,
    read_labeled,
    read_splits,
)
from vit_hybrid.data.columns import ColumnChoice
from vit_hybrid.data.parquet import InFile, _blobs
from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import open_stream
from vit_hybrid.images.reading import ImageReadError


@pytest.mark.parametrize("row_group_size", [None, 2])
def test_parquet_with_class_names(tmp_path: Path, row_group_size: int | None) -> None:
    columns = {"image": structs(5), "label": [2, 0, 0, 1, 2]}
    path = parquet(tmp_path / "train.parquet", columns, NAMED, row_group_size)
    pictures = read_labeled(path)
    assert (pictures.problem_type, pictures.labels) == (SINGLE_LABEL, ("cat", "dog", "eel"))
    assert pictures.targets.tolist() == [2, 0, 0, 1, 2]
    assert levels_of(pictures) == [0, 1, 2, 3, 4]
    assert pictures.name(4) == "train.parquet[4]"
    chosen = pickle.loads(pickle.dumps(pictures.select([4, 1])))
    assert levels_of(chosen) == [4, 1]
    assert [chosen.name(0), chosen.name(1)] == ["train.parquet[4]", "train.parquet[1]"]
    again = pickle.loads(pickle.dumps(chosen.select([1])))  # of those that were chosen
    assert (levels_of(again), again.name(0), again.targets.tolist()) == ([1], "train.parquet[1]", [0])


def test_parquet_without_class_names(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": [encoded(0), encoded(1)], "label": [1, 0]})
    pictures = read_labeled(path)
    assert pictures.labels == ("0", "1")
    assert levels_of(pictures) == [0, 1]
    assert pictures.with_labels(["no", "yes", "maybe"]).targets.tolist() == [1, 0]
    named = read_labeled(path, labels=["no", "yes"])
    assert (named.labels, named.targets.tolist()) == (("no", "yes"), [1, 0])
    assert "not among the 1 expected ones (no): 0, 1" in refused(read_labeled, path, labels=["no"])
    assert "more than once: no" in refused(read_labeled, path, labels=["no", "no"])


NO_NAMES = ("[{}]", '{"label": 7}', '{"label": []}', '{"label": [7, 8]}', '{"label": {"_type": "ClassLabel"}}')


@pytest.mark.parametrize(
    "metadata",
    [b"[1]", b"{", b'{"info": 7}', *(b'{"info": {"features": %b}}' % features.encode() for features in NO_NAMES)],
)
def test_metadata_of_another_shape_say_nothing_of_columns(metadata: bytes, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": structs(2), "label": ["b", "a"]}).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_labeled(tmp_path / "a.parquet").targets.tolist() == [1, 0]
    unnamed = {"label": {"_type": "ClassLabel", "names": []}}
    path = parquet(tmp_path / "a.parquet", {"image": structs(2), "label": [7, 3]}, unnamed)
    assert read_labeled(path).labels == ("3", "7")


def test_parquet_with_paths_text_and_lists(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    text = read_labeled(parquet(tmp_path / "a.parquet", {"path": names, "label": ["b", "a"]}))
    assert (text.labels, levels_of(text), text.name(0)) == (("a", "b"), [0, 1], str(tmp_path / names[0]))
    columns = {"scan": names, "note": ["x", "y"], "label": ["b", "a"]}  # of which the file says what is a picture
    text = read_labeled(parquet(tmp_path / "a.parquet", columns, {"scan": {"_type": "Image"}}))
    assert (levels_of(text), text.targets.tolist()) == ([0, 1], [1, 0])
    lists = read_labeled(parquet(tmp_path / "b.parquet", {"path": names, "labels": [["b", "a"], []]}))
    assert (lists.problem_type, lists.targets.tolist()) == (MULTI_LABEL, [[1, 1], [0, 0]])
    feature = {"labels": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["x", "y", "z"]}}}
    lists = read_labeled(parquet(tmp_path / "c.parquet", {"path": names, "labels": [[2, 0], [1]]}, feature))
    assert (lists.labels, lists.targets.tolist()) == (("x", "y", "z"), [[1, 0, 1], [0, 1, 0]])
    feature = {"labels": [feature["labels"]["feature"]]}  # as earlier releases of datasets wrote it
    lists = read_labeled(parquet(tmp_path / "c.parquet", {"path": names, "labels": [[2, 0], [1]]}, feature))
    assert (lists.labels, lists.targets.tolist()) == (("x", "y", "z"), [[1, 0, 1], [0, 1, 0]])
    for width, expected in ((3, ("x", "y", "z")), (2, ("0", "1"))):  # a 0 or 1 for each name, or for something else
        switches = {"path": names, "labels": [[1, 1, 0][:width], [0, 1, 1][:width]]}
        lists = read_labeled(parquet(tmp_path / "c.parquet", switches, feature))
        assert (lists.labels, lists.targets.tolist()) == (expected, switches["labels"])
    value = read_labeled(parquet(tmp_path / "d.parquet", {"path": names, "value": [0.5, 2.0]}))
    assert (value.problem_type, value.labels, value.targets.tolist()) == (REGRESSION, ("value",), [[0.5], [2]])


KINDS = ("large_binary", "binary_view", "string_view", "fixed", "dictionary", "large_string", "struct", "of bytes")


@pytest.mark.parametrize("kind", [*KINDS, "struct of large"])
def test_other_ways_in_which_parquet_holds_pictures(tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    names, images = pictures_beside(tmp_path, 2), [encoded(0), encoded(1)]
    column = {
        "large_binary": lambda: pa.array(images, pa.large_binary()),
        "binary_view": lambda: pa.array(images, pa.binary_view()),
        "string_view": lambda: pa.array(names, pa.string_view()),
        "of bytes": lambda: pa.array(images).dictionary_encode(),
        "struct of large": lambda: pa.array(
            [{"bytes": image} for image in images], pa.struct({"bytes": pa.large_binary()})
        ),
        "fixed": lambda: pa.array([image.ljust(100, b"\0") for image in images], pa.binary(100)),
        "dictionary": lambda: pa.array(names).dictionary_encode(),
        "large_string": lambda: pa.array(names, pa.large_string()),
        "struct": lambda: pa.array([{"path": name} for name in names]),
    }[kind]()
    path = parquet(tmp_path / "a.parquet", {"image": column, "label": [0, 1]})
    for held in (True, False):
        assert levels_of(read_labeled(path, held=held)) == [0, 1]


def test_parquet_rows_without_bytes_are_read_from_their_path(tmp_path: Path) -> None:
    (name,) = pictures_beside(tmp_path, 1)
    images = [
        {"bytes": encoded(9), "path": "x.png"},
        {"bytes": None, "path": name},
        {"bytes": None, "path": None},
        None,
    ]
    pictures = read_labeled(parquet(tmp_path / "a.parquet", {"image": images, "label": [0, 1, 0, 1]}))
    assert levels_of(pictures.select([0, 1])) == [9, 0]
    assert find_unreadable(pictures) == [(2, "a.parquet[2]: is empty"), (3, "a.parquet[3]: is empty")]
    assert levels_of(pickle.loads(pickle.dumps(pictures.select([1])))) == [0]
    without_paths = {"image": [{"bytes": encoded(9)}, {"bytes": None}], "label": [0, 1]}
    for held in (True, False):
        pictures = read_labeled(parquet(tmp_path / "b.parquet", without_paths), held=held)
        assert find_unreadable(pictures) == [(1, "b.parquet[1]: is empty")]


def test_the_one_column_of_class_names_is_the_label(tmp_path: Path) -> None:
    columns = {"image": structs(2), "mask": structs(2), "id": [7, 8], "kind": [1, 0]}
    path = parquet(tmp_path / "a.parquet", columns, {"kind": NAMED["label"]})
    assert read_labeled(path).labels == ("cat", "dog", "eel")
    both = {"fine_label": NAMED["label"], "coarse_label": NAMED["label"]}
    path = parquet(tmp_path / "b.parquet", {"image": structs(1), "fine_label": [0], "coarse_label": [1]}, both)
    message = refused(read_labeled, path)
    assert "fine_label, coarse_label could all hold the labels" in message
    assert read_labeled(path, label_column="coarse_label").targets.tolist() == [1]


@pytest.mark.parametrize("place", [".", "data"])
def test_a_folder_of_parquet_files(tmp_path: Path, place: str) -> None:
    for name, labels, first in (
        ("train-00000-of-00002", [0, 1], 0),
        ("train-00001-of-00002", [2, 1], 2),
        ("validation-00000-of-00001", [2, 0], 4),
        ("test-00000-of-00001", [0], 6),
    ):
        parquet(tmp_path / place / f"{name}.parquet", {"image": structs(len(labels), first), "label": labels}, NAMED)
    put(tmp_path / place / "README.md", "what it is")
    split = read_splits(tmp_path)
    assert split.train.targets.tolist() == [0, 1, 2, 1]
    assert levels_of(split.train) == [0, 1, 2, 3]
    assert split.train.name(3) == "train-00001-of-00002.parquet[1]"
    assert split.val.targets.tolist() == [2, 0]
    assert split.notes == ("no validation pictures of dog",)
    chosen = pickle.loads(pickle.dumps(split.train.select([3, 0, 3])))
    assert levels_of(chosen) == [3, 0, 3]
    assert levels_of(pickle.loads(pickle.dumps(split.train.select([2])))) == [2]


def test_files_with_other_class_names_are_joined_by_name(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"image": structs(2), "label": [0, 2]}, NAMED)
    other = {"label": {"_type": "ClassLabel", "names": ["dog", "cat"]}}
    parquet(tmp_path / "b.parquet", {"image": structs(2), "label": [0, 1]}, other)
    pictures = read_labeled(tmp_path)
    assert [pictures.labels[target] for target in pictures.targets] == ["cat", "eel", "dog", "cat"]


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"image": structs(50), "label": [0, 1] * 25})
    whole = path.read_bytes()
    for content in (b"", whole[:-100], b"PAR1" + bytes(100) + b"PAR1", whole[:200] + bytes(400) + whole[600:]):
        message = refused(read_labeled, put(tmp_path / "b.parquet", content))
        assert message.startswith(f"{tmp_path / 'b.parquet'}: not a parquet file, or damaged")
    empty = parquet(tmp_path / "c.parquet", {"image": structs(1)[:0], "label": [0][:0]})
    said = "no rows in it; expected one for each picture"
    assert refused(read_labeled, empty, image_column="image") == f"{empty}: {said}"
    numbers = parquet(tmp_path / "d.parquet", {"image": [1], "label": [1]})
    said = "a column of int64 holds no pictures; expected encoded bytes or paths"
    assert refused(read_labeled, numbers) == f"{numbers}: {said}"
    texts = parquet(tmp_path / "t.parquet", {"image": [{"bytes": "x"}], "label": [1]})
    said = "expected a struct of bytes and path in the column of pictures, got struct<bytes: string>"
    assert refused(read_labeled, texts) == f"{texts}: {said}"
    for shard, labels in enumerate(([0, 1], [None, 1], [1, None])):
        parquet(tmp_path / "shards" / f"train-{shard:05}-of-00003.parquet", {"image": structs(2), "label": labels})
    message = refused(read_labeled, tmp_path / "shards")
    assert "train-00001-of-00003.parquet[0] (rows without one: 2) has no label" in message
    missing = parquet(tmp_path / "e.parquet", {"image": structs(2), "label": [0, None]})
    assert "e.parquet[1] has no label" in refused(read_labeled, missing)
    for kind, value in (("multi_label_classification", 1), ("regression", 0.5)):
        several = parquet(tmp_path / "s.parquet", {"image": structs(2), "a": [value, value], "b": [value, None]})
        message = refused(read_labeled, several, label_column="a,b", problem_type=kind)
        assert message.startswith("s.parquet[1] has no label in column 'a, b'")
    unknown = parquet(tmp_path / "f.parquet", {"image": structs(2), "label": [0, -1]}, NAMED)
    assert "f.parquet[1] has no label" in refused(read_labeled, unknown)
    beyond = parquet(tmp_path / "g.parquet", {"image": structs(2), "label": [0, 3]}, NAMED)
    said = "the label column 'label' holds 3, but there are names for 3 classes, 0 to 2"
    assert refused(read_labeled, beyond) == said
    before = parquet(tmp_path / "h.parquet", {"image": structs(2), "label": [0, -2]}, NAMED)
    assert "holds -2, but there are names for 3 classes, 0 to 2" in refused(read_labeled, before)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.parquet", b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused(read_labeled, path) == f"{path}: reading parquet needs pyarrow: pip install 'vit-hybrid[evaluate]'"


class TestInFile:
    """Pictures that stay in their file until they are asked for."""

    @pytest.mark.parametrize("kind", ["struct", "binary", "large_binary", "fixed"])
    @pytest.mark.parametrize("rows_a_group", [None, 7])
    def test_in_any_order_they_are_those_that_are_held(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, rows_a_group: int | None
    ) -> None:
        pa = pytest.importorskip("pyarrow")
        monkeypatch.setattr("vit_hybrid.data.parquet.PICTURES_A_BATCH", 3)
        monkeypatch.setattr("vit_hybrid.data.parquet.usable_cores", lambda: 1)
        count = 40
        images = [encoded(level) for level in range(count)]
        column = {
            "struct": lambda: pa.array(structs(count)),
            "binary": lambda: pa.array(images),
            "large_binary": lambda: pa.array(images, pa.large_binary()),
            "fixed": lambda: pa.array([image.ljust(100, b"\0") for image in images], pa.binary(100)),
        }[kind]()
        columns = {"image": column, "label": [number % 2 for number in range(count)]}
        path = parquet(tmp_path / "a.parquet", columns, None, rows_a_group)
        pictures = read_labeled(path, held=False)
        orders = (range(count), range(count - 1, -1, -1), [5, 39, 0, 20, 21, 22, 5, 6, 38, 1])
        for order in orders:
            assert levels_of(pictures.select([*order])) == [*order]
        chosen = pickle.loads(pickle.dumps(pictures.select([30, 2, 31])))
        assert levels_of(chosen) == [30, 2, 31]
        assert [chosen.name(place) for place in range(3)] == [f"a.parquet[{row}]" for row in (30, 2, 31)]
        again = pickle.loads(pickle.dumps(chosen.select([2, 0])))
        assert levels_of(again) == [31, 30]
        assert [again.name(place) for place in range(2)] == ["a.parquet[31]", "a.parquet[30]"]
        assert find_unreadable(pictures) == []

    def test_in_their_order_each_row_group_is_read_once_and_little_of_it_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pq = pytest.importorskip("pyarrow.parquet")
        monkeypatch.setattr("vit_hybrid.data.parquet.PICTURES_A_BATCH", 3)
        monkeypatch.setattr("vit_hybrid.data.parquet.usable_cores", lambda: 1)
        path = parquet(tmp_path / "a.parquet", {"image": structs(40), "label": [0, 1] * 20}, None, 20)
        store = InFile(str(path), "image", np.arange(40))
        begun: list[list[int]] = []
        reading = pq.ParquetFile.iter_batches

        def watched(file: Any, *given: Any, row_groups: list[int], **options: Any) -> Any:
            begun.append(row_groups)
            return reading(file, *given, row_groups=row_groups, **options)

        monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
        assert [store.source(row) for row in range(40)] == [encoded(level) for level in range(40)]
        assert begun == [[0], [1]]
        assert len(store._reader._kept) == 3  # type: ignore[union-attr]
        begun.clear()
        store = InFile(str(path), "image", np.arange(40))
        for row in (0, 3, 6, 0, 9, 0):  # what was asked for last is kept longest
            assert store.source(row) == encoded(row)
        assert begun == [[0]]

    def test_a_row_that_could_not_be_read_once_is_read_the_next_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pq = pytest.importorskip("pyarrow.parquet")
        path = parquet(tmp_path / "a.parquet", {"image": structs(3), "label": [0, 1, 0]})
        store = InFile(str(path), "image", np.arange(3))
        reading = pq.ParquetFile.iter_batches
        tries: list[int] = []

        def breaking(*given: Any, **options: Any) -> Any:
            tries.append(len(tries))
            if len(tries) == 1:
                raise OSError(5, "Input/output error")
            yield from reading(*given, **options)

        monkeypatch.setattr(pq.ParquetFile, "iter_batches", breaking)
        with pytest.raises(ImageReadError, match="Input/output error"):
            store.source(1)
        assert [store.source(row) for row in (1, 2)] == [encoded(1), encoded(2)]

    def test_those_that_were_chosen_are_held_alone(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", {"image": structs(5), "label": [0, 1, 0, 1, 0]})
        held = InFile(str(path), "image", np.arange(5)).take(np.array([1, 3, 4])).take(np.array([0, 2])).held()
        assert [held.source(row) for row in range(2)] == [encoded(1), encoded(4)]
        assert [held.name(row) for row in range(2)] == ["a.parquet[1]", "a.parquet[4]"]

    def test_rows_without_bytes_are_read_from_their_path(self, tmp_path: Path) -> None:
        (name,) = pictures_beside(tmp_path, 1)
        images = [{"bytes": encoded(9), "path": "x.png"}, {"bytes": None, "path": name}, None]
        path = parquet(tmp_path / "a.parquet", {"image": images, "label": [0, 1, 0]})
        pictures = read_labeled(path, held=False)
        assert levels_of(pictures.select([0, 1])) == [9, 0]
        assert find_unreadable(pictures) == [(2, "a.parquet[2]: is empty")]

    def test_what_is_damaged_on_the_way_is_an_error_of_its_pictures(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "a.parquet", {"image": structs(50), "label": [0, 1] * 25}, None, 25)
        pictures = read_labeled(path, held=False)
        whole = path.read_bytes()
        path.write_bytes(whole[:200] + bytes(400) + whole[600:])
        bad = find_unreadable(pictures)
        assert [index for index, _ in bad] == [*range(25)]
        assert bad[3][1].startswith("a.parquet[3]: the file is damaged there (")
        parquet(path, {"image": structs(3), "label": [0, 1, 0]})  # another file, of fewer rows
        shorter = pickle.loads(pickle.dumps(pictures))
        assert [reason for _, reason in find_unreadable(shorter.select([2, 3, 4]))] == [
            "a.parquet[3]: the file is damaged there (it has 3 rows and no longer row 3)",
            "a.parquet[4]: the file is damaged there (it has 3 rows and no longer row 4)",
        ]
        path.unlink()
        assert "the file is damaged there" in find_unreadable(pickle.loads(pickle.dumps(pictures)))[0][1]


@pytest.mark.parametrize("kind", ["binary", "large_binary", "string", "large_string"])
def test_parts_of_arrows_arrays_are_taken_without_what_lies_around_them(kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    texts = ["one", "", "three", "fourth", "5"]
    column = pa.array(texts if "string" in kind else [text.encode() for text in texts], getattr(pa, kind)())
    found = _blobs([column.slice(1, 3), column.slice(4), column.slice(0, 0)])
    assert [found[row] for row in range(len(found))] == [b"", b"three", b"fourth", b"5"]
    content, places = found._chunks[0]
    assert (content.tobytes(), places.tolist()) == (b"threefourth", [0, 0, 5, 11])
    first_alone = pa.py_buffer(b"\x01")
    masked = pa.Array.from_buffers(column.type, 3, [first_alone, *column.buffers()[1:]])
    found = _blobs([masked])
    assert [found[row] for row in range(len(found))] == [b"one", b"", b""]  # "three" lies behind a null


def test_files_of_more_rows_than_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_hybrid.data.parquet.ROWS_A_BATCH", 2)
    path = parquet(tmp_path / "a.parquet", {"image": structs(5), "label": [2, 0, 0, 1, 2]}, NAMED)
    pictures = read_labeled(path)
    assert (levels_of(pictures), pictures.targets.tolist()) == ([0, 1, 2, 3, 4], [2, 0, 0, 1, 2])
    (name,) = pictures_beside(tmp_path, 1)
    last = [*structs(4, 5), {"bytes": None, "path": name}]  # in another batch than those with bytes
    path = parquet(tmp_path / "b.parquet", {"image": last, "label": [2, 0, 0, 1, 2]}, NAMED)
    assert levels_of(read_labeled(path)) == [5, 6, 7, 8, 0]


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    place = parquet(tmp_path / "a.parquet", {"image": structs(2), "label": [1, 0]}).rename(
        tmp_path / os.fsdecode(b"\xe9.parquet")
    )
    read = read_labeled(place)
    assert (levels_of(read), read.targets.tolist()) == ([0, 1], [1, 0])
    place.write_bytes(b"none")
    assert "\\xe9.parquet: not a parquet file" in refused(read_labeled, place)


def test_a_column_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table([pa.array([b"x"]), pa.array([1])], names=["image", b"caf\xe9"]), tmp_path / "a.parquet")
    assert refused(read_labeled, tmp_path / "a.parquet").startswith(
        f"{tmp_path}/a.parquet: not a parquet file, or damaged ('utf-8' codec can't decode byte 0xe9"
    )


def test_several_columns_of_one_name(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"

    def write(*names: str) -> None:
        pq.write_table(pa.table([pa.array([encoded(3)]), pa.array(["a"]), pa.array(["b"])], names=list(names)), path)

    write("image", "kind", "kind")
    said = "has several columns called kind; expected one of each name"
    assert refused(read_labeled, path, label_column="kind") == f"{path}: {said}"
    with pytest.raises(SourceError, match=f"^{path}: {said}$"):
        open_stream([str(path)], None, ColumnChoice(None, "kind"))
    assert len(list(open_stream([str(path)]).entries())) == 1  # where no labels are wanted
    write("image", "label", "image")
    assert refused(read_labeled, path) == f"{path}: {said.replace('kind', 'image')}"
    with pytest.raises(SourceError, match=f"^{path}: {said.replace('kind', 'image')}$"):
        open_stream([str(path)])


def test_text_that_is_no_utf_8(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    odd = pa.array([b"caf\xe9", b"tea"]).view(pa.string())
    path = parquet(tmp_path / "a.parquet", {"image": structs(2), "label": odd})
    assert refused(read_labeled, path) == f"{path}: the labels in it are not text in UTF-8 (unexpected end of data)"
    for name, level in ((b"/caf\xe9", 3), (b"/tea", 4)):
        with open(os.fsencode(tmp_path) + name, "wb") as file:
            file.write(encoded(level))
    read = read_labeled(parquet(tmp_path / "b.parquet", {"path": odd, "label": [0, 1]}))
    assert levels_of(read) == [3, 4]
    assert levels_of(pickle.loads(pickle.dumps(read.select([0])))) == [3]

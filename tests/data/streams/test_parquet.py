"""Parquet files as streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stream_checks import check_entry_anywhere, content_of, names_in, planned, reopened

from vit_hybrid.data.columns import ColumnChoice
from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import open_stream, parquet
from vit_hybrid.data.streams.parquet import beside
from vit_hybrid.data.streams.protocol import Teller

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path: Path, pictures: Any, column: str = "image", rows: int = 3) -> str:
    pq.write_table(pa.table({"label": list(range(len(pictures))), column: pictures}), path, row_group_size=rows)
    return str(path)


CONTENTS = [f"picture {number}".encode() for number in range(8)]


def test_bytes_with_paths_and_without(tmp_path: Path) -> None:
    rows = [{"bytes": content, "path": f"{n}.jpg" if n % 2 else None} for n, content in enumerate(CONTENTS)]
    source = write(tmp_path / "x.parquet", rows, column="scan")  # known by what is in it, and not by its name
    entries = list(open_stream([source]).entries())
    assert [content_of(entry) for entry in entries] == CONTENTS
    assert [entry.path for entry in entries][:4] == [f"{source}#0", "1.jpg", f"{source}#2", "3.jpg"]
    assert entries[7].place == (f"0:0:parquet:2:{source}", 1)
    assert entries[0].stamp is None


def test_binary_columns(tmp_path: Path) -> None:
    for name, kind in {"a": pa.binary(), "b": pa.large_binary(), "c": pa.dictionary(pa.int32(), pa.binary())}.items():
        source = write(
            tmp_path / f"{name}.parquet", pa.array(CONTENTS, kind), column="image" if name == "c" else "anything"
        )
        entries = list(open_stream([source]).entries())
        assert [content_of(entry) for entry in entries] == CONTENTS
        assert entries[5].path == f"{source}#5"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"one")
    source = write(tmp_path / "x.parquet", ["1.jpg", "/else/2.jpg", None], column="path")
    entries = list(open_stream([source]).entries())
    assert [entry.path for entry in entries] == [str(tmp_path / "1.jpg"), "/else/2.jpg", f"{source}#2"]
    assert content_of(entries[0]) == b"one"
    assert str(entries[2].content) == f"{source}#2: no picture in this row"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("1.jpg", "s3://x/lists/1.jpg"),
        ("./1.jpg", "s3://x/lists/1.jpg"),
        ("../1.jpg", "s3://x/1.jpg"),
        (".././in/../1.jpg", "s3://x/in/../1.jpg"),
        ("/1.jpg", "s3://x/lists//1.jpg"),
        ("gs://y/1.jpg", "gs://y/1.jpg"),
    ],
)
def test_paths_beside_an_address_have_no_steps_left_in_front(path: str, expected: str) -> None:
    assert beside("s3://x/lists/a.parquet", path) == expected


def test_rows_without_a_picture_are_errors(tmp_path: Path) -> None:
    rows = [{"bytes": b"a", "path": None}, {"bytes": None, "path": None}, None, {"bytes": b"", "path": "x.jpg"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    source = write(tmp_path / "x.parquet", pa.array(rows, kind))
    entries = list(open_stream([source]).entries())
    assert [isinstance(entry.content, SourceError) for entry in entries] == [False, True, True, True]
    assert entries[3].path == "x.jpg"
    source = write(
        tmp_path / "y.parquet", [{"bytes": b"a", "path": 5}, {"bytes": b"b", "path": 6}]
    )  # no path is a number
    assert names_in(open_stream([source])) == [f"{source}#0", f"{source}#1"]


def test_it_can_be_entered_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "0.parquet", CONTENTS)
    write(tmp_path / "1.parquet", CONTENTS[:1])
    check_entry_anywhere([first])
    check_entry_anywhere([str(tmp_path / "*.parquet")])
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 2)
    check_entry_anywhere([write(tmp_path / "together.parquet", CONTENTS, rows=8)])


def test_ranges_come_of_the_counts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "0.parquet", CONTENTS)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    stream = pickled(source)
    assert [found.rows for found in stream.ranges(5)] == [5, 3]


def pickled(source: str) -> Any:
    """Opened without the look at the first picture."""
    from vit_hybrid.data.streams.opening import Stream

    return Stream([source], None)


def test_a_damaged_row_group_is_an_error_for_each_of_its_rows(tmp_path: Path) -> None:
    source = write(tmp_path / "x.parquet", [os.urandom(400) for _ in range(9)])
    column = pq.ParquetFile(source).metadata.row_group(1).column(1)
    with open(source, "r+b") as file:
        file.seek(column.data_page_offset)
        file.write(b"\xff" * 200)
    entries = list(open_stream([source]).entries())
    assert [isinstance(entry.content, SourceError) for entry in entries] == [False] * 3 + [True] * 3 + [False] * 3
    assert entries[4].path == f"{source}#4"
    assert str(entries[4].content).startswith(f"{source}: row group 1 is damaged (")
    check_entry_anywhere([source])


def test_a_row_group_that_is_read_in_parts_may_be_entered_in_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 2)
    check_entry_anywhere([write(tmp_path / "x.parquet", CONTENTS, rows=7)])


def test_what_was_read_of_a_row_group_before_it_broke_off_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 2)
    source = write(tmp_path / "x.parquet", CONTENTS[:6], rows=6)
    stream = open_stream([source])
    whole = pq.ParquetFile.iter_batches

    def breaking(*given: Any, **options: Any) -> Any:
        for number, batch in enumerate(whole(*given, **options)):
            if number == 2:
                raise OSError(5, "Input/output error")
            yield batch

    labeled: Any = open_stream([source], None, ColumnChoice())
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", breaking)
    monkeypatch.setattr(parquet, "LABELS_AT_ONCE", 2)
    damaged = rf"^{source}: row group 0 is damaged \(.*Input/output error\)$"
    with pytest.raises(SourceError, match=damaged):
        list(labeled.labeled_ranges(iter([9])))
    entries = list(stream.entries())
    assert [content_of(entry) for entry in entries[:4]] == CONTENTS[:4]
    assert [str(entry.content)[-19:] for entry in entries[4:]] == ["Input/output error)"] * 2
    assert [entry.path for entry in entries] == [f"{source}#{row}" for row in range(6)]


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "not a parquet file"), (b"PAR1 and nothing else", "not a parquet file")]
)
def test_what_is_no_parquet_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(SourceError, match=rf"^{tmp_path}/x.parquet: {message}, or damaged \(Parquet"):
        open_stream([str(tmp_path / "x.parquet")])


def test_a_damaged_file_among_others_is_one_error(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", CONTENTS[:2])
    (tmp_path / "0.parquet").write_bytes(b"nothing")
    sources = [str(tmp_path / "*.parquet"), write(tmp_path / "2.pq.parquet", CONTENTS[:1])]
    entries = list(open_stream(sources).entries())
    assert [isinstance(entry.content, SourceError) for entry in entries] == [True, False, False, False, False]
    check_entry_anywhere([write(tmp_path / "3.pq", CONTENTS[:1]), str(tmp_path / "*.parquet")])


def test_labels_are_as_they_stand_with_the_names_that_the_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {"kind": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"image": CONTENTS[:5], "kind": [1, 0, None, 0, 1], "n": [0.5, 1.5, 2.5, None, 4.5]}
    source = str(tmp_path / "x.parquet")
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), source, row_group_size=4)
    for at_once in (64, 3):
        monkeypatch.setattr(parquet, "ROWS_AT_ONCE", at_once)
        monkeypatch.setattr(parquet, "LABELS_AT_ONCE", at_once)
        for name, expected, teller in (
            ("kind", columns["kind"], Teller("kind", ("cat", "dog"))),
            ("n", columns["n"], Teller("n")),
            ("kind, n", [[1, 0.5], [0, 1.5], None, None, [1, 4.5]], Teller("kind, n", parts=("kind", "n"))),
        ):
            stream: Any = open_stream([source], None, ColumnChoice(None, name))
            entries = list(stream.entries())
            assert [(entry.label, entry.teller) for entry in entries] == [(label, teller) for label in expected]
            for row in range(4):
                assert [entry.label for entry in stream.entries(entries[row].place)] == expected[row + 1 :]
            parts = stream.labeled_ranges(iter([2, 9]))
            labeled = [(one.path, one.label, one.teller) for _, part in parts for one in part]
            assert labeled == [(f"{source}#{row}", label, teller) for row, label in enumerate(expected)]


def test_a_file_without_pictures_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"one": [1], "two": [2]}), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match=f"^{tmp_path}/x.parquet: cannot tell which column holds the pictures"):
        open_stream([str(tmp_path / "x.parquet")])
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "y.parquet")
    with pytest.raises(SourceError, match=f"^{tmp_path}/y.parquet: no pictures in it"):
        open_stream([str(tmp_path / "y.parquet")])


def test_outlines(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", CONTENTS)
    stream, ranges = planned([str(tmp_path / "*.parquet")], 5)
    assert reopened(stream).change().kind == "same"
    write(tmp_path / "0.parquet", CONTENTS[:2])
    later = reopened(stream)
    assert later.change().kind == "grew"
    [new] = later.ranges(5, ranges[-1].last)
    assert [content_of(entry) for entry in later.read(new.first, 2)] == CONTENTS[:2]
    assert [content_of(entry) for entry in reopened(later).entries()] == CONTENTS + CONTENTS[:2]
    write(tmp_path / "1.parquet", CONTENTS[:3])
    assert reopened(later).change() == ("changed", f"{tmp_path}/1.parquet: it was written to since")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "x.parquet", CONTENTS)
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from vit_hybrid.data.streams import open_stream\n"
        f"open_stream([{source!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(
        f"SourceError: {source}: reading parquet needs pyarrow, not installed here; pip install 'vit-hybrid[predict]' "
        "brings it."
    )


def test_names_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet", CONTENTS[:2])
    monkeypatch.chdir(tmp_path)
    assert names_in(open_stream(["x.parquet"])) == ["x.parquet#0", "x.parquet#1"]

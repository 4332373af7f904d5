"""Text files of paths and CSV files as streams."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from stream_checks import check_entry_anywhere, names_in, planned, reopened

from vit_hybrid.data.columns import ColumnChoice
from vit_hybrid.data.sources import SourceError
from vit_hybrid.data.streams import lists, open_stream
from vit_hybrid.data.streams.protocol import Teller


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding, newline="")
    return str(path)


def relative(names: list[str], folder: Path) -> list[str]:
    return [os.path.relpath(name, folder) for name in names]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.txt", "1.jpg\n \n in/2 of 2.jpg\n/else/3.jpg"),
        ("x.txt", "1.jpg\r\n in/2 of 2.jpg\r\n/else/3.jpg\r\n\r\n"),
        ("x.csv", "path,label\n1.jpg,a\n\n in/2 of 2.jpg ,b\n/else/3.jpg,\n"),
        ("x.csv", 'label;file_name\r\n"several\nlines";1.jpg\r\na;" in/2 of 2.jpg"\r\n\r\nb;/else/3.jpg'),
        ("x.csv", "sep=;\nlabel;image\na;1.jpg\nb;in/2 of 2.jpg\nc;/else/3.jpg\n"),
        ("x.tsv", "label\timage\na,b\t1.jpg\nb\tin/2 of 2.jpg\nc\t/else/3.jpg\n"),
        ("X.CSV", "what\n1.jpg\nin/2 of 2.jpg\n/else/3.jpg\n"),
        (
            "x.jsonl",
            '{"label": "a", "path": "1.jpg"}\n\n{"path": " in/2 of 2.jpg ", "label": "b"}\n{"path": "/else/3.jpg"}',
        ),
        ("X.NDJSON", '{"what": "1.jpg"}\r\n{"what": "in/2 of 2.jpg", "more": 1}\r\n{"what": "/else/3.jpg"}\r\n'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_paths_are_relative_to_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, encoding: str
) -> None:
    monkeypatch.setattr(lists, "BLOCK", 2)
    for picture in ("1.jpg", "in/2 of 2.jpg", " in/2 of 2.jpg"):
        write(tmp_path / "lists" / picture, picture)
    source = write(tmp_path / "lists" / name, text, encoding)
    stream = open_stream([source])
    space = " " if name == "x.txt" else ""  # which belongs to a name there, and in a table to its layout
    assert relative(names_in(stream), tmp_path)[:2] == ["lists/1.jpg", f"lists/{space}in/2 of 2.jpg"]
    assert [entry.path for entry in stream.entries()][2:] == ["/else/3.jpg"]
    assert [entry.stamp is None for entry in stream.entries()] == [False, False, True]


@pytest.mark.parametrize(
    ("mark", "encoding"), [(b"\xfe\xff", "utf-16-be"), (b"\0\0\xfe\xff", "utf-32-be"), (b"\xff\xfe\0\0", "utf-32-le")]
)
def test_encodings_of_either_order_of_bytes(mark: bytes, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(mark + "path,label\n1.jpg,a\ncaf\xe9.jpg,b\n".encode(encoding))
    assert relative(names_in(open_stream([str(tmp_path / "x.csv")])), tmp_path) == ["1.jpg", "caf\xe9.jpg"]


def test_a_list_can_be_entered_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "BLOCK", 3)
    rows = [f"{number}.jpg" for number in range(11)]
    for name in rows:
        write(tmp_path / name, name)
    check_entry_anywhere([write(tmp_path / "x.txt", "\n".join(rows) + "\n\n"), write(tmp_path / "y.txt", "1.jpg")])
    check_entry_anywhere([write(tmp_path / "x.csv", 'path,of\n"' + '","a\nb"\n\n"'.join(rows) + '",c')])
    check_entry_anywhere([write(tmp_path / "x.jsonl", "\n\n".join(json.dumps({"path": name}) for name in rows))])


def test_only_the_block_of_a_place_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "BLOCK", 10)
    source = write(tmp_path / "x.txt", "".join(f"{number:04}.jpg\n" for number in range(100)))
    place = list(open_stream([source]).entries())[57].place
    assert place.unit == f"0:0:list:{50 * 9}:{source}"
    assert place.row == 7


def test_rows_without_a_path_are_errors_in_their_place(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", "label,path\na,1.jpg\nb,\nc\n , \nd,2.jpg\n")
    entries = list(open_stream([source]).entries())
    assert [isinstance(entry.content, SourceError) for entry in entries] == [False, True, True, False]
    assert str(entries[1].content) == f"{source}, byte 19: no path in it"


def test_a_path_with_a_zero_in_it_is_none(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", '{"path": "1.jpg", "n": 1}\n{"path": "2\\u0000.jpg", "n": 2}\n')
    stream: Any = open_stream([source], None, ColumnChoice(None, "n"))
    _, entry = stream.entries()
    assert (entry.path, str(entry.content)) == (f"{source}#byte 26", f"{source}, byte 26: no path in it")
    [(_, labeled)] = stream.labeled_ranges(iter([2, 2]))
    assert [(one.path, one.teller is None) for one in labeled] == [
        (f"{source}, byte 0", False),
        (f"{source}, byte 26", True),
    ]


def test_what_follows_a_damaged_row_is_one_error(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", 'path,label\n1.jpg,a\n"2.jpg,b\n3.jpg,c\n')
    entries = list(open_stream([source]).entries())
    assert [isinstance(entry.content, SourceError) for entry in entries] == [False, True]
    assert "unexpected end of data" in str(entries[1].content)


def test_lines_that_are_no_objects_are_errors_in_their_place(tmp_path: Path) -> None:
    lines = ['{"path": "1.jpg"}', "{", '{"path": 7}', '["2.jpg"]', '{"name": "2.jpg"}', '{"path": "2.jpg"}']
    entries = list(open_stream([write(tmp_path / "x.jsonl", "\n".join(lines))]).entries())
    assert [isinstance(entry.content, SourceError) for entry in entries] == [False, True, False, True, True, False]
    assert os.path.basename(entries[2].path) == "7"
    said = [str(entries[place].content).partition(", ")[2] for place in (1, 3, 4)]
    assert said[0].startswith("byte 18 (not JSON: ")
    assert said[1:] == ["byte 32 (not an object, but list): no path in it", "byte 42: no path in it"]


def test_the_first_object_says_the_columns_whatever_empty_lines_stand_before_it(tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", '\n  \n{"label": "a", "path": "1.jpg"}\n{"path": "2.jpg", "label": "b"}\n')
    assert relative(names_in(open_stream([source])), tmp_path) == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    ("name", "label", "expected", "parts"),
    [
        ("x.jsonl", "n", [1, None, "3"], None),
        ("x.jsonl", "n, m", [[1, 0.5], [None, 2], ["3", [4]]], ("n", "m")),
        ("x.csv", "n", ["1", "", "3"], None),
        ("x.csv", "n, m", [["1", "0.5"], ["", "2"], ["3", ""]], ("n", "m")),
    ],
)
def test_labels_are_as_they_stand_and_cells_are_text(
    tmp_path: Path, name: str, label: str, expected: list[object], parts: tuple[str, ...] | None
) -> None:
    objects = [{"path": "1.jpg", "n": 1, "m": 0.5}, {"path": "2.jpg", "m": 2}, {"path": "3.jpg", "n": "3", "m": [4]}]
    cells = "m,n,path\n0.5,1,1.jpg\n2,,2.jpg\n,3,3.jpg\n"
    text = cells if name.endswith("csv") else "".join(json.dumps(one) + "\n" for one in objects)
    stream = open_stream([write(tmp_path / name, text)], None, ColumnChoice(None, label))
    entries = list(stream.entries())
    assert [entry.label for entry in entries] == expected
    assert {entry.teller for entry in entries} == {Teller(label, None, name.endswith("csv"), parts)}
    assert [entry.label for entry in stream.entries(entries[0].place)] == expected[1:]


def test_columns_of_0_and_1_that_nobody_named_are_told_as_a_guess(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", "path,cat,dog\n1.jpg,0,1\n2.jpg,1,0\n")
    for label, is_guess in ((None, True), ("cat,dog", False)):
        entries = list(open_stream([source], None, ColumnChoice(None, label)).entries())
        assert [entry.label for entry in entries] == [["0", "1"], ["1", "0"]]
        assert {entry.teller for entry in entries} == {Teller("cat, dog", None, True, ("cat", "dog"), is_guess)}


def test_a_table_of_several_splits_is_no_stream_to_measure_on(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", "path,label,split\n1.jpg,a,train\n2.jpg,b,test\n")
    with pytest.raises(
        SourceError, match=f"^{source}: its column split names splits, which are told apart in one file here alone"
    ):
        open_stream([source], None, ColumnChoice())
    assert len(names_in(open_stream([source]))) == 2  # where no labels are wanted


def test_a_list_of_paths_says_no_labels(tmp_path: Path) -> None:
    source = write(tmp_path / "x.txt", "1.jpg\n")
    said = "a list of paths; expected CSV, TSV or JSON Lines with a column of labels, too"
    with pytest.raises(SourceError, match=f"^{source}: {said}$"):
        open_stream([source], None, ColumnChoice())


def test_a_row_of_cells_that_ends_before_its_label_has_an_empty_one(tmp_path: Path) -> None:
    stream = open_stream([write(tmp_path / "x.csv", "path,n\n1.jpg\n2.jpg,a\n3.jpg\n")], None, ColumnChoice(None, "n"))
    assert [entry.label for entry in stream.entries()] == ["", "a", ""]


def test_a_beginning_that_ends_within_a_quoted_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "x.csv", 'path,label\n"1.jpg",a\n"2.jpg",b\n')
    for read in range(12, 30):
        monkeypatch.setattr(lists, "HEAD_BYTES", read)
        assert relative(names_in(open_stream([source])), tmp_path) == ["1.jpg", "2.jpg"]


def test_the_only_column_has_no_other_separator_than_the_usual_one(tmp_path: Path) -> None:
    assert relative(names_in(open_stream([write(tmp_path / "x.csv", "path\n1|2;3.jpg\n")])), tmp_path) == ["1|2;3.jpg"]


def test_labels_of_lines_that_are_no_pictures_have_no_teller(tmp_path: Path) -> None:
    lines = ['{"path": "1.jpg", "n": 1}', "{", '{"n": 3}', '{"path": "2.jpg", "n": 2}']
    source = write(tmp_path / "x.jsonl", "\n".join(lines))
    stream: Any = open_stream([source], None, ColumnChoice(None, "n"))
    [(found, labeled)] = stream.labeled_ranges(iter([9, 9]))
    assert found.rows == 4
    assert [(one.label, one.teller is None) for one in labeled] == [(1, False), (None, True), (3, True), (2, False)]
    assert [one.path for one in labeled][::3] == [f"{source}, byte 0", f"{source}, byte 37"]
    assert labeled[1].path.startswith(f"{source}, byte 26 (not JSON: ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.txt", "", "no pictures in it"),
        ("x.txt", "\n\n", "no pictures in it"),
        ("x.csv", "", "is empty; expected a header line"),
        ("x.csv", "path\n", "no pictures in it"),
        ("x.csv", "path,label\r1.jpg,a\r2.jpg,b\r", "its lines end as on old Macs"),
        ("x.txt", "1.jpg\r2.jpg", "its lines end as on old Macs"),
        ("x.csv", "a.jpg,1\nb.jpg,2\n", "no header line"),
        ("x.csv", "one,two\n1,2\n", "cannot tell which column holds the pictures"),
        ("x.csv", "path,lab\rel\n1.jpg,a\n", r"its header is damaged \(new-line character"),
        ("x.jsonl", "\n", "is empty; expected one JSON object a line"),
        ("x.jsonl", "7", r"expected one JSON object a line \(not an object, but int\)$"),
        ("x.jsonl", '{\n"path": "1.jpg"}', "expected one JSON object a line \\(not JSON"),
        ("x.jsonl", '{"one": 1, "two": 2}', "cannot tell which column holds the pictures"),
    ],
)
def test_a_list_without_pictures_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=f"^{tmp_path}/{name}: .*{message}"):
        open_stream([write(tmp_path / name, text)])


@pytest.mark.parametrize("end", ["\n", ""])
def test_more_rows_follow_those_that_were_there(tmp_path: Path, end: str) -> None:
    path = tmp_path / "x.csv"
    write(path, "path,label\n1.jpg,a\n2.jpg,b" + end)
    stream, ranges = planned([str(path)], 5)
    assert reopened(stream).change().kind == "same"
    with path.open("a") as file:
        file.write("3.jpg,c\n")
    later = reopened(stream)
    if not end:
        assert later.change() == ("changed", f"{path}: something was added to its last line")
        return
    assert later.change() == ("grew", f"{path}: new pictures")
    new = list(later.ranges(5, ranges[-1].last))
    assert [found.rows for found in new] == [1]
    assert relative(names_in(later), tmp_path) == ["1.jpg", "2.jpg", "3.jpg"]
    assert relative([entry.path for entry in later.read(new[0].first, 1)], tmp_path) == ["3.jpg"]
    assert reopened(later).change().kind == "same"
    assert list(reopened(later).ranges(5, new[-1].last)) == []
    assert relative(names_in(reopened(later)), tmp_path) == ["1.jpg", "2.jpg", "3.jpg"]
    with path.open("a") as file:
        file.write("4.jpg,a\n5.jpg,b\n")
    last = reopened(later)
    [newest] = last.ranges(5, new[-1].last)
    assert newest.rows == 2
    for stream in (last, reopened(last)):
        assert relative(names_in(stream), tmp_path) == [f"{number}.jpg" for number in range(1, 6)]
        for found, names in ((new[0], ["3.jpg"]), (newest, ["4.jpg", "5.jpg"])):
            read = [entry.path for entry in stream.read(found.first, found.rows)]
            assert relative(read, tmp_path) == names


def test_a_list_that_is_gone_is_told(tmp_path: Path) -> None:
    source = write(tmp_path / "x.csv", "path\n1.jpg\n")
    stream, ranges = planned([str(tmp_path / "*.csv")], 5)
    os.unlink(source)
    assert reopened(stream).change() == ("vanished", f"{source}: it is gone")
    with pytest.raises(SourceError, match=r"x\.csv"):
        list(reopened(stream).read(ranges[0].first, 1))


@pytest.mark.parametrize("text", ["1.jpg\n", "1.jpg\n3.jpg\n4.jpg\n", "0.jpg\n1.jpg\n2.jpg\n"])
def test_a_list_that_was_rewritten_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.txt"
    write(path, "1.jpg\n2.jpg\n")
    stream, ranges = planned([str(path)], 5)
    write(path, text)
    assert reopened(stream).change() == ("changed", f"{path}: what stood in it was changed")
    with pytest.raises(SourceError, match="was changed"):
        list(reopened(stream).read(ranges[0].first, 2))


def test_a_list_that_was_only_touched_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write(path, "1.jpg\n2.jpg\n")
    stream, ranges = planned([str(path)], 5)
    os.utime(path, (1, 1))
    later = reopened(stream)
    assert later.change().kind == "same"
    assert list(later.ranges(5, ranges[-1].last)) == []
    assert len(list(later.read(ranges[0].first, 2))) == 2


def test_ranges_with_labels_have_the_sizes_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "BLOCK", 3)
    rows = [f"{number}.jpg,{'ab'[number % 2]}" for number in range(10)]
    source = write(tmp_path / "x.csv", "image,label\n" + "\n".join(rows))
    ranges = list(open_stream([source], None, ColumnChoice()).labeled_ranges(iter([2, 3, 4, 100])))
    assert [found.rows for found, _ in ranges] == [2, 3, 4, 1]
    assert [[each.label for each in labels] for _, labels in ranges] == [[*"ab"], [*"aba"], [*"baba"], [*"b"]]
    assert [found.first.row for found, _ in ranges] == [0, 2, 2, 0]  # in blocks of three
    assert [found.last.row for found, _ in ranges] == [1, 1, 2, 0]
    assert [len(found.units) for found, _ in ranges] == [1, 2, 2, 1]

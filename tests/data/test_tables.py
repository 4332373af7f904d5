"""CSV, TSV and JSON: what their columns and cells are taken for, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labeled_files import (
    class_folders,
    csv_file,
    encoded,
    json_lines,
    level_of,
    levels_of,
    parquet,
    pictures_beside,
    put,
    refused,
    structs,
)

from vit_hybrid.data import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    LabeledPictures,
    find_unreadable,
    read_labeled,
    read_splits,
)
from vit_hybrid.images.reading import ImageReadError


@pytest.mark.parametrize(
    ("header", "image_column"),
    [
        *[(f"{name},label", None) for name in ("image", "path", "file", "file_name", "filename", "Image")],
        *[(f"path,{name}", None) for name in ("label", "class", "target", "labels", "value", "Class ")],
        ("id_of_it,label", "id_of_it"),
    ],
)
def test_columns_are_guessed_by_name(tmp_path: Path, header: str, image_column: str | None) -> None:
    path = csv_file(tmp_path / "labels.csv", ["dog", "cat", "dog"], header)
    pictures = read_labeled(path, image_column=image_column)
    assert (pictures.problem_type, pictures.labels) == (SINGLE_LABEL, ("cat", "dog"))
    assert pictures.targets.tolist() == [1, 0, 1]
    assert levels_of(pictures) == [0, 1, 2]
    assert pictures.name(1) == str(tmp_path / "pictures" / "1.png")


def test_named_columns_come_before_guesses(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    path = put(tmp_path / "a.csv", f"path,label,view,kind\nx.png,1,{names[0]},a\ny.png,2,{names[1]},b\n")
    pictures = read_labeled(path, image_column="view", label_column="kind")
    assert pictures.labels == ("a", "b")
    assert levels_of(pictures) == [0, 1]
    for options in ({"image_column": "none"}, {"label_column": "none"}, {"label_column": ["kind", "none"]}):
        said = f"{path}: no column 'none'; its columns are path, label, view, kind"
        assert refused(read_labeled, path, **options) == said


def test_columns_that_cannot_be_guessed_are_listed(tmp_path: Path) -> None:
    no_header = put(tmp_path / "a.csv", "1.png,cat\n2.png,dog\n")
    message = refused(read_labeled, no_header)
    assert "cannot tell which column holds the pictures; its columns are 1.png, cat" in message
    assert "image_column" in message
    no_labels = put(tmp_path / "b.csv", "path,width,height\n1.png,3,4\n")
    assert "the labels; its columns are width, height: name one with label_column" in refused(read_labeled, no_labels)


@pytest.mark.parametrize(
    ("name", "join", "labels", "expected"),
    [
        ("a.csv", ",", ["cat|dog", "dog", ""], [[1, 1], [0, 1], [0, 0]]),
        ("a.csv", ",", ["cat; dog", "dog;", "cat"], [[1, 1], [0, 1], [1, 0]]),
        ("a.csv", ";", ["cat|dog", "dog", "cat"], [[1, 1], [0, 1], [1, 0]]),
        ("a.tsv", "\t", ["cat|dog", "dog", "cat"], [[1, 1], [0, 1], [1, 0]]),
    ],
)
def test_several_labels_in_a_cell(tmp_path: Path, name: str, join: str, labels: list[str], expected: object) -> None:
    pictures = read_labeled(csv_file(tmp_path / name, labels, f"path{join}label", join))
    assert (pictures.problem_type, pictures.labels) == (MULTI_LABEL, ("cat", "dog"))
    assert pictures.targets.dtype == np.float32
    assert pictures.targets.tolist() == expected
    assert pictures.class_counts().tolist() == np.sum(expected, axis=0).tolist()


def test_what_the_cells_of_a_text_file_are(tmp_path: Path) -> None:
    def read(labels: Sequence[object], **options: Any) -> LabeledPictures:
        return read_labeled(csv_file(tmp_path / "a.csv", labels), **options)

    integers = read([10, 9, 10])
    assert (integers.problem_type, integers.labels) == (SINGLE_LABEL, ("9", "10"))
    assert integers.targets.tolist() == [1, 0, 1]
    assert read(["2.0", "1", "1"]).labels == ("1", "2")
    assert read(["007", "7", "07"]).labels == ("007", "07", "7")
    assert read(["07", "7", "8"]).labels == ("07", "7", "8")
    assert read([-1, 1, -1]).labels == ("-1", "1")  # which is missing only where there are names
    assert read(["1", "b", "1"]).labels == ("1", "b")

    numbers = read(["0.5", "-2", "1e1"])
    assert (numbers.problem_type, numbers.labels) == (REGRESSION, ("label",))
    assert numbers.targets.dtype == np.float32
    assert numbers.targets.tolist() == [[0.5], [-2], [10]]
    assert numbers.class_counts().tolist() == [3]
    assert read(["0.5|1", "2|3"]).targets.tolist() == [[0.5, 1], [2, 3]]
    assert read([1, 2], problem_type=REGRESSION).targets.tolist() == [[1], [2]]
    assert read(["0.5", "1.5"], problem_type=SINGLE_LABEL).labels == ("0.5", "1.5")
    assert read([1, 2], problem_type=MULTI_LABEL).targets.tolist() == [[1, 0], [0, 1]]
    assert read(["a;b", "c"], problem_type=SINGLE_LABEL).labels == ("a;b", "c")
    assert "problem_type must be one of" in refused(read, [1, 2], problem_type="ranking")


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json"])
def test_json_lines(tmp_path: Path, ending: str) -> None:
    pictures = read_labeled(json_lines(tmp_path / f"a.{ending}", ["dog", "cat"]))
    assert (pictures.problem_type, pictures.labels) == (SINGLE_LABEL, ("cat", "dog"))
    assert pictures.targets.tolist() == [1, 0]
    assert levels_of(pictures) == [0, 1]


@pytest.mark.parametrize(
    ("labels", "problem_type", "names", "targets"),
    [
        ([3, 1, 3], SINGLE_LABEL, ("1", "3"), [1, 0, 1]),
        ([True, False], SINGLE_LABEL, ("false", "true"), [1, 0]),
        ([1.0, 2], SINGLE_LABEL, ("1", "2"), [0, 1]),
        ([["b", "a"], [], ["b"]], MULTI_LABEL, ("a", "b"), [[1, 1], [0, 0], [0, 1]]),
        ([[10, 9], [9]], MULTI_LABEL, ("9", "10"), [[1, 1], [1, 0]]),
        ([[0, 1, 0], [1, 1, 0]], MULTI_LABEL, ("0", "1", "2"), [[0, 1, 0], [1, 1, 0]]),
        ([0.25, 3], REGRESSION, ("label",), [[0.25], [3]]),
        ([[0.25, 3], [1, 2]], REGRESSION, ("label_0", "label_1"), [[0.25, 3], [1, 2]]),
    ],
)
def test_what_json_values_are(
    tmp_path: Path, labels: list[Any], problem_type: str, names: tuple[str, ...], targets: list[Any]
) -> None:
    pictures = read_labeled(json_lines(tmp_path / "a.jsonl", labels))
    assert (pictures.problem_type, pictures.labels) == (problem_type, names)
    assert pictures.targets.tolist() == targets


def test_several_columns_of_labels(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    path = put(tmp_path / "a.csv", f"path,cat,dog,x\n{names[0]},1,0,0.5\n{names[1]},1,1,2\n")
    switches = read_labeled(path, label_column=["cat", "dog"])
    assert (switches.problem_type, switches.labels) == (MULTI_LABEL, ("cat", "dog"))
    assert switches.targets.tolist() == [[1, 0], [1, 1]]
    values = read_labeled(path, label_column="x, dog")
    assert (values.problem_type, values.labels) == (REGRESSION, ("x", "dog"))
    assert values.targets.tolist() == [[0.5, 0], [2, 1]]


def test_a_comma_separates_columns_only_where_none_is_called_so(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    path = put(tmp_path / "a.csv", f'path,"cat, dog",cat,dog\n{names[0]},x,1,0\n{names[1]},y,0,1\n')
    assert read_labeled(path, label_column="cat, dog").labels == ("x", "y")
    assert read_labeled(path, label_column="cat,dog").labels == ("cat", "dog")


def test_paths_may_be_absolute_and_missing_files_are_found_later(tmp_path: Path) -> None:
    put(tmp_path / "far" / "a.png", encoded(7))
    path = put(tmp_path / "in" / "a.csv", f"path,label\n{tmp_path / 'far' / 'a.png'},cat\nnone.png,dog\n")
    pictures = read_labeled(path)
    assert level_of(pictures.picture(0)) == 7
    assert find_unreadable(pictures) == [(1, f"{tmp_path / 'in' / 'none.png'}: no such file")]
    with pytest.raises(ImageReadError) as caught:
        pictures.picture(1)
    assert caught.value.name == pictures.name(1) == str(tmp_path / "in" / "none.png")


def test_a_byte_order_mark_blank_lines_and_quotes(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    path = put(tmp_path / "a.csv", f'\ufeffpath,label\r\n\r\n"{names[0]}","a, b"\r\n{names[1]},c\r\n')
    assert read_labeled(path).labels == ("a, b", "c")
    path = put(tmp_path / "a.jsonl", "\ufeff" + json.dumps({"path": names[0], "label": "x"}) + "\n\n")
    assert read_labeled(path).labels == ("x",)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "path,label\n", "no rows"),
        ("a.csv", "path,label\na.png,cat\nb.png\n", "line 3: 1 cells, expected 2"),
        ("a.csv", 'path,label\na.png,cat\nb.png,"dog\n', "damaged"),
        ("a.csv", "path,label,label\na.png,1,2\n", "more than once in the header"),
        ("a.csv", b"path,label\n\xff.png,cat\n", "not text in UTF-8"),
        ("a.csv", "path,label\na.png,cat\n,dog\n", "line 3: no path of a picture"),
        ("a.csv", "path,label\na.png,cat\nb.png,\nc.png, \n", "line 3 (rows without one: 2) has no label"),
        ("a.csv", "path,label\na.png,0.5\nb.png,nan\n", "line 3 has no label"),
        ("a.csv", "path,label\na.png,0.5\n\nb.png,cat\n", "mixes types"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"path": \n', "line 2: not JSON"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n\n["b.png", 1]\n', "line 3: list; expected one object a line"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"path": "b.png"}\n', "line 2 has no label"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"label": 1}\n', "line 2: no path of a picture"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"path": "b.png", "label": "cat"}\n', "mixes types"),
        ("a.jsonl", '{"path": "a.png", "label": [1]}\n{"path": "b.png", "label": 1}\n', "mixes types"),
        ("a.jsonl", '{"path": "a.png", "label": [1, "x"]}\n', "mixes types in its lists"),
        ("a.jsonl", '{"path": "a.png", "label": [0.5]}\n{"path": "b.png", "label": [1, 2]}\n', "lists of 1, 2 numbers"),
        ("a.jsonl", '{"path": "a.png", "label": 0.5}\n{"path": "b.png", "label": Infinity}\n', "not a finite number"),
        ("a.jsonl", '{"path": "a.png", "label": {"x": 1}}\n', "holds dict"),
    ],
)
def test_damaged_text_files(tmp_path: Path, name: str, content: str | bytes, expected: str) -> None:
    message = refused(read_labeled, put(tmp_path / name, content))
    assert expected in message
    assert message.startswith((str(tmp_path / name), "the label column 'label'", "the values in column 'label'"))


def test_values_of_several_types_are_named_by_their_first_rows(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [1, "0.5", "cat", "dog"])
    assert refused(read_labeled, path) == (
        f"the label column 'label' mixes types: {path}, line 3 holds a number (0.5), {path}, line 4 text ('cat'); give "
        "all rows the same type, or say problem_type='single_label_classification' where these are names of classes"
    )
    for labels, said in (
        ([1, 2, "cat"], "line 1 holds a number (1), {0}, line 3 text ('cat')"),
        (["cat", [3]], "line 1 holds text ('cat'), {0}, line 2 a list ([3])"),
        ([[3], 0.5], "line 1 holds a list ([3]), {0}, line 2 a number (0.5)"),
    ):
        path = json_lines(tmp_path / "a.jsonl", labels)
        assert refused(read_labeled, path) == (
            f"the label column 'label' mixes types: {path}, {said.format(path)}; give all rows the same type"
        )


def test_lists_of_one_label_are_single_ones_where_that_is_asked_for(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [["b"], ["a"], ["b"]])
    one = read_labeled(path, problem_type=SINGLE_LABEL)
    assert (one.labels, one.targets.tolist()) == (("a", "b"), [1, 0, 1])
    for odd, count in ((["a", "b", "c"], 3), ([], 0)):
        path = json_lines(tmp_path / "a.jsonl", [["b"], odd])
        assert refused(read_labeled, path, problem_type=SINGLE_LABEL) == (
            f"{path}, line 2 has {count} labels in column 'label'; expected one for single_label_classification"
        )


@pytest.mark.parametrize("text", ["[%s]", " [%s]", "%s"])
def test_json_that_is_longer_than_its_beginning_is_understood_as_a_whole(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vit_hybrid.data.tables.HEAD_BYTES", 20)
    names = pictures_beside(tmp_path, 2 if "[" in text else 1)
    rows = [json.dumps({"what": name, "image": name, "label": "x"}) for name in names]
    put(tmp_path / "labels.json", text % ",\n".join(rows))
    read = read_labeled(tmp_path)
    assert (read.labels, len(read)) == (("x",), len(names))


def test_a_word_among_the_numbers_of_a_regression(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [1, "two"])
    assert "line 3: 'two' in column 'label' is not a number" in refused(read_labeled, path, problem_type=REGRESSION)


# --- Encodings and dialects -------------------------------------------------------------------------------------------


TABLE = "path,label\npictures/0.png,caf\u00e9\npictures/1.png,th\u00e9\npictures/2.png,caf\u00e9\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_encodings_that_a_file_tells(tmp_path: Path, encoding: str, kind: str) -> None:
    pictures_beside(tmp_path, 3)
    lines = [dict(zip(("path", "label"), line.split(","), strict=True)) for line in TABLE.splitlines()[1:]]
    text = TABLE if kind == "csv" else "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    read = read_labeled(put(tmp_path / f"a.{kind}", text.encode(encoding)))
    assert (read.labels, read.targets.tolist()) == (("caf\u00e9", "th\u00e9"), [0, 1, 0])
    assert levels_of(read) == [0, 1, 2]


def test_utf_16_of_either_order_and_cut_off(tmp_path: Path) -> None:
    pictures_beside(tmp_path, 3)
    content = b"\xfe\xff" + TABLE.encode("utf-16-be")
    assert read_labeled(put(tmp_path / "a.csv", content)).labels == ("caf\u00e9", "th\u00e9")
    message = refused(read_labeled, put(tmp_path / "a.csv", content[:-1]))
    assert message.startswith(f"{tmp_path}/a.csv: begins as UTF-16-BE does, but is damaged")
    assert f" at byte {len(content) - 2}); save it as UTF-8" in message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("read", range(150, 158))
def test_a_beginning_may_end_within_a_character(
    tmp_path: Path, encoding: str, read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vit_hybrid.data.tables.HEAD_BYTES", read)
    names = pictures_beside(tmp_path, 12)
    text = "a,b\n" + "".join(f"{name},caf\xe9{'s' * (number % 2)}\n" for number, name in enumerate(names))
    put(tmp_path / "what.csv", text.encode(encoding))
    pictures = read_labeled(tmp_path)
    assert (pictures.labels, levels_of(pictures)) == (("caf\xe9", "caf\xe9s"), [*range(12)])


def test_a_table_of_one_folder_whose_column_knows_one_split_is_all_there_is(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 4)
    rows = "".join(f"{name},{'ab'[number % 2]},test\n" for number, name in enumerate(names))
    put(tmp_path / "metadata.csv", f"file_name,label,split\n{rows}")
    split = read_splits(tmp_path, val_fraction=0.5)
    assert (len(split.train), len(split.val)) == (2, 2)


@pytest.mark.parametrize("encoding", ["cp1252", "cp1250", "shift_jis", "utf-16-le"])
def test_encodings_that_nothing_tells_are_refused(tmp_path: Path, encoding: str) -> None:
    pictures_beside(tmp_path, 3)
    text = TABLE if encoding != "shift_jis" else TABLE.replace("caf\u00e9", "\u732b").replace("th\u00e9", "\u72ac")
    message = refused(read_labeled, put(tmp_path / "a.csv", text.encode(encoding)))
    assert message.startswith(f"{tmp_path}/a.csv: not text in UTF-8 (")
    assert "line 2 holds caf\\xe9" in message or encoding in ("shift_jis", "utf-16-le")
    header = put(tmp_path / "b.csv", "image,d\u00e9faut\n0.png,x\n".encode("cp1252"))
    assert "b.csv: not text in UTF-8 (the header holds d\\xe9faut)" in refused(read_labeled, header)


def test_cells_that_nobody_reads_may_be_in_any_encoding(tmp_path: Path) -> None:
    pictures_beside(tmp_path, 1)
    path = put(tmp_path / "a.csv", b"path,label,remark\npictures/0.png,x,caf\xe9\n")
    assert read_labeled(path).labels == ("x",)
    assert "holds caf\\xe9" in refused(read_labeled, path, label_column="remark")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("sep=;\npath;label\npictures/0.png;a, b\npictures/1.png;c\n", ("a, b", "c")),
        ("SEP=\t\r\npath\tlabel\r\npictures/0.png\ta\r\npictures/1.png\tb\r\n", ("a", "b")),
        ("path;label\npictures/0.png;a\npictures/1.png;b\n", ("a", "b")),
        ("path|label\npictures/0.png|a, b\npictures/1.png|c\n", ("a, b", "c")),
        ("path;label;size, in mm\npictures/0.png;a;1\npictures/1.png;b;2\n", ("a", "b")),
        ("path\tlabel\npictures/0.png\ta\npictures/1.png\tb\n", ("a", "b")),
        ('path, "label"\n"pictures/0.png", "a, b"\n pictures/1.png ,  c \n', ("a, b", "c")),
    ],
)
def test_separators(tmp_path: Path, text: str, labels: tuple[str, ...]) -> None:
    pictures_beside(tmp_path, 2)
    read = read_labeled(put(tmp_path / "a.csv", text))
    assert (read.labels, levels_of(read)) == (labels, [0, 1])
    (tmp_path / "a.csv").write_text(text + "x")
    line = text.count("\n") + 1
    assert f"a.csv, line {line}: 1 cells" in refused(read_labeled, tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(text + '"x')
    assert f"a.csv, line {line}: damaged" in refused(read_labeled, tmp_path / "a.csv")


def test_the_line_that_excel_writes_before_the_header_is_one(tmp_path: Path) -> None:
    for said, line in (("", 3), ("sep=;\n", 4)):
        table = put(tmp_path / "a.csv", f"{said}path;label\n0.png;a\n1.png;\n")
        assert f"a.csv, line {line} has no label in column 'label'" in refused(read_labeled, table)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04\x14\0\x06\0", "a spreadsheet or another zip file"),
        (b"\x1f\x8b\x08\0", "a compressed file"),
        (b"PAR1\x15\x04", "a parquet file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "a spreadsheet or another document"),
        (b"SQLite format 3\0\x10", "a database"),
    ],
)
def test_files_of_other_kinds_that_are_called_as_tables_are(tmp_path: Path, content: bytes, what: str) -> None:
    table = put(tmp_path / "labels.csv", content + b"\0" * 99)
    assert refused(read_labeled, table).startswith(f"{table}: is {what}")


def test_pictures_that_stand_in_several_rows_are_told_of(tmp_path: Path) -> None:
    first, second, third = pictures_beside(tmp_path, 3)
    rows = [(third, "a"), (second, "a"), (third, "b"), (first, "b"), (first, "b")]
    table = put(tmp_path / "a.csv", "path,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    note = f"{table}: 2 of its pictures stand in several rows, 1 of them with different labels, such as {third}"
    assert list(read_labeled(table).notes) == [note]
    put(tmp_path / "a.csv", f"path,label\n{first},a\n{first},a\n{second},b\n")
    assert list(read_labeled(table).notes) == [f"{table}: 1 of its pictures stands in several rows, such as {first}"]


def test_decimal_commas_between_semicolons(tmp_path: Path) -> None:
    numbers = read_labeled(csv_file(tmp_path / "a.csv", ["0,5", "-1,25", "3"], "path;label", ";"))
    assert (numbers.problem_type, numbers.targets.tolist()) == (REGRESSION, [[0.5], [-1.25], [3]])
    whole = read_labeled(csv_file(tmp_path / "a.csv", ["0,5", "-3", "+2"], "path;label", ";"))
    assert (whole.problem_type, whole.targets.tolist()) == (REGRESSION, [[0.5], [-3], [2]])
    names = read_labeled(csv_file(tmp_path / "a.csv", ["1,5", "a,b", "3"], "path;label", ";"))
    assert names.labels == ("1,5", "3", "a,b")
    quoted = read_labeled(csv_file(tmp_path / "a.csv", ['"1,5"', '"2,5"', '"1,5"'], "path,label", ","))
    assert quoted.labels == ("1,5", "2,5")


def test_an_array_of_objects(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 3)
    rows = [{"path": name, "label": label} for name, label in zip(names, ["b", "a", "b"], strict=True)]
    for ending in ("json", "jsonl"):
        read = read_labeled(put(tmp_path / f"a.{ending}", json.dumps(rows, indent=1)))
        assert (read.labels, read.targets.tolist(), levels_of(read)) == (("a", "b"), [1, 0, 1], [0, 1, 2])
    put(tmp_path / "metadata.jsonl", json.dumps(rows))
    os.unlink(tmp_path / "a.json")
    os.unlink(tmp_path / "a.jsonl")
    class_folders(tmp_path / "pictures", x=1, y=1)
    assert read_labeled(tmp_path).labels == ("a", "b")
    for content, expected in (
        ('[{"path": "0.png", "label": "a"}, 3]', "item 2: int; expected one object"),
        ('[{"path": "0.png", "label": "a"},', "not JSON"),
        ('[{"path": "0.png"}, {"path": "1.png", "label": 2}]', "item 1 has no label"),
        ("[]", "is empty"),
        ("[" * 100_000, "not JSON"),
        ('{\n"a.png": "cat",\n"b.png": "dog"\n}', "or an array of them, got one object of a.png, b.png"),
    ):
        assert expected in refused(read_labeled, put(tmp_path / "b.json", content), label_column="label")


def test_a_line_that_is_unicode_inside_an_object_ends_nothing(tmp_path: Path) -> None:
    (name,) = pictures_beside(tmp_path, 1)
    path = put(tmp_path / "a.jsonl", json.dumps({"path": name, "label": "a\u2028b"}, ensure_ascii=False))
    assert read_labeled(path).labels == ("a\u2028b",)


def test_half_a_character_in_a_label_is_escaped(tmp_path: Path) -> None:
    (name,) = pictures_beside(tmp_path, 1)
    assert read_labeled(put(tmp_path / "a.jsonl", json.dumps({"path": name, "label": "\ud83d"}))).labels == ("\\ud83d",)


# --- Words for what is missing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NA", "N/A", "null", "NULL", "<NA>", "#NA", "-nan", "n/a"])
@pytest.mark.parametrize("write", [csv_file, json_lines])
def test_words_for_missing_labels_are_no_classes(tmp_path: Path, word: str, write: Callable[..., Path]) -> None:
    path = write(tmp_path / ("a.csv" if write is csv_file else "a.jsonl"), ["cat", word, "dog", word])
    first = 3 if write is csv_file else 2
    message = refused(read_labeled, path)
    assert f"line {first} (rows without one: 2) has no label in column 'label'" in message
    assert f"if '{word}' is a class, say na_as_class=True" in message
    kept = read_labeled(path, na_as_class=True)
    assert kept.labels == tuple(sorted(["cat", word, "dog"]))
    assert [kept.labels[target] for target in kept.targets] == ["cat", word, "dog", word]
    split = read_splits(path, na_as_class=True, val_fraction=0.5)
    assert word in split.train.labels
    assert split.val.labels == split.train.labels


@pytest.mark.parametrize("word", ["none", "Nan", "na", "Null", "-"])
def test_words_that_are_classes(tmp_path: Path, word: str) -> None:
    assert word in read_labeled(csv_file(tmp_path / "a.csv", ["cat", word])).labels


def test_missing_words_among_numbers_and_lists(tmp_path: Path) -> None:
    def message(labels: Sequence[object], **options: Any) -> str:
        return refused(read_labeled, csv_file(tmp_path / "a.csv", labels), **options)

    assert message([1, 2, "NA"]).startswith(f"{tmp_path}/a.csv, line 4 has no label")
    assert "line 3 has no label" in message([0.5, "None", 1.5])
    assert "say" not in message([0.5, "None", 1.5])
    assert "line 3 has no label" in message(["cat|dog", "cat|None"])
    assert "line 3 has no label" in message(["cat|dog", "NA"])
    assert "'two' in column 'label' is not a number" in message([1, "NA", "two"], problem_type=REGRESSION)
    assert "line 4: 'two'" in message([1, "NA", "two"], problem_type=REGRESSION)
    assert "line 3 has no label" in refused(read_labeled, csv_file(tmp_path / "a.csv", ["a", ""]), na_as_class=True)
    for missing in (" NA ", ["a", "None"], ["a", None]):
        labels = ["a", missing] if isinstance(missing, str) else [["a"], missing]
        assert "line 2 has no label" in refused(read_labeled, json_lines(tmp_path / "a.jsonl", labels))


def test_class_folders_and_class_names_may_be_called_so(tmp_path: Path) -> None:
    assert read_labeled(class_folders(tmp_path / "data", NA=1, nan=1)).labels == ("NA", "nan")
    names = {"label": {"_type": "ClassLabel", "names": ["None", "some"]}}
    path = parquet(tmp_path / "a.parquet", {"image": structs(2), "label": [0, 1]}, names)
    assert read_labeled(path).labels == ("None", "some")
    path = parquet(tmp_path / "b.parquet", {"image": structs(2), "label": ["None", "some"]})
    assert "b.parquet[0] has no label" in refused(read_labeled, path)
    assert read_labeled(path, na_as_class=True).labels == ("None", "some")


def test_columns_and_rows_that_spreadsheets_leave_empty(tmp_path: Path) -> None:
    pictures_beside(tmp_path, 2)
    text = "path,label,,\npictures/0.png,a,,\n,,,\npictures/1.png,b, ,\n ,\n"
    read = read_labeled(put(tmp_path / "a.csv", text))
    assert (read.labels, levels_of(read)) == (("a", "b"), [0, 1])
    assert "a.csv, line 4: 4 cells, expected 2" in refused(
        read_labeled, put(tmp_path / "a.csv", text.replace("b, ,", "b, ,c"))
    )


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_the_numbers_of_rows_that_pandas_writes(tmp_path: Path, name: str) -> None:
    pictures_beside(tmp_path, 2)
    read = read_labeled(put(tmp_path / "a.csv", f"{name},path,what\n0,pictures/0.png,a\n1,pictures/1.png,b\n"))
    assert (read.labels, levels_of(read)) == (("a", "b"), [0, 1])


@pytest.mark.parametrize("header", ["Image Path,CLASS,note", "IMAGE-PATH,Class,note", "image_path,class,note"])
def test_names_of_columns_are_the_same_in_upper_and_lower_case(header: str, tmp_path: Path) -> None:
    read = read_labeled(csv_file(tmp_path / "a.csv", ["cat,1", "dog,2"], header))
    assert (read.labels, read.targets.tolist()) == (("cat", "dog"), [0, 1])
    assert levels_of(read) == [0, 1]


def test_columns_of_0_and_1_that_are_named_are_one_class_where_that_is_asked_for(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    path = put(tmp_path / "a.csv", f"path,x,y\n{names[0]},0,1\n{names[1]},1,0\n")
    assert read_labeled(path, label_column="x,y").problem_type == MULTI_LABEL
    one = read_labeled(path, label_column="x,y", problem_type=SINGLE_LABEL)
    assert (one.labels, one.targets.tolist()) == (("x", "y"), [1, 0])
    put(tmp_path / "a.csv", f"path,x,y\n{names[0]},0,1\n{names[1]},2,-1\n")
    message = refused(read_labeled, path, label_column="x,y", problem_type=SINGLE_LABEL)
    assert "a.csv, line 3: the columns x, y hold 2, -1; expected one 1" in message

"""What is said of the cells of text tables, and which of them are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from labeled_files import csv_file, json_lines, levels_of, pictures_beside, put, refused

from vit_hybrid.data import MULTI_LABEL, REGRESSION, read_labeled, read_splits
from vit_hybrid.data.columns import ColumnChoice
from vit_hybrid.data.tables import Survey, survey


def test_a_column_with_another_separator_in_its_name_is_read_where_it_is_named(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["a", "b"], "path,label|group")
    assert "the separators of its columns are mixed: ',' and '|' in the header" in refused(read_labeled, path)
    assert read_labeled(path, label_column="label|group").labels == ("a", "b")
    rows = [json.dumps({"path": f"pictures/{row}.png", "a;b|c": label}) for row, label in enumerate("xy")]
    assert read_labeled(put(tmp_path / "a.jsonl", "\n".join(rows))).labels == ("x", "y")  # nothing separates them there
    rows = [json.dumps({"images": f"pictures/{row}.png", "annotations": label}) for row, label in enumerate("xy")]
    named = {"image_column": "images", "label_column": "annotations"}  # called as COCO's are, a row for each picture
    assert read_labeled(put(tmp_path / "a.jsonl", "\n".join(rows)), **named).labels == ("x", "y")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "path,label\n0.png,a\n ,b\n", "line 3: no path of a picture in column 'path', but ''"),
        ("a.json", '[{"path": 1.5, "label": "a"}]', "item 1: no path of a picture in column 'path', but '1.5'"),
        ("a.jsonl", '{"label": "a"}\n{"path": "0.png"}', "line 1: no path of a picture in column 'path', but 'None'"),
        ("a.jsonl", '{"path": "0.png"}\n{"path": "1.png", "label": 2}', "line 1 has no label in column 'label'"),
        (
            "a.jsonl",
            '{"path": "0.png"}\n{"path": \n',
            "line 2: not JSON (Expecting value: line 1 column 10 (char 9)); exp",
        ),
        (
            "a.json",
            '[{"path": "0.png"},',
            "not JSON (Expecting value: line 1 column 20 (char 19)); expected an array of",
        ),
        ("a.jsonl", '{"path":' * 100_000, "line 1: not JSON (maximum recursion depth"),
        ("a.csv", 'path,label\na.png,cat\nb.png,"dog\n', "line 3: damaged (unexpected end of data)"),
        ("a.csv", 'sep=,\npath,label\na.png,cat\nb.png,"dog\n', "line 4: damaged (unexpected end of data)"),
        ("a.csv", "path,label\n0.png,a\n1.png,b,c\n", "line 3: 3 cells, expected 2"),
        (
            "a.csv",
            "path,label,path\n0.png,a,b\n",
            "a column name stands more than once in the header path, label, path",
        ),
    ],
)
def test_the_row_and_what_is_in_it_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = put(tmp_path / name, content)
    assert (
        refused(read_labeled, path, label_column="label")
        .removeprefix(f"{path}, ")
        .startswith((message, f"{path}: {message}"))
    )


@pytest.mark.parametrize(
    ("name", "content", "place", "kind"),
    [
        ("a.csv", b"path,label\n0.png,x\n1.png,caf\xe9\n", "line 3", "CSV UTF-8"),
        ("a.TSV", b"path\tlabel\n0.png\tcaf\xe9\n", "line 2", "CSV UTF-8"),
        ("a.jsonl", b'{"path": "0.png", "label": "caf\xe9"}\n', "line 1", "UTF-8"),
        ("a.json", b'[{"path": "0.png", "label": ["x", "caf\xe9"]}]', "item 1", "UTF-8"),
    ],
)
def test_in_which_form_to_save_a_table_of_an_unknown_encoding(
    name: str, content: bytes, place: str, kind: str, tmp_path: Path
) -> None:
    path = put(tmp_path / name, content)
    assert refused(read_labeled, path) == (
        f"{path}: not text in UTF-8 ({place} holds caf\\xe9), but perhaps in Windows-1252, as Excel writes it: nothing "
        f"in the file tells its encoding; save it as {kind}"
    )


@pytest.mark.parametrize("word", ["#N/A", "#N/A N/A", "-NaN"])
def test_more_words_for_what_is_missing(word: str, tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["cat", word])
    assert f"line 3 has no label in column 'label': add it, or drop it; if '{word}' is a class" in refused(
        read_labeled, path
    )


def test_a_table_without_rows_names_no_picture(tmp_path: Path) -> None:
    gone = f"{tmp_path}/gone.csv"
    assert survey(gone, ColumnChoice()) == Survey(problem=f"{gone}: cannot be read: No such file or directory")
    assert survey(str(put(tmp_path / "a.csv", "image,label\n")), ColumnChoice()) == Survey(True, True, True)


def test_utf_32_of_the_other_order(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 2)
    text = f"path,label\n{names[0]},caf\xe9\n{names[1]},th\xe9\n"
    read = read_labeled(put(tmp_path / "a.csv", b"\0\0\xfe\xff" + text.encode("utf-32-be")))
    assert read.labels == ("caf\xe9", "th\xe9")


def test_a_table_that_the_system_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = csv_file(tmp_path / "a.csv", ["a", "b"])

    def fail(*given: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vit_hybrid.data.tables.open", fail, raising=False)
    assert refused(read_labeled, path) == f"{path}: cannot be read: Permission denied"


def test_cells_that_nobody_reads_behind_a_byte_order_mark(tmp_path: Path) -> None:
    (name,) = pictures_beside(tmp_path, 1)
    path = put(tmp_path / "a.csv", b"\xef\xbb\xbfpath,label,remark\n" + name.encode() + b",x,caf\xe9\n")
    assert read_labeled(path).labels == ("x",)


def test_names_of_columns_without_the_spaces_around_them(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["a,1", "b,2"], "where , what ,size")
    assert read_labeled(path, image_column="where", label_column="what").labels == ("a", "b")


def test_lines_of_spaces_between_objects_say_nothing(tmp_path: Path) -> None:
    first, second = pictures_beside(tmp_path, 2)
    rows = [json.dumps({"path": name, "label": label}) for name, label in ((first, "a"), (second, "b"))]
    assert read_labeled(put(tmp_path / "a.jsonl", f" \n{rows[0]}\n\t\n{rows[1]}\n  ")).labels == ("a", "b")


def test_decimal_commas_in_several_columns(tmp_path: Path) -> None:
    first, second = pictures_beside(tmp_path, 2)
    path = put(tmp_path / "a.csv", f"path;x;y\n{first};0,5;3\n{second};-2;1,25\n")
    read = read_labeled(path, label_column="x,y")
    assert (read.problem_type, read.targets.tolist()) == (REGRESSION, [[0.5, 3], [-2, 1.25]])


@pytest.mark.parametrize("join", [",", ";", "\t", "|"])
def test_the_separator_that_is_there_where_no_name_says_which(join: str, tmp_path: Path) -> None:
    read = read_labeled(csv_file(tmp_path / "a.csv", ["a", "b"], f"what{join}of it", join))
    assert (read.labels, levels_of(read)) == (("a", "b"), [0, 1])


def test_a_column_of_splits_in_json(tmp_path: Path) -> None:
    names = pictures_beside(tmp_path, 3)
    rows = [
        {"path": name, "label": label, "split": split}
        for name, label, split in zip(names, "aba", ("Train", "train", "dev"), strict=True)
    ]
    split = read_splits(put(tmp_path / "a.json", json.dumps(rows)))
    assert (levels_of(split.train), split.train.labels) == ([0, 1], ("a", "b"))
    assert (levels_of(split.val), split.val.targets.tolist()) == ([2], [0])


def test_tables_of_text_and_of_values_are_read_together(tmp_path: Path) -> None:
    csv_file(tmp_path / "train.csv", ["1", "2"])
    json_lines(tmp_path / "val.jsonl", [2, 1, 1])
    read = read_labeled(tmp_path)
    assert (read.labels, read.targets.tolist()) == (("1", "2"), [0, 1, 1, 0, 0])


def test_several_labels_where_that_is_asked_for(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["a", "b", "a"])
    read = read_labeled(path, problem_type=MULTI_LABEL)
    assert (read.labels, read.targets.tolist()) == (("a", "b"), [[1, 0], [0, 1], [1, 0]])

"""`vit-hybrid search` as people type it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_index import index_of_pictures, made_pictures, write_index
from typer.testing import CliRunner, Result

from vit_hybrid import search as job
from vit_hybrid.cli import search as command
from vit_hybrid.cli.main import app
from vit_hybrid.cli.output import ProgressBar

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six pictures, of which the third cannot be read and the last is a copy of the first."""
    paths = made_pictures(tmp_path_factory.mktemp("pictures"), 6)
    paths[2].write_bytes(b"no picture")
    shutil.copy(paths[0], paths[5])
    return paths


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, pictures: list[Path], tiny_folder: Path) -> Path:
    return index_of_pictures(tmp_path_factory.mktemp("index") / "x.parquet", str(tiny_folder), pictures)


@pytest.fixture
def run(index: Path) -> Any:
    def invoke(*arguments: str | Path, place: Path = index, given: bytes | None = None) -> Result:
        return CliRunner().invoke(app, ["search", str(place), *map(str, arguments)], input=given)

    return invoke


ON_CPU = ("--engine", "torch", "--device", "cpu")


def test_one_json_object_a_query_nearest_first(run: Any, pictures: list[Path]) -> None:
    result = run(*pictures, "--json", "--top-k", "3", *ON_CPU)
    assert result.exit_code == 1
    assert result.stderr == ""
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["path"] for record in records] == [str(path) for path in pictures]
    assert records.pop(2).keys() == {"path", "error"}
    for record in records:
        assert record.keys() == {"path", "neighbors"}
        assert [neighbor.keys() for neighbor in record["neighbors"]] == [{"path", "similarity"}] * 3
        assert record["neighbors"][0] == {"path": record["path"], "similarity": 1.0}


def test_a_table_a_query_and_errors_beside_them(
    run: Any, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MANY_ROWS", 6)  # of which no more are there, and nothing is said
    result = run(pictures[2], pictures[1], "--top-k", "2", *ON_CPU)
    assert result.exit_code == 1
    assert result.stderr == f"vit-hybrid: {pictures[2]}: is not a picture in a format that Pillow reads\n"
    title, heads, _, first, second = result.stdout.splitlines()[:5]
    assert title == str(pictures[1])
    assert heads.split() == ["picture", "similarity"]
    assert first.split() == [str(pictures[1]), "1.0000"]
    assert float(second.split()[-1]) <= 1
    assert run(pictures[1], *ON_CPU).exit_code == 0


def test_folders_and_standard_input(run: Any, pictures: list[Path], index: Path, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    shutil.copy(pictures[4], tmp_path / "inside")
    (tmp_path / "inside" / "notes.txt").touch()
    page = tmp_path / "page.html"
    result = run(tmp_path, "-", "--json", "--html", page, *ON_CPU, given=pictures[3].read_bytes())
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "vit-hybrid: passed over: 1 file of another kind (1 .txt)\n"
    found = [json.loads(line)["neighbors"][0]["path"] for line in result.stdout.splitlines()]
    assert found == [str(pictures[4]), str(pictures[3])]
    text = page.read_text()
    assert f"Pictures like these in {index}" in text
    assert text.count("<section>") == 2
    assert text.count("<img") == 2 * (1 + 5)
    assert text.endswith("</html>\n")


def test_a_picture_that_cannot_be_read_is_not_on_the_page(run: Any, pictures: list[Path], tmp_path: Path) -> None:
    result = run(pictures[2], pictures[1], "--html", tmp_path / "page.html", "--top-k", "1", *ON_CPU)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert (tmp_path / "page.html").read_text().count("<section>") == 1


def test_through_the_faiss_index(run: Any, pictures: list[Path], index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(job, "MANY_ROWS", 5)  # of which it is not told then
    inner, searched = job.Searcher, list[Any]()
    with monkeypatch.context() as patch:
        patch.setattr(
            job, "Searcher", lambda index, *given, **how: searched.append(index) or inner(index, *given, **how)
        )
        result = run(pictures[1], "--json", "--index", *ON_CPU)
    assert isinstance(searched[0], job.Approximate)
    assert (result.exit_code, len(result.stderr.splitlines())) == (0, 1)
    assert result.stderr.startswith(f"vit-hybrid: {index}: its faiss index finds 100.0% of the ten nearest, measured")
    assert result.stdout == run(pictures[1], "--json", *ON_CPU).stdout
    assert (index / "_neighbors.faiss").exists()


def test_an_index_of_millions_is_told_of(run: Any, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "MANY_ROWS", 5)
    result = run(pictures[1], *ON_CPU)
    assert "6 rows are compared with each query; --index makes this faster" in result.stderr


def test_duplicates_in_groups(
    run: Any, pictures: list[Path], index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MOST_ROWS_OF_ALL_PAIRS", 6)
    result = run("--duplicates", "1", "--html", tmp_path / "x.html")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "vit-hybrid: 2 of 6 pictures in 1 group with a similarity of at least 1\n"
    title, _, _, row, *_ = result.stdout.splitlines()
    assert (title, row.split()) == (str(pictures[0]), [str(pictures[5]), "1.0000"])
    assert (tmp_path / "x.html").read_text().count("<img") == 2
    assert f"Nearly the same in {index}" in (tmp_path / "x.html").read_text()
    in_json = run("--duplicates", "1", "--json", "--html", tmp_path / "Y.HTM")
    assert in_json.stderr == ""
    [line] = in_json.stdout.splitlines()
    assert (tmp_path / "Y.HTM").read_text() == (tmp_path / "x.html").read_text()
    assert json.loads(line) == {
        "path": str(pictures[0]),
        "duplicates": [{"path": str(pictures[5]), "similarity": 1.0}],
    }


def test_duplicates_of_many_go_through_the_index(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    exact = run("--duplicates", "1", "--json").stdout
    monkeypatch.setattr(job, "MOST_ROWS_OF_ALL_PAIRS", 5)
    result = run("--duplicates", "1", "--json")
    assert result.stdout == exact
    assert "its faiss index finds" in result.stderr


def test_no_duplicates(tmp_path: Path, run: Any) -> None:
    place = write_index(tmp_path / "x", [*np.eye(3, dtype=np.float32)])
    result = run("--duplicates", "0.9", place=place)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "vit-hybrid: no two pictures with a similarity of at least 0.9\n"
    place = write_index(tmp_path / "y", [*np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 0, 2]]])
    result = run("--duplicates", "0.95", place=place)
    assert result.stderr == "vit-hybrid: 5 of 6 pictures in 2 groups with a similarity of at least 0.95\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "no PICTURE to search for; name some, or list near-identical ones with --duplicates 0.95"),
        (["x.jpg", "--duplicates", "0.9"], "--duplicates compares the pictures of INDEX with each other"),
        (["--duplicates", "0.9", "--model", "x"], "leave out PICTURE and --model"),
        (["--duplicates", "1.5"], "--duplicates is 1.5; expected a similarity above 0 and at most 1"),
        (["--duplicates", "0"], "--duplicates is 0; expected a similarity"),
        (["--duplicates", "nan"], "--duplicates is nan; expected a similarity"),
        (["x.jpg", "--html", "x.jpg"], "--html is x.jpg; expected a name that ends in .html"),
        (["x.jpg", "--model", "vit-hybrid-tiny-imagenet"], "give that model with --model, or embed the pictures anew"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run: Any, arguments: list[str], reason: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert reason in line


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "absent",
            "absent: there is no such folder or file; expected the folder of parquet files that vit-hybrid embed",
        ),
        ("pictures", "pictures: there is no parquet file in this folder"),
        ("cat.jpg", "cat.jpg: this is no parquet file"),
        ("s3://bucket/x.parquet", "s3://bucket/x.parquet: an index is searched on the machine that it lies on"),
        ("table.parquet", "table.parquet: its metadata do not say what model its vectors are of"),
    ],
)
def test_an_index_of_something_else_is_one_line_and_status_2(tmp_path: Path, run: Any, name: str, reason: str) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    made_pictures(tmp_path / "pictures", 1)
    (tmp_path / "cat.jpg").touch()
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "table.parquet")
    result = run("x.jpg", place=name if "://" in name else tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert reason in line


def test_missing_extras_are_named(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = write_index(tmp_path / "x", [np.ones(3)])
    for package, name in (("pyarrow", "pyarrow"), ("faiss", "faiss-cpu")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            result = run("--duplicates", "0.9", "--index", place=place)
        assert result.exit_code == 2
        [line] = result.stderr.splitlines()
        assert f"needs {name}, not installed here; pip install 'vit-hybrid[search]' brings it." in line


def test_a_bar_goes_as_far_as_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    made: list[tuple[int, str]] = []
    monkeypatch.setattr(
        command, "ProgressBar", lambda total, doing: made.append((total, doing)) or ProgressBar(total, doing)
    )
    monkeypatch.setattr(ProgressBar, "advance", lambda self, steps=1: done.append(steps))
    monkeypatch.setattr(ProgressBar, "close", lambda self: done.append(0))
    with command._bar("Reading vectors"):
        pass
    assert done == []  # where there was nothing to wait for
    with command._bar("Reading vectors") as progress:
        for number in (2, 5, 5, 10):
            progress(number, 10)
    assert done == [2, 3, 0, 5, 0]
    assert made == [(10, "Reading vectors")]


@pytest.mark.parametrize("words", [[], ["--index"]])
def test_what_takes_long_is_shown_on_a_bar(words: list[str], run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def bar(doing: str) -> Iterator[Any]:
        told[doing] = []
        yield lambda *done: told[doing].append(done)

    if words:
        pytest.importorskip("faiss")
    monkeypatch.setattr(command, "_bar", bar)
    place = write_index(tmp_path / "x", [*np.eye(3, dtype=np.float32)])
    assert run("--duplicates", "0.9", *words, place=place).exit_code == 0
    built = {"Building the index": [(3, 3)], "Comparing": [(3, 3)]} if words else {"Comparing": [(1, 1)]}
    assert told == {"Reading vectors": [(3, 3)], **built}


def test_what_is_searched_for_is_counted_and_not_what_was_typed(
    run: Any, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []

    class Printer(command.NeighborPrinter):
        def __init__(self, *given: Any) -> None:
            made.append(given)
            super().__init__(*given)

    def stream(sources: Any, *_: Any, **__: Any) -> Any:
        return ({"path": path, "neighbors": []} for path, _ in sources)

    monkeypatch.setattr(job, "Searcher", lambda *_, **__: SimpleNamespace(stream=stream))
    monkeypatch.setattr(command, "NeighborPrinter", Printer)
    assert run(pictures[0].parent, pictures[1], "--json").exit_code == 0
    assert made == [(True, [], 7, "Searching")]  # six of them in a folder


@pytest.mark.parametrize(
    ("count", "source", "ahead"), [(16, None, False), (17, None, True), (16, "-", False), (17, "-", False)]
)
def test_standard_input_is_not_waited_for(
    count: int, source: str | None, ahead: bool, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, bool]] = []

    def stream(sources: Any, top_k: int, read_ahead: bool) -> Any:
        asked.append((top_k, read_ahead))
        return ({"path": path, "neighbors": []} for path, _ in sources)

    monkeypatch.setattr(job, "Searcher", lambda *_, **__: SimpleNamespace(stream=stream))
    words = [f"{number}.jpg" for number in range(count)] + ([source] if source else [])
    assert run(*words, "--json", given=b"a picture").exit_code in (0, 1)
    assert asked == [(10, ahead)]


def test_an_error_leaves_no_half_page(run: Any, pictures: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "elsewhere")

    page = tmp_path / "x.html"
    page.write_text("before")
    monkeypatch.setattr("vit_hybrid.search.sheet.Sheet.add", fail)
    result = run(pictures[0], "--html", page, *ON_CPU)
    assert result.exit_code == 2
    assert "the disk is full" in result.stderr
    assert page.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]

"""`vit-hybrid predict` and `embed`, from the command line to rows: real engines, processes, statuses."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from broken_pictures import sound
from made_confidence import calibrated_copy
from told_loading import loading_into
from typer.testing import CliRunner, Result

from vit_hybrid import Predictor
from vit_hybrid.cli import parts as parts_shown
from vit_hybrid.cli.main import app
from vit_hybrid.data import Passed
from vit_hybrid.data.streams import open_stream
from vit_hybrid.predict.job import Summary

pq = pytest.importorskip("pyarrow.parquet", reason="rows in parquet need pyarrow")

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures, the third of which is broken."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(11):
        (folder / f"{number:02d}.png").write_bytes(sound("PNG", number))
    (folder / "02.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def run(pictures: Path, tiny_folder: Path, tmp_path: Path) -> Run:
    def invoked(command: str, out: str, *options: str) -> Result:
        fixed = ("--model", str(tiny_folder), "--batch-size", "4", "--threads", "1", "--rows-per-part", "4")
        return CliRunner().invoke(app, [command, str(pictures), "--output", str(tmp_path / out), *fixed, *options])

    return invoked


def parts(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("part-*")}


def rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out).to_pylist()


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnx"])
def test_a_row_depends_on_its_picture_alone(run: Run, tmp_path: Path, engine: str) -> None:
    if engine != "torch":
        pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine), reason="the engine is not installed")
    for out, size in (("x.parquet", "3"), ("y.parquet", "5")):  # so that each stands elsewhere in its batch
        result = run("predict", out, "--engine", engine, "--embeddings", "--rows-per-part", size)
        assert result.exit_code == 0, result.output
    assert rows(tmp_path / "x.parquet") == rows(tmp_path / "y.parquet")


def test_processes_write_the_same_bytes(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="what starts in a moment is OpenVINO")
    options = ("--engine", "openvino", "--embeddings")  # what another test has converted
    assert run("predict", "x.parquet", *options).exit_code == 0
    result = run("predict", "y.parquet", *options, "--workers", "2", "--json")
    assert result.exit_code == 0, result.output
    assert parts(tmp_path / "x.parquet") == parts(tmp_path / "y.parquet")
    said = json.loads(result.stdout)
    assert said.pop("seconds") > 0
    assert said == {
        **{"output": str(tmp_path / "y.parquet"), "rows": 11, "errors": 1, "parts": 3},
        **{"workers": 2, "nodes": 1, "new_rows": 11},
    }


def test_statuses(run: Run, tmp_path: Path) -> None:
    first = run("predict", "x.csv", "--engine", "torch")
    assert first.exit_code == 0
    assert "11" in first.stdout
    assert run("predict", "x.csv", "--engine", "torch").exit_code == 2
    strict = run("predict", "x.csv", "--engine", "torch", "--resume", "--strict", "--json")
    assert strict.exit_code == 1
    assert json.loads(strict.stdout)["errors"] == 1
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 12
    refused = run("predict", "x.csv", "--engine", "torch", "--resume", "--top-k", "1")
    assert refused.exit_code == 2
    assert "top-k was 5 and is 1" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    nowhere = CliRunner().invoke(app, ["predict", str(tmp_path / "nothing"), "--output", str(tmp_path / "y.csv")])
    assert nowhere.exit_code == 2
    assert "nothing: no such file or folder" in nowhere.stderr


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_that_no_picture_could_be_read_is_said_loudly(
    run: Run, command: str, tiny_folder: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "paths.txt"
    listed.write_text("gone/1.png\ngone/2.png\n")
    options = ("--output", str(tmp_path / "x.parquet"), "--model", str(tiny_folder), "--engine", "torch", "--json")
    result = CliRunner().invoke(app, [command, str(listed), *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["errors"] == 2
    assert f"none of 2 pictures could be read; {tmp_path / 'x.parquet'} says why, in `reason`" in result.stderr
    assert "could be read" not in run(command, "y.parquet", "--engine", "torch").stderr


def test_vectors(run: Run, tmp_path: Path) -> None:
    result = run("embed", "x.parquet", "--engine", "torch", "--dtype", "float16")
    assert result.exit_code == 0, result.output
    [first, *_] = rows(tmp_path / "x.parquet")
    assert len(first["embedding"]) == 16
    again = run("embed", "x.parquet", "--engine", "torch", "--dtype", "float16", "--resume", "--strict")
    assert again.exit_code == 1  # of the picture that is broken
    assert ["rows", "11"] in [line.split() for line in again.stdout.splitlines()]


class Terminal(io.StringIO):
    """Standard error as a person sees it."""

    def isatty(self) -> bool:
        return True


def test_the_bar_shows_rate_errors_and_time_left(monkeypatch: pytest.MonkeyPatch, pictures: Path) -> None:
    terminal = Terminal()
    monkeypatch.setattr(parts_shown, "standard_error", lambda: terminal)
    monkeypatch.setattr(parts_shown, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(parts_shown, "loading", lambda model: nullcontext(lambda text: None))
    now = [100.0]
    monkeypatch.setattr(parts_shown, "time", SimpleNamespace(monotonic=lambda: now[0]))
    stream = open_stream([str(pictures)])
    with parts_shown.RunProgress("a model") as progress:
        progress.begin(stream)
        for thread in threading.enumerate():
            if thread.name == parts_shown.COUNTING:
                thread.join()
        now[0] += 4.0
        progress.advance(7, 1, 4)
        progress.advance(11, 3, 8)
    said = re.sub(r"\x1b\[[\d;?]*\w", "", terminal.getvalue())
    assert "7/11" in said
    assert "11/11" in said
    assert "1 a second" in said  # of the rows of this run
    assert "2 a second" in said
    assert "1 error -:" in said
    assert re.search(r"Predicting \S+ 7/11 1 a second 1 error -:", re.sub(" +", " ", said))
    assert "3 errors 0:00:00" in said
    assert "2/?" not in said
    with parts_shown.RunProgress("a model") as progress:
        monkeypatch.setattr(progress, "_count", lambda stream: None)
        progress.begin(stream)
        now[0] += 4.0
        progress.advance(2, 0, 2)
        progress._total = 11  # which is known a little later
        progress.advance(9, 0, 9)
    said = re.sub(r"\x1b\[[\d;?]*\w", "", terminal.getvalue())
    assert "2/?" in said
    assert "0 errors" in said
    assert "9/11" in said


@pytest.mark.parametrize(
    ("is_terminal", "seconds", "is_shown"), [(True, 2.0, False), (True, 2.1, True), (False, 99.0, False)]
)
def test_a_bar_is_shown_to_a_person_who_has_waited(
    is_terminal: bool, seconds: float, is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(parts_shown, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(parts_shown, "is_terminal", lambda _: is_terminal)
    shown: list[str] = []
    stop = SimpleNamespace(stop=lambda: shown.append("stop"), add_task=lambda *_, **__: shown.append("add"))
    stop.start, stop.update, stop.task_ids = (lambda: None), (lambda *_, **__: None), [0]
    monkeypatch.setattr(parts_shown, "_new_bar", lambda: stop)
    monkeypatch.setattr(parts_shown, "loading", lambda model: nullcontext(lambda text: None))
    counted: list[bytes] = []
    with parts_shown.RunProgress("a model") as progress:
        monkeypatch.setattr(progress, "_count", counted.append)
        progress.begin(SimpleNamespace(passed=Passed()))  # type: ignore[arg-type]
        for thread in threading.enumerate():
            if thread.name == parts_shown.COUNTING:
                thread.join()
        now[0] += seconds
        progress.advance(2, 0, 2)
    assert shown == (["add", "stop"] if is_shown else [])
    assert len(counted) == is_terminal  # which is work for nothing where nobody sees it


def test_the_summary_counts_what_a_second_of_this_run_did(capsys: pytest.CaptureFixture[str]) -> None:
    parts_shown.conclude(Summary("x.csv", 9000, 17, 2.5, 4, 2, 1, 5000), strict=False, as_json=False)
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines() if line[-1:].isdigit()]
    assert rows == [
        ["rows", "9,000"],
        ["of pictures that could not be read", "17"],
        ["parts", "4"],
        ["rows of this run", "5,000"],
        ["seconds", "2.5"],
        ["pictures a second", "2,000"],
    ]


def test_a_model_is_being_loaded_until_a_worker_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    monkeypatch.setattr(parts_shown, "loading", loading_into(steps))
    with parts_shown.RunProgress("a model") as progress:
        progress.tell("converts")
        progress.begin(SimpleNamespace(passed=Passed()))  # type: ignore[arg-type]
        steps.append("begins")
    assert steps == ["loads a model", "converts", "loaded", "begins"]


def test_of_no_pictures_nobody_says_that_they_could_not_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    for rows, is_said in ((0, False), (3, True)):
        parts_shown.conclude(Summary("x\x1b.csv", rows, rows, 0.5, 0, 1, 1, 0), strict=False, as_json=True)
        said = "vit-hybrid: none of 3 pictures could be read; x\\x1b.csv says why, in `reason`\n"
        assert capsys.readouterr().err == (said if is_said else "")


def test_a_run_that_fails_says_why_and_nothing_of_what_was_passed_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_shown, "loading", lambda model: nullcontext(lambda text: None))
    passing: Any = SimpleNamespace(passed=Passed())
    passing.passed.add("hidden", "here", 2)

    def ended(error: Exception | None) -> str:
        with suppress(ValueError), parts_shown.RunProgress("a model") as progress:
            progress.begin(passing)
            if error is not None:
                raise error
        return capsys.readouterr().err

    assert ended(None) == "vit-hybrid: passed over: 2 hidden files or folders\n"
    assert ended(ValueError("why")) == ""


def test_what_was_passed_over_is_told(run: Run, pictures: Path, tmp_path: Path) -> None:
    (pictures / "notes.txt").write_text("no picture")
    try:
        assert "passed over: 1 file of another kind (1 .txt)" in run("predict", "x.csv", "--engine", "torch").stderr
    finally:
        (pictures / "notes.txt").unlink()


def test_ray_writes_the_same_bytes_and_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed")
    pytest.importorskip("openvino", reason="what starts in a moment is OpenVINO")
    options = ("--engine", "openvino", "--embeddings")
    monkeypatch.setattr("vit_hybrid.inference.cluster.cores", lambda: 2)
    assert run("predict", "x.parquet", *options).exit_code == 0
    assert run("predict", "y.parquet", *options, "--workers", "1").exit_code == 0
    (tmp_path / "y.parquet" / "part-00001.parquet").unlink()
    result = run("predict", "y.parquet", *options, "--resume", "--ray", "--workers", "2", "--json")
    assert result.exit_code == 0, result.output
    assert parts(tmp_path / "x.parquet") == parts(tmp_path / "y.parquet")
    assert {**json.loads(result.stdout), "seconds": 0, "output": ""} == {
        **{"output": "", "rows": 11, "errors": 1, "parts": 3, "seconds": 0},
        **{"workers": 2, "nodes": 1, "new_rows": 4},
    }
    assert not any(capfd.readouterr())


def test_a_cluster_that_is_not_there_leaves_what_is_done(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed")
    assert run("predict", "x.parquet", "--engine", "torch").exit_code == 0
    before = parts(tmp_path / "x.parquet")
    for address, said in (
        ("127.0.0.1:1", "127.0.0.1:1: nobody answers at this address"),
        ("=a", "expected local, auto"),
    ):
        flag = [f"--ray{address}"] if address == "=a" else ["--ray", address]
        result = run("predict", "x.parquet", "--engine", "torch", "--overwrite", *flag)
        assert (result.exit_code, said in result.stderr, result.stderr.count("\n")) == (2, True, 1)
    assert run("predict", "x.parquet", "--resume", "--cpus-per-worker", "2").exit_code == 2
    assert parts(tmp_path / "x.parquet") == before


def test_what_is_said_of_a_calibrated_model_comes_with_its_labels(
    pictures: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    model = calibrated_copy(tiny_folder, tmp_path / "model")

    def invoked(out: str, *options: str) -> Result:
        fixed = ("--model", str(model), "--batch-size", "4", "--engine", "torch", "--device", "cpu")
        return CliRunner().invoke(app, ["predict", str(pictures), "--output", str(tmp_path / out), *fixed, *options])

    predictor = Predictor.from_pretrained(model, engine="torch", device="cpu", batch_size=4, fill_batches=True)
    expected = list(predictor.stream(sorted(map(str, pictures.iterdir())), 2, coverage=0.8, false_alarms=0.3))
    levels = ("--coverage", "0.8", "--false-alarms", "0.3", "--top-k", "2")
    for out in ("x.parquet", "x.csv", "x.jsonl", "v.parquet"):
        result = invoked(out, *levels, *(["--embeddings"] if out == "v.parquet" else []))
        assert result.exit_code == 0, result.output
    tables: dict[str, list[dict[str, Any]]] = {
        "x.parquet": rows(tmp_path / "x.parquet"),
        "v.parquet": rows(tmp_path / "v.parquet"),
        "x.csv": list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text()))),
        "x.jsonl": [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()],
    }
    assert predictor.confidence is not None
    told = (json.loads(line) for line in (tmp_path / "x.parquet" / "_manifest.jsonl").read_text().splitlines())
    [temperature] = [line["facts"]["temperature"] for line in told if "facts" in line]
    assert temperature == pytest.approx(float(predictor.confidence.temperature))
    for name, table in tables.items():
        for row, said in zip(table, expected, strict=True):
            if "error" in said:
                assert row["error"]
                assert not row.get("set")
                continue
            as_text = name == "x.csv"
            assert (json.loads(row["set"]) if as_text else row["set"]) == said["set"]
            assert float(row["familiarity"]) == pytest.approx(said["familiarity"], abs=1e-5)
            assert row["none_of_these"] == (str(said["none_of_these"]).lower() if as_text else said["none_of_these"])
    assert len(tables["v.parquet"][0]["embedding"]) == 16

    other = invoked("x.parquet", *levels[2:], "--resume")
    assert other.exit_code == 2
    assert "coverage was 0.8 and is 0.9" in other.stderr
    plain = invoked("plain.parquet", "--uncalibrated")
    assert plain.exit_code == 0, plain.output
    assert "set" not in rows(tmp_path / "plain.parquet")[0]
    refused = invoked("never.parquet", "--coverage", "0.999")
    assert (refused.exit_code, (tmp_path / "never.parquet").exists()) == (2, False)
    assert "take 999 held-out pictures, and there are" in refused.stderr

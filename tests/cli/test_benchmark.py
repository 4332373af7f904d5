"""`vit-hybrid benchmark` as people type it: what it prints, what it writes, how it refuses and how it ends."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import fresh_process
import pytest
from fake_contenders import Fakes, in_place, is_alive
from told_bars import bar_into
from told_loading import loading_into
from typer.testing import CliRunner, Result

from vit_hybrid.cli.main import app

FEW = ("--batch-sizes", "1,2", "--engines", "torch", "--repetitions", "1", "--warm-up", "0", "--threads", "1")


@pytest.fixture
def fakes(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return in_place(tiny_folder, tmp_path / "log.txt", monkeypatch)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments), "--device", "cpu"])


def test_the_first_table_is_the_documentations(fakes: Fakes) -> None:
    result = command(fakes.model, *FEW)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    first = lines.index("torch f32, eager and sdpa, 32 x 32 pixels")
    heads = [word.strip() for word in lines[first + 1].split("   ")]
    assert heads == ["batch size", "eager ms", "sdpa ms", "speed-up"]
    rows = [[float(word) for word in line.split()] for line in lines[first + 3 : first + 5]]
    assert [row[0] for row in rows] == [1, 2]
    assert all(row[3] == pytest.approx(row[1] / row[2], abs=0.01) for row in rows)
    assert first < lines.index("All contenders") < lines.index("Start-up") < lines.index("The machine")
    assert all(line == line.rstrip() for line in lines)
    assert "Did not get through" not in lines
    assert lines[first + 5].startswith("A batch's time, minimum; speed-up: eager / sdpa.")
    assert any(line.startswith("From the start of the process to the logits of one picture.") for line in lines)


def test_json_is_one_object_and_failures_are_in_it(fakes: Fakes, tmp_path: Path) -> None:
    fakes.acts = {"bf16": "refuse"}
    output = ("--output", tmp_path / "out")
    result = command(fakes.model, *FEW, "--precision", "bf16,f32", "--attention", "sdpa", "--json", *output)
    assert result.exit_code == 1
    [text] = result.stdout.splitlines()
    found = json.loads(text)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found
    assert [failure["contender"] for failure in found["failures"]] == ["torch bf16 sdpa"]
    assert [row["batch_size"] for row in found["rows"] if "error" not in row] == [1, 2]
    assert found["model"] == {"name": fakes.model.name, "weights": "as saved"}
    assert str(fakes.model.parent) not in text


def test_while_it_is_measured_a_spinner_makes_way_for_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []

    def run(settings: Any, progress: Any, preparing: Any) -> None:
        with preparing():
            steps.append("prepares")
        for done in (1, 2):
            progress(done, 7)
        raise ValueError("why")

    monkeypatch.setattr("vit_hybrid.cli.benchmark.ProgressBar", bar_into(steps))
    monkeypatch.setattr("vit_hybrid.cli.benchmark.loading", loading_into(steps))
    monkeypatch.setattr("vit_hybrid.benchmark.job.run", run)
    assert command("a model").stderr == "vit-hybrid: why\n"
    assert steps == [
        *("loads a model", "prepares", "loaded"),
        *(("Measuring", 7), "advance", "advance", "close"),
    ]


def test_a_failure_has_its_line_in_the_tables(fakes: Fakes) -> None:
    fakes.acts = {"bf16": "crash"}
    result = command(fakes.model, *FEW, "--precision", "f32,bf16", "--attention", "sdpa")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].split("1, 2")[1].strip() == "its process ended with status 3: about to fall"


def test_the_files(fakes: Fakes, tmp_path: Path) -> None:
    result = command(fakes.model, *FEW, "--image-sizes", "32,64x32", "--output", tmp_path / "some" / "where")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "some" / "where").iterdir()) == [
        "chart.png",
        "results.json",
        "results.md",
    ]
    found = json.loads((tmp_path / "some" / "where" / "results.json").read_text())
    assert [size["image_size"] for size in found["sizes"]] == [[32, 32], [64, 32]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch-sizes", "1,x"], "'x' is no whole number"),
        (["--batch-sizes", "0"], "'0' is no whole number"),
        (["--batch-sizes", "4x"], "'4x' is no whole number"),
        (["--batch-sizes", ","], "',': expected one or more"),
        (["--image-size", "32x"], "'32x' is no size such as 384"),
        (["--engines", "tensorrt"], "found tensorrt"),
        (["--engines", ""], "'': expected one or more"),
        (["--precision", "fp8"], "found fp8"),
        (["--attention", "flash"], "found flash"),
        (["--token-merging", "-1"], "'-1' is no whole number"),
        (["--peers", "new=python"], "expected legacy=PYTHON"),
        (["--peers", "timm=/no/such/python"], "cannot be started"),
        (["--engines", "onnx", "--compile"], "compile is for the engine torch"),
        (["--output", __file__], "this is a file"),
        (["--output", Path(__file__).parents[2] / "LICENSE"], "this is a file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(arguments: list[str], words: str, fakes: Fakes) -> None:
    result = command(fakes.model, *FEW, *arguments)
    assert result.exit_code == 2, result.output
    said = " ".join(result.stderr.replace("│", " ").split())
    assert words in said
    assert not words.startswith("'") or f"Invalid value for {arguments[0]}" in said
    assert "Traceback" not in result.output
    assert not result.stdout
    assert not fakes.log.exists()


def test_a_model_that_is_not_there_leaves_no_folder(
    fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = command("R50+B/17", *FEW, "--output", tmp_path / "out")
    assert result.exit_code == 2
    [complaint] = [line for line in result.stderr.splitlines() if line.startswith("vit-hybrid: ")]
    assert "R50+B/17" in complaint
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there(fakes: Fakes) -> None:
    result = CliRunner().invoke(app, ["benchmark", str(fakes.model), *FEW, "--device", "nowhere"])
    assert result.exit_code == 2
    assert "Device 'nowhere' cannot be used here" in result.stderr


def test_a_chart_without_matplotlib_is_refused_at_once(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["matplotlib"] = None
from typer.testing import CliRunner
from vit_hybrid.cli.main import app
result = CliRunner().invoke(app, ["benchmark", "--output", {str(tmp_path / "out")!r}])
assert result.exit_code == 2, result.output
print(result.stderr)
assert "torch" not in sys.modules
"""
    assert "pip install 'vit-hybrid[evaluate]'" in fresh_process.run(code)
    assert not (tmp_path / "out").exists()


def test_the_command_loads_nothing_before_it_runs() -> None:
    code = "import sys, vit_hybrid.cli.benchmark as _; print(*{'torch', 'transformers', 'numpy'} & set(sys.modules))"
    assert not fresh_process.run(code).strip()


def test_ctrl_c_ends_everything(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.acts = {"f32": "hang at two"}
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def press() -> None:
        deadline = time.monotonic() + fresh_process.TIME_LIMIT
        while not (fakes.log.exists() and "turn f32 2" in fakes.log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        thread = threading.Thread(target=press)
        thread.start()
        result = command(fakes.model, *FEW, "--output", tmp_path / "out")
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert not result.stdout
    assert not any(is_alive(int(words[0])) for words in fakes.noted())
    assert not list(temporary.iterdir())
    assert not (tmp_path / "out").exists()

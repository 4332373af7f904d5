"""How every command ends where standard output cannot be written to, or Ctrl-C is pressed: in a line or without one."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fresh_process
import numpy as np
import pytest
from fake_contenders import in_place
from fake_race import raced
from made_index import index_of_pictures
from PIL import Image
from typer.testing import CliRunner

from vit_hybrid.cli import streams
from vit_hybrid.cli.main import COMMANDS as ALL
from vit_hybrid.cli.main import app

LABELS = ("LABEL_0", "LABEL_1", "LABEL_2")
ON_CPU = ("--engine", "torch", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes by their color, enough to calibrate with."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 30)):
        for place, label in enumerate(LABELS):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                levels = random.integers(0, 120, (20, 20, 3), dtype=np.uint8)
                levels[..., place] += 100
                Image.fromarray(levels).save(folder / split / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, data: Path) -> Path:
    pytest.importorskip("pyarrow")
    pictures = sorted((data / "train").rglob("*.png"))
    return index_of_pictures(tmp_path_factory.mktemp("index") / "x.parquet", str(tiny_folder), pictures)


# What each command takes, and what it writes into the folder `out` beside what it prints.
Given = Callable[[Path, Path, Path, Path], list[Any]]
COMMANDS: dict[str, tuple[Given, tuple[str, ...]]] = {
    "classify": (lambda model, data, index, out: [data / "train", "--model", model, *ON_CPU], ()),
    "predict": (
        lambda model, data, index, out: [data / "train", "--model", model, "--output", out / "rows.csv", *ON_CPU],
        ("rows.csv",),
    ),
    "embed": (
        lambda model, data, index, out: [data / "train", "--model", model, "--output", out / "x.parquet", *ON_CPU],
        ("x.parquet/part-00000.parquet",),
    ),
    "search": (
        lambda model, data, index, out: [index, data / "train" / "LABEL_0", "--html", out / "page.html", *ON_CPU],
        ("page.html",),
    ),
    "search --duplicates": (
        lambda model, data, index, out: [index, "--duplicates", "0.1", "--html", out / "page.html"],
        ("page.html",),
    ),
    "explain": (
        lambda model, data, index, out: [
            *(*sorted((data / "train" / "LABEL_0").iterdir())[:2], "--model", model, "--output", out, "--html"),
            *("--device", "cpu"),
        ],
        ("explained.html", "0-relevance.npz", "1-relevance.npz"),
    ),
    "explain --model-only": (
        lambda model, data, index, out: ["--model-only", "--model", model, "--output", out, "--device", "cpu"],
        ("{model}-model.png",),
    ),
    "info": (lambda model, data, index, out: [model], ()),
    "convert": (lambda model, data, index, out: [model, out / "model"], ("model/model.safetensors",)),
    "evaluate": (
        lambda model, data, index, out: [model, data, "--output", out, *ON_CPU],
        ("metrics.json", "predictions.csv", "confusion_matrix.png"),
    ),
    "calibrate": (
        lambda model, data, index, out: [model, data, "--output", out / "model", *ON_CPU],
        ("model/confidence.json",),
    ),
    "train": (
        lambda model, data, index, out: [
            *(data, "--model", model, "--output", out / "model", "--max-steps", 1, "--batch-size", 2),
            *("--workers", 0, "--device", "cpu"),
        ],
        ("model/model.safetensors",),
    ),
    "probe": (
        lambda model, data, index, out: [data, "--model", model, "--output", out / "model", "--device", "cpu"],
        ("model/model.safetensors",),
    ),
    "export": (lambda model, data, index, out: [model, out / "bundle", "--engine", "torch"], ("bundle/bundle.json",)),
    "tune": (lambda model, data, index, out: [model, "--precision", "f32"], ()),
    "benchmark": (
        lambda model, data, index, out: [
            *(model, "--batch-sizes", 1, "--engines", "torch", "--repetitions", 1, "--warm-up", 0, "--threads", 1),
            *("--device", "cpu", "--output", out),
        ],
        ("results.json", "chart.png"),
    ),
}


class Failing(io.StringIO):
    """A stream to which nothing can be written."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, text: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


def test_all_commands_that_print_are_here() -> None:
    # `serve` prints nothing: its log is all it has, and that goes where errors go.
    assert {name.partition(" ")[0] for name in COMMANDS} == {*ALL} - {"serve"}


FULL = ("full", Failing(errno.ENOSPC), 2, "vit-hybrid: cannot write to standard output: No space left on device")
CLOSED = ("closed", None, 2, "vit-hybrid: cannot write to standard output: it is closed")
PIPE = ("pipe", Failing(errno.EPIPE), 141, None)
ENDS = [(name, FULL) for name in COMMANDS] + [(name, end) for name in ("classify", "explain") for end in (CLOSED, PIPE)]


@pytest.mark.parametrize(
    ("name", "stream", "status", "said"),
    [(name, *end[1:]) for name, end in ENDS],
    ids=[f"{name} {end[0]}" for name, end in ENDS],
)
def test_files_are_written_where_nothing_can_be_printed(
    name: str,
    stream: Failing | None,
    status: int,
    said: str | None,
    data: Path,
    index: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "benchmark":
        in_place(tiny_folder, tmp_path / "log.txt", monkeypatch)
    elif name == "tune":
        raced(tmp_path, monkeypatch)
    monkeypatch.setattr(streams, "standard_output", lambda: stream)
    out = tmp_path / "out"
    out.mkdir()
    given, files = COMMANDS[name]
    words = [*name.split()[:1], *map(str, given(tiny_folder, data, index, out))]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert [line for line in result.stderr.splitlines() if "cannot write" in line] == ([said] if said else [])
    missing = [file for file in files if not (out / file.format(model=tiny_folder.name)).stat().st_size]
    assert not missing


@pytest.mark.parametrize("name", [name for name, (_, files) in COMMANDS.items() if files])
def test_ctrl_c_at_the_last_moment_leaves_nothing_half_written(
    name: str, data: Path, index: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "benchmark":
        in_place(tiny_folder, tmp_path / "log.txt", monkeypatch)
    out = tmp_path / "out"
    out.mkdir()

    replace = Path.replace

    def press(self: Path, target: Any) -> None:
        if out in self.parents:
            raise KeyboardInterrupt
        replace(self, target)

    for method in ("replace", "rename"):
        monkeypatch.setattr(Path, method, press)
    given, files = COMMANDS[name]
    words = [*name.split()[:1], *map(str, given(tiny_folder, data, index, out))]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 130, result.output
    assert "Traceback" not in result.output
    left = [path for path in out.rglob("*") if not path.is_dir()]
    assert not [path for path in left if path.name.endswith(".partial")]
    # What is gone on with, or was whole before, stays.
    assert not {path.relative_to(out).as_posix() for path in left} & {file for file in files if "/" in file}


# Presses Ctrl-C as soon as a module is looked for.
PRESSING = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

class Pressing:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["PRESS_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Pressing())
from vit_hybrid.cli.main import main
sys.exit(main())
"""
# What each loads first of all that takes long.
LOADED = {
    "classify": "vit_hybrid.inference.predictor",
    "predict": "vit_hybrid.predict.job",
    "embed": "vit_hybrid.predict.job",
    "search": "vit_hybrid.search.index",
    "explain": "vit_hybrid.explain.explainer",
    "info": "vit_hybrid.model.complexity",
    "convert": "vit_hybrid.checkpoints.converting",
    "evaluate": "vit_hybrid.evaluate.sources",
    "calibrate": "vit_hybrid.checkpoints.calibrated",
    "train": "vit_hybrid.train.job",
    "probe": "vit_hybrid.data.reading",
    "export": "vit_hybrid.export",
    "serve": "vit_hybrid.serve.server",
    "tune": "vit_hybrid.engines.tuning",
    "benchmark": "vit_hybrid.benchmark.job",
}


@pytest.mark.parametrize("name", ALL)
def test_ctrl_c_while_a_command_is_loaded_ends_it_without_a_word(
    name: str, data: Path, index: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "vit-hybrid"
    script.write_text(PRESSING)
    words = [tiny_folder] if name == "serve" else COMMANDS[name][0](tiny_folder, data, index, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, script, name, *map(str, words)],
        env=fresh_process.environment(PRESS_AT=LOADED[name]),
        capture_output=True,
        text=True,
        timeout=fresh_process.TIME_LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_a_dry_run_found_is_printed_where_it_cannot_be_said_beside(data: Path, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m vit_hybrid train {data} --output {tmp_path / 'out'} --dry-run 2>/dev/full"
    done = subprocess.run(
        ["sh", "-c", command], env=fresh_process.environment(), capture_output=True, text=True, check=True
    )
    assert [line.split(" from ")[0] for line in done.stdout.splitlines()] == [
        "training on 12 pictures of 3 classes",
        "validating with 90 pictures of 3 classes",
    ]

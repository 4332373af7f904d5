"""The scripts in examples/ do what they say, from a folder of somebody's own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTO = EXAMPLES / "cat.jpg"


def run(script: str, *arguments: object, folder: Path) -> list[str]:
    """The lines that an example prints, run in `folder`."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Class folders of parts of the photo, in two classes that are easily told apart."""
    with Image.open(PHOTO) as photo:
        for label, (left, top) in {"face": (60, 40), "fur": (0, 150)}.items():
            (tmp_path / "pictures" / label).mkdir(parents=True)
            for shift in range(12):
                part = photo.crop((left + shift, top + shift, left + shift + 96, top + shift + 96))
                part.resize((64, 64)).save(tmp_path / "pictures" / label / f"{shift}.png")
    return tmp_path / "pictures"


def test_one_photo(tmp_path: Path) -> None:
    first, second = run("classify.py", PHOTO, "--top-k", 2, folder=tmp_path)
    assert "cat" in first
    assert float(first.split()[-1].rstrip("%")) >= float(second.split()[-1].rstrip("%"))


def test_fine_tuning(pictures: Path, tmp_path: Path) -> None:
    lines = run("fine_tune.py", pictures, "--output", tmp_path / "model", "--max-steps", 2, folder=tmp_path)
    assert lines[-1] == "it tells apart: face, fur"
    [score] = [line for line in lines if line.startswith("top-1")]
    said = float(score.split()[-1].rstrip("%"))
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert said == pytest.approx(100 * metrics["validation"]["top1"], abs=0.051)


def test_serving_and_asking(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    [line] = [
        line for line in run("serve_and_ask.py", PHOTO, "--port", port, folder=tmp_path) if line.startswith(str(PHOTO))
    ]
    predictions = json.loads(line.removeprefix(str(PHOTO)))
    assert len(predictions) == 3
    assert "cat" in predictions[0]["label"]


def test_embedding_and_searching(pictures: Path, tmp_path: Path) -> None:
    query = pictures / "face" / "3.png"
    lines = run("search.py", pictures, query, "--top-k", 3, folder=tmp_path)
    assert lines[0] == str(query)
    assert len(lines) == 4
    assert "3.png" in lines[1]  # a picture finds itself first
    assert (tmp_path / "vectors.parquet").is_dir()


@pytest.mark.parametrize(("method", "count"), [("relevance", 2), ("rollout", 1)])
def test_explaining(method: str, count: int, tmp_path: Path) -> None:
    lines = run("explain.py", PHOTO, "--method", method, folder=tmp_path)
    assert len(lines) == count
    for line in lines:
        with Image.open(tmp_path / line.split()[0]) as drawn, Image.open(PHOTO) as photo:
            assert drawn.size == photo.size

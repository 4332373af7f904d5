"""The examples that are scripts, as their docstrings say to run them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from made_index import made_pictures

pytest.importorskip("pyarrow")

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_search_embeds_once_and_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = made_pictures(tmp_path / "pictures", 5)
    index = tmp_path / "x.parquet"
    arguments = [tmp_path / "pictures", pictures[3], "absent.jpg", "--index", index, "--top-k", 2]
    monkeypatch.setattr(sys, "argv", ["search.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / "search.py"), run_name="__main__")
    [part] = index.glob("part-*")
    before = part.stat()
    runpy.run_path(str(EXAMPLES / "search.py"), run_name="__main__")
    assert part.stat() == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == lines[4:]
    assert lines[:2] == [str(pictures[3]), f"  1.000  {pictures[3]}"]
    assert lines[3] == "absent.jpg: no such file"
